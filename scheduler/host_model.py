"""`HostModel`: the time of the host in a prediction, from constants or as measured on a machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .costs import BenchModel, host_cost
from .graph import StepRecord
from .program import OpticalMatmul, Shape, Sizes, Step, evaluate

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

    @classmethod
    def of(cls, bench: BenchModel) -> HostModel:
        """Return the host with the constants of a profile."""
        return cls(lambda step, sizes: host_cost(step, sizes, bench.profile).seconds)

    @classmethod
    def idle(cls) -> HostModel:
        """Return a host that takes no time, as with a virtual clock."""
        return cls(lambda step, sizes: 0.0)


class MeasuredHost:
    """Times of host steps from a measured run, scaled to other sizes.

    Parameters
    ----------
    records : of a run on this machine
    bench : its constants give the growth of a step with its sizes
    """

    def __init__(self, records: Iterable[StepRecord], bench: BenchModel) -> None:
        self._bench = bench
        self._ratios: dict[str, float] = {}  # measured seconds over those of the constants
        for record in records:
            calls = sum(
                times * host_cost(record.step, sizes, bench.profile).seconds
                for sizes, times in record.calls
            )
            if calls:
                self._ratios[record.step.name] = record.seconds / calls

    def seconds(self, step: Step, sizes: Sizes) -> float:
        """Return the time of a step; a step that was not measured takes that of the constants."""
        seconds = host_cost(step, sizes, self._bench.profile).seconds
        return self._ratios.get(step.name, 1.0) * seconds

    def model(
        self, feed: tuple[float, float] = (0.0, 0.0), gather: tuple[float, float] = (0.0, 0.0)
    ) -> HostModel:
        """Return it as the host of a prediction.

        Parameters
        ----------
        feed, gather : of a product on light: fixed time, and time per number of x, or of y
        """

        def numbers(shapes: Iterable[Shape], sizes: Sizes) -> int:
            return sum(math.prod(evaluate(shape, sizes)) for shape in shapes)

        def fed(step: Step, sizes: Sizes) -> float:
            assert isinstance(step, OpticalMatmul)
            operands = (step.x_shape, step.w_shape) if step.dynamic else (step.x_shape,)
            return feed[0] + feed[1] * numbers(operands, sizes)

        def gathered(step: Step, sizes: Sizes) -> float:
            assert isinstance(step, OpticalMatmul)
            return gather[0] + gather[1] * numbers((step.y_shape,), sizes)

        return HostModel(self.seconds, fed, gathered)
