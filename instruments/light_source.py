"""`LightSource` and `PowerMeter`: light in watts, with limits that no run can raise.

Software is never the safety function: interlock and shutter act by themselves; this class only
refuses early and switches off late.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from .base import DriverOptions, Finding, Instrument, exchange
from .clock import Clock
from .errors import BadReply, InterlockOpen, LimitExceeded


class LightSource(Instrument):
    """A laser, LED or lamp. Its attributes are known once it is connected.

    Attributes
    ----------
    power_limits_w : lowest and highest set-point; the bench file can only narrow it
    wavelength_m : where known
    has_interlock, has_shutter : whether it can be asked for them
    """

    kind: ClassVar[str] = "light source"

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(name, options, clock=clock)
        self.power_limits_w = (0.0, 0.0)
        self.wavelength_m: float | None = None
        self.has_interlock = self.has_shutter = False
        self._power_w = 0.0
        self._is_enabled = False

    # --- what a driver fills in ------------------------------------------------------------------

    @abstractmethod
    def _set_power(self, power_w: float) -> None:
        """Take a set-point (checked); light only when it is enabled."""

    @abstractmethod
    def _enable(self) -> None:
        """Emit, and open the shutter."""

    @abstractmethod
    def _disable(self) -> None:
        """Stop emission, and close the shutter; must work whatever happened before."""

    @abstractmethod
    def _emits(self) -> bool:
        """Ask the device whether it emits."""

    def _interlock_closed(self) -> bool:
        """Ask whether the interlock is closed and not tripped."""
        return True

    # --- what everybody uses ---------------------------------------------------------------------

    @property
    def power_w(self) -> float:
        """The set-point."""
        return self._power_w

    def narrow_limits(self, low_w: float | None, high_w: float | None) -> None:
        """Allow less than the device does; limits never become wider.

        Raises
        ------
        LimitExceeded : when nothing is left between them
        """
        low = max(self.power_limits_w[0], low_w or 0.0)
        high = self.power_limits_w[1] if high_w is None else min(self.power_limits_w[1], high_w)
        if low > high:
            raise LimitExceeded(f"{self.name}: no power is left between {low:g} and {high:g} W")
        self.power_limits_w = (low, high)

    @exchange
    def set_power(self, power_w: float) -> None:
        """Choose a set-point; nothing is sent when it is beyond the limits."""
        self._check_power(power_w)
        self._set_power(float(power_w))
        self._power_w = float(power_w)

    def _check_power(self, power_w: float, what: str = "", way_out: str = "") -> None:
        low, high = self.power_limits_w
        if not low <= power_w <= high:
            raise LimitExceeded(
                f"{self.name}: {what}{power_w:g} W is outside its limits of {low:g} to {high:g} W"
                f"{way_out}"
            )

    @exchange
    def enable(self) -> None:
        """Emit.

        Raises
        ------
        LimitExceeded : when the set-point is beyond the limits, which may have been narrowed since
        InterlockOpen : when the interlock is open, or emission does not begin
        """
        self._check_power(self._power_w, "its set-point of ", "; call set_power() before enable()")
        if not self._interlock_closed():
            raise InterlockOpen(
                f"{self.name}: the interlock is open; close it and re-arm the source on site"
            )
        self._is_enabled = True
        try:
            self._enable()
            emits = self._emits()
        except BaseException:  # it may well emit: an answer that got lost has been obeyed
            self.disable()
            raise
        if not emits:
            self.disable()
            raise InterlockOpen(f"{self.name} does not emit although it was enabled")

    @exchange
    def disable(self) -> None:
        """Stop emission."""
        self._is_enabled = False
        self._disable()

    @exchange
    def is_emitting(self) -> bool:
        """Ask the device whether it emits."""
        return self._emits()

    @exchange
    def interlock_closed(self) -> bool:
        """Ask whether the interlock lets it emit."""
        return self._interlock_closed()

    def _make_safe(self) -> None:
        self._is_enabled = False
        self._disable()

    def _settings(self) -> Mapping[str, Any]:
        return {
            "power_w": self._power_w,
            "power_limits_w": self.power_limits_w,
            "is_enabled": self._is_enabled,
            "wavelength_m": self.wavelength_m,
        }

    def _self_test(self) -> list[Finding]:
        closed = self._interlock_closed()
        state = "emitting" if self._emits() else "dark"
        return [Finding("interlock", closed, f"{'closed' if closed else 'open'}, {state}")]


class PowerMeter(Instrument):
    """Measures light in watts.

    Attributes
    ----------
    wavelength_m : that it is set to; None where it has no such setting
    """

    kind: ClassVar[str] = "power meter"

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(name, options, clock=clock)
        self.wavelength_m: float | None = None

    @abstractmethod
    def _read_power(self, timeout_s: float) -> float:
        """Measure once, in watts."""

    @exchange
    def read_power(self, timeout_s: float = 5.0) -> float:
        """Measure once, in watts."""
        power_w = self._read_power(timeout_s)
        if power_w != power_w or abs(power_w) > 1e6:
            raise BadReply(f"{self.name}: {power_w!r} is no power")
        return power_w

    def _settings(self) -> Mapping[str, Any]:
        return {"wavelength_m": self.wavelength_m}

    def _self_test(self) -> list[Finding]:
        return [Finding("measures", True, f"{self._read_power(5.0):.4g} W")]
