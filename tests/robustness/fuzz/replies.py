"""Targets of `fuzz` that read instruments: replies that are late, lost, cut or nonsense.

A device here obeys every command and knows the right answers; its replies may change on the way. A
value from a driver must be the device's own. Where the reply was rewritten, it must be the value of
that reply, and one that such a device can give. In the end every source is dark.
"""

import contextlib
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyvisa
import serial
from lightloom.instruments import VirtualClock, create
from lightloom.instruments.drivers import serial_daq, visa
from lightloom.instruments.drivers.serial_daq import framed, unframed
from pyvisa.constants import StatusCode
from scpi_devices import Device, Meter, Multimeter, RedPitaya, Scope, Source

from .mutations import changed_bytes
from .trying import Attempt, Target, want

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ODD = (
    *("1e400", "-0.1", "0.001abc", "nan", "NAN", "inf", "-INF", "9.9E+37", "9.91E+37", "", " "),
    *("1_0", "0x10", "1,2", "--1", "1e", "+", "ON", "OFF", "1", "0", "2", "-1", "\u0661", "é"),
    *("1.0.0", "1 2", "true", "None", "+0", '-113,"Undefined header"', "9" * 400, "1e30"),
    *("-9.9E37", "16384", "16380.5"),
)


class _Line:
    """VISA resource of a bus that frames its messages; some of the replies are spoilt."""

    def __init__(self, device: Device, random: Random, rate: float) -> None:
        self.visalib, self.session, self.timeout = SimpleNamespace(sessions={}), 0, 0
        self._device, self._random, self._rate = device, random, rate
        # what travels, and whether END is with it
        self._pending: deque[tuple[bytes, bool]] = deque()
        self._late: list[tuple[bytes, bool]] = []
        self._last = b"0\n"
        self.rewritten: dict[str, bytes] = {}  # question -> the reply that took the answer's place

    def write(self, command: str) -> None:
        is_last_hope = command == "OUTP OFF"
        if not is_last_hope and self._random.random() < self._rate / 10:  # not taken
            raise pyvisa.errors.VisaIOError(StatusCode.error_timeout)
        answer = self._device.reply(command)
        if answer is None:
            return
        self._pending.extend(self._late)
        self._late.clear()
        whole = answer.encode("utf-8") + b"\n"
        if self._random.random() >= self._rate:
            self._pending.append((whole, True))
        else:
            self._spoil(command, whole)
        self._last = whole

    def _spoil(self, command: str, whole: bytes) -> None:
        kind, random = self._random.randrange(8), self._random
        if kind == 0:  # lost
            return
        if kind == 1:  # too late
            self._late.append((whole, True))
        elif kind == 2:  # cut
            self._pending.append((whole[: random.randrange(len(whole))], False))
        elif kind == 3:  # in two pieces, the second perhaps too late
            at = random.randrange(1, len(whole))
            self._pending.append((whole[:at], False))
            (self._pending if random.random() < 0.5 else self._late).append((whole[at:], True))
        else:
            given = self._other(kind, whole)
            self.rewritten[command] = given
            self._pending.append((given, True))

    def _other(self, kind: int, whole: bytes) -> bytes:
        if kind == 4:
            return self._random.choice(_ODD).encode() + b"\n"
        if kind == 5:
            return changed_bytes(self._random, whole)
        if kind == 6:
            return self._random.randbytes(self._random.randrange(1, 40)) + b"\n"
        return self._last

    def read_raw(self) -> bytes:
        """Return bytes up to the next END, as pyvisa does; without END there is a time-out."""
        got, has_ended = b"", False
        while not has_ended:
            if not self._pending:
                raise pyvisa.errors.VisaIOError(StatusCode.error_timeout)
            piece, has_ended = self._pending.popleft()
            got += piece
        return got

    def close(self) -> None:
        self._pending.clear()


@contextlib.contextmanager
def _ticking() -> Iterator[None]:
    """Advance a driver's clock at each reading, so that no outcome depends on this computer."""
    looks = count()
    clock = SimpleNamespace(monotonic=lambda: next(looks) * 2e-4)
    with patch.object(visa, "time", clock), patch.object(serial_daq, "time", clock):
        yield


