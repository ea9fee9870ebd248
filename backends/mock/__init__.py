"""The fast statistical model of a bench."""

from functools import cache
from typing import Any


@cache
def compiled_loops() -> Any:
    """Return the module `kernels`, which is imported when a product first needs it."""
    from . import kernels

    return kernels
