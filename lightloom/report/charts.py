"""Charts of pages as SVG: figures over time, bars, and the plots of a calibration.

matplotlib draws them in the light colours of `PALETTE`. In a page each colour becomes a variable of
the style sheet, so that a chart follows the reader's light or dark mode.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..backends.optics.calibration_file import Plot
from ..instruments.errors import import_extra
from ..instruments.text import printable

PALETTE = {  # name -> on light paper, on dark paper
    "ink": ("#1c2024", "#e4e7ea"),
    "soft": ("#5f6870", "#98a2ab"),
    "rule": ("#d5dade", "#363d44"),
    "row": ("#f1f3f5", "#1f2429"),
    "paper": ("#ffffff", "#15181b"),
    "blue": ("#1f6fb4", "#6cb2ee"),
    "orange": ("#b4521f", "#e8946a"),
    "green": ("#2f8555", "#77c799"),
    "purple": ("#7d4fa3", "#c19be0"),
    "gold": ("#a17a00", "#d9b84a"),
    "teal": ("#0f7f8c", "#58c4d0"),
    "red": ("#c2334d", "#f07f92"),
    "pink": ("#c04b93", "#ea8fc6"),
    "indigo": ("#3d4bb5", "#98a3f2"),
    "olive": ("#5b6b1f", "#a9bb5e"),
    "brown": ("#7a5230", "#c39a74"),
    "grey": ("#7b858e", "#8b959e"),
}
COLOURS = {name: light for name, (light, _) in PALETTE.items()}
SERIES = tuple(COLOURS.values())[5:]
_ON_BOTH = "#4a8fd0"  # of points in a picture, which no page recolours: seen on white and on black
_WIDTH_INCHES = 5.2
_TIMES = ((1.0, "ms", 1e-3), (180.0, "s", 1.0), (10_800.0, "min", 60.0), (259_200.0, "h", 3600.0))
_MOST_NAME = 24  # characters of a name beside a bar
_MOST_PIXELS = 480  # of a map's longer side: what the page shows of it
_MOST_POINTS = 5000  # of a drawing in lines; beyond it becomes a picture in its frame
_NOT_XML = re.compile(r"[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# --- figures and their SVG ------------------------------------------------------------------------


@contextmanager
def page_style() -> Iterator[None]:
    """Draw and save figures in the style of pages, within the `with` block.

    Raises
    ------
    MissingExtraError : without matplotlib
    """
    matplotlib = import_extra("matplotlib", "report", "drawing a chart")
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "lightloom",
        "font.size": 9.0,
        "font.sans-serif": ["DejaVu Sans"],
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["ink"],
        "axes.edgecolor": COLOURS["soft"],
        "xtick.color": COLOURS["soft"],
        "ytick.color": COLOURS["soft"],
        "xtick.labelcolor": COLOURS["ink"],
        "ytick.labelcolor": COLOURS["ink"],
        "axes.prop_cycle": matplotlib.cycler(color=SERIES),
        "axes.axisbelow": True,
        "grid.color": COLOURS["rule"],
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.0,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts that lack a sign: the reader's browser has it
        yield


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of a size in inches."""
    figures = import_extra("matplotlib.figure", "report", "drawing a chart")
    return figures.Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Any, label: str, hints: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a figure as an SVG element of a page; images in it are PNG.

    Parameters
    ----------
    label : what it shows, for those who cannot see it
    hints : gid of a collection -> the text that each of its shapes shows on hover
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    root.remove(next(child for child in root if child.tag.endswith("}metadata")))
    view = root.get("viewBox", "")
    _add_hints(root, hints or {})
    _make_names_unique(root, hashlib.sha256((label + stream.getvalue()).encode()).hexdigest()[:8])
    root.attrib = {"role": "img", "aria-label": plain(label), "viewBox": view}
    text = ElementTree.tostring(root, encoding="unicode")
    for name, colour in COLOURS.items():
        text = text.replace(f": {colour}", f": var(--{name})")
    return text


def _add_hints(root: ElementTree.Element, hints: Mapping[str, Sequence[str]]) -> None:
    """Add titles to the shapes of collections; a browser shows them on hover."""
    groups = {group.get("id"): group for group in root.iter() if group.get("id") in hints}
    for gid, texts in hints.items():
        for shape, text in zip(groups[gid], texts, strict=True):
            ElementTree.SubElement(shape, "title").text = plain(text)


