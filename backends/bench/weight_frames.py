"""`WeightFrames`: the weight frames of one segment of a product, with their checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..optics.model import OpticalModel
from ..tiling import CHECK_ROWS, Tile
from .checksum import CheckGroup, RowSums
from .frame_plan import FramePlan
from .input_frames import InputFrames
from .operand import EncodedOperand


@dataclass(frozen=True)
class PlacedRows:
    """The rows of weights that a weight frame shows, and their checksum rows.

    Parameters
    ----------
    slots, matrix, row : of each row shown, int [n]
    place : place of each row in the input frame, which holds a vector per place, int [n]
    intensity : of all slots, normalised, float64 [slots, length]
    factors : factor of each slot in the residual of its checksum, float64 [slots]
    starts : first slot of each group of rows with a checksum, int [groups]
    sums_place, sums_scale : place in the input frame, and scale of the weights, of each group,
        [groups]
    """

    slots: np.ndarray
    matrix: np.ndarray
    row: np.ndarray
    place: np.ndarray
    intensity: np.ndarray
    factors: np.ndarray
    starts: np.ndarray
    sums_place: np.ndarray
    sums_scale: np.ndarray

    @property
    def shown(self) -> int:
        """The number of rows shown, checksum rows included."""
        return self.slots.size + CHECK_ROWS * len(self.sums_place)


@dataclass(frozen=True)
class WeightFrame:
    """One weight frame: its rows of weights, grey levels, electrons and checksums.

    Parameters
    ----------
    rows : that it shows
    levels : grey levels of the frame, [slots, length]
    full_e : electrons of a product of two normalised intensities of 1, float64 [n]
    leaked_e : electrons of these weights and a dark input, float64 [n]
    sums : checksums of groups of rows; None without any
    input_difference : electrons [n] by which inputs and their sum should differ; None without
        that sum
    """

    rows: PlacedRows
    levels: np.ndarray
    full_e: np.ndarray
    leaked_e: np.ndarray
    sums: RowSums | None
    input_difference: np.ndarray | None


class WeightFrames:
    """The weight frames of all jobs of a segment.

    Parameters
    ----------
    model : optical model of the bench
    w : weights as normalised intensity, [rails, m, M, length]
    plan : of these frames
    inputs : that pass through them
    """

    def __init__(
        self, model: OpticalModel, w: EncodedOperand, plan: FramePlan, inputs: InputFrames
    ) -> None:
        self._model, self._w, self._plan, self._inputs = model, w, plan, inputs
        rails, m, outputs, length = w.intensity.shape
        # the rails of an output are neighbouring rows
        self._rows = np.moveaxis(w.intensity, 0, 2).reshape(m, outputs * rails, length)
        # in checksums each row has the sign of its rail; a single rail alternates both signs
        self._signs = np.resize([1.0, -1.0], outputs * rails)
        self._known: dict[tuple[int, int], WeightFrame] = {}

    def frame(self, job: int, tile: int) -> WeightFrame:
        """Return a weight frame of a job; it is computed once."""
        known = self._known.get((job, tile))
        if known is None:
            known = self._known[job, tile] = self._encoded(job, tile)
        return known

    def clear(self) -> None:
        """Forget all frames, which take memory."""
        self._known.clear()

    def _encoded(self, job: int, tile: int) -> WeightFrame:
        """Return grey levels, electrons and checksums of a weight frame."""
        model, plan = self._model, self._plan
        rows = self._placed(plan.frame_tasks(job, tile))
        levels, full_e, leaked_e = model.weigh(rows.intensity)
        sums = difference = None
        if plan.has_checks(job):
            response = model.response
            light = model.curves["weight"].light[levels] + response.weight_leak[:, None]
            passed_e = response.pairs_e * light
            if plan.checked:
                factors, dark = rows.factors / full_e, model.dark_variance
                passed = leaked_e, passed_e
                sums = RowSums.of(rows.starts, factors, passed, dark, response.inverse)
            if plan.packing.checks[job]:
                difference = self._inputs.sum(job).expected_difference(
                    leaked_e[rows.slots], passed_e[rows.slots], self._inputs.place(rows.place)
                )
        return WeightFrame(rows, levels, full_e[rows.slots], leaked_e[rows.slots], sums, difference)

    def _placed(self, tasks: Sequence[tuple[int, Tile]]) -> PlacedRows:
        """Return the rows of a frame: each tile with its checksum rows, once for each copy."""
        layout, copies, stride = self._model.layout, self._plan.packing.copies, self._plan.stride
        rails = len(self._w.signs)
        intensity = np.zeros((layout.slots, layout.length))
        factors = np.zeros(layout.slots)
        slots, matrices, rows, places, starts, sum_places, sum_scales = [], [], [], [], [], [], []
        for number, (matrix, tile) in enumerate(tasks):
            own = np.arange(tile.first_row, tile.last_row)
            group = CheckGroup.of(self._rows[matrix, own], self._signs[own], self._plan.checked)
            scales = group.means(self._w.scale[matrix, own // rails, 0])
            for place in range(number * copies, (number + 1) * copies):
                first = place * stride
                intensity[first : first + len(group.intensity)] = group.intensity
                factors[first : first + len(group.intensity)] = group.factors
                slots.append(first + group.rows)
                matrices.append(np.full(len(own), matrix))
                rows.append(own)
                places.append(np.full(len(own), place))
                starts.append(first + group.starts)
                sum_places.append(np.full(len(scales), place))
                sum_scales.append(scales)
        return PlacedRows(
            np.concatenate(slots),
            np.concatenate(matrices),
            np.concatenate(rows),
            np.concatenate(places),
            intensity,
            factors,
            np.concatenate(starts),
            np.concatenate(sum_places),
            np.concatenate(sum_scales),
        )
