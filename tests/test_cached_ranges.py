"""What is kept between runs: the bits of computed ranges and weights, and never those of others."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.backends import MockBackend, load_profile
from lightloom.backends.mock import LOOPS
from lightloom.backends.mock.packed_weights import PackedWeights
from lightloom.instruments import cache_folder
from lightloom.instruments.cache_folder import CacheFolder
from lightloom.instruments.environment import COMPILED
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


def calibrated(
    model: Model,
    placement: str = "paper",
    data: Any = None,
    name: str = "slm-camera",
    **fields: Any,
) -> Executor:
    profile = load_profile(name).with_settings(fields)
    executor = model.executor(MockBackend(profile), placement)
    model.calibrate(executor, data)
    return executor


def entries(cache: CacheFolder, kind: str) -> list[Path]:
    return [file.path for file in cache.files() if file.path.name.startswith(kind)]


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
    assert len(computed) == 1 and len(entries(cache, "ranges")) == 1
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
    (path,) = entries(cache, "ranges")
    damage(path)
    second = calibrated(load_model(references / "gpt2"))
    assert len(computed) == 2 and "damaged entry" in capsys.readouterr().err
    assert_same(second, first)
    calibrated(load_model(references / "gpt2"))
    assert len(computed) == 2


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1  # in the last array
    path.write_bytes(content)


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
    assert len(sizes) == 1 and len(computed) == 2 and len(entries(cache, "ranges")) == 2


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


@pytest.mark.parametrize(
    "change",
    [
        {"photons_full_scale": 1.0},
        {"photons_full_scale": None, "photons_per_mac": 0.1},
        {"photons_full_scale": None, "photons_entering_per_mac": 0.1},
        {"photons_full_scale": None, "read_noise_e": None, "dark_e": None},
        {"read_noise_e": 900.0},
        {"dark_e": 5e4},
        {"source_rms": 0.5},
    ],
)
@pytest.mark.parametrize("encoding", ["push-pull", "abs-split", "offset"])
@pytest.mark.parametrize("detection", ["balanced", "per-reading"])
def test_noise_is_not_in_the_key_since_it_changes_nothing(
    references: Path,
    cache: CacheFolder,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    encoding: str,
    detection: str,
) -> None:
    bench = {"encoding": encoding, "detection": detection}
    calibrated(load_model(references / "gpt2"), **bench)
    other = calibrated(load_model(references / "gpt2"), **bench, **change)
    assert len(computed) == 1
    monkeypatch.setenv("LIGHTLOOM_CACHE", "off")
    expected = calibrated(load_model(references / "gpt2"), **bench, **change)
    assert_same(other, expected)
    assert_same_weights(other, expected)


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
    assert len(computed) == 2 and len(entries(cache, "ranges")) == 2  # both share the folder


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
    files = cache.files()
    stats.append(run_of_digits("--no-reference")["stats"]["photons"])
    assert stats[0] == stats[1]
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["cache"]
    assert found["folder"] == str(cache.path) and found["entries"] == len(files)
    assert found["size_bytes"] == sum(file.size_bytes for file in files) < found["most_bytes"]
    shown = CliRunner().invoke(app, ["doctor", "--clear-cache"])
    assert shown.exit_code == 0 and "0 entries" in shown.stdout
    assert not cache.files()
    assert run_of_digits("--no-reference", "--no-cache")["stats"]["photons"] == stats[0]
    assert not cache.files()
    monkeypatch.setenv("LIGHTLOOM_CACHE", "off")
    assert json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["cache"] is None


# --- encoded weights ------------------------------------------------------------------------------

needs_bytes = pytest.mark.skipif(not COMPILED, reason="without numba, weights are float32")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of weights that are encoded from now on."""
    shapes: list[tuple[int, ...]] = []
    prepare = MockBackend._prepare

    def counted(self: MockBackend, weights: np.ndarray, ranges: Any) -> Any:
        shapes.append(weights.shape)
        return prepare(self, weights, ranges)

    monkeypatch.setattr(MockBackend, "_prepare", counted)
    return shapes


def assert_same_weights(one: Executor, other: Executor) -> None:
    names = [name for name, found in one._prepared.items() if len(found.shape) == 2]
    assert names
    for name in names:
        mine, theirs = one._prepared[name], other._prepared[name]
        assert (mine.shape, mine.maker) == (theirs.shape, theirs.maker)
        if isinstance(mine.content, PackedWeights):
            mine.content.plain(mine.ranges), theirs.content.plain(theirs.ranges)
            assert mine.content.saturated == theirs.content.saturated
            for key, array in theirs.content._arrays.items():
                np.testing.assert_array_equal(mine.content._arrays[key], array)


@needs_bytes
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit"])
@pytest.mark.parametrize("profile", ["slm-camera", "projection-2030", "dmd-camera"])
@pytest.mark.parametrize("encoding", ["push-pull", "abs-split", "offset"])
def test_kept_weights_have_the_bits_of_encoded_ones(
    references: Path,
    cache: CacheFolder,
    encoded: list[tuple[int, ...]],
    name: str,
    profile: str,
    encoding: str,
) -> None:
    first = calibrated(load_model(references / name), name=profile, encoding=encoding)
    assert encoded and len(entries(cache, "encoded")) == 1
    encoded.clear()
    second = calibrated(load_model(references / name), name=profile, encoding=encoding)
    assert not encoded
    assert_same_weights(second, first)
    assert all(found.ranges is second.ranges[n] for n, found in second._prepared.items())


@needs_bytes
def test_damaged_weights_are_encoded_again(
    references: Path,
    cache: CacheFolder,
    encoded: list[tuple[int, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = calibrated(load_model(references / "gpt2"))
    encoded.clear()
    (path,) = entries(cache, "encoded")
    damage(path)
    second = calibrated(load_model(references / "gpt2"))
    assert encoded and "damaged entry" in capsys.readouterr().err
    assert_same_weights(second, first)
    assert entries(cache, "encoded") == [path]


@needs_bytes
def test_numpy_takes_no_packed_weights(
    references: Path, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # while loops are compiled in the background, numpy multiplies
    packed = load_model(references / "gpt2").forward(TOKENS, backend="mock")
    monkeypatch.setattr(LOOPS, "is_used", False)
    monkeypatch.setattr(LOOPS, "prepare", lambda _: None)
    plain = load_model(references / "gpt2").forward(TOKENS, backend="mock")
    np.testing.assert_array_equal(plain, packed)


def test_weights_that_are_no_bytes_are_not_kept(references: Path, cache: CacheFolder) -> None:
    calibrated(load_model(references / "gpt2"), crosstalk=0.01)
    assert not entries(cache, "encoded")
