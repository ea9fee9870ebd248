"""Write what transformers and sentence-transformers compute where a key of a file changes numbers.

Like make_references.py, but smaller models, one for each key. To make them again::

    python3 -m venv ref
    ref/bin/pip install torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 pillow
    ref/bin/python tests/references/make_variants.py  # or only some: ... qwen3 roberta_words

It writes, below ``variants/``, a folder for each model: ``config.json``, ``model.safetensors`` and
``expected.safetensors`` with ``inputs`` (tokens [2, 12], or pixels [2, 3, 8, 8]) and ``output``
(logits, or the last hidden states). Encoders with a head also have ``lengths`` [2].
``variants/sentence`` holds an encoder with its tokenizer, a folder for each kind of module, and
``expected.json``: embeddings [2][e] by the modules before them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    ViTConfig,
    ViTForImageClassification,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

OUT = Path(__file__).parent / "variants"
SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
VIT = {key: value for key, value in SHAPE.items() if not key.startswith(("vocab", "max"))}
VIT |= {"image_size": 8, "patch_size": 4, "num_labels": 5}
DISTILBERT = {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}
DISTILBERT["max_position_embeddings"] = 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"a the cat dog kitten sits rests runs . ,".split()]
SENTENCES = ["the cat sits .", "a kitten , a dog , rests"]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2_unscaled": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, scale_attn_weights=False)),
    "gpt2_scaled_by_layer": lambda: GPT2LMHeadModel(
        GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)
    ),
    "bert_decoder": lambda: BertModel(
        BertConfig(**SHAPE, is_decoder=True), add_pooling_layer=False
    ),
    "llama_biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_key_value_heads=2, attention_bias=True, mlp_bias=True)
    ),
    "llama_linear": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        )
    ),
    "mistral_window": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, head_dim=4, sliding_window=5)
    ),
    "vit_unnormalised": lambda: ViTForImageClassification(ViTConfig(**VIT)),
    "vit_unrescaled": lambda: ViTForImageClassification(ViTConfig(**VIT)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)
    ),
    "bert_words": lambda: BertForMaskedLM(BertConfig(**SHAPE)),
    "bert_classes": lambda: BertForSequenceClassification(BertConfig(**SHAPE, num_labels=3)),
    "roberta_words": lambda: RobertaForMaskedLM(RobertaConfig(**SHAPE, pad_token_id=1)),
    "xlm_roberta_tags": lambda: XLMRobertaForTokenClassification(
        XLMRobertaConfig(**SHAPE, pad_token_id=1, type_vocab_size=1, num_labels=5)
    ),
    "distilbert_classes": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(**DISTILBERT, num_labels=3)
    ),
}
HEADS = ("bert_words", "bert_classes", "roberta_words", "xlm_roberta_tags", "distilbert_classes")
LENGTHS = [12, 7]
PIXELS = {
    "vit_unnormalised": {"do_normalize": False},
    "vit_unrescaled": {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
}


def draw(model: torch.nn.Module, seed: int) -> None:
    """Draw every weight, large enough for a mistake anywhere to show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            is_scale = weight.ndim == 1 and not name.endswith("bias")
            weight.copy_(1 + 0.1 * noise if is_scale else 0.25 * noise)


def write_model(name: str, seed: int) -> None:
    """Write a model's folder, and what transformers computes."""
    folder = OUT / name
    model = MODELS[name]().eval()
    draw(model, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(1000 + seed)
    more: dict[str, Any] = {}
    with torch.inference_mode():
        if name in PIXELS:
            from transformers import ViTImageProcessorPil  # needs pillow

            processor = ViTImageProcessorPil(do_resize=False, **PIXELS[name])
            processor.save_pretrained(folder)
            inputs = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
            output = model(**processor(list(inputs), return_tensors="pt")).logits
        else:
            inputs = torch.randint(0, 40, (2, 12), generator=generator)
            if name in HEADS:
                more["lengths"] = torch.tensor(LENGTHS)
                mask = (torch.arange(12) < more["lengths"][:, None]).long()
                padding = model.config.pad_token_id
                inputs = torch.where(mask.bool(), inputs, padding)
                inputs[0, 5] = padding  # as a token of the text
                found = model(inputs, attention_mask=mask)
            else:
                found = model(inputs)
            output = found.last_hidden_state if name == "bert_decoder" else found.logits
    expected = {"inputs": inputs, "output": output.contiguous(), **more}
    save_file(expected, folder / "expected.safetensors")


def write_sentences() -> None:
    """Write an encoder with modules, and what sentence-transformers makes of sentences."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    folder = OUT / "sentence"
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    model = BertModel(BertConfig(**SHAPE), add_pooling_layer=False).eval()
    draw(model, 50)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(51)
    extras: dict[str, torch.nn.Module] = {
        "dense": Dense(16, 6),
        "relu": Dense(16, 5, bias=False, activation_function=torch.nn.ReLU()),
        "norm": LayerNorm(16),
        "unit": Normalize(),
    }
    draw(extras["norm"], 52)
    expected: dict[str, Any] = {}
    chains = [[mode] for mode in POOLINGS] + [["mean", name] for name in ("dense", "relu", "norm")]
    chains += [["cls", "unit", "norm", "dense"], ["cls+max"]]
    for chain in chains:
        pooling = Pooling(16, tuple(chain[0].split("+")))
        modules = [Transformer(str(folder)), pooling, *(extras[name] for name in chain[1:])]
        found = SentenceTransformer(modules=modules, device="cpu").encode(SENTENCES)
        expected[" ".join(chain)] = found.tolist()
    for name in ("dense", "relu", "norm"):
        (folder / name).mkdir()
        extras[name].save(str(folder / name))
    document = {"sentences": SENTENCES, "embeddings": expected}
    (folder / "expected.json").write_text(json.dumps(document), encoding="utf-8")


def main() -> None:
    """Write those that are named, or all of them."""
    named = sys.argv[1:]
    for name in named or (path.name for path in OUT.glob("*")):
        shutil.rmtree(OUT / name, ignore_errors=True)
    for seed, name in enumerate(MODELS):
        if name in named or not named:
            write_model(name, seed)
    if "sentence" in named or not named:
        write_sentences()


if __name__ == "__main__":
    main()
