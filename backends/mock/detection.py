"""Detection: noise, full well and converter, for all readings of a segment.

`read_segment` computes them in numpy; with numba, `kernels.read_segment` does the same float32
operations, with the same bits. Light is in element pairs at full transmission. A value is v =
E / (P g) of E electrons: in units of y after scaling, or, if the difference of two rails is
converted, in units of its integer sum, so that the sum is the value.

Both take the named tuples of this file. Constants travel to compiled code as records (`as_record`):
one address instead of dozens of arguments. Numba compiles code for the types of their fields; its
cache on disk does not notice another order of fields, only a change of `kernels`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..profile import OpticsProfile
from .noise import CELLS, COUNT, NoiseKeys, normals, outer, quantiles, random_words, tag
from .poisson import POISSON_BELOW, poisson

_NEAR = 6.5  # sigma of its electrons below full well: a detector fills up once in 1e10
_HALF = np.float32(0.5)


def single(*values: float) -> tuple[float, ...]:
    """Return numbers rounded to float32."""
    return tuple(float(np.float32(value)) for value in values)


def _codes(bits: int, balanced: bool) -> tuple[float, ...]:
    steps, half = 2.0**bits - 1, 2.0 ** (bits - 1)
    lowest, highest = (-half, half - 1) if balanced else (0.0, steps)
    beyond = ((lowest - 0.5) * (1 + 1e-6), (highest + 0.5) * (1 + 1e-6))
    return single(lowest, highest, 1 / steps if steps else 0.0, *beyond)


@lru_cache(maxsize=64)
def as_record(constants: Any) -> np.ndarray:
    """Return a named tuple of numbers, and of tuples of numbers, as a record: [1]."""
    fields = []
    for name, value in zip(constants._fields, constants, strict=True):
        shape = (len(value),) if isinstance(value, tuple) else ()
        fields.append((name, np.array(value).dtype.str, shape))
    return np.array([tuple(constants)], dtype=_record_type(tuple(fields)))


@lru_cache(maxsize=64)
def _record_type(fields: tuple[tuple[Any, ...], ...]) -> np.dtype[Any]:
    """Return the type of a record; numba is slower with a second type of the same fields."""
    return np.dtype(list(fields), align=True)


class RowTerms(NamedTuple):
    """The terms of each row that its readings share: float32 [n] each.

    Parameters
    ----------
    per_light, dark : variance of v per light, and without light
    weak_below : light below which Poisson counts are drawn
    pedestal : of the converter's range, in units of v
    nearly_full : light of a detector above which it may fill up
    photons : P; 0 for light without photons
    per_electron : of v
    times : the row's scale
    """

    per_light: np.ndarray
    dark: np.ndarray
    weak_below: np.ndarray
    pedestal: np.ndarray
    nearly_full: np.ndarray
    photons: np.ndarray
    per_electron: np.ndarray
    times: np.ndarray


class Detector(NamedTuple):
    """The constants of detection.

    Parameters
    ----------
    gain : g = (1 - f_x)(1 - f_w) of y = E / (P g)
    balanced : two summing photodetectors whose difference is converted
    rails, exposures : readings of a segment: of both rails in turn, of x+ and x- in turn; else 1
    dark : mean dark electrons of one detector
    variance : electrons^2 independent of light: dark, its subtraction, read noise
    quiet_sigma : electrons of noise without that of the dark electrons
    full_well : electrons of light that one detector holds above the mean dark level; infinite
        without a limit
    nearly_full : electrons of light from which shot noise may fill the well
    pedestal : electrons below zero at which a converter's range begins (per reading)
    converts : 0 no converter, 1 saturates at a range, 2 rounds to codes as well
    is_ideal : whether the range of each row is its largest noise-free value (unphysical)
    codes : lowest and highest code, the inverse of the number of steps, and the two limits beyond
        which a value saturates, in steps: numbers of float32. A value at a limit, up to the
        rounding of float32, does not saturate.
    """

    gain: float
    balanced: bool
    rails: int
    exposures: int
    dark: float
    variance: float
    quiet_sigma: float
    full_well: float
    nearly_full: float
    pedestal: float
    converts: int
    is_ideal: bool
    codes: tuple[float, ...]

    @classmethod
    def of(cls, profile: OpticsProfile) -> "Detector":
        """Return the constants of a profile."""
        gain = 1.0
        if profile.extinction_ratio and profile.extinction_model == "leak":
            gain = (1 - 1 / profile.extinction_ratio) ** 2
        balanced = profile.detection == "balanced" and profile.encoding != "offset"
        readings = 1 if balanced or profile.encoding == "offset" else 2
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
            readings,
            readings,
            dark,
            variance,
            (read + subtraction) ** 0.5,
            full_well,
            _nearly_full_e(full_well, dark),
            5 * variance**0.5,
            converts,
            profile.readout_range == "ideal",
            _codes(profile.readout_bits or 0, balanced),
        )

    @property
    def has_well(self) -> bool:
        """Whether a detector can fill up."""
        return self.full_well != float("inf")

    def row_terms(
        self, electrons: np.ndarray | float | None, times: np.ndarray, gain: float
    ) -> np.ndarray:
        """Return `RowTerms` of each row, float32 [8, n].

        Parameters
        ----------
        electrons : P, or P of each row; None for light without photons
        times : the row's scale
        gain : g of v = E / (P g)
        """
        terms = np.empty((8, len(times)), dtype=np.float32)
        if isinstance(electrons, np.ndarray):
            terms[:] = self._noise_terms(electrons, gain)
        else:
            terms[:] = self._fixed_terms(electrons, gain)
        terms[7] = times
        return terms

    @lru_cache(maxsize=64)  # noqa: B019 (detectors are few and small)
    def _fixed_terms(self, electrons: float | None, gain: float) -> np.ndarray:
        """Return the terms that are the same for every row: float64 [8, 1]."""
        if electrons is None:
            return np.array([[0.0], [0.0], [0.0], [0.0], [np.inf], [0.0], [0.0], [0.0]])
        return self._noise_terms(np.array([electrons]), gain)

    def _noise_terms(self, electrons: np.ndarray, gain: float) -> np.ndarray:
        per_value, zeros = 1 / (electrons * gain), np.zeros_like(electrons)
        detectors = 2 if self.balanced else 1
        return np.stack(
            [
                per_value / gain,
                self.variance * per_value * per_value,
                (POISSON_BELOW - detectors * self.dark) / electrons,
                self.pedestal * per_value,
                self.nearly_full / electrons,
                electrons,
                per_value,
                zeros,
            ]
        )


def _nearly_full_e(full_well: float, dark: float) -> float:
    """Solve m + n sqrt(m) = full well for m electrons of light and dark; return those of light."""
    if full_well == float("inf"):
        return full_well
    root = (max(full_well + dark, 0) + _NEAR**2 / 4) ** 0.5 - _NEAR / 2
    return float(root**2 - dark)


class Converter(NamedTuple):
    """The converter of each output, and the factor to y.

    Parameters
    ----------
    limit, inverse_step : float32 [M]; unused without a converter
    scale : factor from a value, or from the code of a difference, to y: float32 [M]
    """

    limit: np.ndarray
    inverse_step: np.ndarray
    scale: np.ndarray

    @classmethod
    def of_limits(
        cls, limit: np.ndarray, unit: float, scale: np.ndarray, profile: OpticsProfile
    ) -> "Converter":
        """Return the converters of ranges `limit`, in units of y; 0 stands for 1.

        Parameters
        ----------
        unit : y per value
        scale : of the weights, shaped as `limit`
        """
        limit = np.where(limit > 0, limit, 1.0) / unit
        steps = max(2.0 ** (profile.readout_bits or 0) - 1, 1.0)
        factor = unit * scale
        has_codes = profile.readout_bits is not None and profile.readout_range != "ideal"
        if has_codes and profile.detection == "balanced" and profile.encoding != "offset":
            factor = factor * (2 * limit / steps)
        return cls(*(np.array(a, dtype=np.float32) for a in (limit, steps / (2 * limit), factor)))

    def of(self, part: Any) -> "Converter":
        """Return the converter of some outputs."""
        return Converter(self.limit[part], self.inverse_step[part], self.scale[part])


class Block(NamedTuple):
    """All readings of one segment, for some rows and outputs, without the random numbers.

    Reading 2 e + r is of rail r in exposure e.

    Parameters
    ----------
    first : index of the first of these outputs
    sums : of integers, [n, M] each: the difference of the rails, and its light if that depends on
        the output (balanced); else of each reading, or of each exposure if both rails share one
    light_unit : light per sum, for each rail: numbers of float32
    gains : 1 / g, g: numbers of float32
    row_light : the row's term of the light of each reading, float32 [readings, n]
    rows : `RowTerms`, float32 [8, n]
    light_term : the output's term of the light, float32 [rails, M]
    minus : which rows have an exposure of x-, bool [n]
    source : brightness factors, float32 [exposures, n, frames] of `frame` outputs each; without
        frames they are 1
    lines : 0; or how many lines of sums a row has, of x+ and x- in turn, each with one sum or with
        one of each rail (`kernels.multiply`)
    """

    first: int
    sums: Any
    light_unit: tuple[float, ...]
    gains: tuple[float, ...]
    row_light: np.ndarray
    rows: np.ndarray
    light_term: np.ndarray
    minus: np.ndarray
    source: np.ndarray
    frame: int
    converter: Converter
    lines: int = 0

    def of_rows(self, rows: Any) -> "Block":
        """Return the readings of some rows."""
        return self._replace(
            sums=[sums[rows] for sums in self.sums],
            row_light=self.row_light[:, rows],
            rows=self.rows[:, rows],
            minus=self.minus[rows],
            source=self.source[:, rows],
        )


ONE_SUM, WITH_LIGHT, TWO_EXPOSURES, FOUR_READINGS = 0, 1, 2, 3


class BenchConstants(NamedTuple):
    """The constants of a bench for `multiply`.

    Parameters
    ----------
    scheme : `ONE_SUM` of the signed rows; `WITH_LIGHT`, a second one of the magnitudes; of x+ and
        x- with all weights (`TWO_EXPOSURES`) or with both sides of them (`FOUR_READINGS`)
    levels : on each side of zero; with the offset encoding, from least to largest number
    centre : level of zero with the offset encoding; -1 without
    leak, unit : of an exposure: t = leak + unit X (`encoding.input_steps`)
    true_leak : of the modulator
    light_unit, gains, per_sum, rail_unit, rail_constant : see `Block` and `encoding.Rail`
    dark : light of the leak, if it depends neither on the row nor on the output, per column
    total_unit : light per sum with the columns of the weights
    value_unit : `ReadingRule.unit`
    photons, per_mac, entering_per_mac : the light level, one of three; 0 for the others
    source_rms, frame, vectors : brightness of exposures: of `frame` outputs and `vectors` rows
    """

    scheme: int
    levels: float
    centre: int
    leak: float
    unit: float
    true_leak: float
    light_unit: tuple[float, ...]
    gains: tuple[float, ...]
    per_sum: tuple[float, float]
    rail_unit: tuple[float, float]
    rail_constant: tuple[float, float]
    dark: float
    total_unit: float
    value_unit: float
    photons: float
    per_mac: float
    entering_per_mac: float
    source_rms: float
    frame: int
    vectors: int


class CrossTerms(NamedTuple):
    """The digital correction a[n] p[M] + b[n] q[M] of a product: float64."""

    a: np.ndarray
    p: np.ndarray
    b: np.ndarray
    q: np.ndarray


def sum_of(reading: int, count: int, rails: int) -> int:
    """Return which of `count` sums a reading has."""
    return reading if count == rails * rails else reading // rails


def noise_free(
    block: Block, detector: Detector, reading: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return value and light, float32 [n, M]; None for light that is only the row's term."""
    exposure, rail = divmod(reading, detector.rails)
    spread, row_light = None, block.row_light[reading][:, None]
    if block.source.shape[2]:
        last = block.first + block.sums[0].shape[1]
        spread = np.repeat(block.source[exposure], block.frame, axis=1)[:, block.first : last]
    light = None
    if not detector.balanced:
        light = block.sums[sum_of(reading, len(block.sums), detector.rails)]
    elif len(block.sums) == 2:
        light = block.sums[1]
    arrived = None
    if light is not None:
        arrived = light.astype(np.float32, copy=False) * np.float32(block.light_unit[rail])
        arrived += row_light
        arrived += block.light_term[rail]
    elif spread is not None:
        arrived = np.broadcast_to(row_light, block.sums[0].shape)
    if spread is not None:
        assert arrived is not None
        arrived = arrived * spread
    if not detector.balanced:
        assert arrived is not None
        return arrived * np.float32(block.gains[0]), arrived
    value = block.sums[0].astype(np.float32)
    return value if spread is None else value * spread, arrived


