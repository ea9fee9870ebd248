"""The points of a sweep, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...instruments.formatting import format_counted, format_energy, format_number, format_value
from ...instruments.table import Cell, Column, Styled, Table
from ...scheduler.runs.tables import quality_figures
from .console import show_tables


def show_sweep(where: Console, document: Mapping[str, Any], remarks: Sequence[str]) -> None:
    """Print the points of a sweep as a table, and what to know about them."""
    points = document["points"]
    axes = _axes(points)
    fixed = [f"{key} {format_value(values[0])}" for key, values in axes.items() if len(values) == 1]
    varied = [key for key, values in axes.items() if len(values) > 1]
    count = format_counted(document["count"], "point")
    where.print(
        f"\n[bold]{count}[/] on the mock backend [bold yellow]MOCK[/]"
        + (f": {escape(', '.join(fixed))}" if fixed else "")
    )
    if points:
        show_tables(where, [_point_table(points, {key: axes[key] for key in varied})])
    for point in points:
        if point["status"] == "failed":
            where.print(f"[bold red]failed:[/] {escape(point['name'])}: {escape(point['error'])}")
    if document["impossible"]:
        first = document["impossible"][0]
        where.print(
            f"left out: {format_counted(len(document['impossible']), 'point')} that cannot be, "
            f"the first {escape(first['name'])}: {escape(first['why'])}"
        )
    all_remarks = [*remarks, *(remark for p in points for remark in p.get("remarks", ()))]
    where.print(
        "quality and events: computed here; here: measured, beside the work of all workers; "
        "bench and energy: predicted from each point's profile, host steps as measured here"
    )
    for remark in _grouped(all_remarks):
        where.print(f"note: {escape(remark)}")


def _axes(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return every value that each axis has, in order."""
    axes: dict[str, list[Any]] = {}
    for point in points:
        for key, value in _place(point).items():
            values = axes.setdefault(key, [])
            if value not in values:
                values.append(value)
    return axes


def _place(point: Mapping[str, Any]) -> dict[str, Any]:
    names = {"model": point["model"], "profile": point["profile"]}
    return {**names, **point["settings"], "seed": point["seed"]}


def _point_table(points: Sequence[Mapping[str, Any]], varied: Mapping[str, Sequence[Any]]) -> Table:
    done = [point for point in points if point["status"] == "done"]
    metrics = " or ".join(dict.fromkeys(point["quality"]["metric"] for point in done))
    units = " or ".join(dict.fromkeys(point["throughput"]["unit"] for point in done))
    of_energy = " or ".join(dict.fromkeys(point["energy"]["unit"] for point in done))
    columns = (
        *(_axis_column(key, values) for key, values in varied.items()),
        Column(f"{metrics or 'quality'}: digital", wraps=True),
        Column("optical", wraps=True),
        Column(f"{units or 'throughput'} here", form=format_number, wraps=True),
        Column("on the bench", form=format_number, wraps=True),
        Column(f"energy / {of_energy}, system", form=format_energy, wraps=True),
        Column("electrons / MAC", form=format_number, wraps=True),
    )
    rows = []
    for point in points:
        place = _place(point)
        names = [format_value(place[key]) if key in place else "" for key in varied]
        rows.append((*names, *_figures(point)))
    return Table("", columns, tuple(rows))


def _axis_column(key: str, values: Sequence[Any]) -> Column:
    """Return the column of an axis; a number stays on one line, and so does the name above it."""
    is_number = all(value is None or isinstance(value, int | float) for value in values)
    is_name = key in ("model", "profile")
    return Column(key, align="right" if is_number else "left", wraps=is_name)


def _figures(point: Mapping[str, Any]) -> tuple[Cell, ...]:
    if point["status"] != "done":
        return (Styled("failed", "bad"), *[""] * 5)
    quality, throughput, stats = point["quality"], point["throughput"], point["stats"]
    figures = dict(quality_figures(quality))
    return (
        figures.get("digital"),
        figures.get("optical"),
        throughput["here"],
        throughput["bench"],
        point["energy"]["joules_per_token"]["system"],
        stats["photons"] / stats["macs"] if stats["macs"] else None,
    )


def _grouped(remarks: Sequence[str]) -> list[str]:
    """Return remarks once; of those that differ only in numbers, the first and how many more."""
    found: dict[str, list[str]] = {}
    for remark in remarks:
        words = "".join("#" if letter.isdigit() else letter for letter in remark)
        found.setdefault(words.translate({ord(c): None for c in "#.,e-"}), []).append(remark)
    return [
        texts[0] + (f" (likewise at {len(texts) - 1} more)" if len(texts) > 1 else "")
        for texts in found.values()
    ]
