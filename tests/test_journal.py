"""A stopped run resumes anywhere with the same bits, and a damaged journal is refused.

Without this, hours of light are lost to one power cut, or come back as other numbers.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from bench_factory import change_bench, write_bench
from lightloom.backends import Backend, Stats
from lightloom.backends.bench import open_benches
from lightloom.backends.bench.checkpoint import QUALITY, Checkpoint, FaultNote, Segment
from lightloom.instruments import InputError, InUse
from lightloom.instruments.safety.lock import HeldLock
from lightloom.models import Cache, Model, load_arrays, load_model
from lightloom.scheduler.journal import database, writer
from lightloom.scheduler.journal.journal import Journal
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.runs import plan
from waiting import wait_until

import lightloom
from lightloom import resume

IMAGES = 6


def images(count: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    arrays = load_arrays(load_model("digits").source / "data.safetensors")
    return arrays["images"][:count], arrays["labels"][:count]


def run(path: Path | None, backend: Backend | str = "mock", batch: int = 3, **options: Any) -> Any:
    shown, labels = images()
    planned = plan(load_model("digits"), backend, batch)
    return planned.run(shown, labels, record=path, **options)


def content(path: Path) -> dict[Any, Any]:
    """Return every number in a journal, by its place."""
    with JournalFile(path) as kept:
        found: dict[Any, Any] = {
            (row["pass"], row["step"], row["part"]): [value.tobytes() for value in row["values"]]
            for row in kept.steps()
        }
        for row in kept.segments():
            found[row["job"], row["first"]] = row["electrons"].tobytes()
        results = kept.results().get("report", {}).get("results")
    return found | {"results": results}


def cut(source: Path, target: Path, steps: int) -> Path:
    """Copy a journal as it was after so many steps."""
    shutil.copy(source, target)
    with sqlite3.connect(target) as database:
        database.execute("DELETE FROM result")
        database.execute("DELETE FROM ending")
        kept = f"SELECT rowid FROM step ORDER BY rowid LIMIT {steps}"
        database.execute(f"DELETE FROM step WHERE rowid NOT IN ({kept})")
    database.close()
    return target


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "run.db"
    run(path)
    return path


# ------------------------------------------------------------------------------- the same bits


def test_recording_changes_nothing(whole: Path) -> None:
    report = run(None).report()
    with JournalFile(whole) as kept:
        resume = kept.results()["report"]
    assert resume["results"] == report.as_dict()["results"]
    assert resume["quality"] == report.as_dict()["quality"]
    counts = report.stats.as_dict()
    assert {key: resume["stats"][key] for key in counts if key != "seconds"} == {
        key: counts[key] for key in counts if key != "seconds"
    }


@pytest.mark.parametrize(
    "share",
    [*(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.01, 0.3, 0.77)), 0.5, 1.0],
)
def test_a_run_resumes_from_any_step(whole: Path, tmp_path: Path, share: float) -> None:
    with JournalFile(whole) as kept:
        count = sum(1 for _ in kept.steps())
    part = cut(whole, tmp_path / "part.db", round(share * count))
    finished = resume(part)
    assert content(part) == content(whole)
    with JournalFile(part) as kept, JournalFile(whole) as all_of_it:
        now, then = kept.results()["report"], all_of_it.results()["report"]
        assert [s["outcome"] for s in kept.sessions()] == [None, "complete"]
    assert {**now["stats"], "seconds": 0} == {**then["stats"], "seconds": 0}
    assert finished.report().quality == then["quality"]


def decoded(model: Model, backend: Backend, journal: Journal | None, batch: int) -> np.ndarray:
    """Decode three tokens after a prompt, each a pass that reads the appended tokens."""
    chance = np.random.Generator(np.random.Philox(5))
    executor, cache = model.executor(backend), Cache()
    executor.journal = journal
    tokens = [chance.integers(0, 40, (batch, count)) for count in (6, 1, 1, 1)]
    passes = [model.run_pass(executor, "logits", part, cache=cache) for part in tokens]
    executor.journal = None
    return np.concatenate(passes, axis=1)


def test_appended_states_are_restored(references: Path, tmp_path: Path) -> None:
    model, backend = load_model(references / "gpt2"), lightloom.open_backend("mock")
    model.calibrate(model.executor(backend))
    wanted = decoded(model, backend, None, 2)
    first = tmp_path / "first.db"
    journal = Journal.create(first)
    journal.begin_session({})
    assert np.array_equal(decoded(model, backend, journal, 2), wanted)
    journal.close()
    with JournalFile(first) as kept:
        count = sum(1 for _ in kept.steps())
    for steps in range(1, count, 17):
        part = cut(first, tmp_path / f"{steps}.db", steps)
        journal = Journal.reopen(part)
        journal.begin_session({})
        assert np.array_equal(decoded(model, backend, journal, 2), wanted)
        journal.close()


def test_no_finished_product_is_computed_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JournalFile(whole) as kept:
        rows = list(kept.steps())
    done = sum(1 for row in rows[: len(rows) // 2] if row["where"] == "optical")
    part = cut(whole, tmp_path / "part.db", len(rows) // 2)
    begun: list[str] = []
    begin = lightloom.backends.MockBackend.begin

    def counted(self: Any, x: Any, w: Any, at: Any = None, *others: Any) -> Any:
        begun.append(at.matmul if at is not None else "")
        return begin(self, x, w, at, *others)

    monkeypatch.setattr(lightloom.backends.MockBackend, "begin", counted)
    resume(part)
    products = [name for name in begun if name and name != "warm up"]
    assert len(products) == sum(1 for row in rows if row["where"] == "optical") - done


# ------------------------------------------------------------------------------- on a bench


FIRST_LAYER = """
default = "host"
[[rule]]
layers = "0-0"
where = "light"
"""


def bench_run(folder: Path, name: str, count: int = 1) -> tuple[Path, Path]:
    """Run a layer on benches, which has every kind of product; the others cost time only."""
    benches = [folder / "bench.toml", *(folder / f"bench{number}.toml" for number in range(count))]
    for seed, bench in enumerate(benches[:count]):
        if not bench.exists():
            write_bench(bench, seed=seed, world__source_rms=0.01, world__drift_rms=0.02)
    path, bench, rules = folder / name, benches[0], folder / "first_layer.toml"
    rules.write_text(FIRST_LAYER, encoding="utf-8")
    backend = open_benches(benches[:count])
    try:
        shown, labels = images(1)
        planned = plan(load_model("digits"), backend, 1, placement=str(rules))
        planned.run(shown, labels, record=path, reference=False)
    finally:
        backend.close()
    return path, bench


@pytest.fixture(scope="module")
def whole_on_a_bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A journal on one bench, which a test copies, and the file of that bench."""
    return bench_run(tmp_path_factory.mktemp("bench"), "run.db")


