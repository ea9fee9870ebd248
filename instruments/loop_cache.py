"""`LoopCache`: compiled loops on disk, so that the first run does not wait for the compiler.

numba compiles the loops of the extra `fast` once for a processor, and keeps them on disk. Until
then numpy computes the same bits, and one process of the lowest priority compiles in the
background: `python -m lightloom.instruments.loop_cache MODULE LOCK`. A file beside numba's own says
that all loops are there. Whatever differs from it (sources, versions, processor) makes it void.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from .cache_folder import user_folder
from .environment import COMPILED
from .errors import InputError
from .text import say
from .version import version_of

VARIABLE = "LIGHTLOOM_COMPILE"
"""Environment variable: "background" (the default), "now" for no such process, or "never"."""

WORTH_COMPILING = 1 << 30
"""Multiplications for which numpy would take longer than the compiler."""

_MODES = ("background", "now", "never")
_LONGEST_S = 300  # that a process in the background may take
_PROGRAMS = ("python", "pypy")  # an embedding program would start itself
_STARTED: list[subprocess.Popen[bytes]] = []  # Python warns of one that it forgets


class LoopCache:
    """The compiled loops that a module of the package needs, and whether this process uses them.

    Without `prepare`, they are used wherever numba is installed.

    Parameters
    ----------
    module : its function `warm_up` calls every loop once, with all its types

    Attributes
    ----------
    is_used : whether products call the loops; numpy computes them otherwise
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.is_used = COMPILED
        self._others: list[str] = []
        self._is_ready = False
        self._lock = Lock()

    def add(self, module: str) -> None:
        """Add a module of a room above, whose loops the same runs need; see `module`."""
        if module not in self._others:
            self._others.append(module)

    def prepare(self, multiplications: int) -> None:
        """Choose between loops and numpy, before the first product of a run.

        Where the loops are not on disk, few multiplications are left to numpy, and many wait for
        the compiler. Loops that were ready once stay in use.

        Raises
        ------
        InputError : when the environment variable `VARIABLE` has another value
        """
        mode = _mode()
        if not COMPILED:
            return
        with self._lock:
            self._is_ready = self._is_ready or mode == "now" or self.is_on_disk()
            if not self._is_ready and mode == "background":
                if multiplications < WORTH_COMPILING:
                    self._start()
                else:
                    say("compiling once for this processor; later runs start at once")
                    self._wait()
                    self._is_ready = True
            self.is_used = self._is_ready

    def state(self) -> str:
        """Return a sentence on the loops, for `lightloom doctor`."""
        if not COMPILED:
            return "not compiled, since numba (extra 'fast') is not installed"
        if self.is_on_disk():
            return "compiled for this processor"
        if any(_is_held(folder / self._lock_name) for folder in self._folders()):
            return "being compiled in the background"
        if _mode() == "background":
            return "not compiled yet; the next run starts that in the background"
        return "not compiled yet"

    def is_on_disk(self) -> bool:
        """Return whether all loops are on disk, from these sources and for this processor."""
        return any(
            _is_valid(folder / self._name)
            for folder in self._folders()
            if os.access(folder, os.W_OK)  # numba reads only what it could write
        )

    def compile(self) -> None:
        """Compile all loops, and keep them on disk where that is possible."""
        for name in (self.module, *self._others):
            module: Any = import_module(name)
            module.warm_up()
        stored, sources = _stored_loops(self.module.partition(".")[0])
        if not stored:
            return
        document = {"loops": stored, "sources": {path: _stamp(path) for path in sources}}
        for folder in self._folders():
            draft = folder / f"{self._name}.{os.getpid()}"
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                draft.write_text(json.dumps(document), encoding="utf-8")
                draft.replace(folder / self._name)
                return

    # --- the process in the background ---------------------------------------------------------

    def _start(self) -> None:
        """Start the process that compiles, unless it runs or nothing can be kept on disk."""
        if not Path(sys.executable or "").name.lower().startswith(_PROGRAMS):
            return
        lock = self._hold()
        if lock is None:
            return
        modules = ",".join([self.module, *self._others])
        arguments = [sys.executable, "-P", "-m", __name__, modules, str(lock.absolute())]
        environment = {**os.environ, VARIABLE: "now"}  # it imports what this process does
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
        if chosen := os.environ.get("NUMBA_CACHE_DIR"):
            environment["NUMBA_CACHE_DIR"] = str(Path(chosen).absolute())
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=lock.parent,  # Windows removes no folder that a process is in
                env=environment,
                **_detached(),
            )
        except OSError:
            lock.unlink(missing_ok=True)
            return
        _STARTED.append(process)

    def _hold(self) -> Path | None:
        """Create the file that lets one process compile; None where that cannot be."""
        for folder in self._folders():
            lock = folder / self._lock_name
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                if lock.exists() and not _is_held(lock):
                    lock.unlink()
                try:
                    lock.touch(exist_ok=False)
                except FileExistsError:
                    return None
                return lock
        return None

    def _wait(self) -> None:
        """Wait for the process in the background, or compile here."""
        locks = [folder / self._lock_name for folder in self._folders()]
        while any(map(_is_held, locks)):
            time.sleep(0.1)
        if not self.is_on_disk():
            self.compile()

    # --- files -----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        """The name of the file that says that the loops are compiled, by version and processor."""
        return f"{self.module}.{_machine()}.json"

    @property
    def _lock_name(self) -> str:
        return f"{self.module}.{_machine()}.lock"

    def _folders(self) -> Iterator[Path]:
        """Yield the folders where numba and we may keep files, best first."""
        if chosen := os.environ.get("NUMBA_CACHE_DIR"):
            yield Path(chosen)
            return
        spec = find_spec(self.module)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / "__pycache__"
        folder = user_folder()
        if folder is not None:
            yield folder


