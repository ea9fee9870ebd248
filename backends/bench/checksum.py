"""Checksums: whether the rows of a tile, and the inputs of a job, add up to what their sums bring.

Each group of rows shares its weight frame with its own sum, so every shot brings a residual: the
light of the rows, with their signs, less that of their sum. Grey levels are rounded and darkest
levels leak, but the light of every grey level is known, so what that adds is taken away digitally,
and only noise is left. A residual beyond `THRESHOLD` of it happens by chance once in 10,000.

What rows share cancels in their sums: where all slots see one input, the sum of a job's inputs is
shown as well, and every slot compares what the inputs brought with what their sum did.
docs/explanation/checks.md has the formulas, and what escapes.
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
    from ..optics.response_curve import ResponseCurve
    from .config import ChecksTable

FALSE_ALARM = 1e-4  # of a residual in order, and of a job's inputs at one weight frame
THRESHOLD = 3.8906  # sigma of a normal distribution, exceeded on either side with that chance
ONE_SIDED = 3.7190  # the same, exceeded on one side
FOUND = 7.0  # sigma of an error that is found with 99.9 %: 3.89 + 3.09
TOLERANCE = 0.01  # of a slot's light, rms, that calibration may be off
_LEAST_SLOTS = 64  # from here on two of them cost little
_LEAST_INPUTS = 16  # and one more of these
_OVER_MEAN = 2.0  # the mean of the inputs over what is shown for it
_FEW = 8  # groups that are judged one by one
_COMMON_FROM = 8  # slots that tell a common factor of their light from wrong inputs
_SPARE_E = 1.0  # of each slot: the variance of few electrons is more than was counted too often
_SMALLEST_SKEW = 1e-5  # below it there is nothing to correct, and nothing to divide by
_ADVICE = "look for stuck pixels, light in the beam, or a detector that misreads"


def with_checks(plain: Geometry, table: ChecksTable, layout: Layout, path: str) -> Geometry:
    """Return the geometry of a bench with the checksums that its file asks for.

    Raises
    ------
    InputError : for rows that leave no room for their checksum
    """
    rows, inputs = table.rows, table.inputs
    if inputs == "auto":
        inputs = 0 if layout.name == "imaged" else _LEAST_INPUTS
    checked = Geometry(
        plain.outputs,
        plain.inputs,
        plain.vectors,
        plain.is_divisible,
        plain.parts,
        input_checks=inputs,
    )
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


class _OfFloats:
    """What numpy calls of arrays are for single numbers: for few of them it takes far less time."""

    maximum, sqrt, cbrt, copysign = max, math.sqrt, math.cbrt, math.copysign


def normal_score(deviation: Any, skewness: Any, of: Any = np) -> Any:
    """Return the normal deviate that is as unlikely as a deviation of a skewed distribution.

    Anscombe's residual of a Poisson number with that skewness g, whose mean is 1 / g^2
    (F. J. Anscombe, 1953): 1.5 / g ((1 + g t)^(2/3) - 1 + g^2 / 9).

    Parameters
    ----------
    deviation : in standard deviations, float or array
    of : where the functions of floats, or arrays, are
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
    """Judge residuals sum a e of electrons e, whose mean should be 0: floats, or arrays.

    Parameters
    ----------
    light : sums of a^2 e and of a^3 e
    dark : sums of a^2 d and of a^3 d, d the variance that no light brings, above zero
    tolerance : variance of what calibration may be off
    of : where the functions of floats, or arrays, are

    Returns
    -------
    z : of a normal distribution, while nothing is wrong
    sigma : of the residuals
    """
    raw = of.maximum(light[0] + dark[0], dark[0])
    # electrons that happen to be few make both residual and variance less: take out what they share
    apart = raw - (light[1] + dark[1]) * residual / raw
    variance = of.maximum(of.maximum(apart, dark[0]), raw / 10) + tolerance
    sigma = of.sqrt(variance)
    return normal_score(residual / sigma, light[1] / (variance * sigma), of), sigma


def chi_square_score(scores: np.ndarray, freedom: int) -> float:
    """Return the normal deviate of a sum of squares (by Wilson and Hilferty)."""
    part = 2 / (9 * freedom)
    return float(((scores @ scores / freedom) ** (1 / 3) - 1 + part) / part**0.5)


