"""What shots take: the same steps as a bench's, on a model of its devices' clocks.

A modulator flips at whole refresh periods, and settles; the detector exposes and is read out. The
next frames are handed over as soon as an exposure has ended, so that settling and read-out overlap.
`DeviceTimeline` goes through shots as `bench.shots.ShotRunner` does; on the virtual clock both give
the same moments.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np

from ..instruments import Timeline
from .profile import OpticsProfile
from .tiling import ORDERS, Geometry, Order, pack, visits

_EXACT = 4096  # shots of a job that are gone through one by one
_TILES, _VECTORS = 16, 128  # of larger ones, what is gone through
AHEAD = 2  # shots whose frames are laid out before they are shown
_TELLING = 8  # frames of each modulator that tell which order is the faster one

ROLES = ("weight", "input")


@dataclass(frozen=True)
class ModulatorTiming:
    """A modulator's times.

    Parameters
    ----------
    transfer_s : of a frame, before it can be shown
    trusted_s : from a flip until its light was measured to be settled
    """

    refresh_s: float = 0.0
    latency_s: float = 0.0
    settle_s: float = 0.0
    trusted_s: float = 0.0
    transfer_s: float = 0.0


@dataclass(frozen=True)
class ShotTiming:
    """What the devices of a bench take, and what the host does for each shot.

    Parameters
    ----------
    rolling_s : from the first row's exposure to the last row's
    window_s : of a photodiode's samples; 0 with a camera
    shows_early : the next frames are handed over before the detector is read
    reference_every : shots between two reference shots; 0 for none
    references_tiles : each weight frame has one of its own, and each job one at its end
    encode_s : of an input frame and of a weight frame, by a thread of its own
    show_s, shot_s : of handing a frame over, and of everything else of a shot
    decode_s : of a shot, by a thread of its own
    """

    input: ModulatorTiming
    weight: ModulatorTiming
    exposure_s: float
    readout_s: float = 0.0
    rolling_s: float = 0.0
    trigger_latency_s: float = 0.0
    window_s: float = 0.0
    shows_early: bool = True
    reference_every: int = 0
    references_tiles: bool = False
    encode_s: tuple[float, float] = (0.0, 0.0)
    show_s: float = 0.0
    shot_s: float = 0.0
    decode_s: float = 0.0

    @classmethod
    def of(cls, profile: OpticsProfile) -> ShotTiming:
        """Take the times of a profile: a camera, or converters that keep up."""
        return cls(
            ModulatorTiming(profile.input_refresh_s, 0.0, profile.input_settle_s),
            ModulatorTiming(profile.weight_refresh_s, 0.0, profile.weight_settle_s),
            profile.exposure_s,
            profile.readout_s,
        )

    @property
    def devices(self) -> ShotTiming:
        """The same without what the host takes."""
        return replace(self, encode_s=(0.0, 0.0), show_s=0.0, shot_s=0.0, decode_s=0.0)

    @property
    def period_s(self) -> float:
        """Settling, exposure and read-out, rounded up to whole refresh periods of the input.

        The period of a bench that does one after the other, which overlap may beat.
        """
        whole = self.input.latency_s + max(self.input.settle_s, self.input.trusted_s)
        whole += self.exposure_s + self.rolling_s + self.readout_s
        return whole_periods(whole, self.input.refresh_s)


def whole_periods(duration_s: float, period_s: float) -> float:
    """Round a duration up to whole periods, at least one; as it is without a period."""
    if period_s == 0:
        return duration_s
    return max(1, math.ceil(duration_s / period_s - 1e-9)) * period_s


@dataclass
class JobShape:
    """What a job has the devices do.

    Parameters
    ----------
    details : what a timeline should say of it
    """

    tiles: int
    vectors: int
    order: Order = "weight-stationary"
    details: Mapping[str, Any] = field(default_factory=dict)


def alone(at_s: float) -> None:
    """Say that no job follows."""


def again(at_s: float) -> JobShape:
    """Say that a job of one shot follows."""
    return JobShape(1, 1)


class DeviceTimeline:
    """The devices of a bench, going through shots.

    Parameters
    ----------
    timing : of them
    start_s : when it begins
    timeline : where slices go; then every shot is gone through

    Attributes
    ----------
    now_s : when the bench's thread is free
    exact_shots : a job of more shots passes at once, unless there is a timeline
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
        self.references = 0
        self._flips = {"weight": -math.inf, "input": -math.inf}
        self._settled = {"weight": -math.inf, "input": -math.inf}
        self._free_s = -math.inf
        self._encoded_s = self._decoded_s = -math.inf
        self._begun: deque[float] = deque(maxlen=AHEAD + 1)  # when the last shots of a job did
        self._since_reference = 0
        self._is_shown = False  # the next job's first frames, already

    def run(self, work: JobShape, followed: Callable[[float], JobShape | None] = alone) -> None:
        """Go through a job, begun no earlier than `now_s`, until all of it has been decoded.

        Parameters
        ----------
        followed : gives, when the last shot begins, the job that waits, if any: its first frames
            are then shown while that shot is read
        """
        if self.timeline is None and work.tiles * work.vectors > self.exact_shots:
            self._run_large(work, followed)
            return
        if not self._is_shown:
            self._begun.append(self.now_s)
            self._show(ROLES, work)
        keys = None
        for following in self.keys(work):
            if keys is not None:
                changed = (a != b for a, b in zip(keys, following, strict=True))
                self._expose(work, tuple(compress(ROLES, changed)), work)
            keys = following
        if keys is not None:
            upcoming = followed(self.now_s)
            self._is_shown = upcoming is not None
            if upcoming is not None:
                self._begun.clear()  # its frames are laid out from now on
            self._expose(work, ROLES if upcoming else (), upcoming or work)
        if not self._is_shown:
            self._begun.clear()
        self.now_s = max(self.now_s, self._decoded_s)

    def keys(self, work: JobShape) -> Iterator[tuple[int, int]]:
        """Yield the (weight, input) frames of each shot; a reference shot has inputs below 0."""
        every, tile = self.timing.reference_every, -1
        is_referenced = self._since_reference == 0 and self.references > 0  # by the job before
        for weight, vector in visits(work.tiles, work.vectors, work.order).tolist():
            is_first = weight != tile and (tile < 0 or work.order == ORDERS[0])
            is_first, is_referenced = is_first and not is_referenced, False
            tile = weight
            if (self.timing.references_tiles and is_first) or (0 < every <= self._since_reference):
                self._since_reference = 0
                self.references += 1
                yield weight, -self.references
            self._since_reference += 1
            yield weight, vector
        if self.timing.references_tiles and tile >= 0:
            self._since_reference = 0
            self.references += 1
            yield tile, -self.references

    def _run_large(self, work: JobShape, followed: Callable[[float], JobShape | None]) -> None:
        """Let a large job pass at once: as it takes from a common beginning, found once."""
        shown = self._is_shown
        steady = _steady(work.tiles, work.vectors, work.order, self.timing.devices, shown)
        ends_s = self.now_s + float(steady[0][1][0])
        part, grown = steady[followed(ends_s) is not None]
        self._take(part, self._state() + grown)

    def pass_by(self, work: JobShape, times: int) -> None:
        """Let so many like jobs pass at once, each followed by another."""
        if times > 0:
            steady = _steady(work.tiles, work.vectors, work.order, self.timing.devices, True)
            part, grown = steady[True]
            self._take(part, self._state() + times * grown)

    def _state(self) -> np.ndarray:
        counts = (self.shots, self.references, *self.frames.values(), *self.busy_s.values())
        return np.array([self.now_s, *counts])

    def _take(self, light: DeviceTimeline, state: np.ndarray) -> None:
        """Go on from where another one stands, but with this time and these counts."""
        later_s = float(state[0]) - light.now_s
        self._flips, self._settled = dict(light._flips), dict(light._settled)
        self._is_shown, self._since_reference = light._is_shown, light._since_reference
        self.now_s = float(state[0])
        self.shots, self.references, *frames = (round(count) for count in state[1:5].tolist())
        self.frames = dict(zip(self.frames, frames, strict=True))
        self.busy_s = dict(zip(self.busy_s, state[5:].tolist(), strict=True))
        for times in (self._flips, self._settled):
            for role in times:
                times[role] += later_s
        self._begun = deque((moment + later_s for moment in light._begun), light._begun.maxlen)
        self._free_s = light._free_s + later_s
        self._encoded_s, self._decoded_s = light._encoded_s + later_s, light._decoded_s + later_s

    def _expose(self, work: JobShape, after: tuple[str, ...], upcoming: JobShape) -> None:
        timing = self.timing
        self._begun.append(self.now_s)
        now = max(self.now_s, self._settled["input"], self._settled["weight"])
        if timing.window_s:
            end = now + timing.window_s
            self._note("detector", "exposure", now, end, work)
            self.busy_s["detector"] += end - now
            self.now_s = end
            self._show(after, upcoming)
        else:
            start = max(now + timing.trigger_latency_s, self._free_s)
            end = start + timing.exposure_s + timing.rolling_s
            self._free_s = max(end, end + timing.readout_s - timing.exposure_s)
            read = end + timing.readout_s
            self.busy_s["detector"] += read - start
            self._note("detector", "exposure", start, end, work)
            self._note("detector", "read-out", end, read, work)
            self.now_s = end if timing.shows_early else read
            self._show(after, upcoming)
            self.now_s = max(self.now_s, read)
        self.now_s += timing.shot_s
        # the shot before is judged now; this one is decoded meanwhile
        self.now_s = max(self.now_s, self._decoded_s)
        self._decoded_s = max(self._decoded_s, self.now_s) + timing.decode_s
        self._note("decode", "decode", self._decoded_s - timing.decode_s, self._decoded_s, work)
        self.shots += 1

    def _show(self, roles: tuple[str, ...], work: JobShape) -> None:
        timing = self.timing
        for role in roles:
            # laid out ahead, since some shots ago, by a thread that does one frame after another
            encode_s = timing.encode_s[role == "weight"]
            self._encoded_s = max(self._encoded_s, self._begun[0]) + encode_s
            self._note("encode", f"{role} frame", self._encoded_s - encode_s, self._encoded_s, work)
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
            self._note(role, "settling", flip, settled, work)

    def _note(self, track: str, name: str, start_s: float, end_s: float, work: JobShape) -> None:
        if self.timeline is not None and end_s > start_s:
            self.timeline.add(track, name, start_s, end_s, **work.details)


