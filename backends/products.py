"""Exact integer products, the arithmetic under every sum of light.

Integers travel in float32 when their products and sums stay below 2^24, else in float64 (2^53);
K is cut so that no partial sum exceeds that. An exact sum does not depend on the order of its
terms, so a row's result has the same bits whatever batch, thread count or library computes it.
"""

import numpy as np

_BLOCK_BYTES = 1 << 20  # of a converted block of weights: it stays in a second-level cache


def exact_products(
    x: np.ndarray,
    weights: np.ndarray,
    light: np.ndarray | None,
    magnitude: int,
    wanted: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Multiply integer rows by integer weights, exactly but for the rounding of long sums.

    Parameters
    ----------
    x : [m, n, K] floats that hold integers
    weights : integers [m, M, K]
    light : integers [m, M, K], or None for |weights|
    magnitude : bound of |x| times the bound of |weights| and of light
    wanted : of "xw", "ow", "xa", "oa", where o is |x| and a is the light

    Returns
    -------
    each wanted product, [m, n, M], float32 where every cut of K is exact in it, else float64
    """
    matrices, n, length = x.shape
    outputs = weights.shape[1]
    depth = (1 << 24) // max(magnitude, 1)
    carrier: type[np.floating] = np.float32
    if depth < min(length, 256):
        depth, carrier = max((1 << 53) // max(magnitude, 1), 1), np.float64
    x = x.astype(carrier, copy=False)
    rows = {"x": x}
    if any(name[0] == "o" for name in wanted):
        rows["o"] = np.abs(x)
    results = {name: np.empty((matrices, n, outputs), dtype=carrier) for name in wanted}
    step = max(16, _BLOCK_BYTES // (matrices * min(length, depth) * np.dtype(carrier).itemsize))
    for first in range(0, length, depth):
        columns = slice(first, min(first + depth, length))
        operands = {name: np.ascontiguousarray(part[..., columns]) for name, part in rows.items()}
        for start in range(0, outputs, step):
            block = weights[:, start : start + step, columns].astype(carrier)
            place = slice(start, start + block.shape[1])
            for column in ("w", "a"):
                names = [name for name in wanted if name[1] == column]
                if names and column == "a":
                    if light is None:
                        np.abs(block, out=block)
                    else:
                        block = light[:, start : start + step, columns].astype(carrier)
                for name in names:
                    product = operands[name[0]] @ np.swapaxes(block, -1, -2)
                    if first:
                        results[name][..., place] += product
                    else:
                        results[name][..., place] = product
    return results
