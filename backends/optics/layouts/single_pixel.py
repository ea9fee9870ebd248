"""`SinglePixelLayout`: one photodiode reads one dot product per shot.

One photodiode cannot read markers; the counters of frames are read instead.
"""

from __future__ import annotations

import numpy as np

from ....instruments import InputError
from ..parameters import Markers
from .base import FIRST_BIT, ImageReading, Layout, Marks


class SinglePixelLayout(Layout):
    """A vector in one block of macropixels; a photodiode reads one dot product per shot."""

    name = "single-pixel"
    has_markers = False
    detector_kind = "daq"
    reference_light = 1.0

    @property
    def converter_step_e(self) -> float:
        """Zero: the mean of a window's samples has no converter steps."""
        return 0.0

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch = self.encoding.element_px
        b, a = self.encoding.block
        height, width = self._size
        if b * pitch > height or a * pitch > width:
            raise InputError(
                f"a block of {b} x {a} elements of {pitch} pixels does not fit the {height} x "
                f"{width} visible pixels of the weight modulator; make it smaller"
            )
        self.slots, self.length, self.marker_bits = 1, a * b, 0
        self.grid = (1, 1)
        places = np.zeros((height, width), dtype=np.int64)
        inside = np.arange(self.length).reshape(b, a) + FIRST_BIT
        top, left = (height - b * pitch) // 2, (width - a * pitch) // 2
        places[top : top + b * pitch, left : left + a * pitch] = np.repeat(
            np.repeat(inside, pitch, axis=0), pitch, axis=1
        )
        whole = self._in_window(places)
        return whole, whole

    def read(self, taken: np.ndarray) -> ImageReading:
        """Return the electrons of one window of samples: volts [channels, samples]."""
        volts = taken[0].sum() - float(np.sum(self.optics.dark_counts))
        return ImageReading(np.array([volts * self.optics.gain_e_per_count]), np.zeros((0, 0)))

    def marks(
        self, reading: ImageReading, mean_input: float | None, markers: Markers | None
    ) -> Marks:
        """Return no marks: the counters of the DAQ identify the shown frames."""
        return Marks({})

    def read_pixels(self) -> np.ndarray:
        """Return 1."""
        return np.ones(1)
