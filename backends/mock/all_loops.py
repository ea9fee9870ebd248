"""`warm_up`: calls every compiled loop of the mock once, with the types of real products."""

import numpy as np

from ..address import Address
from ..profile import load_profile, profile_names
from .backend import MockBackend

_ROWS, _LENGTH, _OUTPUTS = (1, 40), 96, 70  # few rows and many take other loops


def warm_up() -> None:
    """Multiply static and dynamic operands on the bench of every profile."""
    generator = np.random.Generator(np.random.Philox(0))

    def numbers(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    for name in profile_names():
        backend = MockBackend(load_profile(name))
        for rows in _ROWS:
            ids = np.arange(rows, dtype=np.uint64)
            backend.matmul(numbers(rows, _LENGTH), numbers(_OUTPUTS, _LENGTH), Address("a", ids))
            dynamic, stacked = numbers(2, _OUTPUTS, _LENGTH), np.arange(2 * rows, dtype=np.uint64)
            at = Address("b", stacked.reshape(2, rows))
            backend.matmul(numbers(2, rows, _LENGTH), dynamic, at)
