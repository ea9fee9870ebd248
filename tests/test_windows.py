"""What bench computers with Windows do differently, simulated on Linux.

`like_windows` starts programs of which every process lacks what Windows lacks. Elsewhere, the code
for Windows is called with fakes of its libraries. docs/explanation/windows.md lists what was only
read, and what only such a computer can show.
"""

import ast
import atexit
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import live_bench_process
import pytest
import serial
from bench_factory import write_bench
from commands import started
from lightloom.backends import open_backend
from lightloom.instruments import InputError, InUse, addresses, create, files, trust
from lightloom.instruments.drivers import micromanager
from lightloom.instruments.safety import lock, signals
from lightloom.instruments.safety.watchdog import Watchdog
from lightloom.scheduler.energy import machine
from lightloom.scheduler.energy.constants import load_constants
from lightloom.scheduler.journal import export
from lightloom.scheduler.journal.database import uri_of
from package_modules import modules
from scpi_devices import Served, Source, serve
from waiting import wait_until

from lightloom import __main__ as front
from lightloom.cli import app as command_line
from lightloom.cli.output import check_apart

ROOT, KIT = Path(__file__).parents[1], Path(__file__).parent / "kit"
linux = pytest.mark.skipif(sys.platform != "linux", reason="simulates Windows on Linux")

# Python runs this at the start of every process. Packages that are loaded before keep their Linux;
# Windows' module for locks is there for the one module of lightloom that uses it.
LIKE_WINDOWS = """
import contextlib, fcntl, os, signal, socket, sys, time, types

for name in os.environ["PRELOADED"].split():
    with contextlib.suppress(ImportError):
        __import__(name)

for module, names in {
    os: "fork forkpty register_at_fork sched_getaffinity fchmod setsid major minor set_blocking "
    "O_NOFOLLOW O_CLOEXEC getloadavg mkfifo",
    signal: "SIGHUP SIGALRM SIGCONT SIGSTOP SIGUSR1 pthread_kill pthread_sigmask setitimer",
    socket: "AF_UNIX",
    time: "clock_gettime CLOCK_MONOTONIC",
}.items():
    for name in names.split():
        delattr(module, name)


def socketpair(*_, **__):
    server = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(server.getsockname())
    with server:
        return one, server.accept()[0]


def locking(handle, mode, count):
    start = os.lseek(handle, 0, os.SEEK_CUR)
    assert start + count < 1 << 31
    flags = fcntl.LOCK_EX | fcntl.LOCK_NB if mode else fcntl.LOCK_UN
    try:
        fcntl.lockf(handle, flags, count, start)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None


socket.socketpair = socketpair
for name in "fcntl pwd grp termios".split():
    sys.modules[name] = None
msvcrt = types.ModuleType("msvcrt")
msvcrt.locking, msvcrt.LK_UNLCK, msvcrt.LK_NBLCK = locking, 0, 2


class WindowsLocks:
    @staticmethod
    def find_spec(name, path, target=None):
        if name != "lightloom.instruments.safety.device_lock":
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path[1:])
        spec = next(filter(None, found))
        load = spec.loader.exec_module

        def exec_module(module):
            sys.platform, sys.modules["msvcrt"] = "win32", msvcrt
            try:
                load(module)
            finally:
                sys.platform = "linux"
                del sys.modules["msvcrt"]

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, WindowsLocks)
"""


