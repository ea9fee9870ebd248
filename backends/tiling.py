"""How a weight matrix is cut onto a bench: one pure function, used by mock, bench and planner."""

from collections.abc import Iterator
from dataclasses import dataclass

from .profile import OpticsProfile


@dataclass(frozen=True)
class Geometry:
    """What one weight frame holds, in outputs and inputs (not in modulator rows and elements).

    Parameters
    ----------
    outputs : rows of W that fit into one frame (None: all)
    inputs : columns of W that one dot product holds (None: all)
    vectors : input vectors that share one shot
    """

    outputs: int | None
    inputs: int | None
    vectors: int = 1

    @classmethod
    def of(cls, profile: OpticsProfile) -> "Geometry":
        """Count rails and side-by-side inputs: two rails take two rows of an output."""
        outputs = None if profile.rows is None else profile.rows // profile.rails
        inputs = None if profile.length is None else profile.length // profile.elements_per_input
        return cls(outputs, inputs, profile.vectors)


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
    """Give the tiles of a weight matrix [M, K], segment by segment within a block of rows."""
    outputs, inputs = shape
    for block, (first_row, last_row) in enumerate(cuts(outputs, geometry.outputs)):
        for segment, (first, last) in enumerate(cuts(inputs, geometry.inputs)):
            yield Tile(block, segment, first_row, last_row, first, last)


def tile_count(shape: tuple[int, int], geometry: Geometry) -> int:
    """Give the number of tiles of a weight matrix [M, K] without listing them."""
    count = 1
    for size, part in zip(shape, (geometry.outputs, geometry.inputs), strict=True):
        count *= 1 if part is None else -(-size // part)
    return count if min(shape) else 0
