"""Settling: how long after a flip the light of a modulator can be trusted; and trigger latency.

A frame is followed by its opposite, and one short exposure is taken at a chosen moment after the
flip. The share of the change that has happened, over many such moments, is fitted by a delay and an
exponential approach, averaged over the exposure.
"""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit, Shown, UnexpectedIntensity
from ...bench.bench import REPEATABLE
from ...optics.calibration_file import Figure, Plot
from ..session import CalibrationSession, Measured

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
_NOISY = 0.01  # noise of a shot over the change, from which on the exposure becomes longer
_LONGER, _SHORTER = 3.0, 5  # a change lasts so many exposures at least; so often they get shorter
_HALVED = 12  # times that a step of the fit is halved
_SKIP = "run `lightloom calibrate --skip settling`: then runs wait as long as its driver says"


def settling(work: CalibrationSession) -> Measured:
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
        delay_s, tau_s, rms, errors = fit_settling(moments_s, share, exposure_s)
        wait_s = delay_s + tau_s * float(np.log(1 / _SETTLED))
        wait_error_s = float(np.hypot(errors[0], errors[1] * np.log(1 / _SETTLED)))
        if rms > _POOR:
            raise BadFit(
                f"the {role} modulator's light does not approach a new frame as one modulator does "
                f"(off by {rms:.1%} rms of the change): look at its plot for dithering, overdrive, "
                "an exposure that does not hold whole dither periods, or something that moved "
                f"in the beam; or {_SKIP}"
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
    work: CalibrationSession, role: str, done: float
) -> tuple[np.ndarray, np.ndarray, float, list[float]]:
    """Return moments after the flip, the share of change seen, the exposure, latencies.

    A modulator may be far quicker than its driver says. An exposure that is longer than the change
    hides it, so shorter ones follow as long as they bring enough light.
    """
    modulator = work.bench.input if role == "input" else work.bench.weight
    work.probe.light(True)
    work.probe.fill()
    stated_s = max(modulator.settle_time_s, 1e-4)
    series = _Series(work, role, modulator.latency_s, stated_s, work.probe.find_exposure(), done)
    series.expose(stated_s / 20)
    moments_s, share = series.changes(1.2 * stated_s)
    for _ in range(_SHORTER):
        low_s, high_s = _between(moments_s, share)
        before_s, is_seen = series.exposure_s, bool((share < 1 - _BEGUN).any())
        if is_seen and high_s - low_s > _LONGER * before_s:
            break
        if not series.expose(before_s / _LONGER):
            break
        moments_s, share = series.changes(1.2 * (high_s - modulator.latency_s))
    return moments_s, share, series.exposure_s, series.late_s


