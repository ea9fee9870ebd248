"""Line and block benches: rows by lit rows, and places on the input by patches under stripes.

A line bench erases one axis and a block bench both. The phase of a small patch's light under
stripes of the input says where the patch lies on it (`phase_shift`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...instruments import UnexpectedIntensity
from ..optics import registration
from . import fiducials, phase_shift
from .fits import BAD_PX, EDGE_PX, AlignmentFits, Fitted, fit_map, inside_of, modulator_of, noise_of
from .repeatability import RepeatedExposure

_LINE_PLACES = (0.5, 0.3, 0.72, 0.4, 0.62)
_PATCHES, _COARSE_PATCHES = 200, 40  # in all, and of those that see all periods of stripes
_SHARPER = 0.7  # width of a band of input rows over that of weight rows: they are swapped
_STRAIN = 0.4  # of two periods of stripes, in parts of the finer, from which on one is wrong
_REPEATS = 5  # of stripes that contradict each other
_UNEVEN = 0.05  # contradiction of stripes and their complements, from which on light has changed
_TELL_PERIOD = 12  # patches, from which on stripes that are coarse for each fix the map together


@dataclass
class RowFinder:
    """Looks for rows of the weight modulator in the camera's rows (line layout)."""

    watch: RepeatedExposure
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
        blank, noise = (one + other) / 2, noise_of(one, other)
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
            except UnexpectedIntensity as error:
                reason = str(error)
                continue
            here.append(top + (side - 1) / 2)
            there.append(place[0])
        if len(here) < 3:
            raise UnexpectedIntensity(
                f"{len(here)} of {len(_LINE_PLACES)} bands of rows of the weight modulator are "
                f"seen, and 3 are needed: something covers a part of it or of the beam ({reason})"
            )
        self._check_swapped(blank)
        slope = _line_consensus(np.array(here), np.array(there))
        wrong = np.abs(np.polyval(slope, here) - there) > max(side * abs(slope[0]), 3)
        self.watch.drop(int(wrong.sum()))
        if (~wrong).sum() < 3:
            raise UnexpectedIntensity(
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
            shape = modulator_of(probe.bench, role).shape
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
            inside = inside_of(predicted, size, (reach + EDGE_PX, 0))
            found = [fiducials.centroids(take, predicted, (reach, 0), noise) for take in takes]
            seen = np.logical_and.reduce([each.seen for each in found]) & inside
            if seen.sum() < 4:
                raise UnexpectedIntensity(
                    f"{int(seen.sum())} of {len(here)} bands of rows of the weight modulator are "
                    "seen: see that nothing stands in the beam and that all is in focus"
                )
            there = np.mean([each.there[seen] for each in found], axis=0)
            slope, kept, residual = _line_fit(here[seen, 0], there[:, 0])
        matrix = np.array([[slope[0], 0.0, slope[1]], [0.0, 0.0, self.middle]])
        there = np.column_stack([there[:, 0], np.full(len(there), self.middle)])
        off = (found[0].there - found[-1].there)[seen, 0] / 2
        fit = registration.Fit(matrix, residual, float(residual * np.sqrt(2 / kept.sum())), kept)
        noise_px = float(np.sqrt(np.mean(off**2)))
        number = np.flatnonzero(seen)
        return Fitted(fit, here[seen], there, here, number, noise_px, (reach + EDGE_PX, 0.0))


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
class Patches:
    """Reads the light of patches of weights while the input shows stripes.

    Parameters
    ----------
    sets : corners of the patches of each weight frame, int [n, 2] each
    side : of a patch
    sum : the light of each patch of a set, float64 [n], from an image
    """

    watch: RepeatedExposure
    exposure_s: float
    sets: list[np.ndarray]
    side: int
    sum: Callable[[np.ndarray, np.ndarray], np.ndarray]
    takes: int = 1
    darks: dict[phase_shift.Pattern, np.ndarray] | None = None  # kept where a glance is enough

    def expose(self) -> None:
        """Find an exposure for the light of patches."""
        self.watch.probe.fill("input")
        self.show(0)
        self.exposure_s = self.watch.probe.find_exposure(self.exposure_s)

    def centres(self, number: int) -> np.ndarray:
        """Return the middles of a set's patches, float64 [n, 2]."""
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
        self, patterns: list[phase_shift.Pattern], sets: list[int]
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
        raise UnexpectedIntensity(
            "the light of stripes and of their complements contradict each other in "
            f"{_REPEATS} tries: keep hands and moving things out of the beam, and check that the "
            "source is steady and that the input modulator shows the frames it is given"
        )

    def _take(
        self,
        patterns: list[phase_shift.Pattern],
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

    def _around(self, pattern: phase_shift.Pattern) -> np.ndarray:
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


def locate(patches: Patches, coarse_sets: list[int], input_shape: tuple[int, int]) -> Fitted:
    """Find where patches lie on the input modulator, and fit the map.

    The first sets see stripes of all periods; the others the finest, since a map is known by then.
    """
    centres = [patches.centres(number) for number in range(len(patches.sets))]
    here = np.concatenate([centres[number] for number in coarse_sets])
    read = [_read(patches, coarse_sets, input_shape, None)]
    good, there = read[0].good, read[0].there
    if good.sum() < 6:
        raise UnexpectedIntensity(
            f"{int(good.sum())} of {len(good)} patches of the weight modulator see stripes of the "
            "input modulator: see that both lie on each other, and that nothing blocks the beam"
        )
    matrix, _ = fiducials.consensus(*_few(here[good], there[good]))
    fine_sets = [number for number in range(len(centres)) if number not in coarse_sets]
    if fine_sets:
        more = np.concatenate([centres[number] for number in fine_sets])
        read.append(_read(patches, fine_sets, input_shape, registration.apply(matrix, more)))
        here = np.concatenate([here, more])
        good = np.concatenate([part.good for part in read])
        there = np.concatenate([part.there for part in read])
    fit = fit_map(here[good], there[good], "input")
    for _ in range(2):
        refined = [_refined(patches, part, fit.matrix) for part in read]
        there = np.concatenate([places for places, _ in refined])
        fit = fit_map(here[good], there[good], "input")
    number, margin = np.flatnonzero(good), (0.7 * patches.side,) * 2
    noise_px = float(np.sqrt(np.mean([noise**2 for _, noise in refined])))
    bad_px = max(BAD_PX, patches.side / 32)
    return Fitted(fit, here[good], there[good], here, number, noise_px, margin, bad_px=bad_px)


def _refined(
    patches: Patches, read: _Read, matrix: np.ndarray, period_px: int | None = None
) -> tuple[np.ndarray, float]:
    """Return places anew, for a map that is nearly right: float64 [n, 2], and their noise."""
    steps = np.arange(patches.side) - (patches.side - 1) / 2
    inside = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    places, noises = [], []
    ends = np.cumsum([len(patches.sets[number]) for number in read.sets])[:-1]
    good = np.split(read.good, ends)
    for order, number in enumerate(read.sets):
        seen = registration.apply(matrix, patches.centres(number)[:, None] + inside)
        there = seen.mean(axis=1)
        for axis in (0, 1):
            patterns = phase_shift.shifted(axis, period_px or phase_shift.FINEST * patches.side)
            lit, dark = read.finest[axis][order]
            off, noise = phase_shift.refine(lit, dark, seen[..., axis], patterns, good[order])
            there[:, axis] += off
            noises.append(noise)
        places.append(there)
    return np.concatenate(places), float(np.sqrt(np.mean(np.square(noises))))


def _few(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most two dozen points, spread over all: triples of more take long."""
    chosen = np.linspace(0, len(here) - 1, min(len(here), 24)).round().astype(int)
    return here[chosen], there[chosen]


def _read(
    patches: Patches,
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
        periods = phase_shift.periods(size, patches.side)
        if guess is not None:
            periods = [period_px or periods[-1]]
        within = []
        for period in periods:
            patterns = phase_shift.shifted(axis, period)
            each = patches.signals(patterns, sets)
            signals = np.concatenate([lit - dark for lit, dark in each], axis=1)
            place, contrast = phase_shift.phase(signals, patterns)
            within.append(place)
        finest.append(each)
        light = signals.mean(axis=0)
        middle = float(np.median(contrast[light > 0.5 * np.median(light)]))
        good &= (light > 0.6 * np.median(light)) & (np.abs(contrast / middle - 1) < 0.2)
        if guess is None:
            place, strain = phase_shift.unwrap(within, periods, size)
            good &= strain < _STRAIN
        else:
            turns = (guess[:, axis] - within[0]) / periods[-1]
            place = within[0] + periods[-1] * np.rint(turns)
        there.append(place)
    return _Read(sets, np.stack(there, axis=1), good, finest)


def find_line(watch: RepeatedExposure, exposure_s: float, bright: np.ndarray) -> AlignmentFits:
    """Find the maps of a line bench; `bright` is its image with both modulators bright."""
    rows = RowFinder(watch, exposure_s, bright)
    found = rows.find()
    patches = line_patches(watch, exposure_s, rows, found)
    coarse = [0]
    while sum(len(patches.sets[number]) for number in coarse) < _COARSE_PATCHES:
        coarse.append(len(coarse))
    inputs = locate(patches, coarse, watch.probe.bench.input.shape)
    parts = {"weight": found, "input": inputs}
    return AlignmentFits(
        inputs.matrix, found.matrix, rows.spot_px, parts, inputs.fit.uncertainty_px
    )


def line_patches(
    watch: RepeatedExposure, exposure_s: float, rows: RowFinder, found: Fitted
) -> Patches:
    """Return patches the camera tells apart by their rows, with an exposure that suits them."""
    probe = watch.probe
    shape = probe.bench.weight.shape
    slope, offset = found.matrix[0, 0], found.matrix[0, 2]
    side = max(shape[0] // 96 // 4 * 4, 4)
    pitch = max(round(1.8 * side), int(np.ceil(6 / abs(slope))))
    count = len(phase_shift.patches(shape, side, pitch, 0))
    frames = int(np.clip(np.ceil(_PATCHES / count), 2, 8))
    sets = [phase_shift.patches(shape, side, pitch, number) for number in range(frames)]
    margin = (pitch - side) / 2

    def sums(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0.0], np.cumsum(rows.sums(image)[:, 0])])
        ends = np.stack([corners[:, 0] - margin - 0.5, corners[:, 0] + side + margin - 0.5])
        edges = np.rint(slope * ends + offset + 0.5).astype(int)
        low, high = edges.min(axis=0), edges.max(axis=0)
        inside = (low >= EDGE_PX) & (high <= len(total) - 1 - EDGE_PX)
        low, high = (edge.clip(0, len(total) - 1) for edge in (low, high))
        return np.where(inside, total[high] - total[low], 0.0)

    patches = Patches(watch, exposure_s, sets, side, sums)
    patches.expose()
    return patches


def find_block(watch: RepeatedExposure, exposure_s: float) -> AlignmentFits:
    """Find the map of a block bench."""
    patches = block_patches(watch, exposure_s)
    coarse = list(range(len(patches.sets) // 2))
    inputs = locate(patches, coarse, watch.probe.bench.input.shape)
    return AlignmentFits(inputs.matrix, None, None, {"input": inputs}, inputs.fit.uncertainty_px)


def block_patches(watch: RepeatedExposure, exposure_s: float) -> Patches:
    """Return patches a photodiode sees one at a time: large, since dark weights leak as well."""
    shape = watch.probe.bench.weight.shape
    side = max(shape[0] // 12 // 4 * 4, 4)
    _, centres = fiducials.grid(shape, (shape[0] // 4, shape[1] // 4), (side, side))
    order = np.argsort([(5 * number) % len(centres) for number in range(len(centres))])
    scattered = side / 3 * np.random.default_rng(1).uniform(-1, 1, centres.shape)
    corners = np.rint(centres[order] + scattered - (side - 1) / 2).astype(int)
    sets = [corner[None] for corner in corners.clip(0, np.array(shape) - side)]
    patches = Patches(watch, exposure_s, sets, side, lambda image, _: image[0], takes=2)
    patches.expose()
    return patches


def glanced(
    patches: Patches, sets: list[int], input_shape: tuple[int, int], matrix: np.ndarray
) -> Fitted:
    """Read places again under stripes of one period, near where they lay."""
    here = np.concatenate([patches.centres(number) for number in sets])
    periods = phase_shift.periods(min(input_shape), patches.side)
    period = periods[-2 if len(here) >= _TELL_PERIOD else -1]
    read = _read(patches, sets, input_shape, registration.apply(matrix, here), period)
    if read.good.sum() < 4:
        raise UnexpectedIntensity(
            "the input modulator's stripes are not seen any more; looking anew"
        )
    fit = fit_map(here[read.good], read.there[read.good], "input")
    for _ in range(2):
        there, noise_px = _refined(patches, read, fit.matrix, period)
        fit = fit_map(here[read.good], there[read.good], "input")
    if fit.residual_px > period / 16 or fit.kept.sum() < 0.7 * read.good.sum():
        raise UnexpectedIntensity("the input modulator has moved too far at once; looking anew")
    number = np.flatnonzero(read.good)
    return Fitted(fit, here[read.good], there[read.good], here, number, noise_px)
