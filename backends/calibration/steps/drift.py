"""Drift of the light: white noise from shot to shot, and a slow random walk.

The structure function D(n) = <(s_(i+n) - s_i)^2> / 2 of the light s is shot_rms^2 for white noise,
and grows by walk_variance / 2 per shot for a random walk (as the Allan variance does).
"""

from __future__ import annotations

import numpy as np

from ...optics.calibration_file import Figure, Plot
from ..session import CalibrationSession, Measured
from ..slots import sparse

_NEAR, _OUTLIER = 9, 8.0  # shots of the running median; robust standard deviations off it
_SHOTS = 240
_TOLERANCE = 3e-3  # rms walk of the light between two reference shots
_SELDOM, _OFTEN = 1000, 20  # shots between references, at most and at least


def drift(session: CalibrationSession) -> Measured:
    """Measure the light of the same frames over some hundred shots."""
    slots, layout = session.slots, session.slots.layout
    inputs, weights = slots.pattern("input", True), slots.pattern("weight", sparse(layout))
    exposure_s = slots.find_exposure(inputs, weights)
    started_s, before = session.probe.seconds, session.bench.shots
    light, variance = [], []
    for number in range(_SHOTS):
        reading, scale = _slot_light(session, inputs, weights, exposure_s)
        light.append(reading)
        variance.append(scale)
        session.progress((number + 1) / _SHOTS)
    period_s = (session.probe.seconds - started_s) / max(session.bench.shots - before, 1)
    s = without_outliers(np.array(light))
    lags = np.unique(np.geomspace(1, _SHOTS // 3, 16).astype(int))
    structure = np.array([np.nanmean((s[lag:] - s[:-lag]) ** 2) / 2 for lag in lags])
    own = float(np.mean(variance))  # variance of the measurement
    white, walk, walk_error = fit_walk(lags, structure, len(s))
    walk = max(walk, _slow_walk(slots.scales))
    white = max(white - own, 0.0)
    every = int(np.clip(_TOLERANCE**2 / max(walk, 1e-15), _OFTEN, _SELDOM))
    time_s = 2 * max(white, own) / walk * period_s if walk > 0 else np.inf
    figures = (
        Figure("shot_rms", float(np.sqrt(white)), float(np.sqrt(white / (2 * _SHOTS))), ""),
        Figure("walk_variance", walk, walk_error, "1/shot", "of the light's random walk"),
        Figure(
            "time_s", float(min(time_s, 1e9)), None, "s", "until the walk exceeds a shot's noise"
        ),
        Figure("reference_every", float(every), None, "shots", "between reference shots of a run"),
    )
    arrays = {
        "light": s[np.isfinite(s)].astype(np.float32),
        "lags": lags.astype(np.float32),
        "structure": structure.astype(np.float32),
    }
    plots = (
        Plot("Light of the same frames", "line", "light", x_label="shot", y_label="over its mean"),
        Plot("Structure function", "points", "structure", "lags", "shots apart"),
    )
    return Measured(figures, arrays, plots)


def without_outliers(light: np.ndarray) -> np.ndarray:
    """Return light over its median; NaN for outliers, such as blocked shots."""
    s = light / np.median(light)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(s, _NEAR // 2, "reflect"), _NEAR)
    off = np.abs(s - np.median(near, axis=1))
    return np.where(off > _OUTLIER * (1.4826 * np.median(off) + 1e-9), np.nan, s)


def _slot_light(
    session: CalibrationSession, inputs: np.ndarray, weights: np.ndarray, exposure_s: float
) -> tuple[float, float]:
    """Return the light of all slots in one shot, uncorrected, and its relative variance."""
    slots = session.slots
    if slots.layout.has_markers:
        reading = slots.read(inputs, weights, exposure_s)
        scale = slots.scales[-1][1]
    else:
        reading, scale = slots.read_once(inputs, weights, exposure_s), slots.reference_scale
    total = float(reading.rate.sum()) * scale
    counts = np.maximum(reading.rate, 0) * scale * exposure_s
    pixels = slots.layout.read_pixels()
    noise = counts.sum() / slots.gain + pixels.sum() * slots.noise_counts**2
    return total, float(noise / counts.sum() ** 2)


def fit_walk(lags: np.ndarray, structure: np.ndarray, count: int) -> tuple[float, float, float]:
    """Fit D = white + walk n / 2; long lags have fewer independent pairs and less weight.

    Parameters
    ----------
    lags : n, in shots: [m]
    structure : D of the relative light at these lags: [m]
    count : shots of the series

    Returns
    -------
    white (variance of a shot), walk (variance per shot), error of the walk
    """
    weight = (count / lags) / structure.mean() ** 2
    terms = np.stack([np.ones(len(lags)), lags / 2], axis=1)
    normal = terms.T @ (weight[:, None] * terms)
    white, walk = np.linalg.solve(normal, terms.T @ (weight * structure))
    if walk < 0 or white < 0:
        walk, white = max(walk, 0.0), max(min(white, float(structure[0])), 0.0)
    return float(white), float(walk), float(np.sqrt(np.linalg.inv(normal)[1, 1]))


def _slow_walk(scales: list[tuple[int, float, float]]) -> float:
    """Return the walk per shot that the markers measured over the calibration so far."""
    if len(scales) < 100:
        return 0.0
    shots = np.array([shot for shot, _, _ in scales], dtype=float)
    values = np.array([scale for _, scale, _ in scales])
    parts = np.array_split(np.arange(len(scales)), 12)
    middles = np.array([values[part].mean() for part in parts])
    apart = np.diff([shots[part].mean() for part in parts])
    noise = np.mean([values[part].var() / len(part) for part in parts])
    return float(max(np.mean((np.diff(middles) ** 2 - 2 * noise) / apart), 0.0))
