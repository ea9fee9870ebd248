"""`Schedule`: which steps of a pass can run next, without times and without threads.

A step is ready when the steps whose results it reads are finished. Products go to light in the
order of the program, step by step and micro-batch by micro-batch, so that optical results do not
depend on the speed of the host. The host runs the earliest step of the program that is ready.

`Pipeline` follows a schedule on a bench; `PassModel` follows it in a prediction.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection

from .graph import Node
from .program import Program


class Schedule:
    """The order of one pass.

    Parameters
    ----------
    placed : names of the matmuls that go to light
    parts : number of micro-batches
    done : steps that an earlier session finished

    Attributes
    ----------
    dependencies : between the steps
    is_light : whether each step goes to light
    products : steps for light that have not begun, in their order
    ready : steps that are ready at the start
    host_queue : host steps that are ready and have not begun, as a heap
    unfinished : number of steps that are not finished
    """

    def __init__(
        self, program: Program, placed: Collection[str], parts: int, done: Collection[Node] = ()
    ) -> None:
        self.dependencies = program.dependencies
        self.is_light = [step.name in placed for step in program.steps]
        self._needs = [[len(reads) for reads in self.dependencies.reads] for _ in range(parts)]
        self.host_queue: list[Node] = []
        self.unfinished = len(program.steps) * parts
        for node in done:
            self.finish(node)
        self.products = deque(
            (index, part)
            for index, goes_to_light in enumerate(self.is_light)
            if goes_to_light
            for part in range(parts)
            if (index, part) not in done
        )
        self.ready = [
            (index, part)
            for part, needs in enumerate(self._needs)
            for index, count in enumerate(needs)
            if not count and (index, part) not in done
        ]

    def is_ready(self, node: Node) -> bool:
        """Return whether all steps whose results a step reads are finished."""
        index, part = node
        return not self._needs[part][index]

    @property
    def is_product_ready(self) -> bool:
        """Whether the next product for light is ready."""
        return bool(self.products) and self.is_ready(self.products[0])

    def finish(self, node: Node) -> list[Node]:
        """Mark a step as finished, and return the steps that are ready now."""
        index, part = node
        needs, ready = self._needs[part], []
        for other in self.dependencies.feeds[index]:
            needs[other] -= 1
            if not needs[other]:
                ready.append((other, part))
        self.unfinished -= 1
        return ready

    def queue_host(self, node: Node) -> None:
        """Add a ready step to the queue of the host."""
        heapq.heappush(self.host_queue, node)

    def pop_host(self) -> Node:
        """Return the earliest step in the queue of the host, and remove it."""
        return heapq.heappop(self.host_queue)
