"""Drivers over VISA against emulated instruments on TCP, a pty and pyvisa-sim, and faults."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial
from hislip_server import serve_hislip
from lightloom.instruments import (
    Disconnected,
    InputError,
    InstrumentError,
    InstrumentTimeout,
    InterlockOpen,
    InUse,
    LimitExceeded,
    ProtocolError,
    create,
)
from scpi_devices import Meter, Multimeter, RedPitaya, Scope, Served, Source, serve
from waiting import wait_until

KIT = Path(__file__).parent / "kit"
SOURCE = {
    "watts_per_unit": 1e-3,
    "max_power_w": "5 mW",
    "commands": {
        "ask_highest": "SOUR:POW? MAX",
        "interlock": "SYST:INT?",
        "open_shutter": "SHUT ON",
        "close_shutter": "SHUT OFF",
    },
}


@pytest.fixture
def pitaya() -> Iterator[Served]:
    with serve(RedPitaya()) as served:
        yield served


@pytest.fixture
def laser() -> Iterator[Served]:
    with serve(Source()) as served:
        yield served


@pytest.fixture
def meter() -> Iterator[Served]:
    with serve(Meter()) as served:
        yield served


def daq(served: Served, dialect: str = "red-pitaya", **options: Any) -> Any:
    return create("scpi-daq", "daq", {"address": served.address, "dialect": dialect, **options})


def source(served: Served, **options: Any) -> Any:
    return create("scpi-source", "source", {"address": served.address, **SOURCE, **options})


def power_meter(served: Served, **options: Any) -> Any:
    return create("scpi-power-meter", "meter", {"address": served.address, **options})


# --- normal use ----------------------------------------------------------------------------------


def test_a_red_pitaya_reads_its_inputs(pitaya: Served) -> None:
    # An operator would compute with volts of another channel, moment or rate.
    with daq(pitaya) as instrument:
        assert instrument.identity.maker == "REDPITAYA"
        samples = instrument.read((1, 0), 10_000, 1e6)
        ramp = np.arange(10_000) / 2**14
        assert np.abs(samples.volts - np.array([0.2 + ramp, 0.1 + ramp])).max() < 1e-6
        assert samples.rate_hz == 125e6 / 64  # the next available rate, never slower than requested
        assert "ACQ:TRIG:DLY 1808" in pitaya.device.received  # beyond the 8192 after a trigger
        instrument.write(2, 1.25)
        wait_until(lambda: pitaya.device.pins.get("AOUT2") == "1.250000")
        instrument.set_line(3, True)
        assert instrument.read_line(3) and not instrument.read_line(4)
        assert all(finding.passed for finding in instrument.self_test())


def test_a_multimeter_integrates_as_long_as_the_rate_allows() -> None:
    # An operator would get more noise than needed, or a lower rate than requested.
    with serve(Multimeter()) as served, daq(served, "multimeter") as instrument:
        for rate_hz, cycles, really_hz in ((40, "1", 50), (50, "1", 50), (51, "0.2", 250)):
            samples = instrument.read((0,), 3, rate_hz)
            assert np.array_equal(samples.volts, [[1.5] * 3]) and samples.rate_hz == really_hz
            assert served.device.settings["VOLT:DC:NPLC"] == cycles


def test_a_setting_that_a_multimeter_refuses_is_an_error() -> None:
    # An operator would get numbers of another measurement.
    with serve(Multimeter()) as served, daq(served, "multimeter") as instrument:
        served.device.complaint = '-222,"Data out of range"'
        with pytest.raises(InstrumentError, match="daq reports: -222"):
            instrument.read((0,), 3, 50)


def test_a_scope_reports_its_own_rate() -> None:
    # An operator would place samples at wrong times.
    with serve(Scope()) as served, daq(served, "scope") as instrument:
        samples = instrument.read((0, 3), 20, 5e5)
        assert np.array_equal(samples.volts, [[1.0] * 20, [4.0] * 20])
        assert samples.rate_hz == pytest.approx(1e6)


def test_a_short_block_of_a_scope_is_refused() -> None:
    # An operator would assign samples to wrong times.
    with serve(Scope()) as served, daq(served, "scope") as instrument:
        served.fault = lambda line, reply: reply and reply.replace("#8", "#8")[:-3].encode() + b"\n"
        with pytest.raises(ProtocolError, match="daq"):
            instrument.read((0,), 20, 5e5)


def test_a_laser_is_set_enabled_and_left_dark(laser: Served) -> None:
    # An operator would leave a laser on, or trust a wrong power.
    with source(laser) as instrument:
        assert instrument.power_limits_w == (0, 5e-3)
        assert instrument.power_w == 1e-3 and not instrument.is_emitting()
        instrument.set_power(2.5e-3)
        assert laser.device.power == 2.5  # read back by then
        instrument.enable()
        assert laser.device.is_on and laser.device.shutter_open and instrument.is_emitting()
    assert laser.device.received[-3:] == ["SHUT OFF", "OUTP OFF", "OUTP?"]
    assert not laser.device.is_on and not laser.device.shutter_open


@pytest.mark.parametrize("power_w", [-1e-9, 5.001e-3, float("nan"), float("inf")])
def test_nothing_is_sent_beyond_the_limits(laser: Served, power_w: float) -> None:
    # An operator would damage what the limit protects.
    with source(laser) as instrument:
        before = list(laser.device.received)
        with pytest.raises(LimitExceeded, match="source"):
            instrument.set_power(power_w)
        assert laser.device.received == before


def test_an_earlier_set_point_is_not_emitted(laser: Served) -> None:
    # An operator would get the power that another program left in the device.
    laser.device.power = 20.0
    with source(laser) as instrument:
        with pytest.raises(LimitExceeded, match="set_power"):
            instrument.enable()
        assert "OUTP ON" not in laser.device.received
        instrument.set_power(1e-3)
        instrument.enable()


def test_a_power_that_the_laser_does_not_accept_is_an_error(laser: Served) -> None:
    # An operator would record a power that was never there.
    with source(laser) as instrument:
        laser.device.highest = 3.0
        with pytest.raises(ProtocolError, match=r"reports 0\.003 W"):
            instrument.set_power(4e-3)
        with pytest.raises(LimitExceeded):
            instrument.enable()


def test_an_open_interlock_keeps_a_laser_dark(laser: Served) -> None:
    # An operator would believe that a program can override the interlock of a class 3B laser.
    with source(laser) as instrument:
        laser.device.interlock = "0"
        with pytest.raises(InterlockOpen, match="re-arm"):
            instrument.enable()
        assert "OUTP ON" not in laser.device.received
        laser.device.interlock, laser.device.refuses_to_emit = "1", True
        with pytest.raises(InterlockOpen, match="does not emit"):
            instrument.enable()
        assert laser.device.received[-3:] == ["SHUT OFF", "OUTP OFF", "OUTP?"]


def test_a_laser_without_a_limit_is_refused(laser: Served) -> None:
    # An operator would have a source that takes any power.
    with pytest.raises(InputError, match="max_power_w is missing; give the largest power"):
        source(laser, commands={}, max_power_w=None)
    assert not laser.device.received
    laser.device.highest = 0.05  # less than its lowest power
    with pytest.raises(InputError, match="its power limits are"):
        limits = {"ask_lowest": "SOUR:POW? MIN", "ask_highest": "SOUR:POW? MAX"}
        source(laser, commands=limits).connect()


def test_light_goes_off_after_a_broken_exchange(laser: Served) -> None:
    # An operator would leave a laser on because its last reply was late.
    with source(laser, timeout_s=0.1) as instrument:
        instrument.enable()
        laser.fault = lambda line, reply: None
        with pytest.raises(InstrumentTimeout):
            instrument.is_emitting()
    wait_until(lambda: not laser.device.is_on)


def test_a_laser_that_stays_on_is_an_error(laser: Served) -> None:
    # An operator would open the enclosure of a laser that still emits.
    with source(laser, commands=SOURCE["commands"] | {"disable": "LIGHT OFF"}) as instrument:
        instrument.enable()
        with pytest.raises(InstrumentError, match="still emits"):
            instrument.disable()


def test_a_power_meter_measures_at_its_wavelength(meter: Served) -> None:
    # An operator would read a power of another wavelength.
    with power_meter(meter, wavelength_m="532 nm") as instrument:
        assert meter.device.wavelength == "532"
        assert instrument.wavelength_m == pytest.approx(532e-9)
        assert instrument.read_power() == 1e-6


# --- faults --------------------------------------------------------------------------------------


def test_a_silent_instrument_times_out(meter: Served) -> None:
    # A run would hang for ever.
    with power_meter(meter) as instrument:
        meter.fault = lambda line, reply: None
        start = time.monotonic()
        with pytest.raises(InstrumentTimeout, match=r"meter .*'MEAS:POW\?'"):
            instrument.read_power(timeout_s=0.3)
        assert 0.25 < time.monotonic() - start < 1.0


def test_a_late_reply_is_not_taken_for_the_next_one(
    meter: Served, caplog: pytest.LogCaptureFixture
) -> None:
    # A run would continue with each number one query too late.
    with power_meter(meter) as instrument:
        meter.fault = lambda line, reply: None
        with pytest.raises(InstrumentTimeout):
            instrument.read_power(timeout_s=0.1)
        meter.fault = None
        meter.send(b"1e-6\n")
        assert instrument.read_power() == 2e-6
        assert "late replies were discarded: ['1e-6']" in caplog.text
        assert instrument.read_power() == 3e-6


@pytest.mark.parametrize(
    ("sent", "error", "says"),
    [
        (b"1.5e-6", ProtocolError, "half a line"),
        (b"\xff\xfe\x80\n", ProtocolError, "not text"),
        (b"hello\n", ProtocolError, "instead of 1 number"),
        (b"nan\n", ProtocolError, "instead of 1 number"),
        (b"1e-6,2e-6\n", ProtocolError, "instead of 1 number"),
        (b"\n", ProtocolError, "instead of 1 number"),
    ],
)
def test_garbage_is_not_a_number(
    meter: Served, sent: bytes, error: type[InstrumentError], says: str
) -> None:
    # A run would compute with a number that was never measured.
    with power_meter(meter) as instrument:
        meter.fault = lambda line, reply: sent
        with pytest.raises(error, match=says) as caught:
            instrument.read_power(timeout_s=0.2)
        assert "meter" in str(caught.value) and "\n" not in str(caught.value)
        meter.fault = None
        assert instrument.read_power() == 2e-6  # the next reply belongs to its query


def test_unrequested_input_is_refused_not_discarded(meter: Served) -> None:
    # A run would not detect that a second program uses the device.
    with power_meter(meter) as instrument:
        assert instrument.read_power() == 1e-6
        meter.send(b"7e-3\n")
        time.sleep(0.1)  # until it has arrived at the driver
        with pytest.raises(ProtocolError, match="sent something before the query"):
            instrument.read_power()
        assert instrument.read_power() == 2e-6


def test_a_reply_without_end_is_refused(meter: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run would fill the memory.
    monkeypatch.setattr("lightloom.instruments.drivers.visa.LONGEST_REPLY", 100_000)
    with power_meter(meter) as instrument:
        meter.fault = lambda line, reply: b"9" * 300_000
        with pytest.raises(ProtocolError, match="without end"):
            instrument.read_power()


def test_a_closed_connection_is_detected_at_once(meter: Served) -> None:
    # A run would wait for its time-out, and then not know that the device was lost.
    with power_meter(meter) as instrument:
        meter.cut()
        wait_until(lambda: meter.connections[-1].fileno() < 0)
        start = time.monotonic()
        with pytest.raises(Disconnected, match="connect again"):
            instrument.read_power()
        assert time.monotonic() - start < 1
    with power_meter(meter) as instrument:  # while it waits
        meter.fault = lambda line, reply: meter.cut()
        start = time.monotonic()
        with pytest.raises(Disconnected):
            instrument.read_power(timeout_s=10)
        assert time.monotonic() - start < 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see VXI-11
def test_an_address_that_does_not_answer_is_one_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # An operator would get a traceback of a library.
    with serve(Meter()) as served:
        gone = served.address
    vxi11 = "TCPIP::127.0.0.1::INSTR"  # pyvisa-py leaves its socket to the garbage collector
    for address in (gone, vxi11, "nonsense", "ASRL/dev/not-there::INSTR"):
        with pytest.raises(InstrumentError, match="meter") as caught:
            create("scpi-power-meter", "meter", {"address": address}).connect(1.0)
        assert "\n" not in str(caught.value)
    del caught
    caplog.clear()  # log records of pyvisa hold its errors, which hold the socket
    gc.collect()


def test_one_address_is_held_once(meter: Served) -> None:
    # Two programs' parts would mix up their replies.
    with power_meter(meter), pytest.raises(InUse):
        power_meter(meter).connect()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": "X", "dialekt": "scope"}, "unknown key 'dialekt'"),
        ({"address": "X", "dialect": "rigol"}, "choose from"),
        ({"address": "X", "timeout_s": "5 V"}, "number of s"),
        ({"address": ""}, "address"),
        ({}, "address is missing"),
    ],
)
def test_a_bench_file_is_checked(options: dict[str, Any], says: str) -> None:
    # An operator would look for the mistake in the device.
    with pytest.raises(InputError, match=says):
        create("scpi-daq", "daq", options)


def test_a_command_that_loses_the_power_is_refused() -> None:
    # An operator would set a power that is never sent.
    with pytest.raises(InputError, match="power"):
        create("scpi-source", "source", {"address": "X", "commands": {"set_power": "POW 1"}})


# --- many threads, many times --------------------------------------------------------------------


def hammer(instrument: Any, ask: Any, threads: int = 8, queries: int = 10_000) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, range(queries), chunksize=queries // threads))


@pytest.mark.slow  # 10,000 questions; the conformance suite asks 400
def test_threads_do_not_mix_up_replies(pitaya: Served) -> None:
    # Two threads of a run would read each other's numbers (pyvisa#726).
    with daq(pitaya) as instrument:
        for line in range(0, 8, 2):
            instrument.set_line(line, True)
        found = hammer(instrument, lambda number: instrument.read_line(number % 8))
    assert found == [number % 2 == 0 for number in range(10_000)]


@pytest.mark.slow
def test_each_reply_is_returned_once(meter: Served) -> None:
    # A number would be lost, or used twice.
    with power_meter(meter) as instrument:
        found = hammer(instrument, lambda number: instrument.read_power())
    assert sorted(round(power * 1e6) for power in found) == list(range(1, 10_001))


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_opening_and_closing_leaks_nothing(meter: Served) -> None:
    # A service would run out of files after some thousand runs.
    def cycle() -> None:
        with power_meter(meter) as instrument:
            instrument.read_power()

    def settled() -> tuple[int, int]:
        wait_until(lambda: all(c.fileno() < 0 for c in meter.connections))
        return open_files(), threading.active_count()

    for _ in range(3):
        cycle()
    before = settled()
    for _ in range(100):
        cycle()
    wait_until(lambda: settled() == before)


def test_a_failed_opening_leaks_nothing(meter: Served) -> None:
    # A service that waits for its device would run out of files.
    meter.fault = lambda line, reply: None
    for number in range(12):
        with pytest.raises(InstrumentTimeout):
            power_meter(meter).connect(0.02)
        if number == 1:
            wait_until(lambda: all(c.fileno() < 0 for c in meter.connections))
            before = open_files()
    wait_until(lambda: open_files() <= before)  # files that others release meanwhile do not matter


# --- other emulated devices ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "dialect", [pytest.param("red-pitaya", marks=pytest.mark.slow), "multimeter", "scope"]
)
def test_drivers_work_with_sinstruments(dialect: str) -> None:
    # A driver would work only with our own server.
    pytest.importorskip(
        "sinstruments", reason="sinstruments is not installed: pip install sinstruments (GPL)"
    )
    name = {"red-pitaya": "RedPitaya", "multimeter": "Multimeter", "scope": "Scope"}[dialect]
    command = [sys.executable, str(KIT / "sinstruments_devices.py"), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            served = Served(RedPitaya(), int(server.stdout.readline()))
            with daq(served, dialect) as instrument:
                volts = instrument.read((0,), 50, 100.0 if dialect == "multimeter" else 1e6).volts
                assert volts.shape == (1, 50)
                if dialect == "red-pitaya":
                    found = hammer(instrument, lambda number: instrument.read_line(number % 8))
                    assert found == [False] * 10_000
        finally:
            server.kill()


SIMULATED = """
spec: "1.1"
devices:
  laser:
    eom:
      {interface}:
        q: "\\n"
        r: "\\n"
    error: ERROR
    dialogues:
      - {{q: "*IDN?", r: "SCPI,MOCK,1,1.0"}}
      - {{q: "SYST:INT?", r: "1"}}
    properties:
      emission:
        default: "OFF"
        getter: {{q: "OUTP?", r: "{{}}"}}
        setter: {{q: "OUTP {{}}"}}
        specs: {{valid: ["ON", "OFF"], type: str}}
      power:
        default: 0.0
        getter: {{q: "SOUR:POW?", r: "{{:.6f}}"}}
        setter: {{q: "SOUR:POW {{}}"}}
        specs: {{min: 0, max: 20, type: float}}
