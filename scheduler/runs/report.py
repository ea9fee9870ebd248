"""`Run` and `Report`: the results of a run, its time and its energy, each with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...backends import Backend, OpticsProfile, Stats
from ...instruments.formatting import format_counted, format_duration, format_quantity
from ...instruments.table import notebook_html
from ...instruments.text import short_lines
from ..costs import BenchModel, optical_cost
from ..energy.account import Account, account_document
from ..energy.constants import resolve
from ..energy.events import recorded_events
from ..graph import StepRecord
from ..program import OpticalMatmul
from .plan_record import SCHEMA, PlanRecord, plan_step, units_of
from .tables import (
    quality_sentences,
    report_marks,
    report_summary,
    report_tables,
    report_title,
    throughput_sentence,
)


@dataclass(frozen=True)
class Run:
    """A finished run: its results, and the report on them.

    Parameters
    ----------
    plan : the plan that was run
    results : classes, text, perplexity or embeddings, by the task of the plan
    quality : the metric, and its value on light and digitally
    throughput : the unit, and units per second here and on the bench
    records : time and events of each step
    wall_seconds : time of the run on this machine
    reference_seconds : time of the digital reference; None without one
    generation : as in `Report`
    """

    plan: PlanRecord
    results: Mapping[str, Any]
    quality: Mapping[str, Any]
    throughput: Mapping[str, Any]
    records: Sequence[StepRecord]
    wall_seconds: float
    reference_seconds: float | None = None
    generation: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        plan = self.plan
        return short_lines(
            f"Run of {plan.model.name} ({plan.task}) on the {plan.backend.name} backend"
            f"{', MOCK' if plan.backend.is_mock else ''}, placement {plan.placement}",
            *(f"  {sentence}" for sentence in quality_sentences(self.quality)),
            f"  took {format_duration(self.wall_seconds)} here; details in report()",
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def report(self) -> Report:
        """Return the report of the run."""
        return _report(self)

    def energy(self, *constants: str) -> Account:
        """Return the energy account of the run, from the events that the backend counted.

        Constants are those of the bench that the run was on, or modelled; host steps count with
        the time measured here. See `Plan.energy`.
        """
        profile = self.plan.profile
        parts = recorded_events(self.records, self.plan.bench, not self.plan.backend.is_optical)
        calls = self.records[0].calls if self.records else []
        resolved = resolve(profile, constants)
        return Account(parts, resolved, profile, *units_of(self.plan.model, calls))


@dataclass
class StepRow:
    """One row of the table of steps: a kind of step in one place, with its work and time.

    Parameters
    ----------
    kind : such as "MLP" or "softmax"
    where : "optical", "host" or "convert"
    macs : multiply-accumulates of products
    operations : two for each multiply-accumulate; the values that are converted, for "convert"
    seconds_here : measured on this machine
    seconds_bench : predicted for the bench; None for a digital run
    """

    kind: str
    where: str
    macs: int
    operations: int
    seconds_here: float
    seconds_bench: float | None

    def add(self, macs: int, operations: int, here_s: float, bench_s: float) -> None:
        """Add the work and the times of a step; a digital run has none of a bench."""
        self.macs += macs
        self.operations += operations
        self.seconds_here += here_s
        if self.seconds_bench is not None:
            self.seconds_bench += bench_s


@dataclass(frozen=True)
class Report:
    """The results of a run, and its time by step; every figure names its source.

    Parameters
    ----------
    profile, profile_title : the bench profile by name, and its title
    is_mock : whether the light is simulated
    is_calibrated : False where the operator accepted a bench without calibration
    quality : the metric, and its value on light and digitally
    throughput : the unit, and units per second here and on the bench
    steps : one row for each kind of step
    stats : counted events of all products
    remarks : sentences for the reader, such as recoveries and unphysical settings
    wall_seconds : time of the run on this machine
    energy : the energy account; None without one
    checks : statistics of the checksums, by matmul
    results : classes, text, perplexity or embeddings, by the task
    generation : of a generated text, "digital" and "optical": {tokens, time_to_first_token_s,
        tokens_per_second}; the rate counts the tokens after the first; None for other tasks
    """

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
    steps: Sequence[StepRow]
    stats: Stats
    remarks: Sequence[str]
    wall_seconds: float
    energy: Mapping[str, Any] | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)  # of tiles, by matmul
    results: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        lines = [*quality_sentences(self.quality), throughput_sentence(self.throughput)]
        if self.energy is not None:
            joules = format_quantity(self.energy["joules_per_token"]["system"], "J")
            lines.append(f"energy: {joules} for each {self.energy['unit']} (predicted)")
        heading = [f"Report of {report_title(vars(self))}", *report_marks(vars(self))]
        if self.profile is not None:
            heading.append(f"bench profile {self.profile}")
        return short_lines(", ".join(heading), *(f"  {line}" for line in lines))

    def _repr_html_(self) -> str:
        document = self.as_dict()
        heading = ", ".join((report_title(document), *report_marks(document)))
        sentences = (*report_summary(document), *self.remarks)
        return notebook_html(heading, report_tables(document), sentences)

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


def bench_seconds(records: Sequence[StepRecord], bench: BenchModel) -> float:
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
    is_digital = not plan.backend.is_optical
    stats = Stats()
    rows: dict[tuple[str, str], StepRow] = {}

    def add(kind: str, where: str, *work: Any) -> None:
        empty = StepRow(kind, where, 0, 0, 0.0, None if is_digital else 0.0)
        rows.setdefault((kind, where), empty).add(*work)

    for record in run.records:
        planned = plan_step(
            record.step, record.optical and not is_digital, record.calls, bench_model
        )
        where = planned.where
        if where == "optical":
            stats.add(record.stats)
            stages = record.stats.seconds
            product, decode = stages.get("product", 0.0), stages.get("decode", 0.0)
            encode = record.seconds - product - decode
            light, convert = _light_seconds(record, bench_model)
            add(planned.kind, where, planned.macs, planned.operations, product, light)
            add("encode", "convert", 0, record.stats.input_samples, encode, 0.0)
            add("decode", "convert", 0, record.stats.conversions, decode, 0.0)
            samples = record.stats.input_samples + record.stats.conversions
            add("converters", "convert", 0, samples, 0.0, convert)
        else:
            seconds = record.seconds
            add(planned.kind, where, planned.macs, planned.operations, seconds, seconds)
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
        checks={name: vars(stats) for name, stats in plan.backend.checked.items()},
        results=run.results,
        generation=run.generation,
    )


def _energy_document(run: Run) -> dict[str, Any]:
    """Return the account of a run, with the time of the digital run on this machine."""
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
    if not backend.is_optical:
        return ()
    remarks = [*backend.remarks, *profile.unphysical]
    if faults := backend.faults:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(faults.items()))
        remarks.append(f"{format_counted(sum(faults.values()), 'repeated shot')}: {reasons}")
    if stats.saturated:
        share = stats.saturated / max(stats.conversions, 1)
        remarks.append(
            f"{format_counted(stats.saturated, 'value')} saturated ({share:.2g} of "
            f"{stats.conversions:,} conversions), cut at the read-out range or the full well"
        )
    return tuple(remarks)
