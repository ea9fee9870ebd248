"""`PassModel`: the times of one pass, a discrete-event model of `Pipeline`.

Light and three threads of the host work at the same time, each on one step: the host runs host
steps, feed begins products, gather collects them. The order is that of `Schedule`. The time of
light is given by a function: shot by shot in a prediction, one interval per product where many
placements are compared.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import chain

from ..instruments import Timeline
from .costs import HostModel
from .graph import Node
from .micro_batch import details_of
from .program import Program, Sizes
from .schedule import Schedule

NextProduct = Callable[[float], Node | None]
"""Returns the product that waits for light at a time, or None."""

RunLight = Callable[[Node, float, NextProduct], float]
"""Runs a product that was fed to light at a time, and returns the time of its end."""


class PassModel:
    """The times of one pass of a program.

    Parameters
    ----------
    schedule : of the pass, with no step finished
    sizes : of each micro-batch
    timeline : receives the slices of the threads; None for none

    Attributes
    ----------
    busy_s : busy seconds of each thread
    """

    def __init__(
        self,
        program: Program,
        schedule: Schedule,
        sizes: Sequence[Sizes],
        host: HostModel,
        run_light: RunLight,
        start_s: float = 0.0,
        timeline: Timeline | None = None,
    ) -> None:
        self._steps, self._schedule, self._sizes = program.steps, schedule, sizes
        self._host, self._run_light, self._timeline = host, run_light, timeline
        self._start_s = start_s
        self._free_s = dict.fromkeys(("host", "feed", "gather"), start_s)  # when they are free
        self.busy_s = dict.fromkeys(self._free_s, 0.0)
        self._ends_s = [[start_s] * len(program.steps) for _ in sizes]
        # host steps, by the time at which they are ready
        self._later = [(start_s, node) for node in schedule.ready if not schedule.is_light[node[0]]]
        self._fed_s: dict[Node, float] = {}

    def run(self) -> float:
        """Run all steps, and return the time at which the last of them ends."""
        products = self._schedule.products
        while products:
            node = products.popleft()
            done_s = self._run_light(node, self._feed(node, math.inf), self._next_product)
            took_s = self._host.gather(self._steps[node[0]], self._sizes[node[1]])
            self._finish(node, self._work("gather", node, done_s, took_s))
        self._advance(math.inf)
        return max(chain(*self._ends_s), default=self._start_s)

    def _next_product(self, at_s: float) -> Node | None:
        """Return the product that has been fed to light by a time, if there is one."""
        products = self._schedule.products
        return products[0] if products and self._feed(products[0], at_s) <= at_s else None

    def _feed(self, node: Node, until_s: float) -> float:
        """Return when a product has been fed to light; infinity if that begins after a time."""
        self._advance(until_s)
        if node not in self._fed_s:
            ready_s = self._ready_s(node) if self._schedule.is_ready(node) else math.inf
            if max(ready_s, self._free_s["feed"]) > until_s:
                return math.inf
            took_s = self._host.feed(self._steps[node[0]], self._sizes[node[1]])
            self._fed_s[node] = self._work("feed", node, ready_s, took_s)
        return self._fed_s[node]

    def _advance(self, until_s: float) -> None:
        """Run the host steps that begin up to a time."""
        schedule, free_s, later = self._schedule, self._free_s, self._later
        while True:
            while later and later[0][0] <= free_s["host"]:
                schedule.queue_host(heapq.heappop(later)[1])
            if schedule.host_queue:
                if free_s["host"] > until_s:
                    return
                index, part = node = schedule.pop_host()
                took_s = self._host.step(self._steps[index], self._sizes[part])
                self._finish(node, self._work("host", node, free_s["host"], took_s))
            elif later and later[0][0] <= until_s:
                free_s["host"] = later[0][0]
            else:
                return

    def _work(self, name: str, node: Node, ready_s: float, took_s: float) -> float:
        """Let a thread work on a step as soon as both are ready, and return the time of the end."""
        start_s = max(ready_s, self._free_s[name])
        self._free_s[name] = end_s = start_s + took_s
        self.busy_s[name] += took_s
        if self._timeline is not None and end_s > start_s:
            step = self._steps[node[0]]
            self._timeline.add(name, step.name, start_s, end_s, **details_of(step, node[1]))
        return end_s

    def _finish(self, node: Node, end_s: float) -> None:
        """Note the end of a step, and the host steps that are ready after it."""
        index, part = node
        self._ends_s[part][index] = end_s
        schedule = self._schedule
        for other in schedule.finish(node):
            if schedule.is_light[other[0]]:
                continue
            ready_s = self._ready_s(other)
            if ready_s <= self._free_s["host"]:
                schedule.queue_host(other)
            else:
                heapq.heappush(self._later, (ready_s, other))

    def _ready_s(self, node: Node) -> float:
        """Return the time at which the last operand of a step that can run is ready."""
        index, part = node
        ends_s = self._ends_s[part]
        operands_s = [ends_s[other] for other in self._schedule.dependencies.reads[index]]
        return max(operands_s) if operands_s else self._start_s
