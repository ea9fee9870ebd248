"""What people do today: a model in torch with fake quantisation and Gaussian noise.

Weights are rounded once, inputs at every product, and each output of a product gets one Gaussian
number. Its standard deviation follows a simple formula from a bench profile. There are no rails,
readings, ranges or saturation, and the noise does not depend on the light of an output.
"""

from collections.abc import Callable
from functools import cache, partial
from math import sqrt
from typing import Any

from ..backends import OpticsProfile
from ..models import Model
from ..scheduler import FIXED, OpticalMatmul
from .baselines import TorchProgram

# light of an element pair in all its readings, over one reading at full transmission: a mean
_LIGHT = {"push-pull": 1.0, "abs-split": 0.25, "offset": 0.25}


def output_noise(profile: OpticsProfile, length: int) -> float:
    """Return the standard deviation of an output, where max |x| = max |w| = 1.

    It has shot noise of `length` element pairs, and read noise of each conversion: sqrt(electrons)
    over the electrons of one pair. It is 0 for a profile without light.
    """
    p = profile.photons_full_scale
    if p is None:
        p = 4 * (profile.photons_per_mac or profile.photons_entering_per_mac or 0.0)
    if not p:
        return 0.0
    conversions = 1 if "offset" in profile.encoding or profile.detection == "balanced" else 4
    read = conversions * (profile.read_noise_e or 0.0) ** 2
    return sqrt(_LIGHT[profile.encoding] * p * length + read) / p


def operations(profile: OpticsProfile) -> tuple[bool, bool, bool]:
    """Return what a profile asks for: rounding inputs, rounding weights, noise.

    Profiles that ask for the same take the same time.
    """
    noise = output_noise(profile, 1) > 0
    return profile.input_bits is not None, profile.weight_bits is not None, noise


class FakeQuantised(TorchProgram):
    """Program of a language model in torch, with rounded operands and noise on its products.

    The LM head stays exact, as with the placement "paper". Keys and values are rounded when they
    are appended, and the first pass fixes the scale of their noise.

    Parameters
    ----------
    profile : its bit depths and its `output_noise`
    """

    def __init__(self, model: Model, ending: str, profile: OpticsProfile) -> None:
        self._profile = profile
        self._deviation = cache(partial(output_noise, profile))
        super().__init__(model, ending)

    def _functions(self) -> dict[str, Callable[..., Any]]:
        append = {"append_state": lambda new, kept: kept.append(self._as_weights(new))}
        return super()._functions() | append

    def _product(self, step: OpticalMatmul, weight: Any, bias: Any) -> Callable[[Any], Any]:
        if not FIXED["paper"](step):
            return super()._product(step, weight, bias)
        torch, weight = self._torch, self._as_weights(weight)
        largest, linear = float(weight.abs().max()), torch.nn.functional.linear

        def multiply(x: Any) -> Any:
            levels, unit = _in_levels(x, self._profile.input_bits)
            y = self._with_noise(linear(levels, weight), largest, weight.shape[-1])
            return y.mul_(unit) if bias is None else torch.addcmul(bias, y, unit)

        return multiply

    def _attend(self, scale: float) -> Callable[..., Any]:
        torch, bits = self._torch, self._profile.input_bits
        largest: list[float] = []  # key and value

        def attend(q: Any, k: Any, v: Any, mask: Any) -> Any:
            if not largest:
                largest.extend((float(k.abs().max()), float(v.abs().max())))
            levels, unit = _in_levels(q, bits)
            scores = self._with_noise(levels @ k.mT, largest[0], k.shape[-1])
            torch.addcmul(mask, scores, unit.mul_(scale), out=scores)
            attention = torch.softmax(scores, -1)
            levels, unit = _in_levels(attention, bits, is_attention=True)
            return self._with_noise(levels @ v, largest[1], v.shape[-2]).mul_(unit)

        return attend

    def _as_weights(self, w: Any) -> Any:
        """Return weights [..., M, K] as a modulator shows them."""
        levels, unit = _in_levels(w, self._profile.weight_bits)
        return levels.mul_(unit)

    def _with_noise(self, y: Any, largest: float, length: int) -> Any:
        """Add a Gaussian number to each sum of `length` levels times weights up to `largest`."""
        bits = self._profile.input_bits
        deviation = self._deviation(length) * largest * (1 if bits is None else _most(bits))
        return y.add_(self._torch.randn(y.shape), alpha=deviation) if deviation else y


def _in_levels(x: Any, bits: int | None, is_attention: bool = False) -> tuple[Any, Any]:
    """Return rows in levels, and the size [..., 1] of one; without bits each row has one level.

    Parameters
    ----------
    is_attention : x is not negative, and no longer needed, which saves two passes over it
    """
    unit = (x if is_attention else x.abs()).amax(-1, keepdim=True).clamp_(min=1e-30)
    if bits is not None:
        unit.div_(_most(bits))
    levels = x.div_(unit) if is_attention else x / unit
    return (levels if bits is None else levels.round_()), unit


def _most(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)
