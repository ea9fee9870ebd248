"""`Timeline`: timed activities as slices on tracks, and counters; predicted or measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from .clock import Clock

TRACKS = ("host", "feed", "encode", "input", "weight", "detector", "decode", "gather")
"""Tracks in the order in which they are drawn: threads of the host, and devices by role."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One activity with a start and an end.

    Parameters
    ----------
    track : of `TRACKS`; with several benches, "bench 2/input"
    start_s, end_s : on the timeline's clock
    details : values and labels to show beside it
    """

    track: str
    name: str
    start_s: float
    end_s: float
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Count:
    """The value of a counter, such as a queue length, from a moment on."""

    name: str
    at_s: float
    value: float


class Timeline:
    """Slices and counters, from any thread.

    Parameters
    ----------
    clock : the time base; that of the bench, which may be virtual
    most : largest number of slices and of counts; `left_out` counts those beyond it
    """

    def __init__(self, clock: Clock | None = None, most: int = 1_000_000) -> None:
        self.clock = Clock() if clock is None else clock
        self.slices: list[Slice] = []
        self.counts: list[Count] = []
        self.left_out = 0
        self._most = most
        self._lock = Lock()

    def add(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None:
        """Add a slice."""
        with self._lock:
            if len(self.slices) < self._most:
                self.slices.append(Slice(track, name, start_s, end_s, details))
            else:
                self.left_out += 1

    def count(self, name: str, value: float, at_s: float | None = None) -> None:
        """Record the value of a counter, by default at the present time."""
        at_s = self.clock.now_s() if at_s is None else at_s
        with self._lock:
            if len(self.counts) < self._most:
                self.counts.append(Count(name, at_s, value))
            else:
                self.left_out += 1

    @contextmanager
    def during(self, track: str, name: str, **details: Any) -> Iterator[None]:
        """Add a slice for the body of a `with`, even if the body fails."""
        start_s = self.clock.now_s()
        try:
            yield
        finally:
            self.add(track, name, start_s, self.clock.now_s(), **details)

    def within(self, name: str) -> Timeline:
        """Return a view that adds its slices here under a track prefix: "bench 2/input"."""
        return _Within(self, name)

    @property
    def start_s(self) -> float:
        """The start of the earliest slice; 0 without slices."""
        return min((item.start_s for item in self.slices), default=0.0)

    @property
    def end_s(self) -> float:
        """The end of the latest slice; 0 without slices."""
        return max((item.end_s for item in self.slices), default=0.0)


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that spans (start, end) cover; where they overlap, time counts once."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


class _Within(Timeline):
    def __init__(self, whole: Timeline, name: str) -> None:
        super().__init__(whole.clock)
        self._whole, self._name = whole, name

    def add(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None:
        self._whole.add(f"{self._name}/{track}", name, start_s, end_s, **details)

    def count(self, name: str, value: float, at_s: float | None = None) -> None:
        self._whole.count(f"{self._name}: {name}", value, at_s)
