"""Predicts a pass before it runs, with a model of `Pipeline` and of a bench.

A discrete-event simulation: products go to light in the order of the program, host steps run when
their operands are ready, and each resource does one thing at a time. With a host that takes no
time, all times equal those of a simulated bench on its virtual clock.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..backends import DeviceTimeline, JobShape, best_order, cuts, pack
from ..instruments import Timeline
from .costs import BenchModel, host_cost, optical_cost
from .graph import Dependencies, Node, StepRecord
from .micro_batch import details_of, micro_batches
from .program import HostStep, OpticalMatmul, Program
from .sizes import Shape, evaluate

DEVICES = ("input modulator", "weight modulator", "detector")
_EXACT_SHOTS = 40_000  # of a pass that is simulated shot by shot
_LARGE_JOB = 64  # shots of a job that is simulated as a whole, in a larger pass
CHOICES = (1, 2, 4, 8)  # numbers of micro-batches to try

Sizes = Mapping[str, int]
HostSeconds = Callable[[HostStep | OpticalMatmul, Sizes], float]


@dataclass(frozen=True)
class HostModel:
    """Time of the host, in seconds.

    Parameters
    ----------
    step : of a host step, or of a product that stays on the host
    feed, gather : of a product that goes to light, before and after its light
    """

    step: HostSeconds
    feed: HostSeconds = lambda step, sizes: 0.0
    gather: HostSeconds = lambda step, sizes: 0.0

    @classmethod
    def of(cls, bench: BenchModel) -> HostModel:
        """Return the host with the constants of a profile."""
        return cls(lambda step, sizes: host_cost(step, sizes, bench.profile).seconds)

    @classmethod
    def idle(cls) -> HostModel:
        """Return a host that takes no time, as with a virtual clock."""
        return cls(lambda step, sizes: 0.0)


class MeasuredHost:
    """Times of host steps from a measured run, scaled to other sizes.

    Parameters
    ----------
    records : of a run on this machine
    bench : its constants give the growth of a step with its sizes
    """

    def __init__(self, records: Iterable[StepRecord], bench: BenchModel) -> None:
        self._bench = bench
        self._ratios: dict[str, float] = {}  # measured seconds over those of the constants
        for record in records:
            calls = sum(
                times * host_cost(record.step, sizes, bench.profile).seconds
                for sizes, times in record.calls
            )
            if calls:
                self._ratios[record.step.name] = record.seconds / calls

    def seconds(self, step: HostStep | OpticalMatmul, sizes: Sizes) -> float:
        """Return the time of a step; a step that was not measured takes that of the constants."""
        seconds = host_cost(step, sizes, self._bench.profile).seconds
        return self._ratios.get(step.name, 1.0) * seconds

    def model(
        self, feed: tuple[float, float] = (0.0, 0.0), gather: tuple[float, float] = (0.0, 0.0)
    ) -> HostModel:
        """Return it as the host of a prediction.

        Parameters
        ----------
        feed, gather : of a product on light: fixed time, and time per number of x, or of y
        """

        def numbers(shapes: Iterable[Shape], sizes: Sizes) -> int:
            return sum(math.prod(evaluate(shape, sizes)) for shape in shapes)

        def fed(step: HostStep | OpticalMatmul, sizes: Sizes) -> float:
            assert isinstance(step, OpticalMatmul)
            operands = (step.x_shape, step.w_shape) if step.dynamic else (step.x_shape,)
            return feed[0] + feed[1] * numbers(operands, sizes)

        def gathered(step: HostStep | OpticalMatmul, sizes: Sizes) -> float:
            assert isinstance(step, OpticalMatmul)
            return gather[0] + gather[1] * numbers((step.y_shape,), sizes)

        return HostModel(self.seconds, fed, gathered)


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
        busy = self.busy_s
        if not busy:
            return "nothing"
        most = max((name for name in busy if name not in DEVICES), key=lambda name: busy[name])
        if most != "light":
            return most
        device = max(DEVICES, key=lambda name: busy.get(name, 0.0))
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
    host = HostModel.of(bench) if host is None else host
    return _Simulation(program, placed, sizes, bench, host, parts, timeline, start_s).run()


def best_parts(program: Program, placed: frozenset[str], sizes: Sizes, bench: BenchModel) -> int:
    """Return the fastest number of micro-batches: they overlap, but each needs all weight frames.

    It does not depend on measured times, so that a run can be repeated bit by bit.
    """
    choices = [count for count in CHOICES if count <= sizes["batch"]]
    if len(choices) < 2 or not placed:
        return 1
    host = HostModel.of(bench)

    def seconds(count: int) -> float:
        simulation = _Simulation(program, placed, sizes, bench, host, count, None, 0.0)
        return simulation.run().seconds

    times = {count: seconds(count) for count in choices}
    # prefer fewer: a part without gain costs frames
    return min(choices, key=lambda count: times[count] * (1 + 1e-3 * math.log2(count)))


class _Simulation:
    def __init__(
        self,
        program: Program,
        placed: frozenset[str],
        sizes: Sizes,
        bench: BenchModel,
        host: HostModel,
        parts: int,
        timeline: Timeline | None,
        start_s: float,
    ) -> None:
        self._program, self._bench, self._host, self._timeline = program, bench, host, timeline
        self._sizes = [
            {**sizes, "batch": last - first} for first, last in micro_batches(sizes["batch"], parts)
        ]
        self._is_light = [step.name in placed for step in program.steps]
        dependencies = Dependencies.of(program)
        self._feeds = dependencies.feeds
        self._needs = [list(dependencies.needs) for _ in self._sizes]
        self._start_s = start_s
        self._light = DeviceTimeline(bench.timing, start_s, timeline)
        self._ready: list[tuple[float, Node]] = []  # host steps, by the time of their operands
        self._waiting: list[Node] = []  # of these, those whose operands are ready now
        self._ready_light: dict[Node, float] = {}
        self._fed_s: dict[Node, float] = {}
        self._latest: dict[Node, float] = {}
        self._host_s = self._gather_s = self._end_s = start_s
        self._feed_s = start_s
        self._busy = {"light": 0.0, "host": 0.0, "feed": 0.0, "gather": 0.0}
        self._jobs: dict[tuple[Any, ...], list[tuple[JobShape, int]]] = {}
        self._is_exact = True
        for index, count in enumerate(dependencies.needs):
            for part in range(len(self._sizes)):
                if not count:
                    self._is_ready((index, part), start_s)

    def run(self) -> Prediction:
        light = self._light
        products = [
            (index, part)
            for index, is_light in enumerate(self._is_light)
            if is_light
            for part in range(len(self._sizes))
        ]
        shots = self._shots()
        self._is_exact = self._timeline is not None or shots <= _EXACT_SHOTS
        if not self._is_exact:
            light.exact_shots = _LARGE_JOB
        all_jobs = [self._jobs_of(node) for node in products]
        for number, (node, jobs) in enumerate(zip(products, all_jobs, strict=True)):
            following = products[number + 1] if number + 1 < len(products) else None
            fed_s = self._fed(node, math.inf)
            assert fed_s is not None
            begun_s = light.now_s = max(light.now_s, fed_s)
            for job, upcoming, times in jobs:
                if times > 1:
                    light.run(job, lambda _, job=job: job)  # type: ignore[misc]
                    light.pass_by(job, times - 2)
                light.run(job, partial(self._upcoming, upcoming, following))
            light.now_s += self._convert_s(node)
            self._busy["light"] += light.now_s - begun_s
            self._gathered(node, light.now_s)
        self._advance(math.inf)
        names = dict(zip(("input", "weight", "detector"), DEVICES, strict=True))
        busy = {names[role]: busy_s for role, busy_s in light.busy_s.items()}
        busy |= {name: busy_s for name, busy_s in self._busy.items() if busy_s}
        frames = {**light.frames, "detector": light.shots}
        end_s = max(self._end_s, self._host_s, self._gather_s)
        return Prediction(end_s - self._start_s, light.shots, frames, busy, len(self._sizes))

    # --- light -----------------------------------------------------------------------------------

    def _fed(self, node: Node | None, until_s: float) -> float | None:
        """Return the time at which a product has been fed to light; None if after `until_s`."""
        if node is None:
            return None
        self._advance(until_s)
        ready_s = self._ready_light.get(node)
        if ready_s is None:
            return None
        if node not in self._fed_s:
            step, sizes = self._program.steps[node[0]], self._sizes[node[1]]
            took_s = self._host.feed(step, sizes)
            start_s = max(ready_s, self._feed_s)
            if start_s > until_s:
                return None
            self._feed_s = self._fed_s[node] = start_s + took_s
            self._busy["feed"] += took_s
            self._note("feed", node, start_s, self._feed_s)
        fed_s = self._fed_s[node]
        return fed_s if fed_s <= until_s else None

    def _upcoming(self, job: JobShape | None, node: Node | None, until_s: float) -> JobShape | None:
        """Return the job that waits at a time: the next of this product, or of the following."""
        if job is None and node is not None and self._fed(node, until_s) is not None:
            return next((job for job, _, _ in self._jobs_of(node)), None)
        return job

    def _gathered(self, node: Node, done_s: float) -> None:
        step, sizes = self._program.steps[node[0]], self._sizes[node[1]]
        took_s = self._host.gather(step, sizes)
        start_s = max(done_s, self._gather_s)
        self._gather_s = start_s + took_s
        self._busy["gather"] += took_s
        self._note("gather", node, start_s, self._gather_s)
        self._done(node, self._gather_s)

    def _shots(self) -> int:
        """Count the shots of the whole pass."""
        total = 0
        for step, is_light in zip(self._program.steps, self._is_light, strict=True):
            if is_light and isinstance(step, OpticalMatmul):
                for sizes in self._sizes:
                    jobs = self._cached_jobs(step, sizes)
                    total += sum(job.tiles * job.vectors * times for job, times in jobs)
        return total

    def _jobs_of(self, node: Node) -> list[tuple[JobShape, JobShape | None, int]]:
        """Return the jobs of a product, each with the one that follows, and its count.

        In a simulation shot by shot every job is listed, otherwise each kind of job once.
        """
        step = self._program.steps[node[0]]
        assert isinstance(step, OpticalMatmul)
        sizes = self._sizes[node[1]]
        if self._timeline is not None:
            jobs = _jobs_of_product(step, sizes, self._bench, details_of(step, node[1]))
        else:
            jobs = self._cached_jobs(step, sizes)
        if self._is_exact:
            jobs = [(job, 1) for job, times in jobs for _ in range(times)]
        following = [job for job, _ in jobs[1:]]
        return [
            (job, after, times)
            for (job, times), after in zip(jobs, [*following, None], strict=True)
        ]

    def _cached_jobs(self, step: OpticalMatmul, sizes: Sizes) -> list[tuple[JobShape, int]]:
        key = (step.x_shape, step.w_shape, step.dynamic, step.non_negative, sizes["batch"])
        if key not in self._jobs:
            self._jobs[key] = _jobs_of_product(step, sizes, self._bench, {})
        return self._jobs[key]

    def _convert_s(self, node: Node) -> float:
        """Return the time of converters beyond the light, where the profile limits their rate."""
        profile = self._bench.profile
        if profile.dac_samples_per_s is None and profile.adc_samples_per_s is None:
            return 0.0
        step = self._program.steps[node[0]]
        assert isinstance(step, OpticalMatmul)
        took_s = optical_cost(step, self._sizes[node[1]], self._bench).convert_seconds
        self._busy["converters"] = self._busy.get("converters", 0.0) + took_s
        return took_s

    # --- host ------------------------------------------------------------------------------------

    def _advance(self, until_s: float) -> None:
        """Run host steps that are ready, the earliest of the program first, up to a time."""
        while True:
            while self._ready and self._ready[0][0] <= self._host_s:
                heapq.heappush(self._waiting, heapq.heappop(self._ready)[1])
            if not self._waiting:
                if not self._ready or self._ready[0][0] > until_s:
                    return
                self._host_s = self._ready[0][0]
                continue
            if self._host_s > until_s:
                return
            node = heapq.heappop(self._waiting)
            took_s = self._host.step(self._program.steps[node[0]], self._sizes[node[1]])
            start_s, self._host_s = self._host_s, self._host_s + took_s
            self._busy["host"] += took_s
            self._note("host", node, start_s, self._host_s)
            self._done(node, self._host_s)

    def _done(self, node: Node, at_s: float) -> None:
        index, part = node
        self._end_s = max(self._end_s, at_s)
        for other in self._feeds[index]:
            self._operand((other, part), at_s)

    def _operand(self, node: Node, at_s: float) -> None:
        index, part = node
        latest = self._latest.get(node, self._start_s)
        self._latest[node] = max(latest, at_s)
        self._needs[part][index] -= 1
        if not self._needs[part][index]:
            self._is_ready(node, self._latest.pop(node))

    def _is_ready(self, node: Node, at_s: float) -> None:
        if self._is_light[node[0]]:
            self._ready_light[node] = at_s
        else:
            heapq.heappush(self._ready, (at_s, node))

    def _note(self, track: str, node: Node, start_s: float, end_s: float) -> None:
        if self._timeline is not None and end_s > start_s:
            step = self._program.steps[node[0]]
            self._timeline.add(track, step.name, start_s, end_s, **details_of(step, node[1]))


def _jobs_of_product(
    step: OpticalMatmul, sizes: Sizes, bench: BenchModel, details: Mapping[str, Any]
) -> list[tuple[JobShape, int]]:
    """Return the jobs of a product, with the count of equal ones in a row, in a bench's order.

    Each signed row is assumed to need both exposures.
    """
    *leading, outputs, length = evaluate(step.w_shape, sizes)
    matrices = math.prod(leading)
    rows = math.prod(evaluate(step.x_shape, sizes)[:-1]) // max(matrices, 1)
    if not rows * outputs * length * matrices:
        return []
    geometry = bench.geometry
    count = rows * bench.profile.exposures(step.non_negative)
    groups = geometry.groups(outputs)
    few = min(matrices, 2 * groups)  # more matrices fill frames in the same way
    packing = pack([count] * few, outputs, geometry)
    jobs = Counter(zip(packing.tiles.tolist(), packing.vectors.tolist(), strict=True))
    segment = [
        (JobShape(*job, best_order(*job, bench.timing), details), -(-times * matrices // few))
        for job, times in jobs.items()
    ]
    segments = len(cuts(length, geometry.inputs))
    if len(segment) == 1:
        return [(segment[0][0], segments * segment[0][1])]
    return segment * segments
