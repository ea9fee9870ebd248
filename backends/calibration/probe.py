"""`Probe`: shows frames and takes exposures on a bench that is not yet calibrated.

It counts the cost of calibration (shots, time, light), and repeats exposures that a detector lost.
There is one class for each detector (`make_probe`); `exposure_search` finds a good exposure.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from ...instruments import (
    Region,
    Shot,
    Shown,
    SpatialLightModulator,
    StaleFrame,
    UnexpectedIntensity,
)
from ..bench.bench import REPEATABLE, Bench
from .fits import in_cells, robust_deviation

T = TypeVar("T")
_PATIENCE = 3.0  # wait over a modulator's nominal settling time, until it is measured
_AGREE = 0.1  # relative difference of the light of two exposures that agree, at most
_SURE = 6.0  # standard deviations of noise that are added to `_AGREE`
_LIT, _PIXELS_AGREE = 0.1, 0.3  # fraction of full of lit pixels; their rms difference over mean
_STEP_PX = 16  # step of camera regions
_DARK_FRAMES = 4  # of a dark image
_PEAK_PIXELS = 12  # pixels that reach the peak: single hot pixels do not count


@dataclass(frozen=True)
class Exposure:
    """An exposure above the dark level.

    Parameters
    ----------
    counts : float64 [h, w], less the dark image at this exposure; volts [1, 1] of a photodiode
    full : number of full pixels (samples)
    """

    counts: np.ndarray
    full: int

    @property
    def peak(self) -> float:
        """The counts that at least a dozen pixels reach."""
        if self.counts.size <= _PEAK_PIXELS:
            return float(self.counts.max())
        return float(np.partition(self.counts, -_PEAK_PIXELS, axis=None)[-_PEAK_PIXELS])

    @property
    def is_overexposed(self) -> bool:
        """Whether more than a dozen pixels are full."""
        return self.full > _PEAK_PIXELS


class Probe(ABC):
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
    noise_v2 : variance of the latest window's sum of volts, from the spread of its samples; 0 with
        a camera
    dark_repeats : dark frames over those of a camera
    most_dark : fraction of the detector's range that its dark level may reach
    """

    dark_repeats: ClassVar[int] = 1
    most_dark: ClassVar[float] = np.inf

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

    # --- cost ------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """The bench's time since the probe was created."""
        return self.bench.clock.now_s() - self._started_s

    def cost(self) -> dict[str, Any]:
        """Return the cost since the probe was created, as the fields of a `Step`.

        On a real clock, the host's time includes the waits.
        """
        return {
            "shots": self.shots,
            "seconds": self.seconds,
            "computing_s": time.perf_counter() - self._began,
            "light_j": self.light_j,
        }

    def count_fault(self, reason: str, count: int = 1) -> None:
        """Count exposures that are repeated."""
        self.faults[reason] = self.faults.get(reason, 0) + count

    # --- light and frames ------------------------------------------------------------------------

    @property
    def range(self) -> float:
        """The counts (volts of a window) at which the detector is full."""
        return self.bench.detector.spec.full_scale * self.bench.detector.samples

    @property
    def shortest_s(self) -> float:
        """The shortest exposure that bench file and detector allow."""
        return self.bench.detector.spec.exposure_limits_s[0]

    @property
    def longest_s(self) -> float:
        """The longest exposure, which leaves time for read-out before the time-out."""
        longest_s = self.bench.detector.spec.exposure_limits_s[1]
        return min(longest_s, 0.5 * self.bench.file.limits.timeout_s)

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
            self.draw(role, np.zeros(self.bench.modulators[role].shape, dtype=bool))

    def fill(self, *roles: str) -> None:
        """Show the brightest level everywhere, on both modulators where none is named."""
        for role in roles or ("input", "weight"):
            self.draw(role, np.ones(self.bench.modulators[role].shape, dtype=bool))

    def draw(self, role: str, is_bright: np.ndarray) -> None:
        """Show the brightest level where a mask (height, width) is True, the darkest elsewhere."""
        modulator = self.bench.modulators[role]
        top, low = (1 << modulator.bit_depth) - 1, modulator.darkest_level
        bright = top if low < top else 0
        self.show(role, np.where(is_bright, bright, low).astype(modulator.dtype))

    def show(self, role: str, frame: np.ndarray) -> None:
        """Show a frame of grey levels, unless it is shown already."""
        before = self._shown.get(role)
        if before is not None and np.array_equal(before[1], frame):
            return
        modulator = self.bench.modulators[role]
        self.bench.detector.expect_frame(role)
        self._shown[role] = (modulator.show(frame), frame.copy())

    def shown(self, role: str) -> Shown:
        """Return the times of the latest frame."""
        return self._shown[role][0]

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
        return Exposure(total / count - dark, full)

    def pair(self, exposure_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return two exposures of the shown frames that agree; others are repeated and counted.

        Raises
        ------
        UnexpectedIntensity : when no two agree
        """

        def agree(one: np.ndarray, other: np.ndarray) -> bool:
            dark = self.dark(exposure_s)
            return self._same_light(one - dark, other - dark)

        raws = (self.raw(exposure_s) for _ in range(self.bench.file.limits.retries + 2))
        pair, others = first_agreeing(raws, agree)
        if pair is None:
            raise all_differ(others)
        self.count_fault("UnexpectedIntensity", others)
        return pair

    @abstractmethod
    def _same_light(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Return whether two exposures above the dark level show the same light."""

    def _sums_agree(self, one: np.ndarray, other: np.ndarray, noise: float) -> bool:
        """Return whether the total light of two exposures agrees.

        Parameters
        ----------
        noise : standard deviation of the difference of their sums
        """
        most = max(abs(float(one.sum())), abs(float(other.sum())))
        return abs(float((other - one).sum())) < _AGREE * most + _SURE * noise

    @abstractmethod
    def shot_noise(self, one: np.ndarray, other: np.ndarray, ratio: float) -> float:
        """Return the noise of the light of one shot, without that of the source.

        Parameters
        ----------
        one, other : good pixels of two shots of the same frames, above the dark level
        ratio : brightness of the source in the first shot over that in the second
        """

    @abstractmethod
    def dark_noise(self, variance: np.ndarray, window_variance: float) -> tuple[float, int]:
        """Return the noise of a dark frame, and the number of its independent values per frame.

        Parameters
        ----------
        variance : of good pixels between dark frames, [n]
        window_variance : mean of `noise_v2` over dark frames
        """

    def pair_mean(self, exposure_s: float) -> np.ndarray:
        """Return the mean of two exposures that agree, less the dark image: counts [h, w]."""
        one, other = self.pair(exposure_s)
        return (one.astype(np.float64) + other) / 2 - self.dark(exposure_s)

    def dark(self, exposure_s: float) -> np.ndarray:
        """Return the mean dark image at an exposure, float64 [h, w], taken once with no light."""
        if exposure_s not in self._dark:
            was_lit = self._is_lit
            self.light(False)
            raws = [self.raw(exposure_s) for _ in range(_DARK_FRAMES)]
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
            for role, modulator in bench.modulators.items():
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
                if at_s is None:
                    self._check_counters()
                return taken
            except REPEATABLE as error:
                self.count_fault(type(error).__name__)
                if attempt == bench.file.limits.retries or at_s is not None:
                    raise
                self._recover()
        raise AssertionError("unreachable")

    def _settle(self, role: str, modulator: SpatialLightModulator) -> None:
        """Wait for the measured settling time, or for a multiple of the nominal one."""
        shown = self._shown[role][0]
        settling_s = self.settling_s.get(role)
        if settling_s is None:
            settling_s = modulator.latency_s + _PATIENCE * modulator.settle_time_s
        self.bench.clock.sleep_until(shown.shown_at_s + settling_s)

    @abstractmethod
    def _expose(self, exposure_s: float, shot: Shot) -> np.ndarray:
        """Take one exposure: counts [h, w], or the sum of a window's volts [1, 1]."""

    def _recover(self) -> None:  # noqa: B027 (not all detectors keep a lost exposure)
        """Discard an exposure that was lost, before it is repeated."""

    def narrow(self, left: int, right: int) -> None:  # noqa: B027 (a photodiode has no columns)
        """Read only some columns of the camera from now on; the other pixels are zero."""

    def widen(self) -> None:  # noqa: B027
        """Read the whole camera again."""

    def _check_counters(self) -> None:
        """Check with the counters, if any, that every frame was shown."""
        for role, counted, expected in self.bench.detector.frame_counts():
            if counted != expected:
                raise StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {expected} were shown: the "
                    f"{role} modulator does not show its frames (a frozen window, a loose cable), "
                    "or its counter's line is not connected"
                )


