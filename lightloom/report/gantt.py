"""One layer of a trace as a picture and a page: device activity, predicted above measured.

`picture` gives an SVG that stands alone or in a page; `trace_page` adds what is read off it: the
time of every track, the largest gaps of the light, the difference of predicted and measured.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ..instruments import InputError
from ..instruments.formatting import format_duration, format_quantity
from ..instruments.timeline import Slice, Timeline
from ..scheduler.runs.trace import Trace, order_of_track
from .page import escaped, listing, mark, page, paragraph, section, table

TRACE_PAGE, TRACE_PICTURE = "lightloom trace page", "lightloom trace picture"
_WIDTH_PX = 1000.0
_LEFT_PX, _RIGHT_PX = 118.0, 52.0  # names of tracks, and how busy they were
_PLOT_PX = _WIDTH_PX - _LEFT_PX - _RIGHT_PX
_ROW_PX, _LANE_PX, _BETWEEN_PX = 16.0, 10.0, 4.0
_MOST_LANES = 8  # beside each other in a row; what would need more is drawn over the last
_MOST_GAPS = 8
_FEW = 4  # names that a sentence lists before it counts

# Kinds of steps in the order of the legend: colour on light paper, on dark paper.
_COLOURS = {
    "patch embedding": ("#3d4bb5", "#98a3f2"),
    "QKV": ("#1f6fb4", "#6cb2ee"),
    "QK^T": ("#b4521f", "#e8946a"),
    "attention x V": ("#2f8555", "#77c799"),
    "output projection": ("#7d4fa3", "#c19be0"),
    "MLP": ("#0f7f8c", "#58c4d0"),
    "LM head": ("#3d4bb5", "#98a3f2"),
    "classifier": ("#3d4bb5", "#98a3f2"),
    "softmax": ("#c2334d", "#f07f92"),
    "norm": ("#a17a00", "#d9b84a"),
    "activation": ("#c04b93", "#ea8fc6"),
    "residual and bias": ("#5b6b1f", "#a9bb5e"),
    "rotary": ("#7a5230", "#c39a74"),
    "other": ("#7b858e", "#8b959e"),
}
_CLASSES = {kind: f"kind-{number}" for number, kind in enumerate(_COLOURS)}

# --- which slices ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bar:
    """A slice within the time that is shown.

    Parameters
    ----------
    start_s, end_s : from the beginning of what is shown
    is_ours : it belongs to the layer, and to the pass, that is shown
    """

    start_s: float
    end_s: float
    item: Slice
    is_ours: bool

    @property
    def step(self) -> str:
        return str(self.item.details.get("step", self.item.name))

    @property
    def kind(self) -> str:
        kind = self.item.details.get("kind")
        return kind if isinstance(kind, str) and kind in _COLOURS else "other"


@dataclass(frozen=True)
class _View:
    """What is shown of one timeline: its tracks in order, and how long it took."""

    name: str
    tracks: dict[str, list[_Bar]]
    seconds: float

    def busy_s(self, track: str) -> float:
        return _covered_s((bar.start_s, bar.end_s) for bar in self.tracks.get(track, ()))


@dataclass(frozen=True)
class Excerpt:
    """One layer of a trace, or all of a trace that knows no layers.

    Parameters
    ----------
    layer, layers : the one that is shown, of those that the trace holds; None and empty without
    passes : micro-batch and number of its pass, of what is shown
    views : one for each timeline, predicted first
    """

    layer: int | None
    layers: tuple[int, ...]
    passes: tuple[tuple[int, int], ...]
    views: tuple[_View, ...]
    is_mock: bool


def excerpt(trace: Trace, layer: int | None = None) -> Excerpt:
    """Return what is shown: a layer in its first pass that is whole.

    Micro-batches whose passes overlap in that layer are shown together. Other activity at the time
    is shown faintly, and counts where it kept a device busy.

    Parameters
    ----------
    layer : None takes the one in the middle

    Raises
    ------
    InputError : when the trace does not hold the layer, or nothing at all
    """
    names = sorted(trace.timelines, key=lambda name: (name != "predicted", name == "measured"))
    timelines = {name: trace.timelines[name] for name in names if trace.timelines[name].slices}
    if not timelines:
        raise InputError("the trace holds no slice: nothing was done while it was written")
    runs = {name: _executions(timeline) for name, timeline in timelines.items()}
    layers = tuple(sorted(set().union(*runs.values())))
    if layer is None and not layers:
        views = [_view(name, t, t.start_s, t.end_s) for name, t in timelines.items()]
        return Excerpt(None, (), (), tuple(views), trace.is_mock)
    if layer is not None and layer not in layers:
        held = f"layers {layers[0]} to {layers[-1]}" if layers else "no layers"
        raise InputError(f"the trace holds no layer {layer}; it holds {held}")
    chosen = _middle(runs.values(), layers) if layer is None else layer
    shown = [name for name in names if chosen in runs.get(name, {})]
    passes = _first_passes(runs[shown[-1]][chosen], _most_steps(runs[shown[-1]]))
    views = []
    for name in shown:
        own = [one for one in runs[name][chosen] if one.key in passes]
        own = own or _together(runs[name][chosen])[0]
        start, end = min(one.start_s for one in own), max(one.end_s for one in own)
        views.append(_view(name, timelines[name], start, end, own))
    return Excerpt(chosen, layers, tuple(sorted(passes)), tuple(views), trace.is_mock)


@dataclass
class _Execution:
    """A layer in one pass of one micro-batch."""

    key: tuple[int, int]
    start_s: float
    end_s: float
    slices: set[int]
    steps: set[str]


def _executions(timeline: Timeline) -> dict[int, list[_Execution]]:
    """Return each layer's executions, in order of time.

    The order of steps tells passes apart: a new one begins when steps jump back by more than
    half a program. Work done ahead, such as showing the next weights, is not such a jump.
    """
    slices = sorted(timeline.slices, key=lambda item: item.start_s)
    ranks: dict[str, int] = {}
    for item in slices:
        if isinstance(step := item.details.get("step"), str):
            ranks.setdefault(step, len(ranks))
    at: dict[int, tuple[int, int]] = {}  # of each micro-batch: its pass, and the rank of its step
    found: dict[int, dict[tuple[int, int], _Execution]] = defaultdict(dict)
    for item in slices:
        step, layer, batch = (item.details.get(k) for k in ("step", "layer", "micro_batch"))
        batch = batch if isinstance(batch, int) else 0
        if not isinstance(step, str):
            continue
        number, before = at.get(batch, (0, ranks[step]))
        number += (before - ranks[step] > len(ranks) / 2) - (ranks[step] - before > len(ranks) / 2)
        at[batch] = number, ranks[step]
        if not isinstance(layer, int) or isinstance(layer, bool):
            continue
        key = (batch, number)
        one = found[layer].get(key)
        if one is None:
            one = found[layer][key] = _Execution(key, item.start_s, item.end_s, set(), set())
        one.end_s = max(one.end_s, item.end_s)
        one.slices.add(id(item))
        one.steps.add(step.split(".", 2)[-1])
    return {layer: list(of_layer.values()) for layer, of_layer in found.items()}


def _most_steps(runs: Mapping[int, Sequence[_Execution]]) -> int:
    """Return number of steps that most layers have, which a whole one does not fall short of."""
    return int(median(max(len(one.steps) for one in ones) for ones in runs.values()))


def _middle(all_runs: Iterable[Mapping[int, list[_Execution]]], layers: Sequence[int]) -> int:
    """Return the layer in the middle of those that every timeline holds in whole."""
    whole = set(layers)
    for runs in all_runs:
        if runs:
            most = _most_steps(runs)
            whole &= {n for n, ones in runs.items() if any(len(o.steps) >= most for o in ones)}
    left = sorted(whole) or list(layers)
    return left[len(left) // 2]


def _first_passes(ones: Sequence[_Execution], most: int) -> set[tuple[int, int]]:
    groups = _together(ones)
    whole = (group for group in groups if all(len(one.steps) >= most for one in group))
    return {one.key for one in next(whole, groups[0])}


def _together(ones: Sequence[_Execution]) -> list[list[_Execution]]:
    """Return the executions in groups that overlap in time."""
    groups: list[list[_Execution]] = []
    end_s = -math.inf
    for one in sorted(ones, key=lambda one: one.start_s):
        if one.start_s >= end_s:
            groups.append([])
        groups[-1].append(one)
        end_s = max(end_s, one.end_s)
    return groups


def _view(
    name: str,
    timeline: Timeline,
    start_s: float,
    end_s: float,
    own: Sequence[_Execution] | None = None,
) -> _View:
    ours = None if own is None else set().union(*(one.slices for one in own))
    tracks: dict[str, list[_Bar]] = defaultdict(list)
    for item in timeline.slices:
        if item.start_s < end_s and item.end_s > start_s:
            first, last = max(item.start_s, start_s), min(item.end_s, end_s)
            is_ours = ours is None or id(item) in ours
            tracks[item.track].append(_Bar(first - start_s, last - start_s, item, is_ours))
    for bars in tracks.values():
        bars.sort(key=lambda bar: (bar.start_s, -bar.end_s))
    ordered = {track: tracks[track] for track in sorted(tracks, key=order_of_track)}
    return _View(name, ordered, end_s - start_s)


def _covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that spans cover, each moment once."""
    covered, until = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


