"""Costs of single steps: on a bench, predicted without an instrument, and on the host.

Shots are those of `backends.device_timeline`; the overlap of steps is in `prediction`.
`HostModel` is the time of the host in a prediction, from constants or as measured on a machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..backends import Backend, Geometry, OpticsProfile, ShotTiming, frames_of, tile_count
from ..backends.device_timeline import first_wait_s
from .graph import StepRecord
from .host_steps import REGISTRY
from .program import HostStep, OpticalMatmul, Shape, Sizes, Step, evaluate


@dataclass(frozen=True)
class BenchModel:
    """A model of a bench: its constants, its frame geometry, and the times of its devices."""

    profile: OpticsProfile
    geometry: Geometry
    timing: ShotTiming

    @classmethod
    def of(cls, backend: Backend | OpticsProfile) -> BenchModel:
        """Return the model of a backend, or of a profile; for a digital one, the default bench."""
        if isinstance(backend, OpticsProfile):
            return cls(backend, Geometry.of(backend), ShotTiming.of(backend))
        return cls(backend.profile, backend.geometry, backend.timing)


@dataclass(frozen=True)
class OpticalCost:
    """Events and seconds of one optical matmul on a bench; upper bounds.

    `seconds` is light: frames, settling, exposure, read-out. `wait_s` is the part of it for the
    first frames; it vanishes where those of one product settle while another one is read out.
    `convert_seconds` is the time of converters beyond that, where the profile limits their rate.
    """

    tiles: int
    weight_frames: int
    input_frames: int
    shots: int
    input_samples: int
    weight_samples: int
    conversions: int
    seconds: float
    wait_s: float
    convert_seconds: float


@dataclass(frozen=True)
class HostCost:
    """Operations of one host step, the values that it moves, and its time on a profile's host."""

    operations: int
    values: int
    seconds: float


def converter_seconds(input_samples: int, conversions: int, profile: OpticsProfile) -> float:
    """Return the time of converters beyond the shots, where the profile limits their rate."""
    shown = input_samples / profile.dac_samples_per_s if profile.dac_samples_per_s else 0.0
    read = conversions / profile.adc_samples_per_s if profile.adc_samples_per_s else 0.0
    return shown + read


def optical_cost(step: OpticalMatmul, sizes: Sizes, bench: BenchModel) -> OpticalCost:
    """Predict one optical matmul for given batch, new and past tokens."""
    matrices, rows, outputs, length = step.product_sizes(sizes)
    profile, geometry = bench.profile, bench.geometry
    exposures = profile.exposures(step.non_negative)
    products = matrices * rows * outputs
    if not products or not length:
        return OpticalCost(0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    segments = tile_count((1, length), Geometry(None, geometry.inputs))
    frames = frames_of((rows * exposures,) * matrices, outputs, geometry, bench.timing)
    wait_s = first_wait_s(bench.timing)
    input_samples = frames.inputs_shown * length * profile.elements_per_input
    conversions = products * segments * profile.conversions(step.non_negative)
    shown = outputs * geometry.parts
    checks = geometry.rows_shown(shown) - shown
    return OpticalCost(
        tiles=matrices * tile_count((outputs * geometry.parts, length), geometry),
        weight_frames=segments * frames.weight_frames,
        input_frames=segments * frames.input_frames,
        shots=segments * frames.shots,
        input_samples=input_samples,
        weight_samples=int(matrices * (outputs * profile.rails + checks) * length * frames.loads),
        conversions=conversions,
        seconds=segments * frames.seconds(bench.timing) + wait_s,
        wait_s=wait_s,
        convert_seconds=converter_seconds(input_samples, conversions, profile),
    )


def host_cost(step: Step, sizes: Sizes, profile: OpticsProfile) -> HostCost:
    """Predict a host step, or a product that stays on the host (two operations per MAC)."""
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


HostSeconds = Callable[[Step, Sizes], float]


@dataclass(frozen=True)
class HostModel:
    """Time of the host, in seconds.

    Parameters
    ----------
    step : of a host step, or of a product that stays on the host
    feed, gather : of a product that goes to light, before and after its light
    """

    step: HostSeconds
    feed: HostSeconds = lambda step, sizes: 0.0
    gather: HostSeconds = lambda step, sizes: 0.0


def measured_host(
    records: Iterable[StepRecord],
    bench: BenchModel,
    feed: tuple[float, float] = (0.0, 0.0),
    gather: tuple[float, float] = (0.0, 0.0),
) -> HostModel:
    """Return the host as measured by a run, scaled to other sizes.

    Parameters
    ----------
    records : of a run on this machine; a step that was not measured takes the time of the constants
    bench : its constants give the growth of a step with its sizes
    feed, gather : of a product on light: fixed time, and time per number of x, or of y
    """
    ratios: dict[str, float] = {}  # measured seconds over those of the constants
    for record in records:
        calls = sum(
            times * host_cost(record.step, sizes, bench.profile).seconds
            for sizes, times in record.calls
        )
        if calls:
            ratios[record.step.name] = record.seconds / calls

    def seconds(step: Step, sizes: Sizes) -> float:
        return ratios.get(step.name, 1.0) * host_cost(step, sizes, bench.profile).seconds

    def numbers(shapes: Iterable[Shape], sizes: Sizes) -> int:
        return sum(math.prod(evaluate(shape, sizes)) for shape in shapes)

    def fed(step: Step, sizes: Sizes) -> float:
        assert isinstance(step, OpticalMatmul)
        operands = (step.x_shape, step.w_shape) if step.dynamic else (step.x_shape,)
        return feed[0] + feed[1] * numbers(operands, sizes)

    def gathered(step: Step, sizes: Sizes) -> float:
        assert isinstance(step, OpticalMatmul)
        return gather[0] + gather[1] * numbers((step.y_shape,), sizes)

    return HostModel(seconds, fed, gathered)
