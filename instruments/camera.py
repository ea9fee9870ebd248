"""`Camera`: takes frames, and never hands out one that was taken before it was asked to.

A driver delivers what the device sends, with the device's own frame number and time; this class
refuses what is stale, incomplete or after a gap.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .base import DriverOptions, Finding, Instrument, exchange
from .clock import Clock
from .errors import (
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentTimeout,
    LimitExceeded,
    NotConnected,
    StaleFrame,
)

TriggerMode = Literal["software", "external"]


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
        """Set all three (checked against the limits) and give the exposure as the device took it.

        Called only while the camera is not armed.
        """

    @abstractmethod
    def _arm(self) -> None:
        """Begin to accept triggers; throw away what is still in buffers."""

    @abstractmethod
    def _trigger(self, shot: Shot | None) -> None:
        """Begin one exposure (software trigger)."""

    @abstractmethod
    def _read(self, timeout_s: float) -> RawFrame | None:
        """Give the next frame in the order in which they were taken; None after the time-out."""

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
        InputError : for a region outside the sensor, or an unknown trigger mode
        """
        is_new = exposure_s is not None
        exposure_s = self._exposure_s if exposure_s is None else float(exposure_s)
        region = self.region if region is None else region
        mode = self._trigger_mode if trigger_mode is None else trigger_mode
        shortest, longest = self.exposure_limits_s
        if is_new:  # a part of the sensor may be chosen before an exposure is
            shortest, longest = max(shortest, self._most_s[0]), min(longest, self._most_s[1])
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
        self._exposure_s = self._configure(exposure_s, region, mode)
        self._region, self._trigger_mode = region, mode

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
        """Give the frame of the oldest trigger not read yet.

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
        return CameraFrame(raw.data, frame_id, raw.taken_at_s, self._exposure_s, shot)

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
        return [Finding("takes a frame", True, f"{detail}, in {took:.4g} s")]
