"""The command line: every command of `lightloom`, each a short way to a call of Python.

Nothing heavy is imported before a command needs it, and threads are set before numpy is loaded.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..instruments import limit_threads
from ..instruments.safety import signals
from ..report.streams import say, warnings_as_remarks
from . import process

if TYPE_CHECKING:
    from ..backends import Backend
    from ..backends.bench.bench import Bench
    from ..models import Model
    from ..scheduler.runs.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Run Transformers on light, and see what that costs.",
)


ModelName = Annotated[
    str, typer.Option("--model", help="digits, glimmer, a folder, a GGUF file, or a hub name.")
]
BackendName = Annotated[str, typer.Option("--backend", help="digital or mock.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Bench profile: a name or a TOML file.")
]
BenchPaths = Annotated[
    list[Path] | None,
    typer.Option("--bench", help="Bench file: run on its instruments; several share the work."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the profile."),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise and of sampling.", min=0)]
Threads = Annotated[
    int | None, typer.Option(help="Threads for arithmetic (else OMP_NUM_THREADS, or all).", min=1)
]
Placement = Annotated[
    str,
    typer.Option(
        help="Products on light: paper, projections, all-optical, host, fastest, least-energy, "
        "or a file of rules (.toml)."
    ),
]
TracePath = Annotated[
    Path | None, typer.Option(help="Write a timeline for ui.perfetto.dev (.json or .json.gz).")
]
RecordPath = Annotated[
    Path | None,
    typer.Option("--record", help="Keep every finished step in this new file, to resume from it."),
]
Attended = Annotated[
    bool, typer.Option("--attended", help="Somebody is at the bench, though not at this terminal.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def main() -> NoReturn:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    process.run(app)


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose `LightloomError`s are shown without a traceback."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            from ..instruments import LightloomError, Paused

            try:
                with warnings_as_remarks():  # of models, from when they are opened
                    function(*args, **kwargs)
            except LightloomError as error:
                say(str(error))
                raise typer.Exit(3 if isinstance(error, Paused) else 2) from None
            except OSError as error:  # a disk that is full, a folder that is gone
                say(_sentence(error))
                raise typer.Exit(1) from None
            except KeyboardInterrupt:  # `process` says so
                raise typer.Exit(signals.STATUS) from None
            refuse_to_end_lit()

        return app.command(name)(guarded)

    return register


def refuse_to_end_lit() -> None:
    """End with a status of its own where a source may still emit: what was asked was not done."""
    for sentence in signals.left_lit():
        say(sentence)
    if signals.left_lit():
        raise typer.Exit(1)


def keep_left_lit(record: Path | None) -> None:
    """Keep in the journal of a run that a source may still emit, for its page."""
    if record is not None and signals.left_lit() and record.exists():
        from ..scheduler.runs import resume

        resume.keep_left_lit(record, signals.left_lit())


def _sentence(error: OSError) -> str:
    """Name the file and what the system says of it."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"the system refuses a file or a connection: {why}"
    return f"cannot use {str(error.filename)!r}: {why}"


