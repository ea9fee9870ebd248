"""HTML pages of results: one file, no network, no scripts; light, dark and on paper.

`page` and what stands before it are for any page; `calibration_page` is the one of a calibration.
Every text is escaped where it enters.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..instruments.errors import import_extra
from ..instruments.files import write_output
from ..instruments.text import printable
from .terminal import _duration

if TYPE_CHECKING:
    from ..backends.optics.calibration_file import Calibration, Figure, Plot, Step

CALIBRATION_PAGE = "lightloom calibration page"
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5f6870; --rule: #d5dade;
  --paper: #ffffff; --series-1: #1f6fb4; --series-2: #b4521f; --series-3: #2f8555;
  --series-4: #7d4fa3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #98a2ab; --rule: #363d44;
  --paper: #15181b; --series-1: #6cb2ee; --series-2: #e8946a; --series-3: #77c799;
  --series-4: #c19be0; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --rule: #bbb;
  --paper: #fff; --series-1: #1f6fb4; --series-2: #b4521f; --series-3: #2f8555;
  --series-4: #7d4fa3; }
  html { font-size: 11px !important; }
  body { margin: 0 !important; max-width: none !important; }
  .plots { grid-template-columns: 1fr 1fr !important; } }
html { font-size: 15px; }
body { margin: 2.5rem auto; max-width: 62rem; padding: 0 1.2rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--rule);
  padding-bottom: .2rem; break-after: avoid; }
p { margin: .3rem 0; max-width: 46rem; }
p.lead, figcaption { color: var(--soft); }
p.mark { font-weight: 600; color: var(--series-2); }
ul { margin: .3rem 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: .3rem 0 .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .22rem 1.1rem .22rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
th[scope=row] { font-weight: 400; color: var(--soft); white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
tr { break-inside: avoid; }
tr.total td { font-weight: 600; border-bottom: 0; }
section section h2 { font-size: 1rem; margin-top: 1.4rem; border: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .7rem;
  margin: 1.1rem 0; }
.card { border: 1px solid var(--rule); border-radius: .4rem; padding: .6rem .8rem;
  break-inside: avoid; }
.card b { display: block; font-size: 1.35rem; font-weight: 600; line-height: 1.3;
  overflow-wrap: anywhere; }
.card span { display: block; color: var(--soft); font-size: .87rem; line-height: 1.35; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .87rem; margin: .3rem 0 .9rem; }
details { margin: .9rem 0; }
summary { cursor: pointer; color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem;
  margin-top: .9rem; }
@media (max-width: 32rem) { .plots { grid-template-columns: 1fr; } }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .87rem; }
figure svg { width: 100%; height: auto; }
svg text { font-family: inherit; }
"""

# --- what any page is made of ---------------------------------------------------------------------


def page(kind: str, title: str, lead: str, *parts: str) -> str:
    """Return a whole page.

    Parameters
    ----------
    kind : of page, by which a later one may replace it (see `files.check_output`)
    title, lead : text: what it is about, and a sentence below
    parts : HTML, as the functions of this module give it
    """
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{kind}">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escaped(title)}</h1>\n<p class="lead">{escaped(lead)}</p>\n{body}\n'
        "</body>\n</html>\n"
    )


def write_page(path: str | Path, content: str, kind: str) -> None:
    """Write a page, or a picture of one.

    Its control characters are written out: a terminal may show it, and SVG has none.

    Raises
    ------
    InputError : when it cannot be written, or something else is there
    """
    write_output(path, printable(content).encode("utf-8", "replace"), kind)


def escaped(text: object) -> str:
    """Return text as HTML shows it."""
    return html.escape(str(text))


def section(heading: str, *parts: str) -> str:
    """Return a part of a page under its heading (text)."""
    body = "\n".join(parts)
    return f"<section>\n<h2>{escaped(heading)}</h2>\n{body}\n</section>"


def paragraph(text: str) -> str:
    """Return text as a paragraph."""
    return f"<p>{escaped(text)}</p>"


def mark(text: str) -> str:
    """Return text that must not be overlooked, such as that numbers are simulated."""
    return f'<p class="mark">{escaped(text)}</p>'


def listing(texts: Iterable[str]) -> str:
    """Return texts as a list."""
    items = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>"


def cards(figures: Iterable[tuple[str, str, str]]) -> str:
    """Return the figures that count most: (name, value, what to know of it), each as text."""
    items = "\n".join(
        f'<div class="card"><span>{escaped(name)}</span><b>{escaped(value)}</b>'
        f"<span>{escaped(words)}</span></div>"
        for name, value, words in figures
    )
    return f'<div class="cards">\n{items}\n</div>'


def folded(summary: str, *parts: str) -> str:
    """Return a part of a page that opens when its summary (text) is clicked."""
    body = "\n".join(parts)
    return f"<details>\n<summary>{escaped(summary)}</summary>\n{body}\n</details>"


