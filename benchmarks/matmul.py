"""Time one product on the mock: every encoding and path, beside float32 numpy and other simulators.

    python -m lightloom.benchmarks matmul --threads 1 --json matmul.json

Everything runs in one process, in turn, so that a noisy machine disturbs all alike. The figure is
the median of the ratios to float32 `np.matmul` in each round. OpenBLAS's threads sleep between
calls, as in `lightloom run`: threads that spin would take the cores from the next call.

Benches: 8-bit modulators and converter, a range per row, 1e5 electrons at full scale, five of read
noise. Gains of single elements and errors of look-up tables give light between two levels, which
takes further planes of integers. A second table has little light, where counts are drawn exactly.
aihwkit and AnalogVNN are timed where installed.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..backends import MockBackend, OpticsProfile, mock_path
from ..instruments.formatting import format_duration, format_ratio
from ..instruments.table import Column, Table
from . import peers
from .stopwatch import interleaved
from .throughput import machine, versions

Clock = Callable[[], float]

KIND = "lightloom matmul speed"
NUMPY = "float32 numpy"
SHAPES = ((768, 3072), (3072, 768), (768, 768))
MOST_PHOTONS = 1e9
LIGHT_SHAPE, LIGHT_ROWS = (768, 768), 128  # of the table of little light

BENCH: dict[str, Any] = {
    "input_bits": 8,
    "weight_bits": 8,
    "readout_bits": 8,
    "readout_range": "per-row",
    "photons_full_scale": 1e5,
    "read_noise_e": 5.0,
}
CASES: dict[str, dict[str, Any]] = {
    "push-pull": {"encoding": "push-pull"},
    "abs-split": {"encoding": "abs-split"},
    "offset": {"encoding": "offset"},
    "push-pull, per reading": {"encoding": "push-pull", "detection": "per-reading"},
    "abs-split, per reading": {"encoding": "abs-split", "detection": "per-reading"},
    "push-pull, gains": {"encoding": "push-pull", "gain_rms": 0.01},
    "abs-split, gains": {"encoding": "abs-split", "gain_rms": 0.01},
    "push-pull, gains, table": {"encoding": "push-pull", "gain_rms": 0.01, "lut_rms": 0.01},
    "push-pull, source, drift": {"encoding": "push-pull", "source_rms": 0.001, "drift_rms": 0.01},
}

LIGHT_CASES = (
    *("push-pull", "offset", "abs-split"),
    *("push-pull, per reading", "abs-split, per reading"),
)


def measure(
    shape: tuple[int, int], rows: int, repeats: int | None, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Time x [rows, K] W [M, K]^T in every way: name -> seconds of each round.

    Parameters
    ----------
    shape : (K, M)
    repeats : rounds; None chooses
    """
    x, weights = _operands(shape, rows)
    calls: dict[str, Callable[[], Any]] = {NUMPY: partial(np.matmul, x, weights.T)}
    calls |= {name: _on_mock(x, weights, fields) for name, fields in CASES.items()}
    calls |= {name: peers.product(name, x, weights) for name in peers.present()}
    if repeats is None:
        repeats = 200 if rows < 16 else 30 if rows < 512 else 9
    return interleaved(calls, repeats, warm_up=2, clock=clock)


def measure_light(
    shape: tuple[int, int],
    rows: int,
    photons: Sequence[float],
    repeats: int | None,
    clock: Clock = time.perf_counter,
) -> dict[float, dict[str, list[float]]]:
    """Time the cases of `LIGHT_CASES` with little light: photons -> name -> seconds.

    Parameters
    ----------
    photons : of one element pair at full transmission, in one reading
    """
    x, weights = _operands(shape, rows)
    found = {}
    for level in photons:
        calls: dict[str, Callable[[], Any]] = {NUMPY: partial(np.matmul, x, weights.T)}
        for name in LIGHT_CASES:
            calls[name] = _on_mock(x, weights, CASES[name] | {"photons_full_scale": level})
        found[level] = interleaved(calls, repeats or 15, clock=clock)
    return found


def _operands(shape: tuple[int, int], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x [rows, K] and W [M, K]."""
    length, outputs = shape
    chance = np.random.Generator(np.random.Philox(7))
    weights = chance.standard_normal((outputs, length)).astype(np.float32)
    return chance.standard_normal((rows, length)).astype(np.float32), weights


def _on_mock(x: np.ndarray, weights: np.ndarray, fields: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a product on the mock, with weights that are prepared."""
    backend = MockBackend(OpticsProfile(**(BENCH | dict(fields))))
    return partial(backend.matmul, x, backend.prepare(weights))


def table(shape: tuple[int, int], found: Mapping[int, Mapping[str, Sequence[float]]]) -> Table:
    """Return times over those of float32 numpy, whose own have their unit.

    Parameters
    ----------
    found : input rows -> what `measure` gave
    """
    named = {f"N = {rows}": times for rows, times in found.items()}
    return _table(f"{shape[0]} -> {shape[1]}: time over float32 numpy", named)


def light_table(
    shape: tuple[int, int], rows: int, found: Mapping[float, Mapping[str, Sequence[float]]]
) -> Table:
    """Return times over those of float32 numpy, for each light of `measure_light`."""
    named = {f"P = {photons:g}": times for photons, times in found.items()}
    title = f"Little light, {rows} x {shape[0]} x {shape[1]}, P photons: time over float32 numpy"
    return _table(title, named)


def _table(title: str, found: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    cells: dict[str, list[str]] = {}
    for times in found.values():
        base = times[NUMPY]
        for name, values in times.items():
            ratios = [a / b for a, b in zip(values, base, strict=True) if b]  # 0: a coarse clock
            ratio = statistics.median(ratios) if ratios else None
            own = format_duration(statistics.median(base))
            cells.setdefault(name, []).append(own if name == NUMPY else format_ratio(ratio))
    columns = (Column("product", align="left"), *map(Column, found))
    return Table(title, columns, tuple((name, *texts) for name, texts in cells.items()))


def document(threads: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was measured, and on what, for JSON."""
    return {
        "schema": 2,
        "threads": threads,
        "path": mock_path(),
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
