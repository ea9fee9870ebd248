"""`FramePlan`: which rows of the weights each weight frame of a segment holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tiling import Geometry, Packing, Tile, pack, tiles


@dataclass(frozen=True)
class FramePlan:
    """Which rows of the weights each weight frame of a segment holds.

    Parameters
    ----------
    packing : number of frames and vectors of each job
    job_tasks : (matrix, tile of its rows) of each job, in the order of its frames
    stride : slots from one place of a frame to the next
    checked : rows per checksum; 0 without checksums of rows
    """

    packing: Packing
    job_tasks: list[list[tuple[int, Tile]]]
    stride: int
    checked: int

    @classmethod
    def of(cls, counts: np.ndarray, rows: int, geometry: Geometry) -> FramePlan:
        """Return the plan of a segment.

        Parameters
        ----------
        counts : vectors of each matrix, int [m]
        rows : of each matrix, whose rails are rows already
        geometry : of a frame of rows
        """
        packing = pack(counts, rows, geometry)
        cut = list(tiles((rows, 1), geometry))
        tasks = [(matrix, tile) for matrix in range(len(counts)) for tile in cut]
        step = len(cut) if len(packing.tiles) == len(counts) else packing.per_frame
        job_tasks = [tasks[first : first + step] for first in range(0, len(tasks), step)]
        stride = geometry.slots(max(tile.last_row - tile.first_row for tile in cut))
        return cls(packing, job_tasks, stride, geometry.checked)

    def frame_tasks(self, job: int, tile: int) -> list[tuple[int, Tile]]:
        """Return the (matrix, tile of its rows) that a weight frame of a job holds."""
        step = self.packing.per_frame
        return self.job_tasks[job][tile * step : (tile + 1) * step]

    def has_checks(self, job: int) -> bool:
        """Return whether the shots of a job have checksums, of rows or of inputs."""
        return bool(self.checked or self.packing.checks[job])
