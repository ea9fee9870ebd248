"""`Journal`: a run in one SQLite file, written during the run, so that no finished result is lost.

A thread writes the rows in the order in which they were added, in transactions of at most a quarter
of a second. A crash leaves a whole number of transactions. Every row carries a digest of its
content, so that a number that changed on the disk is detected. Not here: what a pass keeps and how
it resumes (`pass_record`), the file itself (`database`), and the protocol between a bench and its
journal (`backends.bench.checkpoint`), which this class implements.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any

import numpy as np

from ...backends import Stats
from ...backends.bench.checkpoint import QUALITY, Checkpoint, FaultNote, Kept, Segment
from ...backends.bench.fault_policy import OLD_KINDS
from ...instruments import InputError, LightloomError
from ...instruments.old_words import OldWords
from ...instruments.safety import signals
from ...instruments.safety.lock import HeldLock
from .database import (
    APPLICATION,
    NO_LOCKS,
    FileLost,
    FileWatch,
    has_locks,
    has_magic,
    has_schema,
    is_busy,
    is_full,
    limit_steps,
    make,
    open_beside,
    open_to_write,
    reading,
    refusing,
    sentence,
)

LOG = logging.getLogger("lightloom.journal")

SCHEMA = 1
_COMMIT_S = 0.25  # the longest that a row waits
_COMMIT_BYTES = 32 << 20
_MAX_WAITING = 64 << 20  # bytes; a caller with more waits until they are written
_FORGET = "forget"  # not a table: its rows delete others
_RETRY_S = 2.0  # after the disk was full
_LOCK_TIMEOUT_S = 300.0  # for a reader that locks a file without a write-ahead log
_POLL_S = 0.1  # between checks, while a caller waits for space, whether the run is to stop

_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE file (name TEXT PRIMARY KEY, content BLOB NOT NULL, seal BLOB NOT NULL);
CREATE TABLE input (name TEXT PRIMARY KEY, layout TEXT, content BLOB NOT NULL, seal BLOB NOT NULL);
CREATE TABLE session (number INTEGER PRIMARY KEY, document TEXT NOT NULL, seal BLOB NOT NULL);
CREATE TABLE ending (session INTEGER PRIMARY KEY, at_s REAL, outcome TEXT, detail TEXT,
    seal BLOB NOT NULL);
CREATE TABLE program (number INTEGER PRIMARY KEY, digest TEXT, steps TEXT, seal BLOB NOT NULL);
CREATE TABLE pass (number INTEGER PRIMARY KEY, program INTEGER, document TEXT,
    seal BLOB NOT NULL);
CREATE TABLE step (pass INTEGER, step INTEGER, part INTEGER, session INTEGER, at_s REAL,
    seconds REAL, stats TEXT, layout TEXT, content BLOB, seal BLOB NOT NULL,
    PRIMARY KEY (pass, step, part));
CREATE TABLE segment (number INTEGER PRIMARY KEY, job TEXT, first INTEGER, done INTEGER,
    is_last INTEGER, session INTEGER, at_s REAL, stats TEXT, state TEXT, layout TEXT,
    content BLOB, quality BLOB, seal BLOB NOT NULL);
CREATE UNIQUE INDEX segment_of_job ON segment (job, first);
CREATE TABLE fault (number INTEGER PRIMARY KEY, session INTEGER, document TEXT,
    seal BLOB NOT NULL);
CREATE TABLE result (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal BLOB NOT NULL);
"""


@dataclass(frozen=True)
class KeptStep:
    """A step of a micro-batch that an earlier session finished."""

    seconds: float
    stats: Stats


