"""The loops of the mock, compiled by numba (the extra `fast`); imported only with numba.

Each function performs the same float32 operations in the same order as its numpy counterpart, and
gives the same bits: `encode_signed` and `encode_offset` correspond to `_signed_rows` and
`_offset_rows` of `encoding`, `read_rows` to `detection.read` with the random numbers of
`noise.NoiseStream`. Buffers of a few hundred outputs stay in a first-level cache, and compilers
turn every loop over them into vector instructions.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ...instruments.compiled import compiled
from .noise import tail_words

_compiled = compiled(error_model="numpy")


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


@_compiled
def tail_quantile(probability: float) -> float:
    """Return the |z| that a standard normal number exceeds with a probability below 1e-4.

    Algorithm AS 241 (Wichura 1988), the branches for tails, as in `statistics.NormalDist`.
    """
    r = math.sqrt(-math.log(probability))
    if r <= 5.0:
        r -= 1.6
        top = 7.74545014278341407640e-4
        for term in (
            2.27238449892691845833e-2,
            2.41780725177450611770e-1,
            1.27045825245236838258,
            3.64784832476320460504,
            5.76949722146069140550,
            4.63033784615654529590,
            1.42343711074968357734,
        ):
            top = top * r + term
        bottom = 1.05075007164441684324e-9
        for term in (
            5.47593808499534494600e-4,
            1.51986665636164571966e-2,
            1.48103976427480074590e-1,
            6.89767334985100004550e-1,
            1.67638483018380384940,
            2.05319162663775882187,
            1.0,
        ):
            bottom = bottom * r + term
        return top / bottom
    r -= 5.0
    top = 2.01033439929228813265e-7
    for term in (
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580,
        5.46378491116411436990,
        6.65790464350110377720,
    ):
        top = top * r + term
    bottom = 2.04426310338993978564e-15
    for term in (
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ):
        bottom = bottom * r + term
    return top / bottom


@_compiled
def _gaussians(
    z: Any, first: int, row: Any, keys: Any, width: int, drawn: int, table: Any, words: Any
) -> None:
    """Fill z with the standard normal numbers of outputs `first`, `first` + 1, ... of one row.

    Parameters
    ----------
    keys : `noise.stream_keys` of the streams, uint64 [streams, 3, 2]; each has `width` outputs
        (a multiple of 16), of which a row draws `drawn`
    table : `noise.quantiles()`
    words : uint64 buffer of at least (len(z) + 15) / 4
    """
    count = z.size
    end, output, place = first + count, first, 0
    while output < end:
        stream = output // width
        start = output - stream * width
        blocks = (min(width - start, end - output) + 15) // 16
        key = keys[stream, 0]
        _draw_words(
            words,
            place,
            key[0],
            key[1],
            row,
            np.uint64(width // 16),
            np.uint64(start // 16),
            blocks,
        )
        place += 4 * blocks
        output += 16 * blocks
    cells = words.view(np.uint16)
    least, most = np.uint16(65535), np.uint16(0)
    for k in range(count):
        least, most = min(least, cells[k]), max(most, cells[k])
    for k in range(count):
        z[k] = table[cells[k]]
    if least == 0 or most == 65535:
        for k in range(count):
            if cells[k] == 0 or cells[k] == 65535:
                stream = (first + k) // width
                number = row * np.uint64(drawn) + np.uint64(first + k - stream * width)
                word = _tail_word(number, keys[stream, 1, 0], keys[stream, 1, 1])
                probability = (np.float64(word >> np.uint64(11)) + 0.5) * 2.0**-53
                z[k] = np.copysign(np.float32(tail_quantile(probability / 65536)), z[k])


@_compiled
def gaussian_rows(ids: Any, keys: Any, width: int, drawn: int, table: Any, z: Any) -> None:
    """Fill z float32 [n, count] with the standard normal numbers of rows; see `_gaussians`."""
    n, count = z.shape
    words = np.empty((count + 15) // 16 * 4, np.uint64)
    for i in range(n):
        _gaussians(z[i], 0, ids[i], keys, width, drawn, table, words)


# --- light to numbers ----------------------------------------------------------------------------


@_compiled
def read_rows(
    y: Any,
    column: int,
    add: bool,
    balanced: bool,
    signed: Any,
    light: Any,
    has_light: bool,
    units: Any,
    rows: Any,
    source: Any,
    frame: int,
    light_term: Any,
    limit: Any,
    inverse_step: Any,
    scale: Any,
    converter: int,
    codes: Any,
    noisy: bool,
    well: bool,
    ids: Any,
    keys: Any,
    width: int,
    drawn: int,
    table: Any,
    weak: Any,
    weak_z: Any,
    weak_words: Any,
) -> Any:
    """Read a block of outputs once, and store it in y from column `column` on, or add it.

    `detection` describes `units`, `rows` and `codes`, `_gaussians` the streams.

    Parameters
    ----------
    y : float32 [n, M]
    signed, light : int32 (or float) [n, width of the block or more], exact sums
    source : float32 [n, frames], brightness factors of each `frame` outputs; empty without
    light_term, limit, inverse_step, scale : float32 [width of the block]
    converter : 0 none, 1 a range, 2 a range and codes
    weak, weak_z, weak_words : buffers for the row-major index, normal number and word of the
        outputs in weak light or near a full well, which are left to numpy

    Returns
    -------
    saturated, outputs that are left to numpy
    """
    n, count = signed.shape[0], scale.size
    saturated, listed = 0, 0
    zero, half = np.float32(0), np.float32(0.5)
    light_unit, inverse_gain, gain = units[0], units[1], units[2]
    lowest_code, highest_code, inverse_steps = codes[0], codes[1], codes[2]
    low_end, high_end = codes[3], codes[4]
    z, value = np.empty(count, np.float32), np.empty(count, np.float32)
    arrived, factors = np.empty(count, np.float32), np.empty(count, np.float32)
    words = np.empty((count + 15) // 16 * 4, np.uint64)
    varies = source.shape[1] > 0
    each = has_light or not balanced or varies  # the light depends on the output
    for i in range(n):
        row_term, per_light, dark, weak_below, pedestal, nearly_full, times = (
            rows[0, i],
            rows[1, i],
            rows[2, i],
            rows[3, i],
            rows[4, i],
            rows[5, i],
            rows[6, i],
        )
        out = y[i, column : column + count]
        if times == zero:  # a row without this exposure
            if not add:
                out[:] = zero
            continue
        sums = signed[i]
        if varies:
            for start in range(column // frame * frame, column + count, frame):
                factor = source[i, start // frame]
                stop = min(start + frame, column + count) - column
                for k in range(max(start - column, 0), stop):
                    factors[k] = factor
        if balanced:
            for k in range(count):
                value[k] = np.float32(sums[k])
            if has_light:
                lights = light[i]
                for k in range(count):
                    arrived[k] = np.float32(lights[k]) * light_unit + row_term + light_term[k]
            elif each or well:
                arrived[:] = row_term
            if varies:
                for k in range(count):
                    value[k] *= factors[k]
                    arrived[k] *= factors[k]
        else:
            for k in range(count):
                arrived[k] = np.float32(sums[k]) * light_unit + row_term + light_term[k]
            if varies:
                for k in range(count):
                    arrived[k] *= factors[k]
            for k in range(count):
                value[k] = arrived[k] * inverse_gain
        first_weak = listed
        if noisy:
            _gaussians(z, column, ids[i], keys, width, drawn, table, words)
            if well:
                for k in range(count):
                    light_of_one = arrived[k]
                    if balanced:
                        light_of_one = (arrived[k] + abs(value[k] * gain)) * half
                    if arrived[k] < weak_below or light_of_one > nearly_full:
                        weak[listed] = i * count + k
                        weak_z[listed] = z[k]
                        listed += 1
            elif each:
                weaker = 0
                for k in range(count):
                    weaker += arrived[k] < weak_below
                if weaker:
                    for k in range(count):
                        if arrived[k] < weak_below:
                            weak[listed] = i * count + k
                            weak_z[listed] = z[k]
                            listed += 1
            if each or well:
                for k in range(count):
                    value[k] += np.sqrt(max(arrived[k], zero) * per_light + dark) * z[k]
            else:
                if row_term < weak_below:
                    for k in range(count):
                        weak[listed] = i * count + k
                        weak_z[listed] = z[k]
                        listed += 1
                sigma = np.sqrt(max(row_term, zero) * per_light + dark)
                for k in range(count):
                    value[k] += sigma * z[k]
        for index in range(first_weak, listed):
            output = column + weak[index] - i * count
            stream = output // width
            place = output - stream * width
            key = keys[stream, 2]
            blocks = np.uint64((drawn + 3) // 4)
            _draw_words(words, 0, key[0], key[1], ids[i], blocks, np.uint64(place // 4), 1)
            weak_words[index] = words[place % 4]
            value[output - column] = zero
        if converter == 2:
            if balanced:
                for k in range(count):
                    code = value[k] * inverse_step[k]
                    saturated += (code > high_end) | (code < low_end)
                    shown = min(max(np.rint(code), lowest_code), highest_code)
                    value[k] = shown
            else:
                for k in range(count):
                    width_of_code = (limit[k] + pedestal) * inverse_steps
                    code = (value[k] + pedestal) / width_of_code
                    saturated += (code > high_end) | (code < low_end)
                    shown = min(max(np.rint(code), lowest_code), highest_code)
                    value[k] = shown * width_of_code - pedestal
        elif converter == 1:
            for k in range(count):
                lowest = -limit[k] if balanced else -pedestal
                shown = min(max(value[k], lowest), limit[k])
                saturated += shown != value[k]
                value[k] = shown
        for index in range(first_weak, listed):
            value[weak[index] - i * count] = zero
        if add:
            for k in range(count):
                out[k] += value[k] * scale[k] * times
        else:
            for k in range(count):
                out[k] = value[k] * scale[k] * times
    return saturated, listed


@_compiled
def add_cross(y: Any, column: int, a: Any, p: Any, b: Any, q: Any) -> None:
    """Add a[n] p[width] + b[n] q[width], in float64, to columns of y float32 [n, M]."""
    width = p.size
    for i in range(y.shape[0]):
        out, one, other = y[i, column : column + width], a[i], b[i]
        for k in range(width):
            out[k] = np.float32(np.float64(out[k]) + one * p[k] + other * q[k])


# --- fused products ---------------------------------------------------------------


@_compiled
def read_fused(
    x: Any,
    y: Any,
    add: bool,
    first: int,
    last: int,
    ids: Any,
    keys: Any,
    first_column: int,
    length: int,
    levels: float,
    centre: int,
    weights: Any,
    lights: Any,
    has_light: bool,
    columns: Any,
    constants: Any,
    noise: Any,
    units: Any,
    light_term: Any,
    limit: Any,
    inverse_step: Any,
    scale: Any,
    balanced: bool,
    converter: int,
    codes: Any,
    noisy: bool,
    well: bool,
    width: int,
    total: Any,
    low: Any,
    table: Any,
) -> Any:
    """Store products with outputs `first` to `last` of a segment in y [n, M], or add them.

    The steps are those of `row_block.RowBlock` for one exposure and reading, with the same bits;
    `fused.fused_arguments` returns the arguments after `keys`.

    Returns
    -------
    saturated, outputs that are left to numpy (-1 if a row is too large or not finite), light in
    element pairs
    """
    n, outputs = x.shape[0], scale.size
    per_sum, dark, all_per_sum, all_dark, all_unit, leak, gain, passed = constants[:8]
    integers = np.empty((n, length), np.int16)
    scales, sums = np.empty(n), np.empty((n, 2))
    lows, shown = np.zeros(n), np.zeros(n)
    reach = scales
    if centre < 0:
        encode_signed(x, first_column, levels, integers, scales, sums)
    else:
        edges = np.empty((n, 2))
        encode_offset(x, first_column, levels, centre, integers, edges, sums)
        reach = np.maximum(-edges[:, 0], edges[:, 1])
        for i in range(n):
            scales[i] = (edges[i, 1] - edges[i, 0]) / (1 - leak)
            lows[i] = edges[i, 0] - leak * scales[i]
            sum_shown = scales[i] * (passed + constants[8] * sums[i, 0]) + length * lows[i]
            shown[i] = sum_shown - length * lows[i]
    for i in range(n):
        if not reach[i] <= constants[9]:
            return 0, -1, 0.0
    rows, light = np.empty((8, n), np.float32), 0.0
    lit = 1 if balanced else 0
    for i in range(n):
        for term in range(8):
            rows[term, i] = noise[term]
        own = per_sum * sums[i, lit]
        if dark != 0:
            own += dark
        rows[0, i] = np.float32(own)
        rows[6, i] = np.float32(scales[i] if centre < 0 else scales[i] * gain)
        if first == 0:
            light += all_per_sum * sums[i, lit] + all_dark
    if noisy and columns.size and first == 0:
        with_columns = np.empty((n, 2), np.int64)
        sums_with(integers, columns, with_columns)
        for i in range(n):
            light += all_unit * np.float64(with_columns[i, lit])
    padded = (length + 3) // 4 * 4
    left, starts = np.empty((n, padded), np.int8), np.empty(n, np.int32)
    bytes_of(integers, False, left, starts)
    lit_left, lit_starts = left, starts
    with_light = has_light and noisy
    if with_light:
        lit_left, lit_starts = np.empty((n, padded), np.int8), np.empty(n, np.int32)
        bytes_of(integers, True, lit_left, lit_starts)
    panel = 256 if n > 4 else 4096
    most = n * min(panel, outputs) if noisy else 0
    weak, weak_z = np.empty(most, np.int64), np.empty(most, np.float32)
    weak_words, no_source = np.empty(most, np.uint64), np.empty((1, 0), np.float32)
    saturated, listed = 0, 0
    for column in range(first, last, panel):
        end = min(column + panel, last)
        product = np.empty(
            (n, (end - column + 63) // 64 * 64 if HAS_DOT else end - column), np.int32
        )
        multiply_bytes(left, starts, weights, column, False, product)
        of_light = product
        if with_light:
            of_light = np.empty(product.shape, np.int32)
            multiply_bytes(lit_left, lit_starts, lights, column, True, of_light)
        more, few = read_rows(
            y, column, add, balanced, product, of_light, with_light, units, rows, no_source,
            outputs, light_term[column:end], limit[column:end],
            inverse_step[column:end], scale[column:end], converter, codes, noisy, well, ids, keys,
            width, outputs, table, weak, weak_z, weak_words,
        )  # fmt: skip
        saturated += more
        listed += few
        if centre >= 0:
            add_cross(y, column, lows, total[column:end], shown, low[column:end])
    return saturated, listed, light
