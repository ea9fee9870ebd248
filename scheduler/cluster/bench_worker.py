"""The bench of a worker: opened once, kept open between shards, made safe at the end.

These functions run in a worker of a cluster; `remote_benches` sends them there. The environment
variable LIGHTLOOM_BENCH names the bench file; workers that a cluster of this machine starts get it
by `set_bench_file`. The light goes off when a run ends, when the worker ends, and when no product
has run for a minute, since the process that began the run may be gone.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock, RLock, Timer
from typing import Any

import numpy as np

from ...backends import (
    Address,
    Geometry,
    MatmulResult,
    OpticsProfile,
    PreparedWeights,
    Ranges,
    ShotTiming,
)
from ...backends.bench import BenchBackend, Claims, load_bench, read_bench_file
from ...instruments import InputError, NotConnected
from ...instruments.old_words import OldWordWarning

VARIABLE = "LIGHTLOOM_BENCH"
IDLE_S = 60.0  # without a product, until the light goes off
_CACHE_BYTES = 1 << 30  # of weights as they were sent; encoded they take several times as much


@dataclass(frozen=True)
class ShardWeights:
    """The weights of a shard, and their digest.

    Parameters
    ----------
    array : float32 [m, M, K]; None, as the ranges, on the way to a worker that should have them
    """

    digest: str
    array: np.ndarray | None
    ranges: Ranges | None

    @classmethod
    def of(cls, array: np.ndarray, ranges: Ranges | None) -> ShardWeights:
        """Return weights with their digest."""
        array = np.ascontiguousarray(array)
        name = sha256(f"{array.shape}".encode())
        name.update(array.data)
        for part in () if ranges is None else (ranges.readout, ranges.weight):
            name.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        return cls(name.hexdigest(), array, ranges)


@dataclass(frozen=True)
class Shard:
    """A shard of a product, as it is sent to a worker."""

    weights: ShardWeights
    x: np.ndarray
    at: Address
    details: Mapping[str, Any]


@dataclass(frozen=True)
class MissingWeights:
    """Weights that a worker does not have; it multiplied nothing."""

    digests: tuple[str, ...]


@dataclass(frozen=True)
class OfferedBench:
    """The bench that a worker offers, before it is opened."""

    path: str
    claims: Claims


@dataclass(frozen=True)
class OpenedBench:
    """The properties of an open bench."""

    profile: OpticsProfile
    geometry: Geometry
    timing: ShotTiming
    is_mock: bool
    is_calibrated: bool
    description: Mapping[str, Any]


@dataclass(frozen=True)
class BenchNotes:
    """Notes of a bench on a run: remarks, and why shots were repeated."""

    remarks: tuple[str, ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict)


class _Bench:
    """The open bench of this process.

    Parameters
    ----------
    runs : those that have opened it and have not ended
    """

    def __init__(self, path: str, uncalibrated: bool) -> None:
        self.path, self.uncalibrated = path, uncalibrated
        with _without_remarks():
            self.backend = BenchBackend(load_bench(path), uncalibrated)
        self.runs: set[str] = set()
        self.task_lock = Lock()  # of the task that uses the bench
        self._cache: OrderedDict[str, PreparedWeights] = OrderedDict()
        self._cached_bytes = 0

    def cache(self, weights: ShardWeights) -> None:
        """Prepare the weights that were sent with a shard."""
        if weights.array is None or weights.digest in self._cache:
            return
        self._cache[weights.digest] = self.backend.prepare(weights.array, ranges=weights.ranges)
        self._cached_bytes += weights.array.nbytes
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= 4 * int(np.prod(oldest.shape))

    def weights(self, digest: str) -> PreparedWeights | None:
        """Return weights, and mark them as just used."""
        if digest in self._cache:
            self._cache.move_to_end(digest)
        return self._cache.get(digest)


_bench_file: list[str] = []
_bench: _Bench | None = None
_ended_runs: set[str] = set()
_idle_timer: Timer | None = None
_lock = RLock()  # of these


# ------------------------------------------------------------------ called while tasks are running


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Leave remarks on old words to the process that an operator sees."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldWordWarning)
        yield


def set_bench_file(path: str) -> None:
    """Set the bench file of this process; it comes before that of LIGHTLOOM_BENCH."""
    _bench_file[:] = [path]


def describe_bench() -> OfferedBench:
    """Read the file of this worker's bench; no instrument is connected.

    Raises
    ------
    InputError : when there is none, or it cannot be used
    """
    path = _path()
    with _without_remarks():
        return OfferedBench(path, Claims.of(read_bench_file(path), platform.node()))


def notes() -> BenchNotes:
    """Return the notes of the bench on its run so far."""
    with _lock:
        if _bench is None:
            return BenchNotes()
        return BenchNotes(tuple(_bench.backend.remarks), dict(_bench.backend.faults))


def end_run(run: str) -> BenchNotes:
    """End a run: no more of its shards run, and the light goes off unless another run uses it."""
    with _lock:
        _ended_runs.add(run)
        last_notes = notes()
        if _bench is not None:
            _bench.runs.discard(run)
            if not _bench.runs:
                release()
    return last_notes


def release() -> None:
    """Make the bench safe and close it; harmless when there is none."""
    global _bench
    with _lock:
        _restart_idle_timer(None)
        bench, _bench = _bench, None
        if bench is not None:
            bench.backend.close()


def _path() -> str:
    path = _bench_file[0] if _bench_file else os.environ.get(VARIABLE, "")
    if not path:
        raise InputError(
            f"a worker on {platform.node()} offers a bench, but its environment variable "
            f"{VARIABLE} names no bench file; set it and start the worker again"
        )
    return path


# ----------------------------------------------------------------- tasks, which need the resource


def open_bench(run: str, uncalibrated: bool) -> OpenedBench:
    """Open the bench of this worker for a run.

    Raises
    ------
    InputError : for a bench file that cannot be used
    InstrumentError : when an instrument does not answer, or the light is not as calibrated
    """
    with _task(run, uncalibrated) as bench:
        backend = bench.backend
        return OpenedBench(
            backend.profile,
            backend.geometry,
            backend.timing,
            backend.is_mock,
            backend.is_calibrated,
            backend.describe(),
        )


def multiply(
    run: str, uncalibrated: bool, shards: Sequence[Shard]
) -> list[MatmulResult] | MissingWeights:
    """Multiply shards on the bench, one after another without a gap."""
    with _task(run, uncalibrated) as bench:
        for shard in shards:
            bench.cache(shard.weights)
        digests = [shard.weights.digest for shard in shards]
        weights = [bench.weights(digest) for digest in digests]
        missing = {d for d, w in zip(digests, weights, strict=True) if w is None}
        if missing:
            return MissingWeights(tuple(missing))
        begun = [
            bench.backend.begin(shard.x, w, shard.at, None, shard.details)
            for shard, w in zip(shards, weights, strict=True)
        ]
        return [finish() for finish in begun]


@contextmanager
def _task(run: str, uncalibrated: bool) -> Iterator[_Bench]:
    """Lock the open bench for a task of a run; close it when the run has ended meanwhile."""
    bench = _bench_of(run, uncalibrated)
    if not bench.task_lock.acquire(blocking=False):
        raise InputError(f"two tasks want {bench.path} at once: start the worker with one bench")
    try:
        bench.backend.open()
        _ = bench.backend.profile  # computed now: a later report must not switch the light on
        yield bench
    except BaseException:
        with _lock:
            if bench is _bench:
                release()
        raise
    finally:
        bench.task_lock.release()
        with _lock:
            if bench is not _bench:  # a task that began after the end has opened it again
                bench.backend.close()
            else:
                _restart_idle_timer(bench)


def _bench_of(run: str, uncalibrated: bool) -> _Bench:
    global _bench
    with _lock:
        if run in _ended_runs:
            raise NotConnected(f"{_path()}: the run has ended before this shard of it")
        _restart_idle_timer(None)
        if _bench is None:
            _bench = _Bench(_path(), uncalibrated)
        if _bench.uncalibrated != uncalibrated:
            raise InputError(f"{_bench.path} is in use by a run that differs in --uncalibrated")
        _bench.runs.add(run)
        return _bench


def _restart_idle_timer(bench: _Bench | None) -> None:
    """Switch the light off after `IDLE_S` without a product; None stops the timer."""
    global _idle_timer
    if _idle_timer is not None:
        _idle_timer.cancel()
    _idle_timer = None
    if bench is not None:
        _idle_timer = Timer(IDLE_S, _release_idle, (bench,))
        _idle_timer.daemon = True
        _idle_timer.start()


def _release_idle(bench: _Bench) -> None:
    with _lock:
        if bench is _bench and not bench.task_lock.locked():
            release()
