"""GGUF files: their header checked, their tensors opened, their metadata as a config.json.

Every count in the header is checked against the size of the file before the package `gguf` reads
it, since that package trusts every count. Names and meanings are those of llama.cpp. The tokenizer
is in `gguf_tokens`.
"""

import contextlib
import ctypes
import math
import mmap
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from ..instruments.errors import import_extra
from .weights import PART, Stored, Weights

ARCHITECTURES = ("llama", "qwen2")
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
            f"{' and '.join(ARCHITECTURES)} from GGUF, and more from Hugging Face folders"
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


def has_magic(path: Path) -> bool:
    """Return whether a file begins with the magic bytes of GGUF."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


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
    check_header(path)
    try:
        reader = gguf.GGUFReader(str(path))
        metadata = {key: field.contents() for key, field in reader.fields.items() if field.types}
        release = _releaser(reader.data)
        swapped = reader.byte_order == "S"
        stored = {
            tensor.name: _stored(path, gguf, tensor, release, swapped) for tensor in reader.tensors
        }
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        why = "a tensor ends behind its end" if "reshape" in str(error) else error
        raise InputError(f"{path} is not a complete GGUF file: {why}") from None
    except Exception as error:  # the reader meets corrupt files with many kinds of exception
        raise InputError(f"{path} is not a readable GGUF file: {type(error).__name__}") from None
    if not stored and metadata.get("split.count", 0) in (0, 1):
        raise InputError(f"{path} holds no tensors")
    del reader  # it holds an array for every word of the vocabulary
    _return_free_memory()
    return Weights(path, stored), metadata


def _stored(
    path: Path, gguf: Any, tensor: Any, release: Callable[[], None], swapped: bool
) -> Stored:
    shape = tuple(int(size) for size in tensor.shape[::-1])
    kinds = gguf.GGMLQuantizationType

    def read() -> np.ndarray:
        if tensor.tensor_type in (kinds.F32, kinds.F16):
            result = np.asarray(tensor.data).reshape(shape).astype(np.float32, copy=False)
        elif swapped:
            raise InputError(
                f"{path}: tensor {tensor.name!r} is stored as {tensor.tensor_type.name} in "
                "big-endian order, which lightloom reads for F32 and F16 only; convert the file "
                "to little-endian"
            )
        else:
            result = _dequantized(path, gguf, tensor, shape)
        if result.base is None:
            release()  # the stored form of a converted tensor is not needed again
        return result

    return Stored(shape, read, tensor.name)


def _dequantized(path: Path, gguf: Any, tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
    stored = np.asarray(tensor.data).reshape(int(np.prod(shape[:-1])), -1)
    result = np.empty((len(stored), shape[-1]), dtype=np.float32)
    step = max(1, PART // shape[-1])
    try:
        for first in range(0, len(stored), step):
            part = gguf.quants.dequantize(stored[first : first + step], tensor.tensor_type)
            result[first : first + step] = part
    except NotImplementedError:
        raise InputError(
            f"{path}: tensor {tensor.name!r} is stored as {tensor.tensor_type.name}, "
            "which the package gguf cannot expand"
        ) from None
    result.shape = shape
    return result


def _return_free_memory() -> None:
    """Return freed memory to the system, where the C library has a call for it (glibc)."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _releaser(mapped: np.ndarray) -> Callable[[], None]:
    """Return a function that lets the system drop the pages of a mapped file, if it can."""
    pages: Any = mapped.base
    advice = getattr(mmap, "MADV_DONTNEED", None)  # POSIX only; elsewhere pages go when needed
    if advice is None or not isinstance(pages, mmap.mmap):
        return lambda: None
    return lambda: pages.madvise(advice)


# ---------------------------------------------------------------- the header

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of plain values
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_LEAST_PAIR, _LEAST_TENSOR = 13, 24  # bytes of the shortest pair of key and value, and tensor
_MOST_AXES = 8
_MOST_VALUES_PER_BYTE = 8


def check_header(path: Path) -> None:
    """Check each count of a GGUF header against the bytes that are left.

    Raises
    ------
    InputError : for a file that is not GGUF, or is shorter than its counts
    """
    try:
        if not has_magic(path):
            raise InputError(f"{path} is not a GGUF file: it does not begin with GGUF")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _GgufHeader(data).walk()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, struct.error) as error:
        raise InputError(f"{path} is not a complete GGUF file: {error}") from None


class _GgufHeader:
    """A GGUF header, read from its beginning to its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._order = "<"

    def walk(self) -> None:
        """Read from the first byte to the last tensor's entry."""
        self._at = 4
        if struct.unpack_from("<I", self._data, 4)[0] & 0xFFFF == 0:
            self._order = ">"
        if (version := self._take("I")) not in _VERSIONS:
            raise ValueError(f"it says that it is of version {version}, and there are 2 and 3")
        tensors = self._take_count(_LEAST_TENSOR, "tensors")
        pairs = self._take_count(_LEAST_PAIR, "entries of metadata")
        for _ in range(pairs):
            self._skip_string()
            self._skip_value(self._take("I"))
        for _ in range(tensors):
            self._skip_string()
            self._skip_tensor()
        if self._at > len(self._data):
            raise ValueError("it ends within its header")

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip_string()
        elif kind == _ARRAY:
            kind = self._take("I")
            size = 8 if kind == _STRING else self._size(kind)
            count = self._take_count(size, "entries of an array")
            if kind == _STRING:
                for _ in range(count):
                    self._skip_string()
            else:
                self._at += count * size
        else:
            self._at += self._size(kind)

    def _skip_tensor(self) -> None:
        axes = self._take("I")
        if axes > _MOST_AXES:
            raise ValueError(f"it claims a tensor of {axes} axes")
        values = math.prod(self._take("Q") for _ in range(axes))
        if values > _MOST_VALUES_PER_BYTE * len(self._data):
            raise ValueError(f"it claims a tensor of {values} values in {len(self._data)} bytes")
        self._at += struct.calcsize("=IQ")  # its type and its offset

    def _skip_string(self) -> None:
        length = self._take_count(1, "bytes of a string")
        self._at += length

    @staticmethod
    def _size(kind: int) -> int:
        if kind not in _SIZES:
            raise ValueError(f"it holds values of kind {kind}, which GGUF does not have there")
        return _SIZES[kind]

    def _take(self, kind: str) -> int:
        (value,) = struct.unpack_from(self._order + kind, self._data, self._at)
        self._at += struct.calcsize(kind)
        return int(value)

    def _take_count(self, size: int, what: str) -> int:
        """Read a count of things of at least `size` bytes, which must be left."""
        count, left = self._take("Q"), len(self._data) - self._at
        if count * size > left:
            raise ValueError(f"it claims {count} {what}, and {left} bytes are left")
        return count


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
    "attn_k": "self_attn.k_proj",
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
        def read() -> np.ndarray:
            pairs = entry.read().reshape(count, entry.shape[0] // count // 2, 2, -1)
            return pairs.swapaxes(1, 2).reshape(entry.shape)

        return Stored(entry.shape, read, entry.name)

    parts = {name: ["", *name.split(".")][-2] for name in weights}
    stored = {
        name: reordered(entry, heads[parts[name]]) if parts[name] in heads else entry
        for name, entry in weights.stored.items()
    }
    return Weights(weights.source, stored)
