"""`BenchDetector`: what differs between a camera and a photodiode that a DAQ samples.

A camera reads many slots in one image, and frame markers in that image identify the shown frames.
A photodiode reads one slot: an exposure is a window of samples, and the counters of the DAQ count
the frames that both modulators show.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from ...instruments import (
    Camera,
    Clock,
    Daq,
    Finding,
    InputError,
    Instrument,
    Shot,
    SpatialLightModulator,
    StaleFrame,
    UnexpectedIntensity,
)
from ...instruments.formatting import format_counted
from ...instruments.image_checks import grows_with_exposure, reads_region
from ..optics.parameters import Optics
from ..timing import ModulatorTiming, ShotTiming
from .config import BenchFile
from .tracking import TEN_THOUSAND, chi_square_limit

COUNTED_ROLES = ("input", "weight")  # modulators whose frames the counters 0 and 1 of a DAQ count
WINDOW_SAMPLES = 16  # of a photodiode, in one exposure
_DEFAULT_BITS = 16  # of a DAQ that does not state its own
_COUNTED_FRAMES = 3  # shown to test the frame counters
_UNSTEADY = 0.01  # accepted relative deviation of a sample from the mean, beyond noise
_NOMINAL_FULL_WELL_E = 10_000.0
_NOMINAL_E_PER_VOLT = 1e6


@dataclass(frozen=True)
class DetectorReading:
    """The data of one exposure.

    Parameters
    ----------
    data : counts [h, w] of a camera, volts [channels, samples] of a photodiode
    peak : the highest of these data
    phases : name, start and end of each phase of the exposure, for a timeline, in seconds
    """

    data: np.ndarray
    peak: float
    phases: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class MeanSignal:
    """The mean of the pixels, or samples, of a detector, in counts or volts.

    Parameters
    ----------
    noise : standard deviation of the mean
    saturated : fraction of saturated pixels
    """

    mean: float
    noise: float
    saturated: float = 0.0


@dataclass(frozen=True)
class DetectorSpec:
    """What a connected detector can do.

    Parameters
    ----------
    sensor_shape : (height, width) in pixels
    full_scale : counts of a pixel, or volts of a sample, that are saturated
    converter_step : of the converter, in counts or volts
    exposure_limits_s : shortest and longest exposure that both device and bench file allow
    readout_s : from the end of an exposure to the arrival of its data
    """

    sensor_shape: tuple[int, int]
    full_scale: float
    converter_step: float
    exposure_limits_s: tuple[float, float]
    readout_s: float


@dataclass(frozen=True)
class DetectorConstants:
    """The constants of a detector; a count is a volt where a photodiode is sampled.

    Parameters
    ----------
    read_noise_e : of one pixel or one sample
    dark_e_per_s : dark current
    """

    gain_e_per_count: float
    read_noise_e: float
    offset_counts: float = 0.0
    dark_e_per_s: float = 0.0


@dataclass(eq=False)
class BenchDetector(ABC):
    """The detector of a bench.

    Parameters
    ----------
    file : the bench file
    path : of the bench file, for messages
    instruments : of the bench, by role
    clock : of the bench
    is_timing_only : whether only the timing of the devices is simulated, without light
    """

    kind: ClassVar[str]  # of its instrument
    samples: ClassVar[int]  # of each pixel, in one exposure

    file: BenchFile
    path: str
    instruments: Mapping[str, Instrument]
    clock: Clock
    is_timing_only: bool

    # --- set-up ----------------------------------------------------------------------------------

    @abstractmethod
    def set_up(self) -> None:
        """Prepare the connected detector for the shots of the bench file.

        Raises
        ------
        InputError : when it cannot take them
        """

    @property
    @abstractmethod
    def exposure_s(self) -> float:
        """The duration of the exposure of a shot."""

    def restore_exposure(self, exposure_s: float) -> None:  # noqa: B027 (not all keep one)
        """Set the exposure back to an earlier `exposure_s`."""

    # --- constants -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def spec(self) -> DetectorSpec:
        """What the connected detector can do."""

    @abstractmethod
    def nominal_constants(self) -> DetectorConstants:
        """Return the constants that the device states, or plausible ones."""

    @abstractmethod
    def true_constants(self) -> DetectorConstants:
        """Return the true constants of a simulated detector."""

    @abstractmethod
    def binding(self) -> dict[str, Any]:
        """Return the properties that a calibration is bound to, for JSON."""

    @abstractmethod
    def shot_timing(
        self, inputs: ModulatorTiming, weights: ModulatorTiming, reference_every: int
    ) -> ShotTiming:
        """Return the shot times of the connected detector with two modulators.

        Parameters
        ----------
        reference_every : shots between two reference shots; 0 for none
        """

    @abstractmethod
    def loads(self) -> list[tuple[str, str, int, float | None]]:
        """Return the work that each shot gives detector and converter.

        Returns
        -------
        device, its unit of work, units of a shot, and units a second at most; None where unknown
        """

    # --- shots -----------------------------------------------------------------------------------

    @abstractmethod
    def arm(self) -> None:
        """Discard earlier exposures and frames, so that only later ones count."""

    def expect_frame(self, role: str) -> None:  # noqa: B027 (most detectors count no frames)
        """Take note that a modulator was sent a frame."""

    @abstractmethod
    def expose(
        self, shot: Shot, timeout_s: float, on_exposed: Callable[[], None] | None
    ) -> DetectorReading:
        """Take one exposure of settled frames.

        Parameters
        ----------
        timeout_s : of the read
        on_exposed : called once the exposure has ended, if that is known before the read-out; None
            for nothing

        Raises
        ------
        StaleFrame : when a modulator did not show its frames, as far as the detector knows
        InstrumentError : when the exposure is lost
        """

    def frame_counts(self) -> Iterator[tuple[str, int, int]]:
        """Yield role, counted and expected frames of each modulator whose frames are counted."""
        yield from ()

    def check_steady(  # noqa: B027 (one image does not tell)
        self, data: np.ndarray, optics: Optics
    ) -> None:
        """Refuse an exposure during which the light changed, as far as its data show that.

        Parameters
        ----------
        data : of one exposure, see `DetectorReading`

        Raises
        ------
        UnexpectedIntensity : when the light changed
        """

    def references_weight_frames(self, reference_every: int) -> bool:
        """Return whether each weight frame has a reference shot, which measures its brightness.

        Where markers measure the brightness of every shot, it has none.

        Parameters
        ----------
        reference_every : shots between two reference shots; 0 for none
        """
        return False

    # --- checks with other exposures -------------------------------------------------------------

    @abstractmethod
    def take_fresh(self, exposure_s: float, timeout_s: float, shot: Shot) -> np.ndarray:
        """Return the data of one exposure, after earlier exposures were discarded."""

    @abstractmethod
    def mean_signal(self, exposure_s: float, next_shot: Callable[[], Shot]) -> MeanSignal:
        """Return the mean signal of the shown frames.

        Parameters
        ----------
        next_shot : returns the address of an exposure
        """

    def count_findings(self) -> list[Finding]:
        """Return findings: whether the counters, if any, count the frames of both modulators."""
        return []

    def image_checks(self) -> list[Callable[[], Finding]]:
        """Return the checks of the images, if any, of a bench under light, in order."""
        return []


@dataclass(eq=False)
class CameraDetector(BenchDetector):
    """A camera: frame markers identify the frames and measure the brightness of every shot."""

    kind = "camera"
    samples = 1

    def __post_init__(self) -> None:
        self.camera.narrow_limits(*self.file.limits.exposure_s)

    @property
    def camera(self) -> Camera:
        """The camera."""
        return cast(Camera, self.instruments["detector"])

    def set_up(self) -> None:
        """Set the exposure of the bench file."""
        self.camera.configure(exposure_s=self.file.exposure_s)

    @property
    def exposure_s(self) -> float:
        """The exposure that the camera reports."""
        return self.camera.exposure_s

    def restore_exposure(self, exposure_s: float) -> None:
        """Configure the camera, unless it has this exposure."""
        if self.camera.exposure_s != exposure_s:
            self.camera.configure(exposure_s=exposure_s)

    @property
    def spec(self) -> DetectorSpec:
        """What the connected camera can do; its unit is a count."""
        camera = self.camera
        full_scale = float((1 << camera.bit_depth) - 1)
        limits_s = camera.allowed_exposures_s
        return DetectorSpec(camera.sensor_shape, full_scale, 1.0, limits_s, camera.readout_s)

    def nominal_constants(self) -> DetectorConstants:
        """Return what the camera states; its read noise is taken as one count."""
        camera = self.camera
        full_well_e = camera.full_well_e or _NOMINAL_FULL_WELL_E
        gain = camera.gain_e_per_count or full_well_e / self.spec.full_scale
        return DetectorConstants(gain, gain, camera.offset_counts or 0.0)

    def true_constants(self) -> DetectorConstants:
        """Return the true constants of a simulated camera."""
        camera: Any = self.camera
        return DetectorConstants(
            camera.gain_e_per_count, camera.read_noise_e, camera.offset_counts, camera.dark_e_per_s
        )

    def binding(self) -> dict[str, Any]:
        """Return sensor, region and bit depth."""
        camera, region = self.camera, self.camera.region
        return {
            "sensor_shape": list(camera.sensor_shape),
            "region": [region.top, region.left, region.height, region.width],
            "bit_depth": camera.bit_depth,
        }

    def shot_timing(
        self, inputs: ModulatorTiming, weights: ModulatorTiming, reference_every: int
    ) -> ShotTiming:
        """Return the shot times of the camera."""
        camera = self.camera
        return ShotTiming(
            inputs,
            weights,
            exposure_s=camera.exposure_s,
            readout_s=camera.readout_s,
            rolling_s=self._rolling_s,
            trigger_latency_s=camera.trigger_latency_s,
            shows_early=camera.tells_exposed,
            reference_every=reference_every,
        )

    @property
    def _rolling_s(self) -> float:
        """The time from the first row's exposure to the last row's."""
        return self.camera.row_time_s * self.camera.region.height

    def loads(self) -> list[tuple[str, str, int, float | None]]:
        """Return the exposure of the camera and the pixels of its converter."""
        region = self.camera.region
        # the camera exposes while it reads out
        frame_s = max(self.file.exposure_s, self.camera.readout_s) + self._rolling_s
        pixels = region.height * region.width
        return [
            ("camera", "exposures", 1, 1 / frame_s),
            ("converter", "pixels", pixels, pixels / frame_s),
        ]

    def arm(self) -> None:
        """Discard earlier exposures of the camera."""
        self.camera.arm()

    def expose(
        self, shot: Shot, timeout_s: float, on_exposed: Callable[[], None] | None
    ) -> DetectorReading:
        """Trigger the camera and read the image, counts [h, w]."""
        camera = self.camera
        camera.trigger(shot)
        if on_exposed is not None and camera.tells_exposed:
            camera.wait_until_exposed()
            on_exposed()
        frame = camera.read(timeout_s)
        ends_s = frame.taken_at_s + frame.exposure_s
        exposure = ("exposure", frame.taken_at_s, ends_s)
        peak = float(frame.data.max() if frame.highest is None else frame.highest)
        phases = exposure, ("read-out", ends_s, self.clock.now_s())
        return DetectorReading(frame.data, peak, phases)

    def take_fresh(self, exposure_s: float, timeout_s: float, shot: Shot) -> np.ndarray:
        """Return the counts [h, w] of one exposure, after earlier ones were discarded."""
        self.camera.configure(exposure_s=exposure_s)
        self.camera.arm()
        self.camera.trigger(shot)
        return self.camera.read(timeout_s).data

    def mean_signal(self, exposure_s: float, next_shot: Callable[[], Shot]) -> MeanSignal:
        """Return the mean count of two exposures, whose difference shows the noise."""
        self.restore_exposure(exposure_s)
        timeout_s = self.file.limits.timeout_s
        one, other = (
            self.camera.take(timeout_s, next_shot()).data.astype(np.float64) for _ in range(2)
        )
        noise = float(np.std(one - other)) / (2 * one.size**0.5)
        saturated = float(np.mean(other >= self.spec.full_scale))
        return MeanSignal(float((one + other).mean()) / 2, noise, saturated)

    def image_checks(self) -> list[Callable[[], Finding]]:
        """Return the checks of exposure and region."""
        timeout_s = self.file.limits.timeout_s
        return [
            lambda: grows_with_exposure(self.camera, timeout_s),
            lambda: reads_region(self.camera, timeout_s),
        ]


@dataclass(eq=False)
class PhotodiodeDetector(BenchDetector):
    """A photodiode on input 0 of a DAQ, whose counters 0 and 1 count input and weight frames."""

    kind = "daq"
    samples = WINDOW_SAMPLES

    _expected_frames: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(COUNTED_ROLES, 0), init=False
    )

    @property
    def daq(self) -> Daq:
        """The DAQ that samples the photodiode."""
        return cast(Daq, self.instruments["detector"])

    def set_up(self) -> None:
        """Refuse a DAQ that cannot count the frames of both modulators."""
        count = self.daq.counter_count
        if count < len(COUNTED_ROLES):
            raise InputError(
                f"{self.path}: {self.daq.name} has {format_counted(count, 'counter')}, and a "
                'layout = "single-pixel" counts the frames of both modulators; take a DAQ with '
                "two, or load firmware that has them"
            )

    @property
    def exposure_s(self) -> float:
        """The duration of a window of samples."""
        return self.file.exposure_s

    @property
    def spec(self) -> DetectorSpec:
        """What the connected DAQ can do; its unit is a volt."""
        (low, high), bits = self.daq.input_range_v, self.daq.bit_depth or _DEFAULT_BITS
        shortest_s, longest_s = self.file.limits.exposure_s
        shortest_s = max(shortest_s, WINDOW_SAMPLES / self.daq.rate_limits_hz[1])
        step = (high - low) / ((1 << bits) - 1)
        return DetectorSpec((1, 1), float(high), step, (shortest_s, longest_s), 0.0)

    def nominal_constants(self) -> DetectorConstants:
        """Return plausible constants without noise."""
        return DetectorConstants(_NOMINAL_E_PER_VOLT, 0.0)

    def true_constants(self) -> DetectorConstants:
        """Return the true constants of the photodiode at a simulated DAQ."""
        options: Any = self.daq.options
        gain = 1 / options.volts_per_electron
        return DetectorConstants(gain, options.read_noise_e, 0.0, options.dark_e_per_s)

    def binding(self) -> dict[str, Any]:
        """Return input range and bit depth."""
        daq = self.daq
        return {"input_range_v": [float(v) for v in daq.input_range_v], "bit_depth": daq.bit_depth}

    def shot_timing(
        self, inputs: ModulatorTiming, weights: ModulatorTiming, reference_every: int
    ) -> ShotTiming:
        """Return the shot times of a window of samples."""
        exposure_s = self.file.exposure_s
        return ShotTiming(
            inputs,
            weights,
            exposure_s=exposure_s,
            window_s=WINDOW_SAMPLES / (WINDOW_SAMPLES / exposure_s),  # as the DAQ counts it
            reference_every=reference_every,
            references_tiles=self.references_weight_frames(reference_every),
        )

    def loads(self) -> list[tuple[str, str, int, float | None]]:
        """Return the window of the DAQ and its samples."""
        return [
            ("detector (DAQ)", "exposures", 1, 1 / self.file.exposure_s),
            ("converter", "samples", WINDOW_SAMPLES, None),
        ]

    def arm(self) -> None:
        """Count the frames of both modulators from zero."""
        for counter, role in enumerate(COUNTED_ROLES):
            self.daq.reset_count(counter)
            self._expected_frames[role] = 0

    def expect_frame(self, role: str) -> None:
        """Expect the counter of a modulator to count one more frame."""
        self._expected_frames[role] += 1

    def expose(
        self, shot: Shot, timeout_s: float, on_exposed: Callable[[], None] | None
    ) -> DetectorReading:
        """Check the counters and read a window of samples, volts [1, samples]."""
        start_s = self.clock.now_s()
        self._check_counters()
        data = self.take_fresh(self.file.exposure_s, timeout_s, shot)
        phases = (("exposure", start_s, self.clock.now_s()),)
        return DetectorReading(data, float(data.max()), phases)

    def frame_counts(self) -> Iterator[tuple[str, int, int]]:
        """Yield role, counted and expected frames of each modulator."""
        for counter, role in enumerate(COUNTED_ROLES):
            yield role, self.daq.count(counter), self._expected_frames[role]

    def check_steady(self, data: np.ndarray, optics: Optics) -> None:
        """Refuse samples of one exposure that differ by more than noise, by a chi-square test.

        A correct shot fails once in ten thousand, as with checksums.
        """
        volts = data[0]
        count = len(volts)
        electrons = volts * optics.gain_e_per_count
        mean = float(electrons.mean())
        noise = (optics.read_noise_e**2 + optics.dark_e) / count
        noise += max(mean, 0.0) + (self.spec.converter_step * optics.gain_e_per_count) ** 2 / 12
        chi_square = float(((electrons - mean) ** 2).sum()) / (noise + (_UNSTEADY * mean) ** 2)
        limit = chi_square_limit(count - 1, TEN_THOUSAND)
        if chi_square > limit:
            raise UnexpectedIntensity(
                f"the light changed during the exposure (chi-square {chi_square:.0f} of {count} "
                f"samples, at most {limit:.0f} by chance): check that nothing moves in the beam, "
                "and that frames settle before the exposure"
            )

    def references_weight_frames(self, reference_every: int) -> bool:
        """Return True where there is light: without markers, references measure the brightness."""
        return reference_every > 0 and not self.is_timing_only

    def take_fresh(self, exposure_s: float, timeout_s: float, shot: Shot) -> np.ndarray:
        """Return a window of samples, volts [1, samples]; the counters are not checked."""
        rate_hz = WINDOW_SAMPLES / exposure_s
        return self.daq.read((0,), WINDOW_SAMPLES, rate_hz, timeout_s, shot).volts

    def _check_counters(self) -> None:
        """Check that the counters have counted every frame that was sent.

        Raises
        ------
        StaleFrame : naming the modulator; its count is the expected one from now on
        """
        for role, counted, expected in self.frame_counts():
            if counted != expected:
                self._expected_frames[role] = counted
                error = StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {expected} were shown"
                )
                error.instrument = self.instruments[role]
                raise error

    def mean_signal(self, exposure_s: float, next_shot: Callable[[], Shot]) -> MeanSignal:
        """Return the mean voltage of a window of samples, whose spread shows the noise."""
        volts = self.take_fresh(exposure_s, self.file.limits.timeout_s, next_shot())[0]
        return MeanSignal(float(volts.mean()), float(volts.std()) / WINDOW_SAMPLES**0.5)

    def count_findings(self) -> list[Finding]:
        """Return findings: whether the counters of the DAQ count the frames of both modulators."""
        findings = []
        for counter, role in enumerate(COUNTED_ROLES):
            modulator = cast(SpatialLightModulator, self.instruments[role])
            self.daq.reset_count(counter)
            for _ in range(_COUNTED_FRAMES):
                modulator.wait_until_settled(modulator.blank())
            counted = self.daq.count(counter)
            detail = f"counter {counter} counted {counted} of {_COUNTED_FRAMES} frames"
            if counted != _COUNTED_FRAMES:
                detail += f"; connect the {role} modulator's trigger output to it"
            finding = Finding(f"{role}: frames are counted", counted == _COUNTED_FRAMES, detail)
            findings.append(finding)
        return findings


DETECTORS: dict[str, type[BenchDetector]] = {
    detector.kind: detector for detector in (CameraDetector, PhotodiodeDetector)
}
