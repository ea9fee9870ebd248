"""Settling: how long after a flip the light of a modulator can be trusted; and trigger latency.

A frame is followed by its opposite, and one short exposure is taken at a chosen moment after the
flip. The share of the change that has happened, over many such moments, is fitted by a delay and an
exponential approach, averaged over the exposure.
"""

from __future__ import annotations

import numpy as np

from ...instruments import BadFit, Shown, WrongLight
from ..bench.bench import REPEATABLE
from ..bench.calibration import Figure, Plot
from .work import Measured, Work

_MOMENTS = 16  # along each change
_BEFORE = 4  # moments before light is expected
_SETTLED_SHOTS = 7  # of a frame that has settled
_BEGUN = 0.03  # of the change, from which on it has begun; as much is left when it has ended
_ALONG, _CLOSER = 6, 4  # moments between the two, at least; so often are more of them looked at
_AGREE = 0.08  # of the change, up to which two flips agree
_TOO_BRIGHT = 1.2  # times the change: then the light is not what it was
_LONGEST = 8.0  # times the stated settling time, that is looked at
_SETTLED = 5e-5  # of the change that may be left: a fifth of half a step of 12 bits
_POOR = 0.05  # rms of the fit, of the change, that is refused
_SMALL = 5e-3


def settling(work: Work) -> Measured:
    """Follow both modulators from dark to bright and back.

    Raises
    ------
    BadFit : when the approach is no delayed exponential, or takes far longer than is said
    """
    figures, arrays, plots, notes = [], {}, [], []
    late_s: list[float] = []
    for place, role in enumerate(("input", "weight")):
        modulator = work.bench.input if role == "input" else work.bench.weight
        moments_s, share, exposure_s, late = _follow(work, role, place / 2)
        late_s += late
        delay_s, tau_s, rms, errors = _fit(moments_s, share, exposure_s)
        wait_s = delay_s + tau_s * float(np.log(1 / _SETTLED))
        wait_error_s = float(np.hypot(errors[0], errors[1] * np.log(1 / _SETTLED)))
        if rms > _POOR:
            raise BadFit(
                f"the {role} modulator's light does not approach a new frame as one modulator does "
                f"(off by {rms:.1%} rms of the change): look at its plot for dithering, overdrive, "
                "an exposure that does not hold whole dither periods, or something that moved "
                "in the beam"
            )
        stated_s = modulator.latency_s + modulator.settle_time_s
        figures += [
            Figure(f"{role}_latency_s", delay_s, errors[0], "s", "flip to first light"),
            Figure(f"{role}_time_constant_s", tau_s, errors[1], "s", f"rms of fit {rms:.2%}"),
            Figure(
                f"{role}_wait_s", wait_s, wait_error_s, "s", f"to {_SETTLED:g}; says {stated_s:g} s"
            ),
        ]
        if wait_s > stated_s + modulator.refresh_period_s:
            notes.append(
                f"the {role} modulator takes {wait_s:.3g} s to settle, not {stated_s:.3g} s as its "
                "driver says; runs wait as long as was measured"
            )
        arrays[f"{role}_moments_s"] = moments_s.astype(np.float32)
        arrays[f"{role}_share"] = share.astype(np.float32)
        plots.append(
            Plot(
                f"Settling of the {role} modulator",
                "points",
                f"{role}_share",
                f"{role}_moments_s",
                "after the flip, s",
                "share of the change",
            )
        )
    figures.append(Figure("trigger_latency_s", float(np.mean(late_s)), float(np.std(late_s)), "s"))
    return Measured(tuple(figures), arrays, tuple(plots), tuple(notes))


