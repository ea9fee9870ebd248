"""The loops of the mock, compiled by numba (the extra `fast`); imported only with numba.

Each function performs the same float32 operations in the same order as its numpy counterpart, and
gives the same bits: `encode_signed` and `encode_offset` correspond to `_signed_rows` and
`_offset_rows` of `encoding`, `read_rows` to `detection.read` with the random numbers of
`noise.NoiseStream`. Buffers of a few hundred outputs stay in a first-level cache, and compilers
turn every loop over them into vector instructions.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ...instruments.environment import compiled
from .detection import Converter, CrossTerms, Detector, LeftOutputs, Reading
from .noise import NoiseKeys, tail_words

_compiled = compiled(error_model="numpy")
_inlined = compiled(error_model="numpy", inline="always")  # a call costs as much as its loops
_float = np.float32


# --- rows as integers ----------------------------------------------------------------------------


@_compiled
def encode_signed(x: Any, first: int, levels: float, integers: Any, scale: Any, sums: Any) -> None:
    """Scale rows to their largest magnitude and round to levels.

    Parameters
    ----------
    x : float32 [n, columns], used from column `first` on
    integers : int16 [n, K], result
    scale : float64 [n], result; infinite for a row that is not finite
    sums : float64 [n, 2], result: of the integers, and of their magnitudes
    """
    n, length = integers.shape
    bits = np.empty(1, np.int32)
    for i in range(n):
        row = x[i, first : first + length]
        pattern = row.view(np.int32)
        largest = np.int32(0)
        for k in range(length):  # the bits of floats have the order of their magnitudes
            largest = max(largest, pattern[k] & np.int32(0x7FFFFFFF))
        bits[0] = largest
        scale[i] = bits.view(np.float32)[0]
        if largest >= np.int32(0x7F800000):
            scale[i] = np.inf
        step = np.float32(0)
        if largest:
            step = np.float32(min(levels / scale[i], 3e38))
        shown = integers[i]
        for k in range(length):
            shown[k] = np.int16(np.int32(np.rint(row[k] * step)))
        total = 0
        magnitudes = 0
        for k in range(length):
            total += np.int32(shown[k])
            magnitudes += abs(np.int32(shown[k]))
        sums[i, 0] = total
        sums[i, 1] = magnitudes


@_compiled
def encode_offset(
    x: Any, first: int, levels: float, centre: int, integers: Any, edges: Any, sums: Any
) -> None:
    """Map rows from [min, max] to centred levels; `edges` float64 [n, 2] gets min and max."""
    n, length = integers.shape
    bits = np.empty(2, np.int32)
    mask = np.int32(0x7FFFFFFF)
    for i in range(n):
        row = x[i, first : first + length]
        pattern = row.view(np.int32)
        lowest, highest = np.int32(mask), np.int32(-mask - 1)
        for k in range(length):  # these keys have the order of the values
            key = pattern[k] ^ ((pattern[k] >> 31) & mask)
            lowest, highest = min(lowest, key), max(highest, key)
        bits[0] = lowest ^ ((lowest >> 31) & mask)
        bits[1] = highest ^ ((highest >> 31) & mask)
        low, high = bits.view(np.float32)
        edges[i, 0], edges[i, 1] = low, high
        span = np.float64(high) - np.float64(low)
        step = np.float32(0)
        if span > 0:
            step = np.float32(min(levels / span, 3e38))
        shown = integers[i]
        for k in range(length):
            level = np.int32(np.rint((row[k] - low) * step))
            shown[k] = np.int16(min(max(level, 0), np.int32(levels)) - centre)
        total = 0
        for k in range(length):
            total += np.int32(shown[k])
        sums[i, 0] = sums[i, 1] = total


@_compiled
def sums_with(integers: Any, columns: Any, sums: Any) -> None:
    """Sum integers [n, K] times columns int64 [K], and their magnitudes, into int64 [n, 2]."""
    n, length = integers.shape
    for i in range(n):
        row = integers[i]
        total = 0
        magnitudes = 0
        for k in range(length):
            number = np.int64(row[k])
            total += number * columns[k]
            magnitudes += abs(number) * columns[k]
        sums[i, 0] = total
        sums[i, 1] = magnitudes


# --- exact products of 8-bit integers ------------------------------------------------------------

HAS_DOT = "+avx512vnni" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")
"""Whether code sums products of bytes by one instruction that does not saturate.

