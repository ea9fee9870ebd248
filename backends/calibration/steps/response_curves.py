"""Response curves of both modulators, and their extinction ratios.

All lit elements show one grey level; their light above the dark level, over that of the brightest
level, is the curve. The extinction ratio comes from four pairs of full frames, bright and dark on
each modulator, and the dark level with the source off. Convention: brightest level = 1.
"""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit
from ...optics.calibration_file import Figure, Plot
from ..exposure_search import find_exposure
from ..session import CalibrationSession, Measured
from ..slots import sparse

_LEVELS = 49  # between which the curve is interpolated linearly
_ENDS = 6  # readings of the darkest and the brightest level, between those of the others
_GOAL = 1.5e-3  # standard error of a level's light, of full scale
_SURE = 4.0  # standard errors from which a level other than an end is darkest or brightest
_SMOOTH = np.array([-3, 12, 17, 12, -3]) / 35  # a parabola through five levels (Savitzky, Golay)
_MOST_ROUNDS = 4
_ROUNDS = 4  # of the four bright and dark pairs
_LONGER = 30.0  # exposure of darker pairs over that of the bright one
_DIPS = 0.02  # of full scale; a curve that falls by more has two branches


def response_curves(session: CalibrationSession) -> Measured:
    """Measure both curves.

    Raises
    ------
    BadFit : when a modulator hardly changes the light, or its curve is not monotonic
    """
    leaks, leak_errors, stray = _extinctions(session)
    figures, arrays, plots, notes = [], {}, [], []
    for number, role in enumerate(("input", "weight")):
        levels, light, error = _curve(session, role, number / 2)
        table = np.interp(np.arange(levels[-1] + 1), levels, light)
        dark = leaks[role]
        arrays[role] = (dark + (1 - dark) * table).astype(np.float32)
        arrays[f"{role}_levels"] = levels.astype(np.float32)
        arrays[f"{role}_light"] = (dark + (1 - dark) * light).astype(np.float32)
        figures += [
            Figure(
                f"{role}_extinction", 1 / dark, leak_errors[role] / dark**2, "", "bright over dark"
            ),
            Figure(f"{role}_curve_error", error, None, "", "standard error of a level, full scale"),
        ]
        plots.append(
            Plot(
                f"Response curve of the {role} modulator",
                "line",
                f"{role}_light",
                f"{role}_levels",
                "grey level",
                "light, brightest = 1",
            )
        )
        if light.max() > light[-1] + 3 * error:
            notes.append(f"the brightest level of the {role} modulator is not its last one")
    figures.append(Figure("stray_counts_per_s", *stray, "counts/s", "mean of a pixel"))
    session.renew_slots()
    return Measured(tuple(figures), arrays, tuple(plots), tuple(notes))


