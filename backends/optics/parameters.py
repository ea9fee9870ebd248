"""`Optics` and `Response`: the measured optics of a bench, and the response of its slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
        scaled = {
            name: {role: cells * factor for role, cells in by_role.items()}
            for name, by_role in vars(self).items()
        }
        return Markers(**scaled)


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
