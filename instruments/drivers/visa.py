"""`VisaLink`: a VISA connection in which each reply is complete and belongs to its query.

All SCPI drivers use it, over TCP, USB, GPIB or a serial line. Nothing is repeated or discarded
silently: after an interrupted exchange, the next one first resynchronises by a query of the
identity, and logs the replies that it discards. Not here: the commands.
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

from ..base import Identity, Instrument
from ..errors import (
    Disconnected,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    ProtocolError,
    is_port_in_use,
    one_line,
)
from ..formatting import format_counted
from ..serial_line import SerialOptions
from ..trust import VisaAddress, VisaBackend
from ..units import Seconds

LOG = logging.getLogger("lightloom.instruments")

LONGEST_REPLY = 1 << 24  # bytes; a longer reply is refused
CHUNK = 1 << 16
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NOT_A_NUMBER = 9.9e37
LOST = {
    StatusCode.error_connection_lost,
    StatusCode.error_io,
    StatusCode.error_invalid_object,
    StatusCode.error_resource_not_found,
    StatusCode.error_system_error,
}
_ENDS = {StatusCode.success, StatusCode.success_termination_character_read}
_LINE: dict[str, dict[Any, Any]] = {  # key of the bench file -> its values in pyvisa
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

_opening = Lock()  # pyvisa's resource managers are shared and must be created by one thread


class VisaOptions(SerialOptions):
    """The address of a VISA instrument, its line endings, and the settings of a serial line."""

    address: VisaAddress = Field(min_length=1)
    """VISA address of the device.

    For example "TCPIP::192.168.1.5::5000::SOCKET", "USB0::0x2A8D::...::INSTR" or
    "ASRL/dev/ttyUSB0::INSTR".
    """
    backend: VisaBackend = "@py"
    """Backend of pyvisa: "@py" is pyvisa-py, "@ivi" a vendor's VISA, "FILE.yaml@sim" an emulation.

    "" takes the library that the environment variable PYVISA_LIBRARY names.
    """
    timeout_s: Seconds = Field(default=2.0, gt=0)
    """Time-out of each query."""
    write_termination: str = "\n"
    """End of each line that the device receives."""
    read_termination: str = Field(default="\n", min_length=1)
    """End of each line that the device sends."""
    baud_rate: int | None = Field(default=None, gt=0)
    """Baud rate of a serial line."""
    identity_query: str = "*IDN?"
    """Query with a constant reply, for resynchronisation; "" if the device has none."""
    acknowledge: str = ""
    """Reply of the device to each command that is not a query, such as "OK"; "" for no reply."""

    @model_validator(mode="after")
    def _line_is_serial(self) -> VisaOptions:
        given = [*self.line_settings(), *(["baud_rate"] if self.baud_rate is not None else [])]
        if given and not self.address.upper().startswith("ASRL"):
            raise ValueError(
                f"{given[0]} is for serial lines, and address = {self.address!r} is not one; "
                'remove it, or give an address such as "ASRL/dev/ttyUSB0::INSTR"'
            )
        return self


class VisaLink:
    """An open connection. The lock of its instrument protects it.

    Parameters
    ----------
    name : of the instrument, for messages
    timeout_s : time-out of opening and of the first query
    is_shared : open a serial line even if another process may still hold it

    Raises
    ------
    InUse, InstrumentTimeout, Disconnected, ProtocolError : when connecting or identifying fails
    """

    def __init__(
        self, name: str, options: VisaOptions, timeout_s: float, is_shared: bool = False
    ) -> None:
        self.name, self._options = name, options
        self._is_synchronised = True
        self._frames_messages = _frames_messages(options.address)
        self._timeout_ms = math.ceil(options.timeout_s * 1000)
        self._resource: Any = self._open(timeout_s)
        try:
            # The session of pyvisa-py shows the bytes before a time-out; other libraries do not.
            sessions = getattr(self._resource.visalib, "sessions", {})
            session: Any = sessions.get(self._resource.session)
            self._session: Any = None
            if hasattr(session, "interface"):
                self._session = session
                if hasattr(session.interface, "exclusive") and not is_shared:
                    self._lock_port(session.interface)
                if isinstance(session.interface, socket.socket):
                    # Without it, a command and a query after it wait 40 ms for an acknowledgement.
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
        except Exception as error:  # libraries raise any type
            code = getattr(error, "error_code", None)
            kind: type[InstrumentError] = Disconnected
            if code in BUSY or is_port_in_use(error):
                kind = InUse
            elif code == StatusCode.error_timeout or "error_timeout" in str(error):
                kind = InstrumentTimeout
            raise kind(
                f"{self.name}: {options.address} cannot be opened ({one_line(error)}); "
                f"check address, cable, power, and whether VISA backend {options.backend!r} fits"
            ) from error

    def _lock_port(self, port: Any) -> None:
        """Lock a serial port against other programs that respect the lock, as pyserial does."""
        try:
            port.exclusive = True
        except (OSError, ValueError) as error:
            raise InUse(
                f"{self.name}: {self._options.address} is held by another program; close that "
                f"first ({one_line(error)})"
            ) from error

    @property
    def identity(self) -> Identity:
        """The parts of the *IDN? reply: maker, model, serial number, firmware."""
        parts = [part.strip() for part in self.identity_line.split(",", 3)]
        return Identity(*parts) if len(parts) > 1 else Identity(model=parts[0])

    def write(self, *commands: str) -> None:
        """Send commands that are not queries; check echo and acknowledgement of each, if any.

        Raises
        ------
        ProtocolError : for an echo or acknowledgement that differs from the bench file
        """
        for command in commands:
            self._write_one(command)

    def _write_one(self, command: str) -> None:
        options = self._options
        self.send(command)
        if not (options.echo or options.acknowledge):
            return
        deadline_s = time.monotonic() + options.timeout_s
        self._check_echo(command, deadline_s)
        if options.acknowledge:
            answer = self._read_line(command, deadline_s)
            if answer.strip() != options.acknowledge:
                self.refuse(command, answer, repr(options.acknowledge))
        self._is_synchronised = True

    def send(self, command: str) -> None:
        """Send a line without waiting; a reply to it is discarded later."""
        if self._options.echo or self._options.acknowledge:
            self._is_synchronised = False
        self._call(command, lambda: self._resource.write(command))

    def _check_echo(self, line: str, deadline_s: float) -> None:
        if self._options.echo:
            echo = self._read_line(line, deadline_s)
            if echo.strip() != line.strip():
                self.refuse(line, echo, "its echo")

    def query(self, question: str, timeout_s: float | None = None) -> str:
        """Send a query and return its reply without the line ending.

        Raises
        ------
        InstrumentTimeout : when no reply arrived
        ProtocolError : for an incomplete line, bytes that are not text, or unrequested input
        Disconnected : when the device was lost
        """
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + timeout_s
        if not self._is_synchronised:
            self._resynchronise(deadline_s)
        if self._has_unread_input(question):
            self._is_synchronised = False
            raise ProtocolError(
                f"{self.name} ({self._options.address}) sent something before the query "
                f"{question!r}; query again, or check that no other program uses it"
            )
        self._is_synchronised = False  # until the reply is complete
        self.send(question)
        self._check_echo(question, deadline_s)
        answer = self._read_line(question, deadline_s)
        self._is_synchronised = True
        return answer

    def ask_number(self, question: str, timeout_s: float | None = None) -> float:
        """Send a query and return its reply, one finite number."""
        return self.ask_numbers(question, 1, timeout_s)[0]

    def ask_numbers(
        self, question: str, count: int, timeout_s: float | None = None, strip: str = ""
    ) -> list[float]:
        """Send a query and return `count` finite numbers; `strip` holds brackets around them."""
        answer = self.query(question, timeout_s)
        numbers = numbers_in(answer.strip().strip(strip or None))
        if len(numbers) != count:
            self.refuse(question, answer, format_counted(count, "number"))
        return numbers

    def ask_switch(self, question: str) -> bool:
        """Send a query and return its reply 0 or 1, OFF or ON."""
        answer = self.query(question)
        state = {"0": False, "OFF": False, "1": True, "ON": True}.get(answer.strip().upper())
        if state is None:
            self.refuse(question, answer, "0 or 1")
        return bool(state)

    def refuse(self, question: str, answer: str, wanted: str) -> None:
        """Raise ProtocolError for an invalid reply; the next query first resynchronises."""
        self._is_synchronised = False
        shown = answer if len(answer) <= 60 else answer[:57] + "..."
        raise ProtocolError(
            f"{self.name} ({self._options.address}) replied {shown!r} to {question!r}, "
            f"instead of {wanted}; check dialect, address and line endings"
        )

    def close(self) -> None:
        """Close the connection; harmless when the device was lost."""
        try:
            self._resource.close()
        except Exception as error:  # raised by pyvisa or a protocol below it
            LOG.warning("%s: closing %s: %s", self.name, self._options.address, str(error))

    # --- reading lines ---------------------------------------------------------------------------

    def _read_line(self, question: str, deadline_s: float) -> str:
        """Return one line, or one message on a bus that frames its messages."""
        end = self._options.read_termination.encode()
        received, is_complete = b"", False
        while not (is_complete or received.endswith(end)):
            left_s = deadline_s - time.monotonic()
            piece, is_complete = self._receive(question, max(left_s, 0.001))
            received += piece
            if len(received) > LONGEST_REPLY:
                raise ProtocolError(
                    f"{self.name} replies to {question!r} without end: {received[:40]!r}..."
                )
            if not piece or (left_s <= 0 and not (is_complete or received.endswith(end))):
                self._raise_no_reply(question, received)
        try:
            return received.removesuffix(end).decode("ascii").rstrip("\r\n")
        except UnicodeDecodeError:
            raise ProtocolError(
                f"{self.name} ({self._options.address}) replied to {question!r} with bytes that "
                f"are not text: {received[:40]!r}; check baud rate and address"
            ) from None

    def _receive(self, question: str, left_s: float) -> tuple[bytes, bool]:
        """Return bytes up to the end of a line, or no bytes after the time-out.

        Returns
        -------
        the bytes, and whether a message ended with them (END, which is not a character)
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
            self._refuse_closed(question)  # pyvisa-py would poll until the time-out
        data, status = self._call(question, lambda: self._session.read(CHUNK))
        if status < 0 and status != StatusCode.error_timeout:
            raise Disconnected(self._lost_message(question, StatusCode(status).name))
        return bytes(data), bool(data) and self._frames_messages and status in _ENDS

    def _read_whole(self) -> bytes:
        try:
            return bytes(self._resource.read_raw())
        except pyvisa.errors.VisaIOError as error:
            if error.error_code == StatusCode.error_timeout:
                return b""
            raise

    def _raise_no_reply(self, question: str, received: bytes) -> None:
        source = f"{self.name} ({self._options.address})"
        self._refuse_closed(question)
        if received:
            raise ProtocolError(
                f"{source} replied to {question!r} with half a line, {received[-40:]!r}; "
                "check the line ending, or give it more time with timeout_s"
            )
        raise InstrumentTimeout(
            f"{source} did not reply to {question!r} in time; check that it is on and idle, or "
            "give it more time with timeout_s"
        )

    def _resynchronise(self, deadline_s: float) -> None:
        """Resynchronise by the identity query, and log the replies before its reply."""
        ask, known = self._options.identity_query, self.identity_line
        if not known:
            raise ProtocolError(
                f"{self.name} ({self._options.address}) is out of step since its last reply was "
                "incomplete, and has no identity_query to resynchronise; connect it again"
            )
        self.send(ask)
        discarded = []
        while not (line := self._read_any_line(ask, deadline_s)).endswith(known):
            discarded.append(line)
        LOG.warning(
            "%s: resynchronised; these late replies were discarded: %r", self.name, discarded
        )
        self._is_synchronised = True

    def _read_any_line(self, question: str, deadline_s: float) -> str:
        try:
            return self._read_line(question, deadline_s)
        except ProtocolError:  # of an earlier query, and discarded in any case
            if time.monotonic() >= deadline_s:
                raise
            return ""

    # --- state of a stream -----------------------------------------------------------------------

    def _has_unread_input(self, question: str) -> bool:
        """Return whether a stream holds unrequested bytes; other buses frame their messages."""
        line: Any = getattr(self._session, "interface", None)
        if hasattr(line, "in_waiting"):
            return bool(line.in_waiting)
        self._refuse_closed(question)
        return bool(getattr(self._session, "_pending_buffer", b"")) or _can_read(line)

    def _refuse_closed(self, question: str) -> None:
        """Raise Disconnected if the other side has closed the socket."""
        line: Any = getattr(self._session, "interface", None)
        if _can_read(line) and not line.recv(1, socket.MSG_PEEK):
            raise Disconnected(self._lost_message(question, "the other side closed the connection"))

    def _call(self, what: str, call: Any) -> Any:
        """Return the result of a VISA call and translate its errors, except OSError."""
        try:
            return call()
        except pyvisa.errors.VisaIOError as error:
            if error.error_code == StatusCode.error_timeout:
                raise InstrumentTimeout(
                    f"{self.name} ({self._options.address}) does not accept {what!r}; "
                    "check that it is on and idle"
                ) from error
            if error.error_code in LOST:
                raise Disconnected(self._lost_message(what, one_line(error))) from error
            raise InstrumentError(f"{self.name}: {what!r}: {one_line(error)}") from error
        except (OSError, ValueError, TypeError):  # `Instrument` handles OSError; others are bugs
            raise
        except Exception as error:  # InvalidSession, and errors of protocols after a lost peer
            raise Disconnected(self._lost_message(what, one_line(error))) from error

    def _lost_message(self, what: str, why: str) -> str:
        return (
            f"{self.name} ({self._options.address}) was lost at {what!r}: {why}; "
            "check cable and power, then connect again"
        )


