"""Optical parameters without a calibration: the ground truth of a simulation, or nominal values.

`true_optics` is for benches whose file says `calibration = "ground-truth"`, and for tests.
`nominal_optics` is for operators who run an uncalibrated bench on purpose.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...instruments.simulated import WorldOptions, bend
from ..optics import registration
from ..optics.layouts.base import Layout
from ..optics.parameters import Markers, Optics, Response
from .bench import Bench
from .tracking import ScaleTracker

_FITS = 0.98  # size of the modulator's image over the sensor, assumed without alignment


def true_optics(bench: Bench) -> Optics:
    """Return the true parameters of a simulated bench, which a calibration would measure."""
    assert bench.world is not None
    detector = bench.detector
    sensor, constants = detector.spec.sensor_shape, detector.true_constants()
    truth = bench.world.truth(sensor)
    dark_e = (constants.dark_e_per_s + truth["stray_e_per_s"]) * bench.file.exposure_s
    return Optics(
        tables=truth["tables"],
        input_map=truth["input_map"],
        camera_map=_camera_map(truth, sensor, bench.weight.shape),
        sensor_shape=sensor,
        dark_counts=constants.offset_counts + dark_e / constants.gain_e_per_count,
        gain_e_per_count=constants.gain_e_per_count,
        read_noise_e=constants.read_noise_e * math.sqrt(detector.samples),
        dark_e=dark_e,
        spot_px=float(truth.get("spot_px", 5)),
    )


def _camera_map(
    truth: dict[str, Any], sensor: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """Return the map from weight pixels to the camera, with cubic terms for distortion."""
    matrix: np.ndarray = truth["camera_map"]
    if not truth["distortion"] or matrix[1, 1] == 0:  # a line bench has no distortion
        return matrix
    rows, columns = (np.linspace(0, size - 1, 9) for size in shape)
    here = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    y, x = registration.apply(matrix, here).T
    there = np.stack(bend(y, x, sensor, truth["distortion"]), axis=-1)
    return registration.fit(here, there).matrix


def true_response(bench: Bench, layout: Layout) -> Response:
    """Return the true response of the slots of a simulated bench.

    The world computes the noise-free light on the detector: of each element in its own slot, and of
    each slot and marker cell with dark pixels. A formula for the light of a cell would miss edges,
    blur and moire, and every product is divided by that light.
    """
    assert bench.world is not None
    file = bench.file
    truth = bench.world.truth()
    per_pixel_e = truth["electrons_per_pixel_j"] * file.power_w * file.exposure_s
    light = truth["gains"] * per_pixel_e
    if bench.is_timing_only:
        return response_of(layout, light)
    boxes = layout.boxes()
    if len(boxes):
        owner = np.where(layout.elements >= 0, layout.elements // layout.length, -1)
        light = light * bench.world.arriving(bench.detector.spec.sensor_shape, boxes, owner)
    return _seen(bench, layout, response_of(layout, light).pairs_e, per_pixel_e)


def _seen(bench: Bench, layout: Layout, pairs_e: np.ndarray, per_pixel_e: float) -> Response:
    """Return the response with given elements; leakage and markers are computed by the world."""
    ones = (1 << layout.marker_bits) - 1
    slots_e, cells_e = {}, {}
    for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, ones), (1, 0, ones)]:
        slots_e[key], cells_e[key] = _exposed(bench, layout, *key, per_pixel_e)
    dark_e, input_e, weight_e = (slots_e[key] for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0)])
    total_e = np.maximum(pairs_e.sum(axis=1), 1e-30)
    input_leak, weight_leak = (weight_e - dark_e) / total_e, (input_e - dark_e) / total_e
    markers = Markers({}, {}, {})
    for role, count in layout.marker_cells.items():
        is_first = np.arange(count) % 2 == 0  # the number 0 lights the second cell of each pair
        dim, dark = (
            np.where(is_first, cells_e[lit, 0, 0][role], cells_e[lit, 0, ones][role])
            for lit in (1, 0)
        )
        bright = np.where(is_first, cells_e[1, 0, ones][role], cells_e[1, 0, 0][role])
        markers.e[role], markers.leak_e[role] = bright - dim, dim - dark
        markers.dark_e[role] = dark
    return Response(
        pairs_e=pairs_e,
        input_leak=input_leak,
        weight_leak=weight_leak,
        offset_e=dark_e - total_e * input_leak * weight_leak,
        markers=markers if layout.has_markers else None,
    )


def _exposed(
    bench: Bench, layout: Layout, input_lit: int, weight_lit: int, number: int, per_pixel_e: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the noise-free electrons for elements that are all brightest or all darkest.

    They are those of the slots, and of the marker cells by role.
    """
    assert bench.world is not None
    frames = {}
    for role, is_lit in (("input", input_lit), ("weight", weight_lit)):
        level = layout.brightest[role] if is_lit else layout.darkest[role]
        levels = np.full((layout.rows_of(role), layout.length), level)
        frames[role] = layout.frame(role, levels, number)
    optics = layout.optics
    sensor = optics.sensor_shape if layout.has_markers else None
    light_e = bench.world.picture(frames["input"], frames["weight"], sensor) * per_pixel_e
    if not layout.has_markers:
        return light_e[0], {}
    counts = light_e / optics.gain_e_per_count + optics.dark_counts
    return layout.electrons(counts), layout.marker_electrons(counts)


