"""Checksums of the rows of a tile, and of the inputs of a job.

Each weight frame also shows the sum of each group of its rows. So every shot gives a residual: the
signed light of the rows minus the light of their sum. Grey levels are rounded and the darkest level
leaks, but the response curve is known, so both are subtracted digitally and only noise remains. By
chance, a residual beyond `THRESHOLD` sigma occurs once in 10,000.

A row checksum cannot detect an input error that all rows share. Where all slots see one input, a
job therefore also shows the sum of its inputs, and every slot compares the electrons of the inputs
with the electrons of their sum. docs/explanation/checks.md has the formulas and the limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...instruments import ChecksumMismatch, InputError
from ..tiling import CHECK_ROWS, Geometry, cuts

if TYPE_CHECKING:
    from ..optics.layouts.base import Layout
    from ..optics.parameters import ResponseCurve
    from .config import ChecksTable

FALSE_ALARM = 1e-4  # probability, per correct residual and per correct input sum of a weight frame
THRESHOLD = 3.8906  # sigma of a normal distribution, exceeded on either side with that probability
ONE_SIDED = 3.7190  # the same, exceeded on one side
FOUND = 7.0  # sigma of an error that is found with 99.9 %: 3.89 + 3.09
TOLERANCE = 0.01  # error of the calibration, rms, relative to the light of a slot
_LEAST_SLOTS = 64  # "auto": from here on two checksum rows cost little
_LEAST_INPUTS = 16  # "auto": from here on one more input frame costs little
_OVER_MEAN = 2.0  # mean of the inputs over the input that is shown for their sum
_FEW = 8  # up to so many groups are scored one by one
_COMMON_FROM = 8  # from so many slots on, a common factor of their light is separated
_SPARE_E = 1.0  # variance added to each slot: a low count underestimates its own variance
_SMALLEST_SKEW = 1e-5  # keeps the division by the skewness finite
_ADVICE = "look for stuck pixels, stray light in the beam, or a detector that misreads"


def with_checks(plain: Geometry, table: ChecksTable, layout: Layout, path: str) -> Geometry:
    """Return the geometry of a bench with the checksums that its file asks for.

    Raises
    ------
    InputError : if a frame cannot hold a row and its checksum
    """
    rows, inputs = table.rows, table.inputs
    if inputs == "auto":
        inputs = 0 if layout.name == "imaged" else _LEAST_INPUTS
    checked = replace(plain, input_checks=inputs)
    if rows == 0 or (rows == "auto" and layout.slots < _LEAST_SLOTS):
        return checked
    if layout.slots < CHECK_ROWS + plain.parts:
        raise InputError(
            f"{path}: checks.rows = {rows}: a frame of {layout.slots} slots cannot hold a row and "
            'its checksum; leave the key out or say "auto"'
        )
    most = layout.slots - CHECK_ROWS
    return checked.with_checks(None if rows == "auto" else min(rows * plain.parts, most))


# --- is this residual noise? ---------------------------------------------------------------------


class _FloatMath:
    """The functions of numpy that `score` uses, for single floats: much faster for few groups."""

    maximum, sqrt, cbrt, copysign = max, math.sqrt, math.cbrt, math.copysign


def normal_score(deviation: Any, skewness: Any, of: Any = np) -> Any:
    """Return the normal deviate with the same probability as a deviation of a skewed distribution.

    Anscombe's residual of a Poisson number with that skewness g, whose mean is 1 / g^2
    (F. J. Anscombe, 1953): 1.5 / g ((1 + g t)^(2/3) - 1 + g^2 / 9).

    Parameters
    ----------
    deviation : in standard deviations, float or array
    of : module with the functions for floats or for arrays
    """
    g = skewness + of.copysign(_SMALLEST_SKEW, skewness)
    base = of.cbrt(of.maximum(1 + g * deviation, 0.0))
    return 1.5 / g * (base * base - 1 + g * g / 9)


def score(
    residual: Any,
    light: tuple[Any, Any],
    dark: tuple[Any, Any],
    tolerance: Any = 0.0,
    of: Any = np,
) -> tuple[Any, Any]:
    """Return z and sigma of residuals sum a e of electrons e, whose mean should be 0.

    Parameters
    ----------
    residual : float or array
    light : sums of a^2 e and of a^3 e
    dark : sums of a^2 d and of a^3 d, d the variance without light, above zero
    tolerance : variance of the calibration error
    of : module with the functions for floats or for arrays

    Returns
    -------
    z : normally distributed for correct shots
    sigma : of the residuals
    """
    raw = of.maximum(light[0] + dark[0], dark[0])
    # a low count lowers both residual and variance: remove this correlation
    corrected = raw - (light[1] + dark[1]) * residual / raw
    variance = of.maximum(of.maximum(corrected, dark[0]), raw / 10) + tolerance
    sigma = of.sqrt(variance)
    return normal_score(residual / sigma, light[1] / (variance * sigma), of), sigma


def chi_square_score(scores: np.ndarray, freedom: int) -> float:
    """Return the normal deviate of a sum of squares (Wilson and Hilferty)."""
    part = 2 / (9 * freedom)
    return float(((scores @ scores / freedom) ** (1 / 3) - 1 + part) / part**0.5)


# --- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckGroup:
    """The rows of a tile with their checksum rows, in the order of the slots of a frame.

    Parameters
    ----------
    intensity : normalised, float64 [slots, length]
    rows : slots of the tile's own rows, int [n]
    starts : first slot of each group, int [groups]
    factors : factor of each slot in the residual of its group, float64 [slots]
    """

    intensity: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, intensity: np.ndarray, signs: np.ndarray, checked: int) -> CheckGroup:
        """Return the rows of a tile with two checksum rows per group.

        These show the positive and the negative part of the sum of the group. They pass no more
        light than the brightest row, so they do not saturate the detector.

        Parameters
        ----------
        intensity : of the rows, normalised, [n, length]
        signs : of the rows in the sum, [n]
        checked : rows of a group; 0 for no checksums
        """
        count = len(intensity)
        if not checked:
            return cls(intensity, np.arange(count), np.zeros(0, int), np.zeros(count))
        parts, factors, rows, starts, place = [], [], [], [], 0
        for first, last in cuts(count, checked):
            own, sign = intensity[first:last], signs[first:last]
            total = sign @ own
            both_signs = np.maximum([total, -total], 0)
            most = max(float(own.sum(axis=1).max()), 1e-30)
            scale = max(both_signs.max(), both_signs.sum(axis=1).max() / most, 1e-30)
            parts += [own, both_signs / scale]
            factors += [sign, np.array([-scale, scale])]
            rows.append(np.arange(place, place + last - first))
            starts.append(place)
            place += last - first + CHECK_ROWS
        order = np.concatenate(rows), np.array(starts)
        return cls(np.concatenate(parts), *order, np.concatenate(factors))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over each group's rows, [groups], of values [n]."""
        if not len(self.starts):
            return self.starts
        first = np.searchsorted(self.rows, self.starts)
        return np.add.reduceat(values, first) / np.diff(np.append(first, len(values)))


