"""Emulated SCPI instruments as plain classes, with one reply or none to each line.

`serve` provides one on a TCP port of this computer, with the faults of a bench; sinstruments
serves the same classes (`tests/kit/sinstruments_devices.py`).
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np


class Device:
    """A device that replies to *IDN? and records all lines that it received."""

    identity = "ACME,Nothing,1,1.0"

    def __init__(self) -> None:
        self.received: list[str] = []

    def reply(self, line: str) -> str | None:
        self.received.append(line)
        return self.identity if line == "*IDN?" else self.answer(line)

    def answer(self, line: str) -> str | None:
        return None


class RedPitaya(Device):
    """Input n has a ramp, n V + sample / 2^14; the buffer is full at the second query."""

    identity = "REDPITAYA,INSTR2023,0,01-02"

    def __init__(self) -> None:
        super().__init__()
        self.pins: dict[str, str] = {}
        self.looks = 0

    def answer(self, line: str) -> str | None:
        word, _, rest = line.partition(" ")
        if word == "ACQ:START":
            self.looks = 0
        if line == "ACQ:TRIG:STAT?":
            return "TD"
        if line == "ACQ:TRIG:FILL?":
            self.looks += 1
            return str(int(self.looks > 1))
        if line == "ACQ:TPOS?":
            return "16380"
        if word.startswith("ACQ:SOUR") and word.endswith("N?"):
            start, count = map(int, rest.split(","))
            volts = int(word[8]) * 0.1 + (np.arange(count) + start - 16380) / 2**14
            return "{" + ",".join(f"{volt:.6f}" for volt in volts) + "}"
        if word in ("ANALOG:PIN", "DIG:PIN", "DIG:PIN:DIR"):
            pin, _, value = rest.partition(",")
            self.pins[pin] = value
        if word == "DIG:PIN?":
            return self.pins.get(rest, "0")
        return None


class Multimeter(Device):
    """A multimeter that reads 1.5 V and reports an error for an unsupported number of cycles."""

    identity = "Keysight Technologies,34461A,MY1,A.02"

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, str] = {}
        self.complaint = '+0,"No error"'

    def answer(self, line: str) -> str | None:
        word, _, rest = line.partition(" ")
        if line == "SYST:ERR?":
            return self.complaint
        if line == "READ?":
            return ",".join(["+1.50000000E+00"] * int(self.settings["SAMP:COUN"]))
        self.settings[word] = rest
        return None


class Scope(Device):
    """An oscilloscope whose channel n reads n V, with samples 1 us apart."""

    identity = "KEYSIGHT TECHNOLOGIES,DSO-X 2004A,MY2,02.41"

    def __init__(self) -> None:
        super().__init__()
        self.source, self.points = "CHAN1", 0

    def answer(self, line: str) -> str | None:
        word, _, rest = line.partition(" ")
        if word == ":WAV:SOUR":
            self.source = rest
        if word == ":WAV:POIN":
            self.points = int(rest)
        if line == "SYST:ERR?":
            return '+0,"No error"'
        if line == "*OPC?":
            return "1"
        if line == ":WAV:PRE?":
            return f"4,0,{self.points},1,1.0E-6,0,0,1,0,0"
        if line == ":WAV:DATA?":
            body = ",".join([f"{int(self.source[-1]):.4E}"] * self.points)
            return f"#8{len(body):08d}{body}"
        return None


class Source(Device):
    """A laser of 20 mW that uses milliwatts."""

    identity = "ACME,Laser 20,77,2.1"

    def __init__(self) -> None:
        super().__init__()
        self.power, self.highest = 1.0, 20.0
        self.is_on = self.shutter_open = False
        self.interlock, self.refuses_to_emit = "1", False

    def answer(self, line: str) -> str | None:
        if line.startswith("SOUR:POW "):
            self.power = min(float(line.split()[1]), self.highest)
        if line.startswith("OUTP "):
            self.is_on = line.endswith("ON") and not self.refuses_to_emit
        if line.startswith("SHUT "):
            self.shutter_open = line.endswith("ON")
        return {
            "SOUR:POW?": f"{self.power:.6f}",
            "SOUR:POW? MAX": f"{self.highest:.3f}",
            "SOUR:POW? MIN": "0.1",
            "OUTP?": str(int(self.is_on)),
            "SYST:INT?": self.interlock,
        }.get(line)


class Meter(Device):
    """A power meter that returns the number of its queries, in microwatts."""

    identity = "THORLABS,PM100D,P0,2.4"

    def __init__(self) -> None:
        super().__init__()
        self.wavelength, self.asked = "635", 0

    def answer(self, line: str) -> str | None:
        if line.startswith("SENS:CORR:WAV "):
            self.wavelength = line.split()[1]
        if line == "SENS:CORR:WAV?":
            return self.wavelength
        if line == "MEAS:POW?":
            self.asked += 1
            return f"{self.asked}e-6"
        return None


@dataclass
class Served:
    """A device on a port. `fault` changes what it sends: it gets a line and a reply."""

    device: Device
    port: int = 0
    fault: Callable[[str, str | None], bytes | None] | None = None
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"TCPIP::127.0.0.1::{self.port}::SOCKET"

    def cut(self) -> None:
        """End all connections, as after a power failure of the device."""
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes) -> None:
        """Send an unrequested line."""
        self.connections[-1].sendall(data)


def _converse(served: Served, connection: socket.socket) -> None:
    """Answer the lines of one connection until it closes."""
    with connection, connection.makefile("rb") as lines:
        try:
            for line in lines:
                text = line.decode().strip()
                reply = served.device.reply(text)
                data = None if reply is None else reply.encode() + b"\n"
                if served.fault is not None:
                    data = served.fault(text, reply)
                if data is not None:
                    connection.sendall(data)
        except OSError:
            return


@contextmanager
def serve(device: Device) -> Iterator[Served]:
    """Serve a device on a free port of this computer, with one thread per connection."""
    served, threads = Served(device), []
    listener = socket.create_server(("127.0.0.1", 0))
    served.port = listener.getsockname()[1]

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            served.connections[:] = [c for c in served.connections if c.fileno() >= 0]
            served.connections.append(connection)
            threads.append(
                threading.Thread(target=_converse, args=(served, connection), daemon=True)
            )
            threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield served
    finally:
        with suppress(OSError):
            listener.shutdown(
                socket.SHUT_RDWR
            )  # wakes the thread that waits for the next connection
        listener.close()
        for connection in served.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
