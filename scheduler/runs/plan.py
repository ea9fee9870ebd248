"""`plan` and `run`: what a model would take on a backend, and what it took.

A plan touches no instrument: it is the program, the placement and the tiles for one bench profile.
A run executes it, beside the digital reference, and ends in a `Report`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends import Backend, DigitalBackend, OpticsProfile, Stats, open_backend
from ...instruments import InputError, Timeline
from ...models.model import Model
from .. import (
    DEFAULT_POLICY,
    Account,
    Baseline,
    BenchModel,
    Executor,
    HostModel,
    HostStep,
    MeasuredHost,
    OpticalMatmul,
    Placement,
    Prediction,
    Program,
    StepRecord,
    account_document,
    decide,
    evaluate,
    host_cost,
    is_fixed,
    memory_bytes,
    optical_cost,
    planned_events,
    predict,
    recorded_events,
    resolve,
    signature,
)

if TYPE_CHECKING:
    from ..journal.journal import Journal

SCHEMA = 1  # of the JSON documents of plans and reports
Progress = Callable[[str, int, int], None]

_ENDINGS = {
    "classify": "logits",
    "logits": "logits",
    "generate": "last",
    "embed": "sentence",
}


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan, as it would go to the bench; counts are upper bounds."""

    name: str
    kind: str
    where: str
    shapes: str
    macs: int
    operations: int
    tiles: int
    weight_frames: int
    shots: int
    conversions: int
    seconds: float
    decided_by: Mapping[str, Any] | None = None  # of a product: policy, rule, costs, and why


