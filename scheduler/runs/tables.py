"""The tables of a plan and of a run's report, for a terminal, a page and a notebook.

A report comes as its document (`Report.as_dict`), which a journal keeps, too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ...instruments.formatting import (
    format_count,
    format_counted,
    format_duration,
    format_energy,
    format_number,
    format_quantity,
)
from ...instruments.table import Cell, Column, Styled, Table
from ..energy.tables import kind_table
from ..program import layer_of, without_layer
from .plan_record import PlannedStep, PlanRecord, units_of

PLACES = {"optical": 0, "host": 1, "convert": 2}  # order of rows: where a step runs
_MOST_SENTENCES = 20  # whose similarities are shown


# --- a plan ---------------------------------------------------------------------------------------


def plan_title(plan: PlanRecord) -> str:
    """Return what is planned, in one line."""
    return (
        f"{plan.model.name}, {plan.backend.name}, bench profile {plan.profile.name}, placement "
        f"{plan.placement}; nothing was run"
    )


def plan_tables(plan: PlanRecord) -> list[Table]:
    """Return the steps of a plan, equal layers once, and what decided where products go."""
    tables = (planned_step_table(plan), cost_table(plan.steps))
    return [table for table in tables if table.rows]


def plan_summary(plan: PlanRecord) -> list[str]:
    """Return the sums over a plan's layers, and what is predicted, as sentences."""
    sentences = [_plan_totals(plan.steps), _plan_times(plan), _plan_bottleneck(plan)]
    if plan.model.fixed_sizes is not None:
        batch, sequence = plan.model.fixed_sizes
        sentences.append(f"the program serves batch {batch} and sequence {sequence} alone")
    return sentences


def planned_step_table(plan: PlanRecord) -> Table:
    """Return the steps of a plan; layers that are split as the one before them are left out."""
    hidden = _repeated_layers(plan.steps)
    counts = ("tiles", "frames", "shots") if plan.on_light else ()
    columns = (
        Column("step", align="left"),
        Column("kind", align="left", wraps=True),
        Column("where", align="left"),
        Column("shapes", align="left", wraps=True),
        Column("MACs", form=format_count),
        *(Column(name, form=",") for name in counts),
        Column("predicted", form=format_duration),
    )
    rows = []
    for step in plan.steps:
        if layer_of(step.name) in hidden:
            continue
        numbers: tuple[Cell, ...] = (None,) * len(counts)
        where: Cell = step.where
        if step.where == "optical":
            numbers = (step.tiles, step.weight_frames, step.shots)
            where = Styled(step.where, "light")
        name = step.name.removeprefix("layer.")
        rows.append(
            (name, step.kind, where, step.shapes, step.macs or None, *numbers, step.seconds)
        )
    caption = (
        "steps begin with their layer; layers that are not shown are split as the one before "
        "them. frames: weight frames"
    )
    return Table("", columns, tuple(rows), caption=caption if hidden else "")


def cost_table(steps: Sequence[PlannedStep]) -> Table:
    """Return what decided the placement: seconds or joules, on light and on the host."""
    products: dict[tuple[str, str, str, str, str], list[str]] = {}
    for step in steps:
        found = step.decided_by or {}
        if "why" not in found:
            continue
        if "light_s" in found:
            costs = (format_duration(found["light_s"]), format_duration(found["host_s"]))
        else:
            costs = (format_energy(found["light_j"]), format_energy(found["host_j"]))
        names = products.setdefault((step.kind, *costs, step.where, found["why"]), [])
        if (name := without_layer(step.name)) not in names:
            names.append(name)
    columns = (
        Column("product", align="left", wraps=True),
        Column("on light", wraps=True),
        Column("on the host", wraps=True),
        Column("goes to", align="left", wraps=True),
        Column("", align="left", wraps=True),
    )
    rows = []
    for (kind, light, host, where, why), names in products.items():
        target: Cell = Styled("light", "light") if where == "optical" else "host"
        rows.append((f"{kind}: {', '.join(names)}", light, host, target, why))
    return Table("Why", columns, tuple(rows))