def _make_names_unique(root: ElementTree.Element, prefix: str) -> None:
    """Strip namespaces, which a page does without, and prefix every name that is defined."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            name = key.rpartition("}")[2]
            if name == "id":
                value = f"{prefix}-{value}"
            elif name == "href" and value.startswith("#"):
                value = f"#{prefix}-{value[1:]}"
            elif name == "clip-path":
                value = value.replace("url(#", f"url(#{prefix}-")
            elif name == "d":  # a hundredth of a point is enough
                value = re.sub(r"(\.\d\d)\d+", r"\1", value.replace(" \n", " "))
            element.set(name, value)


def plain(text: str) -> str:
    """Return a text that XML can hold, its control characters written out."""
    return _NOT_XML.sub("\ufffd", printable(text))


# --- figures over time ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A figure over time in bins, so that a long series loses no outlier.

    Parameters
    ----------
    middle : mean of each bin, NaN where it is empty; None for bars alone
    low, high : least and largest value of each bin; None without a band
    """

    middle: np.ndarray | None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def time_chart(
    label: str,
    bin_s: float,
    end_s: float,
    line: Line,
    begins_s: Sequence[float] = (),
    level: tuple[float, str] | None = None,
    from_zero: bool = False,
) -> str:
    """Return a figure over time as SVG.

    Parameters
    ----------
    label : what the chart shows, for those who cannot see it
    bin_s, end_s : width of a bin, and the end of the time
    begins_s : moments that are marked: where sessions began
    level : a value to compare with, and its name
    """
    unit, unit_s = next((item[1:] for item in _TIMES if end_s <= item[0]), ("d", 86_400.0))
    with page_style():
        figure = new_figure(_WIDTH_INCHES, 2.1)
        axes = figure.add_subplot()
        axes.grid(axis="y")
        for begin_s in begins_s:
            axes.axvline(begin_s / unit_s, color=COLOURS["soft"], linewidth=0.8, linestyle=":")
        _draw_bins(axes, bin_s / unit_s, line)
        if level is not None:
            axes.axhline(level[0], color=COLOURS["orange"], linewidth=0.8, linestyle="--")
            axes.set_title(f"dashed: {level[1]}", loc="right", color=COLOURS["orange"], fontsize=8)
        axes.set_xlim(0, max(end_s, bin_s) / unit_s)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(f"running time / {unit}")
        return as_svg(figure, label)


def _draw_bins(axes: Any, width: float, line: Line) -> None:
    """Draw the band and the middle of a line; bands without a middle are bars."""
    style = {"color": COLOURS["blue"]}
    if line.low is not None and line.high is not None:
        edges = width * np.arange(len(line.high) + 1)
        band = style | {"alpha": 1.0 if line.middle is None else 0.22, "linewidth": 0.8}
        axes.stairs(line.high, edges, baseline=line.low, fill=True, **band)
    if line.middle is not None:
        edges = width * np.arange(len(line.middle) + 1)
        axes.stairs(line.middle, edges, baseline=None, linewidth=1.5, capstyle="round", **style)