@contextlib.contextmanager
def _connected(
    driver: str, options: dict[str, Any], device: Device, random: Random
) -> Iterator[tuple[Any, _Line]]:
    """Return an instrument at the end of a line that spoils some of the replies."""
    line = _Line(device, random, random.choice((0.02, 0.1, 0.4)))
    address = f"GPIB{os.getpid()}::1::INSTR"  # a device is one process's, and several may fuzz
    given = {"address": address, "timeout_s": 0.02, **options}
    with (
        _ticking(),
        patch.object(visa.VisaLink, "_open", lambda link, timeout_s: line),
        contextlib.closing(create(driver, driver, given, VirtualClock())) as made,
    ):
        made.connect(0.02)
        yield made, line


def _says(reply: bytes, count: int = 1, strip: str = "") -> list[float] | None:
    """Return the numbers in a reply, None where it does not hold `count` numbers."""
    try:
        text = reply.removesuffix(b"\n").decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    parts = [part.strip() for part in text.strip(strip or None).split(",")]
    if len(parts) != count or not all(map(_NUMBER.fullmatch, parts)):
        return None
    return [float(part) for part in parts]


def _check(found: list[float], true: list[float], reply: bytes | None, strip: str = "") -> None:
    """Check that numbers are the device's, or those of a rewritten reply."""
    if found == true:
        return
    want(reply is not None, f"{found[:4]} was read where the device holds {true[:4]}")
    said = _says(reply or b"", len(true), strip)
    want(said == found, f"{found[:4]} was read of {(reply or b'')[:60]!r}")
    want(all(abs(value) < 9e37 for value in found), f"{found[:4]} is SCPI's word for no number")


# --- sources and meters ---------------------------------------------------------------------------


def _sources(folder: Path) -> Iterator[Attempt]:
    commands = {"ask_highest": "SOUR:POW? MAX", "interlock": "SYST:INT?"}
    options = {"watts_per_unit": 1e-3, "max_power_w": "5 mW", "commands": commands}

    def attempt(random: Random) -> None:
        device = Source()
        try:
            with _connected("scpi-source", options, device, random) as (source, line):
                want(0 <= source.power_limits_w[1] <= 5e-3, f"limits {source.power_limits_w}")
                for _ in range(random.randrange(1, 6)):
                    line.rewritten.clear()
                    _operate(random, source, device, line)
        finally:
            want(not device.is_on, "the source is left on")

    yield attempt


def _operate(random: Random, source: Any, device: Source, line: _Line) -> None:
    kind = random.randrange(4)
    if kind == 0:
        power_w = random.uniform(0, 5e-3)
        source.set_power(power_w)
        want(math.isclose(device.power, power_w * 1e3, rel_tol=0.02, abs_tol=1e-5), "another power")
    elif kind == 1:
        source.enable()
        want(device.power <= 5.0, f"light of {device.power} mW")
    elif kind == 2:
        source.disable()
        want(not device.is_on, "the source is left on")
    elif "OUTP?" not in line.rewritten:
        emits = source.is_emitting()
        want(emits == device.is_on or "OUTP?" in line.rewritten, "says another state of emission")


def _meters(folder: Path) -> Iterator[Attempt]:
    def attempt(random: Random) -> None:
        device = Meter()
        with _connected("scpi-power-meter", {}, device, random) as (meter, line):
            for _ in range(random.randrange(1, 6)):
                line.rewritten.clear()
                power_w = meter.read_power(0.02)
                _check([power_w], [float(f"{device.asked}e-6")], line.rewritten.get("MEAS:POW?"))
                want(-0.01 <= power_w <= 1e6, f"{power_w} W is not a power")

    yield attempt


# --- DAQs over SCPI -------------------------------------------------------------------------------

_SAMPLES = 4


@dataclass(frozen=True)
class _Dialect:
    """What a DAQ over SCPI is asked and holds.

    Parameters
    ----------
    question : for the samples of an input, by its number from 1 on
    strip : characters around the numbers of a reply
    volts : returns the samples of a channel
    """

    device: type[Device]
    question: str
    strip: str
    limit_v: float
    volts: Callable[[int], list[float]]


