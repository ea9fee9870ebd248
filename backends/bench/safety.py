"""Lock, latch, heartbeat and attendance of a bench.

None of this is a safety function (docs/how-to/safety.md): it refuses early, switches off late, and
drives hardware that is fail-safe by itself. `instruments.safety.signals` handles signals, and
`instruments.safety.watchdog` handles killed processes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, cast

from ...instruments import (
    Daq,
    InputError,
    Instrument,
    InstrumentError,
    InterlockOpen,
    LightSource,
)
from ...instruments.addresses import canonical, is_lasting
from ...instruments.files import moment_of, read_note, replace_file
from ...instruments.safety.lock import HeldLock, Holder, beside, places, shared_place
from .config import BenchFile, HeartbeatTable

LOG = logging.getLogger("lightloom.bench")

ATTENDED = "LIGHTLOOM_ATTENDED"  # environment variable: "1" if a person is at the bench
_HARMFUL = ("3B", "4")


# --- safety hardware and attendance --------------------------------------------------------------


def lacks(file: BenchFile, source: LightSource | None = None) -> list[str]:
    """Return the fail-safe hardware that a bench lacks, as clauses.

    Parameters
    ----------
    source : of the bench, to check whether its interlock can be read; None skips this check
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
    """Return whether hardware makes the bench safe when the computer fails; None without hazard.

    A simulated bench has no hazard, unless its file has a table `[safety]`.
    """
    if is_simulated and "safety" not in file.model_fields_set:
        return None
    return not lacks(file, source)


def is_attended() -> bool:
    """Return whether a person is at the bench: so declared, or at the terminal of this process."""
    return os.environ.get(ATTENDED) == "1" or is_terminal(sys.stdin)


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal at which a person can answer."""
    if stream is None or stream.closed or not stream.isatty():
        return False
    if sys.platform == "win32":
        import ctypes
        import msvcrt

        mode = ctypes.c_uint32()  # NUL is a "tty" too, but not a console
        handle = msvcrt.get_osfhandle(stream.fileno())
        return bool(ctypes.windll.kernel32.GetConsoleMode(handle, ctypes.byref(mode)))
    return True


def refuse_unattended(file: BenchFile, path: str) -> None:
    """Refuse hazardous light without a person at the bench and without fail-safe hardware.

    Raises
    ------
    InputError : naming the hardware that is missing
    """
    missing = lacks(file)
    if file.safety.laser_class in _HARMFUL and missing and not is_attended():
        raise InputError(
            f"{path}: a source of class {file.safety.laser_class} is not lit unattended, because "
            f"the bench has {' and '.join(missing)}; wire them, or stay at the bench and say so "
            f"(lightloom run --attended, or {ATTENDED}=1)"
        )


# --- one process at a time -----------------------------------------------------------------------


@dataclass
class _Held:
    locks: ExitStack
    left: list[Holder]  # the last holders that ended without a release
    count: int = 0


_held: dict[Path, _Held] = {}
_holding = Lock()
if hasattr(os, "register_at_fork"):  # the lock stays with the process that took it
    os.register_at_fork(after_in_child=_held.clear)


def hold(path: str | Path, is_real: bool = False) -> list[Holder]:
    """Lock a bench for this process; nested calls are counted, see `let_go`.

    Parameters
    ----------
    is_real : whether its instruments are real; the lock is then also visible to all users of this
        computer

    Returns
    -------
    the last holders, if they ended without a release

    Raises
    ------
    InUse : naming the process that holds it
    InputError : when no lock can be written
    """
    file = Path(path).resolve()
    with _holding:
        held = _held.get(file)
        if held is None:
            try:
                held = _held[file] = _locked(file, f"the bench {path}", is_real)
            except OSError as error:
                raise InputError(
                    f"the bench {path} cannot be locked against other processes: {error}; make the "
                    "folder writable, or use the bench from another one"
                ) from None
        held.count += 1
        return held.left if held.count == 1 else []


def _locked(file: Path, what: str, is_real: bool) -> _Held:
    """Lock a bench: beside its file, and for a real one also in the shared place."""
    wanted = [beside(file, "lock")]
    if is_real:
        wanted.append(shared_place(str(file), file.name, "lock"))
    left = []
    with ExitStack() as locks:
        for lock_file in dict.fromkeys(wanted):
            lock = HeldLock(lock_file, what).acquire()
            locks.callback(lock.release)
            if lock.left is not None:
                left.append(lock.left)
        return _Held(locks.pop_all(), left)


def let_go(path: str | Path) -> None:
    """Release one call of `hold`."""
    file = Path(path).resolve()
    with _holding:
        held = _held.get(file)
        if held is None:  # in a forked process
            return
        held.count -= 1
        if held.count == 0:
            del _held[file]
            held.locks.close()


@contextmanager
def holding(path: str | Path, is_real: bool = False) -> Iterator[None]:
    """Lock a bench inside a `with`."""
    hold(path, is_real)
    try:
        yield
    finally:
        let_go(path)


# --- latched off until a person re-arms the bench on site ----------------------------------------


@dataclass(frozen=True)
class Latch:
    """The reason for which a bench is latched off, the time, and the process that latched it."""

    reason: str
    when: str
    by: str

    def __str__(self) -> str:
        return f"latched off since {moment_of(self.when)}: {self.reason}"


def latch(path: str | Path, reason: str, source: str = "") -> None:
    """Latch a bench off until `rearm`; the first reason stays.

    Parameters
    ----------
    reason : a clause without a full stop, such as "the interlock has tripped"
    source : `Bench.latches` of a real bench, which is then latched for every user of this computer
        and for every bench file
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
    for latch_file in dict.fromkeys(wanted):
        try:
            replace_file(latch_file, json.dumps(content, indent=1).encode())
            latch_file.chmod(0o644)
        except OSError as error:
            complaints.append(str(error))
    if len(complaints) >= len(wanted):
        LOG.error("%s: cannot write that it is latched off (%s): %s", path, reason, complaints[0])
    else:
        LOG.warning("%s is latched off: %s", path, reason)


