"""`Recorder`: the interface to a journal, and the records that a bench gives to it.

A job is taken in segments. Once the last shot of a segment has been checked, no shot is pending and
the segment is recorded. A resumed run skips recorded segments, and gives the same bits as a run
that was never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..base import Stats

QUALITY = ("brightness", "dark", "peak", "checksum", "attempts")
"""Columns of the quality of a segment: brightness over that of calibration (NaN if not measured),
deviation of the dark pixels from calibration, in sigma of their mean (NaN without a camera), the
brightest sample over full scale, the largest |z| of the tile's checksums (NaN without any), and the
number of exposures of the shot."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a bench between two shots, while no shot is pending.

    Parameters
    ----------
    shots : exposures of the bench since it was opened
    counters : of the shot plan: numbers of the latest input and weight frame, shots since the last
        reference, references
    tracker : state of the brightness filter; None without a filter
    """

    shots: int
    counters: dict[str, int]
    tracker: dict[str, float] | None


@dataclass(frozen=True)
class Kept:
    """The recorded shots of a job.

    Parameters
    ----------
    done : number of recorded planned shots, references included, from the first one
    electrons : without references, in the order of the plan, float64 [n, slots]
    stats : of these shots
    state : of the bench after them
    """

    done: int
    electrons: np.ndarray
    stats: Stats
    state: Checkpoint


@dataclass(frozen=True)
class Segment:
    """Finished shots of a job that are recorded together.

    The input sum of a weight frame may reject segments that are already recorded. They are taken
    again, and recorded again with the same `first` and `done`: the later record counts.

    Parameters
    ----------
    job : its name
    first, done : number of the first planned shot, and of the first one after the segment
    is_last : whether the job is complete
    electrons : without references, in the order of the plan, float64 [n, slots]
    quality : one row per planned shot, references included, one column per `QUALITY`, float32
    stats : of this segment alone
    state : of the bench after the segment
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
    """A fault and its recovery; every retry has such a note.

    Parameters
    ----------
    at_s : time.time()
    kind : as the table [faults] of a bench file names it
    device : the faulty device; "" if unknown
    shot : its name
    attempt : number of earlier failures of the shot
    recovery : such as "retry"
    detail : message of the device or of the check
    lost_s : time on the bench's clock, for the exposure and the recovery
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
        """Return the recorded shots of a job; None for a new job."""

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the latest checkpoint of jobs whose names begin with `of`; None without any."""

    def keep(self, segment: Segment) -> None:
        """Record a segment; it is on disk soon, or on return if writing is slow."""

    def forget(self, job: str, number: int) -> None:
        """Delete the segments of a job that hold shots after the planned shot of this number.

        They were recorded before a reference shot rejected their brightness.
        """

    def note(self, fault: FaultNote) -> None:
        """Record a fault."""


class OfBench:
    """The recorder of one of several benches, which adds its name to all names in their journal.

    Parameters
    ----------
    name : unique name of the bench
    """

    def __init__(self, journal: Recorder, name: str) -> None:
        self._journal, self._name = journal, f"{name}/"

    def known(self, job: str) -> Kept | None:
        """Return the recorded shots of a job; None for a new job."""
        return self._journal.known(self._name + job)

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the latest checkpoint of this bench; None if there is none."""
        return self._journal.last(self._name + of)

    def keep(self, segment: Segment) -> None:
        """Record a segment."""
        self._journal.keep(replace(segment, job=self._name + segment.job))

    def forget(self, job: str, number: int) -> None:
        """Delete the segments of a job after a planned shot."""
        self._journal.forget(self._name + job, number)

    def note(self, fault: FaultNote) -> None:
        """Record a fault."""
        self._journal.note(replace(fault, shot=self._name + fault.shot))
