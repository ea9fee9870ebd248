"""`matching_profile`: the mock's profile of a bench, from a model of its noise and step sizes."""

from __future__ import annotations

import math

import numpy as np

from ..optics.model import OpticalModel
from ..profile import OpticsProfile
from ..timing import ModulatorTiming, ShotTiming
from .bench import Bench


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
