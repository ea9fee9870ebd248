"""`ShotOrder`: the order of the shots of jobs, with the reference shots between them.

A bench takes shots in this order (`bench.shot_plan`), and so does the model of its devices
(`device_timeline`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .tiling import ORDERS, Order

ROLES = ("weight", "input")


class ShotOrder:
    """The order of the shots of one job after another.

    Parameters
    ----------
    reference_every : shots between two reference shots; 0 for none
    references_tiles : whether each weight frame has a reference shot, and each job one at its end
    counters : shots "since" the last reference, and "references" so far; each shot updates them
    """

    def __init__(
        self, reference_every: int, references_tiles: bool, counters: dict[str, int]
    ) -> None:
        self._every, self._references_tiles = reference_every, references_tiles
        self._counters = counters

    def shots(
        self, visited: Iterable[tuple[int, int]], order: Order, tile: int = -1
    ) -> Iterator[tuple[int, int | None]]:
        """Yield the weight frame and the input frame of each shot; no input frame for a reference.

        Parameters
        ----------
        visited : the frames of the shots without references (see `tiling.visits`)
        tile : weight frame of the shot before, in the same job; -1 for none
        """
        counters = self._counters
        # the last reference of the previous job also serves this job
        is_referenced = counters["since"] == 0 and counters["references"] > 0
        for weight, vector in visited:
            is_first = weight != tile and (tile < 0 or order == ORDERS[0])
            tile = weight
            is_due = (self._references_tiles and is_first) or 0 < self._every <= counters["since"]
            if is_due and not is_referenced:
                self._count_reference()
                yield weight, None
            is_referenced = False
            counters["since"] += 1
            yield weight, vector
        if self._references_tiles and tile >= 0:
            self._count_reference()
            yield tile, None

    def _count_reference(self) -> None:
        self._counters["since"] = 0
        self._counters["references"] += 1
