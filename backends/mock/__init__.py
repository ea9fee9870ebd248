"""The fast statistical model of a bench."""

from functools import cache
from typing import Any

from ...instruments.loop_cache import LoopCache

LOOPS = LoopCache(f"{__name__}.all_loops")


@cache
def compiled_loops() -> Any:
    """Return the module `kernels`, which is imported when a product first needs it."""
    from . import kernels

    return kernels
