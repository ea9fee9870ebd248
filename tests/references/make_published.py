"""Write the settings of published models, without weights: `published/`.

MiniLM, and the GGUF header of SmolLM2, are copied from the packages that .ci/fetch_models unpacks.
All others are BUILT:
transformers' own classes with the values that were published, since no package holds them; only
what these classes write is in the files. GGUF headers are JSON: every key, with the vocabulary cut
to its size and its special tokens. To make them again::

    ref/bin/pip install transformers==5.24.0 gguf
    ref/bin/python tests/references/make_published.py MODELS
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
from transformers import (
    BertConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    ViTConfig,
)

OUT = Path(__file__).parent / "published"
LLAMA31_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA_WIDTH = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(architectures=["GPT2LMHeadModel"], n_ctx=1024),
    "bert-base-uncased": BertConfig(architectures=["BertForMaskedLM"]),
    "vit-base-patch16-224": ViTConfig(architectures=["ViTForImageClassification"], num_labels=1000),
    "llama-2-7b": LlamaConfig(
        **LLAMA_WIDTH,
        architectures=["LlamaForCausalLM"],
        intermediate_size=11008,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "llama-3.1-8b-instruct": LlamaConfig(
        **LLAMA_WIDTH,
        architectures=["LlamaForCausalLM"],
        vocab_size=128256,
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters=LLAMA31_ROPE,
        bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009],
    ),
    "mistral-7b-v0.1": MistralConfig(
        **LLAMA_WIDTH,
        architectures=["MistralForCausalLM"],
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        sliding_window=4096,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "smollm2-135m-instruct": LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        is_llama_config=True,
        rope_interleaved=False,
    ),
    "qwen2-1.5b-instruct": Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=1536,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        intermediate_size=8960,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        sliding_window=32768,
        bos_token_id=151643,
        eos_token_id=151645,
    ),
}
GENERATION: dict[str, dict[str, Any]] = {
    "gpt2": {"bos_token_id": 50256, "eos_token_id": 50256},
    "llama-2-7b": {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "top_p": 0.9},
    "llama-3.1-8b-instruct": {
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    },
    "mistral-7b-v0.1": {"bos_token_id": 1, "eos_token_id": 2},
    "smollm2-135m-instruct": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    "qwen2-1.5b-instruct": {
        "bos_token_id": 151643,
        "eos_token_id": [151645, 151643],
        "pad_token_id": 151643,
        "do_sample": True,
        "repetition_penalty": 1.1,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
    },
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_max_length": 1024},
    "bert-base-uncased": {"do_lower_case": True, "model_max_length": 512},
    "llama-2-7b": {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tokenizer_class": "LlamaTokenizer",
    },
    "llama-3.1-8b-instruct": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    },
    "mistral-7b-v0.1": {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tokenizer_class": "LlamaTokenizer",
    },
    "smollm2-135m-instruct": {
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "model_max_length": 8192,
        "tokenizer_class": "GPT2Tokenizer",
    },
    "qwen2-1.5b-instruct": {
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "model_max_length": 32768,
        "tokenizer_class": "Qwen2Tokenizer",
    },
}
PIXELS = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTFeatureExtractor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}
SPECIAL = {  # of the vocabularies: id -> token
    "llama-2-7b": {0: "<unk>", 1: "<s>", 2: "</s>"},
    "mistral-7b-v0.1": {0: "<unk>", 1: "<s>", 2: "</s>"},
    "llama-3.1-8b-instruct": {
        128000: "<|begin_of_text|>",
        128001: "<|end_of_text|>",
        128008: "<|eom_id|>",
        128009: "<|eot_id|>",
    },
    "qwen2-1.5b-instruct": {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"},
}


def header(name: str, config: PreTrainedConfig) -> dict[str, Any]:
    """Return the header that llama.cpp's converter writes for a Llama or Qwen2."""
    kind = "qwen2" if name.startswith("qwen2") else "llama"
    values = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    if kind == "llama":
        head = config.hidden_size // config.num_attention_heads
        values |= {"vocab_size": config.vocab_size, "rope.dimension_count": head}
    special = SPECIAL[name]
    ends = {"qwen2-1.5b-instruct": 151645, "llama-3.1-8b-instruct": 128009}
    tokens = {
        "tokenizer.ggml.model": "gpt2" if name in ends else "llama",
        "tokenizer.ggml.pre": "qwen2" if kind == "qwen2" else "llama-bpe",
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": ends.get(name, config.eos_token_id),
    }
    if name not in ends:  # SentencePiece: it is not split beforehand
        tokens |= {"tokenizer.ggml.pre": "default", "tokenizer.ggml.add_bos_token": True}
    if kind == "qwen2":
        tokens["tokenizer.ggml.add_bos_token"] = False
    return {
        "metadata": {
            "general.architecture": kind,
            "general.type": "model",
            **{f"{kind}.{key}": value for key, value in values.items()},
            **tokens,
        },
        "vocabulary": config.vocab_size,
        "special": special,
    }


def real_header(path: Path) -> dict[str, Any]:
    """Return the header of a file, its vocabulary cut to its special tokens."""
    fields = gguf.GGUFReader(str(path)).fields
    metadata = {
        key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")
    }
    words = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    long = ("tokens", "token_type", "merges", "scores")
    for key in long:
        metadata.pop(f"tokenizer.ggml.{key}", None)
    special = {i: words[i] for i, kind in enumerate(types) if kind != 1}
    return {"metadata": metadata, "vocabulary": len(words), "special": special}


def main(models: Path) -> None:
    """Write all of them."""
    shutil.rmtree(OUT, ignore_errors=True)
    for name, config in CONFIGS.items():
        folder = OUT / name
        config.save_pretrained(folder)
        if name in GENERATION:
            GenerationConfig(**GENERATION[name]).save_pretrained(folder)
        if name in TOKENIZERS:
            write(folder / "tokenizer_config.json", TOKENIZERS[name])
        if name in SPECIAL:
            write(folder / "gguf_header.json", header(name, config))
    for path in (models / "minilm").glob("*.json"):
        if path.name not in ("tokenizer.json", "data_config.json"):
            (OUT / "all-minilm-l6-v2").mkdir(exist_ok=True)
            shutil.copy(path, OUT / "all-minilm-l6-v2")
    shutil.copytree(models / "minilm" / "1_Pooling", OUT / "all-minilm-l6-v2" / "1_Pooling")
    write(OUT / "vit-base-patch16-224" / "preprocessor_config.json", PIXELS)
    (file,) = (models / "smollm2").glob("*.gguf")
    write(OUT / "smollm2-135m-instruct" / "gguf_header.json", real_header(file))


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
