"""`Projection`: the light that a pair of frames sends to the detector, without noise.

Light is in that of one pixel at full transmission.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from .imperfections import Imperfections
from .optics import bend, blur, image, interfere, look_up, taps, warp
from .shown_frames import Modulator, ShownFrame

_CACHED_IMAGES, _CACHED_SUMS = 2, 64  # sizes of the caches of images and sums, by pairs of frames

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Three planes whose product is the light of each weight pixel: float32 [h, w]."""


class Projection:
    """Sums and images of pairs of frames.

    Parameters
    ----------
    modulators : by role
    """

    def __init__(self, bench: Imperfections, modulators: Mapping[str, Modulator]) -> None:
        self._bench, self._options, self._modulators = bench, bench.options, modulators
        self._images: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._sums: OrderedDict[Any, float] = OrderedDict()
        self._sharp = np.empty((0, 0), dtype=np.float32)

    def forget(self) -> None:
        """Clear the caches of images and sums."""
        self._images.clear()
        self._sums.clear()

    def planes(self, one: ShownFrame, other: ShownFrame) -> Planes:
        """Return the planes of an input and a weight frame."""
        bench, fringes = self._bench, self._options.fringes
        planes = self._light("input", one), self._light("weight", other), bench.flat_field
        if not fringes:
            return planes
        light = interfere(planes[0] * planes[1] * planes[2], bench.fringes, fringes)
        ones = np.ones_like(light)
        return light, ones, ones

    def total(self, one: ShownFrame, other: ShownFrame) -> float:
        """Return the total light of a pair of frames."""
        key = one.number, other.number
        if key not in self._sums:
            x, w, even = self.planes(one, other)
            self._sums[key] = float(np.vdot(x, w * even))
            if len(self._sums) > _CACHED_SUMS:
                self._sums.popitem(last=False)
        return self._sums[key]

    def cached_image(
        self, one: ShownFrame, other: ShownFrame, sensor_shape: tuple[int, int]
    ) -> np.ndarray:
        """Return the image of a pair of frames, from the cache if possible: float32 [h, w]."""
        key = sensor_shape, one.number, other.number
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        space = None
        if len(self._images) == _CACHED_IMAGES:
            _, space = self._images.popitem(last=False)
        self._images[key] = self.image(self.planes(one, other), sensor_shape, space)
        return self._images[key]

    def image(
        self, planes: Planes, sensor_shape: tuple[int, int], space: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the image of planes on a sensor, float32 [h, w], in `space` if that fits."""
        if self._options.layout == "line":
            return self._spots(planes, sensor_shape)
        matrix, options = self._bench.camera_map(sensor_shape), self._options
        if space is not None and space.shape != sensor_shape:
            space = None
        if not options.blur_px:
            return image(*planes, matrix, sensor_shape, options.distortion, space)
        if self._sharp.shape != sensor_shape:
            self._sharp = np.empty(sensor_shape, dtype=np.float32)
        sharp = image(*planes, matrix, sensor_shape, options.distortion, self._sharp)
        return blur(sharp, options.blur_px, space)

    def arriving(
        self, sensor_shape: tuple[int, int], boxes: np.ndarray, owner: np.ndarray
    ) -> np.ndarray:
        """Return the fraction of each weight pixel's light in its box; see `LightPath.arriving`."""
        options, matrix = self._options, self._bench.camera_map(sensor_shape)
        rows, columns = np.nonzero(owner >= 0)
        top, first, bottom, last = boxes[owner[rows, columns]].T
        y, x = (turn[0] * rows + turn[1] * columns + turn[2] for turn in matrix)
        share = np.zeros(owner.shape)
        if options.layout == "line":
            c, step = options.crosstalk, matrix[0, 0]
            seen = (1 - 2 * c) * _collected(y, top, bottom)
            seen += c * (_collected(y - step, top, bottom) + _collected(y + step, top, bottom))
            left = self._bench.spot_left(sensor_shape)
            right = left + options.spot_px
            wide = np.minimum(last, right) - np.maximum(first, left)
            share[rows, columns] = seen * np.clip(wide / options.spot_px, 0, 1)
            return share
        if options.distortion:
            y, x = bend(y, x, sensor_shape, options.distortion)
        on_rows, on_columns = np.zeros(len(y)), np.zeros(len(x))
        for offset, tap in zip(*taps(options.blur_px), strict=True):
            on_rows += tap * _collected(y + offset, top, bottom)
            on_columns += tap * _collected(x + offset, first, last)
        share[rows, columns] = on_rows * on_columns
        return share

    def _light(self, role: str, frame: ShownFrame) -> np.ndarray:
        """Return the transmission of a frame on the grid of weight pixels: float32 [h, w]."""
        if frame.light is None:
            modulator = self._modulators[role]
            space, modulator.spare = modulator.spare, None
            if space is not None and space.shape != modulator.shape:
                space = None
            light = look_up(frame.levels, modulator.table, space)
            if role == "input":
                light = warp(light, self._bench.input_map, self._bench.weight_shape)
            elif self._options.dead_rows:
                light[list(self._options.dead_rows)] = modulator.table.min()
            frame.light = light
        return frame.light

    def _spots(self, planes: Planes, sensor_shape: tuple[int, int]) -> np.ndarray:
        """Return the image of row sums in the line layout; light beside the sensor is lost."""
        rows = np.einsum("hw,hw,hw->h", *planes, dtype=np.float32)
        c, spot_px = self._options.crosstalk, self._options.spot_px
        if c:
            padded = np.pad(rows, 1)
            rows = (1 - 2 * c) * rows + c * (padded[:-2] + padded[2:])
        height, width = sensor_shape
        matrix = self._bench.camera_map(sensor_shape)
        y = matrix[0, 0] * np.arange(len(rows)) + matrix[0, 2]
        rows = np.where((y >= 0) & (y < height - 1), rows, 0)
        top = np.clip(np.floor(y).astype(int), 0, height - 2)
        column = np.zeros(height)
        for step, share in ((0, 1 - (y - top)), (1, y - top)):
            column += np.bincount(top + step, weights=rows * share, minlength=height)
        seen = np.zeros(sensor_shape, dtype=np.float32)
        edges = np.arange(width + 1) - self._bench.spot_left(sensor_shape)
        lit = np.diff(np.clip(edges, 0, spot_px))  # fraction of each camera column
        (places,) = np.nonzero(lit)
        seen[:, places] = (column / spot_px)[:, None] * lit[places]
        return seen


def _collected(place: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the fraction of light at positions that pixels from `first` to `last` - 1 collect.

    The light falls on the two pixels around a position, with linear weights.
    """
    return np.asarray(np.clip(place - first + 1, 0, 1) - np.clip(place - last + 1, 0, 1))
