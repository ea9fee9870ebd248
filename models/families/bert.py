"""BERT: an encoder with post-norm layers; also MiniLM and other sentence encoders."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...scheduler import Program, ProgramBuilder
from ..config_keys import check_keys
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
PREFIX = "bert."
BUFFERS = r"embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias)"
OTHER_HEADS = r"(cls|classifier|qa_outputs|lm_head)\..*"
HEADS = HeadWeights(
    table="embeddings.word_embeddings",
    transform="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder",
    bias="cls.predictions.bias",
    pooled="pooler.dense",
    pooled_activation="tanh",
)


class Config(EncoderConfig):
    """The keys of BERT's config.json that shape the computation."""

    vocabulary: int = Field(alias="vocab_size", ge=1)
    width: int = Field(alias="hidden_size", ge=1)
    layers: int = Field(alias="num_hidden_layers", ge=1, le=MOST_LAYERS)
    heads: int = Field(alias="num_attention_heads", ge=1)
    inner: int = Field(alias="intermediate_size", ge=1)
    positions: int = Field(alias="max_position_embeddings", ge=1)
    types: int = Field(default=2, alias="type_vocab_size", ge=1)
    epsilon: float = Field(default=1e-12, alias="layer_norm_eps", gt=0)
    activation: Activation = Field(default="gelu", alias="hidden_act")
    is_causal: bool = Field(default=False, alias="is_decoder")

    @property
    def context(self) -> int:
        """The maximum number of tokens."""
        return self.positions


_COMPUTED_ONLY = {"position_embedding_type": "absolute", "directionality": "bidi"}
_IGNORED = frozenset(
    "pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head "
    "pooler_type".split()
)


def read_config(document: Mapping[str, Any], kind: type[Config] = Config) -> Config:
    """Check a config.json; `kind` is the configuration of a family with the same keys."""
    only = _COMPUTED_ONLY | ({"is_causal": True} if document.get("is_decoder") else {})
    check_keys(document, kind, only, _IGNORED | {"is_causal"} - only.keys())
    config = kind(**{**document, **read_head(document)})
    check_heads(config.width, config.heads)
    return config


def program(config: Config, ending: str, sentence: SentenceHead) -> Program:
    """Write the forward pass; `ending` is "hidden" (states), "sentence" or "logits"."""
    p = begin()
    x = encoded(config, p)
    return finish(p, x, config, ending, sentence, HEADS, config.activation, config.epsilon)


def encoded(config: Config, p: ProgramBuilder, padding: int | None = None) -> str:
    """Add the embedding and all layers: hidden states [B, T, d].

    Parameters
    ----------
    padding : as for `add_embedding`
    """
    x = add_embedding(
        p,
        config.width,
        padding,
        table=("embeddings.word_embeddings.weight", config.vocabulary),
        positions=("embeddings.position_embeddings.weight", config.positions),
        types=("embeddings.token_type_embeddings.weight", config.types),
    )
    norm = LayerWriter(p, "embedding", None).norm
    x = norm("norm", x, "embeddings.LayerNorm", config.epsilon)
    add_mask(p, "tokens", causal=config.is_causal)
    for i in range(config.layers):
        layer, at = LayerWriter(p, f"layer.{i}", config.activation_clip), f"encoder.layer.{i}"
        x = _attention(config, layer, at, x)
        x = _mlp(config, layer, at, x)
    return x


def _attention(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add self-attention with the weights at a prefix, its residual and its norm."""
    weights = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
    output = f"{at}.attention.output"
    h = layer.encoder_attention(x, x, weights, f"{output}.dense", config.heads, True)
    return layer.norm("attention.norm", h, f"{output}.LayerNorm", config.epsilon)


def _mlp(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add the MLP with the weights at a prefix, its residual and its norm."""
    up, down = f"{at}.intermediate.dense", f"{at}.output.dense"
    h = layer.mlp(x, x, up, down, config.inner, config.activation)
    return layer.norm("mlp.norm", h, f"{at}.output.LayerNorm", config.epsilon)
