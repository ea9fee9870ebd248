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

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ...instruments import InputError, Timeline
from ...instruments.safety import signals
from ..address import Address
from ..base import Backend, MatmulResult, PreparedWeights, Ranges
from ..optics.model import OpticalModel
from ..profile import OpticsProfile
from ..tiling import Geometry
from ..timing import ShotTiming
from .bench import Bench, BenchCounts
from .bench_setup import BenchSetup
from .calibrated_optics import WANTED, Calibrated
from .checkpoint import Recorder
from .model_origin import Uncorrected
from .open_bench import OpenBench, open_bench, origin_of
from .product_frames import EncodedOperand, encode_weights
from .product_jobs import ProductJobs
from .shot_plan import TileJob, TileResult


class BenchBackend(Backend):
    """Multiplies on a bench.

    Parameters
    ----------
    bench : not open, or open; the backend opens it when it first multiplies
    uncalibrated : run without a calibration, on nominal values; the numbers cannot be trusted

    Attributes
    ----------
    counts : of all times that the bench was open; `faults`, `recoveries` and `checked` are theirs
    """

    name = "bench"
    is_asynchronous = True

    def __init__(self, bench: Bench, uncalibrated: bool = False) -> None:
        super().__init__()
        self.bench, self.clock = bench, bench.clock
        self.is_mock = bench.is_simulated
        self._origin = origin_of(bench, uncalibrated)
        self.counts = bench.counts
        self.faults, self.recoveries = self.counts.faults, self.counts.recoveries
        self.checked = self.counts.checked
        self._opened: OpenBench | None = None  # the latest one stays here for reports
        self._opening, self._closing = Lock(), Lock()

    # --- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Connect the instruments, build the optical model and switch the light on."""
        self._open()

    def _open(self) -> OpenBench:
        """Return the open bench; open it first if it is closed.

        Raises
        ------
        NotConnected : when it was closed meanwhile
        """
        with self._opening:
            if self._opened is None or not self._opened.is_open:
                self.bench.stop.clear()
                self._opened = open_bench(self.bench, self._origin)
                if self.bench.stop.is_set():
                    self.close()
                    self.bench.stop.check("while it was opened")
            return self._opened

    @property
    def _latest(self) -> OpenBench:
        """The bench as it is open, or was last; it is opened only if it never was."""
        return self._open() if self._opened is None else self._opened

    def close(self) -> None:
        """Stop after the current shot, switch the light off, and close all instruments."""
        self.bench.stop.set()
        with self._closing, signals.light_off_in_time(self.bench):
            try:
                if self._opened is not None:
                    self._opened.close()
            finally:
                self.bench.close()

    def beat(self) -> None:
        """Keep the heartbeat of the bench running while the host works."""
        self.bench.beat()

    def warm_up(self) -> None:
        """Open the bench, and compile the kernels."""
        self.open()
        super().warm_up()

    @property
    def is_stopping(self) -> bool:
        """Whether the bench takes no more shots, because it is being closed or was made safe."""
        return self.bench.stop.is_set()

    # --- records ---------------------------------------------------------------------------------

    @property
    def timeline(self) -> Timeline | None:
        """The timeline that records time slices; None for none."""
        return self.bench.timeline

    @timeline.setter
    def timeline(self, timeline: Timeline | None) -> None:
        self.bench.timeline = timeline

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of finished segments; None for none.

        It also returns recorded segments: a resumed run sets it before the bench is opened.
        """
        return self.bench.recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self.bench.recorder = recorder

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
        return not self._origin.is_guessed

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences for the report of a run: calibration, brightness, drift and recoveries.

        This property never opens the bench.
        """
        lit = (self.bench.left_lit,) if self.bench.left_lit else ()
        if self._origin.is_guessed:
            return (
                *lit,
                f"NOT CALIBRATED: {self.bench.path} ran on a guess of its registration, curves and "
                "brightness; its numbers are not to be trusted",
            )
        light = () if self._opened is None else _light_remarks(self._opened.setup)
        return (*lit, *light, *_recovery_remarks(self.counts))

    # --- properties of the bench -----------------------------------------------------------------

    @property
    def setup(self) -> BenchSetup:
        """The optical model of the bench, with the shot runner, as it is open or was last."""
        return self._latest.setup

    @property
    def optical_model(self) -> OpticalModel:
        """The optical model of the bench."""
        return self.setup.model

    @property
    def profile(self) -> OpticsProfile:
        """The mock's profile of this bench, with noise and step sizes from the noise model."""
        return self.setup.profile

    @property
    def timing(self) -> ShotTiming:
        """The times of the shots of this bench, without those of the host."""
        return self.setup.timing

    @property
    def geometry(self) -> Geometry:
        """The capacity of a frame without checksums; rails of an output may lie in two frames."""
        return self.setup.geometry

    # --- products --------------------------------------------------------------------------------

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[EncodedOperand]:
        """Encode weights by segments."""
        return encode_weights(weights, self._open().setup.model.layout, ranges)

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        """Submit the jobs of a product; the returned function waits and gathers the product."""
        jobs = ProductJobs(self._open(), x, w.content, at, done, details)

        def finished() -> MatmulResult:
            try:
                return jobs.result()
            except BaseException:
                self.close()
                raise

        return finished

    def submit(self, job: TileJob) -> Future[TileResult]:
        """Add a job to the queue of the bench; jobs run in the order of submission.

        Waits while the queue is full.

        Raises
        ------
        InputError : for frames that this bench cannot hold
        """
        opened = self._open()
        layout = opened.setup.model.layout
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
            return opened.submit(job)


