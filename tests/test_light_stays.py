"""Light that stays on or has two users: device names, users, lost sources, shots that wait.

The partners are real: sources over TCP, processes of two users, and locks of the operating system.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import live_bench_process
import numpy as np
import pytest
import typer
from bench_factory import BenchMaker, change_bench, fault, load_example, numbers
from lightloom.backends.bench import check_bench, load_bench, safety
from lightloom.backends.bench.config import read_bench_file
from lightloom.backends.bench.light_check import light_findings
from lightloom.instruments import (
    Disconnected,
    InputError,
    InUse,
    LightloomError,
    Paused,
    UnexpectedIntensity,
    create,
)
from lightloom.instruments.addresses import canonical, is_lasting, x_display
from lightloom.instruments.commands import refuse_to_end_lit
from lightloom.instruments.safety import signals
from lightloom.models import load_arrays, load_model
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.runs import plan
from scpi_devices import Meter, Served, Source, serve
from waiting import wait_until

from lightloom.cli.errors import keep_left_lit
from lightloom.report.run import run_page

posix = pytest.mark.skipif(os.name == "nt", reason="users and signals of POSIX")
KIT = Path(__file__).parent / "kit"
NOBODY, OTHER = 65534, 65533


@pytest.fixture(autouse=True)
def devices_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # a program keeps the list of lit benches, so each test starts with an empty one
    monkeypatch.setattr(signals, "_left_lit", [])
    with live_bench_process.drivers_in_memory(monkeypatch):
        yield


@pytest.fixture
def laser() -> Iterator[Served]:
    with serve(Source()) as served:
        yield served


# --- one device under two names ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TCPIP::127.0.0.1::5025::SOCKET", "TCPIP0::127.0.0.1::5025::SOCKET"),
        ("TCPIP::localhost::5025::SOCKET", "tcpip0::127.0.0.1::5025::socket"),
        ("TCPIP::127.0.0.1::5025::SOCKET", "socket://localhost:5025"),
        ("rfc2217://localhost:5025", "socket://127.0.0.1:5025"),
        ("TCPIP::10.1.2.3::INSTR", "TCPIP0::10.1.2.3::inst0::INSTR"),
        ("TCPIP::10.1.2.3::hislip0::INSTR", "TCPIP0::10.1.2.3::hislip0,4880::INSTR"),
        ("TCPIP::10.1.2.3::hislip0::INSTR", "TCPIP::10.1.2.3::INSTR"),
        ("GPIB::8::INSTR", "GPIB0::8"),
        ("USB::0x1313::0x8078::P0::INSTR", "USB0::4883::32888::P0::0::INSTR"),
        ("COM3", "ASRLCOM3::INSTR"),
        ("COM3", r"\\.\COM3"),
        ("spy:///dev/null?file=/tmp/log", "ASRL/dev/null::INSTR"),
    ],
)
def test_two_names_of_one_device_are_one(one: str, other: str) -> None:
    # Otherwise two parts of a program, or two programs, both light one laser.
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TCPIP::10.1.2.3::5025::SOCKET", "TCPIP::10.1.2.3::5026::SOCKET"),
        ("GPIB0::8::INSTR", "GPIB1::8::INSTR"),
        ("USB0::0x1313::0x8078::00123::INSTR", "USB0::0x1313::0x8078::123::INSTR"),
        ("TCPIP::10.1.2.3::gpib0,2::INSTR", "TCPIP::10.1.2.3::gpib0,3::INSTR"),
        ("COM3", "COM4"),
        ("", "loop://"),
    ],
)
def test_two_devices_stay_two(one: str, other: str) -> None:
    # A bench with two instruments behind one gateway must be accepted.
    assert canonical(one) != canonical(other)


def test_links_to_a_serial_port_are_that_port(tmp_path: Path) -> None:
    # /dev/serial/by-id/... and /dev/ttyUSB0 are one port.
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals, which stand for a serial line")
    ours, theirs = os.openpty()
    try:
        port, link = os.ttyname(theirs), tmp_path / "by-id"
        link.symlink_to(port)
        assert canonical(str(link)) == canonical(f"ASRL{port}::INSTR") == canonical(port)
        assert not is_lasting(port)  # the next terminal has the same number
    finally:
        os.close(ours)
        os.close(theirs)


def test_x_displays_have_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise two modulators are two windows on one monitor.
    monkeypatch.setenv("DISPLAY", ":7.0")
    assert {x_display(name) for name in ("", ":7", ":7.0", "unix:7", "localhost:7.0")} == {":7"}
    assert x_display(":8") != x_display("")
    one, other = (
        create("display-slm", "input", {"monitor": 1, "x_display": name}) for name in ("", ":7")
    )
    assert one.device == other.device


@pytest.mark.parametrize("name", ["TCPIP0::127.0.0.1", "TCPIP::localhost", "tcpip::127.0.0.1"])
def test_a_bench_file_that_names_one_device_twice_is_refused(
    tmp_path: Path, laser: Served, name: str
) -> None:
    # Otherwise the power meter is the laser, and both roles use it.
    meter = {"driver": "scpi-power-meter", "address": f"{name}::{laser.port}::SOCKET"}
    path = live_bench_process.write(tmp_path, laser.address, instruments__power_meter=meter)
    with pytest.raises(InputError, match="have one address"):
        read_bench_file(path)


_HOLDS = """
import sys
from lightloom.instruments import create
source = create("scpi-source", "source", {"address": sys.argv[1], "max_power_w": "5 mW"})
source.connect()
print("holds", flush=True)
sys.stdin.read()
"""


def holder(script: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if first != "holds\n":
        process.kill()
        raise AssertionError(process.communicate()[1])
    return process


def test_a_device_is_held_by_one_process_under_all_its_names(laser: Served) -> None:
    # Otherwise two programs light one source, each with its own bench file.
    process = holder(_HOLDS, laser.address)
    try:
        options = {"address": f"TCPIP0::localhost::{laser.port}::SOCKET", "max_power_w": "5 mW"}
        with pytest.raises(InUse, match="of this computer") as refused:
            create("scpi-source", "source", options).connect()
        if sys.platform == "linux":
            assert f"process {process.pid}" in str(refused.value)
        process.kill()
        process.communicate()
        with create("scpi-source", "source", options) as source:  # a killed process holds nothing
            assert not source.is_emitting()
        with create("scpi-source", "source", options):  # nor does a closed one
            pass
    finally:
        process.kill()
        process.communicate()


# --- two users -----------------------------------------------------------------------------------


@contextmanager
def another_user(user: int, act: Callable[[], object]) -> Iterator[tuple[int, Any]]:
    """Run an action as another user, in a process that continues; yield its id and its answer."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            try:
                said = str(act())
            except BaseException as error:
                said = f"{type(error).__name__} {error}"
            os.write(write, said.encode())
            os.close(write)
            Event().wait(60)  # until it is killed
        finally:
            os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read) as answer:
            yield pid, answer.read()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def said_by(user: int, act: Callable[[], object]) -> str:
    with another_user(user, act) as (_, said):
        return str(said)


