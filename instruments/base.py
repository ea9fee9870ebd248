"""`Instrument`: what every instrument has in common, whoever made it.

The public methods of an instrument check, lock, time and log; a driver fills in hooks, whose names
begin with an underscore, and need care for none of that. One lock covers each whole exchange, so
that threads cannot mix up replies.
"""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from threading import Lock, RLock
from types import TracebackType
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
)
from .safety import device_lock
from .toml_file import TomlTable

LOG = logging.getLogger("lightloom.instruments")

R = TypeVar("R")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Identity:
    """Who an instrument says it is; empty where it does not say."""

    maker: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of a self-test."""

    what: str
    passed: bool
    detail: str = ""


class DriverOptions(TomlTable):
    """What a bench file says about one instrument, beside its role and driver.

    Drivers add their own fields; unknown keys are refused.
    """


def exchange(method: Method) -> Method:
    """Make a public method one exchange with a connected instrument: locked, timed, logged."""

    @functools.wraps(method)
    def guarded(self: Instrument, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if not self.is_connected:
                raise self._of_mine(
                    NotConnected(f"{self.name} is not connected; call connect() first")
                )
            return self._logged(method.__name__, lambda: method(self, *args, **kwargs))

    return cast(Method, guarded)


class Instrument(ABC):
    """A device with an address, to be connected, used, described and closed.

    Parameters
    ----------
    name : what messages and records call it, such as "camera"
    options : the driver's own settings; None is its defaults
    clock : the time it goes by

    Attributes
    ----------
    kind : "slm", "camera", "daq", "light source" or "power meter"
    driver : the name under which the driver is registered
    Options : the model of its settings
    is_of_this_process : no other process can have the device, as one that is simulated
    """

    kind: ClassVar[str]
    driver: ClassVar[str] = ""
    Options: ClassVar[type[DriverOptions]] = DriverOptions
    is_of_this_process: bool = False

    _held: ClassVar[set[str]] = set()
    _held_lock: ClassVar[Lock] = Lock()

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

    # --- what a driver fills in ------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the device is; two instruments at one address are refused. "" claims nothing."""
        return ""

    @property
    def device(self) -> str:
        """The one spelling of `address`, by which the device is held; "" claims nothing."""
        return canonical(self.address)

    @abstractmethod
    def _connect(self, timeout_s: float) -> Identity:
        """Open the device and ask who it is; import vendors' libraries here, not earlier."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of the device; it may be gone already."""

    def _settings(self) -> Mapping[str, Any]:
        """Return the settings that a record of a run should hold; no exchange with the device."""
        return {}

    def _self_test(self) -> list[Finding]:
        """Try the device, and leave it as it was found."""
        return []

    # --- what everybody uses ---------------------------------------------------------------------

    def connect(self, timeout_s: float = 10.0) -> Self:
        """Open the device.

        Raises
        ------
        InUse : when it is open already, here or elsewhere
        MissingExtraError : when the vendor's library is not installed
        InstrumentError : when it does not answer, or is not what it should be
        """
        with self._lock:
            if self.is_connected:
                raise self._of_mine(InUse(f"{self.name} is connected already"))
            self._take_address()
            try:
                self.identity = self._logged("connect", lambda: self._connect(timeout_s))
            except BaseException:
                self._give_address()
                raise
            self.is_connected = True
        return self

    def close(self) -> None:
        """Make safe and let go; harmless when it is closed already, or the device is gone."""
        with self._lock:
            if not self.is_connected:
                return
            try:
                self._logged("making it safe", self._make_safe)
            except InstrumentError as error:  # what is gone cannot be made safe from here
                LOG.warning("%s", str(error))
            finally:
                self.is_connected = False
                try:
                    self._logged("close", self._disconnect)
                except InstrumentError as error:
                    LOG.warning("%s", str(error))
                finally:
                    self._give_address()

    def _make_safe(self) -> None:  # noqa: B027 (most have nothing to do)
        """Bring the device into its safest state before it is let go."""

    def __enter__(self) -> Self:
        return self if self.is_connected else self.connect()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @exchange
    def self_test(self) -> list[Finding]:
        """Try the device; one finding a line. It is left as it was found."""
        answer = " ".join(filter(None, (self.identity.maker, self.identity.model)))
        return [Finding("answers", True, answer or "without a name"), *self._self_test()]

    def describe(self) -> dict[str, Any]:
        """Return what a record of a run should hold about this instrument, as it is now."""
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
        """Call, with time and outcome in the log; a lost device becomes one kind of error."""
        start_s = self.clock.now_s()
        try:
            result = call()
        except LightloomError as error:
            LOG.debug("%s.%s: %s", self.name, what, str(error))
            self._of_mine(error)
            raise
        except TimeoutError as error:  # an OSError too, but the device may well be there
            LOG.debug("%s.%s: %s", self.name, what, repr(error))
            raise self._of_mine(
                InstrumentTimeout(
                    f"{self.name} ({self.address or self.driver}) did not answer during {what}: "
                    f"{error}"
                )
            ) from error
        except OSError as error:
            LOG.debug("%s.%s: %s", self.name, what, repr(error))
            raise self._of_mine(
                Disconnected(
                    f"{self.name} ({self.address or self.driver}) is gone during {what}: {error}; "
                    "check cable and power, then connect again"
                )
            ) from error
        except Exception as error:  # of a vendor's library, which raises what it likes
            LOG.debug("%s.%s: %s", self.name, what, repr(error), exc_info=True)
            raise self._of_mine(
                InstrumentError(
                    f"{self.name} ({self.address or self.driver}) failed during {what}: "
                    f"{type(error).__name__}: {' '.join(str(error).split())}"
                )
            ) from error
        LOG.debug("%s.%s took %.6f s", self.name, what, self.clock.now_s() - start_s)
        return result

    def _of_mine(self, error: LightloomError) -> LightloomError:
        """Say on an error that it came from this instrument, where it says nothing yet."""
        if isinstance(error, InstrumentError) and error.instrument is None:
            error.instrument = self
        return error

    def _take_address(self) -> None:
        claim = self.device
        if not claim:
            return
        with Instrument._held_lock:
            if claim in Instrument._held:
                raise self._of_mine(
                    InUse(
                        f"{self.name}: {self.address} is held already by this program; "
                        "close the other instrument first"
                    )
                )
            by = None if self.is_of_this_process else self._held_by(claim)
            if by is not None:
                raise self._of_mine(
                    InUse(
                        f"{self.name}: {self.address} is held by {by} of this computer; wait until "
                        "that has ended, or end it"
                    )
                )
            Instrument._held.add(claim)
        self._claim = claim

    def _held_by(self, claim: str) -> str | None:
        """Hold a device against other processes; return who has it already."""
        try:
            return device_lock.hold(claim)
        except OSError as error:
            LOG.warning("%s cannot be held against other processes: %s", self.name, error)
            return None

    def _give_address(self) -> None:
        with Instrument._held_lock:
            if self._claim is not None:
                Instrument._held.discard(self._claim)
                if not self.is_of_this_process:
                    device_lock.let_go(self._claim)
        self._claim = None
