"""`MockBackend`: the fast statistical model of a bench.

Range, quantisation, noise and read-out happen per tile and segment, as they would on the bench; the
formulas are those of docs/explanation/light.md. Nothing is taken from a whole batch: scales and
light belong to one input row, and noise to its address. Not here: time (`scheduler.timing`).

The path of one block of rows: encode -> exact integer products -> light of each exposure -> noise
-> full well -> converter -> decode. Arrays on the way are [m, n, M]: matrices (batched
dynamic operands, else one), rows, outputs.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..instruments import InputError
from .address import Address
from .base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from .detection import Detector, read
from .encoding import EncodedRows, EncodedWeights, encode_rows, encode_weights
from .fused import AVAILABLE as FUSED_AVAILABLE
from .fused import kernel
from .noise import Stream
from .products import exact_products
from .profile import OpticsProfile, load_profile
from .tiling import Geometry, tile_count

_PIECE_VALUES = 1 << 15  # of them that pass noise and converter at a time
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

    def of(self, piece: tuple[slice, slice]) -> "_Exposure":
        """Give the exposure of some matrices and rows."""
        light = None if self.light is None else self.light[piece]
        rows = None if self.rows is None else self.rows[piece]
        return _Exposure(self.sign, light, self.signed[piece], rows)


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
        if not isinstance(self.profile, OpticsProfile):
            raise InputError(f"profile = {profile!r} is no OpticsProfile; see load_profile")
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise InputError(f"seed = {seed!r} is no whole number from 0 to 2^64 - 1")
        self.seed = seed
        words = {"sources", "name", "title"}
        self._profile_text = self.profile.model_dump_json(exclude=words)
        self.geometry = Geometry.of(self.profile)
        self.fused = FUSED_AVAILABLE
        self._detector = Detector.of(self.profile)
        self._gain = self._detector.gain

    def describe(self) -> Mapping[str, Any]:
        """Give name, profile and seed, for the record of a run."""
        return {**super().describe(), "profile": self.profile.model_dump(), "seed": self.seed}

    @property
    def _maker(self) -> object:
        return self._profile_text

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
        mask = None
        if valid is not None:
            mask = np.broadcast_to(valid, (*w.shape[:-2], *shape[1:])).reshape(shape)
        largest = np.zeros((matrices, len(w.content), shape[-1]))
        for index, segment in enumerate(w.content):
            for block in self._blocks(x, segment):
                part, piece = block.of(x, segment)
                for exposure in self._sums(encode_rows(part, self.profile), piece):
                    for rail in self._rails:
                        value = self._converted(exposure, rail)
                        if mask is not None:
                            value = np.where(mask[block.place], value, 0)
                        seen = np.maximum(value.max(axis=1), -value.min(axis=1)) / self._gain
                        peak = largest[block.matrices, index]
                        np.maximum(peak, seen, out=peak)
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
            self._segment(x, segment, index, limit, at, y, stats, len(w.shape) > 2)
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
        dynamic: bool,
    ) -> None:
        """Add one segment's part of x [m, N, K] W^T to y [m, N, M]."""
        stats.saturated += segment.saturated
        clock = _Clock(stats)
        second = np.zeros(len(x), dtype=int)
        for block in self._blocks(x, segment):
            part, piece = block.of(x, segment)
            encoded = encode_rows(part, self.profile)
            clock.lap("encode")
            exposures = self._sums(encoded, piece)
            clock.lap("product")
            if len(exposures) > 1 and exposures[1].rows is not None:
                second[block.matrices] += exposures[1].rows.sum(axis=(1, 2))
            stream = _Streams(self.seed, at, index, at.rows[block.place], dynamic)
            scaled = self._detect(exposures, piece, limit[block.matrices], stream, stats)
            scaled -= self._leaked(piece, exposures)
            y[block.place] += self._decode(scaled, encoded, piece)
            clock.lap("decode")
        self._count_frames(y.shape, second, segment, stats)

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
        electrons = self._electrons_per_pair(exposures, segment)
        if electrons is not None:
            stats.photons += float(
                sum(
                    (e.light * electrons).sum(dtype=np.float64)
                    for e in exposures
                    if e.light is not None
                )
            )
        matrices, rows, outputs = exposures[0].signed.shape
        detected = np.zeros((matrices, rows, outputs), dtype=np.float32)
        for piece in _pieces(matrices, rows, outputs):
            part = stream.of(piece)
            photons = None
            if electrons is not None:
                photons = np.broadcast_to(electrons, (matrices, rows, 1))[piece]
            for number, exposure in enumerate(exposures):
                source = self._source(part, number, outputs)
                for rail in self._rails:
                    self._read(
                        detected[piece],
                        exposure.of(piece),
                        rail,
                        source,
                        photons,
                        limit[piece[0]],
                        part,
                        stats,
                    )
        return detected

    @property
    def _rails(self) -> tuple[int, ...]:
        """Signs of the rails that are converted apart; 0 for one conversion of all."""
        one = self.profile.encoding == "offset" or self.profile.detection == "balanced"
        return (0,) if one else (1, -1)

    def _read(
        self,
        detected: np.ndarray,
        exposure: _Exposure,
        rail: int,
        source: np.ndarray | None,
        electrons: np.ndarray | None,
        limit: np.ndarray,
        stream: "_Streams",
        stats: Stats,
    ) -> None:
        """Add one reading of every output to `detected` [m, n, M], with its sign."""
        detector, shape = self._detector, detected.shape
        sign = np.float32(exposure.sign * (rail or 1))
        factor = np.broadcast_to(sign if exposure.rows is None else sign * exposure.rows, shape)
        purpose = f"reading {exposure.sign} {rail}"
        stats.conversions += int(np.count_nonzero(factor[..., :1])) * shape[-1]
        z = None if electrons is None else stream.gaussian(purpose, shape[-1])
        frame = self.geometry.outputs or shape[-1]
        if self._can_fuse(exposure, electrons):
            assert electrons is not None and z is not None and exposure.light is not None
            factors = np.ones((*shape[:2], 1), np.float32) if source is None else source
            skipped = np.empty(detected.size, dtype=np.int64)
            bits = detector.bits or 0
            first, last = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
            if not detector.balanced:
                first, last = 0.0, 2.0**bits - 1
            whole_range = self._range(limit, None)
            assert whole_range is not None
            saturated, count = kernel()(
                detected,
                _plain(exposure.light),
                _plain(exposure.signed),
                float(rail),
                _plain(factors),
                frame if source is not None else shape[-1],
                _plain(electrons[..., 0]),
                _plain(z),
                _plain(np.broadcast_to(whole_range, (shape[0], 1, shape[2]))[:, 0]),
                _plain(factor[..., 0]),
                detector.gain,
                detector.variance,
                detector.full_well,
                detector.weak_below,
                detector.pedestal,
                2.0**bits - 1,
                first,
                last,
                skipped,
            )
            stats.saturated += saturated
            if not count:
                return
            chosen: Any = np.unravel_index(skipped[:count], shape)
        else:
            chosen = ...
        mean = self._converted(exposure, rail)
        ideal = None
        if self.profile.readout_range == "ideal":
            ideal = np.abs(mean).max(axis=-1, keepdims=True) / detector.gain
        whole_range = self._range(limit, ideal)
        arrived = exposure.light if detector.balanced else mean
        if source is not None:
            spread = np.repeat(source, frame, axis=-1)[..., : shape[-1]]
            mean = mean * spread
            arrived = None if arrived is None else arrived * spread

        def words(weak: np.ndarray) -> np.ndarray:
            drawn = stream.words(f"{purpose} photons", shape[-1])
            return np.asarray(drawn[chosen][weak])

        def pick(array: np.ndarray | None) -> np.ndarray | None:
            return (
                array if array is None or chosen is ... else np.broadcast_to(array, shape)[chosen]
            )

        picked = pick(mean)
        assert picked is not None
        value, saturated = read(
            picked,
            pick(arrived),
            pick(electrons),
            pick(z),
            words,
            pick(whole_range),
            detector,
        )
        stats.saturated += saturated
        detected[chosen] += value.astype(np.float32) * factor[chosen]

    def _can_fuse(self, exposure: _Exposure, electrons: np.ndarray | None) -> bool:
        """Say whether the compiled kernel covers this reading."""
        profile = self.profile
        return (
            self.fused
            and electrons is not None
            and profile.encoding != "offset"
            and profile.readout_bits is not None
            and profile.readout_range not in (None, "ideal")
            and not (self._detector.balanced and profile.full_well_e is not None)
            and exposure.light is not None
            and exposure.signed.dtype == exposure.light.dtype == np.float32
        )

    def _converted(self, exposure: _Exposure, rail: int) -> np.ndarray:
        """Give what one reading converts, in element pairs: [m, n, M]."""
        if rail == 0:
            return exposure.signed
        assert exposure.light is not None
        return np.asarray((exposure.light + np.float32(rail) * exposure.signed) * np.float32(0.5))

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

    def _source(self, stream: "_Streams", exposure: int, outputs: int) -> np.ndarray | None:
        """Give the source's factor of each frame, common to its outputs: [m, n, frames]."""
        if not self.profile.source_rms:
            return None
        frames = -(-outputs // (self.geometry.outputs or outputs))
        z = stream.gaussian(f"source {exposure}", frames)
        return np.asarray(1 + np.float32(self.profile.source_rms) * z)

    def _range(self, limit: np.ndarray, ideal: np.ndarray | None) -> np.ndarray | None:
        """Give the converter's range R, in units of y after scaling."""
        chosen = self.profile.readout_range
        if chosen is None:
            return None
        if isinstance(chosen, float):
            return np.asarray(chosen, dtype=np.float32)
        if ideal is not None:
            return np.where(ideal > 0, ideal, ideal.dtype.type(1))
        return np.where(limit > 0, limit, 1.0).astype(np.float32)

    def _decode(self, scaled: np.ndarray, x: EncodedRows, w: EncodedWeights) -> np.ndarray:
        """Undo the scales, and put the cross terms of the offset encoding back."""
        y: np.ndarray = scaled * (x.scale * w.scale).astype(np.float32)
        if self.profile.encoding != "offset":
            return y
        # scaled is E / (P g) and scale = (max - min) / (1 - f): y = c E with c = Dx Dw / P
        length = w.last - w.first
        x_sum = x.unit * x.scale * x.integers.sum(axis=-1, dtype=np.float64, keepdims=True)
        x_sum += length * (x.leak * x.scale + x.low)
        cross = x.low * w.total + x_sum * w.low - length * x.low * w.low
        return np.asarray(y * np.float32(self._gain) + cross, dtype=np.float32)

    def _count_frames(
        self, shape: tuple[int, ...], second: np.ndarray, segment: EncodedWeights, stats: Stats
    ) -> None:
        """Count shots, frames and modulator samples of one segment's tiles.

        Parameters
        ----------
        shape : (m, N, M)
        second : rows of each matrix that need a second exposure, [m]
        """
        matrices, rows, outputs = shape
        length, vectors = segment.last - segment.first, self.profile.vectors
        blocks = tile_count((outputs, 1), Geometry(self.geometry.outputs, None))
        shots = blocks * int((-(-rows // vectors) - (-second // vectors)).sum())
        stats.shots += shots
        stats.input_frames += shots
        stats.weight_frames += blocks * matrices
        shown = (matrices * rows + int(second.sum())) * self.profile.elements_per_input
        stats.input_samples += blocks * shown * length
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
        names = ("integers", "light", "scale", "low", "sums", "light_sums", "total", "bound")
        cut: dict[str, Any] = {}
        for name in names:
            array = getattr(w, name)
            cut[name] = None if array is None else array[self.matrices]
        return part, replace(w, **cut)


class _Streams:
    """The random streams of one block of rows [m, n] and one segment.

    Outputs of static weights have one stream; those of dynamic operands grow with the tokens, so
    every `_WIDTH` of them have their own, and a token's noise does not depend on what follows it.
    """

    _WIDTH = 64

    def __init__(
        self, seed: int, at: Address, segment: int, rows: np.ndarray, dynamic: bool
    ) -> None:
        self._shape = rows.shape
        self._rows = rows.reshape(-1)
        self._who = (seed, at.matmul, at.attempt)
        self._segment, self._dynamic = segment, dynamic

    def of(self, piece: tuple[slice, slice]) -> "_Streams":
        """Give the streams of some matrices and rows."""
        seed, matmul, attempt = self._who
        at = Address(matmul, self._rows, attempt)
        rows = self._rows.reshape(self._shape)[piece]
        return _Streams(seed, at, self._segment, rows, self._dynamic)

    def gaussian(self, purpose: str, count: int) -> np.ndarray:
        """Give standard normal numbers [m, n, count]."""
        return self._drawn(Stream.gaussian, purpose, count)

    def words(self, purpose: str, count: int) -> np.ndarray:
        """Give random words [m, n, count]."""
        return self._drawn(Stream.words, purpose, count)

    def _drawn(
        self, draw: Callable[[Stream, np.ndarray, int], np.ndarray], purpose: str, count: int
    ) -> np.ndarray:
        if not self._dynamic:
            stream = Stream(*self._who, purpose, self._segment)
            numbers = draw(stream, self._rows, count)[:, :count]
        else:
            parts = [
                draw(
                    Stream(*self._who, f"{purpose} from {first}", self._segment),
                    self._rows,
                    self._WIDTH,
                )[:, : min(self._WIDTH, count - first)]
                for first in range(0, count, self._WIDTH)
            ]
            numbers = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return numbers.reshape(*self._shape, count)


def _pieces(matrices: int, rows: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """Cut [m, n, M] into pieces that stay in a second-level cache while noise is worked on."""
    step = max(1, _PIECE_VALUES // max(outputs, 1))
    if rows <= step:
        step = max(1, step // max(rows, 1))
        yield from ((slice(i, i + step), slice(None)) for i in range(0, matrices, step))
        return
    for matrix in range(matrices):
        for first in range(0, rows, step):
            yield slice(matrix, matrix + 1), slice(first, first + step)


def _plain(array: np.ndarray) -> np.ndarray:
    """Give a contiguous, writable float32 array: the one kind that the kernel is compiled for."""
    return np.require(array, np.float32, ["C", "W"])


class _Clock:
    """Gives the seconds between laps to the stages of a product."""

    def __init__(self, stats: Stats) -> None:
        self._seconds = stats.seconds
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now
