"""`Program`: the ordered steps of a model as data, with named operands.

It can be printed, timed without hardware, run, and recorded, since it holds no closure: an optical
matmul names its operands, a host step names a registered function (`host_steps`) and its
parameters. A family's module (lightloom.models) writes one with `ProgramBuilder`. Its sizes are
symbolic (`Size`), so that one program serves any batch, new tokens and past tokens.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any


@dataclass(frozen=True)
class Size:
    """A sum of products of symbols, such as `past + new` or `3 * new`; immutable.

    Parameters
    ----------
    terms : ((coefficient, (symbol, ...)), ...), sorted
    """

    terms: tuple[tuple[int, tuple[str, ...]], ...]

    @classmethod
    def of(cls, value: int | str | Size) -> Size:
        """Return the size of a number, or of the name of a symbol."""
        if isinstance(value, Size):
            return value
        return cls(((1, (value,)),)) if isinstance(value, str) else cls(((value, ()),))

    def __add__(self, other: int | Size) -> Size:
        total: dict[tuple[str, ...], int] = {}
        for coefficient, symbols in (*self.terms, *Size.of(other).terms):
            total[symbols] = total.get(symbols, 0) + coefficient
        return Size(tuple((c, s) for s, c in sorted(total.items()) if c))

    def __mul__(self, other: int | Size) -> Size:
        result = Size(())
        for c1, s1 in self.terms:
            for c2, s2 in Size.of(other).terms:
                result = result + Size(((c1 * c2, tuple(sorted(s1 + s2))),))
        return result

    __radd__ = __add__
    __rmul__ = __mul__

    @property
    def is_fixed(self) -> bool:
        """Whether the size is a plain number."""
        return not any(symbols for _, symbols in self.terms)

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Return the number for given values of the symbols."""
        total = 0
        for coefficient, symbols in self.terms:
            for symbol in symbols:
                coefficient *= sizes[symbol]
            total += coefficient
        return total

    def __str__(self) -> str:
        parts = [
            "*".join(([str(c)] if c != 1 or not symbols else []) + list(symbols))
            for c, symbols in self.terms
        ]
        return " + ".join(parts) or "0"


BATCH, NEW, PAST = Size.of("batch"), Size.of("new"), Size.of("past")

Shape = tuple[Size, ...]
Sizes = Mapping[str, int]
"""The number of each symbol: batch, new and past tokens."""


def shape(*sizes: int | Size) -> Shape:
    """Return a symbolic shape."""
    return tuple(Size.of(size) for size in sizes)


def evaluate(symbolic: Shape, sizes: Sizes) -> tuple[int, ...]:
    """Return the numbers of a symbolic shape."""
    return tuple(size(sizes) for size in symbolic)


_LAYER = re.compile(r"(?:^|(?<=\.))(?:block|blocks|h|layer|layers)\.(\d+)(?:\.|$)")


@cache
def layer_of(name: str) -> int | None:
    """Return the layer of a step or operand, from its name: 3 for "layer.3.attention.qk"."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def without_layer(name: str) -> str:
    """Return a step's name without its layer: "layer.3.attention.qk" is "attention.qk"."""
    return _LAYER.sub("", name, count=1)


MATMUL_KINDS = (
    "patch embedding",
    "QKV",
    "QK^T",
    "attention x V",
    "output projection",
    "MLP",
    "LM head",
    "classifier",
    "projection",
    "convolution",
    "experts",
    "product",
    "outer product",
)
HOST_KINDS = (
    "softmax",
    "norm",
    "activation",
    "residual and bias",
    "rotary",
    "layout",
    "embedding",
    "pooling",
    "sampling",
    "torch",
)


