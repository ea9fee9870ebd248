"""`OnCamera`: the base of imaged and line layouts: slots and markers as regions of a camera."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import Any

import numpy as np

from ....instruments import InputError
from ....instruments.environment import COMPILED
from .. import registration
from ..parameters import Markers, Optics, Response
from .base import MARKER_LIMITS, MOST_LIGHT, ImageReading, Layout, Marks

ROLES = ("input", "weight")  # of markers
APART_PX = 8  # distance of dark pixels from lit ones, in camera pixels: blur and edges of spots
_DARK_PIXELS, _LEAST_DARK = 2000, 50  # pixels that measure the dark level, at most and at least
_TYPICAL_INPUT = 0.25  # mean normalised intensity of inputs


class Regions:
    """Rectangles of camera pixels and their dark levels.

    Attributes
    ----------
    boxes : top, left, bottom, right, int64 [n, 4]
    pixels : number of good pixels of each, float64 [n]
    """

    def __init__(self, boxes: np.ndarray, optics: Optics) -> None:
        self.boxes = np.ascontiguousarray(boxes, dtype=np.int64)
        self._edges = _edges(self.boxes)
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
        if not COMPILED:
            boxes = self.boxes.tolist()
            sums = np.array([taken[t:b, le:r].sum(dtype=np.float64) for t, le, b, r in boxes])
        elif taken.dtype.kind == "u":
            sums = kernels().count_sums(taken, self.boxes, self._edges).astype(np.float64)
        else:
            sums = kernels().region_sums(taken, self.boxes)
        if self._bad is not None:
            number, place = self._bad
            sums -= np.bincount(number, taken.ravel()[place], minlength=len(sums))
        return sums

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Return photoelectrons above the dark level: float64 [n]."""
        return np.asarray((self._sums(taken) - self._dark) * self._gain)


def _edges(boxes: np.ndarray) -> np.ndarray:
    """Return the tops and the bottoms of rectangles by row, see `kernels.count_sums`."""
    region = np.arange(len(boxes))
    tops = np.stack([boxes[:, 0], region, np.full_like(region, -1)], axis=1)
    bottoms = np.stack([boxes[:, 2], region, np.ones_like(region)], axis=1)
    edges = np.concatenate([tops, bottoms])
    return np.ascontiguousarray(edges[np.argsort(edges[:, 0], kind="stable")], dtype=np.int64)


@cache
def kernels() -> Any:
    """Return the compiled steps of decoding."""
    from .. import kernels

    return kernels


