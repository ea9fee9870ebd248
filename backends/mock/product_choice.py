"""The fastest exact product of bytes on this machine, found by timing all that are exact.

Compiled loops (tiles, where the processor sums products of bytes), onnxruntime (which uses matrix
units, and dot products of other processors) and float32 give the same sums. They are timed when the
first large product needs many rows, and the times are kept on disk for this machine.
"""

import platform
import time
from collections.abc import Callable
from functools import cache

import numpy as np

from ...instruments.cache_folder import Arrays, kept, key_of
from ...instruments.version import VERSION, version_of
from . import LOOPS, compiled_loops
from .int8_gemm import integer_product

LOOPS_OF_BYTES, LIBRARY, FLOATS = "compiled loops", "onnxruntime", "float32"
PATHS = (LOOPS_OF_BYTES, LIBRARY, FLOATS)
ROWS = (16, 128)  # that are timed, with 512 outputs of 256 columns
WORTH_TIMING = 1 << 24  # multiplications
_OUTPUTS, _LENGTH, _REPEATS = 512, 256, 9
_MUCH = 0.8  # of the time of compiled loops: what else needs more passes over memory


def fastest_path(rows: int, multiplications: int) -> str:
    """Return the path of `PATHS` for a product of many rows."""
    has_dot = LOOPS.is_used and bool(compiled_loops().HAS_DOT)
    if multiplications < WORTH_TIMING and not product_times.cache_info().currsize:
        if has_dot:
            return LOOPS_OF_BYTES
        return FLOATS if isinstance(integer_product(), str) else LIBRARY
    return chosen_path(product_times(), rows)


def chosen_path(times: np.ndarray, rows: int) -> str:
    """Return the path that `product_times` recommend for a number of rows."""
    place = int(np.argmin([abs(np.log(rows / timed)) for timed in ROWS]))
    seconds = times[:, place] * np.array([_MUCH, 1, 1])
    return PATHS[int(np.argmin(seconds))]


@cache
def product_times() -> np.ndarray:
    """Return the seconds of each path for each number of `ROWS`; infinite for a path that is not.

    They are those that an earlier run kept, if this is the same machine.
    """
    key = key_of(
        {
            "version": VERSION,
            "machine": [platform.system(), platform.machine(), platform.processor()],
            "processor": compiled_loops().PROCESSOR if LOOPS.is_used else "",
            "libraries": {name: version_of(name) for name in ("numpy", "numba", "onnxruntime")},
        }
    )
    return kept("products", key, _measured)["seconds"]


def product_seconds() -> dict[str, dict[str, float]]:
    """Return the seconds of each path that this machine has, by number of rows."""
    return {
        str(rows): {
            path: float(seconds)
            for path, seconds in zip(PATHS, product_times()[:, place], strict=True)
            if np.isfinite(seconds)
        }
        for place, rows in enumerate(ROWS)
    }


def _measured() -> Arrays:
    """Time all paths in turn."""
    seconds = np.full((len(PATHS), len(ROWS)), np.inf)
    for place, rows in enumerate(ROWS):
        calls = _calls(rows)
        for _ in range(_REPEATS):
            for path, call in calls.items():
                start = time.perf_counter()
                call()
                took = time.perf_counter() - start
                seconds[PATHS.index(path), place] = min(seconds[PATHS.index(path), place], took)
    return {"seconds": seconds}


def _calls(rows: int) -> dict[str, Callable[[], object]]:
    """Return one product of each path that is exact here."""
    chance = np.random.Generator(np.random.Philox(0))
    x = chance.integers(-127, 128, (rows, _LENGTH)).astype(np.int8)
    w = chance.integers(-127, 128, (_OUTPUTS, _LENGTH)).astype(np.int8)
    left, right = x.astype(np.float32), w.T.astype(np.float32)
    calls: dict[str, Callable[[], object]] = {FLOATS: lambda: left @ right}
    if LOOPS.is_used:
        loops, packed = compiled_loops(), compiled_loops().packed(w)
        product, starts = np.empty((1, rows, _OUTPUTS), np.int32), np.zeros(rows, np.int32)
        arguments = (x, starts, packed, 0, _LENGTH // 4, 0, loops.ALL, product)
        calls[LOOPS_OF_BYTES] = lambda: loops.multiply_bytes(*arguments)
    library = integer_product()
    if not isinstance(library, str):
        shifted, columns = x.view(np.uint8) ^ np.uint8(128), library.stored(w.T)
        calls[LIBRARY] = lambda: library.multiply(shifted, 128, columns)
    return calls
