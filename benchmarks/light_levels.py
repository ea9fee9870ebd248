"""Measure the perplexity of a language model against light, for every encoding and detection.

    python -m lightloom.benchmarks light-levels --model smollm2.gguf --text topics.txt

Projections are on light, with 8-bit inputs and weights. The converter has 8 bits, and ranges per
output row from a calibration text. `--readout-bits 0` takes no converter, which leaves the noise of
the light alone. The spread is the standard deviation of a run over the seeds of the noise.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import MockBackend, OpticsProfile
from ..instruments.formatting import format_counted, format_number
from ..instruments.table import Column, Table
from ..models import load_model

KIND = "lightloom light levels"
BENCHES = (
    ("abs-split", "balanced"),
    ("abs-split", "per-reading"),
    ("push-pull", "balanced"),
    ("push-pull", "per-reading"),
    ("offset", "balanced"),  # one rail, one reading: both detections are the same
)


def measure(
    model_path: str,
    rows: Any,
    bench: tuple[str, str],
    readout_bits: int | None,
    levels: Sequence[float],
    seeds: int,
) -> dict[float, list[float]]:
    """Return the perplexities of every seed: light level -> [seeds]."""
    model, ranges = load_model(model_path), None
    found: dict[float, list[float]] = {}
    for level in levels:
        profile = OpticsProfile(
            input_bits=8,
            weight_bits=8,
            readout_bits=readout_bits,
            encoding=bench[0],
            detection=bench[1],
            photons_full_scale=level,
        )
        backend = MockBackend(profile)
        executor = model.executor(backend, "projections")
        if ranges is not None:
            executor.ranges = ranges  # they do not depend on the light
        found[level] = []
        for seed in range(seeds):
            backend.seed = seed
            found[level].append(model.perplexity(rows, backend, "projections"))
        ranges = executor.ranges
    return found


def table(document: Mapping[str, Any], seeds: int) -> Table:
    """Return perplexities as mean +- standard deviation over the seeds."""
    rows = tuple(
        (
            bench_name(result["encoding"], result["detection"]),
            *map(cell, result["perplexity"].values()),
        )
        for result in document["results"]
    )
    levels = document["results"][0]["perplexity"] if document["results"] else ()
    columns = (
        Column("electrons at full scale", align="left"),
        *(Column(format_number(level)) for level in levels),
    )
    digital, over = document["digital"], format_counted(seeds, "seed")
    title = f"Perplexity, mean and standard deviation over {over}; digital {digital:.2f}"
    return Table(title, columns, rows)


def bench_name(encoding: str, detection: str) -> str:
    """Return what a bench is called in a table; offset has one detection only."""
    return encoding if encoding == "offset" else f"{encoding}, {detection}"


def cell(values: Sequence[float]) -> str:
    """Return the mean and the standard deviation of perplexities as text; one has no deviation."""
    mean = statistics.mean(values)
    form = ".2f" if mean < 100 else ".0f" if mean < 1e5 else ".0e"
    if len(values) < 2:
        return f"{mean:{form}}"
    spread = statistics.stdev(values)
    return f"{mean:{form}} +- {spread:{form}}"
