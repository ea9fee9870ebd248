"""`recalibrate`: align or calibrate a bench during a run, for two recoveries of the fault policy.

Frames and shots of the old calibration are not valid for the new one. So pending products restart,
with new names of their shots.
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
    """Align an open bench, and calibrate it for "recalibrate"; its light is off afterwards.

    Parameters
    ----------
    recovery : "realign" measures the registration only, "recalibrate" the whole calibration

    Raises
    ------
    Paused : when the alignment or calibration fails
    """
    from ..calibration import align, calibrate, store  # they import this package

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
        bench.detector.set_up()
    except LightloomError as error:
        raise Paused(
            f"{bench.path}: to {recovery} failed: {error}; {_ADVICE}; the bench is safe",
            recovery,
            "",
            _ADVICE,
        ) from error


class ReadWriteLock:
    """A lock that many readers or one writer may hold.

    Parameters
    ----------
    clock : of the bench; waiting threads release it
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = Condition()
        self._readers = 0
        self._is_changing = False

    @contextmanager
    def reading(self, holds: bool = False) -> Iterator[None]:
        """Hold the lock for reading; wait while a writer holds it.

        Parameters
        ----------
        holds : the caller holds the clock
        """
        with self._changed:
            if self._is_changing:
                if holds:
                    self._clock.release()  # the writer needs time to pass
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
        """Hold the lock for writing, once no reader holds it."""
        with self._changed:
            self._is_changing = True
            self._changed.wait_for(lambda: self._readers == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_changing = False
                self._changed.notify_all()
