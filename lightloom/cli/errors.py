"""What a command does about its journal where it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..instruments import InputError
from ..instruments.safety import signals
from ..instruments.text import say


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
