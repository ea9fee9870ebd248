"""Checks that a camera's image follows its settings: the exposure and the region.

Used by `lightloom check` and the conformance suite, while light falls on the camera. A camera that
keeps its exposure, ignores an offset or flips its image passes all other checks. Where the image is
too uniform or too unsteady to decide, the finding says so and does not count against the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Finding
from .camera import Camera, Region
from .errors import InputError, LimitExceeded

GROWS, PART = "grows with exposure", "reads the requested region"
_STEPS = (1.0, 2.0, 4.0)  # ratios of the compared exposures
_TRIES = 12  # attempts to find a suitable exposure
_SATURATED = 0.95  # fraction of the highest count above which a pixel may be saturated
_MAX_SATURATED = 0.2  # largest fraction of saturated pixels
_SIGNIFICANCE = 6.0  # standard deviations of noise
_REPEATABILITY = 0.25  # fraction of an increase by which a repetition may differ
_MIN_RATIO, _MAX_RATIO = 1.3, 3.0  # bounds of the ratio of both increases, ideally 2
_STEP_PX = 16  # step size of regions that cameras accept
_FLOOR = 0.02  # smallest tolerance, in counts
_CELLS = 8  # cells along each side of a region, whose means are compared
_SHIFTS = 4  # candidate positions of a region along each side


@dataclass(frozen=True)
class _Growth:
    """The increase of the mean count over three exposures, measured twice.

    Parameters
    ----------
    first, second : increase from the first to the second exposure, and from the second to the third
    noise : standard deviation of both, from the spread of single pixels
    round_difference : difference between the two rounds
    saturated : fraction of pixels that were saturated at the longest exposure
    """

    first: float
    second: float
    noise: float
    round_difference: float
    saturated: float

    @property
    def is_significant(self) -> bool:
        """Whether the increase exceeds noise and fluctuations of the light."""
        return min(self.first, self.second / 2) > max(
            _SIGNIFICANCE * self.noise, self.round_difference / _REPEATABILITY
        )

    @property
    def is_linear(self) -> bool:
        return self.is_significant and _MIN_RATIO <= self.second / self.first <= _MAX_RATIO


def grows_with_exposure(camera: Camera, timeout_s: float = 5.0) -> Finding:
    """Return whether counts grow in proportion to the exposure; settings are restored.

    Parameters
    ----------
    camera : connected, under steady light
    timeout_s : for one exposure
    """
    with camera.restored_settings():
        low, high = _allowed_s(camera, timeout_s)
        exposure_s = min(max(camera.exposure_s or low, low), high)
        tried: set[float] = set()
        growth, longest_s = None, 0.0
        for _ in range(_TRIES):
            if exposure_s in tried:
                break
            tried.add(exposure_s)
            try:
                growth = _growth(camera, exposure_s, timeout_s)
            except (InputError, LimitExceeded) as error:
                return Finding(GROWS, True, f"cannot be determined: {error}")
            longest_s = _STEPS[-1] * exposure_s
            if growth.is_linear:
                return Finding(GROWS, True, f"{exposure_s:.3g} s to {longest_s:.3g} s")
            if growth.saturated > _MAX_SATURATED:
                exposure_s = max(exposure_s / 8, low)
            else:
                exposure_s = min(exposure_s * 8, high)
    if growth is not None and growth.saturated > _MAX_SATURATED:
        return Finding(
            GROWS, False, f"{growth.saturated:.0%} of the pixels are saturated at {longest_s:g} s"
        )
    return Finding(
        GROWS,
        False,
        f"the image at {longest_s:.3g} s is not brighter than at {longest_s / _STEPS[-1]:.3g} s, "
        "or not in proportion to the exposure: no light reaches the camera, or it uses its own "
        "exposure, gain or gamma",
    )


def reads_region(camera: Camera, timeout_s: float = 5.0) -> Finding:
    """Return whether a region shows the right part of the whole image; settings are restored.

    Parameters
    ----------
    camera : connected, with an image on it that has bright and dark parts
    """
    height, width = camera.sensor_shape
    with camera.restored_settings():
        camera.configure(region=Region(0, 0, height, width))
        wholes = [camera.take(timeout_s).data.astype(np.float64) for _ in range(2)]
        found = _distinctive_region(wholes)
        if found is None:
            return Finding(
                PART, True, "cannot be determined: the image is too uniform or not steady"
            )
        region, allowed = found
        try:
            camera.configure(region=region)
        except InputError as error:
            return Finding(PART, True, f"cannot be determined: {error}")
        part = camera.take(timeout_s).data.astype(np.float64)
    measured = _cell_means(part)
    errors = {n: _rms(measured - image) for n, image in _hypotheses(wholes[0], region).items()}
    if errors["expected"] <= allowed:
        return Finding(PART, True, f"{region.height} x {region.width} pixels")
    likeliest = min(errors, key=lambda name: errors[name])
    reason = likeliest if likeliest != "expected" else "it matches no part of it"
    return Finding(
        PART,
        False,
        f"the region from row {region.top} and column {region.left} on differs from the same part "
        f"of the whole image: {reason}; check offsets and flips (ReverseX, ReverseY)",
    )


# --- exposures -----------------------------------------------------------------------------------


def _allowed_s(camera: Camera, timeout_s: float) -> tuple[float, float]:
    """Return the shortest and longest first exposure; the others are multiples of it."""
    shortest_s, longest_s = camera.allowed_exposures_s
    longest_s = min(longest_s, max(timeout_s - camera.readout_s, 0) / 2)
    high = longest_s / _STEPS[-1]
    return min(max(shortest_s, 1e-6), high), high


def _growth(camera: Camera, exposure_s: float, timeout_s: float) -> _Growth:
    rounds = []
    for _ in range(2):
        frames = []
        for step in _STEPS:
            camera.configure(exposure_s=step * exposure_s)
            frames.append(camera.take(timeout_s).data.astype(np.float64))
        rounds.append(frames)
    most = _SATURATED * ((1 << camera.bit_depth) - 1)
    is_saturated = np.any([frames[-1] > most for frames in rounds], axis=0)
    left = ~is_saturated if not is_saturated.all() else np.ones_like(is_saturated)
    means = np.array([[frame[left].mean() for frame in frames] for frames in rounds])
    spread = np.std(rounds[0][-1][left] - rounds[1][-1][left])
    first, second = np.diff(means.mean(axis=0))
    round_difference = float(np.abs(means[0] - means[1]).max())
    noise = float(spread) / float(np.sqrt(left.sum()))
    return _Growth(float(first), float(second), noise, round_difference, float(is_saturated.mean()))


# --- regions -------------------------------------------------------------------------------------


def _distinctive_region(wholes: list[np.ndarray]) -> tuple[Region, float] | None:
    """Return the region that best reveals a wrong camera, and its tolerance."""
    height, width = wholes[0].shape
    best: tuple[float, Region, float] | None = None
    for top, tall in _spans(height):
        for left, wide in _spans(width):
            region = Region(top, left, tall, wide)
            first, second = (_hypotheses(whole, region) for whole in wholes)
            expected = first.pop("expected")
            spread = _rms(expected - second["expected"])
            allowed = 3 * spread + 0.05 * float(expected.std()) + _FLOOR
            least = min(_rms(other - expected) for other in first.values())
            if least > 2 * allowed and (best is None or least - allowed > best[0]):
                best = (least - allowed, region, allowed)
    return None if best is None else best[1:]


def _spans(side: int) -> list[tuple[int, int]]:
    """Return start and length of some parts of a side, none at its start or in its middle."""
    step = _STEP_PX if side >= 3 * _STEP_PX else 1
    length = max(side // 3 // step * step, 1)
    starts = np.linspace(step, side - length, _SHIFTS).astype(int) // step * step
    return [(int(start), length) for start in dict.fromkeys(starts) if 2 * start + length != side]


def _hypotheses(whole: np.ndarray, region: Region) -> dict[str, np.ndarray]:
    """Return the expected image of a region, and the images that known faults would give."""

    def cut(of: np.ndarray, top: int, left: int) -> np.ndarray:
        return _cell_means(of[top : top + region.height, left : left + region.width])

    expected = cut(whole, region.top, region.left)
    return {
        "expected": expected,
        "its offset is ignored": cut(whole, 0, 0),
        "it is flipped upside down": expected[::-1],
        "it is flipped left to right": expected[:, ::-1],
        "it is rotated by 180 degrees": expected[::-1, ::-1],
        "it is counted from the other end of the rows": cut(
            whole, whole.shape[0] - region.top - region.height, region.left
        ),
        "it is counted from the other end of the columns": cut(
            whole, region.top, whole.shape[1] - region.left - region.width
        ),
    }


def _cell_means(image: np.ndarray) -> np.ndarray:
    """Return the means of cells of an image, which have less noise than single pixels."""
    for axis in (0, 1):
        cells = min(_CELLS, image.shape[axis])
        starts = np.arange(cells) * image.shape[axis] // cells
        sizes = np.diff([*starts, image.shape[axis]])
        image = np.add.reduceat(image, starts, axis=axis)
        image = image / (sizes[:, None] if axis == 0 else sizes)
    return image


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