@_command("run")
def run(
    model: ModelName = "digits",
    prompt: Annotated[
        str | None, typer.Option(help="Text that a language model continues.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="File: perplexity of its text; for encoders, its lines.")
    ] = None,
    sentence: Annotated[
        list[str] | None, typer.Option(help="A sentence to embed; give several.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Images to classify: .npy, or .safetensors with labels.")
    ] = None,
    backend: BackendName = "mock",
    profile: ProfileName = None,
    bench: BenchPaths = None,
    uncalibrated: Annotated[
        bool,
        typer.Option(
            "--uncalibrated", help="Run a bench on a guess; its numbers are not to be trusted."
        ),
    ] = False,
    attended: Attended = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes: one for each --bench; 0: all in this one.", min=0)
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the benches of a Dask cluster.")
    ] = None,
    set_: Settings = None,
    placement: Placement = "paper",
    limit: Annotated[
        int | None, typer.Option(help="Inputs: images, rows of 256 tokens, sentences.", min=1)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate.", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 takes the likeliest.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest up to this sum; 1: all.")] = 1.0,
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="Also run digitally, to compare.")
    ] = True,
    trace: TracePath = None,
    record: RecordPath = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Run a model on a backend, and say where its time goes.

    Example: lightloom run --model smollm2.gguf --prompt "Light is" --set photons_full_scale=1e4
    """
    limit_threads(threads)
    from ..instruments import Timeline
    from ..models import load_model
    from ..models.model import check_sampling
    from ..report import terminal
    from ..scheduler.runs import plan

    console = terminal.console(for_people=not json_)
    check_sampling(temperature, top_k, top_p)
    _check_trace(trace)
    _check_apart({"--record": record, "--trace": trace})
    if bench:
        _say_attended(attended)
    opened = _open(backend, profile, set_, seed, bench, uncalibrated, workers, scheduler)
    loaded = load_model(model)
    given = {"--prompt": prompt, "--text": text, "--sentence": sentence, "--images": images}
    inputs, labels = _inputs(loaded, given, limit)
    try:
        if prompt is not None:
            tokens = loaded.prompt_tokens(prompt).shape[1]
            room = max(loaded.config.context - tokens + 1, 1)
            if max_tokens > room:
                warnings.warn(
                    f"the context of {loaded.name} ({loaded.config.context} tokens) has room for "
                    f"{room} of the {max_tokens} tokens that were asked for",
                    stacklevel=1,
                )
            planned = plan(loaded, opened, 1, tokens, min(max_tokens, room), placement)
        elif loaded.task == "vision":
            planned = plan(loaded, opened, min(len(inputs), 64), placement=placement)
        else:
            planned = plan(loaded, opened, placement=placement)
        sampling: dict[str, Any] = {}
        if prompt is not None:
            sampling = {"temperature": temperature, "top_k": top_k}
            sampling |= {"top_p": top_p, "seed": seed}
        measured = None if trace is None else Timeline(opened.clock)
        with _resumable(record), terminal.progress(console) as tell:
            finished = planned.run(inputs, labels, tell, reference, measured, record, **sampling)
    finally:
        opened.close()
        keep_left_lit(record)
    report = finished.report()
    if json_:
        print_json(report.as_dict())
    else:
        terminal.report(console, report)
    if trace is not None and measured is not None:  # last: what was run is told already
        _write_trace(trace, planned, measured, console)


@contextmanager
def _resumable(record: Path | None) -> Iterator[None]:
    """Say how to go on with a run that did not come to its end."""
    from ..instruments import InputError

    try:
        yield
    except InputError:  # what is wrong with the input will be wrong again
        raise
    except BaseException:
        if record is not None and record.exists():
            say(f"what was finished is kept; go on with: lightloom resume {record}")
        raise


@_command("resume")
def resume_(
    run: Annotated[Path, typer.Argument(help="Journal that run --record wrote.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model lies now, if it was moved.")
    ] = None,
    bench: Annotated[
        list[Path] | None,
        typer.Option("--bench", help="Where the bench file lies now, if it was moved; each one's."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="Go on although it changed: model, bench, calibration, versions."),
    ] = None,
    attended: Attended = False,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Go on with a run that was stopped, paused or killed, from the last thing it finished.

    Example: lightloom resume run.db
    """
    limit_threads(threads)
    from ..models import load_model
    from ..report import terminal
    from ..scheduler.runs.resume import resume

    if attended:
        _say_attended(attended)
    console = terminal.console(for_people=not json_)
    try:
        with _resumable(run), terminal.progress(console) as tell:
            report = resume(run, load_model, model, bench, accept or (), tell).report()
    finally:
        keep_left_lit(run)
    if json_:
        print_json(report.as_dict())
    else:
        terminal.report(console, report)


