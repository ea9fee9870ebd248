"""`HeldLock`: a lock file for one process at a time, whose refusal names the holder.

The operating system keeps the lock (package `filelock`), so it ends with its process, even after a
crash. A file beside it names the holder, because a locked file cannot be read on Windows. A killed
process leaves that file behind, which tells the next process how it ended.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import filelock

from ..errors import InputError, InUse
from ..files import moment_of, read_note, replace_file, write_probe
from . import device_lock
from .shared_folder import open_shared, shared_folder

LOG = logging.getLogger("lightloom.instruments")

_SAME_BOOT_S = 60.0  # largest difference between two estimates of one boot time


@dataclass(frozen=True)
class Holder:
    """The holder of a lock.

    Parameters
    ----------
    command : command line of the process
    since : start of the lock, ISO 8601 with time zone
    boot : boot of the computer, see `boot_id`
    """

    command: str
    pid: int
    user: str
    host: str
    since: str
    boot: str

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return the holder that describes this process."""
        command = shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
        try:
            user = getpass.getuser()
        except Exception:  # a user without a name: OSError, KeyError or ImportError
            user = "unknown"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command[:500], os.getpid(), user, platform.node(), now, boot_id())

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Return the holder that a file names; None where the file cannot be read."""
        found: dict[str, Any] = read_note(path) or {}
        try:
            known = {field.name: found[field.name] for field in fields(cls)}
            return cls(**{**known, "pid": int(known["pid"])})
        except (ValueError, KeyError):
            return None

    @property
    def is_of_another_boot(self) -> bool:
        """Whether this computer has restarted since; False for a holder on another computer."""
        if self.host != platform.node():
            return False
        now, then = boot_id(), self.boot
        if "boot:" in now and "boot:" in then:
            try:
                return abs(float(now[5:]) - float(then[5:])) > _SAME_BOOT_S
            except ValueError:
                return False
        return bool(then) and now != then

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid} of {self.user} on {self.host})"


def boot_id() -> str:
    """Return an identifier of the present boot: that of Linux, or the boot time elsewhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        pass
    if hasattr(time, "clock_gettime"):  # on macOS it continues while the computer sleeps
        running_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    else:
        running_s = time.monotonic()
    return f"boot:{time.time() - running_s:.0f}"


class HeldLock:
    """A lock on a file for this process.

    Parameters
    ----------
    path : of the lock file; the name of the holder file is derived from it
    what : locked object for messages, such as "the run run.db"

    Attributes
    ----------
    left : last holder if it ended without releasing the lock, otherwise None
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.left: Holder | None = None
        self._release: Callable[[], None] | None = None

    @property
    def holder_path(self) -> Path:
        """The path of the file that names the holder."""
        return self.path.with_name(f"{self.path.name}.holder")

    def acquire(self) -> Self:
        """Acquire the lock without waiting, or raise an error that names the holder.

        Raises
        ------
        InUse : when another process holds the lock
        OSError : when the folder permits no lock, for example a read-only one
        """
        self._release = self._locked()
        self.left = Holder.read(self.holder_path)
        try:
            content = json.dumps({"schema": 1, **asdict(Holder.of_this_process())}, indent=1)
            self._name_holder(content.encode())
        except OSError as error:  # the lock is held, but its holder is not named
            LOG.warning("%s: cannot write who holds %s: %s", self.path, self.what, error)
        return self

    def _locked(self) -> Callable[[], None]:
        """Acquire the lock and return the function that releases it."""
        if _is_shared(self.path.parent):  # where users cannot replace each other's files
            if device_lock.hold(str(self.path), self.path.parent) is not None:
                raise InUse(self._refusal())
            return lambda: device_lock.let_go(str(self.path), self.path.parent)
        os.close(open_shared(self.path))  # writable for all users, not a link
        lock = filelock.FileLock(self.path, timeout=0, mode=0o666, thread_local=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InUse(self._refusal()) from None
        except NotImplementedError as error:  # a file system without locks
            raise OSError(str(error)) from error
        return lock.release

    def _name_holder(self, content: bytes) -> None:
        """Write the holder file; overwrite the content where another user owns the file."""
        try:
            replace_file(self.holder_path, content)
            self.holder_path.chmod(0o666)
        except PermissionError:
            with os.fdopen(open_shared(self.holder_path), "r+b") as stream:
                stream.truncate()
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())

    def release(self) -> None:
        """Release the lock; harmless if it is not held."""
        release, self._release = self._release, None
        if release is None:
            return
        try:
            self.holder_path.unlink(missing_ok=True)
        except PermissionError:  # the file of another user, see `_name_holder`
            with contextlib.suppress(OSError):
                self._name_holder(b"")
        except OSError as error:
            LOG.warning("cannot remove %s: %s", self.holder_path, error)
        release()

    def _refusal(self) -> str:
        for _ in range(20):  # the holder writes its name just after it gets the lock
            holder = Holder.read(self.holder_path)
            if holder is not None:
                break
            time.sleep(0.01)
        else:
            return f"{self.what} is in use by another process; wait until it has ended"
        return (
            f"{self.what} is in use: {holder} has held it since {moment_of(holder.since)}; wait "
            "until it has ended, or end it there with Ctrl-C"
        )

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def beside(file: Path, ending: str) -> Path:
    """Return the path of a hidden file that belongs to a file: ".NAME.ENDING" beside it.

    If that folder is read-only, the path is in the folder that all users of this computer share,
    with the same name for the same file. An existing file keeps its place, even if the disk has
    become full since.

    Raises
    ------
    InputError : when no folder can hold the file
    """
    file = file.resolve()
    there = file.with_name(f".{file.name}.{ending}")
    if there.exists() or is_writable(file.parent):
        return there
    try:
        return shared_place(str(file), file.name, ending)
    except OSError as error:
        raise InputError(
            f"{file.parent} cannot be written to, and must hold the state files of {file.name}: "
            f"move the bench file to a folder that you can write to ({error})"
        ) from None


def places(file: Path, ending: str) -> list[Path]:
    """Return all paths that `beside` may have returned, for any user."""
    file = file.resolve()
    found = [file.with_name(f".{file.name}.{ending}")]
    with contextlib.suppress(OSError):  # this computer has no shared folder
        found.append(shared_place(str(file), file.name, ending))
    return found


def shared_place(key: str, name: str, ending: str) -> Path:
    """Return the path of a file in the folder that all users share, for a unique key.

    Raises
    ------
    OSError : when no such folder exists
    """
    digest = sha256(key.encode(errors="surrogateescape")).hexdigest()[:12]
    return shared_folder() / f"lightloom-{digest}.{name}.{ending}"


def _is_shared(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.resolve() == shared_folder().resolve()
    return False


def is_writable(folder: Path) -> bool:
    """Return whether a file can be created in a folder, by trying."""
    try:  # permissions are not enough: a disk may be read-only
        write_probe(folder)
    except OSError:
        return False
    return True
