"""A journal on a share whose file system cannot do all: WSL 2's /mnt/c, 9p, virtiofs, some NFS.

Such a run waited for ever for room on a disk that was not full. A small library, loaded before all
others, makes a folder named "share" one of these.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from lightloom.scheduler.journal.journal import Journal

SOURCE = Path(__file__).parent / "kit" / "poor_share.c"
SCRIPT = """
import os, sys, threading
from pathlib import Path
import numpy as np
from lightloom.instruments import InputError
from lightloom.scheduler.journal.journal import Journal
from lightloom.scheduler.journal.journal_file import JournalFile

def keep(journal, first, last):
    for number in range(first, last):
        journal.keep_step((0, number, 0), [np.full(500, number)], 0.1)
        journal.writer.flush()

def numbers(path):
    with JournalFile(path) as kept:
        return [row["step"] for row in kept.rows("step")]

path = Path(sys.argv[1]) / "share" / "run.db"
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("the share is made by a library for Linux, which wants a C compiler (gcc)")
    made = tmp_path_factory.mktemp("library") / "poor_share.so"
    made_by = [compiler, "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"]
    subprocess.run(made_by, check=True, capture_output=True, timeout=60)
    return made


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


@contextmanager
def kept_on_a_disk(folder: Path, steps: int) -> Iterator[Journal]:
    """A journal with some steps, on a folder that lacks nothing: as the script keeps them."""
    journal = Journal.create(folder / "run.db")
    try:
        journal.begin_session({})
        for number in range(steps):
            journal.keep_step((0, number, 0), [np.full(500, number)], 0.1)
            journal.writer.flush()
        yield journal
    finally:
        journal.close()


def run(script: str, folder: Path, library: Path, **lacks: int) -> str:
    """Run a script below a folder that has a share, and give what it prints."""
    env = os.environ | {name: str(number) for name, number in lacks.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script, str(folder)],
        env=env | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "number", [errno.ENODEV, pytest.param(errno.EINVAL, marks=pytest.mark.slow)]
)
def test_a_share_without_shared_memory_keeps_a_journal(
    library: Path, tmp_path: Path, share: Path, number: int
) -> None:
    told = run(
        """
journal = Journal.create(path)
journal.begin_session({})
keep(journal, 0, 5)
print(numbers(path))  # by a reader, while it is written
with JournalFile(path) as kept:  # a reader that takes its time
    first = list(kept.rows("session"))
    writer = threading.Thread(target=keep, args=(journal, 5, 8))
    writer.start()
    writer.join(timeout=0.5)  # long enough to spoil what the reader sees
    print(len(list(kept.rows("step"))))
writer.join()
journal.close()
journal = Journal.reopen(path)
keep(journal, 8, 10)
journal.close()
print(numbers(path), sorted(os.listdir(path.parent)))
""",
        tmp_path,
        library,
        NOSHM=number,
    )
    assert told.splitlines() == [
        "[0, 1, 2, 3, 4]",
        "5",
        "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9] ['.run.db.lock', 'run.db']",
    ]


@pytest.mark.slow
def test_a_killed_run_of_another_disk_is_read_and_resumed_on_such_a_share(
    library: Path, tmp_path: Path, share: Path
) -> None:
    # its log lies beside it, and SQLite reads one through shared memory
    disk = tmp_path / "disk"
    disk.mkdir()
    with kept_on_a_disk(disk, 5):  # what a killed run leaves is what is there while it runs
        shutil.copytree(disk, share, dirs_exist_ok=True)
    assert (share / "run.db-wal").stat().st_size
    kept = [share / "run.db", share / "run.db-wal"]
    before = [path.read_bytes() for path in kept]
    told = run("print(numbers(path))", tmp_path, library, NOSHM=errno.ENODEV)
    assert told == "[0, 1, 2, 3, 4]\n"
    assert [path.read_bytes() for path in kept] == before
    told = run(
        "journal = Journal.reopen(path); keep(journal, 5, 7); journal.close()\n"
        "print(numbers(path), sorted(os.listdir(path.parent)))",
        tmp_path,
        library,
        NOSHM=errno.ENODEV,
    )
    assert told == "[0, 1, 2, 3, 4, 5, 6] ['.run.db.lock', 'run.db']\n"


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, pytest.param(errno.EOPNOTSUPP, marks=pytest.mark.slow)]
)
def test_a_share_without_locks_is_refused_and_can_be_read(
    library: Path, tmp_path: Path, share: Path, number: int
) -> None:
    with kept_on_a_disk(share, 3):
        pass
    told = run(
        """
for lock in (lambda: Journal.create(path.with_name("new.db")), lambda: Journal.reopen(path)):
    try:
        lock()
    except InputError as error:
        print(error)
print(numbers(path), sorted(os.listdir(path.parent)))
""",
        tmp_path,
        library,
        NOLOCK=number,
    )
    *refusals, read = told.splitlines()
    assert len(refusals) == 2
    for refusal in refusals:
        assert "has no file locks; use a folder on a disk of this computer" in refusal
    assert read == "[0, 1, 2] ['.run.db.lock', 'run.db']"


def test_a_share_that_holds_nothing_is_refused(library: Path, tmp_path: Path, share: Path) -> None:
    told = run(
        """
try:
    Journal.create(path)
except InputError as error:
    print(error)
""",
        tmp_path,
        library,
        NOFLOCK=errno.EOPNOTSUPP,
    )
    assert "cannot be locked against other processes" in told and "folder on a disk" in told
    assert not (share / "run.db").exists()
