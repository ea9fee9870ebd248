"""`Product`: one segment of a matrix product as jobs of frames, and electrons as numbers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..base import Stats
from ..job_times import best_order
from ..optics.model import OpticalModel
from ..tiling import CHECK_ROWS, Geometry, Tile, pack, tiles
from ..timing import ShotTiming
from .checksum import TOLERANCE, CheckGroup, ChecksumMonitor, InputSum, RowSums
from .operand import EncodedOperand, encode_input
from .shots import TileJob, TileResult


@dataclass(frozen=True)
class WeightFrame:
    """One weight frame: its rows of weights, grey levels, electrons and checksums.

    Parameters
    ----------
    slots, matrix, row : of each row shown, int [n]
    place : place of each row in the input frame, which holds a vector per place, int [n]
    levels : grey levels of the frame, [slots, length]
    full_e : electrons of a product of two normalised intensities of 1, float64 [n]
    leaked_e : electrons of these weights and a dark input, float64 [n]
    sums : checksums of groups of rows; None without any
    sums_place, sums_scale : place in the input frame, and scale of the weights, of each group,
        [groups]
    input_difference : electrons [n] by which inputs and their sum should differ; None without
        that sum
    """

    slots: np.ndarray
    matrix: np.ndarray
    row: np.ndarray
    place: np.ndarray
    levels: np.ndarray
    full_e: np.ndarray
    leaked_e: np.ndarray
    sums: RowSums | None
    sums_place: np.ndarray
    sums_scale: np.ndarray
    input_difference: np.ndarray | None

    @property
    def shown(self) -> int:
        """The number of rows shown, checksum rows included."""
        return self.slots.size + CHECK_ROWS * len(self.sums_place)


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


@dataclass(frozen=True)
class BenchSetup:
    """The properties of a bench that a product needs: optical model, geometry and timing."""

    model: OpticalModel
    geometry: Geometry
    timing: ShotTiming


class Product:
    """One segment of a product.

    Parameters
    ----------
    bench : its present setup
    name : address of its shots
    values : of x, float [m, N, K]; rows without a negative value need no exposure of x-
    w : weights as normalised intensity
    details : for the timeline

    Attributes
    ----------
    jobs : to be submitted, in order
    monitor : of the checksums
    packing : number of frames and vectors of each job
    """

    def __init__(
        self,
        bench: BenchSetup,
        name: str,
        values: np.ndarray,
        w: EncodedOperand,
        details: Mapping[str, Any],
    ) -> None:
        self._model, self._bench, self._values, self._w = bench.model, bench, values, w
        x = self._x = encode_input(values, bench.model.layout)
        _, m, outputs, length = w.intensity.shape
        self._rails = len(w.signs)
        # the rails of an output are neighbouring rows
        self._weight_rows = np.moveaxis(w.intensity, 0, 2).reshape(m, outputs * self._rails, length)
        # in checksums each row has the sign of its rail; a single rail alternates both signs
        self._signs = np.resize([1.0, -1.0], outputs * self._rails)
        curve = self._model.curves["input"]
        all_levels: list[np.ndarray] = []  # of each matrix, [vectors, length]
        self._rows: list[np.ndarray] = []  # row of x of each vector: all x+, then some x-
        levels = [curve.levels(x.intensity[index]) for index in range(len(x.signs))]
        for matrix in range(m):
            rows = np.arange(values.shape[1])
            parts, row_numbers = [levels[0][matrix]], [rows]
            if len(x.signs) > 1:
                negative = rows[(values[matrix] < 0).any(axis=-1)]
                parts.append(levels[1][matrix, negative])
                row_numbers.append(negative)
            all_levels.append(np.concatenate(parts))
            self._rows.append(np.concatenate(row_numbers))
        self._counts = np.array([len(rows) for rows in self._rows])
        self._firsts = np.cumsum(self._counts) - self._counts
        self._levels = np.concatenate(all_levels)  # of all matrices
        self._scales = np.concatenate([x.scale[i, rows, 0] for i, rows in enumerate(self._rows)])
        self._pack()
        self._weight_frames: dict[tuple[int, int], WeightFrame] = {}
        self._input_sums: dict[int, InputSum] = {}
        tolerance = 0.0 if self._model.is_exact else TOLERANCE
        if self._model.response.inverse is not None:
            tolerance *= 2  # the crosstalk correction is not exact
        self.monitor = ChecksumMonitor(self._model.dark_variance, tolerance)
        self.jobs = [self._job(f"{name}/{job}", job, details) for job in range(len(self._places))]

    def _pack(self) -> None:
        m, rows, length = self._weight_rows.shape  # rails are rows already
        geometry = replace(self._bench.geometry, inputs=None, parts=1)
        self.packing = pack(self._counts, rows, geometry)
        cut = list(tiles((rows, length), geometry))
        self._checked = geometry.checked
        self._stride = geometry.slots(max(tile.last_row - tile.first_row for tile in cut))
        self._tasks = [(matrix, tile) for matrix in range(m) for tile in cut]
        if len(self.packing.tiles) == m:  # one job per matrix
            self._jobs_tasks = [
                self._tasks[first : first + len(cut)]
                for first in range(0, len(self._tasks), len(cut))
            ]
        else:
            step = self.packing.per_frame
            self._jobs_tasks = [
                self._tasks[first : first + step] for first in range(0, len(self._tasks), step)
            ]
        self._places = [self._place_vectors(job) for job in range(len(self.packing.tiles))]

    def _job(self, name: str, job: int, details: Mapping[str, Any]) -> TileJob:
        count, vectors = int(self.packing.tiles[job]), int(self.packing.vectors[job])
        has_checks = self._checked or self.packing.checks[job]
        return TileJob(
            name,
            count,
            vectors,
            lambda tile: self.weight_frame(job, tile).levels,
            lambda vector: self._input(job, vector),
            best_order(count, vectors, self._bench.timing),
            details,
            partial(self._check_shot, name, job) if has_checks else None,
        )

    def _frame_tasks(self, job: int, tile: int) -> list[tuple[int, Tile]]:
        """Return the (matrix, tile) that a weight frame holds."""
        step = self.packing.per_frame
        return self._jobs_tasks[job][tile * step : (tile + 1) * step]

    # --- frames ----------------------------------------------------------------------------------

    def weight_frame(self, job: int, tile: int) -> WeightFrame:
        """Return a weight frame of a job; it is computed once."""
        known = self._weight_frames.get((job, tile))
        if known is None:
            known = self._weight_frames[job, tile] = self._encode_weight_frame(
                job, self._frame_tasks(job, tile)
            )
        return known

    def _encode_weight_frame(self, job: int, tasks: Sequence[tuple[int, Tile]]) -> WeightFrame:
        model, copies = self._model, self.packing.copies
        intensity = np.zeros((model.layout.slots, model.layout.length))
        factors = np.zeros(model.layout.slots)
        slots, matrices, rows, places, starts, groups = [], [], [], [], [], []
        for number, (matrix, tile) in enumerate(tasks):
            own = np.arange(tile.first_row, tile.last_row)
            check_group = CheckGroup.of(
                self._weight_rows[matrix, own], self._signs[own], self._checked
            )
            scales = check_group.means(self._w.scale[matrix, own // self._rails, 0])
            for place in range(number * copies, (number + 1) * copies):
                first = place * self._stride
                intensity[first : first + len(check_group.intensity)] = check_group.intensity
                factors[first : first + len(check_group.intensity)] = check_group.factors
                slots.append(first + check_group.rows)
                matrices.append(np.full(len(own), matrix))
                rows.append(own)
                places.append(np.full(len(own), place))
                starts.append(first + check_group.starts)
                groups += [(place, scale) for scale in scales]
        lit = np.concatenate(slots)
        levels, full_e, leaked_e = model.weigh(intensity)
        sums = difference = None
        if self._checked or self.packing.checks[job]:
            response = model.response
            light = model.curves["weight"].light[levels] + response.weight_leak[:, None]
            passed = leaked_e, response.pairs_e * light
            if self._checked:
                factors_e = factors / full_e
                inverse, dark = response.inverse, model.dark_variance
                sums = RowSums.of(np.concatenate(starts), factors_e, passed, dark, inverse)
            if self.packing.checks[job]:
                input_place = self._input_place(np.concatenate(places))
                difference = self._input_sum(job).expected_difference(
                    passed[0][lit], passed[1][lit], input_place
                )
        group_array = np.array(groups).reshape(-1, 2)
        return WeightFrame(
            lit,
            np.concatenate(matrices),
            np.concatenate(rows),
            np.concatenate(places),
            levels,
            full_e[lit],
            leaked_e[lit],
            sums,
            group_array[:, 0].astype(int),
            group_array[:, 1],
            difference,
        )

    def _place_vectors(self, job: int) -> _VectorPlaces:
        """Return the vectors that lie side by side in the input frames of a job."""
        matrices, copies = [matrix for matrix, _ in self._frame_tasks(job, 0)], 1
        if not self._model.layout.shares_input:
            copies = self.packing.copies
        else:
            matrices = matrices[:1]
        place_matrices = np.repeat(matrices, copies)
        copy = np.tile(np.arange(copies), len(matrices))
        return _VectorPlaces(copy, self._firsts[place_matrices], self._counts[place_matrices])

    def _input_place(self, places: np.ndarray) -> np.ndarray:
        """Return the place in the input frame for given places: 0 if all slots share the input."""
        return 0 * places if self._model.layout.shares_input else places

    def _input(self, job: int, vector: int) -> np.ndarray:
        """Return the grey levels of an input frame, in which each place has its own vector."""
        layout = self._model.layout
        vector -= int(self.packing.checks[job])
        levels = self._input_sum(job).levels if vector < 0 else self._vectors_of(job, vector)[0]
        if layout.shares_input:
            return levels
        dark = self._model.curves["input"].darkest
        shown = np.full((layout.slots, layout.length), dark, dtype=levels.dtype)
        shown[: len(levels) * self._stride] = np.repeat(levels, self._stride, axis=0)
        return shown

    def _vectors_of(self, job: int, vector: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of an input frame.

        Returns
        -------
        levels : grey levels, [places, length]
        scales : of their values, 0 for an empty place, float64 [places]
        """
        places = self._places[job]
        in_matrix = vector * self.packing.copies + places.copy
        is_lit = in_matrix < places.count
        where = places.first + in_matrix
        if is_lit.all():
            return self._levels[where], self._scales[where]
        where = np.where(is_lit, where, 0)
        levels = self._levels[where]
        levels[~is_lit] = self._model.curves["input"].darkest
        return levels, self._scales[where] * is_lit

    def _input_sum(self, job: int) -> InputSum:
        """Return the sums of the vectors of a job, one per place; they are computed once."""
        known = self._input_sums.get(job)
        if known is None:
            curve, copies, inputs = self._model.curves["input"], self.packing.copies, []
            places = self._places[job]
            for copy, first, count in zip(places.copy, places.first, places.count, strict=True):
                inputs.append(curve.light[self._levels[first + copy : first + count : copies]])
            frames = int(self.packing.vectors[job]) - 1
            known = self._input_sums[job] = InputSum.of(inputs, frames, curve)
        return known

    # --- numbers ---------------------------------------------------------------------------------

    def _check_shot(
        self, name: str, job: int, tile: int, vector: int, electrons: np.ndarray
    ) -> float | None:
        """Check the checksums of a shot, and those of a weight frame once all its inputs are taken.

        Returns
        -------
        the largest |z|; None without a checksum

        Raises
        ------
        ChecksumMismatch : when a residual is beyond noise
        """
        frame, curve, scores = self.weight_frame(job, tile), self._model.curves["input"], []
        first = int(self.packing.checks[job])
        shot = f"{name}/{tile}.{vector}"
        if frame.sums is not None:
            input_place = self._input_place(frame.sums_place)
            if vector < first:
                light, scales = self._input_sum(job).light, None
            else:
                levels, input_scales = self._vectors_of(job, vector - first)
                light, scales = curve.light[levels], input_scales[input_place] * frame.sums_scale
            if len(light) > 1:
                light = light[input_place]
            scores.append(self.monitor.check_rows(shot, frame.sums, electrons, light, scales))
        if first:
            count = int(self.packing.vectors[job])
            complete = self.monitor.add_shot(job, tile, vector, electrons, count)
            if complete is not None:
                scores.append(self._check_inputs(f"{name}/{tile}", job, tile, complete))
        return max(scores, default=None)

    def _check_inputs(self, name: str, job: int, tile: int, electrons: np.ndarray) -> float:
        """Check the input sum of a weight frame, from electrons [vectors, slots]; return |z|."""
        frame, inputs = self.weight_frame(job, tile), self._input_sum(job)
        assert frame.input_difference is not None
        input_place = self._input_place(frame.place)
        z = self.monitor.check_inputs(
            name, inputs, electrons, frame.slots, input_place, frame.input_difference
        )
        self.monitor.passed.add((job, tile))
        return z

    def decode(
        self, results: Sequence[TileResult], stats: Stats, light_variance: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return products and their variances, float64 [m, N, M], from electrons; count events.

        Parameters
        ----------
        light_variance : remaining relative variance of the light of a shot

        Raises
        ------
        ChecksumMismatch : for a weight frame of an earlier run whose input sum does not match
        """
        m, count, _ = self._values.shape
        rows = self._weight_rows.shape[1]
        products = [np.zeros((2, vectors, rows)) for vectors in self._counts]
        for job, result in enumerate(results):
            first = int(self.packing.checks[job])
            for tile, electrons in enumerate(result.electrons):
                is_unchecked = (job, tile) not in self.monitor.passed and not result.stats.marked
                if first and is_unchecked:  # recorded by an earlier run
                    self._check_inputs(f"{self.jobs[job].name}/{tile}", job, tile, electrons)
                self._decode_frame(self.weight_frame(job, tile), electrons[first:], products, stats)
            stats.add(result.stats)
        self._weight_frames.clear()
        stats.checks += self.monitor.stats.checks
        stats.suspicious += self.monitor.stats.suspicious
        total, noise = np.zeros((2, m, count, rows))
        source = np.zeros((m, count, rows // self._rails))
        for matrix, (product, variance) in enumerate(products):
            total[matrix], noise[matrix] = product[:count], variance[:count]
            source[matrix] = self._light_factor(product[:count])
            negative = self._rows[matrix][count:]
            total[matrix, negative] -= product[count:]
            noise[matrix, negative] += variance[count:]
            source[matrix, negative] += self._light_factor(product[count:])
        return self._combined(total, noise, light_variance * source)

    def _decode_frame(
        self, frame: WeightFrame, electrons: np.ndarray, products: list[np.ndarray], stats: Stats
    ) -> None:
        """Put the electrons [vectors, slots] of one weight frame into products and variances."""
        model, copies = self._model, self.packing.copies
        stats.weight_samples += int(frame.shown * self._values.shape[-1])
        dark = model.dark_variance
        for matrix in np.unique(frame.matrix):
            own = frame.matrix == matrix
            first, count = self._firsts[matrix], self._counts[matrix]
            lit = model.curves["input"].light[self._levels[first : first + count]].sum(axis=-1)
            vectors = np.arange(len(electrons))[:, None] * copies + frame.place[own] % copies
            shot, place = np.nonzero(vectors < count)
            vector, at = vectors[shot, place], np.flatnonzero(own)[place]
            slot = frame.slots[at]
            detected = electrons[shot, slot]
            leaked = frame.leaked_e[at] + model.leak_e[slot] * lit[vector]
            product, variance = products[matrix]
            product[vector, frame.row[at]] = (detected - leaked) / frame.full_e[at]
            variance[vector, frame.row[at]] = (np.maximum(detected, 0) + dark[slot]) / frame.full_e[
                at
            ] ** 2
            stats.photons += float(detected.sum())

    def _signed(self, products: np.ndarray) -> np.ndarray:
        """Add the rails [..., rows] of each output with their signs: float64 [..., outputs]."""
        outputs = products.shape[-1] // self._rails
        signed = products * np.tile(self._w.signs, outputs)
        return np.asarray(signed.reshape(*products.shape[:-1], outputs, self._rails).sum(axis=-1))

    def _light_factor(self, products: np.ndarray) -> np.ndarray:
        """Return the factor of the relative variance of an exposure's light.

        Rails that share an exposure share its brightness; a frame of one slot shows them in turn.
        """
        if self._model.layout.slots >= self._rails:
            return self._signed(products) ** 2
        outputs = products.shape[-1] // self._rails
        squares = (products**2).reshape(*products.shape[:-1], outputs, self._rails)
        return np.asarray(squares.sum(axis=-1))

    def _combined(
        self, total: np.ndarray, noise: np.ndarray, source: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add rails with their signs, scale them, and add the terms of the offset encoding.

        Parameters
        ----------
        total, noise : of the rails, and their variance, float64 [m, N, rails of M]
        source : variance due to the brightness of exposures, float64 [m, N, M]
        """
        model, x, w = self._model, self._x, self._w
        m, count, rows = total.shape
        outputs = rows // self._rails
        scale = x.scale * np.swapaxes(w.scale, -1, -2)
        y = self._signed(total) * scale
        variance = noise.reshape(m, count, outputs, self._rails).sum(axis=-1) + source
        variance = variance * scale**2
        if model.encoding == "offset":
            length = self._values.shape[-1]
            light = model.curves["input"].light[self._levels.reshape(m, count, -1)][..., :length]
            u = light.sum(axis=-1, keepdims=True) * x.scale
            v = w.intensity[0][..., :length].sum(axis=-1, keepdims=True) * w.scale
            low_w = np.swapaxes(w.low, -1, -2)
            y = y + x.low * np.swapaxes(v, -1, -2) + u * low_w + length * x.low * low_w
        return np.asarray(y), np.asarray(variance)
