"""Light goes off first: after signals, crashes and stuck devices; lock, latch and heartbeat.

The partners are real: a source over TCP in this process, and a program in another process that is
stopped, killed, or stuck. Times are those that the source itself measures.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import live_bench_process
import numpy as np
import pytest
from bench_factory import load_example, write_bench
from lightloom.backends.bench import load_bench, safety
from lightloom.instruments import InputError, InterlockOpen, InUse, LimitExceeded
from lightloom.instruments.safety import lock, signals
from lightloom.instruments.safety.lock import HeldLock, Holder
from lightloom.instruments.safety.watchdog import Watchdog
from lightloom.instruments.templates.echo import DEVICES
from scpi_devices import Served, Source, serve
from waiting import wait_until

KIT = Path(__file__).parent / "kit"
SECOND_S = 1.0  # within which light is off
STAYS_S = 1.25  # light that goes off is off within this time
SAYS = {
    "compute": "computes",
    "fork": "forked",
    "meant": "waits",
}  # printed once the program is busy
SLOW = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.fixture(autouse=True)
def devices_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(safety, "is_terminal", lambda stream: False)
    monkeypatch.delenv(safety.ATTENDED, raising=False)
    with live_bench_process.drivers_in_memory(monkeypatch):
        yield


@pytest.fixture
def laser() -> Iterator[Served]:
    with serve(Source()) as served:
        yield served


def is_lit(served: Served) -> bool:
    device: Any = served.device
    return device.is_on or device.shutter_open


def seconds_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> float:
    began_s = time.monotonic()
    wait_until(condition, timeout_s)
    return time.monotonic() - began_s


def goes_off(is_lit: Callable[[], bool]) -> None:
    """Wait until the light is off, and assert that this is soon."""
    took_s = seconds_until(lambda: not is_lit())
    print(f"light off after {took_s * 1000:.0f} ms")  # pytest -rP shows it
    assert took_s < SECOND_S, f"light off after {took_s:.2f} s"


@contextmanager
def program(path: Path, act: str, **options: Any) -> Iterator[Any]:
    """Run a bench with light in a separate process, which is killed at the end."""
    command = [sys.executable, str(KIT / "live_bench_process.py"), str(path), act]
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "stdin": subprocess.DEVNULL, "text": True} | options
    with subprocess.Popen(command, **options) as running:
        try:
            running.first = running.stdout.readline()
            if not running.first.startswith("lit"):
                raise AssertionError(running.communicate(timeout=20)[1])
            if act in SAYS:
                assert running.stdout.readline() == f"{SAYS[act]}\n"
            yield running
        finally:
            running.kill()


# --- signals -------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "name", ["SIGINT", pytest.param("SIGTERM", marks=SLOW), pytest.param("SIGHUP", marks=SLOW)]
)
def test_a_signal_switches_the_source_off_first(tmp_path: Path, laser: Served, name: str) -> None:
    # After Ctrl-C an operator must not meet a beam that is still on.
    with program(live_bench_process.write(tmp_path, laser.address), "wait") as running:
        assert is_lit(laser)
        running.send_signal(getattr(signal, name))
        goes_off(lambda: is_lit(laser))
        assert running.wait(20) == 130
    assert not (tmp_path / ".bench.toml.watchdog.log").exists()  # the watchdog did not act


@pytest.mark.parametrize(("act", "status"), [pytest.param("end", 0, marks=SLOW), ("raise", 1)])
def test_light_is_off_at_every_end(tmp_path: Path, laser: Served, act: str, status: int) -> None:
    # A script that fails must leave no light on, and no watchdog that stops a later run.
    with program(live_bench_process.write(tmp_path, laser.address), act) as running:
        goes_off(lambda: is_lit(laser))
        assert running.wait(20) == status
    assert {path.name for path in tmp_path.iterdir()} <= {"bench.toml", ".bench.toml.lock"}


@pytest.mark.slow
@posix
def test_a_signal_switches_light_off_during_a_long_computation(
    tmp_path: Path, laser: Served
) -> None:
    # Python handles signals only between bytecode steps; one step may take seconds.
    with program(live_bench_process.write(tmp_path, laser.address), "compute") as running:
        running.send_signal(signal.SIGINT)
        goes_off(lambda: is_lit(laser))
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        _, errors = running.communicate(timeout=20)
        second_s = time.monotonic() - began_s
    assert second_s < 2 * SECOND_S, f"the process ended after {second_s:.2f} s"
    assert running.returncode == 130 and "stopped by the operator, at once" in errors


@pytest.mark.slow
@posix
def test_the_first_ctrl_c_leaves_an_exposure_its_time_and_the_second_does_not(
    tmp_path: Path, laser: Served
) -> None:
    # The first press keeps a shot of ten seconds; the second one does not wait for it.
    path = live_bench_process.write(tmp_path, laser.address, exposure_s="10.0 s")
    with program(path, "compute") as running:
        running.send_signal(signal.SIGINT)
        time.sleep(STAYS_S)  # light stays on during this time
        assert is_lit(laser)
        running.send_signal(signal.SIGINT)
        goes_off(lambda: is_lit(laser))
        assert running.wait(20) == 130
    with program(path, "compute") as running:  # SIGTERM comes without a person, so once is enough
        running.send_signal(signal.SIGTERM)
        goes_off(lambda: is_lit(laser))


@pytest.mark.slow
@posix
def test_a_source_that_another_thread_uses_is_switched_off_too(
    tmp_path: Path, laser: Served
) -> None:
    # A source that stopped answering must not keep its light on until the time-out.
    path = live_bench_process.write(tmp_path, laser.address, instruments__source__timeout_s="15 s")
    with program(path, "hold") as running:
        asked = threading.Event()
        laser.fault = lambda line, reply: asked.set()  # and it does not answer
        assert asked.wait(20)
        running.send_signal(signal.SIGTERM)
        goes_off(lambda: is_lit(laser))
        time.sleep(0.2)  # closer presses count as one
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=20)
    assert running.returncode == 130 and "did not say that its light is off" in errors


@pytest.mark.slow
@posix
def test_a_ctrl_c_that_ends_a_part_of_the_work_leaves_the_light(
    tmp_path: Path, laser: Served
) -> None:
    # `lightloom align --live` ends at Ctrl-C, and then stores its result, with light.
    with program(live_bench_process.write(tmp_path, laser.address), "meant") as running:
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "goes on\n"
        time.sleep(STAYS_S)  # light stays on during this time
        assert is_lit(laser)
        running.send_signal(signal.SIGINT)
        goes_off(lambda: is_lit(laser))
        assert running.wait(20) == 130


_STALLS = """
import sys, threading, time
from pathlib import Path
from lightloom.instruments.simulated.devices import SimulatedCamera, SimulatedSource
enable, disable = SimulatedSource._enable, SimulatedSource._disable
read, reads, stalled = SimulatedCamera._read, [0], threading.Event()
def noted(switch):
    def call(self):
        switch(self)
        Path("light").write_text("on" if self.world.power_w else "off")
    return call
