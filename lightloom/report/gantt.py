"""One layer of a trace as a picture and a page: device activity, predicted above measured.

`picture` gives an SVG file; `trace_page` adds what is read off it: the time of every track, the
largest gaps of the light, the difference of predicted and measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..instruments.errors import import_extra
from ..instruments.formatting import format_duration
from ..instruments.table import Cell, Column, Table, columns
from ..instruments.timeline import covered_s
from ..scheduler.runs.trace import Trace, order_of_track
from .charts import COLOURS, as_svg, label_at, new_figure, page_style, plain, shortened
from .excerpt import MOST_GAPS, Excerpt, Gap, SliceBar, View, excerpt, exposures_of, gaps
from .page import render

TRACE_PAGE, TRACE_PICTURE = "lightloom trace page", "lightloom trace picture"
_WIDTH_INCHES = 11.0
_COLUMNS = 820  # into which time is divided: what is narrower than one is merged
_ROW, _LANE, _BETWEEN, _TITLE = 16.0, 10.0, 4.0, 26.0  # heights, in points
_MOST_LANES = 8  # beside each other in a row; what would need more is drawn over the last
_MOST_TRACK = 18  # characters of a track's name
_FEW = 4  # names that a sentence lists before it counts
_FAINT = 0.28  # opacity of other layers and passes
_KINDS = {  # of steps, in the order of the legend -> colour
    "patch embedding": "indigo",
    "QKV": "blue",
    "QK^T": "orange",
    "attention x V": "green",
    "output projection": "purple",
    "MLP": "teal",
    "LM head": "indigo",
    "classifier": "indigo",
    "softmax": "red",
    "norm": "gold",
    "activation": "pink",
    "residual and bias": "olive",
    "rotary": "brown",
    "other": "grey",
}

# --- blocks: what is drawn ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """One rectangle: a slice, or many of a step that are each narrower than a column.

    Parameters
    ----------
    share : of its time that its slices cover
    """

    start_s: float
    end_s: float
    kind: str
    is_ours: bool
    words: str
    share: float = 1.0

    @property
    def opacity(self) -> float:
        """The opacity, from 0 to 1: what covers little of its time, or is not ours, is faint."""
        return (0.3 + 0.7 * self.share) * (1.0 if self.is_ours else _FAINT)


def _lanes(bars: Sequence[SliceBar]) -> list[list[SliceBar]]:
    """Return the lanes of a row: slices that overlap in time go beside each other."""
    lanes: list[list[SliceBar]] = []
    for bar in bars:  # in order of their beginnings
        free = (lane for lane in lanes if lane[-1].end_s <= bar.start_s + 1e-12)
        lane = next(free, None)
        if lane is None and len(lanes) < _MOST_LANES:
            lanes.append([])
        (lane if lane is not None else lanes[-1]).append(bar)
    return lanes


def _blocks(lane: Sequence[SliceBar], column_s: float) -> Iterator[_Block]:
    """Yield the rectangles of a lane: at most a few for each column, for any number of slices."""
    narrow: dict[int, list[SliceBar]] = defaultdict(list)
    for bar in lane:
        if bar.end_s - bar.start_s >= column_s:
            yield _Block(bar.start_s, bar.end_s, _kind(bar), bar.is_ours, _words(bar))
        else:
            middle = (bar.start_s + bar.end_s) / 2
            narrow[int(middle / column_s)].append(bar)
    columns = enumerate(sorted(narrow))
    # neighbours in which the same step took most of the time are one rectangle
    for (_, leader), some in groupby(columns, lambda c: (c[1] - c[0], _leader(narrow[c[1]]))):
        together = [column for _, column in some]
        bars = [bar for column in together for bar in narrow[column]]
        yield _merged(bars, together[0] * column_s, (together[-1] + 1) * column_s, leader)


def _kind(bar: SliceBar) -> str:
    kind = bar.item.details.get("kind")
    return kind if isinstance(kind, str) and kind in _KINDS else "other"


def _leader(bars: Sequence[SliceBar]) -> tuple[str, str, bool]:
    """Return step, kind and whether it is ours, of what took most of the time."""
    seconds: dict[tuple[str, str, bool], float] = defaultdict(float)
    for bar in bars:
        seconds[bar.step, _kind(bar), bar.is_ours] += bar.end_s - bar.start_s
    return max(seconds, key=lambda key: (seconds[key], key))


def _merged(
    bars: Sequence[SliceBar], start_s: float, end_s: float, leader: tuple[str, str, bool]
) -> _Block:
    step, kind, is_ours = leader
    if len(bars) == 1:
        return _Block(start_s, end_s, kind, is_ours, _words(bars[0]))
    share = min(1.0, covered_s((bar.start_s, bar.end_s) for bar in bars) / (end_s - start_s))
    others = sum(bar.step != step for bar in bars)
    mixed = f", {others:,} of them of other steps" if others else ""
    words = (
        f"{step}: {len(bars):,} slices{mixed}, from {format_duration(start_s)} to "
        f"{format_duration(end_s)}, {share:.0%} of that time"
    )
    return _Block(start_s, end_s, kind, is_ours, words, share)


def _words(bar: SliceBar) -> str:
    item = bar.item
    rest = (pair for pair in item.details.items() if pair[0] not in ("step", "kind", "layer"))
    details = [f"{key.replace('_', '-')} {value}" for key, value in rest][:8]
    step = "" if bar.step == item.name else f" of {bar.step}"
    told = ", ".join([f"{item.name}{step}: {format_duration(item.seconds)}", *details])
    return f"{told[:300]}; from {format_duration(bar.start_s)}"


# --- the picture ----------------------------------------------------------------------------------


def picture(shown: Excerpt) -> str:
    """Return a Gantt picture as an SVG file, with the colours of light and dark pages.

    Raises
    ------
    MissingExtraError : without the extra `report`
    """
    head, _, rest = _chart(shown).removeprefix("<svg").partition(">")
    return render("picture.svg", TRACE_PICTURE, head=head, rest=rest)


def _chart(shown: Excerpt) -> str:
    """Return predicted above measured, one axis of time, a row a track, as SVG."""
    longest_s = max((view.seconds for view in shown.views), default=0.0) or 1e-9
    hints: dict[str, list[str]] = {}
    names: dict[float, str] = {}  # of tracks, by the middle of their rows
    with page_style():
        ticker = import_extra("matplotlib.ticker", "report", "drawing a chart")
        figure = new_figure(_WIDTH_INCHES, 1.0)
        axes = figure.add_subplot()
        y = 0.0
        for view in shown.views:
            y += _TITLE
            title = f"{view.name}, {format_duration(view.seconds)}{' (MOCK)' * shown.is_mock}"
            axes.text(0, y - 6, plain(title), fontweight="bold", parse_math=False)
            for track, bars in view.tracks.items():
                lanes = _lanes(bars)
                deep = max(_ROW / len(lanes), _LANE)
                names[y + deep * len(lanes) / 2] = plain(shortened(track, _MOST_TRACK))
                _draw_row(axes, view, track, y, deep * len(lanes))
                for lane in lanes:
                    gid = f"lane-{len(hints)}"
                    hints[gid] = _draw_lane(axes, gid, lane, y, deep, longest_s / _COLUMNS)
                    y += deep
                y += _BETWEEN
        axes.set(xlim=(0, longest_s), ylim=(y, 0))
        axes.set_yticks(list(names), list(names.values()), parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(axis="x")
        axes.xaxis.set_major_formatter(ticker.EngFormatter(unit="s"))
        _draw_legend(figure, shown)
        figure.set_size_inches(_WIDTH_INCHES, y / 72 + 0.9)
        return as_svg(figure, f"Gantt picture of {_subject(shown)}", hints)


def _draw_row(axes: Any, view: View, track: str, y: float, height: float) -> None:
    """Draw the span of a row, and behind it how busy its track was."""
    axes.barh(y, view.seconds, height, align="edge", color=COLOURS["row"], zorder=0)
    share = view.busy_s(track) / view.seconds if view.seconds else 0.0
    label_at(axes, f"{share:.0%}", view.seconds, y + height / 2)


def _draw_lane(
    axes: Any, gid: str, lane: Sequence[SliceBar], y: float, height: float, column_s: float
) -> list[str]:
    """Draw the slices of a lane as a collection, and return what they show under the mouse."""
    blocks = list(_blocks(lane, column_s))
    axes.broken_barh(
        [(block.start_s, max(block.end_s - block.start_s, 0.8 * column_s)) for block in blocks],
        (y + 0.5, height - 1),
        facecolors=[(COLOURS[_KINDS[block.kind]], block.opacity) for block in blocks],
        linewidth=0,
        gid=gid,
        zorder=2,
    )
    return [block.words for block in blocks]


def _draw_legend(figure: Any, shown: Excerpt) -> None:
    """Draw the kinds of steps that are shown, and what is faint."""
    patches = import_extra("matplotlib.patches", "report", "drawing a chart")
    bars = [bar for view in shown.views for some in view.tracks.values() for bar in some]
    kinds = {_kind(bar) for bar in bars if bar.is_ours}
    handles = [
        patches.Patch(color=COLOURS[colour], label=kind)
        for kind, colour in _KINDS.items()
        if kind in kinds
    ]
    if not all(bar.is_ours for bar in bars):
        colour = (COLOURS["grey"], _FAINT)
        handles.append(patches.Patch(color=colour, label="faint: other layers and passes"))
    figure.legend(handles=handles, loc="outside lower left", ncols=8)


# --- the page -------------------------------------------------------------------------------------


def trace_page(trace: Trace, layer: int | None = None, name: str = "trace") -> str:
    """Return the page of one layer: the picture, time by track, gaps, predicted beside measured.

    Raises
    ------
    InputError : see `excerpt`
    MissingExtraError : without the extra `report`
    """
    shown = excerpt(trace, layer)
    found = {view.name: gaps(view) for view in shown.views}
    about = [f"{key} {value}" for key, value in trace.about.items() if key != "is_mock"]
    return render(
        "trace.html",
        TRACE_PAGE,
        title=f"Trace {name}",
        lead=", ".join(about),
        is_mock=trace.is_mock,
        sentences=list(_sentences(trace, shown)),
        chart=_chart(shown),
        times=_time_table(shown),
        most_gaps=MOST_GAPS,
        gaps=_gap_table(found),
        gap_notes=list(_gap_notes(shown, found)),
    )


def _subject(shown: Excerpt) -> str:
    return "the whole trace" if shown.layer is None else f"layer {shown.layer}"


def _sentences(trace: Trace, shown: Excerpt) -> Iterator[str]:
    """Yield sentences: what is shown, how long it took, and what is missing."""
    if shown.layer is not None:
        batches = sorted({batch for batch, _ in shown.passes})
        passes = sorted({number + 1 for _, number in shown.passes})
        yield (
            f"Layer {shown.layer} of layers {shown.layers[0]} to {shown.layers[-1]}, "
            f"{_listed('micro-batch', batches)}, {_listed('pass', passes)}."
        )
    times = {view.name: view.seconds for view in shown.views}
    told = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in times.items())
    told = f"Time of {_subject(shown)}: {told}"
    if times.get("predicted") and times.get("measured"):
        told += f"; {_difference(times['predicted'], times['measured'])} predicted over measured"
    yield told + "."
    for name, timeline in trace.timelines.items():
        if timeline.left_out:
            yield (
                f"{timeline.left_out:,} later slices and counts of {name} are not in the trace: it "
                "was full."
            )


def _listed(word: str, numbers: Sequence[int]) -> str:
    """Return numbered things in words; many are only counted."""
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    if len(numbers) > _FEW:
        return f"{len(numbers)} {word}es"
    return f"{word}es {', '.join(map(str, numbers))}"


def _difference(predicted: float, measured: float) -> str:
    told = f"{predicted / measured - 1:+.1%}"
    return "0.0%" if told in ("-0.0%", "+0.0%") else told


def _time_table(shown: Excerpt) -> Table:
    """Return the seconds in which each track was busy, and their share of the span."""
    views = {view.name: view for view in shown.views}
    shown_columns = [Column("track", align="left")]
    for name in views:
        shown_columns += [
            Column(f"{name}: busy", form=format_duration),
            Column("of the span", form=".1%"),
        ]
    if {"predicted", "measured"} <= set(views):
        shown_columns.append(Column("predicted over measured"))
    tracks = sorted({t for view in shown.views for t in view.tracks}, key=order_of_track)
    rows = tuple(
        _time_row(track, views, {name: view.busy_s(track) for name, view in views.items()})
        for track in tracks
    )
    whole_s = {name: view.seconds for name, view in views.items()}
    return Table("", tuple(shown_columns), rows, _time_row("the whole span", views, whole_s))


def _time_row(
    label: str, views: Mapping[str, View], busy_s: Mapping[str, float]
) -> tuple[Cell, ...]:
    """Return the cells of a track, None where a timeline has no such track."""
    cells: list[Cell] = [label]
    for name, view in views.items():
        if busy_s[name]:
            cells += [busy_s[name], busy_s[name] / view.seconds]
        else:
            cells += [None, None]
    if {"predicted", "measured"} <= set(views):
        missing = [name for name in ("predicted", "measured") if not busy_s[name]]
        if missing:
            cells.append(f"not {missing[0]}")
        else:
            cells.append(_difference(busy_s["predicted"], busy_s["measured"]))
    return tuple(cells)


def _gap_table(found: Mapping[str, Sequence[Gap]]) -> Table:
    """Return the largest gaps of the light of each timeline."""
    heads = {
        "": None,
        "begins at": format_duration,
        "length": format_duration,
        "shot periods": ".1f",
        "meanwhile": None,
    }
    rows = tuple(
        (
            *(name, gap.start_s, gap.seconds),
            gap.seconds / gap.period_s if gap.period_s else math.inf,
            gap.meanwhile or "nothing on record",
        )
        for name, some in found.items()
        for gap in some
    )
    return Table("", columns(heads), rows)


def _gap_notes(shown: Excerpt, found: Mapping[str, Sequence[Gap]]) -> Iterator[str]:
    """Yield what is to say of timelines without gaps."""
    for view in shown.views:
        if len(exposures_of(view)) < 2:
            yield f"{view.name}: fewer than two exposures, so no shot period."
        elif not found[view.name]:
            yield f"{view.name}: none was longer."
