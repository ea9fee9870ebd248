"""The SQLite file below a journal: opened, its errors told apart, and watched while it is written.

A write-ahead log is used where the file system can share memory, and a rollback journal where it
cannot. Not here: what the rows mean (`journal`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ...instruments import InputError

APPLICATION = 0x6C6C6F6D  # "lloom", at the place where SQLite keeps such a number
BUSY_S = 10.0  # that one statement waits for the lock of another program
_FIRST_BUSY_S = 0.2  # before it is looked whether there are locks at all
_PAGE_BYTES = 2048  # of small benches a segment fills few pages, the last one by half
_MAGIC = b"SQLite format 3\0"
_STEPS_AT_ONCE = 1_000_000  # of SQLite's machine, between two looks at how many there were
_STEPS_PER_BYTE = 20  # that a query of all rows may take; a row has a digest of 8 bytes alone
_PROBE_BYTES = 1 << 20

_SHARED_MEMORY = {
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}
_LOCKS = {
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_IOERR_BLOCKED,
}
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_ERROR,  # our queries are right; a schema that does not fit them is not ours
}
_CANNOT_READ_HERE = {  # beside the above: a log that cannot be recovered in place
    sqlite3.SQLITE_READONLY_CANTINIT,
    sqlite3.SQLITE_READONLY_RECOVERY,
    sqlite3.SQLITE_READONLY_ROLLBACK,
    sqlite3.SQLITE_READONLY_DIRECTORY,
}
NO_LOCKS = "has no file locks; use a folder on a disk of this computer, and copy the file later"


# --- making and opening --------------------------------------------------------------------------


def make(path: Path, tables: str, version: int) -> None:
    """Make an empty file with these tables, which is there whole or not at all.

    Raises
    ------
    InputError : when a log lies there, which SQLite would take for one of the new file
    """
    for ending in ("-wal", "-journal"):
        if path.with_name(f"{path.name}{ending}").exists():
            raise InputError(
                f"cannot make {path}: {path.name}{ending} lies beside it, left of a file that was "
                "deleted or moved; bring that file back, remove this one, or give another name"
            )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with contextlib.closing(_connected(draft)) as connection:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.executescript(tables)
        draft.replace(path)
    finally:
        for left in (draft, draft.with_name(f"{draft.name}-journal")):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def open_to_write(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a file to write, and write once; say whether it has a write-ahead log."""
    connection = _connected(path)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        _write_once(connection)
        return connection, mode == "wal"
    except sqlite3.OperationalError as error:
        connection.close()
        if _code(error) not in _SHARED_MEMORY and _kind(error) != sqlite3.SQLITE_CANTOPEN:
            raise
    connection = _connected(path)
    try:  # alone with the file, SQLite needs no shared memory to end the log
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        connection.execute("PRAGMA locking_mode = NORMAL")
        _write_once(connection)
    except BaseException:
        connection.close()
        raise
    with contextlib.suppress(OSError):
        path.with_name(f"{path.name}-shm").unlink()
    return connection, False


def _write_once(connection: sqlite3.Connection) -> None:
    """Write what is there already: it shows what a file system cannot do before a run begins."""
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {int(version)}")


def open_beside(path: Path) -> sqlite3.Connection:
    """Open a second connection to a file that this process writes."""
    return _connected(path)


def _connected(path: Path, timeout_s: float = BUSY_S) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    return _guarded(connection)