It asks what numba compiles for, which NUMBA_CPU_NAME may set, and not what processor this is.
"""
TILE = 64  # outputs whose weights are contiguous
_VECTORS = TILE // 16


def _at(builder: Any, base: Any, index: Any, size: int, kind: Any) -> Any:
    """Return a pointer to element `index` of `size` bytes from address `base`."""
    if isinstance(index, int):
        index = ir.Constant(base.type, index)
    place = builder.add(base, builder.mul(index, ir.Constant(base.type, size)))
    return builder.inttoptr(place, kind.as_pointer())


def _broadcast(builder: Any, pointer: Any) -> Any:
    """Return the 32-bit word at a pointer in all 16 lanes of a vector."""
    word = ir.IntType(32)
    vector = ir.VectorType(word, 16)
    nothing, lanes = ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0] * 16)
    number = builder.load(pointer, align=1)
    first = builder.insert_element(nothing, number, ir.Constant(word, 0))
    return builder.shuffle_vector(first, nothing, lanes)


def _tile_of(rows: int) -> Any:
    """Return the product of some rows with a tile of 64 outputs, entirely in registers.

    `vpdpbusd` adds four products u8 x s8 to each of 16 sums of 32 bits; compilers do not generate
    it from a loop. The weights are unsigned, w + 128, so a row's sums start at -128 sum(x).
    """

    @intrinsic
    def tile(
        context: Any,
        x: Any,
        stride: Any,
        start: Any,
        weights: Any,
        steps: Any,
        out: Any,
        pitch: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, stride, start, weights, steps, out, pitch = arguments
            word, address = ir.IntType(32), x.type
            vector = ir.VectorType(word, 16)
            dot = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                "llvm.x86.avx512.vpdpbusd.512",
            )

            lines = [
                builder.add(x, builder.mul(stride, ir.Constant(address, r))) for r in range(rows)
            ]
            sums = []
            for r in range(rows):
                first = _broadcast(builder, _at(builder, start, r, 4, word))
                sums.append([cgutils.alloca_once_value(builder, first) for _ in range(_VECTORS)])
            with cgutils.for_range(builder, steps) as loop:
                block = builder.add(
                    weights, builder.mul(loop.index, ir.Constant(address, 4 * TILE))
                )
                loaded = [
                    builder.load(_at(builder, block, j, 64, vector), align=1)
                    for j in range(_VECTORS)
                ]
                for r in range(rows):
                    four = _broadcast(builder, _at(builder, lines[r], loop.index, 4, word))
                    for j in range(_VECTORS):
                        total = builder.load(sums[r][j])
                        builder.store(builder.call(dot, [total, loaded[j], four]), sums[r][j])
            for r in range(rows):
                line = builder.add(out, builder.mul(pitch, ir.Constant(address, r)))
                for j in range(_VECTORS):
                    place = _at(builder, line, j, 64, vector)
                    builder.store(builder.load(sums[r][j]), place, align=1)
            return context.get_dummy_value()

        unsigned = types.uintp
        arguments = (unsigned, unsigned, unsigned, unsigned, types.intp, unsigned, unsigned)
        return types.void(*arguments), generate

    return tile


_four_rows, _one_row = _tile_of(4), _tile_of(1)


def _multiply_tiles(
    rows: Any, starts: Any, weights: Any, first: int, magnitudes: bool, product: Any
) -> None:
    n, width = product.shape
    steps, length = weights.shape[1], rows.shape[1]
    x, start, packed, out = (
        rows.ctypes.data,
        starts.ctypes.data,
        weights.ctypes.data,
        product.ctypes.data,
    )
    stride, pitch = np.uintp(length), np.uintp(4 * width)
    for tile in range(width // 64):
        w = np.uintp(packed + (first // 64 + tile) * steps * 256)
        for i in range(0, n // 4 * 4, 4):
            line, place = np.uintp(x + i * length), np.uintp(out + 4 * i * width + 256 * tile)
            _four_rows(line, stride, np.uintp(start + 4 * i), w, steps, place, pitch)
        for i in range(n // 4 * 4, n):
            line, place = np.uintp(x + i * length), np.uintp(out + 4 * i * width + 256 * tile)
            _one_row(line, stride, np.uintp(start + 4 * i), w, steps, place, pitch)


def _multiply_loops(
    rows: Any, starts: Any, weights: Any, first: int, magnitudes: bool, product: Any
) -> None:
    n, width = product.shape
    length = weights.shape[1]
    for m in range(width):
        weight = weights[first + m]
        for i in range(n):
            row = rows[i]
            total = np.int32(0)
            if magnitudes:
                for k in range(length):
                    total += np.int32(row[k]) * abs(np.int32(weight[k]))
            else:
                for k in range(length):
                    total += np.int32(row[k]) * np.int32(weight[k])
            product[i, m] = total


multiply_bytes = _compiled(_multiply_tiles if HAS_DOT else _multiply_loops)
"""Multiply int8 rows by the weights of outputs `first` on: into int32 [n, width].

