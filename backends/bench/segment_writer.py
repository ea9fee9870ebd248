"""`SegmentWriter`: copy finished segments into the result of their job, and record them.

Recorded numbers are final, with two exceptions. If the checksum of a whole weight frame fails
later, its segments are taken and recorded again. If a reference shot fails on a bench whose
brightness only references measure, the segments since the last good one are.
"""

from __future__ import annotations

import numpy as np

from ...instruments import (
    ChecksumMismatch,
    DriftExceeded,
    InstrumentError,
    UnexpectedIntensity,
)
from ..tiling import ORDERS
from .bench import Bench
from .checkpoint import QUALITY, Checkpoint, FaultNote, Kept, Recorder, Segment
from .decoding import Decoder
from .pending_shot import JobState, PendingShot, zero_stats
from .shot_plan import TileJob, TileResult

# a reference shot that raises one of these also invalidates the shots before it
_REFERENCE_ERRORS = (UnexpectedIntensity, DriftExceeded)


class SegmentWriter:
    """Writes finished segments, and decides which of them are still open.

    An open segment is one that a later checksum or reference shot can still reject.

    Parameters
    ----------
    bench : open
    decoder : of its shots

    Attributes
    ----------
    is_recording : whether the recorder of the bench gets them, and has the finished ones
    """

    def __init__(self, bench: Bench, decoder: Decoder) -> None:
        self._bench, self._decoder = bench, decoder
        self._needs_references = not decoder.layout.has_markers
        self.is_recording = False

    @property
    def _recorder(self) -> Recorder | None:
        return self._bench.recorder if self.is_recording else None

    def saved(self, job: TileJob) -> Kept | None:
        """Return the recorded shots of a job; None for a new job."""
        return None if self._recorder is None else self._recorder.known(job.name)

    def note(self, fault: FaultNote) -> None:
        """Record a fault."""
        if self._recorder is not None:
            self._recorder.note(fault)

    def result(self, state: JobState) -> TileResult:
        """Return the result of a complete job."""
        total = zero_stats()
        for stats in state.stats:
            total.add(stats)
        return TileResult(state.electrons, total)

    # --- finished segments -----------------------------------------------------------------------

    def finish(self, state: JobState) -> None:
        """Write all segments with new results, and close those that are final."""
        for segment in state.open_segments:
            if any(pending.is_unsaved for pending in segment):
                self._write(state, segment)
        self._drop_final(state)

    def _write(self, state: JobState, segment: list[PendingShot]) -> None:
        """Copy a segment into the result of its job, and record it."""
        stats, electrons = segment[0].stats, []
        quality = np.empty((len(segment), len(QUALITY)), dtype=np.float32)
        for row, pending in zip(quality, segment, strict=True):
            planned, decoded = pending.planned, pending.decoded
            assert decoded is not None
            pending.is_unsaved = False
            row[:] = (*decoded.quality, pending.attempts)
            if isinstance(planned.input, int):
                state.electrons[planned.weight, planned.input] = decoded.electrons
                electrons.append(decoded.electrons)
        is_latest = segment is state.open_segments[-1]
        if is_latest:
            state.stats.append(stats)
        if self._recorder is None:
            return
        last, tracker = segment[-1].planned, self._decoder.tracker
        reached = last if is_latest else state.open_segments[-2][-1].planned  # recorded before
        self._recorder.keep(
            Segment(
                job=state.job.name,
                first=segment[0].planned.number,
                done=last.number + 1,
                is_last=state.next is None and is_latest,
                electrons=np.array(electrons).reshape(-1, self._decoder.layout.slots),
                quality=quality,
                stats=stats,
                state=Checkpoint(
                    self._bench.shots,
                    dict(reached.counters),
                    None if tracker is None else tracker.state(),
                ),
            )
        )

    def _drop_final(self, state: JobState) -> None:
        """Close segments that no later checksum or reference shot can reject."""
        segments, last = state.open_segments, state.open_segments[-1][-1].planned
        if self._needs_references:
            good = state.last_reference
            state.open_segments = [part for part in segments if part[-1].planned.number > good]
        elif state.next is None or state.job.check is None:
            segments.clear()
        elif state.job.order == ORDERS[0]:
            continues = state.next.planned.weight == last.weight
            state.open_segments = [
                segment
                for segment in segments
                if continues and any(shot.planned.weight == last.weight for shot in segment)
            ]

    # --- rejected segments -----------------------------------------------------------------------

    def suspects(
        self, state: JobState, pending: PendingShot, error: InstrumentError
    ) -> list[PendingShot]:
        """Return the shots that an error makes suspect; the current shot is the last of them.

        After a checksum mismatch of the inputs, these are all shots of the weight frame. If only
        references measure brightness, a failed one makes all shots since the last good one suspect.
        """
        taken = [
            other
            for segment in state.open_segments
            for other in segment
            if other is not pending
            and not other.planned.is_reference
            and (other.decoded is not None or other.decoding is not None)
        ]
        if isinstance(error, ChecksumMismatch) and error.scope == "tile":
            weight = pending.planned.weight
            return [*(other for other in taken if other.planned.weight == weight), pending]
        is_reference = self._needs_references and pending.planned.is_reference
        if is_reference and isinstance(error, _REFERENCE_ERRORS):
            good = state.last_reference
            since = [o for o in taken if good < o.planned.number < pending.planned.number]
            return [*since, pending]
        return [pending]

    def forget_unmeasured(self, state: JobState) -> None:
        """Delete recorded segments of a paused job whose brightness no reference has confirmed."""
        if self._recorder is not None and self._needs_references:
            self._recorder.forget(state.job.name, state.last_reference)
