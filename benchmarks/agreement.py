"""Compare simulated benches with exact products and with the mock: gain, errors, noise.

    python -m lightloom.benchmarks agreement              # all layouts, source noise and drift on
    python -m lightloom.benchmarks agreement bench.toml --outputs 7200

The same products are repeated. Each figure is a mean over repeats, and its error comes from their
spread, so that an error that all outputs of an exposure share is not counted many times:

- slope: of the bench's products over exact ones, by least squares; a common gain error;
- chi-square: squared errors over their predicted variance, per degree of freedom;
- variance: of the noise over its prediction, and over that of the mock of the matching profile;
- z: pooled differences of the means from the mock's, over their standard errors.

A sound bench exceeds the limit of a figure less than once in 10,000 comparisons. A limit is 4.5
standard errors of 50 repeats or more (Student), plus what theory leaves out.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends import MockBackend
from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.bench.accuracy import grey_variance
from ..instruments.formatting import format_counted
from ..instruments.table import Cell, Column, Table

MEANS, FILTER = "pooled z of the means", "consistency of the brightness filter"
_SURE = 4.5  # standard errors; chance exceeds them less than once in 10,000
_FEWEST = 50  # repeats that give the error by their spread
_GAIN_OFF = 1e-3  # of a slope: rounding to grey levels, unknown crosstalk
_VARIANCE_OFF = 0.05  # of a variance: noise of measured quantities, pixels at an edge
_LAYOUTS = ("imaged", "line", "single-pixel")
_COLUMNS = (
    Column("figure", align="left"),
    Column("value", form=".4f"),
    Column("lowest allowed", form=".4f"),
    Column("highest allowed", form=".4f"),
    Column("verdict", align="left"),
)
_UNSTEADY = "source_rms = 0.02\ndrift_rms = 0.01\ndrift_shots = 3000.0\n"
_BRIGHT = {"imaged": "2e9", "line": "2e8", "single-pixel": "3e10"}  # electrons per pixel and joule


@dataclass(frozen=True)
class Estimate:
    """Mean that should be 1, with its standard error and what theory leaves out."""

    value: float
    error: float
    tolerance: float

    @property
    def limit(self) -> float:
        """The largest deviation from 1 that is allowed."""
        return _SURE * self.error + self.tolerance

    @property
    def is_one(self) -> bool:
        """Whether it differs from 1 by chance at most."""
        return abs(self.value - 1) <= self.limit


@dataclass(frozen=True)
class Agreement:
    """Figures of a bench's agreement with exact products and with the mock.

    Parameters
    ----------
    layout : of the bench
    outputs : products compared
    z : pooled difference of the means from the mock's
    slope, chi_square, variance : against exact products and their predicted noise
    of_mock : noise variance over the mock's; None where the mock has no such bench (rails in turn)
    consistency, most_consistency : of the brightness filter (see `ScaleTracker`)
    """

    layout: str
    outputs: int
    z: float
    slope: Estimate
    chi_square: Estimate
    variance: Estimate
    of_mock: Estimate | None
    consistency: float
    most_consistency: float

    @property
    def ratio(self) -> float:
        """Noise variance over the mock's, or over its prediction where the mock has none."""
        return (self.of_mock or self.variance).value

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The figures that should be 1, by name."""
        figures = {
            "slope": self.slope,
            "chi-square per degree of freedom": self.chi_square,
            "variance over its prediction": self.variance,
        }
        return (
            figures
            if self.of_mock is None
            else figures | {"variance over the mock's": self.of_mock}
        )

    @property
    def faults(self) -> list[str]:
        """The names of the figures that are beyond their limits."""
        found = [name for name, one in self.estimates.items() if not one.is_one]
        if self.of_mock is not None and abs(self.z) > _SURE:
            found.append(MEANS)
        if self.consistency > self.most_consistency:
            found.append(FILTER)
        return found


def compare(
    backend: BenchBackend, rows: int = 10, outputs: int = 36, repeats: int = 60, seed: int = 3
) -> Agreement:
    """Multiply a random tile on the bench and on its mock, `repeats` times each, and compare."""
    chance = np.random.Generator(np.random.Philox(seed))
    profile = backend.profile
    layout, length = backend.bench.file.layout, backend.optical_model.layout.length
    x, w = chance.standard_normal((rows, length)), chance.standard_normal((outputs, length))
    mock = MockBackend(profile, seed=seed)
    prepared, likewise = backend.prepare(w), mock.prepare(w)
    results = [backend.matmul(x, prepared) for _ in range(repeats)]
    light = np.stack([result.y for result in results]).astype(float)
    variances = [result.variance for result in results if result.variance is not None]
    model = np.stack([mock.matmul(x, likewise).y for _ in range(repeats)]).astype(float)
    noise, theory = light.var(axis=0, ddof=1), model.var(axis=0, ddof=1)
    z = (light.mean(axis=0) - model.mean(axis=0)) / np.sqrt((noise + theory) / repeats)
    predicted = np.mean(variances, axis=0, dtype=float)
    rounding = grey_variance(backend, x, w)
    exact = x @ w.T
    in_turn = backend.optical_model.layout.slots < 2 and bool(profile.source_rms)
    per_output = theory.mean(axis=0)  # rows of x are alike, outputs are not
    own, others = (_spread(part, per_output) for part in (light, model))
    tracker = backend.setup.tracker
    return Agreement(
        layout,
        light.size,
        float(z.mean() * math.sqrt(z.size)),
        _slope(light, exact, predicted, rounding),
        _estimate(((light - exact) ** 2 / (predicted + rounding)).mean(axis=(1, 2)), _VARIANCE_OFF),
        _estimate(_spread(light, predicted), _VARIANCE_OFF),
        None if in_turn else _quotient(own, others),
        1.0 if tracker is None else tracker.consistency,
        1.0 if tracker is None else tracker.most_consistency,
    )


def _slope(
    light: np.ndarray, exact: np.ndarray, predicted: np.ndarray, rounding: np.ndarray
) -> Estimate:
    """Fit the gain of each repeat; the error of rounding is the same in all of them."""
    weight = exact / predicted
    total = float((weight * exact).sum())
    found = _estimate((weight * light).sum(axis=(1, 2)) / total, _GAIN_OFF)
    rounded = float(np.sqrt((weight**2 * rounding).sum())) / total
    return Estimate(found.value, math.hypot(found.error, rounded), _GAIN_OFF)


def _spread(taken: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return each repeat's squared deviations from the mean of all, over a variance: [repeats]."""
    count = len(taken)
    squares = (taken - taken.mean(axis=0)) ** 2 * count / (count - 1)
    return np.asarray((squares / variance).mean(axis=(1, 2)))


