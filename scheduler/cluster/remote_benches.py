"""`RemoteBenches`: benches that multiply as one, each in a process of its own, here or elsewhere.

Every process is a Dask worker that holds one bench as a resource (see `bench_worker`), so that one
task at a time has it. A product is dealt out as `backends.dealing` says; shares that wait for the
same bench travel together, so that neither light nor the network waits for each. Weights go to a
worker once. What a lost worker had not finished is run on the other benches.
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
from .bench_worker import BenchNotes, Held, Missing, OpenedBench, Shard
from .workers import Cluster, Failure, WorkersLost, open_workers

RESOURCE = "bench"
_NEEDS = {RESOURCE: 1.0}
_SENT = 2  # tasks that a worker has: one multiplies, one waits beside it
_TOGETHER = 16  # shares that one task takes
_MOST = 32  # shares of a bench that are under way; `begin` waits beyond
_LOOK_S = 0.5  # between looks for lost workers
_CLOSED = "the benches were closed before this product was done"


@dataclass(frozen=True)
class _Weights:
    """The weights of a share, float32 [m, M, K], and their name."""

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
class _RemoteShards:
    dealing: Sharding
    weights: list[_Weights]


@dataclass(frozen=True)
class _Wanted:
    """A share that somebody waits for."""

    weights: _Weights
    x: np.ndarray
    at: Address
    details: Mapping[str, Any]
    future: Future[MatmulResult]


@dataclass(eq=False)
class _Sent:
    """A task, and the shares that it has."""

    wanted: list[_Wanted]
    task: Any = None


@dataclass(eq=False)
class _Lane:
    """One bench, and the way to it.

    Parameters
    ----------
    address : of the worker that holds it
    has : digests of weights that were sent there
    """

    number: int
    address: str
    held: Held
    opened: OpenedBench
    waiting: deque[_Wanted] = field(default_factory=deque)
    sent: list[_Sent] = field(default_factory=list)
    has: set[str] = field(default_factory=set)
    is_lost: bool = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.held.path} on {self.held.claims.host}"


class RemoteBenches(Backend):
    """Multiplies on benches of other processes.

    Parameters
    ----------
    paths : bench files; a process of this machine is started for each
    address : of a running Dask scheduler, whose workers that offer a bench are taken instead
    uncalibrated : run on a guess where a bench has no calibration

    Attributes
    ----------
    cluster : whose workers hold the benches; None while it is closed
    run_name : by which the workers know this run, from when it was opened on
    repeated : shares that were run again because their worker was lost

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
            raise InputError("want bench files, or the address of a Dask scheduler; not both")
        import_extra("distributed", "cluster", "work on a cluster of workers")
        if paths:
            open_benches(paths, uncalibrated)  # mistakes end here, before a process is started
        self._paths = [str(Path(path).resolve()) for path in paths]
        self._address, self._uncalibrated = address, uncalibrated
        self.run_name = ""
        self.cluster: Cluster | None = None
        self._stack = ExitStack()
        self._lanes: list[_Lane] = []
        self._told: dict[int, BenchNotes] = {}
        self._losses: list[str] = []
        self.repeated = 0
        self._under_way = self._order = 0
        self._error: BaseException | None = None
        self._changed = Condition(RLock())
        self._opening = RLock()
        self._is_over = Event()

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Start or find the workers, check them, and open all benches; nothing is shown before.

        Raises
        ------
        InputError : when the scheduler does not answer, no worker offers a bench, a worker has
            another version of lightloom, or the benches cannot multiply as one
        InstrumentError : when a bench does not answer
        """
        with self._opening:
            if self.cluster is not None:
                return
            self.run_name, self._is_over, self._error = uuid.uuid4().hex, Event(), None
            self._told, self._losses, self.repeated, self._under_way = {}, [], 0, 0
            stack = ExitStack()
            try:
                offers = {RESOURCE: 1.0}
                workers = stack.enter_context(open_workers(len(self._paths), self._address, offers))
                cluster = cast(Cluster, workers)
                held = self._found(cluster)
                cluster.add_to_workers(_safe_at_the_end(), "lightloom-bench")
                stack.callback(self._end, cluster, list(held), self.run_name)
                opened = self._opened(cluster, held)
            except BaseException:
                stack.close()
                raise
            self._lanes = [
                _Lane(number, address, held[address], opened[address])
                for number, address in enumerate(held, 1)
            ]
            self.is_mock = any(found.is_mock for found in opened.values())
            self._stack, self.cluster = stack, cluster
            Thread(
                target=self._watch,
                args=(cluster, self._is_over),
                name="lightloom-watch",
                daemon=True,
            ).start()

    def _found(self, cluster: Cluster) -> dict[str, Held]:
        """Find the benches of all workers that offer one, by the worker's address."""
        addresses = cluster.offering(RESOURCE)
        if not addresses:
            raise InputError(
                f"no worker of {cluster.name} offers a bench; start them so: "
                f"{bench_worker.VARIABLE}=bench.toml dask worker ADDRESS --resources bench=1"
            )
        for address, path in zip(addresses, self._paths, strict=False):
            cluster.ask([address], bench_worker.hand, path)
        found = _good(cluster.ask(addresses, bench_worker.look))
        missing = set(addresses) - found.keys()
        if missing or len(addresses) < len(self._paths):
            raise WorkersLost(f"{cluster.name}: a worker was lost before its bench was opened")
        check_together({f"{held.path} of {a}": held.claims for a, held in found.items()})
        return found

    def _opened(self, cluster: Cluster, held: Mapping[str, Held]) -> dict[str, OpenedBench]:
        """Open all benches at the same time."""
        left = {
            address: cluster.submit(
                *(bench_worker.open_bench, self.run_name, self._uncalibrated),
                needs=_NEEDS,
                worker=address,
            )
            for address in held
        }
        found: dict[str, OpenedBench] = {}
        wait = Event()
        while left:
            there = cluster.there()
            for address, task in list(left.items()):
                if task.done():
                    result = cluster.result(left.pop(address))
                    if isinstance(result, Failure):
                        raise _named(held[address].path, result.sentence)
                    found[address] = result
                elif address not in there:
                    raise WorkersLost(f"the worker of {held[address].path} was lost at the start")
            wait.wait(0.02)
        return found

    def close(self) -> None:
        """Switch all lights off, and let the workers go."""
        with self._opening:
            cluster, self.cluster = self.cluster, None
            if cluster is None:
                return
            self._is_over.set()
            self._give_up(NotConnected(_CLOSED))
            self._stack.close()

    def _end(self, cluster: Cluster, addresses: Sequence[str], run: str) -> None:
        """Have the workers end a run, and keep what they tell of it."""
        numbers = {lane.address: lane.number for lane in self._lanes}
        for address, told in cluster.ask(addresses, bench_worker.end, run).items():
            if isinstance(told, BenchNotes) and address in numbers and told != BenchNotes((), {}):
                self._told[numbers[address]] = told

    def warm_up(self) -> None:
        """Open the benches, and compile what is compiled, on each of them."""
        self.open()
        rows = len(self._lanes)
        x = np.ones((rows, 1), dtype=np.float32)
        self.matmul(x, x[:1], Address("warm up", np.arange(rows, dtype=np.uint64)))

    # --- what is known of them -------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """The address of each bench's worker, in order; lost ones too."""
        return [lane.address for lane in self._lanes]

    def _first(self) -> OpenedBench:
        if not self._lanes:
            self.open()
        return self._lanes[0].opened

    @property
    def profile(self) -> OpticsProfile:
        """The profile of the first bench; plans take the others to be like it."""
        return self._first().profile

    @property
    def geometry(self) -> Geometry:
        """What a frame of the first bench holds."""
        return self._first().geometry

    @property
    def timing(self) -> ShotTiming:
        """The times of the first bench."""
        return self._first().timing

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether all benches are."""
        return all(lane.opened.is_calibrated for lane in self._lanes)

    @property
    def faults(self) -> dict[str, int]:
        """Reason -> how often a shot was repeated for it, on any bench."""
        total: dict[str, int] = {}
        for told in self._tellings().values():
            for reason, count in told.faults.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Remarks of every bench, with its number, and on workers that were lost."""
        told = self._tellings()
        own = [
            f"bench {lane.number} ({lane.name}): {remark}"
            for lane in self._lanes
            for remark in told.get(lane.number, BenchNotes((), {})).remarks
        ]
        return (*own, *self._losses)

    def _tellings(self) -> dict[int, BenchNotes]:
        """Ask the benches what they have to tell; those that ended have told it."""
        cluster = self.cluster
        if cluster is None:
            return self._told
        lanes = {lane.address: lane.number for lane in self._lanes if not lane.is_lost}
        found = cluster.ask(list(lanes), bench_worker.tell)
        return {lanes[a]: told for a, told in found.items() if isinstance(told, BenchNotes)}

    def describe(self) -> Mapping[str, Any]:
        """Return what every bench says of itself."""
        benches = [{"worker": lane.address, **lane.opened.description} for lane in self._lanes]
        return {**super().describe(), "benches": benches}

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> _RemoteShards:
        self.open()
        stacked = weights.reshape(-1, *weights.shape[-2:])
        dealing = Sharding.of(stacked.shape, self.geometry, len(self._lanes))
        if dealing.by == "rows":
            return _RemoteShards(dealing, [_Weights.of(stacked, ranges)] * len(self._lanes))
        return _RemoteShards(
            dealing, [_Weights.of(*part) for part in dealing.weights(stacked, ranges)]
        )

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        if self._error is None:  # what has failed is opened again by `open` alone
            self.open()
        dealt: _RemoteShards = w.content
        shares = dealt.dealing.operands(x, at)
        wanted = [
            _Wanted(weights, part, address, details, Future())
            for weights, (part, address) in zip(dealt.weights, shares, strict=False)
        ]
        left = [len(wanted)]

        def one_is_done(_: Any) -> None:
            with self._changed:
                left[0] -= 1
                is_last = not left[0]
            if is_last:
                done()

        for share in wanted:
            share.future.add_done_callback(one_is_done)
        with self._changed:
            run, most = self.run_name, _MOST * len(self._lanes)
            self._changed.wait_for(lambda: self._under_way < most or self.run_name != run)
            if self._error is not None or self.run_name != run:
                raise self._error or NotConnected(_CLOSED)
            for index, share in enumerate(wanted):
                self._lane(index).waiting.append(share)
            self._under_way += len(wanted)
            for lane in self._lanes:
                self._send(lane)

        def finished() -> MatmulResult:
            try:
                results = [share.future.result() for share in wanted]
            except BaseException:
                self.close()
                raise
            return dealt.dealing.joined(results)

        return finished

    def _lane(self, index: int) -> _Lane:
        """Return the bench of a share: always the same one, while it is there."""
        lane = self._lanes[index]
        if not lane.is_lost:
            return lane
        there = [lane for lane in self._lanes if not lane.is_lost]
        return there[index % len(there)]

    def _send(self, lane: _Lane) -> None:
        """Send shares that wait for a bench, while its worker has little to do."""
        cluster = self.cluster
        while cluster is not None and lane.waiting and len(lane.sent) < _SENT:
            count = min(len(lane.waiting), _TOGETHER)
            sent = _Sent([lane.waiting.popleft() for _ in range(count)])
            lane.sent.append(sent)
            self._order -= 1  # first come, first served
            sent.task = cluster.submit(
                bench_worker.multiply,
                self.run_name,
                self._uncalibrated,
                [self._packed(wanted, lane) for wanted in sent.wanted],
                needs=_NEEDS,
                worker=lane.address,
                priority=self._order,
            )
            sent.task.add_done_callback(lambda _, sent=sent: self._arrived(cluster, lane, sent))

    def _packed(self, wanted: _Wanted, lane: _Lane) -> Shard:
        """Pack a share for its journey; its weights travel where they are not there yet."""
        weights, is_there = wanted.weights, wanted.weights.digest in lane.has
        lane.has.add(weights.digest)
        array = None if is_there else weights.array
        ranges = None if is_there else weights.ranges
        return Shard(weights.digest, array, ranges, wanted.x, wanted.at, wanted.details)

    def _arrived(self, cluster: Cluster, lane: _Lane, sent: _Sent) -> None:
        """Take what came of a task."""
        with self._changed:
            if sent not in lane.sent:  # its worker was lost, or the run is over
                return
        try:
            result = cluster.result(sent.task)
        except Exception as error:  # of a bug there, or the cluster is gone
            self._fail(error)
            return
        if isinstance(result, Failure):
            self._fail(_named(lane.held.path, result.sentence))
            return
        with self._changed:
            if sent not in lane.sent:
                return
            lane.sent.remove(sent)
            if isinstance(result, Missing):
                lane.has -= set(result.digests)
                lane.waiting.extendleft(reversed(sent.wanted))
            else:
                self._under_way -= len(sent.wanted)
            self._send(lane)
            self._changed.notify_all()
        if not isinstance(result, Missing):
            for wanted, product in zip(sent.wanted, result, strict=True):
                wanted.future.set_result(product)

    # --- failures --------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """End the run: nobody waits any longer, and all lights go off at once."""
        with self._changed:
            cluster = self.cluster
            if self._error is not None or cluster is None:
                return
            self._error, run = error, self.run_name
            addresses = [lane.address for lane in self._lanes if not lane.is_lost]
        self._give_up(error)
        Thread(target=self._end, args=(cluster, addresses, run), daemon=True).start()

    def _give_up(self, error: BaseException) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self.run_name, wanted = "", []
            for lane in self._lanes:
                for sent in lane.sent:
                    wanted += sent.wanted
                    sent.task.release()
                wanted += lane.waiting
                lane.sent.clear()
                lane.waiting.clear()
            self._under_way = 0
            self._changed.notify_all()
        for share in wanted:
            if not share.future.done():
                share.future.set_exception(error)

    def _watch(self, cluster: Cluster, is_over: Event) -> None:
        """Look for lost workers, until the run is over."""
        while not is_over.wait(_LOOK_S):
            try:
                there = cluster.there()
            except WorkersLost as error:
                self._fail(error)
                return
            for lane in self._lanes:
                if not lane.is_lost and lane.address not in there:
                    self._lose(lane)

    def _lose(self, lane: _Lane) -> None:
        """Return the shares of a lost worker to the others."""
        with self._changed:
            if self._error is not None:
                return
            lane.is_lost = True
            again = [wanted for sent in lane.sent for wanted in sent.wanted]
            for sent in lane.sent:
                sent.task.release()
            moved = [*again, *lane.waiting]
            there = [other for other in self._lanes if not other.is_lost]
            if there:
                lane.sent.clear()
                lane.waiting.clear()
                for index, wanted in enumerate(reversed(moved)):
                    # before what waits there: somebody has waited for them longer
                    there[index % len(there)].waiting.appendleft(wanted)
                self.repeated += len(again)
                self._losses.append(
                    f"the worker of bench {lane.number} ({lane.name}) was lost; {len(again)} "
                    "shares that it had were run again on the others"
                )
                for other in there:
                    self._send(other)
        if self._paths:
            self._losses.append(_made_safe(lane))
        if not there:
            self._fail(WorkersLost("the workers of all benches are lost"))


def _made_safe(lane: _Lane) -> str:
    """Switch off the light of a lost process of this machine, and say what came of it."""
    try:
        with load_bench(lane.held.path):
            return f"the light of bench {lane.number} was switched off from here"
    except LightloomError as error:
        return f"see to the light of bench {lane.number}, it cannot be switched off here: {error}"


def _good(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return results of workers by address; the first that is none is raised."""
    for address, result in found.items():
        if isinstance(result, Failure):
            raise InputError(f"the worker {address}: {result.sentence}")
        if isinstance(result, Exception):
            raise result
    return dict(found)


def _named(path: str, sentence: str) -> LightloomError:
    return InstrumentError(sentence if path in sentence else f"{path}: {sentence}")


def _safe_at_the_end() -> Any:
    """Return Dask plugin that makes the bench of a worker safe when the worker is told to stop."""
    dask = import_extra("distributed", "cluster", "work on a cluster of workers")

    class SafeAtTheEnd(dask.WorkerPlugin):  # type: ignore[misc, name-defined]
        def teardown(self, worker: Any) -> None:
            bench_worker.release()

    return SafeAtTheEnd()
