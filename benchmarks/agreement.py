"""Compare a simulated bench with the mock of the matching profile: means and noise variances.

    python -m lightloom.benchmarks.agreement bench.toml --outputs 7200

The same tile goes through both, again and again. z pools the differences of the means over their
standard errors (standard normal if bench and mock agree); ratio is the bench's noise variance over
the mock's, each output weighted alike.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends import MockBackend
from ..backends.bench import BenchBackend, load_bench


@dataclass(frozen=True)
class Agreement:
    """z of the pooled means, ratio of the variances, and how many outputs were compared."""

    z: float
    ratio: float
    outputs: int


def compare(
    backend: BenchBackend, rows: int = 10, outputs: int = 36, repeats: int = 20, seed: int = 3
) -> Agreement:
    """Multiply a random tile on the bench and on its mock, `repeats` times each."""
    chance = np.random.Generator(np.random.Philox(seed))
    profile = backend.profile
    length = backend.layout.length
    x, w = chance.standard_normal((rows, length)), chance.standard_normal((outputs, length))
    mock = MockBackend(profile, seed=seed)
    prepared, likewise = backend.prepare(w), mock.prepare(w)
    light = np.stack([backend.matmul(x, prepared).y for _ in range(repeats)]).astype(float)
    model = np.stack([mock.matmul(x, likewise).y for _ in range(repeats)]).astype(float)
    noise, theory = light.var(axis=0, ddof=1), model.var(axis=0, ddof=1)
    z = (light.mean(axis=0) - model.mean(axis=0)) / np.sqrt((noise + theory) / repeats)
    per_output = theory.mean(axis=0)  # rows of x are alike, outputs are not
    ratio = float((noise / per_output).mean() / (theory / per_output).mean())
    return Agreement(float(z.mean() * math.sqrt(z.size)), ratio, light.size)


def main(arguments: list[str] | None = None) -> None:
    """Compare, and print both figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bench", type=Path, help="bench file of a simulated bench")
    parser.add_argument("--outputs", type=int, default=7200, help="at least so many are compared")
    options = parser.parse_args(arguments)
    backend = BenchBackend(load_bench(options.bench))
    backend.open()
    rows = 10
    outputs = max(min(36, backend.layout.slots // 2), 1)
    repeats = -(-options.outputs // (rows * outputs))
    found = compare(backend, rows, outputs, repeats)
    backend.close()
    print(
        f"{found.outputs} outputs: pooled z of the means {found.z:+.2f}, "
        f"variance over the mock's {found.ratio:.3f}"
    )


if __name__ == "__main__":
    main()
