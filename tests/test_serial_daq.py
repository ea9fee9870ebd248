"""The serial DAQ: its driver with its own firmware, compiled for this computer, and faults."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import (
    Disconnected,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    LimitExceeded,
    ProtocolError,
    create,
)
from lightloom.instruments.drivers.serial_daq import framed, unframed
from scpi_devices import Device, Served, serve
from serial_board import Board, compile_firmware
from waiting import wait_until

SLOW = pytest.mark.slow  # pyserial takes 0.3 s to close a socket


def daq(address: str, **options: Any) -> Any:
    return create("serial-daq", "daq", {"address": address, "restart_time_s": 0, **options})


# --- the firmware itself -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_firmware(tmp_path_factory.mktemp("firmware"))


@pytest.fixture
def board(program: Path) -> Iterator[Board]:
    board = Board(program)
    yield board
    board.close()


def test_the_firmware_reads_its_inputs(board: Board) -> None:
    # An operator would get the volts of another channel, or in another order.
    with daq(board.port) as instrument:
        assert instrument.identity.model == "serial-daq"
        samples = instrument.read((3, 0), 100, 700.0)
        ramp = np.arange(100)
        expected = np.array([300 + ramp, ramp]) * 5 / 1023
        assert np.abs(samples.volts - expected).max() < 1e-9
        assert samples.rate_hz == pytest.approx(1e6 / 1428)
        assert all(finding.passed for finding in instrument.self_test())


def test_the_firmware_sets_and_counts(board: Board) -> None:
    # An operator would trigger a camera on the wrong line, or lose count of its triggers.
    with daq(board.port) as instrument:
        instrument.reset_count()
        for level in (True, False, True):
            instrument.set_line(2, level)
        assert instrument.read_line(2) is True
        assert [instrument.count(0), instrument.count(1)] == [3, 2]  # each has its own pin
        instrument.reset_count()
        assert [instrument.count(0), instrument.count(1)] == [0, 2]
        instrument.write(1, 2.5)


def test_the_firmware_reports_refused_requests(board: Board) -> None:
    # A driver author would not learn why nothing happens.
    with daq(board.port) as instrument:
        for words in (
            ("SCAN", "0,9", "1", "2000"),
            ("SCAN", "0", "257", "2000"),
            ("SCAN", "0", "1", "10"),
            ("OUT", "2", "0"),
            ("OUT", "0", "5000001"),
            ("SET", "6", "1"),
            ("SET", "0", "2"),
            ("GET",),
            ("COUNT", "2"),
            ("DANCE",),
        ):
            with pytest.raises(InstrumentError, match="daq refuses"):
                instrument._ask(*words)  # the driver itself never sends these
        assert instrument.read((0,), 256).volts.shape == (1, 256)


@pytest.mark.slow  # 10,000 questions; the conformance suite has fewer
def test_threads_do_not_mix_up_replies(board: Board) -> None:
    # Two threads of a run would read each other's lines.
    with daq(board.port) as instrument:
        for line in range(6):
            instrument.set_line(line, line % 2 == 1)
        with ThreadPoolExecutor(8) as pool:
            ask = lambda number: instrument.read_line(number % 6)  # noqa: E731
            found = list(pool.map(ask, range(10_000), chunksize=1250))
    assert found == [number % 2 == 1 for number in range(10_000)]


def test_an_unplugged_board_is_detected(board: Board) -> None:
    # A run would wait for a lost device.
    with daq(board.port) as instrument:
        assert instrument.count() == 0
        board.unplug()
        start = time.monotonic()
        with pytest.raises(Disconnected, match="daq"):
            instrument.count()
        assert time.monotonic() - start < 1
    with pytest.raises(InstrumentError, match="daq"):
        daq(board.port, timeout_s=0.2).connect(0.2)


def test_a_port_is_held_once(board: Board) -> None:
    # Two programs would read each other's replies.
    import serial

    with daq(board.port), pytest.raises(InUse):
        daq(board.port).connect()
    with serial.serial_for_url(board.port, exclusive=True), pytest.raises(InUse, match="holds it"):
        daq(board.port).connect()


def test_opening_and_closing_leaks_nothing(board: Board) -> None:
    # A service would run out of files.
    def cycle() -> tuple[int, int]:
        with daq(board.port) as instrument:
            instrument.count()
        folder = Path("/proc/self/fd")
        return len(list(folder.iterdir())) if folder.exists() else 0, threading.active_count()

    before = cycle()
    assert {cycle() for _ in range(100)} == {before}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyserial
def test_a_port_of_another_computer(board: Board) -> None:
    # A laboratory whose bench is attached to another computer (RFC 2217) would have no driver.
    import serial
    import serial.rfc2217

    class Terminal(serial.Serial):  # type: ignore[misc]
        """A pseudo-terminal as a port: it has no modem lines."""

        cts = dsr = cd = True
        ri = False
        _update_dtr_state = _update_rts_state = _update_break_state = lambda self: None

    done = threading.Event()

    def forward(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, Terminal(board.port, timeout=0.01) as port:
            manager = serial.rfc2217.PortManager(port, SimpleNamespace(write=connection.sendall))
            connection.settimeout(0.01)
            while not done.is_set():
                with suppress(TimeoutError):
                    port.write(b"".join(manager.filter(connection.recv(1024))))
                if data := port.read(port.in_waiting):
                    connection.sendall(b"".join(manager.escape(data)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=forward, args=(server,))
        thread.start()
        try:
            with daq(f"rfc2217://127.0.0.1:{server.getsockname()[1]}") as instrument:
                assert instrument.read((1,), 3).volts.shape == (1, 3)
        finally:
            done.set()
            thread.join()


# --- faults, over a socket -----------------------------------------------------------------------

IDENTITY = (
    "protocol=1 maker=ACME model=fake serial=1 firmware=1 inputs=2 outputs=1 lines=2 counters=1 "
    "bits=10 in_uv=0:5000000 out_uv=0:5000000 rate_hz=1:1000 samples=256"
)


class Fake(Device):
    """An emulated board that replies with `says` if it is set."""

    says: dict[str, list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.says = {"ID": [f"OK {IDENTITY}"], "COUNT": ["OK 7"]}

    def reply(self, line: str) -> str | None:
        self.received.append(line)
        words = unframed(">", line.encode())
        assert words, line
        tag, what = words[:2]
        answers = self.says.get(what, ["OK"])
        lines = [framed("<", f"{tag} {answer}").decode().strip() for answer in answers]
        return "\n".join(lines) if lines else None


@pytest.fixture
def fake() -> Iterator[Served]:
    with serve(Fake()) as served:
        yield served


@pytest.fixture
def faked(fake: Served) -> Iterator[Any]:
    with daq(f"socket://127.0.0.1:{fake.port}", timeout_s=0.3) as instrument:
        yield instrument


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        (["D 0 1 2", "OK 2 0"], ProtocolError, "4 counts"),
        (["D 0 1 2", "D 3 4", "OK 4 0"], ProtocolError, "lost before number 3"),
        pytest.param(["D 0 1 2 3 1024", "OK 4 0"], ProtocolError, "4 counts", marks=SLOW),
        pytest.param(["D 0 1 2 3 4", "OK 5 0"], ProtocolError, "reports 5", marks=SLOW),
        pytest.param(["D 0 1 2 3 -4", "OK 4 0"], ProtocolError, "expected an integer", marks=SLOW),
        pytest.param(["D 0 1 2 3 4", "OK"], ProtocolError, "expected an integer", marks=SLOW),
        pytest.param(["HA"], ProtocolError, "'HA'", marks=SLOW),
        (["NO period"], InstrumentError, "refuses"),
        (["D 0 1 2 3 4", "OK 4 2001"], InstrumentError, "behind its rate"),
        ([], InstrumentTimeout, "did not reply"),
    ],
)
def test_a_wrong_scan_gives_no_numbers(
    fake: Served, faked: Any, answers: list[str], error: type[Exception], says: str
) -> None:
    # A run would compute with samples that are missing, shifted or impossible.
    fake.device.says["SCAN"] = answers
    with pytest.raises(error, match=says) as caught:
        faked.read((0, 1), 2, 500.0, timeout_s=0.01)
    assert "daq" in str(caught.value) and "\n" not in str(caught.value)
    assert faked.count() == 7


def test_a_late_reply_is_not_taken_for_the_next(
    fake: Served, faked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # A run would continue with each number one question too late.
    late = []
    fake.fault = lambda line, reply: late.append(reply)
    with pytest.raises(InstrumentTimeout, match="daq"):
        faked.count()
    fake.fault = None
    fake.send(late[0].encode() + b"\n")
    fake.device.says["COUNT"] = ["OK 8"]
    assert faked.count() == 8
    assert "a late reply was discarded" in caplog.text


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        pytest.param(b"garbage\n", "damaged", marks=SLOW),
        pytest.param(b"\xff\x00\n", "damaged", marks=SLOW),
        (b"<02 OK 7*0000\n", "damaged"),
        (framed("<", "63 OK 7"), "unrequested line"),
        (b"<02 OK", "half a line"),
        pytest.param(b"x" * 10_000, "without end", marks=SLOW),
    ],
)
def test_garbage_is_not_a_reply(fake: Served, faked: Any, sent: bytes, says: str) -> None:
    # A run would compute with noise of the line.
    fake.fault = lambda line, reply: sent
    with pytest.raises(ProtocolError, match=says):
        faked.count()


def test_a_closed_connection_is_detected(fake: Served, faked: Any) -> None:
    # A run would wait for a lost device.
    fake.cut()
    wait_until(lambda: fake.connections[-1].fileno() < 0)
    with pytest.raises(Disconnected, match="daq"):
        faked.count()


def test_nothing_is_sent_beyond_the_limits(fake: Served, faked: Any) -> None:
    # An operator would get an output beyond the limit.
    before = list(fake.device.received)
    for call in (
        lambda: faked.write(0, 5.01),
        lambda: faked.write(1, 1.0),
        lambda: faked.set_line(2, True),
        lambda: faked.read((2,)),
        lambda: faked.read((0,), 10, 1001.0),
        lambda: faked.read((0, 1), 200),
    ):
        with pytest.raises(LimitExceeded, match="daq"):
            call()
    assert fake.device.received == before


@pytest.mark.parametrize(
    "identity", ["protocol=2", IDENTITY.replace("bits=10 ", ""), IDENTITY.replace("0:5", "9:x")]
)
def test_another_firmware_is_refused(fake: Served, identity: str) -> None:
    # An operator would get voltages with a wrong scale.
    fake.device.says["ID"] = [f"OK {identity}"]
    with pytest.raises(InstrumentError, match="firmware"):
        daq(f"socket://127.0.0.1:{fake.port}").connect(1.0)


def test_an_echo_is_not_a_device() -> None:
    # An operator would see a device where two pins are connected.
    with pytest.raises(ProtocolError, match="damaged"):
        daq("loop://").connect(1.0)


def test_a_port_that_is_not_there_is_one_sentence() -> None:
    # An operator would get a traceback of a library.
    for address in ("/dev/not-there", "COM99", "socket://127.0.0.1:1"):
        with pytest.raises(Disconnected, match="daq") as caught:
            daq(address).connect(1.0)
        assert "\n" not in str(caught.value)
