"""Measure the speed-up of two benches over one, on the same stream of products, in real time.

    python -m lightloom.benchmarks two-benches --shots 2000

Timing only: devices take their time, frames are encoded and shown, and no light is computed. At
60 Hz both benches are in this process; at 1 kHz each has a process of its own, so that neither
waits for the other's Python. The reference is one bench in this process. One bench and two take
turns with the same stream: products of one matrix with a few rows each, as micro-batches have,
begun as fast as the backend takes them.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ..backends import Address, Backend, DigitalBackend
from ..backends.bench import open_benches
from ..instruments.table import Cell, Column, Table
from ..scheduler.cluster.remote_benches import RemoteBenches
from .benches import BENCHES, bench_text

_TILES = 2  # of the matrix, down and across: each bench has its own
_SHOTS = 64  # of each product, about
_TOLERANCE = 0.02  # of the largest result: what grey levels allow


class ProductStream:
    """Products that follow each other.

    Parameters
    ----------
    backend : bench whose frames they fill
    shots : approximate number in all
    """

    def __init__(self, backend: Backend, shots: int) -> None:
        chance = np.random.Generator(np.random.Philox(1))
        geometry = backend.geometry
        assert geometry.outputs is not None and geometry.inputs is not None
        outputs = _TILES * (geometry.outputs // geometry.parts)
        length = _TILES * geometry.inputs
        exposures = 2  # of x+ and of x-
        self.weights = chance.standard_normal((outputs, length), dtype=np.float32)
        rows = max(_SHOTS // (_TILES**2 * exposures), 1)
        self.x = chance.standard_normal((rows, length), dtype=np.float32)
        self.count = max(shots // _SHOTS, 1)
        self.exact = DigitalBackend().matmul(self.x, self.weights).y

    def run(self, backend: Backend) -> tuple[float, int]:
        """Return the seconds that the stream takes on a backend, and its shots.

        Raises
        ------
        ValueError : when a result is wrong
        """
        prepared = backend.prepare(self.weights)
        rows = np.arange(len(self.x), dtype=np.uint64)
        backend.matmul(self.x, prepared, Address("warm", rows))  # encodes the weights
        start_s = time.perf_counter()
        begun = [
            backend.begin(self.x, prepared, Address(f"stream.{number}", rows))
            for number in range(self.count)
        ]
        results = [finish() for finish in begun]
        seconds = time.perf_counter() - start_s
        for result in results:
            off = np.abs(result.y - self.exact).max() / np.abs(self.exact).max()
            if off > _TOLERANCE:
                raise ValueError(f"a product is {off:.1%} off")
        return seconds, sum(result.stats.shots for result in results)


@contextmanager
def opened(name: str, in_processes: bool) -> Iterator[tuple[Backend, Backend]]:
    """Open one bench in this process, and two more that multiply as one."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = [Path(folder) / f"bench{number}.toml" for number in range(3)]
        for path in paths:
            path.write_text(bench_text(name), encoding="utf-8")
        one = open_benches(paths[:1])
        two = RemoteBenches(paths[1:]) if in_processes else open_benches(paths[1:])
        for backend in (one, two):
            stack.callback(backend.close)
            backend.warm_up()
        yield one, two


def compare(name: str, in_processes: bool, shots: int, repeats: int) -> tuple[Cell, ...]:
    """Measure one bench and two in turn, and return a row of the table."""
    with opened(name, in_processes) as (one, two):
        stream = ProductStream(one, shots)
        rounds = [(stream.run(one), stream.run(two)) for _ in range(repeats)]
    rates = [
        statistics.median(done / seconds for seconds, done in runs)
        for runs in zip(*rounds, strict=True)
    ]
    speedups = [single[0] / double[0] for single, double in rounds]
    processes, (_, done) = "one each" if in_processes else "one", rounds[0][0]
    return (name, processes, *rates, statistics.median(speedups), *speedups, float(done))


def measure(shots: int, repeats: int) -> Table:
    """Measure both kinds of bench, the slow ones in one process, the fast ones in several."""
    rows = tuple(
        compare(name, in_processes, shots, repeats)
        for name, in_processes in zip(BENCHES, (False, True), strict=True)
    )
    columns = (
        Column("bench", align="left"),
        Column("processes", align="left"),
        Column("one bench", "shots/s", form=".1f"),
        Column("two benches", "shots/s", form=".1f"),
        Column("speed-up", form=".2f"),
        *(Column(f"round {number + 1}", form=".2f") for number in range(repeats)),
        Column("shots", form=",.0f"),
    )
    return Table("Two benches against one", columns, rows)
