"""Dark frames: what the detector shows without light, and which of its pixels are hot."""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit
from ...bench.bench import WINDOW_SAMPLES
from ...optics.calibration_file import Figure, Plot
from ..session import CalibrationSession, Measured

_FRAMES, _LONG_FRAMES = 64, 16
_BUCKET_MORE = 4  # times as many windows of a photodiode, whose one pixel is noisy
_LONGER = 16.0  # times the exposure of runs, to see dark current
_HOT = 8.0  # robust standard deviations
_MOST_HOT = 0.02  # share of the pixels, beyond which the frames are not dark


def dark_frames(work: CalibrationSession) -> Measured:
    """Take dark frames at the exposure of runs and at a longer one.

    Raises
    ------
    BadFit : when it is not dark
    """
    probe = work.probe
    probe.light(False)
    probe.blank()
    short_s = work.exposure_s
    long_s = min(_LONGER * short_s, probe.longest_s)
    frames, long_frames = _FRAMES, _LONG_FRAMES
    if work.is_bucket:
        frames, long_frames = _BUCKET_MORE * frames, _BUCKET_MORE * long_frames
    mean, spread, inside = _average(work, short_s, frames)
    longer, long_spread, _ = _average(work, long_s, long_frames)
    rate = (longer - mean) / (long_s - short_s) if long_s > short_s else np.zeros_like(mean)
    middle = float(np.median(mean))
    if not work.is_bucket and middle > 0.25 * probe.range:
        raise BadFit(
            f"the detector shows {middle:.0f} of {probe.range:.0f} counts with the source off: "
            "switch the room's lights off, or shield the detector"
        )
    bad = np.zeros(mean.shape, dtype=bool)
    if not work.is_bucket:
        bad = _outliers(mean) | _outliers(longer) | _outliers(spread) | _outliers(long_spread)
        if bad.mean() > _MOST_HOT:
            raise BadFit(
                f"{bad.mean():.1%} of the pixels differ from the others with the source off: "
                "something shines on the detector; shield it"
            )
    good = ~bad
    # dark current is the same for good pixels but for noise: one number serves them better
    common = float(rate[good].mean())
    rate = np.where(bad, rate, common)
    noise = float(np.sqrt(np.mean(spread[good])))
    count = int(good.sum())
    if work.is_bucket:  # one pixel, whose window's samples tell more than its few windows
        noise, count = float(np.sqrt(inside)), WINDOW_SAMPLES - 1
    figures = (
        Figure(
            "offset_counts",
            float(mean[good].mean()),
            noise / np.sqrt(frames * int(good.sum())),
            "counts",
        ),
        Figure(
            "rate_counts_per_s",
            common,
            _rate_error(noise, (frames, long_frames), int(good.sum()), long_s - short_s),
            "counts/s",
        ),
        Figure("noise_counts", noise, noise / np.sqrt(2 * frames * count), "counts"),
        Figure("hot_pixels", float(bad.sum()), None, "pixels", "left out of all sums"),
    )
    arrays: dict[str, np.ndarray] = {
        "offset": (mean - rate * short_s).astype(np.float32),
        "rate": rate.astype(np.float32),
        "dark_counts": mean.astype(np.float32),
        "bad": bad.astype(np.uint8),
        "sample": mean.ravel()[:: max(mean.size // 5000, 1)].astype(np.float32),
    }
    return Measured(figures, arrays, (Plot("Dark counts of pixels", "histogram", "sample"),))


def _average(
    work: CalibrationSession, exposure_s: float, count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and variance of dark frames, pixel by pixel, and a photodiode's inside windows.

    Returns
    -------
    mean, variance : float64 [h, w]
    inside : variance of a window's sum, from the spread of its samples, in the mean
    """
    first = work.probe.raw(exposure_s).astype(np.float64)
    total, squares, inside = np.zeros_like(first), np.zeros_like(first), 0.0
    for number in range(count):
        off = work.probe.raw(exposure_s) - first
        total += off
        squares += off * off
        inside += work.probe.noise_v2 / count
        work.tell((number + 1) / count)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    return first + mean, variance, inside


def _outliers(values: np.ndarray) -> np.ndarray:
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle)) + 1e-9
    return np.asarray(np.abs(values - middle) > _HOT * spread)


def _rate_error(noise: float, frames: tuple[int, int], pixels: int, apart_s: float) -> float | None:
    if apart_s <= 0:
        return None
    return float(noise * np.sqrt((1 / frames[0] + 1 / frames[1]) / pixels) / apart_s)
