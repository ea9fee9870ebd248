"""`ShotLight`: the time of light in a prediction, shot by shot.

Each product is divided into the jobs that a bench would take, and `DeviceTimeline` executes their
shots. In very large passes, equal jobs of a product are extrapolated from one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from ..backends import DeviceTimeline, JobShape, best_order, cuts, pack
from ..instruments import Timeline
from .costs import BenchModel, optical_cost
from .graph import Node, signature
from .micro_batch import details_of
from .pass_model import NextProduct
from .program import OpticalMatmul, Program, Sizes

_EXACT_SHOTS = 40_000  # of a pass that is simulated shot by shot
_LARGE_JOB = 64  # shots of a job that is simulated as a whole, in a larger pass


class ShotLight:
    """Light that takes products shot by shot.

    Parameters
    ----------
    products : all products of the pass
    sizes : of each micro-batch
    timeline : receives the slices of the devices, and all shots are simulated then; None for none

    Attributes
    ----------
    devices : modulators and detector, with their shots, frames and busy times
    busy_s : time in which a product is pending
    converters_s : part of it in which converters work beyond the light
    """

    def __init__(
        self,
        program: Program,
        products: Collection[Node],
        sizes: Sequence[Sizes],
        bench: BenchModel,
        start_s: float = 0.0,
        timeline: Timeline | None = None,
    ) -> None:
        self._program, self._sizes, self._bench = program, sizes, bench
        self.devices = DeviceTimeline(bench.timing, start_s, timeline)
        self.busy_s = self.converters_s = 0.0
        self._jobs: dict[Hashable, list[tuple[JobShape, int]]] = {}
        shots = sum(
            times * job.tiles * job.vectors
            for node in products
            for job, times in self._jobs_of(node)
        )
        self._is_exact = timeline is not None or shots <= _EXACT_SHOTS
        if not self._is_exact:
            self.devices.exact_shots = _LARGE_JOB

    def run(self, node: Node, fed_s: float, next_product: NextProduct) -> float:
        """Run a product that was fed to light at a time, and return the time of its end."""
        devices, jobs = self.devices, self._jobs_of(node)
        begun_s = devices.now_s = max(devices.now_s, fed_s)
        followers = [*(job for job, _ in jobs[1:]), None]
        for (job, times), follower in zip(jobs, followers, strict=True):
            simulated = times - 1 if self._is_exact else min(times - 1, 1)
            for _ in range(simulated):
                devices.run(job, partial(self._next_job, job, next_product))
            devices.pass_by(job, times - 1 - simulated)
            devices.run(job, partial(self._next_job, follower, next_product))
        devices.now_s += self._convert_s(node)
        self.busy_s += devices.now_s - begun_s
        return devices.now_s

    def _next_job(
        self, follower: JobShape | None, next_product: NextProduct, at_s: float
    ) -> JobShape | None:
        """Return the job that waits at a time: the next of this product, or of the next product."""
        if follower is not None:
            return follower
        node = next_product(at_s)
        return None if node is None else next((job for job, _ in self._jobs_of(node)), None)

    def _jobs_of(self, node: Node) -> list[tuple[JobShape, int]]:
        """Return the jobs of a product, with the count of equal ones in a row."""
        step, sizes = self._product(node), self._sizes[node[1]]
        key: Hashable = (*signature(step, True), sizes["batch"])
        details: dict[str, Any] = {}
        if self.devices.timeline is not None:
            key, details = node, details_of(step, node[1])
        if key not in self._jobs:
            self._jobs[key] = _jobs_of_product(step, sizes, self._bench, details)
        return self._jobs[key]

    def _convert_s(self, node: Node) -> float:
        """Return the time of converters beyond the light, where the profile limits their rate."""
        profile = self._bench.profile
        if profile.dac_samples_per_s is None and profile.adc_samples_per_s is None:
            return 0.0
        cost = optical_cost(self._product(node), self._sizes[node[1]], self._bench)
        self.converters_s += cost.convert_seconds
        return cost.convert_seconds

    def _product(self, node: Node) -> OpticalMatmul:
        step = self._program.steps[node[0]]
        assert isinstance(step, OpticalMatmul)
        return step


def _jobs_of_product(
    step: OpticalMatmul, sizes: Sizes, bench: BenchModel, details: Mapping[str, Any]
) -> list[tuple[JobShape, int]]:
    """Return the jobs of a product, with the count of equal ones in a row, in a bench's order.

    Each signed row is assumed to need both exposures.
    """
    matrices, rows, outputs, length = step.product_sizes(sizes)
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
