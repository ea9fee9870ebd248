"""Results of alignment: points on two planes, and the maps fitted to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...instruments import UnexpectedIntensity
from ..optics import registration

EDGE_PX = 3  # border of the camera that windows do not touch
BAD_PX = 0.5  # residual from which a fit is rejected


@dataclass(frozen=True)
class Fitted:
    """A map, and the points that it was fitted to.

    Parameters
    ----------
    fit : see `registration.fit`
    from_px, to_px : detected points on both planes, float64 [n, 2]
    shown : all points that were shown, float64 [m, 2]
    number : index in `shown` of each detected point, int [n]
    noise_px : of one coordinate of a point, from repeated exposures or from its signal
    margin_px : free space that a point needs on the other plane
    bad_px : residual from which the fit is rejected
    blur_px : of a point on the camera, where known
    """

    fit: registration.Fit
    from_px: np.ndarray
    to_px: np.ndarray
    shown: np.ndarray
    number: np.ndarray
    noise_px: float
    margin_px: tuple[float, float] = (0.0, 0.0)
    blur_px: float = 0.0
    bad_px: float = BAD_PX

    @property
    def matrix(self) -> np.ndarray:
        """The map."""
        return self.fit.matrix

    @property
    def is_found(self) -> np.ndarray:
        """Which of the shown points fit the map: bool [m]."""
        fits = np.zeros(len(self.shown), dtype=bool)
        fits[self.number[self.fit.kept]] = True
        return fits

    @property
    def residuals_px(self) -> np.ndarray:
        """The distance of each point from the map, float64 [n, 2]."""
        return self.to_px - registration.apply(self.matrix, self.from_px)


def fit_map(from_px: np.ndarray, to_px: np.ndarray, role: str) -> registration.Fit:
    """Fit a map to points [n, 2].

    Raises
    ------
    UnexpectedIntensity : when the points do not determine a map
    """
    try:
        return registration.fit(from_px, to_px)
    except ValueError as error:
        raise UnexpectedIntensity(
            f"the {role} modulator's points do not determine a map: {error}; check that both "
            "modulators are in the beam and in focus"
        ) from None


def robust_deviation(values: np.ndarray) -> float:
    """Return the standard deviation of normally distributed values, from their median deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def in_cells(image: np.ndarray, steps: tuple[int, int]) -> np.ndarray:
    """Return an image in whole cells of some rows and columns: [down, rows, across, columns]."""
    down, across = image.shape[0] // steps[0], image.shape[1] // steps[1]
    whole = image[: down * steps[0], : across * steps[1]]
    return whole.reshape(down, steps[0], across, steps[1])


def noise_of(one: np.ndarray, other: np.ndarray) -> float:
    """Return the noise of one pixel from two exposures of the same light [h, w]."""
    return robust_deviation(one - other) / np.sqrt(2) + 1e-9


def scale_of(matrix: np.ndarray) -> float:
    """Return the mean magnification of a map over directions."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def inverse_of(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of an affine map [2, 3]."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


@dataclass(frozen=True)
class AlignmentFits:
    """The maps that were fitted to the measured points.

    Parameters
    ----------
    input_map : weight pixel -> input pixel, see `optics.registration`
    camera_map : weight pixel -> camera pixel; in the line layout the camera row of a weight row and
        the middle column of the spots; None in the single-pixel layout
    spot_px : width of a line's spots in camera columns; None in other layouts
    parts : the fits by role, with the detected points
    input_px : uncertainty of the input map, in input pixels
    """

    input_map: np.ndarray
    camera_map: np.ndarray | None
    spot_px: float | None
    parts: dict[str, Fitted]
    input_px: float


def inside_of(
    points: np.ndarray, shape: tuple[int, int], margin_px: tuple[float, float]
) -> np.ndarray:
    """Return which points [..., 2] lie on a plane of `shape`, a margin away from its edges."""
    margin, most = np.array(margin_px), np.array(shape) - 1
    return np.asarray(((points >= margin) & (points <= most - margin)).all(axis=-1))
