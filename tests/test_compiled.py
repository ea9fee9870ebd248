"""Compiled loops run where nothing can be kept on disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

caching = pytest.importorskip("numba.core.caching", reason="needs pip install 'lightloom[fast]'")

_NOWHERE = """
from numba.core import caching
for name in dir(caching):  # as where __pycache__ and home are read-only
    if name.endswith("Locator") or name.startswith("InTree"):
        getattr(caching, name).from_function = classmethod(lambda *_: None)
from lightloom.backends.mock import kernels
from lightloom.backends.optics import kernels
from lightloom.instruments.simulated import kernels
from lightloom.scheduler import compiled_steps
"""


def test_every_module_of_loops_loads_without_a_folder_to_keep_them_in() -> None:
    # In a container whose file system is read-only, two of three ended every run.
    run = subprocess.run([sys.executable, "-c", _NOWHERE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]


def test_a_disk_that_is_full_does_not_end_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # The loop had been compiled; only keeping it failed, and the run with it.
    from lightloom.instruments.environment import compiled

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)

    @compiled()
    def twice(x: Any) -> Any:
        return x + x

    assert twice(21) == 42


def test_files_of_another_version_are_compiled_anew(tmp_path: Path) -> None:
    # After an upgrade that renamed a class, the first product ended with an AttributeError.
    program = tmp_path / "loops.py"
    text = """
from typing import NamedTuple
import sys
sys.path.insert(0, {folder!r})
from lightloom.instruments.environment import compiled

class {name}(NamedTuple):
    x: float

@compiled()
def total(pair):
    return pair.x + 1

print(total({name}(2.0)))
"""
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "kept"))
    for name in ("Old", "New"):
        program.write_text(text.format(folder=str(tmp_path), name=name), encoding="utf-8")
        command = [sys.executable, "-c", "import loops"]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.stdout.strip() == "3.0", run.stderr[-500:]
