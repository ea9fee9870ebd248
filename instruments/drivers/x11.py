"""The monitors that an X server drives, as the server reports them (extension RandR 1.5).

The window library detects a pulled cable, but not a monitor that is switched off in the settings:
its window stays open and invisible.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable

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


def lit_monitors() -> Callable[[], set[Place]] | None:
    """Return a function that returns the active monitors; None where X11 or RandR is missing."""
    paths = [ctypes.util.find_library(name) for name in ("X11", "Xrandr")]
    if None in paths:
        return None
    x11, xrandr = (ctypes.CDLL(path) for path in paths)
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XDefaultRootWindow.argtypes = [ctypes.c_void_p]
    x11.XDefaultRootWindow.restype = ctypes.c_ulong
    xrandr.XRRGetMonitors.argtypes = [
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
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
