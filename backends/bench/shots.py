"""`Shots`: takes the shots of a job as fast as the devices go, and repeats what cannot be trusted.

Three things happen at once: the next frames are laid out, the present ones are shown, settle and
are exposed, and the shot before is decoded. As soon as an exposure has ended the next frames are
handed to the modulators, while the detector is read out. A shot is judged exactly two shots after
it was taken, and all shots of a job before the first of the next one, so what is repeated, and in
which order, never depends on how fast a computer is.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np

from ...instruments import (
    Drifted,
    NotConnected,
    Saturated,
    Shot,
    Shown,
    StaleFrame,
    Timeline,
    WrongLight,
    WrongSum,
)
from ..base import Stats
from ..tiling import Order, visits
from ..timing import AHEAD
from .bench import REPEATABLE, WINDOW_SAMPLES, Bench
from .grey import GreyCurve
from .layouts import Layout, Marks, Optics, Response
from .tracking import ScaleTracker

_REPEATABLE = (*REPEATABLE, WrongLight, WrongSum)
_BEHIND = 2  # shots that may be taken before one is judged
_REFERENCE = "reference"  # the name of a reference shot
_REFERENCE_OFF, _REFERENCE_FLOOR = 0.3, 0.0025  # share of its own light, and of full light


@dataclass(frozen=True)
class TileJob:
    """Weight frames, and the input frames that pass through each of them.

    Parameters
    ----------
    name : of the job, the address of its shots
    tiles, vectors : how many weight frames and input frames it has
    weight : grey levels [slots, length] of a weight frame, by its number
    input : grey levels [slots, length] of an input frame, [1, length] where slots share it
    order : in which they meet (see `tiling.visits`)
    details : what a timeline should say of it
    check : judges the electrons [slots] of a shot, at calibration's brightness, by its weight frame
        and input frame; gives the largest |z| of its sums, or None where it has none, and raises
        WrongSum. Called by the thread that decodes, for shots that are no references
    """

    name: str
    tiles: int
    vectors: int
    weight: Callable[[int], np.ndarray]
    input: Callable[[int], np.ndarray]
    order: Order = "weight-stationary"
    details: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[int, int, np.ndarray], float | None] | None = None
    number: int = field(default_factory=itertools.count().__next__)  # no two jobs share one


@dataclass(frozen=True)
class TileResult:
    """Photoelectrons of a job [weight frames, input frames, slots], at calibration's brightness."""

    electrons: np.ndarray
    stats: Stats


@dataclass(frozen=True)
class _Planned:
    """A shot to be taken: which frames, and what is expected.

    Parameters
    ----------
    input : number of the input frame; a text for a reference
    expected : electrons of a reference, float64 [slots]
    since : shots since the reference before
    """

    job: TileJob
    name: str
    weight: int
    input: int | str
    expected: np.ndarray | None = None
    since: int = 0

    def key(self, role: str) -> tuple[int, int | str]:
        """Say which frame of a modulator it needs."""
        return self.job.number, self.weight if role == "weight" else self.input


@dataclass(frozen=True)
class _Frame:
    """A frame laid out, with the number that its marker shows."""

    role: str
    key: tuple[int, int | str]
    levels: np.ndarray
    number: int
    pixels: np.ndarray


@dataclass(frozen=True)
class _Next:
    """A planned shot, and the frames that are laid out for it: those that change."""

    planned: _Planned
    frames: dict[str, Future[_Frame]]


@dataclass(frozen=True)
class _Taken:
    """What the detector took, and of which frames it should be."""

    shot: Shot
    data: np.ndarray
    frames: dict[str, _Frame]
    planned: _Planned


@dataclass
class _Course:
    """How far a job has come.

    Parameters
    ----------
    next : the shot that comes next; None after the last
    """

    job: TileJob
    stats: Stats
    ahead: Iterator[_Next]
    next: _Next | None = None

    def advance(self) -> None:
        """Go on to the shot after this one."""
        self.next = next(self.ahead, None)