@pytest.fixture
def like_windows(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return the environment of a program like on Windows; arguments are loaded before."""

    def environment(*preloaded: str) -> dict[str, str]:
        folder = tmp_path / "like windows"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(LIKE_WINDOWS, encoding="utf-8")
        paths = os.pathsep.join([str(folder), str(KIT)])
        own = {"PYTHONPATH": paths, "PRELOADED": " ".join(["filelock", "serial", *preloaded])}
        return {**os.environ, **own}

    return environment


def output_of(command: list[str], **options: Any) -> str:
    told = {"capture_output": True, "encoding": "utf-8", "timeout": 300} | options
    done = subprocess.run([sys.executable, *command], text=True, **told)
    assert done.returncode == 0, done.stderr
    assert isinstance(done.stdout, str)
    return done.stdout


def written(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- whole programs without what Windows lacks ---------------------------------------------------

IMPORTS = """
import importlib, os
from package_modules import importable
from lightloom.instruments.safety import device_lock, lock

assert not hasattr(os, "fork")
for name in importable():
    importlib.import_module(name)
assert "msvcrt" in device_lock._locked.__code__.co_names
assert lock.boot_id()
"""


@linux
def test_all_modules_import_without_what_windows_lacks(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    output_of([written(tmp_path, IMPORTS)], env=like_windows())


@linux
def test_digits_run_without_what_windows_lacks(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    command = ["-m", "lightloom", "run", "--limit", "2"]
    assert "MOCK" in output_of(command, env=like_windows(), cwd=tmp_path)


HOLDS = """
import sys
from lightloom.instruments.safety import device_lock
from pathlib import Path

folder = Path(sys.argv[1])
print(device_lock.hold("one", folder), device_lock.hold("one", folder), flush=True)
sys.stdin.readline()
device_lock.let_go("one", folder)
print(device_lock.hold("two", folder), flush=True)
sys.stdin.readline()
"""


@linux
def test_a_device_is_held_by_one_process_with_the_locks_of_windows(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    command = [sys.executable, written(tmp_path, HOLDS), str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=like_windows(), **pipes) as first:
        assert first.stdout is not None and first.stdin is not None
        assert first.stdout.readline() == "None this process\n"
        with subprocess.Popen(command, env=like_windows(), **pipes) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "another process another process\n"
            second.kill()
        print(file=first.stdin, flush=True)
        assert first.stdout.readline() == "None\n"
        with subprocess.Popen(command, env=like_windows(), **pipes) as third:
            assert third.stdout is not None
            assert third.stdout.readline() == "None this process\n"
            third.kill()
        first.kill()


@linux
def test_the_watchdog_acts_without_what_windows_lacks(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    # The partner has no SIGCONT, and the watchdog no parent process that it can compare.
    with serve(Source()) as laser:
        path = live_bench_process.write(tmp_path, laser.address)
        program = [sys.executable, str(KIT / "live_bench_process.py"), str(path), "wait"]
        with subprocess.Popen(
            program, env=like_windows("pyvisa_py"), stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            assert running.stdout.readline().startswith("lit") and is_lit(laser)
            running.kill()
        wait_until(lambda: not is_lit(laser))


def is_lit(served: Served) -> bool:
    device: Any = served.device
    return device.is_on or device.shutter_open


@pytest.mark.slow
@linux
def test_a_recorded_run_is_stopped_and_resumed_without_what_windows_lacks(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    told: dict[str, Any] = {"env": like_windows(), "cwd": tmp_path}
    write_bench(tmp_path)
    assert "0 failed" in output_of(["-m", "lightloom", "check", "--bench", "bench.toml"], **told)
    run = "-m lightloom run --bench bench.toml --limit 2 --record run.db".split()
    with subprocess.Popen([sys.executable, *run], stderr=subprocess.PIPE, **told) as running:
        journal = tmp_path / "run.db-wal"
        wait_until(lambda: journal.exists() and journal.stat().st_size > 200_000, 120)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 130, errors
    assert b"Traceback" not in errors
    assert "bench.toml" in output_of(["-m", "lightloom", "resume", "run.db"], **told)
    output_of(["-m", "lightloom", "report", "run.db", "--output", "run.html"], **told)
    assert (tmp_path / "run.html").stat().st_size > 10_000


@pytest.mark.slow
@linux
def test_workers_run_without_what_windows_lacks(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    pytest.importorskip("distributed")
    told: dict[str, Any] = {"env": like_windows("distributed"), "cwd": tmp_path}
    write_bench(tmp_path)
    run = "run --bench bench.toml --workers 1 --limit 1".split()
    assert "bench.toml" in output_of(["-m", "lightloom", *run], **told)
    sweep = "sweep --seed 0,1 --limit 2 --workers 1".split()
    assert "digits" in output_of(["-m", "lightloom", *sweep], **told)


SHOWS = """
import sys
import numpy as np
from lightloom.instruments.drivers.display import DisplaySLM, DisplaySLMOptions

if __name__ == "__main__":
    options = {"monitor": 0, "refresh_hz": 60, "settle_time_s": 0, "timeout_s": 5}
    with DisplaySLM("weight", DisplaySLMOptions(x_display=sys.argv[1], **options)) as slm:
        slm.show(np.zeros(slm.shape, np.uint8))
        print("shown")
"""


@pytest.mark.slow
@linux
def test_a_window_shows_without_what_windows_lacks(
    tmp_path: Path, like_windows: Callable[..., dict[str, str]]
) -> None:
    from test_display import x_server  # skips where there is no X server

    with x_server() as (name, _):
        assert output_of([written(tmp_path, SHOWS), name], env=like_windows()) == "shown\n"


# --- calls that differ ---------------------------------------------------------------------------

FORBIDDEN = {
    "os.kill": "ends the process on Windows, even with signal 0",
    "os.killpg": "is missing on Windows",
    "os.fork": "is missing on Windows",
    "os.rename": "refuses an existing file on Windows; use files.move",
    "os.replace": "fails on Windows while another program has the file open; use files.move",
    "os.getuid": "is missing on Windows",
    "os.getloadavg": "is missing on Windows",
    "os.statvfs": "is missing on Windows",
    "os.symlink": "needs a privilege on Windows",
    "tempfile.NamedTemporaryFile": "cannot be opened again on Windows",
    "tempfile.mktemp": "is a race",
}
GUARDED = {("lightloom.benchmarks.__main__", "os.getloadavg")}  # where the system has it


@pytest.fixture(scope="module")
def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the package: module, name of the function, and the call."""
    return [
        (name, ast.unparse(node.func), node)
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_no_call_is_made_that_means_something_else_on_windows(calls: list[Any]) -> None:
    # os.kill(pid, 0) looks like a question, and ends the process there.
    found = [(name, call) for name, call, _ in calls if call in FORBIDDEN]
    assert set(found) == GUARDED, [(name, call, FORBIDDEN[call]) for name, call in found]


def test_every_text_names_its_encoding(calls: list[Any]) -> None:
    # The default of Windows is a code page: a file with µ would not be read, or be read wrongly.
    wrong = []
    for name, call, node in calls:
        method = call.rpartition(".")[2]
        options = {keyword.arg for keyword in node.keywords}
        modes = [value.value for value in node.args if isinstance(value, ast.Constant)]
        is_text = {
            "read_text": not node.args,
            "write_text": len(node.args) < 2,
            "open": any(str(mode) in ("r", "w", "a", "x", "r+") for mode in modes),
        }.get(method, "text" in options or "universal_newlines" in options)
        if is_text and "encoding" not in options:
            wrong.append(f"{name}:{node.lineno} {call}")
    assert not wrong


# --- names and addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (r"C:\lab\bench.toml", r"cannot read the bench file 'C:\\lab\\bench.toml'"),
        (r"C:\lab\BENCH.TOML", r"cannot read the bench file 'C:\\lab\\BENCH.TOML'"),
        (r"\\host\lab\bench.toml", r"cannot read the bench file '\\\\host\\lab\\bench.toml'"),
        (r"mock:C:\lab\mine.toml", r"cannot read the profile 'C:\\lab\\mine.toml'"),
        (r"mock:C:\lab\MINE.Toml", r"cannot read the profile 'C:\\lab\\MINE.Toml'"),
        (r"C:\lab\bench", r"unknown backend 'C:\\lab\\bench'"),
    ],
)
def test_a_drive_is_no_kind_of_backend(name: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        open_backend(name)
    assert str(caught.value).startswith(sentence)


def test_an_account_of_energy_may_end_in_capitals() -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_constants(r"C:\lab\ENERGY.TOML")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (r"C:\runs\a b.db", "file:///C:/runs/a%20b.db"),
        (r"\\host\lab\run.db", "file:////host/lab/run.db"),
        ("//host/lab/\u00b5.db", "file:////host/lab/%C2%B5.db"),
    ],
)
def test_a_journal_on_a_network_drive_has_a_uri_that_sqlite_takes(path: str, uri: str) -> None:
    # SQLite reports the host of "file://host/..." as an error, as it does for a damaged file.
    assert uri_of(PureWindowsPath(path)) == uri


