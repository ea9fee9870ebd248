"""GGUF files: their header checked, their tensors opened, their metadata as a config.json.

Names and meanings are those of llama.cpp. The package `gguf` expands quantised tensors. The header
is read in `gguf_header`, the tokenizer in `gguf_tokens`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from ..instruments.errors import import_extra
from .gguf_header import TensorEntry, read_header
from .weights import MappedFile, Stored, Weights, mapped_tensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class GgufModel:
    """The content of a GGUF file, with the names of a Llama's Hugging Face folder.

    Parameters
    ----------
    document : as a config.json
    biases : projections that have a bias (see `llama.Config`)
    has_rotary_factors : the file has divisors of the rotated pairs' frequencies
    metadata : of the file
    """

    weights: Weights
    document: dict[str, Any]
    biases: frozenset[str]
    has_rotary_factors: bool
    metadata: dict[str, Any]


def open_gguf(path: Path) -> GgufModel:
    """Open a GGUF file of a Llama or a related model; a split one by any of its parts.

    Raises
    ------
    InputError : for a file that is truncated, corrupt, of another architecture, or asks for what
        lightloom does not compute
    MissingExtraError : without the package gguf
    """
    weights, metadata = _read_parts(path)
    kind = metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{path} is of architecture {kind!r}; lightloom reads "
            f"{', '.join(ARCHITECTURES)} from GGUF, and more from Hugging Face folders"
        )
    if metadata.get("general.type", "model") != "model":
        raise InputError(
            f"{path} holds general.type = {metadata['general.type']!r}, not a whole model; merge "
            "it into its model first"
        )
    renamed = weights.renamed(_hugging_face_name)
    try:
        document = config_document(metadata, kind, renamed)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: unusable metadata: {reason}") from None
    found = {match[1] for name in renamed if (match := _BIAS.search(name))}
    biases = frozenset(found | ({"q", "k", "v"} if kind == "qwen2" else set()))
    if kind == "llama":
        renamed = _unpermuted(renamed, document)
    has_factors = kind == "llama" and "rope_freqs.weight" in renamed
    return GgufModel(renamed, document, biases, has_factors, metadata)


def split_set(paths: list[Path]) -> Path | None:
    """Return the first file if all are parts of one split model, else None."""
    found = [_SPLIT.fullmatch(path.name) for path in paths]
    names = {(match[1], match[3]) if match else None for match in found}
    return paths[0] if len(names) == 1 and None not in names else None


# ---------------------------------------------------------------- the file


def _read_parts(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Read a file, or all parts of a split one: tensors under their own names, metadata."""
    weights, metadata = read_tensors(path)
    count = metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        return weights, metadata
    match = _SPLIT.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise InputError(
            f"{path} is part {metadata.get('split.no')} of {count} of a split model, but is not "
            f"called NAME-00001-of-{count:05}.gguf; give it its name back, beside the other parts"
        )
    stored: dict[str, Stored] = {}
    for number in range(1, count + 1):
        name = f"{match[1]}-{number:05}-of-{match[3]}.gguf"
        part = path.with_name(name)
        if not part.is_file():
            raise InputError(f"{path} is one of {count} parts, and {name} is not beside it")
        tensors, found = read_tensors(part)
        if found.get("split.no") != number - 1 or set(stored) & set(tensors):
            raise InputError(f"{part} is not part {number} of the model of {path.name}")
        stored |= tensors.stored
        metadata = found if number == 1 else metadata
    total = metadata.get("split.tensors.count", len(stored))
    if total != len(stored):
        raise InputError(f"the parts of {path} hold {len(stored)} tensors, not {total}")
    return Weights(path, stored), metadata


