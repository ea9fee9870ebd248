"""What the scheduler does with weights besides looking them up by name.

The weights of a model from files (`lightloom.models.weights`) can lend a tensor, look up rows and
digest their content. A plain mapping of arrays is good enough for everything but the digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

WeightStore = Mapping[str, np.ndarray]


def lend(weights: WeightStore, name: str) -> AbstractContextManager[np.ndarray]:
    """Return a context in which a weight is in memory; it is not kept where it was not before."""
    lender: Any = getattr(weights, "lend", None)
    return nullcontext(weights[name]) if lender is None else lender(name)


def table(weights: WeightStore, name: str) -> Any:
    """Return what looks rows of a weight up by `table[rows]`, without a copy of all of it."""
    rows: Any = getattr(weights, "table", None)
    return weights[name] if rows is None else rows(name)


def digest(weights: WeightStore, name: str) -> bytes | None:
    """Return a digest of the content of a weight; None where only its numbers are known."""
    digested: Any = getattr(weights, "digest", None)
    return None if digested is None else digested(name)
