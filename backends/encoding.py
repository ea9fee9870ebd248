"""How signed numbers become light: the integers that are shown and the algebra to undo it.

Whatever the encoding, a modulator passes t = t0 + t1 n for an integer n, so that every sum of light
is an exact integer product and a few row and column sums. The formulas are those of
docs/explanation/light.md; the names follow them: X, W are the integers, `unit` is t1.
"""

from dataclasses import dataclass

import numpy as np

from .base import Ranges
from .noise import device_gaussian
from .profile import OpticsProfile
from .tiling import Geometry, cuts

FINE = 2**21  # levels of what is not quantised, or no integer: finer than float32's own rounding


@dataclass(frozen=True)
class EncodedRows:
    """Input rows as integers; t(x+) - t(x-) = unit X, and t(x+) + t(x-) = leak + unit |X|.

    For the offset encoding t(u) = leak + unit X, and x = scale t(u) + low.

    Parameters
    ----------
    integers : float32 or float64 [m, n, K], holding integers of at most `magnitude`
    scale, low : float64 [m, n, 1]
    """

    integers: np.ndarray
    magnitude: int
    unit: float
    leak: float
    scale: np.ndarray
    low: np.ndarray


@dataclass(frozen=True)
class EncodedWeights:
    """One segment of a weight matrix as integers.

    Signed encodings: t(w+) - t(w-) = unit W, and t(w+) + t(w-) = leak + light_unit A, where A is
    |W| unless it is given. Offset: t(v) = leak + unit W, and w = scale t(v) + low.

    Parameters
    ----------
    first, last : the columns of the matrix that this segment holds
    integers : int8, int16 or int32 [m, M, K], of at most `magnitude`
    light : A as integers [m, M, K] when it is not |W|
    scale, low : float64 [m, 1, M]
    sums, light_sums : float64 [m, 1, M], row sums of W and of A
    total : float64 [m, 1, M], row sums of w as it was to be shown (the offset encoding puts them
        back digitally, not knowing what the modulator did to them)
    bound : float64 [m, 1, M], a range until calibration gives one (see `_uncalibrated_range`)
    saturated : how many values exceeded the scale that calibration gave them
    """

    first: int
    last: int
    integers: np.ndarray
    light: np.ndarray | None
    magnitude: int
    unit: float
    leak: float
    light_unit: float
    scale: np.ndarray
    low: np.ndarray
    sums: np.ndarray
    light_sums: np.ndarray
    total: np.ndarray
    bound: np.ndarray
    saturated: int


def encode_rows(x: np.ndarray, profile: OpticsProfile) -> EncodedRows:
    """Scale rows x [m, n, K] of one segment to the modulator's range and round to its levels."""
    leak = _leak(profile)
    if profile.encoding == "offset":
        lowest, highest = (edge(axis=-1, keepdims=True) for edge in (x.min, x.max))
        integers, magnitude, unit, constant, _ = _offset_integers(
            x, lowest, highest, profile.input_bits, profile
        )
        if profile.input_bits is None:
            magnitude = FINE  # a bound that does not depend on the batch
        scale = _span(lowest, highest) / (1 - leak)
        return EncodedRows(integers, magnitude, unit, constant, scale, lowest - leak * scale)
    scale = np.maximum(x.max(axis=-1, keepdims=True), -x.min(axis=-1, keepdims=True))
    scale = scale.astype(np.float64)
    levels = signed_levels(profile.input_bits)
    integers, _ = _signed_integers(x, scale, profile.input_bits)
    if _clamps(profile):
        passed = _clamped(np.abs(integers) / levels, profile)
        integers = np.rint(np.copysign(passed * FINE, integers))
        return EncodedRows(integers, FINE, 1 / FINE, 0.0, scale, np.zeros_like(scale))
    return EncodedRows(integers, levels, (1 - leak) / levels, 2 * leak, scale, np.zeros_like(scale))


