"""`Decoder`: converts detector data to electrons, and checks every shot before its result is used.

Markers identify which frame each exposure shows. Further checks are saturation, the dark level of
pixels without light, the brightness of markers and references, the range of each slot, and the
checksums of the tile. A shot that fails a check raises an error with the reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...instruments import DriftExceeded, Saturated, Shot, StaleFrame, UnexpectedIntensity
from ..optics.layouts.base import Layout, Marks
from ..optics.model import OpticalModel
from ..optics.parameters import Response
from .bench import Bench
from .shot_plan import PlannedShot
from .tracking import ScaleTracker, chi_square_limit

_SIGMAS = 6.0  # exceeded by chance twice in a billion
_OFF = 0.3  # accepted relative change of the brightness of a reference
_BEYOND = 0.02  # accepted error of the calibration, relative to the brightest light of a slot
_DARK_OFF = 0.002  # accepted light of dark pixels, relative to the full light of a pixel


@dataclass(frozen=True)
class Frame:
    """An encoded frame, with the frame id of its marker."""

    role: str
    key: tuple[int, int | str]
    levels: np.ndarray
    number: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Taken:
    """The data of one exposure and their peak, with the frames that it should show."""

    shot: Shot
    data: np.ndarray
    peak: float
    frames: dict[str, Frame]
    planned: PlannedShot


@dataclass(frozen=True)
class DecodedShot:
    """The result of a shot.

    Parameters
    ----------
    electrons : of each slot, at calibration's brightness, float64 [slots]
    brightness, dark, peak, checksum : see `checkpoint.QUALITY`
    numbers : frame ids of the markers, by role
    seconds : duration of decoding
    """

    electrons: np.ndarray
    brightness: float = math.nan
    dark: float = math.nan
    peak: float = math.nan
    checksum: float = math.nan
    numbers: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def quality(self) -> tuple[float, float, float, float]:
        """The first columns of `checkpoint.QUALITY`."""
        return self.brightness, self.dark, self.peak, self.checksum


class Decoder:
    """Decodes and checks shots in the order in which they were taken.

    Parameters
    ----------
    bench : open
    model : optical model of the bench
    tracker : brightness filter; None without one
    """

    def __init__(
        self,
        bench: Bench,
        model: OpticalModel,
        tracker: ScaleTracker | None,
    ) -> None:
        self.bench, self.model, self.tracker = bench, model, tracker
        self.layout, self.optics, self.response = model.layout, model.optics, model.response
        self.curves, self.is_guessed = model.curves, model.is_guessed
        self._read_variance = model.layout.read_pixels() * model.read_variance
        self._most_e = model.passed_e_most()
        self._step_change = 0.0  # possible step change of the brightness, found in a rejected shot
        self._dark_level: _DarkLevel | None = None
        if model.is_corrected and not model.is_guessed:
            self._dark_level = _dark_level(model.layout, model.response)

    def learn_dark_level(self) -> None:
        """Use the mean dark level of the latest shots as the expected one."""
        if self._dark_level is not None:
            self._dark_level.learn()

    def decode(self, taken: Taken) -> DecodedShot:
        """Return the electrons of each slot.

        Raises
        ------
        StaleFrame, UnexpectedIntensity, ChecksumMismatch, Saturated, DriftExceeded : when the shot
            cannot be trusted. A rejected shot does not update the brightness filter, except to
            record a possible step change
        """
        start, self._step_change = time.perf_counter(), 0.0
        before = None if self.tracker is None else self.tracker.state()
        try:
            return self._decoded(taken, start)
        except BaseException:
            if self.tracker is not None and before is not None:
                self.tracker.restore(before)
                self.tracker.allow_step_change(self._step_change)
            raise

    def _decoded(self, taken: Taken, start: float) -> DecodedShot:
        """Check the data of an exposure, and return its result; decoding began at `start`."""
        if self.bench.is_timing_only:
            levels = (taken.frames[role].levels for role in ("input", "weight"))
            numbers = {
                role: self.layout.frame_id(frame.number) for role, frame in taken.frames.items()
            }
            electrons = self.model.passed_e(*levels)
            return DecodedShot(electrons, numbers=numbers, seconds=time.perf_counter() - start)
        peak = self._check_saturation(taken)
        reading = self.layout.read(taken.data)
        dark, marks = math.nan, Marks({})
        if not self.is_guessed:
            light = self.curves["input"].light.take(taken.frames["input"].levels)
            mean_input = float(light.mean())
            marks = self.layout.marks(reading, mean_input, self.response.markers)
            self._check_numbers(marks, taken)
            if self._dark_level is not None:
                dark = self._dark_level.check(taken.data)
            self.bench.detector.check_steady(taken.data, self.optics)
        brightness = self._brightness(reading.electrons, marks, taken)
        electrons = reading.electrons / brightness
        if self.response.inverse is not None:
            electrons = self.response.inverse @ electrons
        if not self.is_guessed and self.model.is_corrected:
            self.check_possible(electrons)
        checksum = None
        if taken.planned.is_reference:
            self._check_reference(electrons, taken)
        elif taken.planned.job.check is not None:
            assert isinstance(taken.planned.input, int)
            checksum = taken.planned.job.check(taken.planned.weight, taken.planned.input, electrons)
        measured = math.nan if self.tracker is None else brightness
        return DecodedShot(
            electrons,
            measured,
            dark,
            peak,
            math.nan if checksum is None else float(checksum),
            marks.numbers,
            time.perf_counter() - start,
        )

    # --- checks ----------------------------------------------------------------------------------

    def _check_saturation(self, taken: Taken) -> float:
        """Refuse a shot with saturated samples; return its brightest sample over full scale."""
        top = self.bench.detector.spec.full_scale
        if taken.peak < top:
            return taken.peak / top
        saturated = taken.data >= top
        if self.optics.bad is not None:
            saturated &= ~self.optics.bad
        if saturated.any():
            count = int(saturated.sum())
            raise Saturated(
                f"shot {taken.shot.address}: the detector is saturated ({count} samples at "
                f"{top:g}); lower power_w or exposure_s in {self.bench.path}"
            )
        return taken.peak / top

    def _check_numbers(self, marks: Marks, taken: Taken) -> None:
        ids = {role: self.layout.frame_id(frame.number) for role, frame in taken.frames.items()}
        wrong = [role for role, number in marks.numbers.items() if number != ids[role]]
        if not wrong:
            return
        role = wrong[0]
        error = StaleFrame(
            f"the exposure shows {role} frame {marks.numbers[role]}, not frame {ids[role]}: the "
            "modulator did not show it, or the detector returned an old exposure"
        )
        both = len(wrong) > 1  # then an old exposure is more likely than two frozen modulators
        error.instrument = self.bench.instruments["detector" if both else role]
        raise error

    def _brightness(self, electrons: np.ndarray, marks: Marks, taken: Taken) -> float:
        """Return the brightness of this shot over that of calibration, from markers or a reference.

        Raises
        ------
        UnexpectedIntensity : when the brightness changes suddenly; if the next shot confirms the
            step change, it is accepted
        DriftExceeded : when the brightness is beyond the tolerance of the bench file
        """
        tracker, planned = self.tracker, taken.planned
        if tracker is None:
            return 1.0
        if marks.scale is not None:
            self._step_change = tracker.step_change(marks.scale, marks.scale_variance)
            if self._step_change:
                raise UnexpectedIntensity(
                    f"the markers are {marks.scale / tracker.slow:.3f} times as bright as those of "
                    "the previous shots: check the source, and that nothing blocks the beam"
                )
            now = tracker.update(marks.scale, marks.scale_variance)
        elif planned.is_reference:
            total = float(self._expected(taken).sum())
            variance = total + len(electrons) * self.optics.read_noise_e**2
            measured = float(electrons.sum()) / total
            self._check_brightness(measured / tracker.slow, variance**0.5 / total)
            now = tracker.update(measured, variance / total**2, planned.since)
        else:
            now = tracker.ahead(planned.since)  # without markers, between two references
        tolerance = self.bench.file.drift_tolerance
        if abs(tracker.slow - 1) > tolerance:
            raise DriftExceeded(
                f"{self.bench.path}: the light is {tracker.slow:.3f} times that of calibration, "
                f"beyond drift_tolerance = {tolerance:g}; let the source settle, then run "
                "`lightloom calibrate` again"
            )
        return now

    def _expected(self, taken: Taken) -> np.ndarray:
        return self.model.passed_e(taken.frames["input"].levels, taken.frames["weight"].levels)

    def _check_brightness(self, ratio: float, sigma: float) -> None:
        if abs(ratio - 1) > _OFF + _SIGMAS * sigma:
            raise UnexpectedIntensity(
                f"a reference shot gave {ratio:.3f} times the expected light: check the source, "
                "and that nothing blocks the beam"
            )

    def check_possible(self, electrons: np.ndarray) -> None:
        """Refuse electrons that no grey levels of these slots can give.

        Parameters
        ----------
        electrons : at calibration's brightness, [slots]

        Raises
        ------
        UnexpectedIntensity : when a slot has too many or too few
        """
        sigma = _SIGMAS * np.sqrt(np.maximum(electrons, 0) + self._read_variance)
        slack = sigma + _BEYOND * self._most_e
        off = np.maximum(electrons - self._most_e, -electrons) - slack
        if (off > 0).any():
            slot = int(np.argmax(off / slack))
            raise UnexpectedIntensity(
                f"slot {slot} gave {electrons[slot]:.4g} electrons, and its elements pass 0 to "
                f"{self._most_e[slot]:.4g}: check for stray light, and the detector"
            )

    def _check_reference(self, electrons: np.ndarray, taken: Taken) -> None:
        """Compare every slot of a reference with its prediction, apart from a common brightness.

        The test is chi-square over the slots. The variance of each slot is that of shot noise, read
        noise and the tolerance of its light, or of the mean light if that is more. A correct
        reference fails once in a million.
        """
        expected = self._expected(taken)
        light = np.maximum(expected, max(float(expected.mean()), 1.0))
        noise = np.maximum(expected, 0) + self._read_variance
        variance = noise + (self.model.tolerance * light) ** 2
        weight = expected / variance
        ratio = float(weight @ electrons) / max(float(weight @ expected), 1e-30)
        self._check_brightness(ratio, float(weight @ expected) ** -0.5 if weight.any() else 0.0)
        freedom = len(expected) - 1
        if freedom < 1 or self.is_guessed:
            return
        off = electrons - ratio * expected
        chi_square, limit = float((off**2 / variance).sum()), chi_square_limit(freedom)
        if chi_square > limit:
            slot = int(np.argmax(np.abs(off) / np.sqrt(variance)))
            raise UnexpectedIntensity(
                f"a reference shot gave {electrons[slot]:.4g} electrons in slot {slot}, where "
                f"the weights pass {expected[slot] * ratio:.4g} (chi-square {chi_square:.0f} of "
                f"{len(expected)} slots, at most {limit:.0f} by chance): check that nothing "
                "blocks the beam, and that the bench has not moved"
            )


# --- dark level ----------------------------------------------------------------------------------


@dataclass
class _DarkLevel:
    """The expected dark level of the pixels that no light reaches.

    Parameters
    ----------
    pixels : flat indices of these pixels in a frame
    expected : their mean, in counts
    sigma : of that mean
    tolerance : accepted deviation beyond noise, in counts
    latest : means of the latest shots, in counts
    """

    pixels: np.ndarray
    expected: float
    sigma: float
    tolerance: float
    latest: list[float]

    def check(self, data: np.ndarray) -> float:
        """Return the deviation of the dark level, in sigma.

        Raises
        ------
        UnexpectedIntensity : when the deviation is beyond noise and tolerance
        """
        mean = float(data.ravel()[self.pixels].mean())
        off = mean - self.expected
        self.latest = [*self.latest[-15:], mean]
        if abs(off) > _SIGMAS * self.sigma + self.tolerance:
            raise UnexpectedIntensity(
                f"the dark level of the detector is {mean:.2f} counts where it was "
                f"{self.expected:.2f}, in pixels that no light of the bench reaches: check for "
                "stray light, and the detector's offset"
            )
        return off / self.sigma

    def learn(self) -> None:
        if self.latest:
            self.expected = float(np.mean(self.latest))


def _dark_level(layout: Layout, response: Response) -> _DarkLevel | None:
    pixels, optics = layout.dark_pixels(), layout.optics
    if not len(pixels):
        return None
    dark = np.asarray(optics.dark_counts, dtype=np.float64)
    expected = float(dark.ravel()[pixels].mean() if dark.ndim else dark)
    gain = optics.gain_e_per_count
    variance = (optics.read_noise_e**2 + optics.dark_e) / gain**2 + 1 / 12
    read = float(layout.read_pixels().mean())
    full = float(response.pairs_e.sum(axis=1).mean()) / read  # electrons of a pixel
    tolerance = (optics.read_noise_e / read**0.5 + _DARK_OFF * full) / gain
    return _DarkLevel(pixels, expected, (variance / len(pixels)) ** 0.5, tolerance, [])
