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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import Any

import numpy as np

from ...instruments import ChecksumMismatch, InputError, NotConnected, Paused, Timeline
from ...instruments.safety import signals
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..optics.model import OpticalModel
from ..optics.response_curve import ResponseCurve
from ..profile import OpticsProfile
from ..tiling import Geometry, tiles
from ..timing import ShotTiming
from . import ground_truth
from .bench import Bench, lay_out
from .binding import check_calibration
from .calibrated_optics import WANTED, Calibrated, read_calibrated
from .checkpoint import Recorder
from .checksum import ChecksumStats, with_checks
from .decoding import Decoder
from .light_check import refuse_darkness
from .noise_model import bench_timing, matching_profile
from .operand import EncodedOperand, encode_weight
from .product import BenchSetup, Product
from .queue import JobQueue
from .recalibration import ReadWriteLock, recalibrate
from .shot_plan import TileJob, TileResult, new_number
from .shots import RestartProducts, ShotRunner
from .startup_check import check_startup
from .tracking import ScaleTracker

REFERENCE_EVERY = 500  # shots between two reference shots, where nothing drifts
_MOST_AGAIN = 2  # times that a product may begin again
_KNOWN_OFF, _CALIBRATED_OFF = 0.002, 0.01  # rms, of the light of a slot: what references tolerate


@dataclass
class _SegmentJobs:
    """One segment of a product on its way.

    Parameters
    ----------
    name : matmul, attempt, digest of its rows, segment
    values, weights : what is multiplied
    times : how often it began again
    done : to be called when light has finished with it; None where others come after it, and where
        that was said for good
    """

    name: tuple[str, str, str, str]
    values: np.ndarray
    weights: EncodedOperand
    details: Mapping[str, Any]
    times: int = 0
    done: Callable[[], None] | None = None
    product: Product = field(init=False)
    futures: list[Future[TileResult]] = field(init=False)

    def tell(self) -> None:
        """Have it said when light has finished with it; not when it is to begin again."""
        done = self.done
        if done is None:
            return

        def ended(last: Future[TileResult]) -> None:
            if last.cancelled() or not isinstance(last.exception(), RestartProducts):
                done()

        self.futures[-1].add_done_callback(ended)

    def light_again(self) -> None:
        """Take back that light has finished with it, where that was said."""
        last = self.futures[-1]
        if self.done is None or isinstance(last.exception(), RestartProducts):
            return
        again = getattr(self.done, "again", None)
        if again is None:
            self.done = None  # it is said only once
        else:
            again()


