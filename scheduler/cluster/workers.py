"""Workers that run tasks: this process, processes of this machine, or a Dask cluster elsewhere.

`open_workers` opens them, and checks them before it sends anything: the scheduler answers, it has
workers, and each has this version of lightloom. A task is a function of a module, with arguments
that may be other tasks; results are returned as they finish. A task that a user's mistake ended
returns a `Failure`, and so do the tasks that needed it; other exceptions are raised. Dask runs the
tasks of a lost worker elsewhere. Not here: what tasks do.
"""

import logging
import platform
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from ...instruments import InputError, LightloomError
from ...instruments.errors import import_extra
from ...instruments.safety import signals
from ...instruments.version import VERSION

START_S = 120.0  # time-out for processes of this machine to start
ANSWER_S = 5.0  # time-out for a scheduler to answer, and to have its first worker
PATIENCE_S = 60.0  # that a cluster may be without any worker, as while one is restarted
_PURPOSE = "work on a cluster of workers (--workers 0 does without)"
_POLL_S = 1.0
_CLOSE_S = 20.0
_ADDRESS = re.compile(
    r"(?P<scheme>tcp://|tls://)?(?P<host>[^\s:/]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,6})"
)

# Dask makes glibc return freed memory at once; the pages of frames would fault in for each shot
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 1 << 27, "MALLOC_MMAP_THRESHOLD_": 1 << 25}

# sent to every worker as text, so that one without lightloom, or with another, can answer too
_VERSIONS = """{
    "lightloom": __import__("lightloom").__version__,
    "Python": __import__("platform").python_version(),
    "numpy": __import__("numpy").__version__,
}"""


class WorkersLost(LightloomError):
    """The scheduler, or its last worker, is gone while tasks were left."""


@dataclass(frozen=True)
class Failure:
    """The result of a task that a user's mistake ended: one sentence."""

    sentence: str


class _LocalTask:
    """A task of this process, run when its result is first asked for."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments

    @cached_property
    def result(self) -> Any:
        values = [a.result if isinstance(a, _LocalTask) else a for a in self._arguments]
        return _run(VERSION, self._function, *values)


class Workers:
    """Runs tasks in this process, one after another; a `Cluster` runs them in others."""

    name = "this process"
    count = 0
    remarks: Sequence[str] = ()

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        needs: Mapping[str, float] | None = None,
    ) -> Any:
        """Return a task: function(*arguments), where an argument may be a task.

        Parameters
        ----------
        needs : resources that the task occupies on its worker, such as {"bench": 1}
        """
        return _LocalTask(function, arguments)

    def finished(self, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Return (index, result) of tasks as they finish; a result may be a `Failure`.

        Tasks that are left when the caller stops iterating are not run.

        Raises
        ------
        WorkersLost : when no worker is left to run them
        """
        for index, task in enumerate(tasks):
            yield index, task.result


@contextmanager
def open_workers(
    count: int,
    address: str | None = None,
    offers: Mapping[str, float] | None = None,
) -> Iterator[Workers]:
    """Open workers, and check them; closed, they leave no process behind.

    Parameters
    ----------
    count : processes of this machine, of one thread each; 0 takes this process. They communicate
        over TLS with keys of this call, on loopback alone
    address : of a running Dask scheduler, whose workers are used instead
    offers : resources of each process of this machine; see `Workers.submit`

    Raises
    ------
    InputError : when the scheduler does not answer or has no workers, or a worker has another
        version of lightloom
    MissingExtraError : when Dask is not installed
    """
    if address is None and not count:
        yield Workers()
        return
    _dask()
    config = import_extra("dask.config", "cluster", _PURPOSE)
    with ExitStack() as stack:
        _silence_dask(stack)
        # arguments of a task may be large: weights, images
        stack.enter_context(config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}))
        if address is None:
            name = f"{count} processes of this machine"
            client = _start(stack, count, offers)
        else:
            name = f"the Dask cluster at {address}"
            client = _connect(stack, address)
        threads = _wait_for_workers(client, name)
        remarks = _check_versions(client)
        shared = sum(number > 1 for number in threads.values())
        if shared:
            remarks.append(
                f"{shared} workers run several tasks at once, so the tasks slow each other down"
            )
        yield Cluster(client, name, len(threads), remarks)


# ---------------------------------------------------------------------------------- a cluster


