"""Counts of weak light are Poisson numbers to 1e-7: computed from the tables, not sampled.

The distance of a sum of independent numbers from the exact sum is at most the sum of the distances
of its parts: of a coarse and of a fine table, and of the rest, which is inverted.
"""

import math

import numpy as np
import pytest
from lightloom.backends.mock.noise import NoiseKeys, product_key, random_words, tag
from lightloom.backends.mock.poisson import (
    COARSE,
    EXPONENTIAL,
    INVERSES,
    POISSON_BELOW,
    SLOTS,
    alias_tables,
    poisson,
)

LIMIT = 1e-7


def exact(mean: float, most: int = 400) -> np.ndarray:
    """Return the probabilities of the counts below `most`."""
    counts = np.arange(most)
    if not mean:
        return (counts == 0).astype(np.float64)
    logarithms = np.array([math.lgamma(count + 1) for count in counts])
    return np.exp(counts * math.log(mean) - mean - logarithms)


def of_table(entries: np.ndarray) -> np.ndarray:
    """Return the probabilities that one alias table gives to its counts."""
    found = np.zeros(SLOTS)
    for slot, entry in enumerate(entries):
        share, alias = (entry >> 8) / 2.0**24, entry & 255
        found[slot] += 1.0 if alias == slot else share
        found[alias] += 0.0 if alias == slot else 1 - share
    return found / SLOTS


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the total variation between two distributions."""
    length = max(len(one), len(other))
    padded = [np.pad(values, (0, length - len(values))) for values in (one, other)]
    return float(np.abs(padded[0] - padded[1]).sum() / 2)


def distances_of_tables() -> tuple[float, float]:
    tables = alias_tables().reshape(-1, SLOTS)
    means = [4.0 * i for i in range(COARSE)] + [i / 4 for i in range(len(tables) - COARSE)]
    found = [distance(of_table(t), exact(m)) for t, m in zip(tables, means, strict=True)]
    return max(found[:COARSE]), max(found[COARSE:])


def chance_below(tail: np.ndarray) -> np.ndarray:
    """Return the share of the 2^32 words whose float32 is below tail 2^32, by bisection."""
    least, most = np.zeros(tail.shape), np.full(tail.shape, 2.0**32)
    for _ in range(34):
        middle = np.floor((least + most) / 2)
        value = middle.astype(np.uint32).astype(np.float32) * np.float32(2.0**-32)
        is_below = (value < tail) & (middle < 2.0**32)
        least, most = np.where(is_below, middle + 1, least), np.where(is_below, most, middle)
    return least / 2**32


def distance_of_rest() -> float:
    """Return the largest distance of the inverted series, over means from 0 to 1/4."""
    mean = np.arange(0, 0.25, 1 / 8192).astype(np.float32)
    probability = np.full(mean.shape, EXPONENTIAL[0], dtype=np.float32)
    for coefficient in EXPONENTIAL[1:]:
        probability = probability * mean + np.float32(coefficient)
    terms = [probability * mean]
    for inverse in INVERSES:
        terms.append(terms[-1] * mean * np.float32(inverse))
    tails = np.cumsum(np.array(terms[::-1]), axis=0, dtype=np.float32)[::-1]
    reached = np.concatenate(
        [np.ones((1, len(mean))), chance_below(tails), np.zeros((1, len(mean)))]
    )
    found = reached[:-1] - reached[1:]
    return max(distance(found[:, i], exact(float(m), 20)) for i, m in enumerate(mean))


def test_counts_are_poisson_numbers_to_one_in_ten_million() -> None:
    # A user of dim light would get the noise of another distribution.
    coarse, fine = distances_of_tables()
    rest = distance_of_rest()
    print(f"\ntotal variation: {coarse:.1e} + {fine:.1e} + {rest:.1e} = {coarse + fine + rest:.1e}")
    assert coarse + fine + rest < LIMIT


@pytest.mark.parametrize("mean", [0.0, 1e-30, 0.01, 0.2499, 0.25, 3.9999, 4.0, 77.7, 127.99])
def test_counts_have_the_moments_of_their_mean(mean: float) -> None:
    # 300,000 numbers: mean and variance within 4.5 standard errors, a false alarm in 1e4 tests
    count = 300_000
    rows = np.arange(count, dtype=np.uint64)
    words = random_words(product_key(5, "counts", 0), rows, tag(0, 0, 2), np.zeros_like(rows))
    found = poisson(np.full(count, mean, dtype=np.float32), words).astype(np.float64)
    assert (found >= 0).all() and (found == np.rint(found)).all()
    error = math.sqrt(max(mean, 1e-9) / count)
    assert abs(found.mean() - mean) < 4.5 * error + 1e-7
    spread = math.sqrt((mean + 2 * mean**2) / count)  # of the variance of a Poisson number
    assert abs(found.var() - mean) < 4.5 * spread + 1e-6


def test_the_gaussian_takes_over_where_its_kurtosis_is_close() -> None:
    # The excess kurtosis of a Poisson number is 1 / mean.
    assert 1 / POISSON_BELOW <= 1 / 128


def test_words_are_those_of_the_published_generator() -> None:
    # Known answers of Philox4x32-10 (Random123, kat_vectors): counter, key, words.
    known = (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    )
    for counter, key, wanted in known:
        block, low, high, name = counter
        row = np.array([high << 32 | low], dtype=np.uint64)
        blocks = np.array([block], dtype=np.uint64)
        found = random_words(np.array(key, dtype=np.uint64), row, name, blocks)
        assert found[:, 0].tolist() == list(wanted)


def test_numbers_of_an_output_do_not_depend_on_later_outputs() -> None:
    # A token's noise would change when tokens follow it.
    from lightloom.backends.mock.noise import normals

    keys = NoiseKeys(product_key(1, "keys", 0), np.arange(3, dtype=np.uint64), 0)
    assert np.array_equal(normals(keys, 0, 500)[:, :77], normals(keys, 0, 77))
