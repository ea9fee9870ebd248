"""`write`: recordings of a torch module as the program that the families' pages write, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...instruments import InputError
from ...scheduler.program import (
    HostStep,
    OpticalMatmul,
    Program,
    Shape,
    Size,
    Step,
    shape,
)
from .aten_steps import (
    described,
    has_sizes,
    kind_of_step,
    name_of_step,
    needed_options,
    packet_of,
    register_steps,
)
from .recorder import Recorded, Recording, TensorRef, WeightRef
from .sizes import NotSymbolic, fitted, merged

Sizes = Mapping[str, int]
_SCALINGS = ("_unsafe_view", "div", "mul", "view")  # between scores and their mask


@dataclass(frozen=True)
class Port:
    """An input of a program.

    Parameters
    ----------
    name : of the operand
    is_state : keys or values of past tokens, to which the pass appends its own
    """

    name: str
    is_state: bool = False


class ProgramWriter:
    """Writes the program of one or more recordings of the same pass with different sizes.

    Parameters
    ----------
    sizes : batch, new and past tokens of each recording
    inputs : of the program, in the order of the recordings' inputs
    outputs : names of the recordings' outputs
    has_tokens : whether the second axis of the first input counts tokens

    Raises
    ------
    NotSymbolic : when the recordings differ in more than their sizes
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        sizes: Sequence[Sizes],
        inputs: Sequence[Port],
        outputs: Sequence[str],
        has_tokens: bool,
    ) -> None:
        counts = {len(recording.steps) for recording in recordings}
        if len(counts) > 1:
            raise NotSymbolic(f"the number of steps depends on the sizes: {sorted(counts)}")
        self._recordings, self._sizes = recordings, sizes
        self._ports, self._output_names = inputs, outputs
        self._has_tokens = has_tokens
        self._steps: list[Step] = []
        self._shapes: dict[str, Shape] = {}
        self._names: dict[int, str] = {}
        self._used: Counter[str] = Counter()
        self._weight_shapes: dict[str, tuple[int, ...]] = {}
        self._asks_sizes = False

    def program(self) -> Program:
        """Return the program."""
        first = self._recordings[0]
        needed = _needed(first)
        for number, port in zip(first.inputs, self._ports, strict=True):
            self._names[number] = port.name
            self._shapes[port.name] = self._shape_of(number)
        self._shapes |= {"past": shape(), "sizes": shape(3)}
        for index, step in enumerate(first.steps):
            if not needed.isdisjoint(step.results):
                self._write([recording.steps[index] for recording in self._recordings])
        self._mark_masks()
        outputs = self._outputs(first)
        feeds = tuple(port.name for port in self._ports if not port.is_state)
        steps: tuple[Step, ...] = tuple(self._steps)
        if self._asks_sizes:
            steps = (self._sizes_step(feeds[0]), *steps)
        states = tuple(port.name for port in self._ports if port.is_state)
        program = Program(
            steps, (*feeds, "past"), states, outputs, self._shapes, self._weight_shapes
        )
        register_steps(program)
        return program

    def _mark_masks(self) -> None:
        """Tell products of queries and keys which places are masked after them.

        The mask is what is added to the scaled scores, alike for all heads; 0 is a valid place.
        """
        written = {name: place for place, step in enumerate(self._steps) for name in step.outputs}
        readers: dict[str, list[Step]] = {}
        for step in self._steps:
            for name in step.inputs:
                readers.setdefault(name, []).append(step)
        for place, step in enumerate(self._steps):
            if not isinstance(step, OpticalMatmul) or step.kind != "QK^T":
                continue
            mask = self._mask_after(step.y, readers)
            if mask is not None and written.get(mask, place) < place:
                self._steps[place] = replace(step, valid=mask)

    def _mask_after(self, scores: str, readers: Mapping[str, Sequence[Step]]) -> str | None:
        """Return the mask [B, 1, N, T] that is added to scores; None where there is none."""
        while len(found := readers.get(scores, [])) == 1:
            (step,) = found
            if not isinstance(step, HostStep):
                return None
            packet = packet_of(step.step)
            if packet == "add":
                others = [name for name in step.inputs if name != scores]
                mask = self._shapes[others[0]] if others else ()
                is_mask = len(mask) == 4 and mask[1] == Size.of(1)
                return others[0] if is_mask else None
            if packet not in _SCALINGS:
                return None
            scores = step.outputs[0]
        return None

    def _outputs(self, first: Recording) -> tuple[str, ...]:
        """Return the names of the outputs; a state among them is the program's own business."""
        names = []
        for number in first.outputs[: len(self._output_names)]:
            names.append(self._names[number])
        return tuple(names)

    def _sizes_step(self, first: str) -> HostStep:
        inputs = (first, "past")
        return HostStep(
            "sizes",
            "layout",
            "sizes",
            inputs,
            ("sizes",),
            tuple(self._shapes[name] for name in inputs),
            (shape(3),),
            parameters={"has_tokens": self._has_tokens},
        )

    def _shape_of(self, number: int) -> Shape:
        """Return the symbolic shape of a numbered tensor."""
        found = [recording.shapes[number] for recording in self._recordings]
        if len({len(one) for one in found}) > 1:
            raise NotSymbolic(f"{found}")
        return tuple(
            Size.of(axis[0]) if len(set(axis)) == 1 else fitted(axis, self._sizes)
            for axis in zip(*found, strict=True)
        )

    def _unique(self, name: str) -> str:
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}.{self._used[name]}"

    def _write(self, steps: Sequence[Recorded]) -> None:
        first = steps[0]
        if any(
            (step.function, step.product, step.results)
            != (first.function, first.product, first.results)
            for step in steps
        ):
            raise NotSymbolic("the operations depend on the sizes")
        if first.product is not None:
            self._write_product(first)
        elif not self._write_append(first):
            self._write_host(steps)

    def _write_host(self, steps: Sequence[Recorded]) -> None:
        first = steps[0]
        arguments = merged([step.operands for step in steps], self._sizes)
        options = merged([needed_options(step.options) for step in steps], self._sizes)
        operands: list[Any] = []
        weights: dict[str, str] = {}
        parameters = {
            "arguments": described(arguments, operands, weights),
            "options": {key: described(value, operands, weights) for key, value in options.items()},
        }
        inputs = [self._names[ref.number] for ref in operands]
        if has_sizes(list(parameters.values())):
            inputs.append("sizes")
            self._asks_sizes = True
        step_name = name_of_step(first.function)
        self._add_host(first, step_name, tuple(inputs), weights, parameters)

    def _add_host(
        self,
        recorded: Recorded,
        step_name: str,
        inputs: tuple[str, ...],
        weights: Mapping[str, str],
        parameters: Mapping[str, Any],
    ) -> None:
        place = f"{recorded.path}.{packet_of(step_name)}" if recorded.path else packet_of(step_name)
        name = self._unique(place)
        count = len(recorded.results)
        names = tuple(name if count == 1 else f"{name}:{part}" for part in range(count))
        for number, result in zip(recorded.results, names, strict=True):
            self._names[number] = result
            self._shapes[result] = self._shape_of(number)
        for weight in weights.values():
            self._weight(weight)
        self._steps.append(
            HostStep(
                name,
                kind_of_step(step_name),
                step_name,
                inputs,
                names,
                tuple(self._shapes[operand] for operand in inputs),
                tuple(self._shapes[result] for result in names),
                weights,
                parameters,
            )
        )

    def _write_append(self, recorded: Recorded) -> bool:
        """Write the joining of a state with its new tokens; return whether this step is one."""
        if recorded.function is not torch.ops.aten.cat.default:
            return False
        parts, *axis = recorded.operands
        states = {port.name for port in self._ports if port.is_state}
        old = parts[0]
        if (
            len(parts) != 2
            or not isinstance(old, TensorRef)
            or self._names.get(old.number) not in states
        ):
            return False
        if (axis or [0])[0] not in (-2, 2):
            raise InputError(
                f"the cache {self._names[old.number]!r} is not joined along its tokens, so that "
                "it cannot be a state; trace the model without a cache"
            )
        inputs = (self._names[parts[1].number], self._names[old.number])
        name = self._unique(f"{recorded.path}.append")
        number = recorded.results[0]
        self._names[number], self._shapes[name] = name, self._shape_of(number)
        self._steps.append(
            HostStep(
                name,
                "layout",
                "append_state",
                inputs,
                (name,),
                tuple(self._shapes[operand] for operand in inputs),
                (self._shapes[name],),
            )
        )
        return True

    def _write_product(self, recorded: Recorded) -> None:
        assert recorded.product is not None
        name, kind, groups, is_softmax = recorded.product
        x, w = recorded.operands
        unique = self._unique(name)
        if isinstance(x, WeightRef):  # of a weight by a weight
            x = self._from_weight(x, recorded)
        operand = self._names[x.number]
        number = recorded.results[0]
        y = unique
        self._names[number], self._shapes[y] = y, self._shape_of(number)
        is_static = isinstance(w, WeightRef)
        weight = w.name if is_static else self._names[w.number]
        if is_static:
            self._weight(weight)
            w_shape = shape(*self._weight_shapes[weight])
        else:
            w_shape = self._shapes[weight]
        self._steps.append(
            OpticalMatmul(
                unique,
                kind,
                operand,
                weight,
                y,
                self._shapes[operand],
                w_shape,
                dynamic=not is_static,
                non_negative=is_softmax,
                groups=groups,
            )
        )

    def _from_weight(self, stored: WeightRef, recorded: Recorded) -> TensorRef:
        """Write a step that gives a weight as an operand."""
        number = -1 - len(self._steps)
        for recording in self._recordings:
            recording.shapes[number] = tuple(recording.stored[stored.name].shape)
        given = Recorded(
            recorded.path,
            torch.ops.aten.alias.default,
            (stored,),
            {},
            (number,),
            (recorded.shapes[0],),
        )
        self._write_host([given] * len(self._recordings))
        return TensorRef(number)

    def _weight(self, name: str) -> None:
        self._weight_shapes[name] = tuple(self._recordings[0].stored[name].shape)


def _needed(recording: Recording) -> set[int]:
    """Return the numbers of all tensors that the outputs follow from."""
    needed = set(recording.outputs)
    for step in reversed(recording.steps):
        if not needed.isdisjoint(step.results):
            needed.update(ref.number for ref in _refs([step.operands, step.options]))
    return needed


def _refs(argument: Any) -> list[TensorRef]:
    if isinstance(argument, TensorRef):
        return [argument]
    if isinstance(argument, Mapping):
        return [ref for value in argument.values() for ref in _refs(value)]
    if isinstance(argument, list | tuple):
        return [ref for value in argument for ref in _refs(value)]
    return []
