"""`LineLayout`: the input along columns, each row of weights summed into one camera spot.

Markers are reserved rows, each of which passes one reserved column.
"""

from __future__ import annotations

import numpy as np

from ....instruments import InputError
from .. import registration
from .base import BRIGHT, FIRST_BIT
from .on_camera import APART_PX, OnCamera


class LineLayout(OnCamera):
    """The input along columns, copied over rows; one camera spot sums each row of weights."""

    name = "line"
    shares_input = True

    def _on_detector(self, points: np.ndarray) -> np.ndarray:
        row = registration.apply(self.optics.camera_map, points * [1, 0])[..., 0]
        return np.asarray((row >= 0) & (row <= self.optics.sensor_shape[0] - 1))

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch, guard = self.encoding.element_px, self.encoding.guard_px
        height, width = self._size
        step = pitch + guard
        rows = height // step
        self.marker_bits = min(4, max((rows - 2) // 4, 1))
        count = 2 * self.marker_bits
        mark = 2 * pitch  # width of a reserved column
        self.length = (width - (count + 1) * mark) // pitch
        self.slots = rows - 2 * count
        self.grid = (self.slots, 1)
        if self.slots < 1 or self.length < 1:
            raise InputError(
                f"elements of {pitch} pixels with a guard of {guard} leave no row of elements on "
                f"the {height} x {width} visible pixels of the weight modulator, beside its "
                "markers; make them smaller"
            )
        first = (count + 1) * mark
        element = FIRST_BIT + count
        weight = np.zeros((height, width), dtype=np.int64)
        inputs = np.zeros((height, width), dtype=np.int64)
        columns = slice(first, first + self.length * pitch)
        inputs[:, columns] = np.repeat(element + np.arange(self.length), pitch)
        inputs[:, :mark] = BRIGHT
        for bit in range(count):
            inputs[:, (bit + 1) * mark : (bit + 2) * mark] = FIRST_BIT + bit
        start = (height - rows * step + guard) // 2
        # rows with the bits of the input frame's number, of the weight frame's number, of elements
        for row in range(rows):
            part = slice(start + row * step, start + row * step + pitch)
            if row < count:
                weight[part, (row + 1) * mark : (row + 2) * mark] = BRIGHT
            elif row < 2 * count:
                weight[part, :mark] = FIRST_BIT + row - count
            else:
                places = element + (row - 2 * count) * self.length + np.arange(self.length)
                weight[part, columns] = np.repeat(places, pitch)
        reserved = (self.marker_bits + 1) * mark
        self.leaked_px = guard * (self.length * pitch / 4 + reserved) + pitch * reserved
        self._find_rows(self.window[0] + start + step * np.arange(rows), pitch, count)
        return self._in_window(weight), self._in_window(inputs)

    def _find_rows(self, tops: np.ndarray, pitch: int, count: int) -> None:
        matrix = self.optics.camera_map
        middles = np.stack([tops + (pitch - 1) / 2, 0 * tops], axis=1)
        scale = np.abs(registration.scales(matrix, middles)[:, 0, 0])
        guard_px = self._guard_on_camera(float(scale.min()), "rows")
        on_camera = registration.apply(matrix, middles)
        reach = scale * pitch / 2 + (guard_px - 1) / 2
        low = np.rint(on_camera[:, 0] - reach + 0.5).astype(int)
        high = np.rint(on_camera[:, 0] + reach + 0.5).astype(int)
        wide = int(np.ceil(self.optics.spot_px)) + 2  # camera columns that are read
        left = np.rint(on_camera[:, 1]).astype(int) - wide // 2
        boxes = np.stack([low, left, high, left + wide], axis=1)
        self._cut(boxes[2 * count :], {"input": boxes[:count], "weight": boxes[count : 2 * count]})

    def columns(self) -> tuple[int, int]:
        """Return the first camera column that is read, and the one after the last."""
        boxes = self.boxes()
        return int(boxes[:, 1].min()), int(boxes[:, 3].max())

    def _are_lit(self, points: np.ndarray) -> np.ndarray:
        left, right = self.columns()
        column = points[:, 1]
        return np.asarray((column >= left - APART_PX) & (column < right + APART_PX))
