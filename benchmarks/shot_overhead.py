"""Time what the host does for one shot of a bench, and how fast the simulated light is.

    python -m lightloom.benchmarks shot-overhead --json bench.json

At 1920 x 1152 pixels, imaged and line, it times how the host encodes a tile into a
frame, decodes an image into numbers, and checks these by their checksums. Host time per shot is all
that is neither simulated light nor waiting, on a bench whose light takes no time to simulate.
Simulated shots per second follow. Figures are medians; nothing here fails on a slow machine.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..backends.bench import BenchBackend, example_file
from ..backends.bench.product import Product
from ..instruments.table import Column, Table
from .benches import opened
from .stopwatch import interleaved

KIND = "lightloom bench speed"


def median_ms(call: Callable[[], Any], repeats: int = 50) -> float:
    """Return the median time of a call in milliseconds, after one call that warms up."""
    (times,) = interleaved({"": call}, repeats).values()
    return 1e3 * statistics.median(times)


def example(layout: str, light: str, tiny: bool = False) -> AbstractContextManager[BenchBackend]:
    """Return a simulated bench on the virtual clock, which opens in a `with`."""
    return opened(example_file(layout, tiny=tiny) + f'light = "{light}"\n')


def measure(layout: str) -> dict[str, float]:
    """Return milliseconds per stage, and shots per second, of one layout."""
    chance = np.random.Generator(np.random.Philox(7))
    with example(layout, "pixels") as backend:
        where = backend.optical_model.layout
        slots = 1 if where.shares_input else where.slots
        levels = chance.integers(0, 256, (slots, where.length), dtype=np.uint8)
        weights = chance.integers(0, 256, (where.slots, where.length), dtype=np.uint8)
        image = chance.integers(0, 4000, backend.bench.camera.sensor_shape, dtype=np.uint16)
        found = {
            "encode_input_ms": median_ms(lambda: where.frame("input", levels, 3)),
            "encode_weight_ms": median_ms(lambda: where.frame("weight", weights, 3)),
            "decode_ms": median_ms(lambda: where.electrons(image)),
            "check_ms": check_ms(backend),
        }
        found["shots_per_s"] = shots_per_second(backend, 60)
    with example(layout, "timing") as quick:
        found["host_per_shot_ms"] = 1e3 / shots_per_second(quick, 200)
    return found


def check_ms(backend: Any) -> float:
    """Return the milliseconds that the checksums of a full frame take."""
    chance = np.random.Generator(np.random.Philox(9))
    length = backend.optical_model.layout.length
    w = backend.prepare(chance.standard_normal((backend.geometry.outputs // 2, length)))
    x = np.abs(chance.standard_normal((1, 1, length)))
    job = Product(backend.setup, "check", x, w.content[0], {}).jobs[0]
    electrons = backend.optical_model.passed_e(job.input(0), job.weight(0))
    check = job.check
    assert check is not None
    return median_ms(lambda: check(0, 0, electrons), 1000)


def shots_per_second(backend: Any, shots: int) -> float:
    """Return shots per second of products that take about `shots` shots."""
    chance = np.random.Generator(np.random.Philox(8))
    where = backend.optical_model.layout
    rows = max((backend.geometry.outputs or 2) // 2, 1)  # one vector a shot: its rails fill it
    w = backend.prepare(chance.standard_normal((rows, where.length)))
    x = np.abs(chance.standard_normal((shots, where.length)))
    backend.matmul(x[:2], w)
    start_s = time.perf_counter()
    result = backend.matmul(x, w)
    return float(result.stats.shots / (time.perf_counter() - start_s))


def measure_all() -> dict[str, dict[str, float]]:
    """Return the figures of the imaged and the line layout, and the speed of a tiny bench."""
    results = {layout: measure(layout) for layout in ("imaged", "line")}
    with example("imaged", "pixels", tiny=True) as tiny:
        results["imaged, tiny"] = {"shots_per_s": shots_per_second(tiny, 2000)}
    return results


def table(results: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the figures of what `measure_all` gave, a column for each layout."""
    stages = dict.fromkeys(stage for figures in results.values() for stage in figures)
    columns = (Column("stage", align="left"), *(Column(name, form=".3g") for name in results))
    rows = ((stage, *(figures.get(stage) for figures in results.values())) for stage in stages)
    return Table("Host time of a shot, and simulated shots per second", columns, tuple(rows))
