"""The journal of a run: begun with its description, filled by its session, ended with its outcome.

Not here: the journal's file (`journal.journal`), and the steps that a pass keeps
(`journal.pass_record`).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends import Backend, mock_path
from ...backends.optics.calibration_file import path_of
from ...instruments import InputError, Paused
from ...instruments.safety import signals
from ...instruments.version import VERSION, version_of
from ..journal.journal import Journal
from .model_protocol import RunnableModel
from .plan_record import PlanRecord
from .run import Progress

if TYPE_CHECKING:
    from ...backends.bench import BenchBackend

_PACKAGES = ("numpy", "numba", "onnxruntime")
NAMED = "input "  # before the name of an array, of a model that takes several


def begin_journal(
    plan: PlanRecord, path: str | Path, inputs: Any, labels: Any, reference: bool, sampling: Any
) -> Journal:
    """Begin the journal of a run.

    Raises
    ------
    InputError : when the file already exists, it cannot be written, or runs of the backend cannot
        be recorded
    """
    entry, files = plan.backend.journal_entry(), files_of(plan.backend)
    if files:
        entry["digests"] = {name: digest_of(content) for name, content in files.items()}
    about = {
        "schema": {"journal": 1},
        "model": {
            "name": plan.model.name,
            "source": str(plan.model.source.resolve()),
            "digest": digest_of_model(plan.model.source),
            "parameters": plan.model.parameters,
        },
        "backend": entry,
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
        "versions": versions(plan.model),
    }
    journal = Journal.create(path)
    try:
        journal.keep_documents("about", **about)
        for name, content in files.items():
            journal.keep_file(name, content)
        if isinstance(inputs, Mapping):
            journal.keep_input("inputs", [*inputs])
            for name, value in inputs.items():
                journal.keep_input(f"{NAMED}{name}", np.asarray(value))
        else:
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


def versions(model: RunnableModel) -> dict[str, Any]:
    """Return the versions that the bits of a run depend on: packages, machine, arithmetic."""
    return {
        "lightloom": VERSION,
        **{package: version_of(package) for package in (*_PACKAGES, *model.packages)},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "arithmetic": mock_path(),
    }


def digest_of_model(source: Path) -> str:
    """Return the digest of a model's file, or of the files of its folder with their names."""
    files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    state = blake2b(digest_size=16)
    for path in files:
        if not path.is_file():
            raise InputError(
                f"a run of {source} cannot be recorded, since it was not loaded from a file; run "
                "without --record"
            )
        state.update(f"{path.name if source.is_dir() else ''}|{path.stat().st_size}|".encode())
        with path.open("rb") as stream:
            while part := stream.read(1 << 20):
                state.update(part)
    return state.hexdigest()


def files_of(backend: Backend) -> dict[str, bytes]:
    """Return the contents of the bench files and calibration files of a backend, by name."""
    paths = {}
    for name, one in backend.benches.items():
        bench = one.bench
        paths[name] = Path(bench.path)
        if one.is_calibrated and bench.file.calibration != "ground-truth":
            beside = name.replace("bench", "calibration")
            paths[beside] = path_of(bench.file.calibration, bench.path)
    try:
        return {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def digest_of(content: bytes) -> str:
    """Return the digest of a file's content."""
    return blake2b(content, digest_size=16).hexdigest()


@contextmanager
def journal_session(
    journal: Journal, model: RunnableModel, backend: Backend, progress: Progress
) -> Iterator[None]:
    """Record a session: a bench keeps its shots in the journal, and the outcome is kept at last."""
    hardware: dict[str, Any] = {}
    benches: Mapping[str, BenchBackend] = backend.benches
    backend.recorder = journal
    backend.open()
    for name, bench in benches.items():
        before = "" if len(benches) == 1 else f"{name}, "
        instruments = bench.bench.describe()["instruments"]
        hardware |= {f"{before}{role}": found for role, found in instruments.items()}
    if benches:
        journal.writer.on_pause, journal.writer.on_continue = _light_switch(
            benches.values(), progress
        )
        journal.writer.is_stopping = lambda: (
            signals.is_stopping() or any(bench.is_stopping for bench in benches.values())
        )
    journal.begin_session(
        {
            "versions": versions(model),
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
        backend.recorder = None
        try:
            journal.end_session(outcome, detail)
        finally:
            journal.close()


def _light_switch(
    benches: Collection[BenchBackend], progress: Progress
) -> tuple[Callable[[str], None], Callable[[], None]]:
    """Return two functions for a full disk: light off at once; light on with the next shot."""

    def off(why: str) -> None:
        progress(why, 0, 1)
        for bench in benches:
            bench.bench.hold_light()

    def on() -> None:
        for bench in benches:
            bench.bench.free_light()
        progress("the disk has space again", 0, 1)

    return off, on
