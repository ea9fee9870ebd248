"""Detection: noise, full well and converter, for one reading of every output.

`read` computes it in numpy; with numba, `kernels.read_rows` does the same float32 operations in one
pass, with the same bits. Light is in element pairs at full transmission. A value is v = E / (P g)
of E electrons: in units of y after scaling, or, if the difference of two rails is converted, in
units of its integer sum, so that the sum is the value.

Both take the named tuples of this file, but from numpy to compiled code they travel as plain
tuples, which numba reads in a third of the time. Numba compiles code for the types of their fields;
its cache on disk does not notice another order of fields, only a change of `kernels`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..profile import OpticsProfile
from .noise import POISSON_BELOW, normals, poisson

_NEAR = 6.5  # sigma of its electrons below full well: a detector fills up once in 1e10


def single(*values: float) -> tuple[float, ...]:
    """Return numbers rounded to float32."""
    return tuple(float(np.float32(value)) for value in values)


def _codes(bits: int, balanced: bool) -> tuple[float, ...]:
    steps, half = 2.0**bits - 1, 2.0 ** (bits - 1)
    lowest, highest = (-half, half - 1) if balanced else (0.0, steps)
    beyond = ((lowest - 0.5) * (1 + 1e-6), (highest + 0.5) * (1 + 1e-6))
    return single(lowest, highest, 1 / steps if steps else 0.0, *beyond)


class RowTerms(NamedTuple):
    """The terms of each row that a reading needs: float32 [n] each.

    Parameters
    ----------
    light : the row's term of the light, in element pairs
    per_light, dark : variance of v per light, and without light
    weak_below : light below which Poisson counts are drawn
    pedestal : of the converter's range, in units of v
    nearly_full : light of a detector above which it may fill up
    times : the row's scale with the sign of the reading; 0 without this reading
    photons : P
    """

    light: np.ndarray
    per_light: np.ndarray
    dark: np.ndarray
    weak_below: np.ndarray
    pedestal: np.ndarray
    nearly_full: np.ndarray
    times: np.ndarray
    photons: np.ndarray


class Detector(NamedTuple):
    """The constants of detection.

    Parameters
    ----------
    gain : g = (1 - f_x)(1 - f_w) of y = E / (P g)
    balanced : two summing photodetectors whose difference is converted
    dark : mean dark electrons of one detector
    variance : electrons^2 independent of light: dark, its subtraction, read noise
    quiet_variance : the same without the noise of the dark electrons
    full_well : electrons of light that one detector holds above the mean dark level; infinite
        without a limit
    pedestal : electrons below zero at which a converter's range begins (per reading)
    converts : 0 no converter, 1 saturates at a range, 2 rounds to codes as well
    codes : lowest and highest code, the inverse of the number of steps, and the two limits beyond
        which a value saturates, in steps: numbers of float32. A value at a limit, up to the
        rounding of float32, does not saturate.
    """

    gain: float
    balanced: bool
    dark: float
    variance: float
    quiet_variance: float
    full_well: float
    pedestal: float
    converts: int
    codes: tuple[float, ...]

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
            converts,
            _codes(profile.readout_bits or 0, balanced),
        )

    @property
    def has_well(self) -> bool:
        """Whether a detector can fill up."""
        return self.full_well != float("inf")

    def row_terms(
        self,
        light: np.ndarray,
        electrons: np.ndarray | float | None,
        times: np.ndarray,
        gain: float,
    ) -> np.ndarray:
        """Return `RowTerms` of each row, float32 [8, n].

        Parameters
        ----------
        light : the row's term of the light, in element pairs
        electrons : P, or P of each row; None for light without photons
        times : the row's scale with the sign of the reading; 0 without this reading
        gain : g of v = E / (P g)
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


class Converter(NamedTuple):
    """The converter of each output, and the factor to y.

    Parameters
    ----------
    limit, inverse_step : float32 [M] or [n, 1]; unused without a converter
    scale : factor from a value, or from the code of a difference, to y: float32 [M]
    step : float32 [n, 1], if `scale` does not include it (ideal ranges), else None
    """

    limit: np.ndarray
    inverse_step: np.ndarray
    scale: np.ndarray
    step: np.ndarray | None = None

    def of(self, part: Any) -> "Converter":
        """Return the converter of some outputs."""
        return Converter(self.limit[part], self.inverse_step[part], self.scale[part])


