"""The folder that all users of a computer share for locks and latches, and files in it.

Each may make files there, and no user may remove or replace another's: its sticky bit says so. It
outlives a restart of the computer, as a latch must.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_FOLDERS = ("/var/lib/lightloom", "/var/tmp", "/tmp")  # the first is an administrator's to make


def shared_folder() -> Path:
    """Return the folder.

    Raises
    ------
    OSError : when there is none
    """
    if os.name == "nt":  # where every user of this computer may write
        folder = Path(os.environ.get("PUBLIC") or "C:/Users/Public") / "lightloom"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    for name in _FOLDERS:
        if _is_everybodys(Path(name)):
            return Path(name)
    raise OSError(
        "no folder is shared by all users of this computer: make /var/lib/lightloom with mode 1777"
    )


def _is_everybodys(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    wanted = stat.S_ISVTX | stat.S_IWOTH | stat.S_IXOTH
    return stat.S_ISDIR(mode) and mode & wanted == wanted


def open_shared(path: Path) -> int:
    """Open a file that all users may write to, made where it is missing; no link is followed.

    Raises
    ------
    OSError : when it cannot be opened
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:  # where it exists, asking to make it would be refused in a sticky folder
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another one was quicker
        return os.open(path, flags)
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(handle, 0o666)  # whatever the umask is
    return handle