def verbatim(text: str) -> str:
    """Return text with its lines as they are."""
    return f"<pre>{escaped(text)}</pre>"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Iterable[int] = (),
    total: Sequence[object] | None = None,
) -> str:
    """Return a table of texts.

    Parameters
    ----------
    numbers : columns that are flush right
    total : a last row that stands out
    """
    right = set(numbers)

    def cells(row: Sequence[object], tag: str) -> str:
        marks = [' class="number"' if column in right else "" for column in range(len(row))]
        return "".join(
            f"<{tag}{mark}>{escaped(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True)
        )

    lines = [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    if total is not None:
        lines.append(f'<tr class="total">{cells(total, "td")}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{cells(headings, "th")}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Return what is what, as a table of names and texts without headings."""
    body = "\n".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(text)}</td></tr>'
        for name, text in rows
    )
    return f'<div class="wide"><table>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def drawings(pictures: Iterable[tuple[str, str]]) -> str:
    """Return drawings side by side, each (SVG of `drawing`, caption as text)."""
    figures = [
        f"<figure>\n{picture}\n<figcaption>{escaped(caption)}</figcaption>\n</figure>"
        for picture, caption in pictures
    ]
    return '<div class="plots">\n' + "\n".join(figures) + "\n</div>"


# --- numbers --------------------------------------------------------------------------------------

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PREFIXES = {1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n", 1e-12: "p"}


def measured(value: float, uncertainty: float | None = None) -> tuple[str, str]:
    """Return a number and its uncertainty as texts, to two digits of the uncertainty.

    Without one, the number has five digits; a whole one below a million has all.
    """
    sizes = [abs(v) for v in (value, uncertainty) if v and np.isfinite(v)]
    largest = max(sizes, default=1.0)
    power = 0 if 1e-3 <= largest < 1e6 else int(np.floor(np.log10(largest)))
    if abs(power) > 300:  # beyond it, a power of ten is no float
        return f"{value:.4g}", "" if uncertainty is None else f"{uncertainty:.2g}"
    scale = 10.0**power
    if uncertainty is not None and np.isfinite(uncertainty) and uncertainty > 0:
        places = 1 - int(np.floor(np.log10(uncertainty))) + power
    elif value and np.isfinite(value) and value / scale != round(value / scale):
        places = 4 - int(np.floor(np.log10(abs(value)))) + power
    else:
        places = 0
    places = min(max(places, 0), 12)
    times = f" × 10{str(power).translate(_RAISED)}" if power else ""
    texts = (
        "" if v is None else f"{v / scale:,.{places}f}{times}" if np.isfinite(v) else str(float(v))
        for v in (value, uncertainty)
    )
    first, second = texts
    return first, second


def moment(text: str) -> str:
    """Return an ISO 8601 time with its zone as people read it, in UTC."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def quantity(value: float, unit: str) -> str:
    """Return a quantity with a prefix to its unit, such as "1.23 mJ"."""
    for size, prefix in _PREFIXES.items():
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


# --- drawings -------------------------------------------------------------------------------------

_INK = "#010203"  # stands in an SVG for the page's own colours, which differ in light and dark
_SERIES = ("#010204", "#010205", "#010206", "#010207")
_COLOURS = {_INK: "var(--ink)"} | {c: f"var(--series-{n})" for n, c in enumerate(_SERIES, 1)}
_MIDDLE = "#4a8fd0"  # in pictures, which no page recolours: seen on white and on black
_MOST_PIXELS = 480  # of a map's longer side: what the page shows of it
_MOST_POINTS = 5000  # of a drawing in lines; beyond it becomes a picture in its frame


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


# --- the page of a calibration --------------------------------------------------------------------


def calibration_page(calibration: Calibration) -> str:
    """Return the page of a calibration: what it is bound to, what was found, and what that cost.

    Raises
    ------
    MissingExtraError : without matplotlib
    """
    steps = list(calibration.steps.values())
    names = ", ".join(step.name for step in steps)
    lead = f"Begun {moment(calibration.created_at)}; {len(steps)} steps: {names}."
    parts = []
    if calibration.is_simulated:
        parts.append(mark("SIMULATED: measured on simulated instruments."))
    parts += [section("Bound to", *_binding(calibration)), section("Cost", _costs(steps))]
    for number, step in enumerate(steps):
        parts.append(section(f"Step: {step.name}", *_step(step, number)))
    return page(CALIBRATION_PAGE, f"Calibration {Path(calibration.path).name}", lead, *parts)


def _binding(calibration: Calibration) -> list[str]:
    from ..backends.optics.calibration_file import leaves

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


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _costs(steps: Sequence[Step]) -> str:
    def cells(name: str, some: Sequence[Step], finished_at: str) -> tuple[object, ...]:
        return (
            name,
            f"{sum(step.shots for step in some):,}",
            _duration(sum(step.seconds for step in some)),
            _duration(sum(step.computing_s for step in some)),
            quantity(sum(step.light_j for step in some), "J"),
            finished_at,
        )

    rows = [cells(step.name, [step], moment(step.finished_at)) for step in steps]
    heads = ("step", "shots", "bench time", "computing", "light", "finished")
    return table(heads, rows, (1, 2, 3, 4), total=cells("all", steps, ""))


def _step(step: Step, number: int) -> list[str]:
    parts = []
    if step.figures:
        parts.append(_figures(step.figures))
    if step.notes:
        parts.append(listing(step.notes))
    pictures = [
        (drawing(plot, step.arrays, f"drawing-{number}-{place}"), plot.title)
        for place, plot in enumerate(step.plots)
    ]
    if pictures:
        parts.append(drawings(pictures))
    return parts or [paragraph("Nothing to show.")]


def _figures(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        value, uncertainty = measured(figure.value, figure.uncertainty)
        rows.append((figure.name, value, uncertainty, figure.unit, figure.note))
    return table(("figure", "value", "±", "unit", ""), rows, (1, 2))
