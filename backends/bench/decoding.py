"""`Decoder`: from what a detector took to electrons that can be trusted, or an error that says why.

Every shot is asked: is it the light of the frames that were shown (markers)? Can the detector count
it (saturation)? Is darkness as dark as it was (pixels that no light reaches)? Is it as bright as it
should be (markers, references)? Could the slots give it at all? Do the tile's own sums fit?
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...instruments import DriftExceeded, Saturated, Shot, StaleFrame, UnexpectedIntensity
from ..optics.layouts.base import Layout, Marks
from ..optics.model import OpticalModel
from ..optics.parameters import Response
from .bench import Bench
from .shot_plan import PlannedShot
from .tracking import ScaleTracker, chi_square_limit

_SIGMAS = 6.0  # exceeded by chance twice in a billion
_TEN_THOUSAND = 3.72  # sigma of a normal distribution: exceeded by chance once in these
_OFF = 0.3  # share of its light by which a reference may be brighter or dimmer than before
_BEYOND = 0.02  # share of the brightest light by which calibration may be off
_UNSTEADY = 0.01  # share of its light by which a sample may differ from the others, beyond noise
_DARK_OFF = 0.002  # share of a pixel's full light that may reach dark pixels


@dataclass(frozen=True)
class Frame:
    """A frame laid out, with the number that its marker shows."""

    role: str
    key: tuple[int, int | str]
    levels: np.ndarray
    number: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Taken:
    """What the detector took, and of which frames it should be."""

    shot: Shot
    data: np.ndarray
    frames: dict[str, Frame]
    planned: PlannedShot


@dataclass(frozen=True)
class DecodedShot:
    """What a shot gave.

    Parameters
    ----------
    electrons : of each slot, at calibration's brightness, float64 [slots]
    brightness, dark, peak, checksum : see `recorder.QUALITY`
    numbers : that its markers showed, by role
    seconds : that decoding took
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
        """The first columns of `recorder.QUALITY`."""
        return self.brightness, self.dark, self.peak, self.checksum


