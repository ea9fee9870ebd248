"""Time a model stage by stage, beside plain digital arithmetic.

Contenders take turns in one process, round after round, on the same inputs: a busy machine disturbs
all alike, and every round gives a ratio to numpy. `measure` returns the document that `lightloom
benchmark` shows, stores and compares (`comparison`). Not here: printing and judging.
"""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ..backends import Backend, DigitalBackend, Stats, mock_path
from ..backends.bench.bench import Bench
from ..instruments import InputError
from ..instruments.environment import thread_count
from ..instruments.formatting import format_quantity
from ..instruments.version import version_of
from ..models import Cache, Model
from ..models.shapes import sized_model, with_random_weights
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
from .baselines import OnnxruntimeBackend, TorchProgram, missing

SCHEMA = 1
KIND = "lightloom benchmark"
NUMPY = "numpy"
BARE = "numpy, products alone"
AXES = ("batch", "sequence", "width", "rows", "length", "frame_rate")
PREDICTED_AXES = ("rows", "length", "frame_rate")  # of a profile: nothing is run for them
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
_SAME = 1e-3  # of the largest result: allowed difference of a baseline from numpy
_DEPTH = 12  # layers of a width without a model

Tell = Callable[[str, int, int], None]


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
    first: np.ndarray
    later: tuple[np.ndarray, ...]

    @property
    def ending(self) -> str:
        """The ending of the program that is run."""
        if self.new_tokens:
            return "last"
        return "sentence" if self.model.task == "encoder" else "logits"

    @property
    def unit(self) -> str:
        """The unit that is counted: token or image."""
        return "image" if self.model.task == "vision" else "token"

    @property
    def phases(self) -> dict[str, tuple[tuple[np.ndarray, ...], int]]:
        """Phases of a round: name -> (inputs of each pass, tokens or images in all)."""
        count = self.batch if self.unit == "image" else self.first.size
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
                new = self.sequence if self.unit == "image" else data.shape[1]
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
    first: np.ndarray
    if model.task == "vision":
        shape = (batch, config.channels, config.image, config.image)
        first = chance.standard_normal(shape, dtype=np.float32)
    else:
        first = chance.integers(0, config.vocabulary, (batch, sizes["new"]))
    later = tuple(
        chance.integers(0, config.vocabulary, (batch, 1)) for _ in range(max(new_tokens - 1, 0))
    )
    return Job(model, batch, sizes["new"], new_tokens, placement, first, later)


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


class Contender(Protocol):
    """Implementation that runs a job and reports the times of each phase.

    Attributes
    ----------
    bench : that its products run on; None without one
    """

    name: str
    what: str
    job: Job
    bench: Bench | None
    is_mock: bool

    def round(self) -> dict[str, Sample]:
        """Run the job once, and return phase -> its sample."""

    def result(self) -> np.ndarray | None:
        """Return the result of the first pass, to be compared with numpy's."""


class Lightloom:
    """Contender: lightloom on a backend, optical, digital, or with another library's products."""

    def __init__(self, name: str, what: str, job: Job, backend: Backend, placement: str) -> None:
        self.name, self.what, self.job, self.backend = name, what, job, backend
        chosen: str | Placement = placement
        if placement not in FIXED:  # decided for all passes, as in a prediction
            sizes = (job.batch, job.sequence, job.new_tokens)
            chosen = plan(job.model, backend, *sizes, placement).chosen
        self._executor: Executor = job.model.executor(backend, chosen)
        self._spent = _watched(backend)
        self.bench, self.is_mock = _bench_of(backend), backend.is_mock

    def result(self) -> np.ndarray | None:
        """Return the result of the first pass."""
        self.backend.warm_up()
        self.job.model.calibrate(self._executor)
        return self.job.model.run_pass(self._executor, self.job.ending, self.job.first)

    def round(self) -> dict[str, Sample]:
        """Run the job once."""
        model, executor, ending = self.job.model, self._executor, self.job.ending
        cache = Cache() if self.job.later else None
        found = {}
        for phase, (inputs, _) in self.job.phases.items():
            executor.records.clear()
            self._spent[0] = 0.0
            began_s = self.bench.clock.now_s() if self.bench else 0.0
            seconds, cpu_s = _clocked(
                partial(model.run_pass, executor, ending, cache=cache), inputs
            )
            bench_s = self.bench.clock.now_s() - began_s if self.bench else None
            found[phase] = self._sample(seconds, cpu_s, bench_s, list(executor.records.values()))
        return found

    def _sample(
        self, seconds: float, cpu_s: float, bench_s: float | None, records: Sequence[StepRecord]
    ) -> Sample:
        stages: dict[tuple[str, str], float] = {}
        stats = Stats()
        rest = seconds - self._spent[0]

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
        return Sample(seconds, cpu_s, stages, rest if is_known else None, bench_s, counts)


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


