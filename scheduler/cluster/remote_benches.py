"""`RemoteBenches`: benches that multiply as one, each in a process of its own, here or elsewhere.

Every process is a Dask worker that offers one bench (see `bench_worker`). `backends.bench.sharding`
splits a product into shards. Not here: opening the benches (`connection`), and sending shards to
them (`shard_queues`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from ...backends import Address, MatmulResult, PreparedWeights, Ranges
from ...backends.bench import open_benches
from ...backends.bench.sharding import JointBackend, ShardedWeights, call_at_last, sum_of_faults
from ...instruments import InputError
from ...instruments.errors import import_extra
from .bench_worker import BenchNotes, OpenedBench, Shard, ShardWeights
from .connection import RemoteBench, connect
from .shard_queues import PendingShard, ShardQueues


class RemoteBenches(JointBackend):
    """Multiplies on benches of other processes.

    Parameters
    ----------
    paths : bench files; a process of this machine is started for each
    address : of a running Dask scheduler; its workers that offer a bench are used instead
    uncalibrated : run on a guess where a bench has no calibration

    Attributes
    ----------
    queues : shards on their way to the benches of this run, or of the last one; None before it was
        first opened

    Raises
    ------
    InputError : for bench files that cannot be used, or not together
    MissingExtraError : when Dask is not installed
    """

    def __init__(
        self,
        paths: Sequence[str | Path] = (),
        address: str | None = None,
        uncalibrated: bool = False,
    ) -> None:
        super().__init__()
        if bool(paths) == (address is not None):
            raise InputError("give bench files, or the address of a Dask scheduler; not both")
        import_extra("distributed", "cluster", "work on a cluster of workers")
        if paths:
            open_benches(paths, uncalibrated)  # mistakes show here, before a process is started
        self._paths = [str(Path(path).resolve()) for path in paths]
        self._address, self._uncalibrated = address, uncalibrated
        self.queues: ShardQueues | None = None
        self._open_lock = RLock()

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Open all benches, unless they are open; see `connection.connect`."""
        self._opened()

    def _opened(self) -> ShardQueues:
        """Open the benches unless they are open, and return the queues of their shards."""
        with self._open_lock:
            if self.queues is None or not self.queues.connection.is_open:
                connection = connect(self._paths, self._address, self._uncalibrated)
                is_local = bool(self._paths)
                self.queues = ShardQueues(connection, self._uncalibrated, is_local)
                self.is_mock = any(bench.opened.is_mock for bench in connection.benches)
            return self.queues

    def close(self) -> None:
        """Switch all lights off, and release the workers."""
        with self._open_lock:
            if self.queues is not None and self.queues.connection.is_open:
                self.queues.close()
                self.queues.connection.close()

    def warm_up(self) -> None:
        """Open the benches, and compile the kernels on each of them."""
        rows = len(self._opened().connection.benches)
        x = np.ones((rows, 1), dtype=np.float32)
        self.matmul(x, x[:1], Address("warm up", np.arange(rows, dtype=np.uint64)))

    # --- properties of the benches ---------------------------------------------------------------

    @property
    def _benches(self) -> Sequence[RemoteBench]:
        """The benches in their order; none before they were first opened."""
        return () if self.queues is None else self.queues.connection.benches

    @property
    def _first(self) -> OpenedBench:
        queues = self.queues or self._opened()
        return queues.connection.benches[0].opened

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether all benches are calibrated."""
        return all(bench.opened.is_calibrated for bench in self._benches)

    @property
    def repeated(self) -> int:
        """The number of shards that ran again because their worker was lost."""
        return 0 if self.queues is None else self.queues.repeated

    @property
    def faults(self) -> dict[str, int]:  # type: ignore[override]
        """The number of repeated shots on all benches, by kind of fault."""
        notes = {} if self.queues is None else self.queues.notes()
        return sum_of_faults(found.faults for found in notes.values())

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """The remarks of every bench, with its number, and on workers that were lost."""
        if self.queues is None:
            return ()
        notes = self.queues.notes()
        own = [
            f"bench {bench.number} ({bench.name}): {remark}"
            for bench in self._benches
            for remark in notes.get(bench.address, BenchNotes()).remarks
        ]
        return (*own, *self.queues.remarks)

    def describe(self) -> Mapping[str, Any]:
        """Return the description of every bench."""
        benches = [{"worker": bench.address, **bench.opened.description} for bench in self._benches]
        return {**super().describe(), "benches": benches}

    def journal_entry(self) -> dict[str, Any]:
        """Refuse: a resumed run cannot open the benches of workers."""
        raise InputError(
            "a run on the benches of workers cannot be recorded yet; record one on benches of this "
            "process: --bench without --workers or --scheduler"
        )

    @property
    def _identity(self) -> Sequence[str]:
        return self._paths or (str(self._address),)

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> ShardedWeights:
        self.open()
        count = len(self._benches)
        stacked, sharding = self._stacked(weights, count)
        if sharding.by == "rows":  # digested once
            return ShardedWeights(sharding, [ShardWeights.of(stacked, ranges)] * count)
        parts = sharding.weights(stacked, ranges)
        return ShardedWeights(sharding, [ShardWeights.of(*part) for part in parts])

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        queues = self.queues
        if queues is None or queues.error is None:  # after a failure only `open` opens them again
            queues = self._opened()
        sharded: ShardedWeights = w.content
        shards = [
            PendingShard(Shard(weights, part, address, details))
            for weights, (part, address) in zip(
                sharded.weights, sharded.sharding.operands(x, at), strict=False
            )
        ]
        finish_shard = call_at_last(len(shards), done)
        for shard in shards:
            shard.future.add_done_callback(lambda _: finish_shard())
        queues.add(shards)

        def finish() -> MatmulResult:
            try:
                results = [shard.future.result() for shard in shards]
            except BaseException:
                self.close()
                raise
            return sharded.sharding.joined(results)

        return finish