Parameters
----------
rows : int8 [n, K], from `bytes_of`
starts : int32 [n], likewise
weights : from `packed`
first, width : multiples of 64 if the processor has the instruction
magnitudes : whether to use the magnitudes of the weights (with the instruction they are stored so)
"""


def packed(weights: Any) -> Any:
    """Return int8 weights [M, K] in the form of `multiply_bytes`.

    Returns
    -------
    weights : uint8 [M / 64, K / 4, 64, 4]; unchanged without the instruction
    """
    if not HAS_DOT:
        return weights
    outputs, length = weights.shape
    padded = np.full((-(-outputs // TILE) * TILE, -(-length // 4) * 4), 128, dtype=np.uint8)
    padded[:outputs, :length] = weights.view(np.uint8) ^ np.uint8(128)
    tiles = padded.reshape(-1, TILE, padded.shape[1] // 4, 4)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))


def unpacked(weights: Any, outputs: int, length: int) -> Any:
    """Return the int8 weights [M, K] from their packed form."""
    padded = weights.transpose(0, 2, 1, 3).reshape(-1, 4 * weights.shape[1])
    plain = padded[:outputs, :length] ^ np.uint8(128)
    return np.ascontiguousarray(plain).view(np.int8)


@_compiled
def bytes_of(integers: Any, magnitudes: bool, rows: Any, starts: Any) -> None:
    """Convert int16 rows [n, K] of 8-bit integers, or their magnitudes, for `multiply_bytes`.

    Parameters
    ----------
    rows : int8 [n, K up to a multiple of 4], result
    starts : int32 [n], result: -128 times the sum of the row
    """
    n, length = integers.shape
    for i in range(n):
        line, row = integers[i], rows[i]
        total = np.int32(0)
        if magnitudes:
            for k in range(length):
                row[k] = np.int8(abs(line[k]))
                total += np.int32(abs(line[k]))
        else:
            for k in range(length):
                row[k] = np.int8(line[k])
                total += np.int32(line[k])
        for k in range(length, rows.shape[1]):
            row[k] = 0
        starts[i] = -128 * total


def _is_exact() -> bool:
    """Return whether all parts of `multiply_bytes` are exact for the largest numbers."""
    integers = np.empty((6, 70), np.int16)
    integers[:] = np.where(np.arange(70) % 3, 127, -128)
    integers[1], integers[2, ::2] = -128, 127
    weights = np.empty((128, 70), np.int8)
    weights[::2], weights[1::2, ::2], weights[1::2, 1::2] = -128, 127, -128
    rows, starts = np.empty((6, 72), np.int8), np.empty(6, np.int32)
    bytes_of(integers, False, rows, starts)
    product = np.empty((6, 128), np.int32)
    multiply_bytes(rows, starts, packed(weights), 0, False, product)
    return np.array_equal(product, integers.astype(np.int64) @ weights.T.astype(np.int64))


if HAS_DOT and not _is_exact():
    HAS_DOT = False
    multiply_bytes = _compiled(_multiply_loops)


@_compiled
def add_planes(high: Any, low: Any, product: Any) -> None:
    """Store 256 high + low of int32 or float64 products in `product`, float64 [n, width]."""
    n, width = product.shape
    for i in range(n):
        one, other, both = high[i], low[i], product[i]
        for k in range(width):
            both[k] = 256.0 * one[k] + other[k]


# --- random numbers ------------------------------------------------------------------------------


@intrinsic
def _product(context: Any, one: Any, other: Any) -> Any:
    """Return the upper and the lower 64 bits of a product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        halves = (upper, builder.trunc(product, word))
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), generate


