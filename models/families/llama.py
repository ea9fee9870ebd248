"""Llama, Mistral, Qwen2, Qwen3, SmolLM2 and others: RMS norm, rotary positions, gated MLP."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...scheduler import Program
from ..config_keys import check_keys
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
PREFIX = "model."
BUFFERS = r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|layers\.\d+\.attn_rot_embd\.weight"
OTHER_HEADS = r"(score|qa_outputs|classifier|v_head)\..*"


class Config(FamilyConfig):
    """The keys of a Llama config.json that shape the computation."""

    vocabulary: int = Field(alias="vocab_size", ge=1)
    width: int = Field(alias="hidden_size", ge=1)
    layers: int = Field(alias="num_hidden_layers", ge=1, le=MOST_LAYERS)
    heads: int = Field(alias="num_attention_heads", ge=1)
    key_heads: int | None = Field(default=None, alias="num_key_value_heads", ge=1)
    head_width: int | None = Field(default=None, alias="head_dim", ge=1)
    inner: int = Field(alias="intermediate_size", ge=1)
    context: int = Field(alias="max_position_embeddings", ge=1)
    epsilon: float = Field(default=1e-6, alias="rms_norm_eps", gt=0)
    activation: Activation = Field(default="silu", alias="hidden_act")
    tied: bool = Field(default=False, alias="tie_word_embeddings")
    rotary_base: float = Field(default=1e4, gt=0)
    rotary_scaling: Mapping[str, Any] = Field(default_factory=dict)
    has_rotary_factors: bool = False
    biases: frozenset[str] = frozenset()  # of the projections q, k, v, o, gate, up, down
    window: int = Field(default=0, ge=0, lt=2**31)
    has_head_norms: bool = False  # of the queries and keys of each head


_QWEN2_BIASES = frozenset("qkv")
# defaults of config.json; others have as many key heads as heads, and heads that share the width
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
_MISTRAL_WINDOW = 4096  # default of config.json
_READ = frozenset(
    "attention_bias mlp_bias rope_parameters rope_scaling rope_theta sliding_window "
    "use_sliding_window layer_types".split()
)
_ROPE_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_config(
    document: Mapping[str, Any],
    biases: frozenset[str] | None = None,
    has_rotary_factors: bool = False,
) -> Config:
    """Check a config.json, with the keys of transformers 4 or 5.

    Parameters
    ----------
    biases, has_rotary_factors : from the weights, where config.json has no key for them (GGUF)
    """
    check_keys(
        document,
        Config,
        {"partial_rotary_factor": 1.0, "is_causal": True},
        ignored=frozenset({"max_window_layers"}),
        read=_READ,
    )
    kind = document.get("model_type", "llama")
    document = {**_DEFAULTS.get(kind, {}), **document}
    base, scaling = _rotary(document)
    config = Config(
        **document,
        rotary_base=base,
        rotary_scaling=scaling,
        has_rotary_factors=has_rotary_factors,
        biases=_biases(document, kind) if biases is None else biases,
        window=_window(document, kind),
        has_head_norms=kind == "qwen3",
    )
    if config.head_width is None:
        check_heads(config.width, config.heads)
    key_heads = config.key_heads or config.heads
    if config.heads % key_heads:
        raise ValueError(f"{config.heads} query heads do not divide onto {key_heads} key heads")
    return config


def _rotary(document: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return base and scaling of the rotary positions."""
    given = [document[key] for key in ("rope_scaling", "rope_parameters") if document.get(key)]
    if len(given) == 2 and given[0] != given[1]:
        raise ValueError("rope_scaling and rope_parameters differ; remove the wrong one")
    rope = given[0] if given else {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"rope_scaling or rope_parameters = {rope!r} is not an object of settings")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "llama3" and rope.get("original_max_position_embeddings") is None:
        context = document.get("max_position_embeddings")
        rope = {**rope, "original_max_position_embeddings": context}
    kinds = {"linear": _ROPE_KEYS[:1], "llama3": _ROPE_KEYS, "default": ()}
    needed = kinds.get(kind) if isinstance(kind, str) else None
    if needed is None:
        raise ValueError(f"rotary scaling of type {kind!r} is unknown; known: linear, llama3")
    for key in needed:
        if not isinstance(rope.get(key), int | float) or rope[key] <= 0:
            raise ValueError(f"rotary scaling {kind!r} needs {key} above 0, not {rope.get(key)!r}")
    only = {"partial_rotary_factor": 1.0, "attention_factor": 1.0}
    for key, value in rope.items():
        known = (*_ROPE_KEYS, "rope_type", "type", "rope_theta", "finetuned")
        if key not in known and value not in (None, False, only.get(key)):
            raise ValueError(f"rotary {key} = {value!r} is not computed by lightloom")
    base = rope.get("rope_theta", document.get("rope_theta", 1e4))
    scaling = {"scaling": kind} | {key: rope[key] for key in _ROPE_KEYS if key in rope}
    return base, {} if kind == "default" else scaling


