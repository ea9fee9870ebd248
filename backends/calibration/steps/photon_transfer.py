"""The photon transfer curve: electrons per count, read noise, full well, linearity.

Light arrives in electrons whose variance is their mean. The variance of counts is therefore
mean / gain + (read noise / gain)^2, plus 1/12 for the converter's rounding; pairs of frames of the
same light give it pixel by pixel (Janesick, Photon Transfer, 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....instruments import BadFit
from ...optics.calibration_file import Figure, Plot
from ..exposure_search import find_exposure
from ..probe import area_sums
from ..session import CalibrationSession, Measured

_LEVELS = 10  # exposures between the faintest and the fullest
_PAIRS = 2
_MOST_ROUNDS = 5  # to reach the goal
_WINDOWS = 256  # a photodiode has one pixel: many windows instead
_AREA_PX = 8  # side of an area of pixels whose mean and variance are one point
_MOST, _CLIPS = 0.8, 0.92  # of the range: brightest pixels, and the level that clips noise
_LIT = 0.1  # of the brightest, from which pixels and areas count as lit
_BINS = 20  # of light, in which the fit is checked
_CHANGED = 0.2  # of a photodiode's light, beyond which a window is left out
_POOR = 0.05  # relative residual of the fit that is refused

_PLOTS = (
    Plot(
        "Photon transfer",
        "points",
        "variance_counts",
        "mean_counts",
        "counts",
        "counts squared",
    ),
    Plot("Departure from a straight line", "points", "departures", "exposures_s", "exposure, s"),
)


def photon_transfer(session: CalibrationSession) -> Measured:
    """Take pairs of frames of uniform light at exposures from faint to full.

    Raises
    ------
    BadFit : when the variance does not grow linearly with the light
    """
    probe = session.probe
    probe.light(True)
    probe.fill()
    exposure_s = find_exposure(probe)  # from it, that at which the brightest pixels reach _MOST
    filling = probe.take(exposure_s).peak / probe.range
    fullest_s = min(exposure_s * _MOST / max(filling, 1e-6), probe.longest_s)
    detector = session.bench.detector
    method = _METHODS[detector.kind]
    shortest_s = max(fullest_s / method.spread, probe.shortest_s)
    exposures_s = np.geomspace(shortest_s, fullest_s, _LEVELS)
    rounding = detector.samples * detector.spec.converter_step**2 / 12  # variance
    read_counts = session.calibration.figure("dark_frames", "noise_counts")
    read_error = read_counts * method.read_error
    read = read_counts**2 - rounding
    mean, variance, light, fit = _measure(session, exposures_s, read, rounding, method)
    slope, slope_error, residual = fit
    gain = 1 / slope
    if not slope > 5 * slope_error or residual > _POOR:
        raise BadFit(
            f"the variance of counts does not grow linearly with the light (slope {slope:.3g} +- "
            f"{slope_error:.2g}, residual {residual:.1%}): check that the source is stable, that "
            "the camera applies no gamma or noise filter, and that nothing moves in the beam"
        )
    read_e = float(np.sqrt(max(read, 0) / detector.samples)) * gain
    gain_error = slope_error / slope * gain
    rate = float((light / exposures_s).mean())
    departures = light / (rate * exposures_s) - 1  # from proportionality to exposure
    offset = session.calibration.figure("dark_frames", "offset_counts")
    full_e = (probe.range - offset) * gain
    figures = (
        Figure("gain_e_per_count", gain, gain_error, "e/count", f"residual {residual:.2%}"),
        Figure(
            "read_noise_e",
            read_e,
            read_e * float(np.hypot(gain_error / gain, read_error / read_counts)),
            "e",
            method.of_what,
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
    return Measured(figures, arrays, _PLOTS)


def _measure(
    session: CalibrationSession,
    exposures_s: np.ndarray,
    read: float,
    rounding: float,
    method: _Method,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Measure the curve in rounds until the relative error of its slope is below the goal.

    Parameters
    ----------
    read, rounding : variances without light, and of the converter, in counts squared

    Returns
    -------
    mean, variance : of areas, in counts and counts squared: [n]
    light : mean counts at each exposure
    fit : see `fit_transfer`
    """
    points = []
    for round_ in range(_MOST_ROUNDS):
        for number, exposure_s in enumerate(exposures_s):
            points.append(method.measure(session, float(exposure_s)))
            session.progress((round_ + (number + 1) / _LEVELS) / _MOST_ROUNDS)
        *parts, totals = zip(*points, strict=True)
        mean, variance, weight = (np.concatenate(part) for part in parts)
        fit = fit_transfer(mean, variance - rounding, weight, read)
        if fit[1] < method.goal * fit[0]:
            break
    return mean, variance, np.array(totals).reshape(-1, _LEVELS).mean(axis=0), fit


