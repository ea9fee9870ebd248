"""`Product`: one segment of a matrix product as jobs of frames, and electrons as numbers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Stats
from ..tiling import Tile, pack, tiles
from ..timing import best_order
from .shots import TileJob, TileResult

if TYPE_CHECKING:
    from .backend import BenchBackend


@dataclass(frozen=True)
class Encoded:
    """Numbers as shares of full light, and what to put back digitally.

    Parameters
    ----------
    signs : of the rails
    shares : of full light above darkness, float64 [rails, ..., length of a slot]
    scale, low : number = scale * share * sign + low, [..., 1]
    """

    signs: tuple[int, ...]
    shares: np.ndarray
    scale: np.ndarray
    low: np.ndarray


@dataclass(frozen=True)
class _Laid:
    """Where rows of weights lie in one frame, and how they became light.

    Parameters
    ----------
    slots, matrix, row : of each row shown, int [n]
    copy : which of the vectors of an input frame each meets, int [n]
    levels : grey levels of the frame, [slots, length]
    full_e : electrons of a product of two shares of 1, float64 [n]
    leaked_e : electrons of these weights and a dark input, float64 [n]
    """

    slots: np.ndarray
    matrix: np.ndarray
    row: np.ndarray
    copy: np.ndarray
    levels: np.ndarray
    full_e: np.ndarray
    leaked_e: np.ndarray


class Product:
    """One segment of a product.

    Parameters
    ----------
    name : address of its shots
    values : of x, float [m, N, K]; rows without a negative value need no exposure of x-
    x, w : the same as shares of full light
    details : what a timeline should say of its shots

    Attributes
    ----------
    jobs : to be submitted, in order
    """

    def __init__(
        self,
        backend: BenchBackend,
        name: str,
        values: np.ndarray,
        x: Encoded,
        w: Encoded,
        details: Mapping[str, Any],
    ) -> None:
        self._backend, self._values, self._x, self._w = backend, values, x, w
        _, m, outputs, length = w.shares.shape
        self._rails = len(w.signs)
        # rails of an output are neighbours: rows of one tall matrix
        self._tall = np.moveaxis(w.shares, 0, 2).reshape(m, outputs * self._rails, length)
        curve = backend.curves["input"]
        self._levels: list[np.ndarray] = []  # of each matrix, [vectors, length]
        self._rows: list[np.ndarray] = []  # of x that each vector is, first all x+, then some x-
        levels = [curve.levels(x.shares[index]) for index in range(len(x.signs))]
        for matrix in range(m):
            rows = np.arange(values.shape[1])
            parts, of_rows = [levels[0][matrix]], [rows]
            if len(x.signs) > 1:
                negative = rows[(values[matrix] < 0).any(axis=-1)]
                parts.append(levels[1][matrix, negative])
                of_rows.append(negative)
            self._levels.append(np.concatenate(parts))
            self._rows.append(np.concatenate(of_rows))
        self._pack()
        self._laid: dict[tuple[int, int], _Laid] = {}
        self.jobs = [
            TileJob(
                f"{name}/{job}",
                int(self._packing.tiles[job]),
                int(self._packing.vectors[job]),
                lambda tile, job=job: self._laid_out(job, tile).levels,  # type: ignore[misc]
                lambda vector, job=job: self._input(job, vector),  # type: ignore[misc]
                best_order(
                    int(self._packing.tiles[job]), int(self._packing.vectors[job]), backend.timing
                ),
                details,
            )
            for job in range(len(self._packing.tiles))
        ]

    def _pack(self) -> None:
        m, rows, length = self._tall.shape  # rails are rows already
        geometry = replace(self._backend.geometry, inputs=None, parts=1)
        self._packing = pack([len(levels) for levels in self._levels], rows, geometry)
        cut = list(tiles((rows, length), geometry))
        self._tallest = max(tile.last_row - tile.first_row for tile in cut)
        self._tasks = [(matrix, tile) for matrix in range(m) for tile in cut]
        if len(self._packing.tiles) == m:  # one job a matrix
            self._jobs_tasks = [
                self._tasks[first : first + len(cut)]
                for first in range(0, len(self._tasks), len(cut))
            ]
        else:
            step = self._packing.per_frame
            self._jobs_tasks = [
                self._tasks[first : first + step] for first in range(0, len(self._tasks), step)
            ]

    def _frame_tasks(self, job: int, tile: int) -> list[tuple[int, Tile]]:
        """Give the (matrix, tile) that a weight frame holds."""
        step = self._packing.per_frame
        return self._jobs_tasks[job][tile * step : (tile + 1) * step]

    def _laid_out(self, job: int, tile: int) -> _Laid:
        """Give a weight frame; worked out once."""
        known = self._laid.get((job, tile))
        if known is None:
            known = self._laid[job, tile] = self._lay(self._frame_tasks(job, tile))
        return known

    def _lay(self, tasks: Sequence[tuple[int, Tile]]) -> _Laid:
        layout, copies = self._backend.layout, self._packing.copies
        shares = np.zeros((layout.slots, layout.length))
        slots, matrices, rows, vectors = [], [], [], []
        for place, (matrix, tile) in enumerate(tasks):
            high = tile.last_row - tile.first_row
            for copy in range(copies):
                mine = np.arange(high) + (place * copies + copy) * self._tallest
                shares[mine] = self._tall[matrix, tile.first_row : tile.last_row]
                slots.append(mine)
                matrices.append(np.full(high, matrix))
                rows.append(np.arange(tile.first_row, tile.last_row))
                vectors.append(np.full(high, copy))
        lit = np.concatenate(slots)
        levels, full_e, leaked_e = self._backend.weigh(shares)
        return _Laid(
            lit,
            np.concatenate(matrices),
            np.concatenate(rows),
            np.concatenate(vectors),
            levels,
            full_e[lit],
            leaked_e[lit],
        )

    def _input(self, job: int, vector: int) -> np.ndarray:
        """Give the grey levels of an input frame: each group of slots meets a vector of its own."""
        layout, copies = self._backend.layout, self._packing.copies
        first = vector * copies
        if layout.shares_input:
            matrix = self._jobs_tasks[job][0][0]
            return self._levels[matrix][first : first + 1]
        dark = self._backend.curves["input"].darkest
        shown = np.full((layout.slots, layout.length), dark, dtype=self._levels[0].dtype)
        for place, (matrix, _) in enumerate(self._frame_tasks(job, 0)):
            known = self._levels[matrix][first : first + copies]
            start = place * copies * self._tallest
            high = len(known) * self._tallest
            shown[start : start + high] = np.repeat(known, self._tallest, axis=0)
        return shown

    def decoded(self, results: Sequence[TileResult], stats: Stats) -> tuple[np.ndarray, np.ndarray]:
        """Give products and their variances, float64 [m, N, M], from electrons; count events."""
        m, count, _ = self._values.shape
        rows = self._tall.shape[1]
        found = [np.zeros((2, len(levels), rows)) for levels in self._levels]
        for job, result in enumerate(results):
            for tile in range(len(result.electrons)):
                self._decode(self._laid_out(job, tile), result.electrons[tile], found, stats)
            stats.add(result.stats)
        self._laid.clear()
        total, noise = np.zeros((2, m, count, rows))
        for matrix, (product, variance) in enumerate(found):
            total[matrix], noise[matrix] = product[:count], variance[:count]
            negative = self._rows[matrix][count:]
            total[matrix, negative] -= product[count:]
            noise[matrix, negative] += variance[count:]
        return self._combined(total, noise)

    def _decode(
        self, laid: _Laid, electrons: np.ndarray, found: list[np.ndarray], stats: Stats
    ) -> None:
        """Put the electrons [vectors, slots] of one weight frame into products and variances."""
        backend, copies = self._backend, self._packing.copies
        stats.weight_samples += int(laid.slots.size * self._values.shape[-1])
        dark = backend.layout.read_pixels() * (backend.read_variance + backend.optics.dark_e)
        for matrix in np.unique(laid.matrix):
            mine = laid.matrix == matrix
            lit = backend.curves["input"].light[self._levels[matrix]].sum(axis=-1)
            vectors = np.arange(len(electrons))[:, None] * copies + laid.copy[mine]
            shot, place = np.nonzero(vectors < len(lit))
            vector, at = vectors[shot, place], np.flatnonzero(mine)[place]
            slot = laid.slots[at]
            taken = electrons[shot, slot]
            leaked = laid.leaked_e[at] + backend.leak_e[slot] * lit[vector]
            product, variance = found[matrix]
            product[vector, laid.row[at]] = (taken - leaked) / laid.full_e[at]
            variance[vector, laid.row[at]] = (np.maximum(taken, 0) + dark[slot]) / laid.full_e[
                at
            ] ** 2
            stats.photons += float(taken.sum())

    def _combined(self, total: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add rails with their signs, scale, and put back what the offset took away."""
        backend, x, w = self._backend, self._x, self._w
        m, count, rows = total.shape
        outputs = rows // self._rails
        scale = x.scale * np.swapaxes(w.scale, -1, -2)
        signs = np.tile(w.signs, outputs)
        y = (total * signs).reshape(m, count, outputs, self._rails).sum(axis=-1) * scale
        variance = noise.reshape(m, count, outputs, self._rails).sum(axis=-1) * scale**2
        if backend.bench.file.encoding.kind == "offset":
            kept = self._values.shape[-1]
            light = backend.curves["input"].light[np.stack(self._levels)][..., :kept]
            u = light.sum(axis=-1, keepdims=True) * x.scale
            v = w.shares[0][..., :kept].sum(axis=-1, keepdims=True) * w.scale
            low_w = np.swapaxes(w.low, -1, -2)
            y = y + x.low * np.swapaxes(v, -1, -2) + u * low_w + kept * x.low * low_w
        return np.asarray(y), np.asarray(variance)
