"""From light to numbers: noise, full well, converter, for one reading of every output.

`read` states it in numpy, element by element; `fused.py` does the same arithmetic in one pass where
numba is installed, with the same bits. Units: light in element pairs at full transmission, counts
in electrons, values in units of y after scaling.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .noise import POISSON_BELOW, poisson
from .profile import OpticsProfile


@dataclass(frozen=True)
class Detector:
    """The constants of detection, taken from a profile.

    Parameters
    ----------
    gain : g = (1 - f_x)(1 - f_w) of y = E / (P g)
    balanced : two summing photodetectors whose difference is converted
    dark : mean dark electrons of one detector
    variance : electrons^2 that do not come with the light: dark, its subtraction, read noise
    quiet_variance : the same without the dark counts themselves
    full_well : electrons of light that one detector holds beside the dark
    pedestal : electrons below zero at which a converter's range begins (per reading)
    """

    gain: float
    balanced: bool
    dark: float
    variance: float
    quiet_variance: float
    full_well: float
    pedestal: float
    bits: int | None

    @classmethod
    def of(cls, profile: OpticsProfile) -> "Detector":
        """Take the constants from a profile."""
        gain = 1.0
        if profile.extinction_ratio and profile.extinction_model == "leak":
            gain = (1 - 1 / profile.extinction_ratio) ** 2
        balanced = profile.detection == "balanced" and profile.encoding != "offset"
        detectors, dark = 2 if balanced else 1, profile.dark_e or 0.0
        read = (profile.read_noise_e or 0.0) ** 2
        subtraction = detectors * dark / profile.dark_frames if profile.dark_frames else 0.0
        full_well = float("inf") if profile.full_well_e is None else profile.full_well_e - dark
        variance = detectors * dark + read + subtraction
        return cls(
            gain,
            balanced,
            dark,
            variance,
            read + subtraction,
            full_well,
            5 * variance**0.5,
            profile.readout_bits,
        )

    @property
    def weak_below(self) -> float:
        """Electrons of arriving light below which counts are drawn as Poisson numbers."""
        return POISSON_BELOW - (2 if self.balanced else 1) * self.dark


def read(
    mean: np.ndarray,
    light: np.ndarray | None,
    electrons: np.ndarray | None,
    z: np.ndarray | None,
    words: Callable[[np.ndarray], np.ndarray] | None,
    limit: np.ndarray | None,
    detector: Detector,
) -> tuple[np.ndarray, int]:
    """Read every output once.

    Parameters
    ----------
    mean : what is converted: a rail's light, or the difference of both (balanced)
    light : what arrives, and so makes the noise
    electrons : P, broadcastable to `mean`; None for light without photons
    z : standard normal numbers, as `mean`
    words : gives the random words of the outputs where a mask is True (for weak light)
    limit : the converter's range R, broadcastable to `mean`; None for no converter

    Returns
    -------
    value : in units of y after scaling
    saturated : how many values exceeded a full well or the range
    """
    if electrons is None:
        value, saturated = mean / detector.gain, 0
    else:
        assert light is not None and z is not None and words is not None
        counts, saturated = _count(mean * electrons, light * electrons, z, words, detector)
        value = counts / (electrons * detector.gain)
    if limit is None:
        return value, saturated
    value, beyond = _convert(value, limit, electrons, detector)
    return value, saturated + beyond


def _count(
    signal: np.ndarray,
    arrived: np.ndarray,
    z: np.ndarray,
    words: Callable[[np.ndarray], np.ndarray],
    detector: Detector,
) -> tuple[np.ndarray, int]:
    """Give detected electrons, the mean dark level subtracted."""
    saturated, full_well = 0, detector.full_well
    if detector.balanced and (arrived > full_well).any():
        # a photodiode that fills up adds no more: the difference misses what is above
        sides = [(arrived + sign * signal) / 2 for sign in (1, -1)]
        saturated = int(sum(np.count_nonzero(side > full_well) for side in sides))
        plus, minus = (np.minimum(side, full_well) for side in sides)
        full = (sides[0] > full_well) | (sides[1] > full_well)  # the others keep their bits
        signal = np.where(full, plus - minus, signal)
        arrived = np.where(full, plus + minus, arrived)
    counts: np.ndarray = signal + np.sqrt(np.maximum(arrived, 0) + detector.variance) * z
    weak = arrived < detector.weak_below
    if weak.any():
        drawn = words(weak)
        exact = detector.quiet_variance**0.5 * z[weak].astype(np.float64)
        if detector.balanced:
            plus = np.maximum((arrived + signal)[weak] / 2, 0) + detector.dark
            minus = np.maximum((arrived - signal)[weak] / 2, 0) + detector.dark
            exact += poisson(plus, drawn) - poisson(minus, ~drawn)
        else:
            exact += poisson(np.maximum(arrived[weak], 0) + detector.dark, drawn) - detector.dark
        counts[weak] = exact
    if not detector.balanced and np.isfinite(full_well):
        saturated += int(np.count_nonzero(counts > full_well))
        np.minimum(counts, full_well, out=counts)
    return counts, saturated


def _convert(
    value: np.ndarray, limit: np.ndarray, electrons: np.ndarray | None, detector: Detector
) -> tuple[np.ndarray, int]:
    """Saturate at the range and round to the converter's codes; count what saturated.

    Balanced: codes -2^(b-1) .. 2^(b-1) - 1 of step q = 2 R / (2^b - 1), zero among them.
    Per reading: from a dark pedestal of five sigma below zero up to R, in 2^b - 1 steps.
    """
    bits = detector.bits
    lowest = -limit
    if not detector.balanced:
        lowest = np.zeros(1, dtype=np.float32)
        if electrons is not None:
            lowest = -np.float32(detector.pedestal) / (electrons * detector.gain)
    if bits is None:
        saturated = np.count_nonzero((value < lowest) | (value > limit))
        return np.clip(value, lowest, limit), int(saturated)
    step = (limit - lowest) / np.float32(2.0**bits - 1)
    first, last = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not detector.balanced:
        value, first, last = value - lowest, 0, 2**bits - 1
    code = np.rint(value / step)
    end = limit if detector.balanced else limit - lowest
    saturated = np.count_nonzero((code < first) | ((code > last) & (value > end)))
    value = np.clip(code, first, last) * step
    return np.asarray(value if detector.balanced else value + lowest), int(saturated)
