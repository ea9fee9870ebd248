"""`StepRunner`: runs single steps of programs on a backend or on the host, and measures them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends import (
    Address,
    Backend,
    DigitalBackend,
    MatmulResult,
    PreparedWeights,
    Ranges,
    Stats,
)
from ..instruments import InputError
from .graph import StepRecord
from .host_steps import HostFunction, check_step
from .micro_batch import Part, details_of
from .program import HostStep, OpticalMatmul, Step, evaluate, shape

RANGE_MARGIN = 1.5  # times the largest value in calibration
WEIGHT_MARGIN = 1.1  # the same for the scale of keys and values


class StepRunner:
    """Runs steps of one model on one backend and on the host.

    Parameters
    ----------
    weights : name -> float32 array; looked up when a step needs it. Weights of a file can also
        `lend` one, look up rows by a `table`, and `digest` their content

    Attributes
    ----------
    ranges : of the products on light, by name; see `Executor.calibrate`
    records : of all steps so far, by name
    """

    def __init__(self, backend: Backend, weights: Mapping[str, np.ndarray]) -> None:
        self.backend = backend
        self.weights = weights
        self.ranges: dict[str, Ranges] = {}
        self.records: dict[str, StepRecord] = {}
        self._host = DigitalBackend()
        self._prepared: dict[str, PreparedWeights] = {}
        # functions and arguments by identity of the step: a decoded token runs hundreds of steps
        self._host_steps: dict[int, tuple[HostStep, HostFunction, dict[str, Any]]] = {}

    def record_of(self, step: Step, optical: bool) -> StepRecord:
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
        start = time.perf_counter()
        result = check_step(step).call(*operands, **parameters)
        record.add({}, time.perf_counter() - start)
        return result

    def run_whole(
        self, step: Step, part: Part, ends: tuple[str, ...], backend: Backend | None = None
    ) -> tuple[float, Stats | None]:
        """Run a step to its end, and return its seconds and the events of a product.

        Parameters
        ----------
        ends : operands that no later step reads; a host step may overwrite the first
        backend : of a product; None runs it on the host
        """
        self.backend.beat()
        start_s = 0.0 if self.backend.timeline is None else self.backend.clock.now_s()
        start, stats = time.perf_counter(), None
        if isinstance(step, HostStep):
            self.run_host(step, part.operands, ends)
        else:
            result = self.begin(step, part, backend)()
            part.operands[step.y], stats = result.y, result.stats
        seconds = time.perf_counter() - start
        self.record_of(step, backend is not None).add(part.sizes, seconds, stats)
        if self.backend.timeline is not None:
            self.note("host", step, part, start_s)
        return seconds, stats

    def note(self, track: str, step: Step, part: Part, start_s: float) -> None:
        """Add a slice from a time until now to the backend's timeline, if it has one."""
        timeline = self.backend.timeline
        if timeline is not None:
            now_s = self.backend.clock.now_s()
            timeline.add(track, step.name, start_s, now_s, **details_of(step, part.number))

    def run_host(self, step: HostStep, operands: dict[str, Any], ends: tuple[str, ...]) -> None:
        """Run a host step on operands.

        Parameters
        ----------
        ends : operands that no later step reads; the first may be overwritten
        """
        found = self._host_steps.get(id(step))
        if found is None:
            function = check_step(step.step)
            named: dict[str, Any] = {
                key: self._table(name) if key in function.tables else self.weights[name]
                for key, name in step.weights.items()
            }
            found = step, function, {**named, **step.parameters}
            self._host_steps[id(step)] = found
        _, function, named = found
        inputs, outputs = step.inputs, step.outputs
        if function.takes_scratch:
            named["scratch"] = inputs[0] in ends
        try:
            result = function.call(*[operands[name] for name in inputs], **named)
        except (ValueError, IndexError) as error:  # shapes that do not broadcast
            raise InputError(
                f"{step.name}: {error}; the configuration and the weights do not match"
            ) from None
        if len(outputs) == 1:
            operands[outputs[0]] = result
        else:
            operands.update(zip(outputs, result, strict=True))

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
        if not step.dynamic:
            weights = self._static(step, backend)
        elif backend.is_optical:
            weights = self._dynamic(step, part, backend)
        else:  # nothing to encode, and no range
            weights = part.operands[step.w]
        address = Address(step.name, part.row_ids.of(x))
        details = None if backend.timeline is None else details_of(step, part.number)
        try:
            return backend.begin(x, weights, address, done, details)
        except InputError as error:
            raise InputError(f"{step.name}: {error}") from None

    def observe(
        self, step: OpticalMatmul, operands: Mapping[str, Any]
    ) -> tuple[Ranges, np.ndarray]:
        """Return the ranges that one product needs and its digital result.

        Parameters
        ----------
        operands : of a calibration pass
        """
        x, backend = operands[step.x], self.backend
        if not step.dynamic:
            with self._lent(step.w) as array:  # once, for light and for the host
                weight = _as_operand(step, array)
                self._prepared[step.name] = prepared = backend.prepare(weight)
                y = self._host.matmul(x, weight).y
            largest = backend.observe(x, prepared, None)
            largest = largest if len(prepared.shape) > 2 else largest[0]
            return Ranges(_with_margin(largest, backend.profile.readout_range)), y
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
        ranges = Ranges(_with_margin(largest, backend.profile.readout_range), scale)
        return ranges, self._host.matmul(x, w).y

    def _lent(self, name: str) -> AbstractContextManager[np.ndarray]:
        """Return a context that has a weight in memory, and keeps none that it had to convert."""
        lend: Any = getattr(self.weights, "lend", None)
        return nullcontext(self.weights[name]) if lend is None else lend(name)

    def _table(self, name: str) -> Any:
        """Return what looks up rows of a weight by `table[rows]`, if possible without all of it."""
        table: Any = getattr(self.weights, "table", None)
        return self.weights[name] if table is None else table(name)

    def _dynamic(self, step: OpticalMatmul, part: Part, backend: Backend) -> PreparedWeights:
        """Prepare an operand; of keys and values, only the tokens that are new."""
        ranges, kept = self.ranges.get(step.name), None
        state = part.operands.get(step.state) if step.state else None
        if state is not None:
            kept = state.encoded.pop(step.name, None)
            tokens = -1 if step.w_shape[-2].is_fixed else -2  # axis of values or of keys
            if kept is not None and kept.shape[tokens] != part.sizes["past"]:
                kept = None  # of a pass that failed
        prepared = backend.prepare(part.operands[step.w], ranges=ranges, grown=kept)
        if state is not None:
            state.encoded[step.name] = prepared
        return prepared

    def _static(self, step: OpticalMatmul, backend: Backend) -> PreparedWeights:
        if backend is self._host:  # a view, checked when it was read: no copy is kept
            weight = _as_operand(step, self.weights[step.w])
            return PreparedWeights(weight.shape, weight, maker=self._host.name)
        prepared = self._prepared.get(step.name)
        ranges = self.ranges.get(step.name)
        if prepared is None:
            if backend.is_optical:  # encoded; what a digital backend keeps is the weight itself
                with self._lent(step.w) as array:
                    prepared = backend.prepare(_as_operand(step, array), ranges=ranges)
            else:
                weight = _as_operand(step, self.weights[step.w])
                prepared = backend.prepare(weight, ranges=ranges)
        elif prepared.ranges is not ranges:
            prepared = replace(prepared, ranges=ranges)
        self._prepared[step.name] = prepared
        return prepared


def _as_operand(step: OpticalMatmul, array: np.ndarray) -> np.ndarray:
    """Return a stored weight as the operand [M, K] of its product."""
    needed = evaluate(step.w_shape, {})
    if array.ndim > 2 and len(needed) == 2:
        array = array.reshape(len(array), -1)
    array = array.T if step.transposed else array
    if array.shape != needed:
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
