"""`Layout`: how elements are placed on the pixels of the modulators and of the detector.

A layout divides the visible part of the weight modulator into slots of `length` elements; the light
of each slot is one dot product of a shot. Frames are built with an index map of the pixels, so that
any registration of the input modulator takes the same time. A weight pixel that would see the
inputs of two elements stays dark. Every frame shows its number in frame markers; each layout's file
describes where.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ....instruments import InputError, StaleFrame, UnexpectedIntensity
from ....instruments.file_keys import Items
from ....instruments.toml_file import TomlTable
from .. import registration
from ..parameters import Markers, Optics, Response

LEAST_LIGHT, MOST_LIGHT = 0.7, 1.4  # brightness of a marker over the expected one; drift is less
DARK, BRIGHT, FIRST_BIT = 0, 1, 2  # first indices of an index map, before the elements
_CONTRAST, _CONTRAST_UNKNOWN = 0.96, 0.3  # least contrast of a bit; while leaks are unknown
_SIGMAS = 5.0  # below a contrast, exceeded by chance three times in ten million
MARKER_LIMITS = LEAST_LIGHT, MOST_LIGHT, _CONTRAST, _SIGMAS
_MIXED = 0.05  # fraction of other elements' input that a lit weight pixel may see
_STEP_PX = 8  # grid on which the usable part of a modulator is searched


class EncodingTable(TomlTable):
    """How numbers are laid out on the modulators, in pixels of the weight modulator."""

    kind: Literal["abs-split", "push-pull", "offset"] = "abs-split"
    """How signed numbers become light."""
    element_px: int = Field(default=4, ge=1)
    """Side of the square of one element, in pixels of the weight modulator."""
    guard_px: int = Field(default=8, ge=0)
    """Dark band between blocks (imaged layout) or rows (line layout).

    It must be at least 3 pixels wide on the camera.
    """
    block: Annotated[tuple[int, int], Items(("rows", "columns"))] = (8, 8)
    """Elements of a block: rows, columns.

    A line layout ignores the key, because the modulator decides the length of a line.
    """

    @model_validator(mode="after")
    def _has_elements(self) -> EncodingTable:
        if min(self.block) < 1:
            raise ValueError(
                f"a block of {self.block[0]} x {self.block[1]} elements is empty; make it larger"
            )
        return self


@dataclass(frozen=True)
class Marks:
    """The numbers and the brightness that the markers of one shot show.

    Parameters
    ----------
    numbers : of the exposed frames, by role
    scale : brightness over that of calibration; None if it is unknown
    scale_variance : of the scale, from shot noise and read noise
    """

    numbers: dict[str, int]
    scale: float | None = None
    scale_variance: float = 0.0


@dataclass(frozen=True)
class ImageReading:
    """The photoelectrons of one exposure, above the dark level.

    Parameters
    ----------
    electrons : of each slot, float64 [slots]
    cells : of the marker cells of both roles, input first, float64 [roles, copies x 2 bits]
    """

    electrons: np.ndarray
    cells: np.ndarray


class _Pattern:
    """Builds frames: the grey level of each pixel from the values of its slots.

    Identical rows of pixels are built once.

    Parameters
    ----------
    places : index of each pixel's value, [height, width]: dark, bright, a marker bit, an element
    dtype : of a frame
    """

    def __init__(self, places: np.ndarray, dtype: np.dtype[Any]) -> None:
        seen: dict[bytes, int] = {}
        rows = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in places])
        first = np.unique(rows, return_index=True)[1]
        self._rows, self._places = rows, places[first].astype(np.intp)
        self.dtype = dtype

    def frame(self, values: np.ndarray) -> np.ndarray:
        """Return the frame [height, width] of values [places], which have its type."""
        looked_up = values.take(self._places)
        if len(self._places) == len(self._rows):
            return looked_up
        return looked_up.take(self._rows, axis=0)


class Layout(ABC):
    """A placement of elements on modulators and detector.

    Attributes
    ----------
    has_markers : whether the detector reads markers, which identify the frames of every shot and
        measure its brightness
    detector_kind : kind of the instrument that reads this layout
    window : the part of the weight modulator that is used: top, left, bottom, right
    slots : dot products of a shot
    grid : rows and columns in which the slots are placed
    length : elements of each
    shares_input : whether all slots see one input vector
    marker_bits : bits of a frame's number
    elements : of each weight pixel, the index of its element (slot * length + k), or -1, [h, w]
    coverage : fraction of each weight pixel's input that is its own element's, float32 [h, w]
    leaked_px : pixels of the slot's surroundings that pass bright input through dark weights, for
        inputs of mean 1/4; their light cancels between rails, but not its shot noise
    """

    name: ClassVar[str]
    has_markers: ClassVar[bool] = True
    detector_kind: ClassVar[str] = "camera"
    shares_input = False

    slots: int
    grid: tuple[int, int]
    length: int
    marker_bits: int
    leaked_px = 0.0
    reference_light: ClassVar[float] = (
        0.25  # intensity of a reference's input: bright rows fill a camera
    )

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
        first = FIRST_BIT + 2 * self.marker_bits
        self.elements = np.where(weight >= first, weight - first, -1).astype(np.int32)
        self._patterns = {
            "weight": _Pattern(weight, dtypes["weight"]),
            "input": _Pattern(on_input, dtypes["input"]),
        }
        self._marks = {role: self._marked(role, dtypes[role]) for role in self._patterns}
        lit = np.bincount(self.elements[self.elements >= 0], minlength=self.slots * self.length)
        if not lit.all():
            raise InputError(
                f"element_px = {encoding.element_px}: {int((lit == 0).sum())} of {lit.size} "
                "elements have no pixel that sees only their own input in this registration; make "
                "it larger, or align the bench better"
            )

    @property
    def converter_step_e(self) -> float:
        """The electrons of one step of the detector's converter, for the noise of a pixel."""
        return self.optics.gain_e_per_count

    @property
    def _size(self) -> tuple[int, int]:
        top, left, bottom, right = self.window
        return bottom - top, right - left

    def _in_window(self, places: np.ndarray) -> np.ndarray:
        """Return places of the window as places of the whole weight modulator."""
        top, left, bottom, right = self.window
        whole = np.zeros(self._shapes["weight"], dtype=np.int64)
        whole[top:bottom, left:right] = places
        return whole

    @abstractmethod
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of weight and input values on the weight modulator's pixels."""

    def _on_detector(self, points: np.ndarray) -> np.ndarray:
        """Return which weight pixels [n, 2] the detector sees: bool [n]."""
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
        on_weight = np.rint(registration.back(self.optics.input_map, points)).astype(int)
        y, x = on_weight[..., 0], on_weight[..., 1]
        height, width = places.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return np.where(inside, places[y.clip(0, height - 1), x.clip(0, width - 1)], DARK)

    def _unmixed(
        self, weight: np.ndarray, inputs: np.ndarray, on_input: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Darken weight pixels that see the inputs of several elements.

        A weight pixel sees the four input pixels around its place, weighted bilinearly.

        Returns
        -------
        weight : places [h, w] with those pixels dark
        coverage : fraction of each lit pixel's input that is its own, float32 [h, w]
        """
        rows, columns = np.nonzero(weight != DARK)
        q = registration.apply(self.optics.input_map, np.stack([rows, columns], axis=-1))
        low = np.floor(q + 1e-6).astype(int)
        part_px = np.clip(q - low, 0, 1)
        wanted = inputs[rows, columns]
        padded = np.pad(on_input, 1)
        most = np.array(on_input.shape)
        own, other = np.zeros(len(rows)), np.zeros(len(rows))
        for i in range(2):
            for j in range(2):
                y, x = np.clip(low + np.array([i + 1, j + 1]), 0, most + 1).T
                seen = padded[y, x]
                part = (part_px[:, 0] if i else 1 - part_px[:, 0]) * (
                    part_px[:, 1] if j else 1 - part_px[:, 1]
                )
                own += np.where(seen == wanted, part, 0)
                other += np.where((seen != wanted) & (seen != DARK), part, 0)
        kept = (other <= _MIXED) & (own > _MIXED)
        coverage = np.zeros(weight.shape, dtype=np.float32)
        coverage[rows, columns] = np.where(kept, own, 0)
        cleared = weight.copy()
        cleared[rows[~kept], columns[~kept]] = DARK
        return cleared, coverage

    def rows_of(self, role: str) -> int:
        """Return the number of rows of grey levels that a frame takes: one where slots share it."""
        return 1 if role == "input" and self.shares_input else self.slots

    def element_sums(self, light: np.ndarray) -> np.ndarray:
        """Sum light [h, w] of weight pixels over elements: float64 [slots, length]."""
        lit = self.elements >= 0
        places, parts = self.elements[lit], (light * self.coverage)[lit]
        sums = np.bincount(places, parts, minlength=self.slots * self.length)
        return sums.reshape(self.slots, self.length)

    def frame(self, role: str, levels: np.ndarray, number: int) -> np.ndarray:
        """Return the frame of a modulator.

        Parameters
        ----------
        role : "input" or "weight"
        levels : grey levels [slots, length]; [1, length] where slots share the input
        number : of the frame, shown by its marker

        Returns
        -------
        frame : grey levels (height, width)
        """
        pattern = self._patterns[role]
        marks = self._marks[role][self.frame_id(number)]
        elements = levels.ravel().astype(pattern.dtype, copy=False)
        return pattern.frame(np.concatenate([marks, elements]))

    def _marked(self, role: str, dtype: np.dtype[Any]) -> np.ndarray:
        """Return the levels of the places before the elements, one row per frame id."""
        ids = np.array([self._bits(number) for number in range(1 << self.marker_bits)])
        levels = np.array([self.darkest[role], self.brightest[role]])
        always = np.broadcast_to(levels, (len(ids), len(levels)))
        return np.concatenate([always, levels[ids]], axis=1).astype(dtype)

    def frame_id(self, number: int) -> int:
        """Return the number that the markers of a frame show: its last bits."""
        return number % (1 << self.marker_bits)

    def _bits(self, number: int) -> np.ndarray:
        """Return which cells of a marker are bright: each bit and its complement, [2 bits]."""
        bits = (number >> np.arange(self.marker_bits)) & 1
        return np.stack([bits, 1 - bits], axis=1).ravel()

    @abstractmethod
    def read(self, taken: np.ndarray) -> ImageReading:
        """Return the photoelectrons of slots and marker cells of an exposure."""

    def electrons(self, taken: np.ndarray) -> np.ndarray:
        """Return the photoelectrons of each slot, float64 [slots], from an exposure."""
        return self.read(taken).electrons

    @abstractmethod
    def marks(
        self, reading: ImageReading, mean_input: float | None, markers: Markers | None
    ) -> Marks:
        """Read the markers of a shot.

        Parameters
        ----------
        mean_input : mean intensity of the input's elements, which leaks through dark weights; None
            if it is unknown
        markers : their brightness; None if it is not measured yet

        Raises
        ------
        UnexpectedIntensity : when a marker is much darker or brighter than expected
        StaleFrame : when a bit is ambiguous, as in a mixture of two frames
        """

    @property
    def marker_cells(self) -> dict[str, int]:
        """The number of marker cells, by role: copies x 2 bits."""
        return {}

    def marker_electrons(self, taken: np.ndarray) -> dict[str, np.ndarray]:
        """Return the photoelectrons of marker cells, by role: float64 [copies x 2 bits]."""
        return dict(zip(("input", "weight"), self.read(taken).cells, strict=False))

    def marker_variance(self, response: Response) -> float | None:
        """Return the relative variance of the brightness from a shot's markers; None without them.

        Parameters
        ----------
        response : brightness of markers
        """
        return None

    def boxes(self) -> np.ndarray:
        """Return the camera rectangles of slots: top, left, bottom, right, int64 [slots, 4]."""
        return np.zeros((0, 4), dtype=np.int64)

    def dark_pixels(self) -> np.ndarray:
        """Return detector pixels that no lit element reaches, flat indices; possibly none."""
        return np.zeros(0, dtype=np.intp)

    @abstractmethod
    def read_pixels(self) -> np.ndarray:
        """Return the number of detector pixels of each slot (1 for a photodiode), [slots]."""

    def _read_bits(
        self, light: np.ndarray, bright: np.ndarray | None, variance: np.ndarray, role: str
    ) -> int:
        """Read a number from the light of its cells: bits and complements in turn, [copies, 2 b].

        Parameters
        ----------
        bright : photoelectrons of a bright cell, likewise; None if not measured
        variance : of the light, likewise
        """
        relative = light if bright is None else light / bright
        one, other = relative[:, ::2], relative[:, 1::2]
        total = one + other
        if bright is not None:
            noise = 4 * np.sqrt((variance / bright**2)[:, ::2] + (variance / bright**2)[:, 1::2])
            least, most = float((total + noise).min()), float((total - noise).max())
            if least < LEAST_LIGHT or most > MOST_LIGHT:
                raise UnexpectedIntensity(
                    f"the marker of the {role} frame is {total.min():.2f} to {total.max():.2f} "
                    "times as bright as expected: check the source, and that nothing stands in the "
                    "beam"
                )
        contrast, least = np.abs(one - other) / np.maximum(total, 1e-30), _CONTRAST_UNKNOWN
        if bright is not None:  # light of the darker cell comes from another frame
            is_one = one > other
            darker = np.where(is_one, variance[:, 1::2], variance[:, ::2])
            brighter = np.where(is_one, bright[:, ::2], bright[:, 1::2])
            contrast = contrast + _SIGMAS * 2 * np.sqrt(darker) / brighter
            least = _CONTRAST
        if contrast.min() < least:
            raise StaleFrame(
                f"the marker of the {role} frame is not readable (contrast {contrast.min():.2f}): "
                "the exposure shows two frames"
            )
        bits = (one > other).astype(int)
        if (bits != bits[0]).any():
            raise StaleFrame(
                f"the {role} frame's markers differ between top and bottom: the frame changed "
                "during the exposure"
            )
        return int(bits[0] @ (1 << np.arange(self.marker_bits)))


def largest_rectangle(seen: np.ndarray) -> tuple[int, int, int, int]:
    """Return the first and last row and column of the largest rectangle of true values.

    For each row, a stack scans the histogram of the true values above it.
    """
    best, corners = 0, (0, 0, 0, 0)
    height = np.zeros(seen.shape[1] + 1, dtype=int)
    for row, line in enumerate(seen):
        height[:-1] = np.where(line, height[:-1] + 1, 0)
        stack: list[int] = []
        for column, tall in enumerate(height):
            while stack and height[stack[-1]] >= tall:
                high = int(height[stack.pop()])
                left = stack[-1] + 1 if stack else 0
                if high * (column - left) > best:
                    best, corners = high * (column - left), (row - high + 1, left, row, column - 1)
            stack.append(column)
    return corners
