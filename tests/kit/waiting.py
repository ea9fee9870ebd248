"""Waits for a condition instead of for a time: as short as the machine allows, and bounded."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Return as soon as the condition holds; fail where it does not within the time.

    The bound is far above what a loaded machine needs: it is reached only when the test fails.
    """
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain"
        time.sleep(0.005)
