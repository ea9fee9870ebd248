"""Drift of the light: how much is new in every shot, and how fast the rest walks away.

The structure function D(n) = <(s_(i+n) - s_i)^2> / 2 of the light s is shot_rms^2 for noise that is
new in every shot, and grows by walk_variance / 2 per shot for a random walk (Allan's reasoning).
"""

from __future__ import annotations

import numpy as np

from ...optics.calibration_file import Figure, Plot
from ..session import CalibrationSession, Measured
from ..slots import sparse

_NEAR, _JUMP = 9, 8.0  # shots whose median a shot is held against; robust standard deviations
_SHOTS = 240
_TOLERANCE = 3e-3  # that the light may walk between two reference shots
_SELDOM, _OFTEN = 1000, 20  # shots between them: a reference is at most every 20th


def drift(work: CalibrationSession) -> Measured:
    """Watch the same frames for some hundred shots."""
    slots, layout = work.slots, work.slots.layout
    inputs, weights = slots.pattern("input", True), slots.pattern("weight", sparse(layout))
    exposure_s = slots.find_exposure(inputs, weights)
    started_s, before = work.probe.seconds, work.bench.shots
    light, variance = [], []
    for number in range(_SHOTS):
        reading, scale = _whole(work, inputs, weights, exposure_s)
        light.append(reading)
        variance.append(scale)
        work.tell((number + 1) / _SHOTS)
    period_s = (work.probe.seconds - started_s) / max(work.bench.shots - before, 1)
    s = without_outliers(np.array(light))
    lags = np.unique(np.geomspace(1, _SHOTS // 3, 16).astype(int))
    structure = np.array([np.nanmean((s[lag:] - s[:-lag]) ** 2) / 2 for lag in lags])
    own = float(np.mean(variance))  # of the measurement itself
    fresh, walk, walk_error = fit_walk(lags, structure, len(s))
    walk = max(walk, _slow_walk(slots.scales))
    fresh = max(fresh - own, 0.0)
    every = int(np.clip(_TOLERANCE**2 / max(walk, 1e-15), _OFTEN, _SELDOM))
    time_s = 2 * max(fresh, own) / walk * period_s if walk > 0 else np.inf
    figures = (
        Figure("shot_rms", float(np.sqrt(fresh)), float(np.sqrt(fresh / (2 * _SHOTS))), ""),
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
    """Return light over its median; NaN where it jumps away and back, as behind a hand."""
    s = light / np.median(light)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(s, _NEAR // 2, "reflect"), _NEAR)
    off = np.abs(s - np.median(near, axis=1))
    return np.where(off > _JUMP * (1.4826 * np.median(off) + 1e-9), np.nan, s)


def _whole(
    work: CalibrationSession, inputs: np.ndarray, weights: np.ndarray, exposure_s: float
) -> tuple[float, float]:
    """Return the light of all slots in one shot, as it is, and its variance, relative."""
    slots = work.slots
    if slots.layout.marker_bits:
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
    """Fit D = fresh + walk n / 2; long lags have few independent pairs.

    Parameters
    ----------
    lags : n, shots apart: [m]
    structure : D of the relative light at these lags: [m]
    count : shots of the series

    Returns
    -------
    fresh (variance of each shot alone), walk (variance per shot), error of the walk
    """
    weight = (count / lags) / structure.mean() ** 2
    terms = np.stack([np.ones(len(lags)), lags / 2], axis=1)
    normal = terms.T @ (weight[:, None] * terms)
    fresh, walk = np.linalg.solve(normal, terms.T @ (weight * structure))
    if walk < 0 or fresh < 0:
        walk, fresh = max(walk, 0.0), max(min(fresh, float(structure[0])), 0.0)
    return float(fresh), float(walk), float(np.sqrt(np.linalg.inv(normal)[1, 1]))


def _slow_walk(scales: list[tuple[int, float, float]]) -> float:
    """Return the walk per shot that the markers saw over the whole calibration so far."""
    if len(scales) < 100:
        return 0.0
    shots = np.array([shot for shot, _, _ in scales], dtype=float)
    values = np.array([scale for _, scale, _ in scales])
    parts = np.array_split(np.arange(len(scales)), 12)
    middles = np.array([values[part].mean() for part in parts])
    apart = np.diff([shots[part].mean() for part in parts])
    noise = np.mean([values[part].var() / len(part) for part in parts])
    return float(max(np.mean((np.diff(middles) ** 2 - 2 * noise) / apart), 0.0))