def stalls(self, timeout_s):
    reads[0] += 1
    if reads[0] < 20:
        return read(self, timeout_s)
    Path("stalled").touch()
    stalled.set()
    time.sleep(timeout_s)  # as a camera does whose link is lost
SimulatedSource._enable, SimulatedSource._disable = noted(enable), noted(disable)
SimulatedCamera._read = stalls
"""
_FAILS = """
import numpy, lightloom
backend = lightloom.open_backend("bench.toml")
finish = backend.begin(numpy.ones((4, 16)), backend.prepare(numpy.eye(16)), None)
stalled.wait()
Path("failing").touch()
backend.close()
"""


@posix
@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=SLOW) for how in ("SIGINT", "SIGTERM")), "an exception"]
)
def test_a_camera_that_stalls_keeps_no_light_on(tmp_path: Path, how: str) -> None:
    # A camera that lost its link must not keep the light on for its time-out.
    write_bench(tmp_path, "line", clock="real", limits__timeout_s=15)
    runs = "from lightloom.__main__ import main\nmain()"
    command = [sys.executable, "-c", _STALLS + (_FAILS if how == "an exception" else runs)]
    command += [] if how == "an exception" else ["run", "--bench", "bench.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as run:
        try:
            seconds_until(lambda: run.poll() is not None or (tmp_path / "stalled").exists(), 60)
            assert run.poll() is None, run.communicate()[1]
            assert (tmp_path / "light").read_text() == "on"
            if how == "an exception":
                seconds_until(lambda: (tmp_path / "failing").exists())
            else:
                run.send_signal(getattr(signal, how))
            goes_off(lambda: (tmp_path / "light").read_text() != "off")
        finally:
            run.kill()


# --- killed --------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "act", ["wait", pytest.param("fork", marks=SLOW), pytest.param("compute", marks=SLOW)]
)
def test_a_killed_program_leaves_no_light(tmp_path: Path, laser: Served, act: str) -> None:
    # The kernel kills the largest program when memory runs out; its light must not stay on.
    path = live_bench_process.write(tmp_path, laser.address)
    with program(path, act, start_new_session=True) as running:
        if act == "fork":
            running.kill()  # its forked process continues, with all its files open
        else:
            os.killpg(running.pid, signal.SIGKILL)  # the watchdog has its own session
        goes_off(lambda: is_lit(laser))
        log = tmp_path / ".bench.toml.watchdog.log"
        seconds_until(log.exists)
        if act == "fork":
            os.killpg(running.pid, signal.SIGKILL)
    seconds_until(lambda: log.read_text().endswith("\n"))
    assert "ended without a goodbye; switched off after" in log.read_text()


@pytest.mark.slow
@posix
def test_a_killed_program_leaves_no_light_on_a_serial_line(tmp_path: Path) -> None:
    # Only one program can open a serial line: the watchdog gets it when the other one has ended.
    import tty

    ours, theirs = os.openpty()
    tty.setraw(theirs)
    device, is_over = Source(), threading.Event()

    def answer() -> None:
        heard = b""
        while not is_over.is_set():
            if not select.select([ours], [], [], 0.01)[0]:
                continue
            heard += os.read(ours, 1000)
            *whole, heard = heard.split(b"\n")
            for line in whole:
                if (reply := device.reply(line.decode())) is not None:
                    os.write(ours, reply.encode() + b"\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        path = live_bench_process.write(tmp_path, f"ASRL{os.ttyname(theirs)}::INSTR")
        with program(path, "wait") as running:
            assert device.is_on and device.shutter_open
            running.kill()
            goes_off(lambda: device.is_on or device.shutter_open)
            log = tmp_path / ".bench.toml.watchdog.log"
            seconds_until(lambda: log.exists() and log.read_text().endswith("\n"))
            assert "switched off after" in log.read_text()
    finally:
        is_over.set()
        thread.join()
        os.close(ours)
        os.close(theirs)


@posix
def test_the_watchdog_tries_until_the_source_says_that_it_is_off(
    tmp_path: Path, laser: Served
) -> None:
    # It must not give up on a line that is not free yet, or on a slow source.
    with program(live_bench_process.write(tmp_path, laser.address), "wait") as running:
        laser.device.refuses = 3
        laser.device.received.clear()

        def ignores(line: str, reply: str | None) -> bytes | None:
            device: Any = laser.device
            if line == "OUTP OFF" and device.refuses:
                device.refuses -= 1
                device.is_on = True
                reply = None
            if line == "OUTP?":
                reply = str(int(device.is_on))
            return None if reply is None else reply.encode() + b"\n"

        laser.fault = ignores
        running.kill()
        log = tmp_path / ".bench.toml.watchdog.log"
        seconds_until(lambda: log.exists() and log.read_text().endswith("\n"))
    assert not is_lit(laser) and laser.device.received.count("OUTP OFF") == 4
    assert "switched off after" in log.read_text()


@posix
def test_a_bench_whose_watchdog_has_gone_gives_no_light(tmp_path: Path, laser: Served) -> None:
    # The next kill would leave the light on, without a warning.
    with program(live_bench_process.write(tmp_path, laser.address), "shots") as running:
        os.kill(int(running.first.split()[1]), signal.SIGKILL)
        goes_off(lambda: is_lit(laser))
        _, errors = running.communicate(timeout=20)
    assert running.returncode == 2 and "Traceback" not in errors
    assert "the watchdog process of instruments.source has ended" in errors


def test_a_watchdog_that_cannot_start_is_a_sentence(tmp_path: Path) -> None:
    # A run must not continue without a watchdog.
    from lightloom.instruments import InstrumentError

    watchdog = Watchdog("no-driver", "source", {}, tmp_path / "log", lambda why: None)
    with pytest.raises(InstrumentError, match="does not start: InputError: unknown driver"):
        watchdog.wait_until_ready()
    assert not watchdog.is_alive


# --- one process at a time -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_bench_in_use_names_who_uses_it(tmp_path: Path, laser: Served) -> None:
    # Two programs must not show frames on the same modulators.
    path = live_bench_process.write(tmp_path, laser.address)
    with program(path, "wait") as running:
        with pytest.raises(InUse, match=r"live_bench_process\.py") as refused:
            load_bench(path).open()
        assert f"process {running.pid} of" in str(refused.value)
        assert is_lit(laser)
        running.kill()
        running.wait(20)
        seconds_until(lambda: not is_lit(laser))
        with load_bench(path) as bench:  # killed, and not restarted: no latch
            assert not bench.source.is_emitting()
    assert safety.latched(path) is None


def test_one_process_opens_a_simulated_bench_several_times(tmp_path: Path) -> None:
    # A notebook must be able to load the same file again.
    path = write_bench(tmp_path, "line")
    with load_bench(path), load_bench(tmp_path / ".." / tmp_path.name / "bench.toml"):
        pass
    assert not HeldLock(lock.beside(path, "lock"), "it").holder_path.exists()


def test_a_bench_in_a_folder_that_is_read_only_is_locked_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A bench file of an administrator must have a lock, too.
    monkeypatch.setattr(lock, "shared_folder", lambda: tmp_path / "state")
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(lock, "is_writable", lambda folder: False)
    file = tmp_path / "bench.toml"
    file.write_text("")
    safety.latch(file, "the interlock has tripped")
    with safety.holding(file):
        assert len(list((tmp_path / "state").iterdir())) == 3  # lock, holder and latch
        with pytest.raises(InUse, match="`"):
            HeldLock(lock.beside(file, "lock"), "it").acquire()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_where_nothing_can_be_remembered_the_sentence_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The message was "cannot write the result", which suggests a full disk.
    def nowhere() -> Path:
        raise OSError("no folder is shared by all users of this computer")

    monkeypatch.setattr(lock, "shared_folder", nowhere)
    file = write_bench(tmp_path, "line")
    with load_bench(file):  # the folder of the file is writable, so no other one is needed
        assert safety.latched(file) is None
    for path in tmp_path.glob(".*"):
        path.unlink()
    monkeypatch.setattr(lock, "is_writable", lambda folder: False)
    names = rf"{tmp_path} cannot be written to.*no folder is shared by all users"
    with pytest.raises(InputError, match=names):
        load_bench(file).open()
    safety.latch(file, "the interlock has tripped")  # logged, without an exception
    assert safety.latched(file) is None


# --- latched off until a person re-arms the bench on site ----------------------------------------


def lightloom(folder: Path, *arguments: str, **options: Any) -> Any:
    command = [sys.executable, "-m", "lightloom", *arguments]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True} | options
    return subprocess.run(command, cwd=folder, timeout=120, **options)


def test_a_latched_bench_gives_no_light_until_it_is_rearmed_on_site(tmp_path: Path) -> None:
    # A run that resumes by itself must not light a beam path that is open.
    path = write_bench(tmp_path, "line")
    safety.latch(path, "the interlock has tripped")
    safety.latch(path, "something later")
    with pytest.raises(InterlockOpen, match=r"latched off since 20.*: the interlock has tripped"):
        load_bench(path).open()
    refused = lightloom(tmp_path, "check", "--bench", "bench.toml", "--rearm")
    assert refused.returncode == 2 and "only a person who sees the bench" in refused.stderr
    assert safety.latched(path) is not None
    safety.rearm(path)
    with load_bench(path):
        pass


@posix
@pytest.mark.parametrize(
    ("word", "is_rearmed"), [("safe", True), pytest.param("yes", False, marks=SLOW)]
)
def test_rearming_wants_a_person_s_word(tmp_path: Path, word: str, is_rearmed: bool) -> None:
    # Enter alone must not light a beam path that was not checked.
    path = write_bench(tmp_path, "line")
    safety.latch(path, "the interlock has tripped")
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{word}\n".encode())
        arguments = ("check", "--bench", "bench.toml", "--rearm", "--random-products", "1")
        ended = lightloom(tmp_path, *arguments, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.returncode == (0 if is_rearmed else 2), ended.stderr
    assert "the interlock has tripped" in ended.stderr
    assert (safety.latched(path) is None) == is_rearmed


def test_a_latch_that_cannot_be_read_is_a_latch(tmp_path: Path) -> None:
    # If a disk loses the content of a latch file, the bench must stay off.
    path = write_bench(tmp_path, "line")
    lock.beside(path, "latch").write_bytes(b"")
    with pytest.raises(InterlockOpen, match="cannot be read"):
        load_bench(path).open()


def leave_holder(path: Path, boot: str) -> None:
    """Leave the holder file of a process that was killed while it held the bench."""
    with safety.holding(path):
        kept = HeldLock(lock.beside(path, "lock"), "").holder_path
        content = json.loads(kept.read_text())
    kept.write_text(json.dumps(content | {"boot": boot}))


@pytest.mark.slow
def test_a_computer_that_was_restarted_during_a_run_latches_a_real_bench(
    tmp_path: Path, laser: Served
) -> None:
    # After a power failure the state of the beam path is unknown.
    path = live_bench_process.write(tmp_path, laser.address)
    leave_holder(path, lock.boot_id())
    with load_bench(path):
        pass
    leave_holder(path, "another boot")
    with pytest.raises(InterlockOpen, match="the computer was restarted while `"):
        load_bench(path).open()
    with pytest.raises(InterlockOpen, match="--rearm"):  # and not only once
        load_bench(path).open()
    safety.rearm(path)
    with load_bench(path):
        pass


@pytest.mark.parametrize(
    ("then", "now", "is_another"),
    [
        ("a", "a", False),
        ("a", "b", True),
        ("boot:1000", "boot:1030", False),
        ("boot:1000", "boot:1100", True),
        ("", "b", False),
    ],
)
def test_a_boot_is_told_from_another(
    monkeypatch: pytest.MonkeyPatch, then: str, now: str, is_another: bool
) -> None:
    # A small correction of the clock must not latch a bench; a restart must.
    monkeypatch.setattr(lock, "boot_id", lambda: now)
    mine = Holder.of_this_process()
    assert Holder(mine.command, 1, "me", mine.host, mine.since, then).is_of_another_boot == (
        is_another
    )
    assert not Holder(mine.command, 1, "me", "elsewhere", mine.since, then).is_of_another_boot


# --- fail-safe hardware --------------------------------------------------------------------------

WIRED: dict[str, Any] = {
    "laser_class": "3B",
    "shutter": "normally-closed",
    "heartbeat": {
        "instrument": "detector",
        "line": 1,
        "period_s": "40 ms",
        "stops_after_s": "200 ms",
    },
}


def wired(**heartbeat: Any) -> dict[str, Any]:
    """Return the table `safety` of `WIRED` with changes of its heartbeat."""
    return {**WIRED, "heartbeat": WIRED["heartbeat"] | heartbeat}


def line(number: int = 1) -> bool:
    return bool(DEVICES["daq:echo-1"].memory.get(f"line {number}", False))


def edges(during_s: float, act: Callable[[], None] = lambda: None) -> int:
    """Count the changes of the heartbeat line."""
    ends_s, seen, count = time.monotonic() + during_s, line(), 0
    while time.monotonic() < ends_s:
        act()
        now = line()
        count += now != seen
        seen = now
        time.sleep(0.001)  # polling interval
    return count


@pytest.mark.slow
def test_the_heartbeat_goes_with_the_run_and_stops_when_it_hangs(
    tmp_path: Path, laser: Served
) -> None:
    # A run that hangs must not keep the shutter open.
    with load_bench(live_bench_process.write(tmp_path, laser.address, safety=WIRED)) as bench:

        def shot() -> None:
            bench.shots += 1

        assert edges(1.0, shot) >= 20  # of 50, on a busy computer
        time.sleep(0.5)  # it hangs, for longer than `stops_after_s`
        assert edges(0.5) == 0 and not line()
        assert edges(0.5, bench.beat) >= 10
    assert edges(0.3) == 0 and not line()


def test_a_heartbeat_wants_a_line_that_is_there(tmp_path: Path, laser: Served) -> None:
    # A typing error must not leave the relay without a heartbeat, or drive another line.
    path = live_bench_process.write(tmp_path, laser.address, safety=wired(line=2))
    with pytest.raises(InputError, match=r"line = 2, and instruments\.detector has 2 lines"):
        load_bench(path).open()
    path = live_bench_process.write(tmp_path, laser.address, safety=wired(instrument="source"))
    with pytest.raises(InputError, match="'source' is not the role of a DAQ"):
        load_bench(path)


BARE = {"laser_class": "3B"}


def test_hazardous_light_needs_a_person_or_hardware(
    tmp_path: Path, laser: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A job at night must not leave a class 3B beam to a program alone.
    path = live_bench_process.write(tmp_path, laser.address, safety=BARE)
    with pytest.raises(InputError, match=r"class 3B is not lit unattended.* no heartbeat"):
        load_bench(path).open()
    assert not laser.device.received  # refused before anything is touched
    monkeypatch.setenv(safety.ATTENDED, "1")
    with load_bench(path):
        pass


def test_hazardous_light_is_allowed_at_a_terminal(
    tmp_path: Path, laser: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A person at the terminal need not declare attendance each time.
    path = live_bench_process.write(tmp_path, laser.address, safety=BARE)
    monkeypatch.setattr(safety, "is_terminal", lambda stream: True)
    with load_bench(path):
        pass


@pytest.mark.parametrize(
    "harmless",
    [WIRED, *(pytest.param(table, marks=SLOW) for table in ({"laser_class": "2"}, None))],
)
def test_harmless_light_needs_no_attendance(
    tmp_path: Path, laser: Served, harmless: dict[str, Any] | None
) -> None:
    # A job at night on a safe bench must not be refused.
    with load_bench(live_bench_process.write(tmp_path, laser.address, safety=harmless)):
        pass


@pytest.mark.parametrize("said", [True, pytest.param(False, marks=SLOW)])
def test_attended_declares_a_person_at_the_bench(tmp_path: Path, said: bool) -> None:
    # `lightloom run` under a scheduler has no terminal, although a person may watch it.
    write_bench(tmp_path, "imaged", safety={"laser_class": "4"})
    arguments = ("run", "--bench", "bench.toml", "--limit", "1", "--placement", "host", "--json")
    ended = lightloom(tmp_path, *arguments, *(["--attended"] if said else []))
    assert ended.returncode == (0 if said else 2), ended.stderr
    assert said or "stay at the bench and say so (lightloom run --attended" in ended.stderr


@pytest.mark.parametrize(
    ("table", "is_safe", "says"),
    [
        pytest.param(None, None, "", marks=SLOW),
        pytest.param({}, False, "NOT FAIL-SAFE: no heartbeat line", marks=SLOW),
        (wired(line=0), True, "line 0 was raised and lowered"),
    ],
)
def test_check_says_what_is_not_fail_safe(
    tmp_path: Path, table: dict[str, Any] | None, is_safe: bool | None, says: str
) -> None:
    # An operator must not rely on a program where only a relay is fail-safe.
    write_bench(tmp_path, "single-pixel", safety=table)
    arguments = ("check", "--bench", "bench.toml", "--random-products", "1")
    ended = lightloom(tmp_path, *arguments, *([] if says else ["--json"]))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if is_safe is None:
        assert json.loads(ended.stdout)["fail_safe"] is None
    else:
        assert says in " ".join(ended.stdout.split())
        document = json.loads(lightloom(tmp_path, *arguments, "--json").stdout)
        assert document["fail_safe"] is is_safe and bool(document["not_fail_safe"]) is not is_safe


# --- limits --------------------------------------------------------------------------------------


def test_no_way_leads_past_the_limits_of_a_bench(tmp_path: Path, laser: Served) -> None:
    # A driver that is connected again must keep the limits of its bench.
    path = live_bench_process.write(tmp_path, laser.address, limits__power_w=[0, "2 mW"])
    device: Any = laser.device
    device.power, device.is_on = 20.0, True  # as an earlier program left it
    with load_bench(path) as bench:
        assert not device.is_on and device.received.index("OUTP OFF") < min(
            number for number, line in enumerate(device.received) if line.startswith("SOUR:POW ")
        )
        for _ in range(2):
            heard = len(device.received)
            with pytest.raises(LimitExceeded, match="W is outside its limits of 0 to"):
                bench.source.set_power(3e-3)
            assert len(device.received) == heard and device.power <= 2.0
            bench.source.narrow_limits(0.0, 5e-3)  # does not widen them
            bench.source.close()
            device.power = 20.0
            bench.source.connect()
            with pytest.raises(LimitExceeded, match="its set-point of"):
                bench.source.enable()
            bench.source.set_power(1e-3)
        assert "OUTP ON" not in device.received


def test_no_exposure_is_longer_than_the_bench_allows(tmp_path: Path) -> None:
    # A calibration step must not expose a sample, or an eye, for longer than the limit.
    with load_example(tmp_path, "line") as bench:
        for _ in range(2):
            with pytest.raises(LimitExceeded, match="exposure 2 s is outside"):
                bench.camera.configure(exposure_s=2.0)
            bench.camera.close()
            bench.camera.connect()
        bench.camera.configure(exposure_s=1.0)


def test_modulators_end_at_the_darkest_known_level(tmp_path: Path, laser: Served) -> None:
    # Grey level 0 is not always the darkest: it may pass light.
    from lightloom.backends.optics.parameters import ResponseCurve

    curve = ResponseCurve((np.arange(256) - 40.0) ** 2 + 1)
    with load_bench(live_bench_process.write(tmp_path, laser.address)) as bench:
        bench.know_darkest({"input": curve})
        bench.make_safe()
        assert (DEVICES["slm:input"].memory["frame"] == 40).all()
        assert (DEVICES["slm:weight"].memory["frame"] == 0).all()
        bench.input.show(np.zeros((8, 12), np.uint8))
    assert (DEVICES["slm:input"].memory["frame"] == 40).all()


def test_all_benches_are_made_safe_although_one_of_them_hangs(tmp_path: Path) -> None:
    # One device that does not answer must not keep the light of another bench on.
    answers = threading.Event()

    class Lit:
        path, exposing_s = "lit", 0.0

        def __init__(self, hangs: bool) -> None:
            self.hangs, self.is_lit, self.is_dark = hangs, True, False

        def light_off(self) -> None:
            if self.hangs:
                answers.wait(20)
            self.is_lit = False

        def darken(self) -> None:
            self.is_dark = True

    stuck, good = Lit(True), Lit(False)
    for one in (stuck, good):
        signals.add(one)
    began_s = time.monotonic()
    try:
        (sentence,) = signals.make_all_safe()
    finally:
        for one in (stuck, good):
            signals.remove(one)
    took_s = time.monotonic() - began_s
    assert took_s < SECOND_S and not good.is_lit and good.is_dark and stuck.is_dark, took_s
    assert sentence.startswith("lit did not say that its light is off (no answer in")
    answers.set()
    seconds_until(lambda: threading.active_count() < 50 and not stuck.is_lit)


def test_light_goes_off_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # From Python 3.12 on, none starts while the interpreter shuts down.
    class Lit:
        path, exposing_s = "lit", 0.0
        done: tuple[str, ...] = ()

        def light_off(self) -> None:
            self.done += ("off",)

        def darken(self) -> None:
            self.done += ("dark",)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    one = Lit()
    signals.add(one)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    try:
        assert signals.make_all_safe() == []
    finally:
        signals.remove(one)
    assert one.done == ("off", "dark")
