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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from ...instruments import InputError
from ...instruments.environment import COMPILED, run_all, thread_count
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..device_timeline import frames_of
from ..profile import OpticsProfile, load_profile
from ..tiling import Geometry, cuts
from ..timing import ShotTiming
from . import LOOPS, compiled_loops
from .detection import as_record
from .encoding import LARGEST, encode_weights
from .integer_products import FEW_ROWS, active_path
from .noise import GROUP, NoiseKeys, product_key, quantiles
from .packed_weights import PackedWeights, bench_constants, can_pack, is_form_of_loops
from .parameters import MockParameters
from .product_choice import LOOPS_OF_BYTES, fastest_path
from .row_block import ReadingStats, RowBlock
from .weight_segment import WeightSegment

_BLOCK_ROWS = 256  # at a time, with panels of outputs
_WORTH_THREADS = 1 << 23  # multiplications worth threads: waking one takes as long as half of them
_KEPT_COUNTS = 1024
_NO_PEAKS = np.zeros((0, 0, 0), dtype=np.float32)
_ALL = np.zeros((0, 0, 0), dtype=bool)
_BLOCK_VALUES = 1 << 21  # of a block of rows without panels


class Twin(Protocol):
    """What multiplies for a profile that is the twin of a bench (`bench_twin.products`)."""

    @property
    def geometry(self) -> Geometry:
        """The capacity of a frame."""

    def prepare(self, weights: np.ndarray, ranges: Ranges | None) -> Any:
        """Encode weights [..., M, K]."""

    def multiply(
        self, x: np.ndarray, weights: Any, at: Address
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """Multiply x [m, N, K] by encoded weights."""


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
    twin_products: ClassVar[Callable[[OpticsProfile, int], Twin]]
    """Returns what multiplies for a twin; the package `backends` sets it: mocks know no bench."""

    def __init__(self, profile: OpticsProfile | None = None, seed: int = 0) -> None:
        super().__init__()
        self.profile = load_profile() if profile is None else profile
        if not isinstance(self.profile, OpticsProfile):
            raise InputError(f"profile = {profile!r} is not an OpticsProfile; see load_profile")
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise InputError(f"seed = {seed!r} is not a whole number; give one from 0 to 2^64 - 1")
        thread_count()  # refuses a wrong OMP_NUM_THREADS now: small products do not ask for it
        self.seed = seed
        words = {"sources", "years", "name", "title"}
        self._profile_text = self.profile.model_dump_json(exclude=words)
        self._parameters = MockParameters.of(self.profile)
        self._twin: Twin | None = None
        if self.profile.twin is not None:
            self._twin = MockBackend.twin_products(self.profile, seed)
        self.needs_ranges = self._twin is None
        self.geometry = self._parameters.geometry if self._twin is None else self._twin.geometry
        self.timing = ShotTiming.of(self.profile)
        self._counts: dict[tuple[tuple[int, ...], bytes], Stats] = {}
        self._constants = bench_constants(self._parameters)
        detector = self._parameters.detector
        self._records = as_record(self._constants), as_record(detector)

    @property
    def remarks(self) -> Sequence[str]:  # type: ignore[override]
        """Source and date of a twin."""
        return () if self.profile.twin is None else (_twin_remark(self.profile),)

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
        if self.profile.twin is not None and not self.profile.twin.file:
            raise InputError(
                f"the twin of {self.profile.twin.calibration} is only in memory, so runs on it "
                "cannot be recorded; give lightloom.twin an output, or run without record"
            )
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
        matrices = int(np.prod(w.shape[:-2]))
        x = np.ascontiguousarray(x, dtype=np.float32).reshape(matrices, -1, w.shape[-1])
        shape, mask = (matrices, x.shape[1], w.shape[-2]), None
        if valid is not None:
            mask = np.broadcast_to(valid, (*w.shape[:-2], *shape[1:])).reshape(shape)
        if self._is_whole(w, x.shape[1]):
            return self._peaks(x, w.content, mask)
        return self._largest(x, _segments_of(w), mask)

    def _is_whole(self, w: PreparedWeights, rows: int) -> bool:
        """Return whether products with so many rows are compiled calls for packed weights."""
        if not isinstance(w.content, PackedWeights):
            return False
        size = rows * w.shape[-2] * w.shape[-1]
        return rows <= FEW_ROWS or fastest_path(rows, size) == LOOPS_OF_BYTES

    def _peaks(self, x: np.ndarray, weights: PackedWeights, mask: np.ndarray | None) -> np.ndarray:
        """Do what `observe` promises, in one compiled call per task."""
        (matrices, rows, _), outputs = x.shape, weights.shape[1]
        threads = _threads(x.size * outputs)
        tasks = _tasks(matrices, rows, outputs, threads, may_divide=False)
        peaks = np.zeros((len(tasks), matrices, len(weights.saturated), outputs), dtype=np.float32)
        valid = np.empty((matrices, rows, 0), dtype=bool) if mask is None else mask
        valid = np.require(valid, requirements=["C", "W"])
        none, segments = np.empty((0, 0, 0), np.float32), len(weights.saturated)
        ids, no_drift = np.zeros((matrices, rows), np.uint64), np.empty((matrices, 0), np.float32)
        operands = (x, none, ids, no_drift, valid)
        constants = as_record(self._constants._replace(source_rms=0.0)), self._records[1]
        light = np.empty((segments, matrices, rows))
        second = np.zeros((len(tasks), segments, matrices), dtype=np.int64)
        same = (constants, weights.places, product_key(0, "", 0), quantiles())
        if _multiply_all(operands, tasks, same, (light, second, peaks), threads) < 0:
            raise _too_large(x, weights)
        return (peaks.max(axis=0) * self._constants.value_unit).astype(np.float64)

    def _largest(
        self, x: np.ndarray, segments: list[WeightSegment], mask: np.ndarray | None
    ) -> np.ndarray:
        """Do what `observe` promises for any bench."""
        matrices, outputs = segments[0].weights.shape[:2]
        largest = np.zeros((matrices, len(segments), outputs))
        for matrix, rows in _blocks(matrices, x.shape[1], outputs):
            for index, segment in enumerate(segments):
                block = RowBlock(self._parameters, x[matrix, rows], segment, matrix)
                unit = segment.exposures[0].rules[0].unit
                for panel, place in block.panels(1):
                    value = block.largest(panel, place)
                    if mask is not None:
                        value = np.where(mask[matrix, rows, place], value, 0)
                    peak = largest[matrix, index, place]
                    np.maximum(peak, value.max(axis=0) * unit, out=peak)
        return largest

    def _check_operands(self, x: np.ndarray, prepared: PreparedWeights) -> None:
        super()._check_operands(x, prepared)
        if _has_grown(prepared):  # compiled code would read beyond the rows
            raise InputError(
                "these weights have grown since they were prepared; use those that prepare "
                "returned last"
            )

    def _can_grow(
        self, grown: PreparedWeights, shape: tuple[int, ...], ranges: Ranges | None
    ) -> bool:
        content = grown.content
        if not isinstance(content, PackedWeights) or not content.may_grow or _has_grown(grown):
            return False
        return super()._can_grow(grown, shape, ranges)

    def _grow(self, weights: np.ndarray, content: Any) -> bool:
        content.grow(weights.reshape(-1, *weights.shape[-2:]))
        return True

    def kept_arrays(self, w: PreparedWeights) -> Mapping[str, np.ndarray]:
        """Return packed weights as arrays: a byte a weight is read faster than it is encoded."""
        return w.content.kept_arrays() if isinstance(w.content, PackedWeights) else {}

    def restore(
        self, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], ranges: Ranges | None
    ) -> PreparedWeights | None:
        """Return packed weights from their arrays, where this process multiplies packed ones."""
        if self._twin is not None or not can_pack(self._parameters, shape[-1]):
            return None
        if not is_form_of_loops(arrays["bytes"]):
            return None
        stacked = (math.prod(shape[:-2]), *shape[-2:])
        content = PackedWeights(stacked, self._parameters, ranges, arrays)
        return PreparedWeights(shape, content, ranges, self._maker)

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> Any:
        peak = float(max(weights.max(), -weights.min()))
        if peak > LARGEST:
            raise InputError(f"weights reach {peak:.3g}; scale them to {LARGEST:g} at most")
        if self._twin is not None:
            return self._twin.prepare(weights, ranges)
        stacked = weights.reshape(-1, *weights.shape[-2:])
        if can_pack(self._parameters, weights.shape[-1]):
            packed = PackedWeights(stacked.shape, self._parameters, ranges)
            packed.grow(stacked)
            return packed
        segments = encode_weights(stacked, self.profile, ranges, dynamic=weights.ndim > 2)
        return [
            WeightSegment(segment, self.profile, self._parameters.detector) for segment in segments
        ]

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        if self._twin is not None:
            return self._twin_product(x, w, at)
        flags = x.flags
        if not (flags.c_contiguous and flags.writeable):  # kernels are compiled for it
            x = np.require(x, requirements=["C", "W"])
        matrices, rows, length = x.shape
        if self._is_whole(w, rows):
            return self._whole(x, w, at)
        outputs, segments = w.shape[-2], _segments_of(w)
        y = np.empty((matrices, rows, outputs), dtype=np.float32)
        converters = [s.converter(self.profile, w.ranges, i) for i, s in enumerate(segments)]
        reading_stats = ReadingStats(len(segments), matrices, rows)
        threads = _threads(rows * outputs * length)
        blocks = _blocks(matrices, rows, outputs)
        is_library = matrices == 1 and not LOOPS.is_used  # its product has its own threads
        spread = threads if is_library or len(blocks) < 2 * threads else 1  # else per block
        key = product_key(self.seed, at.matmul, at.attempt)

        def work(matrix: int, part: slice) -> None:
            ids, row_blocks = np.ascontiguousarray(at.rows[matrix, part]), []
            for index, segment in enumerate(segments):
                block = RowBlock(
                    self._parameters,
                    x[matrix, part],
                    segment,
                    matrix,
                    converters[index].of(matrix),
                    NoiseKeys(key, ids, index),
                )
                block.count(reading_stats, index, part)
                row_blocks.append(block)
            out = y[matrix, part]

            def read(panel: int | None, place: slice) -> None:
                for index, block in enumerate(row_blocks):
                    block.read(out, panel, place, index > 0, reading_stats, spread)

            run_all([partial(read, *panel) for panel in row_blocks[0].panels(spread)], spread)

        run_all([partial(work, *block) for block in blocks], threads if spread == 1 else 1)
        stats = self._counted((matrices, rows, length, outputs), reading_stats.second[None])
        stats.photons = float(reading_stats.photons.sum())
        stats.saturated = reading_stats.saturated + sum(s.weights.saturated for s in segments)
        stats.seconds = reading_stats.seconds
        return MatmulResult(y, stats)

    def _twin_product(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        """Multiply rows [m, N, K] with the light of a calibrated bench."""
        assert self._twin is not None
        start = time.perf_counter()
        y, variance, photons, second = self._twin.multiply(x, w.content, at)
        stats = self._counted((*x.shape, w.shape[-2]), second[None])
        stats.photons, stats.seconds = photons, {"product": time.perf_counter() - start}
        return MatmulResult(y, stats, variance)

    def _whole(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        """Multiply rows [m, N, K] in one compiled call per task."""
        start = time.perf_counter()
        weights: PackedWeights = w.content
        (matrices, rows, length), outputs = x.shape, w.shape[-2]
        y = np.empty((matrices, rows, outputs), np.float32)
        light = np.empty((len(weights.saturated), matrices, rows))
        threads = _threads(x.size * outputs)
        tasks = _tasks(matrices, rows, outputs, threads)
        second = np.zeros((len(tasks), len(light), matrices), np.int64)
        operands = (x, y, at.rows, self._drift(at.rows), _ALL)
        key, plain = product_key(self.seed, at.matmul, at.attempt), weights.plain(w.ranges)
        same = (self._records, plain, key, quantiles())
        found = _multiply_all(operands, tasks, same, (light, second, _NO_PEAKS), threads)
        if found < 0:
            raise _too_large(x, weights)
        stats = self._counted((matrices, rows, length, outputs), second)
        stats.photons = light.item() if light.size == 1 else float(light.sum())
        stats.saturated = found + sum(weights.saturated)
        stats.seconds = {"product": time.perf_counter() - start}
        return MatmulResult(y, stats)

    def _drift(self, rows: np.ndarray) -> np.ndarray:
        """Return the brightness of rows [m, n], float32; [m, 0] without drift."""
        drift = self._parameters.drift
        if drift is None:
            return np.empty((len(rows), 0), dtype=np.float32)
        return drift.factors(rows.ravel()).astype(np.float32).reshape(rows.shape)

    def _counted(self, sizes: tuple[int, int, int, int], second: np.ndarray) -> Stats:
        """Return the counts of a product that do not depend on the noise; layers share them.

        Parameters
        ----------
        sizes : matrices, rows, length and outputs
        second : rows of each task, segment and matrix that need a second exposure, int64
        """
        key = (sizes, second.tobytes())
        kept = self._counts.get(key)
        if kept is None:
            if len(self._counts) >= _KEPT_COUNTS:
                self._counts.clear()
            kept = self._counts[key] = self._count(sizes, second.sum(axis=0))
        stats = Stats.__new__(Stats)  # quicker than a copy: a token has hundreds
        stats.__dict__.update(kept.__dict__)
        return stats

    def _count(self, sizes: tuple[int, int, int, int], second: np.ndarray) -> Stats:
        """Count shots, frames, conversions and modulator samples of all segments."""
        (matrices, rows, length, outputs), profile = sizes, self.profile
        exposures = matrices * rows * len(second) + int(second.sum())
        stats = Stats(
            macs=matrices * rows * length * outputs,
            conversions=outputs * self._parameters.detector.rails * exposures,
        )
        values = matrices * outputs * profile.rails
        for (first, last), repeated in zip(cuts(length, self.geometry.inputs), second, strict=True):
            counts = tuple((rows + repeated).tolist())
            frames = frames_of(counts, outputs, self.geometry, self.timing)
            columns = last - first
            stats.shots += frames.shots
            stats.input_frames += frames.input_frames
            stats.weight_frames += frames.weight_frames
            stats.input_samples += frames.inputs_shown * profile.elements_per_input * columns
            stats.weight_samples += int(values * columns * frames.loads)
        return stats


def _twin_remark(profile: OpticsProfile) -> str:
    assert profile.twin is not None
    return f"MOCK, {profile.twin.remark}; corrections {profile.corrections}"


def mock_path() -> dict[str, str]:
    """Return how this machine computes products, noise and read-out, with the reason."""
    if COMPILED:
        noise = "one pass compiled by numba"
    else:
        noise = "numpy, since numba (extra 'fast') is not installed"
    return {"products": active_path(), "noise and read-out": noise}


def _multiply_all(
    operands: tuple[np.ndarray, ...],
    tasks: list[tuple[int, ...]],
    same: tuple[Any, ...],
    results: tuple[np.ndarray, ...],
    threads: int,
) -> int:
    """Call `kernels.multiply` once per task, and return the saturated values, or -1.

    Parameters
    ----------
    results : light; rows with an exposure of x-, of each task; and peaks of each task
    """
    multiply = compiled_loops().multiply
    light, second, peaks = results
    if len(tasks) == 1:
        peak = peaks[0] if peaks.size else peaks
        return int(multiply(operands, tasks[0], *same, (light, second[0], peak)))
    found = [0] * len(tasks)

    def work(number: int) -> None:
        peak = peaks[number] if peaks.size else _NO_PEAKS
        of_task = (light, second[number], peak)
        found[number] = multiply(operands, tasks[number], *same, of_task)

    run_all([partial(work, number) for number in range(len(tasks))], threads)
    return -1 if min(found) < 0 else sum(found)


def _has_grown(w: PreparedWeights) -> bool:
    """Return whether weights were given as `grown` to `prepare`, which returned larger ones."""
    return isinstance(w.content, PackedWeights) and w.content.shape[1:] != w.shape[-2:]


def _segments_of(w: PreparedWeights) -> list[WeightSegment]:
    """Return weights as `RowBlock` takes them; packed ones that do not grow keep that form."""
    if not isinstance(w.content, PackedWeights):
        segments: list[WeightSegment] = w.content
        return segments
    return w.content.as_segments() if len(w.shape) > 2 else w.content.kept_segments


def _threads(multiplications: int) -> int:
    """Return the number of threads for a product of this size."""
    return thread_count() if multiplications >= _WORTH_THREADS else 1


def _too_large(x: np.ndarray, weights: PackedWeights) -> InputError:
    return InputError(
        f"x reaches {np.abs(x).max():.3g}, too much for float32 times these weights: scale it to "
        f"{weights.largest:.3g} at most"
    )


def _tasks(
    matrices: int, rows: int, outputs: int, threads: int, may_divide: bool = True
) -> list[tuple[int, ...]]:
    """Divide a product into (first and last matrix, row and output), about two a thread.

    Parameters
    ----------
    may_divide : whether the outputs may be divided
    """
    step = _BLOCK_ROWS
    if threads == 1 and rows <= step:
        return [(0, matrices, 0, rows, 0, outputs)]
    if matrices > 1:
        width = -(-matrices // threads)
        parts = [(i, min(i + width, matrices)) for i in range(0, matrices, width)]
        return [
            (*part, i, min(i + step, rows), 0, outputs)
            for part in parts
            for i in range(0, rows, step)
        ]
    if threads > 1:
        step = min(step, max(32, -(-rows // (2 * threads) // 4) * 4))
    if rows <= 32 and may_divide:
        width = -(-outputs // threads // GROUP) * GROUP
        return [(0, 1, 0, rows, i, min(i + width, outputs)) for i in range(0, outputs, width)]
    return [(0, 1, i, min(i + step, rows), 0, outputs) for i in range(0, rows, step)]


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
