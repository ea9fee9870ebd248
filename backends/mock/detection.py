"""Detection: noise, full well and converter, for one reading of every output.

`read` computes it in numpy; with numba, `kernels.read_rows` does the same float32 operations in one
pass, with the same bits. Light is in element pairs at full transmission. A value is v = E / (P g)
of E electrons: in units of y after scaling, or, if the difference of two rails is converted, in
units of its integer sum, so that the sum is the value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..profile import OpticsProfile
from .noise import POISSON_BELOW, normals, poisson

_NEAR = 6.5  # sigma of its electrons below full well: a detector fills up once in 1e10


@dataclass(frozen=True)
class Detector:
    """The constants of detection.

    Parameters
    ----------
    gain : g = (1 - f_x)(1 - f_w) of y = E / (P g)
    balanced : two summing photodetectors whose difference is converted
    dark : mean dark electrons of one detector
    variance : electrons^2 independent of light: dark, its subtraction, read noise
    quiet_variance : the same without the noise of the dark electrons
    full_well : electrons of light that one detector holds above the mean dark level
    pedestal : electrons below zero at which a converter's range begins (per reading)
    converts : 0 no converter, 1 saturates at a range, 2 rounds to codes as well
    """

    gain: float
    balanced: bool
    dark: float
    variance: float
    quiet_variance: float
    full_well: float
    pedestal: float
    bits: int | None
    converts: int

    @classmethod
    def of(cls, profile: OpticsProfile) -> "Detector":
        """Return the constants of a profile."""
        gain = 1.0
        if profile.extinction_ratio and profile.extinction_model == "leak":
            gain = (1 - 1 / profile.extinction_ratio) ** 2
        balanced = profile.detection == "balanced" and profile.encoding != "offset"
        detectors, dark = 2 if balanced else 1, profile.dark_e or 0.0
        read = (profile.read_noise_e or 0.0) ** 2
        subtraction = detectors * dark / profile.dark_frames if profile.dark_frames else 0.0
        full_well = float("inf") if profile.full_well_e is None else profile.full_well_e - dark
        variance = detectors * dark + read + subtraction
        converts = 0
        if profile.readout_range is not None:
            converts = 1 if profile.readout_bits is None else 2
        return cls(
            gain,
            balanced,
            dark,
            variance,
            read + subtraction,
            full_well,
            5 * variance**0.5,
            profile.readout_bits,
            converts,
        )

    @property
    def has_well(self) -> bool:
        """Whether a detector can fill up."""
        return self.full_well != float("inf")

    @cached_property
    def codes(self) -> np.ndarray:
        """The codes and limits of the converter, float32 [5].

        Lowest and highest code, the inverse of the number of steps, and the two limits beyond which
        a value saturates, in steps. A value at a limit, up to the rounding of float32, does not
        saturate.
        """
        steps = 2.0 ** (self.bits or 0) - 1
        half = 2.0 ** ((self.bits or 0) - 1)
        ends = (-half, half - 1) if self.balanced else (0.0, steps)
        beyond = [(ends[0] - 0.5) * (1 + 1e-6), (ends[1] + 0.5) * (1 + 1e-6)]
        return np.array([*ends, 1 / steps if steps else 0.0, *beyond], dtype=np.float32)

    def row_terms(
        self,
        light: np.ndarray,
        electrons: np.ndarray | float | None,
        times: np.ndarray,
        gain: float,
    ) -> np.ndarray:
        """Return the terms of each row that `read` needs: float32 [8, n].

        Parameters
        ----------
        light : the row's term of the light, in element pairs
        electrons : P, or P of each row; None for light without photons
        times : the row's scale with the sign of the reading; 0 without this reading
        gain : g of v = E / (P g)

        Returns
        -------
        terms : light; variance of v per light; variance of v without light; light below which
            Poisson counts are drawn; pedestal; light of a detector above which it may fill up;
            times; P
        """
        terms = np.empty((8, len(times)), dtype=np.float32)
        if isinstance(electrons, np.ndarray):
            terms[:] = self._noise_terms(electrons, gain)
        else:
            terms[:] = self._fixed_terms(electrons, gain)
        terms[0], terms[6] = light, times
        return terms

    @lru_cache(maxsize=64)  # noqa: B019 (detectors are few and small)
    def _fixed_terms(self, electrons: float | None, gain: float) -> np.ndarray:
        """Return the terms that are the same for every row: float64 [8, 1]."""
        if electrons is None:
            return np.array([[0.0], [0.0], [0.0], [0.0], [0.0], [np.inf], [0.0], [0.0]])
        return self._noise_terms(np.array([electrons]), gain)

    def _noise_terms(self, electrons: np.ndarray, gain: float) -> np.ndarray:
        per_value, zeros = 1 / (electrons * gain), np.zeros_like(electrons)
        detectors = 2 if self.balanced else 1
        return np.stack(
            [
                zeros,
                per_value / gain,
                self.variance * per_value * per_value,
                (POISSON_BELOW - detectors * self.dark) / electrons,
                self.pedestal * per_value,
                self._nearly_full_e / electrons,
                zeros,
                electrons,
            ]
        )

    @property
    def _nearly_full_e(self) -> float:
        """The electrons of light from which shot noise may fill the well.

        m + n sqrt(m) = full well, for m electrons of light and dark.
        """
        if not self.has_well:
            return float("inf")
        root = (max(self.full_well + self.dark, 0) + _NEAR**2 / 4) ** 0.5 - _NEAR / 2
        return float(root**2 - self.dark)


@dataclass(slots=True)
class Reading:
    """The inputs of one reading of a block of outputs, except the random numbers.

    Parameters
    ----------
    signed : sums of integers [n, M]: the difference of the rails (balanced), or a rail
    light : sums for the light of both rails (balanced); None if it is only the row's term
    units : light per sum, 1 / g, g: float32 [3]
    rows : `Detector.row_terms`
    light_term : the output's term of the light, float32 [M]
    limit, inverse_step : of the converter, float32 [M] or [n, 1]; unused without one
    scale : factor from a value, or from the code of a difference, to y: float32 [M]
    step : of the converter, float32 [n, 1], if `scale` does not include it (ideal ranges)
    source : brightness factors, float32 [n, frames] of `frame` outputs each, or None
    first : index of the first of these outputs
    """

    signed: np.ndarray
    light: np.ndarray | None
    units: np.ndarray
    rows: np.ndarray
    light_term: np.ndarray
    limit: np.ndarray
    inverse_step: np.ndarray
    scale: np.ndarray
    source: np.ndarray | None
    frame: int
    first: int
    step: np.ndarray | None = None

    def of_rows(self, rows: Any) -> "Reading":
        """Return the reading of some rows."""
        source, light = self.source, self.light
        return Reading(
            self.signed[rows],
            None if light is None else light[rows],
            self.units,
            self.rows[:, rows],
            self.light_term,
            self.limit,
            self.inverse_step,
            self.scale,
            None if source is None else source[rows],
            self.frame,
            self.first,
        )

    def of(self, rows: np.ndarray, outputs: np.ndarray) -> "Reading":
        """Return the reading of single outputs, given by row and column: [n, 1] each."""

        def pick(values: np.ndarray) -> np.ndarray:
            return np.asarray(values[outputs][:, None])

        source = self.source
        return Reading(
            self.signed[rows, outputs][:, None],
            None if self.light is None else self.light[rows, outputs][:, None],
            self.units,
            self.rows[:, rows],
            pick(self.light_term),
            pick(self.limit),
            pick(self.inverse_step),
            pick(self.scale),
            None if source is None else source[rows, (self.first + outputs) // self.frame][:, None],
            1,  # one factor for each
            0,
        )


def noise_free(reading: Reading, detector: Detector) -> tuple[np.ndarray, np.ndarray | None]:
    """Return value and light, float32 [n, M]; None for light that is only the row's term."""
    units, spread = reading.units, None
    if reading.source is not None:
        last = reading.first + reading.signed.shape[1]
        spread = np.repeat(reading.source, reading.frame, axis=1)[:, reading.first : last]
    light = reading.light if detector.balanced else reading.signed
    arrived = None
    if light is not None:
        arrived = np.multiply(light, units[0], dtype=np.float32, casting="same_kind")
        arrived += reading.rows[0, :, None]
        arrived += reading.light_term
    elif spread is not None:
        arrived = np.broadcast_to(reading.rows[0, :, None], reading.signed.shape)
    if spread is not None:
        assert arrived is not None
        arrived = arrived * spread
    if not detector.balanced:
        assert arrived is not None
        return arrived * units[1], arrived
    value = reading.signed.astype(np.float32, copy=False)
    return value if spread is None else value * spread, arrived


