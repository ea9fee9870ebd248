"""`measure_host`: measure the time that the host needs for frames, shots and products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Stats
from ..timing import ShotTiming
from .product import Product
from .shot_plan import TileResult

if TYPE_CHECKING:
    from .backend import BenchBackend

_REPEATS = 5
_OUTPUTS = 8  # of the products that are timed
_SHOT_S = 2e-4  # for handing a shot from thread to thread, which is not measured
_WAIT_S, _MOST_S = 5e-4, 1.0  # waits that show how late a thread wakes up: of each, of all
_LATE = 64  # of them that predictions use


@dataclass(frozen=True)
class BenchHost:
    """The times that the host needs, in seconds.

    Parameters
    ----------
    timing : of shots, including the host
    feed, gather : of a product: (fixed time, time per number of x or of y)
    """

    timing: ShotTiming
    feed: tuple[float, float]
    gather: tuple[float, float]


def measure_host(backend: BenchBackend) -> BenchHost:
    """Return the host times of an open bench; needs no light, and shows no frame."""
    model, timing = backend.optical_model, backend.timing
    layout = model.layout
    rows = 1 if layout.shares_input else layout.slots
    chance = np.random.Generator(np.random.Philox(1))
    inputs = model.curves["input"].levels(chance.random((rows, layout.length)))
    intensity = chance.random((layout.slots, layout.length))
    weights = model.weigh(intensity)[0]
    frame = layout.frame("input", inputs, 1)
    taken = np.zeros((1, 1))
    if not timing.window_s:
        region = backend.bench.camera.region
        taken = np.zeros((region.height, region.width), dtype=np.uint16)

    def decode() -> Any:
        if backend.bench.is_timing_only:
            return model.passed_e(inputs, weights)
        return layout.electrons(taken) if not timing.window_s else None

    def encode() -> Any:
        return layout.frame("input", inputs, 1)

    few, many = (_product(backend, count, chance) for count in (1, 64))
    return BenchHost(
        replace(
            timing,
            encode_s=(
                _median(encode),
                _median(lambda: layout.frame("weight", model.weigh(intensity)[0], 1)),
            ),
            show_s=2 * _median(frame.copy),  # one copy for the driver, one for the recorded frame
            shot_s=_SHOT_S,
            decode_s=_median(decode),
            late_s=_lateness((encode, decode)),
        ),
        _fit_line(few[0], many[0]),
        _fit_line(few[1], many[1]),
    )


def _lateness(work: Sequence[Callable[[], Any]]) -> tuple[float, ...]:
    """Return how late a thread wakes up, in seconds, if it does some work before each wait.

    Modulators flip at whole refresh periods. On a fast bench a thread that is a little late often
    misses one, so a mean would not do. The order of the numbers is such that each few of them in a
    row are like all of them.
    """
    late: list[float] = []
    end_s = time.perf_counter() + _MOST_S
    while not late or time.perf_counter() < end_s:
        for call in work:
            call()
        until_s = time.perf_counter() + _WAIT_S
        time.sleep(_WAIT_S)
        late.append(max(time.perf_counter() - until_s, 0.0))
    bits = _LATE.bit_length() - 1
    reversed_bits = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(_LATE)]
    chosen = np.quantile(late, (np.array(reversed_bits) + 0.5) / _LATE)
    return tuple(chosen.tolist())


def _product(
    backend: BenchBackend, count: int, chance: np.random.Generator
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Return (numbers of x, seconds to begin), (numbers of y, seconds to gather) of a product."""
    length, slots = backend.optical_model.layout.length, backend.optical_model.layout.slots
    x = chance.standard_normal((1, count, length))
    weights = backend.prepare(chance.standard_normal((_OUTPUTS, length)))

    def begin() -> Product:
        return Product(backend.setup, "timing", x, weights.content[0], {})

    gathering = []
    for _ in range(_REPEATS):
        product = begin()
        results = [
            TileResult(np.zeros((job.tiles, job.vectors, slots)), Stats()) for job in product.jobs
        ]
        for number, job in enumerate(product.jobs):
            for tile in range(job.tiles):
                job.weight(tile)  # in a run, the encoding thread has done this before
                product.monitor.passed.add((number, tile))
        start = time.perf_counter()
        product.decode(results, Stats())
        gathering.append(time.perf_counter() - start)
    return (x.size, _median(begin)), (count * _OUTPUTS, statistics.median(gathering))


def _fit_line(few: tuple[int, float], many: tuple[int, float]) -> tuple[float, float]:
    """Return the fixed time and the time per number, from two measurements (numbers, seconds)."""
    slope = max((many[1] - few[1]) / (many[0] - few[0]), 0.0)
    return max(few[1] - slope * few[0], 0.0), slope


def _median(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