@dataclass(frozen=True)
class OpticalMatmul:
    """One product y[..., N, M] = x[..., N, K] w[..., M, K]^T that may be sent to light.

    Parameters
    ----------
    name : unique in its program, such as "layer.0.mlp.up"
    kind : one of `MATMUL_KINDS`
    x, y : operands
    w : name of a weight, or of an operand when `dynamic`
    x_shape, w_shape : symbolic; leading axes only for dynamic operands
    dynamic : whether w is an operand, which changes with each pass
    transposed : the weight is stored as [K, M]
    non_negative : no value of x is below zero, so that only x+ is shown
    valid : operand that is False where an entry of y is masked and never used
    groups : query heads that share one key head; rows of y are (group, token)
    state : of whose tokens w consists, which so can stay encoded from pass to pass
    """

    name: str
    kind: str
    x: str
    w: str
    y: str
    x_shape: Shape
    w_shape: Shape
    dynamic: bool = False
    transposed: bool = False
    non_negative: bool = False
    valid: str | None = None
    groups: int = 1
    state: str | None = field(default=None, repr=False)  # journals hold what is shown

    @property
    def layer(self) -> int | None:
        """The layer of the step; None before and after the layers."""
        return layer_of(self.name)

    @property
    def y_shape(self) -> Shape:
        """Symbolic shape of the result."""
        return (*self.x_shape[:-1], self.w_shape[-2])

    @property
    def macs(self) -> Size:
        """Multiplications and accumulations."""
        return math.prod(self.x_shape, start=self.w_shape[-2])

    def product_sizes(self, sizes: Sizes) -> tuple[int, int, int, int]:
        """Return the number of matrices, and for each of them rows of x, outputs and length."""
        *leading, outputs, length = evaluate(self.w_shape, sizes)
        matrices = math.prod(leading)
        rows = math.prod(evaluate(self.x_shape, sizes)[:-1]) // max(matrices, 1)
        return matrices, rows, outputs, length

    @property
    def inputs(self) -> tuple[str, ...]:
        """Operands that the step reads."""
        extra = (self.valid,) if self.valid else ()
        return (self.x, self.w, *extra) if self.dynamic else (self.x, *extra)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Operands that the step writes."""
        return (self.y,)


@dataclass(frozen=True)
class HostStep:
    """One digital operation.

    Parameters
    ----------
    name : unique in its program, such as "layer.0.mlp.norm"
    kind : its row in the table of steps, such as "softmax"
    step : name in the registry of host steps
    inputs, outputs : operands
    weights : argument name -> weight name
    parameters : argument name -> number or word
    in_shapes, out_shapes : symbolic shapes of the operands
    """

    name: str
    kind: str
    step: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_shapes: tuple[Shape, ...]
    out_shapes: tuple[Shape, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> int | None:
        """The layer of the step; None before and after the layers."""
        return layer_of(self.name)


Step = OpticalMatmul | HostStep


@dataclass(frozen=True)
class Dependencies:
    """Dependencies between the steps of a program.

    Parameters
    ----------
    reads : earlier steps whose results each step reads
    feeds : steps that read the results of each step
    uses : number of steps that read each operand
    """

    reads: list[set[int]]
    feeds: list[list[int]]
    uses: Counter[str]


@dataclass(frozen=True)
class Program:
    """The ordered steps of one forward pass.

    Parameters
    ----------
    steps : in their order
    inputs : operands that the caller provides
    states : operands that live from one pass to the next (keys and values); steps append to them
    outputs : operands that the caller receives
    shapes : operand -> symbolic shape
    weight_shapes : weight name -> shape that it must have on disk
    """

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]
    weight_shapes: Mapping[str, tuple[int, ...]]

    @property
    def matmuls(self) -> tuple[OpticalMatmul, ...]:
        """The products, in order."""
        return tuple(step for step in self.steps if isinstance(step, OpticalMatmul))

    def peak_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the peak memory of operands, in float32."""

        def bytes_of(names: tuple[str, ...]) -> dict[str, int]:
            return {name: 4 * math.prod(evaluate(self.shapes[name], sizes)) for name in names}

        live, most = bytes_of(self.inputs + self.states), 0
        for step, ends in zip(self.steps, self.last_uses, strict=True):
            live |= bytes_of(step.outputs)
            most = max(most, sum(live.values()))
            for name in ends:
                live.pop(name, None)
        return most

    @cached_property
    def dependencies(self) -> Dependencies:
        """The dependencies between its steps, by operands; states change in their order."""
        writers: dict[str, int] = {}
        reads: list[set[int]] = []
        feeds: list[list[int]] = []
        uses: Counter[str] = Counter()
        for index, step in enumerate(self.steps):
            earlier = {writers[name] for name in step.inputs if name in writers}
            reads.append(earlier)
            feeds.append([])
            for other in earlier:
                feeds[other].append(index)
            uses.update(set(step.inputs))
            writers.update(dict.fromkeys(step.outputs, index))
            writers.update(dict.fromkeys(set(step.inputs) & set(self.states), index))
        return Dependencies(reads, feeds, uses)

    @cached_property
    def last_uses(self) -> list[tuple[str, ...]]:
        """The operands of each step that no later step reads."""
        kept = {*self.outputs, *self.states}
        seen: set[str] = set()
        ends: list[tuple[str, ...]] = []
        for step in reversed(self.steps):
            dead = {*step.inputs, *step.outputs} - seen - kept
            ends.append(tuple(sorted(dead)))
            seen |= dead
        return ends[::-1]


