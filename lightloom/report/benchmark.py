"""What a benchmark measured: figures for tables, and its picture.

Measuring is in `lightloom.benchmarks.throughput`, judging in `lightloom.benchmarks.comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.plots import save_picture, use_log_axes
from ..instruments.formatting import format_duration
from ..scheduler import MATMUL_KINDS
from .charts import Bar, draw_bars, new_figure, page_style

PICTURE = "lightloom benchmark picture"
OVERHEAD = ("host overhead", "host")  # a stage of its own: kind, where
_GROUPS = (  # of stages, in a picture
    "products, optical",
    "products, host",
    "encode",
    "decode",
    "softmax",
    "norm",
    "activation",
    "other host steps",
    "host overhead",
)


def phases_of(point: Mapping[str, Any]) -> list[str]:
    """Return the names of the phases that a point was measured in."""
    return list(point["contenders"][0]["phases"])


def stage_medians(phase: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Return the median seconds of each stage of a phase, the overhead among them."""
    found = {
        (stage["kind"], stage["where"]): float(np.median(stage["seconds"]))
        for stage in phase["stages"]
    }
    if phase["overhead_s"]:
        found[OVERHEAD] = float(np.median(phase["overhead_s"]))
    return found


def rates_over(
    document: Mapping[str, Any], axis: str
) -> tuple[list[float], dict[tuple[str, str, str], list[float | None]]]:
    """Return an axis' values, and for each (contender, phase, source) how many units a second.

    `source` is "measured here", "on the bench" (by its clock) or "predicted".
    """
    points = [point for point in document["points"] if point["axis"] == axis]
    columns: dict[tuple[str, str, str], list[float | None]] = {}
    for place, point in enumerate(points):
        for entry in point["contenders"]:
            for phase, some in entry["phases"].items():
                units, rates = some["units"], {}
                if some["seconds"]:
                    rates["measured here"] = units / some["median_s"]
                if some.get("bench_s"):
                    took = float(np.median(some["bench_s"]))
                    rates["on the bench"] = units / took if took else None
                elif some.get("predicted_s"):
                    rates["predicted"] = units / some["predicted_s"]
                for source, rate in rates.items():
                    key = (entry["name"], phase, source)
                    columns.setdefault(key, [None] * len(points))[place] = rate
    return [point["value"] for point in points], columns


def axis_name(axis: str) -> str:
    """Return what an axis is called, with its unit where it has one."""
    return f"{axis.replace('_', ' ')}{', Hz' if axis == 'frame_rate' else ''}"


def draw(path: Path, document: Mapping[str, Any]) -> None:
    """Draw where time goes, and how throughput scales, one panel for each axis.

    Raises
    ------
    InputError : when it cannot be written
    MissingExtraError : without matplotlib
    """
    axes = list(dict.fromkeys(p["axis"] for p in document["points"] if p["axis"]))
    main = document["points"][0]
    panels = len(phases_of(main)) + len(axes)
    with page_style():
        figure = new_figure(9.5, 3.1 * panels)
        places = list(figure.subplots(panels, 1, squeeze=False).ravel())
        for phase in phases_of(main):
            _draw_stages(places.pop(0), main, phase)
        for axis in axes:
            _draw_scaling(places.pop(0), document, axis)
        machine = document["machine"]
        figure.suptitle(
            f"{document['model']['name']}: {document['repeats']} rounds on "
            f"{machine['processor']}, {machine['threads']} of {machine['cores']} threads",
            parse_math=False,
        )
        save_picture(figure, path, PICTURE)


def _group(kind: str, where: str) -> str:
    if kind in MATMUL_KINDS:
        return f"products, {where}"
    return kind if kind in _GROUPS else "other host steps"


def _draw_stages(axes: Any, point: Mapping[str, Any], phase: str) -> None:
    """Draw each contender's time as a bar of its stages, each bar of the same length."""
    bars = []
    for entry in point["contenders"]:
        some = entry["phases"][phase]
        if not some["stages"]:
            continue
        stages = stage_medians(some)
        whole = sum(stages.values()) or 1.0
        shares = dict.fromkeys(_GROUPS, 0.0)
        for (kind, where), seconds in stages.items():
            shares[_group(kind, where)] += seconds / whole
        name = f"{entry['name']}{', MOCK' if entry['is_mock'] else ''}"
        bars.append(Bar(name, shares, format_duration(some["median_s"])))
    draw_bars(axes, bars)
    axes.set(title=f"Where the time of {phase} goes, measured here", xlabel="share of the time")
    axes.set_xlim(0, 1)
    axes.legend(loc="center left", bbox_to_anchor=(1.1, 0.5))


def _draw_scaling(axes: Any, document: Mapping[str, Any], axis: str) -> None:
    """Draw throughput over one axis: lines measured, dashes predicted."""
    values, columns = rates_over(document, axis)
    for (name, phase, source), rates in columns.items():
        style = {"measured here": "o-", "on the bench": "s-."}.get(source, "^--")
        label = f"{name}, {phase}, {source}"
        axes.plot(values, [np.nan if r is None else r for r in rates], style, label=label)
    shown = axis.replace("_", " ")
    use_log_axes(axes)
    axes.set(
        xlabel=axis_name(axis),
        ylabel=f"{document['model']['unit']}s/s",
        title=f"Throughput over {shown}",
    )
    axes.grid(True, which="both")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
