"""`Shots`: takes the shots of a job as fast as the devices go, and repeats what cannot be trusted.

Three things happen at once: the next frame is laid out, the present one is shown, settles and is
exposed, and the one before is decoded. A shot is judged exactly two shots after it was taken, so
what is repeated, and in which order, never depends on how fast a computer is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import numpy as np

from ...instruments import (
    Drifted,
    NotConnected,
    Saturated,
    Shot,
    Shown,
    StaleFrame,
    WrongLight,
)
from ..base import Stats
from .bench import REPEATABLE, WINDOW_SAMPLES, Bench
from .grey import GreyCurve
from .layouts import Layout, Marks, Optics, Response
from .tracking import ScaleTracker

_REPEATABLE = (*REPEATABLE, WrongLight)
_BEHIND = 2  # shots that may be taken before one is judged
_REFERENCE = "reference"  # the name of a reference shot
_REFERENCE_OFF, _REFERENCE_FLOOR = 0.3, 0.0025  # share of its own light, and of full light


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
    """Photoelectrons of a job [shots, slots], at calibration's brightness, and what it took."""

    electrons: np.ndarray
    stats: Stats


@dataclass(frozen=True)
class _Planned:
    """A shot to be taken.

    Parameters
    ----------
    levels : of the input
    place : in the result; None of a reference
    expected : electrons of a reference, float64 [slots]
    since : shots since the reference before
    """

    name: str
    levels: np.ndarray
    place: int | None
    expected: np.ndarray | None = None
    since: int = 0


@dataclass(frozen=True)
class _Frame:
    """A frame laid out, with the number that its marker shows."""

    role: str
    levels: np.ndarray
    number: int
    pixels: np.ndarray


@dataclass(frozen=True)
class _Taken:
    """What the detector took, and of which frames it should be."""

    shot: Shot
    data: np.ndarray
    frames: dict[str, _Frame]
    planned: _Planned


