"""`VisaLink`: a conversation over VISA in which each reply is whole, and belongs to its question.

Shared by all drivers that speak SCPI, over TCP, USB, GPIB or a serial line. Nothing is repeated or
thrown away in silence: after an exchange that was broken off, the next one first asks the device
who it is, and says in the log what it read before that answer. Not here: what is asked.
"""

from __future__ import annotations

import logging
import math
import re
import select
import socket
import time
from threading import Lock
from typing import Any

import pyvisa
from pydantic import Field, model_validator
from pyvisa.constants import ControlFlow, InterfaceType, StatusCode, StopBits
from pyvisa.constants import Parity as VisaParity

from ..base import DriverOptions, Identity, Instrument
from ..clock import Clock
from ..errors import Disconnected, InstrumentError, InstrumentTimeout, InUse, ProtocolError
from ..serial_line import SerialOptions
from ..trust import VisaAddress, VisaBackend
from ..units import Seconds

LOG = logging.getLogger("lightloom.instruments")

LONGEST_REPLY = 1 << 24  # bytes; what is longer is no answer
CHUNK = 1 << 16
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_NUMBER = 9.9e37
GONE = {
    StatusCode.error_connection_lost,
    StatusCode.error_io,
    StatusCode.error_invalid_object,
    StatusCode.error_resource_not_found,
    StatusCode.error_system_error,
}
_ENDS = {StatusCode.success, StatusCode.success_termination_character_read}
_LINE: dict[str, dict[Any, Any]] = {  # a key of the bench file -> what pyvisa calls its values
    "parity": {parity.name: parity for parity in VisaParity},
    "stop_bits": {1: StopBits.one, 1.5: StopBits.one_and_a_half, 2: StopBits.two},
    "flow_control": {
        "none": ControlFlow.none,
        "xon/xoff": ControlFlow.xon_xoff,
        "rts/cts": ControlFlow.rts_cts,
        "dtr/dsr": ControlFlow.dtr_dsr,
    },
}
BUSY = {StatusCode.error_resource_busy, StatusCode.error_resource_locked}

_opening = Lock()  # pyvisa's resource managers are shared, and not made by two threads at once


class VisaOptions(SerialOptions):
    """Where a VISA instrument is, how its lines end, and how a serial line is set.

    Parameters
    ----------
    address : such as "TCPIP::192.168.1.5::5000::SOCKET", "USB0::0x2A8D::...::INSTR" or
        "ASRL/dev/ttyUSB0::INSTR"
    backend : pyvisa's: "@py" is pyvisa-py, "@ivi" a vendor's VISA, "FILE.yaml@sim" a simulation,
        "" what the environment variable PYVISA_LIBRARY names
    timeout_s : for each question
    baud_rate : of a serial line
    identity_query : a question whose answer is known; "" where the device has none
    acknowledge : what the device answers to each command that is not a question, such as "OK"; ""
        where it says nothing
    """

    address: VisaAddress = Field(min_length=1)
    backend: VisaBackend = "@py"
    timeout_s: Seconds = Field(default=2.0, gt=0)
    write_termination: str = "\n"
    read_termination: str = Field(default="\n", min_length=1)
    baud_rate: int | None = Field(default=None, gt=0)
    identity_query: str = "*IDN?"
    acknowledge: str = ""

    @model_validator(mode="after")
    def _line_is_serial(self) -> VisaOptions:
        said = [*self.line_settings(), *(["baud_rate"] if self.baud_rate is not None else [])]
        if said and not self.address.upper().startswith("ASRL"):
            raise ValueError(
                f"{said[0]} belongs to a serial line, and address = {self.address!r} is none; "
                'leave it out, or give an address such as "ASRL/dev/ttyUSB0::INSTR"'
            )
        return self