class Torch:
    """Contender: the model's program in torch."""

    name = "torch"
    what = "the same program in torch, biases and attention fused"
    bench: Bench | None = None
    is_mock = False

    def __init__(self, job: Job) -> None:
        self.job = job
        self._program = TorchProgram(job.model, job.ending)

    def result(self) -> np.ndarray | None:
        """Return the result of the first pass."""
        self._program.begin()
        return self._program.run(self.job.first)

    def round(self) -> dict[str, Sample]:
        """Run the job once."""
        self._program.begin()
        return _timed(self.job, self._program.run)


class BareProducts:
    """Contender: the products of the program alone, in numpy, without code of lightloom."""

    name = BARE
    what = "float32 np.matmul of the same shapes, no host step"
    bench: Bench | None = None
    is_mock = False

    def __init__(self, job: Job) -> None:
        self.job, self._past = job, 0
        self.arrays: dict[tuple[int, ...], np.ndarray] = {}
        self._matmuls = job.model.program(job.ending).matmuls
        self._weights = {m.name: self._stored(m) for m in self._matmuls if not m.dynamic}

    def result(self) -> np.ndarray | None:
        """Draw the operands, and return None: there is no result to compare."""
        self.round()
        return None

    def round(self) -> dict[str, Sample]:
        """Multiply once."""
        self._past = 0
        return _timed(self.job, self._run)

    def _run(self, data: np.ndarray) -> None:
        new = self.job.sequence if data.ndim == 4 else data.shape[1]
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


def _timed(job: Job, run: Callable[[np.ndarray], Any]) -> dict[str, Sample]:
    return {phase: Sample(*_clocked(run, inputs), {}) for phase, (inputs, _) in job.phases.items()}


