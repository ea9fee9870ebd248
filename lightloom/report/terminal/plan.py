"""A plan, as tables: its steps, what decided where they go, and what is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from ...instruments.formatting import format_counted
from ...scheduler.runs.tables import plan_summary, plan_tables, plan_title
from .console import show_tables

if TYPE_CHECKING:
    from ...scheduler.runs import Plan


def show_plan(where: Console, planned: Plan) -> None:
    """Print a plan, layer by layer; equal layers once."""
    where.print(f"\n{escape(plan_title(planned))}", style="bold")
    sizes = planned.passes[0][0]
    where.print(
        f"first pass: batch {sizes['batch']}, {format_counted(sizes['new'], 'token')}; "
        f"{format_counted(len(planned.passes), 'pass', 'passes')} in all"
    )
    show_tables(where, plan_tables(planned))
    for sentence in plan_summary(planned):
        where.print(escape(sentence))
