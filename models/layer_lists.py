"""Multilayer perceptrons from lists of layers: as a model, as a folder, from PyTorch.

A layer is a mapping with a `kind`:

- "linear": `weight` [outputs, inputs] and `bias` [outputs] or None;
- "batch_norm": `mean`, `variance`, `weight`, `bias` [inputs] and `epsilon`; it is folded into the
  linear layer before it, or into that after it;
- "quantise": `levels`, `low` and `high`, of activations;
- an activation: "relu", "relu6", "tanh", "sigmoid", "gelu", "gelu_new" or "silu".

`from_sequential` reads one from a torch.nn.Sequential, by the names of its classes: torch itself is
not imported.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .families import layers as family
from .loading import read_config
from .model import Model
from .weights import Stored, Weights

Layers = Sequence[Mapping[str, Any]]
Arrays = dict[str, np.ndarray]


def layers_model(
    layers: Layers,
    input_shape: Sequence[int],
    names: Sequence[str] | None = None,
    name: str = "layers",
) -> Model:
    """Return a model of a list of layers; see the module layer_lists.

    Parameters
    ----------
    input_shape : of one input: (values,), or (channels, height, width)
    names : of the classes; None numbers them
    name : of the model

    Raises
    ------
    InputError : naming the layer that cannot be computed
    """
    document, arrays = _written(layers, input_shape, names)
    config = read_config(family, document, name)
    stored = {key: Stored(array.shape, partial(_same, array), key) for key, array in arrays.items()}
    model = Model(name, Path(name), family, config, Weights(Path(name), stored))
    model.weights.check_shapes(model.whole_program.weight_shapes)
    model.reopen = partial(layers_model, layers, input_shape, names, name)
    return model


def save_layers(
    folder: Path,
    layers: Layers,
    input_shape: Sequence[int],
    names: Sequence[str] | None = None,
    pixel_settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a list of layers as a folder that `load_model` opens: config.json and safetensors.

    Parameters
    ----------
    input_shape, names : as for `layers_model`
    pixel_settings : preprocessor_config.json, which makes pixels the inputs of the first layer

    Raises
    ------
    InputError : naming the layer that cannot be computed
    """
    from safetensors.numpy import save_file

    layers_model(layers, input_shape, names)  # refuses what does not fit, before anything is there
    document, arrays = _written(layers, input_shape, names)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / "model.safetensors")
    for file, content in {"config": document, "preprocessor_config": pixel_settings}.items():
        if content is not None:
            text = json.dumps(content, indent=2) + "\n"
            (folder / f"{file}.json").write_text(text, encoding="utf-8")
    return folder


def _same(array: np.ndarray) -> np.ndarray:
    return array


# --- batch norms ----------------------------------------------------------------------------------


def _without_norms(layers: Layers) -> list[dict[str, Any]]:
    """Return a list of layers whose batch norms are part of the linear layers beside them."""
    kept: list[dict[str, Any]] = []
    norm: tuple[np.ndarray, np.ndarray] | None = None  # before a linear layer
    for place, layer in enumerate(layers):
        where = f"layer {place} ({layer.get('kind')})"
        if layer.get("kind") == "batch_norm":
            if norm is not None:
                raise InputError(f"{where}: it follows another batch norm; merge the two")
            norm = _scale_and_shift(layer, where)
            if kept and kept[-1]["kind"] == "linear":
                kept[-1], norm = _scaled_outputs(kept[-1], *norm, where), None
            continue
        kept.append(_checked(layer, where))
        if norm is not None:
            kept[-1], norm = _scaled_inputs(kept[-1], *norm, where), None
    if norm is not None:
        raise InputError("the batch norm at the end has no linear layer beside it")
    return kept


def _written(
    layers: Layers, input_shape: Sequence[int], names: Sequence[str] | None
) -> tuple[dict[str, Any], Arrays]:
    """Return config.json and weights of a list of layers."""
    steps: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for layer in _without_norms(layers):
        if layer["kind"] != "linear":
            steps.append(layer)
            continue
        number = sum(step["kind"] == "linear" for step in steps)
        weight, bias = layer["weight"], layer["bias"]
        steps.append({"kind": "linear", "outputs": len(weight), "bias": bias is not None})
        arrays[f"layers.{number}.weight"] = weight
        if bias is not None:
            arrays[f"layers.{number}.bias"] = bias
    document: dict[str, Any] = {"model_type": "layers", "input_shape": list(input_shape)}
    document["layers"] = steps
    if names is not None:
        document["id2label"] = {str(index): str(each) for index, each in enumerate(names)}
    return document, arrays


