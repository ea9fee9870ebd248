"""`MockBackend`: the fast statistical model of a bench.

Range, quantisation, noise and read-out apply per tile and segment, as on the bench; the formulas
are those of docs/explanation/light.md. Nothing depends on the whole batch: scales and light belong
to one input row, and noise to its address. `backends.device_timeline` models time.

The path of one block of rows: encode -> for a panel of outputs, exact integer products -> light of
each reading -> noise -> full well -> converter -> scale, add to y. Blocks fit a cache, are
independent, and run on a pool of threads.
"""

import math
import time
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ...instruments import InputError
from ...instruments.environment import COMPILED, run_all, thread_count
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..device_timeline import frames_of
from ..profile import OpticsProfile, load_profile
from ..timing import ShotTiming
from . import LOOPS, compiled_loops
from .detection import noise_free
from .encoding import LARGEST, encode_weights
from .fused import can_fuse, fused_segment
from .integer_products import FEW_ROWS, active_path, has_dot
from .noise import stream_keys
from .noise_streams import NoiseStreams
from .parameters import MockParameters
from .row_block import ReadingStats, RowBlock
from .weight_segment import WeightSegment

_BLOCK_ROWS = 256  # at a time, with panels of outputs
_WORTH_THREADS = 1 << 23  # multiplications worth threads: waking one takes as long as half of them
_BLOCK_VALUES = 1 << 21  # of a block of rows without panels


