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
from unittest.mock import patch

import numpy as np
from bench_factory import fault, load_example
from lightloom.backends.bench import BenchBackend
from lightloom.backends.bench.checkpoint import FaultNote, Segment
from lightloom.backends.bench.open_bench import OpenBench
from lightloom.backends.bench.shot_plan import TileJob, TileResult
from lightloom.instruments import LightloomError, Paused
from lightloom.instruments.formatting import format_counted, format_duration, format_number
from lightloom.instruments.simulated.devices import _Simulated
from lightloom.instruments.table import Column, Table
from lightloom.models import Model
from memory_journal import Memory

from .digits import digits

# kind of fault -> (role, exchange at which it strikes)
FAULTS = {
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
LAYOUTS = ("imaged",) * 8 + ("line",)  # which takes ten times as many shots
_LATE_S = (0.003, 0.01, 0.03, 0.1)  # delay of a late frame: 1 to 33 shots
_SHOTS_PER_FAULT = 60  # about, or for each pair of faults
_ENDS = ("dim", "tripped", "held")  # no recovery: at most one in a run, in its last third
_WRONG = 7.0  # sigma
_HANGS_S = 900.0  # for the longest run on a busy machine
# how often the source is asked whether it emits
_SUSPEND = [{"what": "interlock", "every": "0.5 s"}]
Faults = dict[str, list[dict[str, Any]]]  # of a bench's instruments, by role


@dataclass
class Outcome:
    """Outcome of one run.

    Parameters
    ----------
    exchanges : (role, exchange) -> how often it took place
    injected : kind of fault -> how often it struck
    noted : every fault that the bench noticed
    wrong : wrong numbers that left a shot
    ending : "complete", "paused", or the kind of failure
    """

    exchanges: Counter[tuple[str, str]] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    noted: list[FaultNote] = field(default_factory=list)
    wrong: int = 0
    ending: str = ""
    detail: str = ""
    shots: int = 0
    took_s: float = 0.0
    bench_s: float = 0.0


class Watch(Memory):
    """Record faults, and compare numbers with those that the grey levels give."""

    def __init__(self, backend: BenchBackend, outcome: Outcome) -> None:
        super().__init__()
        self._backend, self._outcome = backend, outcome
        backend.recorder = self
        outcome.noted = self.faults

    def keep(self, segment: Segment) -> None:
        """Keep nothing: every run is new."""

    @contextlib.contextmanager
    def comparing(self) -> Iterator[None]:
        """Compare the results of all jobs."""
        submit = OpenBench.submit

        def watched(opened: OpenBench, job: TileJob) -> Future[TileResult]:
            future = submit(opened, job)
            future.add_done_callback(lambda done: self._compare(job, done))
            return future

        with patch.object(OpenBench, "submit", watched):
            yield

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
    """Count exchanges with devices, and the faults that strike."""
    fails = _Simulated._fails

    def counting(self: _Simulated, exchange: str, *kinds: str) -> Any:
        was_lost = self._is_lost
        outcome.exchanges[self.role, exchange] += 1
        try:
            struck = fails(self, exchange, *kinds)
        except OSError:
            if not was_lost:
                outcome.injected["lost"] += 1
            raise
        if struck is not None:
            outcome.injected[struck.kind] += 1
        return struck

    with patch.object(_Simulated, "_fails", counting):
        yield


def run(
    model: Model, image: np.ndarray, layout: str, faults: Mapping[str, Any], folder: Path
) -> Outcome:
    """Run one image on a bench with faults of its instruments, by role, and return its outcome."""
    outcome = Outcome()
    for left in folder.glob(".bench*"):  # a latch is re-armed on site, and this is the site
        left.unlink()
    changes = {f"instruments__{role}__faults": of_role for role, of_role in faults.items()}
    start = time.perf_counter()
    backend = BenchBackend(load_example(folder, layout, suspend=_SUSPEND, **changes))
    with counted(outcome), Watch(backend, outcome).comparing():
        work = Thread(target=_forward, args=(model, image, backend, outcome), daemon=True)
        work.start()
        work.join(_HANGS_S)
        if work.is_alive():
            raise TimeoutError(f"a run hangs: {layout}, {faults}")
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


def drawn(chance: np.random.Generator, clean: Outcome, paired: bool) -> Faults:
    """Draw the faults of a run, by role.

    Parameters
    ----------
    clean : outcome of an undisturbed run
    """
    lasting = [kind for kind in sorted(FAULTS) if kind not in _ENDS]
    where: dict[tuple[str, str], set[int]] = {}

    def strike(kind: str, share: float, behind: int) -> None:
        role, exchange = FAULTS[kind][chance.integers(len(FAULTS[kind]))]
        at = max(int(share * clean.exchanges[role, exchange]), 1) + behind
        if kind == "held":  # is found when a device that was lost is connected again
            often = "read" if role == "detector" else "show"
            lost_at = int(share * clean.exchanges[role, often])
            where.setdefault((role, "lost"), set()).add(lost_at)
            at = 2
        where.setdefault((role, kind), set()).add(at)

    for _ in range(max(clean.shots // _SHOTS_PER_FAULT, 2)):
        share = chance.uniform(0.02, 0.98)  # of the run
        for place in range(1 + paired):
            kind = lasting[chance.integers(len(lasting))]
            strike(kind, share, place * int(chance.integers(0, 4)))
    if chance.random() < 0.3:
        strike(_ENDS[chance.integers(len(_ENDS))], chance.uniform(0.67, 0.98), 0)
    faults: Faults = {}
    for (role, kind), places in where.items():
        late = {"delay_s": float(chance.choice(_LATE_S))} if kind == "late" else {}
        faults.setdefault(role, []).extend(fault(kind, sorted(places), **late))
    return faults


def undisturbed(model: Model, image: np.ndarray, layout: str, folder: Path) -> Outcome:
    """Run one image without faults, and return its outcome."""
    outcome = run(model, image, layout, {}, folder)
    if outcome.ending != "complete" or outcome.wrong:
        raise ValueError(f"an undisturbed run ended {outcome.ending}: {outcome.detail}")
    return outcome


def inject(faults: int, seed: int) -> list[Outcome]:
    """Run until enough faults have struck, and return the outcomes."""
    chance = np.random.Generator(np.random.Philox(seed))
    model, images = digits()
    outcomes: list[Outcome] = []
    struck = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = {one: undisturbed(model, images[:1], one, folder) for one in dict.fromkeys(LAYOUTS)}
        while struck < faults:
            number = len(outcomes)
            layout = LAYOUTS[number % len(LAYOUTS)]
            image = images[number % len(images)][None]
            drawn_faults = drawn(chance, clean[layout], bool(number // 2 % 2))
            outcome = run(model, image, layout, drawn_faults, folder)
            outcomes.append(outcome)
            struck += outcome.injected.total()
            if len(outcomes) % 10 == 0:
                print(f"{struck} faults in {len(outcomes)} runs")
            if outcome.wrong or outcome.ending not in ("complete", "paused"):
                print(f"{layout}: {outcome.ending}, {outcome.wrong} wrong: {outcome.detail}")
                print(drawn_faults)
    return outcomes


def at_rate(rate: float, clean: Outcome, seed: int) -> Faults:
    """Return faults that strike a fraction of all shots, of all kinds that need no operator."""
    kinds = [(kind, *at) for kind, at_all in FAULTS.items() for at in at_all if kind not in _ENDS]
    faults: Faults = {}
    for kind, role, exchange in kinds:
        of_kind = rate * clean.shots / len(kinds) / clean.exchanges[role, exchange]
        late = {"delay_s": _LATE_S[seed % 3]} if kind == "late" else {}
        faults.setdefault(role, []).extend(fault(kind, rate=of_kind, seed=seed, **late))
    return faults


def inject_at_rate(rate: float, runs: int, seed: int) -> dict[str, float]:
    """Let faults strike a fraction of all shots.

    Returns
    -------
    counts of runs, and the rate of shots over that of undisturbed runs, on the bench's clock
    """
    model, images = digits()
    outcomes, speeds = [], []
    with tempfile.TemporaryDirectory() as name:
        for number in range(runs):
            layout = LAYOUTS[number % len(LAYOUTS)]
            image = images[number % len(images)][None]
            clean = undisturbed(model, image, layout, Path(name))
            faults = at_rate(rate, clean, seed + number)
            outcome = run(model, image, layout, faults, Path(name))
            outcomes.append(outcome)
            if outcome.ending == "complete":
                speeds.append(clean.bench_s / outcome.bench_s)
            else:
                print(f"{layout}: {outcome.ending}: {outcome.detail}")
    struck = sum((outcome.injected for outcome in outcomes), Counter())
    endings = Counter(outcome.ending for outcome in outcomes)
    return {
        "runs": runs,
        **{f"runs {ending}": count for ending, count in sorted(endings.items())},
        "wrong numbers": sum(outcome.wrong for outcome in outcomes),
        **{f"faults: {kind}": count for kind, count in sorted(struck.items())},
        "faults a shot": struck.total() / sum(outcome.shots for outcome in outcomes),
        "rate of shots over undisturbed": float(np.mean(speeds)) if speeds else 0.0,
    }


def rate_table(counts: Mapping[str, float]) -> Table:
    """Return the counts and rates of runs with faults at a rate."""
    columns = (Column("figure", align="left"), Column("number", form=format_number))
    return Table("", columns, tuple(counts.items()))


def injected_table(outcomes: Sequence[Outcome]) -> Table:
    """Return a row for each kind of fault: how often it struck, and how its runs ended."""
    rows = []
    for kind in sorted({kind for outcome in outcomes for kind in outcome.injected}):
        struck = [outcome for outcome in outcomes if kind in outcome.injected]
        ends = Counter(outcome.ending for outcome in struck)
        times = sum(outcome.injected[kind] for outcome in struck)
        wrong = sum(outcome.wrong for outcome in struck)
        rows.append((kind, times, len(struck), ends["complete"], ends["paused"], wrong))
    headers = ("times", "runs", "complete", "paused", "wrong numbers")
    return Table("", (Column("injected", align="left"), *map(Column, headers)), tuple(rows))


def noticed_table(outcomes: Sequence[Outcome]) -> Table:
    """Return a row for each kind of fault that the bench noticed, and its recovery."""
    noted: dict[str, list[FaultNote]] = {}
    for outcome in outcomes:
        for note in outcome.noted:
            noted.setdefault(note.kind, []).append(note)
    rows = []
    for kind, notes in sorted(noted.items()):
        recoveries = Counter(note.recovery for note in notes)
        words = ", ".join(f"{name} {count}" for name, count in recoveries.most_common())
        rows.append((kind, len(notes), sum(note.lost_s for note in notes), words))
    columns = (
        Column("noticed as", align="left"),
        Column("times"),
        Column("lost", "s", form=".1f"),
        Column("recovery", align="left"),
    )
    return Table("", columns, tuple(rows))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one sentence on all runs."""
    injected = sum(outcome.injected.total() for outcome in outcomes)
    endings = Counter(outcome.ending for outcome in outcomes)
    wrong = sum(outcome.wrong for outcome in outcomes)
    ends = ", ".join(f"{ending} {count}" for ending, count in endings.items())
    slowest = max(outcome.took_s for outcome in outcomes)
    return (
        f"{format_counted(injected, 'fault')} in {format_counted(len(outcomes), 'run')}: {ends}; "
        f"{format_counted(wrong, 'wrong number')}; the longest run took {format_duration(slowest)}"
    )
