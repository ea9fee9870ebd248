"""Light off when the program is told to stop, whatever its threads are doing.

A thread of its own hears the signals, for the main thread may be deep in arithmetic and a worker
may wait for a camera. The first signal ends the main thread's work (`KeyboardInterrupt`), and
light goes off within a second even where that takes longer. The second ends the process. Not here:
a process that is killed (`watchdog`), and a computer that dies (docs/how-to/safety.md).
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread, Timer, current_thread, main_thread
from typing import Any, Protocol

from ..errors import LightloomError
from ..text import printable

STATUS = 130  # of a process that a signal has ended
GRACE_S = 0.5  # for the shot that is being taken, beside its exposure
_ONE_PRESS_S = 0.1  # signals that come so close together are one: `timeout` sends two
_WAKE_S = 0.15  # by which a main thread that is not busy has been interrupted
_AGAIN_S = 0.02  # by then what dropped an interrupt is over
_OFF_S, _DARK_S = 0.7, 0.5  # that switching off, and then darkness, may take

SIGNALS = [  # that end a program, where the system has them
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]


class Lit(Protocol):
    """Something that has light, such as an open bench.

    Parameters
    ----------
    path : what it is called
    """

    path: str

    @property
    def exposing_s(self) -> float:
        """How long the present exposure may take."""

    def light_off(self) -> None:
        """Switch the light off without waiting for threads; raise where it may still be on."""

    def darken(self) -> None:
        """Make modulators dark."""


_lit: dict[int, Lit] = {}
_left_lit: list[str] = []
_lock = Lock()


def add(lit: Lit) -> None:
    """Remember something until `remove`."""
    with _lock:
        _lit[id(lit)] = lit


def remove(lit: Lit) -> None:
    """Forget it; harmless when it is not known."""
    with _lock:
        _lit.pop(id(lit), None)


def note_left_lit(sentence: str) -> None:
    """Remember that a source may still emit though its bench was closed."""
    _left_lit.append(sentence)


def left_lit() -> list[str]:
    """Return what was noted of sources that may still emit: what a program must not end well on."""
    return list(_left_lit)


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's light
    os.register_at_fork(after_in_child=_lit.clear)


def make_all_safe() -> list[str]:
    """Switch off every light of this process, then make modulators dark; takes bounded time.

    No lock is waited for longer than that, whoever holds it.

    Returns
    -------
    sentences about what did not say that it is off
    """
    with _lock:
        everything = list(_lit.values())
    left = _all([(one.path, one.light_off) for one in everything], _OFF_S)
    _all([(one.path, one.darken) for one in everything], _DARK_S)
    return [f"{path} did not say that its light is off ({why})" for path, why in left]


def _all(calls: list[tuple[str, Any]], within_s: float) -> list[tuple[str, str]]:
    """Call all at once, each in a thread that may be left behind; give those that failed."""
    failed: dict[int, str] = dict.fromkeys(range(len(calls)), f"no answer in {within_s:g} s")

    def call(number: int) -> None:
        try:
            calls[number][1]()
        except Exception as error:
            failed[number] = str(error)
        else:
            del failed[number]

    threads = [Thread(target=call, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    ends_s = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(ends_s - time.monotonic(), 0.0))
    return [(calls[number][0], why) for number, why in list(failed.items())]


@contextmanager
def in_time(lit: Lit) -> Iterator[None]:
    """Switch a light off before long even where what stands inside has not ended by then.

    The shot that is being taken gets its exposure, and half a second.
    """
    is_over = Event()

    def end() -> None:
        if not is_over.wait(GRACE_S + lit.exposing_s):
            with suppress(LightloomError):  # whoever closes it hears the same
                lit.light_off()

    try:
        Thread(target=end, daemon=True).start()
    except RuntimeError:  # the interpreter ends
        end()
    try:
        yield
    finally:
        is_over.set()


# --- signals -------------------------------------------------------------------------------------


class _Asked:
    """How often the program was told to stop.

    Parameters
    ----------
    is_meant : the next Ctrl-C ends a part of the work, and no light
    echo_s : signals up to this time are our own
    """

    def __init__(self) -> None:
        self.count, self.first_s, self.echo_s = 0, 0.0, 0.0
        self.is_meant = self.was_raised = False
        self.was_heard, self.is_over = Event(), Event()


_asked = _Asked()
_ears: list[socket.socket] = []
_is_left_alone = False


def is_stopping() -> bool:
    """Whether the program was told to stop, so that no light is to be switched on any more."""
    return _asked.count > 0 and not _asked.is_meant


def was_interrupted() -> bool:
    """Whether a signal has ended the main thread's work."""
    return _asked.was_raised