class MockBackend(Backend):
    """Multiplies like a bench with the given profile, statistically.

    Parameters
    ----------
    profile : the bench's constants; None is the default profile
    seed : of the noise; same seed, profile, address and input give the same bits
    """

    name = "mock"
    is_mock = True
    needs_ranges = True

    def __init__(self, profile: OpticsProfile | None = None, seed: int = 0) -> None:
        super().__init__()
        self.profile = load_profile() if profile is None else profile
        if not isinstance(self.profile, OpticsProfile):
            raise InputError(f"profile = {profile!r} is not an OpticsProfile; see load_profile")
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise InputError(f"seed = {seed!r} is not a whole number; give one from 0 to 2^64 - 1")
        self.seed = seed
        words = {"sources", "years", "name", "title"}
        self._profile_text = self.profile.model_dump_json(exclude=words)
        self._parameters = MockParameters.of(self.profile)
        self.geometry = self._parameters.geometry
        self.timing = ShotTiming.of(self.profile)
        self._can_fuse = can_fuse(self._parameters)

    def describe(self) -> Mapping[str, Any]:
        """Return name, profile, seed and the arithmetic's path, for the record of a run."""
        return {
            **super().describe(),
            "profile": self.profile.model_dump(),
            "seed": self.seed,
            "path": mock_path(),
        }

    def with_settings(self, settings: Mapping[str, Any]) -> Backend:
        """Return a mock with other constants, and the same seed."""
        return MockBackend(self.profile.with_settings(settings), self.seed)

    def journal_entry(self) -> dict[str, Any]:
        """Return its profile and seed."""
        profile = self.profile.model_dump(mode="json")
        return {"kind": "mock", "profile": profile, "seed": self.seed}

    def prepare_loops(self, multiplications: int) -> None:
        """Choose between compiled loops and numpy, before a run of so many multiplications."""
        LOOPS.prepare(multiplications)

    @property
    def _identity(self) -> tuple[str, ...]:
        return f"profile {self.profile.name}", f"seed {self.seed}"

    @property
    def _maker(self) -> object:
        return self._profile_text

    def _check_rows(self, x: np.ndarray) -> None:
        """Leave the check to the scale of a row: it is not finite if a number is not."""

    def observe(self, x: np.ndarray, w: PreparedWeights, valid: np.ndarray | None) -> np.ndarray:
        """Return the largest noise-free value of each output at its converter."""
        matrices, outputs = w.content[0].weights.shape[:2]
        x = np.ascontiguousarray(x, dtype=np.float32).reshape(matrices, -1, w.shape[-1])
        mask = None
        if valid is not None:
            shape = (matrices, x.shape[1], outputs)
            mask = np.broadcast_to(valid, (*w.shape[:-2], *shape[1:])).reshape(shape)
        largest = np.zeros((matrices, len(w.content), outputs))
        for matrix, rows in _blocks(matrices, x.shape[1], outputs):
            for index, segment in enumerate(w.content):
                block = RowBlock(self._parameters, x[matrix, rows], segment, matrix)
                unit = segment.exposures[0].rules[0].unit
                readings = (block.readings(*panel) for panel in block.panels(1))
                for _, reading in chain.from_iterable(readings):
                    value, _ = noise_free(reading, self._parameters.detector)
                    place = slice(reading.first, reading.first + value.shape[1])
                    if mask is not None:
                        value = np.where(mask[matrix, rows, place], value, 0)
                    seen = np.maximum(value.max(axis=0), -value.min(axis=0)) * unit
                    peak = largest[matrix, index, place]
                    np.maximum(peak, seen, out=peak)
        return largest

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list["WeightSegment"]:
        peak = float(max(weights.max(), -weights.min()))
        if peak > LARGEST:
            raise InputError(f"weights reach {peak:.3g}; scale them to {LARGEST:g} at most")
        stacked = weights.reshape(-1, *weights.shape[-2:])
        segments = encode_weights(stacked, self.profile, ranges, dynamic=weights.ndim > 2)
        return [
            WeightSegment(segment, self.profile, self._parameters.detector) for segment in segments
        ]

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        x = np.require(x, requirements=["C", "W"])  # kernels are compiled for it
        is_simple = LOOPS.is_used and self._can_fuse and len(w.shape) == 2
        if is_simple and (x.shape[1] <= FEW_ROWS or has_dot()):
            result = self._fused(x[0], w, at)
            if result is not None:
                return result
        matrices, rows, length = x.shape
        outputs, segments = w.shape[-2], w.content
        y = np.empty((matrices, rows, outputs), dtype=np.float32)
        converters = [s.converter(self.profile, w.ranges, i) for i, s in enumerate(segments)]
        reading_stats = ReadingStats(matrices, len(segments))
        threads = _threads(rows * outputs * length)
        blocks = _blocks(matrices, rows, outputs)
        is_library = matrices == 1 and not LOOPS.is_used  # its product has its own threads
        spread = threads if is_library or len(blocks) < 2 * threads else 1  # else per block

        def work(matrix: int, part: slice) -> None:
            ids, dynamic, row_blocks = at.rows[matrix, part], len(w.shape) > 2, []
            for index, segment in enumerate(segments):
                block = RowBlock(
                    self._parameters,
                    x[matrix, part],
                    segment,
                    matrix,
                    converters[index].of(matrix),
                    NoiseStreams(self.seed, at, ids, dynamic, index),
                )
                block.count(reading_stats, index)
                row_blocks.append(block)
            out = y[matrix, part]

            def read(panel: int | None, place: slice) -> None:
                for index, block in enumerate(row_blocks):
                    block.read(out, panel, place, index > 0, reading_stats, spread)

            run_all([partial(read, *panel) for panel in row_blocks[0].panels(spread)], spread)

        run_all([partial(work, *block) for block in blocks], threads if spread == 1 else 1)
        stats = Stats(
            macs=x.size * outputs,
            photons=math.fsum(reading_stats.photons),
            saturated=reading_stats.saturated,
            conversions=reading_stats.conversions,
            seconds=reading_stats.seconds,
        )
        for second, segment in zip(reading_stats.second, segments, strict=True):
            self._count_frames(rows, second, segment, stats)
        return MatmulResult(y, stats)

    def _fused(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult | None:
        """Multiply rows [N, K] in one compiled call per segment; None if that is not possible."""
        start = time.perf_counter()
        rows, outputs, segments = len(x), w.shape[-2], w.content
        fixed = []
        for index, segment in enumerate(segments):
            prepared = fused_segment(self._parameters, segment, w.ranges, index)
            if prepared is None:
                return None
            key = stream_keys(self.seed, at.matmul, at.attempt, "reading 1 0", index)[None]
            fixed.append((key, prepared))
        y, ids = np.empty((1, rows, outputs), dtype=np.float32), at.rows[0]
        read, counts = compiled_loops().read_fused, list[tuple[int, int, float]]()

        def work(part: slice, first: int, last: int) -> None:
            for index, (key, prepared) in enumerate(fixed):
                counts.append(
                    read(x[part], y[0, part], index > 0, first, last, ids[part], key, prepared)
                )

        threads = _threads(x.size * outputs)
        run_all([partial(work, *task) for task in _tasks(rows, outputs, threads)], threads)
        stats = Stats(macs=x.size * outputs, conversions=y.size * len(segments))
        light = 0.0
        for saturated, weak, some in sorted(counts):
            if weak:  # weak light, or too large or not finite inputs
                for segment in segments:
                    segment.is_dim = weak > 0
                return None
            stats.saturated += saturated
            light += some
        stats.photons = light * (self.profile.photons_full_scale or 0.0)
        for segment in segments:
            self._count_frames(rows, [0], segment, stats)
        stats.seconds["product"] = time.perf_counter() - start
        return MatmulResult(y, stats)

    def _count_frames(
        self, rows: int, second: list[int], segment: WeightSegment, stats: Stats
    ) -> None:
        """Count shots, frames, modulator samples and saturated weights of one segment's tiles.

        Parameters
        ----------
        second : rows of each matrix that need a second exposure
        """
        matrices, outputs, length = segment.weights.shape
        counts = tuple(rows + some for some in second)
        frames = frames_of(counts, outputs, self.geometry, self.timing)
        stats.saturated += segment.weights.saturated
        stats.shots += frames.shots
        stats.input_frames += frames.input_frames
        stats.weight_frames += frames.weight_frames
        stats.input_samples += frames.inputs_shown * self.profile.elements_per_input * length
        values = matrices * outputs * length * self.profile.rails
        stats.weight_samples += int(values * frames.loads)


def mock_path() -> dict[str, str]:
    """Return how this machine computes products, noise and read-out, with the reason."""
    if COMPILED:
        noise = "one pass compiled by numba"
    else:
        noise = "numpy, since numba (extra 'fast') is not installed"
    return {"products": active_path(), "noise and read-out": noise}


def _threads(multiplications: int) -> int:
    """Return the number of threads for a product of this size."""
    threads = thread_count()
    return threads if multiplications >= _WORTH_THREADS else 1


def _tasks(rows: int, outputs: int, threads: int) -> list[tuple[slice, int, int]]:
    """Divide a product into (rows, first output, last output), about two for each thread."""
    step = _BLOCK_ROWS
    if threads > 1:
        step = min(step, max(32, -(-rows // (2 * threads) // 4) * 4))
    if rows <= 32 and threads > 1:  # divide the outputs
        width = -(-outputs // threads // 64) * 64
        return [(slice(0, rows), i, min(i + width, outputs)) for i in range(0, outputs, width)]
    return [(slice(i, min(i + step, rows)), 0, outputs) for i in range(0, rows, step)]


def _blocks(matrices: int, rows: int, outputs: int) -> list[tuple[int, slice]]:
    """Divide the rows of all matrices into blocks of about equal size."""
    step = _BLOCK_ROWS
    if not LOOPS.is_used:  # a library's float32 product is faster with more rows
        step = min(512, max(32, _BLOCK_VALUES // max(outputs, 1)))
        step = -(-rows // max(1, -(-rows // step)))
    return [
        (matrix, slice(first, min(first + step, rows)))
        for matrix in range(matrices)
        for first in range(0, rows, step)
    ]
