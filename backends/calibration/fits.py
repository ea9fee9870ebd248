"""What alignment finds: points of two planes, and the maps fitted to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...instruments import SpatialLightModulator, UnexpectedIntensity
from ..bench.bench import Bench
from ..optics import registration

EDGE_PX = 3  # of the camera, that no window may touch
BAD_PX = 0.5  # of a fit's residual, from which on it is nonsense


@dataclass(frozen=True)
class Fitted:
    """A map with the points it comes from.

    Parameters
    ----------
    fit : see `registration.fit`
    here, there : points of both planes that were found, float64 [n, 2]
    shown : all points that were shown, float64 [m, 2]
    number : which of them each point found is, int [n]
    noise_px : of one coordinate of a point, from its repeats or its signal
    margin_px : free space that a point needs on the other plane
    bad_px : residual from which on the fit is nonsense
    blur_px : of a point on the camera, where known
    """

    fit: registration.Fit
    here: np.ndarray
    there: np.ndarray
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
    def found(self) -> np.ndarray:
        """Say which of the points shown fit: bool [m]."""
        found = np.zeros(len(self.shown), dtype=bool)
        found[self.number[self.fit.kept]] = True
        return found

    @property
    def residuals_px(self) -> np.ndarray:
        """How far each point lies off the map, float64 [n, 2]."""
        return self.there - registration.apply(self.matrix, self.here)


def fit_map(here: np.ndarray, there: np.ndarray, role: str) -> registration.Fit:
    """Fit a map to points [n, 2].

    Raises
    ------
    WrongLight : when they fix none
    """
    try:
        return registration.fit(here, there)
    except ValueError as error:
        raise UnexpectedIntensity(f"the {role} modulator's points give no map: {error}") from None


def noise_of(one: np.ndarray, other: np.ndarray) -> float:
    """Return the noise of one pixel from two exposures of the same light [h, w]."""
    off = one - other
    return 1.4826 * float(np.median(np.abs(off - np.median(off)))) / np.sqrt(2) + 1e-9


def modulator_of(bench: Bench, role: str) -> SpatialLightModulator:
    """Return the modulator of a role."""
    return bench.input if role == "input" else bench.weight


def scale_of(matrix: np.ndarray) -> float:
    """Return the magnification of a map, in the mean over directions."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def inverse_of(matrix: np.ndarray) -> np.ndarray:
    """Return the map back, of an affine one [2, 3]."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


@dataclass(frozen=True)
class AlignmentFits:
    """What light told.

    Parameters
    ----------
    input_map, camera_map, spot_px : see `Alignment`
    parts : fits by name
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
    """Say which points [..., 2] lie on a plane of `shape`, a margin away from its edges."""
    margin, most = np.array(margin_px), np.array(shape) - 1
    return np.asarray(((points >= margin) & (points <= most - margin)).all(axis=-1))