@dataclass(frozen=True)
class Plan:
    """A program placed and tiled for one bench profile.

    Parameters
    ----------
    placement : the policy by name, or the path of its rules; `decided` is what came of it
    passes : sizes of each forward pass and how often it runs
    host : what host steps take; None is what the profile says
    """

    model: Model
    backend: Backend
    bench: BenchModel
    placement: str
    task: str
    passes: tuple[tuple[dict[str, int], int], ...]
    steps: tuple[PlannedStep, ...]
    decided: Placement
    host: HostModel | None = None

    @property
    def chosen(self) -> str | Placement:
        """The placement that runs of this plan keep to, whatever their sizes."""
        return self.placement if is_fixed(self.placement) else self.decided

    @property
    def profile(self) -> OpticsProfile:
        """Constants of the bench."""
        return self.bench.profile

    @property
    def program(self) -> Program:
        """The steps of one pass."""
        return self.model.program(_ENDINGS[self.task])

    @property
    def on_light(self) -> frozenset[str]:
        """Names of the matmuls that go to light."""
        return frozenset(step.name for step in self.steps if step.where == "optical")

    @property
    def units(self) -> int:
        """Tokens, or images, that the passes take in."""
        return _units(self.model, self.passes)[0]

    @property
    def seconds(self) -> float:
        """Predicted seconds on the bench, host steps overlapped with light."""
        return self.prediction.seconds

    @property
    def memory_bytes(self) -> int:
        """Memory that weights and operands of the largest pass take on the host, in float32."""
        weights = sum(math.prod(shape) for shape in self.program.weight_shapes.values())
        return 4 * weights + max(self.program.peak_bytes(sizes) for sizes, _ in self.passes)

    @property
    def seconds_in_turn(self) -> float:
        """Predicted seconds of all steps one after another."""
        return sum(step.seconds for step in self.steps)

    @cached_property
    def prediction(self) -> Prediction:
        """What the bench would do."""
        return self.predict()

    def predict(self, timeline: Timeline | None = None) -> Prediction:
        """Simulate all passes, one after another.

        Parameters
        ----------
        timeline : where slices of the first pass go
        """
        total, program, light = Prediction(), self.program, self.on_light
        for sizes, times in self.passes:
            one = predict(program, light, sizes, self.bench, self.host, timeline=timeline)
            total, timeline = total.plus(one, times), None
        return total

    def energy(self, *constants: str, machines: Sequence[Baseline] = ()) -> Account:
        """Account for the energy of the plan; nothing is run.

        Parameters
        ----------
        constants : names or files of constant sets; a later one goes before an earlier one
        machines : baselines beside those of the sets

        Raises
        ------
        InputError : for a set that cannot be used
        """
        on_light = self.on_light
        steps = [(step, step.name in on_light) for step in self.program.steps]
        parts = planned_events(steps, self.passes, self.bench)
        known = resolve(self.profile, constants, machines)
        return Account(parts, known, self.profile, *_units(self.model, self.passes))

    def measured(self, repeats: int = 2) -> "Plan":
        """Return the same plan with this machine as its host: steps, and a bench's frames, timed.

        Host steps of the first pass are run digitally, on empty inputs.

        Raises
        ------
        InputError : when the model is a size without weights
        """
        sizes, model = self.passes[0][0], self.model
        rows = max(1, sizes["batch"] // self.prediction.micro_batches)
        if model.task == "vision":
            shape = self.program.shapes["images"][1:]
            inputs = np.zeros((rows, *evaluate(shape, sizes)), dtype=np.float32)
        else:
            inputs = np.zeros((rows, sizes["new"]), dtype=np.int64)
        for _ in range(repeats):  # the first one warms caches up
            executor = Executor(DigitalBackend(), model.weights, "host")
            model.run_pass(executor, _ENDINGS[self.task], inputs)
        steps = MeasuredHost(executor.records.values(), self.bench)
        from ...backends.bench import BenchBackend, measure_host

        if not isinstance(self.backend, BenchBackend):
            return replace(self, host=steps.model())
        found = measure_host(self.backend)
        bench = replace(self.bench, timing=found.timing)
        return replace(self, bench=bench, host=steps.model(found.feed, found.gather))

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {
            "schema": SCHEMA,
            "model": self.model.name,
            "backend": self.backend.name,
            "profile": self.profile.name,
            "placement": self.placement,
            "is_mock": self.backend.is_mock,
            "passes": [{**sizes, "times": times} for sizes, times in self.passes],
            "steps": [vars(step) for step in self.steps],
            "seconds_bench": self.seconds,
            "seconds_in_turn": self.seconds_in_turn,
            "micro_batches": self.prediction.micro_batches,
            "shots": self.prediction.shots,
            "frames": dict(self.prediction.frames),
            "utilisation": self.prediction.utilisation,
            "bottleneck": self.prediction.bottleneck,
            "memory_bytes": self.memory_bytes,
            "source": f"predicted from the profile {self.profile.name!r}; host steps "
            + ("as measured here" if self.host else "of its constants"),
        }

    def run(
        self,
        inputs: Any,
        labels: Any = None,
        progress: Progress | None = None,
        reference: bool = True,
        timeline: Timeline | None = None,
        record: str | Path | None = None,
        **sampling: Any,
    ) -> "Run":
        """Run the plan's task on inputs, on the backend and digitally beside it.

        Parameters
        ----------
        inputs : images [n, channels, height, width]; a text, or tokens [n, sequence]; a prompt
            (when the plan has new tokens); or a list of sentences (encoders)
        labels : of the images, for the accuracy
        progress : called with (what, done, total)
        reference : also run digitally, for the comparison
        timeline : where slices of what happens go, on the backend's clock
        record : new file that keeps every finished step, so that `resume` can go on with the run
        sampling : temperature, top_k, top_p, seed

        Raises
        ------
        InputError : for inputs that do not fit the model, or a journal that cannot be written
        """
        if record is None:
            return _run(self, inputs, labels, progress, reference, timeline, sampling)
        from .resume import record as begin

        journal = begin(self, record, inputs, labels, reference, sampling)
        return self.go_on(journal, inputs, labels, progress, reference, sampling, timeline)

    def go_on(
        self,
        journal: "Journal",
        inputs: Any,
        labels: Any,
        progress: Progress | None,
        reference: bool,
        sampling: Mapping[str, Any],
        timeline: Timeline | None = None,
    ) -> "Run":
        """Run what a journal does not hold yet, and keep it there; see `run`, and `resume`."""
        from .resume import session

        with session(journal, self.backend, progress or (lambda what, done, total: None)):
            run = _run(self, inputs, labels, progress, reference, timeline, sampling, journal)
            journal.keep_results(report=run.report().as_dict())
            journal.flush()
        return run


@dataclass(frozen=True)
class Run:
    """A finished run: its results, and the report on them."""

    plan: Plan
    results: Mapping[str, Any]
    quality: Mapping[str, Any]
    throughput: Mapping[str, Any]
    records: Sequence[StepRecord]
    wall_seconds: float
    reference_seconds: float | None = None

    def report(self) -> "Report":
        """Account for the run."""
        return _report(self)

    def energy(self, *constants: str) -> Account:
        """Account for the energy of the run: the events that the backend counted.

        Constants are those of the bench that the run was on, or modelled; host steps take the
        time that they took here. See `Plan.energy`.
        """
        profile = self.plan.profile
        is_digital = self.plan.backend.name == "digital"
        parts = recorded_events(self.records, self.plan.bench, is_digital)
        calls = self.records[0].calls if self.records else []
        known = resolve(profile, constants)
        return Account(parts, known, profile, *_units(self.plan.model, calls))


@dataclass(frozen=True)
class StepShare:
    """One row of the table that answers the sceptic."""

    kind: str
    where: str
    macs: int
    operations: int
    seconds_here: float
    seconds_bench: float | None


@dataclass(frozen=True)
class Report:
    """What a run gave and where the time went; every figure names its source."""

    model: str
    backend: str
    profile: str | None
    profile_title: str
    placement: str
    is_mock: bool
    is_calibrated: bool
    task: str
    quality: Mapping[str, Any]
    throughput: Mapping[str, Any]
    steps: Sequence[StepShare]
    stats: Stats
    remarks: Sequence[str]
    wall_seconds: float
    energy: Mapping[str, Any] | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)  # of tiles, by matmul
    results: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        document = {key: value for key, value in vars(self).items() if key != "results"}
        return (
            {"schema": SCHEMA}
            | document
            | {
                "quality": dict(self.quality),
                "throughput": dict(self.throughput),
                "steps": [vars(step) for step in self.steps],
                "stats": self.stats.as_dict(),
                "remarks": list(self.remarks),
                "results": dict(self.results),
                "sources": {
                    "seconds_here": "measured on this machine, for what ran here",
                    "seconds_bench": f"predicted from the profile {self.profile!r}; host steps as "
                    "measured here",
                },
            }
        )


