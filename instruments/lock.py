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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from .errors import InputError, InUse
from .files import replace_file

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
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            command, user, host = (str(found[key]) for key in ("command", "user", "host"))
            return cls(
                command, int(found["pid"]), user, host, str(found["since"]), str(found["boot"])
            )
        except (OSError, ValueError, TypeError, KeyError):
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
        self._lock: filelock.BaseFileLock | None = None

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
        lock = filelock.FileLock(self.path, timeout=0, mode=0o666, thread_local=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InUse(self._refusal()) from None
        except NotImplementedError as error:  # a file system without locks
            raise OSError(str(error)) from error
        self._lock = lock
        with contextlib.suppress(OSError):  # of another user, who made it so that all can take it
            self.path.chmod(0o666)
        self.left = Holder.read(self.holder_path)
        try:
            content = json.dumps({"schema": 1, **asdict(Holder.of_this_process())}, indent=1)
            replace_file(self.holder_path, content.encode())
        except OSError as error:  # held all the same, without a name
            LOG.warning("%s: cannot write who holds %s: %s", self.path, self.what, error)
        return self

    def release(self) -> None:
        """Let go; harmless when it is not held."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            self.holder_path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("cannot remove %s: %s", self.holder_path, error)
        lock.release()

    def _refusal(self) -> str:
        for _ in range(20):  # it writes its name just after it has the lock
            holder = Holder.read(self.holder_path)
            if holder is not None:
                break
            time.sleep(0.01)
        else:
            return f"{self.what} is in use by another process; wait until it has ended"
        since = datetime.fromisoformat(holder.since).astimezone()
        return (
            f"{self.what} is in use: {holder} has held it since {since:%Y-%m-%d %H:%M:%S}; wait "
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

    Where nobody may write there it lies in the folder for a user's state, under the same name for
    the same file.

    Raises
    ------
    InputError : when neither folder can be written to
    """
    file = file.resolve()
    if _is_writable(file.parent):
        return file.with_name(f".{file.name}.{ending}")
    path = _in(state_folder(), file, ending)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _try_to_write(path.parent)
    except OSError as error:
        raise InputError(
            f"neither {file.parent} nor {path.parent} can be written to ({error.strerror}), and "
            f"one of them keeps what is known of {file.name}: {_way_out()}"
        ) from None
    return path


def places(file: Path, ending: str) -> tuple[Path, ...]:
    """Give all places where `beside` may have put a file, at another time or for another user."""
    file = file.resolve()
    there = file.with_name(f".{file.name}.{ending}")
    try:
        return there, _in(state_folder(), file, ending)
    except InputError:  # a user without a home keeps nothing there
        return (there,)


def _in(folder: Path, file: Path, ending: str) -> Path:
    digest = sha256(str(file).encode(errors="surrogateescape")).hexdigest()[:12]
    return folder / f"{digest}.{file.name}.{ending}"


_STATE = "LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME"  # environment variable


def state_folder() -> Path:
    """Return the folder for what a program remembers of a user's work; perhaps it is not there yet.

    Raises
    ------
    InputError : for a user without a home
    """
    given = Path(os.environ.get(_STATE, ""))
    if given.is_absolute() and sys.platform != "darwin":
        return given / "lightloom"
    try:
        home = Path.home()
    except RuntimeError:
        raise InputError(
            f"this user has no home folder for what lightloom remembers of a bench: {_way_out()}"
        ) from None
    if os.name == "nt":
        return home / "AppData" / "Local" / "lightloom"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "lightloom"
    return home / ".local" / "state" / "lightloom"


def _way_out() -> str:
    use = "keep the bench file in a folder that you may write to"
    if sys.platform == "darwin":
        return use
    return f"{use}, or name such a folder in the environment variable {_STATE}"


def _is_writable(folder: Path) -> bool:
    try:
        _try_to_write(folder)
    except OSError:
        return False
    return True


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: a disk may be read-only
        pass