@pytest.mark.parametrize(
    ("path", "is_here"),
    [
        (r"C:\maker\camera.cti", True),
        ("C:/maker/camera.cti", True),
        (r"C:camera.cti", False),
        (r"\maker\camera.cti", False),
        (r"\\host\share\camera.cti", False),
        ("//host/share/camera.cti", False),
        (r"\\?\UNC\host\share\camera.cti", False),
    ],
)
def test_native_code_comes_from_a_drive_of_this_computer(
    monkeypatch: pytest.MonkeyPatch, path: str, is_here: bool
) -> None:
    monkeypatch.setattr(trust, "Path", PureWindowsPath)
    assert trust.is_on_this_computer(path) == is_here


def test_steps_in_exports_have_names_that_windows_takes() -> None:
    names = ["layer.0.attention.qk", "a/b", "a:b", "a%2Fb", 'a<>"|?*\\b']
    found = [export._as_one_name(name) for name in names]
    assert found[0] == names[0] and len(set(found)) == len(names)
    assert not set("".join(found)) & set('<>:"/\\|?*')


def test_outputs_that_differ_in_case_are_one_file_on_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs: dict[str, Path | None] = {"--json": Path("Out.json"), "--trace": Path("out.json")}
    monkeypatch.setattr(os.path, "normcase", str)
    check_apart(outputs)
    monkeypatch.setattr(os.path, "normcase", str.lower)
    with pytest.raises(InputError, match="--json and --trace are both"):
        check_apart(outputs)


