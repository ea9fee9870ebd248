"""What is shown of a trace: one layer of it, and the gaps of its light."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ..instruments import InputError
from ..instruments.timeline import Slice, Timeline, covered_s
from ..scheduler.runs.trace import Trace, order_of_track

MOST_GAPS = 8

# --- which slices ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SliceBar:
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
        """The step that it belongs to."""
        return str(self.item.details.get("step", self.item.name))


@dataclass(frozen=True)
class View:
    """What is shown of one timeline: its tracks in order, and how long it took."""

    name: str
    tracks: dict[str, list[SliceBar]]
    seconds: float

    def busy_s(self, track: str) -> float:
        """Return how long a track was busy; 0 for one that is not there."""
        return covered_s((bar.start_s, bar.end_s) for bar in self.tracks.get(track, ()))


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
    views: tuple[View, ...]
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
) -> View:
    ours = None if own is None else set().union(*(one.slices for one in own))
    tracks: dict[str, list[SliceBar]] = defaultdict(list)
    for item in timeline.slices:
        if item.start_s < end_s and item.end_s > start_s:
            first, last = max(item.start_s, start_s), min(item.end_s, end_s)
            is_ours = ours is None or id(item) in ours
            tracks[item.track].append(SliceBar(first - start_s, last - start_s, item, is_ours))
    for bars in tracks.values():
        bars.sort(key=lambda bar: (bar.start_s, -bar.end_s))
    ordered = {track: tracks[track] for track in sorted(tracks, key=order_of_track)}
    return View(name, ordered, end_s - start_s)


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


def gaps(view: View) -> list[Gap]:
    """Return the largest gaps of the light, the largest first."""
    exposures = exposures_of(view)
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
    chosen = found[:MOST_GAPS]
    told = _meanwhile(view, chosen)
    return [
        Gap(start, end - start, period_s, words)
        for (start, end), words in zip(chosen, told, strict=True)
    ]


def exposures_of(view: View) -> list[SliceBar]:
    """Return what happened on the detectors; exposures alone, where they can be told apart."""
    bars = [bar for track, some in view.tracks.items() if _is_light(track) for bar in some]
    return [bar for bar in bars if "expos" in bar.item.name.lower()] or bars


def _is_light(track: str) -> bool:
    return track.rpartition("/")[2] == "detector"


def _meanwhile(view: View, found: Sequence[tuple[float, float]]) -> list[str]:
    """Return what other tracks did in gaps: the two that took most of each, from a tenth on."""
    inside: list[dict[str, list[tuple[float, float]]]] = [defaultdict(list) for _ in found]
    for track, bars in view.tracks.items():
        for bar in bars if not _is_light(track) else ():
            for (start, end), seen in zip(found, inside, strict=True):
                if bar.start_s < end and bar.end_s > start:
                    span = (max(bar.start_s, start), min(bar.end_s, end))
                    of = "" if bar.item.name == bar.step else f" of {bar.step}"
                    seen[f"{track}: {bar.item.name}{of}"].append(span)
    told = []
    for (start, end), seen in zip(found, inside, strict=True):
        shares = {what: covered_s(spans) / (end - start) for what, spans in seen.items()}
        most = sorted(shares, key=lambda what: -shares[what])[:2]
        told.append("; ".join(f"{w} ({shares[w]:.0%})" for w in most if shares[w] >= 0.1))
    return told
