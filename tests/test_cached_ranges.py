"""Read-out ranges kept between runs: the same bits as computed ones, and never those of others."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.backends import MockBackend, load_profile
from lightloom.instruments import cache_folder
from lightloom.instruments.cache_folder import CacheFolder
from lightloom.models import Model, load_model
from lightloom.scheduler import Executor, content_keys
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lightloom.cli.app import app

TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CacheFolder]:
    monkeypatch.setenv("LIGHTLOOM_CACHE", str(tmp_path / "cache"))
    yield CacheFolder(tmp_path / "cache")
    cache_folder._said.clear()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calibration passes that are computed from now on."""
    passes: list[str] = []
    observed = Executor._observed

    def counted(self: Executor, *arguments: Any) -> Any:
        passes.append(self.backend.name)
        return observed(self, *arguments)

    monkeypatch.setattr(Executor, "_observed", counted)
    return passes


def calibrated(model: Model, placement: str = "paper", data: Any = None, **fields: Any) -> Executor:
    profile = load_profile("slm-camera").with_settings(fields)
    executor = model.executor(MockBackend(profile), placement)
    model.calibrate(executor, data)
    return executor


def assert_same(one: Executor, other: Executor) -> None:
    assert one.ranges.keys() == other.ranges.keys() and one.ranges
    for name, found in one.ranges.items():
        assert found.readout.tobytes() == other.ranges[name].readout.tobytes()
        assert found.readout.shape == other.ranges[name].readout.shape
        weight, expected = found.weight, other.ranges[name].weight
        assert (weight is None) == (expected is None)
        if weight is not None and expected is not None:
            assert weight.tobytes() == expected.tobytes() and weight.dtype == expected.dtype


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit"])
@pytest.mark.parametrize("readout_range", ["per-row", "per-matmul"])
def test_kept_ranges_have_the_bits_of_computed_ones(
    references: Path, cache: CacheFolder, computed: list[str], name: str, readout_range: str
) -> None:
    first = calibrated(load_model(references / name), readout_range=readout_range)
    second = calibrated(load_model(references / name), readout_range=readout_range)
    assert len(computed) == 1 and len(cache.files()) == 1
    assert_same(second, first)
    assert first._prepared.keys() == second._prepared.keys()  # no measured pass encodes weights


def test_a_run_has_the_same_bits_with_without_and_from_the_cache(
    references: Path, cache: CacheFolder, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [load_model(references / "llama").forward(TOKENS, backend="mock") for _ in range(2)]
    monkeypatch.setenv("LIGHTLOOM_CACHE", "off")
    results.append(load_model(references / "llama").forward(TOKENS, backend="mock"))
    assert len(computed) == 2
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_damaged_entry_is_computed_again(
    references: Path, cache: CacheFolder, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = calibrated(load_model(references / "gpt2"))
    (file,) = cache.files()
    content = bytearray(file.path.read_bytes())
    content[-50] ^= 1  # in the last array
    file.path.write_bytes(content)
    second = calibrated(load_model(references / "gpt2"))
    assert len(computed) == 2 and "damaged entry" in capsys.readouterr().err
    assert_same(second, first)
    calibrated(load_model(references / "gpt2"))
    assert len(computed) == 2


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_a_model_that_moved_keeps_its_ranges(
    references: Path, tmp_path: Path, cache: CacheFolder, computed: list[str]
) -> None:
    calibrated(load_model(references / "gpt2"))
    calibrated(load_model(copied(references / "gpt2", tmp_path / "moved")))
    assert len(computed) == 1


def test_one_changed_bit_of_a_weight_is_another_model(
    references: Path, tmp_path: Path, cache: CacheFolder, computed: list[str]
) -> None:
    # size and time are the same, as of files from an archive
    arrays = load_file(references / "gpt2" / "model.safetensors")
    name = next(n for n in arrays if n.endswith("mlp.c_fc.weight"))
    for number in range(2):
        folder = copied(references / "gpt2", tmp_path / str(number))
        path = folder / "model.safetensors"
        arrays[name].view(np.uint32).flat[0] ^= number
        save_file(arrays, path)
        os.utime(path, (1000, 1000))
        calibrated(load_model(folder))
    sizes = {path.stat().st_size for path in tmp_path.glob("*/model.safetensors")}
    assert len(sizes) == 1 and len(computed) == 2 and len(cache.files()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"readout_range": "per-matmul"},
        {"input_bits": 4},
        {"weight_bits": 4},
        {"length": 64},
        {"encoding": "push-pull"},
        {"extinction_ratio": 50.0},
        {"crosstalk": 0.01},
        {"device_seed": 5},
        {"placement": "projections"},
        {"placement": "all-optical"},
        {"data": TOKENS},
        {"data": TOKENS[:, ::-1]},
    ],
)
def test_what_ranges_follow_from_is_in_the_key(
    references: Path, cache: CacheFolder, computed: list[str], change: dict[str, Any]
) -> None:
    calibrated(load_model(references / "llama"))
    other = calibrated(load_model(references / "llama"), **change)
    assert len(computed) == 2
    assert_same(calibrated(load_model(references / "llama"), **change), other)
    assert len(computed) == 2


