"""`SegmentLight`: the electrons of all shots of one segment of a product on a twin."""

from __future__ import annotations

import numpy as np

from ..address import Address
from ..base import Stats
from ..bench.product import Product
from ..bench.product_frames import WeightFrame
from ..bench.shot_plan import TileResult
from ..mock.noise import COUNT, NoiseKeys, normals, product_key, random_words, source_normals, tag
from ..mock.parameters import Drift
from ..mock.poisson import POISSON_BELOW, poisson
from ..profile import OpticsProfile
from .optics import TwinOptics


class SegmentLight:
    """The light of one segment.

    Parameters
    ----------
    optics : of the twin
    profile : for the brightness of the source
    product : the segment, laid out in frames
    at : address of the product, rows [m, N]
    segment : number of the segment of K
    seed : of the noise
    """

    def __init__(
        self,
        optics: TwinOptics,
        profile: OpticsProfile,
        product: Product,
        at: Address,
        segment: int,
        seed: int,
    ) -> None:
        self._optics, self._product, self._segment = optics, product, segment
        self._is_corrected = optics.model.is_corrected
        fluctuation = profile.light_error if self._is_corrected else profile.source_rms
        self._source_rms = fluctuation or 0.0
        self._drift = None if self._is_corrected else Drift.of(profile)
        self._key = product_key(seed, at.matmul, at.attempt)
        vectors, rows = product.vectors, at.rows.shape[1]
        local = np.concatenate([np.arange(count) for count in vectors.count])
        self._matrix = np.repeat(np.arange(len(vectors.count)), vectors.count)
        self._ids = at.rows[self._matrix, np.concatenate(vectors.rows)]
        self._exposure = (local >= rows).astype(int)  # of x+ or of x-
        self._inputs = optics.light["input"][vectors.levels].astype(np.float32)
        self._noise = self._noise_of_readings(product.weights.outputs, product.weights.rails)

    def results(self) -> list[TileResult]:
        """Return the electrons of each job, as the decoder of a bench returns them."""
        plan, found, frame = self._product.plan, [], 0
        for job, count in enumerate(plan.packing.tiles):
            tiles = [self._tile(job, tile, frame + tile) for tile in range(int(count))]
            frame += int(count)
            variance = self._source_rms**2 if self._is_corrected else 0.0
            found.append(TileResult(np.stack(tiles), Stats(), variance))
            self._product.monitor.passed |= {(job, tile) for tile in range(int(count))}
        return found

    # --- one weight frame ------------------------------------------------------------------------

    def _tile(self, job: int, tile: int, frame: int) -> np.ndarray:
        """Return the electrons of the shots of one weight frame, float32 [input frames, slots]."""
        product, optics = self._product, self._optics
        shown = product.inputs.shown_at(job)
        weights = product.weights.frame(job, tile)
        passed, dark = self._passed(weights.levels)
        first, count = int(product.plan.packing.checks[job]), int(product.plan.packing.vectors[job])
        electrons = np.tile(dark.astype(np.float32), (count, 1))
        for place, vectors in enumerate(shown):
            own = slice(None)
            if not optics.model.layout.shares_input:
                own = slice(place * product.plan.stride, (place + 1) * product.plan.stride)
            electrons[first : first + len(vectors), own] += self._inputs[vectors] @ passed[own].T
        if optics.kernel is not None:
            electrons += _neighbours(electrons, optics.kernel, optics.model.layout.grid)
        brightness = self._brightness(shown, frame, count - first)
        if brightness is not None:
            electrons[first:] *= brightness[:, None]
        self._add_noise(electrons[first:], weights, shown)
        inverse = optics.model.response.inverse
        return electrons if inverse is None else electrons @ inverse.T

    def _passed(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the electrons of each element's full input [slots, length], and of dark inputs."""
        optics, response = self._optics, self._optics.response
        lit = optics.pairs_e * optics.light["weight"][levels]
        passed = lit + optics.pairs_e * response.weight_leak[:, None]
        dark = response.offset_e + response.input_leak * passed.sum(axis=1)
        if optics.reach is not None:
            passed = passed + lit @ optics.reach
        return passed.astype(np.float32), dark

    def _brightness(self, shown: list[np.ndarray], frame: int, count: int) -> np.ndarray | None:
        """Return the brightness of each shot over its expected one, float32 [input frames]."""
        if not self._source_rms and self._drift is None:
            return None
        vector = np.zeros(count, dtype=np.intp)  # that names the shot: the one at its first place
        for vectors in reversed(shown):
            vector[: len(vectors)] = vectors
        factors = np.ones(count, dtype=np.float32)
        for exposure in (0, 1):
            own = self._exposure[vector] == exposure
            if own.any() and self._source_rms:
                keys = NoiseKeys(self._key, self._ids[vector[own]], self._segment)
                z = source_normals(keys, exposure, frame + 1)[:, frame]
                factors[own] += np.float32(self._source_rms) * z
        if self._drift is not None:
            factors *= self._drift.factors(self._ids[vector]).astype(np.float32)
        return factors

    # --- noise -----------------------------------------------------------------------------------

    def _noise_of_readings(self, outputs: int, rails: int) -> np.ndarray:
        """Return a standard normal number of each vector and row of the weights, float32."""
        noise = np.empty((len(self._ids), outputs, rails), dtype=np.float32)
        for exposure in range(int(self._exposure.max()) + 1):
            own = self._exposure == exposure
            keys = NoiseKeys(self._key, self._ids[own], self._segment)
            for rail in range(rails):
                noise[own, :, rail] = normals(keys, exposure * rails + rail, outputs)
        return noise.reshape(len(noise), -1)

    def _add_noise(
        self, electrons: np.ndarray, weights: WeightFrame, shown: list[np.ndarray]
    ) -> None:
        """Add shot noise and read noise to the slots of a frame's rows, in place."""
        rows, dark = weights.rows, self._optics.model.dark_variance.astype(np.float32)
        shares = self._optics.model.layout.shares_input
        for place, vectors in enumerate(shown):
            own = slice(None) if shares else rows.place == place
            slots, row = rows.slots[own], rows.row[own]
            mean = electrons[: len(vectors), slots]
            z = self._noise[vectors[:, None], row]
            noisy = mean + np.sqrt(np.maximum(mean, 0) + dark[slots]) * z
            weak = mean < POISSON_BELOW
            if weak.any():
                noisy[weak] = (
                    self._counted(mean, weak, vectors, row) + (np.sqrt(dark[slots]) * z)[weak]
                )
            electrons[: len(vectors), slots] = noisy

    def _counted(
        self, mean: np.ndarray, weak: np.ndarray, vectors: np.ndarray, row: np.ndarray
    ) -> np.ndarray:
        """Draw the photoelectrons of weak readings."""
        shot, place = np.nonzero(weak)
        vector, rails = vectors[shot], self._product.weights.rails
        output, rail = np.divmod(row[place], rails)
        counts = np.empty(len(shot), dtype=np.float32)
        for reading in range(2 * rails):
            own = self._exposure[vector] * rails + rail == reading
            if own.any():
                name = tag(self._segment, reading, COUNT)
                words = random_words(
                    self._key, self._ids[vector[own]], name, output[own].astype(np.uint64)
                )
                light = np.maximum(mean[shot[own], place[own]], 0)
                counts[own] = poisson(light.astype(np.float32), words)
        return counts


def _neighbours(electrons: np.ndarray, kernel: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the light that falls into slots [shots, slots] from their neighbours."""
    rows, columns = grid
    light = electrons.reshape(-1, rows, columns)
    total = np.zeros_like(light)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            to = slice(max(i, 0), rows + min(i, 0)), slice(max(j, 0), columns + min(j, 0))
            of = slice(max(-i, 0), rows + min(-i, 0)), slice(max(-j, 0), columns + min(-j, 0))
            total[:, *to] += np.float32(kernel[i + 1, j + 1]) * light[:, *of]
    return total.reshape(electrons.shape)
