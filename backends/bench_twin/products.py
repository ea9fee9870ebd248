"""`TwinProducts`: products on the twin of a bench.

Numbers are laid out in frames, and decoded from electrons, by the same code as on the bench. The
electrons come from a statistical model of its light instead of its instruments: slots with the
measured gains, leaks and crosstalk, brightness, shot noise and read noise. As on the bench, the
place of an output in a frame follows from the batch; noise depends on the address alone.
"""

from __future__ import annotations

import numpy as np

from ...instruments import InputError
from ..address import Address
from ..base import Ranges, Stats
from ..bench.product import Product
from ..bench.product_frames import EncodedOperand, encode_weights
from ..profile import OpticsProfile
from ..tiling import Geometry, tiles
from .light import SegmentLight
from .optics import TwinOptics


class TwinProducts:
    """Multiplies as a bench does, with the light of its calibration.

    Parameters
    ----------
    profile : with a table `[twin]`
    seed : of the noise
    """

    def __init__(self, profile: OpticsProfile, seed: int) -> None:
        self._profile, self._seed = profile, seed
        self._optics = TwinOptics.of(profile)

    @property
    def geometry(self) -> Geometry:
        """The capacity of a frame."""
        return self._optics.geometry

    def prepare(self, weights: np.ndarray, ranges: Ranges | None) -> list[EncodedOperand]:
        """Encode weights [..., M, K] by segments."""
        return encode_weights(weights, self._optics.model.layout, ranges)

    def multiply(
        self, x: np.ndarray, weights: list[EncodedOperand], at: Address
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """Multiply x [m, N, K] by prepared weights.

        Returns
        -------
        y, variance : float32 [m, N, M]
        photons : detected
        second : rows of each segment and matrix that need an exposure of x-, int64 [segments, m]

        Raises
        ------
        InputError : when x is not finite
        """
        if not np.isfinite(x).all():
            raise InputError("x has values that are not finite")
        outputs = weights[0].intensity.shape[2]
        y, variance = np.zeros((2, *x.shape[:-1], outputs))
        photons, second = 0.0, []
        for tile in tiles((1, x.shape[-1]), Geometry(None, self._optics.model.layout.length)):
            name = f"{at.matmul}/{tile.segment}"
            product = Product(self._optics, name, x[..., tile.columns], weights[tile.segment], {})
            light = SegmentLight(self._optics, self._profile, product, at, tile.segment, self._seed)
            counted = Stats()
            part, noise = product.decode(light.results(), counted)
            y += part
            variance += noise
            photons += counted.photons
            second.append(product.vectors.count - x.shape[1])
        return y.astype(np.float32), variance.astype(np.float32), photons, np.array(second)
