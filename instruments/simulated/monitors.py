"""Simulated monitors of a bench: a power meter at its source, and a thermometer on a DAQ.

Both follow a schedule of excursions on the clock of the bench, to test how a run reacts to a warm
room or an aged lamp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ..base import Identity
from ..camera import Shot
from ..daq import Daq, Samples
from ..errors import InstrumentTimeout
from ..light_source import PowerMeter
from ..toml_file import TomlTable
from ..units import Seconds
from .devices import SimulatedOptions, _Simulated


class Excursion(TomlTable):
    """An interval in which a reading deviates."""

    from_s: Seconds = 0.0
    """Begin on the clock of the bench, since the first connection of the monitor."""
    until_s: Seconds | None = None
    """End on the same clock; without the key it has no end."""
    factor: float = 1.0
    """Number by which the reading is multiplied in this interval."""


class MonitorOptions(SimulatedOptions):
    """Settings of a simulated monitor."""

    excursions: tuple[Excursion, ...] = ()
    """Intervals with deviating readings; the factors of overlapping intervals multiply."""
    noise: float = Field(default=0.0, ge=0, lt=1)
    """Relative rms noise of a reading."""


class ThermometerOptions(MonitorOptions):
    """Settings of a simulated thermometer."""

    volts: float = 0.22
    """Voltage of each input without an excursion, in volts."""


class _SimulatedMonitor(_Simulated):
    """A monitor that follows a schedule, from its first connection on."""

    _started_at_s: float | None = None
    _readings = 0

    def _started(self, model: str) -> Identity:
        identity = self._begin(model)
        if self._started_at_s is None:
            self._started_at_s = self.clock.now_s()
        return identity

    def _factor(self) -> float:
        """Return the present factor of a reading."""
        fault = self._fails("read", "silent")
        if fault is not None:
            raise InstrumentTimeout(f"{self.name}: no reply")
        assert self._started_at_s is not None
        self._readings += 1
        now_s, factor = self.clock.now_s() - self._started_at_s, 1.0
        for excursion in self.options.excursions:
            until_s = np.inf if excursion.until_s is None else excursion.until_s
            if excursion.from_s <= now_s < until_s:
                factor *= excursion.factor
        chance = self.world.generator(Shot(f"{self.role}/{self._readings}", 0), "monitor")
        return factor * float(1 + self.options.noise * chance.standard_normal())


class SimulatedPowerMeter(_SimulatedMonitor, PowerMeter):
    """A meter of the power that the source of its world emits."""

    driver = "simulated-power-meter"
    Options = MonitorOptions

    def _connect(self, timeout_s: float) -> Identity:
        return self._started("power meter")

    def _read_power(self, timeout_s: float) -> float:
        return self.world.power_w * self._factor()


class SimulatedThermometer(_SimulatedMonitor, Daq):
    """A DAQ whose inputs all read the same thermometer."""

    driver = "simulated-thermometer"
    Options = ThermometerOptions

    def _connect(self, timeout_s: float) -> Identity:
        self.input_count = 4
        self.rate_limits_hz = (0.1, 10_000.0)
        self.input_range_v, self.bit_depth = (-10.0, 10.0), 16
        return self._started("thermometer")

    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        start_s = self.clock.now_s()
        volts = self.options.volts * self._factor()
        self.clock.sleep_until(start_s + samples / rate_hz)
        low, high = self.input_range_v
        read = np.full((len(channels), samples), np.clip(volts, low, high))
        return Samples(read, rate_hz, start_s, shot)
