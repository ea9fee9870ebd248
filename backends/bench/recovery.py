"""Connecting a device of a bench again while a run goes on; what else there is, `policy` lists."""

from __future__ import annotations

from ...instruments import Disconnected, Instrument, InterlockOpen, LightloomError, ProtocolError
from .bench import Bench
from .fault_policy import kind_of


def role_of(bench: Bench, instrument: Instrument | None) -> str:
    """Return the role of an instrument; "" for None, or one of no role."""
    return next((role for role, item in bench.instruments.items() if item is instrument), "")


def reconnect(bench: Bench, role: str) -> None:
    """Close a device and connect it again, set up as when the bench was opened.

    A source emits again only where nothing speaks against it: a loss of connection is no trip.
    Frames are not shown, and a camera is not armed.

    Raises
    ------
    BadReply : when another device answers than before
    InterlockOpen : when the source may not emit
    InstrumentError : when it does not answer
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
    if role == "detector" and file.layout != "single-pixel":
        bench.camera.configure(exposure_s=file.exposure_s)
    if role == "source":
        relight(bench)


def _connect_again(instrument: Instrument, timeout_s: float) -> None:
    """Connect a device that was there when the bench was opened; whatever fails, it is gone.

    A monitor that is unplugged is not a mistake in the bench file, though its driver says so of one
    that was never there.
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
    """Let a source that was lost emit again, where its interlock is closed.

    Raises
    ------
    InterlockOpen : where it is not
    """
    if not bench.source.interlock_closed():
        raise InterlockOpen(
            f"{bench.source.name}: the interlock is open; make the beam path safe and re-arm the "
            "source on site"
        )
    bench.source.set_power(bench.file.power_w)
    bench.source.enable()


def check_emission(bench: Bench) -> None:
    """Ask the source whether it emits.

    Raises
    ------
    InterlockOpen : when it does not, or may not
    """
    source = bench.source
    if not source.interlock_closed():
        why = "the interlock is open"
    elif not source.is_emitting():
        why = "it has stopped to emit"
    else:
        return
    error = InterlockOpen(
        f"{source.name}: {why}; make the beam path safe and re-arm the source on site"
    )
    error.instrument = source
    raise error
