"""One pool of threads for the mock: as many as asked for, as `OMP_NUM_THREADS` says, or one a core.

Work is handed out as calls that do not depend on each other; the caller takes part. So the pool
never waits for itself, and one thread means no thread beside the caller's.
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
    InputError : when OMP_NUM_THREADS is no whole number from 1 on
    """
    return _parsed(os.environ.get("OMP_NUM_THREADS", ""))


@cache
def _parsed(variable: str) -> int:
    wanted = variable.split(",")[0].strip()
    if not wanted:
        return processors()
    if not wanted.isdigit() or not int(wanted):
        raise InputError(f"OMP_NUM_THREADS = {wanted!r} is no whole number from 1 on")
    return int(wanted)


def run_all(calls: Sequence[Callable[[], None]], threads: int) -> None:
    """Run calls on so many threads and wait for all; an error of any is raised."""
    if threads == 1 or len(calls) == 1:
        for call in calls:
            call()
        return
    helpers = min(threads, len(calls)) - 1
    turn = count()

    def work() -> None:
        while (index := next(turn)) < len(calls):
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
    """Return the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:  # Windows, macOS
        return os.cpu_count() or 1
