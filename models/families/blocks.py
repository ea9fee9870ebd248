"""Parts of a Transformer layer that the families share, as steps of a program."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ...instruments import InputError
from ...scheduler import BATCH, NEW, PAST, Program, ProgramBuilder, shape
from ...scheduler.host_steps import ACTIVATIONS, NON_NEGATIVE_ACTIVATIONS

SCORES_MASK = "attention.mask"
MOST_LAYERS = 10_000  # a program of more layers would take over a minute to write


class FamilyConfig(BaseModel):
    """The base of a family's configuration, read from a config.json; unknown keys are ignored.

    `activation_clip` together with `hidden_act = "relu6"` is the optical variant of the published
    experiment: activations are clipped to +-clip before every projection.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, strict=True)

    activation_clip: float | None = Field(default=None, gt=0)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            given = "is missing" if first["type"] == "missing" else f"= {first['input']!r}"
            raise InputError(f"configuration: {key} {given}: {first['msg']}") from None


def _registered(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation; known: {', '.join(sorted(ACTIVATIONS))}")
    return name


Activation = Annotated[str, AfterValidator(_registered)]
"""The name of a registered activation function."""


def check_heads(width: int, heads: int) -> None:
    """Check that a width divides into heads.

    Raises
    ------
    ValueError : when it does not
    """
    if width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads")


class LayerWriter:
    """Writes the steps of one layer; `name` is its prefix in the program ("layer.3")."""

    def __init__(self, program: ProgramBuilder, name: str, clip: float | None) -> None:
        self.program = program
        self.name = name
        self.clip = clip

    def norm(self, part: str, x: str, weight: str, epsilon: float, *, rms: bool = False) -> str:
        """Add a layer norm (its weights are `weight`.weight and `weight`.bias), or an RMS norm."""
        weights = {"weight": f"{weight}.weight"}
        if not rms:
            weights["bias"] = f"{weight}.bias"
        step = "rms_norm" if rms else "layer_norm"
        name = f"{self.name}.{part}"
        return self.program.host(name, "norm", step, (x,), weights=weights, epsilon=epsilon)

    def clipped(self, part: str, x: str) -> str:
        """Clip activations if the configuration asks for it (the optical variant)."""
        if self.clip is None:
            return x
        name = f"{self.name}.{part}.clip"
        return self.program.host(name, "activation", "clip", (x,), limit=self.clip)

    def project(
        self, part: str, kind: str, x: str, weight: str, outputs: int, bias: bool, **flags: Any
    ) -> str:
        """Add a product with a static weight, and its bias."""
        name = f"{self.name}.{part}"
        y = self.program.project(name, kind, x, f"{weight}.weight", outputs, **flags)
        if not bias:
            return y
        weights = {"bias": f"{weight}.bias"}
        return self.program.host(
            f"{name}.bias", "residual and bias", "add_bias", (y,), weights=weights
        )

    def residual(self, part: str, x: str, stream: str, bias: str | None = None) -> str:
        """Add a product and its bias to the residual stream."""
        weights = {} if bias is None else {"bias": bias}
        name = f"{self.name}.{part}.residual"
        inputs = (x, stream)
        return self.program.host(name, "residual and bias", "add_residual", inputs, weights=weights)

    def activate(self, part: str, x: str, function: str) -> str:
        """Add an activation function."""
        name = f"{self.name}.{part}.activation"
        return self.program.host(name, "activation", "activate", (x,), function=function)

    def mlp(
        self, x: str, stream: str, up: str, down: str, inner: int, function: str, **flags: Any
    ) -> str:
        """Add an MLP of two products, and its residual.

        Parameters
        ----------
        up, down : names of the weights
        inner : outputs of the first; the second has the width of the stream
        function : activation between them
        """
        width = self.program.shape(stream)[-1]({})
        h = self.clipped("mlp.up", x)
        h = self.project("mlp.up", "MLP", h, up, inner, True, **flags)
        h = self.activate("mlp", h, function)
        h = self.clipped("mlp.down", h)
        flags = {**flags, "non_negative": function in NON_NEGATIVE_ACTIVATIONS}
        h = self.project("mlp.down", "MLP", h, down, width, False, **flags)
        return self.residual("mlp", h, stream, f"{down}.bias")

    def encoder_attention(
        self, x: str, stream: str, weights: Sequence[str], output: str, heads: int, bias: bool
    ) -> str:
        """Add the self-attention of an encoder, and its residual.

        Parameters
        ----------
        weights, output : names of the weights of queries, keys and values, and of the output
        bias : whether queries, keys and values have one
        """
        width = self.program.shape(stream)[-1]({}) // heads
        x = self.clipped("attention.qkv", x)
        q, k, v = (
            self.projected_heads(part, x, weight, bias, heads, width)
            for part, weight in zip("qkv", weights, strict=True)
        )
        mixed = self.attend(q, k, v, heads, heads, width, cached=False)
        return self.attention_output(mixed, stream, output)

    def projected_heads(
        self, part: str, x: str, weight: str, bias: bool, heads: int, width: int
    ) -> str:
        """Add queries, keys or values [B, heads, T, width] with a product of their own."""
        y = self.project(f"attention.{part}", "QKV", x, weight, heads * width, bias)
        return self.heads(part, y, heads, width)

    def attention_output(
        self, mixed: str, stream: str, weight: str, *, bias: bool = True, **flags: Any
    ) -> str:
        """Add the output projection of an attention, and its residual."""
        width = self.program.shape(stream)[-1]({})
        mixed = self.clipped("attention.output", mixed)
        h = self.project(
            "attention.output", "output projection", mixed, weight, width, False, **flags
        )
        return self.residual("attention", h, stream, f"{weight}.bias" if bias else None)

    def heads(self, part: str, x: str, heads: int, width: int, first: int = 0) -> str:
        """Split columns of x [B, T, d] into heads [B, heads, T, width]."""
        return self.program.host(
            f"{self.name}.attention.{part}.heads",
            "layout",
            "split_heads",
            (x,),
            (shape(BATCH, heads, NEW, width),),
            heads=heads,
            first=first,
            width=heads * width,
        )

    def attend(
        self,
        q: str,
        k: str,
        v: str,
        heads: int,
        key_heads: int,
        width: int,
        *,
        cached: bool,
        scale: float | None = None,
    ) -> str:
        """Add softmax(scale q k^T) v for heads [B, H, T, width]: [B, T, H width].

        Parameters
        ----------
        scale : None is 1 / sqrt(width)
        """
        p, name, groups = self.program, f"{self.name}.attention", heads // key_heads
        if cached:
            k, v = (self._with_past(part, x) for part, x in (("keys", k), ("values", v)))
        tokens = p.shape(k)[2]
        if groups > 1:
            rows = shape(BATCH, key_heads, groups * NEW, width)
            q = p.host(
                f"{name}.groups", "layout", "group_queries", (q,), (rows,), key_heads=key_heads
            )
        keys, kept = (f"{self.name}.{part}" if cached else None for part in ("keys", "values"))
        scores = p.multiply(
            f"{name}.qk", "QK^T", q, k, valid=SCORES_MASK, groups=groups, state=keys
        )
        weights = p.host(
            f"{name}.softmax",
            "softmax",
            "softmax",
            (scores, SCORES_MASK),
            scale=width**-0.5 if scale is None else scale,
            groups=groups,
        )
        transposed = (shape(BATCH, key_heads, width, tokens),)
        values = p.host(f"{name}.values.transposed", "layout", "transpose", (v,), transposed)
        mixed = p.multiply(
            f"{name}.av",
            "attention x V",
            weights,
            values,
            non_negative=True,
            groups=groups,
            state=kept,
        )
        merged = (shape(BATCH, NEW, heads * width),)
        return p.host(f"{name}.merge", "layout", "merge_heads", (mixed,), merged, groups=groups)

    def _with_past(self, part: str, x: str) -> str:
        """Append keys or values to those of past tokens."""
        batch, heads, _, width = self.program.shape(x)
        all_tokens = shape(batch, heads, PAST + NEW, width)
        state = self.program.state(f"{self.name}.{part}", all_tokens)
        name = f"{self.name}.attention.{part}.all"
        return self.program.host(name, "layout", "append_state", (x, state), (all_tokens,))


def begin(*, images: tuple[int, ...] | None = None) -> ProgramBuilder:
    """Begin a program over tokens [B, T], or over images [B, C, H, W] or vectors [B, K]."""
    p = ProgramBuilder()
    if images is None:
        p.input("tokens", shape(BATCH, NEW))
    else:
        p.input("images", shape(BATCH, *images))
    p.input("lengths", shape(BATCH))
    p.input("past", ())
    return p


def add_embedding(
    p: ProgramBuilder, width: int, padding: int | None = None, **tables: tuple[str, int]
) -> str:
    """Add the sum of tokens' rows of tables, each (weight, number of rows): [B, T, width].

    Parameters
    ----------
    padding : token after whose number positions begin, and which has none; None: they begin at 0
    """
    parameters: dict[str, Any] = {} if padding is None else {"padding": padding}
    return p.host(
        "embedding",
        "embedding",
        "embed",
        ("tokens", "past"),
        (shape(BATCH, NEW, width),),
        weights={key: weight for key, (weight, _) in tables.items()},
        stored={key: (rows, width) for key, (_, rows) in tables.items()},
        **parameters,
    )


def add_mask(p: ProgramBuilder, x: str, *, causal: bool, window: int = 0) -> None:
    """Add the attention mask that all layers share."""
    p.host(
        SCORES_MASK,
        "softmax",
        "attention_mask",
        (x, "lengths", "past"),
        (shape(BATCH, 1, NEW, PAST + NEW),),
        causal=causal,
        window=window,
    )


def add_language_head(p: ProgramBuilder, x: str, weight: str, vocabulary: int, ending: str) -> str:
    """Add the LM head: logits of all tokens ("logits") or of the last one ("last").

    With the ending "features" the head is part of `loss_program`.
    """
    if ending == "features":
        return x
    if ending == "last":
        width = p.shape(x)[-1]
        x = p.host("head.last", "layout", "last_row", (x,), (shape(BATCH, 1, width),))
    return p.project("head", "LM head", x, weight, vocabulary)


def loss_program(width: int, weight: str, vocabulary: int) -> Program:
    """Write the loss of every following token [B, T] from features [B, T, d].

    It is a program of its own, so that it can run on a few tokens at a time, since logits are
    large.
    """
    p = ProgramBuilder()
    x = p.input("features", shape(BATCH, NEW, width))
    p.input("following", shape(BATCH, NEW))
    logits = p.project("head", "LM head", x, weight, vocabulary)
    return p.build(
        p.host("head.loss", "sampling", "token_loss", (logits, "following"), (shape(BATCH, NEW),))
    )