def _estimate(values: np.ndarray, tolerance: float) -> Estimate:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), error, tolerance)


def _quotient(own: np.ndarray, others: np.ndarray) -> Estimate:
    """Return the mean of some values over that of others."""
    one, other = _estimate(own, 0.0), _estimate(others, 0.0)
    error = math.hypot(one.error / one.value, other.error / other.value)
    value = one.value / other.value
    return Estimate(value, value * error, _VARIANCE_OFF)


def unsteady_bench(layout: str, folder: Path) -> Path:
    """Write a small bench with its ground truth, whose source is noisy and drifts."""
    text = example_file(layout, tiny=True)
    lines = [line for line in text.splitlines() if not line.startswith("electrons_per_pixel_j")]
    more = f"electrons_per_pixel_j = {_BRIGHT[layout]}\n{_UNSTEADY}"
    path = folder / f"{layout}.toml"
    path.write_text("\n".join(lines) + "\n" + more, encoding="utf-8")
    return path


def measure(files: Sequence[Path], outputs: int) -> Iterator[Agreement]:
    """Compare benches one after another: those of files, or unsteady ones of all layouts.

    Parameters
    ----------
    outputs : at least so many are compared of each bench
    """
    for path in _benches(files):
        with BenchBackend(load_bench(path)) as backend:
            rows = 10
            columns = max(min(36, backend.optical_model.layout.slots // 2), 1)
            repeats = max(-(-outputs // (rows * columns)), _FEWEST)
            yield compare(backend, rows, columns, repeats)


def _benches(files: Sequence[Path]) -> Iterator[Path]:
    if files:
        yield from files
        return
    with tempfile.TemporaryDirectory() as folder:
        for layout in _LAYOUTS:
            yield unsteady_bench(layout, Path(folder))


def table(found: Agreement) -> Table:
    """Return the figures of a bench beside their limits."""
    rows: list[tuple[Cell, ...]] = [
        (name, one.value, 1 - one.limit, 1 + one.limit, _verdict(found, name))
        for name, one in found.estimates.items()
    ]
    if found.of_mock is None:
        rows.append((MEANS, found.z, None, None, "not judged"))
    else:
        rows.append((MEANS, found.z, -_SURE, _SURE, _verdict(found, MEANS)))
    highest = found.most_consistency
    rows.append((FILTER, found.consistency, None, highest, _verdict(found, FILTER)))
    title = f"{found.layout}, {format_counted(found.outputs, 'output')}"
    return Table(title, _COLUMNS, tuple(rows))


def _verdict(found: Agreement, name: str) -> str:
    return "BEYOND ITS LIMIT" if name in found.faults else "within"
