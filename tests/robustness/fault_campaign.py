"""Inject faults of every kind, singly and in pairs, into runs of the digits model on a bench.

    python tests/robustness faults --faults 10000
    python tests/robustness faults --rate 0.01 --runs 100

The benches are small simulated ones, imaged and line, on a virtual clock. A photodiode gives one
product a shot, too few for an image; `tests/test_fault_policy.py` has its faults. A fault strikes
at a drawn exchange of its device; the second of a pair strikes within the next few exchanges. Every
number that leaves a shot is compared with the value that its grey levels give. It is wrong where it
differs by more than 7 sigma of shot noise and read noise. A run ends complete, or paused with a
diagnosis; anything else fails the campaign, as does a run that hangs.

With --rate, faults strike a fraction of all shots. The results are the number of runs that complete
without help, and the loss of shots per second on the bench's own clock.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from lightloom.backends.bench import BenchBackend, example_file, load_bench
from lightloom.backends.bench.checkpoint import Checkpoint, FaultNote, Kept, Segment
from lightloom.backends.bench.open_bench import OpenBench
from lightloom.backends.bench.shot_plan import TileJob, TileResult
from lightloom.backends.optics import layouts
from lightloom.instruments import LightloomError, Paused
from lightloom.instruments.formatting import format_counted, format_duration, format_number
from lightloom.instruments.simulated.devices import _Simulated
from lightloom.instruments.table import Column, Table
from lightloom.models import Model, load_arrays, load_model

# kind of fault -> (role, exchange at which it strikes)
_CAMERA_FAULTS = {
    "frozen": [("input", "show"), ("weight", "show")],
    "late": [("input", "show"), ("weight", "show")],
    "silent": [("input", "show"), ("weight", "show"), ("detector", "read")],
    "lost": [("input", "show"), ("weight", "show"), ("detector", "read")],
    "dropped": [("detector", "trigger")],
    "incomplete": [("detector", "read")],
    "stale": [("detector", "read")],
    "overflow": [("detector", "read")],
    "garbage": [("detector", "read")],
    "tripped": [("source", "state")],
    "dim": [("source", "state")],
    "held": [("detector", "connect"), ("input", "connect")],  # it strikes after a lost device
}
_FRAME_FAULTS = ("dropped", "incomplete", "stale", "overflow")  # that only a camera's frames have
_FAULTS = {  # kind of detector -> faults of such a bench
    "camera": _CAMERA_FAULTS,
    "daq": {kind: at for kind, at in _CAMERA_FAULTS.items() if kind not in _FRAME_FAULTS},
}
LAYOUTS = ("imaged",) * 8 + ("line",)  # which takes ten times as many shots
_LATE_S = (0.003, 0.01, 0.03, 0.1)  # delay of a late frame: 1 to 33 shots
_SHOTS_PER_FAULT = 60  # about, or for each pair of faults
_ENDS = ("dim", "tripped", "held")  # no recovery: at most one in a run, in its last third
_WRONG = 7.0  # sigma
_HANGS_S = 900.0  # for the longest run on a busy machine
_REFERENCE_S = 0.5  # how often the source is asked whether it emits
_SUSPEND = f"""
[[suspend]]
what = "interlock"
every = "{_REFERENCE_S} s"
"""


@dataclass
class Outcome:
    """Outcome of one run.

    Parameters
    ----------
    injected : kind of fault -> how often it struck
    noted : every fault that the bench noticed
    wrong : wrong numbers that left a shot
    ending : "complete", "paused", or the kind of failure
    """

    injected: Counter[str] = field(default_factory=Counter)
    noted: list[FaultNote] = field(default_factory=list)
    wrong: int = 0
    ending: str = ""
    detail: str = ""
    shots: int = 0
    took_s: float = 0.0
    bench_s: float = 0.0


class Watch:
    """Record faults, and compare numbers with those that the grey levels give."""

    def __init__(self, backend: BenchBackend, outcome: Outcome) -> None:
        self._backend, self._outcome = backend, outcome
        backend.recorder = self

    def known(self, job: str) -> Kept | None:
        """Return None: every run is new."""

    def last(self, of: str = "") -> Checkpoint | None:
        """Return None: there is no checkpoint."""

    def keep(self, segment: Segment) -> None:
        """Keep nothing."""

    def forget(self, job: str, number: int) -> None:
        """Keep nothing."""

    def note(self, fault: FaultNote) -> None:
        """Record a fault that the bench noticed."""
        self._outcome.noted.append(fault)

    @contextlib.contextmanager
    def comparing(self) -> Iterator[None]:
        """Compare the results of all jobs."""
        submit = OpenBench.submit

        def watched(opened: OpenBench, job: TileJob) -> Future[TileResult]:
            future = submit(opened, job)
            future.add_done_callback(lambda done: self._compare(job, done))
            return future

        OpenBench.submit = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            OpenBench.submit = submit  # type: ignore[method-assign]

    def _compare(self, job: TileJob, done: Future[TileResult]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        backend, electrons = self._backend, done.result().electrons
        read = backend.optical_model.layout.read_pixels() * backend.optical_model.read_variance
        for tile in range(job.tiles):
            weights = job.weight(tile)
            for vector in range(job.vectors):
                expected = backend.optical_model.passed_e(job.input(vector), weights)
                sigma = np.sqrt(np.maximum(expected, 1) + read)
                off = np.abs(electrons[tile, vector] - expected) > _WRONG * sigma
                self._outcome.wrong += int(off.sum())


@contextlib.contextmanager
def counted(outcome: Outcome) -> Iterator[None]:
    """Count the faults that strike."""
    fails = _Simulated._fails

    def counting(self: _Simulated, exchange: str, *kinds: str) -> Any:
        was_lost = self._is_lost
        try:
            fault = fails(self, exchange, *kinds)
        except OSError:
            if not was_lost:
                outcome.injected["lost"] += 1
            raise
        if fault is not None:
            outcome.injected[fault.kind] += 1
        return fault

    _Simulated._fails = counting  # type: ignore[method-assign]
    try:
        yield
    finally:
        _Simulated._fails = fails  # type: ignore[method-assign]


def bench_text(layout: str, faults: dict[str, list[str]]) -> str:
    """Return the text of a bench file with faults of its instruments, by role."""
    text = example_file(layout, tiny=True)
    for role, lines in faults.items():
        table = f"[instruments.{role}]"
        text = text.replace(table, f"{table}\nfaults = [{', '.join(lines)}]")
    return text + _SUSPEND


def run(model: Model, image: np.ndarray, text: str, folder: Path) -> Outcome:
    """Run one image, and return its outcome."""
    outcome = Outcome()
    path = folder / "bench.toml"
    path.write_text(text, encoding="utf-8")
    for left in folder.glob(".bench*"):  # a latch is re-armed on site, and this is the site
        left.unlink()
    start = time.perf_counter()
    backend = BenchBackend(load_bench(path))
    with counted(outcome), Watch(backend, outcome).comparing():
        work = Thread(target=_forward, args=(model, image, backend, outcome), daemon=True)
        work.start()
        work.join(_HANGS_S)
        if work.is_alive():
            raise TimeoutError(f"a run hangs: {text}")
        outcome.shots, outcome.bench_s = backend.bench.shots, backend.clock.now_s()
        source: Any = backend.bench.source
        backend.close()
        model.release(backend)
    if source.world is not None and source.world.power_w > 0:
        outcome.ending = "light left on"
    outcome.took_s = time.perf_counter() - start
    return outcome


def _forward(model: Model, image: np.ndarray, backend: BenchBackend, outcome: Outcome) -> None:
    try:
        model.forward(image, backend=backend)
        outcome.ending = "complete"
    except Paused as error:
        outcome.ending, outcome.detail = "paused", str(error)
    except LightloomError as error:
        outcome.ending, outcome.detail = type(error).__name__, str(error)
    except Exception as error:
        outcome.ending, outcome.detail = "traceback", repr(error)


def kinds_of(layout: str) -> dict[str, list[tuple[str, str]]]:
    """Return the kinds of faults of a layout's devices, and the exchanges at which they strike."""
    return _FAULTS[layouts.LAYOUTS[layout].detector_kind]