def _guarded(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA trusted_schema = OFF")
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file to read; a copy of it where its place is too simple for SQLite.

    Such are shares without shared memory or locks, and read-only folders, when a
    killed run has left a log.
    """
    connection = _reader_in_place(path)
    if connection is not None:
        with contextlib.closing(connection):
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="lightloom-") as folder:
        copy = Path(folder) / "run.db"
        for ending in ("", "-wal", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
        with contextlib.closing(_reader(copy)) as connection:
            yield connection


def _reader_in_place(path: Path) -> sqlite3.Connection | None:
    """Open a file where it lies; None where a copy has to be read."""
    try:
        return _reader(path, _FIRST_BUSY_S)
    except sqlite3.OperationalError as error:
        code, kind = _code(error), _kind(error)
        if kind == sqlite3.SQLITE_BUSY and has_locks(path.parent):
            return _reader(path)
        wants_copy = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY}
        if code in _SHARED_MEMORY | _LOCKS | _CANNOT_READ_HERE or kind in wants_copy:
            return None
        raise


def _reader(path: Path, timeout_s: float = BUSY_S) -> sqlite3.Connection:
    # a change of SQLite's own that was cut off is undone by the next connection, which writes then
    if path.with_name(f"{path.name}-journal").exists():
        connection = _connected(path, timeout_s)
    else:
        where = f"{path.absolute().as_uri()}?mode=ro"
        connection = _guarded(sqlite3.connect(where, uri=True, timeout=timeout_s))
    try:
        limit_steps(connection, path.stat().st_size)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_S:.0f}")
    except BaseException:
        connection.close()
        raise
    return connection


def limit_steps(connection: sqlite3.Connection, size: int) -> None:
    """Let what is queried next take no more steps than all rows of a file of this size could."""
    left = 20 * _STEPS_AT_ONCE + _STEPS_PER_BYTE * size

    def count() -> bool:
        nonlocal left
        left -= _STEPS_AT_ONCE
        return left < 0  # which ends the query

    connection.set_progress_handler(count, _STEPS_AT_ONCE)


# --- what its errors mean ------------------------------------------------------------------------


@contextlib.contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """Turn what the disk, or SQLite, has to say into one sentence.

    Parameters
    ----------
    what : could not be done, such as "cannot read the journal"
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, MemoryError) as error:  # the last two: of damage
        raise InputError(f"{what} {path}: {sentence(error, path)}") from None
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from None


def sentence(error: BaseException, path: Path) -> str:
    """Say what an error of SQLite means for this file, and the way out."""
    if not isinstance(error, sqlite3.Error):
        return "it is damaged; take a copy from a backup"
    code, kind = _code(error), _kind(error)
    if code in _SHARED_MEMORY:
        return f"the file system of {path.parent} cannot share memory ({error}); use another folder"
    if code in _LOCKS or (kind == sqlite3.SQLITE_BUSY and not has_locks(path.parent)):
        return f"the file system of {path.parent} {NO_LOCKS}"
    if kind in _DAMAGE or kind == sqlite3.SQLITE_INTERRUPT:
        return f"it is damaged ({error}); take a copy from a backup"
    told = {
        sqlite3.SQLITE_BUSY: "another program keeps it locked; close that, and try again",
        sqlite3.SQLITE_FULL: "the disk is full; free some space, and try again",
        sqlite3.SQLITE_READONLY: "it, or its folder, is read-only; make it writable first",
        sqlite3.SQLITE_PERM: "it may not be opened; see to its permissions",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened; see to the permissions of its folder",
        sqlite3.SQLITE_IOERR: "the disk, or the way to it, fails; see to that, and try again",
    }
    return f"{told[kind]} ({error})" if kind in told else str(error)


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Return whether room is what is missing: a failure to write may have other causes."""
    kind = _kind(error)
    if kind == sqlite3.SQLITE_FULL:
        return True
    if kind != sqlite3.SQLITE_IOERR or _code(error) in _LOCKS:
        return False
    return not _has_room(path.parent)  # a quota, or a share, tells of it as a failure to write


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another program holds the lock of the file."""
    return _kind(error) == sqlite3.SQLITE_BUSY


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's own number; a text that cannot be decoded is Python's complaint alone."""
    own = sqlite3.SQLITE_MISUSE if isinstance(error, sqlite3.ProgrammingError) else 1
    return getattr(error, "sqlite_errorcode", own)


def _kind(error: sqlite3.Error) -> int:
    return _code(error) & 0xFF


def _has_room(folder: Path) -> bool:
    """Try to write there, and say whether anything but room was in the way."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return True


def has_locks(folder: Path) -> bool:
    """Return whether a folder's file system has the locks that SQLite uses; True where unknown."""
    try:
        import fcntl
    except ImportError:  # Windows has locks on all that it mounts
        return True
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


# --- what the file is ----------------------------------------------------------------------------


