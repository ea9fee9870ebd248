"""`LightPath`: the world of a simulated bench, from the frames of its modulators to its detectors.

    source -> input modulator -> weight modulator -> [sum over a row | over all] -> detector

Light is in photoelectrons per weight-modulator pixel. The world hides the response curves,
registration, uneven light, gains, blur and drift of the bench, which are functions of its `seed`.
Every random number is a function of (seed, shot, part), never of a sequential stream, so that runs
can be repeated and resumed. Calibration must find these properties from light alone; `truth` is for
benches whose file says `calibration = "ground-truth"`, and for tests.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import count
from threading import RLock
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..camera import Region, Shot
from ..errors import InputError
from ..toml_file import TomlTable
from .faults import digest
from .optics import affine, bend, blur, image, in_bands, interfere, inverse, look_up, taps, warp

Layout = Literal["imaged", "line", "single-pixel"]
_NEGLIGIBLE = 1e-4  # fraction of a frame's light that is ignored: a tenth of an 8-bit step
_SETTLED = 9.3  # time constants after which earlier frames contribute less than that
_FRAMES = 6  # number of frames that may still be settling
_CACHED_IMAGES, _CACHED_SUMS = 2, 64  # sizes of the caches of images and sums, by pairs of frames
_HOT_E_PER_S = (1e3, 1e5)  # range of the dark current of hot pixels


_OTHER = {"input": "weight", "weight": "input"}
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


class Registration(TomlTable):
    """The map of one plane onto the next, about the centre, in pixels of the second plane."""

    scale: float = Field(default=1.0, gt=0)
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)


class WorldOptions(TomlTable):
    """The properties of a simulated bench; the table `[world]` of a bench file.

    Parameters
    ----------
    layout : "imaged", "line" or "single-pixel"
    light : "pixels", or "timing": devices have their timing, but no light is computed (for
        schedulers and long runs)
    seed : seed of the imperfections and the noise of the bench
    electrons_per_pixel_j : photoelectrons per weight pixel at full transmission and joule of source
    input_registration : map of the input modulator onto the weight modulator
    camera_registration : map of the weight modulator onto the camera; its scale multiplies the
        magnification that just fits
    extinction_ratio : ratio of brightest to darkest light of each modulator
    lut_rms : rms of the smooth deviation of the response curves from a straight line
    gain_rms : rms of the gains of single weight pixels
    unevenness : rms of the smooth unevenness of the illumination
    blur_px : Gaussian point-spread function on the camera (imaged layout)
    crosstalk : fraction of the light of a row that falls on each of its neighbours (line layout)
    source_rms : rms fluctuation of the source from shot to shot
    drift_rms, drift_shots : rms of its slow drift, uncorrelated after half of `drift_shots`
    stray_e_per_s : stray light on each detector pixel that passed no modulator, with the source on
    settling : ratio of the true settling time of the modulators to the stated one
    spot_px : width of a spot in camera columns (line layout)
    distortion : of the image on the camera (imaged layout): a point moves by distortion * r^2 * its
        offset from the centre of the sensor, r = 1 in the corners
    hot_pixels : fraction of camera pixels with 1e3 to 1e5 dark electrons per second, source on
        or off
    dead_rows : rows of weight pixels that always stay at their darkest level
    fringes : fraction of the light of a weight pixel that interferes with its right neighbour, so
        that powers do not add; a model of a coherent bench, which calibration must refuse
    swapped : whether each modulator shows the frames of the other, as with swapped video cables
    covered : whether no light reaches the detector
    """

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
    settling: float = Field(default=1.0, gt=0, le=1000)
    spot_px: int = Field(default=5, ge=1, le=1000)
    distortion: float = Field(default=0.0, gt=-0.3, lt=0.3)
    hot_pixels: float = Field(default=0.0, ge=0, le=1)
    dead_rows: tuple[Annotated[int, Field(ge=0)], ...] = ()
    fringes: float = Field(default=0.0, ge=0, le=1)
    swapped: bool = False
    covered: bool = False


@dataclass
class _ShownFrame:
    number: int
    levels: np.ndarray
    from_s: float
    light: np.ndarray | None = None


@dataclass
class Modulator:
    """The state of one modulator in the world.

    Parameters
    ----------
    table : transmission of each grey level, float32 [levels]
    time_constant_s : time constant of its exponential approach to a new frame
    frames : latest frames, with the start of the approach to each
    flips : number of frames shown, except those in `upcoming`
    upcoming : times of later flips
    """

    shape: tuple[int, int]
    table: np.ndarray
    time_constant_s: float
    frames: deque[_ShownFrame] = field(default_factory=lambda: deque(maxlen=_FRAMES))
    flips: int = 0
    upcoming: deque[float] = field(default_factory=deque)
    spare: np.ndarray | None = None  # memory of a frame that is no longer visible

    def flips_until(self, now_s: float) -> int:
        """Return the number of flips so far, as counted by its synchronisation output."""
        while self.upcoming and self.upcoming[0] <= now_s:
            self.upcoming.popleft()
            self.flips += 1
        return self.flips

    def frame_weights(self, start_s: float, exposure_s: float) -> list[tuple[_ShownFrame, float]]:
        """Return the frames visible in an exposure, each with its fraction of the light.

        The state s follows ds/dt = (frame - s) / time_constant. It is averaged over the exposure.
        """
        frames = list(self.frames)
        end_s = start_s + exposure_s
        tau = max(self.time_constant_s, 1e-12)
        if start_s - frames[-1].from_s > _SETTLED * tau:
            return [(frames[-1], 1.0)]  # the other frames are negligible
        state = np.zeros(len(frames))  # fraction of each frame in the present state
        state[0] = 1.0
        mean = np.zeros(len(frames))
        for number, frame in enumerate(frames):
            begins = frame.from_s if number else -np.inf
            stops = frames[number + 1].from_s if number + 1 < len(frames) else np.inf
            target = np.eye(len(frames))[number]
            quiet = min(max(start_s, begins), stops)  # start of the exposure of this frame
            if number and quiet > begins:
                state = target + (state - target) * np.exp(-(quiet - begins) / tau)
            lit = min(stops, end_s) - quiet
            if lit > 0:
                left = tau * -np.expm1(-lit / tau)
                mean += target * (lit - left) + state * left
            elif exposure_s == 0 and begins <= start_s < stops:
                mean += state
            rest = min(stops, max(end_s, quiet)) - quiet
            if rest > 0:
                state = target + (state - target) * np.exp(-rest / tau)
            if np.isfinite(stops) and stops > quiet + rest:
                state = target + (state - target) * np.exp(-(stops - quiet - rest) / tau)
        mean /= exposure_s or 1.0
        kept = [(f, float(m)) for f, m in zip(frames, mean, strict=True) if m > _NEGLIGIBLE]
        total = sum(share for _, share in kept) or 1.0
        return [(frame, share / total) for frame, share in kept]


class LightPath:
    """The light path between simulated instruments.

    Parameters
    ----------
    options : properties of the bench

    Attributes
    ----------
    power_w : power of the source, 0 while it does not emit
    """

    def __init__(self, options: WorldOptions | None = None) -> None:
        self.options = WorldOptions() if options is None else options
        self.modulators: dict[str, Modulator] = {}
        self.power_w = 0.0
        self.exposures = 0
        self._lock = RLock()
        self._cached_flat_field: np.ndarray | None = None
        self._maps: dict[Any, np.ndarray] = {}
        self._hot: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
        self._numbers = count()
        self._images: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._sums: OrderedDict[Any, float] = OrderedDict()
        self._sharp: np.ndarray | None = None
        self._drift: tuple[np.ndarray, np.ndarray] | None = None

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
            table = self._response_curve(role, bit_depth)
            modulator = Modulator(shape, table, settle_time_s / 10 * self.options.settling)
            dark = np.zeros(shape, dtype=np.uint8 if bit_depth <= 8 else np.uint16)
            modulator.frames.append(_ShownFrame(next(self._numbers), dark, float("-inf")))
            self.modulators[role] = modulator
            self._cached_flat_field = None
            for kept in (self._maps, self._images, self._sums):
                kept.clear()

    def move_input(self, input_map: np.ndarray) -> None:
        """Move the input modulator, as an operator does with its adjustment screws.

        Parameters
        ----------
        input_map : map of weight pixels to input pixels, [2, 3]; the present one is in `truth`
        """
        with self._lock:
            self._maps["input"] = np.array(input_map, dtype=float)
            for modulator in self.modulators.values():
                for frame in modulator.frames:
                    frame.light = None
            self.forget()

    def forget(self) -> None:
        """Clear the caches of images and sums, as in a new process; only time is lost."""
        with self._lock:
            self._images.clear()
            self._sums.clear()

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
            modulator = self.modulators[role]
            from_s = max(from_s, modulator.frames[-1].from_s)  # frames do not overtake each other
            if modulator.frames[-1].from_s == from_s:
                modulator.frames.pop()  # the replaced frame was never visible
            if len(modulator.frames) == _FRAMES and modulator.frames[0].light is not None:
                modulator.spare = modulator.frames[0].light
            modulator.frames.append(_ShownFrame(next(self._numbers), levels.copy(), from_s))
            modulator.upcoming.append(from_s)

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
            rows_s = row_time_s * np.arange(region.top, region.top + region.height)
            pairs = self._pairs(start_s + (rows_s if row_time_s else rows_s[:1]), exposure_s)
            out = np.zeros((region.height, region.width), dtype=np.float32)
            lit = self._illuminated_columns(sensor_shape, region)
            for number, (one, other, share) in enumerate(pairs):
                factor = (electrons * share[:, None]).astype(np.float32)
                seen = self._cached_image(one, other, sensor_shape)[part]
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
                total += float(share[0] * self._sum(one, other))
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
                row, column, e_per_s = self._hot_pixels(sensor_shape)
            row, column = row - region.top, column - region.left
            inside = (row >= 0) & (row < region.height) & (column >= 0) & (column < region.width)
            electrons[row[inside], column[inside]] += e_per_s[inside] * np.float32(exposure_s)

    def generator(self, shot: Shot, part: str) -> np.random.Generator:
        """Return the random generator of one part of one shot; it depends only on the address."""
        return _generator(self.options.seed, shot.address, part)

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
        electrons_per_pixel_j, ... covered : see `WorldOptions`

        and, with a sensor shape,

        camera_map : map of weight pixels to camera pixels, before distortion (`bend`); in the line
            layout, to the camera row of a weight row and the middle column of its spot
        hot_pixels : bool [h, w]
        spot_columns : first column of the spots in the line layout and the one after the last;
            fractions where pixels are cut
        """
        options = self.options
        found: dict[str, Any] = {
            "tables": {role: item.table.copy() for role, item in self.modulators.items()},
            "settle_times_s": {r: 10 * item.time_constant_s for r, item in self.modulators.items()},
            "input_map": self._input_map(),
            "gains": self._flat_field().copy(),
        }
        found |= {name: getattr(options, name) for name in _TRUTH_OPTIONS}
        if sensor_shape is not None:
            found["camera_map"] = self._camera_map(sensor_shape)
            found["hot_pixels"] = np.zeros(sensor_shape, dtype=bool)
            found["hot_pixels"][self._hot_pixels(sensor_shape)[:2]] = True
            left = self._spot_left(sensor_shape)
            found["spot_columns"] = (left, left + options.spot_px)
        return found

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
            frames = [_ShownFrame(-1, levels, 0.0) for levels in (inputs, weights)]
            planes = self._planes(*frames)
            if sensor_shape is None:
                return np.array([[np.vdot(planes[0], planes[1] * planes[2])]])
            if self.options.layout == "line":
                return self._spots(planes, sensor_shape)
            return self._image(planes, sensor_shape, None)

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
        options = self.options
        with self._lock:
            matrix = self._camera_map(sensor_shape)
            left = self._spot_left(sensor_shape)
        rows, columns = np.nonzero(owner >= 0)
        top, first, bottom, last = boxes[owner[rows, columns]].T
        y, x = (turn[0] * rows + turn[1] * columns + turn[2] for turn in matrix)
        share = np.zeros(owner.shape)
        if options.layout == "line":
            c, step = options.crosstalk, matrix[0, 0]
            seen = (1 - 2 * c) * _collected(y, top, bottom)
            seen += c * (_collected(y - step, top, bottom) + _collected(y + step, top, bottom))
            right = left + options.spot_px
            wide = np.minimum(last, right) - np.maximum(first, left)
            share[rows, columns] = seen * np.clip(wide / options.spot_px, 0, 1)
            return share
        if options.distortion:
            y, x = bend(y, x, sensor_shape, options.distortion)
        on_rows, on_columns = np.zeros(len(y)), np.zeros(len(x))
        for offset, tap in zip(*taps(options.blur_px), strict=True):
            on_rows += tap * _collected(y + offset, top, bottom)
            on_columns += tap * _collected(x + offset, first, last)
        share[rows, columns] = on_rows * on_columns
        return share

    # --- light -----------------------------------------------------------------------------------

    @property
    def _is_dark(self) -> bool:
        return self.options.light == "timing" or self.options.covered or self.power_w == 0

    def _pairs(
        self, starts_s: np.ndarray, exposure_s: float
    ) -> list[tuple[_ShownFrame, _ShownFrame, np.ndarray]]:
        """Return visible pairs of frames, with their weight in each row: float32 [rows]."""
        found: dict[tuple[int, int], tuple[_ShownFrame, _ShownFrame, np.ndarray]] = {}
        for row, start_s in enumerate(starts_s):
            for one, a in self.modulators["input"].frame_weights(start_s, exposure_s):
                for other, b in self.modulators["weight"].frame_weights(start_s, exposure_s):
                    new = (one, other, np.zeros(len(starts_s), dtype=np.float32))
                    found.setdefault((id(one), id(other)), new)[2][row] = a * b
        return list(found.values())

    def _light(self, role: str, frame: _ShownFrame) -> np.ndarray:
        """Return the transmission of a frame on the grid of weight pixels: float32 [h, w]."""
        if frame.light is None:
            modulator = self.modulators[role]
            space, modulator.spare = modulator.spare, None
            if space is not None and space.shape != modulator.shape:
                space = None
            light = look_up(frame.levels, modulator.table, space)
            if role == "input":
                light = warp(light, self._input_map(), self.modulators["weight"].shape)
            elif self.options.dead_rows:
                light[list(self.options.dead_rows)] = modulator.table.min()
            frame.light = light
        return frame.light

    def _planes(
        self, one: _ShownFrame, other: _ShownFrame
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return three planes whose product is the light of each weight pixel: float32 [h, w]."""
        planes = self._light("input", one), self._light("weight", other), self._flat_field()
        if not self.options.fringes:
            return planes
        if "fringes" not in self._maps:
            shape = self.modulators["weight"].shape
            self._maps["fringes"] = _fringes(_generator(self.options.seed, "fringes"), shape)
            self._maps["ones"] = np.ones(shape, dtype=np.float32)
        light = planes[0] * planes[1] * planes[2]
        ones = self._maps["ones"]
        return interfere(light, self._maps["fringes"], self.options.fringes), ones, ones

    def _sum(self, one: _ShownFrame, other: _ShownFrame) -> float:
        """Return the total light of a pair of frames, in pixels at full transmission."""
        key = one.number, other.number
        if key not in self._sums:
            x, w, even = self._planes(one, other)
            self._sums[key] = float(np.vdot(x, w * even))
            if len(self._sums) > _CACHED_SUMS:
                self._sums.popitem(last=False)
        return self._sums[key]

    def _cached_image(
        self, one: _ShownFrame, other: _ShownFrame, sensor_shape: tuple[int, int]
    ) -> np.ndarray:
        """Return the cached image of a pair of frames, in light of one pixel: float32 [h, w]."""
        key = sensor_shape, one.number, other.number
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        space = None
        if len(self._images) == _CACHED_IMAGES:
            _, space = self._images.popitem(last=False)
            if space.shape != sensor_shape:
                space = None
        planes = self._planes(one, other)
        if self.options.layout == "line":
            picture = self._spots(planes, sensor_shape)
        else:
            picture = self._image(planes, sensor_shape, space)
        self._images[key] = picture
        return picture

    def _image(
        self,
        planes: tuple[np.ndarray, np.ndarray, np.ndarray],
        sensor_shape: tuple[int, int],
        space: np.ndarray | None,
    ) -> np.ndarray:
        matrix, options = self._camera_map(sensor_shape), self.options
        if not options.blur_px:
            return image(*planes, matrix, sensor_shape, options.distortion, space)
        if self._sharp is None or self._sharp.shape != sensor_shape:
            self._sharp = np.empty(sensor_shape, dtype=np.float32)
        sharp = image(*planes, matrix, sensor_shape, options.distortion, self._sharp)
        return blur(sharp, options.blur_px, space)

    def _spots(
        self, planes: tuple[np.ndarray, np.ndarray, np.ndarray], sensor_shape: tuple[int, int]
    ) -> np.ndarray:
        """Return the image of row sums in the line layout; light beside the sensor is lost."""
        rows = np.einsum("hw,hw,hw->h", *planes, dtype=np.float32)
        c = self.options.crosstalk
        if c:
            padded = np.pad(rows, 1)
            rows = (1 - 2 * c) * rows + c * (padded[:-2] + padded[2:])
        height, width = sensor_shape
        matrix = self._camera_map(sensor_shape)
        y = matrix[0, 0] * np.arange(len(rows)) + matrix[0, 2]
        rows = np.where((y >= 0) & (y < height - 1), rows, 0)
        top = np.clip(np.floor(y).astype(int), 0, height - 2)
        column = np.zeros(height)
        for step, share in ((0, 1 - (y - top)), (1, y - top)):
            column += np.bincount(top + step, weights=rows * share, minlength=height)
        seen = np.zeros(sensor_shape, dtype=np.float32)
        edges = np.arange(width + 1) - self._spot_left(sensor_shape)
        lit = np.diff(np.clip(edges, 0, self.options.spot_px))  # fraction of each camera column
        (places,) = np.nonzero(lit)
        column = (column / self.options.spot_px)[:, None]
        seen[:, places] = column * lit[places]
        return seen

    def _spot_left(self, sensor_shape: tuple[int, int]) -> float:
        middle = (sensor_shape[1] - self.options.spot_px) // 2
        return middle + self.options.camera_registration.shift_px[1]

    def _illuminated_columns(self, sensor_shape: tuple[int, int], region: Region) -> slice:
        """Return the columns of a region that can be illuminated."""
        if self.options.layout != "line":
            return slice(None)
        left = int(np.floor(self._spot_left(sensor_shape))) - region.left
        return slice(max(left, 0), max(left + self.options.spot_px + 1, 0))

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

    # --- imperfections of the bench -------------------------------------------------------------

    def _response_curve(self, role: str, bit_depth: int) -> np.ndarray:
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

    def _flat_field(self) -> np.ndarray:
        """Return gain times illumination of each weight pixel: float32 [h, w]."""
        if self._cached_flat_field is None:
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
            self._cached_flat_field = np.clip(even, 0.05, None).astype(np.float32)
        return self._cached_flat_field

    def _input_map(self) -> np.ndarray:
        """Return the map of weight pixels to input pixels."""
        if "input" not in self._maps:
            one, other = (self.modulators[role].shape for role in ("input", "weight"))
            placed = self.options.input_registration
            forward = affine(placed.scale, placed.rotation_deg, placed.shift_px, one, other)
            self._maps["input"] = inverse(forward)
        return self._maps["input"]

    def _camera_map(self, sensor_shape: tuple[int, int]) -> np.ndarray:
        """Return the map of weight pixels to camera pixels, which leaves 2 % of the sensor free."""
        if sensor_shape not in self._maps:
            shape, placed = self.modulators["weight"].shape, self.options.camera_registration
            tall, wide = sensor_shape[0] / shape[0], sensor_shape[1] / shape[1]
            if self.options.layout == "line":  # a rotation only reduces the row pitch
                scale = 0.98 * tall * placed.scale * np.cos(np.deg2rad(placed.rotation_deg))
                top = (sensor_shape[0] - 1) / 2 + placed.shift_px[0] - scale * (shape[0] - 1) / 2
                middle = self._spot_left(sensor_shape) + (self.options.spot_px - 1) / 2
                matrix = np.array([[scale, 0, top], [0, 0, middle]])
            else:
                scale = 0.98 * min(tall, wide) * placed.scale
                matrix = affine(scale, placed.rotation_deg, placed.shift_px, shape, sensor_shape)
            self._maps[sensor_shape] = matrix
        return self._maps[sensor_shape]

    def _hot_pixels(self, sensor_shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Return rows, columns and dark electrons per second of hot pixels: [n]."""
        if sensor_shape not in self._hot:
            chance = _generator(self.options.seed, "hot", *sensor_shape)
            row, column = np.nonzero(chance.random(sensor_shape) < self.options.hot_pixels)
            low, high = np.log(_HOT_E_PER_S)
            powers = chance.uniform(low, high, len(row))
            self._hot[sensor_shape] = row, column, np.exp(powers).astype(np.float32)
        return self._hot[sensor_shape]


def _collected(place: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the fraction of light at positions that pixels from `first` to `last` - 1 collect.

    The light falls on the two pixels around a position, with linear weights.
    """
    return np.asarray(np.clip(place - first + 1, 0, 1) - np.clip(place - last + 1, 0, 1))


def _fringes(chance: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return the cosine of the phase between neighbours: float32 [h, w].

    The phase oscillates by one radian around 0 or pi, with 1 to 3 periods across each side.
    Neighbours are nearly in phase, as behind one lens, so that neither a sum over a row nor a sum
    over all pixels averages it out.
    """
    waves, starts = chance.uniform(1, 3, 2), 2 * np.pi * chance.random(2)
    angles = (2 * np.pi * n * np.linspace(0, 1, size) for n, size in zip(waves, shape, strict=True))
    y, x = (np.sin(angle + start) for angle, start in zip(angles, starts, strict=True))
    cosine = np.cos((y[:, None] + x) / 2)
    return (cosine if chance.random() < 0.5 else -cosine).astype(np.float32)


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


def _generator(*parts: object) -> np.random.Generator:
    seed = int.from_bytes(digest(*parts)[:16], "little")
    return np.random.Generator(np.random.SFC64(seed))
