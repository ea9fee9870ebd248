"""DistilBERT: BERT with fewer layers, without token types, under other names."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...scheduler import Program
from ..config_keys import check_keys, own_names
from ..sentence import SentenceHead
from .blocks import (
    MOST_LAYERS,
    Activation,
    LayerWriter,
    add_embedding,
    add_mask,
    begin,
    check_heads,
)
from .heads import EncoderConfig, HeadWeights, finish, read_head

TASK = "encoder"
PREFIX = "distilbert."
BUFFERS = r"embeddings\.position_ids"
OTHER_HEADS = r"(vocab_\w+|pre_classifier|classifier|qa_outputs)\..*"
HEADS = HeadWeights(
    table="embeddings.word_embeddings",
    transform="vocab_transform",
    norm="vocab_layer_norm",
    decoder="vocab_projector",
    bias="vocab_projector.bias",
    pooled="pre_classifier",
    pooled_activation="relu",
)
_EPSILON = 1e-12  # of all its norms


class Config(EncoderConfig):
    """The keys of DistilBERT's config.json that shape the computation."""

    vocabulary: int = Field(default=30522, alias="vocab_size", ge=1)
    width: int = Field(default=768, alias="dim", ge=1)
    layers: int = Field(default=6, alias="n_layers", ge=1, le=MOST_LAYERS)
    heads: int = Field(default=12, alias="n_heads", ge=1)
    inner: int = Field(default=3072, alias="hidden_dim", ge=1)
    context: int = Field(default=512, alias="max_position_embeddings", ge=1)
    activation: Activation = Field(default="gelu", alias="activation")


_IGNORED = frozenset({"sinusoidal_pos_embds", "tie_weights_"})  # positions are in the weights
_OTHER_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
}


def read_config(document: Mapping[str, Any]) -> Config:
    """Check a config.json."""
    document = own_names(document, _OTHER_NAMES)
    check_keys(document, Config, {}, _IGNORED)
    config = Config(**{**document, **read_head(document)})
    check_heads(config.width, config.heads)
    return config


def program(config: Config, ending: str, sentence: SentenceHead) -> Program:
    """Write the forward pass; `ending` is "hidden" (states), "sentence" or "logits"."""
    p = begin()
    x = add_embedding(
        p,
        config.width,
        table=("embeddings.word_embeddings.weight", config.vocabulary),
        positions=("embeddings.position_embeddings.weight", config.context),
    )
    x = LayerWriter(p, "embedding", None).norm("norm", x, "embeddings.LayerNorm", _EPSILON)
    add_mask(p, "tokens", causal=False)
    for i in range(config.layers):
        layer, at = LayerWriter(p, f"layer.{i}", config.activation_clip), f"transformer.layer.{i}"
        weights = [f"{at}.attention.{part}_lin" for part in "qkv"]
        h = layer.encoder_attention(x, x, weights, f"{at}.attention.out_lin", config.heads, True)
        x = layer.norm("attention.norm", h, f"{at}.sa_layer_norm", _EPSILON)
        h = layer.mlp(x, x, f"{at}.ffn.lin1", f"{at}.ffn.lin2", config.inner, config.activation)
        x = layer.norm("mlp.norm", h, f"{at}.output_layer_norm", _EPSILON)
    return finish(p, x, config, ending, sentence, HEADS, config.activation, _EPSILON)
