"""How several benches share a product: pure functions, whichever process the benches are in.

Heads of dynamic operands are dealt out first; else the weight frames of a matrix, so that no frame
is shown twice; else the rows of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..address import Address
from ..base import MatmulResult, Ranges, Stats
from ..tiling import Geometry, cuts

_AXES = {"matrices": 0, "outputs": 2, "rows": 1}


@dataclass(frozen=True)
class Sharding:
    """How weights [m, M, K] are dealt out.

    Parameters
    ----------
    by : what is dealt out
    where : the share of each bench, (first, last); of rows it depends on the product
    benches : how many there are; fewer have a share where there is not enough
    """

    by: Literal["matrices", "outputs", "rows"]
    where: tuple[tuple[int, int], ...]
    benches: int

    @classmethod
    def of(cls, shape: tuple[int, ...], geometry: Geometry, benches: int) -> Sharding:
        """Deal out weights of a shape [m, M, K] to benches of one geometry."""
        matrices, outputs, _ = shape
        if matrices > 1:
            return cls("matrices", _shares(matrices, benches), benches)
        frame = max((geometry.outputs or outputs) // geometry.parts, 1)
        frames = -(-outputs // frame)
        if outputs < benches * frame:
            return cls("rows", (), benches)
        where = tuple(
            (first * frame, min(last * frame, outputs)) for first, last in _shares(frames, benches)
        )
        return cls("outputs", where, benches)

    def weights(
        self, weights: np.ndarray, ranges: Ranges | None
    ) -> list[tuple[np.ndarray, Ranges | None]]:
        """Return weights [m, M, K] of each share, and their ranges; of rows, all to everybody."""
        if self.by == "rows":
            return [(weights, ranges)] * self.benches
        axis = 0 if self.by == "matrices" else -2
        return [
            (_cut(weights, axis, *share), _cut_ranges(ranges, weights.shape[:1], axis, *share))
            for share in self.where
        ]

    def operands(self, x: np.ndarray, at: Address) -> list[tuple[np.ndarray, Address]]:
        """Return x [m, N, K] of each share, and who is multiplied."""
        if self.by == "outputs":
            return [(x, at)] * len(self.where)
        axis = _AXES[self.by]
        where = self.where or _shares(x.shape[1], self.benches)
        return [
            (
                _cut(x, axis, *share),
                Address(at.matmul, _cut(at.rows, axis, *share), at.attempt),
            )
            for share in where
        ]

    def joined(self, results: Sequence[MatmulResult]) -> MatmulResult:
        """Put the shares of a product together again: y [m, N, M]."""
        stats = Stats()
        for result in results:
            stats.add(result.stats)

        def whole(parts: Sequence[np.ndarray]) -> np.ndarray:
            stacked = [part.reshape(-1, *part.shape[-2:]) for part in parts]
            return np.concatenate(stacked, axis=_AXES[self.by])

        variances = [result.variance for result in results if result.variance is not None]
        variance = whole(variances) if len(variances) == len(results) else None
        return MatmulResult(whole([result.y for result in results]), stats, variance)


def _shares(count: int, benches: int) -> tuple[tuple[int, int], ...]:
    """Deal out so many things, to fewer benches where there are not enough: (first, last)."""
    return tuple(cuts(count, -(-count // min(count, benches))))


def _cut(array: np.ndarray, axis: int, first: int, last: int) -> np.ndarray:
    index = [slice(None)] * array.ndim
    index[axis] = slice(first, last)
    return array[tuple(index)]


def _cut_ranges(
    ranges: Ranges | None, matrices: tuple[int, ...], axis: int, first: int, last: int
) -> Ranges | None:
    """Cut ranges like their weights; an axis of 1 serves all."""
    if ranges is None:
        return None

    def cut(array: np.ndarray, at: int) -> np.ndarray:
        lifted = array.reshape(-1, *array.shape[-2:])
        if lifted.shape[0] not in (1, *matrices):  # the same for each sequence of a batch
            lifted = np.tile(lifted, (matrices[0] // lifted.shape[0], 1, 1))
        return lifted if lifted.shape[at] == 1 else _cut(lifted, at, first, last)

    weight = None if ranges.weight is None else cut(ranges.weight, axis)
    return Ranges(cut(ranges.readout, 0 if axis == 0 else -1), weight)