class VisaLink:
    """An open connection. The instrument that holds it has the lock.

    Parameters
    ----------
    name : of the instrument, for messages
    timeout_s : for opening, and for the first question
    is_shared : open a serial line even where another process may still have it

    Raises
    ------
    InUse, InstrumentTimeout, Disconnected, BadReply : when there is no connection, or no identity
    """

    def __init__(
        self, name: str, options: VisaOptions, timeout_s: float, is_shared: bool = False
    ) -> None:
        self.name, self._options = name, options
        self._is_in_step = True
        self._frames_messages = _frames_messages(options.address)
        self._timeout_ms = math.ceil(options.timeout_s * 1000)
        self._resource: Any = self._open(timeout_s)
        try:
            # pyvisa-py's own session tells what came before a time-out; other libraries do not.
            sessions = getattr(self._resource.visalib, "sessions", {})
            session: Any = sessions.get(self._resource.session)
            self._session: Any = None
            if hasattr(session, "interface"):
                self._session = session
                if hasattr(session.interface, "exclusive") and not is_shared:
                    self._take_line(session.interface)
                if isinstance(session.interface, socket.socket):
                    # Else a command and then a question wait 40 ms for an acknowledgement.
                    session.interface.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.identity_line = ""
            if options.identity_query:
                self.identity_line = self.query(options.identity_query, timeout_s)
        except BaseException:
            self.close()
            raise

    def _open(self, timeout_s: float) -> Any:
        options, milliseconds = self._options, math.ceil(timeout_s * 1000)
        settings: dict[str, Any] = {
            "timeout": self._timeout_ms,
            "write_termination": options.write_termination,
            "read_termination": options.read_termination,
        }
        if options.baud_rate is not None:
            settings["baud_rate"] = options.baud_rate
        for key, value in options.line_settings().items():
            settings[key] = _LINE[key][value] if key in _LINE else value
        try:
            with _opening:
                manager = pyvisa.ResourceManager(options.backend)
            return manager.open_resource(options.address, open_timeout=milliseconds, **settings)
        except Exception as error:  # each library raises what it likes
            code = getattr(error, "error_code", None)
            kind: type[InstrumentError] = Disconnected
            if code in BUSY or "exclusively lock" in str(error):
                kind = InUse
            elif code == StatusCode.error_timeout or "error_timeout" in str(error):
                kind = InstrumentTimeout
            raise kind(
                f"{self.name}: {options.address} cannot be opened ({_one_line(error)}); "
                f"check address, cable, power, and that VISA backend {options.backend!r} knows it"
            ) from error

    def _take_line(self, port: Any) -> None:
        """Hold a serial port against other programs that ask, as pyserial does."""
        try:
            port.exclusive = True
        except (OSError, ValueError) as error:
            raise InUse(
                f"{self.name}: {self._options.address} is held by another program; close that "
                f"first ({_one_line(error)})"
            ) from error

    @property
    def identity(self) -> Identity:
        """The parts of a *IDN? reply: maker, model, serial number, firmware."""
        parts = [part.strip() for part in self.identity_line.split(",", 3)]
        return Identity(*parts) if len(parts) > 1 else Identity(model=parts[0])

    def write(self, command: str) -> None:
        """Send a command that is not a question; hear its echo and acknowledgement, if it has any.

        Raises
        ------
        BadReply : for another echo or acknowledgement than the bench file says
        """
        options = self._options
        self.send(command)
        if not (options.echo or options.acknowledge):
            return
        deadline_s = time.monotonic() + options.timeout_s
        self._hear_echo(command, deadline_s)
        if options.acknowledge:
            answer = self._read_line(command, deadline_s)
            if answer.strip() != options.acknowledge:
                self.refuse(command, answer, repr(options.acknowledge))
        self._is_in_step = True

    def send(self, command: str) -> None:
        """Send a line and wait for nothing; what it answers is passed over later."""
        if self._options.echo or self._options.acknowledge:
            self._is_in_step = False
        self._call(command, lambda: self._resource.write(command))

    def _hear_echo(self, line: str, deadline_s: float) -> None:
        if self._options.echo:
            heard = self._read_line(line, deadline_s)
            if heard.strip() != line.strip():
                self.refuse(line, heard, "its echo")

    def query(self, question: str, timeout_s: float | None = None) -> str:
        """Ask, and give the answer without its line ending.

        Raises
        ------
        InstrumentTimeout : when nothing came
        BadReply : for half a line, for what is no text, and for an answer that lay there before
        Disconnected : when the device is gone
        """
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + timeout_s
        if not self._is_in_step:
            self._get_in_step(deadline_s)
        if self._something_waits(question):
            self._is_in_step = False
            raise ProtocolError(
                f"{self.name} ({self._options.address}) had sent something before it was asked "
                f"{question!r}; ask again, or check that nobody else talks to it"
            )
        self._is_in_step = False  # until the answer is complete
        self.send(question)
        self._hear_echo(question, deadline_s)
        answer = self._read_line(question, deadline_s)
        self._is_in_step = True
        return answer

    def ask_number(self, question: str, timeout_s: float | None = None) -> float:
        """Ask for one finite number."""
        return self.ask_numbers(question, 1, timeout_s)[0]

    def ask_numbers(
        self, question: str, count: int, timeout_s: float | None = None, strip: str = ""
    ) -> list[float]:
        """Ask for so many finite numbers, separated by commas, perhaps within brackets `strip`."""
        answer = self.query(question, timeout_s)
        numbers = numbers_in(answer.strip().strip(strip or None))
        if len(numbers) != count:
            self.refuse(question, answer, f"{count} number{'s' * (count > 1)}")
        return numbers

    def ask_switch(self, question: str) -> bool:
        """Ask for 0 or 1, OFF or ON."""
        answer = self.query(question)
        state = {"0": False, "OFF": False, "1": True, "ON": True}.get(answer.strip().upper())
        if state is None:
            self.refuse(question, answer, "0 or 1")
        return bool(state)

    def refuse(self, question: str, answer: str, wanted: str) -> None:
        """Raise BadReply for a line that is no answer; the next question gets in step first."""
        self._is_in_step = False
        shown = answer if len(answer) <= 60 else answer[:57] + "..."
        raise ProtocolError(
            f"{self.name} ({self._options.address}) answered {question!r} with {shown!r}, "
            f"where {wanted} was to come; check dialect, address and line endings"
        )

    def close(self) -> None:
        """Let go of the connection; harmless when the device is gone."""
        try:
            self._resource.close()
        except Exception as error:  # of pyvisa, or of a protocol below it
            LOG.warning("%s: closing %s: %s", self.name, self._options.address, str(error))

    # --- how a line is read ----------------------------------------------------------------------

    def _read_line(self, question: str, deadline_s: float) -> str:
        """Read up to the end of a line, or of a message on a bus that frames its messages."""
        end = self._options.read_termination.encode()
        got, is_whole = b"", False
        while not (is_whole or got.endswith(end)):
            left_s = deadline_s - time.monotonic()
            piece, is_whole = self._receive(question, max(left_s, 0.001))
            got += piece
            if len(got) > LONGEST_REPLY:
                raise ProtocolError(
                    f"{self.name} answers {question!r} without end: {got[:40]!r}..."
                )
            if not piece or (left_s <= 0 and not (is_whole or got.endswith(end))):
                self._complain_of_silence(question, got)
        try:
            return got.removesuffix(end).decode("ascii").rstrip("\r\n")
        except UnicodeDecodeError:
            raise ProtocolError(
                f"{self.name} ({self._options.address}) answered {question!r} with what is no "
                f"text: {got[:40]!r}; check baud rate and address"
            ) from None

    def _receive(self, question: str, left_s: float) -> tuple[bytes, bool]:
        """Wait for bytes up to the end of a line, none when the time is over.

        Returns
        -------
        them, and whether a message ended with them (END, which is not a character)
        """
        if (milliseconds := math.ceil(left_s * 1000)) != self._timeout_ms:
            self._resource.timeout = self._timeout_ms = milliseconds
        if self._session is None:
            data = bytes(self._call(question, self._read_whole))
            return data, bool(data) and self._frames_messages
        line = self._session.interface
        if isinstance(line, socket.socket) and not self._session._pending_buffer:
            if not _can_read(line, left_s):
                return b"", False
            if self._is_cut():  # pyvisa-py would look again and again until the time is over
                raise Disconnected(self._gone(question, "the other side closed the connection"))
        data, status = self._call(question, lambda: self._session.read(CHUNK))
        if status < 0 and status != StatusCode.error_timeout:
            raise Disconnected(self._gone(question, StatusCode(status).name))
        return bytes(data), bool(data) and self._frames_messages and status in _ENDS

    def _read_whole(self) -> bytes:
        try:
            return bytes(self._resource.read_raw())
        except pyvisa.errors.VisaIOError as error:
            if error.error_code == StatusCode.error_timeout:
                return b""
            raise

    def _complain_of_silence(self, question: str, got: bytes) -> None:
        where = f"{self.name} ({self._options.address})"
        if self._is_cut():
            raise Disconnected(self._gone(question, "the other side closed the connection"))
        if got:
            raise ProtocolError(
                f"{where} answered {question!r} with half a line, {got[-40:]!r}; "
                "check the line ending, or give it more time with timeout_s"
            )
        raise InstrumentTimeout(
            f"{where} did not answer {question!r} in time; check that it is on and idle, or give "
            f"it more time with timeout_s"
        )

    def _get_in_step(self, deadline_s: float) -> None:
        """Read up to the answer to a question whose answer is known; say what was before it."""
        ask, known = self._options.identity_query, self.identity_line
        if not known:
            raise ProtocolError(
                f"{self.name} ({self._options.address}) is out of step since its last answer did "
                "not come whole, and has no identity_query to get back in step; connect it again"
            )
        self.send(ask)
        passed = []
        while not (line := self._read_loosely(ask, deadline_s)).endswith(known):
            passed.append(line)
        LOG.warning("%s: back in step; these late replies were dropped: %r", self.name, passed)
        self._is_in_step = True

    def _read_loosely(self, question: str, deadline_s: float) -> str:
        try:
            return self._read_line(question, deadline_s)
        except ProtocolError:  # of an earlier question, and not to be used anyway
            if time.monotonic() >= deadline_s:
                raise
            return ""

    # --- what a stream can tell ------------------------------------------------------------------

    def _something_waits(self, question: str) -> bool:
        """Say whether bytes came unasked; only streams can, other buses frame their messages."""
        line: Any = getattr(self._session, "interface", None)
        if hasattr(line, "in_waiting"):
            return bool(line.in_waiting)
        if self._is_cut():
            raise Disconnected(self._gone(question, "the other side closed the connection"))
        return bool(getattr(self._session, "_pending_buffer", b"")) or _can_read(line)

    def _is_cut(self) -> bool:
        """Say whether the other side of a socket has closed it."""
        line: Any = getattr(self._session, "interface", None)
        return _can_read(line) and not line.recv(1, socket.MSG_PEEK)

    def _call(self, what: str, call: Any) -> Any:
        """Call the VISA library; its errors become ours, and OSError that of a lost device."""
        try:
            return call()
        except pyvisa.errors.VisaIOError as error:
            if error.error_code == StatusCode.error_timeout:
                raise InstrumentTimeout(
                    f"{self.name} ({self._options.address}) does not take {what!r}; "
                    "check that it is on and idle"
                ) from error
            if error.error_code in GONE:
                raise Disconnected(self._gone(what, _one_line(error))) from error
            raise InstrumentError(f"{self.name}: {what!r}: {_one_line(error)}") from error
        except (OSError, ValueError, TypeError):  # the base class knows the first; mistakes
            raise
        except Exception as error:  # InvalidSession, and what protocols raise of a peer that left
            raise Disconnected(self._gone(what, _one_line(error))) from error

    def _gone(self, what: str, why: str) -> str:
        return (
            f"{self.name} ({self._options.address}) is gone at {what!r}: {why}; "
            "check cable and power, then connect again"
        )


