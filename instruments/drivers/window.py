"""The process that owns the window of a display: opens it, processes its events, shows frames.

It is a separate process, because a window whose events are not processed freezes at the first
click, and because window libraries need the main thread. Not here: the driver that uses it
(`display`).
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import Disconnected, InputError, InstrumentError, LightloomError, import_extra

_HINTS = {
    b"SDL_NO_SIGNAL_HANDLERS": b"1",
    b"SDL_RENDER_SCALE_QUALITY": b"nearest",
    b"SDL_VIDEO_MINIMIZE_ON_FOCUS_LOSS": b"0",  # a click elsewhere must not remove the frame
    b"SDL_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR": b"1",
    b"SDL_WINDOWS_DPI_AWARENESS": b"permonitorv2",  # no scaling of pixels
}
_INVISIBLE_DRIVERS = (b"dummy", b"offscreen")  # fallbacks of SDL without a display


@dataclass(frozen=True)
class Monitor:
    """A monitor as the system reports it; `refresh_hz` is 0 where unknown."""

    index: int
    name: str
    shape: tuple[int, int]
    refresh_hz: float

    def __str__(self) -> str:
        return f"{self.index} ({self.name}, {self.shape[0]} x {self.shape[1]})"


@dataclass(frozen=True)
class OpenedWindow:
    """The properties of an open window; `is_vsynced` if flips wait for the monitor."""

    monitor: Monitor
    renderer: str
    is_vsynced: bool


@dataclass(frozen=True)
class WindowRequest:
    """The requested window; `monitor` None only lists the monitors."""

    name: str
    monitor: int | None = None
    x_display: str = ""


def serve(link: Connection, request: WindowRequest) -> None:
    """Open a window, then serve requests until the link is closed; errors are sent, not raised."""
    with contextlib.suppress(OSError, AttributeError):  # signals to the driver's process group must
        os.setsid()  # not end this process: the driver first shows a dark frame, then closes it
    for name in ("SIGINT", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if request.x_display:
        os.environ["DISPLAY"] = request.x_display
    try:
        sdl = _library(request.name)
        if request.monitor is None:
            link.send((0, _monitors(sdl)))
            return
        window = _Window(sdl, request.name, request.monitor)
    except LightloomError as error:
        with contextlib.suppress(OSError):  # the driver no longer waits
            link.send((0, error))
        return
    with contextlib.suppress(EOFError, OSError):  # the driver's process has ended
        link.send((0, window.opened))
        _serve_requests(link, window)


def _serve_requests(link: Connection, window: _Window) -> None:
    memory = SharedMemory(link.recv())
    frame: Any = np.ndarray(window.opened.monitor.shape, np.uint8, memory.buf)
    try:
        while True:
            window.fetch_events()
            if not link.poll(0.01):
                continue
            number, what = link.recv()
            try:
                if what == "show":
                    window.show(frame)
                link.send((number, time.perf_counter()))
            except LightloomError as error:
                link.send((number, error))
    finally:
        del frame  # shared memory with a view cannot be closed
        memory.close()


def _library(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pysdl2 warns about its use of pysdl2-dll
        sdl = import_extra("sdl2", "display", f"{name}, a modulator on a display,")
    if sys.platform == "linux" and "XDG_RUNTIME_DIR" not in os.environ:  # Wayland needs it
        os.environ.setdefault("SDL_VIDEODRIVER", "x11,kmsdrm")
    for hint, value in _HINTS.items():
        sdl.SDL_SetHint(hint, value)
    failed = sdl.SDL_Init(sdl.SDL_INIT_VIDEO)
    if failed or sdl.SDL_GetCurrentVideoDriver() in _INVISIBLE_DRIVERS:
        reason = _sdl_error(sdl) if failed else "the system offers only an invisible window"
        raise InstrumentError(
            f"{name}: no display can be opened ({reason}); log in to the desktop that the "
            "modulator is connected to, or name it with x_display"
        )
    return sdl


def _monitors(sdl: ModuleType) -> list[Monitor]:
    found = []
    for index in range(sdl.SDL_GetNumVideoDisplays()):
        mode = sdl.SDL_DisplayMode()
        sdl.SDL_GetCurrentDisplayMode(index, ctypes.byref(mode))
        name = (sdl.SDL_GetDisplayName(index) or b"").decode(errors="replace")
        found.append(Monitor(index, name, (mode.h, mode.w), float(mode.refresh_rate)))
    return found


def _sdl_error(sdl: ModuleType) -> str:
    return (sdl.SDL_GetError() or b"").decode(errors="replace") or "no reason given"


class _Window:
    """A borderless window that covers a whole monitor."""

    def __init__(self, sdl: ModuleType, name: str, index: int) -> None:
        self.sdl, self.name = sdl, name
        monitors = _monitors(sdl)
        if index >= len(monitors):
            raise InputError(
                f"{name}: there is no monitor {index}; this machine has {len(monitors)}, counted "
                f"from 0: {', '.join(map(str, monitors))}"
            )
        _, _, width, height = self.bounds = self._bounds(index)
        flags = sdl.SDL_WINDOW_BORDERLESS | sdl.SDL_WINDOW_ALWAYS_ON_TOP
        flags |= sdl.SDL_WINDOW_FULLSCREEN_DESKTOP | sdl.SDL_WINDOW_ALLOW_HIGHDPI
        title, place = f"lightloom: {name}".encode(), sdl.SDL_WINDOWPOS_CENTERED_MASK | index
        self.window = sdl.SDL_CreateWindow(title, place, place, width, height, flags)
        self.renderer = sdl.SDL_CreateRenderer(self.window, -1, sdl.SDL_RENDERER_PRESENTVSYNC)
        if not self.renderer:
            raise InstrumentError(f"{name}: no window on monitor {index} ({_sdl_error(sdl)})")
        where = sdl.SDL_GetWindowDisplayIndex(self.window)
        if where != index:  # for example separate X screens, which all start at (0, 0)
            raise InstrumentError(
                f"{name}: the window for monitor {index} appeared on monitor {where}; join "
                "both into one desktop, side by side"
            )
        sdl.SDL_ShowCursor(sdl.SDL_DISABLE)
        self.opened = self._described(monitors[index])
        height, width = self.opened.monitor.shape
        kind = (sdl.SDL_PIXELFORMAT_RGB888, sdl.SDL_TEXTUREACCESS_STREAMING)
        self.texture = sdl.SDL_CreateTexture(self.renderer, *kind, width, height)
        self._require(bool(self.texture))
        self.index = index
        is_x11 = sdl.SDL_GetCurrentVideoDriver() == b"x11"
        self.lit = _lit_monitors() if is_x11 else None
        if self.lit and self.bounds not in self.lit():
            self.lit = None  # the X server and SDL disagree about monitors

    def show(self, frame: np.ndarray) -> None:
        """Show a frame, grey level v as (v, v, v), and return after the flip."""
        self._check_monitor()
        pixels, pitch = ctypes.c_void_p(), ctypes.c_int()
        places = (ctypes.byref(pixels), ctypes.byref(pitch))
        self._require(not self.sdl.SDL_LockTexture(self.texture, None, *places))
        height, width = frame.shape
        pixel_words = ctypes.cast(pixels, ctypes.POINTER(ctypes.c_uint32))
        picture = np.ctypeslib.as_array(pixel_words, shape=(height, pitch.value // 4))[:, :width]
        np.multiply(frame, np.uint32(0x010101), out=picture, dtype=np.uint32)
        self.sdl.SDL_UnlockTexture(self.texture)
        self._flip()

    def fetch_events(self) -> None:
        """Process pending window events; clicks, keys and close requests have no effect."""
        event = self.sdl.SDL_Event()
        while self.sdl.SDL_PollEvent(ctypes.byref(event)):
            if event.type != self.sdl.SDL_WINDOWEVENT:
                continue
            if event.window.event == self.sdl.SDL_WINDOWEVENT_EXPOSED:
                self._flip()
            elif event.window.event == self.sdl.SDL_WINDOWEVENT_MINIMIZED:
                self.sdl.SDL_RestoreWindow(self.window)

    def _flip(self) -> None:
        self._require(not self.sdl.SDL_RenderCopy(self.renderer, self.texture, None, None))
        self.sdl.SDL_RenderPresent(self.renderer)

    def _bounds(self, index: int) -> tuple[int, int, int, int]:
        """Return left, top, width and height of a monitor; all 0 for a removed one."""
        rect = self.sdl.SDL_Rect()
        self.sdl.SDL_GetDisplayBounds(index, ctypes.byref(rect))
        return rect.x, rect.y, rect.w, rect.h

    def _check_monitor(self) -> None:
        is_dark = self.lit is not None and self.bounds not in self.lit()
        if is_dark or self._bounds(self.index) != self.bounds:
            raise Disconnected(
                f"{self.name}: monitor {self.opened.monitor} was lost, or has changed its size or "
                "position; check its cable, then connect again"
            )

    def _described(self, monitor: Monitor) -> OpenedWindow:
        """Return the window with its size in pixels, which the renderer knows despite scaling."""
        width, height = ctypes.c_int(), ctypes.c_int()
        self.sdl.SDL_GetRendererOutputSize(self.renderer, ctypes.byref(width), ctypes.byref(height))
        info = self.sdl.SDL_RendererInfo()
        self.sdl.SDL_GetRendererInfo(self.renderer, ctypes.byref(info))
        shape = (height.value, width.value)
        return OpenedWindow(
            Monitor(monitor.index, monitor.name, shape, monitor.refresh_hz),
            info.name.decode(errors="replace"),
            bool(info.flags & self.sdl.SDL_RENDERER_PRESENTVSYNC),
        )

    def _require(self, succeeded: bool) -> None:
        if not succeeded:
            raise Disconnected(
                f"{self.name}: the window on monitor {self.opened.monitor} cannot be drawn to "
                f"({_sdl_error(self.sdl)}); connect again"
            )


# --- monitors of an X server ---------------------------------------------------------------------
# The window library detects a pulled cable, but not a monitor that is switched off in the settings:
# its window stays open and invisible. The extension RandR 1.5 reports it.

Place = tuple[int, int, int, int]  # left, top, width, height in pixels of the desktop


class _XrrMonitorInfo(ctypes.Structure):
    """`XRRMonitorInfo` of Xrandr.h."""

    _fields_ = [
        ("name", ctypes.c_ulong),
        *((field, ctypes.c_int) for field in ("primary", "automatic", "outputs_count")),
        *((field, ctypes.c_int) for field in ("left", "top", "width", "height")),
        *((field, ctypes.c_int) for field in ("width_mm", "height_mm")),
        ("outputs", ctypes.c_void_p),
    ]


def _lit_monitors() -> Callable[[], set[Place]] | None:
    """Return a function that returns the active monitors; None where X11 or RandR is missing."""
    paths = [ctypes.util.find_library(name) for name in ("X11", "Xrandr")]
    if None in paths:
        return None
    x11, xrandr = (ctypes.CDLL(path) for path in paths)
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XDefaultRootWindow.argtypes = [ctypes.c_void_p]
    x11.XDefaultRootWindow.restype = ctypes.c_ulong
    pointer, window_id = ctypes.c_void_p, ctypes.c_ulong
    xrandr.XRRGetMonitors.argtypes = [pointer, window_id, ctypes.c_int, pointer]
    xrandr.XRRGetMonitors.restype = ctypes.POINTER(_XrrMonitorInfo)
    xrandr.XRRFreeMonitors.argtypes = [ctypes.POINTER(_XrrMonitorInfo)]
    display = x11.XOpenDisplay(None)
    if not display:
        return None
    root = x11.XDefaultRootWindow(display)

    def ask() -> set[Place]:
        count = ctypes.c_int()
        found = xrandr.XRRGetMonitors(display, root, True, ctypes.byref(count))
        if not found:
            return set()
        places = {(m.left, m.top, m.width, m.height) for m in found[: count.value]}
        xrandr.XRRFreeMonitors(found)
        return places

    return ask
