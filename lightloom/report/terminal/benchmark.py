"""What a benchmark measured, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...benchmarks.throughput import BARE, NUMPY
from ...instruments.formatting import format_count, format_duration, format_number
from ..benchmark import OVERHEAD, axis_name, phases_of, rates_over, stage_medians
from ..steps import PLACES
from .console import new_table

_LEAST_SHARE = 0.002  # of a phase, that a stage needs for a row of its own


def _table(title: str, caption: str, *heads: str) -> Table:
    numbers = range(1, len(heads))
    return new_table(*heads, numbers=numbers, wrapped=(0,), title=title, caption=caption)


def show_benchmark(where: Console, document: Mapping[str, Any]) -> None:
    """Print what was measured."""
    main = document["points"][0]
    machine, sizes = document["machine"], main["sizes"]
    where.print(f"\n[bold]{escape(document['model']['name'])}[/]: {_sizes(document, sizes)}")
    where.print(
        f"placement {document['placement']}; {document['repeats']} interleaved rounds on "
        f"{escape(machine['processor'])}, {machine['threads']} of {machine['cores']} threads"
    )
    for phase in phases_of(main):
        where.print(_throughput(document, main, phase))
    _on_the_bench(where, document, main)
    for phase in phases_of(main):
        where.print(_stages(main, phase))
    for entry, phase, devices in _used(main):
        where.print(_devices(entry, phase, devices))
    for axis in dict.fromkeys(p["axis"] for p in document["points"] if p["axis"]):
        where.print(_scaling(document, axis))
    if "comparison" in document:
        _compared(where, document["comparison"])
    for sentence in document["not_timed"]:
        where.print(f"[yellow]note:[/] {escape(sentence)}")


def _sizes(document: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    batch, tokens, new = sizes["batch"], sizes["sequence"], sizes["new_tokens"]
    text = f"batch {batch}, {tokens} tokens{f', {new} new ones' if new else ''}, random inputs"
    count = document["model"]["parameters"]
    return f"{format_count(count)} parameters in products, {text}"


def _label(entry: Mapping[str, Any]) -> str:
    return f"{escape(entry['name'])}{' [yellow]MOCK[/]' if entry.get('is_mock') else ''}"


def _ratios(point: Mapping[str, Any], entry: Mapping[str, Any], phase: str) -> np.ndarray | None:
    """Return a contender's times over numpy's of the same rounds."""
    for other in point["contenders"]:
        if other["name"] == NUMPY:
            base = np.asarray(other["phases"][phase]["seconds"])
            return np.asarray(entry["phases"][phase]["seconds"]) / base
    return None


def _throughput(document: Mapping[str, Any], point: Mapping[str, Any], phase: str) -> Table:
    unit = document["model"]["unit"]
    macs = point["contenders"][0]["phases"][phase]["macs"]
    table = _table(
        f"How fast: {phase}, {format_count(macs)} MACs",
        "measured on this machine, medians. overhead: of the time, what is neither product nor "
        f"host arithmetic ({BARE} and torch do not report it); on a loaded machine it holds "
        "interruptions, too.",
        *("contender", "time", "quartiles", f"{unit}s/s", "MACs/s", "of numpy", "overhead"),
    )
    for entry in point["contenders"]:
        some = entry["phases"][phase]
        low, high = some["quartiles_s"]
        ratio = _ratios(point, entry, phase)
        overhead = some["overhead_s"]
        share = np.median(np.asarray(overhead) / some["seconds"]) if overhead else None
        table.add_row(
            _label(entry),
            format_duration(some["median_s"]),
            f"{format_duration(low)} to {format_duration(high)}",
            format_number(some["units_per_s"]),
            format_count(some["macs"] / some["median_s"]),
            "-" if ratio is None else format_number(float(np.median(ratio))),
            "-" if share is None else f"{share:.1%}",
        )
    return table


def _on_the_bench(where: Console, document: Mapping[str, Any], point: Mapping[str, Any]) -> None:
    """Print what light takes: on the bench, and shots, frames and conversions of one round."""
    unit = document["model"]["unit"]
    for entry in point["contenders"]:
        for phase, some in entry["phases"].items():
            if some.get("bench_s"):
                took = float(np.median(some["bench_s"]))
                source = f"by the bench's {entry['clock']} clock"
            elif some["predicted_s"]:
                took, source = some["predicted_s"], "predicted from the profile, its host included"
            else:
                continue
            rate = format_number(some["units"] / took) if took else "-"
            where.print(
                f"{_label(entry)}, {phase} on the bench: {format_duration(took)}, {rate} {unit}s/s "
                f"({source})"
            )
            counts = some["counts"] or {"shots": 0}
            if counts["shots"]:
                numbers = {
                    "shots": counts["shots"],
                    "frames": counts["input_frames"] + counts["weight_frames"],
                    "conversions": counts["conversions"],
                }
                where.print(
                    "    a round: "
                    + ", ".join(
                        f"{number:,} {name} ({format_number(number / some['median_s'])}/s here)"
                        for name, number in numbers.items()
                    )
                )


def _stages(point: Mapping[str, Any], phase: str) -> Table:
    entries = [entry for entry in point["contenders"] if entry["phases"][phase]["stages"]]
    names = [_label(entry) for entry in entries]
    table = _table(
        f"Where the time of {phase} goes, here",
        "medians of each stage. encode, decode: numbers into frames and back, as the mock or the "
        "bench does it here; with several threads, stages add up those of all",
        "stage",
        "where",
        *names,
    )
    columns = [stage_medians(entry["phases"][phase]) for entry in entries]
    whole = [sum(column.values()) or 1.0 for column in columns]
    keys = dict.fromkeys(key for column in columns for key in column)
    before = ""
    for key in sorted(keys, key=lambda key: (PLACES[key[1]], key == OVERHEAD)):
        shares = [c.get(key, 0.0) / w for c, w in zip(columns, whole, strict=True)]
        if max(shares) < _LEAST_SHARE:
            continue
        if before and before != key[1]:
            table.add_section()
        before = key[1]
        cells = [
            f"{format_duration(column[key])} {share:6.1%}" if key in column else "-"
            for column, share in zip(columns, shares, strict=True)
        ]
        table.add_row(*key, *cells)
    return table


def _used(
    point: Mapping[str, Any],
) -> Iterator[tuple[Mapping[str, Any], str, Sequence[Mapping[str, Any]]]]:
    for entry in point["contenders"]:
        for phase, some in entry["phases"].items():
            if some.get("devices"):
                yield entry, phase, some["devices"]


def _devices(entry: Mapping[str, Any], phase: str, devices: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        f"Devices of {escape(entry['name'])} in {phase}, against their own limits",
        f"per second of the bench's {entry['clock']} clock; limits: refresh rate, frame rate "
        "(exposing while it reads out), light all the time",
        "device",
        "busy with",
        "a second",
        "limit",
        "used",
    )
    for row in devices:
        limit, share = row["limit_per_s"], row["share"]
        table.add_row(
            row["device"],
            row["busy_with"],
            format_number(row["per_s"]),
            "not known" if limit is None else format_number(limit),
            "-" if share is None else f"{share:.1%}",
        )
    return table


def _scaling(document: Mapping[str, Any], axis: str) -> Table:
    values, columns = rates_over(document, axis)
    unit = document["model"]["unit"]
    shown = axis.replace("_", " ")
    heads = [f"{escape(name)}\n{phase}\n{source}" for name, phase, source in columns]
    sources = {source for *_, source in columns}
    told = "predicted: from the profile, its host included" if "predicted" in sources else ""
    table = _table(f"{unit}s a second over {shown}", told, axis_name(axis), *heads)
    for place, value in enumerate(values):
        rates = [column[place] for column in columns.values()]
        table.add_row(f"{value:,g}", *("-" if r is None else format_number(r) for r in rates))
    return table


def _compared(where: Console, found: Mapping[str, Any]) -> None:
    same = found["same_machine"]
    seconds_too = ("then", "now") if same else ()
    heads = ("what", "phase", "stage", *seconds_too, "of numpy then", "now", "change", "verdict")
    table = _table(f"Compared with {escape(found['with'])}", escape(found["test"]), *heads)
    colours = {"slower": "red", "faster": "green"}
    for row in found["rows"]:
        colour = colours.get(row["verdict"])
        verdict = f"[{colour}]{row['verdict']}[/]" if colour else row["verdict"]
        seconds = (format_duration(row["old_s"]), format_duration(row["new_s"])) if same else ()
        table.add_row(
            escape(row["where"]),
            row["phase"],
            row["what"],
            *seconds,
            format_number(row["old"]),
            format_number(row["new"]),
            f"{row['change']:.2f}x",
            verdict,
        )
    where.print(table)
    where.print(f"numpy itself: over {BARE}. Time is never a failure: the exit status is 0.")
    for text in found["counted"]:
        where.print(f"counted otherwise: {escape(text)}")
    for text in found["remarks"]:
        where.print(f"[yellow]note:[/] {escape(text)}")
