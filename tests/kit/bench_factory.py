"""Bench files for tests: the examples of `lightloom init`, with values changed by their names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from lightloom.backends.bench import Bench, BenchBackend, example_file, load_bench

LAYOUTS = ("imaged", "line", "single-pixel")
FAST_512 = {  # modulators and a camera of 512 x 512 pixels, instead of the real sizes
    "instruments__input__device": "fast-512",
    "instruments__weight__device": "fast-512",
    "instruments__detector__device": "fast-512",
}
IMPERFECT: dict[str, Any] = {  # noisy, uneven and drifting, as benches are
    "world__extinction_ratio": 300.0,
    "world__lut_rms": 0.03,
    "world__gain_rms": 0.03,
    "world__unevenness": 0.1,
    "world__source_rms": 0.005,
    "world__drift_rms": 0.02,
    "world__drift_shots": 3000.0,
    "world__hot_pixels": 1e-4,
}


def changed(text: str, /, **changes: Any) -> str:
    """Return a bench file with values changed: `world__seed=3`; None leaves a key or table out.

    Parameters
    ----------
    changes : the name of a value is its path, with two underscores between tables
    """
    document = tomllib.loads(text)
    for path, value in changes.items():
        *tables, key = path.split("__")
        table = document
        for name in tables:
            table = table.setdefault(name, {})
        if value is None:
            with suppress(KeyError):
                del table[key]
        else:
            table[key] = value
    return tomli_w.dumps(document)


def bench_text(
    layout: str = "imaged",
    /,
    *,
    tiny: bool = True,
    as_found: bool = False,
    seed: int = 0,
    **changes: Any,
) -> str:
    """Return an example file, with values changed as `changed` does."""
    return changed(example_file(layout, tiny=tiny, as_found=as_found, seed=seed), **changes)


def write_bench(path: Path, layout: str = "imaged", /, **options: Any) -> Path:
    """Write what `bench_text` returns; a folder gets a `bench.toml`."""
    if path.is_dir():
        path /= "bench.toml"
    path.write_text(bench_text(layout, **options), encoding="utf-8")
    return path


def change_bench(path: Path, **changes: Any) -> Path:
    """Change values of a bench file in place."""
    path.write_text(changed(path.read_text(encoding="utf-8"), **changes), encoding="utf-8")
    return path


def load_example(path: Path, layout: str = "imaged", /, **options: Any) -> Bench:
    """Write an example file with changes, and load it."""
    return load_bench(write_bench(path, layout, **options))


class BenchMaker:
    """Opens benches of example files in a folder, and closes all of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.backends: list[BenchBackend] = []

    def __call__(
        self, layout: str = "imaged", /, *, uncalibrated: bool = False, **options: Any
    ) -> BenchBackend:
        """Return the backend of an example file with changes; it opens when it is first used."""
        path = self._folder / f"bench{len(self.backends)}.toml"
        backend = BenchBackend(load_example(path, layout, **options), uncalibrated)
        self.backends.append(backend)
        return backend

    def close(self) -> None:
        """Close every bench that was made."""
        for backend in self.backends:
            backend.close()


def fault(kind: str, at: Iterable[int] = (), **more: Any) -> list[dict[str, Any]]:
    """Return the `faults` of a simulated instrument: one fault, at these exposures or by a rate."""
    return [{"kind": kind, **({"at": list(at)} if at else {}), **more}]


def numbers(*shape: int, seed: int = 3) -> np.ndarray:
    """Return normally distributed numbers."""
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)
