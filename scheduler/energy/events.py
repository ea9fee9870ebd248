"""The events of an energy account: planned from symbolic sizes, or as a backend counted them.

`planned_events` makes no array. Not here: joules (`account`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ...backends import Geometry, OpticsProfile, Stats, tile_count
from ..costs import BenchModel, OpticalCost, converter_seconds, host_cost, optical_cost
from ..graph import Calls, StepRecord, signature
from ..program import OpticalMatmul, Sizes, Step, evaluate, without_layer


@dataclass
class Events:
    """The events of a step, over all its calls.

    Parameters
    ----------
    pairs : illuminated element pairs, over all readings
    photons : photoelectrons of light; None where the profile has no light level
    input_values, output_values, weight_values : operand values read from memory, or written to it
    sums : converted sums, one for each output and segment, for any number of readings
    host_operations, host_values : of a host step; values moved to and from memory
    host_macs : MACs of a product that stays on the host
    light_s, convert_s, host_s : seconds of light and its frames, of converters beyond that, of host
    """

    macs: int = 0
    shots: int = 0
    input_frames: int = 0
    weight_frames: int = 0
    input_samples: int = 0
    weight_samples: int = 0
    conversions: int = 0
    pairs: int = 0
    photons: float | None = None
    input_values: int = 0
    output_values: int = 0
    weight_values: int = 0
    sums: int = 0
    host_operations: int = 0
    host_values: int = 0
    host_macs: int = 0
    light_s: float = 0.0
    convert_s: float = 0.0
    host_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of light, converters and host, one after another."""
        return self.light_s + self.convert_s + self.host_s

    def add(self, other: Events, times: int = 1) -> None:
        """Add the events of another call, counted so many times."""
        for name in _EVENTS:
            value = getattr(other, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + times * value)


_EVENTS = tuple(item.name for item in fields(Events))


@dataclass(frozen=True)
class DigitalWork:
    """The workload of a digital machine for one call of a step, and the number of such calls."""

    times: int
    macs: int
    product_values: int
    weight_values: int
    operations: int
    values: int


@dataclass
class PartEvents:
    """Steps of the same name in all layers: "attention.qk" of 12 layers.

    Parameters
    ----------
    is_dynamic : the weights are an operand, such as keys, and loaded for each call, without reuse
    """

    name: str
    kind: str
    where: str
    is_dynamic: bool
    steps: int = 0
    events: Events = field(default_factory=Events)
    workload: list[DigitalWork] = field(default_factory=list)


def planned_events(
    steps: Iterable[tuple[Step, bool]], calls: Calls, bench: BenchModel
) -> list[PartEvents]:
    """Count the events of a program for given calls, without running it.

    Parameters
    ----------
    steps : (step, whether it goes to light)
    calls : sizes of the passes, and the number of runs of each

    Returns
    -------
    parts : in the order of the program; upper bounds, as in `costs.optical_cost`: every signed row
        is assumed to have a negative value in every segment
    """
    parts: dict[tuple[str, str], PartEvents] = {}
    equal: dict[tuple[Any, ...], list[Step]] = {}
    for step, optical in steps:  # equal steps of all layers are counted once
        equal.setdefault((without_layer(step.name), *signature(step, optical)), []).append(step)
    for (_, optical, *_), same in equal.items():
        events, workload = _count(same[0], optical, calls, bench)
        _add(parts, same[0], optical, events, workload, len(same))
    return list(parts.values())


def recorded_events(
    records: Iterable[StepRecord], bench: BenchModel, is_digital: bool = False
) -> list[PartEvents]:
    """Return the events of a run: counts of the backend, and measured times of host steps."""
    parts: dict[tuple[str, str], PartEvents] = {}
    for record in records:
        optical = record.optical and not is_digital
        events, workload = _count(record.step, optical, record.calls, bench)
        if optical:
            events = _measured(events, record.stats, bench.profile)
        else:
            events.host_s = record.seconds
        _add(parts, record.step, optical, events, workload, 1)
    return list(parts.values())


