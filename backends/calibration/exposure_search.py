"""`find_exposure`: an exposure that uses the range of the detector well."""

from __future__ import annotations

import numpy as np

from ...instruments import Saturated, UnexpectedIntensity
from .probe import Probe

_GOAL, _LOW, _HIGH = 0.55, 0.4, 0.75  # fraction of the range that the brightest pixels reach
_TRIES = 16  # exposures


def find_exposure(probe: Probe, start_s: float | None = None, may_be_dark: bool = False) -> float:
    """Find an exposure at which the brightest pixels of the shown frames are half full.

    Parameters
    ----------
    start_s : first exposure of the search; None is that of runs
    may_be_dark : whether frames may pass almost no light

    Returns
    -------
    exposure_s : the longest one if that stays below the goal

    Raises
    ------
    Saturated : when the detector is full at the shortest exposure
    UnexpectedIntensity : when there is no light at the longest exposure
    """
    exposure_s = probe.bench.file.exposure_s if start_s is None else start_s
    confirmed_s = 0.0
    for _ in range(_TRIES):
        exposure_s = float(np.clip(exposure_s, probe.shortest_s, probe.longest_s))
        taken = probe.take(exposure_s)
        filling = taken.peak / probe.range
        if taken.is_overexposed or filling > _HIGH:
            if exposure_s <= probe.shortest_s:
                raise Saturated(
                    f"the detector is full at the shortest exposure, {exposure_s:g} s, and "
                    f"{probe.power_w:g} W: lower the power, or insert a filter"
                )
            down = 0.1 if taken.is_overexposed else _GOAL / filling
            exposure_s *= max(down, 0.1)
        elif filling < _LOW:
            if exposure_s >= probe.longest_s:
                if not may_be_dark:
                    _refuse_darkness(probe, taken.peak, exposure_s)
                return exposure_s
            exposure_s *= min(_GOAL / max(filling, 1e-9), 10.0)
        elif confirmed_s == exposure_s:  # a second exposure confirms it
            return exposure_s
        else:
            confirmed_s = exposure_s
    raise UnexpectedIntensity(
        "no exposure gives stable light: check that nothing moves in the beam, and the source"
    )


def _refuse_darkness(probe: Probe, peak: float, exposure_s: float) -> None:
    """Refuse a peak within the noise of two exposures, with the reason as far as it is known."""
    one, other = (probe.raw(exposure_s).astype(np.float64) for _ in range(2))
    noise = float(1.4826 * np.median(np.abs(one - other))) / 2**0.5 + 1e-6 * probe.range
    if peak > 8 * noise:
        return
    if not probe.bench.source.is_emitting():
        raise UnexpectedIntensity(
            "the light source does not emit although it was enabled: check its interlock, key "
            "and shutter, and re-arm it on site"
        )
    raise UnexpectedIntensity(
        f"the source emits {probe.power_w:g} W and no light reaches the detector in "
        f"{exposure_s:g} s with both modulators bright: take the camera's cover off, open the "
        "shutters, and check that nothing blocks the beam and that both modulators show their "
        "frames"
    )
