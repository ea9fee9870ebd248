"""A result reaches its reader on any stream, and nothing in it steers a terminal."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from lightloom.instruments.text import printable
from rich.markup import escape
from rich.table import Table
from waiting import wait_until

from lightloom.report import streams
from lightloom.report.charts import Bar, bar_chart
from lightloom.report.page import render
from lightloom.report.terminal.console import PrintableConsole
from lightloom.report.terminal.run import show_plan, show_quality

posix = pytest.mark.skipif(os.name == "nt", reason="has POSIX terminals, signals and descriptors")
EVIL = "a\x1b]52;c;cm0gLXJm\x07b\x9b31mc\u202ed\x7f"  # writes the clipboard, hides, reorders


def lightloom(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightloom", *map(str, arguments)]
    told = {"capture_output": True} | options
    return subprocess.run(command, text=True, encoding="utf-8", errors="surrogateescape", **told)


def script(work: str) -> list[str]:
    """Return the command of a process that does something as a command of lightloom would."""
    body = textwrap.indent(textwrap.dedent(work), "    ")
    text = f"import os, sys\nfrom lightloom.__main__ import run\ndef work():\n{body}\nrun(work)"
    return [sys.executable, "-c", text]


def ended(work: str, shell: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run such a process, its streams as the shell has them, such as ">&-"."""
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *script(work)] if shell else script(work)
    told = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run(command, **told)


# --- what a stream cannot take -------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_result_is_printed_in_any_encoding(encoding: str) -> None:
    # On Windows, `lightloom run > result.txt` computed for hours and then lost the text.
    run = ended(
        "print('text \\u5149 \\u2588 caf\\u00e9 3 \\u00b5J \\udcff')",
        env=coded(encoding),
        text=False,
    )
    assert run.returncode == 0 and run.stderr == b""
    shown = run.stdout.decode(encoding)
    assert shown.startswith("text ") and ("\u5149" in shown or r"\u5149" in shown)
    assert ("3 uJ" if encoding == "ascii" else "3 \u00b5J") in shown
    assert r"\udcff" in shown  # of a name in no encoding


def coded(encoding: str) -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": encoding}


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--limit", "2"),
        pytest.param(("plan",), marks=pytest.mark.slow),
        pytest.param(("doctor",), marks=pytest.mark.slow),
        ("run", "--help"),
    ],
)
def test_tables_are_drawn_in_letters_where_there_is_nothing_else(arguments: tuple[str]) -> None:
    run = lightloom(*arguments, env=coded("ascii"))
    assert run.returncode == 0, run.stderr
    assert run.stdout.isascii() and "---" in run.stdout and r"\u" not in run.stdout


@posix
@pytest.mark.parametrize(
    ("shell", "why"), [(">&-", "it is closed"), (">/dev/full", "No space left on device")]
)
def test_what_standard_output_cannot_take_goes_to_standard_error(shell: str, why: str) -> None:
    # A disk that is full at the last line would cost the result of a night.
    run = ended("print('the result')", shell)
    assert run.returncode == 1
    message = f"lightloom: cannot write to standard output: {why}; the result follows here"
    assert run.stderr.splitlines() == [message, "the result"]


@posix
@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full"])
def test_a_result_needs_no_standard_error(shell: str) -> None:
    # A progress bar that nobody sees would end a run.
    run = ended("print('note', file=sys.stderr)\nprint('the result')", shell)
    assert run.returncode == 0 and run.stdout == "the result\n"


@posix
def test_an_error_is_said_on_the_stream_that_is_left() -> None:
    run = ended("sys.exit('nothing was done')", "2>&-")
    assert run.returncode == 1 and run.stdout == "lightloom: nothing was done\n"


@posix
def test_a_program_without_streams_ends_with_its_status() -> None:
    # A service has none; `print` to None would be an error of ours.
    assert ended("print('the result')", ">&- 2>&- <&-").returncode == 1
    assert ended("sys.exit(3)", ">&- 2>&- <&-").returncode == 3


@posix
def test_no_file_of_ours_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    # A library in C that warns would write into the journal.
    work = f"stream = open({str(tmp_path / 'run.db')!r}, 'wb')\nsys.exit(stream.fileno() < 3)"
    assert ended(work, ">&- 2>&- <&-").returncode == 0


