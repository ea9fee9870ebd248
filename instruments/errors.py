"""Errors for users, each one sentence that names the thing, the value and the remedy.

Not for programming errors: those remain ordinary Python exceptions with a traceback.
"""

import importlib
from types import ModuleType
from typing import Any, Literal


class LightloomError(Exception):
    """An error that the user can correct; the command line shows it without a traceback."""

    def __str__(self) -> str:
        """Return the sentence; a text of more than 1000 characters is cut in its middle."""
        text = super().__str__()
        return text if len(text) <= 1000 else f"{text[:600]} ... {text[-300:]}"


class InputError(LightloomError, ValueError):
    """A file, an option or an array that cannot be used as given."""


class MissingExtraError(LightloomError, ImportError):
    """A package of an optional extra is needed but not installed."""


class InstrumentError(LightloomError):
    """An instrument failed to carry out a request; the message names the instrument.

    Attributes
    ----------
    instrument : source of the error; None where unknown
    """

    instrument: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the instrument when an error is sent to another process."""
        state = {name: value for name, value in vars(self).items() if name != "instrument"}
        return type(self), self.args, state


class NotConnected(InstrumentError):
    """The instrument is not connected, or has been closed."""


class InUse(InstrumentError):
    """Another process holds the instrument, or this program has already opened it."""


class Disconnected(InstrumentError):
    """The instrument was connected and was lost: unplugged, switched off, display removed."""


class InstrumentTimeout(InstrumentError):
    """No reply or no frame arrived within the time-out."""


class ProtocolError(InstrumentError):
    """A reply that is invalid, incomplete or belongs to another query."""


class StaleFrame(InstrumentError):
    """Only frames taken before the requested exposure arrived."""


class IncompleteFrame(InstrumentError):
    """A part of a frame did not arrive."""


class DroppedFrame(InstrumentError):
    """A gap in the frame numbers: at least one frame was lost."""


class UnexpectedIntensity(InstrumentError):
    """Much less or more light than predicted: a dim source, or an obstructed beam path."""


class ChecksumMismatch(InstrumentError):
    """A checksum mismatch: a number of that shot, or of that tile, is wrong.

    Parameters
    ----------
    scope : what must be repeated: "shot", or "tile" for all shots of a weight frame
    """

    def __init__(self, text: str, scope: Literal["shot", "tile"] = "shot") -> None:
        super().__init__(text)
        self.scope = scope


class DriftExceeded(InstrumentError):
    """The brightness has drifted beyond the tolerance within which a calibration can be tracked."""


class BadFit(InstrumentError):
    """A measurement does not fit the model of a working bench, so its fit is rejected."""


class Saturated(InstrumentError):
    """More light than the detector can measure."""


class LimitExceeded(InstrumentError, ValueError):
    """A value outside the limits of the instrument; nothing was sent."""


class InterlockOpen(InstrumentError):
    """Emission is refused, or has stopped, because the interlock is open or tripped."""


class Paused(InstrumentError):
    """A run paused because no automatic recovery helps; its bench is in a safe state.

    Parameters
    ----------
    text : one sentence for the operator
    kind : of the fault, as named in the table [faults] of a bench file
    device : name of the faulty device; "" where unknown
    advice : recommended action of the operator
    """

    def __init__(self, text: str, kind: str = "", device: str = "", advice: str = "") -> None:
        super().__init__(text)
        self.kind, self.device, self.advice = kind, device, advice


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Return a module of an optional extra, imported where it is used.

    Parameters
    ----------
    module : name of the module, such as "gguf"
    extra : the extra of lightloom that provides it
    purpose : what needs the module, for the message ("reading GGUF files")

    Raises
    ------
    MissingExtraError : when the package is not installed
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module!r} ({error}); "
            f"install it with: pip install 'lightloom[{extra}]'"
        ) from error


def system_error(error: OSError) -> str:
    """Return one sentence that names the file and what the system says of it."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"the system refuses a file or a connection: {why}"
    return f"cannot use {str(error.filename)!r}: {why}"


def is_port_in_use(error: BaseException) -> bool:
    """Return whether pyserial reports that another program holds a port.

    On Windows every port is exclusive, so a second program is refused access.
    """
    return "exclusively lock" in str(error) or "PermissionError" in str(error)


def one_line(error: BaseException) -> str:
    """Return the message of a library's exception on one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