class ProgramBuilder:
    """Writes a program step by step; every method returns the name of its result."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._shapes: dict[str, Shape] = {}
        self._inputs: list[str] = []
        self._states: list[str] = []
        self._weights: dict[str, tuple[int, ...]] = {}

    def input(self, name: str, symbolic: Shape) -> str:
        """Declare an operand that the caller provides."""
        self._inputs.append(name)
        self._shapes[name] = symbolic
        return name

    def state(self, name: str, symbolic: Shape) -> str:
        """Declare an operand that lives from one pass to the next."""
        self._states.append(name)
        self._shapes[name] = symbolic
        return name

    def shape(self, operand: str) -> Shape:
        """Return the symbolic shape of an operand."""
        return self._shapes[operand]

    def project(
        self,
        name: str,
        kind: str,
        x: str,
        weight: str,
        outputs: int,
        stored: tuple[int, ...] | None = None,
        **flags: Any,
    ) -> str:
        """Multiply an operand by a static weight [outputs, K] (`stored`: its shape on disk)."""
        x_shape = self._shapes[x]
        usual = (outputs, x_shape[-1]({}))
        self._weights[weight] = stored or (usual[::-1] if flags.get("transposed") else usual)
        step = OpticalMatmul(
            name, kind, x, weight, name, x_shape, (Size.of(outputs), x_shape[-1]), **flags
        )
        return self._append(step, [step.y_shape])

    def multiply(self, name: str, kind: str, x: str, w: str, **flags: Any) -> str:
        """Multiply an operand by another one [..., M, K]."""
        step = OpticalMatmul(
            name, kind, x, w, name, self._shapes[x], self._shapes[w], dynamic=True, **flags
        )
        return self._append(step, [step.y_shape])

    def host(
        self,
        name: str,
        kind: str,
        step: str,
        inputs: tuple[str, ...],
        out_shapes: tuple[Shape, ...] | None = None,
        outputs: tuple[str, ...] | None = None,
        weights: Mapping[str, str] | None = None,
        stored: Mapping[str, tuple[int, ...]] | None = None,
        **parameters: Any,
    ) -> str:
        """Add a host step; the result has the first input's shape unless `out_shapes` is given.

        Its weights have the length of the first input's last axis, unless `stored` gives the shape.
        """
        for argument, weight in (weights or {}).items():
            usual = self._shapes[inputs[0]][-1:]
            self._weights[weight] = (stored or {}).get(argument) or tuple(s({}) for s in usual)
        names = (name,) if outputs is None else outputs
        shapes = (self._shapes[inputs[0]],) if out_shapes is None else out_shapes
        in_shapes = tuple(self._shapes[operand] for operand in inputs)
        host = HostStep(
            name, kind, step, inputs, names, in_shapes, shapes, weights or {}, parameters
        )
        self._append(host, list(shapes))
        return names[0]

    def build(self, *outputs: str) -> Program:
        """Return the program, after a check: kinds are known, operands are written before read.

        Raises
        ------
        ValueError : for a mistake in a family's module
        """
        written = {*self._inputs, *self._states}
        for step in self._steps:
            if step.kind not in MATMUL_KINDS + HOST_KINDS:
                raise ValueError(f"{step.name}: unknown kind {step.kind!r}")
            missing = set(step.inputs) - written
            if missing or written & set(step.outputs):
                raise ValueError(f"{step.name}: reads {missing} too early, or writes twice")
            written |= set(step.outputs)
        return Program(
            tuple(self._steps),
            tuple(self._inputs),
            tuple(self._states),
            outputs,
            self._shapes,
            self._weights,
        )

    def _append(self, step: Step, shapes: list[Shape]) -> str:
        self._steps.append(step)
        self._shapes.update(zip(step.outputs, shapes, strict=True))
        return step.outputs[0]
