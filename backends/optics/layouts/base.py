"""Where numbers lie: on the modulators' pixels, and on the detector's.

A layout cuts the part of the weight modulator that input and detector see into slots of `length`
elements; the light of each slot is one dot product of a shot. Frames are looked up in an index map,
pixel by pixel, so that any registration of the input modulator costs nothing more; a weight pixel
that would see the inputs of two elements stays dark. Every frame carries its number as light:

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

from ....instruments import InputError, StaleFrame, UnexpectedIntensity
from ...bench.bench import Bench
from ...bench.config import EncodingTable
from ...mock.integer_products import COMPILED
from .. import registration

_LEAST, _MOST = 0.7, 1.4  # of a marker's light over what it should be; drift stays within
_CONTRAST, _CONTRAST_UNKNOWN = 0.96, 0.3  # of a bit and its complement; while leaks are unknown
_SIGMAS = 5.0  # below a contrast, exceeded by chance three times in ten million
_MIXED = 0.05  # share of other elements' input that a lit weight pixel may see
_DARK, _BRIGHT, _FIRST_BIT = 0, 1, 2  # places of an index map, before the elements
_STEP_PX = 8  # grid on which the usable part of a modulator is searched
_DARK_PIXELS, _LEAST_DARK = 2000, 50  # of a camera, that tell its dark level
_TYPICAL_INPUT = 0.25  # mean light of inputs, of full
_APART_PX = 8  # of them from what is lit, in camera pixels: blur and slopes of spots


@dataclass(frozen=True)
class Optics:
    """What is known of a bench before numbers are laid out.

    Parameters
    ----------
    tables : light of each grey level of a modulator, by role, float32 [levels], brightest 1
    input_map, camera_map : weight pixel -> input, camera pixel (see `registration`), float64
        [2, 3], [2, 6] or [2, 10]; of a line's camera, the row of a weight row and the middle column
        of its spot
    sensor_shape : (height, width) of the camera; (1, 1) of a photodiode
    dark_counts : of a detector pixel in one exposure without light, float32 [h, w], or one number
    gain_e_per_count : of the detector
    read_noise_e, dark_e : of one pixel, or of the photodiode, in one exposure
    bad : pixels that are left out, bool [h, w], or None
    spot_px : width of a line's spots, in camera columns
    """

    tables: dict[str, np.ndarray]
    input_map: np.ndarray
    camera_map: np.ndarray
    sensor_shape: tuple[int, int]
    dark_counts: np.ndarray | float
    gain_e_per_count: float
    read_noise_e: float
    dark_e: float
    bad: np.ndarray | None = None
    spot_px: float = 5.0


@dataclass(frozen=True)
class Response:
    """What the slots of a layout answer to light: photoelectrons in one exposure.

    A slot s gives offset + sum_k pairs_sk (X_k + input_leak) (W_k + weight_leak), with X and W the
    light of grey levels above darkness, brightest 1.

    Parameters
    ----------
    pairs_e : of each element, float64 [slots, length]
    input_leak, weight_leak : darkest light over brightest above darkness, float64 [slots]
    offset_e : light that no element passed, float64 [slots]
    inverse : undoes the crosstalk of slots, float32 [slots, slots]; None where there is none
    marker_e : of bright marker cells, by role, float64 [cells]; None where nobody measured it
    marker_leak_e : that the input's elements add to marker cells while all are brightest, likewise
    marker_dark_e : of dark marker cells while the elements are dark too: stray light, likewise
    """

    pairs_e: np.ndarray
    input_leak: np.ndarray
    weight_leak: np.ndarray
    offset_e: np.ndarray
    inverse: np.ndarray | None = None
    marker_e: dict[str, np.ndarray] | None = None
    marker_leak_e: dict[str, np.ndarray] | None = None
    marker_dark_e: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Marks:
    """What the markers of one shot say.

    Parameters
    ----------
    numbers : of the frames whose light it is, by role
    scale : their light over that of calibration; None where that is not known
    scale_variance : of it, from shot noise and read noise
    """

    numbers: dict[str, int]
    scale: float | None = None
    scale_variance: float = 0.0


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
        first = np.unique(rows, return_index=True)[1]
        self._rows, self._places = rows, places[first].astype(np.intp)
        self._dtype = dtype

    def frame(self, values: np.ndarray) -> np.ndarray:
        """Return the frame [height, width] of values [places]."""
        looked_up = values.astype(self._dtype, copy=False).take(self._places)
        if len(self._places) == len(self._rows):
            return looked_up
        return looked_up.take(self._rows, axis=0)


class Layout(ABC):
    """One way to lay out numbers.

    Attributes
    ----------
    window : the part of the weight modulator that is used: top, left, bottom, right
    slots : dot products of a shot
    length : elements of each
    shares_input : whether all slots see one input vector
    marker_bits : of a frame's number
    elements : of each weight pixel, the place of its element (slot * length + k), or -1, [h, w]
    coverage : share of each weight pixel's input that is its own element's, float32 [h, w]
    leaked_px : pixels of the slot's surroundings that see bright input through dark weights, for
        inputs of mean 1/4; their light cancels between rails and leaves its shot noise
    """

    name: ClassVar[str]
    shares_input = False

    slots: int
    length: int
    marker_bits: int
    leaked_px = 0.0
    reference_light: ClassVar[float] = 0.25  # of a reference's input: bright rows fill a camera

    def __init__(
        self,
        encoding: EncodingTable,
        shapes: dict[str, tuple[int, int]],
        dtypes: dict[str, np.dtype[Any]],
        optics: Optics,
    ) -> None:
        self.encoding, self.optics, self._shapes = encoding, optics, shapes
        self.window = self._usable()
        self.darkest = {role: int(np.argmin(table)) for role, table in optics.tables.items()}
        self.brightest = {role: int(np.argmax(table)) for role, table in optics.tables.items()}
        weight, inputs = self._places()
        on_input = self._on_input(inputs)
        weight, self.coverage = self._unmixed(weight, inputs, on_input)
        first = _FIRST_BIT + 2 * self.marker_bits
        self.elements = np.where(weight >= first, weight - first, -1).astype(np.int32)
        self._patterns = {
            "weight": _Pattern(weight, dtypes["weight"]),
            "input": _Pattern(on_input, dtypes["input"]),
        }
        lit = np.bincount(self.elements[self.elements >= 0], minlength=self.slots * self.length)
        if not lit.all():
            raise InputError(
                f"element_px = {encoding.element_px}: {int((lit == 0).sum())} of {lit.size} "
                "elements have no pixel that sees their own input alone, as the modulators lie on "
                "each other; make it larger, or align the bench better"
            )

    @property
    def _size(self) -> tuple[int, int]:
        top, left, bottom, right = self.window
        return bottom - top, right - left

    def _in_window(self, places: np.ndarray) -> np.ndarray:
        """Put places of the window into those of the whole weight modulator."""
        top, left, bottom, right = self.window
        whole = np.zeros(self._shapes["weight"], dtype=np.int64)
        whole[top:bottom, left:right] = places
        return whole

    @abstractmethod
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of weight and input values on the weight modulator's pixels."""

    def _on_detector(self, points: np.ndarray) -> np.ndarray:
        """Say which weight pixels [n, 2] the detector sees: bool [n]."""
        return np.ones(len(points), dtype=bool)

    def _usable(self) -> tuple[int, int, int, int]:
        """Find the largest rectangle of weight pixels that input and detector see."""
        height, width = self._shapes["weight"]
        rows = np.append(np.arange(0, height - 1, _STEP_PX), height - 1)
        columns = np.append(np.arange(0, width - 1, _STEP_PX), width - 1)
        points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        on_input = registration.apply(self.optics.input_map, points)
        most = np.array(self._shapes["input"]) - 1
        seen = ((on_input > -0.5) & (on_input < most + 0.5)).all(axis=-1)
        seen &= self._on_detector(points.reshape(-1, 2)).reshape(seen.shape)
        if seen.all():
            return 0, 0, height, width
        top, left, bottom, right = largest_rectangle(seen)
        if (bottom - top) * (right - left) < 0.05 * seen.size:
            raise InputError(
                f"the {self.name} layout: input modulator and detector see only "
                f"{seen.mean():.0%} of the weight modulator together; align the bench"
            )
        return int(rows[top]), int(columns[left]), int(rows[bottom]) + 1, int(columns[right]) + 1

    def _on_input(self, places: np.ndarray) -> np.ndarray:
        """Return places [h, w] of the weight modulator's grid on the input modulator's pixels."""
        points = np.moveaxis(np.indices(self._shapes["input"]), 0, -1)
        found = np.rint(registration.back(self.optics.input_map, points)).astype(int)
        y, x = found[..., 0], found[..., 1]
        height, width = places.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return np.where(inside, places[y.clip(0, height - 1), x.clip(0, width - 1)], _DARK)

    def _unmixed(
        self, weight: np.ndarray, inputs: np.ndarray, on_input: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Leave weight pixels dark that see the inputs of several elements.

        A weight pixel sees the four input pixels around the place on which it lies, weighted as
        its distance to each.

        Returns
        -------
        weight : places [h, w] with those pixels dark
        coverage : share of each lit pixel's input that is its own, float32 [h, w]
        """
        rows, columns = np.nonzero(weight != _DARK)
        q = registration.apply(self.optics.input_map, np.stack([rows, columns], axis=-1))
        low = np.floor(q + 1e-6).astype(int)
        share = np.clip(q - low, 0, 1)
        wanted = inputs[rows, columns]
        padded = np.pad(on_input, 1)
        most = np.array(on_input.shape)
        own, other = np.zeros(len(rows)), np.zeros(len(rows))
        for i in range(2):
            for j in range(2):
                y, x = np.clip(low + np.array([i + 1, j + 1]), 0, most + 1).T
                seen = padded[y, x]
                part = (share[:, 0] if i else 1 - share[:, 0]) * (
                    share[:, 1] if j else 1 - share[:, 1]
                )
                own += np.where(seen == wanted, part, 0)
                other += np.where((seen != wanted) & (seen != _DARK), part, 0)
        kept = (other <= _MIXED) & (own > _MIXED)
        coverage = np.zeros(weight.shape, dtype=np.float32)
        coverage[rows, columns] = np.where(kept, own, 0)
        cleared = weight.copy()
        cleared[rows[~kept], columns[~kept]] = _DARK
        return cleared, coverage

    def element_sums(self, light: np.ndarray) -> np.ndarray:
        """Sum light [h, w] of weight pixels over elements: float64 [slots, length]."""
        lit = self.elements >= 0
        places, shares = self.elements[lit], (light * self.coverage)[lit]
        sums = np.bincount(places, shares, minlength=self.slots * self.length)
        return sums.reshape(self.slots, self.length)

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
        dark, bright = self.darkest[role], self.brightest[role]
        marks = np.where(self._bits(number) > 0, bright, dark)
        values = np.concatenate([[dark, bright], marks, levels.ravel()])
        return self._patterns[role].frame(values)

    def _bits(self, number: int) -> np.ndarray:
        """Return which cells of a marker are bright: each bit and its complement, [2 bits]."""
        bits = (number >> np.arange(self.marker_bits)) & 1
        return np.stack([bits, 1 - bits], axis=1).ravel()

    @abstractmethod
    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Return the photoelectrons of each slot, float64 [slots], from what the detector took."""

    @abstractmethod
    def marks(
        self, taken: np.ndarray, mean_input: float | None, response: Response | None
    ) -> Marks:
        """Read the markers of a shot.

        Parameters
        ----------
        mean_input : light that the input's elements pass, in the mean; darkest weights leak of it.
            None where it is not known
        response : how bright markers are; None where nobody measured it yet

        Raises
        ------
        WrongLight : when a marker is much darker or brighter than it should be
        StaleFrame : when a bit is neither, as in a mixture of two frames
        """

    @property
    def marker_cells(self) -> dict[str, int]:
        """The number of marker cells, by role: copies x 2 bits."""
        return {}

    def marker_electrons(self, taken: np.ndarray) -> dict[str, np.ndarray]:
        """Return the photoelectrons of marker cells, by role: float64 [copies x 2 bits]."""
        return {}

    def marker_variance(self, response: Response) -> float | None:
        """Return the relative variance of the light that the markers of a shot tell; None without.

        Parameters
        ----------
        response : how bright markers are
        """
        return None

    def boxes(self) -> np.ndarray:
        """Return the camera rectangles of slots: top, left, bottom, right, int64 [slots, 4]."""
        return np.zeros((0, 4), dtype=np.int64)

    def dark_pixels(self) -> np.ndarray:
        """Return the detector pixels that no lit element reaches, flat places; few or none."""
        return np.zeros(0, dtype=np.intp)

    @abstractmethod
    def read_pixels(self) -> np.ndarray:
        """Return the detector pixels whose light each slot sums (1 for a photodiode), [slots]."""

    def _read_bits(
        self, light: np.ndarray, bright: np.ndarray | None, variance: np.ndarray, role: str
    ) -> int:
        """Read a number from the light of its cells: bit and complement in turn, [copies, 2 b].

        Parameters
        ----------
        bright : photoelectrons of a bright cell, likewise; None where nobody measured it
        variance : of the light, likewise
        """
        share = light if bright is None else light / bright
        one, other = share[:, ::2], share[:, 1::2]
        total = one + other
        if bright is not None:
            noise = 4 * np.sqrt((variance / bright**2)[:, ::2] + (variance / bright**2)[:, 1::2])
            least, most = float((total + noise).min()), float((total - noise).max())
            if least < _LEAST or most > _MOST:
                raise UnexpectedIntensity(
                    f"the marker of the {role} frame is {total.min():.2f} to {total.max():.2f} "
                    "times as bright as it should be: check the source, and that nothing stands in "
                    "the beam"
                )
        contrast, least = np.abs(one - other) / np.maximum(total, 1e-30), _CONTRAST_UNKNOWN
        if bright is not None:  # what the darker cell lets pass is a share of another frame
            is_one = one > other
            darker = np.where(is_one, variance[:, 1::2], variance[:, ::2])
            brighter = np.where(is_one, bright[:, ::2], bright[:, 1::2])
            contrast = contrast + _SIGMAS * 2 * np.sqrt(darker) / brighter
            least = _CONTRAST
        if contrast.min() < least:
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


def largest_rectangle(seen: np.ndarray) -> tuple[int, int, int, int]:
    """Find the largest rectangle of true values: first and last row and column of it.

    Column by column of a histogram of the true values above each row (the classic stack).
    """
    best, found = 0, (0, 0, 0, 0)
    height = np.zeros(seen.shape[1] + 1, dtype=int)
    for row, line in enumerate(seen):
        height[:-1] = np.where(line, height[:-1] + 1, 0)
        stack: list[int] = []
        for column, tall in enumerate(height):
            while stack and height[stack[-1]] >= tall:
                high = int(height[stack.pop()])
                left = stack[-1] + 1 if stack else 0
                if high * (column - left) > best:
                    best, found = high * (column - left), (row - high + 1, left, row, column - 1)
            stack.append(column)
    return found[0], found[1], found[2], found[3]


class _OnCamera(Layout):
    """Reads slots and marker cells as rectangles of camera pixels."""

    def _on_detector(self, points: np.ndarray) -> np.ndarray:
        seen = registration.apply(self.optics.camera_map, points)
        most = np.array(self.optics.sensor_shape) - 1
        return np.asarray(((seen >= 0) & (seen <= most)).all(axis=-1))

    def _cut(self, regions: np.ndarray, cells: dict[str, np.ndarray]) -> None:
        """Keep rectangles [n, 4] of slots, and of marker cells [copies x 2 bits, 4], in pixels."""
        height, width = self.optics.sensor_shape
        margin = 2  # a region may lose the dark edge of its guard, and nothing more
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
        self._regions = _Regions(regions, self.optics)
        self._cells = {role: _Regions(boxes, self.optics) for role, boxes in cells.items()}

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Sum counts over each slot's pixels, less offset and dark, in electrons."""
        return self._regions.electrons(taken)

    @property
    def marker_cells(self) -> dict[str, int]:
        """The number of marker cells, by role."""
        return {role: len(cells.pixels) for role, cells in self._cells.items()}

    def marker_electrons(self, taken: np.ndarray) -> dict[str, np.ndarray]:
        """Return the photoelectrons of marker cells, by role: float64 [copies x 2 bits]."""
        return {role: cells.electrons(taken) for role, cells in self._cells.items()}

    def marks(
        self, taken: np.ndarray, mean_input: float | None, response: Response | None
    ) -> Marks:
        """Read both numbers from their marker cells, and how bright these are together.

        The brightness comes from the differences of bits and complements, in which leaks cancel.
        """
        known = response is not None and response.marker_e is not None
        numbers: dict[str, int] = {}
        above, expected, variance = 0.0, 0.0, 0.0
        for role, cells in self._cells.items():
            electrons = cells.electrons(taken)
            noise = np.maximum(electrons, 0) + cells.pixels * self._pixel_variance
            bright = None
            if known:
                assert response is not None and response.marker_e is not None
                bright = response.marker_e[role].reshape(-1, 2 * self.marker_bits)
                if response.marker_dark_e is not None:
                    electrons = electrons - response.marker_dark_e[role]
                if response.marker_leak_e is not None:
                    electrons = self._without_leak(
                        electrons, response.marker_leak_e[role], mean_input
                    )
            electrons, noise = (
                part.reshape(-1, 2 * self.marker_bits) for part in (electrons, noise)
            )
            number = numbers[role] = self._read_bits(electrons, bright, noise, role)
            if bright is not None:
                lit = self._bits(number) > 0
                above += electrons[:, lit].sum() - electrons[:, ~lit].sum()
                expected += bright[:, lit].sum()
                variance += noise.sum()
        if not known:
            return Marks(numbers)
        return Marks(numbers, above / expected, variance / expected**2)

    @property
    def _pixel_variance(self) -> float:
        """Variance of a pixel that no light brings: read noise, dark counts, converter steps."""
        optics = self.optics
        return optics.read_noise_e**2 + optics.dark_e + optics.gain_e_per_count**2 / 12

    def marker_variance(self, response: Response) -> float | None:
        """Return the relative variance of the light that the markers of a shot tell."""
        if response.marker_e is None:
            return None
        expected = noise = 0.0
        for role, cells in self._cells.items():
            lit_e = float(response.marker_e[role].sum()) / 2  # half of the cells are bright
            expected += lit_e
            noise += lit_e + float(cells.pixels.sum()) * self._pixel_variance
            for leaks in (response.marker_leak_e, response.marker_dark_e):
                if leaks is not None:
                    noise += max(float(leaks[role].sum()), 0.0) * _TYPICAL_INPUT
        return noise / expected**2

    def _without_leak(
        self, electrons: np.ndarray, leak: np.ndarray, mean_input: float | None
    ) -> np.ndarray:
        """Take away what the input's elements leak into marker cells [copies x 2 bits]."""
        if mean_input is None:  # then the darker cell of each pair tells
            pairs, leaks = electrons.reshape(-1, 2), leak.reshape(-1, 2)
            darker = pairs[:, 0] > pairs[:, 1]
            place = (np.arange(len(pairs)), darker.astype(int))
            total = max(float(leaks[place].sum()), 1e-30)
            mean_input = float(np.clip(pairs[place].sum() / total, 0, _MOST))
        return electrons - leak * mean_input

    def read_pixels(self) -> np.ndarray:
        """Return the number of pixels of each slot."""
        return self._regions.pixels

    @abstractmethod
    def _are_lit(self, points: np.ndarray) -> np.ndarray:
        """Say which camera pixels [n, 2] light may reach: bool [n]."""

    def dark_pixels(self) -> np.ndarray:
        """Return good pixels far from what is lit, evenly spread: flat places, at most 2,000."""
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
        return self._regions.boxes


class _Regions:
    """Rectangles of camera pixels, and what darkness puts into them.

    Attributes
    ----------
    boxes : top, left, bottom, right, int64 [n, 4]
    pixels : good ones of each, float64 [n]
    """

    def __init__(self, boxes: np.ndarray, optics: Optics) -> None:
        self.boxes = np.ascontiguousarray(boxes, dtype=np.int64)
        self._gain = optics.gain_e_per_count
        area = np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1).astype(float)
        self._bad: tuple[np.ndarray, np.ndarray] | None = None
        if optics.bad is not None and optics.bad.any():
            bad = np.argwhere(optics.bad)
            pairs = [(number, y, x) for y, x in bad for number in np.nonzero(self._hold(y, x))[0]]
            if pairs:
                number, y, x = np.array(pairs).T
                self._bad = (number, y * optics.sensor_shape[1] + x)
                area -= np.bincount(number, minlength=len(area))
        self.pixels = area
        if np.ndim(optics.dark_counts):
            self._dark = self._sums(np.asarray(optics.dark_counts, dtype=np.float64))
        else:
            self._dark = area * float(optics.dark_counts)

    def _hold(self, y: int, x: int) -> np.ndarray:
        top, left, bottom, right = self.boxes.T
        return (top <= y) & (y < bottom) & (left <= x) & (x < right)

    def _sums(self, taken: np.ndarray) -> np.ndarray:
        sums = region_sums(taken, self.boxes)
        if self._bad is not None:
            number, place = self._bad
            sums -= np.bincount(number, taken.ravel()[place], minlength=len(sums))
        return sums

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Return photoelectrons above darkness: float64 [n]."""
        return np.asarray((self._sums(taken) - self._dark) * self._gain)


def region_sums(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Sum an image over rectangles int64 [n, 4] (top, left, bottom, right): float64 [n]."""
    if COMPILED:
        from ...bench.kernels import region_sums as compiled

        return np.asarray(compiled(image, regions))
    return np.array([image[t:b, le:r].sum(dtype=np.float64) for t, le, b, r in regions])


