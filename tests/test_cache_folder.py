"""The cache folder: what it returns is what was stored, whatever happened to its files."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import cache_folder
from lightloom.instruments.cache_folder import CacheFolder, cache_path, kept, key_of, open_cache

KEY = key_of({"of": "a test"})
ARRAYS = {
    "doubles": np.arange(12, dtype=np.float64).reshape(3, 4) / 7,
    "singles": np.float32([[[np.pi]]]),
    "bytes": np.arange(5, dtype=np.int8),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 3), dtype=np.uint16),
    "one": np.array(3.5),
    "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
}


@pytest.fixture(autouse=True)
def forget_remarks() -> Iterator[None]:
    yield
    cache_folder._said.clear()


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def entry_of(folder: CacheFolder) -> Path:
    (file,) = folder.files()
    return file.path


def assert_same(found: dict[str, np.ndarray] | None, stored: dict[str, np.ndarray]) -> None:
    assert found is not None and found.keys() == stored.keys()
    for name, array in stored.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_arrays_come_back_with_the_same_bits(folder: CacheFolder) -> None:
    assert folder.load("test", KEY) is None
    folder.store("test", KEY, ARRAYS)
    assert_same(folder.load("test", KEY), ARRAYS)
    assert folder.load("other", KEY) is None and folder.load("test", key_of({})) is None
    folder.store("test", KEY, {"doubles": ARRAYS["doubles"]})
    assert_same(folder.load("test", KEY), {"doubles": ARRAYS["doubles"]})
    assert len(folder.files()) == 1


def damages() -> list[Any]:
    cut = [pytest.param(lambda c, n=n: c[:n], id=f"cut to {n}") for n in (0, 10, 100, -40, -1)]
    flips = [
        pytest.param(lambda c, n=n: c[:n] + bytes([c[n] ^ 4]) + c[n + 1 :], id=f"flip of {n}")
        for n in (3, 60, 900, -33, -32, -2)
    ]
    return [*cut, *flips, pytest.param(lambda c: c + b"\0", id="longer")]


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_entry_is_ignored_with_one_remark(
    folder: CacheFolder, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    for _ in range(2):
        folder.store("test", KEY, ARRAYS)
        path = entry_of(folder)
        path.write_bytes(damage(path.read_bytes()))
        assert folder.load("test", KEY) is None
        assert not folder.files()  # it would be read in vain at every start
    assert capsys.readouterr().err.count("had a damaged entry") == 1
    folder.store("test", KEY, ARRAYS)
    assert_same(folder.load("test", KEY), ARRAYS)


def test_every_flipped_bit_of_a_small_entry_is_seen(folder: CacheFolder) -> None:
    folder.store("test", KEY, {"x": np.array([1.0])})
    whole = entry_of(folder).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        content = np.frombuffer(bytes(damaged), dtype=np.uint8)
        assert cache_folder._unpacked(content, "test", KEY) is None


def test_an_entry_under_the_name_of_another_is_ignored(folder: CacheFolder) -> None:
    folder.store("test", KEY, ARRAYS)
    folder.store("test", key_of({}), {"x": np.ones(1)})
    mine, other = folder._place("test", KEY), folder._place("test", key_of({}))
    shutil.copyfile(mine, other)
    assert folder.load("test", key_of({})) is None


@pytest.mark.parametrize("kind", ["a file in its place", "read-only", "no folder above it"])
def test_a_folder_that_cannot_be_written_costs_one_remark(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    path = tmp_path / "cache"
    if kind == "read-only":

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        path.write_text("")
        path = path if kind == "a file in its place" else path / "cache"
    folder = CacheFolder(path)
    for number in range(3):
        folder.store("test", key_of({"n": number}), ARRAYS)
        assert folder.load("test", KEY) is None
        assert not folder.files()
    said = capsys.readouterr().err
    why = {"a file in its place": "it is not a folder", "read-only": "Permission denied"}
    assert said.count(f"cannot be written ({why.get(kind, '')}") == said.count("the cache ") == 1
    assert "LIGHTLOOM_CACHE names another folder" in said


@pytest.mark.parametrize("name", ["x" * 300, "link"])
def test_a_folder_that_cannot_be_asked_for_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Path.exists raises errors of names that are too long, and of folders of other users
    if name == "link":
        if sys.platform == "win32":
            pytest.skip("links need rights there")
        (tmp_path / name).symlink_to(tmp_path / "nowhere" / "x")
    monkeypatch.setenv("LIGHTLOOM_CACHE", str(tmp_path / name))
    assert kept("test", KEY, lambda: ARRAYS) is ARRAYS
    said = capsys.readouterr().err
    assert said.count("the cache ") == 1 and "File exists" not in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder of Linux")
@pytest.mark.parametrize("path", ["/proc", "/proc/x"])
def test_a_folder_of_the_system_is_not_called_a_full_disk(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    CacheFolder(Path(path)).store("test", KEY, ARRAYS)
    assert "(the system makes no files or folders there)" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="modes of folders are POSIX's")
def test_entries_of_a_read_only_folder_are_used(
    folder: CacheFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.store("test", KEY, ARRAYS)
    entry_of(folder).chmod(0o400)
    folder.path.chmod(0o500)
    try:
        assert_same(folder.load("test", KEY), ARRAYS)
    finally:
        folder.path.chmod(0o700)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_full_disk_keeps_the_older_entry_and_leaves_no_draft(
    folder: CacheFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    folder.store("test", KEY, ARRAYS)
    if when == "before":
        usage = shutil.disk_usage(folder.path)._replace(free=1 << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    else:

        def full(*_: object) -> Iterator[bytes]:
            yield b"some bytes"
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cache_folder, "_packed", full)
    folder.store("test", KEY, {"x": np.ones(3)})
    folder.store("test", key_of({}), {"x": np.ones(3)})
    assert_same(folder.load("test", KEY), ARRAYS)
    assert len(list(folder.path.iterdir())) == 1
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_two_processes_at_once_never_read_half_an_entry(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from pathlib import Path
        from lightloom.instruments.cache_folder import CacheFolder
        folder, mine = CacheFolder(Path(sys.argv[1]), 1 << 20), int(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        for round in range(150):
            folder.store("test", "key", {"x": np.full(20_000, mine)})
            found = folder.load("test", "key")
            assert found is not None and len(found["x"]) == 20_000
            assert len(set(found["x"].tolist())) == 1
        """
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen([*command, str(n)], text=True, **pipes) for n in (1, 2)]  # type: ignore[call-overload]
    for process in both:
        process.stdout.readline()
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and not errors, errors
    assert len(list(tmp_path.iterdir())) == 1