class _Series:
    """Exposures at chosen moments after flips of one modulator.

    Parameters
    ----------
    latency_s, stated_s : of the modulator, as its driver says
    full_s : exposure that fills the detector
    done : share of the step that is done already

    Attributes
    ----------
    exposure_s : of what is taken now
    late_s : from each trigger to the start of its exposure, as the camera says
    """

    def __init__(
        self,
        work: CalibrationSession,
        role: str,
        latency_s: float,
        stated_s: float,
        full_s: float,
        done: float,
    ) -> None:
        self._work, self._role, self._done = work, role, done
        self._latency_s, self._stated_s, self._full_s = latency_s, stated_s, full_s
        self._wait_s = latency_s + 3 * stated_s
        self.exposure_s, self.late_s = np.inf, list[float]()
        self._dark = self._change = 0.0

    def expose(self, wanted_s: float) -> bool:
        """Take an exposure of the wanted length, or the next one that brings enough light.

        Returns
        -------
        whether it is shorter than the exposure before; else that one is kept

        Raises
        ------
        BadFit : when the modulator hardly changes the light
        """
        exposure_s = float(np.clip(wanted_s, self._work.probe.shortest_s, self._full_s))
        while exposure_s < self.exposure_s:
            change, noise = self._levels(exposure_s)
            if noise < _NOISY * change or exposure_s >= self._full_s:
                self.exposure_s = exposure_s
                self._levels(exposure_s)
                return True
            exposure_s = min(2 * exposure_s, self._full_s)
        self._levels(self.exposure_s)
        return False

    def _levels(self, exposure_s: float) -> tuple[float, float]:
        """Measure the light of settled frames; return their difference, and its noise."""
        bright, noise = _settled(self._work, self._role, True, exposure_s, self._wait_s)
        self._dark, _ = _settled(self._work, self._role, False, exposure_s, self._wait_s)
        self._change = bright - self._dark
        if self._change < max(0.2 * bright, 0.0) and exposure_s >= self._full_s:
            raise BadFit(
                f"the {self._role} modulator hardly changes the light in {exposure_s:g} s: nothing "
                f"to follow; see that its frames reach the light, or {_SKIP}"
            )
        return self._change, noise

    def changes(self, span_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return moments until the light has settled, and the share of the change at each.

        Raises
        ------
        BadFit : when it takes far longer than is said
        """
        latency_s = self._latency_s
        before_s = np.linspace(0, latency_s, _BEFORE, endpoint=False)
        while True:
            moments_s = latency_s + np.linspace(0, span_s, _MOMENTS)
            if latency_s:
                moments_s = np.append(before_s, moments_s)
            share = self._look(moments_s)
            if abs(share[-1] - 1) < _SMALL * 4 and abs(share[-3:].mean() - 1) < _SMALL * 2:
                break
            span_s, self._wait_s = 2 * span_s, 2 * self._wait_s
            if span_s > latency_s + _LONGEST * self._stated_s:
                raise BadFit(
                    f"the {self._role} modulator has not settled {moments_s[-1]:.3g} s after its "
                    f"flip ({share[-1]:.1%} of the change), and its driver says "
                    f"{self._stated_s:g} s: give its real settle_time_s in the bench file, or "
                    f"{_SKIP}"
                )
            self._levels(self.exposure_s)
        return self._closer(moments_s, share)

    def _closer(self, moments_s: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look between two moments, where a fast change falls between them."""
        for _ in range(_CLOSER):
            low_s, high_s = _between(moments_s, share)
            if ((moments_s > low_s) & (moments_s < high_s)).sum() >= _ALONG:
                break
            more_s = np.linspace(low_s, high_s, _ALONG + 2)[1:-1]
            share = np.append(share, self._look(more_s))
            order = np.argsort(np.append(moments_s, more_s), kind="stable")
            moments_s, share = np.append(moments_s, more_s)[order], share[order]
        return moments_s, share

    def _look(self, moments_s: np.ndarray) -> np.ndarray:
        """Return the share of the change that is seen at each moment, of flips both ways."""
        work, shares = self._work, []
        for number, moment_s in enumerate(moments_s):
            seen = []
            for up in (True, False):
                timing = self._wait_s, moment_s, self.exposure_s
                total = _flipped(work, self._role, up, *timing, self._change)
                self.late_s.append(work.probe.late_s)
                share = (total - self._dark) / self._change
                seen.append(share if up else 1 - share)
            if not 1 - _TOO_BRIGHT < min(seen) <= max(seen) < _TOO_BRIGHT:
                raise UnexpectedIntensity(
                    f"while the {self._role} modulator settles, {seen[-1]:.0%} of the change is "
                    "seen: the light is not what it was; check the source, and that nothing moves "
                    f"in the beam, or {_SKIP}"
                )
            shares.append(float(np.mean(seen)))
            work.tell(self._done + (number + 1) / len(moments_s) / 2)
        return np.array(shares)


def _between(moments_s: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """Return the last moment before the change, and the first one after it."""
    begun, ended = np.flatnonzero(share > _BEGUN), np.flatnonzero(share < 1 - _BEGUN)
    first = max(int(begun[0]) - 1, 0) if len(begun) else 0
    last = min(int(ended[-1]) + 1, len(share) - 1) if len(ended) else len(share) - 1
    return float(moments_s[first]), float(moments_s[max(last, first + 1)])


def _flipped(
    work: CalibrationSession,
    role: str,
    up: bool,
    wait_s: float,
    moment_s: float,
    exposure_s: float,
    change: float,
) -> float:
    """Return the light at a moment after a flip, as two flips agree that it is."""
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
                    work.probe.count_fault("UnexpectedIntensity", len(seen) - 1)
                return (before + now) / 2
        seen.append(now)
    raise UnexpectedIntensity(
        f"the light {moment_s:.3g} s after the same flip of the {role} modulator differs from time "
        "to time: check the source, and that nothing moves in the beam"
    )


def _flip(work: CalibrationSession, role: str, up: bool, wait_s: float) -> Shown:
    """Let the opposite frame settle, then show the frame."""
    probe = work.probe
    (probe.blank if up else probe.fill)(role)
    work.bench.clock.sleep_until(probe.shown_at_s(role) + wait_s)
    (probe.fill if up else probe.blank)(role)
    return probe.shown(role)


def _settled(
    work: CalibrationSession, role: str, bright: bool, exposure_s: float, wait_s: float
) -> tuple[float, float]:
    """Return the light of a frame that has surely settled, and the detector's noise of it."""
    probe = work.probe
    (probe.fill if bright else probe.blank)(role)
    at_s = probe.shown_at_s(role) + wait_s
    work.bench.clock.sleep_until(at_s)
    raws = [probe.raw(exposure_s) for _ in range(_SETTLED_SHOTS)]
    lights = [_light(work, raw, exposure_s) for raw in raws]
    return float(np.median(lights)), _noise(work, raws, lights, exposure_s)


def _noise(
    work: CalibrationSession, raws: list[np.ndarray], lights: list[float], exposure_s: float
) -> float:
    """Return the noise of the light of one shot that a longer exposure makes less.

    Pixels of two shots differ by their own noise, once the source's common factor is taken out.
    """
    if work.is_bucket:
        return float(work.probe.noise_v2**0.5)
    one, other = (_good(work, raw, exposure_s) for raw in raws[:2])
    common = lights[0] / lights[1] if min(lights[:2]) > 0 else 1.0
    return float((np.sum((one - common * other) ** 2) / 2) ** 0.5)


def _sum(work: CalibrationSession, exposure_s: float, at_s: float) -> float:
    """Return all the light of an exposure that is triggered at a moment."""
    return _light(work, work.probe.raw(exposure_s, at_s), exposure_s)


def _light(work: CalibrationSession, raw: np.ndarray, exposure_s: float) -> float:
    return float(_good(work, raw, exposure_s).sum())


def _good(work: CalibrationSession, raw: np.ndarray, exposure_s: float) -> np.ndarray:
    """Return the counts above darkness of the pixels that count."""
    taken = raw - work.dark_counts(exposure_s)
    return taken if work.bad is None else taken[~work.bad]


def share_seen(
    moments_s: np.ndarray, delay_s: float, tau_s: float, exposure_s: float
) -> np.ndarray:
    """Return the share of a change that an exposure sees, by when the exposure begins.

    Parameters
    ----------
    moments_s : since the change was asked for, at which an exposure begins: [n]
    delay_s : until the change begins
    tau_s : time constant of its exponential approach
    exposure_s : over which the share is averaged
    """

    def area(t: np.ndarray) -> np.ndarray:  # integral of 1 - exp(-t / tau) from 0
        t = np.maximum(t, 0)
        return t + tau_s * np.expm1(-t / tau_s)

    start = moments_s - delay_s
    return (area(start + exposure_s) - area(start)) / exposure_s


def fit_settling(
    moments_s: np.ndarray, share: np.ndarray, exposure_s: float
) -> tuple[float, float, float, tuple[float, float]]:
    """Fit delay and time constant: the best of a grid, then guarded Gauss-Newton steps.

    Where the exposure is much longer than the time constant, the two are hardly told apart and a
    full step may lead anywhere. A step is taken only where the residual falls, else half of it;
    where no part of it helps, the result so far stays: at worst that of the grid.

    Parameters
    ----------
    moments_s : since the change was asked for, at which an exposure begins: [n]
    share : of the change that it saw, 0 to 1: [n]
    exposure_s : of each

    Returns
    -------
    delay_s, tau_s, rms of the residual, errors of both in s
    """
    low, high = _between(moments_s, share)
    span = float(high - low)
    lowest, highest = (low - exposure_s, span / 1000), (high, 3 * span)

    def off(delay_s: float, tau_s: float) -> np.ndarray:
        return np.asarray(share - share_seen(moments_s, delay_s, tau_s, exposure_s))

    grid = (
        (float(np.sum(off(delay, tau) ** 2)), float(delay), float(tau))
        for earliest in {low - exposure_s, low - min(span, exposure_s)}
        for delay in np.linspace(earliest, high, 60)
        for tau in np.geomspace(span / 500, 3 * span, 40)
    )
    least, delay, tau = min(grid)
    slopes = _slopes(moments_s, delay, tau, exposure_s, span)
    for _ in range(20):
        change = np.linalg.lstsq(slopes, off(delay, tau), rcond=None)[0]
        for part in 0.5 ** np.arange(_HALVED):
            there = np.clip(np.array([delay, tau]) + part * change, lowest, highest)
            cost = float(np.sum(off(*there) ** 2))
            if cost < least:
                break
        else:
            break
        least, (delay, tau) = cost, (float(there[0]), float(there[1]))
        slopes = _slopes(moments_s, delay, tau, exposure_s, span)
    rms = float(np.sqrt(least / len(share)))
    normal = slopes.T @ slopes
    errors = np.sqrt(np.diag(np.linalg.pinv(normal)) * least / max(len(share) - 2, 1))
    return delay, tau, rms, (float(errors[0]), float(errors[1]))


def _slopes(
    moments_s: np.ndarray, delay_s: float, tau_s: float, exposure_s: float, span_s: float
) -> np.ndarray:
    """Return the derivatives of the model by delay and time constant: [moments, 2]."""
    model = share_seen(moments_s, delay_s, tau_s, exposure_s)
    steps = (span_s * 1e-5, tau_s * 1e-4)
    return np.stack(
        [
            (share_seen(moments_s, delay_s + steps[0], tau_s, exposure_s) - model) / steps[0],
            (share_seen(moments_s, delay_s, tau_s + steps[1], exposure_s) - model) / steps[1],
        ],
        axis=1,
    )
