"""`run_plan`: runs the task of a plan on its backend, and digitally for comparison.

The tasks are to classify images, to compute a perplexity, to generate text, and to embed or
classify sentences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends import Backend
from ...instruments import InputError, Timeline
from ...instruments.formatting import format_counted, format_quantity
from ..costs import BenchModel
from ..energy.machine import memory_bytes
from ..program import evaluate
from .plan_record import PlanRecord
from .report import Run, bench_seconds

if TYPE_CHECKING:
    from ..journal.journal import Journal

Progress = Callable[[str, int, int], None]
"""Reports progress: called with (what, done, total)."""

Tell = Callable[[int, int], None]
"""Reports progress of a task: called with (done, total)."""

OnText = Callable[[str], None]
"""Receives the text of each token while a run generates it, never that of its reference."""

Results = dict[str, Any]
"""The results of a task by name."""

Sides = Mapping[str, Results | None]
"""The results of the run, "optical" or "digital", and those of its reference, "digital"."""

_TOKEN_TIMES = ("time_to_first_token_s", "tokens_per_second")


@dataclass(frozen=True)
class TextOptions:
    """How a run generates text.

    Parameters
    ----------
    sampling : temperature, top_k, top_p, seed
    on_text : called with the text of each token; None shows nothing while it runs
    """

    sampling: Mapping[str, Any]
    on_text: OnText | None = None


def run_plan(
    plan: PlanRecord,
    inputs: Any,
    labels: Any,
    progress: Progress | None,
    reference: bool,
    timeline: Timeline | None,
    options: TextOptions,
    journal: Journal | None = None,
) -> Run:
    """Run a plan's task on its backend, and digitally for comparison; see `Plan.run`."""
    model, backend = plan.model, plan.backend
    if plan.task == "classify":
        _check_images(plan, inputs, labels)
    elif plan.task == "outputs":
        _check_arrays(plan, inputs)
    executor = model.executor(backend, plan.chosen)
    executor.records.clear()
    memory = memory_bytes()
    if memory is not None and plan.memory_bytes > memory:
        raise InputError(
            f"this run needs about {format_quantity(plan.memory_bytes, 'B')} for weights and "
            f"operands, and this machine has {format_quantity(memory, 'B')}; give a "
            "smaller batch or sequence"
        )
    progress = progress or (lambda what, done, total: None)
    progress("preparing the backend", 0, 1)
    backend.prepare_loops(_multiplications(plan, inputs))
    backend.warm_up()
    progress("calibrating read-out ranges", 0, 1)
    model.calibrate(executor)
    if not backend.is_optical:
        _prepare_digital(plan, backend)
    task = _TASKS[plan.task]
    backend.timeline, executor.journal = timeline, journal
    before = 0.0 if journal is None else journal.seconds_before
    start = time.perf_counter()
    try:
        tell = partial(progress, f"{backend.name} run")
        results, count, unit = task(plan, inputs, backend, tell, options)
    finally:
        backend.timeline = executor.journal = None
    wall = before + time.perf_counter() - start
    digital, reference_seconds = None if backend.is_optical else results, None
    if reference and backend.is_optical:
        digital, reference_seconds = _reference(plan, inputs, progress, options)
    sides = {"digital": digital, "optical": results if backend.is_optical else None}
    generation = _generation(sides, is_resumed=bool(before))
    quality = _quality(plan.task, sides, labels)
    records = list(executor.records.values())
    bench = bench_seconds(records, BenchModel.of(backend)) if backend.is_optical else None
    throughput = {
        "unit": f"{unit} per second",
        "here": count / wall if wall else 0.0,
        "bench": count / bench if bench else None,
    }
    return Run(
        plan, _plain(results), quality, throughput, records, wall, reference_seconds, generation
    )


def _reference(
    plan: PlanRecord, inputs: Any, progress: Progress, options: TextOptions
) -> tuple[Results, float]:
    """Return the results of the task computed digitally, and the seconds that it took."""
    progress("preparing the digital reference", 0, 1)
    _prepare_digital(plan, None)
    start = time.perf_counter()
    tell = partial(progress, "digital reference")
    results, *_ = _TASKS[plan.task](plan, inputs, None, tell, replace(options, on_text=None))
    return results, time.perf_counter() - start


def _prepare_digital(plan: PlanRecord, backend: Backend | None) -> None:
    """Prepare the weights of a text's model by a short pass, as calibration does for light.

    Else the first token would seem to take as long as reading the weights does.
    """
    if plan.task == "generate":
        executor = plan.model.executor(backend, plan.chosen)
        few = [0] * min(2, plan.model.config.context)  # one row would leave products of many cold
        plan.model.run_pass(executor, "last", [few])
        executor.records.clear()


