"""Flat field: the electrons that every element of every slot brings, and what leaks into slots.

One element of each slot is lit after another, in all slots at once, on both modulators, with an
exposure that makes the most of the detector's wells. What remains with one modulator dark, or both,
is what darkest levels and their surroundings leak.
"""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit
from ...optics.calibration_file import Figure, Plot
from ..session import CalibrationSession, Measured
from ..slots import sparse

_GOAL = 4.2e-3  # standard error of an element's gain, in the mean
_MOST_ROUNDS = 6
_LONGER = 20.0  # exposures of dark modulators, over those of bright ones, at most
_LEAK_ROUNDS = 8
_FAR = 4.5  # robust standard deviations, beyond which a gain is no typical one
_FEW = 8  # slots, or elements of each, below which gains stay as they were measured
_DEAD = 0.25  # of what its pixels should pass, below which an element is dead
_MOST_DEAD = 1e-3  # share of the elements


def flat_field(work: CalibrationSession) -> Measured:
    """Measure gains of elements and leaks of slots.

    Raises
    ------
    BadFit : where slots or elements are dark
    """
    slots = work.slots
    input_leak, weight_leak, unlit, errors = _leaks(work)
    gains, error = _raster(work, unlit)
    # one element bright on both modulators, over all dark: pairs (1 + leaks of both)
    pairs = gains / (1 + input_leak + weight_leak)[:, None]
    offset = unlit - input_leak * weight_leak * pairs.sum(axis=1)
    to_run = work.gain_e_per_count * work.exposure_s
    if "crosstalk" in work.calibration.steps:
        inverse = work.calibration.array("crosstalk", "inverse").astype(float)
        if inverse.size:
            pairs, offset = inverse @ pairs, inverse @ offset
    markers = slots.markers
    arrays = {
        "pairs_e": (pairs * to_run).astype(np.float32),
        "input_leak": input_leak,
        "weight_leak": weight_leak,
        "offset_e": offset * to_run,
    }
    for name in ("marker_e", "marker_leak_e", "marker_dark_e"):
        for role, rate in (getattr(markers, name) or {}).items():
            arrays[f"{name}_{role}"] = rate * to_run
    per_slot = pairs.mean(axis=1) * to_run
    arrays["slot_gains"] = _picture(work, per_slot / per_slot.mean())
    spread = float((pairs / pairs.mean(axis=1, keepdims=True)).std())
    figures = (
        Figure("photons_full_scale", float(per_slot.mean()), None, "e", "of an element pair"),
        Figure("slot_gain_rms", float((per_slot / per_slot.mean()).std()), error, ""),
        Figure("element_gain_rms", spread, error, ""),
        Figure("gain_error", error, None, "", "standard error of an element's gain"),
        Figure("input_leak", float(input_leak.mean()), errors[0], ""),
        Figure(
            "weight_leak", float(weight_leak.mean()), errors[1], "", "with elements' surroundings"
        ),
    )
    plots = (
        Plot("Gain of slots, over their mean", "image", "slot_gains"),
        Plot("Gain of elements, over their slot's mean", "histogram", "element_gains"),
    )
    sample = (pairs / pairs.mean(axis=1, keepdims=True)).ravel()
    arrays["element_gains"] = sample[:: max(sample.size // 5000, 1)].astype(np.float32)
    return Measured(figures, arrays, plots)


def _raster(work: CalibrationSession, unlit: np.ndarray) -> tuple[np.ndarray, float]:
    """Light element after element, on both modulators: light above darkness, and its error.

    The inputs of the others stay dark, so that nothing leaks that the gain would have to stand
    out from.
    """
    slots, layout = work.slots, work.slots.layout
    index = np.arange(layout.length)
    should = layout.element_sums(np.ones(work.bench.weight.shape))
    brightest = index == int(should.max(axis=0).argmax())  # else a larger element would be full
    exposure_s = slots.find_exposure(
        slots.pattern("input", brightest), slots.pattern("weight", brightest)
    )
    if work.is_bucket:  # whose source noise no longer exposure makes smaller
        exposure_s = min(exposure_s, _LONGER * work.exposure_s)
    total = np.zeros((layout.slots, layout.length))
    variance = np.zeros_like(total)
    error, rounds = np.inf, 0
    while rounds < _MOST_ROUNDS and error > _GOAL:
        for k in index:
            lit = index == k
            reading = slots.read(
                slots.pattern("input", lit), slots.pattern("weight", lit), exposure_s
            )
            total[:, k] += reading.rate
            variance[:, k] += reading.variance
            work.tell((rounds + (k + 1) / layout.length) / _MOST_ROUNDS)
        rounds += 1
        gains = total / rounds - unlit[:, None]
        _refuse_dead(work, gains)
        likely, error = _likely(gains, variance / rounds**2, should)
    return likely, error


def _likely(
    gains: np.ndarray, variance: np.ndarray, should: np.ndarray
) -> tuple[np.ndarray, float]:
    """Draw gains towards those of their slot and of their place in it, as far as noise asks for it.

    The gains of elements spread about the product of both; how far, the measurements say
    themselves. The mean of that distribution and of a measurement, each weighted with its
    precision, is nearer to the truth than either (Wiener's filter, a ridge regression). What lies
    far beyond the spread, such as an element with a dead pixel, is left as it was measured.

    Parameters
    ----------
    should : light of elements if all pixels were alike, [slots, length]

    Returns
    -------
    gains : [slots, length]
    error : standard error of a gain, relative, in the mean
    """
    relative = gains / should
    mean = relative.mean()
    if min(gains.shape) < _FEW:  # too few for a slot or a place to have an own mean
        return gains, float(np.sqrt(np.mean(variance)) / gains.mean())
    usual = relative.mean(axis=1, keepdims=True) * relative.mean(axis=0, keepdims=True) / mean
    off, noise = relative / usual - 1, variance / (should * usual) ** 2
    typical = np.abs(off) < _FAR * 1.4826 * np.median(np.abs(off))
    spread = max(float(np.mean(off[typical] ** 2) - np.mean(noise[typical])), 1e-12)
    drawn = np.where(typical, off * spread / (spread + noise), off)
    error = np.where(typical, spread * noise / (spread + noise), noise)
    return usual * (1 + drawn) * should, float(np.sqrt(np.mean(error)))


def _refuse_dead(work: CalibrationSession, gains: np.ndarray) -> None:
    """Refuse slots and elements that stay dark, and say which."""
    layout = work.slots.layout
    should = layout.element_sums(np.ones(work.bench.weight.shape))
    relative = gains / should
    middle = float(np.median(relative))
    dead = relative < _DEAD * middle
    rows = np.nonzero(dead.mean(axis=1) > 0.5)[0]
    if len(rows):
        slots = np.where(layout.elements >= 0, layout.elements // layout.length, -1)
        on = np.nonzero(np.isin(slots, rows))[0]
        raise BadFit(
            f"{len(rows)} of {layout.slots} slots stay dark (first: slot {rows[0]}, rows "
            f"{on.min()} to {on.max()} of the weight modulator): a dead row, dirt, or something in "
            "the beam"
        )
    if dead.mean() > _MOST_DEAD or (dead.any() and dead.sum(axis=1).max() > 1):
        slot, element = np.argwhere(dead)[0]
        raise BadFit(
            f"{int(dead.sum())} of {dead.size} elements pass less than {_DEAD:.0%} of the light "
            f"that others do (first: element {element} of slot {slot}): dead pixels or dirt on a "
            "modulator, or a bench that moved since it was aligned"
        )


def _leaks(
    work: CalibrationSession,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Return the leaks of dark inputs and of dark weights, and the light with both dark.

    A leak is the light of one dark modulator over that of both bright, above darkness. A few
    elements are lit for it, and the surroundings of all of them leak too.

    Returns
    -------
    input_leak, weight_leak : float64 [slots]
    unlit : rate with both dark, float64 [slots]
    errors : of both leaks, in the mean over slots
    """
    slots, layout = work.slots, work.slots.layout
    lit = sparse(layout)
    weights, none = slots.pattern("weight", lit), slots.pattern("weight", False)
    bright, dark = slots.pattern("input", True), slots.pattern("input", False)
    bright_s = slots.find_exposure(bright, weights)
    longest_s = min(_LONGER * bright_s, work.probe.longest_s)
    sums = {}
    for name, inputs, pattern, most_s in (
        ("bright", bright, weights, bright_s),
        ("dark weights", bright, none, longest_s),
        ("dark inputs", dark, weights, longest_s),
        ("dark", dark, none, longest_s),
    ):
        exposure_s = bright_s if name == "bright" else slots.find_exposure(inputs, pattern, True)
        sums[name] = slots.read(inputs, pattern, min(exposure_s, most_s), _LEAK_ROUNDS)
    rate = {name: reading.rate for name, reading in sums.items()}
    noise = {name: reading.variance for name, reading in sums.items()}
    unlit = rate["dark"]
    light = rate["bright"] - rate["dark weights"] - rate["dark inputs"] + unlit
    # alike in all slots but for noise, which a single number averages away
    input_leak = float((rate["dark inputs"] - unlit).sum() / light.sum())
    share = lit.mean()  # of the elements whose light it is; all of them leak
    weight_leak = (rate["dark weights"] - unlit) * share / light
    errors = [
        float(np.sqrt((noise[name] + noise["dark"]).sum()) / light.sum())
        for name in ("dark inputs", "dark weights")
    ]
    return (
        np.full(layout.slots, max(input_leak, 0.0)),
        np.maximum(weight_leak, 0.0),
        unlit,
        (errors[0], errors[1] * float(share)),
    )


def _picture(work: CalibrationSession, values: np.ndarray) -> np.ndarray:
    """Lay values of slots out as they lie."""
    grid = getattr(work.slots.layout, "grid", (len(values), 1))
    return values.reshape(grid).astype(np.float32)
