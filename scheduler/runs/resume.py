"""`resume`: continues a run from its journal, when model, bench and versions match."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ...backends import Backend, DigitalBackend, MockBackend, OpticsProfile
from ...backends.bench import open_benches
from ...backends.bench.checkpoint import FaultNote
from ...instruments import InputError
from ..journal.database import damaged
from ..journal.journal import Journal
from ..journal.journal_file import JournalFile
from ..placement import Placement
from .model_protocol import Loader, RunnableModel
from .plan import plan
from .record import NAMED, digest_of, digest_of_model, files_of, versions
from .report import Run
from .run import OnText, Progress, TextOptions

ACCEPTED = ("model", "bench", "calibration", "versions")
"""Changes that an operator may accept with --accept; the report lists them."""


def resume(
    path: str | Path,
    load: Loader,
    model: str | Path | None = None,
    bench: str | Path | Sequence[str | Path] | None = None,
    accept: Sequence[str] = (),
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> Run:
    """Resume a run as `lightloom.resume` does, which also says what it raises.

    Parameters
    ----------
    load : opens a model by name or path; the other parameters are those of `lightloom.resume`
    """
    unknown = sorted(set(accept) - set(ACCEPTED))
    if unknown:
        raise InputError(f"cannot accept {unknown[0]!r}: choose from {', '.join(ACCEPTED)}")
    about, inputs, faults = _begun_run(path)
    loaded = load(_source(about["model"], model))
    backend = _reopened(about["backend"], bench)
    changed = _changes(about, loaded, backend)
    _refuse_changes(path, changed, accept)
    # the backend is closed last: its light goes off even if the journal fails
    with closing(backend), closing(Journal.reopen(path)) as journal:
        backend.recorder = journal  # before it is opened, so that it resumes from its state
        _restore_counts(backend, faults)
        task, placed = about["task"], about["placement"]
        placement = Placement(placed["policy"], frozenset(placed["on_light"]))
        sizes = (task["batch"], task["sequence"], task["new_tokens"])
        planned = plan(loaded, backend, *sizes, placement)
        if changed:
            journal.keep_documents(
                "about", **{f"changed in session {journal.session + 1}": changed}
            )
        return planned.resume(
            journal,
            inputs["inputs"],
            inputs.get("labels"),
            progress,
            task["reference"],
            TextOptions(task["sampling"], on_text),
        )


def _begun_run(
    path: str | Path,
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Return description, inputs and faults of an unfinished run, each row of it checked."""
    with JournalFile(path) as kept:
        if kept.results():
            raise InputError(f"{path} is complete; see it with: lightloom report {path}")
        kept.check()
        about, inputs, faults = kept.about(), kept.inputs(), list(kept.faults())
    if named := {key.removeprefix(NAMED): v for key, v in inputs.items() if key.startswith(NAMED)}:
        inputs["inputs"] = named
    missing = {"model", "backend", "task", "placement", "versions"} - set(about)
    if missing or "inputs" not in inputs:
        raise InputError(f"{path} ended before its run began; start it again under another name")
    if about["task"].get("labels") and "labels" not in inputs:
        raise damaged(path, "its labels are missing")
    return about, inputs, faults


def _refuse_changes(path: str | Path, changed: Mapping[str, str], accept: Collection[str]) -> None:
    for what, sentence in changed.items():
        if what not in accept:
            raise InputError(
                f"{path} cannot be resumed: {sentence}; use the same as before, or accept the "
                f"change with --accept {what}"
            )


def _restore_counts(backend: Backend, faults: Iterable[Mapping[str, Any]]) -> None:
    """Count the faults and recoveries of earlier sessions on their benches."""
    benches = backend.benches
    for fault in faults:
        one = benches.get(fault["shot"].partition("/")[0]) or next(iter(benches.values()))
        for counts, key in ((one.faults, "kind"), (one.recoveries, "recovery")):
            counts[fault[key]] = counts.get(fault[key], 0) + 1


def keep_left_lit(path: Path, sentences: Sequence[str]) -> None:
    """Keep in a journal that a source may still emit, as found when its bench was closed.

    Raises
    ------
    InputError : when the journal cannot be written
    """
    with closing(Journal.reopen(path)) as journal:
        for sentence in sentences:
            journal.note(FaultNote(time.time(), "left lit", "source", "", 0, "none", sentence, 0.0))


def _source(about: Mapping[str, Any], given: str | Path | None) -> str | Path:
    if given is not None:
        return given
    source = Path(about["source"])
    if not source.exists():
        raise InputError(f"the model {source} is gone; name its new path with --model")
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
            raise InputError(f"the bench file {path} is gone; name its new path with --bench")
    return open_benches(paths, about["uncalibrated"])


def _changes(about: Mapping[str, Any], model: RunnableModel, backend: Backend) -> dict[str, str]:
    """Return a sentence for each of `ACCEPTED` that has changed."""
    changed = {}
    if digest_of_model(model.source) != about["model"]["digest"]:
        changed["model"] = f"the model {model.source} is not the one that began it"
    digests = about["backend"].get("digests", {})
    for name, content in files_of(backend).items():
        if digest_of(content) != digests.get(name):
            what = name.partition(" ")[0]
            changed[what] = f"the {name} file is not the one that began it"
    now, then = versions(model), about["versions"]
    others = [
        f"{key} {then.get(key)} then, {now[key]} now" for key in now if now[key] != then.get(key)
    ]
    if others:
        changed["versions"] = "it began with other versions: " + "; ".join(others)
    return changed