def encode_weights(
    weights: np.ndarray, profile: OpticsProfile, ranges: Ranges | None
) -> list[EncodedWeights]:
    """Cut weight matrices [m, M, K] into segments and bring each to the modulator's levels.

    Parameters
    ----------
    ranges : gives the scale of dynamic operands; static weights take theirs from themselves
    """
    largest = None
    if ranges is not None and ranges.weight is not None:
        heads = ranges.weight.max(axis=-1, keepdims=True)
        heads = heads.reshape(-1, *heads.shape[-2:])
        largest = np.tile(heads, (len(weights) // len(heads), 1, 1)).astype(np.float64)
        largest = np.broadcast_to(largest, (*weights.shape[:2], 1))
    geometry = Geometry.of(profile)
    encode = _encode_offset if profile.encoding == "offset" else _encode_signed
    return [
        encode(weights[..., first:last], first, profile, geometry, largest)
        for first, last in cuts(weights.shape[-1], geometry.inputs)
    ]


def signed_levels(bits: int | None) -> int:
    """Give the levels on each side of zero of a signed number of `bits`; None is (almost) exact."""
    return FINE if bits is None else min(max(2 ** (bits - 1) - 1, 1), FINE)


def _encode_signed(
    w: np.ndarray,
    first: int,
    profile: OpticsProfile,
    geometry: Geometry,
    largest: np.ndarray | None,
) -> EncodedWeights:
    leak, levels = _leak(profile), signed_levels(profile.weight_bits)
    scale = np.abs(w).max(axis=-1, keepdims=True).astype(np.float64) if largest is None else largest
    numbers, saturated = _signed_integers(w, scale, profile.weight_bits)
    unit, magnitude = (1 - leak) / levels, max(levels, int(np.abs(numbers).max(initial=0)))
    light, light_leak, light_unit = None, 2 * leak, unit
    if profile.encoding == "push-pull":  # (1 + w) / 2 + (1 - w) / 2 = 1, whatever w is
        light_leak, light_unit = 1 + leak, 0.0
    if _irregular(profile) or _clamps(profile):
        rails = _rails(numbers / levels, profile, leak)
        rails = _imperfect_rails(rails, profile, geometry)
        numbers, numbers_light = np.rint([(rails[0] - rails[1]) * FINE, rails.sum(axis=0) * FINE])
        light = numbers_light.astype(np.int32)
        unit = light_unit = 1 / FINE
        magnitude, light_leak = int(light.max(initial=1)), 0.0
    integers = _compact(numbers, magnitude)
    light_sums = _row_sums(np.abs(integers) if light is None else light)
    signed = integers.astype(np.float32) * np.float32(unit)
    if profile.detection == "balanced":
        bound = _uncalibrated_range(signed, 0.0) / (1 - leak)
    else:
        shown = np.abs(signed) if light is None else light.astype(np.float32) * np.float32(unit)
        shown = shown * np.float32(light_unit / unit) + np.float32(light_leak)
        each = [_uncalibrated_range((shown + sign * signed) / 2, 0.25) for sign in (1, -1)]
        bound = np.maximum(*each)
        bound /= (1 - leak) ** 2
    return EncodedWeights(
        first,
        first + w.shape[-1],
        integers,
        light,
        magnitude,
        unit,
        light_leak,
        light_unit,
        _turned(scale),
        np.zeros_like(_turned(scale)),
        _row_sums(integers),
        light_sums,
        np.zeros_like(light_sums),
        _turned(bound),
        saturated,
    )


def _encode_offset(
    w: np.ndarray,
    first: int,
    profile: OpticsProfile,
    geometry: Geometry,
    largest: np.ndarray | None,
) -> EncodedWeights:
    leak = _leak(profile)
    lowest, highest = (edge(axis=-1, keepdims=True) for edge in (w.min, w.max))
    if largest is not None:
        lowest, highest = (-largest).astype(w.dtype), largest.astype(w.dtype)
    numbers, magnitude, unit, constant, saturated = _offset_integers(
        w, lowest, highest, profile.weight_bits, profile
    )
    scale = _span(lowest, highest) / (1 - leak)
    low, length = _turned(lowest - leak * scale), w.shape[-1]
    total = _turned(scale) * (unit * _row_sums(numbers) + length * constant) + length * low
    if _irregular(profile):
        rail = _imperfect_rails((constant + unit * numbers)[None], profile, geometry)[0]
        numbers, unit, constant = np.rint(rail * FINE), 1 / FINE, 0.0
        magnitude = int(numbers.max(initial=1))
    integers = _compact(numbers, magnitude)
    sums = _row_sums(integers)
    passed = integers.astype(np.float32) * np.float32(unit) + np.float32(constant)
    bound = _uncalibrated_range(passed, 0.5) / (1 - leak) ** 2
    return EncodedWeights(
        first,
        first + length,
        integers,
        None,
        magnitude,
        unit,
        constant,
        0.0,
        _turned(scale),
        low,
        sums,
        sums,
        total,
        _turned(bound),
        saturated,
    )


def _leak(profile: OpticsProfile) -> float:
    """Give f of t(a) = f + (1 - f) a; a clamp keeps zero dark and has none."""
    if profile.extinction_ratio is None or profile.extinction_model == "clamp":
        return 0.0
    return 1 / profile.extinction_ratio


def _clamps(profile: OpticsProfile) -> bool:
    return profile.extinction_model == "clamp" and profile.extinction_ratio is not None


def _clamped(grey: np.ndarray, profile: OpticsProfile) -> np.ndarray:
    """Lift what is not zero to the smallest transmission that the modulator can show."""
    assert profile.extinction_ratio is not None
    return np.where(grey == 0, 0.0, np.maximum(grey, 1 / profile.extinction_ratio))


def _irregular(profile: OpticsProfile) -> bool:
    return bool(profile.gain_rms or profile.crosstalk)


def _span(lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    return highest.astype(np.float64) - lowest


def _rounded(values: np.ndarray, span: np.ndarray, levels: int) -> np.ndarray:
    """Give round(values levels / span), zero where the span is: float32 [..., K]."""
    steps = np.divide(levels, span, out=np.zeros_like(span, dtype=np.float64), where=span > 0)
    integers = values * np.minimum(steps, 3e38).astype(np.float32)
    return np.rint(integers, out=integers)


def _signed_integers(
    values: np.ndarray, scale: np.ndarray, bits: int | None
) -> tuple[np.ndarray, int]:
    """Round values to their row's scale; cut what exceeds it and count it, unless bits are None."""
    levels = signed_levels(bits)
    integers = _rounded(values, scale, levels)
    if bits is None:
        return integers, 0
    saturated = int(np.count_nonzero(np.abs(integers) > levels))
    return np.clip(integers, -levels, levels, out=integers), saturated


def _offset_integers(
    values: np.ndarray,
    lowest: np.ndarray,
    highest: np.ndarray,
    bits: int | None,
    profile: OpticsProfile,
) -> tuple[np.ndarray, int, float, float, int]:
    """Map [lowest, highest] to [0, 1] and round; centred integers, since small ones are fast.

    Returns
    -------
    integers, their largest magnitude, unit and constant of t(u) = constant + unit X, saturated
    """
    levels = FINE if bits is None else min(2**bits - 1, FINE)
    integers = _rounded(values - lowest, _span(lowest, highest), levels)
    saturated = 0
    if bits is not None:  # ideal modulators have no end
        saturated = int(np.count_nonzero((integers < 0) | (integers > levels)))
        np.clip(integers, 0, levels, out=integers)
    if _clamps(profile):
        return np.rint(_clamped(integers / levels, profile) * FINE), FINE, 1 / FINE, 0.0, saturated
    leak, centre = _leak(profile), (levels + 1) // 2
    integers -= centre
    unit = (1 - leak) / levels
    magnitude = max(centre, int(np.abs(integers).max(initial=0))) if bits is None else centre
    return integers, magnitude, unit, leak + unit * centre, saturated


def _rails(w: np.ndarray, profile: OpticsProfile, leak: float) -> np.ndarray:
    """Give the transmissions of both rails [2, m, M, K] of signed weights in [-1, 1]."""
    w = w.astype(np.float64)
    if profile.encoding == "push-pull":
        grey = np.stack([(1 + w) / 2, (1 - w) / 2])
    else:
        grey = np.stack([np.maximum(w, 0), np.maximum(-w, 0)])
    if _clamps(profile):
        return _clamped(grey, profile)
    return leak + (1 - leak) * grey


def _imperfect_rails(rails: np.ndarray, profile: OpticsProfile, geometry: Geometry) -> np.ndarray:
    """Apply the device's gains and its crosstalk between neighbouring rows of one frame.

    The rails of an output lie next to each other. `crosstalk` is the share of a row's light that
    falls on its two neighbours, half on each; at the edge of a frame it is lost.
    """
    count, matrices, outputs, length = rails.shape
    frame = outputs if geometry.outputs is None else geometry.outputs
    rows = rails.transpose(1, 2, 0, 3).reshape(matrices, outputs * count, length).copy()
    per_frame = min(frame, outputs) * count
    if profile.gain_rms:
        # the pattern belongs to the modulator: the same place of every frame, every segment
        pattern = _device_gain(profile.device_seed, rows.shape[1], per_frame, length)
        rows *= 1 + profile.gain_rms * pattern
    if profile.crosstalk:
        for start in range(0, rows.shape[1], per_frame):
            part = rows[:, start : start + per_frame]
            mixed = (1 - profile.crosstalk) * part
            mixed[:, 1:] += profile.crosstalk / 2 * part[:, :-1]
            mixed[:, :-1] += profile.crosstalk / 2 * part[:, 1:]
            rows[:, start : start + per_frame] = mixed
    return rows.reshape(matrices, outputs, count, length).transpose(2, 0, 1, 3)


def _device_gain(seed: int, rows: int, per_frame: int, length: int) -> np.ndarray:
    """Give the gain pattern [rows, length]: one draw per place of the frame, repeated."""
    pattern = np.stack(
        [device_gaussian(seed, f"gain row {row}", (length,)) for row in range(per_frame)]
    )
    return np.tile(pattern, (-(-rows // per_frame), 1))[:rows]


def _uncalibrated_range(passed: np.ndarray, filling: float) -> np.ndarray:
    """Give a read-out range per output from the weights [m, M, K] alone: float64 [m, M, 1].

    Independent inputs of magnitude at most 1 about a mean of `filling` stay within
    filling |w|_1 + 4 |w|_2 but for 7e-4 (Hoeffding, random signs); none at all exceeds |w|_1.
    What does exceed the range saturates, and is counted; calibration replaces this range.
    """
    total = np.abs(passed).sum(axis=-1, keepdims=True)
    norm = np.sqrt(np.einsum("...k,...k->...", passed, passed))[..., None]
    return np.minimum(total, filling * total + 4 * norm).astype(np.float64)


def _turned(column: np.ndarray) -> np.ndarray:
    """Turn [m, M, 1] of weight rows into [m, 1, M], as outputs lie in a product."""
    return np.swapaxes(column, -1, -2)


def _row_sums(integers: np.ndarray) -> np.ndarray:
    return integers.sum(axis=-1, dtype=np.float64)[:, None, :]


def _compact(numbers: np.ndarray, magnitude: int) -> np.ndarray:
    """Store integers of at most `magnitude` in the smallest type that holds them."""
    for kind in (np.int8, np.int16):
        if magnitude <= -np.iinfo(kind).min:  # centred integers reach -128 but not 128
            return numbers.astype(kind)
    return numbers.astype(np.int32)
