"""`light_findings`: check whether the light of a bench follows its source and both modulators.

The check takes a few exposures, and needs no calibration. A bench without a light path, with a
covered camera, or with a window on the wrong monitor would otherwise give plausible numbers. The
same light checks the settings of the camera (`instruments.image_checks`). `accuracy` measures the
quality of products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...instruments import Finding, Shot, UnexpectedIntensity
from ...instruments.image_checks import grows_with_exposure, reads_region
from .bench import Bench
from .detector import WINDOW_SAMPLES

_SURE = 6.0  # standard deviations of noise
_LONGER, _TRIES = 8.0, 4  # factor between exposures, and their number, for unknown brightness
_STAYS = 0.7  # fraction of the light that may remain when a modulator is dark
_MOST_SATURATED = 0.3  # fraction of saturated pixels above which the light cannot be compared
_FRAMES = 3  # shown to test the frame counters


@dataclass(frozen=True)
class _MeanSignal:
    """The mean of the pixels, or samples, of a detector.

    Parameters
    ----------
    noise : standard deviation of the mean
    saturated : fraction of saturated pixels
    """

    mean: float
    noise: float
    saturated: float = 0.0


def light_findings(bench: Bench) -> list[Finding]:
    """Check an open bench with its own light, at most at alignment power; then switch it off.

    Raises
    ------
    InstrumentError : when a device does not follow its commands
    """
    bench.source.set_power(min(bench.file.power_w, bench.file.align_power_w))
    if bench.file.layout == "single-pixel":
        return [*_counted(bench), *follows(bench)]
    findings = follows(bench)
    if not all(finding.passed for finding in findings):
        return findings
    timeout_s = bench.file.limits.timeout_s
    _show(bench, _test_pattern)
    bench.source.enable()
    tried = [check(bench.camera, timeout_s) for check in (grows_with_exposure, reads_region)]
    bench.source.disable()
    return [*findings, *(_of("detector", finding) for finding in tried)]


def refuse_darkness(bench: Bench) -> None:
    """Refuse a bench whose light does not follow a device; its source is off afterwards.

    Raises
    ------
    UnexpectedIntensity : naming the device that the light does not follow
    """
    wrong = [finding for finding in follows(bench) if not finding.passed]
    if wrong:
        raise UnexpectedIntensity(f"{bench.path}: {wrong[0].what}: {wrong[0].detail}")


def follows(bench: Bench) -> list[Finding]:
    """Return findings: whether light arrives, and whether source and modulators switch it."""
    before_s = None if bench.file.layout == "single-pixel" else bench.camera.exposure_s
    try:
        return _follow_findings(bench)
    finally:
        bench.source.disable()
        if before_s is not None and bench.camera.exposure_s != before_s:
            bench.camera.configure(exposure_s=before_s)


def _follow_findings(bench: Bench) -> list[Finding]:
    exposures = _Exposures(bench)
    exposure_s = bench.file.exposure_s
    for _ in range(_TRIES):
        dark, lit = exposures.take(exposure_s, source=False), exposures.take(exposure_s)
        light = lit.mean - dark.mean
        noise = _SURE * float(np.hypot(lit.noise, dark.noise))
        longer_s = min(_LONGER * exposure_s, exposures.longest_s)
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
        seen = exposures.take(exposure_s, dark=role)
        left = (seen.mean - dark.mean) / light
        passed = left <= _STAYS + noise / light
        detail = f"{max(left, 0):.0%} of the light remains when the modulator is dark"
        if not passed and seen.saturated > _MOST_SATURATED:
            detail += "; the detector is saturated: lower power_w or exposure_s, or add a filter"
        elif not passed:
            detail += "; check its cable and window, and that it shows the frames that it is sent"
        findings.append(Finding(f"{role}: light follows", passed, detail))
    return findings


class _Exposures:
    """Takes exposures with both modulators bright, or with one of them dark."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        limits = bench.file.limits
        self.longest_s = min(limits.exposure_s[1], 0.4 * limits.timeout_s)
        if bench.file.layout != "single-pixel":
            self.longest_s = min(self.longest_s, bench.camera.allowed_exposures_s[1])

    def take(self, exposure_s: float, source: bool = True, dark: str = "") -> _MeanSignal:
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
            return _MeanSignal(float(volts.mean()), float(volts.std()) / WINDOW_SAMPLES**0.5)
        return self._camera_mean(exposure_s)

    def _shot(self) -> Shot:
        self._bench.shots += 1
        return Shot(f"check/{self._bench.shots}", self._bench.shots)

    def _camera_mean(self, exposure_s: float) -> _MeanSignal:
        bench = self._bench
        if bench.camera.exposure_s != exposure_s:
            bench.camera.configure(exposure_s=exposure_s)
        timeout_s = bench.file.limits.timeout_s
        one, other = (
            bench.camera.take(timeout_s, self._shot()).data.astype(np.float64) for _ in range(2)
        )
        noise = float(np.std(one - other)) / (2 * one.size**0.5)
        saturated = float(np.mean(other >= (1 << bench.camera.bit_depth) - 1))
        return _MeanSignal(float((one + other).mean()) / 2, noise, saturated)


def _counted(bench: Bench) -> list[Finding]:
    """Return findings: whether the counters of the DAQ count the frames of both modulators."""
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


def _test_pattern(role: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a test pattern without symmetry on the weight modulator, all bright on the input."""
    if role == "input":
        return np.ones(shape, dtype=bool)
    y, x = np.indices(shape) / np.max(shape)
    return (x % 0.25 < 0.2 * (1 - y)) & (y % 0.25 < 0.23 * (1 - x / 2))


def _of(role: str, finding: Finding) -> Finding:
    return Finding(f"{role}: {finding.what}", finding.passed, finding.detail)