def true_tracker(world: WorldOptions, measured: float) -> ScaleTracker:
    """Return the brightness filter for a simulated source, from its true noise and drift.

    The true drift changes steadily by a per shot, unlike the random walk of the filter. A filter of
    walk q averages over T shots, T^2 = R / q. It lags by a T and keeps R / 2 T of the variance R of
    a measurement. The sum of a^2 T^2 and R / 2 T is least for T^3 = R / 4 a^2, so
    q = R / T^2 = (16 a^4 R)^(1/3). With a walk of a^2 per shot, the lag would exceed the noise
    wherever markers are dim.

    Parameters
    ----------
    world : the noise of the source in every shot, and its slow drift
    measured : relative variance of a brightness measurement
    """
    a_shot = world.drift_rms * 2 * math.pi / world.drift_shots  # rms of 24 cosines' rates
    noise = world.source_rms**2 + measured
    return ScaleTracker(
        shot_rms=world.source_rms,
        walk_variance=max((16 * a_shot**4 * noise) ** (1 / 3), a_shot**2),
        variance=world.drift_rms**2,
    )


def response_of(layout: Layout, light: np.ndarray) -> Response:
    """Return the response of elements, from the light of brightest weight pixels [h, w]."""
    leaks = {role: float(table.min()) for role, table in layout.optics.tables.items()}
    above = (1 - leaks["input"]) * (1 - leaks["weight"])
    leak = {role: np.full(layout.slots, f / (1 - f)) for role, f in leaks.items()}
    return Response(
        pairs_e=layout.element_sums(light) * above,
        input_leak=leak["input"],
        weight_leak=leak["weight"],
        offset_e=np.zeros(layout.slots),
    )


def nominal_optics(bench: Bench) -> Optics:
    """Return nominal parameters: centred modulators and sensor, linear response curves."""
    file = bench.file
    shapes = {"input": bench.input.shape, "weight": bench.weight.shape}
    tables = {
        role: np.linspace(0, 1, 1 << modulator.bit_depth, dtype=np.float32)
        for role, modulator in bench.modulators.items()
    }
    sensor, constants = bench.detector.spec.sensor_shape, bench.detector.nominal_constants()
    scale = np.array(sensor) / shapes["weight"]
    on_sensor = _centred(shapes["weight"], sensor, np.full(2, _FITS * scale.min()))
    if file.layout == "line":
        on_sensor = _centred(shapes["weight"], sensor, _FITS * scale)
        on_sensor[1] = 0.0, 0.0, (sensor[1] - 1) / 2  # the image is one column
    return Optics(
        tables=tables,
        input_map=_centred(shapes["weight"], shapes["input"], np.ones(2)),
        camera_map=on_sensor,
        sensor_shape=sensor,
        dark_counts=constants.offset_counts,
        gain_e_per_count=constants.gain_e_per_count,
        read_noise_e=constants.read_noise_e,
        dark_e=constants.dark_e_per_s,
    )


def _centred(source: tuple[int, int], target: tuple[int, int], scale: np.ndarray) -> np.ndarray:
    offset = (np.array(target) - 1) / 2 - scale * (np.array(source) - 1) / 2
    return np.column_stack([np.diag(scale), offset])
