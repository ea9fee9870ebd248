"""Fused products: all steps of a segment in one compiled call (`kernels.read_fused`).

They serve benches with one reading, equal level steps, and a fixed light level and range, as most
benches have. Arguments that do not depend on the rows are computed once. Other code evicts the
processor's caches between calls, so separate steps would cost as much as the arithmetic of few
rows. `row_block.RowBlock` serves all benches, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...instruments.environment import COMPILED
from ..base import Ranges
from .detection import Converter
from .encoding import has_levels, offset_levels, signed_levels
from .integer_products import LONGEST
from .parameters import MockParameters
from .weight_segment import WeightSegment


def can_fuse(parameters: MockParameters) -> bool:
    """Return whether a profile has one reading, equal level steps and fixed light and range."""
    profile = parameters.profile
    return (
        COMPILED
        and (profile.detection == "balanced" or profile.encoding == "offset")
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
    from .kernels import FusedLight, FusedOffset, FusedSegment, InputLevels

    columns = np.empty(0, np.int64) if exposure.columns is None else exposure.columns[0]
    leak, zero, centre = weights.leak, np.zeros(1), (levels + 1) // 2
    unit = (1 - leak) / levels
    light = FusedLight(
        rule.per_sum,
        rule.dark,
        rule.units,
        rule.light_term[0],
        exposure.per_sum,
        float(exposure.constant[0]),
        exposure.unit,
        columns,
        detector.row_terms(zero, profile.photons_full_scale, zero, detector.gain * rule.unit)[:, 0],
    )
    fused = FusedSegment(
        InputLevels(
            weights.first,
            segment.length,
            float(levels),
            centre if offset else -1,
            segment.largest,
        ),
        rule.operand.packed(0, 0),
        lights.packed(0, 0),
        rule.light is not None,
        light,
        FusedOffset(
            leak,
            unit,
            segment.length * (leak + unit * centre),
            weights.total[0],
            weights.low[0],
        ),
        converter.of(0),
        detector,
    )
    return fused.plain()
