"""`CalibrationSession`: what the steps of a calibration share while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from ...instruments import InstrumentError
from ..bench.bench import Bench, lay_out
from ..bench.calibrated_optics import Calibrated
from ..optics.calibration_file import Calibration, Figure, Plot
from ..optics.layouts import LineLayout
from .probe import make_probe
from .slots import Slots


@dataclass(frozen=True)
class Measured:
    """The results of one step.

    Parameters
    ----------
    figures : numbers with uncertainties
    arrays : curves and maps, by name
    plots : of those arrays
    notes : sentences for the operator
    """

    figures: tuple[Figure, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()


class CalibrationSession:
    """The bench, and the results of earlier steps.

    Parameters
    ----------
    bench : open
    calibration : with the steps done so far

    Attributes
    ----------
    progress : called with the progress of a step, in [0, 1]
    """

    def __init__(self, bench: Bench, calibration: Calibration) -> None:
        self.bench, self.calibration = bench, calibration
        self.progress: Callable[[float], None] = lambda fraction: None
        self.probe = make_probe(bench, "calibrate", bench.file.power_w)
        self.trust_settling()
        self._slots: Slots | None = None

    def dark_counts(self, exposure_s: float) -> np.ndarray:
        """Return the detector's counts without light at an exposure, float32 [h, w]."""
        array = self.calibration.array
        rate = array("dark_frames", "rate")
        return array("dark_frames", "offset") + rate * np.float32(exposure_s)

    @property
    def bad(self) -> np.ndarray:
        """The pixels that are left out, bool [h, w]."""
        return self.calibration.array("dark_frames", "bad").astype(bool)

    @property
    def slots(self) -> Slots:
        """The slots with calibrated markers; laid out again once the response curves are known."""
        if self._slots is None:
            optics = Calibrated(self.calibration).optics(self.bench)
            noise_counts = optics.read_noise_e / optics.gain_e_per_count
            counting = replace(
                optics, dark_counts=0.0, gain_e_per_count=1.0, read_noise_e=noise_counts, dark_e=0.0
            )
            layout = lay_out(self.bench, counting)
            gain = optics.gain_e_per_count
            self._slots = Slots(self.probe, layout, self.dark_counts, noise_counts, gain)
            if isinstance(layout, LineLayout):  # its spots fill a few columns of the camera
                self.probe.narrow(*layout.columns())
            self.probe.light(True)
            self._slots.calibrate_markers()
        return self._slots

    def trust_settling(self) -> None:
        """Use the measured settling times, if the step "settling" was done."""
        for role in ("input", "weight"):
            settling_s = Calibrated(self.calibration).settling_s(role)
            if settling_s:
                self.probe.settling_s[role] = settling_s

    def end(self) -> None:
        """Switch the light off and restore the camera's region; never raises."""
        self.bench.make_safe()
        with suppress(InstrumentError):
            self.probe.widen()

    def renew_slots(self) -> None:
        """Discard the slots; they are laid out again when they are next needed."""
        self._slots = None
        self.probe.widen()
