"""Stripes on the input modulator tell where a patch of weights lies on it, through a bucket signal.

The light of a small bright patch of weights, while the input shows stripes of period P at four
shifts of P / 4, turns once around a circle as the patch moves by P: its phase is the patch's place
on the input, up to whole periods. Periods three times as long each settle those.

    S_k = a + b cos(2 pi (u - c_k) / P),    sum_k S_k exp(2 pi i c_k / P) = 2 b exp(2 pi i u / P)

A patch P / 3 wide does not see the third harmonic of binary stripes. Not here: how signals come
about (`align`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHIFTS = 4
FINEST = 3  # the finest period over a patch's side
_GROWS = 3  # of one period over the next finer one: unwrapping leaves a sixth of it for errors
_TELL_SOURCE = 8  # patches of a set, from which on they tell how bright the source was
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Pattern:
    """Stripes along one axis of the input modulator.

    Parameters
    ----------
    axis : 0, they change from row to row; 1, from column to column
    period_px, shift : the latter in quarters of a period
    """

    axis: int
    period_px: int
    shift: int

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Draw it: bool (height, width), True where bright."""
        bright = self._bright(np.arange(shape[self.axis]))
        line = bright[:, None] if self.axis == 0 else bright[None, :]
        return np.broadcast_to(line, shape)

    def light(self, places: np.ndarray) -> np.ndarray:
        """Return the light at places between pixel centres, which share neighbours' light."""
        low = np.floor(places)
        return (1 - (places - low)) * self._bright(low) + (places - low) * self._bright(low + 1)

    def _bright(self, place: np.ndarray) -> np.ndarray:
        from_edge = place - self.shift * self.period_px // SHIFTS
        return np.asarray(from_edge % self.period_px < self.period_px // 2)

    @property
    def centre_px(self) -> float:
        """The middle of a bright stripe."""
        return self.shift * self.period_px / SHIFTS + self.period_px / 4 - 0.5


def shifted(axis: int, period_px: int) -> list[Pattern]:
    """Return the patterns of one period."""
    return [Pattern(axis, period_px, shift) for shift in range(SHIFTS)]


def periods(size: int, side: int) -> list[int]:
    """Return periods, coarsest first: longer than the modulator, down to three patches' sides."""
    found = [FINEST * side]
    while found[-1] < 1.05 * size:
        found.append(_GROWS * found[-1])
    return found[::-1]


def patches(shape: tuple[int, int], side: int, pitch: int, frame: int) -> np.ndarray:
    """Spread patches over a modulator, one to each band of rows, its column as if by chance.

    Parameters
    ----------
    frame : numbers sets of patches; each has other columns

    Returns
    -------
    corners : top and left, int [n, 2]
    """
    first = round(frame * _GOLDEN * pitch) % pitch if shape[0] >= side + 2 * pitch else 0
    count = max((shape[0] - side - first) // pitch + 1, 1)
    top = first + pitch * np.arange(count)
    share = (np.arange(count) * _GOLDEN + 0.5 + 0.37 * frame) % 1.0
    left = np.rint(share * (shape[1] - side)).astype(int)
    return np.stack([top, left], axis=1)


def phase(signals: np.ndarray, patterns: list[Pattern]) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of patches within a period.

    Parameters
    ----------
    signals : float64 [shifts, n], in the order of `patterns`, which differ in shift alone

    Returns
    -------
    place_px : in [0, period), float64 [n]
    contrast : of the turn over the mean, float64 [n]; 4 / pi times sinc(side / period) is whole
    """
    period = patterns[0].period_px
    turns = np.exp(2j * np.pi * np.array([p.centre_px for p in patterns]) / period)
    turned = 2 / SHIFTS * (turns @ signals)
    place = np.angle(turned) * period / (2 * np.pi) % period
    return place, np.abs(turned) / np.maximum(signals.mean(axis=0), 1e-30)


def refine(
    lit: np.ndarray,
    dark: np.ndarray,
    seen: np.ndarray,
    patterns: list[Pattern],
    good: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Return how far patches lie off the places that a map gives them, which is nearly right.

    What the map says of each shot's light, over all patches, tells how bright the source was in it;
    and what harmonics of binary stripes add to the phase is the same in the light that it says.

    Parameters
    ----------
    lit, dark : signals with and without the patches, float64 [shifts, n]
    seen : of each pixel of the patches, its place along the stripes' axis, float64 [n, pixels]
    good : patches that lie wholly on the input, bool [n]

    Returns
    -------
    off_px : float64 [n]
    noise_px : of one of them, as far as the radius of the turn tells, which noise changes as much
    """
    model = np.stack([pattern.light(seen).mean(axis=1) for pattern in patterns])
    around, factor = dark, np.ones((len(patterns), 1))
    if good.sum() >= _TELL_SOURCE:
        told, base, known = lit[:, good], around[:, good], model[:, good]
        for _ in range(4):
            bright = ((told / factor - base) * known).sum(axis=0) / (known**2).sum(axis=0)
            expected = bright * known + base
            factor = (told * expected).sum(axis=1, keepdims=True)
            factor /= (expected**2).sum(axis=1, keepdims=True)
            factor /= factor.mean()
    period = patterns[0].period_px
    place, contrast = phase(lit / factor - around, patterns)
    should, contrast_should = phase(model, patterns)
    off = place - should
    radius = contrast / np.maximum(contrast_should, 1e-6) - 1
    noise = 1.4826 * float(np.median(np.abs(radius[good]))) if good.any() else 0.0
    noise *= period / (2 * np.pi)
    return off - period * np.rint(off / period), noise


def unwrap(places: list[np.ndarray], period_px: list[int], size: int) -> tuple[np.ndarray, ...]:
    """Put places within periods together, coarsest first.

    Returns
    -------
    place_px : on the modulator, float64 [n]
    strain : largest disagreement of two periods, in parts of the finer; 0.5 is a guess
    """
    spare = (period_px[0] - size) / 2
    place = (places[0] + spare) % period_px[0] - spare
    strain = np.zeros_like(place)
    for finer, period in zip(places[1:], period_px[1:], strict=True):
        turns = (place - finer) / period
        strain = np.maximum(strain, np.abs(turns - np.rint(turns)))
        place = finer + period * np.rint(turns)
    return place, strain
