"""`ShardQueues`: the shards of a run, sent to the benches of workers.

Shards that wait for the same bench are sent together, so that neither light nor the network waits
for each. Weights are sent to a worker once. Shards that a lost worker had not finished run on the
other benches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import Condition, Event, RLock, Thread
from typing import Any

from ...backends import MatmulResult
from ...backends.bench import load_bench
from ...instruments import LightloomError, NotConnected
from . import bench_worker
from .bench_worker import BenchNotes, MissingWeights, Shard, ShardWeights
from .connection import NEEDS, BenchConnection, RemoteBench, bench_error
from .workers import Failure, WorkersLost

_TASKS_PER_WORKER = 2  # one multiplies, one waits beside it
_SHARDS_PER_TASK = 16  # at most
_SHARDS_PER_BENCH = 32  # pending ones; `add` waits beyond
_WATCH_PERIOD_S = 0.5  # between checks for lost workers


@dataclass(frozen=True)
class PendingShard:
    """A shard whose result is awaited."""

    shard: Shard
    future: Future[MatmulResult] = field(default_factory=Future)


@dataclass(eq=False)
class _SentTask:
    """A task, and its shards."""

    shards: list[PendingShard]
    task: Any = None


@dataclass(eq=False)
class _BenchQueue:
    """One bench, and the shards that wait for it.

    Parameters
    ----------
    sent_digests : of weights that were sent there
    """

    bench: RemoteBench
    waiting: deque[PendingShard] = field(default_factory=deque)
    sent: list[_SentTask] = field(default_factory=list)
    sent_digests: set[str] = field(default_factory=set)
    is_lost: bool = False

    def take_all(self) -> tuple[list[PendingShard], list[PendingShard]]:
        """Remove and return all shards: those that were sent, and those that wait."""
        for sent in self.sent:
            sent.task.release()
        shards = [shard for sent in self.sent for shard in sent.shards], list(self.waiting)
        self.sent.clear()
        self.waiting.clear()
        return shards


class ShardQueues:
    """Distributes the shards of a run until it fails or is closed.

    Parameters
    ----------
    connection : to the benches
    is_local : whether the workers are processes of this machine; then the light of a lost one is
        switched off from here

    Attributes
    ----------
    repeated : number of shards that ran again because their worker was lost
    remarks : on workers that were lost
    error : that ended the run; None without one
    """

    def __init__(self, connection: BenchConnection, uncalibrated: bool, is_local: bool) -> None:
        self.connection, self._uncalibrated = connection, uncalibrated
        self._is_local = is_local
        self._queues = [_BenchQueue(bench) for bench in connection.benches]
        self.repeated = 0
        self.remarks: list[str] = []
        self.error: BaseException | None = None
        self._pending_count = self._next_priority = 0
        self._changed = Condition(RLock())  # a task may be finished when its callback is added
        self._closed = Event()
        Thread(target=self._watch, name="lightloom-watch", daemon=True).start()

    @property
    def _present(self) -> list[_BenchQueue]:
        """The queues of benches whose workers are not lost."""
        return [queue for queue in self._queues if not queue.is_lost]

    def notes(self) -> dict[str, BenchNotes]:
        """Return the notes of present benches by address; the last ones once the run is over."""
        return self.connection.notes([queue.bench for queue in self._present])

    def add(self, shards: Sequence[PendingShard]) -> None:
        """Add the shards of a product, one for each bench; wait while too many are pending.

        Raises
        ------
        NotConnected : when the run is over, or the error that ended it
        """
        most = _SHARDS_PER_BENCH * len(self._queues)
        with self._changed:
            self._changed.wait_for(lambda: self._pending_count < most or self._closed.is_set())
            if self._closed.is_set():
                raise self.error or _closed()
            for index, shard in enumerate(shards):
                self._queue_of(index).waiting.append(shard)
            self._pending_count += len(shards)
            for queue in self._queues:
                self._send(queue)

    def close(self) -> None:
        """Take no more shards; pending ones fail with the error that ended the run, if any."""
        error = self.error or _closed()
        with self._changed:
            self._closed.set()
            taken = [shards for queue in self._queues for shards in queue.take_all()]
            self._pending_count = 0
            self._changed.notify_all()
        for shard in chain(*taken):
            if not shard.future.done():
                shard.future.set_exception(error)

    # --- sending and receiving -------------------------------------------------------------------

    def _queue_of(self, index: int) -> _BenchQueue:
        """Return the bench of a shard: always the same one, until it is lost."""
        queue = self._queues[index]
        if not queue.is_lost:
            return queue
        return self._present[index % len(self._present)]

    def _send(self, queue: _BenchQueue) -> None:
        """Send shards that wait for a bench, while its worker has few tasks."""
        while queue.waiting and len(queue.sent) < _TASKS_PER_WORKER:
            count = min(len(queue.waiting), _SHARDS_PER_TASK)
            sent = _SentTask([queue.waiting.popleft() for _ in range(count)])
            queue.sent.append(sent)
            self._next_priority -= 1  # first in, first out
            sent.task = self.connection.cluster.submit(
                bench_worker.multiply,
                self.connection.run,
                self._uncalibrated,
                [self._shard_for(queue, pending.shard) for pending in sent.shards],
                needs=NEEDS,
                worker=queue.bench.address,
                priority=self._next_priority,
            )
            sent.task.add_done_callback(lambda _, sent=sent: self._receive(queue, sent))

    def _shard_for(self, queue: _BenchQueue, shard: Shard) -> Shard:
        """Return a shard to be sent, without its weights if the worker has them."""
        weights = shard.weights
        if weights.digest in queue.sent_digests:
            return replace(shard, weights=ShardWeights(weights.digest, None, None))
        queue.sent_digests.add(weights.digest)
        return shard

    def _receive(self, queue: _BenchQueue, sent: _SentTask) -> None:
        """Receive the result of a task."""
        with self._changed:
            if sent not in queue.sent:  # its worker was lost, or the run is over
                return
        try:
            result = self.connection.cluster.result(sent.task)
        except Exception as error:  # a bug in the worker, or the cluster is gone
            self._fail(error)
            return
        if isinstance(result, Failure):
            self._fail(bench_error(queue.bench.offered.path, result))
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

    # --- failures and lost workers ---------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """End the run: all pending shards fail, and all lights go off at once."""
        with self._changed:
            if self.error is not None or self._closed.is_set():
                return
            self.error = error
        self.close()
        benches = [queue.bench for queue in self._present]
        Thread(target=self.connection.end_run, args=(benches,), daemon=True).start()

    def _watch(self) -> None:
        """Check for lost workers, until the run is over."""
        while not self._closed.wait(_WATCH_PERIOD_S):
            try:
                present = self.connection.cluster.present()
            except WorkersLost as error:
                self._fail(error)
                return
            for queue in self._queues:
                if not queue.is_lost and queue.bench.address not in present:
                    self._lose_worker(queue)

    def _lose_worker(self, queue: _BenchQueue) -> None:
        """Move the shards of a lost worker to the others."""
        bench = queue.bench
        with self._changed:
            if self._closed.is_set():
                return
            queue.is_lost = True
            others = self._present
            if others:
                sent, waiting = queue.take_all()
                for index, shard in enumerate(reversed([*sent, *waiting])):
                    # first in the queue: they have waited longest
                    others[index % len(others)].waiting.appendleft(shard)
                self.repeated += len(sent)
                self.remarks.append(
                    f"the worker of bench {bench.number} ({bench.name}) was lost; {len(sent)} "
                    "shards that it had were run again on the others"
                )
                for other in others:
                    self._send(other)
        if self._is_local:
            self.remarks.append(_switch_off(bench))
        if not others:
            self._fail(WorkersLost("the workers of all benches are lost"))


def _closed() -> NotConnected:
    return NotConnected("the benches were closed before this product was done")


def _switch_off(bench: RemoteBench) -> str:
    """Switch off the light of a lost process of this machine, and return a remark about it."""
    try:
        with load_bench(bench.offered.path):
            return f"the light of bench {bench.number} was switched off from here"
    except LightloomError as error:
        return f"check the light of bench {bench.number}, it cannot be switched off here: {error}"
