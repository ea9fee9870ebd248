"""The account of energy of a run, or of one or more benches, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...instruments.formatting import format_number, format_quantity
from ..account import (
    CROSSOVER_HEADS,
    CROSSOVER_TITLE,
    SCOPES,
    STEP_TITLE,
    baseline_heads,
    baseline_rows,
    category_rows,
    converter_rows,
    crossover_rows,
    influence_heads,
    influence_rows,
    per_token,
    sizes,
    step_heads,
    step_rows,
)
from .console import new_table

_BAR = 30  # characters


def show_energy(where: Console, document: Mapping[str, Any]) -> None:
    """Print the accounts of `lightloom energy`."""
    where.print(f"\n[bold]{escape(document['model'])}[/]: {escape(sizes(document))}")
    where.print(f"placement {escape(document['placement'])}; predicted, nothing was run")
    for account in document["accounts"]:
        where.print(f"\nbench profile [bold]{escape(account['profile'])}[/]", end="")
        sets = account["constant_sets"]
        where.print(f", constants {escape(', '.join(sets))}" if sets else "")
        _show_figures(where, account)
        for table in (_steps, _baselines, _influences, _crossovers):
            where.print(table(account))
        _show_converters(where, account)
        _show_assumed(where, account)


def show_run_energy(where: Console, account: Mapping[str, Any]) -> None:
    """Print the account of a run, with the time of the digital run beside it."""
    here = [item["seconds"] for item in account["baselines"] if item["name"] == "this-machine"]
    bench = per_token(account, account["seconds"]["all"], "s")
    digital = f", {per_token(account, here[0], 's')} digitally here (measured)" if here else ""
    where.print(f"time per {account['unit']}: {bench} on the bench (predicted){digital}")
    _show_figures(where, account)


def _show_figures(where: Console, account: Mapping[str, Any]) -> None:
    """Print the three figures, and where joules go."""
    each = account["joules_per_token"]
    figures = ", ".join(
        f"{name} [bold]{format_quantity(each[scope], 'J')}[/]" for scope, name in SCOPES.items()
    )
    where.print(f"energy per {account['unit']}: {figures}")
    table = new_table("", f"per {account['unit']}", "share", "", numbers=(1, 2))
    for name, energy, share in category_rows(account):
        bar = "█" * max(round(_BAR * share), 1 if share > 0.005 else 0)
        table.add_row(name, energy, f"{share:.1%}", bar)
    where.print(table)


def _steps(account: Mapping[str, Any]) -> Table:
    table = new_table(*step_heads(account), numbers=range(2, 7), title=STEP_TITLE)
    *rows, total = step_rows(account)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total)
    return table


def _baselines(account: Mapping[str, Any]) -> Table:
    table = new_table(
        *baseline_heads(account),
        numbers=range(1, 6),
        wrapped=(0,),
        title="Beside digital machines: their energy over the bench's (above 1 the light wins)",
        caption="optical products and light alone: over the same products done digitally",
    )
    for title, *figures in baseline_rows(account):
        table.add_row(escape(title), *figures)
    return table


def _influences(account: Mapping[str, Any]) -> Table:
    heads = influence_heads(account)
    table = new_table(
        *heads,
        numbers=range(1, len(heads)),
        wrapped=range(len(heads)),
        title="What decides it: the system's energy against each constant, alone",
        caption="1 % more of the constant: energy up by so many %. "
        "Right: its factor to break even; - where no value does",
    )
    for row in influence_rows(account):
        table.add_row(*row)
    return table


def _crossovers(account: Mapping[str, Any]) -> Table:
    table = new_table(*CROSSOVER_HEADS, title=CROSSOVER_TITLE)
    for row in crossover_rows(account):
        table.add_row(*row)
    return table


def _show_converters(where: Console, account: Mapping[str, Any]) -> None:
    rates, unit = account["tokens_per_s"], account["unit"]
    wanted = rates["wanted"] or rates["one_bench"]
    if not wanted:
        return
    why = "wanted" if rates["wanted"] else "what one bench reaches, one step after another"
    where.print(f"converters for {format_number(wanted)} {unit}s a second ({why}):")
    for kind, samples, count, each, power in converter_rows(account):
        where.print(f"  {kind}: {samples} samples a second, so {count} at {each}, {power}")
    if rates["wanted"]:
        where.print(f"  and {format_number(account['benches'])} such benches")


def _show_assumed(where: Console, account: Mapping[str, Any]) -> None:
    used = {name: item for name, item in account["constants"].items() if item["influence"]}
    recalled = [name for name, item in used.items() if item["recalled"]]
    for what, names in (
        ("assumed, since the profile gives none", [n for n in account["assumed"] if n in used]),
        ("recalled, not looked up", recalled),
    ):
        values = (
            f"{name} = {format_quantity(used[name]['value'], used[name]['unit'])}" for name in names
        )
        if names:
            where.print(f"[yellow]note:[/] {what}: {escape(', '.join(values))}")
