"""`Detector`: what differs between a camera and a photodiode that a DAQ samples.

A camera reads many slots in one image, and frame markers in that image identify the shown frames.
A photodiode reads one slot: an exposure is a window of samples, and the counters of the DAQ count
the frames that both modulators show.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, cast

import numpy as np

from ...instruments import Camera, Clock, Daq, InputError, Instrument, Shot, StaleFrame
from ...instruments.formatting import format_counted
from ..optics.layouts import LAYOUTS
from .config import BenchFile

COUNTED_ROLES = ("input", "weight")  # modulators whose frames the counters 0 and 1 of a DAQ count
WINDOW_SAMPLES = 16  # of a photodiode, in one exposure


@dataclass(frozen=True)
class Reading:
    """The data of one exposure.

    Parameters
    ----------
    data : counts [h, w] of a camera, volts [channels, samples] of a photodiode
    phases : name, start and end of each phase of the exposure, for a timeline, in seconds
    """

    data: np.ndarray
    phases: tuple[tuple[str, float, float], ...]


@dataclass(eq=False)
class Detector(ABC):
    """The detector of a bench.

    Parameters
    ----------
    file : the bench file
    path : of the bench file, for messages
    instruments : of the bench, by role
    clock : of the bench
    is_timing_only : whether only the timing of the devices is simulated, without light
    """

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

    # --- shots -----------------------------------------------------------------------------------

    @abstractmethod
    def arm(self) -> None:
        """Discard earlier exposures and frames, so that only later ones count."""

    @abstractmethod
    def expect_frame(self, role: str) -> None:
        """Take note that a modulator was sent a frame."""

    @abstractmethod
    def expose(
        self, shot: Shot, timeout_s: float, on_exposed: Callable[[], None] | None = None
    ) -> Reading:
        """Take one exposure of settled frames.

        Parameters
        ----------
        timeout_s : of the read
        on_exposed : called once the exposure has ended, if that is known before the read-out

        Raises
        ------
        StaleFrame : when a modulator did not show its frames, as far as the detector knows
        InstrumentError : when the exposure is lost
        """

    @abstractmethod
    def references_weight_frames(self, reference_every: int) -> bool:
        """Return whether each weight frame has a reference shot, which measures its brightness.

        Parameters
        ----------
        reference_every : shots between two reference shots; 0 for none
        """


@dataclass(eq=False)
class CameraDetector(Detector):
    """A camera: frame markers identify the frames and measure the brightness of every shot."""

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

    def arm(self) -> None:
        """Discard earlier exposures of the camera."""
        self.camera.arm()

    def expect_frame(self, role: str) -> None:
        """Do nothing: the markers in the image identify its frames."""

    def expose(
        self, shot: Shot, timeout_s: float, on_exposed: Callable[[], None] | None = None
    ) -> Reading:
        """Trigger the camera and read the image, counts [h, w]."""
        camera = self.camera
        camera.trigger(shot)
        if on_exposed is not None and camera.tells_exposed:
            camera.wait_until_exposed()
            on_exposed()
        frame = camera.read(timeout_s)
        ends_s = frame.taken_at_s + frame.exposure_s
        exposure = ("exposure", frame.taken_at_s, ends_s)
        return Reading(frame.data, (exposure, ("read-out", ends_s, self.clock.now_s())))

    def references_weight_frames(self, reference_every: int) -> bool:
        """Return False: markers measure the brightness of every shot."""
        return False


@dataclass(eq=False)
class PhotodiodeDetector(Detector):
    """A photodiode on input 0 of a DAQ, whose counters 0 and 1 count input and weight frames."""

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

    def arm(self) -> None:
        """Count the frames of both modulators from zero."""
        for counter, role in enumerate(COUNTED_ROLES):
            self.daq.reset_count(counter)
            self._expected_frames[role] = 0

    def expect_frame(self, role: str) -> None:
        """Expect the counter of a modulator to count one more frame."""
        self._expected_frames[role] += 1

    def expose(
        self, shot: Shot, timeout_s: float, on_exposed: Callable[[], None] | None = None
    ) -> Reading:
        """Check the counters and read a window of samples, volts [1, samples]."""
        start_s = self.clock.now_s()
        self._check_counters()
        data = self._window(self.file.exposure_s, timeout_s, shot)
        return Reading(data, (("exposure", start_s, self.clock.now_s()),))

    def references_weight_frames(self, reference_every: int) -> bool:
        """Return True where there is light: without markers, references measure the brightness."""
        return reference_every > 0 and not self.is_timing_only

    def _window(self, exposure_s: float, timeout_s: float, shot: Shot) -> np.ndarray:
        """Read a window of samples, volts [1, samples]."""
        rate_hz = WINDOW_SAMPLES / exposure_s
        return self.daq.read((0,), WINDOW_SAMPLES, rate_hz, timeout_s, shot).volts

    def _check_counters(self) -> None:
        """Check that the counters have counted every frame that was sent.

        Raises
        ------
        StaleFrame : naming the modulator; its count is the expected one from now on
        """
        for counter, role in enumerate(COUNTED_ROLES):
            counted, expected = self.daq.count(counter), self._expected_frames[role]
            if counted != expected:
                self._expected_frames[role] = counted
                error = StaleFrame(
                    f"the DAQ counted {counted} {role} frames where {expected} were shown"
                )
                error.instrument = self.instruments[role]
                raise error


_DETECTORS: dict[str, type[Detector]] = {"camera": CameraDetector, "daq": PhotodiodeDetector}


def make_detector(
    file: BenchFile,
    path: str,
    instruments: Mapping[str, Instrument],
    clock: Clock,
    is_timing_only: bool,
) -> Detector:
    """Return the detector that the layout of a bench file reads; for parameters see `Detector`."""
    kind = LAYOUTS[file.layout].detector_kind
    return _DETECTORS[kind](file, path, instruments, clock, is_timing_only)
