"""`FaultRecovery`: choose and apply the recovery of a fault, as the fault policy says.

The bench file says what is done about each fault (`fault_policy`). Every fault and every recovery
is counted, and noted in the journal with the bench time that it cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ...instruments import (
    Disconnected,
    Instrument,
    InstrumentError,
    LightloomError,
    Paused,
    ProtocolError,
)
from ..base import Stats
from . import safety
from .bench import Bench
from .checkpoint import FaultNote
from .decoding import DecodedShot, Decoder
from .diagnose import Diagnosis, diagnose, without_advice
from .fault_policy import PAUSE, RESTARTS, SUSPENDED, FaultPolicy, Recovery, kind_of
from .frame_tracker import input_levels
from .monitors import Monitors, check_emission, interlock_error
from .pending_shot import PendingShot

SUBSTITUTES = ("host", "skip")  # recoveries that substitute the numbers of a shot
# kinds of faults that a dark source also causes
_INTENSITY_KINDS = ("stale", "unexpected-intensity", "checksum-mismatch", "drift-exceeded")
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
    "interlock": "make the beam path safe, re-arm the source on site, then re-arm the bench with "
    "`lightloom check --rearm`",
}


class RestartProducts(Exception):
    """The bench must be measured again, and the pending products must restart.

    Parameters
    ----------
    recovery : "realign" or "recalibrate"
    """

    def __init__(self, recovery: str) -> None:
        super().__init__(recovery)
        self.recovery = recovery


class FaultRecovery:
    """Recovers a bench from the faults of shots, and pauses a run that no recovery helps.

    It owns the fault policy and the monitors of the bench, and adds to the counts of the bench.

    Parameters
    ----------
    bench : open
    decoder : with the optical model of the bench
    note : notes a fault in the journal

    Attributes
    ----------
    may_restart : whether the bench may be measured again during a run
    """

    def __init__(self, bench: Bench, decoder: Decoder, note: Callable[[FaultNote], None]) -> None:
        self._bench, self._decoder, self._note = bench, decoder, note
        self._counts = bench.counts
        self._policy = FaultPolicy(bench.file.faults, bench.file.limits.retries)
        self._monitors = Monitors(bench) if bench.file.suspend else None
        self.may_restart = False

    def count_fault(self, kind: str, shots: int, stats: Stats) -> None:
        """Count shots that are retried."""
        self._counts.faults[kind] = self._counts.faults.get(kind, 0) + shots
        stats.retries += shots

    # --- recoveries ------------------------------------------------------------------------------

    def recover(self, pending: PendingShot, error: InstrumentError) -> str:
        """Apply recoveries until one of them works, and return its name.

        A recovery that fails is a fault itself. The list of each kind is finite, so this ends.

        Raises
        ------
        Paused, RestartProducts : when the next recovery requires it
        """
        while True:
            try:
                return self._apply_next(pending, error)
            except InstrumentError as other:
                if isinstance(other, Paused) or kind_of(other) is None:
                    raise
                self._bench.stop.check(f"before {pending.planned.job.name}")
                error = other

    def substitute(self, pending: PendingShot, recovery: str) -> DecodedShot:
        """Return substitute numbers for a shot without a valid exposure; the shot is marked."""
        planned, model = pending.planned, self._decoder.model
        pending.stats.marked += 1
        electrons_of = model.passed_e if recovery == "host" else model.leaked_e
        weights = planned.job.weight(planned.weight)
        return DecodedShot(electrons_of(input_levels(planned, model), weights))

    def _apply_next(self, pending: PendingShot, error: InstrumentError) -> str:
        """Apply the next recovery for a fault, and return its name."""
        began_s, kind = pending.began_s, kind_of(error)
        assert kind is not None
        if kind in _INTENSITY_KINDS:
            try:
                check_emission(self._bench)
            except InstrumentError as reason:
                if pending.darkness == self._bench.darkness:  # held-off light is not a fault
                    error, kind = reason, kind_of(reason) or kind
        recovery = self._next_recovery(kind, pending)
        self._count_recovery(recovery.name, pending)
        if recovery == PAUSE:
            self._pause(pending, kind, error)
        try:
            self._apply(recovery, error)
        finally:
            device = error.instrument.name if isinstance(error.instrument, Instrument) else ""
            self._record(kind, device, pending, recovery.name, str(error), began_s)
            pending.began_s = self._bench.clock.now_s()
        return recovery.name

    def _next_recovery(self, kind: str, pending: PendingShot) -> Recovery:
        while True:
            recovery = self._policy.recovery(kind, pending.recoveries_by_kind)
            pending.recoveries_by_kind[kind] += 1
            if self.may_restart or recovery.name not in RESTARTS:
                return recovery

    def _apply(self, recovery: Recovery, error: InstrumentError) -> None:
        if recovery.name == "wait":
            self._bench.stop.sleep(recovery.wait_s)
        elif recovery.name == "reconnect":
            role = role_of(self._bench, error.instrument)
            for failed in [role] if role else ["detector", "input", "weight"]:
                reconnect(self._bench, failed)
        elif recovery.name in RESTARTS:
            raise RestartProducts(recovery.name)

    def _pause(self, pending: PendingShot, kind: str, error: InstrumentError) -> None:
        """End the run with a message for the operator; the backend makes the bench safe.

        Raises
        ------
        Paused : always
        """
        bench, began_s = self._bench, pending.began_s
        role, reason = role_of(bench, error.instrument), str(error)
        if kind in _ADVICE:
            reason = without_advice(error)
        if kind == "interlock":
            safety.latch(bench.path, reason, bench.latches)
        diagnosis = Diagnosis(role, "", _ADVICE.get(kind, ""))
        if kind in _DIAGNOSED_KINDS:
            diagnosis = diagnose(bench, self._decoder)
            role = diagnosis.role or role
        device = bench.instruments[role].name if role else ""
        counts = pending.recoveries_by_name.items()
        names = ", ".join(f"{name} {count}" for name, count in counts if name != PAUSE.name)
        tried = f"; tried: {names}" if names else ""
        clause = f"; {diagnosis.sentence}" if diagnosis.sentence else ""
        advice = f"; {diagnosis.advice}" if diagnosis.advice else ""
        times = f" {pending.attempts} times, the last time" if pending.attempts > 1 else ""
        self._record(kind, device, pending, "pause", reason + clause, began_s)
        raise Paused(
            f"{bench.path}: shot {pending.name} failed{times} ({kind}"
            f"{f', {device}' if device else ''}): {reason}{clause}{tried}{advice}; "
            "the bench is safe",
            kind,
            device,
            diagnosis.advice,
        ) from error

    # --- monitors --------------------------------------------------------------------------------

    def must_retake(self, segment_shot: PendingShot, shots: int) -> bool:
        """Read the monitors, wait while one is out of bounds, and return whether one was.

        Parameters
        ----------
        segment_shot : represents the whole segment, and counts its recoveries
        shots : number of shots of the segment
        """
        if self._monitors is None:
            return False
        began_s, darkness = self._bench.clock.now_s(), self._bench.darkness
        try:
            darkness = self._bench.wait_for_light()
            complaint = self._monitors.complaint()
            if complaint:
                since_s = segment_shot.began_s or began_s
                self._monitors.wait(complaint, since_s)
        except InstrumentError as error:
            kind = kind_of(error)
            if isinstance(error, Paused) or kind is None:
                raise
            if darkness != self._bench.darkness:  # the light was held off during the reading
                return True
            self.count_fault(kind, 1, segment_shot.stats)
            self.recover(segment_shot, error)
            return True  # as a precaution, the segment is taken again
        if not complaint:
            return False
        segment_shot.began_s = segment_shot.began_s or began_s
        self.count_fault(SUSPENDED, shots, segment_shot.stats)
        self._count_recovery("wait", segment_shot)
        self._record(SUSPENDED, "", segment_shot, "wait", complaint, began_s)
        return True

    # --- records ---------------------------------------------------------------------------------

    def _count_recovery(self, name: str, pending: PendingShot) -> None:
        self._counts.recoveries[name] = self._counts.recoveries.get(name, 0) + 1
        pending.recoveries_by_name[name] += 1

    def _record(
        self,
        kind: str,
        device: str,
        pending: PendingShot,
        recovery: str,
        detail: str,
        began_s: float,
    ) -> None:
        """Record a fault, its recovery and the bench time that they cost."""
        lost_s = self._bench.clock.now_s() - began_s
        self._counts.lost_s += lost_s
        attempt = max(pending.attempts - 1, 0)
        self._note(
            FaultNote(time.time(), kind, device, pending.name, attempt, recovery, detail, lost_s)
        )


def role_of(bench: Bench, instrument: Instrument | None) -> str:
    """Return the role of an instrument; "" for None or for an instrument without a role."""
    return next((role for role, item in bench.instruments.items() if item is instrument), "")


def reconnect(bench: Bench, role: str) -> None:
    """Close a device and connect it again, set up as when the bench was opened.

    A source emits again only if its interlock is closed, because a lost connection is not a trip.
    Frames are not shown, and a camera is not armed.

    Raises
    ------
    ProtocolError : when a different device answers
    InterlockOpen : when the source may not emit
    InstrumentError : when the device does not answer
    """
    instrument, file = bench.instruments[role], bench.file
    was = instrument.identity
    instrument.close()
    _connect_again(instrument, file.limits.timeout_s)
    if (instrument.identity.model, instrument.identity.serial) != (was.model, was.serial):
        now = instrument.identity
        instrument.close()
        error = ProtocolError(
            f"{instrument.name} was {was.model} {was.serial}, and now {now.model} {now.serial} "
            "answers; connect the one that was calibrated"
        )
        error.instrument = instrument
        raise error
    if role == "detector":
        bench.detector.set_up()
    if role == "source":
        relight(bench)


def _connect_again(instrument: Instrument, timeout_s: float) -> None:
    """Connect a device that was connected when the bench was opened; if it fails, raise a fault.

    A driver reports a missing monitor as a mistake in the bench file. Here the monitor was
    unplugged, so the error becomes Disconnected.
    """
    try:
        instrument.connect(timeout_s)
    except LightloomError as error:
        if kind_of(error) is not None:
            raise
        gone = Disconnected(f"{instrument.name} cannot be connected again: {error}")
        gone.instrument = instrument
        raise gone from error


def relight(bench: Bench) -> None:
    """Let a reconnected source emit again, if its interlock is closed.

    Raises
    ------
    InterlockOpen : when the interlock is open
    """
    if not bench.source.interlock_closed():
        raise interlock_error(bench.source, "the interlock is open")
    bench.source.set_power(bench.file.power_w)
    bench.source.enable()
