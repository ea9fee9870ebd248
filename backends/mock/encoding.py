"""Encoding of signed numbers as light: the shown integers and the algebra that decodes them.

In every encoding a modulator passes t = t0 + t1 n for an integer n, so that every sum of light
consists of an exact integer product and a few row and column sums. The formulas are those of
docs/explanation/light.md; the names follow them: X, W are the integers, `unit` is t1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...instruments import InputError
from ..base import Ranges
from ..profile import OpticsProfile
from ..tiling import Geometry, cuts
from . import LOOPS, compiled_loops
from .integer_products import TWO_PLANES, IntegerRows, Operand
from .noise import device_gaussian

LARGEST = 1e30  # of products: leaves room in float32 for the noise of the dimmest light
FINE = 2**21  # levels of values that are not quantised: finer than the rounding of float32
_SMALL = 1 << 16  # weights of a matrix whose float64 products are fast enough
_SINES = 6  # sine waves in the error of a response curve


@dataclass(slots=True)
class EncodedRows:
    """Input rows as integers; `input_steps` gives their light.

    Parameters
    ----------
    rows : integers [n, K]
    sums : float64 [n, 2], of X and of |X|
    scale : float64 [n]
    low, total : float64 [n], of the offset encoding only: x = scale t(u) + low, and the sums of the
        intended x (see `EncodedWeights`)
    """

    rows: IntegerRows
    sums: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    total: np.ndarray

    @property
    def has_negative(self) -> np.ndarray:
        """Which rows have negative values: bool [n]."""
        return np.asarray(self.sums[:, 0] != self.sums[:, 1])

    def sums_of(self, variant: str) -> np.ndarray:
        """Return the sums of a variant of the integers (see `IntegerRows.variant`): float64 [n]."""
        return _of_variant(self.sums, variant)

    def sums_with(self, columns: np.ndarray, variant: str) -> np.ndarray:
        """Sum a variant of the integers times int64 columns [K]: float64 [n]."""
        integers = self.rows.integers
        if integers.dtype == np.int16:
            sums = np.empty((len(integers), 2), dtype=np.int64)
            compiled_loops().sums_with(integers, columns, sums)
            return _of_variant(sums.astype(np.float64), variant)
        return np.asarray(self.rows.variant(variant) @ columns.astype(np.float64))


def _of_variant(sums: np.ndarray, variant: str) -> np.ndarray:
    """Return the sums of a variant of integers from those of X and of |X|, [n, 2]."""
    signed, magnitude = sums[:, 0], sums[:, 1]
    if variant == "signed":
        return signed
    if variant == "magnitude":
        return magnitude
    return np.asarray((magnitude + signed if variant == "plus" else magnitude - signed) / 2)


@dataclass(frozen=True)
class Rail:
    """The transmission of weights to one detector: t(w) = constant + unit W, [m, M, K].

    Parameters
    ----------
    operand : W; None if the light does not depend on the weights
    length : K
    """

    operand: Operand | None
    unit: float
    constant: float
    length: int

    def sums(self, matrix: int) -> np.ndarray | float:
        """Sum t(w) over K: float64 [M]."""
        constant = self.length * self.constant
        return (
            constant if self.operand is None else self.unit * self.operand.sums[matrix] + constant
        )


@dataclass(frozen=True)
class EncodedWeights:
    """One segment of weight matrices [m, M, K] as integers.

    Parameters
    ----------
    first, last : the columns of the matrix that this segment holds
    rails : balanced detection: the difference of both rails, and their sum, which lights both
        detectors; otherwise the rails, each with its own detector
    scale, low : float64 [m, M]; w of the offset encoding is scale t(v) + low
    total : float64 [m, M], row sums of the intended w (the offset encoding adds them digitally,
        without the modulator's errors)
    saturated : number of values that exceeded their calibrated scale
    leak : of the modulator
    filling : mean intensity of inputs that `bound` assumes
    """

    first: int
    last: int
    rails: tuple[Rail, ...]
    scale: np.ndarray
    low: np.ndarray
    total: np.ndarray
    saturated: int
    leak: float
    filling: float

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, M, K)."""
        return (*self.scale.shape, self.last - self.first)

    @cached_property
    def bound(self) -> np.ndarray:
        """A read-out range [m, M] from the weights, used without a calibrated one.

        Independent inputs of magnitude at most 1 about a mean of `filling` stay within
        filling |w|_1 + 4 |w|_2 with a probability of at least 1 - 7e-4 (Hoeffding, random signs);
        none exceeds |w|_1. Values beyond the range saturate and are counted.
        """
        rails = []
        for rail in self.rails if self.filling else self.rails[:1]:
            assert rail.operand is not None
            planes = [rail.operand.plane(i).astype(np.float32) for i in range(rail.operand.count)]
            number = planes[0] if len(planes) == 1 else 256 * planes[0] + planes[1]
            rails.append(number * np.float32(rail.unit) + np.float32(rail.constant))
        return _bound(rails, self.filling, self.leak)


def _bound(rails: Sequence[np.ndarray], filling: float, leak: float) -> np.ndarray:
    bounds = []
    for passed in rails:
        total = np.abs(passed).sum(axis=-1, dtype=np.float64)
        norm = np.sqrt(np.einsum("...k,...k->...", passed, passed)).astype(np.float64)
        bounds.append(np.minimum(total, filling * total + 4 * norm))
    return np.asarray(np.max(bounds, axis=0) / (1 - leak) ** (2 if filling else 1))


def weight_bound(integers: np.ndarray, profile: OpticsProfile) -> np.ndarray:
    """Return `EncodedWeights.bound` [m, M] of integers int8 [m, M, K] with equal level steps."""
    numbers, constants = integers.astype(np.float32), rail_constants(profile)
    sides = [numbers, numbers]
    if profile.encoding == "abs-split" and profile.detection == "per-reading":
        sides = [np.maximum(numbers, 0), np.maximum(-numbers, 0)]
    filling = mean_filling(profile)
    rails = [
        side * np.float32(unit) + np.float32(constant)
        for side, (unit, constant) in zip(sides, constants, strict=False)
    ]
    return _bound(rails if filling else rails[:1], filling, modulator_leak(profile))


def mean_filling(profile: OpticsProfile) -> float:
    """Return the mean intensity of inputs that a bound assumes."""
    if profile.encoding == "offset":
        return 0.5
    return 0.0 if profile.detection == "balanced" else 0.25


def input_steps(profile: OpticsProfile, fine: bool) -> tuple[float, float]:
    """Return unit and leak of the input modulator's integers: t = leak + unit X.

    X stands for max(+-X, 0) of signed encodings, t for the transmission of x+ or x-.

    Parameters
    ----------
    fine : whether a curved level takes `FINE` integers instead of two planes of 8 bits
    """
    leak, offset = modulator_leak(profile), profile.encoding == "offset"
    levels = (offset_levels if offset else signed_levels)(profile.input_bits)
    if _curve(profile, "input") is not None:
        return 1 / _curved_magnitude(levels, fine), 0.0 if offset else leak
    unit = (1 - leak) / levels
    return unit, leak + unit * ((levels + 1) // 2) if offset else leak


def encode_rows(
    x: np.ndarray, first: int, last: int, profile: OpticsProfile, fine: bool, largest: float
) -> EncodedRows:
    """Scale columns `first` to `last` of rows x [n, ...] to the modulator, and round to levels.

    Parameters
    ----------
    fine : as for `input_steps`
    largest : greatest magnitude that rows may have

    Raises
    ------
    InputError : when a row is larger, or not finite
    """
    curve = _curve(profile, "input")
    if profile.encoding == "offset":
        return _encode_offset_rows(x, first, last, profile, curve, fine, largest)
    integers, scale, sums = _signed_rows(x, first, last, profile, largest)
    levels = magnitude = signed_levels(profile.input_bits)
    if curve is not None:
        leak, magnitude = modulator_leak(profile), _curved_magnitude(levels, fine)
        integers = _through(
            lambda intensity: curve(intensity) - leak, integers, 0, levels, magnitude
        )
        sums = _sums(integers, magnitude)
    return EncodedRows(IntegerRows(integers, magnitude), sums, scale, scale, scale)


def _encode_offset_rows(
    x: np.ndarray,
    first: int,
    last: int,
    profile: OpticsProfile,
    curve: Callable[[np.ndarray], np.ndarray] | None,
    fine: bool,
    largest: float,
) -> EncodedRows:
    leak, length = modulator_leak(profile), last - first
    integers, edges, sums = _offset_rows(x, first, last, profile, largest)
    levels = offset_levels(profile.input_bits)
    magnitude = centre = (levels + 1) // 2
    unit = (1 - leak) / levels
    passed = length * (leak + unit * centre) + unit * sums[:, 0]
    if curve is not None:
        magnitude = _curved_magnitude(levels, fine)
        if _clamps(profile):  # the clamp is part of quantisation, and the host knows it
            clamped = _through(
                lambda intensity: _passed(intensity, profile), integers, centre, levels, magnitude
            )
            passed = _sums(clamped, magnitude)[:, 0] / magnitude
        integers = _through(curve, integers, centre, levels, magnitude)
        sums = _sums(integers, magnitude)
    lowest, highest = edges.T.astype(np.float64)
    scale = (highest - lowest) / (1 - leak)
    low = lowest - leak * scale
    return EncodedRows(
        IntegerRows(integers, magnitude), sums, scale, low, scale * passed + length * low
    )


def _curved_magnitude(levels: int, fine: bool) -> int:
    return FINE if fine or levels > TWO_PLANES else TWO_PLANES


def encode_weights(
    weights: np.ndarray, profile: OpticsProfile, ranges: Ranges | None, dynamic: bool
) -> list[EncodedWeights]:
    """Divide weight matrices [m, M, K] into segments, and round each to the modulator's levels.

    Parameters
    ----------
    dynamic : whether they are operands that grow with the tokens, such as keys
    ranges : holds the scale of dynamic operands; static weights are scaled by their maximum
    """
    edges = weight_edges(weights, profile, ranges)
    encode = _encode_offset if profile.encoding == "offset" else _encode_signed
    eight_bits = profile.weight_bits is not None and profile.weight_bits <= 8
    fine = not eight_bits or (not dynamic and weights[0].size <= _SMALL)
    return [
        encode(weights[..., first:last], first, profile, edges, fine)
        for first, last in cuts(weights.shape[-1], Geometry.of(profile).inputs)
    ]


def weight_edges(
    weights: np.ndarray, profile: OpticsProfile, ranges: Ranges | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return least and largest weight that can be shown, float64 [m, M, 1]; None: their own."""
    if ranges is not None and ranges.weight is not None:
        heads = ranges.weight.max(axis=-1, keepdims=True)
        heads = heads.reshape(-1, *heads.shape[-2:])
        largest = np.tile(heads, (len(weights) // len(heads), 1, 1)).astype(np.float64)
        largest = np.broadcast_to(largest, (*weights.shape[:2], 1))
        return -largest, largest
    return _edges_of_matrices(weights, profile) if profile.weight_scale == "matrix" else None


def _edges_of_matrices(
    weights: np.ndarray, profile: OpticsProfile
) -> tuple[np.ndarray, np.ndarray]:
    """Return least and largest weight of each whole matrix [m, M, 1]; symmetric if signed."""
    lowest, highest = (
        np.broadcast_to(edge(axis=(-2, -1), keepdims=True), (*weights.shape[:2], 1))
        for edge in (weights.min, weights.max)
    )
    if profile.encoding == "offset":
        return lowest.astype(np.float64), highest.astype(np.float64)
    largest = np.maximum(highest, -lowest).astype(np.float64)
    return -largest, largest


def has_levels(profile: OpticsProfile) -> bool:
    """Return whether both modulators have equal level steps of at most 8 bits."""
    bits = profile.input_bits, profile.weight_bits
    eight = all(number is not None and number <= 8 for number in bits)
    return eight and not _is_irregular(profile)


def signed_levels(bits: int | None) -> int:
    """Return the levels on each side of zero of a signed number; None is (almost) exact."""
    return FINE if bits is None else min(max(2 ** (bits - 1) - 1, 1), FINE)


def offset_levels(bits: int | None) -> int:
    """Return the steps from the least to the largest number of the offset encoding."""
    return FINE if bits is None else min(2**bits - 1, FINE)


# --- rows ----------------------------------------------------------------------------------------


def _signed_rows(
    x: np.ndarray, first: int, last: int, profile: OpticsProfile, largest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return integers [n, K], scale float64 [n] and sums."""
    levels = signed_levels(profile.input_bits)
    if LOOPS.is_used and levels <= TWO_PLANES:
        integers = np.empty((len(x), last - first), dtype=np.int16)
        scale, sums = np.empty(len(x)), np.empty((len(x), 2))
        length = last - first
        compiled_loops().encode_signed(x, first, length, float(levels), integers, scale, sums)
        _check_size(scale, largest)
        return integers, scale, sums
    x = x[:, first:last]
    scale = np.maximum(x.max(axis=-1), -x.min(axis=-1)).astype(np.float64)
    _check_size(scale, largest)
    numbers = _rounded(x, scale[:, None], levels)
    return numbers, scale, _sums(numbers, levels)


def _offset_rows(
    x: np.ndarray, first: int, last: int, profile: OpticsProfile, largest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centred integers [n, K], least and largest number [n, 2], and sums."""
    levels = offset_levels(profile.input_bits)
    centre = (levels + 1) // 2
    if LOOPS.is_used and levels <= TWO_PLANES:
        integers = np.empty((len(x), last - first), dtype=np.int16)
        edges, sums = np.empty((len(x), 2)), np.empty((len(x), 2))
        arguments = (x, first, last - first, float(levels), centre, integers, edges, sums)
        compiled_loops().encode_offset(*arguments)
        _check_size(edges, largest)
        return integers, edges, sums
    x = x[:, first:last]
    edges = np.stack([x.min(axis=-1), x.max(axis=-1)], axis=1)
    _check_size(edges, largest)
    span = edges[:, 1:].astype(np.float64) - edges[:, :1]
    numbers = _rounded(x - edges[:, :1], span, levels)
    numbers = np.clip(numbers, 0, levels, out=numbers) - centre
    return numbers, edges, _sums(numbers, levels)


def _check_size(edges: np.ndarray, largest: float) -> None:
    """Refuse rows that are too large or not finite (the backend then names the place)."""
    if not (np.abs(edges) <= largest).all():
        raise InputError(
            f"x reaches {np.abs(edges).max():.3g}, too much for float32 times these weights: "
            f"scale it to {largest:.3g} at most"
        )


def _sums(integers: np.ndarray, magnitude: int) -> np.ndarray:
    """Return the sums of X and of |X|, exact: float64 [n, 2]."""
    kind = np.float32 if magnitude * integers.shape[1] < 1 << 24 else np.float64
    sums = np.empty((len(integers), 2))
    sums[:, 0] = integers.sum(axis=-1, dtype=kind)
    sums[:, 1] = np.abs(integers).sum(axis=-1, dtype=kind)
    return sums


def _through(
    curve: Callable[[np.ndarray], np.ndarray],
    integers: np.ndarray,
    centre: int,
    levels: int,
    magnitude: int,
) -> np.ndarray:
    """Return round(magnitude curve(level / levels)) with the sign of the level."""
    if integers.dtype == np.int16:
        kind = np.int16 if magnitude <= TWO_PLANES else np.float32
        table = np.rint(curve(np.arange(levels + 1) / levels) * magnitude).astype(kind)
        shown = table[np.abs(integers + np.int16(centre))]
        return np.where(integers + np.int16(centre) < 0, -shown, shown)
    number = integers.astype(np.float64) + centre
    passed = np.rint(curve(np.abs(number) / levels) * magnitude)
    return np.copysign(passed, number).astype(integers.dtype)


# --- weights -------------------------------------------------------------------------------------


def _encode_signed(
    w: np.ndarray,
    first: int,
    profile: OpticsProfile,
    edges: tuple[np.ndarray, np.ndarray] | None,
    fine: bool,
) -> EncodedWeights:
    leak, levels, length = modulator_leak(profile), signed_levels(profile.weight_bits), w.shape[-1]
    scale = np.abs(w).max(axis=-1, keepdims=True).astype(np.float64) if edges is None else edges[1]
    numbers, saturated = _weight_levels(w, scale, -levels, levels, profile)
    magnitude = max(levels, int(np.abs(numbers).max(initial=0)))
    rails: tuple[Rail, ...]
    if _is_irregular(profile):
        rails = _irregular_rails(_rails(numbers / levels, profile), profile, fine)
    else:
        rails = even_rails(numbers, magnitude, profile)
    zeros = np.zeros(w.shape[:2])
    scales = scale[..., 0], zeros, zeros
    return EncodedWeights(
        first, first + length, rails, *scales, saturated, leak, mean_filling(profile)
    )


def even_rails(numbers: np.ndarray, magnitude: int, profile: OpticsProfile) -> tuple[Rail, ...]:
    """Return the rails of integers [m, M, K] of a modulator with equal level steps.

    Parameters
    ----------
    magnitude : bound of the integers
    """
    one: Operand
    other: Operand | None
    one = other = Operand(numbers, magnitude)
    if profile.encoding == "abs-split":
        if profile.detection == "balanced":
            other = Operand(np.abs(numbers), magnitude, one)
        else:
            one, other = (Operand(np.maximum(side, 0), magnitude) for side in (numbers, -numbers))
    elif profile.encoding == "push-pull" and profile.detection == "balanced":
        other = None
    constants = zip((one, other), rail_constants(profile), strict=False)
    return tuple(Rail(operand, *values, numbers.shape[-1]) for operand, values in constants)


def rail_constants(profile: OpticsProfile) -> tuple[tuple[float, float], ...]:
    """Return unit and constant of each `Rail` of a modulator with equal level steps."""
    leak = modulator_leak(profile)
    if profile.encoding == "offset":
        levels = offset_levels(profile.weight_bits)
        unit = (1 - leak) / levels
        return ((unit, leak + unit * ((levels + 1) // 2)),)
    unit, split = (1 - leak) / signed_levels(profile.weight_bits), profile.encoding == "abs-split"
    if profile.detection == "balanced":  # (1 + w) / 2 + (1 - w) / 2 = 1
        return (unit, 0.0), (unit, 2 * leak) if split else (0.0, 1 + leak)
    if split:
        return (unit, leak), (unit, leak)
    return (unit / 2, (1 + leak) / 2), (-unit / 2, (1 + leak) / 2)


def _encode_offset(
    w: np.ndarray,
    first: int,
    profile: OpticsProfile,
    edges: tuple[np.ndarray, np.ndarray] | None,
    fine: bool,
) -> EncodedWeights:
    leak, levels, length = modulator_leak(profile), offset_levels(profile.weight_bits), w.shape[-1]
    lowest, highest = (edge(axis=-1, keepdims=True) for edge in (w.min, w.max))
    if edges is not None:
        lowest, highest = (edge.astype(w.dtype) for edge in edges)
    span = highest.astype(np.float64) - lowest
    numbers, saturated = _weight_levels(w - lowest, span, 0, levels, profile)
    if _clamps(profile):  # the clamp is part of quantisation, and the host knows it
        numbers = _passed(numbers.astype(np.float64) / levels, profile) * levels
    scale = span / (1 - leak)
    low = lowest - leak * scale
    passed_sums = length * leak + (1 - leak) / levels * numbers.sum(
        axis=-1, dtype=np.float64, keepdims=True
    )
    total = scale * passed_sums + length * low
    if _is_irregular(profile):
        passed = _curved(numbers.astype(np.float64) / levels, profile, "weight")
        rails = _irregular_rails(passed[None], profile, fine)
    else:
        centre = (levels + 1) // 2
        numbers -= centre
        magnitude = max(centre, int(np.abs(numbers).max(initial=0)))
        rails = even_rails(numbers, magnitude, profile)
    scales = scale[..., 0], low[..., 0], total[..., 0]
    return EncodedWeights(
        first, first + length, rails, *scales, saturated, leak, mean_filling(profile)
    )


def _weight_levels(
    values: np.ndarray, span: np.ndarray, least: int, levels: int, profile: OpticsProfile
) -> tuple[np.ndarray, int]:
    """Return the levels of weights, from `least` to `levels`, and how many values saturated."""
    numbers = _rounded(values, span, levels)
    if profile.weight_bits is None:  # ideal modulators do not saturate
        return numbers, 0
    saturated = int(np.count_nonzero((numbers < least) | (numbers > levels)))
    return np.clip(numbers, least, levels, out=numbers), saturated


def _rounded(values: np.ndarray, span: np.ndarray, levels: int) -> np.ndarray:
    """Return round(values levels / span), zero where the span is zero: float32 [..., K]."""
    steps = np.divide(levels, span, out=np.zeros_like(span, dtype=np.float64), where=span > 0)
    integers = values * np.minimum(steps, 3e38).astype(np.float32)
    return np.rint(integers, out=integers)


# --- transmission of modulators -------------------------------------------------------------------


def modulator_leak(profile: OpticsProfile) -> float:
    """Return f of t(a) = f + (1 - f) a; 0 for a clamp, which keeps zero dark."""
    if profile.extinction_ratio is None or profile.extinction_model == "clamp":
        return 0.0
    return 1 / profile.extinction_ratio


def _clamps(profile: OpticsProfile) -> bool:
    return profile.extinction_model == "clamp" and profile.extinction_ratio is not None


def _is_irregular(profile: OpticsProfile) -> bool:
    """Return whether the transmission of weights is not a multiple of a level."""
    return bool(profile.gain_rms or profile.crosstalk or profile.lut_rms) or _clamps(profile)


def _passed(intensity: np.ndarray, profile: OpticsProfile) -> np.ndarray:
    """Return t(a) without errors of the response curve."""
    if _clamps(profile):
        assert profile.extinction_ratio is not None
        return np.where(intensity == 0, 0.0, np.maximum(intensity, 1 / profile.extinction_ratio))
    leak = modulator_leak(profile)
    return leak + (1 - leak) * intensity


def _curved(intensity: np.ndarray, profile: OpticsProfile, modulator: str) -> np.ndarray:
    """Return t(a + lut_rms e(a)): e is a sum of sines of the device, zero at a = 0 and a = 1.

    The look-up table of a modulator was measured with an error; it is smooth, since neighbouring
    grey levels share their cause. e has a mean square of one over a in [0, 1].
    """
    if not profile.lut_rms:
        return _passed(intensity, profile)
    amplitudes = device_gaussian(profile.device_seed, f"{modulator} curve", (_SINES,))
    amplitudes *= profile.lut_rms * np.sqrt(2 / (amplitudes**2).sum())
    error = sum(c * np.sin(np.pi * (j + 1) * intensity) for j, c in enumerate(amplitudes))
    return _passed(np.where(intensity == 0, 0.0, np.clip(intensity + error, 0, 1)), profile)


def _curve(profile: OpticsProfile, modulator: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the response curve of a modulator; None if its level steps are equal."""
    if not profile.lut_rms and not _clamps(profile):
        return None
    return lambda intensity: _curved(intensity, profile, modulator)


def _rails(w: np.ndarray, profile: OpticsProfile) -> np.ndarray:
    """Return the transmissions of both rails [2, m, M, K] of signed weights in [-1, 1]."""
    w = w.astype(np.float64)
    if profile.encoding == "push-pull":
        intensity = np.stack([(1 + w) / 2, (1 - w) / 2])
    else:
        intensity = np.stack([np.maximum(w, 0), np.maximum(-w, 0)])
    return _curved(intensity, profile, "weight")


def _imperfect(rails: np.ndarray, profile: OpticsProfile) -> np.ndarray:
    """Apply the device's gains and its crosstalk between neighbouring rows of one frame.

    The rails of an output are neighbours. `crosstalk` is the fraction of a row's light that falls
    on its two neighbours, half on each; at the edge of a frame it is lost.
    """
    if not profile.gain_rms and not profile.crosstalk:
        return rails
    count, matrices, outputs, length = rails.shape
    frame = Geometry.of(profile).outputs or outputs
    rows = rails.transpose(1, 2, 0, 3).reshape(matrices, outputs * count, length).copy()
    per_frame = min(frame, outputs) * count
    if profile.gain_rms:
        # the pattern belongs to the modulator: it is equal in every frame and segment
        drawn = [
            device_gaussian(profile.device_seed, f"gain row {row}", (length,))
            for row in range(per_frame)
        ]
        pattern = np.resize(drawn, rows.shape[1:])
        rows *= np.maximum(1 + profile.gain_rms * pattern, 0)
    if profile.crosstalk:
        for start in range(0, rows.shape[1], per_frame):
            part = rows[:, start : start + per_frame]
            mixed = (1 - profile.crosstalk) * part
            mixed[:, 1:] += profile.crosstalk / 2 * part[:, :-1]
            mixed[:, :-1] += profile.crosstalk / 2 * part[:, 1:]
            rows[:, start : start + per_frame] = mixed
    return rows.reshape(matrices, outputs, count, length).transpose(2, 0, 1, 3)


def _irregular_rails(rails: np.ndarray, profile: OpticsProfile, fine: bool) -> tuple[Rail, ...]:
    """Return imperfect rails [rails, m, M, K] as integers, much finer than the modulator's levels.

    Two planes of 8 bits resolve 1/32,512 of the largest transmission, 256 steps within each level
    of an 8-bit modulator. Finer modulators take `FINE` integers, and so do small matrices, whose
    time does not matter.
    """
    levels = FINE if fine else TWO_PLANES
    rails = _imperfect(rails, profile)
    largest = 1 + 8 * (profile.gain_rms or 0.0)  # not taken from the weights: rows are independent
    length = rails.shape[-1]

    def rail(passed: np.ndarray, most: float) -> Rail:
        integers = np.rint(np.clip(passed / most, -1, 1) * levels)
        return Rail(Operand(integers, levels), most / levels, 0.0, length)

    if profile.encoding == "offset" or profile.detection == "per-reading":
        return tuple(rail(passed, largest) for passed in rails)
    return rail(rails[0] - rails[1], largest), rail(rails[0] + rails[1], 2 * largest)
