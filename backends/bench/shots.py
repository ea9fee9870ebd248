"""`ShotRunner`: takes the shots of a job as fast as the devices allow, and retries bad ones.

Three steps overlap: one thread encodes the next frames, the bench shows, settles and exposes the
current frames, and another thread decodes the previous shot. As soon as an exposure has ended, the
modulators get the next frames while the detector is read out. Each shot is checked exactly two
shots after its exposure, and all shots of a segment before the first shot of the next segment. So
the retries and their order never depend on the speed of the computer.

At the end of a segment no shot is pending. The monitors are read then, and the segment is recorded.
The bench file says what is done about each fault (`fault_policy`).
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
from ..shot_order import ROLES
from ..tiling import ORDERS
from ..timing import AHEAD
from . import safety
from .bench import WINDOW_SAMPLES, Bench
from .checkpoint import QUALITY, Checkpoint, FaultNote, Kept, Recorder, Segment
from .decoding import DecodedShot, Decoder, Frame, Taken
from .diagnose import Diagnosis, diagnose
from .fault_policy import PAUSE, RESTARTS, SUSPENDED, FaultPolicy, Recovery, kind_of
from .monitors import Monitors
from .recovery import check_emission, reconnect, role_of
from .shot_plan import PlannedShot, ShotPlan, TileJob, TileResult

__all__ = ["SEGMENT", "RestartProducts", "ShotRunner", "TileJob", "TileResult"]

SEGMENT = 64  # shots of a job that are recorded together
_LEARNING_READS = 8  # detector reads before their longest duration sets the time-out
_TIMEOUT_FACTOR, _TIMEOUT_MARGIN_S = 2.0, 0.02  # time-out = factor x longest read + margin
_PIPELINE_DEPTH = 2  # pending shots at which the first of them is checked
_INTENSITY_KINDS = (
    "stale",
    "unexpected-intensity",
    "checksum-mismatch",
    "drift-exceeded",
)  # kinds of faults that a dark source also causes
_DIAGNOSED_KINDS = (
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
    "in-use": "close the program that holds it",
    "drift-exceeded": "let the source settle, and resume; if the drift stays, run `lightloom "
    "calibrate`, and resume with --accept calibration",
    "saturated": "lower power_w or exposure_s in the bench file",
    "interlock": "make the beam path safe, then re-arm the source on site",
}
# a reference shot that raises one of these also invalidates the shots before it
_REFERENCE_ERRORS = (UnexpectedIntensity, DriftExceeded)


class RestartProducts(Exception):
    """The bench must be measured again, and the pending products must restart.

    Parameters
    ----------
    recovery : "realign" or "recalibrate"
    """

    def __init__(self, recovery: str) -> None:
        super().__init__(recovery)
        self.recovery = recovery


@dataclass
class _PendingShot:
    """A planned shot with its frames, attempts and result.

    Parameters
    ----------
    stats : of its segment
    frames : encoded frames of this shot, only of the modulators whose frame changes
    attempts : number of exposures started
    recoveries_by_kind : number of recoveries, by kind of fault
    recoveries_by_name : number of recoveries, by name of the recovery
    began_s : start of the latest exposure
    darkness : `Bench.darkness` at that start; a different value means that the light was off since
    future : result of the latest exposure; None once it was checked
    depends_on_previous : its frame ids are unique only if the shots before it were correct
    decoded : the accepted result
    is_unsaved : the accepted result is not recorded yet
    """

    planned: PlannedShot
    stats: Stats
    frames: dict[str, Future[Frame]] = field(default_factory=dict)
    attempts: int = 0
    recoveries_by_kind: Counter[str] = field(default_factory=Counter)
    recoveries_by_name: Counter[str] = field(default_factory=Counter)
    began_s: float = 0.0
    darkness: int = 0
    future: Future[DecodedShot] | None = None
    depends_on_previous: bool = False
    decoded: DecodedShot | None = None
    is_unsaved: bool = True

    @property
    def name(self) -> str:
        """The name of the shot, without the attempt."""
        return f"{self.planned.job.name}/{self.planned.name}"


@dataclass
class _JobState:
    """The progress of a job.

    Parameters
    ----------
    electrons : [weight frames, input frames, slots]
    stats : one entry per finished segment
    shots : the shots after `next`
    open : finished segments that a checksum or a reference shot can still reject
    next : the next shot; None after the last
    """

    job: TileJob
    electrons: np.ndarray
    stats: list[Stats]
    shots: Iterator[_PendingShot]
    open: list[list[_PendingShot]] = field(default_factory=list)
    next: _PendingShot | None = None

    def advance(self) -> None:
        """Move to the next shot."""
        self.next = next(self.shots, None)


class ShotRunner:
    """Takes shots on an open bench.

    Parameters
    ----------
    bench : open
    decoder : with the optical model of the bench
    reference_every : shots between two reference shots; 0 for none
    settling_s : measured settling time after a frame change, by role; 0 where not measured
    faults, recoveries : retries by kind of fault, recoveries by name; the runner adds its own

    Attributes
    ----------
    stops : set it to stop after the current shot
    upcoming : returns the next job in the queue
    timeline : records time slices; None for none
    recorder : records finished segments; None for none
    may_restart : whether the bench may be measured again during a run
    lost_s : bench time spent on failed exposures and on recoveries
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
        self.may_restart = False
        self._fault_policy = FaultPolicy(bench.file.faults, bench.file.limits.retries)
        self._monitors = Monitors(bench) if bench.file.suspend else None
        self._is_single_pixel = bench.file.layout == "single-pixel"
        uses_references = self._is_single_pixel and not bench.is_timing_only and reference_every > 0
        self.plan = ShotPlan(reference_every, uses_references)
        self._settling_s = settling_s
        self._frame_counts = {"input": 0, "weight": 0}
        self._read_count, self._longest_read_s = 0, 0.0  # of the detector
        self._shown: dict[str, tuple[Shown, Frame]] = {}
        self._unconfirmed_frames: dict[str, list[int]] = {role: [] for role in ROLES}
        self._job_states: dict[int, _JobState] = {}
        self._pause_error: Paused | None = None
        self._needs_arming = False  # the detector may still return an exposure that was given up
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-encode")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-decode")
        self._arm()

    def close(self) -> None:
        """Stop the threads after their current task."""
        self.stops.set()
        self._encoder.shutdown(cancel_futures=True)
        self._decoder.shutdown(cancel_futures=True)

    @property
    def references(self) -> int:
        """The number of reference shots planned so far."""
        return self.plan.counters["references"]

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Continue from the checkpoint of an earlier run.

        On a real bench only the shot plan continues, because the startup check has already updated
        the brightness filter. A simulated bench has not changed, so its filter is restored too.
        """
        self.plan.counters.update(checkpoint.counters)
        if not self.bench.is_simulated:
            return
        self.bench.shots = checkpoint.shots
        if self.decoder.tracker is not None and checkpoint.tracker is not None:
            self.decoder.tracker.restore(checkpoint.tracker)
        self._blank_modulators()

    def _blank_modulators(self) -> None:
        """Blank both modulators, so that no earlier frame is mistaken for a later one."""
        for role, modulator in (("weight", self.bench.weight), ("input", self.bench.input)):
            modulator.blank()
            self._frame_counts[role] += 1
            self._unconfirmed_frames[role].clear()
        self._shown.clear()

    # --- a job -----------------------------------------------------------------------------------

    def run(self, job: TileJob) -> TileResult:
        """Take all shots of a job; the first frames of the next one may be shown already.

        Raises
        ------
        Paused : when no recovery removes a fault
        RestartProducts : when the bench must be measured again
        NotConnected : when the bench was closed
        """
        if self._pause_error is not None:  # later jobs get the same reason
            cause = self._pause_error
            raise Paused(str(cause), cause.kind, cause.device, cause.advice) from cause
        try:
            state = self._job_state(job)
            while state.next is not None:
                self._take_segment(state)
        except Paused as error:
            self._pause_error = error
            failed = self._job_states.get(job.number)
            if self.recorder is not None and self._is_single_pixel and failed is not None:
                self.recorder.forget(job.name, _last_reference(failed.open))
            raise
        self._job_states.pop(job.number, None)
        total = _zero_stats()
        for stats in state.stats:
            total.add(stats)
        return TileResult(state.electrons, total)

    def _job_state(self, job: TileJob) -> _JobState:
        """Return the progress of a job; a new job starts to encode its first frames."""
        state = self._job_states.get(job.number)
        if state is None:
            saved = None if self.recorder is None else self.recorder.known(job.name)
            electrons = np.zeros((job.tiles, job.vectors, self.layout.slots))
            state = _JobState(job, electrons, [], self._prepared_shots(job, saved))
            if saved is not None:
                state.stats.append(saved.stats)
                visited = self.plan.visited(job, len(saved.electrons))
                electrons[visited[:, 0], visited[:, 1]] = saved.electrons
            self._job_states[job.number] = state
            state.advance()
        return state

    def _next_shot(self, state: _JobState) -> _PendingShot | None:
        """Return the next shot of this job, or the first shot of the next job in the queue."""
        if state.next is not None:
            return state.next
        clock = self.bench.clock
        clock.sleep_until(clock.now_s())  # a virtual clock returns once all host threads are idle
        upcoming = self.upcoming()
        return None if upcoming is None else self._job_state(upcoming).next

    def _prepared_shots(self, job: TileJob, saved: Kept | None) -> Iterator[_PendingShot]:
        """Return the shots of a job; the frames of some shots ahead are encoded in advance.

        Only frames that change are encoded. The frames displayed before the first shot are unknown,
        so both frames of that shot are encoded.
        """
        ready: deque[_PendingShot] = deque()
        keys: dict[str, tuple[int, int | str]] = {}
        stats = _zero_stats()
        for planned in self.plan.shots(job, saved):
            if planned.number % SEGMENT == 0 or not keys:
                stats = _zero_stats()
            pending = _PendingShot(planned, stats)
            for role in ROLES:
                key = planned.key(role)
                if keys.get(role) != key:
                    keys[role] = key
                    number = planned.counters[role]
                    pending.frames[role] = self._encoder.submit(
                        self._make_frame, role, planned, number, stats
                    )
            ready.append(pending)
            if len(ready) > AHEAD:
                yield ready.popleft()
        yield from ready

    # --- a segment -------------------------------------------------------------------------------

    def _take_segment(self, state: _JobState) -> None:
        """Take the shots of one segment, repeat them while a monitor asks for it, and record them.

        Recorded numbers are final, with one exception: if the checksum of a whole weight frame
        fails later, its segments are taken and recorded again.
        """
        assert state.next is not None
        taken: list[_PendingShot] = []
        state.open.append(taken)
        self._take(state, self._new_shots(state, state.next.planned.number // SEGMENT, taken))
        segment_shot = _PendingShot(taken[-1].planned, taken[-1].stats)
        while self._must_retake(segment_shot, len(taken)):
            for pending in taken:
                pending.frames.clear()
                pending.recoveries_by_kind.clear()
            self._take(state, ((pending, None) for pending in taken))
        for segment in state.open:
            if any(pending.is_unsaved for pending in segment):
                self._finish_segment(state, segment)
        self._drop_confirmed_segments(state)

    def _new_shots(
        self, state: _JobState, segment: int, taken: list[_PendingShot]
    ) -> Iterator[tuple[_PendingShot, _PendingShot | None]]:
        """Return the shots of a segment, each with the next shot."""
        while (pending := state.next) is not None and pending.planned.number // SEGMENT == segment:
            state.advance()
            taken.append(pending)
            yield pending, self._next_shot(state)

    def _take(
        self, state: _JobState, shots: Iterator[tuple[_PendingShot, _PendingShot | None]]
    ) -> None:
        """Take shots until all of them are checked."""
        waiting: deque[_PendingShot] = deque()
        for pending, following in shots:
            is_lost = self._attempt(pending, following)
            waiting.append(pending)
            # a device that failed is recovered before it is used again
            while waiting and (is_lost or len(waiting) >= _PIPELINE_DEPTH):
                self._check_first(state, waiting)
        while waiting:
            self._check_first(state, waiting)

    def _check_first(self, state: _JobState, waiting: deque[_PendingShot]) -> None:
        pending = waiting.popleft()
        attempts = pending.attempts
        self._check(state, pending)
        for other in waiting if pending.attempts > attempts else ():
            if other.depends_on_previous and other.future is not None:
                other.future = _failed(
                    StaleFrame("its frame cannot be told from the frame of a shot that failed")
                )

    def _drop_confirmed_segments(self, state: _JobState) -> None:
        """Close segments that no later checksum or reference shot can reject."""
        job, last = state.job, state.open[-1][-1].planned
        if self._is_single_pixel:
            good = _last_reference(state.open)
            state.open = [part for part in state.open if part[-1].planned.number > good]
            return
        if state.next is None or job.check is None:
            state.open.clear()
        elif job.order == ORDERS[0]:
            continues = state.next.planned.weight == last.weight
            state.open = [
                segment
                for segment in state.open
                if continues and any(shot.planned.weight == last.weight for shot in segment)
            ]

    def _finish_segment(self, state: _JobState, taken: list[_PendingShot]) -> None:
        """Copy a segment into the result of its job, and record it."""
        stats, electrons = taken[0].stats, []
        quality = np.empty((len(taken), len(QUALITY)), dtype=np.float32)
        for row, pending in zip(quality, taken, strict=True):
            planned, decoded = pending.planned, pending.decoded
            assert decoded is not None
            pending.is_unsaved = False
            row[:] = (*decoded.quality, pending.attempts)
            if isinstance(planned.input, int):
                state.electrons[planned.weight, planned.input] = decoded.electrons
                electrons.append(decoded.electrons)
        tracker, last, reached = self.decoder.tracker, taken[-1].planned, taken[-1].planned
        is_again = taken is not state.open[-1]
        if is_again:  # later segments are already recorded
            reached = state.open[-2][-1].planned
        else:
            state.stats.append(stats)
        if self.recorder is None:
            return
        self.recorder.keep(
            Segment(
                job=state.job.name,
                first=taken[0].planned.number,
                done=last.number + 1,
                is_last=state.next is None and not is_again,
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

    def _must_retake(self, segment_shot: _PendingShot, shots: int) -> bool:
        """Read the monitors, wait while one is out of bounds, and return whether one was.

        Parameters
        ----------
        segment_shot : represents the whole segment, and counts its recoveries
        shots : number of shots of the segment
        """
        if self._monitors is None:
            return False
        began_s = self.bench.clock.now_s()
        darkness = self.bench.darkness
        try:
            darkness = self.bench.wait_for_light(self._wait_for_light)
            complaint = self._monitors.complaint()
            if complaint:
                self._monitors.wait(self._sleep, complaint, segment_shot.began_s or began_s)
        except InstrumentError as error:
            if isinstance(error, Paused) or kind_of(error) is None:
                raise
            if darkness != self.bench.darkness:  # the light was held off during the reading
                return True
            self._count_fault(kind_of(error) or "", 1, segment_shot.stats)
            self._recover(segment_shot, error)
            return True  # as a precaution, the segment is taken again
        if not complaint:
            return False
        segment_shot.began_s = segment_shot.began_s or began_s
        self._count_fault(SUSPENDED, shots, segment_shot.stats)
        self._count_recovery("wait", segment_shot)
        self._record_fault(SUSPENDED, "", segment_shot, "wait", complaint, began_s)
        return True

    # --- one shot --------------------------------------------------------------------------------

    def _attempt(
        self, pending: _PendingShot, following: _PendingShot | None, restarts: bool = False
    ) -> bool:
        """Take one exposure and start to decode it; the result is in `pending.future`.

        The frames of the following shot are shown as soon as the exposure has ended.

        Parameters
        ----------
        restarts : show both frames again, and discard earlier exposures of the detector

        Returns
        -------
        whether the exposure was lost
        """
        self._refuse_when_stopped(pending)
        attempt = pending.attempts
        pending.attempts += 1
        pending.is_unsaved = True
        pending.began_s = self.bench.clock.now_s()
        try:
            pending.darkness = self.bench.wait_for_light(self._wait_for_light)
            if restarts or self._needs_arming:
                self._arm()
                self._shown.clear()
                self._needs_arming = pending.depends_on_previous = False
                self._check_displayed(pending)
            self._show_for(pending)
            self.bench.shots += 1
            pending.stats.shots += 1
            shot = Shot(f"{pending.name}/{attempt}", self.bench.shots)
            taken = self._timed_exposure(shot, pending, following)
        except InstrumentError as error:
            if kind_of(error) is None:
                raise
            pending.future = _failed(error)
            return True
        pending.future = self._decoder.submit(self._decode, taken)
        return False

    def _timed_exposure(
        self, shot: Shot, pending: _PendingShot, following: _PendingShot | None
    ) -> Taken:
        start = time.perf_counter()
        try:
            return self._expose(shot, pending.planned, following)
        finally:
            pending.stats.seconds["product"] += time.perf_counter() - start

    def _refuse_when_stopped(self, pending: _PendingShot) -> None:
        if self.stops.is_set():
            raise NotConnected(
                f"{self.bench.path}: the bench was closed before {pending.planned.job.name}"
            )

    def _arm(self) -> None:
        """Discard earlier exposures of the camera, or reset the frame counters of the DAQ."""
        if not self._is_single_pixel:
            self.bench.camera.arm()
            return
        for counter, role in enumerate(("input", "weight")):
            self.bench.daq.reset_count(counter)
            self._frame_counts[role] = 0

    def _show_for(self, pending: _PendingShot) -> None:
        """Show the frames of a shot that are not displayed yet."""
        for role in ROLES:
            shown = self._shown.get(role)
            if shown is not None and shown[1].key == pending.planned.key(role):
                continue
            number = self._number(role, pending)
            future = pending.frames.get(role)
            frame = None if future is None else future.result()
            if frame is None or frame.number != number:
                frame = self._make_frame(role, pending.planned, number, pending.stats)
            self._show(frame, pending.planned, pending.stats)

    def _number(self, role: str, pending: _PendingShot) -> int:
        """Return the frame id to show: the planned number, or the next one that is unique.

        A frozen modulator still displays one of its unconfirmed frames: those since the last frame
        that a marker confirmed. The id must differ from all of these.
        """
        bits, number = self._bits, pending.planned.counters[role]
        if not bits:
            return number
        count, unconfirmed = 1 << bits, self._unconfirmed_frames[role]
        if number % count not in unconfirmed:
            return number
        if len(set(unconfirmed)) == count:
            pending.depends_on_previous = True
            return number + (number % count == unconfirmed[-1])
        return next(n for n in range(number + 1, number + count) if n % count not in unconfirmed)

    def _check_displayed(self, pending: _PendingShot) -> None:
        """Check with one more exposure which frames are displayed, if every frame id is possible.

        The frames of the shot are shown as many times as there are frame ids. A modulator that lags
        by at most that many frames then displays no earlier frame.

        Raises
        ------
        InstrumentError : when the exposure fails
        """
        count = 1 << self._bits
        unconfirmed = self._unconfirmed_frames
        if not self._bits or all(len(set(ids)) < count for ids in unconfirmed.values()):
            return
        self._show_for(pending)
        for _, frame in list(self._shown.values()) * count:
            self._show(frame, pending.planned, pending.stats)
        self.bench.shots += 1
        pending.stats.shots += 1
        shot = Shot(f"{pending.name}/{pending.attempts - 1}/look", self.bench.shots)
        taken = self._timed_exposure(shot, pending, None)
        try:
            seen = self.layout.marks(taken.data, None, self.decoder.response).numbers
        except (StaleFrame, UnexpectedIntensity):
            seen = {}  # no id is readable, so an id that is read later belongs to a later frame
        for role in ROLES:
            displayed = [seen[role]] if role in seen else []
            # the last shown id stays in the list, so that the next one differs from it
            unconfirmed[role] = [unconfirmed[role][-1], *displayed]
        self._shown.clear()

    def _make_frame(self, role: str, planned: PlannedShot, number: int, stats: Stats) -> Frame:
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
        self._add_slice("encode", f"{role} frame", start_s, None, planned)
        return frame

    def _reference_levels(self) -> np.ndarray:
        """Return the input grey levels of a reference shot."""
        rows = 1 if self.layout.shares_input else self.layout.slots
        light = np.full((rows, self.layout.length), self.layout.reference_light)
        return self.decoder.curves["input"].levels(light)

    def _show(self, frame: Frame, planned: PlannedShot, stats: Stats) -> None:
        start = time.perf_counter()
        modulator = self.bench.input if frame.role == "input" else self.bench.weight
        if self._bits:
            self._unconfirmed_frames[frame.role].append(frame.number % (1 << self._bits))
        shown = modulator.show(frame.pixels)
        self._shown[frame.role] = (shown, frame)
        self._frame_counts[frame.role] += 1
        settled_s = max(shown.settled_at_s, shown.shown_at_s + self._settling_s[frame.role])
        self._add_slice(frame.role, "settling", shown.shown_at_s, settled_s, planned)
        if frame.role == "input":
            stats.input_frames += 1
            stats.input_samples += frame.levels.size
        else:
            stats.weight_frames += 1
        stats.seconds["product"] += time.perf_counter() - start

    def _expose(self, shot: Shot, planned: PlannedShot, following: _PendingShot | None) -> Taken:
        """Wait until both frames have settled, expose, and read."""
        bench, file, clock = self.bench, self.bench.file, self.bench.clock
        for role, modulator in (("input", bench.input), ("weight", bench.weight)):
            shown = self._shown[role][0]
            clock.sleep_until(shown.shown_at_s + self._settling_s[role])
            modulator.wait_until_settled(shown)
        frames = {role: frame for role, (_, frame) in self._shown.items()}
        start_s = clock.now_s()
        if self._is_single_pixel:
            count = WINDOW_SAMPLES
            rate_hz, timeout_s = count / file.exposure_s, self._read_timeout_s
            self._check_counters()
            data = bench.daq.read((0,), count, rate_hz, timeout_s, shot).volts
            self._record_read_time(start_s)
            self._add_slice("detector", "exposure", start_s, None, planned)
            return Taken(shot, data, frames, planned)
        bench.camera.trigger(shot)
        if following is not None and bench.camera.tells_exposed:
            bench.camera.wait_until_exposed()
            self._show_for(following)
        taken = bench.camera.read(self._read_timeout_s)
        self._record_read_time(start_s)
        ends_s = taken.taken_at_s + taken.exposure_s
        self._add_slice("detector", "exposure", taken.taken_at_s, ends_s, planned)
        self._add_slice("detector", "read-out", ends_s, None, planned)
        return Taken(shot, taken.data, frames, planned)

    @property
    def _read_timeout_s(self) -> float:
        """The time-out of one detector read: a multiple of the longest read, once that is known.

        Each lost frame costs this time. The time-out of the bench file is longer, because it also
        covers devices that connect or answer slowly.
        """
        most_s = self.bench.file.limits.timeout_s
        if self._read_count < _LEARNING_READS:
            return most_s
        return min(most_s, _TIMEOUT_FACTOR * self._longest_read_s + _TIMEOUT_MARGIN_S)

    def _record_read_time(self, since_s: float) -> None:
        """Record the duration of a detector read."""
        self._read_count += 1
        self._longest_read_s = max(self._longest_read_s, self.bench.clock.now_s() - since_s)

    def _add_slice(
        self, track: str, name: str, start_s: float, end_s: float | None, planned: PlannedShot
    ) -> None:
        """Add a slice to the timeline, if there is one; without `end_s` the slice ends now."""
        if self.timeline is None:
            return
        end_s = self.bench.clock.now_s() if end_s is None else end_s
        shot, details = planned.name, planned.job.details
        self.timeline.add(track, name, start_s, max(end_s, start_s), shot=shot, **details)

    def _check_counters(self) -> None:
        for counter, role in enumerate(("input", "weight")):
            counted = self.bench.daq.count(counter)
            wanted = self._frame_counts[role]
            if counted != wanted:
                self._frame_counts[role] = counted
                error = StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {wanted} were shown"
                )
                error.instrument = self.bench.instruments[role]
                raise error

    def _decode(self, taken: Taken) -> DecodedShot:
        start_s = self.bench.clock.now_s()
        decoded = self.decoder.decode(taken)
        self._add_slice("decode", "decode", start_s, None, taken.planned)
        return decoded

    # --- faults and recoveries -------------------------------------------------------------------

    def _check(self, state: _JobState, pending: _PendingShot) -> None:
        """Wait for the result of a shot; apply recoveries until the result can be trusted."""
        while pending.future is not None:  # None: checked already, together with a suspect shot
            if pending.darkness != self.bench.darkness:
                self._retake_dark(pending)
                continue
            try:
                decoded = pending.future.result()
            except InstrumentError as error:
                self._refuse_when_stopped(pending)
                if kind_of(error) is None:
                    raise
                suspects = self._suspect_shots(state, pending, error)
                self._count_fault(kind_of(error) or "", len(suspects), pending.stats)
                recovery = self._recover(pending, error)
                if recovery in ("host", "skip"):
                    self._needs_arming = True
                    for other in suspects:
                        other.decoded, other.future = self._substitute(other, recovery), None
                    return
                for other in suspects[:-1]:
                    other.frames.clear()
                    self._attempt(other, None, restarts=True)
                    self._check(state, other)
                self._attempt(pending, None, restarts=True)
            else:
                pending.stats.seconds["decode"] += decoded.seconds
                pending.stats.conversions += decoded.electrons.size
                pending.decoded, pending.future = decoded, None
                self._confirm_frames(decoded)

    def _retake_dark(self, pending: _PendingShot) -> None:
        """Take a shot again because the light was held off during it; no device is faulty."""
        self._refuse_when_stopped(pending)
        self._count_fault(SUSPENDED, 1, pending.stats)
        pending.frames.clear()
        self._attempt(pending, None, restarts=True)

    def _wait_for_light(self, seconds: float) -> None:
        """Wait on the real clock while the light is held off; a stop request ends the wait."""
        self.bench.beat()  # this wait is intended, so the heartbeat continues
        if self.stops.wait(seconds):
            raise NotConnected(f"{self.bench.path}: the bench was closed while it waited for light")

    def _confirm_frames(self, decoded: DecodedShot) -> None:
        """Drop all unconfirmed frames that are older than the frames that a shot confirmed."""
        for role, number in decoded.numbers.items():
            unconfirmed = self._unconfirmed_frames[role]
            if number in unconfirmed:
                del unconfirmed[: unconfirmed.index(number)]

    def _suspect_shots(
        self, state: _JobState, pending: _PendingShot, error: InstrumentError
    ) -> list[_PendingShot]:
        """Return the shots that an error makes suspect; the current shot is the last of them.

        After a checksum mismatch of the inputs, these are all shots of the weight frame. On a
        single-pixel bench, a failed reference shot makes all shots since the last good one suspect.
        """
        taken = [
            other
            for segment in state.open
            for other in segment
            if other is not pending
            and not other.planned.is_reference
            and (other.decoded is not None or other.future is not None)
        ]
        if isinstance(error, ChecksumMismatch) and error.scope == "tile":
            weight = pending.planned.weight
            return [*(other for other in taken if other.planned.weight == weight), pending]
        is_reference = self._is_single_pixel and pending.planned.is_reference
        if is_reference and isinstance(error, _REFERENCE_ERRORS):
            good = _last_reference(state.open)
            since = [o for o in taken if good < o.planned.number < pending.planned.number]
            return [*since, pending]
        return [pending]

    def _recover(self, pending: _PendingShot, error: InstrumentError) -> str:
        """Apply recoveries until one of them works, and return its name.

        A recovery that fails is a fault itself. The list of each kind is finite, so this ends.

        Raises
        ------
        Paused, RestartProducts : when the next recovery requires it
        """
        while True:
            try:
                return self._apply_next_recovery(pending, error)
            except InstrumentError as other:
                if isinstance(other, Paused) or kind_of(other) is None:
                    raise
                self._refuse_when_stopped(pending)
                error = other

    def _apply_next_recovery(self, pending: _PendingShot, error: InstrumentError) -> str:
        """Apply the next recovery for a fault, and return its name."""
        began_s, kind = pending.began_s, kind_of(error)
        assert kind is not None
        if kind in _INTENSITY_KINDS:
            try:
                check_emission(self.bench)
            except InstrumentError as reason:
                if pending.darkness == self.bench.darkness:  # light that is held off is not a fault
                    error, kind = reason, kind_of(reason) or kind
        recovery = self._next_recovery(kind, pending)
        self._count_recovery(recovery.name, pending)
        if recovery == PAUSE:
            self._pause(pending, kind, error)
        try:
            self._apply(recovery, error)
        finally:
            device = error.instrument.name if isinstance(error.instrument, Instrument) else ""
            self._record_fault(kind, device, pending, recovery.name, str(error), began_s)
            pending.began_s = self.bench.clock.now_s()
        return recovery.name

    def _next_recovery(self, kind: str, pending: _PendingShot) -> Recovery:
        while True:
            recovery = self._fault_policy.recovery(kind, pending.recoveries_by_kind)
            pending.recoveries_by_kind[kind] += 1
            if self.may_restart or recovery.name not in RESTARTS:
                return recovery

    def _apply(self, recovery: Recovery, error: InstrumentError) -> None:
        if recovery.name == "wait":
            self._sleep(recovery.wait_s)
        elif recovery.name == "reconnect":
            for role in self._to_reconnect(error):
                reconnect(self.bench, role)
        elif recovery.name in RESTARTS:
            raise RestartProducts(recovery.name)

    def _to_reconnect(self, error: InstrumentError) -> list[str]:
        """Return the role of the device that failed; if unknown, all roles but the source."""
        role = role_of(self.bench, error.instrument)
        return [role] if role else ["detector", "input", "weight"]

    def _substitute(self, pending: _PendingShot, recovery: str) -> DecodedShot:
        """Return substitute numbers for a shot without a valid exposure; the shot is marked."""
        planned = pending.planned
        pending.stats.marked += 1
        if isinstance(planned.input, int):
            x = planned.job.input(planned.input)
        else:
            x = self._reference_levels()
        model = self.decoder.model
        electrons_of = model.passed_e if recovery == "host" else model.leaked_e
        return DecodedShot(electrons_of(x, planned.job.weight(planned.weight)))

    def _pause(self, pending: _PendingShot, kind: str, error: InstrumentError) -> None:
        """End the run with a message for the operator; the backend makes the bench safe.

        Raises
        ------
        Paused : always
        """
        role, began_s = role_of(self.bench, error.instrument), pending.began_s
        if kind == "interlock":
            safety.latch(self.bench.path, f"{error}", self.bench.latches)
        diagnosis = Diagnosis(role, "", _ADVICE.get(kind, ""))
        if kind in _DIAGNOSED_KINDS:
            diagnosis = diagnose(self.bench, self.decoder)
            role = diagnosis.role or role
        device = self.bench.instruments[role].name if role else ""
        counts = pending.recoveries_by_name.items()
        tried = ", ".join(f"{name} {count}" for name, count in counts if name != PAUSE.name)
        clause = f"; {diagnosis.sentence}" if diagnosis.sentence else ""
        advice = f"; {diagnosis.advice}" if diagnosis.advice else ""
        self._record_fault(kind, device, pending, "pause", str(error) + clause, began_s)
        raise Paused(
            f"{self.bench.path}: shot {pending.name} failed {pending.attempts} times, the last "
            f"time ({kind}{f', {device}' if device else ''}): {error}{clause}; tried: "
            f"{tried or 'nothing'}{advice}; the bench is safe",
            kind,
            device,
            diagnosis.advice,
        ) from error

    def _count_fault(self, kind: str, shots: int, stats: Stats) -> None:
        """Count shots that are retried."""
        self.faults[kind] = self.faults.get(kind, 0) + shots
        stats.retries += shots

    def _count_recovery(self, name: str, pending: _PendingShot) -> None:
        self.recoveries[name] = self.recoveries.get(name, 0) + 1
        pending.recoveries_by_name[name] += 1

    def _record_fault(
        self,
        kind: str,
        device: str,
        pending: _PendingShot,
        recovery: str,
        detail: str,
        began_s: float,
    ) -> None:
        """Record a fault, its recovery and the bench time that they cost."""
        lost_s = self.bench.clock.now_s() - began_s
        self.lost_s += lost_s
        if self.recorder is not None:
            attempt = max(pending.attempts - 1, 0)
            self.recorder.note(
                FaultNote(
                    time.time(), kind, device, pending.name, attempt, recovery, detail, lost_s
                )
            )

    def _sleep(self, seconds: float) -> None:
        """Wait on the clock of the bench; a stop request ends the wait."""
        clock = self.bench.clock
        if clock.is_virtual:
            clock.sleep_until(clock.now_s() + seconds)
        ends_s = clock.now_s() + (0.0 if clock.is_virtual else seconds)
        while not self.stops.is_set() and (left_s := ends_s - clock.now_s()) > 0:
            self.bench.beat()  # this wait is intended, so the heartbeat continues
            self.stops.wait(min(left_s, 1.0))
        if self.stops.is_set():
            raise NotConnected(f"{self.bench.path}: the bench was closed while it waited")


def _failed(error: BaseException) -> Future[DecodedShot]:
    future: Future[DecodedShot] = Future()
    future.set_exception(error)
    return future


def _last_reference(segments: list[list[_PendingShot]]) -> int:
    """Return the number of the last reference shot that was accepted; -1 if there is none."""
    good = (
        pending.planned.number
        for segment in segments
        for pending in segment
        if pending.planned.is_reference and pending.decoded is not None
    )
    return max(good, default=-1)


def _zero_stats() -> Stats:
    return Stats(seconds=dict.fromkeys(("encode", "product", "decode"), 0.0))
