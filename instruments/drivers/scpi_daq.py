"""`ScpiDaq`: reads voltages from a Red Pitaya, a multimeter or an oscilloscope, by SCPI over VISA.

In a bench file:

[instruments.detector]
driver = "scpi-daq"
address = "TCPIP::192.168.1.5::5000::SOCKET"
dialect = "red-pitaya"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import field_validator

from ..camera import Shot
from ..daq import Daq, Samples
from ..errors import LimitExceeded
from .scpi_dialects import DIALECTS, Dialect, Scan
from .visa import VisaInstrument, VisaOptions


class ScpiDaqOptions(VisaOptions):
    """Settings of a DAQ: those of VISA, and `dialect`, a key of `scpi_dialects.DIALECTS`."""

    dialect: str = "red-pitaya"

    @field_validator("dialect")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DIALECTS:
            raise ValueError(f"choose from {', '.join(sorted(DIALECTS))}")
        return name


class ScpiDaq(VisaInstrument, Daq):
    """A DAQ that speaks SCPI."""

    driver: ClassVar[str] = "scpi-daq"
    Options = ScpiDaqOptions

    def _prepare(self) -> None:
        dialect = self._dialect
        self.input_count, self.output_count = dialect.inputs, dialect.outputs
        self.line_count = dialect.lines
        self.rate_limits_hz = dialect.rate_limits_hz
        self.input_range_v = dialect.input_range_v
        if dialect.outputs:
            self.output_range_v = dialect.output_range_v
        self.bit_depth = dialect.bit_depth
        dialect.prepare(self._link)

    @property
    def _dialect(self) -> Dialect:
        return DIALECTS[self.options.dialect]

    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        most = self._dialect.most_samples
        if samples > most:
            raise LimitExceeded(f"{self.name}: {samples} samples exceed its memory of {most}")
        started_at_s = self.clock.now_s()
        scan = Scan(channels, samples, rate_hz, started_at_s + timeout_s)
        volts, actual_hz = self._dialect.scan(self._link, scan, self.clock)
        return Samples(volts, actual_hz, started_at_s, shot)

    def _write(self, channel: int, volts: float) -> None:
        self._dialect.write(self._link, channel, volts)

    def _set_line(self, line: int, high: bool) -> None:
        self._dialect.set_line(self._link, line, high)

    def _read_line(self, line: int) -> bool:
        return self._dialect.read_line(self._link, line)
