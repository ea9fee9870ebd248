"""Maps from the pixels of one plane to those of another: affine, with a low-order correction.

A map is float64 [2, 3], [2, 6] or [2, 10]: (row, column) there = map @ (row r, column c, 1[, r^2,
r c, c^2[, r^3, r^2 c, r c^2, c^3]]) here, in pixels, whole numbers at the centres of pixels. A
tilted plane asks for quadratic terms, a lens that distorts for cubic ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_OUTLIER = 4.0  # robust standard deviations beyond which a point is no witness
_ASKED = 1.25  # a map's residual over that of the next order, from which on the latter is taken
_AGREE = 0.9  # so many points of the lower order must fit the next one too: it is sharper
TERMS = (3, 6, 10)  # of an affine, a quadratic, a cubic map


def _terms(points: np.ndarray, count: int) -> np.ndarray:
    row, column = points[..., 0], points[..., 1]
    terms = [row, column, np.ones_like(row)]
    if count > 3:
        terms += [row**2, row * column, column**2]
    if count > 6:
        terms += [row**3, row**2 * column, row * column**2, column**3]
    return np.stack(terms, axis=-1)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Send points [..., 2] (row, column) to the other plane."""
    return _terms(np.asarray(points, dtype=np.float64), matrix.shape[1]) @ matrix.T


def scales(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the derivative of a map at points [..., 2]: float64 [..., 2 (there), 2 (here)]."""
    points = np.asarray(points, dtype=np.float64)
    row, column = points[..., :1], points[..., 1:]
    slopes = np.broadcast_to(matrix[:, :2], (*points.shape[:-1], 2, 2)).copy()
    if matrix.shape[1] > 3:
        a, b, c = matrix[:, 3:6].T
        slopes[..., 0] += 2 * a * row + b * column
        slopes[..., 1] += b * row + 2 * c * column
    if matrix.shape[1] > 6:
        a, b, c, d = matrix[:, 6:].T
        slopes[..., 0] += 3 * a * row**2 + 2 * b * row * column + c * column**2
        slopes[..., 1] += b * row**2 + 2 * c * row * column + 3 * d * column**2
    return slopes


def back(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Send points [..., 2] of the other plane back to this one (Newton's steps)."""
    points = np.asarray(points, dtype=np.float64)
    inverse = np.linalg.inv(matrix[:, :2])
    found = (points - matrix[:, 2]) @ inverse.T
    if matrix.shape[1] > 3:
        for _ in range(12):  # the correction is small, so each step gains digits
            found = found + (points - apply(matrix, found)) @ inverse.T
    return found


@dataclass(frozen=True)
class Fit:
    """A map, and how well it describes the points that it was fitted to.

    Parameters
    ----------
    matrix : float64 [2, 3], [2, 6] or [2, 10]
    residual_px : root mean square of one coordinate of the points kept, in pixels there
    uncertainty_px : of the map within the points, one standard deviation of one coordinate
    kept : which points were kept, bool [n]
    """

    matrix: np.ndarray
    residual_px: float
    uncertainty_px: float
    kept: np.ndarray


def fit(here: np.ndarray, there: np.ndarray, correct: bool = True) -> Fit:
    """Fit a map to points [n, 2] by least squares, leaving out what no map describes.

    Parameters
    ----------
    correct : allow quadratic and cubic terms where the residuals ask for them

    Raises
    ------
    ValueError : for fewer than 3 points, or points on one line
    """
    best = _fit(here, there, 3)
    for count in TERMS[1:] if correct else ():
        if best.kept.sum() < 3 * count:
            break
        finer = _fit(here, there, count)
        asked = best.residual_px > _ASKED * finer.residual_px + 1e-6
        if asked and finer.kept.sum() >= _AGREE * best.kept.sum():
            best = finer
    return best


def _fit(here: np.ndarray, there: np.ndarray, count: int) -> Fit:
    here, there = np.asarray(here, float), np.asarray(there, float)
    if len(here) < count:
        raise ValueError(f"{len(here)} points do not fix a map of {count} terms")
    size = np.abs(here).max() or 1.0
    columns = _terms(np.full(2, size), count)  # alike in size
    terms = _terms(here, count) / columns
    kept = np.ones(len(here), dtype=bool)
    for _ in range(10):
        if np.linalg.matrix_rank(terms[kept], tol=1e-9 * len(here)) < count:
            raise ValueError("the points found lie on one line")
        solved = np.linalg.lstsq(terms[kept], there[kept], rcond=None)[0]
        off = np.hypot(*(there - terms @ solved).T)
        spread = 1.4826 * np.median(off[kept]) + 1e-9
        now = off <= _OUTLIER * spread
        if now.sum() < max(count, len(here) // 2) or np.array_equal(now, kept):
            break
        kept = now
    freedom = max(kept.sum() - count, 1)
    residual = float(np.sqrt((off[kept] ** 2).sum() / (2 * freedom)))
    uncertainty = residual * float(np.sqrt(count / kept.sum()))
    return Fit((solved / columns[:, None]).T, residual, uncertainty, kept)


def together(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the map that applies `first` and then `second`, fitted over points [n, 2] here."""
    if first.shape[1] == second.shape[1] == 3:
        turn = second[:, :2] @ first[:, :2]
        return np.column_stack([turn, second[:, :2] @ first[:, 2] + second[:, 2]])
    count = max(first.shape[1], second.shape[1])
    return _fit(points, apply(second, apply(first, points)), count).matrix
