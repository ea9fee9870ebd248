"""A journal in memory, whose process is killed after so many segments."""

from __future__ import annotations

import numpy as np
from lightloom.backends import Stats
from lightloom.backends.bench.checkpoint import Checkpoint, FaultNote, Kept, Segment


class Killed(BaseException):
    """A process that is killed."""


class Memory:
    """A journal in memory, whose process is killed after so many segments."""

    def __init__(self, most: int | None = None) -> None:
        self.segments: list[Segment] = []
        self.faults: list[FaultNote] = []
        self.most = most

    def known(self, job: str) -> Kept | None:
        """Return the kept shots of a job; the later one of two segments counts."""
        mine: dict[int, Segment] = {}
        for segment in self.segments:
            if segment.job == job:
                mine[segment.first] = segment
                state = segment.state
        if not mine:
            return None
        parts = [mine[first] for first in sorted(mine)]
        assert [part.first for part in parts] == [0, *(part.done for part in parts[:-1])]
        stats = Stats()
        for part in parts:
            stats.add(part.stats)
        electrons = np.concatenate([part.electrons for part in parts])
        return Kept(parts[-1].done, electrons, stats, state)

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the state of the latest segment."""
        named = [segment for segment in self.segments if segment.job.startswith(of)]
        return named[-1].state if named else None

    def forget(self, job: str, number: int) -> None:
        """Delete segments that turned out to be wrong."""
        self.segments = [s for s in self.segments if s.job != job or s.done <= number + 1]

    def keep(self, segment: Segment) -> None:
        """Keep a segment, or be killed."""
        if self.most is not None and len(self.segments) >= self.most:
            raise Killed
        self.segments.append(segment)

    def note(self, fault: FaultNote) -> None:
        """Keep a fault."""
        self.faults.append(fault)
