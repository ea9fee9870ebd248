"""The studies as commands: `python -m lightloom.benchmarks NAME`.

A command reads options, prints tables and writes documents; what it measures is in the module of
its name. Nothing heavy is imported before a command needs it, and threads are limited before numpy
is loaded.
"""

import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..instruments import InputError, limit_threads
from ..instruments.commands import guarded
from ..instruments.files import check_output, read_text, write_document
from ..instruments.formatting import format_duration
from ..instruments.table import Table, plain_text
from ..instruments.text import say
from .plots import check_picture

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Studies of throughput, agreement and scaling.",
)


class BenchLayout(StrEnum):
    """The layouts of benches."""

    IMAGED = "imaged"
    LINE = "line"
    BLOCK = "single-pixel"


Value = TypeVar("Value")
Json = Annotated[
    Path | None, typer.Option("--json", help="Write what was measured to this file, as JSON.")
]
Encodings = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...", help="Encodings: abs-split, push-pull, offset (default: all)."
    ),
]
Shots = Annotated[int, typer.Option(help="Shots of each bench.", min=1)]
Seeds = Annotated[int, typer.Option(help="Number of seeds of the noise.", min=1)]
Threads = Annotated[int, typer.Option(help="Threads for arithmetic.", min=1)]
Repeats = Annotated[int, typer.Option(help="Number of rounds that are timed.", min=1)]
ProcessorTime = Annotated[
    bool, typer.Option("--processor-time", help="Take ratios of processor time in the tables.")
]
Placed = Annotated[str, typer.Option(help="Which products go to light, as for lightloom run.")]


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command that shows errors as one sentence, without a traceback."""
    return lambda function: app.command(name)(guarded(function))


def _show(table: Table) -> None:
    print(f"{plain_text(table)}\n", flush=True)


def _check(path: Path | None, kind: str) -> None:
    """Refuse a file that could not be written, before hours are spent on it."""
    if path is not None:
        check_output(path, kind)


def _write(path: Path | None, document: Mapping[str, Any], kind: str) -> None:
    if path is not None:
        write_document(path, document, kind)


def _listed(option: str, text: str | None, make: Callable[[str], Value]) -> list[Value]:
    """Return the values of a list such as "1,128".

    Raises
    ------
    InputError : naming the option and the value that cannot be read
    """
    values = []
    for part in [] if text is None else text.split(","):
        try:
            values.append(make(part.strip()))
        except ValueError:
            raise InputError(f"{option}: {part!r} is not a value; give VALUE,VALUE,...") from None
    return values


def _counts(option: str, text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as "1,128", each at least 1 and given once.

    Raises
    ------
    InputError : naming the option and the value
    """
    counts = _listed(option, text, int)
    if min(counts) < 1 or len(set(counts)) < len(counts):
        raise InputError(f"{option} {text}: give numbers of at least 1, each once")
    return tuple(counts)


def _encodings(text: str | None) -> list[str]:
    from .scaling import ENCODINGS

    names = _listed("--encodings", text, str)
    for name in names:
        if name not in ENCODINGS:
            raise InputError(f"unknown encoding {name!r}; choose from {', '.join(ENCODINGS)}")
    return names or list(ENCODINGS)


# --------------------------------------------------------------------------------- arithmetic


