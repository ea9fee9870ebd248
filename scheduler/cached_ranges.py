"""Read-out ranges that are kept between runs, as arrays of the cache folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..backends import Backend, Ranges
from ..instruments.cache_folder import open_cache
from .content_keys import content_key, content_of
from .journal.pass_record import described_steps
from .program import Program
from .weight_store import WeightStore

_KIND = "ranges"


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
    if open_cache() is None:
        return None
    digest, _ = described_steps(program, placed)
    named = {name: content_of([value]) for name, value in inputs.items()}
    return content_key(backend, weights, program.weight_shapes, program=digest, inputs=named)


def load_ranges(key: str | None, products: Collection[str]) -> dict[str, Ranges] | None:
    """Return the ranges of products by name; None where they are not there."""
    cache = open_cache()
    found = None if cache is None or key is None else cache.load(_KIND, key)
    if found is None or {name.rpartition(" ")[0] for name in found} != set(products):
        return None
    return {
        name: Ranges(found[f"{name} readout"], found.get(f"{name} weight")) for name in products
    }


def store_ranges(key: str | None, ranges: Mapping[str, Ranges]) -> None:
    """Keep ranges for the next run."""
    cache = open_cache()
    if cache is None or key is None:
        return
    arrays: dict[str, np.ndarray] = {}
    for name, found in ranges.items():
        arrays[f"{name} readout"] = found.readout
        if found.weight is not None:
            arrays[f"{name} weight"] = found.weight
    cache.store(_KIND, key, arrays)