def read_segment(
    y: np.ndarray, add: bool, block: Block, detector: Detector, noise: NoiseKeys | None
) -> int:
    """Read every output of a segment, and store it in y [n, M] or add it.

    Parameters
    ----------
    noise : of these rows; None for light without photons

    Returns
    -------
    saturated : number of values that exceeded a full well or the range
    """
    saturated, total = 0, np.zeros((0, 0), dtype=np.float32)
    terms, converter = RowTerms(*block.rows[:, :, None]), block.converter
    width, inverse_step = total, converter.inverse_step
    if detector.converts == 2 and not (detector.balanced or detector.is_ideal):
        # the width of a code of one reading, in units of v: the same for all readings
        width = (converter.limit + terms.pedestal) * np.float32(detector.codes[2])
        inverse_step = 1 / width
    for reading in range(detector.rails * detector.exposures):
        exposure, rail = divmod(reading, detector.rails)
        rows: Any = slice(None)
        if exposure and not block.minus.all():
            rows = np.flatnonzero(block.minus)
            if not rows.size:
                break
        part = block.of_rows(rows)
        own = None if noise is None else noise._replace(rows=noise.rows[rows])
        own_step = inverse_step[rows] if width.size else inverse_step
        value, some = _read(part, detector, reading, own, own_step)
        saturated += some
        if reading == 0:
            total = value
            total += np.float32(0)  # no number is -0
        elif exposure == rail:
            total[rows] += value
        else:
            total[rows] -= value
    if width.size:
        total *= width
        if detector.rails == 1:  # differences have none
            total -= terms.pedestal
    total *= converter.scale
    if add:
        total *= terms.times
        y += total
    else:
        np.multiply(total, terms.times, out=y)
    return saturated


