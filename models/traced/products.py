"""The matrix products of aten operations, as y[..., N, M] = x[..., N, K] w[..., M, K]^T.

A convolution is one product of its patches (im2col), a grouped product one for each expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IsWeight = Callable[[Tensor], bool]
"""Whether a tensor holds a weight of the model."""


@dataclass(frozen=True)
class TensorProduct:
    """The operands of one product, as views where possible.

    Parameters
    ----------
    x : [N, K], or [G, N, K]
    w : [M, K], or [G, M, K]
    role : "convolution", "experts", or "" for a plain product
    part : of an operation with several products: the number of the expert
    first_row : of x among all rows of the operation, for the addresses of the noise
    """

    x: Tensor
    w: Tensor
    role: str = ""
    part: int | None = None
    first_row: int = 0

    @property
    def macs(self) -> int:
        """Multiplications and accumulations."""
        return self.x.numel() * self.w.shape[-2]


@dataclass(frozen=True)
class Operation:
    """An aten operation as products, and what makes its result of theirs.

    Parameters
    ----------
    finish : takes the results y[..., N, M] of the products, in float32
    dtype : of the result
    """

    products: Sequence[TensorProduct]
    finish: Callable[[list[Tensor]], Tensor]
    dtype: torch.dtype


def operation_of(
    function: Any, args: Sequence[Any], kwargs: dict[str, Any], is_weight: IsWeight
) -> Operation | None:
    """Return an aten operation as products; None for one that is none, or has no such form."""
    found = _OPERATIONS.get(function)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if found is None or any(tensor.layout is not torch.strided for tensor in tensors):
        return None
    return found(is_weight, *args, **{key: kwargs[key] for key in kwargs if key != "out"})


def target_of(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the tensor that a product is written into, by `out=` or in place; else None."""
    target: Tensor | None = kwargs.get("out")
    return args[0] if target is None and function.overloadpacket in _IN_PLACE else target


def is_product(function: Any) -> bool:
    """Return whether an aten operation may have the form of products."""
    return function in _OPERATIONS


def _mm(is_weight: IsWeight, a: Tensor, b: Tensor) -> Operation:
    if is_weight(a) and not is_weight(b):
        return Operation([TensorProduct(b.mT, a)], lambda y: y[0].mT, a.dtype)
    return Operation([TensorProduct(a, b.mT)], lambda y: y[0], a.dtype)


def _bmm(is_weight: IsWeight, a: Tensor, b: Tensor) -> Operation:
    if is_weight(a) and not is_weight(b):
        swapped = _bmm(is_weight, b.mT, a.mT)
        return Operation(swapped.products, lambda y: swapped.finish(y).mT, a.dtype)
    groups, rows, length = a.shape
    if groups > 1 and b.stride(0) == 0:  # one matrix for all
        flat = TensorProduct(a.reshape(groups * rows, length), b[0].mT)
        return Operation([flat], lambda y: y[0].reshape(groups, rows, -1), a.dtype)
    return Operation([TensorProduct(a, b.mT)], lambda y: y[0], a.dtype)


def _added(product: Operation, bias: Tensor, beta: Any, alpha: Any) -> Operation:
    """Return beta bias + alpha y of a product."""

    def finish(y: list[Tensor]) -> Tensor:
        result = product.finish(y)
        if alpha != 1:
            result = result * alpha
        return result if beta == 0 else torch.add(result, bias.to(result.dtype), alpha=beta)

    return Operation(product.products, finish, product.dtype)


