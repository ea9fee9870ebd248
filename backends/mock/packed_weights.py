"""`PackedWeights`: weights as bytes, for products in one compiled call (`kernels.multiply`).

They serve every bench whose modulators have equal level steps of at most 8 bits, and whose ranges
are fixed before the exposure. `row_block.RowBlock` serves all benches, with the same bits.

The weights of a dynamic operand, such as keys, grow with the tokens: `PackedWeights.grow` encodes
only those that are new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from ...instruments import InputError
from ..base import Ranges
from ..tiling import cuts
from . import LOOPS, compiled_loops
from .detection import (
    FOUR_READINGS,
    ONE_SUM,
    TWO_EXPOSURES,
    WITH_LIGHT,
    BenchConstants,
    Converter,
    as_record,
    single,
)
from .encoding import (
    LARGEST,
    EncodedWeights,
    even_rails,
    has_levels,
    input_steps,
    mean_filling,
    modulator_leak,
    offset_levels,
    rail_constants,
    signed_levels,
    weight_bound,
    weight_edges,
)
from .integer_products import LONGEST
from .parameters import MockParameters
from .weight_segment import WeightSegment, readout_limit

_TILE = 64  # outputs whose bytes are neighbours
_OF_WEIGHTS = ("bytes", "sums", "columns", "light_term", "lit", "scale", "low", "total")
_CONVERTERS = ("limit", "inverse_step", "factor")
_OUTPUTS = 8  # place in `PackedWeights.plain`
_KNOWN = np.empty((0, 0)), np.empty((0, 0), dtype=np.float32)  # scales that are stored


def can_pack(parameters: MockParameters, length: int) -> bool:
    """Return whether weights [M, K] of a bench fit `PackedWeights`."""
    profile, most = parameters.profile, parameters.geometry.inputs or length
    return (
        LOOPS.is_used
        and has_levels(profile)
        and profile.readout_range != "ideal"
        and min(most, length) <= LONGEST
    )


def is_form_of_loops(bytes_: np.ndarray) -> bool:
    """Return whether packed weights have the form that the loops of this process read."""
    return bytes_.ndim == (5 if compiled_loops().HAS_DOT else 3)


class PackedWeights:
    """Weight matrices [m, M, K] as bytes, and what their products need.

    Parameters
    ----------
    shape : space for so many weights, which `grow` then encodes
    kept : `kept_arrays` of the same weights; None takes them from `grow`

    Attributes
    ----------
    shape : (m, M, K)
    places : sizes, and addresses of the arrays, for compiled code that reads no converter
    segments : first column, length, and first stored column of each, int64 [segments, 3]
    saturated : number of weights of each segment that exceeded their calibrated scale
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        parameters: MockParameters,
        ranges: Ranges | None,
        kept: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._parameters, self._ranges = parameters, ranges
        self.shape = (shape[0], 0, 0) if kept is None else shape
        self.saturated: list[int] = [] if kept is None else kept["saturated"].tolist()
        self.segments = self._segments(self.shape[2])
        self._converted: Ranges | str | None = "none yet"
        profile = parameters.profile
        self._is_offset = profile.encoding == "offset"
        levels = offset_levels if self._is_offset else signed_levels
        self._levels, self._leak = levels(profile.weight_bits), modulator_leak(profile)
        bench = bench_constants(parameters)
        self._value_unit = bench.value_unit
        centre = (self._levels + 1) // 2 if self._is_offset else -1
        self._rule = (self._levels, centre, self._lit, as_record(bench))
        # keys and values take their scales from calibration: those of a new token are known
        self._has_scale = not self._is_offset and ranges is not None and ranges.weight is not None
        self._is_shared = self._has_scale and _is_one(ranges)
        self._peaks: dict[int, float] = {}
        _, outputs, length = shape
        if self._is_shared:  # keys: space for the tokens that follow
            outputs += outputs // 2
        elif self._has_scale:  # values
            length += length // 2
        if kept is None:
            self._arrays = self._space(outputs, length)
        else:
            bytes_ = _large_pages(kept["bytes"].shape, kept["bytes"].dtype)
            bytes_[:] = kept["bytes"]
            # copies, since each of them would keep the whole entry of a cache in memory
            small = {name: array.copy() for name, array in kept.items() if name != "bytes"}
            converters = self._no_converters(outputs, len(self.segments))
            self._arrays = small | converters | {"bytes": bytes_}
        self.places = self._kept_places()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy, or of a pickle: its arrays have other addresses."""
        self.__dict__.update(state)
        if not is_form_of_loops(self._arrays["bytes"]):
            raise InputError(
                "these weights were prepared on another kind of processor; prepare them on this one"
            )
        self.places = self._kept_places()

    @property
    def may_grow(self) -> bool:
        """Whether scales and ranges come from calibration, so that new tokens change no others."""
        return self._ranges is not None and self._ranges.weight is not None

    def kept_arrays(self) -> dict[str, np.ndarray]:
        """Return what the weights follow from, but for the converters, which need ranges."""
        arrays = {n: array for n, array in self._arrays.items() if n not in _CONVERTERS}
        return arrays | {"saturated": np.array(self.saturated, dtype=np.int64)}

    # --- weights ---------------------------------------------------------------------------------

    def grow(self, weights: np.ndarray) -> None:
        """Encode the weights [m, M, K] beyond those that are there, which have not changed.

        Either M or K is larger than before; weights that `may_grow` may have some already.
        """
        self.__dict__.pop("kept_segments", None)
        _, outputs, length = weights.shape
        _, old_outputs, old_length = self.shape
        is_moved = self._lengthen(length) | self._reserve(outputs, length)
        self.shape = weights.shape
        if is_moved:
            self.places = self._kept_places()
        self.places[_OUTPUTS] = outputs
        for s, (first, size, _) in enumerate(self.segments.tolist()):
            if outputs > old_outputs:
                rows, begin = slice(old_outputs, outputs), first
                is_known = self._is_shared and old_outputs > 0
            elif first + size > old_length:
                rows, begin = slice(0, outputs), max(first, old_length)
                is_known = self._has_scale and begin > first
            else:
                continue
            scales = _KNOWN
            if not is_known:
                scales = self._scales(weights[:, rows, first : first + size], s, rows)
                if not isinstance(self._converted, str):
                    self._convert(self._converted, s, rows)
            self._encode(weights, scales, s, rows, begin, first + size)

    def _encode(
        self,
        weights: np.ndarray,
        scales: tuple[np.ndarray, np.ndarray],
        s: int,
        rows: slice,
        begin: int,
        last: int,
    ) -> None:
        """Encode columns `begin` to `last`, of segment `s`, of some outputs."""
        place, arrays = (rows.start, rows.stop, s, begin, last), self._arrays
        pack = compiled_loops().pack_weights
        self.saturated[s] += pack(weights, scales, place, self._rule, self.places)
        if scales is not _KNOWN:
            peaks = arrays["scale"][:, s, rows]
            if self._is_offset:
                self._add_digital(s, rows, scales[1], last - int(self.segments[s, 0]))
                peaks = peaks + np.abs(arrays["low"][:, s, rows])
            self._peaks[s] = max(self._peaks.get(s, 0.0), float(peaks.max()))
        arrays["largest"][s] = LARGEST / max(
            self._peaks[s] * (last - int(self.segments[s, 0])), 1.0
        )

    def _scales(self, part: np.ndarray, s: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return span and least number [m, M] of a segment's outputs; store their scale."""
        edges = weight_edges(part, self._parameters.profile, self._ranges)
        scale = self._arrays["scale"][:, s, rows]
        if self._is_offset:
            lowest, highest = (
                (part.min(axis=-1), part.max(axis=-1))
                if edges is None
                else (edge[..., 0].astype(np.float32) for edge in edges)
            )
            span = highest.astype(np.float64) - lowest
            scale[...] = span / (1 - self._leak)
            return span, np.ascontiguousarray(lowest)
        if edges is None:
            scale[...] = np.maximum(part.max(axis=-1), -part.min(axis=-1))
        else:
            scale[...] = edges[1][..., 0]
        if self._is_shared:
            self._arrays["scale"][:, s] = scale[:, :1]
        return np.ascontiguousarray(scale), np.zeros(scale.shape, dtype=np.float32)

    def _add_digital(self, s: int, rows: slice, lowest: np.ndarray, length: int) -> None:
        """Store the sums that the offset encoding adds digitally."""
        arrays, leak = self._arrays, self._leak
        scale = arrays["scale"][:, s, rows]
        centre = (self._levels + 1) // 2
        numbers = arrays["sums"][:, s, 0, rows].astype(np.float64) + centre * length
        low = lowest - leak * scale
        passed = length * leak + (1 - leak) / self._levels * numbers
        arrays["low"][:, s, rows] = low
        arrays["total"][:, s, rows] = scale * passed + length * low

    @property
    def _lit(self) -> int:
        """Which sums over the outputs the total light needs; see `kernels.pack_weights`."""
        profile = self._parameters.profile
        if profile.encoding == "offset":
            return -1
        return 1 if profile.encoding == "abs-split" else 0

    def _segments(self, length: int) -> np.ndarray:
        """Return `kernels.ByteWeights.segments`."""
        table, stored = [], 0
        for first, last in cuts(length, self._parameters.geometry.inputs):
            table.append((first, last - first, stored))
            stored += -(-(last - first) // 4) * 4
        return np.array(table, dtype=np.int64).reshape(-1, 3)

    def _space(self, outputs: int, length: int) -> dict[str, np.ndarray]:
        """Return arrays for as many outputs and columns."""
        matrices, segments = self.shape[0], self._segments(length)
        stored = int(segments[-1, 2] + -(-segments[-1, 1] // 4) * 4)
        each = (matrices, len(segments))
        has_columns, offset = self._lit != 0, (*each, outputs) if self._is_offset else (*each, 0)
        if compiled_loops().HAS_DOT:
            tiles = -(-outputs // _TILE)
            bytes_ = _large_pages((matrices, tiles, stored // 4, _TILE, 4))
            bytes_[:] = 128
        else:
            bytes_ = np.zeros((matrices, outputs, stored), dtype=np.int8)
        return self._no_converters(outputs, len(segments)) | {
            "bytes": bytes_,
            "sums": np.zeros((*each, 2, outputs), dtype=np.int32),
            "columns": np.zeros((matrices, stored if has_columns else 0), dtype=np.int64),
            "light_term": np.zeros((*each, 2, outputs), dtype=np.float32),
            "lit": np.zeros((*each, 2), dtype=np.int64),
            "scale": np.zeros((*each, outputs)),
            "largest": np.full(len(segments), np.inf),
            "low": np.zeros(offset),
            "total": np.zeros(offset),
        }

    def _no_converters(self, outputs: int, segments: int) -> dict[str, np.ndarray]:
        return {
            name: np.ones((self.shape[0], segments, outputs), np.float32) for name in _CONVERTERS
        }

    def _lengthen(self, length: int) -> bool:
        """Extend the segments to a length; return whether they are another array."""
        table = self.segments
        most = self._parameters.geometry.inputs or length
        if len(table) and length - table[-1, 0] <= most:
            table[-1, 1] = length - table[-1, 0]
            return False
        self.segments = self._segments(length)
        self.saturated += [0] * (len(self.segments) - len(self.saturated))
        return True

    def _reserve(self, outputs: int, length: int) -> bool:
        """Take twice the space if the weights do not fit; return whether they did not."""
        arrays = self._arrays
        old_outputs, stored = arrays["scale"].shape[2], arrays["bytes"].shape[2]
        stored *= 4 if compiled_loops().HAS_DOT else 1
        needed = self.segments[-1, 2] + -(-self.segments[-1, 1] // 4) * 4
        if outputs <= old_outputs and needed <= stored:
            return False
        most = max(outputs, 2 * old_outputs) if outputs > old_outputs else old_outputs
        longest = 2 * length if needed > stored else max(length, self.shape[2])
        self._arrays = self._space(most, longest)
        for name, new in self._arrays.items():
            old = arrays[name]
            place = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
            new[place] = old[place]
            if self._is_shared and name in ("scale", *_CONVERTERS):
                new[place[:2]] = old[place[:2]][:, :, :1]
        return True

    # --- products --------------------------------------------------------------------------------

    def plain(self, ranges: Ranges | None) -> np.ndarray:
        """Return sizes and addresses of the arrays for compiled code, with converters of ranges.

        They are numbers, and no arguments each, since a call takes longer for every argument.
        """
        if self._converted is not ranges:
            for s in range(len(self.segments)):
                self._convert(ranges, s, slice(0, self.shape[1]))
            self._converted = ranges
        return self.places

    def _kept_places(self) -> np.ndarray:
        """Return what `plain` promises, int64 [22]; see `kernels.ByteWeights`."""
        arrays = self._arrays
        of_weights = [arrays[name] for name in (*_OF_WEIGHTS, *_CONVERTERS)]
        addresses = [array.ctypes.data for array in (*of_weights, self.segments, arrays["largest"])]
        matrices, segments, outputs = arrays["scale"].shape
        tiles, stored = arrays["bytes"].shape[1:3]
        stored *= 4 if compiled_loops().HAS_DOT else 1
        sizes = (matrices, segments, outputs, arrays["low"].shape[2], tiles, stored)
        used = (arrays["columns"].shape[1], len(self.segments), self.shape[1])
        return np.array([*sizes, *used, *addresses], dtype=np.int64)

    def _convert(self, ranges: Ranges | None, s: int, rows: slice) -> None:
        """Store limit, inverse step and factor of some outputs of a segment."""
        matrices, outputs, _ = self.shape
        profile, scale = self._parameters.profile, self._arrays["scale"][:, s, rows]
        limit = readout_limit(profile, ranges, s, matrices, lambda: self._bound(s))
        if limit.shape[1] > 1:
            limit = np.broadcast_to(limit, (matrices, outputs))[:, rows]
        limit = np.broadcast_to(limit, scale.shape)
        converter = Converter.of_limits(limit, self._value_unit, scale, profile)
        for name, values in zip(_CONVERTERS, converter, strict=True):
            if self._is_shared:
                self._arrays[name][:, s] = values[:, :1]
            else:
                self._arrays[name][:, s, rows] = values

    @property
    def largest(self) -> float:
        """Magnitude of inputs up to which float32 can hold the results."""
        return float(self._arrays["largest"].min())

    @cached_property
    def kept_segments(self) -> list[WeightSegment]:
        """What `as_segments` returns, of weights that do not grow."""
        return self.as_segments()

    def as_segments(self) -> list[WeightSegment]:
        """Return the same weights for `RowBlock`, whose products are those of a library."""
        parameters, arrays = self._parameters, self._arrays
        profile, outputs = parameters.profile, self.shape[1]
        zeros = np.zeros((self.shape[0], outputs))
        magnitude = (self._levels + 1) // 2 if self._is_offset else self._levels
        segments = []
        for s, (first, length, _) in enumerate(self.segments.tolist()):
            low, total = zeros, zeros
            if self._is_offset:
                low, total = (arrays[name][:, s, :outputs] for name in ("low", "total"))
            weights = EncodedWeights(
                first,
                first + length,
                even_rails(self._integers(s).astype(np.float32), magnitude, profile),
                arrays["scale"][:, s, :outputs],
                low,
                total,
                self.saturated[s],
                self._leak,
                mean_filling(profile),
            )
            segments.append(WeightSegment(weights, profile, parameters.detector))
        return segments

    def _bound(self, s: int) -> np.ndarray:
        """Return the read-out range [m, M] that follows from the weights of a segment."""
        return weight_bound(self._integers(s), self._parameters.profile)

    def _integers(self, s: int) -> np.ndarray:
        """Return the integers of a segment, int8 [m, M, K]."""
        matrices, outputs, _ = self.shape
        _, length, start = self.segments[s].tolist()
        loops, integers = compiled_loops(), []
        for matrix in range(matrices):
            bytes_ = self._arrays["bytes"][matrix]
            part = bytes_[:, start // 4 :] if loops.HAS_DOT else bytes_[:, start:]
            integers.append(loops.unpacked(part, outputs, length))
        return np.stack(integers)


def _is_one(ranges: Ranges | None) -> bool:
    """Return whether all outputs of a dynamic operand share one scale and one range."""
    if ranges is None or ranges.weight is None:
        return False
    return bool(max(ranges.weight.shape[-2:]) == 1 and ranges.readout.shape[-1] == 1)


_BLOCK, _SMALLEST = 1 << 24, 1 << 16  # bytes
_block, _used = np.empty(0, dtype=np.uint8), 0
_taking = Lock()


def _large_pages(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """Return space for bytes of a type, `shape`, as a part of a block that has large pages.

    Systems give large pages to large arrays only (numpy asks for them from 4 MiB on), and memory is
    read faster through them. A block is freed with the last of its parts.
    """
    global _block, _used
    size = math.prod(shape)
    if not _SMALLEST <= size <= _BLOCK // 4:
        return np.empty(shape, dtype=dtype)
    with _taking:
        if _used + size > _block.size:
            _block = np.empty(_BLOCK, dtype=np.uint8)
            _used = -_block.ctypes.data % 64  # at a line of the caches
        part, _used = _block[_used : _used + size], _used + -(-size // 64) * 64
    return part.view(dtype).reshape(shape)


def bench_constants(parameters: MockParameters) -> BenchConstants:
    """Return the constants of a profile."""
    profile, detector = parameters.profile, parameters.detector
    split = profile.encoding == "abs-split"
    if detector.rails == 2:
        scheme = FOUR_READINGS if split else TWO_EXPOSURES
    else:
        scheme = WITH_LIGHT if split else ONE_SUM
    unit, leak = input_steps(profile, False)
    constants = rail_constants(profile)
    value_unit = unit * constants[0][0] / detector.gain if detector.balanced else 1.0
    rails = constants[1:] if detector.balanced else constants
    (first_unit, first_constant), (last_unit, last_constant) = rails[0], rails[-1]
    levels = (offset_levels if profile.encoding == "offset" else signed_levels)(profile.input_bits)
    is_even = detector.balanced and not split
    return BenchConstants(
        scheme=scheme,
        levels=float(levels),
        centre=(levels + 1) // 2 if profile.encoding == "offset" else -1,
        leak=leak,
        unit=unit,
        true_leak=modulator_leak(profile),
        light_unit=single(unit * first_unit, unit * last_unit),
        gains=single(1 / (detector.gain * value_unit), detector.gain * value_unit),
        per_sum=(unit * first_constant, unit * last_constant),
        rail_unit=(first_unit, last_unit),
        rail_constant=(first_constant, last_constant),
        dark=2 * leak * first_constant if is_even else 0.0,
        total_unit=unit * abs(last_unit),
        value_unit=value_unit,
        photons=profile.photons_full_scale or 0.0,
        per_mac=profile.photons_per_mac or 0.0,
        entering_per_mac=profile.photons_entering_per_mac or 0.0,
        source_rms=profile.source_rms or 0.0,
        frame=parameters.geometry.outputs or 1 << 40,
        vectors=parameters.geometry.vectors,
    )
