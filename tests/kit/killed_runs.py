"""Runs that end in the middle of a step, as a killed process does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightloom.scheduler.journal.pass_record import PassRecord


class Killed(Exception):
    """Stands for a process that is killed."""


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """Let the journal end a run with `Killed` after so many steps."""
    original, kept = PassRecord.keep, [0]

    def keep(self: PassRecord, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        kept[0] += 1
        if kept[0] == steps:
            raise Killed

    PassRecord.keep = keep  # type: ignore[method-assign]
    try:
        yield
    finally:
        PassRecord.keep = original  # type: ignore[method-assign]
