"""`RepeatedExposure`: takes exposures twice, compares them and rejects those that disagree.

`check_modulation` checks that the frames of both modulators change the light.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...instruments import UnexpectedIntensity
from .fits import in_cells, robust_deviation
from .probe import Probe, all_differ, first_agreeing

Progress = Callable[[str, int, int], None]
_CELLS = 32  # along each side of an image, when two are compared
_AGREE = 0.1  # rms difference of two exposures over their rms, beyond noise, at most
_SCALE = 1.25  # factor between the light of two exposures that agree, at most
_BRIGHT, _PIXELS = 0.1, 0.3  # fraction of a full pixel; rms difference of brighter pixels
_TAKES = 6  # exposures of one pair of frames, at most
_REJECTED_SHARE, _REJECTED_LEAST = 0.12, 4  # fraction and number that may be rejected
_LEAST_MODULATION = 0.15  # fraction of the light that each modulator's frames must change


class RepeatedExposure:
    """Takes exposures that agree with each other.

    Parameters
    ----------
    probe : shows and exposes
    progress : called with the action, the shots done and the shots expected
    expected_shots : total that `progress` gets

    Attributes
    ----------
    rejected : exposures that disagreed with their repeats
    """

    def __init__(
        self, probe: Probe, progress: Progress | None = None, expected_shots: int = 60
    ) -> None:
        self.probe, self.rejected = probe, 0
        self._progress, self._expected = progress, expected_shots

    def report(self, what: str) -> None:
        """Report the current action and the progress."""
        if self._progress is not None:
            self._progress(what, min(self.probe.shots, self._expected), self._expected)

    def take(self, exposure_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Take two exposures of the shown frames that agree: counts [h, w] each.

        Raises
        ------
        UnexpectedIntensity : when no two agree, or too many were rejected
        """
        taken = (self.probe.take(exposure_s).counts for _ in range(_TAKES))
        pair, others = first_agreeing(taken, self._agree)
        self.reject(others)
        if pair is None:
            raise all_differ(others)
        return pair

    def _agree(self, one: np.ndarray, other: np.ndarray) -> bool:
        return agree(one, other, self.probe.range)

    def reject(self, count: int) -> None:
        """Count exposures that disagree with their repeats.

        Raises
        ------
        UnexpectedIntensity : when too many were rejected
        """
        self.rejected += count
        shots = self.probe.shots
        if self.rejected > max(_REJECTED_LEAST, _REJECTED_SHARE * shots):
            raise UnexpectedIntensity(
                f"the light changes from shot to shot: {self.rejected} of {shots} exposures "
                "disagree with their repeats; keep hands and moving objects out of the beam, and "
                "check that the source is stable"
            )


def agree(one: np.ndarray, other: np.ndarray, full: float) -> bool:
    """Return whether two exposures show the same light, up to noise and a stable source's drift.

    Parameters
    ----------
    full : counts of a full pixel
    """
    difference = one - other
    lit = one > _BRIGHT * full
    if lit.any() and np.sqrt(np.mean(difference[lit] ** 2)) > _PIXELS * one[lit].mean():
        return False  # the shot noise of bright pixels is far below that
    height, width = (max(1, size // _CELLS) for size in one.shape)
    a, b = (in_cells(image, (height, width)).mean(axis=(1, 3)) for image in (one, other))
    noise_cell = 5 * robust_deviation(difference) / np.sqrt(float(height * width))
    size_a, size_b = np.sqrt(np.mean(a**2)), np.sqrt(np.mean(b**2))
    if max(size_a, size_b) <= noise_cell:
        return True
    scale = float((a * b).sum() / max((b * b).sum(), 1e-300))
    if not 1 / _SCALE < scale < _SCALE and abs(size_a - size_b) > noise_cell:
        return False
    residual = float(np.sqrt(np.mean((a - scale * b) ** 2)))
    return residual <= _AGREE * float(size_a) + noise_cell


def check_modulation(exposures: RepeatedExposure, exposure_s: float) -> np.ndarray:
    """Check that the frames of each modulator change the light in the right direction.

    Returns
    -------
    bright : counts [h, w] with both modulators bright

    Raises
    ------
    UnexpectedIntensity : naming the modulator and its driver
    """
    probe = exposures.probe
    probe.fill()
    bright = np.mean(exposures.take(exposure_s), axis=0)
    number = 1 + bright.size // 400  # of the brightest pixels: a line's spots are few
    base, top = float(np.percentile(bright, 1)), np.partition(bright, -number, axis=None)[-number]
    lit = bright >= (base + float(top)) / 2
    full = float(bright[lit].mean())
    passed = {}
    for role in ("input", "weight"):
        probe.fill()
        probe.blank(role)
        dark = np.mean(exposures.take(exposure_s), axis=0)
        passed[role] = float(dark[lit].mean()) / full
    silent = [role for role, fraction in passed.items() if abs(1 - fraction) <= _LEAST_MODULATION]
    if len(silent) == 2:
        raise UnexpectedIntensity(
            "light reaches the detector, but the frames of neither modulator change it: stray "
            "light falls on the detector (a lamp, a reflection), or the beam misses both "
            "modulators; shield the detector and check the beam"
        )
    for role in silent:
        raise UnexpectedIntensity(
            f"{_named(probe, role)} does not change the light: its dark frame passes "
            f"{passed[role]:.0%} of the light of its bright frame; check that its frames go to the "
            "right monitor, and that the device is in the beam"
        )
    for role, fraction in passed.items():
        if fraction > 1:
            raise UnexpectedIntensity(
                f"{_named(probe, role)} is inverted: its dark frame passes {fraction:.3g} times "
                "the light of its bright frame; turn its polariser by 90 degrees, or swap the "
                "ends of its response curve"
            )
    probe.fill()
    return bright


def _named(probe: Probe, role: str) -> str:
    modulator = probe.bench.instruments[role]
    return f"the {role} modulator ({modulator.driver or type(modulator).__name__})"
