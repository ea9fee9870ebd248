"""`compiled`: loops that numba compiles (extra `fast`), kept on disk where there is room for that.

Called only by modules of such loops, which are imported where numba is installed.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

COMPILED = find_spec("numba") is not None
"""Whether the extra `fast` is there; without it numpy does it all."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, to run without Python's lock.

    Where it cannot be kept, as with an installation and a home that are read-only or a disk that
    is full, every process compiles it again.

    Parameters
    ----------
    options : numba's, such as `fastmath`
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
        except (RuntimeError, OSError):  # no folder for it
            return numba.njit(nogil=True, **options)(function)
        _save_if_possible(dispatcher)
        return dispatcher

    return decorate


def _save_if_possible(dispatcher: Any) -> None:
    """Let a full disk not end the call that has just compiled a function."""
    cache: Any = getattr(dispatcher, "_cache", None)
    save = getattr(cache, "save_overload", None)
    if save is None:  # another numba: as it does it
        return

    def saved(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.save_overload = saved