def test_a_prompt_is_taken_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library of the command line would put names of files for *, and variables for %NAME%.
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(command_line, "app", lambda **options: asked.append(options))
    front._command_line()
    assert asked == [{"windows_expand_args": False}]


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp437", pytest.param("cp1252", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("check", "--bench", "bank \u00b5.toml"), 0),
        (("run", "--bench", "\u0394\u03bb\u00b2 \u00d7.toml"), 2),
        pytest.param(("plan",), 0, marks=pytest.mark.slow),
        pytest.param(("doctor", "--profile", "slm-camera"), 0, marks=pytest.mark.slow),
        pytest.param(("energy", "--profile", "slm-camera"), 0, marks=pytest.mark.slow),
        pytest.param(("run", "--limit", "2"), 0, marks=pytest.mark.slow),
        pytest.param(("devices",), 0, marks=pytest.mark.slow),
    ],
)
def test_commands_are_readable_in_the_code_pages_of_windows(
    tmp_path: Path, encoding: str, arguments: tuple[str, ...], status: int
) -> None:
    write_bench(tmp_path / "bank \u00b5.toml")
    done = subprocess.run(
        [sys.executable, "-m", "lightloom", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        encoding=encoding,
    )
    assert done.returncode == status, done.stderr
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown and "UnicodeEncodeError" not in shown
    if status == 0:
        assert r"\u" not in shown and r"\x" not in shown and "?" not in done.stdout
    else:  # what a code page lacks is written out, and the rest is there
        assert "lightloom:" in done.stderr and ".toml" in done.stderr


def test_the_watchdog_and_its_partner_talk_in_utf_8(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Its message was in the code page of the computer; then it was lost, and with it its reader.
    from lightloom.instruments import InstrumentError

    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    watchdog = Watchdog("laser-\u00b5", "source", {}, tmp_path / "log", lambda why: None)
    with pytest.raises(InstrumentError, match="unknown driver 'laser-\u00b5'"):
        watchdog.wait_until_ready()


def test_a_last_message_has_the_encoding_of_the_console(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[bytes] = []
    monkeypatch.setattr(os, "device_encoding", lambda number: "cp437")
    monkeypatch.setattr(os, "write", lambda number, content: shown.append(content))
    signals._write_message("bank \u00b5 \u5149")
    assert shown == ["\nlightloom: bank \u00b5 \\u5149\n".encode("cp437")]


# --- files that other programs have open ---------------------------------------------------------


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Make renames fail as often as the number says, as a virus scanner does on Windows."""
    left, replace, rename = [3], Path.replace, Path.rename

    def failing(method: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def call(path: Path, target: Path) -> Path:
            if left[0]:
                left[0] -= 1
                raise PermissionError(13, "Access is denied")
            return method(path, target)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing(replace))
        patch.setattr(Path, "rename", failing(rename))
        patch.setattr(files, "_MOVE_PAUSE_S", 0.001)
        patch.setattr(files.sys, "platform", "win32")
        yield left


@pytest.mark.parametrize("kind", ["", "lightloom trace"])
def test_a_result_survives_a_virus_scanner(tmp_path: Path, scanned: list[int], kind: str) -> None:
    path = tmp_path / "out.json"
    files.write_document(path, {"value": 1}, "lightloom trace")
    scanned[0] = 3
    other = tmp_path / "other.json"
    files.write_output(path if kind else other, b'{"kind": "lightloom trace"}', kind)
    files.replace_file(tmp_path / "state", b"new")
    assert (path if kind else other).read_bytes() == b'{"kind": "lightloom trace"}'
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        {"out.json", "state"} | ({"other.json"} if not kind else set())
    )


def test_a_file_that_stays_open_elsewhere_is_a_sentence(tmp_path: Path, scanned: list[int]) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(b'{"kind": "lightloom trace"}')
    scanned[0] = 1000
    with pytest.raises(InputError, match=r"cannot write the trace .*out\.json: Access is denied"):
        files.write_document(path, {"value": 1}, "lightloom trace")
    assert scanned[0] == 1000 - files._MOVE_TRIES
    assert path.read_bytes() == b'{"kind": "lightloom trace"}'
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_elsewhere_a_refused_rename_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scanned: list[int]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(files.sys, "platform", "linux")
        files.replace_file(tmp_path / "state", b"new")
    assert scanned[0] == 2


def test_a_folder_that_refuses_files_is_found_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # `tempfile` would try 2147483647 names there.
    assert lock.is_writable(tmp_path) and not list(tmp_path.iterdir())

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: pytest.fail("tempfile"))
    monkeypatch.setattr(Path, "open", refuses)
    assert not lock.is_writable(tmp_path)


# --- the end of a console ------------------------------------------------------------------------


class Light:
    """A light that records what was asked of it."""

    path, exposing_s = "bench.toml", 0.0

    def __init__(self) -> None:
        self.asked: list[str] = []

    def light_off(self) -> None:
        self.asked.append("off")

    def darken(self) -> None:
        self.asked.append("dark")


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Iterator[Light]:
    monkeypatch.setattr(signals, "_request", signals._StopRequest())
    control = Light()
    signals.add(control)
    yield control
    signals.remove(control)


@pytest.mark.parametrize(
    ("event", "is_end"), [(0, False), (1, False), (2, True), (5, True), (6, True)]
)
def test_light_goes_off_before_windows_ends_the_process(
    light: Light, event: int, is_end: bool
) -> None:
    # Ctrl-C and Ctrl-Break (0 and 1) are signals; the others leave time for this call only.
    assert signals._make_safe_at_close(event) == 0  # the handlers of the C library come next
    assert light.asked == (["off", "dark"] if is_end else [])
    assert signals.is_stopping() == is_end


def test_windows_has_a_handler_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows keeps its address only: after it is gone, a console that closes would call garbage.
    given: list[tuple[Any, bool]] = []
    at_end: list[Callable[[], Any]] = []
    kernel = SimpleNamespace(SetConsoleCtrlHandler=lambda *both: given.append(both))
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(ctypes, "WINFUNCTYPE", lambda *_: lambda call: call, raising=False)
    monkeypatch.setattr(atexit, "register", lambda call, *both: at_end.append(lambda: call(*both)))
    signals._delay_console_close()
    assert given == [(signals._make_safe_at_close, True)]
    at_end[0]()
    assert given[1:] == [(signals._make_safe_at_close, False)]


# --- instruments ---------------------------------------------------------------------------------

DENIED = "could not open port 'COM3': PermissionError(13, 'Access is denied.', None, 5)"


@pytest.mark.parametrize(
    ("driver", "address"), [("scpi-power-meter", "ASRL3::INSTR"), ("serial-daq", "COM3")]
)
def test_a_port_that_another_program_has_is_in_use(
    monkeypatch: pytest.MonkeyPatch, driver: str, address: str
) -> None:
    # Every port is exclusive on Windows; the sentence must not send an operator to the cable.
    def refuses(*_: object, **__: object) -> None:
        raise serial.SerialException(DENIED)

    monkeypatch.setattr(serial, "serial_for_url", refuses)
    with pytest.raises(InUse, match=r"cannot be opened .*Access is denied"):
        create(driver, "device", {"address": address}).connect()


def test_a_monitor_of_windows_belongs_to_no_x_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two consoles, one of them with the variable of an X server, would both hold a modulator.
    monkeypatch.setenv("DISPLAY", ":0")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        assert addresses.x_display("") == ""
    assert addresses.x_display("") == (":0" if sys.platform == "linux" else "")


@pytest.mark.parametrize("name", ["COM10", "com10", r"\\.\COM10", "ASRL10::INSTR", "ASRLCOM10"])
def test_a_serial_port_has_one_name_on_windows(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(addresses, "os", SimpleNamespace(name="nt"))
    assert addresses.canonical(name) == "com10"


def test_windows_finds_the_libraries_of_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "before")
    micromanager._let_windows_search("adapters")
    assert os.environ["PATH"] == "before"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        for folder in ("adapters", "adapters", None):
            micromanager._let_windows_search(folder)
    assert os.environ["PATH"].split(os.pathsep) == ["adapters", "before"]


# --- this computer -------------------------------------------------------------------------------


def test_memory_is_asked_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(size: Any) -> int:
        size._obj.value = 16 << 20  # in KiB
        return 1

    kernel = SimpleNamespace(GetPhysicallyInstalledSystemMemory=installed)
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert machine.memory_bytes() == 16 << 30
    assert machine.resident_bytes() is None


def test_a_command_runs_from_a_folder_with_a_space_and_a_letter_of_no_code_page(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "Eigene Dateien \u5149"
    folder.mkdir()
    done = started(folder, "run", "--limit", "1", "--trace", "run \u5149.json")
    assert done.returncode == 0, done.stderr
    assert (folder / "run \u5149.json").read_bytes().startswith(b"{")


def test_the_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "explanation" / "windows.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) >= 15 and all(callable(globals().get(name)) for name in named)
