"""Compare benches that were found crooked with their twins: errors with and without corrections.

    python -m lightloom.benchmarks twins --seeds 5

Each seed draws a bench: registration, uneven light, gains, curves, extinction, blur, flicker, drift
and light. It is aligned and calibrated by light alone; `lightloom.twin` sees only its calibration.
Bench and twin then multiply the same random matrices, and run the digits model if asked to.
"""

import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends import Backend, MockBackend, twin
from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.calibration import align, store
from ..backends.calibration.calibrate import calibrate
from ..instruments.table import Cell, Column, Table
from ..models import load_arrays, load_model

LEAST_CORRELATION, MOST_OFF = 0.9, 0.1  # of mean errors without corrections; of the error variance
_ROWS = 10  # of x, of each random product
_REPEATS = {"on": 4, "off": 12}  # of each; its mean error has less noise
_SURE = 1.96  # standard errors of a 95 % interval
_COLUMNS = (
    Column("bench", align="left"),
    Column("error variance, twin over bench", form=".3f"),
    Column("±", form=".3f"),
    Column("correlation, uncorrected", form=".4f"),
    Column("relative error of the bench", form=".4f"),
    Column("±", form=".4f"),
    Column("of the twin", form=".4f"),
    Column("±", form=".4f"),
)
_MODEL_COLUMNS = (
    Column("bench", align="left"),
    Column("corrections", align="left"),
    Column("images"),
    Column("accuracy of the bench", form=".1%"),
    Column("lowest", form=".1%"),
    Column("highest", form=".1%"),
    Column("of the twin", form=".1%"),
    Column("lowest", form=".1%"),
    Column("highest", form=".1%"),
)


@dataclass(frozen=True)
class Interval:
    """A figure with half of its 95 % interval."""

    value: float
    half: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Interval":
        """Return the mean of independent values."""
        return cls(float(values.mean()), _SURE * float(values.std(ddof=1)) / len(values) ** 0.5)


@dataclass(frozen=True)
class ModelScore:
    """Right answers of a model, on a bench and on its twin.

    Parameters
    ----------
    corrections : "on" or "off"
    """

    corrections: str
    images: int
    bench: int
    twin: int


@dataclass(frozen=True)
class TwinStudy:
    """What was compared on one bench.

    Parameters
    ----------
    variance : mean squared error of the twin over that of the bench, with corrections
    correlation : of the mean errors of outputs, without corrections
    bench_error, twin_error : rms error over the rms of exact products, with corrections
    scores : of the digits model
    """

    name: str
    variance: Interval
    correlation: float
    bench_error: Interval
    twin_error: Interval
    scores: tuple[ModelScore, ...] = ()

    @property
    def is_met(self) -> bool:
        """Whether the figures are within their limits, up to their intervals."""
        close = abs(self.variance.value - 1) <= MOST_OFF + self.variance.half
        apart = abs(self.bench_error.value - self.twin_error.value)
        alike = apart <= 2 * math.hypot(self.bench_error.half, self.twin_error.half)
        return close and alike and self.correlation >= LEAST_CORRELATION


def bench_text(seed: int, layout: str = "imaged", device: str = "fast-512") -> str:
    """Return the text of a bench as found, whose imperfections are drawn from a seed.

    Parameters
    ----------
    device : of modulators and camera; "tiny" is 96 x 64 pixels
    """
    chance = np.random.Generator(np.random.Philox(seed))
    tiny = device == "tiny"
    text = example_file(layout, tiny=tiny, as_found=True, seed=seed)
    if not tiny:
        detectors = "fast-1920|basler-aca1440" if layout != "single-pixel" else "fast-1920"
        text = re.sub(f'device = "({detectors})"', f'device = "{device}"', text)
    drawn = {
        "extinction_ratio": 10 ** chance.uniform(1.8, 3),
        "lut_rms": chance.uniform(0.02, 0.08),
        "gain_rms": chance.uniform(0.01, 0.06),
        "unevenness": chance.uniform(0.05, 0.2),
        "source_rms": chance.uniform(0.001, 0.01),
        "drift_rms": chance.uniform(0.005, 0.02),
        "stray_e_per_s": chance.uniform(0, 200),
        "blur_px": chance.uniform(0.5, 1.0 if tiny else 2.0),
        "crosstalk": chance.uniform(0.005, 0.04),
    }
    for key, value in drawn.items():
        text = re.sub(rf"^{key} = [\d.]+", f"{key} = {value:.4g}", text, flags=re.MULTILINE)
    times = 10 ** chance.uniform(-0.5, 0.1)
    light = re.compile(r"^electrons_per_pixel_j = (\S+)", re.MULTILINE)
    return light.sub(lambda m: f"electrons_per_pixel_j = {float(m[1]) * times:.4g}", text)


