"""`Camera`: takes frames, and never hands out one that was taken before it was asked to.

A driver delivers what the device sends, with the device's own frame number and time; this class
refuses what is stale, incomplete or after a gap.
"""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from .base import DriverOptions, Finding, Instrument, exchange
from .clock import Clock
from .count_checks import complaint, is_coarse
from .errors import (
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentTimeout,
    LightloomError,
    LimitExceeded,
    NotConnected,
    ProtocolError,
    StaleFrame,
)

LOG = logging.getLogger("lightloom.instruments")

TriggerMode = Literal["software", "external"]

_EXPOSURE_OFF, _EXPOSURE_OFF_S = 0.01, 1e-6  # that a camera may round an exposure by


@dataclass(frozen=True)
class Region:
    """A part of the sensor, in pixels, numpy order."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Shot:
    """The name of a shot, carried through to its record; a simulation draws its noise from it.

    Parameters
    ----------
    address : who is multiplied, such as "layer.0.qkv/3/17/0"
    number : counts the shots of a run
    """

    address: str
    number: int


@dataclass(frozen=True)
class RawFrame:
    """What a driver hands up.

    Parameters
    ----------
    number : the device's own count of frames; None where it has none
    taken_at_s : start of the exposure, on the instrument's clock
    """

    data: np.ndarray
    number: int | None
    taken_at_s: float
    is_complete: bool = True


@dataclass(frozen=True)
class CameraFrame:
    """A fresh frame: counts [height, width] of the region, uint8 or uint16."""

    data: np.ndarray
    frame_id: int
    taken_at_s: float
    exposure_s: float
    shot: Shot | None = None


class CountOptions(DriverOptions):
    """What a bench file may say about the counts of any camera.

    Parameters
    ----------
    count_shift : bits by which counts are left-aligned in their word, such as 4 for 12 bits in 16;
        they are shifted back
    """

    count_shift: int = Field(default=0, ge=0, le=15)


class Camera(Instrument):
    """A camera. Its attributes are known once it is connected.

    Attributes
    ----------
    sensor_shape : (height, width) in pixels
    bit_depth : of a count
    exposure_limits_s : shortest and longest exposure
    readout_s : from the end of an exposure until the frame is here
    row_time_s : a rolling shutter begins each row so much later; 0 for a global one
    trigger_latency_s : from a trigger until the exposure begins, where it is known
    tells_exposed : whether it knows when an exposure has ended, before the frame is read out
    full_well_e, gain_e_per_count, offset_counts : where known, else None
    """

    kind: ClassVar[str] = "camera"
    tells_exposed: ClassVar[bool] = False

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(name, options, clock=clock)
        self.sensor_shape: tuple[int, int] = (0, 0)
        self.bit_depth = 8
        self.exposure_limits_s = (0.0, float("inf"))
        self.readout_s = 0.0
        self.row_time_s = 0.0
        self.trigger_latency_s = 0.0
        self.full_well_e: float | None = None
        self.gain_e_per_count: float | None = None
        self.offset_counts: float | None = None
        self._most_s = (0.0, float("inf"))  # what narrow_limits has been told
        self._exposure_s = 0.0
        self._region: Region | None = None
        self._trigger_mode: TriggerMode = "software"
        self._frame_ids = itertools.count(1)
        self._armed_at_s: float | None = None
        self._last_number: int | None = None
        self._triggered: list[Shot | None] = []

    # --- what a driver fills in ------------------------------------------------------------------

    @abstractmethod
    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        """Set all three (checked against the limits) and return the exposure that the device holds.

        Ask the device for it: what was sent is not what it took. Raise InputError for a region
        that the device does not take as it is. Called only while the camera is not armed.
        """

    @abstractmethod
    def _arm(self) -> None:
        """Begin to accept triggers; throw away what is still in buffers."""

    @abstractmethod
    def _trigger(self, shot: Shot | None) -> None:
        """Begin one exposure (software trigger)."""

    @abstractmethod
    def _read(self, timeout_s: float) -> RawFrame | None:
        """Return the next frame in the order in which they were taken; None after the time-out."""

    @abstractmethod
    def _disarm(self) -> None:
        """Stop; no frame is on its way afterwards."""

    # --- what everybody uses ---------------------------------------------------------------------

    @property
    def exposure_s(self) -> float:
        """Exposure of a frame, as the device took it."""
        return self._exposure_s

    @property
    def region(self) -> Region:
        """The part of the sensor that is read out."""
        return self._region or Region(0, 0, *self.sensor_shape)

    @property
    def trigger_mode(self) -> TriggerMode:
        """What begins an exposure: `trigger()`, or an external line."""
        return self._trigger_mode

    @property
    def is_armed(self) -> bool:
        """Whether it accepts triggers."""
        return self._armed_at_s is not None

    def narrow_limits(self, shortest_s: float, longest_s: float) -> None:
        """Allow less than the device does, now and whenever it is connected again."""
        low, high = self._most_s
        self._most_s = (max(low, shortest_s), min(high, longest_s))

    @property
    def allowed_exposures_s(self) -> tuple[float, float]:
        """Shortest and longest exposure that device and bench file allow together."""
        (shortest, longest), (low, high) = self.exposure_limits_s, self._most_s
        return max(shortest, low), min(longest, high)

    @exchange
    def configure(
        self,
        exposure_s: float | None = None,
        region: Region | None = None,
        trigger_mode: TriggerMode | None = None,
    ) -> None:
        """Change settings; what is None stays. The camera is disarmed.

        Raises
        ------
        LimitExceeded : for an exposure beyond the limits
        InputError : for a region outside the sensor, an unknown trigger mode, or a setting that the
            camera does not take; all settings are then as before
        """
        is_new = exposure_s is not None
        exposure_s = self._exposure_s if exposure_s is None else float(exposure_s)
        region = self.region if region is None else region
        mode = self._trigger_mode if trigger_mode is None else trigger_mode
        shortest, longest = self.exposure_limits_s
        if is_new:  # a part of the sensor may be chosen before an exposure is
            shortest, longest = self.allowed_exposures_s
        if not shortest <= exposure_s <= longest:
            raise LimitExceeded(
                f"{self.name}: exposure {exposure_s:g} s is outside {shortest:g} to {longest:g} s"
            )
        height, width = self.sensor_shape
        if (
            min(region.top, region.left) < 0
            or min(region.height, region.width) < 1
            or region.top + region.height > height
            or region.left + region.width > width
        ):
            raise InputError(f"{self.name}: {region} is outside the sensor of {self.sensor_shape}")
        if mode not in ("software", "external"):
            raise InputError(f"{self.name}: trigger mode {mode!r} is neither software nor external")
        self.disarm()
        try:
            taken_s = self._configure(exposure_s, region, mode)
            if is_new:
                self._check_exposure(exposure_s, taken_s)
        except LightloomError:
            self._put_back()
            raise
        self._exposure_s, self._region, self._trigger_mode = taken_s, region, mode

    def _check_exposure(self, asked_s: float, taken_s: float) -> None:
        if not abs(taken_s - asked_s) <= max(_EXPOSURE_OFF * asked_s, _EXPOSURE_OFF_S):
            raise InputError(
                f"{self.name}: an exposure of {asked_s:g} s was asked for, and the camera takes "
                f"{taken_s:g} s; ask for an exposure that it can take, or see what holds it there"
            )

    def _put_back(self) -> None:
        """Configure the settings of before, so that driver and camera do not lie apart.

        A camera that does not even take those is closed: its state is unknown.
        """
        try:
            self._exposure_s = self._configure(self._exposure_s, self.region, self._trigger_mode)
        except (LightloomError, OSError) as error:
            LOG.warning("%s: its settings of before cannot be put back: %s", self.name, error)
            self.close()

    @exchange
    def arm(self) -> None:
        """Accept triggers from now on; a frame of before is never handed out."""
        if self.is_armed:
            self._disarm()
        self._triggered.clear()
        self._last_number = None
        self._armed_at_s = self.clock.now_s()
        self._arm()

    @exchange
    def trigger(self, shot: Shot | None = None) -> None:
        """Begin one exposure.

        Raises
        ------
        NotConnected : when the camera is not armed
        """
        if not self.is_armed:
            raise NotConnected(f"{self.name} is not armed; call arm() first")
        if self._trigger_mode == "software":
            self._trigger(shot)
        self._triggered.append(shot)  # not one that was refused

    def wait_until_exposed(self) -> None:
        """Wait until the latest exposure has ended, so that light may change while it is read out.

        Only where `tells_exposed`; elsewhere only `read` can tell.
        """

    @exchange
    def read(self, timeout_s: float) -> CameraFrame:
        """Return the frame of the oldest trigger not read yet.

        Raises
        ------
        LimitExceeded : when exposure and read-out take longer than the time-out
        InstrumentTimeout : when no frame came
        StaleFrame : when only frames from before `arm` came
        IncompleteFrame, DroppedFrame : when a frame, or a part of one, is lost
        """
        if self._armed_at_s is None:
            raise NotConnected(f"{self.name} is not armed; call arm() first")
        if self._exposure_s + self.readout_s > timeout_s:
            raise LimitExceeded(
                f"{self.name}: exposure and read-out take {self._exposure_s + self.readout_s:g} s, "
                f"longer than the time-out of {timeout_s:g} s"
            )
        ends_s, stale = self.clock.now_s() + timeout_s, 0
        while True:
            left_s = ends_s - self.clock.now_s()
            raw = self._read(max(left_s, 0.0))
            if raw is None:
                if stale:
                    raise StaleFrame(
                        f"{self.name}: {stale} frames came within {timeout_s:g} s, all of them "
                        "taken before it was armed; check what else triggers it"
                    )
                raise InstrumentTimeout(
                    f"{self.name}: no frame within {timeout_s:g} s; check trigger and exposure"
                )
            if raw.taken_at_s < self._armed_at_s:
                stale += 1
                continue
            return self._fresh(raw)

    @exchange
    def disarm(self) -> None:
        """Accept no more triggers."""
        if self.is_armed:
            self._disarm()
        self._armed_at_s = None
        self._triggered.clear()

    def take(self, timeout_s: float, shot: Shot | None = None) -> CameraFrame:
        """Arm where that is not done, trigger and read: one fresh frame."""
        with self._lock:
            if not self.is_armed:
                self.arm()
            self.trigger(shot)
            return self.read(timeout_s)

    def _fresh(self, raw: RawFrame) -> CameraFrame:
        last, self._last_number = self._last_number, raw.number
        shot = self._triggered.pop(0) if self._triggered else None
        if raw.number is not None and last is not None and raw.number != last + 1:
            raise DroppedFrame(
                f"{self.name}: frame {raw.number} came after frame {last}: "
                f"{raw.number - last - 1} lost; arm it again and repeat the shots"
            )
        if not raw.is_complete:
            raise IncompleteFrame(
                f"{self.name}: a part of frame {raw.number} did not arrive; repeat the shot"
            )
        wanted = (self.region.height, self.region.width)
        if raw.data.shape != wanted:
            raise IncompleteFrame(
                f"{self.name}: a frame of {raw.data.shape} came, {wanted} was asked for"
            )
        frame_id = next(self._frame_ids)
        return CameraFrame(self._counts(raw.data), frame_id, raw.taken_at_s, self._exposure_s, shot)

    def _counts(self, data: np.ndarray) -> np.ndarray:
        """Return counts of `bit_depth` bits, shifted back where the bench file says so.

        Raises
        ------
        BadReply : for counts that are no such
        """
        shift = getattr(self.options, "count_shift", 0)
        said = complaint(data, self.bit_depth, shift)
        if said:
            raise ProtocolError(f"{self.name}: {said}")
        return data >> data.dtype.type(shift) if shift else data

    def _make_safe(self) -> None:
        if self.is_armed:
            self._disarm()
        self._armed_at_s = None
        self._triggered.clear()

    def _settings(self) -> Mapping[str, Any]:
        region = self.region
        return {
            "sensor_shape": self.sensor_shape,
            "bit_depth": self.bit_depth,
            "exposure_s": self._exposure_s,
            "region": [region.top, region.left, region.height, region.width],
            "trigger_mode": self._trigger_mode,
            "full_well_e": self.full_well_e,
            "gain_e_per_count": self.gain_e_per_count,
        }

    def _self_test(self) -> list[Finding]:
        was_armed, mode = self.is_armed, self._trigger_mode
        if mode != "software":
            self.configure(trigger_mode="software")
        start_s = self.clock.now_s()
        frame = self.take(self._exposure_s + self.readout_s + 5.0)
        took = self.clock.now_s() - start_s
        self.disarm()
        if mode != "software":
            self.configure(trigger_mode=mode)
        if was_armed:
            self.arm()
        detail = f"{frame.data.shape}, counts {frame.data.min()} to {frame.data.max()}"
        left = is_coarse(frame.data, self.bit_depth)
        if left:
            detail = (
                f"all counts are multiples of {1 << left}, so they are left-aligned, and not of "
                f"{self.bit_depth} bits as they come; set count_shift = {left}"
            )
        return [Finding("takes a frame", not left, f"{detail}, in {took:.4g} s")]
