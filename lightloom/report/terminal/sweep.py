"""What `lightloom sweep` reads from its options, and the table that it shows."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..benchmarks.sweep import Results, Sweep, make_sweep, read_sweep, run_sweep
from ..benchmarks.sweep_points import Inputs, SweepPoint
from ..instruments import InputError
from ..models import Model
from ..scheduler.cluster.workers import open_workers
from .terminal import _figure

Progress = Callable[[str, int, int], None]

__all__ = [
    "Inputs",
    "Results",
    "asked",
    "check_used",
    "files_of",
    "make_sweep",
    "points_of",
    "run",
    "show",
]


def asked(file: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep's lists: those of the file, and over them those of the options.

    Parameters
    ----------
    options : key of a sweep -> what the option gave, None or empty where it was not given; lists
        as texts that commas separate, except models and profiles, which may be paths
    """
    document = {} if file is None else read_sweep(file)
    for key, value in options.items():
        if value is None or value == []:
            continue
        if key in ("models", "profiles", "placement", "limit"):
            document[key] = value
        elif key in ("text", "images"):
            document[key] = str(value)
        elif key == "set":
            document["set"] = {**document.get("set", {}), **_settings(value)}
        else:
            document[key] = _values(key, value)
    if "seeds" in options and options["seeds"] is not None:
        document["seeds"] = [_whole(text) for text in document["seeds"]]
    return document


def _settings(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        key, separator, values = text.partition("=")
        key = key.strip()
        if not separator:
            raise InputError(f"--set {text!r} is not KEY=V1,V2,...")
        if key in found:
            raise InputError(f"--set names {key} twice; give its values in one list")
        found[key] = _values(f"set.{key}", values)
    return found


def _values(key: str, text: str) -> list[str]:
    values = [part.strip() for part in text.split(",")]
    if not all(values):
        raise InputError(f"{key} = {text!r}: a value is missing")
    return values


def _whole(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def points_of(sweep: Sweep, skip_impossible: bool) -> tuple[list[SweepPoint], dict[str, str]]:
    """Return the points, and why others cannot be, where those are to be left out.

    Raises
    ------
    InputError : for points that cannot be, or none that can
    """
    points, impossible = sweep.points()
    if impossible and (not points or not skip_impossible):
        count = len(points) + len(impossible)
        way = "; leave such points out with --skip-impossible" if points else ""
        name, why = next(iter(impossible.items()))
        raise InputError(
            f"{len(impossible)} of {count} points cannot be, the first {name!r}: {why}{way}"
        )
    return points, impossible


def files_of(sweep: Sweep, model: Model) -> dict[str, Any]:
    """Return the options of inputs, as `lightloom run` has them, that suit a model."""
    text = None if sweep.text is None else Path(sweep.text)
    images = None if sweep.images is None else Path(sweep.images)
    given = {"--prompt": None, "--text": None, "--sentence": None, "--images": None}
    return given | ({"--images": images} if model.task == "vision" else {"--text": text})


def check_used(sweep: Sweep, tasks: Sequence[str]) -> None:
    """Refuse files of inputs that no model of the sweep takes.

    Parameters
    ----------
    tasks : of its models

    Raises
    ------
    InputError : naming the file
    """
    for key, used in (("text", set(tasks) - {"vision"}), ("images", set(tasks) & {"vision"})):
        path = getattr(sweep, key)
        if path is not None and not used:
            raise InputError(f"{key!r} is of no use to {', '.join(sweep.models)}: {path}")


def run(
    results: Results,
    inputs: Mapping[str, Inputs],
    count: int,
    address: str | None,
    progress: Progress,
) -> list[str]:
    """Run what is left of a sweep, and give remarks on who ran it.

    Parameters
    ----------
    count : processes of this machine; 0 takes this one
    address : of a Dask scheduler, instead
    """
    if not results.left:
        return ["every point was there already; nothing was run"]
    progress("opening workers", 0, 1)
    left, start = len(results.left), time.perf_counter()
    with open_workers(min(count, left), address) as workers:
        opened = time.perf_counter()
        run_sweep(results, inputs, workers, progress)
        done = time.perf_counter()
        took = f"opened in {opened - start:.1f} s, {left} points in {done - opened:.1f} s"
        return [f"{workers.name}: {took}", *workers.remarks]


def show(where: Console, document: Mapping[str, Any], remarks: Sequence[str]) -> None:
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
    said = [*remarks, *(remark for p in points for remark in p.get("remarks", ()))]
    where.print(
        "quality and events: computed here; here: measured, while the other workers had work too; "
        "bench and energy: predicted from each point's profile, host steps as measured here"
    )
    for remark in _alike(said):
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
    energies = list(dict.fromkeys(f"J / {point['energy']['unit']}" for point in done))
    table = Table(box=box.SIMPLE, pad_edge=False)
    for key in varied:
        table.add_column(escape(key))
    for name in (
        f"{' or '.join(metrics) or 'quality'}: digital",
        "optical",
        f"{' or '.join(units) or 'throughput'} here",
        "on the bench",
        f"{' or '.join(energies) or 'energy'}, system",
        "electrons / MAC",
    ):
        table.add_column(name, justify="right")
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
        _figure(throughput["here"]),
        "" if bench is None else _figure(bench),
        f"{point['energy']['joules_per_token']['system']:.3g}",
        f"{stats['photons'] / stats['macs']:.3g}" if stats["macs"] else "",
    ]


def _quality(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _alike(remarks: Sequence[str]) -> list[str]:
    """Return remarks once; of those that differ in numbers alone, the first and how many more."""
    found: dict[str, list[str]] = {}
    for remark in remarks:
        words = "".join("#" if letter.isdigit() else letter for letter in remark)
        found.setdefault(words.translate({ord(c): None for c in "#.,e-"}), []).append(remark)
    return [
        texts[0] + (f" (likewise at {len(texts) - 1} more)" if len(texts) > 1 else "")
        for texts in found.values()
    ]