# --- bars -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A bar of pieces, one after another.

    Parameters
    ----------
    name : stands beside it; "" for a further bar of the row above
    pieces : kind -> length; the kind "" is grey and has no name in the legend
    label : stands at its end
    """

    name: str
    pieces: Mapping[str, float]
    label: str = ""


def bar_chart(label: str, bars: Sequence[Bar]) -> str:
    """Return bars below each other as SVG, with a legend where they have several kinds."""
    with page_style():
        figure = new_figure(_WIDTH_INCHES, 0.6 + 0.2 * len(bars))
        axes = figure.add_subplot()
        draw_bars(axes, bars)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            figure.legend(loc="outside lower left", ncols=3)
        return as_svg(figure, label)


def draw_bars(axes: Any, bars: Sequence[Bar]) -> None:
    """Draw bars below each other into the axes of a figure."""
    kinds = dict.fromkeys(kind for bar in bars for kind in bar.pieces if kind)
    colours = dict(zip(kinds, cycle(SERIES), strict=False)) | {"": COLOURS["grey"]}
    named, places, place = set(), [], 0.0
    for bar in bars:
        place += 1.4 if bar.name else 1.0
        places.append(place)
        left, whole = 0.0, sum(bar.pieces.values())
        for kind, length in bar.pieces.items():
            is_new = kind not in named and length > 0.01 * whole
            name = kind if kind and is_new else None
            axes.barh(place, length, 0.9, left, color=colours[kind], label=name)
            named |= {kind} if is_new else set()
            left += length
        label_at(axes, plain(bar.label), left, place)
    names = [plain(shortened(bar.name, _MOST_NAME)) for bar in bars]
    axes.set_yticks(places, names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place + 0.7, 0.7)
    axes.set_xlim(left=0)


def label_at(axes: Any, text: str, x: float, y: float) -> None:
    """Write a text behind the end of a bar."""
    axes.annotate(
        text,
        (x, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        color=COLOURS["soft"],
        parse_math=False,
    )


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- plots of a calibration -----------------------------------------------------------------------


def plot_chart(plot: Plot, arrays: Mapping[str, np.ndarray]) -> str:
    """Return a plot of a calibration as SVG.

    Parameters
    ----------
    plot : what is drawn, and how
    arrays : by the names that the plot gives
    """
    with page_style():
        figure = new_figure(_WIDTH_INCHES, 3.2)
        axes = figure.add_subplot()
        y = np.asarray(arrays[plot.y], dtype=float)
        if plot.kind == "image":
            _draw_map(figure, axes, y)
        elif plot.kind == "histogram":
            _draw_histogram(axes, y)
        else:
            x = np.arange(y.shape[-1]) if plot.x is None else arrays[plot.x]
            _draw_lines(axes, np.asarray(x, dtype=float), np.atleast_2d(y), plot.kind == "points")
        default = "number" if plot.kind == "histogram" else ""
        axes.set_xlabel(plain(plot.x_label), parse_math=False)
        axes.set_ylabel(plain(plot.y_label or default), parse_math=False)
        return as_svg(figure, plot.title)


def _draw_lines(axes: Any, x: np.ndarray, y: np.ndarray, as_points: bool) -> None:
    """Draw rows of y [lines, points] over x [points]."""
    is_picture = y.size > _MOST_POINTS
    style = {"linestyle": "none", "marker": ".", "markersize": 4} if as_points else {}
    for line, colour in zip(y, cycle(SERIES[:4]), strict=False):
        shown = _ON_BOTH if is_picture else colour
        axes.plot(x, line, linewidth=1.2, color=shown, rasterized=is_picture, **style)
    axes.grid(True)


def _draw_histogram(axes: Any, sample: np.ndarray) -> None:
    """Draw how often values occur, as logarithms where a few stand far out."""
    sample = sample[np.isfinite(sample)]
    if sample.size:
        axes.hist(sample, bins=60)
        low, high = np.percentile(sample, (0.5, 99.5))
        if high - low < 0.2 * np.ptp(sample):
            axes.set_yscale("log")


def _draw_map(figure: Any, axes: Any, values: np.ndarray) -> None:
    """Draw a map [rows, columns] with the scale of its colours."""
    if not values.size or not np.isfinite(values).any():
        axes.text(0.5, 0.5, "nothing measured", ha="center", transform=axes.transAxes)
        return
    picture = axes.imshow(_reduced(values), aspect="equal", cmap="viridis", interpolation="none")
    height, width = values.shape
    picture.set_extent((-0.5, width - 0.5, height - 0.5, -0.5))
    figure.colorbar(picture, ax=axes, shrink=0.9).solids.set_rasterized(True)


def _reduced(values: np.ndarray) -> np.ndarray:
    """Return a map of at most `_MOST_PIXELS` a side: means of squares, without what overhangs."""
    side = -(-max(values.shape) // _MOST_PIXELS)
    if side == 1 or min(values.shape) < side:
        return values
    height, width = (size // side for size in values.shape)
    squares = values[: height * side, : width * side].reshape(height, side, width, side)
    return squares.mean(axis=(1, 3))
