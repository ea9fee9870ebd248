"""`JournalFile`: a journal opened to be read, while a run writes it or afterwards."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.bench.checkpoint import QUALITY
from ...backends.bench.fault_policy import OLD_KINDS
from ...instruments import InputError
from ...instruments.old_words import OldWords
from .database import (
    APPLICATION,
    damaged,
    has_schema,
    is_sqlite,
    limit_steps,
    reading,
    real_path,
    refusing,
)
from .rows import SCHEMA, TABLES, SealedRows, unpacked


class JournalFile(contextlib.AbstractContextManager["JournalFile"]):
    """A journal opened to be read, while it is written or afterwards; it is not changed.

    Raises
    ------
    InputError : when it is not a journal, or is damaged
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _refuse_other_files(self.path)
        with contextlib.ExitStack() as stack, refusing(self.path, "cannot read the journal"):
            connection = stack.enter_context(reading(real_path(self.path)))
            pages, each = (
                connection.execute(f"PRAGMA {what}").fetchone()[0]
                for what in ("page_count", "page_size")
            )
            size = pages * each  # includes the log
            limit_steps(connection, size)
            _check_content(self.path, connection)
            connection.execute("BEGIN")  # one snapshot for all reads
            self._rows = SealedRows(self.path, connection, size)
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

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
            deque(self.rows(table), maxlen=0)
        is_whole = set(passes.values()) <= set(programs)
        finished = {(row["pass"], row["part"], row["step"]) for row in self.rows("step")}
        for number, part, step in finished:
            steps = programs.get(passes.get(number), ())
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
            raise damaged(self.path, "rows are missing")

    def rows(self, table: str, order: str = "1") -> Iterator[dict[str, Any]]:
        """Return the rows of a table, each checked against its digest.

        Parameters
        ----------
        order : columns to sort by
        """
        return self._rows.select(table, f"ORDER BY {order}")

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
            else unpacked(row["layout"], row["content"])[0]
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
                raise damaged(self.path, "the program of a step is missing") from None
            counts = {} if row["stats"] is None else json.loads(row["stats"])
            values = unpacked(row.pop("layout"), row.pop("content"))
            found = {"name": name, "kind": kind, "where": where, "stats": counts, "values": values}
            yield row | found

    def segments(self) -> Iterator[dict[str, Any]]:
        """Return finished shots: job, first, done, electrons [n, slots], quality by name [n]."""
        for row in self.rows("segment"):
            (electrons,) = unpacked(row.pop("layout"), row.pop("content"))
            quality = np.frombuffer(row["quality"], dtype=np.float32).reshape(-1, len(QUALITY))
            yield row | {
                "stats": json.loads(row["stats"]),
                "state": json.loads(row["state"]),
                "electrons": electrons,
                "quality": dict(zip(QUALITY, quality.T, strict=True)),
            }


def _refuse_other_files(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no journal {path}; `lightloom run --record {path}` writes one")
    if not is_sqlite(path):
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
    if not has_schema(connection, TABLES):  # before any query that a view could slow down
        raise damaged(path, "its tables are not those that lightloom makes")
    sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if version < 1 or sound != "ok":
        raise damaged(path)
