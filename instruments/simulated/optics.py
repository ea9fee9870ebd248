"""Propagation of light between the planes of the simulation: look-up, warp, product, image, blur.

An affine map is float64 [2, 3]: (y, x) = matrix @ (row, column, 1), in pixels. The code is compiled
where numba is installed. The numpy versions here are slower and equal up to float32 rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from threading import local

import numpy as np

from ..environment import COMPILED

_THREAD = local()
_BAND_PIXELS = 1 << 15  # pixels of a band of rows for one thread, which fit into its cache
_CACHED_MAPS = 4  # a bench has two; each takes up to 48 bytes per pixel


def affine(
    scale: float = 1.0,
    rotation_deg: float = 0.0,
    shift_px: tuple[float, float] = (0.0, 0.0),
    source: tuple[int, int] = (1, 1),
    target: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Return the map of one plane onto another, centre onto centre plus a shift: float64 [2, 3].

    Parameters
    ----------
    source, target : (height, width) of the planes
    """
    angle = np.deg2rad(rotation_deg)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(source) - 1) / 2
    offset = (np.array(target) - 1) / 2 + np.array(shift_px) - turn @ centre
    return np.column_stack([turn, offset])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of an affine map."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def look_up(levels: np.ndarray, table: np.ndarray, space: np.ndarray | None = None) -> np.ndarray:
    """Return the transmission of grey levels [h, w]: float32 [h, w], in `space` if given.

    Allocating memory of this size takes as long as filling it.
    """
    if not COMPILED:
        return np.asarray(table[levels])
    from . import kernels

    out = np.empty(levels.shape, dtype=np.float32) if space is None else space

    def work(first: int, last: int) -> None:
        kernels.look_up(levels[first:last], table, out[first:last])

    in_bands(work, levels.shape, 8)
    return out


