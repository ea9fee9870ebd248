"""Time whole models on every profile, beside numpy, torch and what people do today.

    python -m lightloom.benchmarks model-speed --threads 1,2 --json speed.json

A number of threads has a process of its own, because libraries fix their threads when they are
loaded. Within a round all contenders of all processes take turns: first the prefill of each, then
bursts of tokens that each decodes after its own prefill. A ratio is that of one round and process.
"""

import os
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from ..backends import DigitalBackend, MockBackend, OpticsProfile, load_profile, mock_path
from ..instruments import InputError, LightloomError, limit_threads
from ..instruments.formatting import format_counted, format_duration
from ..instruments.table import Cell, Column, Table
from ..models import Model
from ..models.shapes import model_or_shape
from ..scheduler import DEFAULT_POLICY
from . import peers
from .baselines import TorchProgram, missing
from .contenders import NUMPY, Contender, Lightloom, Torch, check_language, make_job, runnable
from .fake_quantisation import FakeQuantised, operations
from .throughput import TORCH, benchmark_shape, machine, name_of, versions

KIND = "lightloom model speed"
SCHEMA = 1
PROFILES = (
    *("slm-camera", "dmd-camera", "projection-2030", "oled-slm-2022"),
    *("scaled-optics", "ideal", "photon-target-2022"),
)
_POLL_S = 0.5  # a longer wait cannot be interrupted on Windows
BURST = 4  # tokens that one contender decodes before the next one has its turn

Place = tuple[int, str, int, str]  # threads, phase, tokens of the prefill, contender
Phases = Sequence[tuple[str, int]]  # phase, tokens of the prefill
_SPREAD = "median of all turns, +- half the range between quartiles; numpy: a prefill, or one token"


@dataclass(frozen=True)
class Work:
    """What to time.

    Parameters
    ----------
    model : name, folder or GGUF file; None is of the size of GPT-2 small, with random weights
    sequences : tokens of each prefill
    bursts : of `BURST` tokens after each prefill, in one round
    """

    model: str | None
    profiles: tuple[str, ...]
    sequences: tuple[int, ...]
    bursts: int = 4

    @property
    def new_tokens(self) -> int:
        """Tokens after each prefill."""
        return self.bursts * BURST


def open_model(work: Work) -> Model:
    """Return the model, which has room for all tokens.

    Raises
    ------
    InputError : when it is not a language model, or its context is too short
    """
    tokens = max(work.sequences) + work.new_tokens
    name = work.model
    model = benchmark_shape(768, 12, tokens) if name is None else model_or_shape(name)
    check_language(model)
    if model.config.context < tokens:
        raise InputError(
            f"{max(work.sequences)} tokens and {work.new_tokens} new ones are more than the "
            f"context of {model.name!r}, {model.config.context}; give a shorter --sequences"
        )
    return runnable(model)


def check(work: Work) -> None:
    """Refuse work that no process could do.

    Raises
    ------
    InputError : see `open_model`, `load_profile` and `make_job`
    """
    if len(set(work.profiles)) < len(work.profiles):
        raise InputError(f"--profiles {','.join(work.profiles)}: give each profile once")
    for name in work.profiles:
        load_profile(name)
    make_job(open_model(work), 1, max(work.sequences), work.new_tokens)


# ------------------------------------------------------------------------------- contenders


