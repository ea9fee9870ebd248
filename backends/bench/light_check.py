"""`light_findings`: check whether the light of a bench follows its source and both modulators.

The check takes a few exposures, and needs no calibration. A bench without a light path, with a
covered camera, or with a window on the wrong monitor would otherwise give plausible numbers. The
same light checks the settings of the camera (`instruments.image_checks`). `accuracy` measures the
quality of products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...instruments import Finding, Shot, UnexpectedIntensity
from .bench import Bench
from .detector import MeanSignal

_SURE = 6.0  # standard deviations of noise
_LONGER, _TRIES = 8.0, 4  # factor between exposures, and their number, for unknown brightness
_STAYS = 0.7  # fraction of the light that may remain when a modulator is dark
_MOST_SATURATED = 0.3  # fraction of saturated pixels above which the light cannot be compared


def light_findings(bench: Bench) -> list[Finding]:
    """Check an open bench with its own light, at most at alignment power; then switch it off.

    Raises
    ------
    InstrumentError : when a device does not follow its commands
    """
    bench.source.set_power(min(bench.file.power_w, bench.file.align_power_w))
    findings = [*bench.detector.count_findings(), *follows(bench)]
    image_checks = bench.detector.image_checks()
    if not image_checks or not all(finding.passed for finding in findings):
        return findings
    _show(bench, _test_pattern)
    bench.source.enable()
    tried = [check() for check in image_checks]
    bench.source.disable()
    return [*findings, *(replace(finding, what=f"detector: {finding.what}") for finding in tried)]


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
    before_s = bench.detector.exposure_s
    try:
        return _follow_findings(bench)
    finally:
        bench.source.disable()
        bench.detector.restore_exposure(before_s)


def _follow_findings(bench: Bench) -> list[Finding]:
    longest_s = bench.detector.spec.exposure_limits_s[1]
    longest_s = min(longest_s, 0.4 * bench.file.limits.timeout_s)
    exposure_s = bench.file.exposure_s
    for _ in range(_TRIES):
        dark, lit = _signal(bench, exposure_s, source=False), _signal(bench, exposure_s)
        light = lit.mean - dark.mean
        noise = _SURE * float(np.hypot(lit.noise, dark.noise))
        longer_s = min(_LONGER * exposure_s, longest_s)
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
        seen = _signal(bench, exposure_s, dark=role)
        left = (seen.mean - dark.mean) / light
        passed = left <= _STAYS + noise / light
        detail = f"{max(left, 0):.0%} of the light remains when the modulator is dark"
        if not passed and seen.saturated > _MOST_SATURATED:
            detail += "; the detector is saturated: lower power_w or exposure_s, or add a filter"
        elif not passed:
            detail += "; check its cable and window, and that it shows the frames that it is sent"
        findings.append(Finding(f"{role}: light follows", passed, detail))
    return findings


def _signal(bench: Bench, exposure_s: float, source: bool = True, dark: str = "") -> MeanSignal:
    """Take exposures with both modulators bright, or with one of them dark."""

    def next_shot() -> Shot:
        bench.shots += 1
        return Shot(f"check/{bench.shots}", bench.shots)

    _show(bench, lambda role, shape: np.full(shape, role != dark))
    if source:
        bench.source.enable()
    else:
        bench.source.disable()
    return bench.detector.mean_signal(exposure_s, next_shot)


def _show(bench: Bench, is_bright: Callable[[str, tuple[int, int]], np.ndarray]) -> None:
    for role, modulator in bench.modulators.items():
        top, low = (1 << modulator.bit_depth) - 1, modulator.darkest_level
        levels = np.where(is_bright(role, modulator.shape), top if low < top else 0, low)
        modulator.wait_until_settled(modulator.show(levels.astype(modulator.dtype)))


def _test_pattern(role: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a test pattern without symmetry on the weight modulator, all bright on the input."""
    if role == "input":
        return np.ones(shape, dtype=bool)
    y, x = np.indices(shape) / np.max(shape)
    return (x % 0.25 < 0.2 * (1 - y)) & (y % 0.25 < 0.23 * (1 - x / 2))
