"""The modules of the package, as they are installed or lie in a checkout."""

import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("instruments", "backends", "scheduler", "models", "benchmarks")
FRONT = ("cli", "report")  # folders of the front door


def modules() -> dict[str, Path]:
    """Return every module of the package as it is imported: name -> file."""
    names = ["lightloom", "lightloom.__main__"]
    for folder in (*ROOMS, *FRONT):
        names.append(f"lightloom.{folder}")
        package = importlib.import_module(names[-1])
        names += [info.name for info in pkgutil.walk_packages(package.__path__, f"{names[-1]}.")]
    found = {}
    for name in names:
        spec = find_spec(name)
        assert spec is not None
        if spec.origin is not None:  # not a folder of data
            found[name] = Path(spec.origin)
    return found


def importable() -> list[str]:
    """Return the modules that can be imported here: some need the extra `fast`, or `torch`."""
    return [name for name in modules() if not name.endswith("__main__") and can_import(name)]


def can_import(name: str) -> bool:
    """Return whether what a module is written for is installed."""
    if name.startswith("lightloom.models.traced."):
        return find_spec("torch") is not None
    needs_numba = name.endswith(("kernels", "lanes", "compiled_steps"))
    return not needs_numba or find_spec("numba") is not None
