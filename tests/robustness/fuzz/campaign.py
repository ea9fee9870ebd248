"""Feed mutated files, replies and arguments to their readers, and count the outcomes.

    python tests/robustness fuzz --inputs 100000 --seed 0

A reader may refuse an input with a sentence, or accept it if no number that it states is wrong. A
traceback, a wrong number and an input that takes too long are findings. Input N of a target is a
function of (seed, target, N) alone: `--only TARGET --first N --inputs 1` repeats it.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from lightloom.instruments import MissingExtraError
from lightloom.instruments.formatting import format_counted
from lightloom.instruments.table import Column, Table

from .commands import COMMANDS
from .files import FILES
from .journals import JOURNALS
from .models import MODELS
from .replies import REPLIES
from .trying import Count, Target, fuzz

TARGETS = (*FILES, *MODELS, *REPLIES, *JOURNALS, *COMMANDS)
_KINDS = ("tracebacks", "wrong numbers", "hangs")
_COLUMNS = (
    Column("target", align="left"),
    *map(Column, ("inputs", "refused", "accepted", *_KINDS)),
    Column("slowest", "ms", form=".0f"),
)


def run(chosen: Sequence[Target], inputs: int, seed: int, first: int) -> list[Count]:
    """Try targets one after another, and print what is found on standard error.

    Parameters
    ----------
    inputs : of all targets together
    first : number of the first input of each
    """
    logging.disable(logging.CRITICAL)  # drivers log each reply that they drop
    whole = sum(target.share for target in chosen)
    counts = []
    for target in chosen:
        try:
            count = fuzz(target, max(1, round(inputs * target.share / whole)), seed, first)
        except MissingExtraError as error:
            _tell(f"{target.name}: left out: {error}")
            continue
        counts.append(count)
        tried = format_counted(count.inputs, "input")
        _tell(f"{target.name}: {tried}, {format_counted(count.failed, 'finding')}")
        for found in count.findings.values():
            times = f"{found.times} times" if found.times > 1 else "once"
            _tell(f"\n{target.name}, input {found.number}, {times}: {found.what}")
            _tell(found.trace)
    return counts


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(counts: Sequence[Count]) -> Table:
    """Return a row for each target, and one for all of them."""
    rows = [_row(count) for count in counts]
    total = None
    if len(rows) > 1:
        sums = (sum(column) for column in zip(*(row[1:-1] for row in rows), strict=True))
        total = ("all", *sums, max(row[-1] for row in rows))
    return Table("", _COLUMNS, tuple(rows), total)


def _row(count: Count) -> tuple[Any, ...]:
    times = dict.fromkeys(_KINDS, 0)
    for finding in count.findings.values():
        times[finding.kind] += finding.times
    numbers = (count.inputs, count.refused, count.accepted, *times.values())
    return (count.target, *numbers, count.slowest_s * 1e3)
