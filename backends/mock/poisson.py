"""Photon counts of weak light: Poisson numbers by tables, for any mean below `POISSON_BELOW`.

Poisson numbers add: one of mean m is one of mean 4 a, one of mean b / 4 and one of the rest, which
is below 1/4. The first two come from alias tables (Walker, 1977), the rest by inversion of a series
of seven terms. Each takes 32 random bits. The distance in total variation from the exact numbers
is below 1e-7 (`tests/test_poisson.py` computes it from the tables); from `POISSON_BELOW` on a
Gaussian takes over, whose kurtosis 3 is then within 1/128 of the Poisson number's.
"""

import math
from functools import cache

import numpy as np

POISSON_BELOW = 128.0
SLOTS = 256  # of an alias table, one for each count
COARSE, FINE = 32, 16  # tables: of the means 4 a, and b / 4
_UNIT = np.float32(2.0**-32)
EXPONENTIAL = tuple((-1.0) ** power / math.factorial(power) for power in range(6, -1, -1))
INVERSES = tuple(1 / count for count in range(2, 8))


def poisson(mean: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return Poisson counts, float32 [n].

    Parameters
    ----------
    mean : float32 [n], at least 0 and below `POISSON_BELOW`
    words : uint32 [3 or more, n]
    """
    a = (mean * np.float32(0.25)).astype(np.int32)
    rest = mean - a.astype(np.float32) * np.float32(4)
    b = (rest * np.float32(4)).astype(np.int32)
    rest = rest - b.astype(np.float32) * np.float32(0.25)
    counts = _look_up(a, words[0]) + _look_up(b + COARSE, words[1])
    return counts.astype(np.float32) + _inverted(rest, words[2])


def _look_up(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    slot = (words & np.uint32(SLOTS - 1)).astype(np.int32)
    entry = alias_tables()[table * SLOTS + slot]
    alias = (entry & np.uint32(SLOTS - 1)).astype(np.int32)
    return np.where((words >> np.uint32(8)) < (entry >> np.uint32(8)), slot, alias)


def _inverted(mean: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return counts of means below 1/4, by inversion of one word each."""
    v = words.astype(np.float32) * _UNIT
    probability = np.full(mean.shape, EXPONENTIAL[0], dtype=np.float32)
    for coefficient in EXPONENTIAL[1:]:
        probability = probability * mean + np.float32(coefficient)
    terms = [probability * mean]  # of the counts 1 to 7
    for inverse in INVERSES:
        terms.append(terms[-1] * mean * np.float32(inverse))
    counts, tail = np.zeros(mean.shape, dtype=np.float32), np.float32(0)
    for term in reversed(terms):
        tail = tail + term  # the probability of this count or a larger one
        counts += v < tail
    return counts


@cache
def alias_tables() -> np.ndarray:
    """Return the tables of all means 4 a, then b / 4: uint32 [(COARSE + FINE) SLOTS].

    An entry holds a threshold of 24 bits, and the count that a slot gives from there on.
    """
    means = [4.0 * a for a in range(COARSE)] + [b / 4 for b in range(FINE)]
    return np.concatenate([_alias_table(_probabilities(mean)) for mean in means])


def _probabilities(mean: float) -> np.ndarray:
    counts = np.arange(SLOTS)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    if not mean:
        return (counts == 0).astype(np.float64)
    probabilities = np.exp(counts * math.log(mean) - mean - logarithms)
    return probabilities / probabilities.sum()


def _alias_table(probabilities: np.ndarray) -> np.ndarray:
    """Divide probabilities into slots of equal size with at most two counts each (Vose, 1991)."""
    share = probabilities * SLOTS
    threshold, alias = np.ones(SLOTS), np.arange(SLOTS)
    small = [i for i in range(SLOTS) if share[i] < 1]
    large = [i for i in range(SLOTS) if share[i] >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        threshold[low], alias[low] = share[low], high
        share[high] -= 1 - share[low]
        if share[high] < 1:
            small.append(large.pop())
    steps = np.minimum(np.rint(threshold * 2.0**24), 2.0**24 - 1).astype(np.uint32)
    # a slot that is not shared gives its own count whatever its threshold is
    return steps << np.uint32(8) | alias.astype(np.uint32)
