"""`Instrument`: what instruments of all makers have in common.

The public methods of an instrument validate, lock, time and log. A driver implements only the
hooks, whose names begin with an underscore. One lock covers each whole exchange, so that threads
cannot mix up replies.
"""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from threading import Lock, RLock
from typing import Any, ClassVar, Self, TypeVar, cast

from .addresses import canonical
from .clock import Clock
from .errors import (
    Disconnected,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    LightloomError,
    NotConnected,
    one_line,
)
from .safety import device_lock
from .toml_file import TomlTable

LOG = logging.getLogger("lightloom.instruments")

R = TypeVar("R")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Identity:
    """The identity that an instrument reports; a field is empty where it reports none."""

    maker: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""


@dataclass(frozen=True)
class Finding:
    """One result of a self-test.

    Parameters
    ----------
    what : the property that was tested
    passed : whether it was as it must be
    detail : the measured value, or the message of an error
    """

    what: str
    passed: bool
    detail: str = ""


class DriverOptions(TomlTable):
    """The settings of one instrument in a bench file, without its role and driver.

    Drivers add their own fields. Unknown keys are refused.
    """


def exchange(method: Method) -> Method:
    """Wrap a public method as one exchange with a connected instrument: locked, timed, logged."""

    @functools.wraps(method)
    def guarded(self: Instrument, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if not self.is_connected:
                raise self._attributed(
                    NotConnected(f"{self.name} is not connected; call connect() first")
                )
            return self._logged(method.__name__, lambda: method(self, *args, **kwargs))

    return cast(Method, guarded)


class Instrument(ABC):
    """A device with an address that can be connected, used, described and closed.

    Parameters
    ----------
    name : its name in messages and records, such as "camera"
    options : the driver's own settings; None means its defaults
    clock : its time base

    Attributes
    ----------
    kind : "slm", "camera", "daq", "light source" or "power meter"
    driver : the name under which the driver is registered
    Options : the class of its settings
    """

    kind: ClassVar[str]
    driver: ClassVar[str] = ""
    Options: ClassVar[type[DriverOptions]] = DriverOptions

    _addresses_in_use: ClassVar[set[str]] = set()
    _addresses_lock: ClassVar[Lock] = Lock()

    def __init__(
        self, name: str, options: DriverOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        self.name = name
        self.options: Any = self.Options() if options is None else options
        self.clock = Clock() if clock is None else clock
        self.identity = Identity()
        self.is_connected = False
        self._lock = RLock()
        self._claim: str | None = None

    # --- hooks that a driver implements ----------------------------------------------------------

    @property
    def address(self) -> str:
        """The address of the device, by default the option `address`; "" claims no device.

        Only one instrument may use a device.
        """
        return str(getattr(self.options, "address", ""))

    @property
    def device(self) -> str:
        """The canonical spelling of `address`, used for the lock; "" claims no device."""
        return canonical(self.address)

    @property
    def is_of_this_process(self) -> bool:
        """Whether the device exists only in this process, as a simulated one does."""
        return False

    @abstractmethod
    def _connect(self, timeout_s: float) -> Identity:
        """Open the device and read its identity; import vendor libraries here, not earlier."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Release the device, which may already be disconnected, or only partly connected."""

    def _translated(self, error: Exception, what: str) -> LightloomError:
        """Return the error of lightloom for an exception of a library, raised by `what`."""
        device = f"{self.name} ({self.address or self.driver})"
        if isinstance(error, TimeoutError):  # an OSError, but the device may still be connected
            return InstrumentTimeout(f"{device} did not reply during {what}: {error}")
        if isinstance(error, OSError) and what == "connect":
            return Disconnected(
                f"{device} cannot be reached: {error}; check address, port, cable and power"
            )
        if isinstance(error, OSError):
            return Disconnected(
                f"{device} was lost during {what}: {error}; "
                "check cable and power, then connect again"
            )
        return InstrumentError(
            f"{device} failed during {what}: {type(error).__name__}: {one_line(error)}"
        )

    def _settings(self) -> Mapping[str, Any]:
        """Return the settings for the record of a run, without an exchange with the device."""
        return {}

    def _self_test(self) -> list[Finding]:
        """Test the device and restore its previous state."""
        return []

    # --- public methods --------------------------------------------------------------------------

    def connect(self, timeout_s: float = 10.0) -> Self:
        """Open the device.

        Raises
        ------
        InUse : when this process or another one has the device open
        MissingExtraError : when the vendor library is not installed
        InstrumentError : when the device does not reply or is not the expected one
        """
        with self._lock:
            if self.is_connected:
                raise self._attributed(InUse(f"{self.name} is already connected"))
            self._claim_address()
            try:
                self.identity = self._logged("connect", lambda: self._connect(timeout_s))
            except BaseException:
                with suppress(Exception):  # the first error says more
                    self._release()
                raise
            self.is_connected = True
        return self

    def close(self) -> None:
        """Make the device safe and release it; harmless if it is closed or disconnected already."""
        with self._lock:
            if not self.is_connected:
                return
            try:
                self._logged("making it safe", self._make_safe)
            except InstrumentError as error:  # a lost device cannot be made safe from here
                LOG.warning("%s", str(error))
            finally:
                self.is_connected = False
                try:
                    self._release()
                except InstrumentError as error:
                    LOG.warning("%s", str(error))

    def _release(self) -> None:
        try:
            self._logged("close", self._disconnect)
        finally:
            self._release_address()

    def _make_safe(self) -> None:  # noqa: B027 (most kinds have nothing to do)
        """Bring the device into its safest state before it is released."""

    def __enter__(self) -> Self:
        return self if self.is_connected else self.connect()

    def __exit__(self, *_: object) -> None:
        self.close()

    @exchange
    def self_test(self) -> list[Finding]:
        """Test the device, restore its previous state and return one finding per check."""
        answer = " ".join(filter(None, (self.identity.maker, self.identity.model)))
        return [Finding("answers", True, answer or "without a name"), *self._self_test()]

    def describe(self) -> dict[str, Any]:
        """Return the present state of this instrument for the record of a run."""
        with self._lock:
            return {
                "name": self.name,
                "kind": self.kind,
                "driver": self.driver or type(self).__name__,
                "address": self.address,
                "identity": asdict(self.identity),
                "options": self.options.model_dump(mode="json"),
                "settings": dict(self._settings()),
            }

    def _logged(self, what: str, call: Callable[[], R]) -> R:
        """Call a function, log its duration and outcome, and translate foreign exceptions."""
        is_timed = LOG.isEnabledFor(logging.DEBUG)
        start_s = self.clock.now_s() if is_timed else 0.0
        try:
            result = call()
        except LightloomError as error:
            LOG.debug("%s.%s: %s", self.name, what, str(error))
            self._attributed(error)
            raise
        except Exception as error:  # vendor libraries raise any type
            LOG.debug("%s.%s: %s", self.name, what, repr(error), exc_info=True)
            raise self._attributed(self._translated(error, what)) from error
        if is_timed:
            LOG.debug("%s.%s took %.6f s", self.name, what, self.clock.now_s() - start_s)
        return result

    def _attributed(self, error: LightloomError) -> LightloomError:
        """Set this instrument as the source of an error that names no source yet."""
        if isinstance(error, InstrumentError) and error.instrument is None:
            error.instrument = self
        return error

    def _claim_address(self) -> None:
        claim = self.device
        if not claim:
            return
        with Instrument._addresses_lock:
            held = ""
            if claim in Instrument._addresses_in_use:
                held = "already held by this program; close the other instrument first"
            elif not self.is_of_this_process and (owner := self._lock_device(claim)):
                held = f"held by {owner} of this computer; wait until it has ended, or end it"
            if held:
                raise self._attributed(InUse(f"{self.name}: {self.address} is {held}"))
            Instrument._addresses_in_use.add(claim)
        self._claim = claim

    def _lock_device(self, claim: str) -> str | None:
        """Lock a device against other processes; return the owner where it is locked already."""
        try:
            return device_lock.hold(claim)
        except OSError as error:
            LOG.warning("%s cannot be locked against other processes: %s", self.name, error)
            return None

    def _release_address(self) -> None:
        with Instrument._addresses_lock:
            if self._claim is not None:
                Instrument._addresses_in_use.discard(self._claim)
                if not self.is_of_this_process:
                    device_lock.let_go(self._claim)
        self._claim = None
