"""The errors that a user can meet, each one sentence naming the thing, the value and the way out.

Not for programming mistakes: those stay ordinary Python exceptions with a traceback.
"""

import importlib
from types import ModuleType
from typing import Any, Literal


class LightloomError(Exception):
    """Something that the user can put right; the command line shows it without a traceback."""

    def __str__(self) -> str:
        """Return the sentence; what a file holds of thousands of letters is cut in its middle."""
        text = super().__str__()
        return text if len(text) <= 1000 else f"{text[:600]} ... {text[-300:]}"


class InputError(LightloomError, ValueError):
    """A file, an option or an array that cannot be used as it is."""


class MissingExtraError(LightloomError, ImportError):
    """A package of an optional extra is needed and not installed."""


class InstrumentError(LightloomError):
    """An instrument did not do what it was asked; the message names it.

    Attributes
    ----------
    instrument : that it came from; None where nobody knows
    """

    instrument: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the instrument behind where an error goes to another process."""
        state = {name: value for name, value in vars(self).items() if name != "instrument"}
        return type(self), self.args, state


class NotConnected(InstrumentError):
    """The instrument has not been connected, or has been closed."""


class InUse(InstrumentError):
    """Somebody else holds the instrument, or this program opened it already."""


class Disconnected(InstrumentError):
    """The instrument was there and is gone: unplugged, switched off, display lost."""


class InstrumentTimeout(InstrumentError):
    """No answer, or no frame, within the time-out."""


class ProtocolError(InstrumentError):
    """An answer that is garbage, incomplete or of another question."""


class StaleFrame(InstrumentError):
    """Only frames taken before the exposure that was asked for."""


class IncompleteFrame(InstrumentError):
    """A frame of which a part did not arrive."""


class DroppedFrame(InstrumentError):
    """A gap in the numbers of the frames: at least one is lost."""


class UnexpectedIntensity(InstrumentError):
    """Much less or more light than the frames should give: a dim source, a hand in the beam."""


class ChecksumMismatch(InstrumentError):
    """A checksum does not fit what it sums: a number of that shot, or of that tile, is wrong.

    Parameters
    ----------
    scope : what has to be taken again: "shot", or "tile" for all shots of a weight frame
    """

    def __init__(self, text: str, scope: Literal["shot", "tile"] = "shot") -> None:
        super().__init__(text)
        self.scope = scope


class DriftExceeded(InstrumentError):
    """The light has left the tolerance within which a calibration can be followed."""


class BadFit(InstrumentError):
    """What was measured is not what a bench in order gives; nothing was concluded from it."""


class Saturated(InstrumentError):
    """More light than the detector can count."""


class LimitExceeded(InstrumentError, ValueError):
    """A value beyond the instrument's limits; nothing was sent."""


class InterlockOpen(InstrumentError):
    """Emission is refused, or has stopped, because the interlock is open or tripped."""


class Paused(InstrumentError):
    """A run stopped because nothing that it may do by itself helps; its bench is safe.

    Parameters
    ----------
    text : one sentence for the operator
    kind : of the fault, as the table [faults] of a bench file names it
    device : that is to blame, as messages call it; "" where nobody knows
    advice : what the operator should do
    """

    def __init__(self, text: str, kind: str = "", device: str = "", advice: str = "") -> None:
        super().__init__(text)
        self.kind, self.device, self.advice = kind, device, advice


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional extra where it is used.

    Parameters
    ----------
    module : name of the module, such as "gguf"
    extra : the extra of lightloom that brings it
    purpose : what needs it, for the message ("reading GGUF files")

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
