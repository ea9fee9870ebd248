"""`summarise`: the totals of a run from its journal, in memory that does not grow with the run.

Rows are read once, one at a time, and added up. Not here: the journal itself (`journal`), and the
page that shows a summary (`lightloom.report.run`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from ...backends.bench.checkpoint import QUALITY
from ..program import without_layer
from .journal_file import JournalFile

BINS = 360
LAST_FAULTS = 200
_FIRST_WIDTH_S = 1e-3
FAULTS_AT_ONCE = 1000


class History:
    """Figures over time, in bins whose width doubles when the time exceeds them.

    Parameters
    ----------
    names : of the figures

    Attributes
    ----------
    width_s : of a bin
    rows : number of rows in each bin [BINS]
    counts, sums, lows, highs : of the finite values in each bin [BINS, figures]
    end_s : time of the latest row
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.width_s, self.end_s = names, _FIRST_WIDTH_S, 0.0
        self.rows = np.zeros(BINS)
        self.counts, self.sums = (np.zeros((BINS, len(names))) for _ in range(2))
        self.lows, self.highs = (np.full((BINS, len(names)), np.nan) for _ in range(2))

    def add(self, at_s: np.ndarray, values: np.ndarray) -> None:
        """Add values [n, figures], NaN where not measured, at their times [n], at least 0."""
        if not at_s.size:
            return
        self.end_s = max(self.end_s, float(at_s.max()))
        while self.end_s >= BINS * self.width_s:
            self._widen()
        place = np.maximum(at_s / self.width_s, 0).astype(int)
        finite = np.isfinite(values)
        kept = np.where(finite, values, np.nan)
        np.add.at(self.rows, place, 1)
        np.add.at(self.counts, place, finite)
        np.add.at(self.sums, place, np.where(finite, values, 0.0))
        np.fmin.at(self.lows, place, kept)
        np.fmax.at(self.highs, place, kept)

    def _widen(self) -> None:
        self.width_s *= 2
        for bins, join in (
            (self.rows, np.add),
            (self.counts, np.add),
            (self.sums, np.add),
            (self.lows, np.fmin),
            (self.highs, np.fmax),
        ):
            empty = np.nan if join in (np.fmin, np.fmax) else 0.0
            bins[: BINS // 2] = join(bins[0::2], bins[1::2])
            bins[BINS // 2 :] = empty


@dataclass
class Session:
    """One session of a run, as its journal records it.

    Parameters
    ----------
    offset_s : duration of the sessions before it, in seconds
    ended_s : time of its end; time of its last kept row, where it recorded no end
    outcome : None where it recorded no end: it was killed, or still runs
    """

    number: int
    began_s: float
    ended_s: float
    outcome: str | None
    detail: str
    document: Mapping[str, Any]
    offset_s: float = 0.0
    steps: int = 0
    shots: int = 0


@dataclass
class StepTotals:
    """Totals of the finished steps of one kind.

    Parameters
    ----------
    counts : events by the names of `Stats`
    stages : seconds of "encode", "product" and "decode"
    """

    times: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float, stats: Mapping[str, Any]) -> None:
        """Add a finished step."""
        self.times += 1
        self.seconds += seconds
        self.counts.update(_counts(stats))
        self.stages.update(stats.get("seconds", {}))


def _counts(stats: Mapping[str, Any]) -> dict[str, float]:
    return {name: count for name, count in stats.items() if name != "seconds"}


@dataclass
class Progress:
    """Progress of a run.

    Parameters
    ----------
    passes : number of passes that have begun
    done, wanted : rows of the first program's passes (images, sentences, rows of text) or, where
        tokens are generated, passes; wanted is None where only the model knows
    last_done, last_wanted : steps of the latest pass
    """

    unit: str = "pass"
    passes: int = 0
    done: int = 0
    wanted: int | None = None
    last_done: int = 0
    last_wanted: int = 0


@dataclass
class FaultTotals:
    """Totals of the faults of one kind on one device: count, recoveries and lost time."""

    count: int = 0
    recoveries: Counter[str] = field(default_factory=Counter)
    lost_s: float = 0.0


def _totals(kind: Callable[[], Any]) -> Callable[[], defaultdict[Any, Any]]:
    return lambda: defaultdict(kind)


@dataclass
class Summary:
    """Totals of a run.

    Parameters
    ----------
    about, results : the journal's documents
    sessions : in their order
    inputs : description of each by name
    files : (number of bytes, digest) by name
    bench_files : texts by name
    kinds : finished steps by kind and place
    products : those on light by their name, layers together
    shots : events of all segments, by the names of `Stats`
    attempts : number of attempts -> number of shots
    segments, results_bytes : number of segments; bytes of all stored results
    quality : figures of each planned shot over running time
    faults, fault_history, last_faults : by (kind, device); over running time; the latest
    """

    about: dict[str, Any]
    results: dict[str, Any]
    sessions: list[Session]
    progress: Progress
    inputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    bench_files: dict[str, str] = field(default_factory=dict)
    kinds: dict[tuple[str, str], StepTotals] = field(default_factory=_totals(StepTotals))
    products: dict[str, StepTotals] = field(default_factory=_totals(StepTotals))
    shots: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    segments: int = 0
    results_bytes: int = 0
    quality: History = field(default_factory=lambda: History(QUALITY))
    faults: dict[tuple[str, str], FaultTotals] = field(default_factory=_totals(FaultTotals))
    fault_history: History = field(default_factory=lambda: History(()))
    last_faults: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LAST_FAULTS))

    @property
    def report(self) -> dict[str, Any] | None:
        """The run's own report; None while it is not complete."""
        return self.results.get("report")

    @property
    def is_mock(self) -> bool:
        """Whether its numbers are simulated; True where the journal does not say."""
        return bool(self.about.get("plan", {}).get("is_mock", True))

    @property
    def marked(self) -> int:
        """Number of shots whose numbers were not measured, since a fault could not be recovered."""
        counts = self.shots if self.report is None else self.report["stats"]
        return int(counts.get("marked", 0))