def _clocked(run: Callable[[np.ndarray], Any], inputs: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the seconds of inputs, by the clock and of the processor."""
    start, start_cpu = time.perf_counter(), time.process_time()
    for data in inputs:
        run(data)
    return time.perf_counter() - start, time.process_time() - start_cpu


def _baselines(job: Job, *, with_peers: bool) -> tuple[list[Contender], list[str]]:
    """Return the digital baselines, and a sentence on each that cannot be timed."""
    what = "lightloom's digital backend: float32, numpy"
    found: list[Contender] = [Lightloom(NUMPY, what, job, DigitalBackend(), job.placement)]
    if not with_peers:
        return found, []
    found.append(BareProducts(job))
    absent = []
    for package in ("torch", "onnxruntime"):
        reason = missing(package)
        if reason is not None:
            absent.append(reason)
        elif package == "torch":
            try:
                found.append(Torch(job))
            except NotImplementedError as error:
                absent.append(f"torch is not timed: {error}")
        else:
            what = "float32 MatMul of onnxruntime, host steps of lightloom"
            backend = OnnxruntimeBackend()
            found.append(Lightloom("onnxruntime", what, job, backend, "all-optical"))
    return found, absent


# ------------------------------------------------------------------------------- points


@dataclass(frozen=True)
class BenchmarkPoint:
    """One job with its backends: the job itself, or one value of an axis."""

    axis: str | None
    value: float | None
    job: Job
    backends: Sequence[Backend]
    runs: bool


def points_of(
    job: Job,
    backends: Sequence[Backend],
    axes: Mapping[str, Sequence[float]],
    depth: int = _DEPTH,
    seed: int = 0,
) -> Iterator[BenchmarkPoint]:
    """Return the job itself, then the values of every axis.

    Raises
    ------
    InputError : for values that the model or a profile cannot take
    """
    yield BenchmarkPoint(None, None, job, backends, True)
    for axis, values in axes.items():
        for value in values:
            yield _point(axis, value, job, backends, depth, seed)


def _point(
    axis: str, value: float, job: Job, backends: Sequence[Backend], depth: int, seed: int
) -> BenchmarkPoint:
    if axis in PREDICTED_AXES:
        changed = [_with_profile(backend, axis, value) for backend in backends]
        return BenchmarkPoint(axis, value, job, changed, False)
    sizes = {"batch": job.batch, "sequence": job.sequence}
    model = job.model
    if axis == "width":
        model = runnable(benchmark_shape(int(value), depth, job.sequence + job.new_tokens), seed)
    else:
        sizes[axis] = int(value)
    made = make_job(model, **sizes, new_tokens=job.new_tokens, placement=job.placement, seed=seed)
    return BenchmarkPoint(axis, value, made, backends, True)


def benchmark_shape(width: int, depth: int = _DEPTH, tokens: int = 0) -> Model:
    """Return the shape of a GPT-2 of a width, with a context of at least 1,024 tokens."""
    return sized_model(width, depth, context=max(1024, tokens))


def _with_profile(backend: Backend, axis: str, value: float) -> Backend:
    settings: dict[str, float] = {axis: int(value)}
    if axis == "frame_rate":
        settings = {"input_refresh_s": 1.0 / value, "weight_refresh_s": 1.0 / value}
    changed = backend.with_settings(settings)
    if changed is None:
        raise InputError(
            f"--scale {axis} changes a profile: it needs --backend mock, not {backend.name}"
        )
    return changed


# ------------------------------------------------------------------------------ measuring


def outline(points: Sequence[BenchmarkPoint], repeats: int) -> dict[str, Any]:
    """Return the document without times, before anything is measured."""
    named = [{name_of(b): fingerprint(b) for b in p.backends if b.is_optical} for p in points]
    return _head(points[0].job, repeats) | {
        "points": [
            _place(point)
            | {
                "contenders": [
                    {"name": name, "fingerprint": known, "phases": {}}
                    for name, known in prints.items()
                ]
            }
            for point, prints in zip(points, named, strict=True)
        ]
    }


def measure(
    points: Sequence[BenchmarkPoint], repeats: int, tell: Tell = lambda what, done, total: None
) -> dict[str, Any]:
    """Let all contenders of all points take turns, and return the document of their times.

    Parameters
    ----------
    repeats : rounds, after one to warm up
    tell : called with (what, done, total)

    Raises
    ------
    InputError : when a baseline's results differ from numpy's
    """
    taking_part: list[list[Contender]] = []
    absent: list[str] = []
    for number, point in enumerate(points):
        tell("preparing", number, len(points))
        present, missed = _baselines(point.job, with_peers=not number) if point.runs else ([], [])
        taking_part.append([*_on_light(point), *present] if point.runs else [])
        absent += missed
        _check(taking_part[-1])
    everyone = [contender for some in taking_part for contender in some]
    samples: dict[int, list[dict[str, Sample]]] = {id(contender): [] for contender in everyone}
    for turn in range(repeats + 1):
        tell("rounds", turn, repeats + 1)
        for contender in everyone:
            sample = contender.round()
            if turn:  # the first one warms up
                samples[id(contender)].append(sample)
    tell("rounds", repeats + 1, repeats + 1)
    return _head(points[0].job, repeats) | {
        "not_timed": absent,
        "points": [
            _described(point, some, samples)
            for point, some in zip(points, taking_part, strict=True)
        ],
    }


def _on_light(point: BenchmarkPoint) -> list[Contender]:
    job = point.job
    return [
        Lightloom(name_of(b), _what(b), job, b, job.placement)
        for b in point.backends
        if b.is_optical
    ]


def _bench_of(backend: Backend) -> Bench | None:
    """Return the bench of a backend; None where it has none, or several."""
    benches = [one.bench for one in backend.benches.values()]
    return benches[0] if len(benches) == 1 else None


def name_of(backend: Backend) -> str:
    """Return the name of a backend without a path: "mock slm-camera", "bench line.toml"."""
    if not backend.is_optical:
        return NUMPY
    bench = _bench_of(backend)
    return f"{backend.name} {Path(bench.path if bench else backend.profile.name).name}"


def _what(backend: Backend) -> str:
    title = "" if _bench_of(backend) else backend.profile.title
    return title or "the instruments of a bench file"


def _check(contenders: Sequence[Contender]) -> None:
    """Prepare all contenders, and refuse a baseline with other results."""
    results = {contender.name: contender.result() for contender in contenders}
    for name in ("torch", "onnxruntime"):
        found, wanted = results.get(name), results.get(NUMPY)
        if found is None or wanted is None:
            continue
        off = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        if not off <= _SAME:
            raise InputError(
                f"{name} gives results that differ from numpy's by {off:.2g} of the largest: it "
                "is not a baseline for this model; remove it, or file this as a bug"
            )


def _described(
    point: BenchmarkPoint,
    contenders: Sequence[Contender],
    samples: Mapping[int, list[dict[str, Sample]]],
) -> dict[str, Any]:
    job = point.job
    predicted = {name_of(b): _predicted(job, b) for b in point.backends if b.is_optical}
    fingerprints = {name_of(b): fingerprint(b) for b in point.backends if b.is_optical}
    entries = []
    for contender in contenders:
        rounds = samples[id(contender)]
        is_light = contender.name in fingerprints
        phases = {
            phase: _phase([r[phase] for r in rounds], count)
            | {
                "macs": job.macs(phase),
                "predicted_s": predicted.get(contender.name, {}).get(phase),
            }
            for phase, (_, count) in job.phases.items()
        }
        entry = {
            "name": contender.name,
            "what": contender.what,
            "is_baseline": not is_light,
            "is_mock": contender.is_mock,
            "fingerprint": fingerprints.get(contender.name),
            "phases": phases,
        }
        bench = contender.bench
        if bench is not None:
            entry["clock"] = "virtual" if bench.clock.is_virtual else "real"
            for phase in phases.values():
                phase["devices"] = device_use(bench, phase)
        entries.append(entry)
    if not point.runs:
        for name, seconds in predicted.items():
            phases = {
                phase: {"units": count, "seconds": [], "predicted_s": seconds[phase]}
                for phase, (_, count) in job.phases.items()
            }
            entries.append({"name": name, "fingerprint": fingerprints[name], "phases": phases})
    return _place(point) | {"contenders": entries}


def _place(point: BenchmarkPoint) -> dict[str, Any]:
    sizes = {name: getattr(point.job, name) for name in ("batch", "sequence", "new_tokens")}
    return {"axis": point.axis, "value": point.value, "sizes": sizes}


def _phase(samples: Sequence[Sample], units: int) -> dict[str, Any]:
    """Return every sample of a phase, and the counts of one round."""
    stages = dict.fromkeys(key for sample in samples for key in sample.stages)
    seconds = [sample.seconds for sample in samples]
    result: dict[str, Any] = {
        "units": units,
        "seconds": seconds,
        "cpu_s": [sample.cpu_s for sample in samples],
        "median_s": float(np.median(seconds)),
        "quartiles_s": [float(q) for q in np.percentile(seconds, (25, 75))],
        "units_per_s": units / float(np.median(seconds)),
        "stages": [
            {"kind": kind, "where": where, "seconds": [s.stages[kind, where] for s in samples]}
            for kind, where in stages
        ],
        "overhead_s": None,
        "bench_s": None,
        "counts": samples[-1].counts,
    }
    for key in ("overhead_s", "bench_s"):
        values = [getattr(sample, key) for sample in samples]
        if all(value is not None for value in values) and samples[0].stages:
            result[key] = values
    return result


def _predicted(job: Job, backend: Backend) -> dict[str, float]:
    """Return the seconds of each phase on the bench of a backend's profile."""
    sizes = (job.model, backend, job.batch, job.sequence)
    whole = plan(*sizes, job.new_tokens, job.placement)
    if not job.later:
        return {next(iter(job.phases)): whole.seconds}
    first = plan(*sizes, 1, whole.chosen).seconds
    return {"prefill": first, "decode": whole.seconds - first}


def device_use(bench: Bench, phase: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the utilisation of each device of a bench, against its own limit.

    Parameters
    ----------
    phase : of `Sample`s: `counts` of one round, and `bench_s` of each

    Returns
    -------
    device, busy_with, per_s (events in a second of the bench), limit_per_s (the most that the
    device can do; None where unknown), share (of that)
    """
    counts, seconds = phase["counts"], phase["bench_s"]
    if not counts or not seconds or not min(seconds) > 0:
        return []
    took_s, file = float(np.median(seconds)), bench.file
    rows = []

    def add(device: str, busy_with: str, count: float, limit_per_s: float | None) -> None:
        share = None if limit_per_s is None else count / took_s / limit_per_s
        rows.append(
            {
                "device": device,
                "busy_with": busy_with,
                "per_s": count / took_s,
                "limit_per_s": limit_per_s,
                "share": share,
            }
        )

    for role in ("input", "weight"):
        period_s = bench.instruments[role].refresh_period_s  # type: ignore[attr-defined]
        limit = 1 / period_s if period_s else None
        add(f"{role} modulator", "frames", counts[f"{role}_frames"], limit)
    for device, busy_with, per_shot, limit_per_s in bench.detector.loads():
        add(device, busy_with, counts["shots"] * per_shot, limit_per_s)
    add("source", "light that is used", counts["shots"], 1 / file.exposure_s)
    return rows


# -------------------------------------------------------------------------- the machine


def _head(job: Job, repeats: int) -> dict[str, Any]:
    model = job.model
    packages = ("lightloom", "numpy", "numba", "onnxruntime", "torch")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "versions": {"python": platform.python_version()}
        | {name: version for name in packages if (version := version_of(name)) is not None}
        | {"blas": f"{blas['name']} {blas['version']}"},
        "machine": machine(),
        "mock_path": mock_path(),
        "model": {"name": model.name, "parameters": model.parameters, "unit": job.unit},
        "placement": job.placement,
        "repeats": repeats,
    }


def machine() -> dict[str, Any]:
    """Return the machine of a measurement, without names of hosts or people."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": thread_count(),
    }


def fingerprint(backend: Backend) -> str:
    """Return a digest of all constants of a backend's bench; equal ones measure the same."""
    bench = _bench_of(backend)
    if bench is not None:  # its profile follows from its calibration, which may be repeated
        constants = bench.file.model_dump_json(exclude={"calibration"})
    else:
        constants = backend.profile.model_dump_json(exclude={"sources", "years", "name", "title"})
    return hashlib.sha256(constants.encode()).hexdigest()[:12]