def has_magic(path: Path) -> bool:
    """Return whether a file is an SQLite file."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@cache
def _schema_of(tables: str) -> frozenset[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(tables)
        return _schema(connection)


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str, ...]]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def has_schema(connection: sqlite3.Connection, tables: str) -> bool:
    """Return whether a file holds these tables and nothing else: no view, no trigger, no column."""
    return _schema(connection) == _schema_of(tables)


# --- whether it is still there -------------------------------------------------------------------


_OVERWRITTEN = "was overwritten, or cut off, by another program"
_RESTORE = "it may be damaged: bring back a copy of it, then"


class FileLost(Exception):
    """A file that is being written is not at its place any more, or not what was written.

    Parameters
    ----------
    way_out : before the run can be resumed
    """

    def __init__(self, text: str, way_out: str = "bring the file back to this place, then") -> None:
        super().__init__(text)
        self.way_out = way_out


class FileWatch:
    """Sees whether the file that is being written is still the one under its name.

    It holds the file open, since closing it would take SQLite's locks away (POSIX drops all locks
    of a process on a file with the first one closed); close it after every connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("rb", buffering=0)
        self._began = path.stat()  # by name, as later ones: Windows tells other numbers by handle
        self._log: dict[Path, os.stat_result] = {}
        self._size = 0
        self._head = self._read_head()

    def watch_log(self) -> None:
        """See to the write-ahead log and its index, too."""
        for ending in ("-wal", "-shm"):
            path = self._path.with_name(f"{self._path.name}{ending}")
            found = _stat(path)
            if found is not None:
                self._log[path] = found

    def forget_log(self, removes: bool) -> None:
        """See to the file alone, once the log is closed.

        Parameters
        ----------
        removes : what is left of the log, which SQLite would take for one of the next file here
        """
        log, self._log = self._log, {}
        for path, before in log.items() if removes else ():
            now = _stat(path)
            if now is not None and _is_same(before, now):
                with contextlib.suppress(OSError):
                    path.unlink()

    def check_place(self) -> None:
        """See that the name still leads to this file; for any thread.

        Raises
        ------
        FileLost : saying what has become of it
        """
        found = _stat(self._path)
        if found is None:
            if os.fstat(self._stream.fileno()).st_nlink == 0:
                raise FileLost("was deleted")
            raise FileLost(
                "is not at its place any more: it, or its folder, was renamed, moved or deleted"
            )
        if not _is_same(self._began, found):
            raise FileLost("was replaced by another file")
        for path, before in list(self._log.items()):
            now = _stat(path)
            if now is None or not _is_same(before, now):
                raise FileLost(
                    f"has lost its log ({path.name} was deleted, renamed or replaced)",
                    "what was finished is in it:",
                )
            if now.st_size < before.st_size:  # SQLite never makes it shorter while it is open
                raise FileLost(f"has lost its log ({path.name} was cut off)", _RESTORE)
            self._log[path] = now

    def check(self, is_ours: bool = False) -> None:
        """See that no other program wrote into it, either; for the thread that writes alone.

        Parameters
        ----------
        is_ours : whether this process may have written since the last look

        Raises
        ------
        FileLost : saying what has become of it
        """
        self.check_place()
        head = self._read_head()
        if not is_ours and head != self._head:
            raise FileLost(_OVERWRITTEN, _RESTORE)
        self._head = head

    def close(self) -> None:
        """Let the file go."""
        self._stream.close()

    def _read_head(self) -> bytes:
        """Read the first page: it counts changes and pages, so another file has another one."""
        self._stream.seek(0)
        head = self._stream.read(_PAGE_BYTES)
        size = os.fstat(self._stream.fileno()).st_size
        if not head.startswith(_MAGIC) or size < self._size:  # a journal never shrinks
            raise FileLost(_OVERWRITTEN, _RESTORE)
        self._size = size
        return head


def _stat(path: Path) -> os.stat_result | None:
    """Return what is at a path; None where nothing is."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    if one.st_ino and other.st_ino:
        return os.path.samestat(one, other)
    return True  # a file system without such numbers: there is something, and more cannot be told
