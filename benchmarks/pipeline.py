"""How near a bench comes to the shot rate that its devices set, in real time.

    python -m lightloom.benchmarks.pipeline --shots 2000

Timing only: devices take their time, frames are encoded and shown, and no light is computed. The
limit is settling, exposure and read-out, rounded up to whole refresh periods of the modulator.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.bench.shots import TileJob

# modulator, its refresh period and settling, camera read-out (twice the modulator's rate), exposure
_BENCHES = {
    "60 Hz, 1920 x 1152": ("fast-1920", 1 / 60, 1 / 60, 1 / 120, 2e-3),
    "1 kHz, 512 x 512": ("fast-512", 1e-3, 1e-3, 5e-4, 5e-4),
}


def measure(name: str, shots: int) -> tuple[float, float]:
    """Give the seconds of a shot, and those that the devices alone would take."""
    device, refresh_s, settle_s, readout_s, exposure_s = _BENCHES[name]
    text = example_file("imaged", clock="real")
    text = text.replace(
        'device = "fast-1920"', f'device = "{device}"\n{_times(refresh_s, settle_s)}'
    )
    camera = "fast-512" if device == "fast-512" else "basler-aca1440"
    text = text.replace(
        'device = "basler-aca1440"', f'device = "{camera}"\nreadout_s = {readout_s}'
    )
    text = text.replace('exposure_s = "2 ms"', f"exposure_s = {exposure_s}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(text + '\nlight = "timing"\n', encoding="utf-8")
        backend = BenchBackend(load_bench(path))
        backend.open()
        layout = backend.layout
        chance = np.random.Generator(np.random.Philox(1))
        rows = 1 if layout.shares_input else layout.slots
        frames = chance.integers(256, size=(8, rows, layout.length), dtype=np.uint8)
        weights = chance.integers(256, size=(layout.slots, layout.length), dtype=np.uint8)

        def job(name: str, count: int) -> TileJob:
            return TileJob(name, 1, count, lambda _: weights, lambda vector: frames[vector % 8])

        backend.submit(job("warm", 16)).result()
        start = time.perf_counter()
        backend.submit(job("rate", shots)).result()
        took = (time.perf_counter() - start) / shots
        limit = backend.timing.period_s
        backend.close()
    return took, limit


def _times(refresh_s: float, settle_s: float) -> str:
    return f"refresh_period_s = {refresh_s}\nsettle_time_s = {settle_s}"


def main(arguments: list[str] | None = None) -> None:
    """Measure both benches, and print their rates beside the devices' limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shots", type=int, default=2000)
    options = parser.parse_args(arguments)
    for name in _BENCHES:
        took, limit = measure(name, options.shots)
        print(
            f"{name}: {1 / took:.1f} shots/s, {limit / took:.1%} of the devices' {1 / limit:.1f} "
            f"({options.shots} shots)"
        )


if __name__ == "__main__":
    main()
