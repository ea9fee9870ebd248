"""Nodes, calls and records of a program's steps.

They are shared by executor, pipeline, prediction and energy account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backends import Stats
from .program import OpticalMatmul, Step

Node = tuple[int, int]
"""A step of the program and a micro-batch: (step, part)."""

Calls = Sequence[tuple[Mapping[str, int], int]]
"""Sizes of the calls of a program, and the number of calls of each size."""


class CallLog:
    """Counts of calls by their sizes, in memory that does not grow with tokens.

    Calls of one batch whose past grows by one token each, as in decoding, are kept as one run.
    Only the number of calls of each size matters, not which calls a run joins.
    """

    def __init__(self) -> None:
        # (batch, new) -> end of a run -> its first past -> number of runs
        self._runs: dict[tuple[int, int], dict[int, dict[int, int]]] = {}
        # the run of the last call is apart: a decoded token makes hundreds of them longer
        self._batch, self._new, self._first, self._end = 0, 0, 0, -1
        self._without_sizes = 0

    def count(self, sizes: Mapping[str, int]) -> None:
        """Count one more call; `sizes` are batch, new and past, or empty."""
        if not sizes:
            self._without_sizes += 1
            return
        batch, new, past = sizes["batch"], sizes["new"], sizes["past"]
        if past != self._end or batch != self._batch or new != self._new:
            self._keep_run()
            self._batch, self._new, self._first = batch, new, past
        self._end = past + 1

    def _keep_run(self) -> None:
        """Join the run of the last call to the end of another one, or keep it as a new one."""
        if self._end < 0:
            return
        runs, first = self._runs.setdefault((self._batch, self._new), {}), self._first
        ending = runs.get(first)
        if ending:
            end, first = first, next(reversed(ending))
            if ending[first] == 1:
                del ending[first]
                if not ending:
                    del runs[end]
            else:
                ending[first] -= 1
        longer = runs.setdefault(self._end, {})
        longer[first] = longer.get(first, 0) + 1

    def __iter__(self) -> Iterator[tuple[dict[str, int], int]]:
        """Iterate over (sizes, number of calls); a size may occur more than once."""
        if self._without_sizes:
            yield {}, self._without_sizes
        for past in range(self._first, self._end):
            yield {"batch": self._batch, "new": self._new, "past": past}, 1
        for (batch, new), runs in self._runs.items():
            for end, firsts in runs.items():
                for first, times in firsts.items():
                    for past in range(first, end):
                        yield {"batch": batch, "new": new, "past": past}, times


@dataclass
class StepRecord:
    """Time and events of one step on this machine, summed over its calls."""

    step: Step
    optical: bool
    log: CallLog = field(default_factory=CallLog)
    seconds: float = 0.0
    stats: Stats = field(default_factory=Stats)

    @property
    def calls(self) -> list[tuple[dict[str, int], int]]:
        """Sizes of its calls, and the number of calls of each size."""
        return list(self.log)

    def add(self, sizes: Mapping[str, int], seconds: float, stats: Stats | None = None) -> None:
        """Add one more call with these sizes, its time and its events."""
        self.log.count(sizes)
        self.seconds += seconds
        if stats is not None:
            self.stats.add(stats)


def signature(step: Step, optical: bool) -> tuple[Any, ...]:
    """Return a key: steps with equal keys have the same events, for equal sizes and profile."""
    if isinstance(step, OpticalMatmul):
        return (optical, step.x_shape, step.w_shape, step.dynamic, step.non_negative)
    return (optical, step.step, step.in_shapes, step.out_shapes)