def _multiplications(plan: PlanRecord, inputs: Any) -> int:
    """Return about how many multiplications a run sends to light, its calibration included."""
    passes = 1.0
    if plan.task == "classify":
        passes = len(inputs) / plan.passes[0][0]["batch"]
    elif plan.task == "logits":
        tokens = len(inputs) / 4 if isinstance(inputs, str) else np.size(inputs)
        passes = tokens / plan.units
    elif plan.task == "outputs":
        passes = len(next(iter(inputs.values()))) / plan.passes[0][0]["batch"]
    elif plan.task in ("embed", "label"):
        passes = len(inputs)
    planned = sum(step.macs for step in plan.steps if step.where == "optical")
    calibration = plan.model.parameters * (1 << 10 if plan.backend.needs_ranges else 0)
    return int(planned * passes) + calibration


def _check_images(plan: PlanRecord, images: Any, labels: Any) -> None:
    """Refuse images that are none, and labels that do not fit the images or the classes."""
    if np.ndim(images) == 0:
        raise InputError(f"{images!r} is not an array of images [n, channels, height, width]")
    if not len(images):
        raise InputError("there are no images to classify")
    if labels is None:
        return
    truth = np.asarray(labels)
    if truth.shape != (len(images),):
        count = format_counted(len(images), "image")
        raise InputError(f"labels of shape {truth.shape} do not fit {count}")
    program = plan.model.whole_program
    classes = evaluate(program.shapes[program.outputs[0]], plan.passes[0][0])[-1]
    unknown = truth[~np.isin(truth, np.arange(classes))]
    if unknown.size:
        raise InputError(
            f"the label {unknown[0]} is not one of the {classes} classes of {plan.model.name!r}, "
            f"0 to {classes - 1}"
        )


def _check_arrays(plan: PlanRecord, inputs: Any) -> None:
    """Refuse inputs that are no arrays by name with equally many rows, as the program needs."""
    names = [name for name in plan.program.inputs if name != "past"]
    if not isinstance(inputs, Mapping) or set(inputs) != set(names):
        raise InputError(f"{plan.model.name!r} takes arrays by name: give {', '.join(names)}")
    counts = {name: len(np.atleast_1d(value)) for name, value in inputs.items()}
    rows, step = next(iter(counts.values())), plan.passes[0][0]["batch"]
    if len(set(counts.values())) > 1 or not rows:
        raise InputError(f"the inputs have {counts} rows; give equally many, at least one")
    if plan.model.fixed_sizes is not None and rows % step:
        raise InputError(
            f"{rows} rows are no multiple of {step}, the batch that the program of "
            f"{plan.model.name!r} serves"
        )


def _generation(sides: Sides, is_resumed: bool) -> dict[str, Any] | None:
    """Take from the results how fast each side generated its text; None for other tasks."""
    found: dict[str, Any] = {
        side: None if results is None else results.pop("generation", None)
        for side, results in sides.items()
    }
    if not any(found.values()):
        return None
    if is_resumed:  # its first tokens came in an earlier session
        side = "digital" if sides["optical"] is None else "optical"
        found[side].update(dict.fromkeys(_TOKEN_TIMES))
    return found


def _quality(task: str, sides: Sides, labels: Any) -> dict[str, Any]:
    """Compare the run with the digital reference: {metric, digital, optical}."""
    metric, value = _metric(task, sides["digital"], labels)
    figures = {side: None if found is None else value(found) for side, found in sides.items()}
    return {"metric": metric, **figures}


def _metric(
    task: str, digital: Results | None, labels: Any
) -> tuple[str, Callable[[Results], float | str | None]]:
    """Return the name of a task's metric, and its value for results; None without a reference."""
    if task == "classify" and labels is not None:
        truth = np.asarray(labels)
        return "accuracy", lambda r: float(np.mean(r["classes"] == truth))
    if task == "generate":
        return "text", lambda r: str(r["text"])
    if task == "logits":
        return "perplexity", lambda r: float(r["perplexity"])
    if task == "outputs":
        return "relative error", lambda r: _relative_error(r, digital)
    has_classes = task in ("classify", "label")
    name = "agreement with digital" if has_classes else "cosine similarity to digital"
    if digital is None:
        return name, lambda r: None
    if has_classes:
        return name, lambda r: float(np.mean(r["classes"] == digital["classes"]))
    vectors = digital["embeddings"]
    return name, lambda r: float(np.einsum("nd,nd->n", r["embeddings"], vectors).mean())


def _relative_error(results: Results, digital: Results | None) -> float | None:
    """Return the norm of the difference from the digital outputs, over their norm."""
    if digital is None or results is digital:
        return None
    exact = digital["outputs"]
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(results["outputs"] - exact)) / max(norm, 1e-30)


