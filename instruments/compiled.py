"""`compiled`: loops that numba compiles (extra `fast`), cached on disk where that is possible.

Only modules of such loops call it; they are imported where `COMPILED` is True.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

COMPILED = find_spec("numba") is not None
"""Whether numba is installed, so that compiled loops replace the numpy ones."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function at its first call; it then runs without the GIL.

    Every process compiles the function again where the result cannot be cached, for example with a
    read-only installation and home, or a full disk.

    Parameters
    ----------
    options : numba options, such as `fastmath`
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
        except (RuntimeError, OSError):  # no writable cache folder
            return numba.njit(nogil=True, **options)(function)
        _save_if_possible(dispatcher)
        return dispatcher

    return decorate


def _save_if_possible(dispatcher: Any) -> None:
    """Suppress a full disk as an error of the call that has just compiled a function."""
    cache: Any = getattr(dispatcher, "_cache", None)
    save = getattr(cache, "save_overload", None)
    if save is None:  # another version of numba: leave it unchanged
        return

    def saved(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.save_overload = saved
