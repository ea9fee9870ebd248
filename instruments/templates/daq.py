"""Template of a DAQ driver: copy it, rename it, and replace `EchoDevice` by your device.

`Daq` (instruments/daq.py) already checks channels, rates and voltages, locks, logs, and refuses
samples of a wrong shape. A driver implements the hooks for the functions of its device and omits
the others: with `line_count = 0`, no line hook is called.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..base import DriverOptions, Identity
from ..camera import Shot
from ..daq import Daq, Samples
from .echo import DEVICES, EchoDevice


class TemplateDaqOptions(DriverOptions):
    """Settings in the bench file."""

    serial: str = "echo-1"
    """Serial number of the device."""


class TemplateDaq(Daq):
    """A DAQ in memory: every input reads the voltage of the output with the same number."""

    driver = "template-daq"  # the name in bench files, and of the entry point
    Options = TemplateDaqOptions
    is_of_this_process = True  # only here: this device is memory of this process

    @property
    def address(self) -> str:
        """The address that identifies this device and that only one instrument may open."""
        return f"daq:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        # Import the vendor library here, never at the top of the file:
        #     library = import_extra("vendor_daq", "vendor", "the DAQ driver")
        self._device: EchoDevice = DEVICES[self.address]
        self._device.get("identity")
        self.input_count = self.output_count = 4
        self.line_count, self.counter_count = 2, 2
        self.rate_limits_hz = (1.0, 1e5)
        self.output_range_v = (-5.0, 5.0)
        self.bit_depth = 16
        for channel in range(self.output_count):
            self._write(channel, 0.0)
        return Identity("lightloom", "template DAQ", self.options.serial)

    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        # Start the scan here, so that no sample is older than the call; wait with the time-out of
        # the device. `shot` identifies the samples for simulations; pass it on.
        started_at_s = self.clock.now_s()
        volts = [self._device.get(f"output {channel}") for channel in channels]
        self.clock.sleep_until(started_at_s + samples / rate_hz)
        return Samples(np.outer(volts, np.ones(samples)), rate_hz, started_at_s, shot)

    def _write(self, channel: int, volts: float) -> None:
        self._device.put(f"output {channel}", volts)

    def _set_line(self, line: int, high: bool) -> None:
        self._device.put(f"line {line}", high)

    def _read_line(self, line: int) -> bool:
        return bool(self._device.get(f"line {line}", False))

    def _count(self, counter: int) -> int:
        return int(self._device.get(f"counter {counter}", 0))

    def _reset_count(self, counter: int) -> None:
        self._device.put(f"counter {counter}", 0)

    def _disconnect(self) -> None:
        # Release handles and threads; the device may be lost.
        del self._device
