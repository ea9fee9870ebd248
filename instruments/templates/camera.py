"""Template of a camera driver: copy it, rename it, and replace `EchoDevice` by your camera.

`Camera` (instruments/camera.py) already checks exposures and regions, locks, logs, and refuses
frames that are stale, incomplete or follow a gap. A driver returns every frame that the device
sends, with the frame number and time of the device.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..base import Identity
from ..camera import Camera, CountOptions, RawFrame, Region, Shot, TriggerMode
from ..units import Seconds
from .echo import DEVICES, EchoDevice


class TemplateCameraOptions(CountOptions):
    """Settings in the bench file; quantities may have units ("5 ms")."""

    serial: str = "echo-1"
    """Serial number of the device."""
    sensor_shape: tuple[int, int] = (48, 64)
    """Height and width of the sensor, in pixels."""
    exposure_s: Seconds = 0.002
    """Exposure until `configure` sets another."""


class TemplateCamera(Camera):
    """A camera in memory under steady light that increases from each pixel to the next."""

    driver = "template-camera"  # the name in bench files, and of the entry point
    Options = TemplateCameraOptions
    is_of_this_process = True  # only here: this device is memory of this process

    @property
    def address(self) -> str:
        """The address that identifies this device and that only one instrument may open."""
        return f"camera:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        # Import the vendor library here, never at the top of the file:
        #     library = import_extra("vendor_camera", "vendor", "the camera driver")
        self._device: EchoDevice = DEVICES[self.address]
        self._device.get("identity")
        self.sensor_shape = self.options.sensor_shape
        self.bit_depth = 12
        self.exposure_limits_s = (1e-5, 10.0)
        self.readout_s = 0.0
        self._number = 0
        self._buffer: deque[RawFrame] = deque()
        # The settings after power-on must be known: write them, do not assume them.
        whole = Region(0, 0, *self.sensor_shape)
        self._exposure_s = self._configure(self.options.exposure_s, whole, "software")
        return Identity("lightloom", "template camera", self.options.serial)

    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        # Read the actual exposure and return it: most cameras round it to whole rows.
        # Raise InputError for a region that the camera cannot set exactly.
        self._device.put("settings", (exposure_s, region, trigger))
        return float(self._device.get("settings")[0])

    def _arm(self) -> None:
        # Discard all frames in buffers: `_read` must never return an earlier frame.
        self._buffer.clear()
        self._device.put("armed", True)

    def _trigger(self, shot: Shot | None) -> None:
        # `shot` identifies the frame for simulations; a real camera ignores it.
        taken_at_s = self.clock.now_s()
        self._device.put("triggered", True)
        self._number += 1
        self._buffer.append(RawFrame(self._image(), self._number, taken_at_s))

    def _image(self) -> np.ndarray:
        # Only here: a real camera sends its own image.
        (height, width), part = self.sensor_shape, self.region
        light = np.arange(height * width).reshape(height, width) % 1000 * self._exposure_s / 0.002
        counts = np.minimum(light + 50, (1 << self.bit_depth) - 1).astype(np.uint16)
        return counts[part.top : part.top + part.height, part.left : part.left + part.width]

    def _read(self, timeout_s: float) -> RawFrame | None:
        # Wait in the vendor library, with its time-out; return None when no frame arrived. Buffers
        # belong to the vendor library: copy the data before you release the buffer.
        self._device.get("frame")
        now_s = self.clock.now_s()
        if self._buffer and self._buffer[0].taken_at_s + self._exposure_s <= now_s + timeout_s:
            raw = self._buffer.popleft()
            self.clock.sleep_until(raw.taken_at_s + self._exposure_s)
            return raw
        self.clock.sleep_until(now_s + timeout_s)
        return None

    def _disarm(self) -> None:
        self._device.put("armed", False)

    def _disconnect(self) -> None:
        # The camera is already disarmed. Release handles and threads; the device may be lost.
        self._buffer.clear()
        del self._device
