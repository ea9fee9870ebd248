"""`RepeatedExposure`: takes exposures twice and compares them, to reject what disturbs the beam.

Also the first questions to a bench: is there light, and do the frames of both modulators change it?
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...instruments import UnexpectedIntensity
from .probe import Probe

Tell = Callable[[str, int, int], None]
_CELLS = 32  # along each side of an image, when two are compared
_ALIKE = 0.1  # rms difference of two takes over their rms, beyond noise, up to which they agree
_SCALE = 1.25  # factor between the light of two takes, up to which they agree
_BRIGHT, _PIXELS = 0.1, 0.3  # part of a full pixel; rms difference of pixels brighter than that
_TAKES = 6  # of one pair of frames, before it is given up
_CHANGED_SHARE, _CHANGED_LEAST = 0.12, 4  # exposures that may disagree, of all; and always
_ANSWER = 0.15  # of the light must change with a modulator's frame


class RepeatedExposure:
    """Takes exposures that agree with each other.

    Parameters
    ----------
    probe : shows and exposes
    tell : what, done, total: a progress bar
    expected_shots : for `tell`

    Attributes
    ----------
    changed : exposures that disagreed with their repeats and were dropped
    """

    def __init__(self, probe: Probe, tell: Tell | None = None, expected_shots: int = 60) -> None:
        self.probe, self.changed = probe, 0
        self._tell, self._expected = tell, expected_shots

    def say(self, what: str) -> None:
        """Tell how far it is."""
        if self._tell is not None:
            self._tell(what, min(self.probe.shots, self._expected), self._expected)

    def take(self, exposure_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Take two exposures of the frames shown that agree: counts [h, w] each.

        Raises
        ------
        WrongLight : when none agree, or too many did not
        """
        taken: list[np.ndarray] = []
        for _ in range(_TAKES):
            now = self.probe.take(exposure_s).counts
            for before in taken:
                if alike(before, now, self.probe.range):
                    self.drop(len(taken) - 1)
                    return before, now
            taken.append(now)
        self.drop(len(taken))
        raise UnexpectedIntensity(
            f"{_TAKES} exposures of the same frames are all different: keep hands and moving "
            "things out of the beam, and check that the source is steady"
        )

    def drop(self, count: int) -> None:
        """Count exposures that others contradict.

        Raises
        ------
        WrongLight : when they are too many
        """
        self.changed += count
        shots = self.probe.shots
        if self.changed > max(_CHANGED_LEAST, _CHANGED_SHARE * shots):
            raise UnexpectedIntensity(
                f"the light changes from shot to shot: {self.changed} of {shots} exposures "
                "contradict their repeats; keep hands and moving things out of the beam, and check "
                "that the source is steady"
            )


def alike(one: np.ndarray, other: np.ndarray, full: float) -> bool:
    """Say whether two exposures show the same light, up to noise and a steady source's drift.

    Parameters
    ----------
    full : counts of a full pixel
    """
    difference = one - other
    lit = one > _BRIGHT * full
    if lit.any() and np.sqrt(np.mean(difference[lit] ** 2)) > _PIXELS * one[lit].mean():
        return False  # shot noise is far below that where it is bright
    noise = 1.4826 * float(np.median(np.abs(difference - np.median(difference))))
    a, per_cell = _cells(one)
    b, _ = _cells(other)
    noise_cell = 5 * noise / np.sqrt(per_cell)
    size_a, size_b = np.sqrt(np.mean(a**2)), np.sqrt(np.mean(b**2))
    if max(size_a, size_b) <= noise_cell:
        return True
    scale = float((a * b).sum() / max((b * b).sum(), 1e-300))
    if not 1 / _SCALE < scale < _SCALE and abs(size_a - size_b) > noise_cell:
        return False
    left = float(np.sqrt(np.mean((a - scale * b) ** 2)))
    return left <= _ALIKE * float(size_a) + noise_cell


def _cells(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Average an image over cells; give the pixels of one too."""
    steps = [max(1, size // _CELLS) for size in image.shape]
    height, width = (size // step * step for size, step in zip(image.shape, steps, strict=True))
    cut = image[:height, :width]
    cells = cut.reshape(height // steps[0], steps[0], width // steps[1], steps[1])
    return cells.mean(axis=(1, 3)), float(np.prod(steps))


def check_answers(watch: RepeatedExposure, exposure_s: float) -> np.ndarray:
    """See that the frames of each modulator change the light, and the right way round.

    Returns
    -------
    bright : counts [h, w] with both modulators bright

    Raises
    ------
    WrongLight : naming the modulator and its driver
    """
    probe = watch.probe
    probe.fill()
    bright = np.mean(watch.take(exposure_s), axis=0)
    number = 1 + bright.size // 400  # of the brightest pixels: a line's spots are few
    base, top = float(np.percentile(bright, 1)), np.partition(bright, -number, axis=None)[-number]
    lit = bright >= (base + float(top)) / 2
    full = float(bright[lit].mean())
    shares = {}
    for role in ("input", "weight"):
        probe.fill()
        probe.blank(role)
        dark = np.mean(watch.take(exposure_s), axis=0)
        shares[role] = float(dark[lit].mean()) / full
    silent = [role for role, share in shares.items() if abs(1 - share) <= _ANSWER]
    if len(silent) == 2:
        raise UnexpectedIntensity(
            "light reaches the detector, but the frames of neither modulator change it: other "
            "light falls on the detector (a lamp, a reflection), or the beam goes past both "
            "modulators"
        )
    for role in silent:
        raise UnexpectedIntensity(
            f"{_named(probe, role)}: its frames change nothing (bright to dark keeps "
            f"{shares[role]:.0%} of the light); they go to another monitor, or the "
            "device is not in the beam"
        )
    for role, share in shares.items():
        if share > 1:
            raise UnexpectedIntensity(
                f"{_named(probe, role)} is inverted: its dark frame gives {share:.3g} times the "
                "light of its bright frame; turn its polariser by 90 degrees, or swap the ends of "
                "its grey-level curve"
            )
    probe.fill()
    return bright


def _named(probe: Probe, role: str) -> str:
    modulator = probe.bench.instruments[role]
    return f"the {role} modulator ({modulator.driver or type(modulator).__name__})"