def read(
    reading: Reading,
    z: np.ndarray | None,
    words: Callable[[np.ndarray], np.ndarray] | None,
    detector: Detector,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Read every output once; the float32 sums of the reading and z are overwritten.

    Parameters
    ----------
    z : standard normal numbers [n, M]; None for light without photons
    words : returns the random words of the outputs where a mask is True (for weak light)
    out : float32 [n, M] for the values; it may share memory with the sums

    Returns
    -------
    value : times the scales of row and output, float32 [n, M]
    saturated : number of values that exceeded a full well or the range
    """
    value, arrived = noise_free(reading, detector)
    rows, saturated = reading.rows[:, :, None], 0
    if arrived is None:
        arrived = rows[0]
    if z is not None:
        assert words is not None
        sigma = np.maximum(arrived, 0) * rows[1]
        sigma += rows[2]
        np.sqrt(sigma, out=sigma)
        counted, electrons = arrived < rows[3], None
        if detector.has_well:
            counted = counted | _may_fill(value, arrived, reading, detector)
        if counted.any():
            counted = np.broadcast_to(counted, value.shape)
            electrons, saturated = _count_electrons(
                value, arrived, z, counted, words(counted), reading, detector
            )
        value += np.multiply(z, sigma, out=z)
        if electrons is not None:
            value[counted] = electrons
    if detector.converts:
        saturated += _convert(value, reading, rows[4], detector)
    value *= reading.scale
    return np.multiply(value, rows[6], out=value if out is None else out), saturated


def _may_fill(
    value: np.ndarray, arrived: np.ndarray, reading: Reading, detector: Detector
) -> np.ndarray:
    """Return which readings have a detector whose electrons may exceed its full well."""
    light = arrived
    if detector.balanced:
        light = (arrived + np.abs(value * reading.units[2])) * np.float32(0.5)
    return np.asarray(light > reading.rows[5, :, None])


def _count_electrons(
    value: np.ndarray,
    arrived: np.ndarray,
    z: np.ndarray,
    counted: np.ndarray,
    words: np.ndarray,
    reading: Reading,
    detector: Detector,
) -> tuple[np.ndarray, int]:
    """Draw the electrons of each detector, in weak light and near a full well, which clips them.

    The electrons in the well carry the shot noise; read noise is added afterwards.

    Returns
    -------
    values of the outputs of the mask, and the number of full detectors
    """

    def of_counted(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.broadcast_to(values, counted.shape)[counted], dtype=np.float64)

    photons, gain = of_counted(reading.rows[7, :, None]), float(reading.units[2])
    light = of_counted(arrived) * photons
    electrons = detector.quiet_variance**0.5 * of_counted(z)
    if detector.balanced:
        difference = of_counted(value) * photons * gain
        plus, full = _draw_wells(np.maximum(light + difference, 0) / 2, words, detector)
        minus, also_full = _draw_wells(np.maximum(light - difference, 0) / 2, ~words, detector)
        electrons += plus - minus
        full += also_full
    else:
        in_well, full = _draw_wells(np.maximum(light, 0), words, detector)
        electrons += in_well - detector.dark
    return electrons / (photons * gain), full


def _draw_wells(light: np.ndarray, words: np.ndarray, detector: Detector) -> tuple[np.ndarray, int]:
    """Draw the electrons of detectors, with dark ones; count the full detectors."""
    mean = light + detector.dark
    few = mean < POISSON_BELOW
    in_well = np.empty(mean.shape)
    in_well[few] = poisson(mean[few], words[few])
    in_well[~few] = mean[~few] + np.sqrt(mean[~few]) * normals(words[~few])
    most = detector.full_well + detector.dark
    return np.minimum(in_well, most), int(np.count_nonzero(in_well > most))


def _convert(value: np.ndarray, reading: Reading, pedestal: np.ndarray, detector: Detector) -> int:
    """Saturate at the range and round to the converter's codes, in place; count saturated values.

    Balanced: codes -2^(b-1) .. 2^(b-1) - 1 of step q = 2 R / (2^b - 1), zero among them.
    Per reading: from a dark pedestal of five sigma below zero up to R, in 2^b - 1 steps.
    """
    limit = reading.limit
    if detector.converts == 1:
        shown = np.clip(value, -limit if detector.balanced else -pedestal, limit)
        saturated = int(np.count_nonzero(shown != value))
        value[...] = shown
        return saturated
    lowest, highest, inverse_steps, low_end, high_end = detector.codes
    step = reading.step
    if detector.balanced:
        value *= reading.inverse_step
    else:
        step = (limit + pedestal) * inverse_steps
        value += pedestal
        value /= step
    saturated, is_near = 0, value.max() >= high_end or value.min() <= low_end
    if is_near:
        saturated = int(np.count_nonzero((value > high_end) | (value < low_end)))
    np.rint(value, out=value)
    if is_near:
        np.clip(value, lowest, highest, out=value)
    if step is not None:
        value *= step
    if not detector.balanced:
        value -= pedestal
    return saturated