class VisaInstrument(Instrument):
    """What drivers over VISA have in common: how they connect. `Options` is a `VisaOptions`."""

    _link: VisaLink

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(name, options, clock=clock)
        self.is_of_this_process = self.options.backend.endswith("@sim")

    @property
    def address(self) -> str:
        """The VISA address."""
        return str(self.options.address)

    def _connect(self, timeout_s: float) -> Identity:
        self._link = VisaLink(self.name, self.options, timeout_s)
        try:
            self._prepare()
        except BaseException:
            self._link.close()
            raise
        return self._link.identity

    def _prepare(self) -> None:
        """Ask the device, just opened, for what the driver must know."""

    def _disconnect(self) -> None:
        self._link.close()


def _frames_messages(address: str) -> bool:
    """Return whether a bus marks the end of a message (END), as all but streams do."""
    try:
        parsed = pyvisa.rname.parse_resource_name(address)
    except pyvisa.rname.InvalidResourceName:
        return False
    is_stream = parsed.interface_type_const == InterfaceType.asrl
    return parsed.resource_class == "INSTR" and not is_stream


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text that separates them by commas; none where one of them is none.

    Python would also read "1_0" as 10. SCPI writes 9.9E37 for infinity, as an instrument does that
    is beyond its range, and 9.91E37 for what is no number.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [float(part) for part in parts if _NUMBER.fullmatch(part)]
    is_whole = len(numbers) == len(parts) and all(abs(number) < _NO_NUMBER for number in numbers)
    return numbers if is_whole else []


def _can_read(line: Any, timeout_s: float = 0.0) -> bool:
    return isinstance(line, socket.socket) and bool(select.select([line], [], [], timeout_s)[0])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
