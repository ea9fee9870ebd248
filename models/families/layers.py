"""Layers: a multilayer perceptron of linear layers, activations and quantisers, in a list.

It has no counterpart in transformers: `lightloom.models.save_layers` writes such a folder. Batch
norms are folded into linear layers there.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...scheduler import BATCH, Program, shape
from ...scheduler.host_steps import NON_NEGATIVE_ACTIVATIONS
from ..config_keys import check_keys, class_names
from .blocks import MOST_LAYERS, FamilyConfig, LayerWriter, begin

TASK = "vision"
PREFIX = ""
BUFFERS = OTHER_HEADS = r"(?!)"  # none


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Linear(_Step):
    """A product with a weight [outputs, inputs], and a bias."""

    kind: Literal["linear"]
    outputs: int = Field(ge=1, le=1 << 24)
    bias: bool = True


class Activation(_Step):
    """An activation function."""

    kind: Literal["relu", "relu6", "tanh", "sigmoid", "gelu", "gelu_new", "silu"]


class Quantiser(_Step):
    """Rounds to the nearest of equally spaced levels from low to high, and clips beyond."""

    kind: Literal["quantise"]
    levels: int = Field(ge=2, le=1 << 16)
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)


AnyStep = Annotated[Linear | Activation | Quantiser, Field(discriminator="kind")]


class Config(FamilyConfig):
    """The keys of config.json: the shape of one input, and the layers in their order."""

    image_shape: list[Annotated[int, Field(ge=1)]] = Field(
        alias="input_shape", min_length=1, max_length=3
    )
    steps: list[AnyStep] = Field(alias="layers", min_length=1, max_length=MOST_LAYERS)
    names: Mapping[str, str] = Field(alias="id2label", min_length=1)

    @property
    def context(self) -> int:
        """Tokens of one input: an input is one vector."""
        return 1

    @property
    def widths(self) -> list[int]:
        """The number of outputs of each linear layer."""
        return [step.outputs for step in self.steps if isinstance(step, Linear)]

    @property
    def layers(self) -> int:
        """The number of linear layers."""
        return len(self.widths)

    @property
    def width(self) -> int:
        """The largest number of outputs."""
        return max(self.widths)


def read_config(document: Mapping[str, Any]) -> Config:
    """Check a config.json."""
    check_keys(document, Config, {})
    names = class_names(document)
    config = Config(**{**document, "id2label": names})
    if not config.layers:
        raise ValueError("layers holds no linear layer")
    for step in config.steps:
        if isinstance(step, Quantiser) and step.low >= step.high:
            raise ValueError(f"a quantiser from {step.low:g} to {step.high:g} has no range")
    if document.get("id2label") is None and "num_labels" not in document:
        names = {str(index): f"class {index}" for index in range(config.widths[-1])}
        config = config.model_copy(update={"names": names})
    if len(config.names) != config.widths[-1]:
        raise ValueError(
            f"the last layer has {config.widths[-1]} outputs, but there are names of "
            f"{len(config.names)} classes"
        )
    return config


def program(config: Config, ending: str) -> Program:
    """Write the forward pass; `ending` is "logits"."""
    p = begin(images=tuple(config.image_shape))
    x, number = "images", 0
    if len(config.image_shape) > 1:
        flat = (shape(BATCH, math.prod(config.image_shape)),)
        x = p.host("flatten", "layout", "flatten", (x,), flat)
    layer, is_non_negative = LayerWriter(p, "input", config.activation_clip), False
    for place, step in enumerate(config.steps):
        if isinstance(step, Linear):
            layer = LayerWriter(p, f"layer.{number}", config.activation_clip)
            x = layer.clipped("linear", x) if number else x
            weight, flags = f"layers.{number}", {"non_negative": is_non_negative}
            x = layer.project("linear", "MLP", x, weight, step.outputs, step.bias, **flags)
            number, is_non_negative = number + 1, False
        elif isinstance(step, Activation):
            x = layer.activate(str(place), x, step.kind)
            is_non_negative = step.kind in NON_NEGATIVE_ACTIVATIONS
        else:
            name = f"{layer.name}.{place}.quantise"
            levels: dict[str, Any] = {"levels": step.levels, "low": step.low, "high": step.high}
            x = p.host(name, "activation", "quantise", (x,), **levels)
            is_non_negative = step.low >= 0
    return p.build(x)
