"""`ScpiSource` and `ScpiPowerMeter`: lasers, lamps and power meters, by SCPI over VISA.

    [instruments.source]
    driver = "scpi-source"
    address = "ASRL/dev/ttyUSB0::INSTR"
    max_power_w = "5 mW"
    commands = { interlock = "SYST:INT?", open_shutter = "SHUT ON", close_shutter = "SHUT OFF" }

Each command can be replaced; "" means that the device has none. Not here: the safety function.
Interlock, shutter and key switch act without software.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import pyvisa
from pydantic import Field, field_validator, model_validator

from ..base import DriverOptions
from ..errors import InputError, InstrumentError, ProtocolError
from ..light_source import LightSource, PowerMeter
from ..trust import takes_a_number
from ..units import Metres, Watts
from .visa import VisaInstrument, VisaLink, VisaOptions

_ZERO_DRIFT_W = 0.01  # negative reading that a meter may show in the dark: thermal drift


class SourceCommands(DriverOptions):
    """The commands of a source; `{power}` is the set-point in the unit of the device."""

    set_power: str = "SOUR:POW {power:.6g}"
    """Sets the power; `{power}` is the set-point in the unit of the device (`watts_per_unit`)."""
    ask_power: str = "SOUR:POW?"
    """Asks for the set-point, which is compared with the one that was sent."""
    ask_lowest: str = ""
    """Asks for the lowest power, such as "SOUR:POW? MIN" where the device reports its limits."""
    ask_highest: str = ""
    """Asks for the highest power that the device can emit."""
    enable: str = "OUTP ON"
    """Starts the emission."""
    disable: str = Field(default="OUTP OFF", min_length=1)
    """Stops the emission."""
    ask_emission: str = Field(default="OUTP?", min_length=1)
    """Asks for the emission, 0 or 1, after `enable` and after `disable`."""
    interlock: str = ""
    """Asks whether the interlock allows emission.

    Without it, `check` says that no interlock state can be read, and counts it under NOT FAIL-SAFE.
    """
    interlock_closed: str = "1"
    """Reply that means closed and not tripped."""
    open_shutter: str = ""
    """Opens the shutter, after `enable`."""
    close_shutter: str = ""
    """Closes the shutter, before `disable`."""
    ask_shutter: str = ""
    """Asks for the shutter after `close_shutter`; a shutter that sticks is an error."""
    shutter_closed: str = "0"
    """Reply that means that the shutter is closed."""

    @field_validator("set_power")
    @classmethod
    def _takes_a_power(cls, command: str) -> str:
        if not takes_a_number(command, "power"):
            raise ValueError('it needs {power}, as in "SOUR:POW {power:.6g}"')
        return command


class ScpiSourceOptions(VisaOptions):
    """Settings of a source: those of VISA, its power limit, and its commands."""

    max_power_w: Watts | None = None
    """Largest power, which the device can only narrow.

    It is required unless `commands.ask_highest` reads it from the device.
    """
    watts_per_unit: float = Field(default=1.0, gt=0)
    """Watts of one unit of the device, such as 0.001 for a device that uses milliwatts."""
    set_point_tolerance: float = Field(default=0.01, gt=0)
    """Relative deviation allowed between the set-point and the one that the device confirms."""
    wavelength_m: Metres | None = None
    """Wavelength of the source."""
    commands: SourceCommands = SourceCommands()
    """Commands that differ from the defaults; "" if the device has no such command."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.max_power_w is None and not self.commands.ask_highest:
            raise ValueError(
                'max_power_w is missing; give the largest power of the source, such as "5 mW", or '
                "the command commands.ask_highest that asks for it"
            )
        return self