class Journal:
    """One run on disk; made by `create`, opened again by `reopen`. One process writes it.

    Attributes
    ----------
    path : of the file
    session : number of this session, from 1
    on_pause, on_continue : called when the disk is full, with a sentence, and when it has space
        again, by the thread that writes: the light goes off at once
    is_stopping : called while a caller waits for space; True ends the wait
    bytes_kept : of results that this session kept
    """

    def __init__(self, path: Path, lock: HeldLock) -> None:
        self.path, self._lock = path, lock
        self._real_path = _real_path(path)
        self.session = 0
        self.on_pause: Callable[[str], None] = lambda why: None
        self.on_continue: Callable[[], None] = lambda: None
        self.is_stopping: Callable[[], bool] = signals.is_stopping
        self.bytes_kept = 0
        self._watch = FileWatch(self._real_path)
        try:
            self._connection, has_log = open_to_write(self._real_path)
            self._reader = open_beside(self._real_path)
            self._watch.check(is_ours=True)
        except BaseException:
            self._watch.close()
            raise
        if has_log:
            self._watch.watch_log()
        self._reading, self._numbering = Lock(), Lock()
        self._waiting: deque[tuple[str, tuple[Any, ...], int]] = deque()
        self._waiting_bytes = 0
        self._changed = Condition()
        self._wait_reason = ""
        self._failure: BaseException | None = None
        self._is_reported = False
        self._is_closing = self._is_idle = False
        self._numbers = {"segment": 0, "fault": 0}
        self._programs: dict[str, int] = {}
        self._writer: Thread | None = None

    # --- opening and closing ---------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path) -> Journal:
        """Make a new, empty journal.

        Raises
        ------
        InputError : when there is a file already, or none can be written there
        """
        path = Path(path)
        _refuse_existing(path)
        if not path.parent.is_dir():
            raise InputError(f"cannot write the journal {path}: there is no folder {path.parent}")
        lock = _lock(path)
        try:
            _refuse_existing(path)  # another process may have made it before we had the lock
            with refusing(path, "cannot write the journal"):
                make(_real_path(path), _TABLES, SCHEMA)
                journal = cls(path, lock)
        except BaseException:
            lock.release()
            raise
        journal._start_writer()
        return journal

    @classmethod
    def reopen(cls, path: str | Path) -> Journal:
        """Open a journal to write more into it.

        Raises
        ------
        InputError : when it is not a journal, is damaged, comes from a newer lightloom, or cannot
            be written; it is left as it was
        InUse : when another process writes it
        """
        path = Path(path)
        check_journal(path)
        lock = _lock(path)
        try:
            with refusing(path, "cannot resume"):
                found = path.stat()
                if not found.st_mode & 0o222:  # reported now, not after an hour
                    raise InputError(f"the journal {path} is read-only; make it writable first")
                if found.st_nlink > 1:  # SQLite's log, and our lock, belong to a name
                    raise InputError(
                        f"the journal {path} has a second name (a hard link), under which another "
                        "process could write it, too; remove that name, or resume a copy"
                    )
                with path.open("r+b"):
                    pass
                journal = cls(path, lock)
                journal._read_numbers()
        except BaseException:
            lock.release()
            raise
        journal._start_writer()
        return journal

    def _read_numbers(self) -> None:
        for table in self._numbers:
            self._numbers[table] = self._single(f"SELECT max(number) FROM {table}") or 0
        self.session = self._single("SELECT max(number) FROM session") or 0
        for number, digest, steps, seal in self._rows("SELECT * FROM program"):
            _check_seal(self.path, "program", (number, digest, steps), seal)
            self._programs[digest] = number

    def _start_writer(self) -> None:
        self._writer = Thread(target=self._write, name="lightloom-journal", daemon=True)
        self._writer.start()

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
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        writer.join()
        self._reader.close()
        self._close_file()
        self._check_file()
        self._watch.close()
        self._lock.release()
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

    # --- rows that a run adds --------------------------------------------------------------------

    def begin_session(self, document: Mapping[str, Any]) -> None:
        """Record that the run begins, or resumes, and on which hardware and versions."""
        self.session += 1
        self._append("session", (self.session, _text({"began_s": time.time(), **document})))

    def end_session(self, outcome: str, detail: str = "") -> None:
        """Record the outcome: "complete", "paused", "stopped" or "failed"; if killed, none."""
        self._append("ending", (self.session, time.time(), outcome, detail), waits=False)

    def keep_about(self, **documents: Any) -> None:
        """Keep the description of the run: JSON documents by name."""
        for key, value in documents.items():
            self._append("about", (key, _text(value)))

    def keep_file(self, name: str, content: bytes) -> None:
        """Keep a file that the run depends on."""
        self._append("file", (name, content))

    def keep_input(self, name: str, value: Any) -> None:
        """Keep an input of the run: an array, or a value that JSON can hold."""
        if isinstance(value, np.ndarray):
            self._append("input", (name, *_packed([value])))
        else:
            self._append("input", (name, None, _text(value).encode()))

    def keep_results(self, **documents: Any) -> None:
        """Keep the results of the run: JSON documents by name."""
        for key, value in documents.items():
            self._append("result", (key, _text(value)))

    def keep_program(self, digest: str, steps: Sequence[Sequence[str]]) -> int:
        """Keep the steps of a program, once, and return its number."""
        if digest not in self._programs:
            self._programs[digest] = len(self._programs) + 1
            self._append("program", (self._programs[digest], digest, _text(steps)))
        return self._programs[digest]

    def keep_pass(self, number: int, program: int, document: Mapping[str, Any]) -> None:
        """Keep the description of a pass, when it begins."""
        self._append("pass", (number, program, _text(document)))

    def keep_step(
        self,
        at: tuple[int, int, int],
        values: Sequence[np.ndarray],
        seconds: float,
        stats: Stats | None = None,
    ) -> None:
        """Keep a finished step; its results are copied.

        Parameters
        ----------
        at : pass, step and micro-batch
        """
        counts = None if stats is None else _text(_counts(stats))
        self._append("step", (*at, self.session, time.time(), seconds, counts, *_packed(values)))

    def keep(self, segment: Segment) -> None:
        """Keep shots that are final; wait, with the light off, while the disk is full."""
        layout, content = _packed([segment.electrons])
        row = (
            segment.job,
            segment.first,
            segment.done,
            int(segment.is_last),
            self.session,
            time.time(),
            _text(_counts(segment.stats)),
            _text(asdict(segment.state)),
            layout,
            content,
            np.ascontiguousarray(segment.quality, dtype=np.float32).tobytes(),
        )
        self._append_numbered("segment", row)

    def forget(self, job: str, number: int) -> None:
        """Delete segments of a job that hold shots after the planned one of this number."""
        self._append(_FORGET, (job, number + 1))

    def note(self, fault: FaultNote) -> None:
        """Keep a fault and its recovery."""
        self._append_numbered("fault", (self.session, _text(asdict(fault))))

    # --- rows of earlier sessions ----------------------------------------------------------------

    def steps_of(self, number: int) -> dict[tuple[int, int], KeptStep]:
        """Return the finished (step, micro-batch) of a pass."""
        rows = self._rows("SELECT step, part, seconds, stats FROM step WHERE pass = ?", number)
        return {
            (step, part): KeptStep(seconds, Stats() if stats is None else _stats(json.loads(stats)))
            for step, part, seconds, stats in rows
        }

    def values_of(self, number: int, step: int, part: int) -> list[np.ndarray]:
        """Return the results of a finished step.

        Raises
        ------
        InputError : when they are damaged
        """
        query = "SELECT * FROM step WHERE pass = ? AND step = ? AND part = ?"
        ((*row, seal),) = self._rows(query, number, step, part)
        _check_seal(self.path, "step", row, seal)
        return _unpacked(row[-2], row[-1])

    def pass_document(self, number: int) -> dict[str, Any] | None:
        """Return the description of a pass, with its program under "program"; None if not begun."""
        rows = list(self._rows("SELECT * FROM pass WHERE number = ?", number))
        if not rows:
            return None
        ((*row, seal),) = rows
        _check_seal(self.path, "pass", row, seal)
        return {**json.loads(row[2]), "program": row[1]}

    def known(self, job: str) -> Kept | None:
        """Return the kept shots of a job of a bench; None for a new job.

        Raises
        ------
        InputError : when it is damaged
        """
        done, parts, stats = 0, [], Stats()
        state: Checkpoint | None = None
        for *row, seal in self._rows("SELECT * FROM segment WHERE job = ? ORDER BY first", job):
            _check_seal(self.path, "segment", row, seal)
            if row[2] != done:
                raise InputError(f"{self.path} is damaged: a part of {job} is missing")
            done, state = row[3], _checkpoint(row[8])
            stats.add(_stats(json.loads(row[7])))
            parts += _unpacked(row[9], row[10])
        if state is None:
            return None
        return Kept(done, np.concatenate(parts), stats, state)

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the state of a bench after the latest kept shots.

        Parameters
        ----------
        of : prefix of the names of its jobs, where there are several benches
        """
        query = "SELECT * FROM segment WHERE substr(job, 1, ?) = ? ORDER BY number DESC LIMIT 1"
        for *row, seal in self._rows(query, len(of), of):
            _check_seal(self.path, "segment", row, seal)
            return _checkpoint(row[8])
        return None

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with self._reading, refusing(self.path, "cannot read the journal"):
            rows = self._reader.execute(query, values).fetchall()
        return iter(rows)

    def _single(self, query: str) -> Any:
        return next(self._rows(query))[0]

    @property
    def seconds_before(self) -> float:
        """The duration of earlier sessions, in seconds, each up to its last kept row."""
        total = 0.0
        for number, document, seal in self._rows("SELECT * FROM session"):
            _check_seal(self.path, "session", (number, document), seal)
            if number >= self.session:
                continue
            last = [
                self._single(f"SELECT max(at_s) FROM {table} WHERE session = {number}")
                for table in ("step", "segment")
            ]
            began_s = json.loads(document)["began_s"]
            total += max([began_s, *(at_s for at_s in last if at_s is not None)]) - began_s
        return total

    def _append_numbered(self, table: str, row: tuple[Any, ...]) -> None:
        """Number a row and append it, under one lock, since benches have threads of their own."""
        with self._numbering:
            self._numbers[table] += 1
            self._append(table, (self._numbers[table], *row))

    # --- the thread that writes ------------------------------------------------------------------

    def _append(self, table: str, row: tuple[Any, ...], waits: bool = True) -> None:
        size = sum(len(value) for value in row if isinstance(value, bytes | str)) + 64
        with self._changed:
            self._raise_failure()
            if self._writer is None:
                raise InputError(f"{self.path} is closed; nothing more can be written into it")
            if waits:
                self._wait_for_space()
            self._waiting.append((table, (*row, _seal(table, row)), size))
            self._waiting_bytes += size
            self.bytes_kept += sum(len(value) for value in row if isinstance(value, bytes))
            self._changed.notify_all()

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
                    f"{self.path}: the run was stopped while it waited to write its journal "
                    f"({self._wait_reason or 'the disk is slow'}); what was finished before is "
                    f"kept; free some space, then `lightloom resume {self.path}`"
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
                f"the journal {self.path} {error} while it was written, so the run was stopped; "
                f"{error.way_out} `lightloom resume {self.path}`, or start again with another "
                "--record"
            )
        why = sentence(error, self._real_path) if isinstance(error, sqlite3.Error) else error
        raise InputError(
            f"{self.path}: the journal cannot be written ({why}); what was finished before is "
            f"kept; correct that, then `lightloom resume {self.path}`"
        )

    def _write(self) -> None:
        try:
            while self._write_some(self._connection):
                pass
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _write_some(self, connection: sqlite3.Connection) -> bool:
        """Write the rows of a quarter of a second as one transaction; return False at the end."""
        with self._changed:
            if not self._waiting:
                self._is_idle = True
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return False
            self._changed.wait_for(self._is_urgent, _COMMIT_S)
            rows = list(self._waiting)
        last_s, has_tried = time.monotonic() + _LOCK_TIMEOUT_S, False
        while True:
            try:
                self._watch.check(is_ours=has_tried)
                insert(connection, rows)
                self._watch.check(is_ours=True)
                break
            except sqlite3.OperationalError as error:
                has_tried = True
                if is_full(error, self._real_path):
                    self._wait_for_disk(connection, error)
                elif is_busy(error) and time.monotonic() < last_s:  # another program reads it
                    _roll_back(connection)
                else:
                    raise
        if self._wait_reason:
            LOG.warning("the disk of %s has space again: the run continues", self.path)
            self._switch(self.on_continue)
        with self._changed:
            self._wait_reason = ""
            for _ in rows:
                self._waiting_bytes -= self._waiting.popleft()[2]
            self._changed.notify_all()
        return True

    def _is_urgent(self) -> bool:
        """Return whether the waiting rows are to be written at once."""
        return self._is_closing or not self._is_idle or self._waiting_bytes > _COMMIT_BYTES

    def _wait_for_disk(self, connection: sqlite3.Connection, error: Exception) -> None:
        _roll_back(connection)
        reason = (
            f"the disk of {self.path} is full ({error}): the run waits with its light off; "
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


def insert(
    connection: sqlite3.Connection, rows: Sequence[tuple[str, tuple[Any, ...], int]]
) -> None:
    """Write rows, each with its table and its size [bytes], as one transaction."""
    connection.execute("BEGIN")
    for table, row, _ in rows:
        if table == _FORGET:
            connection.execute("DELETE FROM segment WHERE job = ? AND done > ?", row[:2])
            continue
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
    connection.execute("COMMIT")


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


# --- reading a journal, also while a run writes it -----------------------------------------------


class JournalFile:
    """A journal opened to be read, while it is written or afterwards; it is not changed.

    Raises
    ------
    InputError : when it is not a journal, or is damaged
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _refuse_other_files(self.path)
        with contextlib.ExitStack() as stack, refusing(self.path, "cannot read the journal"):
            self._connection = stack.enter_context(reading(_real_path(self.path)))
            pages, each = (
                self._connection.execute(f"PRAGMA {what}").fetchone()[0]
                for what in ("page_count", "page_size")
            )
            self._size = pages * each  # includes the log
            limit_steps(self._connection, self._size)
            _check_content(self.path, self._connection)
            self._connection.execute("BEGIN")  # one snapshot for all reads
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def __enter__(self) -> JournalFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Read all rows once.

        Raises
        ------
        InputError : when a row was changed, or one that others refer to is missing
        """
        programs = {row["number"]: json.loads(row["steps"]) for row in self.rows("program")}
        passes = {row["number"]: row["program"] for row in self.rows("pass")}
        for table in ("about", "file", "input", "session", "ending", "result"):
            for _ in self.rows(table):
                pass
        is_whole = set(passes.values()) <= set(programs)
        finished = {(row["pass"], row["part"], row["step"]) for row in self.rows("step")}
        for number, part, step in finished:
            is_whole &= number in passes
            if is_whole:
                steps = programs[passes[number]]
                is_whole &= 0 <= step < len(steps)
            if is_whole:  # a step has read the results of steps that finished before it
                needs = "".join(steps[step][3:]).split()
                is_whole &= finished.issuperset((number, part, int(need)) for need in needs)
        faults = [row["number"] for row in self.rows("fault", "number")]
        is_whole &= faults == list(range(1, len(faults) + 1))
        done: dict[str, int] = {}
        for row in self.rows("segment", "job, first"):
            is_whole &= row["first"] == done.get(row["job"], 0)
            done[row["job"]] = row["done"]
        if not is_whole:
            raise InputError(
                f"the journal {self.path} is damaged: rows are missing; take a copy from a backup"
            )

    def rows(self, table: str, order: str = "1") -> Iterator[dict[str, Any]]:
        """Return the rows of a table, each checked against its digest.

        Parameters
        ----------
        order : columns to sort by
        """
        with refusing(self.path, "cannot read the journal"):
            limit_steps(self._connection, self._size)
            cursor = self._connection.execute(f"SELECT * FROM {table} ORDER BY {order}")
            names = [column[0] for column in cursor.description]
            for *row, seal in cursor:
                _check_seal(self.path, table, row, seal)
                yield dict(zip(names, row, strict=False))

    def about(self) -> dict[str, Any]:
        """Return the documents that describe the run."""
        return {row["key"]: json.loads(row["value"]) for row in self.rows("about")}

    def results(self) -> dict[str, Any]:
        """Return the results of the run; empty while it is not complete."""
        return {row["key"]: json.loads(row["value"]) for row in self.rows("result")}

    def inputs(self) -> dict[str, Any]:
        """Return the inputs of the run."""
        return {
            row["name"]: json.loads(row["content"])
            if row["layout"] is None
            else _unpacked(row["layout"], row["content"])[0]
            for row in self.rows("input")
        }

    def files(self) -> dict[str, bytes]:
        """Return the files that the run depends on."""
        return {row["name"]: row["content"] for row in self.rows("file")}

    def sessions(self) -> list[dict[str, Any]]:
        """Return the document and the outcome of each session; "outcome" is None if killed."""
        endings = {row.pop("session"): row for row in self.rows("ending")}
        return [
            {"number": row["number"], **json.loads(row["document"])}
            | endings.get(row["number"], {"at_s": None, "outcome": None, "detail": ""})
            for row in self.rows("session")
        ]

    def faults(self) -> Iterator[dict[str, Any]]:
        """Return every fault, with the number of its session, and its recovery."""
        words = OldWords()
        for row in self.rows("fault"):
            fault = {"session": row["session"], **json.loads(row["document"])}
            words.keys(fault, {"remedy": "recovery"})
            words.value(fault, "kind", OLD_KINDS)
            yield fault
        words.remark(f"the journal {self.path}")

    def steps(self) -> Iterator[dict[str, Any]]:
        """Return finished steps: pass, step, part, seconds, stats, values, name, kind, where."""
        programs = {row["number"]: json.loads(row["steps"]) for row in self.rows("program")}
        passes = {row["number"]: row["program"] for row in self.rows("pass")}
        for row in self.rows("step", "pass, step, part"):
            try:
                name, kind, where = programs[passes[row["pass"]]][row["step"]][:3]
            except (KeyError, IndexError):
                raise InputError(
                    f"the journal {self.path} is damaged: the program of a step is missing; take a "
                    "copy from a backup"
                ) from None
            counts = {} if row["stats"] is None else json.loads(row["stats"])
            values = _unpacked(row.pop("layout"), row.pop("content"))
            yield (
                row
                | {"stats": counts, "values": values, "name": name, "kind": kind}
                | {"where": where}
            )

    def segments(self) -> Iterator[dict[str, Any]]:
        """Return finished shots: job, first, done, electrons [n, slots], quality by name [n]."""
        for row in self.rows("segment"):
            (electrons,) = _unpacked(row.pop("layout"), row.pop("content"))
            quality = np.frombuffer(row["quality"], dtype=np.float32).reshape(-1, len(QUALITY))
            yield row | {
                "stats": json.loads(row["stats"]),
                "state": json.loads(row["state"]),
                "electrons": electrons,
                "quality": dict(zip(QUALITY, quality.T, strict=True)),
            }


def is_journal(path: str | Path) -> bool:
    """Return whether a file is an SQLite file, as journals are."""
    return has_magic(Path(path))


def check_journal(path: Path) -> None:
    """Refuse a file that is not a readable journal; nothing is written.

    Raises
    ------
    InputError : naming the reason
    """
    JournalFile(path).close()


def _refuse_existing(path: Path) -> None:
    if path.exists() and not is_journal(path):
        raise InputError(f"{path} already exists and is not a journal; give another name")
    if path.exists():
        raise InputError(
            f"{path} already exists; continue it with `lightloom resume {path}`, or give another "
            "name"
        )


def _refuse_other_files(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no journal {path}; `lightloom run --record {path}` writes one")
    if not is_journal(path):
        raise InputError(
            f"{path} is not a journal of a run; give a file that `lightloom run --record` wrote"
        )


def _check_content(path: Path, connection: sqlite3.Connection) -> None:
    ours = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if ours != APPLICATION:
        raise InputError(
            f"{path} is an SQLite file, but not a journal of lightloom; give a file that "
            "`lightloom run --record` wrote"
        )
    if version > SCHEMA:
        raise InputError(
            f"{path} has schema {version}, and this lightloom reads up to {SCHEMA}; use the "
            "version that wrote it, or a newer one"
        )
    if not has_schema(connection, _TABLES):  # before any query that a view could slow down
        raise InputError(
            f"the journal {path} is damaged: its tables are not those that lightloom makes; take a "
            "copy from a backup"
        )
    sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if version < 1 or sound != "ok":
        raise InputError(f"the journal {path} is damaged; take a copy from a backup")


# --- rows and bytes ------------------------------------------------------------------------------


def _lock(path: Path) -> HeldLock:
    """Lock the file that a path leads to, so that links to it are locked, too."""
    place = _real_path(path)
    if not has_locks(place.parent):  # SQLite would only report a locked file, after a while
        raise InputError(
            f"cannot write the journal {path}: the file system of {place.parent} {NO_LOCKS}"
        )
    try:
        lock = HeldLock(place.with_name(f".{place.name}.lock"), f"the journal {path}")
        return lock.acquire()
    except OSError as error:
        raise InputError(
            f"cannot write the journal {path}: it cannot be locked against other processes "
            f"({error.strerror or error}); use a writable folder on a disk of this computer"
        ) from None


def _real_path(path: Path) -> Path:
    """Return the file that a path leads to; a circular link leads to itself."""
    return Path(os.path.realpath(path))


def _seal(table: str, row: Sequence[Any]) -> bytes:
    """Digest a row: 8 bytes of BLAKE2b over its table, its values and their kinds."""
    state = blake2b(table.encode(), digest_size=8)
    for value in row:
        content = value if isinstance(value, bytes) else repr(value).encode()
        state.update(f"|{type(value).__name__} {len(content)}|".encode())
        state.update(content)
    return state.digest()


def _check_seal(path: Path, table: str, row: Sequence[Any], seal: bytes) -> None:
    if _seal(table, row) != seal:
        raise InputError(
            f"the journal {path} is damaged: a row of its table {table!r} is not what was written; "
            "take a copy from a backup"
        )


def _text(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _packed(values: Sequence[np.ndarray]) -> tuple[str, bytes]:
    """Return arrays as one text of kinds and shapes, and their bytes one after another."""
    arrays = [np.asarray(value) for value in values]
    layout = ";".join(f"{a.dtype.str} {','.join(map(str, a.shape))}" for a in arrays)
    return layout, b"".join(array.tobytes() for array in arrays)


def _unpacked(layout: str, content: bytes) -> list[np.ndarray]:
    """Undo `_packed`; the arrays are writable copies."""
    arrays, first = [], 0
    for part in layout.split(";") if layout else []:
        kind, _, sizes = part.partition(" ")
        dtype = np.dtype(kind)
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        last = first + dtype.itemsize * int(np.prod(shape, dtype=int))
        arrays.append(np.frombuffer(content[first:last], dtype=dtype).reshape(shape).copy())
        first = last
    return arrays


def _counts(stats: Stats) -> dict[str, Any]:
    """Return the counts that are not zero, with times rounded to a tenth of a microsecond."""
    counts = {key: value for key, value in vars(stats).items() if value}
    if "seconds" in counts:
        counts["seconds"] = {name: round(value, 7) for name, value in stats.seconds.items()}
    return counts


def _stats(counts: Mapping[str, Any]) -> Stats:
    return Stats(**counts)


def _checkpoint(text: str) -> Checkpoint:
    return Checkpoint(**json.loads(text))


__all__ = ["SCHEMA", "Journal", "JournalFile", "KeptStep", "check_journal", "is_journal"]
