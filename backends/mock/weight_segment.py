"""`WeightSegment`: one segment of prepared weights, and the rules from sums to readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    sign : of the reading in the signed sum
    purpose : name of the reading's random stream
    operand : weights whose sums are read
    light : weights whose sums give the light of both detectors (balanced); None if constant
    unit : value per sum (balanced); 1 per reading, where the light gives the value
    units : see `Reading`
    per_sum, dark : the row's term of the light is `per_sum` times the sum of its integers, plus
        `dark`
    light_term : the output's term of the light, float32 [m, M]
    """

    sign: int
    purpose: str
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
    sign : of x+ or x-
    variant, lit : of the read integers, and of the lit ones (see `IntegerRows.variant`)
    rules : its readings
    per_sum, constant, columns, unit : its total light is per_sum times the sum of the lit integers,
        plus constant [m], plus unit times their products with int64 columns [m, K]
    """

    sign: int
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
    has_codes : whether differences of rails are converted to codes of a fixed step
    is_dim : whether a product had outputs that `fused` leaves to `RowBlock`
    fused : what `fused` prepared, and its ranges
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
        fixed = profile.readout_bits is not None and profile.readout_range != "ideal"
        self.has_codes = detector.balanced and fixed
        self.unit, self.leak = input_steps(profile, self.is_fine)
        self.is_split = profile.detection == "per-reading" and profile.encoding != "offset"
        if self.is_split:
            self.exposures = tuple(
                self._exposure(sign, variant, variant, (0, 1), detector)
                for sign, variant in ((1, "plus"), (-1, "minus"))
            )
        else:
            lit = "magnitude" if detector.balanced else "signed"
            self.exposures = (self._exposure(1, "signed", lit, (0,), detector),)
        self.is_dim = False
        self._converter: tuple[Ranges | None, Converter] | None = None
        self.fused: tuple[Ranges | None, tuple[Any, ...] | None] | None = None

    def _exposure(
        self, sign: int, variant: str, lit: str, read: tuple[int, ...], detector: Detector
    ) -> InputExposure:
        rails, gain, shape = self.weights.rails, detector.gain, self.weights.shape
        leak = 2 * self.leak if lit == "magnitude" else self.leak  # x+ and x- side by side
        rules = []
        per_sum, constant = 0.0, np.zeros(shape[0])
        columns: np.ndarray | None = None
        for index in read:
            rail = rails[index]
            light = rails[1] if detector.balanced else rail
            rail_sign = (1, -1)[index]
            assert rail.operand is not None
            term, dark = np.zeros(shape[:2], dtype=np.float32), 0.0
            if light.operand is None:
                dark = leak * light.constant * self.length
                constant += dark * shape[1]
            else:
                sums = light.unit * light.operand.sums + light.constant * self.length
                term = (leak * sums).astype(np.float32)
                constant += leak * sums.sum(axis=1)
                ratio = round(light.unit / abs(light.unit))
                part = ratio * light.operand.columns
                columns = part if columns is None else columns + part
            unit = self.unit * rail.unit / gain if detector.balanced else 1.0
            units = (self.unit * light.unit, 1 / (gain * unit), gain * unit)
            per_sum += self.unit * light.constant * shape[1]
            rules.append(
                ReadingRule(
                    sign * rail_sign,
                    f"reading {sign} {rail_sign if self.is_split else 0}",
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
        return InputExposure(sign, variant, lit, tuple(rules), per_sum, constant, columns, unit)

    def converter(self, profile: OpticsProfile, ranges: Ranges | None, index: int) -> Converter:
        """Return the converters of segment `index` of all outputs: [m, M] each."""
        stored = self._converter
        if stored is None or stored[0] is not ranges:
            unit = self.exposures[0].rules[0].unit
            limit = self._limit(profile, ranges, index)
            limit = np.broadcast_to(np.where(limit > 0, limit, 1.0), self.weights.shape[:2]) / unit
            steps = max(2.0 ** (profile.readout_bits or 0) - 1, 1.0)
            scale = unit * self.weights.scale
            if self.has_codes:
                scale = scale * (2 * limit / steps)
            values = (limit, steps / (2 * limit), scale)
            stored = ranges, Converter(*(np.array(value, dtype=np.float32) for value in values))
            self._converter = stored
        return stored[1]

    def _limit(self, profile: OpticsProfile, ranges: Ranges | None, index: int) -> np.ndarray:
        chosen = profile.readout_range
        if chosen in (None, "ideal"):
            return np.ones((1, 1))
        if isinstance(chosen, float):
            return np.full((1, 1), chosen)
        if ranges is not None:
            readout = ranges.readout.reshape(-1, *ranges.readout.shape[-2:])
            readout = readout[:, min(index, readout.shape[1] - 1)]
            return np.tile(readout, (self.weights.shape[0] // len(readout), 1))
        bound = self.weights.bound
        return bound.max(axis=1, initial=0, keepdims=True) if chosen == "per-matmul" else bound
