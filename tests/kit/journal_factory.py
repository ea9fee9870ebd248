"""Journals for tests: of a run on the mock, and with made-up shots and faults."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from lightloom.backends import Stats
from lightloom.backends.bench.checkpoint import QUALITY, Checkpoint, FaultNote, Segment
from lightloom.models import load_arrays, load_model
from lightloom.scheduler.journal.journal import Journal
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.runs import plan

BEGAN_S = 1.79e9
SLOTS = 8


def recorded_on_the_mock(path: Path, images: int = 6) -> None:
    """Run digits on the mock, and keep its journal."""
    model = load_model("digits")
    arrays = load_arrays(model.source / "data.safetensors")
    inputs, labels = arrays["images"][:images], arrays["labels"][:images]
    plan(model, "mock", 2).run(inputs, labels, record=path)


@dataclass
class Clock:
    """The clock of a journal."""

    now_s: float = BEGAN_S

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def made(path: Path, of: Path) -> Iterator[tuple[Journal, Clock]]:
    """Begin a journal that has the documents of another, and a first session."""
    clock = Clock()
    with patch("time.time", clock), JournalFile(of) as other:
        journal = Journal.create(path)
        try:
            journal.keep_documents("about", **other.about())
            bench = b'schema = 1\nname = "<made up>"\n[world]\nseed = 7\n'
            journal.keep_file("bench", bench)
            journal.keep_file("calibration", bytes(range(256)))
            backend = {"kind": "bench", "paths": ["/somewhere/made.toml"], "uncalibrated": False}
            journal.keep_documents("about", backend=backend | {"digests": {}})
            for name, value in other.inputs().items():
                journal.keep_input(name, value)
            begin_session(journal)
            yield journal, clock
        finally:
            journal.close()


def begin_session(journal: Journal) -> None:
    """Begin a session on a made-up computer."""
    identity = {"maker": "us", "model": "one", "serial": "1 & only"}
    detector = {"driver": "made-up", "identity": identity, "settings": {"exposure_s": 0.002}}
    journal.begin_session(
        {
            "versions": {},
            "host": "here",
            "system": "Some 1.0",
            "command": ["lightloom", "run", "--bench", "made.toml"],
            "instruments": {"detector": detector},
        }
    )


def keep_steps(journal: Journal, of: Path, most: int | None = None) -> None:
    """Keep the steps of another journal, all or at most so many."""
    with JournalFile(of) as other:
        for row in other.rows("program"):
            journal.keep_program(row["digest"], json.loads(row["steps"]))
        steps = list(other.steps())[:most]
        begun = {step["pass"] for step in steps}
        for row in other.rows("pass"):
            if row["number"] in begun:
                journal.keep_pass(row["number"], row["program"], json.loads(row["document"]))
        for step in steps:
            stats = Stats(**step["stats"]) if step["stats"] else None
            at = (step["pass"], step["step"], step["part"])
            journal.keep_step(at, step["values"], step["seconds"], stats)


def keep_segment(journal: Journal, number: int, shots: int = 50, slots: int = SLOTS) -> Segment:
    """Keep a segment whose first shot is a reference."""
    rng = np.random.default_rng(number)
    quality = np.full((shots, len(QUALITY)), np.nan, dtype=np.float32)
    quality[0, 0] = 1 + 0.01 * rng.standard_normal()
    quality[:, 1] = rng.standard_normal(shots)
    quality[:, 2] = 0.5 + 0.1 * rng.random(shots)
    quality[1:, 3] = np.abs(rng.standard_normal(shots - 1))
    quality[:, 4] = 1 + (rng.random(shots) < 0.05)
    again = int((quality[:, 4] > 1).sum())
    first = shots * (number % 4)
    segment = Segment(
        job=f"layer.0/{number // 4}",
        first=first,
        done=first + shots,
        is_last=number % 4 == 3,
        electrons=1e4 * rng.random((shots - 1, slots)),
        quality=quality,
        stats=Stats(shots=shots, retries=again, marked=number % 3 == 2, seconds={"product": 0.5}),
        state=Checkpoint(shots * (number + 1), {"input": number}, {"slow": 1.0}),
    )
    journal.keep(segment)
    return segment


def note_fault(journal: Journal, at_s: float, number: int) -> FaultNote:
    """Keep a fault, of several kinds in turn."""
    kinds = (
        ("stale", "the detector"),
        ("timeout", ""),
        ("unexpected-intensity", "the <source> & more"),
    )
    kind, device = kinds[number % 3]
    recovery = ("retry", "reconnect", "skip")[number % 3]
    said = f"what was said of fault {number}: <b>&amp;"
    fault = FaultNote(at_s, kind, device, f"layer.0/0.{number}", 0, recovery, said, 0.25)
    journal.note(fault)
    return fault
