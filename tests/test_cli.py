"""The command line as people and programs use it: in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def lightloom(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightloom", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def document(*arguments: object) -> dict[str, Any]:
    run = lightloom(*arguments, "--json")
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def test_run_prints_what_the_readme_promises() -> None:
    run = lightloom("run", "--limit", 60)
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


def test_a_digital_run_claims_no_light() -> None:
    result = document("run", "--backend", "digital", "--limit", 20)
    assert result["quality"]["optical"] is None and result["throughput"]["bench"] is None
    assert not result["is_mock"] and all(s["where"] == "host" for s in result["steps"])


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
    result = document("plan", "--profile", "dmd-camera", "--placement", "projections")
    assert {s["where"] for s in result["steps"] if s["kind"] == "QK^T"} == {"host"}
    assert result["seconds_bench"] > 0


def test_doctor_names_every_source() -> None:
    run = lightloom("doctor", "--profile", "oled-slm-2022")
    assert run.returncode == 0 and "0.02004" in run.stdout
    assert set(document("doctor")["profiles"]) >= {"ideal", "slm-camera", "projection-2030"}


def test_language_models_from_the_command_line(references: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text")
    run = lightloom("run", "--model", references / "gpt2", "--text", tmp_path / "text.txt")
    assert run.returncode == 2 and "has no tokenizer.json" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--model", "nothing/here/at-all"), "no such file or folder"),
        (("run", "--backend", "bench"), "unknown --backend 'bench'"),
        (("run", "--profile", "sun"), "unknown profile 'sun'; choose from dmd-camera"),
        (("run", "--profile", "no.toml"), "no.toml"),
        (("run", "--set", "photons_full_scale=-1"), "photons_full_scale = -1"),
        (("run", "--set", "photons_full_scale=nan"), "photons_full_scale = nan"),
        (("run", "--set", "input_bits=0"), "input_bits = 0"),
        (("run", "--set", "weight_bits=33"), "weight_bits = 33"),
        (("run", "--set", "colour=red"), "'colour' is no field"),
        (("run", "--set", "rows"), "is not KEY=VALUE"),
        (("run", "--set", "rows=1"), "rows = 1 cannot hold"),
        (("run", "--placement", "sun"), "unknown placement 'sun'"),
        (("run", "--prompt", "hello"), "'digits' is a model of kind vision"),
        (("run", "--images", "nowhere.npy"), "nowhere.npy"),
        (("run", "--backend", "digital", "--profile", "ideal"), "the digital backend has none"),
        (("run", "--limit", "0"), "--limit"),
        (("plan", "--batch", "0"), "batch = 0"),
        (("plan", "--new-tokens", "1"), "generates none"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    run = lightloom(*arguments)
    assert run.returncode == 2, run.stderr
    assert message in run.stderr and "Traceback" not in run.stderr
    assert run.stdout == ""


def test_images_from_files(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    good = chance.integers(0, 17, (5, 1, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "good.npy", good)
    result = document("run", "--images", tmp_path / "good.npy")
    assert result["quality"]["metric"] == "agreement with digital"
    np.save(tmp_path / "wrong.npy", good[:, :, :4])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    np.save(tmp_path / "nan.npy", np.full((1, 1, 8, 8), np.nan))
    for name in ("wrong", "objects", "garbage", "nan"):
        run = lightloom("run", "--images", tmp_path / f"{name}.npy")
        assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_stops_with_a_sentence() -> None:
    command = [sys.executable, "-m", "lightloom", "run", "--set", "photons_full_scale=20"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        time.sleep(3)  # also where other work delays its start
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode in (0, 130) and "Traceback" not in errors
