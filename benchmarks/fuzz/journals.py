"""The target of `fuzz` that goes on with runs: journals with bytes or rows that have changed.

What is refused must stay as it lies; what is accepted must come to the bits of a run that nobody
disturbed.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ...instruments import LightloomError
from ...models import load_model, plan
from ...models.model import load_arrays
from ...models.recorded import resume
from ...scheduler.journal import JournalFile
from .mutations import ODD_NUMBERS, changed_bytes, odd_value
from .trying import Attempt, Target, want

_IMAGES, _STEPS = 4, 40
_TABLES = ("about", "file", "input", "session", "ending", "program", "pass", "step", "fault")


@contextlib.contextmanager
def _journals(folder: Path) -> Iterator[Attempt]:
    whole, part, path = (folder / name for name in ("whole.db", "part.db", "run.db"))
    model = load_model("digits")
    images = load_arrays(model.source / "data.safetensors")
    planned = plan(model, "mock", 2)
    planned.run(images["images"][:_IMAGES], images["labels"][:_IMAGES], record=whole)
    part.write_bytes(whole.read_bytes())
    with contextlib.closing(sqlite3.connect(part)) as database:
        kept = f"SELECT rowid FROM step ORDER BY rowid LIMIT {_STEPS}"
        database.execute("DELETE FROM result")
        database.execute("DELETE FROM ending")
        database.execute(f"DELETE FROM step WHERE rowid NOT IN ({kept})")
        database.commit()
    content, wanted = part.read_bytes(), _told(whole)
    columns = _columns(part)

    def attempt(random: Random) -> bool:
        for other in folder.glob("*run.db*"):
            other.unlink()
        path.write_bytes(content)
        if random.random() < 0.4:
            path.write_bytes(_changed(random, content))
        else:
            _change_row(random, path, columns)
        before = path.read_bytes()
        try:
            _look(path)
            resume(path)
        except LightloomError:
            want(path.read_bytes() == before, "a journal that was refused was written")
            raise
        want(_told(path) == wanted, "a run came to other numbers")
        return True

    yield attempt


def _changed(random: Random, content: bytes) -> bytes:
    """Give a file with bytes changed; lengths kept, mostly, as a disk does it."""
    if random.random() < 0.3:
        return changed_bytes(random, content)
    found = bytearray(content)
    for _ in range(random.choice((1, 1, 4))):
        at = random.randrange(100 if random.random() < 0.2 else len(found))
        found[at] ^= 1 << random.randrange(8)
    return bytes(found)


def _columns(path: Path) -> dict[str, list[str]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = {}
        for table in _TABLES:
            if database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
                rows = database.execute(f"PRAGMA table_info({table})")
                found[table] = [row[1] for row in rows]
    return found


def _change_row(random: Random, path: Path, columns: dict[str, list[str]]) -> None:
    table = random.choice(sorted(columns))
    column = random.choice(columns[table])
    key = columns[table][0]
    with contextlib.closing(sqlite3.connect(path)) as database:
        if random.random() < 0.05:
            version = random.choice((0, 2, 99, -1))
            database.execute(f"PRAGMA user_version = {version}")
            return
        rows = database.execute(f"SELECT {key}, {column} FROM {table}").fetchall()
        where, old = random.choice(rows)
        with contextlib.suppress(sqlite3.Error, OverflowError):  # what SQLite itself refuses
            if random.random() < 0.05:
                database.execute(
                    f"DELETE FROM {table} WHERE {key} = ? AND {column} IS ?", (where, old)
                )
            else:
                database.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {key} = ? AND {column} IS ?",
                    (_another(random, old), where, old),
                )
            database.commit()


def _another(random: Random, old: Any) -> Any:
    """Give another value for a cell."""
    if isinstance(old, bytes) and random.random() < 0.8:
        return changed_bytes(random, old)
    if isinstance(old, str) and random.random() < 0.8:
        return changed_bytes(random, old.encode()).decode("utf-8", "replace")
    if isinstance(old, int | float) and random.random() < 0.6:
        return random.choice((old + 1, -old, old * 10, float(old)))
    value = random.choice((None, b"", "", odd_value(random, 9), random.choice(ODD_NUMBERS)))
    return value if isinstance(value, int | float | str | bytes | None) else str(value)


def _look(path: Path) -> None:
    """Read every table, as a report does."""
    with JournalFile(path) as kept:
        kept.about(), kept.results(), kept.inputs(), kept.files(), kept.sessions(), kept.faults()
        for step in kept.steps():
            want(all(np.asarray(v).size >= 0 for v in step["values"]), "values")
        for _ in kept.segments():
            pass


def _told(path: Path) -> Any:
    """Give what a run came to, without times."""
    with JournalFile(path) as kept:
        report = kept.results()["report"]
        values = {
            (row["pass"], row["step"], row["part"]): [value.tobytes() for value in row["values"]]
            for row in kept.steps()
        }
    stats = {key: value for key, value in report["stats"].items() if key != "seconds"}
    return report["results"], report["quality"], stats, values


JOURNALS = (Target("journals", 0.001, _journals),)
