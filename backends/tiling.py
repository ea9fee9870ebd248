"""How a product is cut onto a bench: pure functions, used by mock, bench and planner alike.

`tiles` cuts a weight matrix into what one frame holds; `pack` lets tiles and vectors share frames,
so that nothing of a frame lies idle; `visits` gives the order in which frames meet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .profile import OpticsProfile

Order = Literal["weight-stationary", "input-stationary"]
"""Which modulator rests while the other goes through its frames."""
ORDERS: tuple[Order, Order] = ("weight-stationary", "input-stationary")
CHECK_ROWS = 2  # of each group of rows: what its sum has above zero, and below


@dataclass(frozen=True)
class Geometry:
    """What one weight frame holds, in outputs and inputs (not in modulator rows and elements).

    Parameters
    ----------
    outputs : rows of W that fit into one frame, beside their checksums (None: all)
    inputs : columns of W that one dot product holds (None: all)
    vectors : input vectors that share one shot: groups of `outputs` dot products side by side
    is_divisible : a small matrix takes a smaller group, and more of them share one shot
    parts : what one output takes of `outputs`, where its rails may lie in different frames
    checked : rows of a tile that share a checksum (see `bench.checksum`); 0 for none
    input_checks : jobs of at least so many input frames have one more, their checksum; 0 for none
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
        """Count rails and side-by-side inputs: two rails take two rows of an output."""
        outputs = None if profile.rows is None else profile.rows // profile.rails
        inputs = None if profile.length is None else profile.length // profile.elements_per_input
        return cls(outputs, inputs, profile.vectors)

    def groups(self, outputs: int) -> int:
        """Return the groups, each with a vector of its own, that a frame holds of such a matrix."""
        if self.outputs is None or not self.is_divisible:
            return self.vectors
        tallest = min(outputs * self.parts, self.outputs)
        return max(self.slots(self.outputs) // self.slots(tallest), 1)

    def with_checks(self, rows: int | None) -> "Geometry":
        """Return the same frame with a checksum for each `rows` rows of a tile; None: for all."""
        slots = self.outputs
        assert slots is not None and slots > CHECK_ROWS
        if rows is None:
            rows = slots - CHECK_ROWS
        groups = -(-slots // (rows + CHECK_ROWS))
        most = max(slots - CHECK_ROWS * groups, rows * (groups - 1))
        return replace(self, outputs=most, checked=rows)

    def check_rows(self, rows: int) -> int:
        """Return the rows of checksums of a tile."""
        return CHECK_ROWS * len(cuts(rows, self.checked)) if self.checked else 0

    def slots(self, rows: int) -> int:
        """Return what a tile and its checksums take of a frame."""
        return rows + self.check_rows(rows)

    def rows_shown(self, outputs: int) -> int:
        """Return the rows of a matrix, those of the rails counted apart, and of its checksums."""
        if not self.checked:
            return outputs
        return sum(self.slots(last - first) for first, last in cuts(outputs, self.outputs))


@dataclass(frozen=True)
class Tile:
    """Rows `first_row:last_row` and columns `first_column:last_column` of W, in one frame.

    `segment` counts the cuts along the columns: partial sums of different segments are read out
    separately and summed digitally. `block` counts the cuts along the rows.
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
    """Cut `range(size)` into runs of `part` (the last may be shorter): [(first, last), ...]."""
    step = size if part is None else part
    return [(first, min(first + step, size)) for first in range(0, size, max(step, 1))]


def tiles(shape: tuple[int, int], geometry: Geometry) -> Iterator[Tile]:
    """Return the tiles of a weight matrix [M, K], segment by segment within a block of rows."""
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
    """How the products of one segment share frames.

    A job is a set of weight frames that all meet the same input frames. Where a frame has groups to
    spare, a tile is shown several times, for several vectors at once.

    Parameters
    ----------
    copies : of each tile in a frame, each with a vector of its own
    per_frame : different tiles in a frame
    tiles : weight frames of each job, int [jobs]
    vectors : input frames of each job, int [jobs]
    inputs : vectors of all input frames of each job, each counted once, int [jobs]
    at_once : vectors that an input frame of each job holds, where it is full, int [jobs]
    checks : input frames of each job that are checksums of the others, the first, int [jobs]
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
        """Exposures of all jobs."""
        return int((self.tiles * self.vectors).sum())

    def frames(self, order: Order = ORDERS[0]) -> tuple[int, int]:
        """Return weight frames and the input frames that are shown in an order (see `visits`)."""
        resting, moving = self.tiles, self.vectors
        if order == "input-stationary":
            resting, moving = moving, resting
        used = (resting > 0) & (moving > 0)
        rested, moved = int(resting[used].sum()), int((resting * (moving - 1) + 1)[used].sum())
        return (rested, moved) if order == "weight-stationary" else (moved, rested)

    def inputs_shown(self, order: Order = ORDERS[0]) -> int:
        """Return the vectors of all input frames that are shown, again and again."""
        if order == "input-stationary":
            return int(self.inputs.sum())
        # forth and back: the last frame stays at every other turn, the first one at the others
        turns = np.maximum(self.tiles - 1, 0)
        last = self.inputs - self.at_once * np.maximum(self.vectors - 1, 0)
        stayed = (turns + 1) // 2 * last + turns // 2 * np.minimum(self.at_once, self.inputs)
        return int((self.tiles * self.inputs - stayed).sum())


def pack(counts: Sequence[int] | np.ndarray, outputs: int, geometry: Geometry) -> Packing:
    """Pack the tiles of one segment of all matrices, and the vectors that pass through them.

    Parameters
    ----------
    counts : input vectors of each matrix, exposures of x+ and of x- counted apart
    outputs : rows of each matrix
    """
    counts = np.asarray(counts)
    blocks = tile_count((outputs * geometry.parts, 1), Geometry(geometry.outputs, None))
    tasks, groups = len(counts) * blocks, geometry.groups(outputs)
    copies = max(1, min(groups // max(min(tasks, groups), 1), int(counts.max(initial=0))))
    per_frame = max(groups // copies, 1)
    if len(counts) == 1 or per_frame == 1:  # all tiles of a matrix meet the same input frames
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
    """Return the order in which weight frames and input frames of a job meet: int [shots, 2].

    One modulator rests while the other goes through its frames, forth and back again, so that at
    each turn the last frame stays: from one shot to the next exactly one modulator changes, and the
    resting one shows each of its frames once. No order has fewer frames.
    """
    shots = np.empty((tiles * vectors, 2), dtype=int)
    resting, moving = (tiles, vectors) if order == "weight-stationary" else (vectors, tiles)
    steps = np.tile(np.arange(moving), (resting, 1))
    steps[1::2] = steps[1::2, ::-1]
    rests = np.repeat(np.arange(resting), moving)
    shots.T[:] = (rests, steps.ravel()) if order == "weight-stationary" else (steps.ravel(), rests)
    return shots
