"""Contenders of a benchmark: implementations that take turns at the same job.

A job is the work of one round, the same random inputs for all. Not here: turns and documents
(`throughput`, `model_speed`), digital programs of other libraries (`baselines`).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..backends import Backend, DigitalBackend, Stats
from ..backends.bench.bench import Bench
from ..instruments import InputError
from ..instruments.formatting import format_quantity
from ..models import Cache, Model
from ..models.shapes import with_random_weights
from ..scheduler import (
    FIXED,
    Executor,
    HostStep,
    OpticalMatmul,
    Placement,
    StepRecord,
    evaluate,
    memory_bytes,
)
from ..scheduler.runs import plan
from .baselines import TorchProgram

NUMPY = "numpy"
BARE = "numpy, products alone"
_COUNTS = (
    "shots",
    "input_frames",
    "weight_frames",
    "input_samples",
    "weight_samples",
    "conversions",
    "saturated",
    "retries",
)


@dataclass(frozen=True)
class Job:
    """Work of one round, the same random inputs for every contender.

    Parameters
    ----------
    first : tokens [batch, sequence], or images [batch, channels, height, width]
    later : tokens [batch, 1] of each further pass; drawn beforehand, so that all contenders
        compute the same
    """

    model: Model
    batch: int
    sequence: int
    new_tokens: int
    placement: str
    first: Any
    later: tuple[np.ndarray, ...]

    @property
    def ending(self) -> str:
        """The ending of the program that is run."""
        if self.new_tokens:
            return "last"
        return self.model.whole_ending

    @property
    def unit(self) -> str:
        """The unit that is counted: token, image, or row of inputs."""
        return {"vision": "image", "outputs": "row"}.get(self.model.task, "token")

    @property
    def phases(self) -> dict[str, tuple[tuple[np.ndarray, ...], int]]:
        """Phases of a round: name -> (inputs of each pass, tokens or images in all)."""
        count = self.batch * (self.sequence if self.unit == "token" else 1)
        name = "prefill" if self.unit == "token" else "pass"
        phases: dict[str, tuple[tuple[np.ndarray, ...], int]] = {name: ((self.first,), count)}
        if self.later:
            phases["decode"] = (self.later, self.batch * len(self.later))
        return phases

    def macs(self, phase: str) -> int:
        """Return the number of multiply-accumulates of a phase."""
        total, past = 0, 0
        matmuls = self.model.program(self.ending).matmuls
        for name, (inputs, _) in self.phases.items():
            for data in inputs:
                new = data.shape[1] if self.unit == "token" else self.sequence
                sizes = {"batch": self.batch, "new": new, "past": past}
                total += sum(step.macs(sizes) for step in matmuls) if name == phase else 0
                past += new
        return total


def make_job(
    model: Model,
    batch: int = 1,
    sequence: int | None = None,
    new_tokens: int = 0,
    placement: str = "paper",
    seed: int = 0,
) -> Job:
    """Return a job with random inputs.

    Raises
    ------
    InputError : for sizes that the model cannot take, or weights that memory cannot hold
    """
    sizes = plan(model, DigitalBackend(), batch, sequence, new_tokens, placement).passes[0][0]
    chance = np.random.Generator(np.random.Philox(seed))
    config = model.config
    first: Any
    if model.task == "outputs":
        rows = np.arange(sizes["batch"])
        examples = model.arrays_of([])  # type: ignore[attr-defined]
        first = {name: array[rows % len(array)] for name, array in examples.items()}
        if config.has_tokens:
            columns = np.arange(sizes["new"])
            first = {name: array[:, columns % array.shape[1]] for name, array in first.items()}
    elif model.task == "vision":
        first = chance.standard_normal((batch, *config.image_shape), dtype=np.float32)
    else:
        first = chance.integers(0, config.vocabulary, (batch, sizes["new"]))
    later = tuple(
        chance.integers(0, config.vocabulary, (batch, 1)) for _ in range(max(new_tokens - 1, 0))
    )
    return Job(model, sizes["batch"], sizes["new"], new_tokens, placement, first, later)


def runnable(model: Model, seed: int = 0) -> Model:
    """Return a model that can run; one without weights gets random ones.

    Raises
    ------
    InputError : when this machine's memory cannot hold them
    """
    needed, there = 4 * model.parameters, memory_bytes()
    if there is not None and needed > there / 2:
        raise InputError(
            f"{model.name!r} has {format_quantity(needed, 'B')} of float32 weights, more than half "
            f"of this machine's {format_quantity(there, 'B')}; predict it with "
            "`lightloom plan`, or take a smaller one"
        )
    return model if len(model.weights) else with_random_weights(model, seed)


def check_language(model: Model) -> None:
    """Refuse a model that does not generate text.

    Raises
    ------
    InputError : naming it
    """
    if model.task != "language":
        raise InputError(f"{model.name!r} does not generate text; give a language model")


# ---------------------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Sample:
    """Times and counts of one phase of one round.

    Parameters
    ----------
    cpu_s : processor time of all threads, on which other programs have little influence
    stages : (kind, "optical", "host" or "convert") -> seconds
    overhead_s : neither product nor host arithmetic; None where stages overlap, as on a bench, or
        are unknown
    bench_s : by the bench's own clock
    """

    seconds: float
    cpu_s: float
    stages: Mapping[tuple[str, str], float]
    overhead_s: float | None = None
    bench_s: float | None = None
    counts: Mapping[str, int] | None = None


class Contender(ABC):
    """Implementation that runs a job and reports the times of each phase.

    Attributes
    ----------
    bench : that its products run on; None without one
    """

    bench: Bench | None = None
    is_mock = False

    def __init__(self, name: str, what: str, job: Job) -> None:
        self.name, self.what, self.job = name, what, job

    def round(self) -> dict[str, Sample]:
        """Run the job once, and return phase -> its sample."""
        self.begin()
        return {phase: self.run(phase) for phase in self.job.phases}

    @abstractmethod
    def begin(self) -> None:
        """Forget the tokens so far."""

    @abstractmethod
    def run(self, phase: str) -> Sample:
        """Run the passes of a phase after the tokens so far."""

    @abstractmethod
    def result(self) -> np.ndarray | None:
        """Prepare, and return the result of the first pass, to be compared with numpy's."""

    def _clocked(self, phase: str, run: Callable[[np.ndarray], Any]) -> Sample:
        """Run the passes of a phase, and return their seconds by the clock and of the processor."""
        inputs, _ = self.job.phases[phase]
        start, start_cpu = time.perf_counter(), time.process_time()
        for data in inputs:
            run(data)
        return Sample(time.perf_counter() - start, time.process_time() - start_cpu, {})


