"""`TracedWeights`: weights and constants of a traced program, read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.base import check_finite
from ...instruments import InputError

Reader = Callable[[], np.ndarray]


class TracedWeights(Mapping[str, np.ndarray]):
    """Arrays by name; floating-point ones are float32.

    Parameters
    ----------
    source : the file, or what the weights were traced from, for messages
    readers : name -> (shape, function that returns the array)
    """

    def __init__(
        self, source: Path | str, readers: Mapping[str, tuple[tuple[int, ...], Reader]]
    ) -> None:
        self.source = source
        self._readers = dict(readers)
        self._kept: dict[str, np.ndarray] = {}
        self._digests: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._kept:
            self._kept[name] = self._read(name)
        return self._kept[name]

    @contextmanager
    def lend(self, name: str) -> Iterator[np.ndarray]:
        """Lend an array for the time of a `with`; it is not kept."""
        yield self._kept[name] if name in self._kept else self._read(name)

    def digest(self, name: str) -> bytes:
        """Return a digest of the content of an array: 32 bytes of BLAKE2b."""
        if name not in self._digests:
            with self.lend(name) as array:
                state = blake2b(f"{array.dtype.str} {array.shape} ".encode(), digest_size=32)
                state.update(np.ascontiguousarray(array).tobytes())
            self._digests[name] = state.digest()
        return self._digests[name]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, without reading it."""
        return self._readers[name][0]

    def _read(self, name: str) -> np.ndarray:
        array: Any = self._readers[name][1]()
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
            if array.ndim > 1:  # constants may hold infinities, such as masks
                try:
                    check_finite(array, name)
                except InputError:
                    if not np.isneginf(array).any():
                        raise InputError(
                            f"{self.source}: tensor {name!r} holds NaN or infinite values"
                        ) from None
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)
