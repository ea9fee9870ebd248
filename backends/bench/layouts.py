"""Where numbers lie: on the modulators' pixels, and on the detector's.

A layout cuts both modulators into slots of `length` elements; the light of each slot is one
dot product of a shot. Frames are looked up in an index map, pixel by pixel, so that any
registration of the input modulator costs nothing more. Every frame carries its number as light:

- imaged: strips at top and bottom, half of their cells show the input's number (opposite bright
  weights), half the weights' number (opposite bright input), each bit beside its complement;
- line: reserved rows, of which each sees one reserved column;
- block: no room on one detector; the frames' counters are read instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...instruments import InputError, StaleFrame, WrongLight
from ..products import COMPILED
from .file import EncodingTable

_LEAST, _MOST = 0.7, 1.4  # of a marker's light over what it should be; drift stays within
_DARK, _BRIGHT, _FIRST_BIT = 0, 1, 2  # places of an index map, before the elements


@dataclass(frozen=True)
class Optics:
    """What calibration knows of a bench.

    Parameters
    ----------
    tables : light of each grey level of a modulator, by role, float32 [levels], brightest 1
    input_map, camera_map : affine float64 [2, 3], weight pixel -> input, camera pixel
    gains : of each weight pixel, float32 [h, w]
    electrons_per_pixel : photoelectrons per weight pixel at full transmission and one exposure
    sensor_shape : (height, width) of the camera; (1, 1) of a photodiode
    offset_counts, gain_e_per_count : of the detector
    dark_e, read_noise_e : of one detector pixel, or of the photodiode, in one exposure
    """

    tables: dict[str, np.ndarray]
    input_map: np.ndarray
    camera_map: np.ndarray
    gains: np.ndarray
    electrons_per_pixel: float
    sensor_shape: tuple[int, int]
    offset_counts: float
    gain_e_per_count: float
    dark_e: float
    read_noise_e: float


class _Pattern:
    """Looks frames up: grey level of each pixel from the values of its slots.

    Rows of pixels that look alike are looked up once.

    Parameters
    ----------
    places : of each pixel, [height, width]: dark, bright, a bit of the marker, or an element
    """

    def __init__(self, places: np.ndarray, dtype: np.dtype[Any]) -> None:
        seen: dict[bytes, int] = {}
        rows = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in places])
        first = np.array([np.argmax(rows == number) for number in range(len(seen))])
        self._rows, self._places = rows, places[first].astype(np.intp)
        self._dtype = dtype

    def frame(self, values: np.ndarray) -> np.ndarray:
        """Give the frame [height, width] of values [places]."""
        looked_up = values.astype(self._dtype, copy=False).take(self._places)
        return looked_up.take(self._rows, axis=0)


class Layout(ABC):
    """One way to lay out numbers.

    Attributes
    ----------
    slots : dot products of a shot
    length : elements of each
    shares_input : whether all slots see one input vector
    marker_bits : of a frame's number
    scale_e : photoelectrons of an element pair at full transmission, float64 [slots]
    leaked_e : photoelectrons that a slot's surroundings leak into it, for inputs of mean 1/4; they
        cancel between rails and leave their shot noise
    """

    name: ClassVar[str]
    shares_input = False

    slots: int
    length: int
    marker_bits: int
    scale_e: np.ndarray
    leaked_e = 0.0

    def __init__(
        self,
        encoding: EncodingTable,
        shapes: dict[str, tuple[int, int]],
        dtypes: dict[str, np.dtype[Any]],
        optics: Optics,
    ) -> None:
        self.encoding, self.optics, self._shapes = encoding, optics, shapes
        self._levels = {role: len(table) - 1 for role, table in optics.tables.items()}
        weight, inputs = self._places()
        self._patterns = {
            "weight": _Pattern(weight, dtypes["weight"]),
            "input": _Pattern(self._on_input(inputs), dtypes["input"]),
        }
        first = _FIRST_BIT + 2 * self.marker_bits
        lit = np.bincount(weight.ravel(), optics.gains.ravel(), first + self.slots * self.length)
        elements = lit[first : first + self.slots * self.length]
        per_slot = elements.reshape(self.slots, self.length).mean(axis=1)
        self.scale_e = per_slot * optics.electrons_per_pixel

    @abstractmethod
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the places of weight and input values on the weight modulator's pixels."""

    def _on_input(self, places: np.ndarray) -> np.ndarray:
        """Give places [h, w] of the weight modulator's grid on the input modulator's pixels."""
        turn = np.linalg.inv(self.optics.input_map[:, :2])
        rows, columns = np.indices(self._shapes["input"])
        moved = np.stack([rows, columns]) - self.optics.input_map[:, 2][:, None, None]
        y, x = np.rint(np.tensordot(turn, moved, 1)).astype(int)
        height, width = places.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return np.where(inside, places[y.clip(0, height - 1), x.clip(0, width - 1)], _DARK)

    def frame(self, role: str, levels: np.ndarray, number: int) -> np.ndarray:
        """Lay out a frame.

        Parameters
        ----------
        role : "input" or "weight"
        levels : grey levels [slots, length]; [1, length] where slots share the input
        number : of the frame, shown by its marker

        Returns
        -------
        frame : grey levels (height, width) of that modulator
        """
        bits = (number >> np.arange(self.marker_bits)) & 1
        marks = np.stack([bits, 1 - bits], axis=1).ravel() * self._levels[role]
        values = np.concatenate([[0, self._levels[role]], marks, levels.ravel()])
        return self._patterns[role].frame(values)

    @abstractmethod
    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Give the photoelectrons of each slot, float64 [slots], from what the detector took."""

    @abstractmethod
    def numbers(self, taken: np.ndarray, mean_input: float) -> dict[str, int]:
        """Read the numbers of the frames whose light this is, by role.

        Parameters
        ----------
        mean_input : light that the input's elements pass, in the mean; darkest weights leak of it

        Raises
        ------
        WrongLight : when a marker is much darker or brighter than it should be
        StaleFrame : when a bit is neither, as in a mixture of two frames
        """

    @abstractmethod
    def read_pixels(self) -> float:
        """Give the detector pixels whose light one slot sums (1 for a photodiode)."""

    def _read_bits(self, light: np.ndarray, bright: np.ndarray, role: str) -> int:
        """Read a number from the light of its cells: bit and complement in turn, [copies, 2 b].

        Parameters
        ----------
        bright : photoelectrons of a bright cell, likewise
        """
        share = light.reshape(bright.shape) / bright
        one, other = share[:, ::2], share[:, 1::2]
        total = one + other
        least, most = float(total.min()), float(total.max())
        if least < _LEAST or most > _MOST:
            raise WrongLight(
                f"the marker of the {role} frame is {least:.2f} to {most:.2f} times as bright as "
                "it should be: check the source, and that nothing stands in the beam"
            )
        contrast = np.abs(one - other) / np.maximum(total, 1e-30)
        if contrast.min() < 0.6:
            raise StaleFrame(
                f"the marker of the {role} frame is no number (contrast {contrast.min():.2f}): "
                "the light of two frames mixed"
            )
        found = (one > other).astype(int)
        if (found != found[0]).any():
            raise StaleFrame(
                f"the {role} frame's markers differ between top and bottom: it changed meanwhile"
            )
        return int(found[0] @ (1 << np.arange(self.marker_bits)))


class _OnCamera(Layout):
    """Reads slots and marker cells as rectangles of camera pixels."""

    def _cut(self, regions: np.ndarray, cells: dict[str, np.ndarray]) -> None:
        """Keep rectangles [n, 4] of slots, and of marker cells [copies x 2 bits, 4], in pixels."""
        height, width = self.optics.sensor_shape
        for boxes in (regions, *(cell.reshape(-1, 4) for cell in cells.values())):
            if boxes.min() < 0 or boxes[:, 2].max() > height or boxes[:, 3].max() > width:
                raise InputError(
                    f"the {self.name} layout's light falls beyond the sensor of {height} x {width} "
                    "pixels; align the bench, or use a smaller part of the modulator"
                )
        self._regions = np.ascontiguousarray(regions, dtype=np.int64)
        self._cells = {
            role: np.ascontiguousarray(cell.reshape(-1, 4), dtype=np.int64)
            for role, cell in cells.items()
        }

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Sum counts over each slot's pixels, less offset and dark, in electrons."""
        return self._sums(taken, self._regions)

    def numbers(self, taken: np.ndarray, mean_input: float) -> dict[str, int]:
        """Read both numbers from their marker cells."""
        found = {}
        for role, cells in self._cells.items():
            light = self._sums(taken, cells) - self._leak_e(cells, mean_input)
            bright = self._bright_e(cells).reshape(-1, 2 * self.marker_bits)
            found[role] = self._read_bits(light, bright, role)
        return found

    @abstractmethod
    def _bright_e(self, cells: np.ndarray) -> np.ndarray:
        """Give the photoelectrons of bright marker cells: float64 [n]."""

    def _leak_e(self, cells: np.ndarray, mean_input: float) -> np.ndarray | float:
        """Give the photoelectrons that come into marker cells from around them."""
        return 0.0

    def read_pixels(self) -> float:
        """Give the mean number of pixels of a slot."""
        size = self._regions[:, 2:] - self._regions[:, :2]
        return float(np.prod(size, axis=1).mean())

    def _sums(self, taken: np.ndarray, regions: np.ndarray) -> np.ndarray:
        optics = self.optics
        sums = region_sums(taken, regions)
        pixels = np.prod(regions[:, 2:] - regions[:, :2], axis=1)
        light = (sums - optics.offset_counts * pixels) * optics.gain_e_per_count
        return np.asarray(light - optics.dark_e * pixels)


