"""`detection.read` in one pass over the outputs, compiled by numba; the same float32 operations.

Weak light is left to `detection.read`: the kernel skips those outputs and lists them.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

AVAILABLE = find_spec("numba") is not None  # the extra `fast`; without it numpy does it all


@cache
def kernel() -> Any:
    """Give `_add_readings` compiled, from numba's cache on disk where it was compiled before."""
    import numba  # large: only when a mock reads out

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(_add_readings)
    except RuntimeError:  # no folder to keep it in: compile again next time
        return numba.njit(**options)(_add_readings)


def _add_readings(
    detected: Any,
    light: Any,
    signed: Any,
    rail: float,
    source: Any,
    frame: int,
    electrons: Any,
    z: Any,
    limit: Any,
    factor: Any,
    gain: float,
    variance: float,
    full_well: float,
    weak_below: float,
    pedestal: float,
    steps: float,
    first: float,
    last: float,
    skipped: Any,
) -> tuple[int, int]:
    """Add factor times the value read to `detected` [m, n, M]; see `detection.read`.

    Parameters
    ----------
    rail : 1 or -1 for a rail's own light, 0 for the balanced difference
    source : factors [m, n, frames] of the source, and `frame` outputs in each
    electrons : [m, n]; limit : [m, M]; factor : [m, n], 0 where a row has no such reading
    steps : 2^bits - 1, codes run from `first` to `last`
    skipped : int64 buffer for the flat indices of outputs in weak light

    Returns
    -------
    saturated, skipped outputs
    """
    matrices, rows, outputs = detected.shape
    half, saturated, count = np.float32(0.5), 0, 0
    zero, dark_variance = np.float32(0), np.float32(variance)
    lowest_code, highest_code, well = np.float32(first), np.float32(last), np.float32(full_well)
    weak, rail_sign, all_steps = np.float32(weak_below), np.float32(rail), np.float32(steps)
    for i in range(matrices):
        for j in range(rows):
            times = factor[i, j]
            if times == zero:
                continue
            photons = electrons[i, j]
            scale = photons * np.float32(gain)
            lowest = np.float32(0) - np.float32(pedestal) / scale
            for k0 in range(0, outputs, frame):
                fluctuation = source[i, j, k0 // frame]
                stop = min(k0 + frame, outputs)
                beyond, weaker = 0, 0
                for k in range(k0, stop):
                    if rail_sign == zero:
                        mean, arrived = signed[i, j, k], light[i, j, k]
                    else:
                        mean = (light[i, j, k] + rail_sign * signed[i, j, k]) * half
                        arrived = mean
                    mean *= fluctuation
                    arrived *= fluctuation
                    mean *= photons
                    arrived *= photons
                    counts = mean + np.sqrt(max(arrived, zero) + dark_variance) * z[i, j, k]
                    if rail_sign != zero:
                        beyond += counts > well
                        counts = min(counts, well)
                        value = counts / scale - lowest
                        end = limit[i, k] - lowest
                        step = end / all_steps
                    else:
                        value = counts / scale
                        end = limit[i, k]
                        step = (limit[i, k] + limit[i, k]) / all_steps
                    code = np.rint(value / step)
                    is_weak = arrived < weak
                    weaker += is_weak
                    over = code < lowest_code or (code > highest_code and value > end)
                    beyond += over and not is_weak
                    value = min(max(code, lowest_code), highest_code) * step
                    if rail_sign != zero:
                        value += lowest
                    if is_weak:
                        value = zero
                    detected[i, j, k] += value * times
                saturated += beyond
                if weaker:
                    for k in range(k0, stop):
                        arrived = light[i, j, k]
                        if rail_sign != zero:
                            arrived = (light[i, j, k] + rail_sign * signed[i, j, k]) * half
                        arrived *= fluctuation
                        arrived *= photons
                        if arrived < weak:
                            skipped[count] = (i * rows + j) * outputs + k
                            count += 1
    return saturated, count