def _curve(
    session: CalibrationSession, role: str, done: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return levels, their light above the dark level (brightest = 1), and its standard error."""
    slots, layout = session.slots, session.slots.layout
    top = len(layout.optics.tables[role]) - 1
    levels = np.unique(np.rint(np.linspace(0, top, _LEVELS)).astype(int))
    lit: dict[str, np.ndarray | bool] = {"input": True, "weight": sparse(layout)}
    shown = {name: slots.pattern(name, lit[name]) for name in lit}
    exposure_s = slots.find_exposure(shown["input"], shown["weight"])
    order = np.random.Generator(np.random.Philox(1)).permutation(len(levels))
    each = max(len(order) // _ENDS, 1)
    lights: dict[int, list[float]] = {int(level): [] for level in levels}
    error = np.inf
    for round_ in range(_MOST_ROUNDS):
        for number, place in enumerate(order):
            wanted = [int(levels[place])]
            if number % each == 0:
                wanted += [0, top]
            for level in wanted:
                pattern = dict(shown)
                pattern[role] = slots.pattern(role, lit[role], level)
                reading = slots.read(pattern["input"], pattern["weight"], exposure_s)
                lights[level].append(float(reading.rate.sum()))
        session.progress(done + (round_ + 1) / _MOST_ROUNDS / 2)
        light, error = _scaled(levels, lights, role)
        if error < _GOAL:
            break
    return levels, light, error


def _scaled(
    levels: np.ndarray, lights: dict[int, list[float]], role: str
) -> tuple[np.ndarray, float]:
    mean = np.array([np.mean(lights[int(level)]) for level in levels])
    count = np.array([len(lights[int(level)]) for level in levels])
    noise = float(np.std(lights[int(levels[-1])], ddof=1))  # of one reading
    # the ends have the most readings; the maximum of many noisy levels would be biased
    low, high = (
        float(mean[end] if abs(mean[end] - most) < _SURE * noise / count.min() ** 0.5 else most)
        for end, most in ((0, mean.min()), (-1, mean.max()))
    )
    spread = noise / max(high - low, 1e-30)
    if high - low < 0.2 * high or high - low < 10 * spread * (high - low):
        raise BadFit(
            f"the {role} modulator changes the light by {(high - low) / high:.0%} only: check its "
            "polarisers, its colour channel, and that it is in the beam"
        )
    light = (mean - low) / (high - low)
    falls = float(np.maximum.accumulate(light)[-1] - light[-1])
    dips = float((np.maximum.accumulate(light) - light).max())
    if dips > max(_DIPS, 6 * spread) and falls < dips:
        raise BadFit(
            f"the {role} modulator's response curve falls by {dips:.1%} of full scale while it "
            "should rise: use one monotonic branch (restrict its levels in its driver)"
        )
    error = float(spread / np.sqrt(count.mean()))
    smooth = np.convolve(light, _SMOOTH, "valid")
    is_smooth = np.abs(smooth - light[2:-2]) < 2 * error  # a kink must not be smoothed
    light[2:-2] = np.where(is_smooth, smooth, light[2:-2])
    if falls < dips or dips < _DIPS:
        light = _rising(light)
    return np.clip(light, 0, 1), error * float(np.sqrt(_SMOOTH[2]))


def _rising(light: np.ndarray) -> np.ndarray:
    """Return the nearest monotonic curve (isotonic regression, pooling adjacent violators)."""
    pools: list[list[float]] = []  # sum and count
    for value in light:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    return np.concatenate([np.full(int(count), total / count) for total, count in pools])


def _extinctions(
    session: CalibrationSession,
) -> tuple[dict[str, float], dict[str, float], tuple[float, float]]:
    """Return what the darkest levels pass, their errors and the stray light.

    light = stray + full (f_x or 1) (f_w or 1), for dark or bright frames on each modulator. Three
    of the pairs give both f, and the fourth the stray light that passes no modulator.
    """
    probe = session.probe
    probe.light(True)
    exposures_s: dict[str, float] = {}
    rates: dict[str, list[float]] = {"bb": [], "db": [], "bd": [], "dd": []}
    for number in range(_ROUNDS):
        for pair, seen in rates.items():
            for role, state in zip(("input", "weight"), pair, strict=True):
                (probe.fill if state == "b" else probe.blank)(role)
            if pair not in exposures_s:
                exposures_s[pair] = (
                    find_exposure(probe) if pair == "bb" else _longer(session, exposures_s["bb"])
                )
            exposure_s = exposures_s[pair]
            one, other = probe.pair(exposure_s)
            raw = (one.astype(np.float64) + other) / 2 - session.dark_counts(exposure_s)
            seen.append(float(raw[~session.bad].mean()) / exposure_s)
        session.progress((number + 1) / _ROUNDS / 10)
    middle = {pair: float(np.median(seen)) for pair, seen in rates.items()}
    error = {pair: float(np.std(seen, ddof=1) / np.sqrt(_ROUNDS)) for pair, seen in rates.items()}
    bb, db, bd, dd = (middle[pair] for pair in ("bb", "db", "bd", "dd"))
    stray = max((bd * db - dd * bb) / (bd + db - dd - bb), 0.0) if bb > bd + db else 0.0
    leaks = {"input": (db - stray) / (bb - stray), "weight": (bd - stray) / (bb - stray)}
    for role, pair in (("input", "db"), ("weight", "bd")):
        if not leaks[role] < 0.5:
            raise BadFit(
                f"dark frames of the {role} modulator pass {leaks[role]:.0%} of the light: check "
                "that it is in the beam, its polarisers, and its darkest level"
            )
        error[role] = float(np.hypot(error[pair] / bb, leaks[role] * error["bb"] / bb))
        leaks[role] = max(leaks[role], 1e-9)
    return leaks, {role: error[role] for role in leaks}, (stray, error["dd"])


def _longer(session: CalibrationSession, bright_s: float) -> float:
    """Return an exposure for darker frames, at which no good pixel is full."""
    exposure_s = min(_LONGER * bright_s, session.probe.longest_s)
    while exposure_s > bright_s:
        if not session.probe.take(exposure_s).full:
            break
        exposure_s /= 3
    return max(exposure_s, bright_s)
