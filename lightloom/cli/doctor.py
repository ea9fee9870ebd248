"""`lightloom doctor`: what is installed, and what the profiles say."""

import os
import platform
from typing import Annotated, Any

import typer

from ..instruments import limit_threads
from .options import Json, Threads
from .output import print_json

ShownProfile = Annotated[
    str | None, typer.Option(help="Show the constants of this profile, with their sources.")
]
ClearCache = Annotated[
    bool, typer.Option("--clear-cache", help="Empty the cache of ranges and encoded weights first.")
]
_EXTRAS = {  # extra -> packages that it installs, as they are imported
    "fast": ("numba", "onnxruntime"),
    "display": ("sdl2",),
    "genicam": ("harvesters", "genicam"),
    "micromanager": ("pymmcore_plus",),
    "ni": ("nidaqmx",),
    "cluster": ("distributed", "cryptography"),
    "slmsuite": ("slmsuite",),
    "report": ("jinja2", "matplotlib"),
    "export": ("h5py", "zarr", "xarray"),
    "models": ("gguf", "tokenizers"),
    "hub": ("huggingface_hub",),
    "train": ("sklearn", "torch"),
}


def command(
    profile: ShownProfile = None,
    clear_cache: ClearCache = False,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Show what is installed, which arithmetic is active, which profiles there are, and the cache.

    Example: lightloom doctor --profile slm-camera
    """
    limit_threads(threads)
    from ..backends import load_profile
    from ..report.terminal.console import open_console
    from ..report.terminal.doctor import show_installation, show_profile

    console = open_console(for_people=True)
    if clear_cache:
        _clear_cache()
    if profile is not None:
        loaded = load_profile(profile)
        if json_:
            print_json(loaded.model_dump())
        else:
            show_profile(console, loaded)
        return
    found = _installation()
    if json_:
        print_json(found)
    else:
        show_installation(console, found)


def _installation() -> dict[str, Any]:
    """Return versions, threads, extras, the path of the mock, and profiles."""
    import numpy as np

    from ..backends import load_profile, mock_path, profile_names
    from ..backends.mock import LOOPS
    from ..backends.mock.product_choice import product_seconds
    from ..instruments.version import VERSION

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "lightloom": VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as there are processors"),
        "extras": {name: _versions(packages) for name, packages in _EXTRAS.items()},
        "compiled_loops": LOOPS.state(),
        "cache": _cache(),
        "product_times_s": product_seconds(),
        "mock_path": "; ".join(f"{what}: {how}" for what, how in mock_path().items()),
        "profiles": {name: load_profile(name).title for name in profile_names()},
    }


def _clear_cache() -> None:
    """Empty the cache."""
    from ..instruments.cache_folder import open_cache

    cache = open_cache()
    if cache is not None:
        cache.clear()


def _cache() -> dict[str, Any] | None:
    """Return the folder, number and size of cached entries; None where the cache is off."""
    from ..instruments.cache_folder import open_cache

    cache = open_cache()
    if cache is None:
        return None
    files = cache.files()
    return {
        "folder": str(cache.path),
        "entries": len(files),
        "size_bytes": sum(file.size_bytes for file in files),
        "most_bytes": cache.most_bytes,
    }


def _versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Return the version of each package; None where it is not installed."""
    from importlib import metadata, util

    names = metadata.packages_distributions()
    return {
        package: metadata.version(names[package][0])
        if util.find_spec(package) and package in names
        else None
        for package in packages
    }
