"""Targets of `fuzz` that read models: weights, GGUF, configurations, tokenizers."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from gguf_factory import gguf_name, write_gguf
from lightloom.instruments.errors import import_extra
from lightloom.models import Model, load_model
from lightloom.models.loading import FAMILIES
from lightloom.models.sentence import SentenceHead
from safetensors.numpy import save

from .mutations import ODD_NUMBERS, changed_bytes, changed_document, changed_text
from .trying import Attempt, Target, want

_SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
_TEXT = {"vocab_size": 11, "max_position_embeddings": 8}
_ROPE = {"rope_theta": 1e4, "rope_type": "default"}
_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 11},
    "llama": {
        **(_SMALL | _TEXT),
        "num_key_value_heads": 1,
        "rope_parameters": _ROPE,
        "rms_norm_eps": 1e-6,
    },
    "bert": {**(_SMALL | _TEXT), "type_vocab_size": 2},
    "roberta": {**(_SMALL | _TEXT), "architectures": ["RobertaForMaskedLM"]},
    "layers": {
        "input_shape": [1, 3, 3],
        "layers": [
            {"kind": "quantise", "levels": 16, "low": 0.0, "high": 1.0},
            {"kind": "linear", "outputs": 5},
            {"kind": "relu"},
            {"kind": "linear", "outputs": 3, "bias": False},
        ],
    },
    "vit": {**_SMALL, "image_size": 4, "patch_size": 2, "num_channels": 1, "num_labels": 3},
}


def _folder(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """Write a tiny model of a family with random weights, and return the weights."""
    document = {"model_type": kind, **_CONFIGS[kind]}
    family = FAMILIES[kind]
    config, ending = family.read_config(document), ("logits",)
    if family.TASK == "encoder":
        ending = ("logits" if config.head else "hidden", SentenceHead())
    shapes = family.program(config, *ending).weight_shapes
    chance = np.random.Generator(np.random.Philox(1))
    arrays = {
        name: chance.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(save(arrays))
    return arrays


def _use(model: Model) -> None:
    """Run a forward pass, whose result must be finite."""
    inputs: Any = [[1, 2, 3]]
    if model.task == "vision":
        inputs = np.full((1, *model.config.image_shape), 0.5, dtype=np.float32)
    with np.errstate(all="ignore"):
        y = model.forward(inputs)
    want(bool(np.isfinite(y).all()), "a result is not finite")


def _weights(folder: Path) -> Iterator[Attempt]:
    whole = {}
    for kind in _CONFIGS:
        arrays = _folder(folder / kind, kind)
        _use(load_model(folder / kind))
        whole[kind] = (arrays, save(arrays))

    def attempt(random: Random) -> None:
        kind = random.choice(list(whole))
        arrays, content = whole[kind]
        way = random.randrange(4)
        if way == 0:
            given = _changed_array(random, arrays)
        else:
            given = (changed_bytes if way == 1 else _changed_header)(random, content)
        (folder / kind / "model.safetensors").write_bytes(given)
        model = load_model(folder / kind)
        _compare(model, given)
        _use(model)

    yield attempt


def _compare(model: Model, content: bytes) -> None:
    """Check that a model has the numbers in the bytes of its file."""
    header, data = _split(content)
    for name, entry in header.items():
        if entry.get("dtype") != "F32" or name not in model.weights:
            continue
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[first:last], dtype="<f4")
        want(values.size == math.prod(entry["shape"]), f"{name} has another size")
        if np.isfinite(values).all():
            held = np.asarray(model.weights[name]).reshape(-1)
            want(bool(np.array_equal(held, values)), f"{name} has other values")


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _changed_header(random: Random, content: bytes) -> bytes:
    header, _ = _split(content)
    text = json.dumps(_changed_entry(random, header)).encode("utf-8", "replace")
    length = len(text)
    if random.random() < 0.1:
        length = random.choice((0, 1, length + 1, 1 << 31, 1 << 62, (1 << 64) - 1))
    return struct.pack("<Q", length) + text + content[8 + len(text) :]


def _changed_entry(random: Random, header: dict[str, Any]) -> Any:
    """Return the header with one tensor placed, shaped or typed otherwise."""
    name, other = random.sample(sorted(header), 2)
    kind = random.randrange(6)
    if kind == 0:
        return changed_document(random, header)
    entry = dict(header[name])
    if kind == 1:
        entry["dtype"] = random.choice(("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "X"))
    elif kind == 2:
        entry["shape"] = [random.choice((0, 1, 2, 1 << 20, 1 << 31, 1 << 62)) for _ in range(2)]
    elif kind == 3:
        entry["data_offsets"] = header[other]["data_offsets"]
    elif kind == 4:
        entry["data_offsets"] = [
            max(0, place + random.choice((-4, 4, 1 << 40, -(1 << 20), 1)))
            for place in entry["data_offsets"]
        ]
    else:
        entry["shape"] = entry["shape"][::-1]
    return {**header, name: entry}


def _changed_array(random: Random, arrays: dict[str, np.ndarray]) -> bytes:
    name = random.choice(sorted(arrays))
    array = arrays[name].copy()
    kind = random.randrange(4)
    with np.errstate(over="ignore"):
        if kind == 0:
            array.flat[random.randrange(array.size)] = np.float32(
                random.choice((math.nan, math.inf, -math.inf, 3e38, 1e-45, 1e30))
            )
        elif kind == 1:
            array = array.astype(random.choice((np.float16, np.float64, np.int32, np.uint8)))
        elif kind == 2:
            array = array[:-1] if random.random() < 0.5 else array[None]
        else:
            array = array * np.float32(random.choice((0, 1e38, -1e30, 1e-40)))
    return save({**arrays, name: np.ascontiguousarray(array)})


def _configs(folder: Path) -> Iterator[Attempt]:
    texts = {}
    for kind in _CONFIGS:
        _folder(folder / kind, kind)
        texts[kind] = (folder / kind / "config.json").read_text(encoding="utf-8")

    def attempt(random: Random) -> None:
        kind = random.choice(list(texts))
        more = {}
        if random.random() < 0.3:
            more = {random.choice(_MORE_KEYS): random.choice(ODD_NUMBERS)}
        given = changed_text(random, texts[kind], lambda text: json.loads(text) | more)
        (folder / kind / "config.json").write_bytes(given)
        _use(load_model(folder / kind))

    yield attempt


_MORE_KEYS = (
    *("activation_clip", "rope_theta", "head_dim", "sliding_window", "layer_norm_eps", "n_inner"),
    *("rms_norm_eps", "layer_norm_epsilon", "num_labels", "id2label", "hidden_act", "rope_scaling"),
    *("tie_word_embeddings", "attention_bias", "use_sliding_window", "qkv_bias", "pad_token_id"),
)


def _tokenizers(folder: Path) -> Iterator[Attempt]:
    tokenizers = import_extra("tokenizers", "models", "turning text into tokens")
    _folder(folder / "gpt2", "gpt2")
    words = {word: number for number, word in enumerate(("l", "i", "g", "h", "t", "li", "ght"))}
    words["<end>"] = 7
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=words, merges=[("l", "i"), ("g", "h")][:1], unk_token="<end>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    text = inner.to_str()
    path = folder / "gpt2" / "tokenizer.json"

    def attempt(random: Random) -> None:
        path.write_bytes(changed_text(random, text))
        model = load_model(folder / "gpt2")
        tokens = model.tokenizer.encode("light")
        want(all(0 <= token < 11 for token in tokens), f"tokens {tokens}")
        model.tokenizer.decode(tokens)

    yield attempt


def _gguf(folder: Path) -> Iterator[Attempt]:
    import_extra("gguf", "models", "reading GGUF files")
    arrays = _folder(folder / "llama", "llama")
    tensors = {
        gguf_name(name if name == "lm_head.weight" else f"model.{name}"): array
        for name, array in arrays.items()
    }
    path = write_gguf(folder / "model.gguf", folder / "llama", tensors=tensors)
    content = path.read_bytes()
    _use(load_model(path))

    def attempt(random: Random) -> None:
        if random.random() < 0.6:  # numbers of the header: lengths, kinds and places
            changed = bytearray(content)
            for _ in range(random.randrange(1, 4)):
                at = random.randrange(min(len(content), 2500))
                size = random.choice((1, 4, 8))
                changed[at : at + size] = random.choice(_COUNTS).to_bytes(8, "little")[:size]
            path.write_bytes(changed)
        else:
            path.write_bytes(changed_bytes(random, content))
        _use(load_model(path))

    yield attempt


_COUNTS = (0, 1, 2, 8, 255, 1 << 16, (1 << 31) - 1, 1 << 32, 1 << 48, (1 << 63) - 1, (1 << 64) - 1)


MODELS = (
    Target("weights", 0.08, _weights),
    Target("configurations", 0.05, _configs),
    Target("tokenizers", 0.02, _tokenizers),
    Target("GGUF files", 0.03, _gguf),
)
