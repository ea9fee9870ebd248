"""`DarknessMeter`: a power meter that checks the darkness once the source reports that it is off.

A laser may acknowledge "off" and still emit. Readings of the dark and of the lit bench show whether
the meter measures the beam. If it does not, it is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...instruments import Clock, Instrument, InstrumentError, PowerMeter

LOG = logging.getLogger("lightloom.bench")

_LEFT = 0.1  # fraction of the light that the meter may still read
_BRIGHTER, _LEAST_W = 1.5, 1e-9  # the meter measures the beam above 1.5 x dark reading + 1 nW
_FALLS_S, _STEP_S = 3.0, 0.1  # time for a slow sensor to fall, and time between readings


class DarknessMeter:
    """The power meter of a bench, if it has one.

    Parameters
    ----------
    instruments : of the bench, by role
    timeout_s : of one reading
    """

    def __init__(
        self, instruments: Mapping[str, Instrument], timeout_s: float, clock: Clock
    ) -> None:
        meter = instruments.get("power_meter")
        self._meter = meter if isinstance(meter, PowerMeter) else None
        self._timeout_s, self._clock = timeout_s, clock
        self._dark_w: float | None = None
        self._lit_w: float | None = None

    def see_dark(self) -> None:
        """Read the meter while the source is off."""
        self._dark_w = self._read()

    def see_light(self) -> None:
        """Read the meter while the source emits."""
        self._lit_w = None
        lit_w = None if self._dark_w is None else self._read()
        if self._dark_w is not None and lit_w is not None:
            measures_beam = lit_w > _BRIGHTER * abs(self._dark_w) + _LEAST_W
            self._lit_w = lit_w if measures_beam else None

    def still_shines(self) -> str:
        """Read the meter once the source reports that it is off; wait for a slow sensor.

        Returns
        -------
        a clause if the meter still reads light, otherwise ""
        """
        dark_w, lit_w = self._dark_w, self._lit_w
        if dark_w is None or lit_w is None:
            return ""
        self._lit_w = None
        most_w = dark_w + _LEFT * (lit_w - dark_w)
        ends_s = self._clock.now_s() + _FALLS_S
        while (seen_w := self._read()) is not None and seen_w > most_w:
            if self._clock.now_s() >= ends_s:
                return (
                    "the source reports that it is off, but the power meter still reads "
                    f"{seen_w:.3g} W ({lit_w:.3g} W lit, {dark_w:.3g} W dark)"
                )
            self._clock.sleep_until(self._clock.now_s() + _STEP_S)
        return ""

    def _read(self) -> float | None:
        if self._meter is None or not self._meter.is_connected:
            return None
        try:
            return self._meter.read_power(self._timeout_s)
        except InstrumentError as error:
            LOG.warning("%s", error)
            return None
