"""Llama and its kin (Llama 2 and 3, Mistral, Qwen2, SmolLM2): RMS norm, rotary, gated MLP."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ..scheduler import BATCH, NEW, Program, shape
from .blocks import (
    FamilyConfig,
    LayerWriter,
    add_language_head,
    add_mask,
    begin,
    check_activation,
    check_heads,
)

TASK = "language"
PREFIX = "model."


class Config(FamilyConfig):
    """The keys of a Llama config.json that shape the computation."""

    vocabulary: int = Field(alias="vocab_size", ge=1)
    width: int = Field(alias="hidden_size", ge=1)
    layers: int = Field(alias="num_hidden_layers", ge=1)
    heads: int = Field(alias="num_attention_heads", ge=1)
    key_heads: int | None = Field(default=None, alias="num_key_value_heads", ge=1)
    head_width: int | None = Field(default=None, alias="head_dim", ge=1)
    inner: int = Field(alias="intermediate_size", ge=1)
    context: int = Field(alias="max_position_embeddings", ge=1)
    epsilon: float = Field(default=1e-6, alias="rms_norm_eps", gt=0)
    activation: Annotated[str, AfterValidator(check_activation)] = Field(
        default="silu", alias="hidden_act"
    )
    tied: bool = Field(default=False, alias="tie_word_embeddings")
    rotary_base: float = Field(default=1e4, gt=0, alias="rope_base")
    rotary_scaling: Mapping[str, Any] = Field(default_factory=dict)
    query_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    window: int = Field(default=0, ge=0, lt=2**31)


def read_config(document: Mapping[str, Any]) -> Config:
    """Check a config.json, in the spelling of transformers 4 or 5."""
    rope = document.get("rope_parameters") or document.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rotary scaling of type {kind!r} is unknown; known: linear, llama3")
    qwen = document.get("model_type") == "qwen2"
    if qwen and document.get("use_sliding_window", False):
        raise ValueError("use_sliding_window = true: a window on some layers only is not known")
    bias = bool(document.get("attention_bias", False))
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    needed = {"linear": keys[:1], "llama3": keys, "default": ()}[kind]
    for key in needed:
        if not isinstance(rope.get(key), int | float) or rope[key] <= 0:
            raise ValueError(f"rotary scaling {kind!r} wants {key} above 0, not {rope.get(key)!r}")
    scaling = {"scaling": kind} | {key: rope[key] for key in keys if key in rope}
    config = Config(
        **document,
        rope_base=rope.get("rope_theta", document.get("rope_theta", 1e4)),
        rotary_scaling={} if kind == "default" else scaling,
        query_bias=qwen or bias,
        output_bias=bias and not qwen,
        window=0 if qwen else document.get("sliding_window") or 0,
    )
    if config.head_width is None:
        check_heads(config.width, config.heads)
    key_heads = config.key_heads or config.heads
    if config.heads % key_heads:
        raise ValueError(f"{config.heads} query heads do not divide onto {key_heads} key heads")
    return config


def head_weight(config: Config) -> str:
    """Give the name of the LM head's weight."""
    return "embed_tokens.weight" if config.tied else "lm_head.weight"


def program(config: Config, ending: str) -> Program:
    """Write the forward pass; `ending` is "logits", "last" (token) or "features"."""
    key_heads = config.key_heads or config.heads
    head = config.head_width or config.width // config.heads
    p = begin()
    x = p.host(
        "embedding",
        "embedding",
        "embed",
        ("tokens", "past"),
        (shape(BATCH, NEW, config.width),),
        weights={"table": "embed_tokens.weight"},
        stored={"table": (config.vocabulary, config.width)},
    )
    add_mask(p, "tokens", causal=True, window=config.window)
    for i in range(config.layers):
        layer, at = LayerWriter(p, f"layer.{i}", config.activation_clip), f"layers.{i}"
        h = layer.norm("attention.norm", x, f"{at}.input_layernorm", config.epsilon, rms=True)
        h = layer.clipped("attention.qkv", h)
        split = {}
        for part, count in (("q", config.heads), ("k", key_heads), ("v", key_heads)):
            y = layer.project(
                f"attention.{part}",
                "QKV",
                h,
                f"{at}.self_attn.{part}_proj",
                count * head,
                config.query_bias,
            )
            split[part] = layer.heads(part, y, count, head)
        q, k = (
            p.host(
                f"{layer.name}.attention.{part}.rotary",
                "rotary",
                "rotary",
                (split[part], "past"),
                base=config.rotary_base,
                **config.rotary_scaling,
            )
            for part in ("q", "k")
        )
        mixed = layer.attend(q, k, split["v"], config.heads, key_heads, head, cached=True)
        mixed = layer.clipped("attention.output", mixed)
        output = f"{at}.self_attn.o_proj"
        h = layer.project(
            "attention.output", "output projection", mixed, output, config.width, False
        )
        x = layer.residual("attention", h, x, f"{output}.bias" if config.output_bias else None)

        h = layer.norm("mlp.norm", x, f"{at}.post_attention_layernorm", config.epsilon, rms=True)
        h = layer.clipped("mlp.up", h)
        gate, up = (
            layer.project(
                f"mlp.{part}", "MLP", h, f"{at}.mlp.{part}_proj", config.inner, config.mlp_bias
            )
            for part in ("gate", "up")
        )
        h = p.host(
            f"{layer.name}.mlp.activation",
            "activation",
            "gate",
            (gate, up),
            function=config.activation,
        )
        h = layer.clipped("mlp.down", h)
        down = f"{at}.mlp.down_proj"
        h = layer.project("mlp.down", "MLP", h, down, config.width, False)
        x = layer.residual("mlp", h, x, f"{down}.bias" if config.mlp_bias else None)
    x = LayerWriter(p, "head", None).norm("norm", x, "norm", config.epsilon, rms=True)
    return p.build(add_language_head(p, x, head_weight(config), config.vocabulary, ending))
