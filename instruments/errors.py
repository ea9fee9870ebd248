"""The errors that a user can meet, each one sentence naming the thing, the value and the way out.

Not for programming mistakes: those stay ordinary Python exceptions with a traceback.
"""

import importlib
from types import ModuleType


class LightloomError(Exception):
    """Something that the user can put right; the command line shows it without a traceback."""


class InputError(LightloomError, ValueError):
    """A file, an option or an array that cannot be used as it is."""


class MissingExtraError(LightloomError, ImportError):
    """A package of an optional extra is needed and not installed."""


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
