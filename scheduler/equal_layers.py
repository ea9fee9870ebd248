"""`reduced_programs`: programs of few layers whose weighted times are the time of a deep model."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from .graph import signature
from .program import HostStep, Program, Step, layer_of

_LAYERS_KEPT = 3  # of equal layers: the first ones differ in time, each further one adds the same


def reduced_programs(
    program: Program, marks: Mapping[str, Hashable]
) -> Iterator[tuple[float, Program]]:
    """Return programs of few layers, with weights: the weighted sum of times is the whole time."""
    layers: dict[int, list[Step]] = {}
    for step in program.steps:
        if step.layer is not None:
            layers.setdefault(step.layer, []).append(step)
    signatures = {
        layer: tuple((step.kind, signature(step, False), marks.get(step.name)) for step in steps)
        for layer, steps in layers.items()
    }
    runs = [
        list(equal) for _, equal in groupby(sorted(layers), key=lambda layer: signatures[layer])
    ]
    runs = [run for run in runs if len(run) > _LAYERS_KEPT]

    def cut(shorter: list[int] | None) -> Program:
        left_out: dict[int, int] = {}
        for run in runs:
            kept = _LAYERS_KEPT - (run is shorter)
            left_out |= dict.fromkeys(run[kept:], run[kept - 1])
        return _without(program, left_out)

    more = [len(run) - _LAYERS_KEPT for run in runs]
    yield 1.0 + sum(more), cut(None)
    for run, count in zip(runs, more, strict=True):
        yield -float(count), cut(run)


def _without(program: Program, left_out: Mapping[int, int]) -> Program:
    """Leave layers out; their readers read from the layer that represents them instead."""

    def named(operand: str) -> str:
        layer = layer_of(operand)
        if layer is None or layer not in left_out:
            return operand
        return f"layer.{left_out[layer]}.{operand.split('.', 2)[2]}"

    def kept(step: Step) -> Step:
        if isinstance(step, HostStep):
            return replace(step, inputs=tuple(map(named, step.inputs)))
        w = named(step.w) if step.dynamic else step.w
        return replace(step, x=named(step.x), w=w)

    if not left_out:
        return program
    return replace(
        program, steps=tuple(kept(step) for step in program.steps if step.layer not in left_out)
    )
