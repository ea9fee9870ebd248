"""Fiducials: bright squares that a modulator shows, and their centroids on a camera.

`optics.registration` fits maps to the centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...instruments import UnexpectedIntensity
from .fits import in_cells, robust_deviation

_SPOT_SIGMA = 8.0  # standard deviations of noise that a spot must exceed
_SPOT_SHARE = 0.3  # fraction of the peak from which a pixel belongs to the spot
_COMPACT = 2.0  # a spot's second moment over that of a square of its area
_LEAST_LIGHT = 0.7  # fraction of the light that its neighbours predict; less is a cut square
_SHADING_TERMS = 6
_LEAST_MISSING = 0.02  # fraction of the light that a dark line lacks
_NEIGHBOURS = 10  # lines on either side that a line is compared with


@dataclass(frozen=True)
class Centroids:
    """Centroids of light on the detector.

    Parameters
    ----------
    to_px : centroids on the detector, float64 [n, 2]; NaN where none was found
    light : counts of each, float64 [n]
    spread_px : root mean square extent along rows and columns, float64 [n, 2]
    """

    to_px: np.ndarray
    light: np.ndarray
    spread_px: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """Which were found: bool [n]."""
        return np.isfinite(self.to_px).all(axis=1)


def grid(
    shape: tuple[int, int], pitch: tuple[int, int], side: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rectangles of a centred grid that lie entirely on a plane.

    Returns
    -------
    corners : top and left of each, int [n, 2]
    centres : float64 [n, 2]
    """
    starts = []
    for size, step, long in zip(shape, pitch, side, strict=True):
        count = max((size - long) // step + 1, 1)
        first = (size - (count - 1) * step - long) // 2
        starts.append(first + step * np.arange(count))
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)
    return corners, corners + (np.array(side) - 1) / 2


def rectangles(
    shape: tuple[int, int], corners: np.ndarray, side: tuple[int, int] | np.ndarray
) -> np.ndarray:
    """Draw rectangles: bool (height, width), True inside."""
    drawn = np.zeros(shape, dtype=bool)
    for top, left in corners:
        drawn[top : top + side[0], left : left + side[1]] = True
    return drawn


