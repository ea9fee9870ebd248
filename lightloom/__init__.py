"""lightloom runs Transformers on light and says what that costs.

Except for the errors, public names are loaded when they are first used, so that
`import lightloom` stays fast.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "scheduler").is_dir():  # a checkout: the rooms lie beside us
    __path__.append(str(Path(__file__).parents[1]))

from .instruments.errors import (
    BadFit,
    ChecksumMismatch,
    Disconnected,
    DriftExceeded,
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentError,
    InstrumentTimeout,
    InterlockOpen,
    InUse,
    LightloomError,
    LimitExceeded,
    MissingExtraError,
    NotConnected,
    Paused,
    ProtocolError,
    Saturated,
    StaleFrame,
    UnexpectedIntensity,
)
from .instruments.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .backends import Address, Backend, MatmulResult, OpticsProfile, open_backend, twin
    from .models import Model, load_arrays, load_model
    from .scheduler import Placement
    from .scheduler.runs import Plan, Report, Run
    from .scheduler.runs.model_protocol import RunnableModel

_NAMES = {  # package -> the public names that are loaded from it
    "backends": ("Address", "Backend", "MatmulResult", "OpticsProfile", "open_backend", "twin"),
    "models": ("Model", "load_arrays", "load_model"),
    "scheduler.runs": ("Plan", "Report", "Run"),
}

__all__ = [
    "Address",
    "Backend",
    "BadFit",
    "ChecksumMismatch",
    "Disconnected",
    "DriftExceeded",
    "DroppedFrame",
    "InUse",
    "IncompleteFrame",
    "InputError",
    "InstrumentError",
    "InstrumentTimeout",
    "InterlockOpen",
    "LightloomError",
    "LimitExceeded",
    "MatmulResult",
    "MissingExtraError",
    "Model",
    "NotConnected",
    "OpticsProfile",
    "Paused",
    "Plan",
    "ProtocolError",
    "Report",
    "Run",
    "Saturated",
    "StaleFrame",
    "UnexpectedIntensity",
    "__version__",
    "load_arrays",
    "load_model",
    "open_backend",
    "plan",
    "resume",
    "twin",
]


def plan(
    model: "str | Path | RunnableModel",
    backend: "str | Backend" = "mock",
    batch: int = 1,
    sequence: int | None = None,
    new_tokens: int = 0,
    placement: "str | Placement" = "paper",
    constants: Sequence[str] = (),
) -> "Plan":
    """Split a model's layers into optical matmuls and host steps for a backend's bench.

    A plan touches no instrument; its counts are upper bounds.

    Parameters
    ----------
    model : a model, or its name or path, as `load_model` takes it; also the name of a published
        shape without weights, such as "gpt2"
    backend : a backend, or its name or path, as `open_backend` takes it
    batch : images, sentences or sequences in one pass
    sequence : tokens of each; None is 128, or the context of the model if that is shorter; a vision
        model always takes its context
    new_tokens : tokens to generate after them, one pass each
    placement : a policy, the path of a file of rules, or the placement of another plan
    constants : of energy, as for `Plan.energy`; the placement "least-energy" uses them

    Raises
    ------
    InputError : for a model or backend that cannot be opened, sizes that the model cannot take, an
        unknown placement, rules without effect on this model
    """
    from .models import model_or_shape
    from .scheduler.runs import plan as planned

    opened = model_or_shape(model) if isinstance(model, str | Path) else model
    if not callable(getattr(opened, "program", None)):
        raise InputError(f"{model!r} is not a model; give its name or path, or open it first")
    return planned(opened, backend, batch, sequence, new_tokens, placement, constants)


def resume(
    path: str | Path,
    model: str | Path | None = None,
    bench: str | Path | Sequence[str | Path] | None = None,
    accept: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> "Run":
    """Resume a run from its last finished step, or tile, and finish it.

    The result has the same bits as that of a run that was never interrupted: on the mock, and on a
    simulated bench without faults.

    Parameters
    ----------
    path : journal of the run (the argument `record` of `Plan.run`)
    model, bench : their paths now, if they were moved; all benches, in their order
    accept : changes to accept: "model", "bench", "calibration", "versions"; the journal records
        them
    progress : called with (what, done, total)
    on_text : called with the text of each token of a run that generates text, from the first on

    Raises
    ------
    InputError : when model, bench, calibration or versions differ from those that began the run,
        or the journal cannot be used; it is left as it was
    InUse : when another process writes it
    """
    from .models import load_model
    from .scheduler.runs.resume import resume as resumed

    return resumed(path, load_model, model, bench, accept, progress, on_text)


def __getattr__(name: str) -> Any:
    if name == "torch":  # the front door for modules of PyTorch
        return import_module(".torch", __name__)
    for package, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f".{package}", __name__), name)
    raise AttributeError(f"module 'lightloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