@dataclass(frozen=True)
class RowSums:
    """The coefficients of the residuals of one weight frame.

    Residuals are in units of one product of two normalised intensities of 1.

    Parameters
    ----------
    starts : first slot of each group, int [groups]
    powers : factors of electrons, and of their second and third moments, float64 [3, slots]
    dark : sums of second and third moments without light, float64 [2, groups]
    expected : residual of a dark input, float64 [groups]
    slopes : residual that the light of each input element adds, float64 [groups, length]
    """

    starts: np.ndarray
    powers: np.ndarray
    dark: np.ndarray
    expected: np.ndarray
    slopes: np.ndarray

    @classmethod
    def of(
        cls,
        starts: np.ndarray,
        factors: np.ndarray,
        passed: tuple[np.ndarray, np.ndarray],
        dark: np.ndarray,
        inverse: np.ndarray | None,
    ) -> RowSums:
        """Return the coefficients for the grey levels of one weight frame.

        Parameters
        ----------
        factors : of electrons, float64 [slots]
        passed : electrons of a dark input [slots], and of each input element at full light
            [slots, length]
        dark : variance of a slot without light, [slots]
        inverse : of the crosstalk between slots, [slots, slots]; None without crosstalk
        """
        # the crosstalk correction correlates the noise of neighbouring slots
        spread = factors if inverse is None else factors @ inverse
        powers = np.stack([factors, spread**2, spread**3])
        return cls(
            starts,
            powers,
            np.add.reduceat(powers[1:] * (dark + _SPARE_E), starts, axis=1),
            np.add.reduceat(factors * passed[0], starts),
            np.add.reduceat(factors[:, None] * passed[1], starts, axis=0),
        )

    def score(
        self, electrons: np.ndarray, light: np.ndarray, tolerance: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return z and sigma of each group's residual, float64 [groups].

        Parameters
        ----------
        electrons : of one shot, [slots]
        light : of the input of each group, [groups, length], or [1, length] for all
        tolerance : relative rms error of the light of a slot
        """
        sums = np.add.reduceat(self.powers * electrons, self.starts, axis=1)
        if len(light) == 1:
            added = self.slopes @ light[0]
        else:
            added = np.einsum("gk,gk->g", self.slopes, light)
        count = len(self.starts)
        off: Any = np.zeros(count)
        if tolerance:
            off = tolerance**2 * np.add.reduceat((self.powers[0] * electrons) ** 2, self.starts)
        moments = sums[0] - self.expected - added, sums[1], sums[2], *self.dark, off
        if count > _FEW:
            residual, second, third, dark_second, dark_third, off = moments
            return score(residual, (second, third), (dark_second, dark_third), off)
        z, sigma = np.empty((2, count))
        groups = zip(*(part.tolist() for part in moments), strict=True)
        for group, (r, second, third, *dark, off) in enumerate(groups):
            z[group], sigma[group] = score(r, (second, third), tuple(dark), off, _FloatMath)
        return z, sigma


# --- inputs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputSum:
    """The sum of the inputs of a job as it is shown, one for each place of an input frame.

    A stuck element equals its own mean, so the full mean would hide it; half is shown instead. Half
    the mean also does not saturate the detector.

    Parameters
    ----------
    frames : number of input frames in the sum
    scale : light of the sum over the light of the frame that shows it, float64 [places]
    levels : grey levels of that frame, [places, length]
    light : of these grey levels, float64 [places, length]
    rounding : the sum minus the scaled light of that frame, float64 [places, length]
    """

    frames: int
    scale: np.ndarray
    levels: np.ndarray
    light: np.ndarray
    rounding: np.ndarray

    @classmethod
    def of(cls, inputs: Sequence[np.ndarray], frames: int, curve: ResponseCurve) -> InputSum:
        """Return the sum of the light of inputs [vectors, length] of each place."""
        total = np.stack([light.sum(axis=0) for light in inputs])
        scale = np.array([_OVER_MEAN * max(len(light), 1) for light in inputs])
        levels = curve.levels(total / scale[:, None])
        light = curve.light[levels]
        return cls(frames, scale, levels, light, total - scale[:, None] * light)

    def expected_difference(
        self, dark_e: np.ndarray, passed_e: np.ndarray, input_place: np.ndarray
    ) -> np.ndarray:
        """Return the electrons [slots] by which inputs and sum differ due to rounding and leakage.

        Parameters
        ----------
        dark_e : of a dark input, [slots]
        passed_e : of each input element at full light, [slots, length]
        input_place : place of the input that each slot sees
        """
        rounded = np.einsum("sk,sk->s", passed_e, self.rounding[input_place])
        return np.asarray(rounded + (self.frames - self.scale[input_place]) * dark_e)

    def score(
        self,
        electrons: np.ndarray,
        expected_difference: np.ndarray,
        input_place: np.ndarray,
        dark: np.ndarray,
        tolerance: float,
    ) -> tuple[float, float]:
        """Return |z| of a weight frame and its threshold.

        With enough slots, a common factor of their residuals is removed, because markers, not sums,
        determine the brightness of a shot. The squares of the remaining normal deviates are added.

        Parameters
        ----------
        electrons : of used slots, float64 [1 + frames, slots], the sum's first
        expected_difference, input_place, dark : of these slots
        tolerance : relative rms error of the light of a slot
        """
        scale, own, others = self.scale[input_place], electrons[0], electrons[1:]
        total, dark = others.sum(axis=0), dark + _SPARE_E
        scores, sigma = score(
            total - scale * own - expected_difference,
            (total + scale**2 * own, total - scale**3 * own),
            ((self.frames + scale**2) * dark, (self.frames - scale**3) * dark),
            tolerance**2 * ((others**2).sum(axis=0) + (scale * own) ** 2),
        )
        if len(scores) == 1:
            return abs(float(scores[0])), THRESHOLD
        freedom = len(scores)
        if freedom >= _COMMON_FROM:
            common = scale * own / sigma
            scores = scores - common * (common @ scores) / max(float(common @ common), 1e-30)
            freedom -= 1
        return max(chi_square_score(scores, freedom), 0.0), ONE_SIDED


# --- results -------------------------------------------------------------------------------------


@dataclass
class ChecksumStats:
    """The results of the checksums of one matmul.

    Parameters
    ----------
    checks : number of residuals, and of weight frames with an input sum, that were checked
    suspicious : checks beyond the threshold; each of them repeats its shots
    largest : largest |z| within the threshold
    products : number of products
    errors : smallest error of an output that is found with 99.9 %: the median of each product,
        summed over products
    """

    checks: int = 0
    suspicious: int = 0
    largest: float = 0.0
    products: int = 0
    errors: float = 0.0

    @property
    def smallest_error(self) -> float | None:
        """The smallest error of an output that is found with 99.9 %; None without row checksums."""
        return self.errors / self.products if self.products else None

    def count(self, scores: Sequence[float] | np.ndarray, threshold: float) -> float:
        """Count scores, and return the largest |z|."""
        sizes = np.abs(scores)
        largest = float(sizes.max())
        self.checks += len(sizes)
        if largest > threshold:
            self.suspicious += int((sizes > threshold).sum())
        else:
            self.largest = max(self.largest, largest)
        return largest

    def add(self, other: ChecksumStats) -> None:
        """Add the results of another product of the same matmul."""
        self.products += other.products
        self.checks += other.checks
        self.suspicious += other.suspicious
        self.largest = max(self.largest, other.largest)
        self.errors += other.errors


class ChecksumMonitor:
    """Checks the shots of one product, and counts the results.

    Parameters
    ----------
    dark : variance of each slot without light, [slots]
    tolerance : error of the calibration, rms, relative to the light of a slot

    Attributes
    ----------
    passed : (job, weight frame) whose input sum matched
    """

    def __init__(self, dark: np.ndarray, tolerance: float) -> None:
        self._dark, self._tolerance = dark, tolerance
        self._stats = ChecksumStats()
        self._errors: list[np.ndarray] = []
        self._waiting: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        self.passed: set[tuple[int, int]] = set()

    @property
    def stats(self) -> ChecksumStats:
        """The results so far."""
        found = replace(self._stats)
        if self._errors:
            found.products, found.errors = 1, float(np.median(np.concatenate(self._errors)))
        return found

    def check_rows(
        self,
        shot: str,
        sums: RowSums,
        electrons: np.ndarray,
        light: np.ndarray,
        scales: np.ndarray | None,
    ) -> float:
        """Check the rows of a shot, and return the largest |z|.

        Parameters
        ----------
        light : of the input of each group, [groups, length], or [1, length] for all
        scales : an output per product of two normalised intensities of 1, [groups]; 0 where a group
            had no input; None for a sum of inputs

        Raises
        ------
        ChecksumMismatch : when a residual is beyond noise
        """
        z, sigma = sums.score(electrons, light, self._tolerance)
        if scales is not None:
            errors = FOUND * sigma * scales
            if not scales.all():
                z, errors = z[scales > 0], errors[scales > 0]
            self._errors.append(errors)
        largest = self._stats.count(z, THRESHOLD)
        if largest > THRESHOLD:
            raise ChecksumMismatch(
                f"shot {shot}: the sum of the rows is {largest:.1f} sigma off their checksum "
                f"({THRESHOLD:.1f} occur by chance once in {1 / FALSE_ALARM:,.0f}): {_ADVICE}"
            )
        return largest

    def add_shot(
        self, job: int, tile: int, vector: int, electrons: np.ndarray, count: int
    ) -> np.ndarray | None:
        """Keep the electrons of a shot; return those of its weight frame once it is complete."""
        waiting = self._waiting.setdefault((job, tile), {})
        waiting[vector] = electrons
        if len(waiting) < count:
            return None
        del self._waiting[job, tile]
        return np.stack([waiting[vector] for vector in range(count)])

    def check_inputs(
        self,
        name: str,
        inputs: InputSum,
        electrons: np.ndarray,
        slots: np.ndarray,
        input_place: np.ndarray,
        expected_difference: np.ndarray,
    ) -> float:
        """Check the inputs of a weight frame, and return |z|.

        Raises
        ------
        ChecksumMismatch : when the sum is beyond noise; which of the inputs is wrong is unknown
        """
        z, threshold = inputs.score(
            electrons[:, slots],
            expected_difference,
            input_place,
            self._dark[slots],
            self._tolerance,
        )
        if self._stats.count([z], threshold) > threshold:
            raise ChecksumMismatch(
                f"weight frame {name}: the light of {inputs.frames} inputs is {z:.1f} sigma off "
                f"the light of their sum ({threshold:.1f} occur by chance once in "
                f"{1 / FALSE_ALARM:,.0f}): {_ADVICE}",
                scope="tile",
            )
        return z
