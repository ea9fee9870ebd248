"""`SlmsuiteSLM` and `SlmsuiteCamera`: the modulators and cameras that slmsuite supports.

slmsuite supports Meadowlark, Holoeye, Santec, Hamamatsu, Thorlabs, Texas Instruments and a dozen
cameras; the bench file names the class and its arguments. Not here: holograms and phases of
slmsuite; a frame of grey levels is written unchanged.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from threading import Lock
from typing import Annotated, Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
from pydantic import Field

from ..base import DriverOptions, Identity, Instrument
from ..camera import Camera, CountOptions, RawFrame, Region, Shot, TriggerMode
from ..errors import (
    Disconnected,
    InputError,
    InstrumentTimeout,
    LightloomError,
    ProtocolError,
    import_extra,
    one_line,
)
from ..slm import SpatialLightModulator
from ..trust import MODULES, may_import
from ..units import Hertz, Seconds

_open_modulators: WeakValueDictionary[str, Any] = WeakValueDictionary()
_stdout_lock = Lock()


_ClassName = Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]  # with its module


class SlmsuiteOptions(DriverOptions):
    """Settings of a device: its class in slmsuite and the arguments of that class."""

    device: _ClassName
    """Class of slmsuite."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class; slmsuite writes sizes as [width, height]."""


class SlmsuiteSLMOptions(SlmsuiteOptions):
    """Settings of a modulator."""

    device: _ClassName
    """Class of slmsuite, such as "slmsuite.hardware.slms.meadowlark.Meadowlark"."""
    settle_time_s: Seconds | None = None
    """Slowest change of grey level; without the key the assumption of slmsuite (0.3 s)."""
    refresh_hz: Hertz | None = None
    """Refresh rate: frames begin at multiples of its period; without the key at once."""
    latency_s: Seconds = 0.0
    """Delay from the write to the first change of light."""
    darkest_level: int = Field(0, ge=0)
    """Grey level of a dark frame."""


class SlmsuiteCameraOptions(SlmsuiteOptions, CountOptions):
    """Settings of a camera."""

    device: _ClassName
    """Class of slmsuite, such as "slmsuite.hardware.cameras.thorlabs.ThorCam"."""
    modulator: str = ""
    """Name of a connected `slmsuite-slm`, such as "instruments.input".

    The driver gives it to the class as the argument `slm`, as slmsuite's SimulatedCamera needs.
    """
    flush: bool = True
    """Whether buffered frames are discarded before each shot.

    Without it, a free-running camera returns frames from before the trigger.
    """
    timeout_s: Seconds = 5.0
    """Time-out of a frame, in addition to its exposure."""
    readout_s: Seconds = 0.0
    """Time from the end of an exposure to the arrival of the frame."""


