"""Weights in a backend's form that are kept between runs, as arrays of the cache folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..backends import Backend, PreparedWeights, Ranges
from ..instruments.cache_folder import kept
from .content_keys import content_key
from .program import OpticalMatmul, evaluate


def kept_weights(
    backend: Backend,
    weights: Mapping[str, np.ndarray],
    steps: Sequence[OpticalMatmul],
    ranges: Mapping[str, Ranges],
    prepare: Callable[[OpticalMatmul], PreparedWeights],
) -> dict[str, PreparedWeights]:
    """Return the prepared weights of products, by name; keep them where that saves time.

    Parameters
    ----------
    steps : products with weights of the model
    ranges : of the products, by name
    prepare : does what `Backend.prepare` does, for a product that no earlier run kept
    """
    shapes = {step.name: evaluate(step.w_shape, {}) for step in steps}
    operands = [[step.name, step.w, step.transposed, *shapes[step.name]] for step in steps]
    key = content_key(backend, weights, sorted({step.w for step in steps}), operands=operands)
    prepared: dict[str, PreparedWeights] = {}

    def compute() -> dict[str, np.ndarray]:
        prepared.update({step.name: prepare(step) for step in steps})
        each = {name: backend.kept_arrays(found) for name, found in prepared.items()}
        if not all(each.values()):
            return {}
        return {f"{name} {part}": array for name in each for part, array in each[name].items()}

    arrays = kept("encoded", key, compute)
    if prepared:
        return prepared
    by_product: dict[str, dict[str, np.ndarray]] = {step.name: {} for step in steps}
    for name, array in arrays.items():
        product, _, part = name.rpartition(" ")
        by_product[product][part] = array
    for step in steps:
        name = step.name
        restored = backend.restore(by_product[name], shapes[name], ranges.get(name))
        prepared[name] = prepare(step) if restored is None else restored
    return prepared
