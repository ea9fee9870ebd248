"""Time one product on the mock: every encoding and path, beside float32 numpy and other simulators.

    python -m lightloom.benchmarks matmul --threads 1 --json matmul.json

Everything runs in one process, in turn, so that a noisy machine disturbs all alike. The figure is
the ratio of medians to float32 `np.matmul`. OpenBLAS's threads sleep between calls, as in
`lightloom run`: threads that spin would take the cores from the next call.

Benches: 8-bit modulators and converter, a range per row, 1e5 electrons at full scale, five of read
noise. Gains of single elements and errors of look-up tables give light between two levels, which
takes further planes of integers. aihwkit and AnalogVNN are timed where installed.
"""

import importlib.metadata
import importlib.util
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..backends import MockBackend, OpticsProfile, mock_path
from ..instruments.formatting import format_duration, format_ratio
from ..instruments.table import Column, Table
from .stopwatch import interleaved

KIND = "lightloom matmul speed"
NUMPY = "float32 numpy"
SHAPES = ((768, 3072), (3072, 768), (768, 768))
ROWS = (1, 128, 1024)

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


def missing() -> list[str]:
    """Return the names of the other simulators that are not installed."""
    return [name for name in PEERS if not importlib.util.find_spec(name.lower())]


def _aihwkit(weights: Any) -> Callable[[Any], Any]:
    """Return aihwkit's inference tile in torch: 8-bit converters, output noise."""
    import torch
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.forward.inp_res = config.forward.out_res = 1 / 254
    config.forward.out_noise = 0.01
    layer = AnalogLinear(weights.shape[1], weights.shape[0], bias=False, rpu_config=config)
    layer.set_weights(torch.from_numpy(weights))
    layer.eval()

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return layer(torch.from_numpy(x))

    return run


def _analogvnn(weights: Any) -> Callable[[Any], Any]:
    """Return AnalogVNN's layers: clamp, 8-bit precision, Gaussian noise, around a linear layer."""
    import torch
    from analogvnn.nn.noise.GaussianNoise import GaussianNoise
    from analogvnn.nn.normalize.Clamp import Clamp
    from analogvnn.nn.precision.ReducePrecision import ReducePrecision

    w = torch.from_numpy(weights)
    steps = [
        Clamp(),
        ReducePrecision(precision=127, divide=0.5),
        GaussianNoise(std=0.01, precision=127),
    ]

    def run(x: Any) -> Any:
        with torch.inference_mode():
            y = torch.from_numpy(x)
            for step in steps[:2]:
                y = step(y)
            return steps[2](y @ w.T)

    return run


PEERS = {"aihwkit": _aihwkit, "AnalogVNN": _analogvnn}  # makers of products of other simulators


def measure(shape: tuple[int, int], rows: int, repeats: int | None) -> dict[str, list[float]]:
    """Time x [rows, K] W [M, K]^T in every way: name -> seconds of each round.

    Parameters
    ----------
    shape : (K, M)
    repeats : rounds; None chooses
    """
    length, outputs = shape
    chance = np.random.Generator(np.random.Philox(7))
    weights = chance.standard_normal((outputs, length)).astype(np.float32)
    x = chance.standard_normal((rows, length)).astype(np.float32)
    calls: dict[str, Callable[[], Any]] = {NUMPY: lambda: np.matmul(x, weights.T)}
    for name, fields in CASES.items():
        backend = MockBackend(OpticsProfile(**(BENCH | fields)))
        calls[name] = partial(backend.matmul, x, backend.prepare(weights))
    absent = missing()
    for name, make in PEERS.items():
        if name not in absent:
            calls[name] = partial(make(weights), x)
    if repeats is None:
        repeats = 200 if rows < 16 else 30 if rows < 512 else 9
    return interleaved(calls, repeats, warm_up=2)


def table(shape: tuple[int, int], found: Mapping[int, Mapping[str, Sequence[float]]]) -> Table:
    """Return times over those of float32 numpy, whose own have their unit.

    Parameters
    ----------
    found : input rows -> what `measure` gave
    """
    cells: dict[str, list[str]] = {}
    for times in found.values():
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            ratio = format_ratio(median / medians[NUMPY])
            text = format_duration(median) if name == NUMPY else ratio
            cells.setdefault(name, []).append(text)
    columns = (Column("product", align="left"), *(Column(f"N = {rows}") for rows in found))
    title = f"{shape[0]} -> {shape[1]}: time over float32 numpy"
    return Table(title, columns, tuple((name, *texts) for name, texts in cells.items()))


def document(threads: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was measured, and on what, for JSON."""
    return {
        "schema": 1,
        "threads": threads,
        "path": mock_path(),
        "machine": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
        "numpy": importlib.metadata.version("numpy"),
        "results": results,
    }
