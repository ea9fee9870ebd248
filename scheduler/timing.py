"""What a step takes on a bench, predicted from its profile without touching an instrument.

A shot shows an input frame, settles, exposes and reads out, rounded up to whole refresh periods of
the input modulator; a weight frame refreshes and settles, rounded likewise. Weights stay while all
vectors pass. Nothing overlaps here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..backends import Geometry, OpticsProfile, tile_count
from .host_steps import REGISTRY
from .program import HostStep, OpticalMatmul
from .sizes import evaluate


@dataclass(frozen=True)
class OpticalCost:
    """Events and seconds of one optical matmul on a bench; upper bounds.

    `seconds` is light: frames, settling, exposure, read-out; `convert_seconds` is what converters
    take beyond that, where the profile limits their rate.
    """

    tiles: int
    weight_frames: int
    shots: int
    input_samples: int
    conversions: int
    seconds: float
    convert_seconds: float


@dataclass(frozen=True)
class HostCost:
    """Operations of one host step, values it moves, and the seconds of a profile's host."""

    operations: int
    values: int
    seconds: float


def shot_seconds(profile: OpticsProfile) -> float:
    """Give the period of one shot."""
    duration = profile.input_settle_s + profile.exposure_s + profile.readout_s
    return _whole_periods(duration, profile.input_refresh_s)


def weight_frame_seconds(profile: OpticsProfile) -> float:
    """Give the time of one new weight frame."""
    return _whole_periods(profile.weight_settle_s, profile.weight_refresh_s)


def light_seconds(shots: int, weight_frames: int, profile: OpticsProfile) -> float:
    """Give the time of shots and of new weight frames, one after another."""
    return shots * shot_seconds(profile) + weight_frames * weight_frame_seconds(profile)


def converter_seconds(input_samples: int, conversions: int, profile: OpticsProfile) -> float:
    """Give the time of converters beyond the shots, where the profile limits their rate."""
    shown = input_samples / profile.dac_samples_per_s if profile.dac_samples_per_s else 0.0
    read = conversions / profile.adc_samples_per_s if profile.adc_samples_per_s else 0.0
    return shown + read


def optical_cost(
    step: OpticalMatmul, sizes: Mapping[str, int], profile: OpticsProfile
) -> OpticalCost:
    """Predict one optical matmul for given batch, new and past tokens."""
    *leading, outputs, length = evaluate(step.w_shape, sizes)
    x_shape = evaluate(step.x_shape, sizes)
    matrices = math.prod(leading)
    rows = math.prod(x_shape[:-1]) // max(matrices, 1)
    tiles = tile_count((outputs, length), Geometry.of(profile))
    exposures = profile.exposures(step.non_negative)
    shots = matrices * tiles * -(-rows // profile.vectors) * exposures
    segments = tile_count((1, length), Geometry.of(profile))
    products = matrices * rows * outputs * segments
    conversions = products * profile.conversions(step.non_negative)
    blocks = tiles // max(segments, 1)
    shown = exposures * profile.elements_per_input
    input_samples = matrices * rows * length * shown * blocks
    convert = converter_seconds(input_samples, conversions, profile)
    light = light_seconds(shots, matrices * tiles, profile)
    return OpticalCost(
        matrices * tiles, matrices * tiles, shots, input_samples, conversions, light, convert
    )


def host_cost(
    step: HostStep | OpticalMatmul, sizes: Mapping[str, int], profile: OpticsProfile
) -> HostCost:
    """Predict a host step, or a product that is left on the host (two operations a MAC)."""
    if isinstance(step, OpticalMatmul):
        shapes = [step.x_shape, step.w_shape, step.y_shape]
        operations = 2.0 * step.macs(sizes)
    else:
        shapes = [*step.in_shapes, *step.out_shapes]
        values = sum(math.prod(evaluate(shape, sizes)) for shape in step.out_shapes)
        operations = REGISTRY[step.step].operations * values
    if isinstance(step, HostStep) and REGISTRY[step.step].operations == 0:
        shapes = [*step.out_shapes]
    moved = sum(math.prod(evaluate(shape, sizes)) for shape in shapes)
    moving = moved * profile.host_value_bytes / profile.host_bytes_per_s
    seconds = max(operations / profile.host_operations_per_s, moving)
    return HostCost(int(operations), moved, seconds)


def _whole_periods(duration: float, period: float) -> float:
    if period == 0:
        return duration
    return max(1, math.ceil(duration / period - 1e-9)) * period
