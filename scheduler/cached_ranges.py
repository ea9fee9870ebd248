"""Read-out ranges that are kept between runs, as arrays of the cache folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backends import Backend, Ranges
from ..instruments.cache_folder import cache_path, kept
from .content_keys import content_key, content_of
from .journal.pass_record import described_steps
from .program import Program
from .weight_store import WeightStore

_READOUT, _WEIGHT = " readout", " weight"  # of a product, as names of arrays


def ranges_key(
    backend: Backend,
    weights: WeightStore,
    program: Program,
    placed: frozenset[str],
    inputs: Mapping[str, Any],
) -> str | None:
    """Return the key of the ranges of a program; None where they cannot be kept.

    Parameters
    ----------
    placed : products on light
    inputs : operands of the calibration pass
    """
    if cache_path() is None:  # a digest of all weights would be of no use
        return None
    digest, _ = described_steps(program, placed)
    named = {name: content_of([value]) for name, value in inputs.items()}
    return content_key(backend, weights, program.weight_shapes, program=digest, inputs=named)


def kept_ranges(key: str | None, compute: Callable[[], Mapping[str, Ranges]]) -> dict[str, Ranges]:
    """Return the ranges of products that an earlier run kept, or compute and keep them."""
    arrays = kept("ranges", key, lambda: _as_arrays(compute()))
    names = [name.removesuffix(_READOUT) for name in arrays if name.endswith(_READOUT)]
    return {name: Ranges(arrays[name + _READOUT], arrays.get(name + _WEIGHT)) for name in names}


def _as_arrays(ranges: Mapping[str, Ranges]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, found in ranges.items():
        arrays[name + _READOUT] = found.readout
        if found.weight is not None:
            arrays[name + _WEIGHT] = found.weight
    return arrays
