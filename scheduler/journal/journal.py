"""`Journal`: a run in one SQLite file, written during the run, so that no finished result is lost.

Every row carries a digest of its content, so that a number that changed on the disk is detected.
Not here: the thread that writes (`writer`), the rows themselves (`rows`), reading a finished run
(`journal_file`), what a pass keeps and how it resumes (`pass_record`), the file itself
(`database`), and the protocol between a bench and its journal (`backends.bench.checkpoint`), which
this class implements.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from ...backends import Stats
from ...backends.bench.checkpoint import Checkpoint, FaultNote, Kept, Segment
from ...instruments import InputError
from ...instruments.safety.lock import HeldLock
from .database import NO_LOCKS, connect, has_locks, is_sqlite, make, real_path, refusing
from .journal_file import JournalFile
from .rows import SCHEMA, TABLES, SealedRows, as_text, counts_text, packed, stats_of, unpacked
from .writer import RowWriter


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
    pass_numbers : of the passes of this session, in their order
    writer : the thread that writes; a run tells it how to switch the light when the disk is full
    """

    def __init__(self, path: Path, lock: HeldLock) -> None:
        self.path, self._lock = path, lock
        self.writer = RowWriter(path)
        self._reader = connect(real_path(path))
        self._rows = SealedRows(path, self._reader)
        self._reading, self._numbering = Lock(), Lock()
        self.pass_numbers = itertools.count()
        try:
            self.session = self._largest("number", "session") or 0
            self._numbers = {t: self._largest("number", t) or 0 for t in ("segment", "fault")}
            programs = self._select("program", "")
        except BaseException:
            self._reader.close()
            self.writer.close()
            raise
        self._programs: dict[str, int] = {row["digest"]: row["number"] for row in programs}

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

        def prepare() -> None:
            _refuse_existing(path)  # another process may have made it before we had the lock
            make(real_path(path), TABLES, SCHEMA)

        return cls._locked(path, "cannot write the journal", prepare)

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
        JournalFile(path).close()  # it is refused before anything is written
        return cls._locked(path, "cannot resume", lambda: _refuse_unwritable(path))

    @classmethod
    def _locked(cls, path: Path, what: str, prepare: Callable[[], None]) -> Journal:
        """Lock a file, prepare it, and open it.

        Parameters
        ----------
        what : beginning of the sentence of an error
        """
        lock = _lock(path)
        try:
            with refusing(path, what):
                prepare()
                return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Write the waiting rows, and close the file; harmless when it is closed.

        Raises
        ------
        InputError : when rows could not be written, and no call has raised that before
        """
        try:
            self._reader.close()
            self.writer.close()
        finally:
            self._lock.release()

    # --- the run and its sessions ----------------------------------------------------------------

    def begin_session(self, document: Mapping[str, Any]) -> None:
        """Record that the run begins, or resumes, and on which hardware and versions."""
        self.session += 1
        row = self.session, as_text({"began_s": time.time(), **document})
        self.writer.insert("session", row)

    def end_session(self, outcome: str, detail: str = "") -> None:
        """Record the outcome: "complete", "paused", "stopped" or "failed"; if killed, none."""
        row = self.session, time.time(), outcome, detail
        self.writer.insert("ending", row, waits=False)

    @property
    def seconds_before(self) -> float:
        """The duration of earlier sessions, in seconds, each up to its last kept row."""
        total = 0.0
        for session in self._select("session", "WHERE number < ?", self.session):
            began_s = json.loads(session["document"])["began_s"]
            last_s = [
                self._largest("at_s", table, "WHERE session = ?", session["number"]) or began_s
                for table in ("step", "segment")
            ]
            total += max(began_s, *last_s) - began_s
        return total

    def keep_documents(self, table: Literal["about", "result"], **documents: Any) -> None:
        """Keep JSON documents by name: the description of the run, or its results."""
        for key, value in documents.items():
            self.writer.insert(table, (key, as_text(value)))

    def keep_file(self, name: str, content: bytes) -> None:
        """Keep a file that the run depends on."""
        self.writer.insert("file", (name, content))

    def keep_input(self, name: str, value: Any) -> None:
        """Keep an input of the run: an array, or a value that JSON can hold."""
        is_array = isinstance(value, np.ndarray)
        content = packed([value]) if is_array else (None, as_text(value).encode())
        self.writer.insert("input", (name, *content))

    # --- passes and their steps ------------------------------------------------------------------

    def keep_program(self, digest: str, steps: Sequence[Sequence[str]]) -> int:
        """Keep the steps of a program, once, and return its number."""
        if digest not in self._programs:
            self._programs[digest] = len(self._programs) + 1
            self.writer.insert("program", (self._programs[digest], digest, as_text(steps)))
        return self._programs[digest]

    def keep_pass(self, number: int, program: int, document: Mapping[str, Any]) -> None:
        """Keep the description of a pass, when it begins."""
        self.writer.insert("pass", (number, program, as_text(document)))

    def pass_document(self, number: int) -> dict[str, Any] | None:
        """Return the description of a pass, with its program under "program"; None if not begun."""
        for row in self._select("pass", "WHERE number = ?", number):
            return {**json.loads(row["document"]), "program": row["program"]}
        return None

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
        counts = None if stats is None else counts_text(stats)
        row = (*at, self.session, time.time(), seconds, counts, *packed(values))
        self.writer.insert("step", row)

    def steps_of(self, number: int) -> dict[tuple[int, int], KeptStep]:
        """Return the finished (step, micro-batch) of a pass."""
        query = "SELECT step, part, seconds, stats FROM step WHERE pass = ?"
        with self._reading:
            rows = self._rows.columns(query, number)
        return {(step, part): KeptStep(s, stats_of(stats)) for step, part, s, stats in rows}

    def values_of(self, number: int, step: int, part: int) -> list[np.ndarray]:
        """Return the results of a finished step.

        Raises
        ------
        InputError : when they are damaged
        """
        where = "WHERE pass = ? AND step = ? AND part = ?"
        (row,) = self._select("step", where, number, step, part)
        return unpacked(row["layout"], row["content"])

    # --- shots and faults of benches: `backends.bench.checkpoint.Recorder` -----------------------

    def keep(self, segment: Segment) -> None:
        """Keep shots that are final; wait, with the light off, while the disk is full."""
        layout, content = packed([segment.electrons])
        row = (
            segment.job,
            segment.first,
            segment.done,
            int(segment.is_last),
            self.session,
            time.time(),
            counts_text(segment.stats),
            as_text(asdict(segment.state)),
            layout,
            content,
            np.ascontiguousarray(segment.quality, dtype=np.float32).tobytes(),
        )
        self._insert_numbered("segment", row)

    def forget(self, job: str, number: int) -> None:
        """Delete segments of a job that hold shots after the planned one of this number."""
        self.writer.execute("DELETE FROM segment WHERE job = ? AND done > ?", (job, number + 1))

    def note(self, fault: FaultNote) -> None:
        """Keep a fault and its recovery."""
        self._insert_numbered("fault", (self.session, as_text(asdict(fault))))

    def known(self, job: str) -> Kept | None:
        """Return the kept shots of a job of a bench; None for a new job.

        Raises
        ------
        InputError : when it is damaged
        """
        done, parts, stats = 0, [], Stats()
        rows = self._select("segment", "WHERE job = ? ORDER BY first", job)
        for row in rows:
            if row["first"] != done:
                raise InputError(f"{self.path} is damaged: a part of {job} is missing")
            done = row["done"]
            stats.add(stats_of(row["stats"]))
            parts += unpacked(row["layout"], row["content"])
        return Kept(done, np.concatenate(parts), stats, _checkpoint(rows[-1])) if rows else None

    def last(self, of: str = "") -> Checkpoint | None:
        """Return the state of a bench after the latest kept shots.

        Parameters
        ----------
        of : prefix of the names of its jobs, where there are several benches
        """
        where = "WHERE substr(job, 1, ?) = ? ORDER BY number DESC LIMIT 1"
        for row in self._select("segment", where, len(of), of):
            return _checkpoint(row)
        return None

    # --- rows ------------------------------------------------------------------------------------

    def _insert_numbered(self, table: str, row: tuple[Any, ...]) -> None:
        """Number a row and insert it, under one lock, since benches have threads of their own."""
        with self._numbering:
            self._numbers[table] += 1
            self.writer.insert(table, (self._numbers[table], *row))

    def _select(self, table: str, rest: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows of earlier sessions; see `SealedRows.select`."""
        with self._reading:
            return list(self._rows.select(table, rest, *values))

    def _largest(self, column: str, table: str, where: str = "", *values: Any) -> Any:
        """Return the largest value of a column; None without rows."""
        with self._reading:
            ((found,),) = self._rows.columns(f"SELECT max({column}) FROM {table} {where}", *values)
        return found


def _checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(**json.loads(row["state"]))


def _refuse_existing(path: Path) -> None:
    if path.exists():
        what = f"; continue it with `lightloom resume {path}`, or give another name"
        other = " and is not a journal; give another name"
        raise InputError(f"{path} already exists{what if is_sqlite(path) else other}")


def _refuse_unwritable(path: Path) -> None:
    """Refuse a file that cannot be written now, not after an hour."""
    found = path.stat()
    if not found.st_mode & 0o222:
        raise InputError(f"the journal {path} is read-only; make it writable first")
    if found.st_nlink > 1:  # SQLite's log, and our lock, belong to a name
        raise InputError(
            f"the journal {path} has a second name (a hard link), under which another "
            "process could write it, too; remove that name, or resume a copy"
        )
    with path.open("r+b"):
        pass


def _lock(path: Path) -> HeldLock:
    """Lock the file that a path leads to, so that links to it are locked, too."""
    place = real_path(path)
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
