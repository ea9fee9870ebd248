"""Tasks of a sweep for `scheduler.cluster`: its points, and what several points share.

Each working thread loads a model once. The digital reference of a model, and the read-out ranges of
a profile (which do not depend on the light), are tasks of their own, so that they are computed once
and passed on.
"""

import math
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import MockBackend, OpticsProfile, Ranges
from ..models import Model, load_model
from ..scheduler import SCOPES
from ..scheduler.runs import Plan, plan

_IMAGES_AT_ONCE = 64
_thread = threading.local()


@dataclass(frozen=True)
class SweepPoint:
    """One combination of a sweep.

    Parameters
    ----------
    settings : changed fields, which `profile` already has
    """

    name: str
    model: str
    profile_name: str
    settings: Mapping[str, Any]
    seed: int
    placement: str
    profile: OpticsProfile


@dataclass(frozen=True)
class Inputs:
    """Inputs of a model: images [n, channels, height, width], tokens [n, sequence] or sentences.

    Parameters
    ----------
    labels : of images, for the accuracy
    """

    values: Any
    labels: Any = None


@dataclass(frozen=True)
class Reference:
    """Results of the digital run of one model on its inputs."""

    inputs: Inputs
    results: Mapping[str, Any]
    metric: str
    quality: float | None
    here: float
    remarks: tuple[str, ...]


_COMPARED = ("classes", "embeddings")  # results that `_likeness` compares


def reference(sweep: str, model: str, inputs: Inputs) -> Reference:
    """Run a model digitally, and return its results.

    Parameters
    ----------
    sweep : identifier of this call of the sweep; models stay loaded while it is the same
    """
    opened = _model(sweep, model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        run = _plan(opened, "digital", inputs, "host").run(inputs.values, inputs.labels)
    return Reference(
        inputs,
        {key: np.asarray(run.results[key]) for key in _COMPARED if key in run.results},
        run.quality["metric"],
        _finite(run.quality["digital"]),
        run.throughput["here"],
        tuple(dict.fromkeys(str(warning.message) for warning in caught)),
    )


def ranges(sweep: str, point: SweepPoint) -> dict[str, Ranges]:
    """Return the read-out ranges of a point; they do not depend on its light and seed."""
    model, backend = _model(sweep, point.model), MockBackend(point.profile)
    try:
        executor = model.executor(backend, point.placement)
        model.calibrate(executor)
        return executor.ranges
    finally:
        model.release(backend)


def run_point(
    sweep: str, point: SweepPoint, beside: Reference, known: dict[str, Ranges]
) -> dict[str, Any]:
    """Run a point on the mock, and return its record for JSON."""
    model, backend = _model(sweep, point.model), MockBackend(point.profile, point.seed)
    try:
        model.executor(backend, point.placement).ranges = known
        planned = _plan(model, backend, beside.inputs, point.placement)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the reference has them
            run = planned.run(beside.inputs.values, beside.inputs.labels, reference=False)
        report, account = run.report(), run.energy()
    finally:
        model.release(backend)
    optical = run.quality["optical"]
    return {
        "quality": {
            "metric": beside.metric,
            "digital": beside.quality,
            "optical": _finite(_likeness(run.results, beside) if optical is None else optical),
        },
        "throughput": {**run.throughput, "digital_here": beside.here},
        "stats": report.stats.as_dict(),
        "energy": {
            "unit": account.unit,
            "joules_per_token": {s: account.total(s) / account.tokens for s in SCOPES},
        },
        "seconds_here": run.wall_seconds,
        "remarks": [*beside.remarks, *report.remarks],
    }


def _plan(model: Model, backend: Any, inputs: Inputs, placement: str) -> Plan:
    if model.task == "vision":
        batch = min(len(inputs.values), _IMAGES_AT_ONCE)
        return plan(model, backend, batch, placement=placement)
    return plan(model, backend, placement=placement)


def _likeness(results: Mapping[str, Any], beside: Reference) -> float:
    """Return the similarity of results without labels to the digital ones."""
    if "classes" in results:
        return float(np.mean(np.asarray(results["classes"]) == beside.results["classes"]))
    pair = (np.asarray(results["embeddings"]), beside.results["embeddings"])
    return float(np.einsum("nd,nd->n", *pair).mean())


def _finite(value: float | None) -> float | None:
    """Return a number that JSON can hold, None for others."""
    return value if value is not None and math.isfinite(value) else None


def _model(sweep: str, name: str) -> Model:
    """Return a model of this sweep, loaded once in a thread."""
    if getattr(_thread, "sweep", None) != sweep:
        _thread.sweep, _thread.models = sweep, {}
    if name not in _thread.models:
        _thread.models[name] = load_model(name)
    model: Model = _thread.models[name]
    return model
