"""Instruments, and what all rooms share: errors, units, clock, thread limits."""

if __name__ != "lightloom.instruments":
    raise ImportError("import lightloom.instruments, not instruments")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .environment import limit_threads
from .errors import (
    BadFit,
    ChecksumMismatch,
    Disconnected,
    DriftExceeded,
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentError,
    InstrumentTimeout,
    InterlockOpen,
    InUse,
    LightloomError,
    LimitExceeded,
    MissingExtraError,
    NotConnected,
    Paused,
    ProtocolError,
    Saturated,
    StaleFrame,
    UnexpectedIntensity,
)

if TYPE_CHECKING:
    from .base import DriverOptions, Finding, Identity, Instrument
    from .camera import Camera, CameraFrame, RawFrame, Region, Shot, TriggerMode
    from .clock import Clock, VirtualClock
    from .daq import Daq, Samples
    from .light_source import LightSource, PowerMeter
    from .registry import create, driver_class, driver_names
    from .slm import Shown, SpatialLightModulator
    from .timeline import Timeline

_HOMES = {  # loaded at first use, since they import pydantic, which the errors do not need
    name: home
    for home, names in {
        "base": ("DriverOptions", "Finding", "Identity", "Instrument"),
        "camera": ("Camera", "CameraFrame", "RawFrame", "Region", "Shot", "TriggerMode"),
        "clock": ("Clock", "VirtualClock"),
        "daq": ("Daq", "Samples"),
        "light_source": ("LightSource", "PowerMeter"),
        "registry": ("create", "driver_class", "driver_names"),
        "slm": ("Shown", "SpatialLightModulator"),
        "timeline": ("Timeline",),
    }.items()
    for name in names
}

__all__ = [
    "BadFit",
    "Camera",
    "CameraFrame",
    "ChecksumMismatch",
    "Clock",
    "Daq",
    "Disconnected",
    "DriftExceeded",
    "DriverOptions",
    "DroppedFrame",
    "Finding",
    "Identity",
    "InUse",
    "IncompleteFrame",
    "InputError",
    "Instrument",
    "InstrumentError",
    "InstrumentTimeout",
    "InterlockOpen",
    "LightSource",
    "LightloomError",
    "LimitExceeded",
    "MissingExtraError",
    "NotConnected",
    "Paused",
    "PowerMeter",
    "ProtocolError",
    "RawFrame",
    "Region",
    "Samples",
    "Saturated",
    "Shot",
    "Shown",
    "SpatialLightModulator",
    "StaleFrame",
    "Timeline",
    "TriggerMode",
    "UnexpectedIntensity",
    "VirtualClock",
    "create",
    "driver_class",
    "driver_names",
    "limit_threads",
]

_OLD_NAMES = {  # drivers of laboratories may raise them
    "BadReply": "ProtocolError",
    "Drifted": "DriftExceeded",
    "WrongLight": "UnexpectedIntensity",
    "WrongSum": "ChecksumMismatch",
}


def __getattr__(name: str) -> Any:
    if name in _OLD_NAMES:
        from warnings import warn

        from .old_words import OldWordWarning

        new = _OLD_NAMES[name]
        warn(f"lightloom.instruments.{name} is now {new}", OldWordWarning, stacklevel=2)
        return globals()[new]
    if name not in _HOMES:
        raise AttributeError(f"module 'lightloom.instruments' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
