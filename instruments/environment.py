"""Threads and cache of this process, and loops that numba compiles (extra `fast`).

Numerical libraries read their limits of threads at import: limit them before numpy is imported. The
pool runs independent calls, and the caller executes calls as well. The pool therefore never waits
for itself, and with one thread only the caller's thread works. Modules of compiled loops are
imported where `COMPILED` is True.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

COMPILED = find_spec("numba") is not None
"""Whether numba is installed, so that compiled loops replace the numpy ones."""

CACHE = "LIGHTLOOM_CACHE"
"""Environment variable: another folder for the cache, or "off"."""

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SPIN = "4"  # 2^4 cycles; the default of OpenBLAS, 2^26, occupies a core for 26 ms


def limit_threads(threads: int | None) -> None:
    """Limit numerical libraries to a number of threads, by default to OMP_NUM_THREADS if set.

    Idle OpenBLAS threads go to sleep early, because the mock's own threads need the cores. The user
    can set their waiting time with OPENBLAS_THREAD_TIMEOUT.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = int(os.environ["OMP_NUM_THREADS"])
    if threads is not None:
        for variable in THREAD_LIMITS:
            os.environ[variable] = str(threads)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN)


def switch_cache_off() -> None:
    """Keep nothing for the next start, in this process and in those that it starts."""
    os.environ[CACHE] = "off"


def is_cache_on() -> bool:
    """Return whether something may be kept for the next start."""
    return os.environ.get(CACHE, "").strip().lower() != "off"


def thread_count() -> int:
    """Return the number of threads that a product may use.

    Raises
    ------
    InputError : when OMP_NUM_THREADS is not a whole number from 1 on
    """
    return _parsed(os.environ.get("OMP_NUM_THREADS", ""))


@cache
def _parsed(variable: str) -> int:
    wanted = variable.split(",")[0].strip()
    if not wanted:
        return processors()
    if not wanted.isdigit() or not int(wanted):
        raise InputError(
            f"OMP_NUM_THREADS = {wanted!r} is not a whole number from 1 on; change or unset it"
        )
    return int(wanted)


def run_all(calls: Sequence[Callable[[], None]], threads: int) -> None:
    """Run calls on a number of threads and wait for all; raise the first error."""
    if threads == 1 or len(calls) == 1:
        for call in calls:
            call()
        return
    helpers = min(threads, len(calls)) - 1
    next_index = count()

    def work() -> None:
        while (index := next(next_index)) < len(calls):
            calls[index]()

    futures = [_pool(threads - 1).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        errors = [future.exception() for future in futures if not future.cancel()]
    for error in errors:
        if error is not None:
            raise error


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(size, thread_name_prefix="lightloom")


@cache
def processors() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:  # Windows, macOS
        return os.cpu_count() or 1


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
        _forgive_the_disk(dispatcher)
        return dispatcher

    return decorate


def _forgive_the_disk(dispatcher: Any) -> None:
    """Suppress a full disk, and files of other versions, as errors of the call that meets them."""
    cache: Any = getattr(dispatcher, "_cache", None)
    save, load = (getattr(cache, f"{verb}_overload", None) for verb in ("save", "load"))
    if save is None or load is None:  # another version of numba: leave it unchanged
        return

    def saved(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    def loaded(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # they may name classes that no longer exist
            with suppress(Exception):
                cache._cache_file.flush()
            return None

    cache.save_overload, cache.load_overload = saved, loaded
