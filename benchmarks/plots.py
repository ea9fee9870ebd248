"""What pictures of benchmarks share: logarithmic axes that hold for any data, and their files."""

from io import BytesIO
from pathlib import Path
from typing import Any

from ..instruments.files import write_output

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


def save_picture(figure: Any, path: Path, kind: str) -> None:
    """Write a matplotlib figure as .svg or .png.

    Parameters
    ----------
    kind : of picture, by which a later one may replace it (see `files.check_output`)

    Raises
    ------
    InputError : when it cannot be written, or something else is there
    """
    suffix = path.suffix.lower().removeprefix(".")
    metadata = {"Creator": kind, "Date": None} if suffix == "svg" else {"Software": kind}
    drawn = BytesIO()
    figure.savefig(drawn, format=suffix, metadata=metadata, dpi=150)
    write_output(path, drawn.getvalue(), kind)
