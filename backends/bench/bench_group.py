"""`BenchGroup`: several benches of this process that multiply as one (see `sharding`).

A product starts on all of its benches at once. If one bench fails, all are made safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...instruments import Clock, InputError, LightloomError, Timeline
from ...instruments.addresses import canonical
from ..address import Address
from ..base import MatmulResult, PreparedWeights, Ranges
from .backend import BenchBackend
from .bench import load_bench
from .checkpoint import OfBench, Recorder
from .config import BenchFile, make_instrument
from .sharding import JointBackend, ShardedWeights, call_at_last, sum_of_faults


class _AllClocks(Clock):
    """The clocks of all benches: their latest time; a hold holds each of them."""

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


class BenchGroup(JointBackend):
    """Multiplies on several benches at once.

    Parameters
    ----------
    benches : at least two, of one encoding; each virtual clock has its own time

    Raises
    ------
    InputError : for benches that cannot share a product
    """

    def __init__(self, benches: Sequence[BenchBackend]) -> None:
        super().__init__()
        if len(benches) < 2:
            raise InputError(
                f"a group has two benches or more, not {len(benches)}; add another bench file"
            )
        self.benches = {f"bench {number}": bench for number, bench in enumerate(benches, 1)}
        check_together(
            {
                f"{name} ({bench.bench.path})": Claims.of(bench.bench.file)
                for name, bench in self.benches.items()
            }
        )
        self.is_mock = any(bench.is_mock for bench in benches)
        clocks = [bench.clock for bench in benches]
        self.clock = _AllClocks(clocks) if any(c.is_virtual for c in clocks) else clocks[0]
        self._timeline: Timeline | None = None
        self._recorder: Recorder | None = None

    # --- properties ------------------------------------------------------------------------------

    @property
    def _first(self) -> BenchBackend:
        return self.benches["bench 1"]

    @property
    def faults(self) -> dict[str, int]:  # type: ignore[override]
        """The number of retries on all benches, by kind of fault."""
        return sum_of_faults(bench.faults for bench in self.benches.values())

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of finished segments of all benches; None for none."""
        return self._recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        for name, bench in self.benches.items():
            bench.recorder = None if recorder is None else OfBench(recorder, name)

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether all benches are calibrated."""
        return all(bench.is_calibrated for bench in self.benches.values())

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """The remarks of every bench, with its number."""
        return tuple(
            f"{name}: {remark}" for name, bench in self.benches.items() for remark in bench.remarks
        )

    @property
    def timeline(self) -> Timeline | None:
        """The timeline that records time slices, with separate tracks for each bench."""
        return self._timeline

    @timeline.setter
    def timeline(self, timeline: Timeline | None) -> None:
        self._timeline = timeline
        for name, bench in self.benches.items():
            bench.timeline = None if timeline is None else timeline.within(name)

    def describe(self) -> Mapping[str, Any]:
        """Return the descriptions of all benches."""
        benches = [bench.describe() for bench in self.benches.values()]
        return {**super().describe(), "benches": benches}

    def journal_entry(self) -> dict[str, Any]:
        """Return the bench files, and whether a bench runs without calibration."""
        paths = [path for bench in self.benches.values() for path in bench.journal_entry()["paths"]]
        return {"kind": "bench", "paths": paths, "uncalibrated": not self.is_calibrated}

    @property
    def _identity(self) -> tuple[str, ...]:
        return tuple(bench.bench.path for bench in self.benches.values())

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Open all benches, at the same time."""
        with self._safe(), ThreadPoolExecutor(len(self.benches)) as pool:
            opening = [(bench, pool.submit(bench.open)) for bench in self.benches.values()]
            for bench, opened in opening:
                with _named(bench):
                    opened.result()
                    _ = bench.profile  # computed now, because a report does not open a bench

    def close(self) -> None:
        """Close all benches at the same time, so that no light waits for another bench."""
        with ThreadPoolExecutor(len(self.benches)) as pool:
            closing = [pool.submit(bench.close) for bench in self.benches.values()]
        for closed in closing:  # all benches were closed or tried
            closed.result()

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> ShardedWeights:
        stacked, sharding = self._stacked(weights, len(self.benches))
        shards = zip(self.benches.values(), sharding.weights(stacked, ranges), strict=False)
        return ShardedWeights(
            sharding, [bench.prepare(part, ranges=own) for bench, (part, own) in shards]
        )

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        sharded: ShardedWeights = w.content
        shards = sharded.sharding.operands(x, at)
        finish_shard = call_at_last(len(shards), done)
        begun = []
        with self._safe():
            for bench, weights, (part, address) in zip(
                self.benches.values(), sharded.weights, shards, strict=False
            ):
                with _named(bench):
                    finish = bench.begin(part, weights, address, finish_shard, details)
                begun.append((bench, finish))

        def finished() -> MatmulResult:
            results = []
            with self._safe():
                for bench, finish in begun:
                    with _named(bench):
                        results.append(finish())
            return sharded.sharding.joined(results)

        return finished

    @contextmanager
    def _safe(self) -> Iterator[None]:
        """Close all benches when one of them fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise


@contextmanager
def _named(bench: BenchBackend) -> Iterator[None]:
    """Name a bench's file in what it raises."""
    try:
        yield
    except LightloomError as error:
        if bench.bench.path in str(error):
            raise
        raise type(error)(f"{bench.bench.path}: {error}") from error


def open_benches(
    paths: Sequence[str | Path], uncalibrated: bool = False
) -> BenchBackend | BenchGroup:
    """Return the backend of bench files: one bench or a group of benches, not connected.

    Raises
    ------
    InputError : for benches that cannot share a product, or that claim the same instrument
    """
    benches = [BenchBackend(load_bench(path), uncalibrated) for path in paths]
    return benches[0] if len(benches) == 1 else BenchGroup(benches)


@dataclass(frozen=True)
class Claims:
    """The encoding that benches of a group must share, and the instruments that each must own.

    Parameters
    ----------
    kind : of the encoding
    addresses : of real instruments, by role
    devices : unique names of the devices on that computer, by role
    host : the computer that they are attached to
    """

    kind: str
    addresses: Mapping[str, str]
    host: str = ""
    devices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: BenchFile, host: str = "") -> Claims:
        """Return the claims of a bench file, without use of an instrument."""
        made = {role: make_instrument(role, table) for role, table in file.instruments.items()}
        addresses = {role: instrument.address for role, instrument in made.items()}
        devices = {role: instrument.device for role, instrument in made.items()}
        return cls(file.encoding.kind, addresses, host, devices)


def check_together(claims: Mapping[str, Claims]) -> None:
    """Refuse benches that cannot multiply as one.

    Parameters
    ----------
    claims : of each bench, by a name for messages

    Raises
    ------
    InputError : when their encodings differ, or two claim the same instrument
    """
    if len({one.kind for one in claims.values()}) > 1:
        each = ", ".join(f"{name} has {one.kind}" for name, one in claims.items())
        raise InputError(f"benches that share a product need the same encoding.kind, but {each}")
    held: dict[tuple[str, str], str] = {}
    for name, one in claims.items():
        for role, address in one.addresses.items():
            claim = one.host, one.devices.get(role) or canonical(address)
            if address and claim in held:
                raise InputError(
                    f"{name}: instruments.{role} at {address!r} is {held[claim]} already; "
                    "each bench has instruments of its own"
                )
            held[claim] = f"instruments.{role} of {name}"
