"""`align`: how the modulators lie on each other and on the camera, found by light alone.

Imaged benches show bright squares and find them in the camera's image. A line bench erases one
axis and a block bench both: there the input modulator shows stripes, and the phase of a small
patch's light says where it lies (`stripes`). Not here: grey levels, gains, and how light adds
(`calibrate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...instruments import BadFit, SpatialLightModulator, WrongLight
from ..bench import maps
from ..bench.bench import Bench
from ..bench.calibration import Calibration, Figure, Plot, Step, path_of
from . import fiducials, stripes
from .probe import Probe
from .steady import Tell, Watch, check_answers

_BAD_PX = 0.5  # of a fit's residual, from which on it is nonsense
_LEAST_KEPT = 0.6  # of the points that should be seen
_WORTH_SAYING = 0.03  # share of points that are missing
_EDGE_PX = 3  # of the camera, that no window may touch
_PLACES = ((0.5, 0.5), (0.3, 0.28), (0.27, 0.7), (0.7, 0.32), (0.73, 0.74), (0.5, 0.2), (0.42, 0.6))
_LINE_PLACES = (0.5, 0.3, 0.72, 0.4, 0.62)
_PATCHES, _COARSE_PATCHES = 200, 40  # in all, and of those that see all periods of stripes
_SHARPER = 0.7  # width of a band of input rows over that of weight rows: they are swapped
_STRAIN = 0.4  # of two periods of stripes, in parts of the finer, from which on one is wrong
_REPEATS = 5  # of stripes that contradict each other
_UNEVEN = 0.05  # contradiction of stripes and their complements, from which on light has changed
_SHIFT_PX, _TURN_DEG, _MAGNIFY = 1.0, 0.05, 2e-3  # what is worth a turn of a screw


@dataclass(frozen=True)
class Fitted:
    """A map with the points it comes from.

    Parameters
    ----------
    fit : see `maps.fit`
    here, there : points of both planes that were found, float64 [n, 2]
    shown : all points that were shown, float64 [m, 2]
    number : which of them each point found is, int [n]
    noise_px : of one coordinate of a point, from its repeats or its signal
    margin_px : free space that a point needs on the other plane
    bad_px : residual from which on the fit is nonsense
    blur_px : of a point on the camera, where known
    """

    fit: maps.Fit
    here: np.ndarray
    there: np.ndarray
    shown: np.ndarray
    number: np.ndarray
    noise_px: float
    margin_px: tuple[float, float] = (0.0, 0.0)
    blur_px: float = 0.0
    bad_px: float = _BAD_PX

    @property
    def matrix(self) -> np.ndarray:
        """Give the map."""
        return self.fit.matrix

    @property
    def found(self) -> np.ndarray:
        """Say which of the points shown fit: bool [m]."""
        found = np.zeros(len(self.shown), dtype=bool)
        found[self.number[self.fit.kept]] = True
        return found

    @property
    def residuals_px(self) -> np.ndarray:
        """Give how far each point lies off the map, float64 [n, 2]."""
        return self.there - maps.apply(self.matrix, self.here)


# --- imaged: squares ------------------------------------------------------------------------------


@dataclass
class _Squares:
    """Looks for squares of one modulator in the camera's image while the other is bright."""

    watch: Watch
    exposure_s: float
    role: str
    blank: np.ndarray = field(init=False)
    noise: float = field(init=False)

    def __post_init__(self) -> None:
        probe = self.watch.probe
        self._other_bright()
        probe.blank(self.role)
        one, other = self.watch.take(self.exposure_s)
        self.blank = (one + other) / 2
        self.noise = _noise(one, other)

    @property
    def shape(self) -> tuple[int, int]:
        """Give the modulator's shape."""
        return _modulator(self.watch.probe.bench, self.role).shape

    def coarse(self) -> tuple[np.ndarray, float]:
        """Find squares one at a time: the rough map, and the blur in camera pixels."""
        side = max(self.shape[0] // 18, 4)
        self._other_bright()
        corners = [np.rint(np.multiply(share, self.shape) - side / 2) for share in _PLACES]
        here, there, spreads, reasons = [], [], [], []
        for number, corner in enumerate(np.array(corners, dtype=int)):
            self.watch.say(f"looking for squares of the {self.role} modulator")
            drawn = fiducials.rectangles(self.shape, corner[None], (side, side))
            self.watch.probe.draw(self.role, drawn)
            image = self.watch.probe.take(self.exposure_s).counts - self.blank
            what = f"square {number + 1} of {len(corners)} on the {self.role} modulator"
            try:
                place, size = fiducials.spot(image, what)
            except WrongLight as error:
                reasons.append(str(error))
                continue
            reach = 0.8 * np.sqrt(size) + 4
            found = fiducials.centroids(image, place[None], (reach, reach), self.noise)
            if found.seen[0]:
                here.append(corner + (side - 1) / 2)
                there.append(found.there[0])
                spreads.append(found.spread_px[0])
        if len(here) < 4:
            raise WrongLight(
                f"{len(here)} of {len(corners)} squares of the {self.role} modulator are seen, and "
                "4 are needed: something covers a part of it or of the beam "
                f"({reasons[0] if reasons else 'they lie at the edge of the sensor'})"
            )
        matrix, off = fiducials.consensus(np.array(here), np.array(there))
        wrong = off > max(0.35 * side * _scale(matrix), 2.0)
        if (~wrong).sum() < 4:
            raise WrongLight(
                f"the squares of the {self.role} modulator do not lie as they were shown (off by "
                f"{np.median(off):.3g} camera pixels in the median): see that its frames are the "
                "ones on the device, and that nothing bends or blocks the beam"
            )
        self.watch.drop(int(wrong.sum()))
        spread = np.array(spreads)[~wrong]
        blur = np.sqrt(max(np.median(spread**2) - (side * _scale(matrix)) ** 2 / 12, 0.0))
        return matrix, float(blur)

    def dense(self, matrix: np.ndarray, blur_px: float) -> Fitted:
        """Show many squares in one frame, and fit the map."""
        scale = _scale(matrix)
        pitch = int(np.clip(self.shape[0] // 18, 12, 64))
        pitch = int(max(pitch, np.ceil(4 / 3 * (8 * blur_px + 3) / scale)))
        side = max(pitch // 4, 3)
        corners, here = fiducials.grid(self.shape, (pitch, pitch), (side, side))
        self.watch.say(f"finding {len(here)} squares of the {self.role} modulator")
        self.watch.probe.draw(self.role, fiducials.rectangles(self.shape, corners, (side, side)))
        takes = [image - self.blank for image in self.watch.take(self.exposure_s)]
        reach = max(pitch * scale / 2 - 1, 2.0)
        fitted = self.locate(takes, here, side, reach, matrix)
        return replace(fitted, blur_px=blur_px)

    def glance(self, matrix: np.ndarray, blur_px: float) -> Fitted:
        """Find a few squares again, in one exposure, near where they lay."""
        pitch = max(min(self.shape) // 5, 12)
        side = max(pitch // 6, 3)
        corners, here = fiducials.grid(self.shape, (pitch, pitch), (side, side))
        self._other_bright()
        self.watch.probe.draw(self.role, fiducials.rectangles(self.shape, corners, (side, side)))
        image = self.watch.probe.take(self.exposure_s).counts - self.blank
        reach = max(pitch * _scale(matrix) / 2 - 1, 2.0)
        fitted = self.locate([image], here, side, reach, matrix)
        return replace(fitted, blur_px=blur_px)

    def _other_bright(self) -> None:
        self.watch.probe.fill("weight" if self.role == "input" else "input")

    def locate(
        self, takes: list[np.ndarray], here: np.ndarray, side: int, reach: float, matrix: np.ndarray
    ) -> Fitted:
        """Find squares at their predicted places in images, and fit the map."""
        image = np.mean(takes, axis=0)
        window = (reach, reach)
        for _ in range(3):
            found = fiducials.centroids(image, maps.apply(matrix, here), window, self.noise)
            if found.seen.sum() < 6:
                raise WrongLight(
                    f"{int(found.seen.sum())} of {len(here)} squares of the {self.role} modulator "
                    "are seen: see that nothing stands in the beam and that all is in focus"
                )
            relative, slopes = fiducials.field(here[found.seen], found.light[found.seen])
            whole = fiducials.whole(relative)
            used = np.flatnonzero(found.seen)[whole]
            true = here[used] + slopes[whole] * side**2 / 12
            fit = _fit(true, found.there[used], self.role)
            matrix = fit.matrix
        each = [
            fiducials.centroids(take, maps.apply(matrix, here[used]), window, self.noise).there
            for take in takes
        ]
        noise = 0.0
        if len(each) == 2:
            noise = float(np.sqrt(np.nanmedian(((each[0] - each[1]) / 2) ** 2) / 0.455))
        return Fitted(fit, true, found.there[used], here, used, noise, (reach + 1, reach + 1))


def _fit(here: np.ndarray, there: np.ndarray, role: str) -> maps.Fit:
    try:
        return maps.fit(here, there)
    except ValueError as error:
        raise WrongLight(f"the {role} modulator's points give no map: {error}") from None


def _noise(one: np.ndarray, other: np.ndarray) -> float:
    off = one - other
    return 1.4826 * float(np.median(np.abs(off - np.median(off)))) / np.sqrt(2) + 1e-9


def _modulator(bench: Bench, role: str) -> SpatialLightModulator:
    return bench.input if role == "input" else bench.weight


def _scale(matrix: np.ndarray) -> float:
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _inverse(matrix: np.ndarray) -> np.ndarray:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


@dataclass(frozen=True)
class _Maps:
    """What light told.

    Parameters
    ----------
    input_map, camera_map, spot_px : see `Alignment`
    parts : fits by name
    input_px : uncertainty of the input map, in input pixels
    """

    input_map: np.ndarray
    camera_map: np.ndarray | None
    spot_px: float | None
    parts: dict[str, Fitted]
    input_px: float


def _imaged(watch: Watch, exposure_s: float) -> _Maps:
    found = {}
    for role in ("weight", "input"):
        squares = _Squares(watch, exposure_s, role)
        found[role] = squares.dense(*squares.coarse())
    return _composed(found)


def _composed(found: dict[str, Fitted]) -> _Maps:
    """Give the map between modulators that both have seen on one camera."""
    weight, inputs = found["weight"], found["input"]
    points = weight.here[weight.fit.kept]
    on_camera = maps.apply(weight.matrix, points)
    if weight.matrix.shape[1] == inputs.matrix.shape[1] == 3:
        input_map = maps.together(weight.matrix, _inverse(inputs.matrix), points)
    else:  # what the camera's lens bends, it bends alike for both
        input_map = _fit(points, maps.back(inputs.matrix, on_camera), "input").matrix
    px = np.hypot(weight.fit.uncertainty_px, inputs.fit.uncertainty_px) / _scale(inputs.matrix)
    return _Maps(input_map, weight.matrix, None, found, float(px))


# --- line and block: stripes ----------------------------------------------------------------------


@dataclass
class _Rows:
    """Looks for rows of the weight modulator in the camera's rows (line layout)."""

    watch: Watch
    exposure_s: float
    bright: np.ndarray
    columns: slice = field(init=False)
    middle: float = field(init=False)
    spot_px: float = field(init=False)

    def __post_init__(self) -> None:
        profile = self.bright.mean(axis=0)
        profile = profile - np.median(profile)
        lit = np.flatnonzero(profile > 0.1 * profile.max())
        left, right = int(lit[0]), int(lit[-1]) + 1
        if right - left > max(0.25 * len(profile), 8):
            raise WrongLight(
                f"light falls on camera columns {left} to {right - 1}, and the spots of a line "
                "bench are a few columns wide: see that the lens sums along rows, and that no "
                "other light falls on the camera"
            )
        places = np.arange(left, right)
        self.middle = float(profile[places] @ places / profile[places].sum())
        self.spot_px = float(right - left)
        reach = 1
        self.columns = slice(max(left - reach, 0), min(right + reach, len(profile)))

    def sums(self, image: np.ndarray) -> np.ndarray:
        """Sum the spots' columns: float64 [h, 1]."""
        return image[:, self.columns].sum(axis=1, keepdims=True)

    def find(self) -> Fitted:
        """Light single bands of rows, then many; fit camera row from weight row."""
        probe, shape = self.watch.probe, self.watch.probe.bench.weight.shape
        probe.fill("input")
        probe.blank("weight")
        one, other = (self.sums(image) for image in self.watch.take(self.exposure_s))
        blank, noise = (one + other) / 2, _noise(one, other)
        side = max(shape[0] // 36, 2)
        here, there = [], []
        reason = "they lie at the edge of the sensor"
        for share in _LINE_PLACES:
            top = round(share * shape[0] - side / 2)
            self.watch.say("looking for rows of the weight modulator")
            probe.draw("weight", _band(shape, np.array([top]), side))
            seen = self.sums(probe.take(self.exposure_s).counts) - blank
            try:
                place, _ = fiducials.spot(seen, f"a band of rows of the weight modulator at {top}")
            except WrongLight as error:
                reason = str(error)
                continue
            here.append(top + (side - 1) / 2)
            there.append(place[0])
        if len(here) < 3:
            raise WrongLight(
                f"{len(here)} of {len(_LINE_PLACES)} bands of rows of the weight modulator are "
                f"seen, and 3 are needed: something covers a part of it or of the beam ({reason})"
            )
        self._check_swapped(blank)
        slope = _line_consensus(np.array(here), np.array(there))
        wrong = np.abs(np.polyval(slope, here) - there) > max(side * abs(slope[0]), 3)
        self.watch.drop(int(wrong.sum()))
        if (~wrong).sum() < 3:
            raise WrongLight(
                "rows of the weight modulator are not seen where they were shown: see that its "
                "frames are the ones on the device, and that rows are imaged on camera rows"
            )
        self._blank, self._noise = blank, noise
        return self._dense(slope, 2)

    def _check_swapped(self, blank: np.ndarray) -> None:
        """See whose rows are the camera's rows: those of the weight modulator should be."""
        probe = self.watch.probe
        widths = {}
        for role, other in (("weight", "input"), ("input", "weight")):
            shape = _modulator(probe.bench, role).shape
            probe.fill(other)
            probe.draw(role, _band(shape, np.array([shape[0] // 2]), 3))
            seen = self.sums(probe.take(self.exposure_s).counts) - blank
            light = np.maximum(seen[:, 0] - 0.2 * seen.max(), 0)
            rows = np.arange(len(light))
            middle = light @ rows / light.sum()
            widths[role] = float(np.sqrt(light @ (rows - middle) ** 2 / light.sum()))
        probe.fill("input")
        if widths["input"] < _SHARPER * widths["weight"]:
            raise WrongLight(
                "the modulators are swapped: rows of the input modulator are seen as camera rows, "
                "and those of the weight modulator are smeared; swap their tables in the bench "
                "file, or their cables"
            )

    def _one(self) -> list[np.ndarray]:
        return [self.watch.probe.take(self.exposure_s).counts]

    def glance(self, before: Fitted) -> Fitted:
        """Find rows again, in one exposure, near where they lay."""
        self.watch.probe.fill("input")
        return self._dense(before.matrix[0, [0, 2]], 1)

    def _dense(self, slope: np.ndarray, count: int) -> Fitted:
        shape, blank, noise = self.watch.probe.bench.weight.shape, self._blank, self._noise
        pitch = max(shape[0] // 36, 6)
        side = max(pitch // 4, 1)
        corners, here = fiducials.grid((shape[0], 1), (pitch, 1), (side, 1))
        self.watch.probe.draw("weight", _band(shape, corners[:, 0], side))
        images = self.watch.take(self.exposure_s) if count == 2 else self._one()
        takes = [self.sums(image) - blank for image in images]
        reach = max(pitch * abs(slope[0]) / 2 - 1, 2.0)
        size = (len(blank), 1)
        for _ in range(3):
            predicted = np.column_stack([np.polyval(slope, here[:, 0]), 0 * here[:, 0]])
            inside = _inside(predicted, size, (reach + _EDGE_PX, 0))
            found = [fiducials.centroids(take, predicted, (reach, 0), noise) for take in takes]
            seen = np.logical_and.reduce([each.seen for each in found]) & inside
            if seen.sum() < 4:
                raise WrongLight(
                    f"{int(seen.sum())} of {len(here)} bands of rows of the weight modulator are "
                    "seen: see that nothing stands in the beam and that all is in focus"
                )
            there = np.mean([each.there[seen] for each in found], axis=0)
            slope, kept, residual = _line_fit(here[seen, 0], there[:, 0])
        matrix = np.array([[slope[0], 0.0, slope[1]], [0.0, 0.0, self.middle]])
        there = np.column_stack([there[:, 0], np.full(len(there), self.middle)])
        off = (found[0].there - found[-1].there)[seen, 0] / 2
        fit = maps.Fit(matrix, residual, float(residual * np.sqrt(2 / kept.sum())), kept)
        noise_px = float(np.sqrt(np.mean(off**2)))
        number = np.flatnonzero(seen)
        return Fitted(fit, here[seen], there, here, number, noise_px, (reach + _EDGE_PX, 0.0))


def _band(shape: tuple[int, int], tops: np.ndarray, side: int) -> np.ndarray:
    corners = np.column_stack([tops, 0 * tops])
    return fiducials.rectangles(shape, corners, (side, shape[1]))


def _line_consensus(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Fit slope and offset to few points of which one may be wrong: Theil's medians."""
    first, second = np.triu_indices(len(here), 1)
    slope = np.median((there[second] - there[first]) / (here[second] - here[first]))
    return np.array([slope, np.median(there - slope * here)])


def _line_fit(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit slope and offset, leaving out what lies far off: also kept, and the residual."""
    kept = np.ones(len(here), dtype=bool)
    for _ in range(6):
        slope = np.polyfit(here[kept], there[kept], 1)
        off = np.abs(there - np.polyval(slope, here))
        now = off <= 5 * 1.4826 * np.median(off[kept]) + 1e-6
        if now.sum() < max(3, len(here) // 2) or np.array_equal(now, kept):
            break
        kept = now
    residual = float(np.sqrt((off[kept] ** 2).sum() / max(kept.sum() - 2, 1)))
    return slope, kept, residual


@dataclass
class _Patches:
    """Reads the light of patches of weights while the input shows stripes.

    Parameters
    ----------
    sets : corners of the patches of each weight frame, int [n, 2] each
    side : of a patch
    sum : the light of each patch of a set, float64 [n], from an image
    """

    watch: Watch
    exposure_s: float
    sets: list[np.ndarray]
    side: int
    sum: Callable[[np.ndarray, np.ndarray], np.ndarray]
    takes: int = 1
    darks: dict[stripes.Pattern, np.ndarray] | None = None  # kept where a glance is enough

    def expose(self) -> None:
        """Find an exposure for the light of patches."""
        self.watch.probe.fill("input")
        self.show(0)
        self.exposure_s = self.watch.probe.find_exposure(self.exposure_s)

    def centres(self, number: int) -> np.ndarray:
        """Give the middles of a set's patches, float64 [n, 2]."""
        return self.sets[number] + (self.side - 1) / 2

    def show(self, number: int) -> None:
        """Show a set; -1 is none."""
        if number < 0:
            self.watch.probe.blank("weight")
            return
        shape = self.watch.probe.bench.weight.shape
        drawn = fiducials.rectangles(shape, self.sets[number], (self.side, self.side))
        self.watch.probe.draw("weight", drawn)

    def signals(
        self, patterns: list[stripes.Pattern], sets: list[int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Take the light of sets under patterns of one period: float64 [shifts, n] of each set,
        with its patches and without.

        Raises
        ------
        WrongLight : when patterns and their complements contradict each other again and again
        """
        light: dict[int, np.ndarray] = {}
        wanted = [-1, *sets]
        for _ in range(_REPEATS):
            self._take(patterns, wanted, sets, light)
            size = sum(light[number].sum() for number in sets) / len(sets)
            wanted = [number for number in (-1, *sets) if not _agree(light[number], size)]
            if not wanted:
                return self._told(light, sets)
            self.watch.drop(len(wanted))
            self.watch.probe.forget_frames()
        raise WrongLight(
            "the light of stripes and of their complements contradict each other in "
            f"{_REPEATS} tries: keep hands and moving things out of the beam, and check that the "
            "source is steady and that the input modulator shows the frames it is given"
        )

    def _take(
        self,
        patterns: list[stripes.Pattern],
        wanted: list[int],
        sets: list[int],
        light: dict[int, np.ndarray],
    ) -> None:
        """Take the light of wanted sets, [shifts, n]; -1 is that of all through dark weights."""
        taken: dict[int, list[np.ndarray]] = {number: [] for number in wanted}
        for pattern in patterns:
            self.watch.say(f"stripes of {pattern.period_px} pixels on the input modulator")
            if self.darks is not None and wanted == [-1] and pattern in self.darks:
                del self.darks[pattern]  # it is the one that is contradicted
            self.watch.probe.draw("input", pattern.mask(self.watch.probe.bench.input.shape))
            for number in wanted:
                if number >= 0:
                    taken[number].append(self.sum(self._image(number), self.sets[number]))
                    continue
                image = self._around(pattern)
                taken[-1].append(np.concatenate([self.sum(image, self.sets[n]) for n in sets]))
        light.update({number: np.array(each) for number, each in taken.items()})

    def _image(self, number: int) -> np.ndarray:
        self.show(number)
        return self.watch.probe.take(self.exposure_s, self.takes).counts

    def _around(self, pattern: stripes.Pattern) -> np.ndarray:
        """Take what dark weights let through of stripes, which are shown already."""
        if self.darks is None:
            return self._image(-1)
        if pattern not in self.darks:
            self.darks[pattern] = self._image(-1)
        return self.darks[pattern]

    def _told(
        self, light: dict[int, np.ndarray], sets: list[int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        ends = np.cumsum([len(self.sets[number]) for number in sets])[:-1]
        around = np.split(light[-1], ends, axis=1)
        return [(light[number], dark) for number, dark in zip(sets, around, strict=True)]


def _agree(light: np.ndarray, size: float) -> bool:
    """Say whether stripes and their complements give the same sum at both pairs of shifts.

    Parameters
    ----------
    light : float64 [shifts, n]
    size : sum of such light with patches; what is small against it does not matter
    """
    off = light[0] + light[2] - light[1] - light[3]
    each = float(np.median(np.abs(off))) * len(off)
    return bool(max(abs(off.sum()), each) <= _UNEVEN * max(abs(light.sum()), 0.2 * size))


@dataclass
class _Read:
    """What patches of some sets read.

    Parameters
    ----------
    sets : their numbers
    there : places on the input modulator, float64 [n, 2]
    good : which patches see it well, bool [n]
    finest : by axis, signals of each set under the finest stripes, with and without its patches
    """

    sets: list[int]
    there: np.ndarray
    good: np.ndarray
    finest: list[list[tuple[np.ndarray, np.ndarray]]]


def _locate(patches: _Patches, coarse_sets: list[int], input_shape: tuple[int, int]) -> Fitted:
    """Find where patches lie on the input modulator, and fit the map.

    The first sets see stripes of all periods; the others the finest, since a map is known by then.
    """
    centres = [patches.centres(number) for number in range(len(patches.sets))]
    here = np.concatenate([centres[number] for number in coarse_sets])
    read = [_read(patches, coarse_sets, input_shape, None)]
    good, there = read[0].good, read[0].there
    if good.sum() < 6:
        raise WrongLight(
            f"{int(good.sum())} of {len(good)} patches of the weight modulator see stripes of the "
            "input modulator: see that both lie on each other, and that nothing blocks the beam"
        )
    matrix, _ = fiducials.consensus(*_few(here[good], there[good]))
    fine_sets = [number for number in range(len(centres)) if number not in coarse_sets]
    if fine_sets:
        more = np.concatenate([centres[number] for number in fine_sets])
        read.append(_read(patches, fine_sets, input_shape, maps.apply(matrix, more)))
        here = np.concatenate([here, more])
        good = np.concatenate([part.good for part in read])
        there = np.concatenate([part.there for part in read])
    fit = _fit(here[good], there[good], "input")
    for _ in range(2):
        refined = [_refined(patches, part, fit.matrix) for part in read]
        there = np.concatenate([places for places, _ in refined])
        fit = _fit(here[good], there[good], "input")
    number, margin = np.flatnonzero(good), (0.7 * patches.side,) * 2
    noise_px = float(np.sqrt(np.mean([noise**2 for _, noise in refined])))
    bad_px = max(_BAD_PX, patches.side / 32)
    return Fitted(fit, here[good], there[good], here, number, noise_px, margin, bad_px=bad_px)


def _refined(
    patches: _Patches, read: _Read, matrix: np.ndarray, period_px: int | None = None
) -> tuple[np.ndarray, float]:
    """Give places anew, for a map that is nearly right: float64 [n, 2], and their noise."""
    steps = np.arange(patches.side) - (patches.side - 1) / 2
    inside = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    places, noises = [], []
    ends = np.cumsum([len(patches.sets[number]) for number in read.sets])[:-1]
    good = np.split(read.good, ends)
    for order, number in enumerate(read.sets):
        seen = maps.apply(matrix, patches.centres(number)[:, None] + inside)
        there = seen.mean(axis=1)
        for axis in (0, 1):
            patterns = stripes.shifted(axis, period_px or stripes.FINEST * patches.side)
            lit, dark = read.finest[axis][order]
            off, noise = stripes.refine(lit, dark, seen[..., axis], patterns, good[order])
            there[:, axis] += off
            noises.append(noise)
        places.append(there)
    return np.concatenate(places), float(np.sqrt(np.mean(np.square(noises))))


def _few(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give at most two dozen points, spread over all: triples of more take long."""
    chosen = np.linspace(0, len(here) - 1, min(len(here), 24)).round().astype(int)
    return here[chosen], there[chosen]


def _read(
    patches: _Patches,
    sets: list[int],
    input_shape: tuple[int, int],
    guess: np.ndarray | None,
    period_px: int | None = None,
) -> _Read:
    """Read places on the input modulator.

    Parameters
    ----------
    guess : of the places, within half a period; None reads all periods
    period_px : the only one, with a guess; None is the finest
    """
    there, finest = [], []
    good = np.ones(sum(len(patches.sets[number]) for number in sets), dtype=bool)
    for axis, size in enumerate(input_shape):
        periods = stripes.periods(size, patches.side)
        if guess is not None:
            periods = [period_px or periods[-1]]
        within = []
        for period in periods:
            patterns = stripes.shifted(axis, period)
            each = patches.signals(patterns, sets)
            signals = np.concatenate([lit - dark for lit, dark in each], axis=1)
            place, contrast = stripes.phase(signals, patterns)
            within.append(place)
        finest.append(each)
        light = signals.mean(axis=0)
        middle = float(np.median(contrast[light > 0.5 * np.median(light)]))
        good &= (light > 0.6 * np.median(light)) & (np.abs(contrast / middle - 1) < 0.2)
        if guess is None:
            place, strain = stripes.unwrap(within, periods, size)
            good &= strain < _STRAIN
        else:
            turns = (guess[:, axis] - within[0]) / periods[-1]
            place = within[0] + periods[-1] * np.rint(turns)
        there.append(place)
    return _Read(sets, np.stack(there, axis=1), good, finest)


def _line(watch: Watch, exposure_s: float, bright: np.ndarray) -> _Maps:
    rows = _Rows(watch, exposure_s, bright)
    found = rows.find()
    patches = _line_patches(watch, exposure_s, rows, found)
    coarse = [0]
    while sum(len(patches.sets[number]) for number in coarse) < _COARSE_PATCHES:
        coarse.append(len(coarse))
    inputs = _locate(patches, coarse, watch.probe.bench.input.shape)
    parts = {"weight": found, "input": inputs}
    return _Maps(inputs.matrix, found.matrix, rows.spot_px, parts, inputs.fit.uncertainty_px)


def _line_patches(watch: Watch, exposure_s: float, rows: _Rows, found: Fitted) -> _Patches:
    """Give patches that the camera tells apart by their rows, with an exposure that suits them."""
    probe = watch.probe
    shape = probe.bench.weight.shape
    slope, offset = found.matrix[0, 0], found.matrix[0, 2]
    side = max(shape[0] // 96 // 4 * 4, 4)
    pitch = max(round(1.8 * side), int(np.ceil(6 / abs(slope))))
    count = len(stripes.patches(shape, side, pitch, 0))
    frames = int(np.clip(np.ceil(_PATCHES / count), 2, 8))
    sets = [stripes.patches(shape, side, pitch, number) for number in range(frames)]
    margin = (pitch - side) / 2

    def sums(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0.0], np.cumsum(rows.sums(image)[:, 0])])
        ends = np.stack([corners[:, 0] - margin - 0.5, corners[:, 0] + side + margin - 0.5])
        edges = np.rint(slope * ends + offset + 0.5).astype(int)
        low, high = edges.min(axis=0), edges.max(axis=0)
        inside = (low >= _EDGE_PX) & (high <= len(total) - 1 - _EDGE_PX)
        low, high = (edge.clip(0, len(total) - 1) for edge in (low, high))
        return np.where(inside, total[high] - total[low], 0.0)

    patches = _Patches(watch, exposure_s, sets, side, sums)
    patches.expose()
    return patches


def _block(watch: Watch, exposure_s: float) -> _Maps:
    patches = _block_patches(watch, exposure_s)
    coarse = list(range(len(patches.sets) // 2))
    inputs = _locate(patches, coarse, watch.probe.bench.input.shape)
    return _Maps(inputs.matrix, None, None, {"input": inputs}, inputs.fit.uncertainty_px)


def _block_patches(watch: Watch, exposure_s: float) -> _Patches:
    """Give patches that a photodiode sees one at a time: large, since dark weights leak as well."""
    shape = watch.probe.bench.weight.shape
    side = max(shape[0] // 12 // 4 * 4, 4)
    _, centres = fiducials.grid(shape, (shape[0] // 4, shape[1] // 4), (side, side))
    order = np.argsort([(5 * number) % len(centres) for number in range(len(centres))])
    scattered = side / 3 * np.random.default_rng(1).uniform(-1, 1, centres.shape)
    corners = np.rint(centres[order] + scattered - (side - 1) / 2).astype(int)
    sets = [corner[None] for corner in corners.clip(0, np.array(shape) - side)]
    patches = _Patches(watch, exposure_s, sets, side, lambda image, _: image[0], takes=2)
    patches.expose()
    return patches


# --- what follows from it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """How a bench's planes lie on each other.

    Parameters
    ----------
    input_map : weight pixel -> input pixel, see `bench.maps`
    camera_map : weight pixel -> camera pixel; in the line layout the camera row of a weight row and
        the middle column of the spots; None in the block layout
    spot_px : width of a line's spots in camera columns, else None
    figures : with uncertainties
    advice : what to move and by how much, what stands in the way
    cost : shots, seconds of the bench, joules of light, seconds of computing
    parts : the fits by name, with the points found
    """

    input_map: np.ndarray
    camera_map: np.ndarray | None
    spot_px: float | None
    figures: tuple[Figure, ...]
    advice: tuple[str, ...]
    cost: dict[str, float]
    parts: dict[str, Fitted]

    def figure(self, name: str) -> float:
        """Give the value of a figure."""
        return next(figure.value for figure in self.figures if figure.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Give what `--json` prints."""
        return {
            "schema": 1,
            "input_map": self.input_map.tolist(),
            "camera_map": None if self.camera_map is None else self.camera_map.tolist(),
            "figures": [asdict(figure) for figure in self.figures],
            "advice": list(self.advice),
            "cost": self.cost,
        }

    def step(self) -> Step:
        """Give what a calibration stores: maps, the points found, and how far they lie off."""
        arrays = {"input_map": self.input_map}
        if self.camera_map is not None:
            arrays["camera_map"] = self.camera_map
        plots = []
        for role, part in self.parts.items():
            kept = part.fit.kept
            arrays[f"{role}_points"] = part.here[kept]
            arrays[f"{role}_found"] = part.there[kept]
            arrays[f"{role}_residuals"] = part.residuals_px[kept].T.copy()
            arrays[f"{role}_columns"] = part.here[kept, 1].copy()
            plane = "camera" if role == "weight" or self.spot_px is None else "input"
            plots.append(
                Plot(
                    f"Points of the {role} modulator off their map (rows, columns)",
                    "points",
                    f"{role}_residuals",
                    f"{role}_columns",
                    "column of the point",
                    f"{plane} pixels",
                )
            )
        return Step(
            name="align",
            figures=self.figures,
            arrays=arrays,
            plots=tuple(plots),
            shots=int(self.cost["shots"]),
            seconds=self.cost["bench_s"],
            computing_s=self.cost["computing_s"],
            light_j=self.cost["light_j"],
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            notes=self.advice,
        )


def align(bench: Bench, tell: Tell | None = None) -> Alignment:
    """Find how the modulators lie on each other and on the camera.

    The source gives at most `align_power_w`. The bench is opened where it is not, and left with its
    light off; it is closed where it was opened.

    Parameters
    ----------
    tell : what, done, total: hears how far it has come

    Raises
    ------
    WrongLight, Saturated : why there is no light that says anything
    BadFit : when points were found and no map describes them
    """
    with _lit(bench) as probe:
        expected = {"imaged": 42, "line": 150, "block": 650}[bench.file.layout]
        watch = Watch(probe, tell, expected)
        probe.fill()
        watch.say("looking for light")
        exposure_s = probe.find_exposure()
        bright = check_answers(watch, exposure_s)
        found = _look(watch, exposure_s, bright)
        return _concluded(bench, watch, found, bright)


def _look(watch: Watch, exposure_s: float, bright: np.ndarray) -> _Maps:
    layout = watch.probe.bench.file.layout
    if layout == "imaged":
        return _imaged(watch, exposure_s)
    if layout == "line":
        return _line(watch, exposure_s, bright)
    return _block(watch, exposure_s)


@contextmanager
def _lit(bench: Bench) -> Iterator[Probe]:
    """Give a probe with the light on, at a power at which people may be near; then light off."""
    was_open = bench.source.is_connected
    if not was_open:
        bench.open()
    try:
        file = bench.file
        power_w = min(file.align_power_w, file.power_w, file.limits.power_w[1])
        probe = Probe(bench, "align", power_w)
        probe.light(True)
        yield probe
    finally:
        if was_open:
            bench.make_safe()
            bench.source.set_power(bench.file.power_w)
        else:
            bench.close()


def _concluded(bench: Bench, watch: Watch, found: _Maps, bright: np.ndarray | None) -> Alignment:
    """Judge the fits; raise where they are bad, else give figures and advice.

    Parameters
    ----------
    bright : image with all bright; None judges nothing
    """
    usable = _Usable(bench, found)
    notes = [] if bright is None else _judged(found, usable)
    if bright is not None and bench.file.layout == "imaged":
        notes += _dark_lines(bench, found, usable, bright)
    if watch.changed:
        notes.append(
            f"{watch.changed} of {watch.probe.shots} exposures contradicted their repeats and were "
            "dropped: something moved in the beam"
        )
    figures, advice = _figures(bench, found, usable.share)
    probe = watch.probe
    cost = {
        "shots": float(probe.shots),
        "bench_s": probe.seconds,
        "light_j": probe.light_j,
        "computing_s": probe.computing_s,
    }
    return Alignment(
        found.input_map,
        found.camera_map,
        found.spot_px,
        figures,
        (*advice, *notes),
        cost,
        found.parts,
    )


@dataclass
class _Usable:
    """Which points are seen by camera and input modulator, as the maps say."""

    bench: Bench
    found: _Maps

    @property
    def share(self) -> float:
        """Give the share of the weight modulator's pixels."""
        half = -0.5  # a pixel reaches so far beyond its centre
        return float(self.of_weight(_spread(self.bench.weight.shape), half, (half, half)).mean())

    def of_weight(
        self, points: np.ndarray, on_input_px: float, on_camera_px: tuple[float, float]
    ) -> np.ndarray:
        """Say which weight pixels [n, 2] have so much room around them on both."""
        seen = _inside(
            maps.apply(self.found.input_map, points), self.bench.input.shape, (on_input_px,) * 2
        )
        if self.found.camera_map is None:
            return seen
        on_camera = maps.apply(self.found.camera_map, points)
        return seen & _inside(on_camera, self.bench.camera.sensor_shape, on_camera_px)

    def expected(self, role: str, part: Fitted) -> np.ndarray:
        """Say which of the points shown should have been seen: bool [m]."""
        layout = self.bench.file.layout
        if role == "weight" and layout == "line":
            middles = part.shown + np.array([0.0, (self.bench.weight.shape[1] - 1) / 2])
            return self.of_weight(middles, 1.5 * part.margin_px[0], part.margin_px)
        if role == "weight":
            room = 1.5 * part.margin_px[0]
            return self.of_weight(part.shown, room, part.margin_px)
        if layout != "imaged":
            room = part.margin_px[0]
            on_camera_px = (4 * room + _EDGE_PX if layout == "line" else 0.0, 0.0)
            return self.of_weight(part.shown, 1.5 * room, on_camera_px)
        on_weight = maps.back(self.found.input_map, part.shown)
        room = 1.5 * part.margin_px[0]
        seen = _inside(on_weight, self.bench.weight.shape, (room, room))
        on_camera = maps.apply(part.matrix, part.shown)
        return seen & _inside(on_camera, self.bench.camera.sensor_shape, part.margin_px)


def _inside(
    points: np.ndarray, shape: tuple[int, int], margin_px: tuple[float, float]
) -> np.ndarray:
    margin, most = np.array(margin_px), np.array(shape) - 1
    return np.asarray(((points >= margin) & (points <= most - margin)).all(axis=-1))


def _spread(shape: tuple[int, int]) -> np.ndarray:
    axes = [np.linspace(0, size - 1, 41) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _judged(found: _Maps, usable: _Usable) -> list[str]:
    notes = []
    for role, part in found.parts.items():
        if part.fit.residual_px > part.bad_px:
            raise BadFit(
                f"the {role} modulator's points lie {part.fit.residual_px:.2g} pixels off the map "
                f"that fits them best, more than {part.bad_px:g}: see that all is in focus, that "
                "nothing moves, and that no lens distorts so much"
            )
        expected = usable.expected(role, part)
        missing = expected & ~part.found
        if not expected.any():
            raise BadFit(
                f"no point of the {role} modulator should be seen as it lies: align the bench by "
                "hand until the modulators cover each other"
            )
        share = 1 - float(missing.sum() / expected.sum())
        where = _where(part.shown[missing])
        if share < _LEAST_KEPT:
            raise BadFit(
                f"only {share:.0%} of the points of the {role} modulator that should be seen fit "
                f"one map; those at {where} do not: something stands in the beam, or a part of "
                "the modulator is dark"
            )
        if 1 - share > _WORTH_SAYING:
            notes.append(
                f"{int(missing.sum())} of {int(expected.sum())} points of the {role} modulator do "
                f"not fit, at {where} of it: something stands in the beam there, or a part of the "
                "modulator is dark"
            )
    for name, matrix in (("input modulator", found.input_map), ("camera", found.camera_map)):
        if matrix is None:
            continue
        is_mirrored = np.linalg.det(matrix[:, :2]) < 0 if matrix[1, :2].any() else matrix[0, 0] < 0
        if is_mirrored:
            notes.append(
                f"the {name} sees the weight modulator mirrored; the map takes care of that"
            )
    return notes


def _where(points: np.ndarray) -> str:
    if not len(points):
        return "no place"
    low, high = np.percentile(points, [5, 95], axis=0)
    rows = f"rows {low[0]:.0f} to {high[0]:.0f}"
    return rows if not points[:, 1].any() else f"{rows}, columns {low[1]:.0f} to {high[1]:.0f}"


def _dark_lines(bench: Bench, found: _Maps, usable: _Usable, bright: np.ndarray) -> list[str]:
    """Name rows and columns of either modulator that stay dark although all is bright."""
    notes = []
    known: list[int] = []  # rows of the weight modulator, whose shadow is not the input's
    scale = _scale(found.parts["weight"].matrix)
    room = (_EDGE_PX + 4 * found.parts["weight"].blur_px) / scale  # there an edge dims no light
    for role, part in found.parts.items():
        shape = _modulator(bench, role).shape
        for axis, name in enumerate(("row", "column")):
            along = np.linspace(0, shape[1 - axis] - 1, 400)
            lines = np.arange(shape[axis])
            points = np.stack(np.meshgrid(lines, along, indexing="ij"), axis=-1)
            if axis:
                points = points[..., ::-1]
            place = maps.apply(part.matrix, points)
            on_weight = points if role == "weight" else maps.back(found.input_map, points)
            inside = usable.of_weight(on_weight, room, (room * scale,) * 2)
            inside &= _inside(on_weight, bench.weight.shape, (room, room))
            for line in known:
                inside &= np.abs(on_weight[..., 0] - line) > room
            y, x = np.moveaxis(np.rint(np.where(inside[..., None], place, 0)).astype(int), -1, 0)
            light = np.where(inside, bright[y, x], 0.0)
            enough = inside.sum(axis=1) > len(along) // 4
            profile = np.full(len(lines), np.nan)
            profile[enough] = light.sum(axis=1)[enough] / inside.sum(axis=1)[enough]
            dark = fiducials.dark_lines(profile)
            if role == "weight" and axis == 0:
                known = dark
            if dark:
                listed = ", ".join(map(str, dark[:8])) + (", ..." if len(dark) > 8 else "")
                notes.append(
                    f"the {role} modulator's {name}s {listed} stay dark (found to about a pixel): "
                    "keep numbers off them"
                )
    return notes


def _figures(
    bench: Bench, found: _Maps, usable_share: float
) -> tuple[tuple[Figure, ...], list[str]]:
    figures: list[Figure] = []
    advice: list[str] = []
    spread = found.input_px / np.sqrt(3)  # of a mean; input_px is that of three terms
    shape, target = bench.weight.shape, bench.input.shape
    lies = _lies(found.input_map, shape, target)
    reach = float(np.sqrt((np.square(_spread(shape) - (np.array(shape) - 1) / 2)).mean() * 2))
    figures += _lie_figures("input", lies, spread, reach, "of the weight modulator's middle")
    nominal = 1.0 if shape == target else min(np.divide(target, shape))
    advice += _moves("input modulator", lies, nominal, 1.0)
    figures.append(Figure("input_map_px", found.input_px, None, "px", "uncertainty of the map"))
    if found.camera_map is not None:
        weight = found.parts["weight"]
        sensor = bench.camera.sensor_shape
        if bench.file.layout == "line":
            scale, offset = found.camera_map[0, 0], found.camera_map[0, 2]
            shift = scale * (shape[0] - 1) / 2 + offset - (sensor[0] - 1) / 2
            error = weight.fit.uncertainty_px
            figures += [
                Figure("camera_shift_rows_px", float(shift), error, "px", "of the middle row"),
                Figure("camera_scale", float(abs(scale)), error / shape[0] * 3.5, ""),
                Figure("spot_px", float(found.spot_px or 0), 1.0, "px", "width of a spot"),
            ]
            lies = (shift, 0.0, abs(scale), 0.0)
            fits = sensor[0] / shape[0]
        else:
            lies = _lies(found.camera_map, shape, sensor)
            error = weight.fit.uncertainty_px / np.sqrt(3)
            figures += _lie_figures(
                "camera", lies, error, reach, "of the weight modulator's middle"
            )
            figures.append(Figure("blur_px", weight.blur_px, None, "px", "of a point, rms"))
            fits = min(np.divide(sensor, shape))
        figures.append(
            Figure("camera_map_px", weight.fit.uncertainty_px, None, "px", "uncertainty of the map")
        )
        advice += _moves("camera", lies, min(lies[2], fits), -1.0)
    for role, each in found.parts.items():
        figures += [
            Figure(f"{role}_residual_px", each.fit.residual_px, None, "px", "of a point"),
            Figure(f"{role}_noise_px", each.noise_px, None, "px", "of a point, expected"),
            Figure(f"{role}_points", float(each.fit.kept.sum()), None, "", "that fit"),
        ]
    figures.append(Figure("usable_share", usable_share, None, "", "of the weight modulator"))
    if usable_share < 0.98:
        advice.append(
            f"{usable_share:.0%} of the weight modulator can be used: the rest falls beside the "
            "camera or the input modulator"
        )
    return tuple(figures), advice


def _lies(
    matrix: np.ndarray, shape: tuple[int, int], target: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Give shift (rows, columns), scale and rotation in degrees, about the middles."""
    middle = (np.array(shape) - 1) / 2
    shift = maps.apply(matrix, middle) - (np.array(target) - 1) / 2
    slopes = maps.scales(matrix, middle)
    sign = 1.0 if np.linalg.det(slopes) > 0 else -1.0
    angle = np.rad2deg(
        np.arctan2(slopes[1, 0] - sign * slopes[0, 1], slopes[0, 0] + sign * slopes[1, 1])
    )
    scale = np.sqrt(abs(np.linalg.det(slopes)))
    return float(shift[0]), float(shift[1]), float(scale), float(angle)


def _lie_figures(
    name: str,
    lies: tuple[float, float, float, float],
    error_px: float,
    reach_px: float,
    where: str,
) -> list[Figure]:
    turn = error_px / reach_px * np.sqrt(2)
    return [
        Figure(f"{name}_shift_rows_px", lies[0], float(error_px), "px", where),
        Figure(f"{name}_shift_columns_px", lies[1], float(error_px), "px", where),
        Figure(f"{name}_scale", lies[2], float(turn), "", f"{name} pixels per weight pixel"),
        Figure(f"{name}_rotation_deg", lies[3], float(np.rad2deg(turn)), "deg", "against rows"),
    ]


def _moves(
    name: str, lies: tuple[float, float, float, float], nominal: float, sign: float
) -> list[str]:
    """Say what an operator does about it; a map takes care of what is left."""
    moves = []
    rows, columns, scale, angle = lies
    if max(abs(rows), abs(columns)) > _SHIFT_PX:
        what = "the input modulator's image" if sign > 0 else "the image on the camera"
        moves.append(
            f"move {what} by {sign * rows:+.1f} rows (towards higher row numbers is +) and "
            f"{sign * columns:+.1f} columns, in pixels of the {name}"
        )
    if abs(angle) > _TURN_DEG:
        moves.append(f"turn the {name} by {-sign * angle:+.2f} degrees (from rows to columns is +)")
    if abs(scale / nominal - 1) > _MAGNIFY:
        moves.append(
            f"make the image of the weight modulator on the {name} {nominal / scale:.4f} times as "
            "large"
        )
    return moves


def store(bench: Bench, alignment: Alignment) -> Path:
    """Begin a new calibration of an open bench with its alignment; an older one is gone.

    Returns
    -------
    path : of the calibration file

    Raises
    ------
    InputError : for a bench whose file says that it knows its own truth
    """
    path = path_of(bench.file.calibration, bench.path)
    calibration = Calibration.begin(bench)
    calibration.add(alignment.step())
    calibration.write(path)
    return path


# --- while an operator turns screws ---------------------------------------------------------------


def follow(bench: Bench, tell: Callable[[str], None] | None = None) -> Iterator[Alignment]:
    """Look again and again, with a few shots each, until the iterator is closed.

    Parameters
    ----------
    tell : hears why nothing is seen, while that is so

    Raises
    ------
    WrongLight, Saturated : when there is no light to begin with
    """
    say = tell or (lambda text: None)
    with _lit(bench) as probe:
        while True:
            try:
                probe.fill()
                exposure_s = probe.find_exposure()
                watch = Watch(probe)
                bright = check_answers(watch, exposure_s)
                glances = _glances(watch, exposure_s, bright)
                for found in glances:
                    yield _concluded(bench, watch, found, None)
            except WrongLight as error:  # while screws are turned the light may be lost
                say(str(error))


def _glances(watch: Watch, exposure_s: float, bright: np.ndarray) -> Iterator[_Maps]:
    """Find the maps once, then follow them as long as they do not jump.

    Raises
    ------
    WrongLight : when they do, or the light is lost
    """
    layout = watch.probe.bench.file.layout
    if layout == "imaged":
        squares = {role: _Squares(watch, exposure_s, role) for role in ("weight", "input")}
        lies = {role: each.coarse() for role, each in squares.items()}
        while True:
            found = {role: each.glance(*lies[role]) for role, each in squares.items()}
            lies = {role: (part.matrix, lies[role][1]) for role, part in found.items()}
            yield _composed(found)
    rows = _Rows(watch, exposure_s, bright) if layout == "line" else None
    found_rows = None if rows is None else rows.find()
    patches = _block_patches(watch, exposure_s)
    if rows is not None and found_rows is not None:
        patches = _line_patches(watch, exposure_s, rows, found_rows)
    sets = [0] if rows is not None else list(range(6))
    shape = watch.probe.bench.input.shape
    inputs = _locate(replace(patches, sets=[patches.sets[number] for number in sets]), sets, shape)
    patches.darks, patches.takes = {}, 1
    while True:
        for pattern in list(patches.darks)[:_FRESH]:  # the oldest: what leaks moves as well
            del patches.darks[pattern]
        inputs = _glanced(patches, sets, shape, inputs.matrix)
        parts = {"input": inputs}
        if rows is not None and found_rows is not None:
            found_rows = rows.glance(found_rows)
            parts = {"weight": found_rows, "input": inputs}
        camera_map = None if found_rows is None else found_rows.matrix
        spot_px = None if rows is None else rows.spot_px
        yield _Maps(inputs.matrix, camera_map, spot_px, parts, inputs.fit.uncertainty_px)


_FRESH = 2  # stripes through dark weights that are taken anew with every glance
_TELL_PERIOD = 12  # patches, from which on stripes that are coarse for each fix the map together


def _glanced(
    patches: _Patches, sets: list[int], input_shape: tuple[int, int], matrix: np.ndarray
) -> Fitted:
    """Read places again under stripes of one period, near where they lay."""
    here = np.concatenate([patches.centres(number) for number in sets])
    periods = stripes.periods(min(input_shape), patches.side)
    period = periods[-2 if len(here) >= _TELL_PERIOD else -1]
    read = _read(patches, sets, input_shape, maps.apply(matrix, here), period)
    if read.good.sum() < 4:
        raise WrongLight("the input modulator's stripes are not seen any more; looking anew")
    fit = _fit(here[read.good], read.there[read.good], "input")
    for _ in range(2):
        there, noise_px = _refined(patches, read, fit.matrix, period)
        fit = _fit(here[read.good], there[read.good], "input")
    if fit.residual_px > period / 16 or fit.kept.sum() < 0.7 * read.good.sum():
        raise WrongLight("the input modulator has moved too far at once; looking anew")
    number = np.flatnonzero(read.good)
    return Fitted(fit, here[read.good], there[read.good], here, number, noise_px)