@_command("plan")
def plan_(
    model: ModelName = "digits",
    backend: BackendName = "mock",
    profile: ProfileName = None,
    set_: Settings = None,
    placement: Placement = "paper",
    batch: Annotated[int, typer.Option(help="Images or sequences in one pass.")] = 1,
    sequence: Annotated[int | None, typer.Option(help="Tokens of each sequence.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate after them.")] = 0,
    bench: Annotated[
        Path | None, typer.Option("--bench", help="Bench file of simulated instruments.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Time host steps on this machine, instead of a profile's."),
    ] = False,
    trace: TracePath = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Print how each layer is split, and predict what the bench would take; runs nothing.

    Example: lightloom plan --model smollm2.gguf --sequence 128 --profile dmd-camera
    """
    limit_threads(threads)
    from ..models.shapes import model_or_shape
    from ..report import terminal
    from ..scheduler.runs import plan

    console = terminal.console(for_people=not json_)
    _check_trace(trace)
    loaded = model_or_shape(model)
    if bench is not None:
        _want_simulated(bench)
    opened = _open(backend, profile, set_, seed, None if bench is None else [bench])
    try:
        planned = plan(loaded, opened, batch, sequence, new_tokens, placement)
        if measure:
            planned = planned.measured()
        if json_:
            print_json(planned.as_dict())
        else:
            terminal.plan(console, planned)
        if trace is not None:
            _write_trace(trace, planned, None, console)
    finally:
        opened.close()


@_command("benchmark")
def benchmark(
    model: Annotated[
        str | None,
        typer.Option("--model", help="As for run; or a size with random weights, such as gpt2."),
    ] = None,
    width: Annotated[int | None, typer.Option(help="A GPT-2 of this width instead.")] = None,
    depth: Annotated[int, typer.Option(help="Layers of it.")] = 12,
    backend: BackendName = "mock",
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", help="Bench profile: a name or a TOML file; give several."),
    ] = None,
    bench: BenchPaths = None,
    set_: Settings = None,
    placement: Placement = "paper",
    batch: Annotated[int, typer.Option(help="Images or sequences in one pass.")] = 1,
    sequence: Annotated[int | None, typer.Option(help="Tokens of each sequence.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate after them.")] = 0,
    repeats: Annotated[int, typer.Option(help="Rounds that are timed.", min=1)] = 15,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=V1,V2,...",
            help="Also over batch, sequence, width, rows, length or frame_rate; give several.",
        ),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Say what changed since this --output, beyond noise.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write every sample as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it: .svg or .png.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Time a model here, stage by stage, beside digital baselines that take turns with it.

    Example: lightloom benchmark --model gpt2 --new-tokens 9 --scale batch=1,4 --output now.json
    """
    limit_threads(threads)
    from ..benchmarks.throughput import make_job
    from ..report import benchmark, terminal

    console = terminal.console(for_people=not json_)
    axes = benchmark.parse_axes(scale or [])
    benchmark.check_files(output, picture)
    _check_apart({"--output": output, "--picture": picture})
    old = benchmark.older(compare)
    profiles: list[str | None] = [*profile] if profile else [None]
    backends = [_open(backend, name, set_, seed, bench) for name in profiles]
    tokens = (sequence or 0) + new_tokens
    loaded = benchmark.chosen_model(model, width, depth, axes, tokens, seed)
    try:
        job = make_job(loaded, batch, sequence, new_tokens, placement, seed)
        with terminal.progress(console) as tell:
            document = benchmark.measured(job, backends, axes, depth, repeats, seed, old, tell)
    finally:
        for opened in backends:
            opened.close()
    if json_:
        print_json(document)
    else:
        benchmark.show(console, document)
    if output is not None:
        benchmark.write(output, document)
    if picture is not None:
        benchmark.draw(picture, document)


@_command("energy")
def energy_(
    model: Annotated[
        str | None,
        typer.Option("--model", help="As for run; or gpt2, gpt3-175b, mt-nlg-530b, llama-7b."),
    ] = None,
    width: Annotated[int | None, typer.Option(help="A GPT-2 of this width instead.")] = None,
    depth: Annotated[int, typer.Option(help="Layers of it.")] = 12,
    sequence: Annotated[int | None, typer.Option(help="Tokens of each sequence.")] = None,
    batch: Annotated[int, typer.Option(help="Images or sequences in one pass.")] = 1,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate after them.")] = 0,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", help="Bench profile: a name or a TOML file; give several."),
    ] = None,
    set_: Settings = None,
    placement: Placement = "paper",
    constants: Annotated[
        list[str] | None,
        typer.Option("--constants", help="Constants: a name or a TOML file; later ones win."),
    ] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Throughput that converters are counted for.")
    ] = None,
    no_machine: Annotated[
        bool, typer.Option("--no-machine", help="Do not time this machine as a baseline.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Account for energy and time on a bench and on digital machines; runs nothing.

    Example: lightloom energy --model gpt3-175b --profile projection-2030 --sequence 1024
    """
    limit_threads(threads)
    from ..backends import DEFAULT
    from ..instruments import InputError
    from ..instruments.files import check_output
    from ..models.shapes import model_or_shape, sized_model
    from ..report import energy, terminal
    from ..report.page import write_page
    from ..scheduler import measure_machine
    from ..scheduler.runs import plan

    if model is not None and width is not None:
        raise InputError("--model and --width are two models; give one of them")
    if tokens_per_second is not None and not 0 < tokens_per_second < float("inf"):
        raise InputError(f"--tokens-per-second = {tokens_per_second} must be above 0")
    if html is not None:
        check_output(html, energy.ENERGY_PAGE)
    loaded = sized_model(width, depth) if width is not None else model_or_shape(model or "digits")
    backends = [_open("mock", name, set_, 0) for name in profile or [DEFAULT]]
    sizes = (batch, sequence, new_tokens)
    plans = [plan(loaded, b, *sizes, placement, constants or ()) for b in backends]
    machines = [] if no_machine else [measure_machine()]
    document = energy.document(plans, constants or [], tokens_per_second, machines)
    if json_:
        print_json(document)
    else:
        energy.show(terminal.console(for_people=True), document)
    if html is not None:
        write_page(html, energy.energy_page(document), energy.ENERGY_PAGE)


@_command("init")
def init(
    file: Annotated[Path, typer.Argument(help="Where to write the bench file.")],
    layout: Annotated[str, typer.Option(help="imaged, line or block.")] = "imaged",
    clock: Annotated[str, typer.Option(help="virtual (as fast as it goes) or real.")] = "virtual",
    tiny: Annotated[bool, typer.Option("--tiny", help="A bench of 96 x 64 pixels.")] = False,
    as_found: Annotated[
        bool,
        typer.Option("--as-found", help="Crooked, uneven and drifting: to align and calibrate."),
    ] = False,
    world_seed: Annotated[
        int, typer.Option(help="Of the bench's imperfections and noise.", min=0)
    ] = 0,
) -> None:
    """Write a commented bench file of simulated instruments, to be changed to yours.

    Example: lightloom init bench.toml && lightloom run --bench bench.toml --limit 20
    """
    from ..backends.bench import example_file
    from ..instruments import InputError
    from ..instruments.files import write_output

    if clock not in ("virtual", "real"):
        raise InputError(f"unknown --clock {clock!r}; choose virtual or real")
    text = example_file(layout, clock, tiny, as_found, world_seed)
    write_output(file, text.encode())
    print(f"wrote {file}; next: lightloom {'align' if as_found else 'check'} --bench {file}")


@_command("devices")
def devices(json_: Json = False) -> None:
    """Find what is attached, each with the lines for a bench file; writes nothing to a device.

    Example: lightloom devices
    """
    from ..instruments.discovery import discover
    from ..report import terminal

    found = discover()
    if json_:
        print_json({"schema": 1, "devices": [vars(item) for item in found]})
    else:
        terminal.devices(terminal.console(for_people=True), found)


@_command("check")
def check(
    bench: Annotated[Path, typer.Option("--bench", help="Bench file.")],
    random_products: Annotated[
        int | None,
        typer.Option(help="Compare so many random dot products, and show how far they are.", min=1),
    ] = None,
    rearm: Annotated[
        bool, typer.Option("--rearm", help="On site: let a bench that is latched off light again.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random products.", min=0)] = 1,
    json_: Json = False,
) -> None:
    """Try every instrument of a bench, and products; one line each, passed or failed.

    Example: lightloom check --bench bench.toml --random-products 2000
    """
    limit_threads(None)
    from ..backends.bench import FIRST_PRODUCTS, check_bench, load_bench, safety
    from ..report import terminal

    opened = load_bench(bench)
    if rearm:
        _rearm(bench, opened)
    findings, merit = check_bench(opened, random_products or FIRST_PRODUCTS, seed)
    source = opened.source
    fail_safe = safety.fail_safe(opened.file, opened.is_simulated, source)
    missing = safety.lacks(opened.file, source) if fail_safe is False else []
    if json_:
        document: dict[str, Any] = {"schema": 1, "bench": str(bench)}
        document["findings"] = [vars(f) for f in findings]
        document |= {"fail_safe": fail_safe, "not_fail_safe": missing}
        document["random_products"] = None if merit is None else merit.as_dict()
        print_json(document)
    else:
        console = terminal.console(for_people=True)
        terminal.checks(console, str(bench), findings)
        if missing:
            console.print(f"[bold yellow]NOT FAIL-SAFE[/]: {'; '.join(missing)}", highlight=False)
        if random_products is not None and merit is not None:
            terminal.merit(console, merit)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _rearm(bench: Path, opened: "Bench") -> None:
    """Ask somebody on site whether the beam path is safe; then the bench may give light again."""
    from ..backends.bench import safety
    from ..instruments import InputError

    with safety.holding(bench, not opened.is_simulated):
        found = safety.latched(bench, opened.latches)
        if found is None:
            say(f"{bench} is not latched off: nothing to re-arm")
            return
        if not safety.is_terminal(sys.stdin):
            raise InputError(
                f"--rearm: {bench} is {found}; only a person who sees the bench can re-arm it, at "
                "a terminal"
            )
        say(f"{bench} is {found} (found by {found.by})")
        question = 'If you are on site and the beam path is safe, type "safe": '
        print(question, end="", file=sys.stderr)
        if sys.stdin.readline().strip() != "safe":
            raise InputError(f"{bench} stays latched off")
        safety.rearm(bench, opened.latches)


@_command("align")
def align_(
    bench: Annotated[Path, typer.Option("--bench", help="Bench file.")],
    live: Annotated[
        bool, typer.Option("--live", help="Follow while screws are turned, until Ctrl-C.")
    ] = False,
    json_: Json = False,
) -> None:
    """Find how the modulators lie on each other and on the camera; begins a new calibration.

    Example: lightloom align --bench bench.toml --live
    """
    limit_threads(None)
    from ..backends.bench import load_bench
    from ..backends.bench.binding import path_for
    from ..backends.calibration import align, align_live, store
    from ..backends.optics.calibration_file import KIND
    from ..instruments.files import check_output
    from ..report import terminal

    check_output(path_for(bench), KIND)  # refuses what could not be stored before it looks

    console = terminal.console(for_people=not json_)
    with load_bench(bench) as opened:
        if live:
            _until_interrupted(lambda: terminal.live_alignment(console, align_live, opened))
        with terminal.progress(console) as tell:
            found = align(opened, tell)
        path = store(opened, found)
    if json_:
        print_json(found.as_dict() | {"bench": str(bench), "calibration": str(path)})
    else:
        terminal.alignment(console, found, str(bench), str(path))


@_command("calibrate")
def calibrate_(
    bench: Annotated[Path, typer.Option("--bench", help="Bench file; aligned before.")],
    step: Annotated[
        list[str] | None, typer.Option(help="Only this step; give several.", metavar="NAME")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Not this step; give several.", metavar="NAME")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out the steps that are stored already.")
    ] = False,
    json_: Json = False,
) -> None:
    """Measure an aligned bench by its own light, step by step; each is stored when it is done.

    Example: lightloom calibrate --bench bench.toml --resume
    """
    limit_threads(None)
    from ..backends.bench import load_bench
    from ..backends.calibration import calibrate
    from ..backends.optics.calibration_file import Step, described
    from ..report import terminal

    console = terminal.console(for_people=not json_)
    steps: list[Step] = []

    def done(finished: Step) -> None:
        steps.append(finished)
        if not json_:
            terminal.step(console, finished)

    try:
        with terminal.progress(console, in_percent=True) as tell:
            found = calibrate(
                load_bench(bench),
                step or (),
                skip or (),
                resume,
                lambda name, share: tell(name, round(100 * share), 100),
                done,
            )
    except KeyboardInterrupt:
        say(
            f"{len(steps)} steps of this call are stored; go on with: "
            f"lightloom calibrate --bench {bench} --resume"
        )
        raise
    if json_:
        document = {"schema": 1, "bench": str(bench), "calibration": found.path}
        costs = ("shots", "seconds", "computing_s", "light_j")
        print_json(
            document
            | {"steps": [described(item) for item in steps]}
            | {"total": {key: sum(getattr(item, key) for item in steps) for key in costs}}
        )
    else:
        terminal.calibration(console, steps, found, str(bench))


def _until_interrupted(work: Callable[[], None]) -> None:
    """Work until Ctrl-C, which ends this work alone; other signals end the program."""
    with signals.one_is_meant():
        work()


@_command("doctor")
def doctor(
    profile: Annotated[
        str | None, typer.Option(help="Show the constants of this profile, with sources.")
    ] = None,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Say what is installed, which arithmetic is active, and which profiles there are.

    Example: lightloom doctor --profile slm-camera
    """
    limit_threads(threads)
    from ..report import terminal

    console = terminal.console(for_people=True)
    if profile is not None:
        from ..backends import load_profile

        loaded = load_profile(profile)
        if json_:
            print_json(loaded.model_dump())
        else:
            terminal.profile(console, loaded)
        return
    findings = terminal.findings()
    if json_:
        print_json(findings)
    else:
        terminal.doctor(console, findings)


@_command("sweep")
def sweep_(
    file: Annotated[
        Path | None, typer.Argument(help="TOML file that names the sweep; options go before it.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="As for run; give several.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", help="Bench profile: a name or a TOML file; give several."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="push-pull, abs-split, offset.")
    ] = None,
    light: Annotated[
        str | None, typer.Option(metavar="E,...", help="Levels of light: photons_full_scale.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=V1,V2,...", help="Values of a field of the profile."),
    ] = None,
    seed: Annotated[str | None, typer.Option(metavar="N,...", help="Seeds of the noise.")] = None,
    placement: Annotated[
        str | None, typer.Option(help="Products on light: paper (default), as for run.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Inputs of each point.", min=1)] = None,
    text: Annotated[Path | None, typer.Option(help="For language models and encoders.")] = None,
    images: Annotated[Path | None, typer.Option(help="For vision models; else theirs.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes (else one a core); 0: this one, without Dask.", min=0),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster there instead.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file of what is finished; the same sweep goes on from there."),
    ] = None,
    skip_impossible: Annotated[
        bool, typer.Option("--skip-impossible", help="Leave out points that cannot be.")
    ] = False,
    threads: Annotated[
        int, typer.Option(help="Threads for the arithmetic of each process here.", min=1)
    ] = 1,
    json_: Json = False,
) -> None:
    """Run every combination of models, profiles, encodings, light and seeds on the mock.

    Example: lightloom sweep --encoding abs-split,offset --light 1e3,1e4 --seed 0,1 --limit 60
    """
    limit_threads(threads)
    from ..backends.mock.threads import processors
    from ..instruments import InputError
    from ..models import load_model
    from ..report import sweep, terminal

    if scheduler is not None and workers is not None:
        raise InputError("--scheduler has its own workers; give it or --workers")
    given: dict[str, Any] = {"models": model, "profiles": profile}
    given |= {"encodings": encoding, "light": light}
    given |= {"set": set_, "seeds": seed, "placement": placement, "limit": limit}
    wanted = sweep.make_sweep(sweep.asked(file, given | {"text": text, "images": images}))
    points, impossible = sweep.points_of(wanted, skip_impossible)
    loaded = {name: load_model(name) for name in wanted.models}
    sweep.check_used(wanted, [opened.task for opened in loaded.values()])
    inputs = {
        name: sweep.Inputs(*_inputs(opened, sweep.files_of(wanted, opened), wanted.limit))
        for name, opened in loaded.items()
    }
    results = sweep.Results(wanted, points, impossible, inputs, output)
    console = terminal.console(for_people=not json_)
    count = processors() if workers is None else workers
    try:
        with terminal.progress(console) as tell:
            remarks = sweep.run(results, inputs, count, scheduler, tell)
    except KeyboardInterrupt:
        there = "nothing, without --output" if output is None else f"what is finished in {output}"
        say(f"{len(results.left)} points are left; kept: {there}")
        raise
    document = results.document()
    if json_:
        print_json(document | {"remarks": remarks})
    else:
        sweep.show(console, document, remarks)
    if results.left:
        raise typer.Exit(1)


@_command("report")
def report_(
    file: Annotated[
        Path,
        typer.Argument(help="Journal or trace of a run; calibration, or its bench file (.toml)."),
    ],
    layer: Annotated[
        int | None, typer.Option(help="Layer of a trace to draw; else the one in the middle.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Page to write, else beside the file; .svg: only a trace's picture."),
    ] = None,
) -> None:
    """Write a run, a calibration, or one layer of a trace, as one HTML page.

    Examples: lightloom report run.db; lightloom report bench.toml --output bench.html;
    lightloom report trace.json --layer 3
    """
    limit_threads(None)
    from ..report.page import write_page
    from ..scheduler.journal.journal import is_journal
    from ..scheduler.runs.trace import is_trace

    if is_journal(file):
        written = _run_report(file, layer, output)
    elif is_trace(file):
        written = _trace_report(file, layer, output)
    else:
        written = _calibration_report(file, layer, output)
    write_page(*written)
    print(f"wrote {written[0]}")


@_command("export")
def export_(
    run: Annotated[Path, typer.Argument(help="Journal that run --record wrote.")],
    output: Annotated[
        Path, typer.Option(help="New file .h5 (HDF5), or new folder .zarr (Zarr, for xarray).")
    ],
) -> None:
    """Write all that a run kept as HDF5 or Zarr, with units and where it comes from.

    Example: lightloom export run.db --output run.h5
    """
    limit_threads(None)
    from ..scheduler.journal.export import export
    from ..scheduler.journal.journal import JournalFile

    with JournalFile(run) as journal:
        rows = export(journal, output)
    told = ", ".join(f"{rows.get(name, 0):,} {name}" for name in ("steps", "shots", "faults"))
    print(f"wrote {output}: {told}")


_Written = tuple[Path, str, str]  # where, what, and its kind


def _run_report(file: Path, layer: int | None, output: Path | None) -> _Written:
    from ..instruments import InputError
    from ..instruments.files import check_output
    from ..report.run import RUN_PAGE, run_page
    from ..scheduler.journal.journal import JournalFile

    if layer is not None:
        raise InputError(f"--layer belongs to a trace, and {file} is none")
    output = file.with_suffix(".html") if output is None else output
    if output.resolve() == file.resolve():
        raise InputError(f"--output {output} is the journal itself; give another name")
    check_output(output, RUN_PAGE)
    with JournalFile(file) as journal:
        return output, run_page(journal), RUN_PAGE


def _trace_report(file: Path, layer: int | None, output: Path | None) -> _Written:
    from ..instruments import InputError
    from ..instruments.files import check_output
    from ..report.gantt import TRACE_PAGE, TRACE_PICTURE, excerpt, picture, trace_page
    from ..scheduler.runs.trace import read_trace

    if output is None:
        name = file.with_suffix("") if file.suffix.lower() == ".gz" else file
        output = name.with_suffix(".html")
    if output.resolve() == file.resolve():
        raise InputError(f"--output {output} is the trace itself; give another name")
    kind = TRACE_PICTURE if output.suffix.lower() == ".svg" else TRACE_PAGE
    check_output(output, kind)
    trace = read_trace(file)
    if kind == TRACE_PICTURE:
        return output, picture(excerpt(trace, layer)), kind
    return output, trace_page(trace, layer, file.name), kind


def _calibration_report(file: Path, layer: int | None, output: Path | None) -> _Written:
    from ..backends.bench.binding import path_for
    from ..backends.optics.calibration_file import Calibration
    from ..instruments import InputError
    from ..instruments.files import check_output
    from ..report.page import CALIBRATION_PAGE, calibration_page

    if layer is not None:
        raise InputError(f"--layer belongs to a trace, and {file} is none")
    if not file.exists():
        raise InputError(
            f"no file {file}; give the journal of a run, a calibration, its bench file, or a trace"
        )
    path = path_for(file) if file.suffix.lower() == ".toml" else file
    output = path.with_suffix(".html") if output is None else output
    check_output(output, CALIBRATION_PAGE)
    return output, calibration_page(Calibration.read(path)), CALIBRATION_PAGE


def _want_simulated(bench: Path) -> None:
    from ..backends.bench import load_bench
    from ..instruments import InputError

    if not load_bench(bench).is_simulated:
        raise InputError(
            f"{bench} has real instruments, whose times are known only once they are connected, "
            "and a plan touches none; plan with a copy of simulated ones, or with --profile"
        )


_TRACED_SHOTS = 300_000  # of a prediction: more make a file that no viewer opens


def _check_trace(path: Path | None) -> None:
    """Refuse a trace that could not be written, before hours are spent on it."""
    from ..instruments import InputError
    from ..instruments.files import check_output
    from ..scheduler.runs.trace import KIND

    if path is None:
        return
    if not path.name.lower().endswith((".json", ".json.gz")):
        raise InputError(f"--trace {path}: a trace is called .json or .json.gz")
    check_output(path, KIND)


def _check_apart(outputs: dict[str, Path | None]) -> None:
    """Refuse one file for two outputs."""
    from ..instruments import InputError

    places: dict[str, str] = {}
    for option, path in outputs.items():
        if path is not None:
            other = places.setdefault(os.path.realpath(path), option)
            if other != option:
                raise InputError(f"{other} and {option} are both {path}; give each a name")


def _write_trace(path: Path, planned: "Plan", measured: Any, console: Any) -> None:
    """Write what was predicted, and what was measured where something ran."""
    from ..instruments import InputError, Timeline
    from ..scheduler.runs.trace import write_trace

    timelines = {}
    shots = planned.prediction.shots
    if shots <= _TRACED_SHOTS:
        timelines["predicted"] = Timeline()
        planned.predict(timeline=timelines["predicted"])
    if measured is not None:
        timelines["measured"] = measured
    if not timelines:
        raise InputError(
            f"--trace: the plan takes {shots:,} shots, and a trace holds {_TRACED_SHOTS:,} at "
            "most; give a smaller --batch or --sequence"
        )
    about = {
        "model": planned.model.name,
        "profile": planned.profile.name,
        "placement": planned.placement,
        "is_mock": planned.backend.is_mock,
        "predicted_shots": shots,
    }
    write_trace(path, timelines, about)
    told = f"wrote {path}; see it in ui.perfetto.dev, or with: lightloom report {path}"
    console.print(told, markup=False)


def _open(
    name: str,
    profile: str | None,
    settings: list[str] | None,
    seed: int,
    bench: list[Path] | None = None,
    uncalibrated: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> "Backend":
    """Open the backend that the options name."""
    from ..backends import DEFAULT, MockBackend, load_profile, open_backend, parse_setting
    from ..instruments import InputError

    if bench or scheduler is not None:
        if profile or settings:
            raise InputError("--profile and --set belong to a mock; a bench file says it all")
        if name == "digital":
            raise InputError("--bench and --backend digital are two backends; give one of them")
        return _open_benches(bench or [], uncalibrated, workers, scheduler)
    if uncalibrated or workers is not None:
        option = "--uncalibrated" if uncalibrated else "--workers"
        raise InputError(f"{option} is for a bench: give --bench too")
    if name == "digital":
        if profile or settings:
            raise InputError("--profile and --set belong to a mock; the digital backend has none")
        return open_backend("digital")
    if name != "mock":
        raise InputError(f"unknown --backend {name!r}; choose digital or mock")
    loaded = load_profile(DEFAULT if profile is None else profile)
    if settings:
        loaded = loaded.with_settings(dict(parse_setting(text) for text in settings))
    return MockBackend(loaded, seed)


def _say_attended(attended: bool) -> None:
    """Tell whatever opens a bench, in this process or one that it starts, that somebody is there.

    A person who reads this terminal is there without saying so.
    """
    from ..backends.bench import safety

    if attended or safety.is_attended():
        os.environ[safety.ATTENDED] = "1"


def _open_benches(
    paths: list[Path], uncalibrated: bool, workers: int | None, scheduler: str | None
) -> "Backend":
    from ..backends.bench import open_benches
    from ..instruments import InputError

    if scheduler is not None and (paths or workers is not None):
        raise InputError("--scheduler has its own benches; give it, or --bench and --workers")
    if workers and workers != len(paths):
        raise InputError(f"--workers {workers}: benches take a process each, here {len(paths)}")
    if scheduler is None and not workers:
        return open_benches(paths, uncalibrated)
    from ..scheduler.cluster.remote_benches import RemoteBenches

    return RemoteBenches(paths, scheduler, uncalibrated)


def _inputs(model: "Model", given: dict[str, Any], limit: int | None) -> tuple[Any, Any]:
    """Return what the options ask to run, and labels where there are any."""
    from ..instruments import InputError

    wanted = {
        "vision": ("--images",),
        "language": ("--prompt", "--text"),
        "encoder": ("--sentence", "--text"),
    }[model.task]
    used = [option for option, value in given.items() if value not in (None, [])]
    empty = [option for option in used if str(given[option]) in ("", ".")]
    if empty:
        raise InputError(f"{empty[0]} is empty")
    if len(used) > 1 or any(option not in wanted for option in used):
        raise InputError(
            f"{model.name!r} is a model of kind {model.task}: give {' or '.join(wanted)}, "
            f"not {' and '.join(used)}"
        )
    if model.task == "vision":
        return _images(model, given["--images"], limit)
    if not used:
        raise InputError(
            f"{model.name!r} is a model of kind {model.task}: give {' or '.join(wanted)}"
        )
    if given["--prompt"]:
        return given["--prompt"], None
    sentences = given["--sentence"]
    content = "" if given["--text"] is None else _read_text(given["--text"])
    if model.task == "encoder":
        if not sentences:
            sentences = [line.strip() for line in content.splitlines() if line.strip()]
        if not sentences:
            raise InputError(f"{given['--text']} holds no sentence")
        return sentences[:limit], None
    rows = model.rows_of(content)
    return rows[:limit], None


def _images(model: "Model", path: Path | None, limit: int | None) -> tuple[Any, Any]:
    from ..instruments import InputError
    from ..models.model import load_arrays

    if path is None:
        path = model.source / "data.safetensors"
        if not path.is_file():
            raise InputError(f"{model.name!r} comes without images: give --images FILE")
    if len(str(path)) > 1000 or not path.is_file():
        raise InputError(f"no file {str(path)[:200]!r}")
    if path.suffix.lower() == ".npy":
        import numpy as np

        try:
            array = np.load(path, allow_pickle=False)
        except Exception:  # numpy meets broken files with many kinds of exception
            array = None
        if not isinstance(array, np.ndarray) or not array.ndim:
            raise InputError(f"{path} is no .npy file of numbers")
        return array[:limit], None
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: images come as .npy or .safetensors")
    arrays = load_arrays(path)
    if "images" not in arrays or not arrays["images"].ndim:
        raise InputError(f"{path} holds no array 'images'")
    labels = arrays.get("labels")
    if labels is not None and labels.shape != arrays["images"].shape[:1]:
        raise InputError(
            f"{path}: labels of shape {labels.shape} for {len(arrays['images'])} images"
        )
    return arrays["images"][:limit], None if labels is None else labels[:limit]


def _read_text(path: Path) -> str:
    from ..instruments import InputError

    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: byte {error.start} is {error.reason}") from None
    if not content.strip():
        raise InputError(f"{path} is empty")
    return content


def print_json(document: dict[str, Any]) -> None:
    """Print a document as JSON in ASCII, without a control character that a terminal obeys."""
    text = json.dumps(document, indent=2, allow_nan=False, default=str)
    print(text.replace("\x7f", "\\u007f"))  # the one control character that json leaves