class Shots:
    """Takes shots on an open bench.

    Parameters
    ----------
    bench : open
    layout, optics, response, curves : what is known of it
    tracker : of the light's drift; None where nothing is known of it
    reference_every : shots between two reference shots; 0 for none
    settling_s : from a flip until its light is trusted, by role, where it was measured
    is_guessed : markers are not read, for nobody knows where they are
    faults : reason -> how often a shot was repeated for it, counted on

    Attributes
    ----------
    references : reference shots taken
    stops : set to end after the shot that is being taken
    """

    def __init__(
        self,
        bench: Bench,
        layout: Layout,
        optics: Optics,
        response: Response,
        curves: dict[str, GreyCurve],
        tracker: ScaleTracker | None,
        reference_every: int,
        settling_s: dict[str, float],
        is_guessed: bool,
        faults: dict[str, int],
    ) -> None:
        self.bench, self.layout, self.optics, self.response = bench, layout, optics, response
        self.curves, self.tracker, self.faults = curves, tracker, faults
        self.references = 0
        self.stops = Event()
        self._reference_every, self._settling_s = reference_every, settling_s
        self._is_guessed = is_guessed
        self._since_reference = 0
        self._numbers = {"input": 0, "weight": 0}  # of the latest frames laid out
        self._flips = {"input": 0, "weight": 0}  # frames shown
        self._shown: dict[str, tuple[Shown, _Frame]] = {}
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-encode")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="lightloom-decode")
        self._is_bucket = bench.file.layout == "block"
        if self._is_bucket:
            for counter in (0, 1):
                bench.daq.reset_count(counter)
        else:
            bench.camera.arm()

    def close(self) -> None:
        """Let the threads go, once what they do is done."""
        self.stops.set()
        self._encoder.shutdown(cancel_futures=True)
        self._decoder.shutdown(cancel_futures=True)

    # --- a job -----------------------------------------------------------------------------------

    def run(self, job: TileJob) -> TileResult:
        """Take all shots of a job.

        Raises
        ------
        StaleFrame, WrongLight, ... : when repeats do not help
        Saturated, Drifted : at once
        """
        stats = Stats()
        stats.seconds = dict.fromkeys(("encode", "product", "decode"), 0.0)
        electrons = np.zeros((len(job.inputs), self.layout.slots))
        waiting: deque[tuple[_Planned, Future[tuple[np.ndarray, float]]]] = deque()

        def judge() -> None:
            planned, future = waiting.popleft()
            found = self._judge(job, planned, future, stats)
            if planned.place is not None:
                electrons[planned.place] = found

        self._show(self._lay_out("weight", job.weights, self._next("weight")), stats)
        for planned, frame in self._ahead(job):
            self._show(frame.result(), stats)
            future = self._try(job, planned, 0, stats)
            waiting.append((planned, future))
            # a device that failed is put right before anything else is asked of it
            failed = future.done() and future.exception() is not None
            while waiting and (failed or len(waiting) >= _BEHIND):
                judge()
        while waiting:
            judge()
        return TileResult(electrons, stats)

    def _ahead(self, job: TileJob) -> Iterator[tuple[_Planned, Future[_Frame]]]:
        """Give the shots of a job, each with its frame; the one after it is laid out meanwhile."""
        before: tuple[_Planned, Future[_Frame]] | None = None
        for planned in self._planned(job):
            number = self._next("input")
            now = (planned, self._encoder.submit(self._lay_out, "input", planned.levels, number))
            if before is not None:
                yield before
            before = now
        if before is not None:
            yield before

    def _planned(self, job: TileJob) -> Iterator[_Planned]:
        if self._is_bucket and not self.bench.is_timing_only:
            yield self._reference(job)
        for number, vectors in enumerate(job.inputs):
            if 0 < self._reference_every <= self._since_reference:
                yield self._reference(job)
            levels = vectors[:1]
            if not self.layout.shares_input:
                dark = self.curves["input"].darkest
                levels = np.where(job.lies[:, None] >= 0, vectors[job.lies], dark)
            self._since_reference += 1
            yield _Planned(str(number), levels, number, since=self._since_reference)

    def _reference(self, job: TileJob) -> _Planned:
        """Plan to show the weights an input that is everywhere alike."""
        level = int(self.curves["input"].levels(np.array(self.layout.reference_light)))
        rows = 1 if self.layout.shares_input else self.layout.slots
        levels = np.full((rows, self.layout.length), level, dtype=job.inputs.dtype)
        expected, since = self.passed_e(levels, job.weights), self._since_reference + 1
        self._since_reference = 0
        self.references += 1
        return _Planned(f"{_REFERENCE} {self.references - 1}", levels, None, expected, since)

    def passed_e(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Give the electrons that grey levels should bring, float64 [slots]."""
        response = self.response
        x = self.curves["input"].light[inputs] + response.input_leak[:, None]
        w = self.curves["weight"].light[weights] + response.weight_leak[:, None]
        return response.offset_e + np.asarray(np.einsum("sk,sk,sk->s", response.pairs_e, x, w))

    # --- one shot --------------------------------------------------------------------------------

    def _judge(
        self,
        job: TileJob,
        planned: _Planned,
        future: Future[tuple[np.ndarray, float]],
        stats: Stats,
    ) -> np.ndarray:
        """Give the electrons of a shot, [slots]; repeat it while it cannot be trusted."""
        limit = self.bench.file.limits.retries
        for attempt in range(limit + 1):
            try:
                electrons, seconds = future.result()
            except _REPEATABLE as error:
                reason = type(error).__name__
                self.faults[reason] = self.faults.get(reason, 0) + 1
                stats.retries += 1
                if attempt == limit:
                    raise type(error)(
                        f"shot {job.name}/{planned.name} failed {limit + 1} times, the last time: "
                        f"{error}; the bench was made safe"
                    ) from error
                self._recover(job, planned, stats)
                future = self._try(job, planned, attempt + 1, stats)
                continue
            stats.seconds["decode"] += seconds
            stats.conversions += electrons.size
            return electrons
        raise AssertionError("unreachable")

    def _recover(self, job: TileJob, planned: _Planned, stats: Stats) -> None:
        """Throw away what is on its way, and show both frames anew."""
        if not self._is_bucket:
            self.bench.camera.arm()
        for role, levels in (("weight", job.weights), ("input", planned.levels)):
            self._show(self._lay_out(role, levels, self._next(role)), stats)

    def _next(self, role: str) -> int:
        """Give the number of a new frame."""
        self._numbers[role] += 1
        return self._numbers[role]

    def _lay_out(self, role: str, levels: np.ndarray, number: int) -> _Frame:
        return _Frame(role, levels, number, self.layout.frame(role, levels, number))

    def _show(self, frame: _Frame, stats: Stats) -> None:
        start = time.perf_counter()
        modulator = self.bench.input if frame.role == "input" else self.bench.weight
        self._shown[frame.role] = (modulator.show(frame.pixels), frame)
        self._flips[frame.role] += 1
        if frame.role == "input":
            stats.input_frames += 1
            stats.input_samples += frame.levels.size
        stats.seconds["product"] += time.perf_counter() - start

    def _try(
        self, job: TileJob, planned: _Planned, attempt: int, stats: Stats
    ) -> Future[tuple[np.ndarray, float]]:
        """Take one exposure and have it decoded; an error of a device is in the future, too."""
        if self.stops.is_set():
            raise NotConnected(f"{self.bench.path}: the bench was closed before {job.name}")
        self.bench.shots += 1
        stats.shots += 1
        shot = Shot(f"{job.name}/{planned.name}/{attempt}", self.bench.shots)
        start = time.perf_counter()
        try:
            taken = self._expose(shot, planned)
        except _REPEATABLE as error:
            failed: Future[tuple[np.ndarray, float]] = Future()
            failed.set_exception(error)
            return failed
        finally:
            stats.seconds["product"] += time.perf_counter() - start
        return self._decoder.submit(self._decode, taken)

    def _expose(self, shot: Shot, planned: _Planned) -> _Taken:
        """Wait until both frames have settled, expose, and read."""
        bench, file = self.bench, self.bench.file
        for role, modulator in (("input", bench.input), ("weight", bench.weight)):
            shown = self._shown[role][0]
            bench.clock.sleep_until(shown.shown_at_s + self._settling_s[role])
            modulator.wait_until_settled(shown)
        if self._is_bucket:
            count = WINDOW_SAMPLES
            rate_hz, timeout_s = count / file.exposure_s, file.limits.timeout_s
            data = bench.daq.read((0,), count, rate_hz, timeout_s, shot).volts
            self._check_counters()
        else:
            bench.camera.trigger(shot)
            data = bench.camera.read(file.limits.timeout_s).data
        frames = {role: frame for role, (_, frame) in self._shown.items()}
        return _Taken(shot, data, frames, planned)

    def _check_counters(self) -> None:
        for counter, role in enumerate(("input", "weight")):
            counted = self.bench.daq.count(counter)
            wanted = self._flips[role]
            if counted != wanted:
                self._flips[role] = counted
                raise StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {wanted} were shown"
                )

    # --- from counts to electrons ----------------------------------------------------------------

    def _decode(self, taken: _Taken) -> tuple[np.ndarray, float]:
        """Give the electrons of each slot at calibration's brightness, and the seconds it took."""
        start = time.perf_counter()
        if self.bench.is_timing_only:
            levels = (taken.frames[role].levels for role in ("input", "weight"))
            return self.passed_e(*levels), time.perf_counter() - start
        self._check_full(taken)
        marks = Marks({})
        if not self._is_guessed:
            mean_input = float(self.curves["input"].light[taken.frames["input"].levels].mean())
            marks = self.layout.marks(taken.data, mean_input, self.response)
            self._check_numbers(marks, taken)
        electrons = self.layout.electrons(taken.data)
        electrons = electrons / self._brightness(electrons, marks, taken)
        if self.response.inverse is not None:
            electrons = self.response.inverse @ electrons
        if taken.planned.expected is not None:
            self._check_reference(electrons, taken.planned.expected)
        return electrons, time.perf_counter() - start

    def _check_full(self, taken: _Taken) -> None:
        bench = self.bench
        top = bench.daq.input_range_v[1] if self._is_bucket else (1 << bench.camera.bit_depth) - 1
        if taken.data.max() < top:
            return
        full = taken.data >= top
        if self.optics.bad is not None:
            full &= ~self.optics.bad
        if full.any():
            raise Saturated(
                f"shot {taken.shot.address}: the detector is full ({int(full.sum())} samples at "
                f"{top:g}); lower power_w or exposure_s in {bench.path}"
            )

    def _check_numbers(self, marks: Marks, taken: _Taken) -> None:
        for role, number in marks.numbers.items():
            wanted = taken.frames[role].number % (1 << self.layout.marker_bits)
            if number != wanted:
                raise StaleFrame(
                    f"the light is that of {role} frame {number}, not of frame {wanted}: the "
                    "modulator did not show it, or the detector gave an old exposure"
                )

    def _brightness(self, electrons: np.ndarray, marks: Marks, taken: _Taken) -> float:
        """Give the light of this shot over that of calibration, from its marker or as a reference.

        Raises
        ------
        Drifted : when it has left the bench file's tolerance
        """
        tracker, expected = self.tracker, taken.planned.expected
        if tracker is None:
            return 1.0
        if marks.scale is not None:
            now = tracker.update(marks.scale, marks.scale_variance)
        elif expected is not None:
            total = float(expected.sum())
            variance = total + len(expected) * self.optics.read_noise_e**2
            now = tracker.update(
                float(electrons.sum()) / total, variance / total**2, taken.planned.since
            )
        else:
            now = tracker.ahead(taken.planned.since)  # no marker tells; references are seldom
        tolerance = self.bench.file.drift_tolerance
        if abs(tracker.slow - 1) > tolerance:
            raise Drifted(
                f"{self.bench.path}: the light is {tracker.slow:.3f} times that of calibration, "
                f"beyond drift_tolerance = {tolerance:g}; let the source settle, then run "
                "`lightloom calibrate` again (the bench was made safe)"
            )
        return now

    def _check_reference(self, electrons: np.ndarray, expected: np.ndarray) -> None:
        full = self.response.pairs_e.sum(axis=1)
        noise = 6 * np.sqrt(
            np.maximum(expected, 0) + self.layout.read_pixels() * self.optics.read_noise_e**2
        )
        off = np.abs(electrons - expected) - noise
        wrong = off > _REFERENCE_OFF * expected + _REFERENCE_FLOOR * full
        if wrong.any():
            slot = int(np.argmax(off))
            raise WrongLight(
                f"a reference shot brought {electrons[slot]:.3g} electrons to slot {slot} where "
                f"the weights pass {expected[slot]:.3g} ({wrong.sum()} of {len(wrong)} slots are "
                "off): check the source, and that nothing stands in the beam"
            )
