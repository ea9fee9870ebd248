"""Read-out ranges that are kept between runs, as arrays of the cache folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backends import Backend, Ranges
from ..instruments.cache_folder import kept
from .content_keys import content_key, content_of
from .journal.pass_record import described_steps
from .program import Program

_READOUT, _WEIGHT = " readout", " weight"  # of a product, as names of arrays


def kept_ranges(
    backend: Backend,
    weights: Mapping[str, np.ndarray],
    program: Program,
    placed: frozenset[str],
    inputs: Mapping[str, Any],
    compute: Callable[[], Mapping[str, Ranges]],
) -> dict[str, Ranges]:
    """Return the ranges of products that an earlier run kept, or compute and keep them.

    Parameters
    ----------
    placed : products on light
    inputs : operands of the calibration pass
    """
    steps, _ = described_steps(program, placed)
    data = {name: content_of(value) for name, value in inputs.items()}
    key = content_key(backend, weights, program.weight_shapes, program=steps, inputs=data)
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
