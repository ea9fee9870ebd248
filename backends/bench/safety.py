"""What stands between a bench and harm when nobody looks: lock, latch, heartbeat, and who is there.

None of this is a safety function (docs/how-to/safety.md): it refuses early, switches off late, and
drives hardware that falls back into safety by itself. Not here: signals (`instruments.stopping`)
and killed processes (`instruments.watchdog`).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from ...instruments import Daq, InputError, InstrumentError, InterlockOpen, LightSource
from ...instruments.addresses import canonical, is_lasting
from ...instruments.files import moment_of, read_note, replace_file
from ...instruments.safety.lock import HeldLock, Holder, beside, places, shared_place
from ...instruments.safety.signals import make_all_safe
from .config import BenchFile, HeartbeatTable

__all__ = [
    "ATTENDED",
    "Heart",
    "Latch",
    "fail_safe",
    "hold",
    "holding",
    "is_attended",
    "is_terminal",
    "lacks",
    "latch",
    "latch_after_restart",
    "latch_places",
    "latched",
    "let_go",
    "make_all_safe",
    "rearm",
    "refuse_latched",
    "refuse_unattended",
]

LOG = logging.getLogger("lightloom.bench")

ATTENDED = "LIGHTLOOM_ATTENDED"  # environment variable: "1" where somebody is at the bench
_HARMFUL = ("3B", "4")


# --- what a bench has got ------------------------------------------------------------------------


def lacks(file: BenchFile, source: LightSource | None = None) -> list[str]:
    """Say what a bench has not got that falls back into safety by itself.

    Parameters
    ----------
    source : of the bench, where it is known whether its interlock can be asked for
    """
    safety = file.safety
    missing = []
    if safety.heartbeat is None:
        missing.append("no heartbeat line to a retriggerable relay (safety.heartbeat)")
    if safety.shutter != "normally-closed":
        missing.append('no normally-closed shutter (safety.shutter = "normally-closed")')
    if source is not None and not source.has_interlock:
        missing.append(
            "no interlock that can be asked (instruments.source.commands.interlock, or the "
            "driver's own)"
        )
    return missing


def fail_safe(
    file: BenchFile, is_simulated: bool, source: LightSource | None = None
) -> bool | None:
    """Say whether hardware takes over when the computer dies; None where no light can hurt.

    That is a simulated bench, unless its file says what a real one would have.
    """
    if is_simulated and "safety" not in file.model_fields_set:
        return None
    return not lacks(file, source)


def is_attended() -> bool:
    """Whether somebody is there: said so, or sitting at the terminal that this process reads."""
    return os.environ.get(ATTENDED) == "1" or is_terminal(sys.stdin)


def is_terminal(stream: Any) -> bool:
    """Whether a person can answer there."""
    if stream is None or stream.closed or not stream.isatty():
        return False
    if sys.platform == "win32":
        import ctypes
        import msvcrt

        mode = ctypes.c_uint32()  # NUL is a "tty" too, and no console
        handle = msvcrt.get_osfhandle(stream.fileno())
        return bool(ctypes.windll.kernel32.GetConsoleMode(handle, ctypes.byref(mode)))
    return True


def refuse_unattended(file: BenchFile, path: str) -> None:
    """Refuse light that can hurt where nobody is there and no hardware is.

    Raises
    ------
    InputError : with the way out
    """
    missing = lacks(file)
    if file.safety.laser_class in _HARMFUL and missing and not is_attended():
        raise InputError(
            f"{path}: a source of class {file.safety.laser_class} is not run unattended with "
            f"{' and '.join(missing)}: wire them, or stay at the bench and say so (lightloom run "
            f"--attended, or {ATTENDED}=1)"
        )


# --- one process at a time -----------------------------------------------------------------------


@dataclass
class _Held:
    locks: list[HeldLock]
    count: int

    @property
    def left(self) -> list[Holder]:
        """Who held it last and ended without letting go, by each of its locks."""
        return [lock.left for lock in self.locks if lock.left is not None]


_held: dict[Path, _Held] = {}
_holding = Lock()
if hasattr(os, "register_at_fork"):  # the lock stays with the process that took it
    os.register_at_fork(after_in_child=_held.clear)


def hold(path: str | Path, is_real: bool = False) -> list[Holder]:
    """Hold a bench for this process, once more where it holds it already; see `let_go`.

    Parameters
    ----------
    is_real : its instruments are; it is then held where all users of this computer see it, too

    Returns
    -------
    who held it last, where one ended without letting go

    Raises
    ------
    InUse : naming the process that holds it
    InputError : where there can be no lock
    """
    file = Path(path).resolve()
    with _holding:
        held = _held.get(file)
        if held is None:
            try:
                held = _held[file] = _Held(_locked(file, f"the bench {path}", is_real), 0)
            except OSError as error:
                raise InputError(
                    f"the bench {path} cannot be held against other processes: {error}; see to "
                    "the folder, or use the bench from another one"
                ) from None
        held.count += 1
        return held.left if held.count == 1 else []


def _locked(file: Path, what: str, is_real: bool) -> list[HeldLock]:
    """Take the lock that another user would take, and the one beside the file, if there is one."""
    wanted = [beside(file, "lock")]
    if is_real:
        wanted.append(shared_place(str(file), file.name, "lock"))
    taken: list[HeldLock] = []
    try:
        for place in dict.fromkeys(wanted):
            taken.append(HeldLock(place, what).acquire())
    except BaseException:
        for lock in taken:
            lock.release()
        raise
    return taken


def let_go(path: str | Path) -> None:
    """Let go what `hold` held once."""
    file = Path(path).resolve()
    with _holding:
        held = _held.get(file)
        if held is None:  # in a forked process
            return
        held.count -= 1
        if held.count == 0:
            del _held[file]
            for lock in reversed(held.locks):
                lock.release()


@contextmanager
def holding(path: str | Path, is_real: bool = False) -> Iterator[None]:
    """Hold a bench inside a `with`."""
    hold(path, is_real)
    try:
        yield
    finally:
        let_go(path)


# --- off until somebody on site says otherwise ---------------------------------------------------


@dataclass(frozen=True)
class Latch:
    """Why a bench gives no light, since when, and which process found that out."""

    reason: str
    when: str
    by: str

    def __str__(self) -> str:
        return f"latched off since {moment_of(self.when)}: {self.reason}"


def latch(path: str | Path, reason: str, source: str = "") -> None:
    """Let a bench give no light until `rearm`; the first reason stays.

    Parameters
    ----------
    reason : a clause without a full stop, such as "the interlock has tripped"
    source : of a real bench, what `Bench.latches` gives: it is then latched for every user of this
        computer, and under every bench file
    """
    file = Path(path)
    if not file.is_file() or latched(file, source) is not None:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"schema": 1, "reason": reason, "when": now, "by": str(Holder.of_this_process())}
    wanted: list[Path] = []
    complaints: list[str] = []
    try:
        wanted.append(beside(file, "latch"))
    except InputError as error:
        complaints.append(str(error))
    if source:
        wanted += _shared_latches(file, source)
    for place in dict.fromkeys(wanted):
        try:
            replace_file(place, json.dumps(content, indent=1).encode())
            place.chmod(0o644)
        except OSError as error:
            complaints.append(str(error))
    if len(complaints) >= len(wanted):
        LOG.error("%s: cannot write that it is latched off (%s): %s", path, reason, complaints[0])
    else:
        LOG.warning("%s is latched off: %s", path, reason)


def _shared_latches(file: Path, source: str) -> list[Path]:
    """Return where all users of this computer look: by the bench file, and by its source."""
    named = {str(file.resolve()): file.name}
    if is_lasting(source):
        named[f"source {canonical(source)}"] = "source"
    with suppress(OSError):  # no folder is shared here
        return [shared_place(key, name, "latch") for key, name in named.items()]
    return []


def latch_places(path: str | Path, source: str) -> list[Path]:
    """Return every file in which a latch of a bench may stand; `source` as for `latch`."""
    file = Path(path)
    shared = _shared_latches(file, source) if source else []
    return list(dict.fromkeys([*places(file, "latch"), *shared]))


def latched(path: str | Path, source: str = "") -> Latch | None:
    """Return why a bench is latched off; None where it is not.

    Parameters
    ----------
    source : see `latch`
    """
    for place in latch_places(path, source):
        if not _is_there(place):
            continue
        found = read_note(place)
        if found is None or not {"reason", "when", "by"} <= found.keys():  # still no way out
            return Latch(f"{place} cannot be read, so nobody knows why", "", "")
        return Latch(found["reason"], found["when"], found["by"])
    return None


def rearm(path: str | Path, source: str = "") -> None:
    """Let a bench give light again; for a person on site who has seen to the beam path.

    Raises
    ------
    InputError : when another user latched it, who has to re-arm it too
    """
    for place in filter(_is_there, latch_places(path, source)):
        try:
            place.unlink(missing_ok=True)
        except OSError as error:
            found = latched(path, source)
            raise InputError(
                f"{path} stays latched off: {place} cannot be removed ({error.strerror}); let the "
                f"user who latched it{f', {found.by},' if found and found.by else ''} or an "
                "administrator re-arm it"
            ) from None


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a folder that is closed to this user, who has kept nothing there
        return False


def refuse_latched(path: str | Path, source: str = "") -> None:
    """Refuse light while a bench is latched off.

    Parameters
    ----------
    source : see `latch`

    Raises
    ------
    InterlockOpen : with reason, time and the way out
    """
    found = latched(path, source)
    if found is not None:
        raise InterlockOpen(
            f"{path} is {found}; on site, make sure that the beam path is safe, then: "
            f"lightloom check --bench {path} --rearm"
        )


def latch_after_restart(path: str | Path, left: Sequence[Holder], source: str = "") -> None:
    """Latch a bench whose last process was running when its computer went down."""
    for holder in left:
        if holder.is_of_another_boot:
            latch(path, f"the computer was restarted while {holder} held it", source)


# --- the heartbeat -------------------------------------------------------------------------------


class Heart:
    """Drives the heartbeat line while there is progress.

    Parameters
    ----------
    daq : connected
    table : which line, how fast, and for how long without `beat`
    """

    def __init__(self, daq: Daq, table: HeartbeatTable) -> None:
        self._daq, self._table = daq, table
        self._is_over = Event()
        self._progress_s = time.monotonic()
        self._is_high = self._fails = False
        self._thread = Thread(target=self._run, name="lightloom-heartbeat", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Say that there is progress."""
        self._progress_s = time.monotonic()

    def stop(self) -> None:
        """Let the relay fall; bounded, whoever holds the DAQ."""
        self._is_over.set()
        self._thread.join(2 * self._table.period_s)

    def _run(self) -> None:
        while not self._is_over.wait(self._table.period_s / 2):
            if time.monotonic() - self._progress_s < self._table.stops_after_s:
                self._set(not self._is_high)
            elif self._is_high:
                self._set(False)
                LOG.warning("no progress for %g s: the heartbeat stops", self._table.stops_after_s)
        self._set(False)

    def _set(self, high: bool) -> None:
        try:
            self._daq.set_line(self._table.line, high)
        except InstrumentError as error:  # then the relay falls, which is what it is there for
            if not self._fails:
                LOG.warning("the heartbeat line cannot be set: %s", error)
            self._fails = True
        else:
            self._is_high, self._fails = high, False
