"""`ShotRunner`: takes the shots of a job as fast as devices go, and repeats untrusted ones.

Three things happen at once: the next frames are laid out, the present ones are shown, settle and
are exposed, and the shot before is decoded. As soon as an exposure has ended the next frames are
handed to the modulators, while the detector is read out. A shot is judged exactly two shots after
it was taken, and all shots of a segment of a job before the first of the next one, so what is
repeated, and in which order, never depends on how fast a computer is.

At the end of a segment nothing is on its way: then the monitors are asked, and the segment is kept.
What is done about a fault, the bench file says (`policy`).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from ...instruments import (
    ChecksumMismatch,
    DriftExceeded,
    Instrument,
    InstrumentError,
    NotConnected,
    Paused,
    Shot,
    Shown,
    StaleFrame,
    Timeline,
    UnexpectedIntensity,
)
from ..base import Stats
from ..tiling import ORDERS
from ..timing import AHEAD
from . import safety
from .bench import WINDOW_SAMPLES, Bench
from .checkpoint import QUALITY, Checkpoint, FaultNote, Kept, Recorder, Segment
from .decoding import DecodedShot, Decoder, Frame, Taken
from .diagnose import Diagnosis, diagnose
from .fault_policy import ANEW, PAUSE, SUSPENDED, FaultPolicy, Recovery, kind_of
from .monitors import Monitors
from .recovery import check_emission, reconnect, role_of
from .shot_plan import ROLES, Planned, ShotPlan, TileJob, TileResult

__all__ = ["SEGMENT", "RestartProducts", "ShotRunner", "TileJob", "TileResult"]

SEGMENT = 64  # shots of a job that are kept together
_READS_KNOWN = 8  # of a detector, before it is known how long it takes
_PATIENCE, _SLACK_S = 2.0, 0.02  # times the longest read so far, and more
_BEHIND = 2  # shots that may be taken before one is judged
_OF_LIGHT = (
    "stale",
    "unexpected-intensity",
    "checksum-mismatch",
    "drift-exceeded",
)  # kinds that a dark source explains
_BISECTED = (
    "stale",
    "dropped",
    "incomplete",
    "timeout",
    "protocol-error",
    "unexpected-intensity",
    "checksum-mismatch",
)
_ADVICE = {
    "disconnected": "check its cable and power",
    "in-use": "close what holds it",
    "drift-exceeded": "let the source settle, and resume; if it stays as it is, run `lightloom "
    "calibrate`, and resume with --accept calibration",
    "saturated": "lower power_w or exposure_s in the bench file",
    "interlock": "make the beam path safe, then re-arm the source on site",
}


_LIGHT_IS_OFF = (UnexpectedIntensity, DriftExceeded)  # what a reference says of the shots before it


class RestartProducts(Exception):
    """The bench is to be measured anew, and the products on their way begin again.

    Parameters
    ----------
    recovery : "realign" or "recalibrate"
    """

    def __init__(self, recovery: str) -> None:
        super().__init__(recovery)
        self.recovery = recovery


@dataclass
class _PendingShot:
    """A shot to be taken, or one that was.

    Parameters
    ----------
    stats : of its segment
    frames : that are laid out for it: those that change
    attempts : exposures of it that were begun
    used : how many recoveries it had, by kind of fault
    tried : recoveries that it had, by name
    began_s : the latest of its exposures
    darkness : of the bench when that began; another one says that the light was off meanwhile
    future : what that one gives; None once it was judged
    leans : its numbers are told from others only where the shots before it are right
    found : what it gave in the end
    is_new : that is not kept yet
    """

    planned: Planned
    stats: Stats
    frames: dict[str, Future[Frame]] = field(default_factory=dict)
    attempts: int = 0
    used: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    began_s: float = 0.0
    darkness: int = 0
    future: Future[DecodedShot] | None = None
    leans: bool = False
    found: DecodedShot | None = None
    is_new: bool = True

    @property
    def name(self) -> str:
        """Its name, without the attempt."""
        return f"{self.planned.job.name}/{self.planned.name}"


@dataclass
class _JobState:
    """How far a job has come.

    Parameters
    ----------
    electrons : [weight frames, input frames, slots]
    stats : of the segments that are finished, one each
    open : finished segments of weight frames that are not, where their sums may still be wrong
    next : the shot that comes next; None after the last
    """

    job: TileJob
    electrons: np.ndarray
    stats: list[Stats]
    ahead: Iterator[_PendingShot]
    open: list[list[_PendingShot]] = field(default_factory=list)
    next: _PendingShot | None = None

    def advance(self) -> None:
        """Go on to the shot after this one."""
        self.next = next(self.ahead, None)


class ShotRunner:
    """Takes shots on an open bench.

    Parameters
    ----------
    bench : open
    decoder : knows what the bench's light is like
    reference_every : shots between two reference shots; 0 for none
    settling_s : from a flip until its light is trusted, by role, where it was measured
    faults, recoveries : kind -> how often a shot was repeated for it, recovery -> how often it was
        used; counted on

    Attributes
    ----------
    stops : set to end after the shot that is being taken
    upcoming : tells the job that waits after the present one
    timeline : where slices of what happens go, if anybody wants them
    recorder : keeps what is finished, if anybody wants it
    may_begin_again : whether the bench may be measured anew
    lost_s : of the bench's time, on exposures that failed and on recoveries
    """

    def __init__(
        self,
        bench: Bench,
        decoder: Decoder,
        reference_every: int,
        settling_s: dict[str, float],
        faults: dict[str, int],
        recoveries: dict[str, int],
    ) -> None:
        self.bench, self.decoder = bench, decoder
        self.layout = decoder.layout
        self._bits = 0 if decoder.is_guessed else decoder.layout.marker_bits
        self.faults, self.recoveries, self.lost_s = faults, recoveries, 0.0
        self.stops = Event()
        self.upcoming: Callable[[], TileJob | None] = lambda: None
        self.timeline: Timeline | None = None
        self.recorder: Recorder | None = None
        self.may_begin_again = False
        self._policy = FaultPolicy(bench.file.faults, bench.file.limits.retries)
        self._monitors = Monitors(bench) if bench.file.suspend else None
        self._is_bucket = bench.file.layout == "single-pixel"
        tells = self._is_bucket and not bench.is_timing_only and reference_every > 0
        self.plan = ShotPlan(reference_every, tells)
        self._settling_s = settling_s
        self._flips = {"input": 0, "weight": 0}  # frames shown
        self._reads, self._longest_s = 0, 0.0  # of the detector, and the longest of them
        self._shown: dict[str, tuple[Shown, Frame]] = {}
        self._trail: dict[str, list[int]] = {role: [] for role in ROLES}
        self._courses: dict[int, _JobState] = {}
        self._ended: Paused | None = None
        self._is_muddled = False  # the detector may still give what nobody waits for any more
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-encode")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-decode")
        self._arm()

    def close(self) -> None:
        """Let the threads go, once what they do is done."""
        self.stops.set()
        self._encoder.shutdown(cancel_futures=True)
        self._decoder.shutdown(cancel_futures=True)

    @property
    def references(self) -> int:
        """How many reference shots were planned so far."""
        return self.plan.counters["references"]

    def go_on_from(self, state: Checkpoint) -> None:
        """Stand where an earlier run did.

        On a real bench, and after a check of its light, only the plan goes on: the filter knows the
        light of today. A simulated one has stood still since.
        """
        self.plan.counters.update(state.counters)
        if not self.bench.is_simulated:
            return
        self.bench.shots = state.shots
        if self.decoder.tracker is not None and state.tracker is not None:
            self.decoder.tracker.restore(state.tracker)
        self._forget()

    def _forget(self) -> None:
        """Show nothing, so that no frame of before is taken for one to come."""
        for role, modulator in (("weight", self.bench.weight), ("input", self.bench.input)):
            modulator.blank()
            self._flips[role] += 1
            self._trail[role].clear()
        self._shown.clear()

    # --- a job -----------------------------------------------------------------------------------

    def run(self, job: TileJob) -> TileResult:
        """Take all shots of a job; the first frames of the next one may be shown already.

        Raises
        ------
        Paused : when nothing that may be done about a fault helps
        Anew : when the bench is to be measured anew
        NotConnected : when the bench was closed
        """
        if self._ended is not None:  # whoever waits hears why, too
            ended = self._ended
            raise Paused(str(ended), ended.kind, ended.device, ended.advice) from ended
        try:
            course = self._course(job)
            while course.next is not None:
                self._take_segment(course)
        except Paused as error:
            self._ended = error
            if self.recorder is not None and self._is_bucket and job.number in self._courses:
                self.recorder.forget(job.name, _last_reference(self._courses[job.number].open))
            raise
        self._courses.pop(job.number, None)
        total = _no_stats()
        for stats in course.stats:
            total.add(stats)
        return TileResult(course.electrons, total)

    def _course(self, job: TileJob) -> _JobState:
        """Return how far a job has come; its first frames are laid out from now on."""
        course = self._courses.get(job.number)
        if course is None:
            kept = None if self.recorder is None else self.recorder.known(job.name)
            electrons = np.zeros((job.tiles, job.vectors, self.layout.slots))
            course = _JobState(job, electrons, [], self._ahead(job, kept))
            if kept is not None:
                course.stats.append(kept.stats)
                self._put_back(course, kept)
            self._courses[job.number] = course
            course.advance()
        return course

    def _put_back(self, course: _JobState, kept: Kept) -> None:
        job = course.job
        visited = self.plan.visited(job, len(kept.electrons))
        course.electrons[visited[:, 0], visited[:, 1]] = kept.electrons

    def _following(self, course: _JobState) -> _PendingShot | None:
        """Return the shot that comes next: of this job, or of the one that waits in the queue."""
        if course.next is not None:
            return course.next
        clock = self.bench.clock
        clock.sleep_until(clock.now_s())  # on a virtual clock: whoever feeds has finished feeding
        upcoming = self.upcoming()
        return None if upcoming is None else self._course(upcoming).next

    def _ahead(self, job: TileJob, kept: Kept | None) -> Iterator[_PendingShot]:
        """Return the shots of a job with the frames that change; those after it are laid out ahead.

        What is shown before the first shot is not known yet, so both its frames are laid out.
        """
        ready: deque[_PendingShot] = deque()
        keys: dict[str, tuple[int, int | str]] = {}
        stats = _no_stats()
        for planned in self.plan.shots(job, kept):
            if planned.number % SEGMENT == 0 or not keys:
                stats = _no_stats()
            coming = _PendingShot(planned, stats)
            for role in ROLES:
                key = planned.key(role)
                if keys.get(role) != key:
                    keys[role] = key
                    number = planned.counters[role]
                    coming.frames[role] = self._encoder.submit(
                        self._lay_out, role, planned, number, stats
                    )
            ready.append(coming)
            if len(ready) > AHEAD:
                yield ready.popleft()
        yield from ready

    # --- a segment -------------------------------------------------------------------------------

    def _take_segment(self, course: _JobState) -> None:
        """Take shots of a job until its next segment, again while a monitor asks for it; keep them.

        What is kept changes no more, but where the sum of a whole weight frame turns out to be
        wrong: then its segments are taken and kept again.
        """
        assert course.next is not None
        taken: list[_PendingShot] = []
        course.open.append(taken)
        self._take(course, self._fresh(course, course.next.planned.number // SEGMENT, taken))
        asking = _PendingShot(taken[-1].planned, taken[-1].stats)
        while self._is_suspended(asking, len(taken)):
            for coming in taken:
                coming.frames.clear()
                coming.used.clear()
            self._take(course, ((coming, None) for coming in taken))
        for segment in course.open:
            if any(coming.is_new for coming in segment):
                self._finish_segment(course, segment)
        self._close_weights(course)

    def _fresh(
        self, course: _JobState, segment: int, taken: list[_PendingShot]
    ) -> Iterator[tuple[_PendingShot, _PendingShot | None]]:
        """Return the shots of a segment, each with the one that follows it."""
        while (coming := course.next) is not None and coming.planned.number // SEGMENT == segment:
            course.advance()
            taken.append(coming)
            yield coming, self._following(course)

    def _take(
        self, course: _JobState, shots: Iterator[tuple[_PendingShot, _PendingShot | None]]
    ) -> None:
        """Take shots until all of them are judged."""
        waiting: deque[_PendingShot] = deque()
        for coming, following in shots:
            is_lost = self._try(coming, following)
            waiting.append(coming)
            # a device that failed is put right before anything else is asked of it
            while waiting and (is_lost or len(waiting) >= _BEHIND):
                self._judge_first(course, waiting)
        while waiting:
            self._judge_first(course, waiting)

    def _judge_first(self, course: _JobState, waiting: deque[_PendingShot]) -> None:
        coming = waiting.popleft()
        attempts = coming.attempts
        self._judge(course, coming)
        for other in waiting if coming.attempts > attempts else ():
            if other.leans and other.future is not None:
                other.future = _failed(
                    StaleFrame("its light cannot be told from that of a shot that was wrong")
                )

    def _close_weights(self, course: _JobState) -> None:
        """Forget segments that no sum, nor a reference, can find wrong any more."""
        job, last = course.job, course.open[-1][-1].planned
        if self._is_bucket:
            good = _last_reference(course.open)
            course.open = [part for part in course.open if part[-1].planned.number > good]
            return
        if course.next is None or job.check is None:
            course.open.clear()
        elif job.order == ORDERS[0]:
            goes_on = course.next.planned.weight == last.weight
            course.open = [
                segment
                for segment in course.open
                if goes_on and any(c.planned.weight == last.weight for c in segment)
            ]

    def _finish_segment(self, course: _JobState, taken: list[_PendingShot]) -> None:
        """Put a segment into its job's result, and have it kept."""
        stats, electrons = taken[0].stats, []
        quality = np.empty((len(taken), len(QUALITY)), dtype=np.float32)
        for row, coming in zip(quality, taken, strict=True):
            planned, found = coming.planned, coming.found
            assert found is not None
            coming.is_new = False
            row[:] = (*found.quality, coming.attempts)
            if isinstance(planned.input, int):
                course.electrons[planned.weight, planned.input] = found.electrons
                electrons.append(found.electrons)
        tracker, last, reached = self.decoder.tracker, taken[-1].planned, taken[-1].planned
        is_again = taken is not course.open[-1]
        if is_again:  # segments behind it are kept already
            reached = course.open[-2][-1].planned
        else:
            course.stats.append(stats)
        if self.recorder is None:
            return
        self.recorder.keep(
            Segment(
                job=course.job.name,
                first=taken[0].planned.number,
                done=last.number + 1,
                is_last=course.next is None and not is_again,
                electrons=np.array(electrons).reshape(-1, self.layout.slots),
                quality=quality,
                stats=stats,
                state=Checkpoint(
                    self.bench.shots,
                    dict(reached.counters),
                    None if tracker is None else tracker.state(),
                ),
            )
        )

    def _is_suspended(self, asking: _PendingShot, shots: int) -> bool:
        """Ask the monitors; wait while one is out of bounds, and say that it was.

        Parameters
        ----------
        asking : stands for the segment of so many shots, each time that it is taken
        """
        if self._monitors is None:
            return False
        began_s = self.bench.clock.now_s()
        darkness = self.bench.darkness
        try:
            darkness = self.bench.wait_for_light(self._pause_for)
            complaint = self._monitors.complaint()
            if complaint:
                self._monitors.wait(self._sleep, complaint, asking.began_s or began_s)
        except InstrumentError as error:
            if isinstance(error, Paused) or kind_of(error) is None:
                raise
            if darkness != self.bench.darkness:  # it went off while it was asked
                return True
            self._count(kind_of(error) or "", 1, asking.stats)
            self._put_right(asking, error)  # the segment is taken again, to be sure
            return True
        if not complaint:
            return False
        asking.began_s = asking.began_s or began_s
        self._count(SUSPENDED, shots, asking.stats)
        self._recovered("wait", asking)
        self._tell(SUSPENDED, "", asking, "wait", complaint, began_s)
        return True

    # --- one shot --------------------------------------------------------------------------------

    def _try(
        self, coming: _PendingShot, following: _PendingShot | None, restarts: bool = False
    ) -> bool:
        """Take one exposure and have it decoded; show what comes next as soon as it has ended.

        Parameters
        ----------
        restarts : both frames are shown again, and what is on its way is thrown away

        Returns
        -------
        whether the exposure was lost; what became of it, `coming.future` says
        """
        self._refuse_when_stopped(coming)
        attempt = coming.attempts
        coming.attempts += 1
        coming.is_new = True
        coming.began_s = self.bench.clock.now_s()
        try:
            coming.darkness = self.bench.wait_for_light(self._pause_for)
            if restarts or self._is_muddled:
                self._arm()
                self._shown.clear()
                self._is_muddled = coming.leans = False
                self._look(coming)
            self._show_for(coming)
            self.bench.shots += 1
            coming.stats.shots += 1
            shot = Shot(f"{coming.name}/{attempt}", self.bench.shots)
            taken = self._timed_exposure(shot, coming, following)
        except InstrumentError as error:
            if kind_of(error) is None:
                raise
            coming.future = _failed(error)
            return True
        coming.future = self._decoder.submit(self._decode, taken)
        return False

    def _timed_exposure(
        self, shot: Shot, coming: _PendingShot, following: _PendingShot | None
    ) -> Taken:
        start = time.perf_counter()
        try:
            return self._expose(shot, coming.planned, following)
        finally:
            coming.stats.seconds["product"] += time.perf_counter() - start

    def _refuse_when_stopped(self, coming: _PendingShot) -> None:
        if self.stops.is_set():
            raise NotConnected(
                f"{self.bench.path}: the bench was closed before {coming.planned.job.name}"
            )

    def _arm(self) -> None:
        """Let the detector forget what it took."""
        if not self._is_bucket:
            self.bench.camera.arm()
            return
        for counter, role in enumerate(("input", "weight")):
            self.bench.daq.reset_count(counter)
            self._flips[role] = 0

    def _show_for(self, coming: _PendingShot) -> None:
        """Show the frames of a shot that are not shown yet."""
        for role in ROLES:
            shown = self._shown.get(role)
            if shown is not None and shown[1].key == coming.planned.key(role):
                continue
            number = self._number(role, coming)
            future = coming.frames.get(role)
            frame = None if future is None else future.result()
            if frame is None or frame.number != number:
                frame = self._lay_out(role, coming.planned, number, coming.stats)
            self._show(frame, coming.planned, coming.stats)

    def _number(self, role: str, coming: _PendingShot) -> int:
        """Return the number that a frame shows: the planned one, or the next that tells it apart.

        A modulator that stands still goes on to show any of the frames since the last one that was
        seen (its trail), and must not be taken for one that follows.
        """
        bits, number = self._bits, coming.planned.counters[role]
        if not bits:
            return number
        count, trail = 1 << bits, self._trail[role]
        if number % count not in trail:
            return number
        if len(set(trail)) == count:
            coming.leans = True
            return number + (number % count == trail[-1])
        return next(n for n in range(number + 1, number + count) if n % count not in trail)

    def _look(self, coming: _PendingShot) -> None:
        """Find out what stands on the modulators, where any number may: one exposure more.

        The frames of the shot are shown so often that a modulator that lags behind, by as many
        frames as it has numbers, has nothing else left to show.

        Raises
        ------
        InstrumentError : when it cannot be had
        """
        count = 1 << self._bits
        if not self._bits or all(len(set(trail)) < count for trail in self._trail.values()):
            return
        self._show_for(coming)
        for _, frame in list(self._shown.values()) * count:
            self._show(frame, coming.planned, coming.stats)
        self.bench.shots += 1
        coming.stats.shots += 1
        shot = Shot(f"{coming.name}/{coming.attempts - 1}/look", self.bench.shots)
        taken = self._timed_exposure(shot, coming, None)
        try:
            seen = self.layout.marks(taken.data, None, self.decoder.response).numbers
        except (StaleFrame, UnexpectedIntensity):
            seen = {}  # no number: one that is seen later is of a later frame
        for role in ROLES:
            stands = [seen[role]] if role in seen else []
            self._trail[role] = [self._trail[role][-1], *stands]  # the next differs from the last
        self._shown.clear()

    def _lay_out(self, role: str, planned: Planned, number: int, stats: Stats) -> Frame:
        start_s, start = self.bench.clock.now_s(), time.perf_counter()
        if role == "weight":
            levels = planned.job.weight(planned.weight)
        elif isinstance(planned.input, int):
            levels = planned.job.input(planned.input)
        else:
            levels = self._reference_levels()
        frame = Frame(
            role, planned.key(role), levels, number, self.layout.frame(role, levels, number)
        )
        stats.seconds["encode"] += time.perf_counter() - start
        self._note("encode", f"{role} frame", start_s, None, planned)
        return frame

    def _reference_levels(self) -> np.ndarray:
        """Return the input of a reference shot."""
        rows = 1 if self.layout.shares_input else self.layout.slots
        light = np.full((rows, self.layout.length), self.layout.reference_light)
        return self.decoder.curves["input"].levels(light)

    def _show(self, frame: Frame, planned: Planned, stats: Stats) -> None:
        start = time.perf_counter()
        modulator = self.bench.input if frame.role == "input" else self.bench.weight
        if self._bits:
            self._trail[frame.role].append(frame.number % (1 << self._bits))
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

    def _expose(self, shot: Shot, planned: Planned, following: _PendingShot | None) -> Taken:
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
            rate_hz, patience_s = count / file.exposure_s, self._patience_s
            self._check_counters()
            data = bench.daq.read((0,), count, rate_hz, patience_s, shot).volts
            self._waited(start_s)
            self._note("detector", "exposure", start_s, None, planned)
            return Taken(shot, data, frames, planned)
        bench.camera.trigger(shot)
        if following is not None and bench.camera.tells_exposed:
            bench.camera.wait_until_exposed()
            self._show_for(following)
        taken = bench.camera.read(self._patience_s)
        self._waited(start_s)
        ends_s = taken.taken_at_s + taken.exposure_s
        self._note("detector", "exposure", taken.taken_at_s, ends_s, planned)
        self._note("detector", "read-out", ends_s, None, planned)
        return Taken(shot, taken.data, frames, planned)

    @property
    def _patience_s(self) -> float:
        """How long a detector may take: some times what it took so far, once that is known.

        A frame that is lost costs this time, and the time-out of the bench file is one for devices
        that connect or answer slowly.
        """
        most_s = self.bench.file.limits.timeout_s
        if self._reads < _READS_KNOWN:
            return most_s
        return min(most_s, _PATIENCE * self._longest_s + _SLACK_S)

    def _waited(self, since_s: float) -> None:
        """Learn how long a detector takes."""
        self._reads += 1
        self._longest_s = max(self._longest_s, self.bench.clock.now_s() - since_s)

    def _note(
        self, track: str, name: str, start_s: float, end_s: float | None, planned: Planned
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
                error = StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {wanted} were shown"
                )
                error.instrument = self.bench.instruments[role]
                raise error

    def _decode(self, taken: Taken) -> DecodedShot:
        start_s = self.bench.clock.now_s()
        found = self.decoder.decode(taken)
        self._note("decode", "decode", start_s, None, taken.planned)
        return found

    # --- what is done about faults ---------------------------------------------------------------

    def _judge(self, course: _JobState, coming: _PendingShot) -> None:
        """Wait for what a shot gave; while it cannot be trusted, do what the policy says."""
        while coming.future is not None:  # else others were wrong, and it was taken again with them
            if coming.darkness != self.bench.darkness:
                self._take_in_light(coming)
                continue
            try:
                found = coming.future.result()
            except InstrumentError as error:
                self._refuse_when_stopped(coming)
                if kind_of(error) is None:
                    raise
                together = self._together(course, coming, error)
                self._count(kind_of(error) or "", len(together), coming.stats)
                recovery = self._put_right(coming, error)
                if recovery in ("host", "skip"):
                    self._is_muddled = True
                    for other in together:
                        other.found, other.future = self._without_light(other, recovery), None
                    return
                for other in together[:-1]:
                    other.frames.clear()
                    self._try(other, None, restarts=True)
                    self._judge(course, other)
                self._try(coming, None, restarts=True)
            else:
                coming.stats.seconds["decode"] += found.seconds
                coming.stats.conversions += found.electrons.size
                coming.found, coming.future = found, None
                self._see(found)

    def _take_in_light(self, coming: _PendingShot) -> None:
        """Take a shot again that was taken while the light went off: no device is to blame."""
        self._refuse_when_stopped(coming)
        self._count(SUSPENDED, 1, coming.stats)
        coming.frames.clear()
        self._try(coming, None, restarts=True)

    def _pause_for(self, seconds: float) -> None:
        """Wait by the real clock; a run that waits on purpose has not hung, and can be stopped."""
        self.bench.beat()
        if self.stops.wait(seconds):
            raise NotConnected(f"{self.bench.path}: the bench was closed while it waited for light")

    def _see(self, found: DecodedShot) -> None:
        """Forget the frames before those that a shot has shown to be there."""
        for role, number in found.numbers.items():
            trail = self._trail[role]
            if number in trail:
                del trail[: trail.index(number)]

    def _together(
        self, course: _JobState, coming: _PendingShot, error: InstrumentError
    ) -> list[_PendingShot]:
        """Return shots that an error says are wrong: the present one, and it is the last of them.

        All of a weight frame, where a sum over its inputs does not fit; all since the last good
        reference, where references alone tell how bright the light is.
        """
        taken = [
            other
            for segment in course.open
            for other in segment
            if other is not coming
            and not other.planned.is_reference
            and (other.found is not None or other.future is not None)
        ]
        if isinstance(error, ChecksumMismatch) and error.scope == "tile":
            weight = coming.planned.weight
            return [*(other for other in taken if other.planned.weight == weight), coming]
        if self._is_bucket and coming.planned.is_reference and isinstance(error, _LIGHT_IS_OFF):
            good = _last_reference(course.open)
            since = [o for o in taken if good < o.planned.number < coming.planned.number]
            return [*since, coming]
        return [coming]

    def _put_right(self, coming: _PendingShot, error: InstrumentError) -> str:
        """Apply recoveries until one of them works; give its name.

        A recovery that fails is a fault, too. Each kind has a list that ends, so this does.

        Raises
        ------
        Paused, Anew : when that is the recovery
        """
        while True:
            try:
                return self._recovery(coming, error)
            except InstrumentError as other:
                if isinstance(other, Paused) or kind_of(other) is None:
                    raise
                self._refuse_when_stopped(coming)
                error = other

    def _recovery(self, coming: _PendingShot, error: InstrumentError) -> str:
        """Apply the next recovery for a fault."""
        began_s, kind = coming.began_s, kind_of(error)
        assert kind is not None
        if kind in _OF_LIGHT:
            try:
                check_emission(self.bench)
            except InstrumentError as reason:
                if coming.darkness == self.bench.darkness:  # else it is held off
                    error, kind = reason, kind_of(reason) or kind
        recovery = self._next_recovery(kind, coming)
        self._recovered(recovery.name, coming)
        if recovery == PAUSE:
            self._pause(coming, kind, error)
        try:
            self._apply(recovery, error)
        finally:
            device = error.instrument.name if isinstance(error.instrument, Instrument) else ""
            self._tell(kind, device, coming, recovery.name, str(error), began_s)
            coming.began_s = self.bench.clock.now_s()
        return recovery.name

    def _next_recovery(self, kind: str, coming: _PendingShot) -> Recovery:
        while True:
            recovery = self._policy.recovery(kind, coming.used)
            coming.used[kind] += 1
            if self.may_begin_again or recovery.name not in ANEW:
                return recovery

    def _apply(self, recovery: Recovery, error: InstrumentError) -> None:
        if recovery.name == "wait":
            self._sleep(recovery.wait_s)
        elif recovery.name == "reconnect":
            for role in self._to_reconnect(error):
                reconnect(self.bench, role)
        elif recovery.name in ANEW:
            raise RestartProducts(recovery.name)

    def _to_reconnect(self, error: InstrumentError) -> list[str]:
        """Return the role of the device that failed; all but the source where nobody knows."""
        role = role_of(self.bench, error.instrument)
        return [role] if role else ["detector", "input", "weight"]

    def _without_light(self, coming: _PendingShot, recovery: str) -> DecodedShot:
        """Return numbers for a shot of which light gives none; they are marked."""
        planned = coming.planned
        coming.stats.marked += 1
        if isinstance(planned.input, int):
            x = planned.job.input(planned.input)
        else:
            x = self._reference_levels()
        given = self.decoder.model.passed_e if recovery == "host" else self.decoder.model.leaked_e
        return DecodedShot(given(x, planned.job.weight(planned.weight)))

    def _pause(self, coming: _PendingShot, kind: str, error: InstrumentError) -> None:
        """End the run with a sentence for the operator; the backend makes the bench safe.

        Raises
        ------
        Paused : always
        """
        role, began_s = role_of(self.bench, error.instrument), coming.began_s
        if kind == "interlock":
            safety.latch(self.bench.path, f"{error}", self.bench.latches)
        found = Diagnosis(role, "", _ADVICE.get(kind, ""))
        if kind in _BISECTED:
            found = diagnose(self.bench, self.decoder)
            role = found.role or role
        device = self.bench.instruments[role].name if role else ""
        tried = ", ".join(f"{name} {n}" for name, n in coming.tried.items() if name != PAUSE.name)
        clause = f"; {found.sentence}" if found.sentence else ""
        advice = f"; {found.advice}" if found.advice else ""
        self._tell(kind, device, coming, "pause", str(error) + clause, began_s)
        raise Paused(
            f"{self.bench.path}: shot {coming.name} failed {coming.attempts} times, the last time "
            f"({kind}{f', {device}' if device else ''}): {error}{clause}; tried: "
            f"{tried or 'nothing'}{advice}; the bench is safe",
            kind,
            device,
            found.advice,
        ) from error

    def _count(self, kind: str, shots: int, stats: Stats) -> None:
        """Count shots that are repeated."""
        self.faults[kind] = self.faults.get(kind, 0) + shots
        stats.retries += shots

    def _recovered(self, name: str, coming: _PendingShot) -> None:
        self.recoveries[name] = self.recoveries.get(name, 0) + 1
        coming.tried[name] += 1

    def _tell(
        self,
        kind: str,
        device: str,
        coming: _PendingShot,
        recovery: str,
        detail: str,
        began_s: float,
    ) -> None:
        """Note a fault, and what it cost."""
        lost_s = self.bench.clock.now_s() - began_s
        self.lost_s += lost_s
        if self.recorder is not None:
            attempt = max(coming.attempts - 1, 0)
            self.recorder.note(
                FaultNote(time.time(), kind, device, coming.name, attempt, recovery, detail, lost_s)
            )

    def _sleep(self, seconds: float) -> None:
        """Wait on the bench's clock; a run that is to stop does not wait."""
        clock = self.bench.clock
        if clock.is_virtual:
            clock.sleep_until(clock.now_s() + seconds)
        ends_s = clock.now_s() + (0.0 if clock.is_virtual else seconds)
        while not self.stops.is_set() and (left_s := ends_s - clock.now_s()) > 0:
            self.bench.beat()  # a run that waits on purpose has not hung
            self.stops.wait(min(left_s, 1.0))
        if self.stops.is_set():
            raise NotConnected(f"{self.bench.path}: the bench was closed while it waited")


def _failed(error: BaseException) -> Future[DecodedShot]:
    future: Future[DecodedShot] = Future()
    future.set_exception(error)
    return future


def _last_reference(segments: list[list[_PendingShot]]) -> int:
    """Return the number of the last reference shot that was right; -1 where there is none."""
    good = (
        coming.planned.number
        for segment in segments
        for coming in segment
        if coming.planned.is_reference and coming.found is not None
    )
    return max(good, default=-1)


def _no_stats() -> Stats:
    return Stats(seconds=dict.fromkeys(("encode", "product", "decode"), 0.0))
