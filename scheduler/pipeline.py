"""`Pipeline`: light and host work on different micro-batches at the same time.

Three threads run a pass, in the order of a `Schedule`. The caller's thread runs host steps. The
feed thread begins products on the backend, and the gather thread collects them. While the host
computes the softmax of one micro-batch, light multiplies the next one.

The virtual clock advances only when all three threads are idle.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Condition, Thread

from ..backends import MatmulResult, Stats
from .graph import Node
from .journal.pass_record import PassRecord
from .micro_batch import Part
from .program import OpticalMatmul, Program, Step
from .schedule import Schedule
from .step_runner import StepRunner


@dataclass
class _StartedProduct:
    """A pending product; the backend calls it when its last shot is exposed.

    Parameters
    ----------
    notify : called with the product and whether it is exposed
    is_exposed : its last shot is exposed, and the virtual clock is held until it is gathered
    """

    node: Node
    notify: Callable[[_StartedProduct, bool], None]
    finish: Callable[[], MatmulResult] | None = None
    seconds: float = 0.0
    is_exposed: bool = False

    def __call__(self) -> None:
        """Hold the virtual clock from now on."""
        self.notify(self, True)

    def again(self) -> None:
        """Release the virtual clock, because the product is taken again."""
        self.notify(self, False)


class Pipeline:
    """One pass of a program, with overlap of light and host.

    Parameters
    ----------
    runner : runs the steps
    placed : names of the matmuls that go to light
    parts : micro-batches
    record : keeps finished steps, and holds those of earlier sessions; None without a journal
    """

    def __init__(
        self,
        runner: StepRunner,
        program: Program,
        placed: frozenset[str],
        parts: list[Part],
        record: PassRecord | None = None,
    ) -> None:
        self._runner, self._program, self._parts = runner, program, parts
        self._backend = runner.backend
        self._clock = self._backend.clock
        # unfinished reads of operands, by micro-batch
        self._uses = [Counter(program.dependencies.uses) for _ in parts]
        self._record = record
        self._done: Collection[Node] = () if record is None else record.done
        self._schedule = Schedule(program, placed, len(parts), self._done)
        self._products = len(self._schedule.products)
        self._gathering: deque[_StartedProduct] = deque()
        self._changed = Condition()
        self._error: BaseException | None = None
        self._holds = 0

    def run(self) -> None:
        """Run all steps of all parts.

        Raises
        ------
        the error of a step; the backend is closed then, with its light off
        """
        with self._changed:
            for node in self._done:
                self._drop_operands(node)
            for node in self._schedule.ready:
                self._is_ready(node)
        threads = [
            Thread(target=self._catch_errors, args=(work,), name=f"lightloom-{name}", daemon=True)
            for name, work in (("feed", self._feed), ("gather", self._gather))
        ]
        for thread in threads:
            thread.start()
        self._catch_errors(self._host)
        if self._error is not None:
            while self._holds:
                self._release()
            self._backend.close()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    # --- the three threads -----------------------------------------------------------------------

    def _host(self) -> None:
        """Run host steps, and products that stay on the host."""
        schedule = self._schedule
        while True:
            with self._changed:
                self._wait_for(lambda: schedule.host_queue or not schedule.unfinished)
                if self._error is not None or not schedule.unfinished:
                    return
                node = schedule.pop_host()
            seconds, stats = self._runner.run_whole(*self._at(node), self._ends(node))
            self._finish(node, seconds, stats)

    def _feed(self) -> None:
        """Begin products in their order, each as soon as its operands are ready."""
        schedule = self._schedule
        while schedule.products:
            with self._changed:
                self._wait_for(lambda: schedule.is_product_ready)
                if self._error is not None:
                    return
                node = schedule.products[0]
            step, part = self._at(node)
            assert isinstance(step, OpticalMatmul)
            product = _StartedProduct(node, self._set_exposed)
            start, start_s = time.perf_counter(), self._clock.now_s()
            with self._clock.held():
                self._release()  # the hold of a ready product; this thread now has its own
                product.finish = self._runner.begin(step, part, self._backend, product)
                product.seconds = time.perf_counter() - start
                self._runner.note("feed", step, part, start_s)
                with self._changed:
                    schedule.products.popleft()
                    self._gathering.append(product)
                    self._changed.notify_all()
                    if schedule.is_product_ready:
                        self._hold()

    def _gather(self) -> None:
        """Collect products from the backend, in their order."""
        for _ in range(self._products):
            with self._changed:
                self._wait_for(lambda: self._gathering)
                if not self._gathering:
                    return
                product = self._gathering.popleft()
            assert product.finish is not None
            result = product.finish()
            self._wait_until_exposed(product)
            step, part = self._at(product.node)
            assert isinstance(step, OpticalMatmul)
            part.operands[step.y] = result.y
            stages = result.stats.seconds
            seconds = product.seconds + stages.get("product", 0.0) + stages.get("decode", 0.0)
            self._runner.record_of(step, True).add(part.sizes, seconds, result.stats)
            self._finish(product.node, seconds, result.stats)

    # --- ready steps -----------------------------------------------------------------------------

    def _wait_for(self, is_met: Callable[[], object]) -> None:
        """Wait until a condition is met, or a step has failed."""
        self._changed.wait_for(lambda: is_met() or self._error is not None)

    def _at(self, node: Node) -> tuple[Step, Part]:
        return self._program.steps[node[0]], self._parts[node[1]]

    def _ends(self, node: Node) -> tuple[str, ...]:
        """Return the operands that only this step still reads."""
        step, _ = self._at(node)
        with self._changed:
            uses = self._uses[node[1]]
            return tuple(name for name in step.inputs if uses[name] == 1 and self._is_free(name))

    def _is_free(self, operand: str) -> bool:
        return operand not in self._program.outputs and operand not in self._program.states

    def _finish(self, node: Node, seconds: float, stats: Stats | None) -> None:
        """Mark a step as done: keep it, and queue the steps that are ready now."""
        if self._record is not None:
            self._record.keep(node, self._parts[node[1]].operands, seconds, stats)
        with self._changed:
            self._drop_operands(node)
            for other in self._schedule.finish(node):
                self._is_ready(other)
            self._release()
            self._changed.notify_all()

    def _drop_operands(self, node: Node) -> None:
        """Drop the operands that only this step still reads."""
        step, part = self._at(node)
        uses = self._uses[part.number]
        for operand in set(step.inputs):
            uses[operand] -= 1
            if not uses[operand] and self._is_free(operand):
                part.operands.pop(operand, None)

    def _is_ready(self, node: Node) -> None:
        """Queue a step for the host; hold the clock for each step that can run at once."""
        if not self._schedule.is_light[node[0]]:
            self._schedule.queue_host(node)
            self._hold()
        elif self._schedule.products[0] == node:
            self._hold()

    def _set_exposed(self, product: _StartedProduct, is_exposed: bool) -> None:
        with self._changed:
            product.is_exposed = is_exposed
            (self._hold if is_exposed else self._release)()
            self._changed.notify_all()

    def _wait_until_exposed(self, product: _StartedProduct) -> None:
        """Wait until the backend has called the product; its result may be ready before."""
        with self._changed:
            self._wait_for(lambda: product.is_exposed)

    def _hold(self) -> None:
        with self._changed:
            if self._error is None:
                self._holds += 1
                self._clock.hold()

    def _release(self) -> None:
        with self._changed:
            if self._holds:
                self._holds -= 1
                self._clock.release()

    def _catch_errors(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