_DIALECTS = {
    "red-pitaya": _Dialect(
        RedPitaya,
        "ACQ:SOUR{0}:DATA:STArt:N? 16380,4",
        "{}",
        1.0,
        lambda channel: [round(0.1 * (channel + 1) + n / 2**14, 6) for n in range(_SAMPLES)],
    ),
    "multimeter": _Dialect(Multimeter, "READ?", "", 1000.0, lambda channel: [1.5] * _SAMPLES),
    "scope": _Dialect(Scope, ":WAV:DATA?", "#", 40.0, lambda channel: [channel + 1.0] * _SAMPLES),
}


def _scpi_daqs(folder: Path) -> Iterator[Attempt]:
    def attempt(random: Random) -> None:
        name = random.choice(list(_DIALECTS))
        dialect, is_slow = _DIALECTS[name], name == "multimeter"
        channels = (0,) if is_slow else random.choice(((0,), (1, 0)))
        with _connected("scpi-daq", {"dialect": name}, dialect.device(), random) as (daq, line):
            for _ in range(random.randrange(1, 4)):
                line.rewritten.clear()
                read = daq.read(channels, _SAMPLES, 50.0 if is_slow else 1e5, 0.2)
                _check_scan(read, channels, dialect, line)

    yield attempt


def _check_scan(read: Any, channels: tuple[int, ...], dialect: _Dialect, line: _Line) -> None:
    want(bool((np.abs(read.volts) <= 1.5 * dialect.limit_v).all()), f"{read.volts} is out of range")
    want(0 < read.rate_hz < 1e12, f"a rate of {read.rate_hz} Hz")
    if ":WAV:PRE?" not in line.rewritten and dialect.device is Scope:
        want(math.isclose(read.rate_hz, 1e6), f"a rate of {read.rate_hz} Hz")
    if "ACQ:TPOS?" in line.rewritten:  # another place in the buffer: samples of another moment
        return
    for volts, channel in zip(read.volts, channels, strict=True):
        reply = line.rewritten.get(dialect.question.format(channel + 1))
        if reply is None or dialect.strip != "#":
            _check(volts.tolist(), dialect.volts(channel), reply, dialect.strip)


# --- the serial DAQ -------------------------------------------------------------------------------

_HAS = dict(
    word.split("=")
    for word in (
        "protocol=1 inputs=4 outputs=2 lines=8 counters=1 bits=10 samples=256 in_uv=0:5000000 "
        "out_uv=0:5000000 rate_hz=1:10000 maker=lightloom model=serial-daq serial=1 firmware=1.0"
    ).split()
)


class _Port:
    """Serial port of a board; some of the lines of the board arrive changed.

    Parameters
    ----------
    has : the description of the board, by key
    """

    def __init__(self, random: Random, rate: float, has: Mapping[str, str] = _HAS) -> None:
        self._random, self._rate, self._has = random, rate, has
        self._got = b""
        self.level = [False] * 8

    @property
    def in_waiting(self) -> int:
        return len(self._got)

    def reset_input_buffer(self) -> None:
        self._got = b""

    def close(self) -> None:
        self._got = b""

    def read(self, size: int) -> bytes:
        found, self._got = self._got[:size], self._got[size:]
        return found

    def write(self, line: bytes) -> None:
        words = unframed(">", line)
        want(words is not None, f"the driver sent {line!r}")
        for answer in self._answers(words or []):
            whole = framed("<", answer)
            spoilt = whole if self._random.random() >= self._rate else self._spoilt(whole)
            self._got += spoilt

    def _spoilt(self, whole: bytes) -> bytes:
        kind, random = self._random.randrange(7), self._random
        if kind == 0:
            return b""
        if kind == 1:
            return whole + whole
        if kind == 2:
            return random.randbytes(random.randrange(1, 30)) + whole
        if kind == 3:  # of another question
            return framed("<", f"{random.randrange(256):02X} OK 7")
        if kind == 4:
            return framed("<", random.choice(("", "00", "zz OK", "00 NO busy", "00 D", "00 D x")))
        if kind == 5:
            return whole[: random.randrange(len(whole))]
        changed = changed_bytes(random, whole)
        lines = [line for line in changed.split(b"\n") if line and unframed("<", line) is not None]
        return changed if all(line + b"\n" == whole for line in lines) else b""  # no lucky checksum

    def _answers(self, words: list[str]) -> list[str]:
        tag, command, *rest = words
        if command == "ID":
            return [f"{tag} OK " + " ".join(f"{key}={value}" for key, value in self._has.items())]
        if command == "SCAN":
            channels, samples = rest[0].split(","), int(rest[1])
            counts = [str(10 * int(c) + n) for n in range(samples) for c in channels]
            pieces = [counts[at : at + 6] for at in range(0, len(counts), 6)]
            lines = [f"{tag} D {6 * n} {' '.join(piece)}" for n, piece in enumerate(pieces)]
            return [*lines, f"{tag} OK {len(counts)} 0"]
        if command == "SET":
            self.level[int(rest[0])] = rest[1] == "1"
        if command == "GET":
            return [f"{tag} OK {int(self.level[int(rest[0])])}"]
        return [f"{tag} OK 12"] if command == "COUNT" else [f"{tag} OK"]


