"""What `lightloom benchmark` does with its options, and how it shows what was measured.

Measuring is in `lightloom.benchmarks.throughput`, judging in `lightloom.benchmarks.comparison`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..benchmarks import comparison, throughput
from ..benchmarks.plots import save_picture, use_log_axes
from ..benchmarks.throughput import AXES, BARE, NUMPY
from ..instruments import InputError
from ..instruments.errors import import_extra
from ..instruments.files import check_output, write_document
from .terminal import _count, _duration, _figure

if TYPE_CHECKING:
    from ..backends import Backend
    from ..models import Model

PICTURE = "lightloom benchmark picture"
_PICTURES = (".svg", ".png")
_LEAST_SHARE = 0.002  # of a phase, that a stage needs for a row of its own
_OVERHEAD = ("host overhead", "host")


# ------------------------------------------------------------------------------- options


def parse_axes(texts: Sequence[str]) -> dict[str, list[float]]:
    """Read `AXIS=V1,V2,...` of the command line.

    Raises
    ------
    InputError : for an unknown axis, or values that it cannot take
    """
    axes: dict[str, list[float]] = {}
    for text in texts:
        axis, separator, listed = text.partition("=")
        axis = axis.strip().replace("-", "_")
        if not separator or not listed.strip():
            raise InputError(f"--scale {text!r} is not AXIS=V1,V2,...")
        if axis not in AXES:
            raise InputError(f"--scale {axis!r} is no axis; choose from {', '.join(AXES)}")
        if axis in axes:
            raise InputError(f"--scale {axis} is given twice; list its values after one")
        axes[axis] = [_value(axis, item.strip()) for item in listed.split(",")]
        if len(set(axes[axis])) < len(axes[axis]):
            raise InputError(f"--scale {text!r} names a value twice")
    return axes


def _value(axis: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"--scale {axis}: {text!r} is no number") from None
    if axis == "frame_rate":
        if not 0 < value <= 1e12:
            raise InputError(f"--scale frame_rate: {text} must be above 0 and at most 1e12 Hz")
    elif not 1 <= value <= 1 << 40 or value != int(value):
        raise InputError(f"--scale {axis}: {text} must be a whole number of at least 1")
    return value


def check_files(output: Path | None, picture: Path | None) -> None:
    """Refuse, before anything is measured, files that could not be written afterwards.

    Raises
    ------
    InputError : for a folder that is not there, a file that must not be replaced, or a picture of
        an unknown kind
    MissingExtraError : for a picture without matplotlib
    """
    for path, kind in ((output, throughput.KIND), (picture, PICTURE)):
        if path is not None:
            check_output(path, kind)
    if picture is not None:
        if picture.suffix.lower() not in _PICTURES:
            raise InputError(f"--picture {picture}: give a file that ends in .svg or .png")
        import_extra("matplotlib", "report", "drawing a picture")


def older(path: Path | None) -> tuple[Path, Mapping[str, Any]] | None:
    """Read the document to compare with, where one is given.

    Raises
    ------
    InputError : when it is none
    """
    return None if path is None else (path, comparison.read_benchmark(path))


def chosen_model(
    name: str | None,
    width: int | None,
    depth: int,
    axes: Mapping[str, Sequence[float]],
    tokens: int,
    seed: int,
) -> "Model":
    """Open a model that can run: by name, or a GPT-2 of a width with random weights.

    Raises
    ------
    InputError : for a model that cannot be used, or two at once
    """
    from ..models.shapes import model_or_shape

    if name is not None and (width is not None or "width" in axes):
        other = "--width" if width is not None else "--scale width"
        raise InputError(f"--model and {other} are two models; give one of them")
    if width is None and "width" in axes:
        width = int(axes["width"][0])
    if width is not None:
        model = throughput.benchmark_shape(width, depth, tokens)
    else:
        model = model_or_shape(name or "digits")
    return throughput.runnable(model, seed)


def measured(
    job: "throughput.Job",
    backends: Sequence["Backend"],
    axes: Mapping[str, Sequence[float]],
    depth: int,
    repeats: int,
    seed: int,
    old: tuple[Path, Mapping[str, Any]] | None,
    tell: "throughput.Tell",
) -> dict[str, Any]:
    """Measure, and compare with an older document where one is given.

    Raises
    ------
    InputError : before anything is measured, when the older one is of other work
    """
    names = [throughput.name_of(backend) for backend in backends]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice; give each profile once")
    points = list(throughput.points_of(job, backends, axes, depth, seed))
    if old is not None:
        comparison.check_alike(old[1], throughput.outline(points, repeats), old[0])
    document = throughput.measure(points, repeats, tell) | {"seed": seed}
    if old is not None:
        document["comparison"] = comparison.compare(old[1], document, old[0].name)
    return document


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document.

    Raises
    ------
    InputError : when it cannot be written
    """
    write_document(path, document, throughput.KIND)


