"""`ProductJobs`: the jobs of one matrix product on an open bench, and the gathering of its result.

A product is split into segments of its columns. If the bench is calibrated again meanwhile, or
recorded numbers fail a checksum, a segment restarts: its shots are taken again, with new names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from ...instruments import ChecksumMismatch, InputError, Paused
from ..address import Address
from ..base import MatmulResult, Stats
from ..tiling import Geometry, tiles
from .checksum import ChecksumStats
from .fault_recovery import RestartProducts
from .open_bench import OpenBench
from .product import Product
from .product_frames import EncodedOperand
from .shot_plan import TileResult

_MOST_RESTARTS = 2  # of a segment


@dataclass
class SegmentJobs:
    """One segment of a pending product, with its jobs.

    Parameters
    ----------
    name : matmul, attempt, digest of its rows, segment
    values, weights : the operands
    details : for the timeline
    restarts : number of restarts
    done : called when the shots of the product are complete; None for all segments but the last,
        and once it may not be called again
    """

    name: tuple[str, str, str, str]
    values: np.ndarray
    weights: EncodedOperand
    details: Mapping[str, Any]
    restarts: int = 0
    done: Callable[[], None] | None = None
    product: Product = field(init=False)
    futures: list[Future[TileResult]] = field(init=False)

    @property
    def address(self) -> str:
        """The address of its shots, which differs after each restart."""
        matmul, attempt, digest, number = self.name
        again = f".{self.restarts}" if self.restarts else ""
        return f"{matmul}/{attempt}{again}/{digest}/{number}"

    def notify_when_done(self) -> None:
        """Call `done` when the last job ends, unless the product must restart."""
        done = self.done
        if done is None:
            return

        def ended(last: Future[TileResult]) -> None:
            if last.cancelled() or not isinstance(last.exception(), RestartProducts):
                done()

        self.futures[-1].add_done_callback(ended)

    def notify_restart(self) -> None:
        """Tell the caller that the shots are taken again, if `done` was already called."""
        last = self.futures[-1]
        if self.done is None or isinstance(last.exception(), RestartProducts):
            return
        again = getattr(self.done, "again", None)
        if again is None:
            self.done = None  # `done` must not be called twice
        else:
            again()


class ProductJobs:
    """The jobs of one product; they are submitted at once.

    Parameters
    ----------
    bench : open
    x : left operand, [m, N, K]
    weights : right operand, of each segment
    at : address of the product
    done : called when the bench has taken or failed all shots
    details : for the timeline

    Raises
    ------
    InputError : when x is not finite
    """

    def __init__(
        self,
        bench: OpenBench,
        x: np.ndarray,
        weights: list[EncodedOperand],
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> None:
        self._bench = bench
        self._stats = Stats(macs=x.size * weights[0].intensity.shape[2])
        self._segments: list[SegmentJobs] = []
        digest = sha256(at.rows.tobytes()).hexdigest()[:12]  # shots of other rows get other noise
        length = bench.setup.model.layout.length
        with bench.bench.clock.held():
            for tile in tiles((1, x.shape[-1]), Geometry(None, length)):
                values = x[..., tile.columns]
                if not np.isfinite(values).all():
                    raise InputError("x has values that are not finite")
                name = (at.matmul, str(at.attempt), digest, str(tile.segment))
                segment = SegmentJobs(name, values, weights[tile.segment], details)
                self._segments.append(segment)
                self._submit(segment)
        last = self._segments[-1]
        last.done = done  # jobs end in order, so the last one ends the product
        last.notify_when_done()

    def result(self) -> MatmulResult:
        """Wait for the jobs, and add up the segments.

        Raises
        ------
        Paused : when the bench paused, or restarts do not help
        """
        y: Any = 0.0
        variance: Any = 0.0
        for segment in self._segments:
            part, noise = self._gather(segment)
            y, variance = y + part, variance + noise
        return MatmulResult(y.astype(np.float32), self._stats, variance.astype(np.float32))

    def _submit(self, segment: SegmentJobs) -> None:
        """Encode a segment for the present setup of the bench, and submit its jobs."""
        setup = self._bench.settled_setup()
        start = time.perf_counter()
        segment.product = Product(
            setup, segment.address, segment.values, segment.weights, segment.details
        )
        self._add_seconds("encode", start)
        if setup is not self._bench.setup:  # it was replaced meanwhile
            self._submit(segment)
            return
        segment.futures = [self._bench.submit(job) for job in segment.product.jobs]

    def _gather(self, segment: SegmentJobs) -> tuple[np.ndarray, np.ndarray]:
        """Return the result of a segment and its variance; restart the segment if it is invalid."""
        while True:
            try:
                return self._decoded(segment)
            except (RestartProducts, ChecksumMismatch) as reason:
                self._restart(segment, reason)

    def _decoded(self, segment: SegmentJobs) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the jobs of a segment, and return its result and its variance.

        Raises
        ------
        RestartProducts : when the bench was calibrated again in between
        ChecksumMismatch : when numbers that an earlier run recorded fail a checksum
        """
        bench, product, name = self._bench, segment.product, segment.name[0]
        results = [future.result() for future in segment.futures]
        start, start_s = time.perf_counter(), bench.bench.clock.now_s()
        if not bench.is_valid(product.jobs[0]):
            raise RestartProducts("")
        counted = Stats()
        found = product.decode(results, counted)
        self._stats.add(counted)
        bench.bench.counts.checked.setdefault(name, ChecksumStats()).add(product.monitor.stats)
        timeline = bench.bench.timeline
        if timeline is not None:
            end_s = bench.bench.clock.now_s()
            timeline.add("gather", name, start_s, end_s, **segment.details)
        self._add_seconds("decode", start)
        return found

    def _restart(self, segment: SegmentJobs, reason: Exception) -> None:
        """Submit the jobs of an invalid segment again.

        Raises
        ------
        Paused : after too many restarts
        """
        bench = self._bench.bench
        segment.restarts += 1
        if segment.restarts > _MOST_RESTARTS:
            raise Paused(
                f"{bench.path}: {segment.name[0]} was taken {segment.restarts} times, and its "
                f"numbers do not match the bench ({reason or 'which was measured again each time'}"
                "); run `lightloom check`; the bench is safe",
                "checksum-mismatch",
            ) from reason
        segment.notify_restart()
        with bench.clock.held():
            self._submit(segment)
        segment.notify_when_done()

    def _add_seconds(self, stage: str, start: float) -> None:
        """Add the time since a start to a stage."""
        seconds = self._stats.seconds
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
