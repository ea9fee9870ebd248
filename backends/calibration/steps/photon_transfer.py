"""The photon transfer curve: electrons per count, read noise, full well, linearity.

Light arrives in electrons whose variance is their mean. The variance of counts is therefore
mean / gain + (read noise / gain)^2, plus 1/12 for the converter's rounding; pairs of frames of the
same light give it pixel by pixel (Janesick, Photon Transfer, 2007).
"""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit
from ...bench.bench import WINDOW_SAMPLES
from ...optics.calibration_file import Figure, Plot
from ..probe import area_sums
from ..session import CalibrationSession, Measured

_LEVELS = 10  # exposures between the faintest and the fullest
_PAIRS = 2
_GOAL, _MOST_ROUNDS = 2.5e-3, 5  # standard error of the gain
_SPREAD, _BUCKET_SPREAD = 50.0, 6.0  # fullest exposure over the shortest; amplifiers are noisy
_BUCKET_GOAL = 4e-3
_BUCKET_WINDOWS = 256  # a photodiode has one pixel: many windows instead
_AREA_PX = 8  # side of an area of pixels whose mean and variance are one point
_MOST, _CLIPS = 0.8, 0.92  # of the detector's range: brightest pixels, and where noise is cut off
_LIT = 0.1  # of the brightest, from which on pixels and areas count as lit
_BINS = 20  # of light, in which the fit is looked at
_CHANGED = 0.2  # of a photodiode's light, beyond which a window is left out
_POOR = 0.05  # relative residual of the fit that is refused


def photon_transfer(work: CalibrationSession) -> Measured:
    """Take pairs of frames of even light at exposures from faint to full.

    Raises
    ------
    BadFit : when variance does not grow as light does
    """
    probe = work.probe
    probe.light(True)
    probe.fill()
    fullest_s = _fullest(work)
    spread, goal = (_BUCKET_SPREAD, _BUCKET_GOAL) if work.is_bucket else (_SPREAD, _GOAL)
    shortest_s = max(fullest_s / spread, probe.shortest_s)
    exposures_s = np.geomspace(shortest_s, fullest_s, _LEVELS)
    rounding = _rounding(work)
    read_counts = work.calibration.figure("dark_frames", "noise_counts")
    read_error = read_counts * (0.02 if work.is_bucket else 1e-3)
    means, variances, weights, totals = [], [], [], []
    for round_ in range(_MOST_ROUNDS):
        for number, exposure_s in enumerate(exposures_s):
            found = (_windows if work.is_bucket else _pairs)(work, float(exposure_s))
            means.append(found[0])
            variances.append(found[1])
            weights.append(found[2])
            totals.append(found[3])
            work.tell((round_ + (number + 1) / _LEVELS) / _MOST_ROUNDS)
        mean, variance, weight = (np.concatenate(part) for part in (means, variances, weights))
        read = read_counts**2 - rounding
        slope, slope_error, poor = fit_transfer(mean, variance - rounding, weight, read)
        if slope_error < goal * slope:
            break
    gain = 1 / slope
    if not slope > 5 * slope_error or poor > _POOR:
        raise BadFit(
            f"the variance of counts does not grow as the light does (slope {slope:.3g} +- "
            f"{slope_error:.2g}, residual {poor:.1%}): check that the source is steady, that the "
            "camera applies no gamma or noise filter, and that nothing moves in the beam"
        )
    read_e = float(np.sqrt(max(read_counts**2 - rounding, 0) / _samples(work))) * gain
    gain_error = slope_error / slope * gain
    light = np.array(totals).reshape(-1, _LEVELS).mean(axis=0)
    departures = _linearity(exposures_s, light)
    offset = work.calibration.figure("dark_frames", "offset_counts")
    full_e = (probe.range - offset) * gain
    figures = (
        Figure("gain_e_per_count", gain, gain_error, "e/count", f"residual {poor:.2%}"),
        Figure(
            "read_noise_e",
            read_e,
            read_e * float(np.hypot(gain_error / gain, read_error / read_counts)),
            "e",
            "of one sample" if work.is_bucket else "of one pixel",
        ),
        Figure(
            "full_well_e", full_e, full_e * gain_error / gain, "e", "the converter's last count"
        ),
        Figure(
            "nonlinearity", float(np.sqrt(np.mean(departures**2))), None, "", "rms, of the light"
        ),
    )
    order = np.argsort(mean)
    arrays = {
        "mean_counts": mean[order].astype(np.float32),
        "variance_counts": variance[order].astype(np.float32),
        "exposures_s": exposures_s.astype(np.float32),
        "departures": departures.astype(np.float32),
    }
    plots = (
        Plot(
            "Photon transfer",
            "points",
            "variance_counts",
            "mean_counts",
            "counts",
            "counts squared",
        ),
        Plot(
            "Departure from a straight line", "points", "departures", "exposures_s", "exposure, s"
        ),
    )
    return Measured(figures, arrays, plots)


