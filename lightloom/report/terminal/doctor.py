"""What is installed, and the constants of a profile, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from ...instruments.formatting import format_counted, format_field, format_quantity
from ...instruments.table import Cell, Column, Heads, Styled, Table, columns
from .console import show_tables

if TYPE_CHECKING:
    from ...backends import OpticsProfile

_PATHS = ("compiled_loops", "mock_path")
_NO_SOURCE = "not given: ideal, unlimited or assumed default"


def show_installation(where: Console, found: Mapping[str, Any]) -> None:
    """Print what `lightloom doctor` found."""
    tables = (
        _version_table(found),
        _extra_table(found["extras"]),
        _profile_table(found["profiles"]),
    )
    show_tables(where, tables)


def show_profile(where: Console, shown: OpticsProfile) -> None:
    """Print a profile's constants, each with its source."""
    where.print(f"\n[bold]{escape(shown.name)}[/]: {escape(shown.title)}")
    show_tables(where, [_constant_table(shown)])


def _version_table(found: Mapping[str, Any]) -> Table:
    shown = (Column("", align="left"), Column("", align="left", wraps=True))
    names = ("lightloom", "python", "numpy", "blas", "machine", "threads")
    rows = [(name.replace("_", " "), found[name]) for name in (*names, *_PATHS)]
    timed = ("integer products", _times_line(found["product_times_s"]))
    return Table("", shown, (*rows, timed, ("cache", _cache_line(found["cache"]))))


def _times_line(times: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(
        f"{rows} rows: "
        + ", ".join(f"{path} {format_quantity(seconds, 's')}" for path, seconds in found.items())
        for rows, found in times.items()
    )


def _cache_line(cache: Mapping[str, Any] | None) -> str:
    if cache is None:
        return "off"
    size, most = (format_quantity(cache[key], "B") for key in ("size_bytes", "most_bytes"))
    entries = format_counted(cache["entries"], "entry", "entries")
    return f"{entries}, {size} of at most {most}, in {cache['folder']}; --clear-cache empties it"


def _extra_table(extras: Mapping[str, Mapping[str, str | None]]) -> Table:
    heads = dict.fromkeys(("extra", "package", "version"), str)
    rows = [
        (extra, package, Styled("missing", "bad") if version is None else version)
        for extra, packages in extras.items()
        for package, version in packages.items()
    ]
    return Table("", columns(heads), tuple(rows))


def _profile_table(profiles: Mapping[str, str]) -> Table:
    heads: Heads = {"profile": str, "what it is": None}
    return Table("", columns(heads), tuple(profiles.items()))


def _constant_table(profile: OpticsProfile) -> Table:
    heads: Heads = {"constant": str, "value": "", "source": None}
    rows: list[tuple[Cell, ...]] = []
    for key, value in profile.model_dump(
        exclude={"name", "title", "sources", "years", "twin"}
    ).items():
        text = None if value is None else format_field(key, value)
        rows.append((key, text, profile.sources.get(key, _NO_SOURCE)))
    return Table("", columns(heads), tuple(rows))
