"""`BenchBackend`: multiplies on a bench's instruments, shot by shot.

One number on its way: a row of x is scaled to a largest magnitude of 1 and split into x+ and x-;
each becomes grey levels through the input modulator's inverted curve, fills the slots of a frame,
meets the weights' frame in light, arrives as counts, is summed over its slot's pixels, becomes
electrons, and is divided by the electrons of a full-scale pair. What the modulators' darkest level
leaks is taken away digitally, and the readings of x+, x- and both rails add up with their signs.

The same code drives simulated and real instruments. A shot whose marker, numbers or light are wrong
is repeated within the bench file's bound and counted; beyond that the bench is made safe.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np

from ...instruments import (
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentTimeout,
    NotConnected,
    Saturated,
    Shot,
    Shown,
    StaleFrame,
    WrongLight,
)
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..profile import OpticsProfile
from ..tiling import Geometry, tiles
from .bench import Bench
from .layouts import LAYOUTS, Layout, Optics

_REPEATABLE = (StaleFrame, DroppedFrame, IncompleteFrame, InstrumentTimeout, WrongLight)
_WINDOW_SAMPLES = 16  # of a photodiode's window
_REFERENCE = -1  # the number of a job's reference shot
_REFERENCE_OFF, _REFERENCE_FLOOR = 0.3, 0.01  # share of its own light, and of full light


@dataclass(frozen=True)
class Encoded:
    """Numbers as grey levels, and what to put back digitally.

    Parameters
    ----------
    signs : of the rails
    levels : grey levels [rails, ..., K]
    light : what they pass, float64 [rails, ..., K]
    scale, low : number = scale * (light - leak) / (1 - leak) * sign + low, [..., 1]
    """

    signs: tuple[int, ...]
    levels: np.ndarray
    light: np.ndarray
    scale: np.ndarray
    low: np.ndarray


@dataclass(frozen=True)
class TileJob:
    """One weight frame and the input vectors that pass through it.

    Parameters
    ----------
    name : of the job, the address of its shots
    weights : grey levels [slots, length]
    inputs : grey levels [shots, vectors, length]
    lies : which of the vectors each slot meets, int [slots]
    """

    name: str
    weights: np.ndarray
    inputs: np.ndarray
    lies: np.ndarray


@dataclass(frozen=True)
class TileResult:
    """Photoelectrons [shots, slots] of a job, and what it took."""

    electrons: np.ndarray
    stats: Stats


class BenchBackend(Backend):
    """Multiplies on a bench.

    Parameters
    ----------
    bench : not open, or open; the backend opens it when it first multiplies

    Attributes
    ----------
    faults : reason -> how often a shot was repeated for it
    """

    name = "bench"

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        file = bench.file
        if file.calibration != "known" or not bench.is_simulated:
            raise InputError(
                f"{bench.path}: calibration = {file.calibration!r}: only a simulated bench knows "
                "its own truth, and calibration files are not here yet; `lightloom check` tries "
                "the instruments"
            )
        self.bench = bench
        self.is_mock = bench.is_simulated
        self.faults: dict[str, int] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._stops = Event()
        self._is_open = False
        self._numbers = {"input": 0, "weight": 0}
        self._shots = 0
        self._shown: dict[str, tuple[Shown, np.ndarray] | None] = {"input": None, "weight": None}

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Connect the instruments, lay out the bench and switch the light on."""
        if self._is_open:
            return
        bench, file = self.bench, self.bench.file
        try:
            if not bench.input.is_connected:
                bench.open()
            self.optics = _known_optics(bench)
            shapes = {"input": bench.input.shape, "weight": bench.weight.shape}
            dtypes = {"input": bench.input.dtype, "weight": bench.weight.dtype}
            try:
                self.layout: Layout = LAYOUTS[file.layout](
                    file.encoding, shapes, dtypes, self.optics
                )
            except InputError as error:
                raise InputError(f"{bench.path}: encoding: {error}") from None
            self._leaks = {role: float(table[0]) for role, table in self.optics.tables.items()}
            bench.source.enable()
            if file.layout == "block":
                for counter in (0, 1):
                    bench.daq.reset_count(counter)
                self._numbers = {"input": 0, "weight": 0}
            else:
                bench.camera.arm()
        except BaseException:
            bench.close()
            raise
        self._shown = {"input": None, "weight": None}
        self._stops.clear()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="lightloom-bench")
        self._is_open = True

    def close(self) -> None:
        """Stop after the shot that is being taken, switch the light off, let instruments go."""
        self._stops.set()
        try:
            if self._worker is not None:
                self._worker.shutdown(cancel_futures=True)
        finally:
            self._worker, self._is_open = None, False
            self.bench.close()

    def warm_up(self) -> None:
        """Open the bench, and compile what is compiled."""
        self.open()
        super().warm_up()

    def describe(self) -> Mapping[str, Any]:
        """Give the bench file and a snapshot of every instrument, for the record of a run."""
        return {**super().describe(), "bench": self.bench.describe()}

    @property
    def profile(self) -> OpticsProfile:
        """The mock's profile of this bench: what theory says its noise and steps are."""
        self.open()
        return matching_profile(self)

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[Encoded]:
        """Encode weights [..., M, K] segment by segment: levels [rails, m, M, length]."""
        self.open()
        stacked = weights.reshape(-1, *weights.shape[-2:])
        largest = None
        if ranges is not None and ranges.weight is not None:
            largest = np.broadcast_to(ranges.weight.max(axis=-1, keepdims=True), weights.shape)
            largest = largest[..., :1].reshape(*stacked.shape[:-1], 1)
        return [
            self._encode(stacked[..., tile.columns], "weight", largest)
            for tile in tiles((1, weights.shape[-1]), Geometry(None, self.layout.length))
        ]

    def _encode(self, values: np.ndarray, role: str, largest: np.ndarray | None = None) -> Encoded:
        """Scale rows [..., K] and find the grey levels whose light is nearest; pad to a slot."""
        values = values.astype(np.float64)
        table = self.optics.tables[role].astype(np.float64)
        leak, kind = table[0], self.bench.file.encoding.kind
        low = np.zeros((*values.shape[:-1], 1))
        signs: tuple[int, ...]
        if kind == "offset":
            low = values.min(axis=-1, keepdims=True)
            scale = values.max(axis=-1, keepdims=True) - low
            signs, parts = (1,), [values - low]
        else:
            scale = np.abs(values).max(axis=-1, keepdims=True) if largest is None else largest
            signs, parts = (1, -1), [np.maximum(values, 0), np.maximum(-values, 0)]
        scale = np.where(scale > 0, scale, 1.0)
        shares = np.stack(parts) / scale
        if kind == "push-pull" and role == "weight":
            shares = np.stack([(1 + values / scale) / 2, (1 - values / scale) / 2])
        wanted = leak + (table[-1] - leak) * np.clip(shares, 0, 1)
        levels = np.searchsorted((table[1:] + table[:-1]) / 2, wanted)
        short = self.layout.length - values.shape[-1]
        levels = np.pad(levels, [(0, 0)] * (levels.ndim - 1) + [(0, short)])
        kind_of = np.uint8 if len(table) <= 256 else np.uint16
        return Encoded(signs, levels.astype(kind_of), table[levels], scale, low)

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        self.open()
        matrices, rows, length = x.shape
        outputs = w.shape[-2]
        y = np.zeros((matrices, rows, outputs))
        stats = Stats(macs=x.size * outputs)
        for tile in tiles((1, length), Geometry(None, self.layout.length)):
            start = time.perf_counter()
            check = x[..., tile.columns]
            if not np.isfinite(check).all():
                raise InputError("x has values that are not finite")
            shown = self._encode(check, "input")
            stats.seconds["encode"] = stats.seconds.get("encode", 0.0) + time.perf_counter() - start
            weights = w.content[tile.segment]
            name = f"{at.matmul}/{at.attempt}/{tile.segment}"
            y += self._segment(shown, weights, name, check, stats)
        return MatmulResult(y.astype(np.float32), stats)

    def _segment(
        self, x: Encoded, w: Encoded, name: str, values: np.ndarray, stats: Stats
    ) -> np.ndarray:
        """Multiply one segment: float64 [m, N, M]."""
        rails = len(w.signs)
        _, m, outputs, length = w.levels.shape
        # rails of an output are neighbours: rows of one tall matrix
        tall = np.moveaxis(w.levels, 0, 2).reshape(m, outputs * rails, length)
        light = np.moveaxis(w.light, 0, 2).reshape(m, outputs * rails, length)
        signs = np.tile(w.signs, outputs)
        total = np.zeros((m, values.shape[1], outputs * rails))
        for index, sign in enumerate(x.signs):
            if sign < 0 and not (values < 0).any():
                continue
            electrons = self._exposure(x.levels[index], tall, f"{name}/{sign}", stats)
            start = time.perf_counter()
            total += sign * self._signal(electrons, x.light[index], light)
            stats.seconds["decode"] += time.perf_counter() - start
        signed = (total * signs).reshape(m, -1, outputs, rails).sum(axis=-1)
        wide, tall_scale = x.scale, np.swapaxes(w.scale, -1, -2)
        y = signed * wide * tall_scale
        if self.bench.file.encoding.kind == "offset":
            fx, fw = self._leaks["input"], self._leaks["weight"]
            kept = values.shape[-1]
            u = ((x.light[0][..., :kept] - fx) / (1 - fx)).sum(axis=-1, keepdims=True) * x.scale
            v = ((w.light[0][..., :kept] - fw) / (1 - fw)).sum(axis=-1, keepdims=True) * w.scale
            low_w = np.swapaxes(w.low, -1, -2)
            y = y + x.low * np.swapaxes(v, -1, -2) + u * low_w + kept * x.low * low_w
        return np.asarray(y)

    def _signal(self, electrons: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Take away what darkest levels leak: sum (t_x - f_x)(t_w - f_w), [m, N, rails M]."""
        fx, fw = self._leaks["input"], self._leaks["weight"]
        leaked = fx * w.sum(axis=-1)[:, None, :] + fw * x.sum(axis=-1)[:, :, None]
        pairs = electrons - leaked + x.shape[-1] * fx * fw
        return np.asarray(pairs / ((1 - fx) * (1 - fw)))

    def _exposure(self, x: np.ndarray, w: np.ndarray, name: str, stats: Stats) -> np.ndarray:
        """Expose levels x [m, N, K] to levels w [m, R, K]: electron pairs, float64 [m, N, R]."""
        result = np.zeros((*x.shape[:2], w.shape[1]))
        pending = []
        for job, slots, rows in self._jobs(x, w, name):
            pending.append((self.submit(job), slots, rows))
            stats.weight_frames += 1
            stats.weight_samples += int(slots[0].size * x.shape[-1])
        for future, (place, matrix, row), vectors in pending:
            try:
                done: TileResult = future.result()
            except BaseException:
                self.close()
                raise
            pairs = done.electrons[:, place] / self.layout.scale_e[place]
            valid = vectors >= 0
            shot, slot = np.nonzero(valid)
            result[matrix[slot], vectors[shot, slot], row[slot]] = pairs[shot, slot]
            stats.photons += float(done.electrons[:, place][valid].sum())
            stats.add(done.stats)
        return result

    def _jobs(
        self, x: np.ndarray, w: np.ndarray, name: str
    ) -> Iterator[tuple[TileJob, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]:
        """Pack tiles and vectors into frames.

        A frame holds groups of slots, each with a tile of some matrix and a vector of its own.
        Small matrices share a frame; where slots are left, a tile is shown several times, for
        several vectors at once. Slots that share one input take one tile and one vector.

        Yields
        ------
        job, (slots, matrix, row of each), vectors : vectors int [shots, slots]: row of x, or -1
        """
        layout = self.layout
        m, count = x.shape[:2]
        geometry = Geometry(layout.slots, None)
        cut = [
            (matrix, tile.first_row, tile.last_row)
            for matrix in range(m)
            for tile in tiles((w.shape[1], w.shape[2]), geometry)
        ]
        tallest = max(last - first for _, first, last in cut)
        groups = 1 if layout.shares_input else max(layout.slots // tallest, 1)
        copies = max(1, min(groups // min(len(cut), groups), count))
        per_frame = max(groups // copies, 1)
        shots = -(-count // copies)
        for first in range(0, len(cut), per_frame):
            chunk = [
                (task, copy) for task in cut[first : first + per_frame] for copy in range(copies)
            ]
            weights = np.zeros((layout.slots, layout.length), dtype=w.dtype)
            inputs = np.zeros((shots, len(chunk), layout.length), dtype=x.dtype)
            lies = np.full(layout.slots, -1)
            place, matrices, rows, vectors = [], [], [], []
            for group, ((matrix, top, bottom), copy) in enumerate(chunk):
                start = group * tallest
                slots = np.arange(start, start + bottom - top)
                weights[slots] = w[matrix, top:bottom]
                lies[slots] = group
                mine = np.arange(copy, count, copies)
                inputs[: len(mine), group] = x[matrix, mine]
                sequence = np.full(shots, -1)
                sequence[: len(mine)] = mine
                place.append(slots)
                matrices.append(np.full(len(slots), matrix))
                rows.append(np.arange(top, bottom))
                vectors.append(np.repeat(sequence[:, None], len(slots), axis=1))
            job = TileJob(f"{name}/{first}", weights, inputs, lies)
            where = (np.concatenate(place), np.concatenate(matrices), np.concatenate(rows))
            yield job, where, np.concatenate(vectors, axis=1)

    # --- shots -----------------------------------------------------------------------------------

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Put a job into the bench's queue; its shots are taken in the order of submission."""
        self.open()
        assert self._worker is not None
        return self._worker.submit(self._run, job)

    def _run(self, job: TileJob) -> TileResult:
        stats = Stats()
        stats.seconds = dict.fromkeys(("encode", "product", "decode"), 0.0)
        try:
            self._show("weight", job.weights, stats)
            if self.bench.file.layout == "block" and not self.bench.is_timing_only:
                self._reference(job, stats)
            electrons = np.zeros((len(job.inputs), self.layout.slots))
            for number, vectors in enumerate(job.inputs):
                levels = vectors[:1]
                if not self.layout.shares_input:
                    levels = np.where(job.lies[:, None] >= 0, vectors[job.lies], 0)
                electrons[number] = self._shot(job, number, levels, stats)
        except BaseException:
            self._stops.set()  # jobs that wait end at once
            self.bench.close()  # light off first
            raise
        return TileResult(electrons, stats)

    def _reference(self, job: TileJob, stats: Stats) -> None:
        """Show weights the brightest input: one photodiode sees no marker, but it sees this."""
        tables = self.optics.tables
        bright = np.full((1, self.layout.length), len(tables["input"]) - 1)
        expected = self.layout.scale_e * tables["weight"][job.weights].sum(axis=1)
        self._shot(job, _REFERENCE, bright.astype(job.inputs.dtype), stats, expected)

    def _check_reference(self, electrons: np.ndarray, expected: np.ndarray) -> None:
        full = self.layout.scale_e * self.layout.length
        noise = 6 * np.sqrt(expected + self.optics.read_noise_e**2)
        off = np.abs(electrons - expected) - noise
        if (off > _REFERENCE_OFF * expected + _REFERENCE_FLOOR * full).any():
            raise WrongLight(
                f"a reference shot brought {electrons[0]:.3g} electrons where the weights pass "
                f"{expected[0]:.3g}: check the source, and that nothing stands in the beam"
            )

    def _shot(
        self,
        job: TileJob,
        number: int,
        levels: np.ndarray,
        stats: Stats,
        expected: np.ndarray | None = None,
    ) -> np.ndarray:
        """Take one shot, and repeat it when it cannot be trusted: electrons [slots].

        Parameters
        ----------
        expected : electrons of a reference shot, float64 [slots]
        """
        limit = self.bench.file.limits.retries
        if self._stops.is_set():
            raise NotConnected(f"{self.bench.path}: the bench was closed before {job.name}")
        self._show("input", levels, stats)
        for attempt in range(limit + 1):
            self._shots += 1
            stats.shots += 1
            shot = Shot(f"{job.name}/{number}/{attempt}", self._shots)
            try:
                electrons = self._expose(shot, stats)
                if expected is not None:
                    self._check_reference(electrons, expected)
                return electrons
            except _REPEATABLE as error:
                reason = type(error).__name__
                self.faults[reason] = self.faults.get(reason, 0) + 1
                stats.retries += 1
                if attempt == limit:
                    raise type(error)(
                        f"shot {job.name}/{number} failed {limit + 1} times, the last time: "
                        f"{error}; the bench was made safe"
                    ) from error
                self._recover(job, levels, stats)
        raise AssertionError("unreachable")

    def _recover(self, job: TileJob, levels: np.ndarray, stats: Stats) -> None:
        """Throw away what is on its way, and show both frames anew."""
        if self.bench.file.layout != "block":
            self.bench.camera.arm()
        self._show("weight", job.weights, stats)
        self._show("input", levels, stats)

    def _show(self, role: str, levels: np.ndarray, stats: Stats) -> None:
        start = time.perf_counter()
        number = self._numbers[role] = self._numbers[role] + 1
        frame = self.layout.frame(role, levels, number)
        stats.seconds["encode"] += time.perf_counter() - start
        modulator = self.bench.input if role == "input" else self.bench.weight
        self._shown[role] = (modulator.show(frame), levels)
        if role == "input":
            stats.input_frames += 1
            stats.input_samples += levels.size

    def _expose(self, shot: Shot, stats: Stats) -> np.ndarray:
        """Wait until both frames have settled, expose, and read: electrons [slots]."""
        bench, file = self.bench, self.bench.file
        start = time.perf_counter()
        for role, modulator in (("input", bench.input), ("weight", bench.weight)):
            shown = self._shown[role]
            assert shown is not None
            modulator.wait_until_settled(shown[0])
        timeout_s = file.limits.timeout_s
        if file.layout == "block":
            samples = bench.daq.read(
                (0,), _WINDOW_SAMPLES, _WINDOW_SAMPLES / file.exposure_s, timeout_s, shot
            )
            taken, top = samples.volts, bench.daq.input_range_v[1]
            self._check_counters()
        else:
            bench.camera.trigger(shot)
            frame = bench.camera.read(timeout_s)
            taken, top = frame.data, (1 << bench.camera.bit_depth) - 1
        stats.seconds["product"] += time.perf_counter() - start
        start = time.perf_counter()
        if bench.is_timing_only:
            return self._without_light()
        if taken.max() >= top:
            raise Saturated(
                f"shot {shot.address}: the detector is full ({int((taken >= top).sum())} samples "
                f"at {top:g}); lower power_w or exposure_s in {bench.path}"
            )
        shown = self._shown["input"]
        assert shown is not None
        mean_input = float(self.optics.tables["input"][shown[1]].mean())
        self._check_numbers(self.layout.numbers(taken, mean_input))
        electrons = self.layout.electrons(taken)
        stats.conversions += electrons.size
        stats.seconds["decode"] += time.perf_counter() - start
        return electrons

    def _without_light(self) -> np.ndarray:
        """Give what ideal light would bring, where none is simulated: electrons [slots]."""
        lights = []
        for role in ("input", "weight"):
            shown = self._shown[role]
            assert shown is not None
            lights.append(self.optics.tables[role][shown[1]])
        return np.asarray(
            np.einsum("sk,sk->s", *np.broadcast_arrays(*lights)) * self.layout.scale_e
        )

    def _check_numbers(self, found: dict[str, int]) -> None:
        for role, number in found.items():
            wanted = self._numbers[role] % (1 << self.layout.marker_bits)
            if number != wanted:
                raise StaleFrame(
                    f"the light is that of {role} frame {number}, not of frame {wanted}: the "
                    "modulator did not show it, or the detector gave an old exposure"
                )

    def _check_counters(self) -> None:
        for counter, role in enumerate(("input", "weight")):
            counted = self.bench.daq.count(counter)
            wanted = self._numbers[role]
            if counted != wanted:
                self._numbers[role] = counted
                raise StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {wanted} were shown"
                )


