"""`LightPath`: the world of a simulated bench; what its modulators show is what its detectors see.

    source -> input modulator -> weight modulator -> [sum over a row | over all] -> detector

All of it is in photoelectrons per weight-modulator pixel. Hidden here are the grey-level curves,
registration, uneven light, gains, blur and drift of the bench, functions of its `seed`; every draw
is a function of (seed, shot, part), never of a sequential stream, so that runs repeat and resume.
Calibration must find them from light alone; `truth` is for benches whose file says
`calibration = "ground-truth"`, and for tests.
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
_NEGLIGIBLE = 1e-4  # share of a frame's light that is left out: a tenth of an 8-bit step
_SETTLED = 9.3  # time constants after which less than that is left of all earlier frames
_FRAMES = 6  # that may still be settling
_PICTURES, _SUMS = 2, 64  # of pairs of frames that are kept: an exposure of one pair costs little
_HOT_E_PER_S = (1e3, 1e5)  # dark electrons of hot pixels


_OTHER = {"input": "weight", "weight": "input"}
_TOLD = (  # options of the world that are themselves what calibration is to find
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
    """How one plane lies on the next: about the centre, in pixels of the plane that is hit."""

    scale: float = Field(default=1.0, gt=0)
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)


class WorldOptions(TomlTable):
    """What a simulated bench is like; the table `[world]` of a bench file.

    Parameters
    ----------
    layout : "imaged", "line" or "single-pixel"
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
    settling : the modulators really settle so many times more slowly than they say
    spot_px : width of a spot in camera columns (line layout)
    distortion : of the image on the camera (imaged layout): a place moves by distortion * r^2 * its
        offset from the centre of the sensor, r = 1 in the corners
    hot_pixels : share of camera pixels with 1e3 to 1e5 dark electrons per second, source on or off
    dead_rows : of weight pixels, which stay at their darkest level whatever is shown
    fringes : share of each weight pixel's light that interferes with its right neighbour's, so that
        powers do not add; a stand-in for a coherent bench, which calibration has to refuse
    swapped : each modulator shows the other's frames, as with exchanged video cables
    covered : no light reaches the detector
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
    """What the world knows of one modulator.

    Parameters
    ----------
    table : light that each grey level passes, float32 [levels]
    time_constant_s : of its exponential approach to a new frame
    frames : the latest, with the time from which each is approached
    flips : frames that were shown, but for those in `coming`
    coming : when later frames flip
    """

    shape: tuple[int, int]
    table: np.ndarray
    time_constant_s: float
    frames: deque[_ShownFrame] = field(default_factory=lambda: deque(maxlen=_FRAMES))
    flips: int = 0
    coming: deque[float] = field(default_factory=deque)
    spare: np.ndarray | None = None  # memory of a frame that nobody sees any more

    def flips_until(self, now_s: float) -> int:
        """Count the frames that have flipped, as pulses of its synchronisation output do."""
        while self.coming and self.coming[0] <= now_s:
            self.coming.popleft()
            self.flips += 1
        return self.flips

    def shares(self, start_s: float, exposure_s: float) -> list[tuple[_ShownFrame, float]]:
        """Return the frames that are seen from a moment on, each with its share of the light.

        The state s follows ds/dt = (frame - s) / time_constant; averaged over the exposure.
        """
        frames = list(self.frames)
        ends_s = start_s + exposure_s
        tau = max(self.time_constant_s, 1e-12)
        if start_s - frames[-1].from_s > _SETTLED * tau:
            return [(frames[-1], 1.0)]  # what is left of the others would be left out below
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
        self._hot: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
        self._numbers = count()
        self._pictures: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._sums: OrderedDict[Any, float] = OrderedDict()
        self._sharp: np.ndarray | None = None
        self._drift: tuple[np.ndarray, np.ndarray] | None = None

    # --- what instruments do ---------------------------------------------------------------------

    def add_modulator(
        self, role: str, shape: tuple[int, int], bit_depth: int, settle_time_s: float
    ) -> None:
        """Put a modulator into the path ("input" or "weight"), dark; it settles to 5e-5.

        Raises
        ------
        InputError : where the world has something in mind that this modulator cannot do
        """
        with self._lock:
            self._check(role, shape, bit_depth)
            table = self._curve(role, bit_depth)
            modulator = Modulator(shape, table, settle_time_s / 10 * self.options.settling)
            dark = np.zeros(shape, dtype=np.uint8 if bit_depth <= 8 else np.uint16)
            modulator.frames.append(_ShownFrame(next(self._numbers), dark, float("-inf")))
            self.modulators[role] = modulator
            self._even = None
            for kept in (self._maps, self._pictures, self._sums):
                kept.clear()

    def move_input(self, input_map: np.ndarray) -> None:
        """Put the input modulator elsewhere, as an operator does who turns its screws.

        Parameters
        ----------
        input_map : weight pixel -> input pixel, [2, 3]; the present one is in `truth`
        """
        with self._lock:
            self._maps["input"] = np.array(input_map, dtype=float)
            for modulator in self.modulators.values():
                for frame in modulator.frames:
                    frame.light = None
            self.forget()

    def forget(self) -> None:
        """Forget the pictures of earlier exposures, which new processes lack: only time is lost."""
        with self._lock:
            self._pictures.clear()
            self._sums.clear()

    def _check(self, role: str, shape: tuple[int, int], bit_depth: int) -> None:
        beyond = [row for row in self.options.dead_rows if row >= shape[0]]
        if role == "weight" and beyond:
            raise InputError(
                f"world.dead_rows = {beyond}: the weight modulator has rows 0 to {shape[0] - 1}; "
                "leave out the others"
            )
        other = self.modulators.get(_OTHER.get(role, ""))
        if not self.options.swapped or other is None:
            return
        if (other.shape, len(other.table)) != (shape, 1 << bit_depth):
            raise InputError(
                f"world.swapped needs two modulators alike, not {shape} pixels of "
                f"{1 << bit_depth} levels and {other.shape} of {len(other.table)}; "
                "give both the same device and bit_depth, or leave swapped out"
            )

    def show(self, role: str, levels: np.ndarray, from_s: float) -> None:
        """Let a modulator approach a new frame from a moment on."""
        with self._lock:
            if self.options.swapped:
                role = _OTHER[role]
                if role not in self.modulators:
                    return  # the cable ends at nothing
            modulator = self.modulators[role]
            from_s = max(from_s, modulator.frames[-1].from_s)  # frames do not overtake each other
            if modulator.frames[-1].from_s == from_s:
                modulator.frames.pop()  # nobody sees the one that it replaces
            if len(modulator.frames) == _FRAMES and modulator.frames[0].light is not None:
                modulator.spare = modulator.frames[0].light
            modulator.frames.append(_ShownFrame(next(self._numbers), levels.copy(), from_s))
            modulator.coming.append(from_s)

    def flips(self, role: str, now_s: float) -> int:
        """Count the frames that a modulator has flipped to until now."""
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
        row_time_s : a rolling shutter begins each row so much later; 0 for a global one
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
            lit = self._lit_columns(sensor_shape, region)
            for number, (one, other, share) in enumerate(pairs):
                factor = (electrons * share[:, None]).astype(np.float32)
                seen = self._picture(one, other, sensor_shape)[part]
                _scale(seen[:, lit], factor, number > 0, out[:, lit])
            if self.options.stray_e_per_s:
                out += np.float32(self.options.stray_e_per_s * exposure_s)
            return out

    def on_photodiode(self, start_s: float, exposure_s: float, shot: Shot) -> float:
        """Return the mean photoelectrons of a bucket detector that sees all the light."""
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
        """Add the mean dark electrons of hot pixels to those of a region, float32 [h, w]."""
        if self.options.hot_pixels:
            with self._lock:
                row, column, e_per_s = self._hot_pixels(sensor_shape)
            row, column = row - region.top, column - region.left
            inside = (row >= 0) & (row < region.height) & (column >= 0) & (column < region.width)
            electrons[row[inside], column[inside]] += e_per_s[inside] * np.float32(exposure_s)

    def generator(self, shot: Shot, part: str) -> np.random.Generator:
        """Return the random numbers of one part of one shot: the same for the same address."""
        return _generator(self.options.seed, shot.address, part)

    def next_shot(self) -> Shot:
        """Name a shot that nobody named."""
        with self._lock:
            self.exposures += 1
            return Shot(f"unnamed/{self.exposures}", self.exposures)

    # --- the ground truth, for benches and tests that ask for it ----------------------------------

    def truth(self, sensor_shape: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return what calibration is to find; the camera's trigger latency is among its options.

        Returns
        -------
        tables : light of each grey level, by role
        settle_times_s : until a frame is 5e-5 away, by role
        input_map : weight pixel -> input pixel
        gains : of each weight pixel, float32 [h, w]
        electrons_per_pixel_j, ... covered : see `WorldOptions`

        and with a sensor's shape

        camera_map : weight pixel -> camera pixel, before distortion (`bend`); of a line the row of
            a weight row and the middle column of its spot
        hot_pixels : bool [h, w]
        spot_columns : first column of a line's spots, and the one after the last, maybe cut pixels
        """
        options = self.options
        found: dict[str, Any] = {
            "tables": {role: item.table.copy() for role, item in self.modulators.items()},
            "settle_times_s": {r: 10 * item.time_constant_s for r, item in self.modulators.items()},
            "input_map": self._input_map(),
            "gains": self._evenness().copy(),
        }
        found |= {name: getattr(options, name) for name in _TOLD}
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
        """Return the light of two settled frames, without noise, in pixels at full transmission.

        Parameters
        ----------
        inputs, weights : grey levels of the two modulators
        sensor_shape : of the camera; None for a photodiode

        Returns
        -------
        float32 [height, width] of the camera, [1, 1] of a photodiode
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
        """Return the share of each weight pixel's light that arrives in its own box on the camera.

        Parameters
        ----------
        boxes : top, left, bottom, right in camera pixels, int [n, 4]
        owner : number of the box of each weight pixel, -1 for none, int [h, w]

        Returns
        -------
        float64 [h, w], 0 where there is no box
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
            seen = (1 - 2 * c) * _caught(y, top, bottom)
            seen += c * (_caught(y - step, top, bottom) + _caught(y + step, top, bottom))
            right = left + options.spot_px
            wide = np.minimum(last, right) - np.maximum(first, left)
            share[rows, columns] = seen * np.clip(wide / options.spot_px, 0, 1)
            return share
        if options.distortion:
            y, x = bend(y, x, sensor_shape, options.distortion)
        on_rows, on_columns = np.zeros(len(y)), np.zeros(len(x))
        for offset, tap in zip(*taps(options.blur_px), strict=True):
            on_rows += tap * _caught(y + offset, top, bottom)
            on_columns += tap * _caught(x + offset, first, last)
        share[rows, columns] = on_rows * on_columns
        return share

    # --- light -----------------------------------------------------------------------------------

    @property
    def _is_dark(self) -> bool:
        return self.options.light == "timing" or self.options.covered or self.power_w == 0

    def _pairs(
        self, starts_s: np.ndarray, exposure_s: float
    ) -> list[tuple[_ShownFrame, _ShownFrame, np.ndarray]]:
        """Return pairs of frames that are seen, with their share in each row: float32 [rows]."""
        found: dict[tuple[int, int], tuple[_ShownFrame, _ShownFrame, np.ndarray]] = {}
        for row, start_s in enumerate(starts_s):
            for one, a in self.modulators["input"].shares(start_s, exposure_s):
                for other, b in self.modulators["weight"].shares(start_s, exposure_s):
                    new = (one, other, np.zeros(len(starts_s), dtype=np.float32))
                    found.setdefault((id(one), id(other)), new)[2][row] = a * b
        return list(found.values())

    def _light(self, role: str, frame: _ShownFrame) -> np.ndarray:
        """Return what a frame passes, on the grid of the weight modulator: float32 [h, w]."""
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
        planes = self._light("input", one), self._light("weight", other), self._evenness()
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
        """Return all light of a pair of frames, in pixels at full transmission."""
        key = one.number, other.number
        if key not in self._sums:
            x, w, even = self._planes(one, other)
            self._sums[key] = float(np.vdot(x, w * even))
            if len(self._sums) > _SUMS:
                self._sums.popitem(last=False)
        return self._sums[key]

    def _picture(
        self, one: _ShownFrame, other: _ShownFrame, sensor_shape: tuple[int, int]
    ) -> np.ndarray:
        """Return image of a pair of frames, in light of one pixel: float32 [h, w], to be kept."""
        key = sensor_shape, one.number, other.number
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key]
        space = None
        if len(self._pictures) == _PICTURES:
            _, space = self._pictures.popitem(last=False)
            if space.shape != sensor_shape:
                space = None
        planes = self._planes(one, other)
        if self.options.layout == "line":
            picture = self._spots(planes, sensor_shape)
        else:
            picture = self._image(planes, sensor_shape, space)
        self._pictures[key] = picture
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
        """Sum each row onto its spot; what falls beside the sensor is lost."""
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
        lit = np.diff(np.clip(edges, 0, self.options.spot_px))  # share of each camera column
        (places,) = np.nonzero(lit)
        column = (column / self.options.spot_px)[:, None]
        seen[:, places] = column * lit[places]
        return seen

    def _spot_left(self, sensor_shape: tuple[int, int]) -> float:
        middle = (sensor_shape[1] - self.options.spot_px) // 2
        return middle + self.options.camera_registration.shift_px[1]

    def _lit_columns(self, sensor_shape: tuple[int, int], region: Region) -> slice:
        """Return the columns of a region outside which a picture is dark for certain."""
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
        """Return gain times illumination of each weight pixel: float32 [h, w]."""
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
            shape, lies = self.modulators["weight"].shape, self.options.camera_registration
            tall, wide = sensor_shape[0] / shape[0], sensor_shape[1] / shape[1]
            if self.options.layout == "line":  # a rotation only moves the rows closer together
                scale = 0.98 * tall * lies.scale * np.cos(np.deg2rad(lies.rotation_deg))
                top = (sensor_shape[0] - 1) / 2 + lies.shift_px[0] - scale * (shape[0] - 1) / 2
                middle = self._spot_left(sensor_shape) + (self.options.spot_px - 1) / 2
                matrix = np.array([[scale, 0, top], [0, 0, middle]])
            else:
                scale = 0.98 * min(tall, wide) * lies.scale
                matrix = affine(scale, lies.rotation_deg, lies.shift_px, shape, sensor_shape)
            self._maps[sensor_shape] = matrix
        return self._maps[sensor_shape]

    def _hot_pixels(self, sensor_shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Return rows and columns of hot pixels, and their dark electrons per second: [n]."""
        if sensor_shape not in self._hot:
            chance = _generator(self.options.seed, "hot", *sensor_shape)
            row, column = np.nonzero(chance.random(sensor_shape) < self.options.hot_pixels)
            low, high = np.log(_HOT_E_PER_S)
            powers = chance.uniform(low, high, len(row))
            self._hot[sensor_shape] = row, column, np.exp(powers).astype(np.float32)
        return self._hot[sensor_shape]


def _caught(place: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the share of light at places that pixels from `first` up to `last` catch.

    It falls on the two pixels around a place, in proportion.
    """
    return np.asarray(np.clip(place - first + 1, 0, 1) - np.clip(place - last + 1, 0, 1))


def _fringes(chance: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return the cosine of the phase between neighbours: float32 [h, w].

    The phase swings by one radian round 0 or pi, in 1 to 3 waves across each side: neighbours are
    nearly in step, as behind one lens, so that no sum over a row or over all averages it away.
    """
    waves, starts = chance.uniform(1, 3, 2), 2 * np.pi * chance.random(2)
    angles = (2 * np.pi * n * np.linspace(0, 1, size) for n, size in zip(waves, shape, strict=True))
    y, x = (np.sin(angle + start) for angle, start in zip(angles, starts, strict=True))
    cosine = np.cos((y[:, None] + x) / 2)
    return (cosine if chance.random() < 0.5 else -cosine).astype(np.float32)


def _scale(picture: np.ndarray, factor: np.ndarray, adds: bool, out: np.ndarray) -> None:
    """Put picture [h, w] times a factor [1 or h, 1] into `out`, or add it."""

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
