"""`DisplaySLM`: a modulator that is connected to a graphics output like a monitor.

Frames go through shared memory to a window in a separate process (`window`). Grey level v is shown
as (v, v, v), pixel by pixel. Only a camera can verify the light: the display path must be
full-range RGB without gamma, scaling, dithering or compositor. After the window is closed, the
modulator shows the desktop: make its background black.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Mapping
from multiprocessing.shared_memory import SharedMemory
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ..addresses import x_display
from ..base import DriverOptions, Identity
from ..clock import Clock
from ..errors import Disconnected, InputError, InstrumentError, InstrumentTimeout
from ..file_keys import Items
from ..safety import signals
from ..slm import SpatialLightModulator
from ..units import Hertz, Seconds
from .window import Monitor, OpenedWindow, WindowRequest, serve

_SPAWN = multiprocessing.get_context("spawn")  # window libraries do not survive a fork
_CLOCK_QUERIES = 20
_LISTING_S = 10.0  # time-out of a list of monitors


class DisplaySLMOptions(DriverOptions):
    """Settings of a modulator on a display."""

    monitor: int = Field(default=1, ge=0)
    """Number of the monitor, from 0; monitor 0 is the operator's."""
    shape: Annotated[tuple[int, int], Items(("height", "width"))] | None = None
    """Required height and width of the monitor, in pixels; without the key any size is accepted."""
    refresh_hz: Hertz | None = None
    """Refresh rate of the monitor; without the key the driver asks the monitor."""
    latency_frames: float = Field(default=3.0, ge=0)
    """Refresh periods from flip to light; 2 to 3 on HDMI."""
    settle_time_s: Seconds = 0.2
    """Slowest change of grey level; measure it (laboratories use 0.2 to 0.5 s)."""
    darkest_level: int = Field(default=0, ge=0, le=255)
    """Grey level of a dark frame."""
    timeout_s: Seconds = 2.0
    """Time-out for the window to show a frame."""
    x_display: str = ""
    """Another X11 display, such as ":1"; only on X11."""


class DisplaySLM(SpatialLightModulator):
    """A modulator on a monitor output, 8 bits."""

    driver = "display-slm"
    Options = DisplaySLMOptions
    _window: _WindowProcess | None = None
    _memory: SharedMemory | None = None
    _opened: OpenedWindow | None = None

    @property
    def address(self) -> str:
        """The monitor."""
        return f"{self.options.x_display}monitor:{self.options.monitor}"

    @property
    def device(self) -> str:
        """The monitor and the canonical name of its X server."""
        return f"display:{x_display(self.options.x_display)} {self.options.monitor}"

    def _connect(self, timeout_s: float) -> Identity:
        options = self.options
        request = WindowRequest(self.name, options.monitor, options.x_display)
        self._window = _WindowProcess(request)
        opened: OpenedWindow = self._window.answer(0, timeout_s)
        self._take_over(opened)
        self._memory = SharedMemory(create=True, size=self.shape[0] * self.shape[1])
        self._window.send(self._memory.name)
        self._offset_s = self._clock_offset(timeout_s)
        self._show(np.full(self.shape, self.darkest_level, np.uint8))
        return Identity(model=opened.monitor.name or f"monitor {options.monitor}")

    def _take_over(self, opened: OpenedWindow) -> None:
        options, shape = self.options, opened.monitor.shape
        if options.shape not in (None, shape):
            raise InputError(
                f"{self.name}: monitor {opened.monitor} does not have the shape {options.shape}; "
                "set its resolution in the system's settings, without scaling, or leave shape out"
            )
        refresh_hz = options.refresh_hz or opened.monitor.refresh_hz
        if not refresh_hz:
            raise InputError(
                f"{self.name}: monitor {opened.monitor} does not report its refresh rate; "
                "give refresh_hz"
            )
        self._opened, self.shape, self.bit_depth = opened, shape, 8
        self.refresh_period_s = 1 / refresh_hz
        self.latency_s = options.latency_frames * self.refresh_period_s
        self.settle_time_s = options.settle_time_s
        self.darkest_level = options.darkest_level

    def _clock_offset(self, timeout_s: float) -> float:
        """Return the offset from the window's clock to ours, by the fastest of several queries."""
        queries = []
        for _ in range(_CLOCK_QUERIES):
            sent_s = self.clock.now_s()
            window_s = self._ask("time", timeout_s)
            received_s = self.clock.now_s()
            queries.append((received_s - sent_s, (sent_s + received_s) / 2 - window_s))
        return min(queries)[1]

    def _show(self, frame: np.ndarray) -> float:
        assert self._memory is not None
        np.ndarray(self.shape, np.uint8, self._memory.buf)[:] = frame
        return self._ask("show", self.options.timeout_s) + self._offset_s

    def _ask(self, what: str, timeout_s: float) -> float:
        assert self._window is not None
        time_s: float = self._window.ask(what, timeout_s)
        return time_s

    def _disconnect(self) -> None:
        window, self._window = self._window, None
        memory, self._memory = self._memory, None
        if window is not None:
            window.end()
        if memory is not None:
            memory.close()
            memory.unlink()

    def _settings(self) -> Mapping[str, Any]:
        opened = self._opened
        about = {"renderer": opened.renderer, "is_vsynced": opened.is_vsynced} if opened else {}
        return {**super()._settings(), **about}


def monitors(x_display: str = "") -> list[Monitor]:
    """Return the monitors that a `DisplaySLM` can use.

    Raises
    ------
    MissingExtraError : without the extra `display`
    InstrumentError : when this session has no display
    """
    window = _WindowProcess(WindowRequest("display-slm", None, x_display))
    try:
        found: list[Monitor] = window.answer(0, _LISTING_S)
        return found
    finally:
        window.end()


class _WindowProcess:
    """The process that owns the window, and the link to it; a reply has the number of its query."""

    def __init__(self, request: WindowRequest) -> None:
        self.name = request.name
        self._link, there = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=serve, args=(there, request), daemon=True)
        self._numbers = itertools.count(1)
        with signals.block_interrupts_in_children():
            self._process.start()
        there.close()

    def send(self, what: Any) -> None:
        try:
            self._link.send(what)
        except OSError as error:
            raise self._lost() from error

    def ask(self, what: str, timeout_s: float) -> Any:
        number = next(self._numbers)
        self.send((number, what))
        return self.answer(number, timeout_s)

    def answer(self, number: int, timeout_s: float) -> Any:
        """Return the reply to one query; replies to queries that timed out are discarded."""
        clock = Clock()
        deadline_s = clock.now_s() + timeout_s
        try:
            while self._link.poll(max(deadline_s - clock.now_s(), 0.0)):
                answered, value = self._link.recv()
                if answered == number:
                    if isinstance(value, Exception):
                        raise value
                    return value
        except (EOFError, ConnectionError) as error:
            raise self._lost() from error
        raise InstrumentTimeout(
            f"{self.name}: the window did not reply within {timeout_s:g} s; close it and connect "
            "again"
        )

    def end(self) -> None:
        """Close the link, which ends the process; a process that hangs is killed."""
        self._link.close()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _lost(self) -> InstrumentError:
        self._process.join(1.0)
        return Disconnected(
            f"{self.name}: the window's process has ended (exit status {self._process.exitcode}): "
            "display lost, or process killed; connect again. A script that opens it must guard its "
            'entry with: if __name__ == "__main__":'
        )