def plan(
    model: Model,
    backend: Backend | str = "mock",
    batch: int = 1,
    sequence: int | None = None,
    new_tokens: int = 0,
    placement: str | Placement = DEFAULT_POLICY,
    constants: Sequence[str] = (),
) -> Plan:
    """Split a model's layers into optical matmuls and host steps for a backend's bench.

    Parameters
    ----------
    batch : images, sentences or sequences in one pass
    sequence : tokens of each; None is the context of a vision model, else 128 at most
    new_tokens : tokens to generate after them, one pass each
    placement : a policy, the path of a file of rules, or what another plan decided
    constants : of energy, as for `Plan.energy`; the placement "least-energy" goes by them

    Raises
    ------
    InputError : for sizes that the model cannot take, an unknown placement, rules that decide
        nothing here
    """
    opened = backend if isinstance(backend, Backend) else open_backend(backend)
    context = model.config.context
    if model.task == "vision":
        if sequence not in (None, context):
            raise InputError(f"sequence = {sequence}: {model.name!r} always takes {context} tokens")
        sequence = context
    sequence = min(128, context) if sequence is None else sequence
    if any(not isinstance(size, int) for size in (batch, sequence, new_tokens)):
        raise InputError("batch, sequence and new tokens are whole numbers")
    if batch < 1 or sequence < 1 or new_tokens < 0:
        raise InputError(
            f"batch = {batch}, sequence = {sequence}, new tokens = {new_tokens}: "
            "want at least 1, 1 and 0"
        )
    if new_tokens and model.task != "language":
        raise InputError(f"new tokens = {new_tokens}: {model.name!r} generates none")
    if sequence + max(new_tokens - 1, 0) > context:
        after = f" and {new_tokens} new ones" if new_tokens else ""
        raise InputError(
            f"{sequence} tokens{after} are more than the {context} that the context of "
            f"{model.name!r} holds"
        )
    passes = [({"batch": batch, "new": sequence, "past": 0}, 1)]
    passes += [
        ({"batch": batch, "new": 1, "past": sequence + index}, 1) for index in range(new_tokens - 1)
    ]
    task = {"vision": "classify", "encoder": "embed"}.get(model.task, "logits")
    task = "generate" if new_tokens else task
    return _plan(model, opened, placement, constants, task, tuple(passes))


