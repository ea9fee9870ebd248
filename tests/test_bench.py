"""Products of a bench agree with the noise model and with the mock, and faults are detected.

Statistical tests fix their seeds; each states its false-alarm rate for a fresh seed.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from bench_factory import (
    LAYOUTS,
    BenchMaker,
    change_bench,
    fault,
    load_example,
    numbers,
    write_bench,
)
from lightloom.backends import MatmulResult, MockBackend
from lightloom.backends.bench import BenchBackend, example_file, load_bench
from lightloom.backends.bench.shot_plan import TileJob
from lightloom.benchmarks.agreement import Agreement, compare, unsteady_bench
from lightloom.instruments import InputError, NotConnected, Paused, Region, Shot

import lightloom


def assert_agrees(found: Agreement) -> None:
    """Pooled z, slope, chi-square and variances within their limits: false alarm 5e-4 in all."""
    assert found.outputs >= 7200
    assert found.faults == []


@pytest.mark.parametrize(
    "kind",
    [
        "offset",
        pytest.param("abs-split", marks=pytest.mark.slow),
        pytest.param("push-pull", marks=pytest.mark.slow),
    ],
)
def test_the_imaged_bench_and_the_mock_agree(make_bench: BenchMaker, kind: str) -> None:
    # results on the mock must hold on the bench
    assert_agrees(compare(make_bench(encoding__kind=kind), 9, 8, 100))


@pytest.mark.campaign  # the unsteady line below is compared with its mock, too
def test_the_line_bench_and_the_mock_agree(make_bench: BenchMaker) -> None:
    backend = make_bench("line", world__electrons_per_pixel_j=4e8)
    assert_agrees(compare(backend, 9, 2, 500))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unsteady_benches_agree_with_exact_products(tmp_path: Path, layout: str) -> None:
    """Otherwise a common gain error of 1.6 % hides, as it did, behind signs that cancel.

    Source noise of 2 % and drift; limits of 4.5 standard errors: false alarm 5e-4 a bench.
    """
    backend = BenchBackend(load_bench(unsteady_bench(layout, tmp_path)))
    try:
        found = compare(backend, 6, 8 if layout == "imaged" else 1, 60)
    finally:
        backend.close()
    assert found.faults == []
    # what would be seen: limits of 60 repeats, which scatter by 13 % themselves (7 sigma)
    assert found.slope.limit < (5e-3 if layout == "imaged" else 0.03)
    for one in (found.chi_square, found.variance):
        assert one.limit < 0.8


def test_a_common_gain_error_is_beyond_the_limits(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a comparison that misses what it is for is worth nothing: all products 1.6 % too large
    backend = make_bench()
    matmul = backend.matmul

    def too_large(*operands: Any) -> MatmulResult:
        result = matmul(*operands)
        return replace(result, y=result.y * np.float32(1.016))

    monkeypatch.setattr(backend, "matmul", too_large)
    assert {"slope"} <= set(compare(backend, 6, 8, 50).faults)


_WORLDS = [
    pytest.param("imaged", False, {}, marks=pytest.mark.slow),
    ("imaged", True, {"blur_px": 0.5}),
    ("imaged", True, {"distortion": 0.01, "extinction_ratio": 30.0}),
    ("imaged", True, {"camera_registration": {"scale": 0.97, "rotation_deg": 0.5}}),
    ("line", True, {"extinction_ratio": 50.0, "unevenness": 0.05}),
    ("line", False, {"crosstalk": 0.02, "gain_rms": 0.03}),
]


@pytest.mark.parametrize(("layout", "tiny", "world"), _WORLDS)
def test_the_true_response_predicts_the_light(
    make_bench: BenchMaker, layout: str, tiny: bool, world: dict[str, Any]
) -> None:
    """With a wrong response, markers would seem 1.6 % dim, and products be 1.6 % too large.

    Random frames, without noise: the response predicts the image on the camera.
    """
    backend = make_bench(layout, tiny=tiny, **{f"world__{key}": world[key] for key in world})
    backend.open()
    bench, layout_of, curves = (
        backend.bench,
        backend.optical_model.layout,
        backend.optical_model.curves,
    )
    assert bench.world is not None
    rng, rows = np.random.default_rng(0), 1 if layout_of.shares_input else layout_of.slots
    x = rng.integers(0, 256, (rows, layout_of.length)).astype(np.uint8)
    w = rng.integers(0, 256, (layout_of.slots, layout_of.length)).astype(np.uint8)
    for role, levels in (("input", x), ("weight", w)):
        bench.world.show(role, layout_of.frame(role, levels, 5), -10.0)
    sensor, shot = bench.camera.sensor_shape, Shot("light", 1)
    light_e = bench.world.on_camera(
        0.0, bench.file.exposure_s, sensor, Region(0, 0, *sensor), 0, shot
    )
    counts = (
        light_e / backend.optical_model.optics.gain_e_per_count
        + backend.optical_model.optics.dark_counts
    )
    expected = backend.optical_model.passed_e(x, w)
    np.testing.assert_allclose(layout_of.electrons(counts), expected, rtol=4e-3)
    slope = layout_of.electrons(counts) @ expected / (expected @ expected)
    assert slope == pytest.approx(1, abs=1e-3)
    marks = layout_of.marks(
        layout_of.read(counts),
        float(curves["input"].light[x].mean()),
        backend.optical_model.response.markers,
    )
    assert marks.scale == pytest.approx(1, abs=1e-3)


def test_every_run_says_whether_its_light_was_as_predicted(make_bench: BenchMaker) -> None:
    # markers that differ from the light of the products must be reported: a correct bench is
    # reported once in 1e4 runs, and 40 of 40 benches as unsteady as this one were
    x, w = numbers(8, 16), numbers(4, 16, seed=4)
    backend = make_bench(world__source_rms=0.005)
    for _ in range(4):
        backend.matmul(x, w)
    sound = " ".join(backend.remarks)
    assert "the light differed from its prediction" in sound and "NOT AS CALIBRATED" not in sound
    world = backend.bench.world
    assert world is not None
    world.options = world.options.model_copy(update={"source_rms": 0.02})
    for _ in range(12):
        backend.matmul(x, w)
    assert "LIGHT NOT AS CALIBRATED" in " ".join(backend.remarks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_come_out_right(make_bench: BenchMaker, layout: str) -> None:
    # every shape of product goes through the same frames: segments, groups, batches, both signs
    more = {"world__electrons_per_pixel_j": 2e10} if layout == "single-pixel" else {}
    backend = make_bench(layout, **more)
    length = 40
    x, w = numbers(5, length), numbers(6, length, seed=4)
    result = backend.matmul(x, w)
    exact = x @ w.T
    mock = MockBackend(backend.profile).matmul(np.tile(x, (40, 1)), w).y
    predicted = np.sqrt(np.mean((mock - np.tile(exact, (40, 1))) ** 2))
    # 1.01 of it, +-0.14 of a line's (40 worlds): beyond 1.8 once in 5e6
    assert np.sqrt(np.mean((result.y - exact) ** 2)) < 1.8 * predicted
    assert result.stats.shots and result.stats.retries == 0
    batched = backend.matmul(numbers(3, 2, 8), numbers(3, 4, 8, seed=4))
    reference = numbers(3, 2, 8) @ np.swapaxes(numbers(3, 4, 8, seed=4), -1, -2)
    assert np.corrcoef(batched.y.ravel(), reference.ravel())[0, 1] > 0.9


@pytest.mark.slow  # a bench of its real size
def test_known_misalignment_and_uneven_light_are_corrected(make_bench: BenchMaker) -> None:
    # a correct calibration must remove the misalignment of a bench
    backend = make_bench(
        tiny=False,
        world__electrons_per_pixel_j=1e9,
        world__unevenness=0.05,
        world__lut_rms=0.02,
        world__input_registration={"shift_px": [3.0, -5.0]},
        world__camera_registration={"shift_px": [4.5, 2.5]},
    )
    x, w = numbers(8, 64), numbers(16, 64, seed=4)
    error = backend.matmul(x, w).y - x @ w.T
    assert np.sqrt(np.mean(error**2)) < 0.03 * np.std(x @ w.T)  # 0.013, by grey levels


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bench_without_light_takes_its_time_and_gives_exact_products(
    make_bench: BenchMaker, layout: str
) -> None:
    # schedulers are tested on it: the same frames and waits, and exact numbers
    backend = make_bench(layout, world__light="timing")
    x, w = numbers(5, 16), numbers(4, 16, seed=4)
    result = backend.matmul(x, w)
    np.testing.assert_allclose(result.y, x @ w.T, atol=0.05)
    period_s = 3e-3  # settling, exposure; a whole refresh period each
    assert backend.bench.clock.now_s() >= result.stats.shots * period_s


def test_every_job_shows_its_own_frames(make_bench: BenchMaker) -> None:
    # a new job at the memory address of an earlier one must show its own frames
    backend = make_bench(world__light="timing")
    backend.open()
    layout = backend.optical_model.layout
    full = backend.optical_model.curves["input"].brightest
    weights = np.full(
        (layout.slots, layout.length), backend.optical_model.curves["weight"].brightest, np.uint8
    )

    def taken(inputs: np.ndarray) -> np.ndarray:
        job = TileJob("one shot", 1, 1, lambda _: weights, lambda _: inputs)
        return backend.setup.runner.run(job).electrons[0, 0]

    for twelfth in range(12):
        inputs = np.full((layout.slots, layout.length), full * twelfth // 12, dtype=np.uint8)
        np.testing.assert_allclose(taken(inputs), backend.optical_model.passed_e(inputs, weights))


def test_a_run_repeats_bit_by_bit(make_bench: BenchMaker) -> None:
    # a result must be reproducible
    x, w = numbers(4, 16), numbers(5, 16, seed=4)
    first, second = (make_bench().matmul(x, w).y for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_dark_zero_and_empty_operands(make_bench: BenchMaker) -> None:
    backend = make_bench()
    assert not np.abs(backend.matmul(np.zeros((2, 16)), np.zeros((3, 16))).y).max() > 1
    assert backend.matmul(np.zeros((0, 16)), np.zeros((3, 16))).y.shape == (0, 3)
    with pytest.raises(InputError, match="not finite"):
        backend.matmul(np.full((1, 16), np.nan), np.ones((3, 16)))


# --- faults --------------------------------------------------------------------------------------

_REPEATED = [
    ("detector", "dropped", "timeout"),
    ("detector", "incomplete", "incomplete"),
    ("detector", "stale", "stale"),
    ("detector", "silent", "timeout"),
    ("detector", "overflow", "timeout"),
    ("detector", "garbage", "unexpected-intensity"),
    ("input", "frozen", "stale"),
    ("weight", "frozen", "stale"),
    ("input", "late", "stale"),
]


@pytest.mark.parametrize(
    ("layout", "role", "kind", "reason"),
    [
        *(("imaged", *case) for case in _REPEATED),
        # the camera is that of an imaged bench
        *(pytest.param("line", *case, marks=pytest.mark.slow) for case in _REPEATED[:6]),
        *(("line", *case) for case in _REPEATED[6:]),
    ],
)
def test_a_fault_is_found_and_the_shot_repeated(
    make_bench: BenchMaker, layout: str, role: str, kind: str, reason: str
) -> None:
    # a frozen modulator or an old frame gives plausible numbers
    number = 2 if role == "weight" else 4
    faults = {f"instruments__{role}__faults": fault(kind, [number], delay_s=0.003)}
    backend = make_bench(layout, **faults)
    x, w = numbers(6, 16), numbers(4, 16, seed=4)
    w = np.concatenate([w, w]) if layout == "line" else np.tile(w, (10, 1))
    result = backend.matmul(x, w)
    assert set(backend.faults) == {reason}
    assert result.stats.retries == backend.faults[reason] <= 2
    clean = make_bench(layout).matmul(x, w).y
    spread = np.std(clean - x @ w.T)
    assert np.std(result.y - clean) < 2.5 * spread


@pytest.mark.slow
def test_many_faults_leave_no_wrong_number(make_bench: BenchMaker) -> None:
    # as in hours on a bench with loose cables: faults are retried and counted
    kinds = ("dropped", "incomplete", "stale", "silent", "garbage")
    faults = [{"kind": kind, "rate": 0.02, "seed": 7} for kind in kinds]
    frozen = fault("frozen", rate=0.03, seed=8)
    backend = make_bench(
        instruments__detector__faults=faults,
        instruments__input__faults=frozen,
        instruments__weight__faults=frozen,
        limits__retries=20,
    )
    x, w = numbers(600, 16), numbers(16, 16, seed=4)
    result, clean = backend.matmul(x, w), make_bench().matmul(x, w)
    assert result.stats.retries > 100 and len(backend.faults) >= 4
    noise = MockBackend(backend.profile).matmul(x, w).y - x @ w.T
    error = np.abs(result.y - x @ w.T)
    # six sigma over 9,600 outputs: false alarm 2e-5; a wrong frame is off by tens of sigma
    assert error.max() < 6 * np.std(noise) * 1.5
    assert np.std(result.y - x @ w.T) < 1.05 * np.std(clean.y - x @ w.T)


def test_a_lasting_fault_ends_the_run_in_the_dark(make_bench: BenchMaker) -> None:
    # a retry loop that hides a broken device runs all night for nothing
    backend = make_bench(instruments__input__faults=fault("frozen", rate=1.0))
    with pytest.raises(Paused, match=r"failed 6 times.*follow the input modulator") as caught:
        backend.matmul(numbers(2, 16), numbers(3, 16))
    assert (caught.value.kind, caught.value.device) == ("unexpected-intensity", "instruments.input")
    assert backend.bench.world is not None and backend.bench.world.power_w == 0
    assert not backend.bench.source.is_connected


def test_an_unplugged_camera_is_reported_and_the_light_goes_off(make_bench: BenchMaker) -> None:
    backend = make_bench(
        instruments__detector__faults=fault("lost", [3]),
        faults__disconnected="pause",
    )
    with pytest.raises(Paused, match=r"instruments\.detector") as caught:
        backend.matmul(numbers(20, 16), numbers(8, 16))
    said = str(caught.value)
    assert said.endswith("check its cable and power; the bench is safe")
    assert said.count("cable") == 1 and "tried" not in said  # no recovery was tried
    assert backend.bench.world is not None and backend.bench.world.power_w == 0


@pytest.mark.parametrize("extinction", [pytest.param(500.0, marks=pytest.mark.slow), 100.0])
def test_bright_inputs_do_not_drown_a_line_s_markers(
    make_bench: BenchMaker, extinction: float
) -> None:
    # dark rows leak a whole row of input into the cells of the marker
    backend = make_bench("line", tiny=False, world__extinction_ratio=extinction)
    ones = np.ones((2, 400))
    w = numbers(3, 400)
    error = backend.matmul(ones, w).y - ones @ w.T
    assert backend.faults == {} and np.abs(error).max() < 10


def test_too_much_light_is_refused(make_bench: BenchMaker) -> None:
    backend = make_bench(world__electrons_per_pixel_j=2e11)
    with pytest.raises(Paused, match="lower power_w or exposure_s"):
        backend.matmul(np.ones((2, 16)), np.ones((3, 16)))


def test_a_single_pixel_bench_detects_a_dim_source(make_bench: BenchMaker) -> None:
    # half the light halves every number, and no marker shows it
    backend = make_bench("single-pixel", world__electrons_per_pixel_j=2e10)
    backend.open()
    assert backend.bench.world is not None
    backend.bench.world.power_w /= 2
    with pytest.raises(Paused, match="reference shot"):
        backend.matmul(numbers(3, 16), numbers(2, 16))
    assert backend.faults == {"unexpected-intensity": 6}


def test_a_single_pixel_bench_counts_its_frames(make_bench: BenchMaker) -> None:
    # a photodiode cannot see markers, so the frame counter detects a frame that was not shown
    backend = make_bench("single-pixel", instruments__input__faults=fault("frozen", [3]))
    result = backend.matmul(numbers(3, 16), numbers(2, 16))
    assert backend.faults == {"stale": 1} and result.stats.retries == 1


# --- bench files that cannot be used -------------------------------------------------------------

_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"encoding__colour": "red"}, "colour"),
    "wrong unit": ({"exposure_s": "5 mW"}, "exposure_s"),
    "coherent": ({"coherence": "coherent"}, "coheren"),
    "limits reversed": ({"limits__exposure_s": ["1 s", "1 ms"]}, "reversed"),
    "too much power": ({"power_w": "1 W"}, "power_w"),
    "two at one address": (
        {"instruments__input__serial": "7", "instruments__weight__serial": "7"},
        "one address",
    ),
    "unknown driver": ({"instruments__source__driver": "sun"}, "sun"),
    "a camera as a modulator": ({"instruments__input__driver": "simulated-camera"}, "wants"),
    "unknown device": ({"instruments__input__device": "abacus"}, "abacus"),
    "does not fit": ({"encoding__block": [99, 99]}, "does not fit"),
    "no guard": ({"encoding__guard_px": 1}, "guard"),
    "exposure longer than the time-out": (
        {"exposure_s": "900 ms", "limits__timeout_s": 0.5},
        "timeout_s",
    ),
    "no schema": ({"schema": 7}, "schema"),
    "single pixel with a camera": ({"layout": "single-pixel"}, "daq"),
}


@pytest.mark.parametrize("mistake", _BAD)
def test_a_bad_bench_file_is_named_with_key_and_value(tmp_path: Path, mistake: str) -> None:
    changes, words = _BAD[mistake]
    path = write_bench(tmp_path / "bad.toml", **changes)
    with pytest.raises(InputError, match=words) as caught:
        lightloom.open_backend(str(path)).warm_up()
    assert "bad.toml" in str(caught.value)


@pytest.mark.parametrize("role", ["input", "weight", "detector", "source"])
def test_a_missing_role_is_named(tmp_path: Path, role: str) -> None:
    with pytest.raises(InputError, match=f"instruments.{role} is missing"):
        load_example(tmp_path / "bad.toml", **{f"instruments__{role}": None})


def test_every_example_file_is_a_bench() -> None:
    with pytest.raises(InputError, match="spiral"):
        example_file("spiral")


def test_threads_may_be_the_first_to_use_a_bench_together(make_bench: BenchMaker) -> None:
    # the second one connected instruments that were connected, and closed the bench of the first
    backend, x, w = make_bench(), numbers(3, 16), numbers(4, 16, seed=4)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: backend.matmul(x, w).y, range(3)))
    assert all(np.abs(y - x @ w.T).max() < 0.5 for y in found)


def test_a_bench_that_is_closed_while_it_opens_is_dark(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it stayed lit until the next product
    backend = make_bench()
    opened = backend.bench.open
    monkeypatch.setattr(backend.bench, "open", lambda: (backend.close(), opened()))
    with pytest.raises(NotConnected, match="was closed while it was opened"):
        backend.open()
    assert not backend.bench.source.is_connected


def test_recoveries_are_told_even_if_opening_fails(
    make_bench: BenchMaker, calibrated_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bench.toml"
    copytree(calibrated_folder, tmp_path, dirs_exist_ok=True)
    change_bench(
        path, instruments__detector__faults=fault("stale", [2, 3]), faults__stale="retry 1, pause"
    )
    backend = BenchBackend(load_bench(path))
    with pytest.raises(Paused):
        backend.open()
    assert "recoveries from faults: pause 1, retry 1" in " ".join(backend.remarks)


def test_variances_do_not_depend_on_the_speed_of_the_host(make_bench: BenchMaker) -> None:
    # they were of the light at the time when a product was gathered, while later shots went on
    x, w = numbers(4, 60), numbers(4, 60, seed=4)
    found = set()
    for seconds in (0.0, 0.0, 0.2):
        backend = make_bench(world__drift_rms=0.03, world__drift_shots=200.0)
        finish = [backend.begin(x, w) for _ in range(3)]
        time.sleep(seconds)
        found.add(b"".join(one().variance.tobytes() for one in finish))
    assert len(found) == 1
