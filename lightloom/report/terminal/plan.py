"""A plan, as tables: its steps, what decided where they go, and what is predicted."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...instruments.formatting import (
    format_count,
    format_counted,
    format_duration,
    format_number,
    format_quantity,
)
from .console import new_table

if TYPE_CHECKING:
    from ...scheduler.runs import Plan


def show_plan(where: Console, planned: Plan) -> None:
    """Print a plan, layer by layer; equal layers once."""
    where.print(
        f"\n[bold]{escape(planned.model.name)}[/], {planned.backend.name}, bench profile "
        f"[bold]{escape(planned.profile.name)}[/], placement {escape(planned.placement)}; "
        "nothing was run"
    )
    sizes = planned.passes[0][0]
    where.print(
        f"first pass: batch {sizes['batch']}, {sizes['new']} tokens; "
        f"{format_counted(len(planned.passes), 'pass', 'passes')} in all"
    )
    where.print(_steps(planned))
    costs = _costs(planned)
    if costs.row_count:
        where.print(costs)
    _show_totals(where, planned)
    _show_prediction(where, planned)


def _steps(planned: Plan) -> Table:
    hidden = _repeated_layers(planned)
    heads = ("tiles", "frames", "shots") if planned.on_light else ()
    table = new_table(
        *("step", "kind", "where", "shapes", "MACs", *heads, "predicted"),
        numbers=range(4, 6 + len(heads)),
        wrapped=(3,),
        caption="steps begin with their layer; layers that are not shown are split as the one "
        "before them. frames: weight frames"
        if hidden
        else None,
    )
    for step in planned.steps:
        if _layer(step.name) in hidden:
            continue
        optical = step.where == "optical"
        counts = (step.tiles, step.weight_frames, step.shots) if optical else ()
        table.add_row(
            step.name.removeprefix("layer."),
            step.kind,
            f"[cyan]{step.where}[/]" if optical else step.where,
            step.shapes,
            format_count(step.macs) if step.macs else "",
            *([f"{count:,}" for count in counts] or [""] * len(heads)),
            format_duration(step.seconds),
        )
    return table


def _show_totals(where: Console, planned: Plan) -> None:
    steps = planned.steps
    macs = sum(step.macs for step in steps)
    on_light = sum(step.macs for step in steps if step.where == "optical")
    where.print(
        f"all layers: {format_count(macs)} MACs ({on_light / max(macs, 1):.1%} on "
        f"light), {sum(step.tiles for step in steps):,} tiles, "
        f"{sum(step.weight_frames for step in steps):,} weight frames, "
        f"{sum(step.shots for step in steps):,} shots"
    )


def _show_prediction(where: Console, planned: Plan) -> None:
    found = planned.prediction
    one_by_one = sum(step.seconds for step in planned.steps)
    light = sum(step.seconds for step in planned.steps if step.where == "optical")
    host = "as measured here" if planned.host is not None else "as the profile says"
    parts = format_counted(found.micro_batches, "micro-batch", "micro-batches")
    where.print(
        f"predicted: [bold]{format_duration(found.seconds)}[/], light and host overlapped in "
        f"{parts}; {format_duration(one_by_one)} one step after "
        f"another, of which light and converters {format_duration(light)}; host steps {host}"
    )
    shares = sorted(found.utilisation.items(), key=lambda item: -item[1])
    busy = ", ".join(f"{name} {share:.1%}" for name, share in shares if share)
    where.print(f"utilisation: {busy}")
    unit = "image" if planned.task == "classify" else "token"
    rate = planned.units / found.seconds if found.seconds else 0.0
    where.print(
        f"bottleneck: [bold]{found.bottleneck}[/]; {format_number(rate)} {unit}s per second; "
        f"memory on the host: {format_quantity(planned.memory_bytes, 'B')}"
    )


def _costs(planned: Plan) -> Table:
    """Return what decided the placement: seconds or joules, on light and on the host."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for step in planned.steps:
        found = step.decided_by or {}
        if "why" not in found:
            continue
        costs = (
            (format_duration(found["light_s"]), format_duration(found["host_s"]))
            if "light_s" in found
            else (format_quantity(found["light_j"], "J"), format_quantity(found["host_j"], "J"))
        )
        names = rows.setdefault((step.kind, *costs, step.where, found["why"]), [])
        name = step.name if _layer(step.name) is None else step.name.split(".", 2)[2]
        if name not in names:
            names.append(name)
    heads = ("product", "on light", "on the host", "goes to", "")
    table = new_table(*heads, numbers=(1, 2), wrapped=range(len(heads)), title="Why")
    for (kind, light, host, where, why), names in rows.items():
        target = "[cyan]light[/]" if where == "optical" else "host"
        table.add_row(f"{kind}: {', '.join(names)}", light, host, target, why)
    return table


def _repeated_layers(planned: Plan) -> set[str | None]:
    """Return the layers whose steps go where those of the layer before them go."""
    steps: dict[str, list[tuple[str, str]]] = {}
    for step in planned.steps:
        layer = _layer(step.name)
        if layer is not None:
            steps.setdefault(layer, []).append((step.name.split(".", 2)[2], step.where))
    return {layer for before, layer in pairwise(steps) if steps[layer] == steps[before]}


def _layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "layer" else None
