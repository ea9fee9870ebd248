"""`BenchSetup`: the parts of an open bench that are made again when it is calibrated again."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from ..optics.model import OpticalModel
from ..profile import OpticsProfile
from ..tiling import Geometry
from ..timing import ModulatorTiming, ShotTiming
from .bench import Bench
from .checksum import with_checks
from .decoding import Decoder
from .model_origin import ModelOrigin
from .shots import ShotRunner
from .startup_check import check_startup, with_guessed_brightness
from .tracking import ScaleTracker


class BenchSetup:
    """One optical model of an open bench, and what follows from it.

    Parameters
    ----------
    bench : open
    origin : of the model
    model : optical model of the bench

    Attributes
    ----------
    tracker : brightness filter; None where no brightness is expected
    runner : takes the shots
    """

    def __init__(self, bench: Bench, origin: ModelOrigin, model: OpticalModel) -> None:
        self.bench, self.origin, self.model = bench, origin, model
        self.tracker: ScaleTracker | None = origin.tracker(bench, model)
        self._reference_every = origin.reference_every(model.layout)
        self._settling_s = {role: origin.settling_s(role) for role in model.curves}
        decoder = Decoder(bench, model, self.tracker)
        self.runner = ShotRunner(bench, decoder, self._reference_every, self._settling_s)

    @cached_property
    def geometry(self) -> Geometry:
        """The capacity of a frame without checksums; rails of an output may lie in two frames."""
        layout = self.model.layout
        rails = 1 if self.model.encoding == "offset" else 2
        plain = Geometry(
            layout.slots, layout.length, is_divisible=not layout.shares_input, parts=rails
        )
        if self.model.is_guessed or not self.model.is_corrected:  # nothing predicts checksums
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
    setup = BenchSetup(bench, origin, model)
    runner = setup.runner
    runner.plan.counters.update(counters or {})
    if origin.is_guessed:
        guessed = with_guessed_brightness(model, runner.take_one)
        runner.close()
        return BenchSetup(bench, origin, guessed)
    if origin.is_calibrated and not bench.is_timing_only:
        check_startup(bench.path, model, setup.tracker, runner.take_one)
    return setup


def matching_profile(bench: Bench, model: OpticalModel, light_variance: float) -> OpticsProfile:
    """Return the profile with which the mock multiplies as this bench does.

    Read noise and converter steps are those of a pixel, so those of a slot are sqrt(pixels) times
    larger; the steps are part of the read noise here. Grey levels represent one sign each, so a
    rail of b bits has as many levels on each side of zero as a signed number of b + 1 bits. The
    source noise is the part that remains after the correction by markers and references.

    Parameters
    ----------
    light_variance : remaining relative variance of a shot's brightness
    """
    layout, optics, detector = model.layout, model.optics, bench.detector
    file, pixels = bench.file, float(layout.read_pixels().mean())
    kind = file.encoding.kind
    leaks = {role: float(table.min()) for role, table in optics.tables.items()}
    above = (1 - leaks["input"]) * (1 - leaks["weight"])
    full_e = model.typical_full_e / above
    per_pixel = full_e / float(layout.element_sums(np.ones(bench.weight.shape)).mean())
    step = detector.spec.converter_step * optics.gain_e_per_count
    noise = optics.read_noise_e / math.sqrt(detector.samples)
    samples = detector.samples * pixels
    leak = leaks["input"]
    extra = 0 if kind == "offset" else 1
    bits = {
        role: math.ceil(math.log2(abs(curve.brightest - curve.darkest) + 1))
        for role, curve in model.curves.items()
    }
    return OpticsProfile(
        name=file.name or "bench",
        title=f"noise model of {bench.path}",
        input_bits=bits["input"] + extra,
        weight_bits=bits["weight"] + (extra if kind == "abs-split" else 0),
        encoding=kind,
        detection="per-reading",
        photons_full_scale=full_e,
        read_noise_e=math.sqrt(samples * (noise**2 + step**2 / 12)),
        dark_e=optics.dark_e * pixels + layout.leaked_px * leaks["weight"] * per_pixel,
        source_rms=math.sqrt(light_variance),
        extinction_ratio=1 / leak if leak else None,
        rows=max(layout.slots, 2),
        length=layout.length,
        input_refresh_s=bench.input.refresh_period_s,
        input_settle_s=bench.input.settle_time_s,
        weight_refresh_s=bench.weight.refresh_period_s,
        weight_settle_s=bench.weight.settle_time_s,
        exposure_s=file.exposure_s,
        readout_s=detector.spec.readout_s,
    )


def bench_timing(bench: Bench, trusted_s: dict[str, float], reference_every: int) -> ShotTiming:
    """Return the shot times of a connected bench.

    Parameters
    ----------
    trusted_s : measured settling time after a frame change, by role
    """
    inputs, weights = (
        ModulatorTiming(
            modulator.refresh_period_s,
            modulator.latency_s,
            modulator.settle_time_s,
            trusted_s[role],
            modulator.transfer_s,
        )
        for role, modulator in bench.modulators.items()
    )
    return bench.detector.shot_timing(inputs, weights, reference_every)
