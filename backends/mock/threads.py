"""The thread pool of the mock: `OMP_NUM_THREADS` threads, or one per core.

The work consists of independent calls, and the caller executes calls as well. The pool therefore
never waits for itself, and with one thread only the caller's thread works.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count

from ...instruments import InputError


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
    return ThreadPoolExecutor(size, thread_name_prefix="lightloom")


@cache
def processors() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:  # Windows, macOS
        return os.cpu_count() or 1
