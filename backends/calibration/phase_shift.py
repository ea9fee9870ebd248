"""Phase shifting: locates patches of weights on the input modulator with a single-pixel signal.

The input modulator shows binary gratings of period P in four phase steps of P / 4. The phase of a
patch's light is the patch's place on the input, up to whole periods. Coarser gratings, each with
three times the period, unwrap the phase.

    S_k = a + b cos(2 pi (u - c_k) / P),    sum_k S_k exp(2 pi i c_k / P) = 2 b exp(2 pi i u / P)

A patch of width P / 3 averages the third harmonic of a binary grating to zero. `patches` measures
the signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHIFTS = 4  # phase steps
FINEST = 3  # finest period over a patch's side
_GROWS = 3  # ratio of successive periods: unwrapping tolerates errors of a sixth of a period
_NORMALISE = 8  # patches of a set from which they measure the brightness of the source
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Grating:
    """A binary grating along one axis of the input modulator.

    Parameters
    ----------
    axis : 0, it varies from row to row; 1, from column to column
    period_px, shift : period, and phase step in quarters of a period
    """

    axis: int
    period_px: int
    shift: int

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the frame: bool (height, width), True where bright."""
        bright = self._bright(np.arange(shape[self.axis]))
        line = bright[:, None] if self.axis == 0 else bright[None, :]
        return np.broadcast_to(line, shape)

    def light(self, places: np.ndarray) -> np.ndarray:
        """Return the light at places, interpolated linearly between pixel centres."""
        low = np.floor(places)
        return (1 - (places - low)) * self._bright(low) + (places - low) * self._bright(low + 1)

    def _bright(self, place: np.ndarray) -> np.ndarray:
        from_edge = place - self.shift * self.period_px // SHIFTS
        return np.asarray(from_edge % self.period_px < self.period_px // 2)

    @property
    def centre_px(self) -> float:
        """The centre of a bright line."""
        return self.shift * self.period_px / SHIFTS + self.period_px / 4 - 0.5


def phase_steps(axis: int, period_px: int) -> list[Grating]:
    """Return the gratings of one period in all phase steps."""
    return [Grating(axis, period_px, shift) for shift in range(SHIFTS)]


def periods(size: int, side: int) -> list[int]:
    """Return periods, coarsest first: longer than the modulator, down to three patches' sides."""
    ascending = [FINEST * side]
    while ascending[-1] < 1.05 * size:
        ascending.append(_GROWS * ascending[-1])
    return ascending[::-1]


def patch_corners(shape: tuple[int, int], side: int, pitch: int, frame: int) -> np.ndarray:
    """Return patches spread over a modulator, one in each band of rows, at scattered columns.

    Parameters
    ----------
    frame : number of the set of patches; each set has other columns

    Returns
    -------
    corners : top and left, int [n, 2]
    """
    first = round(frame * _GOLDEN * pitch) % pitch if shape[0] >= side + 2 * pitch else 0
    count = max((shape[0] - side - first) // pitch + 1, 1)
    top = first + pitch * np.arange(count)
    fraction = (np.arange(count) * _GOLDEN + 0.5 + 0.37 * frame) % 1.0
    left = np.rint(fraction * (shape[1] - side)).astype(int)
    return np.stack([top, left], axis=1)


def phase(signals: np.ndarray, gratings: list[Grating]) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of patches within a period.

    Parameters
    ----------
    signals : float64 [shifts, n], in the order of `gratings`, which differ only in their step

    Returns
    -------
    place_px : in [0, period), float64 [n]
    contrast : amplitude over mean, float64 [n]; full contrast is 4 / pi times sinc(side / period)
    """
    period = gratings[0].period_px
    phasors = np.exp(2j * np.pi * np.array([p.centre_px for p in gratings]) / period)
    harmonic = 2 / SHIFTS * (phasors @ signals)
    place = np.angle(harmonic) * period / (2 * np.pi) % period
    return place, np.abs(harmonic) / np.maximum(signals.mean(axis=0), 1e-30)


def refine(
    lit: np.ndarray,
    dark: np.ndarray,
    seen: np.ndarray,
    gratings: list[Grating],
    good: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Return the distance of patches from the places that an approximate map predicts.

    The light that the map predicts, summed over all patches, gives the source's brightness in each
    shot. The prediction contains the harmonics of the binary grating as well, so that their phase
    error cancels.

    Parameters
    ----------
    lit, dark : signals with and without the patches, float64 [shifts, n]
    seen : place of each pixel of the patches along the grating's axis, float64 [n, pixels]
    good : patches that lie entirely on the input, bool [n]

    Returns
    -------
    off_px : float64 [n]
    noise_px : of one of them, estimated from the amplitude, which noise changes equally
    """
    model = np.stack([grating.light(seen).mean(axis=1) for grating in gratings])
    factor = np.ones((len(gratings), 1))
    if good.sum() >= _NORMALISE:
        measured, base, predicted = lit[:, good], dark[:, good], model[:, good]
        for _ in range(4):
            bright = ((measured / factor - base) * predicted).sum(axis=0) / (predicted**2).sum(
                axis=0
            )
            expected = bright * predicted + base
            factor = (measured * expected).sum(axis=1, keepdims=True)
            factor /= (expected**2).sum(axis=1, keepdims=True)
            factor /= factor.mean()
    period = gratings[0].period_px
    place, contrast = phase(lit / factor - dark, gratings)
    model_place, model_contrast = phase(model, gratings)
    off = place - model_place
    amplitude = contrast / np.maximum(model_contrast, 1e-6) - 1
    noise = 1.4826 * float(np.median(np.abs(amplitude[good]))) if good.any() else 0.0
    noise *= period / (2 * np.pi)
    return off - period * np.rint(off / period), noise


def unwrap(places: list[np.ndarray], period_px: list[int], size: int) -> tuple[np.ndarray, ...]:
    """Unwrap places within periods, coarsest first.

    Returns
    -------
    place_px : on the modulator, float64 [n]
    strain : largest disagreement of two periods, in units of the finer; 0.5 is random
    """
    margin = (period_px[0] - size) / 2
    place = (places[0] + margin) % period_px[0] - margin
    strain = np.zeros_like(place)
    for finer, period in zip(places[1:], period_px[1:], strict=True):
        turns = (place - finer) / period
        strain = np.maximum(strain, np.abs(turns - np.rint(turns)))
        place = finer + period * np.rint(turns)
    return place, strain
