"""`OpticalModel`: the immutable optical model of a bench and its layout.

Decoding, products, noise model and start-up check share it. A recalibration creates a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .layouts import Layout
from .parameters import Optics, Response, ResponseCurve


@dataclass(frozen=True)
class OpticalModel:
    """Layout, optics, response and response curves of a bench.

    Parameters
    ----------
    curves : response curves of both modulators, by role
    is_guessed : whether nothing was measured; markers are not read then, their places are unknown
    tolerance : rms relative error of a slot's light that calibration may leave
    is_exact : whether it is the ground truth of a simulated bench
    is_corrected : whether products are corrected by what was measured, see `uncorrected`
    """

    layout: Layout
    optics: Optics
    response: Response
    curves: Mapping[str, ResponseCurve]
    is_guessed: bool = False
    tolerance: float = 0.0
    is_exact: bool = False
    is_corrected: bool = True

    @property
    def encoding(self) -> str:
        """How signed numbers become light: "abs-split", "push-pull" or "offset"."""
        return self.layout.encoding.kind

    def uniform_levels(self, role: str, light: float) -> np.ndarray:
        """Return grey levels of uniform light, [slots, length], or [1, length] of a shared input.

        Parameters
        ----------
        light : normalised intensity
        """
        shape = (self.layout.rows_of(role), self.layout.length)
        return self.curves[role].levels(np.full(shape, light))

    def uncorrected(self) -> OpticalModel:
        """Return the model of an ideal bench: equal elements, straight curves, no leaks.

        Products that are encoded and decoded with it have the errors of the bench. Registration,
        dark level, mean brightness and markers stay as they were measured.
        """
        pairs = np.full_like(self.response.pairs_e, self.response.pairs_e.mean())
        none = np.zeros(self.layout.slots)
        response = Response(pairs, none, none, none, markers=self.response.markers)
        curves = {role: curve.straight() for role, curve in self.curves.items()}
        return replace(self, response=response, curves=curves, is_corrected=False)

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
        """The electrons of a fully lit input element that dark weights leak, [slots]."""
        return self.response.weight_leak * self.response.pairs_e.mean(axis=1)

    @cached_property
    def typical_full_e(self) -> float:
        """The electrons of a full-scale product, for normally distributed weights.

        If elements differ in gain, the weakest ones with large weights limit it.
        """
        random = np.random.Generator(np.random.Philox(1))
        weights = np.abs(random.standard_normal((self.layout.slots, self.layout.length)))
        magnitudes = weights / weights.max(axis=1, keepdims=True)
        return float(self.weigh(magnitudes)[1].mean())

    def weigh(self, magnitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide magnitudes [slots, length], in [0, 1], by the gains of their elements.

        Returns
        -------
        levels : grey levels, [slots, length]
        full_e : electrons of a product of two magnitudes of 1, as far as gains allow, [slots]
        leaked_e : electrons of these weights and a dark input, [slots]
        """
        response, curve = self.response, self.curves["weight"]
        needed = magnitudes / response.pairs_e
        full_e = response.pairs_e.mean(axis=1)
        full_e = np.minimum(full_e, 1 / np.maximum(needed.max(axis=1), 1e-30))
        levels = curve.levels(needed * full_e[:, None])
        lit_e = np.einsum("sk,sk->s", response.pairs_e, curve.light[levels])
        all_e = response.pairs_e.sum(axis=1)
        leaked_e = response.input_leak * (lit_e + response.weight_leak * all_e)
        return levels, full_e, leaked_e + response.offset_e

    def passed_e(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the expected electrons of grey levels, float64 [slots]."""
        response = self.response
        x = self.curves["input"].light.take(inputs) + response.input_leak[:, None]
        w = self.curves["weight"].light.take(weights) + response.weight_leak[:, None]
        return response.offset_e + np.asarray(np.einsum("sk,sk,sk->s", response.pairs_e, x, w))

    def leaked_e(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the part of `passed_e` that does not belong to the product: float64 [slots]."""
        x, w = self.curves["input"].light[inputs], self.curves["weight"].light[weights]
        products = np.einsum("sk,sk,sk->s", self.response.pairs_e, np.broadcast_to(x, w.shape), w)
        return self.passed_e(inputs, weights) - np.asarray(products)

    def passed_e_most(self) -> np.ndarray:
        """Return the expected electrons of the brightest levels everywhere, float64 [slots]."""
        response = self.response
        above = (1 + response.input_leak) * (1 + response.weight_leak)
        return np.asarray(response.offset_e + response.pairs_e.sum(axis=1) * above)
