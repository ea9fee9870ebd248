"""`LightSource` and `PowerMeter`: light in watts, with limits that no run can raise.

Software is never the safety function: interlock and shutter act without it. This class only refuses
requests early and switches the light off as an addition.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar, Self

from .base import Finding, Instrument, exchange
from .errors import InstrumentTimeout, InterlockOpen, LimitExceeded, NotConnected, ProtocolError
from .safety import signals


class LightSource(Instrument):
    """A laser, LED or lamp. Its attributes are valid once it is connected.

    Attributes
    ----------
    power_limits_w : lowest and highest set-point; a bench file can only narrow them
    wavelength_m : None where unknown
    has_interlock : whether its state can be read; otherwise it is unknown whether an interlock is
        closed, or exists at all
    may_emit : whether it was enabled and has not confirmed since that it is off
    can_be_reopened : whether another process can switch it off after this one ended (`watchdog`)
    """

    kind: ClassVar[str] = "light source"
    can_be_reopened: ClassVar[bool] = False
    power_limits_w: tuple[float, float] = (0.0, 0.0)
    wavelength_m: float | None = None
    has_interlock: bool = False
    may_emit: bool = False
    _power_w: float = 0.0
    _is_enabled: bool = False
    _narrowed_limits_w: tuple[float, float] = (0.0, inf)  # set by narrow_limits

    # --- hooks that a driver implements ----------------------------------------------------------

    @abstractmethod
    def _set_power(self, power_w: float) -> None:
        """Set the power (checked); the source emits only when it is enabled."""

    @abstractmethod
    def _enable(self) -> None:
        """Start emission and open the shutter."""

    @abstractmethod
    def _disable(self) -> None:
        """Stop emission and close the shutter; must work in every state."""

    @abstractmethod
    def _emits(self) -> bool:
        """Return whether the device reports emission."""

    def _interlock_closed(self) -> bool:
        """Return whether the device reports the interlock closed and not tripped."""
        return True

    def _send_off(self) -> None:
        """Send the command that stops emission, even while another thread waits for a reply."""
        self._disable()

    def _load(self) -> None:
        """Load the libraries that connecting needs, without access to the device."""

    def _connect_to_disable(self, timeout_s: float) -> None:
        """Open the device only to switch it off, in spite of other faults."""
        self.connect(timeout_s)
        self.disable()

    # --- public methods --------------------------------------------------------------------------

    @property
    def power_w(self) -> float:
        """The set-point."""
        return self._power_w

    def narrow_limits(self, low_w: float | None, high_w: float | None) -> None:
        """Narrow the power limits of the device, now and after each reconnection.

        Raises
        ------
        LimitExceeded : when the narrowed limits are empty
        """
        low, high = self._narrowed_limits_w
        self._narrowed_limits_w = (
            max(low, low_w or 0.0),
            min(high, inf if high_w is None else high_w),
        )
        if self.is_connected:
            self._narrow()

    def _narrow(self) -> None:
        low = max(self.power_limits_w[0], self._narrowed_limits_w[0])
        high = min(self.power_limits_w[1], self._narrowed_limits_w[1])
        if low > high:
            raise LimitExceeded(f"{self.name}: the power limits {low:g} to {high:g} W are empty")
        self.power_limits_w = (low, high)

    def connect(self, timeout_s: float = 10.0) -> Self:
        """Open the device and narrow its limits again before it can be used."""
        with self._lock:
            super().connect(timeout_s)
            try:
                self._narrow()
            except BaseException:
                self.close()
                raise
        return self

    @exchange
    def set_power(self, power_w: float) -> None:
        """Set the power; nothing is sent if the value is outside the limits."""
        self._check_power(power_w)
        self._set_power(float(power_w))
        self._power_w = float(power_w)

    def _check_power(self, power_w: float, what: str = "", remedy: str = "") -> None:
        low, high = self.power_limits_w
        if not low <= power_w <= high:
            raise LimitExceeded(
                f"{self.name}: {what}{power_w:g} W is outside its limits of {low:g} to {high:g} W"
                f"{remedy}"
            )

    @exchange
    def enable(self) -> None:
        """Start emission.

        Raises
        ------
        LimitExceeded : when the set-point is outside the limits, which may have been narrowed since
        InterlockOpen : when the interlock is open or emission does not start
        NotConnected : when the program was told to stop
        """
        self._refuse_when_stopping()
        self._check_power(self._power_w, "its set-point of ", "; call set_power() before enable()")
        if not self._interlock_closed():
            raise InterlockOpen(
                f"{self.name}: the interlock is open; close it and re-arm the source on site"
            )
        self._is_enabled = self.may_emit = True
        try:
            self._enable()
            emits = self._emits()
            self._refuse_when_stopping()  # the signal may have come meanwhile
        except BaseException:  # it may emit: a command whose reply was lost may have taken effect
            self.disable()
            raise
        if not emits:
            self.disable()
            raise InterlockOpen(f"{self.name} does not emit although it was enabled")

    def _refuse_when_stopping(self) -> None:
        if signals.is_stopping():
            raise NotConnected(f"{self.name}: the program was told to stop and enables no light")

    @exchange
    def disable(self) -> None:
        """Stop emission."""
        self._make_safe()

    def disable_now(self, wait_s: float = 0.3) -> None:
        """Stop emission even while another thread waits for a reply of the same device.

        Another thread may keep the device for at most `wait_s`. Then the command is sent without
        the lock, because a lost reply matters less than light that stays on. Harmless when the
        device is not connected.

        Raises
        ------
        InstrumentError : when the device has not confirmed that it is off
        """
        is_ours = self._lock.acquire(timeout=wait_s)
        try:
            if self.is_connected:
                self._logged("disable_now", self._make_safe if is_ours else self._send_off)
                if not is_ours:
                    raise InstrumentTimeout(
                        f"{self.name} was told to switch off while another reply was pending, so "
                        "it did not confirm that it is off; check it by hand"
                    )
        finally:
            if is_ours:
                self._lock.release()

    def disable_as_another(self, timeout_s: float = 2.0) -> None:
        """Connect, stop emission and release the device, for a process whose partner has ended.

        Raises
        ------
        InstrumentError : when the device cannot be reached or still emits
        """
        try:
            self._connect_to_disable(timeout_s)
        finally:
            self.close()

    @exchange
    def is_emitting(self) -> bool:
        """Return whether the device reports emission."""
        return self._emits()

    @exchange
    def interlock_closed(self) -> bool:
        """Return whether the device reports that the interlock permits emission."""
        return self._interlock_closed()

    def _make_safe(self) -> None:
        self._is_enabled = False
        self._disable()
        self.may_emit = False

    def _settings(self) -> Mapping[str, Any]:
        return {
            "power_w": self._power_w,
            "power_limits_w": self.power_limits_w,
            "is_enabled": self._is_enabled,
            "wavelength_m": self.wavelength_m,
        }

    def _self_test(self) -> list[Finding]:
        state = "emitting" if self._emits() else "dark"
        if not self.has_interlock:
            return [Finding("interlock", True, f"no interlock state can be read, {state}")]
        closed = self._interlock_closed()
        return [Finding("interlock", closed, f"{'closed' if closed else 'open'}, {state}")]


class PowerMeter(Instrument):
    """A meter that measures optical power in watts.

    Attributes
    ----------
    wavelength_m : wavelength setting; None where the meter has none
    """

    kind: ClassVar[str] = "power meter"
    wavelength_m: float | None = None

    @abstractmethod
    def _read_power(self, timeout_s: float) -> float:
        """Return one measurement in watts."""

    @exchange
    def read_power(self, timeout_s: float = 5.0) -> float:
        """Return one measurement in watts."""
        power_w = self._read_power(timeout_s)
        if power_w != power_w or abs(power_w) > 1e6:
            raise ProtocolError(f"{self.name}: {power_w!r} is not a possible power in watts")
        return power_w

    def _settings(self) -> Mapping[str, Any]:
        return {"wavelength_m": self.wavelength_m}

    def _self_test(self) -> list[Finding]:
        return [Finding("measures", True, f"{self._read_power(5.0):.4g} W")]
