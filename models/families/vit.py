"""ViT: images cut into patches, a class token, pre-norm layers, a linear classifier."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...scheduler import BATCH, NEW, Program, ProgramBuilder, shape
from ..config_keys import check_keys, class_names
from .blocks import (
    MOST_LAYERS,
    Activation,
    FamilyConfig,
    LayerWriter,
    add_mask,
    begin,
    check_heads,
)

TASK = "vision"
PREFIX = "vit."
BUFFERS = r"pooler\.dense\.(weight|bias)|embeddings\.mask_token"
OTHER_HEADS = r"decoder\..*"


class Config(FamilyConfig):
    """The keys of ViT's config.json that shape the computation."""

    width: int = Field(alias="hidden_size", ge=1)
    layers: int = Field(alias="num_hidden_layers", ge=1, le=MOST_LAYERS)
    heads: int = Field(alias="num_attention_heads", ge=1)
    inner: int = Field(alias="intermediate_size", ge=1)
    image: int = Field(alias="image_size", ge=1)
    patch: int = Field(alias="patch_size", ge=1)
    channels: int = Field(default=3, alias="num_channels", ge=1)
    epsilon: float = Field(default=1e-12, alias="layer_norm_eps", gt=0)
    activation: Activation = Field(default="gelu", alias="hidden_act")
    bias: bool = Field(default=True, alias="qkv_bias")
    names: Mapping[str, str] = Field(alias="id2label", min_length=1)

    @property
    def image_shape(self) -> list[int]:
        """Channels, height and width of an image."""
        return [self.channels, self.image, self.image]

    @property
    def context(self) -> int:
        """Tokens of one image: its patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


_IGNORED = frozenset("encoder_stride pooler_act pooler_output_size tie_word_embeddings".split())


def read_config(document: Mapping[str, Any]) -> Config:
    """Check a config.json."""
    check_keys(document, Config, {}, _IGNORED)
    document = {key: _side(key, value) for key, value in document.items()}
    config = Config(**{**document, "id2label": class_names(document)})
    check_heads(config.width, config.heads)
    if config.image % config.patch:
        raise ValueError(
            f"image_size = {config.image} does not divide into patches of {config.patch}"
        )
    return config


def _side(key: str, value: Any) -> Any:
    """Return the side of a square that may be written as two equal sides."""
    is_pair = key in ("image_size", "patch_size") and isinstance(value, list) and len(value) == 2
    return value[0] if is_pair and value[0] == value[1] else value


def program(config: Config, ending: str) -> Program:
    """Write the forward pass; `ending` is "logits"."""
    p = begin(images=tuple(config.image_shape))
    x = _embedding(config, p)
    add_mask(p, x, causal=False)
    for i in range(config.layers):
        layer, at = LayerWriter(p, f"layer.{i}", config.activation_clip), f"encoder.layer.{i}"
        x = _attention(config, layer, at, x)
        x = _mlp(config, layer, at, x)
    x = p.host("head.first", "layout", "first_row", (x,), (shape(BATCH, config.width),))
    x = LayerWriter(p, "head", None).norm("norm", x, "layernorm", config.epsilon)
    logits = p.project("head", "classifier", x, "classifier.weight", len(config.names))
    bias = {"bias": "classifier.bias"}
    return p.build(p.host("head.bias", "residual and bias", "add_bias", (logits,), weights=bias))


def _embedding(config: Config, p: ProgramBuilder) -> str:
    """Add the projection of patches, the class token and the positions."""
    width = config.width
    patches = shape(BATCH, config.context - 1, config.channels * config.patch**2)
    x = p.host("patches", "layout", "patches", ("images",), (patches,), size=config.patch)
    weight = "embeddings.patch_embeddings.projection"
    stored = (width, config.channels, config.patch, config.patch)
    x = p.project("embedding.patches", "patch embedding", x, f"{weight}.weight", width, stored)
    return p.host(
        "embedding",
        "embedding",
        "embed_patches",
        (x,),
        (shape(BATCH, NEW, width),),
        weights={
            "bias": f"{weight}.bias",
            "token": "embeddings.cls_token",
            "positions": "embeddings.position_embeddings",
        },
        stored={"token": (1, 1, width), "positions": (1, config.context, width)},
    )


def _attention(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add norm, self-attention with the weights at a prefix, and residual."""
    h = layer.norm("attention.norm", x, f"{at}.layernorm_before", config.epsilon)
    weights = [f"{at}.attention.attention.{part}" for part in ("query", "key", "value")]
    output = f"{at}.attention.output.dense"
    return layer.encoder_attention(h, x, weights, output, config.heads, config.bias)


def _mlp(config: Config, layer: LayerWriter, at: str, x: str) -> str:
    """Add norm, MLP with the weights at a prefix, and residual."""
    h = layer.norm("mlp.norm", x, f"{at}.layernorm_after", config.epsilon)
    up, down = f"{at}.intermediate.dense", f"{at}.output.dense"
    return layer.mlp(h, x, up, down, config.inner, config.activation)