def _plain(results: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in results.items()}


# --- tasks ----------------------------------------------------------------------------------------


def _classify(
    plan: PlanRecord, images: Any, backend: Backend | None, tell: Tell, _: TextOptions
) -> tuple[dict[str, Any], int, str]:
    """Classify images [n, channels, height, width], batch by batch."""
    images = np.asarray(images)
    executor = plan.model.executor(backend, plan.chosen)
    step = max(1, plan.passes[0][0]["batch"])
    logits = []
    for first in range(0, len(images), step):
        tell(first, len(images))
        part = images[first : first + step]
        sequences = np.arange(first, first + len(part))
        logits.append(plan.model.run_pass(executor, "logits", part, sequences=sequences))
    tell(len(images), len(images))
    return {"classes": np.concatenate(logits).argmax(axis=1)}, len(images), "images"


def _perplexity(
    plan: PlanRecord, text: Any, backend: Backend | None, tell: Tell, _: TextOptions
) -> tuple[dict[str, Any], int, str]:
    """Return the perplexity of a text, or of tokens [n, sequence]."""
    tokens = plan.model.rows_of(text) if isinstance(text, str) else np.asarray(text)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tell(done, len(tokens))

    value = plan.model.perplexity(tokens, backend, plan.chosen, count)
    return {"perplexity": value}, int(tokens.size), "tokens"


def _generate(
    plan: PlanRecord, prompt: Any, backend: Backend | None, tell: Tell, options: TextOptions
) -> tuple[dict[str, Any], int, str]:
    """Continue a prompt by as many tokens as the plan has, and measure when they come."""
    wanted = 1 + sum(times for _, times in plan.passes[1:])
    tell(0, wanted)
    texts, times = list[str](), [time.perf_counter()]
    for text in plan.model.generate(
        prompt, wanted, backend=backend, placement=plan.chosen, **options.sampling
    ):
        times.append(time.perf_counter())
        texts.append(text)
        if options.on_text is not None:
            options.on_text(text)
        tell(len(texts), wanted)
    tell(wanted, wanted)
    first_s = times[1] - times[0] if texts else None
    rate = (len(texts) - 1) / (times[-1] - times[1]) if texts[1:] else None  # after the first
    generation = {"tokens": len(texts)} | dict(zip(_TOKEN_TIMES, (first_s, rate), strict=True))
    return {"text": "".join(texts), "generation": generation}, len(texts), "tokens"


def _embed(
    plan: PlanRecord, sentences: Any, backend: Backend | None, tell: Tell, _: TextOptions
) -> tuple[dict[str, Any], int, str]:
    """Embed sentences, and compare each pair."""
    tell(0, len(sentences))
    vectors = plan.model.embed(list(sentences), backend, plan.chosen)
    tell(len(sentences), len(sentences))
    results = {"embeddings": vectors, "cosine_similarity": vectors @ vectors.T}
    return results, len(sentences), "sentences"


def _label(
    plan: PlanRecord, sentences: Any, backend: Backend | None, tell: Tell, _: TextOptions
) -> tuple[dict[str, Any], int, str]:
    """Classify sentences, or their tokens one sentence after another."""
    tell(0, len(sentences))
    found = plan.model.classify(list(sentences), backend, plan.chosen)
    tell(len(sentences), len(sentences))
    classes = np.concatenate([np.atleast_1d(each) for each in found])
    labels = [[plan.model.class_name(int(c)) for c in np.atleast_1d(each)] for each in found]
    return {"classes": classes, "labels": labels}, len(sentences), "sentences"


def _outputs(
    plan: PlanRecord, inputs: Any, backend: Backend | None, tell: Tell, _: TextOptions
) -> tuple[dict[str, Any], int, str]:
    """Compute the outputs of arrays by name [n, ...], batch by batch."""
    executor = plan.model.executor(backend, plan.chosen)
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    rows, step = len(next(iter(arrays.values()))), plan.passes[0][0]["batch"]
    found = []
    for first in range(0, rows, step):
        tell(first, rows)
        part = {name: array[first : first + step] for name, array in arrays.items()}
        sequences = np.arange(first, min(first + step, rows))
        found.append(plan.model.run_pass(executor, "logits", part, sequences=sequences))
    tell(rows, rows)
    return {"outputs": np.concatenate(found)}, rows, "rows"


_TASKS = {
    "classify": _classify,
    "embed": _embed,
    "generate": _generate,
    "label": _label,
    "logits": _perplexity,
    "outputs": _outputs,
}
"""Each returns its results, the number of units that it processed, and the name of the unit."""
