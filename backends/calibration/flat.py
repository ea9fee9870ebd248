"""Flat field: the electrons that every element of every slot brings, and what leaks into slots.

One element of each slot is lit after another, in all slots at once, with the input brightest and an
exposure that makes the most of the detector's wells. What remains with no element lit, and with a
dark input, is what darkest levels and their surroundings leak.
"""

from __future__ import annotations

import numpy as np

from ...instruments import BadFit
from ..bench.calibration import Figure, Plot
from .slots import sparse
from .work import Measured, Work

_GOAL = 2.5e-3  # standard error of an element's gain, in the mean
_MOST_ROUNDS = 6
_DARK_EVERY = 16  # elements between two readings with none lit
_LEAK_ROUNDS = 8
_DEAD = 0.25  # of what its pixels should pass, below which an element is dead
_MOST_DEAD = 1e-3  # share of the elements


def flat(work: Work) -> Measured:
    """Measure gains of elements and leaks of slots.

    Raises
    ------
    BadFit : where slots or elements are dark
    """
    slots, layout = work.slots, work.slots.layout
    inputs = slots.pattern("input", True)
    index = np.arange(layout.length)
    none = slots.pattern("weight", False)
    middle = index == layout.length // 2
    exposure_s = slots.find_exposure(inputs, slots.pattern("weight", middle))
    total = np.zeros((layout.slots, layout.length))
    variance = np.zeros_like(total)
    dark, dark_variance = np.zeros(layout.slots), np.zeros(layout.slots)
    darks = rounds = 0
    error = np.inf
    while rounds < _MOST_ROUNDS and error > _GOAL:
        for k in index:
            reading = slots.read(inputs, slots.pattern("weight", index == k), exposure_s)
            total[:, k] += reading.rate
            variance[:, k] += reading.variance
            if k % _DARK_EVERY == 0:
                reading = slots.read(inputs, none, exposure_s)
                dark, darks = dark + reading.rate, darks + 1
                dark_variance = dark_variance + reading.variance
            work.tell((rounds + (k + 1) / layout.length) / 3)
        rounds += 1
        gains = total / rounds - (dark / darks)[:, None]
        error = float(np.sqrt(np.mean(variance / rounds**2)) / max(gains.mean(), 1e-30))
    base, base_variance = dark / darks, dark_variance / darks**2
    _refuse_dead(work, gains)
    input_leak, unlit, leak_variance = _dark_input(work)
    # gains hold the light of a bright input; a dark one leaks input_leak of it
    pairs = gains / (1 + input_leak)[:, None]
    weight_leak = np.maximum(base - unlit, 0) / pairs.sum(axis=1)
    offset = unlit - input_leak * weight_leak * pairs.sum(axis=1)
    to_run = work.gain_e_per_count * work.exposure_s
    inverse = work.calibration.array("crosstalk", "inverse").astype(float) if _has(work) else None
    if inverse is not None and inverse.size:
        pairs, offset = inverse @ pairs, inverse @ offset
    markers = slots.markers
    assert markers.marker_e is not None and markers.marker_leak_e is not None
    arrays = {
        "pairs_e": (pairs * to_run).astype(np.float32),
        "input_leak": input_leak,
        "weight_leak": weight_leak,
        "offset_e": offset * to_run,
    }
    for role in markers.marker_e:
        arrays[f"marker_e_{role}"] = markers.marker_e[role] * to_run
        arrays[f"marker_leak_e_{role}"] = markers.marker_leak_e[role] * to_run
    per_slot = pairs.mean(axis=1) * to_run
    arrays["slot_gains"] = _picture(work, per_slot / per_slot.mean())
    spread = float((pairs / pairs.mean(axis=1, keepdims=True)).std())
    figures = (
        Figure("photons_full_scale", float(per_slot.mean()), None, "e", "of an element pair"),
        Figure("slot_gain_rms", float((per_slot / per_slot.mean()).std()), error, ""),
        Figure("element_gain_rms", spread, error, ""),
        Figure("gain_error", error, None, "", "standard error of an element's gain"),
        Figure("input_leak", float(input_leak.mean()), float(np.sqrt(leak_variance)), ""),
        Figure(
            "weight_leak",
            float(weight_leak.mean()),
            float(np.sqrt(base_variance.mean()) / pairs.sum(axis=1).mean()),
            "",
            "with the surroundings of elements",
        ),
    )
    plots = (
        Plot("Gain of slots, over their mean", "image", "slot_gains"),
        Plot("Gain of elements, over their slot's mean", "histogram", "element_gains"),
    )
    sample = (pairs / pairs.mean(axis=1, keepdims=True)).ravel()
    arrays["element_gains"] = sample[:: max(sample.size // 5000, 1)].astype(np.float32)
    return Measured(figures, arrays, plots)


def _has(work: Work) -> bool:
    return "crosstalk" in work.calibration.steps


def _refuse_dead(work: Work, gains: np.ndarray) -> None:
    """Refuse slots and elements that stay dark, and say which."""
    layout = work.slots.layout
    should = layout.element_sums(np.ones(work.bench.weight.shape))
    relative = gains / should
    middle = float(np.median(relative))
    dead = relative < _DEAD * middle
    rows = np.nonzero(dead.mean(axis=1) > 0.5)[0]
    if len(rows):
        window = work.layout().elements
        on = np.nonzero(np.isin(window // layout.length, rows) & (window >= 0))[0]
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


def _dark_input(work: Work) -> tuple[np.ndarray, np.ndarray, float]:
    """Give the leak of a dark input in each slot, the rate with nothing lit, and a variance.

    The leak is that of lit elements with a dark input, over the same with a bright one.
    """
    slots, layout = work.slots, work.slots.layout
    lit = slots.pattern("weight", sparse(layout))
    none = slots.pattern("weight", False)
    bright, dark = slots.pattern("input", True), slots.pattern("input", False)
    bright_s = slots.find_exposure(bright, lit)
    longest_s = min(20 * bright_s, work.probe.longest_s, 0.5)
    dark_s = min(slots.find_exposure(dark, lit), longest_s)
    sums = {}
    for name, pattern, weights, exposure_s in (
        ("bright", bright, lit, bright_s),
        ("bright base", bright, none, bright_s),
        ("dark", dark, lit, dark_s),
        ("dark base", dark, none, dark_s),
    ):
        sums[name] = slots.read(pattern, weights, exposure_s, _LEAK_ROUNDS)
    light = sums["bright"].rate - sums["bright base"].rate
    leaked = sums["dark"].rate - sums["dark base"].rate
    variance = sums["dark"].variance + sums["dark base"].variance
    # alike in all slots but for noise, which a single number averages away
    ratio = float(leaked.sum() / light.sum())
    input_leak = np.full(layout.slots, max(ratio / (1 - ratio), 0.0))
    return input_leak, sums["dark base"].rate, float(variance.sum() / light.sum() ** 2)


def _picture(work: Work, values: np.ndarray) -> np.ndarray:
    """Lay values of slots out as they lie."""
    grid = getattr(work.slots.layout, "grid", (len(values), 1))
    return values.reshape(grid).astype(np.float32)
