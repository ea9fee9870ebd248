"""`BenchBackend`: multiplies on a bench's instruments, shot by shot.

One number on its way: a row of x is scaled to a largest magnitude of 1 and split into x+ and x-;
each becomes grey levels through the input modulator's inverted curve, fills the slots of a frame,
meets the weights' frame in light, arrives as counts, is summed over its slot's pixels, and becomes
electrons. Weights were divided by the gains of their elements. The electrons are divided by the
brightness of that very shot, crosstalk of slots is undone, what darkest levels leak is taken away,
and the rest is divided by the electrons of a full-scale product. The readings of x+, x- and both
rails add up with their signs.

The same code drives simulated and real instruments. A shot whose marker, numbers or light are wrong
is repeated within the bench file's bound and counted; beyond that the bench is made safe.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...instruments import InputError
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..profile import OpticsProfile
from ..tiling import Geometry, tiles
from . import known
from .bench import Bench
from .calibrated import WANTED, Calibrated, read_calibrated
from .grey import GreyCurve
from .layouts import lay_out
from .opening import check_opening
from .shots import Shots, TileJob, TileResult
from .theory import matching_profile, typical_full_e
from .tracking import ScaleTracker


@dataclass(frozen=True)
class Encoded:
    """Numbers as shares of full light, and what to put back digitally.

    Parameters
    ----------
    signs : of the rails
    shares : of full light above darkness, float64 [rails, ..., length of a slot]
    scale, low : number = scale * share * sign + low, [..., 1]
    """

    signs: tuple[int, ...]
    shares: np.ndarray
    scale: np.ndarray
    low: np.ndarray


@dataclass(frozen=True)
class Laid:
    """Where the rows of a job's weights lie, and how they became light.

    Parameters
    ----------
    slots, matrix, row : of each row shown, int [n]
    vectors : row of x that each meets, int [shots, n], or -1
    full_e : electrons of a product of two shares of 1, float64 [n]
    leaked_e : electrons of these weights and a dark input, float64 [n]
    """

    slots: np.ndarray
    matrix: np.ndarray
    row: np.ndarray
    vectors: np.ndarray
    full_e: np.ndarray
    leaked_e: np.ndarray


class BenchBackend(Backend):
    """Multiplies on a bench.

    Parameters
    ----------
    bench : not open, or open; the backend opens it when it first multiplies
    uncalibrated : run on a guess where the bench has no calibration; its numbers are not to be
        trusted

    Attributes
    ----------
    faults : reason -> how often a shot was repeated for it
    shots : takes them, once the bench is open
    """

    name = "bench"

    def __init__(self, bench: Bench, uncalibrated: bool = False) -> None:
        super().__init__()
        self._calibrated: Calibrated | None = None
        self._guesses = False
        if bench.file.calibration == "known":
            known.only_simulated(bench)
        elif uncalibrated:
            self._guesses = True
        else:
            self._calibrated = read_calibrated(bench)
        self.bench = bench
        self.is_mock = bench.is_simulated
        self.faults: dict[str, int] = {}
        self.shots: Shots | None = None
        self._profile: OpticsProfile | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._is_open = False

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Connect the instruments, lay out the bench and switch the light on."""
        if self._is_open:
            return
        bench = self.bench
        try:
            if not bench.input.is_connected:
                bench.open()
            self._lay_out()
            bench.source.enable()
            self._begin_shots()
            if self._guesses:
                self._guess_brightness()
            elif self._calibrated is not None and not bench.is_timing_only:
                check_opening(self, self._take_known)
        except BaseException:
            bench.close()
            raise
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="lightloom-bench")
        self._is_open = True

    def _lay_out(self) -> None:
        """Find out, or be told, what the bench's light is like, and where numbers lie in it."""
        self._profile = None
        bench, file = self.bench, self.bench.file
        if self._calibrated is not None:
            self._calibrated.calibration.check(bench, WANTED, file.calibration_lasts_s)
            self.optics = self._calibrated.optics(bench)
        else:
            self.optics = (
                known.nominal_optics(bench) if self._guesses else known.known_optics(bench)
            )
        self.layout = lay_out(bench, self.optics)
        self.curves = {role: GreyCurve(table) for role, table in self.optics.tables.items()}
        if self._calibrated is not None:
            self.response = self._calibrated.response(self.layout)
        elif self._guesses:
            self.response = known.response_of(self.layout, np.ones(bench.weight.shape))
        else:
            self.response = known.known_response(bench, self.layout)

    def _begin_shots(self) -> None:
        """Make what takes shots, with what is known of the bench now."""
        if self.shots is not None:
            self.shots.close()
        calibrated = self._calibrated
        settling_s = dict.fromkeys(self.curves, 0.0)
        if calibrated is not None:
            settling_s = {role: calibrated.settling_s(role) for role in self.curves}
        self.shots = Shots(
            self.bench,
            self.layout,
            self.optics,
            self.response,
            self.curves,
            None if calibrated is None else calibrated.tracker(),
            0 if calibrated is None else calibrated.reference_every,
            settling_s,
            self._guesses,
            self.faults,
        )

    def _guess_brightness(self) -> None:
        """Take one shot of weights and inputs that are alike, and believe that all slots are."""
        layout, light = self.layout, self.layout.reference_light / 2  # nobody knows how bright
        rows = {"weight": layout.slots, "input": 1 if layout.shares_input else layout.slots}
        levels = {
            role: self.curves[role].levels(np.full((count, layout.length), light))
            for role, count in rows.items()
        }
        found = self._take_known("guess", levels["input"], levels["weight"])[0]
        per_pair = max(float(found.mean()) / (layout.length * light**2), 1e-3)
        pairs = np.full((layout.slots, layout.length), per_pair)
        self.response = replace(self.response, pairs_e=pairs)
        self._begin_shots()

    @property
    def tracker(self) -> ScaleTracker | None:
        """Give what follows the light's drift; None where nobody measured how it drifts."""
        return None if self.shots is None else self.shots.tracker

    @property
    def references(self) -> int:
        """Give how many reference shots were taken."""
        return 0 if self.shots is None else self.shots.references

    def close(self) -> None:
        """Stop after the shot that is being taken, switch the light off, let instruments go."""
        if self.shots is not None:
            self.shots.stops.set()
        try:
            if self._worker is not None:
                self._worker.shutdown(cancel_futures=True)
            if self.shots is not None:
                self.shots.close()
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
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether it is known, and not guessed, what the bench does to light."""
        return not self._guesses

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Give sentences for the report of a run: calibration, light, and where that drifted.

        Nothing is told before the bench was open; telling never opens it.
        """
        if self._guesses:
            return (
                f"NOT CALIBRATED: {self.bench.path} ran on a guess of its registration, curves and "
                "brightness; its numbers are not to be trusted",
            )
        if self._profile is None:
            return ()
        light = f"{self.typical_full_e:,.0f} photoelectrons per full-scale product of two elements"
        if self._calibrated is None:
            return (f"calibrated by the simulation's own truth; {light}",)
        calibration = self._calibrated.calibration
        ended = 1.0 if self.tracker is None else self.tracker.slow
        return (
            f"calibration {calibration.path}, {calibration.age_s(WANTED) / 3600:.1f} hours old; "
            f"{light}",
            f"{self.references:,} reference shots were taken; the light ended at {ended:.3f} times "
            "that of calibration",
        )

    @property
    def typical_full_e(self) -> float:
        """Give the electrons of a product of full scale, for normally distributed weights."""
        return typical_full_e(self)

    @property
    def profile(self) -> OpticsProfile:
        """The mock's profile of this bench: what theory says its noise and steps are."""
        if self._profile is None:  # a report that is written after a run switches no light on
            self.open()
            self._profile = matching_profile(self)
        return self._profile

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[Encoded]:
        """Encode weights [..., M, K] segment by segment: shares [rails, m, M, length]."""
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
        """Scale rows [..., K] to shares of full light, rail by rail; pad them to a slot."""
        values = values.astype(np.float64)
        kind = self.bench.file.encoding.kind
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
        short = self.layout.length - values.shape[-1]
        shares = np.pad(np.clip(shares, 0, 1), [(0, 0)] * (shares.ndim - 1) + [(0, short)])
        return Encoded(signs, shares, scale, low)

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        self.open()
        matrices, rows, length = x.shape
        outputs = w.shape[-2]
        y, variance = np.zeros((2, matrices, rows, outputs))
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
            product, noise = self._segment(shown, weights, name, check, stats)
            y += product
            variance += noise
        return MatmulResult(y.astype(np.float32), stats, variance.astype(np.float32))

    def _segment(
        self, x: Encoded, w: Encoded, name: str, values: np.ndarray, stats: Stats
    ) -> tuple[np.ndarray, np.ndarray]:
        """Multiply one segment: products and their variances, float64 [m, N, M]."""
        rails = len(w.signs)
        _, m, outputs, length = w.shares.shape
        # rails of an output are neighbours: rows of one tall matrix
        tall = np.moveaxis(w.shares, 0, 2).reshape(m, outputs * rails, length)
        signs = np.tile(w.signs, outputs)
        total, noise = np.zeros((2, m, values.shape[1], outputs * rails))
        for index, sign in enumerate(x.signs):
            if sign < 0 and not (values < 0).any():
                continue
            levels = self.curves["input"].levels(x.shares[index])
            found, variance = self._exposure(levels, tall, f"{name}/{sign}", stats)
            total += sign * found
            noise += variance
        scale = x.scale * np.swapaxes(w.scale, -1, -2)
        y = (total * signs).reshape(m, -1, outputs, rails).sum(axis=-1) * scale
        noise = noise.reshape(m, -1, outputs, rails).sum(axis=-1) * scale**2
        if self.bench.file.encoding.kind == "offset":
            kept = values.shape[-1]
            light = self.curves["input"].light[levels][..., :kept]
            u = light.sum(axis=-1, keepdims=True) * x.scale
            v = w.shares[0][..., :kept].sum(axis=-1, keepdims=True) * w.scale
            low_w = np.swapaxes(w.low, -1, -2)
            y = y + x.low * np.swapaxes(v, -1, -2) + u * low_w + kept * x.low * low_w
        return np.asarray(y), np.asarray(noise)

    def _exposure(
        self, x: np.ndarray, w: np.ndarray, name: str, stats: Stats
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expose levels x [m, N, K] to shares w [m, R, K]: products, variances [m, N, R]."""
        result, noise = np.zeros((2, *x.shape[:2], w.shape[1]))
        dark = self.layout.read_pixels() * (self.read_variance + self.optics.dark_e)
        pending = []
        for job, laid in self._jobs(x, w, name):
            pending.append((self.submit(job), laid))
            stats.weight_frames += 1
            stats.weight_samples += int(laid.slots.size * x.shape[-1])
        lit = self.curves["input"].light[x].sum(axis=-1)  # [m, N]
        for future, laid in pending:
            try:
                done: TileResult = future.result()
            except BaseException:
                self.close()
                raise
            start = time.perf_counter()
            shot, place = np.nonzero(laid.vectors >= 0)
            vector, matrix = laid.vectors[shot, place], laid.matrix[place]
            electrons = done.electrons[shot, laid.slots[place]]
            leaked = laid.leaked_e[place] + self._leak_e[laid.slots[place]] * lit[matrix, vector]
            at = (matrix, vector, laid.row[place])
            result[at] = (electrons - leaked) / laid.full_e[place]
            noise[at] = (np.maximum(electrons, 0) + dark[laid.slots[place]]) / laid.full_e[
                place
            ] ** 2
            stats.photons += float(electrons.sum())
            stats.seconds["decode"] = stats.seconds.get("decode", 0.0) + time.perf_counter() - start
            stats.add(done.stats)
        return result, noise

    def _jobs(self, x: np.ndarray, w: np.ndarray, name: str) -> Iterator[tuple[TileJob, Laid]]:
        """Pack tiles and vectors into frames.

        A frame holds groups of slots, each with a tile of some matrix and a vector of its own.
        Small matrices share a frame; where slots are left, a tile is shown several times, for
        several vectors at once. Slots that share one input take one tile and one vector.
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
            shares = np.zeros((layout.slots, layout.length))
            inputs = np.zeros((shots, len(chunk), layout.length), dtype=x.dtype)
            lies = np.full(layout.slots, -1)
            place, matrices, rows, vectors = [], [], [], []
            for group, ((matrix, top, bottom), copy) in enumerate(chunk):
                start = group * tallest
                slots = np.arange(start, start + bottom - top)
                shares[slots] = w[matrix, top:bottom]
                lies[slots] = group
                mine = np.arange(copy, count, copies)
                inputs[: len(mine), group] = x[matrix, mine]
                sequence = np.full(shots, -1)
                sequence[: len(mine)] = mine
                place.append(slots)
                matrices.append(np.full(len(slots), matrix))
                rows.append(np.arange(top, bottom))
                vectors.append(np.repeat(sequence[:, None], len(slots), axis=1))
            slots = np.concatenate(place)
            levels, full_e, leaked_e = self.weigh(shares)
            yield (
                TileJob(f"{name}/{first}", levels, inputs, lies),
                Laid(
                    slots,
                    np.concatenate(matrices),
                    np.concatenate(rows),
                    np.concatenate(vectors, axis=1),
                    full_e[slots],
                    leaked_e[slots],
                ),
            )

    def weigh(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide shares [slots, length] by the gains of their elements, as far as these allow.

        Returns
        -------
        levels : grey levels, [slots, length]
        full_e : electrons that a product of two shares of 1 brings, [slots]
        leaked_e : electrons of these weights and a dark input, [slots]
        """
        response, curve = self.response, self.curves["weight"]
        needed = shares / response.pairs_e
        full_e = response.pairs_e.mean(axis=1)
        full_e = np.minimum(full_e, 1 / np.maximum(needed.max(axis=1), 1e-30))
        levels = curve.levels(needed * full_e[:, None])
        lit_e = np.einsum("sk,sk->s", response.pairs_e, curve.light[levels])
        all_e = response.pairs_e.sum(axis=1)
        leaked_e = response.input_leak * (lit_e + response.weight_leak * all_e)
        return levels, full_e, leaked_e + response.offset_e

    @property
    def read_variance(self) -> float:
        """Give the variance of a detector pixel, or window: read noise and converter steps."""
        step = 0.0 if self.bench.file.layout == "block" else self.optics.gain_e_per_count
        return self.optics.read_noise_e**2 + step**2 / 12

    @property
    def _leak_e(self) -> np.ndarray:
        """Give the electrons that dark weights pass of an input element of full light, [slots]."""
        return self.response.weight_leak * self.response.pairs_e.mean(axis=1)

    # --- shots -----------------------------------------------------------------------------------

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Put a job into the bench's queue; its shots are taken in the order of submission."""
        self.open()
        assert self._worker is not None
        return self._worker.submit(self._run, job)

    def _run(self, job: TileJob) -> TileResult:
        assert self.shots is not None
        try:
            return self.shots.run(job)
        except BaseException:
            self.shots.stops.set()  # jobs that wait end at once
            self.bench.close()  # light off first
            raise

    def _take_known(
        self, name: str, inputs: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take one shot of known frames: electrons [slots], and what they should be."""
        job = TileJob(name, weights, inputs[None], np.arange(self.layout.slots))
        electrons = self._run(job).electrons[0]
        assert self.shots is not None
        return electrons, self.shots.passed_e(inputs, weights)
