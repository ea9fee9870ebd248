"""`OpenBench`: a bench that is open and whole, and runs the jobs of its queue.

`open_bench` returns one, or closes the bench again.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from threading import Event

from ...instruments import LightloomError, Paused
from ..optics.calibration_file import Calibration, path_of
from .bench import Bench
from .bench_setup import BenchSetup, checked_setup
from .calibrated_optics import read_calibrated
from .fault_recovery import RestartProducts
from .light_check import refuse_darkness
from .model_origin import GroundTruth, ModelOrigin, NominalValues, Uncorrected
from .queue import JobQueue
from .shot_plan import TileJob, TileResult, new_number

_ADVICE = "look at the bench, then align and calibrate it"


class OpenBench:
    """An open bench, its setup and its queue of jobs.

    Parameters
    ----------
    setup : of the bench

    Attributes
    ----------
    setup : the latest one; it is replaced when the bench is calibrated during a run
    is_open : whether it takes jobs
    """

    def __init__(self, setup: BenchSetup) -> None:
        self.setup = setup
        self.bench: Bench = setup.bench
        self.is_open = True
        self._first_valid_job = 0  # jobs with smaller numbers are of an older calibration
        self._is_settled = Event()  # not set while the setup is replaced
        self._is_settled.set()
        self._queue = JobQueue(self._run, self.bench)
        self._serve()
        recorder = self.bench.recorder
        checkpoint = None if recorder is None else recorder.last()
        if checkpoint is not None:
            self.setup.runner.resume_from(checkpoint)

    def close(self) -> None:
        """Cancel the waiting jobs, and end the threads after the current shot."""
        try:
            self._queue.close()
            self.setup.runner.close()
        finally:
            self.is_open = False

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Add a job to the queue; wait while it is full. The caller holds the clock."""
        return self._queue.submit(job)

    def settled_setup(self) -> BenchSetup:
        """Return the setup; wait while it is replaced. The caller holds the clock."""
        if not self._is_settled.is_set():
            self.bench.clock.release()  # the calibration needs time to pass
            try:
                self._is_settled.wait()
            finally:
                self.bench.clock.hold()
        return self.setup

    def is_valid(self, job: TileJob) -> bool:
        """Return whether a job was made for the present setup."""
        return job.number >= self._first_valid_job

    def make_safe(self) -> None:
        """End all waits at once, and close the bench, light off first."""
        self.bench.stop.set()
        self.bench.close()

    # --- jobs ------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Let the runner of the present setup take the jobs of the queue, and record them."""
        self.setup.runner.serve(self._upcoming, self.setup.origin.is_calibrated)

    def _upcoming(self) -> TileJob | None:
        """Return the next job in the queue, unless its product must restart."""
        job = self._queue.upcoming()
        return job if job is not None and self.is_valid(job) else None

    def _run(self, job: TileJob) -> TileResult:
        try:
            if not self.is_valid(job):
                raise RestartProducts("")
            result = self.setup.runner.run(job)
            # now, before later shots change it: a variance must not depend on the host's speed
            return replace(result, light_variance=self.setup.light_variance)
        except RestartProducts as restart:
            if restart.recovery:
                self._recalibrate(restart.recovery)
            raise  # the product of the job restarts
        except BaseException:
            self.make_safe()
            raise

    def _recalibrate(self, recovery: str) -> None:
        """Align or calibrate the bench again; jobs for its former setup become invalid."""
        self._is_settled.clear()
        self._first_valid_job = new_number()
        try:
            recalibrate(self.bench, recovery)
            self.bench.stop.check(f"during {recovery}")
            origin = origin_of(self.bench, uncalibrated=False)
            model = origin.model(self.bench)
            self.bench.source.enable()
            former = self.setup.runner
            former.close()
            self.setup = checked_setup(self.bench, origin, model, former.plan.counters)
            self._first_valid_job = new_number()  # jobs for the former setup were made meanwhile
            self._serve()
        except BaseException:
            self.make_safe()
            raise
        finally:
            self._is_settled.set()


def recalibrate(bench: Bench, recovery: str) -> None:
    """Align an open bench, and calibrate it for "recalibrate"; its light is off afterwards.

    Frames and shots of the old calibration are not valid for the new one. So pending products
    restart, with new names of their shots.

    Parameters
    ----------
    recovery : "realign" measures the registration only, "recalibrate" the whole calibration

    Raises
    ------
    Paused : when the alignment or calibration fails
    """
    from ..calibration import align, calibrate, store  # they import this package

    try:
        found = align(bench)
        if recovery == "recalibrate":
            store(bench, found)
            calibrate(bench)
        else:
            path = path_of(bench.file.calibration, bench.path)
            calibration = Calibration.read(path)
            calibration.add(found.step())
            calibration.write(path)
        bench.source.set_power(bench.file.power_w)
        bench.detector.set_up()
    except LightloomError as error:
        raise Paused(
            f"{bench.path}: to {recovery} failed: {error}; {_ADVICE}; the bench is safe",
            recovery,
            "",
            _ADVICE,
        ) from error


def origin_of(bench: Bench, uncalibrated: bool) -> ModelOrigin:
    """Return the origin of the optical model that a bench file names.

    Raises
    ------
    InputError : when there is none
    """
    is_true = bench.file.calibration == "ground-truth"
    if uncalibrated and not is_true:
        return NominalValues()
    origin = GroundTruth() if is_true else read_calibrated(bench)
    return Uncorrected(origin) if bench.file.corrections == "off" else origin


def open_bench(bench: Bench, origin: ModelOrigin) -> OpenBench:
    """Connect the instruments, build the optical model, and switch the light on.

    Parameters
    ----------
    bench : not open, or open; its recorder may have a checkpoint, from which it continues
    origin : of its optical model

    Raises
    ------
    LightloomError : when it cannot be opened, or differs from its model; the bench is closed then
    """
    try:
        if not bench.input.is_connected:
            bench.open()
        model = origin.model(bench)
        bench.source.enable()
        bench.darkness_meter.see_light()
        if origin.is_guessed and not bench.is_timing_only:
            refuse_darkness(bench)
            bench.source.enable()
        setup = checked_setup(bench, origin, model)
        if origin.is_calibrated and not bench.is_timing_only:
            setup.runner.decoder.learn_dark_level()
        return OpenBench(setup)
    except BaseException:
        bench.close()
        raise