class _Adapter(Instrument):
    """The common part of both drivers: an object of slmsuite, and the translation of its errors."""

    _device: Any = None
    _required_method: ClassVar[str]

    @property
    def address(self) -> str:
        """The class with its arguments, which distinguish two devices."""
        arguments = sorted(self.options.arguments.items())
        return f"{self.options.device}({', '.join(f'{key}={value}' for key, value in arguments)})"

    @property
    def is_of_this_process(self) -> bool:
        """Whether slmsuite simulates the device."""
        return ".simulated" in str(self.options.device)

    def _open(self, **extra_arguments: Any) -> Identity:
        slmsuite = import_extra("slmsuite", "slmsuite", f"{self.name} ({self.options.device})")
        with suppress(AttributeError):  # versions before 0.5 have no log
            slmsuite.configure_logging("WARNING", sys.stderr)  # stdout may carry JSON
        home, _, name = self.options.device.rpartition(".")
        if not may_import(home, "slmsuite"):
            raise InputError(
                f"{self.name}: device = {self.options.device!r} is not a class of slmsuite; to "
                f"trust {home!r}, name it in the environment variable {MODULES}"
            )
        try:
            kind = getattr(importlib.import_module(home), name)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.name}: device = {self.options.device!r} cannot be imported: "
                f"{one_line(error)}; check its name, and that the maker's software is installed"
            ) from error
        if not isinstance(kind, type) or not hasattr(kind, self._required_method):
            raise InputError(
                f"{self.name}: device = {self.options.device!r} is not a class that has "
                f"{self._required_method}(), as those of slmsuite have"
            )
        with _prints_to_stderr():
            try:
                self._device = kind(**self.options.arguments, **extra_arguments)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{self.name}: {name} does not accept arguments = {self.options.arguments}: "
                    f"{one_line(error)}"
                ) from error
        return Identity(model=f"{name} {self._device.name}")

    def _disconnect(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            with _prints_to_stderr():
                device.close()

    def _translated(self, error: Exception, what: str) -> LightloomError:
        """Return the error of lightloom for one of slmsuite and vendor libraries, of any type."""
        device = f"{self.name} ({self.address})"
        if isinstance(error, TimeoutError):
            return InstrumentTimeout(f"{device} did not reply during {what}: {one_line(error)}")
        return Disconnected(
            f"{device} failed during {what}: {one_line(error)}; "
            "check cable, power and the maker's software, then connect again"
        )


class SlmsuiteSLM(_Adapter, SpatialLightModulator):
    """A modulator that slmsuite controls."""

    driver: ClassVar[str] = "slmsuite-slm"
    _required_method: ClassVar[str] = "set_phase"
    Options = SlmsuiteSLMOptions

    def _connect(self, timeout_s: float) -> Identity:
        identity = self._open()
        device, options = self._device, self.options
        self.shape = (int(device.shape[0]), int(device.shape[1]))
        self.bit_depth = int(device.bitdepth)
        self.refresh_period_s = 1 / options.refresh_hz if options.refresh_hz else 0.0
        self.latency_s = options.latency_s
        settle_s = options.settle_time_s
        self.settle_time_s = float(device.settle_time_s) if settle_s is None else settle_s
        self.darkest_level = options.darkest_level
        _open_modulators[self.name] = device
        return identity

    def _show(self, frame: np.ndarray) -> float:
        device = self._device
        if hasattr(device, "_gray2display"):
            # these are hooks of slmsuite drivers; set_phase() also computes unused phases,
            # which takes 40 ms at 1920 x 1152
            device.display = device._gray2display(frame.copy())
            device._set_phase_hw(device.display)
        else:
            device.set_phase(frame.copy(), settle=False)
        return self.clock.now_s()


class SlmsuiteCamera(_Adapter, Camera):
    """A camera that slmsuite controls, without a trigger: `trigger` waits for the frame."""

    driver: ClassVar[str] = "slmsuite-camera"
    _required_method: ClassVar[str] = "get_image"
    Options = SlmsuiteCameraOptions

    def _connect(self, timeout_s: float) -> Identity:
        extra_arguments = {}
        if self.options.modulator:
            if self.options.modulator not in _open_modulators:
                raise InputError(
                    f"{self.name}: modulator = {self.options.modulator!r} is not a connected "
                    f"slmsuite-slm; those are {sorted(_open_modulators) or 'none'}"
                )
            extra_arguments["slm"] = _open_modulators[self.options.modulator]
        identity = self._open(**extra_arguments)
        self._set_up()
        return identity

    def _set_up(self) -> None:
        device = self._device
        device.capture_attempts = 1  # no hidden retries
        device.set_woi(None)
        self.sensor_shape = (int(device.shape[0]), int(device.shape[1]))
        self.bit_depth = int(device.bitdepth)
        if device.exposure_bounds_s is not None:
            shortest_s, longest_s = device.exposure_bounds_s
            self.exposure_limits_s = (float(shortest_s), float(longest_s))
        exposure_s = self._exposure_s or float(device.get_exposure())
        self.readout_s = self.options.readout_s
        self._exposure_s = self._configure(exposure_s, self.region, self._trigger_mode)

    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        if trigger == "external":
            raise InputError(
                f"{self.name}: slmsuite supports no external trigger; use trigger mode software"
            )
        device = self._device
        device.set_woi((region.left, region.width, region.top, region.height))
        if tuple(device.shape) != (region.height, region.width):
            raise InputError(
                f"{self.name}: the camera returns frames of {tuple(device.shape)}, "
                f"(height, width), for {region}; choose a region that it reads without binning"
            )
        device.set_exposure(exposure_s)
        return float(device.get_exposure())

    def _arm(self) -> None:
        self._taken: deque[RawFrame] = deque()

    def _trigger(self, shot: Shot | None) -> None:
        timeout_s = self.options.timeout_s
        if self.options.flush:
            self._device.flush(timeout_s=timeout_s)
        taken_at_s = self.clock.now_s()
        image = self._device.get_image(timeout_s=timeout_s, averaging=False, hdr=False)
        data = np.asarray(image)
        if data.dtype not in (np.uint8, np.uint16):
            raise ProtocolError(
                f"{self.name}: it sent a frame of {data.dtype}; integer counts are needed"
            )
        self._taken.append(RawFrame(data, None, taken_at_s))

    def _read(self, timeout_s: float) -> RawFrame | None:
        if self._taken:
            return self._taken.popleft()
        self.clock.sleep_until(self.clock.now_s() + timeout_s)
        return None

    def _disarm(self) -> None:
        self._taken.clear()

    def _settings(self) -> Mapping[str, Any]:
        return {**super()._settings(), "frame_numbers": "missing; lost frames are not found"}


@contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Redirect the printed output of vendor classes to stderr, one at a time."""
    with _stdout_lock, redirect_stdout(sys.stderr):
        yield
