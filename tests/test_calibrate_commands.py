"""From a bench as found to a run, as an operator does it: align, calibrate, check, run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import change_bench
from commands import called
from lightloom.backends.bench.accuracy import Accuracy
from lightloom.backends.bench.check import accuracy_finding
from lightloom.backends.bench.config import example_file
from lightloom.backends.calibration import STEPS
from waiting import wait_until
from watched_light import WATCHED_COMMAND, went_off

Folder = Callable[..., Path]
BENCH = ("--bench", "bench.toml")
INPUT, WEIGHT = (f"instruments__{role}__serial" for role in ("input", "weight"))


def document(folder: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    run = called(folder, *arguments, "--json")
    assert run.returncode == status, run.stderr
    return json.loads(run.stdout)


def refused(folder: Path, *arguments: str) -> str:
    """Return the sentence with which a command is refused."""
    run = called(folder, *arguments)
    assert run.returncode == 2 and run.stdout == "", run.stdout + run.stderr
    (sentence,) = run.stderr.strip().splitlines()
    return sentence


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders with a bench as found, aligned, and calibrated."""
    folder = tmp_path_factory.mktemp("benches") / "bench"  # a worker may create them twice
    folder.mkdir()
    made = called(folder, "init", "bench.toml", "--as-found", "--tiny", "--world-seed", "3")
    assert made.returncode == 0 and "lightloom align --bench bench.toml" in made.stdout
    change_bench(folder / "bench.toml", **{INPUT: "LEFT", WEIGHT: "RIGHT"})
    found = {"found": shutil.copytree(folder, folder.with_name("found"))}
    aligned = document(folder, "align", *BENCH)
    assert aligned["calibration"] == "bench.calibration.json"
    found["aligned"] = shutil.copytree(folder, folder.with_name("aligned"))
    calibrated = document(folder, "calibrate", *BENCH)
    (folder / "calibrate.json").write_text(json.dumps(calibrated), "utf-8")
    return found | {"calibrated": folder}


@pytest.fixture
def bench(benches: dict[str, Path], tmp_path: Path) -> Folder:
    """Return a copy of a bench whose file has changes."""

    def copy(state: str, **changes: Any) -> Path:
        folder = shutil.copytree(benches[state], tmp_path / "copy")
        change_bench(folder / "bench.toml", **changes)
        return folder

    return copy


def test_calibrate_gives_every_step_with_its_figures_and_cost(benches: dict[str, Path]) -> None:
    said = json.loads((benches["calibrated"] / "calibrate.json").read_text("utf-8"))
    assert [step["name"] for step in said["steps"]] == list(STEPS)
    figures = {figure["name"]: figure for step in said["steps"] for figure in step["figures"]}
    gain = figures["gain_e_per_count"]  # of the camera "tiny": a full well of 10,000 e, 12 bits
    assert gain["unit"] == "e/count" and abs(gain["value"] / 2.45 - 1) < 0.05
    assert 0 < gain["uncertainty"] < 0.05
    for key in ("shots", "seconds", "computing_s", "light_j"):
        assert 0 < said["total"][key] == pytest.approx(sum(step[key] for step in said["steps"]))
    assert (benches["calibrated"] / said["calibration"]).exists()


def test_random_products_of_a_calibrated_bench_are_at_the_floor(benches: dict[str, Path]) -> None:
    # an operator trusts numbers by this figure. The seed is fixed; a
    # bench exactly at the pass line would fail for less than one seed in 100,000
    said = document(benches["calibrated"], "check", *BENCH, "--random-products", "1000")
    assert all(finding["passed"] for finding in said["findings"])
    accuracy = said["random_products"]
    # 1.00, +-0.0275: 10 sigma
    assert accuracy["products"] >= 1000 and accuracy["over_floor"] < 1.3
    assert sum(accuracy["histogram"]) == accuracy["products"]
    assert len(accuracy["light_e"]) == len(accuracy["error_at_light"]) == 6


def test_check_shows_the_figure_of_merit_to_people(benches: dict[str, Path]) -> None:
    run = called(benches["calibrated"], "check", *BENCH, "--random-products", "100")
    assert run.returncode == 0, run.stdout + run.stderr
    for part in ("x the floor", "relative error", "-0.5 to +0.0", "ideal", "████"):
        assert part in run.stdout


@pytest.mark.campaign
def test_a_run_reports_its_calibration_and_its_light(benches: dict[str, Path]) -> None:
    report = document(benches["calibrated"], "run", *BENCH, "--limit", "1")
    assert report["is_calibrated"] and report["is_mock"]
    first, second = report["remarks"][:2]
    assert "bench.calibration.json, 0.0 hours old" in first
    assert "photoelectrons per full-scale product" in first
    assert "reference shots were taken" in second and "times that of calibration" in second


def test_a_bench_that_is_not_calibrated_is_refused_without_the_option(bench: Folder) -> None:
    # numbers of a misaligned bench look plausible
    folder = bench("found")
    says = refused(folder, "run", *BENCH, "--limit", "1")
    assert "is not calibrated" in says and "--uncalibrated" in says
    insists = ("run", *BENCH, "--limit", "1", "--uncalibrated", "--placement", "host")
    report = document(folder, *insists)
    assert not report["is_calibrated"] and "not to be trusted" in report["remarks"][0]
    shown = called(folder, *insists).stdout
    assert "NOT CALIBRATED" in shown and "not to be trusted" in " ".join(shown.split())
    assert "give --bench" in refused(folder, "run", "--uncalibrated")