class VisaInstrument(Instrument):
    """The common part of VISA drivers: the connection. `Options` is a `VisaOptions`."""

    _link: VisaLink

    @property
    def is_of_this_process(self) -> bool:
        """Whether pyvisa emulates the device."""
        return bool(self.options.backend.endswith("@sim"))

    def _connect(self, timeout_s: float) -> Identity:
        self._link = VisaLink(self.name, self.options, timeout_s)
        self._prepare()
        return self._link.identity

    def _prepare(self) -> None:
        """Set up the device after opening, and read its attributes."""

    def _disconnect(self) -> None:
        if hasattr(self, "_link"):
            self._link.close()


def _frames_messages(address: str) -> bool:
    """Return whether a bus marks the end of a message (END), as all except streams do."""
    try:
        parsed = pyvisa.rname.parse_resource_name(address)
    except pyvisa.rname.InvalidResourceName:
        return False
    is_stream = parsed.interface_type_const == InterfaceType.asrl
    return parsed.resource_class == "INSTR" and not is_stream


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text, separated by commas; an empty list if any part is not a number.

    Python would also read "1_0" as 10. SCPI writes 9.9E37 for infinity, which an instrument sends
    beyond its range, and 9.91E37 for not-a-number.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [float(part) for part in parts if _NUMBER.fullmatch(part)]
    is_complete = len(numbers) == len(parts) and all(
        abs(number) < _NOT_A_NUMBER for number in numbers
    )
    return numbers if is_complete else []


def _can_read(line: Any, timeout_s: float = 0.0) -> bool:
    return isinstance(line, socket.socket) and bool(select.select([line], [], [], timeout_s)[0])