def _biases(document: Mapping[str, Any], kind: str) -> frozenset[str]:
    """Return the projections that have a bias in transformers."""
    if kind == "qwen2":
        return _QWEN2_BIASES
    found: set[str] = set()
    keys = {"attention_bias": ("q k v o", "llama qwen3"), "mlp_bias": ("gate up down", "llama")}
    for key, (parts, kinds) in keys.items():
        if document.get(key):
            if kind not in kinds.split():
                raise ValueError(f"{key} = true: a model of type {kind!r} has no such bias")
            found |= set(parts.split())
    return frozenset(found)


def _window(document: Mapping[str, Any], kind: str) -> Any:
    """Return the length of the attention window in tokens; 0 is without limit."""
    for key, usual in (("use_sliding_window", False), ("layer_types", {"full_attention"})):
        value = document.get(key)
        if value and (set(value) if isinstance(value, list) else value) != usual:
            raise ValueError(f"{key} = {value!r}: a window on some layers is not computed")
    if kind == "mistral":
        return document.get("sliding_window", _MISTRAL_WINDOW) or 0
    if document.get("sliding_window") and kind not in ("qwen2", "qwen3"):
        raise ValueError(
            f"sliding_window = {document['sliding_window']!r}: a model of type {kind!r} has none"
        )
    return 0


def head_weight(config: Config) -> str:
    """Return the name of the LM head's weight."""
    return "embed_tokens.weight" if config.tied else "lm_head.weight"


def program(config: Config, ending: str) -> Program:
    """Write the forward pass; `ending` is "logits", "last" (token) or "features"."""
    p = begin()
    x = add_embedding(p, config.width, table=("embed_tokens.weight", config.vocabulary))
    add_mask(p, "tokens", causal=True, window=config.window)
    for i in range(config.layers):
        layer, at = LayerWriter(p, f"layer.{i}", config.activation_clip), f"layers.{i}"
        x = _attention(config, layer, at, x)
        x = _mlp(config, layer, at, x)
    x = LayerWriter(p, "head", None).norm("norm", x, "norm", config.epsilon, rms=True)
    return p.build(add_language_head(p, x, head_weight(config), config.vocabulary, ending))


def _attention(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add norm, self-attention with the weights at a prefix, and residual."""
    key_heads = config.key_heads or config.heads
    head, epsilon = config.head_width or config.width // config.heads, config.epsilon
    h = layer.norm("attention.norm", x, f"{at}.input_layernorm", epsilon, rms=True)
    h = layer.clipped("attention.qkv", h)
    q, k, v = (
        layer.projected_heads(
            part, h, f"{at}.self_attn.{part}_proj", part in config.biases, count, head
        )
        for part, count in (("q", config.heads), ("k", key_heads), ("v", key_heads))
    )
    if config.has_head_norms:
        q, k = (
            layer.norm(
                f"attention.{part}.norm", x, f"{at}.self_attn.{part}_norm", epsilon, rms=True
            )
            for part, x in (("q", q), ("k", k))
        )
    q, k = (_rotated(config, layer, part, x, head) for part, x in (("q", q), ("k", k)))
    mixed = layer.attend(q, k, v, config.heads, key_heads, head, cached=True)
    return layer.attention_output(mixed, x, f"{at}.self_attn.o_proj", bias="o" in config.biases)


def _rotated(config: Config, layer: LayerWriter, part: str, x: str, head: int) -> str:
    """Add the rotary embedding of queries or keys."""
    return layer.program.host(
        f"{layer.name}.attention.{part}.rotary",
        "rotary",
        "rotary",
        (x, "past"),
        base=config.rotary_base,
        weights={"factors": "rope_freqs.weight"} if config.has_rotary_factors else {},
        stored={"factors": (head // 2,)},
        **config.rotary_scaling,
    )


def _mlp(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add norm, gated MLP with the weights at a prefix, and residual."""
    h = layer.norm("mlp.norm", x, f"{at}.post_attention_layernorm", config.epsilon, rms=True)
    h = layer.clipped("mlp.up", h)
    gate, up = (
        layer.project(
            f"mlp.{part}", "MLP", h, f"{at}.mlp.{part}_proj", config.inner, part in config.biases
        )
        for part in ("gate", "up")
    )
    h = layer.program.host(
        f"{layer.name}.mlp.activation", "activation", "gate", (gate, up), function=config.activation
    )
    h = layer.clipped("mlp.down", h)
    down = f"{at}.mlp.down_proj"
    h = layer.project("mlp.down", "MLP", h, down, config.width, False)
    return layer.residual("mlp", h, x, f"{down}.bias" if "down" in config.biases else None)
