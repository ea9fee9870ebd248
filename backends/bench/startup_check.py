"""`check_startup`: whether a bench is still the one that was calibrated, from its light.

Random elements are lit, the same ones on both modulators. Where the modulators have moved against
each other by a part of an element, half of that part of the light is lost in every slot; where the
detector has, markers and sums change apart. Every sum is compared with what calibration predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...instruments import Paused, UnexpectedIntensity
from ..optics.model import OpticalModel
from .tracking import ScaleTracker, chi_square_limit

Take = Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_SUMS = 16  # at least, over all shots
_WEIGHT = 0.5  # light of lit weights, of full
_TOLERANCE = 0.01  # of a sum's light, rms, that calibration may be off
_OF_LIGHT = (
    "stale",
    "unexpected-intensity",
    "drift-exceeded",
)  # kinds of faults that a moved bench has, too
_SIGMA = 4.75  # of a normal distribution: exceeded by chance once in a million openings


def check_startup(path: str, model: OpticalModel, tracker: ScaleTracker | None, take: Take) -> None:
    """Take a few shots of known random frames, and compare every slot with its prediction.

    Chi-square over all slots and shots, the variance of each being that of shot noise, read noise
    and one per cent of its light, or of the mean light where that is more. A bench as calibrated is
    refused less than once in a million openings (by Wilson's and Hilferty's approximation).

    Parameters
    ----------
    path : of the bench file, for messages
    tracker : of the light's drift; None where nothing is known of it
    take : shows input and weight levels of slots under a name; gives the electrons of each slot,
        and what calibration says they are

    Raises
    ------
    WrongLight : when the bench is not what was calibrated
    Paused : when a shot of it cannot be had
    """
    off, variance = [], []
    for number in range(-(-_SUMS // model.layout.slots)):
        try:
            found, expected = take(f"opening/{number}", *_frames(model, number))
        except Paused as error:
            if error.kind not in _OF_LIGHT:
                raise
            text = f"{error}; if the source is as it was, {_advice(path)}"
            raise Paused(text, error.kind, error.device, _advice(path)) from error
        noise = np.maximum(expected, 0) + model.layout.read_pixels() * model.read_variance
        light = np.maximum(expected, max(float(expected.mean()), 1.0))  # slots of few lit elements
        off.append((found - expected) / light)
        # all sums share its error, so its worst is to be no more than one standard deviation
        brightness = _SIGMA**2 * tracker.variance if tracker else 0.0
        variance.append(noise / light**2 + _TOLERANCE**2 + brightness)
    relative, spread = np.concatenate(off), np.concatenate(variance)
    chi_square, limit = float((relative**2 / spread).sum()), chi_square_limit(relative.size)
    if chi_square > limit:
        raise UnexpectedIntensity(
            f"the light of known frames is {np.sqrt(np.mean(relative**2)):.1%} (rms) off what "
            f"calibration says (chi-square {chi_square:.0f} of {relative.size} sums, at most "
            f"{limit:.0f} by chance): {_advice(path)}"
        )


def _advice(path: str) -> str:
    return (
        f"the bench has moved or changed since it was calibrated; run `lightloom align --bench "
        f"{path}` and `lightloom calibrate --bench {path}`"
    )


def _frames(model: OpticalModel, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return grey levels of inputs and of weights, with the same elements lit."""
    layout, curves = model.layout, model.curves
    chance = np.random.Generator(np.random.Philox(number))
    rows = 1 if layout.shares_input else layout.slots
    lit = chance.permuted(np.arange(rows * layout.length) % 2 == 0).reshape(rows, -1)
    inputs = curves["input"].levels(lit * layout.reference_light)
    shape = layout.slots, layout.length
    return inputs, curves["weight"].levels(np.broadcast_to(lit * _WEIGHT, shape))
