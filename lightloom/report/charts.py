"""Charts as SVG for pages, in the page's own colours and without any package: lines, and bars.

Long series come in bins, each with its mean, its least and its largest value, so that no outlier is
lost. Maps and histograms are drawn elsewhere (`calibration.drawing`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .page import escaped

_WIDE, _TALL = 520.0, 200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 10.0, 12.0, 38.0
_ROW, _BAR = 26.0, 10.0  # of bars: a row, and a bar in it
_NAMES, _LABELS = 150.0, 120.0
_TIMES = ((1.0, "ms", 1e-3), (180.0, "s", 1.0), (10_800.0, "min", 60.0), (259_200.0, "h", 3600.0))
_TEXT = 'font-size="11.5" fill="var(--soft)"'


@dataclass(frozen=True)
class Line:
    """A figure over time, in bins.

    Parameters
    ----------
    middle : of each bin, NaN where it is empty, or everywhere for bars alone
    low, high : likewise; None without a band
    """

    name: str
    middle: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def time_chart(
    label: str,
    bin_s: float,
    end_s: float,
    lines: Sequence[Line],
    begins_s: Sequence[float] = (),
    level: tuple[float, str] | None = None,
    from_zero: bool = False,
) -> str:
    """Return figures over time as SVG; "" where they have no value at all.

    Parameters
    ----------
    label : what the picture shows, for those who cannot see it
    bin_s, end_s : width of a bin, and the end of the time
    begins_s : moments that are marked: where sessions began
    level : a value to compare with, and its name
    """
    limits = _limits(lines, level, from_zero)
    if limits is None:
        return ""
    frame = _ChartArea(max(end_s, bin_s), *limits)
    parts = [*frame.axes()]
    parts += [_begin_mark(frame.x(begin_s)) for begin_s in begins_s]
    if level is not None:
        parts.append(_level_mark(frame.y(level[0]), level[1]))
    for number, line in enumerate(lines, 1):
        parts += _line_marks(frame, bin_s, line, f"var(--series-{number})")
    if len(lines) > 1:
        parts += _legend([line.name for line in lines])
    return _svg(label, _WIDE, _TALL, parts)


def _limits(
    lines: Sequence[Line], level: tuple[float, str] | None, from_zero: bool
) -> tuple[float, float] | None:
    """Return the least and the largest value that a chart shows; None without any value."""
    values = [part for line in lines for part in (line.middle, line.low, line.high)]
    found = np.concatenate([part[np.isfinite(part)] for part in values if part is not None])
    if not found.size:
        return None
    low, high = float(found.min()), float(found.max())
    if level is not None:
        low, high = min(low, level[0]), max(high, level[0])
    low = min(low, 0.0) if from_zero else low
    margin = 0.06 * (high - low or abs(high) or 1.0)
    return (low if from_zero and low == 0 else low - margin), high + margin


def _begin_mark(x: float) -> str:
    return (
        f'<path d="M{x:.1f} {_TOP}V{_TALL - _BOTTOM}" stroke="var(--soft)" '
        'stroke-dasharray="2 3" stroke-width="1"/>'
    )


def _level_mark(y: float, name: str) -> str:
    return (
        f'<path d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}" stroke="var(--series-2)" '
        'stroke-dasharray="5 4" stroke-width="1"/>'
        f'<text x="{_WIDE - _RIGHT - 2:.0f}" y="{y - 4:.1f}" text-anchor="end" {_TEXT}>'
        f"{escaped(name)}</text>"
    )


def _line_marks(frame: _ChartArea, bin_s: float, line: Line, colour: str) -> Iterator[str]:
    """Yield the band and the middle of a line, where it has them."""
    if line.low is not None and line.high is not None:
        opacity = 0.22 if np.isfinite(line.middle).any() else 1.0
        yield (
            f'<path d="{frame.band(bin_s, line.low, line.high)}" fill="{colour}" '
            f'fill-opacity="{opacity}"/>'
        )
    middle = frame.line(bin_s, line.middle)
    if middle:
        yield (
            f'<path d="{middle}" fill="none" stroke="{colour}" stroke-width="1.5" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )


@dataclass(frozen=True)
class _ChartArea:
    """The area of a chart: it maps values to places in the picture."""

    end_s: float
    low: float
    high: float

    def x(self, at_s: float) -> float:
        share = min(max(at_s / self.end_s, 0.0), 1.0)
        return _LEFT + share * (_WIDE - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _TALL - _BOTTOM - share * (_TALL - _TOP - _BOTTOM)

    def axes(self) -> Iterator[str]:
        right, bottom = _WIDE - _RIGHT, _TALL - _BOTTOM
        for value, text in _ticks(self.low, self.high, 5):
            y = self.y(value)
            yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="var(--rule)" stroke-width="1"/>'
            yield (
                f'<text x="{_LEFT - 6:.0f}" y="{y + 4:.1f}" text-anchor="end" {_TEXT}>{text}</text>'
            )
        unit, unit_s = next((item[1:] for item in _TIMES if self.end_s <= item[0]), ("d", 86_400.0))
        for value, text in _ticks(0.0, self.end_s / unit_s, 6):
            x = self.x(value * unit_s)
            yield f'<path d="M{x:.1f} {bottom}v4" stroke="var(--soft)" stroke-width="1"/>'
            yield (
                f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" {_TEXT}>{text}</text>'
            )
        yield f'<path d="M{_LEFT} {bottom}H{right}" stroke="var(--soft)" stroke-width="1"/>'
        yield (
            f'<text x="{(_LEFT + right) / 2:.0f}" y="{_TALL - 5}" text-anchor="middle" {_TEXT}>'
            f"running time / {unit}</text>"
        )

    def band(self, bin_s: float, low: np.ndarray, high: np.ndarray) -> str:
        pieces = []
        for place in np.flatnonzero(np.isfinite(low) & np.isfinite(high)).tolist():
            x, right = self.x(place * bin_s), self.x((place + 1) * bin_s)
            y, bottom = self.y(float(high[place])), self.y(float(low[place]))
            wide, tall = max(right - x, 0.8), max(bottom - y, 0.8)
            pieces.append(f"M{x:.1f} {y:.1f}h{wide:.2f}v{tall:.1f}h-{wide:.2f}z")
        return "".join(pieces)

    def line(self, bin_s: float, middle: np.ndarray) -> str:
        pieces, before = [], -2
        for place in np.flatnonzero(np.isfinite(middle)).tolist():
            x, y = self.x((place + 0.5) * bin_s), self.y(float(middle[place]))
            # a bin of its own becomes a dot, by the round end of a line without length
            pieces.append(f"L{x:.1f} {y:.1f}" if place == before + 1 else f"M{x:.1f} {y:.1f}h.01")
            before = place
        return "".join(pieces)


def _ticks(low: float, high: float, about: int) -> Iterator[tuple[float, str]]:
    """Yield round values between two, with their texts."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
    for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        value = number * step
        places = max(0, -math.floor(math.log10(step)))
        is_plain = step >= 1e-4 and abs(value) < 1e6
        yield value, f"{value:,.{places}f}" if is_plain else f"{value:.3g}"