def _plan_totals(steps: Sequence[PlannedStep]) -> str:
    macs = sum(step.macs for step in steps)
    on_light = sum(step.macs for step in steps if step.where == "optical")
    counts = (
        format_counted(sum(step.tiles for step in steps), "tile"),
        format_counted(sum(step.weight_frames for step in steps), "weight frame"),
        format_counted(sum(step.shots for step in steps), "shot"),
    )
    share = on_light / max(macs, 1)
    return f"all layers: {format_count(macs)} MACs ({share:.1%} on light), {', '.join(counts)}"


def _plan_times(plan: PlanRecord) -> str:
    parts = format_counted(plan.prediction.micro_batches, "micro-batch", "micro-batches")
    light_s = sum(step.seconds for step in plan.steps if step.where == "optical")
    host = "as measured here" if plan.host is not None else "as the profile says"
    return (
        f"predicted: {format_duration(plan.seconds)}, light and host overlapped in {parts}; "
        f"{format_duration(plan.seconds_in_turn)} one step after another, of which light and "
        f"converters {format_duration(light_s)}; host steps {host}"
    )


def _plan_bottleneck(plan: PlanRecord) -> str:
    shares = sorted(plan.prediction.utilisation.items(), key=lambda item: -item[1])
    busy = ", ".join(f"{name} {share:.1%}" for name, share in shares if share)
    units, unit = units_of(plan.model, plan.passes)
    rate = format_number(units / plan.seconds if plan.seconds else 0.0)
    return (
        f"utilisation: {busy}; bottleneck: {plan.prediction.bottleneck}; {rate} {unit}s per "
        f"second; memory on the host: {format_quantity(plan.memory_bytes, 'B')}"
    )


def _repeated_layers(steps: Iterable[PlannedStep]) -> set[int | None]:
    """Return the layers whose steps go where those of the layer before them go."""
    layers: dict[int, list[tuple[str, str]]] = {}
    for step in steps:
        layer = layer_of(step.name)
        if layer is not None:
            layers.setdefault(layer, []).append((without_layer(step.name), step.where))
    return {layer for before, layer in pairwise(layers) if layers[layer] == layers[before]}


# --- a report -------------------------------------------------------------------------------------


def report_title(report: Mapping[str, Any]) -> str:
    """Return what ran, in one line."""
    return f"{report['model']} on the {report['backend']} backend"


