"""Instruments in memory for tests: hooks for the template device, and a power meter."""

from typing import Any

from lightloom.instruments.base import DriverOptions, Identity
from lightloom.instruments.light_source import PowerMeter
from lightloom.instruments.templates.echo import DEVICES, EchoDevice


class FakePowerMeterOptions(DriverOptions):
    serial: str = "echo-1"


class FakePowerMeter(PowerMeter):
    """A power meter that reads 1.5 mW."""

    driver = "fake-power-meter"
    Options = FakePowerMeterOptions
    is_of_this_process = True

    @property
    def address(self) -> str:
        return f"meter:{self.options.serial}"

    def _connect(self, timeout_s: float) -> Identity:
        self._device: EchoDevice = DEVICES[self.address]
        self._device.get("identity")
        self.wavelength_m = 532e-9
        return Identity("lightloom", "fake power meter", self.options.serial)

    def _read_power(self, timeout_s: float) -> float:
        return float(self._device.get("power_w", 1.5e-3))

    def _disconnect(self) -> None:
        del self._device


class OnEchoDevice:
    """The hooks of the conformance suite for every driver of an `EchoDevice`."""

    may_act = True

    def unplug(self, instrument: Any) -> None:
        DEVICES[instrument.address].is_plugged = False

    def mute(self, instrument: Any) -> None:
        DEVICES[instrument.address].is_silent = True

    def sent(self, instrument: Any) -> int:
        return DEVICES[instrument.address].requests
