"""A run that is kept in a journal, and how it goes on: what it was is checked before anything is.

`record` begins the journal of a plan's run, `resume` goes on with one. Not here: the journal's file
(`scheduler.journal`), and what a pass keeps of its steps (`scheduler.recording`).
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends import Backend, DigitalBackend, MockBackend, OpticsProfile, mock_path
from ...backends.bench import BenchBackend, BenchGroup, open_benches
from ...backends.bench.checkpoint import FaultNote
from ...backends.optics.calibration_file import path_of
from ...instruments import InputError, Paused
from ...instruments.safety import signals
from ...models.loading import load_model
from ...models.model import Model
from .. import Placement
from ..journal.journal import Journal, JournalFile

if TYPE_CHECKING:
    from .plan import Plan, Run

ACCEPTED = ("model", "bench", "calibration", "versions")
"""What may have changed under a run, where an operator insists; its report says so."""
_PACKAGES = ("lightloom", "numpy", "numba", "onnxruntime")
Tell = Callable[[str, int, int], None]


# --- beginning -----------------------------------------------------------------------------------


def record(
    plan: Plan, path: str | Path, inputs: Any, labels: Any, reference: bool, sampling: Any
) -> Journal:
    """Begin the journal of a run.

    Raises
    ------
    InputError : when there is such a file already, it cannot be written, or the backend is one
        whose runs cannot be kept
    """
    about = {
        "schema": {"journal": 1},
        "model": _model(plan.model),
        "backend": _backend(plan.backend),
        "plan": plan.as_dict(),
        "placement": {
            "policy": plan.placement,
            "on_light": sorted(plan.on_light),
            "micro_batches": plan.prediction.micro_batches if plan.on_light else 1,
        },
        "task": {
            "kind": plan.task,
            "batch": plan.passes[0][0]["batch"],
            "sequence": plan.passes[0][0]["new"],
            "new_tokens": len(plan.passes) if plan.task == "generate" else 0,
            "reference": reference,
            "sampling": dict(sampling),
            "labels": labels is not None,
        },
        "versions": versions(),
    }
    journal = Journal.create(path)
    try:
        journal.tell(**about)
        for name, content in _files(plan.backend).items():
            journal.keep_file(name, content)
        journal.keep_input("inputs", inputs if isinstance(inputs, str) else _listed(inputs))
        if labels is not None:
            journal.keep_input("labels", np.asarray(labels))
    except BaseException:
        journal.close()
        raise
    return journal


def _listed(inputs: Any) -> Any:
    """Return sentences as a list, and numbers as an array."""
    if isinstance(inputs, Sequence) and inputs and isinstance(inputs[0], str):
        return list(inputs)
    return np.asarray(inputs)


def versions() -> dict[str, Any]:
    """Return what the bits of a run depend on beside its inputs: packages, machine, arithmetic."""
    found: dict[str, Any] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "arithmetic": mock_path(),
    }


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": str(model.source.resolve()),
        "digest": _digest_of(model.source),
        "parameters": model.parameters,
    }


def _digest_of(source: Path) -> str:
    """Digest a model's file, or the files of its folder with their names."""
    files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    state = blake2b(digest_size=16)
    for path in files:
        if not path.is_file():
            raise InputError(f"a run of {source} cannot be recorded: it comes from no file")
        state.update(f"{path.name if source.is_dir() else ''}|{path.stat().st_size}|".encode())
        with path.open("rb") as stream:
            while part := stream.read(1 << 20):
                state.update(part)
    return state.hexdigest()


def _backend(backend: Backend) -> dict[str, Any]:
    if isinstance(backend, DigitalBackend):
        return {"kind": "digital"}
    if isinstance(backend, MockBackend):
        return {
            "kind": "mock",
            "profile": backend.profile.model_dump(mode="json"),
            "seed": backend.seed,
        }
    benches = _benches(backend)
    if not benches:
        raise InputError(
            "a run on the benches of workers cannot be recorded yet; record one on benches of this "
            "process: --bench without --workers or --scheduler"
        )
    files = _files(backend)
    return {
        "kind": "bench",
        "paths": [str(Path(bench.bench.path).resolve()) for bench in benches.values()],
        "uncalibrated": not backend.is_calibrated,
        "digests": {name: _digest(content) for name, content in files.items()},
    }


