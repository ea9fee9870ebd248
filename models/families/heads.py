"""The heads of encoders: what follows the last layer, by the class that config.json names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ...scheduler import BATCH, Program, ProgramBuilder, shape
from ...scheduler.host_steps import NON_NEGATIVE_ACTIVATIONS
from ..config_keys import class_names
from ..sentence import SentenceHead
from .blocks import FamilyConfig, LayerWriter

Head = Literal["", "masked language model", "sequence classification", "token classification"]
"""The task of an encoder's head; "" is an encoder that gives hidden states."""

_CLASSES: Mapping[str, Head] = {  # the end of a class's name in transformers
    "ForMaskedLM": "masked language model",
    "ForSequenceClassification": "sequence classification",
    "ForTokenClassification": "token classification",
}


class EncoderConfig(FamilyConfig):
    """The keys of an encoder's config.json that shape its head."""

    head: Head = ""
    names: Mapping[str, str] = Field(alias="id2label", min_length=1)
    tied: bool = Field(default=True, alias="tie_word_embeddings")


@dataclass(frozen=True)
class HeadWeights:
    """The names of the weights of a family's heads, without `.weight` and `.bias`.

    Parameters
    ----------
    table : word embeddings, which are the weight of a masked language model's last product
    transform, norm : dense layer and norm before that product
    decoder : that product, where embeddings are not tied
    bias : full name of its bias, where embeddings are tied
    pooled : dense layer of the first token, for sequence classification
    pooled_activation : after that dense layer
    sequence, token : last product of each classification
    """

    table: str
    transform: str
    norm: str
    decoder: str
    bias: str
    pooled: str
    pooled_activation: str
    sequence: str = "classifier"
    token: str = "classifier"

    def copies(self, config: EncoderConfig) -> dict[str, str]:
        """Return the tensors that a file may hold twice: name -> name of the one that is used."""
        if config.head != "masked language model":
            return {}
        weight, bias = f"{self.decoder}.weight", f"{self.decoder}.bias"
        found = {weight: f"{self.table}.weight", bias: self.bias} if config.tied else {}
        if not config.tied and bias != self.bias:
            found[self.bias] = bias
        return {name: used for name, used in found.items() if name != used}


def read_head(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head and the names of its classes, as fields of an `EncoderConfig`."""
    classes = document.get("architectures") or [""]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"architectures = {classes!r} is not a list of names")
    heads = (head for end, head in _CLASSES.items() if classes[0].endswith(end))
    return {"head": next(heads, ""), "id2label": class_names(document)}


def finish(
    p: ProgramBuilder,
    x: str,
    config: Any,
    ending: str,
    sentence: SentenceHead,
    weights: HeadWeights,
    activation: str,
    epsilon: float,
) -> Program:
    """Return an encoder's program up to "hidden" (states), "sentence" or "logits" (of its head).

    Parameters
    ----------
    x : hidden states [B, T, d]
    activation, epsilon : of the dense layer and the norm of a masked language model
    """
    if ending == "hidden":
        return p.build(x)
    if ending == "sentence":
        return p.build(sentence.write(p, x))
    if config.head == "masked language model":
        return p.build(_word_logits(p, x, config, weights, activation, epsilon))
    return p.build(_class_logits(p, x, config, weights))


def _word_logits(
    p: ProgramBuilder,
    x: str,
    config: Any,
    weights: HeadWeights,
    activation: str,
    epsilon: float,
) -> str:
    """Add dense layer, activation, norm and product of a masked language model: [B, T, V]."""
    layer = LayerWriter(p, "head", None)
    width = p.shape(x)[-1]({})
    x = layer.project("transform", "LM head", x, weights.transform, width, True)
    x = layer.activate("transform", x, activation)
    x = layer.norm("norm", x, weights.norm, epsilon)
    weight = weights.table if config.tied else weights.decoder
    bias = weights.bias if config.tied else f"{weights.decoder}.bias"
    logits = p.project("head", "LM head", x, f"{weight}.weight", config.vocabulary)
    return p.host("head.bias", "residual and bias", "add_bias", (logits,), weights={"bias": bias})


def _class_logits(p: ProgramBuilder, x: str, config: Any, weights: HeadWeights) -> str:
    """Add the classification of a sequence [B, classes], or of its tokens [B, T, classes]."""
    layer, name, flags = LayerWriter(p, "head", None), weights.token, {}
    if config.head == "sequence classification":
        width, name, function = p.shape(x)[-1], weights.sequence, weights.pooled_activation
        x = p.host("head.first", "layout", "first_row", (x,), (shape(BATCH, width),))
        x = layer.project("pooled", "classifier", x, weights.pooled, width({}), True)
        x = layer.activate("pooled", x, function)
        flags = {"non_negative": function in NON_NEGATIVE_ACTIVATIONS}
    return layer.project("classes", "classifier", x, name, len(config.names), True, **flags)
