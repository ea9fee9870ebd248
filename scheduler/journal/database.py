"""The SQLite file of a journal: made, opened, and its errors explained.

It has a write-ahead log where the file system can share memory, and a rollback journal where it
cannot. Not here: what the rows mean (`rows`), and what other programs do to the file
(`file_watch`).
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
from pathlib import Path, PurePath

from ...instruments import InputError
from ...instruments.files import move, write_probe

APPLICATION = 0x6C6C6F6D  # "lloom", as SQLite's application id
BUSY_S = 10.0  # time-out of one statement for the lock of another program
_PROBE_BUSY_S = 0.2  # the same, before a check whether the file system has locks at all
PAGE_BYTES = 2048  # a segment of a small bench fills few pages, the last one by half
MAGIC = b"SQLite format 3\0"
_STEPS_PER_CHECK = 1_000_000  # instructions of SQLite's virtual machine between two checks
_STEPS_PER_BYTE = 20  # limit for a query of all rows; the digest of a row alone has 8 bytes
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
    sqlite3.SQLITE_ERROR,  # our queries are correct, so the schema is not ours
}
_CANNOT_READ_HERE = {  # beside those above: a log that cannot be recovered in place
    sqlite3.SQLITE_READONLY_CANTINIT,
    sqlite3.SQLITE_READONLY_RECOVERY,
    sqlite3.SQLITE_READONLY_ROLLBACK,
    sqlite3.SQLITE_READONLY_DIRECTORY,
}
NO_LOCKS = "has no file locks; use a folder on a disk of this computer, and copy the file later"


# --- making and opening --------------------------------------------------------------------------


def make(path: Path, tables: str, version: int) -> None:
    """Make an empty file with these tables; it appears whole or not at all.

    Raises
    ------
    InputError : when there is a log that SQLite would take for one of the new file
    """
    for ending in ("-wal", "-journal"):
        if path.with_name(f"{path.name}{ending}").exists():
            raise InputError(
                f"cannot make {path}: {path.name}{ending} lies beside it, left from a file that "
                "was deleted or moved; bring that file back, remove this one, or give another name"
            )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with contextlib.closing(connect(draft)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.executescript(tables)
        move(draft, path)
    finally:
        for left in (draft, draft.with_name(f"{draft.name}-journal")):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def open_to_write(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a file to write, and write once; return whether it has a write-ahead log, too."""
    connection = connect(path)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        _write_once(connection)
        return connection, mode == "wal"
    except sqlite3.OperationalError as error:
        connection.close()
        if _code(error) not in _SHARED_MEMORY and _kind(error) != sqlite3.SQLITE_CANTOPEN:
            raise
    connection = connect(path)
    try:  # with an exclusive lock, SQLite needs no shared memory to end the log
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
    """Write a value that is there already: a missing feature of the file system shows here."""
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {int(version)}")


def connect(path: Path, timeout_s: float = BUSY_S) -> sqlite3.Connection:
    """Return a connection to a file, to read and write it from any thread."""
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
    """Open a file to read; a copy of it where SQLite cannot open it in place.

    It cannot on network drives without shared memory or locks, and in read-only folders when a
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
    """Open a file in place; None where a copy has to be read."""
    try:
        return _reader(path, _PROBE_BUSY_S)
    except sqlite3.OperationalError as error:
        code, kind = _code(error), _kind(error)
        if kind == sqlite3.SQLITE_BUSY and has_locks(path.parent):
            return _reader(path)
        wants_copy = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY}
        if code in _SHARED_MEMORY | _LOCKS | _CANNOT_READ_HERE or kind in wants_copy:
            return None
        raise


def _reader(path: Path, timeout_s: float = BUSY_S) -> sqlite3.Connection:
    # the next connection undoes a transaction that was cut off, so it must be able to write
    if path.with_name(f"{path.name}-journal").exists():
        connection = connect(path, timeout_s)
    else:
        where = f"{uri_of(path.absolute())}?mode=ro"
        connection = _guarded(sqlite3.connect(where, uri=True, timeout=timeout_s))
    try:
        limit_steps(connection, path.stat().st_size)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_S:.0f}")
    except BaseException:
        connection.close()
        raise
    return connection


def uri_of(path: PurePath) -> str:
    r"""Return the URI of an absolute path for SQLite, which refuses one with the name of a host.

    The host of a network drive, as in "\\host\share\run.db", becomes part of the path.
    """
    uri = path.as_uri()
    is_local = uri.startswith("file:///")
    return uri if is_local else uri.replace("file://", "file:////", 1)


def limit_steps(connection: sqlite3.Connection, size: int) -> None:
    """Limit the next query to the steps that reading all rows of a file of this size takes."""
    left = 20 * _STEPS_PER_CHECK + _STEPS_PER_BYTE * size

    def count() -> bool:
        nonlocal left
        left -= _STEPS_PER_CHECK
        return left < 0  # True ends the query

    connection.set_progress_handler(count, _STEPS_PER_CHECK)


# --- errors --------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """Turn errors of the disk, or of SQLite, into an `InputError` of one sentence.

    Parameters
    ----------
    what : beginning of the sentence, such as "cannot read the journal"
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, MemoryError) as error:  # the last two mean damage
        raise InputError(f"{what} {path}: {sentence(error, path)}") from None
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from None


