"""Template of a light source's driver: copy it, rename it, replace `EchoDevice` by your device.

`LightSource` (instruments/light_source.py) already refuses what is beyond the limits, asks the
interlock before it enables, and disables when it is closed. Software is never the safety function:
the interlock is a switch in the device's own supply, and trips latch until somebody re-arms there.
"""

from __future__ import annotations

from ..base import DriverOptions, Identity
from ..light_source import LightSource
from ..units import Watts
from .echo import DEVICES, EchoDevice


class TemplateSourceOptions(DriverOptions):
    """What the bench file may say; quantities may have units ("5 mW")."""

    serial: str = "echo-1"
    highest_w: Watts = 0.005


class TemplateSource(LightSource):
    """A light source in memory."""

    driver = "template-source"  # the name in bench files, and of the entry point
    Options = TemplateSourceOptions
    is_of_this_process = True  # only here: this device is memory of this process
    # A watchdog process switches the source off when its program is killed. Say so where a second
    # process can open the device once the first one is gone, as over USB, serial or the network:
    #     can_be_reopened = True

    @property
    def address(self) -> str:
        """What tells this device from others like it; nobody else may open it."""
        return f"source:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        # Import the vendor's library here, never above:
        #     library = import_extra("vendor_laser", "vendor", "the laser's driver")
        # Connecting must not light it, and makes dark what somebody left on.
        self._device: EchoDevice = DEVICES[self.address]
        self._disable()
        self.power_limits_w = (0.0, self.options.highest_w)
        self.wavelength_m = 532e-9
        self.has_interlock = True
        return Identity("lightloom", "template source", self.options.serial)

    def _set_power(self, power_w: float) -> None:
        self._device.put("power_w", power_w)

    def _enable(self) -> None:
        self._device.put("emits", True)

    def _disable(self) -> None:
        # Must work whatever happened before: send it, do not ask whether it is needed. Where you
        # also wait for an answer, put what is sent into `_send_off`, which another thread may call.
        self._device.put("emits", False)

    def _emits(self) -> bool:
        # Ask the device; never answer from what was sent last.
        return bool(self._device.get("emits", False))

    def _interlock_closed(self) -> bool:
        return not self._device.get("interlock is open", False)

    def _disconnect(self) -> None:
        # It has been disabled already. Let go of handles and threads; the device may be gone.
        del self._device
