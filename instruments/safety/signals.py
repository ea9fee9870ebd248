"""Switching light off when the program is told to stop, in any state of its threads.

A separate thread receives the signals, because the main thread may be computing and a worker may
wait for a camera. The first signal interrupts the main thread (`KeyboardInterrupt`), and light goes
off within a second even if the interrupted work takes longer to end. The second signal ends the
process. Not here: a killed process (`watchdog`), a computer that crashes (docs/how-to/safety.md).
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread, Timer, current_thread, main_thread
from typing import Any, Protocol

from ..errors import LightloomError
from ..text import printable

STATUS = 130  # exit status of a process that a signal ended
GRACE_S = 0.5  # time for the present shot, in addition to its exposure
_SAME_SIGNAL_S = 0.1  # closer signals count as one: `timeout` sends two
_RESEND_S = 0.15  # time within which an idle main thread is interrupted
_RETRY_S = 0.02  # delay after which code that dropped an interrupt has ended
_OFF_S, _DARKEN_S = 0.7, 0.5  # time-outs of switching off and of darkening
_CLOSE_EVENTS = (2, 5, 6)  # of a Windows console: its window closes, log-off, shutdown

SIGNALS = [  # signals that end a program, where the system has them
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]


class LightControl(Protocol):
    """An object that controls light, such as an open bench.

    Parameters
    ----------
    path : its name in messages
    """

    path: str

    @property
    def exposing_s(self) -> float:
        """The longest possible duration of the present exposure."""

    def light_off(self) -> None:
        """Switch the light off without waiting for threads; raise if it may still be on."""

    def darken(self) -> None:
        """Show the darkest level on all modulators."""


_lights: dict[int, LightControl] = {}
_left_lit: list[str] = []
_lock = Lock()


def add(control: LightControl) -> None:
    """Register an object that controls light, until `remove`."""
    with _lock:
        _lights[id(control)] = control


def remove(control: LightControl) -> None:
    """Unregister an object; harmless if it is not registered."""
    with _lock:
        _lights.pop(id(control), None)


def note_light_left_on(sentence: str) -> None:
    """Record a sentence about a source that may still emit although its bench was closed."""
    _left_lit.append(sentence)


def lights_left_on() -> list[str]:
    """Return the sentences about sources that may still emit; with any, the program must fail."""
    return list(_left_lit)


if hasattr(os, "register_at_fork"):  # a forked process does not control its parent's light
    os.register_at_fork(after_in_child=_lights.clear)


def make_all_safe() -> list[str]:
    """Switch off every light of this process, then darken the modulators, in bounded time.

    No lock can delay it further.

    Returns
    -------
    sentences about lights that did not confirm that they are off
    """
    with _lock:
        everything = list(_lights.values())
    failed = _call_all([(one.path, one.light_off) for one in everything], _OFF_S)
    _call_all([(one.path, one.darken) for one in everything], _DARKEN_S)
    return [f"{path} did not say that its light is off ({why})" for path, why in failed]


def _call_all(calls: list[tuple[str, Any]], within_s: float) -> list[tuple[str, str]]:
    """Call all functions in parallel threads, which may be abandoned; return those that failed."""
    failed: dict[int, str] = dict.fromkeys(range(len(calls)), f"no answer in {within_s:g} s")

    def call(number: int) -> None:
        try:
            calls[number][1]()
        except Exception as error:
            failed[number] = str(error)
        else:
            del failed[number]

    deadline_s = time.monotonic() + within_s
    threads = [_start(call, number) for number in range(len(calls))]
    for thread in threads:
        if thread is not None:
            thread.join(max(deadline_s - time.monotonic(), 0.0))
    return [(calls[number][0], why) for number, why in list(failed.items())]


def _start(call: Callable[..., None], *arguments: Any) -> Thread | None:
    """Start a thread; without threads, make the call here and return None.

    From Python 3.12 on, no thread starts while the interpreter shuts down.
    """
    thread = Thread(target=call, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        call(*arguments)
        return None
    return thread


@contextmanager
def light_off_in_time(control: LightControl) -> Iterator[None]:
    """Switch a light off after a bounded time even if the body of the `with` has not ended.

    The present shot gets its exposure time plus half a second.
    """
    is_over = Event()

    def end() -> None:
        if not is_over.wait(GRACE_S + control.exposing_s):
            with suppress(LightloomError):  # closing it raises the same error
                control.light_off()

    _start(end)
    try:
        yield
    finally:
        is_over.set()


# --- signals -------------------------------------------------------------------------------------


class _StopRequest:
    """The state of the requests to stop the program.

    Parameters
    ----------
    ends_a_part : whether the next Ctrl-C ends only a part of the work and leaves the light on
    echo_s : signals up to this time were sent by this module
    """

    def __init__(self) -> None:
        self.count, self.first_s, self.echo_s = 0, 0.0, 0.0
        self.ends_a_part = self.was_raised = False
        self.was_heard, self.is_over = Event(), Event()


_request = _StopRequest()
_wakeup_sockets: list[socket.socket] = []
_is_main_work_over = False


def is_stopping() -> bool:
    """Return whether the program was told to stop, so that no light may be switched on."""
    return _request.count > 0 and not _request.ends_a_part


def was_interrupted() -> bool:
    """Return whether a signal has interrupted the main thread."""
    return _request.was_raised


def stop_interrupting() -> None:
    """Stop interrupting the main thread, whose work is over; a second signal ends the process."""
    global _is_main_work_over
    _is_main_work_over = True


def ignore() -> None:
    """Ignore all signals, because the process is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def listen() -> None:
    """Let signals stop this program, except those that are ignored, as under nohup.

    Only the main thread may call it.
    """
    if _wakeup_sockets:
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    _wakeup_sockets.extend((receiver, sender))
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):  # a forked process receives its own signals
        os.register_at_fork(after_in_child=_stop_receiving)
    Thread(target=_receive_signals, args=(receiver,), name="lightloom-signals", daemon=True).start()
    sys.unraisablehook = _retry_lost_interrupt
    atexit.register(_end_listening)  # registered first, so called last, after benches are closed
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if sys.platform == "win32":
        _delay_console_close()


