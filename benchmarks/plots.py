"""Shared code of pictures: logarithmic axes for any data, and files."""

from io import BytesIO
from pathlib import Path
from typing import Any

from ..instruments.errors import InputError, import_extra
from ..instruments.files import check_output, write_output

_SUFFIXES = (".svg", ".png")
_FLAT = 1.001  # highest value over lowest; below it, an axis gets a default range


def check_picture(path: Path, kind: str) -> None:
    """Check before the work starts that a picture can be drawn and written.

    Parameters
    ----------
    kind : see `save_picture`

    Raises
    ------
    InputError : when it could not be written, or is neither .svg nor .png
    MissingExtraError : without matplotlib
    """
    check_output(path, kind)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--picture {path}: give a file that ends in .svg or .png")
    import_extra("matplotlib", "report", "drawing a picture")


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
    """Write a matplotlib figure as .svg or .png; the same figure gives the same bytes.

    Parameters
    ----------
    kind : name of this kind of picture; a later one of it replaces the file (see
        `files.check_output`)

    Raises
    ------
    InputError : when it cannot be written, or the file there is of another kind
    """
    matplotlib = import_extra("matplotlib", "report", "drawing a picture")
    suffix = path.suffix.lower().removeprefix(".")
    metadata = {"Creator": kind, "Date": None} if suffix == "svg" else {"Software": kind}
    drawn = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": kind}):
        figure.savefig(drawn, format=suffix, metadata=metadata, dpi=150)
    write_output(path, drawn.getvalue(), kind)
