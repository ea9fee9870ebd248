"""`predict`: the time and the events of a pass before it runs, shot by shot.

The order is that of `Pipeline`, and the devices are those of a bench. With a host that takes no
time, all times equal those of a simulated bench on its virtual clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..instruments import Timeline
from .costs import BenchModel, HostModel, host_cost
from .micro_batch import part_counts, sizes_of_parts
from .pass_model import PassModel
from .program import Program, Sizes
from .schedule import Schedule
from .shot_light import ShotLight

DEVICES = {
    "input": "input modulator",
    "weight": "weight modulator",
    "detector": "detector",
}


@dataclass(frozen=True)
class Prediction:
    """Predicted time and events of one pass, or several.

    Parameters
    ----------
    seconds : from the first step to the last
    frames : shown, by role, and exposures ("detector")
    busy_s : of "light" (a product is pending), and of each device in it; of "host", and of the
        threads that "feed" light and "gather" from it
    micro_batches : into which the batch is split
    """

    seconds: float = 0.0
    shots: int = 0
    frames: Mapping[str, int] = field(default_factory=dict)
    busy_s: Mapping[str, float] = field(default_factory=dict)
    micro_batches: int = 1

    @property
    def utilisation(self) -> dict[str, float]:
        """Fraction of the time in which each device or thread is busy."""
        return {
            name: busy / self.seconds if self.seconds else 0.0 for name, busy in self.busy_s.items()
        }

    @property
    def bottleneck(self) -> str:
        """The resource that is busy most of the time; of light, the device that is busy most."""
        devices = DEVICES.values()
        resources = {name: busy for name, busy in self.busy_s.items() if name not in devices}
        if not resources:
            return "nothing"
        most = max(resources, key=lambda name: resources[name])
        if most != "light":
            return most
        device = max(devices, key=lambda name: self.busy_s.get(name, 0.0))
        return f"light, in it the {device}"

    def plus(self, other: Prediction, times: int = 1) -> Prediction:
        """Return the sum with another pass, counted so many times."""

        def add(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
            return {key: a.get(key, 0) + times * b.get(key, 0) for key in {**a, **b}}

        return Prediction(
            self.seconds + times * other.seconds,
            self.shots + times * other.shots,
            add(self.frames, other.frames),
            add(self.busy_s, other.busy_s),
            max(self.micro_batches, other.micro_batches),
        )


def predict(
    program: Program,
    placed: frozenset[str],
    sizes: Sizes,
    bench: BenchModel,
    host: HostModel | None = None,
    parts: int | None = None,
    timeline: Timeline | None = None,
    start_s: float = 0.0,
) -> Prediction:
    """Predict one pass of a program.

    Parameters
    ----------
    placed : matmuls that go to light
    host : time of the host; None takes the profile's
    parts : micro-batches; None takes the fastest number, with the profile's host
    timeline : receives the slices, on the clock of the bench
    """
    if parts is None:
        parts = best_parts(program, placed, sizes, bench)
    if host is None:
        host = HostModel(lambda step, sizes: host_cost(step, sizes, bench.profile).seconds)
    of_parts = sizes_of_parts(sizes, parts)
    schedule = Schedule(program, placed, len(of_parts))
    light = ShotLight(program, schedule.products, of_parts, bench, start_s, timeline)
    model = PassModel(program, schedule, of_parts, host, light.run, start_s, timeline)
    end_s = model.run()
    devices = light.devices
    busy_s = {DEVICES[role]: seconds for role, seconds in devices.busy_s.items()}
    others_s = {"light": light.busy_s, **model.busy_s, "converters": light.converters_s}
    busy_s |= {name: seconds for name, seconds in others_s.items() if seconds}
    frames = {**devices.frames, "detector": devices.shots}
    return Prediction(end_s - start_s, devices.shots, frames, busy_s, len(of_parts))


def best_parts(program: Program, placed: frozenset[str], sizes: Sizes, bench: BenchModel) -> int:
    """Return the fastest number of micro-batches: they overlap, but each needs all weight frames.

    It does not depend on measured times, so that a run can be repeated bit by bit.
    """
    choices = part_counts(sizes["batch"])
    if len(choices) < 2 or not placed:
        return 1
    times = {
        count: predict(program, placed, sizes, bench, parts=count).seconds for count in choices
    }
    # prefer fewer: a part without gain costs frames
    return min(choices, key=lambda count: times[count] * (1 + 1e-3 * math.log2(count)))
