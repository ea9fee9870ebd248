"""`Executor`: runs programs on a backend, and measures every step.

Not here: overlap of light and host (`pipeline`), models (lightloom.models).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import Address, Backend, DigitalBackend, MatmulResult, PreparedWeights, Ranges
from ..instruments import InputError
from .costs import BenchModel
from .graph import StepRecord
from .host_steps import HostFunction, State, check_step
from .journal.pass_record import PassRecord, described_steps
from .micro_batch import Part, RowIds, details_of, join, micro_batches, split
from .pipeline import Pipeline
from .placement import Placement, decide, is_fixed, place
from .prediction import best_parts
from .program import HostStep, OpticalMatmul, Program, evaluate, shape

if TYPE_CHECKING:
    from .journal.journal import Journal

RANGE_MARGIN = 1.5  # times the largest value in calibration
WEIGHT_MARGIN = 1.1  # the same for the scale of keys and values


class Executor:
    """Runs programs of one model on one backend.

    Parameters
    ----------
    backend : runs the matmuls that the placement sends to light
    weights : name -> float32 array; looked up when a step needs it
    placement : which matmuls go to light: a decided placement, or a policy (see `placement`); a
        policy that needs costs decides by the sizes of the first call, for all later calls, too

    Attributes
    ----------
    journal : keeps every finished step from now on; setting it restarts the count of passes
    """

    def __init__(
        self, backend: Backend, weights: Mapping[str, np.ndarray], placement: str | Placement
    ) -> None:
        self.backend = backend
        self.weights = weights
        self.placement = placement
        self.ranges: dict[str, Ranges] = {}
        self.records: dict[str, StepRecord] = {}
        self.attempt = 0
        self.micro_batches: int | None = None  # parts of a batch that overlap; None: as predicted
        self.overlaps = True
        self.lock = RLock()
        self._host = DigitalBackend()
        self._prepared: dict[str, PreparedWeights] = {}
        # functions and arguments by identity of the step: a decoded token runs hundreds of steps
        self._host_steps: dict[int, tuple[HostStep, HostFunction, dict[str, Any]]] = {}
        self._best_parts: dict[tuple[int, ...], int] = {}
        self._placed: dict[int, tuple[Program, frozenset[str]]] = {}
        self._journal: Journal | None = None
        self._passes = 0
        self._descriptions: dict[int, tuple[str, list[list[str]]]] = {}

    @property
    def journal(self) -> Journal | None:
        """The journal that keeps finished steps; None when the run is not recorded."""
        return self._journal

    @journal.setter
    def journal(self, journal: Journal | None) -> None:
        self._journal, self._passes = journal, 0

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
        return is_fixed(self.placement) and self.placement != "host"

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
            if isinstance(self.placement, str) and not is_fixed(self.placement):
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
        if self._journal is None:
            return None
        identity = self._descriptions.get(id(program))
        if identity is None:
            identity = self._descriptions[id(program)] = described_steps(program, placed)
        number, self._passes = self._passes, self._passes + 1
        return PassRecord(self._journal, number, program, identity, inputs, sizes, cuts)

    def _resume(
        self, record: PassRecord, program: Program, placed: frozenset[str], parts: list[Part]
    ) -> None:
        """Restore the results of steps that an earlier session finished, and their costs."""
        record.restore(parts)
        for (index, part), kept in record.done.items():
            step = program.steps[index]
            step_record = self.record_of(step, step.name in placed)
            step_record.count(parts[part].sizes)
            step_record.seconds += kept.seconds
            step_record.stats.add(kept.stats)

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
        pass_record: PassRecord | None,
    ) -> None:
        for index, (step, ends) in enumerate(zip(program.steps, program.last_uses, strict=True)):
            optical = step.name in placed
            record = self.record_of(step, optical)
            for part in parts:
                if pass_record is not None and (index, part.number) in pass_record.done:
                    continue
                record.count(part.sizes)
                self.backend.beat()
                start = time.perf_counter()
                stats = None
                if isinstance(step, HostStep):
                    self.run_host(step, part.operands, ends)
                else:
                    backend = self.backend if optical else self._host
                    result = self.begin(step, part, backend)()
                    part.operands[step.y], stats = result.y, result.stats
                    record.stats.add(stats)
                seconds = time.perf_counter() - start
                record.seconds += seconds
                if pass_record is not None:
                    pass_record.keep((index, part.number), part.operands, seconds, stats)
                if self.backend.timeline is not None:
                    now_s = self.backend.clock.now_s()
                    details = details_of(step, part.number)
                    self.backend.timeline.add("host", step.name, now_s - seconds, now_s, **details)
                for operand in ends:
                    part.operands.pop(operand, None)

    def record_of(self, step: HostStep | OpticalMatmul, optical: bool) -> StepRecord:
        """Return the record of a step."""
        record = self.records.get(step.name)
        if record is None:
            record = self.records[step.name] = StepRecord(step, optical)
        return record

    def run_step(self, name: str, kind: str, step: str, *operands: Any, **parameters: Any) -> Any:
        """Run and time one host step outside of a program, such as sampling."""
        record = self.records.get(name)
        if record is None:
            sizes = (shape(np.size(operands[0])),)
            host = HostStep(name, kind, step, (), (), sizes, sizes, {}, parameters)
            record = self.records[name] = StepRecord(host, False)
        record.count({})
        start = time.perf_counter()
        result = check_step(step).call(*operands, **parameters)
        record.seconds += time.perf_counter() - start
        return result

    def calibrate(self, program: Program, inputs: Mapping[str, Any], sizes: dict[str, int]) -> None:
        """Fix read-out ranges and the scales of dynamic operands from a pass over other data.

        The pass is digital; for each product that goes to light the backend returns the largest
        noise-free value that its converter would read. Masked positions are left out.
        """
        if not self.backend.needs_ranges:
            return
        operands = {**inputs, **{name: State() for name in program.states}}
        self.decide(program, sizes)
        placed = self._placement(program)
        wanted = [step.name in placed for step in program.steps]
        stop = len(wanted) - wanted[::-1].index(True) if any(wanted) else 0
        part = Part(0, operands, sizes, RowIds(sizes, np.arange(sizes["batch"])))
        ranges: dict[str, Ranges] = {}
        for step, ends in zip(program.steps[:stop], program.last_uses[:stop], strict=True):
            if isinstance(step, HostStep):
                self.run_host(step, operands, ends)
            else:
                if step.name in placed:
                    ranges[step.name] = self.observe(step, operands)
                operands[step.y] = self.begin(step, part, self._host)().y
            for operand in ends:
                operands.pop(operand, None)
        self.ranges = ranges  # all at once: an interrupted pass leaves none

    def observe(self, step: OpticalMatmul, operands: Mapping[str, Any]) -> Ranges:
        """Return the ranges that one product needs, from the operands of a calibration pass."""
        x, backend = operands[step.x], self.backend
        if not step.dynamic:
            prepared = self._static(step, backend)
            largest = backend.observe(x, prepared, None)[0]
            return Ranges(_with_margin(largest, backend.profile.readout_range))
        w = operands[step.w]
        # fixed axes of a dynamic operand: its heads, and its outputs unless they are tokens
        tokens = not step.w_shape[-2].is_fixed
        scale = np.abs(w).max(axis=(0, -2, -1) if tokens else (0, -1), keepdims=True)[0]
        scale = scale * np.float32(WEIGHT_MARGIN)
        prepared = backend.prepare(w, ranges=Ranges(np.ones((1, 1, 1)), scale))
        valid = None
        if step.valid is not None:
            valid = np.tile(operands[step.valid] == 0, (1, 1, step.groups, 1))
        largest = backend.observe(x, prepared, valid)
        heads = w.shape[1]
        largest = largest.reshape(-1, heads, *largest.shape[1:]).max(axis=0)
        if tokens:
            largest = largest.max(axis=2, keepdims=True)
        if not step.w_shape[-1].is_fixed:
            largest = largest.max(axis=1, keepdims=True)
        return Ranges(_with_margin(largest, backend.profile.readout_range), scale)

    def _placement(self, program: Program) -> frozenset[str]:
        found = self._placed.get(id(program))
        if found is None:
            chosen = self.placement
            placed = chosen.on_light if isinstance(chosen, Placement) else place(program, chosen)
            found = self._placed[id(program)] = (program, placed)
        return found[1]

    def run_host(self, step: HostStep, operands: dict[str, Any], ends: tuple[str, ...]) -> None:
        """Run a host step on operands.

        Parameters
        ----------
        ends : operands that no later step reads; the first may be overwritten
        """
        found = self._host_steps.get(id(step))
        if found is None:
            named: dict[str, Any] = {k: self.weights[name] for k, name in step.weights.items()}
            found = step, check_step(step.step), {**named, **step.parameters}
            self._host_steps[id(step)] = found
        _, function, named = found
        if function.takes_scratch:
            named["scratch"] = step.inputs[0] in ends
        try:
            result = function.call(*[operands[name] for name in step.inputs], **named)
        except (ValueError, IndexError) as error:  # shapes that do not broadcast
            raise InputError(
                f"{step.name}: {error}; the configuration and the weights do not match"
            ) from None
        if len(step.outputs) == 1:
            operands[step.outputs[0]] = result
        else:
            operands.update(zip(step.outputs, result, strict=True))

    def begin(
        self,
        step: OpticalMatmul,
        part: Part,
        backend: Backend | None = None,
        done: Callable[[], None] | None = None,
    ) -> Callable[[], MatmulResult]:
        """Begin a product on a backend (None: on the host); see `Backend.begin`."""
        backend = self._host if backend is None else backend
        x = part.operands[step.x]
        weights = (
            backend.prepare(part.operands[step.w], ranges=self.ranges.get(step.name))
            if step.dynamic
            else self._static(step, backend)
        )
        address = Address(step.name, part.row_ids.of(x), self.attempt)
        details = None if backend.timeline is None else details_of(step, part.number)
        try:
            return backend.begin(x, weights, address, done, details)
        except InputError as error:
            raise InputError(f"{step.name}: {error}") from None

    def _static(self, step: OpticalMatmul, backend: Backend) -> PreparedWeights:
        if backend is self._host:  # a view, checked when it was read: no copy is kept
            weight = _weight(step, self.weights)
            return PreparedWeights(weight.shape, weight, maker=self._host.name)
        prepared = self._prepared.get(step.name)
        ranges = self.ranges.get(step.name)
        if prepared is None:
            prepared = backend.prepare(_weight(step, self.weights), ranges=ranges)
        elif prepared.ranges is not ranges:
            prepared = replace(prepared, ranges=ranges)
        self._prepared[step.name] = prepared
        return prepared


def _weight(step: OpticalMatmul, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    array = weights[step.w]
    array = array.reshape(len(array), -1) if array.ndim > 2 else array
    array = array.T if step.transposed else array
    if array.shape != evaluate(step.w_shape, {}):
        wanted = [str(size) for size in step.w_shape]
        raise InputError(
            f"weight {step.w!r} has shape {list(array.shape)}, but {step.name} needs "
            f"[{', '.join(wanted)}]; the configuration and the weights do not match"
        )
    return array


def _with_margin(largest: np.ndarray, readout_range: float | str | None) -> np.ndarray:
    """Return the ranges for the largest values in calibration, [..., segments, M].

    Per matmul: the largest of all outputs. Per row: the geometric mean of that and of the row's
    own largest, since a row that was small in calibration may have an outlier of another row's
    size (docs/explanation/ranges.md has the figures).
    """
    whole = largest.max(axis=(*range(largest.ndim - 2), -1), keepdims=True)
    if readout_range == "per-matmul":
        return np.asarray(np.broadcast_to(whole, (*largest.shape[:-1], 1)))
    return np.asarray(RANGE_MARGIN * np.sqrt(largest * whole))
