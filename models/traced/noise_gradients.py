"""Gradients of the size of noise, so that training learns to make less of it.

Straight-through gradients take the noise of a product as given. But its deviation sigma depends on
the operands: shot noise grows with all the light that arrives, also where terms cancel. Here the
noise n of a product counts as n sigma / sigma', where sigma' has no gradient. So n stays as the
backend drew it, and its gradient is n times that of log(sigma).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ...backends import OpticsProfile

_LEAST = 1e-12  # of a scale; zeros have no noise and no gradient
_LINEAR = (functional.linear, torch._C._nn.linear)
_MATMUL = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__)


class NoiseGradients(TorchFunctionMode):
    """Adds gradients through the size of noise to linear layers and plain matrix products.

    Products inside other operations (convolutions, fused attention) keep straight-through
    gradients. It is entered within a `Light`.

    Parameters
    ----------
    profile : of the backend that draws the noise
    """

    def __init__(self, profile: OpticsProfile) -> None:
        super().__init__()
        self._profile = profile

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        y = function(*args, **(kwargs or {}))
        found = _operands(function, *args, **(kwargs or {}))
        if found is None or not y.requires_grad:
            return y
        x, w, bias = found
        with _disable_current_modes():  # what follows is digital
            x, w = x.float(), w.float()
            sigma = deviation(x, w, self._profile)
            exact = (x @ w.mT).detach()
            noise = y.detach() - (exact if bias is None else exact + bias.detach())
            return y + (noise * (sigma / sigma.detach().clamp_min(_LEAST) - 1)).to(y.dtype)


def _operands(
    function: Any, *args: Any, bias: Tensor | None = None, **others: Any
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return x [..., N, K], w [..., M, K] and the bias of a product; None for all else."""
    if others:
        return None
    if function in _LINEAR:
        x, w, bias = (*args, bias)[:3]
    elif function is torch.addmm:
        bias, x, w = args[0], args[1], args[2].mT
    elif function in _MATMUL and min(args[0].ndim, args[1].ndim) >= 2:
        x, w = args[0], args[1].mT
    else:
        return None
    return x, w, bias


def deviation(x: Tensor, w: Tensor, profile: OpticsProfile) -> Tensor:
    """Return the standard deviation of a product's noise, differentiable: [..., N, M].

    It is that of DESIGN's formula without leaks and segments, so it is close, not exact.

    Parameters
    ----------
    x : [..., N, K]
    w : [..., M, K]
    """
    if profile.encoding == "offset":
        x, w = x - x.amin(-1, keepdim=True), w - w.amin(-1, keepdim=True)
    x_scale = x.abs().amax(-1, keepdim=True).clamp_min(_LEAST)
    w_scale = w.abs().amax(-1, keepdim=True).clamp_min(_LEAST)
    shown = (x / x_scale).abs()
    weights = torch.ones_like(w) if profile.encoding == "push-pull" else (w / w_scale).abs()
    light = shown @ weights.mT  # of all readings of an output, over P
    length, outputs = w.shape[-1], w.shape[-2]
    photons: Tensor | float = profile.photons_full_scale or float("inf")
    if profile.photons_per_mac:
        total = light.sum(-1, keepdim=True).clamp_min(_LEAST**0.5)
        photons = profile.photons_per_mac * outputs * length / total
    elif profile.photons_entering_per_mac:
        total = shown.sum(-1, keepdim=True).clamp_min(_LEAST**0.5)
        photons = profile.photons_entering_per_mac * length / total
    readings = 1 if profile.detection == "balanced" or profile.encoding == "offset" else 4
    constant = readings * ((profile.read_noise_e or 0.0) ** 2 + (profile.dark_e or 0.0))
    variance = light / photons + constant / photons**2
    return x_scale * w_scale.mT * variance.clamp_min(_LEAST).sqrt()