class BenchBackend(Backend):
    """Multiplies on a bench.

    Parameters
    ----------
    bench : not open, or open; the backend opens it when it first multiplies
    uncalibrated : run on a guess where the bench has no calibration; its numbers are not to be
        trusted

    Attributes
    ----------
    faults : kind -> how often a shot was repeated for it
    recoveries : what was done about faults -> how often
    checked : what checksums found, by the name of the matmul
    shots : takes them, once the bench is open
    recorder : keeps what is finished, and knows what was kept; a run that goes on sets it before
        the bench is opened
    """

    name = "bench"
    is_asynchronous = True

    def __init__(self, bench: Bench, uncalibrated: bool = False) -> None:
        super().__init__()
        self._calibrated: Calibrated | None = None
        self._guesses = False
        if bench.file.calibration == "ground-truth":
            ground_truth.only_simulated(bench)
        elif uncalibrated:
            self._guesses = True
        else:
            self._calibrated = read_calibrated(bench)
        self.bench, self.clock = bench, bench.clock
        self.is_mock = bench.is_simulated
        self.faults: dict[str, int] = {}
        self.recoveries: dict[str, int] = {}
        self.checked: dict[str, ChecksumStats] = {}
        self._recorder: Recorder | None = None
        self.shots: ShotRunner | None = None
        self._timeline: Timeline | None = None
        self._profile: OpticsProfile | None = None
        self._timing: ShotTiming | None = None
        self._queue: JobQueue | None = None
        self._is_open = False
        self._closing = Lock()
        self._turns = ReadWriteLock(bench.clock)
        self._first_number = 0  # of the jobs that are laid out for the bench as it is known now

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
            bench.darkness_meter.see_light()
            if self._guesses and not bench.is_timing_only:
                refuse_darkness(bench)
                bench.source.enable()
            self._begin_shots()
            if self._guesses:
                self._guess_brightness()
            elif self._calibrated is not None and not bench.is_timing_only:
                check_startup(bench.path, self.optical_model, self.tracker, self._take_known)
                assert self.shots is not None
                self.shots.decoder.learn_darkness()
        except BaseException:
            bench.close()
            raise
        assert self.shots is not None
        self._queue = JobQueue(self._run, bench.clock, lambda: self.timeline)
        self._go_on()
        self._is_open = True

    def _go_on(self) -> None:
        """Let shots be kept from now on; stand where an earlier run did, if there was one."""
        assert self.shots is not None and self._queue is not None
        self._let_shots_go_on()
        state = None if self.recorder is None else self.recorder.last()
        if state is not None:
            self.shots.resume_from(state)

    def _let_shots_go_on(self) -> None:
        assert self.shots is not None
        self.shots.upcoming, self.shots.recorder = self._upcoming, self.recorder
        self.shots.may_restart = self._calibrated is not None

    def _lay_out(self) -> None:
        """Find out, or be told, what the bench's light is like, and where numbers lie in it."""
        self._profile = self._timing = None
        bench, file = self.bench, self.bench.file
        if self._calibrated is not None:
            calibration = self._calibrated.calibration
            check_calibration(bench, calibration, WANTED, file.calibration_lasts_s)
            optics = self._calibrated.optics(bench)
        elif self._guesses:
            optics = ground_truth.nominal_optics(bench)
        else:
            optics = ground_truth.true_optics(bench)
        layout = lay_out(bench, optics)
        curves = {role: ResponseCurve(table) for role, table in optics.tables.items()}
        if not self._guesses:
            bench.know_darkest(curves)
        if self._calibrated is not None:
            response = self._calibrated.response(layout)
        elif self._guesses:
            response = ground_truth.response_of(layout, np.ones(bench.weight.shape))
        else:
            response = ground_truth.true_response(bench, layout)
        dark = int((response.pairs_e <= 0).sum())
        if dark:
            raise InputError(
                f"{bench.path}: {dark} elements bring no light at all, so they can show no number; "
                "give another layout, or calibrate once light arrives"
            )
        tolerance = _KNOWN_OFF if self._calibrated is None else _CALIBRATED_OFF
        is_exact = file.calibration == "ground-truth"
        self.optical_model = OpticalModel(
            layout, optics, response, curves, self._guesses, tolerance, is_exact
        )

    def _begin_shots(self) -> None:
        """Make what takes shots, with what is known of the bench now."""
        lost_s = self.lost_s
        if self.shots is not None:
            self.shots.close()
        decoder = Decoder(self.bench, self.optical_model, self._tracker())
        self.shots = ShotRunner(
            self.bench,
            decoder,
            self._reference_every,
            self._settling_s,
            self.faults,
            self.recoveries,
        )
        self.shots.timeline, self.shots.lost_s = self._timeline, lost_s

    def _tracker(self) -> ScaleTracker | None:
        """Return what follows the light; None where nothing is known of it."""
        if self._calibrated is not None:
            return self._calibrated.tracker()
        if self._guesses:
            return None
        measured = self.optical_model.layout.marker_variance(self.optical_model.response)
        if measured is None:  # of a reference: its shot noise and read noise
            light_e = (
                float(self.optical_model.response.pairs_e.sum())
                * self.optical_model.layout.reference_light
            )
            measured = (light_e + float(self.optical_model.dark_variance.sum())) / max(
                light_e, 1.0
            ) ** 2
        return ground_truth.true_tracker(self.bench, measured)

    @property
    def light_variance(self) -> float:
        """The relative variance that is left of a shot's light, once it was measured."""
        if self.tracker is None or self.bench.is_timing_only:
            return 0.0
        measured = self.optical_model.layout.marker_variance(self.optical_model.response)
        return self.tracker.light_variance(measured, self._reference_every)

    @property
    def _reference_every(self) -> int:
        """The shots between two reference shots.

        Without markers, references alone tell how bright the light is: a third of the shots then.
        """
        if self._guesses:
            return 0
        if self._calibrated is None:
            return REFERENCE_EVERY
        every = self._calibrated.reference_every
        return max(every // 3, 1) if self.bench.file.layout == "single-pixel" else every

    @property
    def _settling_s(self) -> dict[str, float]:
        """From when after a flip each modulator's light is trusted, where it was measured."""
        if self._calibrated is None:
            return dict.fromkeys(self.optical_model.curves, 0.0)
        return {role: self._calibrated.settling_s(role) for role in self.optical_model.curves}

    def _guess_brightness(self) -> None:
        """Take one shot of weights and inputs that are alike, and believe that all slots are."""
        model, layout = self.optical_model, self.optical_model.layout
        light = layout.reference_light / 2  # nobody knows how bright
        rows = {"weight": layout.slots, "input": 1 if layout.shares_input else layout.slots}
        levels = {
            role: model.curves[role].levels(np.full((count, layout.length), light))
            for role, count in rows.items()
        }
        found = self._take_known("guess", levels["input"], levels["weight"])[0]
        per_pair = max(float(found.mean()) / (layout.length * light**2), 1e-3)
        pairs = np.full((layout.slots, layout.length), per_pair)
        self.optical_model = replace(model, response=replace(model.response, pairs_e=pairs))
        self._begin_shots()

    @property
    def timeline(self) -> Timeline | None:
        """Where slices of what happens go, if anybody wants them."""
        return self._timeline

    @timeline.setter
    def timeline(self, timeline: Timeline | None) -> None:
        self._timeline = timeline
        if self.shots is not None:
            self.shots.timeline = timeline

    @property
    def recorder(self) -> Recorder | None:
        """What keeps finished shots, if anybody wants that."""
        return self._recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        if self.shots is not None and self._is_open:
            self.shots.recorder = recorder

    @property
    def tracker(self) -> ScaleTracker | None:
        """What follows the light's drift; None where nobody measured how it drifts."""
        return None if self.shots is None else self.shots.decoder.tracker

    @property
    def is_stopping(self) -> bool:
        """Whether it takes no more shots: it is being closed, or was made safe."""
        return self.shots is not None and self.shots.stops.is_set()

    @property
    def lost_s(self) -> float:
        """The bench's time that went into exposures that failed, and into recoveries."""
        return 0.0 if self.shots is None else self.shots.lost_s

    @property
    def references(self) -> int:
        """How many reference shots were taken."""
        return 0 if self.shots is None else self.shots.references

    def close(self) -> None:
        """Stop after the shot that is being taken, switch the light off, let instruments go."""
        if self.shots is not None:
            self.shots.stops.set()
        with self._closing, signals.in_time(self.bench):
            try:
                if self._queue is not None:
                    self._queue.close()
                if self.shots is not None:
                    self.shots.close()
            finally:
                self._queue, self._is_open = None, False
                self.bench.close()

    def beat(self) -> None:
        """Keep the bench's heartbeat going while the host works."""
        self.bench.beat()

    def warm_up(self) -> None:
        """Open the bench, and compile what is compiled."""
        self.open()
        super().warm_up()

    def describe(self) -> Mapping[str, Any]:
        """Return the bench file and a snapshot of every instrument, for the record of a run."""
        return {**super().describe(), "bench": self.bench.describe()}

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether it is known, and not guessed, what the bench does to light."""
        return not self._guesses

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences for the report of a run: calibration, light, and where that drifted.

        Nothing is told before the bench was open; telling never opens it.
        """
        lit = (self.bench.left_lit,) if self.bench.left_lit else ()
        return (*lit, *self._told)

    @property
    def _told(self) -> tuple[str, ...]:
        if self._guesses:
            return (
                f"NOT CALIBRATED: {self.bench.path} ran on a guess of its registration, curves and "
                "brightness; its numbers are not to be trusted",
            )
        if self.shots is None:
            return ()
        full_e = self.optical_model.typical_full_e
        light = f"{full_e:,.0f} photoelectrons per full-scale product of two elements"
        if self._calibrated is None:
            told = [f"calibrated by the simulation's own truth; {light}"]
        else:
            calibration = self._calibrated.calibration
            ended = 1.0 if self.tracker is None else self.tracker.slow
            told = [
                f"calibration {calibration.path}, {calibration.age_s(WANTED) / 3600:.1f} hours "
                f"old; {light}",
                f"{self.references:,} reference shots were taken; the light ended at {ended:.3f} "
                "times that of calibration",
            ]
        tracker = self.tracker
        if tracker is not None and tracker.judged and not self.bench.is_timing_only:
            if tracker.is_consistent:
                told[-1] += f"; {tracker.verdict}"
            else:
                told.append(
                    f"LIGHT NOT AS CALIBRATED: {tracker.verdict}; products may be off in gain: "
                    "check the source and what changes the markers' light, then run `lightloom "
                    "calibrate` again"
                )
        return (*told, *self._recovered)

    @property
    def _recovered(self) -> Iterator[str]:
        """Sentences on what was done about faults."""
        marked = self.recoveries.get("host", 0) + self.recoveries.get("skip", 0)
        if marked:
            yield (
                f"MARKED: light gave no numbers for {marked:,} faults: "
                f"{self.recoveries.get('host', 0):,} were computed by the host, "
                f"{self.recoveries.get('skip', 0):,} skipped, as if dark"
            )
        if self.recoveries:
            tried = ", ".join(
                f"{name} {count:,}" for name, count in sorted(self.recoveries.items())
            )
            yield f"done about faults: {tried}; {self.lost_s:.3g} s of the bench's time were lost"

    @property
    def profile(self) -> OpticsProfile:
        """The mock's profile of this bench: what theory says its noise and steps are."""
        if self._profile is None:  # a report that is written after a run switches no light on
            self.open()
            self._profile = matching_profile(self.bench, self.optical_model, self.light_variance)
        return self._profile

    @property
    def timing(self) -> ShotTiming:
        """What the shots of this bench take; the host's part is not known here."""
        self.open()
        if self._timing is None:
            self._timing = bench_timing(self.bench, self._settling_s, self._reference_every)
        return self._timing

    @property
    def geometry(self) -> Geometry:
        """What a frame of this bench holds, beside checksums: rails may lie in two frames."""
        self.open()
        rails = 1 if self.bench.file.encoding.kind == "offset" else 2
        layout = self.optical_model.layout
        plain = Geometry(
            layout.slots, layout.length, is_divisible=not layout.shares_input, parts=rails
        )
        if self._guesses:  # of which nobody knows how much light it should bring
            return plain
        return with_checks(plain, self.bench.file.checks, layout, self.bench.path)

    @property
    def setup(self) -> BenchSetup:
        """What a product must know of this bench as it is known now."""
        geometry, timing = self.geometry, self.timing
        return BenchSetup(self.optical_model, geometry, timing)

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[EncodedOperand]:
        """Encode weights [..., M, K] segment by segment: shares [rails, m, M, length]."""
        self.open()
        stacked = weights.reshape(-1, *weights.shape[-2:])
        largest = None
        if ranges is not None and ranges.weight is not None:
            largest = np.broadcast_to(ranges.weight.max(axis=-1, keepdims=True), weights.shape)
            largest = largest[..., :1].reshape(*stacked.shape[:-1], 1)
        layout = self.optical_model.layout
        return [
            encode_weight(stacked[..., tile.columns], layout, largest)
            for tile in tiles((1, weights.shape[-1]), Geometry(None, layout.length))
        ]

    def encode_input(self, values: np.ndarray) -> EncodedOperand:
        """Scale rows of x to shares of full light."""
        return self._encode(values, "input")

    def _encode(
        self, values: np.ndarray, role: str, largest: np.ndarray | None = None
    ) -> EncodedOperand:
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
        short = self.optical_model.layout.length - values.shape[-1]
        shares = np.pad(np.clip(shares, 0, 1), [(0, 0)] * (shares.ndim - 1) + [(0, short)])
        return EncodedOperand(signs, shares, scale, low)

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        """Submit the jobs of all segments; the product is put together when it is asked for."""
        self.open()
        stats = Stats(macs=x.size * w.shape[-2])
        started: list[_SegmentJobs] = []
        with self.bench.clock.held():
            for tile in tiles((1, x.shape[-1]), Geometry(None, self.optical_model.layout.length)):
                values = x[..., tile.columns]
                if not np.isfinite(values).all():
                    raise InputError("x has values that are not finite")
                name = (at.matmul, str(at.attempt), _digest(at.rows), str(tile.segment))
                started.append(_SegmentJobs(name, values, w.content[tile.segment], details))
                self._build(started[-1], stats)
        started[-1].done = done  # jobs end in their order, so the last of them is the end of all
        started[-1].tell()
        return partial(self._finish, started, stats)

    def _build(self, begun: _SegmentJobs, stats: Stats) -> None:
        """Lay out a product for the bench as it is known now, and submit its jobs."""
        start = time.perf_counter()
        matmul, attempt, digest, segment = begun.name
        if begun.times:
            attempt += f".{begun.times}"
        name = f"{matmul}/{attempt}/{digest}/{segment}"
        with self._turns.reading(holds=True):
            begun.product = Product(self.setup, name, begun.values, begun.weights, begun.details)
        stats.seconds["encode"] = stats.seconds.get("encode", 0.0) + time.perf_counter() - start
        begun.futures = [self._submit(job) for job in begun.product.jobs]

    def _finish(self, started: list[_SegmentJobs], stats: Stats) -> MatmulResult:
        """Wait for the jobs of a product, and add up its segments."""
        y: Any = 0.0
        variance: Any = 0.0
        for begun in started:
            try:
                part, noise = self._gathered(begun, stats)
            except BaseException:
                self.close()
                raise
            y, variance = y + part, variance + noise
        return MatmulResult(y.astype(np.float32), stats, variance.astype(np.float32))

    def _gathered(self, begun: _SegmentJobs, stats: Stats) -> tuple[np.ndarray, np.ndarray]:
        """Return a segment and its variance; take it again where its light does not count.

        That is so where the bench was measured anew meanwhile, and where a checksum over numbers
        that an earlier run kept does not fit.

        Raises
        ------
        Paused : when taking it again does not help
        """
        name = begun.name[0]
        while True:
            try:
                results = [future.result() for future in begun.futures]
                start, start_s = time.perf_counter(), self.clock.now_s()
                counted = Stats()
                with self._turns.reading():
                    if begun.product.jobs[0].number < self._first_number:
                        raise RestartProducts("")
                    part, noise = begun.product.decoded(results, counted, self.light_variance)
            except (RestartProducts, ChecksumMismatch) as reason:
                begun.times += 1
                if begun.times > _MOST_AGAIN:
                    raise Paused(
                        f"{self.bench.path}: {name} was taken {begun.times} times, and its numbers "
                        f"do not fit the bench ({reason or 'which was measured anew each time'}); "
                        "run `lightloom check`; the bench is safe",
                        "checksum-mismatch",
                    ) from reason
                begun.light_again()
                with self.bench.clock.held():
                    self._build(begun, stats)
                begun.tell()
                continue
            stats.add(counted)
            self.checked.setdefault(name, ChecksumStats()).add(begun.product.judge.tally)
            if self._timeline is not None:
                self._timeline.add("gather", name, start_s, self.clock.now_s(), **begun.details)
            stats.seconds["decode"] = stats.seconds.get("decode", 0.0) + time.perf_counter() - start
            return part, noise

    # --- shots -----------------------------------------------------------------------------------

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Put a job into the bench's queue; its shots are taken in the order of submission.

        Waits while the queue is full.

        Raises
        ------
        InputError : for frames that this bench cannot hold
        """
        self.open()
        layout = self.optical_model.layout
        for role, levels, rows in (
            ("weight", job.weight(0), layout.slots),
            ("input", job.input(0), 1 if layout.shares_input else layout.slots),
        ):
            if levels.shape != (rows, layout.length):
                raise InputError(
                    f"{self.bench.path}: the {role} frames of job {job.name!r} hold "
                    f"{levels.shape[0]} x {levels.shape[1]} elements, and this bench {rows} x "
                    f"{layout.length}; cut the product with its own geometry"
                )
        with self.bench.clock.held():
            return self._submit(job)

    def _submit(self, job: TileJob) -> Future[TileResult]:
        assert self._queue is not None
        return self._queue.submit(job)

    def _run(self, job: TileJob) -> TileResult:
        assert self.shots is not None
        try:
            if job.number < self._first_number:
                raise RestartProducts("")
            return self.shots.run(job)
        except BaseException as error:
            if isinstance(error, RestartProducts):
                if error.recovery:
                    self._renew(error.recovery)
                raise  # its product begins again
            self._make_safe()
            raise

    def _renew(self, recovery: str) -> None:
        """Measure the bench anew; what was laid out for it as it was is not shown any more."""
        assert self.shots is not None and self._calibrated is not None
        try:
            with self._turns.changing():
                self._first_number = new_number()
                before = self.shots
                recalibrate(self.bench, recovery)
                if before.stops.is_set():
                    raise NotConnected(f"{self.bench.path}: the bench was closed meanwhile")
                self._calibrated = read_calibrated(self.bench)
                self._lay_out()
                self.bench.source.enable()
                self._begin_shots()
                self.shots.plan.counters.update(before.plan.counters)
                check_startup(self.bench.path, self.optical_model, self.tracker, self._take_known)
                self._let_shots_go_on()
        except BaseException:
            self._make_safe()
            raise

    def _upcoming(self) -> TileJob | None:
        """Return the job that waits, unless its product is to begin again."""
        job = None if self._queue is None else self._queue.upcoming()
        return None if job is None or job.number < self._first_number else job

    def _make_safe(self) -> None:
        assert self.shots is not None
        self.shots.stops.set()  # jobs that wait end at once
        self.bench.close()  # light off first

    def _take_known(
        self, name: str, inputs: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take one shot of known frames: electrons [slots], and what they should be."""
        electrons = self._run(TileJob(name, 1, 1, lambda _: weights, lambda _: inputs)).electrons
        assert self.shots is not None
        return electrons[0, 0], self.optical_model.passed_e(inputs, weights)


def _digest(rows: np.ndarray) -> str:
    """Name rows, so that shots of other rows meet other noise."""
    return sha256(rows.tobytes()).hexdigest()[:12]
