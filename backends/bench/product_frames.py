"""The frames of one segment of a product: its operands, their plan, those of both modulators.

`EncodedOperand` holds numbers as normalised intensity, one rail per sign.
`FramePlan` assigns rows of weights and vectors to frames. `InputFrames` and `WeightFrames` hold the
grey levels, scales and checksums of what these show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import Ranges
from ..optics.layouts import Layout
from ..optics.model import OpticalModel
from ..optics.parameters import ResponseCurve
from ..tiling import CHECK_ROWS, Geometry, Packing, Tile, pack, tiles
from .checksum import CheckGroup, InputSum, RowSums


@dataclass(frozen=True)
class EncodedOperand:
    """Numbers as normalised intensity, with scale and offset for the digital decoding.

    Parameters
    ----------
    signs : of the rails
    intensity : 0 at the darkest level, 1 at full light, float64 [rails, ..., length of a slot]
    scale, low : number = scale * intensity * sign + low, [..., 1]
    """

    signs: tuple[int, ...]
    intensity: np.ndarray
    scale: np.ndarray
    low: np.ndarray


def encode_operand(
    values: np.ndarray, layout: Layout, largest: np.ndarray | None = None, is_weight: bool = False
) -> EncodedOperand:
    """Return rows [..., K] of x or of weights as normalised intensity, padded to a slot's length.

    Parameters
    ----------
    largest : magnitude that becomes full light, [..., 1]; None for the largest of each row
    """
    values = values.astype(np.float64)
    kind = layout.encoding.kind
    low = np.zeros((*values.shape[:-1], 1))
    signs: tuple[int, ...]
    if kind == "offset":
        low = values.min(axis=-1, keepdims=True)
        scale = values.max(axis=-1, keepdims=True) - low
        signs, parts = (1,), [values - low]
    else:
        scale = np.abs(values).max(axis=-1, keepdims=True) if largest is None else largest
        signs, parts = (1, -1), [np.maximum(values, 0), np.maximum(-values, 0)]
    scale = np.where(scale > 0, scale, 1.0)
    intensity = np.stack(parts) / scale
    if kind == "push-pull" and is_weight:
        intensity = np.stack([(1 + values / scale) / 2, (1 - values / scale) / 2])
    short = layout.length - values.shape[-1]
    intensity = np.pad(np.clip(intensity, 0, 1), [(0, 0)] * (intensity.ndim - 1) + [(0, short)])
    return EncodedOperand(signs, intensity, scale, low)


def encode_weights(
    weights: np.ndarray, layout: Layout, ranges: Ranges | None
) -> list[EncodedOperand]:
    """Encode weights [..., M, K] by segments: normalised intensity [rails, m, M, length].

    Parameters
    ----------
    ranges : holds the scale of dynamic operands; None scales each row by its largest weight
    """
    stacked = weights.reshape(-1, *weights.shape[-2:])
    largest = None
    if ranges is not None and ranges.weight is not None:
        largest = np.broadcast_to(ranges.weight.max(axis=-1, keepdims=True), weights.shape)
        largest = largest[..., :1].reshape(*stacked.shape[:-1], 1)
    return [
        encode_operand(stacked[..., tile.columns], layout, largest, is_weight=True)
        for tile in tiles((1, weights.shape[-1]), Geometry(None, layout.length))
    ]


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


# --- input frames --------------------------------------------------------------------------------


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
        self._shown: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def frame(self, job: int, vector: int) -> np.ndarray:
        """Return the grey levels of an input frame, in which each place has its own vector."""
        layout = self._layout
        vector -= int(self._plan.packing.checks[job])
        levels = self.sum(job).levels if vector < 0 else self.vectors(job, vector)[0]
        if layout.shares_input:
            return levels
        shown = levels.repeat(self._plan.stride, axis=0)
        empty = layout.slots - len(shown)
        if not empty:
            return shown
        dark = np.full((empty, layout.length), self._curve.darkest, dtype=levels.dtype)
        return np.concatenate([shown, dark])

    def vectors(self, job: int, vector: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of an input frame, sums not counted; they are found once.

        Returns
        -------
        levels : grey levels, [places, length]
        scales : of their values, 0 for an empty place, float64 [places]
        """
        known = self._shown.get((job, vector))
        if known is None:
            known = self._shown[job, vector] = self._placed(job, vector)
        return known

    def _placed(self, job: int, vector: int) -> tuple[np.ndarray, np.ndarray]:
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

    def shown_at(self, job: int) -> list[np.ndarray]:
        """Return the vectors that each place shows in the input frames of a job, in turn."""
        copies, places = self._plan.packing.copies, self._places[job]
        return [
            np.arange(first + copy, first + count, copies)
            for copy, first, count in zip(places.copy, places.first, places.count, strict=True)
        ]

    def clear(self) -> None:
        """Forget the vectors of all frames, which take memory."""
        self._shown.clear()

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


# --- weight frames -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlacedRows:
    """The rows of weights that a weight frame shows, and their checksum rows.

    Parameters
    ----------
    intensity : of all slots, normalised, float64 [slots, length]
    factors : factor of each slot in the residual of its checksum, float64 [slots]
    slots, matrix, row : of each row shown, int [n]
    place : place of each row in the input frame, which holds a vector per place, int [n]
    starts : first slot of each group of rows with a checksum, int [groups]
    sums_place, sums_scale : place in the input frame, and scale of the weights, of each group,
        [groups]
    """

    intensity: np.ndarray
    factors: np.ndarray
    slots: np.ndarray
    matrix: np.ndarray
    row: np.ndarray
    place: np.ndarray
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

    Attributes
    ----------
    rails, outputs : of each matrix
    """

    def __init__(
        self, model: OpticalModel, w: EncodedOperand, plan: FramePlan, inputs: InputFrames
    ) -> None:
        self._model, self._w, self._plan, self._inputs = model, w, plan, inputs
        rails, m, outputs, length = w.intensity.shape
        self.rails, self.outputs = rails, outputs
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
        placed = []
        for number, (matrix, tile) in enumerate(tasks):
            own = np.arange(tile.first_row, tile.last_row)
            group = CheckGroup.of(self._rows[matrix, own], self._signs[own], self._plan.checked)
            scales = group.means(self._w.scale[matrix, own // rails, 0])
            for place in range(number * copies, (number + 1) * copies):
                first = place * stride
                intensity[first : first + len(group.intensity)] = group.intensity
                factors[first : first + len(group.intensity)] = group.factors
                placed.append(
                    (
                        first + group.rows,
                        np.full(len(own), matrix),
                        own,
                        np.full(len(own), place),
                        first + group.starts,
                        np.full(len(scales), place),
                        scales,
                    )
                )
        columns = (np.concatenate(parts) for parts in zip(*placed, strict=True))
        return PlacedRows(intensity, factors, *columns)
