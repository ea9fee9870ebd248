"""`lightloom plan`: how a model is split, and what the bench would take."""

from pathlib import Path
from typing import Annotated

import typer

from ..instruments import InputError, limit_threads
from .backends import chosen_backend
from .options import (
    BackendName,
    Batch,
    Json,
    ModelName,
    NewTokens,
    Placement,
    ProfileName,
    Seed,
    Sequence,
    Settings,
    Threads,
    TraceFile,
)
from .output import print_json
from .traces import check_trace, write_trace

SimulatedBench = Annotated[
    Path | None,
    typer.Option("--bench", help="Bench file of simulated instruments, whose times are predicted."),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Measure the times of host steps on this machine, instead of the profile's.",
    ),
]


def command(
    model: ModelName = "digits",
    backend: BackendName = "mock",
    profile: ProfileName = None,
    set_: Settings = None,
    placement: Placement = "paper",
    batch: Batch = 1,
    sequence: Sequence = None,
    new_tokens: NewTokens = 0,
    bench: SimulatedBench = None,
    measure: Measure = False,
    trace: TraceFile = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Print how each layer is split, and predict its time on the bench; runs nothing.

    Example: lightloom plan --model smollm2.gguf --sequence 128 --profile dmd-camera
    """
    limit_threads(threads)
    from ..models.shapes import model_or_shape
    from ..report.terminal.console import open_console
    from ..report.terminal.run import show_plan
    from ..scheduler.runs import plan

    console = open_console(for_people=not json_)
    if trace is not None:
        check_trace(trace)
    loaded = model_or_shape(model)
    if bench is not None:
        _check_simulated(bench)
    opened = chosen_backend(backend, profile, set_, seed, None if bench is None else [bench])
    try:
        planned = plan(loaded, opened, batch, sequence, new_tokens, placement)
        if measure:
            planned = planned.measured()
        if json_:
            print_json(planned.as_dict())
        else:
            show_plan(console, planned)
        write_trace(trace, planned, None, console)
    finally:
        opened.close()


def _check_simulated(bench: Path) -> None:
    """Refuse a bench of real instruments."""
    from ..backends.bench import load_bench

    if not load_bench(bench).is_simulated:
        raise InputError(
            f"{bench} has real instruments, whose times are known only once they are connected, "
            "and a plan touches none; plan with a copy of simulated ones, or with --profile"
        )
