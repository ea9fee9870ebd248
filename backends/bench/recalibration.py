"""Measuring a bench anew in the middle of a run, as the recoveries "realign" and "recalibrate" ask.

Numbers that were laid out for the bench as it was, and light that was taken of it, do not go
together with what is known of it now: products on their way begin again, with shots of new names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from ...instruments import Clock, LightloomError, Paused
from ..optics.calibration_file import Calibration, path_of
from .bench import Bench

_ADVICE = "look at the bench, then align and calibrate it"


def recalibrate(bench: Bench, recovery: str) -> None:
    """Align an open bench, and calibrate it where that is asked for; its light is off afterwards.

    Parameters
    ----------
    recovery : "realign" keeps what else the calibration holds, "recalibrate" measures all of it

    Raises
    ------
    Paused : when it does not work
    """
    from ..calibration import align, calibrate, store  # which stand on this package

    try:
        found = align(bench)
        if recovery == "recalibrate":
            store(bench, found)
            calibrate(bench)
        else:
            path = path_of(bench.file.calibration, bench.path)
            calibration = Calibration.read(path)
            calibration.add(found.step())
            calibration.write(path)
        bench.source.set_power(bench.file.power_w)
        if bench.file.layout != "single-pixel":
            bench.camera.configure(exposure_s=bench.file.exposure_s)
    except LightloomError as error:
        raise Paused(
            f"{bench.path}: to {recovery} failed: {error}; {_ADVICE}; the bench is safe",
            recovery,
            "",
            _ADVICE,
        ) from error


class ReadWriteLock:
    """Lets many read what is known of a bench, or one change it.

    Parameters
    ----------
    clock : nobody who waits here holds it
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = Condition()
        self._readers = 0
        self._is_changing = False

    @contextmanager
    def reading(self, holds: bool = False) -> Iterator[None]:
        """Read inside a `with`; waits while somebody changes it.

        Parameters
        ----------
        holds : the caller holds the clock
        """
        with self._changed:
            if self._is_changing:
                if holds:
                    self._clock.release()  # whoever changes it lets time pass
                try:
                    self._changed.wait_for(lambda: not self._is_changing)
                finally:
                    if holds:
                        self._clock.hold()
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change it inside a `with`, once nobody reads."""
        with self._changed:
            self._is_changing = True
            self._changed.wait_for(lambda: self._readers == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_changing = False
                self._changed.notify_all()
