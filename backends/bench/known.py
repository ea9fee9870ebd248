"""What is known of a bench without calibration: the truth of a simulated one, or nominal figures.

`known_optics` is for benches whose file says `calibration = "known"`, and for tests;
`nominal_optics` is the guess with which an operator may insist on running an uncalibrated bench.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...instruments import InputError
from .bench import WINDOW_SAMPLES, Bench
from .layouts import Layout, Optics, Response
from .tracking import ScaleTracker

_FITS = 0.98  # of a modulator's image on the sensor, where nobody aligned it
_NOMINAL_FULL_WELL_E = 10_000.0


def known_optics(bench: Bench) -> Optics:
    """Ask a simulated bench for the truth that calibration is to find."""
    assert bench.world is not None
    file = bench.file
    on_camera = file.layout != "block"
    sensor = bench.camera.sensor_shape if on_camera else (1, 1)
    truth = bench.world.truth(sensor)
    stray = truth["stray_e_per_s"]
    if on_camera:
        camera: Any = bench.camera
        gain, noise, samples = camera.gain_e_per_count, camera.read_noise_e, 1
        offset, dark = camera.offset_counts, camera.dark_e_per_s
    else:
        options = bench.daq.options
        gain, samples = 1 / options.volts_per_electron, WINDOW_SAMPLES
        noise, offset, dark = options.read_noise_e, 0.0, options.dark_e_per_s
    dark_e = (dark + stray) * file.exposure_s
    return Optics(
        tables=truth["tables"],
        input_map=truth["input_map"],
        camera_map=truth.get("camera_map", np.eye(2, 3)),
        sensor_shape=sensor,
        dark_counts=offset + dark_e / gain,
        gain_e_per_count=gain,
        read_noise_e=noise * math.sqrt(samples),
        dark_e=dark_e,
        spot_px=float(truth.get("spot_px", 5)),
    )


def known_response(bench: Bench, layout: Layout) -> Response:
    """Give what the slots of a simulated bench answer, from its truth."""
    assert bench.world is not None
    file = bench.file
    truth = bench.world.truth()
    light = truth["gains"] * (truth["electrons_per_pixel_j"] * file.power_w * file.exposure_s)
    return response_of(layout, light)


def known_tracker(bench: Bench) -> ScaleTracker:
    """Give the filter that follows a simulated source, whose noise and drift are known."""
    assert bench.world is not None
    options = bench.world.options
    a_shot = 2 * math.pi / options.drift_shots  # the rms of 24 cosines' rates, over their own
    return ScaleTracker(
        shot_rms=options.source_rms,
        walk_variance=(options.drift_rms * a_shot) ** 2,
        variance=options.drift_rms**2,
    )


def response_of(layout: Layout, light: np.ndarray) -> Response:
    """Give what slots answer, from the light of weight pixels [h, w], both modulators brightest."""
    leaks = {role: float(table.min()) for role, table in layout.optics.tables.items()}
    above = (1 - leaks["input"]) * (1 - leaks["weight"])
    leak = {role: np.full(layout.slots, f / (1 - f)) for role, f in leaks.items()}
    return Response(
        pairs_e=layout.element_sums(light) * above,
        input_leak=leak["input"],
        weight_leak=leak["weight"],
        offset_e=np.zeros(layout.slots),
        marker_e=layout.bright_markers(light),
        marker_leak_e=layout.leaky_markers(light * leaks["weight"]),
    )


def nominal_optics(bench: Bench) -> Optics:
    """Guess: modulators centred on each other and on the sensor, straight grey-level curves."""
    file = bench.file
    shapes = {"input": bench.input.shape, "weight": bench.weight.shape}
    tables = {
        role: np.linspace(0, 1, 1 << modulator.bit_depth, dtype=np.float32)
        for role, modulator in (("input", bench.input), ("weight", bench.weight))
    }
    on_camera = file.layout != "block"
    sensor = bench.camera.sensor_shape if on_camera else (1, 1)
    if on_camera:
        camera = bench.camera
        steps = (1 << camera.bit_depth) - 1
        gain = camera.gain_e_per_count or (camera.full_well_e or _NOMINAL_FULL_WELL_E) / steps
        offset, noise = camera.offset_counts or 0.0, gain
    else:
        gain, offset, noise = 1e6, 0.0, 0.0
    scale = np.array(sensor) / shapes["weight"]
    on_sensor = _centred(shapes["weight"], sensor, np.full(2, _FITS * scale.min()))
    if file.layout == "line":
        on_sensor = _centred(shapes["weight"], sensor, _FITS * scale)
        on_sensor[1] = 0.0, 0.0, (sensor[1] - 1) / 2  # all columns fall on one
    return Optics(
        tables=tables,
        input_map=_centred(shapes["weight"], shapes["input"], np.ones(2)),
        camera_map=on_sensor,
        sensor_shape=sensor,
        dark_counts=offset,
        gain_e_per_count=gain,
        read_noise_e=noise,
        dark_e=0.0,
    )


def _centred(source: tuple[int, int], target: tuple[int, int], scale: np.ndarray) -> np.ndarray:
    offset = (np.array(target) - 1) / 2 - scale * (np.array(source) - 1) / 2
    return np.column_stack([np.diag(scale), offset])


def only_simulated(bench: Bench) -> None:
    """Refuse a real bench that pretends to know its truth.

    Raises
    ------
    InputError : for a bench that is not simulated
    """
    if not bench.is_simulated:
        raise InputError(
            f'{bench.path}: calibration = "known": only a simulated bench knows its own truth; '
            "leave the key out, then run `lightloom align` and `lightloom calibrate`"
        )
