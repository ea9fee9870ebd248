"""`RowBlock`: some input rows times one segment of weights: sums, readings and scaling.

It serves every bench, in numpy or with compiled readings; `whole_product` serves most benches in
one compiled call, with the same bits. Blocks are independent of other rows, so a batch may be
divided anywhere and any thread may compute a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from threading import Lock

import numpy as np

from ...instruments.environment import run_all
from ..address import exposure_ids
from . import LOOPS, compiled_loops
from .detection import (
    Block,
    Converter,
    CrossTerms,
    Detector,
    as_record,
    noise_free,
    read_segment,
)
from .encoding import encode_rows
from .integer_products import multiply, panels
from .noise import NoiseKeys, quantiles, source_normals
from .parameters import MockParameters
from .weight_segment import InputExposure, WeightSegment

_PIECE_VALUES = 1 << 17  # that numpy reads at a time


class ReadingStats:
    """The counts of one product; blocks of several threads add to them.

    Attributes
    ----------
    photons : of each row, float64 [segments, matrices, n]
    second : rows of each segment and matrix that need a second exposure, int64
    """

    def __init__(self, segments: int, matrices: int, rows: int) -> None:
        self.photons = np.zeros((segments, matrices, rows))
        self.second = np.zeros((segments, matrices), dtype=np.int64)
        self.saturated = 0
        self.seconds = {"encode": 0.0, "product": 0.0, "decode": 0.0}
        self.lock = Lock()


class RowBlock:
    """Rows x [n, columns of all segments] of one matrix times one segment.

    Parameters
    ----------
    converter : of these outputs, [M] each; None if nothing is read
    noise : of these rows and this segment; None likewise
    """

    def __init__(
        self,
        parameters: MockParameters,
        x: np.ndarray,
        segment: WeightSegment,
        matrix: int,
        converter: Converter | None = None,
        noise: NoiseKeys | None = None,
    ) -> None:
        start = time.perf_counter()
        self._parameters, self._detector = parameters, parameters.detector
        self._segment, self._matrix, self._noise = segment, matrix, noise
        profile, weights = parameters.profile, segment.weights
        self._outputs = weights.shape[1]
        self._rows = encode_rows(
            x, weights.first, weights.last, profile, segment.is_fine, segment.largest
        )
        self._minus = np.zeros(len(x), dtype=bool)
        self._exposures = segment.exposures[:1]
        if len(segment.exposures) == 2:
            self._minus = self._rows.has_negative
            if self._minus.any():
                self._exposures = segment.exposures
        self._photons = np.zeros(len(x))
        self._electrons = self._electrons_per_pair() if profile.has_light else None
        units = self._detector.gain * segment.exposures[0].rules[0].unit
        scale = self._rows.scale
        if profile.encoding == "offset":
            scale = scale * self._detector.gain
        self._terms = self._detector.row_terms(self._electrons, scale, units)
        self._frame = parameters.geometry.outputs or self._outputs
        unread = np.empty(self._outputs, dtype=np.float32)
        self._converter = converter or Converter(unread, unread, unread)
        self._source = np.empty((self._detector.exposures, len(x), 0), dtype=np.float32)
        if noise is not None and (parameters.drift or profile.source_rms):
            self._source = self._factors(noise)
        self._cross = self._cross_terms()
        self._seconds = time.perf_counter() - start

    def count(self, stats: ReadingStats, index: int, rows: slice) -> None:
        """Add the counts of segment `index` that do not depend on the noise."""
        second = int(self._minus.sum())
        stats.photons[index, self._matrix, rows] = self._photons
        with stats.lock:
            stats.second[index, self._matrix] += second
            stats.seconds["encode"] += self._seconds

    def panels(self, threads: int) -> list[tuple[int | None, slice]]:
        """Divide the outputs into panels; numpy reads all outputs at once."""
        operand = self._segment.exposures[0].rules[0].operand
        if not LOOPS.is_used:
            return [(None, slice(0, operand.shape[1]))]
        return panels(self._rows.rows, operand, threads)

    def read(
        self,
        y: np.ndarray,
        panel: int | None,
        place: slice,
        add: bool,
        stats: ReadingStats,
        threads: int,
    ) -> None:
        """Read a panel of outputs, scale them, and store them in y [n, M] or add them to it.

        Without compiled code, several threads share it.
        """
        start = time.perf_counter()
        block = self.block(panel, place)
        product = time.perf_counter()
        noise = self._noise if self._electrons is not None else None
        if LOOPS.is_used and not self._detector.is_ideal:
            saturated = _read_compiled(y, add, block, self._detector, noise)
        else:
            saturated = _read_in_pieces(y[:, place], add, block, self._detector, noise, threads)
        if self._cross is not None:
            _add_cross(y, place, self._cross)
        with stats.lock:
            stats.saturated += saturated
            stats.seconds["product"] += product - start
            stats.seconds["decode"] += time.perf_counter() - product

    def block(self, panel: int | None, place: slice) -> Block:
        """Return the sums of light of a panel of outputs, and what reads them."""
        matrix, rows, sums, row_light = self._matrix, self._rows, [], []
        for exposure in self._segment.exposures:
            lit_sums = rows.sums_of(exposure.lit)
            last = None
            for rule in exposure.rules:
                light = rule.per_sum * lit_sums
                row_light.append((light + rule.dark if rule.dark else light).astype(np.float32))
                if rule.operand is not last:  # both rails of push-pull share it
                    last = rule.operand
                    sums.append(multiply(rows.rows, exposure.variant, last, matrix, panel, place))
                if rule.light is not None and self._electrons is not None:
                    lit = multiply(rows.rows, exposure.lit, rule.light, matrix, panel, place)
                    sums.append(lit)
        rules = self._segment.exposures[0].rules
        return Block(
            place.start,
            sums,
            (rules[0].units[0], rules[-1].units[0]),
            rules[0].units[1:],
            np.array(row_light),
            self._terms,
            np.array([rule.light_term[matrix, place] for rule in rules]),
            self._minus,
            self._source,
            self._frame,
            self._converter.of(place),
        )

    def largest(self, panel: int | None, place: slice) -> np.ndarray:
        """Return the largest noise-free magnitude of each row and output: float32 [n, width]."""
        block = self.block(panel, place)
        largest = np.zeros(block.sums[0].shape, dtype=np.float32)
        for reading in range(self._detector.rails * self._detector.exposures):
            value = np.abs(noise_free(block, self._detector, reading)[0])
            if reading >= self._detector.rails:  # in the exposure of x-
                value *= block.minus[:, None]
            np.maximum(largest, value, out=largest)
        return largest

    def _electrons_per_pair(self) -> np.ndarray | float:
        """Return P, the electrons of one element pair at full transmission, or P per row [n]."""
        profile, segment = self._parameters.profile, self._segment
        light = self._total(self._light)
        if profile.photons_full_scale is not None:
            self._photons = profile.photons_full_scale * light
            return profile.photons_full_scale
        if profile.photons_entering_per_mac is not None:
            base, wanted = self._total(self._entering), profile.photons_entering_per_mac
        else:
            base, wanted = light, (profile.photons_per_mac or 0.0) * self._outputs
        is_lit = base > 0
        wanted *= segment.length
        electrons = np.divide(wanted, base, out=np.ones_like(base), where=is_lit)
        self._photons = electrons * light * is_lit
        return np.asarray(electrons)

    def _total(self, of_exposure: Callable[[InputExposure], np.ndarray]) -> np.ndarray:
        """Return the sum over the exposures of each row, float64 [n]."""
        total = of_exposure(self._segment.exposures[0])
        for exposure in self._exposures[1:]:
            total = total + np.where(self._minus, of_exposure(exposure), 0.0)
        return total

    def _entering(self, exposure: InputExposure) -> np.ndarray:
        """Return the light that enters one rail of weights, in element pairs: float64 [n]."""
        segment = self._segment
        leak = 2 * segment.leak if exposure.lit == "magnitude" else segment.leak
        return segment.unit * self._rows.sums_of(exposure.lit) + leak * segment.length

    def _light(self, exposure: InputExposure) -> np.ndarray:
        """Return the total light of the rows of an exposure, in element pairs: float64 [n]."""
        sums = self._rows.sums_of(exposure.lit)
        light = exposure.per_sum * sums + exposure.constant[self._matrix]
        if exposure.columns is not None:
            columns = exposure.columns[self._matrix]
            light += exposure.unit * self._rows.sums_with(columns, exposure.lit)
        return light

    def _factors(self, noise: NoiseKeys) -> np.ndarray:
        """Return the brightness of each exposure's frames: float32 [exposures, n, frames].

        The fluctuation is new in every exposure, and common to the rows that share it; the drift
        depends on the row's time.
        """
        profile, outputs = self._parameters.profile, self._outputs
        drift, geometry = self._parameters.drift, self._parameters.geometry
        frames = -(-outputs // (geometry.outputs or outputs))
        factors = np.ones((self._detector.exposures, len(noise.rows), frames), dtype=np.float32)
        if profile.source_rms:
            exposures = noise._replace(rows=exposure_ids(noise.rows, geometry.vectors))
            for number in range(self._detector.exposures):
                z = source_normals(exposures, number, frames)
                factors[number] += np.float32(profile.source_rms) * z
        if drift is not None:
            factors *= drift.factors(noise.rows)[:, None].astype(np.float32)
        return factors

    def _cross_terms(self) -> CrossTerms | None:
        """Return the digital correction; None without.

        For the offset encoding x0 sum(w) + w0 sum(x) - K x0 w0. With successive readings, a row
        with only the exposure of x+ keeps a leak that the exposure of x- would cancel.
        """
        x, segment, matrix = self._rows, self._segment, self._matrix
        weights = segment.weights
        if self._parameters.profile.encoding == "offset":
            total, low = weights.total[matrix], weights.low[matrix]
            return CrossTerms(x.low, total, x.total - segment.length * x.low, low)
        if not segment.is_split or not segment.leak:
            return None
        is_single = ~self._minus
        if not is_single.any():
            return None
        plus, minus = (rail.sums(matrix) for rail in weights.rails)
        leaked = segment.leak / self._detector.gain * (plus - minus) * weights.scale[matrix]
        zeros = np.zeros_like(leaked)
        return CrossTerms(-x.scale * is_single, leaked, np.zeros_like(x.scale), zeros)


def _read_compiled(
    y: np.ndarray, add: bool, block: Block, detector: Detector, noise: NoiseKeys | None
) -> int:
    """Read a block by compiled loops."""
    if noise is None:
        nothing = np.zeros(0, dtype=np.uint64)
        noise = NoiseKeys(nothing, nothing, 0)
    plain = (np.stack(block.sums), tuple(block.converter), *block[:1], *block[2:-2])
    loops = compiled_loops()
    constants = as_record(detector)
    return int(loops.read_block(y, add, plain, constants, tuple(noise), quantiles()))


def _read_in_pieces(
    y: np.ndarray,
    add: bool,
    block: Block,
    detector: Detector,
    noise: NoiseKeys | None,
    threads: int,
) -> int:
    """Read a block in numpy, some rows at a time."""
    saturated = []

    def read_piece(rows: slice) -> None:
        own = None if noise is None else noise._replace(rows=noise.rows[rows])
        saturated.append(read_segment(y[rows], add, block.of_rows(rows), detector, own))

    step = max(1, min(_PIECE_VALUES // y.shape[1], -(-len(y) // threads)))
    pieces = [slice(first, first + step) for first in range(0, len(y), step)]
    run_all([partial(read_piece, rows) for rows in pieces], threads)
    return sum(saturated)


def _add_cross(y: np.ndarray, place: slice, cross: CrossTerms) -> None:
    a, p, b, q = cross.a, cross.p[place], cross.b, cross.q[place]
    if LOOPS.is_used:
        compiled_loops().add_cross(y, place.start, CrossTerms(a, p, b, q))
        return
    step = max(1, _PIECE_VALUES // y.shape[1])
    for first in range(0, len(y), step):
        part = slice(first, first + step)
        y[part, place] = y[part, place] + a[part, None] * p + b[part, None] * q