def summarise(journal: JournalFile) -> Summary:
    """Read a journal from its beginning to its end.

    Raises
    ------
    InputError : when it is damaged
    """
    summary = Summary(journal.about(), journal.results(), _sessions(journal), Progress())
    for row in journal.rows("file"):
        digest = blake2b(row["content"], digest_size=8).hexdigest()
        summary.files[row["name"]] = len(row["content"]), digest
        if row["name"].startswith("bench"):
            summary.bench_files[row["name"]] = row["content"].decode(errors="replace")
    _read_inputs(journal, summary)
    _read_steps(journal, summary)
    _read_segments(journal, summary)
    _set_offsets(summary.sessions)
    _read_faults(journal, summary)
    return summary


def _sessions(journal: JournalFile) -> list[Session]:
    found = []
    for row in journal.sessions():
        outcome, ended_s = row.pop("outcome"), row.pop("at_s")
        number, began_s, detail = row.pop("number"), row.pop("began_s"), row.pop("detail")
        found.append(Session(number, began_s, ended_s or began_s, outcome, detail or "", row))
    return found


def _set_offsets(sessions: list[Session]) -> None:
    """Set the offset of each session on a clock that counts running time only."""
    offset_s = 0.0
    for session in sessions:
        session.offset_s = offset_s
        offset_s += max(session.ended_s - session.began_s, 0.0)


def _read_inputs(journal: JournalFile, summary: Summary) -> None:
    task = summary.about.get("task", {})
    kind = task.get("kind")
    units = {"classify": "image", "embed": "sentence", "label": "sentence", "generate": "token"}
    unit = units.get(kind, "row")
    summary.progress.unit = unit
    for row in journal.rows("input"):
        name, layout = row["name"], row["layout"]
        if layout is not None:
            dtype, _, sizes = layout.partition(" ")
            summary.inputs[name] = f"{sizes.replace(',', ' x ')} numbers ({dtype[1:]})"
            length: int | None = int(sizes.split(",")[0]) if sizes else 1
        else:
            value = json.loads(row["content"])
            is_text = isinstance(value, str)
            summary.inputs[name] = f"{len(value):,} {'characters' if is_text else 'sentences'}"
            length = None if is_text else len(value)
        if name == "inputs":
            summary.progress.wanted = task.get("new_tokens") if kind == "generate" else length