@posix
def test_a_reader_that_has_seen_enough_ends_quietly() -> None:
    # `lightloom plan | head -1` must neither print a traceback nor all the rest.
    work = "print('first', flush=True)\nsys.stdin.read()\nprint('second')"
    with subprocess.Popen(
        script(work), stdin=-1, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdin and run.stdout and run.stderr
        assert run.stdout.readline() == "first\n"
        run.stdout.close()
        run.stdin.close()
        errors = run.stderr.read()
    assert run.returncode == 1
    assert errors.count("\n") == 1 and "Broken pipe; the rest is not shown" in errors


@posix
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("run", "--limit", 2, "--json"), marks=pytest.mark.slow),
        pytest.param(("doctor",), marks=pytest.mark.slow),
        ("nothing",),
        ("run", "--help"),
    ],
)
def test_commands_end_well_without_standard_output(arguments: tuple[object, ...]) -> None:
    command = [sys.executable, "-m", "lightloom", *map(str, arguments)]
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True
    )
    assert run.returncode == (2 if arguments == ("nothing",) else 1)
    assert "Traceback" not in run.stderr and len(run.stderr) > 200


def test_a_file_that_cannot_be_written_does_not_take_the_result_with_it(tmp_path: Path) -> None:
    # The trace was written first; where that failed, hours of a run were not shown.
    if not Path("/dev/full").exists():
        pytest.skip("there is no device that is always full")
    (tmp_path / "trace.json").symlink_to("/dev/full")
    run = lightloom("run", "--limit", 2, "--trace", tmp_path / "trace.json")
    assert run.returncode == 2 and "accuracy: digital" in run.stdout


# --- what comes from outside ---------------------------------------------------------------------


