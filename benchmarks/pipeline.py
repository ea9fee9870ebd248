"""Compare the shot rate of a bench in real time with its devices' limit and with predictions.

    python -m lightloom.benchmarks pipeline --shots 2000

Timing only: devices take their time, frames are encoded and shown, and no light is computed. The
limit is settling, exposure and read-out, rounded up to whole refresh periods of the modulator. A
whole layer of a small GPT-2 follows, light and host overlapped, beside the prediction with host
steps as measured here.
"""

from pathlib import Path

import numpy as np

from ..backends.bench import BenchBackend
from ..instruments import Timeline
from ..instruments.files import check_output
from ..instruments.formatting import format_counted
from ..instruments.table import Cell, Column, Table
from ..models.shapes import sized_model, with_random_weights
from ..scheduler.runs import plan
from ..scheduler.runs.trace import KIND, write_trace
from .benches import BENCHES, bench_text, opened, random_jobs
from .stopwatch import seconds_of

_WIDTH, _BATCH, _TOKENS = 64, 4, 8  # of the layer
_RATE_COLUMNS = (
    Column("bench", align="left"),
    Column("measured", "shots/s", form=".1f"),
    Column("limit of the devices", "shots/s", form=".1f"),
    Column("utilisation", form=".1%"),
)
_LAYER_COLUMNS = (
    Column("bench", align="left"),
    Column("predicted", "s", form=".3f"),
    Column("measured", "s", form=".3f"),
    Column("difference", form="+.1%"),
    Column("bottleneck", align="left"),
)


def rate(backend: BenchBackend, shots: int) -> tuple[float, float]:
    """Return the seconds of a shot, and those that the devices alone take."""
    job = random_jobs(backend)
    backend.submit(job("warm", 16)).result()
    took_s = seconds_of(lambda: backend.submit(job("rate", shots)).result())
    return took_s / shots, backend.timing.period_s


def layer(backend: BenchBackend, trace: Path | None = None) -> tuple[float, float, str]:
    """Return the seconds of a layer as predicted and as measured, and the bottleneck."""
    model = with_random_weights(sized_model(_WIDTH, 1, vocabulary=64), 1)
    planned = plan(model, backend, batch=_BATCH, sequence=_TOKENS).measured()
    predicted = planned.prediction
    chance = np.random.Generator(np.random.Philox(2))
    tokens = chance.integers(0, 64, (_BATCH, _TOKENS))
    executor = model.executor(backend)
    model.run_pass(executor, "logits", tokens[:, :1])  # encodes the weights
    timelines = {"predicted": Timeline(), "measured": Timeline(backend.clock)}
    if trace is not None:
        planned.predict(timelines["predicted"])
        backend.timeline = timelines["measured"]
    took_s = seconds_of(lambda: model.run_pass(executor, "logits", tokens))
    if trace is not None:
        write_trace(trace, timelines, {"model": model.name, "is_mock": True})
    return predicted.seconds, took_s, predicted.bottleneck


def measure(shots: int, trace: Path | None = None) -> tuple[Table, Table]:
    """Measure shots and a layer on both benches, beside their limits and predictions.

    Parameters
    ----------
    trace : file to write, of the layer on the first bench
    """
    if trace is not None:
        check_output(trace, KIND)
    rates: list[tuple[Cell, ...]] = []
    layers: list[tuple[Cell, ...]] = []
    for number, name in enumerate(BENCHES):
        with opened(bench_text(name)) as backend:
            took, limit = rate(backend, shots)
            rates.append((name, 1 / took, 1 / limit, limit / took))
            predicted, measured, bottleneck = layer(backend, None if number else trace)
            layers.append((name, predicted, measured, measured / predicted - 1, bottleneck))
    return Table(f"Shot rate, {format_counted(shots, 'shot')}", _RATE_COLUMNS, tuple(rates)), Table(
        f"A layer of width {_WIDTH}, {_BATCH} x {_TOKENS} tokens", _LAYER_COLUMNS, tuple(layers)
    )