class Cluster(Workers):
    """Runs tasks on the workers of a Dask client.

    A task may be pinned to a worker, and functions may be called in workers beside their tasks.
    """

    def __init__(self, client: Any, name: str, count: int, remarks: Sequence[str]) -> None:
        self._client = client
        self.name = name
        self.count = count
        self.remarks = remarks

    @property
    def address(self) -> str:
        """The address on which the scheduler of the cluster listens."""
        return str(self._client.scheduler.address)

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        needs: Mapping[str, float] | None = None,
        worker: str | None = None,
        priority: int = 0,
    ) -> Any:
        """Return a task, as `Workers.submit`.

        Parameters
        ----------
        worker : address of the only one that may run it
        priority : tasks of a higher one run first
        """
        key = f"{function.__name__}-{uuid.uuid4().hex}"  # unique: Dask shares results by key
        return self._client.submit(
            _run,
            VERSION,
            function,
            *arguments,
            key=key,
            resources=needs,
            workers=None if worker is None else [worker],
            priority=priority,
        )

    def finished(self, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Return (index, result) of tasks as they finish, as `Workers.finished`."""
        left = dict(enumerate(tasks))
        done: SimpleQueue[int] = SimpleQueue()
        for index, task in left.items():
            task.add_done_callback(lambda _, index=index: done.put(index))
        alone_since = None
        try:
            while left:
                try:
                    index = done.get(timeout=_POLL_S)
                except Empty:
                    alone_since = self._check_alive(alone_since)
                    continue
                task = left.pop(index)
                while task.status == "lost":  # its worker ended with the result: run it elsewhere
                    time.sleep(_POLL_S / 10)
                    alone_since = self._check_alive(alone_since)
                yield index, self.result(task)
                task.release()
        finally:
            for task in left.values():
                task.release()

    def result(self, task: Any) -> Any:
        """Return the result of a task, once it is done; it may be a `Failure`."""
        if task.status in ("cancelled", "lost"):
            raise WorkersLost(f"{self.name} is gone")
        try:
            return task.result()
        except (CancelledError, OSError):  # lost since the check above
            raise WorkersLost(f"{self.name} is gone") from None
        except _dask().scheduler.KilledWorker:
            return Failure("every worker that ran it ended; it may need more memory")

    def offering(self, name: str) -> list[str]:
        """Return the addresses of workers that offer a resource, sorted."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return sorted(a for a, worker in workers.items() if worker["resources"].get(name, 0) >= 1)

    def present(self) -> set[str]:
        """Return the addresses of all workers that are connected now.

        Raises
        ------
        WorkersLost : when the scheduler is gone
        """
        try:
            if self._client.status == "running":
                return set(self._client.nthreads())
        except (OSError, TimeoutError):
            pass
        raise WorkersLost(f"{self.name} is gone: its scheduler does not answer any more")

    def ask(
        self, workers: Sequence[str], function: Callable[..., Any], *arguments: Any
    ) -> dict[str, Any]:
        """Call a function in workers at once, beside the tasks that they run.

        Returns
        -------
        dict : address -> result, `Failure` or exception; workers that do not answer are left out
        """

        def call() -> dict[str, Any]:
            present = self.present()  # Dask would wait long for others
            asked = [address for address in workers if address in present]
            call = _run, VERSION, function, *arguments
            found = self._client.run(*call, workers=asked, on_error="return") if asked else {}
            return {address: found[address] for address in asked}

        try:
            return _call_in_thread(call, ANSWER_S * 4)
        except (OSError, RuntimeError, WorkersLost):  # no answer in time; the client is closed
            return {}

    def add_to_workers(self, plugin: Any, name: str) -> None:
        """Add a Dask plugin to every worker, and to those that connect later."""
        self._client.register_plugin(plugin, name=name)

    def _check_alive(self, alone_since: float | None) -> float | None:
        """Return the time since which the cluster has had no workers; None when it has some.

        Raises
        ------
        WorkersLost : when that is longer than `PATIENCE_S`
        """
        if self.present():
            return None
        now = time.monotonic()
        if alone_since is not None and now - alone_since > PATIENCE_S:
            raise WorkersLost(f"{self.name} has had no workers for {PATIENCE_S:.0f} s")
        return alone_since or now


def _run(version: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task in its worker."""
    if version != VERSION:  # a worker that connected later
        place = platform.node()
        return Failure(f"a worker on {place} has lightloom {VERSION}, not {version}")
    for argument in arguments:
        if isinstance(argument, Failure):
            return argument
    try:
        return function(*arguments)
    except LightloomError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure(f"there is not enough memory for it on {platform.node()}")


def _dask() -> Any:
    return import_extra("distributed", "cluster", _PURPOSE)


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the process that started this worker; Dask calls this in each worker."""
    for name in ("SIGINT", "SIGBREAK"):  # SIGBREAK: Ctrl-Break on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _start(stack: ExitStack, count: int, offers: Mapping[str, float] | None) -> Any:
    """Start processes of this machine, and return a client of their cluster."""
    dask = _dask()
    config = import_extra("dask.config", "cluster", _PURPOSE)
    servers = ("scheduler", "worker")
    settings: dict[str, Any] = {f"distributed.{server}.http.routes": [] for server in servers}
    settings |= {  # measurements for the dashboard take processor time
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "10s",
    }
    settings |= {f"distributed.nanny.pre-spawn-environ.{key}": n for key, n in _MEMORY.items()}

    def start() -> Any:
        with config.set(settings):
            return dask.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                security=True,
                silence_logs=logging.CRITICAL,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                resources=None if offers is None else dict(offers),
                preload=[__name__],
            )

    try:
        cluster = _call_in_thread(start, START_S)
    except (OSError, RuntimeError) as error:
        raise WorkersLost(f"cannot start {count} processes: {error}") from None
    stack.callback(_close, cluster)
    client = dask.Client(cluster, set_as_default=False)
    stack.callback(_close, client)
    return client


def _connect(stack: ExitStack, address: str) -> Any:
    """Return a client of a running scheduler."""
    dask = _dask()
    _check_reachable(address)
    try:
        client = _call_in_thread(
            lambda: dask.Client(address, timeout=ANSWER_S, set_as_default=False), 1.2 * ANSWER_S
        )
    except TimeoutError:  # Dask waits for ever for a server that accepts and does not answer
        raise InputError(
            f"the server at {address!r} does not answer as a Dask scheduler; check the address"
        ) from None
    except Exception as error:  # of many kinds: sockets, handshakes, certificates
        reason = " ".join(str(error).split())
        raise InputError(f"no Dask scheduler answers at {address!r}: {reason}") from None
    stack.callback(_close, client)
    return client


def _close(opened: Any) -> None:
    """Close a client or a cluster; busy processes are killed after some seconds."""
    with suppress(OSError):  # a time-out: the rest ends with this process
        opened.close(timeout=_CLOSE_S)


def _silence_dask(stack: ExitStack) -> None:
    """Keep Dask from logging errors that lightloom reports in a sentence."""
    for name in ("distributed", "distributed.client", "tornado.application"):
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)


