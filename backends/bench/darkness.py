"""`DarknessMeter`: a power meter that tells whether it is dark once the source says that it is off.

A laser may acknowledge "off" and shine. What the meter reads of a bench that is dark, and of one
that is lit, says whether it looks at the beam at all; one that does not tells nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...instruments import Clock, Instrument, InstrumentError, PowerMeter

LOG = logging.getLogger("lightloom.bench")

_LEFT = 0.1  # share of the light that it may still read
_BRIGHTER, _LEAST_W = 1.5, 1e-9  # than darkness, from which on it looks at the beam
_FALLS_S, _STEP_S = 3.0, 0.1  # in which a slow sensor must have fallen


class DarknessMeter:
    """The power meter of a bench, where it has one.

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
        """Read it while the source is off."""
        self._dark_w = self._read()

    def see_light(self) -> None:
        """Read it while the source emits."""
        self._lit_w = None
        lit_w = None if self._dark_w is None else self._read()
        if self._dark_w is not None and lit_w is not None:
            looks_at_it = lit_w > _BRIGHTER * abs(self._dark_w) + _LEAST_W
            self._lit_w = lit_w if looks_at_it else None

    def still_shines(self) -> str:
        """Read it once the source says that it is off; a slow sensor gets its time.

        Returns
        -------
        a clause where light is still there, else ""
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
                    f"the source says that it is off, and the power meter still reads {seen_w:.3g} "
                    f"W ({lit_w:.3g} W lit, {dark_w:.3g} W dark)"
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
