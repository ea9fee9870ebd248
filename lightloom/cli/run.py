"""`lightloom run`: a model on a backend."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..instruments import limit_threads
from .backends import chosen_backend, declare_attended
from .errors import keep_left_lit, resumable
from .inputs import chosen_inputs
from .options import (
    SEVERAL,
    Attended,
    BackendName,
    BenchFiles,
    Json,
    ModelName,
    NoCache,
    Placement,
    ProfileName,
    Seed,
    Settings,
    Threads,
    TraceFile,
)
from .output import check_apart, print_report
from .traces import check_trace, write_trace

if TYPE_CHECKING:
    from ..backends import Backend
    from ..models import Model
    from ..scheduler.runs import Plan

Prompt = Annotated[str | None, typer.Option(help="Text that a language model continues.")]
TextFile = Annotated[
    Path | None,
    typer.Option(
        help="File of text: its perplexity is measured; an encoder embeds or labels each line."
    ),
]
Sentences = Annotated[
    list[str] | None, typer.Option(help=f"Sentence that an encoder embeds or labels. {SEVERAL}")
]
ImageFile = Annotated[
    Path | None, typer.Option(help="File of images to classify: .npy, or .safetensors with labels.")
]
ArrayFile = Annotated[
    Path | None,
    typer.Option(help="File of a traced model's inputs by name (.safetensors); examples without."),
]
Uncalibrated = Annotated[
    bool,
    typer.Option(
        "--uncalibrated", help="Run a bench without a calibration; its numbers are not reliable."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Worker processes, one for each --bench; 0: no other process.", min=0),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Run on the benches of the Dask scheduler at this address."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Largest number of inputs: images, rows of 256 tokens, or sentences.", min=1),
]
MaxTokens = Annotated[int, typer.Option(help="Largest number of tokens to generate.", min=1)]
Temperature = Annotated[
    float, typer.Option(help="Temperature of sampling; 0: always the most probable token.")
]
TopK = Annotated[int, typer.Option(help="Sample from the k most probable tokens; 0: from all.")]
TopP = Annotated[
    float,
    typer.Option(
        help="Sample from the most probable tokens up to this sum of probabilities; 1: from all."
    ),
]
Reference = Annotated[
    bool,
    typer.Option(
        "--reference/--no-reference", help="Also run the model digitally, for comparison."
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(
        "--record",
        help="Keep every finished step in this new file, so that the run can be resumed.",
    ),
]
_MOST_IMAGES = 64  # in one pass


def command(
    model: ModelName = "digits",
    prompt: Prompt = None,
    text: TextFile = None,
    sentence: Sentences = None,
    images: ImageFile = None,
    arrays: ArrayFile = None,
    backend: BackendName = "mock",
    profile: ProfileName = None,
    bench: BenchFiles = None,
    uncalibrated: Uncalibrated = False,
    attended: Attended = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    set_: Settings = None,
    placement: Placement = "paper",
    limit: Limit = None,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    reference: Reference = True,
    trace: TraceFile = None,
    record: Record = None,
    seed: Seed = 0,
    threads: Threads = None,
    no_cache: NoCache = False,
    json_: Json = False,
) -> None:
    """Run a model on a backend, and show where the time goes.

    Example: lightloom run --model smollm2.gguf --prompt "Light is" --set photons_full_scale=1e4
    """
    limit_threads(threads)
    from ..instruments import Timeline
    from ..models import load_model
    from ..report.terminal.console import open_console
    from ..report.terminal.run import streamed_text

    console = open_console(for_people=not json_)
    _check_options(temperature, top_k, top_p, trace, record)
    if bench:
        declare_attended(attended)
    opened = chosen_backend(backend, profile, set_, seed, bench, uncalibrated, workers, scheduler)
    loaded = load_model(model)
    given = {"--prompt": prompt, "--text": text, "--sentence": sentence, "--images": images}
    inputs, labels = chosen_inputs(loaded, given | {"--arrays": arrays}, limit)
    sampling: Any = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    try:
        planned = _planned(loaded, opened, inputs, max_tokens, placement)
        measured = None if trace is None else Timeline(opened.clock)
        marks = opened.is_optical, opened.is_mock, opened.is_calibrated
        with resumable(record), streamed_text(console, *marks, not json_) as shown:
            watched = (labels, shown.tell, reference, measured, record, shown.on_text)
            finished = planned.run(inputs, *watched, **({} if prompt is None else sampling))
    finally:
        opened.close()
        keep_left_lit(record)
    print_report(console, finished.report(), json_, shown.has_begun)
    write_trace(trace, planned, measured, console)  # last: the report is printed already


def _check_options(
    temperature: float, top_k: int, top_p: float, trace: Path | None, record: Path | None
) -> None:
    """Refuse sampling that cannot be, and files that could not be written."""
    from ..models.generation import check_sampling

    check_sampling(temperature, top_k, top_p)
    if trace is not None:
        check_trace(trace)
    check_apart({"--record": record, "--trace": trace})


def _planned(
    model: "Model", backend: "Backend", inputs: Any, max_tokens: int, placement: str
) -> "Plan":
    """Return the plan of a run; its inputs are a prompt where they are a text."""
    from ..scheduler.runs import plan

    if isinstance(inputs, str):
        tokens = model.prompt_tokens(inputs).shape[1]
        room = max(model.config.context - tokens + 1, 1)
        if max_tokens > room:
            warnings.warn(
                f"the context of {model.name} ({model.config.context} tokens) has room for "
                f"{room} of the {max_tokens} tokens that were asked for",
                stacklevel=1,
            )
        return plan(model, backend, 1, tokens, min(max_tokens, room), placement)
    if model.task == "outputs":
        shape = next(iter(inputs.values())).shape
        tokens = shape[1] if model.config.has_tokens else None
        batch = 1 if model.fixed_sizes else min(shape[0], _MOST_IMAGES)
        return plan(model, backend, batch, tokens, 0, placement)
    if model.task == "vision":
        return plan(model, backend, min(len(inputs), _MOST_IMAGES), placement=placement)
    return plan(model, backend, placement=placement)