class Lightloom(Contender):
    """Contender: lightloom on a backend, optical, digital, or with another library's products."""

    def __init__(self, name: str, what: str, job: Job, backend: Backend, placement: str) -> None:
        super().__init__(name, what, job)
        self.backend = backend
        chosen: str | Placement = placement
        if placement not in FIXED:  # decided for all passes, as in a prediction
            sizes = (job.batch, job.sequence, job.new_tokens)
            chosen = plan(job.model, backend, *sizes, placement).chosen
        self._executor: Executor = job.model.executor(backend, chosen)
        self._spent = _watched(backend)
        self.bench, self.is_mock = bench_of(backend), backend.is_mock
        self._cache: Cache | None = None

    def result(self) -> np.ndarray | None:
        """Return the result of the first pass."""
        self.backend.warm_up()
        self.job.model.calibrate(self._executor)
        return self.job.model.run_pass(self._executor, self.job.ending, self.job.first)

    def begin(self) -> None:
        """Forget the tokens so far."""
        self._cache = Cache() if self.job.later else None

    def run(self, phase: str) -> Sample:
        """Run the passes of a phase after the tokens so far."""
        executor = self._executor
        executor.records.clear()
        self._spent[0] = 0.0
        began_s = self.bench.clock.now_s() if self.bench else 0.0
        run = partial(self.job.model.run_pass, executor, self.job.ending, cache=self._cache)
        taken = self._clocked(phase, run)
        bench_s = self.bench.clock.now_s() - began_s if self.bench else None
        return self._sample(taken, bench_s, list(executor.records.values()))

    def _sample(
        self, taken: Sample, bench_s: float | None, records: Sequence[StepRecord]
    ) -> Sample:
        """Return a sample with its stages and counts.

        Parameters
        ----------
        taken : its seconds alone
        """
        stages: dict[tuple[str, str], float] = {}
        stats = Stats()
        rest = taken.seconds - self._spent[0]

        def add(kind: str, where: str, took: float) -> None:
            stages[kind, where] = stages.get((kind, where), 0.0) + took

        is_optical = self.backend.is_optical
        for record in records:
            kind = record.step.kind
            product = record.stats.seconds.get("product")
            if isinstance(record.step, HostStep):
                add(kind, "host", record.seconds)
                rest -= record.seconds
            elif record.optical and is_optical:
                stats.add(record.stats)
                add(kind, "optical", product or 0.0)
            else:
                took = record.seconds if product is None else product
                add(kind, "host", took)
                rest -= 0.0 if record.optical else took  # of a product not given to the backend
        if is_optical:
            encode, product, decode = (
                stats.seconds.get(stage, 0.0) for stage in ("encode", "product", "decode")
            )
            # the rest of the time is encoding, that of keys and values included
            add("encode", "convert", max(encode, self._spent[0] - product - decode))
            add("decode", "convert", decode)
        is_known = rest >= 0 and not self.backend.is_asynchronous
        counts = {name: int(getattr(stats, name)) for name in _COUNTS} if is_optical else None
        overhead_s = rest if is_known else None
        return Sample(taken.seconds, taken.cpu_s, stages, overhead_s, bench_s, counts)


