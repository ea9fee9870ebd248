"""`PendingShot`: a planned shot until its result is accepted; `JobState`: a job's progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..base import Stats
from .bench import Bench
from .decoding import DecodedShot, Frame
from .queue import Task
from .shot_plan import PlannedShot, TileJob


@dataclass
class PendingShot:
    """A planned shot with its frames, attempts and result.

    Parameters
    ----------
    stats : of its segment
    frames : encoded frames of this shot, only of the modulators whose frame changes
    attempts : number of exposures started
    recoveries_by_kind : number of recoveries, by kind of fault
    recoveries_by_name : number of recoveries, by name of the recovery
    began_s : start of the latest exposure
    darkness : `Bench.darkness` at that start; a different value means that the light was off since
    decoding : result of the latest exposure; None once it was checked
    depends_on_previous : its frame ids are unique only if the shots before it were correct
    decoded : the accepted result
    is_unsaved : the accepted result is not recorded yet
    """

    planned: PlannedShot
    stats: Stats
    frames: dict[str, Task[Frame]] = field(default_factory=dict)
    attempts: int = 0
    recoveries_by_kind: Counter[str] = field(default_factory=Counter)
    recoveries_by_name: Counter[str] = field(default_factory=Counter)
    began_s: float = 0.0
    darkness: int = 0
    decoding: Task[DecodedShot] | None = None
    depends_on_previous: bool = False
    decoded: DecodedShot | None = None
    is_unsaved: bool = True

    @property
    def name(self) -> str:
        """The name of the shot, without the attempt."""
        return f"{self.planned.job.name}/{self.planned.name}"

    def fail(self, error: BaseException) -> None:
        """Set the result of the latest exposure to an error."""
        self.decoding = Task.failed(error)

    def accept(self, decoded: DecodedShot) -> None:
        """Accept a result."""
        self.decoded, self.decoding = decoded, None


@dataclass
class JobState:
    """The progress of a job.

    Parameters
    ----------
    electrons : of accepted shots, [weight frames, input frames, slots]
    stats : one entry per finished segment
    shots : the shots after `next`
    open_segments : shots of the finished segments that a checksum or a reference shot can still
        reject, and of the present segment
    next : the next shot; None after the last
    """

    job: TileJob
    electrons: np.ndarray
    stats: list[Stats]
    shots: Iterator[PendingShot]
    open_segments: list[list[PendingShot]] = field(default_factory=list)
    next: PendingShot | None = None

    def advance(self) -> None:
        """Move to the next shot."""
        self.next = next(self.shots, None)

    @property
    def last_reference(self) -> int:
        """The number of the last accepted reference shot in open segments; -1 without any."""
        accepted = (
            pending.planned.number
            for segment in self.open_segments
            for pending in segment
            if pending.planned.is_reference and pending.decoded is not None
        )
        return max(accepted, default=-1)


def zero_stats() -> Stats:
    """Return the statistics of a segment that has not begun."""
    return Stats(seconds=dict.fromkeys(("encode", "product", "decode"), 0.0))


def add_slice(
    bench: Bench, track: str, name: str, start_s: float, end_s: float, planned: PlannedShot
) -> None:
    """Add an activity of a shot to the timeline of the bench, if it has one."""
    if bench.timeline is not None:
        details = planned.job.details
        end_s = max(end_s, start_s)
        bench.timeline.add(track, name, start_s, end_s, shot=planned.name, **details)