class Team:
    """All contenders of one process; one of each for every sequence.

    Attributes
    ----------
    contenders : [sequence][name]
    today_of : contender on a mock -> the one in torch that does the same by fake quantisation
    absent : a sentence on each contender that cannot be timed
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.model = open_model(work)
        self.jobs = [make_job(self.model, 1, n, BURST + 1) for n in work.sequences]
        self.today_of: dict[str, str] = {}
        self.absent: list[str] = []
        self.contenders: list[dict[str, Contender]] = [{} for _ in self.jobs]
        mocks = [MockBackend(load_profile(name)) for name in work.profiles]
        for backend in (DigitalBackend(), *mocks):
            for job, some in zip(self.jobs, self.contenders, strict=True):
                name = name_of(backend)
                some[name] = Lightloom(name, name, job, backend, job.placement)
        reason = missing("torch")
        try:
            if reason is None:
                self._add_torch(mocks)
        except NotImplementedError as error:
            reason = f"torch is not timed: {error}"
        if reason is not None:
            self.absent += [reason, "what people do today is not timed: it needs torch"]

    def _add_torch(self, mocks: Sequence[MockBackend]) -> None:
        ending = self.jobs[0].ending
        programs: dict[str, TorchProgram] = {"torch": TorchProgram(self.model, ending)}
        for mock in mocks:
            name = self.today_of[name_of(mock)] = today(mock.profile)
            if name not in programs:
                programs[name] = FakeQuantised(self.model, ending, mock.profile)
        self.absent += peers.missing()
        for name in peers.present():
            programs[name] = peers.PeerProgram(self.model, ending, name)
        for name, program in programs.items():
            for job, some in zip(self.jobs, self.contenders, strict=True):
                some[name] = Torch(name, TORCH, job, program)

    def describe(self) -> dict[str, Any]:
        """Return the names of all contenders, numpy first, and what else a document says."""
        return {
            "contenders": list(self.contenders[0]),
            "model": {"name": self.model.name, "parameters": self.model.parameters},
            "mock_path": mock_path(),
            "today": self.today_of,
            "not_timed": self.absent,
        }

    def warm_up(self, name: str) -> None:
        """Prepare a contender, and let it compute a short round."""
        contender = self.contenders[0][name]
        contender.result()
        contender.round()

    def run(self, sequence: int, name: str, phase: str) -> dict[str, float]:
        """Run a phase once, and return its seconds by the clock and of the processor."""
        contender = self.contenders[sequence][name]
        if phase == "prefill":
            contender.begin()
        sample = contender.run(phase)
        return {"seconds": sample.seconds, "cpu_s": sample.cpu_s}


def today(profile: OpticsProfile) -> str:
    """Return the name of the contender that stands for what people do today on a profile."""
    rounds_inputs, rounds_weights, has_noise = operations(profile)
    done = ["rounding"] if rounds_inputs or rounds_weights else []
    done += ["noise"] if has_noise else []
    return " + ".join(["torch", *done])


# -------------------------------------------------------------------------------- processes


class TimeUp(LightloomError):
    """The time that was given is over."""


class SpeedProcess:
    """A process with its own number of threads, and a team in it."""

    def __init__(self, threads: int, work: Work, until_s: float) -> None:
        self.threads, self._until_s = threads, until_s
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _environment_of(threads):
            self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the team, and return what it returns."""
        self.send(method, *arguments)
        return self.answer()

    def send(self, method: str, *arguments: Any) -> None:
        """Begin to call a method of the team."""
        with suppress(OSError):  # it has ended: `answer` says so
            self._pipe.send((method, arguments))

    def answer(self) -> Any:
        """Wait for the result of what was sent last.

        Raises
        ------
        TimeUp : when there is no answer in time
        LightloomError : of the team; or when the process has ended
        """
        try:
            while not self._pipe.poll(_POLL_S):
                if time.monotonic() > self._until_s:
                    raise TimeUp("the time is over")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise LightloomError(
                f"the process of {format_counted(self.threads, 'thread')} has ended; it may need "
                "more memory: give fewer profiles, or one number of threads"
            ) from None
        if isinstance(answer, LightloomError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


@contextmanager
def _environment_of(threads: int) -> Iterator[None]:
    """Limit the threads of processes that are started within, not of this one."""
    before = dict(os.environ)
    try:
        limit_threads(threads)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Any, work: Work) -> None:
    """Answer until the process is ended. Ctrl-C is left to the process that started this one."""
    for name in ("SIGINT", "SIGBREAK"):  # SIGBREAK: Ctrl-Break on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")  # of other libraries, at each call
    team: Team | None = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            team = team or Team(work)
            pipe.send(getattr(team, method)(*arguments))
        except LightloomError as error:
            pipe.send(error)
        except MemoryError:
            pipe.send(LightloomError("there is not enough memory: give fewer profiles"))