@pytest.mark.parametrize("part", ["version", "code", "machine", "threads", "kernel"])
def test_another_version_or_machine_computes_its_own_ranges(
    references: Path,
    cache: CacheFolder,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    # a home folder may be shared by machines whose float32 sums differ in their last bit
    calibrated(load_model(references / "gpt2"))
    with monkeypatch.context() as other:
        if part == "version":
            other.setattr(content_keys, "VERSION", "9.0")
        elif part == "code":
            other.setattr(content_keys, "_code", lambda: "changed")
        elif part == "machine":
            other.setattr(content_keys, "_machine", lambda: {"processor": "another"})
        elif part == "threads":
            other.setattr(content_keys, "thread_count", lambda: 999)
        else:
            other.setenv("OPENBLAS_CORETYPE", "Nehalem")
        calibrated(load_model(references / "gpt2"))
        assert len(computed) == 2
    calibrated(load_model(references / "gpt2"))
    assert len(computed) == 2 and len(cache.files()) == 2  # both share the folder


def test_a_backend_of_another_package_is_computed_every_time(
    references: Path, cache: CacheFolder, computed: list[str]
) -> None:
    class Ours(MockBackend):
        """Its code may change under the same version of lightloom."""

    model = load_model(references / "gpt2")
    for _ in range(2):
        model.calibrate(model.executor(Ours()))
    assert len(computed) == 2 and not cache.files()


def test_an_interrupted_pass_leaves_nothing(
    references: Path, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as failing, pytest.raises(KeyboardInterrupt):
        failing.setattr(Executor, "observe", interrupted)
        calibrated(load_model(references / "gpt2"))
    assert not cache.files()


def run_of_digits(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["run", "--limit", "4", "--json", *options])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_commands_use_the_cache_show_it_and_clear_it(
    cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = [run_of_digits("--no-reference")["stats"]["photons"]]
    (file,) = cache.files()
    stats.append(run_of_digits("--no-reference")["stats"]["photons"])
    assert stats[0] == stats[1]
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["cache"]
    assert found["folder"] == str(cache.path) and found["entries"] == 1
    assert found["size_bytes"] == file.size_bytes < found["most_bytes"]
    shown = CliRunner().invoke(app, ["doctor", "--clear-cache"])
    assert shown.exit_code == 0 and "0 entries" in shown.stdout
    assert not cache.files()
    assert run_of_digits("--no-reference", "--no-cache")["stats"]["photons"] == stats[0]
    assert not cache.files()
    monkeypatch.setenv("LIGHTLOOM_CACHE", "off")
    assert json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["cache"] is None