def moments(journal: Path) -> list[float]:
    """Return when each segment was kept, in seconds."""
    with JournalFile(journal) as kept:
        return [row["at_s"] for row in kept.segments()]


def cut_bench(source: Path, target: Path, at_s: float) -> Path:
    """Copy a journal as it was at a moment; of two benches, one may be a segment behind."""
    shutil.copy(source, target)
    with sqlite3.connect(target) as database:
        database.execute("DELETE FROM result")
        database.execute("DELETE FROM ending")
        database.execute("DELETE FROM step WHERE at_s > ?", (at_s,))
        first = "(SELECT min(number) FROM segment WHERE at_s > ?)"
        database.execute(f"DELETE FROM segment WHERE number >= {first}", (at_s,))
    database.close()
    return target


def check_resume(source: Path, part: Path, share: float) -> None:
    """Check that a run on benches resumes with the same bits after a fraction of its segments."""
    kept_at = moments(source)
    assert len(kept_at) > 20
    cut_bench(source, part, kept_at[round(share * (len(kept_at) - 2))])
    resume(part)
    assert content(part) == content(source)


@pytest.mark.slow
@pytest.mark.parametrize(
    "share",
    [0, 1 / 3, 0.8, 1],
)
def test_a_bench_resumes_with_the_same_light(
    whole_on_a_bench: tuple[Path, Path], tmp_path: Path, share: float
) -> None:
    """Noise is keyed by shot, and simulated drift stops while no run is active.

    One layout; `test_segments.py` has all of them, and every segment.
    """
    check_resume(whole_on_a_bench[0], tmp_path / "part.db", share)


