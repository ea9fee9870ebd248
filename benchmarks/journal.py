"""What a journal costs: time per shot at 60 and at 1,000 shots/s, size, and memory over a day.

    python -m lightloom.benchmarks.journal --shots 2000
    python -m lightloom.benchmarks.journal --hours 24

Two benches of the same kind take turns, one with a journal and one without, in real time and
without light: devices take their time, frames are encoded and shown. They are those of `pipeline`
with half of all times, so that their devices allow 60 and 1,000 shots/s. The size is that of the
closed file over the bytes of the results in it: electrons, figures of quality, operands. A day is
run on the virtual clock, with a journal, and the memory of this process is read every hour of it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.bench.shots import TileJob
from ..scheduler.energy.machine import resident_bytes
from ..scheduler.journal.journal import Journal, JournalFile
from .pipeline import BENCHES, bench_text

_BLOCK = 256  # shots of a job: some segments
_SHARE = 0.5  # of the times of a bench of `pipeline`, which takes two refresh periods for a shot


@contextmanager
def opened(text: str, folder: Path, journal: Journal | None) -> Iterator[BenchBackend]:
    """Open a bench, with a journal or without."""
    path = folder / f"bench{journal is not None}.toml"
    path.write_text(text, encoding="utf-8")
    backend = BenchBackend(load_bench(path))
    backend.recorder = journal
    backend.open()
    try:
        yield backend
    finally:
        backend.close()


def jobs(backend: BenchBackend) -> Iterator[TileJob]:
    """Return jobs of random frames, one after another."""
    layout = backend.optical_model.layout
    chance = np.random.Generator(np.random.Philox(1))
    rows = 1 if layout.shares_input else layout.slots
    frames = chance.integers(256, size=(8, rows, layout.length), dtype=np.uint8)
    weights = chance.integers(256, size=(layout.slots, layout.length), dtype=np.uint8)
    for number in count():
        yield TileJob(f"job {number}", 1, _BLOCK, lambda _: weights, lambda v: frames[v % 8])


def overhead(name: str, shots: int, folder: Path) -> tuple[float, float, float]:
    """Return shots/s without a journal, the share of time that a journal adds, and its size.

    The share is the median over pairs of blocks that follow each other.
    """
    path = folder / "run.db"
    path.unlink(missing_ok=True)
    journal = Journal.create(path)
    journal.begin_session({})
    with (
        opened(bench_text(name, _SHARE), folder, None) as plain,
        opened(bench_text(name, _SHARE), folder, journal) as recorded,
    ):
        of_plain, of_recorded = jobs(plain), jobs(recorded)
        shares, rates = [], []
        for round_number in range(max(shots // _BLOCK, 2) + 1):
            without = _timed(plain, next(of_plain))
            with_journal = _timed(recorded, next(of_recorded))
            if round_number:  # the first one warms caches up
                shares.append(with_journal / without - 1)
                rates.append(_BLOCK / without)
    journal.close()
    with JournalFile(path) as kept:
        results = sum(
            row["electrons"].nbytes + sum(part.nbytes for part in row["quality"].values())
            for row in kept.segments()
        )
    return statistics.median(rates), statistics.median(shares), path.stat().st_size / results


def _timed(backend: BenchBackend, job: TileJob) -> float:
    start = time.perf_counter()
    backend.submit(job).result()
    return time.perf_counter() - start


def day(hours: float, folder: Path) -> list[tuple[float, float, int]]:
    """Run a small 60 Hz bench for hours of virtual time; give hours, MB in use and shots of each.

    A small one, since the electrons of a day of full frames are 25 GB.
    """
    journal = Journal.create(folder / "day.db")
    journal.begin_session({})
    found, shots = [], 0
    text = example_file("imaged", tiny=True) + 'light = "timing"\n'
    sixty = f"refresh_period_s = {1 / 60}\nsettle_time_s = {1 / 60}"
    text = text.replace('device = "tiny"', f'device = "tiny"\n{sixty}', 2)
    with opened(text, folder, journal) as backend:
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


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shots", type=int, default=2000)
    parser.add_argument("--hours", type=float, help="of virtual time, instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.hours:
            found = day(options.hours, folder)
            for passed, megabytes, shots in found:
                print(f"{passed:5.1f} h: {megabytes:7.1f} MB, {shots:,} shots")
            used = [megabytes for _, megabytes, _ in found[1:]]
            print(f"memory after the first hour: {min(used):.1f} to {max(used):.1f} MB")
            return
        for bench in BENCHES:
            rate, share, size = overhead(bench, options.shots, folder)
            frames = bench.split(", ")[1]
            print(
                f"{frames}: {rate:.1f} shots/s, a journal adds {share:+.2%} of the time and takes "
                f"{size:.3f} x the results"
            )


if __name__ == "__main__":
    main()
