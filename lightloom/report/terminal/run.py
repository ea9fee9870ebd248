"""The report of a run, as tables."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...instruments.formatting import format_number
from ..steps import format_quality, step_table
from .console import new_table
from .energy import show_run_energy

if TYPE_CHECKING:
    from ...scheduler.runs import Report

_MOST_SENTENCES = 20  # whose similarities are shown


def show_report(where: Console, result: Report) -> None:
    """Print a run's report."""
    mark = " [bold yellow]MOCK[/]" if result.is_mock else ""
    mark += "" if result.is_calibrated else " [bold red]NOT CALIBRATED[/]"
    where.print(f"\n[bold]{escape(result.model)}[/] on the {result.backend} backend{mark}")
    if result.profile is not None:
        where.print(
            f"bench profile [bold]{escape(result.profile)}[/]"
            + (f": {escape(result.profile_title)}" if result.profile_title else "")
        )
        where.print(f"placement {escape(result.placement)}")
    show_quality(where, result)
    here, bench = result.throughput["here"], result.throughput["bench"]
    unit = result.throughput["unit"]
    where.print(f"throughput: {format_number(here)} {unit} (measured here)", end="")
    where.print("" if bench is None else f", {format_number(bench)} on the bench (predicted)")
    where.print(_step_table(result))
    stats = result.stats
    if stats.shots:
        where.print(
            f"events of this run ({result.backend}): {stats.shots:,} shots, "
            f"{stats.weight_frames:,} weight frames, {stats.conversions:,} conversions, "
            f"{format_number(stats.photons)} photoelectrons, {stats.saturated:,} saturated"
        )
    if result.energy is not None:
        show_run_energy(where, result.energy)
    for remark in result.remarks:
        where.print(f"[yellow]note:[/] {escape(remark)}")


def show_quality(where: Console, result: Report) -> None:
    """Print how good a result is: its text, its figure, or similarities."""
    found = result.quality
    sides = [side for side in ("digital", "optical") if found[side] is not None]
    if found["metric"] == "text":
        for side in sides:
            where.print(f"\n[bold]{side}:[/] ", end="")
            where.print(found[side], markup=False, soft_wrap=True)
        where.print()
        return
    if result.task != "embed" or found["optical"] is not None:
        metric = found["metric"]
        figures = (f"{side} [bold]{format_quality(metric, found[side])}[/]" for side in sides)
        where.print(f"{metric}: {', '.join(figures)}")
    if result.task == "embed":
        similarity = result.results["cosine_similarity"]
        table = Table("", *(f"{column + 1}" for column in range(len(similarity))))
        for row, values in enumerate(similarity[:_MOST_SENTENCES]):
            table.add_row(f"{row + 1}", *(f"{value:.3f}" for value in values[:_MOST_SENTENCES]))
        where.print("cosine similarity of the sentences")
        where.print(table)


def _step_table(result: Report) -> Table:
    shown = step_table([vars(step) for step in result.steps], result.profile)
    table = new_table(
        *shown.heads,
        numbers=range(2, len(shown.heads)),
        title="Where operations and time go",
        caption=shown.note,
    )
    for row, following in pairwise([*shown.rows, shown.total]):
        table.add_row(*row, end_section=row[1] != following[1])
    table.add_row(*shown.total)
    return table