class ImagedLayout(_OnCamera):
    """Blocks of elements, each summed over its camera pixels; many rows and vectors share a shot.

    With pitch q and guard g, blocks of b x a elements: floor(height / (b q + g)) times
    floor(width / (a q + g)) slots, less a row of blocks where that leaves no room for the strips.
    """

    name = "imaged"

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch, guard = self.encoding.element_px, self.encoding.guard_px
        b, a = self.encoding.block
        height, width = self._size
        step_y, step_x = b * pitch + guard, a * pitch + guard
        strip = max(2 * guard, 8)
        down, across = height // step_y, width // step_x
        if height - down * step_y < 2 * strip:
            down -= 1
        self.marker_bits = min(8, int(width // (6 * max(guard, 4))))
        if down < 1 or across < 1 or self.marker_bits < 2:
            raise InputError(
                f"a block of {b} x {a} elements of {pitch} pixels with a guard of {guard} does not "
                f"fit the {height} x {width} pixels of the weight modulator that are seen, beside "
                "its markers; make it smaller"
            )
        self.slots, self.length = down * across, a * b
        self.grid = (down, across)
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
        return self._in_window(places), self._in_window(inputs)

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
        corner = np.array(self.window[:2])
        middle = corner + np.array(self._size) / 2
        scale = float(
            np.sqrt(abs(np.linalg.det(registration.scales(self.optics.camera_map, middle))))
        )
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
        of_cells = {role: cell.reshape(-1, 4) + np.tile(corner, 2) for role, cell in cells.items()}
        self._cut(
            self._on_camera(boxes.reshape(-1, 4) + np.tile(corner, 2), margin),
            {role: self._on_camera(cell, -1.0) for role, cell in of_cells.items()},
        )

    def _on_camera(self, boxes: np.ndarray, margin: float) -> np.ndarray:
        """Return the camera rectangles of boxes of weight pixels, plus a margin."""
        matrix = self.optics.camera_map
        middle = np.stack([boxes[:, 0] + boxes[:, 2] - 1, boxes[:, 1] + boxes[:, 3] - 1], 1) / 2
        centre = registration.apply(matrix, middle)
        size = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
        slopes = np.abs(registration.scales(matrix, middle))
        reach = (slopes @ size[..., None])[..., 0] / 2 + margin
        low = np.rint(centre - reach + 0.5).astype(int)
        high = np.maximum(np.rint(centre + reach + 0.5).astype(int), low + 1)
        return np.concatenate([low, high], axis=1)

    def _are_lit(self, points: np.ndarray) -> np.ndarray:
        height, width = self._shapes["weight"]
        corner = registration.back(self.optics.camera_map, points)
        scales = np.abs(np.linalg.det(registration.scales(self.optics.camera_map, corner)))
        apart = (_APART_PX / np.sqrt(np.maximum(scales, 1e-12)))[:, None]
        inside = (corner > -apart) & (corner < np.array([height, width]) - 1 + apart)
        return np.asarray(inside.all(axis=-1))


class LineLayout(_OnCamera):
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
        if self.slots < 1 or self.length < 1:
            raise InputError(
                f"elements of {pitch} pixels with a guard of {guard} leave no row of numbers on "
                f"the {height} x {width} pixels of the weight modulator that are seen, beside its "
                "markers; make them smaller"
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
        self.leaked_px = guard * (self.length * pitch / 4 + reserved) + pitch * reserved
        self._find_rows(self.window[0] + start + step * np.arange(rows), pitch, count)
        return self._in_window(weight), self._in_window(inputs)

    def _find_rows(self, tops: np.ndarray, pitch: int, count: int) -> None:
        matrix = self.optics.camera_map
        middles = np.stack([tops + (pitch - 1) / 2, 0 * tops], axis=1)
        scale = np.abs(registration.scales(matrix, middles)[:, 0, 0])
        guard_on_camera = self.encoding.guard_px * float(scale.min())
        if guard_on_camera < 3:
            raise InputError(
                f"encoding.guard_px = {self.encoding.guard_px} is {guard_on_camera:.2g} camera "
                f"pixels wide; at least 3 keep rows apart, so give "
                f"{int(np.ceil(3 / scale.min()))}"
            )
        on_camera = registration.apply(matrix, middles)
        reach = scale * pitch / 2 + (guard_on_camera - 1) / 2
        low = np.rint(on_camera[:, 0] - reach + 0.5).astype(int)
        high = np.rint(on_camera[:, 0] + reach + 0.5).astype(int)
        wide = int(np.ceil(self.optics.spot_px)) + 2  # camera columns that are read
        left = np.rint(on_camera[:, 1]).astype(int) - wide // 2
        boxes = np.stack([low, left, high, left + wide], axis=1)
        self._cut(boxes[2 * count :], {"input": boxes[:count], "weight": boxes[count : 2 * count]})

    def columns(self) -> tuple[int, int]:
        """Return the first camera column that is read, and the one behind the last."""
        boxes = self._regions.boxes
        return int(boxes[:, 1].min()), int(boxes[:, 3].max())

    def _are_lit(self, points: np.ndarray) -> np.ndarray:
        left, right = self.columns()
        column = points[:, 1]
        return np.asarray((column >= left - _APART_PX) & (column < right + _APART_PX))


class BlockLayout(Layout):
    """A vector wrapped into one block of macropixels; one dot product a shot, on a photodiode."""

    name = "block"
    reference_light = 1.0

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch = self.encoding.element_px
        b, a = self.encoding.block
        height, width = self._size
        if b * pitch > height or a * pitch > width:
            raise InputError(
                f"a block of {b} x {a} elements of {pitch} pixels does not fit the {height} x "
                f"{width} pixels of the weight modulator that are seen; make it smaller"
            )
        self.slots, self.length, self.marker_bits = 1, a * b, 0
        places = np.zeros((height, width), dtype=np.int64)
        inside = np.arange(self.length).reshape(b, a) + _FIRST_BIT
        top, left = (height - b * pitch) // 2, (width - a * pitch) // 2
        places[top : top + b * pitch, left : left + a * pitch] = np.repeat(
            np.repeat(inside, pitch, axis=0), pitch, axis=1
        )
        whole = self._in_window(places)
        return whole, whole

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Return the electrons of one window of samples: volts [channels, samples]."""
        volts = taken[0].sum() - float(self.optics.dark_counts)
        return np.array([volts * self.optics.gain_e_per_count])

    def marks(
        self, taken: np.ndarray, mean_input: float | None, response: Response | None
    ) -> Marks:
        """Return none: the counters of the DAQ tell which frames were shown."""
        return Marks({})

    def read_pixels(self) -> np.ndarray:
        """Return 1."""
        return np.ones(1)


LAYOUTS = {kind.name: kind for kind in (ImagedLayout, LineLayout, BlockLayout)}


def lay_out(bench: Bench, optics: Optics) -> Layout:
    """Lay out a connected bench with what is known of it.

    Raises
    ------
    InputError : naming the bench file, where its encoding does not fit what is seen
    """
    modulators = {"input": bench.input, "weight": bench.weight}
    shapes = {role: modulator.shape for role, modulator in modulators.items()}
    dtypes = {role: modulator.dtype for role, modulator in modulators.items()}
    try:
        return LAYOUTS[bench.file.layout](bench.file.encoding, shapes, dtypes, optics)
    except InputError as error:
        raise InputError(f"{bench.path}: encoding: {error}") from None