@pytest.fixture
def read_only_bench() -> Iterator[Path]:
    """Yield a bench file in a folder where its users may not write."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can be two users")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text("schema = 1\n")
        with safety.holding(path, True):  # loads modules that another user cannot read
            safety.latch(path, "a rehearsal", "-")
        safety.rearm(path, "-")
        clear(path)
        Path(folder).chmod(0o555)
        yield path
        clear(path)


def clear(path: Path) -> None:
    """Delete all files of a bench that root has written."""
    for place in safety.latch_places(path, "-"):
        for one in place.parent.glob(f"{place.stem}.*"):
            one.unlink()


@posix
@pytest.mark.parametrize("is_real", [True, False])
def test_two_users_cannot_hold_one_bench(read_only_bench: Path, is_real: bool) -> None:
    # Each user had a lock in their own home folder, and both lit the bench.
    def hold() -> object:
        return safety.hold(read_only_bench, is_real)

    with another_user(NOBODY, hold) as (pid, said):
        assert said == "[]"
        refused = said_by(OTHER, hold)
        assert refused.startswith("InUse") and f"process {pid} of" in refused, refused
    # the killed process left its holder file, which is reported
    assert said_by(OTHER, hold).startswith("[Holder(")


@posix
def test_one_user_s_latch_holds_for_another_who_cannot_undo_it(read_only_bench: Path) -> None:
    # Otherwise the next user lights a beam path that one user knows to be open.
    def look() -> object:
        return safety.latched(read_only_bench, "-")

    def rearm() -> object:
        return safety.rearm(read_only_bench, "-")

    said_by(NOBODY, lambda: safety.latch(read_only_bench, "the interlock has tripped", "-"))
    assert "the interlock has tripped" in said_by(OTHER, look)
    refused = said_by(OTHER, rearm)
    assert refused.startswith("InputError") and "administrator" in refused, refused
    assert "the interlock has tripped" in said_by(OTHER, look)
    assert said_by(NOBODY, rearm) == "None"
    assert said_by(OTHER, look) == "None"


def test_a_folder_that_fills_up_moves_no_lock_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without free inodes, the next process locked another file, and lit the same bench.
    from lightloom.instruments.safety import lock

    file = tmp_path / "bench.toml"
    file.write_text("")
    with safety.holding(file):
        monkeypatch.setattr(lock, "is_writable", lambda folder: False)
        with pytest.raises(InUse):
            lock.HeldLock(lock.beside(file, "lock"), "it").acquire()


# --- a source that is lost, or still emits -------------------------------------------------------


def test_a_source_that_was_lost_during_a_run_is_reported(
    tmp_path: Path, laser: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    # The report looked normal and the status was 0; only a hidden log named the watchdog.
    bench = load_bench(live_bench_process.write(tmp_path, laser.address))
    with bench:
        bench.source.enable()
        laser.cut()
        device: Any = laser.device
        assert device.is_on
    wait_until(lambda: not device.is_on)
    assert "switched off after" in bench.left_lit and "instruments.source" in bench.left_lit
    with pytest.raises(typer.Exit) as ended:
        refuse_to_end_lit()
    assert ended.value.exit_code == 1 and bench.left_lit in capsys.readouterr().err


def test_a_saturated_detector_is_not_reported_as_a_dead_modulator(tmp_path: Path) -> None:
    # Otherwise an operator looks for a broken cable.
    with load_example(tmp_path, "imaged", world__electrons_per_pixel_j=1e13) as bench:
        found = {finding.what: finding for finding in light_findings(bench)}
    assert not found["input: light follows"].passed
    assert "the detector is saturated: lower power_w" in found["input: light follows"].detail


def test_a_source_that_may_still_emit_is_in_the_report(make_bench: BenchMaker) -> None:
    # A report is read long after the messages on stderr.
    backend = make_bench("line")
    backend.bench.left_lit = "bench.toml: the laser may still emit; SWITCH IT OFF BY HAND"
    assert backend.remarks[0] == backend.bench.left_lit


def test_a_source_that_may_still_emit_is_on_the_page_of_a_recorded_run(tmp_path: Path) -> None:
    # A bench is closed after its journal, so its last message was not on the page.
    path, model = tmp_path / "run.db", load_model("digits")
    images = load_arrays(model.source / "data.safetensors")["images"][:2]
    plan(model, "mock", 2).run(images, record=path)
    keep_left_lit(path)
    before = path.read_bytes()
    sentence = "bench.toml: the laser may still emit; SWITCH IT OFF BY HAND"
    signals.note_light_left_on(sentence)
    keep_left_lit(None)
    assert path.read_bytes() == before
    keep_left_lit(path)
    with JournalFile(path) as kept:
        kept.check()
        assert sentence in run_page(kept)


@pytest.mark.slow
@posix
def test_a_watchdog_that_was_stopped_is_noticed(tmp_path: Path, laser: Served) -> None:
    # A process that is stopped (SIGSTOP) exists, but cannot act.
    path = live_bench_process.write(tmp_path, laser.address)
    with load_bench(path) as bench:
        bench.source.enable()
        os.kill(live_bench_process.watchdog_process(bench), signal.SIGSTOP)
        device: Any = laser.device
        wait_until(lambda: not device.is_on)
        with pytest.raises(LightloomError, match="does not reply"):
            bench.beat()
    assert not signals.lights_left_on()


@pytest.mark.slow
def test_the_power_meter_detects_a_laser_that_reports_off_and_still_emits(
    tmp_path: Path, laser: Served
) -> None:
    # Otherwise an operator opens the enclosure of a laser that only acknowledges "off".
    with serve(Meter()) as meter:  # its reading grows with every query
        more = {"driver": "scpi-power-meter", "address": meter.address}
        path = live_bench_process.write(tmp_path, laser.address, instruments__power_meter=more)
        bench = load_bench(path)
        with bench:
            bench.source.enable()
            bench.darkness_meter.see_light()
    assert "watchdog" in bench.left_lit or "switched off" in bench.left_lit
    assert signals.lights_left_on()


# --- shots that wait -----------------------------------------------------------------------------


def test_light_that_is_held_off_changes_no_number(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that filled up during a shot latched the bench off, because "emission had stopped".
    backend = make_bench()
    x, w = numbers(3, 16), numbers(4, 16, seed=1)
    before = backend.matmul(x, w).y
    bench, taken, a_shot_waits = backend.bench, [], Event()
    wait_for_light = bench.stop.wait_for_light

    def noted(wait_s: float) -> None:
        a_shot_waits.set()
        wait_for_light(wait_s)

    def interrupt() -> None:
        wait_until(lambda: bench.shots > taken[0])
        bench.hold_light()
        assert not bench.source.may_emit
        assert a_shot_waits.wait(30)
        bench.free_light()

    monkeypatch.setattr(bench.stop, "wait_for_light", noted)
    taken.append(bench.shots)
    thread = Thread(target=interrupt)
    thread.start()
    while thread.is_alive():
        after = backend.matmul(x, w).y
    # the shots that wait differ from run to run: 12 differences of two products, of 0.12 rms at
    # most, are beyond 6 sigma once in 4e7
    assert np.abs(after - before).max() < 0.7 and bench.source.is_emitting()
    assert a_shot_waits.is_set()
    backend.close()
    assert safety.latched(bench.path) is None


def test_a_run_that_waits_for_light_can_be_closed(make_bench: BenchMaker) -> None:
    # One Ctrl-C did not end a run that waited for disk space.
    backend = make_bench()
    backend.open()
    backend.bench.hold_light()
    finish = backend.begin(numbers(1, 16), backend.prepare(numbers(4, 16)), None)
    began_s = time.monotonic()
    backend.close()
    assert time.monotonic() - began_s < 2.0
    with pytest.raises((LightloomError, CancelledError)):
        finish()


def test_a_bench_whose_light_does_not_follow_its_devices_is_refused(make_bench: BenchMaker) -> None:
    # `run --uncalibrated` ended with status 0 and an accuracy of 0 %.
    backend = make_bench(uncalibrated=True, calibration="none.json", world__covered=True)
    with pytest.raises(UnexpectedIntensity, match="light arrives: the detector sees the same"):
        backend.open()
    assert not backend.bench.source.may_emit
    make_bench(uncalibrated=True, calibration="none.json").open()


def test_an_unplugged_monitor_pauses_the_run(make_bench: BenchMaker, mocker: Any) -> None:
    # An unplugged monitor ended a run as a mistake in the bench file, with status 2.
    backend = make_bench()
    backend.open()
    modulator: Any = backend.bench.input
    gone = InputError("there is no monitor 1")
    mocker.patch.object(type(modulator), "connect", side_effect=gone)
    modulator.unplug()
    with pytest.raises(Paused, match="cannot be connected again: there is no monitor 1") as ended:
        backend.matmul(numbers(1, 16), numbers(4, 16))
    assert ended.value.kind == "disconnected"
    assert isinstance(ended.value.__cause__, Disconnected)


# --- check with the light of the bench -----------------------------------------------------------


def checked(folder: Path, layout: str = "imaged", **changes: Any) -> dict[str, Any]:
    findings, _ = check_bench(load_example(folder, layout, **changes), 1)
    return {finding.what: finding for finding in findings}


@pytest.mark.parametrize("layout", ["imaged", "line", "single-pixel"])
def test_check_finds_a_bench_without_a_light_path(tmp_path: Path, layout: str) -> None:
    # Otherwise an operator calibrates a dark bench.
    found = checked(tmp_path, layout, world__covered=True)
    assert not found["source: light arrives"].passed and "products" not in found


def test_check_finds_a_window_on_the_wrong_monitor(tmp_path: Path) -> None:
    # The light does not follow a modulator whose frames go to another monitor.
    found = checked(tmp_path, instruments__weight__faults=fault("frozen", rate=1))
    failed = [what for what, finding in found.items() if not finding.passed]
    assert failed == ["source: light arrives"] or failed == ["weight: light follows"]


def test_check_tries_the_camera_by_light_without_a_calibration(tmp_path: Path, mocker: Any) -> None:
    # Tests in the dark cannot detect a camera that keeps its exposure.
    from lightloom.instruments.simulated import SimulatedCamera

    picture = SimulatedCamera._image  # no bench file can select this fault

    def keeps(self: Any, *arguments: Any) -> Any:
        before_s, self._exposure_s = self._exposure_s, 0.002
        try:
            return picture(self, *arguments)
        finally:
            self._exposure_s = before_s

    found = checked(tmp_path, calibration="none.json")
    assert found["detector: grows with exposure"].passed
    mocker.patch.object(SimulatedCamera, "_image", keeps)
    found = checked(tmp_path, calibration="none.json")
    assert not found["detector: grows with exposure"].passed


def test_a_daq_with_one_counter_is_refused_on_a_single_pixel_bench(
    tmp_path: Path, mocker: Any
) -> None:
    # `check` passed, and `align` failed.
    from lightloom.instruments.simulated import SimulatedDaq

    connect = SimulatedDaq._connect

    def has_one(self: Any, timeout_s: float) -> Any:
        identity = connect(self, timeout_s)
        self.counter_count = 1
        return identity

    mocker.patch.object(SimulatedDaq, "_connect", has_one)
    found = checked(tmp_path, "single-pixel")
    assert "has 1 counter, and" in found["light"].detail
    with pytest.raises(InputError, match="counts the frames of both modulators"):
        load_bench(tmp_path / "bench.toml").open()


def test_check_reports_an_interlock_that_cannot_be_read(tmp_path: Path, laser: Served) -> None:
    # "interlock closed" was printed for a source whose interlock was never read.
    path = live_bench_process.write(tmp_path, laser.address)
    bench = load_bench(path)
    missing = safety.lacks(bench.file, bench.source)
    assert any("no interlock that can be asked" in sentence for sentence in missing)
    change_bench(path, instruments__source__commands__interlock="SYST:INT?")
    bench = load_bench(path)
    assert len(safety.lacks(bench.file, bench.source)) == 2
    json.dumps(missing)
