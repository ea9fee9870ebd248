"""Targets of `fuzz` that read and resume runs: journals that have changed.

A refused journal must stay as it is. An accepted one must lead to the bits of an undisturbed run. A
reader must see what was written, or a sentence.
"""

import contextlib
import importlib.util
import sqlite3
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from journal_factory import keep_segment, note_fault, recorded_on_the_mock
from lightloom.instruments import LightloomError
from lightloom.models import load_model
from lightloom.scheduler.journal.export import export
from lightloom.scheduler.journal.journal import Journal
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.journal.summary import summarise
from lightloom.scheduler.runs.resume import resume

from .mutations import ODD_NUMBERS, changed_bytes, odd_value
from .trying import Attempt, Target, want

_IMAGES, _STEPS = 4, 40
_PAGE_BYTES = 2048  # of the file
_TABLES = ("about", "file", "input", "session", "ending", "program", "pass", "step", "fault")
_ALL_TABLES = (*_TABLES, "segment", "result")


def _journals(folder: Path) -> Iterator[Attempt]:
    whole, part, path = (folder / name for name in ("whole.db", "part.db", "run.db"))
    recorded_on_the_mock(whole, _IMAGES)
    part.write_bytes(whole.read_bytes())
    with contextlib.closing(sqlite3.connect(part)) as database:
        kept = f"SELECT rowid FROM step ORDER BY rowid LIMIT {_STEPS}"
        database.execute("DELETE FROM result")
        database.execute("DELETE FROM ending")
        database.execute(f"DELETE FROM step WHERE rowid NOT IN ({kept})")
        database.commit()
    content, wanted = part.read_bytes(), _results_of(whole)
    columns = _columns(part)

    def attempt(random: Random) -> None:
        for other in folder.glob("*run.db*"):
            other.unlink()
        kind = random.random()
        if kind < 0.4:
            change = changed_bytes if kind < 0.12 else damaged
            path.write_bytes(change(random, content))
        else:
            path.write_bytes(content)
            _change_row(random, path, columns)
        before = path.read_bytes()
        try:
            _look(path)
            resume(path, load_model)
        except LightloomError:
            want(path.read_bytes() == before, "a journal that was refused was written")
            raise
        want(_results_of(path) == wanted, "a resumed run has other numbers")

    yield attempt


def _columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of the tables that have rows."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {
            table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            for table in _TABLES
            if database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        }


def _change_row(random: Random, path: Path, columns: dict[str, list[str]]) -> None:
    table = random.choice(sorted(columns))
    column, key = random.choice(columns[table]), columns[table][0]
    with contextlib.closing(sqlite3.connect(path)) as database:
        if random.random() < 0.05:
            database.execute(f"PRAGMA user_version = {random.choice((0, 2, 99, -1))}")
            return
        rows = database.execute(f"SELECT {key}, {column} FROM {table}").fetchall()
        where, old = random.choice(rows)
        this = f"WHERE {key} = ? AND {column} IS ?"
        with contextlib.suppress(sqlite3.Error, OverflowError):  # what SQLite itself refuses
            if random.random() < 0.05:
                database.execute(f"DELETE FROM {table} {this}", (where, old))
            else:
                values = (_another(random, old), where, old)
                database.execute(f"UPDATE {table} SET {column} = ? {this}", values)
            database.commit()


def _another(random: Random, old: Any) -> Any:
    """Return another value for a cell."""
    if isinstance(old, bytes) and random.random() < 0.8:
        return changed_bytes(random, old)
    if isinstance(old, str) and random.random() < 0.8:
        return changed_bytes(random, old.encode()).decode("utf-8", "replace")
    if isinstance(old, int | float) and random.random() < 0.6:
        return random.choice((old + 1, -old, old * 10, float(old)))
    value = random.choice((None, b"", "", odd_value(random, 9), random.choice(ODD_NUMBERS)))
    return value if isinstance(value, int | float | str | bytes | None) else str(value)


def _look(path: Path) -> None:
    """Read every table as a report does."""
    with JournalFile(path) as kept:
        for read in (kept.about, kept.results, kept.inputs, kept.files, kept.sessions):
            read()
        for step in kept.steps():
            want(all(np.asarray(v).size >= 0 for v in step["values"]), "values")
        deque(chain(kept.faults(), kept.segments()), maxlen=0)


def _results_of(path: Path) -> Any:
    """Return the results of a run, without times."""
    with JournalFile(path) as kept:
        report = kept.results()["report"]
        values = {
            (row["pass"], row["step"], row["part"]): [value.tobytes() for value in row["values"]]
            for row in kept.steps()
        }
    stats = {key: value for key, value in report["stats"].items() if key != "seconds"}
    return report["results"], report["quality"], stats, values


def _damaged_journals(folder: Path) -> Iterator[Attempt]:
    """Damage a run of the mock, with shots and a fault of a bench."""
    path = folder / "run.db"
    recorded_on_the_mock(path, _IMAGES)
    with contextlib.closing(Journal.reopen(path)) as journal:
        for number in range(8):
            keep_segment(journal, number, 16)
        note_fault(journal, 1.0, 0)
    content, wanted = path.read_bytes(), _rows(path)
    has_hdf5 = importlib.util.find_spec("h5py") is not None

    def attempt(random: Random) -> None:
        for other in folder.glob("*run.db*"):
            other.unlink()
        path.write_bytes(damaged(random, content))
        want(_rows(path) == wanted, "a reader saw other rows")
        with JournalFile(path) as kept:
            summarise(kept)
            kept.check()
            if has_hdf5 and random.random() < 0.1:
                export(kept, folder / "run.db.h5")

    yield attempt


def _rows(path: Path) -> dict[str, list[str]]:
    with JournalFile(path) as kept:
        return {table: [repr(row) for row in kept.rows(table)] for table in _ALL_TABLES}


def damaged(random: Random, content: bytes) -> bytes:
    """Return a file as a disk or a copy damages it: a bit, its end, or whole pages."""
    found, pages = bytearray(content), len(content) // _PAGE_BYTES
    at = random.randrange(pages) * _PAGE_BYTES
    kind = random.random()
    if kind < 0.6:  # the first pages hold the schema and the roots of the tables
        most = random.choice((100, 20 * _PAGE_BYTES, len(found), len(found)))
        found[random.randrange(min(most, len(found)))] ^= 1 << random.randrange(8)
    elif kind < 0.75:
        del found[random.choice((at, random.randrange(len(found)))) :]
    elif kind < 0.85:
        found[at : at + _PAGE_BYTES] = random.randbytes(_PAGE_BYTES)
    elif kind < 0.9:
        found[at : at + _PAGE_BYTES] = bytes(_PAGE_BYTES)
    else:
        other = random.randrange(pages) * _PAGE_BYTES
        found[at : at + _PAGE_BYTES] = content[other : other + _PAGE_BYTES]
    return bytes(found)


JOURNALS = (
    Target("journals", 0.001, _journals),
    Target("damaged journals", 0.02, _damaged_journals),
)