def _legend(names: Sequence[str]) -> Iterator[str]:
    x = _LEFT + 8
    for number, name in enumerate(names, 1):
        yield f'<rect x="{x:.0f}" y="3" width="12" height="3" fill="var(--series-{number})"/>'
        yield f'<text x="{x + 16:.0f}" y="9" {_TEXT}>{escaped(name)}</text>'
        x += 28 + 6.2 * len(name)


def bar_chart(
    label: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[float, str]]]]
) -> str:
    """Return bars in rows as SVG; "" without any.

    Parameters
    ----------
    names : of the bars in a row, each in its colour
    rows : name, and for each bar its share of the longest and its label
    """
    if not rows:
        return ""
    count = max(len(names), 1)
    tall = max(_ROW, count * (_BAR + 2) + 9)
    parts, y = [], 18.0 if count > 1 else 4.0
    if count > 1:
        x = _NAMES + 2
        for number, name in enumerate(names, 1):
            parts.append(
                f'<rect x="{x:.0f}" y="2" width="10" height="10" fill="var(--series-{number})"/>'
                f'<text x="{x + 15:.0f}" y="11" {_TEXT}>{escaped(name)}</text>'
            )
            x += 32 + 6.2 * len(name)
    room = _WIDE - _NAMES - _LABELS
    for name, bars in rows:
        middle = y + tall / 2
        shown = name if len(name) <= 24 else f"{name[:23]}…"
        parts.append(
            f'<text x="{_NAMES - 8:.0f}" y="{middle + 4:.1f}" text-anchor="end" font-size="12" '
            f'fill="var(--ink)">{escaped(shown)}</text>'
        )
        top = middle - count * (_BAR + 2) / 2
        for number, (share, text) in enumerate(bars, 1):
            wide = max(share * room, 1.0 if share else 0.0)
            parts.append(
                f'<rect x="{_NAMES:.0f}" y="{top:.1f}" width="{wide:.1f}" height="{_BAR}" '
                f'fill="var(--series-{number})" rx="1.5"/>'
                f'<text x="{_NAMES + wide + 6:.1f}" y="{top + _BAR - 0.5:.1f}" {_TEXT}>'
                f"{escaped(text)}</text>"
            )
            top += _BAR + 2
        y += tall
    return _svg(label, _WIDE, y + 4, parts)


def _svg(label: str, wide: float, tall: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {wide:.0f} {tall:.0f}" role="img" aria-label="{escaped(label)}">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


__all__ = ["Line", "bar_chart", "time_chart"]
