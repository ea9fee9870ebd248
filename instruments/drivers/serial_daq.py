"""`SerialDaq`: a microcontroller as a DAQ, over a serial line, with a checksum on every line.

    [instruments.detector]
    driver = "serial-daq"
    address = "/dev/ttyACM0"

The protocol is in docs/reference/serial-daq.md, a firmware in examples/serial_daq. Each question
has a number that its reply repeats, so that a late or damaged reply is never taken for another.
"""

from __future__ import annotations

import logging
import re
import time
from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import serial
from pydantic import Field

from ..base import Identity
from ..camera import Shot
from ..daq import Daq, Samples
from ..errors import (
    Disconnected,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    LimitExceeded,
    ProtocolError,
    is_port_in_use,
)
from ..serial_line import SerialOptions
from ..trust import SerialPort
from ..units import Seconds

LOG = logging.getLogger("lightloom.instruments")

POLL_S = 0.05  # waiting time of one read of the port, and the resolution of time-outs
LONGEST_LINE = 4096
_PARITY = {name: name[0].upper() for name in ("none", "odd", "even", "mark", "space")}
_FLOW = {"xon/xoff": "xonxoff", "rts/cts": "rtscts", "dtr/dsr": "dsrdtr"}
TRANSFER_S = 1.0  # time to transfer the samples of a scan


def framed(start: str, body: str) -> bytes:
    """Return a line: start, body, "*", CRC-16/CCITT-FALSE of the body in 4 hex digits, line end."""
    return f"{start}{body}*{crc_hqx(body.encode('ascii'), 0xFFFF):04X}\n".encode("ascii")


def unframed(start: str, line: bytes) -> list[str] | None:
    """Return the words of a line; None when it is damaged or does not begin with `start`."""
    body = line.strip().decode("ascii", "replace").removeprefix(start).rpartition("*")[0]
    if not body.isascii() or framed(start, body).strip() != line.strip():
        return None
    return body.split()


class SerialDaqOptions(SerialOptions):
    """The address of the device and the settings of its line."""

    address: SerialPort = Field(min_length=1)
    """Port, such as "COM3" or "/dev/ttyACM0", or a URL of pyserial.

    URLs are "socket://HOST:PORT", "rfc2217://HOST:PORT" and "loop://".
    """
    baud_rate: int = Field(default=115_200, gt=0)
    """Baud rate of the line."""
    timeout_s: Seconds = Field(default=1.0, gt=0)
    """Time-out of each question."""
    restart_time_s: Seconds = 2.0
    """Waiting time after opening, since many boards restart and then receive nothing."""