class OnCamera(Layout):
    """Reads slots and marker cells as rectangles of camera pixels."""

    def _on_detector(self, points: np.ndarray) -> np.ndarray:
        seen = registration.apply(self.optics.camera_map, points)
        most = np.array(self.optics.sensor_shape) - 1
        return np.asarray(((seen >= 0) & (seen <= most)).all(axis=-1))

    def _cut(self, regions: np.ndarray, cells: dict[str, np.ndarray]) -> None:
        """Store rectangles [n, 4] of slots, and of marker cells [copies x 2 bits, 4], in pixels."""
        height, width = self.optics.sensor_shape
        margin = 2  # a region may lose the dark edge of its guard, but not more
        for boxes in (regions, *cells.values()):
            if (
                boxes.min() < -margin
                or boxes[:, 2].max() > height + margin
                or boxes[:, 3].max() > width + margin
            ):
                raise InputError(
                    f"the {self.name} layout's light falls beyond the sensor of {height} x {width} "
                    "pixels; align the bench, or use a smaller part of the modulator"
                )
            np.clip(boxes, 0, [height, width, height, width], out=boxes)
        cell_boxes = np.stack([cells[role].reshape(-1, 4) for role in ROLES])
        self._slots, self._cell_shape = len(regions), cell_boxes.shape[:2]
        self._regions = Regions(np.concatenate([regions, *cell_boxes]), self.optics)
        self._pixels, self._cell_pixels = self._split(self._regions.pixels)
        self._cell_variance = self._cell_pixels * self._pixel_variance  # without light

    def _guard_on_camera(self, scale: float, what: str) -> float:
        """Return the width of guard bands in camera pixels; refuse one that is too narrow."""
        guard_px = self.encoding.guard_px
        on_camera_px = guard_px * scale
        if on_camera_px < 3:
            raise InputError(
                f"encoding.guard_px = {guard_px} is {on_camera_px:.2g} camera pixels wide; {what} "
                f"need at least 3, so give {int(np.ceil(3 / scale))}"
            )
        return on_camera_px

    def _split(self, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split values of all regions into those of slots and of cells [roles, copies x 2 bits]."""
        return regions[: self._slots], regions[self._slots :].reshape(self._cell_shape)

    def read(self, taken: np.ndarray) -> ImageReading:
        """Return the counts of slots and marker cells above the dark level, in electrons."""
        return ImageReading(*self._split(self._regions.electrons(taken)))

    @property
    def marker_cells(self) -> dict[str, int]:
        """The number of marker cells, by role."""
        count = int(self._cell_shape[1])
        return dict.fromkeys(ROLES, count)

    def marks(
        self, reading: ImageReading, mean_input: float | None, markers: Markers | None
    ) -> Marks:
        """Read both frame numbers from their marker cells, and the brightness of the cells.

        The brightness comes from the differences of bits and complements, in which leaks cancel.
        """
        if COMPILED and mean_input is not None and markers is not None:
            marks = self._compiled_marks(reading, mean_input, markers)
            if marks is not None:
                return marks
        numbers: dict[str, int] = {}
        above, expected, variance = 0.0, 0.0, 0.0
        for number, role in enumerate(ROLES):
            electrons = reading.cells[number]
            noise = np.maximum(electrons, 0) + self._cell_variance[number]
            bright = None
            if markers is not None:
                bright = markers.e[role].reshape(-1, 2 * self.marker_bits)
                electrons = electrons - markers.dark_e[role]
                electrons = self._without_leak(electrons, markers.leak_e[role], mean_input)
            electrons, noise = (
                part.reshape(-1, 2 * self.marker_bits) for part in (electrons, noise)
            )
            numbers[role] = self._read_bits(electrons, bright, noise, role)
            if bright is not None:
                lit = self._bits(numbers[role]) > 0
                above += electrons[:, lit].sum() - electrons[:, ~lit].sum()
                expected += bright[:, lit].sum()
                variance += noise.sum()
        if markers is None:
            return Marks(numbers)
        return Marks(numbers, above / expected, variance / expected**2)

    def _compiled_marks(
        self, reading: ImageReading, mean_input: float, markers: Markers
    ) -> Marks | None:
        """Return the same as `marks`, to the bit; None where a marker is not readable."""
        shape = (len(ROLES), -1, 2 * self.marker_bits)
        cells = reading.cells.reshape(shape)
        tables = (*markers.tables, self._cell_variance)
        expected = tuple(table.reshape(shape) for table in tables)
        noise = np.empty(cells.shape)
        parts = np.empty((len(ROLES), 3, self.marker_bits, cells.shape[1]))
        numbers = kernels().read_markers(cells, expected, mean_input, MARKER_LIMITS, noise, parts)
        if min(numbers) < 0:
            return None
        # added up by numpy in the order of `marks`, so that the last bits are the same
        (inputs, weights) = parts.reshape(len(ROLES), 3, -1).sum(axis=2).tolist()
        variance = noise.reshape(len(ROLES), -1).sum(axis=1).tolist()
        above = (inputs[0] - inputs[1]) + (weights[0] - weights[1])
        bright = inputs[2] + weights[2]
        return Marks(
            dict(zip(ROLES, numbers, strict=True)),
            above / bright,
            (variance[0] + variance[1]) / bright**2,
        )

    @property
    def _pixel_variance(self) -> float:
        """The variance of a pixel without light: read noise, dark counts, converter steps."""
        optics = self.optics
        return optics.read_noise_e**2 + optics.dark_e + optics.gain_e_per_count**2 / 12

    def marker_variance(self, response: Response) -> float | None:
        """Return the relative variance of the brightness that the markers of a shot measure."""
        markers = response.markers
        if markers is None:
            return None
        expected = noise = 0.0
        for role, pixels in zip(ROLES, self._cell_pixels, strict=True):
            lit_e = float(markers.e[role].sum()) / 2  # half of the cells are bright
            expected += lit_e
            noise += lit_e + float(pixels.sum()) * self._pixel_variance
            for leaks in (markers.leak_e, markers.dark_e):
                noise += max(float(leaks[role].sum()), 0.0) * _TYPICAL_INPUT
        return noise / expected**2

    def _without_leak(
        self, electrons: np.ndarray, leak: np.ndarray, mean_input: float | None
    ) -> np.ndarray:
        """Subtract the leak of the input's elements from marker cells [copies x 2 bits]."""
        if mean_input is None:  # the darker cell of each pair measures it
            pairs, leaks = electrons.reshape(-1, 2), leak.reshape(-1, 2)
            darker = pairs[:, 0] > pairs[:, 1]
            place = (np.arange(len(pairs)), darker.astype(int))
            total = max(float(leaks[place].sum()), 1e-30)
            mean_input = float(np.clip(pairs[place].sum() / total, 0, MOST_LIGHT))
        return electrons - leak * mean_input

    def read_pixels(self) -> np.ndarray:
        """Return the number of pixels of each slot."""
        return self._pixels

    @abstractmethod
    def _are_lit(self, points: np.ndarray) -> np.ndarray:
        """Return which camera pixels [n, 2] light may reach: bool [n]."""

    def dark_pixels(self) -> np.ndarray:
        """Return good pixels far from lit ones, evenly spread: flat indices, at most 2,000."""
        height, width = self.optics.sensor_shape
        step = max(height * width // (16 * _DARK_PIXELS), 1)
        places = np.arange(step // 2, height * width, step)
        if self.optics.bad is not None:
            places = places[~self.optics.bad.ravel()[places]]
        points = np.stack(np.divmod(places, width), axis=-1)
        places = places[~self._are_lit(points)]
        if len(places) < _LEAST_DARK:
            return places[:0]
        return places[:: -(-len(places) // _DARK_PIXELS)]

    def boxes(self) -> np.ndarray:
        """Return the camera rectangles of slots: top, left, bottom, right, int64 [slots, 4]."""
        return self._regions.boxes[: self._slots]