# -------------------------------------------------------------------------------- measuring


class Measurement:
    """Times of all contenders, as far as they were measured.

    Attributes
    ----------
    seconds, cpu_s : of each turn; a contender has as many turns as numpy, or one less
    facts : see `Team.describe`; empty until a process has answered
    remarks : why it ended early
    """

    def __init__(self, work: Work, threads: Sequence[int]) -> None:
        self.work, self.threads = work, tuple(threads)
        self.seconds: dict[Place, list[float]] = {}
        self.cpu_s: dict[Place, list[float]] = {}
        self.facts: dict[str, Any] = {}
        self.remarks: list[str] = []

    def run(self, rounds: int, seconds: float, tell: Callable[[str], None]) -> Iterator[None]:
        """Measure round after round, and yield after each.

        Parameters
        ----------
        seconds : after which it ends, wherever it is
        tell : called with a sentence on what was done
        """
        start_s = time.monotonic()
        workers: list[SpeedProcess] = []
        try:
            for count in self.threads:
                workers.append(SpeedProcess(count, self.work, start_s + seconds))
            self._prepare(workers, tell)
            if time.monotonic() >= start_s + seconds:
                raise TimeUp
            for number in range(1, rounds + 1):
                for sequence in range(len(self.work.sequences)):
                    self._turns(workers, sequence)
                took = format_duration(time.monotonic() - start_s)
                tell(f"round {number} of {rounds} is done after {took}")
                yield
        except TimeUp:
            self.remarks.append(f"ended after {format_duration(seconds)}, as --minutes says")
        finally:
            for worker in workers:
                worker.close()

    def _prepare(self, workers: Sequence[SpeedProcess], tell: Callable[[str], None]) -> None:
        """Let every process prepare its contenders, all at the same time."""
        for worker in workers:
            worker.send("describe")
        for worker in workers:
            self.facts = worker.answer()
        for name in self.facts["contenders"]:
            for worker in workers:
                worker.send("warm_up", name)
            for worker in workers:
                worker.answer()
            tell(f"prepared {name}")

    def _turns(self, workers: Sequence[SpeedProcess], sequence: int) -> None:
        tokens, names = self.work.sequences[sequence], self.facts["contenders"]
        for phase in ("prefill", *["decode"] * self.work.bursts):
            for worker in workers:
                for name in names:
                    found = worker.ask("run", sequence, name, phase)
                    place = worker.threads, phase, tokens, name
                    self.seconds.setdefault(place, []).append(found["seconds"])
                    self.cpu_s.setdefault(place, []).append(found["cpu_s"])

    def ratios(self, place: Place, base: str, is_cpu: bool = False) -> list[float]:
        """Return the times of a contender over those of another in the same turns."""
        times = self.cpu_s if is_cpu else self.seconds
        mine, others = times.get(place, []), times.get((*place[:3], base), [])
        return [a / b for a, b in zip(mine, others, strict=False) if b]

    def document(self) -> dict[str, Any]:
        """Return what was measured, and on what, for JSON."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "is_mock": True,
            "versions": versions(),
            "machine": {key: value for key, value in machine().items() if key != "threads"},
            **{key: value for key, value in self.facts.items() if key != "contenders"},
            "placement": DEFAULT_POLICY,
            "remarks": self.remarks,
            "results": [self._result(place) for place in self.seconds],
        }

    def _result(self, place: Place) -> dict[str, Any]:
        threads, phase, tokens, name = place
        over = {}
        for base in ("numpy", "today"):
            other = NUMPY if base == "numpy" else self._today(name)
            for clock, is_cpu in (("", False), ("_cpu", True)):
                ratios = self.ratios(place, other, is_cpu) if other else []
                if ratios and name != other:
                    over[f"over_{base}{clock}"] = quartiles(ratios)
        return {
            **{"threads": threads, "phase": phase, "sequence": tokens, "contender": name},
            "tokens": tokens if phase == "prefill" else BURST,
            **{"seconds": self.seconds[place], "cpu_s": self.cpu_s[place], **over},
        }

    def _today(self, name: str) -> str | None:
        """Return what people do today for the profile of a contender; None for another one."""
        return dict(self.facts["today"]).get(name)

    # --------------------------------------------------------------------- for people

    def sentences(self) -> Iterator[str]:
        """Return what the tables were measured with, and what is missing."""
        if self.facts:
            found = self.document()
            yield f"model: {found['model']['name']}; placement {DEFAULT_POLICY}"
            yield f"processor: {found['machine']['processor']}, {found['machine']['cores']} cores"
            yield ", ".join(f"{name} {version}" for name, version in found["versions"].items())
            yield "; ".join(f"{what}: {how}" for what, how in found["mock_path"].items())
            yield from self.facts["not_timed"]
        yield from self.remarks

    def tables(self, is_cpu: bool = False) -> Iterator[Table]:
        """Return two tables for each number of threads.

        Parameters
        ----------
        is_cpu : processor time instead of time by the clock
        """
        for threads in self.threads:
            phases = list(dict.fromkeys(p[1:3] for p in self.seconds if p[0] == threads))
            if phases:
                yield self._over_numpy(threads, phases, is_cpu)
                if self.facts["today"]:
                    yield self._over_today(threads, phases, is_cpu)

    def _over_numpy(self, threads: int, phases: Phases, is_cpu: bool) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for name in self.facts["contenders"]:
            cells: list[Cell] = [f"{name}{' MOCK' if name.startswith('mock') else ''}"]
            for phase in phases:
                place = (threads, *phase, name)
                if name == NUMPY:
                    times = (self.cpu_s if is_cpu else self.seconds)[place]
                    tokens = 1 if phase[0] == "prefill" else BURST
                    cells += [format_duration(statistics.median(times) / tokens), ""]
                else:
                    cells += _shown(self.ratios(place, NUMPY, is_cpu))
            rows.append(tuple(cells))
        clock = "processor time" if is_cpu else "time"
        title = f"{format_counted(threads, 'thread')}: {clock} over numpy"
        return Table(title, _columns(phases), tuple(rows), caption=_SPREAD)

    def _over_today(self, threads: int, phases: Phases, is_cpu: bool) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for mine, other in self.facts["today"].items():
            cells: list[Cell] = [f"{mine} MOCK over {other}"]
            for phase in phases:
                cells += _shown(self.ratios((threads, *phase, other), mine, is_cpu))
            rows.append(tuple(cells))
        title = f"{format_counted(threads, 'thread')}: tokens per second over what people do today"
        return Table(title, _columns(phases), tuple(rows), caption=_SPREAD)


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median of values and the quartiles around it."""
    low, middle, high = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return {"median": middle, "quartile_below": low, "quartile_above": high}


def _shown(ratios: Sequence[float]) -> list[Cell]:
    """Return the median of ratios and half the range between their quartiles."""
    if not ratios:
        return [None, None]
    found = quartiles(ratios)
    return [found["median"], (found["quartile_above"] - found["quartile_below"]) / 2]


def _columns(phases: Phases) -> tuple[Column, ...]:
    columns = [Column("contender", align="left")]
    for phase, tokens in phases:
        title = f"prefill {tokens}" if phase == "prefill" else f"decode after {tokens}"
        columns += [Column(title, form=".2f"), Column("+-", form=".2f")]
    return tuple(columns)
