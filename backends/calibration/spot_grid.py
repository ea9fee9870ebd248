"""Alignment of imaged benches: bright squares in the camera's image, first single, then a grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...instruments import UnexpectedIntensity
from ..optics import registration
from . import fiducials
from .fits import AlignmentFits, Fitted, fit_map, inverse_of, noise_of, scale_of
from .repeatability import RepeatedExposure

_PLACES = ((0.5, 0.5), (0.3, 0.28), (0.27, 0.7), (0.7, 0.32), (0.73, 0.74), (0.5, 0.2), (0.42, 0.6))


@dataclass
class Squares:
    """Locates squares of one modulator in the camera's image while the other is bright."""

    exposures: RepeatedExposure
    exposure_s: float
    role: str
    blank: np.ndarray = field(init=False)
    noise: float = field(init=False)

    def __post_init__(self) -> None:
        probe = self.exposures.probe
        self._other_bright()
        probe.blank(self.role)
        one, other = self.exposures.take(self.exposure_s)
        self.blank = (one + other) / 2
        self.noise = noise_of(one, other)

    @property
    def shape(self) -> tuple[int, int]:
        """The modulator's shape."""
        return self.exposures.probe.bench.modulators[self.role].shape

    def coarse(self) -> tuple[np.ndarray, float]:
        """Return a rough map from single squares, and the blur in camera pixels."""
        side = max(self.shape[0] // 18, 4)
        self._other_bright()
        corners = [np.rint(np.multiply(place, self.shape) - side / 2) for place in _PLACES]
        from_px, to_px, spreads, reasons = [], [], [], []
        for number, corner in enumerate(np.array(corners, dtype=int)):
            self.exposures.report(f"searching for squares of the {self.role} modulator")
            drawn = fiducials.rectangles(self.shape, corner[None], (side, side))
            self.exposures.probe.draw(self.role, drawn)
            image = self.exposures.probe.take(self.exposure_s).counts - self.blank
            what = f"square {number + 1} of {len(corners)} on the {self.role} modulator"
            try:
                place, size = fiducials.spot(image, what)
            except UnexpectedIntensity as error:
                reasons.append(str(error))
                continue
            reach = 0.8 * np.sqrt(size) + 4
            spots = fiducials.centroids(image, place[None], (reach, reach), self.noise)
            if spots.seen[0]:
                from_px.append(corner + (side - 1) / 2)
                to_px.append(spots.to_px[0])
                spreads.append(spots.spread_px[0])
        if len(from_px) < 4:
            raise UnexpectedIntensity(
                f"{len(from_px)} of {len(corners)} squares of the {self.role} modulator are seen, "
                "and 4 are needed: something covers a part of it or of the beam "
                f"({reasons[0] if reasons else 'they are at the edge of the sensor'})"
            )
        matrix, off = fiducials.consensus(np.array(from_px), np.array(to_px))
        wrong = off > max(0.35 * side * scale_of(matrix), 2.0)
        if (~wrong).sum() < 4:
            raise UnexpectedIntensity(
                f"the squares of the {self.role} modulator are not where they were shown (off by "
                f"{np.median(off):.3g} camera pixels in the median): check that the device shows "
                "its frames, and that nothing bends or blocks the beam"
            )
        self.exposures.reject(int(wrong.sum()))
        spread = np.array(spreads)[~wrong]
        blur = np.sqrt(max(np.median(spread**2) - (side * scale_of(matrix)) ** 2 / 12, 0.0))
        return matrix, float(blur)

    def dense(self, matrix: np.ndarray, blur_px: float) -> Fitted:
        """Show a grid of squares in one frame, and fit the map."""
        pitch = int(np.clip(self.shape[0] // 18, 12, 64))
        pitch = int(max(pitch, np.ceil(4 / 3 * (8 * blur_px + 3) / scale_of(matrix))))
        side = max(pitch // 4, 3)
        from_px = self._draw_grid(pitch, side)
        images = self.exposures.take(self.exposure_s)
        return self._locate(images, from_px, (pitch, side), matrix, blur_px)

    def track(self, matrix: np.ndarray, blur_px: float) -> Fitted:
        """Locate a few squares again in one exposure, near their last places."""
        pitch = max(min(self.shape) // 5, 12)
        side = max(pitch // 6, 3)
        self._other_bright()
        from_px = self._draw_grid(pitch, side)
        image = self.exposures.probe.take(self.exposure_s).counts
        return self._locate((image,), from_px, (pitch, side), matrix, blur_px)

    def _draw_grid(self, pitch: int, side: int) -> np.ndarray:
        """Show a grid of squares, and return their centres, float64 [n, 2]."""
        corners, from_px = fiducials.grid(self.shape, (pitch, pitch), (side, side))
        self.exposures.report(f"locating {len(from_px)} squares of the {self.role} modulator")
        squares = fiducials.rectangles(self.shape, corners, (side, side))
        self.exposures.probe.draw(self.role, squares)
        return from_px

    def _other_bright(self) -> None:
        self.exposures.probe.fill("weight" if self.role == "input" else "input")

    def _locate(
        self,
        images: tuple[np.ndarray, ...],
        from_px: np.ndarray,
        pitch_side: tuple[int, int],
        matrix: np.ndarray,
        blur_px: float,
    ) -> Fitted:
        """Locate squares of a grid near their predicted places in images, and fit the map."""
        pitch, side = pitch_side
        reach = max(pitch * scale_of(matrix) / 2 - 1, 2.0)
        takes = [image - self.blank for image in images]
        image = np.mean(takes, axis=0)
        window = (reach, reach)
        for _ in range(3):
            spots = fiducials.centroids(
                image, registration.apply(matrix, from_px), window, self.noise
            )
            if spots.seen.sum() < 6:
                raise UnexpectedIntensity(
                    f"{int(spots.seen.sum())} of {len(from_px)} squares of the {self.role} "
                    "modulator are seen: check that nothing stands in the beam and that all is in "
                    "focus"
                )
            is_whole, slopes = fiducials.fit_shading(from_px[spots.seen], spots.light[spots.seen])
            used = np.flatnonzero(spots.seen)[is_whole]
            true = from_px[used] + slopes[is_whole] * side**2 / 12
            fit = fit_map(true, spots.to_px[used], self.role)
            matrix = fit.matrix
        each = [
            fiducials.centroids(
                take, registration.apply(matrix, from_px[used]), window, self.noise
            ).to_px
            for take in takes
        ]
        noise = 0.0
        if len(each) == 2:
            noise = float(np.sqrt(np.nanmedian(((each[0] - each[1]) / 2) ** 2) / 0.455))
        margin_px = (reach + 1, reach + 1)
        return Fitted(fit, true, spots.to_px[used], from_px, used, noise, margin_px, blur_px)


def find_squares(exposures: RepeatedExposure, exposure_s: float) -> AlignmentFits:
    """Find the maps of an imaged bench."""
    fits = {}
    for role in ("weight", "input"):
        squares = Squares(exposures, exposure_s, role)
        fits[role] = squares.dense(*squares.coarse())
    return composed(fits)


def composed(fits: dict[str, Fitted]) -> AlignmentFits:
    """Return the map between the modulators from their maps to one camera."""
    weight, inputs = fits["weight"], fits["input"]
    if weight.matrix.shape[1] == inputs.matrix.shape[1] == 3:
        input_map = registration.compose(weight.matrix, inverse_of(inputs.matrix))
    else:  # the camera's lens distorts both modulators' images in the same way
        points = weight.from_px[weight.fit.kept]
        on_input = registration.back(inputs.matrix, registration.apply(weight.matrix, points))
        input_map = fit_map(points, on_input, "input").matrix
    px = np.hypot(weight.fit.uncertainty_px, inputs.fit.uncertainty_px) / scale_of(inputs.matrix)
    return AlignmentFits(input_map, weight.matrix, None, fits, float(px))
