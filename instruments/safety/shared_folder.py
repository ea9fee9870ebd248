"""The folder that all users of a computer share for locks and latches, and files in it.

Every user can create files there, and its sticky bit prevents that users remove or replace files of
others. It survives a restart of the computer, as a latch must.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_FOLDERS = ("/var/lib/lightloom", "/var/tmp", "/tmp")  # an administrator can create the first one


def shared_folder() -> Path:
    """Return the folder that all users share.

    Raises
    ------
    OSError : when no such folder exists
    """
    if os.name == "nt":  # every user of this computer can write there
        folder = Path(os.environ.get("PUBLIC") or "C:/Users/Public") / "lightloom"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    for name in _FOLDERS:
        if _is_shared_by_all(Path(name)):
            return Path(name)
    raise OSError(
        "no folder is shared by all users of this computer: make /var/lib/lightloom with mode 1777"
    )


def _is_shared_by_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    wanted = stat.S_ISVTX | stat.S_IWOTH | stat.S_IXOTH
    return stat.S_ISDIR(mode) and mode & wanted == wanted


def open_shared(path: Path) -> int:
    """Open a file that all users can write, and create it if missing; links are not followed.

    Raises
    ------
    OSError : when the file cannot be opened
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:  # an existing file in a sticky folder would refuse O_CREAT
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another process created it first
        return os.open(path, flags)
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(handle, 0o666)  # independent of the umask
    return handle
