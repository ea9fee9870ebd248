"""The bench that a worker holds: opened once, kept open between shares, safe at the end.

These functions run in a worker of a cluster; `remote` sends them there. The bench file is that of
the environment variable LIGHTLOOM_BENCH, or what a cluster of this machine was handed. Light goes
off when a run ends, when the worker ends, and when nobody has multiplied for a minute: perhaps who
began the run is gone.
"""

from __future__ import annotations

import os
import platform
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

VARIABLE = "LIGHTLOOM_BENCH"
IDLE_S = 60.0  # until the light goes off when nobody multiplies
_KEPT_BYTES = 1 << 30  # of weights as they came; encoded they take some times that


@dataclass(frozen=True)
class Shard:
    """A share of a product on its way to a worker.

    Parameters
    ----------
    digest : of the weights
    weights : float32 [m, M, K]; None where the worker should have them
    """

    digest: str
    weights: np.ndarray | None
    ranges: Ranges | None
    x: np.ndarray
    at: Address
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Missing:
    """Weights that a worker has not, or not any more; nothing was multiplied."""

    digests: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """Which bench a worker holds, before it is opened."""

    path: str
    claims: Claims


@dataclass(frozen=True)
class OpenedBench:
    """What is known of a bench once it is open."""

    profile: OpticsProfile
    geometry: Geometry
    timing: ShotTiming
    is_mock: bool
    is_calibrated: bool
    description: Mapping[str, Any]


@dataclass(frozen=True)
class BenchNotes:
    """What a bench says of a run: remarks, and why shots were repeated."""

    remarks: tuple[str, ...]
    faults: Mapping[str, int]


class _Bench:
    """The open bench of this process.

    Parameters
    ----------
    runs : those that have opened it and have not ended
    """

    def __init__(self, path: str, uncalibrated: bool) -> None:
        self.path, self.uncalibrated = path, uncalibrated
        self.backend = BenchBackend(load_bench(path), uncalibrated)
        self.runs: set[str] = set()
        self.turn = Lock()  # of the task that holds it
        self._kept: OrderedDict[str, PreparedWeights] = OrderedDict()
        self._bytes = 0

    def keep(self, share: Shard) -> None:
        """Prepare weights that came with a share."""
        if share.weights is None or share.digest in self._kept:
            return
        self._kept[share.digest] = self.backend.prepare(share.weights, ranges=share.ranges)
        self._bytes += share.weights.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= 4 * int(np.prod(oldest.shape))

    def weights(self, digest: str) -> PreparedWeights | None:
        """Return weights, and remember that they were used."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._kept.get(digest)


_handed: list[str] = []
_bench: _Bench | None = None
_ended: set[str] = set()
_idle: Timer | None = None
_lock = RLock()  # of these


# ------------------------------------------------------------------------------ asked at any time


def hand(path: str) -> None:
    """Name the bench file of this process, where nothing else does."""
    _handed[:] = [path]


def look() -> Held:
    """Read the file of this worker's bench; nothing is connected.

    Raises
    ------
    InputError : when there is none, or it cannot be used
    """
    path = _path()
    return Held(path, Claims.of(read_bench_file(path), platform.node()))


def tell() -> BenchNotes:
    """Return what the bench says of its run so far."""
    with _lock:
        if _bench is None:
            return BenchNotes((), {})
        return BenchNotes(tuple(_bench.backend.remarks), dict(_bench.backend.faults))


def end(run: str) -> BenchNotes:
    """End a run: its shares multiply no more, and the light goes off unless another run has it."""
    with _lock:
        _ended.add(run)
        told = tell()
        if _bench is not None:
            _bench.runs.discard(run)
            if not _bench.runs:
                release()
    return told


def held() -> BenchBackend | None:
    """Return the open bench of this process; None where it holds none."""
    with _lock:
        return None if _bench is None else _bench.backend


def release() -> None:
    """Make the bench safe and let it go; harmless when there is none."""
    global _bench
    with _lock:
        _rest(None)
        held, _bench = _bench, None
        if held is not None:
            held.backend.close()


def _path() -> str:
    path = _handed[0] if _handed else os.environ.get(VARIABLE, "")
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
    with _turn(run, uncalibrated) as held:
        backend = held.backend
        return OpenedBench(
            backend.profile,
            backend.geometry,
            backend.timing,
            backend.is_mock,
            backend.is_calibrated,
            backend.describe(),
        )


def multiply(run: str, uncalibrated: bool, shares: Sequence[Shard]) -> list[MatmulResult] | Missing:
    """Multiply shares on the bench, one after another without a gap."""
    with _turn(run, uncalibrated) as held:
        for share in shares:
            held.keep(share)
        weights = [held.weights(share.digest) for share in shares]
        gone = {s.digest for s, w in zip(shares, weights, strict=True) if w is None}
        if gone:
            return Missing(tuple(gone))
        begun = [
            held.backend.begin(share.x, w, share.at, None, share.details)
            for share, w in zip(shares, weights, strict=True)
        ]
        return [finish() for finish in begun]


@contextmanager
def _turn(run: str, uncalibrated: bool) -> Iterator[_Bench]:
    """Hold the open bench for a task of a run; it is closed when the run has ended meanwhile."""
    held = _enter(run, uncalibrated)
    if not held.turn.acquire(blocking=False):
        raise InputError(f"two tasks want {held.path} at once: start the worker with one bench")
    try:
        held.backend.open()
        _ = held.backend.profile  # its report tells of a bench that knows it
        yield held
    except BaseException:
        with _lock:
            if held is _bench:
                release()
        raise
    finally:
        held.turn.release()
        with _lock:
            if held is not _bench:  # what began after the end has opened it again
                held.backend.close()
            else:
                _rest(held)


def _enter(run: str, uncalibrated: bool) -> _Bench:
    global _bench
    with _lock:
        if run in _ended:
            raise NotConnected(f"{_path()}: the run has ended before this share of it")
        _rest(None)
        if _bench is None:
            _bench = _Bench(_path(), uncalibrated)
        if _bench.uncalibrated != uncalibrated:
            raise InputError(f"{_bench.path} is in use by a run that differs in --uncalibrated")
        _bench.runs.add(run)
        return _bench


def _rest(held: _Bench | None) -> None:
    """Let the light go off in a while, unless something is multiplied; None: not any more."""
    global _idle
    if _idle is not None:
        _idle.cancel()
    _idle = None
    if held is not None:
        _idle = Timer(IDLE_S, _is_idle, (held,))
        _idle.daemon = True
        _idle.start()


def _is_idle(held: _Bench) -> None:
    with _lock:
        if held is _bench and not held.turn.locked():
            release()
