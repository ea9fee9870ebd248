"""Families against transformers itself, on tiny random models; skipped without torch.

The stored references of `test_families` and `test_model_files` need no torch, but each holds one
configuration. Here are many, as transformers writes them today.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.models import Cache, Model, load_model

torch = pytest.importorskip("torch", reason="needs torch, with which outputs are compared")
transformers = pytest.importorskip("transformers", reason="needs transformers, the reference")

TOLERANCE = 1e-5  # of the largest output
LENGTHS = [11, 7, 1]
BERT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
DISTILBERT = {"vocab_size": 50, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40}
QWEN3 = BERT | {"num_key_value_heads": 2, "head_dim": 8}
SHAPES = {
    "Bert": BERT,
    "Roberta": BERT | {"pad_token_id": 1},
    "XLMRoberta": BERT | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "Camembert": BERT | {"pad_token_id": 1, "type_vocab_size": 1},
    "DistilBert": DISTILBERT | {"max_position_embeddings": 32},
}
BIASES = {"cls.predictions.decoder.bias", "lm_head.decoder.bias"}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
Saved = Callable[..., tuple[Any, Path]]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Save a random model of transformers: (model, folder)."""

    def save(family: str, head: str, **settings: Any) -> tuple[Any, Path]:
        config = getattr(transformers, f"{family}Config")(**settings)
        model = getattr(transformers, f"{family}{head}")(config).eval()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in sorted(model.named_parameters()):
                noise = torch.randn(weight.shape, generator=generator)
                is_scale = weight.ndim == 1 and not name.endswith("bias")
                weight.copy_(1 + 0.1 * noise if is_scale else 0.2 * noise)
            weights = dict(model.named_parameters())
            for name in BIASES & weights.keys():  # two that older versions made one
                weights[name].copy_(weights[name.replace("decoder.", "")])
        folder = tmp_path / f"{family}{head}"
        model.save_pretrained(folder)
        return model, folder

    return save


def relative(found: np.ndarray, expected: Any) -> float:
    right = expected.numpy()
    return float(np.abs(found - right).max() / np.abs(right).max())


def check_encoder(model: Any, folder: Path, padding: int = 0) -> Model:
    """Compare padded sequences, one of which holds the padding token itself as text."""
    tokens = np.random.default_rng(3).integers(3, 50, (3, 11))
    tokens[0, 4] = padding
    mask = np.arange(11) < np.array(LENGTHS)[:, None]
    tokens = np.where(mask, tokens, padding)
    with torch.inference_mode():
        out = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long())[0]
    loaded = load_model(folder)
    found = loaded.forward(tokens, lengths=LENGTHS)
    assert found.shape == tuple(out.shape)
    if found.ndim == 2:
        assert relative(found, out) < TOLERANCE
    else:
        assert relative(found[mask], out[torch.tensor(mask)]) < TOLERANCE
    return loaded


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", SHAPES)
def test_encoders_and_their_heads(saved: Saved, family: str, head: str) -> None:
    labels = {} if head in ("Model", "ForMaskedLM") else {"num_labels": 5}
    settings = SHAPES[family]
    model, folder = saved(family, head, **settings, **labels)
    loaded = check_encoder(model, folder, settings.get("pad_token_id", 0))
    assert (
        loaded.head
        == {
            "Model": "",
            "ForMaskedLM": "masked language model",
            "ForSequenceClassification": "sequence classification",
            "ForTokenClassification": "token classification",
        }[head]
    )


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_untied_masked_language_models(saved: Saved, family: str) -> None:
    model, folder = saved(family, "ForMaskedLM", **SHAPES[family], tie_word_embeddings=False)
    check_encoder(model, folder, SHAPES[family].get("pad_token_id", 0))


@pytest.mark.parametrize(
    ("family", "head", "settings"),
    [
        ("Bert", "ForMaskedLM", {"hidden_act": "relu"}),
        ("Roberta", "ForMaskedLM", {"hidden_act": "relu"}),
        ("DistilBert", "ForMaskedLM", {"activation": "relu"}),
        ("Roberta", "Model", {"pad_token_id": 6}),
        ("DistilBert", "Model", {"sinusoidal_pos_embds": True}),
        ("Bert", "ForSequenceClassification", {"num_labels": 1}),
        ("DistilBert", "ForSequenceClassification", {"id2label": {0: "no", 1: "yes", 2: "both"}}),
    ],
)
def test_settings_of_encoders(saved: Saved, family: str, head: str, settings: Any) -> None:
    whole = SHAPES[family] | settings
    check_encoder(*saved(family, head, **whole), whole.get("pad_token_id", 0))


QWEN3_SETTINGS: dict[str, dict[str, Any]] = {
    "wide heads": {"head_dim": 16},
    "narrow heads": {"head_dim": 4, "num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True},
    "base": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "unused window": {"sliding_window": 4, "use_sliding_window": False},
    "epsilon": {"rms_norm_eps": 1e-2},
}


@pytest.mark.parametrize("name", QWEN3_SETTINGS)
def test_qwen3_with_and_without_a_cache(saved: Saved, name: str) -> None:
    model, folder = saved("Qwen3", "ForCausalLM", **(QWEN3 | QWEN3_SETTINGS[name]))
    tokens = np.random.default_rng(3).integers(0, 50, (2, 11))
    with torch.inference_mode():
        out = model(torch.tensor(tokens)).logits
    loaded, cache = load_model(folder), Cache()
    assert relative(loaded.forward(tokens), out) < TOLERANCE
    parts = [loaded.forward(tokens[:, :4], cache=cache)]
    parts += [loaded.forward(tokens[:, i : i + 1], cache=cache) for i in range(4, 11)]
    assert relative(np.concatenate(parts, axis=1), out) < TOLERANCE


TEXTS = ["a cat", "  two  spaces", "caf\u00e9 cats\n\tsit.", "x<mask> a", "", "\u4e2d a\u0301"]


def test_the_tokenizer_of_xlm_roberta(saved: Saved) -> None:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = (
        "\u2581 \u2581a \u2581cat s \u2581s it . \u2581two \u2581sp aces a c t \u00e9 caf".split()
    )
    pieces += [(word, -1.0 - 0.3 * number) for number, word in enumerate(words)]
    pieces += [("<mask>", 0.0)]
    _, folder = saved("XLMRoberta", "Model", **SHAPES["XLMRoberta"])
    right = transformers.XLMRobertaTokenizer(vocab=pieces)
    right.save_pretrained(folder)
    found = load_model(folder).tokenizer
    for text in TEXTS:
        assert found.encode(text) == right(text).input_ids, text
        assert found.decode(found.encode(text)) == right.decode(
            right(text).input_ids, skip_special_tokens=True
        )


@pytest.mark.parametrize("has_prefix_space", [False, True])
def test_the_tokenizer_of_roberta(saved: Saved, has_prefix_space: bool) -> None:
    letters = "abcefinopstwx.<>\u0120"
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, "ca", "cat", "\u0120cat", "<mask>"]
    merges = [("c", "a"), ("ca", "t"), ("\u0120", "cat")]
    _, folder = saved("Roberta", "Model", **SHAPES["Roberta"])
    right = transformers.RobertaTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=merges,
        add_prefix_space=has_prefix_space,
    )
    right.save_pretrained(folder)
    found = load_model(folder).tokenizer
    for text in ("cat cats", " cat", "x<mask> cat"):
        assert found.encode(text) == right(text).input_ids, text
