"""`Probe`: shows frames and takes exposures on a bench that is not yet calibrated.

It counts the cost of calibration (shots, time, light), repeats exposures that a detector lost, and
finds an exposure that uses the detector's range well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ...instruments import (
    Region,
    Saturated,
    Shot,
    Shown,
    SpatialLightModulator,
    StaleFrame,
    UnexpectedIntensity,
)
from ..bench.bench import REPEATABLE, Bench
from ..bench.detector import WINDOW_SAMPLES

_GOAL, _LOW, _HIGH = 0.55, 0.4, 0.75  # fraction of the range that the brightest pixels reach
_PATIENCE = 3.0  # wait over a modulator's nominal settling time, until it is measured
_AGREE = 0.1  # relative difference of the light of two exposures that agree, at most
_LIT, _AGREE_RMS = 0.1, 0.3  # fraction of full of lit pixels; their rms difference over their mean
_SURE = 6.0  # standard deviations of noise that are added to `_AGREE`
_STEP_PX = 16  # step of camera regions
_PEAK_PIXELS = 12  # pixels that reach the peak: single hot pixels do not count


@dataclass(frozen=True)
class Exposure:
    """An exposure above the dark level.

    Parameters
    ----------
    counts : float64 [h, w], less the dark image at this exposure; volts [1, 1] of a photodiode
    full : number of full pixels (samples)
    exposure_s : of one exposure
    """

    counts: np.ndarray
    full: int
    exposure_s: float

    @property
    def peak(self) -> float:
        """The counts that at least a dozen pixels reach."""
        if self.counts.size <= _PEAK_PIXELS:
            return float(self.counts.max())
        return float(np.partition(self.counts, -_PEAK_PIXELS, axis=None)[-_PEAK_PIXELS])


class Probe:
    """Shows frames and takes exposures.

    Parameters
    ----------
    bench : open, light off
    name : of the procedure, for the address of its shots
    power_w : of the source while it is on

    Attributes
    ----------
    shots, light_j : taken so far; energy that the source emitted during exposures
    faults : reason -> number of exposures repeated for it
    settling_s : measured settling times, by role
    latency_s : from the latest trigger to the start of its exposure, as the camera reports it
    noise_v2 : variance of the latest window's sum of volts, from the spread of its samples
    """

    def __init__(self, bench: Bench, name: str, power_w: float) -> None:
        self.bench, self.name, self.power_w = bench, name, power_w
        self.shots, self.light_j = 0, 0.0
        self.faults: dict[str, int] = {}
        self.settling_s: dict[str, float] = {}
        self.latency_s, self.noise_v2 = 0.0, 0.0
        self._shown: dict[str, tuple[Shown, np.ndarray]] = {}
        self._dark: dict[float, np.ndarray] = {}
        self._is_lit = False
        self._started_s, self._began = bench.clock.now_s(), time.perf_counter()
        bench.source.set_power(power_w)
        self._frames = {"input": 0, "weight": 0}
        if self.is_single_pixel:
            for counter in (0, 1):
                bench.daq.reset_count(counter)

    # --- cost ------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """The bench's time since the probe was created."""
        return self.bench.clock.now_s() - self._started_s

    @property
    def computing_s(self) -> float:
        """The host's time since the probe was created; on a real clock it includes the waits."""
        return time.perf_counter() - self._began

    def count_fault(self, reason: str, count: int = 1) -> None:
        """Count exposures that are repeated."""
        self.faults[reason] = self.faults.get(reason, 0) + count

    # --- light and frames ------------------------------------------------------------------------

    @property
    def is_single_pixel(self) -> bool:
        """Whether the detector is one photodiode."""
        return self.bench.file.layout == "single-pixel"

    @property
    def range(self) -> float:
        """The counts (volts) at which the detector is full."""
        if self.is_single_pixel:
            return float(self.bench.daq.input_range_v[1]) * WINDOW_SAMPLES
        return float((1 << self.bench.camera.bit_depth) - 1)

    @property
    def shortest_s(self) -> float:
        """The shortest exposure that bench file and detector allow."""
        low = self.bench.file.limits.exposure_s[0]
        if self.is_single_pixel:
            return max(low, WINDOW_SAMPLES / self.bench.daq.rate_limits_hz[1])
        return max(low, self.bench.camera.exposure_limits_s[0])

    @property
    def longest_s(self) -> float:
        """The longest exposure, which leaves time for read-out before the time-out."""
        limits = self.bench.file.limits
        high = min(limits.exposure_s[1], 0.5 * limits.timeout_s)
        if self.is_single_pixel:
            return high
        return min(high, self.bench.camera.exposure_limits_s[1])

    def light(self, on: bool) -> None:
        """Switch the source on or off."""
        if on and not self._is_lit:
            self.bench.source.enable()
        elif not on:
            self.bench.source.disable()
        self._is_lit = on

    def blank(self, *roles: str) -> None:
        """Show the darkest level everywhere, on both modulators where none is named."""
        for role in roles or ("input", "weight"):
            modulator = self.bench.input if role == "input" else self.bench.weight
            self.show(
                role, np.full(modulator.shape, modulator.darkest_level, dtype=modulator.dtype)
            )

    def fill(self, *roles: str) -> None:
        """Show the brightest level everywhere, on both modulators where none is named."""
        for role in roles or ("input", "weight"):
            modulator = self.bench.input if role == "input" else self.bench.weight
            top = (1 << modulator.bit_depth) - 1
            self.show(role, np.full(modulator.shape, top, dtype=modulator.dtype))

    def draw(self, role: str, is_bright: np.ndarray) -> None:
        """Show the brightest level where a mask (height, width) is True, the darkest elsewhere."""
        modulator = self.bench.input if role == "input" else self.bench.weight
        top, low = (1 << modulator.bit_depth) - 1, modulator.darkest_level
        bright = top if low < top else 0
        self.show(role, np.where(is_bright, bright, low).astype(modulator.dtype))

    def show(self, role: str, frame: np.ndarray) -> None:
        """Show a frame of grey levels, unless it is shown already."""
        before = self._shown.get(role)
        if before is not None and np.array_equal(before[1], frame):
            return
        modulator = self.bench.input if role == "input" else self.bench.weight
        self._frames[role] += 1
        self._shown[role] = (modulator.show(frame), frame.copy())

    def shown(self, role: str) -> Shown:
        """Return the times of the latest frame."""
        return self._shown[role][0]

    def shown_at_s(self, role: str) -> float:
        """Return the time of the latest frame's flip."""
        return self._shown[role][0].shown_at_s

    def forget_frames(self) -> None:
        """Forget the shown frames, so that the next ones are sent in any case."""
        self._shown.clear()

    # --- exposures -------------------------------------------------------------------------------

    def take(self, exposure_s: float, count: int = 1) -> Exposure:
        """Return the mean of some exposures of the shown frames, less the dark image.

        Raises
        ------
        InstrumentTimeout, StaleFrame, DroppedFrame, IncompleteFrame : when all repeats fail
        """
        dark = self.dark(exposure_s)
        raws = [self.raw(exposure_s) for _ in range(count)]
        total = np.add.reduce([raw.astype(np.float64) for raw in raws])
        lit = dark < 0.5 * self.range  # a hot pixel may be full without light
        full = max(int(((raw >= self.range) & lit).sum()) for raw in raws)
        return Exposure(total / count - dark, full, exposure_s)

    def pair(self, exposure_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return two exposures of the shown frames that agree; others are repeated and counted.

        Raises
        ------
        UnexpectedIntensity : when no two agree
        """
        taken: list[np.ndarray] = []
        for _ in range(self.bench.file.limits.retries + 2):
            now = self.raw(exposure_s)
            for before in taken:
                if self._agree(before, now, exposure_s):
                    if len(taken) > 1:
                        self.count_fault("UnexpectedIntensity", len(taken) - 1)
                    return before, now
            taken.append(now)
        raise UnexpectedIntensity(
            f"{len(taken)} exposures of the same frames all differ: keep hands and moving objects "
            "out of the beam, and check that the source is stable"
        )

    def _agree(self, one: np.ndarray, other: np.ndarray, exposure_s: float) -> bool:
        dark = self.dark(exposure_s)
        one, other = one - dark, other - dark
        off = other - one
        noise = float(np.sqrt(2 * self.noise_v2))
        if not self.is_single_pixel:
            if not off.any():
                return False  # one exposure, read twice
            noise = 1.4826 * float(np.median(np.abs(off - np.median(off)))) * off.size**0.5
            lit = one > _LIT * self.range
            if lit.any() and np.sqrt(np.mean(off[lit] ** 2)) > _AGREE_RMS * one[lit].mean():
                return False
        most = max(abs(float(one.sum())), abs(float(other.sum())))
        return abs(float(off.sum())) < _AGREE * most + _SURE * noise

    def pair_mean(self, exposure_s: float) -> np.ndarray:
        """Return the mean of two exposures that agree, less the dark image: counts [h, w]."""
        one, other = self.pair(exposure_s)
        return (one.astype(np.float64) + other) / 2 - self.dark(exposure_s)

    def dark(self, exposure_s: float, count: int = 4) -> np.ndarray:
        """Return the mean dark image at an exposure, float64 [h, w], taken once with no light."""
        if exposure_s not in self._dark:
            was_lit = self._is_lit
            self.light(False)
            raws = [self.raw(exposure_s) for _ in range(count)]
            self._dark[exposure_s] = np.asarray(np.mean(raws, axis=0, dtype=np.float64))
            if was_lit:
                self.light(True)
        return self._dark[exposure_s]

    def raw(self, exposure_s: float, at_s: float | None = None) -> np.ndarray:
        """Return one raw exposure: counts [h, w], or the sum of a window's volts [1, 1].

        Parameters
        ----------
        at_s : time of its trigger; None waits until both frames have settled
        """
        bench = self.bench
        if at_s is None:
            for role, modulator in (("input", bench.input), ("weight", bench.weight)):
                if role in self._shown:
                    self._settle(role, modulator)
        else:
            bench.clock.sleep_until(at_s)
        for attempt in range(bench.file.limits.retries + 1):
            self.shots += 1
            if self._is_lit:
                self.light_j += self.power_w * exposure_s
            bench.shots += 1
            shot = Shot(f"{self.name}/{bench.shots}", bench.shots)
            try:
                taken = self._expose(exposure_s, shot)
                if self.is_single_pixel and at_s is None:
                    self._check_counters()
                return taken
            except REPEATABLE as error:
                self.count_fault(type(error).__name__)
                if attempt == bench.file.limits.retries or at_s is not None:
                    raise
                if not self.is_single_pixel:
                    bench.camera.arm()
        raise AssertionError("unreachable")

    def _settle(self, role: str, modulator: SpatialLightModulator) -> None:
        """Wait for the measured settling time, or for a multiple of the nominal one."""
        shown = self._shown[role][0]
        settling_s = self.settling_s.get(role)
        if settling_s is None:
            settling_s = modulator.latency_s + _PATIENCE * modulator.settle_time_s
        self.bench.clock.sleep_until(shown.shown_at_s + settling_s)

    def _expose(self, exposure_s: float, shot: Shot) -> np.ndarray:
        bench = self.bench
        timeout_s = bench.file.limits.timeout_s
        if self.is_single_pixel:
            rate_hz = WINDOW_SAMPLES / exposure_s
            samples = bench.daq.read((0,), WINDOW_SAMPLES, rate_hz, timeout_s, shot)
            self.noise_v2 = float(samples.volts.var(ddof=1)) * WINDOW_SAMPLES
            if samples.volts.max() >= self.bench.daq.input_range_v[1]:
                return np.full((1, 1), self.range)
            return np.asarray(samples.volts.sum(axis=1, keepdims=True))
        camera = bench.camera
        if camera.exposure_s != exposure_s:
            camera.configure(exposure_s=exposure_s)
        if not camera.is_armed:
            camera.arm()
        triggered_s = bench.clock.now_s()
        camera.trigger(shot)
        frame = camera.read(timeout_s)
        self.latency_s = frame.taken_at_s - triggered_s
        if frame.data.shape == camera.sensor_shape:
            return frame.data
        region = camera.region
        whole = np.zeros(camera.sensor_shape, dtype=frame.data.dtype)
        whole[region.top : region.top + region.height, region.left : region.left + region.width] = (
            frame.data
        )
        return whole

    def narrow(self, left: int, right: int) -> None:
        """Read only some columns of the camera from now on; the other pixels are zero."""
        height, width = self.bench.camera.sensor_shape
        left, right = max(left // _STEP_PX * _STEP_PX, 0), -(-right // _STEP_PX) * _STEP_PX
        region = Region(0, left, height, min(right, width) - left)
        self.bench.camera.configure(region=region)
        self._dark.clear()

    def widen(self) -> None:
        """Read the whole camera again."""
        if not self.is_single_pixel and self.bench.camera.is_connected:
            self.bench.camera.configure(region=Region(0, 0, *self.bench.camera.sensor_shape))
            self._dark.clear()

    def _check_counters(self) -> None:
        """Check with the counters that every frame was shown."""
        for counter, role in enumerate(("input", "weight")):
            counted, wanted = self.bench.daq.count(counter), self._frames[role]
            if counted != wanted:
                raise StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {wanted} were shown: the "
                    f"{role} modulator does not show its frames (a frozen window, a loose cable), "
                    "or its counter's line is not connected"
                )

    def find_exposure(
        self, start_s: float | None = None, goal: float = _GOAL, may_be_dark: bool = False
    ) -> float:
        """Find an exposure at which the brightest pixels of the shown frames are half full.

        Parameters
        ----------
        start_s : first exposure of the search
        goal : fraction of the detector's range
        may_be_dark : whether frames may pass almost no light

        Returns
        -------
        exposure_s : the longest one if that stays below the goal

        Raises
        ------
        Saturated : when the detector is full at the shortest exposure
        UnexpectedIntensity : when there is no light at the longest exposure
        """
        exposure_s = self.bench.file.exposure_s if start_s is None else start_s
        confirmed_s = 0.0
        for _ in range(16):
            exposure_s = float(np.clip(exposure_s, self.shortest_s, self.longest_s))
            taken = self.take(exposure_s)
            filling = taken.peak / self.range
            if taken.full > _PEAK_PIXELS or filling > _HIGH * goal / _GOAL:
                if exposure_s <= self.shortest_s:
                    raise Saturated(
                        f"the detector is full at the shortest exposure, {exposure_s:g} s, and "
                        f"{self.power_w:g} W: lower the power, or insert a filter"
                    )
                down = 0.1 if taken.full > _PEAK_PIXELS else goal / filling
                exposure_s *= max(down, 0.1)
            elif filling < _LOW * goal / _GOAL:
                if exposure_s >= self.longest_s:
                    if not may_be_dark and taken.peak <= 8 * self._noise(exposure_s):
                        raise UnexpectedIntensity(_no_light(self, exposure_s))
                    return exposure_s
                exposure_s *= min(goal / max(filling, 1e-9), 10.0)
            elif confirmed_s == exposure_s:  # a second exposure confirms it
                return exposure_s
            else:
                confirmed_s = exposure_s
        raise UnexpectedIntensity(
            "no exposure gives stable light: check that nothing moves in the beam, and the source"
        )

    def _noise(self, exposure_s: float) -> float:
        """Return the approximate noise of a pixel in counts, from two exposures of equal light."""
        one, other = (self.raw(exposure_s).astype(np.float64) for _ in range(2))
        return float(1.4826 * np.median(np.abs(one - other))) / 2**0.5 + 1e-6 * self.range


def _no_light(probe: Probe, exposure_s: float) -> str:
    """Return the reason why no light arrives, as far as the instruments know."""
    if not probe.bench.source.is_emitting():
        return (
            "the light source does not emit although it was enabled: check its interlock, key "
            "and shutter, and re-arm it on site"
        )
    return (
        f"the source emits {probe.power_w:g} W and no light reaches the detector in "
        f"{exposure_s:g} s with both modulators bright: take the camera's cover off, open the "
        "shutters, and check that nothing blocks the beam and that both modulators show their "
        "frames"
    )


def area_sums(image: np.ndarray, side: int) -> np.ndarray:
    """Sum an image [h, w] over squares of pixels; a smaller image stays unchanged."""
    height, width = (size // side * side for size in image.shape)
    if not height or not width:
        return image
    cut = image[:height, :width].reshape(height // side, side, width // side, side)
    return np.asarray(cut.sum(axis=(1, 3)))