def leave_alone() -> None:
    """Interrupt the main thread no more: its work is over, and a second signal ends the process."""
    global _is_left_alone
    _is_left_alone = True


def ignore() -> None:
    """Hear no signal any more: the process is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def listen() -> None:
    """Let signals stop this program, where they are not ignored, as under nohup.

    Only the main thread can ask for it.
    """
    if _ears:
        return
    hears, told = socket.socketpair()
    told.setblocking(False)
    _ears.extend((hears, told))
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):  # what a forked process hears is its own
        os.register_at_fork(after_in_child=_be_deaf)
    Thread(target=_hear, args=(hears,), name="lightloom-signals", daemon=True).start()
    sys.unraisablehook = _raise_again
    atexit.register(_end_listening)  # the first to be registered ends last, when benches are closed
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Let no process that is started inside hear Ctrl-C at the terminal, not even while it starts.

    It would print its traceback. Not on Windows, where a process has to see to that itself.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # takes a while to load

    # this helper is started before the first process, and in the end its starter hears signals
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_listening() -> None:
    signal.set_wakeup_fd(-1)
    for end in reversed(_ears):
        end.close()


def _be_deaf() -> None:
    signal.set_wakeup_fd(-1)
    _ears.clear()


@contextmanager
def one_is_meant() -> Iterator[None]:
    """Let Ctrl-C end what stands inside and nothing else: the light stays, and the work goes on.

    Other signals end the program.
    """
    global _asked
    _asked.is_meant = True
    try:
        yield
    except KeyboardInterrupt as stopped:
        if stopped.args not in ((), (signal.SIGINT,)):
            _asked.is_meant = False
            raise
        if _ears:  # else the thread that hears would take it for the next one
            _asked.was_heard.wait(1)
        _asked.is_over.set()
        _asked = _Asked()
    else:
        _asked.is_meant = False


def _interrupt(number: int, frame: Any) -> None:
    """End the main thread's work at the first signal; nothing disturbs it in ending."""
    if not _asked.was_raised and not _is_left_alone:
        _asked.was_raised = True
        raise KeyboardInterrupt(number)


def _raise_again(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt the main thread once more where Python had to drop it, as in a destructor."""
    if lost.exc_type is not KeyboardInterrupt or current_thread() is not main_thread():
        sys.__unraisablehook__(lost)
        return
    with suppress(RuntimeError):  # the interpreter ends
        timer = Timer(_AGAIN_S, _interrupt_again)
        timer.daemon = True
        timer.start()


def _interrupt_again() -> None:
    _asked.was_raised = False
    _send_to_main_thread(signal.SIGINT)


def _wake(asked: _Asked, number: int) -> None:
    """Send a signal again that came just before the main thread began to wait for something.

    It would hear it when its wait is over.
    """
    time.sleep(_WAKE_S)
    if not asked.was_raised and not _is_left_alone:
        _send_to_main_thread(number)


def _send_to_main_thread(number: int) -> None:
    _asked.echo_s = time.monotonic() + _ONE_PRESS_S
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _hear(ear: socket.socket) -> None:
    while True:
        try:
            heard = ear.recv(1)
        except OSError:  # the program has ended
            return
        if not heard:
            return
        number = heard[0]
        if number not in SIGNALS:
            continue
        now_s = time.monotonic()
        asked = _asked
        if now_s < asked.echo_s:
            continue
        if asked.count == 0:
            asked.count, asked.first_s = 1, now_s
            Thread(target=_wake, args=(asked, number), daemon=True).start()
            is_meant = asked.is_meant and number == signal.SIGINT
            if not is_meant:
                asked.is_meant = False
                Thread(target=_see_to_it, args=(asked, number), daemon=True).start()
            asked.was_heard.set()
        elif now_s - asked.first_s > _ONE_PRESS_S:
            _end()


def _see_to_it(asked: _Asked, number: int) -> None:
    """Return the shot that is being taken its time; then light goes off, whoever has not ended.

    A person who has pressed Ctrl-C can press it again, so an exposure may end; nobody will help
    when a program is ended by another, or its terminal has gone.
    """
    grace_s = GRACE_S
    if number == signal.SIGINT:
        with _lock:
            grace_s += max((one.exposing_s for one in _lit.values()), default=0.0)
    if not asked.is_over.wait(grace_s) and _lit:
        for sentence in make_all_safe():
            _say(sentence)


def _end() -> None:
    """End the process, light off first."""
    left = make_all_safe()
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # a progress bar had hidden the cursor
    _say("; ".join(["stopped by the operator, at once", *left]))
    os._exit(STATUS)


def _say(sentence: str) -> None:
    """Write past all buffers and their locks, which a stuck thread may hold."""
    with suppress(OSError):  # nobody listens
        os.write(2, f"\nlightloom: {printable(sentence)}\n".encode())
