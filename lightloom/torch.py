"""PyTorch modules on light: run and train any, or write one as a program.

Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .instruments.errors import import_extra
from .models.traced.recipe import Recipe, Stage

if TYPE_CHECKING:
    from .backends import Backend, OpticsProfile
    from .models.traced.optics import Light
    from .models.traced.traced_model import TracedModel
    from .scheduler import Placement

_OLDEST = (2, 6)


def optics(
    model: Any,
    backend: Backend | str = "mock",
    placement: str | Path | Placement = "paper",
    seed: int = 0,
    calibration: Iterable[Any] = (),
    gradients: str = "straight-through",
) -> Light:
    """Return a context in which the matrix products of a torch module run on a backend.

    Every product of a forward pass goes where the placement says: projections, QK^T, attention x V,
    experts, convolutions, heads. Fused attention is computed as its products. Products of the
    backward pass stay digital; gradients pass straight through noise, quantisation and ranges.

    Parameters
    ----------
    model : a `torch.nn.Module`, in float32, bfloat16 or float16
    backend : a backend, or its name or path, as `open_backend` takes it
    placement : a policy that needs no costs ("paper", "projections", "all-optical", "host"), the
        path of a file of rules, or the placement of a plan
    seed : of the noise
    calibration : inputs of passes that fix read-out ranges: mappings of named arguments, tuples, or
        tensors; without them the ranges of a product come from its first call
    gradients : "straight-through": those of exact products; "quantised": those of the noise-free
        products of operands rounded to the levels of the modulators

    Raises
    ------
    InputError : for a module that is compiled, quantised, or on several devices; for an unknown
        backend or placement
    MissingExtraError : without torch
    """
    _check_torch()
    from .models.traced.optics import Light

    return Light(model, backend, placement, seed, calibration, gradients)


def finetune(
    model: Any,
    batches: Iterable[tuple[Any, Any]],
    profile: OpticsProfile | str = "slm-camera",
    placement: str | Path | Placement = "paper",
    recipe: Recipe | None = None,
    progress: Callable[[Stage], None] | None = None,
) -> list[Stage]:
    """Train a torch module for the noise of a bench, in place, and return the stages.

    Its products run on a mock of the bench, as in `optics`. The light falls to that of the profile,
    the module as it was is the teacher, and the last weights are averaged. A module keeps its mode:
    call `model.train()` before if dropout is wanted.

    Parameters
    ----------
    model : a `torch.nn.Module` that returns logits [..., classes], or something with `logits`
    batches : inputs and labels, gone through again and again. Inputs are a mapping of named
        arguments, a tuple, or a tensor. Labels are classes [...] (-100 for none), or None: then the
        teacher alone counts
    profile : of the bench, with the light that is aimed at
    placement : as for `optics`
    recipe : steps, rate and the like
    progress : called after each stage

    Raises
    ------
    InputError : for a module that `optics` refuses or that has no logits, for no batches, and for a
        loss that is not finite
    MissingExtraError : without torch
    """
    _check_torch()
    from .models.traced.finetune import finetune as finetuned

    return finetuned(model, batches, profile, placement, recipe, progress)


def trace(model: Any, example_inputs: Any, name: str | None = None) -> TracedModel:
    """Write a torch module as the program of a model.

    The result is planned, run, recorded and resumed like a built-in one. It serves any batch and
    sequence where the operations allow it. A causal language model of transformers decodes with
    its keys and values as state.

    Parameters
    ----------
    model : a `torch.nn.Module`
    example_inputs : a mapping of named tensors, a tuple of them, or one tensor; the first axis is
        the batch
    name : of the model in reports; None takes that of its class

    Raises
    ------
    InputError : for a module that `optics` refuses, or whose steps depend on numbers of its inputs
    MissingExtraError : without torch
    """
    _check_torch()
    from .models.traced.trace import trace as traced

    return traced(model, example_inputs, name)


def _check_torch() -> None:
    from .instruments import MissingExtraError

    torch = import_extra("torch", "torch", "running a torch module on light")
    found = str(torch.__version__).split("+")[0]
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        raise MissingExtraError(
            f"torch {found} is too old; lightloom needs {'.'.join(map(str, _OLDEST))} or later: "
            "pip install --upgrade torch"
        )