def _follow(
    work: Work, role: str, done: float
) -> tuple[np.ndarray, np.ndarray, float, list[float]]:
    """Give moments after the flip, the share of change seen, the exposure, latencies."""
    probe, bench = work.probe, work.bench
    modulator = bench.input if role == "input" else bench.weight
    probe.light(True)
    probe.fill()
    full_s = probe.find_exposure()
    stated_s = max(modulator.settle_time_s, 1e-4)
    exposure_s = float(np.clip(stated_s / 20, probe.shortest_s, full_s))
    wait_s = modulator.latency_s + 3 * stated_s
    light = {"bright": _settled(work, role, True, exposure_s, wait_s)}
    light["dark"] = _settled(work, role, False, exposure_s, wait_s)
    change = light["bright"] - light["dark"]
    if change < 0.2 * light["bright"]:
        raise BadFit(
            f"the {role} modulator hardly changes the light in {exposure_s:g} s: nothing to follow"
        )
    lates: list[float] = []

    def look(moments_s: np.ndarray) -> np.ndarray:
        shares = []
        for number, moment_s in enumerate(moments_s):
            seen = []
            for up in (True, False):
                total = _flipped(work, role, up, wait_s, moment_s, exposure_s, change)
                lates.append(probe.late_s)
                share = (total - light["dark"]) / change
                seen.append(share if up else 1 - share)
            if not 1 - _TOO_BRIGHT < min(seen) <= max(seen) < _TOO_BRIGHT:
                raise WrongLight(
                    f"while the {role} modulator settles, {seen[-1]:.0%} of the change is seen: "
                    "the light is not what it was; check the source, and that nothing moves in "
                    "the beam"
                )
            shares.append(float(np.mean(seen)))
            work.tell(done + (number + 1) / len(moments_s) / 2)
        return np.array(shares)

    span_s = 1.2 * stated_s
    before_s = np.linspace(0, modulator.latency_s, _BEFORE, endpoint=False)
    while True:
        moments_s = modulator.latency_s + np.linspace(0, span_s, _MOMENTS)
        if modulator.latency_s:
            moments_s = np.append(before_s, moments_s)
        share = look(moments_s)
        if abs(share[-1] - 1) < _SMALL * 4 and abs(share[-3:].mean() - 1) < _SMALL * 2:
            break
        span_s, wait_s = 2 * span_s, 2 * wait_s
        if span_s > modulator.latency_s + _LONGEST * stated_s:
            raise BadFit(
                f"the {role} modulator has not settled {moments_s[-1]:.3g} s after its flip "
                f"({share[-1]:.1%} of the change), and its driver says {stated_s:g} s: give its "
                "real settle_time_s in the bench file"
            )
        light["bright"] = _settled(work, role, True, exposure_s, wait_s)
        light["dark"] = _settled(work, role, False, exposure_s, wait_s)
        change = light["bright"] - light["dark"]
    for _ in range(_CLOSER):  # a fast change after a long latency falls between two moments
        low_s, high_s = _between(moments_s, share)
        if ((moments_s > low_s) & (moments_s < high_s)).sum() >= _ALONG:
            break
        more_s = np.linspace(low_s, high_s, _ALONG + 2)[1:-1]
        share = np.append(share, look(more_s))
        order = np.argsort(np.append(moments_s, more_s), kind="stable")
        moments_s, share = np.append(moments_s, more_s)[order], share[order]
    return moments_s, share, exposure_s, lates


