"""Random numbers of a simulation: each depends only on what it is for, never on a sequence."""

from hashlib import blake2b

import numpy as np


def uniform(*parts: object) -> float:
    """Return a number in [0, 1) that depends only on `parts`."""
    return int.from_bytes(digest(*parts)[:7], "little") / 2**56


def digest(*parts: object) -> bytes:
    """Return 32 bytes that depend only on `parts`."""
    return blake2b("|".join(map(str, parts)).encode(), digest_size=32).digest()


def generator(*parts: object) -> np.random.Generator:
    """Return a random generator that depends only on `parts`."""
    seed = int.from_bytes(digest(*parts)[:16], "little")
    return np.random.Generator(np.random.SFC64(seed))
