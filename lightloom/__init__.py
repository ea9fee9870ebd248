"""lightloom runs Transformers on light and says what that costs.

The public names are loaded when they are first used, so that `import lightloom` stays fast.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "scheduler").is_dir():  # a checkout: the rooms lie beside us
    __path__.append(str(Path(__file__).parents[1]))

from .instruments.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .backends import Address, MatmulResult, OpticsProfile, open_backend
    from .instruments import InputError, LightloomError
    from .models import Model, load_model
    from .scheduler.runs import Run, plan

_HOMES = {
    "Address": "backends",
    "MatmulResult": "backends",
    "OpticsProfile": "backends",
    "open_backend": "backends",
    "InputError": "instruments",
    "LightloomError": "instruments",
    "Model": "models",
    "load_model": "models",
    "plan": "scheduler.runs",
}

__all__ = [
    "Address",
    "InputError",
    "LightloomError",
    "MatmulResult",
    "Model",
    "OpticsProfile",
    "__version__",
    "load_model",
    "open_backend",
    "plan",
    "resume",
]


def resume(
    path: str | Path,
    model: str | Path | None = None,
    bench: str | Path | Sequence[str | Path] | None = None,
    accept: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> "Run":
    """Go on with a run that was kept in a journal; see `scheduler.runs.resume.resume`."""
    from .models import load_model
    from .scheduler.runs.resume import resume as resumed

    return resumed(path, load_model, model, bench, accept, progress)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lightloom' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
