"""Random numbers for light: a function of (seed, address, segment, reading, output) alone.

Words come from Philox4x32-10 (counter-based; Salmon and others, 2011): the key is a hash of seed,
matmul and attempt, the counter holds the row's id, the segment and reading, and a block of outputs.
A result therefore depends neither on how a batch is split nor on later outputs.

A normal number is looked up by 16 bits in a table of 65,536 quantiles; the two outermost cells
(beyond 4.17 sigma) are drawn again, exactly. The table is a polynomial, so that compiled loops
compute its entries faster than they could read them. `poisson` has the counts of weak light.
"""

from functools import cache, lru_cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

NORMAL, TAIL, COUNT, SOURCE = 0, 1, 2, 4  # what a number is for; the second detector has COUNT + 1
GROUP = 128  # outputs whose normal numbers come from 16 blocks of words
CELLS = 65_536
_LANES = 16  # blocks of a group
_PIECE = 1 << 13  # counters at a time, which stay in a cache
_FACTORS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_STEPS = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)  # of the key from round to round
_HALF = np.uint64(32)

# z = x P(w) for x = 2 u - 1 and w = -ln(1 - x^2); P and the logarithm of a mantissa in [1, 2) are
# least-maximum fits, the highest power first. z is within 1e-5 of the quantile in all inner cells,
# and P is scaled so that their second moment is exact.
QUANTILE = (
    -2.19449312e-08, 9.62533250e-07, -1.68815423e-05, 1.38724354e-04, -3.14413017e-04,
    -3.21345660e-03, 1.63849387e-02, 3.28033835e-01, 1.25333536e00,
)  # fmt: skip
LOGARITHM = (
    1.04838535e-02, -1.27494335e-01, 6.77949309e-01, -2.06902003e00, 4.00732660e00,
    -5.19447708e00, 4.94486141e00, -2.24962902e00,
)  # fmt: skip


class NoiseKeys(NamedTuple):
    """Where the random numbers of some rows begin.

    Parameters
    ----------
    key : `product_key`, uint64 [2]
    rows : ids of the rows, uint64 [n]
    segment : number of the segment of K
    """

    key: np.ndarray
    rows: np.ndarray
    segment: int


@lru_cache(maxsize=8192)
def product_key(seed: int, matmul: str, attempt: int) -> np.ndarray:
    """Return the key of a product's numbers: two words of 32 bits, uint64 [2]."""
    digest = blake2b(f"{seed}|{matmul}|{attempt}".encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype="<u4").astype(np.uint64)


def tag(segment: int, reading: int, use: int) -> int:
    """Return the word of the counter that names segment, reading and use of a number."""
    return (segment << 8 | reading << 4 | use) & 0xFFFFFFFF


def random_words(key: np.ndarray, rows: np.ndarray, name: int, blocks: np.ndarray) -> np.ndarray:
    """Return four words of every counter (block, row, tag): uint32 [4, n].

    Parameters
    ----------
    rows, blocks : uint64 [n]
    name : `tag`
    """
    words = np.empty((2, 2, len(blocks)), dtype=np.uint32)
    for first in range(0, len(blocks), _PIECE):
        part = slice(first, first + _PIECE)
        pairs = _word_pairs(key, rows[part], name, blocks[part])
        words[:, 0, part] = pairs >> _HALF
        words[:, 1, part] = pairs & np.uint64(0xFFFFFFFF)
    return words.reshape(4, -1)


def _word_pairs(key: np.ndarray, rows: np.ndarray, name: int, blocks: np.ndarray) -> np.ndarray:
    """Return the words of every counter in pairs, the first in the upper half: uint64 [2, ...].

    A round turns words (a, b) and (c, d) into (hi(c F1) ^ b ^ key, lo(c F1)) and likewise for the
    other pair. A product of 64 bits is such a pair, so it takes one exclusive or with the rest.

    Parameters
    ----------
    rows, blocks : uint64, with shapes that broadcast. The first round depends on either of them
        alone, and the products of the second one as well
    """
    keys = ((key + np.arange(10, dtype=np.uint64)[:, None] * _STEPS) << _HALF).reshape(10, 2, 1)
    (first, last), high = _FACTORS, np.uint64(name) << _HALF
    of_row = ((rows >> _HALF) * last) ^ (rows << _HALF) ^ keys[0, 0]
    of_block = (blocks * first) ^ high ^ keys[0, 1]
    pairs = np.empty((2, *np.broadcast_shapes(rows.shape, blocks.shape)), dtype=np.uint64)
    np.bitwise_xor((of_block >> _HALF) * last, (of_row << _HALF) ^ keys[1, 0], out=pairs[0])
    np.bitwise_xor((of_row >> _HALF) * first, (of_block << _HALF) ^ keys[1, 1], out=pairs[1])
    flat = pairs.reshape(2, -1)
    products = np.empty_like(flat)
    for turn in range(2, 10):
        np.right_shift(flat, _HALF, out=products)
        products *= _FACTORS[:, None]
        flat <<= _HALF
        flat ^= keys[turn]
        flat ^= products[::-1]
    return pairs