def _between(moments_s: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """Give the last moment before the change, and the first one after it."""
    begun, ended = np.flatnonzero(share > _BEGUN), np.flatnonzero(share < 1 - _BEGUN)
    first = max(int(begun[0]) - 1, 0) if len(begun) else 0
    last = min(int(ended[-1]) + 1, len(share) - 1) if len(ended) else len(share) - 1
    return float(moments_s[first]), float(moments_s[max(last, first + 1)])


def _flipped(
    work: Work,
    role: str,
    up: bool,
    wait_s: float,
    moment_s: float,
    exposure_s: float,
    change: float,
) -> float:
    """Give the light at a moment after a flip, as two flips agree that it is."""
    seen: list[float] = []
    for _ in range(work.bench.file.limits.retries + 2):
        shown = _flip(work, role, up, wait_s)
        try:
            now = _sum(work, exposure_s, shown.shown_at_s + moment_s)
        except REPEATABLE:  # counted already
            continue
        for before in seen:
            if abs(before - now) < _AGREE * change:
                if len(seen) > 1:
                    work.probe.count_fault("WrongLight", len(seen) - 1)
                return (before + now) / 2
        seen.append(now)
    raise WrongLight(
        f"the light {moment_s:.3g} s after the same flip of the {role} modulator differs from time "
        "to time: check the source, and that nothing moves in the beam"
    )


def _flip(work: Work, role: str, up: bool, wait_s: float) -> Shown:
    """Let the opposite frame settle, then show the frame."""
    probe = work.probe
    (probe.blank if up else probe.fill)(role)
    work.bench.clock.sleep_until(probe.shown_at_s(role) + wait_s)
    (probe.fill if up else probe.blank)(role)
    return probe.shown(role)


def _settled(work: Work, role: str, bright: bool, exposure_s: float, wait_s: float) -> float:
    """Give the light of a frame that has surely settled."""
    probe = work.probe
    (probe.fill if bright else probe.blank)(role)
    at_s = probe.shown_at_s(role) + wait_s
    work.bench.clock.sleep_until(at_s)
    raws = [probe.raw(exposure_s) for _ in range(_SETTLED_SHOTS)]
    return float(np.median([_light(work, raw, exposure_s) for raw in raws]))


def _sum(work: Work, exposure_s: float, at_s: float) -> float:
    """Give all the light of an exposure that is triggered at a moment."""
    return _light(work, work.probe.raw(exposure_s, at_s), exposure_s)


def _light(work: Work, raw: np.ndarray, exposure_s: float) -> float:
    taken = raw - work.dark_counts(exposure_s)
    good = taken if work.bad is None else taken[~work.bad]
    return float(good.sum())


def _model(moments_s: np.ndarray, delay_s: float, tau_s: float, exposure_s: float) -> np.ndarray:
    """Give the share of a change that an exposure sees which begins at each moment."""

    def area(t: np.ndarray) -> np.ndarray:  # integral of 1 - exp(-t / tau) from 0
        t = np.maximum(t, 0)
        return t + tau_s * np.expm1(-t / tau_s)

    start = moments_s - delay_s
    return (area(start + exposure_s) - area(start)) / exposure_s


def _fit(
    moments_s: np.ndarray, share: np.ndarray, exposure_s: float
) -> tuple[float, float, float, tuple[float, float]]:
    """Fit delay and time constant (a grid, then Gauss's and Newton's steps).

    Returns
    -------
    delay_s, tau_s, rms of the residual, errors of both
    """
    low, high = _between(moments_s, share)
    span = float(high - low)
    best = (np.inf, 0.0, span)
    for delay in np.linspace(low - exposure_s, high, 60):
        for tau in np.geomspace(span / 500, span, 40):
            off = float(np.sum((share - _model(moments_s, delay, tau, exposure_s)) ** 2))
            best = min(best, (off, float(delay), float(tau)))
    delay, tau = best[1], best[2]
    for _ in range(20):
        model = _model(moments_s, delay, tau, exposure_s)
        steps = (span * 1e-5, tau * 1e-4)
        slopes = np.stack(
            [
                (_model(moments_s, delay + steps[0], tau, exposure_s) - model) / steps[0],
                (_model(moments_s, delay, tau + steps[1], exposure_s) - model) / steps[1],
            ],
            axis=1,
        )
        change = np.linalg.lstsq(slopes, share - model, rcond=None)[0]
        delay += float(change[0])
        tau = float(np.clip(tau + change[1], tau / 3, tau * 3))
    off = share - _model(moments_s, delay, tau, exposure_s)
    rms = float(np.sqrt(np.mean(off**2)))
    normal = slopes.T @ slopes
    errors = np.sqrt(np.diag(np.linalg.pinv(normal)) * (off @ off) / max(len(off) - 2, 1))
    return delay, tau, rms, (float(errors[0]), float(errors[1]))
