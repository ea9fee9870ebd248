"""If these fail, an operator gets a wrong registration of the bench, or a meaningless fit."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import FAST_512, IMPERFECT, fault, load_example
from commands import called
from lightloom.backends.bench.bench import Bench
from lightloom.backends.bench.binding import check_calibration
from lightloom.backends.calibration import (
    Alignment,
    align,
    align_live,
    fiducials,
    phase_shift,
    store,
)
from lightloom.backends.calibration.probe import make_probe
from lightloom.backends.optics import registration
from lightloom.backends.optics.calibration_file import Calibration, path_of
from lightloom.instruments import InterlockOpen, LightloomError, Saturated, UnexpectedIntensity
from lightloom.instruments.simulated import LightPath

STRAY_E_PER_S = 2e4
AT_A_TERMINAL = {
    **os.environ,
    "FORCE_COLOR": "1",
}  # without a terminal, live alignment shows nothing
FAULTS = {role: f"instruments__{role}__faults" for role in ("input", "weight", "detector")}


def bench_of(
    folder: Path,
    layout: str = "imaged",
    seed: int = 0,
    size: str = "small",
    shift_px: float = 20.0,
    **changes: Any,
) -> Bench:
    """Return a misaligned bench with shading, noise and drift, by a seed."""
    chance = np.random.default_rng(seed)
    registrations = [
        {
            "scale": 1 + chance.uniform(-0.05, 0.05),
            "rotation_deg": chance.uniform(-3, 3),
            "shift_px": [chance.uniform(-1, 1) * shift_px, chance.uniform(-1, 1) * shift_px],
        }
        for _ in range(2)
    ]
    options = {
        "calibration": None,
        **IMPERFECT,
        "world__stray_e_per_s": STRAY_E_PER_S,
        "world__seed": seed,
    }
    options |= {"world__input_registration": registrations[0]}
    options |= {"world__camera_registration": registrations[1]}
    options |= {"world__blur_px": 1.5} if layout == "imaged" and size != "tiny" else {}
    options |= {"world__crosstalk": 0.02} if layout == "line" else {}
    options |= FAST_512 if size == "small" else {}
    return load_example(folder, layout, tiny=size == "tiny", **(options | changes))


def errors(bench: Bench, alignment: Alignment) -> tuple[float, float]:
    """Return the rms errors of both maps over the weight pixels that both planes see."""
    assert bench.world is not None
    layout = bench.file.layout
    axes = [np.linspace(0, size - 1, 40) for size in bench.weight.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    sensor = bench.camera.sensor_shape if layout != "single-pixel" else (1, 1)
    truth = bench.world.truth(sensor)
    on_input = registration.apply(truth["input_map"], points)
    usable = _inside(on_input, bench.input.shape)
    if layout == "single-pixel":
        return _rms(registration.apply(alignment.input_map, points)[usable] - on_input[usable]), 0.0
    assert alignment.camera_map is not None
    if layout == "line":
        row = truth["camera_map"][0, 0] * points[:, 0] + truth["camera_map"][0, 2]
        usable &= (row > 0) & (row < sensor[0] - 1)
        off = (registration.apply(alignment.camera_map, points)[:, 0] - row)[:, None]
    else:
        on_camera = _bent(
            registration.apply(truth["camera_map"], points), sensor, truth["distortion"]
        )
        usable &= _inside(on_camera, sensor)
        off = registration.apply(alignment.camera_map, points) - on_camera
    return (
        _rms(registration.apply(alignment.input_map, points)[usable] - on_input[usable]),
        _rms(off[usable]),
    )


def _bent(places: np.ndarray, shape: tuple[int, int], distortion: float) -> np.ndarray:
    middle = (np.array(shape) - 1) / 2
    off = places - middle
    return middle + off * (1 + distortion * (off**2).sum(-1, keepdims=True) / (middle**2).sum())


def _inside(places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return ((places > 0) & (places < np.array(shape) - 1)).all(axis=-1)


def _rms(off: np.ndarray) -> float:
    return float(np.sqrt((off**2).sum(axis=1).mean()))


@pytest.mark.parametrize(
    "seed",
    [
        0,
        pytest.param(1, marks=pytest.mark.slow),
        *(pytest.param(i, marks=pytest.mark.campaign) for i in (2, 3)),
    ],
)
@pytest.mark.parametrize("layout", ["imaged", "line"])
def test_a_misaligned_bench_is_registered_to_a_tenth_of_a_pixel(
    tmp_path: Path, layout: str, seed: int
) -> None:
    bench = bench_of(tmp_path, layout, seed)
    alignment = align(bench)
    between, on_camera = errors(bench, alignment)
    assert between < 0.1 and on_camera < 0.1
    assert between < 6 * alignment.figure("input_map_px") + 0.01
    assert alignment.cost["shots"] <= (60 if layout == "imaged" else 200)
    assert bench.world is not None and bench.world.power_w == 0
    assert not bench.source.is_connected


@pytest.mark.campaign
@pytest.mark.parametrize(("layout", "shots"), [("imaged", 60), ("line", 200)])
def test_a_full_size_bench_is_registered(tmp_path: Path, layout: str, shots: int) -> None:
    bench = bench_of(tmp_path, layout, 11, "full", shift_px=40)
    alignment = align(bench)
    between, on_camera = errors(bench, alignment)
    assert between < 0.06 and on_camera < 0.03
    assert alignment.cost["shots"] <= shots


@pytest.mark.campaign
def test_a_single_pixel_bench_is_registered(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "single-pixel", 2, "full", shift_px=40)
    alignment = align(bench)
    assert alignment.camera_map is None and alignment.spot_px is None
    assert errors(bench, alignment)[0] < 1.0
    assert alignment.cost["shots"] < 1000


@pytest.mark.parametrize("size", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_an_aligned_bench_needs_no_adjustment(tmp_path: Path, size: str) -> None:
    straight = {"scale": 1.0}
    planes = {f"world__{which}_registration": straight for which in ("input", "camera")}
    bench = bench_of(tmp_path, size=size, **planes)
    alignment = align(bench)
    assert max(errors(bench, alignment)) < 0.05
    assert not [text for text in alignment.advice if text.startswith(("move", "turn"))]
    assert alignment.figure("usable_share") > 0.99


@pytest.mark.slow
def test_lens_distortion_is_fitted(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, world__distortion=0.01)
    alignment = align(bench)
    assert alignment.camera_map is not None and alignment.camera_map.shape == (2, 10)
    assert max(errors(bench, alignment)) < 0.1


@pytest.mark.campaign
@pytest.mark.parametrize("layout", ["imaged", "line"])
@pytest.mark.parametrize(
    "world",
    [
        {"world__extinction_ratio": 30.0},
        {"world__source_rms": 0.02},
        {"world__stray_e_per_s": 1e5},
        {"world__blur_px": 3.0},
    ],
)
def test_a_poor_bench_is_registered_as_well(
    tmp_path: Path, layout: str, world: dict[str, float]
) -> None:
    bench = bench_of(tmp_path, layout, 5, **world)
    assert max(errors(bench, align(bench))) < 0.1


@pytest.mark.parametrize("layout", ["imaged", "line"])
@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"world__covered": True}, UnexpectedIntensity, "cover"),
        ({"instruments__source__faults": fault("tripped", [2])}, InterlockOpen, "interlock"),
        ({"world__electrons_per_pixel_j": 4e14}, Saturated, "shortest exposure"),
        (
            {FAULTS["weight"]: fault("frozen", rate=1.0)},
            UnexpectedIntensity,
            r"weight modulator \(sim",
        ),
        (
            {FAULTS["input"]: fault("frozen", rate=1.0)},
            UnexpectedIntensity,
            r"input modulator \(sim",
        ),
        ({FAULTS["detector"]: fault("garbage", rate=0.6)}, UnexpectedIntensity, "hands"),
        ({"world__dead_rows": list(range(350))}, LightloomError, "covers|stands in the beam"),
    ],
)
def test_a_fault_is_named(
    tmp_path: Path, layout: str, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    bench = bench_of(tmp_path, layout, 3, **changes)
    with pytest.raises(error, match=says):
        align(bench)
    assert bench.world is not None and bench.world.power_w == 0


def test_swapped_modulators_of_a_line_bench_are_named(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "line", 3, world__swapped=True)
    with pytest.raises(UnexpectedIntensity, match="swapped"):
        align(bench)


def test_an_inverted_modulator_is_named(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    with bench:
        assert bench.world is not None
        table = bench.world.modulators["weight"].table
        table[:] = table[::-1].copy()
        with pytest.raises(UnexpectedIntensity, match=r"the weight modulator .* inverted"):
            align(bench)
        assert bench.world.power_w == 0 and bench.source.is_connected


def test_a_mirrored_input_is_noted_and_mapped(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, seed=1)
    assert bench.world is not None
    with bench:
        to_px = bench.world.truth()["input_map"].copy()
        to_px[1] *= -1
        to_px[1, 2] += bench.input.shape[1] - 1
        bench.world.move_input(to_px)
        alignment = align(bench)
        assert errors(bench, alignment)[0] < 0.1
    assert any("mirrored" in text for text in alignment.advice)


@pytest.mark.campaign
@pytest.mark.parametrize("layout", ["imaged", "line"])
@pytest.mark.parametrize(
    ("role", "kind", "rate"),
    [
        ("detector", "garbage", 0.04),
        ("detector", "dropped", 0.1),
        ("detector", "stale", 0.03),
        ("weight", "frozen", 0.03),
    ],
)
def test_some_bad_shots_do_not_spoil_an_alignment(
    tmp_path: Path, layout: str, role: str, kind: str, rate: float
) -> None:
    bench = bench_of(tmp_path, layout, 4, **{FAULTS[role]: fault(kind, rate=rate)})
    assert max(errors(bench, align(bench))) < 0.1


@pytest.mark.slow
def test_rejected_exposures_are_counted_in_the_notes(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "line", 3, **{FAULTS["detector"]: fault("garbage", rate=0.04)})
    assert any("disagreed" in text for text in align(bench).advice)


def test_dead_rows_are_named(tmp_path: Path) -> None:
    alignment = align(bench_of(tmp_path, seed=3, world__dead_rows=[300]))
    assert any(
        re.search(r"weight modulator's rows (299|300|301) stay", t) for t in alignment.advice
    )


@pytest.mark.slow
def test_rows_that_are_not_dead_are_not_named(tmp_path: Path) -> None:
    sound = align(bench_of(tmp_path, seed=3))
    assert not any("stay dark" in text for text in sound.advice)


def test_a_dark_region_is_named(tmp_path: Path) -> None:
    alignment = align(bench_of(tmp_path, seed=3, world__dead_rows=list(range(120))))
    assert any(re.search(r"do not fit, at rows \d\d", text) for text in alignment.advice)


def test_the_source_stays_within_the_alignment_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(tmp_path, size="tiny", shift_px=2.0, align_power_w="0.1 mW")
    seen = [0.0]
    power_w = property(lambda world: seen[-1], lambda world, value: seen.append(value))
    monkeypatch.setattr(LightPath, "power_w", power_w, raising=False)
    with bench:
        align(bench)
    assert 0 < max(seen) <= 1e-4


@pytest.mark.campaign
@pytest.mark.parametrize("layout", ["imaged", "line"])
def test_live_alignment_follows_an_adjustment(tmp_path: Path, layout: str) -> None:
    bench = bench_of(tmp_path, layout, 2)
    reasons: list[str] = []
    alignments = align_live(bench, reasons.append)
    first = next(alignments)
    before = next(alignments)
    shots = before.cost["shots"] - first.cost["shots"]
    assert shots <= (4 if layout == "imaged" else 12)
    assert bench.world is not None
    to_px = bench.world.truth()["input_map"].copy()
    to_px[:, 2] += [3.0, -2.0]  # the operator adjusts two screws
    bench.world.move_input(to_px)
    for _ in range(5):  # a line bench refreshes its background images in turn
        after = next(alignments)
    moved = after.figure("input_shift_rows_px") - before.figure("input_shift_rows_px")
    assert moved == pytest.approx(3.0, abs=0.5)
    alignments.close()  # type: ignore[attr-defined]
    assert bench.world.power_w == 0 and not bench.source.is_connected


def test_the_step_is_stored_and_read_back(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "line", 1, "tiny", shift_px=2.0)
    with bench:
        alignment = align(bench)
        path = store(bench, alignment)
        read = Calibration.read(path)
        check_calibration(bench, read, ["align"], 3600.0)
    assert path == path_of(None, bench.path)
    assert np.array_equal(read.array("align", "input_map"), alignment.input_map)
    assert read.figure("align", "spot_px") == alignment.spot_px
    assert read.steps["align"].shots == alignment.cost["shots"]


def lightloom(*arguments: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "lightloom", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_the_command_gives_json_and_begins_a_calibration(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, size="tiny", shift_px=2.0)
    process = lightloom("align", "--bench", bench.path, "--json")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    document = json.loads(said)
    assert Path(document["calibration"]).exists()
    assert np.array(document["input_map"]).shape == (2, 3)


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform == "win32", reason="sends Ctrl-C by its number")
def test_ctrl_c_ends_live_and_stores_a_full_alignment(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    process = lightloom("align", "--bench", bench.path, "--live", env=AT_A_TERMINAL)
    assert process.stdout is not None
    assert any("figure" in line for line in process.stdout)  # of the table that it shows
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=60)
    assert process.returncode == 0, wrong
    assert "stored in" in said and path_of(None, bench.path).exists()


def test_a_users_mistake_is_one_sentence(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, size="tiny", world__covered=True)
    done = called(tmp_path, "align", "--bench", bench.path)
    assert done.returncode == 2
    assert "cover" in done.stderr and "Traceback" not in done.stderr
    assert not path_of(None, bench.path).exists()


# --- parts ----------------------------------------------------------------------------------------


def test_one_compact_spot_or_an_error() -> None:
    chance = np.random.default_rng(0)
    image = chance.normal(0, 1, (300, 400))
    with pytest.raises(UnexpectedIntensity, match="not seen"):
        fiducials.spot(image, "a square")
    image[100:120, 200:220] += 100
    place, _ = fiducials.spot(image, "a square")
    assert np.abs(place - [109.5, 209.5]).max() < 1
    image[200:220, 50:70] += 100
    with pytest.raises(UnexpectedIntensity, match="several places"):
        fiducials.spot(image, "a square")


def test_a_robust_fit_ignores_wrong_points() -> None:
    chance = np.random.default_rng(0)
    from_px = chance.uniform(0, 500, (7, 2))
    to_px = registration.apply(np.array([[0.9, 0.05, 3.0], [-0.05, 0.9, 8.0]]), from_px)
    to_px[[1, 4]] += [[90, 10], [-50, 70]]
    matrix, off = fiducials.consensus(from_px, to_px)
    assert np.flatnonzero(off > 1).tolist() == [1, 4]
    assert matrix == pytest.approx(np.array([[0.9, 0.05, 3.0], [-0.05, 0.9, 8.0]]), abs=1e-6)


@pytest.mark.parametrize("side", [4, 12, 96])
def test_phase_shifting_locates_patches_everywhere(side: int) -> None:
    size = 1900
    place = np.linspace(side, size - side, 200)
    inside = np.arange(side) - (side - 1) / 2
    periods, within = phase_shift.periods(size, side), []
    for period in periods:
        patterns = phase_shift.phase_steps(0, period)
        seen = place[:, None] + inside
        signals = np.stack([pattern.light(seen).mean(axis=1) for pattern in patterns])
        within.append(phase_shift.phase(signals, patterns)[0])
    unwrapped, strain = phase_shift.unwrap(within, periods, size)
    assert strain.max() < 0.4
    assert np.abs(unwrapped - place).max() < 0.05 * side + 0.3


def test_a_filled_frame_is_brightest(tmp_path: Path) -> None:
    with bench_of(tmp_path) as bench:
        probe = make_probe(bench, "test", 1e-3)
        probe.light(True)
        probe.fill()
        bright = probe.take(1e-3).counts.mean()
        probe.draw("weight", np.zeros(bench.weight.shape, dtype=bool))
        assert probe.take(1e-3).counts.mean() < 0.1 * bright
