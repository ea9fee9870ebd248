"""Settling: latency and settling time of each modulator after a flip, and the trigger latency.

A frame is followed by its opposite, and one short exposure is taken at a chosen time after the
flip. The fraction of the change that has happened, over many such times, is fitted by a delay and
an exponential approach, averaged over the exposure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from ....instruments import BadFit, Shown, UnexpectedIntensity
from ...bench.bench import REPEATABLE
from ...optics.calibration_file import Figure, Plot
from ..exposure_search import find_exposure
from ..probe import first_agreeing
from ..session import CalibrationSession, Measured

_TIMES = 16  # sampled times of each change
_BEFORE = 4  # times before the change is expected
_SETTLED_SHOTS = 7  # of a frame that has settled
_BEGUN = 0.03  # fraction of the change at which it has begun; it ends as much before 1
_ALONG, _REFINEMENTS = 6, 4  # sampled times between the two, at least; refinements to reach it
_AGREE = 0.08  # difference of two flips that agree, of the change, at most
_TOO_BRIGHT = 1.2  # times the change; beyond it the source has changed
_LONGEST = 8.0  # longest sampled time over the nominal settling time
_SETTLED = 5e-5  # residual fraction of the change: a fifth of half a step of 12 bits
_POOR = 0.05  # rms residual of the fit, of the change, that is refused
_SMALL = 5e-3
_NOISY = 0.01  # noise of a shot over the change from which the exposure becomes longer
_LONGER, _SHORTER = 3.0, 5  # exposures that a change lasts, at least; shortenings to reach it
_HALVED = 12  # halvings of a step of the fit
_SKIP = "run `lightloom calibrate --skip settling` to use the nominal settling time"


def settling(session: CalibrationSession) -> Measured:
    """Measure how both modulators settle from dark to bright and back.

    Raises
    ------
    BadFit : when the approach is not a delayed exponential, or far slower than nominal
    """
    figures, arrays, plots, notes = [], {}, [], []
    latencies_s: list[float] = []
    for place, (role, modulator) in enumerate(session.bench.modulators.items()):
        series = _Series(session, role, place / 2)
        times_s, fraction = series.measure()
        latencies_s += series.latencies_s
        delay_s, tau_s, rms, errors = fit_settling(times_s, fraction, series.exposure_s)
        wait_s = delay_s + tau_s * float(np.log(1 / _SETTLED))
        wait_error_s = float(np.hypot(errors[0], errors[1] * np.log(1 / _SETTLED)))
        if rms > _POOR:
            raise BadFit(
                f"the {role} modulator's light does not approach a new frame exponentially (off by "
                f"{rms:.1%} rms of the change): check its plot for dithering, overdrive, an "
                "exposure that does not hold whole dither periods, or an object that moved in the "
                f"beam; or {_SKIP}"
            )
        stated_s = modulator.latency_s + modulator.settle_time_s
        figures += [
            Figure(f"{role}_latency_s", delay_s, errors[0], "s", "flip to first light"),
            Figure(f"{role}_time_constant_s", tau_s, errors[1], "s", f"rms of fit {rms:.2%}"),
            Figure(
                f"{role}_wait_s",
                wait_s,
                wait_error_s,
                "s",
                f"to {_SETTLED:g}; nominal {stated_s:g} s",
            ),
        ]
        if wait_s > stated_s + modulator.refresh_period_s:
            notes.append(
                f"the {role} modulator takes {wait_s:.3g} s to settle, not the nominal "
                f"{stated_s:.3g} s of its driver; runs wait for the measured time"
            )
        arrays[f"{role}_moments_s"] = times_s.astype(np.float32)
        arrays[f"{role}_share"] = fraction.astype(np.float32)
        plots.append(
            Plot(
                f"Settling of the {role} modulator",
                "points",
                f"{role}_share",
                f"{role}_moments_s",
                "after the flip, s",
                "fraction of the change",
            )
        )
    figures.append(
        Figure("trigger_latency_s", float(np.mean(latencies_s)), float(np.std(latencies_s)), "s")
    )
    return Measured(tuple(figures), arrays, tuple(plots), tuple(notes))


class _Series:
    """Exposures at chosen times after flips of one modulator.

    Parameters
    ----------
    done : fraction of the step that is done already

    Attributes
    ----------
    exposure_s : current exposure
    latencies_s : from each trigger to the start of its exposure, as the camera reports it
    """

    def __init__(self, session: CalibrationSession, role: str, done: float) -> None:
        self._session, self._role, self._done = session, role, done
        self._probe, modulator = session.probe, session.bench.modulators[role]
        self._latency_s = modulator.latency_s
        self._stated_s = max(modulator.settle_time_s, 1e-4)
        self._wait_s = self._latency_s + 3 * self._stated_s
        self._probe.light(True)
        self._probe.fill()
        self._full_s = find_exposure(self._probe)
        self.exposure_s, self.latencies_s = np.inf, list[float]()
        self._dark = self._change = 0.0

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return times after the flip, and the fraction of the change at each.

        A modulator may be far faster than nominal. An exposure longer than the change hides it, so
        the exposure is shortened while there is enough light.
        """
        self._expose(self._stated_s / 20)
        times_s, fraction = self._changes(1.2 * self._stated_s)
        for _ in range(_SHORTER):
            low_s, high_s = _between(times_s, fraction)
            before_s, is_seen = self.exposure_s, bool((fraction < 1 - _BEGUN).any())
            if is_seen and high_s - low_s > _LONGER * before_s:
                break
            if not self._expose(before_s / _LONGER):
                break
            times_s, fraction = self._changes(1.2 * (high_s - self._latency_s))
        return times_s, fraction

    def _expose(self, wanted_s: float) -> bool:
        """Set the wanted exposure, or the next longer one with enough light.

        Returns
        -------
        whether it is shorter than the exposure before, which is kept otherwise

        Raises
        ------
        BadFit : when the modulator hardly changes the light
        """
        exposure_s = float(np.clip(wanted_s, self._probe.shortest_s, self._full_s))
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
        """Measure the light of settled frames; return their difference and its noise."""
        bright, noise = self._settled(True, exposure_s)
        self._dark, _ = self._settled(False, exposure_s)
        self._change = bright - self._dark
        if self._change < max(0.2 * bright, 0.0) and exposure_s >= self._full_s:
            raise BadFit(
                f"the {self._role} modulator hardly changes the light in {exposure_s:g} s: check "
                f"that it is in the beam and shows its frames, or {_SKIP}"
            )
        return self._change, noise

    def _changes(self, span_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return times until the light has settled, and the fraction of the change at each.

        Raises
        ------
        BadFit : when it takes far longer than nominal
        """
        latency_s = self._latency_s
        before_s = np.linspace(0, latency_s, _BEFORE, endpoint=False)
        while True:
            times_s = latency_s + np.linspace(0, span_s, _TIMES)
            if latency_s:
                times_s = np.append(before_s, times_s)
            fraction = self._sample(times_s)
            if abs(fraction[-1] - 1) < _SMALL * 4 and abs(fraction[-3:].mean() - 1) < _SMALL * 2:
                break
            span_s, self._wait_s = 2 * span_s, 2 * self._wait_s
            if span_s > latency_s + _LONGEST * self._stated_s:
                raise BadFit(
                    f"the {self._role} modulator has not settled {times_s[-1]:.3g} s after its "
                    f"flip ({fraction[-1]:.1%} of the change), but its nominal settling time is "
                    f"{self._stated_s:g} s: give its real settle_time_s in the bench file, or "
                    f"{_SKIP}"
                )
            self._levels(self.exposure_s)
        return self._refine(times_s, fraction)

    def _refine(self, times_s: np.ndarray, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sample more times during a fast change."""
        for _ in range(_REFINEMENTS):
            low_s, high_s = _between(times_s, fraction)
            if ((times_s > low_s) & (times_s < high_s)).sum() >= _ALONG:
                break
            more_s = np.linspace(low_s, high_s, _ALONG + 2)[1:-1]
            fraction = np.append(fraction, self._sample(more_s))
            order = np.argsort(np.append(times_s, more_s), kind="stable")
            times_s, fraction = np.append(times_s, more_s)[order], fraction[order]
        return times_s, fraction

    def _sample(self, times_s: np.ndarray) -> np.ndarray:
        """Return the fraction of the change at each time, the mean of flips in both directions."""
        fractions = []
        for number, time_s in enumerate(times_s):
            seen = []
            for up in (True, False):
                fraction = (self._flipped(up, time_s) - self._dark) / self._change
                self.latencies_s.append(self._probe.latency_s)
                seen.append(fraction if up else 1 - fraction)
            if not 1 - _TOO_BRIGHT < min(seen) <= max(seen) < _TOO_BRIGHT:
                raise UnexpectedIntensity(
                    f"while the {self._role} modulator settles, {seen[-1]:.0%} of the change is "
                    "seen: the light has changed; check the source, and that nothing moves in the "
                    f"beam, or {_SKIP}"
                )
            fractions.append(float(np.mean(seen)))
            self._session.progress(self._done + (number + 1) / len(times_s) / 2)
        return np.array(fractions)

    def _flipped(self, up: bool, time_s: float) -> float:
        """Return the light at a time after a flip, from two flips that agree."""

        def lights() -> Iterator[float]:
            for _ in range(self._session.bench.file.limits.retries + 2):
                shown = self._show(not up)
                self._session.bench.clock.sleep_until(shown.shown_at_s + self._wait_s)
                shown = self._show(up)
                with suppress(*REPEATABLE):  # counted already
                    raw = self._probe.raw(self.exposure_s, shown.shown_at_s + time_s)
                    yield float(self._good(raw, self.exposure_s).sum())

        most = _AGREE * self._change
        pair, others = first_agreeing(lights(), lambda one, other: abs(one - other) < most)
        if pair is None:
            raise UnexpectedIntensity(
                f"the light {time_s:.3g} s after equal flips of the {self._role} modulator "
                "differs: check the source, and that nothing moves in the beam"
            )
        self._probe.count_fault("UnexpectedIntensity", others)
        return sum(pair) / 2

    def _show(self, bright: bool) -> Shown:
        (self._probe.fill if bright else self._probe.blank)(self._role)
        return self._probe.shown(self._role)

    def _settled(self, bright: bool, exposure_s: float) -> tuple[float, float]:
        """Return the light of a settled frame, and the noise of one shot of it.

        Without the source's common factor, pixels of two shots differ only by their own noise.
        """
        self._session.bench.clock.sleep_until(self._show(bright).shown_at_s + self._wait_s)
        shots = [self._good(self._probe.raw(exposure_s), exposure_s) for _ in range(_SETTLED_SHOTS)]
        lights = [float(shot.sum()) for shot in shots]
        common = lights[0] / lights[1] if min(lights[:2]) > 0 else 1.0
        return float(np.median(lights)), self._probe.shot_noise(shots[0], shots[1], common)

    def _good(self, raw: np.ndarray, exposure_s: float) -> np.ndarray:
        """Return the counts of the good pixels above the dark level."""
        return np.asarray((raw - self._session.dark_counts(exposure_s))[~self._session.bad])


def _between(times_s: np.ndarray, fraction: np.ndarray) -> tuple[float, float]:
    """Return the last sampled time before the change, and the first one after it."""
    begun, ended = np.flatnonzero(fraction > _BEGUN), np.flatnonzero(fraction < 1 - _BEGUN)
    first = max(int(begun[0]) - 1, 0) if len(begun) else 0
    last = min(int(ended[-1]) + 1, len(fraction) - 1) if len(ended) else len(fraction) - 1
    return float(times_s[first]), float(times_s[max(last, first + 1)])


def fraction_seen(
    times_s: np.ndarray, delay_s: float, tau_s: float, exposure_s: float
) -> np.ndarray:
    """Return the fraction of a change that an exposure sees, by the start of the exposure.

    Parameters
    ----------
    times_s : starts of exposures after the change was requested: [n]
    delay_s : until the change begins
    tau_s : time constant of its exponential approach
    exposure_s : over which the fraction is averaged
    """

    def area(t: np.ndarray) -> np.ndarray:  # integral of 1 - exp(-t / tau) from 0
        t = np.maximum(t, 0)
        return t + tau_s * np.expm1(-t / tau_s)

    start = times_s - delay_s
    return (area(start + exposure_s) - area(start)) / exposure_s


def fit_settling(
    times_s: np.ndarray, fraction: np.ndarray, exposure_s: float
) -> tuple[float, float, float, tuple[float, float]]:
    """Fit delay and time constant: the best of a grid, then damped Gauss-Newton steps.

    If the exposure is much longer than the time constant, the two are strongly correlated and a
    full step may diverge. A step is halved until the residual falls; if no fraction of it helps,
    the fit ends with the result so far, at worst that of the grid.

    Parameters
    ----------
    times_s : starts of exposures after the change was requested: [n]
    fraction : part of the change that each saw, 0 to 1: [n]
    exposure_s : of each

    Returns
    -------
    delay_s, tau_s, rms of the residual, errors of both in s
    """
    low, high = _between(times_s, fraction)
    span = float(high - low)
    lowest, highest = (low - exposure_s, span / 1000), (high, 3 * span)

    def off(delay_s: float, tau_s: float) -> np.ndarray:
        return np.asarray(fraction - fraction_seen(times_s, delay_s, tau_s, exposure_s))

    grid = (
        (float(np.sum(off(delay, tau) ** 2)), float(delay), float(tau))
        for earliest in {low - exposure_s, low - min(span, exposure_s)}
        for delay in np.linspace(earliest, high, 60)
        for tau in np.geomspace(span / 500, 3 * span, 40)
    )
    least, delay, tau = min(grid)
    slopes = _slopes(times_s, delay, tau, exposure_s, span)
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
        slopes = _slopes(times_s, delay, tau, exposure_s, span)
    rms = float(np.sqrt(least / len(fraction)))
    normal = slopes.T @ slopes
    errors = np.sqrt(np.diag(np.linalg.pinv(normal)) * least / max(len(fraction) - 2, 1))
    return delay, tau, rms, (float(errors[0]), float(errors[1]))


def _slopes(
    times_s: np.ndarray, delay_s: float, tau_s: float, exposure_s: float, span_s: float
) -> np.ndarray:
    """Return the derivatives of the model by delay and time constant: [moments, 2]."""
    model = fraction_seen(times_s, delay_s, tau_s, exposure_s)
    steps = (span_s * 1e-5, tau_s * 1e-4)
    return np.stack(
        [
            (fraction_seen(times_s, delay_s + steps[0], tau_s, exposure_s) - model) / steps[0],
            (fraction_seen(times_s, delay_s, tau_s + steps[1], exposure_s) - model) / steps[1],
        ],
        axis=1,
    )