class Reading(NamedTuple):
    """The inputs of one reading of a block of outputs, except the random numbers.

    Parameters
    ----------
    first : index of the first of these outputs
    signed : sums of integers [n, M]: the difference of the rails (balanced), or a rail
    light : sums for the light of both rails (balanced); [n, 0] if it is only the row's term
    units : light per sum, 1 / g, g: numbers of float32
    rows : `RowTerms`, float32 [8, n]
    light_term : the output's term of the light, float32 [M]
    source : brightness factors, float32 [n, frames] of `frame` outputs each; [n, 0] without
    """

    first: int
    signed: np.ndarray
    light: np.ndarray
    units: tuple[float, ...]
    rows: np.ndarray
    light_term: np.ndarray
    source: np.ndarray
    frame: int
    converter: Converter

    def plain(self) -> tuple[Any, ...]:
        """Return the reading in plain tuples."""
        return (*self[:-1], tuple(self.converter))

    def of_rows(self, rows: Any) -> "Reading":
        """Return the reading of some rows."""
        return self._replace(
            signed=self.signed[rows],
            light=self.light[rows],
            rows=self.rows[:, rows],
            source=self.source[rows],
        )

    def of(self, rows: np.ndarray, outputs: np.ndarray) -> "Reading":
        """Return the reading of single outputs, given by row and column: [n, 1] each."""
        light, source, place = self.light, self.source, outputs[:, None]
        frames = (self.first + outputs) // self.frame
        return self._replace(
            first=0,
            signed=self.signed[rows, outputs][:, None],
            light=light[rows, outputs][:, None] if light.shape[1] else light[rows],
            rows=self.rows[:, rows],
            light_term=self.light_term[place],
            converter=self.converter.of(place),
            source=source[rows, frames][:, None] if source.shape[1] else source[rows],
            frame=1,  # one factor for each
        )


class LeftOutputs(NamedTuple):
    """Buffers for the outputs that the compiled pass leaves to numpy: weak, or nearly full.

    Parameters
    ----------
    places : int64, row-major index in the block
    z : float32, their normal numbers
    words : uint64, their random words
    """

    places: np.ndarray
    z: np.ndarray
    words: np.ndarray


class CrossTerms(NamedTuple):
    """The digital correction a[n] p[M] + b[n] q[M] of a product: float64."""

    a: np.ndarray
    p: np.ndarray
    b: np.ndarray
    q: np.ndarray


def noise_free(reading: Reading, detector: Detector) -> tuple[np.ndarray, np.ndarray | None]:
    """Return value and light, float32 [n, M]; None for light that is only the row's term."""
    light_unit, inverse_gain, _ = reading.units
    spread, row_term = None, reading.rows[0, :, None]
    if reading.source.shape[1]:
        last = reading.first + reading.signed.shape[1]
        spread = np.repeat(reading.source, reading.frame, axis=1)[:, reading.first : last]
    light = reading.light if detector.balanced else reading.signed
    arrived = None
    if light.shape[1] or not detector.balanced:
        arrived = np.multiply(light, light_unit, dtype=np.float32, casting="same_kind")
        arrived += row_term
        arrived += reading.light_term
    elif spread is not None:
        arrived = np.broadcast_to(row_term, reading.signed.shape)
    if spread is not None:
        assert arrived is not None
        arrived = arrived * spread
    if not detector.balanced:
        assert arrived is not None
        return arrived * inverse_gain, arrived
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
    rows, saturated = RowTerms(*reading.rows[:, :, None]), 0
    if arrived is None:
        arrived = rows.light
    if z is not None:
        assert words is not None
        sigma = np.maximum(arrived, 0) * rows.per_light
        sigma += rows.dark
        np.sqrt(sigma, out=sigma)
        counted, electrons = arrived < rows.weak_below, None
        if detector.has_well:
            counted = counted | _may_fill(value, arrived, rows, reading.units[2], detector)
        if counted.any():
            counted = np.broadcast_to(counted, value.shape)
            electrons, saturated = _count_electrons(
                value, arrived, z, counted, words(counted), reading, detector
            )
        value += np.multiply(z, sigma, out=z)
        if electrons is not None:
            value[counted] = electrons
    if detector.converts:
        saturated += _convert(value, reading.converter, rows.pedestal, detector)
    value *= reading.converter.scale
    return np.multiply(value, rows.times, out=value if out is None else out), saturated


def _may_fill(
    value: np.ndarray, arrived: np.ndarray, rows: RowTerms, gain: float, detector: Detector
) -> np.ndarray:
    """Return which readings have a detector whose electrons may exceed its full well."""
    light = arrived
    if detector.balanced:
        light = (arrived + np.abs(value * gain)) * np.float32(0.5)
    return np.asarray(light > rows.nearly_full)


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

    photons, gain = of_counted(RowTerms(*reading.rows[:, :, None]).photons), reading.units[2]
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


def _convert(
    value: np.ndarray, converter: Converter, pedestal: np.ndarray, detector: Detector
) -> int:
    """Saturate at the range and round to the converter's codes, in place; count saturated values.

    Balanced: codes -2^(b-1) .. 2^(b-1) - 1 of step q = 2 R / (2^b - 1), zero among them.
    Per reading: from a dark pedestal of five sigma below zero up to R, in 2^b - 1 steps.
    """
    limit = converter.limit
    if detector.converts == 1:
        shown = np.clip(value, -limit if detector.balanced else -pedestal, limit)
        saturated = int(np.count_nonzero(shown != value))
        value[...] = shown
        return saturated
    lowest, highest, inverse_steps, low_end, high_end = detector.codes
    step = converter.step
    if detector.balanced:
        value *= converter.inverse_step
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