def drawn(
    chance: np.random.Generator, layout: str, exchanges: Counter[tuple[str, str]], paired: bool
) -> dict[str, list[str]]:
    """Draw the faults of a run as lines of the bench file, by role.

    Parameters
    ----------
    exchanges : of an undisturbed run, by role and name
    """
    kinds = kinds_of(layout)
    lasting = [kind for kind in sorted(kinds) if kind not in _ENDS]
    where: dict[tuple[str, str], set[int]] = {}

    def strike(kind: str, share: float, behind: int) -> None:
        role, exchange = kinds[kind][chance.integers(len(kinds[kind]))]
        at = max(int(share * exchanges[role, exchange]), 1) + behind
        if kind == "held":  # is found when a device that was lost is connected again
            where.setdefault((role, "lost"), set()).add(
                int(share * exchanges[role, "read" if role == "detector" else "show"])
            )
            at = 2
        where.setdefault((role, kind), set()).add(at)

    for _ in range(max(exchanges["shots", ""] // _SHOTS_PER_FAULT, 2)):
        share = chance.uniform(0.02, 0.98)  # of the run
        for place in range(1 + paired):
            strike(
                lasting[chance.integers(len(lasting))], share, place * int(chance.integers(0, 4))
            )
    if chance.random() < 0.3:
        strike(_ENDS[chance.integers(len(_ENDS))], chance.uniform(0.67, 0.98), 0)
    lines: dict[str, list[str]] = {}
    for (role, kind), places in where.items():
        late = f", delay_s = {chance.choice(_LATE_S)}" if kind == "late" else ""
        line = f'{{ kind = "{kind}", at = {sorted(places)}{late} }}'
        lines.setdefault(role, []).append(line)
    return lines


def undisturbed(
    model: Model, image: np.ndarray, layout: str, folder: Path
) -> tuple[Outcome, Counter[tuple[str, str]]]:
    """Run one image without faults, and return its outcome and its exchanges by role and name."""
    found: Counter[tuple[str, str]] = Counter()
    fails = _Simulated._fails

    def counting(self: _Simulated, exchange: str, *kinds: str) -> Any:
        found[self.role, exchange] += 1
        return fails(self, exchange, *kinds)

    _Simulated._fails = counting  # type: ignore[method-assign]
    try:
        outcome = run(model, image, bench_text(layout, {}), folder)
    finally:
        _Simulated._fails = fails  # type: ignore[method-assign]
    if outcome.ending != "complete" or outcome.wrong:
        raise ValueError(f"an undisturbed run ended {outcome.ending}: {outcome.detail}")
    found["shots", ""] = outcome.shots
    return outcome, found


def inject(faults: int, seed: int, tell: Any = print) -> list[tuple[str, bool, Outcome]]:
    """Run until enough faults have struck, and return (layout, paired, outcome) of each run."""
    chance = np.random.Generator(np.random.Philox(seed))
    model = load_model("digits")
    images = load_arrays(model.source / "data.safetensors")["images"]
    outcomes = []
    struck = number = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exchanges = {
            layout: undisturbed(model, images[:1], layout, folder)[1]
            for layout in dict.fromkeys(LAYOUTS)
        }
        while struck < faults:
            layout, paired = LAYOUTS[number % len(LAYOUTS)], bool(number // 2 % 2)
            image = images[number % len(images)][None]
            lines = drawn(chance, layout, exchanges[layout], paired)
            outcome = run(model, image, bench_text(layout, lines), folder)
            outcomes.append((layout, paired, outcome))
            struck += sum(outcome.injected.values())
            number += 1
            if number % 10 == 0:
                tell(f"{struck} faults in {number} runs")
            if outcome.wrong or outcome.ending not in ("complete", "paused"):
                tell(f"{layout}: {outcome.ending}, {outcome.wrong} wrong: {outcome.detail}")
                tell(str(lines))
    return outcomes


def inject_at_rate(rate: float, runs: int, seed: int) -> dict[str, float]:
    """Let faults of all kinds that need no operator strike a fraction of all shots.

    Returns
    -------
    counts of runs, and the rate of shots over that of undisturbed runs, on the bench's clock
    """
    model = load_model("digits")
    images = load_arrays(model.source / "data.safetensors")["images"]
    endings: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    share, shots, wrong = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(runs):
            layout = LAYOUTS[number % len(LAYOUTS)]
            image = images[number % len(images)][None]
            clean, exchanges = undisturbed(model, image, layout, folder)
            places = [
                (kind, *place)
                for kind, where in kinds_of(layout).items()
                for place in where
                if kind not in _ENDS
            ]
            lines: dict[str, list[str]] = {}
            for kind, role, exchange in places:
                part = rate * clean.shots / len(places) / exchanges[role, exchange]
                late = f", delay_s = {_LATE_S[number % 3]}" if kind == "late" else ""
                text = f'{{ kind = "{kind}", rate = {part}, seed = {seed + number}{late} }}'
                lines.setdefault(role, []).append(text)
            outcome = run(model, image, bench_text(layout, lines), folder)
            endings[outcome.ending] += 1
            struck.update(outcome.injected)
            wrong += outcome.wrong
            shots += outcome.shots
            if outcome.ending == "complete":
                share.append(clean.bench_s / outcome.bench_s)
            else:
                print(f"{layout}: {outcome.ending}: {outcome.detail}")
    return {
        "runs": runs,
        **{f"runs {ending}": count for ending, count in sorted(endings.items())},
        "wrong numbers": wrong,
        **{f"faults: {kind}": count for kind, count in sorted(struck.items())},
        "faults a shot": sum(struck.values()) / shots,
        "rate of shots over undisturbed": float(np.mean(share)) if share else 0.0,
    }


def rate_table(counts: Mapping[str, float]) -> Table:
    """Return the counts and rates of runs with faults at a rate."""
    columns = (Column("figure", align="left"), Column("number", form=format_number))
    return Table("", columns, tuple(counts.items()))


Outcomes = Sequence[tuple[str, bool, Outcome]]


def injected_table(outcomes: Outcomes) -> Table:
    """Return a row for each kind of fault: how often it struck, and how its runs ended."""
    injected: Counter[str] = Counter()
    runs: dict[str, list[Outcome]] = {}
    for _, _, outcome in outcomes:
        injected.update(outcome.injected)
        for kind in outcome.injected:
            runs.setdefault(kind, []).append(outcome)
    rows = []
    for kind, struck in sorted(runs.items()):
        ends = Counter(outcome.ending for outcome in struck)
        wrong = sum(outcome.wrong for outcome in struck)
        counts = (injected[kind], len(struck), ends["complete"], ends["paused"], wrong)
        rows.append((kind, *counts))
    headers = ("times", "runs", "complete", "paused", "wrong numbers")
    return Table("", (Column("injected", align="left"), *map(Column, headers)), tuple(rows))


def noticed_table(outcomes: Outcomes) -> Table:
    """Return a row for each kind of fault that the bench noticed, and its recovery."""
    noted: dict[str, list[FaultNote]] = {}
    for _, _, outcome in outcomes:
        for note in outcome.noted:
            noted.setdefault(note.kind, []).append(note)
    rows = []
    for kind, notes in sorted(noted.items()):
        remedies = Counter(note.recovery for note in notes)
        words = ", ".join(f"{name} {count}" for name, count in remedies.most_common())
        rows.append((kind, len(notes), sum(note.lost_s for note in notes), words))
    columns = (
        Column("noticed as", align="left"),
        Column("times"),
        Column("lost", "s", form=".1f"),
        Column("recovery", align="left"),
    )
    return Table("", columns, tuple(rows))


def summary(outcomes: Outcomes) -> str:
    """Return one sentence on all runs."""
    injected = sum(sum(outcome.injected.values()) for _, _, outcome in outcomes)
    endings = Counter(outcome.ending for _, _, outcome in outcomes)
    wrong = sum(outcome.wrong for _, _, outcome in outcomes)
    ends = ", ".join(f"{ending} {count}" for ending, count in endings.items())
    slowest = max(outcome.took_s for _, _, outcome in outcomes)
    return (
        f"{format_counted(injected, 'fault')} in {format_counted(len(outcomes), 'run')}: {ends}; "
        f"{format_counted(wrong, 'wrong number')}; the longest run took {format_duration(slowest)}"
    )
