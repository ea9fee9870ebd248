"""`Optics`, `ResponseCurve` and `Response`: the measured optics of a bench and of its slots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_STEPS = (1 << 16) - 1  # of the inverse of a curve: far finer than half a step of 12 bits


@dataclass(frozen=True)
class Optics:
    """The optics of a bench, independent of a layout.

    Parameters
    ----------
    tables : response curve of each modulator, by role, float32 [levels], brightest 1
    input_map, camera_map : weight pixel -> input, camera pixel (see `registration`), float64
        [2, 3], [2, 6] or [2, 10]; of a line's camera, the row of a weight row and the middle column
        of its spot
    sensor_shape : (height, width) of the camera; (1, 1) of a photodiode
    dark_counts : dark level of a detector pixel in one exposure, float32 [h, w], or one number
    gain_e_per_count : of the detector
    read_noise_e, dark_e : of one pixel, or of the photodiode, in one exposure
    bad : pixels that are left out, bool [h, w], or None
    spot_px : width of a line's spots, in camera columns
    """

    tables: dict[str, np.ndarray]
    input_map: np.ndarray
    camera_map: np.ndarray
    sensor_shape: tuple[int, int]
    dark_counts: np.ndarray | float
    gain_e_per_count: float
    read_noise_e: float
    dark_e: float
    bad: np.ndarray | None = None
    spot_px: float = 5.0


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

    def straight(self) -> ResponseCurve:
        """Return the straight curve from the same darkest to the same brightest level."""
        ends = (self.darkest, self.brightest)
        levels = np.arange(len(self.light))
        table = np.interp(levels, sorted(ends), (0.0, 1.0) if ends[0] < ends[1] else (1.0, 0.0))
        outside = (levels < min(ends)) | (levels > max(ends))
        return ResponseCurve(np.where(outside, 0.5, table))  # so that the ends stay the only ones

    def levels(self, light: np.ndarray) -> np.ndarray:
        """Return the grey levels whose intensity is nearest to the requested one, in [0, 1]."""
        place = np.clip(light * _STEPS + 0.5, 0, _STEPS).astype(np.uint16)
        return self._inverse[place]


@dataclass(frozen=True)
class Markers:
    """The photoelectrons of marker cells in one exposure, by role: float64 [copies x 2 bits].

    Parameters
    ----------
    e : of bright cells, above those of dark ones
    leak_e : added by the input's elements at their brightest
    dark_e : of dark cells while the elements are dark: stray light
    """

    e: dict[str, np.ndarray]
    leak_e: dict[str, np.ndarray]
    dark_e: dict[str, np.ndarray]

    def times(self, factor: float) -> Markers:
        """Return the markers in an exposure that is longer by a factor."""
        scaled = (
            {role: cells * factor for role, cells in by_role.items()}
            for by_role in (self.e, self.leak_e, self.dark_e)
        )
        return Markers(*scaled)

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three for both roles, input first: float64 [roles, copies x 2 bits]."""
        light, leak, dark = (
            np.array([by_role[role] for role in ("input", "weight")], dtype=np.float64)
            for by_role in (self.e, self.leak_e, self.dark_e)
        )
        return light, leak, dark


@dataclass(frozen=True)
class Response:
    """The response of a layout's slots: photoelectrons in one exposure.

    A slot s gives offset + sum_k pairs_sk (X_k + input_leak) (W_k + weight_leak), with X and W the
    normalised intensities of grey levels.

    Parameters
    ----------
    pairs_e : of each element, float64 [slots, length]
    input_leak, weight_leak : light of the darkest level, normalised, float64 [slots]
    offset_e : light that no element passed, float64 [slots]
    inverse : corrects the crosstalk of slots, float32 [slots, slots]; None without crosstalk
    markers : None if not measured
    """

    pairs_e: np.ndarray
    input_leak: np.ndarray
    weight_leak: np.ndarray
    offset_e: np.ndarray
    inverse: np.ndarray | None = None
    markers: Markers | None = None
