"""`Overlap`: a fast estimate of the time of passes, to compare many placements.

The model is that of `simulator`, but a product is one interval of light instead of its shots, and
of equal layers only a few are counted. `simulator` then predicts the chosen placement, shot by
shot.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..backends.timing import first_wait_s
from .costs import BenchModel, host_cost, optical_cost
from .graph import Calls, Dependencies, Node, signature
from .micro_batch import micro_batches
from .program import HostStep, OpticalMatmul, Program, Step, layer_of
from .simulator import CHOICES

_LAYERS_KEPT = 3  # of equal layers: the first ones differ in time, each further one adds the same

Sizes = Mapping[str, int]


class Overlap:
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
        self._reduced_programs = [
            (weight, reduced, Dependencies.of(reduced))
            for weight, reduced in _reduced_programs(program, marks)
        ]
        self._cache: dict[tuple[Any, ...], float] = {}
        self._cold_s = first_wait_s(bench.timing)

    def light_s(self, step: OpticalMatmul) -> float:
        """Return the seconds of a product on light, alone, over all passes."""
        return sum(times * self._seconds_of(step, sizes, True) for sizes, times in self._passes)

    def host_s(self, step: Step) -> float:
        """Return the seconds of a step on the host, alone, over all passes."""
        return sum(times * self._seconds_of(step, sizes, False) for sizes, times in self._passes)

    def seconds(self, placed: frozenset[str]) -> float:
        """Return the time of all passes, with the fastest number of micro-batches."""
        return sum(times * self._pass(placed, sizes) for sizes, times in self._passes)

    def _pass(self, placed: frozenset[str], sizes: Sizes) -> float:
        choices = [count for count in CHOICES if count <= sizes["batch"]] if placed else [1]
        return min(
            sum(
                weight * self._run(reduced, needs, placed, sizes, parts)
                for weight, reduced, needs in self._reduced_programs
            )
            for parts in choices
        )

    def _run(
        self,
        program: Program,
        dependencies: Dependencies,
        placed: frozenset[str],
        sizes: Sizes,
        parts: int,
    ) -> float:
        is_light = [step.name in placed for step in program.steps]
        batches = [last - first for first, last in micro_batches(sizes["batch"], parts)]
        own = {batch: {**sizes, "batch": batch} for batch in batches}
        took = {
            batch: [
                self._seconds_of(step, own[batch], optical)
                for step, optical in zip(program.steps, is_light, strict=True)
            ]
            for batch in own
        }
        took_s = [took[batch] for batch in batches]
        return _PassModel(dependencies, is_light, took_s, self._cold_s).run()

    def _seconds_of(self, step: Step, sizes: Sizes, optical: bool) -> float:
        key = (*signature(step, optical), *sizes.values())
        if key not in self._cache:
            if optical and isinstance(step, OpticalMatmul):
                cost = optical_cost(step, sizes, self._bench)
                self._cache[key] = cost.seconds - cost.wait_s + cost.convert_seconds
            else:
                self._cache[key] = host_cost(step, sizes, self._bench.profile).seconds
        return self._cache[key]


class _PassModel:
    """One pass: light runs products in their order, the host the earliest step that is ready.

    Parameters
    ----------
    took_s : time of each step, for each micro-batch
    cold_s : extra time of a product that light has waited for
    """

    def __init__(
        self,
        dependencies: Dependencies,
        is_light: Sequence[bool],
        took_s: Sequence[Sequence[float]],
        cold_s: float,
    ) -> None:
        self._feeds, self._is_light, self._took_s = dependencies.feeds, is_light, took_s
        self._cold_s = cold_s
        self._needs = [list(dependencies.needs) for _ in took_s]
        self._latest: dict[Node, float] = {}
        self._ready: list[tuple[float, Node]] = []
        self._waiting: list[Node] = []
        self._fed_s: dict[Node, float] = {}
        self._host_s = 0.0
        for index, count in enumerate(dependencies.needs):
            for part in range(len(took_s)):
                if not count:
                    self._is_ready((index, part), 0.0)

    def run(self) -> float:
        """Return the seconds of the pass."""
        light_s = -math.inf
        for index, is_light in enumerate(self._is_light):
            for part in range(len(self._took_s) if is_light else 0):
                node = index, part
                self._host()
                fed_s = self._fed_s[node]
                waits = fed_s > light_s - self._cold_s
                light_s = max(light_s, fed_s) + self._took_s[part][index]
                light_s += self._cold_s if waits else 0.0
                self._done(node, light_s)
        self._host()
        return max(light_s, self._host_s)

    def _host(self) -> None:
        """Run all host steps that are ready."""
        while self._ready or self._waiting:
            while self._ready and (not self._waiting or self._ready[0][0] <= self._host_s):
                at_s, node = heapq.heappop(self._ready)
                self._host_s = max(self._host_s, at_s)
                heapq.heappush(self._waiting, node)
            index, part = node = heapq.heappop(self._waiting)
            self._host_s += self._took_s[part][index]
            self._done(node, self._host_s)

    def _done(self, node: Node, at_s: float) -> None:
        index, part = node
        needs = self._needs[part]
        for other in self._feeds[index]:
            following = other, part
            self._latest[following] = latest = max(self._latest.get(following, 0.0), at_s)
            needs[other] -= 1
            if not needs[other]:
                self._is_ready(following, latest)

    def _is_ready(self, node: Node, at_s: float) -> None:
        if self._is_light[node[0]]:
            self._fed_s[node] = at_s
        else:
            heapq.heappush(self._ready, (at_s, node))


# ------------------------------------------------------------------------------------ equal layers


def _reduced_programs(
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