def _mode() -> str:
    """Return the value of `VARIABLE`; tests and continuous integration leave no process behind."""
    is_test = "CI" in os.environ or "PYTEST_CURRENT_TEST" in os.environ
    mode = os.environ.get(VARIABLE) or ("now" if is_test else "background")
    if mode not in _MODES:
        raise InputError(f"{VARIABLE} = {mode!r} is not one of {', '.join(_MODES)}; change it")
    return mode


def _machine() -> str:
    """Return a digest of what machine code depends on, beside its sources."""
    from llvmlite import binding

    features = binding.get_host_cpu_features().flatten()
    versions = [sys.implementation.cache_tag, version_of("numba"), version_of("llvmlite")]
    chosen = map(os.environ.get, ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"))
    parts = [*map(str, [*versions, *chosen]), binding.get_host_cpu_name(), features]
    return blake2b("\n".join(parts).encode(), digest_size=6).hexdigest()


def _stored_loops(package: str) -> tuple[list[str], set[str]]:
    """Return numba's index files of all loops that were compiled, and their sources."""
    stored, sources = list[str](), set[str]()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != package:
            continue
        for value in list(vars(module).values()):
            kept = getattr(getattr(value, "_cache", None), "_cache_file", None)
            index = getattr(kept, "_index_path", None)
            if index is not None and Path(index).exists():
                stored.append(str(index))
                sources.add(value.py_func.__code__.co_filename)
    return sorted(set(stored)), sources


def _is_valid(path: Path) -> bool:
    """Return whether all loops that a file names are on disk, compiled from their sources."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return all(map(os.path.exists, document["loops"])) and all(
            _stamp(source) == stamp for source, stamp in document["sources"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _stamp(path: str) -> list[int]:
    """Return what numba knows the state of a source by."""
    found = Path(path).stat()
    return [found.st_mtime_ns, found.st_size]


def _is_held(lock: Path) -> bool:
    """Return whether a process may still compile; one that was killed leaves its file behind."""
    try:
        return time.time() - lock.stat().st_mtime < 2 * _LONGEST_S
    except OSError:
        return False


def _detached() -> dict[str, Any]:
    """Return how a process is started that neither Ctrl-C nor the end of this one stops."""
    if sys.platform == "win32":
        flags = subprocess.IDLE_PRIORITY_CLASS | subprocess.CREATE_NO_WINDOW
        return {"creationflags": flags | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def main() -> None:
    """Compile the loops of a module in this process, which ends itself after `_LONGEST_S`."""
    (module, *others), lock = sys.argv[1].split(","), sys.argv[2]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(_LONGEST_S, exit=True, file=nowhere)
        if hasattr(os, "nice"):
            os.nice(19)
        cache = LoopCache(module)
        for other in others:
            cache.add(other)
        cache.compile()
        faulthandler.cancel_dump_traceback_later()
    if cache.is_on_disk():  # else the lock keeps the next try away for a while
        Path(lock).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
