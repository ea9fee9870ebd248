"""`Camera`: takes frames, and never returns a frame that was taken before it was armed.

A driver delivers what the device sends, with the frame number and time of the device. This class
refuses frames that are stale, incomplete or follow a gap.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from .base import DriverOptions, Finding, Instrument, exchange
from .count_checks import alignment_shift, count_problem
from .errors import (
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentTimeout,
    LimitExceeded,
    NotConnected,
    ProtocolError,
    StaleFrame,
)

LOG = logging.getLogger("lightloom.instruments")

TriggerMode = Literal["software", "external"]

_ROUNDING, _ROUNDING_S = 0.01, 1e-6  # that a camera may apply, relative; least of an exposure


@dataclass(frozen=True)
class Region:
    """A part of the sensor, in pixels and numpy order.

    Parameters
    ----------
    top, left : first row and first column
    height, width : number of rows and of columns
    """

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Shot:
    """The identity of a shot, kept in its record; a simulation derives its noise from it.

    Parameters
    ----------
    address : of the product, such as "layer.0.qkv/3/17/0"
    number : of the shot within its run
    """

    address: str
    number: int


@dataclass(frozen=True)
class RawFrame:
    """A frame as a driver returns it.

    Parameters
    ----------
    data : counts of the region, uint8 or uint16 [height, width]
    number : frame number of the device; None where it counts no frames
    taken_at_s : start of the exposure, on the instrument's clock
    is_complete : False where a part of the frame did not arrive
    """

    data: np.ndarray
    number: int | None
    taken_at_s: float
    is_complete: bool = True


@dataclass(frozen=True)
class CameraFrame:
    """A fresh frame.

    Parameters
    ----------
    data : counts of the region, uint8 or uint16 [height, width]
    frame_id : number of the frame on this camera, counted from 1
    taken_at_s : start of the exposure, on the instrument's clock
    exposure_s : duration of the exposure
    shot : the shot that the trigger named; None where it named none
    highest : the highest count; None where it is not known
    """

    data: np.ndarray
    frame_id: int
    taken_at_s: float
    exposure_s: float
    shot: Shot | None = None
    highest: int | None = None

    def __repr__(self) -> str:
        height, width = self.data.shape
        return (
            f"CameraFrame {self.frame_id}: {height} x {width} counts from {self.data.min()} to "
            f"{self.data.max()}, exposed for {self.exposure_s:g} s"
        )


class CountOptions(DriverOptions):
    """Settings of the counts of any camera."""

    count_shift: int = Field(default=0, ge=0, le=15)
    """Bits by which counts are left-aligned in their word, such as 4 for 12 bits in 16.

    The driver shifts the counts back. Counts that do not fit the bit depth are refused.
    """


class Camera(Instrument):
    """A camera. Its attributes are valid once it is connected.

    Attributes
    ----------
    sensor_shape : (height, width) in pixels
    bit_depth : bits of a count
    exposure_limits_s : shortest and longest exposure
    readout_s : time from the end of an exposure to the arrival of the frame
    row_time_s : delay between rows of a rolling shutter; 0 for a global shutter
    trigger_latency_s : delay from a trigger to the exposure, where known
    tells_exposed : whether it can report the end of an exposure before the read-out
    full_well_e, gain_e_per_count, offset_counts : None where unknown
    """

    kind: ClassVar[str] = "camera"
    tells_exposed: ClassVar[bool] = False
    sensor_shape: tuple[int, int] = (0, 0)
    bit_depth: int = 8
    exposure_limits_s: tuple[float, float] = (0.0, inf)
    readout_s: float = 0.0
    row_time_s: float = 0.0
    trigger_latency_s: float = 0.0
    full_well_e: float | None = None
    gain_e_per_count: float | None = None
    offset_counts: float | None = None
    _narrowed_limits_s: tuple[float, float] = (0.0, inf)  # set by narrow_limits
    _exposure_s: float = 0.0
    _region: Region | None = None
    _trigger_mode: TriggerMode = "software"
    _frame_id: int = 0
    _armed_at_s: float | None = None
    _last_number: int | None = None
    _triggered: tuple[Shot | None, ...] = ()  # not read yet

    # --- hooks that a driver implements ----------------------------------------------------------

    @abstractmethod
    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        """Set all three (checked against the limits) and return the actual exposure of the device.

        Read the exposure back, because a device may round it. Raise InputError for a region
        that the device cannot set exactly. Called only while the camera is not armed.
        """

    @abstractmethod
    def _arm(self) -> None:
        """Begin to accept triggers; discard all frames that are still in buffers."""

    @abstractmethod
    def _trigger(self, shot: Shot | None) -> None:
        """Start one exposure (software trigger)."""

    @abstractmethod
    def _read(self, timeout_s: float) -> RawFrame | None:
        """Return the next frame in the order of exposure; None after the time-out."""

    @abstractmethod
    def _disarm(self) -> None:
        """Stop accepting triggers; no frame may arrive afterwards."""

    # --- public methods --------------------------------------------------------------------------

    @property
    def exposure_s(self) -> float:
        """The exposure of a frame, as the device reports it."""
        return self._exposure_s

    @property
    def region(self) -> Region:
        """The part of the sensor that is read out."""
        return self._region or Region(0, 0, *self.sensor_shape)

    @property
    def trigger_mode(self) -> TriggerMode:
        """The source of triggers: `trigger()`, or an external line."""
        return self._trigger_mode

    @property
    def is_armed(self) -> bool:
        """Whether the camera accepts triggers."""
        return self._armed_at_s is not None

    def narrow_limits(self, shortest_s: float, longest_s: float) -> None:
        """Narrow the exposure limits of the device, now and after each reconnection."""
        low, high = self._narrowed_limits_s
        self._narrowed_limits_s = (max(low, shortest_s), min(high, longest_s))

    @property
    def allowed_exposures_s(self) -> tuple[float, float]:
        """The shortest and longest exposure that both device and bench file allow."""
        (shortest, longest), (low, high) = self.exposure_limits_s, self._narrowed_limits_s
        return max(shortest, low), min(longest, high)

    @exchange
    def configure(
        self,
        exposure_s: float | None = None,
        region: Region | None = None,
        trigger_mode: TriggerMode | None = None,
    ) -> None:
        """Change settings; None keeps a setting. The camera is disarmed.

        Raises
        ------
        LimitExceeded : for an exposure outside the limits
        InputError : for a region outside the sensor, an unknown trigger mode, or a setting that the
            camera does not accept; the previous settings are then restored
        """
        is_new = exposure_s is not None
        exposure_s = self._exposure_s if exposure_s is None else float(exposure_s)
        region = self.region if region is None else region
        mode = self._trigger_mode if trigger_mode is None else trigger_mode
        shortest, longest = self.exposure_limits_s
        if is_new:  # a region may be set before an exposure is
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
            actual_s = self._configure(exposure_s, region, mode)
            if is_new:
                self._check_exposure(exposure_s, actual_s)
        except Exception:
            self._restore_settings()
            raise
        self._exposure_s, self._region, self._trigger_mode = actual_s, region, mode

    def _check_exposure(self, requested_s: float, actual_s: float) -> None:
        tolerance_s = max(_ROUNDING * requested_s, _ROUNDING_S)
        if not abs(actual_s - requested_s) <= tolerance_s:
            raise InputError(
                f"{self.name}: an exposure of {requested_s:g} s was requested, and the camera uses "
                f"{actual_s:g} s; request an exposure that it supports, or find out what fixes it"
            )

    def _check_setting(self, name: str, requested: Any, actual: Any) -> None:
        """Raise InputError for a setting that the camera changes by more than its rounding.

        Only a float is rounded, also where the camera reports it as text.
        """
        is_accepted = actual == requested
        if not is_accepted and not isinstance(actual, int):
            try:
                difference = abs(float(actual) - float(requested))
                is_accepted = difference <= _ROUNDING * abs(float(requested))
            except ValueError:  # words
                is_accepted = actual == str(requested)
        if not is_accepted:
            raise InputError(
                f"{self.name}: {name} was set to {requested!r}, and the camera uses {actual!r}; "
                "request that value, or find out what fixes it"
            )

    def _restore_settings(self) -> None:
        """Restore the previous settings, so that driver and camera agree.

        If the camera refuses these too, its state is unknown and it is closed.
        """
        try:
            self._exposure_s = self._configure(self._exposure_s, self.region, self._trigger_mode)
        except Exception as error:
            LOG.warning("%s: its previous settings cannot be restored: %s", self.name, error)
            self.close()

    @exchange
    def arm(self) -> None:
        """Accept triggers from now on; an earlier frame is never returned."""
        if self.is_armed:
            self._disarm()
        self._triggered = ()
        self._last_number = None
        self._armed_at_s = self.clock.now_s()
        self._arm()

    @exchange
    def trigger(self, shot: Shot | None = None) -> None:
        """Start one exposure.

        Raises
        ------
        NotConnected : when the camera is not armed
        """
        if not self.is_armed:
            raise NotConnected(f"{self.name} is not armed; call arm() first")
        if self._trigger_mode == "software":
            self._trigger(shot)
        self._triggered += (shot,)  # only if it was accepted

    def wait_until_exposed(self) -> None:
        """Wait until the latest exposure has ended, so that light may change during the read-out.

        Only useful where `tells_exposed`; otherwise the end is known only after `read`.
        """

    @exchange
    def read(self, timeout_s: float) -> CameraFrame:
        """Return the frame of the oldest trigger that was not read yet.

        Raises
        ------
        LimitExceeded : when exposure and read-out take longer than the time-out
        InstrumentTimeout : when no frame arrived
        StaleFrame : when only frames from before `arm` arrived
        IncompleteFrame, DroppedFrame : when a frame or a part of it was lost
        """
        if self._armed_at_s is None:
            raise NotConnected(f"{self.name} is not armed; call arm() first")
        if self._exposure_s + self.readout_s > timeout_s:
            raise LimitExceeded(
                f"{self.name}: exposure and read-out take {self._exposure_s + self.readout_s:g} s, "
                f"longer than the time-out of {timeout_s:g} s"
            )
        deadline_s, stale = self.clock.now_s() + timeout_s, 0
        while True:
            left_s = deadline_s - self.clock.now_s()
            raw = self._read(max(left_s, 0.0))
            if raw is None:
                if stale:
                    raise StaleFrame(
                        f"{self.name}: {stale} frames arrived within {timeout_s:g} s, all of them "
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
        self._make_safe()

    def take(self, timeout_s: float, shot: Shot | None = None) -> CameraFrame:
        """Arm if needed, trigger, and return one fresh frame."""
        with self._lock:
            if not self.is_armed:
                self.arm()
            self.trigger(shot)
            return self.read(timeout_s)

    @contextmanager
    def restored_settings(self) -> Iterator[None]:
        """Use the software trigger inside a `with`; then restore all settings, and arm again."""
        was_armed, before = self.is_armed, (self._exposure_s, self.region, self._trigger_mode)
        try:
            if self._trigger_mode != "software":
                self.configure(trigger_mode="software")
            yield
        finally:
            if self.is_connected:
                self.disarm()
                exposure_s, region, mode = before
                if before != (self._exposure_s, self.region, self._trigger_mode):
                    new_s = exposure_s if exposure_s != self._exposure_s else None
                    self.configure(new_s, region, mode)
                if was_armed:
                    self.arm()

    def _fresh(self, raw: RawFrame) -> CameraFrame:
        last, self._last_number = self._last_number, raw.number
        shot = self._triggered[0] if self._triggered else None
        self._triggered = self._triggered[1:]
        if raw.number is not None and last is not None and raw.number != last + 1:
            raise DroppedFrame(
                f"{self.name}: frame {raw.number} arrived after frame {last}: "
                f"{raw.number - last - 1} lost; arm it again and repeat the shots"
            )
        if not raw.is_complete:
            raise IncompleteFrame(
                f"{self.name}: a part of frame {raw.number} did not arrive; repeat the shot"
            )
        expected = (self.region.height, self.region.width)
        if raw.data.shape != expected:
            raise IncompleteFrame(
                f"{self.name}: a frame of shape {raw.data.shape} arrived instead of {expected}; "
                "repeat the shot"
            )
        self._frame_id += 1
        data, highest = self._counts(raw.data)
        return CameraFrame(data, self._frame_id, raw.taken_at_s, self._exposure_s, shot, highest)

    def _counts(self, data: np.ndarray) -> tuple[np.ndarray, int]:
        """Return counts of `bit_depth` bits, and the highest of them.

        They are shifted back by the `count_shift` of the bench file.

        Raises
        ------
        ProtocolError : for counts that do not fit the bit depth
        """
        shift = getattr(self.options, "count_shift", 0)
        problem, highest = count_problem(data, self.bit_depth, shift)
        if problem:
            raise ProtocolError(f"{self.name}: {problem}")
        return data >> data.dtype.type(shift) if shift else data, highest

    def _make_safe(self) -> None:
        if self.is_armed:
            self._disarm()
        self._armed_at_s = None
        self._triggered = ()

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
        with self.restored_settings():
            start_s = self.clock.now_s()
            frame = self.take(self._exposure_s + self.readout_s + 5.0)
            duration_s = self.clock.now_s() - start_s
        counts = f"counts {frame.data.min()} to {frame.data.max()}"
        detail = f"{frame.data.shape}, {counts}, in {duration_s:.4g} s"
        shift = alignment_shift(frame.data, self.bit_depth)
        if shift:
            detail = (
                f"all counts are multiples of {1 << shift}, so they are left-aligned and not of "
                f"{self.bit_depth} bits as sent; set count_shift = {shift}"
            )
        return [Finding("takes a frame", not shift, detail)]
