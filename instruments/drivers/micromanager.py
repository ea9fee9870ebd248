"""`MicroManagerCamera`: a driver for cameras with a Micro-Manager device adapter (pymmcore-plus).

Each camera has its own core, so that two cameras do not share shutters, buffers and roles. Not
here: stages, shutters and autofocus of Micro-Manager, which a bench does not use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import datetime
from math import ceil
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from ..base import Identity
from ..camera import Camera, CountOptions, RawFrame, Region, Shot, TriggerMode
from ..errors import Disconnected, InputError, LightloomError, LimitExceeded, import_extra, one_line
from ..trust import is_on_this_computer
from ..units import Seconds

_POLL_S = 0.0005
_GRACE_S = 10.0  # added to the exposure when waiting for an abandoned frame
_PURPOSE = "a Micro-Manager camera"

Properties = dict[str, str | int | float]


class MicroManagerOptions(CountOptions):
    """Settings of a Micro-Manager camera: a configuration file, or adapter and device."""

    config: str = ""
    """Path of a configuration file (.cfg) whose camera is used; give it, or adapter and device."""
    adapter: str = ""
    """Device adapter, such as "DemoCamera"."""
    device: str = ""
    """Device of the adapter, such as "DCam"."""
    adapter_path: str = ""
    """Folder of the device adapters; "" for the folder that pymmcore-plus finds."""
    properties: Properties = Field(default_factory=dict)
    """Properties by name, set before the initialisation if they must be, otherwise after it."""
    software_properties: Properties = Field(default_factory=dict)
    """Properties that the driver sets when the trigger mode becomes software."""
    external_properties: Properties | None = None
    """Properties for the trigger mode external, so that the camera waits for its trigger line.

    An empty table uses the camera's own frame rate. Without the key the mode is refused.
    """
    buffers: int = Field(8, ge=1)
    """Number of frames that may wait to be read before one is dropped."""
    readout_s: Seconds = 0.0
    """Time from the end of an exposure to the arrival of the frame."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.config) == bool(self.adapter) or bool(self.adapter) != bool(self.device):
            raise ValueError("name either config, or both adapter and device")
        return self


