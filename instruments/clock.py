"""The time that instruments go by: real, or virtual for benches that are simulated."""

import time
from threading import Lock


class Clock:
    """Real time, in seconds from an arbitrary moment."""

    is_virtual = False

    def now_s(self) -> float:
        """Give the time."""
        return time.perf_counter()

    def sleep_until(self, moment_s: float) -> None:
        """Wait until a moment; none in the past."""
        wait = moment_s - self.now_s()
        if wait > 0:
            time.sleep(wait)


class VirtualClock(Clock):
    """Time that passes only when somebody waits for it, and then at once."""

    is_virtual = True

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._lock = Lock()

    def now_s(self) -> float:
        """Give the time."""
        return self._now_s

    def sleep_until(self, moment_s: float) -> None:
        """Let time pass up to a moment."""
        with self._lock:
            self._now_s = max(self._now_s, moment_s)
