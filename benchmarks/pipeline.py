"""Compare the shot rate of a bench in real time with its devices' limit and with predictions.

    python -m lightloom.benchmarks pipeline --shots 2000

Timing only: devices take their time, frames are encoded and shown, and no light is computed. The
limit is settling, exposure and read-out, rounded up to whole refresh periods of the modulator. A
whole layer of a small GPT-2 follows, light and host overlapped, beside the prediction with host
steps as measured here.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.bench.shot_plan import TileJob
from ..instruments import Timeline
from ..instruments.files import check_output
from ..instruments.formatting import format_counted
from ..instruments.table import Cell, Column, Table
from ..models.shapes import sized_model, with_random_weights
from ..scheduler.runs import plan
from ..scheduler.runs.trace import KIND, write_trace

# modulator, its refresh period and settling, camera read-out (twice the modulator's rate), exposure
BENCHES = {
    "60 Hz, 1920 x 1152": ("fast-1920", 1 / 60, 1 / 60, 1 / 120, 2e-3),
    "1 kHz, 512 x 512": ("fast-512", 1e-3, 1e-3, 5e-4, 5e-4),
}
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


def bench_text(name: str, scale: float = 1.0) -> str:
    """Return the text of a bench file without light, on the real clock.

    Parameters
    ----------
    scale : factor on the devices' times
    """
    device, *times_s = BENCHES[name]
    refresh_s, settle_s, readout_s, exposure_s = (scale * time_s for time_s in times_s)
    text = example_file("imaged", clock="real")
    text = text.replace(
        'device = "fast-1920"', f'device = "{device}"\n{_times(refresh_s, settle_s)}'
    )
    camera = "fast-512" if device == "fast-512" else "basler-aca1440"
    text = text.replace(
        'device = "basler-aca1440"', f'device = "{camera}"\nreadout_s = {readout_s}'
    )
    text = text.replace('exposure_s = "2 ms"', f"exposure_s = {exposure_s}")
    return text + '\nlight = "timing"\n'


@contextmanager
def opened(name: str) -> Iterator[BenchBackend]:
    """Open a bench of `BENCHES`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(bench_text(name), encoding="utf-8")
        with BenchBackend(load_bench(path)) as backend:
            yield backend


def random_jobs(backend: BenchBackend) -> Callable[[str, int], TileJob]:
    """Return a function that makes jobs of random frames, from their name and number of shots."""
    layout = backend.optical_model.layout
    chance = np.random.Generator(np.random.Philox(1))
    rows = 1 if layout.shares_input else layout.slots
    frames = chance.integers(256, size=(8, rows, layout.length), dtype=np.uint8)
    weights = chance.integers(256, size=(layout.slots, layout.length), dtype=np.uint8)
    return lambda name, shots: TileJob(
        name, 1, shots, lambda _: weights, lambda vector: frames[vector % 8]
    )


def rate(backend: BenchBackend, shots: int) -> tuple[float, float]:
    """Return the seconds of a shot, and those that the devices alone take."""
    job = random_jobs(backend)
    backend.submit(job("warm", 16)).result()
    start = time.perf_counter()
    backend.submit(job("rate", shots)).result()
    return (time.perf_counter() - start) / shots, backend.timing.period_s


def layer(backend: BenchBackend, trace: Path | None = None) -> tuple[float, float, str]:
    """Return the seconds of a layer as predicted and as measured, and the bottleneck."""
    model = with_random_weights(sized_model(_WIDTH, 1, vocabulary=64), 1)
    planned = plan(model, backend, batch=_BATCH, sequence=_TOKENS)
    planned = planned.measured()
    predicted = planned.prediction
    chance = np.random.Generator(np.random.Philox(2))
    tokens = chance.integers(0, 64, (_BATCH, _TOKENS))
    executor = model.executor(backend)
    model.run_pass(executor, "logits", tokens[:, :1])  # encodes the weights
    timelines = {"predicted": Timeline(), "measured": Timeline(backend.clock)}
    if trace is not None:
        planned.predict(timelines["predicted"])
        backend.timeline = timelines["measured"]
    start = time.perf_counter()
    model.run_pass(executor, "logits", tokens)
    took = time.perf_counter() - start
    if trace is not None:
        write_trace(trace, timelines, {"model": model.name, "is_mock": True})
    return predicted.seconds, took, predicted.bottleneck


def _times(refresh_s: float, settle_s: float) -> str:
    return f"refresh_period_s = {refresh_s}\nsettle_time_s = {settle_s}"


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
        with opened(name) as backend:
            took, limit = rate(backend, shots)
            rates.append((name, 1 / took, 1 / limit, limit / took))
            predicted, measured, bottleneck = layer(backend, None if number else trace)
            layers.append((name, predicted, measured, measured / predicted - 1, bottleneck))
    return Table(f"Shot rate, {format_counted(shots, 'shot')}", _RATE_COLUMNS, tuple(rates)), Table(
        f"A layer of width {_WIDTH}, {_BATCH} x {_TOKENS} tokens", _LAYER_COLUMNS, tuple(layers)
    )
