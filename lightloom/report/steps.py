"""Where the operations and the time of a run went: what its table shows, on any medium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..instruments.formatting import format_count, format_duration

PLACES = {"optical": 0, "host": 1, "convert": 2}  # order of rows: where a step runs


@dataclass(frozen=True)
class StepTable:
    """The texts of a table with a row for each kind of step.

    Parameters
    ----------
    rows : kind, where, and figures; "optical" above "host" above "convert"
    total : the last row
    shares : kind -> for this machine, and for the bench where it has one: share of the time
    note : where the figures come from
    """

    heads: tuple[str, ...]
    rows: list[list[str]]
    total: list[str]
    shares: list[tuple[str, list[tuple[float, str]]]]
    note: str

    @property
    def has_bench(self) -> bool:
        """Whether times of a bench stand beside those of this machine."""
        return "bench" in self.heads


def step_table(steps: Sequence[Mapping[str, Any]], profile: str | None) -> StepTable:
    """Return the table of a report's steps.

    Parameters
    ----------
    steps : as a report's JSON holds them
    profile : that the times of the bench come from
    """
    ordered = sorted(steps, key=lambda step: PLACES.get(step["where"], len(PLACES)))
    has_bench = any(step["seconds_bench"] is not None for step in steps)
    sides = ("seconds_here", "seconds_bench") if has_bench else ("seconds_here",)
    whole = {side: sum(step[side] or 0.0 for step in steps) for side in sides}
    operations = sum(s["operations"] for s in steps if s["where"] != "convert") or 1
    rows, shares = [], []
    for step in ordered:
        share = f"{step['operations'] / operations:.1%}"
        if step["where"] == "convert":
            share = f"({format_count(step['operations'])})"
        macs = format_count(step["macs"]) if step["macs"] else ""
        times = [(step[s] or 0.0, (step[s] or 0.0) / (whole[s] or 1.0)) for s in sides]
        cells = [text for time_s, part in times for text in _time_cells(time_s, part)]
        rows.append([step["kind"], step["where"], macs, share, *cells])
        shares.append((step["kind"], [(part, format_duration(time_s)) for time_s, part in times]))
    total = ["all", "", format_count(sum(s["macs"] for s in steps)), "100%"]
    total += [text for side in sides for text in _time_cells(whole[side], None)]
    heads = ("step", "where", "MACs", "operations", "here", "share")
    more = ("bench", "share") if has_bench else ()
    return StepTable((*heads, *more), rows, total, shares, _note(profile if has_bench else None))


def _time_cells(time_s: float, share: float | None) -> tuple[str, str]:
    return format_duration(time_s), "100%" if share is None else f"{share:.1%}"


def _note(profile: str | None) -> str:
    told = "Here: measured on this machine, for what ran here. "
    if profile is not None:
        told += (
            f"Bench: predicted, light from the profile {profile}, host steps as measured here, "
            "nothing overlapped. "
        )
    return f"{told}In brackets: samples converted."


def format_quality(metric: str, value: float) -> str:
    """Return a figure of quality: shares in per cent, the rest with four digits."""
    return f"{value:.2%}" if metric == "accuracy" or "agreement" in metric else f"{value:.4g}"
