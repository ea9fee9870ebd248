"""`ResponseCurve`: the light of one modulator's grey levels, both ways."""

from __future__ import annotations

import numpy as np

_STEPS = (1 << 16) - 1  # of the inverse's table: far below half a step of 12 bits


class ResponseCurve:
    """Which light a grey level passes, and which level passes a light.

    Light is counted above darkness: 0 at the darkest level, 1 at the brightest. Only the branch
    between these two levels is used, whichever way it goes.

    Parameters
    ----------
    table : light of each grey level, [levels], in any unit, rising or falling along the branch

    Attributes
    ----------
    darkest, brightest : grey levels
    light : above darkness, of each level, float64 [levels]
    """

    def __init__(self, table: np.ndarray) -> None:
        table = np.asarray(table, dtype=np.float64)
        self.darkest, self.brightest = int(np.argmin(table)), int(np.argmax(table))
        low, high = table[self.darkest], table[self.brightest]
        self.light = (table - low) / (high - low)
        step = 1 if self.brightest >= self.darkest else -1
        branch = np.arange(self.darkest, self.brightest + step, step)
        rising = np.maximum.accumulate(self.light[branch])
        wanted = np.linspace(0, 1, _STEPS + 1)
        nearest = branch[np.searchsorted((rising[1:] + rising[:-1]) / 2, wanted)]
        self._inverse = nearest.astype(np.uint8 if len(table) <= 256 else np.uint16)

    def levels(self, light: np.ndarray) -> np.ndarray:
        """Return the grey levels whose light is nearest to that asked for, in [0, 1]."""
        place = np.clip(light * _STEPS + 0.5, 0, _STEPS).astype(np.uint16)
        return self._inverse[place]
