"""How several benches share a product, independent of processes.

The matrices (heads) of dynamic operands are sharded first. Otherwise the weight frames of a matrix
are sharded, so that no frame is shown twice. A small matrix leaves the rows of x to be sharded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from ..address import Address
from ..base import Backend, MatmulResult, Ranges, Stats
from ..profile import OpticsProfile
from ..tiling import Geometry, cuts
from ..timing import ShotTiming

_AXES = {"matrices": 0, "outputs": 2, "rows": 1}


@dataclass(frozen=True)
class Sharding:
    """The division of weights [m, M, K] among benches.

    Parameters
    ----------
    by : axis that is sharded
    bounds : shard of each bench, (first, last); () for rows, whose number depends on the product
    benches : number of benches; fewer have a shard of a small product
    """

    by: Literal["matrices", "outputs", "rows"]
    bounds: tuple[tuple[int, int], ...]
    benches: int

    @classmethod
    def of(cls, shape: tuple[int, ...], geometry: Geometry, benches: int) -> Sharding:
        """Return the sharding of weights of a shape [m, M, K] among benches of one geometry."""
        matrices, outputs, _ = shape
        if matrices > 1:
            return cls("matrices", _split(matrices, benches), benches)
        frame = max((geometry.outputs or outputs) // geometry.parts, 1)
        frames = -(-outputs // frame)
        if outputs < benches * frame:
            return cls("rows", (), benches)
        bounds = tuple(
            (first * frame, min(last * frame, outputs)) for first, last in _split(frames, benches)
        )
        return cls("outputs", bounds, benches)

    def weights(
        self, weights: np.ndarray, ranges: Ranges | None
    ) -> list[tuple[np.ndarray, Ranges | None]]:
        """Return weights [m, M, K] and ranges of each shard; if rows are sharded, all of them."""
        if self.by == "rows":
            return [(weights, ranges)] * self.benches
        axis = 0 if self.by == "matrices" else -2
        return [
            (_cut(weights, axis, *shard), _cut_ranges(ranges, weights.shape[:1], axis, *shard))
            for shard in self.bounds
        ]

    def operands(self, x: np.ndarray, at: Address) -> list[tuple[np.ndarray, Address]]:
        """Return x [m, N, K] and address of each shard."""
        if self.by == "outputs":
            return [(x, at)] * len(self.bounds)
        axis = _AXES[self.by]
        bounds = self.bounds or _split(x.shape[1], self.benches)
        return [
            (
                _cut(x, axis, *shard),
                Address(at.matmul, _cut(at.rows, axis, *shard), at.attempt),
            )
            for shard in bounds
        ]

    def joined(self, results: Sequence[MatmulResult]) -> MatmulResult:
        """Return the whole product y [m, N, M] from the results of its shards."""
        stats = Stats()
        for result in results:
            stats.add(result.stats)

        def join(parts: Sequence[np.ndarray]) -> np.ndarray:
            stacked = [part.reshape(-1, *part.shape[-2:]) for part in parts]
            return np.concatenate(stacked, axis=_AXES[self.by])

        variances = [result.variance for result in results if result.variance is not None]
        variance = join(variances) if len(variances) == len(results) else None
        return MatmulResult(join([result.y for result in results]), stats, variance)


@dataclass(frozen=True)
class ShardedWeights:
    """Weights in shards, each in the form that its bench takes."""

    sharding: Sharding
    weights: list[Any]


class JointBackend(Backend):
    """Benches that multiply as one; plans assume that the others are like the first."""

    name = "bench"
    is_asynchronous = True

    @property
    @abstractmethod
    def _first(self) -> Any:
        """The first bench, which has a profile, a geometry and a timing."""

    @property
    def profile(self) -> OpticsProfile:
        """The profile of the first bench."""
        profile: OpticsProfile = self._first.profile
        return profile

    @property
    def geometry(self) -> Geometry:
        """The capacity of a frame of the first bench."""
        geometry: Geometry = self._first.geometry
        return geometry

    @property
    def timing(self) -> ShotTiming:
        """The shot times of the first bench."""
        timing: ShotTiming = self._first.timing
        return timing

    def _stacked(self, weights: np.ndarray, benches: int) -> tuple[np.ndarray, Sharding]:
        """Return weights as [m, M, K], and how they are sharded."""
        stacked = weights.reshape(-1, *weights.shape[-2:])
        return stacked, Sharding.of(stacked.shape, self.geometry, benches)


def sum_of_faults(faults: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the number of repeated shots on all benches, by kind of fault."""
    return dict(sum(map(Counter, faults), Counter()))


def call_at_last(count: int, done: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `done` when it is called for the last of `count` shards."""
    lock, left = Lock(), count

    def finish_shard() -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = not left
        if is_last:
            done()

    return finish_shard


def _split(count: int, benches: int) -> tuple[tuple[int, int], ...]:
    """Return the bounds (first, last) of each shard; a small count gives fewer shards."""
    return tuple(cuts(count, -(-count // min(count, benches))))


def _cut(array: np.ndarray, axis: int, first: int, last: int) -> np.ndarray:
    index = [slice(None)] * array.ndim
    index[axis] = slice(first, last)
    return array[tuple(index)]


def _cut_ranges(
    ranges: Ranges | None, matrices: tuple[int, ...], axis: int, first: int, last: int
) -> Ranges | None:
    """Return ranges cut like their weights; an axis of length 1 serves all shards."""
    if ranges is None:
        return None

    def cut(array: np.ndarray, at: int) -> np.ndarray:
        lifted = array.reshape(-1, *array.shape[-2:])
        if lifted.shape[0] not in (1, *matrices):  # the same for each sequence of a batch
            lifted = np.tile(lifted, (matrices[0] // lifted.shape[0], 1, 1))
        return lifted if lifted.shape[at] == 1 else _cut(lifted, at, first, last)

    weight = None if ranges.weight is None else cut(ranges.weight, axis)
    return Ranges(cut(ranges.readout, 0 if axis == 0 else -1), weight)
