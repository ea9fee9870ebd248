"""`LightSource` and `PowerMeter`: light in watts, with limits that no run can raise.

Software is never the safety function: interlock and shutter act by themselves; this class only
refuses early and switches off late.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from .base import DriverOptions, Finding, Instrument, exchange
from .clock import Clock
from .errors import InstrumentTimeout, InterlockOpen, LimitExceeded, NotConnected, ProtocolError
from .safety import signals


class LightSource(Instrument):
    """A laser, LED or lamp. Its attributes are known once it is connected.

    Attributes
    ----------
    power_limits_w : lowest and highest set-point; the bench file can only narrow it
    wavelength_m : where known
    has_interlock, has_shutter : whether it can be asked for them; without the first it is unknown
        whether an interlock is closed, or there at all
    may_emit : whether it was enabled, and not heard since that it is off
    can_be_reopened : whether another process can switch it off once this one has died (`watchdog`)
    """

    kind: ClassVar[str] = "light source"
    can_be_reopened: ClassVar[bool] = False

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(name, options, clock=clock)
        self.power_limits_w = (0.0, 0.0)
        self.wavelength_m: float | None = None
        self.has_interlock = self.has_shutter = False
        self.may_emit = False
        self._power_w = 0.0
        self._is_enabled = False
        self._most_w: list[tuple[float, float]] = []  # what narrow_limits has been told

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

    def _send_off(self) -> None:
        """Send what stops emission, at once: another thread may be waiting for an answer."""
        self._disable()

    def _load(self) -> None:
        """Load what connecting needs; the device is not touched."""

    def _connect_to_disable(self, timeout_s: float) -> None:
        """Open the device for nothing but to switch it off, whatever else is wrong with it."""
        self.connect(timeout_s)
        self.disable()

    # --- what everybody uses ---------------------------------------------------------------------

    @property
    def power_w(self) -> float:
        """The set-point."""
        return self._power_w

    def narrow_limits(self, low_w: float | None, high_w: float | None) -> None:
        """Allow less than the device does, now and whenever it is connected again.

        Raises
        ------
        LimitExceeded : when nothing is left between them
        """
        self._most_w.append((low_w or 0.0, float("inf") if high_w is None else high_w))
        if self.is_connected:
            self._narrow()

    def _narrow(self) -> None:
        low = max(self.power_limits_w[0], *(low for low, _ in self._most_w))
        high = min(self.power_limits_w[1], *(high for _, high in self._most_w))
        if low > high:
            raise LimitExceeded(f"{self.name}: no power is left between {low:g} and {high:g} W")
        self.power_limits_w = (low, high)

    def connect(self, timeout_s: float = 10.0) -> Self:
        """Open the device; its limits are narrowed again before anybody can use it."""
        with self._lock:
            super().connect(timeout_s)
            if self._most_w:
                try:
                    self._narrow()
                except BaseException:
                    self.close()
                    raise
        return self

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
        NotConnected : when the program has been told to stop
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
            self._refuse_when_stopping()  # told while it was sent
        except BaseException:  # it may well emit: an answer that got lost has been obeyed
            self.disable()
            raise
        if not emits:
            self.disable()
            raise InterlockOpen(f"{self.name} does not emit although it was enabled")

    def _refuse_when_stopping(self) -> None:
        if signals.is_stopping():
            raise NotConnected(f"{self.name}: no light any more, the program was told to stop")

    @exchange
    def disable(self) -> None:
        """Stop emission."""
        self._make_safe()

    def disable_now(self, wait_s: float = 0.3) -> None:
        """Stop emission even while another thread waits for an answer of this very device.

        The device is another thread's for `wait_s` at most; then it is told without asking for
        leave, for an answer that gets lost is less than light that stays on. Harmless when it is
        not connected.

        Raises
        ------
        InstrumentError : when it has not said that it is off
        """
        is_ours = self._lock.acquire(timeout=wait_s)
        try:
            if self.is_connected:
                self._logged("disable_now", self._make_safe if is_ours else self._send_off)
                if not is_ours:
                    raise InstrumentTimeout(
                        f"{self.name} was told to be off while it owed another answer, so it has "
                        "not said that it is; see to it"
                    )
        finally:
            if is_ours:
                self._lock.release()

    def disable_as_another(self, timeout_s: float = 2.0) -> None:
        """Connect, stop emission and let go, as a process does whose partner has died.

        Raises
        ------
        InstrumentError : when it cannot be reached, or still emits
        """
        try:
            self._connect_to_disable(timeout_s)
        finally:
            self.close()

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
            return [Finding("interlock", True, f"none wired that can be asked, {state}")]
        closed = self._interlock_closed()
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
            raise ProtocolError(f"{self.name}: {power_w!r} is no power")
        return power_w

    def _settings(self) -> Mapping[str, Any]:
        return {"wavelength_m": self.wavelength_m}

    def _self_test(self) -> list[Finding]:
        return [Finding("measures", True, f"{self._read_power(5.0):.4g} W")]
