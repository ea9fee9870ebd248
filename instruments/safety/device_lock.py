"""What one process of a computer holds against all others, whoever their users are, by a name.

All processes share one file, of which each name has a byte, by its digest: the operating system
locks that byte, and lets go when the process ends, however it ends. Nothing is written, so nothing
is left behind, and no file belongs to one user alone. Not here: names of devices (`addresses`), and
how the last holder of a bench ended (`lock`).
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock

from .shared_folder import open_shared, shared_folder

_NAME = "lightloom.devices"
_open: dict[Path, int] = {}  # closing it would let all go, so it stays open
_held: set[tuple[Path, str]] = set()
_lock = Lock()
if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's locks
    os.register_at_fork(after_in_child=_held.clear)


def hold(name: str, folder: Path | None = None) -> str | None:
    """Hold a name for this process; return who has it where it is held already.

    Parameters
    ----------
    folder : of the file; None is the one that all users share

    Returns
    -------
    None when it is held now, else "process 1234", "another process" or "this process"

    Raises
    ------
    OSError : when nothing can be held there
    """
    path = (shared_folder() if folder is None else folder) / _NAME
    with _lock:
        if (path, name) in _held:
            return "this process"
        handle, place = _handle(path), _place(name)
        if not _locked(handle, place):
            return _holder(handle, place)
        _held.add((path, name))
        return None


def let_go(name: str, folder: Path | None = None) -> None:
    """Let go what `hold` held; harmless where it did not."""
    with suppress(OSError), _lock:
        path = (shared_folder() if folder is None else folder) / _NAME
        if (path, name) in _held:
            _held.discard((path, name))
            _unlock(_handle(path), _place(name))


def _handle(path: Path) -> int:
    if path not in _open:
        _open[path] = open_shared(path)
    with suppress(OSError):  # it is in use, and must not be tidied away
        os.utime(path)
    return _open[path]


def _place(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:7], "big") >> 1


if sys.platform == "win32":
    import msvcrt

    def _locked(handle: int, place: int) -> bool:
        os.lseek(handle, place, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int, place: int) -> None:
        os.lseek(handle, place, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

    def _holder(handle: int, place: int) -> str:
        return "another process"

else:
    import fcntl

    def _locked(handle: int, place: int) -> bool:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(handle: int, place: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, place)

    def _holder(handle: int, place: int) -> str:
        """Ask the system who has it; only Linux on 64 bits says so in a form known here."""
        if sys.platform != "linux" or sys.maxsize < 1 << 32:
            return "another process"
        layout = "hhqqi4x"  # struct flock: type, whence, start, length, pid
        asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        with suppress(OSError, struct.error):
            kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
            if kind != fcntl.F_UNLCK and pid > 0:
                return f"process {pid}"
        return "another process"
