"""`Imperfections`: the properties of a simulated bench that a calibration must find.

They are functions of the options of the world, whose seed they draw from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np

from ..camera import Shot
from .chance import generator
from .optics import affine, inverse
from .shown_frames import Modulator
from .world_options import WorldOptions

_HOT_E_PER_S = (1e3, 1e5)  # range of the dark current of hot pixels
_WAVES = 24  # cosines in the drift of the source
_TRUTH_OPTIONS = (  # options of the world that calibration must find
    "electrons_per_pixel_j",
    "stray_e_per_s",
    "blur_px",
    "crosstalk",
    "settling",
    "spot_px",
    "distortion",
    "dead_rows",
    "fringes",
    "swapped",
    "covered",
)


class Imperfections:
    """The imperfections of a bench, computed when they are first needed.

    Parameters
    ----------
    modulators : by role; their shapes do not change
    """

    def __init__(self, options: WorldOptions, modulators: Mapping[str, Modulator]) -> None:
        self.options, self._modulators = options, modulators
        self._camera_maps: dict[tuple[int, int], np.ndarray] = {}
        self._hot: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}

    @property
    def weight_shape(self) -> tuple[int, int]:
        """The shape of the weight modulator."""
        return self._modulators["weight"].shape

    @cached_property
    def flat_field(self) -> np.ndarray:
        """Gain times illumination of each weight pixel: float32 [h, w]."""
        shape, options = self.weight_shape, self.options
        chance = generator(options.seed, "evenness")
        even = np.ones(shape)
        if options.unevenness:
            y, x = (np.linspace(-1, 1, size) for size in shape)
            terms = (y[:, None] + 0 * x, x + 0 * y[:, None], -(y[:, None] ** 2) - x**2)
            field = sum(a * t for a, t in zip(chance.standard_normal(3), terms, strict=True))
            field = field - np.mean(field)
            even += options.unevenness * field / np.std(field)
        if options.gain_rms:
            even *= 1 + options.gain_rms * chance.standard_normal(shape)
        return np.clip(even, 0.05, None).astype(np.float32)

    @cached_property
    def fringes(self) -> np.ndarray:
        """The cosine of the phase between neighbours: float32 [h, w].

        The phase oscillates by one radian around 0 or pi, with 1 to 3 periods across each side.
        Neighbours are nearly in phase, as behind one lens, so that neither a sum over a row nor a
        sum over all pixels averages it out.
        """
        chance = generator(self.options.seed, "fringes")
        waves, starts = chance.uniform(1, 3, 2), 2 * np.pi * chance.random(2)
        y, x = (
            np.sin(2 * np.pi * wave * np.linspace(0, 1, size) + start)
            for wave, start, size in zip(waves, starts, self.weight_shape, strict=True)
        )
        cosine = np.cos((y[:, None] + x) / 2)
        return (cosine if chance.random() < 0.5 else -cosine).astype(np.float32)

    @cached_property
    def input_map(self) -> np.ndarray:
        """The map of weight pixels to input pixels: float64 [2, 3]."""
        placed, one = self.options.input_registration, self._modulators["input"].shape
        forward = affine(placed.scale, placed.rotation_deg, placed.shift_px, one, self.weight_shape)
        return inverse(forward)

    def camera_map(self, sensor_shape: tuple[int, int]) -> np.ndarray:
        """Return the map of weight pixels to camera pixels, which leaves 2 % of the sensor free."""
        if sensor_shape not in self._camera_maps:
            shape, placed = self.weight_shape, self.options.camera_registration
            tall, wide = sensor_shape[0] / shape[0], sensor_shape[1] / shape[1]
            if self.options.layout == "line":  # a rotation only reduces the row pitch
                scale = 0.98 * tall * placed.scale * np.cos(np.deg2rad(placed.rotation_deg))
                top = (sensor_shape[0] - 1) / 2 + placed.shift_px[0] - scale * (shape[0] - 1) / 2
                middle = self.spot_left(sensor_shape) + (self.options.spot_px - 1) / 2
                matrix = np.array([[scale, 0, top], [0, 0, middle]])
            else:
                scale = 0.98 * min(tall, wide) * placed.scale
                matrix = affine(scale, placed.rotation_deg, placed.shift_px, shape, sensor_shape)
            self._camera_maps[sensor_shape] = matrix
        return self._camera_maps[sensor_shape]

    def spot_left(self, sensor_shape: tuple[int, int]) -> float:
        """Return the first column of the spots in the line layout."""
        middle = (sensor_shape[1] - self.options.spot_px) // 2
        return middle + self.options.camera_registration.shift_px[1]

    def hot_pixels(self, sensor_shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Return rows, columns and dark electrons per second of hot pixels: [n]."""
        if sensor_shape not in self._hot:
            chance = generator(self.options.seed, "hot", *sensor_shape)
            row, column = np.nonzero(chance.random(sensor_shape) < self.options.hot_pixels)
            low, high = np.log(_HOT_E_PER_S)
            powers = chance.uniform(low, high, len(row))
            self._hot[sensor_shape] = row, column, np.exp(powers).astype(np.float32)
        return self._hot[sensor_shape]

    def source_factor(self, shot: Shot) -> float:
        """Return the light of the source in a shot over its set-point."""
        options, factor = self.options, 1.0
        if options.source_rms:
            chance = generator(options.seed, shot.address, "source")
            factor += options.source_rms * chance.standard_normal()
        if options.drift_rms:
            frequencies, phases = _drift(options.seed, options.drift_shots)
            angles = 2 * np.pi * frequencies * shot.number + phases
            factor += options.drift_rms * (2 / _WAVES) ** 0.5 * float(np.cos(angles).sum())
        return factor

    def truth(self, sensor_shape: tuple[int, int] | None) -> dict[str, Any]:
        """Return what calibration must find; see `LightPath.truth`."""
        found: dict[str, Any] = {
            "tables": {role: item.table.copy() for role, item in self._modulators.items()},
            "settle_times_s": {
                role: 10 * item.time_constant_s for role, item in self._modulators.items()
            },
            "input_map": self.input_map,
            "gains": self.flat_field.copy(),
        }
        found |= {name: getattr(self.options, name) for name in _TRUTH_OPTIONS}
        if sensor_shape is not None:
            found["camera_map"] = self.camera_map(sensor_shape)
            found["hot_pixels"] = np.zeros(sensor_shape, dtype=bool)
            found["hot_pixels"][self.hot_pixels(sensor_shape)[:2]] = True
            left = self.spot_left(sensor_shape)
            found["spot_columns"] = (left, left + self.options.spot_px)
        return found


def response_curve(options: WorldOptions, role: str, bit_depth: int) -> np.ndarray:
    """Return the transmission of each grey level of a modulator: float32 [levels]."""
    grey = np.linspace(0, 1, 1 << bit_depth)
    if options.lut_rms:
        chance = generator(options.seed, "curve", role)
        waves = np.arange(1, 4)
        swings = chance.standard_normal(3) / waves
        error = np.sin(np.pi * np.outer(grey, waves)) @ swings
        grey = grey + options.lut_rms * error / np.sqrt(np.mean(error**2))
        grey = np.maximum.accumulate(np.clip(grey, 0, 1))
    leak = 1 / options.extinction_ratio
    return np.asarray(leak + (1 - leak) * grey, dtype=np.float32)


@cache
def _drift(seed: int, drift_shots: float) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies and phases of the drift of a source."""
    chance = generator(seed, "drift")
    return chance.standard_normal(_WAVES) / drift_shots, 2 * np.pi * chance.random(_WAVES)
