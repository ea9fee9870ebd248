"""How much faster two benches are than one, on the same stream of products, in real time.

    python -m lightloom.benchmarks.two_benches --shots 2000

Timing only: devices take their time, frames are encoded and shown, and no light is computed. At
60 Hz both benches are in this process; at 1 kHz each is in a process of its own, so that neither
waits for the other's Python. Beside them stands one bench in this process, alone. Both take turns
with the same stream: products of one matrix with a few rows each, as of micro-batches, begun as
fast as the backend takes them.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ..backends import Address, Backend, DigitalBackend
from ..backends.bench import open_benches
from ..scheduler.cluster.remote_benches import RemoteBenches
from .pipeline import BENCHES, bench_text

_TILES = 2  # of the matrix, down and across: each bench has its own
_SHOTS = 64  # of each product, about
_ALIKE = 0.02  # of the largest result: what grey levels allow


class ProductStream:
    """Products that follow each other.

    Parameters
    ----------
    backend : whose frames they fill
    shots : to be taken in all, about
    """

    def __init__(self, backend: Backend, shots: int) -> None:
        chance = np.random.Generator(np.random.Philox(1))
        geometry = backend.geometry
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
        ValueError : when a result is not what it should be
        """
        prepared = backend.prepare(self.weights)
        rows = np.arange(len(self.x), dtype=np.uint64)
        backend.matmul(self.x, prepared, Address("warm", rows))  # weights are there, and encoded
        start = time.perf_counter()
        begun = [
            backend.begin(self.x, prepared, Address(f"stream.{number}", rows))
            for number in range(self.count)
        ]
        results = [finish() for finish in begun]
        seconds = time.perf_counter() - start
        for result in results:
            off = np.abs(result.y - self.exact).max() / np.abs(self.exact).max()
            if off > _ALIKE:
                raise ValueError(f"a product is {off:.1%} off")
        return seconds, sum(result.stats.shots for result in results)


@contextmanager
def opened(name: str, in_processes: bool) -> Iterator[tuple[Backend, Backend]]:
    """Open one bench of this process, and two more that multiply as one."""
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


def compare(name: str, in_processes: bool, shots: int, repeats: int) -> str:
    """Measure one bench and two in turn, and give a line on them."""
    with opened(name, in_processes) as (one, two):
        stream = ProductStream(one, shots)
        rounds = [(stream.run(one), stream.run(two)) for _ in range(repeats)]
    ratios = [first[0] / second[0] for first, second in rounds]
    rates = [statistics.median(r[which][1] / r[which][0] for r in rounds) for which in (0, 1)]
    where = "a process each" if in_processes else "in one process"
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return (
        f"{name}: one bench {rates[0]:.1f} shots/s, two ({where}) {rates[1]:.1f}: "
        f"{statistics.median(ratios):.2f} x (of {each}; {rounds[0][0][1]} shots)"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure both kinds of bench, and print a line on each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shots", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    for name, in_processes in zip(BENCHES, (False, True), strict=True):
        print(compare(name, in_processes, options.shots, options.repeats), flush=True)
    if hasattr(os, "getloadavg"):
        print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
