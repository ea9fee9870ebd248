"""Compiled steps of the simulated light path (extra `fast`); `optics` has them in numpy."""

from typing import NamedTuple

import numpy as np

from ..environment import compiled


@compiled(fastmath=True)
def warp(light: np.ndarray, matrix: np.ndarray, first: int, out: np.ndarray) -> None:
    """Sample light [h, w] at matrix @ (y, x, 1), bilinear, zero outside, rows from `first` on."""
    height, width = light.shape
    for row in range(out.shape[0]):
        y0 = matrix[0, 0] * (first + row) + matrix[0, 2]
        x0 = matrix[1, 0] * (first + row) + matrix[1, 2]
        for column in range(out.shape[1]):
            y = y0 + matrix[0, 1] * column
            x = x0 + matrix[1, 1] * column
            if 0 <= y < height - 1 and 0 <= x < width - 1:
                top, left = int(y), int(x)
                dy, dx = np.float32(y - top), np.float32(x - left)
                upper, lower = light[top], light[top + 1]
                high = upper[left] + dx * (upper[left + 1] - upper[left])
                low = lower[left] + dx * (lower[left + 1] - lower[left])
                out[row, column] = high + dy * (low - high)
                continue
            value = 0.0
            if -1 < y < height and -1 < x < width:
                top, left = int(np.floor(y)), int(np.floor(x))
                dy, dx = np.float32(y - top), np.float32(x - left)
                for i in range(2):
                    for j in range(2):
                        if 0 <= top + i < height and 0 <= left + j < width:
                            weight = (dy if i else 1 - dy) * (dx if j else 1 - dx)
                            value += weight * light[top + i, left + j]
            out[row, column] = value


@compiled(fastmath=True)
def deposit(
    one: np.ndarray,
    other: np.ndarray,
    flat_field: np.ndarray,
    matrix: np.ndarray,
    distortion: float,
    first: int,
    out: np.ndarray,
) -> None:
    """Add one * other * flat_field, rows from `first` on, at the distorted matrix @ (y, x, 1).

    The weights are bilinear. A first loop computes positions and weights of a whole row, because it
    can be vectorised. Both loops together take two thirds of the time of a single loop.
    """
    height, width = out.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    most_y, most_x, wide = height - 1.0, width - 1.0, np.int32(width)
    below, one_px = np.uintp(width), np.uintp(1)
    count = one.shape[1]
    columns = np.arange(count).astype(np.float64)
    per_y, per_x = matrix[0, 1], matrix[1, 1]
    corner_index = np.empty(count, dtype=np.int32)
    weights = np.empty((4, count), dtype=np.float32)
    flat = out.reshape(-1)
    flat[:] = 0
    for row in range(one.shape[0]):
        y0 = matrix[0, 0] * (first + row) + matrix[0, 2]
        x0 = matrix[1, 0] * (first + row) + matrix[1, 2]
        for column in range(count):
            y = y0 + per_y * columns[column]
            x = x0 + per_x * columns[column]
            far_y, far_x = y - middle_y, x - middle_x
            moved = distortion * (far_y * far_y + far_x * far_x)
            y, x = y + moved * far_y, x + moved * far_x
            inside = (y >= 0) & (y < most_y) & (x >= 0) & (x < most_x)
            y = y if inside else 0.0
            x = x if inside else 0.0
            light = one[row, column] * other[row, column] * flat_field[row, column]
            light = light if inside else np.float32(0)
            top, left = np.int32(y), np.int32(x)
            dy, dx = np.float32(y - top), np.float32(x - left)
            low, high = light * dy, light - light * dy
            corner_index[column] = top * wide + left
            weights[0, column] = high - high * dx
            weights[1, column] = high * dx
            weights[2, column] = low - low * dx
            weights[3, column] = low * dx
        for column in range(count):
            corner = np.uintp(corner_index[column])
            flat[corner] += weights[0, column]
            flat[corner + one_px] += weights[1, column]
            flat[corner + below] += weights[2, column]
            flat[corner + below + one_px] += weights[3, column]


@compiled()
def blur(light: np.ndarray, taps: np.ndarray, first: int, out: np.ndarray) -> None:
    """Convolve light with `taps` along both axes, rows from `first` on; dark outside."""
    height, width = light.shape
    reach = len(taps) // 2
    line = np.zeros(width + 2 * reach, dtype=np.float32)  # one row, summed along columns
    for row in range(out.shape[0]):
        line[:] = 0
        for step in range(len(taps)):
            source_row, tap = first + row + step - reach, taps[step]
            if 0 <= source_row < height:
                for column in range(width):
                    line[reach + column] += tap * light[source_row, column]
        out[row] = 0
        for step in range(len(taps)):
            tap = taps[step]
            for column in range(width):
                out[row, column] += tap * line[step + column]


@compiled()
def look_up(levels: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Write table[levels] into `out`, float32."""
    for row in range(levels.shape[0]):
        for column in range(levels.shape[1]):
            out[row, column] = table[levels[row, column]]


class Pixels(NamedTuple):
    """The constants of camera pixels: float32, in electrons and counts."""

    dark: np.float32
    noise: np.float32
    full_well: np.float32
    per_electron: np.float32
    offset: np.float32
    highest: np.float32


@compiled(error_model="numpy")  # a check for divisions by zero would prevent vector instructions
def convert(light: np.ndarray, z: np.ndarray, pixels: Pixels, out: np.ndarray) -> None:
    """Draw detected electrons as `devices._detected_electrons` does, and convert them to counts."""
    for row in range(light.shape[0]):
        for column in range(light.shape[1]):
            mean = light[row, column] + pixels.dark
            variance = mean + pixels.noise
            s = z[row, column]
            skew = (s * s - np.float32(1)) * mean / (np.float32(6) * variance + np.float32(1e-30))
            n = min(np.sqrt(variance) * s + mean + skew, pixels.full_well)
            count = n * pixels.per_electron + pixels.offset
            out[row, column] = min(max(count, np.float32(0)), pixels.highest)
