"""The loops of the mock, compiled by numba (the extra `fast`); imported only with numba.

Each function performs the same float32 operations in the same order as its numpy counterpart, and
gives the same bits: `encode_signed` and `encode_offset` correspond to `_signed_rows` and
`_offset_rows` of `encoding`, `read_segment` to that of `detection`, with the random numbers of
`noise` and `poisson`. Buffers of a few hundred outputs stay in a first-level cache, and compilers
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
from numba.np.arrayobj import populate_array

from ...instruments.environment import compiled
from .detection import (
    FOUR_READINGS,
    ONE_SUM,
    TWO_EXPOSURES,
    WITH_LIGHT,
    Block,
    Converter,
    CrossTerms,
)
from .lanes import FLOAT, LONG, WORD, Counter, Lanes, broadcast, load, numbered, over_lanes
from .noise import CELLS, COUNT, LOGARITHM, QUANTILE, SOURCE, TAIL, NoiseKeys, quantiles
from .poisson import COARSE, EXPONENTIAL, INVERSES, SLOTS, alias_tables

_compiled = compiled(error_model="numpy")
_inlined = compiled(error_model="numpy", inline="always")  # a call costs as much as its loops
# functions that create no array count no references: of many small arrays, that takes longer than
# the arithmetic
_borrowing = compiled(error_model="numpy", _nrt=False)
_inner = compiled(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# and functions with many arrays, each of which takes seven words of a call
_joined = compiled(
    error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True,
    forceinline=True,
)  # fmt: skip
_float = np.float32


@intrinsic
def _bits_of(context: Any, number: Any) -> Any:
    """Return the bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _float_of(context: Any, bits: Any) -> Any:
    """Return the float32 of some bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


# --- rows as integers ----------------------------------------------------------------------------


@_borrowing
def encode_signed(
    x: Any, first: int, length: int, levels: float, integers: Any, scale: Any, sums: Any
) -> None:
    """Scale rows to their largest magnitude and round to levels.

    Parameters
    ----------
    x : float32 [n, columns], used from column `first` on
    integers : int16 [n, K or more], result
    scale : float64 [n], result; infinite for a row that is not finite
    sums : float64 [n, 2], result: of the integers, and of their magnitudes
    """
    for i in range(len(x)):
        row = x[i, first : first + length]
        largest = np.int32(0)
        for k in range(length):  # the bits of floats have the order of their magnitudes
            largest = max(largest, _bits_of(row[k]) & np.int32(0x7FFFFFFF))
        scale[i] = _float_of(largest)
        if largest >= np.int32(0x7F800000):
            scale[i] = np.inf
        step = np.float32(0)
        if largest:
            step = np.float32(min(levels / scale[i], 3e38))
        shown = integers[i, :length]
        for k in range(length):
            shown[k] = np.int16(np.int32(np.rint(row[k] * step)))
        total = 0
        magnitudes = 0
        for k in range(length):
            total += np.int32(shown[k])
            magnitudes += abs(np.int32(shown[k]))
        sums[i, 0] = total
        sums[i, 1] = magnitudes


@_borrowing
def encode_offset(
    x: Any, first: int, length: int, levels: float, centre: int, integers: Any, edges: Any,
    sums: Any,
) -> None:  # fmt: skip
    """Map rows from [min, max] to centred levels; `edges` float64 [n, 2] gets min and max."""
    mask, all_bits = np.int32(0x7FFFFFFF), np.int32(31)
    for i in range(len(x)):
        row = x[i, first : first + length]
        lowest, highest = np.int32(mask), np.int32(-mask - np.int32(1))
        for k in range(length):  # these keys have the order of the values
            pattern = _bits_of(row[k])
            key = pattern ^ ((pattern >> all_bits) & mask)
            lowest, highest = min(lowest, key), max(highest, key)
        low = _float_of(lowest ^ ((lowest >> all_bits) & mask))
        high = _float_of(highest ^ ((highest >> all_bits) & mask))
        edges[i, 0], edges[i, 1] = low, high
        span = np.float64(high) - np.float64(low)
        step = np.float32(0)
        if span > 0:
            step = np.float32(min(levels / span, 3e38))
        shown = integers[i, :length]
        for k in range(length):
            level = np.int32(np.rint((row[k] - low) * step))
            shown[k] = np.int16(min(max(level, 0), np.int32(levels)) - centre)
        total = 0
        for k in range(length):
            total += np.int32(shown[k])
        sums[i, 0] = sums[i, 1] = total


@_borrowing
def sums_with(integers: Any, columns: Any, sums: Any) -> None:
    """Sum integers [n, K or more], and their magnitudes, times columns int64 [K]: int64 [n, 2]."""
    length = columns.size
    for i in range(len(sums)):
        row = integers[i, :length]
        total = 0
        magnitudes = 0
        for k in range(length):
            number = np.int64(row[k])
            total += number * columns[k]
            magnitudes += abs(number) * columns[k]
        sums[i, 0] = total
        sums[i, 1] = magnitudes


# --- exact products of 8-bit integers ------------------------------------------------------------

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
PROCESSOR = "|".join(cpu_target.target_context.codegen().magic_tuple())
"""What loops are compiled for: system, processor and its features."""
_IS_ARM = cpu_target.target_context.codegen().magic_tuple()[0].startswith(("aarch64", "arm64"))
HAS_DOT = "+avx512vnni" in _FEATURES
"""Whether code sums products of bytes by one instruction that does not saturate.

It asks what numba compiles for, which NUMBA_CPU_NAME may set, and not what processor this is.
"""
TILE = 64  # outputs whose weights are contiguous
_AHEAD = 32 * 4 * TILE  # bytes: as far as memory is slow, by measurement


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


def _fetch(builder: Any, address: Any, again: int) -> None:
    """Begin to load a line of a cache: `again` is 3 to keep it in all caches, 0 to read it once."""
    place, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [place, word, word, word])
    fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(fetch, [builder.inttoptr(address, place), word(0), word(again), word(1)])


@intrinsic
def _begin_loads(context: Any, address: Any, count: Any) -> Any:
    """Begin to load `count` numbers of 4 bytes, while something else is computed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, count = arguments
        lines = builder.sdiv(builder.add(count, ir.Constant(LONG, 15)), ir.Constant(LONG, 16))
        with cgutils.for_range(builder, lines) as loop:
            offset = builder.mul(loop.index, ir.Constant(LONG, 64))
            _fetch(builder, builder.add(address, offset), 3)
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), generate


def _at_rows(builder: Any, base: Any, step: Any, count: int) -> list[Any]:
    """Return addresses of `count` rows."""
    return [builder.add(base, builder.mul(step, ir.Constant(base.type, r))) for r in range(count)]


def _variants(builder: Any, loaded: Any, weights: str) -> list[Any]:
    """Return what multiplies the rows, from 64 bytes w + 128: unsigned bytes as 16 words.

    Saturating differences give the sides of w: max(w, 0) and max(-w, 0).
    """
    word = ir.VectorType(ir.IntType(32), 16)
    if weights == "all":
        return [loaded]
    byte = ir.VectorType(ir.IntType(8), 64)
    middle = ir.Constant(byte, [128] * 64)
    difference = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(byte, [byte] * 2), "llvm.usub.sat.v64i8"
    )
    number = builder.bitcast(loaded, byte)
    plus = builder.call(difference, [number, middle])
    minus = builder.call(difference, [middle, number])
    if weights == "pair":
        return [loaded, builder.bitcast(builder.or_(plus, minus), word)]
    return [builder.bitcast(plus, word), builder.bitcast(minus, word)]


def _tile_of(rows: int, vectors: int, weights: str) -> Any:
    """Return the product of some rows with a tile of 16 `vectors` outputs, entirely in registers.

    `vpdpbusd` adds four products u8 x s8 to each of 16 sums of 32 bits; compilers do not generate
    it from a loop. The weights are unsigned, w + 128, so a row's sums start at -128 sum(x).

    Parameters
    ----------
    weights : "all"; "sides", which gives two products, of max(w, 0) and max(-w, 0); or "pair": the
        second product is of |w| and the line behind each row
    """

    @intrinsic
    def tile(
        context: Any,
        x: Any,
        stride: Any,
        start: Any,
        weights_at: Any,
        steps: Any,
        out: Any,
        pitch: Any,
        apart: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, stride, start, weights_at, steps, out, pitch, apart = arguments
            word, address = ir.IntType(32), x.type
            vector = ir.VectorType(word, 16)
            dot = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                "llvm.x86.avx512.vpdpbusd.512",
            )
            # the last rows, or the only ones: they read weights once
            is_last = rows == 1 or (rows == 2 and weights == "sides")
            products, zero = 1 if weights == "all" else 2, ir.Constant(vector, [0] * 16)
            behind = 2 if weights == "pair" else 1
            lines = _at_rows(builder, x, stride, rows * behind)
            sums: list[list[list[Any]]] = []
            for r in range(rows):
                begin = zero
                if weights != "sides":
                    begin = _broadcast(builder, _at(builder, start, r, 4, word))
                sums.append(
                    [
                        [cgutils.alloca_once_value(builder, first) for _ in range(vectors)]
                        for first in (begin, begin if weights == "sides" else zero)[:products]
                    ]
                )
            with cgutils.for_range(builder, steps) as loop:
                offset = builder.mul(loop.index, ir.Constant(address, 4 * TILE))
                block = builder.add(weights_at, offset)
                for j in range(vectors if is_last else 0):
                    _fetch(builder, builder.add(block, ir.Constant(address, _AHEAD + 64 * j)), 0)
                loaded = [
                    _variants(
                        builder,
                        builder.load(_at(builder, block, j, 64, vector), align=1),
                        weights,
                    )
                    for j in range(vectors)
                ]
                for r in range(rows):
                    fours = [
                        _broadcast(builder, _at(builder, line, loop.index, 4, word))
                        for line in lines[behind * r : behind * (r + 1)]
                    ]
                    for j in range(vectors):
                        for product in range(products):
                            place = sums[r][product][j]
                            four = fours[product % behind]
                            total = builder.load(place)
                            total = builder.call(dot, [total, loaded[j][product], four])
                            builder.store(total, place)
            for product, base in enumerate(_at_rows(builder, out, apart, products)):
                for r, line in enumerate(_at_rows(builder, base, pitch, rows)):
                    for j in range(vectors):
                        place = _at(builder, line, j, 64, vector)
                        builder.store(builder.load(sums[r][product][j]), place, align=1)
            return context.get_dummy_value()

        u = types.uintp
        return types.void(u, u, u, u, types.intp, u, u, u), generate

    return tile