def measure(text: str, name: str, blocks: int, images: int) -> TwinStudy:
    """Calibrate the bench of a text, make its twin, and compare both.

    Parameters
    ----------
    blocks : random products, each with its own matrices
    images : that the digits model classifies; 0 for none
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(text, encoding="utf-8")
        bench = load_bench(path)
        aligned = align(bench)
        with bench:
            store(bench, aligned)
        calibration = calibrate(load_bench(path))
        profile, errors, scores = twin(calibration.path), {}, []
        for corrections in ("on", "off"):
            path.write_text(f'corrections = "{corrections}"\n{text}', encoding="utf-8")
            mock = MockBackend(profile.with_settings({"corrections": corrections}), seed=1)
            with BenchBackend(load_bench(path)) as backend:
                errors[corrections] = _errors(backend, mock, blocks, _REPEATS[corrections])
                if images:
                    right = (_right_answers(one, images) for one in (backend, mock))
                    scores.append(ModelScore(corrections, images, *right))
    return _study(name, errors, tuple(scores))


def _errors(backend: BenchBackend, mock: Backend, blocks: int, repeats: int) -> np.ndarray:
    """Return errors over the rms of exact products, [bench or twin, blocks, repeats, N, M]."""
    backend.open()
    layout = backend.optical_model.layout
    outputs = min(36, max(layout.slots // 2, 8))
    chance = np.random.Generator(np.random.Philox(7))
    found = np.empty((2, blocks, repeats, _ROWS, outputs))
    for block in range(blocks):
        x = chance.standard_normal((_ROWS, layout.length)).astype(np.float32)
        w = chance.standard_normal((outputs, layout.length)).astype(np.float32)
        exact = x.astype(float) @ w.T
        size = np.sqrt(np.mean(exact**2))
        for side, one in enumerate((backend, mock)):
            weights = one.prepare(w)
            for repeat in range(repeats):
                found[side, block, repeat] = (one.matmul(x, weights).y - exact) / size
    return found


def _study(name: str, errors: dict[str, np.ndarray], scores: tuple[ModelScore, ...]) -> TwinStudy:
    squares = (errors["on"] ** 2).mean(axis=(2, 3, 4))  # [bench or twin, blocks]
    bench, mock = (Interval.of(side) for side in squares)
    ratio = mock.value / bench.value
    off = Interval.of(squares[1] - ratio * squares[0])  # both multiply the same matrices
    means = errors["off"].mean(axis=2).reshape(2, -1)
    sides = [Interval(one.value**0.5, one.half / one.value**0.5 / 2) for one in (bench, mock)]
    correlation = float(np.corrcoef(means)[0, 1])
    variance = Interval(ratio, off.half / bench.value)
    return TwinStudy(name, variance, correlation, sides[0], sides[1], scores)


def _right_answers(backend: Backend, images: int) -> int:
    model = load_model("digits")
    data = load_arrays(model.source / "data.safetensors")
    logits = model.forward(data["images"][:images], backend=backend)
    return int((logits.argmax(axis=-1) == data["labels"][:images]).sum())


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction (Wilson, 1927)."""
    z, p = _SURE, right / count
    middle, spread = (
        p + z * z / (2 * count),
        z * (p * (1 - p) / count + (z / count / 2) ** 2) ** 0.5,
    )
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def error_table(studies: list[TwinStudy]) -> Table:
    """Return the errors of benches and twins."""
    rows: list[tuple[Cell, ...]] = []
    for one in studies:
        pairs = (one.bench_error, one.twin_error)
        errors = (part for pair in pairs for part in (pair.value, pair.half))
        rows.append((one.name, one.variance.value, one.variance.half, one.correlation, *errors))
    return Table("Random products", _COLUMNS, tuple(rows))


def score_table(studies: list[TwinStudy]) -> Table:
    """Return the accuracy of the digits model on benches and twins."""

    def rows() -> Iterator[tuple[Cell, ...]]:
        for one in studies:
            for score in one.scores:
                sides = (
                    part
                    for right in (score.bench, score.twin)
                    for part in (right / score.images, *wilson(right, score.images))
                )
                yield one.name, score.corrections, score.images, *sides

    return Table("The digits model", _MODEL_COLUMNS, tuple(rows()))
