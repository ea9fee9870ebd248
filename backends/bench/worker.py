"""`Worker`: one thread that does the tasks of a bench in order, with little time between them.

An executor of the standard library takes three times as long to hand over a task, which counts for
a bench that takes a thousand shots a second.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Task(Generic[Result]):
    """A call that another thread does, and its result.

    Parameters
    ----------
    call : returns the result
    arguments : of the call
    """

    def __init__(self, call: Callable[..., Result], *arguments: Any) -> None:
        self._call, self._arguments = call, arguments
        self._result: Any = None
        self._error: BaseException | None = None
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
        try:
            self._result = self._call(*self._arguments)
        except BaseException as error:
            self._error = error
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
        with self._pending:
            if self._error is not None:
                raise self._error
            result: Result = self._result
            return result


def _nothing() -> Any:
    """Return None."""


class Worker:
    """A thread that does tasks in the order of their submission.

    Parameters
    ----------
    name : of the thread
    """

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._adding = Lock()  # no task comes after the None that ends the thread
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
        with self._adding:
            if self._is_closed:
                raise CancelledError
            self._tasks.put(task)
        return task

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
                task.run()
