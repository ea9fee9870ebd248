"""`LightPath`: the world of a simulated bench, from the frames of its modulators to its detectors.

    source -> input modulator -> weight modulator -> [sum over a row | over all] -> detector

Light is in photoelectrons per weight-modulator pixel. The world hides the response curves,
registration, uneven light, gains, blur and drift of the bench, which are functions of its `seed`.
Every random number is a function of (seed, shot, part), never of a sequential stream, so that runs
can be repeated and resumed. Calibration must find these properties from light alone; `truth` is for
benches whose file says `calibration = "ground-truth"`, and for tests.

Frames over time are in `shown_frames`, the hidden properties in `imperfections`, the noise-free
light of a pair of frames in `projection`; the detectors add their noise (`devices`).
"""

from __future__ import annotations

from itertools import count
from threading import RLock
from typing import Any

import numpy as np

from ..camera import Region, Shot
from ..errors import InputError
from .chance import generator
from .imperfections import Imperfections, response_curve
from .optics import in_bands
from .projection import Projection
from .shown_frames import Modulator, ShownFrame, visible_pairs
from .world_options import WorldOptions

_OTHER = {"input": "weight", "weight": "input"}


class LightPath:
    """The light path between simulated instruments.

    Parameters
    ----------
    options : properties of the bench

    Attributes
    ----------
    power_w : power of the source, 0 while it does not emit
    """

    def __init__(self, options: WorldOptions) -> None:
        self._options = options
        self.modulators: dict[str, Modulator] = {}
        self.power_w = 0.0
        self.exposures = 0
        self._lock = RLock()
        self._numbers = count()
        self._build()

    def _build(self) -> None:
        """Set the properties that depend on the modulators."""
        self._bench = Imperfections(self._options, self.modulators)
        self._projection = Projection(self._bench, self.modulators)

    @property
    def options(self) -> WorldOptions:
        """The properties of the bench; others may take their place while it is in use."""
        return self._options

    @options.setter
    def options(self, options: WorldOptions) -> None:
        self._options = self._bench.options = options

    # --- interface of the instruments -----------------------------------------------------------

    def add_modulator(
        self, role: str, shape: tuple[int, int], bit_depth: int, settle_time_s: float
    ) -> None:
        """Add a dark modulator ("input" or "weight"), which settles to 5e-5 of a step.

        Raises
        ------
        InputError : when an option of the world does not fit this modulator
        """
        with self._lock:
            self._check(role, shape, bit_depth)
            table = response_curve(self.options, role, bit_depth)
            modulator = Modulator(shape, table, settle_time_s / 10 * self.options.settling)
            dark = np.zeros(shape, dtype=np.uint8 if bit_depth <= 8 else np.uint16)
            modulator.frames.append(ShownFrame(next(self._numbers), dark, float("-inf")))
            self.modulators[role] = modulator
            self._build()

    def move_input(self, input_map: np.ndarray) -> None:
        """Move the input modulator, as an operator does with its adjustment screws.

        Parameters
        ----------
        input_map : map of weight pixels to input pixels, [2, 3]; the present one is in `truth`
        """
        with self._lock:
            self._bench.input_map = np.array(input_map, dtype=float)
            for modulator in self.modulators.values():
                for frame in modulator.frames:
                    frame.light = None
            self._projection.forget()

    def forget(self) -> None:
        """Clear the caches of images and sums, as in a new process; only time is lost."""
        with self._lock:
            self._projection.forget()

    def _check(self, role: str, shape: tuple[int, int], bit_depth: int) -> None:
        beyond = [row for row in self.options.dead_rows if row >= shape[0]]
        if role == "weight" and beyond:
            raise InputError(
                f"world.dead_rows = {beyond}: the weight modulator has rows 0 to {shape[0] - 1}; "
                "remove the others"
            )
        other = self.modulators.get(_OTHER.get(role, ""))
        if not self.options.swapped or other is None:
            return
        if (other.shape, len(other.table)) != (shape, 1 << bit_depth):
            raise InputError(
                f"world.swapped needs two equal modulators, not {shape} pixels of "
                f"{1 << bit_depth} levels and {other.shape} of {len(other.table)}; "
                "give both the same device and bit_depth, or remove swapped"
            )

    def show(self, role: str, levels: np.ndarray, from_s: float) -> None:
        """Let a modulator approach a new frame from a moment on."""
        with self._lock:
            if self.options.swapped:
                role = _OTHER[role]
                if role not in self.modulators:
                    return  # the cable is not connected
            self.modulators[role].show(next(self._numbers), levels, from_s)

    def flips(self, role: str, now_s: float) -> int:
        """Return the number of flips of a modulator so far."""
        with self._lock:
            return self.modulators[role].flips_until(now_s)

    def on_camera(
        self,
        start_s: float,
        exposure_s: float,
        sensor_shape: tuple[int, int],
        region: Region,
        row_time_s: float,
        shot: Shot,
    ) -> np.ndarray:
        """Return the mean photoelectrons of each pixel of a region: float32 [height, width].

        Parameters
        ----------
        row_time_s : delay between rows of a rolling shutter; 0 for a global shutter
        """
        with self._lock:
            if self._is_dark:
                return np.zeros((region.height, region.width), dtype=np.float32)
            part = (
                slice(region.top, region.top + region.height),
                slice(region.left, region.left + region.width),
            )
            electrons = self._electrons_per_pixel(exposure_s, shot)
            starts_s = np.array([start_s])
            if row_time_s:
                starts_s = start_s + row_time_s * np.arange(region.top, region.top + region.height)
            pairs = self._pairs(starts_s, exposure_s)
            out = np.zeros((region.height, region.width), dtype=np.float32)
            lit = self._illuminated_columns(sensor_shape, region)
            for number, (one, other, share) in enumerate(pairs):
                factor = (electrons * share[:, None]).astype(np.float32)
                seen = self._projection.cached_image(one, other, sensor_shape)[part]
                _scale(seen[:, lit], factor, number > 0, out[:, lit])
            if self.options.stray_e_per_s:
                out += np.float32(self.options.stray_e_per_s * exposure_s)
            return out

    def on_photodiode(self, start_s: float, exposure_s: float, shot: Shot) -> float:
        """Return the mean photoelectrons of a single photodiode that collects all the light."""
        with self._lock:
            if self._is_dark:
                return 0.0
            total = 0.0
            for one, other, share in self._pairs(np.array([start_s]), exposure_s):
                total += float(share[0] * self._projection.total(one, other))
            stray = self.options.stray_e_per_s * exposure_s
            return total * self._electrons_per_pixel(exposure_s, shot) + stray

    def add_hot_pixels(
        self,
        electrons: np.ndarray,
        sensor_shape: tuple[int, int],
        region: Region,
        exposure_s: float,
    ) -> None:
        """Add the mean dark electrons of hot pixels to a region, float32 [h, w]."""
        if self.options.hot_pixels:
            with self._lock:
                row, column, e_per_s = self._bench.hot_pixels(sensor_shape)
            row, column = row - region.top, column - region.left
            inside = (row >= 0) & (row < region.height) & (column >= 0) & (column < region.width)
            electrons[row[inside], column[inside]] += e_per_s[inside] * np.float32(exposure_s)

    def generator(self, shot: Shot, part: str) -> np.random.Generator:
        """Return the random generator of one part of one shot; it depends only on the address."""
        return generator(self.options.seed, shot.address, part)

    def next_shot(self) -> Shot:
        """Return a new name for a shot that has none."""
        with self._lock:
            self.exposures += 1
            return Shot(f"unnamed/{self.exposures}", self.exposures)

    # --- ground truth, for benches and tests that ask for it --------------------------------------

    def truth(self, sensor_shape: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return what calibration must find; the trigger latency is an option of the camera.

        Returns
        -------
        tables : transmission of each grey level, by role
        settle_times_s : time until a frame is within 5e-5, by role
        input_map : map of weight pixels to input pixels
        gains : gain of each weight pixel, float32 [h, w]
        electrons_per_pixel_j : and further options of the world, to `covered` (`WorldOptions`)
        camera_map : with a sensor shape: map of weight pixels to camera pixels, before distortion
            (`bend`); in the line layout, to the camera row of a weight row and the middle column of
            its spot
        hot_pixels : with a sensor shape: bool [h, w]
        spot_columns : with a sensor shape: first column of the spots in the line layout and the one
            after the last; fractions where pixels are cut
        """
        return self._bench.truth(sensor_shape)

    def picture(
        self, inputs: np.ndarray, weights: np.ndarray, sensor_shape: tuple[int, int] | None
    ) -> np.ndarray:
        """Return the noise-free light of two settled frames, in pixels at full transmission.

        Parameters
        ----------
        inputs, weights : grey levels of both modulators
        sensor_shape : shape of the camera sensor; None for a photodiode

        Returns
        -------
        float32 [height, width] for a camera, [1, 1] for a photodiode
        """
        with self._lock:
            frames = [ShownFrame(-1, levels, 0.0) for levels in (inputs, weights)]
            planes = self._projection.planes(*frames)
            if sensor_shape is None:
                return np.array([[np.vdot(planes[0], planes[1] * planes[2])]])
            return self._projection.image(planes, sensor_shape)

    def arriving(
        self, sensor_shape: tuple[int, int], boxes: np.ndarray, owner: np.ndarray
    ) -> np.ndarray:
        """Return the fraction of the light of each weight pixel that reaches its box on the camera.

        Parameters
        ----------
        boxes : top, left, bottom, right in camera pixels, int [n, 4]
        owner : index of the box of each weight pixel, -1 for none, int [h, w]

        Returns
        -------
        float64 [h, w], 0 for pixels without a box
        """
        with self._lock:
            return self._projection.arriving(sensor_shape, boxes, owner)

    # --- light -----------------------------------------------------------------------------------

    @property
    def _is_dark(self) -> bool:
        return self.options.light == "timing" or self.options.covered or self.power_w == 0

    def _pairs(
        self, starts_s: np.ndarray, exposure_s: float
    ) -> list[tuple[ShownFrame, ShownFrame, np.ndarray]]:
        inputs, weights = self.modulators["input"], self.modulators["weight"]
        return visible_pairs(inputs, weights, starts_s, exposure_s)

    def _electrons_per_pixel(self, exposure_s: float, shot: Shot) -> float:
        factor = self._bench.source_factor(shot)
        return self.options.electrons_per_pixel_j * self.power_w * exposure_s * factor

    def _illuminated_columns(self, sensor_shape: tuple[int, int], region: Region) -> slice:
        """Return the columns of a region that can be illuminated."""
        if self.options.layout != "line":
            return slice(None)
        left = int(np.floor(self._bench.spot_left(sensor_shape))) - region.left
        return slice(max(left, 0), max(left + self.options.spot_px + 1, 0))


def _scale(picture: np.ndarray, factor: np.ndarray, adds: bool, out: np.ndarray) -> None:
    """Write an image [h, w] times a factor [1 or h, 1] into `out`, or add it."""

    def work(first: int, last: int) -> None:
        rows = slice(first, last)
        own = factor if len(factor) == 1 else factor[rows]
        if adds:
            out[rows] += picture[rows] * own
        else:
            np.multiply(picture[rows], own, out=out[rows])

    in_bands(work, out.shape, 8)
