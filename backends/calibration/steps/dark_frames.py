"""Dark frames: dark level, dark current and read noise of the detector, and its hot pixels."""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit
from ...optics.calibration_file import Figure, Plot
from ..fits import robust_deviation
from ..session import CalibrationSession, Measured

_FRAMES, _LONG_FRAMES = 64, 16
_LONGER = 16.0  # times the exposure of runs, to measure dark current
_HOT = 8.0  # robust standard deviations
_MOST_HOT = 0.02  # fraction of the pixels beyond which the frames are not dark


def dark_frames(session: CalibrationSession) -> Measured:
    """Take dark frames at the exposure of runs and at a longer one.

    Raises
    ------
    BadFit : when the detector is not dark
    """
    probe = session.probe
    probe.light(False)
    probe.blank()
    short_s = session.bench.file.exposure_s
    long_s = min(_LONGER * short_s, probe.longest_s)
    frames, long_frames = probe.dark_repeats * _FRAMES, probe.dark_repeats * _LONG_FRAMES
    mean, spread, window_variance = _average(session, short_s, frames)
    longer, long_spread, _ = _average(session, long_s, long_frames)
    rate = (longer - mean) / (long_s - short_s) if long_s > short_s else np.zeros_like(mean)
    middle = float(np.median(mean))
    if middle > probe.most_dark * probe.range:
        raise BadFit(
            f"the detector shows {middle:.0f} of {probe.range:.0f} counts with the source off: "
            "switch the room lights off, or shield the detector"
        )
    bad = _hot_pixels(mean, longer, spread, long_spread)
    good = ~bad
    # good pixels have the same dark current up to noise: one mean is more precise
    common = float(rate[good].mean())
    rate = np.where(bad, rate, common)
    noise, count = probe.dark_noise(spread[good], window_variance)
    pixels = int(good.sum())
    rate_error = None
    if long_s > short_s:
        of_both = noise * np.sqrt((1 / frames + 1 / long_frames) / pixels)
        rate_error = float(of_both / (long_s - short_s))
    offset, offset_error = float(mean[good].mean()), noise / np.sqrt(frames * pixels)
    figures = (
        Figure("offset_counts", offset, offset_error, "counts"),
        Figure("rate_counts_per_s", common, rate_error, "counts/s"),
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
    session: CalibrationSession, exposure_s: float, count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and variance of dark frames by pixel, and the variance inside windows.

    Returns
    -------
    mean, variance : float64 [h, w]
    window_variance : mean variance of a window's sum, from the spread of its samples (photodiode)
    """
    first = session.probe.raw(exposure_s).astype(np.float64)
    total, squares, window_variance = np.zeros_like(first), np.zeros_like(first), 0.0
    for number in range(count):
        off = session.probe.raw(exposure_s) - first
        total += off
        squares += off * off
        window_variance += session.probe.noise_v2 / count
        session.progress((number + 1) / count)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    return first + mean, variance, window_variance


def _hot_pixels(*images: np.ndarray) -> np.ndarray:
    """Return the outliers of any image: bool [h, w].

    Raises
    ------
    BadFit : when there are too many
    """
    bad = np.logical_or.reduce([_outliers(image) for image in images])
    if bad.mean() > _MOST_HOT:
        raise BadFit(
            f"{bad.mean():.1%} of the pixels differ from the others with the source off: light "
            "falls on the detector; shield it"
        )
    return np.asarray(bad)


def _outliers(values: np.ndarray) -> np.ndarray:
    spread = robust_deviation(values) + 1e-9
    return np.asarray(np.abs(values - np.median(values)) > _HOT * spread)
