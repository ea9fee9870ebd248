"""What a benchmark measured, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from ...benchmarks.contenders import BARE, NUMPY
from ...instruments.formatting import (
    format_count,
    format_counted,
    format_duration,
    format_number,
    format_ratio,
)
from ...instruments.table import Cell, Column, Heads, Styled, Table, columns
from ...scheduler.runs.tables import PLACES
from ..benchmark import OVERHEAD, axis_name, phases_of, rates_over, stage_medians
from .console import show_tables

_LEAST_SHARE = 0.002  # of a phase, that a stage needs for a row of its own


def show_benchmark(where: Console, document: Mapping[str, Any]) -> None:
    """Print what was measured."""
    main = document["points"][0]
    machine, sizes = document["machine"], main["sizes"]
    where.print(f"\n[bold]{escape(document['model']['name'])}[/]: {_sizes(document, sizes)}")
    where.print(
        f"placement {document['placement']}; "
        f"{format_counted(document['repeats'], 'interleaved round')} on "
        f"{escape(machine['processor'])}, {machine['threads']} of {machine['cores']} threads"
    )
    phases = phases_of(main)
    show_tables(where, (_throughput_table(document, main, phase) for phase in phases))
    _on_the_bench(where, document, main)
    show_tables(where, (_stage_table(main, phase) for phase in phases))
    show_tables(where, _device_tables(main))
    axes = dict.fromkeys(p["axis"] for p in document["points"] if p["axis"])
    show_tables(where, (_scaling_table(document, axis) for axis in axes))
    if "comparison" in document:
        _compared(where, document["comparison"])
    for sentence in document["not_timed"]:
        where.print(f"[yellow]note:[/] {escape(sentence)}")


def _sizes(document: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    batch, tokens, new = sizes["batch"], sizes["sequence"], sizes["new_tokens"]
    text = f"batch {batch}, {format_counted(tokens, 'token')}"
    text += f", {new:,} new ones" if new else ""
    count = document["model"]["parameters"]
    return f"{format_count(count)} parameters in products, {text}, random inputs"


def _label(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}{' MOCK' if entry.get('is_mock') else ''}"


def _ratios(point: Mapping[str, Any], entry: Mapping[str, Any], phase: str) -> np.ndarray | None:
    """Return a contender's times over numpy's of the same rounds."""
    for other in point["contenders"]:
        if other["name"] == NUMPY:
            base = np.asarray(other["phases"][phase]["seconds"])
            return np.asarray(entry["phases"][phase]["seconds"]) / base
    return None


def _throughput_table(document: Mapping[str, Any], point: Mapping[str, Any], phase: str) -> Table:
    columns = (
        Column("contender", align="left", wraps=True),
        Column("time", form=format_duration),
        Column("25 % below", form=format_duration),
        Column("25 % above", form=format_duration),
        Column(f"{document['model']['unit']}s/s", form=format_number),
        Column("MACs/s", form=format_count),
        Column("of numpy", form=format_number),
        Column("overhead", form=".1%"),
    )
    rows = []
    for entry in point["contenders"]:
        some = entry["phases"][phase]
        ratios, overhead = _ratios(point, entry, phase), some["overhead_s"]
        rows.append(
            (
                _label(entry),
                some["median_s"],
                *some["quartiles_s"],
                some["units_per_s"],
                some["macs"] / some["median_s"],
                None if ratios is None else float(np.median(ratios)),
                float(np.median(np.asarray(overhead) / some["seconds"])) if overhead else None,
            )
        )
    macs = point["contenders"][0]["phases"][phase]["macs"]
    return Table(
        f"How fast: {phase}, {format_count(macs)} MACs",
        columns,
        tuple(rows),
        caption="measured on this machine: median and quartiles. overhead: of the time, what is "
        f"neither product nor host arithmetic ({BARE} and torch do not report it); on a loaded "
        "machine it holds interruptions, too.",
    )


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
            rate = f"{format_number(some['units'] / took) if took else '-'} {unit}s/s"
            where.print(
                f"{escape(_label(entry))}, {phase} on the bench: {format_duration(took)}, {rate} "
                f"({source})"
            )
            counts = some["counts"] or {"shots": 0}
            if counts["shots"]:
                numbers = {
                    "shot": counts["shots"],
                    "frame": counts["input_frames"] + counts["weight_frames"],
                    "conversion": counts["conversions"],
                }
                where.print(
                    "    a round: "
                    + ", ".join(
                        f"{format_counted(number, name)} "
                        f"({format_number(number / some['median_s'])}/s here)"
                        for name, number in numbers.items()
                    )
                )


def _stage_table(point: Mapping[str, Any], phase: str) -> Table:
    entries = [entry for entry in point["contenders"] if entry["phases"][phase]["stages"]]
    columns = [Column("stage", align="left", wraps=True), Column("where", align="left")]
    for entry in entries:
        columns += [Column(_label(entry), form=format_duration), Column("share", form=".1%")]
    medians = [stage_medians(entry["phases"][phase]) for entry in entries]
    whole = [sum(stages.values()) or 1.0 for stages in medians]
    rows: list[tuple[Cell, ...]] = []
    keys = dict.fromkeys(key for stages in medians for key in stages)
    for key in sorted(keys, key=lambda key: (PLACES[key[1]], key == OVERHEAD)):
        shares = [stages.get(key, 0.0) / w for stages, w in zip(medians, whole, strict=True)]
        if max(shares) < _LEAST_SHARE:
            continue
        cells: list[Cell] = []
        for stages, share in zip(medians, shares, strict=True):
            cells += [stages[key], share] if key in stages else [None, None]
        rows.append((*key, *cells))
    return Table(
        f"Where the time of {phase} goes, here",
        tuple(columns),
        tuple(rows),
        caption="medians of each stage. encode, decode: numbers into frames and back, as the mock "
        "or the bench does it here; with several threads, stages add up those of all",
        grouped_by=1,
    )


def _device_tables(point: Mapping[str, Any]) -> Iterator[Table]:
    for entry in point["contenders"]:
        for phase, some in entry["phases"].items():
            if some.get("devices"):
                yield _device_table(entry, phase, some["devices"])


def _device_table(
    entry: Mapping[str, Any], phase: str, devices: Sequence[Mapping[str, Any]]
) -> Table:
    heads: Heads = {
        "device": None,
        "busy with": str,
        "a second": format_number,
        "limit": format_number,
        "used": ".1%",
    }
    rows = []
    for row in devices:
        limit = "not known" if row["limit_per_s"] is None else row["limit_per_s"]
        rows.append((row["device"], row["busy_with"], row["per_s"], limit, row["share"]))
    return Table(
        f"Devices of {entry['name']} in {phase}, against their own limits",
        columns(heads),
        tuple(rows),
        caption=f"per second of the bench's {entry['clock']} clock; limits: refresh rate, frame "
        "rate (exposing while it reads out), light all the time",
    )


def _scaling_table(document: Mapping[str, Any], axis: str) -> Table:
    values, rates = rates_over(document, axis)
    columns = (
        Column(axis_name(axis), align="left", form=",g"),
        *(Column("\n".join(names), form=format_number) for names in rates),
    )
    return Table(
        f"{document['model']['unit']}s a second over {axis.replace('_', ' ')}",
        columns,
        tuple(zip(values, *rates.values(), strict=True)),
        caption="predicted: from the profile, its host included"
        if any(source == "predicted" for *_, source in rates)
        else "",
    )


def _compared(where: Console, found: Mapping[str, Any]) -> None:
    show_tables(where, [_comparison_table(found)])
    where.print(f"numpy itself: over {BARE}. Time is never a failure: the exit status is 0.")
    for text in found["counted"]:
        where.print(f"counted otherwise: {escape(text)}")
    for text in found["remarks"]:
        where.print(f"[yellow]note:[/] {escape(text)}")


def _comparison_table(found: Mapping[str, Any]) -> Table:
    """Return what changed; seconds only where both were measured on the same machine."""
    sides = {"then": "old_s", "now": "new_s"} if found["same_machine"] else {}
    columns = (
        Column("what", align="left", wraps=True),
        Column("phase", align="left"),
        Column("stage", align="left"),
        *(Column(side, form=format_duration) for side in sides),
        Column("of numpy then", form=format_number),
        Column("now", form=format_number),
        Column("change", form=format_ratio),
        Column("verdict", align="left"),
    )
    verdicts: dict[str, Cell] = {
        "slower": Styled("slower", "bad"),
        "faster": Styled("faster", "good"),
    }
    rows = [
        (
            *(row["where"], row["phase"], row["what"]),
            *(row[key] for key in sides.values()),
            *(row["old"], row["new"], row["change"]),
            verdicts.get(row["verdict"], row["verdict"]),
        )
        for row in found["rows"]
    ]
    return Table(f"Compared with {found['with']}", columns, tuple(rows), caption=found["test"])