def _plan(
    model: Model,
    backend: Backend,
    placement: str | Placement,
    constants: Sequence[str],
    task: str,
    passes: tuple[tuple[dict[str, int], int], ...],
) -> Plan:
    bench = BenchModel.of(backend)
    program = model.program(_ENDINGS[task])
    decided = placement
    if isinstance(decided, str):
        known = resolve(bench.profile, tuple(constants))
        decided = decide(program, decided, bench, passes, known, model.whole_program)
    if backend.name == "digital":
        decided = Placement(decided.policy, frozenset())
    steps = []
    alike: dict[tuple[Any, ...], PlannedStep] = {}
    for step in program.steps:  # layers are alike: one of them is counted
        optical = step.name in decided.on_light
        key = (step.kind, *signature(step, optical))
        if key not in alike:
            alike[key] = _planned(step, optical, passes, bench)
        why = decided.decided_by.get(step.name)
        steps.append(replace(alike[key], name=step.name, decided_by=why))
    return Plan(model, backend, bench, decided.policy, task, passes, tuple(steps), decided)


def _units(model: Model, passes: Sequence[tuple[Mapping[str, int], int]]) -> tuple[int, str]:
    """Return how many tokens (or images) passes take in, and what they are called."""
    image = model.task == "vision"
    count = sum(times * sizes["batch"] * (1 if image else sizes["new"]) for sizes, times in passes)
    return max(count, 1), "image" if image else "token"


def _planned(
    step: OpticalMatmul | HostStep,
    optical: bool,
    calls: Sequence[tuple[dict[str, int], int]],
    bench: BenchModel,
) -> PlannedStep:
    """Add up what a step takes over all its calls."""
    totals: dict[str, Any] = dict.fromkeys(
        ("macs", "operations", "tiles", "weight_frames", "shots", "conversions"), 0
    )
    seconds = 0.0
    for sizes, times in calls:
        if isinstance(step, OpticalMatmul):
            totals["macs"] += times * step.macs(sizes)
        if optical and isinstance(step, OpticalMatmul):
            cost = optical_cost(step, sizes, bench)
            for key in ("tiles", "weight_frames", "shots", "conversions"):
                totals[key] += times * getattr(cost, key)
            totals["operations"] += times * 2 * step.macs(sizes)
            seconds += times * (cost.seconds + cost.convert_seconds)
        else:
            host = host_cost(step, sizes, bench.profile)
            totals["operations"] += times * host.operations
            seconds += times * host.seconds
    where = "optical" if optical else "host"
    return PlannedStep(
        step.name, step.kind, where, _shapes(step, calls[0][0]), **totals, seconds=seconds
    )


def _shapes(step: OpticalMatmul | HostStep, sizes: Mapping[str, int]) -> str:
    def text(shape: Any) -> str:
        return "x".join(map(str, evaluate(shape, sizes))) or "-"

    if isinstance(step, OpticalMatmul):
        return f"{text(step.x_shape)} by {text(step.w_shape)}"
    return ", ".join(text(shape) for shape in step.out_shapes)


# -------------------------------------------------------------------------------- running


def _run(
    plan: Plan,
    inputs: Any,
    labels: Any,
    progress: Progress | None,
    reference: bool,
    timeline: Timeline | None,
    sampling: Mapping[str, Any],
    journal: "Journal | None" = None,
) -> Run:
    model, backend = plan.model, plan.backend
    if labels is not None and np.shape(labels) != (len(inputs),):
        raise InputError(f"labels of shape {np.shape(labels)} do not name {len(inputs)} images")
    if plan.task == "classify" and not len(inputs):
        raise InputError("there are no images to classify")
    executor = model.executor(backend, plan.chosen)
    executor.records.clear()
    memory = memory_bytes()
    if memory is not None and plan.memory_bytes > memory:
        raise InputError(
            f"this run needs about {plan.memory_bytes / 1e9:.3g} GB for weights and operands, and "
            f"this machine has {memory / 1e9:.3g} GB; give a smaller batch or sequence"
        )
    tell = progress or (lambda what, done, total: None)
    tell("preparing the backend", 0, 1)
    backend.warm_up()
    tell("calibrating read-out ranges", 0, 1)
    model.calibrate(executor)
    task = {"classify": _classify, "embed": _embed, "generate": _generate}.get(
        plan.task, _perplexity
    )
    backend.timeline, executor.journal = timeline, journal
    before = 0.0 if journal is None else journal.seconds_before
    start = time.perf_counter()
    try:
        results, count, unit = task(plan, inputs, backend, tell, sampling)
    finally:
        backend.timeline = executor.journal = None
    wall = before + time.perf_counter() - start
    digital, reference_seconds = results, None
    if reference and backend.name != "digital":
        start = time.perf_counter()
        digital = task(plan, inputs, None, tell, sampling)[0]
        reference_seconds = time.perf_counter() - start
    quality = _quality(plan, results, digital if reference else None, labels)
    records = list(executor.records.values())
    bench = None if backend.name == "digital" else _bench_seconds(records, BenchModel.of(backend))
    throughput = {
        "unit": f"{unit} per second",
        "here": count / wall if wall else 0.0,
        "bench": count / bench if bench else None,
    }
    return Run(plan, _plain(results), quality, throughput, records, wall, reference_seconds)


