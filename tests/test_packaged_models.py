"""Real models, SmolLM2-135M (GGUF) and all-MiniLM-L6-v2, against transformers, and on light."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lightloom.backends import MockBackend, OpticsProfile, mock_path
from lightloom.models import Model, load_model
from safetensors.numpy import load_file

pytestmark = [pytest.mark.packaged_models, pytest.mark.slow]


@pytest.fixture(scope="module")
def smollm2(packaged_models: Path) -> Model:
    return load_model(packaged_models / "smollm2")


@pytest.fixture(scope="module")
def minilm(packaged_models: Path) -> Model:
    return load_model(packaged_models / "minilm")


def on_light(model: Model, tokens: np.ndarray, **fields: object) -> float:
    """Perplexity with projections on light, ranges fixed beforehand on other text."""
    profile = OpticsProfile(
        encoding="abs-split", input_bits=8, weight_bits=8, readout_range="per-row", **fields
    )
    backend = MockBackend(profile)
    value = model.perplexity(tokens, backend, "projections")
    model.release(backend)
    return value


def test_smollm2_equals_transformers(smollm2: Model, references: Path) -> None:
    expected = load_file(references / "smollm2.safetensors")
    logits = smollm2.forward(expected["tokens"])
    np.testing.assert_allclose(logits[..., ::61], expected["logits"], rtol=0, atol=2e-3)
    top = np.take_along_axis(logits, expected["argmax"][..., None], axis=-1)[..., 0]
    assert (top >= logits.max(axis=-1) - 4e-3).all()  # the same token, or a tie of the above


def test_smollm2_tokenizer(smollm2: Model, references: Path) -> None:
    for entry in json.loads((references / "smollm2_tokens.json").read_text(encoding="utf-8")):
        assert smollm2.tokenizer.encode(entry["text"]) == entry["ids_smollm"], entry["text"]


@pytest.mark.campaign
def test_smollm2_perplexity(smollm2: Model, references: Path) -> None:
    # the project asks 18.9 of 10 bits and 19.6 of 8, in the mean; one draw of the noise, and so
    # the rounding of another processor, scatters by 0.09 and 0.18 about 18.95 and 19.5 (five seeds
    # each, docs/explanation/figures.md). Limits of 4.2 of that: false alarm 1e-5 each
    tokens = load_file(references / "smollm2.safetensors")["perplexity_tokens"]
    assert smollm2.perplexity(tokens) == pytest.approx(18.21, abs=0.05)
    assert on_light(smollm2, tokens, readout_bits=10) <= 18.95 + 4.2 * 0.09
    quiet = on_light(smollm2, tokens, readout_bits=8)
    assert quiet <= 19.5 + 4.2 * 0.18
    noisy = on_light(smollm2, tokens, readout_bits=8, photons_full_scale=1e5)
    assert noisy == pytest.approx(quiet, rel=4.2 * 0.25 / 19.5)


def test_smollm2_decodes_as_it_reads(smollm2: Model) -> None:
    text = "".join(smollm2.generate("The capital of France is", max_tokens=8))
    assert "Paris" in text
    twice = ["".join(smollm2.generate("Once", 6, temperature=1.0, seed=3)) for _ in range(2)]
    assert twice[0] == twice[1]
    other = "".join(smollm2.generate("Once", 6, temperature=1.0, seed=4))
    assert other != twice[0]


@pytest.mark.parametrize(("backend", "limit"), [("digital", 1.45), ("mock", 1.15)])
def test_smollm2_memory(packaged_models: Path, tmp_path: Path, backend: str, limit: float) -> None:
    # a laptop must hold a model once: encoded for light, or in float32 for the host. The limits are
    # above the imports, in the float32 size of the weights
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    if backend == "mock" and "dot products" not in mock_path()["products"]:
        limit = 1.3  # weights are also kept in the form of a library, or some in float32
    text = tmp_path / "text.txt"
    text.write_text("The bench was aligned in the morning and drifted until noon. " * 60)
    code = (
        "import sys; from lightloom.__main__ import main\n"
        "from lightloom.backends import open_backend\n"
        "def tell():\n"
        f"    lines = open({str(status)!r}).read().splitlines()\n"
        "    print([line for line in lines if 'VmHWM' in line][0].split()[1], file=sys.stderr)\n"
        "open_backend('mock').warm_up()\n"
        "tell()\n"
        "sys.argv = ['lightloom', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "tell()"
    )
    options = ["run", "--model", packaged_models / "smollm2", "--text", text, "--limit", "2"]
    options += ["--backend", backend, "--json", "--no-reference"]
    command = [sys.executable, "-c", code, *map(str, options)]
    size = 4 * load_model(packaged_models / "smollm2").parameters
    peaks = []
    for _ in range(3):  # the peak holds pages of mapped files, which the system drops when it can
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [line for line in run.stderr.splitlines() if line.isdigit()]
        peaks.append((int(lines[-1]) - int(lines[0])) * 1024 / size)
        if peaks[-1] < limit:
            return
    raise AssertionError(f"{min(peaks):.2f} times the float32 size of the weights")


def test_minilm_equals_sentence_transformers(minilm: Model, references: Path) -> None:
    entries = json.loads((references / "minilm.json").read_text(encoding="utf-8"))
    expected = load_file(references / "minilm.safetensors")["embeddings"]
    with pytest.warns(UserWarning, match="is cut to the 256"):
        result = minilm.embed([entry["text"] for entry in entries])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    assert minilm.tokenizer.encode(entries[0]["text"]) == entries[0]["ids"]


def test_minilm_on_light_keeps_its_neighbours(minilm: Model) -> None:
    sentences = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose."]
    light = minilm.embed(sentences, backend="mock")
    assert np.einsum("nd,nd->n", light, minilm.embed(sentences)).min() > 0.98
    assert light[0] @ light[1] > light[0] @ light[2] + 0.3