@pytest.mark.slow
def test_two_benches_resume_with_the_same_light(tmp_path: Path) -> None:
    # At a power cut one of them may be a segment behind the other.
    source, _ = bench_run(tmp_path, "whole.db", 2)
    for share in (0, 1 / 3, 1):
        check_resume(source, tmp_path / f"{share:.1f}.db", share)


# ------------------------------------------------------------------------------- kills and power


KILLED = """
import sys
from lightloom.models import load_model
from lightloom.scheduler.runs import plan
from lightloom.models import load_arrays
arrays = load_arrays(load_model("digits").source / "data.safetensors")
print("begins", flush=True)
plan(load_model("digits"), "mock", 1).run(
    arrays["images"][:8], arrays["labels"][:8], record=sys.argv[1]
)
"""


@pytest.fixture(scope="module")
def not_killed(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Return the content of the journal of the same run when it is not killed."""
    reference = tmp_path_factory.mktemp("killed") / "reference.db"
    shown, labels = images(8)
    plan(load_model("digits"), "mock", 1).run(shown, labels, record=reference)
    return content(reference)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 1, 60])
def test_a_killed_process_loses_nothing(
    not_killed: dict[Any, Any], tmp_path: Path, steps: int
) -> None:
    """The campaign of 200 kills is `python tests/robustness crashes`; here are three."""
    path = tmp_path / "run.db"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    wait_until(lambda: _has_steps(path, steps), 60)
    process.kill()
    process.communicate()
    with JournalFile(path) as kept:
        is_begun = "versions" in kept.about()
    if is_begun and not _is_complete(path):
        resume(path)
        assert content(path) == not_killed


def _has_steps(path: Path, count: int) -> bool:
    """Return whether a journal that is being written has kept so many steps."""
    if not path.exists() or count == 0:
        return path.exists()
    with JournalFile(path) as kept:
        return sum(1 for _ in kept.rows("step")) >= count


def _is_complete(path: Path) -> bool:
    with JournalFile(path) as kept:
        return bool(kept.results())


def test_a_power_cut_in_a_transaction(tmp_path: Path) -> None:
    """The log of the last transaction is cut at any place: the transactions before it are whole."""
    path = tmp_path / "run.db"
    journal = Journal.create(path)
    journal.begin_session({})
    journal.writer.flush()
    for number in range(40):
        journal.keep_step((0, number, 0), [np.arange(500, dtype=np.float32) + number], 0.1)
        journal.writer.flush()  # a transaction each
    log = path.with_name("run.db-wal")
    states = (path.read_bytes(), log.read_bytes())
    journal.close()
    chance = np.random.Generator(np.random.Philox(3))
    found = set()
    for place in chance.integers(0, len(states[1]) + 1, 40):
        copy = tmp_path / "cut" / f"{place}.db"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(states[0])
        copy.with_name(f"{place}.db-wal").write_bytes(states[1][:place])
        with JournalFile(copy) as kept:
            first = [np.frombuffer(row["content"], np.float32)[0] for row in kept.rows("step")]
        assert first == list(range(len(first)))  # the first ones, without a gap
        found.add(len(first))
        again = Journal.reopen(copy)
        again.close()
    assert len(found) > 10


# ------------------------------------------------------------------------------- bad journals


@pytest.mark.parametrize("table", ["about", "input", "step", "pass", "program", "session"])
def test_a_changed_number_is_detected(whole: Path, tmp_path: Path, table: str) -> None:
    part = cut(whole, tmp_path / "part.db", 60)
    column = {
        "about": "value",
        "input": "content",
        "step": "content",
        "pass": "document",
        "program": "steps",
        "session": "document",
    }[table]
    with sqlite3.connect(part) as database:
        rows = (
            database.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            if (table != "about")
            else database.execute("SELECT key, value FROM about WHERE key = 'task'").fetchall()
        )
        key, old = rows[-1]
        new = _changed(old)
        where = "key" if table == "about" else "rowid"
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {where} = ?", (new, key))
    database.close()
    before = part.read_bytes()
    with pytest.raises(InputError, match="damaged"):
        resume(part)
    assert part.read_bytes() == before


@pytest.mark.parametrize("table", ["pass", "program"])
def test_a_missing_row_is_detected(whole: Path, tmp_path: Path, table: str) -> None:
    part = cut(whole, tmp_path / "part.db", 60)
    with sqlite3.connect(part) as database:
        database.execute(f"DELETE FROM {table} WHERE number = 1")
    database.close()
    with pytest.raises(InputError, match="damaged"):
        resume(part)
    with JournalFile(part) as kept, pytest.raises(InputError, match="damaged"):
        list(kept.steps())


@pytest.mark.parametrize(
    "missing", ["step WHERE rowid = 9", "step WHERE rowid < 4", "input WHERE name = 'labels'"]
)
def test_a_missing_row_that_others_need_is_detected(
    whole: Path, tmp_path: Path, missing: str
) -> None:
    # a run would resume without labels, or fail at a step that it cannot repeat
    part = cut(whole, tmp_path / "part.db", 60)
    with sqlite3.connect(part) as database:
        database.execute(f"DELETE FROM {missing}")
    database.close()
    before = part.read_bytes()
    with pytest.raises(InputError, match="damaged"):
        resume(part)
    assert part.read_bytes() == before


def _changed(value: Any) -> Any:
    if isinstance(value, bytes):
        middle = len(value) // 2
        return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
    return value.replace("1", "2", 1) if "1" in value else value + " "


def test_a_journal_from_the_future(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path / "run.db"))
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"schema 99.*reads up to 1"):
        resume(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content_of", "says"),
    [
        (b"", "is not a journal"),
        (b"SQLite format 3\0" + bytes(200), "(is damaged|is not a journal|cannot read)"),
        (b"hello, this is a text", "is not a journal"),
    ],
)
def test_other_files(tmp_path: Path, content_of: bytes, says: str) -> None:
    path = tmp_path / "run.db"
    path.write_bytes(content_of)
    with pytest.raises(InputError, match=says):
        resume(path)
    assert path.read_bytes() == content_of


def test_a_journal_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        run(tmp_path / "none" / "run.db")
    assert not (tmp_path / "none").exists()


def test_a_missing_journal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no journal .*run.db"):
        resume(tmp_path / "run.db")


def test_a_journal_is_never_overwritten(whole: Path) -> None:
    before = whole.read_bytes()
    with pytest.raises(InputError, match=r"already exists.*lightloom resume"):
        run(whole)
    assert whole.read_bytes() == before


def test_a_complete_run_has_nothing_to_resume(whole: Path) -> None:
    with pytest.raises(InputError, match="is complete"):
        resume(whole)


@pytest.mark.slow
def test_two_writers(whole: Path, tmp_path: Path) -> None:
    part = cut(whole, tmp_path / "part.db", 60)
    holds = (
        "import sys; from lightloom.scheduler.journal.journal import Journal; "
        "j = Journal.reopen(sys.argv[1]); print('holds', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", holds, str(part)], stdin=pipe, stdout=pipe, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        with pytest.raises(InUse, match=str(process.pid)):
            resume(part)
    finally:
        process.kill()
        process.communicate()
    resume(part)  # the killed process holds no lock
    assert content(part) == content(whole)


def test_a_read_only_journal(whole: Path, tmp_path: Path) -> None:
    part = cut(whole, tmp_path / "part.db", 60)
    part.chmod(0o444)
    before = part.read_bytes()
    with pytest.raises(InputError, match="read-only"):
        resume(part)
    assert part.read_bytes() == before
    part.chmod(0o644)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE fault; CREATE VIEW fault AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL "
        "SELECT x + 1 FROM n) SELECT x AS number, x AS session, x AS document, x AS seal FROM n",
        "CREATE TRIGGER more AFTER INSERT ON step BEGIN DELETE FROM segment; END",
        "CREATE TABLE other (x)",
        "CREATE INDEX other ON step (seconds)",
        "ALTER TABLE step RENAME COLUMN seconds TO minutes",
        "ALTER TABLE fault ADD COLUMN more TEXT",
        "DROP INDEX segment_of_job",
    ],
)
def test_a_journal_with_other_tables_is_refused(whole: Path, tmp_path: Path, change: str) -> None:
    # a view with an endless query would hang every reader; a trigger would change the rows
    part = cut(whole, tmp_path / "part.db", 60)
    with sqlite3.connect(part) as database:
        database.executescript(change)
    database.close()
    before = part.read_bytes()
    start_s = time.monotonic()
    with pytest.raises(InputError, match=r"part\.db is damaged: its tables"):
        JournalFile(part)
    with pytest.raises(InputError, match=r"part\.db is damaged: its tables"):
        resume(part)
    assert time.monotonic() - start_s < 5 and part.read_bytes() == before


def test_no_query_of_a_reader_is_endless(whole: Path) -> None:
    # damage may make the pages of a table circular
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    with JournalFile(whole) as kept, pytest.raises(InputError, match="damaged"):
        list(kept.rows("step", f"({endless})"))


# ------------------------------------------------------------------------------- lost files


def _cut_off(path: Path) -> None:
    os.truncate(path, 4096)


def _replace(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


LOST: dict[str, tuple[Callable[[Path], Any], str]] = {
    "deleted": (Path.unlink, "was deleted"),
    "renamed": (lambda path: path.rename(path.with_name("other.db")), "not at its place"),
    "folder renamed": (lambda path: path.parent.rename(path.parent.with_name("b")), "not at its"),
    "folder removed": (lambda path: shutil.rmtree(path.parent), "was deleted"),
    "replaced": (_replace, "was replaced by another file"),
    "emptied": (lambda path: path.write_bytes(b""), "overwritten, or cut off"),
    "cut off": (_cut_off, "overwritten, or cut off"),
    "overwritten": (lambda path: path.write_bytes(bytes(10**6)), "overwritten, or cut off"),
    "log deleted": (lambda path: path.with_name("run.db-wal").unlink(), "has lost its log"),
    "log cut off": (lambda path: os.truncate(path.with_name("run.db-wal"), 100), "was cut off"),
    "index deleted": (lambda path: path.with_name("run.db-shm").unlink(), "has lost its log"),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to delete or move an open file")
@pytest.mark.parametrize("is_late", [False, True], ids=["while written", "at the end"])
@pytest.mark.parametrize("what", LOST)
def test_a_lost_journal_stops_the_run(tmp_path: Path, what: str, is_late: bool) -> None:
    # such a run ended with status 0, and its results were lost
    path = tmp_path / "a" / "run.db"
    path.parent.mkdir()
    journal = Journal.create(path)
    journal.begin_session({})
    journal.keep_step((0, 0, 0), [np.zeros(500)], 0.1)
    journal.writer.flush()
    lose, says = LOST[what]
    lose(path)
    with pytest.raises(InputError, match=says) as raised:
        if is_late:
            journal.end_session("complete")
            journal.close()
        else:
            for number in range(1, 100):
                journal.keep_step((0, number, 0), [np.zeros(500)], 0.1)
                journal.writer.flush()
    assert str(path) in str(raised.value)
    journal.close()  # raised once only


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to delete or move an open file")
def test_a_run_whose_journal_is_gone_fails(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    def progress(what: str, done: int, total: int) -> None:
        path.unlink(missing_ok=True)

    shown, labels = images()
    planned = plan(load_model("digits"), "mock", 3)
    with pytest.raises(InputError, match=r"run\.db was deleted while it was written"):
        planned.run(shown, labels, progress, record=path)


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to delete or move an open file")
def test_a_renamed_journal_keeps_the_rows_of_its_log(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    journal = Journal.create(path)
    journal.begin_session({})
    for number in range(20):
        journal.keep_step((0, number, 0), [np.full(500, number)], 0.1)
    journal.writer.flush()
    path.rename(tmp_path / "other.db")
    with pytest.raises(InputError, match="not at its place"):
        journal.close()
    with JournalFile(tmp_path / "other.db") as kept:
        assert len(list(kept.rows("step"))) == 20
    Journal.create(path).close()  # the old log is not taken for that of a new journal


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_a_log_of_another_file_is_not_taken_for_ours(tmp_path: Path, ending: str) -> None:
    left = tmp_path / f"run.db{ending}"
    left.write_bytes(b"left")
    with pytest.raises(InputError, match=f"run.db{ending} lies beside it"):
        Journal.create(tmp_path / "run.db")
    assert left.read_bytes() == b"left" and not (tmp_path / "run.db").exists()


# ------------------------------------------------------------------------------- two names


def test_a_journal_is_locked_under_every_name(whole: Path, tmp_path: Path) -> None:
    # two sessions wrote one file, each with a log of its own
    part = cut(whole, tmp_path / "part.db", 60)
    (tmp_path / "inside").mkdir()
    names = [tmp_path / "inside" / ".." / "part.db"]
    try:
        (tmp_path / "link.db").symlink_to(part)
        (tmp_path / "folder").symlink_to(tmp_path)
        names += [tmp_path / "link.db", tmp_path / "folder" / "part.db"]
    except OSError:  # on Windows not every user may make links
        pass
    journal = Journal.reopen(part)
    try:
        for name in names:
            with pytest.raises(InUse, match=r"(part|link)\.db is in use"):
                Journal.reopen(name)
    finally:
        journal.close()
    for name in names:
        Journal.reopen(name).close()


def test_a_journal_with_a_second_hard_name_is_refused(whole: Path, tmp_path: Path) -> None:
    part = cut(whole, tmp_path / "part.db", 60)
    try:
        (tmp_path / "other.db").hardlink_to(part)
    except OSError:
        pytest.skip("this file system has no hard links")
    for name in (part, tmp_path / "other.db"):
        with pytest.raises(InputError, match=r"has a second name \(a hard link\)"):
            resume(name)
    (tmp_path / "other.db").unlink()
    resume(part)
    assert content(part) == content(whole)


@pytest.mark.parametrize(
    "left",
    [
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": None},
        {"pid": "none"},
        {"pid": float("inf")},
        {"host": ["x"], "user": {}},
        b"",
        b"null",
        b"[1]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"9" * 10_000,
        "folder",
        "pipe",
    ],
    ids=lambda left: repr(left)[:40],
)
def test_a_damaged_holder_is_survived(tmp_path: Path, left: Any) -> None:
    # a refused user needs the reason, not a traceback
    held = HeldLock(tmp_path / "lock", "the thing").acquire()
    path = held.holder_path
    good = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    if left == "folder":
        path.mkdir()
    elif left == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("there are no pipes with names")
        os.mkfifo(path)
    else:
        text = left if isinstance(left, bytes) else json.dumps({**good, **left}).encode()
        path.write_bytes(text)
    with pytest.raises(InUse, match="the thing is in use"):
        HeldLock(tmp_path / "lock", "the thing").acquire()
    held.release()
    with HeldLock(tmp_path / "lock", "the thing") as again:
        assert again.left is None or again.left.command


# ------------------------------------------------------------------------------- what changed


def test_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    part = cut(whole, tmp_path / "part.db", 60)
    other = Path(shutil.copytree(load_model("digits").source, tmp_path / "digits"))
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["_comment"] = "another"
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    before = part.read_bytes()
    with pytest.raises(InputError, match=r"model .* is not the one that began it.*--accept model"):
        resume(part, model=other)
    assert part.read_bytes() == before
    assert resume(part, model=other, accept=["model"])  # the weights are alike
    with JournalFile(part) as kept:
        assert "model" in kept.about()["changed in session 2"]


def test_other_versions_are_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightloom.scheduler.runs import resume as resuming

    part = cut(whole, tmp_path / "part.db", 60)
    there = resuming.versions
    monkeypatch.setattr(resuming, "versions", lambda model: there(model) | {"lightloom": "99.1"})
    with pytest.raises(InputError, match=r"lightloom .* then, 99.1 now.*--accept versions"):
        resume(part)


def test_what_may_be_accepted_is_known(whole: Path) -> None:
    with pytest.raises(InputError, match="cannot accept 'weather'"):
        resume(whole, accept=["weather"])


@pytest.mark.slow
def test_another_bench_or_calibration_is_refused(
    whole_on_a_bench: tuple[Path, Path], tmp_path: Path
) -> None:
    path, bench = whole_on_a_bench
    kept_at = moments(path)
    part = cut_bench(path, tmp_path / "part.db", kept_at[3 * len(kept_at) // 4])
    text = bench.read_text(encoding="utf-8")
    try:
        change_bench(bench, power_w="1.1 mW")
        before = part.read_bytes()
        with pytest.raises(InputError, match="bench file is not the one that began it"):
            resume(part)
        assert part.read_bytes() == before
        bench.unlink()
        with pytest.raises(InputError, match="is gone; name its new path with --bench"):
            resume(part)
        moved = tmp_path / "moved.toml"
        moved.write_text(text, encoding="utf-8")
        resume(part, bench=moved)
        assert content(part) == content(path)
    finally:
        bench.write_text(text, encoding="utf-8")  # other tests use it, too


# ------------------------------------------------------------------------------- a full disk


def test_a_full_disk_pauses_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light goes off while a run waits for disk space, and on when there is some."""
    path = tmp_path / "run.db"
    journal = Journal.create(path)
    journal.begin_session({})
    journal.writer.flush()
    limit = _page_limit(monkeypatch)
    limit(20)
    said: list[str] = []
    asked: list[bool] = []  # called while waiting: whether the full disk was reported
    finished: list[int] = []

    def is_stopping() -> bool:
        asked.append(bool(said))
        return False

    journal.writer.on_pause, journal.writer.on_continue = said.append, lambda: said.append("on")
    journal.writer.is_stopping = is_stopping

    def work() -> None:
        while not any(asked) or len(finished) < 60:
            journal.keep(_segment(len(finished)))
            finished.append(len(finished))
            if len(finished) >= 50:
                wait_until(lambda: said)

    worker = Thread(target=work, daemon=True)
    worker.start()
    wait_until(lambda: any(asked))
    assert "is full" in said[0] and "light off" in said[0]
    waits_at, looks = len(finished), len(asked)
    wait_until(lambda: len(asked) >= looks + 3)
    assert len(finished) == waits_at  # it waits
    limit(100_000)
    worker.join(timeout=20)
    assert not worker.is_alive() and said[-1] == "on"
    journal.close()
    with JournalFile(path) as kept:
        assert [row["first"] for row in kept.segments()] == list(range(len(finished)))
    assert len(finished) >= 60


def _failing(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (sqlite3.SQLITE_IOERR_WRITE, "the disk, or the way to it, fails"),
        (sqlite3.SQLITE_IOERR_FSYNC, "the disk, or the way to it, fails"),
        (sqlite3.SQLITE_IOERR_SHMMAP, "cannot share memory"),
        (sqlite3.SQLITE_IOERR_LOCK, "has no file locks"),
        (sqlite3.SQLITE_READONLY, "is read-only"),
        (sqlite3.SQLITE_CORRUPT, "is damaged"),
    ],
)
def test_only_a_full_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str
) -> None:
    # a network drive without shared memory was "full" for ever
    journal = Journal.create(tmp_path / "run.db")

    def fails(connection: sqlite3.Connection, rows: Any) -> None:
        raise _failing(code)

    monkeypatch.setattr(writer, "execute", fails)
    with pytest.raises(InputError, match=f"cannot be written.*{says}"):
        journal.begin_session({})
        journal.writer.flush()
    monkeypatch.undo()
    journal.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)])
