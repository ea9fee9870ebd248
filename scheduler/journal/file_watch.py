"""`FileWatch`: checks that the file of a journal stays in its place while it is written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .database import MAGIC, PAGE_BYTES

_OVERWRITTEN = "was overwritten, or cut off, by another program"
_RESTORE = "it may be damaged: bring back a copy of it, then"


class FileLost(Exception):
    """A file that is being written is no longer at its place, or another program changed it.

    Parameters
    ----------
    way_out : before the run can be resumed
    """

    def __init__(self, text: str, way_out: str = "bring the file back to this place, then") -> None:
        super().__init__(text)
        self.way_out = way_out


class FileWatch:
    """Checks that the file that is being written is still the one under its name.

    It keeps the file open, since closing it would drop SQLite's locks: POSIX drops all locks of a
    process on a file when the first descriptor is closed. Close it after every connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("rb", buffering=0)
        self._first_stat = path.stat()  # by name, since Windows has other numbers by handle
        self._log: dict[Path, os.stat_result] = {}
        self._size = 0
        self._head = self._read_head()

    def watch_log(self) -> None:
        """Watch the write-ahead log and its index, too."""
        for ending in ("-wal", "-shm"):
            path = self._path.with_name(f"{self._path.name}{ending}")
            found = _stat(path)
            if found is not None:
                self._log[path] = found

    def forget_log(self, removes: bool) -> None:
        """Watch only the file, once the log is closed.

        Parameters
        ----------
        removes : remove the rest of the log, which SQLite would take for one of the next file here
        """
        log, self._log = self._log, {}
        for path, before in log.items() if removes else ():
            now = _stat(path)
            if now is not None and _is_same(before, now):
                with contextlib.suppress(OSError):
                    path.unlink()

    def check_file(self) -> None:
        """Check that the name still leads to this file; for any thread.

        Raises
        ------
        FileLost : naming what happened to it
        """
        found = _stat(self._path)
        if found is None:
            if os.fstat(self._stream.fileno()).st_nlink == 0:
                raise FileLost("was deleted")
            raise FileLost(
                "is not at its place any more: it, or its folder, was renamed, moved or deleted"
            )
        if not _is_same(self._first_stat, found):
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
        """Check also that no other program wrote into it; only for the thread that writes.

        Parameters
        ----------
        is_ours : whether this process may have written since the last check

        Raises
        ------
        FileLost : naming what happened to it
        """
        self.check_file()
        head = self._read_head()
        if not is_ours and head != self._head:
            raise FileLost(_OVERWRITTEN, _RESTORE)
        self._head = head

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _read_head(self) -> bytes:
        """Return the first page: it counts changes and pages, so another file has another one."""
        self._stream.seek(0)
        head = self._stream.read(PAGE_BYTES)
        size = os.fstat(self._stream.fileno()).st_size
        if not head.startswith(MAGIC) or size < self._size:  # a journal never shrinks
            raise FileLost(_OVERWRITTEN, _RESTORE)
        self._size = size
        return head


def _stat(path: Path) -> os.stat_result | None:
    """Return the status of a file; None where there is no file."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    if one.st_ino and other.st_ino:
        return os.path.samestat(one, other)
    return True  # a file system without inode numbers: a file exists, more cannot be checked