# -------------------------------------------------------------------------------- tables


def show(where: Console, document: Mapping[str, Any]) -> None:
    """Print what was measured."""
    main = document["points"][0]
    machine, sizes = document["machine"], main["sizes"]
    where.print(f"\n[bold]{escape(document['model']['name'])}[/]: {_sizes(document, sizes)}")
    where.print(
        f"placement {document['placement']}; {document['repeats']} interleaved rounds on "
        f"{escape(machine['processor'])}, {machine['threads']} of {machine['cores']} threads"
    )
    for phase in _phases(main):
        where.print(_throughput(document, main, phase))
    _on_the_bench(where, document, main)
    for phase in _phases(main):
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
    return f"{_count(count)} parameters in products, {text}"


def _table(title: str, caption: str, *heads: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        caption=caption,
        caption_justify="left",
    )
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=bool(index))
    return table


def _phases(point: Mapping[str, Any]) -> list[str]:
    return list(point["contenders"][0]["phases"])


def _label(entry: Mapping[str, Any]) -> str:
    return f"{escape(entry['name'])}{' [yellow]MOCK[/]' if entry.get('is_mock') else ''}"


def ratios(point: Mapping[str, Any], entry: Mapping[str, Any], phase: str) -> np.ndarray | None:
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
        f"How fast: {phase}, {_count(macs)} MACs",
        "measured on this machine, medians. overhead: of the time, what is neither product nor "
        f"host arithmetic ({BARE} and torch do not tell it); on a loaded machine it holds "
        "interruptions, too.",
        *("contender", "time", "quartiles", f"{unit}s/s", "MACs/s", "of numpy", "overhead"),
    )
    for entry in point["contenders"]:
        some = entry["phases"][phase]
        low, high = some["quartiles_s"]
        ratio = ratios(point, entry, phase)
        overhead = some["overhead_s"]
        share = np.median(np.asarray(overhead) / some["seconds"]) if overhead else None
        table.add_row(
            _label(entry),
            _duration(some["median_s"]),
            f"{_duration(low)} to {_duration(high)}",
            _figure(some["units_per_s"]),
            _count(some["macs"] / some["median_s"]),
            "-" if ratio is None else f"{np.median(ratio):.3g}",
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
            rate = _figure(some["units"] / took) if took else "-"
            where.print(
                f"{_label(entry)}, {phase} on the bench: {_duration(took)}, {rate} {unit}s/s "
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
                        f"{number:,} {name} ({_figure(number / some['median_s'])}/s here)"
                        for name, number in numbers.items()
                    )
                )


