"""What cannot be put on light as it is: refused in a sentence before a number is computed."""

from __future__ import annotations

from itertools import chain

import torch

from ...instruments import InputError

_AUTOCAST = (
    "autocast is on, which rounds the operands of products before light shows them; leave "
    "`torch.autocast` out, or convert the module to bfloat16"
)
# packages whose modules hold weights in a form of their own
_QUANTISERS = (
    "aqlm auto_gptq autoawq awq bitsandbytes compressed_tensors eetq gptqmodel hqq "
    "optimum.quanto quanto torch.ao.nn torchao transformers.integrations.finegrained_fp8"
).split()


def check_module(model: object) -> None:
    """Check that a module's products can be caught and computed from its weights.

    Raises
    ------
    InputError : for no module; compiled, quantised or sharded ones; weights on several devices or
        on none; complex weights
    """
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{type(model).__name__} is not a torch module; give a torch.nn.Module")
    for path, module in model.named_modules():
        _check_kind(path, module)
    devices = set()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise InputError(
                f"the weight {name!r} is a {type(tensor).__name__}, not a plain tensor (sharded, "
                "quantised or fake); load the model with plain weights"
            )
        if tensor.layout is not torch.strided:
            raise InputError(
                f"the weight {name!r} is sparse ({tensor.layout}); convert it with `to_dense()`"
            )
        if tensor.dtype.is_complex:
            raise InputError(f"the weight {name!r} is complex; light carries real numbers")
        devices.add(tensor.device)
    names = sorted(map(str, devices))
    if len(devices) > 1:
        raise InputError(
            f"the module lies on several devices ({', '.join(names)}); move it to one first"
        )
    if "meta" in names:
        raise InputError("the module has no weights (device meta); load them first")


def _check_kind(path: str, module: torch.nn.Module) -> None:
    where = f"the module {path!r}" if path else "the model"
    origin = type(module).__module__
    if origin.startswith("torch._dynamo") or module._compiled_call_impl is not None:
        raise InputError(
            f"{where} is compiled (torch.compile), which hides its products; give the module that "
            "was compiled"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"{where} is a TorchScript module; give the module that it was made from")
    if any(origin == name or origin.startswith(f"{name}.") for name in _QUANTISERS):
        raise InputError(
            f"{where} is quantised ({type(module).__name__} of {origin.split('.')[0]}); load the "
            "model without quantisation, or dequantise it (`model.dequantize()`)"
        )
    for name, weight in module.named_parameters(recurse=False):
        if weight.dim() > 1 and (weight.dtype.itemsize == 1 or not weight.dtype.is_floating_point):
            raise InputError(
                f"the weight {f'{path}.{name}'.strip('.')!r} is quantised ({weight.dtype}); load "
                "the model without quantisation, or dequantise it (`model.dequantize()`)"
            )


def check_autocast() -> None:
    """Refuse products within `torch.autocast`, which changes their type on the way.

    Raises
    ------
    InputError : within `torch.autocast`
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise InputError(_AUTOCAST)


def check_rounding(operand: torch.Tensor) -> None:
    """Refuse a product of a float32 module that `torch.autocast` rounded within its forward pass.

    Raises
    ------
    InputError : for such a product
    """
    if operand.dtype.itemsize == 2:
        depth = torch.autocast_increment_nesting()  # products themselves see it as off
        torch.autocast_decrement_nesting()
        if depth > 1:
            raise InputError(_AUTOCAST)


def check_operands(name: str, *operands: torch.Tensor) -> None:
    """Check the numbers of a product.

    Raises
    ------
    InputError : for complex or integer ones
    """
    for operand in operands:
        if not operand.dtype.is_floating_point:
            what = "complex" if operand.dtype.is_complex else "integer"
            raise InputError(
                f"the product of {name!r} is of {what} numbers ({operand.dtype}); light multiplies "
                "real ones: convert them to float32"
            )