resources:
  {address}:
    device: laser
"""


@pytest.mark.parametrize(
    ("interface", "address"),
    [
        ("TCPIP SOCKET", "TCPIP0::localhost::2222::SOCKET"),
        ("USB INSTR", "USB0::0x1111::0x2222::0x1234::0::INSTR"),
        ("GPIB INSTR", "GPIB0::8::INSTR"),
        ("ASRL INSTR", "ASRL1::INSTR"),
    ],
)
def test_a_simulated_laser_on_every_bus(tmp_path: Path, interface: str, address: str) -> None:
    # A driver would work over TCP alone.
    pytest.importorskip("pyvisa_sim", reason="pyvisa-sim is not installed: pip install pyvisa-sim")
    file = tmp_path / f"{interface[:4]}.yaml"
    file.write_text(SIMULATED.format(interface=interface, address=address), "utf-8")
    options = {
        "address": address,
        "backend": f"{file}@sim",
        "watts_per_unit": 1e-3,
        "max_power_w": "30 mW",
        "commands": {"interlock": "SYST:INT?", "set_power": "SOUR:POW {power:.6f}"},
        "timeout_s": 0.3,
    }
    with create("scpi-source", "laser", options) as laser:
        assert laser.identity.model == "MOCK"
        laser.set_power(12e-3)
        laser.enable()
        assert laser.is_emitting() and laser.interlock_closed()
        with pytest.raises(InstrumentError):  # pyvisa-sim sends ERROR for a refused command
            laser.set_power(25e-3)
        laser.set_power(1e-3)
        assert laser.power_w == 1e-3


def test_a_meter_on_a_serial_line() -> None:
    # A laboratory with a serial meter would have no driver.
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals, which emulate a serial line")
    ours, theirs = os.openpty()
    import tty

    tty.setraw(theirs)
    device = Meter()

    def answer() -> None:
        with os.fdopen(ours, "rb+", buffering=0) as line:
            heard = b""
            while True:
                try:
                    heard += line.read(1000)
                except OSError:
                    return
                *whole, heard = heard.split(b"\n")
                for question in whole:
                    reply = device.reply(question.decode())
                    if question == b"MEAS:POW?" and device.asked == 3:
                        return  # unplugged before it replies
                    if reply is not None:
                        line.write(reply.encode() + b"\n")

    thread = threading.Thread(target=answer)
    thread.start()
    options = {"address": f"ASRL{os.ttyname(theirs)}::INSTR", "baud_rate": 115_200}
    with create("scpi-power-meter", "meter", options) as meter:
        os.close(theirs)
        assert [meter.read_power(), meter.read_power()] == [1e-6, 2e-6]
        with pytest.raises(Disconnected):
            meter.read_power()
    thread.join()


# --- buses that frame their messages, and lines that are set -------------------------------------


def test_a_reply_that_ends_with_end_and_no_line_feed_is_complete() -> None:
    # HiSLIP, VXI-11, USBTMC and GPIB instruments would be refused as sending "half a line".
    with serve_hislip(Meter()) as server:
        options = {"address": server.address, "timeout_s": 1}
        with create("scpi-power-meter", "meter", options) as meter:
            assert meter.identity.model == "PM100D"
            assert [meter.read_power(), meter.read_power()] == [1e-6, 2e-6]


def test_a_hislip_peer_that_vanishes_is_lost_not_a_traceback() -> None:
    # A run would end with a bare RuntimeError instead of connecting again.
    with serve_hislip(Meter()) as server:
        options = {"address": server.address, "timeout_s": 1}
        with create("scpi-power-meter", "meter", options) as meter:
            server.vanish()
            with pytest.raises(Disconnected, match="meter"):
                meter.read_power()


class OverUsb:
    """An emulated VISA library on a bus that marks the end of a message, as USBTMC does."""

    def __init__(self, replies: list[bytes]) -> None:
        self.replies, self.timeout, self.session, self.visalib = replies, 0, 1, None

    def write(self, line: str) -> None:
        pass

    def read_raw(self) -> bytes:
        return self.replies.pop(0)

    def close(self) -> None:
        pass


def test_end_is_the_end_with_any_visa_library(mocker: Any) -> None:
    # An operator with a vendor's VISA would get the same refusal on USB and GPIB.
    replies = [b"THORLABS,PM100D,P0,2.4", b"532", b"1.5e-6"]
    mocker.patch("pyvisa.ResourceManager").return_value.open_resource.return_value = OverUsb(
        replies
    )
    address = "USB0::0x1313::0x8078::P0::INSTR"
    with create("scpi-power-meter", "meter", {"address": address, "backend": "@ivi"}) as meter:
        assert meter.read_power() == 1.5e-6


@contextmanager
def on_a_pty(answer: Any) -> Iterator[str]:
    """Serve lines on a pseudo-terminal, which emulates a serial line; yield its address."""
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals, which emulate a serial line")
    import select
    import tty

    ours, theirs = os.openpty()
    tty.setraw(theirs)
    is_over = threading.Event()

    def serve_lines() -> None:
        heard = b""
        while not is_over.is_set():
            if not select.select([ours], [], [], 0.02)[0]:
                continue
            heard += os.read(ours, 1000)
            *whole, heard = heard.split(b"\n")
            for line in whole:
                for reply in answer(line.decode()):
                    os.write(ours, reply.encode() + b"\n")

    thread = threading.Thread(target=serve_lines)
    thread.start()
    try:
        yield f"ASRL{os.ttyname(theirs)}::INSTR"
    finally:
        is_over.set()
        thread.join()
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("key", "value", "name", "is_set_to"),
    [
        ("parity", "even", "parity", "E"),
        ("data_bits", 7, "bytesize", 7),
        ("stop_bits", 2, "stopbits", 2),
        ("flow_control", "xon/xoff", "xonxoff", True),
        ("flow_control", "rts/cts", "rtscts", True),
    ],
)
def test_a_serial_line_has_the_settings_of_the_bench_file(
    mocker: Any, key: str, value: Any, name: str, is_set_to: Any
) -> None:
    # A laser with 7 bits and even parity would reply garbage, or not at all.
    options = {"address": "ASRLloop://::INSTR", "identity_query": "", key: value}
    silent = {"prepare": (), "ask_wavelength": ""}
    opened = mocker.spy(serial, "serial_for_url")
    with create("scpi-power-meter", "meter", {**options, "commands": silent}):
        assert getattr(opened.spy_return, name) == is_set_to


def test_a_serial_line_is_locked_against_other_programs() -> None:
    # A terminal program on the same port would read the replies of the laser.
    device = Meter()
    with on_a_pty(lambda line: filter(None, [device.reply(line)])) as address:
        port = address.removeprefix("ASRL").removesuffix("::INSTR")
        with (
            create("scpi-power-meter", "meter", {"address": address}),
            pytest.raises(serial.SerialException, match="exclusively lock"),
        ):
            serial.Serial(port, exclusive=True)
        with (
            serial.Serial(port, exclusive=True),
            pytest.raises(InUse, match="held by another program"),
        ):
            create("scpi-power-meter", "meter", {"address": address}).connect()


def test_echo_and_acknowledgement_are_checked() -> None:
    # The echo of a query would be taken for its reply, and "OK" for that of the next one.
    device, says = Source(), ["OK"]

    def answer(line: str) -> list[str]:
        reply = device.reply(line)
        return [line, says[0] if reply is None else reply]

    options = {"echo": True, "acknowledge": "OK", "timeout_s": 0.5, **SOURCE}
    with (
        on_a_pty(answer) as address,
        create("scpi-source", "laser", {"address": address, **options}) as laser,
    ):
        laser.set_power(2e-3)
        laser.enable()
        assert laser.is_emitting() and device.power == 2.0
        says[0] = "ERR 3"
        with pytest.raises(ProtocolError, match=r"'ERR 3' to .* instead of 'OK'"):
            laser.set_power(1e-3)
        says[0] = "OK"
        laser.disable()
        assert not device.is_on and not device.shutter_open


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"parity": "even"}, "parity is for serial lines"),
        ({"address": "ASRL1::INSTR", "parity": "sometimes"}, "parity"),
        ({"address": "ASRL1::INSTR", "stop_bits": 3}, "choose 1, 1.5 or 2"),
    ],
)
def test_line_settings_are_refused_without_a_serial_line(
    options: dict[str, Any], says: str
) -> None:
    # An operator would believe that a network instrument has a parity.
    with pytest.raises(InputError, match=says):
        create("scpi-daq", "daq", {"address": "TCPIP::h::1::SOCKET", **options})


def test_an_exception_of_a_library_names_the_instrument(meter: Served, mocker: Any) -> None:
    # `check` would end with a traceback and not report the other instruments.
    with power_meter(meter) as instrument:
        mocker.patch.object(instrument, "_read_power", side_effect=ZeroDivisionError("0 W"))
        with pytest.raises(InstrumentError, match=r"meter .* failed during read_power: ZeroDiv"):
            instrument.read_power()


def test_a_shutter_that_sticks_is_an_error(laser: Served) -> None:
    # An operator would open the enclosure of a laser whose shutter stayed open.
    commands = SOURCE["commands"] | {"ask_shutter": "SHUT?"}
    laser.fault = lambda line, reply: b"1\n" if line == "SHUT?" else reply and f"{reply}\n".encode()
    with (
        source(laser, commands=commands) as instrument,
        pytest.raises(InstrumentError, match="its shutter does not close"),
    ):
        instrument.disable()


def test_a_source_without_a_readable_interlock_reports_it(laser: Served) -> None:
    # An operator would read "interlock closed" although its state was never read.
    asked = source(laser, commands={"ask_highest": "SOUR:POW? MAX"})
    with asked as instrument:
        (_, finding) = instrument.self_test()
    assert finding.detail == "no interlock state can be read, dark"