def _call_in_thread(call: Callable[[], Any], seconds: float) -> Any:
    """Call a function in a thread of its own, and wait for it at most so long.

    Processes that it starts never see a Ctrl-C at the terminal, not even while they start.

    Raises
    ------
    TimeoutError : when it has not returned; its thread continues
    """
    found: Future[Any] = Future()

    def work() -> None:
        try:
            with signals.block_interrupts_in_children():
                found.set_result(call())
        except Exception as error:
            found.set_exception(error)

    thread = threading.Thread(target=work, name="open workers", daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < end:
        thread.join(_POLL_S)  # in short waits: a longer one cannot be interrupted on Windows
    if not found.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return found.result()


def _check_reachable(address: str) -> None:
    """Refuse addresses that would keep Dask trying, or leave it with a broken client."""
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not 0 < int(parts["port"]) < 1 << 16:
        raise InputError(f"--scheduler {address!r} is not an address such as tcp://10.0.0.1:8786")
    is_tls = parts["scheme"] == "tls://"
    if is_tls and _dask().Security().get_connection_args("client").get("ssl_context") is None:
        raise InputError(
            f"{address} needs certificates; name them in Dask's configuration, distributed.comm.tls"
        )
    try:
        host = parts["host"].strip("[]")
        socket.create_connection((host, int(parts["port"])), timeout=ANSWER_S).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"no Dask scheduler answers at {address!r}: {reason}") from None


def _wait_for_workers(client: Any, name: str) -> Mapping[str, int]:
    """Wait for the first worker, and return the threads of each."""
    try:
        client.wait_for_workers(1, timeout=ANSWER_S)
    except TimeoutError:
        raise InputError(f"{name} has no workers; start some: dask worker ADDRESS") from None
    threads: Mapping[str, int] = client.nthreads()
    return threads


def _check_versions(client: Any) -> list[str]:
    """Refuse workers with another lightloom; return remarks on another Python or numpy."""
    here = {"Python": platform.python_version(), "numpy": np.__version__}
    remarks = []
    for address, found in client.run(eval, _VERSIONS, on_error="return").items():
        if isinstance(found, Exception):
            raise InputError(
                f"the worker {address} cannot load lightloom ({found}); here it is {VERSION}: "
                "install the same there"
            )
        if found["lightloom"] != VERSION:
            raise InputError(
                f"the worker {address} has lightloom {found['lightloom']}, but here it is "
                f"{VERSION}: install the same there"
            )
        others = [f"{key} {found[key]}, not {here[key]}" for key in here if found[key] != here[key]]
        if others:
            remarks.append(
                f"the worker {address} has {' and '.join(others)}: "
                "its results may differ in their last bits"
            )
    return remarks