def is_harmless(text: str) -> bool:
    return not any(
        (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2066"
        for c in text
    )


def test_control_characters_are_written_out() -> None:
    # A model's name could write the clipboard, from where the next paste runs it.
    assert printable(EVIL) == r"a\x1b]52;c;cm0gLXJm\x07b\x9b31mc\u202ed\x7f"
    assert printable("two\r\nlines\n\tand caf\u00e9 \u5149") == "two\nlines\n\tand caf\u00e9 \u5149"


def test_a_console_prints_foreign_text_without_its_control_characters() -> None:
    stream = io.StringIO()
    console = PrintableConsole(stream, 200)
    table = Table(f"[bold]{escape(EVIL)}[/]")
    table.add_row(escape(EVIL))
    console.print(f"[bold]{escape(EVIL)}[/]", table)
    console.print(EVIL, markup=False)
    assert is_harmless(stream.getvalue()) and stream.getvalue().count("x1b") == 4
    widths = {len(line) for line in stream.getvalue().splitlines() if line.endswith(tuple("┓┃│┘"))}
    assert len(widths) == 1  # columns fit what is shown


def test_a_terminal_still_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    console = PrintableConsole(stream, 80)
    console.print(f"[bold]{escape(EVIL)}[/]")
    shown = stream.getvalue()
    assert shown.startswith("\x1b[1m") and is_harmless(shown.replace("\x1b[", ""))


def test_generated_text_is_shown_as_it_is() -> None:
    # Long lines were broken, and ":heart:" became a picture.
    text = f"a line of {'many ' * 60}words\n\n  :heart: [bold]{EVIL}"
    quality = {"metric": "text", "digital": None, "optical": text}
    stream = io.StringIO()
    show_quality(PrintableConsole(stream, 110), quality)
    assert printable(text) in stream.getvalue() and is_harmless(stream.getvalue())


@pytest.mark.parametrize(
    "of",
    [
        pytest.param("model", marks=pytest.mark.slow),
        "bench",
        pytest.param("command", marks=pytest.mark.slow),
    ],
)
def test_errors_and_results_of_commands_hold_no_control_characters(tmp_path: Path, of: str) -> None:
    folder = tmp_path / "m\x1b]0;owned\x07\u202e"
    folder.mkdir()
    (folder / "bench.toml").write_text('schema = 1\n"\\u001b[2J" = 1\n', "utf-8")
    arguments: dict[str, tuple[object, ...]] = {
        "model": ("run", "--model", folder),
        "bench": ("check", "--bench", folder / "bench.toml"),
        "command": (EVIL,),
    }
    run = lightloom(*arguments[of])
    assert is_harmless(run.stdout + run.stderr)
    assert "x1b" in run.stdout + run.stderr


def test_warnings_and_tracebacks_hold_none_either() -> None:
    # What a library logs of a reply, and an error of ours, go past all consoles.
    work = """
        import logging
        logging.getLogger("lightloom").warning("it said \\x1b]52;c;x\\x07")
        raise RuntimeError("bad \\x1b[2J")
    """
    run = ended(work)
    assert run.returncode == 1 and "Traceback" in run.stderr
    assert is_harmless(run.stderr) and run.stderr.count("x1b") >= 2


def test_pages_hold_none() -> None:
    # `cat report.html`, and a picture that no viewer opens.
    assert is_harmless(render("base.html", "a page", title=EVIL, lead=EVIL))
    assert is_harmless(bar_chart(EVIL, [Bar(EVIL, {EVIL: 1.0}, EVIL)]))


def test_json_holds_them_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    from lightloom.cli.output import print_json

    print_json({"name": EVIL})
    shown = capsys.readouterr().out
    assert is_harmless(shown) and shown.isascii() and "\\u007f" in shown


# --- how a process ends --------------------------------------------------------------------------

INTERRUPT = "import signal; os.kill(os.getpid(), signal.SIGINT)"


@posix
@pytest.mark.parametrize(
    "work",
    [
        INTERRUPT,
        f"try:\n    {INTERRUPT}\nexcept KeyboardInterrupt:\n    raise ImportError from None",
        f"class Gone:\n    def __del__(self):\n        {INTERRUPT}\nGone()\nwhile True: pass",
        f"import ctypes\nctypes.pythonapi.PyRun_String({INTERRUPT!r}.encode(), 257, "
        "ctypes.py_object({'os': os}), ctypes.py_object({'os': os}))",
        "import signal, threading\n"
        "def hear(): signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"
        "threading.Thread(target=hear).start()\nthreading.Event().wait(50)",
    ],
    ids=["at once", "as another error", "dropped in a destructor", "below C", "by another thread"],
)
def test_an_interrupt_is_one_line_and_status_130_wherever_it_comes(work: str) -> None:
    # A page of traceback hides what was kept; a status of 1 is that of a failed check.
    run = ended(work, timeout=30)
    assert run.returncode == 130 and run.stderr == "lightloom: stopped by the operator\n"


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_end_with_the_same_status(name: str) -> None:
    run = ended(f"import signal; os.kill(os.getpid(), signal.{name}); signal.pause()")
    assert run.returncode == 130 and run.stderr == "lightloom: stopped by the operator\n"


@posix
def test_a_terminal_that_closes_ends_with_status_130() -> None:
    # A script would take the end of an ssh session for a failed run: it was 1.
    ours, theirs = os.openpty()
    attach = "import fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    wait = "import signal; print('ready', flush=True); signal.pause(); print('result')"
    run = subprocess.Popen(script(f"{attach}\n{wait}"), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(ours, 100)
    os.close(ours)
    assert run.wait(30) == 130


@pytest.mark.slow
@posix
def test_ctrl_c_while_a_sweep_opens_workers_is_one_line(tmp_path: Path) -> None:
    # Every worker printed its traceback, a hundred lines over the one that counts.
    psutil = pytest.importorskip("psutil", reason="comes with the extra cluster")
    pytest.importorskip("distributed")
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        options = ["--light", "1e3,1e4", "--limit", "2", "--workers", "1"]
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "lightloom", "sweep", *options])
    process = psutil.Process(pid)
    wait_until(lambda: len(process.children(recursive=True)) >= 2, 60)  # it, and a helper
    workers = process.children(recursive=True)
    os.write(terminal, b"\x03")
    seen = b""
    try:
        while piece := os.read(terminal, 4096):
            seen += piece
    except OSError:  # the terminal has nobody left
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert b"Traceback" not in seen and seen.count(b"stopped by the operator") == 1
    _, alive = psutil.wait_procs(workers, 20)
    assert not alive


def test_a_stream_is_guarded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    streams.guard()
    guarded = sys.stdout
    streams.guard()
    assert sys.stdout is guarded and not streams.result_is_lost()


def test_a_name_is_no_markup() -> None:
    # A folder called "[red]" lost its name, and coloured the rest.
    from lightloom.models import load_model
    from lightloom.scheduler.runs import plan

    planned = plan(load_model(), "mock:ideal")
    planned.model.name = "[red]digits"
    stream = io.StringIO()
    show_plan(PrintableConsole(stream, 110), planned)
    assert "[red]digits" in stream.getvalue()