def _shared_latches(file: Path, source: str) -> list[Path]:
    """Return the shared latch files of all users: one by bench file, and one by source."""
    named = {str(file.resolve()): file.name}
    if is_lasting(source):
        named[f"source {canonical(source)}"] = "source"
    with suppress(OSError):  # this computer has no shared folder
        return [shared_place(key, name, "latch") for key, name in named.items()]
    return []


def latch_places(path: str | Path, source: str) -> list[Path]:
    """Return every file that may hold a latch of a bench; `source` as for `latch`."""
    file = Path(path)
    shared = _shared_latches(file, source) if source else []
    return list(dict.fromkeys([*places(file, "latch"), *shared]))


def latched(path: str | Path, source: str = "") -> Latch | None:
    """Return the latch of a bench; None if it is not latched off.

    Parameters
    ----------
    source : see `latch`
    """
    for latch_file in latch_places(path, source):
        if not _is_there(latch_file):
            continue
        found = read_note(latch_file)
        if (
            found is None or not {"reason", "when", "by"} <= found.keys()
        ):  # it is a latch all the same
            return Latch(f"{latch_file} cannot be read, so the reason is unknown", "", "")
        return Latch(found["reason"], found["when"], found["by"])
    return None


def rearm(path: str | Path, source: str = "") -> None:
    """Release the latch of a bench; for a person on site who has checked the beam path.

    Raises
    ------
    InputError : when another user latched it, who must re-arm it
    """
    for latch_file in filter(_is_there, latch_places(path, source)):
        try:
            latch_file.unlink(missing_ok=True)
        except OSError as error:
            found = latched(path, source)
            raise InputError(
                f"{path} stays latched off: {latch_file} cannot be removed ({error.strerror}); let "
                f"the user who latched it{f', {found.by},' if found and found.by else ''} or an "
                "administrator re-arm it"
            ) from None


def _is_there(latch_file: Path) -> bool:
    try:
        return latch_file.exists()
    except OSError:  # this user cannot read the folder, so has no latch there
        return False


def refuse_latched(path: str | Path, source: str = "") -> None:
    """Refuse light while a bench is latched off.

    Parameters
    ----------
    source : see `latch`

    Raises
    ------
    InterlockOpen : naming reason and time
    """
    found = latched(path, source)
    if found is not None:
        raise InterlockOpen(
            f"{path} is {found}; on site, make sure that the beam path is safe, then: "
            f"lightloom check --bench {path} --rearm"
        )


def latch_after_restart(path: str | Path, left: Sequence[Holder], source: str = "") -> None:
    """Latch a bench whose last process was running when the computer was restarted."""
    for holder in left:
        if holder.is_of_another_boot:
            latch(path, f"the computer was restarted while {holder} held it", source)


# --- the heartbeat -------------------------------------------------------------------------------


def start_heart(file: BenchFile, path: str, instruments: Mapping[str, Instrument]) -> Heart | None:
    """Return the running heartbeat of a bench with connected instruments; None without one.

    Raises
    ------
    InputError : for a line that the DAQ does not have
    """
    table = file.safety.heartbeat
    if table is None:
        return None
    daq = cast(Daq, instruments[table.instrument])
    if table.line >= daq.line_count:
        raise InputError(
            f"{path}: safety.heartbeat.line = {table.line}, and {daq.name} has "
            f"{daq.line_count} lines, counted from 0"
        )
    return Heart(daq, table)


class Heart:
    """Drives the heartbeat line while the run makes progress.

    Parameters
    ----------
    daq : connected
    table : line, period, and time without `beat` after which the line stops
    """

    def __init__(self, daq: Daq, table: HeartbeatTable) -> None:
        self._daq, self._table = daq, table
        self._stop_event = Event()
        self._progress_s = time.monotonic()
        self._is_high = self._has_failed = False
        self._thread = Thread(target=self._run, name="lightloom-heartbeat", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Report progress."""
        self._progress_s = time.monotonic()

    def stop(self) -> None:
        """Stop the heartbeat, so that the relay falls; bounded, even if the DAQ is busy."""
        self._stop_event.set()
        self._thread.join(2 * self._table.period_s)

    def _run(self) -> None:
        while not self._stop_event.wait(self._table.period_s / 2):
            if time.monotonic() - self._progress_s < self._table.stops_after_s:
                self._set(not self._is_high)
            elif self._is_high:
                self._set(False)
                LOG.warning("no progress for %g s: the heartbeat stops", self._table.stops_after_s)
        self._set(False)

    def _set(self, high: bool) -> None:
        try:
            self._daq.set_line(self._table.line, high)
        except InstrumentError as error:  # the relay falls, as intended
            if not self._has_failed:
                LOG.warning("the heartbeat line cannot be set: %s", error)
            self._has_failed = True
        else:
            self._is_high, self._has_failed = high, False
