"""`JobQueue`: a bounded queue of jobs, which one thread runs in the order of submission."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Condition, Thread

from .bench import Bench
from .shot_plan import TileJob, TileResult

_MOST = 32  # waiting jobs: enough for the heads of a layer, with bounded memory


class JobQueue:
    """Runs jobs one after another.

    Parameters
    ----------
    run : runs a job
    bench : its timeline records the length of the queue
    """

    def __init__(self, run: Callable[[TileJob], TileResult], bench: Bench) -> None:
        self._run, self._bench = run, bench
        self._waiting: deque[tuple[TileJob, Future[TileResult]]] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._worker = Thread(target=self._work, name="lightloom-bench", daemon=True)
        self._worker.start()

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Add a job at the end; wait while the queue is full. The caller holds the clock.

        Raises
        ------
        CancelledError : when the queue was closed
        """
        clock = self._bench.clock
        future: Future[TileResult] = Future()
        with self._changed:
            if len(self._waiting) >= _MOST:
                clock.release()  # the caller waits, so it must not hold the clock
                try:
                    self._changed.wait_for(lambda: len(self._waiting) < _MOST or self._is_closed)
                finally:
                    clock.hold()
            if self._is_closed:
                raise CancelledError
            self._waiting.append((job, future))
            self._note()
            self._changed.notify_all()
        return future

    def upcoming(self) -> TileJob | None:
        """Return the next job in the queue; None if the queue is empty."""
        with self._changed:
            return self._waiting[0][0] if self._waiting else None

    def close(self) -> None:
        """Cancel the waiting jobs, and wait for the current job."""
        with self._changed:
            self._is_closed = True
            while self._waiting:
                self._waiting.popleft()[1].cancel()
            self._changed.notify_all()
        self._worker.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                job, future = self._waiting.popleft()
                self._note()
                self._changed.notify_all()
            future.set_running_or_notify_cancel()
            try:
                result = self._run(job)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _note(self) -> None:
        if self._bench.timeline is not None:
            self._bench.timeline.count("jobs waiting for light", len(self._waiting))
