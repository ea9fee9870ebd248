"""`measure_machine`: this machine as a digital baseline, with measured rates and power."""

import os
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .constants import Baseline, Constant

NAME = "this-machine"
_METERS = Path("/sys/class/powercap")
_SIDE = 768  # of the product that is timed: 0.45e9 MACs
_VALUES = 1 << 24  # copied: 64 MB, more than the caches hold
_BLOCK = 1 << 14  # values, which fit into a cache
_REPEATS = 5


def measure_machine() -> Baseline:
    """Time a product, arithmetic on a cached block and a copy, within a third of a second.

    Power comes from the processor's own meter (Linux, RAPL) where it may be read. Without it the
    baseline has a time and no energy: lightloom does not guess the power of a machine.
    """
    generator = np.random.Generator(np.random.Philox(0))
    x, w = (generator.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    small = generator.standard_normal(_BLOCK, dtype=np.float32)
    one = np.ones_like(small)
    large, target = np.ones(_VALUES, dtype=np.float32), np.zeros(_VALUES, dtype=np.float32)
    joules, start = _joules(), time.perf_counter()
    product = _fastest(lambda: x @ w)
    cached = _fastest(lambda: [np.multiply(small, one, out=small) for _ in range(64)])
    copied = _fastest(lambda: np.copyto(target, large))
    took, after = time.perf_counter() - start, _joules()
    found = {
        "macs_per_s": (_SIDE**3 / product, "1/s", "float32 product in numpy"),
        "operations_per_s": (64 * _BLOCK / cached, "1/s", "float32 multiplications in numpy"),
        "bytes_per_s": (2 * target.nbytes / copied, "B/s", "copy of 64 MB in numpy"),
        "operand_bytes": (4.0, "B", "float32"),
        "value_bytes": (4.0, "B", "float32"),
    }
    if joules is not None and after is not None and after > joules:
        found["power_w"] = ((after - joules) / took, "W", "the processor's own meter, RAPL")
    year = time.localtime().tm_year
    constants = {
        name: Constant(name, value, unit, f"measured here now: {how}", year, "measured")
        for name, (value, unit, how) in found.items()
    }
    title = "this machine, rates as measured now"
    if "power_w" not in found:
        title += "; its power cannot be read"
    return Baseline(NAME, title, constants)


def memory_bytes() -> int | None:
    """Return this machine's memory in bytes; None where it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        pass
    try:
        import ctypes

        size = ctypes.c_ulonglong(0)
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(size))  # type: ignore[attr-defined, unused-ignore]
        return size.value * 1024 or None
    except (AttributeError, OSError):
        return None


def resident_bytes() -> int | None:
    """Return the memory that this process uses, in bytes; None on systems other than Linux."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _fastest(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=1, repeat=_REPEATS))


def _joules() -> float | None:
    """Return the energy counters of all processor packages, added; None if unreadable."""
    try:
        meters = [path / "energy_uj" for path in _METERS.glob("intel-rapl:?")]
        return sum(int(meter.read_bytes()) for meter in meters) * 1e-6 if meters else None
    except (OSError, ValueError):
        return None
