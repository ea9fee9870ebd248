"""`PlacementTimes`: a fast estimate of the time of passes, to compare many placements.

The model is that of `prediction`, but a product is one interval of light instead of its shots, and
of equal layers only a few are counted: programs of few layers whose weighted times are the time of
a deep model. `predict` then simulates the chosen placement shot by shot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from ..backends.device_timeline import first_wait_s
from .costs import BenchModel, HostModel, host_cost, optical_cost
from .graph import Calls, Node, signature
from .micro_batch import part_counts, sizes_of_parts
from .pass_model import NextProduct, PassModel
from .program import HostStep, OpticalMatmul, Program, Sizes, Step, layer_of
from .schedule import Schedule

_LAYERS_KEPT = 3  # of equal layers: the first ones differ in time, each further one adds the same


class PlacementTimes:
    """Predicts the time of passes for many placements of one program.

    Parameters
    ----------
    passes : sizes of each, and how often it runs
    marks : products with different marks count as different, and so do their layers
    """

    def __init__(
        self, program: Program, passes: Calls, bench: BenchModel, marks: Mapping[str, Hashable]
    ) -> None:
        self._bench, self._passes = bench, passes
        self._reduced_programs = list(reduced_programs(program, marks))
        self._cache: dict[tuple[object, ...], float] = {}

    def light_s(self, step: OpticalMatmul) -> float:
        """Return the seconds of a product on light, alone, over all passes."""
        return sum(times * self._on_light_s(step, sizes) for sizes, times in self._passes)

    def host_s(self, step: Step) -> float:
        """Return the seconds of a step on the host, alone, over all passes."""
        return sum(times * self._on_host_s(step, sizes) for sizes, times in self._passes)

    def seconds(self, placed: frozenset[str]) -> float:
        """Return the time of all passes, with the fastest number of micro-batches."""
        return sum(times * self._pass_s(placed, sizes) for sizes, times in self._passes)

    def _pass_s(self, placed: frozenset[str], sizes: Sizes) -> float:
        return min(
            sum(
                weight * self._model(reduced, placed, sizes_of_parts(sizes, parts)).run()
                for weight, reduced in self._reduced_programs
            )
            for parts in (part_counts(sizes["batch"]) if placed else [1])
        )

    def _model(self, program: Program, placed: frozenset[str], sizes: Sequence[Sizes]) -> PassModel:
        schedule = Schedule(program, placed, len(sizes))
        light = _ProductLight(program, sizes, self._on_light_s, first_wait_s(self._bench.timing))
        return PassModel(program, schedule, sizes, HostModel(self._on_host_s), light.run)

    def _on_light_s(self, step: Step, sizes: Sizes) -> float:
        """Return the seconds of a product whose first frames settle during another product."""
        key = (step.name, "light", *sizes.values())
        if key not in self._cache:
            assert isinstance(step, OpticalMatmul)
            cost = optical_cost(step, sizes, self._bench)
            self._cache[key] = cost.seconds - cost.wait_s + cost.convert_seconds
        return self._cache[key]

    def _on_host_s(self, step: Step, sizes: Sizes) -> float:
        key = (step.name, "host", *sizes.values())
        if key not in self._cache:
            self._cache[key] = host_cost(step, sizes, self._bench.profile).seconds
        return self._cache[key]


class _ProductLight:
    """Light for which a product is one interval.

    Parameters
    ----------
    seconds : of a product whose first frames settle during another product
    cold_s : extra time of a product that light has waited for
    """

    def __init__(
        self,
        program: Program,
        sizes: Sequence[Sizes],
        seconds: Callable[[Step, Sizes], float],
        cold_s: float,
    ) -> None:
        self._steps, self._sizes = program.steps, sizes
        self._seconds, self._cold_s = seconds, cold_s
        self._free_s = -math.inf

    def run(self, node: Node, fed_s: float, next_product: NextProduct) -> float:
        """Run a product that was fed to light at a time, and return the time of its end."""
        took_s = self._seconds(self._steps[node[0]], self._sizes[node[1]])
        waits = fed_s > self._free_s - self._cold_s
        self._free_s = max(self._free_s, fed_s) + took_s
        self._free_s += self._cold_s if waits else 0.0
        return self._free_s


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
