"""What is installed, and the constants of a profile, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ...backends import OpticsProfile


def show_installation(where: Console, found: Mapping[str, Any]) -> None:
    """Print what `lightloom doctor` found."""
    for key in ("lightloom", "python", "numpy", "blas", "machine", "threads", "mock_path"):
        where.print(f"{key.replace('_', ' '):<10} {found[key]}")
    extras = Table("extra", "packages")
    for name, packages in found["extras"].items():
        text = ", ".join(f"{p} {v or '[yellow]missing[/]'}" for p, v in packages.items())
        extras.add_row(name, text)
    where.print(extras)
    profiles = Table("profile", "what it is")
    for name, title in found["profiles"].items():
        profiles.add_row(name, title)
    where.print(profiles)


def show_profile(where: Console, shown: OpticsProfile) -> None:
    """Print a profile's constants, each with its source."""
    where.print(f"\n[bold]{escape(shown.name)}[/]: {escape(shown.title)}")
    table = Table("constant", "value", "source")
    for key, value in shown.model_dump(exclude={"name", "title", "sources", "years"}).items():
        source = shown.sources.get(key, "not given: ideal, unlimited or assumed default")
        table.add_row(key, "-" if value is None else f"{value}", escape(source))
    where.print(table)
