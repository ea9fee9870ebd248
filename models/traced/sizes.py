"""Symbolic sizes from several recordings of one module, made with inputs of different sizes.

A number that changes with the inputs becomes a sum over batch, new and past tokens; it has to agree
with every recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...scheduler.program import BATCH, NEW, PAST, Size

_TERMS = (Size.of(1), BATCH, NEW, PAST, BATCH * NEW, BATCH * PAST)


class NotSymbolic(ValueError):
    """The recordings differ in more than their sizes."""


def merged(values: Sequence[Any], sizes: Sequence[Mapping[str, int]]) -> Any:
    """Return arguments of one operation in several recordings as one, with sizes in them.

    Parameters
    ----------
    values : the arguments in each recording
    sizes : batch, new and past tokens of each recording

    Raises
    ------
    NotSymbolic : when they differ in more than whole numbers that follow from the sizes
    """
    first = values[0]
    if isinstance(first, list | tuple):
        if any(not isinstance(value, list | tuple) or len(value) != len(first) for value in values):
            raise NotSymbolic(f"{values}")
        return [merged(part, sizes) for part in zip(*values, strict=True)]
    if isinstance(first, Mapping):
        if any(value.keys() != first.keys() for value in values):
            raise NotSymbolic(f"{values}")
        return {key: merged([value[key] for value in values], sizes) for key in first}
    if all(value == first for value in values):
        return first
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise NotSymbolic(f"{values}")
    return fitted(values, sizes)


def fitted(values: Sequence[int], sizes: Sequence[Mapping[str, int]]) -> Size:
    """Return the size that has these values for the given sizes.

    Raises
    ------
    NotSymbolic : when there is none
    """
    columns: dict[tuple[int, ...], Size] = {}
    for term in _TERMS:  # of terms that the recordings cannot tell apart, the simpler one
        columns.setdefault(tuple(term(size) for size in sizes), term)
    used = [term for column, term in columns.items() if term.is_fixed or len(set(column)) > 1]
    table = np.array([[term(size) for term in used] for size in sizes], dtype=float)
    weights = np.rint(np.linalg.lstsq(table, np.array(values, dtype=float), rcond=None)[0])
    found = Size(())
    for weight, term in zip(weights, used, strict=True):
        found = found + int(weight) * term
    if [found(size) for size in sizes] != list(values):
        raise NotSymbolic(f"{values} do not follow from {sizes}")
    return found
