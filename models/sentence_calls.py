"""Sentences through an encoder: their embeddings, or the classes of its head."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..instruments import InputError
from ..scheduler import Executor, Program
from ..scheduler.host_steps import unit_length
from ..scheduler.runs.model_protocol import RunnableModel
from .inputs import padded

_SENTENCES_PER_PASS = 32
_VALUES_PER_PASS = 1 << 21  # of logits in memory


Rows = Sequence[Sequence[int]]
"""The tokens of each sentence."""


def embed(model: RunnableModel, rows: Rows, executor: Executor, width: int | None) -> np.ndarray:
    """Return the embedding of each sentence, of length 1: its first `width` values, or all."""
    vectors = np.empty((len(rows), _width(model.program("sentence"))), dtype=np.float32)
    for ids, _, found in _passes(model, rows, "sentence", executor):
        vectors[ids] = found
    return unit_length(vectors[:, :width])


def check_classes(model: RunnableModel) -> None:
    """Refuse an encoder whose head has no classes."""
    classes = _width(model.program("logits")) if model.head else 0
    if classes < 2:
        what = "it has no head" if not classes else "its head gives one number, see `forward`"
        raise InputError(f"the model {model.name!r} cannot classify sentences: {what}")


def classify(model: RunnableModel, rows: Rows, executor: Executor) -> list[np.ndarray]:
    """Return the most probable class of each sentence, or of each of its tokens."""
    classified: list[np.ndarray] = []
    for _, lengths, logits in _passes(model, rows, "logits", executor):
        pairs = zip(logits.argmax(axis=-1), lengths, strict=True)
        classified += [each[:length] if each.ndim else each for each, length in pairs]
    return classified


def _passes(
    model: RunnableModel, rows: Rows, ending: str, executor: Executor
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ids, lengths and results of some sentences at a time."""
    values = max(map(len, rows), default=1) * _width(model.program(ending))
    step = min(_SENTENCES_PER_PASS, max(1, _VALUES_PER_PASS // values))
    for first in range(0, len(rows), step):
        tokens, lengths = padded(rows[first : first + step])
        ids = np.arange(first, first + len(tokens))
        yield ids, lengths, model.run_pass(executor, ending, tokens, lengths, None, ids)


def _width(program: Program) -> int:
    """Return the length of the last axis of a program's result."""
    return program.shapes[program.outputs[0]][-1]({})