def test_a_quota_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # SQLite reports an exceeded quota only as a failure to write
    assert not database.is_full(_failing(sqlite3.SQLITE_IOERR_WRITE), tmp_path / "run.db")

    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    assert database.is_full(_failing(sqlite3.SQLITE_IOERR_WRITE), tmp_path / "run.db")
    assert not database.is_full(_failing(sqlite3.SQLITE_BUSY), tmp_path / "run.db")
    assert not database.is_full(_failing(sqlite3.SQLITE_IOERR_LOCK), tmp_path / "run.db")


def _full(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Journal, list[str]]:
    """Return a journal whose disk is full, and the sentences that it reported."""
    journal = Journal.create(path)
    journal.begin_session({})
    journal.writer.flush()
    _page_limit(monkeypatch)(20)
    said: list[str] = []
    journal.writer.on_pause, journal.writer.on_continue = said.append, lambda: said.append("on")
    journal.keep(_segment(0, 200_000))  # more than fits on the disk; no caller waits for it
    wait_until(lambda: said)
    return journal, said


def test_the_writer_switches_the_light_off_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Light stayed on where the writer thread, which met the full disk, had no bench."""
    journal, said = _full(tmp_path / "run.db", monkeypatch)
    with pytest.raises(InputError, match="the disk is full"):  # raised at the end at the latest
        journal.close()
    assert "light off" in said[0]  # no caller waits or keeps a segment
    assert "is full" in caplog.text  # the log goes to stderr, with or without a terminal


def test_a_run_that_waits_for_disk_space_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One SIGTERM or Ctrl-C did not end it, since the wait did not check for them."""
    journal, _ = _full(tmp_path / "run.db", monkeypatch)
    caught: list[BaseException] = []
    is_asked, is_to_stop = Event(), Event()

    def is_stopping() -> bool:
        is_asked.set()
        return is_to_stop.is_set()

    def keep() -> None:
        try:
            for number in itertools.count(1):
                journal.keep(_segment(number))
        except InputError as error:
            caught.append(error)

    journal.writer.is_stopping = is_stopping
    worker = Thread(target=keep, daemon=True)
    worker.start()
    assert is_asked.wait(30) and worker.is_alive()
    is_to_stop.set()
    worker.join(timeout=2)
    assert "stopped while it waited" in str(caught[0]) and "lightloom resume" in str(caught[0])
    began_s = time.monotonic()
    journal.end_session("stopped")
    journal.close()
    assert time.monotonic() - began_s < 2
    JournalFile(tmp_path / "run.db").close()


