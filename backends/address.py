"""`Address`: the identity of a product. Noise depends only on (seed, address, tile, output)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..instruments import InputError

POSITION_BITS, HEAD_BITS = 24, 16


@dataclass(frozen=True, eq=False)
class Address:
    """The name of a product and of each of its input rows.

    Parameters
    ----------
    matmul : such as "layer.3.attention.qk"
    rows : uint64, one id per input row (sequence, head, position), shape [...] as the rows of x
    attempt : number of the repeat; each repeat draws new noise, reproducibly
    """

    matmul: str
    rows: np.ndarray
    attempt: int = 0

    def __repr__(self) -> str:
        return f"Address {self.matmul}: {np.size(self.rows):,} rows, attempt {self.attempt}"


def row_ids(
    sequences: Sequence[int] | np.ndarray, heads: int, positions: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Return one id per (sequence, head, position): uint64 [sequences, heads, positions].

    Positions are the lowest bits, so that the rows of one sequence are neighbours.

    Raises
    ------
    InputError : when a position or a head does not fit its bits
    """
    position = np.asarray(positions, dtype=np.uint64)
    if heads > 1 << HEAD_BITS or (position.size and position.max() >= 1 << POSITION_BITS):
        raise InputError(
            f"{heads} heads and positions up to {position.max()} do not fit a row id; give at most "
            f"{1 << HEAD_BITS} heads and {1 << POSITION_BITS} positions"
        )
    sequence = np.asarray(sequences, dtype=np.uint64) << np.uint64(POSITION_BITS + HEAD_BITS)
    head = np.arange(heads, dtype=np.uint64) << np.uint64(POSITION_BITS)
    ids: np.ndarray = sequence[:, None, None] | head[None, :, None] | position
    return ids


def exposure_ids(rows: np.ndarray, vectors: int) -> np.ndarray:
    """Return one id for rows [n] that share an exposure: neighbours by position, `vectors` of them.

    The id depends only on the row, not on its batch: a row has the same neighbours in every batch.
    """
    position = rows & np.uint64((1 << POSITION_BITS) - 1)
    return np.asarray(rows - position % np.uint64(vectors))
