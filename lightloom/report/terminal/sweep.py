"""The points of a sweep, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...instruments.formatting import format_number, format_quantity
from .console import new_table


def show_sweep(where: Console, document: Mapping[str, Any], remarks: Sequence[str]) -> None:
    """Print the points of a sweep as a table, and what to know about them."""
    points = document["points"]
    axes = _axes(points)
    fixed = [f"{key} {_text(values[0])}" for key, values in axes.items() if len(values) == 1]
    varied = [key for key, values in axes.items() if len(values) > 1]
    where.print(
        f"\n[bold]{document['count']} points[/] on the mock backend [bold yellow]MOCK[/]"
        + (f": {escape(', '.join(fixed))}" if fixed else "")
    )
    if points:
        where.print(_table(points, varied))
    for point in points:
        if point["status"] == "failed":
            where.print(f"[bold red]failed:[/] {escape(point['name'])}: {escape(point['error'])}")
    if document["impossible"]:
        first = document["impossible"][0]
        where.print(
            f"left out: {len(document['impossible'])} points that cannot be, the first "
            f"{escape(first['name'])}: {escape(first['why'])}"
        )
    all_remarks = [*remarks, *(remark for p in points for remark in p.get("remarks", ()))]
    where.print(
        "quality and events: computed here; here: measured, while the other workers had work too; "
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


def _table(points: Sequence[Mapping[str, Any]], varied: Sequence[str]) -> Table:
    done = [point for point in points if point["status"] == "done"]
    metrics = list(dict.fromkeys(point["quality"]["metric"] for point in done))
    units = list(dict.fromkeys(point["throughput"]["unit"] for point in done))
    energies = list(dict.fromkeys(f"energy / {point['energy']['unit']}" for point in done))
    heads = (
        *map(escape, varied),
        f"{' or '.join(metrics) or 'quality'}: digital",
        "optical",
        f"{' or '.join(units) or 'throughput'} here",
        "on the bench",
        f"{' or '.join(energies) or 'energy'}, system",
        "electrons / MAC",
    )
    columns = range(len(heads))
    table = new_table(*heads, numbers=columns[len(varied) :], wrapped=columns)
    for point in points:
        place = _place(point)
        cells = [escape(_text(place[key])) if key in place else "" for key in varied]
        table.add_row(*cells, *(_figures(point) if point["status"] == "done" else ["[red]failed"]))
    return table


def _figures(point: Mapping[str, Any]) -> list[str]:
    quality, throughput, stats = point["quality"], point["throughput"], point["stats"]
    bench = throughput["bench"]
    return [
        _quality(quality["digital"]),
        _quality(quality["optical"]),
        format_number(throughput["here"]),
        "" if bench is None else format_number(bench),
        format_quantity(point["energy"]["joules_per_token"]["system"], "J"),
        format_number(stats["photons"] / stats["macs"]) if stats["macs"] else "",
    ]


def _quality(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


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
