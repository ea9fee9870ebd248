"""Align and calibrate simulated benches as found, and compare with their ground truth.

    python -m lightloom.benchmarks calibration --layout imaged --seeds 5

Every imperfection of the simulated world is on, drawn from each seed. The ground truth is read only
afterwards: alignment and calibration see light alone.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.bench import Bench, BenchBackend, example_file, load_bench
from ..backends.bench.accuracy import Accuracy, random_products
from ..backends.calibration import align, store
from ..backends.calibration.calibrate import calibrate
from ..backends.optics import registration
from ..backends.optics.calibration_file import Calibration
from ..backends.optics.layouts.base import Layout
from ..instruments.formatting import format_duration, format_number, format_ratio
from ..instruments.table import Column, Table

_LIGHT = {"imaged": "1.6e8", "line": "1.3e8"}  # about 3,000 photons per full-scale product
_COMPARED = (
    Column("quantity", align="left"),
    Column("ground truth"),
    Column("calibrated"),
    Column("difference", form="+.4f"),
    Column("tolerance", form="g"),
    Column("met", align="left"),
)


@dataclass(frozen=True)
class CalibrationRow:
    """One quantity: its ground truth, its calibrated value, and how far apart they may be.

    Parameters
    ----------
    off : difference, in the unit of the tolerance
    """

    what: str
    truth: str
    found: str
    off: float
    tolerance: float

    @property
    def is_met(self) -> bool:
        """Whether the tolerance is kept."""
        return abs(self.off) <= self.tolerance


@dataclass(frozen=True)
class Study:
    """Results of one bench.

    Parameters
    ----------
    before, after : accuracy of products, uncalibrated and calibrated
    """

    seed: int
    rows: list[CalibrationRow]
    before: Accuracy
    after: Accuracy
    calibration: Calibration


def study(path: Path, seed: int, products: int = 4000) -> Study:
    """Align and calibrate the bench of a file, and compare it with its ground truth."""
    with BenchBackend(load_bench(path), uncalibrated=True) as backend:
        before = random_products(backend, products // 4, seed)
    bench = load_bench(path)
    aligned = align(bench)
    with bench:
        store(bench, aligned)
    calibration = calibrate(load_bench(path))
    with BenchBackend(load_bench(path)) as backend:
        after = random_products(backend, products, seed)
        rows = list(_compare(backend, calibration, before, after))
    return Study(seed, rows, before, after, calibration)


def _compare(
    backend: BenchBackend, calibration: Calibration, before: Accuracy, after: Accuracy
) -> Iterator[CalibrationRow]:
    assert backend.bench.world is not None
    truth = backend.bench.world.truth(backend.optical_model.layout.optics.sensor_shape)
    has_camera_map = "camera_map" in calibration.steps["align"].arrays
    yield from _registration_rows(backend.optical_model.layout, truth, has_camera_map)
    yield from _response_rows(backend, calibration, truth)
    if has_camera_map:
        yield from _camera_rows(backend.bench, calibration)
    yield from _settling_rows(backend.bench, calibration, truth)
    yield from _accuracy_rows(calibration, before, after)


def _registration_rows(
    layout: Layout, truth: Mapping[str, Any], has_camera_map: bool
) -> Iterator[CalibrationRow]:
    points = _points(layout)
    scale = np.sqrt(abs(np.linalg.det(truth["input_map"][:, :2])))
    off = registration.apply(layout.optics.input_map, points) - registration.apply(
        truth["input_map"], points
    )
    yield CalibrationRow("input on weight modulator, px", "", "", _rms(off / scale), 0.1)
    if has_camera_map:
        off = registration.apply(layout.optics.camera_map, points) - registration.apply(
            truth["camera_map"], points
        )
        yield CalibrationRow("weight modulator on camera, px", "", "", _rms(off), 0.1)


def _response_rows(
    backend: BenchBackend, calibration: Calibration, truth: Mapping[str, Any]
) -> Iterator[CalibrationRow]:
    for role in ("input", "weight"):
        table, found = truth["tables"][role], backend.optical_model.layout.optics.tables[role]
        off = _rms(found - table)
        yield CalibrationRow(f"{role} response curve, of full scale", "", "", off, 3e-3)
        hidden = 1 / table.min()
        seen = calibration.figure("response_curves", f"{role}_extinction")
        yield _relative(f"{role} extinction ratio", hidden, seen, (".0f", ".1f"), 0.05)
    ratio = backend.optical_model.response.pairs_e / _true_pairs(
        backend.bench, backend.optical_model.layout
    )
    yield CalibrationRow("gain map", "", "", float(ratio.std() / ratio.mean()), 5e-3)


def _camera_rows(bench: Bench, calibration: Calibration) -> Iterator[CalibrationRow]:
    constants = bench.detector.true_constants()
    seen = calibration.figure("photon_transfer", "gain_e_per_count")
    yield _relative("e per count", constants.gain_e_per_count, seen, (".4f", ".4f"), 0.01)
    seen = calibration.figure("photon_transfer", "read_noise_e")
    yield _relative("read noise, e", constants.read_noise_e, seen, (".3f", ".3f"), 0.05)


def _settling_rows(
    bench: Bench, calibration: Calibration, truth: Mapping[str, Any]
) -> Iterator[CalibrationRow]:
    for role, modulator in bench.modulators.items():
        hidden = modulator.latency_s + truth["settle_times_s"][role]
        seen = calibration.figure("settling", f"{role}_wait_s")
        yield CalibrationRow(
            f"{role} settling, refreshes",
            format_duration(hidden),
            format_duration(seen),
            (seen - hidden) / modulator.refresh_period_s,
            1.0,
        )


def _accuracy_rows(
    calibration: Calibration, before: Accuracy, after: Accuracy
) -> Iterator[CalibrationRow]:
    times = before.error / after.floor
    yield CalibrationRow(
        "10 / (error before, over floor)", "", format_ratio(times), 10 / times, 1.0
    )
    yield CalibrationRow("error after, over floor", "", "", after.over_floor, 1.15)
    bias = f"± {after.bias_error:.3f}"
    yield CalibrationRow("bias after, over floor", "", bias, after.bias_over_floor, 0.1)
    steps = calibration.steps.values()
    minutes = sum(step.seconds for step in steps) / 60
    yield CalibrationRow("bench time, minutes", "", "", minutes, 20.0)
    computing_s = sum(step.computing_s for step in steps)
    yield CalibrationRow("computing with simulation, s", "", "", computing_s, 90.0)
    photons = format_number(after.photons_full_scale)
    yield CalibrationRow("photons per full-scale product", "", photons, 0.0, 1.0)


def _relative(
    what: str, hidden: float, seen: float, forms: tuple[str, str], tolerance: float
) -> CalibrationRow:
    """Return a row whose difference is relative to the truth."""
    texts = (format(hidden, forms[0]), format(seen, forms[1]))
    return CalibrationRow(what, *texts, seen / hidden - 1, tolerance)


def _points(layout: Layout) -> np.ndarray:
    top, left, bottom, right = layout.window
    rows, columns = np.linspace(top, bottom - 1, 25), np.linspace(left, right - 1, 25)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def _true_pairs(bench: Bench, layout: Layout) -> np.ndarray:
    """Return the light of element pairs by true gains and registration: float [slots, length]."""
    assert bench.world is not None
    truth = bench.world.truth()
    lit = layout.elements >= 0
    rows, columns = np.nonzero(lit)
    places = layout.elements[lit]
    _, inputs = layout._places()
    on_input = np.pad(layout._on_input(inputs), 1)
    wanted = inputs[rows, columns]
    q = registration.apply(truth["input_map"], np.stack([rows, columns], axis=-1))
    low = np.floor(q).astype(int)
    share = q - low
    own = np.zeros(len(rows))
    for i in range(2):
        for j in range(2):
            y, x = np.clip(low + np.array([i + 1, j + 1]), 0, np.array(on_input.shape) - 1).T
            part = (share[:, 0] if i else 1 - share[:, 0]) * (share[:, 1] if j else 1 - share[:, 1])
            own += np.where(on_input[y, x] == wanted, part, 0)
    light = own * truth["gains"][rows, columns]
    sums = np.bincount(places, light, minlength=layout.slots * layout.length)
    return sums.reshape(layout.slots, layout.length)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def bench_text(layout: str, seed: int, bits: int, modulator: str) -> str:
    """Return the text of a bench file as found, with a seed of its imperfections.

    Parameters
    ----------
    bits, modulator : bit depth and device of both modulators
    """
    text = example_file(layout, as_found=True, seed=seed)
    if layout in _LIGHT:
        light = f"electrons_per_pixel_j = {_LIGHT[layout]}"
        text = re.sub("electrons_per_pixel_j = .*", light, text)
    device = f'driver = "simulated-slm"\nbit_depth = {bits}\n'
    text = text.replace('driver = "simulated-slm"\n', device)
    return text.replace('device = "fast-1920"', f'device = "{modulator}"')


def measure(text: str, seed: int, products: int) -> Study:
    """Study the bench of a text, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(text, encoding="utf-8")
        return study(path, seed, products)


def comparison_table(found: Study, title: str) -> Table:
    """Return what calibration found beside the hidden truth."""
    rows = tuple(
        (row.what, row.truth, row.found, row.off, row.tolerance, "yes" if row.is_met else "NO")
        for row in found.rows
    )
    return Table(title, _COMPARED, rows)