@_command("matmul")
def matmul(
    threads: Threads = 1,
    repeats: Annotated[
        int | None, typer.Option(help="Number of rounds that are timed (default: by size).", min=1)
    ] = None,
    rows: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of input rows.")
    ] = "1,128,1024",
    photons: Annotated[
        str,
        typer.Option(
            metavar="P,...", help="Little light, in photons of an element pair at full scale."
        ),
    ] = "0.01,0.1,1,10",
    processor_time: ProcessorTime = False,
    json: Json = None,
) -> None:
    """Time one product on the mock, beside float32 numpy.

    Example: python -m lightloom.benchmarks matmul --threads 1 --json matmul.json
    """
    limit_threads(threads)
    from . import matmul as study
    from . import peers

    _check(json, study.KIND)
    counts, levels = _counts("--rows", rows), _listed("--photons", photons, float)
    if not all(0 < level <= study.MOST_PHOTONS for level in levels):
        raise InputError(f"--photons {photons}: give numbers above 0, up to {study.MOST_PHOTONS:g}")
    results: list[dict[str, Any]] = []
    clock = time.process_time if processor_time else time.perf_counter
    document = study.document(threads, results) | {"clock": clock.__name__}
    print("; ".join(f"{what}: {how}" for what, how in document["path"].items()) + "\n")
    for shape in study.SHAPES:
        found = {count: study.measure(shape, count, repeats, clock) for count in counts}
        results += [{"shape": shape, "rows": n, "seconds": times} for n, times in found.items()]
        _show(study.table(shape, found))
    shape, count = study.LIGHT_SHAPE, study.LIGHT_ROWS
    dim = study.measure_light(shape, count, levels, repeats, clock)
    results += [
        {"shape": shape, "rows": count, "photons_full_scale": level, "seconds": times}
        for level, times in dim.items()
    ]
    _show(study.light_table(shape, count, dim))
    for sentence in peers.missing():
        print(sentence)
    _write(json, document, study.KIND)


@_command("model-speed")
def model_speed(
    model: Annotated[
        str | None,
        typer.Option(help="Language model (default: GPT-2 small's size, random weights)."),
    ] = None,
    profiles: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Bench profiles (default: all shipped).")
    ] = None,
    sequences: Annotated[
        str, typer.Option(metavar="N,...", help="Tokens of each prefill.")
    ] = "128,1024",
    threads: Annotated[
        str, typer.Option(metavar="N,...", help="Threads; each number has its own process.")
    ] = "1,2",
    rounds: Annotated[int, typer.Option(help="Number of rounds that are timed.", min=1)] = 5,
    minutes: Annotated[
        float, typer.Option(help="End after this time with the rounds so far.", min=0)
    ] = 60.0,
    processor_time: ProcessorTime = False,
    json: Json = None,
) -> None:
    """Time a model on every profile, beside numpy and torch.

    Each contender does the prefill, then decodes tokens after it. Ctrl-C shows the rounds so far.

    Example: python -m lightloom.benchmarks model-speed --threads 1 --rounds 3 --json speed.json
    """
    from . import model_speed as study

    _check(json, study.KIND)
    lengths, counts = _counts("--sequences", sequences), _counts("--threads", threads)
    names = tuple(_listed("--profiles", profiles, str)) or study.PROFILES
    work = study.Work(model, names, lengths)
    study.check(work)
    if not minutes >= 0:
        raise InputError(f"--minutes {minutes} is not a time")
    found = study.Measurement(work, counts)
    try:
        for _ in found.run(rounds, 60 * minutes, say):
            _write(json, found.document(), study.KIND)
    except KeyboardInterrupt:
        found.remarks.append("stopped by the operator: these are the rounds so far")
        raise
    finally:
        for table in found.tables(processor_time):
            _show(table)
        for sentence in found.sentences():
            print(sentence, flush=True)
        if found.seconds:
            _write(json, found.document(), study.KIND)
    if not found.seconds:
        raise InputError(f"nothing was measured in --minutes {minutes:g}; give more")


