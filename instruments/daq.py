"""`Daq`: analogue inputs and outputs, digital lines and trigger counters."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any, ClassVar

import numpy as np

from .base import DriverOptions, Finding, Instrument, exchange
from .camera import Shot
from .clock import Clock
from .errors import (
    Disconnected,
    InputError,
    InstrumentError,
    InstrumentTimeout,
    LimitExceeded,
    ProtocolError,
)

LOG = logging.getLogger("lightloom.instruments")
_OVERRANGE = 0.25  # fraction of an input range that a converter may read beyond either end


@dataclass(frozen=True)
class Samples:
    """Voltages, and the time of the first sample.

    Parameters
    ----------
    volts : float64 [channels, samples]
    rate_hz : samples per second and channel
    started_at_s : time of the first sample, on the instrument's clock
    shot : the shot that the call named; None where it named none
    """

    volts: np.ndarray
    rate_hz: float
    started_at_s: float
    shot: Shot | None = None

    def __repr__(self) -> str:
        channels, count = self.volts.shape
        return f"Samples: {count:,} of each of {channels} channels, at {self.rate_hz:g} per second"


class Daq(Instrument):
    """A data-acquisition device. Its attributes are valid once it is connected.

    Attributes
    ----------
    input_count, output_count : numbers of analogue channels
    line_count : number of digital lines that can be set and read
    counter_count : number of edge counters
    rate_limits_hz : lowest and highest sample rate per channel
    input_range_v, output_range_v : lowest and highest voltage
    bit_depth : bits of the converter; None where unknown
    """

    kind: ClassVar[str] = "daq"

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(name, options, clock=clock)
        self.input_count = self.output_count = self.line_count = self.counter_count = 0
        self.rate_limits_hz = (0.0, float("inf"))
        self.input_range_v = (-10.0, 10.0)
        self.output_range_v = (-10.0, 10.0)
        self.bit_depth: int | None = None
        self._written: set[int] = set()  # outputs to make safe on close
        self._raised: set[int] = set()  # lines to make safe on close

    # --- hooks that a driver implements ----------------------------------------------------------

    @abstractmethod
    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        """Scan channels (checked) and wait for all samples."""

    def _write(self, channel: int, volts: float) -> None:
        """Set the voltage of an analogue output (checked)."""
        raise NotImplementedError

    def _set_line(self, line: int, high: bool) -> None:
        """Set a digital line."""
        raise NotImplementedError

    def _read_line(self, line: int) -> bool:
        """Read a digital line."""
        raise NotImplementedError

    def _count(self, counter: int) -> int:
        """Return the edges counted since connecting or since the last `_reset_count`."""
        raise NotImplementedError

    def _reset_count(self, counter: int) -> None:
        """Reset a counter to zero."""
        raise NotImplementedError

    # --- public methods --------------------------------------------------------------------------

    @exchange
    def read(
        self,
        channels: Sequence[int] = (0,),
        samples: int = 1,
        rate_hz: float | None = None,
        timeout_s: float = 5.0,
        shot: Shot | None = None,
    ) -> Samples:
        """Scan analogue inputs; without a rate, at the highest rate of the device.

        Raises
        ------
        LimitExceeded : for a channel, rate or scan beyond the limits of the device or the time-out
        InstrumentTimeout : when the samples did not arrive
        """
        channels = tuple(self._index("input", channel, self.input_count) for channel in channels)
        samples = _whole(samples, f"{self.name}: samples")
        if samples < 1 or not channels:
            raise InputError(f"{self.name}: a scan needs at least 1 sample and 1 channel")
        slowest, fastest = self.rate_limits_hz
        rate_hz = min(fastest, 1e9) if rate_hz is None else float(rate_hz)
        if not slowest <= rate_hz <= fastest or rate_hz <= 0:
            raise LimitExceeded(
                f"{self.name}: rate {rate_hz:g} Hz is outside {slowest:g} to {fastest:g} Hz"
            )
        if samples / rate_hz > timeout_s:
            raise LimitExceeded(
                f"{self.name}: {samples} samples at {rate_hz:g} Hz take longer than the time-out "
                f"of {timeout_s:g} s"
            )
        result = self._read(channels, samples, rate_hz, timeout_s, shot)
        if result.volts.shape != (len(channels), samples) or not np.isfinite(result.volts).all():
            raise ProtocolError(
                f"{self.name}: the driver returned voltages of {result.volts.shape} instead of "
                f"finite voltages of ({len(channels)}, {samples})"
            )
        low, high = self.input_range_v
        lowest, highest = result.volts.min(), result.volts.max()
        margin_v = _OVERRANGE * (high - low)
        if lowest < low - margin_v or highest > high + margin_v:
            raise ProtocolError(
                f"{self.name}: {lowest:g} to {highest:g} V is not a possible reading of inputs "
                f"with a range of {low:g} to {high:g} V"
            )
        return result

    @exchange
    def write(self, channel: int, volts: float) -> None:
        """Set the voltage of an analogue output; closing the DAQ resets it to 0 V."""
        channel = self._index("output", channel, self.output_count)
        low, high = self.output_range_v
        if not low <= volts <= high:
            raise LimitExceeded(f"{self.name}: {volts:g} V is outside {low:g} to {high:g} V")
        self._written.add(channel)  # first: a failed write may have taken effect
        self._write(channel, float(volts))

    @exchange
    def set_line(self, line: int, high: bool) -> None:
        """Set a digital line; closing the DAQ sets it low."""
        line = self._index("line", line, self.line_count)
        self._raised.add(line)
        self._set_line(line, bool(high))

    @exchange
    def read_line(self, line: int) -> bool:
        """Read a digital line."""
        return self._read_line(self._index("line", line, self.line_count))

    @exchange
    def count(self, counter: int = 0) -> int:
        """Return the edges that a counter has counted."""
        return self._count(self._index("counter", counter, self.counter_count))

    @exchange
    def reset_count(self, counter: int = 0) -> None:
        """Reset a counter to zero."""
        self._reset_count(self._index("counter", counter, self.counter_count))

    def _index(self, what: str, number: Any, count: int) -> int:
        number = _whole(number, f"{self.name}: {what}")
        if not 0 <= number < count:
            raise LimitExceeded(
                f"{self.name} has no {what} {number}; it has {count}, counted from 0"
            )
        return number

    def _make_safe(self) -> None:
        """Set used outputs to 0 V, or the nearest possible voltage, and used lines low."""
        low, high = self.output_range_v
        safe_v = min(max(0.0, low), high)
        actions: list[Callable[[], None]] = [
            *(partial(self._write, channel, safe_v) for channel in sorted(self._written)),
            *(partial(self._set_line, line, False) for line in sorted(self._raised)),
        ]
        self._written.clear()
        self._raised.clear()
        for action in actions:
            try:
                self._logged("making an output safe", action)
            except Disconnected:
                raise
            except InstrumentError as error:  # continue with the others
                LOG.warning("%s", error)

    def _settings(self) -> Mapping[str, Any]:
        return {
            "inputs": self.input_count,
            "outputs": self.output_count,
            "lines": self.line_count,
            "counters": self.counter_count,
            "bit_depth": self.bit_depth,
            "input_range_v": self.input_range_v,
        }

    def _self_test(self) -> list[Finding]:
        if not self.input_count:
            return []
        try:
            volts = self.read((0,), 1).volts
        except InstrumentTimeout as error:
            return [Finding("reads a voltage", False, str(error))]
        return [Finding("reads a voltage", True, f"{volts[0, 0]:.4g} V")]


def _whole(number: Any, what: str) -> int:
    """Return an integer of Python or numpy as an int."""
    try:
        return index(number)
    except TypeError:
        raise InputError(f"{what} {number!r} is not an integer") from None