def spot(image: np.ndarray, what: str) -> tuple[np.ndarray, float]:
    """Find the one compact spot of an image [h, w], or of a column of rows [h, 1].

    Returns
    -------
    place : centroid of its light, float64 [2]
    area_px : its area, in pixels

    Raises
    ------
    UnexpectedIntensity : when there is no spot, or light in several places
    """
    cell = max(1, min(side for side in image.shape if side > 1) // 256)
    coarse = image
    if cell > 1:  # small cells keep the light of a spot together and average pixel noise
        height, width = (cell if side > 1 else 1 for side in image.shape)
        coarse = in_cells(image, (height, width)).mean(axis=(1, 3))
    noise, light = robust_deviation(coarse), coarse - float(np.median(coarse))
    peak = float(light.max())
    if peak <= _SPOT_SIGMA * noise or peak <= 0:
        raise UnexpectedIntensity(
            f"{what} is not seen above the noise: check the source, and that nothing blocks the "
            "beam"
        )
    inside = light > _SPOT_SHARE * peak
    places = np.argwhere(inside)
    weights = light[inside]
    middle = weights @ places / weights.sum()
    moments = ((places - middle) ** 2).mean(axis=0)
    area = len(places)
    is_line = 1 in image.shape
    expected = (area**2 if is_line else area) / 12.0
    if (moments.sum() if is_line else moments.max()) > _COMPACT * expected + 1.0:
        raise UnexpectedIntensity(
            f"{what} is seen in several places: keep reflections, stray light and hands out of the "
            "beam"
        )
    scale = np.array([cell if side > 1 else 1 for side in image.shape])
    return (middle + 0.5) * scale - 0.5, float(area * np.prod(scale))


def centroids(
    image: np.ndarray, predicted: np.ndarray, reach: tuple[float, float], noise: float
) -> Centroids:
    """Find the centroids near predicted places, within windows that hold one square each.

    Parameters
    ----------
    image : counts less those of an image without the squares, float64 [h, w]
    predicted : float64 [n, 2]
    reach : half height and half width of the windows
    noise : of one pixel, in counts
    """
    half = np.maximum(np.floor(reach).astype(int), 0)
    middle = np.rint(predicted).astype(int)
    inside = ((middle - half >= 0) & (middle + half < np.array(image.shape))).all(axis=1)
    to_px = np.full((len(predicted), 2), np.nan)
    light, spread = np.zeros(len(predicted)), np.full((len(predicted), 2), np.nan)
    if not inside.any():
        return Centroids(to_px, light, spread)
    rows, columns = (np.arange(-size, size + 1) for size in half)
    window = image[
        middle[inside, 0, None, None] + rows[:, None], middle[inside, 1, None, None] + columns
    ]
    window = window - _edge_means(window)[:, None, None]
    total = window.sum(axis=(1, 2))
    enough = total > 6 * noise * np.sqrt(window[0].size)
    safe = np.where(enough, total, 1.0)
    off = np.stack(
        [(window.sum(axis=2) @ rows) / safe, (window.sum(axis=1) @ columns) / safe], axis=1
    )
    square = np.stack(
        [(window.sum(axis=2) @ rows**2) / safe, (window.sum(axis=1) @ columns**2) / safe], axis=1
    )
    near = enough & (np.abs(off) <= np.maximum(0.5 * half, 0.5)).all(axis=1)
    number = np.flatnonzero(inside)
    to_px[number[near]] = middle[inside][near] + off[near]
    light[number] = total
    spread[number[near]] = np.sqrt(np.maximum(square - off**2, 0))[near]
    return Centroids(to_px, light, spread)


def _edge_means(windows: np.ndarray) -> np.ndarray:
    """Return the mean light at the edges of windows [n, h, w]: their background."""
    if windows.shape[2] == 1:
        return np.asarray(windows[:, [0, -1], 0].mean(axis=1))
    edge = np.concatenate(
        [windows[:, 0], windows[:, -1], windows[:, 1:-1, 0], windows[:, 1:-1, -1]], axis=1
    )
    return np.asarray(edge.mean(axis=1))


def fit_shading(from_px: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the smooth shading of squares' light, without the squares that are cut.

    Parameters
    ----------
    from_px : places of the squares, float64 [n, 2]
    light : of each, positive, float64 [n]

    Returns
    -------
    is_whole : which squares are not cut, bool [n]
    slopes : of the shading's logarithm per pixel, float64 [n, 2]; the centroid of a square's
        light is side^2 / 12 times this off its centre
    """
    middle, size = from_px.mean(axis=0), np.maximum(np.ptp(from_px, axis=0) / 2, 1.0)
    y, x = ((from_px - middle) / size).T
    columns = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=1)
    kept = light > 0.5 * np.median(light)
    if kept.sum() < 2 * _SHADING_TERMS:
        return _are_whole(light / np.median(light)), np.zeros_like(from_px)
    logs = np.log(np.maximum(light, 1e-300))
    for _ in range(5):
        solved = np.linalg.lstsq(columns[kept], logs[kept], rcond=None)[0]
        off = logs - columns @ solved
        spread = robust_deviation(off[kept]) + 1e-6
        now = np.abs(off) < np.clip(4 * spread, 0.02, 0.3)
        if now.sum() < 2 * _SHADING_TERMS or np.array_equal(now, kept):
            break
        kept = now
    slopes = np.stack(
        [
            solved[1] + 2 * solved[3] * y + solved[4] * x,
            solved[2] + solved[4] * y + 2 * solved[5] * x,
        ],
        axis=1,
    )
    return _are_whole(np.exp(off)), slopes / size


def _are_whole(relative: np.ndarray) -> np.ndarray:
    return np.asarray((relative > _LEAST_LIGHT) & (relative < 1 / _LEAST_LIGHT))


def dark_lines(profile: np.ndarray) -> list[int]:
    """Find lines (rows or columns) that stay darker than those around them.

    Parameters
    ----------
    profile : light of each line, float64 [n]; NaN where it is unknown
    """
    known = np.isfinite(profile) & (profile > 0)
    if known.sum() < 4 * _NEIGHBOURS:
        return []
    padded = np.pad(np.where(known, profile, np.nan), _NEIGHBOURS, constant_values=np.nan)
    neighbours = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURS + 1)
    # lines at an edge have neighbours on one side only
    judged = np.isfinite(neighbours).all(axis=1)
    depth = np.zeros(len(profile))
    depth[judged] = 1 - profile[judged] / np.median(neighbours[judged], axis=1)
    noise = 1.4826 * float(np.median(np.abs(depth[judged]))) if judged.any() else 0.0
    deep = depth > max(_LEAST_MISSING, 6 * noise)
    lines = []
    for line in np.flatnonzero(deep):  # the deepest of each run
        low, high = max(line - 3, 0), line + 4
        if depth[line] == depth[low:high].max():
            lines.append(int(line))
    return lines


def consensus(from_px: np.ndarray, to_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit an affine map robustly to few points: least median of distances.

    Returns
    -------
    matrix : float64 [2, 3], fitted to the points that agree
    off : distance of each point from it, float64 [n]
    """
    terms = np.column_stack([from_px, np.ones(len(from_px))])
    best, least = None, np.inf
    for three in combinations(range(len(from_px)), 3):
        chosen = terms[list(three)]
        if abs(np.linalg.det(chosen)) < 1e-3 * np.ptp(from_px, axis=0).prod():
            continue
        matrix = np.linalg.solve(chosen, to_px[list(three)])
        off = np.hypot(*(to_px - terms @ matrix).T)
        middle = np.sort(off)[3 + (len(from_px) - 4) // 2]  # three fit exactly by construction
        if middle < least:
            best, least = off, middle
    assert best is not None
    near = best <= max(3 * least, 0.5)
    matrix = np.linalg.lstsq(terms[near], to_px[near], rcond=None)[0]
    return matrix.T, np.hypot(*(to_px - terms @ matrix).T)
