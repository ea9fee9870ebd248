"""`Part`: a micro-batch of a pass; a batch is split into parts, and their outputs are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import cuts, row_ids
from .host_steps import State
from .program import BATCH, Program, Step

_PART_COUNTS = (1, 2, 4, 8)  # numbers of micro-batches to try


@dataclass
class Part:
    """Some rows of a batch, with operands of their own.

    Parameters
    ----------
    number : of the micro-batch
    operands : name -> array, of live operands
    sizes : batch, new and past tokens; batch is that of this part
    row_ids : names the rows, for the addresses of the noise
    """

    number: int
    operands: dict[str, Any]
    sizes: dict[str, int]
    row_ids: RowIds


def details_of(step: Step, part: int) -> dict[str, Any]:
    """Return the step and micro-batch of a slice, for a timeline."""
    details: dict[str, Any] = {"step": step.name, "kind": step.kind}
    if step.layer is not None:
        details["layer"] = step.layer
    return details | {"micro_batch": part}


class RowIds:
    """Row ids of operands in one pass, from sequence, head and position."""

    def __init__(self, sizes: Mapping[str, int], sequences: Sequence[int] | np.ndarray) -> None:
        self._sizes, self._sequences = sizes, sequences
        self._ids: dict[tuple[int, ...], np.ndarray] = {}

    def of(self, x: np.ndarray) -> np.ndarray:
        """Return an id for each row of x: uint64 [...].

        The rows of x [B, ..., K], or [B T, ..., K], are those of each sequence one after another.
        Others, which do not divide onto the sequences, are counted.
        """
        shape = x.shape[:-1]
        ids = self._ids.get(shape)
        if ids is None:
            rows, batch = int(np.prod(shape, dtype=int)), len(self._sequences)
            if rows % batch:
                ids = self._ids[shape] = np.arange(rows, dtype=np.uint64).reshape(shape)
                return ids
            per_sequence = rows // batch
            new, past = self._sizes["new"], self._sizes["past"]
            heads, count = (
                (per_sequence // new, new) if per_sequence % new == 0 else (1, per_sequence)
            )
            positions = max(0, past + new - count) + np.arange(count)
            ids = row_ids(np.asarray(self._sequences), heads, positions).reshape(shape)
            self._ids[shape] = ids
        return ids


def micro_batches(batch: int, count: int) -> list[tuple[int, int]]:
    """Cut a batch into parts of about equal size, at most one per row: [(first, last)]."""
    return cuts(batch, -(-batch // max(1, min(count, batch))))


def part_counts(batch: int) -> list[int]:
    """Return the numbers of micro-batches to try for a batch."""
    return [count for count in _PART_COUNTS if count <= batch]


def sizes_of_parts(sizes: Mapping[str, int], count: int) -> list[dict[str, int]]:
    """Return the sizes of each micro-batch of a pass."""
    return [
        {**sizes, "batch": last - first} for first, last in micro_batches(sizes["batch"], count)
    ]


def split(
    program: Program,
    inputs: Mapping[str, Any],
    sizes: Mapping[str, int],
    sequences: Sequence[int] | np.ndarray,
    states: Mapping[str, State],
    where: Sequence[tuple[int, int]],
) -> list[Part]:
    """Split the operands of a pass into parts of the batch; one part keeps them as they are."""
    if len(where) == 1:
        operands = {**inputs, **states}
        return [Part(0, operands, dict(sizes), RowIds(sizes, sequences))]
    of_states = {name: state.split(where, sizes["new"]) for name, state in states.items()}
    parts = []
    for number, (first, last) in enumerate(where):
        operands = {
            name: value[first:last] if _has_batch(program, name) else value
            for name, value in inputs.items()
        }
        operands |= {name: children[number] for name, children in of_states.items()}
        own = {**sizes, "batch": last - first}
        parts.append(Part(number, operands, own, RowIds(own, sequences[first:last])))
    return parts


def join(program: Program, parts: Sequence[Part], states: Mapping[str, State]) -> dict[str, Any]:
    """Return the joined outputs of all parts; the states take over appended rows."""
    if len(parts) == 1:
        return {name: parts[0].operands[name] for name in program.outputs}
    for name, state in states.items():
        state.join([part.operands[name] for part in parts])
    outputs = {}
    for name in program.outputs:
        values = [part.operands[name] for part in parts]
        outputs[name] = np.concatenate(values) if _has_batch(program, name) else values[0]
    return outputs


def _has_batch(program: Program, operand: str) -> bool:
    shape = program.shapes[operand]
    return bool(shape) and shape[0] == BATCH