def report_marks(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader must not overlook: that numbers are simulated, or a guess."""
    marks = {"MOCK": report["is_mock"], "NOT CALIBRATED": not report["is_calibrated"]}
    return [mark for mark, applies in marks.items() if applies]


def report_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return what was found of sentences, where operations and time go, and what takes energy."""
    of_sentences = {"embed": similarity_table, "label": label_table}.get(report["task"])
    tables = [] if of_sentences is None else [of_sentences(report["results"])]
    if report.get("generation"):  # reports of earlier versions lack it
        tables.append(generation_table(report["generation"]))
    tables.append(step_table(report["steps"], report["profile"], report["wall_seconds"]))
    if report["energy"] is not None:
        tables.append(kind_table(report["energy"]))
    return tables


def report_summary(report: Mapping[str, Any]) -> list[str]:
    """Return the quality of a result, and its throughput, as sentences."""
    return [*quality_sentences(report["quality"]), throughput_sentence(report["throughput"])]


def throughput_sentence(throughput: Mapping[str, Any]) -> str:
    """Return how many units a second were reached here, and are predicted for the bench."""
    rate = f"throughput: {format_number(throughput['here'])} {throughput['unit']} (measured here)"
    if throughput["bench"] is None:
        return rate
    return f"{rate}, {format_number(throughput['bench'])} on the bench (predicted)"


def quality_sentences(quality: Mapping[str, Any]) -> list[str]:
    """Return how good a result is, digital beside optical; a text, a line for each."""
    metric, figures = quality["metric"], dict(quality_figures(quality))
    if metric == "text":
        return [f"{side}: {text}" for side, text in figures.items()]
    if not figures or (metric.endswith("digital") and "optical" not in figures):
        return []  # a digital run agrees with itself
    return [f"{metric}: {', '.join(f'{side} {text}' for side, text in figures.items())}"]


def quality_figures(quality: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the sides that a quality is known of, "digital" and "optical", and it as text.

    Shares are in per cent, other figures have four digits, and a text is whole.
    """
    metric = quality["metric"]
    form = ".2%" if metric == "accuracy" or "agreement" in metric else ".4g"
    for side in ("digital", "optical"):
        value = quality[side]
        if value is not None:
            yield side, value if isinstance(value, str) else format(value, form)


def similarity_table(results: Mapping[str, Any]) -> Table:
    """Return the cosine similarities of the first sentences with each other."""
    shown = range(min(len(results["cosine_similarity"]), _MOST_SENTENCES))
    columns = (Column("sentence", form="d"), *(Column(f"{n + 1}", form=".3f") for n in shown))
    values = results["cosine_similarity"]
    rows = [(n + 1, *values[n][: len(shown)]) for n in shown]
    return Table("Cosine similarity of the sentences", columns, tuple(rows))


def label_table(results: Mapping[str, Any]) -> Table:
    """Return the labels of the first sentences, or of their tokens."""
    columns = (Column("sentence", form="d"), Column("labels", align="left"))
    rows = [(n + 1, " ".join(each)) for n, each in enumerate(results["labels"][:_MOST_SENTENCES])]
    return Table("Labels of the sentences", columns, tuple(rows))


def generation_table(generation: Mapping[str, Any]) -> Table:
    """Return when the tokens of a text came, digitally and on light."""
    columns = (
        Column("", align="left"),
        Column("tokens", form=","),
        Column("time to first token", form=format_duration),
        Column("tokens per second after it", form=format_number),
    )
    keys = ("tokens", "time_to_first_token_s", "tokens_per_second")
    rows = [(side, *map(found.get, keys)) for side, found in generation.items() if found]
    caption = "Measured on this machine, once the backend was prepared."
    return Table("Generated text", columns, tuple(rows), caption=caption)


def step_table(
    steps: Sequence[Mapping[str, Any]], profile: str | None, wall_seconds: float | None = None
) -> Table:
    """Return a row for each kind of step: light above the host above converters.

    Parameters
    ----------
    steps : as a report's document holds them
    profile : that the times of the bench come from
    wall_seconds : that the run took on this machine; None leaves out what overlaps
    """
    has_bench = any(step["seconds_bench"] is not None for step in steps)
    sides = {"here": "seconds_here"} | ({"bench": "seconds_bench"} if has_bench else {})
    whole = {key: sum(step[key] or 0.0 for step in steps) for key in sides.values()}
    operations = sum(s["operations"] for s in steps if s["where"] != "convert") or 1
    columns = [
        Column("step", align="left"),
        Column("where", align="left"),
        Column("MACs", form=format_count),
        Column("operations", form=".1%"),
    ]
    total: list[Cell] = ["all", "", sum(step["macs"] for step in steps), 1.0]
    for side, key in sides.items():
        columns += [Column(side, form=format_duration), Column("share", form=".1%")]
        total += [whole[key], 1.0]
    rows = []
    for step in sorted(steps, key=lambda step: PLACES.get(step["where"], len(PLACES))):
        share: Cell = step["operations"] / operations
        if step["where"] == "convert":
            share = f"({format_count(step['operations'])})"
        row: list[Cell] = [step["kind"], step["where"], step["macs"] or None, share]
        for key in sides.values():
            seconds = step[key] or 0.0
            row += [seconds, seconds / (whole[key] or 1.0)]
        rows.append(tuple(row))
    caption = _here_text(whole["seconds_here"], wall_seconds)
    if has_bench:
        caption += (
            f" Bench: predicted, light from the profile {profile}, host steps as measured here, "
            "nothing overlapped."
        )
    return Table(
        "Where operations and time go",
        tuple(columns),
        tuple(rows),
        total=tuple(total),
        caption=f"{caption} In brackets: samples converted.",
        grouped_by=1,
    )


def _here_text(sum_s: float, wall_s: float | None) -> str:
    text = "Here: measured on this machine, for what ran here."
    if wall_s is None or sum_s <= wall_s:
        return text
    return (
        f"{text} Products and host steps overlap, so the times add up to more than the "
        f"{format_duration(wall_s)} that the run took."
    )