class Shots:
    """Takes shots on an open bench.

    Parameters
    ----------
    bench : open
    layout, optics, response, curves : what is known of it
    tracker : of the light's drift; None where nothing is known of it
    reference_every : shots between two reference shots; 0 for none
    settling_s : from a flip until its light is trusted, by role, where it was measured
    is_guessed : markers are not read, for nobody knows where they are
    faults : reason -> how often a shot was repeated for it, counted on

    Attributes
    ----------
    references : reference shots taken
    stops : set to end after the shot that is being taken
    upcoming : tells the job that waits after the present one
    timeline : where slices of what happens go, if anybody wants them
    """

    def __init__(
        self,
        bench: Bench,
        layout: Layout,
        optics: Optics,
        response: Response,
        curves: dict[str, GreyCurve],
        tracker: ScaleTracker | None,
        reference_every: int,
        settling_s: dict[str, float],
        is_guessed: bool,
        faults: dict[str, int],
    ) -> None:
        self.bench, self.layout, self.optics, self.response = bench, layout, optics, response
        self.curves, self.tracker, self.faults = curves, tracker, faults
        self.references = 0
        self.stops = Event()
        self.upcoming: Callable[[], TileJob | None] = lambda: None
        self.timeline: Timeline | None = None
        self._reference_every, self._settling_s = reference_every, settling_s
        self._is_guessed = is_guessed
        self._since_reference = 0
        self._numbers = {"input": 0, "weight": 0}  # of the latest frames laid out
        self._flips = {"input": 0, "weight": 0}  # frames shown
        self._shown: dict[str, tuple[Shown, _Frame]] = {}
        self._courses: dict[int, _Course] = {}
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-encode")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-decode")
        self._is_bucket = bench.file.layout == "block"
        if self._is_bucket:
            for counter in (0, 1):
                bench.daq.reset_count(counter)
        else:
            bench.camera.arm()

    def close(self) -> None:
        """Let the threads go, once what they do is done."""
        self.stops.set()
        self._encoder.shutdown(cancel_futures=True)
        self._decoder.shutdown(cancel_futures=True)

    # --- a job -----------------------------------------------------------------------------------

    def run(self, job: TileJob) -> TileResult:
        """Take all shots of a job; the first frames of the next one may be shown already.

        Raises
        ------
        StaleFrame, WrongLight, ... : when repeats do not help
        Saturated, Drifted : at once
        """
        course = self._course(job)
        electrons = np.zeros((job.tiles, job.vectors, self.layout.slots))
        waiting: deque[tuple[_Planned, Future[tuple[np.ndarray, float]]]] = deque()

        def judge() -> None:
            planned, future = waiting.popleft()
            found = self._judge(planned, future, course.stats)
            if isinstance(planned.input, int):
                electrons[planned.weight, planned.input] = found

        while course.next is not None:
            planned = course.next.planned
            self._show_for(course)
            course.advance()
            future, is_lost = self._try(planned, 0, course.stats, self._following(course))
            waiting.append((planned, future))
            # a device that failed is put right before anything else is asked of it
            while waiting and (is_lost or len(waiting) >= _BEHIND):
                judge()
        while waiting:
            judge()
        self._courses.pop(job.number, None)
        return TileResult(electrons, course.stats)

    def _course(self, job: TileJob) -> _Course:
        """Give how far a job has come; its first frames are laid out from now on."""
        course = self._courses.get(job.number)
        if course is None:
            stats = Stats()
            stats.seconds = dict.fromkeys(("encode", "product", "decode"), 0.0)
            course = self._courses[job.number] = _Course(job, stats, self._ahead(job, stats))
            course.advance()
        return course

    def _following(self, course: _Course) -> _Course | None:
        """Give whose frames come next: this job's, or those of the one that waits in the queue."""
        if course.next is not None:
            return course
        clock = self.bench.clock
        clock.sleep_until(clock.now_s())  # on a virtual clock: whoever feeds has finished feeding
        upcoming = self.upcoming()
        return None if upcoming is None else self._course(upcoming)

    def _ahead(self, job: TileJob, stats: Stats) -> Iterator[_Next]:
        """Give the shots of a job with the frames that change; those after it are laid out ahead.

        What is shown before the first shot is not known yet, so both its frames are laid out.
        """
        ready: deque[_Next] = deque()
        keys: dict[str, tuple[int, int | str]] = {}
        for planned in self._planned(job):
            frames = {}
            for role in ("weight", "input"):
                key = planned.key(role)
                if keys.get(role) != key:
                    keys[role] = key
                    number = self._next(role)
                    frames[role] = self._encoder.submit(self._lay_out, role, planned, number, stats)
            ready.append(_Next(planned, frames))
            if len(ready) > AHEAD:
                yield ready.popleft()
        yield from ready

    def _planned(self, job: TileJob) -> Iterator[_Planned]:
        """Give the shots of a job, with reference shots between them."""
        tile = -1
        for weight, vector in visits(job.tiles, job.vectors, job.order).tolist():
            is_first = weight != tile and (tile < 0 or job.order == "weight-stationary")
            if (self._is_bucket and is_first and not self.bench.is_timing_only) or (
                0 < self._reference_every <= self._since_reference
            ):
                yield self._reference(job, weight)
            tile = weight
            self._since_reference += 1
            name = f"{weight}.{vector}"
            yield _Planned(job, name, weight, vector, since=self._since_reference)

    def _reference(self, job: TileJob, weight: int) -> _Planned:
        """Plan to show the weights an input that is everywhere alike."""
        expected = self.passed_e(self._reference_levels(), job.weight(weight))
        since, name = self._since_reference + 1, f"{_REFERENCE} {self.references}"
        self._since_reference = 0
        self.references += 1
        return _Planned(job, name, weight, name, expected, since)

    def _reference_levels(self) -> np.ndarray:
        """Give the input of a reference shot."""
        rows = 1 if self.layout.shares_input else self.layout.slots
        light = np.full((rows, self.layout.length), self.layout.reference_light)
        return self.curves["input"].levels(light)

    def passed_e(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Give the electrons that grey levels should bring, float64 [slots]."""
        response = self.response
        x = self.curves["input"].light[inputs] + response.input_leak[:, None]
        w = self.curves["weight"].light[weights] + response.weight_leak[:, None]
        return response.offset_e + np.asarray(np.einsum("sk,sk,sk->s", response.pairs_e, x, w))

    # --- one shot --------------------------------------------------------------------------------

    def _judge(
        self, planned: _Planned, future: Future[tuple[np.ndarray, float]], stats: Stats
    ) -> np.ndarray:
        """Give the electrons of a shot, [slots]; repeat it while it cannot be trusted."""
        limit = self.bench.file.limits.retries
        for attempt in range(limit + 1):
            try:
                electrons, seconds = future.result()
            except _REPEATABLE as error:
                reason = type(error).__name__
                self.faults[reason] = self.faults.get(reason, 0) + 1
                stats.retries += 1
                if attempt == limit:
                    raise type(error)(
                        f"shot {planned.job.name}/{planned.name} failed {limit + 1} times, the "
                        f"last time: {error}; the bench was made safe"
                    ) from error
                self._recover(planned, stats)
                future, _ = self._try(planned, attempt + 1, stats, None)
                continue
            stats.seconds["decode"] += seconds
            stats.conversions += electrons.size
            return electrons
        raise AssertionError("unreachable")

    def _recover(self, planned: _Planned, stats: Stats) -> None:
        """Throw away what is on its way, and show both frames anew."""
        if not self._is_bucket:
            self.bench.camera.arm()
        for role in ("weight", "input"):
            frame = self._lay_out(role, planned, self._next(role), stats)
            self._show(frame, planned, stats)

    def _next(self, role: str) -> int:
        """Give the number of a new frame."""
        self._numbers[role] += 1
        return self._numbers[role]

    def _lay_out(self, role: str, planned: _Planned, number: int, stats: Stats) -> _Frame:
        start_s, start = self.bench.clock.now_s(), time.perf_counter()
        if role == "weight":
            levels = planned.job.weight(planned.weight)
        elif isinstance(planned.input, int):
            levels = planned.job.input(planned.input)
        else:
            levels = self._reference_levels()
        frame = _Frame(
            role, planned.key(role), levels, number, self.layout.frame(role, levels, number)
        )
        stats.seconds["encode"] += time.perf_counter() - start
        self._note("encode", f"{role} frame", start_s, None, planned)
        return frame

    def _show_for(self, course: _Course) -> None:
        """Show the frames of a job's next shot that are not shown yet."""
        assert course.next is not None
        planned = course.next.planned
        for role in ("weight", "input"):
            shown = self._shown.get(role)
            if shown is not None and shown[1].key == planned.key(role):
                continue
            future = course.next.frames.get(role)
            if future is None:  # a repeated shot has shown others in between
                frame = self._lay_out(role, planned, self._next(role), course.stats)
            else:
                frame = future.result()
            self._show(frame, planned, course.stats)

    def _show(self, frame: _Frame, planned: _Planned, stats: Stats) -> None:
        start = time.perf_counter()
        modulator = self.bench.input if frame.role == "input" else self.bench.weight
        shown = modulator.show(frame.pixels)
        self._shown[frame.role] = (shown, frame)
        self._flips[frame.role] += 1
        settled_s = max(shown.settled_at_s, shown.shown_at_s + self._settling_s[frame.role])
        self._note(frame.role, "settling", shown.shown_at_s, settled_s, planned)
        if frame.role == "input":
            stats.input_frames += 1
            stats.input_samples += frame.levels.size
        else:
            stats.weight_frames += 1
        stats.seconds["product"] += time.perf_counter() - start

    def _try(
        self, planned: _Planned, attempt: int, stats: Stats, following: _Course | None
    ) -> tuple[Future[tuple[np.ndarray, float]], bool]:
        """Take one exposure and have it decoded; show what comes next as soon as it has ended.

        Returns
        -------
        electrons and seconds of decoding; an error of a device is in the future, too
        whether the exposure was lost
        """
        if self.stops.is_set():
            raise NotConnected(f"{self.bench.path}: the bench was closed before {planned.job.name}")
        self.bench.shots += 1
        stats.shots += 1
        shot = Shot(f"{planned.job.name}/{planned.name}/{attempt}", self.bench.shots)
        start = time.perf_counter()
        try:
            taken = self._expose(shot, planned, following)
        except _REPEATABLE as error:
            failed: Future[tuple[np.ndarray, float]] = Future()
            failed.set_exception(error)
            return failed, True
        finally:
            stats.seconds["product"] += time.perf_counter() - start
        return self._decoder.submit(self._decode, taken), False

    def _expose(self, shot: Shot, planned: _Planned, following: _Course | None) -> _Taken:
        """Wait until both frames have settled, expose, and read."""
        bench, file, clock = self.bench, self.bench.file, self.bench.clock
        for role, modulator in (("input", bench.input), ("weight", bench.weight)):
            shown = self._shown[role][0]
            clock.sleep_until(shown.shown_at_s + self._settling_s[role])
            modulator.wait_until_settled(shown)
        frames = {role: frame for role, (_, frame) in self._shown.items()}
        start_s = clock.now_s()
        if self._is_bucket:
            count = WINDOW_SAMPLES
            rate_hz, timeout_s = count / file.exposure_s, file.limits.timeout_s
            data = bench.daq.read((0,), count, rate_hz, timeout_s, shot).volts
            self._note("detector", "exposure", start_s, None, planned)
            self._check_counters()
            return _Taken(shot, data, frames, planned)
        bench.camera.trigger(shot)
        if following is not None and bench.camera.tells_exposed:
            bench.camera.wait_until_exposed()
            self._show_for(following)
        taken = bench.camera.read(file.limits.timeout_s)
        ends_s = taken.taken_at_s + taken.exposure_s
        self._note("detector", "exposure", taken.taken_at_s, ends_s, planned)
        self._note("detector", "read-out", ends_s, None, planned)
        return _Taken(shot, taken.data, frames, planned)

    def _note(
        self, track: str, name: str, start_s: float, end_s: float | None, planned: _Planned
    ) -> None:
        """Put a slice on the timeline, if there is one; it ends now unless told."""
        if self.timeline is None:
            return
        end_s = self.bench.clock.now_s() if end_s is None else end_s
        shot, details = planned.name, planned.job.details
        self.timeline.add(track, name, start_s, max(end_s, start_s), shot=shot, **details)

    def _check_counters(self) -> None:
        for counter, role in enumerate(("input", "weight")):
            counted = self.bench.daq.count(counter)
            wanted = self._flips[role]
            if counted != wanted:
                self._flips[role] = counted
                raise StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {wanted} were shown"
                )

    # --- from counts to electrons ----------------------------------------------------------------

    def _decode(self, taken: _Taken) -> tuple[np.ndarray, float]:
        """Give the electrons of each slot at calibration's brightness, and the seconds it took."""
        start_s, start = self.bench.clock.now_s(), time.perf_counter()
        electrons = self._electrons(taken)
        self._note("decode", "decode", start_s, None, taken.planned)
        return electrons, time.perf_counter() - start

    def _electrons(self, taken: _Taken) -> np.ndarray:
        """Check what was taken, and give the electrons of each slot."""
        if self.bench.is_timing_only:
            levels = (taken.frames[role].levels for role in ("input", "weight"))
            return self.passed_e(*levels)
        self._check_full(taken)
        marks = Marks({})
        if not self._is_guessed:
            mean_input = float(self.curves["input"].light[taken.frames["input"].levels].mean())
            marks = self.layout.marks(taken.data, mean_input, self.response)
            self._check_numbers(marks, taken)
        electrons = self.layout.electrons(taken.data)
        electrons = electrons / self._brightness(electrons, marks, taken)
        if self.response.inverse is not None:
            electrons = self.response.inverse @ electrons
        if taken.planned.expected is not None:
            self._check_reference(electrons, taken.planned.expected)
        elif taken.planned.job.check is not None:
            assert isinstance(taken.planned.input, int)
            taken.planned.job.check(taken.planned.weight, taken.planned.input, electrons)
        return electrons

    def _check_full(self, taken: _Taken) -> None:
        bench = self.bench
        top = bench.daq.input_range_v[1] if self._is_bucket else (1 << bench.camera.bit_depth) - 1
        if taken.data.max() < top:
            return
        full = taken.data >= top
        if self.optics.bad is not None:
            full &= ~self.optics.bad
        if full.any():
            raise Saturated(
                f"shot {taken.shot.address}: the detector is full ({int(full.sum())} samples at "
                f"{top:g}); lower power_w or exposure_s in {bench.path}"
            )

    def _check_numbers(self, marks: Marks, taken: _Taken) -> None:
        for role, number in marks.numbers.items():
            wanted = taken.frames[role].number % (1 << self.layout.marker_bits)
            if number != wanted:
                raise StaleFrame(
                    f"the light is that of {role} frame {number}, not of frame {wanted}: the "
                    "modulator did not show it, or the detector gave an old exposure"
                )

    def _brightness(self, electrons: np.ndarray, marks: Marks, taken: _Taken) -> float:
        """Give the light of this shot over that of calibration, from its marker or as a reference.

        Raises
        ------
        Drifted : when it has left the bench file's tolerance
        """
        tracker, expected = self.tracker, taken.planned.expected
        if tracker is None:
            return 1.0
        if marks.scale is not None:
            now = tracker.update(marks.scale, marks.scale_variance)
        elif expected is not None:
            total = float(expected.sum())
            variance = total + len(expected) * self.optics.read_noise_e**2
            now = tracker.update(
                float(electrons.sum()) / total, variance / total**2, taken.planned.since
            )
        else:
            now = tracker.ahead(taken.planned.since)  # no marker tells; references are seldom
        tolerance = self.bench.file.drift_tolerance
        if abs(tracker.slow - 1) > tolerance:
            raise Drifted(
                f"{self.bench.path}: the light is {tracker.slow:.3f} times that of calibration, "
                f"beyond drift_tolerance = {tolerance:g}; let the source settle, then run "
                "`lightloom calibrate` again (the bench was made safe)"
            )
        return now

    def _check_reference(self, electrons: np.ndarray, expected: np.ndarray) -> None:
        full = self.response.pairs_e.sum(axis=1)
        noise = 6 * np.sqrt(
            np.maximum(expected, 0) + self.layout.read_pixels() * self.optics.read_noise_e**2
        )
        off = np.abs(electrons - expected) - noise
        wrong = off > _REFERENCE_OFF * expected + _REFERENCE_FLOOR * full
        if wrong.any():
            slot = int(np.argmax(off))
            raise WrongLight(
                f"a reference shot brought {electrons[slot]:.3g} electrons to slot {slot} where "
                f"the weights pass {expected[slot]:.3g} ({wrong.sum()} of {len(wrong)} slots are "
                "off): check the source, and that nothing stands in the beam"
            )