def stages_of(phase: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Return the median seconds of each stage of a phase, the overhead among them."""
    found = {
        (stage["kind"], stage["where"]): float(np.median(stage["seconds"]))
        for stage in phase["stages"]
    }
    if phase["overhead_s"]:
        found[_OVERHEAD] = float(np.median(phase["overhead_s"]))
    return found


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
    columns = [stages_of(entry["phases"][phase]) for entry in entries]
    whole = [sum(column.values()) or 1.0 for column in columns]
    order = {"optical": 0, "host": 1, "convert": 2}
    keys = dict.fromkeys(key for column in columns for key in column)
    before = ""
    for key in sorted(keys, key=lambda key: (order[key[1]], key == _OVERHEAD)):
        shares = [c.get(key, 0.0) / w for c, w in zip(columns, whole, strict=True)]
        if max(shares) < _LEAST_SHARE:
            continue
        if before and before != key[1]:
            table.add_section()
        before = key[1]
        cells = [
            f"{_duration(column[key])} {share:6.1%}" if key in column else "-"
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
            _figure(row["per_s"]),
            "not told" if limit is None else _figure(limit),
            "-" if share is None else f"{share:.1%}",
        )
    return table


def scaled(
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


def _scaling(document: Mapping[str, Any], axis: str) -> Table:
    values, columns = scaled(document, axis)
    unit = document["model"]["unit"]
    shown = axis.replace("_", " ")
    heads = [f"{escape(name)}\n{phase}\n{source}" for name, phase, source in columns]
    sources = {source for *_, source in columns}
    told = "predicted: from the profile, its host included" if "predicted" in sources else ""
    table = _table(f"{unit}s a second over {shown}", told, f"{shown}{_axis_unit(axis)}", *heads)
    for place, value in enumerate(values):
        rates = [column[place] for column in columns.values()]
        table.add_row(f"{value:,g}", *("-" if r is None else _figure(r) for r in rates))
    return table


def _axis_unit(axis: str) -> str:
    return ", Hz" if axis == "frame_rate" else ""


def _compared(where: Console, found: Mapping[str, Any]) -> None:
    same = found["same_machine"]
    seconds_too = ("then", "now") if same else ()
    heads = ("what", "phase", "stage", *seconds_too, "of numpy then", "now", "change", "verdict")
    table = _table(f"Compared with {escape(found['with'])}", escape(found["test"]), *heads)
    colours = {"slower": "red", "faster": "green"}
    for row in found["rows"]:
        colour = colours.get(row["verdict"])
        verdict = f"[{colour}]{row['verdict']}[/]" if colour else row["verdict"]
        seconds = (_duration(row["old_s"]), _duration(row["new_s"])) if same else ()
        table.add_row(
            escape(row["where"]),
            row["phase"],
            row["what"],
            *seconds,
            f"{row['old']:.3g}",
            f"{row['new']:.3g}",
            f"{row['change']:.2f}x",
            verdict,
        )
    where.print(table)
    where.print(f"numpy itself: over {BARE}. Time is never a failure: the exit status is 0.")
    for text in found["counted"]:
        where.print(f"counted otherwise: {escape(text)}")
    for text in found["remarks"]:
        where.print(f"[yellow]note:[/] {escape(text)}")


# ------------------------------------------------------------------------------- picture


def draw(path: Path, document: Mapping[str, Any]) -> None:
    """Draw where time goes, and how throughput scales, one panel for each axis.

    Raises
    ------
    InputError : when it cannot be written
    MissingExtraError : without matplotlib
    """
    matplotlib = import_extra("matplotlib", "report", "drawing a picture")
    figures = import_extra("matplotlib.figure", "report", "drawing a picture")
    axes = list(dict.fromkeys(p["axis"] for p in document["points"] if p["axis"]))
    main = document["points"][0]
    panels = len(_phases(main)) + len(axes)
    with matplotlib.rc_context({"svg.hashsalt": "benchmark", "font.size": 9.0}):
        figure = figures.Figure(figsize=(8.5, 3.1 * panels), layout="constrained")
        places = list(figure.subplots(panels, 1, squeeze=False).ravel())
        for phase in _phases(main):
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


_GROUPS = {  # of a picture: name -> colour
    "products, optical": "#d4a017",
    "products, host": "#2b6cb0",
    "encode": "#b7791f",
    "decode": "#8a6d3b",
    "softmax": "#805ad5",
    "norm": "#2f855a",
    "activation": "#68d391",
    "other host steps": "#90cdf4",
    "host overhead": "#c53030",
}


def _group(kind: str, where: str) -> str:
    from ..scheduler import MATMUL_KINDS

    if kind in MATMUL_KINDS:
        return f"products, {where}"
    return kind if kind in _GROUPS else "other host steps"


def _draw_stages(axes: Any, point: Mapping[str, Any], phase: str) -> None:
    """Draw each contender's time as a bar of its stages, each bar of the same length."""
    entries = [entry for entry in point["contenders"] if entry["phases"][phase]["stages"]]
    named = set()
    for row, entry in enumerate(entries):
        stages = stages_of(entry["phases"][phase])
        whole, left = sum(stages.values()) or 1.0, 0.0
        groups = dict.fromkeys(_GROUPS, 0.0)
        for (kind, where), seconds in stages.items():
            groups[_group(kind, where)] += seconds / whole
        for name, share in groups.items():
            label = None if name in named or not share else name
            named |= {name} if share else set()
            axes.barh(row, share, left=left, color=_GROUPS[name], label=label, height=0.6)
            left += share
        mark = ", MOCK" if entry["is_mock"] else ""
        text = f"{entry['name']}{mark}\n{_duration(entry['phases'][phase]['median_s'])}"
        axes.text(-0.01, row, text, ha="right", va="center", parse_math=False)
    axes.set(title=f"Where the time of {phase} goes, measured here", xlabel="share of the time")
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def _draw_scaling(axes: Any, document: Mapping[str, Any], axis: str) -> None:
    """Draw throughput over one axis: lines measured, dashes predicted."""
    values, columns = scaled(document, axis)
    for (name, phase, source), rates in columns.items():
        style = {"measured here": "o-", "on the bench": "s-."}.get(source, "^--")
        label = f"{name}, {phase}, {source}"
        axes.plot(values, [np.nan if r is None else r for r in rates], style, label=label)
    shown = axis.replace("_", " ")
    use_log_axes(axes)
    axes.set(
        xlabel=shown + _axis_unit(axis),
        ylabel=f"{document['model']['unit']}s/s",
        title=f"Throughput over {shown}",
    )
    axes.grid(True, which="both", linewidth=0.4, alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
