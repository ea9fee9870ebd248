"""`Calibrated`: the optical parameters of a bench, read from its calibration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...instruments import InputError
from ..optics import registration
from ..optics.calibration_file import Calibration, path_of
from ..optics.layouts import LAYOUTS, Layout
from ..optics.model import OpticalModel
from ..optics.parameters import Markers, Optics, Response
from .bench import Bench
from .binding import check_calibration
from .detector import DETECTORS
from .model_origin import ModelOrigin
from .tracking import ScaleTracker

WANTED = (
    "align",
    "additivity",
    "dark_frames",
    "photon_transfer",
    "response_curves",
    "flat_field",
)  # steps that every product needs
_BOTH = "align and calibrate again"
_HUGE = 1e15  # above every measured value, in all units used here


@dataclass(frozen=True)
class BenchShape:
    """The sizes of a bench on which the arrays of its calibration depend.

    Parameters
    ----------
    layout : name of the layout
    sensor_shape : of the detector, (height, width)
    levels : number of grey levels of each modulator, by role
    weight_shape : of the weight modulator, (height, width)
    samples : of each pixel, in one exposure
    exposure_s : of one shot
    """

    layout: str
    sensor_shape: tuple[int, int]
    levels: Mapping[str, int]
    weight_shape: tuple[int, int]
    samples: int
    exposure_s: float

    @classmethod
    def of(cls, bench: Bench) -> Self:
        """Return the sizes of a connected bench."""
        return cls(
            bench.file.layout,
            bench.detector.spec.sensor_shape,
            {role: 1 << each.bit_depth for role, each in bench.modulators.items()},
            bench.weight.shape,
            bench.detector.samples,
            bench.file.exposure_s,
        )

    @classmethod
    def of_binding(cls, binding: Mapping[str, Any]) -> Self:
        """Return the sizes that a calibration is bound to (`binding_of`)."""
        instruments, layout = binding["instruments"], binding["layout"]
        height, width = instruments["detector"].get("sensor_shape", (1, 1))
        rows, columns = instruments["weight"]["shape"]
        return cls(
            layout,
            (int(height), int(width)),
            {role: 1 << int(instruments[role]["bit_depth"]) for role in ("input", "weight")},
            (int(rows), int(columns)),
            DETECTORS[LAYOUTS[layout].detector_kind].samples,
            float(binding["exposure_s"]),
        )


@dataclass(frozen=True)
class Calibrated(ModelOrigin):
    """Reads the steps of a calibration.

    Parameters
    ----------
    calibration : with all steps that a run needs; during calibration, with the steps done so far
    """

    is_calibrated = True
    tolerance = 0.01

    calibration: Calibration

    def model(self, bench: Bench) -> OpticalModel:
        """Return the optical model of a connected bench, once it is the one that was calibrated."""
        check_calibration(bench, self.calibration, WANTED, bench.file.calibration_lasts_s)
        return super().model(bench)

    def optics(self, bench: Bench) -> Optics:
        """Return registration, response curves and detector; steps not done yet are nominal."""
        return self.optics_of(BenchShape.of(bench))

    def optics_of(self, shape: BenchShape) -> Optics:
        """Return the same for a bench of given sizes, which need not be connected."""
        has, sensor = self.calibration.steps, shape.sensor_shape
        tables = {
            role: self._array("response_curves", role, (count,))
            if "response_curves" in has
            else np.linspace(0, 1, count, dtype=np.float32)
            for role, count in shape.levels.items()
        }
        for role, table in tables.items():
            if not table.max() > table.min():
                raise self._refusal(f"the same light for all grey levels of the {role} modulator")
        dark, bad = np.zeros(sensor, np.float32), None
        if "dark_frames" in has:
            dark = self._array("dark_frames", "dark_counts", sensor)
            bad = self._array("dark_frames", "bad", sensor).astype(bool)
        gain = self.measured("photon_transfer", "gain_e_per_count", 1e-12, 1e12, 1.0)
        noise = self.measured("photon_transfer", "read_noise_e", 0.0, _HUGE, 0.0)
        rate = self.measured("dark_frames", "rate_counts_per_s", -_HUGE, _HUGE, 0.0)
        is_line = shape.layout == "line"
        camera_map = np.eye(2, 3)  # of a photodiode: not used
        if LAYOUTS[shape.layout].has_markers:
            camera_map = self._map("camera_map", shape, is_line)
        return Optics(
            tables=tables,
            input_map=self._map("input_map", shape),
            camera_map=camera_map,
            sensor_shape=sensor,
            dark_counts=dark,
            gain_e_per_count=gain,
            read_noise_e=noise * shape.samples**0.5,
            dark_e=max(rate * shape.exposure_s * gain, 0.0),
            bad=bad,
            spot_px=self.measured("align", "spot_px", 0.1, 1e4) if is_line else 5.0,
        )

    def _array(self, step: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of a shape, with plausible values; () allows any shape."""
        array = self.calibration.array(step, name)
        if shape and array.shape != shape:
            raise self._refusal(f"{name} of shape {array.shape}, but this bench needs {shape}")
        good = np.abs(array.astype(np.float64)) <= _HUGE
        if not good.all():
            wrong = np.asarray(array)[~good].flat[0]
            raise self._refusal(f"{wrong:g} in {name} of step {step}, which no measurement gives")
        return array

    def measured(
        self, step: str, name: str, least: float, most: float, otherwise: float | None = None
    ) -> float:
        """Return a figure of a step, which must be within the bounds of a measurement.

        Parameters
        ----------
        otherwise : the value where the step was not done; None refuses that
        """
        if otherwise is not None and step not in self.calibration.steps:
            return otherwise
        value = self.calibration.figure(step, name)
        if not least <= value <= most:
            raise self._refusal(
                f"{name} = {value:g} in step {step}, which no measurement gives (want {least:g} to "
                f"{most:g})"
            )
        return value

    def _map(self, name: str, shape: BenchShape, is_flat: bool = False) -> np.ndarray:
        """Return a map of points (see `registration`); a flat map has one direction only."""
        array = self._array("align", name, ())
        if array.ndim != 2 or array.shape[0] != 2 or array.shape[1] not in registration.TERMS:
            terms = ", ".join(f"(2, {count})" for count in registration.TERMS)
            raise self._refusal(
                f"{name} of shape {array.shape}, but a registration has one of {terms}", _BOTH
            )
        rows, columns = (np.array([0.25, 0.5, 0.75]) * size for size in shape.weight_shape)
        places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        slopes = registration.scales(array, places.reshape(-1, 2))
        signed = slopes[:, 0, 0] if is_flat else np.linalg.det(slopes)
        stretch = np.abs(signed)
        if (np.sign(signed) != np.sign(signed[0])).any():
            stretch = np.zeros(1)  # a fold: two points have the same image
        off = stretch[(stretch < 1e-4) | (stretch > 1e4)]
        if off.size:
            raise self._refusal(
                f"a {name} with a magnification of {off[0]:g}, which no alignment gives", _BOTH
            )
        return array

    def response(self, bench: Bench, layout: Layout) -> Response:
        """Return the response of the slots.

        Raises
        ------
        InputError : when it was measured with another layout
        """
        return self.response_of(layout)

    def response_of(self, layout: Layout) -> Response:
        """Return the same without the bench."""
        array = self._array
        pairs = array("flat_field", "pairs_e", ())
        slots = (layout.slots,)
        if pairs.shape != (layout.slots, layout.length):
            held = " of ".join(map(str, pairs.shape))
            raise InputError(
                f"the calibration holds slots and elements {held}, but the encoding in the bench "
                f"file gives {layout.slots} of {layout.length}: calibrate again"
            )
        inverse = None
        if "crosstalk" in self.calibration.steps and array("crosstalk", "inverse", ()).size:
            inverse = array("crosstalk", "inverse", slots * 2)
        return Response(
            pairs_e=pairs,
            input_leak=array("flat_field", "input_leak", slots),
            weight_leak=array("flat_field", "weight_leak", slots),
            offset_e=array("flat_field", "offset_e", slots),
            inverse=inverse,
            markers=self._markers(layout) if layout.has_markers else None,
        )

    def _markers(self, layout: Layout) -> Markers:
        def cells(name: str) -> dict[str, np.ndarray]:
            return {
                role: self._array("flat_field", f"marker_{name}_{role}", (count,))
                for role, count in layout.marker_cells.items()
            }

        found = Markers(cells("e"), cells("leak_e"), cells("dark_e"))
        for role, bright_e in found.e.items():
            if not bright_e.min() > 0:
                raise self._refusal(f"markers of {role} frames without light")
        return found

    def _refusal(self, what: str, way_out: str = "calibrate again") -> InputError:
        """Return the error of a calibration with something that no measurement gives."""
        return InputError(f"the calibration {self.calibration.path} has {what}: {way_out}")

    def tracker(self, bench: Bench, model: OpticalModel) -> ScaleTracker:
        """Return the brightness filter, with default values if the step "drift" was not done."""
        return self.fresh_tracker()

    def fresh_tracker(self) -> ScaleTracker:
        """Return the same without the bench."""
        shot_rms = self.measured("drift", "shot_rms", 0.0, 1.0, 0.01)
        return ScaleTracker(shot_rms, self.measured("drift", "walk_variance", 0.0, 1.0, 1e-6))

    def reference_every(self, layout: Layout) -> int:
        """Return the number of shots between two reference shots.

        Without markers, only references measure the brightness, so there are three times as many.
        """
        every = int(self.measured("drift", "reference_every", 1, _HUGE, 100))
        return every if layout.has_markers else max(every // 3, 1)

    def settling_s(self, role: str) -> float:
        """Return the settling time of a modulator after a frame change; 0 if not measured."""
        return self.measured("settling", f"{role}_wait_s", 0.0, 3600.0, 0.0)


def read_calibrated(bench: Bench) -> Calibrated:
    """Read the calibration that a bench file names, or the one beside it.

    Raises
    ------
    InputError : when there is none, or it cannot be used
    """
    path = path_of(bench.file.calibration, bench.path)
    if not path.exists():
        raise InputError(
            f"{bench.path}: the bench is not calibrated (no file {path}); run `lightloom align "
            f"--bench {bench.path}` and `lightloom calibrate --bench {bench.path}`, or run it "
            "on a guess with --uncalibrated"
        )
    return Calibrated(Calibration.read(path))