# --- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckGroup:
    """The rows of a tile with their checksums, as they follow each other in a frame.

    Parameters
    ----------
    shares : of full light, float64 [slots, length]
    rows : where the tile's own are, int [n]
    starts : of the groups, int [groups]
    factors : of each slot's share in its group's residual, float64 [slots]
    """

    shares: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, shares: np.ndarray, signs: np.ndarray, checked: int) -> CheckGroup:
        """Put a checksum behind each group of rows: what their sum has above zero, and below.

        It passes no more light than the brightest of the rows, which the detector can take.

        Parameters
        ----------
        shares : of the rows, [n, length]
        signs : with which they are summed, [n]
        checked : rows of a group; 0 for no checksums
        """
        count = len(shares)
        if not checked:
            return cls(shares, np.arange(count), np.zeros(0, int), np.zeros(count))
        parts, factors, rows, starts, place = [], [], [], [], 0
        for first, last in cuts(count, checked):
            mine, sign = shares[first:last], signs[first:last]
            total = sign @ mine
            above_below = np.maximum([total, -total], 0)
            most = max(float(mine.sum(axis=1).max()), 1e-30)
            scale = max(above_below.max(), above_below.sum(axis=1).max() / most, 1e-30)
            parts += [mine, above_below / scale]
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
    """The residuals of one weight frame, in products of two shares.

    Parameters
    ----------
    starts : of the groups, int [groups]
    powers : factors of electrons, and of their second and third moments, float64 [3, slots]
    dark : sums of second and third moments of what no light brings, float64 [2, groups]
    expected : of a dark input, float64 [groups]
    slopes : what each input's light adds to that, float64 [groups, length]
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
        """Work out what grey levels bring.

        Parameters
        ----------
        factors : of electrons, float64 [slots]
        passed : electrons of a dark input [slots], and of each input's full light [slots, length]
        dark : variance of a slot that no light brings, [slots]
        inverse : undoes the crosstalk of slots, [slots, slots]; None where there is none
        """
        # neighbours share noise where crosstalk is undone
        spread = factors if inverse is None else factors @ inverse
        powers = np.stack([factors, spread**2, spread**3])
        return cls(
            starts,
            powers,
            np.add.reduceat(powers[1:] * (dark + _SPARE_E), starts, axis=1),
            np.add.reduceat(factors * passed[0], starts),
            np.add.reduceat(factors[:, None] * passed[1], starts, axis=0),
        )

    def judge(
        self, electrons: np.ndarray, light: np.ndarray, tolerance: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return z and sigma of each group's residual, float64 [groups].

        Parameters
        ----------
        electrons : of one shot, [slots]
        light : of the inputs that each group saw, [groups, length], or [1, length] for all
        tolerance : of a slot's light, rms
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
            z[group], sigma[group] = score(r, (second, third), tuple(dark), off, _OfFloats)
        return z, sigma


# --- inputs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputSum:
    """The sum of the inputs of a job, as it is shown; one for each vector of an input frame.

    Parameters
    ----------
    frames : input frames that are summed
    scale : light of the sum over that of the frame that shows it, float64 [places]
    levels : grey levels of that frame, [places, length]: half the mean, so that the detector can
        take it, and an element that stands still is not its own mean
    light : of these, float64 [places, length]
    rounding : the sum less what that frame shows of it, float64 [places, length]
    """

    frames: int
    scale: np.ndarray
    levels: np.ndarray
    light: np.ndarray
    rounding: np.ndarray

    @classmethod
    def of(cls, inputs: Sequence[np.ndarray], frames: int, curve: ResponseCurve) -> InputSum:
        """Add up the light of inputs [vectors, length] of each place."""
        total = np.stack([light.sum(axis=0) for light in inputs])
        scale = np.array([_OVER_MEAN * max(len(light), 1) for light in inputs])
        levels = curve.levels(total / scale[:, None])
        light = curve.light[levels]
        return cls(frames, scale, levels, light, total - scale[:, None] * light)

    def rest(self, dark_e: np.ndarray, passed_e: np.ndarray, met: np.ndarray) -> np.ndarray:
        """Return electrons by which inputs and their sum differ for rounding and leaks, [slots].

        Parameters
        ----------
        dark_e : of a dark input, [slots]
        passed_e : of each input's full light, [slots, length]
        met : place whose inputs each slot sees
        """
        rounded = np.einsum("sk,sk->s", passed_e, self.rounding[met])
        return np.asarray(rounded + (self.frames - self.scale[met]) * dark_e)

    def judge(
        self,
        electrons: np.ndarray,
        rest: np.ndarray,
        met: np.ndarray,
        dark: np.ndarray,
        tolerance: float,
    ) -> tuple[float, float]:
        """Return how large the z of a weight frame is, and its threshold.

        Where there are slots enough, a common factor is taken out of their residuals: how bright a
        shot was is told by markers, not by sums. The rest are squares of normal deviates.

        Parameters
        ----------
        electrons : of lit slots, float64 [1 + frames, slots], the sum's first
        rest, met, dark : of these slots
        """
        scale, own, others = self.scale[met], electrons[0], electrons[1:]
        total, dark = others.sum(axis=0), dark + _SPARE_E
        scores, sigma = score(
            total - scale * own - rest,
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


# --- what was found ------------------------------------------------------------------------------


@dataclass
class ChecksumStats:
    """What checksums of one matmul found.

    Parameters
    ----------
    checks : residuals that were judged, and weight frames whose inputs were
    suspicious : of these, beyond the threshold; each of them repeats its shots
    largest : |z| of those within it
    products : that were counted
    errors : smallest errors of an output that are found with 99.9 %, the median of each product,
        added up
    """

    checks: int = 0
    suspicious: int = 0
    largest: float = 0.0
    products: int = 0
    errors: float = 0.0

    @property
    def smallest_error(self) -> float | None:
        """The smallest error of an output that is found with 99.9 %; None without row sums."""
        return self.errors / self.products if self.products else None

    def judge(self, scores: Sequence[float] | np.ndarray, threshold: float) -> float:
        """Count scores; give the largest of their sizes."""
        sizes = np.abs(scores)
        largest = float(sizes.max())
        self.checks += len(sizes)
        if largest > threshold:
            self.suspicious += int((sizes > threshold).sum())
        else:
            self.largest = max(self.largest, largest)
        return largest

    def add(self, other: ChecksumStats) -> None:
        """Add those of another product of the same matmul."""
        self.products += other.products
        self.checks += other.checks
        self.suspicious += other.suspicious
        self.largest = max(self.largest, other.largest)
        self.errors += other.errors


class ChecksumMonitor:
    """Judges the shots of one product, and counts.

    Parameters
    ----------
    dark : variance of each slot that no light brings, [slots]
    tolerance : of a slot's light, rms, that calibration may be off

    Attributes
    ----------
    passed : (job, weight frame) whose inputs are in order
    """

    def __init__(self, dark: np.ndarray, tolerance: float) -> None:
        self._dark, self._tolerance = dark, tolerance
        self._tally = ChecksumStats()
        self._errors: list[np.ndarray] = []
        self._waiting: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        self.passed: set[tuple[int, int]] = set()

    @property
    def tally(self) -> ChecksumStats:
        """What was found so far."""
        found = replace(self._tally)
        if self._errors:
            found.products, found.errors = 1, float(np.median(np.concatenate(self._errors)))
        return found

    def rows(
        self,
        shot: str,
        sums: RowSums,
        electrons: np.ndarray,
        light: np.ndarray,
        scales: np.ndarray | None,
    ) -> float:
        """Judge the rows of a shot; give the largest |z|.

        Parameters
        ----------
        light : of the inputs that each group met, [groups, length], or [1, length] for all
        scales : of an output in a product of two shares, [groups], 0 where a group met no inputs;
            None for a sum of inputs

        Raises
        ------
        WrongSum : beyond what noise does
        """
        z, sigma = sums.judge(electrons, light, self._tolerance)
        if scales is not None:
            errors = FOUND * sigma * scales
            if not scales.all():
                z, errors = z[scales > 0], errors[scales > 0]
            self._errors.append(errors)
        largest = self._tally.judge(z, THRESHOLD)
        if largest > THRESHOLD:
            raise ChecksumMismatch(
                f"shot {shot}: the sum of the rows is {largest:.1f} sigma off what their checksum "
                f"says ({THRESHOLD:.1f} happen by chance once in {1 / FALSE_ALARM:,.0f}): "
                f"{_ADVICE}"
            )
        return largest

    def taken(
        self, job: int, tile: int, vector: int, electrons: np.ndarray, count: int
    ) -> np.ndarray | None:
        """Note what a shot brought; give the electrons of its weight frame once all have come."""
        waiting = self._waiting.setdefault((job, tile), {})
        waiting[vector] = electrons
        if len(waiting) < count:
            return None
        del self._waiting[job, tile]
        return np.stack([waiting[vector] for vector in range(count)])

    def inputs(
        self,
        name: str,
        inputs: InputSum,
        electrons: np.ndarray,
        slots: np.ndarray,
        met: np.ndarray,
        rest: np.ndarray,
    ) -> float:
        """Judge the inputs that met a weight frame; give how large z is.

        Raises
        ------
        WrongSum : beyond what noise does; which of the inputs is wrong is not known
        """
        z, threshold = inputs.judge(
            electrons[:, slots], rest, met, self._dark[slots], self._tolerance
        )
        if self._tally.judge([z], threshold) > threshold:
            raise ChecksumMismatch(
                f"weight frame {name}: what {inputs.frames} inputs brought is {z:.1f} sigma off "
                f"what their sum did ({threshold:.1f} happen by chance once in "
                f"{1 / FALSE_ALARM:,.0f}): {_ADVICE}",
                scope="tile",
            )
        return z
