"""`ResponseCurve`: the normalised intensity of a modulator's grey levels, and its inverse."""

from __future__ import annotations

import numpy as np

_STEPS = (1 << 16) - 1  # of the inverse table: far finer than half a step of 12 bits


class ResponseCurve:
    """The map from grey level to normalised intensity, and back.

    The intensity is 0 at the darkest level and 1 at the brightest. Only the branch between these
    two levels is used, rising or falling.

    Parameters
    ----------
    table : light of each grey level, [levels], in any unit

    Attributes
    ----------
    darkest, brightest : grey levels
    light : normalised intensity of each level, float64 [levels]
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
        """Return the grey levels whose intensity is nearest to the requested one, in [0, 1]."""
        place = np.clip(light * _STEPS + 0.5, 0, _STEPS).astype(np.uint16)
        return self._inverse[place]