def _fullest(work: CalibrationSession) -> float:
    """Find the exposure at which the brightest pixels reach the upper end of the curve."""
    exposure_s = work.probe.find_exposure()
    taken = work.probe.take(exposure_s)
    share = taken.peak / work.probe.range
    return min(exposure_s * _MOST / max(share, 1e-6), work.probe.longest_s)


def _pairs(
    work: CalibrationSession, exposure_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return mean and variance of areas of pixels, half the pixels of each, and all light.

    Both are means over the area, so that one line joins them however uneven its light is.
    """
    probe, bad = work.probe, work.bad
    dark = work.dark_counts(exposure_s)
    means, variances, weights, totals = [], [], [], []
    for _ in range(_PAIRS):
        one, other = (raw - dark for raw in probe.pair(exposure_s))
        full = (one + dark >= probe.range) | (other + dark >= probe.range)
        good = ~full if bad is None else ~(full | bad)
        # the source differs between the frames of a pair
        lit = good & (one + other > _LIT * (one + other)[good].max())
        ratio = float(other[lit].sum() / one[lit].sum())
        both = np.where(good, (one + other) / 2, 0)
        off = np.where(good, (other - ratio * one) ** 2 / (1 + ratio**2), 0)
        # areas, not pixels of like brightness: choosing by a noisy value would choose its noise
        count, light, noise = (
            area_sums(image, _AREA_PX) for image in (good.astype(float), both, off)
        )
        is_clipped = np.maximum(one, other) + dark >= _CLIPS * probe.range
        clipped = area_sums(is_clipped.astype(float), _AREA_PX)
        some = (count > count.max() / 2) & (clipped == 0)
        # dark areas tell nothing of the slope, and their noise would pass for light
        some &= light > _LIT * light.max() / count.max() * count
        means.append(light[some] / count[some])
        variances.append(noise[some] / count[some])
        weights.append(count[some] / 2)
        totals.append(float(one[good].mean() + other[good].mean()) / 2)
    joined = (np.concatenate(part) for part in (means, variances, weights))
    mean, variance, weight = joined
    return mean, variance, weight, float(np.mean(totals))


def _windows(
    work: CalibrationSession, exposure_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Do the same with windows of a photodiode: its samples differ by noise alone.

    The source is as bright in all samples of a window, and not in all windows.
    """
    dark = work.dark_counts(exposure_s)
    seen = [
        (float((work.probe.raw(exposure_s) - dark).sum()), work.probe.noise_v2)
        for _ in range(_BUCKET_WINDOWS)
    ]
    volts, noise = np.array(seen).T
    kept = np.abs(volts / np.median(volts) - 1) < _CHANGED
    mean, weight = volts[kept].mean(), kept.sum() * (WINDOW_SAMPLES - 1) / 2
    return np.array([mean]), noise[kept].mean(keepdims=True), np.array([weight]), float(mean)


def _samples(work: CalibrationSession) -> int:
    return WINDOW_SAMPLES if work.is_bucket else 1


def _rounding(work: CalibrationSession) -> float:
    """Return the variance of the converter's rounding, in counts (volts of a window) squared."""
    if not work.is_bucket:
        return 1 / 12
    daq = work.bench.daq
    low, high = daq.input_range_v
    return WINDOW_SAMPLES * ((high - low) / ((1 << (daq.bit_depth or 16)) - 1)) ** 2 / 12


def fit_transfer(
    mean: np.ndarray, variance: np.ndarray, weight: np.ndarray, read: float
) -> tuple[float, float, float]:
    """Fit the photon transfer curve, variance = read + slope mean.

    Parameters
    ----------
    mean : of areas, in counts: [n]
    variance : of the same, in counts squared: [n]
    weight : pairs of pixels behind each variance, whose relative error is sqrt(1 / weight)
    read : variance without light in counts squared, known from dark frames

    Returns
    -------
    slope in counts per electron, its error, and the residual of bins of light over the curve
    """
    slope = float(np.median((variance - read) / mean))
    for _ in range(5):
        model = np.maximum(read + slope * mean, 1e-30)
        each = weight / model**2
        slope = float((each * mean * (variance - read)).sum() / (each * mean**2).sum())
    model = np.maximum(read + slope * mean, 1e-30)
    each = weight / model**2
    residual = variance - model
    chi = max(float((each * residual**2).mean()), 1.0)  # areas of mixed brightness have more
    edges = np.quantile(mean, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = np.searchsorted(edges, mean)
    sums, weights = (np.bincount(place, v) for v in (weight * residual / model, weight))
    some = weights > 0
    poor = float(np.sqrt(np.mean((sums[some] / weights[some]) ** 2)))
    return slope, float(np.sqrt(chi / (each * mean**2).sum())), poor


def _linearity(exposures_s: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Return the departure of light from its proportion to exposure, over light."""
    rate = float((light / exposures_s).mean())
    return np.asarray(light / (rate * exposures_s) - 1)
