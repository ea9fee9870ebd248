"""The twin of a bench: it has the errors of the bench that its calibration measured."""

import json
import math
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import change_bench, changed, numbers, write_bench
from lightloom.backends import MockBackend, OpticsProfile, load_profile
from lightloom.backends.bench import BenchBackend, load_bench
from lightloom.backends.calibration import align, store
from lightloom.backends.calibration.calibrate import calibrate
from lightloom.benchmarks.twins import LEAST_CORRELATION, TwinStudy, bench_text, measure, wilson
from typer.testing import CliRunner

import lightloom
from lightloom import InputError
from lightloom.cli.app import app


def calibrated(folder: Path, layout: str = "imaged", **changes: Any) -> Path:
    """Write a small bench as found, calibrate it, and return its file."""
    path = write_bench(folder, layout, as_found=True, seed=7, **changes)
    bench = load_bench(path)
    found = align(bench)
    with bench:
        store(bench, found)
    calibrate(load_bench(path))
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def calibration(bench: Path) -> Path:
    return bench.with_name("bench.calibration.json")


@pytest.fixture
def written(calibration: Path, tmp_path: Path) -> Path:
    path = tmp_path / "own.profile.toml"
    lightloom.twin(calibration, path)
    return path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def errors(backend: Any, x: np.ndarray, w: np.ndarray, repeats: int) -> np.ndarray:
    prepared = backend.prepare(w)
    return np.stack([backend.matmul(x, prepared).y - x @ w.T for _ in range(repeats)])


# --- statistics -----------------------------------------------------------------------------------


def is_as_wanted(found: TwinStudy) -> bool:
    """Return whether the limits are kept even without the interval of the variance."""
    return found.is_met and abs(found.variance.value - 1) <= 0.1 + found.variance.half


def test_a_twin_has_the_errors_of_its_bench() -> None:
    found = measure(bench_text(41, device="tiny"), "tiny", 6, 0)
    assert is_as_wanted(found), found
    assert found.variance.half < 0.3  # the comparison can fail


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(900, 905))
def test_twins_of_random_benches_have_their_errors(seed: int) -> None:
    found = measure(bench_text(seed), f"seed {seed}", 12, 0)
    assert is_as_wanted(found), found
    assert found.variance.half < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "times"), [("line", 4), ("single-pixel", 1)])
def test_twins_of_other_layouts_have_the_errors_of_their_benches(layout: str, times: int) -> None:
    text = bench_text(31, layout, "tiny")
    light = times * tomllib.loads(text)["world"]["electrons_per_pixel_j"]  # mean errors above noise
    text = changed(text, world__electrons_per_pixel_j=light)
    found = measure(text, layout, 8, 0)
    assert is_as_wanted(found), found


@pytest.mark.parametrize("kind", ["push-pull", "offset"])
def test_twins_of_other_encodings(kind: str, tmp_path: Path) -> None:
    path = calibrated(tmp_path, encoding__kind=kind)
    profile = lightloom.twin(path.with_name("bench.calibration.json"))
    x, w = numbers(6, 16), numbers(8, 16, seed=4)
    with BenchBackend(load_bench(path)) as backend:
        light = errors(backend, x, w, 8)
    mock = errors(MockBackend(profile), x, w, 8)
    assert np.mean(mock**2) == pytest.approx(np.mean(light**2), rel=0.35)  # of some 400 errors


def test_without_corrections_the_errors_are_those_of_the_calibration(
    bench: Path, calibration: Path, tmp_path: Path
) -> None:
    for name in ("bench.toml", calibration.name):
        shutil.copy(bench.with_name(name), tmp_path)
    for data in bench.parent.glob("*.safetensors"):
        shutil.copy(data, tmp_path)
    other = change_bench(tmp_path / "bench.toml", corrections="off")
    x, w = numbers(8, 16), numbers(12, 16, seed=4)
    with BenchBackend(load_bench(other)) as backend:
        light = errors(backend, x, w, 8)
        assert any(remark.startswith("NOT CORRECTED") for remark in backend.remarks)
        assert not backend.checked or not sum(s.checks for s in backend.checked.values())
    profile = lightloom.twin(calibration)
    off = MockBackend(profile.with_settings({"corrections": "off"}))
    mock, on = errors(off, x, w, 8), errors(MockBackend(profile), x, w, 8)
    means = light.mean(axis=0).ravel(), mock.mean(axis=0).ravel()
    assert np.corrcoef(*means)[0, 1] > LEAST_CORRELATION
    assert np.mean(mock**2) > 2 * np.mean(on**2)


def test_the_noise_follows_seed_and_address(calibration: Path) -> None:
    profile = lightloom.twin(calibration)
    x, w = numbers(4, 40), numbers(6, 40, seed=4)
    at = lightloom.Address("a", np.arange(4, dtype=np.uint64))
    one, same, other = (MockBackend(profile, seed).matmul(x, w, at).y for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_more_light_has_less_noise(calibration: Path) -> None:
    profile = lightloom.twin(calibration)
    assert profile.photons_full_scale is not None
    more = profile.with_settings({"photons_full_scale": 100 * profile.photons_full_scale})
    x, w = numbers(8, 16), numbers(6, 16, seed=4)
    usual, bright = (errors(MockBackend(one), x, w, 4).std() for one in (profile, more))
    assert bright < usual / 3


def test_a_batch_of_heads(calibration: Path) -> None:
    mock = MockBackend(lightloom.twin(calibration))
    x, w = numbers(3, 5, 16), numbers(3, 7, 16, seed=4)
    result = mock.matmul(x, w)
    exact = np.einsum("hnk,hmk->hnm", x, w)
    assert np.sqrt(np.mean((result.y - exact) ** 2)) < 0.3 * np.sqrt(np.mean(exact**2))
    assert result.stats.shots > 0 and result.stats.photons > 0
    with pytest.raises(InputError, match="not finite"):
        mock.matmul(np.full((2, 16), np.nan), w[0])


def test_the_interval_of_a_fraction() -> None:
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4) and high == pytest.approx(0.9433, abs=1e-4)


