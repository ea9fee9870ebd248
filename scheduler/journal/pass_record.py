"""`PassRecord`: what a pass of a program keeps in a journal, and how it resumes from there.

A finished step is kept with its results, before any step that reads them may begin. Resuming
restores every operand that was live, and computes none again. Rearrangements (splitting heads,
appending to a state) are not a computation: their results are not kept, and they run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends import Stats
from ...instruments import InputError
from ..graph import Node
from ..host_steps import State, check_step
from ..micro_batch import Part
from ..program import HostStep, Program, Step

if TYPE_CHECKING:
    from .journal import Journal, KeptStep


class PassRecord:
    """One pass of a program in a journal.

    Parameters
    ----------
    identity : of the program and its placement (see `described_steps`)

    Attributes
    ----------
    cuts : rows (first, last) of each micro-batch; those of the session that began the pass
    done : steps that an earlier session finished

    Raises
    ------
    InputError : when the journal's pass of this number differs, or is damaged
    """

    def __init__(
        self,
        journal: Journal,
        program: Program,
        identity: tuple[str, list[list[str]]],
        inputs: Mapping[str, Any],
        sizes: Mapping[str, int],
        cuts: Sequence[tuple[int, int]],
    ) -> None:
        self._journal, self._program = journal, program
        self._number = number = next(journal.pass_numbers)
        self.cuts = list(cuts)
        self.done: dict[Node, KeptStep] = {}
        document = {
            "sizes": dict(sizes),
            "inputs": _digest(inputs),
            "cuts": [list(cut) for cut in cuts],
        }
        program_number = journal.keep_program(*identity)
        kept = journal.pass_document(number)
        if kept is None:
            journal.keep_pass(number, program_number, document)
            return
        self.cuts = [(first, last) for first, last in kept.pop("cuts")]
        expected = {"sizes": document["sizes"], "inputs": document["inputs"]}
        if kept != expected | {"program": program_number}:
            raise InputError(
                f"{journal.path}: pass {number} of the run had another program or other inputs; "
                "resume with the model, the options and the lightloom that began it"
            )
        self.done = journal.steps_of(number)

    def keep(
        self,
        node: Node,
        operands: Mapping[str, Any],
        seconds: float,
        stats: Stats | None = None,
    ) -> None:
        """Keep a step that has just finished; call it before any step may read its results."""
        step = self._program.steps[node[0]]
        values = [] if is_rearrangement(step) else [operands[name] for name in step.outputs]
        self._journal.keep_step((self._number, *node), values, seconds, stats)

    def restore(self, parts: Sequence[Part]) -> None:
        """Restore every operand that unfinished steps, or the caller, will read.

        Raises
        ------
        InputError : when one of them is damaged
        """
        for part in parts:
            done = [index for index, number in sorted(self.done) if number == part.number]
            self._restore(part, done)

    def _restore(self, part: Part, done: Sequence[int]) -> None:
        steps, finished = self._program.steps, set(done)
        left = [step for index, step in enumerate(steps) if index not in finished]
        wanted = {*self._program.outputs, *(name for step in left for name in step.inputs)}
        for index in reversed(done):  # a rearrangement needs its operands
            if is_rearrangement(steps[index]) and self._is_wanted(steps[index], wanted):
                wanted |= set(steps[index].inputs)
        for index in done:
            step = steps[index]
            if not self._is_wanted(step, wanted):
                continue
            if is_rearrangement(step):
                assert isinstance(step, HostStep)
                call = check_step(step.step).call
                moved = call(*[part.operands[name] for name in step.inputs], **step.parameters)
                values = [moved] if len(step.outputs) == 1 else list(moved)
            else:
                values = self._journal.values_of(self._number, index, part.number)
            part.operands.update(zip(step.outputs, values, strict=True))
        for name in [*part.operands]:
            if name not in wanted and not isinstance(part.operands[name], State):
                part.operands.pop(name)

    def _is_wanted(self, step: Step, wanted: set[str]) -> bool:
        """Return whether a step's results, or its additions to a state, will be read."""
        appends = not set(step.inputs).isdisjoint(self._program.states)
        return appends or not wanted.isdisjoint(step.outputs)


def is_rearrangement(step: Step) -> bool:
    """Return whether a step only rearranges its operands."""
    return isinstance(step, HostStep) and not (
        check_step(step.step).operations or step.weights or len(step.outputs) > 1
    )


def described_steps(program: Program, placed: frozenset[str]) -> tuple[str, list[list[str]]]:
    """Return a digest of a program and its placement; name, kind, place and needs of each step.

    The needs of a step are the numbers of the steps whose results it reads.
    """
    writers = {name: number for number, step in enumerate(program.steps) for name in step.outputs}
    steps = [
        [
            step.name,
            step.kind,
            "optical" if step.name in placed else "host",
            " ".join(str(writers[name]) for name in step.inputs if name in writers),
        ]
        for step in program.steps
    ]
    return blake2b(repr((program.steps, steps)).encode(), digest_size=16).hexdigest(), steps


def _digest(inputs: Mapping[str, Any]) -> str:
    state = blake2b(digest_size=16)
    for name in sorted(inputs):
        value = np.asarray(inputs[name])
        state.update(f"{name} {value.dtype.str} {value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    return state.hexdigest()