# --- gaps of the light ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """A time without an exposure, longer than one shot period.

    Parameters
    ----------
    period_s : between the beginnings of two exposures of a detector, the median of what is shown
    meanwhile : what kept another track busy for most of it, with its share; "" for nothing
    """

    start_s: float
    seconds: float
    period_s: float
    meanwhile: str


def gaps(view: _View) -> list[Gap]:
    """Return the largest gaps of the light, the largest first."""
    exposures = _exposures(view)
    spans = sorted((bar.start_s, bar.end_s) for bar in exposures)
    starts: dict[str, list[float]] = defaultdict(list)
    for bar in exposures:
        starts[bar.item.track].append(bar.start_s)
    periods = [b - a for some in starts.values() for a, b in pairwise(sorted(some))]
    if not periods:
        return []
    period_s = median(periods)
    found = []
    until = 0.0
    for start, end in [*spans, (view.seconds, view.seconds)]:
        if start - until > period_s * (1 + 1e-9):
            found.append((until, start))
        until = max(until, end)
    found.sort(key=lambda gap: (gap[0] - gap[1], gap[0]))
    chosen = found[:_MOST_GAPS]
    told = _meanwhile(view, chosen)
    return [
        Gap(start, end - start, period_s, words)
        for (start, end), words in zip(chosen, told, strict=True)
    ]


def _exposures(view: _View) -> list[_Bar]:
    """Return what happened on the detectors; exposures alone, where they can be told apart."""
    bars = [bar for track, some in view.tracks.items() if _is_light(track) for bar in some]
    return [bar for bar in bars if "expos" in bar.item.name.lower()] or bars


def _is_light(track: str) -> bool:
    return track.rpartition("/")[2] == "detector"


def _meanwhile(view: _View, found: Sequence[tuple[float, float]]) -> list[str]:
    """Return what other tracks did in gaps: the two that took most of each, from a tenth on."""
    inside: list[dict[str, list[tuple[float, float]]]] = [defaultdict(list) for _ in found]
    for track, bars in view.tracks.items():
        for bar in bars if not _is_light(track) else ():
            for (start, end), seen in zip(found, inside, strict=True):
                if bar.start_s < end and bar.end_s > start:
                    span = (max(bar.start_s, start), min(bar.end_s, end))
                    seen[_called(track, bar)].append(span)
    told = []
    for (start, end), seen in zip(found, inside, strict=True):
        shares = {what: _covered_s(spans) / (end - start) for what, spans in seen.items()}
        most = sorted(shares, key=lambda what: -shares[what])[:2]
        told.append("; ".join(f"{w} ({shares[w]:.0%})" for w in most if shares[w] >= 0.1))
    return told


def _called(track: str, bar: _Bar) -> str:
    name = bar.item.name
    return f"{track}: {name}" if name == bar.step else f"{track}: {name} of {bar.step}"


# --- the picture ----------------------------------------------------------------------------------


def picture(shown: Excerpt) -> str:
    """Return Gantt picture as SVG: predicted above measured, one axis of time, a row a track."""
    longest_s = max((view.seconds for view in shown.views), default=0.0) or 1e-9
    parts: list[str] = []
    kinds: set[str] = set()
    y = 8.0
    panels = []
    for view in shown.views:
        y += 18
        top = y
        title = f"{view.name}, {format_duration(view.seconds)}{' (MOCK)' if shown.is_mock else ''}"
        parts.append(_text(_LEFT_PX, y - 5, title, "title"))
        for track, bars in view.tracks.items():
            y += _draw_track(parts, view, track, bars, y, longest_s / _PLOT_PX)
            kinds |= {bar.kind for bar in bars if bar.is_ours}
        panels.append((top, y))
        y += 6
    grid = list(_axis(panels, longest_s, y + 10))
    legend, height = _legend(kinds, shown, y + 34)
    label = "Gantt picture of " + _subject(shown)
    return _clean(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gantt" role="img" '
        f'data-generator="{TRACE_PICTURE}" '
        f'aria-label="{escaped(label)}" width="{_WIDTH_PX:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH_PX:.0f} {height:.0f}">\n<style>{_style()}</style>\n'
        f'<rect class="paper" width="100%" height="100%"/>\n'
        + "\n".join([*grid, *parts, *legend])
        + "\n</svg>"
    )


def _draw_track(
    parts: list[str], view: _View, track: str, bars: list[_Bar], y: float, second_px: float
) -> float:
    """Draw a row, and give its height; `second_px` is the seconds of one pixel."""
    lanes = _lanes(bars)
    height = _ROW_PX if len(lanes) == 1 else _LANE_PX * len(lanes)
    parts.append(
        f'<rect class="row" x="{_LEFT_PX:.0f}" y="{y:.1f}" width="{view.seconds / second_px:.1f}" '
        f'height="{height:.1f}"/>'
    )
    shown = track if len(track) <= 18 else f"{track[:17]}…"
    middle = y + height / 2 + 4
    parts.append(_text(_LEFT_PX - 6, middle, shown, "end"))
    share = view.busy_s(track) / view.seconds if view.seconds else 0.0
    parts.append(_text(_LEFT_PX + view.seconds / second_px + 5, middle, f"{share:.0%}", "soft"))
    for number, lane in enumerate(lanes):
        top = y + number * height / len(lanes)
        for block in _blocks(lane, second_px):
            parts.append(block.svg(top + 0.5, height / len(lanes) - 1, second_px))
    return height + _BETWEEN_PX


def _lanes(bars: list[_Bar]) -> list[list[_Bar]]:
    """Return the lanes of a row: slices that overlap in time go beside each other."""
    lanes: list[list[_Bar]] = []
    for bar in bars:  # in order of their beginnings
        free = (lane for lane in lanes if lane[-1].end_s <= bar.start_s + 1e-12)
        lane = next(free, None)
        if lane is None and len(lanes) < _MOST_LANES:
            lanes.append([])
        (lane if lane is not None else lanes[-1]).append(bar)
    return lanes


@dataclass(frozen=True)
class _Block:
    """One rectangle: a slice, or many of a step that are each narrower than a pixel."""

    start_s: float
    end_s: float
    kind: str
    is_ours: bool
    words: str
    share: float = 1.0

    def svg(self, y: float, height: float, second_px: float) -> str:
        width = max(0.8, (self.end_s - self.start_s) / second_px)
        x = min(_LEFT_PX + self.start_s / second_px, _LEFT_PX + _PLOT_PX - width)
        faint = (0.3 + 0.7 * self.share) * (1.0 if self.is_ours else 0.28)
        opacity = "" if faint > 0.995 else f' opacity="{faint:.2f}"'
        return (
            f'<rect class="{_CLASSES[self.kind]}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"{opacity}><title>{escaped(self.words)}</title></rect>'
        )


def _blocks(lane: list[_Bar], second_px: float) -> Iterator[_Block]:
    """Yield the rectangles of a lane: at most a few for each pixel, for any number of slices."""
    narrow: dict[int, list[_Bar]] = defaultdict(list)
    for bar in lane:
        if bar.end_s - bar.start_s >= second_px:
            yield _Block(bar.start_s, bar.end_s, bar.kind, bar.is_ours, _words(bar))
        else:
            middle = (bar.start_s + bar.end_s) / 2
            narrow[int(middle / second_px)].append(bar)
    columns = sorted(narrow)
    first = 0
    tops = [_leader(narrow[column]) for column in columns]
    for place in range(1, len(columns) + 1):
        goes_on = (
            place < len(columns)
            and columns[place] == columns[place - 1] + 1
            and tops[place] == tops[first]
        )
        if not goes_on:
            bars = [bar for column in columns[first:place] for bar in narrow[column]]
            yield _merged(bars, columns[first], columns[place - 1] + 1, tops[first], second_px)
            first = place


def _leader(bars: list[_Bar]) -> tuple[str, str, bool]:
    """Return step, kind and whether it is ours, of what took most of the time."""
    seconds: dict[tuple[str, str, bool], float] = defaultdict(float)
    for bar in bars:
        seconds[bar.step, bar.kind, bar.is_ours] += bar.end_s - bar.start_s
    return max(seconds, key=lambda key: (seconds[key], key))


def _merged(
    bars: list[_Bar], first: int, last: int, leader: tuple[str, str, bool], second_px: float
) -> _Block:
    step, kind, is_ours = leader
    start_s, end_s = first * second_px, last * second_px
    if len(bars) == 1:
        return _Block(start_s, end_s, kind, is_ours, _words(bars[0]))
    share = min(1.0, _covered_s((bar.start_s, bar.end_s) for bar in bars) / (end_s - start_s))
    others = sum(bar.step != step for bar in bars)
    mixed = f", {others:,} of them of other steps" if others else ""
    words = (
        f"{step}: {len(bars):,} slices{mixed}, from {format_duration(start_s)} to "
        f"{format_duration(end_s)}, {share:.0%} of that time"
    )
    return _Block(start_s, end_s, kind, is_ours, words, share)


def _words(bar: _Bar) -> str:
    item = bar.item
    rest = (pair for pair in item.details.items() if pair[0] not in ("step", "kind", "layer"))
    details = [f"{key.replace('_', '-')} {value}" for key, value in rest][:8]
    step = "" if bar.step == item.name else f" of {bar.step}"
    told = ", ".join([f"{item.name}{step}: {format_duration(item.seconds)}", *details])
    return f"{told[:300]}; from {format_duration(bar.start_s)}"


def _axis(panels: Sequence[tuple[float, float]], longest_s: float, y: float) -> Iterator[str]:
    step = _round_step(longest_s / 8)
    for number in range(int(longest_s / step + 1e-9) + 1):
        x = _LEFT_PX + number * step / longest_s * _PLOT_PX
        for top, bottom in panels:
            yield f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
        yield _text(x, y, format_quantity(number * step, "s") if number else "0", "middle soft")


def _round_step(smallest: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(smallest))
    digits = (1, 2, 5, 10)
    return digits[bisect_left(digits, smallest / power * (1 - 1e-12))] * power


def _legend(kinds: set[str], shown: Excerpt, y: float) -> tuple[list[str], float]:
    """Return the parts of the legend, and the height of the picture."""
    parts = []
    x = _LEFT_PX
    names = [kind for kind in _COLOURS if kind in kinds]
    is_mixed = any(not b.is_ours for v in shown.views for bars in v.tracks.values() for b in bars)
    for name in [*names, *(["faint: other layers and passes"] if is_mixed else [])]:
        width = 30 + 5.7 * len(name)
        if x + width > _WIDTH_PX:
            x, y = _LEFT_PX, y + 17
        if name in _CLASSES:
            parts.append(
                f'<rect class="{_CLASSES[name]}" x="{x:.1f}" y="{y - 9:.1f}" width="10" '
                'height="10"/>'
            )
        parts.append(_text(x + 14, y, name, "soft"))
        x += width
    return parts, y + 12


def _text(x: float, y: float, words: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escaped(words)}</text>'


def _style() -> str:
    """Return the picture's own colours, so that it looks alike alone and in a page."""

    def colours(place: int) -> str:
        return "".join(
            f".gantt .{_CLASSES[kind]}{{fill:{pair[place]}}}" for kind, pair in _COLOURS.items()
        )

    def papers(ink: str, soft: str, rule: str, row: str, paper: str) -> str:
        return (
            f".gantt text{{fill:{ink}}}.gantt .soft{{fill:{soft}}}.gantt .grid{{stroke:{rule}}}"
            f".gantt .row{{fill:{row}}}.gantt .paper{{fill:{paper}}}"
        )

    light = papers("#1c2024", "#5f6870", "#d5dade", "#f1f3f5", "#ffffff") + colours(0)
    dark = papers("#e4e7ea", "#98a2ab", "#363d44", "#1f2429", "#15181b") + colours(1)
    return (
        '.gantt text{font:11px system-ui,"Segoe UI",Helvetica,Arial,sans-serif}'
        ".gantt text.title{font-weight:600;font-size:12px}.gantt .end{text-anchor:end}"
        f".gantt .middle{{text-anchor:middle}}{light}"
        f"@media screen and (prefers-color-scheme:dark){{{dark}}}"
    )


