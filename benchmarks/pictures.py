"""What pictures of benchmarks share: logarithmic axes that hold for any data."""

from typing import Any

_FLAT = 1.001  # highest value over lowest, below which an axis has no range of its own


def use_log_axes(axes: Any) -> None:
    """Make both axes of a matplotlib plot logarithmic, after its data was drawn.

    Values that differ by rounding alone get an axis from half to twice their size: matplotlib
    would set identical limits for them, and warn.
    """
    for name, (low, high) in (("x", axes.dataLim.intervalx), ("y", axes.dataLim.intervaly)):
        if 0 < low <= high < _FLAT * low:
            axes.set(**{f"{name}lim": (low / 2, 2 * high)})
    axes.set(xscale="log", yscale="log")