def _classify(
    plan: Plan, images: Any, backend: Backend | None, tell: Progress, _: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    images = np.asarray(images)
    executor = plan.model.executor(backend, plan.chosen)
    step = max(1, plan.passes[0][0]["batch"])
    logits = []
    for first in range(0, len(images), step):
        tell(_name(backend), first, len(images))
        part = images[first : first + step]
        sequences = np.arange(first, first + len(part))
        logits.append(plan.model.run_pass(executor, "logits", part, sequences=sequences))
    tell(_name(backend), len(images), len(images))
    return {"classes": np.concatenate(logits).argmax(axis=1)}, len(images), "images"


def _perplexity(
    plan: Plan, text: Any, backend: Backend | None, tell: Progress, _: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    tokens = plan.model.rows_of(text) if isinstance(text, str) else np.asarray(text)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tell(_name(backend), done, len(tokens))

    value = plan.model.perplexity(tokens, backend, plan.chosen, count)
    return {"perplexity": value}, int(tokens.size), "tokens"


def _generate(
    plan: Plan, prompt: Any, backend: Backend | None, tell: Progress, sampling: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    wanted = 1 + sum(times for _, times in plan.passes[1:])
    pieces = []
    generator = plan.model.generate(
        prompt, wanted, backend=backend, placement=plan.chosen, **sampling
    )
    for piece in generator:
        pieces.append(piece)
        tell(_name(backend), min(len(pieces), wanted), wanted)
    tell(_name(backend), wanted, wanted)
    text = "".join(pieces)
    return {"text": text}, max(len(plan.model.tokenizer.encode(text)), 1), "tokens"


def _embed(
    plan: Plan, sentences: Any, backend: Backend | None, tell: Progress, _: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    tell(_name(backend), 0, len(sentences))
    vectors = plan.model.embed(list(sentences), backend, plan.chosen)
    tell(_name(backend), len(sentences), len(sentences))
    results = {"embeddings": vectors, "cosine_similarity": vectors @ vectors.T}
    return results, len(sentences), "sentences"


def _name(backend: Backend | None) -> str:
    return "digital reference" if backend is None else f"{backend.name} run"


def _quality(
    plan: Plan,
    optical: Mapping[str, Any],
    digital: Mapping[str, Any] | None,
    labels: Any,
) -> dict[str, Any]:
    """Compare the run with the digital reference: {metric, digital, optical}."""

    def pair(
        metric: str, value: Callable[[Mapping[str, Any]], float | str | None]
    ) -> dict[str, Any]:
        light = None if plan.backend.name == "digital" else value(optical)
        return {
            "metric": metric,
            "digital": None if digital is None else value(digital),
            "optical": light,
        }

    if plan.task == "classify" and labels is not None:
        truth = np.asarray(labels)
        return pair("accuracy", lambda r: float(np.mean(r["classes"] == truth)))
    if plan.task == "classify":
        reference = None if digital is None else digital["classes"]
        return pair("agreement with digital", lambda r: _agreement(r["classes"], reference))
    if plan.task == "embed":
        reference = None if digital is None else digital["embeddings"]
        return pair("cosine similarity to digital", lambda r: _likeness(r["embeddings"], reference))
    if plan.task == "generate":
        return pair("text", lambda r: str(r["text"]))
    return pair("perplexity", lambda r: float(r["perplexity"]))


def _agreement(classes: np.ndarray, reference: np.ndarray | None) -> float | None:
    return None if reference is None else float(np.mean(classes == reference))


def _likeness(vectors: np.ndarray, reference: np.ndarray | None) -> float | None:
    return None if reference is None else float(np.einsum("nd,nd->n", vectors, reference).mean())


def _plain(results: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in results.items()}


# -------------------------------------------------------------------------------- accounting


def _bench_seconds(records: Sequence[StepRecord], bench: BenchModel) -> float:
    """Predict the whole run on the bench: light from the profile, host steps as measured here."""
    total = 0.0
    for record in records:
        if record.optical:
            light, convert = _light_seconds(record, bench)
            total += light + convert
        else:
            total += record.seconds
    return total


def _light_seconds(record: StepRecord, bench: BenchModel) -> tuple[float, float]:
    light = convert = 0.0
    assert isinstance(record.step, OpticalMatmul)
    for sizes, times in record.calls:
        cost = optical_cost(record.step, sizes, bench)
        light += times * cost.seconds
        convert += times * cost.convert_seconds
    return light, convert


def _report(run: Run) -> Report:
    plan = run.plan
    profile, bench_model = plan.profile, plan.bench
    is_digital = plan.backend.name == "digital"
    stats = Stats()
    rows: dict[tuple[str, str], StepShare] = {}

    def add(kind: str, where: str, macs: int, operations: int, here: float, bench: float) -> None:
        old = rows.get(
            (kind, where), StepShare(kind, where, 0, 0, 0.0, None if is_digital else 0.0)
        )
        rows[kind, where] = StepShare(
            kind,
            where,
            old.macs + macs,
            old.operations + operations,
            old.seconds_here + here,
            None if old.seconds_bench is None else old.seconds_bench + bench,
        )

    for record in run.records:
        planned = _planned(
            record.step, record.optical and not is_digital, record.calls, bench_model
        )
        where = planned.where
        if where == "optical":
            stats.add(record.stats)
            product = record.stats.seconds.get("product", 0.0)
            encode = record.seconds - product - record.stats.seconds.get("decode", 0.0)
            light, convert = _light_seconds(record, bench_model)
            add(planned.kind, where, planned.macs, planned.operations, product, light)
            add("encode", "convert", 0, record.stats.input_samples, encode, 0.0)
            decode = record.stats.seconds.get("decode", 0.0)
            add("decode", "convert", 0, record.stats.conversions, decode, 0.0)
            samples = record.stats.input_samples + record.stats.conversions
            add("converters", "convert", 0, samples, 0.0, convert)
        else:
            bench = record.seconds
            add(planned.kind, where, planned.macs, planned.operations, record.seconds, bench)
    return Report(
        model=plan.model.name,
        backend=plan.backend.name,
        profile=None if is_digital else profile.name,
        profile_title="" if is_digital else profile.title,
        placement=plan.placement,
        is_mock=plan.backend.is_mock,
        is_calibrated=plan.backend.is_calibrated,
        task=plan.task,
        quality=run.quality,
        throughput=run.throughput,
        steps=tuple(rows.values()),
        stats=stats,
        remarks=_remarks(profile, stats, plan.backend),
        wall_seconds=run.wall_seconds,
        energy=None if is_digital else _energy_document(run),
        checks={name: vars(tally) for name, tally in _checked(plan.backend).items()},
        results=run.results,
    )


def _checked(backend: Backend) -> Mapping[str, Any]:
    """Return what checksums of tiles found on a bench, by matmul."""
    return getattr(backend, "checked", {})


def _energy_document(run: Run) -> dict[str, Any]:
    """Return the account of a run, with the digital run beside it as this machine's time."""
    document = account_document(run.energy())
    if run.reference_seconds is not None:
        here = {
            "name": "this-machine",
            "title": "the digital run beside it, as measured here",
            "joules": None,
            "joules_of_products_on_light": None,
            "seconds": run.reference_seconds,
        }
        document["baselines"].append(here)
    return document


def _remarks(profile: OpticsProfile, stats: Stats, backend: Backend) -> tuple[str, ...]:
    if backend.name == "digital":
        return ()
    remarks = [*backend.remarks, *profile.unphysical]
    faults: Mapping[str, int] = getattr(backend, "faults", {})
    if faults:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(faults.items()))
        remarks.append(f"{sum(faults.values()):,} shots were repeated: {reasons}")
    if stats.saturated:
        share = stats.saturated / max(stats.conversions, 1)
        remarks.append(
            f"{stats.saturated:,} values saturated ({share:.2g} of {stats.conversions:,} "
            "conversions); they were cut at the read-out range or the full well"
        )
    return tuple(remarks)


__all__ = ["Plan", "PlannedStep", "Report", "Run", "StepShare", "plan"]
