"""When shots happen: their order, the times of a bench's devices, and those of whole jobs.

A bench takes shots in the order of `ShotOrder` (`bench.shot_plan`), and so does `DeviceTimeline`.

A modulator flips at whole refresh periods, and settles; the detector exposes and is read out. The
next frames are sent as soon as an exposure has ended, so that settling and read-out overlap.
`DeviceTimeline` executes the same steps as `bench.shots.ShotRunner`; on the virtual clock both give
the same times.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import compress, pairwise
from typing import Any

import numpy as np

from ..instruments import Timeline
from .tiling import ORDERS, Geometry, Order, pack, visits
from .timing import AHEAD, ModulatorTiming, ShotTiming

ROLES = ("weight", "input")
_EXACT = 4096  # shots of a job that are simulated one by one, at most
_TILES, _VECTORS = 16, 128  # simulated part of larger jobs
_COMPARED = 8  # frames of each modulator that suffice to compare the orders


class ShotOrder:
    """The order of the shots of one job after another.

    Parameters
    ----------
    reference_every : shots between two reference shots; 0 for none
    references_tiles : whether each weight frame has a reference shot, and each job one at its end
    counters : shots "since" the last reference, and "references" so far; each shot updates them
    """

    def __init__(
        self, reference_every: int, references_tiles: bool, counters: dict[str, int]
    ) -> None:
        self._every, self._references_tiles = reference_every, references_tiles
        self._counters = counters

    def shots(
        self, visited: Iterable[tuple[int, int]], order: Order, tile: int = -1
    ) -> Iterator[tuple[int, int | None]]:
        """Yield the weight frame and the input frame of each shot; no input frame for a reference.

        Parameters
        ----------
        visited : the frames of the shots without references (see `tiling.visits`)
        tile : weight frame of the shot before, in the same job; -1 for none
        """
        counters = self._counters
        # the last reference of the previous job also serves this job
        is_referenced = counters["since"] == 0 and counters["references"] > 0
        for weight, vector in visited:
            is_first = weight != tile and (tile < 0 or order == ORDERS[0])
            tile = weight
            is_due = (self._references_tiles and is_first) or 0 < self._every <= counters["since"]
            if is_due and not is_referenced:
                self._count_reference()
                yield weight, None
            is_referenced = False
            counters["since"] += 1
            yield weight, vector
        if self._references_tiles and tile >= 0:
            self._count_reference()
            yield tile, None

    def _count_reference(self) -> None:
        self._counters["since"] = 0
        self._counters["references"] += 1


@dataclass
class JobShape:
    """The frames and the order of a job.

    Parameters
    ----------
    tiles : number of weight frames
    vectors : number of input frames for each tile
    order : which frame stays while the other changes
    details : attributes of its events in a timeline
    """

    tiles: int
    vectors: int
    order: Order = "weight-stationary"
    details: Mapping[str, Any] = field(default_factory=dict)


def no_next_job(at_s: float) -> None:
    """Return None: no job follows."""


def one_more_shot(at_s: float) -> JobShape:
    """Return the next job, of one shot."""
    return JobShape(1, 1)


class DeviceTimeline:
    """The devices of a bench while they execute shots.

    Parameters
    ----------
    timing : of the devices
    start_s : start time
    timeline : records the events; every shot is simulated then

    Attributes
    ----------
    now_s : time at which the bench's thread is free
    exact_shots : larger jobs are extrapolated, unless there is a timeline
    shots, frames : taken and shown so far; frames by role
    busy_s : of exposing and reading out ("detector"), and of settling, by role
    """

    def __init__(
        self, timing: ShotTiming, start_s: float = 0.0, timeline: Timeline | None = None
    ) -> None:
        self.timing, self.now_s, self.timeline = timing, start_s, timeline
        self.exact_shots = _EXACT
        self.shots = 0
        self.frames = {"weight": 0, "input": 0}
        self.busy_s = {"weight": 0.0, "input": 0.0, "detector": 0.0}
        self._flips = {"weight": -math.inf, "input": -math.inf}
        self._settled = {"weight": -math.inf, "input": -math.inf}
        self._free_s = -math.inf
        self._waits = 0
        self._encoded_s = self._decoded_s = -math.inf
        self._begun: deque[float] = deque(maxlen=AHEAD + 1)  # starts of the last shots of a job
        self._counters = {"since": 0, "references": 0}
        self._order = ShotOrder(timing.reference_every, timing.references_tiles, self._counters)
        self._is_shown = False  # whether the next job's first frames are shown already

    def run(
        self, job: JobShape, next_job: Callable[[float], JobShape | None] = no_next_job
    ) -> None:
        """Execute a job from `now_s` on, until all of it has been decoded.

        Parameters
        ----------
        next_job : returns, when the last shot begins, the job that waits then or None; the first
            frames of that job are shown while the last shot is read
        """
        if self.timeline is None and job.tiles * job.vectors > self.exact_shots:
            self._run_large(job, next_job)
            return
        if not self._is_shown:
            self._begun.append(self.now_s)
            self._show(ROLES, job)
        shots = list(self.shown(job))
        for frames, following in pairwise(shots):
            changed = (a != b for a, b in zip(frames, following, strict=True))
            self._expose(job, tuple(compress(ROLES, changed)), job)
        if shots:
            upcoming = next_job(self.now_s)
            self._is_shown = upcoming is not None
            if upcoming is not None:
                self._begun.clear()  # its frames are encoded from now on
            self._expose(job, ROLES if upcoming else (), upcoming or job)
        if not self._is_shown:
            self._begun.clear()
        self.now_s = max(self.now_s, self._decoded_s)

    def shown(self, job: JobShape) -> Iterator[tuple[int, int | None]]:
        """Return the (weight, input) frames of each shot; no input frame for a reference shot."""
        visited = visits(job.tiles, job.vectors, job.order).tolist()
        return self._order.shots(visited, job.order)

    def _run_large(self, job: JobShape, next_job: Callable[[float], JobShape | None]) -> None:
        """Extrapolate a large job from its growth, which is computed once."""
        shown = self._is_shown
        growths = _growth(job.tiles, job.vectors, job.order, self.timing.devices, shown)
        ends_s = self.now_s + float(growths[0][1][0])
        part, grown = growths[next_job(ends_s) is not None]
        self._take(part, self._state() + grown)

    def pass_by(self, job: JobShape, times: int) -> None:
        """Extrapolate a number of equal jobs, each followed by another one."""
        if times > 0:
            growths = _growth(job.tiles, job.vectors, job.order, self.timing.devices, True)
            part, grown = growths[True]
            self._take(part, self._state() + times * grown)

    def _state(self) -> np.ndarray:
        counts = (self.shots, self._counters["references"], *self.frames.values())
        return np.array([self.now_s, *counts, *self.busy_s.values()])

    def _take(self, devices: DeviceTimeline, state: np.ndarray) -> None:
        """Continue from the state of another timeline, with this time and these counts."""
        later_s = float(state[0]) - devices.now_s
        self._flips, self._settled = (
            {role: at_s + later_s for role, at_s in times.items()}
            for times in (devices._flips, devices._settled)
        )
        self._is_shown = devices._is_shown
        self.now_s = float(state[0])
        self.shots, references, *frames = (round(count) for count in state[1:5].tolist())
        self._counters.update(since=devices._counters["since"], references=references)
        self.frames = dict(zip(self.frames, frames, strict=True))
        self.busy_s = dict(zip(self.busy_s, state[5:].tolist(), strict=True))
        self._begun = deque((moment + later_s for moment in devices._begun), devices._begun.maxlen)
        self._free_s = devices._free_s + later_s
        self._encoded_s = devices._encoded_s + later_s
        self._decoded_s = devices._decoded_s + later_s

    def _expose(self, job: JobShape, after: tuple[str, ...], upcoming: JobShape) -> None:
        timing = self.timing
        self._begun.append(self.now_s)
        self._wait_until(max(self._settled["input"], self._settled["weight"]))
        now = self.now_s
        if timing.window_s:
            end = now + timing.window_s
            self._note("detector", "exposure", now, end, job)
            self.busy_s["detector"] += end - now
            self._wait_until(end)
            self._show(after, upcoming)
        else:
            start = max(now + timing.trigger_latency_s, self._free_s)
            end = start + timing.exposure_s + timing.rolling_s
            self._free_s = max(end, end + timing.readout_s - timing.exposure_s)
            read = end + timing.readout_s
            self.busy_s["detector"] += read - start
            self._note("detector", "exposure", start, end, job)
            self._note("detector", "read-out", end, read, job)
            self._wait_until(end if timing.shows_early else read)
            self._show(after, upcoming)
            self._wait_until(read)
        self.now_s += timing.shot_s
        # the previous shot is checked now, while this one is decoded
        self.now_s = max(self.now_s, self._decoded_s)
        self._decoded_s = max(self._decoded_s, self.now_s) + timing.decode_s
        self._note("decode", "decode", self._decoded_s - timing.decode_s, self._decoded_s, job)
        self.shots += 1

    def _wait_until(self, moment_s: float) -> None:
        """Let the thread that takes shots wait, and wake up late."""
        if moment_s > self.now_s:
            self.now_s = moment_s + self.timing.late_after(self._waits)
            self._waits += 1

    def _show(self, roles: tuple[str, ...], job: JobShape) -> None:
        timing = self.timing
        for role in roles:
            # encoded in advance, some shots ago, by a thread that encodes one frame at a time
            encode_s = timing.encode_s[role == "weight"]
            self._encoded_s = max(self._encoded_s, self._begun[0]) + encode_s
            self._note("encode", f"{role} frame", self._encoded_s - encode_s, self._encoded_s, job)
            modulator: ModulatorTiming = getattr(timing, role)
            self.now_s = max(self.now_s, self._encoded_s) + timing.show_s + modulator.transfer_s
            flip, period = self.now_s, modulator.refresh_s
            if period:
                flip = max(
                    math.ceil(self.now_s / period - 1e-6) * period, self._flips[role] + period
                )
            settled = flip + modulator.latency_s + modulator.settle_s
            settled = max(settled, flip + modulator.trusted_s)
            self._flips[role], self._settled[role] = flip, settled
            self.frames[role] += 1
            self.busy_s[role] += settled - flip
            self._note(role, "settling", flip, settled, job)

    def _note(self, track: str, name: str, start_s: float, end_s: float, job: JobShape) -> None:
        if self.timeline is not None and end_s > start_s:
            self.timeline.add(track, name, start_s, end_s, **job.details)


def _corners(count: int, most: int) -> Iterator[tuple[int, float]]:
    """Yield the counts to simulate for a count, each with its weight in linear extrapolation."""
    if count <= most:
        yield count, 1.0
        return
    along = (count - most // 2) / (most - most // 2)
    yield most // 2, 1 - along
    yield most, along


@lru_cache(maxsize=4096)
def _growth(
    tiles: int, vectors: int, order: Order, timing: ShotTiming, is_shown: bool
) -> tuple[tuple[DeviceTimeline, np.ndarray], tuple[DeviceTimeline, np.ndarray]]:
    """Return how times and counts grow during a job, alone and followed by another one.

    Only parts of the job are simulated. Each tile and each of its shots take time: times and counts
    are bilinear in both, up to the beat of refresh periods of different length.
    """
    growths = []
    for next_job in (no_next_job, one_more_shot):
        total = np.zeros(8)
        for some_tiles, tile_weight in _corners(tiles, _TILES):
            for some_vectors, vector_weight in _corners(vectors, _VECTORS):
                devices = DeviceTimeline(timing)
                devices.exact_shots = _TILES * _VECTORS
                devices.run(JobShape(1, 1), one_more_shot if is_shown else no_next_job)
                before = devices._state()
                job = JobShape(some_tiles, some_vectors, order)
                devices.run(job, next_job)
                total += tile_weight * vector_weight * (devices._state() - before)
        growths.append((devices, total))
    return growths[0], growths[1]


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
    shots : exposures
    weight_frames, input_frames : numbers of different frames
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