def _read(
    block: Block,
    detector: Detector,
    reading: int,
    noise: NoiseKeys | None,
    inverse_step: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Return the codes of one reading, or its values without codes, and how many saturated.

    Parameters
    ----------
    inverse_step : codes per value, float32 [M] or [n, M]; unused with an ideal range
    """
    terms, saturated = RowTerms(*block.rows[:, :, None]), 0
    value, arrived = noise_free(block, detector, reading)
    if noise is not None:
        z = normals(noise, reading, value.shape[1])
        if arrived is None:  # the same for all outputs of a row
            arrived = block.row_light[reading][:, None]
        sigma = np.maximum(arrived, 0) * terms.per_light
        sigma += terms.dark
        np.sqrt(sigma, out=sigma)
        counted = arrived < terms.weak_below
        if detector.has_well:
            counted = counted | _may_fill(value, arrived, terms, block.gains[1], detector)
        has_counts = bool(counted.any())
        if has_counts:
            counted, arrived = (np.broadcast_to(a, value.shape) for a in (counted, arrived))
            drawn, saturated = _count(value, arrived, z, counted, block, detector, reading, noise)
        z *= sigma
        value += z
        if has_counts:
            value[counted] = drawn
    if detector.is_ideal:
        steady = block._replace(source=block.source[:, :, :0])
        largest = np.abs(noise_free(steady, detector, reading)[0]).max(axis=1, keepdims=True)
        limit = np.where(largest > 0, largest, np.float32(1))
        return value, saturated + _convert(value, limit, None, terms, detector)
    limit = block.converter.limit
    return value, saturated + _convert(value, limit, inverse_step, terms, detector)


def _convert(
    value: np.ndarray,
    limit: np.ndarray,
    inverse_step: np.ndarray | None,
    terms: RowTerms,
    detector: Detector,
) -> int:
    """Saturate at the range and round to the converter's codes, in place; count saturated values.

    Balanced: codes -2^(b-1) .. 2^(b-1) - 1 of step q = 2 R / (2^b - 1), zero among them.
    Per reading: from a dark pedestal of five sigma below zero up to R, in 2^b - 1 steps.

    Parameters
    ----------
    inverse_step : codes per value; None for an ideal range, whose codes become values again
    """
    if not detector.converts:
        return 0
    if detector.converts == 1:
        shown = np.clip(value, -limit if detector.balanced else -terms.pedestal, limit)
        saturated = int(np.count_nonzero(shown != value))
        value[...] = shown
        return saturated
    lowest, highest, inverse_steps, low_end, high_end = (np.float32(c) for c in detector.codes)
    step = limit * (2 * inverse_steps)
    if not detector.balanced:
        if inverse_step is None:
            step = (limit + terms.pedestal) * inverse_steps
        value += terms.pedestal
    value *= 1 / step if inverse_step is None else inverse_step
    saturated = int(np.count_nonzero((value > high_end) | (value < low_end)))
    np.rint(value, out=value)
    np.clip(value, lowest, highest, out=value)
    if inverse_step is None:
        value *= step
        if not detector.balanced:
            value -= terms.pedestal
    return saturated


def _may_fill(
    value: np.ndarray, arrived: np.ndarray, terms: RowTerms, gain: float, detector: Detector
) -> np.ndarray:
    """Return which readings have a detector whose electrons may exceed its full well."""
    light = arrived
    if detector.balanced:
        light = (arrived + np.abs(value * np.float32(gain))) * _HALF
    return np.asarray(light > terms.nearly_full)


def _count(
    value: np.ndarray,
    arrived: np.ndarray,
    z: np.ndarray,
    counted: np.ndarray,
    block: Block,
    detector: Detector,
    reading: int,
    noise: NoiseKeys,
) -> tuple[np.ndarray, int]:
    """Draw the electrons of each detector, in weak light and near a full well, which clips them.

    The electrons in the well carry the shot noise; read noise is added afterwards.

    Returns
    -------
    values of the outputs of the mask, and the number of full detectors
    """
    row, output = np.nonzero(counted)
    terms = RowTerms(*block.rows[:, row])
    light, read_noise = arrived[counted], np.float32(detector.quiet_sigma) * z[counted]
    if detector.balanced:
        difference = value[counted] * np.float32(block.gains[1])
        sides = [(light + difference) * _HALF, (light - difference) * _HALF]
    else:
        sides = [light]
    electrons, full = [], 0
    for index, side in enumerate(sides):
        name = tag(noise.segment, reading, COUNT + index)
        places = (block.first + output).astype(np.uint64)
        words = random_words(noise.key, noise.rows[row], name, places)
        mean = np.maximum(side, 0) * terms.photons + np.float32(detector.dark)
        drawn, some = _draw_wells(mean, words, detector)
        electrons.append(drawn)
        full += some
    total = electrons[0] - (electrons[1] if detector.balanced else np.float32(detector.dark))
    return (total + read_noise) * terms.per_electron, full


def _draw_wells(mean: np.ndarray, words: np.ndarray, detector: Detector) -> tuple[np.ndarray, int]:
    """Draw the electrons of detectors, dark ones too; count the full detectors."""
    few = mean < np.float32(POISSON_BELOW)
    in_well = np.empty(mean.shape, dtype=np.float32)
    in_well[few] = poisson(mean[few], words[:, few])
    if not few.all():
        many = ~few
        cells = (words[3, many] & np.uint32(CELLS - 1)).astype(np.uint16)
        z = quantiles()[cells]
        is_outer = cells + np.uint16(1) <= 1
        z[is_outer] = outer(cells[is_outer], *words[:2, many][:, is_outer])
        in_well[many] = mean[many] + np.sqrt(mean[many]) * z
    most = np.float32(detector.full_well + detector.dark)
    return np.minimum(in_well, most), int(np.count_nonzero(in_well > most))
