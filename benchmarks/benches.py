"""Benches of the studies, and jobs that fill their frames."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..backends.bench import BenchBackend, example_file, load_bench
from ..backends.bench.checkpoint import Recorder
from ..backends.bench.shot_plan import TileJob

# modulator, its refresh period and settling, camera read-out (twice the modulator's rate), exposure
BENCHES = {
    "60 Hz, 1920 x 1152": ("fast-1920", 1 / 60, 1 / 60, 1 / 120, 2e-3),
    "1 kHz, 512 x 512": ("fast-512", 1e-3, 1e-3, 5e-4, 5e-4),
}


def bench_text(name: str, scale: float = 1.0, light: str = "timing", clock: str = "real") -> str:
    """Return the text of a bench file of `BENCHES`.

    Parameters
    ----------
    scale : factor on the devices' times
    light : "pixels", or "timing" for none
    clock : "real" or "virtual"
    """
    device, *times_s = BENCHES[name]
    refresh_s, settle_s, readout_s, exposure_s = (scale * time_s for time_s in times_s)
    times = f"refresh_period_s = {refresh_s}\nsettle_time_s = {settle_s}"
    camera = "fast-512" if device == "fast-512" else "basler-aca1440"
    text = example_file("imaged", clock=clock)
    for old, new in (
        ('device = "fast-1920"', f'device = "{device}"\n{times}'),
        ('device = "basler-aca1440"', f'device = "{camera}"\nreadout_s = {readout_s}'),
        ('exposure_s = "2 ms"', f"exposure_s = {exposure_s}"),
    ):
        text = text.replace(old, new)
    return text + f'\nlight = "{light}"\n'


@contextmanager
def opened(text: str, recorder: Recorder | None = None) -> Iterator[BenchBackend]:
    """Open the bench of a text, with a journal or without."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(text, encoding="utf-8")
        bench = BenchBackend(load_bench(path))
        bench.recorder = recorder
        with bench as backend:
            yield backend


def random_jobs(backend: BenchBackend) -> Callable[[str, int], TileJob]:
    """Return what makes a job of random frames from its name and its number of shots."""
    layout = backend.optical_model.layout
    chance = np.random.Generator(np.random.Philox(1))
    rows = 1 if layout.shares_input else layout.slots
    frames = chance.integers(256, size=(8, rows, layout.length), dtype=np.uint8)
    weights = chance.integers(256, size=(layout.slots, layout.length), dtype=np.uint8)

    return lambda name, shots: TileJob(
        name, 1, shots, lambda _: weights, lambda vector: frames[vector % 8]
    )