def normals(keys: NoiseKeys, reading: int, count: int) -> np.ndarray:
    """Return standard normal numbers of the outputs of each row: float32 [n, count]."""
    n, groups = len(keys.rows), -(-count // GROUP)
    blocks = np.arange(groups * _LANES, dtype=np.uint64)
    name = tag(keys.segment, reading, NORMAL)
    pairs = _word_pairs(keys.key, keys.rows[:, None], name, blocks)
    # a group's outputs lie as (pair, word, half, lane); in memory, the lower halves come first
    quarters = pairs.astype("<u8", copy=False).view("<u2").reshape(2, n, groups, _LANES, 2, 2)
    halves = quarters[..., ::-1, :].transpose(1, 2, 0, 4, 5, 3)
    cells = np.ascontiguousarray(halves).reshape(n, -1)
    z = np.empty(cells.shape, dtype=np.float32)
    np.take(quantiles(), cells, out=z, mode="wrap")  # no cell is outside, and none is checked
    row, output = np.divmod(np.flatnonzero(cells + np.uint16(1) <= 1), cells.shape[1])
    if row.size:
        name = tag(keys.segment, reading, TAIL)
        words = random_words(keys.key, keys.rows[row], name, output.astype(np.uint64))
        z[row, output] = outer(cells[row, output], words[0], words[1])
    return z[:, :count]


def source_normals(keys: NoiseKeys, exposure: int, count: int) -> np.ndarray:
    """Return standard normal numbers of the frames of each row's exposure: float32 [n, count]."""
    n, width = len(keys.rows), -(-count // 8)
    blocks = np.tile(np.arange(width, dtype=np.uint64), n)
    rows = np.repeat(keys.rows, width)
    words = random_words(keys.key, rows, tag(keys.segment, exposure, SOURCE), blocks)
    cells = np.ascontiguousarray(words.T.astype("<u4")).view("<u2")
    return quantiles()[cells.reshape(n, 8 * width)[:, :count]]


def outer(cells: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the normal numbers of outermost cells, from two more words each: float32 [n]."""
    bits = (high.astype(np.uint64) << np.uint64(21)) | (low.astype(np.uint64) >> np.uint64(11))
    probability = (bits.astype(np.float64) + 0.5) * 2.0**-53 / CELLS
    tails = np.array([-NormalDist().inv_cdf(p) for p in probability], dtype=np.float32)
    return np.where(cells == 0, -tails, tails)


def device_gaussian(seed: int, part: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed random pattern of a device part: float64 `shape`."""
    digest = blake2b(f"{seed}|device|0|{part}|0".encode(), digest_size=48).digest()
    key = np.frombuffer(digest, dtype="<u8")[:2]
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)


@cache
def quantiles() -> np.ndarray:
    """Return the table of 65,536 normal quantiles, float32.

    Its operations are those of fused multiply-adds in float32 (`kernels.normal`), and so are its
    bits: a product of two float32 is exact in float64.
    """
    cells = np.arange(CELLS, dtype=np.float32)
    x = _fused(cells, np.float32(1 / 32768), np.float32(0.5 / 32768 - 1))
    y = _fused(-x, x, np.float32(1))
    bits = y.view(np.int32)
    exponent = ((bits >> 23) - 127).astype(np.float32)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    w = -_fused(exponent, np.float32(np.log(2)), _polynomial(LOGARITHM, mantissa))
    return _polynomial(QUANTILE, w) * x


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    value = np.full(x.shape, coefficients[0], dtype=np.float32)
    for coefficient in coefficients[1:]:
        value = _fused(value, x, np.float32(coefficient))
    return value


def _fused(a: np.ndarray, b: Any, c: Any) -> np.ndarray:
    """Return a b + c, rounded once to float32."""
    product = a.astype(np.float64) * np.asarray(b, dtype=np.float64)
    return (product + np.asarray(c, dtype=np.float64)).astype(np.float32)