class Decoder:
    """Judges shots one after another, in the order in which they were taken.

    Parameters
    ----------
    bench : open
    model : what is known of its optics
    tracker : of the light's drift; None where nothing is known of it
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
        self._is_bucket = bench.file.layout == "single-pixel"
        self._read_variance = model.layout.read_pixels() * model.read_variance
        self._most_e = model.passed_e_most()
        self._jump = 0.0  # of the light, that a shot was refused for
        self._darkness = (
            None if self._is_bucket or model.is_guessed else _darkness(model.layout, model.response)
        )

    def learn_darkness(self) -> None:
        """Take the dark level of the shots so far as what it should be."""
        if self._darkness is not None:
            self._darkness.learn()

    def decode(self, taken: Taken) -> DecodedShot:
        """Return the electrons of each slot.

        Raises
        ------
        StaleFrame, WrongLight, WrongSum, Saturated, Drifted : when the shot cannot be trusted; then
            nothing is concluded from it, but that the light may have jumped
        """
        start, self._jump = time.perf_counter(), 0.0
        before = None if self.tracker is None else self.tracker.state()
        try:
            found = self._found(taken)
        except BaseException:
            if self.tracker is not None and before is not None:
                self.tracker.restore(before)
                self.tracker.doubt(self._jump)
            raise
        return replace(found, seconds=time.perf_counter() - start)

    def _found(self, taken: Taken) -> DecodedShot:
        """Check what was taken, and give what it says."""
        if self.bench.is_timing_only:
            levels = (taken.frames[role].levels for role in ("input", "weight"))
            numbers = {
                role: frame.number % (1 << self.layout.marker_bits)
                for role, frame in taken.frames.items()
            }
            return DecodedShot(self.model.passed_e(*levels), numbers=numbers)
        peak = self._check_full(taken)
        dark, marks = math.nan, Marks({})
        if not self.is_guessed:
            mean_input = float(self.curves["input"].light[taken.frames["input"].levels].mean())
            marks = self.layout.marks(taken.data, mean_input, self.response)
            self._check_numbers(marks, taken)
            if self._darkness is not None:
                dark = self._darkness.check(taken.data)
        if self._is_bucket and not self.is_guessed:
            self.check_steady(taken.data[0])
        raw = self.layout.electrons(taken.data)
        brightness = self._brightness(raw, marks, taken)
        electrons = raw / brightness
        if self.response.inverse is not None:
            electrons = self.response.inverse @ electrons
        if not self.is_guessed:
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
        )

    # --- checks ----------------------------------------------------------------------------------

    def _check_full(self, taken: Taken) -> float:
        """Refuse a shot that the detector could not count; give its brightest sample."""
        bench = self.bench
        top = bench.daq.input_range_v[1] if self._is_bucket else (1 << bench.camera.bit_depth) - 1
        peak = float(taken.data.max())
        if peak < top:
            return peak / top
        full = taken.data >= top
        if self.optics.bad is not None:
            full &= ~self.optics.bad
        if full.any():
            raise Saturated(
                f"shot {taken.shot.address}: the detector is full ({int(full.sum())} samples at "
                f"{top:g}); lower power_w or exposure_s in {bench.path}"
            )
        return peak / top

    def check_steady(self, volts: np.ndarray) -> None:
        """Refuse samples of one exposure that differ more than noise makes them: chi-square.

        Exceeded by chance once in ten thousand shots, as checksums are.

        Parameters
        ----------
        volts : of a photodiode, [samples]

        Raises
        ------
        WrongLight : when the light changed meanwhile
        """
        optics, count = self.optics, len(volts)
        electrons = volts * optics.gain_e_per_count
        mean = float(electrons.mean())
        low, high = self.bench.daq.input_range_v
        step = (high - low) / ((1 << (self.bench.daq.bit_depth or 16)) - 1)
        noise = (optics.read_noise_e**2 + optics.dark_e) / count
        noise += max(mean, 0.0) + (step * optics.gain_e_per_count) ** 2 / 12
        chi_square = float(((electrons - mean) ** 2).sum()) / (noise + (_UNSTEADY * mean) ** 2)
        limit = chi_square_limit(count - 1, _TEN_THOUSAND)
        if chi_square > limit:
            raise UnexpectedIntensity(
                f"the light changed during the exposure (chi-square {chi_square:.0f} of {count} "
                f"samples, at most {limit:.0f} by chance): check that nothing moves in the beam, "
                "and that frames have settled by then"
            )

    def _check_numbers(self, marks: Marks, taken: Taken) -> None:
        wrong = {
            role: number
            for role, number in marks.numbers.items()
            if number != taken.frames[role].number % (1 << self.layout.marker_bits)
        }
        if not wrong:
            return
        role, number = next(iter(wrong.items()))
        error = StaleFrame(
            f"the light is that of {role} frame {number}, not of frame "
            f"{taken.frames[role].number % (1 << self.layout.marker_bits)}: the modulator did not "
            "show it, or the detector gave an old exposure"
        )
        both = len(wrong) > 1  # an old exposure, rather than two modulators at once
        error.instrument = self.bench.instruments["detector" if both else role]
        raise error

    def _brightness(self, electrons: np.ndarray, marks: Marks, taken: Taken) -> float:
        """Return light of this shot over that of calibration, from its marker or as a reference.

        Raises
        ------
        WrongLight : when it is much brighter or dimmer than the shots before, once: the light may
            have jumped
        Drifted : when the light has left the bench file's tolerance
        """
        tracker, planned = self.tracker, taken.planned
        if tracker is None:
            return 1.0
        if marks.scale is not None:
            self._jump = tracker.jump(marks.scale, marks.scale_variance)
            if self._jump:
                raise UnexpectedIntensity(
                    f"the markers are {marks.scale / tracker.slow:.3f} times as bright as those of "
                    "the shots before: check the source, and that nothing stands in the beam"
                )
            now = tracker.update(marks.scale, marks.scale_variance)
        elif planned.is_reference:
            total = float(self._expected(taken).sum())
            variance = total + len(electrons) * self.optics.read_noise_e**2
            measured = float(electrons.sum()) / total
            self._check_alike(measured / tracker.slow, variance**0.5 / total)
            now = tracker.update(measured, variance / total**2, planned.since)
        else:
            now = tracker.ahead(planned.since)  # no marker tells; references are seldom
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

    def _check_alike(self, share: float, sigma: float) -> None:
        if abs(share - 1) > _OFF + _SIGMAS * sigma:
            raise UnexpectedIntensity(
                f"a reference shot brought {share:.3f} times the light that it should: check the "
                "source, and that nothing stands in the beam"
            )

    def check_possible(self, electrons: np.ndarray) -> None:
        """Refuse electrons that no levels of these slots give.

        Parameters
        ----------
        electrons : at calibration's brightness, [slots]

        Raises
        ------
        WrongLight : when there are too many or too few
        """
        sigma = _SIGMAS * np.sqrt(np.maximum(electrons, 0) + self._read_variance)
        slack = sigma + _BEYOND * self._most_e
        off = np.maximum(electrons - self._most_e, -electrons) - slack
        if (off > 0).any():
            slot = int(np.argmax(off / slack))
            raise UnexpectedIntensity(
                f"slot {slot} brought {electrons[slot]:.4g} electrons, and its elements pass 0 to "
                f"{self._most_e[slot]:.4g}: check for light from elsewhere, and the detector"
            )

    def _check_reference(self, electrons: np.ndarray, taken: Taken) -> None:
        """Compare every slot with its prediction, their common brightness left open.

        Chi-square over the slots, the variance of each being that of shot noise, read noise and the
        tolerance of its light, or of the mean light where that is more. Exceeded by chance once in
        a million references.
        """
        expected = self._expected(taken)
        light = np.maximum(expected, max(float(expected.mean()), 1.0))
        noise = np.maximum(expected, 0) + self._read_variance
        variance = noise + (self.model.tolerance * light) ** 2
        weight = expected / variance
        share = float(weight @ electrons) / max(float(weight @ expected), 1e-30)
        self._check_alike(share, float(weight @ expected) ** -0.5 if weight.any() else 0.0)
        freedom = len(expected) - 1
        if freedom < 1 or self.is_guessed:
            return
        off = electrons - share * expected
        chi_square, limit = float((off**2 / variance).sum()), chi_square_limit(freedom)
        if chi_square > limit:
            slot = int(np.argmax(np.abs(off) / np.sqrt(variance)))
            raise UnexpectedIntensity(
                f"a reference shot brought {electrons[slot]:.4g} electrons to slot {slot} where "
                f"the weights pass {expected[slot] * share:.4g} (chi-square {chi_square:.0f} of "
                f"{len(expected)} slots, at most {limit:.0f} by chance): check that nothing "
                "stands in the beam, and that the bench has not moved"
            )


# --- darkness ------------------------------------------------------------------------------------


@dataclass
class _Darkness:
    """How dark the pixels are that no light reaches.

    Parameters
    ----------
    pixels : their places in a frame, flat
    expected : their mean, in counts
    sigma : of that mean
    tolerance : of it, beyond chance
    """

    pixels: np.ndarray
    expected: float
    sigma: float
    tolerance: float
    latest: list[float]

    def check(self, data: np.ndarray) -> float:
        """Return by how many sigma they are off.

        Raises
        ------
        WrongLight : when they are brighter or darker than they can be
        """
        mean = float(data.ravel()[self.pixels].mean())
        off = mean - self.expected
        self.latest = [*self.latest[-15:], mean]
        if abs(off) > _SIGMAS * self.sigma + self.tolerance:
            raise UnexpectedIntensity(
                f"the dark level of the detector is {mean:.2f} counts where it was "
                f"{self.expected:.2f}, in pixels that no light of the bench reaches: check for "
                "light from elsewhere, and the detector's offset"
            )
        return off / self.sigma

    def learn(self) -> None:
        if self.latest:
            self.expected = float(np.mean(self.latest))


def _darkness(layout: Layout, response: Response) -> _Darkness | None:
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
    return _Darkness(pixels, expected, (variance / len(pixels)) ** 0.5, tolerance, [])