def _add(
    parts: dict[tuple[str, str], PartEvents],
    step: Step,
    optical: bool,
    events: Events,
    workload: Iterable[DigitalWork],
    times: int,
) -> None:
    where, name = "optical" if optical else "host", without_layer(step.name)
    dynamic = isinstance(step, OpticalMatmul) and step.dynamic
    part = parts.setdefault((name, where), PartEvents(name, step.kind, where, dynamic))
    part.steps += times
    part.events.add(events, times)
    part.workload += [replace(item, times=times * item.times) for item in workload]


def _count(
    step: Step, optical: bool, calls: Calls, bench: BenchModel
) -> tuple[Events, list[DigitalWork]]:
    total, workload = Events(), []
    for sizes, times in calls:
        if optical and isinstance(step, OpticalMatmul):
            events = _optical(step, sizes, bench)
        else:
            events = _on_host(step, sizes, bench.profile)
        total.add(events, times)
        workload.append(_workload(step, sizes, times, events))
    return total, workload


def _workload(step: Step, sizes: Sizes, times: int, events: Events) -> DigitalWork:
    if not isinstance(step, OpticalMatmul):
        return DigitalWork(times, 0, 0, 0, events.host_operations, events.host_values)
    operands = (math.prod(evaluate(shape, sizes)) for shape in (step.x_shape, step.y_shape))
    weights = math.prod(evaluate(step.w_shape, sizes))
    return DigitalWork(times, step.macs(sizes), sum(operands), weights, 0, 0)


def _optical(step: OpticalMatmul, sizes: Sizes, bench: BenchModel) -> Events:
    profile = bench.profile
    matrices, rows, outputs, length = step.product_sizes(sizes)
    cost = optical_cost(step, sizes, bench)
    macs = step.macs(sizes)
    segments = tile_count((1, length), Geometry(None, bench.geometry.inputs))
    pairs = macs * profile.elements_per_input * profile.readings(step.non_negative)
    photons = None
    if profile.photons_per_mac is not None:
        photons = profile.photons_per_mac * macs
    return Events(
        macs=macs,
        **_frames_and_samples(cost),
        pairs=pairs,
        photons=photons,
        input_values=cost.input_samples // profile.elements_per_input,
        output_values=matrices * rows * outputs,
        weight_values=matrices * outputs * length,
        sums=matrices * rows * outputs * segments,
        light_s=cost.seconds,
        convert_s=cost.convert_seconds,
    )


def _measured(planned: Events, stats: Stats, profile: OpticsProfile) -> Events:
    """Return planned events with the counts of a backend in place of the planned ones.

    Time on the bench is scaled by the number of counted shots.
    """
    shown = stats.input_samples / planned.input_samples if planned.input_samples else 0.0
    return replace(
        planned,
        **_frames_and_samples(stats),
        pairs=round(planned.pairs * shown),
        photons=stats.photons if profile.has_light else None,
        input_values=stats.input_samples // profile.elements_per_input,
        light_s=planned.light_s * stats.shots / max(planned.shots, 1),
        convert_s=converter_seconds(stats.input_samples, stats.conversions, profile),
    )


def _frames_and_samples(counts: OpticalCost | Stats) -> dict[str, int]:
    """Return the counts that a prediction and a backend share with `Events`."""
    names = ("shots", "input_frames", "weight_frames", "input_samples", "weight_samples")
    return {name: getattr(counts, name) for name in (*names, "conversions")}


def _on_host(step: Step, sizes: Sizes, profile: OpticsProfile) -> Events:
    cost = host_cost(step, sizes, profile)
    events = Events(host_values=cost.values, host_s=cost.seconds)
    if isinstance(step, OpticalMatmul):
        events.macs = events.host_macs = step.macs(sizes)
    else:
        events.host_operations = cost.operations
    return events
