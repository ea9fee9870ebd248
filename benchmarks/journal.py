"""Measure what a journal costs: time at 60 and at 1,000 shots/s, size, and memory over a day.

    python -m lightloom.benchmarks journal --shots 2000
    python -m lightloom.benchmarks journal --hours 24

Two benches of the same kind take turns, one with a journal and one without, in real time and
without light: devices take their time, frames are encoded and shown. They are those of `pipeline`
with half of all times, so that their devices allow 60 and 1,000 shots/s. The size is that of the
closed file over the bytes of the results in it: electrons, figures of quality, operands. A day runs
on the virtual clock, with a journal, and the memory of this process is read every hour of it.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from ..backends.bench import BenchBackend, example_file
from ..instruments.table import Column, Table
from ..scheduler.energy.machine import resident_bytes
from ..scheduler.journal.journal import Journal
from ..scheduler.journal.journal_file import JournalFile
from .benches import BENCHES, bench_text, opened, random_jobs
from .stopwatch import interleaved

_BLOCK = 256  # shots of a job: some segments
_SCALE = 0.5  # of the times of a bench of `pipeline`, which takes two refresh periods for a shot


def _block_of(backend: BenchBackend) -> Callable[[], object]:
    """Return what lets a bench take a block of new shots."""
    job, numbers = random_jobs(backend), count()
    return lambda: backend.submit(job(f"job {next(numbers)}", _BLOCK)).result()


def overhead(name: str, shots: int) -> tuple[float, float, float]:
    """Return shots/s without a journal, the time that a journal adds, and its size.

    The time is a fraction: the median over pairs of blocks that follow each other.
    """
    text = bench_text(name, _SCALE)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        with _begun(path) as journal, opened(text) as plain, opened(text, journal) as recorded:
            calls = {"plain": _block_of(plain), "recorded": _block_of(recorded)}
            plain_s, recorded_s = interleaved(calls, max(shots // _BLOCK, 2)).values()
        size = path.stat().st_size / _result_bytes(path)
    added = [one / other - 1 for one, other in zip(recorded_s, plain_s, strict=True)]
    rate = statistics.median(_BLOCK / plain for plain in plain_s)
    return rate, statistics.median(added), size


@contextmanager
def _begun(path: Path) -> Iterator[Journal]:
    with closing(Journal.create(path)) as journal:
        journal.begin_session({})
        yield journal


def _result_bytes(path: Path) -> int:
    with JournalFile(path) as kept:
        return sum(
            row["electrons"].nbytes + sum(part.nbytes for part in row["quality"].values())
            for row in kept.segments()
        )


def day(hours: float) -> list[tuple[float, float, int]]:
    """Run a small 60 Hz bench for hours of virtual time, with a journal.

    It is small because the electrons of a day of full frames are 25 GB.

    Returns
    -------
    found : (hours passed, MB in use, shots so far) at every hour
    """
    found: list[tuple[float, float, int]] = []
    shots = 0
    text = example_file("imaged", tiny=True) + 'light = "timing"\n'
    sixty = f"refresh_period_s = {1 / 60}\nsettle_time_s = {1 / 60}"
    text = text.replace('device = "tiny"', f'device = "tiny"\n{sixty}', 2)
    with (
        TemporaryDirectory() as folder,
        _begun(Path(folder) / "day.db") as journal,
        opened(text, journal) as backend,
    ):
        start_s, passed, take_block = backend.clock.now_s(), 0.0, _block_of(backend)
        while passed < hours:
            take_block()
            shots += _BLOCK
            passed = (backend.clock.now_s() - start_s) / 3600
            if passed >= len(found) + 1:
                found.append((passed, (resident_bytes() or 0) / 1e6, shots))
    return found


def overhead_table(shots: int) -> Table:
    """Measure `overhead` on every bench, and return a row for each."""
    rows = ((name.split(", ")[1], *overhead(name, shots)) for name in BENCHES)
    columns = (
        Column("frame", "px", "left"),
        Column("rate without journal", "shots/s", form=".1f"),
        Column("time that a journal adds", form="+.2%"),
        Column("size over results", form=".3f"),
    )
    return Table("Cost of a journal", columns, tuple(rows))


def day_table(found: Sequence[tuple[float, float, int]]) -> Table:
    """Return the rows that `day` gave under their headers."""
    columns = (
        Column("virtual time", "h", form=".1f"),
        Column("memory", "MB", form=".1f"),
        Column("shots", form=",d"),
    )
    return Table("Memory of this process", columns, tuple(found))
