"""Reconnect the devices of a bench during a run; `fault_policy` lists the other recoveries."""

from __future__ import annotations

from ...instruments import Disconnected, Instrument, InterlockOpen, LightloomError, ProtocolError
from .bench import Bench
from .fault_policy import kind_of


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
        raise InterlockOpen(
            f"{bench.source.name}: the interlock is open; make the beam path safe and re-arm the "
            "source on site"
        )
    bench.source.set_power(bench.file.power_w)
    bench.source.enable()


def check_emission(bench: Bench) -> None:
    """Check that the source emits.

    Raises
    ------
    InterlockOpen : when the source does not emit, or its interlock is open
    """
    source = bench.source
    if not source.interlock_closed():
        why = "the interlock is open"
    elif not source.is_emitting():
        why = "it has stopped emitting"
    else:
        return
    error = InterlockOpen(
        f"{source.name}: {why}; make the beam path safe and re-arm the source on site"
    )
    error.instrument = source
    raise error