def test_versions_with_another_form_share_the_folder(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.store("test", KEY, {"x": np.zeros(1)})
    with monkeypatch.context() as newer:
        newer.setattr(cache_folder, "_MAGIC", b"lightloom cache, schema 2\n")
        assert folder.load("test", KEY) is None
        folder.store("test", KEY, {"x": np.ones(1)})
        assert_same(folder.load("test", KEY), {"x": np.ones(1)})
    assert_same(folder.load("test", KEY), {"x": np.zeros(1)})
    assert not capsys.readouterr().err


def test_entries_that_were_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, most_bytes=25_000)
    keys = [key_of({"n": number}) for number in range(4)]
    for age, key in enumerate(keys[:2]):
        folder.store("test", key, {"x": np.zeros(10_000, dtype=np.uint8)})
        os.utime(folder._place("test", key), (1000 + age, 1000 + age))
    assert folder.load("test", keys[0]) is not None  # used just now
    folder.store("test", keys[2], {"x": np.zeros(10_000, dtype=np.uint8)})
    assert [folder.load("test", key) is not None for key in keys] == [True, False, True, False]
    folder.store("test", keys[3], {"x": np.zeros(30_000, dtype=np.uint8)})  # larger than all
    assert folder.load("test", keys[3]) is None and len(folder.files()) == 2


def test_only_files_of_the_cache_are_removed(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    left, fresh = (tmp_path / f".test-{'0' * 32}.{n * 8}.draft" for n in "12")
    for path in (left, fresh, tmp_path / "thesis.cache", tmp_path / "test-1.cache"):
        path.write_text("x")
    os.utime(left, (1000, 1000))
    folder.store("test", KEY, ARRAYS)
    assert not left.exists() and fresh.exists()  # another process may write it now
    folder.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.cache", "test-1.cache"}


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("off", " OFF "):
        monkeypatch.setenv("LIGHTLOOM_CACHE", word)
        assert cache_path() is None and open_cache() is None
    monkeypatch.setenv("LIGHTLOOM_CACHE", str(tmp_path))
    assert cache_path() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("LIGHTLOOM_CACHE", "~/cache")  # as a file of a service has it
    assert cache_path() == tmp_path / "cache"
    monkeypatch.setenv("LIGHTLOOM_CACHE", "~unknown-user-name/cache")
    assert cache_path() == Path("~unknown-user-name/cache").absolute()
    monkeypatch.setenv("LIGHTLOOM_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_path() == tmp_path / "xdg" / "lightloom"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_path() == tmp_path / ".cache" / "lightloom"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_path() == tmp_path / "Library" / "Caches" / "lightloom"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_path() == tmp_path / "local" / "lightloom" / "cache"

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_path() is None
