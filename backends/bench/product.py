"""`Product`: one segment of a matrix product as jobs of frames, and electrons as numbers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..base import Stats
from ..device_timeline import best_order
from ..optics.model import OpticalModel
from ..tiling import Geometry
from ..timing import ShotTiming
from .checksum import TOLERANCE, ChecksumMonitor
from .product_frames import (
    EncodedOperand,
    FramePlan,
    InputFrames,
    InputVectors,
    WeightFrame,
    WeightFrames,
    encode_operand,
)
from .shot_plan import TileJob, TileResult


class ProductSetup(Protocol):
    """What a product needs of a bench, or of its twin."""

    @property
    def model(self) -> OpticalModel:
        """The optical model that encodes and decodes it."""

    @property
    def geometry(self) -> Geometry:
        """The capacity of a frame."""

    @property
    def timing(self) -> ShotTiming:
        """The times of the shots."""


class Product:
    """One segment of a product.

    Parameters
    ----------
    setup : the present one of the bench
    name : address of its shots
    values : of x, float [m, N, K]; rows without a negative value need no exposure of x-
    w : weights as normalised intensity, [rails, m, M, length]
    details : for the timeline

    Attributes
    ----------
    jobs : to be submitted, in order
    plan : of its frames
    vectors, inputs : the input vectors, and the input frames that show them
    weights : the weight frames
    monitor : of the checksums
    """

    def __init__(
        self,
        setup: ProductSetup,
        name: str,
        values: np.ndarray,
        w: EncodedOperand,
        details: Mapping[str, Any],
    ) -> None:
        self._setup, self._model = setup, setup.model
        model = setup.model
        self._values, self._w, self._rails = values, w, len(w.signs)
        self._x = encode_operand(values, model.layout)
        self.vectors = InputVectors.of(values, self._x, model.curves["input"])
        geometry = replace(setup.geometry, inputs=None, parts=1)  # rails are rows already
        rows = w.intensity.shape[2] * self._rails
        self.plan = FramePlan.of(self.vectors.count, rows, geometry)
        self.inputs = InputFrames(model, self.vectors, self.plan)
        self.weights = WeightFrames(model, w, self.plan, self.inputs)
        tolerance = 0.0 if model.is_exact else TOLERANCE
        if model.response.inverse is not None:
            tolerance *= 2  # the crosstalk correction is not exact
        self.monitor = ChecksumMonitor(model.dark_variance, tolerance)
        jobs = range(len(self.plan.packing.tiles))
        self.jobs = [self._job(job, f"{name}/{job}", details) for job in jobs]

    def _job(self, job: int, name: str, details: Mapping[str, Any]) -> TileJob:
        count, vectors = int(self.plan.packing.tiles[job]), int(self.plan.packing.vectors[job])
        return TileJob(
            name,
            count,
            vectors,
            lambda tile: self.weights.frame(job, tile).levels,
            partial(self.inputs.frame, job),
            best_order(count, vectors, self._setup.timing),
            details,
            partial(self._check_shot, name, job) if self.plan.has_checks(job) else None,
        )

    # --- checksums -------------------------------------------------------------------------------

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
        scores = []
        if self.plan.checked:
            shot = f"{name}/{tile}.{vector}"
            scores.append(self._check_rows(shot, job, tile, vector, electrons))
        if self.plan.packing.checks[job]:
            count = int(self.plan.packing.vectors[job])
            complete = self.monitor.add_shot(job, tile, vector, electrons, count)
            if complete is not None:
                scores.append(self._check_inputs(f"{name}/{tile}", job, tile, complete))
        return max(scores, default=None)

    def _check_rows(
        self, shot: str, job: int, tile: int, vector: int, electrons: np.ndarray
    ) -> float:
        """Check the sums of the rows of a shot, from electrons [slots]; return the largest |z|."""
        frame = self.weights.frame(job, tile)
        assert frame.sums is not None
        places = self.inputs.place(frame.rows.sums_place)
        vector -= int(self.plan.packing.checks[job])
        if vector < 0:
            light, scales = self.inputs.sum(job).light, None
        else:
            levels, input_scales = self.inputs.vectors(job, vector)
            light = self._model.curves["input"].light[levels]
            scales = input_scales[places] * frame.rows.sums_scale
        if len(light) > 1:
            light = light[places]
        return self.monitor.check_rows(shot, frame.sums, electrons, light, scales)

    def _check_inputs(self, name: str, job: int, tile: int, electrons: np.ndarray) -> float:
        """Check the input sum of a weight frame, from electrons [vectors, slots]; return |z|."""
        frame, inputs = self.weights.frame(job, tile), self.inputs.sum(job)
        assert frame.input_difference is not None
        places = self.inputs.place(frame.rows.place)
        z = self.monitor.check_inputs(
            name, inputs, electrons, frame.rows.slots, places, frame.input_difference
        )
        self.monitor.passed.add((job, tile))
        return z

    # --- numbers ---------------------------------------------------------------------------------

    def decode(self, results: Sequence[TileResult], stats: Stats) -> tuple[np.ndarray, np.ndarray]:
        """Return products and their variances, float64 [m, N, M], from electrons; count events.

        Raises
        ------
        ChecksumMismatch : for a weight frame of an earlier run whose input sum does not match
        """
        m, count, _ = self._values.shape
        rows = self._w.intensity.shape[2] * self._rails
        products = [np.zeros((2, vectors, rows)) for vectors in self.vectors.count]
        for job, result in enumerate(results):
            first = int(self.plan.packing.checks[job])
            for tile, electrons in enumerate(result.electrons):
                is_unchecked = (job, tile) not in self.monitor.passed and not result.stats.marked
                if first and is_unchecked:  # recorded by an earlier run
                    self._check_inputs(f"{self.jobs[job].name}/{tile}", job, tile, electrons)
                self._decode_frame(
                    self.weights.frame(job, tile), electrons[first:], products, stats
                )
            stats.add(result.stats)
        self.weights.clear()
        self.inputs.clear()
        stats.checks += self.monitor.stats.checks
        stats.suspicious += self.monitor.stats.suspicious
        total, noise = np.zeros((2, m, count, rows))
        source = np.zeros((m, count, rows // self._rails))
        for matrix, (product, variance) in enumerate(products):
            total[matrix], noise[matrix] = product[:count], variance[:count]
            source[matrix] = self._light_factor(product[:count])
            negative = self.vectors.rows[matrix][count:]
            total[matrix, negative] -= product[count:]
            noise[matrix, negative] += variance[count:]
            source[matrix, negative] += self._light_factor(product[count:])
        return self._combined(total, noise, results[-1].light_variance * source)

    def _decode_frame(
        self, frame: WeightFrame, electrons: np.ndarray, products: list[np.ndarray], stats: Stats
    ) -> None:
        """Put the electrons [vectors, slots] of one weight frame into products and variances."""
        model, copies, rows = self._model, self.plan.packing.copies, frame.rows
        stats.weight_samples += int(rows.shown * self._values.shape[-1])
        dark = model.dark_variance
        for matrix in np.unique(rows.matrix):
            own = rows.matrix == matrix
            lit = model.curves["input"].light[self.vectors.levels_of(matrix)].sum(axis=-1)
            vectors = np.arange(len(electrons))[:, None] * copies + rows.place[own] % copies
            shot, place = np.nonzero(vectors < len(lit))
            vector, at = vectors[shot, place], np.flatnonzero(own)[place]
            slot = rows.slots[at]
            detected = electrons[shot, slot]
            leaked = frame.leaked_e[at] + model.leak_e[slot] * lit[vector]
            product, variance = products[matrix]
            product[vector, rows.row[at]] = (detected - leaked) / frame.full_e[at]
            variance[vector, rows.row[at]] = (np.maximum(detected, 0) + dark[slot]) / frame.full_e[
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
            levels = self.vectors.levels.reshape(m, count, -1)[..., :length]
            u = model.curves["input"].light[levels].sum(axis=-1, keepdims=True) * x.scale
            v = w.intensity[0][..., :length].sum(axis=-1, keepdims=True) * w.scale
            low_w = np.swapaxes(w.low, -1, -2)
            y = y + x.low * np.swapaxes(v, -1, -2) + u * low_w + length * x.low * low_w
        return np.asarray(y), np.asarray(variance)
