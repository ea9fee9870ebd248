"""`InputFrames`: the input frames of one segment of a product, and the sums of their vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..optics.model import OpticalModel
from ..optics.response_curve import ResponseCurve
from .checksum import InputSum
from .frame_plan import FramePlan
from .operand import EncodedOperand


@dataclass(frozen=True)
class InputVectors:
    """The vectors that are exposed for the rows of x: all x+, then those x- that are not zero.

    Parameters
    ----------
    levels : grey levels of the vectors of all matrices, [vectors, length]
    scales : of their values, float64 [vectors]
    rows : row of x of each vector, one array per matrix
    first, count : index of the first vector, and number of vectors, of each matrix
    """

    levels: np.ndarray
    scales: np.ndarray
    rows: list[np.ndarray]
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, x: EncodedOperand, curve: ResponseCurve) -> InputVectors:
        """Return the vectors of values [m, N, K], encoded as x."""
        rails = [curve.levels(rail) for rail in x.intensity]
        levels, rows = [], []
        for matrix, own in enumerate(values):
            shown = [np.arange(len(own)), np.flatnonzero((own < 0).any(axis=-1))][: len(rails)]
            levels += [rail[matrix, lit] for rail, lit in zip(rails, shown, strict=True)]
            rows.append(np.concatenate(shown))
        scales = [x.scale[matrix, lit, 0] for matrix, lit in enumerate(rows)]
        count = np.array([len(lit) for lit in rows])
        first = np.cumsum(count) - count
        return cls(np.concatenate(levels), np.concatenate(scales), rows, first, count)

    def levels_of(self, matrix: int) -> np.ndarray:
        """Return the grey levels of the vectors of a matrix, [vectors, length]."""
        first = self.first[matrix]
        return self.levels[first : first + self.count[matrix]]


@dataclass(frozen=True)
class _VectorPlaces:
    """The vectors that lie side by side in the input frames of a job, one per place.

    Parameters
    ----------
    copy : index of the place among the copies of its matrix; it shows every `copies`-th vector of
        the matrix, from this index on
    first, count : index of the first vector of that matrix, and number of its vectors
    """

    copy: np.ndarray
    first: np.ndarray
    count: np.ndarray


class InputFrames:
    """The input frames of all jobs of a segment.

    Parameters
    ----------
    model : optical model of the bench
    vectors : to be shown
    plan : of the weight frames
    """

    def __init__(self, model: OpticalModel, vectors: InputVectors, plan: FramePlan) -> None:
        self._layout, self._curve = model.layout, model.curves["input"]
        self._vectors, self._plan = vectors, plan
        self._places = [self._place_vectors(job) for job in range(len(plan.packing.tiles))]
        self._sums: dict[int, InputSum] = {}

    def frame(self, job: int, vector: int) -> np.ndarray:
        """Return the grey levels of an input frame, in which each place has its own vector."""
        layout = self._layout
        vector -= int(self._plan.packing.checks[job])
        levels = self.sum(job).levels if vector < 0 else self.vectors(job, vector)[0]
        if layout.shares_input:
            return levels
        shown = np.full((layout.slots, layout.length), self._curve.darkest, dtype=levels.dtype)
        shown[: len(levels) * self._plan.stride] = np.repeat(levels, self._plan.stride, axis=0)
        return shown

    def vectors(self, job: int, vector: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of an input frame, sums not counted.

        Returns
        -------
        levels : grey levels, [places, length]
        scales : of their values, 0 for an empty place, float64 [places]
        """
        places = self._places[job]
        in_matrix = vector * self._plan.packing.copies + places.copy
        is_lit = in_matrix < places.count
        where = places.first + in_matrix
        if is_lit.all():
            return self._vectors.levels[where], self._vectors.scales[where]
        where = np.where(is_lit, where, 0)
        levels = self._vectors.levels[where]
        levels[~is_lit] = self._curve.darkest
        return levels, self._vectors.scales[where] * is_lit

    def sum(self, job: int) -> InputSum:
        """Return the sums of the vectors of a job, one per place; they are computed once."""
        known = self._sums.get(job)
        if known is None:
            packing, places, inputs = self._plan.packing, self._places[job], []
            for copy, first, count in zip(places.copy, places.first, places.count, strict=True):
                levels = self._vectors.levels[first + copy : first + count : packing.copies]
                inputs.append(self._curve.light[levels])
            frames = int(packing.vectors[job]) - 1
            known = self._sums[job] = InputSum.of(inputs, frames, self._curve)
        return known

    def place(self, places: np.ndarray) -> np.ndarray:
        """Return the place in an input frame for places of a weight frame: 0 for a shared input."""
        return 0 * places if self._layout.shares_input else places

    def _place_vectors(self, job: int) -> _VectorPlaces:
        """Return the vectors that lie side by side in the input frames of a job."""
        matrices = [matrix for matrix, _ in self._plan.frame_tasks(job, 0)]
        copies = self._plan.packing.copies
        if self._layout.shares_input:
            matrices, copies = matrices[:1], 1
        of_places = np.repeat(matrices, copies)
        copy = np.tile(np.arange(copies), len(matrices))
        return _VectorPlaces(copy, self._vectors.first[of_places], self._vectors.count[of_places])
