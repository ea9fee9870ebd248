"""Bright squares and stripes that are shown, and where their light is found on a camera.

Not here: which map fits the places that are found (`bench.maps`), and what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...instruments import UnexpectedIntensity

_SPOT_SIGMA = 8.0  # of the noise, from which on a spot is light
_SPOT_SHARE = 0.3  # of the brightest place, from which on a pixel belongs to the spot
_COMPACT = 2.0  # a spot's second moment over that of a square of its area
_LEAST_LIGHT = 0.7  # of what a square's neighbours let expect; less is a square that is cut
_FIELD_TERMS = 6
_AROUND = 10  # lines on either side, with which a line is compared


@dataclass(frozen=True)
class Centroids:
    """Places where light was found.

    Parameters
    ----------
    there : centroids on the detector, float64 [n, 2]; nan where nothing was found
    light : counts of each, float64 [n]
    spread_px : root mean square extent along rows and columns, float64 [n, 2]
    """

    there: np.ndarray
    light: np.ndarray
    spread_px: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """Say which were found: bool [n]."""
        return np.isfinite(self.there).all(axis=1)


def grid(
    shape: tuple[int, int], pitch: tuple[int, int], side: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rectangles of a centred grid that lie wholly on a plane.

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
    place : of its light, float64 [2]
    size_px : its area, in pixels

    Raises
    ------
    WrongLight : when there is none, or light in several places
    """
    cell = max(1, min(side for side in image.shape if side > 1) // 256)
    coarse = image
    if cell > 1:  # small cells hold their light together, and the noise of single pixels down
        steps = tuple(cell if side > 1 else 1 for side in image.shape)
        kept = image[
            : image.shape[0] // steps[0] * steps[0], : image.shape[1] // steps[1] * steps[1]
        ]
        coarse = kept.reshape(
            kept.shape[0] // steps[0], steps[0], kept.shape[1] // steps[1], steps[1]
        ).mean(axis=(1, 3))
    level = float(np.median(coarse))
    noise = 1.4826 * float(np.median(np.abs(coarse - level)))
    light = coarse - level
    peak = float(light.max())
    if peak <= _SPOT_SIGMA * noise or peak <= 0:
        raise UnexpectedIntensity(f"{what} is not seen: nothing stands out of the noise")
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
            f"{what} is seen as light in several places: keep reflections, other light and hands "
            "out of the beam"
        )
    scale = np.array([cell if side > 1 else 1 for side in image.shape])
    return (middle + 0.5) * scale - 0.5, float(area * np.prod(scale))


def centroids(
    image: np.ndarray, predicted: np.ndarray, reach: tuple[float, float], noise: float
) -> Centroids:
    """Find the light around predicted places, within windows that hold one square each.

    Parameters
    ----------
    image : counts above those without the squares, float64 [h, w]
    predicted : float64 [n, 2]
    reach : half height and half width of the windows
    noise : of one pixel, in counts
    """
    half = np.maximum(np.floor(reach).astype(int), 0)
    middle = np.rint(predicted).astype(int)
    inside = ((middle - half >= 0) & (middle + half < np.array(image.shape))).all(axis=1)
    there = np.full((len(predicted), 2), np.nan)
    light, spread = np.zeros(len(predicted)), np.full((len(predicted), 2), np.nan)
    if not inside.any():
        return Centroids(there, light, spread)
    rows, columns = (np.arange(-size, size + 1) for size in half)
    window = image[
        middle[inside, 0, None, None] + rows[:, None], middle[inside, 1, None, None] + columns
    ]
    window = window - _around(window)[:, None, None]
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
    there[number[near]] = middle[inside][near] + off[near]
    light[number] = total
    spread[number[near]] = np.sqrt(np.maximum(square - off**2, 0))[near]
    return Centroids(there, light, spread)


def _around(windows: np.ndarray) -> np.ndarray:
    """Return the light at the edges of windows [n, h, w], which is that of their surroundings."""
    if windows.shape[2] == 1:
        return np.asarray(windows[:, [0, -1], 0].mean(axis=1))
    edge = np.concatenate(
        [windows[:, 0], windows[:, -1], windows[:, 1:-1, 0], windows[:, 1:-1, -1]], axis=1
    )
    return np.asarray(edge.mean(axis=1))


