"""Host steps named after aten operations, which torch computes.

The arguments of a step are data: numbers, words, and places of operands, so that a program can be
written to a file. Types narrower than float32 become float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ...instruments import InputError
from ...scheduler.host_steps import REGISTRY, HostFunction, host_step
from ...scheduler.program import HostStep, Program, Size
from .recorder import TensorRef, WeightRef

_PREFIX = "aten."
_FILES = "from_file"  # it could read and write any file
_DROPPED = ("device", "layout", "memory_format", "pin_memory")
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_OF_ANY_LAYOUT = {  # operands of a program may lie in memory otherwise than they did in torch
    "_reshape_alias": lambda x, size, stride: x.reshape(size),
    "_unsafe_view": torch.reshape,
    "as_strided": lambda x, *where: x.contiguous().as_strided(*where),
    "native_group_norm": lambda x, *others: torch.native_group_norm(x.contiguous(), *others),
    "view": torch.reshape,
}
_REARRANGEMENTS = frozenset(
    "_reshape_alias _unsafe_view alias as_strided clone detach expand permute select slice split "
    "split_with_sizes squeeze t transpose unbind unfold unsqueeze view".split()
)
_KINDS = {
    "norm": "native_layer_norm native_group_norm native_batch_norm rsqrt batch_norm "
    "_native_batch_norm_legit_no_training _fused_rms_norm",
    "softmax": "_softmax _safe_softmax _log_softmax",
    "activation": "gelu silu relu tanh sigmoid hardtanh leaky_relu elu softplus erf",
    "embedding": "embedding index_select",
    "residual and bias": "add",
    "rotary": "sin cos",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_COSTLY = {"exp": 10, "gelu": 15, "silu": 12, "tanh": 12, "sigmoid": 10, "erf": 12}
_COSTLY |= {"_softmax": 15, "_safe_softmax": 15, "native_layer_norm": 8, "sin": 12, "cos": 12}


def name_of_step(function: Any) -> str:
    """Return the name of a step for an aten operation, such as "aten.add.Tensor"."""
    return str(function)


def packet_of(name: str) -> str:
    """Return the operation of a step's name without its overload: "add" for "aten.add.Tensor"."""
    return name.split(".")[1]


def kind_of_step(name: str) -> str:
    """Return the kind of a host step for the tables, one of `HOST_KINDS`."""
    packet = packet_of(name)
    return "layout" if packet in _REARRANGEMENTS else _KIND_OF.get(packet, "torch")


def described(argument: Any, operands: list[Any], weights: dict[str, str]) -> Any:
    """Return an argument as data for JSON.

    Parameters
    ----------
    operands, weights : of the step so far; tensors are added to them
    """
    if isinstance(argument, list | tuple):
        return [described(part, operands, weights) for part in argument]
    if isinstance(argument, TensorRef):
        if argument not in operands:
            operands.append(argument)
        return {"operand": operands.index(argument)}
    if isinstance(argument, WeightRef):
        keys = {name: key for key, name in weights.items()}
        key = keys.get(argument.name, f"w{len(weights)}")
        weights[key] = argument.name
        return {"weight": key}
    return _described_constant(argument)


def _described_constant(argument: Any) -> Any:
    if isinstance(argument, Size):
        return {"size": [[factor, list(symbols)] for factor, symbols in argument.terms]}
    if isinstance(argument, torch.dtype):
        return {"dtype": str(_WIDER.get(argument, argument)).removeprefix("torch.")}
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"number": str(argument)}
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    raise InputError(f"an argument of type {type(argument).__name__} cannot be written as data")


def needed_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named arguments of an operation without those of a device."""
    return {key: value for key, value in options.items() if key not in _DROPPED}


def has_sizes(argument: Any) -> bool:
    """Return whether a described argument depends on the sizes of a pass."""
    if isinstance(argument, Mapping):
        return "size" in argument or any(map(has_sizes, argument.values()))
    return isinstance(argument, list) and any(map(has_sizes, argument))


def register_steps(program: Program) -> None:
    """Register the aten steps of a program, so that they can be run and resumed.

    Raises
    ------
    InputError : for an operation that this version of torch does not have
    """
    for step in program.steps:
        if not isinstance(step, HostStep) or step.step in REGISTRY:
            continue
        packet, _, overload = step.step.removeprefix(_PREFIX).partition(".")
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        is_safe = found is not None and not found._schema.is_mutable and packet != _FILES
        if not step.step.startswith(_PREFIX) or not is_safe:
            raise InputError(
                f"the step {step.name!r} needs the operation {step.step!r}, which torch "
                f"{torch.__version__} does not have"
            )
        cost = 0 if packet in _REARRANGEMENTS else _COSTLY.get(packet, 1)
        call = partial(_run, _OF_ANY_LAYOUT.get(packet, found))
        REGISTRY[step.step] = HostFunction(call, cost, takes_scratch=False)


def _run(
    function: Any,
    *operands: Any,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    **weights: np.ndarray,
) -> Any:
    """Compute an aten operation on arrays; its results are arrays, views where possible."""
    known: dict[Any, Any] = {key: _tensor(array) for key, array in weights.items()}
    sizes: dict[str, int] = {}
    for place, operand in enumerate(operands):
        if isinstance(operand, dict):
            sizes = operand
        else:
            known[place] = _tensor(operand)
    given = [_filled(argument, known, sizes) for argument in arguments]
    named = {key: _filled(value, known, sizes) for key, value in options.items()}
    with torch.no_grad():
        result = function(*given, **named)
    if isinstance(result, torch.Tensor):
        return result.numpy()
    return [part.numpy() for part in result if isinstance(part, torch.Tensor)]


def _tensor(array: Any) -> torch.Tensor:
    if not isinstance(array, np.ndarray):
        return torch.as_tensor(array)
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():  # it is only read
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _filled(argument: Any, known: Mapping[Any, Any], sizes: Mapping[str, int]) -> Any:
    """Return an argument with its operands and sizes."""
    if isinstance(argument, list):
        return [_filled(part, known, sizes) for part in argument]
    if not isinstance(argument, Mapping):
        return argument
    ((kind, value),) = argument.items()
    if kind in ("operand", "weight"):
        return known[value]
    if kind == "size":
        return Size(tuple((factor, tuple(symbols)) for factor, symbols in value))(sizes)
    if kind == "dtype":
        return getattr(torch, value)
    return float(value)


@host_step(operations=0)
def sizes(first: np.ndarray, past: int, *, has_tokens: bool) -> dict[str, int]:
    """Return batch, new and past tokens of a pass, from its first input [B, T] or [B, ...]."""
    new = first.shape[1] if has_tokens else 1
    return {"batch": first.shape[0], "new": new, "past": int(past)}
