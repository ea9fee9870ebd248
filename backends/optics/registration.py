"""Registration: maps from the pixels of one plane to another, affine with a low-order correction.

A map is float64 [2, 3], [2, 6] or [2, 10]: (row, column) on the target plane = map @ (row r, column
c, 1[, r^2, r c, c^2[, r^3, r^2 c, r c^2, c^3]]), in pixels, with integers at the centres of pixels.
A tilted plane needs quadratic terms, lens distortion cubic ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_OUTLIER = 4.0  # robust standard deviations beyond which a point is an outlier
_ASKED = 1.25  # residual of a map over that of the next order from which the latter is used
_AGREE = 0.9  # fraction of the kept points of the lower order that the next one must keep
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
    """Map points [..., 2] (row, column) to the target plane."""
    return _terms(np.asarray(points, dtype=np.float64), matrix.shape[1]) @ matrix.T


def scales(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the derivative of a map at points [..., 2]: float64 [..., 2 (target), 2]."""
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
    """Map points [..., 2] of the target plane back (Newton's method)."""
    points = np.asarray(points, dtype=np.float64)
    inverse = np.linalg.inv(matrix[:, :2])
    solved = (points - matrix[:, 2]) @ inverse.T
    if matrix.shape[1] > 3:
        for _ in range(12):  # the correction is small, so the steps converge fast
            solved = solved + (points - apply(matrix, solved)) @ inverse.T
    return solved


@dataclass(frozen=True)
class Fit:
    """A map and the quality of its fit.

    Parameters
    ----------
    matrix : float64 [2, 3], [2, 6] or [2, 10]
    residual_px : rms of one coordinate of the kept points, in pixels of the target plane
    uncertainty_px : of the map within the points, one standard deviation of one coordinate
    kept : which points were kept, bool [n]
    """

    matrix: np.ndarray
    residual_px: float
    uncertainty_px: float
    kept: np.ndarray


def fit(from_px: np.ndarray, to_px: np.ndarray) -> Fit:
    """Fit a map to points [n, 2] on both planes by least squares, without outliers.

    The map has quadratic and cubic terms if the residuals need them.

    Raises
    ------
    ValueError : for fewer than 3 points, or points on one line
    """
    best = _fit(from_px, to_px, 3)
    for count in TERMS[1:]:
        if best.kept.sum() < 3 * count:
            break
        finer = _fit(from_px, to_px, count)
        asked = best.residual_px > _ASKED * finer.residual_px + 1e-6
        if asked and finer.kept.sum() >= _AGREE * best.kept.sum():
            best = finer
    return best


def _fit(from_px: np.ndarray, to_px: np.ndarray, count: int) -> Fit:
    from_px, to_px = np.asarray(from_px, float), np.asarray(to_px, float)
    if len(from_px) < count:
        raise ValueError(f"{len(from_px)} points do not determine a map of {count} terms")
    size = np.abs(from_px).max() or 1.0
    columns = _terms(np.full(2, size), count)  # of similar size
    terms = _terms(from_px, count) / columns
    kept = np.ones(len(from_px), dtype=bool)
    for _ in range(10):
        if np.linalg.matrix_rank(terms[kept], tol=1e-9 * len(from_px)) < count:
            raise ValueError("the detected points lie on one line")
        solved = np.linalg.lstsq(terms[kept], to_px[kept], rcond=None)[0]
        off = np.hypot(*(to_px - terms @ solved).T)
        spread = 1.4826 * np.median(off[kept]) + 1e-9
        now = off <= _OUTLIER * spread
        if now.sum() < max(count, len(from_px) // 2) or np.array_equal(now, kept):
            break
        kept = now
    freedom = max(kept.sum() - count, 1)
    residual = float(np.sqrt((off[kept] ** 2).sum() / (2 * freedom)))
    uncertainty = residual * float(np.sqrt(count / kept.sum()))
    return Fit((solved / columns[:, None]).T, residual, uncertainty, kept)


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the affine map that applies the affine maps `first` and then `second`."""
    turn = second[:, :2] @ first[:, :2]
    return np.column_stack([turn, second[:, :2] @ first[:, 2] + second[:, 2]])
