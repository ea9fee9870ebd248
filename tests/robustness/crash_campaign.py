"""Kill runs at random moments, resume each, and compare every number with an undisturbed run.

    python tests/robustness crashes --kills 200

Half of the runs are on the mock, half on a simulated bench with noise and drift. A run is killed
without warning (SIGKILL; TerminateProcess on Windows) at a moment drawn evenly over its length.
Then its journal is read, and the run is resumed to its end. A third of the runs are killed once
more while they are resumed.
"""

import json
import multiprocessing
import tempfile
import time
from hashlib import blake2b
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
from bench_factory import write_bench
from lightloom.backends.bench import BenchBackend, load_bench
from lightloom.instruments import LightloomError
from lightloom.instruments.table import Column, Table
from lightloom.models import load_model
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.runs import plan
from lightloom.scheduler.runs.resume import resume
from small_model import write_small_model

from .digits import digits

KINDS = ("mock", "bench")
OUTCOMES = ("kills", "identical", "other", "corrupt", "no run yet")
_IMAGES = 20  # of the digits, on the mock
_TOKENS = 8  # of a language model of one layer, on the bench
_REFERENCE = Path(__file__).parents[1] / "references" / "gpt2"
_EARLY = "ended before its run began"  # message of resume on a journal without a run
_LATE = "is complete"  # and on one whose run was killed after its end


def begin(kind: str, folder: str, path: str) -> None:
    """Run the job of a kind, and record it in a journal."""
    if kind == "mock":
        model, images = digits()
        plan(model, "mock", 1).run(images[:_IMAGES], reference=False, record=path)
        return
    tokens = np.random.Generator(np.random.Philox(2)).integers(0, 40, (1, _TOKENS))
    with BenchBackend(load_bench(Path(folder) / "bench.toml")) as backend:
        planned = plan(load_model(Path(folder) / "model"), backend, 1, _TOKENS)
        planned.run(tokens, reference=False, record=path)


def resume_run(path: str) -> None:
    """Resume a run, and ignore one that had not begun or was complete."""
    try:
        resume(path, load_model)
    except LightloomError as error:
        if _EARLY not in str(error) and _LATE not in str(error):
            raise


def numbers(path: Path) -> dict[str, str]:
    """Return a digest of every number in a journal, by its place."""
    with JournalFile(path) as kept:
        found = {
            f"{row['pass']}/{row['step']}/{row['part']}": _digest(row["values"])
            for row in kept.steps()
        }
        for row in kept.segments():
            found[f"{row['job']} {row['first']}"] = _digest([row["electrons"]])
        found["results"] = json.dumps(kept.results().get("report", {}).get("results"))
    return found


def _digest(values: list[np.ndarray]) -> str:
    state = blake2b(digest_size=8)
    for value in values:
        state.update(value.tobytes())
    return state.hexdigest()


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightloom.scheduler.runs.resume"])
    return context


def _killed(context: BaseContext, after_s: float, work: Any, *arguments: str) -> bool:
    """Run work in a process of its own, and kill it some time after its journal is there.

    The journal is the last argument.

    Returns
    -------
    was_killed : False if the work had ended before
    """
    process = context.Process(target=work, args=arguments)  # type: ignore[attr-defined]
    process.start()
    while process.is_alive() and not Path(arguments[-1]).exists():
        time.sleep(0.002)
    process.join(after_s)
    was_alive = process.is_alive()
    process.kill()
    process.join()
    return bool(was_alive)


def measure(kills: int, seed: int) -> dict[str, dict[str, int]]:
    """Kill `kills` runs, and return counts of outcomes by kind of run."""
    chance = np.random.Generator(np.random.Philox(seed))
    counts = {kind: dict.fromkeys(OUTCOMES, 0) for kind in KINDS}
    context = _context()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bench(folder, world__source_rms=0.01, world__drift_rms=0.02)
        write_small_model(folder / "model", _REFERENCE)
        wanted, lasts_s = {}, {}
        for kind in KINDS:
            wanted[kind], lasts_s[kind] = _undisturbed(context, kind, folder)
        done = 0
        while done < kills:
            kind = KINDS[done % len(KINDS)]
            path = folder / f"{done}.db"
            found = counts[kind]
            after_s = chance.uniform(0, lasts_s[kind])
            if not _killed(context, after_s, begin, kind, name, str(path)):
                path.unlink()
                continue
            done += 1
            found["kills"] += 1
            if chance.random() < 1 / 3:
                after_s = chance.uniform(0, lasts_s[kind])
                found["kills"] += _killed(context, after_s, resume_run, str(path))
            outcome = _outcome(path, wanted[kind])
            found[outcome] += 1
            if outcome in ("identical", "no run yet"):
                path.unlink()
            print(f"{done} of {kills}: {kind}, {outcome}")
    return counts


def _undisturbed(context: BaseContext, kind: str, folder: Path) -> tuple[dict[str, str], float]:
    """Run the job of a kind, and return its numbers and the seconds that it lasts."""
    path = folder / f"{kind}.db"
    _killed(context, 600, begin, kind, str(folder), str(path))
    with JournalFile(path) as kept:
        (session,) = kept.sessions()
    return numbers(path), session["at_s"] - session["began_s"]


def _outcome(path: Path, wanted: dict[str, str]) -> str:
    try:
        with JournalFile(path) as kept:
            is_complete = bool(kept.results())
        if not is_complete:
            resume(path, load_model)
        return "identical" if numbers(path) == wanted else "other"
    except LightloomError as error:
        return "no run yet" if _EARLY in str(error) else "corrupt"


def table(counts: dict[str, dict[str, int]]) -> Table:
    """Return a row for each kind of run."""
    columns = (Column("run on", align="left"), *map(Column, OUTCOMES))
    return Table("", columns, tuple((kind, *found.values()) for kind, found in counts.items()))
