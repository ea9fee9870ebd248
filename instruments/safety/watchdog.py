"""The watchdog: a process of its own that switches a light source off when its partner has died.

Its partner asks it every second whether it is awake: one that was stopped would not act. A bench
with a real source starts one, `python -m lightloom.instruments.safety.watchdog`, and tells it over
its standard input where the source is. It does nothing until that input ends. An end without a
goodbye means that the partner was killed, or crashed: it then connects to the source and switches
it off, again and again for some seconds, and writes into its log what became of it. It is a
session (on Windows a process group) of its own, so that what ends the partner does not end it.

It is no safety function: it needs a computer that runs, and a line to the source.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any, cast
from weakref import WeakSet

from ..errors import InstrumentError, LightloomError
from ..light_source import LightSource
from ..registry import create
from ..text import printable
from .shared_folder import open_shared

LOG = logging.getLogger("lightloom.instruments")

TRIES_S = 20.0  # as long as it tries to reach the source
_START_S = 30.0  # until it has loaded what it needs, on a slow computer
_PAUSE_S = 0.05  # between tries: another process may just be letting the line go
_LOOK_S = 0.2  # between looks at whose child it is
_GOODBYE, _ACT, _PING, _PONG = "goodbye", "act", "ping", "pong"
_PING_S = 1.0  # between questions whether it is awake
_AWAKE_S = 2.5  # that an answer may take; it is asked twice
BY_HAND = "SWITCH IT OFF BY HAND"


# --- in the partner ------------------------------------------------------------------------------

_lines: WeakSet[IO[str]] = WeakSet()  # to all watchdogs


def _let_go() -> None:
    for line in list(_lines):
        line.close()


if hasattr(os, "register_at_fork"):  # a forked process would keep them open
    os.register_at_fork(after_in_child=_let_go)


class Watchdog:
    """Starts a watchdog for a source, and hears when it has ended before its time.

    Parameters
    ----------
    driver, name, options : of the source, as for `registry.create`
    log : file to which the watchdog adds a line when it has acted
    lost : called, in a thread of its own, when it ends or answers no more, unless it was told to

    Raises
    ------
    InstrumentError : when it cannot be started
    """

    def __init__(
        self,
        driver: str,
        name: str,
        options: Mapping[str, Any],
        log: Path,
        lost: Callable[[str], None],
    ) -> None:
        self._name, self._lost = name, lost
        self._is_dismissed = Event()
        self._process = self._started()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._told, self._says = self._process.stdin, self._process.stdout
        _lines.add(self._told)
        told = {"driver": driver, "name": name, "options": dict(options)}
        self._send(json.dumps(told | {"log": str(log.absolute()), "parent": os.getpid()}))
        self._is_ready, self._answer = Event(), ""
        self._is_awake, self._has_ended = Event(), Event()
        self._outcome = ""
        Thread(target=self._listen, name="lightloom-watchdog", daemon=True).start()

    def _started(self) -> subprocess.Popen[str]:
        if not sys.executable:
            raise InstrumentError(
                f"{self._name}: no Python interpreter is known to start the watchdog with"
            )
        own: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
            own = {"creationflags": flags}
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.watchdog"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                **own,
            )
        except OSError as error:
            raise InstrumentError(
                f"{self._name}: the watchdog process cannot be started: {error.strerror}"
            ) from error

    def _send(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended: the thread will tell
            self._told.write(line + "\n")
            self._told.flush()

    def _listen(self) -> None:
        """Hear that it is ready, and then nothing until it ends."""
        self._answer = self._says.readline().strip()
        self._is_ready.set()
        if self._answer != "ready":
            return
        Thread(target=self._ask, name="lightloom-watchdog-ping", daemon=True).start()
        for line in self._says:
            if line.strip() == _PONG:
                self._is_awake.set()
            else:
                self._outcome = line.strip()
        status = self._process.wait()
        self._has_ended.set()
        if not self._is_dismissed.is_set():
            self._lost(f"the watchdog process of {self._name} has ended (status {status})")

    def _ask(self) -> None:
        """Ask again and again whether it is awake; once more where it was not, to be sure."""
        while not (self._is_dismissed.wait(_PING_S) or self._has_ended.is_set()):
            if self._answers() or self._answers():
                continue
            if not (self._is_dismissed.is_set() or self._has_ended.is_set()):
                self._lost(f"the watchdog process of {self._name} does not answer: it was stopped")
            return

    def _answers(self) -> bool:
        self._is_awake.clear()
        self._send(_PING)
        return self._is_awake.wait(_AWAKE_S)

    def wait_until_ready(self, timeout_s: float = _START_S) -> None:
        """Wait until it could act at once.

        Raises
        ------
        InstrumentError : when it cannot
        """
        if self._is_ready.wait(timeout_s) and self._answer == "ready":
            return
        why = self._answer or f"it did not say in {timeout_s:g} s that it is ready"
        self.dismiss()
        raise InstrumentError(f"{self._name}: the watchdog process does not start: {why}")

    @property
    def is_alive(self) -> bool:
        """Whether it would act now."""
        return self._process.poll() is None

    def dismiss(self) -> None:
        """Let it go, since the source is off."""
        self._is_dismissed.set()
        self._send(_GOODBYE)
        self._let_go()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # it was stopped, and has nothing to do any more
            self._process.kill()

    def outcome(self, timeout_s: float = TRIES_S + 5.0) -> str:
        """Let it act, and wait for what became of it; a sentence for the operator.

        Parameters
        ----------
        timeout_s : longer than it tries
        """
        self.release()
        self._has_ended.wait(timeout_s)
        return self._outcome or (
            f"{self._name}: the watchdog did not say that it is off; {BY_HAND}"
        )

    def release(self) -> None:
        """Let it act, since nobody knows whether the source is off; it goes on by itself."""
        self._is_dismissed.set()
        self._send(_ACT)
        self._let_go()

    def _let_go(self) -> None:
        if hasattr(signal, "SIGCONT"):
            with contextlib.suppress(OSError):
                self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(OSError, ValueError):
            self._told.close()
        # it may take its time; nobody waits, and Python forgets its children without a complaint
        Thread(target=self._bury, daemon=True).start()

    def _bury(self) -> None:
        self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._says.close()


# --- in the watchdog -----------------------------------------------------------------------------


def main() -> None:
    """Wait for the end of the partner, and then switch its source off."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # they are meant for the partner
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    told = json.loads(sys.stdin.readline())
    try:
        source = cast(LightSource, create(told["driver"], told["name"], told["options"]))
        source._load()
    except Exception as error:  # whatever a laboratory's own driver raises
        print(" ".join(f"{type(error).__name__}: {error}".split()), flush=True)
        return
    print("ready", flush=True)
    heard = _last_words(told["parent"])
    if heard == _GOODBYE:
        return
    why = "its program ended without a goodbye"
    if heard == _ACT:
        why = "it did not say to its program that it is off"
    sentence = f"{told['name']}: {why}{_switched_off(source, time.monotonic())}"
    _note(told["log"], sentence)
    with contextlib.suppress(OSError):  # the partner may still be there to say it
        print(sentence, flush=True)


