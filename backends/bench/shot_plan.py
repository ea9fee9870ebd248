"""`ShotPlan`: the shots of a job, their order, and the numbers of their frames.

The plan depends on the jobs alone, never on the speed of the computer or on faults. So a resumed
run takes exactly the shots that the interrupted run would have taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base import Stats
from ..device_timeline import ROLES, ShotOrder
from ..tiling import Order, visits
from .checkpoint import Kept

_REFERENCE = "reference"  # the name of a reference shot
SEGMENT = 64  # shots of a job that are recorded together
new_number = itertools.count().__next__  # no two jobs share one


@dataclass(frozen=True)
class TileJob:
    """Weight frames, and the input frames that pass through each of them.

    Parameters
    ----------
    name : of the job, the address of its shots
    tiles, vectors : number of weight frames and of input frames
    weight : returns the grey levels [slots, length] of a weight frame, by its number
    input : returns the grey levels [slots, length] of an input frame, [1, length] if slots share it
    order : of the shots (see `tiling.visits`)
    details : for the timeline
    check : takes weight frame, input frame and electrons [slots] at calibration's brightness;
        returns the largest |z| of the checksums, None without any, and raises ChecksumMismatch.
        The decoding thread calls it for all shots but reference shots
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

    @property
    def visits(self) -> np.ndarray:
        """The weight frame and the input frame of each shot, without references, int [n, 2]."""
        return visits(self.tiles, self.vectors, self.order)


@dataclass(frozen=True)
class TileResult:
    """The result of a job.

    Parameters
    ----------
    electrons : photoelectrons at calibration's brightness [weight frames, input frames, slots]
    light_variance : remaining relative variance of a shot's brightness when the job ended
    """

    electrons: np.ndarray
    stats: Stats
    light_variance: float = 0.0


@dataclass(frozen=True)
class PlannedShot:
    """One shot of the plan.

    Parameters
    ----------
    number : of the shot in its job, references included, from 0
    weight : number of the weight frame
    input : number of the input frame; a text for a reference
    since : shots since the previous reference
    counters : of the plan, after this shot (see `checkpoint.Checkpoint`)
    """

    job: TileJob
    number: int
    name: str
    weight: int
    input: int | str
    since: int
    counters: dict[str, int]

    @property
    def segment(self) -> int:
        """The number of its segment of the job, from 0."""
        return self.number // SEGMENT

    @property
    def is_reference(self) -> bool:
        """Whether this is a reference shot, with a uniform input."""
        return isinstance(self.input, str)

    def key(self, role: str) -> tuple[int, int | str]:
        """Return the key of the frame that a modulator must show."""
        return self.job.number, self.weight if role == "weight" else self.input


class ShotPlan:
    """Plans the shots of one job after another.

    Parameters
    ----------
    reference_every : shots between two reference shots; 0 for none
    references_tiles : whether each weight frame has a reference shot of its own

    Attributes
    ----------
    counters : numbers of the latest input and weight frame, shots since the last reference, and
        references
    """

    def __init__(self, reference_every: int, references_tiles: bool) -> None:
        self._references_tiles = references_tiles
        self.counters = {"input": 0, "weight": 0, "since": 0, "references": 0}
        self._order = ShotOrder(reference_every, references_tiles, self.counters)

    def shots(self, job: TileJob, saved: Kept | None = None) -> Iterator[PlannedShot]:
        """Return the shots of a job, reference shots included.

        Parameters
        ----------
        saved : finished shots of the job, which the plan leaves out
        """
        counters = self.counters
        order = job.visits
        start = done = 0
        tile, shown = -1, dict[str, int | str]()
        if saved is not None:
            start, done = len(saved.electrons), saved.done
        # if only references measure brightness, each weight frame begins and a job ends with one
        is_closed = not self._references_tiles or (
            saved is not None and saved.state.counters["since"] == 0
        )
        is_complete = start == len(order) and is_closed  # later jobs have moved the counters on
        if done > 0 and not is_complete:
            assert saved is not None
            counters.update(saved.state.counters)
            tile = int(order[start - 1, 0]) if start else -1
            shown = _shown(order, start, counters)
        since = counters["since"]
        left = self._order.shots(order[start:].tolist(), job.order, tile)
        for number, shot in enumerate(left, done):
            since += 1
            yield self._planned(job, number, *shot, since, shown)
            since = counters["since"]

    def _planned(
        self,
        job: TileJob,
        number: int,
        weight: int,
        vector: int | None,
        since: int,
        shown: dict[str, int | str],
    ) -> PlannedShot:
        """Return a planned shot; each frame that changes gets the next number."""
        name = f"{weight}.{vector}"
        frames: dict[str, int | str] = {"weight": weight}
        if vector is None:
            name = frames["input"] = f"{_REFERENCE} {self.counters['references'] - 1}"
        else:
            frames["input"] = vector
        for role in ROLES:
            if shown.get(role) != frames[role]:
                shown[role] = frames[role]
                self.counters[role] += 1
        return PlannedShot(job, number, name, weight, frames["input"], since, dict(self.counters))


def _shown(order: np.ndarray, start: int, counters: Mapping[str, int]) -> dict[str, int | str]:
    """Return the frames of the last saved shot of a job."""
    if counters["since"] == 0:  # it was a reference, for the next weight frame
        return {
            "weight": int(order[start, 0]),
            "input": f"{_REFERENCE} {counters['references'] - 1}",
        }
    weight, vector = order[start - 1].tolist()
    return {"weight": weight, "input": vector}