@contextlib.contextmanager
def _board(port: _Port) -> Iterator[Any]:
    """Return a connected serial DAQ at a port."""
    options = {"address": f"COM{os.getpid()}", "timeout_s": 0.01, "restart_time_s": 0}
    with (
        _ticking(),
        patch.object(serial_daq, "TRANSFER_S", 0.01),
        patch.object(serial, "serial_for_url", lambda *_, **__: port),
        contextlib.closing(create("serial-daq", "daq", options, VirtualClock())) as daq,
    ):
        daq.connect(0.01)
        yield daq


def _serial_daqs(folder: Path) -> Iterator[Attempt]:
    def attempt(random: Random) -> None:
        port = _Port(random, random.choice((0.02, 0.1, 0.4)))
        with _board(port) as daq:
            want(daq.input_count == 4 and daq.bit_depth == 10, "says what it has not")
            for _ in range(random.randrange(1, 5)):
                _ask_board(random, daq, port)

    yield attempt


def _ask_board(random: Random, daq: Any, port: _Port) -> None:
    kind = random.randrange(4)
    if kind == 0:
        volts = daq.read((3, 0), 5, 1000.0, 0.01).volts
        counts = np.array([[30 + n for n in range(5)], list(range(5))])
        want(bool(np.allclose(volts, counts * 5 / 1023)), f"{volts} was read")
    elif kind == 1:
        line, high = random.randrange(8), random.random() < 0.5
        daq.set_line(line, high)
        want(port.level[line] == high, "a line was not set")
    elif kind == 2:
        line = random.randrange(8)
        want(daq.read_line(line) == port.level[line], "another level was read")
    else:
        want(daq.count() == 12, "another count was read")


def _boards(folder: Path) -> Iterator[Attempt]:
    """Try boards whose lines are valid, and describe odd boards."""
    odd = ("", "-1", "0", "1_0", "1e3", "5:1", "x", "9" * 30, "64", "0:0")

    def attempt(random: Random) -> None:
        has = dict(_HAS)
        for _ in range(random.randrange(1, 3)):
            key = random.choice(sorted(has))
            has[key] = random.choice(odd)
            if random.random() < 0.1:
                del has[key]
        with _board(_Port(random, 0.0, has)) as daq:
            want(0 <= daq.input_count < 1e6 and 1 <= daq.bit_depth <= 64, "impossible board")
            want(0 < daq.rate_limits_hz[1] < 1e12, f"rates {daq.rate_limits_hz}")
            volts = daq.read((0,), 5, min(1000.0, daq.rate_limits_hz[1]), 1.0).volts
            want(bool(np.isfinite(volts).all()), f"{volts}")
            want(volts.min() >= daq.input_range_v[0] - 1e-9, "below the range")

    yield attempt


REPLIES = (
    Target("light sources", 0.1, _sources),
    Target("power meters", 0.08, _meters),
    Target("DAQs over SCPI", 0.1, _scpi_daqs),
    Target("serial DAQ", 0.06, _serial_daqs),
    Target("serial boards", 0.03, _boards),
)
