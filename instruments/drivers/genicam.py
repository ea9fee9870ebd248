"""`GenicamCamera`: a driver for cameras with a GenTL producer, through harvesters.

Not here: the handling of lost frames (`Camera` refuses them); vendor-specific features (a bench
file sets them by name).
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ..base import Identity
from ..camera import Camera, CountOptions, RawFrame, Region, Shot, TriggerMode
from ..errors import (
    Disconnected,
    InputError,
    InstrumentTimeout,
    InUse,
    LightloomError,
    LimitExceeded,
    import_extra,
    one_line,
)
from ..trust import is_on_this_computer
from ..units import Seconds

_POLL_S = 0.001  # polling interval of harvesters; 0 would poll without end
_UNPACKED_MONO = re.compile(r"Mono(\d+)")
_NOT_IMPLEMENTED, _WRITE_ONLY = 0, 2  # GenApi's EAccessMode; 1 is not available, 4 read and write
_EXPOSURES = (  # in order of preference: feature, and feature of its unit if not 1 us
    ("ExposureTime", ""),
    ("ExposureTimeAbs", ""),  # before version 2 of the naming convention (SFNC)
    ("ExposureTimeRaw", "ExposureTimeBaseAbs"),
)
_RATES = ("AcquisitionFrameRate", "AcquisitionFrameRateAbs")
_FALLBACKS = {  # features that a camera may lack, and the fallback
    "ExposureTime": "missing; exposure_s is the period of the frames",
    "OffsetX": "missing; every region begins at the left",
    "OffsetY": "missing; every region begins at the top",
    "TriggerSoftware": "missing; each trigger starts the acquisition, each read stops it",
}
_BENCH_FEATURES: dict[str, Any] = {  # set where the camera has them
    "AcquisitionMode": "Continuous",
    "ExposureAuto": "Off",
    "ExposureMode": "Timed",
    "GainAuto": "Off",
    "OffsetX": 0,  # so that Width.max is the sensor width
    "OffsetY": 0,
}


class GenicamOptions(CountOptions):
    """Settings of a GenICam camera."""

    producer: str = ""
    """Path of a GenTL producer (.cti); "" for all producers in GENICAM_GENTL64_PATH.

    "viky" is the producer with three emulated cameras in the package genicam.
    """
    serial: str = ""
    """Serial number of the camera; "" to choose it by `index`."""
    index: int = Field(0, ge=0)
    """Place of the camera in the producers' list, from 0."""
    pixel_format: str = ""
    """Pixel format of GenICam; "" for the unpacked monochrome format with the most bits."""
    buffers: int = Field(8, ge=1)
    """Number of frames that may wait to be read before one is dropped."""
    trigger_line: str = "Line1"
    """Input line that starts an exposure in the trigger mode external."""
    free_running: bool = False
    """Whether the camera keeps its own frame rate in the mode external, one shot per frame."""
    readout_s: Seconds = 0.0
    """Time from the end of an exposure to the arrival of the frame."""
    features: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Other features of GenICam by name, set once after connecting."""


class GenicamCamera(Camera):
    """A camera behind a GenTL producer."""

    driver: ClassVar[str] = "genicam-camera"
    Options = GenicamOptions
    _camera: Any = None  # harvesters' ImageAcquirer
    _producer: str = ""
    _pixel_format: str = ""
    _missing: tuple[str, ...] = ()  # of `_FALLBACKS`
    _triggered_at_s: deque[float]
    _empty_at_s: float = 0.0  # the last time at which no frame was waiting
    _number: int | None = None

    @property
    def is_of_this_process(self) -> bool:
        """Whether the camera is emulated."""
        return bool(self.options.producer == "viky")

    @property
    def address(self) -> str:
        """The producer and camera, as the bench file names them."""
        options = self.options
        which = f"serial {options.serial}" if options.serial else f"camera {options.index}"
        return f"{options.producer or 'any producer'}, {which}"

    # --- open and close --------------------------------------------------------------------------

    def _connect(self, timeout_s: float) -> Identity:
        import_extra("harvesters.core", "genicam", "a GenICam camera")
        self._producer, info = self._find()
        self._camera = open_producers[self._producer].create(info)
        self._camera.num_buffers = self.options.buffers
        self._set_up()
        return Identity(info.vendor, info.model, info.serial_number, info.version)

    def _find(self) -> tuple[str, Any]:
        """Return the producer, kept open, and its entry for the camera."""
        serial, seen = self.options.serial, list[Any]()
        for producer in producers(self.options.producer):
            found = _hold(producer)
            for index, info in enumerate(found, len(seen)):
                if info.serial_number == serial if serial else index == self.options.index:
                    return producer, info
            seen += [(info.model, info.serial_number) for info in found]
            _let_go(producer)
        which = f"serial {serial!r}" if serial else self.options.index
        raise InputError(
            f"{self.name}: no camera {which} behind {self.options.producer or 'any producer'}; "
            f"found {seen or 'none'}"
        )

    def _set_up(self) -> None:
        has_exposure = any(self._has(name) for name, _ in _EXPOSURES)
        self._missing = tuple(
            name
            for name in _FALLBACKS
            if not (self._has(name) or (name == "ExposureTime" and has_exposure))
        )
        self._pixel_format = self.options.pixel_format or self._deepest_format()
        self.bit_depth = self._bits(self._pixel_format)
        for feature, value in _BENCH_FEATURES.items():
            node = self._feature(feature)
            if node is not None and node.value != value:  # some are fixed at the right value
                self._set(feature, value)
        self._set("PixelFormat", self._pixel_format)
        for feature, value in self.options.features.items():
            self._set(feature, value)
        self.sensor_shape = (self._feature("Height").max, self._feature("Width").max)
        exposure, unit_s = self._exposure_feature()
        if exposure is not None:
            self.exposure_limits_s = (exposure.min * unit_s, exposure.max * unit_s)
        self.readout_s = self.options.readout_s
        exposure_s = self._exposure_s or self._exposure()
        self._exposure_s = self._configure(exposure_s, self.region, self._trigger_mode)

    def _disconnect(self) -> None:
        camera, self._camera = self._camera, None
        try:
            if camera is not None:
                camera.destroy()
        finally:
            producer, self._producer = self._producer, ""
            if producer:
                _let_go(producer)

    # --- hooks of the camera ---------------------------------------------------------------------

    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        for offset in ("OffsetX", "OffsetY"):
            if self._feature(offset):
                self._set(offset, 0)  # so that any size fits
        self._set("Width", region.width)
        self._set("Height", region.height)
        for offset, value in (("OffsetX", region.left), ("OffsetY", region.top)):
            if value:
                self._set(offset, value)
        self._set_exposure(exposure_s)
        self._set_trigger(trigger)
        return self._exposure()

    def _set_exposure(self, exposure_s: float) -> None:
        """Write the exposure where the camera has one; `_exposure` reads the actual value."""
        exposure, unit_s = self._exposure_feature()
        if exposure is None:
            return
        number = exposure_s / unit_s
        with self._refusals(f"an exposure of {exposure_s:g} s"):
            exposure.value = round(number) if isinstance(exposure.value, int) else number

    def _set_trigger(self, trigger: TriggerMode) -> None:
        has_trigger = "TriggerSoftware" not in self._missing
        free_running = trigger == "external" and self.options.free_running
        if trigger == "external" and not has_trigger and not free_running:
            raise InputError(
                f"{self.name}: this camera has no trigger; use trigger mode software, or set "
                "free_running = true to use its frames as they arrive"
            )
        if not has_trigger:
            return
        if self._feature("TriggerSelector"):
            for other in self._other_triggers():  # they would wait for their own trigger
                self._set("TriggerSelector", other)
                if self._feature("TriggerMode"):
                    self._set("TriggerMode", "Off")
            self._set("TriggerSelector", "FrameStart")
        self._set("TriggerMode", "Off" if free_running else "On")
        if not free_running:
            source = "Software" if trigger == "software" else self.options.trigger_line
            self._set("TriggerSource", source)

    def _other_triggers(self) -> list[str]:
        """Return the triggers that start something other than a frame."""
        known = getattr(self._feature("TriggerSelector"), "symbolics", ())
        return [name for name in known if name in ("AcquisitionStart", "FrameBurstStart")]

    def _arm(self) -> None:
        self._triggered_at_s = deque()
        self._number = None
        self._empty_at_s = self.clock.now_s()
        if not self._acquires_per_shot:
            self._camera.start()

    def _trigger(self, shot: Shot | None) -> None:
        if self._acquires_per_shot and self._triggered_at_s:
            raise LimitExceeded(
                f"{self.name}: this camera has no trigger, and takes one shot at a time; "
                "read it before the next"
            )
        now_s = self.clock.now_s()
        if self._acquires_per_shot:
            self._camera.start()
        else:
            self._feature("TriggerSoftware").execute()
        self._triggered_at_s.append(now_s)

    def _read(self, timeout_s: float) -> RawFrame | None:
        start_s = self.clock.now_s()
        if self._acquires_per_shot and not self._triggered_at_s:
            self.clock.sleep_until(start_s + timeout_s)
            return None
        buffer = self._camera.try_fetch(timeout=max(timeout_s, _POLL_S))
        end_s = self.clock.now_s()
        if buffer is None and end_s - start_s >= timeout_s - _POLL_S:
            return None
        if end_s - start_s > 2 * _POLL_S:  # no frame was waiting
            self._empty_at_s = end_s - _POLL_S
        taken_at_s = self._taken_at()
        if self._acquires_per_shot:
            number, (data, is_complete) = None, _copy(buffer)
            self._camera.stop()
        else:
            # harvesters discards incomplete frames and only returns None before the time-out
            following = None if self._number is None else self._number + 1
            number = self._number = buffer.frame_id if buffer else following
            data, is_complete = _copy(buffer)
        return RawFrame(data, number, taken_at_s, is_complete)

    def _disarm(self) -> None:
        self._camera.stop()

    def _settings(self) -> Mapping[str, Any]:
        return {
            **super()._settings(),
            "producer": Path(self._producer).name,
            "pixel_format": self._pixel_format,
            "features": {name: _FALLBACKS[name] for name in self._missing},
        }

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _acquires_per_shot(self) -> bool:
        """Whether each shot is one whole acquisition, because the camera has no trigger."""
        return self._trigger_mode == "software" and "TriggerSoftware" in self._missing

    def _taken_at(self) -> float:
        """Return the earliest possible start of the exposure of the next frame."""
        if self._trigger_mode == "software":
            # a frame without a trigger counts as stale
            return self._triggered_at_s.popleft() if self._triggered_at_s else float("-inf")
        earliest_s = self._empty_at_s - self._exposure_s - self.readout_s
        return max(earliest_s, self._armed_at_s or 0.0)

    def _exposure(self) -> float:
        """Return the actual exposure of the camera; without such a feature, its frame period."""
        exposure, unit_s = self._exposure_feature()
        if exposure is not None:
            return float(exposure.value) * unit_s
        rate = next(filter(None, map(self._feature, _RATES)), None)
        return 1.0 / float(rate.value) if rate else 0.0

    def _exposure_feature(self) -> tuple[Any, float]:
        """Return the exposure feature and its unit in seconds; None where there is none."""
        for name, base in _EXPOSURES:
            exposure, unit = self._feature(name), self._feature(base) if base else None
            if exposure is not None and not base:
                return exposure, 1e-6
            if exposure is not None and unit is not None:
                return exposure, 1e-6 * float(unit.value)
        return None, 1e-6

    def _deepest_format(self) -> str:
        formats = [name for name in self._formats() if _UNPACKED_MONO.fullmatch(name)]
        if not formats:
            raise InputError(f"{self.name}: no monochrome format among {self._formats()}")
        return max(formats, key=self._bits)

    def _formats(self) -> list[str]:
        return list(self._feature("PixelFormat").symbolics)

    def _bits(self, pixel_format: str) -> int:
        found = _UNPACKED_MONO.fullmatch(pixel_format)
        if not found:
            raise InputError(
                f"{self.name}: pixel_format {pixel_format!r} is not monochrome and unpacked, as "
                f"Mono8 and Mono12 are; the camera has {', '.join(self._formats())}"
            )
        return int(found.group(1))

    def _node(self, name: str) -> Any:
        return getattr(self._camera.remote_device.node_map, name, None)

    def _has(self, name: str) -> bool:
        """Return whether the camera has a feature, which may be locked at present."""
        node = self._node(name)
        return node is not None and node.get_access_mode() > _NOT_IMPLEMENTED

    def _feature(self, name: str) -> Any:
        """Return a feature of the camera; None where it is missing or not accessible at present."""
        node = self._node(name)
        return node if node is not None and node.get_access_mode() >= _WRITE_ONLY else None

    def _set(self, name: str, value: Any) -> None:
        node = self._feature(name)
        if node is None:
            raise InputError(f"{self.name}: this camera has no feature {name!r} to set to {value}")
        with self._refusals(f"{name} = {value!r}"):
            node.value = value
            actual = value if node.get_access_mode() == _WRITE_ONLY else node.value
        self._check_setting(name, value, actual)

    @contextmanager
    def _refusals(self, value: str) -> Iterator[None]:
        """Name the value in the errors of a `with` that sets it."""
        try:
            yield
        except Exception as error:
            raise self._translated(error, value) from error

    def _translated(self, error: Exception, what: str) -> LightloomError:
        gentl = import_extra("genicam.gentl", "genicam", "a GenICam camera")
        genapi = import_extra("genicam.genapi", "genicam", "a GenICam camera")
        reason = one_line(error)
        if isinstance(error, gentl.ResourceInUseException | gentl.AccessDeniedException):
            return InUse(
                f"{self.name} ({self.address}) is held by another program or instrument; "
                f"close that first ({reason})"
            )
        if isinstance(error, gentl.TimeoutException | genapi.TimeoutException):
            return InstrumentTimeout(f"{self.name}: {what} timed out: {reason}")
        if isinstance(
            error,
            genapi.OutOfRangeException | genapi.InvalidArgumentException | genapi.AccessException,
        ):
            return InputError(f"{self.name} refuses {what}: {reason}")
        if isinstance(error, gentl.GenericException | genapi.GenericException):
            return Disconnected(
                f"{self.name} ({self.address}) failed during {what}: {reason}; "
                "check cable and power, then connect again"
            )
        return super()._translated(error, what)


def _copy(buffer: Any) -> tuple[Any, bool]:
    """Return a copy of a frame, (height, width), and whether it is complete; release its buffer."""
    empty = np.zeros((0, 0), np.uint8)
    if buffer is None:
        return empty, False
    with buffer:
        for component in buffer.payload.components:
            shape = (component.height, component.width)
            if component.data.size == shape[0] * shape[1]:
                return component.data.reshape(shape).copy(), True
    return empty, False


# --- producers: a process can open each only once, so cameras share them ------------------------

open_producers: dict[str, Any] = {}  # path -> its Harvester, while a camera uses it
_holders: dict[str, int] = {}
_lock = Lock()


def producers(wanted: str) -> list[str]:
    """Return the paths of the producers that a bench file selects."""
    if wanted == "viky":
        package = import_extra("genicam", "genicam", "a GenICam camera")
        wanted = str(Path(str(package.__file__)).parent / "viky.cti")
    if wanted:
        if not is_on_this_computer(wanted) or not wanted.lower().endswith(".cti"):
            raise InputError(
                f"producer = {wanted!r} is not the absolute path of a .cti on this computer"
            )
        if not Path(wanted).is_file():
            raise InputError(f"producer = {wanted!r} is not a file; give the path of a .cti")
        return [str(Path(wanted).resolve())]
    folders = os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep)
    found = [path for folder in folders if folder for path in sorted(Path(folder).glob("*.cti"))]
    if not found:
        raise InputError(
            "no GenTL producer in GENICAM_GENTL64_PATH; install that of the camera maker, or name "
            "one in the bench file: producer = PATH.cti"
        )
    return [str(path.resolve()) for path in found]


def _hold(producer: str) -> list[Any]:
    """Open a producer, or share it, and return the cameras that it lists."""
    core = import_extra("harvesters.core", "genicam", "a GenICam camera")
    with _lock:
        if producer not in open_producers:
            harvester = core.Harvester()
            try:
                harvester.add_file(producer)
                harvester.update()  # only once: it invalidates every open camera
            except Exception as error:
                with suppress(Exception):
                    harvester.reset()
                raise InputError(
                    f"the GenTL producer {producer} cannot be used: {one_line(error)}"
                ) from error
            open_producers[producer] = harvester
        _holders[producer] = _holders.get(producer, 0) + 1
        return list(open_producers[producer].device_info_list)


def _let_go(producer: str) -> None:
    with _lock:
        _holders[producer] -= 1
        if not _holders[producer]:
            del _holders[producer]
            open_producers.pop(producer).reset()