def _known_optics(bench: Bench) -> Optics:
    """Ask a simulated bench for the truth that calibration is to find."""
    assert bench.world is not None
    file = bench.file
    on_camera = file.layout != "block"
    sensor = bench.camera.sensor_shape if on_camera else (1, 1)
    truth = bench.world.truth(sensor)
    if on_camera:
        camera = bench.camera
        device: Any = camera
        offset, gain = camera.offset_counts, camera.gain_e_per_count
        assert offset is not None and gain is not None
        noise = device.read_noise_e
        dark = device.dark_e_per_s * file.exposure_s + truth["stray_e_per_s"] * file.exposure_s
    else:
        options = bench.daq.options
        offset, gain = 0.0, 1 / options.volts_per_electron
        noise = options.read_noise_e * math.sqrt(_WINDOW_SAMPLES)
        dark = (options.dark_e_per_s + truth["stray_e_per_s"]) * file.exposure_s
    per_pixel = truth["electrons_per_pixel_j"] * file.power_w * file.exposure_s
    return Optics(
        truth["tables"],
        truth["input_map"],
        truth["camera_map"],
        truth["gains"],
        per_pixel,
        sensor,
        offset,
        gain,
        dark,
        noise,
    )


def matching_profile(backend: BenchBackend) -> OpticsProfile:
    """Give the profile with which the mock multiplies as this bench does.

    A camera's pixels have read noise and steps of their own, so a slot's are sqrt(pixels) times
    those; the steps are part of the read noise here. Grey levels serve one sign each, so a rail of
    b bits has as many levels on each side of zero as a signed number of b + 1 bits.
    """
    layout, bench = backend.layout, backend.bench
    file, pixels = bench.file, layout.read_pixels()
    kind = file.encoding.kind
    if file.layout == "block":
        options = bench.daq.options
        low, high = bench.daq.input_range_v
        step = (high - low) / ((1 << (bench.daq.bit_depth or 16)) - 1) / options.volts_per_electron
        noise, samples = options.read_noise_e, float(_WINDOW_SAMPLES)
    else:
        device: Any = bench.camera
        step, noise = backend.optics.gain_e_per_count, device.read_noise_e
        samples = pixels
    leak = backend._leaks["input"]
    bits = 8 if kind == "offset" else 9
    return OpticsProfile(
        name=file.name or "bench",
        title=f"what theory says of {bench.path}",
        input_bits=bits,
        weight_bits=8 if kind in ("push-pull", "offset") else bits,
        encoding=kind,
        detection="per-reading",
        photons_full_scale=float(layout.scale_e.mean()),
        read_noise_e=math.sqrt(samples * (noise**2 + step**2 / 12)),
        dark_e=backend.optics.dark_e * pixels + layout.leaked_e,
        extinction_ratio=1 / leak if leak else None,
        rows=max(layout.slots, 2),
        length=layout.length,
        input_refresh_s=bench.input.refresh_period_s,
        input_settle_s=bench.input.settle_time_s,
        weight_refresh_s=bench.weight.refresh_period_s,
        weight_settle_s=bench.weight.settle_time_s,
        exposure_s=file.exposure_s,
        readout_s=0.0 if file.layout == "block" else bench.camera.readout_s,
    )
