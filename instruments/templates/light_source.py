"""Template of a light source driver: copy it, rename it, replace `EchoDevice` by your device.

`LightSource` (instruments/light_source.py) already refuses set-points beyond the limits, checks the
interlock before it enables, and disables the source on close. Software is never the safety
function: the interlock is a switch in the supply of the device, and a trip latches until it is
reset on site.
"""

from __future__ import annotations

from ..base import DriverOptions, Identity
from ..light_source import LightSource
from ..units import Watts
from .echo import DEVICES, EchoDevice


class TemplateSourceOptions(DriverOptions):
    """Settings in the bench file; quantities may have units ("5 mW")."""

    serial: str = "echo-1"
    """Serial number of the device."""
    highest_w: Watts = 0.005
    """Highest power of the device."""


class TemplateSource(LightSource):
    """A light source in memory."""

    driver = "template-source"  # the name in bench files, and of the entry point
    Options = TemplateSourceOptions
    is_of_this_process = True  # only here: this device is memory of this process
    # A watchdog process switches the source off when its program is killed. Set this if a second
    # process can open the device after the first one has ended, as over USB, serial or network:
    #     can_be_reopened = True

    @property
    def address(self) -> str:
        """The address that identifies this device and that only one instrument may open."""
        return f"source:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        # Import the vendor library here, never at the top of the file:
        #     library = import_extra("vendor_laser", "vendor", "the laser driver")
        # Connecting must not start emission, and stops an emission that was left on.
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
        # Must work in every state: send the command without a query before it. If you also wait
        # for a reply, move the command into `_send_off`, which another thread may call.
        self._device.put("emits", False)

    def _emits(self) -> bool:
        # Query the device; never return a value from the last command.
        return bool(self._device.get("emits", False))

    def _interlock_closed(self) -> bool:
        return not self._device.get("interlock is open", False)

    def _disconnect(self) -> None:
        # The source is already disabled. Release handles and threads; the device may be lost.
        del self._device
