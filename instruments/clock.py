"""The time base of instruments: real time, or virtual time for simulated benches."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, local


class Clock:
    """Real time, in seconds since an arbitrary moment."""

    is_virtual = False

    def now_s(self) -> float:
        """Return the time."""
        return time.perf_counter()

    def sleep_until(self, moment_s: float) -> None:
        """Wait until a moment; return at once if it is in the past."""
        wait = moment_s - self.now_s()
        if wait > 0:
            time.sleep(wait)

    def hold(self) -> None:
        """Stop virtual time until `release`, so that host work takes no virtual time.

        Each hold needs one release, from any thread. Real time is not affected.
        """

    def release(self) -> None:
        """End a hold."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the clock inside a `with`; nested blocks hold it only once."""
        yield


class VirtualClock(Clock):
    """Time that advances only when a thread waits for it, and then at once.

    It does not advance while it is held, so that host work takes no virtual time on any computer.

    Parameters
    ----------
    start_s : first reading, in seconds
    """

    is_virtual = True

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._holds = 0
        self._changed = Condition()
        self._mine = local()  # whether this thread is inside `held`

    def now_s(self) -> float:
        """Return the time."""
        return self._now_s

    def sleep_until(self, moment_s: float) -> None:
        """Advance the time to a moment, as soon as the clock is not held."""
        with self._changed:
            self._changed.wait_for(lambda: self._holds == 0)
            self._now_s = max(self._now_s, moment_s)

    def hold(self) -> None:
        """Stop the time until `release`."""
        with self._changed:
            self._holds += 1

    def release(self) -> None:
        """End a hold."""
        with self._changed:
            self._holds -= 1
            self._changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the clock inside a `with`; nested blocks hold it only once."""
        if getattr(self._mine, "holds", False):
            yield
            return
        self.hold()
        self._mine.holds = True
        try:
            yield
        finally:
            self._mine.holds = False
            self.release()
