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
    """Return the modules that can be imported here: kernels need the extra `fast`."""
    has_numba = find_spec("numba") is not None
    return [
        name
        for name in modules()
        if not name.endswith("__main__")
        and (has_numba or not name.endswith(("kernels", "lanes", "compiled_steps")))
    ]
