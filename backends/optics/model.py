"""`OpticalModel`: what is known of a bench's optics once numbers are laid out; it never changes.

Decoding, products, noise model and start-up check share it. A bench that is calibrated again gets a
new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .layouts import Layout
from .parameters import Optics, Response
from .response_curve import ResponseCurve


@dataclass(frozen=True)
class OpticalModel:
    """Layout, optics, response and curves of a bench.

    Parameters
    ----------
    curves : of both modulators, by role
    is_guessed : nothing was measured; markers are not read, for their places are unknown
    tolerance : relative error of a slot's light, rms, that calibration may leave
    is_exact : it is the truth of a simulated bench
    """

    layout: Layout
    optics: Optics
    response: Response
    curves: Mapping[str, ResponseCurve]
    is_guessed: bool = False
    tolerance: float = 0.0
    is_exact: bool = False

    @property
    def encoding(self) -> str:
        """How signed numbers become light: "abs-split", "push-pull" or "offset"."""
        return self.layout.encoding.kind

    # --- noise -----------------------------------------------------------------------------------

    @property
    def read_variance(self) -> float:
        """The variance of a detector pixel, or window: read noise and converter steps."""
        return self.optics.read_noise_e**2 + self.layout.converter_step_e**2 / 12

    @property
    def dark_variance(self) -> np.ndarray:
        """The variance of a slot that no light reaches, [slots]."""
        return self.layout.read_pixels() * (self.read_variance + self.optics.dark_e)

    # --- electrons -------------------------------------------------------------------------------

    @property
    def leak_e(self) -> np.ndarray:
        """The electrons that dark weights pass of an input element of full light, [slots]."""
        return self.response.weight_leak * self.response.pairs_e.mean(axis=1)

    @cached_property
    def typical_full_e(self) -> float:
        """The electrons of a product of full scale, for normally distributed weights.

        Where elements differ in gain, the weakest ones that hold large weights set it.
        """
        chance = np.random.Generator(np.random.Philox(1))
        weights = np.abs(chance.standard_normal((self.layout.slots, self.layout.length)))
        shares = weights / weights.max(axis=1, keepdims=True)
        return float(self.weigh(shares)[1].mean())

    def weigh(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide shares [slots, length] by the gains of their elements, as far as these allow.

        Returns
        -------
        levels : grey levels, [slots, length]
        full_e : electrons that a product of two shares of 1 brings, [slots]
        leaked_e : electrons of these weights and a dark input, [slots]
        """
        response, curve = self.response, self.curves["weight"]
        needed = shares / response.pairs_e
        full_e = response.pairs_e.mean(axis=1)
        full_e = np.minimum(full_e, 1 / np.maximum(needed.max(axis=1), 1e-30))
        levels = curve.levels(needed * full_e[:, None])
        lit_e = np.einsum("sk,sk->s", response.pairs_e, curve.light[levels])
        all_e = response.pairs_e.sum(axis=1)
        leaked_e = response.input_leak * (lit_e + response.weight_leak * all_e)
        return levels, full_e, leaked_e + response.offset_e

    def passed_e(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the electrons that grey levels should bring, float64 [slots]."""
        response = self.response
        x = self.curves["input"].light[inputs] + response.input_leak[:, None]
        w = self.curves["weight"].light[weights] + response.weight_leak[:, None]
        return response.offset_e + np.asarray(np.einsum("sk,sk,sk->s", response.pairs_e, x, w))

    def leaked_e(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the part of `passed_e` that is no product, as of a dark tile: float64 [slots]."""
        x, w = self.curves["input"].light[inputs], self.curves["weight"].light[weights]
        products = np.einsum("sk,sk,sk->s", self.response.pairs_e, np.broadcast_to(x, w.shape), w)
        return self.passed_e(inputs, weights) - np.asarray(products)

    def passed_e_most(self) -> np.ndarray:
        """Return the electrons of the brightest levels everywhere, float64 [slots]."""
        response = self.response
        above = (1 + response.input_leak) * (1 + response.weight_leak)
        return np.asarray(response.offset_e + response.pairs_e.sum(axis=1) * above)
