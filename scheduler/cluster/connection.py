"""`BenchConnection`: the open benches of a cluster's workers, during one run.

Every worker offers one bench as a resource (see `bench_worker`), so one task at a time uses it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from ...backends.bench import check_together
from ...instruments import InputError, InstrumentError, LightloomError
from ...instruments.errors import import_extra
from . import bench_worker
from .bench_worker import BenchNotes, OfferedBench, OpenedBench
from .workers import Cluster, Failure, WorkersLost, open_workers

RESOURCE = "bench"
NEEDS = {RESOURCE: 1.0}
_POLL_S = 0.02  # between checks, while the benches are opened


@dataclass(frozen=True)
class RemoteBench:
    """An open bench of a worker.

    Parameters
    ----------
    number : from 1
    address : of the worker
    """

    number: int
    address: str
    offered: OfferedBench
    opened: OpenedBench

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.offered.path} on {self.offered.claims.host}"


class BenchConnection:
    """The open benches of workers: made by `connect`, open until `close`.

    Parameters
    ----------
    cluster : of the workers
    run : identifies this run to the workers
    benches : in their order
    stack : closed at the end

    Attributes
    ----------
    is_open : False once it was closed
    """

    def __init__(
        self, cluster: Cluster, run: str, benches: Sequence[RemoteBench], stack: ExitStack
    ) -> None:
        self.cluster, self.run, self.benches = cluster, run, benches
        self.is_open = True
        self._stack = stack
        self._last_notes: dict[str, BenchNotes] = {}

    def close(self) -> None:
        """Switch all lights off, and release the workers; their notes stay."""
        self.is_open = False
        self.end_run(self.benches)
        self._stack.close()

    def end_run(self, benches: Sequence[RemoteBench]) -> None:
        """End the run on benches: their lights go off; keep their notes on it."""
        found = self._ask(benches, bench_worker.end_run, self.run)
        self._last_notes |= {address: n for address, n in found.items() if n != BenchNotes()}

    def notes(self, benches: Sequence[RemoteBench]) -> dict[str, BenchNotes]:
        """Return the notes of benches by address; once the connection is closed, the last ones."""
        return self._ask(benches, bench_worker.notes) if self.is_open else self._last_notes

    def _ask(
        self, benches: Sequence[RemoteBench], function: Callable[..., Any], *arguments: Any
    ) -> dict[str, BenchNotes]:
        """Return the notes that the workers of benches give, by address."""
        found = self.cluster.ask([bench.address for bench in benches], function, *arguments)
        return {address: notes for address, notes in found.items() if isinstance(notes, BenchNotes)}


def connect(paths: Sequence[str], address: str | None, uncalibrated: bool) -> BenchConnection:
    """Start or find the workers, check them, and open all benches; no frame is shown before.

    Parameters
    ----------
    paths : bench files; a process of this machine is started for each
    address : of a running Dask scheduler, where there are no paths

    Raises
    ------
    InputError : when the scheduler does not answer, no worker offers a bench, a worker has
        another version of lightloom, or the benches cannot multiply as one
    InstrumentError : when a bench does not answer
    """
    with ExitStack() as stack:
        workers = stack.enter_context(open_workers(len(paths), address, NEEDS))
        cluster = cast(Cluster, workers)
        offered = _offered_benches(cluster, paths)
        cluster.add_to_workers(_release_plugin(), "lightloom-bench")
        run = uuid.uuid4().hex
        try:
            benches = _open_benches(cluster, run, offered, uncalibrated)
        except BaseException:
            cluster.ask(list(offered), bench_worker.end_run, run)
            raise
        return BenchConnection(cluster, run, benches, stack.pop_all())


def _offered_benches(cluster: Cluster, paths: Sequence[str]) -> dict[str, OfferedBench]:
    """Return the benches of all workers that offer one, by the worker's address."""
    addresses = cluster.offering(RESOURCE)
    if not addresses:
        raise InputError(
            f"no worker of {cluster.name} offers a bench; start them so: "
            f"{bench_worker.VARIABLE}=bench.toml dask worker ADDRESS --resources bench=1"
        )
    for address, path in zip(addresses, paths, strict=False):
        cluster.ask([address], bench_worker.set_bench_file, path)
    offered = cluster.ask(addresses, bench_worker.describe_bench)
    for address, result in offered.items():
        if isinstance(result, Failure):
            raise InputError(f"the worker {address}: {result.sentence}")
        if isinstance(result, Exception):
            raise result
    if set(addresses) - offered.keys() or len(addresses) < len(paths):
        raise WorkersLost(f"{cluster.name}: a worker was lost before its bench was opened")
    check_together({f"{bench.path} of {a}": bench.claims for a, bench in offered.items()})
    return offered


def _open_benches(
    cluster: Cluster, run: str, offered: Mapping[str, OfferedBench], uncalibrated: bool
) -> list[RemoteBench]:
    """Open all benches at the same time."""
    tasks = {
        address: cluster.submit(
            bench_worker.open_bench, run, uncalibrated, needs=NEEDS, worker=address
        )
        for address in offered
    }
    opened: dict[str, OpenedBench] = {}
    while tasks:
        present = cluster.present()
        for address, task in list(tasks.items()):
            path = offered[address].path
            if task.done():
                result = cluster.result(tasks.pop(address))
                if isinstance(result, Failure):
                    raise bench_error(path, result)
                opened[address] = result
            elif address not in present:
                raise WorkersLost(f"the worker of {path} was lost at the start")
        time.sleep(_POLL_S)
    return [
        RemoteBench(number, address, bench, opened[address])
        for number, (address, bench) in enumerate(offered.items(), 1)
    ]


def bench_error(path: str, failure: Failure) -> LightloomError:
    """Return the error of a bench, with the name of its file."""
    sentence = failure.sentence
    return InstrumentError(sentence if path in sentence else f"{path}: {sentence}")


def _release_plugin() -> Any:
    """Return a Dask plugin that makes the bench of a worker safe when the worker stops."""
    dask = import_extra("distributed", "cluster", "work on a cluster of workers")

    class ReleaseBench(dask.WorkerPlugin):  # type: ignore[misc, name-defined]
        def teardown(self, worker: Any) -> None:
            bench_worker.release()

    return ReleaseBench()
