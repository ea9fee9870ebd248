"""Time what the host does for one shot of a bench, and how fast the simulated light is.

    python -m lightloom.benchmarks shot-overhead --json bench.json

At 1920 x 1152 pixels, imaged and line, and at 512 x 512, it times how the host encodes a tile into
a frame, decodes an image into numbers, and checks these by their checksums. Host time per shot is
the processor time of the whole process on the real clock, while the camera returns images that were
recorded before: a real camera computes no light either. Simulated shots per second follow. Figures
are medians; nothing here fails on a slow machine.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..backends import Address
from ..backends.bench import BenchBackend, example_file
from ..backends.bench.product import Product
from ..instruments.simulated import SimulatedCamera
from ..instruments.table import Column, Table
from .benches import bench_text, opened
from .stopwatch import interleaved

KIND = "lightloom bench speed"
_ROUNDS = 3  # of host time


def median_ms(call: Callable[[], Any], repeats: int = 50) -> float:
    """Return the median time of a call in milliseconds, after one call that warms up."""
    (times,) = interleaved({"": call}, repeats).values()
    return 1e3 * statistics.median(times)


def measure(text: Callable[[str], str], shots: int) -> dict[str, float]:
    """Return milliseconds per stage, and shots per second, of one bench.

    Parameters
    ----------
    text : returns the bench file for a clock, "virtual" or "real"
    shots : whose host time is measured, about; their images are kept in memory
    """
    chance = np.random.Generator(np.random.Philox(7))
    with opened(text("virtual")) as backend:
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
    found["host_per_shot_ms"] = host_ms(text, shots)
    return found


def host_ms(text: Callable[[str], str], shots: int) -> float:
    """Return the processor time of a shot without simulated light, in milliseconds."""
    images: dict[str, np.ndarray] = {}
    times_ms: list[float] = []
    for clock in ("virtual", "real"):  # the first bench records the images of the second
        with opened(text(clock)) as backend:
            camera = backend.bench.camera
            assert isinstance(camera, SimulatedCamera)
            camera.recording = images
            times_ms = [
                processor_ms(backend, number, shots // _ROUNDS) for number in range(_ROUNDS)
            ]
    return statistics.median(times_ms)


def processor_ms(backend: BenchBackend, number: int, shots: int) -> float:
    """Return the processor time of each shot of a product, in milliseconds."""
    chance = np.random.Generator(np.random.Philox(number))
    where = backend.optical_model.layout
    rows = max((backend.geometry.outputs or 2) // backend.geometry.parts, 1)
    w = backend.prepare(chance.standard_normal((rows, where.length)))
    x = np.abs(chance.standard_normal((shots, where.length)))
    at = Address(f"round {number}", np.arange(shots, dtype=np.uint64))
    start_s = time.process_time()
    result = backend.matmul(x, w, at)
    return 1e3 * (time.process_time() - start_s) / result.stats.shots


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
    results = {layout: measure(partial(_example, layout), 72) for layout in ("imaged", "line")}
    fast = "1 kHz, 512 x 512"
    results[fast] = measure(lambda clock: bench_text(fast, light="pixels", clock=clock), 300)
    with opened(example_file("imaged", tiny=True)) as tiny:
        results["imaged, tiny"] = {"shots_per_s": shots_per_second(tiny, 2000)}
    return results


def _example(layout: str, clock: str) -> str:
    return example_file(layout, clock=clock)


def table(results: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the figures of what `measure_all` gave, a column for each layout."""
    stages = dict.fromkeys(stage for figures in results.values() for stage in figures)
    columns = (Column("stage", align="left"), *(Column(name, form=".3g") for name in results))
    rows = ((stage, *(figures.get(stage) for figures in results.values())) for stage in stages)
    return Table("Host time of a shot, and simulated shots per second", columns, tuple(rows))
