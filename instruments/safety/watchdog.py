"""The watchdog: a separate process that switches a light source off after its partner has died.

A bench with a real source starts one, `python -m lightloom.instruments.safety.watchdog`, and sends
it the address of the source over standard input. The partner checks every second that the watchdog
replies, because a stopped process would not act. The watchdog waits until its input ends. An end
without a goodbye means that the partner was killed or crashed. The watchdog then connects to the
source and switches it off, retries for some seconds, and logs the outcome. It has its own session
(on Windows its own process group), so that signals to the partner do not end it.

It is not a safety function: it needs a running computer and a connection to the source.
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

from ..errors import InstrumentError, LightloomError, one_line
from ..light_source import LightSource
from ..registry import create
from ..text import printable
from . import signals
from .shared_folder import open_shared

LOG = logging.getLogger("lightloom.instruments")

TRIES_S = 20.0  # duration of the attempts to reach the source
_START_S = 30.0  # time-out of its start, on a slow computer
_MARGIN_S = 5.0  # in addition to the attempts, for the report of their outcome
_PAUSE_S = 0.05  # between attempts: another process may be releasing the line
_PARENT_CHECK_S = 0.2  # interval between checks of its parent process
_GOODBYE, _ACT, _PING, _PONG = "goodbye", "act", "ping", "pong"
_PING_S = 1.0  # interval between pings
_PONG_S = 2.5  # time-out of a reply; one ping is repeated
BY_HAND = "SWITCH IT OFF BY HAND"


# --- code of the partner -------------------------------------------------------------------------

_lines: WeakSet[IO[str]] = WeakSet()  # standard inputs of all watchdogs


def _let_go() -> None:
    for line in list(_lines):
        line.close()


if hasattr(os, "register_at_fork"):  # a forked process would keep them open
    os.register_at_fork(after_in_child=_let_go)


class Watchdog:
    """A watchdog process for a source; reports if the process ends too early.

    Parameters
    ----------
    driver, name, options : of the source, as for `registry.create`
    log : file to which the watchdog appends a line after it has acted
    lost : called in a separate thread when the process ends or stops replying unexpectedly

    Raises
    ------
    InstrumentError : when the process cannot be started
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
        self._input, self._output = self._process.stdin, self._process.stdout
        _lines.add(self._input)
        setup = {"driver": driver, "name": name, "options": dict(options)}
        self._send(json.dumps(setup | {"log": str(log.absolute()), "parent": os.getpid()}))
        self._is_ready, self._start_message = Event(), ""
        self._has_replied, self._has_ended = Event(), Event()
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
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "PYTHONIOENCODING": "utf-8",  # Windows would use a code page for pipes
                },
                **own,
            )
        except OSError as error:
            raise InstrumentError(
                f"{self._name}: the watchdog process cannot be started: {error.strerror}"
            ) from error

    def _send(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, which its thread will report
            self._input.write(line + "\n")
            self._input.flush()

    def _listen(self) -> None:
        """Read the output of the process: first its start message, then replies to pings."""
        self._start_message = self._output.readline().strip()
        self._is_ready.set()
        if self._start_message != "ready":
            return
        Thread(target=self._ping_loop, name="lightloom-watchdog-ping", daemon=True).start()
        for line in self._output:
            if line.strip() == _PONG:
                self._has_replied.set()
            else:
                self._outcome = line.strip()
        status = self._process.wait()
        self._has_ended.set()
        if not self._is_dismissed.is_set():
            self._lost(f"the watchdog process of {self._name} has ended (status {status})")

    def _ping_loop(self) -> None:
        """Ping the process periodically; repeat a ping once before it counts as unanswered."""
        while not (self._is_dismissed.wait(_PING_S) or self._has_ended.is_set()):
            if self._replies() or self._replies():
                continue
            if not (self._is_dismissed.is_set() or self._has_ended.is_set()):
                self._lost(f"the watchdog process of {self._name} does not reply: it was stopped")
            return

    def _replies(self) -> bool:
        self._has_replied.clear()
        self._send(_PING)
        return self._has_replied.wait(_PONG_S)

    def wait_until_ready(self) -> None:
        """Wait until the process is ready to act.

        Raises
        ------
        InstrumentError : when it does not become ready
        """
        if self._is_ready.wait(_START_S) and self._start_message == "ready":
            return
        why = self._start_message or f"it was not ready within {_START_S:g} s"
        self.dismiss()
        raise InstrumentError(f"{self._name}: the watchdog process does not start: {why}")

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def dismiss(self) -> None:
        """End the process without action, since the source is off."""
        self._is_dismissed.set()
        self._send(_GOODBYE)
        self._let_go()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # it was stopped and is not needed any more
            self._process.kill()

    def outcome(self) -> str:
        """Let the process act, and return its result as a sentence for the operator."""
        self.release()
        self._has_ended.wait(TRIES_S + _MARGIN_S)
        return self._outcome or (
            f"{self._name}: the watchdog did not confirm that it is off; {BY_HAND}"
        )

    def release(self) -> None:
        """Let the process act on its own, since it is unknown whether the source is off."""
        self._is_dismissed.set()
        self._send(_ACT)
        self._let_go()

    def _let_go(self) -> None:
        if hasattr(signal, "SIGCONT"):
            with contextlib.suppress(OSError):
                self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(OSError, ValueError):
            self._input.close()
        # a separate thread waits for its end, so that Python does not warn about the child process
        Thread(target=self._wait_for_end, daemon=True).start()

    def _wait_for_end(self) -> None:
        self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._output.close()


# --- code of the watchdog process ----------------------------------------------------------------


def main() -> None:
    """Wait for the end of the partner, then switch its source off."""
    signals.ignore()  # they are for the partner
    setup = json.loads(sys.stdin.readline())
    try:
        source = cast(LightSource, create(setup["driver"], setup["name"], setup["options"]))
        source._load()
    except Exception as error:  # a driver of a laboratory may raise any type
        print(f"{type(error).__name__}: {one_line(error)}", flush=True)
        return
    print("ready", flush=True)
    message = _last_message(setup["parent"])
    if message == _GOODBYE:
        return
    why = "its program ended without a goodbye"
    if message == _ACT:
        why = "it did not confirm to its program that it is off"
    sentence = f"{setup['name']}: {why}{_switched_off(source, time.monotonic())}"
    _note(setup["log"], sentence)
    with contextlib.suppress(OSError):  # the partner may still run and show it
        print(sentence, flush=True)


def _last_message(parent: int) -> str:
    """Wait for the end of standard input or of the parent, and return the last message."""
    messages: list[str] = []
    ended = Event()

    def read() -> None:
        for line in sys.stdin:  # until its end
            if line.strip() == _PING:
                with contextlib.suppress(OSError):
                    print(_PONG, flush=True)
            else:
                messages.append(line)
        ended.set()

    Thread(target=read, daemon=True).start()
    # a process that the parent forked may keep the pipe open after the parent has died
    while not ended.wait(_PARENT_CHECK_S):
        if os.name == "posix" and os.getppid() != parent:
            break
    return messages[-1].strip() if messages else ""


def _switched_off(source: LightSource, began_s: float) -> str:
    """Switch the source off, and return the result as the end of a sentence."""
    tries = 0
    while True:
        tries += 1
        try:
            source.disable_as_another()
            return f"; switched off after {time.monotonic() - began_s:.3f} s"
        except Exception as error:  # a driver of a laboratory may raise any type
            why = str(error) if isinstance(error, LightloomError | OSError) else repr(error)
        if time.monotonic() - began_s > TRIES_S:
            return f", and it could not be switched off in {tries} attempts: {why}; {BY_HAND}"
        time.sleep(_PAUSE_S)


def _note(log: str, sentence: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(OSError), os.fdopen(open_shared(Path(log)), "r+b") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(f"{now} {printable(sentence)}\n".encode())


if __name__ == "__main__":
    main()
