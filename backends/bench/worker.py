"""`Worker`: does the tasks of a bench in order, in spare time or in a thread of its own.

The thread that takes shots waits for devices most of the time. What it does meanwhile finds its
data in the cache of the processor, and costs no hand-over to another thread. A task that does not
fit into the wait goes to the worker's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
_SPARE, _SPARE_S = 2.0, 2e-4  # least wait for a task: factor x its duration + margin
_FORGOTTEN = 0.9  # of the longest duration, from task to task


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