# --- files ----------------------------------------------------------------------------------------


def test_a_written_twin_multiplies_like_the_one_in_memory(written: Path, calibration: Path) -> None:
    profile, x, w = load_profile(str(written)), numbers(4, 16), numbers(6, 16, seed=4)
    in_memory = MockBackend(lightloom.twin(calibration))
    at = lightloom.Address("a", np.arange(4, dtype=np.uint64))
    assert np.array_equal(MockBackend(profile).matmul(x, w, at).y, in_memory.matmul(x, w, at).y)
    entry = json.loads(json.dumps(MockBackend(profile).journal_entry()))
    again = MockBackend(OpticsProfile.model_validate(entry["profile"]), entry["seed"])
    assert np.array_equal(again.matmul(x, w, at).y, in_memory.matmul(x, w, at).y)
    with pytest.raises(InputError, match="only in memory"):
        in_memory.journal_entry()


def test_a_run_names_the_twin_and_is_marked(written: Path) -> None:
    done = run("run", "--profile", written, "--limit", 2, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["is_mock"]
    remark = " ".join(document["remarks"])
    assert "MOCK, twin of a simulated bench" in remark and "bench.calibration.json" in remark
    profile = load_profile(str(written))
    assert profile.twin is not None and profile.twin.calibrated_at in remark


def test_the_command_writes_both_files(calibration: Path, tmp_path: Path) -> None:
    output = tmp_path / "own.profile.toml"
    done = run("twin", calibration, "--output", output, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["is_mock"], done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "own.profile.safetensors",
        "own.profile.toml",
    ]
    assert run("doctor", "--profile", output).exit_code == 0
    again = run("twin", calibration, "--output", output)
    assert again.exit_code == 2 and "already exists" in again.output


def sentence(done: Any) -> str:
    """Return the one sentence with which a command refused."""
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def test_files_that_are_not_calibrations(bench: Path, calibration: Path, tmp_path: Path) -> None:
    output = tmp_path / "own.toml"

    def refusal(path: Path) -> str:
        return sentence(run("twin", path, "--output", output))

    assert "no calibration file" in refusal(tmp_path / "none.json")
    assert "is not JSON" in refusal(bench)
    document = json.loads(calibration.read_text("utf-8"))
    for key, value, message in (
        ("schema", 99, "schema = 99 is newer"),
        ("kind", "a shopping list", "is not a calibration"),
        ("created_at", "2026-03-01T12:00:00+00:00", "was changed after it was written"),
    ):
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps(document | {key: value}), "utf-8")
        assert message in refusal(path)
    alone = tmp_path / "alone.json"
    shutil.copy(calibration, alone)
    assert "keep both files together" in refusal(alone)
    assert "ends in .toml" in sentence(run("twin", calibration, "--output", tmp_path / "own.txt"))
    assert not output.exists()


def test_a_calibration_that_is_not_complete(tmp_path: Path) -> None:
    path = write_bench(tmp_path, "imaged", as_found=True, seed=7)
    bench = load_bench(path)
    found = align(bench)
    with bench:
        store(bench, found)
    done = run("twin", tmp_path / "bench.calibration.json", "--output", tmp_path / "own.toml")
    assert "lacks additivity" in sentence(done)


def test_arrays_that_are_missing_or_changed(written: Path) -> None:
    arrays = written.with_suffix(".safetensors")
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "its SHA-256 differs" in sentence(run("run", "--profile", written, "--limit", 1))
    arrays.unlink()
    assert "keep profile and arrays in one folder" in sentence(run("plan", "--profile", written))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "schema = 2 of this profile"),
        ('layout = "imaged"', 'layout = "round"', "layout"),
        ('file = "own', 'file = "../own', "not the name of a file beside"),
        ("[constants.rows]\nvalue = ", "[constants.rows]\nvalue = 9", "arrays of the twin hold"),
    ],
)
def test_profiles_of_twins_that_were_edited(
    written: Path, old: str, new: str, message: str
) -> None:
    text = written.read_text("utf-8")
    assert old in text
    written.write_text(text.replace(old, new), "utf-8")
    assert message in sentence(run("run", "--profile", written, "--limit", 1))


def test_what_a_calibration_measured_cannot_be_set(written: Path) -> None:
    for setting in ("gain_rms=0.1", "rows=8", "readout_bits=8", "input_bits=4"):
        done = run("run", "--profile", written, "--limit", 1, "--set", setting)
        assert "what its calibration measured" in sentence(done).replace("a twin has ", "")
    done = run("run", "--limit", 1, "--set", "corrections=off")
    assert "is for the twin of a bench" in sentence(done)
    done = run("run", "--profile", written, "--limit", 1, "--set", "photons_per_mac=1")
    assert "photons_full_scale" in sentence(done)


def test_constants_name_their_step(written: Path) -> None:
    profile = load_profile(str(written))
    assert "step flat_field" in profile.sources["photons_full_scale"]
    assert profile.twin is not None and math.isfinite(profile.photons_full_scale or math.nan)
