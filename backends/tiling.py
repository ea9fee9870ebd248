"""Tiling of products: pure functions that mock, bench and planner share.

`tiles` divides a weight matrix into tiles of one frame; `pack` lets tiles and vectors share frames,
so that no part of a frame is idle; `visits` gives the order of weight and input frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .profile import OpticsProfile

Order = Literal["weight-stationary", "input-stationary"]
"""Which modulator keeps its frame while the other shows all of its frames."""
ORDERS: tuple[Order, Order] = ("weight-stationary", "input-stationary")
CHECK_ROWS = 2  # of each group of rows: the positive and the negative part of its sum


@dataclass(frozen=True)
class Geometry:
    """The capacity of one weight frame, in outputs and inputs (not modulator rows and elements).

    Parameters
    ----------
    outputs : rows of W that fit into one frame, beside their checksums (None: all)
    inputs : columns of W that one dot product holds (None: all)
    vectors : input vectors that share one shot: groups of `outputs` dot products side by side
    is_divisible : whether small matrices take smaller groups, of which more share one shot
    parts : rows of a frame per output, if its rails may be in different frames
    checked : rows of a tile that share a checksum (see `bench.checksum`); 0 for none
    input_checks : input frames of a job from which it has a checksum frame; 0 for none
    """

    outputs: int | None
    inputs: int | None
    vectors: int = 1
    is_divisible: bool = False
    parts: int = 1
    checked: int = 0
    input_checks: int = 0

    @classmethod
    def of(cls, profile: OpticsProfile) -> "Geometry":
        """Return the geometry of a profile: two rails of an output take two rows."""
        outputs = None if profile.rows is None else profile.rows // profile.rails
        inputs = None if profile.length is None else profile.length // profile.elements_per_input
        return cls(outputs, inputs, profile.vectors)

    def groups(self, outputs: int) -> int:
        """Return the groups of a matrix, each with its own vector, that a frame holds."""
        if self.outputs is None or not self.is_divisible:
            return self.vectors
        tallest = min(outputs * self.parts, self.outputs)
        return max(self.slots(self.outputs) // self.slots(tallest), 1)

    def with_checks(self, rows: int | None) -> "Geometry":
        """Return the geometry with a checksum for each `rows` rows of a tile; None for all rows."""
        slots = self.outputs
        assert slots is not None and slots > CHECK_ROWS
        if rows is None:
            rows = slots - CHECK_ROWS
        groups = -(-slots // (rows + CHECK_ROWS))
        most = max(slots - CHECK_ROWS * groups, rows * (groups - 1))
        return replace(self, outputs=most, checked=rows)

    def check_rows(self, rows: int) -> int:
        """Return the checksum rows of a tile."""
        return CHECK_ROWS * len(cuts(rows, self.checked)) if self.checked else 0

    def slots(self, rows: int) -> int:
        """Return the rows of a tile with its checksums."""
        return rows + self.check_rows(rows)

    def rows_shown(self, outputs: int) -> int:
        """Return the rows of a matrix, counted per rail, and of its checksums."""
        if not self.checked:
            return outputs
        return sum(self.slots(last - first) for first, last in cuts(outputs, self.outputs))


@dataclass(frozen=True)
class Tile:
    """Rows `first_row:last_row` and columns `first_column:last_column` of W, in one frame.

    `segment` is the index along the columns: partial sums of different segments are read out
    separately and summed digitally. `block` is the index along the rows.
    """

    block: int
    segment: int
    first_row: int
    last_row: int
    first_column: int
    last_column: int

    @property
    def columns(self) -> slice:
        """The columns as a slice."""
        return slice(self.first_column, self.last_column)


def cuts(size: int, part: int | None) -> list[tuple[int, int]]:
    """Divide `range(size)` into runs of `part` (the last may be shorter): [(first, last), ...]."""
    step = size if part is None else part
    return [(first, min(first + step, size)) for first in range(0, size, max(step, 1))]


def tiles(shape: tuple[int, int], geometry: Geometry) -> Iterator[Tile]:
    """Yield the tiles of a weight matrix [M, K], segment by segment within a block of rows."""
    outputs, inputs = shape
    for block, (first_row, last_row) in enumerate(cuts(outputs, geometry.outputs)):
        for segment, (first, last) in enumerate(cuts(inputs, geometry.inputs)):
            yield Tile(block, segment, first_row, last_row, first, last)


def tile_count(shape: tuple[int, int], geometry: Geometry) -> int:
    """Return the number of tiles of a weight matrix [M, K] without listing them."""
    count = 1
    for size, part in zip(shape, (geometry.outputs, geometry.inputs), strict=True):
        count *= 1 if part is None else -(-size // part)
    return count if min(shape) else 0


@dataclass(frozen=True)
class Packing:
    """The assignment of the products of one segment to frames.

    A job is a set of weight frames that share the same input frames. A frame with spare groups
    holds a tile several times, for several vectors at once.

    Parameters
    ----------
    copies : of each tile in a frame, each with its own vector
    per_frame : different tiles in a frame
    tiles : weight frames of each job, int [jobs]
    vectors : input frames of each job, int [jobs]
    inputs : vectors of all input frames of each job, each counted once, int [jobs]
    at_once : vectors that a full input frame of each job holds, int [jobs]
    checks : leading input frames of each job that are checksums of the others, int [jobs]
    """

    copies: int
    per_frame: int
    tiles: np.ndarray
    vectors: np.ndarray
    inputs: np.ndarray
    at_once: np.ndarray
    checks: np.ndarray

    @property
    def shots(self) -> int:
        """The number of exposures of all jobs."""
        return int((self.tiles * self.vectors).sum())

    def frames(self, order: Order = ORDERS[0]) -> tuple[int, int]:
        """Return the weight frames and input frames that are shown in an order (see `visits`)."""
        stationary, moving = self.tiles, self.vectors
        if order == "input-stationary":
            stationary, moving = moving, stationary
        used = (stationary > 0) & (moving > 0)
        kept, shown = int(stationary[used].sum()), int((stationary * (moving - 1) + 1)[used].sum())
        return (kept, shown) if order == "weight-stationary" else (shown, kept)

    def inputs_shown(self, order: Order = ORDERS[0]) -> int:
        """Return the vectors of all shown input frames, counted each time."""
        if order == "input-stationary":
            return int(self.inputs.sum())
        # back and forth: the last frame stays at every other turn, the first one at the others
        turns = np.maximum(self.tiles - 1, 0)
        last = self.inputs - self.at_once * np.maximum(self.vectors - 1, 0)
        stayed = (turns + 1) // 2 * last + turns // 2 * np.minimum(self.at_once, self.inputs)
        return int((self.tiles * self.inputs - stayed).sum())


def pack(counts: Sequence[int] | np.ndarray, outputs: int, geometry: Geometry) -> Packing:
    """Pack the tiles of one segment of all matrices, and their input vectors.

    Parameters
    ----------
    counts : input vectors of each matrix, exposures of x+ and x- counted separately
    outputs : rows of each matrix
    """
    counts = np.asarray(counts)
    blocks = tile_count((outputs * geometry.parts, 1), Geometry(geometry.outputs, None))
    tasks, groups = len(counts) * blocks, geometry.groups(outputs)
    copies = max(1, min(groups // max(min(tasks, groups), 1), int(counts.max(initial=0))))
    per_frame = max(groups // copies, 1)
    if len(counts) == 1 or per_frame == 1:  # all tiles of a matrix share the input frames
        width = min(per_frame, blocks)
        tiles = np.full(len(counts), -(-blocks // per_frame))
        vectors, inputs = -(-counts // copies), counts * width
    else:
        width = per_frame
        flat = np.zeros(-(-tasks // per_frame) * per_frame, dtype=int)
        flat[:tasks] = np.repeat(counts, blocks)
        of_tasks = flat.reshape(-1, per_frame)
        vectors, inputs = -(-of_tasks.max(axis=1) // copies), of_tasks.sum(axis=1)
        tiles = np.ones(len(vectors), dtype=int)
    at_once = np.full(len(tiles), copies * width)
    checks = np.zeros(len(tiles), dtype=int)
    if geometry.input_checks:
        checks += vectors >= geometry.input_checks
    return Packing(
        copies, per_frame, tiles, vectors + checks, inputs + checks * at_once, at_once, checks
    )


def visits(tiles: int, vectors: int, order: Order) -> np.ndarray:
    """Return the order of the (weight frame, input frame) pairs of a job: int [shots, 2].

    One modulator keeps its frame while the other shows all of its frames, back and forth, so that
    the last frame stays at each turn. Exactly one modulator changes between shots, and the
    stationary one shows each of its frames once. No order has fewer frames.
    """
    shots = np.empty((tiles * vectors, 2), dtype=int)
    stationary, moving = (tiles, vectors) if order == "weight-stationary" else (vectors, tiles)
    steps = np.tile(np.arange(moving), (stationary, 1))
    steps[1::2] = steps[1::2, ::-1]
    kept, shown = np.repeat(np.arange(stationary), moving), steps.ravel()
    shots.T[:] = (kept, shown) if order == "weight-stationary" else (shown, kept)
    return shots
