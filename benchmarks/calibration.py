"""Align and calibrate simulated benches as found, and compare with their hidden truth.

    python -m lightloom.benchmarks.calibration --layout imaged --seeds 5

Every imperfection of the simulated world is on, drawn from each seed. The truth is read here only,
after all is done; alignment and calibration see light alone.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends.bench import Bench, BenchBackend, example_file, load_bench
from ..backends.bench.accuracy import Accuracy, random_products
from ..backends.calibration import align, store
from ..backends.calibration.calibrate import calibrate
from ..backends.optics import registration
from ..backends.optics.calibration_file import Calibration
from ..backends.optics.layouts.base import Layout

_LIGHT = {"imaged": "1.6e8", "line": "1.3e8"}  # about 3,000 photons per full-scale product


@dataclass(frozen=True)
class CalibrationRow:
    """One line of the table: what is hidden, what was found, and how far apart they may be.

    Parameters
    ----------
    off : how far apart they are, in the unit of the tolerance
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
    """What one bench gave.

    Parameters
    ----------
    before, after : figures of merit, on a guess and calibrated
    """

    seed: int
    rows: list[CalibrationRow]
    before: Accuracy
    after: Accuracy
    calibration: Calibration


def study(path: Path, seed: int, products: int = 4000) -> Study:
    """Align, calibrate and judge the bench of a file."""
    backend = BenchBackend(load_bench(path), uncalibrated=True)
    before = random_products(backend, products // 4, seed)
    backend.close()
    bench = load_bench(path)
    aligned = align(bench)
    with bench:
        store(bench, aligned)
    calibration = calibrate(load_bench(path))
    backend = BenchBackend(load_bench(path))
    after = random_products(backend, products, seed)
    rows = list(_compare(backend, calibration, before, after))
    backend.close()
    return Study(seed, rows, before, after, calibration)


def _compare(
    backend: BenchBackend, calibration: Calibration, before: Accuracy, after: Accuracy
) -> Iterator[CalibrationRow]:
    bench, layout = backend.bench, backend.optical_model.layout
    assert bench.world is not None
    truth = bench.world.truth(layout.optics.sensor_shape)
    figure = calibration.figure
    points = _points(layout)
    scale = np.sqrt(abs(np.linalg.det(truth["input_map"][:, :2])))
    off = registration.apply(layout.optics.input_map, points) - registration.apply(
        truth["input_map"], points
    )
    yield CalibrationRow("input on weight modulator, px", "", "", _rms(off / scale), 0.1)
    if bench.file.layout != "single-pixel":
        off = registration.apply(layout.optics.camera_map, points) - registration.apply(
            truth["camera_map"], points
        )
        yield CalibrationRow("weight modulator on camera, px", "", "", _rms(off), 0.1)
    for role in ("input", "weight"):
        table, found = truth["tables"][role], layout.optics.tables[role]
        yield CalibrationRow(f"{role} grey curve, of full scale", "", "", _rms(found - table), 3e-3)
        hidden, seen = 1 / table.min(), figure("response_curves", f"{role}_extinction")
        yield CalibrationRow(
            f"{role} extinction", f"{hidden:.0f}", f"{seen:.1f}", seen / hidden - 1, 0.05
        )
    pairs = _true_pairs(bench, layout)
    ratio = backend.optical_model.response.pairs_e / pairs
    yield CalibrationRow("gain map", "", "", float(ratio.std() / ratio.mean()), 5e-3)
    if bench.file.layout != "single-pixel":
        camera = bench.instruments["detector"]
        hidden, seen = camera.gain_e_per_count, figure("photon_transfer", "gain_e_per_count")  # type: ignore[attr-defined]
        yield CalibrationRow("e per count", f"{hidden:.4f}", f"{seen:.4f}", seen / hidden - 1, 0.01)
        hidden, seen = camera.read_noise_e, figure("photon_transfer", "read_noise_e")  # type: ignore[attr-defined]
        yield CalibrationRow(
            "read noise, e", f"{hidden:.3f}", f"{seen:.3f}", seen / hidden - 1, 0.05
        )
    for role, modulator in (("input", bench.input), ("weight", bench.weight)):
        hidden = modulator.latency_s + truth["settle_times_s"][role]
        seen = figure("settling", f"{role}_wait_s")
        yield CalibrationRow(
            f"{role} settling, refreshes",
            f"{hidden:.4g} s",
            f"{seen:.4g} s",
            (seen - hidden) / modulator.refresh_period_s,
            1.0,
        )
    times = before.error / after.floor
    yield CalibrationRow("10 / (error before, over floor)", "", f"{times:.0f} x", 10 / times, 1.0)
    yield CalibrationRow("error after, over floor", "", "", after.over_floor, 1.15)
    yield CalibrationRow(
        "bias after, over floor", "", f"+- {after.bias_error:.3f}", after.bias_over_floor, 0.1
    )
    steps = calibration.steps.values()
    yield CalibrationRow(
        "bench time, minutes", "", "", sum(step.seconds for step in steps) / 60, 20.0
    )
    yield CalibrationRow(
        "computing with simulation, s", "", "", sum(s.computing_s for s in steps), 90.0
    )
    yield CalibrationRow(
        "photons per full-scale product", "", f"{after.photons_full_scale:.0f}", 0.0, 1.0
    )


def _points(layout: Layout) -> np.ndarray:
    top, left, bottom, right = layout.window
    rows, columns = np.linspace(top, bottom - 1, 25), np.linspace(left, right - 1, 25)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def _true_pairs(bench: Bench, layout: Layout) -> np.ndarray:
    """Return the light of element pairs from true gains and registration, [slots, length]."""
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


def main(arguments: list[str] | None = None) -> None:
    """Study benches of several seeds, and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layout", default="imaged", choices=("imaged", "line", "single-pixel"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--products", type=int, default=4000)
    parser.add_argument("--bits", type=int, default=12, help="of both modulators")
    parser.add_argument("--modulator", default="fast-1920", help="device of both modulators")
    options = parser.parse_args(arguments)
    met = True
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bench.toml"
            path.write_text(_file(options, seed), encoding="utf-8")
            began = time.perf_counter()
            found = study(path, seed, options.products)
        print(f"\n{options.layout}, seed {seed}, {time.perf_counter() - began:.0f} s in all")
        for row in found.rows:
            mark = "" if row.is_met else "  <- not met"
            print(
                f"  {row.what:40} {row.truth:>9} {row.found:>9} {row.off:+10.4f} of "
                f"{row.tolerance:g}{mark}"
            )
            met &= row.is_met
        for name, step in found.calibration.steps.items():
            print(
                f"  {name:12} {step.shots:5} shots {step.seconds:8.1f} s of the bench "
                f"{step.computing_s:6.1f} s here {step.light_j:9.3g} J of light"
            )
    print("\nall met" if met else "\nnot all met")


def _file(options: argparse.Namespace, seed: int) -> str:
    text = example_file(options.layout, as_found=True, seed=seed)
    if options.layout in _LIGHT:
        light = f"electrons_per_pixel_j = {_LIGHT[options.layout]}"
        text = re.sub("electrons_per_pixel_j = .*", light, text)
    device = f'driver = "simulated-slm"\nbit_depth = {options.bits}\n'
    text = text.replace('driver = "simulated-slm"\n', device)
    return text.replace('device = "fast-1920"', f'device = "{options.modulator}"')


if __name__ == "__main__":
    main()
