"""Mistakes that once went unnoticed: each must be refused, and leave nothing half-done."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lightloom.backends import DigitalBackend, MockBackend, OpticsProfile, load_profile
from lightloom.instruments import InputError
from lightloom.models import Cache, load_model
from lightloom.scheduler import Executor
from lightloom.scheduler.runs import plan

CONSTANT = '[constants]\ninput_bits = { value = 8, source = "data sheet" }\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a file without constants"),
        (CONSTANT.replace("constants", "constant"), "not constant"),
        ('input_bits = 8\n[constants]\nrows = { value = 8, source = "x" }', "not input_bits"),
        (CONSTANT.replace('"data sheet"', '" "'), "input_bits has no source"),
        ("[constants]\ninput_bits = 8", "input_bits needs a value and a source"),
        ("constants = [1]", "a file without constants"),
        (CONSTANT + 'name = { value = "x", source = "y" }', "name is not a constant"),
        (CONSTANT + 'rows = { value = true, source = "y" }', "rows = True"),
        ("[constants", "not valid TOML"),
    ],
)
def test_a_profile_with_a_typo_is_not_an_ideal_bench(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_profile(str(path))
    assert "mine.toml" in str(caught.value)
    path.write_text(CONSTANT)
    assert load_profile(str(path)).input_bits == 8


def test_an_interrupted_calibration_leaves_no_ranges(
    references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, backend = load_model(references / "gpt2"), MockBackend()
    observe, calls = Executor.observe, []

    def interrupted(self: Executor, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return observe(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Executor, "observe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.forward([[1, 2]], backend=backend)
    monkeypatch.undo()
    expected = load_model(references / "gpt2").forward([[1, 2]], backend=MockBackend())
    np.testing.assert_array_equal(model.forward([[1, 2]], backend=backend), expected)


def test_a_pass_that_fails_leaves_the_cache_as_it_was(
    references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = load_model(references / "gpt2"), Cache()
    model.forward([[1, 2, 3]], cache=cache)
    run_host = Executor.run_host

    def failing(self: Executor, step: object, *arguments: object) -> object:
        if getattr(step, "name", "") == "layer.1.attention.softmax":
            raise RuntimeError("power cut")
        return run_host(self, step, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Executor, "run_host", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        model.forward([[4]], cache=cache)
    monkeypatch.undo()
    after = model.forward([[4]], cache=cache)
    np.testing.assert_allclose(after[0, -1], model.forward([[1, 2, 3, 4]])[0, -1], atol=1e-5)


def test_a_cache_takes_no_padding_and_no_other_batch(references: Path) -> None:
    model, cache = load_model(references / "llama"), Cache()
    with pytest.raises(InputError, match="lengths cannot be given with a cache"):
        model.forward([[1, 2], [3, 0]], lengths=[2, 1], cache=cache)
    model.forward([[1, 2]], cache=cache)
    with pytest.raises(InputError, match="a batch of 2 cannot follow a cache of 1"):
        model.forward([[3], [4]], cache=cache)


def test_labels_must_name_each_image() -> None:
    model = load_model()
    planned = plan(model, "mock:ideal", batch=4)
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    for labels in ([1], 5, [[1], [2], [3]]):
        with pytest.raises(InputError, match="do not fit 3 images"):
            planned.run(images, labels)
    with pytest.raises(InputError, match="no images"):
        planned.run(images[:0])


def test_prepared_weights_belong_to_their_backend() -> None:
    x, w = np.ones((2, 8)), np.ones((3, 8))
    ideal, camera = MockBackend(load_profile("ideal")), MockBackend()
    for maker, user in ((ideal, camera), (camera, ideal), (DigitalBackend(), camera)):
        with pytest.raises(InputError, match="prepared by a backend of another kind"):
            user.matmul(x, maker.prepare(w))
    same = MockBackend(load_profile("ideal"), seed=9)
    np.testing.assert_allclose(same.matmul(x, ideal.prepare(w)).y, 8, rtol=1e-5)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, 2**64])
def test_seeds_are_whole_numbers(seed: object) -> None:
    with pytest.raises(InputError, match="seed = "):
        MockBackend(seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 1}, "has 1 layers, the weights have 2"),
        ({"n_layer": 10**9}, "n_layer = 1000000000"),
        ({"vocab_size": 96}, r"'wte.weight' has shape \[97, 60\], the configuration needs"),
        ({"n_inner": 121}, "'h.0.mlp.c_fc.weight' has shape"),
        ({"model_type": ["gpt2"]}, "is an architecture"),
    ],
)
def test_a_configuration_of_another_model_is_found_at_loading(
    references: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | changes))
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_results_that_are_not_finite_are_refused(references: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    arrays = load_file(folder / "model.safetensors")
    arrays["transformer.ln_f.bias"][:] = 3e38
    save_file(arrays, folder / "model.safetensors")
    with np.errstate(all="ignore"), pytest.raises(InputError, match="not finite"):
        load_model(folder).forward([[1, 2]])


def test_settings_of_a_profile_that_contradict_each_other() -> None:
    for fields, message in (
        ({"photons_full_scale": 1.0, "photons_per_mac": 1.0}, "exclude each other"),
        ({"read_noise_e": 3.0}, "needs a light level"),
        ({"length": 1}, "side by side"),
        ({"extinction_ratio": 1.0}, "extinction_ratio = 1"),
        ({"encoding": "amplitude"}, "encoding = 'amplitude'"),
    ):
        with pytest.raises(InputError, match=message):
            OpticsProfile(**fields)
    assert OpticsProfile(readout_bits=8).readout_range == "per-row"
    changed = load_profile().with_settings({"photons_per_mac": 2.0})
    assert changed.photons_full_scale is None and changed.sources["photons_per_mac"]
