"""`RowWriter`: the thread that writes the rows of a journal, so that no finished result is lost.

It writes rows in the order in which they were added, in transactions of at most a quarter of a
second. A crash leaves a whole number of transactions. While the disk is full, it waits with the
light off.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Condition, Thread
from typing import Any, NamedTuple

from ...instruments import InputError, LightloomError
from ...instruments.safety import signals
from .database import is_busy, is_full, open_to_write, real_path, sentence
from .file_watch import FileLost, FileWatch
from .rows import seal

LOG = logging.getLogger("lightloom.journal")

_COMMIT_S = 0.25  # the longest that a row waits
_COMMIT_BYTES = 32 << 20
_MAX_WAITING = 64 << 20  # bytes; a caller with more waits until they are written
_RETRY_S = 2.0  # after the disk was full
_LOCK_TIMEOUT_S = 300.0  # for a reader that locks a file without a write-ahead log
_POLL_S = 0.1  # between checks, while a caller waits for space, whether the run is to stop


class Statement(NamedTuple):
    """A statement that waits to be executed, its values, and their approximate size in bytes."""

    text: str
    values: tuple[Any, ...]
    size: int


class RowWriter:
    """Writes into the file of a journal, in a thread of its own.

    Parameters
    ----------
    path : of the file

    Attributes
    ----------
    on_pause, on_continue : called when the disk is full, with a sentence, and when it has space
        again, by the thread that writes: the light goes off at once
    is_stopping : called while a caller waits for space; True ends the wait
    """

    def __init__(self, path: Path) -> None:
        self._path, self._real_path = path, real_path(path)
        self.on_pause: Callable[[str], None] = lambda why: None
        self.on_continue: Callable[[], None] = lambda: None
        self.is_stopping: Callable[[], bool] = signals.is_stopping
        self._watch = FileWatch(self._real_path)
        try:
            self._connection, has_log = open_to_write(self._real_path)
            self._watch.check(is_ours=True)
        except BaseException:
            self._watch.close()
            raise
        if has_log:
            self._watch.watch_log()
        self._waiting: deque[Statement] = deque()
        self._waiting_bytes = 0
        self._changed = Condition()
        self._wait_reason = ""
        self._failure: BaseException | None = None
        self._is_reported = False
        self._is_closing = self._is_idle = False
        self._thread: Thread | None = Thread(
            target=self._write, name="lightloom-journal", daemon=True
        )
        self._thread.start()

    # --- for callers in any thread ---------------------------------------------------------------

    def insert(self, table: str, row: Sequence[Any], waits: bool = True) -> None:
        """Add a row to a table, or replace the one of its key.

        Parameters
        ----------
        waits : for space among the rows that are not written yet

        Raises
        ------
        InputError : when the journal could not be written, or is closed
        """
        marks = ", ".join("?" * (len(row) + 1))
        text = f"INSERT OR REPLACE INTO {table} VALUES ({marks})"
        self.execute(text, (*row, seal(table, row)), waits)

    def execute(self, text: str, values: tuple[Any, ...], waits: bool = True) -> None:
        """Execute a statement after all those before it; see `insert`."""
        size = sum(len(value) for value in values if isinstance(value, bytes | str)) + 64
        with self._changed:
            self._raise_failure()
            if self._thread is None:
                raise InputError(f"{self._path} is closed; nothing more can be written into it")
            if waits:
                self._wait_for_space()
            self._waiting.append(Statement(text, values, size))
            self._waiting_bytes += size
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all rows are on disk.

        Raises
        ------
        InputError : when it could not be written
        """
        with self._changed:
            self._is_idle = not self._waiting
            self._changed.notify_all()
            while not self._is_idle:
                self._check_file()
                self._raise_failure()
                if self._wait_reason:
                    self._wait_for_space()
                self._changed.wait(_POLL_S)
            self._check_file()
            self._raise_failure()

    def close(self) -> None:
        """Write the waiting rows, and close the file; harmless when it is closed.

        Raises
        ------
        InputError : when rows could not be written, and no call has raised that before
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        thread.join()
        self._close_file()
        self._check_file()
        self._watch.close()
        if not self._is_reported:
            self._raise_failure()

    def _close_file(self) -> None:
        is_copied = False
        with contextlib.suppress(sqlite3.Error):
            if self._failure is None:  # one file again, which a reader may move
                self._connection.execute("PRAGMA journal_mode = DELETE")
            elif isinstance(self._failure, FileLost):  # the file may be elsewhere; its log is here
                _, pages, copied = self._connection.execute("PRAGMA wal_checkpoint").fetchone()
                is_copied = pages == copied
        self._connection.close()
        self._watch.forget_log(is_copied)

    def _check_file(self) -> None:
        try:
            self._watch.check_file()
        except (FileLost, OSError) as error:
            self._failure = self._failure or error

    def _wait_for_space(self) -> None:
        """Wait for space among the waiting rows; the caller holds `_changed`.

        Raises
        ------
        InputError : when the writer has failed, or the run is to stop
        """
        while self._wait_reason or self._waiting_bytes >= _MAX_WAITING:
            self._raise_failure()
            if self.is_stopping():
                self._is_reported = True
                raise InputError(
                    f"{self._path}: the run was stopped while it waited to write its journal "
                    f"({self._wait_reason or 'the disk is slow'}); what was finished before is "
                    f"kept; free some space, then `lightloom resume {self._path}`"
                )
            self._changed.wait(_POLL_S)
        self._raise_failure()

    def _raise_failure(self) -> None:
        error = self._failure
        if error is None:
            return
        self._is_reported = True
        if isinstance(error, FileLost):
            raise InputError(
                f"the journal {self._path} {error} while it was written, so the run was stopped; "
                f"{error.way_out} `lightloom resume {self._path}`, or start again with another "
                "--record"
            )
        why = sentence(error, self._real_path) if isinstance(error, sqlite3.Error) else error
        raise InputError(
            f"{self._path}: the journal cannot be written ({why}); what was finished before is "
            f"kept; correct that, then `lightloom resume {self._path}`"
        )

    # --- in the thread that writes ---------------------------------------------------------------

    def _write(self) -> None:
        try:
            while statements := self._next_statements():
                self._write_transaction(statements)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next_statements(self) -> list[Statement]:
        """Wait for the statements of a quarter of a second; there are none at the end."""
        with self._changed:
            if not self._waiting:
                self._is_idle = True
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if self._waiting:
                self._changed.wait_for(self._is_urgent, _COMMIT_S)
            return list(self._waiting)

    def _is_urgent(self) -> bool:
        """Return whether the waiting rows are to be written at once."""
        return self._is_closing or not self._is_idle or self._waiting_bytes > _COMMIT_BYTES

    def _write_transaction(self, statements: Sequence[Statement]) -> None:
        """Write statements as one transaction; wait while the disk is full."""
        last_s, has_tried = time.monotonic() + _LOCK_TIMEOUT_S, False
        while True:
            try:
                self._watch.check(is_ours=has_tried)
                execute(self._connection, statements)
                self._watch.check(is_ours=True)
                break
            except sqlite3.OperationalError as error:
                has_tried = True
                is_full_disk = is_full(error, self._real_path)
                if not is_full_disk and not (is_busy(error) and time.monotonic() < last_s):
                    raise
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if is_full_disk:
                    self._wait_for_disk(error)
        if self._wait_reason:
            LOG.warning("the disk of %s has space again: the run continues", self._path)
            self._switch(self.on_continue)
        with self._changed:
            self._wait_reason = ""
            for _ in statements:
                self._waiting_bytes -= self._waiting.popleft().size
            self._changed.notify_all()

    def _wait_for_disk(self, error: Exception) -> None:
        reason = (
            f"the disk of {self._path} is full ({error}): the run waits with its light off; "
            "free some space and it continues, or stop it and resume it later"
        )
        if not self._wait_reason:
            LOG.warning("%s", reason)
            self._switch(lambda: self.on_pause(reason))
        with self._changed:
            self._wait_reason = reason
            self._changed.notify_all()
            if self._changed.wait_for(lambda: self._is_closing, _RETRY_S):
                raise error

    def _switch(self, call: Callable[[], None]) -> None:
        """Switch the light; an error of a device must not end the journal."""
        try:
            call()
        except LightloomError as error:
            LOG.error("%s", error)


def execute(connection: sqlite3.Connection, statements: Sequence[Statement]) -> None:
    """Execute statements as one transaction."""
    connection.execute("BEGIN")
    for statement in statements:
        connection.execute(statement.text, statement.values)
    connection.execute("COMMIT")
