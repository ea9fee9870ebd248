"""Flat field: the electrons of every element of every slot, and the leaks of slots.

The elements of a slot are lit one after another on both modulators, in all slots at once, with an
exposure that uses the detector's full well. The light with one or both modulators dark is the leak
of the darkest levels and their surroundings.
"""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit
from ...optics.calibration_file import Figure, Plot
from ...optics.layouts import Layout
from ..session import CalibrationSession, Measured
from ..slots import sparse

_GOAL = 4.2e-3  # mean standard error of an element's gain
_MOST_ROUNDS = 6
_LONGER = 20.0  # exposure of dark modulators over that of bright ones, at most
_LEAK_ROUNDS = 8
_FAR = 4.5  # robust standard deviations beyond which a gain is an outlier
_FEW = 8  # slots, or elements of each, below which gains are not shrunk
_DEAD = 0.25  # of the expected light, below which an element is dead
_MOST_DEAD = 1e-3  # fraction of the elements


def flat_field(session: CalibrationSession) -> Measured:
    """Measure gains of elements and leaks of slots.

    Raises
    ------
    BadFit : where slots or elements are dark
    """
    slots = session.slots
    input_leak, weight_leak, unlit, errors = _leaks(session)
    gains, error = _raster(session, unlit)
    # one element bright on both modulators, over all dark: pairs (1 + leaks of both)
    pairs = gains / (1 + input_leak + weight_leak)[:, None]
    offset = unlit - input_leak * weight_leak * pairs.sum(axis=1)
    gain = session.calibration.figure("photon_transfer", "gain_e_per_count")
    to_run = gain * session.bench.file.exposure_s
    if "crosstalk" in session.calibration.steps:
        inverse = session.calibration.array("crosstalk", "inverse").astype(float)
        if inverse.size:
            pairs, offset = inverse @ pairs, inverse @ offset
    arrays = {
        "pairs_e": (pairs * to_run).astype(np.float32),
        "input_leak": input_leak,
        "weight_leak": weight_leak,
        "offset_e": offset * to_run,
    }
    if slots.markers is not None:
        for name, by_role in vars(slots.markers.times(to_run)).items():
            arrays |= {f"marker_{name}_{role}": cells for role, cells in by_role.items()}
    per_slot = pairs.mean(axis=1) * to_run
    slot_gains = (per_slot / per_slot.mean()).astype(np.float32)
    arrays["slot_gains"] = slot_gains.reshape(slots.layout.grid)
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


def _raster(session: CalibrationSession, unlit: np.ndarray) -> tuple[np.ndarray, float]:
    """Light one element after another on both modulators; return their light and its error.

    The inputs of the others stay dark, so that their leak does not hide the gain.
    """
    slots, layout = session.slots, session.slots.layout
    index = np.arange(layout.length)
    expected = layout.element_sums(np.ones(session.bench.weight.shape))
    brightest = index == int(expected.max(axis=0).argmax())  # a larger element would be full
    exposure_s = slots.find_exposure(
        slots.pattern("input", brightest), slots.pattern("weight", brightest)
    )
    if not layout.has_markers:  # a longer exposure does not reduce the source's noise
        exposure_s = min(exposure_s, _LONGER * session.bench.file.exposure_s)
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
            session.progress((rounds + (k + 1) / layout.length) / _MOST_ROUNDS)
        rounds += 1
        gains = total / rounds - unlit[:, None]
        _refuse_dead(layout, gains, expected)
        shrunk, error = _shrink_gains(gains, variance / rounds**2, expected)
    return shrunk, error


def _shrink_gains(
    gains: np.ndarray, variance: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, float]:
    """Shrink gains towards the mean of their slot and of their place in it (Wiener filter).

    The gains of elements spread about the product of both means; the measurements give the spread.
    The mean of that distribution and of a measurement, each weighted with its precision, has a
    smaller error than either. Outliers, such as an element with a dead pixel, are not shrunk.

    Parameters
    ----------
    expected : light of elements if all pixels were equal, [slots, length]

    Returns
    -------
    gains : [slots, length]
    error : mean relative standard error of a gain
    """
    relative = gains / expected
    mean = relative.mean()
    if min(gains.shape) < _FEW:  # too few for the means of a slot and of a place
        return gains, float(np.sqrt(np.mean(variance)) / gains.mean())
    usual = relative.mean(axis=1, keepdims=True) * relative.mean(axis=0, keepdims=True) / mean
    off, noise = relative / usual - 1, variance / (expected * usual) ** 2
    typical = np.abs(off) < _FAR * 1.4826 * np.median(np.abs(off))
    spread = max(float(np.mean(off[typical] ** 2) - np.mean(noise[typical])), 1e-12)
    shrunk_off = np.where(typical, off * spread / (spread + noise), off)
    error = np.where(typical, spread * noise / (spread + noise), noise)
    return usual * (1 + shrunk_off) * expected, float(np.sqrt(np.mean(error)))


def _refuse_dead(layout: Layout, gains: np.ndarray, expected: np.ndarray) -> None:
    """Raise an error that names slots and elements that stay dark."""
    relative = gains / expected
    middle = float(np.median(relative))
    dead = relative < _DEAD * middle
    rows = np.nonzero(dead.mean(axis=1) > 0.5)[0]
    if len(rows):
        slots = np.where(layout.elements >= 0, layout.elements // layout.length, -1)
        on = np.nonzero(np.isin(slots, rows))[0]
        raise BadFit(
            f"{len(rows)} of {layout.slots} slots stay dark (first: slot {rows[0]}, rows "
            f"{on.min()} to {on.max()} of the weight modulator): check for a dead row, dirt, or an "
            "object in the beam"
        )
    if dead.mean() > _MOST_DEAD or (dead.any() and dead.sum(axis=1).max() > 1):
        slot, element = np.argwhere(dead)[0]
        raise BadFit(
            f"{int(dead.sum())} of {dead.size} elements pass less than {_DEAD:.0%} of the light "
            f"that others do (first: element {element} of slot {slot}): check for dead pixels, "
            "dirt on a modulator, or a bench that moved since it was aligned"
        )


def _leaks(
    session: CalibrationSession,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Return the leaks of dark inputs and of dark weights, and the light with both dark.

    A leak is the light with one modulator dark over that with both bright, above the dark level. A
    few elements are lit for it; the surroundings of all elements leak as well.

    Returns
    -------
    input_leak, weight_leak : float64 [slots]
    unlit : rate with both dark, float64 [slots]
    errors : of both leaks, averaged over slots
    """
    slots, layout = session.slots, session.slots.layout
    lit = sparse(layout)
    weights, none = slots.pattern("weight", lit), slots.pattern("weight", False)
    bright, dark = slots.pattern("input", True), slots.pattern("input", False)
    bright_s = slots.find_exposure(bright, weights)
    longest_s = min(_LONGER * bright_s, session.probe.longest_s)
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
    # equal in all slots up to noise, which the mean reduces
    input_leak = float((rate["dark inputs"] - unlit).sum() / light.sum())
    lit_fraction = lit.mean()  # fraction of the elements that are lit; all of them leak
    weight_leak = (rate["dark weights"] - unlit) * lit_fraction / light
    errors = [
        float(np.sqrt((noise[name] + noise["dark"]).sum()) / light.sum())
        for name in ("dark inputs", "dark weights")
    ]
    return (
        np.full(layout.slots, max(input_leak, 0.0)),
        np.maximum(weight_leak, 0.0),
        unlit,
        (errors[0], errors[1] * float(lit_fraction)),
    )
