"""The command line as people and programs use it: in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

SLOW = pytest.mark.slow


def lightloom(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightloom", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def document(*arguments: object) -> dict[str, Any]:
    run = lightloom(*arguments, "--json")
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def test_run_prints_what_the_readme_promises() -> None:
    run = lightloom("run", "--limit", 10)
    assert run.returncode == 0
    for promised in (
        "MOCK",
        "slm-camera",
        "accuracy: digital",
        "images per second",
        "softmax",
        "attention x V",
        "decode",
        "predicted",
        "measured",
    ):
        assert promised in run.stdout, promised


def test_run_json_holds_what_the_design_says() -> None:
    result = document("run", "--limit", 40, "--seed", 3, "--set", "photons_full_scale=1e6")
    assert result["model"] == "digits" and result["backend"] == "mock" and result["is_mock"]
    assert result["profile"] == "slm-camera"
    assert result["quality"]["metric"] == "accuracy"
    assert result["quality"]["digital"] >= 0.95 and result["quality"]["optical"] >= 0.9
    assert set(result["throughput"]) == {"unit", "here", "bench"}
    assert {step["where"] for step in result["steps"]} == {"optical", "host", "convert"}
    keys = {"kind", "where", "macs", "operations", "seconds_here", "seconds_bench"}
    assert all(set(step) == keys for step in result["steps"])
    assert result["stats"]["shots"] > 0


def test_help_shows_the_commands_in_groups() -> None:
    # fourteen commands in one list: an operator reads past the one that is needed
    shown = lightloom("--help").stdout
    groups = ("Models", "Benches", "While it runs and after", "This machine")
    places = [shown.index(f" {group} ") for group in groups]
    assert places == sorted(places)
    for command, place in (("run", 0), ("calibrate", 1), ("resume", 2), ("doctor", 3)):
        rest = shown[places[place] : [*places, None][place + 1]]
        assert f" {command} " in rest


@pytest.mark.slow
def test_a_digital_run_claims_no_light() -> None:
    result = document("run", "--backend", "digital", "--limit", 20)
    assert result["quality"]["optical"] is None and result["throughput"]["bench"] is None
    assert not result["is_mock"] and all(s["where"] == "host" for s in result["steps"])


@pytest.mark.slow
def test_runs_repeat() -> None:
    options = ("run", "--limit", 4, "--set", "photons_full_scale=30")
    first, second = (document(*options)["stats"] for _ in range(2))
    other = document(*options, "--seed", 1)["stats"]
    for stats in (first, second, other):
        del stats["seconds"]
    assert first == second and first != other


def test_plan_prints_and_runs_nothing() -> None:
    run = lightloom("plan", "--batch", 4)
    assert (
        run.returncode == 0 and "nothing was run" in run.stdout and "0.attention.qk" in run.stdout
    )


@pytest.mark.slow
def test_plan_is_a_document_for_programs() -> None:
    result = document("plan", "--profile", "dmd-camera", "--placement", "projections")
    assert {s["where"] for s in result["steps"] if s["kind"] == "QK^T"} == {"host"}
    assert result["seconds_bench"] > 0


def test_doctor_names_every_source() -> None:
    run = lightloom("doctor", "--profile", "oled-slm-2022")
    assert run.returncode == 0 and "0.02004" in run.stdout


@pytest.mark.slow
def test_doctor_lists_profiles_for_programs() -> None:
    assert set(document("doctor")["profiles"]) >= {"ideal", "slm-camera", "projection-2030"}


def test_language_models_from_the_command_line(references: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text")
    run = lightloom("run", "--model", references / "gpt2", "--text", tmp_path / "text.txt")
    assert run.returncode == 2 and "has no tokenizer.json" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--model", "nothing/here/at-all"), "no such file or folder"),
        pytest.param(("run", "--backend", "bench"), "unknown --backend 'bench'", marks=SLOW),
        pytest.param(
            ("run", "--profile", "sun"), "unknown profile 'sun'; choose from dmd-camera", marks=SLOW
        ),
        pytest.param(("run", "--profile", "no.toml"), "no.toml", marks=SLOW),
        pytest.param(
            ("run", "--set", "photons_full_scale=-1"), "photons_full_scale = -1", marks=SLOW
        ),
        pytest.param(
            ("run", "--set", "photons_full_scale=nan"), "photons_full_scale = nan", marks=SLOW
        ),
        pytest.param(("run", "--set", "input_bits=0"), "input_bits = 0", marks=SLOW),
        pytest.param(("run", "--set", "weight_bits=33"), "weight_bits = 33", marks=SLOW),
        pytest.param(("run", "--set", "colour=red"), "'colour' is not a field", marks=SLOW),
        pytest.param(("run", "--set", "rows"), "is not KEY=VALUE", marks=SLOW),
        pytest.param(("run", "--set", "rows=1"), "rows = 1 cannot hold", marks=SLOW),
        pytest.param(("run", "--placement", "sun"), "unknown placement 'sun'", marks=SLOW),
        pytest.param(
            ("run", "--prompt", "hello"), "'digits' is a model of kind vision", marks=SLOW
        ),
        pytest.param(("run", "--images", "nowhere.npy"), "nowhere.npy", marks=SLOW),
        pytest.param(
            ("run", "--backend", "digital", "--profile", "ideal"),
            "the digital backend has none",
            marks=SLOW,
        ),
        (("run", "--limit", "0"), "--limit"),
        pytest.param(("plan", "--batch", "0"), "batch = 0", marks=SLOW),
        pytest.param(("plan", "--new-tokens", "1"), "generates no text", marks=SLOW),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    run = lightloom(*arguments)
    assert run.returncode == 2, run.stderr
    assert message in run.stderr and "Traceback" not in run.stderr
    assert run.stdout == ""


@pytest.mark.slow
def test_images_from_files(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    good = chance.integers(0, 17, (5, 1, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "good.npy", good)
    result = document("run", "--images", tmp_path / "good.npy")
    assert result["quality"]["metric"] == "agreement with digital"


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((5, 1, 4, 8), np.uint8),
        pytest.param(np.full((1, 1, 8, 8), np.nan), marks=SLOW),
        pytest.param(np.array([{}]), marks=SLOW),
        pytest.param(b"garbage", marks=SLOW),
    ],
    ids=["wrong", "nan", "objects", "garbage"],
)
def test_images_that_are_none(tmp_path: Path, bad: Any) -> None:
    if isinstance(bad, bytes):
        (tmp_path / "bad.npy").write_bytes(bad)
    else:
        np.save(tmp_path / "bad.npy", bad, allow_pickle=True)
    run = lightloom("run", "--images", tmp_path / "bad.npy")
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_stops_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightloom", "run", "--set", "photons_full_scale=20"]
    command += ["--record", str(tmp_path / "run.db")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: (tmp_path / "run.db").exists() or run.poll() is not None, 60)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode in (0, 130) and "Traceback" not in errors
