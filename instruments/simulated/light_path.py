"""`LightPath`: the world of a simulated bench; what its modulators show is what its detectors see.

    source -> input modulator -> weight modulator -> [sum over a row | over all] -> detector

All of it is in photoelectrons per weight-modulator pixel. Hidden here are the grey-level curves,
registration, uneven light, gains, blur and drift of the bench, functions of its `seed`; every draw
is a function of (seed, shot, part), never of a sequential stream, so that runs repeat and resume.
Calibration must find them from light alone; `truth` is for benches whose file says
`calibration = "known"`, and for tests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..camera import Region, Shot
from .faults import digest
from .optics import affine, blur, image, inverse, look_up, warp

Layout = Literal["imaged", "line", "block"]
_NEGLIGIBLE = 1e-4  # share of a frame's light that is left out: a tenth of an 8-bit step
_SPOT_PX = 5  # camera columns of a spot of the line layout
_FRAMES = 6  # that may still be settling


class Registration(BaseModel):
    """How one plane lies on the next: about the centre, in pixels of the plane that is hit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(default=1.0, gt=0)
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)


class WorldOptions(BaseModel):
    """What a simulated bench is like; the table `[world]` of a bench file.

    Parameters
    ----------
    layout : "imaged", "line" or "block"
    light : "pixels", or "timing": all devices take their time, and no light is computed (for
        schedulers and long runs)
    seed : of the device: its imperfections and its noise
    electrons_per_pixel_j : photoelectrons per weight pixel at full transmission and joule of source
    input_registration : of the input modulator on the weight modulator
    camera_registration : of the weight modulator on the camera; its scale multiplies the
        magnification that just fits
    extinction_ratio : brightest over darkest light of each modulator
    lut_rms : rms of the smooth deviation of the grey-level curves from a straight line
    gain_rms : rms of the gains of single weight pixels
    unevenness : rms of the smooth unevenness of the illumination
    blur_px : Gaussian point-spread function on the camera (imaged layout)
    crosstalk : share of a row's light that falls on each of its two neighbours (line layout)
    source_rms : of the source from shot to shot
    drift_rms, drift_shots : of its slow drift, another one after about half of `drift_shots`
    stray_e_per_s : light on each detector pixel that passed no modulator, with the source on
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout = "imaged"
    light: Literal["pixels", "timing"] = "pixels"
    seed: int = Field(default=0, ge=0)
    electrons_per_pixel_j: float = Field(default=4e9, gt=0)
    input_registration: Registration = Registration()
    camera_registration: Registration = Registration()
    extinction_ratio: float = Field(default=500.0, gt=1)
    lut_rms: float = Field(default=0.0, ge=0, lt=0.2)
    gain_rms: float = Field(default=0.0, ge=0, lt=0.3)
    unevenness: float = Field(default=0.0, ge=0, lt=0.3)
    blur_px: float = Field(default=0.0, ge=0, le=10)
    crosstalk: float = Field(default=0.0, ge=0, lt=0.3)
    source_rms: float = Field(default=0.0, ge=0, lt=0.5)
    drift_rms: float = Field(default=0.0, ge=0, lt=0.2)
    drift_shots: float = Field(default=1e4, gt=0)
    stray_e_per_s: float = Field(default=0.0, ge=0)


@dataclass
class _Frame:
    levels: np.ndarray
    from_s: float
    light: np.ndarray | None = None


@dataclass
class Modulator:
    """What the world knows of one modulator.

    Parameters
    ----------
    table : light that each grey level passes, float32 [levels]
    time_constant_s : of its exponential approach to a new frame
    frames : the latest, with the time from which each is approached
    """

    shape: tuple[int, int]
    table: np.ndarray
    time_constant_s: float
    frames: deque[_Frame] = field(default_factory=lambda: deque(maxlen=_FRAMES))
    shown: int = 0
    spare: np.ndarray | None = None  # memory of a frame that nobody sees any more

    def shares(self, start_s: float, exposure_s: float) -> list[tuple[_Frame, float]]:
        """Give the frames that are seen from a moment on, each with its share of the light.

        The state s follows ds/dt = (frame - s) / time_constant; averaged over the exposure.
        """
        frames = list(self.frames)
        ends_s = start_s + exposure_s
        tau = max(self.time_constant_s, 1e-12)
        state = np.zeros(len(frames))  # how much of each frame the modulator shows now
        state[0] = 1.0
        mean = np.zeros(len(frames))
        for number, frame in enumerate(frames):
            begins = frame.from_s if number else -np.inf
            stops = frames[number + 1].from_s if number + 1 < len(frames) else np.inf
            target = np.eye(len(frames))[number]
            quiet = min(max(start_s, begins), stops)  # from here on it is exposed
            if number and quiet > begins:
                state = target + (state - target) * np.exp(-(quiet - begins) / tau)
            lit = min(stops, ends_s) - quiet
            if lit > 0:
                left = tau * -np.expm1(-lit / tau)
                mean += target * (lit - left) + state * left
            elif exposure_s == 0 and begins <= start_s < stops:
                mean += state
            rest = min(stops, max(ends_s, quiet)) - quiet
            if rest > 0:
                state = target + (state - target) * np.exp(-rest / tau)
            if np.isfinite(stops) and stops > quiet + rest:
                state = target + (state - target) * np.exp(-(stops - quiet - rest) / tau)
        mean /= exposure_s or 1.0
        kept = [(f, float(m)) for f, m in zip(frames, mean, strict=True) if m > _NEGLIGIBLE]
        total = sum(share for _, share in kept) or 1.0
        return [(frame, share / total) for frame, share in kept]


class LightPath:
    """The light between simulated instruments.

    Parameters
    ----------
    options : what the bench is like

    Attributes
    ----------
    power_w : of the source, 0 while it does not emit
    """

    def __init__(self, options: WorldOptions | None = None) -> None:
        self.options = WorldOptions() if options is None else options
        self.modulators: dict[str, Modulator] = {}
        self.power_w = 0.0
        self.exposures = 0
        self._lock = RLock()
        self._even: np.ndarray | None = None
        self._maps: dict[Any, np.ndarray] = {}
        self._drift: tuple[np.ndarray, np.ndarray] | None = None

    # --- what instruments do ---------------------------------------------------------------------

    def add_modulator(
        self, role: str, shape: tuple[int, int], bit_depth: int, settle_time_s: float
    ) -> None:
        """Put a modulator into the path ("input" or "weight"), dark; it settles to 5e-5."""
        with self._lock:
            table = self._curve(role, bit_depth)
            modulator = Modulator(shape, table, settle_time_s / 10)
            dark = np.zeros(shape, dtype=np.uint8 if bit_depth <= 8 else np.uint16)
            modulator.frames.append(_Frame(dark, float("-inf")))
            self.modulators[role] = modulator
            self._even = None
            self._maps.clear()

    def show(self, role: str, levels: np.ndarray, from_s: float) -> None:
        """Let a modulator approach a new frame from a moment on."""
        with self._lock:
            modulator = self.modulators[role]
            if len(modulator.frames) == _FRAMES and modulator.frames[0].light is not None:
                modulator.spare = modulator.frames[0].light
            from_s = max(from_s, modulator.frames[-1].from_s)  # frames do not overtake each other
            modulator.frames.append(_Frame(levels.copy(), from_s))
            modulator.shown += 1

    def on_camera(
        self,
        start_s: float,
        exposure_s: float,
        sensor_shape: tuple[int, int],
        region: Region,
        row_time_s: float,
        shot: Shot,
    ) -> np.ndarray:
        """Give the mean photoelectrons of each pixel of a region: float32 [height, width].

        Parameters
        ----------
        row_time_s : a rolling shutter begins each row so much later; 0 for a global one
        """
        with self._lock:
            out = np.zeros((region.height, region.width), dtype=np.float32)
            if self.options.light == "timing" or self.power_w == 0:
                return out
            part = (
                slice(region.top, region.top + region.height),
                slice(region.left, region.left + region.width),
            )
            electrons = self._electrons_per_pixel(exposure_s, shot)
            rows_s = row_time_s * np.arange(region.top, region.top + region.height)
            pairs = self._pairs(start_s + (rows_s if row_time_s else rows_s[:1]), exposure_s)
            for one, other, share in pairs:
                seen = self._picture(one, other, sensor_shape, electrons)[part]
                if share.min() < 1:
                    seen *= share[:, None]
                out = seen if len(pairs) == 1 else out + seen
            if self.options.stray_e_per_s:
                out += np.float32(self.options.stray_e_per_s * exposure_s)
            return out

    def on_photodiode(self, start_s: float, exposure_s: float, shot: Shot) -> float:
        """Give the mean photoelectrons of a bucket detector that sees all the light."""
        with self._lock:
            if self.options.light == "timing" or self.power_w == 0:
                return 0.0
            total = 0.0
            for one, other, share in self._pairs(np.array([start_s]), exposure_s):
                weight = self._light("weight", other) * self._evenness()
                total += float(share[0] * np.vdot(self._light("input", one), weight))
            stray = self.options.stray_e_per_s * exposure_s
            return total * self._electrons_per_pixel(exposure_s, shot) + stray

    def generator(self, shot: Shot, part: str) -> np.random.Generator:
        """Give the random numbers of one part of one shot: the same for the same address."""
        return _generator(self.options.seed, shot.address, part)

    def next_shot(self) -> Shot:
        """Name a shot that nobody named."""
        with self._lock:
            self.exposures += 1
            return Shot(f"unnamed/{self.exposures}", self.exposures)

    # --- what a bench with calibration = "known", and tests, may ask -----------------------------

    def truth(self, sensor_shape: tuple[int, int] | None = None) -> dict[str, Any]:
        """Give what calibration is to find.

        Returns
        -------
        tables : light of each grey level, by role
        input_map : weight pixel -> input pixel
        camera_map : weight pixel -> camera pixel (with a sensor's shape)
        gains : of each weight pixel, float32 [h, w]
        electrons_per_pixel_j, stray_e_per_s, blur_px, crosstalk : see `WorldOptions`
        """
        found = {
            "tables": {role: item.table.copy() for role, item in self.modulators.items()},
            "input_map": self._input_map(),
            "gains": self._evenness().copy(),
            "electrons_per_pixel_j": self.options.electrons_per_pixel_j,
            "stray_e_per_s": self.options.stray_e_per_s,
            "blur_px": self.options.blur_px,
            "crosstalk": self.options.crosstalk,
        }
        if sensor_shape is not None:
            found["camera_map"] = self._camera_map(sensor_shape)
        return found

    # --- light -----------------------------------------------------------------------------------

    def _pairs(
        self, starts_s: np.ndarray, exposure_s: float
    ) -> list[tuple[_Frame, _Frame, np.ndarray]]:
        """Give pairs of frames that are seen, with their share in each row: float32 [rows]."""
        found: dict[tuple[int, int], tuple[_Frame, _Frame, np.ndarray]] = {}
        for row, start_s in enumerate(starts_s):
            for one, a in self.modulators["input"].shares(start_s, exposure_s):
                for other, b in self.modulators["weight"].shares(start_s, exposure_s):
                    new = (one, other, np.zeros(len(starts_s), dtype=np.float32))
                    found.setdefault((id(one), id(other)), new)[2][row] = a * b
        return list(found.values())

    def _light(self, role: str, frame: _Frame) -> np.ndarray:
        """Give what a frame passes, on the grid of the weight modulator: float32 [h, w]."""
        if frame.light is None:
            modulator = self.modulators[role]
            space, modulator.spare = modulator.spare, None
            if space is not None and space.shape != modulator.shape:
                space = None
            light = look_up(frame.levels, modulator.table, space)
            if role == "input":
                light = warp(light, self._input_map(), self.modulators["weight"].shape)
            frame.light = light
        return frame.light

    def _picture(
        self, one: _Frame, other: _Frame, sensor_shape: tuple[int, int], electrons: float
    ) -> np.ndarray:
        x, w = self._light("input", one), self._light("weight", other)
        matrix = self._camera_map(sensor_shape)
        if self.options.layout != "line":
            seen = image(x, w, self._evenness(), matrix, sensor_shape, electrons)
            return blur(seen, self.options.blur_px)
        rows = np.einsum("hw,hw,hw->h", x, w, self._evenness(), dtype=np.float32)
        rows *= np.float32(electrons)
        c = self.options.crosstalk
        if c:
            padded = np.pad(rows, 1)
            rows = (1 - 2 * c) * rows + c * (padded[:-2] + padded[2:])
        seen = np.zeros(sensor_shape, dtype=np.float32)
        y = matrix[0, 0] * np.arange(len(rows)) + matrix[0, 2]
        top = np.clip(np.floor(y).astype(int), 0, sensor_shape[0] - 2)
        left = (sensor_shape[1] - _SPOT_PX) // 2
        for step, share in ((0, 1 - (y - top)), (1, y - top)):
            column = np.bincount(top + step, weights=rows * share, minlength=sensor_shape[0])
            seen[:, left : left + _SPOT_PX] += (column / _SPOT_PX)[:, None].astype(np.float32)
        return seen

    def _electrons_per_pixel(self, exposure_s: float, shot: Shot) -> float:
        options = self.options
        factor = 1.0
        if options.source_rms:
            factor += options.source_rms * self.generator(shot, "source").standard_normal()
        if options.drift_rms:
            if self._drift is None:
                chance = _generator(options.seed, "drift")
                self._drift = (
                    chance.standard_normal(24) / options.drift_shots,
                    2 * np.pi * chance.random(24),
                )
            angles = 2 * np.pi * self._drift[0] * shot.number + self._drift[1]
            factor += options.drift_rms * (2 / 24) ** 0.5 * float(np.cos(angles).sum())
        return options.electrons_per_pixel_j * self.power_w * exposure_s * factor

    # --- the bench's personality -----------------------------------------------------------------

    def _curve(self, role: str, bit_depth: int) -> np.ndarray:
        grey = np.linspace(0, 1, 1 << bit_depth)
        if self.options.lut_rms:
            chance = _generator(self.options.seed, "curve", role)
            waves = np.arange(1, 4)
            swings = chance.standard_normal(3) / waves
            error = np.sin(np.pi * np.outer(grey, waves)) @ swings
            grey = grey + self.options.lut_rms * error / np.sqrt(np.mean(error**2))
            grey = np.maximum.accumulate(np.clip(grey, 0, 1))
        leak = 1 / self.options.extinction_ratio
        return np.asarray(leak + (1 - leak) * grey, dtype=np.float32)

    def _evenness(self) -> np.ndarray:
        """Give gain times illumination of each weight pixel: float32 [h, w]."""
        if self._even is None:
            shape = self.modulators["weight"].shape
            chance = _generator(self.options.seed, "evenness")
            even = np.ones(shape)
            if self.options.unevenness:
                y, x = (np.linspace(-1, 1, size) for size in shape)
                terms = (y[:, None] + 0 * x, x + 0 * y[:, None], -(y[:, None] ** 2) - x**2)
                field_ = sum(a * t for a, t in zip(chance.standard_normal(3), terms, strict=True))
                field_ = field_ - np.mean(field_)
                even += self.options.unevenness * field_ / np.std(field_)
            if self.options.gain_rms:
                even *= 1 + self.options.gain_rms * chance.standard_normal(shape)
            self._even = np.clip(even, 0.05, None).astype(np.float32)
        return self._even

    def _input_map(self) -> np.ndarray:
        """Map weight pixels onto input pixels."""
        if "input" not in self._maps:
            one, other = (self.modulators[role].shape for role in ("input", "weight"))
            lies = self.options.input_registration
            there = affine(lies.scale, lies.rotation_deg, lies.shift_px, one, other)
            self._maps["input"] = inverse(there)
        return self._maps["input"]

    def _camera_map(self, sensor_shape: tuple[int, int]) -> np.ndarray:
        """Map weight pixels onto camera pixels; two per cent of the sensor stay free."""
        if sensor_shape not in self._maps:
            shape = self.modulators["weight"].shape
            fits = min(sensor_shape[0] / shape[0], sensor_shape[1] / shape[1])
            lies = self.options.camera_registration
            scale = 0.98 * fits * lies.scale
            if self.options.layout == "line":
                scale = 0.98 * sensor_shape[0] / shape[0] * lies.scale
            self._maps[sensor_shape] = affine(
                scale, lies.rotation_deg, lies.shift_px, shape, sensor_shape
            )
        return self._maps[sensor_shape]


def _generator(*parts: object) -> np.random.Generator:
    seed = int.from_bytes(digest(*parts)[:16], "little")
    return np.random.Generator(np.random.SFC64(seed))
