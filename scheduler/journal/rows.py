"""The rows of a journal: their tables, their digests, and values as text and bytes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import Stats
from .database import damaged, limit_steps, refusing

SCHEMA = 1
TABLES = """
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


class SealedRows:
    """Reads rows over a connection, and checks each against its digest.

    Parameters
    ----------
    path : of the journal, for messages
    size : of the file in bytes, which limits the steps of a query; None sets no limit
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, size: int | None = None) -> None:
        self._path, self._connection, self._size = path, connection, size

    def select(self, table: str, rest: str, *values: Any) -> Iterator[dict[str, Any]]:
        """Return rows of a table by the names of its columns, without their digests.

        Parameters
        ----------
        rest : of the query, such as "WHERE number = ? ORDER BY at_s"
        values : for its question marks

        Raises
        ------
        InputError : when a row is damaged, or the file cannot be read
        """
        with refusing(self._path, "cannot read the journal"):
            if self._size is not None:
                limit_steps(self._connection, self._size)
            cursor = self._connection.execute(f"SELECT * FROM {table} {rest}", values)
            names = [column[0] for column in cursor.description]
            for *row, found in cursor:
                if seal(table, row) != found:
                    what = f"a row of its table {table!r} is not what was written"
                    raise damaged(self._path, what)
                yield dict(zip(names, row, strict=False))

    def columns(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the result of a query of some columns, whose digests cannot be checked."""
        with refusing(self._path, "cannot read the journal"):
            return self._connection.execute(query, values).fetchall()


def seal(table: str, row: Sequence[Any]) -> bytes:
    """Return the digest of a row: 8 bytes of BLAKE2b over its table, its values and their kinds."""
    state = blake2b(table.encode(), digest_size=8)
    for value in row:
        content = value if isinstance(value, bytes) else repr(value).encode()
        state.update(f"|{type(value).__name__} {len(content)}|".encode())
        state.update(content)
    return state.digest()


def as_text(document: Any) -> str:
    """Return a document as JSON without spaces; what JSON cannot hold becomes plain, or text."""
    return json.dumps(document, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def packed(values: Sequence[np.ndarray]) -> tuple[str, bytes]:
    """Return arrays as one text of kinds and shapes, and their bytes one after another."""
    arrays = [np.asarray(value) for value in values]
    layout = ";".join(f"{a.dtype.str} {','.join(map(str, a.shape))}" for a in arrays)
    return layout, b"".join(array.tobytes() for array in arrays)


def unpacked(layout: str, content: bytes) -> list[np.ndarray]:
    """Undo `packed`; the arrays are writable copies."""
    arrays, first = [], 0
    for part in layout.split(";") if layout else []:
        kind, _, sizes = part.partition(" ")
        dtype = np.dtype(kind)
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        last = first + dtype.itemsize * int(np.prod(shape, dtype=int))
        arrays.append(np.frombuffer(content[first:last], dtype=dtype).reshape(shape).copy())
        first = last
    return arrays


def counts_text(stats: Stats) -> str:
    """Return the counts that are not zero as text, with times to a tenth of a microsecond."""
    counts = {key: value for key, value in vars(stats).items() if value}
    if "seconds" in counts:
        counts["seconds"] = {name: round(value, 7) for name, value in stats.seconds.items()}
    return as_text(counts)


def stats_of(text: str | None) -> Stats:
    """Undo `counts_text`; None is without counts."""
    counts: Mapping[str, Any] = {} if text is None else json.loads(text)
    return Stats(**counts)
