"""Alignment of line and single-pixel benches: bands of rows, and phase shifting of patches.

A line bench sums along one axis and a single-pixel bench along both. The phase of a small patch's
light under gratings on the input gives the patch's place there (`phase_shift`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ...instruments import UnexpectedIntensity
from ..optics import registration
from . import fiducials, phase_shift
from .exposure_search import find_exposure
from .fits import BAD_PX, EDGE_PX, AlignmentFits, Fitted, fit_map, inside_of, noise_of
from .repeatability import RepeatedExposure

_LINE_PLACES = (0.5, 0.3, 0.72, 0.4, 0.62)
_PATCHES, _COARSE_PATCHES = 200, 40  # in total, and those that are read at all periods
_SHARPER = 0.7  # width of a band of input rows over that of weight rows, if they are swapped
_STRAIN = 0.4  # disagreement of two periods, in units of the finer, from which one is wrong
_REPEATS = 5  # exposures of gratings that disagree
_UNEVEN = 0.05  # disagreement of gratings and their complements from which light has changed
_COARSE_PERIOD = 12  # patches from which a coarser period determines the map


@dataclass
class RowFinder:
    """Locates rows of the weight modulator in the camera's rows (line layout)."""

    exposures: RepeatedExposure
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
            raise UnexpectedIntensity(
                f"light falls on camera columns {left} to {right - 1}, and the spots of a line "
                "bench are a few columns wide: check that the lens sums along rows, and that no "
                "stray light falls on the camera"
            )
        places = np.arange(left, right)
        self.middle = float(profile[places] @ places / profile[places].sum())
        self.spot_px = float(right - left)
        self.columns = slice(max(left - 1, 0), min(right + 1, len(profile)))

    def sums(self, image: np.ndarray) -> np.ndarray:
        """Sum the spots' columns: float64 [h, 1]."""
        return image[:, self.columns].sum(axis=1, keepdims=True)

    def find(self) -> Fitted:
        """Show single bands of rows, then many; fit camera rows to weight rows."""
        probe, shape = self.exposures.probe, self.exposures.probe.bench.weight.shape
        probe.fill("input")
        probe.blank("weight")
        one, other = (self.sums(image) for image in self.exposures.take(self.exposure_s))
        blank, noise = (one + other) / 2, noise_of(one, other)
        side = max(shape[0] // 36, 2)
        from_px, to_px = [], []
        reason = "they are at the edge of the sensor"
        for place in _LINE_PLACES:
            top = round(place * shape[0] - side / 2)
            self.exposures.report("searching for rows of the weight modulator")
            probe.draw("weight", _band(shape, np.array([top]), side))
            seen = self.sums(probe.take(self.exposure_s).counts) - blank
            try:
                centroid, _ = fiducials.spot(
                    seen, f"a band of rows of the weight modulator at {top}"
                )
            except UnexpectedIntensity as error:
                reason = str(error)
                continue
            from_px.append(top + (side - 1) / 2)
            to_px.append(centroid[0])
        if len(from_px) < 3:
            raise UnexpectedIntensity(
                f"{len(from_px)} of {len(_LINE_PLACES)} bands of rows of the weight modulator are "
                f"seen, and 3 are needed: something covers a part of it or of the beam ({reason})"
            )
        self._check_swapped(blank)
        slope = _line_consensus(np.array(from_px), np.array(to_px))
        wrong = np.abs(np.polyval(slope, from_px) - to_px) > max(side * abs(slope[0]), 3)
        self.exposures.reject(int(wrong.sum()))
        if (~wrong).sum() < 3:
            raise UnexpectedIntensity(
                "rows of the weight modulator are not where they were shown: check that the device "
                "shows its frames, and that rows are imaged on camera rows"
            )
        self._blank, self._noise = blank, noise
        return self._dense(slope, is_first=True)

    def _check_swapped(self, blank: np.ndarray) -> None:
        """Check that the camera's rows image those of the weight modulator."""
        probe = self.exposures.probe
        widths = {}
        for role, other in (("weight", "input"), ("input", "weight")):
            shape = probe.bench.modulators[role].shape
            probe.fill(other)
            probe.draw(role, _band(shape, np.array([shape[0] // 2]), 3))
            seen = self.sums(probe.take(self.exposure_s).counts) - blank
            light = np.maximum(seen[:, 0] - 0.2 * seen.max(), 0)
            rows = np.arange(len(light))
            middle = light @ rows / light.sum()
            widths[role] = float(np.sqrt(light @ (rows - middle) ** 2 / light.sum()))
        probe.fill("input")
        if widths["input"] < _SHARPER * widths["weight"]:
            raise UnexpectedIntensity(
                "the modulators are swapped: camera rows show rows of the input modulator, and "
                "those of the weight modulator are blurred; swap their tables in the bench "
                "file, or their cables"
            )

    def track(self, before: Fitted) -> Fitted:
        """Locate rows again in one exposure, near their last places."""
        self.exposures.probe.fill("input")
        return self._dense(before.matrix[0, [0, 2]])

    def _dense(self, slope: np.ndarray, is_first: bool = False) -> Fitted:
        shape, blank, noise = self.exposures.probe.bench.weight.shape, self._blank, self._noise
        pitch = max(shape[0] // 36, 6)
        side = max(pitch // 4, 1)
        corners, from_px = fiducials.grid((shape[0], 1), (pitch, 1), (side, 1))
        self.exposures.probe.draw("weight", _band(shape, corners[:, 0], side))
        if is_first:
            images: tuple[np.ndarray, ...] = self.exposures.take(self.exposure_s)
        else:
            images = (self.exposures.probe.take(self.exposure_s).counts,)
        takes = [self.sums(image) - blank for image in images]
        reach = max(pitch * abs(slope[0]) / 2 - 1, 2.0)
        size = (len(blank), 1)
        for _ in range(3):
            predicted = np.column_stack([np.polyval(slope, from_px[:, 0]), 0 * from_px[:, 0]])
            inside = inside_of(predicted, size, (reach + EDGE_PX, 0))
            spots = [fiducials.centroids(take, predicted, (reach, 0), noise) for take in takes]
            seen = np.logical_and.reduce([each.seen for each in spots]) & inside
            if seen.sum() < 4:
                raise UnexpectedIntensity(
                    f"{int(seen.sum())} of {len(from_px)} bands of rows of the weight modulator "
                    "are seen: check that nothing stands in the beam and that all is in focus"
                )
            to_px = np.mean([each.to_px[seen] for each in spots], axis=0)
            slope, kept, residual = _line_fit(from_px[seen, 0], to_px[:, 0])
        matrix = np.array([[slope[0], 0.0, slope[1]], [0.0, 0.0, self.middle]])
        to_px = np.column_stack([to_px[:, 0], np.full(len(to_px), self.middle)])
        off = (spots[0].to_px - spots[-1].to_px)[seen, 0] / 2
        fit = registration.Fit(matrix, residual, float(residual * np.sqrt(2 / kept.sum())), kept)
        noise_px = float(np.sqrt(np.mean(off**2)))
        number = np.flatnonzero(seen)
        return Fitted(fit, from_px[seen], to_px, from_px, number, noise_px, (reach + EDGE_PX, 0.0))


def _band(shape: tuple[int, int], tops: np.ndarray, side: int) -> np.ndarray:
    corners = np.column_stack([tops, 0 * tops])
    return fiducials.rectangles(shape, corners, (side, shape[1]))


def _line_consensus(from_px: np.ndarray, to_px: np.ndarray) -> np.ndarray:
    """Fit slope and offset robustly to few points: Theil's medians."""
    first, second = np.triu_indices(len(from_px), 1)
    slope = np.median((to_px[second] - to_px[first]) / (from_px[second] - from_px[first]))
    return np.array([slope, np.median(to_px - slope * from_px)])


def _line_fit(from_px: np.ndarray, to_px: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit slope and offset without outliers; return the kept points and the residual as well."""
    kept = np.ones(len(from_px), dtype=bool)
    for _ in range(6):
        slope = np.polyfit(from_px[kept], to_px[kept], 1)
        off = np.abs(to_px - np.polyval(slope, from_px))
        now = off <= 5 * 1.4826 * np.median(off[kept]) + 1e-6
        if now.sum() < max(3, len(from_px) // 2) or np.array_equal(now, kept):
            break
        kept = now
    residual = float(np.sqrt((off[kept] ** 2).sum() / max(kept.sum() - 2, 1)))
    return slope, kept, residual


@dataclass
class Patches:
    """Measures the light of patches of weights while the input shows gratings.

    Parameters
    ----------
    sets : corners of the patches of each weight frame, int [n, 2] each
    side : of a patch
    sum : returns the light of each patch of a set, float64 [n], from an image
    takes : exposures of each frame
    darks : background images through dark weights, kept while the bench is tracked
    """

    exposures: RepeatedExposure
    exposure_s: float
    sets: list[np.ndarray]
    side: int
    sum: Callable[[np.ndarray, np.ndarray], np.ndarray]
    takes: int = 1
    darks: dict[phase_shift.Grating, np.ndarray] | None = None

    def __post_init__(self) -> None:
        """Find an exposure for the light of patches."""
        self.exposures.probe.fill("input")
        self.show(0)
        self.exposure_s = find_exposure(self.exposures.probe, self.exposure_s)

    @property
    def input_shape(self) -> tuple[int, int]:
        """The shape of the input modulator."""
        return self.exposures.probe.bench.input.shape

    def centres(self, number: int) -> np.ndarray:
        """Return the centres of a set's patches, float64 [n, 2]."""
        return self.sets[number] + (self.side - 1) / 2

    def show(self, number: int) -> None:
        """Show a set of patches; -1 shows none."""
        if number < 0:
            self.exposures.probe.blank("weight")
            return
        shape = self.exposures.probe.bench.weight.shape
        drawn = fiducials.rectangles(shape, self.sets[number], (self.side, self.side))
        self.exposures.probe.draw("weight", drawn)

    def signals(
        self, gratings: list[phase_shift.Grating], sets: list[int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the light of each set under the gratings of one period.

        It is measured with and without the set's patches: float64 [shifts, n] each.

        Raises
        ------
        UnexpectedIntensity : when gratings and their complements disagree in every repeat
        """
        light: dict[int, np.ndarray] = {}
        wanted = [-1, *sets]
        for _ in range(_REPEATS):
            self._take(gratings, wanted, sets, light)
            size = sum(light[number].sum() for number in sets) / len(sets)
            wanted = [number for number in (-1, *sets) if not _agree(light[number], size)]
            if not wanted:
                ends = np.cumsum([len(self.sets[number]) for number in sets])[:-1]
                darks = np.split(light[-1], ends, axis=1)
                return [(light[number], dark) for number, dark in zip(sets, darks, strict=True)]
            self.exposures.reject(len(wanted))
            self.exposures.probe.forget_frames()
        raise UnexpectedIntensity(
            f"the light of gratings and of their complements disagrees in {_REPEATS} attempts: "
            "keep hands and moving objects out of the beam, and check that the source is stable "
            "and that the input modulator shows its frames"
        )

    def _take(
        self,
        gratings: list[phase_shift.Grating],
        wanted: list[int],
        sets: list[int],
        light: dict[int, np.ndarray],
    ) -> None:
        """Measure the light of wanted sets, [shifts, n]; -1 stands for dark weights."""
        taken: dict[int, list[np.ndarray]] = {number: [] for number in wanted}
        for grating in gratings:
            self.exposures.report(
                f"showing gratings of {grating.period_px} pixels on the input modulator"
            )
            if self.darks is not None and wanted == [-1] and grating in self.darks:
                del self.darks[grating]  # the stored one disagrees
            self.exposures.probe.draw("input", grating.mask(self.input_shape))
            for number in wanted:
                if number >= 0:
                    taken[number].append(self.sum(self._image(number), self.sets[number]))
                    continue
                image = None if self.darks is None else self.darks.get(grating)
                if image is None:
                    image = self._image(-1)
                if self.darks is not None:
                    self.darks[grating] = image
                taken[-1].append(np.concatenate([self.sum(image, self.sets[n]) for n in sets]))
        light.update({number: np.array(each) for number, each in taken.items()})

    def _image(self, number: int) -> np.ndarray:
        self.show(number)
        return self.exposures.probe.take(self.exposure_s, self.takes).counts


def _agree(light: np.ndarray, size: float) -> bool:
    """Return whether both pairs of complementary gratings give the same sum.

    Parameters
    ----------
    light : float64 [shifts, n]
    size : sum of such light with patches; differences much smaller than it are ignored
    """
    off = light[0] + light[2] - light[1] - light[3]
    each = float(np.median(np.abs(off))) * len(off)
    return bool(max(abs(off.sum()), each) <= _UNEVEN * max(abs(light.sum()), 0.2 * size))


@dataclass
class _PatchReading:
    """Places of patches on the input modulator, as phase shifting measured them.

    Parameters
    ----------
    sets : their numbers
    to_px : places on the input modulator, float64 [n, 2]
    good : which patches have a clear signal, bool [n]
    finest : by axis, signals of each set under the finest gratings, with and without its patches
    """

    sets: list[int]
    to_px: np.ndarray
    good: np.ndarray
    finest: list[list[tuple[np.ndarray, np.ndarray]]]


def locate(patches: Patches, coarse_sets: list[int]) -> Fitted:
    """Locate patches on the input modulator, and fit the map.

    The coarse sets are read at all periods; the others at the finest one, near the coarse map.
    """
    centres = [patches.centres(number) for number in range(len(patches.sets))]
    from_px = np.concatenate([centres[number] for number in coarse_sets])
    read = [_read_places(patches, coarse_sets, None)]
    good, to_px = read[0].good, read[0].to_px
    if good.sum() < 6:
        raise UnexpectedIntensity(
            f"{int(good.sum())} of {len(good)} patches of the weight modulator see gratings of the "
            "input modulator: check that both overlap, and that nothing blocks the beam"
        )
    matrix, _ = fiducials.consensus(*_subset(from_px[good], to_px[good]))
    fine_sets = [number for number in range(len(centres)) if number not in coarse_sets]
    if fine_sets:
        more = np.concatenate([centres[number] for number in fine_sets])
        read.append(_read_places(patches, fine_sets, registration.apply(matrix, more)))
        from_px = np.concatenate([from_px, more])
    fitted = _refined_fit(patches, read, from_px)
    margin_px = (0.7 * patches.side,) * 2
    return replace(fitted, margin_px=margin_px, bad_px=max(BAD_PX, patches.side / 32))


def _refined_fit(
    patches: Patches,
    read: list[_PatchReading],
    from_px: np.ndarray,
    period_px: int | None = None,
) -> Fitted:
    """Fit the map to places that are refined twice, each time with the map so far.

    Parameters
    ----------
    from_px : centres of all patches that were read, float64 [n, 2]
    period_px : of the gratings; None is the finest
    """
    good = np.concatenate([part.good for part in read])
    to_px = np.concatenate([part.to_px for part in read])
    fit = fit_map(from_px[good], to_px[good], "input")
    for _ in range(2):
        refined = [_refine_places(patches, part, fit.matrix, period_px) for part in read]
        to_px = np.concatenate([places for places, _ in refined])
        fit = fit_map(from_px[good], to_px[good], "input")
    noise_px = float(np.sqrt(np.mean([noise**2 for _, noise in refined])))
    return Fitted(fit, from_px[good], to_px[good], from_px, np.flatnonzero(good), noise_px)


def _refine_places(
    patches: Patches, read: _PatchReading, matrix: np.ndarray, period_px: int | None
) -> tuple[np.ndarray, float]:
    """Return refined places, float64 [n, 2], from an approximate map, and their noise."""
    steps = np.arange(patches.side) - (patches.side - 1) / 2
    inside = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    places, noises = [], []
    ends = np.cumsum([len(patches.sets[number]) for number in read.sets])[:-1]
    good = np.split(read.good, ends)
    for order, number in enumerate(read.sets):
        seen = registration.apply(matrix, patches.centres(number)[:, None] + inside)
        to_px = seen.mean(axis=1)
        for axis in (0, 1):
            gratings = phase_shift.phase_steps(axis, period_px or phase_shift.FINEST * patches.side)
            lit, dark = read.finest[axis][order]
            off, noise = phase_shift.refine(lit, dark, seen[..., axis], gratings, good[order])
            to_px[:, axis] += off
            noises.append(noise)
        places.append(to_px)
    return np.concatenate(places), float(np.sqrt(np.mean(np.square(noises))))


def _subset(from_px: np.ndarray, to_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 24 points, evenly spread: the time grows with the triples of points."""
    chosen = np.linspace(0, len(from_px) - 1, min(len(from_px), 24)).round().astype(int)
    return from_px[chosen], to_px[chosen]


def _read_places(
    patches: Patches,
    sets: list[int],
    guess: np.ndarray | None,
    period_px: int | None = None,
) -> _PatchReading:
    """Measure places on the input modulator by phase shifting.

    Parameters
    ----------
    guess : approximate places, within half a period; None reads all periods
    period_px : the only period, with a guess; None is the finest
    """
    to_px, finest = [], []
    good = np.ones(sum(len(patches.sets[number]) for number in sets), dtype=bool)
    for axis, size in enumerate(patches.input_shape):
        periods = phase_shift.periods(size, patches.side)
        if guess is not None:
            periods = [period_px or periods[-1]]
        within = []
        for period in periods:
            gratings = phase_shift.phase_steps(axis, period)
            each = patches.signals(gratings, sets)
            signals = np.concatenate([lit - dark for lit, dark in each], axis=1)
            place, contrast = phase_shift.phase(signals, gratings)
            within.append(place)
        finest.append(each)
        light = signals.mean(axis=0)
        middle = float(np.median(contrast[light > 0.5 * np.median(light)]))
        good &= (light > 0.6 * np.median(light)) & (np.abs(contrast / middle - 1) < 0.2)
        if guess is None:
            place, strain = phase_shift.unwrap(within, periods, size)
            good &= strain < _STRAIN
        else:
            cycles = (guess[:, axis] - within[0]) / periods[-1]
            place = within[0] + periods[-1] * np.rint(cycles)
        to_px.append(place)
    return _PatchReading(sets, np.stack(to_px, axis=1), good, finest)


def find_line(exposures: RepeatedExposure, exposure_s: float, bright: np.ndarray) -> AlignmentFits:
    """Find the maps of a line bench; `bright` is its image with both modulators bright."""
    rows = RowFinder(exposures, exposure_s, bright)
    row_fit = rows.find()
    patches = line_patches(exposures, exposure_s, rows, row_fit)
    coarse = [0]
    while sum(len(patches.sets[number]) for number in coarse) < _COARSE_PATCHES:
        coarse.append(len(coarse))
    return fits_of(locate(patches, coarse), rows, row_fit)


def fits_of(
    inputs: Fitted, rows: RowFinder | None = None, row_fit: Fitted | None = None
) -> AlignmentFits:
    """Return the maps of a line bench, or those of a single-pixel bench, which has no camera."""
    px = inputs.fit.uncertainty_px
    if rows is None or row_fit is None:
        return AlignmentFits(inputs.matrix, None, None, {"input": inputs}, px)
    parts = {"weight": row_fit, "input": inputs}
    return AlignmentFits(inputs.matrix, row_fit.matrix, rows.spot_px, parts, px)


def line_patches(
    exposures: RepeatedExposure, exposure_s: float, rows: RowFinder, row_fit: Fitted
) -> Patches:
    """Return patches that the camera separates by their rows, with a suitable exposure."""
    probe = exposures.probe
    shape = probe.bench.weight.shape
    slope, offset = row_fit.matrix[0, 0], row_fit.matrix[0, 2]
    side = max(shape[0] // 96 // 4 * 4, 4)
    pitch = max(round(1.8 * side), int(np.ceil(6 / abs(slope))))
    count = len(phase_shift.patch_corners(shape, side, pitch, 0))
    frames = int(np.clip(np.ceil(_PATCHES / count), 2, 8))
    sets = [phase_shift.patch_corners(shape, side, pitch, number) for number in range(frames)]
    margin = (pitch - side) / 2

    def sums(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0.0], np.cumsum(rows.sums(image)[:, 0])])
        ends = np.stack([corners[:, 0] - margin - 0.5, corners[:, 0] + side + margin - 0.5])
        edges = np.rint(slope * ends + offset + 0.5).astype(int)
        low, high = edges.min(axis=0), edges.max(axis=0)
        inside = (low >= EDGE_PX) & (high <= len(total) - 1 - EDGE_PX)
        low, high = (edge.clip(0, len(total) - 1) for edge in (low, high))
        return np.where(inside, total[high] - total[low], 0.0)

    return Patches(exposures, exposure_s, sets, side, sums)


def find_with_photodiode(exposures: RepeatedExposure, exposure_s: float) -> AlignmentFits:
    """Find the map of a single-pixel bench."""
    patches = photodiode_patches(exposures, exposure_s)
    return fits_of(locate(patches, list(range(len(patches.sets) // 2))))


def photodiode_patches(exposures: RepeatedExposure, exposure_s: float) -> Patches:
    """Return patches that are shown one at a time: large, because dark weights leak as well."""
    shape = exposures.probe.bench.weight.shape
    side = max(shape[0] // 12 // 4 * 4, 4)
    _, centres = fiducials.grid(shape, (shape[0] // 4, shape[1] // 4), (side, side))
    order = np.argsort([(5 * number) % len(centres) for number in range(len(centres))])
    scattered = side / 3 * np.random.default_rng(1).uniform(-1, 1, centres.shape)
    corners = np.rint(centres[order] + scattered - (side - 1) / 2).astype(int)
    sets = [corner[None] for corner in corners.clip(0, np.array(shape) - side)]
    return Patches(exposures, exposure_s, sets, side, lambda image, _: image[0], takes=2)


def tracked(patches: Patches, matrix: np.ndarray) -> Fitted:
    """Read places again under gratings of one period, near their last places."""
    sets = list(range(len(patches.sets)))
    from_px = np.concatenate([patches.centres(number) for number in sets])
    periods = phase_shift.periods(min(patches.input_shape), patches.side)
    period = periods[-2 if len(from_px) >= _COARSE_PERIOD else -1]
    read = _read_places(patches, sets, registration.apply(matrix, from_px), period)
    if read.good.sum() < 4:
        raise UnexpectedIntensity(
            "gratings on the input modulator are no longer seen; the search starts again"
        )
    fitted = _refined_fit(patches, [read], from_px, period)
    fit = fitted.fit
    if fit.residual_px > period / 16 or fit.kept.sum() < 0.7 * read.good.sum():
        raise UnexpectedIntensity(
            "the input modulator moved too far in one step; the search starts again"
        )
    return fitted
