"""`make_probe`: the probe of a bench, which reads a camera or a photodiode."""

from __future__ import annotations

import numpy as np

from ...instruments import Region, Shot
from ..bench.bench import Bench
from .fits import robust_deviation
from .probe import Probe

_LIT, _AGREE_RMS = 0.1, 0.3  # fraction of full of lit pixels; their rms difference over their mean
_STEP_PX = 16  # step of camera regions


class CameraProbe(Probe):
    """Reads images; the noise of a pixel is seen in the difference of two of them."""

    most_dark = 0.25

    def _same_light(self, one: np.ndarray, other: np.ndarray) -> bool:
        off = other - one
        if not off.any():
            return False  # one exposure, read twice
        lit = one > _LIT * self.range
        if lit.any() and np.sqrt(np.mean(off[lit] ** 2)) > _AGREE_RMS * one[lit].mean():
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
