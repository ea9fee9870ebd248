"""Shared code of pictures: logarithmic axes for any data, and files."""

from io import BytesIO
from pathlib import Path
from typing import Any

from ..instruments.files import write_output

_FLAT = 1.001  # highest value over lowest; below it, an axis gets a default range


def use_log_axes(axes: Any) -> None:
    """Make both axes of a matplotlib plot logarithmic, after the data is drawn.

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
    kind : name of this kind of picture; a later one of it replaces the file (see
        `files.check_output`)

    Raises
    ------
    InputError : when it cannot be written, or the file there is of another kind
    """
    suffix = path.suffix.lower().removeprefix(".")
    metadata = {"Creator": kind, "Date": None} if suffix == "svg" else {"Software": kind}
    drawn = BytesIO()
    figure.savefig(drawn, format=suffix, metadata=metadata, dpi=150)
    write_output(path, drawn.getvalue(), kind)
