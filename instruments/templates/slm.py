"""Template of a modulator's driver: copy it, rename it, and replace `EchoDevice` by your device.

`SpatialLightModulator` (instruments/slm.py) already checks frames, locks, logs, counts frames and
reckons when they have settled; a driver fills in three hooks. It translates the device's errors:
OSError and TimeoutError need no care, a vendor's own exceptions do.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..base import DriverOptions, Identity
from ..slm import SpatialLightModulator
from ..units import Seconds
from .echo import DEVICES, EchoDevice


class TemplateSLMOptions(DriverOptions):
    """What the bench file may say; quantities may have units ("16.7 ms")."""

    serial: str = "echo-1"
    shape: tuple[int, int] = (8, 12)
    settle_time_s: Seconds = Field(default=0.001, description="slowest change of grey level")


class TemplateSLM(SpatialLightModulator):
    """A modulator in memory."""

    driver = "template-slm"  # the name in bench files, and of the entry point
    Options = TemplateSLMOptions
    is_of_this_process = True  # only here: this device is memory of this process

    @property
    def address(self) -> str:
        """What tells this device from others like it; nobody else may open it."""
        return f"slm:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        # Import the vendor's library here, never above:
        #     library = import_extra("vendor_slm", "vendor", "the modulator's driver")
        # If anything fails after the device has been opened, close it before you raise.
        self._device: EchoDevice = DEVICES[self.address]
        self._device.get("identity")
        # Ask the device for what it knows, and take only the rest from the options.
        self.shape = self.options.shape
        self.bit_depth = 8
        self.refresh_period_s = 0.0
        self.settle_time_s = self.options.settle_time_s
        return Identity("lightloom", "template modulator", self.options.serial)

    def _show(self, frame: np.ndarray) -> float:
        # The frame is checked. Copy it, or wait until the device has it: its owner writes the next
        # one into the same memory. Give the moment of the flip, not that of the call.
        self._device.put("frame", frame.copy())
        return self.clock.now_s()

    def _disconnect(self) -> None:
        # The darkest frame has been shown already. Let go of handles and threads; the device may
        # be gone.
        del self._device
