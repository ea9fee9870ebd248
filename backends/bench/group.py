"""`BenchGroup`: several benches that multiply as one, each a share of every product.

Heads of dynamic operands are dealt out first; else the weight frames of a matrix, so that no frame
is shown twice; else the rows of x. A product is begun on all of its benches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from ...instruments import Clock, InputError, Timeline
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..profile import OpticsProfile
from ..tiling import Geometry, cuts
from ..timing import ShotTiming
from .backend import BenchBackend


@dataclass(frozen=True)
class _Dealt:
    """Weights as each bench wants them.

    Parameters
    ----------
    by : what is dealt out: "matrices", "outputs" or "rows"
    where : the share of each bench, (first, last); of rows it is not known yet
    """

    by: str
    where: list[tuple[int, int]]
    weights: list[PreparedWeights]


class _AllClocks(Clock):
    """The clocks of all benches: the latest of their times, and holds on every one."""

    def __init__(self, clocks: Sequence[Clock]) -> None:
        self._clocks = clocks
        self.is_virtual = any(clock.is_virtual for clock in clocks)

    def now_s(self) -> float:
        return max(clock.now_s() for clock in self._clocks)

    def sleep_until(self, moment_s: float) -> None:
        for clock in self._clocks:
            clock.sleep_until(moment_s)

    def hold(self) -> None:
        for clock in self._clocks:
            clock.hold()

    def release(self) -> None:
        for clock in self._clocks:
            clock.release()


class BenchGroup(Backend):
    """Multiplies on several benches at once.

    Parameters
    ----------
    benches : at least two, of one encoding; on virtual clocks each has a time of its own

    Raises
    ------
    InputError : for benches that cannot share a product
    """

    name = "bench"
    is_asynchronous = True

    def __init__(self, benches: Sequence[BenchBackend]) -> None:
        super().__init__()
        kinds = {bench.bench.file.encoding.kind for bench in benches}
        if len(benches) < 2 or len(kinds) > 1:
            paths = ", ".join(bench.bench.path for bench in benches)
            raise InputError(
                f"{paths}: want two benches or more, all of one encoding, not "
                f"{', '.join(sorted(kinds))}"
            )
        self.benches = list(benches)
        self.is_mock = any(bench.is_mock for bench in benches)
        clocks = [bench.clock for bench in benches]
        self.clock = _AllClocks(clocks) if any(c.is_virtual for c in clocks) else clocks[0]
        self._timeline: Timeline | None = None

    # --- what is known of them -------------------------------------------------------------------

    @property
    def profile(self) -> OpticsProfile:  # type: ignore[override]
        """The profile of the first bench; plans take the others to be like it."""
        return self.benches[0].profile

    @property
    def geometry(self) -> Geometry:  # type: ignore[override]
        """What a frame of the first bench holds."""
        return self.benches[0].geometry

    @property
    def timing(self) -> ShotTiming:  # type: ignore[override]
        """The times of the first bench."""
        return self.benches[0].timing

    @property
    def faults(self) -> dict[str, int]:
        """Reason -> how often a shot was repeated for it, on any bench."""
        total: dict[str, int] = {}
        for bench in self.benches:
            for reason, count in bench.faults.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether all benches are."""
        return all(bench.is_calibrated for bench in self.benches)

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Remarks of every bench, with its number."""
        return tuple(
            f"bench {number}: {remark}"
            for number, bench in enumerate(self.benches, 1)
            for remark in bench.remarks
        )

    @property
    def timeline(self) -> Timeline | None:  # type: ignore[override]
        """Where slices of what happens go; each bench has tracks of its own."""
        return self._timeline

    @timeline.setter
    def timeline(self, timeline: Timeline | None) -> None:
        self._timeline = timeline
        for number, bench in enumerate(self.benches, 1):
            bench.timeline = None if timeline is None else timeline.within(f"bench {number}")

    def describe(self) -> Mapping[str, Any]:
        """Give what every bench says of itself."""
        return {**super().describe(), "benches": [bench.describe() for bench in self.benches]}

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Open all benches, at the same time."""
        with ThreadPoolExecutor(len(self.benches)) as pool:
            for opened in [pool.submit(bench.open) for bench in self.benches]:
                try:
                    opened.result()
                except BaseException:
                    self.close()
                    raise

    def close(self) -> None:
        """Close all benches, whatever happens to one of them."""
        errors = []
        for bench in self.benches:
            try:
                bench.close()
            except Exception as error:  # the others must be made safe too
                errors.append(error)
        if errors:
            raise errors[0]

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> _Dealt:
        outputs, benches = weights.shape[-2], self.benches
        if weights.ndim > 2:
            weights = weights.reshape(-1, *weights.shape[-2:])
        frame = max((self.geometry.outputs or outputs) // self.geometry.parts, 1)
        if weights.ndim > 2 and len(weights) > 1:
            where = _shares(len(weights), len(benches))
            parts = [weights[first:last] for first, last in where]
            return _Dealt("matrices", where, self._prepared(parts, ranges))
        if outputs >= len(benches) * frame:
            where = [
                (first * frame, min(last * frame, outputs))
                for first, last in _shares(-(-outputs // frame), len(benches))
            ]
            parts = [weights[..., first:last, :] for first, last in where]
            return _Dealt("outputs", where, self._prepared(parts, ranges))
        return _Dealt("rows", [], self._prepared([weights] * len(benches), ranges))

    def _prepared(self, parts: list[np.ndarray], ranges: Ranges | None) -> list[PreparedWeights]:
        return [
            bench.prepare(part, ranges=ranges)
            for bench, part in zip(self.benches, parts, strict=False)
        ]

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        return self._begin(x, w, at, lambda: None, {})()

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        dealt: _Dealt = w.content
        where = dealt.where if dealt.by != "rows" else _shares(x.shape[1], len(self.benches))
        left, lock = [len(where)], Lock()

        def one_is_done() -> None:
            with lock:
                left[0] -= 1
                is_last = not left[0]
            if is_last:
                done()

        finishes = []
        for bench, weights, (first, last) in zip(self.benches, dealt.weights, where, strict=False):
            operand, rows = x, at.rows
            if dealt.by == "matrices":
                operand, rows = x[first:last], at.rows[first:last]
            elif dealt.by == "rows":
                operand, rows = x[:, first:last], at.rows[:, first:last]
            address = Address(at.matmul, rows, at.attempt)
            finishes.append(bench.begin(operand, weights, address, one_is_done, details))
        axis = {"matrices": 0, "outputs": 2, "rows": 1}[dealt.by]
        shape = (x.shape[0], x.shape[1], w.shape[-2])
        return lambda: _joined([finish() for finish in finishes], axis, shape)


def _shares(count: int, benches: int) -> list[tuple[int, int]]:
    """Deal out so many things, to fewer benches where there are not enough: [(first, last)]."""
    return cuts(count, -(-count // min(count, benches)))


def _joined(
    results: Sequence[MatmulResult], axis: int, shape: tuple[int, int, int]
) -> MatmulResult:
    stats = Stats()
    for result in results:
        stats.add(result.stats)

    def whole(parts: list[np.ndarray]) -> np.ndarray:
        lifted = [part.reshape(-1, *part.shape[-2:]) for part in parts]
        return np.concatenate(lifted, axis=axis).reshape(shape)

    variances = [result.variance for result in results if result.variance is not None]
    variance = whole(variances) if len(variances) == len(results) else None
    return MatmulResult(whole([result.y for result in results]), stats, variance)
