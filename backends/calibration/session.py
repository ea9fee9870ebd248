"""`CalibrationSession`: what the steps of a calibration share while it is being made."""

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
from .probe import Probe
from .slots import Slots


@dataclass(frozen=True)
class Measured:
    """What one step found.

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
    """The bench, and what earlier steps found.

    Parameters
    ----------
    bench : open
    calibration : with the steps done so far
    tell : hears how far a step has come, in [0, 1]
    """

    def __init__(
        self, bench: Bench, calibration: Calibration, tell: Callable[[float], None] | None = None
    ) -> None:
        self.bench, self.calibration = bench, calibration
        self.tell = tell or (lambda share: None)
        self.probe = Probe(bench, "calibrate", bench.file.power_w)
        self.trust_settling()
        self._slots: Slots | None = None

    @property
    def exposure_s(self) -> float:
        """The exposure of runs."""
        return self.bench.file.exposure_s

    @property
    def is_bucket(self) -> bool:
        """Say whether the detector is one photodiode."""
        return self.probe.is_bucket

    def dark_counts(self, exposure_s: float) -> np.ndarray | float:
        """Return the detector's counts without light at an exposure."""
        array = self.calibration.array
        return array("dark_frames", "offset") + array("dark_frames", "rate") * np.float32(
            exposure_s
        )

    @property
    def bad(self) -> np.ndarray | None:
        """The pixels that are left out, bool [h, w]; None of a photodiode."""
        return None if self.is_bucket else self.calibration.array("dark_frames", "bad").astype(bool)

    @property
    def gain_e_per_count(self) -> float:
        """The detector's gain."""
        return self.calibration.figure("photon_transfer", "gain_e_per_count")

    @property
    def slots(self) -> Slots:
        """The slots, with markers learnt; made anew once curves are known."""
        if self._slots is None:
            known = Calibrated(self.calibration).optics(self.bench)
            noise_counts = known.read_noise_e / known.gain_e_per_count
            counting = replace(
                known, dark_counts=0.0, gain_e_per_count=1.0, read_noise_e=noise_counts, dark_e=0.0
            )
            array = self.calibration.array
            self._slots = Slots(
                self.probe,
                lay_out(self.bench, counting),
                array("dark_frames", "offset"),
                array("dark_frames", "rate"),
                noise_counts,
                known.gain_e_per_count,
            )
            layout = self._slots.layout
            if isinstance(layout, LineLayout):  # its spots fill a few columns of the camera
                self.probe.narrow(*layout.columns())
            self.probe.light(True)
            self._slots.learn_markers()
        return self._slots

    def trust_settling(self) -> None:
        """Wait as long as the step "settling" says, where it was done."""
        for role in ("input", "weight"):
            wait_s = Calibrated(self.calibration).settling_s(role)
            if wait_s:
                self.probe.wait_s[role] = wait_s

    def end(self) -> None:
        """Switch the light off, and leave the camera as it was found; never raises."""
        self.bench.make_safe()
        with suppress(InstrumentError):
            self.probe.widen()

    def renew_slots(self) -> None:
        """Lay the slots out anew when they are next needed."""
        self._slots = None
        self.probe.widen()