def _checked(layer: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a layer; a linear one with its arrays in float32."""
    if layer.get("kind") != "linear":
        return {"kind": None, **layer}
    bias = None if layer.get("bias") is None else _array(layer, "bias", 1, where)
    return {"kind": "linear", "weight": _array(layer, "weight", 2, where), "bias": bias}


def _array(layer: Mapping[str, Any], key: str, axes: int, where: str) -> np.ndarray:
    """Return an array of a layer in float32, checked."""
    try:
        found = np.ascontiguousarray(layer[key], dtype=np.float32)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: {key} is not an array of numbers") from None
    if found.ndim != axes or not found.size or not np.isfinite(found).all():
        raise InputError(f"{where}: {key} is not {axes}-dimensional, or not finite")
    return found


def _scale_and_shift(layer: Mapping[str, Any], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch norm as y = scale x + shift, float64 [inputs]."""
    mean, variance, weight, bias = (
        _array(layer, key, 1, where).astype(np.float64)
        for key in ("mean", "variance", "weight", "bias")
    )
    epsilon = layer.get("epsilon", 1e-5)
    if not isinstance(epsilon, int | float) or epsilon < 0 or (variance + epsilon <= 0).any():
        raise InputError(f"{where}: variance + epsilon is not above 0")
    scale = weight / np.sqrt(variance + epsilon)
    return scale, bias - mean * scale


def _scaled_outputs(
    layer: Mapping[str, Any], scale: np.ndarray, shift: np.ndarray, where: str
) -> dict[str, Any]:
    """Return a linear layer with a batch norm after it."""
    weight, bias = layer["weight"], layer["bias"]
    _check_width(len(weight), scale, where)
    bias = shift if bias is None else bias * scale + shift
    return _linear(weight * scale[:, None], bias)


def _scaled_inputs(
    layer: Mapping[str, Any], scale: np.ndarray, shift: np.ndarray, where: str
) -> dict[str, Any]:
    """Return a linear layer with a batch norm before it."""
    if layer["kind"] != "linear":
        raise InputError(f"{where}: the batch norm before it has no linear layer beside it")
    weight, bias = layer["weight"], layer["bias"]
    _check_width(weight.shape[1], scale, where)
    before = weight @ shift
    return _linear(weight * scale, before if bias is None else bias + before)


def _linear(weight: np.ndarray, bias: np.ndarray) -> dict[str, Any]:
    return {
        "kind": "linear",
        "weight": weight.astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def _check_width(width: int, scale: np.ndarray, where: str) -> None:
    if len(scale) != width:
        raise InputError(f"{where}: a batch norm of {len(scale)} values stands beside {width}")


# --- from PyTorch ---------------------------------------------------------------------------------

_ACTIVATIONS = {name: name.lower() for name in ("ReLU", "ReLU6", "Tanh", "Sigmoid", "GELU", "SiLU")}
_WITHOUT_EFFECT = ("Dropout", "Flatten", "Identity")


def from_sequential(module: Any) -> list[dict[str, Any]]:
    """Return the layers of a torch.nn.Sequential of linear layers, for `layers_model`.

    It may hold Linear, BatchNorm1d, ReLU, ReLU6, Tanh, Sigmoid, GELU, SiLU, FakeQuantize, and
    Flatten, Dropout and Identity, which have no effect here; and further Sequentials.

    Raises
    ------
    InputError : naming a module that is none of these
    """
    layers: list[dict[str, Any]] = []
    for name, part in module.named_children():
        kind = type(part).__name__
        if kind == "Sequential":
            layers += from_sequential(part)
        elif kind == "Linear":
            bias = None if part.bias is None else _numbers(part.bias)
            layers.append({"kind": "linear", "weight": _numbers(part.weight), "bias": bias})
        elif kind == "BatchNorm1d":
            layers.append(_batch_norm(name, part))
        elif kind == "FakeQuantize":
            layers.append(_quantiser(name, part))
        elif kind in _ACTIVATIONS:
            is_tanh = getattr(part, "approximate", "none") == "tanh"
            layers.append({"kind": "gelu_new" if is_tanh else _ACTIVATIONS[kind]})
        elif kind not in _WITHOUT_EFFECT:
            known = ("Linear", "BatchNorm1d", "FakeQuantize", *_ACTIVATIONS, *_WITHOUT_EFFECT)
            raise InputError(
                f"the module {name!r} is a {kind}; a model of layers computes {', '.join(known)}"
            )
    return layers


def _numbers(tensor: Any) -> np.ndarray:
    """Return a tensor of torch as float32."""
    return np.array(tensor.detach().cpu().float().numpy(), dtype=np.float32)


def _batch_norm(name: str, part: Any) -> dict[str, Any]:
    if part.running_mean is None:
        raise InputError(f"the module {name!r} (BatchNorm1d) keeps no running statistics")
    mean, variance = _numbers(part.running_mean), _numbers(part.running_var)
    weight = np.ones_like(mean) if part.weight is None else _numbers(part.weight)
    bias = np.zeros_like(mean) if part.bias is None else _numbers(part.bias)
    found = {"mean": mean, "variance": variance, "weight": weight, "bias": bias}
    return {"kind": "batch_norm", "epsilon": float(part.eps), **found}


def _quantiser(name: str, part: Any) -> dict[str, Any]:
    """Return an affine quantiser of activations: (q - zero) scale for q from low to high."""
    scale, zero = _numbers(part.scale).ravel(), _numbers(part.zero_point).ravel()
    if len(scale) != 1:
        raise InputError(f"the module {name!r} (FakeQuantize) has a scale for each channel")
    first, last = int(part.quant_min), int(part.quant_max)
    low, high = (float((q - zero[0]) * scale[0]) for q in (first, last))
    return {"kind": "quantise", "levels": last - first + 1, "low": low, "high": high}