def _addmm(
    is_weight: IsWeight, bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Operation:
    return _added(_mm(is_weight, a, b), bias, beta, alpha)


def _baddbmm(
    is_weight: IsWeight, bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Operation:
    return _added(_bmm(is_weight, a, b), bias, beta, alpha)


def _addbmm(
    is_weight: IsWeight, bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Operation:
    each = _bmm(is_weight, a, b)
    total = Operation(each.products, lambda y: each.finish(y).sum(0), each.dtype)
    return _added(total, bias, beta, alpha)


def _mv(is_weight: IsWeight, a: Tensor, v: Tensor) -> Operation:
    return Operation([TensorProduct(v[None], a)], lambda y: y[0][0], a.dtype)


def _addmv(
    is_weight: IsWeight, bias: Tensor, a: Tensor, v: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Operation:
    return _added(_mv(is_weight, a, v), bias, beta, alpha)


def _dot(is_weight: IsWeight, a: Tensor, b: Tensor) -> Operation:
    return Operation([TensorProduct(a[None], b[None])], lambda y: y[0][0, 0], a.dtype)


def _convolution(
    is_weight: IsWeight, x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any
) -> Operation | None:
    stride, padding, dilation, transposed, _, groups = geometry
    if transposed or not x.numel() or x.dim() != w.dim():
        return None
    spatial = w.dim() - 2
    stride, padding, dilation = (
        [*values] * (spatial // len(values)) for values in (stride, padding, dilation)
    )
    patches = functional.pad(x, [size for pad in reversed(padding) for size in (pad, pad)])
    for axis in range(spatial):
        span = (w.shape[2 + axis] - 1) * dilation[axis] + 1
        patches = patches.unfold(2 + axis, span, stride[axis])[..., :: dilation[axis]]
    batch, places = x.shape[0], patches.shape[2 : 2 + spatial]
    apart = patches.unflatten(1, (groups, -1)).movedim(1, 0)  # [groups, batch, C, places, kernel]
    rows = apart.movedim(2, 2 + spatial).flatten(2 + spatial).flatten(1, 1 + spatial)
    kernels = w.flatten(1)
    if groups == 1:
        product = TensorProduct(rows[0], kernels, "convolution")
    else:
        product = TensorProduct(rows, kernels.unflatten(0, (groups, -1)), "convolution")

    def finish(y: list[Tensor]) -> Tensor:
        outputs = y[0] if groups > 1 else y[0][None]
        shaped = outputs.unflatten(1, (batch, *places)).movedim(0, 1).movedim(-1, 2).flatten(1, 2)
        if bias is None:
            return shaped
        return shaped + bias.to(shaped.dtype).reshape(-1, *[1] * spatial)

    return Operation([product], finish, x.dtype)


def _grouped_mm(
    is_weight: IsWeight,
    x: Tensor,
    w: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Operation | None:
    dtype = out_dtype or x.dtype
    if offs is None:
        return _bmm(is_weight, x, w) if x.dim() == w.dim() == 3 else None
    if x.dim() != 2 or w.dim() != 3 or bias is not None:
        return None
    ends = offs.tolist()
    products = [
        TensorProduct(x[first:end], w[expert].mT, "experts", expert, first)
        for expert, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
        if end > first
    ]
    spare = x.shape[0] - (ends[-1] if ends else 0)

    def finish(y: list[Tensor]) -> Tensor:
        return torch.cat([*y, x.new_zeros((spare, w.shape[-1]), dtype=torch.float32)])

    return Operation(products, finish, dtype)


def _trilinear(
    is_weight: IsWeight, a: Tensor, w: Tensor, b: Tensor, *form: Any
) -> Operation | None:
    """Return the product of a bilinear layer: a[N, I] by w[O, I, J], whose result meets b[N, J]."""
    if [*map(list, form[:4])] != [[1, 3], [0], [1, 2], [2, 3]]:
        return None
    product = TensorProduct(a.expand(w.shape[0], *a.shape), w.mT)
    return Operation([product], lambda y: (y[0] * b.float()).sum(-1).mT, a.dtype)


_ATEN = torch.ops.aten
_OPERATIONS: dict[Any, Callable[..., Operation | None]] = {
    _ATEN.addmm_.default: _addmm,
    _ATEN.baddbmm_.default: _baddbmm,
    _ATEN.addbmm_.default: _addbmm,
    _ATEN.addmv_.default: _addmv,
    _ATEN.mm.out: _mm,
    _ATEN.addmm.out: _addmm,
    _ATEN.bmm.out: _bmm,
    _ATEN.baddbmm.out: _baddbmm,
    _ATEN.addbmm.out: _addbmm,
    _ATEN.mv.out: _mv,
    _ATEN.addmv.out: _addmv,
    _ATEN.dot.out: _dot,
    _ATEN.vdot.out: _dot,
    _ATEN._trilinear.default: _trilinear,
    _ATEN.mm.default: _mm,
    _ATEN.addmm.default: _addmm,
    _ATEN.bmm.default: _bmm,
    _ATEN.baddbmm.default: _baddbmm,
    _ATEN.addbmm.default: _addbmm,
    _ATEN.mv.default: _mv,
    _ATEN.addmv.default: _addmv,
    _ATEN.dot.default: _dot,
    _ATEN.vdot.default: _dot,
    _ATEN.convolution.default: _convolution,
}
_IN_PLACE = {_ATEN.addmm_, _ATEN.baddbmm_, _ATEN.addbmm_, _ATEN.addmv_}
if hasattr(_ATEN, "_grouped_mm"):  # torch 2.8 and later
    _OPERATIONS[_ATEN._grouped_mm.default] = _grouped_mm
