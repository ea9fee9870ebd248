"""`RowBlock`: some input rows times one segment of weights: sums, readings and scaling.

Blocks are independent of other rows, so a batch may be divided anywhere and any thread may compute
a block.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from threading import Lock, local
from typing import Any

import numpy as np

from ...instruments.environment import run_all
from ..address import exposure_ids
from . import LOOPS, compiled_loops
from .detection import Converter, CrossTerms, LeftOutputs, Reading, noise_free, read
from .encoding import encode_rows
from .integer_products import multiply, panels
from .noise_streams import NoiseStreams
from .parameters import MockParameters
from .weight_segment import InputExposure, WeightSegment

_PIECE_VALUES = 1 << 18  # that numpy reads at a time
_THREAD = local()


class ReadingStats:
    """The counts of one product; blocks of several threads add to them."""

    def __init__(self, matrices: int, segments: int) -> None:
        self.photons: list[float] = []
        self.saturated = self.conversions = 0
        self.second = [[0] * matrices for _ in range(segments)]
        """Rows that needed a second exposure."""
        self.seconds = {"encode": 0.0, "product": 0.0, "decode": 0.0}
        self.lock = Lock()


class RowBlock:
    """Rows x [n, columns of all segments] of one matrix times one segment.

    Parameters
    ----------
    converter : of these outputs, [M] each; None if nothing is read
    streams : of these rows and this segment; None likewise
    """

    def __init__(
        self,
        parameters: MockParameters,
        x: np.ndarray,
        segment: WeightSegment,
        matrix: int,
        converter: Converter | None = None,
        streams: NoiseStreams | None = None,
    ) -> None:
        start = time.perf_counter()
        self._parameters, self._detector = parameters, parameters.detector
        self._segment, self._matrix, self._streams = segment, matrix, streams
        profile, weights = parameters.profile, segment.weights
        self._outputs = weights.shape[1]
        self._rows = encode_rows(
            x, weights.first, weights.last, profile, segment.is_fine, segment.largest
        )
        self._shown: list[tuple[InputExposure, np.ndarray | None]] = [(segment.exposures[0], None)]
        for exposure in segment.exposures[1:]:
            negative = self._rows.has_negative
            if negative.any():
                self._shown.append((exposure, None if negative.all() else negative))
        self._compiled = LOOPS.is_used and profile.readout_range != "ideal"
        self._photons = 0.0
        self._electrons = self._electrons_per_pair() if profile.has_light else None
        self._terms = self._row_terms()
        self._frame = parameters.geometry.outputs or self._outputs
        unread = np.empty(self._outputs, dtype=np.float32)
        self._converter = converter or Converter(unread, unread, unread)
        no_source = np.empty((len(x), 0), dtype=np.float32)
        self._sources = [no_source] * len(self._shown)
        if streams is not None and (parameters.drift or profile.source_rms):
            self._sources = [self._source(streams, i) for i in range(len(self._shown))]
        self._cross = self._cross_terms()
        self._seconds = time.perf_counter() - start

    def count(self, stats: ReadingStats, index: int) -> None:
        """Add the counts of segment `index` that do not depend on the noise."""
        shown = [
            len(self._rows.scale) if rows is None else int(rows.sum()) for _, rows in self._shown
        ]
        outputs = self._outputs * (2 if self._segment.is_split else 1)
        with stats.lock:
            stats.photons.append(self._photons)
            stats.conversions += outputs * sum(shown)
            stats.second[index][self._matrix] += sum(shown[1:])
            stats.seconds["encode"] += self._seconds

    def panels(self, threads: int) -> list[tuple[int | None, slice]]:
        """Divide the outputs into panels; numpy reads all outputs at once."""
        operand = self._segment.exposures[0].rules[0].operand
        if not self._compiled:
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
        product, decode, saturated = 0.0, 0.0, 0
        last = time.perf_counter()
        space = None if add or self._segment.is_split else y  # a single reading is in place
        for purpose, reading in self.readings(panel, place, space):
            now = time.perf_counter()
            product += now - last
            if self._compiled:
                saturated += self._read_compiled(y, reading, purpose, add)
            else:
                saturated += self._read_in_pieces(y, reading, purpose, add, threads)
            add = True
            last = time.perf_counter()
            decode += last - now
        if self._cross is not None:
            _add_cross(y, place, self._cross)
            decode += time.perf_counter() - last
        with stats.lock:
            stats.saturated += saturated
            stats.seconds["product"] += product
            stats.seconds["decode"] += decode

    def readings(
        self, panel: int | None, place: slice, out: np.ndarray | None = None
    ) -> Iterator[tuple[str, Reading]]:
        """Yield every reading of a panel of outputs, with the name of its random stream.

        Parameters
        ----------
        out : float32 [n, M], unused space for the first product
        """
        matrix, rows, number = self._matrix, self._rows.rows, 0
        converter = self._converter.of(place)
        for (exposure, _), source in zip(self._shown, self._sources, strict=True):
            signed, last = None, None
            for rule in exposure.rules:
                if rule.operand is not last:  # both rails of push-pull share it
                    last = rule.operand
                    signed = multiply(rows, exposure.variant, last, matrix, panel, place, out)
                    out = None
                assert signed is not None
                light = signed[:, :0]
                if rule.light is not None and self._electrons is not None:
                    light = multiply(rows, exposure.lit, rule.light, matrix, panel, place)
                yield (
                    rule.purpose,
                    Reading(
                        place.start,
                        signed,
                        light,
                        rule.units,
                        self._terms[number],
                        rule.light_term[matrix, place],
                        source,
                        self._frame,
                        converter,
                    ),
                )
                number += 1

    def _row_terms(self) -> list[np.ndarray]:
        """Return `Detector.row_terms` of every reading."""
        x, terms = self._rows, []
        scale = x.scale
        if self._parameters.profile.encoding == "offset":
            scale = scale * self._detector.gain
        for exposure, rows in self._shown:
            sums = x.sums_of(exposure.lit)
            times = scale if rows is None else scale * rows
            for rule in exposure.rules:
                light = rule.per_sum * sums
                if rule.dark:
                    light += rule.dark
                signed = times if rule.sign == 1 else -times
                units = self._detector.gain * rule.unit
                terms.append(self._detector.row_terms(light, self._electrons, signed, units))
        return terms

    def _read_compiled(self, y: np.ndarray, reading: Reading, purpose: str, add: bool) -> int:
        """Read in one compiled pass; numpy reads weak light and nearly full detectors."""
        assert self._streams is not None
        width, detector = len(reading.converter.scale), self._detector
        left = _scratch(len(y) * width if self._electrons is not None else 0)
        keys = self._streams.keys(purpose, y.shape[1])
        saturated, count = compiled_loops().read_block(
            y, add, reading.plain(), tuple(detector), tuple(keys), tuple(left)
        )
        if not count:
            return int(saturated)
        places, z, words = (values[:count].copy() for values in left)
        row, output = np.divmod(places, width)
        value, also_saturated = read(
            reading.of(row, output),
            z[:, None],
            lambda mask: np.asarray(words[:, None][mask]),
            detector,
        )
        y[row, reading.first + output] += value[:, 0]
        return int(saturated + also_saturated)

    def _read_in_pieces(
        self, y: np.ndarray, reading: Reading, purpose: str, add: bool, threads: int
    ) -> int:
        """Read all outputs, some rows at a time, in numpy."""
        assert self._streams is not None
        streams, outputs, saturated = self._streams, y.shape[1], []
        shown = np.flatnonzero(reading.rows[6])
        if not add and len(shown) < len(y):
            y[reading.rows[6] == 0] = 0

        def read_piece(rows: np.ndarray) -> None:
            space = _scratch(len(rows) * outputs).z[: len(rows) * outputs]
            part: Any = slice(rows[0], rows[-1] + 1) if len(shown) == len(y) else rows
            piece = reading.of_rows(part)
            if self._parameters.profile.readout_range == "ideal":
                piece = self._with_ideal_range(piece)
            ids, z = streams.rows[part], None
            if self._electrons is not None:
                z = streams.gaussian(purpose, ids, outputs, space.reshape(len(ids), outputs))

            def words(mask: np.ndarray) -> np.ndarray:
                return np.asarray(streams.words(purpose, ids, outputs)[mask])

            out = y[part] if isinstance(part, slice) and not add else None
            value, some = read(piece, z, words, self._detector, out)
            saturated.append(some)
            if add:
                y[part] += value
            elif out is None:
                y[part] = value

        step = max(1, min(_PIECE_VALUES // outputs, -(-len(shown) // threads)))
        pieces = [shown[first : first + step] for first in range(0, len(shown), step)]
        run_all([partial(read_piece, rows) for rows in pieces], threads)
        return sum(saturated)

    def _with_ideal_range(self, reading: Reading) -> Reading:
        """Fix the converter's range from the noise-free values of each row (unphysical)."""
        steady = reading._replace(source=reading.source[:, :0])
        value, _ = noise_free(steady, self._detector)
        largest = np.abs(value).max(axis=1, keepdims=True)
        limit = np.where(largest > 0, largest, np.float32(1))
        steps = np.float32(2.0 ** (self._parameters.profile.readout_bits or 1) - 1)
        step = 2 * limit / steps
        converter = Converter(limit, 1 / step, reading.converter.scale, step)
        return reading._replace(converter=converter)

    def _electrons_per_pair(self) -> np.ndarray | float:
        """Return P, the electrons of one element pair at full transmission, or P per row [n]."""
        profile, segment, x = self._parameters.profile, self._segment, self._rows
        outputs = self._outputs
        if profile.photons_full_scale is not None:
            light = sum(float(self._light(*shown).sum()) for shown in self._shown)
            self._photons = profile.photons_full_scale * light
            return profile.photons_full_scale
        per_row, entering = np.zeros(len(x.scale)), np.zeros(len(x.scale))
        for exposure, rows in self._shown:
            place = ... if rows is None else rows
            per_row[place] += self._light(exposure, rows)
            entering[place] += self._entering(exposure)[place]
        if profile.photons_entering_per_mac is not None:
            wanted, base = profile.photons_entering_per_mac * segment.length, entering
        else:
            assert profile.photons_per_mac is not None
            wanted, base = profile.photons_per_mac * segment.length * outputs, per_row
        electrons = np.divide(wanted, base, out=np.ones_like(base), where=base > 0)
        self._photons = float((electrons * per_row)[base > 0].sum())
        return np.asarray(electrons)

    def _entering(self, exposure: InputExposure) -> np.ndarray:
        """Return the light that enters one rail of weights, in element pairs: float64 [n]."""
        segment = self._segment
        leak = 2 * segment.leak if exposure.lit == "magnitude" else segment.leak
        return segment.unit * self._rows.sums_of(exposure.lit) + leak * segment.length

    def _light(self, exposure: InputExposure, rows: np.ndarray | None) -> np.ndarray:
        """Return the total light of the rows of an exposure, in element pairs: float64 [n]."""
        sums = self._rows.sums_of(exposure.lit)
        light = exposure.per_sum * sums + exposure.constant[self._matrix]
        if exposure.columns is not None:
            columns = exposure.columns[self._matrix]
            light += exposure.unit * self._rows.sums_with(columns, exposure.lit)
        return light if rows is None else np.asarray(light[rows])

    def _source(self, streams: NoiseStreams, number: int) -> np.ndarray:
        """Return the brightness factor of each frame, common to its outputs: float32 [n, frames].

        The fluctuation is new in every exposure, and common to the rows that share it; the drift
        depends on the row's time.
        """
        profile, outputs = self._parameters.profile, self._outputs
        drift, geometry = self._parameters.drift, self._parameters.geometry
        frames = -(-outputs // (geometry.outputs or outputs))
        factors = np.ones((len(streams.rows), frames), dtype=np.float32)
        if profile.source_rms:
            exposures, of_row = np.unique(exposure_ids(streams.rows, geometry.vectors), False, True)
            z = streams.gaussian(f"source {number}", exposures, frames)[of_row]
            factors += np.float32(profile.source_rms) * z
        if drift is not None:
            factors *= drift.factors(streams.rows)[:, None].astype(np.float32)
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
        is_single = np.ones(len(x.scale), dtype=bool)
        for _, rows in self._shown[1:]:
            is_single &= False if rows is None else ~rows
        if not is_single.any():
            return None
        plus, minus = (rail.sums(matrix) for rail in weights.rails)
        leaked = segment.leak / self._detector.gain * (plus - minus) * weights.scale[matrix]
        zeros = np.zeros_like(leaked)
        return CrossTerms(-x.scale * is_single, leaked, np.zeros_like(x.scale), zeros)


def _add_cross(y: np.ndarray, place: slice, cross: CrossTerms) -> None:
    a, p, b, q = cross.a, cross.p[place], cross.b, cross.q[place]
    if LOOPS.is_used:
        compiled_loops().add_cross(y, place.start, CrossTerms(a, p, b, q))
        return
    step = max(1, _PIECE_VALUES // y.shape[1])
    for first in range(0, len(y), step):
        part = slice(first, first + step)
        y[part, place] = y[part, place] + a[part, None] * p + b[part, None] * q


def _scratch(count: int) -> LeftOutputs:
    """Return this thread's buffers for the outputs that the compiled pass leaves to numpy."""
    if count > getattr(_THREAD, "count", -1):
        _THREAD.count = count
        _THREAD.buffers = LeftOutputs(
            np.empty(count, np.int64), np.empty(count, np.float32), np.empty(count, np.uint64)
        )
    buffers: LeftOutputs = _THREAD.buffers
    return buffers