def _read_steps(journal: JournalFile, summary: Summary) -> None:
    """Add up finished steps by kind and by product, and count the finished passes."""
    lengths = {row["number"]: len(json.loads(row["steps"])) for row in journal.rows("program")}
    passes = {}
    for row in journal.rows("pass"):
        document = json.loads(row["document"])
        rows = document["sizes"]["batch"] if row["program"] == 1 else 0
        passes[row["number"]] = rows, lengths.get(row["program"], 0) * len(document["cuts"])
    progress = summary.progress
    progress.passes = len(passes)
    done: Counter[int] = Counter()
    sessions = {session.number: session for session in summary.sessions}
    for step in journal.steps():
        done[step["pass"]] += 1
        summary.kinds[step["kind"], step["where"]].add(step["seconds"], step["stats"])
        if step["where"] == "optical":
            product = summary.products[without_layer(step["name"])]
            product.add(step["seconds"], step["stats"])
        summary.results_bytes += sum(value.nbytes for value in step["values"])
        _count_rows(sessions, step, steps=1)
    for number, (rows, wanted) in passes.items():
        if wanted and done[number] >= wanted:
            progress.done += (1 if progress.unit == "token" else rows) if rows else 0
    if passes:
        last = max(passes)
        progress.last_done, progress.last_wanted = done[last], passes[last][1]


def _count_rows(
    sessions: Mapping[int, Session], row: Mapping[str, Any], steps: int = 0, shots: int = 0
) -> None:
    """Count the rows that a session kept; without a recorded end it ran at least that long."""
    session = sessions.get(row["session"])
    if session is not None:
        session.steps += steps
        session.shots += shots
        if session.outcome is None:
            session.ended_s = max(session.ended_s, row["at_s"])


def _read_segments(journal: JournalFile, summary: Summary) -> None:
    """Add up shots, and spread each segment's evenly over the time since the one before it."""
    sessions = {session.number: session for session in summary.sessions}
    before: dict[int, float] = {}
    for segment in journal.segments():
        summary.segments += 1
        summary.results_bytes += segment["electrons"].nbytes
        summary.shots.update(_counts(segment["stats"]))
        _count_rows(sessions, segment, shots=segment["done"] - segment["first"])
        session = sessions.get(segment["session"])
        if session is None:
            continue
        if session.number not in before:  # the sessions before it have no more rows
            _set_offsets(summary.sessions)
        values = np.stack([segment["quality"][name] for name in QUALITY], axis=1).astype(float)
        start_s = before.get(session.number, session.began_s)
        before[session.number] = segment["at_s"]
        fraction = (np.arange(len(values)) + 0.5) / max(len(values), 1)
        at_s = session.offset_s - session.began_s + start_s + fraction * (segment["at_s"] - start_s)
        summary.quality.add(at_s, values)
        attempts = values[:, QUALITY.index("attempts")]
        summary.attempts.update(attempts[np.isfinite(attempts)].astype(int).tolist())


def _read_faults(journal: JournalFile, summary: Summary) -> None:
    sessions = {session.number: session for session in summary.sessions}
    times_s: list[float] = []

    def add() -> None:
        summary.fault_history.add(np.array(times_s), np.empty((len(times_s), 0)))
        times_s.clear()

    for fault in journal.faults():
        totals = summary.faults[fault["kind"], fault["device"]]
        totals.count += 1
        totals.recoveries[fault["recovery"]] += 1
        totals.lost_s += fault["lost_s"] or 0.0
        session = sessions.get(fault["session"])
        if session is not None:
            times_s.append(max(fault["at_s"] - session.began_s, 0.0) + session.offset_s)
            if len(times_s) >= FAULTS_AT_ONCE:
                add()
        summary.last_faults.append(fault)
    add()
