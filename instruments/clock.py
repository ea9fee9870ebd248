"""The time that instruments go by: real, or virtual for benches that are simulated."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, local


class Clock:
    """Real time, in seconds from an arbitrary moment."""

    is_virtual = False

    def now_s(self) -> float:
        """Return the time."""
        return time.perf_counter()

    def sleep_until(self, moment_s: float) -> None:
        """Wait until a moment; none in the past."""
        wait = moment_s - self.now_s()
        if wait > 0:
            time.sleep(wait)

    def hold(self) -> None:
        """Let no virtual time pass until `release`: somebody works who would take no time at all.

        Each hold has its release, by whichever thread; real time does not care.
        """

    def release(self) -> None:
        """End a hold."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold inside a `with`; once only, where one stands in another."""
        yield


class VirtualClock(Clock):
    """Time that passes only when somebody waits for it, and then at once.

    It stands while it is held, so that the work of a host takes no time whatever the computer.
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
        """Let time pass up to a moment, as soon as nobody holds it."""
        with self._changed:
            self._changed.wait_for(lambda: self._holds == 0)
            self._now_s = max(self._now_s, moment_s)

    def hold(self) -> None:
        """Let no time pass until `release`."""
        with self._changed:
            self._holds += 1

    def release(self) -> None:
        """End a hold."""
        with self._changed:
            self._holds -= 1
            self._changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold inside a `with`; once only, where one stands in another."""
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
