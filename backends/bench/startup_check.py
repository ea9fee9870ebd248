"""`check_startup`: check by its light that a bench is still as it was calibrated.

`with_guessed_brightness` measures the mean brightness of a bench that was not calibrated.

The check lights random elements, the same ones on both modulators. If the modulators have moved
against each other by a fraction of an element, every slot loses half that fraction of its light. If
the detector has moved, markers and sums change differently. Every sum is compared with its
prediction from the calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...instruments import Paused, UnexpectedIntensity
from ..optics.model import OpticalModel
from .tracking import MILLION, ScaleTracker, chi_square_limit

Take = Callable[[str, np.ndarray, np.ndarray], np.ndarray]

_SUMS = 16  # least number of slot sums, over all shots
_WEIGHT = 0.5  # normalised intensity of lit weights
_TOLERANCE = 0.01  # error of the calibration, rms, relative to the light of a slot
# kinds of faults that a moved bench also causes
_INTENSITY_KINDS = ("stale", "unexpected-intensity", "drift-exceeded")


def check_startup(path: str, model: OpticalModel, tracker: ScaleTracker | None, take: Take) -> None:
    """Take a few shots of known random frames, and compare every slot with its prediction.

    The test is chi-square over all slots and shots. The variance of each is that of shot noise,
    read noise and one per cent of its light, or of the mean light if that is more. An unchanged
    bench is refused less than once in a million openings (by the approximation of Wilson and
    Hilferty).

    Parameters
    ----------
    path : of the bench file, for messages
    tracker : brightness filter; None without one
    take : takes a shot of a name, input levels and weight levels; returns the electrons [slots]

    Raises
    ------
    UnexpectedIntensity : when the bench differs from its calibration
    Paused : when a shot fails
    """
    off, variance = [], []
    for number in range(-(-_SUMS // model.layout.slots)):
        frames = _frames(model, number)
        try:
            found = take(f"opening/{number}", *frames)
        except Paused as error:
            if error.kind not in _INTENSITY_KINDS:
                raise
            text = f"{error}; if the source has not changed, {_advice(path)}"
            raise Paused(text, error.kind, error.device, _advice(path)) from error
        expected = model.passed_e(*frames)
        noise = np.maximum(expected, 0) + model.layout.read_pixels() * model.read_variance
        light = np.maximum(expected, max(float(expected.mean()), 1.0))  # slots of few lit elements
        off.append((found - expected) / light)
        # all sums share this error, so its worst case counts as one standard deviation
        brightness = MILLION**2 * tracker.variance if tracker else 0.0
        variance.append(noise / light**2 + _TOLERANCE**2 + brightness)
    relative, spread = np.concatenate(off), np.concatenate(variance)
    chi_square, limit = float((relative**2 / spread).sum()), chi_square_limit(relative.size)
    if chi_square > limit:
        raise UnexpectedIntensity(
            f"the light of known frames is {np.sqrt(np.mean(relative**2)):.1%} (rms) off the "
            f"calibration (chi-square {chi_square:.0f} of {relative.size} sums, at most "
            f"{limit:.0f} by chance): {_advice(path)}"
        )


def with_guessed_brightness(model: OpticalModel, take: Take) -> OpticalModel:
    """Take one shot of a uniform frame pair, and assume that all slots are equally bright."""
    layout = model.layout
    light = layout.reference_light / 2  # the brightness is unknown yet
    inputs, weights = (model.uniform_levels(role, light) for role in ("input", "weight"))
    per_pair = max(float(take("guess", inputs, weights).mean()) / (layout.length * light**2), 1e-3)
    pairs = np.full((layout.slots, layout.length), per_pair)
    return replace(model, response=replace(model.response, pairs_e=pairs))


def _advice(path: str) -> str:
    return (
        f"the bench has moved or changed since it was calibrated; run `lightloom align --bench "
        f"{path}` and `lightloom calibrate --bench {path}`"
    )


def _frames(model: OpticalModel, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return grey levels of inputs and of weights, with the same elements lit."""
    layout, curves = model.layout, model.curves
    chance = np.random.Generator(np.random.Philox(number))
    rows = layout.rows_of("input")
    lit = chance.permuted(np.arange(rows * layout.length) % 2 == 0).reshape(rows, -1)
    inputs = curves["input"].levels(lit * layout.reference_light)
    shape = layout.slots, layout.length
    return inputs, curves["weight"].levels(np.broadcast_to(lit * _WEIGHT, shape))