def field(here: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the smooth unevenness of squares' light, leaving out those that are cut.

    Parameters
    ----------
    here : places of the squares, float64 [n, 2]
    light : of each, positive, float64 [n]

    Returns
    -------
    relative : light over the smooth field, float64 [n]
    slopes : of the field's logarithm per pixel, float64 [n, 2]; a square's light lies by
        side^2 / 12 times this off its centre
    """
    middle, size = here.mean(axis=0), np.maximum(np.ptp(here, axis=0) / 2, 1.0)
    y, x = ((here - middle) / size).T
    columns = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=1)
    kept = light > 0.5 * np.median(light)
    if kept.sum() < 2 * _FIELD_TERMS:
        return light / np.median(light), np.zeros_like(here)
    logs = np.log(np.maximum(light, 1e-300))
    for _ in range(5):
        solved = np.linalg.lstsq(columns[kept], logs[kept], rcond=None)[0]
        off = logs - columns @ solved
        spread = 1.4826 * float(np.median(np.abs(off[kept] - np.median(off[kept])))) + 1e-6
        now = np.abs(off) < np.clip(4 * spread, 0.02, 0.3)
        if now.sum() < 2 * _FIELD_TERMS or np.array_equal(now, kept):
            break
        kept = now
    slopes = np.stack(
        [
            solved[1] + 2 * solved[3] * y + solved[4] * x,
            solved[2] + solved[4] * y + 2 * solved[5] * x,
        ],
        axis=1,
    )
    return np.exp(off), slopes / size


def whole(relative: np.ndarray) -> np.ndarray:
    """Say which squares are seen whole, of their light over the smooth field: bool [n]."""
    return np.asarray((relative > _LEAST_LIGHT) & (relative < 1 / _LEAST_LIGHT))


def dark_lines(profile: np.ndarray, least: float = 0.02) -> list[int]:
    """Find lines (rows or columns) that stay darker than those around them.

    Parameters
    ----------
    profile : light of each line, float64 [n]; nan where it is not known
    least : share of the light that must be missing
    """
    known = np.isfinite(profile) & (profile > 0)
    if known.sum() < 4 * _AROUND:
        return []
    padded = np.pad(np.where(known, profile, np.nan), _AROUND, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1)
    judged = np.isfinite(around).all(axis=1)  # lines at an edge have neighbours on one side only
    depth = np.zeros(len(profile))
    depth[judged] = 1 - profile[judged] / np.median(around[judged], axis=1)
    noise = 1.4826 * float(np.median(np.abs(depth[judged]))) if judged.any() else 0.0
    deep = depth > max(least, 6 * noise)
    lines = []
    for line in np.flatnonzero(deep):  # the deepest of each run
        low, high = max(line - 3, 0), line + 4
        if depth[line] == depth[low:high].max():
            lines.append(int(line))
    return lines


def consensus(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit an affine map to few points of which some may be wrong: least median of distances.

    Returns
    -------
    matrix : float64 [2, 3], fitted to the points that agree
    off : distance of every point from it, float64 [n]
    """
    terms = np.column_stack([here, np.ones(len(here))])
    best, least = None, np.inf
    for three in combinations(range(len(here)), 3):
        chosen = terms[list(three)]
        if abs(np.linalg.det(chosen)) < 1e-3 * np.ptp(here, axis=0).prod():
            continue
        matrix = np.linalg.solve(chosen, there[list(three)])
        off = np.hypot(*(there - terms @ matrix).T)
        middle = np.sort(off)[3 + (len(here) - 4) // 2]  # three are met by construction
        if middle < least:
            best, least = off, middle
    assert best is not None
    near = best <= max(3 * least, 0.5)
    matrix = np.linalg.lstsq(terms[near], there[near], rcond=None)[0]
    return matrix.T, np.hypot(*(there - terms @ matrix).T)
