"""`MockBackend`: the fast statistical model of a bench.

Range, quantisation, noise and read-out happen per tile and segment, as they would on the bench; the
formulas are those of docs/explanation/light.md. Nothing is taken from a whole batch: scales and
light belong to one input row, and noise to its address. Not here: time (`scheduler.timing`).

The path of one block of rows: encode -> exact integer products -> light of each exposure -> noise
-> full well -> converter -> decode. Arrays on the way are [m, n, M]: matrices (batched
dynamic operands, else one), rows, outputs.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .address import Address
from .base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from .encoding import EncodedRows, EncodedWeights, encode_rows, encode_weights
from .noise import POISSON_BELOW, Stream, poisson
from .products import exact_products
from .profile import OpticsProfile, load_profile
from .tiling import Geometry, tile_count

_BLOCK_VALUES = 1 << 18  # values of one [m, n, M] array that is worked on at a time


@dataclass(frozen=True)
class _Exposure:
    """Light of one exposure in element pairs at full transmission: sums over a
    segment, [m, n, M].

    `light` is what falls on both rails of an output, `signed` their difference; for the offset
    encoding both are the one rail. `sign` is that of the inputs shown; `rows`, bool [m, n, 1],
    tells which rows take this exposure (None: all).
    """

    sign: int
    light: np.ndarray | None
    signed: np.ndarray
    rows: np.ndarray | None = None


class MockBackend(Backend):
    """Multiplies as a bench with the given profile would, statistically.

    Parameters
    ----------
    profile : the bench's constants; None is the default profile
    seed : of the noise; same seed, profile, address and input give the same bits
    """

    name = "mock"
    is_mock = True

    def __init__(self, profile: OpticsProfile | None = None, seed: int = 0) -> None:
        super().__init__()
        self.profile = load_profile() if profile is None else profile
        self.seed = seed
        self.geometry = Geometry.of(self.profile)
        self._gain = 1.0  # g = (1 - f_x) (1 - f_w) of c = 1 / [P g]
        if self.profile.extinction_ratio and self.profile.extinction_model == "leak":
            self._gain = (1 - 1 / self.profile.extinction_ratio) ** 2

    def describe(self) -> Mapping[str, Any]:
        """Give name, profile and seed, for the record of a run."""
        return {**super().describe(), "profile": self.profile.model_dump(), "seed": self.seed}

    def observe(self, x: np.ndarray, w: PreparedWeights, valid: np.ndarray | None) -> np.ndarray:
        """Give the largest noise-free value that each output shows its converter.

        Parameters
        ----------
        x : float [..., N, K]
        w : prepared weights
        valid : bool, broadcastable to [..., N, M]; False marks masked positions, which never
            enter a range

        Returns
        -------
        largest : float64 [matrices, segments, M], in units of y after scaling
        """
        matrices = len(w.content[0].integers)
        x = np.asarray(x, dtype=np.float32).reshape(matrices, -1, w.shape[-1])
        shape = (matrices, x.shape[1], w.shape[-2])
        mask = np.broadcast_to(True, shape)
        if valid is not None:
            mask = np.broadcast_to(valid, (*w.shape[:-2], *shape[1:])).reshape(shape)
        largest = np.zeros((matrices, len(w.content), shape[-1]))
        for index, segment in enumerate(w.content):
            for block in self._blocks(x, segment):
                part, piece = block.of(x, segment)
                for exposure in self._sums(encode_rows(part, self.profile), piece):
                    for value in self._readings(exposure):
                        seen = np.where(mask[block.place], np.abs(value) / self._gain, 0)
                        peak = largest[block.matrices, index]
                        np.maximum(peak, seen.max(axis=1, initial=0), out=peak)
        return largest

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[EncodedWeights]:
        return encode_weights(weights.reshape(-1, *weights.shape[-2:]), self.profile, ranges)

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        y = np.zeros((*x.shape[:2], w.shape[-2]), dtype=np.float32)
        stats = Stats(macs=x.size * w.shape[-2])
        readout = None
        if w.ranges is not None and isinstance(self.profile.readout_range, str):
            readout = w.ranges.readout.reshape(-1, *w.ranges.readout.shape[-2:])
            readout = np.tile(readout, (len(x) // len(readout), 1, 1))
        for index, segment in enumerate(w.content):
            limit = segment.bound
            if self.profile.readout_range == "per-matmul":
                limit = limit.max(axis=(1, 2), initial=0, keepdims=True)
            if readout is not None:
                place = min(index, readout.shape[1] - 1)
                limit = readout[:, place : place + 1]
            self._segment(x, segment, index, limit, at, y, stats)
        self._count_frames(x, w, stats)
        return MatmulResult(y, stats)

    def _segment(
        self,
        x: np.ndarray,
        segment: EncodedWeights,
        index: int,
        limit: np.ndarray,
        at: Address,
        y: np.ndarray,
        stats: Stats,
    ) -> None:
        """Add one segment's part of x [m, N, K] W^T to y [m, N, M]."""
        stats.saturated += segment.saturated
        clock = _Clock(stats)
        for block in self._blocks(x, segment):
            part, piece = block.of(x, segment)
            encoded = encode_rows(part, self.profile)
            clock.lap("encode")
            exposures = self._sums(encoded, piece)
            clock.lap("product")
            stream = _Streams(self.seed, at, index, at.rows[block.place])
            scaled = self._detect(exposures, piece, limit[block.matrices], stream, stats)
            scaled -= self._leaked(piece, exposures)
            y[block.place] += self._decode(scaled, encoded, piece)
            clock.lap("decode")

    def _blocks(self, x: np.ndarray, segment: EncodedWeights) -> Iterator["_Block"]:
        """Cut the rows of x [m, N, K] into blocks that stay in cache."""
        matrices, rows, _ = x.shape
        outputs = max(segment.integers.shape[1], 1)
        if matrices > 1 and rows:
            step = max(1, _BLOCK_VALUES // (rows * outputs))
            yield from (_Block(slice(i, i + step), slice(None)) for i in range(0, matrices, step))
        else:
            step = max(32, _BLOCK_VALUES // outputs)
            yield from (_Block(slice(None), slice(i, i + step)) for i in range(0, rows, step))

    def _sums(self, x: EncodedRows, w: EncodedWeights) -> list[_Exposure]:
        """Give the sums of light: exact integer products, and row and column sums."""
        length, integers = w.last - w.first, x.integers
        units = x.unit * w.unit
        x_sums = integers.sum(axis=-1, dtype=np.float64, keepdims=True)
        x_sums_abs = np.abs(integers).sum(axis=-1, dtype=np.float64, keepdims=True)
        per_reading = self.profile.detection == "per-reading"
        offset = self.profile.encoding == "offset"
        has_negative = x_sums != x_sums_abs
        one_sign = not has_negative.any()  # then |X| is X, and its products need no repeating
        absolute = "x" if one_sign else "o"
        flat = w.light_unit == 0  # both rails together pass the same light whatever W is
        needs_light = not offset and (
            per_reading or self.profile.has_light or self.profile.readout_range == "ideal"
        )
        wanted = {"xw"}
        if needs_light and not flat:
            wanted |= {f"{absolute}a"} | ({"xa"} if per_reading else set())
        if per_reading and not offset:
            wanted.add(f"{absolute}w")
        products = exact_products(
            integers, w.integers, w.light, x.magnitude * w.magnitude, tuple(sorted(wanted))
        )
        signed = products["xw"] * units
        if offset:
            constant = w.leak * x.unit * x_sums + x.leak * w.unit * w.sums
            signed += (constant + x.leak * w.leak * length).astype(signed.dtype)
            return [_Exposure(1, signed, signed)]
        if not needs_light:
            return [_Exposure(1, None, signed)]

        def light(name: str, sums: np.ndarray) -> np.ndarray:
            """Sum t1 X (or |X|) times the light of W."""
            constant = (w.leak * x.unit * sums).astype(signed.dtype)
            if flat:
                return np.broadcast_to(constant, signed.shape)
            return np.asarray(products[name] * (x.unit * w.light_unit) + constant)

        # row sums of the light and of W
        leaked_light = (w.leak * length + w.light_unit * w.light_sums).astype(signed.dtype)
        leaked_signed = (w.unit * w.sums).astype(signed.dtype)
        both = light(f"{absolute}a", x_sums_abs) + x.leak * leaked_light
        if not per_reading:
            return [_Exposure(1, both, signed)]
        difference = light("xa", x_sums)
        both_signed = products[f"{absolute}w"] * units + x.leak * leaked_signed
        first = _Exposure(1, (both + difference) / 2, (both_signed + signed) / 2)
        if one_sign:
            return [first]
        rest = ((both - difference) / 2, (both_signed - signed) / 2)
        if not has_negative.all():  # rows without negative values take only the first exposure
            rest = (rest[0] * has_negative, rest[1] * has_negative)
        return [first, _Exposure(-1, *rest, rows=has_negative)]

    def _readings(self, exposure: _Exposure) -> list[np.ndarray]:
        """Give what is converted in one exposure, in element pairs: [m, n, M] each."""
        if self.profile.detection == "balanced" or self.profile.encoding == "offset":
            return [exposure.signed]
        assert exposure.light is not None
        return [(exposure.light + sign * exposure.signed) / 2 for sign in (1, -1)]

    def _leaked(
        self, segment: EncodedWeights, exposures: list[_Exposure]
    ) -> np.ndarray | np.float32:
        """Give what x+ alone adds through the modulator's leak, in units of y; x- would undo it."""
        one_rail = self.profile.encoding == "offset" or self.profile.detection == "balanced"
        if one_rail or self._gain == 1.0:
            return np.float32(0)
        leak = 1 - self._gain**0.5
        leaked = np.asarray(leak * segment.unit * segment.sums / self._gain, dtype=np.float32)
        if len(exposures) == 1:
            return leaked
        assert exposures[1].rows is not None
        return np.where(exposures[1].rows, np.float32(0), leaked)

    def _detect(
        self,
        exposures: list[_Exposure],
        segment: EncodedWeights,
        limit: np.ndarray,
        stream: "_Streams",
        stats: Stats,
    ) -> np.ndarray:
        """Turn light into counts and counts into the signed sum, in units of y after scaling."""
        profile = self.profile
        shape = exposures[0].signed.shape
        electrons = self._electrons_per_pair(exposures, segment)
        offset = profile.encoding == "offset"
        balanced = profile.detection == "balanced" and not offset
        if electrons is not None:
            stats.photons += float(sum((e.light * electrons).sum(dtype=np.float64)
                                       for e in exposures if e.light is not None))  # fmt: skip
        detected = np.zeros(shape, dtype=np.float32)
        for number, exposure in enumerate(exposures):
            fluctuation = self._source(stream, number, shape)
            readings = self._readings(exposure)
            for rail, mean in enumerate(readings):
                light = exposure.light if balanced else mean
                if fluctuation is not None:
                    mean = mean * fluctuation
                    light = None if light is None else light * fluctuation
                value = mean / self._gain
                if electrons is not None:
                    assert light is not None
                    purpose = f"reading {exposure.sign} {rail}"
                    value = self._counts(
                        mean, light, electrons, balanced, stream, purpose, stats
                    ) / (electrons * self._gain)
                ideal = None
                if profile.readout_range == "ideal":
                    ideal = np.abs(readings[rail]).max(axis=-1, keepdims=True) / self._gain
                value = self._convert(
                    value, self._range(limit, ideal), electrons, balanced, stats
                )
                factor: Any = np.float32(exposure.sign * (1 - 2 * rail))
                stats.conversions += value.size
                if exposure.rows is not None:
                    factor = factor * exposure.rows
                    stats.conversions -= int((~exposure.rows).sum()) * shape[-1]
                detected += value.astype(np.float32) * factor
        return detected

    def _electrons_per_pair(
        self, exposures: list[_Exposure], segment: EncodedWeights
    ) -> np.ndarray | None:
        """Give P, the electrons of one element pair at full transmission, per row: [m, n, 1]."""
        matrices, rows, outputs = exposures[0].signed.shape
        if self.profile.photons_full_scale is not None:
            return np.full((1, 1, 1), self.profile.photons_full_scale, dtype=np.float32)
        if self.profile.photons_per_mac is None:
            return None
        total = np.zeros((matrices, rows, 1))
        for exposure in exposures:
            assert exposure.light is not None
            total += exposure.light.sum(axis=-1, keepdims=True, dtype=np.float64)
        wanted = self.profile.photons_per_mac * outputs * (segment.last - segment.first)
        electrons = np.divide(wanted, total, out=np.ones_like(total), where=total > 0)
        return electrons.astype(np.float32)

    def _source(
        self, stream: "_Streams", exposure: int, shape: tuple[int, ...]
    ) -> np.ndarray | None:
        """Give the source's factor, common to the outputs of one frame and exposure: [m, n, M]."""
        if not self.profile.source_rms:
            return None
        frame = self.geometry.outputs or shape[-1]
        z = stream.gaussian(f"source {exposure}", -(-shape[-1] // frame))
        z = np.repeat(z, frame, axis=-1)[..., : shape[-1]]
        return 1 + np.float32(self.profile.source_rms) * z

    def _counts(
        self,
        mean: np.ndarray,
        light: np.ndarray,
        electrons: np.ndarray,
        balanced: bool,
        stream: "_Streams",
        purpose: str,
        stats: Stats,
    ) -> np.ndarray:
        """Give detected electrons (a difference of two detectors if balanced), dark subtracted."""
        profile = self.profile
        detectors = 2 if balanced else 1
        dark = profile.dark_e or 0.0
        read_variance = (profile.read_noise_e or 0.0) ** 2
        if dark and profile.dark_frames:
            read_variance += detectors * dark / profile.dark_frames
        signal, arrived = mean * electrons, light * electrons
        full_well = np.inf if profile.full_well_e is None else profile.full_well_e - dark
        if balanced and np.isfinite(full_well) and (arrived > full_well).any():
            # a photodiode that fills up adds no more: the difference misses what is above
            sides = [(arrived + sign * signal) / 2 for sign in (1, -1)]
            stats.saturated += int(sum(np.count_nonzero(side > full_well) for side in sides))
            plus, minus = (np.minimum(side, full_well) for side in sides)
            signal, arrived = plus - minus, plus + minus
        variance = np.maximum(arrived, 0) + (detectors * dark + read_variance)
        z = stream.gaussian(purpose, mean.shape[-1])
        counts: np.ndarray = signal + np.sqrt(variance) * z
        weak = arrived + detectors * dark < POISSON_BELOW
        if weak.any():
            words = stream.words(f"{purpose} photons", mean.shape[-1])[weak]
            exact = np.sqrt(read_variance) * z[weak].astype(np.float64)
            if balanced:
                plus = np.maximum((arrived + signal)[weak] / 2, 0) + dark
                minus = np.maximum((arrived - signal)[weak] / 2, 0) + dark
                exact += poisson(plus, words) - poisson(minus, ~words)
            else:
                exact += poisson(np.maximum(arrived[weak], 0) + dark, words) - dark
            counts[weak] = exact
        if not balanced and np.isfinite(full_well):
            stats.saturated += int(np.count_nonzero(counts > full_well))
            np.minimum(counts, full_well, out=counts)
        return counts

    def _range(self, limit: np.ndarray, ideal: np.ndarray | None) -> np.ndarray | None:
        """Give the converter's range R, in units of y after scaling."""
        chosen = self.profile.readout_range
        if chosen is None:
            return None
        if isinstance(chosen, float):
            return np.asarray(chosen, dtype=np.float32)
        if ideal is not None:
            limit = ideal
        return np.where(limit > 0, limit, 1.0).astype(np.float32)

    def _convert(
        self,
        value: np.ndarray,
        limit: np.ndarray | None,
        electrons: np.ndarray | None,
        balanced: bool,
        stats: Stats,
    ) -> np.ndarray:
        """Saturate at the range and round to the converter's codes.

        Balanced: codes -2^(b-1) .. 2^(b-1) - 1 of step q = 2 R / (2^b - 1), zero among them.
        Per reading: from a dark pedestal of five sigma below zero up to R, in 2^b - 1 steps.
        """
        if limit is None:
            return value
        bits = self.profile.readout_bits
        lowest: Any = -limit
        if not balanced:
            lowest = np.zeros(())
            if electrons is not None:
                sigma = np.hypot(self.profile.read_noise_e or 0.0, (self.profile.dark_e or 0) ** 0.5)
                lowest = -5 * sigma / (electrons * self._gain)
        if bits is None:
            stats.saturated += int(np.count_nonzero((value < lowest) | (value > limit)))
            return np.clip(value, lowest, limit)
        step = (limit - lowest) / (2.0**bits - 1)
        first, last = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if balanced else (0, 2**bits - 1)
        code = np.rint(value / step) if balanced else np.rint((value - lowest) / step)
        stats.saturated += int(np.count_nonzero((code < first) | (code > last)))
        code = np.clip(code, first, last) * step
        return np.asarray(code if balanced else code + lowest)

    def _decode(self, scaled: np.ndarray, x: EncodedRows, w: EncodedWeights) -> np.ndarray:
        """Undo the scales, and put the cross terms of the offset encoding back."""
        y: np.ndarray = scaled * (x.scale * w.scale).astype(np.float32)
        if self.profile.encoding != "offset":
            return y
        # scaled is E / (P g) and scale = (max - min) / (1 - f): y = c E with c = Dx Dw / P
        length = w.last - w.first
        x_unit, w_unit = x.unit * x.scale, w.unit * w.scale
        x_sum = x_unit * x.integers.sum(axis=-1, dtype=np.float64, keepdims=True)
        x_sum += length * (x.leak * x.scale + x.low)
        w_sum = w_unit * w.sums + length * (w.leak * w.scale + w.low)
        cross = x.low * w_sum + x_sum * w.low - length * x.low * w.low
        return np.asarray(y * np.float32(self._gain) + cross, dtype=np.float32)

    def _count_frames(self, x: np.ndarray, w: PreparedWeights, stats: Stats) -> None:
        """Count shots, frames and modulator samples of the tiles that this product took."""
        matrices, rows, length = x.shape
        outputs = w.shape[-2]
        count = tile_count((outputs, length), self.geometry)
        signed = bool((x < 0).any())
        exposures = self.profile.exposures(non_negative=not signed)
        shots = -(-rows // self.profile.vectors) * count * exposures * matrices
        stats.shots += shots
        stats.input_frames += shots
        stats.weight_frames += count * matrices
        blocks = -(-outputs // self.geometry.outputs) if self.geometry.outputs else 1
        shown = exposures * self.profile.elements_per_input
        stats.input_samples += x.size * shown * blocks
        stats.weight_samples += matrices * outputs * length * self.profile.rails


@dataclass(frozen=True)
class _Block:
    """Some rows of some matrices."""

    matrices: slice
    rows: slice

    @property
    def place(self) -> tuple[slice, slice]:
        return self.matrices, self.rows

    def of(self, x: np.ndarray, w: EncodedWeights) -> tuple[np.ndarray, EncodedWeights]:
        """Give the block's rows of x, cut to the segment's columns, and its matrices of w."""
        part = np.ascontiguousarray(x[self.matrices, self.rows, w.first : w.last])
        if self.matrices == slice(None) or len(w.integers) == 1:
            return part, w
        names = ("integers", "light", "scale", "low", "sums", "light_sums", "bound")
        arrays = {name: getattr(w, name) for name in names}
        return part, replace(
            w, **{k: a if a is None else a[self.matrices] for k, a in arrays.items()}
        )


class _Streams:
    """The random streams of one block of rows [m, n] and one segment."""

    def __init__(self, seed: int, at: Address, segment: int, rows: np.ndarray) -> None:
        self._shape = rows.shape
        self._rows = rows.reshape(-1)
        self._seed, self._at, self._segment = seed, at, segment

    def gaussian(self, purpose: str, count: int) -> np.ndarray:
        """Give standard normal numbers [m, n, count]."""
        return self._of(purpose).gaussian(self._rows, count).reshape(*self._shape, count)

    def words(self, purpose: str, count: int) -> np.ndarray:
        """Give random words [m, n, count]."""
        words = self._of(purpose).words(self._rows, count)[:, :count]
        return words.reshape(*self._shape, count)

    def _of(self, purpose: str) -> Stream:
        return Stream(self._seed, self._at.matmul, self._at.attempt, purpose, self._segment)


class _Clock:
    """Gives the seconds between laps to the stages of a product."""

    def __init__(self, stats: Stats) -> None:
        self._seconds = stats.seconds
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now
