"""`DigitalBackend`: exact float32 products, the reference for optical ones."""

import time
from typing import Any

import numpy as np

from .address import Address
from .base import Backend, MatmulResult, PreparedWeights, Ranges, Stats


class DigitalBackend(Backend):
    """Multiplies in float32 with numpy; keeps a view of the weights, not a copy."""

    name = "digital"
    is_optical = False

    def journal_entry(self) -> dict[str, Any]:
        """Return its kind."""
        return {"kind": "digital"}

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> np.ndarray:
        return weights

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        weights: np.ndarray = w.content
        start = time.perf_counter()
        if weights.ndim == 2:
            y = np.matmul(x, weights.T)
        else:
            stacked = weights.reshape(-1, *weights.shape[-2:])
            y = np.matmul(x, np.swapaxes(stacked, -1, -2))
        seconds = {"product": time.perf_counter() - start}
        macs = x.size * w.shape[-2]
        return MatmulResult(y, Stats(macs=macs, seconds=seconds))