def warp(light: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return light [h, w] sampled at the mapped position of each pixel of `shape`; zero outside."""
    identity = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    if light.shape == shape and np.array_equal(matrix, identity):
        return light
    out = np.empty(shape, dtype=np.float32)
    if COMPILED:
        from . import kernels

        def work(first: int, last: int) -> None:
            kernels.warp(light, matrix, first, out[first:last])

        in_bands(work, shape)
        return out
    place, dy, dx = _places(light.shape, matrix.tobytes(), shape)
    flat = np.pad(light, 1).ravel()  # positions outside sample the dark edge
    below = light.shape[1] + 2
    high = flat[place]
    high += dx * (flat[place + 1] - high)
    low = flat[place + below]
    low += dx * (flat[place + below + 1] - low)
    low -= high
    low *= dy
    np.add(high, low, out=out)
    return out


@lru_cache(_CACHED_MAPS)
def _places(
    source: tuple[int, int], matrix: bytes, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each pixel of `shape` samples a plane that has a border of one pixel.

    Returns
    -------
    place : flat index of the upper left of four pixels, intp [h, w]
    dy, dx : distance below and right of it, float32 [h, w]
    """
    turn = np.frombuffer(matrix).reshape(2, 3)
    rows, columns = np.indices(shape)
    y, x = (
        np.clip(turn[i, 0] * rows + turn[i, 1] * columns + turn[i, 2] + 1, 0, size + 1 - 1e-9)
        for i, size in enumerate(source)
    )
    top, left = y.astype(np.intp), x.astype(np.intp)
    dy, dx = (y - top).astype(np.float32), (x - left).astype(np.float32)
    return top * (source[1] + 2) + left, dy, dx


def image(
    one: np.ndarray,
    other: np.ndarray,
    flat_field: np.ndarray,
    matrix: np.ndarray,
    shape: tuple[int, int],
    distortion: float = 0.0,
    space: np.ndarray | None = None,
) -> np.ndarray:
    """Return the image of the product of three planes [h, w] on a sensor, in `space` if given."""
    if COMPILED:
        from . import kernels

        out = np.empty(shape, dtype=np.float32) if space is None else space
        parts = []
        bending = distortion / sum(((size - 1) / 2) ** 2 for size in shape)

        def work(first: int, last: int) -> None:
            part = _space(shape) if first else out
            planes = (plane[first:last] for plane in (one, other, flat_field))
            kernels.deposit(*planes, matrix, bending, first, part)
            parts.append((first, part))

        in_bands(work, one.shape, 2)
        parts.sort(key=lambda item: item[0])
        for _, part in parts[1:]:

            def add(first: int, last: int, part: np.ndarray = part) -> None:
                out[first:last] += part[first:last]

            in_bands(add, shape, 8)
        return out
    light = (one * other * flat_field).ravel()
    total = np.zeros(shape[0] * shape[1])
    for places, shares in _corners(one.shape, matrix.tobytes(), shape, distortion):
        total += np.bincount(places, weights=shares * light, minlength=total.size)
    return total.reshape(shape).astype(np.float32)


def bend(
    y: np.ndarray, x: np.ndarray, shape: tuple[int, int], distortion: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions moved by distortion * r^2 * (position - centre), r = 1 in the corners."""
    middle_y, middle_x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    y, x = y - middle_y, x - middle_x
    factor = 1 + distortion * (y**2 + x**2) / (middle_y**2 + middle_x**2)
    return y * factor + middle_y, x * factor + middle_x


@lru_cache(_CACHED_MAPS)
def _corners(
    source: tuple[int, int], matrix: bytes, shape: tuple[int, int], distortion: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the four sensor pixels of each source pixel, flat, and the fractions of its light."""
    turn = np.frombuffer(matrix).reshape(2, 3)
    rows, columns = np.indices(source)
    y, x = (turn[i, 0] * rows + turn[i, 1] * columns + turn[i, 2] for i in (0, 1))
    if distortion:
        y, x = bend(y, x, shape, distortion)
    inside = (y >= 0) & (y < shape[0] - 1) & (x >= 0) & (x < shape[1] - 1)
    y, x = np.where(inside, y, 0), np.where(inside, x, 0)
    top, left = y.astype(np.intp), x.astype(np.intp)
    dy, dx = y - top, x - left
    corners = []
    for i in range(2):
        for j in range(2):
            share = inside * (dy if i else 1 - dy) * (dx if j else 1 - dx)
            place = (top + i) * shape[1] + left + j
            corners.append((place.ravel(), share.ravel().astype(np.float32)))
    return corners


def interfere(light: np.ndarray, cosine: np.ndarray, share: float) -> np.ndarray:
    """Return light [h, w] of which a fraction interferes with that of the right neighbour.

    a becomes (1 - share) a + share [(a + b) / 2 + sqrt(a b) cos(phase)], b the neighbour. This is
    never negative, and equals a (1 + share cos(phase)) where all pixels have the same light.
    """
    out = light.copy()
    a, b = light[:, :-1], light[:, 1:]
    out[:, :-1] += np.float32(share) * ((b - a) / 2 + np.sqrt(a * b) * cosine[:, :-1])
    return np.maximum(out, 0, out=out)  # removes rounding errors


def taps(sigma_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of a Gaussian point-spread function in pixels, and its weights."""
    if not sigma_px:
        return np.zeros(1, int), np.ones(1)
    reach = int(np.ceil(3 * sigma_px))
    offsets = np.arange(-reach, reach + 1)
    exact = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    return offsets, exact / exact.sum()


def blur(light: np.ndarray, sigma_px: float, space: np.ndarray | None = None) -> np.ndarray:
    """Return an image [h, w] blurred by a Gaussian point-spread function, in `space` if given."""
    if not sigma_px:
        return light
    shares = taps(sigma_px)[1].astype(np.float32)
    reach = len(shares) // 2
    if COMPILED:
        from . import kernels

        out = np.empty_like(light) if space is None else space

        def work(first: int, last: int) -> None:
            kernels.blur(light, shares, first, out[first:last])

        in_bands(work, light.shape)
        return out
    for axis in (0, 1):
        size = light.shape[axis]
        padded = np.pad(light, [(reach, reach) if i == axis else (0, 0) for i in (0, 1)])
        light = np.zeros_like(light)
        for first, tap in enumerate(shares):
            part = slice(first, first + size)
            light += tap * (padded[part] if axis == 0 else padded[:, part])
    return light


def in_bands(work: Callable[[int, int], None], shape: tuple[int, int], most: int = 64) -> None:
    """Call work(first, last) for bands of rows on all cores; the bands depend only on the shape."""
    count = min(most, max(1, shape[0] * shape[1] // _BAND_PIXELS), shape[0])
    if count == 1:
        work(0, shape[0])
        return
    edges = np.linspace(0, shape[0], count + 1).astype(int)
    list(_pool().map(work, edges[:-1], edges[1:]))


def _space(shape: tuple[int, int]) -> np.ndarray:
    """Return the buffer of this thread for a part of an image."""
    if getattr(_THREAD, "shape", None) != shape:
        _THREAD.shape, _THREAD.space = shape, np.empty(shape, dtype=np.float32)
    space: np.ndarray = _THREAD.space
    return space


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="lightloom-light")