class SerialDaq(Daq):
    """A DAQ that uses the line protocol of lightloom."""

    driver: ClassVar[str] = "serial-daq"
    Options = SerialDaqOptions
    _port: Any = None

    # --- connecting ------------------------------------------------------------------------------

    def _connect(self, timeout_s: float) -> Identity:
        options = self.options
        is_remote = options.address.startswith("rfc2217://")  # without write_timeout in pyserial
        try:
            self._port = serial.serial_for_url(
                options.address,
                baudrate=options.baud_rate,
                timeout=POLL_S,
                write_timeout=None if is_remote else options.timeout_s,
                exclusive=True,
                **_settings_of(options),
            )
        except (OSError, ValueError) as error:
            raise (InUse if is_port_in_use(error) else Disconnected)(
                f"{self.name}: {options.address} cannot be opened ({error}); check address, cable, "
                "permissions, and that no other program holds it"
            ) from error
        self._buffer, self._number = b"", 0
        self._unanswered: set[str] = set()
        self.clock.sleep_until(self.clock.now_s() + options.restart_time_s)
        self._port.reset_input_buffer()  # a start-up message of the board
        return self._take_over(self._ask("ID", timeout_s=timeout_s)[0])

    def _take_over(self, words: list[str]) -> Identity:
        """Set the attributes from the reply of the device to ID."""
        try:
            info = dict(word.split("=", 1) for word in words)
            if info["protocol"] != "1":
                raise InstrumentError(
                    f"{self.name} uses protocol {info['protocol']}, and this driver protocol 1; "
                    "load the firmware of this release"
                )
            self.input_count, self.output_count = _count(info["inputs"]), _count(info["outputs"])
            self.line_count, self.counter_count = _count(info["lines"]), _count(info["counters"])
            self.bit_depth, self._most = _count(info["bits"], 1, 32), _count(info["samples"], 1)
            self.input_range_v = _range_of(info["in_uv"], 1e-6)
            self.output_range_v = _range_of(info["out_uv"], 1e-6)
            self.rate_limits_hz = _range_of(info["rate_hz"], 1.0)
            if not 0 < self.rate_limits_hz[1] <= 1e9:
                raise ValueError(f"rate_hz {info['rate_hz']}")
            return Identity(info["maker"], info["model"], info["serial"], info["firmware"])
        except (KeyError, ValueError) as error:
            raise ProtocolError(
                f"{self.name} ({self.address}) does not report its data ({error!r}): {words}; "
                "load the firmware of examples/serial_daq"
            ) from error

    def _disconnect(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        line = getattr(port, "_socket", None)  # pyserial drops it when the other side closed
        port.close()
        if line is not None:
            line.close()

    # --- hooks of the DAQ ------------------------------------------------------------------------

    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        count = len(channels) * samples
        if count > self._most:
            raise LimitExceeded(
                f"{self.name}: {len(channels)} x {samples} samples exceed its memory of "
                f"{self._most}"
            )
        period_us = int(1e6 / rate_hz + 1e-6)  # never slower than requested
        started_at_s = self.clock.now_s()
        names = ",".join(map(str, channels))
        end, *data = self._ask(
            "SCAN", names, str(samples), str(period_us), timeout_s=timeout_s + TRANSFER_S
        )
        counts = self._counts(data, count)
        late_us = self._integer(end[1:2])
        if self._integer(end[:1]) != count:
            raise ProtocolError(f"{self.name} reports {end[0]} samples instead of {count}")
        if late_us > period_us:
            raise InstrumentError(
                f"{self.name} fell {late_us} us behind its rate; ask for less than {rate_hz:g} Hz"
            )
        low_v, high_v = self.input_range_v
        step_v = (high_v - low_v) / ((1 << int(self.bit_depth or 1)) - 1)
        volts = low_v + counts.reshape(samples, len(channels)).T * step_v
        return Samples(volts, 1e6 / period_us, started_at_s, shot)

    def _counts(self, data: list[list[str]], count: int) -> np.ndarray:
        """Return the joined pieces of a scan; each begins with the index of its first number."""
        numbers: list[int] = []
        for first, *piece in data:
            if self._integer([first]) != len(numbers):
                raise ProtocolError(
                    f"{self.name}: a piece of the scan was lost before number {first}"
                )
            numbers += [self._integer([number]) for number in piece]
        highest = (1 << int(self.bit_depth or 1)) - 1
        if len(numbers) != count or max(numbers) > highest:
            raise ProtocolError(
                f"{self.name}: expected {count} counts up to {highest}, received {len(numbers)} up "
                f"to {max(numbers, default=0)}"
            )
        return np.array(numbers, dtype=np.float64)

    def _write(self, channel: int, volts: float) -> None:
        self._ask("OUT", str(channel), str(round(volts * 1e6)))

    def _set_line(self, line: int, high: bool) -> None:
        self._ask("SET", str(line), str(int(high)))

    def _read_line(self, line: int) -> bool:
        return bool(self._integer(self._ask("GET", str(line))[0]))

    def _count(self, counter: int) -> int:
        return self._integer(self._ask("COUNT", str(counter))[0])

    def _reset_count(self, counter: int) -> None:
        self._ask("ZERO", str(counter))

    def _integer(self, words: list[str]) -> int:
        if len(words) != 1 or not (words[0].isascii() and words[0].isdigit()):
            raise ProtocolError(f"{self.name}: expected an integer, not {' '.join(words)!r}")
        return int(words[0])

    # --- one exchange ----------------------------------------------------------------------------

    def _ask(self, *words: str, timeout_s: float | None = None) -> list[list[str]]:
        """Ask, and return the words of the final reply, then those of the data lines before it."""
        deadline_s = time.monotonic() + (timeout_s or self.options.timeout_s)
        self._number = (self._number + 1) % 256
        tag, question = f"{self._number:02X}", " ".join(words)
        self._unanswered.add(tag)  # until its reply is complete
        sent = framed(">", f"{tag} {question}")
        try:
            self._port.write(sent)
        except serial.SerialTimeoutException as error:
            raise InstrumentTimeout(
                f"{self.name} ({self.address}) does not accept {question!r}"
            ) from error
        self._check_echo(sent, question, deadline_s)
        data: list[list[str]] = []
        while True:
            kind, rest = self._next_reply(tag, question, deadline_s)
            if kind == "D" and rest:
                data.append(rest)
            elif kind == "OK":
                self._unanswered.clear()  # replies are ordered: older ones will not arrive any more
                return [rest, *data]
            elif kind == "NO":
                raise InstrumentError(f"{self.name} refuses {question!r}: {' '.join(rest)}")
            else:
                raise ProtocolError(f"{self.name} replies to {question!r} with {kind!r}")

    def _check_echo(self, sent: bytes, question: str, deadline_s: float) -> None:
        if self.options.echo:
            echo = self._next_line(question, deadline_s)
            if echo.strip() != sent.strip():
                raise ProtocolError(
                    f"{self.name} ({self.address}) does not echo {question!r} but replies "
                    f"{echo[:60]!r}; remove the option echo, or check baud rate and cable"
                )

    def _next_reply(self, tag: str, question: str, deadline_s: float) -> tuple[str, list[str]]:
        """Return the next line of this question; skip late lines of earlier ones with a warning."""
        while True:
            line = self._next_line(question, deadline_s)
            words = unframed("<", line)
            if words is None or len(words) < 2:
                raise ProtocolError(
                    f"{self.name} ({self.address}) replies to {question!r} with a damaged line, "
                    f"{line[:60]!r}; check baud rate and cable"
                )
            if words[0] == tag:
                return words[1], words[2:]
            if words[0] not in self._unanswered:
                raise ProtocolError(
                    f"{self.name} replies to {question!r} with an unrequested line: {words}"
                )
            LOG.warning("%s: a late reply was discarded: %s", self.name, " ".join(words))

    def _next_line(self, question: str, deadline_s: float) -> bytes:
        while b"\n" not in self._buffer:
            if time.monotonic() >= deadline_s or len(self._buffer) > LONGEST_LINE:
                self._raise_no_reply(question)
            self._buffer += self._port.read(max(1, self._port.in_waiting))
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _raise_no_reply(self, question: str) -> None:
        source, received = f"{self.name} ({self.address})", self._buffer
        if len(received) > LONGEST_LINE:
            self._buffer = b""
            raise ProtocolError(
                f"{source} replies to {question!r} without end: {received[:40]!r}..."
            )
        if received:
            raise ProtocolError(
                f"{source} replies to {question!r} with half a line, {received[-40:]!r}"
            )
        raise InstrumentTimeout(
            f"{source} did not reply to {question!r} in time; check power, baud rate and firmware"
        )


def _settings_of(options: SerialDaqOptions) -> dict[str, Any]:
    """Return the settings of a line as arguments of pyserial."""
    line = options.line_settings()
    flow = line.pop("flow_control", "none")
    names = {"parity": "parity", "data_bits": "bytesize", "stop_bits": "stopbits"}
    settings: dict[str, Any] = {names[key]: value for key, value in line.items()}
    if "parity" in settings:
        settings["parity"] = _PARITY[settings["parity"]]
    return settings | ({_FLOW[flow]: True} if flow in _FLOW else {})


def _count(text: str, least: int = 0, most: int = 1 << 24) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ValueError(f"a count of {text}")
    return int(text)


def _range_of(text: str, unit: float) -> tuple[float, float]:
    found = re.fullmatch(r"(-?[0-9]{1,12}):(-?[0-9]{1,12})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(f"range {text}")
    return int(found[1]) * unit, int(found[2]) * unit
