"""`BenchBackend`: multiplies on a bench's instruments, shot by shot.

The path of a number: a row of x is scaled to a largest magnitude of 1 and split into x+ and x-. The
inverse response curve of the input modulator turns each into grey levels, which fill the slots of a
frame. The light of this frame passes the weight frame, whose weights were divided by the gains of
their elements. The detector counts are summed over the pixels of each slot and converted to
electrons. The electrons are divided by the brightness of this shot, corrected for crosstalk between
slots and for the leakage of the darkest levels, and divided by the electrons of a full-scale
product. The readings of x+, x- and both rails are added with their signs.

The same code drives simulated and real instruments. A shot with a wrong marker, number or
brightness is counted and retried. If the recoveries of the fault policy do not help, the bench is
made safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
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

REFERENCE_EVERY = 500  # shots between two reference shots of a bench with ground truth
_MOST_RESTARTS = 2  # of a product
# relative rms error of the light of a slot that reference shots accept
_TRUE_TOLERANCE, _CALIBRATED_TOLERANCE = 0.002, 0.01


@dataclass
class _SegmentJobs:
    """One segment of a pending product, with its jobs.

    Parameters
    ----------
    name : matmul, attempt, digest of its rows, segment
    values, weights : the operands
    restarts : number of restarts
    done : called when the shots of the product are complete; None for all segments but the last,
        and once it may not be called again
    """

    name: tuple[str, str, str, str]
    values: np.ndarray
    weights: EncodedOperand
    details: Mapping[str, Any]
    restarts: int = 0
    done: Callable[[], None] | None = None
    product: Product = field(init=False)
    futures: list[Future[TileResult]] = field(init=False)

    def notify_when_done(self) -> None:
        """Call `done` when the last job ends, unless the product must restart."""
        done = self.done
        if done is None:
            return

        def ended(last: Future[TileResult]) -> None:
            if last.cancelled() or not isinstance(last.exception(), RestartProducts):
                done()

        self.futures[-1].add_done_callback(ended)

    def notify_restart(self) -> None:
        """Tell the caller that the shots are taken again, if `done` was already called."""
        last = self.futures[-1]
        if self.done is None or isinstance(last.exception(), RestartProducts):
            return
        again = getattr(self.done, "again", None)
        if again is None:
            self.done = None  # `done` must not be called twice
        else:
            again()


class BenchBackend(Backend):
    """Multiplies on a bench.

    Parameters
    ----------
    bench : not open, or open; the backend opens it when it first multiplies
    uncalibrated : run without a calibration, on nominal values; the numbers cannot be trusted

    Attributes
    ----------
    faults : number of retries, by kind of fault
    recoveries : number of recoveries, by name
    checked : results of the checksums, by name of the matmul
    shots : runner that takes the shots; None until the bench is open
    recorder : records finished segments and returns recorded ones; a resumed run sets it before the
        bench is opened
    """

    name = "bench"
    is_asynchronous = True

    def __init__(self, bench: Bench, uncalibrated: bool = False) -> None:
        super().__init__()
        self._calibrated: Calibrated | None = None
        self._is_guessed = False
        if bench.file.calibration == "ground-truth":
            ground_truth.only_simulated(bench)
        elif uncalibrated:
            self._is_guessed = True
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
        self._setup_lock = ReadWriteLock(bench.clock)
        self._first_valid_job = 0  # jobs with smaller numbers are of an older calibration

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Connect the instruments, build the optical model and switch the light on."""
        if self._is_open:
            return
        bench = self.bench
        try:
            if not bench.input.is_connected:
                bench.open()
            self._build_model()
            bench.source.enable()
            bench.darkness_meter.see_light()
            if self._is_guessed and not bench.is_timing_only:
                refuse_darkness(bench)
                bench.source.enable()
            self._make_shot_runner()
            if self._is_guessed:
                self._guess_brightness()
            elif self._calibrated is not None and not bench.is_timing_only:
                check_startup(bench.path, self.optical_model, self.tracker, self._take_test_shot)
                assert self.shots is not None
                self.shots.decoder.learn_dark_level()
        except BaseException:
            bench.close()
            raise
        assert self.shots is not None
        self._queue = JobQueue(self._run, bench.clock, lambda: self.timeline)
        self._start_recording()
        self._is_open = True

    def _start_recording(self) -> None:
        """Record segments from now on; resume from the last checkpoint, if there is one."""
        assert self.shots is not None and self._queue is not None
        self._connect_shots()
        checkpoint = None if self.recorder is None else self.recorder.last()
        if checkpoint is not None:
            self.shots.resume_from(checkpoint)

    def _connect_shots(self) -> None:
        assert self.shots is not None
        self.shots.upcoming, self.shots.recorder = self._upcoming, self.recorder
        self.shots.may_restart = self._calibrated is not None

    def _build_model(self) -> None:
        """Build the optical model from the calibration, the ground truth or nominal values."""
        self._profile = self._timing = None
        bench, file = self.bench, self.bench.file
        if self._calibrated is not None:
            calibration = self._calibrated.calibration
            check_calibration(bench, calibration, WANTED, file.calibration_lasts_s)
            optics = self._calibrated.optics(bench)
        elif self._is_guessed:
            optics = ground_truth.nominal_optics(bench)
        else:
            optics = ground_truth.true_optics(bench)
        layout = lay_out(bench, optics)
        curves = {role: ResponseCurve(table) for role, table in optics.tables.items()}
        if not self._is_guessed:
            bench.know_darkest(curves)
        if self._calibrated is not None:
            response = self._calibrated.response(layout)
        elif self._is_guessed:
            response = ground_truth.response_of(layout, np.ones(bench.weight.shape))
        else:
            response = ground_truth.true_response(bench, layout)
        dark = int((response.pairs_e <= 0).sum())
        if dark:
            raise InputError(
                f"{bench.path}: {dark} elements pass no light, so they cannot show a number; "
                "change the encoding in the bench file, or calibrate once light arrives"
            )
        tolerance = _TRUE_TOLERANCE if self._calibrated is None else _CALIBRATED_TOLERANCE
        is_exact = file.calibration == "ground-truth"
        self.optical_model = OpticalModel(
            layout, optics, response, curves, self._is_guessed, tolerance, is_exact
        )

    def _make_shot_runner(self) -> None:
        """Make the shot runner for the present optical model."""
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
        """Return the brightness filter; None on an uncalibrated bench."""
        if self._calibrated is not None:
            return self._calibrated.tracker()
        if self._is_guessed:
            return None
        measured = self.optical_model.layout.marker_variance(self.optical_model.response)
        if measured is None:  # without markers: shot noise and read noise of a reference
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
        """The remaining relative variance of a shot's brightness, once it was measured."""
        if self.tracker is None or self.bench.is_timing_only:
            return 0.0
        measured = self.optical_model.layout.marker_variance(self.optical_model.response)
        return self.tracker.light_variance(measured, self._reference_every)

    @property
    def _reference_every(self) -> int:
        """The shots between two reference shots.

        Without markers, only references measure the brightness, so there are three times as many.
        """
        if self._is_guessed:
            return 0
        if self._calibrated is None:
            return REFERENCE_EVERY
        every = self._calibrated.reference_every
        return max(every // 3, 1) if self.bench.file.layout == "single-pixel" else every

    @property
    def _settling_s(self) -> dict[str, float]:
        """The measured settling time after a frame change, by role; 0 where not measured."""
        if self._calibrated is None:
            return dict.fromkeys(self.optical_model.curves, 0.0)
        return {role: self._calibrated.settling_s(role) for role in self.optical_model.curves}

    def _guess_brightness(self) -> None:
        """Take one shot of a uniform frame pair, and assume that all slots are equally bright."""
        model, layout = self.optical_model, self.optical_model.layout
        light = layout.reference_light / 2  # the brightness is unknown yet
        rows = {"weight": layout.slots, "input": 1 if layout.shares_input else layout.slots}
        levels = {
            role: model.curves[role].levels(np.full((count, layout.length), light))
            for role, count in rows.items()
        }
        found = self._take_test_shot("guess", levels["input"], levels["weight"])[0]
        per_pair = max(float(found.mean()) / (layout.length * light**2), 1e-3)
        pairs = np.full((layout.slots, layout.length), per_pair)
        self.optical_model = replace(model, response=replace(model.response, pairs_e=pairs))
        self._make_shot_runner()

    @property
    def timeline(self) -> Timeline | None:
        """The timeline that records time slices; None for none."""
        return self._timeline

    @timeline.setter
    def timeline(self, timeline: Timeline | None) -> None:
        self._timeline = timeline
        if self.shots is not None:
            self.shots.timeline = timeline

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of finished segments; None for none."""
        return self._recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        if self.shots is not None and self._is_open:
            self.shots.recorder = recorder

    @property
    def tracker(self) -> ScaleTracker | None:
        """The brightness filter; None where the drift was not measured."""
        return None if self.shots is None else self.shots.decoder.tracker

    @property
    def is_stopping(self) -> bool:
        """Whether the bench takes no more shots, because it is being closed or was made safe."""
        return self.shots is not None and self.shots.stops.is_set()

    @property
    def lost_s(self) -> float:
        """The bench time spent on failed exposures and on recoveries."""
        return 0.0 if self.shots is None else self.shots.lost_s

    @property
    def references(self) -> int:
        """The number of reference shots taken."""
        return 0 if self.shots is None else self.shots.references

    def close(self) -> None:
        """Stop after the current shot, switch the light off, and close all instruments."""
        if self.shots is not None:
            self.shots.stops.set()
        with self._closing, signals.light_off_in_time(self.bench):
            try:
                if self._queue is not None:
                    self._queue.close()
                if self.shots is not None:
                    self.shots.close()
            finally:
                self._queue, self._is_open = None, False
                self.bench.close()

    def beat(self) -> None:
        """Keep the heartbeat of the bench running while the host works."""
        self.bench.beat()

    def warm_up(self) -> None:
        """Open the bench, and compile the kernels."""
        self.open()
        super().warm_up()

    def describe(self) -> Mapping[str, Any]:
        """Return the bench file and a snapshot of every instrument, for the record of a run."""
        return {**super().describe(), "bench": self.bench.describe()}

    @property
    def benches(self) -> dict[str, BenchBackend]:  # type: ignore[override]
        """The bench itself, by its name in a journal."""
        return {"bench": self}

    def journal_entry(self) -> dict[str, Any]:
        """Return the bench file, and whether the bench runs without calibration."""
        path = str(Path(self.bench.path).resolve())
        return {"kind": "bench", "paths": [path], "uncalibrated": not self.is_calibrated}

    @property
    def _identity(self) -> tuple[str, ...]:
        return (self.bench.path,)

    @property
    def is_calibrated(self) -> bool:  # type: ignore[override]
        """Whether the optical model is calibrated or true, not nominal."""
        return not self._is_guessed

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences for the report of a run: calibration, brightness, drift and recoveries.

        There are none before the bench was open; this property never opens it.
        """
        lit = (self.bench.left_lit,) if self.bench.left_lit else ()
        return (*lit, *self._calibration_remarks)

    @property
    def _calibration_remarks(self) -> tuple[str, ...]:
        if self._is_guessed:
            return (
                f"NOT CALIBRATED: {self.bench.path} ran on a guess of its registration, curves and "
                "brightness; its numbers are not to be trusted",
            )
        if self.shots is None:
            return ()
        full_e = self.optical_model.typical_full_e
        light = f"{full_e:,.0f} photoelectrons per full-scale product of two elements"
        if self._calibrated is None:
            remarks = [f"calibrated by the simulation's own truth; {light}"]
        else:
            calibration = self._calibrated.calibration
            ended = 1.0 if self.tracker is None else self.tracker.slow
            remarks = [
                f"calibration {calibration.path}, {calibration.age_s(WANTED) / 3600:.1f} hours "
                f"old; {light}",
                f"{self.references:,} reference shots were taken; the light ended at {ended:.3f} "
                "times that of calibration",
            ]
        tracker = self.tracker
        if tracker is not None and tracker.judged and not self.bench.is_timing_only:
            if tracker.is_consistent:
                remarks[-1] += f"; {tracker.verdict}"
            else:
                remarks.append(
                    f"LIGHT NOT AS CALIBRATED: {tracker.verdict}; products may be off in gain: "
                    "check the source and the light of the markers, then run `lightloom calibrate` "
                    "again"
                )
        return (*remarks, *self._recovery_remarks)

    @property
    def _recovery_remarks(self) -> Iterator[str]:
        """Sentences about recoveries from faults."""
        marked = self.recoveries.get("host", 0) + self.recoveries.get("skip", 0)
        if marked:
            yield (
                f"MARKED: the light gave no numbers after {marked:,} faults: "
                f"{self.recoveries.get('host', 0):,} were computed by the host, "
                f"{self.recoveries.get('skip', 0):,} were skipped, with the numbers of a dark tile"
            )
        if self.recoveries:
            tried = ", ".join(
                f"{name} {count:,}" for name, count in sorted(self.recoveries.items())
            )
            yield f"recoveries from faults: {tried}; {self.lost_s:.3g} s of bench time were lost"

    @property
    def profile(self) -> OpticsProfile:
        """The mock's profile of this bench, with noise and step sizes from the noise model."""
        if self._profile is None:  # kept, so that a report after the run does not open the bench
            self.open()
            self._profile = matching_profile(self.bench, self.optical_model, self.light_variance)
        return self._profile

    @property
    def timing(self) -> ShotTiming:
        """The times of the shots of this bench, without those of the host."""
        self.open()
        if self._timing is None:
            self._timing = bench_timing(self.bench, self._settling_s, self._reference_every)
        return self._timing

    @property
    def geometry(self) -> Geometry:
        """The capacity of a frame without checksums; rails of an output may lie in two frames."""
        self.open()
        rails = 1 if self.bench.file.encoding.kind == "offset" else 2
        layout = self.optical_model.layout
        plain = Geometry(
            layout.slots, layout.length, is_divisible=not layout.shares_input, parts=rails
        )
        if self._is_guessed:  # without an expected brightness there are no checksums
            return plain
        return with_checks(plain, self.bench.file.checks, layout, self.bench.path)

    @property
    def setup(self) -> BenchSetup:
        """The present properties of this bench that a product needs."""
        geometry, timing = self.geometry, self.timing
        return BenchSetup(self.optical_model, geometry, timing)

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[EncodedOperand]:
        """Encode weights [..., M, K] by segments: normalised intensity [rails, m, M, length]."""
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

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        """Submit the jobs of all segments; the returned function waits and gathers the product."""
        self.open()
        stats = Stats(macs=x.size * w.shape[-2])
        segments: list[_SegmentJobs] = []
        with self.bench.clock.held():
            for tile in tiles((1, x.shape[-1]), Geometry(None, self.optical_model.layout.length)):
                values = x[..., tile.columns]
                if not np.isfinite(values).all():
                    raise InputError("x has values that are not finite")
                name = (at.matmul, str(at.attempt), _digest(at.rows), str(tile.segment))
                segments.append(_SegmentJobs(name, values, w.content[tile.segment], details))
                self._build(segments[-1], stats)
        segments[-1].done = done  # jobs end in order, so the last one ends the product
        segments[-1].notify_when_done()
        return partial(self._finish, segments, stats)

    def _build(self, segment: _SegmentJobs, stats: Stats) -> None:
        """Encode a segment for the present setup of the bench, and submit its jobs."""
        start = time.perf_counter()
        matmul, attempt, digest, number = segment.name
        if segment.restarts:
            attempt += f".{segment.restarts}"
        name = f"{matmul}/{attempt}/{digest}/{number}"
        with self._setup_lock.reading(holds=True):
            segment.product = Product(
                self.setup, name, segment.values, segment.weights, segment.details
            )
        stats.seconds["encode"] = stats.seconds.get("encode", 0.0) + time.perf_counter() - start
        segment.futures = [self._submit(job) for job in segment.product.jobs]

    def _finish(self, segments: list[_SegmentJobs], stats: Stats) -> MatmulResult:
        """Wait for the jobs of a product, and add up its segments."""
        y: Any = 0.0
        variance: Any = 0.0
        for segment in segments:
            try:
                part, noise = self._gather(segment, stats)
            except BaseException:
                self.close()
                raise
            y, variance = y + part, variance + noise
        return MatmulResult(y.astype(np.float32), stats, variance.astype(np.float32))

    def _gather(self, segment: _SegmentJobs, stats: Stats) -> tuple[np.ndarray, np.ndarray]:
        """Return the result of a segment and its variance; restart the segment if it is invalid.

        A segment is invalid if the bench was measured again in between, or if numbers that an
        earlier run recorded fail a checksum.

        Raises
        ------
        Paused : when restarts do not help
        """
        name = segment.name[0]
        while True:
            try:
                results = [future.result() for future in segment.futures]
                start, start_s = time.perf_counter(), self.clock.now_s()
                counted = Stats()
                with self._setup_lock.reading():
                    if segment.product.jobs[0].number < self._first_valid_job:
                        raise RestartProducts("")
                    part, noise = segment.product.decode(results, counted, self.light_variance)
            except (RestartProducts, ChecksumMismatch) as reason:
                segment.restarts += 1
                if segment.restarts > _MOST_RESTARTS:
                    raise Paused(
                        f"{self.bench.path}: {name} was taken {segment.restarts} times, and its "
                        "numbers do not match the bench "
                        f"({reason or 'which was measured again each time'}); run `lightloom "
                        "check`; the bench is safe",
                        "checksum-mismatch",
                    ) from reason
                segment.notify_restart()
                with self.bench.clock.held():
                    self._build(segment, stats)
                segment.notify_when_done()
                continue
            stats.add(counted)
            self.checked.setdefault(name, ChecksumStats()).add(segment.product.monitor.stats)
            if self._timeline is not None:
                self._timeline.add("gather", name, start_s, self.clock.now_s(), **segment.details)
            stats.seconds["decode"] = stats.seconds.get("decode", 0.0) + time.perf_counter() - start
            return part, noise

    # --- shots -----------------------------------------------------------------------------------

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Add a job to the queue of the bench; jobs run in the order of submission.

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
                    f"{layout.length}; tile the product with the geometry of this bench"
                )
        with self.bench.clock.held():
            return self._submit(job)

    def _submit(self, job: TileJob) -> Future[TileResult]:
        assert self._queue is not None
        return self._queue.submit(job)

    def _run(self, job: TileJob) -> TileResult:
        assert self.shots is not None
        try:
            if job.number < self._first_valid_job:
                raise RestartProducts("")
            return self.shots.run(job)
        except BaseException as error:
            if isinstance(error, RestartProducts):
                if error.recovery:
                    self._recalibrate(error.recovery)
                raise  # the product of the job restarts
            self._make_safe()
            raise

    def _recalibrate(self, recovery: str) -> None:
        """Align or calibrate the bench again; jobs for its former setup become invalid."""
        assert self.shots is not None and self._calibrated is not None
        try:
            with self._setup_lock.changing():
                self._first_valid_job = new_number()
                before = self.shots
                recalibrate(self.bench, recovery)
                if before.stops.is_set():
                    raise NotConnected(f"{self.bench.path}: the bench was closed during {recovery}")
                self._calibrated = read_calibrated(self.bench)
                self._build_model()
                self.bench.source.enable()
                self._make_shot_runner()
                self.shots.plan.counters.update(before.plan.counters)
                check_startup(
                    self.bench.path, self.optical_model, self.tracker, self._take_test_shot
                )
                self._connect_shots()
        except BaseException:
            self._make_safe()
            raise

    def _upcoming(self) -> TileJob | None:
        """Return the next job in the queue, unless its product must restart."""
        job = None if self._queue is None else self._queue.upcoming()
        return None if job is None or job.number < self._first_valid_job else job

    def _make_safe(self) -> None:
        assert self.shots is not None
        self.shots.stops.set()  # waiting jobs end at once
        self.bench.close()  # light off first

    def _take_test_shot(
        self, name: str, inputs: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take one shot of known frames; return measured and expected electrons, each [slots]."""
        electrons = self._run(TileJob(name, 1, 1, lambda _: weights, lambda _: inputs)).electrons
        assert self.shots is not None
        return electrons[0, 0], self.optical_model.passed_e(inputs, weights)


def _digest(rows: np.ndarray) -> str:
    """Return a digest of row ids, so that shots of other rows get other noise."""
    return sha256(rows.tobytes()).hexdigest()[:12]
