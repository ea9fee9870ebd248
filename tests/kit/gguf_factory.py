"""Writes small GGUF files of Llamas, from a Hugging Face folder or with a vocabulary alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LETTERS = [chr(97 + number) for number in range(26)]


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor."""
    body, _, end = name.rpartition(".")
    if body.startswith("model.layers."):
        number, _, part = body.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{_NAMES[part]}.{end}"
    return f"{_NAMES[body]}.{end}"


def permuted(array: np.ndarray, heads: int) -> np.ndarray:
    """Put the two of each rotated pair together, as llama.cpp's converter does."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def tensors_of(folder: Path, kind: str = "llama") -> dict[str, np.ndarray]:
    """Return the tensors of a folder as a GGUF file has them."""
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads = {
        "attn_q": document["num_attention_heads"],
        "attn_k": document.get("num_key_value_heads", document["num_attention_heads"]),
    }
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, array in load_file(path).items():
            new = gguf_name(name)
            part = new.split(".")[-2]
            is_turned = kind == "llama" and part in heads
            found[new] = permuted(array, heads[part]) if is_turned else array
    return found


def write_gguf(
    path: Path,
    folder: Path,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    kind: str = "llama",
    tokens: list[str] | None = None,
    types: list[int] | None = None,
    merges: list[str] | None = None,
    **writer: Any,
) -> Path:
    """Write a folder's model as a GGUF file.

    Parameters
    ----------
    metadata : further keys, without the architecture's name where they begin with a dot
    tensors : None: those of the folder
    tokens, types, merges : of the tokenizer; None: letters and numbered words
    writer : options of gguf.GGUFWriter
    """
    import gguf

    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = document.get("rope_parameters") or {}
    out = gguf.GGUFWriter(str(path), kind, **writer)
    out.add_embedding_length(document["hidden_size"])
    out.add_block_count(document["num_hidden_layers"])
    out.add_head_count(document["num_attention_heads"])
    out.add_head_count_kv(document["num_key_value_heads"])
    out.add_feed_forward_length(document["intermediate_size"])
    out.add_context_length(document["max_position_embeddings"])
    out.add_layer_norm_rms_eps(document["rms_norm_eps"])
    out.add_rope_freq_base(rope.get("rope_theta", document.get("rope_theta", 1e4)))
    words = tokens or []
    words = words + [f"word{i}" for i in range(len(words), document["vocab_size"])]
    out.add_tokenizer_model("gpt2")
    out.add_token_list(words)
    out.add_token_merges(merges or ["w o"])
    if types is not None:
        out.add_token_types(types + [1] * (len(words) - len(types)))
    for key, value in (metadata or {}).items():
        name = f"{kind}{key}" if key.startswith(".") else key
        if isinstance(value, bool):
            out.add_bool(name, value)
        elif isinstance(value, int):
            out.add_uint32(name, value)
        elif isinstance(value, float):
            out.add_float32(name, value)
        else:
            out.add_string(name, value)
    for name, array in (tensors_of(folder, kind) if tensors is None else tensors).items():
        out.add_tensor(name, array)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path
