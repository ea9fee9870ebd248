"""`NoiseStreams`: the random streams of a product's outputs, in numpy and for compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..address import Address
from . import LOOPS, compiled_loops
from .noise import NoiseKeys, gaussian, quantiles, random_words, stream_keys

_WIDTH = 64  # outputs of one stream of a dynamic operand


class NoiseStreams:
    """The random streams of some rows and one segment of a product.

    Outputs of static weights have one stream. Those of dynamic operands grow with the tokens, so
    every 64 of them have their own stream, and a token's noise does not depend on later tokens.

    Parameters
    ----------
    rows : uint64 [n], their ids
    """

    def __init__(
        self, seed: int, at: Address, rows: np.ndarray, dynamic: bool, segment: int
    ) -> None:
        self._seed, self._at, self._segment = seed, at, segment
        self._stored: dict[str, NoiseKeys] = {}
        self.rows, self._dynamic = np.ascontiguousarray(rows), dynamic

    def keys(self, purpose: str, outputs: int) -> NoiseKeys:
        """Return the keys of these rows and of the streams of a purpose."""
        stored = self._stored.get(purpose)
        if stored is None:
            identity = (self._seed, self._at.matmul, self._at.attempt, purpose, self._segment)
            streams = -(-outputs // _WIDTH) if self._dynamic else 0
            width, drawn = -(-outputs // 16) * 16, outputs
            if self._dynamic:
                width = drawn = _WIDTH
            stored = NoiseKeys(self.rows, _keys(*identity, streams), width, drawn, quantiles())
            self._stored[purpose] = stored
        return stored

    def gaussian(
        self, purpose: str, rows: np.ndarray, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return standard normal numbers [n, count], in `out` if possible."""
        if not LOOPS.is_used:
            space = None if self._dynamic else out
            return self._joined(
                lambda keys, width: gaussian(keys, rows, width, space), purpose, count
            )
        z = np.empty((len(rows), count), dtype=np.float32)
        compiled_loops().gaussian_rows((rows, *self.keys(purpose, count)[1:]), z)
        return z

    def words(self, purpose: str, rows: np.ndarray, count: int) -> np.ndarray:
        """Return random words [n, count]."""
        return self._joined(lambda keys, width: random_words(keys[2], rows, width), purpose, count)

    def _joined(
        self, draw: Callable[[np.ndarray, int], np.ndarray], purpose: str, count: int
    ) -> np.ndarray:
        """Return the numbers [n, count] that `draw` takes from the keys of each stream."""
        streams = self.keys(purpose, count)
        width = streams.drawn
        blocks = [
            draw(keys, width)[:, : min(width, count - number * width)]
            for number, keys in enumerate(streams.keys)
        ]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


@lru_cache(maxsize=4096)
def _keys(
    seed: int, matmul: str, attempt: int, purpose: str, segment: int, streams: int
) -> np.ndarray:
    """Return keys of one stream, or of one for every 64 outputs: uint64 [streams, 3, 2]."""
    if not streams:
        return stream_keys(seed, matmul, attempt, purpose, segment)[None]
    names = [f"{purpose} from {_WIDTH * i}" for i in range(streams)]
    return np.stack([stream_keys(seed, matmul, attempt, name, segment) for name in names])
