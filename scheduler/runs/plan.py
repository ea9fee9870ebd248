"""`plan`: predicts the cost of a model on a backend; `Plan.run` then runs it.

A plan uses no instrument: it is the program, the placement and the tiles for one bench profile.
A run executes it, with a digital reference for comparison, and returns its results and a `Report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends import Backend, DigitalBackend, open_backend
from ...instruments import InputError, Timeline
from ...instruments.formatting import format_counted, format_duration
from ...instruments.table import notebook_html
from ...instruments.text import short_lines
from ..costs import BenchModel, measured_host
from ..energy.constants import resolve
from ..executor import Executor
from ..graph import signature
from ..placement import DEFAULT_POLICY, Placement, decide
from ..program import evaluate
from .model_protocol import RunnableModel
from .plan_record import ENDINGS, PlannedStep, PlanRecord, plan_step
from .report import Run
from .run import OnText, Progress, TextOptions, run_plan
from .tables import plan_summary, plan_tables, plan_title

if TYPE_CHECKING:
    from ..journal.journal import Journal


@dataclass(frozen=True)
class Plan(PlanRecord):
    """A program placed and tiled for one bench profile, ready to run; see `PlanRecord`."""

    def __repr__(self) -> str:
        sizes, passes = self.passes[0][0], sum(times for _, times in self.passes)
        sums, *_ = plan_summary(self)
        return short_lines(
            f"Plan of {plan_title(self)}",
            f"  batch {sizes['batch']:,}, sequence {sizes['new']:,}, "
            f"{format_counted(passes, 'pass', 'passes')}",
            f"  {sums}",
            f"  predicted: {format_duration(self.seconds)} on the bench",
        )

    def _repr_html_(self) -> str:
        return notebook_html(plan_title(self), plan_tables(self), plan_summary(self))

    def measured(self, repeats: int = 2) -> Plan:
        """Return the same plan with times measured on this machine: host steps, a bench's frames.

        Host steps of the first pass are run digitally, on empty inputs.

        Raises
        ------
        InputError : when the model is a size without weights
        """
        sizes, model = self.passes[0][0], self.model
        rows = max(1, sizes["batch"] // self.prediction.micro_batches)
        inputs: Any
        if model.task == "outputs":
            rows = sizes["batch"] if model.fixed_sizes else rows
            shapes, given = self.program.shapes, {**sizes, "batch": rows}
            inputs = {
                name: np.zeros(evaluate(shapes[name], given), dtype=np.int64)
                for name in self.program.inputs
                if name != "past"
            }
        elif model.task == "vision":
            shape = self.program.shapes["images"][1:]
            inputs = np.zeros((rows, *evaluate(shape, sizes)), dtype=np.float32)
        else:
            inputs = np.zeros((rows, sizes["new"]), dtype=np.int64)
        for _ in range(repeats):  # the first one warms caches up
            executor = Executor(DigitalBackend(), model.weights, "host")
            model.run_pass(executor, ENDINGS[self.task], inputs)
        records = executor.records.values()
        if len(self.backend.benches) != 1:
            return replace(self, host=measured_host(records, self.bench))
        from ...backends.bench import measure_host

        (bench_backend,) = self.backend.benches.values()
        found = measure_host(bench_backend)
        host = measured_host(records, self.bench, found.feed, found.gather)
        return replace(self, bench=replace(self.bench, timing=found.timing), host=host)

    def run(
        self,
        inputs: Any,
        labels: Any = None,
        progress: Progress | None = None,
        reference: bool = True,
        timeline: Timeline | None = None,
        record: str | Path | None = None,
        on_text: OnText | None = None,
        **sampling: Any,
    ) -> Run:
        """Run the plan's task on inputs, on the backend and digitally for comparison.

        Parameters
        ----------
        inputs : images [n, channels, height, width]; a text, or tokens [n, sequence]; a prompt
            (when the plan has new tokens); a list of sentences (encoders, which embed them
            or classify them by their head); or arrays by name (models traced from torch)
        labels : of the images, for the accuracy
        progress : called with (what, done, total)
        reference : also run digitally, for the comparison
        timeline : receives a slice for each activity, on the backend's clock
        record : new file that keeps every finished step, so that `resume` can continue the run
        on_text : called with the text of each token while the run generates it; the text is empty
            while a character is incomplete
        sampling : temperature, top_k, top_p, seed

        Raises
        ------
        InputError : for inputs that do not fit the model, or a journal that cannot be written
        """
        options = TextOptions(sampling, on_text)
        if record is None:
            return run_plan(self, inputs, labels, progress, reference, timeline, options)
        from .record import begin_journal

        journal = begin_journal(self, record, inputs, labels, reference, sampling)
        return self.resume(journal, inputs, labels, progress, reference, options, timeline)

    def resume(
        self,
        journal: Journal,
        inputs: Any,
        labels: Any,
        progress: Progress | None,
        reference: bool,
        options: TextOptions,
        timeline: Timeline | None = None,
    ) -> Run:
        """Run the steps that a journal does not hold, and keep them there; see `run`, `resume`."""
        from .record import journal_session

        tell = progress or (lambda what, done, total: None)
        with journal_session(journal, self.model, self.backend, tell):
            run = run_plan(self, inputs, labels, progress, reference, timeline, options, journal)
            journal.keep_documents("result", report=run.report().as_dict())
            journal.writer.flush()
        return run


def plan(
    model: RunnableModel,
    backend: Backend | str = "mock",
    batch: int = 1,
    sequence: int | None = None,
    new_tokens: int = 0,
    placement: str | Placement = DEFAULT_POLICY,
    constants: Sequence[str] = (),
) -> Plan:
    """Split a model's layers into optical matmuls and host steps for a backend's bench.

    Parameters
    ----------
    batch : images, sentences or sequences in one pass
    sequence : tokens of each; None is 128, or the context of the model if that is shorter; a vision
        model always takes its context
    new_tokens : tokens to generate after them, one pass each
    placement : a policy, the path of a file of rules, or the placement of another plan
    constants : of energy, as for `Plan.energy`; the placement "least-energy" uses them

    Raises
    ------
    InputError : for sizes that the model cannot take, an unknown placement, rules without effect
        on this model
    """
    opened = backend if isinstance(backend, Backend) else open_backend(backend)
    batch, sequence = _checked_sizes(model, batch, sequence, new_tokens)
    passes = [({"batch": batch, "new": sequence, "past": 0}, 1)]
    passes += [
        ({"batch": batch, "new": 1, "past": sequence + index}, 1) for index in range(new_tokens - 1)
    ]
    encoding = "label" if model.head else "embed"
    tasks = {"vision": "classify", "encoder": encoding, "outputs": "outputs"}
    task = "generate" if new_tokens else tasks.get(model.task, "logits")
    return _plan(model, opened, placement, constants, task, tuple(passes))


def _checked_sizes(
    model: RunnableModel, batch: int, sequence: int | None, new_tokens: int
) -> tuple[int, int]:
    """Return batch and sequence of a plan, after a check that the model can take them."""
    context = model.config.context
    if model.task == "vision":
        if sequence not in (None, context):
            raise InputError(f"sequence = {sequence}: {model.name!r} always takes {context} tokens")
        sequence = context
    if model.fixed_sizes is not None:
        if batch not in (1, model.fixed_sizes[0]) or sequence not in (None, model.fixed_sizes[1]):
            raise InputError(
                f"batch = {batch}, sequence = {sequence}: the program of {model.name!r} serves "
                f"batch {model.fixed_sizes[0]} and sequence {model.fixed_sizes[1]} alone"
            )
        batch, sequence = model.fixed_sizes
    sequence = min(128, context) if sequence is None else sequence
    if any(not isinstance(size, int) for size in (batch, sequence, new_tokens)):
        raise InputError(
            f"batch = {batch!r}, sequence = {sequence!r}, new tokens = {new_tokens!r}: give whole "
            "numbers"
        )
    if batch < 1 or sequence < 1 or new_tokens < 0:
        raise InputError(
            f"batch = {batch}, sequence = {sequence}, new tokens = {new_tokens}: "
            "give at least 1, 1 and 0"
        )
    if new_tokens and model.task != "language":
        raise InputError(
            f"new tokens = {new_tokens}: {model.name!r} generates no text; give 0 new tokens"
        )
    if sequence + max(new_tokens - 1, 0) > context:
        after = f" and {new_tokens} new ones" if new_tokens else ""
        raise InputError(
            f"{sequence} tokens{after} are more than the {context} that the context of "
            f"{model.name!r} holds; give fewer"
        )
    return batch, sequence


def _plan(
    model: RunnableModel,
    backend: Backend,
    placement: str | Placement,
    constants: Sequence[str],
    task: str,
    passes: tuple[tuple[dict[str, int], int], ...],
) -> Plan:
    bench = BenchModel.of(backend)
    program = model.program(ENDINGS[task])
    decided = placement
    if isinstance(decided, str):
        resolved = resolve(bench.profile, tuple(constants))
        decided = decide(program, decided, bench, passes, resolved, model.whole_program)
    if not backend.is_optical:
        decided = Placement(decided.policy, frozenset())
    steps = []
    counted: dict[tuple[Any, ...], PlannedStep] = {}
    for step in program.steps:  # equal steps of all layers are counted once
        optical = step.name in decided.on_light
        key = (step.kind, *signature(step, optical))
        if key not in counted:
            counted[key] = plan_step(step, optical, passes, bench)
        why = decided.decided_by.get(step.name)
        steps.append(replace(counted[key], name=step.name, decided_by=why))
    return Plan(model, backend, bench, decided.policy, task, passes, tuple(steps), decided)
