"""GPT-2: learned positions, pre-norm, fused QKV, tied LM head. Weights are stored as [K, M]."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...scheduler import Program
from ..config_keys import check_keys, own_names
from .blocks import (
    MOST_LAYERS,
    Activation,
    FamilyConfig,
    LayerWriter,
    add_embedding,
    add_language_head,
    add_mask,
    begin,
    check_heads,
)

TASK = "language"
PREFIX = "transformer."
BUFFERS = r"h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, as older files store it
OTHER_HEADS = r"(score|multiple_choice_head|classifier|qa_outputs|v_head)\..*"


class Config(FamilyConfig):
    """The keys of GPT-2's config.json that shape the computation."""

    vocabulary: int = Field(alias="vocab_size", ge=1)
    width: int = Field(alias="n_embd", ge=1)
    layers: int = Field(alias="n_layer", ge=1, le=MOST_LAYERS)
    heads: int = Field(alias="n_head", ge=1)
    inner: int | None = Field(default=None, alias="n_inner")
    context: int = Field(alias="n_positions", ge=1)
    epsilon: float = Field(default=1e-5, alias="layer_norm_epsilon", gt=0)
    activation: Activation = Field(default="gelu_new", alias="activation_function")
    tied: bool = Field(default=True, alias="tie_word_embeddings")
    is_scaled: bool = Field(default=True, alias="scale_attn_weights")
    is_scaled_by_layer: bool = Field(default=False, alias="scale_attn_by_inverse_layer_idx")

    def score_scale(self, layer: int) -> float:
        """Return the factor on q k^T in a layer."""
        scale = (self.width // self.heads) ** -0.5 if self.is_scaled else 1.0
        return scale / (layer + 1) if self.is_scaled_by_layer else scale


_OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_IGNORED = frozenset(
    "n_ctx reorder_and_upcast_attn summary_activation summary_proj_to_labels summary_type "
    "summary_use_proj".split()
)


def read_config(document: Mapping[str, Any]) -> Config:
    """Check a config.json."""
    document = own_names(document, _OTHER_NAMES)
    check_keys(document, Config, {"is_causal": True}, ignored=_IGNORED)
    config = Config(**document)
    check_heads(config.width, config.heads)
    return config


def head_weight(config: Config) -> str:
    """Return the name of the LM head's weight."""
    return "wte.weight" if config.tied else "lm_head.weight"


def program(config: Config, ending: str) -> Program:
    """Write the forward pass; `ending` is "logits", "last" (token) or "features"."""
    p = begin()
    table, positions = ("wte.weight", config.vocabulary), ("wpe.weight", config.context)
    x = add_embedding(p, config.width, table=table, positions=positions)
    add_mask(p, "tokens", causal=True)
    for i in range(config.layers):
        layer, at = LayerWriter(p, f"layer.{i}", config.activation_clip), f"h.{i}"
        x = _attention(config, layer, at, x, config.score_scale(i))
        x = _mlp(config, layer, at, x)
    x = LayerWriter(p, "head", None).norm("norm", x, "ln_f", config.epsilon)
    return p.build(add_language_head(p, x, head_weight(config), config.vocabulary, ending))


def _attention(config: Config, layer: LayerWriter, at: str, x: str, scale: float) -> str:
    """Add norm, self-attention with the weights at a prefix, and residual."""
    width, head = config.width, config.width // config.heads
    h = layer.norm("attention.norm", x, f"{at}.ln_1", config.epsilon)
    h = layer.clipped("attention.qkv", h)
    qkv = layer.project(
        "attention.qkv", "QKV", h, f"{at}.attn.c_attn", 3 * width, True, transposed=True
    )
    q, k, v = (
        layer.heads(part, qkv, config.heads, head, first=place * width)
        for place, part in enumerate(("q", "k", "v"))
    )
    mixed = layer.attend(q, k, v, config.heads, config.heads, head, cached=True, scale=scale)
    return layer.attention_output(mixed, x, f"{at}.attn.c_proj", transposed=True)


def _mlp(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add norm, MLP with the weights at a prefix, and residual."""
    inner = config.inner or 4 * config.width
    h = layer.norm("mlp.norm", x, f"{at}.ln_2", config.epsilon)
    up, down = f"{at}.mlp.c_fc", f"{at}.mlp.c_proj"
    return layer.mlp(h, x, up, down, inner, config.activation, transposed=True)
