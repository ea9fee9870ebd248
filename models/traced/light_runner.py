"""`LightRunner`: runs the products of a torch module on a backend, with ranges and records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backends import Address, Backend, Ranges, Stats
from ...instruments import InputError
from ...scheduler.graph import StepRecord
from ...scheduler.host_steps import host_step
from ...scheduler.placement import FIXED, Placement, rules_of
from ...scheduler.program import BATCH, NEW, PAST, HostStep, OpticalMatmul, shape
from ...scheduler.step_runner import StepRunner

TORCH_STEP = HostStep("torch", "torch", "torch", (), (), (), ())
"""All operations of a module beside its products, which torch computes."""


@host_step(operations=0)
def torch(*operands: Any) -> Any:
    """Stand for `TORCH_STEP` in the registry of host steps; it is timed where torch runs it."""
    return operands


_FIXED_RANGES = ("per-matmul", "per-row")


@dataclass(frozen=True)
class Call:
    """One product to be computed.

    Parameters
    ----------
    name : of the product: the path of its module, and its role
    kind : one of `MATMUL_KINDS`
    x : float32 [..., N, K], with the leading axes of w; [B, H, N, K] where w is an operand
    w_shape : [M, K] or [G, M, K] of a weight; [B, H, M, K] of an operand
    read_w : returns w in float32
    version : changes with the numbers of a weight; None for an operand
    ids : uint64, one for each row of x
    number : of passes of the same rows before, and of calls of this product in this pass
    tokens : axis of an operand's w that counts tokens: -2 (keys), -1 (values)
    groups : query heads that share one key head
    non_negative : no value of x is below zero
    """

    name: str
    kind: str
    x: np.ndarray
    w_shape: tuple[int, ...]
    read_w: Callable[[], np.ndarray]
    version: Any
    ids: np.ndarray
    number: tuple[int, int]
    tokens: int = -2
    groups: int = 1
    non_negative: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers of the symbols in the shapes of its step."""
        rows = self.x.shape[-2]
        if self.version is not None:
            return {"batch": 1, "new": rows, "past": 0}
        past = self.w_shape[self.tokens]
        return {"batch": self.x.shape[0], "new": rows // self.groups, "past": past}

    def step(self, name: str) -> OpticalMatmul:
        """Return the product as a step; the calls of a decoded text differ in `sizes` only."""
        *leading, outputs, length = self.w_shape
        is_operand = self.version is None
        if not is_operand:
            x, w = shape(*leading, NEW, length), shape(*leading, outputs, length)
        elif self.tokens == -1:
            x = shape(BATCH, leading[1], self.groups * NEW, PAST)
            w = shape(BATCH, leading[1], outputs, PAST)
        else:
            x = shape(BATCH, leading[1], self.groups * NEW, length)
            w = shape(BATCH, leading[1], PAST, length)
        return OpticalMatmul(
            name,
            self.kind,
            "x",
            "w" if is_operand else name,
            "y",
            x,
            w,
            dynamic=is_operand,
            non_negative=self.non_negative,
            groups=self.groups,
        )


class _Readers(Mapping[str, np.ndarray]):
    """The weights of products by name, read from torch when they are encoded; none is kept."""

    def __init__(self) -> None:
        self.readers: dict[str, Callable[[], np.ndarray]] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


class LightRunner(StepRunner):
    """Runs products that come one at a time, each with its operands.

    Parameters
    ----------
    placement : a policy that needs no costs, the path of a file of rules, or the placement of a
        plan

    Attributes
    ----------
    is_calibrating : products are computed digitally, and ranges are taken from their numbers
    uncalibrated : names of products whose ranges come from their own first call
    calls : records of all products so far, by name, place and shapes

    Raises
    ------
    InputError : for a placement that compares costs
    """

    def __init__(self, backend: Backend, placement: str | Placement) -> None:
        self._readers = _Readers()
        super().__init__(backend, self._readers)
        self._placement = placement
        self._rules = rules_of(placement) if isinstance(placement, str) else None
        self.is_calibrating = False
        self.uncalibrated: set[str] = set()
        self.calls: dict[tuple[Any, ...], StepRecord] = {}
        self._versions: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}
        if self._rules is not None:
            _check_policies([self._rules.default, *(rule.policy for rule in self._rules.rules)])

    def forget_weights(self) -> None:
        """Forget encoded weights, whose numbers may have changed unseen."""
        self._versions.clear()

    def goes_to_light(self, step: OpticalMatmul) -> bool:
        """Return whether the placement sends a product to the backend."""
        if isinstance(self._placement, Placement):
            return step.name in self._placement.on_light
        assert self._rules is not None
        return FIXED[self._rules.of(step)[0]](step)

    def step_of(self, call: Call) -> OpticalMatmul:
        """Return the step of a call; operands of another length are another product."""
        name = call.name
        if call.version is None and call.tokens == -2:
            length = call.w_shape[-1]
            if self._lengths.setdefault(name, length) != length:
                name = f"{name}.of_{length}"
        return call.step(name)

    def count(
        self,
        step: OpticalMatmul | HostStep,
        optical: bool,
        sizes: Mapping[str, int],
        seconds: float,
        stats: Stats | None = None,
    ) -> None:
        """Add a call of a step to its record."""
        shapes = (step.x_shape, step.w_shape) if isinstance(step, OpticalMatmul) else ()
        key = (step.name, optical, *shapes)
        found = self.calls.get(key)
        if found is None:
            found = self.calls[key] = StepRecord(step, optical)
        found.add(sizes, seconds, stats)

    def multiply(self, step: OpticalMatmul, call: Call, seed: int) -> np.ndarray:
        """Compute a product on the backend: float32 [..., N, M].

        Raises
        ------
        InputError : for numbers that are not finite
        """
        start = time.perf_counter()
        if not step.dynamic and self._versions.get(step.name) != call.version:
            self._versions[step.name] = call.version
            self._readers.readers[step.name] = call.read_w
            self._prepared.pop(step.name, None)
        w = call.read_w() if step.dynamic else None
        if self._needs_ranges(step):
            if self.is_calibrating:
                return self._calibrated(step, call, w)
            if step.name not in self.ranges:
                self._calibrated(step, call, w)
                self.uncalibrated.add(step.name)
        if self.is_calibrating:
            return self._host.matmul(call.x, self._readers[step.w] if w is None else w).y
        number = "#{}.{}".format(*call.number) if any(call.number) else ""
        prefix = f"{seed}:" if seed else ""
        address = Address(f"{prefix}{step.name}{number}", call.ids.reshape(call.x.shape[:-1]))
        try:
            result = self.backend.matmul(call.x, self._weights_of(step, w), address)
        except InputError as error:
            raise InputError(f"{step.name}: {error}") from None
        seconds = time.perf_counter() - start
        self.count(step, self.backend.is_optical, call.sizes, seconds, result.stats)
        return result.y

    def _weights_of(self, step: OpticalMatmul, w: np.ndarray | None) -> Any:
        if w is None:
            return self._static(step, self.backend)
        if not self.backend.is_optical:
            return w
        ranges = self.ranges.get(step.name)
        return self.backend.prepare(w, ranges=None if ranges is None else _fitted(ranges, w))

    def _needs_ranges(self, step: OpticalMatmul) -> bool:
        if not self.backend.needs_ranges:
            return False
        return step.dynamic or self.backend.profile.readout_range in _FIXED_RANGES

    def _calibrated(self, step: OpticalMatmul, call: Call, w: np.ndarray | None) -> np.ndarray:
        """Widen the ranges of a product by the numbers of a call; return its digital result."""
        found, y = self.observe(step, {"x": call.x, "w": w})
        before = self.ranges.get(step.name)
        self.ranges[step.name] = found if before is None else _wider(before, found)
        return y


def _check_policies(policies: Sequence[str]) -> None:
    for policy in policies:
        if policy not in FIXED:
            raise InputError(
                f"the placement {policy!r} compares the costs of a whole program, which does not "
                f"exist before the module runs; choose from {', '.join(FIXED)}, or give the "
                "placement `plan.decided` of the traced model"
            )


def _wider(one: Ranges, other: Ranges) -> Ranges:
    """Return ranges that hold the values of both."""
    if one.readout.shape[0] != other.readout.shape[0]:
        one, other = _for_all(one), _for_all(other)
    weight = None
    if one.weight is not None and other.weight is not None:
        weight = np.maximum(one.weight, other.weight)
    return Ranges(np.maximum(one.readout, other.readout), weight)


def _fitted(ranges: Ranges, w: np.ndarray) -> Ranges:
    """Return ranges for operands [B, H, M, K], which may have more heads than in calibration."""
    return ranges if ranges.readout.shape[0] in (1, w.shape[1]) else _for_all(ranges)


def _for_all(ranges: Ranges) -> Ranges:
    """Return ranges that hold for every head."""
    weight = None if ranges.weight is None else ranges.weight.max(axis=0, keepdims=True)
    return Ranges(ranges.readout.max(axis=0, keepdims=True), weight)
