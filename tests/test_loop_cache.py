"""The first run of an installation does not wait for the compiler; later ones find its loops."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightloom.instruments import InputError, loop_cache
from lightloom.instruments.loop_cache import VARIABLE, WORTH_COMPILING, LoopCache

needs_numba = pytest.mark.skipif(
    not loop_cache.COMPILED, reason="numba (extra 'fast') is not installed"
)
SOURCE = """
from lightloom.instruments.environment import compiled

@compiled()
def twice(x):
    return x + x

def warm_up():
    twice(1)
"""
MANY = WORTH_COMPILING
Processes = list[subprocess.Popen[bytes]]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled loops, with a module `some_loops` beside it that may be compiled."""
    (tmp_path / "some_loops.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv(VARIABLE, "background")
    return tmp_path / "kept"


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """The processes that a test starts in the background."""
    started = Processes()
    monkeypatch.setattr(loop_cache, "_STARTED", started)
    yield started
    for process in started:
        process.wait(60)


@needs_numba
def test_a_small_run_does_not_wait_for_the_one_that_compiles(
    kept: Path, processes: Processes
) -> None:
    first, second, third = (LoopCache("some_loops") for _ in range(3))
    first.prepare(1)
    second.prepare(1)
    assert not first.is_used and not second.is_used
    assert len(processes) == 1
    assert "background" in first.state()
    assert processes[0].wait(60) == 0
    third.prepare(1)
    assert third.is_used and third.state() == "compiled for this processor"
    assert not list(kept.glob("*.lock"))
    source = kept.parent / "some_loops.py"
    os.utime(source, (1, 1))  # as of another version: numba would compile again
    assert not LoopCache("some_loops").is_on_disk()


@needs_numba
def test_a_large_run_waits_and_says_so(
    kept: Path,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache, compiled = LoopCache("some_loops"), list[LoopCache]()
    monkeypatch.setattr(LoopCache, "compile", lambda self: compiled.append(self))
    cache.prepare(MANY)
    assert cache.is_used and compiled == [cache] and not processes
    assert "compiling once for this processor" in capsys.readouterr().err


@needs_numba
def test_a_large_run_waits_for_the_process_in_the_background(
    kept: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    LoopCache("some_loops").prepare(1)
    monkeypatch.setattr(LoopCache, "compile", lambda _: pytest.fail("compiled twice"))
    cache = LoopCache("some_loops")
    cache.prepare(MANY)
    assert cache.is_used and cache.is_on_disk()


@needs_numba
def test_loops_in_use_stay_in_use(
    kept: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # prepared weights and running products may have their form
    monkeypatch.setattr(LoopCache, "compile", lambda _: None)
    cache = LoopCache("some_loops")
    cache.prepare(MANY)
    cache.prepare(1)
    assert cache.is_used and not processes


@needs_numba
def test_a_process_that_fails_is_not_repeated_at_once(kept: Path, processes: Processes) -> None:
    source = kept.parent / "some_loops.py"
    source.write_text("raise ValueError", encoding="utf-8")
    first, second = LoopCache("some_loops"), LoopCache("some_loops")
    first.prepare(1)
    assert processes[0].wait(60) != 0
    second.prepare(1)
    assert len(processes) == 1 and not second.is_used
    (lock,) = kept.glob("*.lock")
    os.utime(lock, (1, 1))  # it may have been killed long ago
    second.prepare(1)
    assert len(processes) == 2


@needs_numba
@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"loops": [1], "sources": {"a": 1}}'])
def test_a_damaged_file_is_as_none(kept: Path, content: str) -> None:
    cache = LoopCache("some_loops")
    kept.mkdir()
    (kept / cache._name).write_text(content, encoding="utf-8")
    assert not cache.is_on_disk()


@needs_numba
def test_no_process_is_started_where_nothing_can_be_kept(
    kept: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write_text("a file, where a folder cannot be made")
    cache = LoopCache("some_loops")
    cache.prepare(1)
    assert not processes and not cache.is_used


@needs_numba
def test_an_account_without_a_home_has_its_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    cache = LoopCache("lightloom.backends.mock.all_loops")
    assert [folder.name for folder in cache._folders()] == ["__pycache__"]


@needs_numba
@pytest.mark.parametrize("program", ["", "blender"])
def test_a_program_that_embeds_python_is_not_started_again(
    kept: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    cache = LoopCache("some_loops")
    cache.prepare(1)
    assert not processes and not list(kept.glob("*"))


@needs_numba
def test_tests_and_continuous_integration_compile_in_their_own_process(
    kept: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    cache = LoopCache("some_loops")
    cache.prepare(1)
    assert cache.is_used and not processes


def test_the_variable_has_three_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "later")
    with pytest.raises(InputError, match=r"'later' is not one of background, now, never"):
        LoopCache("some_loops").prepare(1)


def test_without_numba_numpy_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_cache, "COMPILED", False)
    cache = LoopCache("some_loops")
    cache.prepare(MANY)
    assert not cache.is_used and "numba (extra 'fast') is not installed" in cache.state()


@needs_numba
@pytest.mark.slow
def test_runs_of_every_profile_find_all_loops_of_the_mock(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), VARIABLE: "background"}

    def run(*arguments: str) -> float:
        start = time.monotonic()
        command = [sys.executable, "-m", "lightloom", "run", *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.monotonic() - start

    run()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    loops = sorted(tmp_path.rglob("*.nbc"))
    for profile in ("slm-camera", "projection-2030", "oled-slm-2022", "dmd-camera", "ideal"):
        run("--profile", profile, "--limit", "60")
        run("--profile", profile, "--model", "glimmer", "--prompt", "The", "--max-tokens", "4")
    assert sorted(tmp_path.rglob("*.nbc")) == loops
