"""`BenchSetup`: the parts of an open bench that are made again when it is calibrated again."""

from __future__ import annotations

from functools import cached_property

from ..optics.model import OpticalModel
from ..profile import OpticsProfile
from ..tiling import Geometry
from ..timing import ShotTiming
from .bench import Bench
from .bench_counts import BenchCounts
from .checksum import with_checks
from .decoding import Decoder
from .model_origin import ModelOrigin
from .noise_model import bench_timing, matching_profile
from .shots import ShotRunner
from .startup_check import check_startup, with_guessed_brightness
from .stop_signal import StopSignal
from .tracking import ScaleTracker


class BenchSetup:
    """One optical model of an open bench, and what follows from it.

    Parameters
    ----------
    bench : open
    origin : of the model
    model : optical model of the bench
    counts : of faults and recoveries
    stop : ends the shots

    Attributes
    ----------
    tracker : brightness filter; None where no brightness is expected
    runner : takes the shots
    """

    def __init__(
        self,
        bench: Bench,
        origin: ModelOrigin,
        model: OpticalModel,
        counts: BenchCounts,
        stop: StopSignal,
    ) -> None:
        self.bench, self.origin, self.model = bench, origin, model
        self.tracker: ScaleTracker | None = origin.tracker(bench, model)
        self._reference_every = origin.reference_every(model.layout)
        self._settling_s = {role: origin.settling_s(role) for role in model.curves}
        decoder = Decoder(bench, model, self.tracker)
        self.runner = ShotRunner(
            bench, decoder, self._reference_every, self._settling_s, counts, stop
        )

    @cached_property
    def geometry(self) -> Geometry:
        """The capacity of a frame without checksums; rails of an output may lie in two frames."""
        layout = self.model.layout
        rails = 1 if self.model.encoding == "offset" else 2
        plain = Geometry(
            layout.slots, layout.length, is_divisible=not layout.shares_input, parts=rails
        )
        if self.model.is_guessed:  # without an expected brightness there are no checksums
            return plain
        return with_checks(plain, self.bench.file.checks, layout, self.bench.path)

    @cached_property
    def timing(self) -> ShotTiming:
        """The times of the shots, without those of the host."""
        return bench_timing(self.bench, self._settling_s, self._reference_every)

    @cached_property
    def profile(self) -> OpticsProfile:
        """The mock's profile of this bench, with noise and step sizes from the noise model."""
        return matching_profile(self.bench, self.model, self.light_variance)

    @property
    def references(self) -> int:
        """The number of reference shots planned so far."""
        return self.runner.plan.counters["references"]

    @property
    def light_variance(self) -> float:
        """The remaining relative variance of a shot's brightness, once it was measured."""
        if self.tracker is None or self.bench.is_timing_only:
            return 0.0
        measured = self.model.layout.marker_variance(self.model.response)
        return self.tracker.light_variance(measured, self._reference_every)


def checked_setup(
    bench: Bench,
    origin: ModelOrigin,
    model: OpticalModel,
    counts: BenchCounts,
    stop: StopSignal,
    counters: dict[str, int] | None = None,
) -> BenchSetup:
    """Return the setup of a lit bench, once its light was checked, or guessed.

    Parameters
    ----------
    counters : of the shot plan, to continue from; None for a new plan

    Raises
    ------
    UnexpectedIntensity : when the bench differs from its calibration
    Paused : when a shot fails
    """
    setup = BenchSetup(bench, origin, model, counts, stop)
    runner = setup.runner
    runner.plan.counters.update(counters or {})
    if origin.is_guessed:
        guessed = with_guessed_brightness(model, runner.take_one)
        runner.close()
        return BenchSetup(bench, origin, guessed, counts, stop)
    if origin.is_calibrated and not bench.is_timing_only:
        check_startup(bench.path, model, setup.tracker, runner.take_one)
    return setup