def damaged(path: str | Path, what: str = "") -> InputError:
    """Return the error of a damaged journal.

    Parameters
    ----------
    what : is wrong with it; "" where that is not known
    """
    which = f": {what}" if what else ""
    return InputError(f"the journal {path} is damaged{which}; take a copy from a backup")


def sentence(error: BaseException, path: Path) -> str:
    """Return what an error of SQLite means for this file, and the way out."""
    if not isinstance(error, sqlite3.Error):
        return "it is damaged; take a copy from a backup"
    code, kind = _code(error), _kind(error)
    if code in _SHARED_MEMORY:
        return f"the file system of {path.parent} cannot share memory ({error}); use another folder"
    if code in _LOCKS or (kind == sqlite3.SQLITE_BUSY and not has_locks(path.parent)):
        return f"the file system of {path.parent} {NO_LOCKS}"
    if kind in _DAMAGE or kind == sqlite3.SQLITE_INTERRUPT:
        return f"it is damaged ({error}); take a copy from a backup"
    reasons = {
        sqlite3.SQLITE_BUSY: "another program keeps it locked; close that program, and try again",
        sqlite3.SQLITE_FULL: "the disk is full; free some space, and try again",
        sqlite3.SQLITE_READONLY: "it, or its folder, is read-only; make it writable first",
        sqlite3.SQLITE_PERM: "it may not be opened; check its permissions",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the permissions of its folder",
        sqlite3.SQLITE_IOERR: "the disk, or the way to it, fails; check it, and try again",
    }
    return f"{reasons[kind]} ({error})" if kind in reasons else str(error)


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Return whether the disk is full; a failure to write may have other causes."""
    kind = _kind(error)
    if kind == sqlite3.SQLITE_FULL:
        return True
    if kind != sqlite3.SQLITE_IOERR or _code(error) in _LOCKS:
        return False
    return not _has_space(path.parent)  # a quota, or a network drive, reports a failure to write


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another program holds the lock of the file."""
    return _kind(error) == sqlite3.SQLITE_BUSY


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's error number; undecodable text has none, since only Python reports it."""
    own = sqlite3.SQLITE_MISUSE if isinstance(error, sqlite3.ProgrammingError) else 1
    return getattr(error, "sqlite_errorcode", own)


def _kind(error: sqlite3.Error) -> int:
    return _code(error) & 0xFF


def _has_space(folder: Path) -> bool:
    """Try to write there, and return False when only space is missing."""
    try:
        write_probe(folder, bytes(_PROBE_BYTES))
    except OSError as error:
        return error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return True


def has_locks(folder: Path) -> bool:
    """Return whether a folder's file system has the locks that SQLite uses; True where unknown."""
    try:
        import fcntl
    except ImportError:  # Windows has locks on all file systems that it mounts
        return True
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


# --- the kind of a file --------------------------------------------------------------------------


def real_path(path: Path) -> Path:
    """Return the file that a path leads to; a circular link leads to itself."""
    return Path(os.path.realpath(path))


def is_sqlite(path: str | Path) -> bool:
    """Return whether a file is an SQLite file, as journals are."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
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
    """Return whether a file holds exactly these tables: no other view, trigger or column."""
    return _schema(connection) == _schema_of(tables)
