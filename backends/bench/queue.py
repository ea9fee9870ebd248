"""The threads of a bench: `JobQueue` runs jobs in the order of submission, `Worker` their tasks.

The thread of the jobs waits for devices most of the time. What it does meanwhile finds its data in
the cache of the processor, and costs no hand-over to another thread. A task that does not fit into
the wait goes to a worker's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from time import perf_counter
from typing import Any, Generic, TypeVar

from .bench import Bench
from .shot_plan import TileJob, TileResult

_MOST = 32  # waiting jobs: enough for the heads of a layer, with bounded memory
_SPARE, _SPARE_S = 2.0, 2e-4  # least wait for a task: factor x its duration + margin
_FORGOTTEN = 0.9  # of the longest duration, from task to task

Result = TypeVar("Result")


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


class Task(Generic[Result]):
    """A call that is done later or by another thread, and its result.

    Parameters
    ----------
    call : returns the result
    arguments : of the call

    Attributes
    ----------
    seconds : duration of the call
    is_deferred : whether no thread has the task yet; `result` does it then
    """

    def __init__(self, call: Callable[..., Result], *arguments: Any) -> None:
        self._call, self._arguments = call, arguments
        self._result: Any = None
        self._error: BaseException | None = None
        self.seconds, self.is_deferred = 0.0, False
        self._pending = Lock()  # held until there is a result or an error
        self._pending.acquire()

    @classmethod
    def failed(cls, error: BaseException) -> Task[Result]:
        """Return a task that has ended with an error."""
        task = cls(_nothing)
        task.fail(error)
        return task

    def run(self) -> None:
        """Do the call, in the thread of the caller."""
        self.is_deferred = False
        start = perf_counter()
        try:
            self._result = self._call(*self._arguments)
        except BaseException as error:
            self._error = error
        self.seconds = perf_counter() - start
        self._end()

    def fail(self, error: BaseException) -> None:
        """End with an error, without the call."""
        self._error = error
        self._end()

    def _end(self) -> None:
        self._call, self._arguments = _nothing, ()  # frees what they hold
        self._pending.release()

    def result(self) -> Result:
        """Wait for the end of the call, and return its result or raise its error."""
        if self.is_deferred:
            self.run()
        with self._pending:
            if self._error is not None:
                raise self._error
            result: Result = self._result
            return result


def _nothing() -> Any:
    """Return None."""


class Worker:
    """Does tasks in the order in which it gets them.

    One thread defers tasks, uses its spare time for them, and asks for their results.

    Parameters
    ----------
    name : of the worker's thread
    """

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._adding = Lock()  # no task comes after the None that ends the thread
        self._deferred: list[Task[Any]] = []
        self._task_s = 0.0  # duration of a task: the longest one, slowly forgotten
        self._is_closed = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., Result], *arguments: Any) -> Task[Result]:
        """Add a task at the end.

        Raises
        ------
        CancelledError : when the worker was closed
        """
        task = Task(call, *arguments)
        self._hand_over(task)
        return task

    def defer(self, call: Callable[..., Result], *arguments: Any) -> Task[Result]:
        """Keep a task for `use_spare_time`, which the same thread has to call soon."""
        task = Task(call, *arguments)
        task.is_deferred = True
        self._deferred.append(task)
        return task

    def use_spare_time(self, seconds: float) -> None:
        """Do the deferred tasks if they fit into the spare time of this thread.

        Raises
        ------
        CancelledError : when the worker was closed
        """
        if not self._deferred:
            return
        until = perf_counter() + seconds
        for task in self._deferred:
            if not task.is_deferred:  # its result was asked for
                continue
            needed_s = _SPARE * self._task_s + _SPARE_S
            if self._task_s and needed_s < until - perf_counter():
                self._do(task)
            else:
                task.is_deferred = False
                self._hand_over(task)
        self._deferred.clear()

    def _hand_over(self, task: Task[Any]) -> None:
        with self._adding:
            if self._is_closed:
                raise CancelledError
            self._tasks.put(task)

    def _do(self, task: Task[Any]) -> None:
        task.run()
        self._task_s = max(_FORGOTTEN * self._task_s, task.seconds)

    def close(self) -> None:
        """Cancel the waiting tasks, and wait for the current one."""
        with self._adding:
            self._is_closed = True
            self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._is_closed:
                task.fail(CancelledError())
            else:
                self._do(task)