def read_tensors(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Open one file: tensors under their own names, and its metadata."""
    gguf = import_extra("gguf", "models", "reading GGUF files")
    header = read_header(path)
    if not header.tensors and header.metadata.get("split.count", 0) in (0, 1):
        raise InputError(f"{path} holds no tensors")
    file = MappedFile(path)
    try:
        stored = {
            tensor.name: _stored(path, gguf, tensor, file, header.order)
            for tensor in header.tensors
        }
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path} is not a complete GGUF file: {error}") from None
    if len(stored) < len(header.tensors):
        raise InputError(f"{path} is not a complete GGUF file: two tensors have one name")
    return Weights(path, stored), header.metadata


def _stored(path: Path, gguf: Any, tensor: TensorEntry, file: MappedFile, order: str) -> Stored:
    kind, shape = gguf.GGMLQuantizationType(tensor.kind), tensor.shape
    values, bytes_ = gguf.GGML_QUANT_SIZES[kind]  # of a block
    if math.prod(shape) and shape[-1] % values:
        raise ValueError(f"rows of {tensor.name!r} do not divide into blocks of {values}")
    last = tensor.first + math.prod(shape) // values * bytes_
    if last > len(file.data):
        raise ValueError("a tensor ends behind its end")
    data = file.data[tensor.first : last]
    stored = data.reshape(math.prod(shape[:-1]), -1) if len(data) else data.reshape(0, 1)
    plain = {"F32": "f4", "F16": "f2"}.get(kind.name)
    if plain is not None:
        stored = stored.view(np.dtype(order + plain))

    def expand(rows: np.ndarray) -> np.ndarray:
        if plain is not None:
            return rows.astype(np.float32, copy=False)
        if order == ">":
            raise InputError(
                f"{path}: tensor {tensor.name!r} is stored as {kind.name} in big-endian order, "
                "which lightloom reads for F32 and F16 only; convert the file to little-endian"
            )
        try:
            return np.asarray(gguf.quants.dequantize(rows, kind))
        except NotImplementedError:
            raise InputError(
                f"{path}: tensor {tensor.name!r} is stored as {kind.name}, which the package gguf "
                "cannot expand"
            ) from None

    span = tensor.first, last
    return mapped_tensor(file, span, shape, stored, expand, order + kind.name, tensor.name)


# ---------------------------------------------------------------- the metadata

_BIAS = re.compile(r"\.(q|k|v|o|gate|up|down)_proj\.bias$")
# keys of an architecture that are read below, or change no result
_KNOWN = frozenset(
    "attention.head_count attention.head_count_kv attention.key_length block_count context_length "
    "attention.layer_norm_rms_epsilon embedding_length feed_forward_length rope.freq_base "
    "rope.scaling.type rope.scaling.factor rope.scale_linear rope.scaling.finetuned "
    "rope.scaling.original_context_length tensor_data_layout vocab_size pooling_type".split()
)
# keys with only these supported values; a name stands for the value of that key
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "attention.value_length": ("head_dim",),
    "rope.dimension_count": ("head_dim",),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.sliding_window": (0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "use_parallel_residual": (False,),
}


def config_document(metadata: Mapping[str, Any], kind: str, weights: Weights) -> dict[str, Any]:
    """Return a GGUF file's metadata as a config.json."""

    def value(key: str, default: Any = None) -> Any:
        found = (
            metadata[f"{kind}.{key}"] if default is None else metadata.get(f"{kind}.{key}", default)
        )
        if isinstance(found, list) and found and found == found[:1] * len(found):
            return found[0]  # the same for each layer
        return found

    heads = value("attention.head_count")
    key_heads = value("attention.head_count_kv", heads)
    for key, count in (("head_count", heads), ("head_count_kv", key_heads)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{kind}.attention.{key} = {count!r} is not a number of heads")
    document = {
        "model_type": kind,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": value("embedding_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": metadata.get(
            f"{kind}.attention.key_length", value("embedding_length") // heads
        ),
        "intermediate_size": value("feed_forward_length"),
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get(f"{kind}.rope.freq_base", 1e4),
        "rope_scaling": _rotary_scaling(metadata, kind),
        "tie_word_embeddings": "lm_head.weight" not in weights,
    }
    _check_keys(metadata, kind, document)
    return document


def _rotary_scaling(metadata: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the scaling of rotary positions as llama.cpp reads it.

    Without a type it is linear; the factor may have its old key; 0 means no scaling.
    """
    name = metadata.get(f"{kind}.rope.scaling.type", "linear")
    if name not in ("none", "linear"):
        raise ValueError(
            f"{kind}.rope.scaling.type = {name!r} is not computed by lightloom, only none and "
            "linear (and the factors of rope_freqs.weight)"
        )
    old = metadata.get(f"{kind}.rope.scale_linear", 0.0)
    factor = metadata.get(f"{kind}.rope.scaling.factor", old)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < 1e9:
        raise ValueError(f"{kind}.rope.scaling.factor = {factor!r} is not a factor above 0")
    is_scaled = name == "linear" and factor not in (0, 1)
    return {"rope_type": "linear", "factor": float(factor)} if is_scaled else None


def _check_keys(metadata: Mapping[str, Any], kind: str, document: Mapping[str, Any]) -> None:
    """Refuse a key of the architecture that asks for a computation without support."""
    for name, found in metadata.items():
        key = name.removeprefix(f"{kind}.")
        if key == name or key in _KNOWN:
            continue
        never_closes = isinstance(found, int) and found >= document["max_position_embeddings"]
        if key == "attention.sliding_window" and never_closes:
            continue
        allowed = tuple(document.get(str(each), each) for each in _FIXED.get(key, ()))
        if found not in allowed:
            only = f"only {' or '.join(map(repr, allowed))}" if allowed else "it is unknown"
            raise ValueError(f"{name} = {found!r} is not computed by lightloom ({only})")


_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k": "self_attn.k_proj",
    "attn_k_norm": "self_attn.k_norm",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _hugging_face_name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor of a Llama."""
    *layer, part, end = ["", *name.split(".")]
    before = f"layers.{layer[2]}." if len(layer) == 3 else ""
    return f"{before}{_NAMES.get(part, part)}.{end}".lstrip(".")


def _unpermuted(weights: Weights, document: Mapping[str, Any]) -> Weights:
    """Return q and k with their rows reordered: GGUF stores each rotated pair side by side."""
    heads = {
        "q_proj": document["num_attention_heads"],
        "k_proj": document["num_key_value_heads"],
    }

    def reordered(entry: Stored, count: int) -> Stored:
        pairs = np.arange(entry.shape[0]).reshape(count, -1, 2)
        order = pairs.swapaxes(1, 2).reshape(-1)
        digested = entry.content
        assert digested is not None  # of a mapped tensor
        return replace(
            entry,
            read=lambda: entry.read()[order],
            read_rows=lambda rows: entry.rows(order[rows]),
            content=lambda: (f"pairs of {count} heads ".encode(), *digested()),
        )

    parts = {name: ["", *name.split(".")][-2] for name in weights}
    stored = {
        name: reordered(entry, heads[parts[name]]) if parts[name] in heads else entry
        for name, entry in weights.stored.items()
    }
    return Weights(weights.source, stored)