class CameraProbe(Probe):
    """Reads images; the noise of a pixel is seen in the difference of two of them."""

    most_dark = 0.25

    def _same_light(self, one: np.ndarray, other: np.ndarray) -> bool:
        off = other - one
        if not off.any():
            return False  # one exposure, read twice
        lit = one > _LIT * self.range
        if lit.any() and np.sqrt(np.mean(off[lit] ** 2)) > _PIXELS_AGREE * one[lit].mean():
            return False
        return self._sums_agree(one, other, robust_deviation(off) * off.size**0.5)

    def shot_noise(self, one: np.ndarray, other: np.ndarray, ratio: float) -> float:
        """Return the noise from the pixels of two shots, which differ only by their own noise."""
        return float((np.sum((one - ratio * other) ** 2) / 2) ** 0.5)

    def dark_noise(self, variance: np.ndarray, window_variance: float) -> tuple[float, int]:
        """Return the noise between dark frames, and the number of pixels."""
        return float(np.sqrt(np.mean(variance))), len(variance)

    def _expose(self, exposure_s: float, shot: Shot) -> np.ndarray:
        camera, clock = self.bench.camera, self.bench.clock
        self.bench.detector.restore_exposure(exposure_s)
        if not camera.is_armed:
            camera.arm()
        triggered_s = clock.now_s()
        camera.trigger(shot)
        frame = camera.read(self.bench.file.limits.timeout_s)
        self.latency_s = frame.taken_at_s - triggered_s
        if frame.data.shape == camera.sensor_shape:
            return frame.data
        region = camera.region
        whole = np.zeros(camera.sensor_shape, dtype=frame.data.dtype)
        whole[region.top : region.top + region.height, region.left : region.left + region.width] = (
            frame.data
        )
        return whole

    def _recover(self) -> None:
        self.bench.camera.arm()

    def narrow(self, left: int, right: int) -> None:
        """Read only some columns of the camera from now on; the other pixels are zero."""
        height, width = self.bench.camera.sensor_shape
        left, right = max(left // _STEP_PX * _STEP_PX, 0), -(-right // _STEP_PX) * _STEP_PX
        region = Region(0, left, height, min(right, width) - left)
        self.bench.camera.configure(region=region)
        self._dark.clear()

    def widen(self) -> None:
        """Read the whole camera again."""
        if self.bench.camera.is_connected:
            self.bench.camera.configure(region=Region(0, 0, *self.bench.camera.sensor_shape))
            self._dark.clear()


class PhotodiodeProbe(Probe):
    """Reads windows of samples, whose spread shows the noise of each window."""

    dark_repeats = 4  # times as many windows as images: one noisy pixel

    def __init__(self, bench: Bench, name: str, power_w: float) -> None:
        super().__init__(bench, name, power_w)
        bench.detector.arm()

    def _same_light(self, one: np.ndarray, other: np.ndarray) -> bool:
        return self._sums_agree(one, other, float(np.sqrt(2 * self.noise_v2)))

    def shot_noise(self, one: np.ndarray, other: np.ndarray, ratio: float) -> float:
        """Return the noise of the latest window."""
        return float(self.noise_v2**0.5)

    def dark_noise(self, variance: np.ndarray, window_variance: float) -> tuple[float, int]:
        """Return the noise inside windows, a better estimate than that between few windows."""
        return float(np.sqrt(window_variance)), self.bench.detector.samples - 1

    def _expose(self, exposure_s: float, shot: Shot) -> np.ndarray:
        detector = self.bench.detector
        volts = detector.take_fresh(exposure_s, self.bench.file.limits.timeout_s, shot)
        self.noise_v2 = float(volts.var(ddof=1)) * detector.samples
        if volts.max() >= detector.spec.full_scale:
            return np.full((1, 1), self.range)
        return np.asarray(volts.sum(axis=1, keepdims=True))


_PROBES: dict[str, type[Probe]] = {"camera": CameraProbe, "daq": PhotodiodeProbe}


def make_probe(bench: Bench, name: str, power_w: float) -> Probe:
    """Return the probe of an open bench; for parameters see `Probe`."""
    return _PROBES[bench.detector.kind](bench, name, power_w)


@contextmanager
def opened(bench: Bench) -> Iterator[None]:
    """Open a closed bench inside a `with`; leave an open one open, with its light off."""
    was_open = bench.source.is_connected
    try:
        if not was_open:
            bench.open()
        yield
    finally:
        if was_open:
            bench.make_safe()
            bench.source.set_power(bench.file.power_w)
        else:
            bench.close()


def first_agreeing(
    taken: Iterable[T], agree: Callable[[T, T], bool]
) -> tuple[tuple[T, T] | None, int]:
    """Return the first two exposures that agree, or None, and the number of the other ones."""
    before: list[T] = []
    for now in taken:
        for earlier in before:
            if agree(earlier, now):
                return (earlier, now), len(before) - 1
        before.append(now)
    return None, len(before)


def all_differ(count: int) -> UnexpectedIntensity:
    """Return the error of exposures of the same frames of which no two agree."""
    return UnexpectedIntensity(
        f"{count} exposures of the same frames all differ: keep hands and moving objects out of "
        "the beam, and check that the source is stable"
    )


def area_sums(image: np.ndarray, side: int) -> np.ndarray:
    """Sum an image [h, w] over squares of pixels; a smaller image stays unchanged."""
    if min(image.shape) < side:
        return image
    return np.asarray(in_cells(image, (side, side)).sum(axis=(1, 3)))