_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_NONE, _ONE = np.uint64(0), np.uint64(1)


@_compiled
def _draw_words(
    words: Any, place: int, key0: Any, key1: Any, row: Any, blocks: Any, block: Any, count: int
) -> None:
    """Store `count` blocks of four words in `words`, from block row * blocks + block on.

    Philox4x64-10 (Salmon 2011). numpy's generator increments the counter before it draws, so the
    first block is that of the next counter.
    """
    high, low = _product(row, blocks)
    low += block
    if low < block:
        high += _ONE
    for _ in range(count):
        low += _ONE
        if low == _NONE:
            high += _ONE
        c0, c1, c2, c3 = low, high, _NONE, _NONE
        k0, k1 = key0, key1
        for _ in range(10):
            high0, low0 = _product(_M0, c0)
            high1, low1 = _product(_M1, c2)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0 += _W0
            k1 += _W1
        words[place], words[place + 1], words[place + 2], words[place + 3] = c0, c1, c2, c3
        place += 4


_tail_word = _compiled(tail_words)


# coefficients of algorithm AS 241, the highest power first
_NEAR_TOP = (
    7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
    1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
    4.63033784615654529590e0, 1.42343711074968357734e0,
)  # fmt: skip
_NEAR_BOTTOM = (
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
    1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
    2.05319162663775882187e0, 1.0,
)  # fmt: skip
_FAR_TOP = (
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
    2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
    5.46378491116411436990e0, 6.65790464350110377720e0,
)  # fmt: skip
_FAR_BOTTOM = (
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
    7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
    5.99832206555887937690e-1, 1.0,
)  # fmt: skip