def _watched(backend: Backend) -> list[float]:
    """Count the seconds inside a backend, in a list of one number.

    All time outside its two hooks is the scheduler's. Stages of `Stats` would not do, because those
    of several threads add up.
    """
    if backend in _SPENT:  # another job has this backend
        return _SPENT[backend]
    spent = _SPENT[backend] = [0.0]

    def counted(hook: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return hook(*arguments)
        finally:
            spent[0] += time.perf_counter() - start

    for name in ("_matmul", "_prepare"):
        setattr(backend, name, partial(counted, getattr(backend, name)))
    return spent


_SPENT: WeakKeyDictionary[Backend, list[float]] = WeakKeyDictionary()


class Torch(Contender):
    """Contender: the model's program in torch."""

    def __init__(self, name: str, what: str, job: Job, program: TorchProgram) -> None:
        super().__init__(name, what, job)
        self._program = program

    def begin(self) -> None:
        """Forget the tokens so far."""
        self._program.begin()

    def run(self, phase: str) -> Sample:
        """Run the passes of a phase after the tokens so far."""
        return self._clocked(phase, self._program.run)

    def result(self) -> np.ndarray | None:
        """Return the result of the first pass."""
        self.begin()
        return self._program.run(self.job.first)


class BareProducts(Contender):
    """Contender: the products of the program alone, in numpy, without code of lightloom."""

    def __init__(self, job: Job) -> None:
        super().__init__(BARE, "float32 np.matmul of the same shapes, no host step", job)
        self._past = 0
        self.arrays: dict[tuple[int, ...], np.ndarray] = {}
        self._matmuls = job.model.program(job.ending).matmuls
        self._weights = {m.name: self._stored(m) for m in self._matmuls if not m.dynamic}

    def begin(self) -> None:
        """Forget the tokens so far."""
        self._past = 0

    def run(self, phase: str) -> Sample:
        """Run the products of a phase after the tokens so far."""
        return self._clocked(phase, self._run)

    def result(self) -> np.ndarray | None:
        """Draw the operands, and return None: there is no result to compare."""
        self.round()
        return None

    def _run(self, data: np.ndarray) -> None:
        new = data.shape[1] if self.job.unit == "token" else self.job.sequence
        sizes = {"batch": len(data), "new": new, "past": self._past}
        for step in self._matmuls:
            x = self._array(evaluate(step.x_shape, sizes))
            w = self._weights.get(step.name)
            w = self._array(evaluate(step.w_shape, sizes)) if w is None else w
            np.matmul(x, np.swapaxes(w, -1, -2))
        self._past += new

    def _stored(self, step: OpticalMatmul) -> np.ndarray:
        array = self.job.model.weights[step.w]
        array = array.reshape(len(array), -1) if array.ndim > 2 else array
        return array.T if step.transposed else array

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        if shape not in self.arrays:
            chance = np.random.Generator(np.random.Philox(1))
            self.arrays[shape] = chance.standard_normal(shape, dtype=np.float32)
        return self.arrays[shape]


def bench_of(backend: Backend) -> Bench | None:
    """Return the bench of a backend; None where it has none, or several."""
    benches = [one.bench for one in backend.benches.values()]
    return benches[0] if len(benches) == 1 else None
