"""`RemoteBenches`: benches that multiply as one, each in a process of its own, here or elsewhere.

Every process is a Dask worker that offers one bench as a resource (see `bench_worker`), so one task
at a time uses it. `backends.bench.sharding` splits a product into shards. Shards that wait for the
same bench are sent together, so that neither light nor the network waits for each. Weights are sent
to a worker once. Shards that a lost worker had not finished run on the other benches.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Condition, Event, RLock, Thread
from typing import Any, cast

import numpy as np

from ...backends import (
    Address,
    Backend,
    Geometry,
    MatmulResult,
    OpticsProfile,
    PreparedWeights,
    Ranges,
    ShotTiming,
)
from ...backends.bench import check_together, load_bench, open_benches
from ...backends.bench.sharding import Sharding
from ...instruments import InputError, InstrumentError, LightloomError, NotConnected
from ...instruments.errors import import_extra
from . import bench_worker
from .bench_worker import BenchNotes, MissingWeights, OfferedBench, OpenedBench, Shard
from .workers import Cluster, Failure, WorkersLost, open_workers

RESOURCE = "bench"
_NEEDS = {RESOURCE: 1.0}
_TASKS_PER_WORKER = 2  # one multiplies, one waits beside it
_SHARDS_PER_TASK = 16  # at most
_SHARDS_PER_BENCH = 32  # pending ones; `begin` waits beyond
_WATCH_PERIOD_S = 0.5  # between checks for lost workers
_CLOSED = "the benches were closed before this product was done"


@dataclass(frozen=True)
class _Weights:
    """The weights of a shard, float32 [m, M, K], and their digest."""

    array: np.ndarray
    ranges: Ranges | None
    digest: str

    @classmethod
    def of(cls, array: np.ndarray, ranges: Ranges | None) -> _Weights:
        array = np.ascontiguousarray(array)
        name = sha256(f"{array.shape}".encode())
        name.update(array.data)
        for part in () if ranges is None else (ranges.readout, ranges.weight):
            name.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        return cls(array, ranges, name.hexdigest())


@dataclass(frozen=True)
class _RemoteWeights:
    sharding: Sharding
    weights: list[_Weights]


@dataclass(frozen=True)
class _PendingShard:
    """A shard whose result is awaited."""

    weights: _Weights
    x: np.ndarray
    at: Address
    details: Mapping[str, Any]
    future: Future[MatmulResult]


@dataclass(eq=False)
class _SentTask:
    """A task, and its shards."""

    shards: list[_PendingShard]
    task: Any = None


@dataclass(eq=False)
class _BenchQueue:
    """One bench, and the shards that wait for it.

    Parameters
    ----------
    address : of the worker that holds it
    sent_digests : of weights that were sent there
    """

    number: int
    address: str
    offered: OfferedBench
    opened: OpenedBench
    waiting: deque[_PendingShard] = field(default_factory=deque)
    sent: list[_SentTask] = field(default_factory=list)
    sent_digests: set[str] = field(default_factory=set)
    is_lost: bool = False

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.offered.path} on {self.offered.claims.host}"


class RemoteBenches(Backend):
    """Multiplies on benches of other processes.

    Parameters
    ----------
    paths : bench files; a process of this machine is started for each
    address : of a running Dask scheduler; its workers that offer a bench are used instead
    uncalibrated : run on a guess where a bench has no calibration

    Attributes
    ----------
    cluster : whose workers hold the benches; None while it is closed
    run_name : identifies this run to the workers, from opening on
    repeated : shards that ran again because their worker was lost

    Raises
    ------
    InputError : for bench files that cannot be used, or not together
    MissingExtraError : when Dask is not installed
    """

    name = "bench"
    is_asynchronous = True

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
        self.run_name = ""
        self.cluster: Cluster | None = None
        self._stack = ExitStack()
        self._queues: list[_BenchQueue] = []
        self._notes: dict[int, BenchNotes] = {}
        self._loss_remarks: list[str] = []
        self.repeated = 0
        self._pending_count = self._next_priority = 0
        self._error: BaseException | None = None
        self._changed = Condition(RLock())
        self._open_lock = RLock()
        self._stop_watching = Event()

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Start or find the workers, check them, and open all benches; no frame is shown before.

        Raises
        ------
        InputError : when the scheduler does not answer, no worker offers a bench, a worker has
            another version of lightloom, or the benches cannot multiply as one
        InstrumentError : when a bench does not answer
        """
        with self._open_lock:
            if self.cluster is not None:
                return
            self.run_name, self._stop_watching, self._error = uuid.uuid4().hex, Event(), None
            self._notes, self._loss_remarks, self.repeated, self._pending_count = {}, [], 0, 0
            stack = ExitStack()
            try:
                offers = {RESOURCE: 1.0}
                workers = stack.enter_context(open_workers(len(self._paths), self._address, offers))
                cluster = cast(Cluster, workers)
                offered = self._offered_benches(cluster)
                cluster.add_to_workers(_release_plugin(), "lightloom-bench")
                stack.callback(self._end_run, cluster, list(offered), self.run_name)
                opened = self._open_benches(cluster, offered)
            except BaseException:
                stack.close()
                raise
            self._queues = [
                _BenchQueue(number, address, offered[address], opened[address])
                for number, address in enumerate(offered, 1)
            ]
            self.is_mock = any(bench.is_mock for bench in opened.values())
            self._stack, self.cluster = stack, cluster
            Thread(
                target=self._watch,
                args=(cluster, self._stop_watching),
                name="lightloom-watch",
                daemon=True,
            ).start()

    def _offered_benches(self, cluster: Cluster) -> dict[str, OfferedBench]:
        """Return the benches of all workers that offer one, by the worker's address."""
        addresses = cluster.offering(RESOURCE)
        if not addresses:
            raise InputError(
                f"no worker of {cluster.name} offers a bench; start them so: "
                f"{bench_worker.VARIABLE}=bench.toml dask worker ADDRESS --resources bench=1"
            )
        for address, path in zip(addresses, self._paths, strict=False):
            cluster.ask([address], bench_worker.set_bench_file, path)
        offered = _checked(cluster.ask(addresses, bench_worker.describe_bench))
        missing = set(addresses) - offered.keys()
        if missing or len(addresses) < len(self._paths):
            raise WorkersLost(f"{cluster.name}: a worker was lost before its bench was opened")
        check_together({f"{bench.path} of {a}": bench.claims for a, bench in offered.items()})
        return offered

    def _open_benches(
        self, cluster: Cluster, offered: Mapping[str, OfferedBench]
    ) -> dict[str, OpenedBench]:
        """Open all benches at the same time."""
        tasks = {
            address: cluster.submit(
                *(bench_worker.open_bench, self.run_name, self._uncalibrated),
                needs=_NEEDS,
                worker=address,
            )
            for address in offered
        }
        opened: dict[str, OpenedBench] = {}
        never = Event()
        while tasks:
            present = cluster.present()
            for address, task in list(tasks.items()):
                if task.done():
                    result = cluster.result(tasks.pop(address))
                    if isinstance(result, Failure):
                        raise _bench_error(offered[address].path, result.sentence)
                    opened[address] = result
                elif address not in present:
                    path = offered[address].path
                    raise WorkersLost(f"the worker of {path} was lost at the start")
            never.wait(0.02)
        return opened

    def close(self) -> None:
        """Switch all lights off, and release the workers."""
        with self._open_lock:
            cluster, self.cluster = self.cluster, None
            if cluster is None:
                return
            self._stop_watching.set()
            self._fail_pending(NotConnected(_CLOSED))
            self._stack.close()

    def _end_run(self, cluster: Cluster, addresses: Sequence[str], run: str) -> None:
        """End a run on the workers, and keep their notes on it."""
        numbers = {queue.address: queue.number for queue in self._queues}
        for address, notes in cluster.ask(addresses, bench_worker.end_run, run).items():
            if isinstance(notes, BenchNotes) and address in numbers and notes != BenchNotes((), {}):
                self._notes[numbers[address]] = notes

    def warm_up(self) -> None:
        """Open the benches, and compile the kernels on each of them."""
        self.open()
        rows = len(self._queues)
        x = np.ones((rows, 1), dtype=np.float32)
        self.matmul(x, x[:1], Address("warm up", np.arange(rows, dtype=np.uint64)))

    # --- properties of the benches ---------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """The address of each bench's worker, in order, lost ones included."""
        return [queue.address for queue in self._queues]

    def _first_bench(self) -> OpenedBench:
        if not self._queues:
            self.open()
        return self._queues[0].opened

    @property
    def profile(self) -> OpticsProfile:
        """The profile of the first bench; plans assume that the others are like it."""
        return self._first_bench().profile

    @property
    def geometry(self) -> Geometry:
        """The frame geometry of the first bench."""
        return self._first_bench().geometry

    @property
    def timing(self) -> ShotTiming:
        """The times of the first bench."""
        return self._first_bench().timing

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether all benches are calibrated."""
        return all(queue.opened.is_calibrated for queue in self._queues)

    @property
    def faults(self) -> dict[str, int]:  # type: ignore[override]
        """Number of repeated shots for each reason, over all benches."""
        total: dict[str, int] = {}
        for notes in self._current_notes().values():
            for reason, count in notes.faults.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Remarks of every bench, with its number, and on workers that were lost."""
        notes = self._current_notes()
        own = [
            f"bench {queue.number} ({queue.name}): {remark}"
            for queue in self._queues
            for remark in notes.get(queue.number, BenchNotes((), {})).remarks
        ]
        return (*own, *self._loss_remarks)

    def _current_notes(self) -> dict[int, BenchNotes]:
        """Return the notes of each bench, by its number; after closing, the last ones."""
        cluster = self.cluster
        if cluster is None:
            return self._notes
        numbers = {queue.address: queue.number for queue in self._queues if not queue.is_lost}
        found = cluster.ask(list(numbers), bench_worker.notes)
        return {numbers[a]: notes for a, notes in found.items() if isinstance(notes, BenchNotes)}

    def describe(self) -> Mapping[str, Any]:
        """Return the description of every bench."""
        benches = [{"worker": queue.address, **queue.opened.description} for queue in self._queues]
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

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> _RemoteWeights:
        self.open()
        stacked = weights.reshape(-1, *weights.shape[-2:])
        sharding = Sharding.of(stacked.shape, self.geometry, len(self._queues))
        if sharding.by == "rows":
            return _RemoteWeights(sharding, [_Weights.of(stacked, ranges)] * len(self._queues))
        return _RemoteWeights(
            sharding, [_Weights.of(*part) for part in sharding.weights(stacked, ranges)]
        )

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        if self._error is None:  # after a failure only `open` opens them again
            self.open()
        sharded: _RemoteWeights = w.content
        operands = sharded.sharding.operands(x, at)
        shards = [
            _PendingShard(weights, part, address, details, Future())
            for weights, (part, address) in zip(sharded.weights, operands, strict=False)
        ]
        left = [len(shards)]

        def one_is_done(_: Any) -> None:
            with self._changed:
                left[0] -= 1
                is_last = not left[0]
            if is_last:
                done()

        for shard in shards:
            shard.future.add_done_callback(one_is_done)
        with self._changed:
            run, most = self.run_name, _SHARDS_PER_BENCH * len(self._queues)
            self._changed.wait_for(lambda: self._pending_count < most or self.run_name != run)
            if self._error is not None or self.run_name != run:
                raise self._error or NotConnected(_CLOSED)
            for index, shard in enumerate(shards):
                self._queue_of(index).waiting.append(shard)
            self._pending_count += len(shards)
            for queue in self._queues:
                self._send(queue)

        def finish() -> MatmulResult:
            try:
                results = [shard.future.result() for shard in shards]
            except BaseException:
                self.close()
                raise
            return sharded.sharding.joined(results)

        return finish

    def _queue_of(self, index: int) -> _BenchQueue:
        """Return the bench of a shard: always the same one, until it is lost."""
        queue = self._queues[index]
        if not queue.is_lost:
            return queue
        present = [queue for queue in self._queues if not queue.is_lost]
        return present[index % len(present)]

    def _send(self, queue: _BenchQueue) -> None:
        """Send shards that wait for a bench, while its worker has few tasks."""
        cluster = self.cluster
        while cluster is not None and queue.waiting and len(queue.sent) < _TASKS_PER_WORKER:
            count = min(len(queue.waiting), _SHARDS_PER_TASK)
            sent = _SentTask([queue.waiting.popleft() for _ in range(count)])
            queue.sent.append(sent)
            self._next_priority -= 1  # first in, first out
            sent.task = cluster.submit(
                bench_worker.multiply,
                self.run_name,
                self._uncalibrated,
                [self._shard_for(queue, pending) for pending in sent.shards],
                needs=_NEEDS,
                worker=queue.address,
                priority=self._next_priority,
            )
            sent.task.add_done_callback(lambda _, sent=sent: self._receive(cluster, queue, sent))

    def _shard_for(self, queue: _BenchQueue, pending: _PendingShard) -> Shard:
        """Return a shard to be sent; its weights go with it if the worker does not have them."""
        weights, is_there = pending.weights, pending.weights.digest in queue.sent_digests
        queue.sent_digests.add(weights.digest)
        array = None if is_there else weights.array
        ranges = None if is_there else weights.ranges
        return Shard(weights.digest, array, ranges, pending.x, pending.at, pending.details)

    def _receive(self, cluster: Cluster, queue: _BenchQueue, sent: _SentTask) -> None:
        """Receive the result of a task."""
        with self._changed:
            if sent not in queue.sent:  # its worker was lost, or the run is over
                return
        try:
            result = cluster.result(sent.task)
        except Exception as error:  # a bug in the worker, or the cluster is gone
            self._fail(error)
            return
        if isinstance(result, Failure):
            self._fail(_bench_error(queue.offered.path, result.sentence))
            return
        with self._changed:
            if sent not in queue.sent:
                return
            queue.sent.remove(sent)
            if isinstance(result, MissingWeights):
                queue.sent_digests -= set(result.digests)
                queue.waiting.extendleft(reversed(sent.shards))
            else:
                self._pending_count -= len(sent.shards)
            self._send(queue)
            self._changed.notify_all()
        if not isinstance(result, MissingWeights):
            for pending, product in zip(sent.shards, result, strict=True):
                pending.future.set_result(product)

    # --- failures --------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """End the run: all pending shards fail, and all lights go off at once."""
        with self._changed:
            cluster = self.cluster
            if self._error is not None or cluster is None:
                return
            self._error, run = error, self.run_name
            addresses = [queue.address for queue in self._queues if not queue.is_lost]
        self._fail_pending(error)
        Thread(target=self._end_run, args=(cluster, addresses, run), daemon=True).start()

    def _fail_pending(self, error: BaseException) -> None:
        """Fail all pending shards."""
        with self._changed:
            self.run_name, pending = "", []
            for queue in self._queues:
                for sent in queue.sent:
                    pending += sent.shards
                    sent.task.release()
                pending += queue.waiting
                queue.sent.clear()
                queue.waiting.clear()
            self._pending_count = 0
            self._changed.notify_all()
        for shard in pending:
            if not shard.future.done():
                shard.future.set_exception(error)

    def _watch(self, cluster: Cluster, stop: Event) -> None:
        """Check for lost workers, until the run is over."""
        while not stop.wait(_WATCH_PERIOD_S):
            try:
                present = cluster.present()
            except WorkersLost as error:
                self._fail(error)
                return
            for queue in self._queues:
                if not queue.is_lost and queue.address not in present:
                    self._lose_worker(queue)

    def _lose_worker(self, queue: _BenchQueue) -> None:
        """Move the shards of a lost worker to the others."""
        with self._changed:
            if self._error is not None:
                return
            queue.is_lost = True
            repeated = [shard for sent in queue.sent for shard in sent.shards]
            for sent in queue.sent:
                sent.task.release()
            moved = [*repeated, *queue.waiting]
            present = [other for other in self._queues if not other.is_lost]
            if present:
                queue.sent.clear()
                queue.waiting.clear()
                for index, shard in enumerate(reversed(moved)):
                    # first in the queue: they have waited longest
                    present[index % len(present)].waiting.appendleft(shard)
                self.repeated += len(repeated)
                self._loss_remarks.append(
                    f"the worker of bench {queue.number} ({queue.name}) was lost; {len(repeated)} "
                    "shards that it had were run again on the others"
                )
                for other in present:
                    self._send(other)
        if self._paths:
            self._loss_remarks.append(_switch_off(queue))
        if not present:
            self._fail(WorkersLost("the workers of all benches are lost"))


def _switch_off(queue: _BenchQueue) -> str:
    """Switch off the light of a lost process of this machine, and return a remark about it."""
    try:
        with load_bench(queue.offered.path):
            return f"the light of bench {queue.number} was switched off from here"
    except LightloomError as error:
        return f"check the light of bench {queue.number}, it cannot be switched off here: {error}"


def _checked(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of workers by address; raise the first error among them."""
    for address, result in found.items():
        if isinstance(result, Failure):
            raise InputError(f"the worker {address}: {result.sentence}")
        if isinstance(result, Exception):
            raise result
    return dict(found)


def _bench_error(path: str, sentence: str) -> LightloomError:
    return InstrumentError(sentence if path in sentence else f"{path}: {sentence}")


def _release_plugin() -> Any:
    """Return a Dask plugin that makes the bench of a worker safe when the worker stops."""
    dask = import_extra("distributed", "cluster", "work on a cluster of workers")

    class ReleaseBench(dask.WorkerPlugin):  # type: ignore[misc, name-defined]
        def teardown(self, worker: Any) -> None:
            bench_worker.release()

    return ReleaseBench()
