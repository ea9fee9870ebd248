"""`WeightSegment`: one segment of prepared weights, and the rules from sums to readings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..base import Ranges
from ..profile import OpticsProfile
from .detection import Converter, Detector, single
from .encoding import LARGEST, EncodedWeights, input_steps
from .integer_products import Operand


@dataclass(frozen=True)
class ReadingRule:
    """The rule from integer sums to one reading; it does not depend on the input rows.

    Parameters
    ----------
    operand : weights whose sums are read
    light : weights whose sums give the light of both detectors (balanced); None if constant
    unit : value per sum (balanced); 1 per reading, where the light gives the value
    units : see `Reading`
    per_sum, dark : the row's term of the light is `per_sum` times the sum of its integers, plus
        `dark`
    light_term : the output's term of the light, float32 [m, M]
    """

    operand: Operand
    light: Operand | None
    unit: float
    units: tuple[float, ...]
    per_sum: float
    dark: float
    light_term: np.ndarray


@dataclass(frozen=True)
class InputExposure:
    """One exposure of the input: the integers that are read, and its light.

    Parameters
    ----------
    variant, lit : of the read integers, and of the lit ones (see `IntegerRows.variant`)
    rules : its readings
    per_sum, constant, columns, unit : its total light is per_sum times the sum of the lit integers,
        plus constant [m], plus unit times their products with int64 columns [m, K]
    """

    variant: str
    lit: str
    rules: tuple[ReadingRule, ...]
    per_sum: float
    constant: np.ndarray
    columns: np.ndarray | None
    unit: float


class WeightSegment:
    """One segment of prepared weights, and the rules of its readings.

    Attributes
    ----------
    largest : magnitude of inputs up to which float32 can hold the results
    """

    def __init__(self, weights: EncodedWeights, profile: OpticsProfile, detector: Detector) -> None:
        self.weights = weights
        self.length = weights.last - weights.first
        operand = weights.rails[0].operand
        assert operand is not None
        self.is_fine = operand.is_wide
        peak = float((weights.scale + np.abs(weights.low)).max(initial=0))
        self.largest = LARGEST / max(self.length * peak, 1.0)
        self.unit, self.leak = input_steps(profile, self.is_fine)
        self.is_split = profile.detection == "per-reading" and profile.encoding != "offset"
        if self.is_split:
            self.exposures = tuple(
                self._exposure(variant, variant, (0, 1), detector) for variant in ("plus", "minus")
            )
        else:
            lit = "magnitude" if detector.balanced else "signed"
            self.exposures = (self._exposure("signed", lit, (0,), detector),)
        self._converter: tuple[Ranges | None, Converter] | None = None

    def _exposure(
        self, variant: str, lit: str, read: tuple[int, ...], detector: Detector
    ) -> InputExposure:
        rails, gain, shape = self.weights.rails, detector.gain, self.weights.shape
        leak = 2 * self.leak if lit == "magnitude" else self.leak  # x+ and x- side by side
        rules = []
        per_sum, constant = 0.0, np.zeros(shape[0])
        columns: np.ndarray | None = None
        for index in read:
            rail = rails[index]
            light = rails[1] if detector.balanced else rail
            assert rail.operand is not None
            term, dark = np.zeros(shape[:2], dtype=np.float32), 0.0
            if light.operand is None:
                dark = leak * light.constant * self.length
                constant += dark * shape[1]
            else:
                sums, each = light.operand.sums, light.constant * self.length
                term = (leak * (light.unit * sums + each)).astype(np.float32)
                constant += leak * (light.unit * sums.sum(axis=1) + each * shape[1])
                ratio = round(light.unit / abs(light.unit))
                part = ratio * light.operand.columns
                columns = part if columns is None else columns + part
            unit = self.unit * rail.unit / gain if detector.balanced else 1.0
            units = (self.unit * light.unit, 1 / (gain * unit), gain * unit)
            per_sum += self.unit * light.constant * shape[1]
            rules.append(
                ReadingRule(
                    rail.operand,
                    light.operand if detector.balanced else None,
                    unit,
                    single(*units),
                    self.unit * light.constant,
                    dark,
                    term,
                )
            )
        if columns is not None and not columns.any():  # both rails of push-pull: constant
            columns = None
        unit = self.unit * abs(light.unit)
        return InputExposure(variant, lit, tuple(rules), per_sum, constant, columns, unit)

    def converter(self, profile: OpticsProfile, ranges: Ranges | None, index: int) -> Converter:
        """Return the converters of segment `index` of all outputs: [m, M] each."""
        stored = self._converter
        if stored is None or stored[0] is not ranges:
            unit, matrices = self.exposures[0].rules[0].unit, self.weights.shape[0]
            limit = readout_limit(profile, ranges, index, matrices, lambda: self.weights.bound)
            limit = np.broadcast_to(limit, self.weights.shape[:2])
            stored = ranges, Converter.of_limits(limit, unit, self.weights.scale, profile)
            self._converter = stored
        return stored[1]


def readout_limit(
    profile: OpticsProfile,
    ranges: Ranges | None,
    index: int,
    matrices: int,
    bound: Callable[[], np.ndarray],
) -> np.ndarray:
    """Return the read-out range of segment `index`, broadcastable to [m, M], in units of y.

    Parameters
    ----------
    bound : returns the range [m, M] that follows from the weights
    """
    chosen = profile.readout_range
    if chosen in (None, "ideal"):
        return np.ones((1, 1))
    if isinstance(chosen, float):
        return np.full((1, 1), chosen)
    if ranges is not None:
        readout = ranges.readout.reshape(-1, *ranges.readout.shape[-2:])
        readout = readout[:, min(index, readout.shape[1] - 1)]
        return np.tile(readout, (matrices // len(readout), 1))
    of_rows = bound()
    return of_rows.max(axis=1, initial=0, keepdims=True) if chosen == "per-matmul" else of_rows