def _light_remarks(setup: BenchSetup) -> list[str]:
    """Return the sentences about the light of a bench that has an expected brightness."""
    remarks, tracker = _calibration_remarks(setup), setup.tracker
    if tracker is not None and tracker.judged and not setup.bench.is_timing_only:
        if tracker.is_consistent:
            remarks[-1] += f"; {tracker.verdict}"
        else:
            remarks.append(
                f"LIGHT NOT AS CALIBRATED: {tracker.verdict}; products may be off in gain: check "
                "the source and the light of the markers, then run `lightloom calibrate` again"
            )
    return remarks


def _calibration_remarks(setup: BenchSetup) -> list[str]:
    """Return the sentences about the origin of the optical model."""
    full_e = setup.model.typical_full_e
    light = f"{full_e:,.0f} photoelectrons per full-scale product of two elements"
    if isinstance(setup.origin, Uncorrected):
        return [
            f'NOT CORRECTED: {setup.bench.path} says corrections = "off"; products have the errors '
            f"that its calibration measured; {light}"
        ]
    if not isinstance(setup.origin, Calibrated):
        return [f"calibrated by the simulation's own truth; {light}"]
    calibration = setup.origin.calibration
    ended = 1.0 if setup.tracker is None else setup.tracker.slow
    return [
        f"calibration {calibration.path}, {calibration.age_s(WANTED) / 3600:.1f} hours "
        f"old; {light}",
        f"{setup.references:,} reference shots were taken; the light ended at {ended:.3f} "
        "times that of calibration",
    ]


def _recovery_remarks(counts: BenchCounts) -> Iterator[str]:
    """Return the sentences about recoveries from faults."""
    recoveries = counts.recoveries
    host, skip = recoveries.get("host", 0), recoveries.get("skip", 0)
    if host or skip:
        yield (
            f"MARKED: the light gave no numbers after {host + skip:,} faults: {host:,} were "
            f"computed by the host, {skip:,} were skipped, with the numbers of a dark tile"
        )
    if recoveries:
        tried = ", ".join(f"{name} {count:,}" for name, count in sorted(recoveries.items()))
        yield f"recoveries from faults: {tried}; {counts.lost_s:.3g} s of bench time were lost"
