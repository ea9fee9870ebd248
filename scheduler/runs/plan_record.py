"""`PlanRecord`: a plan as data, with its prediction, its energy account and its JSON document.

Not here: making a plan and running it (`plan`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...backends import Backend, OpticsProfile
from ...instruments import Timeline
from ..costs import BenchModel, HostModel, host_cost, optical_cost
from ..energy.account import Account
from ..energy.constants import Baseline, resolve
from ..energy.events import planned_events
from ..placement import FIXED, Placement
from ..prediction import Prediction, predict
from ..program import HostStep, OpticalMatmul, Program, evaluate
from .model_protocol import RunnableModel

SCHEMA = 1  # of the JSON documents of plans and reports


ENDINGS = {
    "classify": "logits",
    "logits": "logits",
    "generate": "last",
    "embed": "sentence",
    "label": "logits",
    "outputs": "logits",
}


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan, as the bench would run it; counts are upper bounds.

    Parameters
    ----------
    name : of the step in the program
    kind : such as "MLP" or "softmax"
    where : "optical" or "host"
    shapes : of its operands, as a text
    macs : multiply-accumulates of a product
    operations : two for each multiply-accumulate
    tiles, weight_frames, shots, conversions : tiles, frames, exposures and converter samples
    seconds : predicted, without overlap
    decided_by : of a product: the policy, and the rule, costs and reason where there are any
    """

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
    decided_by: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PlanRecord:
    """A program placed and tiled for one bench profile: the data of a `Plan`.

    Parameters
    ----------
    model, backend : what runs
    bench : costs of the bench profile
    task : what the model does, such as "classify"
    placement : the policy by name, or the path of its rules; `decided` is its result
    passes : sizes of each forward pass and how often it runs
    steps : of one pass, in order
    decided : the placement of each product
    host : time of host steps; None takes the profile's
    """

    model: RunnableModel
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
        """The placement of all runs of this plan, for any sizes."""
        return self.placement if self.placement in FIXED else self.decided

    @property
    def profile(self) -> OpticsProfile:
        """Constants of the bench."""
        return self.bench.profile

    @property
    def program(self) -> Program:
        """The steps of one pass."""
        return self.model.program(ENDINGS[self.task])

    @property
    def on_light(self) -> frozenset[str]:
        """Names of the matmuls that go to light."""
        return frozenset(step.name for step in self.steps if step.where == "optical")

    @property
    def units(self) -> int:
        """Number of tokens, or images, that the passes process."""
        return units_of(self.model, self.passes)[0]

    @property
    def seconds(self) -> float:
        """Predicted seconds on the bench, host steps overlapped with light."""
        return self.prediction.seconds

    @property
    def memory_bytes(self) -> int:
        """Memory of weights and operands of the largest pass on the host, in float32."""
        weights = sum(math.prod(shape) for shape in self.program.weight_shapes.values())
        return 4 * weights + max(self.program.peak_bytes(sizes) for sizes, _ in self.passes)

    @property
    def seconds_in_turn(self) -> float:
        """Predicted seconds of all steps one after another."""
        return sum(step.seconds for step in self.steps)

    @cached_property
    def prediction(self) -> Prediction:
        """The prediction for the bench."""
        return self.predict()

    def predict(self, timeline: Timeline | None = None) -> Prediction:
        """Simulate all passes, one after another.

        Parameters
        ----------
        timeline : receives the slices of the first pass
        """
        total, program, light = Prediction(), self.program, self.on_light
        for sizes, times in self.passes:
            one = predict(program, light, sizes, self.bench, self.host, timeline=timeline)
            total, timeline = total.plus(one, times), None
        return total

    def energy(self, *constants: str, machines: Sequence[Baseline] = ()) -> Account:
        """Return the energy account of the plan, without running it.

        Parameters
        ----------
        constants : names or files of constant sets; a later one overrides an earlier one
        machines : baselines beside those of the sets

        Raises
        ------
        InputError : for a set that cannot be used
        """
        on_light = self.on_light
        steps = [(step, step.name in on_light) for step in self.program.steps]
        parts = planned_events(steps, self.passes, self.bench)
        resolved = resolve(self.profile, constants, machines)
        return Account(parts, resolved, self.profile, *units_of(self.model, self.passes))

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


def units_of(
    model: RunnableModel, passes: Sequence[tuple[Mapping[str, int], int]]
) -> tuple[int, str]:
    """Return the number of tokens, images or rows that passes process, and the unit's name."""
    unit = {"vision": "image", "outputs": "row"}.get(model.task, "token")
    per_row = [1 if unit != "token" else sizes["new"] for sizes, _ in passes]
    counts = zip(passes, per_row, strict=True)
    return max(sum(n * sizes["batch"] * each for (sizes, n), each in counts), 1), unit


def plan_step(
    step: OpticalMatmul | HostStep,
    optical: bool,
    calls: Sequence[tuple[dict[str, int], int]],
    bench: BenchModel,
) -> PlannedStep:
    """Add up the costs of a step over all its calls."""
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