@_command("decoded-token")
def decoded_token(
    model: Annotated[
        str, typer.Option(help="Language model, or a shape with random weights.")
    ] = "gpt2",
    profile: Annotated[
        str, typer.Option(help="Bench profile, or digital for numpy alone.")
    ] = "slm-camera",
    sequence: Annotated[int, typer.Option(help="Tokens before it.", min=1)] = 128,
    tokens: Annotated[int, typer.Option(help="Tokens that are averaged.", min=1)] = 16,
    placement: Placed = "paper",
    json: Json = None,
) -> None:
    """Show where the time of one decoded token goes, with one thread.

    Example: python -m lightloom.benchmarks decoded-token --profile projection-2030
    """
    limit_threads(1)  # a profiler sees one thread
    from ..backends import DigitalBackend, MockBackend, load_profile
    from ..models.shapes import model_or_shape
    from . import decoded_token as study
    from .contenders import runnable

    _check(json, study.KIND)
    backend = DigitalBackend() if profile == "digital" else MockBackend(load_profile(profile))
    loaded = runnable(model_or_shape(model))
    document = study.measure(loaded, backend, sequence, tokens, placement)
    for table in study.tables(document):
        _show(table)
    _write(json, document, study.KIND)


@_command("forecast")
def forecast(
    models: Annotated[list[str], typer.Argument(help="Names, folders or GGUF files of models.")],
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)] = 128,
    placement: Placed = "paper",
    threads: Annotated[int | None, typer.Option(help="Threads for arithmetic.", min=1)] = None,
) -> None:
    """Predict tokens per second of benches, beside this processor.

    Example: python -m lightloom.benchmarks forecast gpt2 path/to/smollm2.gguf
    """
    limit_threads(threads)
    from . import forecast as study

    rows = [row for name in models for row in study.forecast(name, tokens, placement)]
    _show(study.table(rows))


# ------------------------------------------------------------------------------------ benches


@_command("agreement")
def agreement(
    bench: Annotated[
        list[Path] | None, typer.Argument(help="Bench files of simulated benches.")
    ] = None,
    outputs: Annotated[
        int, typer.Option(help="Smallest number of outputs to compare.", min=1)
    ] = 7200,
) -> None:
    """Compare benches with exact products and with the mock.

    The exit status is 1 where a figure is beyond its limit.

    Example: python -m lightloom.benchmarks agreement bench.toml --outputs 7200
    """
    from . import agreement as study

    agrees = True
    for found in study.measure(bench or [], outputs):
        _show(study.table(found))
        agrees &= not found.faults
    if not agrees:
        raise typer.Exit(1)


