"""`DigitalBackend`: exact float32 products, the reference for optical ones."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .address import Address
from .base import (
    Backend,
    MatmulResult,
    PreparedWeights,
    Ranges,
    Stats,
    as_float,
    check_finite,
    check_row_count,
)

_UNNAMED = Address("", np.empty(0, dtype=np.uint64))


class DigitalBackend(Backend):
    """Multiplies in float32 with numpy; keeps a view of the weights, not a copy.

    A number that is not finite reaches every output of its row of x, and every row for its output
    of w. So one output, or one row, of the product tells whether operands have to be searched.
    """

    name = "digital"
    is_optical = False

    def journal_entry(self) -> dict[str, Any]:
        """Return its kind."""
        return {"kind": "digital"}

    def begin(
        self,
        x: Any,
        w: Any,
        at: Address | None = None,
        done: Callable[[], None] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Callable[[], MatmulResult]:
        """Multiply, and return a function that returns the result; see `Backend.begin`."""
        x, is_prepared = as_float(x, "x"), isinstance(w, PreparedWeights)
        if not is_prepared:
            array = as_float(w, "weights")
            w = self.prepare(array) if array.ndim < 2 else self._wrapped(array)
        self._check_operands(x, w)
        if at is not None:
            check_row_count(x, at)
        matrices, shape = math.prod(w.shape[:-2]), (*x.shape[:-1], w.shape[-2])
        rows = math.prod(x.shape[:-1]) // max(matrices, 1)
        result = self._matmul(x.reshape(matrices, rows, x.shape[-1]), w, at or _UNNAMED)
        y = result.y
        if y.size and not _is_finite(y, not is_prepared):
            check_finite(x, "x")
            check_finite(w.content, "weights")
        if done is not None:
            done()
        finished = MatmulResult(y.reshape(shape), result.stats)
        return lambda: finished

    def _wrapped(self, weights: np.ndarray) -> PreparedWeights:
        return PreparedWeights(weights.shape, weights, maker=self._maker)

    def _check_rows(self, x: np.ndarray) -> None:
        """Leave numbers that are not finite to the check of the product."""

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> np.ndarray:
        return weights

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        weights = np.zeros(w.shape, dtype=np.float32) if w.content is None else w.content
        start = time.perf_counter()
        with np.errstate(invalid="ignore", over="ignore"):  # the product is checked
            if weights.ndim == 2:
                y = np.dot(x[0], weights.T)[None]
            else:
                # heads that are far apart in memory would take twice the time
                stacked = weights.reshape(len(x), *weights.shape[-2:])
                y = np.matmul(np.ascontiguousarray(x), stacked.swapaxes(-1, -2))
        seconds = {"product": time.perf_counter() - start}
        return MatmulResult(y, Stats(macs=x.size * w.shape[-2], seconds=seconds))


def _is_finite(y: np.ndarray, with_outputs: bool) -> bool:
    """Return whether one output of each row of y is finite, and one row of each output."""
    if y.size == y.shape[-1] and not with_outputs:
        return math.isfinite(y.item(0))
    if with_outputs and not np.isfinite(y[..., 0, :]).all():
        return False
    return bool(np.isfinite(y[..., 0]).all())
