"""`lightloom sweep`: every combination of models, profiles, light and seeds."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..instruments import InputError, limit_threads
from ..instruments.formatting import format_counted, format_duration
from ..instruments.text import say
from .inputs import chosen_inputs
from .options import SEVERAL, Json, NoCache, ProfileNames, split_settings, split_values
from .output import print_json

if TYPE_CHECKING:
    from ..benchmarks.sweep import Results, Sweep
    from ..benchmarks.sweep_points import Inputs, SweepPoint
    from ..models import Model

SweepFile = Annotated[
    Path | None, typer.Argument(help="TOML file that describes the sweep; options override it.")
]
Models = Annotated[list[str] | None, typer.Option("--model", help=f"Model as for run. {SEVERAL}")]
Encodings = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Encodings: push-pull, abs-split, offset.")
]
Light = Annotated[
    str | None, typer.Option(metavar="E,...", help="Light levels: values of photons_full_scale.")
]
ManySettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=V1,V2,...", help=f"Values of a field of the profile. {SEVERAL}"
    ),
]
Seeds = Annotated[str | None, typer.Option(metavar="N,...", help="Seeds of the noise.")]
OtherPlacement = Annotated[
    str | None, typer.Option(help="Which products go to light, as for run (default: paper).")
]
Limit = Annotated[int | None, typer.Option(help="Largest number of inputs of each point.", min=1)]
TextFile = Annotated[
    Path | None, typer.Option(help="File of text for language models and encoders.")
]
ImageFile = Annotated[
    Path | None,
    typer.Option(help="File of images for vision models (default: those of the model)."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Worker processes (default: one per core); 0: no other process, no Dask.", min=0
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Run on the workers of the Dask scheduler at this address."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(help="JSON file of finished points; the same sweep resumes from it."),
]
SkipImpossible = Annotated[
    bool, typer.Option("--skip-impossible", help="Leave out combinations that cannot exist.")
]
ThreadsEach = Annotated[
    int, typer.Option(help="Threads for the arithmetic of each process of this machine.", min=1)
]


def command(
    file: SweepFile = None,
    model: Models = None,
    profile: ProfileNames = None,
    encoding: Encodings = None,
    light: Light = None,
    set_: ManySettings = None,
    seed: Seeds = None,
    placement: OtherPlacement = None,
    limit: Limit = None,
    text: TextFile = None,
    images: ImageFile = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    output: Output = None,
    skip_impossible: SkipImpossible = False,
    threads: ThreadsEach = 1,
    no_cache: NoCache = False,
    json_: Json = False,
) -> None:
    """Run every combination of models, profiles, encodings, light and seeds on the mock.

    Example: lightloom sweep --encoding abs-split,offset --light 1e3,1e4 --seed 0,1 --limit 60
    """
    limit_threads(threads)
    from ..benchmarks.sweep import make_sweep
    from ..report.terminal.console import open_console
    from ..report.terminal.sweep import show_sweep

    if scheduler is not None and workers is not None:
        raise InputError("--scheduler has its own workers; give it or --workers")
    options: dict[str, Any] = {
        "models": model,
        "profiles": profile,
        "encodings": split_values(encoding),
        "light": split_values(light),
        "seeds": [_whole(text) for text in split_values(seed)],
        "placement": placement,
        "limit": limit,
        "text": None if text is None else str(text),
        "images": None if images is None else str(images),
    }
    sweep = make_sweep(_asked(file, options, set_ or []))
    inputs, results = _opened(sweep, skip_impossible, output)
    console = open_console(for_people=not json_)
    remarks = _run(results, inputs, workers, scheduler, output)
    document = results.document()
    if json_:
        print_json(document | {"remarks": remarks})
    else:
        show_sweep(console, document, remarks)
    if results.left:
        raise typer.Exit(1)


def _opened(
    sweep: "Sweep", skip_impossible: bool, output: Path | None
) -> tuple[dict[str, "Inputs"], "Results"]:
    """Return the inputs of each model, and the results that are there already."""
    from ..benchmarks.sweep import Results
    from ..benchmarks.sweep_points import Inputs
    from ..models import load_model

    points, impossible = _points(sweep, skip_impossible)
    loaded = {name: load_model(name) for name in sweep.models}
    _check_used(sweep, [opened.task for opened in loaded.values()])
    inputs = {
        name: Inputs(*chosen_inputs(opened, _files(sweep, opened), sweep.limit))
        for name, opened in loaded.items()
    }
    return inputs, Results(sweep, points, impossible, inputs, output)


def _run(
    results: "Results",
    inputs: Mapping[str, "Inputs"],
    workers: int | None,
    address: str | None,
    output: Path | None,
) -> list[str]:
    """Run what is left of a sweep, and return remarks on who ran it.

    Parameters
    ----------
    workers : processes of this machine, None for one a core; 0 takes this one
    address : of a Dask scheduler, instead
    """
    from ..benchmarks.sweep import run_sweep
    from ..instruments.environment import processors
    from ..report.terminal.console import progress
    from ..scheduler.cluster.workers import open_workers

    if not results.left:
        return ["every point was there already; nothing was run"]
    left, start = len(results.left), time.perf_counter()
    count = processors() if workers is None else workers
    try:
        with progress() as tell:
            tell("opening workers", 0, 1)
            with open_workers(min(count, left), address) as runners:
                opened = time.perf_counter()
                run_sweep(results, inputs, runners, tell)
                done = time.perf_counter()
    except KeyboardInterrupt:
        there = "nothing, without --output" if output is None else f"what is finished in {output}"
        say(f"{format_counted(len(results.left), 'point')} left; kept: {there}")
        raise
    opening, running = format_duration(opened - start), format_duration(done - opened)
    took = f"opened in {opening}, {format_counted(left, 'point')} in {running}"
    return [f"{runners.name}: {took}", *runners.remarks]


def _asked(
    file: Path | None, options: Mapping[str, Any], settings: Sequence[str]
) -> dict[str, Any]:
    """Return a sweep's lists: those of the file, and over them those of the options.

    Parameters
    ----------
    options : key of a sweep -> what the option gave, None or empty where it was not given
    settings : texts KEY=V1,V2,... of --set
    """
    from ..instruments.toml_file import read_toml

    document = {} if file is None else read_toml(file, "sweep")
    document |= {key: value for key, value in options.items() if value not in (None, [])}
    if settings:
        fields = split_settings("--set", settings, "KEY=V1,V2,...")
        document["set"] = {**document.get("set", {}), **fields}
    return document


def _whole(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _points(sweep: "Sweep", skip_impossible: bool) -> tuple[list["SweepPoint"], dict[str, str]]:
    """Return the points, and why others cannot be, where those are to be left out."""
    points, impossible = sweep.points()
    if impossible and (not points or not skip_impossible):
        count = len(points) + len(impossible)
        way = "; leave such points out with --skip-impossible" if points else ""
        name, why = next(iter(impossible.items()))
        share = f"{len(impossible)} of {format_counted(count, 'point')}"
        raise InputError(f"{share} cannot be, the first {name!r}: {why}{way}")
    return points, impossible


def _files(sweep: "Sweep", model: "Model") -> dict[str, Any]:
    """Return the options of inputs, as `lightloom run` has them, that suit a model."""
    option, path = ("--images", sweep.images) if model.task == "vision" else ("--text", sweep.text)
    return {} if path is None else {option: Path(path)}


def _check_used(sweep: "Sweep", tasks: Sequence[str]) -> None:
    """Refuse files of inputs that no model of the sweep takes.

    Parameters
    ----------
    tasks : of its models
    """
    for key, used in (("text", set(tasks) - {"vision"}), ("images", set(tasks) & {"vision"})):
        path = getattr(sweep, key)
        if path is not None and not used:
            raise InputError(f"{key!r} is of no use to {', '.join(sweep.models)}: {path}")
