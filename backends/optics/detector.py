"""`Regions`: sums of camera pixels over rectangles, in photoelectrons above the dark level."""

from __future__ import annotations

import numpy as np

from ...instruments.environment import COMPILED
from .parameters import Optics


class Regions:
    """Rectangles of camera pixels and their dark levels.

    Attributes
    ----------
    boxes : top, left, bottom, right, int64 [n, 4]
    pixels : number of good pixels of each, float64 [n]
    """

    def __init__(self, boxes: np.ndarray, optics: Optics) -> None:
        self.boxes = np.ascontiguousarray(boxes, dtype=np.int64)
        self._gain = optics.gain_e_per_count
        area = np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1).astype(float)
        self._bad: tuple[np.ndarray, np.ndarray] | None = None
        if optics.bad is not None and optics.bad.any():
            bad = np.argwhere(optics.bad)
            pairs = [(n, y, x) for y, x in bad for n in np.nonzero(self._contain(y, x))[0]]
            if pairs:
                number, y, x = np.array(pairs).T
                self._bad = (number, y * optics.sensor_shape[1] + x)
                area -= np.bincount(number, minlength=len(area))
        self.pixels = area
        if np.ndim(optics.dark_counts):
            self._dark = self._sums(np.asarray(optics.dark_counts, dtype=np.float64))
        else:
            self._dark = area * float(optics.dark_counts)

    def _contain(self, y: int, x: int) -> np.ndarray:
        top, left, bottom, right = self.boxes.T
        return (top <= y) & (y < bottom) & (left <= x) & (x < right)

    def _sums(self, taken: np.ndarray) -> np.ndarray:
        sums = region_sums(taken, self.boxes)
        if self._bad is not None:
            number, place = self._bad
            sums -= np.bincount(number, taken.ravel()[place], minlength=len(sums))
        return sums

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Return photoelectrons above the dark level: float64 [n]."""
        return np.asarray((self._sums(taken) - self._dark) * self._gain)


def region_sums(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Sum an image over rectangles int64 [n, 4] (top, left, bottom, right): float64 [n]."""
    if COMPILED:
        from .kernels import region_sums as compiled

        return np.asarray(compiled(image, regions))
    return np.array([image[t:b, le:r].sum(dtype=np.float64) for t, le, b, r in regions])
