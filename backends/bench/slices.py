"""`add_slice`: add an activity of a shot to the timeline of a bench."""

from __future__ import annotations

from .bench import Bench
from .shot_plan import PlannedShot


def add_slice(
    bench: Bench, track: str, name: str, start_s: float, end_s: float, planned: PlannedShot
) -> None:
    """Add a slice to the timeline of the bench, if it has one."""
    if bench.timeline is not None:
        details = planned.job.details
        bench.timeline.add(track, name, start_s, max(end_s, start_s), shot=planned.name, **details)