_FORBIDDEN = re.compile(r"[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text: str) -> str:
    """Return a page or a picture without what XML has no word for."""
    return _FORBIDDEN.sub("\ufffd", text)


# --- the page -------------------------------------------------------------------------------------


def trace_page(trace: Trace, layer: int | None = None, name: str = "trace") -> str:
    """Return the page of one layer: the picture, time by track, gaps, predicted beside measured.

    Raises
    ------
    InputError : see `excerpt`
    """
    shown = excerpt(trace, layer)
    about = [f"{key} {value}" for key, value in trace.about.items() if key != "is_mock"]
    parts = []
    if trace.is_mock:
        parts.append(mark("MOCK: simulated; no light was measured."))
    parts += map(paragraph, _sentences(trace, shown))
    parts.append(f'<figure class="wide">\n{picture(shown)}\n</figure>')
    parts.append(section("Time by track", _times(shown)))
    parts.append(section("Largest gaps of the light", *_gaps(shown)))
    return _clean(page(TRACE_PAGE, f"Trace {name}", ", ".join(about), *parts))


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
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    words = f"{word}es" if word.endswith(("s", "h")) else f"{word}s"
    if len(numbers) > _FEW:
        return f"{len(numbers)} {words}"
    return f"{words} {', '.join(map(str, numbers))}"


def _difference(predicted: float, measured: float) -> str:
    told = f"{predicted / measured - 1:+.1%}" if measured else ""
    return "0.0%" if told in ("-0.0%", "+0.0%") else told


def _times(shown: Excerpt) -> str:
    """Return the table: seconds in which each track was busy, and their share of the span."""
    tracks = sorted({t for view in shown.views for t in view.tracks}, key=order_of_track)
    headings = ["track"]
    for view in shown.views:
        headings += [f"{view.name}: busy", "of the span"]
    by_name = {view.name: view for view in shown.views}
    is_both = {"predicted", "measured"} <= set(by_name)
    if is_both:
        headings.append("predicted over measured")

    def row(name: str, seconds: Mapping[str, float]) -> list[str]:
        cells = [name]
        for view in shown.views:
            share = seconds[view.name] / view.seconds if view.seconds else 0.0
            cells += [format_duration(seconds[view.name]), f"{share:.1%}"]
        if is_both:
            cells.append(_difference(seconds["predicted"], seconds["measured"]))
        return cells

    rows = [row(track, {v.name: v.busy_s(track) for v in shown.views}) for track in tracks]
    total = row("the whole span", {view.name: view.seconds for view in shown.views})
    return table(headings, rows, range(1, len(headings)), total)


def _gaps(shown: Excerpt) -> Iterator[str]:
    """Yield the table of gaps, and what a gap is."""
    rows = []
    notes = []
    for view in shown.views:
        found = gaps(view)
        exposures = _exposures(view)
        if len(exposures) < 2:
            notes.append(f"{view.name}: fewer than two exposures, so no shot period.")
        elif not found:
            notes.append(f"{view.name}: none was longer.")
        for gap in found:
            periods = gap.seconds / gap.period_s if gap.period_s else math.inf
            rows.append(
                (
                    view.name,
                    format_duration(gap.start_s),
                    format_duration(gap.seconds),
                    f"{periods:.1f}",
                    gap.meanwhile or "nothing on record",
                )
            )
    yield paragraph(
        "Times without an exposure that are longer than one shot period (the median time from one "
        f"exposure to the next), the {_MOST_GAPS} largest of each. Meanwhile: what kept other "
        "tracks busy, with its share of the gap; the light waited for the last of it, or for what "
        "no track records."
    )
    if rows:
        headings = ("", "begins at", "length", "shot periods", "meanwhile")
        yield table(headings, rows, (1, 2, 3))
    if notes:
        yield listing(notes)