class ScpiSource(VisaInstrument, LightSource):
    """A light source that speaks SCPI. Connecting changes nothing about its emission."""

    driver: ClassVar[str] = "scpi-source"
    Options = ScpiSourceOptions
    can_be_reopened: ClassVar[bool] = True

    def __init__(self, name: str, options: Any = None, **others: Any) -> None:
        super().__init__(name, options, **others)
        self.has_interlock = bool(self.options.commands.interlock)

    def _prepare(self) -> None:
        options, commands, link = self.options, self.options.commands, self._link
        unit_w = options.watts_per_unit
        self.wavelength_m = options.wavelength_m
        highest_w = math.inf if options.max_power_w is None else options.max_power_w
        lowest_w = 0.0
        if commands.ask_highest:
            highest_w = min(highest_w, link.ask_number(commands.ask_highest) * unit_w)
        if commands.ask_lowest:
            lowest_w = link.ask_number(commands.ask_lowest) * unit_w
        if not lowest_w <= highest_w < math.inf:
            raise InputError(
                f"{self.name}: its power limits are {lowest_w:g} to {highest_w:g} W; "
                'give max_power_w, such as "5 mW", in the bench file'
            )
        self.power_limits_w = (lowest_w, highest_w)
        asked = link.ask_number(commands.ask_power) * unit_w if commands.ask_power else math.nan
        self._power_w = asked  # an earlier set-point is not trusted, see enable

    def _set_power(self, power_w: float) -> None:
        commands, unit_w = self.options.commands, self.options.watts_per_unit
        self._power_w = math.nan  # until the device has confirmed it
        self._link.write(commands.set_power.format(power=power_w / unit_w))
        if not commands.ask_power:
            return
        reported_w = self._link.ask_number(commands.ask_power) * unit_w
        allowed_w = self.options.set_point_tolerance * power_w + 1e-6 * self.power_limits_w[1]
        if abs(reported_w - power_w) > allowed_w:
            raise ProtocolError(
                f"{self.name} was set to {power_w:g} W and reports {reported_w:g} W; "
                "check its limits, watts_per_unit and the commands"
            )

    def _enable(self) -> None:
        commands = self.options.commands
        self._link.write(*filter(None, (commands.enable, commands.open_shutter)))

    def _disable(self) -> None:
        """Close the shutter and stop emission independently of each other, then verify both."""
        self._send_off(self._link.write)
        commands = self.options.commands
        if self._emits():
            raise InstrumentError(
                f"{self.name} still emits after the command {commands.disable!r}; "
                "switch it off by hand, and check the commands"
            )
        if not commands.ask_shutter:
            return
        reply = self._link.query(commands.ask_shutter).strip()
        if reply != commands.shutter_closed:
            raise InstrumentError(
                f"{self.name}: its shutter does not close: it replies {reply!r} to "
                f"{commands.ask_shutter!r}, and {commands.shutter_closed!r} means closed; close it "
                "by hand"
            )

    def _send_off(self, send: Callable[[str], None] | None = None) -> None:
        commands, send = self.options.commands, send or self._link.send
        try:
            if commands.close_shutter:
                send(commands.close_shutter)
        finally:
            send(commands.disable)

    def _load(self) -> None:
        pyvisa.ResourceManager(self.options.backend)

    def _connect_to_disable(self, timeout_s: float) -> None:
        """Send the commands without a query before them, since no reply is needed."""
        options = self.options.model_copy(update={"identity_query": ""})
        self._link = VisaLink(self.name, options, timeout_s, is_shared=True)
        try:
            self._disable()
        finally:
            self._link.close()

    def _emits(self) -> bool:
        return self._link.ask_switch(self.options.commands.ask_emission)

    def _interlock_closed(self) -> bool:
        commands = self.options.commands
        if not commands.interlock:
            return True
        return self._link.query(commands.interlock).strip() == commands.interlock_closed

    def _settings(self) -> Mapping[str, Any]:
        # unknown until it is set; a record contains no NaN
        power_w = None if math.isnan(self._power_w) else self._power_w
        return {**super()._settings(), "power_w": power_w}


class PowerMeterCommands(DriverOptions):
    """The commands of a power meter; the defaults are those of the Thorlabs PM100 family."""

    prepare: tuple[str, ...] = ("SENS:POW:UNIT W",)
    """Commands that prepare the meter after connecting."""
    set_wavelength: str = "SENS:CORR:WAV {nanometres:g}"
    """Sets the wavelength, `{nanometres}`."""
    ask_wavelength: str = "SENS:CORR:WAV?"
    """Asks for the wavelength in nanometres, which is compared with the one that was sent."""
    read: str = Field(default="MEAS:POW?", min_length=1)
    """Reads the power."""

    @field_validator("set_wavelength")
    @classmethod
    def _takes_a_wavelength(cls, command: str) -> str:
        if command and not takes_a_number(command, "nanometres"):
            raise ValueError('it needs {nanometres}, as in "SENS:CORR:WAV {nanometres:g}"')
        return command


class ScpiPowerMeterOptions(VisaOptions):
    """Settings of a power meter: those of VISA, the wavelength and the commands."""

    wavelength_m: Metres | None = None
    """Wavelength that the meter is set to; without the key its setting stays."""
    watts_per_unit: float = Field(default=1.0, gt=0)
    """Watts of one unit of the device."""
    commands: PowerMeterCommands = PowerMeterCommands()
    """Commands that differ from the defaults; "" if the device has no such command."""


class ScpiPowerMeter(VisaInstrument, PowerMeter):
    """A power meter that speaks SCPI."""

    driver: ClassVar[str] = "scpi-power-meter"
    Options = ScpiPowerMeterOptions

    def _prepare(self) -> None:
        commands, wanted_m = self.options.commands, self.options.wavelength_m
        self._link.write(*commands.prepare)
        if wanted_m is not None:
            if not commands.set_wavelength:
                raise InstrumentError(
                    f"{self.name} has no command for its wavelength; remove wavelength_m"
                )
            self._link.write(commands.set_wavelength.format(nanometres=wanted_m * 1e9))
        if commands.ask_wavelength:
            self.wavelength_m = self._link.ask_number(commands.ask_wavelength) * 1e-9
            if wanted_m is not None and abs(self.wavelength_m - wanted_m) > 1e-9:
                raise ProtocolError(
                    f"{self.name} was set to {wanted_m * 1e9:g} nm and reports "
                    f"{self.wavelength_m * 1e9:g} nm; check the range of its sensor"
                )
        else:
            self.wavelength_m = wanted_m

    def _read_power(self, timeout_s: float) -> float:
        question = self.options.commands.read
        power_w = self._link.ask_number(question, timeout_s) * float(self.options.watts_per_unit)
        if power_w < -_ZERO_DRIFT_W:
            self._link.refuse(question, f"{power_w:g} W", "a power that is not negative")
        return power_w