def test_check_tries_instruments_that_are_not_calibrated(bench: Folder) -> None:
    said = document(bench("found"), "check", *BENCH, status=1)
    *instruments, products = said["findings"]
    assert len(instruments) == 13 and all(finding["passed"] for finding in instruments)
    assert not products["passed"] and "is not calibrated" in products["detail"]
    assert said["random_products"] is None


@pytest.mark.parametrize(
    ("state", "change", "arguments", "says"),
    [
        ("found", {}, (), "is not aligned: run `lightloom align --bench bench.toml`"),
        ("aligned", {}, ("--step", "flut"), "unknown step 'flut'; steps are additivity, dark"),
        ("aligned", {}, ("--step", "photon_transfer"), "needs step dark_frames"),
        ("found", {"calibration": "ground-truth"}, (), "remove that line"),
        ("aligned", {"world__covered": True}, (), "no light"),
        ("aligned", {"world__fringes": 1.0}, (), "do not add"),
        ("aligned", {"exposure_s": "3 ms"}, (), "exposure_s = 0.003"),
    ],
)
def test_calibrate_refuses_with_one_sentence(
    bench: Folder, state: str, change: dict[str, Any], arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused(bench(state, **change), "calibrate", *BENCH, *arguments)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exposure_s": "3 ms"}, "exposure_s = 0.003, but the calibration"),
        ({"encoding__block": [3, 3]}, "encoding.block = [3, 3]"),
        ({INPUT: "NEW"}, 'instruments.input.serial = "NEW"'),
        ({INPUT: "RIGHT", WEIGHT: "LEFT"}, "the input and weight modulators are swapped"),
        ({"calibration_lasts_s": 1e-3}, "calibration_lasts_s"),
    ],
)
def test_a_calibration_of_another_bench_is_refused(
    bench: Folder, changes: dict[str, Any], says: str
) -> None:
    # a calibration of another bench gives wrong numbers and no warning
    assert says in refused(bench("calibrated", **changes), "run", *BENCH, "--limit", "1")


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_an_interrupted_calibration_resumes(bench: Folder) -> None:
    # otherwise twenty minutes of bench time are lost, or light stays on
    folder = bench("aligned")
    header = folder / "bench.calibration.json"
    command = [sys.executable, "-c", WATCHED_COMMAND, "calibrate", *BENCH]

    def dark_is_stored() -> bool:
        return '"name": "dark_frames"' in header.read_text("utf-8")

    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            wait_until(lambda: dark_is_stored() or run.poll() is not None, 120)
            assert run.poll() is None
            run.send_signal(signal.SIGINT)
            shown, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130 and went_off(folder), errors
    assert "calibrate --bench bench.toml --resume" in errors and "Traceback" not in errors
    assert "additivity:" in shown and "drift:" not in shown
    stored = [step["name"] for step in json.loads(header.read_text("utf-8"))["steps"]]
    assert stored[:3] == ["align", "additivity", "dark_frames"] and "drift" not in stored
    left = (
        "--resume",
        *(f"--skip={name}" for name in ("response_curves", "crosstalk", "flat_field", "drift")),
    )
    said = document(folder, "calibrate", *BENCH, *left)
    wanted = [name for name in ("photon_transfer", "settling") if name not in stored]
    assert [step["name"] for step in said["steps"]] == wanted


def accuracy(over_floor: float, bias: float, products: int) -> Accuracy:
    nothing = np.zeros(1)
    made = Accuracy(products, 16, 1e3, 1.0, 0.0, 1.0, 0.1, nothing, nothing, nothing, nothing, 1, 0)
    return replace(made, error=over_floor, bias=bias)


def test_the_pass_line_allows_for_chance_alone() -> None:
    # rms of n errors is uncertain by 1 / sqrt(2 n) of itself, their mean by rms / sqrt(n)
    assert accuracy_finding(accuracy(1.3, 0.1, 2000)).passed
    assert accuracy_finding(accuracy(1.3 * (1 + 4 / 4000**0.5), 0.1 + 4 / 2000**0.5, 2000)).passed
    assert not accuracy_finding(accuracy(1.4, 0.0, 2000)).passed
    assert not accuracy_finding(accuracy(1.0, -0.21, 2000)).passed
    assert (
        accuracy_finding(accuracy(1.6, 0.0, 128)).passed
        and not accuracy_finding(accuracy(1.7, 0.0, 128)).passed
    )


@pytest.mark.parametrize("layout", ["imaged", "line", "single-pixel"])
def test_benches_as_found_are_misaligned_by_their_seed(layout: str) -> None:
    # otherwise a rehearsal cannot be repeated, or is easier than a real bench
    texts = [example_file(layout, as_found=True, seed=seed) for seed in range(50)]
    assert len(set(texts)) == 50 and texts[7] == example_file(layout, as_found=True, seed=7)
    worlds = [tomllib.loads(text)["world"] for text in texts]
    for plane in ("input_registration", "camera_registration"):
        registrations = [world[plane] for world in worlds]
        off = np.array(
            [
                [registration["scale"] - 1, registration["rotation_deg"], *registration["shift_px"]]
                for registration in registrations
            ]
        )
        most = np.array([0.05, 3.0, 40.0, 40.0])
        assert (np.abs(off) <= most + 1e-3).all() and (np.abs(off).max(axis=0) > 0.8 * most).all()
    assert all("calibration" not in tomllib.loads(text) for text in texts)
