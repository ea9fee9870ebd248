"""`Product`: one segment of a matrix product as jobs of frames, and electrons as numbers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..base import Stats
from ..optics.model import OpticalModel
from ..tiling import CHECK_ROWS, Geometry, Tile, pack, tiles
from ..timing import ShotTiming, best_order
from .checksum import TOLERANCE, CheckGroup, ChecksumMonitor, InputSum, RowSums
from .operand import EncodedOperand, encode_input
from .shots import TileJob, TileResult


@dataclass(frozen=True)
class WeightFrame:
    """Where rows of weights lie in one frame, and how they became light.

    Parameters
    ----------
    slots, matrix, row : of each row shown, int [n]
    place : which of the vectors of an input frame each meets, int [n]
    levels : grey levels of the frame, [slots, length]
    full_e : electrons of a product of two shares of 1, float64 [n]
    leaked_e : electrons of these weights and a dark input, float64 [n]
    sums : checksums of groups of rows; None without any
    sums_place, sums_scale : which vector each group meets, and the scale of its weights, [groups]
    input_rest : electrons [n] by which inputs and their sum should differ; None without that sum
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
    input_rest: np.ndarray | None

    @property
    def shown(self) -> int:
        """Rows, and those of their checksums."""
        return self.slots.size + CHECK_ROWS * len(self.sums_place)


@dataclass(frozen=True)
class _Places:
    """Where the vectors of an input frame lie, side by side.

    Parameters
    ----------
    copy : of the vectors of its matrix, each place meets every so many, from this one on
    first, count : vectors of that matrix: where they begin, and how many
    """

    copy: np.ndarray
    first: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class BenchSetup:
    """What a product must know of a bench: its optics, what a frame holds, what shots take."""

    model: OpticalModel
    geometry: Geometry
    timing: ShotTiming