@_inlined
def _horner(x: float, coefficients: tuple[float, ...]) -> float:
    """Return a polynomial, from the coefficients of falling powers."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


@_compiled
def tail_quantile(probability: float) -> float:
    """Return the |z| that a standard normal number exceeds with a probability below 1e-4.

    Algorithm AS 241 (Wichura 1988), the branches for tails, as in `statistics.NormalDist`.
    """
    r = math.sqrt(-math.log(probability))
    if r <= 5.0:
        return _horner(r - 1.6, _NEAR_TOP) / _horner(r - 1.6, _NEAR_BOTTOM)
    return _horner(r - 5.0, _FAR_TOP) / _horner(r - 5.0, _FAR_BOTTOM)


@_compiled
def _gaussians(z: Any, first: int, row: Any, noise: NoiseKeys, words: Any) -> None:
    """Fill z with the standard normal numbers of outputs `first`, `first` + 1, ... of one row.

    Parameters
    ----------
    row : uint64, its id
    words : uint64 buffer of at least (len(z) + 15) / 4
    """
    count, width, keys = z.size, noise.width, noise.keys
    end, output, place = first + count, first, 0
    while output < end:
        stream = output // width
        start = output - stream * width
        blocks = (min(width - start, end - output) + 15) // 16
        key = keys[stream, 0]
        per_row, block = np.uint64(width // 16), np.uint64(start // 16)
        _draw_words(words, place, key[0], key[1], row, per_row, block, blocks)
        place += 4 * blocks
        output += 16 * blocks
    cells = words.view(np.uint16)
    least, most = np.uint16(65535), np.uint16(0)
    for k in range(count):
        least, most = min(least, cells[k]), max(most, cells[k])
    for k in range(count):
        z[k] = noise.table[cells[k]]
    if least == 0 or most == 65535:
        for k in range(count):
            if cells[k] == 0 or cells[k] == 65535:
                stream = (first + k) // width
                number = row * np.uint64(noise.drawn) + np.uint64(first + k - stream * width)
                word = _tail_word(number, keys[stream, 1, 0], keys[stream, 1, 1])
                probability = (np.float64(word >> np.uint64(11)) + 0.5) * 2.0**-53
                z[k] = np.copysign(np.float32(tail_quantile(probability / 65536)), z[k])


@_compiled
def gaussian_rows(plain_noise: Any, z: Any) -> None:
    """Fill z float32 [n, count] with normal numbers of rows, from `NoiseKeys` as a plain tuple."""
    (n, count), noise = z.shape, NoiseKeys(*plain_noise)
    words = np.empty((count + 15) // 16 * 4, np.uint64)
    for i in range(n):
        _gaussians(z[i], 0, noise.rows[i], noise, words)


# --- light to numbers ----------------------------------------------------------------------------


@_inlined
def _apply_source(
    factors: Any, first: int, frame: int, balanced: bool, value: Any, arrived: Any
) -> None:
    """Multiply light, and the values that are not computed from it, by the factors of frames."""
    end = first + value.size
    for start in range(first // frame * frame, end, frame):
        factor = factors[start // frame]
        for k in range(max(start - first, 0), min(start + frame, end) - first):
            arrived[k] *= factor
        if balanced:
            for k in range(max(start - first, 0), min(start + frame, end) - first):
                value[k] *= factor


@_inlined
def _saturate(value: Any, detector: Detector, limit: Any, inverse_step: Any, pedestal: Any) -> int:
    """Saturate values and round them to codes; return how many saturated."""
    saturated = 0
    lowest_code, highest_code = np.float32(detector.codes[0]), np.float32(detector.codes[1])
    low_end, high_end = np.float32(detector.codes[3]), np.float32(detector.codes[4])
    if detector.converts == 2 and detector.balanced:
        for k in range(value.size):
            code = value[k] * inverse_step[k]
            saturated += (code > high_end) | (code < low_end)
            value[k] = min(max(np.rint(code), lowest_code), highest_code)
    elif detector.converts == 2:
        inverse_steps = np.float32(detector.codes[2])
        for k in range(value.size):
            width_of_code = (limit[k] + pedestal) * inverse_steps
            code = (value[k] + pedestal) / width_of_code
            saturated += (code > high_end) | (code < low_end)
            value[k] = min(max(np.rint(code), lowest_code), highest_code) * width_of_code - pedestal
    elif detector.converts == 1:
        for k in range(value.size):
            lowest = -limit[k] if detector.balanced else -pedestal
            shown = min(max(value[k], lowest), limit[k])
            saturated += shown != value[k]
            value[k] = shown
    return saturated


@_compiled
def read_rows(
    y: Any, add: bool, reading: Reading, detector: Detector, noise: NoiseKeys, left: LeftOutputs
) -> Any:
    """Read a block of outputs once, and store it in y [n, M] from `first` on, or add it.

    Returns
    -------
    saturated, outputs that are left to numpy
    """
    first, signed, light, light_term = (
        reading.first, reading.signed, reading.light, reading.light_term
    )  # fmt: skip
    source, frame, rows, balanced = reading.source, reading.frame, reading.rows, detector.balanced
    limit, inverse_step, scale = (
        reading.converter.limit, reading.converter.inverse_step, reading.converter.scale
    )  # fmt: skip
    light_unit, inverse_gain, gain = reading.units
    light_unit, inverse_gain, gain = _float(light_unit), _float(inverse_gain), _float(gain)
    ids, keys, places, left_z = noise.rows, noise.keys, left.places, left.z
    count, saturated, listed = scale.size, 0, 0
    zero, half = np.float32(0), np.float32(0.5)
    z, value, arrived = (
        np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    )  # fmt: skip
    words = np.empty((count + 15) // 16 * 4, np.uint64)
    varies, well = source.shape[1] > 0, detector.full_well != np.inf
    has_light = light.shape[1] > 0
    each = has_light or not balanced or varies  # the light depends on the output
    for i in range(signed.shape[0]):
        row_term, per_light, dark, weak_below = rows[0, i], rows[1, i], rows[2, i], rows[3, i]
        pedestal, nearly_full, times, photons = rows[4, i], rows[5, i], rows[6, i], rows[7, i]
        out = y[i, first : first + count]
        if times == zero:  # a row without this exposure
            if not add:
                out[:] = zero
            continue
        sums = signed[i]
        if balanced:
            for k in range(count):
                value[k] = np.float32(sums[k])
        if has_light:
            lights = light[i]
            for k in range(count):
                arrived[k] = np.float32(lights[k]) * light_unit + row_term + light_term[k]
        elif not balanced:
            for k in range(count):
                arrived[k] = np.float32(sums[k]) * light_unit + row_term + light_term[k]
        elif each or well:
            arrived[:] = row_term
        if varies:
            _apply_source(source[i], first, frame, balanced, value, arrived)
        if not balanced:
            for k in range(count):
                value[k] = arrived[k] * inverse_gain
        first_left = listed
        if photons > zero:
            _gaussians(z, first, ids[i], noise, words)
            is_even, weaker = not each and not well, 0
            if is_even:
                weaker = int(row_term < weak_below)
            elif not well:
                for k in range(count):
                    weaker += arrived[k] < weak_below
            if well or weaker:
                for k in range(count):
                    of_one = row_term if is_even else arrived[k]
                    is_weak = of_one < weak_below
                    if well and balanced:
                        of_one = (of_one + abs(value[k] * gain)) * half
                    if is_weak or of_one > nearly_full:
                        places[listed] = i * count + k
                        left_z[listed] = z[k]
                        listed += 1
            if is_even:
                sigma = np.sqrt(max(row_term, zero) * per_light + dark)
                for k in range(count):
                    value[k] += sigma * z[k]
            else:
                for k in range(count):
                    value[k] += np.sqrt(max(arrived[k], zero) * per_light + dark) * z[k]
        for index in range(first_left, listed):
            k = places[index] - i * count
            stream = (first + k) // noise.width
            place = first + k - stream * noise.width
            key, blocks = keys[stream, 2], np.uint64((noise.drawn + 3) // 4)
            _draw_words(words, 0, key[0], key[1], ids[i], blocks, np.uint64(place // 4), 1)
            left.words[index] = words[place % 4]
            value[k] = zero
        saturated += _saturate(value, detector, limit, inverse_step, pedestal)
        for index in range(first_left, listed):
            value[places[index] - i * count] = zero
        if add:
            for k in range(count):
                out[k] += value[k] * scale[k] * times
        else:
            for k in range(count):
                out[k] = value[k] * scale[k] * times
    return saturated, listed


@_compiled
def read_block(y: Any, add: bool, reading: Any, detector: Any, noise: Any, left: Any) -> Any:
    """Read a block of outputs as `read_rows` does; the named tuples are given as plain tuples."""
    fields = (*reading[:-1], Converter(*reading[-1]))
    return read_rows(
        y, add, Reading(*fields), Detector(*detector), NoiseKeys(*noise), LeftOutputs(*left)
    )


@_compiled
def add_cross(y: Any, column: int, cross: CrossTerms) -> None:
    """Add a[n] p[width] + b[n] q[width], in float64, to columns of y float32 [n, M]."""
    width = cross.p.size
    for i in range(y.shape[0]):
        out, one, other = y[i, column : column + width], cross.a[i], cross.b[i]
        for k in range(width):
            out[k] = np.float32(np.float64(out[k]) + one * cross.p[k] + other * cross.q[k])


# --- fused products ------------------------------------------------------------------------------


class FusedSegment(NamedTuple):
    """One segment of weights for `read_fused`; the last two fields travel as plain tuples.

    Parameters
    ----------
    first, length : the columns of the input that the segment shows
    levels : on each side of zero; with the offset encoding, from least to largest number
    centre : level of zero with the offset encoding; -1 without
    largest : magnitude of inputs up to which float32 can hold the results
    weights, lights : from `packed`: what is read, and what lights the detectors
    has_light : whether `lights` are multiplied; otherwise the light is only the row's term
    per_sum, dark, units, light_term : of `ReadingRule`; light_term [M]
    total_per_sum, total_dark, total_unit, columns : of `InputExposure`; columns int64 [K] or [0]
    row_terms : the `RowTerms` that all rows share, float32 [8]
    leak, unit : of the offset encoding: x = scale t(u) + low, t = leak + unit times the level
    passed : sum of t over a row of centred zeros
    total, low : `EncodedWeights.total` and `low`, float64 [M]
    quantiles : of `noise`
    """

    first: int
    length: int
    levels: float
    centre: int
    largest: float
    weights: Any
    lights: Any
    has_light: bool
    per_sum: float
    dark: float
    units: tuple[float, ...]
    light_term: Any
    total_per_sum: float
    total_dark: float
    total_unit: float
    columns: Any
    row_terms: Any
    leak: float
    unit: float
    passed: float
    total: Any
    low: Any
    quantiles: Any
    converter: Any
    detector: Any


@_compiled
def _encode_fused(x: Any, segment: FusedSegment, integers: Any, sums: Any, scales: Any) -> Any:
    """Encode rows x into int16 `integers` [n, K], `sums` [n, 2] and `scales` [n].

    Returns
    -------
    whether all rows are finite and small enough, and a[n] and b[n] of `CrossTerms`
    """
    n, length = integers.shape
    lows, shown = np.zeros(n), np.zeros(n)
    reach = scales
    if segment.centre < 0:
        encode_signed(x, segment.first, segment.levels, integers, scales, sums)
    else:
        edges = np.empty((n, 2))
        encode_offset(x, segment.first, segment.levels, segment.centre, integers, edges, sums)
        reach = np.maximum(-edges[:, 0], edges[:, 1])
        for i in range(n):
            scales[i] = (edges[i, 1] - edges[i, 0]) / (1 - segment.leak)
            lows[i] = edges[i, 0] - segment.leak * scales[i]
            passed = segment.passed + segment.unit * sums[i, 0]
            sum_shown = scales[i] * passed + length * lows[i]
            shown[i] = sum_shown - length * lows[i]
    fits = True
    for i in range(n):
        if not reach[i] <= segment.largest:
            fits = False
    return fits, lows, shown


@_compiled
def _total_light(segment: FusedSegment, integers: Any, sums: Any, lit: int) -> float:
    """Return the light of all outputs, in element pairs, from column `lit` of the sums."""
    total, n = 0.0, len(sums)
    for i in range(n):
        total += segment.total_per_sum * sums[i, lit] + segment.total_dark
    if segment.row_terms[7] > 0 and segment.columns.size:
        with_columns = np.empty((n, 2), np.int64)
        sums_with(integers, segment.columns, with_columns)
        for i in range(n):
            total += segment.total_unit * np.float64(with_columns[i, lit])
    return total


@_compiled
def read_fused(
    x: Any, y: Any, add: bool, first: int, last: int, rows: Any, keys: Any, plain: Any
) -> Any:
    """Store products with outputs `first` to `last` of a segment in y [n, M], or add them.

    The steps are those of `row_block.RowBlock` for one exposure and reading, with the same bits.

    Parameters
    ----------
    rows : ids of the rows, uint64 [n]
    keys : `stream_keys` of one stream, uint64 [1, 3, 2]
    plain : `FusedSegment` as plain tuples

    Returns
    -------
    saturated, outputs that are left to numpy (-1 if a row is too large or not finite), light in
    element pairs
    """
    segment, converter, detector = FusedSegment(*plain), Converter(*plain[-2]), Detector(*plain[-1])
    n, length, outputs = x.shape[0], segment.length, converter.scale.size
    noise = NoiseKeys(rows, keys, (outputs + 15) // 16 * 16, outputs, segment.quantiles)
    integers, scales, sums = np.empty((n, length), np.int16), np.empty(n), np.empty((n, 2))
    fits, lows, shown = _encode_fused(x, segment, integers, sums, scales)
    if not fits:
        return 0, -1, 0.0
    lit = 1 if detector.balanced else 0
    total = _total_light(segment, integers, sums, lit) if first == 0 else 0.0
    terms = np.empty((8, n), np.float32)
    for i in range(n):
        for term in range(8):
            terms[term, i] = segment.row_terms[term]
        own = segment.per_sum * sums[i, lit]
        if segment.dark != 0:
            own += segment.dark
        terms[0, i] = np.float32(own)
        terms[6, i] = np.float32(scales[i] if segment.centre < 0 else scales[i] * detector.gain)
    padded = (length + 3) // 4 * 4
    left, starts = np.empty((n, padded), np.int8), np.empty(n, np.int32)
    bytes_of(integers, False, left, starts)
    lit_left, lit_starts = left, starts
    has_photons = segment.row_terms[7] > 0
    with_light = segment.has_light and has_photons
    if with_light:
        lit_left, lit_starts = np.empty((n, padded), np.int8), np.empty(n, np.int32)
        bytes_of(integers, True, lit_left, lit_starts)
    panel = 256 if n > 4 else 4096
    most = n * min(panel, outputs) if has_photons else 0
    others = LeftOutputs(
        np.empty(most, np.int64), np.empty(most, np.float32), np.empty(most, np.uint64)
    )
    no_light, no_source = np.empty((n, 0), np.int32), np.empty((n, 0), np.float32)
    saturated, listed = 0, 0
    for column in range(first, last, panel):
        end = min(column + panel, last)
        width = (end - column + 63) // 64 * 64 if HAS_DOT else end - column
        product, of_light = np.empty((n, width), np.int32), no_light
        multiply_bytes(left, starts, segment.weights, column, False, product)
        if with_light:
            of_light = np.empty((n, width), np.int32)
            multiply_bytes(lit_left, lit_starts, segment.lights, column, True, of_light)
        of_panel = Converter(
            converter.limit[column:end],
            converter.inverse_step[column:end],
            converter.scale[column:end],
            None,
        )
        reading = Reading(
            column,
            product,
            of_light,
            segment.units,
            terms,
            segment.light_term[column:end],
            no_source,
            outputs,
            of_panel,
        )
        more, few = read_rows(y, add, reading, detector, noise, others)
        saturated += more
        listed += few
        if segment.centre >= 0:
            cross = CrossTerms(lows, segment.total[column:end], shown, segment.low[column:end])
            add_cross(y, column, cross)
    return saturated, listed, total
