"""Template of a modulator driver: copy it, rename it, and replace `EchoDevice` by your device.

`SpatialLightModulator` (instruments/slm.py) already checks frames, locks, logs, counts frames and
computes when they have settled. A driver implements three hooks. The base class translates OSError
and TimeoutError; `_translated` can do the same for the exceptions of a vendor library.
"""

from __future__ import annotations

import numpy as np

from ..base import DriverOptions, Identity
from ..slm import SpatialLightModulator
from ..units import Seconds
from .echo import DEVICES, EchoDevice


class TemplateSLMOptions(DriverOptions):
    """Settings in the bench file; quantities may have units ("16.7 ms").

    The docstring below a field is the meaning of its key for `lightloom devices --keys`.
    """

    serial: str = "echo-1"
    """Serial number of the device."""
    shape: tuple[int, int] = (8, 12)
    """Height and width of the modulator, in pixels."""
    settle_time_s: Seconds = 0.001
    """Slowest change of grey level."""


class TemplateSLM(SpatialLightModulator):
    """A modulator in memory."""

    driver = "template-slm"  # the name in bench files, and of the entry point
    Options = TemplateSLMOptions
    is_of_this_process = True  # only here: this device is memory of this process

    @property
    def address(self) -> str:
        """The address that identifies this device and that only one instrument may open."""
        return f"slm:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        # Import the vendor library here, never at the top of the file:
        #     library = import_extra("vendor_slm", "vendor", "the modulator driver")
        self._device: EchoDevice = DEVICES[self.address]
        self._device.get("identity")
        # Read from the device what it reports, and take only the rest from the options.
        self.shape = self.options.shape
        self.bit_depth = 8
        self.refresh_period_s = 0.0
        self.settle_time_s = self.options.settle_time_s
        return Identity("lightloom", "template modulator", self.options.serial)

    def _show(self, frame: np.ndarray) -> float:
        # The frame is checked. Copy it, or wait until the device has it: the caller writes the next
        # frame into the same memory. Return the time of the flip, not that of the call.
        self._device.put("frame", frame.copy())
        return self.clock.now_s()

    def _disconnect(self) -> None:
        # The darkest frame is already shown. Release handles and threads; the device may be lost,
        # or `_connect` may have failed before it was open.
        del self._device