def _benches(backend: Backend) -> dict[str, BenchBackend]:
    """Return the benches of a run by their names in its journal: none, "bench", or "bench 1" on."""
    if isinstance(backend, BenchGroup):
        return {f"bench {number}": bench for number, bench in enumerate(backend.benches, 1)}
    return {"bench": backend} if isinstance(backend, BenchBackend) else {}


def _files(backend: Backend) -> dict[str, bytes]:
    """Return the files that benches depend on: each one's, and its calibration where it has one."""
    paths = {}
    for name, one in _benches(backend).items():
        bench = one.bench
        paths[name] = Path(bench.path)
        if one.is_calibrated and bench.file.calibration != "known":
            beside = name.replace("bench", "calibration")
            paths[beside] = path_of(bench.file.calibration, bench.path)
    try:
        return {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


# --- running -------------------------------------------------------------------------------------


@contextmanager
def session(journal: Journal, backend: Backend, tell: Tell) -> Iterator[None]:
    """Have a backend tell the journal of its shots, and note how the session ends."""
    hardware: dict[str, Any] = {}
    benches = _benches(backend)
    if isinstance(backend, BenchBackend | BenchGroup):
        backend.recorder = journal
        backend.open()
        for name, bench in benches.items():
            before = "" if len(benches) == 1 else f"{name}, "
            found = bench.bench.describe()["instruments"]
            hardware |= {f"{before}{role}": told for role, told in found.items()}
        journal.on_pause, journal.on_go = _light_switch(benches.values(), tell)
        journal.is_stopping = lambda: (
            signals.is_stopping() or any(bench.is_stopping for bench in benches.values())
        )
    journal.begin_session(
        {
            "versions": versions(),
            "host": platform.node(),
            "system": platform.platform(),
            "command": sys.argv,
            "instruments": hardware,
        }
    )
    outcome, detail = "failed", ""
    try:
        yield
        outcome = "complete"
    except Paused as error:
        outcome, detail = "paused", str(error)
        raise
    except KeyboardInterrupt:
        outcome, detail = "stopped", "by the operator"
        raise
    except BaseException as error:
        detail = f"{type(error).__name__}: {error}"
        raise
    finally:
        if isinstance(backend, BenchBackend | BenchGroup):
            backend.recorder = None
        try:
            journal.end_session(outcome, detail)
        finally:
            journal.close()


def _light_switch(
    benches: Collection[BenchBackend], tell: Tell
) -> tuple[Callable[[str], None], Callable[[], None]]:
    """Return what a full disk does to the light: off at once, and on again with the next shot."""

    def off(why: str) -> None:
        tell(why, 0, 1)
        for bench in benches:
            bench.bench.hold_light()

    def on() -> None:
        for bench in benches:
            bench.bench.free_light()
        tell("there is room on the disk again", 0, 1)

    return off, on


# --- going on ------------------------------------------------------------------------------------


def resume(
    path: str | Path,
    model: str | Path | None = None,
    bench: str | Path | Sequence[str | Path] | None = None,
    accept: Sequence[str] = (),
    progress: Tell | None = None,
) -> Run:
    """Go on with a run from its last finished step, or tile, and finish it.

    The result has the same bits as that of a run that was never interrupted: on the mock, and on a
    simulated bench without faults.

    Parameters
    ----------
    path : journal that `run --record` wrote
    model, bench : where they lie now, if they were moved; all benches, in their order
    accept : what may have changed since (see `ACCEPTED`); the journal keeps that it did
    progress : called with (what, done, total)

    Raises
    ------
    InputError : when model, bench, calibration or versions are others than those that began the
        run, or the journal cannot be used; it is left as it was
    InUse : when another process goes on with it
    """
    unknown = sorted(set(accept) - set(ACCEPTED))
    if unknown:
        raise InputError(f"cannot accept {unknown[0]!r}: choose from {', '.join(ACCEPTED)}")
    with JournalFile(path) as kept:
        if kept.results():
            raise InputError(f"{path} is complete; see it with: lightloom report {path}")
        kept.check()
        about, inputs, faults = kept.about(), kept.inputs(), kept.faults()
    missing = {"model", "backend", "task", "placement", "versions"} - set(about)
    if missing or "inputs" not in inputs:
        raise InputError(f"{path} ended before its run began; start it anew under another name")
    if about["task"].get("labels") and "labels" not in inputs:
        raise InputError(f"the journal {path} is damaged: its labels are missing")
    loaded = load_model(_source(about["model"], model))
    backend = _reopened(about["backend"], bench)
    changed = _changes(about, loaded, backend)
    for what, sentence in changed.items():
        if what not in accept:
            raise InputError(
                f"{path} cannot go on: {sentence}; use the same as before, or insist with --accept "
                f"{what}"
            )
    journal = Journal.reopen(path)
    try:
        benches = _benches(backend)
        if isinstance(backend, BenchBackend | BenchGroup):
            backend.recorder = journal  # before it is opened: it goes on where it was
        for fault in faults:
            one = benches.get(fault["shot"].partition("/")[0]) or next(iter(benches.values()))
            for counts, key in ((one.faults, "kind"), (one.remedies, "remedy")):
                counts[fault[key]] = counts.get(fault[key], 0) + 1
        planned = _planned(about, loaded, backend)
        if changed:
            journal.tell(**{f"changed in session {journal.session + 1}": changed})
        task = about["task"]
        return planned.go_on(
            journal,
            inputs["inputs"],
            inputs.get("labels"),
            progress,
            task["reference"],
            task["sampling"],
        )
    finally:
        try:
            journal.close()
        finally:
            backend.close()  # its light goes off, whatever became of the journal


def keep_left_lit(path: Path, sentences: Sequence[str]) -> None:
    """Keep in a journal that a source may still emit, which shows when its bench has been closed.

    Raises
    ------
    InputError : when the journal cannot be written
    """
    journal = Journal.reopen(path)
    try:
        for sentence in sentences:
            journal.note(FaultNote(time.time(), "left lit", "source", "", 0, "none", sentence, 0.0))
    finally:
        journal.close()


def _source(about: Mapping[str, Any], given: str | Path | None) -> str | Path:
    if given is not None:
        return given
    source = Path(about["source"])
    if not source.exists():
        raise InputError(f"the model {source} is gone; say where it is with --model")
    return source


def _reopened(about: Mapping[str, Any], bench: str | Path | Sequence[str | Path] | None) -> Backend:
    if about["kind"] != "bench" and bench:
        raise InputError(f"--bench {bench}: this run was on the {about['kind']} backend")
    if about["kind"] == "digital":
        return DigitalBackend()
    if about["kind"] == "mock":
        return MockBackend(OpticsProfile.model_validate(about["profile"]), about["seed"])
    given = [bench] if isinstance(bench, str | Path) else [*(bench or ())]
    if given and len(given) != len(about["paths"]):
        raise InputError(
            f"this run was on {len(about['paths'])} benches, not {len(given)}; give --bench for "
            "each, in their order"
        )
    paths = [Path(path) for path in given or about["paths"]]
    for path in paths:
        if not path.exists():
            raise InputError(f"the bench file {path} is gone; say where it is with --bench")
    return open_benches(paths, about["uncalibrated"])


def _changes(about: Mapping[str, Any], model: Model, backend: Backend) -> dict[str, str]:
    """Return a sentence for each of `ACCEPTED` that is not what it was."""
    changed = {}
    if _digest_of(model.source) != about["model"]["digest"]:
        changed["model"] = f"the model {model.source} is not the one that began it"
    digests = about["backend"].get("digests", {})
    for name, content in _files(backend).items():
        if _digest(content) != digests.get(name):
            what = name.partition(" ")[0]
            changed[what] = f"the {name} file is not the one that began it"
    now, then = versions(), about["versions"]
    others = [f"{key} {then.get(key)} then, {now[key]} now" for key in now if now[key] != then[key]]
    if others:
        changed["versions"] = "it began with others: " + "; ".join(others)
    return changed


def _planned(about: Mapping[str, Any], model: Model, backend: Backend) -> Plan:
    from .plan import plan

    task, placed = about["task"], about["placement"]
    return plan(
        model,
        backend,
        task["batch"],
        task["sequence"],
        task["new_tokens"],
        Placement(placed["policy"], frozenset(placed["on_light"])),
    )
