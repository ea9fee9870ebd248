"""The accounts of energy of one or more benches, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...scheduler.energy.tables import account_tables, sizes_text
from .console import show_tables


def show_energy(where: Console, document: Mapping[str, Any]) -> None:
    """Print the accounts of `lightloom energy`."""
    where.print(f"\n[bold]{escape(document['model'])}[/]: {escape(sizes_text(document))}")
    where.print(f"placement {escape(document['placement'])}; predicted, nothing was run")
    for account in document["accounts"]:
        where.print(f"\nbench profile [bold]{escape(account['profile'])}[/]", end="")
        sets = account["constant_sets"]
        where.print(f", constants {escape(', '.join(sets))}" if sets else "")
        show_tables(where, account_tables(account))