def _pairs(
    session: CalibrationSession, exposure_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return mean, variance and half the pixels of areas, and the mean light.

    Mean and variance are averages over an area, so that one line fits areas of uneven light.
    """
    probe, bad = session.probe, session.bad
    dark = session.dark_counts(exposure_s)
    means, variances, weights, totals = [], [], [], []
    for _ in range(_PAIRS):
        one, other = (raw - dark for raw in probe.pair(exposure_s))
        full = (one + dark >= probe.range) | (other + dark >= probe.range)
        good = ~(full | bad)
        # the source differs between the frames of a pair
        lit = good & (one + other > _LIT * (one + other)[good].max())
        ratio = float(other[lit].sum() / one[lit].sum())
        both = np.where(good, (one + other) / 2, 0)
        off = np.where(good, (other - ratio * one) ** 2 / (1 + ratio**2), 0)
        # fixed areas: grouping pixels by their noisy brightness would bias the noise
        count, light, noise = (
            area_sums(image, _AREA_PX) for image in (good.astype(float), both, off)
        )
        is_clipped = np.maximum(one, other) + dark >= _CLIPS * probe.range
        clipped = area_sums(is_clipped.astype(float), _AREA_PX)
        some = (count > count.max() / 2) & (clipped == 0)
        # dark areas do not constrain the slope, and their noise would look like light
        some &= light > _LIT * light.max() / count.max() * count
        means.append(light[some] / count[some])
        variances.append(noise[some] / count[some])
        weights.append(count[some] / 2)
        totals.append(float(one[good].mean() + other[good].mean()) / 2)
    mean, variance, weight = (np.concatenate(part) for part in (means, variances, weights))
    return mean, variance, weight, float(np.mean(totals))


def _windows(
    session: CalibrationSession, exposure_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the same as `_pairs` from windows of a photodiode, whose samples differ only by noise.

    The source is constant within a window, but not between windows.
    """
    dark = session.dark_counts(exposure_s)
    seen = [
        (float((session.probe.raw(exposure_s) - dark).sum()), session.probe.noise_v2)
        for _ in range(_WINDOWS)
    ]
    volts, noise = np.array(seen).T
    kept = np.abs(volts / np.median(volts) - 1) < _CHANGED
    freedom = kept.sum() * (session.bench.detector.samples - 1)
    mean, weight = volts[kept].mean(), freedom / 2
    return np.array([mean]), noise[kept].mean(keepdims=True), np.array([weight]), float(mean)


@dataclass(frozen=True)
class _Method:
    """How a photon transfer curve is measured with one kind of detector.

    Parameters
    ----------
    spread : fullest exposure over the shortest
    goal : relative standard error of the gain
    read_error : relative error of the noise of dark frames
    of_what : what the read noise belongs to, a note
    measure : returns mean, variance and weight of points, and the mean light, at an exposure
    """

    spread: float
    goal: float
    read_error: float
    of_what: str
    measure: Callable[[CalibrationSession, float], tuple[np.ndarray, np.ndarray, np.ndarray, float]]


_METHODS = {
    "camera": _Method(50.0, 2.5e-3, 1e-3, "of one pixel", _pairs),
    "daq": _Method(6.0, 4e-3, 0.02, "of one sample", _windows),  # amplifiers are noisy
}


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
    slope in counts per electron, its error, and the rms residual of bins relative to the curve
    """
    slope = float(np.median((variance - read) / mean))
    for _ in range(5):
        model = np.maximum(read + slope * mean, 1e-30)
        each = weight / model**2
        slope = float((each * mean * (variance - read)).sum() / (each * mean**2).sum())
    model = np.maximum(read + slope * mean, 1e-30)
    each = weight / model**2
    residual = variance - model
    chi = max(float((each * residual**2).mean()), 1.0)  # areas of mixed brightness exceed 1
    edges = np.quantile(mean, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = np.searchsorted(edges, mean)
    sums, weights = (np.bincount(place, v) for v in (weight * residual / model, weight))
    some = weights > 0
    residual_rms = float(np.sqrt(np.mean((sums[some] / weights[some]) ** 2)))
    return slope, float(np.sqrt(chi / (each * mean**2).sum())), residual_rms
