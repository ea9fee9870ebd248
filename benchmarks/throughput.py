"""Time a model stage by stage, beside plain digital arithmetic.

Contenders take turns in one process, round after round, on the same inputs: a busy machine disturbs
all alike, and every round gives a ratio to numpy. `measure` returns the document that `lightloom
benchmark` shows, stores and compares (`comparison`). Not here: printing and judging.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Backend, DigitalBackend, mock_path
from ..backends.bench.bench import Bench
from ..instruments import InputError
from ..instruments.environment import thread_count
from ..instruments.version import version_of
from ..models import Model
from ..models.shapes import sized_model
from ..scheduler.runs import plan
from .baselines import OnnxruntimeBackend, TorchProgram, missing
from .contenders import (
    NUMPY,
    BareProducts,
    Contender,
    Job,
    Lightloom,
    Sample,
    Torch,
    bench_of,
    make_job,
    runnable,
)

SCHEMA = 1
KIND = "lightloom benchmark"
AXES = ("batch", "sequence", "width", "rows", "length", "frame_rate")
PREDICTED_AXES = ("rows", "length", "frame_rate")  # of a profile: nothing is run for them
TORCH = "the same program in torch, biases and attention fused"
_SAME = 1e-3  # of the largest result: allowed difference of a baseline from numpy
_DEPTH = 12  # layers of a width without a model

Tell = Callable[[str, int, int], None]


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
                program = TorchProgram(job.model, job.ending)
                found.append(Torch("torch", TORCH, job, program))
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


def name_of(backend: Backend) -> str:
    """Return the name of a backend without a path: "mock slm-camera", "bench line.toml"."""
    if not backend.is_optical:
        return NUMPY
    bench = bench_of(backend)
    return f"{backend.name} {Path(bench.path if bench else backend.profile.name).name}"


def _what(backend: Backend) -> str:
    title = "" if bench_of(backend) else backend.profile.title
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
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "versions": versions(),
        "machine": machine(),
        "mock_path": mock_path(),
        "model": {"name": model.name, "parameters": model.parameters, "unit": job.unit},
        "placement": job.placement,
        "repeats": repeats,
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes, by name."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    found = {"python": platform.python_version()}
    for name in ("lightloom", "numpy", "numba", "onnxruntime", "torch", "aihwkit", "analogvnn"):
        version = version_of(name)
        if version is not None:
            found[name] = version
    return found | {"blas": f"{blas['name']} {blas['version']}"}


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
    bench = bench_of(backend)
    if bench is not None:  # its profile follows from its calibration, which may be repeated
        constants = bench.file.model_dump_json(exclude={"calibration"})
    else:
        constants = backend.profile.model_dump_json(exclude={"sources", "years", "name", "title"})
    return hashlib.sha256(constants.encode()).hexdigest()[:12]
