"""`warm_up`: calls every compiled loop of the mock once, with the types of real products."""

import numpy as np

from ..address import Address
from ..base import Ranges
from ..profile import load_profile, profile_names
from .backend import MockBackend

_ROWS, _LENGTH, _OUTPUTS = (1, 40), 96, 70  # few rows and many take other loops


def warm_up() -> None:
    """Multiply static and dynamic operands on the bench of every profile."""
    generator = np.random.Generator(np.random.Philox(0))

    def numbers(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    stored = numbers(_OUTPUTS, _LENGTH), numbers(_LENGTH, _OUTPUTS).T, numbers(_LENGTH, _OUTPUTS).T
    for weights in stored[:2]:  # as in files that are mapped
        weights.flags.writeable = False

    for name in profile_names():
        backend = MockBackend(load_profile(name))
        for rows in _ROWS:
            ids = np.arange(rows, dtype=np.uint64)
            backend.matmul(numbers(rows, _LENGTH), numbers(_OUTPUTS, _LENGTH), Address("a", ids))
            at = Address("b", np.arange(2 * rows, dtype=np.uint64).reshape(2, rows))
            _grow(backend, numbers(2, rows, _LENGTH), numbers(2, _OUTPUTS, _LENGTH), at)
            for weights in stored:
                backend.observe(numbers(rows, _LENGTH), backend.prepare(weights), None)


def _grow(backend: MockBackend, x: np.ndarray, keys: np.ndarray, at: Address) -> None:
    """Multiply rows by keys, and by one key more, before and after their calibration."""
    valid = np.ones((2, x.shape[1], _OUTPUTS), dtype=bool)
    backend.observe(x, backend.prepare(keys), valid)
    ranges = Ranges(np.ones((2, 1, 1)), np.full((2, 1, 1), 4.0, dtype=np.float32))
    prepared = backend.prepare(keys[:, :-1], ranges=ranges)
    backend.matmul(x, backend.prepare(keys, ranges=ranges, grown=prepared), at)
