"""Imaged benches: bright squares found in the camera's image, one by one, then in a grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ...instruments import UnexpectedIntensity
from ..optics import registration
from . import fiducials
from .fits import AlignmentFits, Fitted, fit_map, inverse_of, modulator_of, noise_of, scale_of
from .repeatability import RepeatedExposure

_PLACES = ((0.5, 0.5), (0.3, 0.28), (0.27, 0.7), (0.7, 0.32), (0.73, 0.74), (0.5, 0.2), (0.42, 0.6))


@dataclass
class Squares:
    """Looks for squares of one modulator in the camera's image while the other is bright."""

    watch: RepeatedExposure
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
        self.noise = noise_of(one, other)

    @property
    def shape(self) -> tuple[int, int]:
        """The modulator's shape."""
        return modulator_of(self.watch.probe.bench, self.role).shape

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
            except UnexpectedIntensity as error:
                reasons.append(str(error))
                continue
            reach = 0.8 * np.sqrt(size) + 4
            found = fiducials.centroids(image, place[None], (reach, reach), self.noise)
            if found.seen[0]:
                here.append(corner + (side - 1) / 2)
                there.append(found.there[0])
                spreads.append(found.spread_px[0])
        if len(here) < 4:
            raise UnexpectedIntensity(
                f"{len(here)} of {len(corners)} squares of the {self.role} modulator are seen, and "
                "4 are needed: something covers a part of it or of the beam "
                f"({reasons[0] if reasons else 'they lie at the edge of the sensor'})"
            )
        matrix, off = fiducials.consensus(np.array(here), np.array(there))
        wrong = off > max(0.35 * side * scale_of(matrix), 2.0)
        if (~wrong).sum() < 4:
            raise UnexpectedIntensity(
                f"the squares of the {self.role} modulator do not lie as they were shown (off by "
                f"{np.median(off):.3g} camera pixels in the median): see that its frames are the "
                "ones on the device, and that nothing bends or blocks the beam"
            )
        self.watch.drop(int(wrong.sum()))
        spread = np.array(spreads)[~wrong]
        blur = np.sqrt(max(np.median(spread**2) - (side * scale_of(matrix)) ** 2 / 12, 0.0))
        return matrix, float(blur)

    def dense(self, matrix: np.ndarray, blur_px: float) -> Fitted:
        """Show many squares in one frame, and fit the map."""
        scale = scale_of(matrix)
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
        reach = max(pitch * scale_of(matrix) / 2 - 1, 2.0)
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
            found = fiducials.centroids(image, registration.apply(matrix, here), window, self.noise)
            if found.seen.sum() < 6:
                raise UnexpectedIntensity(
                    f"{int(found.seen.sum())} of {len(here)} squares of the {self.role} modulator "
                    "are seen: see that nothing stands in the beam and that all is in focus"
                )
            relative, slopes = fiducials.field(here[found.seen], found.light[found.seen])
            whole = fiducials.whole(relative)
            used = np.flatnonzero(found.seen)[whole]
            true = here[used] + slopes[whole] * side**2 / 12
            fit = fit_map(true, found.there[used], self.role)
            matrix = fit.matrix
        each = [
            fiducials.centroids(
                take, registration.apply(matrix, here[used]), window, self.noise
            ).there
            for take in takes
        ]
        noise = 0.0
        if len(each) == 2:
            noise = float(np.sqrt(np.nanmedian(((each[0] - each[1]) / 2) ** 2) / 0.455))
        return Fitted(fit, true, found.there[used], here, used, noise, (reach + 1, reach + 1))


def find_squares(watch: RepeatedExposure, exposure_s: float) -> AlignmentFits:
    """Find the maps of an imaged bench."""
    found = {}
    for role in ("weight", "input"):
        squares = Squares(watch, exposure_s, role)
        found[role] = squares.dense(*squares.coarse())
    return composed(found)


def composed(found: dict[str, Fitted]) -> AlignmentFits:
    """Return the map between modulators that both have seen on one camera."""
    weight, inputs = found["weight"], found["input"]
    points = weight.here[weight.fit.kept]
    on_camera = registration.apply(weight.matrix, points)
    if weight.matrix.shape[1] == inputs.matrix.shape[1] == 3:
        input_map = registration.together(weight.matrix, inverse_of(inputs.matrix), points)
    else:  # what the camera's lens bends, it bends alike for both
        input_map = fit_map(points, registration.back(inputs.matrix, on_camera), "input").matrix
    px = np.hypot(weight.fit.uncertainty_px, inputs.fit.uncertainty_px) / scale_of(inputs.matrix)
    return AlignmentFits(input_map, weight.matrix, None, found, float(px))