_four_all, _one_all = _tile_of(4, 4, "all"), _tile_of(1, 4, "all")
_two_pairs, _one_pair = _tile_of(2, 4, "pair"), _tile_of(1, 4, "pair")
_four_sides, _two_sides, _one_sides = (
    _tile_of(4, 2, "sides"), _tile_of(2, 4, "sides"), _tile_of(1, 4, "sides")
)  # fmt: skip
ALL, PAIRS, SIDES = 0, 1, 2  # of the weights, in a product


def _multiply_tiles(
    lines: Any, starts: Any, weights: Any, k: int, steps: int, first: int, part: int, product: Any
) -> None:
    n, width = product.shape[1:]
    stride, pitch = np.uintp(lines.strides[0]), np.uintp(product.strides[1])
    apart, x, start = np.uintp(product.strides[0]), lines.ctypes.data, starts.ctypes.data
    step = np.uintp(lines.strides[0] * (2 if part == 1 else 1))
    for tile in range((width + 63) // 64):
        w = np.uintp(weights[first // 64 + tile, k].ctypes.data)
        out, i = product.ctypes.data + 256 * tile, 0
        while i < n:
            line, place = np.uintp(x + i * step), np.uintp(out + i * pitch)
            begin = np.uintp(start + 4 * i)
            if part == 0 and i + 4 <= n:
                _four_all(line, stride, begin, w, steps, place, pitch, apart)
                i += 4
            elif part == 0:
                _one_all(line, stride, begin, w, steps, place, pitch, apart)
                i += 1
            elif part == 1 and i + 2 <= n:
                _two_pairs(line, stride, begin, w, steps, place, pitch, apart)
                i += 2
            elif part == 1:
                _one_pair(line, stride, begin, w, steps, place, pitch, apart)
                i += 1
            elif i + 4 <= n:
                _four_sides(line, stride, begin, w, steps, place, pitch, apart)
                w_half, half = np.uintp(w + 128), np.uintp(place + 128)
                _four_sides(line, stride, begin, w_half, steps, half, pitch, apart)
                i += 4
            elif i + 2 <= n:
                _two_sides(line, stride, begin, w, steps, place, pitch, apart)
                i += 2
            else:
                _one_sides(line, stride, begin, w, steps, place, pitch, apart)
                i += 1


def _multiply_loops(
    lines: Any, starts: Any, weights: Any, k: int, steps: int, first: int, part: int, product: Any
) -> None:
    n, width = product.shape[1:]
    length = 4 * steps
    for m in range(min(width, len(weights) - first)):
        weight = weights[first + m, 4 * k : 4 * k + length]
        for i in range(n):
            row = lines[2 * i if part == 1 else i]
            total, other = np.int32(0), np.int32(0)
            if part == 2:
                for j in range(length):
                    total += np.int32(row[j]) * max(np.int32(weight[j]), np.int32(0))
                    other += np.int32(row[j]) * np.int32(weight[j])
                product[1, i, m] = total - other
            else:
                for j in range(length):
                    total += np.int32(row[j]) * np.int32(weight[j])
            product[0, i, m] = total
            if part == 1:
                behind = lines[2 * i + 1]
                for j in range(length):
                    other += np.int32(behind[j]) * abs(np.int32(weight[j]))
                product[1, i, m] = other


multiply_bytes = _borrowing(_multiply_tiles if HAS_DOT else _multiply_loops)
"""Multiply int8 lines by the weights of outputs `first` on: into int32 [1 or 2, n, width].

Parameters
----------
lines : int8 [n, K or more], from `bytes_of`; a line may follow the one before at any distance
starts : int32 [n], likewise
weights : of one matrix, from `packed`
k, steps : the first four columns of the weights, and how many times four
first, width : multiples of 64 if the processor has the instruction
part : `ALL` of the weights; `SIDES`, of max(w, 0) and max(-w, 0); or `PAIRS`: the second product is
    of |w| and the line behind each row, so that n is half of the lines
"""


@intrinsic
def _array(context: Any, address: Any, shape: Any, kind: Any) -> Any:
    """Return the contiguous array at an address; `carray` counts references."""
    array = types.Array(kind.dtype, len(shape), "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = context.make_array(array)(context, builder)
        sizes = [
            context.cast(builder, size, kind, types.intp)
            for size, kind in zip(cgutils.unpack_tuple(builder, arguments[1]), shape, strict=True)
        ]
        width = context.get_abi_sizeof(context.get_data_type(array.dtype))
        item = context.get_constant(types.intp, width)
        strides = [item]
        for size in reversed(sizes[1:]):
            strides.insert(0, builder.mul(strides[0], size))
        data = builder.inttoptr(arguments[0], result.data.type)
        populate_array(result, data, sizes, strides, item, meminfo=None)
        return result._getvalue()

    return array(types.int64, shape, kind), generate


@_joined
def _after(array: Any) -> int:
    """Return the first address behind an array that begins a line of a cache."""
    return (array.ctypes.data + array.size * array.itemsize + 63) // 64 * 64


@_inlined
def _tiles_at(address: int, matrices: int, tiles: int, stored: int) -> Any:
    return _array(address, (matrices, tiles, stored // 4, TILE, 4), np.uint8)


@_inlined
def _plain_at(address: int, matrices: int, outputs: int, stored: int) -> Any:
    return _array(address, (matrices, outputs, stored), np.int8)


def packed(weights: Any) -> Any:
    """Return int8 weights [M, K] in the form of `multiply_bytes`.

    Returns
    -------
    weights : uint8 [M / 64, K / 4, 64, 4]; int8 [M, K up to a multiple of 4] without the
        instruction
    """
    outputs, length = weights.shape
    columns = -(-length // 4) * 4
    if not HAS_DOT:
        plain = np.zeros((outputs, columns), dtype=np.int8)
        plain[:, :length] = weights
        return plain
    padded = np.full((-(-outputs // TILE) * TILE, columns), 128, dtype=np.uint8)
    padded[:outputs, :length] = weights.view(np.uint8) ^ np.uint8(128)
    tiles = padded.reshape(-1, TILE, columns // 4, 4)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))


def unpacked(weights: Any, outputs: int, length: int) -> Any:
    """Return the int8 weights [M, K] from their packed form."""
    if not HAS_DOT:
        return np.ascontiguousarray(weights[:outputs, :length])
    padded = weights.transpose(0, 2, 1, 3).reshape(-1, 4 * weights.shape[1])
    plain = padded[:outputs, :length] ^ np.uint8(128)
    return np.ascontiguousarray(plain).view(np.int8)


@_borrowing
def bytes_of(integers: Any, rows: Any, starts: Any) -> None:
    """Convert int16 rows [n, K] of 8-bit integers for `multiply_bytes`.

    Parameters
    ----------
    rows : int8 [n, K up to a multiple of 4], result
    starts : int32 [n], result: -128 times the sum of the row
    """
    n, length = integers.shape
    for i in range(n):
        line, row = integers[i], rows[i]
        total = np.int32(0)
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
    bytes_of(integers, rows, starts)
    product = np.empty((2, 6, 128), np.int32)
    exact, wide = integers.astype(np.int64), weights.T.astype(np.int64)
    sides = (np.maximum(wide, 0), np.maximum(-wide, 0))
    for part, wanted in ((ALL, (wide,)), (SIDES, sides)):
        multiply_bytes(rows, starts, packed(weights), 0, 18, 0, part, product[: len(wanted)])
        if not all(np.array_equal(product[i], exact @ side) for i, side in enumerate(wanted)):
            return False
    half, three = product[:, :3], np.ascontiguousarray(starts[::2])
    multiply_bytes(rows, three, packed(weights), 0, 18, 0, PAIRS, half)
    pairs = (exact[::2] @ wide, exact[1::2] @ np.abs(wide))
    return all(np.array_equal(half[i], pair) for i, pair in enumerate(pairs))


if HAS_DOT and not _is_exact():
    HAS_DOT = False
    multiply_bytes = _borrowing(_multiply_loops)


@_compiled
def add_planes(high: Any, low: Any, product: Any) -> None:
    """Store 256 high + low of int32 or float64 products in `product`, float64 [n, width]."""
    n, width = product.shape
    for i in range(n):
        one, other, both = high[i], low[i], product[i]
        for k in range(width):
            both[k] = 256.0 * one[k] + other[k]


# --- random numbers ------------------------------------------------------------------------------

_FACTORS, _STEPS, _LOW = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 0xFFFFFFFF
_CELL, _SIXTEEN = np.uint32(0xFFFF), np.uint32(16)


def _keys_of(builder: Any, key0: Any, key1: Any) -> list[tuple[Lanes, Lanes]]:
    """Return the keys of the ten rounds of Philox4x32."""
    keys = []
    for turn in range(10):
        pair = []
        for key, step in zip((key0, key1), _STEPS, strict=True):
            sum_ = builder.add(key, ir.Constant(LONG, turn * step))
            pair.append(broadcast(builder, builder.and_(sum_, ir.Constant(LONG, _LOW))))
        keys.append((pair[0], pair[1]))
    return keys


def _halves_of(builder: Any, row: Any) -> tuple[Lanes, Lanes]:
    """Return the lower and the upper word of a row's id."""
    whole = broadcast(builder, row)
    return whole & _LOW, whole >> 32


def _words_of(
    block: Lanes, row: tuple[Lanes, Lanes], name: Lanes, keys: list[tuple[Lanes, Lanes]]
) -> list[Lanes]:
    """Return the four words of 16 blocks, int32; `noise.random_words` has the same rounds."""
    a, b, c, d = block, row[0], row[1], name
    for key0, key1 in keys:
        one, other = (a & _LOW) * _FACTORS[0], (c & _LOW) * _FACTORS[1]
        a, c = (other >> 32) ^ (b & _LOW) ^ key0, (one >> 32) ^ (d & _LOW) ^ key1
        b, d = other, one
    return [word.cast("trunc", WORD) for word in (a, b, c, d)]


def _normal_of(cell: Lanes, table: Any) -> Lanes:
    """Return the entries of `noise.quantiles` at cells, int32."""
    if not HAS_FUSED:
        return cell.gathered(table).cast("bitcast", FLOAT)
    numbers = cell.cast("sitofp", FLOAT)
    width = numbers.constant(np.float32(1 / 32768))
    x = numbers.fused(width, np.float32(0.5 / 32768 - 1))
    bits = (-x).fused(x, 1.0).cast("bitcast", WORD)
    exponent = ((bits >> 23) - 127).cast("sitofp", FLOAT)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).cast("bitcast", FLOAT)
    logarithm = exponent.fused(x.constant(np.float32(math.log(2))), _evaluated(LOGARITHM, mantissa))
    return _evaluated(QUANTILE, -logarithm) * x


def _evaluated(coefficients: tuple[float, ...], x: Lanes) -> Lanes:
    """Return a polynomial, from the coefficients of falling powers."""
    value = x.constant(np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        value = value.fused(x, np.float32(coefficient))
    return value


@intrinsic
def _fill_normals(
    context: Any, z: Any, table: Any, groups: Any, key0: Any, key1: Any, row: Any, name: Any,
    block: Any,
) -> Any:  # fmt: skip
    """Fill z with the normal numbers of groups of 128 outputs; return how many are outermost."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        z, table, groups, key0, key1, row, name, block = arguments
        keys, of_row = _keys_of(builder, key0, key1), _halves_of(builder, row)
        counter, of_name = Counter(builder), broadcast(builder, name)
        with cgutils.for_range(builder, groups) as loop:
            first = builder.add(block, builder.mul(loop.index, ir.Constant(LONG, 16)))
            blocks = broadcast(builder, first) + numbered(builder, LONG)
            place = builder.add(z, builder.mul(loop.index, ir.Constant(LONG, 512)))
            for word in _words_of(blocks, of_row, of_name, keys):
                for cell in (word & 0xFFFF, word >> 16):
                    _normal_of(cell, table).store(place)
                    counter.add(((cell + 1) & 0xFFFF).compare("<=", 1))
                    place = builder.add(place, ir.Constant(LONG, 64))
        return counter.total()

    u, i = types.uint64, types.int64
    return i(u, u, i, u, u, u, u, u), generate


@intrinsic
def _fill_words(
    context: Any, words: Any, pitch: Any, count: Any, key0: Any, key1: Any, row: Any, name: Any,
    block: Any,
) -> Any:  # fmt: skip
    """Fill four arrays, `pitch` bytes apart, with the words of `count` blocks, 16 at a time."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, pitch, count, key0, key1, row, name, block = arguments
        keys, of_row = _keys_of(builder, key0, key1), _halves_of(builder, row)
        of_name = broadcast(builder, name)
        rounds = builder.sdiv(builder.add(count, ir.Constant(LONG, 15)), ir.Constant(LONG, 16))
        with cgutils.for_range(builder, rounds) as loop:
            first = builder.add(block, builder.mul(loop.index, ir.Constant(LONG, 16)))
            blocks = broadcast(builder, first) + numbered(builder, LONG)
            place = builder.add(words, builder.mul(loop.index, ir.Constant(LONG, 64)))
            for word in _words_of(blocks, of_row, of_name, keys):
                word.store(place)
                place = builder.add(place, pitch)
        return context.get_dummy_value()

    u, i = types.uint64, types.int64
    return types.void(u, u, i, u, u, u, u, u), generate


@_inner
def _draw_words(words: Any, count: int, key: Any, row: Any, name: int, block: int) -> None:
    """Fill words uint32 [4, count up to a multiple of 16] with those of blocks from `block` on."""
    _fill_words(
        np.uint64(words.ctypes.data), np.uint64(words.strides[0]), count, key[0], key[1],
        np.uint64(row), np.uint64(name), np.uint64(block),
    )  # fmt: skip


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


@_inner
def tail_quantile(probability: float) -> float:
    """Return the |z| that a standard normal number exceeds with a probability below 1e-4.

    Algorithm AS 241 (Wichura 1988), the branches for tails, as in `statistics.NormalDist`.
    """
    r = math.sqrt(-math.log(probability))
    if r <= 5.0:
        return _horner(r - 1.6, _NEAR_TOP) / _horner(r - 1.6, _NEAR_BOTTOM)
    return _horner(r - 5.0, _FAR_TOP) / _horner(r - 5.0, _FAR_BOTTOM)


@_inner
def _outer(cell: int, high: Any, low: Any) -> Any:
    """Return the normal number of an outermost cell, from two more words."""
    bits = (np.uint64(high) << np.uint64(21)) | (np.uint64(low) >> np.uint64(11))
    tail = np.float32(tail_quantile((np.float64(bits) + 0.5) * 2.0**-53 / 65536))
    return -tail if cell == 0 else tail


@over_lanes(arrays=2, scalars=[])
def _normals_at(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> None:
    """Store the normal numbers of cells."""
    cells, z = places
    _normal_of(load(builder, cells, WORD), cells).store(z)


@_borrowing
def _all_normals(cells: Any, z: Any) -> None:
    _normals_at(np.uint64(cells.ctypes.data), np.uint64(z.ctypes.data), z.size)


def _has_fused() -> bool:
    """Return whether compiled polynomials give the bits of the table; some processors cannot."""
    if "+fma" not in _FEATURES and not _IS_ARM:
        return False
    cells, z = np.arange(CELLS, dtype=np.int32), np.empty(CELLS, dtype=np.float32)
    _all_normals(cells, z)
    return np.array_equal(z, quantiles())


HAS_FUSED = True  # while it is tested
HAS_FUSED = _has_fused()


class Space(NamedTuple):
    """The buffers of a reading, for some outputs: in a first-level cache."""

    z: Any
    value: Any
    arrived: Any
    total: Any
    width: Any
    inverse: Any
    counted: Any
    means: Any
    electrons: Any
    others: Any
    factors: Any
    drawn: Any


@_inlined
def _space_at(address: int, outputs: int) -> Any:
    """Return the buffers at an address for a number of outputs."""
    padded = (outputs + 127) // 128 * 128
    floats = _array(address, (10, padded), np.float32)
    counted = _array(_after(floats), (padded,), np.int32)
    drawn = _array(_after(counted), (4, padded), np.uint32)
    return Space(
        floats[0], floats[1], floats[2], floats[3], floats[4], floats[5], counted, floats[6],
        floats[7], floats[8], floats[9], drawn,
    )  # fmt: skip


@_joined
def _gaussians(
    space: Any, first: int, count: int, row: Any, name: int, key: Any, table: Any
) -> None:
    """Fill `space.z` with the normal numbers of outputs `first`, a multiple of 128, and more.

    Parameters
    ----------
    row : uint64, its id
    """
    groups, z, words = (count + 127) // 128, space.z, space.drawn
    outermost = _fill_normals(
        np.uint64(z.ctypes.data), np.uint64(table.ctypes.data), groups, key[0], key[1],
        np.uint64(row), np.uint64(name), np.uint64(first // 8),
    )  # fmt: skip
    if not outermost:
        return
    least = table[1]
    for k in range(count):
        if abs(z[k]) > -least:
            _draw_words(words, 1, key, row, name + TAIL, first + k)
            z[k] = _outer(0 if z[k] < np.float32(0) else 1, words[0, 0], words[1, 0])


@_inner
def _source_factors(
    factors: Any, rms: Any, row: Any, name: int, key: Any, space: Any, table: Any
) -> None:
    """Fill factors float32 [frames] with those of one exposure: 1 + rms z."""
    for first in range(0, factors.size, 128):
        count = min(128, factors.size - first)
        words = space.drawn
        _draw_words(words, (count + 7) // 8, key, row, name, first // 8)
        for k in range(count):
            word = words[k % 8 // 2, k // 8]
            cell = np.int32((word >> _SIXTEEN) if k % 2 else (word & _CELL))
            factors[first + k] = np.float32(1) + rms * table[cell]


_ALIAS = alias_tables()


def _looked_up(tables: Any, table: Lanes, word: Lanes) -> Lanes:
    """Return the counts that words draw from alias tables; see `poisson`."""
    slot = word & (SLOTS - 1)
    entry = (table * SLOTS + slot).gathered(tables)
    return (word >> 8).compare("<", entry >> 8).select(slot, entry & (SLOTS - 1))


@over_lanes(arrays=6, scalars=[types.uint64, types.float32])
def _draw_counts(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> Lanes:
    """Store Poisson counts of means below 128, as `poisson.poisson` does; count larger means.

    Arrays: results, means, which results are used, three arrays of words. Scalars: address of the
    tables, 128.
    """
    result, means, used, one, two, three = places
    tables, below = builder.extract_element(scalars[0].value, ir.Constant(WORD, 0)), scalars[1]
    whole = load(builder, means)
    mean = whole.compare("<", below).select(whole, whole.constant(0.0))
    a = (mean * 0.25).cast("fptosi", WORD)
    rest = mean - a.cast("sitofp", FLOAT) * 4.0
    b = (rest * 4.0).cast("fptosi", WORD)
    rest = rest - b.cast("sitofp", FLOAT) * 0.25
    counts = _looked_up(tables, a, load(builder, one, WORD))
    counts = counts + _looked_up(tables, b + COARSE, load(builder, two, WORD))
    v = load(builder, three, WORD).cast("uitofp", FLOAT) * 2.0**-32
    probability = rest.constant(EXPONENTIAL[0])
    for coefficient in EXPONENTIAL[1:]:
        probability = probability * rest + np.float32(coefficient)
    terms = [probability * rest]
    for inverse in INVERSES:
        terms.append(terms[-1] * rest * np.float32(inverse))
    found, tail = counts.cast("sitofp", FLOAT), rest.constant(0.0)
    for term in reversed(terms):
        tail = tail + term
        found = found + v.compare("<", tail).select(rest.constant(1.0), rest.constant(0.0))
    found.store(result)
    return whole.compare(">=", below) & load(builder, used, WORD).compare("!=", 0)


# --- light to numbers ----------------------------------------------------------------------------


@_inner
def _draw_wells(electrons: Any, space: Any, count: int, detector: Any, table: Any) -> int:
    """Replace means of electrons by drawn counts; return how many counted detectors are full."""
    means, counted, words = space.means, space.counted, space.drawn
    one, full = np.uint64(words.ctypes.data), 0
    pitch, alias = np.uint64(words.strides[0]), np.uint64(_ALIAS.ctypes.data)
    many = _draw_counts(
        np.uint64(electrons.ctypes.data), np.uint64(means.ctypes.data),
        np.uint64(counted.ctypes.data), one, one + pitch, one + pitch + pitch, count, alias,
        np.float32(128),
    )  # fmt: skip
    if many:
        for k in range(count):
            if means[k] >= np.float32(128):
                cell = np.int32(words[3, k] & _CELL)
                z = table[cell]
                if cell == 0 or cell == 65535:
                    z = _outer(cell, words[0, k], words[1, k])
                electrons[k] = means[k] + np.sqrt(means[k]) * z
    most = np.float32(detector.full_well + detector.dark)
    if most != np.inf:
        for k in range(count):
            if counted[k] and electrons[k] > most:
                full += 1
            electrons[k] = min(electrons[k], most)
    return full


@over_lanes(arrays=3, scalars=[types.float32] * 4)
def _means_of(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> None:
    """Store max((arrived + gain value) / 2, 0) photons + dark of one of two detectors."""
    mean, arrived, value = places
    gain, half, photons, dark = scalars
    light = (load(builder, arrived) + load(builder, value) * gain) * half
    (light.most(0.0) * photons + dark).store(mean)


@over_lanes(arrays=5, scalars=[types.float32] * 2)
def _keep_counted(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> None:
    """Replace counted values by (electrons - others + quiet z) per_electron."""
    value, electrons, others, z, counted = places
    quiet, per_electron = scalars
    total = load(builder, electrons) - load(builder, others)
    drawn = (total + quiet * load(builder, z)) * per_electron
    where = load(builder, counted, WORD).compare("!=", 0)
    where.select(drawn, load(builder, value)).store(value)


@_inner
def _count_electrons(
    space: Any, count: int, first: int, terms: Any, gain: Any, stream: Any, detector: Any,
    table: Any,
) -> int:  # fmt: skip
    """Replace the values of counted outputs by drawn electrons; return the full detectors."""
    arrived, value = np.uint64(space.arrived.ctypes.data), np.uint64(space.value.ctypes.data)
    means, others = np.uint64(space.means.ctypes.data), space.others
    dark, photons, quiet = np.float32(detector.dark), terms[5], np.float32(detector.quiet_sigma)
    half, (row, name, key) = np.float32(0.5), stream
    _draw_words(space.drawn, count, key, row, name + COUNT, first)
    if detector.balanced:
        _means_of(means, arrived, value, count, gain, half, photons, dark)
        full = _draw_wells(space.electrons, space, count, detector, table)
        _draw_words(space.drawn, count, key, row, name + COUNT + 1, first)
        _means_of(means, arrived, value, count, -gain, half, photons, dark)
        full += _draw_wells(others, space, count, detector, table)
    else:
        _means_of(means, arrived, arrived, count, np.float32(0), np.float32(1), photons, dark)
        full = _draw_wells(space.electrons, space, count, detector, table)
        for k in range(count):
            others[k] = dark
    _keep_counted(
        value, np.uint64(space.electrons.ctypes.data), np.uint64(others.ctypes.data),
        np.uint64(space.z.ctypes.data), np.uint64(space.counted.ctypes.data), count, quiet,
        terms[6],
    )  # fmt: skip
    return full


@over_lanes(arrays=3, scalars=[types.float32] * 4)
def _choose(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> Lanes:
    """Store 1 where electrons are counted: in weak light, and near a full well; count them.

    Scalars: weak_below, nearly_full, gain and share: a detector has (arrived + |value gain|) share.
    """
    counted, arrived, value = places
    weak_below, nearly_full, gain, share = scalars
    light = load(builder, arrived)
    other = load(builder, value) * gain
    of_one = (light + other.most(-other)) * share
    chosen = light.compare("<", weak_below) | of_one.compare(">", nearly_full)
    chosen.cast("zext", WORD).store(counted)
    return chosen


@over_lanes(arrays=4, scalars=[types.float32] * 2)
def _add_noise_of_each(
    builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes
) -> None:
    """Add sqrt(max(arrived, 0) per_light + dark) z to the values that are not counted."""
    value, arrived, z, counted = places
    per_light, dark = scalars
    before = load(builder, value)
    sigma = (load(builder, arrived).most(0.0) * per_light + dark).call("sqrt")
    after = before + sigma * load(builder, z)
    load(builder, counted, WORD).compare("!=", 0).select(before, after).store(value)


@over_lanes(arrays=3, scalars=[types.float32])
def _add_noise_of_all(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> None:
    """Add sigma z to the values that are not counted."""
    value, z, counted = places
    before = load(builder, value)
    after = before + scalars[0] * load(builder, z)
    load(builder, counted, WORD).compare("!=", 0).select(before, after).store(value)


@_inner
def _add_noise(
    space: Any, count: int, first: int, is_even: bool, terms: Any, gain: Any, stream: Any,
    detector: Any, table: Any,
) -> int:  # fmt: skip
    """Add the noise of light and reading to the values; return how many detectors are full.

    Parameters
    ----------
    is_even : whether the light is the same at all outputs
    stream : id of the row, tag of the reading, and `product_key`
    """
    row, name, key = stream
    value, arrived, z, counted = (
        np.uint64(space.value.ctypes.data), np.uint64(space.arrived.ctypes.data),
        np.uint64(space.z.ctypes.data), np.uint64(space.counted.ctypes.data),
    )  # fmt: skip
    per_light, dark, full = terms[0], terms[1], 0
    share, of_value = np.float32(1), np.float32(0)
    if detector.balanced:
        share, of_value = np.float32(0.5), gain
    _gaussians(space, first, count, row, name, key, table)
    nearly_full = terms[4]
    chosen = _choose(counted, arrived, value, count, terms[2], nearly_full, of_value, share)
    if chosen:
        full = _count_electrons(space, count, first, terms, gain, stream, detector, table)
    if chosen == count:
        return full
    if is_even:
        sigma = np.sqrt(max(space.arrived[0], np.float32(0)) * per_light + dark)
        _add_noise_of_all(value, z, counted, count, sigma)
    else:
        _add_noise_of_each(value, arrived, z, counted, count, per_light, dark)
    return full


@over_lanes(arrays=3, scalars=[types.float32] * 6)
def _add_codes(builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes) -> Lanes:
    """Round values to codes, and add them with a sign to totals; count those that saturate.

    Arrays: totals, values, inverse steps. Scalars: sign, pedestal, lowest and highest code, and
    the limits beyond which a value saturates.
    """
    total, value, inverse = places
    sign, pedestal, lowest, highest, low_end, high_end = scalars
    code = (load(builder, value) + pedestal) * load(builder, inverse)
    shown = code.call("rint").most(lowest).least(highest)
    (load(builder, total) + sign * shown).store(total)
    return code.compare(">", high_end) | code.compare("<", low_end)


@_inner
def _convert(
    space: Any, count: int, converter: Converter, pedestal: Any, sign: Any, detector: Any
) -> int:
    """Add saturated values, or their codes, to the totals; return how many saturated."""
    total, value = space.total[:count], space.value[:count]
    if detector.converts == 2:
        codes = detector.codes
        return _add_codes(
            np.uint64(total.ctypes.data), np.uint64(value.ctypes.data),
            np.uint64(space.inverse.ctypes.data), count, sign,
            np.float32(0) if detector.balanced else pedestal, np.float32(codes[0]),
            np.float32(codes[1]), np.float32(codes[3]), np.float32(codes[4]),
        )  # fmt: skip
    saturated = 0
    if detector.converts == 1:
        limit = converter.limit
        for k in range(count):
            least = -limit[k] if detector.balanced else -pedestal
            shown = min(max(value[k], least), limit[k])
            saturated += shown != value[k]
            value[k] = shown
    for k in range(count):
        total[k] += sign * value[k]
    return saturated


def _reader_of(light: str, has_source: bool) -> Any:
    """Return a loop that reads outputs once: light, noise, code, and the sum of codes.

    Outputs in weak light or near a full well are left out and counted: their values and light are
    stored, and so is which they are.

    Parameters
    ----------
    light : "own", of the sums that are read; "other" sums; or "even", of the row alone
    has_source : whether each output has a brightness factor
    """

    @over_lanes(arrays=10, scalars=[types.float32] * 15)
    def reader(
        builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes
    ) -> tuple[Lanes, Lanes]:
        total, sums, lights, light_term, factors, z, inverse, arrived, value, counted = places
        light_unit, row_light, inverse_gain, gain, share, per_light, dark, *others = scalars
        weak_below, nearly_full, sign, pedestal, lowest, highest, low_end, high_end = others
        read = load(builder, sums, WORD).cast("sitofp", FLOAT)
        lit = row_light
        if light != "even":
            lit = read if light == "own" else load(builder, lights, WORD).cast("sitofp", FLOAT)
            lit = lit * light_unit + row_light + load(builder, light_term)
        if has_source:
            factor = load(builder, factors)
            lit, read = lit * factor, read * factor
        shown = lit * inverse_gain if light == "own" else read
        side = shown * gain
        of_one = (lit + side.most(-side)) * share
        chosen = lit.compare("<", weak_below) | of_one.compare(">", nearly_full)
        sigma = (lit.most(0.0) * per_light + dark).call("sqrt")
        code = (shown + sigma * load(builder, z) + pedestal) * load(builder, inverse)
        before = load(builder, total)
        after = before + sign * code.call("rint").most(lowest).least(highest)
        chosen.select(before, after).store(total)
        lit.store(arrived)
        shown.store(value)
        chosen.cast("zext", WORD).store(counted)
        beyond = code.compare(">", high_end) | code.compare("<", low_end)
        return chosen, chosen.select(chosen ^ chosen, beyond)

    return reader


_read_own, _read_own_lit = _reader_of("own", False), _reader_of("own", True)
_read_other, _read_other_lit = _reader_of("other", False), _reader_of("other", True)
_read_even = _reader_of("even", False)


@over_lanes(arrays=4, scalars=[types.float32] * 6)
def _add_counted_codes(
    builder: Any, places: list[Any], scalars: list[Lanes], inside: Lanes
) -> Lanes:
    """Do what `_add_codes` does, where electrons were counted."""
    total, value, inverse, counted = places
    sign, pedestal, lowest, highest, low_end, high_end = scalars
    code = (load(builder, value) + pedestal) * load(builder, inverse)
    before, where = load(builder, total), load(builder, counted, WORD).compare("!=", 0)
    after = before + sign * code.call("rint").most(lowest).least(highest)
    where.select(after, before).store(total)
    return where & (code.compare(">", high_end) | code.compare("<", low_end))


@_joined
def _read_in_light(
    space: Any, block: Any, kinds: int, row: int, reading: int, detector: Any, noise: Any,
    table: Any,
) -> int:  # fmt: skip
    """Read one reading of a row, with noise and codes; return how many outputs saturated."""
    rails, count = detector.rails, block.converter.scale.size
    exposure, rail = reading // rails, reading % rails
    number, place = 0, row
    if block.lines:  # the lines of x+ and x- follow one another
        number, place = (rail if kinds == 2 else 0), row * block.lines + exposure
    terms, codes, first = block.rows[:, row], detector.codes, block.first
    stream = (noise.rows[row], noise.segment << 8 | reading << 4, noise.key)
    _gaussians(space, first, count, stream[0], stream[1], noise.key, table)
    sums = np.uint64(block.sums[number, place].ctypes.data)
    lights = np.uint64(block.sums[kinds - 1, place].ctypes.data)
    gain, share, pedestal = np.float32(0), np.float32(1), terms[3]
    if detector.balanced:
        gain, share, pedestal = np.float32(block.gains[1]), np.float32(0.5), np.float32(0)
    sign = np.float32(1 if exposure == rail else -1)
    arrays = (
        np.uint64(space.total.ctypes.data), sums, lights,
        np.uint64(block.light_term[rail].ctypes.data), np.uint64(space.factors.ctypes.data),
        np.uint64(space.z.ctypes.data), np.uint64(space.inverse.ctypes.data),
        np.uint64(space.arrived.ctypes.data), np.uint64(space.value.ctypes.data),
        np.uint64(space.counted.ctypes.data),
    )  # fmt: skip
    limits = (
        pedestal, np.float32(codes[0]), np.float32(codes[1]), np.float32(codes[3]),
        np.float32(codes[4]),
    )  # fmt: skip
    scalars = (
        np.float32(block.light_unit[rail]), block.row_light[reading, row],
        np.float32(block.gains[0]), gain, share, terms[0], terms[1], terms[2], terms[4], sign,
        *limits,
    )  # fmt: skip
    if not detector.balanced:
        if block.source.shape[2]:
            found = _read_own_lit(*arrays, count, *scalars)
        else:
            found = _read_own(*arrays, count, *scalars)
    elif kinds == 2 and block.source.shape[2]:
        found = _read_other_lit(*arrays, count, *scalars)
    elif kinds == 2:
        found = _read_other(*arrays, count, *scalars)
    else:
        found = _read_even(*arrays, count, *scalars)
    saturated, chosen = found >> 32, found & 0xFFFFFFFF
    if chosen:
        saturated += _count_electrons(
            space, count, first, terms, np.float32(block.gains[1]), stream, detector, table
        )
        saturated += _add_counted_codes(
            arrays[0], arrays[8], arrays[6], arrays[9], count, sign, *limits
        )
    return saturated


@_joined
def _spread_factors(space: Any, block: Any, exposure: int, row: int) -> None:
    """Store the brightness factor of each output, that of its frame."""
    factors, frame, first = block.source[exposure, row], block.frame, block.first
    count = block.converter.scale.size
    for start in range(first // frame * frame, first + count, frame):
        factor = factors[start // frame]
        part = space.factors[max(start - first, 0) : min(start + frame - first, count)]
        for k in range(part.size):
            part[k] = factor


@_inlined
def _light_of(space: Any, block: Any, kinds: int, row: int, reading: int, detector: Any) -> None:
    """Store the noise-free values of a reading of one row, and the light, in `space`."""
    rails = detector.rails
    exposure, rail = reading // rails, reading % rails
    count = block.converter.scale.size
    value, arrived = space.value[:count], space.arrived[:count]
    row_light, light_term = block.row_light[reading, row], block.light_term[rail]
    light_unit, inverse_gain = np.float32(block.light_unit[rail]), np.float32(block.gains[0])
    number, place = reading if kinds == rails * rails else exposure, row
    if block.lines > 0:  # the lines of x+ and x- follow one another
        number, place = (rail if kinds == 2 else 0), row * block.lines + exposure
    if detector.balanced:
        sums = block.sums[0, row, :count]
        for k in range(count):
            value[k] = np.float32(sums[k])
        if kinds == 2:
            lights = block.sums[1, row, :count]
            for k in range(count):
                arrived[k] = np.float32(lights[k]) * light_unit + row_light + light_term[k]
        else:
            for k in range(count):
                arrived[k] = row_light
    else:
        sums = block.sums[number, place, :count]
        for k in range(count):
            arrived[k] = np.float32(sums[k]) * light_unit + row_light + light_term[k]
    if block.source.shape[2] > 0:
        factors, frame, first = block.source[exposure, row], block.frame, block.first
        for start in range(first // frame * frame, first + count, frame):
            factor = factors[start // frame]
            low, high = max(start - first, 0), min(start + frame - first, count)
            light, shown = arrived[low:high], value[low:high]
            for k in range(high - low):
                light[k] *= factor
            if detector.balanced:
                for k in range(high - low):
                    shown[k] *= factor
    if not detector.balanced:
        for k in range(count):
            value[k] = arrived[k] * inverse_gain


@_inner
def read_segment(
    y: Any, add: bool, block: Any, kinds: int, detector: Any, noise: Any,
    table: Any, space: Any,
) -> int:  # fmt: skip
    """Read outputs of a segment, and store them in y [n, M] or add them; see `detection`.

    Parameters
    ----------
    kinds : of sums, which `block.sums` begins with
    noise : its key is empty for light without photons
    """
    converter, rails, saturated = block.converter, detector.rails, 0
    count, last_pedestal = converter.scale.size, np.float32(-1)
    total = space.total[:count]
    width, inverse = space.width[:count], space.inverse[:count]
    has_codes = detector.converts == 2 and not detector.balanced
    is_even = detector.balanced and kinds == 1 and block.source.shape[2] == 0
    gain, scale = np.float32(block.gains[1]), converter.scale
    is_fast = block.lines >= 0 and detector.converts == 2 and noise.key.size > 0
    if detector.balanced and kinds == 1 and block.source.shape[2]:
        is_fast = False  # brightness, but one light for all outputs: a rare bench
    for i in range(y.shape[0]):
        rows = block.rows
        terms = (
            rows[0, i], rows[1, i], rows[2, i], rows[3, i], rows[4, i], rows[5, i], rows[6, i],
        )  # fmt: skip
        pedestal, times = rows[3, i], rows[7, i]
        out = y[i, block.first : block.first + count]
        for k in range(count):
            total[k] = np.float32(0)
        if detector.balanced and i == 0:
            for k in range(count):
                inverse[k] = converter.inverse_step[k]
        elif has_codes and pedestal != last_pedestal:
            limit, inverse_steps = converter.limit, np.float32(detector.codes[2])
            for k in range(count):
                width[k] = (limit[k] + pedestal) * inverse_steps
                inverse[k] = np.float32(1) / width[k]
            last_pedestal = pedestal
        for reading in range(rails * detector.exposures):
            exposure = reading // rails
            if exposure and not block.minus[i]:
                break
            sign = np.float32(1 if exposure == reading % rails else -1)
            if is_fast:
                if block.source.shape[2] and reading % rails == 0:
                    _spread_factors(space, block, exposure, i)
                saturated += _read_in_light(space, block, kinds, i, reading, detector, noise, table)
                continue
            _light_of(space, block, kinds, i, reading, detector)
            if noise.key.size:
                stream = (noise.rows[i], noise.segment << 8 | reading << 4, noise.key)
                saturated += _add_noise(
                    space, count, block.first, is_even, terms, gain, stream, detector, table
                )
            saturated += _convert(space, count, converter, pedestal, sign, detector)
        if has_codes:
            for k in range(count):
                total[k] *= width[k]
            if rails == 1:
                for k in range(count):
                    total[k] -= pedestal
        if add:
            for k in range(count):
                out[k] += total[k] * scale[k] * times
        else:
            for k in range(count):
                out[k] = total[k] * scale[k] * times
    return saturated


@_inner
def _read_block(
    memory: Any, y: Any, add: bool, block: Any, detector: Any, noise: Any, table: Any
) -> int:
    space = _space_at(memory.ctypes.data, block.converter.scale.size)
    kinds = block.sums.shape[0]
    return read_segment(y, add, block, kinds, detector, noise, table, space)


@_compiled
def read_block(y: Any, add: bool, plain: Any, detector: Any, noise: Any, table: Any) -> int:
    """Read a block as `read_segment` does; the named tuples are given as plain tuples.

    Parameters
    ----------
    plain : sums [kinds, n, width] and converter, then the other fields of `Block`
    detector : as record
    """
    block = Block(
        plain[2], plain[0], plain[3], plain[4], plain[5], plain[6], plain[7], plain[8], plain[9],
        plain[10], Converter(*plain[1]), -1,
    )  # fmt: skip
    space = _space_at(0, block.converter.scale.size)
    memory = np.zeros(_after(space.drawn), np.uint8)
    return _read_block(memory, y, add, block, detector[0], NoiseKeys(*noise), table)


@_compiled
def add_cross(y: Any, column: int, cross: CrossTerms) -> None:
    """Add a[n] p[width] + b[n] q[width], in float64, to columns of y float32 [n, M]."""
    width = cross.p.size
    for i in range(y.shape[0]):
        out, one, other = y[i, column : column + width], cross.a[i], cross.b[i]
        for k in range(width):
            out[k] = np.float32(np.float64(out[k]) + one * cross.p[k] + other * cross.q[k])


# --- whole products ------------------------------------------------------------------------------


class ByteWeights(NamedTuple):
    """The weights of a product for `multiply`; all arrays may have space for more.

    Parameters
    ----------
    bytes_ : of each matrix as `packed`; each segment begins at a multiple of four columns
    sums : of max(W, 0) and max(-W, 0) over a segment, int32 [m, segments, 2, M]; with the offset
        encoding the first is that of W
    columns : sums over the outputs that light depends on, int64 [m, K]; [m, 0] without
    light_term : see `Block`, float32 [m, segments, 2, M]
    lit : sums of the weights that light each rail, over K and M, int64 [m, segments, 2]
    scale, low, total : of `EncodedWeights`, float64 [m, segments, M]
    limit, inverse_step, factor : of `Converter`, float32 [m, segments, M]
    segments : first column, length, and first stored column, int64 [segments, 3]
    largest : magnitude of inputs of each segment up to which float32 can hold the results
    outputs : M
    """

    bytes_: Any
    sums: Any
    columns: Any
    light_term: Any
    lit: Any
    scale: Any
    low: Any
    total: Any
    limit: Any
    inverse_step: Any
    factor: Any
    segments: Any
    largest: Any
    outputs: int


_bytes_at = _tiles_at if HAS_DOT else _plain_at


@_inlined
def _weights_at(plain: Any) -> Any:
    """Return `ByteWeights` from `PackedWeights.plain`."""
    m, segments, space, of_offset, tiles, stored, columns, used, outputs = (
        plain[0], plain[1], plain[2], plain[3], plain[4], plain[5], plain[6], plain[7], plain[8],
    )  # fmt: skip
    each = (m, segments, space)
    return ByteWeights(
        _bytes_at(plain[9], m, tiles, stored),
        _array(plain[10], (m, segments, 2, space), np.int32),
        _array(plain[11], (m, columns), np.int64),
        _array(plain[12], (m, segments, 2, space), np.float32),
        _array(plain[13], (m, segments, 2), np.int64),
        _array(plain[14], each, np.float64),
        _array(plain[15], (m, segments, of_offset), np.float64),
        _array(plain[16], (m, segments, of_offset), np.float64),
        _array(plain[17], each, np.float32),
        _array(plain[18], each, np.float32),
        _array(plain[19], each, np.float32),
        _array(plain[20], (used, 3), np.int64),
        _array(plain[21], (segments,), np.float64),
        outputs,
    )


class Lines(NamedTuple):
    """The encoded rows of one matrix, for all segments.

    Parameters
    ----------
    shown : int8 [n, variants, stored columns]
    starts : -128 times the sum of the first line of each row, and of all lines in turn, int32
        [segments, 2, n variants]
    row_light, terms, minus, source : see `Block`, with the segments as first axis
    scale, low, passed : of x, float64 [segments, n]; low and passed of the offset encoding only
    """

    shown: Any
    starts: Any
    row_light: Any
    terms: Any
    minus: Any
    source: Any
    scale: Any
    low: Any
    passed: Any


@_inner
def _encode_lines(x: Any, s: int, bench: Any, weights: Any, lines: Any, encoded: Any) -> bool:
    """Encode rows x for segment `s`; return whether they are finite and small enough."""
    n, integers, sums, edges = len(x), encoded[0], encoded[1], encoded[2]
    first, length, stored = weights.segments[s, 0], weights.segments[s, 1], weights.segments[s, 2]
    scale, largest, fits = lines.scale[s], weights.largest[s], True
    if bench.centre < 0:
        encode_signed(x, first, length, bench.levels, integers, scale, sums)
        for i in range(n):
            fits &= scale[i] <= largest
    else:
        encode_offset(x, first, length, bench.levels, bench.centre, integers, edges, sums)
        for i in range(n):
            fits &= max(-edges[i, 0], edges[i, 1]) <= largest
            scale[i] = (edges[i, 1] - edges[i, 0]) / (1 - bench.true_leak)
            lines.low[s, i] = edges[i, 0] - bench.true_leak * scale[i]
            passed = length * bench.leak + bench.unit * sums[i, 0]
            total = scale[i] * passed + length * lines.low[s, i]
            lines.passed[s, i] = total - length * lines.low[s, i]
    for i in range(n):
        row, one = integers[i, :length], lines.shown[i, 0, stored : stored + length]
        if bench.scheme == ONE_SUM:
            for k in range(length):
                one[k] = np.int8(row[k])
            lines.starts[s, 0, i] = np.int32(-128 * sums[i, 0])
            continue
        other = lines.shown[i, 1, stored : stored + length]
        plus, minus = (sums[i, 1] + sums[i, 0]) / 2, (sums[i, 1] - sums[i, 0]) / 2
        if bench.scheme == WITH_LIGHT:
            for k in range(length):
                one[k] = np.int8(row[k])
                other[k] = np.int8(abs(row[k]))
            lines.starts[s, 0, i] = np.int32(-128 * sums[i, 0])
        else:
            for k in range(length):
                one[k] = np.int8(max(row[k], np.int16(0)))
                other[k] = np.int8(max(-row[k], np.int16(0)))
            lines.minus[s, i] = minus > 0
            lines.starts[s, 0, i] = lines.starts[s, 1, 2 * i] = np.int32(-128 * plus)
            lines.starts[s, 1, 2 * i + 1] = np.int32(-128 * minus)
    return fits


@_inlined
def _lit_sum(sums: Any, i: int, exposure: int, bench: Any) -> float:
    """Return the sum of the integers that light an exposure of row `i`."""
    if bench.scheme >= TWO_EXPOSURES:
        return (sums[i, 1] + sums[i, 0]) / 2 if exposure == 0 else (sums[i, 1] - sums[i, 0]) / 2
    return sums[i, 0] if bench.centre >= 0 else sums[i, 1]


@_inlined
def _light_sum(sums: Any, rail: int, output: int, bench: Any) -> Any:
    """Return the sum of the weights that light a rail."""
    plus, minus = np.int64(sums[0, output]), np.int64(sums[1, output])
    if bench.scheme == WITH_LIGHT:
        return plus + minus
    if bench.scheme == FOUR_READINGS:
        return minus if rail else plus
    return plus - minus


@_inlined
def _row_terms(terms: Any, i: int, photons: float, times: float, bench: Any, detector: Any) -> None:
    """Store `RowTerms` of row `i`, as `Detector.row_terms` does."""
    gain = detector.gain * bench.value_unit
    for term in range(7):
        terms[term, i] = 0
    terms[4, i] = np.inf
    if photons > 0:
        per_value = 1 / (photons * gain)
        detectors = 2 if detector.balanced else 1
        terms[0, i] = np.float32(per_value / gain)
        terms[1, i] = np.float32(detector.variance * per_value * per_value)
        terms[2, i] = np.float32((128.0 - detectors * detector.dark) / photons)
        terms[3, i] = np.float32(detector.pedestal * per_value)
        terms[4, i] = np.float32(detector.nearly_full / photons)
        terms[5, i] = np.float32(photons)
        terms[6, i] = np.float32(per_value)
    terms[7, i] = np.float32(times)


@_inner
def _light_rows(
    s: int, matrix: int, bench: Any, weights: Any, detector: Any, lines: Any,
    encoded: Any, light: Any,
) -> None:  # fmt: skip
    """Compute the light of rows: what each reading and its noise need, and the photons of each."""
    n, rails, outputs = len(light), detector.rails, weights.outputs
    integers, sums, both = encoded[0], encoded[1], encoded[3]
    length, first = weights.segments[s, 1], weights.segments[s, 0]
    terms, leak = lines.terms[s], bench.leak
    if bench.scheme < TWO_EXPOSURES and bench.centre < 0:
        leak = 2 * bench.leak  # x+ and x- side by side
    constant = bench.dark * length * outputs
    if bench.dark == 0:
        for rail in range(rails):
            total = weights.lit[matrix, s, rail]
            unit, each = bench.rail_unit[rail], bench.rail_constant[rail] * length
            constant += leak * (unit * total + each * outputs)
    per_sum = 0.0
    for rail in range(rails):
        per_sum += bench.per_sum[rail] * outputs
    columns = weights.columns[matrix]
    if columns.size and (bench.photons > 0 or bench.per_mac > 0 or bench.entering_per_mac > 0):
        sums_with(integers, columns[first : first + length], both)
    for i in range(n):
        row_light, entering = 0.0, 0.0
        for exposure in range(detector.exposures):
            lit = _lit_sum(sums, i, exposure, bench)
            for rail in range(rails):
                own = bench.per_sum[rail] * lit
                if bench.dark != 0:
                    own += bench.dark * length
                lines.row_light[s, exposure * rails + rail, i] = np.float32(own)
            if exposure and not lines.minus[s, i]:
                break
            of_exposure = per_sum * lit + constant
            if columns.size:
                signed, magnitude = np.float64(both[i, 0]), np.float64(both[i, 1])
                part = magnitude if bench.centre < 0 else signed
                if bench.scheme >= TWO_EXPOSURES:
                    part = (magnitude + signed) / 2 if exposure == 0 else (magnitude - signed) / 2
                of_exposure += bench.total_unit * part
            of_entering = bench.unit * lit + leak * length
            if exposure:
                row_light = row_light + of_exposure
                entering = entering + of_entering
            else:
                row_light, entering = of_exposure, of_entering
        photons, is_lit = bench.photons, True
        if bench.per_mac > 0 or bench.entering_per_mac > 0:
            base, wanted = row_light, bench.per_mac * outputs
            if bench.entering_per_mac > 0:
                base, wanted = entering, bench.entering_per_mac
            is_lit = base > 0
            photons = wanted * length / base if is_lit else 1.0
        light[i] = photons * row_light if is_lit else 0.0
        times = lines.scale[s, i] * (detector.gain if bench.centre >= 0 else 1.0)
        _row_terms(terms, i, photons, times, bench, detector)


@_inner
def _source_rows(
    s: int, bench: Any, lines: Any, rows: Any, drift: Any, key: Any, space: Any,
    table: Any,
) -> None:  # fmt: skip
    """Compute the brightness of each row's exposures; rows that share one are neighbours."""
    rms, frames = np.float32(bench.source_rms), lines.source.shape[3]
    for exposure in range(lines.source.shape[1] if frames else 0):
        last, name = np.uint64(0), s << 8 | exposure << 4 | SOURCE
        for i in range(len(rows)):
            factors = lines.source[s, exposure, i]
            shown = rows[i] - (rows[i] & np.uint64(0xFFFFFF)) % np.uint64(bench.vectors)
            if bench.source_rms > 0 and i and shown == last:
                before = lines.source[s, exposure, i - 1]
                for frame in range(frames):
                    factors[frame] = before[frame]
            elif bench.source_rms > 0:
                _source_factors(factors, rms, shown, name, key, space, table)
            else:
                for frame in range(frames):
                    factors[frame] = np.float32(1)
            last = shown
        if drift.size:
            for i in range(len(rows)):
                factors = lines.source[s, exposure, i]
                for frame in range(frames):
                    factors[frame] *= drift[i]


@_inner
def _multiply_panel(
    lines: Any, s: int, low: int, high: int, column: int, bench: Any, weights: Any, matrix: int,
    product: Any,
) -> int:  # fmt: skip
    """Multiply rows `low` to `high` with a panel of outputs: into int32 [kinds, lines, width].

    Returns
    -------
    lines of each row with successive exposures: 1 if none has an x-, else 2; 0 for other benches
    """
    length, stored = weights.segments[s, 1], weights.segments[s, 2]
    steps, k, n = (length + 3) // 4, stored // 4, high - low
    bytes_, starts = weights.bytes_[matrix], lines.starts[s]
    if bench.scheme < TWO_EXPOSURES:
        part = 1 if product.shape[0] == 2 else 0
        own, shown = starts[0, low:high], lines.shown[low:high]
        if part:
            both = shown.reshape(n * 2, shown.shape[2])
            multiply_bytes(both[:, stored:], own, bytes_, k, steps, column, 1, product[:, :n])
        else:
            multiply_bytes(shown[:, 0, stored:], own, bytes_, k, steps, column, 0, product[:, :n])
        return 0
    negative, part = 0, 2 if bench.scheme == FOUR_READINGS else 0
    for i in range(low, high):
        negative += lines.minus[s, i]
    shown = lines.shown[low:high]
    if not negative:
        own = starts[0, low:high]
        multiply_bytes(shown[:, 0, stored:], own, bytes_, k, steps, column, part, product[:, :n])
        return 1
    both, own = shown.reshape(n * 2, shown.shape[2]), starts[1, 2 * low : 2 * high]
    multiply_bytes(both[:, stored:], own, bytes_, k, steps, column, part, product[:, : 2 * n])
    return 2


@_inner
def _add_digital(
    y: Any, s: int, matrix: int, low: int, column: int, width: int, bench: Any,
    weights: Any, detector: Any, lines: Any,
) -> None:  # fmt: skip
    """Add the digital correction of a segment to outputs of y [n, M]; see `CrossTerms`."""
    n, end = len(y), column + width
    if bench.centre >= 0:
        total, low_w = weights.total[matrix, s, column:end], weights.low[matrix, s, column:end]
        for i in range(n):
            a, b, out = lines.low[s, low + i], lines.passed[s, low + i], y[i, column:end]
            for k in range(width):
                digital = np.float64(out[k]) + a * total[k]
                out[k] = np.float32(digital + b * low_w[k])
    elif bench.scheme >= TWO_EXPOSURES and bench.leak > 0:
        scale, sums = weights.scale[matrix, s], weights.sums[matrix, s]
        length = weights.segments[s, 1]
        for i in range(n):
            if lines.minus[s, low + i]:
                continue
            a, out = -lines.scale[s, low + i], y[i, column:end]
            for k in range(width):
                plus = bench.rail_unit[0] * _light_sum(sums, 0, column + k, bench)
                minus = bench.rail_unit[1] * _light_sum(sums, 1, column + k, bench)
                plus += length * bench.rail_constant[0]
                minus += length * bench.rail_constant[1]
                leaked = bench.leak / detector.gain * (plus - minus) * scale[column + k]
                out[k] = np.float32(np.float64(out[k]) + a * leaked)


class Buffers(NamedTuple):
    """The memory of a product: encoded rows, `Lines`, sums, terms of the light, and `Space`.

    Parameters
    ----------
    encoded : integers int16 [n, longest segment]; their sums, edges and sums with columns, [n, 2]
    product : of `panel` outputs, int32 [kinds, lines, panel]
    """

    encoded: Any
    lines: Any
    product: Any
    light_term: Any
    space: Any


@_inlined
def _buffers_at(
    address: int, n: int, has_drift: bool, bench: Any, weights: Any, detector: Any
) -> Any:
    """Return the buffers for n rows at an address, one after another; the last is `space.drawn`."""
    segments, longest = len(weights.segments), 0
    for s in range(segments):
        longest = max(longest, weights.segments[s, 1])
    stored = weights.segments[segments - 1, 2] + (weights.segments[segments - 1, 1] + 3) // 4 * 4
    variants = 1 if bench.scheme == ONE_SUM else 2
    kinds = 1 if bench.scheme in (ONE_SUM, TWO_EXPOSURES) else 2
    frames, exposures, step, panel = 0, detector.exposures, min(n, 32), 256
    if bench.source_rms > 0 or has_drift:
        frames = (weights.outputs + bench.frame - 1) // bench.frame
    if n <= 4 and longest <= 1024:  # whose weights fit a second-level cache
        panel = 512
    in_turn = 2 * step if bench.scheme >= TWO_EXPOSURES else step
    shown = _array(address, (n, variants, stored), np.int8)
    starts = _array(_after(shown), (segments, 2, n * variants), np.int32)
    row_light = _array(_after(starts), (segments, detector.rails * exposures, n), np.float32)
    terms = _array(_after(row_light), (segments, 8, n), np.float32)
    minus = _array(_after(terms), (segments, n), np.bool_)
    source = _array(_after(minus), (segments, exposures, n, frames), np.float32)
    scale = _array(_after(source), (segments, n), np.float64)
    low = _array(_after(scale), (segments, n), np.float64)
    passed = _array(_after(low), (segments, n), np.float64)
    integers = _array(_after(passed), (n, longest), np.int16)
    sums = _array(_after(integers), (n, 2), np.float64)
    edges = _array(_after(sums), (n, 2), np.float64)
    both = _array(_after(edges), (n, 2), np.int64)
    product = _array(_after(both), (kinds, in_turn, panel), np.int32)
    light_term = _array(_after(product), (2, panel), np.float32)
    lines = Lines(shown, starts, row_light, terms, minus, source, scale, low, passed)
    space = _space_at(_after(light_term), panel)
    return Buffers((integers, sums, edges, both), lines, product, light_term, space)


@_inner
def _observe_segment(
    block: Any, kinds: int, detector: Any, peak: Any, used: Any, space: Any
) -> None:
    """Raise peaks float32 [width] to the largest noise-free magnitude of each output.

    Parameters
    ----------
    used : which outputs of each row count, bool [n, width]; [n, 0] for all
    """
    count = peak.size
    value = space.value[:count]
    for i in range(len(block.minus)):
        for reading in range(detector.rails * detector.exposures):
            if reading >= detector.rails and not block.minus[i]:
                break
            _light_of(space, block, kinds, i, reading, detector)
            if used.shape[1]:
                chosen = used[i]
                for k in range(count):
                    peak[k] = max(peak[k], abs(value[k]) if chosen[k] else peak[k])
            else:
                for k in range(count):
                    peak[k] = max(peak[k], abs(value[k]))


@_inner
def _multiply(
    memory: Any, operands: Any, task: Any, bench: Any, plain: Any, detector: Any, key: Any,
    table: Any, results: Any,
) -> int:  # fmt: skip
    """Do what `multiply` promises, in the given memory."""
    (x, y, rows, drift, valid), (light, second, peaks) = operands, results
    first_matrix, last_matrix, first_row, last_row, first_output, last_output = task
    weights, n, saturated = _weights_at(plain), last_row - first_row, 0
    aligned = (memory.ctypes.data + 63) // 64 * 64
    encoded, lines, product, light_term, space = _buffers_at(
        aligned, n, drift.shape[1] > 0, bench, weights, detector
    )
    lines.shown[:] = 0  # also the columns between segments
    lines.minus[:] = False
    panel, step = product.shape[2], min(n, 32)
    light_unit = (bench.light_unit[0], bench.light_unit[1])
    gains = (bench.gains[0], bench.gains[1])
    has_light = bench.photons > 0 or bench.per_mac > 0 or bench.entering_per_mac > 0
    of_noise = key if has_light else key[:0]
    kinds = 1 if bench.scheme == WITH_LIGHT and not has_light else product.shape[0]
    lit_rails = 0 if detector.balanced and kinds == 1 else detector.rails
    for matrix in range(first_matrix, last_matrix):
        ids, part = rows[matrix, first_row:last_row], x[matrix, first_row:last_row]
        own_drift = drift[matrix, first_row:last_row] if drift.shape[1] else drift[matrix]
        for s in range(len(weights.segments)):
            if not _encode_lines(part, s, bench, weights, lines, encoded):
                return -1
            of_rows = light[s, matrix, first_row:last_row]
            _light_rows(s, matrix, bench, weights, detector, lines, encoded, of_rows)
            _source_rows(s, bench, lines, ids, own_drift, key, space, table)
            if first_output == 0:
                for i in range(n):
                    second[s, matrix] += lines.minus[s, i]
        for column in range(first_output, last_output, panel):
            end = min(column + panel, last_output)
            width, tiles = end - column, (end - column + 63) // 64 * 64
            for s in range(len(weights.segments)):
                converter = Converter(
                    weights.limit[matrix, s, column:end],
                    weights.inverse_step[matrix, s, column:end],
                    weights.factor[matrix, s, column:end],
                )
                _begin_loads(np.uint64(converter.scale.ctypes.data), width)
                numbers = converter.inverse_step if detector.balanced else converter.limit
                _begin_loads(np.uint64(numbers.ctypes.data), width)
                term = weights.light_term[matrix, s]
                for rail in range(lit_rails):
                    _begin_loads(np.uint64(term[rail, column:end].ctypes.data), width)
                for low in range(0, n, step):
                    high = min(low + step, n)
                    sums = product[:kinds, :, :tiles]
                    in_turn = _multiply_panel(
                        lines, s, low, high, column, bench, weights, matrix, sums
                    )
                    for rail in range(0 if low else lit_rails):
                        of_rail, here = term[rail, column:end], light_term[rail]
                        for k in range(width):
                            here[k] = of_rail[k]
                    block = Block(
                        column, product, light_unit, gains,
                        lines.row_light[s, :, low:high], lines.terms[s, :, low:high], light_term,
                        lines.minus[s, low:high], lines.source[s, :, low:high], bench.frame,
                        converter, in_turn,
                    )  # fmt: skip
                    top, bottom = first_row + low, first_row + high
                    if peaks.size:
                        used = valid[matrix, top:bottom, column:end]
                        peak = peaks[matrix, s, column:end]
                        _observe_segment(block, kinds, detector, peak, used, space)
                        continue
                    noise = NoiseKeys(of_noise, ids[low:high], s)
                    out = y[matrix, top:bottom]
                    saturated += read_segment(
                        out, s > 0, block, kinds, detector, noise, table, space
                    )
                    _add_digital(
                        out, s, matrix, low, column, width, bench, weights, detector, lines
                    )
    return saturated


@_compiled
def multiply(
    operands: Any, task: Any, constants: Any, plain: Any, key: Any, table: Any, results: Any
) -> Any:
    """Store products of rows x [m, n, K] in y [m, n, M]: encode, multiply, read and scale.

    With `peaks`, find the largest noise-free magnitude of each output at its converter instead.

    Parameters
    ----------
    operands : x; y, result; ids of the rows, uint64 [m, n]; drift, the brightness of each row,
        float32 [m, n], or [m, 0] without; and `valid`, which outputs of each row have a peak, bool
        [m, n, M], or [m, n, 0] for all
    task : first and last matrix, row and output (the first output a multiple of 128)
    constants : of the bench, and of its detector, as records
    plain : `PackedWeights.plain`
    key : `product_key`
    table : `noise.quantiles`
    results : light of each row in photons, float64 [segments, m, n]; rows with an exposure of x-,
        int64 [segments, m]; and peaks, float32 [m, segments, M], or [0, 0, 0] for a product

    Returns
    -------
    saturated values; -1 if a row is too large or not finite
    """
    drift, rows = operands[3], task[3] - task[2]
    bench, detector, weights = constants[0][0], constants[1][0], _weights_at(plain)
    buffers = _buffers_at(0, rows, drift.shape[1] > 0, bench, weights, detector)
    memory = np.empty(_after(buffers.space.drawn) + 64, np.uint8)
    return _multiply(memory, operands, task, bench, plain, detector, key, table, results)


@_inlined
def _store_byte(bytes_: Any, output: int, column: int, level: int) -> None:
    bytes_[output // 64, column // 4, output % 64, column % 4] = np.uint8(level + 128)


@_inlined
def _store_plain(bytes_: Any, output: int, column: int, level: int) -> None:
    bytes_[output, column] = np.int8(level)


_store = _store_byte if HAS_DOT else _store_plain


@_inner
def _keep_light(weights: Any, first: int, last: int, s: int, bench: Any) -> None:
    """Compute the light of weights of segment `s` that outputs from `first` to `last` have."""
    leak, length = bench.leak, weights.segments[s, 1]
    if bench.scheme < TWO_EXPOSURES and bench.centre < 0:
        leak = 2 * bench.leak
    for matrix in range(len(weights.lit)):
        sums = weights.sums[matrix, s]
        for rail in range(2 if bench.scheme >= TWO_EXPOSURES else 1):
            unit, each = bench.rail_unit[rail], bench.rail_constant[rail] * length
            term, total = weights.light_term[matrix, s, rail], np.int64(0)
            for o in range(first, last):
                term[o] = np.float32(leak * (unit * _light_sum(sums, rail, o, bench) + each))
            for o in range(weights.outputs):
                total += _light_sum(sums, rail, o, bench)
            weights.lit[matrix, s, rail] = total


@_borrowing
def pack_weights(w: Any, scales: Any, place: Any, rule: Any, plain: Any) -> int:
    """Round weights to levels and store them in `ByteWeights`; return how many saturated.

    Parameters
    ----------
    w : float32 [m, M, K]
    scales : range of all levels, and the number at level 0, of the outputs that are stored:
        float64 and float32 [m, outputs]; [0, 0] for the scales that are stored
    place : first and last output; segment, and its first and last column of w that are stored
    rule : number of levels; centre of the offset encoding, or -1; which sums over the outputs are
        kept: 0 none, 1 of the magnitudes, -1 of the integers; and the constants of the bench, as
        record
    plain : `PackedWeights.plain`
    """
    (span, lowest), (first, last, s, begin, end), (levels, centre, lit, bench) = scales, place, rule
    weights, saturated = _weights_at(plain), 0
    shift = weights.segments[s, 2] - weights.segments[s, 0]
    least, most = np.float32(0 if centre >= 0 else -levels), np.float32(levels)
    middle = centre if centre >= 0 else 0
    for matrix in range(len(w)):
        bytes_, columns, sums = (
            weights.bytes_[matrix], weights.columns[matrix], weights.sums[matrix, s]
        )  # fmt: skip
        for tile in range(first // 64 * 64, last, 64):
            top, bottom = max(tile, first), min(tile + 64, last)
            for k in range(begin, end):
                at, column = k + shift, np.int64(0)
                for o in range(top, bottom):
                    width, low = weights.scale[matrix, s, o], np.float32(0)
                    if span.size:
                        width, low = span[matrix, o - first], lowest[matrix, o - first]
                    step = np.float32(min(levels / width, 3e38)) if width > 0 else np.float32(0)
                    number = np.rint((w[matrix, o, k] - low) * step)
                    saturated += (number > most) | (number < least)
                    level = np.int32(min(max(number, least), most)) - middle
                    if centre >= 0:
                        sums[0, o] += level
                        column += level
                    else:
                        sums[0, o] += max(level, 0)
                        sums[1, o] += max(-level, 0)
                        column += abs(level)
                    _store(bytes_, o, at, level)
                if lit:
                    columns[k] += column
    _keep_light(weights, first, last, s, bench[0])
    return saturated
