"""`ScpiDaq`: reads voltages from a Red Pitaya, a multimeter or an oscilloscope, by SCPI over VISA.

In a bench file:

[instruments.detector]
driver = "scpi-daq"
address = "TCPIP::192.168.1.5::5000::SOCKET"
dialect = "red-pitaya"

A dialect holds the properties of a family of devices and the commands of a voltage scan. A
laboratory adds its own to `DIALECTS`. Not here: the connection (`visa`), the checks (`Daq`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from ..camera import Shot
from ..clock import Clock
from ..daq import Daq, Samples
from ..errors import InstrumentError, InstrumentTimeout, LimitExceeded
from ..toml_file import one_of
from .visa import VisaInstrument, VisaLink, VisaOptions, numbers_in


@dataclass(frozen=True)
class Scan:
    """A requested scan: channels counted from 0, and the moment of its time-out."""

    channels: Sequence[int]
    samples: int
    rate_hz: float
    deadline_s: float


@dataclass(frozen=True)
class Dialect(ABC):
    """The properties and commands of a family of instruments."""

    inputs: int
    outputs: int = 0
    lines: int = 0
    rate_limits_hz: tuple[float, float] = (0.0, float("inf"))
    input_range_v: tuple[float, float] = (-10.0, 10.0)
    output_range_v: tuple[float, float] = (-10.0, 10.0)
    bit_depth: int | None = None
    most_samples: int = 1 << 20

    @abstractmethod
    def scan(self, link: VisaLink, scan: Scan, clock: Clock) -> tuple[np.ndarray, float]:
        """Return voltages [channels, samples] and the actual sample rate."""

    def write(self, link: VisaLink, channel: int, volts: float) -> None:
        """Set the voltage of an output."""
        raise NotImplementedError

    def set_line(self, link: VisaLink, line: int, high: bool) -> None:
        """Set a digital line."""
        raise NotImplementedError

    def read_line(self, link: VisaLink, line: int) -> bool:
        """Read a digital line."""
        raise NotImplementedError


@dataclass(frozen=True)
class RedPitaya(Dialect):
    """Red Pitaya STEMlab 125-14, its SCPI server on TCP port 5000.

    Fast inputs 1 and 2 (0 and 1 here, jumpers at LV), slow outputs AOUT0-3, lines DIO0_P-DIO7_P.
    Commands: the vendor's "List of supported SCPI commands", acquisition, of OS 1.04 and up.
    """

    inputs: int = 2
    outputs: int = 4
    lines: int = 8
    rate_limits_hz: tuple[float, float] = (125e6 / 65_536, 125e6)
    input_range_v: tuple[float, float] = (-1.0, 1.0)
    output_range_v: tuple[float, float] = (0.0, 1.8)
    bit_depth: int | None = 14
    most_samples: int = 16_384

    def scan(self, link: VisaLink, scan: Scan, clock: Clock) -> tuple[np.ndarray, float]:
        """Trigger at once and return the samples from the trigger on."""
        # never slower than requested
        decimation = 1 << min(16, int(np.log2(125e6 / scan.rate_hz) + 1e-9))
        rate_hz = 125e6 / decimation
        link.write(
            "ACQ:RST",
            f"ACQ:DEC {decimation}",
            "ACQ:DATA:UNITS VOLTS",
            "ACQ:DATA:FORMAT ASCII",
            f"ACQ:TRIG:DLY {max(0, scan.samples - 8192)}",  # 8192 follow the trigger in any case
            "ACQ:START",
            "ACQ:TRIG NOW",
        )
        self._wait(link, "ACQ:TRIG:STAT?", "TD", scan, clock)
        clock.sleep_until(clock.now_s() + scan.samples / rate_hz)
        self._wait(link, "ACQ:TRIG:FILL?", "1", scan, clock)
        start = link.ask_number("ACQ:TPOS?")
        if not (start.is_integer() and 0 <= start < self.most_samples):
            link.refuse("ACQ:TPOS?", f"{start:g}", f"a position below {self.most_samples}")
        volts = [
            link.ask_numbers(
                f"ACQ:SOUR{channel + 1}:DATA:STArt:N? {start:.0f},{scan.samples}",
                scan.samples,
                max(scan.deadline_s - clock.now_s(), 0.05),
                strip="{}",
            )
            for channel in scan.channels
        ]
        return np.array(volts), rate_hz

    def _wait(self, link: VisaLink, question: str, reply: str, scan: Scan, clock: Clock) -> None:
        while link.query(question).strip() != reply:
            if clock.now_s() >= scan.deadline_s:
                raise InstrumentTimeout(
                    f"{link.name} did not reply {reply!r} to {question!r} in time; "
                    "give the read a longer timeout_s"
                )
            clock.sleep_until(clock.now_s() + 0.001)

    def write(self, link: VisaLink, channel: int, volts: float) -> None:
        """Set a slow analogue output."""
        link.write(f"ANALOG:PIN AOUT{channel},{volts:.6f}")

    def set_line(self, link: VisaLink, line: int, high: bool) -> None:
        """Configure a pin of the extension connector as an output and set it."""
        link.write(f"DIG:PIN:DIR OUT,DIO{line}_P", f"DIG:PIN DIO{line}_P,{int(high)}")

    def read_line(self, link: VisaLink, line: int) -> bool:
        """Read a pin, whether it is an input or an output."""
        return link.ask_switch(f"DIG:PIN? DIO{line}_P")


@dataclass(frozen=True)
class Multimeter(Dialect):
    """A bench multimeter of the Keysight 34461A family: one input, integration over mains cycles.

    The integration time limits the rate to `mains_hz` / NPLC, with auto-zero off.
    """

    inputs: int = 1
    rate_limits_hz: tuple[float, float] = (0.5, 2500.0)
    input_range_v: tuple[float, float] = (-1000.0, 1000.0)
    most_samples: int = 10_000
    mains_hz: float = 50.0
    cycles: tuple[float, ...] = (100.0, 10.0, 1.0, 0.2, 0.02)  # NPLC, slowest and finest first

    def scan(self, link: VisaLink, scan: Scan, clock: Clock) -> tuple[np.ndarray, float]:
        """Return consecutive samples, with the longest integration that the rate allows."""
        least_hz = scan.rate_hz * (1 - 1e-9)
        fitting = (nplc for nplc in self.cycles if self.mains_hz / nplc >= least_hz)
        cycles = next(fitting, self.cycles[-1])
        link.write(
            "CONF:VOLT:DC AUTO",
            f"VOLT:DC:NPLC {cycles:g}",
            "VOLT:DC:ZERO:AUTO OFF",
            "TRIG:SOUR IMM",
            f"SAMP:COUN {scan.samples}",
        )
        check_errors(link)
        left_s = max(scan.deadline_s - clock.now_s(), 0.05)
        return np.array([link.ask_numbers("READ?", scan.samples, left_s)]), self.mains_hz / cycles


@dataclass(frozen=True)
class Scope(Dialect):
    """A bench oscilloscope of the Keysight InfiniiVision family, with its trigger on AUTO."""

    inputs: int = 4
    rate_limits_hz: tuple[float, float] = (1.0, 1e9)
    input_range_v: tuple[float, float] = (-40.0, 40.0)
    bit_depth: int | None = 8
    most_samples: int = 50_000

    def scan(self, link: VisaLink, scan: Scan, clock: Clock) -> tuple[np.ndarray, float]:
        """Return one record of all channels, and the sample rate from its preamble."""
        names = [f"CHAN{channel + 1}" for channel in scan.channels]
        link.write(f":TIM:RANG {scan.samples / scan.rate_hz:.6g}", f":DIG {','.join(names)}")
        left_s = max(scan.deadline_s - clock.now_s(), 0.05)
        link.ask_number("*OPC?", left_s)
        volts, step_s = [], 1.0
        for name in names:
            link.write(f":WAV:SOUR {name}", ":WAV:FORM ASC", f":WAV:POIN {scan.samples}")
            check_errors(link)
            step_s = link.ask_numbers(":WAV:PRE?", 10)[4]
            left_s = max(scan.deadline_s - clock.now_s(), 0.05)
            volts.append(self._values(link, ":WAV:DATA?", scan.samples, left_s))
        if not 1e-12 < step_s < 1e3:
            link.refuse(":WAV:PRE?", f"{step_s:g} s", "a time between samples")
        return np.array(volts), 1 / step_s

    def _values(self, link: VisaLink, question: str, count: int, left_s: float) -> list[float]:
        """Return the numbers of a block, whose header is #8 and the length in 8 digits."""
        answer = link.query(question, left_s)
        digits = int(answer[1]) if answer[:1] == "#" and answer[1:2].isdigit() else 0
        length, body = answer[2 : 2 + digits], answer[2 + digits :]
        values = numbers_in(body)
        is_whole = length.isdigit() and int(length) == len(body)
        if not is_whole or len(values) != count:
            link.refuse(question, answer, f"a block of {count} numbers")
        return values


def check_errors(link: VisaLink) -> None:
    """Query the error queue, because an ignored setting would give wrong numbers."""
    answer = link.query("SYST:ERR?")
    if not answer.lstrip("+-").startswith("0"):
        raise InstrumentError(
            f"{link.name} reports: {answer}; check that its dialect fits {link.identity_line!r}"
        )


DIALECTS: dict[str, Dialect] = {
    "multimeter": Multimeter(),
    "red-pitaya": RedPitaya(),
    "scope": Scope(),
}


class ScpiDaqOptions(VisaOptions):
    """Settings of a DAQ: those of VISA, and `dialect`, a key of `DIALECTS`."""

    dialect: Annotated[str, one_of(DIALECTS)] = "red-pitaya"
    """Family of devices whose commands the driver sends."""


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
        self.output_range_v = dialect.output_range_v
        self.bit_depth = dialect.bit_depth

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
