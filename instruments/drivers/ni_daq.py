"""`NiDaq`: a driver for cards of National Instruments through NI-DAQmx; not yet run on hardware.

In a bench file:

    [instruments.detector]
    driver = "ni-daq"
    address = "Dev1"

It needs the NI-DAQmx driver of NI in addition to the package nidaqmx. It is tested against the
documented calls of nidaqmx.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ..base import DriverOptions, Identity
from ..camera import Shot
from ..daq import Daq, Samples
from ..errors import (
    Disconnected,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    LightloomError,
    LimitExceeded,
    MissingExtraError,
    import_extra,
    one_line,
)
from ..units import Volts

_COUNTERS = 2  # for input and weight frames

# Error codes of NI-DAQmx, as in nidaqmx.error_codes.DAQmxErrors.
ERRORS: dict[int, type[InstrumentError]] = {
    -200284: InstrumentTimeout,  # SAMPLES_NOT_YET_AVAILABLE
    -200560: InstrumentTimeout,  # WAIT_UNTIL_DONE_DOES_NOT_INDICATE_DONE
    -50103: InUse,  # PAL_RESOURCE_RESERVED
    -200022: InUse,  # RESOURCE_ALREADY_RESERVED
    -200045: Disconnected,  # DEVICE_REMOVED
    -200220: Disconnected,  # INVALID_DEVICE_ID
    -201003: Disconnected,  # DEV_CANNOT_BE_ACCESSED
}


class NiDaqOptions(DriverOptions):
    """Settings of a card."""

    address: str = Field(default="Dev1", min_length=1)
    """Name of the card in NI MAX."""
    low_v: Volts = -10.0
    """Lowest voltage of the inputs; the card uses its narrowest range that contains both limits."""
    high_v: Volts = 10.0
    """Highest voltage of the inputs."""
    terminals: Literal["default", "rse", "nrse", "diff"] = "default"
    """Wiring of the inputs; "default" is the default of the card."""
    counters: int | None = Field(default=None, ge=0)
    """Number of counters that count from the connection on.

    Without the key it is two, as a single-pixel bench needs, or as many as the card has. Each then
    counts from its first use on.
    """

    @model_validator(mode="after")
    def _is_a_range(self) -> NiDaqOptions:
        if self.low_v >= self.high_v:
            raise ValueError(f"low_v = {self.low_v:g} V is not below high_v = {self.high_v:g} V")
        return self


class NiDaq(Daq):
    """A card of NI-DAQmx. Each read is a separate task; a counter keeps its task."""

    driver: ClassVar[str] = "ni-daq"
    Options = NiDaqOptions
    _nidaqmx: Any
    _counters: dict[int, Any]  # the running tasks

    # --- connecting ------------------------------------------------------------------------------

    def _connect(self, timeout_s: float) -> Identity:
        self._counters = {}
        self._nidaqmx = import_extra("nidaqmx", "ni", f"{self.name} (driver ni-daq)")
        self._constants = import_extra("nidaqmx.constants", "ni", f"{self.name} (driver ni-daq)")
        identity = self._find()
        for counter in range(self.options.counters or 0):
            self._reset_count(counter)
        return identity

    def _find(self) -> Identity:
        system = import_extra("nidaqmx.system", "ni", f"{self.name} (driver ni-daq)")
        cards = {card.name: card for card in system.System.local().devices}
        if self.address not in cards:
            raise Disconnected(
                f"{self.name}: there is no card {self.address!r}; "
                f"NI-DAQmx knows {', '.join(sorted(cards)) or 'none'}"
            )
        card = cards[self.address]
        self._inputs = [channel.name for channel in card.ai_physical_chans]
        self._outputs = [channel.name for channel in card.ao_physical_chans]
        self._lines = [line.name for line in card.do_lines]
        self._counter_names = [channel.name for channel in card.ci_physical_chans]
        counters = self.options.counters
        if counters is None:
            counters = min(_COUNTERS, len(self._counter_names))
        if counters > len(self._counter_names):
            raise LimitExceeded(
                f"{self.name}: {self.address} has {len(self._counter_names)} counters, not "
                f"{counters}; set a lower value of counters in the bench file"
            )
        self.input_count, self.output_count = len(self._inputs), len(self._outputs)
        self.line_count, self.counter_count = len(self._lines), counters
        self.input_range_v = (self.options.low_v, self.options.high_v)
        if self._inputs:
            self.rate_limits_hz = (card.ai_min_rate, card.ai_max_single_chan_rate)
            self._together_hz = card.ai_max_multi_chan_rate
            self._is_simultaneous = card.ai_simultaneous_sampling_supported
        if self._outputs:
            ranges = list(card.ao_voltage_rngs)  # low, high, low, high, ...
            self.output_range_v = (min(ranges[0::2]), max(ranges[1::2]))
        return Identity("National Instruments", card.product_type, f"{card.serial_num:X}")

    def _disconnect(self) -> None:
        while self._counters:
            _, task = self._counters.popitem()
            task.close()

    # --- hooks of the DAQ ------------------------------------------------------------------------

    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        rate_hz = self._checked_rate(rate_hz, len(channels), samples, timeout_s)
        constants, options = self._constants, self.options
        started_at_s = self.clock.now_s()
        with self._nidaqmx.Task() as task:
            for channel in channels:
                task.ai_channels.add_ai_voltage_chan(
                    self._inputs[channel],
                    terminal_config=constants.TerminalConfiguration[options.terminals.upper()],
                    min_val=options.low_v,
                    max_val=options.high_v,
                )
            if samples > 1:  # a single sample needs no sample clock
                mode = constants.AcquisitionType.FINITE
                task.timing.cfg_samp_clk_timing(rate_hz, sample_mode=mode, samps_per_chan=samples)
                rate_hz = task.timing.samp_clk_rate
            values = task.read(number_of_samples_per_channel=samples, timeout=timeout_s)
        array = np.asarray(values, dtype=np.float64)
        volts = array.reshape(len(channels), -1)
        return Samples(volts, float(rate_hz), started_at_s, shot)

    def _checked_rate(self, rate_hz: float, channels: int, samples: int, timeout_s: float) -> float:
        """Return the checked rate; one converter may serve several channels in turn."""
        if channels == 1:
            return rate_hz
        fastest_hz = self._together_hz / (1 if self._is_simultaneous else channels)
        if rate_hz == self.rate_limits_hz[1]:  # the highest rate was requested
            rate_hz = min(rate_hz, fastest_hz)
        if rate_hz > fastest_hz or samples / rate_hz > timeout_s:
            raise LimitExceeded(
                f"{self.name}: {samples} samples of {channels} channels at {rate_hz:g} Hz are "
                f"beyond {fastest_hz:g} Hz or the time-out of {timeout_s:g} s"
            )
        return rate_hz

    def _write(self, channel: int, volts: float) -> None:
        low_v, high_v = self.output_range_v
        with self._nidaqmx.Task() as task:
            task.ao_channels.add_ao_voltage_chan(
                self._outputs[channel], min_val=low_v, max_val=high_v
            )
            task.write(volts, auto_start=True)

    def _set_line(self, line: int, high: bool) -> None:
        with self._nidaqmx.Task() as task:
            task.do_channels.add_do_chan(self._lines[line])
            task.write(high, auto_start=True)

    def _read_line(self, line: int) -> bool:
        with self._nidaqmx.Task() as task:
            task.di_channels.add_di_chan(self._lines[line])
            return bool(task.read())

    def _count(self, counter: int) -> int:
        if counter not in self._counters:
            self._reset_count(counter)
        return int(self._counters[counter].read())

    def _reset_count(self, counter: int) -> None:
        """Start a task that counts rising edges from zero and replaces the previous one."""
        if counter in self._counters:
            self._counters.pop(counter).close()
        with ExitStack() as on_failure:
            task = self._nidaqmx.Task()
            on_failure.callback(task.close)
            task.ci_channels.add_ci_count_edges_chan(self._counter_names[counter])
            task.start()
            on_failure.pop_all()
        self._counters[counter] = task

    def _translated(self, error: Exception, what: str) -> LightloomError:
        errors = self._nidaqmx.errors
        if isinstance(error, errors.DaqNotFoundError | errors.DaqNotSupportedError):
            return MissingExtraError(
                f"{self.name} needs NI's driver NI-DAQmx, which is not on this computer; "
                "install it from ni.com, in addition to the package nidaqmx"
            )
        if isinstance(error, errors.DaqError):
            kind = ERRORS.get(error.error_code, InstrumentError)
            return kind(f"{self.name} ({self.address}) failed at {what}: {one_line(error)}")
        return super()._translated(error, what)
