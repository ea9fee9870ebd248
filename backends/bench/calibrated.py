"""What a calibration file says of a bench, in the terms in which the bench multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...instruments import InputError, SpatialLightModulator
from .bench import WINDOW_SAMPLES, Bench
from .calibration import Calibration, path_of
from .layouts import Layout, Optics, Response
from .tracking import ScaleTracker

WANTED = ("align", "additivity", "dark", "detector", "curves", "flat")  # no product without these
_ROLES = ("input", "weight")


@dataclass(frozen=True)
class Calibrated:
    """Reads steps of a calibration.

    Parameters
    ----------
    calibration : with all steps that a run needs, or, while it is being made, those there are
    """

    calibration: Calibration

    def optics(self, bench: Bench) -> Optics:
        """Give registration, curves and detector; what is not measured yet is nominal."""
        has = self.calibration.steps
        array = self.calibration.array
        is_bucket = bench.file.layout == "block"
        sensor = (1, 1) if is_bucket else bench.camera.sensor_shape
        tables = {
            role: array("curves", role) if "curves" in has else _straight(bench, role)
            for role in _ROLES
        }
        for role, table in tables.items():
            self._check_shape(f"curves of {role}", table, (1 << _modulator(bench, role).bit_depth,))
        maps = ["input_map"] if is_bucket else ["input_map", "camera_map"]
        for name in maps:
            self._check_shape(name, array("align", name), (2, 3))
        dark = array("dark", "dark_counts") if "dark" in has else np.zeros(sensor, np.float32)
        if not is_bucket:
            self._check_shape("dark_counts", dark, sensor)
        bad = array("dark", "bad").astype(bool) if "dark" in has else None
        figure = self.calibration.figure
        gain, noise, dark_e = 1.0, 0.0, 0.0
        if "detector" in has:
            gain = figure("detector", "gain_e_per_count")
            noise = figure("detector", "read_noise_e")
            dark_e = figure("dark", "rate_counts_per_s") * bench.file.exposure_s * gain
        spot = figure("align", "spot_px") if bench.file.layout == "line" else 5.0
        return Optics(
            tables=tables,
            input_map=array("align", "input_map"),
            camera_map=np.eye(2, 3) if is_bucket else array("align", "camera_map"),
            sensor_shape=sensor,
            dark_counts=float(dark.sum()) if is_bucket else dark,
            gain_e_per_count=gain,
            read_noise_e=noise * (WINDOW_SAMPLES**0.5 if is_bucket else 1.0),
            dark_e=max(dark_e, 0.0),
            bad=None if is_bucket else bad,
            spot_px=spot,
        )

    def _check_shape(self, what: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise InputError(
                f"the calibration {self.calibration.path} has {what} of shape {array.shape}, this "
                f"bench wants {shape}: calibrate again"
            )

    def response(self, layout: Layout) -> Response:
        """Give what the slots answer.

        Raises
        ------
        InputError : when they were measured with another layout
        """
        array = self.calibration.array
        pairs = array("flat", "pairs_e")
        if pairs.shape != (layout.slots, layout.length):
            raise InputError(
                f"the calibration holds {pairs.shape[0]} slots of {pairs.shape[1]} elements, the "
                f"bench file's encoding gives {layout.slots} of {layout.length}: calibrate again"
            )
        markers = layout.name != "block"
        inverse = None
        if "crosstalk" in self.calibration.steps:
            inverse = array("crosstalk", "inverse")
        return Response(
            pairs_e=pairs,
            input_leak=array("flat", "input_leak"),
            weight_leak=array("flat", "weight_leak"),
            offset_e=array("flat", "offset_e"),
            inverse=inverse if inverse is not None and inverse.size else None,
            marker_e=self._markers("marker_e") if markers else None,
            marker_leak_e=self._markers("marker_leak_e") if markers else None,
            marker_dark_e=self._markers("marker_dark_e") if markers else None,
        )

    def _markers(self, what: str) -> dict[str, np.ndarray]:
        return {role: self.calibration.array("flat", f"{what}_{role}") for role in _ROLES}

    def tracker(self) -> ScaleTracker:
        """Give the filter that follows the light; without the step "drift" it assumes nothing."""
        if "drift" not in self.calibration.steps:
            return ScaleTracker(shot_rms=0.01, walk_variance=1e-6)
        figure = self.calibration.figure
        return ScaleTracker(figure("drift", "shot_rms"), figure("drift", "walk_variance"))

    @property
    def reference_every(self) -> int:
        """Give the shots between two reference shots."""
        if "drift" not in self.calibration.steps:
            return 100
        return int(self.calibration.figure("drift", "reference_every"))

    def settling_s(self, role: str) -> float:
        """Give how long a modulator takes to settle after its flip; 0 where nobody measured it."""
        if "settling" not in self.calibration.steps:
            return 0.0
        return self.calibration.figure("settling", f"{role}_wait_s")


def read_calibrated(bench: Bench) -> Calibrated:
    """Read the calibration that a bench file names, or the one beside it.

    Raises
    ------
    InputError : where there is none, or it cannot be used
    """
    path = path_of(bench.file.calibration, bench.path)
    if not path.exists():
        raise InputError(
            f"{bench.path}: the bench is not calibrated (no file {path}); run `lightloom align "
            f"--bench {bench.path}` and `lightloom calibrate --bench {bench.path}`, or insist on a "
            "guess with --uncalibrated"
        )
    return Calibrated(Calibration.read(path))


def _modulator(bench: Bench, role: str) -> SpatialLightModulator:
    return bench.input if role == "input" else bench.weight


def _straight(bench: Bench, role: str) -> np.ndarray:
    return np.linspace(0, 1, 1 << _modulator(bench, role).bit_depth, dtype=np.float32)
