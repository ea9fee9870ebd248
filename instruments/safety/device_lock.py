"""Named locks that one process of a computer holds against all others, independent of their users.

All processes share one file. The digest of a name selects a byte of it, and the operating system
locks that byte until the process ends, even if it crashes. Nothing is written, so nothing is left
behind, and no file belongs to a single user. Not here: names of devices (`addresses`), and how the
last holder of a bench ended (`lock`).
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
_open: dict[Path, int] = {}  # stays open, since closing it would release all locks
_held: set[tuple[Path, str]] = set()
_lock = Lock()
if hasattr(os, "register_at_fork"):  # a forked process does not own its parent's locks
    os.register_at_fork(after_in_child=_held.clear)


def hold(name: str, folder: Path | None = None) -> str | None:
    """Lock a name for this process, or return the holder where it is locked already.

    Parameters
    ----------
    folder : of the file; None means the one that all users share

    Returns
    -------
    None if this call locked it, otherwise "process 1234", "another process" or "this process"

    Raises
    ------
    OSError : when the folder permits no locks
    """
    path = (shared_folder() if folder is None else folder) / _NAME
    with _lock:
        if (path, name) in _held:
            return "this process"
        handle, offset = _handle(path), _offset(name)
        if not _locked(handle, offset):
            return _holder(handle, offset)
        _held.add((path, name))
        return None


def let_go(name: str, folder: Path | None = None) -> None:
    """Release a name that `hold` locked; harmless if it is not locked."""
    with suppress(OSError), _lock:
        path = (shared_folder() if folder is None else folder) / _NAME
        if (path, name) in _held:
            _held.discard((path, name))
            _unlock(_handle(path), _offset(name))


def _handle(path: Path) -> int:
    if path not in _open:
        _open[path] = open_shared(path)
    with suppress(OSError):  # marks the file as in use, so that clean-up jobs keep it
        os.utime(path)
    return _open[path]


def _offset(name: str) -> int:
    # 31 bits: file positions of Windows' C library may be signed integers of 32 bits
    return int.from_bytes(sha256(name.encode()).digest()[:4], "big") >> 1


if sys.platform == "win32":
    import msvcrt

    def _locked(handle: int, offset: int) -> bool:
        os.lseek(handle, offset, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(handle: int, offset: int) -> None:
        os.lseek(handle, offset, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

    def _holder(handle: int, offset: int) -> str:
        return "another process"

else:
    import fcntl

    def _locked(handle: int, offset: int) -> bool:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(handle: int, offset: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, offset)

    def _holder(handle: int, offset: int) -> str:
        """Return the holder that the system reports, in a format known for 64-bit Linux only."""
        if sys.platform != "linux" or sys.maxsize < 1 << 32:
            return "another process"
        layout = "hhqqi4x"  # struct flock: type, whence, start, length, pid
        query = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        with suppress(OSError, struct.error):
            kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(handle, fcntl.F_GETLK, query))
            if kind != fcntl.F_UNLCK and pid > 0:
                return f"process {pid}"
        return "another process"
