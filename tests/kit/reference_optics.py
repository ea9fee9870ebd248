"""The optics of one product written as obviously as possible, from docs/explanation/light.md.

A second opinion on `MockBackend`: plain float64 numpy, one loop over readings, the expectation and
the variance of every output as formulas. It draws no random number and imports nothing of
lightloom but the profile's type. Not for speed, and not for gains of single elements.

Conventions that the design leaves open:

- b signed bits are 2^(b-1) - 1 levels on each side of zero, b offset bits are 2^b - 1 steps, both
  per row and K-segment;
- balanced detection has two detectors, but one (and a range from zero) for the single rail of the
  offset encoding, where no difference is taken;
- the two rails of an output are neighbours in a frame;
- a row that shows no negative value in a segment has no x- exposure when readings are taken in
  turn; the leak that x- would have taken away is subtracted by calculation;
- "clamp" has slope one and belongs to quantisation: the sums of w and x that the offset encoding
  puts back are those of the clamped numbers, but not those of what crosstalk makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lightloom.backends import OpticsProfile


@dataclass
class Theory:
    """What is known of y [N, M] before any exposure.

    Parameters
    ----------
    mean : expectation of y
    variance : of y
    fourth_cumulant : of y, from counting electrons; the other terms are taken as Gaussian
    photons : mean detected electrons of light, all readings of an output
    """

    mean: np.ndarray
    variance: np.ndarray
    fourth_cumulant: np.ndarray
    photons: np.ndarray

    @property
    def excess_kurtosis(self) -> np.ndarray:
        return self.fourth_cumulant / np.maximum(self.variance, 1e-300) ** 2


@dataclass
class _Encoded:
    """Rails of the rows of one matrix: grey levels in [0, 1] and what they stand for."""

    rails: list[tuple[int, np.ndarray]]
    span: np.ndarray
    lowest: np.ndarray
    values: np.ndarray


def theory(
    x: np.ndarray, w: np.ndarray, optics: OpticsProfile, w_largest: np.ndarray | None = None
) -> Theory:
    """Return expectation and variance of x [N, K] times w [M, K] transposed on a bench.

    Parameters
    ----------
    w_largest : calibrated largest |w| [M, 1] of a dynamic operand; None takes it from w itself
    """
    x, w = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    total = Theory(*(np.zeros((len(x), len(w))) for _ in range(4)))
    for columns in segments(x.shape[1], optics):
        part = _segment(x[:, columns], w[:, columns], optics, w_largest)
        total.mean += part.mean
        total.variance += part.variance
        total.fourth_cumulant += part.fourth_cumulant
        total.photons += part.photons
    return total


def segments(length: int, optics: OpticsProfile) -> list[slice]:
    """Cut K where one dot product on the modulator ends; x+ and x- side by side take two."""
    if optics.length is None:
        return [slice(0, length)]
    side_by_side = optics.detection == "balanced" and optics.encoding != "offset"
    step = optics.length // 2 if side_by_side else optics.length
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _segment(
    x: np.ndarray, w: np.ndarray, optics: OpticsProfile, w_largest: np.ndarray | None
) -> Theory:
    rows = _encode(x, optics.input_bits, optics, is_input=True)
    weights = _encode(w, optics.weight_bits, optics, is_input=False, largest=w_largest)
    per_exposure = _light_of_readings(rows, weights, optics)  # L / P of [s, r, N, M]
    sign = _signs(rows, weights)
    lit = _exposed(rows, optics)  # [s, 1, N, 1]
    per_pair = _photons_per_pair(lit * per_exposure, w.shape[1], optics)  # P, [N, 1]
    span = rows.span * weights.span.T
    scale = span / (per_pair * (1 - _leak(optics)) ** 2)  # c

    # an exposure that is left out shows no input; what would have leaked is put in by calculation
    mean = scale * per_pair * (sign * per_exposure).sum((0, 1))
    mean += _cross_terms(rows, weights, optics)
    light = lit * per_exposure * per_pair
    photons = light.sum((0, 1)) if optics.has_light else np.zeros_like(mean)
    detectors, conversions = _detectors_and_conversions(lit, optics)
    dark = optics.dark_e or 0.0
    electrons = photons + detectors * dark
    variance = electrons + conversions * (optics.read_noise_e or 0.0) ** 2
    if optics.dark_frames is not None:
        variance = variance + detectors * dark / optics.dark_frames
    variance = variance + (optics.source_rms or 0.0) ** 2 * _source_lever(sign * light, optics)
    variance = scale**2 * variance + conversions * _step(span, scale, optics) ** 2 / 12
    return Theory(mean, variance, scale**4 * electrons, photons)


def _encode(
    values: np.ndarray,
    bits: int | None,
    optics: OpticsProfile,
    is_input: bool,
    largest: np.ndarray | None = None,
) -> _Encoded:
    if optics.encoding == "offset":
        lowest = values.min(1, keepdims=True)
        span = values.max(1, keepdims=True) - lowest
        grey = _rounded((values - lowest) / np.where(span > 0, span, 1), bits and 2**bits - 1)
        shown = _passes(grey, optics) if optics.extinction_model == "clamp" else grey
        return _Encoded([(1, grey)], span, lowest, lowest + span * shown)
    span = np.abs(values).max(1, keepdims=True) if largest is None else largest
    scaled = np.clip(values / np.where(span > 0, span, 1), -1, 1)
    scaled = _rounded(scaled, bits and 2 ** (bits - 1) - 1)
    rails = [(sign, np.maximum(sign * scaled, 0)) for sign in (1, -1)]
    if optics.encoding == "push-pull" and not is_input:
        rails = [(sign, (1 + sign * scaled) / 2) for sign in (1, -1)]
    return _Encoded(rails, span, np.zeros_like(span), span * scaled)


def _rounded(values: np.ndarray, levels: int | None) -> np.ndarray:
    return values if levels is None else np.rint(values * levels) / levels


def _cross_terms(rows: _Encoded, weights: _Encoded, optics: OpticsProfile) -> np.ndarray | float:
    """Return x0 sum(w) + w0 sum(x) - K x0 w0 of the offset encoding, [N, M]."""
    if optics.encoding != "offset":
        return 0.0
    f, length = _leak(optics), rows.values.shape[1]
    x0 = rows.lowest - f * rows.span / (1 - f)
    w0 = weights.lowest - f * weights.span / (1 - f)
    x_sum, w_sum = rows.values.sum(1, keepdims=True), weights.values.sum(1, keepdims=True)
    return x0 * w_sum.T + x_sum * w0.T - length * x0 * w0.T


def _leak(optics: OpticsProfile) -> float:
    if optics.extinction_ratio is None or optics.extinction_model == "clamp":
        return 0.0
    return 1 / optics.extinction_ratio


def _passes(grey: np.ndarray, optics: OpticsProfile) -> np.ndarray:
    """Transmission t(a) of a modulator with grey a."""
    if optics.extinction_ratio is None:
        return grey
    f = 1 / optics.extinction_ratio
    if optics.extinction_model == "clamp":
        return np.where(grey == 0, 0.0, np.maximum(grey, f))
    return f + (1 - f) * grey


def _exposed(rows: _Encoded, optics: OpticsProfile) -> np.ndarray:
    """Tell which rows are shown in the exposure of x+ and of x-: bool [s, 1, N, 1]."""
    needed = [np.ones(len(grey), dtype=bool) for _, grey in rows.rails]
    if optics.detection == "per-reading" and optics.encoding != "offset":
        needed[1] = rows.rails[1][1].any(1)
    return np.array(needed)[:, None, :, None]


def _signs(rows: _Encoded, weights: _Encoded) -> np.ndarray:
    """Return s r of every reading: [s, r, 1, 1]."""
    signs = [[s * r for r, _ in weights.rails] for s, _ in rows.rails]
    return np.array(signs)[:, :, None, None]


def _light_of_readings(rows: _Encoded, weights: _Encoded, optics: OpticsProfile) -> np.ndarray:
    """Return L / P of every reading: [s, r, N, M]."""
    light = []
    for _, shown in rows.rails:
        of_rails = [_passes(shown, optics) @ _passes(rail, optics).T for _, rail in weights.rails]
        light.append(_with_crosstalk(of_rails, optics))
    return np.array(light)


def _with_crosstalk(of_rails: list[np.ndarray], optics: OpticsProfile) -> list[np.ndarray]:
    """Let each rail row give half of the share to either neighbour of its frame."""
    share = optics.crosstalk or 0.0
    rails, outputs = len(of_rails), of_rails[0].shape[1]
    frame = outputs if optics.rows is None else optics.rows // rails
    mixed = [np.zeros_like(rail) for rail in of_rails]
    for first in range(0, outputs, frame):
        last = min(first + frame, outputs)
        places = [(r, m) for m in range(first, last) for r in range(rails)]
        for place, (r, m) in enumerate(places):
            mixed[r][:, m] += (1 - share) * of_rails[r][:, m]
            for neighbour in {place - 1, place + 1} & set(range(len(places))):
                to_r, to_m = places[neighbour]
                mixed[to_r][:, to_m] += share / 2 * of_rails[r][:, m]
    return mixed


def _photons_per_pair(light: np.ndarray, length: int, optics: OpticsProfile) -> np.ndarray:
    """Return P of each row [N, 1]."""
    rows, outputs = light.shape[-2:]
    if optics.photons_per_mac is None:
        return np.full((rows, 1), optics.photons_full_scale or 1.0)
    sent = light.sum((0, 1)).sum(1, keepdims=True)
    wanted = optics.photons_per_mac * outputs * length
    return np.where(sent > 0, wanted / np.where(sent > 0, sent, 1), 1.0)


def _detectors_and_conversions(
    lit: np.ndarray, optics: OpticsProfile
) -> tuple[np.ndarray, np.ndarray]:
    """Count dark levels and conversions of an output: [N, 1] each."""
    rails = 1 if optics.encoding == "offset" else 2
    readings = rails * lit.sum((0, 1))
    if optics.detection == "balanced":
        return np.full_like(readings, rails), np.ones_like(readings)
    return readings, readings


def _source_lever(signed: np.ndarray, optics: OpticsProfile) -> np.ndarray:
    """Return the squared signed light that one fluctuation of the source multiplies."""
    if optics.detection == "balanced":
        return signed.sum((0, 1)) ** 2
    return (signed.sum(1) ** 2).sum(0)


def _step(span: np.ndarray, scale: np.ndarray, optics: OpticsProfile) -> np.ndarray:
    """Return the converter's step q in units of y; the range is in units of y over the scales."""
    if optics.readout_bits is None or not isinstance(optics.readout_range, float):
        return np.zeros_like(scale)
    steps = 2**optics.readout_bits - 1
    if optics.detection == "balanced" and optics.encoding != "offset":
        return 2 * optics.readout_range * span / steps
    sigma = np.hypot(np.sqrt(optics.dark_e or 0.0), optics.read_noise_e or 0.0)
    return (optics.readout_range * span + 5 * sigma * scale) / steps
