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
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.bench.shot_plan import TileJob
from ..instruments.table import Column, Table
from ..scheduler.energy.machine import resident_bytes
from ..scheduler.journal.journal import Journal
from ..scheduler.journal.journal_file import JournalFile
from .pipeline import BENCHES, bench_text, random_jobs

_BLOCK = 256  # shots of a job: some segments
_SCALE = 0.5  # of the times of a bench of `pipeline`, which takes two refresh periods for a shot


def prepared(text: str, folder: Path, journal: Journal | None) -> BenchBackend:
    """Return a bench with a journal or without, not open."""
    path = folder / f"bench{journal is not None}.toml"
    path.write_text(text, encoding="utf-8")
    backend = BenchBackend(load_bench(path))
    backend.recorder = journal
    return backend


def jobs(backend: BenchBackend) -> Iterator[TileJob]:
    """Return endless jobs of random frames."""
    job = random_jobs(backend)
    return (job(f"job {number}", _BLOCK) for number in count())


def overhead(name: str, shots: int, folder: Path) -> tuple[float, float, float]:
    """Return shots/s without a journal, the time that a journal adds, and its size.

    The time is a fraction: the median over pairs of blocks that follow each other.
    """
    path = folder / "run.db"
    path.unlink(missing_ok=True)
    journal = Journal.create(path)
    journal.begin_session({})
    with (
        prepared(bench_text(name, _SCALE), folder, None) as plain,
        prepared(bench_text(name, _SCALE), folder, journal) as recorded,
    ):
        of_plain, of_recorded = jobs(plain), jobs(recorded)
        fractions, rates = [], []
        for round_number in range(max(shots // _BLOCK, 2) + 1):
            without = _timed(plain, next(of_plain))
            with_journal = _timed(recorded, next(of_recorded))
            if round_number:  # the first one warms up
                fractions.append(with_journal / without - 1)
                rates.append(_BLOCK / without)
    journal.close()
    with JournalFile(path) as kept:
        results = sum(
            row["electrons"].nbytes + sum(part.nbytes for part in row["quality"].values())
            for row in kept.segments()
        )
    return statistics.median(rates), statistics.median(fractions), path.stat().st_size / results


def _timed(backend: BenchBackend, job: TileJob) -> float:
    start = time.perf_counter()
    backend.submit(job).result()
    return time.perf_counter() - start


def day(hours: float, folder: Path) -> list[tuple[float, float, int]]:
    """Run a small 60 Hz bench for hours of virtual time, with a journal.

    It is small because the electrons of a day of full frames are 25 GB.

    Returns
    -------
    found : (hours passed, MB in use, shots so far) at every hour
    """
    journal = Journal.create(folder / "day.db")
    journal.begin_session({})
    found, shots = [], 0
    text = example_file("imaged", tiny=True) + 'light = "timing"\n'
    sixty = f"refresh_period_s = {1 / 60}\nsettle_time_s = {1 / 60}"
    text = text.replace('device = "tiny"', f'device = "tiny"\n{sixty}', 2)
    with prepared(text, folder, journal) as backend:
        start_s, wanted = backend.clock.now_s(), 1
        for job in jobs(backend):
            backend.submit(job).result()
            shots += _BLOCK
            passed = (backend.clock.now_s() - start_s) / 3600
            if passed >= wanted:
                found.append((passed, (resident_bytes() or 0) / 1e6, shots))
                wanted += 1
            if passed >= hours:
                break
    journal.close()
    return found


def overhead_table(shots: int, folder: Path) -> Table:
    """Measure `overhead` on every bench, and return a row for each."""
    rows = ((name.split(", ")[1], *overhead(name, shots, folder)) for name in BENCHES)
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
