"""What a bench tells a journal, and what it asks of it; the journal itself lives upstairs.

A job is taken in segments. When the last shot of a segment has been judged, nothing is on its way
and no number of it will change: that is when it is kept. A run that goes on later skips what is
kept, and gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..base import Stats

QUALITY = ("brightness", "dark", "peak", "checksum", "attempts")
"""Columns of a segment's figures of quality: light over that of calibration (NaN where it was not
measured), dark pixels off what calibration says, in sigma of their mean (NaN without a camera),
the brightest sample over a full one, the largest |z| of the tile's checksums (NaN without any),
and how often the shot was taken."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a bench stands between two shots, when nothing is on its way.

    Parameters
    ----------
    shots : exposures of the bench since it was opened
    counters : of the plan of shots: numbers of the latest input and weight frame, shots since the
        last reference, references
    tracker : state of the filter that follows the light; None where there is none
    """

    shots: int
    counters: dict[str, int]
    tracker: dict[str, float] | None


@dataclass(frozen=True)
class Kept:
    """What is kept of a job.

    Parameters
    ----------
    done : planned shots, references included, from the first one
    electrons : of those that are no references, in the order of the plan, float64 [n, slots]
    stats : of them
    state : of the bench behind them
    """

    done: int
    electrons: np.ndarray
    stats: Stats
    state: Checkpoint


@dataclass(frozen=True)
class Segment:
    """Shots of a job that are finished for good.

    A sum over all inputs of a weight frame may find segments wrong that were kept already; they are
    taken again, and kept again with the same `first` and `done`: the later one of them counts.

    Parameters
    ----------
    job : its name
    first, done : number of the first planned shot, and of the one behind the last
    is_last : whether the job is complete
    electrons : without references, in the order of the plan, float64 [n, slots]
    quality : a row a planned shot, references included, a column for each of `QUALITY`, float32
    stats : of this segment alone
    state : of the bench behind it
    """

    job: str
    first: int
    done: int
    is_last: bool
    electrons: np.ndarray
    quality: np.ndarray
    stats: Stats
    state: Checkpoint


@dataclass(frozen=True)
class FaultNote:
    """A fault, and what was done about it: nothing is retried in silence.

    Parameters
    ----------
    at_s : time.time()
    kind : as the table [faults] of a bench file names it
    device : that is to blame; "" where nobody knows
    shot : its name
    attempt : how often it had failed before
    recovery : such as "retry"
    detail : what the device, or the check, said
    lost_s : of the bench's clock, for the exposure and the recovery
    """

    at_s: float
    kind: str
    device: str
    shot: str
    attempt: int
    recovery: str
    detail: str
    lost_s: float


class Recorder(Protocol):
    """A journal; called in the order of a bench's shots, by the thread that takes them."""

    def known(self, job: str) -> Kept | None:
        """Return what is kept of a job; None for a new one."""

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the state after what was kept latest, of jobs whose names begin so; else None."""

    def keep(self, segment: Segment) -> None:
        """Keep a segment; it is on disk soon, or before this comes back where that takes long."""

    def forget(self, job: str, number: int) -> None:
        """Forget segments of a job that hold shots behind the planned one of this number.

        They were kept, and then what was to say that their light was right said that it was not.
        """

    def note(self, fault: FaultNote) -> None:
        """Note a fault."""


class OfBench:
    """What one of several benches keeps in the journal of all: its name is before every other.

    Parameters
    ----------
    name : of the bench, told apart from the others'
    """

    def __init__(self, journal: Recorder, name: str) -> None:
        self._journal, self._name = journal, f"{name}/"

    def known(self, job: str) -> Kept | None:
        """Return what is kept of a job; None for a new one."""
        return self._journal.known(self._name + job)

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the state of this bench after what was kept of it latest."""
        return self._journal.last(self._name + of)

    def keep(self, segment: Segment) -> None:
        """Keep a segment."""
        self._journal.keep(replace(segment, job=self._name + segment.job))

    def forget(self, job: str, number: int) -> None:
        """Forget segments of a job behind a planned shot."""
        self._journal.forget(self._name + job, number)

    def note(self, fault: FaultNote) -> None:
        """Note a fault."""
        self._journal.note(replace(fault, shot=self._name + fault.shot))
