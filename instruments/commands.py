"""How errors end a command: one sentence and an exit status.

0: what was asked was done. 1: it was not, or a file or connection failed. 2: bad usage or input.
3: a run paused in a safe state.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from .errors import LightloomError, Paused, system_error
from .safety import signals
from .text import say, warnings_as_remarks


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that shows errors without a traceback, and ends with their status."""

    @wraps(command)
    def guard(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings_as_remarks():  # of models, from when they are opened
                command(*args, **kwargs)
        except LightloomError as error:
            say(str(error))
            raise typer.Exit(3 if isinstance(error, Paused) else 2) from None
        except OSError as error:  # a disk that is full, a folder that is gone
            say(system_error(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            if not signals.was_interrupted():  # `lightloom.__main__` says so otherwise
                say("stopped by the operator")
            raise typer.Exit(signals.STATUS) from None
        refuse_to_end_lit()

    return guard


def refuse_to_end_lit() -> None:
    """End with status 1 where a source may still emit: what was asked was not done."""
    for sentence in signals.lights_left_on():
        say(sentence)
    if signals.lights_left_on():
        raise typer.Exit(1)
