"""`ShotPlan`: which shots a job takes, in which order, and which numbers its frames show.

All of it follows from the jobs alone, never from how fast a computer is or from what failed, so
that a run that was interrupted goes on with the very shots that it would have taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base import Stats
from ..tiling import ORDERS, Order, visits
from .checkpoint import Kept

_REFERENCE = "reference"  # the name of a reference shot
ROLES = ("weight", "input")
new_number = itertools.count().__next__  # no two jobs share one


@dataclass(frozen=True)
class TileJob:
    """Weight frames, and the input frames that pass through each of them.

    Parameters
    ----------
    name : of the job, the address of its shots
    tiles, vectors : how many weight frames and input frames it has
    weight : grey levels [slots, length] of a weight frame, by its number
    input : grey levels [slots, length] of an input frame, [1, length] where slots share it
    order : in which they meet (see `tiling.visits`)
    details : what a timeline should say of it
    check : judges the electrons [slots] of a shot, at calibration's brightness, by its weight frame
        and input frame; gives the largest |z| of its sums, or None where it has none, and raises
        WrongSum. Called by the thread that decodes, for shots that are no references
    """

    name: str
    tiles: int
    vectors: int
    weight: Callable[[int], np.ndarray]
    input: Callable[[int], np.ndarray]
    order: Order = "weight-stationary"
    details: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[int, int, np.ndarray], float | None] | None = None
    number: int = field(default_factory=new_number)


@dataclass(frozen=True)
class TileResult:
    """Photoelectrons of a job [weight frames, input frames, slots], at calibration's brightness."""

    electrons: np.ndarray
    stats: Stats


@dataclass(frozen=True)
class Planned:
    """A shot to be taken.

    Parameters
    ----------
    number : of the shot in its job, references included, from 0
    weight : number of the weight frame
    input : number of the input frame; a text for a reference
    since : shots since the reference before
    counters : of the plan, behind this shot (see `recorder.Checkpoint`)
    """

    job: TileJob
    number: int
    name: str
    weight: int
    input: int | str
    since: int
    counters: dict[str, int]

    @property
    def is_reference(self) -> bool:
        """Whether it shows an input that is everywhere alike."""
        return isinstance(self.input, str)

    def key(self, role: str) -> tuple[int, int | str]:
        """Say which frame of a modulator it needs."""
        return self.job.number, self.weight if role == "weight" else self.input


class ShotPlan:
    """Plans the shots of one job after another.

    Parameters
    ----------
    reference_every : shots between two reference shots; 0 for none
    references_tiles : each weight frame has one of its own

    Attributes
    ----------
    counters : numbers of the latest input and weight frame, shots since the last reference, and
        references
    """

    def __init__(self, reference_every: int, references_tiles: bool) -> None:
        self._every, self._references_tiles = reference_every, references_tiles
        self.counters = {"input": 0, "weight": 0, "since": 0, "references": 0}

    def shots(self, job: TileJob, kept: Kept | None = None) -> Iterator[Planned]:
        """Return the shots of a job, with reference shots between them.

        Parameters
        ----------
        kept : what is there already of the job; its shots are left out
        """
        counters = self.counters
        order = visits(job.tiles, job.vectors, job.order)
        start = number = 0
        tile, shown = -1, dict[str, int | str]()
        if kept is not None:
            start, number = len(kept.electrons), kept.done
        # where references alone tell the light, a weight frame begins with one, a job ends so
        is_closed = not self._references_tiles or (
            kept is not None and kept.state.counters["since"] == 0
        )
        is_complete = start == len(order) and is_closed  # then others came after it
        if number > 0 and not is_complete:
            assert kept is not None
            counters.update(kept.state.counters)
            tile = int(order[start - 1, 0]) if start else -1
            shown = _shown(order, start, counters)
        # one that ended the job before is one of this job's light, too
        is_referenced = counters["since"] == 0 and counters["references"] > 0
        for weight, vector in order[start:].tolist():
            is_first = weight != tile and (tile < 0 or job.order == ORDERS[0])
            tile = weight
            is_due = (self._references_tiles and is_first) or (0 < self._every <= counters["since"])
            if is_due and not is_referenced:
                yield self._reference(job, number, weight, shown)
                number += 1
            is_referenced = False
            counters["since"] += 1
            name = f"{weight}.{vector}"
            yield self._planned(job, number, name, weight, vector, counters["since"], shown)
            number += 1
        if self._references_tiles and not is_complete and len(order):
            yield self._reference(job, number, tile, shown)

    def _reference(
        self, job: TileJob, number: int, weight: int, shown: dict[str, int | str]
    ) -> Planned:
        """Plan a reference shot, of an input that is everywhere alike."""
        counters = self.counters
        since, name = counters["since"] + 1, f"{_REFERENCE} {counters['references']}"
        counters["since"] = 0
        counters["references"] += 1
        return self._planned(job, number, name, weight, name, since, shown)

    def visited(self, job: TileJob, count: int) -> np.ndarray:
        """Return weight and input frames of a job's first shots, references left out: [n, 2]."""
        return visits(job.tiles, job.vectors, job.order)[:count]

    def _planned(
        self,
        job: TileJob,
        number: int,
        name: str,
        weight: int,
        vector: int | str,
        since: int,
        shown: dict[str, int | str],
    ) -> Planned:
        """Number the frames that change."""
        for role, frame in (("weight", weight), ("input", vector)):
            if shown.get(role) != frame:
                shown[role] = frame
                self.counters[role] += 1
        return Planned(job, number, name, weight, vector, since, dict(self.counters))


def _shown(order: np.ndarray, start: int, counters: Mapping[str, int]) -> dict[str, int | str]:
    """Return the frames of the last shot that is kept of a job."""
    if counters["since"] == 0:  # it was a reference, for the weights that come now
        return {
            "weight": int(order[start, 0]),
            "input": f"{_REFERENCE} {counters['references'] - 1}",
        }
    weight, vector = order[start - 1].tolist()
    return {"weight": weight, "input": vector}