class Product:
    """One segment of a product.

    Parameters
    ----------
    bench : as it is known when the product is laid out
    name : address of its shots
    values : of x, float [m, N, K]; rows without a negative value need no exposure of x-
    w : weights as shares of full light
    details : what a timeline should say of its shots

    Attributes
    ----------
    jobs : to be submitted, in order
    judge : of its checksums
    packing : how many frames and vectors its jobs have
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
        _, m, outputs, length = w.shares.shape
        self._rails = len(w.signs)
        # rails of an output are neighbours: rows of one tall matrix
        self._tall = np.moveaxis(w.shares, 0, 2).reshape(m, outputs * self._rails, length)
        # in checksums each row has the sign of its rail; of a single rail, both signs in turn
        self._signs = np.resize([1.0, -1.0], outputs * self._rails)
        curve = self._model.curves["input"]
        all_levels: list[np.ndarray] = []  # of each matrix, [vectors, length]
        self._rows: list[np.ndarray] = []  # of x that each vector is, first all x+, then some x-
        levels = [curve.levels(x.shares[index]) for index in range(len(x.signs))]
        for matrix in range(m):
            rows = np.arange(values.shape[1])
            parts, of_rows = [levels[0][matrix]], [rows]
            if len(x.signs) > 1:
                negative = rows[(values[matrix] < 0).any(axis=-1)]
                parts.append(levels[1][matrix, negative])
                of_rows.append(negative)
            all_levels.append(np.concatenate(parts))
            self._rows.append(np.concatenate(of_rows))
        self._counts = np.array([len(rows) for rows in self._rows])
        self._firsts = np.cumsum(self._counts) - self._counts
        self._levels = np.concatenate(all_levels)  # of all matrices
        self._scales = np.concatenate([x.scale[i, rows, 0] for i, rows in enumerate(self._rows)])
        self._pack()
        self._laid: dict[tuple[int, int], WeightFrame] = {}
        self._input_sums: dict[int, InputSum] = {}
        tolerance = 0.0 if self._model.is_exact else TOLERANCE
        if (
            self._model.response.inverse is not None
        ):  # light of neighbours was taken out, not exactly
            tolerance *= 2
        self.judge = ChecksumMonitor(self._model.dark_variance, tolerance)
        self.jobs = [self._job(f"{name}/{job}", job, details) for job in range(len(self._places))]

    def _pack(self) -> None:
        m, rows, length = self._tall.shape  # rails are rows already
        geometry = replace(self._bench.geometry, inputs=None, parts=1)
        self.packing = pack(self._counts, rows, geometry)
        cut = list(tiles((rows, length), geometry))
        self._checked = geometry.checked
        self._stride = geometry.slots(max(tile.last_row - tile.first_row for tile in cut))
        self._tasks = [(matrix, tile) for matrix in range(m) for tile in cut]
        if len(self.packing.tiles) == m:  # one job a matrix
            self._jobs_tasks = [
                self._tasks[first : first + len(cut)]
                for first in range(0, len(self._tasks), len(cut))
            ]
        else:
            step = self.packing.per_frame
            self._jobs_tasks = [
                self._tasks[first : first + step] for first in range(0, len(self._tasks), step)
            ]
        self._places = [self._placed(job) for job in range(len(self.packing.tiles))]

    def _job(self, name: str, job: int, details: Mapping[str, Any]) -> TileJob:
        count, vectors = int(self.packing.tiles[job]), int(self.packing.vectors[job])
        judges = self._checked or self.packing.checks[job]
        return TileJob(
            name,
            count,
            vectors,
            lambda tile: self.laid_out(job, tile).levels,
            lambda vector: self._input(job, vector),
            best_order(count, vectors, self._bench.timing),
            details,
            partial(self._check, name, job) if judges else None,
        )

    def _frame_tasks(self, job: int, tile: int) -> list[tuple[int, Tile]]:
        """Return the (matrix, tile) that a weight frame holds."""
        step = self.packing.per_frame
        return self._jobs_tasks[job][tile * step : (tile + 1) * step]

    # --- frames ----------------------------------------------------------------------------------

    def laid_out(self, job: int, tile: int) -> WeightFrame:
        """Return a weight frame of a job; it is computed once."""
        known = self._laid.get((job, tile))
        if known is None:
            known = self._laid[job, tile] = self._lay(job, self._frame_tasks(job, tile))
        return known

    def _lay(self, job: int, tasks: Sequence[tuple[int, Tile]]) -> WeightFrame:
        model, copies = self._model, self.packing.copies
        shares = np.zeros((model.layout.slots, model.layout.length))
        factors = np.zeros(model.layout.slots)
        slots, matrices, rows, places, starts, groups = [], [], [], [], [], []
        for number, (matrix, tile) in enumerate(tasks):
            mine = np.arange(tile.first_row, tile.last_row)
            block = CheckGroup.of(self._tall[matrix, mine], self._signs[mine], self._checked)
            scales = block.means(self._w.scale[matrix, mine // self._rails, 0])
            for place in range(number * copies, (number + 1) * copies):
                first = place * self._stride
                shares[first : first + len(block.shares)] = block.shares
                factors[first : first + len(block.shares)] = block.factors
                slots.append(first + block.rows)
                matrices.append(np.full(len(mine), matrix))
                rows.append(mine)
                places.append(np.full(len(mine), place))
                starts.append(first + block.starts)
                groups += [(place, scale) for scale in scales]
        lit = np.concatenate(slots)
        levels, full_e, leaked_e = model.weigh(shares)
        sums = rest = None
        if self._checked or self.packing.checks[job]:
            response = model.response
            light = model.curves["weight"].light[levels] + response.weight_leak[:, None]
            passed = leaked_e, response.pairs_e * light
            if self._checked:
                of_e = factors / full_e
                inverse, dark = response.inverse, model.dark_variance
                sums = RowSums.of(np.concatenate(starts), of_e, passed, dark, inverse)
            if self.packing.checks[job]:
                met = self._met_by(np.concatenate(places))
                rest = self._input_sum(job).rest(passed[0][lit], passed[1][lit], met)
        of_groups = np.array(groups).reshape(-1, 2)
        return WeightFrame(
            lit,
            np.concatenate(matrices),
            np.concatenate(rows),
            np.concatenate(places),
            levels,
            full_e[lit],
            leaked_e[lit],
            sums,
            of_groups[:, 0].astype(int),
            of_groups[:, 1],
            rest,
        )

    def _placed(self, job: int) -> _Places:
        """Say which vectors lie side by side in the input frames of a job."""
        matrices, copies = [matrix for matrix, _ in self._frame_tasks(job, 0)], 1
        if not self._model.layout.shares_input:
            copies = self.packing.copies
        else:
            matrices = matrices[:1]
        of_places = np.repeat(matrices, copies)
        copy = np.tile(np.arange(copies), len(matrices))
        return _Places(copy, self._firsts[of_places], self._counts[of_places])

    def _met_by(self, places: np.ndarray) -> np.ndarray:
        """Say which vector of an input frame is met at some places: one, if all share it."""
        return 0 * places if self._model.layout.shares_input else places

    def _input(self, job: int, vector: int) -> np.ndarray:
        """Return grey levels of an input frame: each group of slots meets a vector of its own."""
        layout = self._model.layout
        vector -= int(self.packing.checks[job])
        levels = self._input_sum(job).levels if vector < 0 else self._shown(job, vector)[0]
        if layout.shares_input:
            return levels
        dark = self._model.curves["input"].darkest
        shown = np.full((layout.slots, layout.length), dark, dtype=levels.dtype)
        shown[: len(levels) * self._stride] = np.repeat(levels, self._stride, axis=0)
        return shown

    def _shown(self, job: int, vector: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of an input frame.

        Returns
        -------
        levels : [places, length]
        scales : of their values, 0 where there is none, float64 [places]
        """
        places = self._places[job]
        of_matrix = vector * self.packing.copies + places.copy
        is_lit = of_matrix < places.count
        where = places.first + of_matrix
        if is_lit.all():
            return self._levels[where], self._scales[where]
        where = np.where(is_lit, where, 0)
        levels = self._levels[where]
        levels[~is_lit] = self._model.curves["input"].darkest
        return levels, self._scales[where] * is_lit

    def _input_sum(self, job: int) -> InputSum:
        """Return the sum of the vectors that meet each place."""
        known = self._input_sums.get(job)
        if known is None:
            curve, copies, places = self._model.curves["input"], self.packing.copies, []
            met = self._places[job]
            for copy, first, count in zip(met.copy, met.first, met.count, strict=True):
                places.append(curve.light[self._levels[first + copy : first + count : copies]])
            frames = int(self.packing.vectors[job]) - 1
            known = self._input_sums[job] = InputSum.of(places, frames, curve)
        return known

    # --- numbers ---------------------------------------------------------------------------------

    def _check(
        self, name: str, job: int, tile: int, vector: int, electrons: np.ndarray
    ) -> float | None:
        """Judge a shot by its checksums, and a weight frame when all its inputs have come.

        Returns
        -------
        the largest |z|; None where there was nothing to judge

        Raises
        ------
        WrongSum : beyond what noise does
        """
        laid, curve, found = self.laid_out(job, tile), self._model.curves["input"], []
        first = int(self.packing.checks[job])
        shot = f"{name}/{tile}.{vector}"
        if laid.sums is not None:
            met = self._met_by(laid.sums_place)
            if vector < first:
                light, scales = self._input_sum(job).light, None
            else:
                levels, of_x = self._shown(job, vector - first)
                light, scales = curve.light[levels], of_x[met] * laid.sums_scale
            if len(light) > 1:
                light = light[met]
            found.append(self.judge.rows(shot, laid.sums, electrons, light, scales))
        if first:
            count = int(self.packing.vectors[job])
            taken = self.judge.taken(job, tile, vector, electrons, count)
            if taken is not None:
                found.append(self._check_inputs(f"{name}/{tile}", job, tile, taken))
        return max(found, default=None)

    def _check_inputs(self, name: str, job: int, tile: int, electrons: np.ndarray) -> float:
        """Judge the inputs of a weight frame by their sum, from electrons [vectors, slots]."""
        laid, inputs = self.laid_out(job, tile), self._input_sum(job)
        assert laid.input_rest is not None
        met = self._met_by(laid.place)
        z = self.judge.inputs(name, inputs, electrons, laid.slots, met, laid.input_rest)
        self.judge.passed.add((job, tile))
        return z

    def decoded(
        self, results: Sequence[TileResult], stats: Stats, light_variance: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return products and their variances, float64 [m, N, M], from electrons; count events.

        Parameters
        ----------
        light_variance : relative variance that is left of a shot's light

        Raises
        ------
        WrongSum : for a weight frame whose inputs nobody has judged yet, and that are wrong
        """
        m, count, _ = self._values.shape
        rows = self._tall.shape[1]
        found = [np.zeros((2, vectors, rows)) for vectors in self._counts]
        for job, result in enumerate(results):
            first = int(self.packing.checks[job])
            for tile, electrons in enumerate(result.electrons):
                is_new = (job, tile) not in self.judge.passed and not result.stats.marked
                if first and is_new:  # kept by an earlier run
                    self._check_inputs(f"{self.jobs[job].name}/{tile}", job, tile, electrons)
                self._decode(self.laid_out(job, tile), electrons[first:], found, stats)
            stats.add(result.stats)
        self._laid.clear()
        stats.checks += self.judge.tally.checks
        stats.suspicious += self.judge.tally.suspicious
        total, noise = np.zeros((2, m, count, rows))
        source = np.zeros((m, count, rows // self._rails))
        for matrix, (product, variance) in enumerate(found):
            total[matrix], noise[matrix] = product[:count], variance[:count]
            source[matrix] = self._lever(product[:count])
            negative = self._rows[matrix][count:]
            total[matrix, negative] -= product[count:]
            noise[matrix, negative] += variance[count:]
            source[matrix, negative] += self._lever(product[count:])
        return self._combined(total, noise, light_variance * source)

    def _decode(
        self, laid: WeightFrame, electrons: np.ndarray, found: list[np.ndarray], stats: Stats
    ) -> None:
        """Put the electrons [vectors, slots] of one weight frame into products and variances."""
        model, copies = self._model, self.packing.copies
        stats.weight_samples += int(laid.shown * self._values.shape[-1])
        dark = model.dark_variance
        for matrix in np.unique(laid.matrix):
            mine = laid.matrix == matrix
            first, count = self._firsts[matrix], self._counts[matrix]
            lit = model.curves["input"].light[self._levels[first : first + count]].sum(axis=-1)
            vectors = np.arange(len(electrons))[:, None] * copies + laid.place[mine] % copies
            shot, place = np.nonzero(vectors < count)
            vector, at = vectors[shot, place], np.flatnonzero(mine)[place]
            slot = laid.slots[at]
            taken = electrons[shot, slot]
            leaked = laid.leaked_e[at] + model.leak_e[slot] * lit[vector]
            product, variance = found[matrix]
            product[vector, laid.row[at]] = (taken - leaked) / laid.full_e[at]
            variance[vector, laid.row[at]] = (np.maximum(taken, 0) + dark[slot]) / laid.full_e[
                at
            ] ** 2
            stats.photons += float(taken.sum())

    def _signed(self, products: np.ndarray) -> np.ndarray:
        """Add the rails [..., rows] of each output with their signs: float64 [..., outputs]."""
        outputs = products.shape[-1] // self._rails
        signed = products * np.tile(self._w.signs, outputs)
        return np.asarray(signed.reshape(*products.shape[:-1], outputs, self._rails).sum(axis=-1))

    def _lever(self, products: np.ndarray) -> np.ndarray:
        """Return what the relative variance of an exposure's light is multiplied with.

        Rails that share an exposure share its light; a frame of one slot shows them in turn.
        """
        if self._model.layout.slots >= self._rails:
            return self._signed(products) ** 2
        outputs = products.shape[-1] // self._rails
        squares = (products**2).reshape(*products.shape[:-1], outputs, self._rails)
        return np.asarray(squares.sum(axis=-1))

    def _combined(
        self, total: np.ndarray, noise: np.ndarray, source: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add rails with their signs, scale, and put back what the offset took away.

        Parameters
        ----------
        total, noise : of the rails, and their variance, float64 [m, N, rails of M]
        source : variance that exposures get of their light, float64 [m, N, M]
        """
        model, x, w = self._model, self._x, self._w
        m, count, rows = total.shape
        outputs = rows // self._rails
        scale = x.scale * np.swapaxes(w.scale, -1, -2)
        y = self._signed(total) * scale
        variance = noise.reshape(m, count, outputs, self._rails).sum(axis=-1) + source
        variance = variance * scale**2
        if model.encoding == "offset":
            kept = self._values.shape[-1]
            light = model.curves["input"].light[self._levels.reshape(m, count, -1)][..., :kept]
            u = light.sum(axis=-1, keepdims=True) * x.scale
            v = w.shares[0][..., :kept].sum(axis=-1, keepdims=True) * w.scale
            low_w = np.swapaxes(w.low, -1, -2)
            y = y + x.low * np.swapaxes(v, -1, -2) + u * low_w + kept * x.low * low_w
        return np.asarray(y), np.asarray(variance)