class MicroManagerCamera(Camera):
    """A camera behind a Micro-Manager device adapter."""

    driver: ClassVar[str] = "micromanager-camera"
    Options = MicroManagerOptions
    _core: Any = None  # pymmcore.CMMCore
    _label: str = "camera"
    _triggered_at_s: float = 0.0
    _pending_frame: Future[Any] | None = None  # of the latest trigger

    @property
    def is_of_this_process(self) -> bool:
        """Whether the device is the simulated camera of Micro-Manager."""
        return bool(self.options.adapter == "DemoCamera")

    @property
    def address(self) -> str:
        """The configuration file, or the adapter and device."""
        return self.options.config or f"{self.options.adapter}/{self.options.device}"

    # --- open and close --------------------------------------------------------------------------

    def _connect(self, timeout_s: float) -> Identity:
        plus = import_extra("pymmcore_plus", "micromanager", _PURPOSE)
        if self.options.config and not Path(self.options.config).is_file():
            raise InputError(f"{self.name}: config = {self.options.config!r} is not a file")
        adapters = self.options.adapter_path
        if adapters and not (is_on_this_computer(adapters) and Path(adapters).is_dir()):
            raise InputError(
                f"{self.name}: adapter_path = {adapters!r} is not the absolute path of a folder on "
                "this computer"
            )
        self._pending_frame = None
        # the plain core: that of pymmcore-plus has a callback thread that outlives Python
        self._core = import_extra("pymmcore", "micromanager", _PURPOSE).CMMCore()
        folder = self.options.adapter_path or plus.find_micromanager()
        self._core.setDeviceAdapterSearchPaths([folder] if folder else [])
        _let_windows_search(folder)
        self._core.setTimeoutMs(ceil(timeout_s * 1000))
        if self.options.config:
            self._load_config()
        else:
            self._load_device()
        self._set_up()
        return self._ask()

    def _load_config(self) -> None:
        with self._refusals(f"config = {self.options.config!r}"):
            self._core.loadSystemConfiguration(str(Path(self.options.config).resolve()))
        self._label = self._core.getCameraDevice()
        if not self._label:
            raise InputError(f"{self.name}: config = {self.options.config!r} names no camera")
        self._set(self.options.properties)

    def _load_device(self) -> None:
        core, options, self._label = self._core, self.options, "camera"
        with self._refusals(f"adapter = {options.adapter!r}, device = {options.device!r}"):
            adapters, paths = core.getDeviceAdapterNames(), core.getDeviceAdapterSearchPaths()
            if options.adapter not in adapters:
                raise InputError(
                    f"{self.name}: no adapter {options.adapter!r} in {', '.join(paths)}; "
                    f"there are {', '.join(adapters) or 'none'}"
                )
            devices = core.getAvailableDevices(options.adapter)
            if options.device not in devices:
                raise InputError(
                    f"{self.name}: adapter {options.adapter!r} has no device {options.device!r}; "
                    f"it has {', '.join(devices)}"
                )
            core.loadDevice(self._label, options.adapter, options.device)
            early = {
                name: value
                for name, value in options.properties.items()
                if core.hasProperty(self._label, name) and core.isPropertyPreInit(self._label, name)
            }
        self._set(early)
        core.initializeDevice(self._label)
        core.setCameraDevice(self._label)
        self._set({key: value for key, value in options.properties.items() if key not in early})

    def _set_up(self) -> None:
        core = self._core
        core.clearROI()
        self.sensor_shape = (core.getImageHeight(), core.getImageWidth())
        self.bit_depth = core.getImageBitDepth()
        if core.getNumberOfComponents() != 1 or self.bit_depth > 16:
            raise InputError(
                f"{self.name}: pixels of {core.getNumberOfComponents()} components and "
                f"{self.bit_depth} bits are not usable; set its pixel type in properties"
            )
        exposure = (self._label, "Exposure")
        if core.hasProperty(*exposure) and core.hasPropertyLimits(*exposure):
            lowest_ms = core.getPropertyLowerLimit(*exposure)
            self.exposure_limits_s = (
                lowest_ms / 1000,
                core.getPropertyUpperLimit(*exposure) / 1000,
            )
        exposure_s = self._exposure_s or core.getExposure() / 1000
        self.readout_s = self.options.readout_s
        self._exposure_s = self._configure(exposure_s, self.region, self._trigger_mode)

    def _ask(self) -> Identity:
        core = self._core
        has_id = core.hasProperty(self._label, "CameraID")
        return Identity(
            maker=core.getDeviceLibrary(self._label),
            model=core.getDeviceName(self._label),
            serial=core.getProperty(self._label, "CameraID") if has_id else "",
            firmware=core.getVersionInfo(),
        )

    def _disconnect(self) -> None:
        core, self._core = self._core, None
        # unloading an exposing camera crashes the process
        if core is not None and self._pending_frame is None:
            core.unloadAllDevices()

    # --- hooks of the camera ---------------------------------------------------------------------

    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        core = self._core
        properties = self.options.software_properties
        if trigger == "external":
            properties = self.options.external_properties
            if properties is None:
                raise InputError(
                    f"{self.name}: trigger mode external needs external_properties, which make "
                    "this camera wait for its trigger line"
                )
        self._set(properties)
        wanted = [region.left, region.top, region.width, region.height]
        with self._refusals(f"{region}"):
            core.setROI(*wanted)
            if list(core.getROI()) != wanted:
                left, top, width, height = core.getROI()
                raise InputError(
                    f"{self.name}: the camera changes {region} to "
                    f"{Region(top, left, height, width)}; request that region"
                )
            frame_bytes = region.height * region.width * core.getBytesPerPixel()
            core.setCircularBufferMemoryFootprint(ceil(self.options.buffers * frame_bytes / 2**20))
        with self._refusals(f"exposure_s = {exposure_s:g}"):
            core.setExposure(exposure_s * 1000)
            return core.getExposure() / 1000

    def _arm(self) -> None:
        if self._trigger_mode == "external":
            self._last_number = -1  # frame numbers of a sequence begin at 0
            self._core.startContinuousSequenceAcquisition(0)

    def _trigger(self, shot: Shot | None) -> None:
        if self._pending_frame is not None:
            raise LimitExceeded(
                f"{self.name}: Micro-Manager takes one shot at a time; read it before the next"
            )
        self._triggered_at_s, self._pending_frame = self.clock.now_s(), Future()
        Thread(target=_snap, args=(self._core, self._pending_frame), daemon=True).start()

    def _read(self, timeout_s: float) -> RawFrame | None:
        if self._trigger_mode == "external":
            return self._read_next(timeout_s)
        if self._pending_frame is None:
            self.clock.sleep_until(self.clock.now_s() + timeout_s)
            return None
        if not wait([self._pending_frame], timeout_s).done:
            return None
        snapped, self._pending_frame = self._pending_frame, None
        return RawFrame(snapped.result(), None, self._triggered_at_s)

    def _read_next(self, timeout_s: float) -> RawFrame | None:
        deadline_s = self.clock.now_s() + timeout_s
        while not self._core.getRemainingImageCount():
            if self.clock.now_s() >= deadline_s:
                return None
            self.clock.sleep_until(min(deadline_s, self.clock.now_s() + _POLL_S))
        metadata = import_extra("pymmcore", "micromanager", _PURPOSE).Metadata()
        data = self._core.popNextImageMD(metadata)
        number = int(metadata.GetSingleTag("ImageNumber").GetValue())
        return RawFrame(data, number, self._exposure_start_s(metadata))

    def _exposure_start_s(self, metadata: Any) -> float:
        """Return the start of an exposure, computed from the arrival of its frame."""
        received = datetime.fromisoformat(metadata.GetSingleTag("TimeReceivedByCore").GetValue())
        age_s = (datetime.now() - received).total_seconds()
        start_s = self.clock.now_s() - age_s - self._exposure_s - self.readout_s
        return max(start_s, self._armed_at_s or 0.0)  # the sequence started later

    def _disarm(self) -> None:
        if self._pending_frame is not None:
            self._wait_for(self._pending_frame)
        if self._trigger_mode == "external":
            self._core.stopSequenceAcquisition()
            self._core.clearCircularBuffer()

    def _wait_for(self, frame: Future[Any]) -> None:
        """Wait for a frame that will not be read, since Micro-Manager cannot abort it."""
        longest_s = self._exposure_s + self.readout_s + _GRACE_S
        if not wait([frame], longest_s).done:
            raise Disconnected(
                f"{self.name} ({self.address}) returned no frame after {longest_s:g} s; switch the "
                "camera off and on, and start this program again"
            )
        self._pending_frame = None

    def _settings(self) -> Mapping[str, Any]:
        return {**super()._settings(), "readout_s": self.readout_s}

    # --- helpers ---------------------------------------------------------------------------------

    def _set(self, properties: Properties) -> None:
        for name, value in properties.items():
            with self._refusals(f"{name} = {value!r}"):
                if not self._core.hasProperty(self._label, name):
                    raise InputError(
                        f"{self.name}: no property {name!r}; the camera has "
                        f"{', '.join(self._core.getDevicePropertyNames(self._label))}"
                    )
                self._core.setProperty(self._label, name, value)
                actual = self._core.getProperty(self._label, name)
            self._check_setting(name, value, actual)

    @contextmanager
    def _refusals(self, value: str) -> Iterator[None]:
        """Report an exception of Micro-Manager as a refusal of a value."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            raise InputError(f"{self.name}: {value} is refused: {one_line(error)}") from error

    def _translated(self, error: Exception, what: str) -> LightloomError:
        if not isinstance(error, RuntimeError | OSError):
            return super()._translated(error, what)
        return Disconnected(
            f"{self.name} ({self.address}) failed during {what}: {one_line(error)}; check cable "
            "and power, and that no other program holds it, then connect again"
        )


def _let_windows_search(folder: str | None) -> None:
    """Add the folder of the adapters to PATH, where Windows searches the libraries that they use.

    `pymmcore_plus` does so, too.
    """
    paths = os.environ.get("PATH", "").split(os.pathsep)
    if sys.platform == "win32" and folder and folder not in paths:
        os.environ["PATH"] = os.pathsep.join([folder, *paths])


def _snap(core: Any, frame: Future[Any]) -> None:
    """Take one frame in a thread, so that time-outs work although `snapImage` blocks.

    A sequence of one frame would need no thread here, but its own thread ends unnoticed after the
    frame arrives. Closing the camera at that moment crashes the process (seen with DemoCamera).
    """
    try:
        core.snapImage()
        frame.set_result(core.getImage())
    except BaseException as error:
        frame.set_exception(error)
