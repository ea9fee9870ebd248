"""Random numbers for light: a function of (seed, address, tile, output), not of a sequence.

Words come from Philox (counter-based): the key is a hash of seed, matmul, attempt and purpose, the
counter is the row's id times the words per row. A result therefore depends neither on how a batch
is split nor on the order of rows.

Gaussians are looked up in a table of 65,536 quantiles with 16 bits each; the two outermost cells
(beyond 4.17 sigma) are drawn again, exactly. Below `POISSON_BELOW` mean electrons photon counts are
true Poisson numbers: there the excess kurtosis 1/mean of a Poisson number would differ from the
Gaussian's by more than 1/128, 0.3 % of the kurtosis 3.
"""

from functools import cache, lru_cache
from hashlib import blake2b
from statistics import NormalDist
from threading import local
from typing import Any, NamedTuple

import numpy as np

POISSON_BELOW = 128.0
_CELLS = 65_536
_TAKEN = 1 << 15  # looked up at a time: numpy widens their indices, which then fit a cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGEST_COUNT = 1024
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_THREAD = local()


@lru_cache(maxsize=8192)
def stream_keys(seed: int, matmul: str, attempt: int, purpose: str, part: int) -> np.ndarray:
    """Return three keys of Philox: of normal numbers, of their tails, of photon counts: [3, 2]."""
    text = f"{seed}|{matmul}|{attempt}|{purpose}|{part}".encode()
    digest = bytearray(blake2b(text, digest_size=48).digest())
    return np.frombuffer(digest, dtype=np.uint64).reshape(3, 2)


class NoiseKeys(NamedTuple):
    """The normal numbers of some rows, as compiled loops draw them.

    Parameters
    ----------
    rows : ids of the rows, uint64 [n]
    keys : `stream_keys` of the streams, uint64 [streams, 3, 2]
    width, drawn : outputs of a stream, a multiple of 16, of which a row draws `drawn`
    table : `quantiles()`
    """

    rows: np.ndarray
    keys: np.ndarray
    width: int
    drawn: int
    table: np.ndarray


