"""Fused products: all steps of a segment in one compiled call (`kernels.read_fused`).

They serve benches with one reading, equal level steps, and a fixed light level and range, as most
benches have. Arguments that do not depend on the rows are computed once. Other code evicts the
processor's caches between calls, so separate steps would cost as much as the arithmetic of few
rows. `row_block.RowBlock` serves all benches, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import Ranges
from .detection import Converter
from .encoding import has_levels, offset_levels, signed_levels
from .integer_products import LONGEST
from .noise import quantiles
from .parameters import MockParameters
from .weight_segment import WeightSegment


def can_fuse(parameters: MockParameters) -> bool:
    """Return whether a profile has one reading, equal level steps and fixed light and range."""
    profile = parameters.profile
    return (
        (profile.detection == "balanced" or profile.encoding == "offset")
        and has_levels(profile)
        and profile.photons_per_mac is None
        and profile.photons_entering_per_mac is None
        and profile.readout_range != "ideal"
        and not profile.source_rms
        and parameters.drift is None
    )


def fused_segment(
    parameters: MockParameters, segment: WeightSegment, ranges: Ranges | None, index: int
) -> tuple[Any, ...] | None:
    """Return a segment in plain tuples for `kernels.read_fused`; None if that is not possible.

    It is computed once per ranges.

    Parameters
    ----------
    index : of the segment
    """
    if segment.is_dim:
        return None
    stored = segment.fused
    if stored is None or stored[0] is not ranges:
        converter = segment.converter(parameters.profile, ranges, index)
        stored = segment.fused = ranges, _fused(parameters, segment, converter)
    return stored[1]


def _fused(
    parameters: MockParameters, segment: WeightSegment, converter: Converter
) -> tuple[Any, ...] | None:
    weights, profile, detector = segment.weights, parameters.profile, parameters.detector
    exposure, offset = segment.exposures[0], profile.encoding == "offset"
    rule = exposure.rules[0]
    lights = rule.operand if rule.light is None else rule.light
    eight_bits = rule.operand.count == 1 and not rule.operand.is_wide
    if weights.shape[0] != 1 or not eight_bits or segment.length > LONGEST:
        return None
    levels = (offset_levels if offset else signed_levels)(profile.input_bits)
    if levels > 255 or (levels > 127 and not offset):
        return None
    from .kernels import FusedSegment

    columns = np.empty(0, np.int64) if exposure.columns is None else exposure.columns[0]
    leak, zero, centre = weights.leak, np.zeros(1), (levels + 1) // 2
    unit, gain = (1 - leak) / levels, detector.gain * rule.unit
    fused = FusedSegment(
        first=weights.first,
        length=segment.length,
        levels=float(levels),
        centre=centre if offset else -1,
        largest=segment.largest,
        weights=rule.operand.packed(0, 0),
        lights=lights.packed(0, 0),
        has_light=rule.light is not None,
        per_sum=rule.per_sum,
        dark=rule.dark,
        units=rule.units,
        light_term=rule.light_term[0],
        total_per_sum=exposure.per_sum,
        total_dark=float(exposure.constant[0]),
        total_unit=exposure.unit,
        columns=columns,
        row_terms=detector.row_terms(zero, profile.photons_full_scale, zero, gain)[:, 0],
        leak=leak,
        unit=unit,
        passed=segment.length * (leak + unit * centre),
        total=weights.total[0],
        low=weights.low[0],
        quantiles=quantiles(),
        converter=tuple(converter.of(0)),
        detector=tuple(detector),
    )
    return tuple(fused)
