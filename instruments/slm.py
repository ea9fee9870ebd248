"""`SpatialLightModulator`: shows a frame, one grey level per pixel, and reports when it settles.

Also DMDs, OLED displays and windows on a monitor. Not here: the response curve of a modulator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .base import Finding, Instrument, exchange
from .errors import InputError


@dataclass(frozen=True)
class Shown:
    """A frame that was sent to a modulator.

    Parameters
    ----------
    frame_id : number of the frame on this modulator, counted from 1
    shown_at_s : when the device begins to show it
    settled_at_s : when its light has settled
    """

    frame_id: int
    shown_at_s: float
    settled_at_s: float


class SpatialLightModulator(Instrument):
    """A modulator. Its attributes are valid once it is connected.

    Attributes
    ----------
    shape : (height, width) in pixels
    bit_depth : bits of a grey level
    refresh_period_s : frames begin at multiples of this period; 0 means immediately
    transfer_s : time to transfer a frame to the device before it can be shown
    latency_s : delay from the flip to the first change of light (2-3 frames on HDMI)
    settle_time_s : duration of the slowest change between two grey levels
    darkest_level : grey level that `blank` shows; level 0 is not always the darkest
    safe_level : calibrated darkest level, shown before release; None means `darkest_level`
    """

    kind: ClassVar[str] = "slm"
    shape: tuple[int, int] = (0, 0)
    bit_depth: int = 8
    refresh_period_s: float = 0.0
    transfer_s: float = 0.0
    latency_s: float = 0.0
    settle_time_s: float = 0.0
    darkest_level: int = 0
    safe_level: int | None = None
    _frame_id: int = 0
    _last: np.ndarray | None = None

    @abstractmethod
    def _show(self, frame: np.ndarray) -> float:
        """Show a frame (checked: shape, C order, uint8 or uint16) and return the time of the flip.

        The caller may overwrite the array afterwards.
        """

    @exchange
    def show(self, frame: np.ndarray) -> Shown:
        """Show a frame of grey levels, (height, width), and return once it is transferred.

        Raises
        ------
        InputError : for a wrong shape, a wrong type or a level out of range
        """
        checked = self._checked(frame)
        shown_at_s = self._show(checked)
        self._last = checked.copy()
        settled_at_s = shown_at_s + self.latency_s + self.settle_time_s
        self._frame_id += 1
        return Shown(self._frame_id, shown_at_s, settled_at_s)

    @exchange
    def blank(self) -> Shown:
        """Show the darkest level everywhere; this is not a safety measure."""
        return self.show(np.full(self.shape, self.darkest_level, dtype=self.dtype))

    @exchange
    def darken(self) -> None:
        """Show the darkest known level: the calibrated one where there is a calibration."""
        self._make_safe()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a frame: uint8 up to 8 bits, uint16 above."""
        return np.dtype(np.uint8 if self.bit_depth <= 8 else np.uint16)

    def wait_until_settled(self, shown: Shown) -> None:
        """Wait until the light of a frame has settled."""
        self.clock.sleep_until(shown.settled_at_s)

    def _checked(self, frame: Any) -> np.ndarray:
        array = np.asarray(frame)
        if array.shape != self.shape:
            raise InputError(
                f"{self.name} shows frames of {self.shape}, (height, width), not {array.shape}"
            )
        if array.dtype != self.dtype:
            if array.dtype.kind not in "ui":
                raise InputError(f"{self.name} shows whole grey levels, not {array.dtype}")
            if array.size and not 0 <= array.min() <= array.max() < 1 << self.bit_depth:
                raise InputError(
                    f"{self.name} has {self.bit_depth} bits; the frame holds levels from "
                    f"{array.min()} to {array.max()}"
                )
        elif self.bit_depth not in (8, 16) and array.max(initial=0) >= 1 << self.bit_depth:
            raise InputError(
                f"{self.name} has {self.bit_depth} bits; the frame holds level {array.max()}"
            )
        return np.ascontiguousarray(array, dtype=self.dtype)

    def _make_safe(self) -> None:
        self._last = None
        level = self.darkest_level if self.safe_level is None else self.safe_level
        self._show(np.full(self.shape, level, dtype=self.dtype))

    def _settings(self) -> Mapping[str, Any]:
        return {
            "shape": self.shape,
            "bit_depth": self.bit_depth,
            "refresh_period_s": self.refresh_period_s,
            "transfer_s": self.transfer_s,
            "latency_s": self.latency_s,
            "settle_time_s": self.settle_time_s,
        }

    def _self_test(self) -> list[Finding]:
        before = self._last
        shown = self.blank()
        if before is not None:
            self.wait_until_settled(self.show(before))
        wait = shown.settled_at_s - shown.shown_at_s
        return [Finding("shows a dark frame", True, f"{self.shape}, settled after {wait:.4g} s")]
