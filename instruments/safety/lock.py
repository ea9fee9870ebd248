"""`HeldLock`: one process at a time holds a file, and whoever is refused hears who does.

The operating system keeps the lock (package `filelock`), so it ends with its process, however that
ends. Who holds it stands in a file beside it: a locked file cannot be read on Windows. A process
that was killed leaves that file behind, which tells the next one how it ended.
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
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from ..errors import InputError, InUse
from ..files import moment_of, read_note, replace_file
from . import device_lock
from .shared_folder import open_shared, shared_folder

LOG = logging.getLogger("lightloom.instruments")

_SAME_BOOT_S = 60.0  # by which two reckonings of one start of a computer may differ


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Parameters
    ----------
    command : as it was typed
    since : ISO 8601, with its time zone
    boot : of which start of the computer, see `boot_id`
    """

    command: str
    pid: int
    user: str
    host: str
    since: str
    boot: str

    @classmethod
    def of_this_process(cls) -> Holder:
        """Describe the process that asks."""
        command = shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
        try:
            user = getpass.getuser()
        except Exception:  # a user without a name: OSError, KeyError or ImportError
            user = "unknown"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command[:500], os.getpid(), user, platform.node(), now, boot_id())

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Read what a holder left at a path; None where there is nothing that can be read."""
        found = read_note(path)
        try:
            return (
                None
                if found is None
                else cls(
                    found["command"],
                    int(found["pid"]),
                    found["user"],
                    found["host"],
                    found["since"],
                    found["boot"],
                )
            )
        except (ValueError, KeyError):
            return None

    @property
    def is_of_another_boot(self) -> bool:
        """Whether this computer was started anew since; False for another computer's."""
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
    """Name the present start of this computer: Linux' own number, else the moment it began."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        pass
    if hasattr(time, "clock_gettime"):  # on macOS it goes on while the computer sleeps
        running_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    else:
        running_s = time.monotonic()
    return f"boot:{time.time() - running_s:.0f}"


class HeldLock:
    """Holds a file for this process.

    Parameters
    ----------
    path : of the lock file; the holder's file is named after it
    what : is held, for the message, such as "the run run.db"

    Attributes
    ----------
    left : who held it last and ended without letting go; None where all ended well
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.left: Holder | None = None
        self._let_go: Callable[[], None] | None = None

    @property
    def holder_path(self) -> Path:
        """The file that names the holder."""
        return self.path.with_name(f"{self.path.name}.holder")

    def acquire(self) -> Self:
        """Hold it, or say who does; never waits.

        Raises
        ------
        InUse : naming the holder
        OSError : when there can be no lock at this place, as in a folder that is read-only
        """
        self._let_go = self._locked()
        self.left = Holder.read(self.holder_path)
        try:
            content = json.dumps({"schema": 1, **asdict(Holder.of_this_process())}, indent=1)
            self._name_holder(content.encode())
        except OSError as error:  # held all the same, without a name
            LOG.warning("%s: cannot write who holds %s: %s", self.path, self.what, error)
        return self

    def _locked(self) -> Callable[[], None]:
        """Take the lock, and return what lets it go."""
        if _is_shared(self.path.parent):  # where a file of one user is none of another's
            if device_lock.hold(str(self.path), self.path.parent) is not None:
                raise InUse(self._refusal())
            return lambda: device_lock.let_go(str(self.path), self.path.parent)
        os.close(open_shared(self.path))  # for all users, and no link
        lock = filelock.FileLock(self.path, timeout=0, mode=0o666, thread_local=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InUse(self._refusal()) from None
        except NotImplementedError as error:  # a file system without locks
            raise OSError(str(error)) from error
        return lock.release

    def _name_holder(self, content: bytes) -> None:
        """Write who holds it; over what another user left, which cannot be replaced."""
        try:
            replace_file(self.holder_path, content)
            if hasattr(os, "chmod"):
                self.holder_path.chmod(0o666)
        except PermissionError:
            handle = open_shared(self.holder_path)
            try:
                os.ftruncate(handle, 0)
                os.write(handle, content)
                os.fsync(handle)
            finally:
                os.close(handle)

    def release(self) -> None:
        """Let go; harmless when it is not held."""
        let_go, self._let_go = self._let_go, None
        if let_go is None:
            return
        try:
            self.holder_path.unlink(missing_ok=True)
        except PermissionError:  # another user's, see `_name_holder`
            with contextlib.suppress(OSError):
                self._name_holder(b"")
        except OSError as error:
            LOG.warning("cannot remove %s: %s", self.holder_path, error)
        let_go()

    def _refusal(self) -> str:
        for _ in range(20):  # it writes its name just after it has the lock
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def beside(file: Path, ending: str) -> Path:
    """Name a hidden file that belongs to another: ".NAME.ENDING" beside it.

    Where that folder is read-only it lies in the one that all users of this computer share, under
    the same name for the same file. A file that is there already stays where it is: a disk that has
    filled up since moves none away.

    Raises
    ------
    InputError : when it can be kept nowhere
    """
    file = file.resolve()
    there = file.with_name(f".{file.name}.{ending}")
    if there.exists() or is_writable(file.parent):
        return there
    try:
        return shared_place(str(file), file.name, ending)
    except OSError as error:
        raise InputError(
            f"{file.parent} cannot be written to, and has to keep what is known of {file.name}: "
            f"keep the bench file in a folder that you may write to ({error})"
        ) from None


def places(file: Path, ending: str) -> list[Path]:
    """Return every place where `beside` may have put a file, for whichever user."""
    file = file.resolve()
    found = [file.with_name(f".{file.name}.{ending}")]
    with contextlib.suppress(OSError):  # no folder is shared here
        found.append(shared_place(str(file), file.name, ending))
    return found


def shared_place(key: str, name: str, ending: str) -> Path:
    """Return the place of a file in the folder that all users share, by a key of its own.

    Raises
    ------
    OSError : when there is no such folder
    """
    digest = sha256(key.encode(errors="surrogateescape")).hexdigest()[:12]
    return shared_folder() / f"lightloom-{digest}.{name}.{ending}"


def _is_shared(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return folder.resolve() == shared_folder().resolve()
    return False


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder: tried, since permissions do not tell."""
    try:
        _try_to_write(folder)
    except OSError:
        return False
    return True


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: a disk may be read-only
        pass
