"""The frames and the time of the jobs of a product, and the faster order of their shots."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .device_timeline import DeviceTimeline, JobShape, one_more_shot
from .tiling import ORDERS, Geometry, Order, pack
from .timing import ShotTiming

_COMPARED = 8  # frames of each modulator that suffice to compare the orders


@lru_cache(maxsize=4096)
def job_seconds(tiles: int, vectors: int, order: Order, timing: ShotTiming) -> float:
    """Return the duration of a job between equal jobs."""
    devices = DeviceTimeline(timing)
    devices.run(JobShape(1, 1), one_more_shot)
    start_s = devices.now_s
    devices.run(JobShape(tiles, vectors, order), one_more_shot)
    return devices.now_s - start_s


@lru_cache(maxsize=64)
def first_wait_s(timing: ShotTiming) -> float:
    """Return the extra time of a job whose first frames were not shown during another one."""
    devices = DeviceTimeline(timing.devices)
    devices.run(JobShape(1, 1))
    return max(0.0, devices.now_s - job_seconds(1, 1, "weight-stationary", timing.devices))


@lru_cache(maxsize=4096)
def best_order(tiles: int, vectors: int, timing: ShotTiming) -> Order:
    """Return the order that takes less time on the devices; weight-stationary if both are equal.

    It depends only on the times of changing either modulator, so a few frames suffice.
    """
    if min(tiles, vectors) < 2:
        return "weight-stationary"
    if max(tiles, vectors) > _COMPARED:
        return best_order(min(tiles, _COMPARED), min(vectors, _COMPARED), timing)
    first, second = (job_seconds(tiles, vectors, order, timing.devices) for order in ORDERS)
    return ORDERS[second < first * (1 - 1e-9)]


@dataclass(frozen=True)
class Frames:
    """The frames and shots of the products of one segment.

    Parameters
    ----------
    inputs_shown : vectors of all shown input frames
    loads : mean number of times that each weight is shown
    jobs : (number of equal jobs, weight frames, input frames)
    """

    shots: int
    weight_frames: int
    input_frames: int
    inputs_shown: int
    loads: Fraction
    jobs: tuple[tuple[int, int, int], ...]
    order: Order

    def seconds(self, timing: ShotTiming) -> float:
        """Return the time of the devices without interruptions."""
        return sum(
            count * job_seconds(tiles, vectors, self.order, timing.devices)
            for count, tiles, vectors in self.jobs
            if tiles and vectors
        )


@lru_cache(maxsize=4096)
def frames_of(
    counts: tuple[int, ...], outputs: int, geometry: Geometry, timing: ShotTiming
) -> Frames:
    """Return the frames and shots of one segment.

    Parameters
    ----------
    counts : input vectors of each matrix, exposures of x+ and x- counted separately
    outputs : rows of each matrix
    """
    packing = pack(counts, outputs, geometry)
    jobs = Counter(zip(packing.tiles.tolist(), packing.vectors.tolist(), strict=True))
    (tiles, vectors), _ = jobs.most_common(1)[0]
    order = best_order(tiles, vectors, timing)
    weight_frames, input_frames = packing.frames(order)
    return Frames(
        packing.shots,
        weight_frames,
        input_frames,
        packing.inputs_shown(order),
        Fraction(weight_frames, max(int(packing.tiles.sum()), 1)),
        tuple((count, *job) for job, count in jobs.items()),
        order,
    )