def _corners(count: int, most: int) -> Iterator[tuple[int, float]]:
    """Return what to go through for a count, and with which weight: it grows along a line."""
    if count <= most:
        yield count, 1.0
        return
    along = (count - most // 2) / (most - most // 2)
    yield most // 2, 1 - along
    yield most, along


@lru_cache(maxsize=4096)
def _steady(
    tiles: int, vectors: int, order: Order, timing: ShotTiming, is_shown: bool
) -> tuple[tuple[DeviceTimeline, np.ndarray], tuple[DeviceTimeline, np.ndarray]]:
    """Find how times and counts grow in a job, not followed and followed by another one.

    Parts of it are gone through. Each tile costs something, and each shot of it: times and counts
    are bilinear in both, up to how refresh periods of different length happen to fall.
    """
    found = []
    for followed in (alone, again):
        total = np.zeros(8)
        for some_tiles, share in _corners(tiles, _TILES):
            for some_vectors, part in _corners(vectors, _VECTORS):
                light = DeviceTimeline(timing)
                light.exact_shots = _TILES * _VECTORS
                light.run(JobShape(1, 1), again if is_shown else alone)
                before = light._state()
                work = JobShape(some_tiles, some_vectors, order)
                light.run(work, followed)
                total += share * part * (light._state() - before)
        found.append((light, total))
    return found[0], found[1]


@lru_cache(maxsize=4096)
def job_seconds(tiles: int, vectors: int, order: Order, timing: ShotTiming) -> float:
    """Return what a job takes between others like it."""
    light = DeviceTimeline(timing)
    light.run(JobShape(1, 1), again)
    start_s = light.now_s
    light.run(JobShape(tiles, vectors, order), again)
    return light.now_s - start_s


@lru_cache(maxsize=64)
def first_wait_s(timing: ShotTiming) -> float:
    """Return what a job takes longer whose first frames were not shown during another one."""
    light = DeviceTimeline(timing.devices)
    light.run(JobShape(1, 1))
    return max(0.0, light.now_s - job_seconds(1, 1, "weight-stationary", timing.devices))


@lru_cache(maxsize=4096)
def best_order(tiles: int, vectors: int, timing: ShotTiming) -> Order:
    """Return the order that takes less time on the devices; weights rest when both take the same.

    What a change of either modulator takes decides it, so a few of each tell.
    """
    if min(tiles, vectors) < 2:
        return "weight-stationary"
    if max(tiles, vectors) > _TELLING:
        return best_order(min(tiles, _TELLING), min(vectors, _TELLING), timing)
    first, second = (job_seconds(tiles, vectors, order, timing.devices) for order in ORDERS)
    return ORDERS[second < first * (1 - 1e-9)]


@dataclass(frozen=True)
class Frames:
    """What the products of one segment have the devices show and take.

    Parameters
    ----------
    inputs_shown : vectors of all input frames shown
    loads : how often each weight is shown, in the mean
    jobs : (how many alike, weight frames, input frames)
    """

    shots: int
    weight_frames: int
    input_frames: int
    inputs_shown: int
    loads: Fraction
    jobs: tuple[tuple[int, int, int], ...]
    order: Order

    def seconds(self, timing: ShotTiming) -> float:
        """Return the time of the devices, while light is not interrupted."""
        return sum(
            count * job_seconds(tiles, vectors, self.order, timing.devices)
            for count, tiles, vectors in self.jobs
            if tiles and vectors
        )


@lru_cache(maxsize=4096)
def frames_of(
    counts: tuple[int, ...], outputs: int, geometry: Geometry, timing: ShotTiming
) -> Frames:
    """Count what one segment takes.

    Parameters
    ----------
    counts : input vectors of each matrix, exposures of x+ and of x- counted apart
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
