"""`Executor`: runs programs on a backend, and measures every step.

Not here: single steps (`step_runner`), overlap of light and host (`pipeline`), models
(lightloom.models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import Backend, PreparedWeights, Ranges
from ..instruments.environment import is_cache_on
from .cached_ranges import kept_ranges
from .cached_weights import kept_weights
from .costs import BenchModel
from .host_steps import State
from .journal.pass_record import PassRecord, described_steps
from .micro_batch import Part, RowIds, join, micro_batches, split
from .pipeline import Pipeline
from .placement import FIXED, Placement, decide
from .prediction import best_parts
from .program import HostStep, OpticalMatmul, Program
from .step_runner import StepRunner

if TYPE_CHECKING:
    from .journal.journal import Journal


class Executor(StepRunner):
    """Runs programs of one model on one backend.

    Parameters
    ----------
    backend : runs the matmuls that the placement sends to light
    weights : name -> float32 array; looked up when a step needs it
    placement : which matmuls go to light: a decided placement, or a policy (see `placement`). A
        policy that needs costs decides by the sizes of the first call, also for later calls

    Attributes
    ----------
    journal : keeps every finished step from now on; None keeps none
    """

    def __init__(
        self, backend: Backend, weights: Mapping[str, np.ndarray], placement: str | Placement
    ) -> None:
        super().__init__(backend, weights)
        self.placement = placement
        self.micro_batches: int | None = None  # parts of a batch that overlap; None: as predicted
        self.overlaps = True
        self.lock = RLock()
        self._best_parts: dict[tuple[int, ...], int] = {}
        self._placed: dict[int, tuple[Program, frozenset[str]]] = {}
        self.journal: Journal | None = None
        self._descriptions: dict[int, tuple[str, list[list[str]]]] = {}

    @property
    def needs_ranges(self) -> bool:
        """Whether the backend needs ranges from a calibration pass that has not run yet."""
        if not self.backend.needs_ranges or self.ranges or not self._uses_light:
            return False
        fixed = self.backend.profile.readout_range in ("per-matmul", "per-row")
        return fixed or self.placement != "projections"

    @property
    def _uses_light(self) -> bool:
        """Whether a product may go to light, as far as the placement is decided."""
        if isinstance(self.placement, Placement):
            return bool(self.placement.on_light)
        return self.placement in FIXED and self.placement != "host"

    def decide(
        self, program: Program, sizes: Mapping[str, int], whole: Program | None = None
    ) -> None:
        """Decide the placement once, where it is a policy that needs costs, or a file of rules.

        Parameters
        ----------
        program : the program to run
        sizes : of the call that decides
        whole : program with every product of the model; it decides where `program` lacks some
        """
        with self.lock:
            if isinstance(self.placement, str) and self.placement not in FIXED:
                whole = program if whole is None else whole
                if len(program.matmuls) < len(whole.matmuls):
                    program = whole
                bench, calls = BenchModel.of(self.backend), [(sizes, 1)]
                self.placement = decide(program, self.placement, bench, calls, whole=whole)

    def run(
        self,
        program: Program,
        inputs: Mapping[str, Any],
        sizes: dict[str, int],
        sequences: Sequence[int] | np.ndarray | None = None,
        states: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run a program and return its outputs.

        On an asynchronous backend the batch is split into micro-batches, and host steps of one
        overlap the light of another; on other backends steps run one after another.

        Parameters
        ----------
        sizes : batch, new and past tokens
        sequences : one id per row of the batch, for the addresses of the noise
        states : operands that live from one pass to the next
        """
        if sequences is None:
            sequences = np.arange(sizes["batch"])
        with self.lock:
            self.decide(program, sizes)
            placed = self._placement(program)
            is_light = self.backend.is_asynchronous and bool(placed)
            cuts = [(0, sizes["batch"])]
            if is_light:
                self.backend.open()
                cuts = micro_batches(sizes["batch"], self._parts_of(program, placed, sizes))
            record = self._pass_record(program, placed, inputs, sizes, cuts)
            cuts = cuts if record is None else record.cuts
            parts = split(program, inputs, sizes, sequences, states or {}, cuts)
            if record is not None:
                self._resume(record, program, placed, parts)
            if is_light and self.overlaps:
                Pipeline(self, program, placed, parts, record).run()
            else:
                self._run_in_turn(program, placed, parts, record)
            return join(program, parts, states or {})

    def _pass_record(
        self,
        program: Program,
        placed: frozenset[str],
        inputs: Mapping[str, Any],
        sizes: dict[str, int],
        cuts: list[tuple[int, int]],
    ) -> PassRecord | None:
        """Return the record of this pass in the journal, new or of an earlier session."""
        if self.journal is None:
            return None
        identity = self._descriptions.get(id(program))
        if identity is None:
            identity = self._descriptions[id(program)] = described_steps(program, placed)
        return PassRecord(self.journal, program, identity, inputs, sizes, cuts)

    def _resume(
        self, record: PassRecord, program: Program, placed: frozenset[str], parts: list[Part]
    ) -> None:
        """Restore the results of steps that an earlier session finished, and their costs."""
        record.restore(parts)
        for (index, part), kept in record.done.items():
            step = program.steps[index]
            step_record = self.record_of(step, step.name in placed)
            step_record.add(parts[part].sizes, kept.seconds, kept.stats)

    def _parts_of(self, program: Program, placed: frozenset[str], sizes: dict[str, int]) -> int:
        if self.micro_batches is not None:
            return self.micro_batches
        key = (id(program), *sizes.values())
        if key not in self._best_parts:
            bench = BenchModel.of(self.backend)
            self._best_parts[key] = best_parts(program, placed, sizes, bench)
        return self._best_parts[key]

    def _run_in_turn(
        self,
        program: Program,
        placed: frozenset[str],
        parts: list[Part],
        record: PassRecord | None,
    ) -> None:
        for index, (step, ends) in enumerate(zip(program.steps, program.last_uses, strict=True)):
            backend = self.backend if step.name in placed else None
            for part in parts:
                if record is not None and (index, part.number) in record.done:
                    continue
                seconds, stats = self.run_whole(step, part, ends, backend)
                if record is not None:
                    record.keep((index, part.number), part.operands, seconds, stats)
                for operand in ends:
                    part.operands.pop(operand, None)

    def calibrate(self, program: Program, inputs: Mapping[str, Any], sizes: dict[str, int]) -> None:
        """Fix read-out ranges and the scales of dynamic operands from a pass over other data.

        The pass is digital; for each product that goes to light the backend returns the largest
        noise-free value that its converter would read. Masked positions are left out. The ranges
        and the encoded weights of an earlier run over the same weights, constants and data are
        taken from the cache.
        """
        if not self.backend.needs_ranges:
            return
        self.decide(program, sizes)
        placed = self._placement(program)

        def compute() -> dict[str, Ranges]:
            return self._observed(program, placed, inputs, sizes)

        def prepare(step: OpticalMatmul) -> PreparedWeights:
            return self._static(step, self.backend)

        # all ranges at once: an interrupted pass leaves none; weights are encoded here, so that no
        # measured pass includes it
        static = [s for s in program.matmuls if s.name in placed and not s.dynamic]
        backend, weights = self.backend, self.weights
        if is_cache_on():
            self.ranges = kept_ranges(backend, weights, program, placed, inputs, compute)
            self._prepared |= kept_weights(backend, weights, static, self.ranges, prepare)
        else:
            self.ranges = compute()
            self._prepared |= {step.name: prepare(step) for step in static}

    def _observed(
        self,
        program: Program,
        placed: frozenset[str],
        inputs: Mapping[str, Any],
        sizes: dict[str, int],
    ) -> dict[str, Ranges]:
        """Return the ranges of all products on light, from a digital pass."""
        operands = {**inputs, **{name: State() for name in program.states}}
        wanted = [step.name in placed for step in program.steps]
        stop = len(wanted) - wanted[::-1].index(True) if any(wanted) else 0
        part = Part(0, operands, sizes, RowIds(sizes, np.arange(sizes["batch"])))
        ranges: dict[str, Ranges] = {}
        last_uses = replace(program, states=()).last_uses  # no pass follows that needs the states
        for step, ends in zip(program.steps[:stop], last_uses[:stop], strict=True):
            if isinstance(step, HostStep):
                self.run_host(step, operands, ends)
            elif step.name in placed:
                ranges[step.name], operands[step.y] = self.observe(step, operands)
            else:
                operands[step.y] = self.begin(step, part)().y
            for operand in ends:
                operands.pop(operand, None)
        return ranges

    def _placement(self, program: Program) -> frozenset[str]:
        found = self._placed.get(id(program))
        if found is None:
            chosen = self.placement
            decided = chosen if isinstance(chosen, Placement) else decide(program, chosen)
            found = self._placed[id(program)] = (program, decided.on_light)
        return found[1]
