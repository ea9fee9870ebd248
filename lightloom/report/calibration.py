"""The page of a calibration: what it is bound to, what was found, and what that cost."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.optics.calibration_file import Calibration, Plot, Step, leaves
from ..backends.optics.calibration_tables import cost_table, figure_table
from ..instruments.errors import import_extra
from ..instruments.formatting import format_counted, format_moment
from ..instruments.table import as_html
from .page import drawings, escaped, listing, mark, page, paragraph, section, table

CALIBRATION_PAGE = "lightloom calibration page"
_INK = "#010203"  # stands in an SVG for the page's own colours, which differ in light and dark
_SERIES = ("#010204", "#010205", "#010206", "#010207")
_COLOURS = {_INK: "var(--ink)"} | {c: f"var(--series-{n})" for n, c in enumerate(_SERIES, 1)}
_MIDDLE = "#4a8fd0"  # in pictures, which no page recolours: seen on white and on black
_MOST_PIXELS = 480  # of a map's longer side: what the page shows of it
_MOST_POINTS = 5000  # of a drawing in lines; beyond it becomes a picture in its frame


def calibration_page(calibration: Calibration) -> str:
    """Return the page of a calibration: what it is bound to, what was found, and what that cost.

    Raises
    ------
    MissingExtraError : without matplotlib
    """
    steps = list(calibration.steps.values())
    names = ", ".join(step.name for step in steps)
    lead = (
        f"Begun {_moment(calibration.created_at)}; {format_counted(len(steps), 'step')}: {names}."
    )
    parts = []
    if calibration.is_simulated:
        parts.append(mark("SIMULATED: measured on simulated instruments."))
    parts += [
        section("Bound to", *_binding(calibration)),
        section("Cost", as_html(cost_table(steps))),
    ]
    for number, step in enumerate(steps):
        parts.append(section(f"Step: {step.name}", *_step(step, number)))
    return page(CALIBRATION_PAGE, f"Calibration {Path(calibration.path).name}", lead, *parts)


def _binding(calibration: Calibration) -> list[str]:
    identity = ("maker", "model", "serial")
    rows = []
    for role, told in calibration.binding["instruments"].items():
        others = (f"{key} {_plain(told[key])}" for key in told if key not in identity)
        rows.append((role, *(told.get(key, "") for key in identity), "; ".join(others)))
    settings = {key: v for key, v in calibration.binding.items() if key != "instruments"}
    return [
        table(("instrument", *identity, "as it was"), rows),
        table(("setting", "value"), [(key, _plain(value)) for key, value in leaves(settings)]),
    ]


def _moment(text: str) -> str:
    return format_moment(datetime.fromisoformat(text))


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _step(step: Step, number: int) -> list[str]:
    parts = []
    if step.figures:
        parts.append(as_html(figure_table(step.figures)))
    if step.notes:
        parts.append(listing(step.notes))
    pictures = [
        (drawing(plot, step.arrays, f"drawing-{number}-{place}"), plot.title)
        for place, plot in enumerate(step.plots)
    ]
    if pictures:
        parts.append(drawings(pictures))
    return parts or [paragraph("Nothing to show.")]


# --- drawings -------------------------------------------------------------------------------------


def drawing(plot: Plot, arrays: Mapping[str, np.ndarray], name: str) -> str:
    """Draw arrays as an SVG that stands in a page; images are PNG inside of it.

    Parameters
    ----------
    plot : what is drawn, and how
    arrays : by the names that the plot gives
    name : of this drawing among those of its page; letters, digits and hyphens

    Raises
    ------
    MissingExtraError : without matplotlib
    """
    matplotlib = import_extra("matplotlib", "report", "drawing the plots of a page")
    figures = import_extra("matplotlib.figure", "report", "drawing the plots of a page")
    options = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.0}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts that lack a sign: the reader's browser has it
        figure = figures.Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        y = np.asarray(arrays[plot.y], dtype=float)
        if plot.kind == "image":
            _draw_image(figure, axes, y)
        elif plot.kind == "histogram":
            _draw_histogram(axes, y)
        else:
            x = np.arange(y.shape[-1]) if plot.x is None else arrays[plot.x]
            _draw_lines(axes, np.asarray(x, dtype=float), np.atleast_2d(y), plot.kind == "points")
        default = {"histogram": "number"}.get(plot.kind, "")
        axes.set_xlabel(plot.x_label, parse_math=False)
        axes.set_ylabel(plot.y_label or default, parse_math=False)
        _colour(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    return _for_page(stream.getvalue(), name, plot.title)


def _draw_lines(axes: Any, x: np.ndarray, y: np.ndarray, as_points: bool) -> None:
    """Draw rows of y [lines, points] over x [points]."""
    is_picture = y.size > _MOST_POINTS
    style = {"linestyle": "none", "marker": ".", "markersize": 4} if as_points else {}
    for number, line in enumerate(y):
        colour = _MIDDLE if is_picture else _SERIES[number % len(_SERIES)]
        axes.plot(x, line, linewidth=1.2, color=colour, rasterized=is_picture, **style)
    axes.grid(True, linewidth=0.4, alpha=0.25, color=_INK)


def _draw_histogram(axes: Any, sample: np.ndarray) -> None:
    """Draw how often values occur, as logarithms where a few stand far out."""
    sample = sample[np.isfinite(sample)]
    if sample.size:
        axes.hist(sample, bins=60, color=_SERIES[0])
        low, high = np.percentile(sample, (0.5, 99.5))
        if high - low < 0.2 * np.ptp(sample):
            axes.set_yscale("log")


def _draw_image(figure: Any, axes: Any, values: np.ndarray) -> None:
    """Draw a map [rows, columns] with the scale of its colours."""
    axes.grid(False)
    if not values.size or not np.isfinite(values).any():
        axes.text(0.5, 0.5, "nothing measured", ha="center", transform=axes.transAxes, color=_INK)
        return
    picture = axes.imshow(_reduced(values), aspect="equal", cmap="viridis", interpolation="none")
    height, width = values.shape
    picture.set_extent((-0.5, width - 0.5, height - 0.5, -0.5))
    bar = figure.colorbar(picture, ax=axes, shrink=0.9)
    bar.solids.set_rasterized(True)
    bar.ax.tick_params(colors=_INK)
    bar.outline.set_edgecolor(_INK)


def _reduced(values: np.ndarray) -> np.ndarray:
    """Return a map of at most `_MOST_PIXELS` a side: means of squares, without what overhangs."""
    side = -(-max(values.shape) // _MOST_PIXELS)
    if side == 1 or min(values.shape) < side:
        return values
    height, width = (size // side for size in values.shape)
    squares = values[: height * side, : width * side].reshape(height, side, width, side)
    return squares.mean(axis=(1, 3))


def _colour(axes: Any) -> None:
    """Draw frame and texts of axes in the page's ink."""
    axes.tick_params(colors=_INK, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(_INK)
    for text in (axes.xaxis.get_offset_text(), axes.yaxis.get_offset_text()):
        text.set_color(_INK)
    for spine in axes.spines.values():
        spine.set_edgecolor(_INK)


def _for_page(text: str, name: str, title: str) -> str:
    """Make a file of SVG a part of a page: no head, no addresses, names and colours of its own."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None
    rest = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", rest.replace("xlink:href", "href"))
    for colour, ours in _COLOURS.items():
        rest = rest.replace(colour, ours)
    return f'<svg id="{name}" role="img" aria-label="{escaped(title)}" {view[0]}>{rest}'