def region_sums(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Sum an image over rectangles int64 [n, 4] (top, left, bottom, right): float64 [n]."""
    if COMPILED:
        from .kernels import region_sums as compiled

        return np.asarray(compiled(image, regions))
    return np.array([image[t:b, le:r].sum(dtype=np.int64) for t, le, b, r in regions], dtype=float)


class ImagedLayout(_OnCamera):
    """Blocks of elements, each summed over its camera pixels; many rows and vectors share a shot.

    With pitch q and guard g, blocks of b x a elements: floor(height / (b q + g)) times
    floor(width / (a q + g)) slots, less a row of blocks where that leaves no room for the strips.
    """

    name = "imaged"

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch, guard = self.encoding.element_px, self.encoding.guard_px
        b, a = self.encoding.block
        height, width = self._shapes["weight"]
        step_y, step_x = b * pitch + guard, a * pitch + guard
        strip = max(2 * guard, 8)
        down, across = height // step_y, width // step_x
        if height - down * step_y < 2 * strip:
            down -= 1
        self.marker_bits = min(8, int(width // (6 * max(guard, 4))))
        if down < 1 or across < 1 or self.marker_bits < 2:
            raise InputError(
                f"a block of {b} x {a} elements of {pitch} pixels with a guard of {guard} does not "
                f"fit the weight modulator of {height} x {width} pixels beside its markers; make "
                "it smaller"
            )
        self.slots, self.length = down * across, a * b
        used = (down * step_y, across * step_x)
        top, left = (height - used[0]) // 2, (width - used[1]) // 2
        element = _FIRST_BIT + 2 * self.marker_bits
        places = np.zeros((height, width), dtype=np.int64)
        blocks = np.arange(self.slots).reshape(down, across) * self.length + element
        inside = np.arange(self.length).reshape(b, a)
        grid = blocks[:, None, :, None] + inside[None, :, None, :]
        squares = np.repeat(np.repeat(grid, pitch, axis=1), pitch, axis=3)
        area = np.zeros((down, step_y, across, step_x), dtype=np.int64)
        half = guard // 2
        area[:, half : half + b * pitch, :, half : half + a * pitch] = squares
        places[top : top + used[0], left : left + used[1]] = area.reshape(used)
        inputs = places.copy()
        cells = self._mark(places, inputs, strip, top, height)
        self._find_regions(down, across, (step_y, step_x), (top, left), (b, a), cells)
        return places, inputs

    def _mark(
        self, weight: np.ndarray, inputs: np.ndarray, strip: int, top: int, height: int
    ) -> dict[str, np.ndarray]:
        """Put marker cells into the strips; give their rectangles [2, 2 bits, 4] by role."""
        count = 2 * self.marker_bits
        edges = np.linspace(0, weight.shape[1], 2 * count + 1).astype(int)
        middles = (min(top, strip) // 2, height - min(height - top, strip) // 2)
        tall = max(strip // 2, 4)
        found: dict[str, np.ndarray] = {}
        for role, first, mine, other in (
            ("input", 0, inputs, weight),
            ("weight", count, weight, inputs),
        ):
            cells = np.zeros((2, count, 4))
            for copy, middle in enumerate(middles):
                for bit in range(count):
                    left, right = edges[first + bit], edges[first + bit + 1]
                    gap = max((right - left) // 5, 1)
                    box = (middle - tall // 2, left + gap, middle + tall // 2, right - gap)
                    part = (slice(box[0], box[2]), slice(box[1], box[3]))
                    mine[part], other[part] = _FIRST_BIT + bit, _BRIGHT
                    cells[copy, bit] = box
            found[role] = cells
        return found

    def _find_regions(
        self,
        down: int,
        across: int,
        step: tuple[int, int],
        start: tuple[int, int],
        block: tuple[int, int],
        cells: dict[str, np.ndarray],
    ) -> None:
        """Map blocks and cells to camera pixels; a block gets its half of the guard band."""
        pitch, half = self.encoding.element_px, self.encoding.guard_px // 2
        scale = float(np.sqrt(abs(np.linalg.det(self.optics.camera_map[:, :2]))))
        guard_on_camera = self.encoding.guard_px * scale
        if guard_on_camera < 3:
            raise InputError(
                f"encoding.guard_px = {self.encoding.guard_px} is {guard_on_camera:.2g} camera "
                f"pixels wide; at least 3 keep blocks apart, so give {int(np.ceil(3 / scale))}"
            )
        tops = start[0] + half + step[0] * np.arange(down)
        lefts = start[1] + half + step[1] * np.arange(across)
        boxes = np.zeros((down, across, 4))
        boxes[..., 0], boxes[..., 1] = tops[:, None], lefts[None, :]
        boxes[..., 2] = boxes[..., 0] + block[0] * pitch
        boxes[..., 3] = boxes[..., 1] + block[1] * pitch
        margin = (guard_on_camera - 1) / 2
        self._cut(
            self._on_camera(boxes.reshape(-1, 4), margin),
            {role: self._on_camera(cell.reshape(-1, 4), -1.0) for role, cell in cells.items()},
        )

    def _on_camera(self, boxes: np.ndarray, margin: float) -> np.ndarray:
        """Give the camera rectangles of boxes of weight pixels, all of one size, plus a margin."""
        matrix = self.optics.camera_map
        middle = np.stack([boxes[:, 0] + boxes[:, 2] - 1, boxes[:, 1] + boxes[:, 3] - 1]) / 2
        centre = matrix[:, :2] @ middle + matrix[:, 2:]
        size = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]])
        reach = np.abs(matrix[:, :2]) @ size / 2 + margin
        low = np.rint(centre - reach + 0.5).astype(int)
        high = np.maximum(np.rint(centre + reach + 0.5).astype(int), low + 1)
        return np.stack([low[0], low[1], high[0], high[1]], axis=1)

    def _bright_e(self, cells: np.ndarray) -> np.ndarray:
        area = np.prod(cells[:, 2:] - cells[:, :2], axis=1)  # inside the cell's picture
        per_area = abs(np.linalg.det(self.optics.camera_map[:, :2]))
        return np.asarray(area / per_area * self.optics.electrons_per_pixel)


class LineLayout(_OnCamera):
    """The input along columns, copied over rows; one camera spot sums each row of weights."""

    name = "line"
    shares_input = True
    _SPOT_PX = 7  # camera columns that are read

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch, guard = self.encoding.element_px, self.encoding.guard_px
        height, width = self._shapes["weight"]
        step = pitch + guard
        rows = height // step
        self.marker_bits = min(4, max((rows - 2) // 4, 1))
        count = 2 * self.marker_bits
        mark = 2 * pitch  # width of a reserved column
        self.length = (width - (count + 1) * mark) // pitch
        self.slots = rows - 2 * count
        if self.slots < 1 or self.length < 1:
            raise InputError(
                f"elements of {pitch} pixels with a guard of {guard} leave no row of numbers on a "
                f"weight modulator of {height} x {width} pixels beside its markers; make them "
                "smaller"
            )
        first = (count + 1) * mark
        element = _FIRST_BIT + count
        weight = np.zeros((height, width), dtype=np.int64)
        inputs = np.zeros((height, width), dtype=np.int64)
        columns = slice(first, first + self.length * pitch)
        inputs[:, columns] = np.repeat(element + np.arange(self.length), pitch)
        inputs[:, :mark] = _BRIGHT
        for bit in range(count):
            inputs[:, (bit + 1) * mark : (bit + 2) * mark] = _FIRST_BIT + bit
        start = (height - rows * step + guard) // 2
        # rows of bits of the input's number, then of the weights' number, then of numbers
        for row in range(rows):
            part = slice(start + row * step, start + row * step + pitch)
            if row < count:
                weight[part, (row + 1) * mark : (row + 2) * mark] = _BRIGHT
            elif row < 2 * count:
                weight[part, :mark] = _FIRST_BIT + row - count
            else:
                places = element + (row - 2 * count) * self.length + np.arange(self.length)
                weight[part, columns] = np.repeat(places, pitch)
        reserved = (self.marker_bits + 1) * mark
        lit = guard * (self.length * pitch / 4 + reserved) + pitch * reserved
        self._per_pixel_leak_e = (
            float(self.optics.tables["weight"][0]) * self.optics.electrons_per_pixel
        )
        self.leaked_e = lit * self._per_pixel_leak_e
        self._find_rows(start + step * np.arange(rows), pitch, count)
        return weight, inputs

    def _find_rows(self, tops: np.ndarray, pitch: int, count: int) -> None:
        matrix = self.optics.camera_map
        scale = abs(float(matrix[0, 0]))
        guard_on_camera = self.encoding.guard_px * scale
        if guard_on_camera < 3:
            raise InputError(
                f"encoding.guard_px = {self.encoding.guard_px} is {guard_on_camera:.2g} camera "
                f"pixels wide; at least 3 keep rows apart, so give {int(np.ceil(3 / scale))}"
            )
        middle = matrix[0, 0] * (tops + (pitch - 1) / 2) + matrix[0, 2]
        reach = scale * pitch / 2 + (guard_on_camera - 1) / 2
        low = np.rint(middle - reach + 0.5).astype(int)
        high = np.rint(middle + reach + 0.5).astype(int)
        left = (self.optics.sensor_shape[1] - self._SPOT_PX) // 2
        boxes = np.stack([low, 0 * low + left, high, 0 * low + left + self._SPOT_PX], axis=1)
        self._cut(boxes[2 * count :], {"input": boxes[:count], "weight": boxes[count : 2 * count]})

    def _bright_e(self, cells: np.ndarray) -> np.ndarray:
        pixels = 2 * self.encoding.element_px**2  # a reserved column's part of a row
        return np.full(len(cells), pixels * self.optics.electrons_per_pixel)

    def _leak_e(self, cells: np.ndarray, mean_input: float) -> np.ndarray:
        """Give what a cell's dark rows and columns let through of a whole row of input."""
        pitch = self.encoding.element_px
        rows = (cells[:, 2] - cells[:, 0]) / abs(float(self.optics.camera_map[0, 0]))
        lit = rows * pitch * (self.length * mean_input + 2 * (self.marker_bits + 1))
        return np.asarray(lit * self._per_pixel_leak_e)


class BlockLayout(Layout):
    """A vector wrapped into one block of macropixels; one dot product a shot, on a photodiode."""

    name = "block"

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch = self.encoding.element_px
        b, a = self.encoding.block
        height, width = self._shapes["weight"]
        if b * pitch > height or a * pitch > width:
            raise InputError(
                f"a block of {b} x {a} elements of {pitch} pixels does not fit the weight "
                f"modulator of {height} x {width} pixels; make it smaller"
            )
        self.slots, self.length, self.marker_bits = 1, a * b, 0
        places = np.zeros((height, width), dtype=np.int64)
        inside = np.arange(self.length).reshape(b, a) + _FIRST_BIT
        top, left = (height - b * pitch) // 2, (width - a * pitch) // 2
        places[top : top + b * pitch, left : left + a * pitch] = np.repeat(
            np.repeat(inside, pitch, axis=0), pitch, axis=1
        )
        return places, places

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Give the electrons of one window of samples: volts [channels, samples]."""
        optics = self.optics
        total = taken[0].sum() * optics.gain_e_per_count
        return np.array([total - optics.dark_e])

    def numbers(self, taken: np.ndarray, mean_input: float) -> dict[str, int]:
        """Give none: the counters of the DAQ tell which frames were shown."""
        return {}

    def read_pixels(self) -> float:
        """Give 1."""
        return 1.0


LAYOUTS = {kind.name: kind for kind in (ImagedLayout, LineLayout, BlockLayout)}
