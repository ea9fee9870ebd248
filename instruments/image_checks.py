"""Whether a camera's picture follows what it is set to: exposure, and the part that is read out.

For `lightloom check` and the conformance suite; light falls on the camera meanwhile. A camera that
keeps its exposure, ignores an offset or flips its picture gives frames that nothing else finds
wrong. What a steady, even or dark picture cannot tell is said, and not counted against the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .base import Finding
from .camera import Camera, Region
from .errors import InputError, LimitExceeded

GROWS, PART = "grows with exposure", "reads the part that is asked for"
_STEPS = (1.0, 2.0, 4.0)  # of the exposures that are compared
_TRIES = 12  # at an exposure that is neither too long nor too short
_FULL = 0.95  # of the highest count, from which on a pixel may be full
_MOST_FULL = 0.2  # of the pixels
_SURE = 6.0  # standard deviations of what noise alone makes
_ALIKE = 0.25  # of a growth, by which its repeat may differ
_LEAST, _MOST = 1.3, 3.0  # of the second growth over the first, which is 2
_STEP_PX = 16  # cameras take regions in such steps
_FLOOR = 0.02  # counts
_CELLS = 8  # along each side of a region, in which pixels are compared
_SHIFTS = 4  # places of a region that are looked at, along each side


@dataclass(frozen=True)
class _Growth:
    """How the mean count went with three exposures, twice.

    Parameters
    ----------
    first, second : from the first exposure to the next, and from there to the last
    noise : standard deviation of both, from the spread of single pixels
    repeats : by how much the two rounds differ
    full : share of pixels that were full at the longest exposure
    """

    first: float
    second: float
    noise: float
    repeats: float
    full: float

    @property
    def is_seen(self) -> bool:
        """Whether there is a growth at all, beyond noise and unsteady light."""
        return min(self.first, self.second / 2) > max(_SURE * self.noise, self.repeats / _ALIKE)

    @property
    def is_even(self) -> bool:
        return self.is_seen and _LEAST <= self.second / self.first <= _MOST


def grows_with_exposure(camera: Camera, timeout_s: float = 5.0) -> Finding:
    """Return whether counts grow evenly with the exposure; it is left as it was found.

    Parameters
    ----------
    camera : connected, with steady light on it
    timeout_s : of one exposure
    """
    with _settings_kept(camera):
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
                return Finding(GROWS, True, f"cannot be told: {error}")
            longest_s = _STEPS[-1] * exposure_s
            if growth.is_even:
                return Finding(GROWS, True, f"{exposure_s:.3g} s to {longest_s:.3g} s")
            if growth.full > _MOST_FULL:
                exposure_s = max(exposure_s / 8, low)
            else:
                exposure_s = min(exposure_s * 8, high)
    if growth is not None and growth.full > _MOST_FULL:
        return Finding(GROWS, False, f"{growth.full:.0%} of the pixels are full at {longest_s:g} s")
    return Finding(
        GROWS,
        False,
        f"the picture at {longest_s:.3g} s is no brighter than at {longest_s / _STEPS[-1]:.3g} s, "
        "or not as much as it should be: no light reaches the camera, or it keeps an exposure, "
        "a gain or a gamma of its own",
    )


def reads_the_part(camera: Camera, timeout_s: float = 5.0) -> Finding:
    """Return whether a region shows that part of the whole picture; it is left as it was found.

    Parameters
    ----------
    camera : connected, with a picture on it that has light and dark parts
    """
    height, width = camera.sensor_shape
    with _settings_kept(camera):
        camera.configure(region=Region(0, 0, height, width))
        wholes = [camera.take(timeout_s).data.astype(np.float64) for _ in range(2)]
        found = _telling_region(wholes)
        if found is None:
            return Finding(PART, True, "cannot be told: the picture is too even, or not steady")
        region, allowed = found
        try:
            camera.configure(region=region)
        except InputError as error:
            return Finding(PART, True, f"cannot be told: {error}")
        part = camera.take(timeout_s).data.astype(np.float64)
    seen = _coarse(part)
    off = {name: _rms(seen - other) for name, other in _looks(wholes[0], region).items()}
    if off["right"] <= allowed:
        return Finding(PART, True, f"{region.height} x {region.width} pixels")
    likeliest = min(off, key=lambda name: off[name])
    reason = likeliest if likeliest != "right" else "it is like no part of it"
    return Finding(
        PART,
        False,
        f"the part from row {region.top} and column {region.left} on does not show what stands "
        f"there in the whole picture: {reason}; check offsets and flips (ReverseX, ReverseY)",
    )


# --- exposures -----------------------------------------------------------------------------------


def _allowed_s(camera: Camera, timeout_s: float) -> tuple[float, float]:
    """Return the shortest and longest first exposure, from which the others follow."""
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
    most = _FULL * ((1 << camera.bit_depth) - 1)
    is_full = np.any([frames[-1] > most for frames in rounds], axis=0)
    left = ~is_full if not is_full.all() else np.ones_like(is_full)
    means = np.array([[frame[left].mean() for frame in frames] for frames in rounds])
    spread = np.std(rounds[0][-1][left] - rounds[1][-1][left])
    first, second = np.diff(means.mean(axis=0))
    repeats = float(np.abs(means[0] - means[1]).max())
    noise = float(spread) / float(np.sqrt(left.sum()))
    return _Growth(float(first), float(second), noise, repeats, float(is_full.mean()))


# --- regions -------------------------------------------------------------------------------------


def _telling_region(wholes: list[np.ndarray]) -> tuple[Region, float] | None:
    """Return the region that differs most from what a wrong camera shows, and its allowance."""
    height, width = wholes[0].shape
    best: tuple[float, Region, float] | None = None
    for top, tall in _spans(height):
        for left, wide in _spans(width):
            region = Region(top, left, tall, wide)
            looks = [_looks(whole, region) for whole in wholes]
            right = looks[0]["right"]
            allowed = 3 * _rms(right - looks[1]["right"]) + 0.05 * float(right.std()) + _FLOOR
            least = min(_rms(other - right) for name, other in looks[0].items() if name != "right")
            if least > 2 * allowed and (best is None or least - allowed > best[0]):
                best = (least - allowed, region, allowed)
    return None if best is None else best[1:]


def _spans(side: int) -> list[tuple[int, int]]:
    """Return begin and length of some parts of a side, none at its begin or in its middle."""
    step = _STEP_PX if side >= 3 * _STEP_PX else 1
    length = max(side // 3 // step * step, 1)
    begins = np.linspace(step, side - length, _SHIFTS).astype(int) // step * step
    return [(int(begin), length) for begin in dict.fromkeys(begins) if 2 * begin + length != side]


def _looks(whole: np.ndarray, region: Region) -> dict[str, np.ndarray]:
    """Return what a region can look like: as it should, and what wrong cameras make of it."""

    def cut(of: np.ndarray, top: int, left: int) -> np.ndarray:
        return _coarse(of[top : top + region.height, left : left + region.width])

    right = cut(whole, region.top, region.left)
    return {
        "right": right,
        "its offset is ignored": cut(whole, 0, 0),
        "it is upside down": right[::-1],
        "it is flipped left to right": right[:, ::-1],
        "it is turned by half a turn": right[::-1, ::-1],
        "it is counted from the other end of the rows": cut(
            whole, whole.shape[0] - region.top - region.height, region.left
        ),
        "it is counted from the other end of the columns": cut(
            whole, region.top, whole.shape[1] - region.left - region.width
        ),
    }


def _coarse(picture: np.ndarray) -> np.ndarray:
    """Return the means of some cells along each side, which have less noise than pixels."""
    for axis in (0, 1):
        cells = min(_CELLS, picture.shape[axis])
        begins = np.arange(cells) * picture.shape[axis] // cells
        sizes = np.diff([*begins, picture.shape[axis]])
        picture = np.add.reduceat(picture, begins, axis=axis)
        picture = picture / (sizes[:, None] if axis == 0 else sizes)
    return picture


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@contextmanager
def _settings_kept(camera: Camera) -> Iterator[None]:
    """Put exposure, region and trigger back, and arm it again where it was."""
    before = camera.exposure_s, camera.region, camera.trigger_mode
    was_armed = camera.is_armed
    try:
        if before[2] != "software":
            camera.configure(trigger_mode="software")
        yield
    finally:
        if camera.is_connected:
            exposure_s, region, mode = before
            new_s = exposure_s if exposure_s != camera.exposure_s else None
            camera.configure(exposure_s=new_s, region=region, trigger_mode=mode)
            if was_armed:
                camera.arm()
