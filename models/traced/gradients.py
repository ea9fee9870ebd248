"""`QuantisedGradients`: gradients of the noise-free quantised products, not of exact ones.

The gradients of y = x w^T use w and x as autograd saved them. Here each is rounded, when the
backward pass asks for it, to the levels that the modulator shows, with the scales of its rows and
K-segments. Rounding itself passes the gradient straight through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...backends import Geometry, OpticsProfile, cuts
from ...backends.mock.encoding import offset_levels, signed_levels

_MOST_FRESH = 64
_ATEN = torch.ops.aten
_PLACES = {  # of x and w among the arguments of a product; their axes of length K are -1 and -2
    _ATEN.mm.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
}


class _Saved:
    """A tensor that autograd saved; `axis` is set where it is an operand of a product on light."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.axis = 0
        self.bits: int | None = None


class QuantisedGradients:
    """Rounds the saved operands of products on light.

    Products that have another form in aten (convolutions, experts) keep exact operands.

    Parameters
    ----------
    profile : of the backend
    """

    def __init__(self, profile: OpticsProfile) -> None:
        self._profile = profile
        self._length = Geometry.of(profile).inputs
        self._fresh: list[_Saved] = []

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow what autograd saves within a `with`."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield
        self._fresh.clear()

    def mark(self, function: Any, args: Sequence[Any]) -> None:
        """Mark the saved operands of a product that went to light."""
        places = _PLACES.get(function)
        if places is not None:
            operands = (
                (args[places[0]], -1, self._profile.input_bits),
                (args[places[1]], -2, self._profile.weight_bits),
            )
            for saved in self._fresh:
                for tensor, axis, bits in operands:
                    if _is_same(saved.tensor, tensor):
                        saved.axis, saved.bits = axis, bits
        self._fresh.clear()

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        if len(self._fresh) >= _MOST_FRESH:
            self._fresh.clear()
        saved = _Saved(tensor)
        self._fresh.append(saved)
        return saved

    def _unpack(self, saved: _Saved) -> torch.Tensor:
        if not saved.axis or saved.bits is None:
            return saved.tensor
        with torch.no_grad():
            return self._rounded(saved.tensor, saved.axis, saved.bits)

    def _rounded(self, tensor: torch.Tensor, axis: int, bits: int) -> torch.Tensor:
        """Return a tensor rounded to levels; each row of a K-segment has its own scale."""
        rows = tensor.movedim(axis, -1)
        result = torch.empty_like(rows)
        is_offset = self._profile.encoding == "offset"
        for first, last in cuts(rows.shape[-1], self._length):
            part = rows[..., first:last]
            low = part.amin(-1, keepdim=True) if is_offset else torch.zeros_like(part[..., :1])
            span = part.amax(-1, keepdim=True) - low if is_offset else part.abs().amax(-1, True)
            levels = (offset_levels if is_offset else signed_levels)(bits)
            step = span.clamp_min(torch.finfo(part.dtype).tiny) / levels
            result[..., first:last] = torch.round((part - low) / step) * step + low
        return result.movedim(-1, axis)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
    )
