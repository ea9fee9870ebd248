"""`light_findings`: whether the light of a bench follows its source and both modulators.

A few exposures, without any calibration: what a bench without a light path, with a covered camera,
or with a window on the wrong monitor gives looks like numbers otherwise. The camera's settings are
tried by the same light (`instruments.picture`). Not here: how good products are (`merit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...instruments import Finding, Shot, UnexpectedIntensity
from ...instruments.image_checks import grows_with_exposure, reads_the_part
from .bench import WINDOW_SAMPLES, Bench

_SURE = 6.0  # standard deviations of noise
_LONGER, _TRIES = 8.0, 4  # exposures of a bench whose brightness is unknown
_STAYS = 0.7  # share of the light that may be left when a modulator is dark
_MOST_FULL = 0.3  # share of the pixels, from which on they tell nothing
_FRAMES = 3  # that are shown to see whether they are counted


@dataclass(frozen=True)
class _Seen:
    """The mean of a detector's pixels, or samples, its noise, and the share that was full.

    Parameters
    ----------
    noise : standard deviation of the mean
    """

    mean: float
    noise: float
    full: float = 0.0


def light_findings(bench: Bench) -> list[Finding]:
    """Try an open bench by its own light, at the power of alignment at most; then it is dark.

    Raises
    ------
    InstrumentError : when a device does not do what it is asked
    """
    bench.source.set_power(min(bench.file.power_w, bench.file.align_power_w))
    if bench.file.layout == "single-pixel":
        return [*_counted(bench), *follows(bench)]
    findings = follows(bench)
    if not all(finding.passed for finding in findings):
        return findings
    timeout_s = bench.file.limits.timeout_s
    _show(bench, _wedge)
    bench.source.enable()
    tried = [check(bench.camera, timeout_s) for check in (grows_with_exposure, reads_the_part)]
    bench.source.disable()
    return [*findings, *(_of("detector", finding) for finding in tried)]


def refuse_darkness(bench: Bench) -> None:
    """Refuse a bench whose light follows nothing; its source is off afterwards.

    Raises
    ------
    WrongLight : naming what the light does not follow
    """
    wrong = [finding for finding in follows(bench) if not finding.passed]
    if wrong:
        raise UnexpectedIntensity(f"{bench.path}: {wrong[0].what}: {wrong[0].detail}")


def follows(bench: Bench) -> list[Finding]:
    """Return whether light reaches the detector, and goes when source or modulator go dark."""
    before_s = None if bench.file.layout == "single-pixel" else bench.camera.exposure_s
    try:
        return _followed(bench)
    finally:
        bench.source.disable()
        if before_s is not None and bench.camera.exposure_s != before_s:
            bench.camera.configure(exposure_s=before_s)


def _followed(bench: Bench) -> list[Finding]:
    look = _Look(bench)
    exposure_s = bench.file.exposure_s
    for _ in range(_TRIES):
        dark, lit = look.at(exposure_s, source=False), look.at(exposure_s)
        light = lit.mean - dark.mean
        noise = _SURE * float(np.hypot(lit.noise, dark.noise))
        longer_s = min(_LONGER * exposure_s, look.longest_s)
        if light > noise or longer_s <= exposure_s:
            break
        exposure_s = longer_s
    if light <= noise:
        return [
            Finding(
                "source: light arrives",
                False,
                f"the detector sees the same with the source on and off, up to {exposure_s:g} s; "
                "check shutter, power and beam path, and that the detector is not covered",
            )
        ]
    findings = [Finding("source: light arrives", True, f"at {exposure_s:g} s")]
    for role in ("input", "weight"):
        seen = look.at(exposure_s, dark=role)
        left = (seen.mean - dark.mean) / light
        passed = left <= _STAYS + noise / light
        detail = f"{max(left, 0):.0%} of the light is left when it is dark"
        if not passed and seen.full > _MOST_FULL:
            detail += "; the detector is full: lower power_w or exposure_s, or put in a filter"
        elif not passed:
            detail += "; check its cable and window, and that it shows what it is sent"
        findings.append(Finding(f"{role}: light follows", passed, detail))
    return findings


class _Look:
    """Takes exposures of both modulators bright, or of one of them dark."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        limits = bench.file.limits
        self.longest_s = min(limits.exposure_s[1], 0.4 * limits.timeout_s)
        if bench.file.layout != "single-pixel":
            self.longest_s = min(self.longest_s, bench.camera.allowed_exposures_s[1])

    def at(self, exposure_s: float, source: bool = True, dark: str = "") -> _Seen:
        bench = self._bench
        _show(bench, lambda role, shape: np.full(shape, role != dark))
        if source:
            bench.source.enable()
        else:
            bench.source.disable()
        if bench.file.layout == "single-pixel":
            rate_hz = WINDOW_SAMPLES / exposure_s
            timeout_s = bench.file.limits.timeout_s
            volts = bench.daq.read((0,), WINDOW_SAMPLES, rate_hz, timeout_s, self._shot()).volts[0]
            return _Seen(float(volts.mean()), float(volts.std()) / WINDOW_SAMPLES**0.5)
        return self._pictured(exposure_s)

    def _shot(self) -> Shot:
        self._bench.shots += 1
        return Shot(f"check/{self._bench.shots}", self._bench.shots)

    def _pictured(self, exposure_s: float) -> _Seen:
        bench = self._bench
        if bench.camera.exposure_s != exposure_s:
            bench.camera.configure(exposure_s=exposure_s)
        timeout_s = bench.file.limits.timeout_s
        one, other = (
            bench.camera.take(timeout_s, self._shot()).data.astype(np.float64) for _ in range(2)
        )
        noise = float(np.std(one - other)) / (2 * one.size**0.5)
        full = float(np.mean(other >= (1 << bench.camera.bit_depth) - 1))
        return _Seen(float((one + other).mean()) / 2, noise, full)


def _counted(bench: Bench) -> list[Finding]:
    """Show frames, and see whether the DAQ's counters count them."""
    findings = []
    for counter, role in enumerate(("input", "weight")):
        modulator = bench.input if role == "input" else bench.weight
        bench.daq.reset_count(counter)
        for _ in range(_FRAMES):
            modulator.wait_until_settled(modulator.blank())
        counted = bench.daq.count(counter)
        detail = f"counter {counter} counted {counted} of {_FRAMES} frames"
        if counted != _FRAMES:
            detail += f"; connect the {role} modulator's trigger output to it"
        findings.append(Finding(f"{role}: frames are counted", counted == _FRAMES, detail))
    return findings


def _show(bench: Bench, is_bright: Callable[[str, tuple[int, int]], np.ndarray]) -> None:
    for role, modulator in (("input", bench.input), ("weight", bench.weight)):
        top, low = (1 << modulator.bit_depth) - 1, modulator.darkest_level
        levels = np.where(is_bright(role, modulator.shape), top if low < top else 0, low)
        modulator.wait_until_settled(modulator.show(levels.astype(modulator.dtype)))


def _wedge(role: str, shape: tuple[int, int]) -> np.ndarray:
    """Return what no flip and no offset leaves as it is: all bright, and less and less to see."""
    if role == "input":
        return np.ones(shape, dtype=bool)
    y, x = np.indices(shape) / np.max(shape)
    return (x % 0.25 < 0.2 * (1 - y)) & (y % 0.25 < 0.23 * (1 - x / 2))


def _of(role: str, finding: Finding) -> Finding:
    return Finding(f"{role}: {finding.what}", finding.passed, finding.detail)
