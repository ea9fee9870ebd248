"""How errors end a command: one sentence, an exit status, and what a journal keeps.

0: what was asked was done. 1: it was not, or a file or connection failed. 2: bad usage or input.
3: a run paused in a safe state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from ..instruments import InputError, LightloomError, Paused
from ..instruments.errors import system_error
from ..instruments.safety import signals
from ..instruments.text import warnings_as_remarks
from ..report.streams import say


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
        except KeyboardInterrupt:  # `__main__` says so
            raise typer.Exit(signals.STATUS) from None
        refuse_to_end_lit()

    return guard


def refuse_to_end_lit() -> None:
    """End with status 1 where a source may still emit: what was asked was not done."""
    for sentence in signals.lights_left_on():
        say(sentence)
    if signals.lights_left_on():
        raise typer.Exit(1)


@contextmanager
def resumable(record: Path | None) -> Iterator[None]:
    """Run a block that keeps a journal; where it fails, say how to resume the run."""
    try:
        yield
    except InputError:  # what is wrong with the input will be wrong again
        raise
    except BaseException:
        if record is not None and record.exists():
            say(f"what was finished is kept; resume it with: lightloom resume {record}")
        raise


def keep_left_lit(record: Path | None) -> None:
    """Keep in the journal of a run that a source may still emit, for its page."""
    if record is not None and signals.lights_left_on() and record.exists():
        from ..scheduler.runs.resume import keep_left_lit as keep

        keep(record, signals.lights_left_on())