def _segment(number: int, slots: int = 200) -> Segment:
    return Segment(
        "job",
        number,
        number + 1,
        number == 59,
        np.full((1, slots), float(number)),
        np.ones((1, len(QUALITY)), dtype=np.float32),
        Stats(shots=1),
        Checkpoint(number + 1, {}, None),
    )


def _page_limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that limits a file to so many pages, as a full disk does."""
    execute, pages = writer.execute, [100_000]

    def limited(connection: sqlite3.Connection, rows: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")
        execute(connection, rows)

    monkeypatch.setattr(writer, "execute", limited)
    return lambda count: pages.__setitem__(0, count)


def test_segments_and_faults_come_back(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "run.db")
    journal.begin_session({})
    for number in range(3):
        journal.keep(_segment(number))
    journal.note(FaultNote(1.0, "stale", "camera", "job/0.0", 0, "retry", "old frame", 0.1))
    journal.close()
    again = Journal.reopen(tmp_path / "run.db")
    kept = again.known("job")
    assert kept is not None and kept.done == 3 and kept.stats.shots == 3
    assert np.array_equal(kept.electrons[:, 0], [0.0, 1.0, 2.0])
    assert again.known("another") is None
    assert again.last() == Checkpoint(3, {}, None)
    again.close()
    with JournalFile(tmp_path / "run.db") as file:
        assert next(file.faults())["kind"] == "stale"