def random_words(key: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Return at least `count` random uint64 words for each row id: [rows, >= count].

    Parameters
    ----------
    key : of Philox, uint64 [2]
    """
    blocks = max(1, -(-count // 4))
    generator, state = _philox()
    state["state"]["key"] = key

    def draw(first: int, last: int) -> np.ndarray:
        state["state"]["counter"] = _counter(int(rows[first]) * blocks)
        generator.state = state
        drawn: np.ndarray = generator.random_raw((last - first) * 4 * blocks)
        return drawn.reshape(last - first, 4 * blocks)

    steps = rows[1:] - rows[:-1]
    if (steps == 1).all() and (len(rows) < 2 or rows[-1] > rows[0]):
        return draw(0, len(rows))
    breaks = np.flatnonzero((steps != 1) | (rows[1:] < rows[:-1])) + 1
    words = np.empty((len(rows), 4 * blocks), dtype=np.uint64)
    for first, last in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        words[first:last] = draw(first, last)
    return words


def gaussian(
    keys: np.ndarray, rows: np.ndarray, count: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return `count` independent standard normal numbers for each row id: float32, in `out`.

    Parameters
    ----------
    keys : `stream_keys` of the stream
    """
    z = np.empty((len(rows), count), dtype=np.float32) if out is None else out
    if not len(rows):
        return z
    cells = random_words(keys[0], rows, -(-count // 4)).view(np.uint16)[:, :count]
    step = max(1, _TAKEN // max(count, 1))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        quantiles().take(cells[part], out=z[part], mode="wrap")
    extreme = np.flatnonzero((cells.min(axis=1) == 0) | (cells.max(axis=1) == _CELLS - 1))
    if extreme.size:
        row, output = np.nonzero(cells[extreme] + np.uint16(1) <= 1)
        row = extreme[row]
        words = tail_words(rows[row] * np.uint64(count) + output.astype(np.uint64), *keys[1])
        probabilities = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53 / _CELLS
        tails = np.array(
            [-NormalDist().inv_cdf(probability) for probability in probabilities], np.float32
        )
        z[row, output] = np.copysign(tails, z[row, output])
    return z


def tail_words(number: Any, key0: Any, key1: Any) -> Any:
    """Return one word for a number in the tail: two turns of SplitMix64's mixing, each with a key.

    Parameters
    ----------
    number : uint64, identifies row and output; scalars or arrays (the compiled path uses it too)
    """
    z = number + key0
    for _ in range(2):
        z = (z ^ (z >> _30)) * _MIX1
        z = (z ^ (z >> _27)) * _MIX2
        z = (z ^ (z >> _31)) + key1
    return z


def poisson(mean: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return Poisson counts of the given means (0 to about `POISSON_BELOW`), one word each.

    Inversion below a mean of 10, transformed rejection (PTRS, Hoermann 1993) above.

    Parameters
    ----------
    mean : float64 [n]
    words : uint64 [n], the random word that seeds each number's own SplitMix64 sequence

    Returns
    -------
    counts : float64 [n]
    """
    counts = np.zeros(mean.shape)
    small = mean < 10.0
    counts[small] = _poisson_by_inversion(mean[small], words[small])
    counts[~small] = _poisson_by_rejection(mean[~small], words[~small])
    return counts


def _poisson_by_inversion(mean: np.ndarray, words: np.ndarray) -> np.ndarray:
    uniform = _uniform(words, 0)
    counts = np.zeros(mean.shape)
    probability = np.exp(-mean)
    cumulative = probability.copy()
    for count in range(1, 100):  # a mean below 10 exceeds 100 with a probability below 1e-60
        above = uniform > cumulative
        if not above.any():
            break
        counts[above] = count
        probability *= mean / count
        cumulative += probability
    return counts


def _poisson_by_rejection(mean: np.ndarray, words: np.ndarray) -> np.ndarray:
    counts = np.empty(mean.shape)
    open_ = np.arange(mean.size)
    trial = 0
    while open_.size:
        lam, word = mean[open_], words[open_]
        b = 0.931 + 2.53 * np.sqrt(lam)
        a = -0.059 + 0.02483 * b
        u = _uniform(word, 2 * trial) - 0.5
        v = _uniform(word, 2 * trial + 1)
        us = 0.5 - np.abs(u)
        count = np.floor((2 * a / us + b) * u + lam + 0.43)
        quick = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
        possible = (count >= 0) & (count < _LARGEST_COUNT) & ((us >= 0.013) | (v <= us))
        table = _log_factorials()[np.clip(count, 0, _LARGEST_COUNT - 1).astype(np.intp)]
        inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
        slow = np.log(v * inverse_alpha / (a / (us * us) + b)) <= count * np.log(lam) - lam - table
        accepted = quick | (possible & slow)
        counts[open_[accepted]] = count[accepted]
        open_ = open_[~accepted]
        trial += 1
    return counts


def normals(words: np.ndarray) -> np.ndarray:
    """Return one standard normal number for each word (Box and Muller, 1958): float64 [n]."""
    radius = np.sqrt(-2 * np.log(_uniform(words, 0)))
    return np.asarray(radius * np.cos(2 * np.pi * _uniform(words, 1)))


def device_gaussian(seed: int, part: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed random pattern of a device part: float64 `shape`."""
    generator = np.random.Generator(
        np.random.Philox(key=stream_keys(seed, "device", 0, part, 0)[0])
    )
    return generator.standard_normal(shape)


def _uniform(words: np.ndarray, index: int) -> np.ndarray:
    """Return number `index` of each word's SplitMix64 sequence, in (0, 1)."""
    z = words + np.uint64((index + 1) * int(_GOLDEN) % 2**64)
    z = (z ^ (z >> _30)) * _MIX1
    z = (z ^ (z >> _27)) * _MIX2
    z ^= z >> _31
    return np.asarray(((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


@cache
def quantiles() -> np.ndarray:
    """Return the table of 65,536 normal quantiles (float32), with an exact inner variance."""
    normal = NormalDist()
    half = np.array([normal.inv_cdf((cell + 0.5) / _CELLS) for cell in range(_CELLS // 2)])
    edge = normal.inv_cdf(1 / _CELLS)
    # a normal number inside (edge, -edge) has this second moment; the tails are drawn separately
    inside = 1 - 2 * (1 / _CELLS - edge * normal.pdf(edge))
    half[1:] *= np.sqrt(inside / (2 * np.sum(half[1:] ** 2) / _CELLS))
    return np.concatenate([half, -half[::-1]]).astype(np.float32)


@cache
def _log_factorials() -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, _LARGEST_COUNT)))])


def _philox() -> tuple[Any, dict[str, Any]]:
    """Return this thread's generator and its state: creating them is slow."""
    if not hasattr(_THREAD, "philox"):
        _THREAD.philox = np.random.Philox(0)
        _THREAD.state = _THREAD.philox.state  # its buffer stays empty, as blocks are whole
    return _THREAD.philox, _THREAD.state


def _counter(value: int) -> np.ndarray:
    return np.array([(value >> (64 * word)) & (2**64 - 1) for word in range(4)], dtype=np.uint64)