@_command("calibration")
def calibration(
    layout: Annotated[
        BenchLayout, typer.Option(help="Layout of the benches.")
    ] = BenchLayout.IMAGED,
    seeds: Annotated[int, typer.Option(help="Number of simulated benches.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="Seed of the first bench.", min=0)] = 1,
    products: Annotated[int, typer.Option(help="Number of products to compare.", min=4)] = 4000,
    bits: Annotated[int, typer.Option(help="Bit depth of both modulators.", min=1)] = 12,
    modulator: Annotated[str, typer.Option(help="Device of both modulators.")] = "fast-1920",
) -> None:
    """Calibrate simulated benches and compare with ground truth.

    Example: python -m lightloom.benchmarks calibration --layout imaged --seeds 5
    """
    from ..backends.optics.calibration_tables import cost_table
    from . import calibration as study

    is_met = True
    for seed in range(first_seed, first_seed + seeds):
        start = time.perf_counter()
        text = study.bench_text(layout, seed, bits, modulator)
        found = study.measure(text, seed, products)
        took = format_duration(time.perf_counter() - start)
        title = f"{layout}, seed {seed}, {took} in all"
        _show(study.comparison_table(found, title))
        _show(cost_table(list(found.calibration.steps.values())))
        is_met &= all(row.is_met for row in found.rows)
    print("all met" if is_met else "not all met")


@_command("twins")
def twins(
    layout: Annotated[
        BenchLayout, typer.Option(help="Layout of the benches.")
    ] = BenchLayout.IMAGED,
    seeds: Annotated[int, typer.Option(help="Number of simulated benches.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="Seed of the first bench.", min=0)] = 1,
    blocks: Annotated[int, typer.Option(help="Random products of each bench.", min=2)] = 12,
    images: Annotated[
        int, typer.Option(help="Images that the digits model classifies.", min=0)
    ] = 0,
    device: Annotated[
        str, typer.Option(help="Device of modulators and camera, such as tiny.")
    ] = "fast-512",
) -> None:
    """Compare the twins of simulated benches as found with these benches.

    The exit status is 1 where a twin is beyond its limits.

    Example: python -m lightloom.benchmarks twins --seeds 5
    """
    from . import twins as study

    found = []
    for seed in range(first_seed, first_seed + seeds):
        text = study.bench_text(seed, layout, device)
        found.append(study.measure(text, f"{layout}, seed {seed}", blocks, images))
        say(f"{found[-1].name}: done")
    _show(study.error_table(found))
    if images:
        _show(study.score_table(found))
    if not all(one.is_met for one in found):
        raise typer.Exit(1)


@_command("shot-overhead")
def shot_overhead(
    threads: Annotated[
        int | None,
        typer.Option(help="Threads for arithmetic (simulated light uses all cores).", min=1),
    ] = None,
    json: Json = None,
) -> None:
    """Time what the host does for one shot of a bench.

    Example: python -m lightloom.benchmarks shot-overhead --json bench.json
    """
    limit_threads(threads)
    from . import shot_overhead as study

    _check(json, study.KIND)
    results = study.measure_all()
    _show(study.table(results))
    _write(json, {"schema": 1, "results": results}, study.KIND)


@_command("pipeline")
def pipeline(
    shots: Shots = 2000,
    trace: Annotated[
        Path | None, typer.Option(help="Write a timeline of the first layer, for lightloom report.")
    ] = None,
) -> None:
    """Compare shot rates with device limits and predictions.

    Example: python -m lightloom.benchmarks pipeline --shots 2000 --trace trace.json
    """
    from . import pipeline as study

    for table in study.measure(shots, trace):
        _show(table)


@_command("two-benches")
def two_benches(
    shots: Shots = 2000,
    repeats: Repeats = 3,
) -> None:
    """Measure the speed-up of two benches over one.

    Example: python -m lightloom.benchmarks two-benches --shots 2000
    """
    from . import two_benches as study

    _show(study.measure(shots, repeats))
    if hasattr(os, "getloadavg"):
        print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


@_command("journal")
def journal(
    shots: Shots = 2000,
    hours: Annotated[
        float | None,
        typer.Option(help="Measure memory instead, over this many hours of virtual time.", min=1),
    ] = None,
) -> None:
    """Measure the time, size and memory that a journal takes.

    Example: python -m lightloom.benchmarks journal --hours 24
    """
    from . import journal as study

    if hours is None:
        _show(study.overhead_table(shots))
        return
    found = study.day(hours)
    _show(study.day_table(found))
    used = [megabytes for _, megabytes, _ in found[1:]]
    if used:
        print(f"memory after the first hour: {min(used):.1f} to {max(used):.1f} MB")


# ------------------------------------------------------------------------------------ scaling


@_command("light-levels")
def light_levels(
    model: Annotated[str, typer.Option(help="Language model: a name, folder or GGUF file.")],
    text: Annotated[Path, typer.Option(help="File of the text.")],
    limit: Annotated[int, typer.Option(help="Number of rows of 256 tokens.", min=1)] = 8,
    seeds: Seeds = 5,
    levels: Annotated[
        str, typer.Option(metavar="E,...", help="Light levels, in electrons at full scale.")
    ] = "1e6,1e5,1e4,1e3",
    readout_bits: Annotated[
        int, typer.Option(help="Bits of the converter; 0: no converter.", min=0)
    ] = 8,
    encodings: Encodings = None,
    json: Json = None,
) -> None:
    """Measure the perplexity of a language model against light.

    Example: python -m lightloom.benchmarks light-levels --model smollm2.gguf --text topics.txt
    """
    from ..models import load_model
    from . import light_levels as study

    _check(json, study.KIND)
    chosen = _encodings(encodings)
    given = _listed("--levels", levels, float)
    loaded = load_model(model)
    rows = loaded.rows_of(read_text(text))[:limit]
    bits = readout_bits or None
    results: list[dict[str, Any]] = []
    digital = loaded.perplexity(rows)
    document = {"schema": 1, "digital": digital, "readout_bits": bits, "results": results}
    for encoding, detection in study.BENCHES:
        if encoding in chosen:
            found = study.measure(model, rows, (encoding, detection), bits, given, seeds)
            results.append({"encoding": encoding, "detection": detection, "perplexity": found})
            cells = ", ".join(map(study.cell, found.values()))
            say(f"{study.bench_name(encoding, detection)}: {cells}")
            _write(json, document, study.KIND)
    _show(study.table(document, seeds))


@_command("scaling")
def scaling(
    family: Annotated[
        Path, typer.Argument(help="Folder of trained models, or the JSON of an earlier study.")
    ],
    encodings: Encodings = None,
    placement: Placed = "projections",
    rows: Annotated[int, typer.Option(help="Number of rows of held-out text.", min=1)] = 32,
    seeds: Seeds = 5,
    share: Annotated[
        float, typer.Option(help="Rise of the loss that is allowed, as a fraction of the loss.")
    ] = 0.01,
    json: Json = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the law as .svg or .png (extra: report).")
    ] = None,
) -> None:
    """Fit the light that a model needs against its width.

    Example: python -m lightloom.benchmarks scaling family --json scaling.json
    """
    from . import scaling as study

    _check(json, study.KIND)
    if picture is not None:
        check_picture(picture, study.PICTURE)
    chosen = _encodings(encodings)
    if family.is_file():
        measured = study.read_members(family)
    else:
        measured = [
            study.measure_member(folder, chosen, placement, rows, seeds, share, say)
            for folder in study.members(family)
        ]
        _show(study.budget_table(measured))
    fitted = study.all_laws(measured, chosen)
    for encoding, laws in fitted.items():
        _show(study.law_table(encoding, laws))
    document = {
        "schema": 1,
        "is_mock": True,
        "placement": placement,
        "share": share,
        "members": measured,
        "laws": {
            encoding: {name: vars(law) for name, law in laws.items()}
            for encoding, laws in fitted.items()
        },
    }
    _write(json, document, study.KIND)
    if picture:
        study.draw(document, picture)


@_command("scaling-layers")
def scaling_layers(
    model: Annotated[str, typer.Option(help="Language model or encoder.")],
    rows: Annotated[int, typer.Option(help="Number of rows of text, or of sentences.", min=1)] = 4,
    length: Annotated[int, typer.Option(help="Tokens in each row.", min=2)] = 128,
    layers: Annotated[
        str | None, typer.Option(metavar="N,...", help="Layers that are also measured one by one.")
    ] = None,
    encodings: Encodings = None,
    seeds: Seeds = 3,
    products: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Names of products (default: all).")
    ] = None,
    json: Json = None,
) -> None:
    """Measure the light that a model needs, product by product.

    Example: python -m lightloom.benchmarks scaling-layers --model minilm --layers 0,2,5
    """
    from ..models import load_model
    from . import scaling_layers as study

    _check(json, study.KIND)
    chosen, named = _encodings(encodings), _listed("--products", products, str)
    loaded = load_model(model)
    inputs = study.inputs_of(loaded, rows, length)
    groups: list[dict[str, Any]] = []
    document = {
        **{"schema": 1, "is_mock": True, "model": loaded.name, "task": loaded.task},
        **{"rows": rows, "length": length, "seeds": seeds, "groups": groups},
    }
    for name, steps in study.groups_of(loaded, _listed("--layers", layers, int)).items():
        if not named or name.split(",")[0] in named:
            groups.append(study.measure_group(loaded, inputs, name, steps, chosen, seeds, say))
            _write(json, document, study.KIND)
    _show(study.table(groups))


if __name__ == "__main__":
    app(windows_expand_args=False)