@contextmanager
def block_interrupts_in_children() -> Iterator[None]:
    """Start the processes of a `with` without Ctrl-C of the terminal, even during their start.

    Otherwise they would print tracebacks. On Windows, a process must handle this itself.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # slow to import

    # it must run before the first process starts, because its start unblocks signals afterwards
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_listening() -> None:
    signal.set_wakeup_fd(-1)
    for end in reversed(_wakeup_sockets):
        end.close()


def _stop_receiving() -> None:
    signal.set_wakeup_fd(-1)
    _wakeup_sockets.clear()


@contextmanager
def interrupt_ends_block() -> Iterator[None]:
    """Let Ctrl-C end only the body of the `with`: the light stays on, and the work continues.

    Other signals end the program.
    """
    global _request
    _request.ends_a_part = True
    try:
        yield
    except KeyboardInterrupt as stopped:
        if stopped.args not in ((), (signal.SIGINT,)):
            _request.ends_a_part = False
            raise
        if _wakeup_sockets:  # otherwise the receiving thread would count it as the next one
            _request.was_heard.wait(1)
        _request.is_over.set()
        _request = _StopRequest()
    else:
        _request.ends_a_part = False


def _interrupt(number: int, frame: Any) -> None:
    """Interrupt the main thread at the first signal only, so that it can end undisturbed."""
    if not _request.was_raised and not _is_main_work_over:
        _request.was_raised = True
        raise KeyboardInterrupt(number)


def _delay_console_close() -> None:
    """Let Windows wait until all lights are off before it ends this process.

    After the window of a console was closed, Windows ends its processes as soon as their handlers
    have returned, or after some seconds. SIGBREAK alone would leave no time.
    """
    import ctypes

    windows: Any = ctypes
    handler = windows.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(_make_safe_at_close)
    set_handler = windows.windll.kernel32.SetConsoleCtrlHandler
    set_handler(handler, True)
    # after benches are closed; until then it keeps the handler, of which Windows has an address
    atexit.register(set_handler, handler, False)


def _make_safe_at_close(event: int) -> int:
    """Make all lights safe if the event ends the process; return 0 to let other handlers run."""
    if event in _CLOSE_EVENTS:
        _request.count, _request.ends_a_part = max(_request.count, 1), False
        for sentence in make_all_safe():
            _write_message(sentence)
    return 0


def _retry_lost_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt that Python had to drop, for example in a destructor."""
    if lost.exc_type is not KeyboardInterrupt or current_thread() is not main_thread():
        sys.__unraisablehook__(lost)
        return
    with suppress(RuntimeError):  # the interpreter is shutting down
        timer = Timer(_RETRY_S, _interrupt_again)
        timer.daemon = True
        timer.start()


def _interrupt_again() -> None:
    _request.was_raised = False
    _send_to_main_thread(signal.SIGINT)


def _resend(request: _StopRequest, number: int) -> None:
    """Send a signal again that arrived just before the main thread began to wait.

    Otherwise the main thread would handle it only after that wait.
    """
    time.sleep(_RESEND_S)
    if not request.was_raised and not _is_main_work_over:
        _send_to_main_thread(number)


def _send_to_main_thread(number: int) -> None:
    _request.echo_s = time.monotonic() + _SAME_SIGNAL_S
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _receive_signals(receiver: socket.socket) -> None:
    while True:
        try:
            data = receiver.recv(1)
        except OSError:  # the program has ended
            return
        if not data:
            return
        number = data[0]
        if number not in SIGNALS:
            continue
        now_s = time.monotonic()
        request = _request
        if now_s < request.echo_s:
            continue
        if request.count == 0:
            request.count, request.first_s = 1, now_s
            _start(_resend, request, number)
            ends_a_part = request.ends_a_part and number == signal.SIGINT
            if not ends_a_part:
                request.ends_a_part = False
                _start(_switch_off_in_time, request, number)
            request.was_heard.set()
        elif now_s - request.first_s > _SAME_SIGNAL_S:
            _end_process()


def _switch_off_in_time(request: _StopRequest, number: int) -> None:
    """Wait for the present shot, then switch the light off even if the work has not ended.

    An operator can press Ctrl-C again, so an exposure may end. Other signals, from a program or a
    lost terminal, are not repeated, so the exposure is not awaited.
    """
    grace_s = GRACE_S
    if number == signal.SIGINT:
        with _lock:
            grace_s += max((one.exposing_s for one in _lights.values()), default=0.0)
    if not request.is_over.wait(grace_s) and _lights:
        for sentence in make_all_safe():
            _write_message(sentence)


def _end_process() -> None:
    """Switch the light off and end the process."""
    failed = make_all_safe()
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # a progress bar may have hidden the cursor
    _write_message("; ".join(["stopped by the operator, at once", *failed]))
    os._exit(STATUS)


def _write_message(sentence: str) -> None:
    """Write a message without buffers, whose locks a blocked thread may hold."""
    with suppress(OSError, LookupError):  # standard error is closed, or its encoding is unknown
        encoding = os.device_encoding(2) or "utf-8"  # of the terminal, such as cp437 on Windows
        os.write(2, f"\nlightloom: {printable(sentence)}\n".encode(encoding, "backslashreplace"))
