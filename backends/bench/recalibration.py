"""`recalibrate`: align or calibrate a bench during a run, for two recoveries of the fault policy.

Frames and shots of the old calibration are not valid for the new one. So pending products restart,
with new names of their shots.
"""

from __future__ import annotations

from ...instruments import LightloomError, Paused
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
