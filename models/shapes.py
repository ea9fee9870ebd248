"""Models without weights: published shapes by name, or a width and a depth.

They can be planned, their energy can be accounted for, and `with_random_weights` makes them run.
Shapes are those of GPT-2 or Llama.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from ..scheduler import Program
from ..scheduler.energy.crossover import HEAD_WIDTH
from .config_keys import read_json
from .loading import FAMILIES, load_model, read_config
from .model import Model
from .weights import Stored, Weights


@dataclass(frozen=True)
class Published:
    """A published shape: its config.json, and its source."""

    family: str
    document: Mapping[str, Any]
    source: str


def _gpt(
    width: int, depth: int, heads: int, context: int, vocabulary: int = 50257
) -> dict[str, Any]:
    return {
        "n_embd": width,
        "n_layer": depth,
        "n_head": heads,
        "n_positions": context,
        "vocab_size": vocabulary,
    }


PUBLISHED: Mapping[str, Published] = {
    "gpt2": Published("gpt2", _gpt(768, 12, 12, 1024), "OpenAI, GPT-2 small (2019)"),
    "gpt3-175b": Published("gpt2", _gpt(12288, 96, 96, 2048), "arXiv:2005.14165, table 2.1 (2020)"),
    "mt-nlg-530b": Published(
        "gpt2",
        _gpt(20480, 105, 128, 2048),
        "arXiv:2201.11990: 105 layers of 20,480, 128 heads (2022)",
    ),
    "llama-7b": Published(
        "llama",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
        },
        "arXiv:2307.09288, Llama 2 7B (2023)",
    ),
}


def sized_model(
    width: int,
    depth: int,
    heads: int | None = None,
    vocabulary: int = 50257,
    context: int = 1 << 20,
    name: str = "",
) -> Model:
    """Return the shape of a GPT-2-like language model.

    Parameters
    ----------
    heads : None gives heads of 64, or one head where the width does not divide

    Raises
    ------
    InputError : for sizes below 1, or a width that does not divide into the heads
    """
    for label, value in (("width", width), ("depth", depth), ("vocabulary", vocabulary)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{label} = {value!r} must be a whole number of at least 1")
    if heads is None:
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
    document = _gpt(width, depth, heads, context, vocabulary)
    return _shape_only(name or f"width {width:,}, depth {depth:,}", "gpt2", document, Path())


def layer_program(width: int) -> Program:
    """Return the program of one layer of a GPT-2 of this width, for `energy.crossover`."""
    return sized_model(width, 1).program("features")


def model_or_shape(name: str | Path) -> Model:
    """Open a model, or only its shape: a published one, or a folder with config.json alone.

    Raises
    ------
    InputError : as `load_model`
    """
    folder = Path(name)
    if str(name) in PUBLISHED and not folder.exists():
        shape = PUBLISHED[str(name)]
        return _shape_only(str(name), shape.family, shape.document, Path())
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        document = read_json(folder / "config.json")
        kind = document.get("model_type")
        if isinstance(kind, str) and kind in FAMILIES:
            return _shape_only(folder.resolve().name, kind, document, folder)
    try:
        return load_model(name)
    except InputError as error:
        if "no such file or folder" not in str(error):
            raise
        raise InputError(f"{error}; shapes without weights: {', '.join(PUBLISHED)}") from None


def with_random_weights(model: Model, seed: int = 0) -> Model:
    """Return a model that runs: a shape with random weights, as GPT-2 begins its training.

    Each weight is drawn when it is first read, and depends on the seed and its own name.
    """
    shapes = model.whole_program.weight_shapes
    stored = {name: _random_tensor(name, shape, seed) for name, shape in shapes.items()}
    weights = Weights(Path(f"random, seed {seed}"), stored)
    result = Model(model.name, model.source, model.family, model.config, weights)
    result.reopen = partial(with_random_weights, model, seed)
    return result


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Stored:
    content = f"random {name} of seed {seed}".encode()
    read = partial(_random_weight, name, shape, seed)
    return Stored(shape, read, name, content=lambda: (content,))


def _random_weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox([seed, zlib.crc32(name.encode())]))
    array = generator.standard_normal(shape, dtype=np.float32)
    array *= np.float32(0.02)
    if len(shape) == 1 and name.endswith("weight"):  # of a norm
        array += 1
    return array


def _shape_only(name: str, kind: str, document: Mapping[str, Any], source: Path) -> Model:
    family = FAMILIES[kind]
    model = Model(name, source, family, read_config(family, document, name), Weights(source, {}))
    model.reopen = partial(_shape_only, name, kind, document, source)
    return model