def _last_words(parent: int) -> str:
    """Wait for the end of standard input, or of the parent; return what it said at last."""
    heard: list[str] = []
    ended = Event()

    def read() -> None:
        for line in sys.stdin:  # until its end
            if line.strip() == _PING:
                with contextlib.suppress(OSError):
                    print(_PONG, flush=True)
            else:
                heard.append(line)
        ended.set()

    Thread(target=read, daemon=True).start()
    # a process that the parent forked may hold the line open after it has died
    while not ended.wait(_LOOK_S):
        if os.name == "posix" and os.getppid() != parent:
            break
    return heard[-1].strip() if heard else ""


def _switched_off(source: LightSource, began_s: float) -> str:
    """Switch it off, and say what became of it, as the end of a sentence."""
    tries = 0
    while True:
        tries += 1
        try:
            source.disable_as_another()
        except (LightloomError, OSError) as error:
            why = str(error)
        except Exception as error:  # a laboratory's own driver
            why = repr(error)
        else:
            took_s = time.monotonic() - began_s
            return f"; switched off after {took_s:.3f} s"
        if time.monotonic() - began_s > TRIES_S:
            return f", and it could not be switched off in {tries} tries: {why}; {BY_HAND}"
        time.sleep(_PAUSE_S)


def _note(log: str, sentence: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(OSError), os.fdopen(open_shared(Path(log)), "r+b") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(f"{now} {printable(sentence)}\n".encode())


if __name__ == "__main__":
    main()
