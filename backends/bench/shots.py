"""`ShotRunner`: takes the shots of a job as fast as the devices allow, and retries bad ones.

Three steps overlap: while frames settle, the previous shot is decoded and the next frames are
encoded, in the same thread if there is time, else in threads of their own. As soon as an exposure
has ended, the modulators get the next frames while the detector is read out. Each shot is checked
exactly two shots after its exposure, and all shots of a segment before the first shot of the next
segment. So the retries and their order never depend on the speed of the computer.

At the end of a segment no shot is pending. The monitors are read then, and the segment is recorded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ...instruments import InstrumentError, Paused, Shot, StaleFrame
from .bench import Bench
from .checkpoint import Checkpoint
from .decoding import DecodedShot, Decoder, Taken
from .fault_policy import SUSPENDED, kind_of
from .fault_recovery import SUBSTITUTES, FaultRecovery
from .frame_tracker import FrameTracker
from .pending_shot import JobState, PendingShot, add_slice
from .queue import Worker
from .segment_writer import SegmentWriter
from .shot_plan import ShotPlan, TileJob, TileResult

_LEARNING_READS = 8  # detector reads before their longest duration sets the time-out
_TIMEOUT_FACTOR, _TIMEOUT_MARGIN_S = 2.0, 0.02  # time-out = factor x longest read + margin
_PIPELINE_DEPTH = 2  # pending shots at which the first of them is checked


class ShotRunner:
    """Takes shots on an open bench.

    It owns the loop over the shots of a job: exposures, their decoding, and their checks. Frames,
    recoveries and finished segments are the jobs of its parts.

    Parameters
    ----------
    bench : open
    decoder : with the optical model of the bench
    reference_every : shots between two reference shots; 0 for none
    settling_s : measured settling time after a frame change, by role; 0 where not measured

    Attributes
    ----------
    plan : of the shots of all jobs
    """

    def __init__(
        self,
        bench: Bench,
        decoder: Decoder,
        reference_every: int,
        settling_s: dict[str, float],
    ) -> None:
        self.bench, self.decoder = bench, decoder
        has_references = bench.detector.references_weight_frames(reference_every)
        self.plan = ShotPlan(reference_every, has_references)
        self._frames = FrameTracker(bench, decoder, settling_s)
        self._segments = SegmentWriter(bench, decoder)
        self._recovery = FaultRecovery(bench, decoder, self._segments.note)
        self._upcoming: Callable[[], TileJob | None] = lambda: None
        self._job_states: dict[int, JobState] = {}
        self._pause_error: Paused | None = None
        self._needs_arming = False  # the detector may still return an exposure that was given up
        self._read_timeout = _ReadTimeout(bench.file.limits.timeout_s)
        self._decoding = Worker("lightloom-decode")
        bench.detector.arm()

    def close(self) -> None:
        """Stop the threads after their current task."""
        self._frames.close()
        self._decoding.close()

    def serve(self, upcoming: Callable[[], TileJob | None], may_restart: bool) -> None:
        """Begin to take the jobs of a queue, and to record their segments and faults.

        Parameters
        ----------
        upcoming : returns the next job in the queue
        may_restart : whether the bench may be measured again between them
        """
        self._upcoming, self._recovery.may_restart = upcoming, may_restart
        self._segments.is_recording = True

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
        self._frames.blank()

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
            if job.number in self._job_states:
                self._segments.forget_unmeasured(self._job_states[job.number])
            raise
        self._job_states.pop(job.number, None)
        return self._segments.result(state)

    def take_one(self, name: str, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Take one shot of given grey levels, and return its electrons [slots]."""
        return self.run(TileJob(name, 1, 1, lambda _: weights, lambda _: inputs)).electrons[0, 0]

    def _job_state(self, job: TileJob) -> JobState:
        """Return the progress of a job; a new job starts to encode its first frames."""
        state = self._job_states.get(job.number)
        if state is None:
            saved = self._segments.saved(job)
            electrons = np.zeros((job.tiles, job.vectors, self.decoder.layout.slots))
            shots = self._frames.encode_ahead(self.plan.shots(job, saved))
            state = self._job_states[job.number] = JobState(job, electrons, [], shots)
            if saved is not None:
                state.stats.append(saved.stats)
                visited = job.visits[: len(saved.electrons)]
                electrons[visited[:, 0], visited[:, 1]] = saved.electrons
            state.advance()
        return state

    def _next_shot(self, state: JobState) -> PendingShot | None:
        """Return the next shot of this job, or the first shot of the next job in the queue."""
        if state.next is not None:
            return state.next
        clock = self.bench.clock
        clock.sleep_until(clock.now_s())  # a virtual clock returns once all host threads are idle
        upcoming = self._upcoming()
        return None if upcoming is None else self._job_state(upcoming).next

    # --- a segment -------------------------------------------------------------------------------

    def _take_segment(self, state: JobState) -> None:
        """Take the shots of one segment, again while a monitor asks for it, and record them."""
        taken: list[PendingShot] = []
        state.open_segments.append(taken)
        self._take(state, self._new_shots(state, taken))
        segment_shot = PendingShot(taken[-1].planned, taken[-1].stats)
        while self._recovery.must_retake(segment_shot, len(taken)):
            for pending in taken:
                pending.frames.clear()
                pending.recoveries_by_kind.clear()
            self._take(state, ((pending, None) for pending in taken))
        self._segments.finish(state)

    def _new_shots(
        self, state: JobState, taken: list[PendingShot]
    ) -> Iterator[tuple[PendingShot, PendingShot | None]]:
        """Return the shots of the next segment, each with the shot after it."""
        while (pending := state.next) is not None:
            if taken and pending.planned.segment != taken[0].planned.segment:
                return
            state.advance()
            taken.append(pending)
            yield pending, self._next_shot(state)

    def _take(
        self, state: JobState, shots: Iterator[tuple[PendingShot, PendingShot | None]]
    ) -> None:
        """Take shots until all of them are checked."""
        waiting: deque[PendingShot] = deque()
        for pending, following in shots:
            is_lost = self._attempt(pending, following)
            waiting.append(pending)
            # a device that failed is recovered before it is used again
            while waiting and (is_lost or len(waiting) >= _PIPELINE_DEPTH):
                self._check_first(state, waiting)
        while waiting:
            self._check_first(state, waiting)

    def _check_first(self, state: JobState, waiting: deque[PendingShot]) -> None:
        """Check the first of the waiting shots; after a retry, later ones may be worthless."""
        pending = waiting.popleft()
        attempts = pending.attempts
        self._check(state, pending)
        for other in waiting if pending.attempts > attempts else ():
            if other.depends_on_previous and other.decoding is not None:
                other.fail(
                    StaleFrame("its frame cannot be told from the frame of a shot that failed")
                )

    # --- one shot --------------------------------------------------------------------------------

    def _attempt(
        self, pending: PendingShot, following: PendingShot | None = None, restarts: bool = False
    ) -> bool:
        """Take one exposure and start to decode it; the result is in `pending.decoding`.

        The frames of the following shot are shown as soon as the exposure has ended.

        Parameters
        ----------
        restarts : show both frames again, and discard earlier exposures of the detector

        Returns
        -------
        whether the exposure was lost
        """
        self._check_stop(pending)
        pending.attempts += 1
        pending.is_unsaved = True
        pending.began_s = self.bench.clock.now_s()
        try:
            pending.darkness = self.bench.wait_for_light()
            if restarts or self._needs_arming:
                self.bench.detector.arm()
                self._needs_arming = False
                self._frames.show_again(pending, partial(self._expose, pending, suffix="/look"))
            else:
                self._frames.show(pending)
            taken = self._expose(pending, following)
        except InstrumentError as error:
            if kind_of(error) is None:
                raise
            pending.fail(error)
            return True
        pending.decoding = self._decoding.defer(self._decode, taken)
        return False

    def _expose(
        self, pending: PendingShot, following: PendingShot | None = None, suffix: str = ""
    ) -> Taken:
        """Wait until both frames have settled, expose, and read.

        Parameters
        ----------
        suffix : of the name of the exposure
        """
        bench, planned, frames = self.bench, pending.planned, self._frames.frames
        bench.shots += 1
        pending.stats.shots += 1
        shot = Shot(f"{pending.name}/{pending.attempts - 1}{suffix}", bench.shots)
        start = time.perf_counter()
        try:
            self._frames.wait_until_settled(self._decoding)
            start_s = bench.clock.now_s()
            on_exposed = None if following is None else partial(self._frames.show, following)
            reading = bench.detector.expose(shot, self._read_timeout.seconds, on_exposed)
            self._read_timeout.learn(bench.clock.now_s() - start_s)
        finally:
            pending.stats.seconds["product"] += time.perf_counter() - start
        for name, began_s, ended_s in reading.phases:
            add_slice(bench, "detector", name, began_s, ended_s, planned)
        return Taken(shot, reading.data, reading.peak, frames, planned)

    def _decode(self, taken: Taken) -> DecodedShot:
        start_s = self.bench.clock.now_s()
        decoded = self.decoder.decode(taken)
        end_s = self.bench.clock.now_s()
        add_slice(self.bench, "decode", "decode", start_s, end_s, taken.planned)
        return decoded

    # --- checks ----------------------------------------------------------------------------------

    def _check(self, state: JobState, pending: PendingShot) -> None:
        """Wait for the result of a shot; apply recoveries until the result can be trusted."""
        while pending.decoding is not None:  # None: checked already, together with a suspect shot
            if pending.darkness != self.bench.darkness:
                self._retake_dark(pending)
                continue
            try:
                decoded = pending.decoding.result()
            except InstrumentError as error:
                self._handle(state, pending, error)
            else:
                pending.stats.seconds["decode"] += decoded.seconds
                pending.stats.conversions += decoded.electrons.size
                pending.accept(decoded)
                self._frames.confirm(decoded.numbers)

    def _handle(self, state: JobState, pending: PendingShot, error: InstrumentError) -> None:
        """Recover from a fault, then take the shot and all suspect shots again."""
        kind = kind_of(error)
        self._check_stop(pending)
        if kind is None:
            raise error
        suspects = self._segments.suspects(state, pending, error)
        self._recovery.count_fault(kind, len(suspects), pending.stats)
        recovery = self._recovery.recover(pending, error)
        if recovery in SUBSTITUTES:
            self._needs_arming = True
            for other in suspects:
                other.accept(self._recovery.substitute(other, recovery))
            return
        for other in suspects[:-1]:
            other.frames.clear()
            self._attempt(other, restarts=True)
            self._check(state, other)
        self._attempt(pending, restarts=True)

    def _retake_dark(self, pending: PendingShot) -> None:
        """Take a shot again because the light was held off during it; no device is faulty."""
        self._check_stop(pending)
        self._recovery.count_fault(SUSPENDED, 1, pending.stats)
        pending.frames.clear()
        self._attempt(pending, restarts=True)

    def _check_stop(self, pending: PendingShot) -> None:
        self.bench.stop.check(f"before {pending.planned.job.name}")


class _ReadTimeout:
    """The time-out of one detector read: a multiple of the longest read, once that is known.

    Each lost frame costs this time. The time-out of the bench file is longer, because it also
    covers devices that connect or answer slowly.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._reads, self._longest_s = 0, 0.0

    @property
    def seconds(self) -> float:
        """The time-out of the next read."""
        if self._reads < _LEARNING_READS:
            return self._most_s
        return min(self._most_s, _TIMEOUT_FACTOR * self._longest_s + _TIMEOUT_MARGIN_S)

    def learn(self, took_s: float) -> None:
        """Take note of the duration of a read."""
        self._reads += 1
        self._longest_s = max(self._longest_s, took_s)
