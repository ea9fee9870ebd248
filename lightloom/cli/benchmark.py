"""`lightloom benchmark`: a model timed here, beside digital baselines."""

from collections.abc import Mapping
from collections.abc import Sequence as Several
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..instruments import InputError, limit_threads
from .backends import chosen_backend
from .options import (
    SEVERAL,
    BackendName,
    Batch,
    BenchFiles,
    Depth,
    Json,
    NewTokens,
    NoCache,
    Placement,
    ProfileNames,
    Seed,
    Sequence,
    Settings,
    Threads,
    Width,
    split_settings,
)
from .output import check_apart, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..backends import Backend
    from ..benchmarks.contenders import Job
    from ..benchmarks.throughput import Tell
    from ..models import Model

AnyModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model as for run (default: digits), or a size with random weights, such as gpt2.",
    ),
]
Repeats = Annotated[int, typer.Option(help="Number of rounds that are timed.", min=1)]
Scale = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=V1,V2,...",
        help=f"Also vary batch, sequence, width, rows, length or frame_rate. {SEVERAL}",
    ),
]
Compare = Annotated[
    Path | None,
    typer.Option(help="Show which times changed since this earlier --output, beyond noise."),
]
Output = Annotated[
    Path | None, typer.Option(help="Write every measured time to this file, as JSON.")
]
Picture = Annotated[Path | None, typer.Option(help="Draw the results to this file (.svg or .png).")]
Axes = Mapping[str, Several[float]]  # axis of a scaling -> its values
_MOST_HZ = 1e12  # of a frame rate
_MOST = 1 << 40  # of any other axis


def command(
    model: AnyModel = None,
    width: Width = None,
    depth: Depth = 12,
    backend: BackendName = "mock",
    profile: ProfileNames = None,
    bench: BenchFiles = None,
    set_: Settings = None,
    placement: Placement = "paper",
    batch: Batch = 1,
    sequence: Sequence = None,
    new_tokens: NewTokens = 0,
    repeats: Repeats = 15,
    scale: Scale = None,
    compare: Compare = None,
    output: Output = None,
    picture: Picture = None,
    seed: Seed = 0,
    threads: Threads = None,
    no_cache: NoCache = False,
    json_: Json = False,
) -> None:
    """Time a model here, stage by stage, beside digital baselines that take turns with it.

    Example: lightloom benchmark --model gpt2 --new-tokens 9 --scale batch=1,4 --output now.json
    """
    limit_threads(threads)
    from ..benchmarks.comparison import read_benchmark
    from ..benchmarks.contenders import make_job
    from ..report.terminal.console import open_console, progress

    console = open_console(for_people=not json_)
    axes = _parse_axes(scale or [])
    _check_files(output, picture)
    older = None if compare is None else (compare, read_benchmark(compare))
    profiles: list[str | None] = [*profile] if profile else [None]
    backends = [chosen_backend(backend, name, set_, seed, bench) for name in profiles]
    tokens = (sequence or 0) + new_tokens
    loaded = _chosen_model(model, width, depth, axes, tokens, seed)
    try:
        job = make_job(loaded, batch, sequence, new_tokens, placement, seed)
        with progress() as tell:
            document = _measured(job, backends, axes, depth, repeats, seed, older, tell)
    finally:
        for opened in backends:
            opened.close()
    _write(document, console, json_, output, picture)


def _write(
    document: dict[str, Any],
    console: "Console",
    as_json: bool,
    output: Path | None,
    picture: Path | None,
) -> None:
    """Print what was measured, and write the files that were asked for."""
    from ..benchmarks.throughput import KIND
    from ..instruments.files import write_document
    from ..report.benchmark import draw
    from ..report.terminal.benchmark import show_benchmark

    if as_json:
        print_json(document)
    else:
        show_benchmark(console, document)
    if output is not None:
        write_document(output, document, KIND)
    if picture is not None:
        draw(picture, document)


def _parse_axes(texts: Several[str]) -> dict[str, list[float]]:
    """Return the axes of texts `AXIS=V1,V2,...`, each with its values."""
    from ..benchmarks.throughput import AXES

    axes: dict[str, list[float]] = {}
    for axis, values in split_settings("--scale", texts, "AXIS=V1,V2,...").items():
        if axis not in AXES:
            raise InputError(f"--scale {axis!r} is not an axis; choose from {', '.join(AXES)}")
        axes[axis] = [_value(axis, value) for value in values]
        if len(set(axes[axis])) < len(values):
            raise InputError(f"--scale {axis} names a value twice")
    return axes


def _value(axis: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"--scale {axis}: {text!r} is not a number") from None
    if axis == "frame_rate":
        if not 0 < value <= _MOST_HZ:
            raise InputError(f"--scale frame_rate: {text} must be above 0 and at most 1e12 Hz")
    elif not 1 <= value <= _MOST or value != int(value):
        raise InputError(f"--scale {axis}: {text} must be a whole number of at least 1")
    return value


def _check_files(output: Path | None, picture: Path | None) -> None:
    """Refuse, before anything is measured, files that could not be written afterwards."""
    from ..benchmarks.plots import check_picture
    from ..benchmarks.throughput import KIND
    from ..instruments.files import check_output
    from ..report.benchmark import PICTURE

    check_apart({"--output": output, "--picture": picture})
    if output is not None:
        check_output(output, KIND)
    if picture is not None:
        check_picture(picture, PICTURE)


def _chosen_model(
    name: str | None,
    width: int | None,
    depth: int,
    axes: Axes,
    tokens: int,
    seed: int,
) -> "Model":
    """Return a model that can run: by name, or a GPT-2 of a width with random weights."""
    from ..benchmarks import contenders, throughput
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
    return contenders.runnable(model, seed)


def _measured(
    job: "Job",
    backends: Several["Backend"],
    axes: Axes,
    depth: int,
    repeats: int,
    seed: int,
    older: tuple[Path, Mapping[str, Any]] | None,
    tell: "Tell",
) -> dict[str, Any]:
    """Return what was measured, compared with an older document where one is given."""
    from ..benchmarks import comparison, throughput

    names = [throughput.name_of(backend) for backend in backends]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice; give each profile once")
    points = list(throughput.points_of(job, backends, axes, depth, seed))
    if older is not None:
        comparison.check_alike(older[1], throughput.outline(points, repeats), older[0])
    document = throughput.measure(points, repeats, tell) | {"seed": seed}
    if older is not None:
        document["comparison"] = comparison.compare(older[1], document, older[0].name)
    return document
