"""Every family against stored outputs of transformers and torch in references/."""

from pathlib import Path

import numpy as np
import pytest
from lightloom.backends import MockBackend, OpticsProfile
from lightloom.models import Cache, load_model
from safetensors.numpy import load_file

LANGUAGE = ("gpt2", "llama", "llama3", "qwen2", "mistral")


@pytest.mark.parametrize("count", [1, 17])
@pytest.mark.parametrize("name", [*LANGUAGE, "bert"])
def test_outputs_equal_transformers(references: Path, name: str, count: int) -> None:
    # small mistakes in a family still give fluent text
    expected = load_file(references / name / "expected.safetensors")
    lengths = expected[f"lengths_{count}"]
    model = load_model(references / name)
    result = model.forward(expected[f"tokens_{count}"], lengths=lengths)
    assert result.dtype == np.float32
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            result[row, :length], expected[f"output_{count}"][row, :length], rtol=0, atol=2e-5
        )


def test_vision_equals_transformers(references: Path) -> None:
    expected = load_file(references / "vit" / "expected.safetensors")
    result = load_model(references / "vit").forward(expected["images"])
    np.testing.assert_allclose(result, expected["output"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", LANGUAGE)
def test_decoding_with_a_cache_equals_the_full_pass(references: Path, name: str) -> None:
    model = load_model(references / name)
    tokens = load_file(references / name / "expected.safetensors")["tokens_17"]
    cache = Cache()
    parts = [model.forward(tokens[:, :5], cache=cache)]
    parts += [model.forward(tokens[:, i : i + 1], cache=cache) for i in range(5, 17)]
    full = model.forward(tokens)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name", [n if n == "gpt2" else pytest.param(n, marks=pytest.mark.slow) for n in LANGUAGE]
)
def test_decoding_on_the_mock_is_causal(references: Path, name: str) -> None:
    # scales and noise belong to a token's own address: later tokens must not change it
    model = load_model(references / name)
    backend = MockBackend(
        OpticsProfile(
            input_bits=8,
            weight_bits=8,
            readout_bits=8,
            readout_range="per-row",
            photons_full_scale=1e4,
            length=32,
            rows=16,
        )
    )
    tokens = load_file(references / name / "expected.safetensors")["tokens_17"]
    full = model.forward(tokens, backend=backend)
    cache = Cache()
    parts = [model.forward(tokens[:, :9], cache=cache, backend=backend)]
    parts += [
        model.forward(tokens[:, i : i + 1], cache=cache, backend=backend) for i in range(9, 17)
    ]
    stepwise = np.concatenate(parts, axis=1)
    noise = np.abs(full - model.forward(tokens)).mean()
    assert np.abs(stepwise - full).mean() < 0.05 * noise
    again = model.forward(tokens[1:2], backend=backend)
    assert np.abs(again - full[1:2]).max() > 0  # another sequence, other noise


@pytest.mark.parametrize("name", [*LANGUAGE, "bert", "vit"])
@pytest.mark.parametrize("placement", ["paper", "projections", "all-optical", "host"])
def test_an_ideal_bench_changes_nothing(references: Path, name: str, placement: str) -> None:
    # otherwise an error of the program would look like one of the optics
    model = load_model(references / name)
    expected = load_file(references / name / "expected.safetensors")
    data = expected["images"] if name == "vit" else expected["tokens_17"]
    light = model.forward(data, backend="mock:ideal", placement=placement)
    np.testing.assert_allclose(light, model.forward(data), rtol=0, atol=1e-3)


def test_padding_changes_no_valid_token(references: Path) -> None:
    model = load_model(references / "bert")
    tokens = load_file(references / "bert" / "expected.safetensors")["tokens_17"][:1, :9]
    padded = np.concatenate([tokens, np.full((1, 8), 5)], axis=1)
    alone, beside = model.forward(tokens), model.forward(padded, lengths=[9])
    np.testing.assert_allclose(beside[:, :9], alone, rtol=0, atol=1e-5)


def test_the_optical_variant_is_a_configuration(references: Path, tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(references / "gpt2", tmp_path / "optical")
    config = json.loads((tmp_path / "optical" / "config.json").read_text())
    config |= {"activation_function": "relu6", "activation_clip": 0.5}
    (tmp_path / "optical" / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path / "optical")
    steps = [getattr(step, "step", "") for step in model.program("logits").steps]
    assert steps.count("clip") == 4 * 2
    downs = [m for m in model.program("logits").matmuls if m.name.endswith("mlp.down")]
    assert all(matmul.non_negative for matmul in downs)
    assert np.isfinite(model.forward([[1, 2, 3]])).all()
