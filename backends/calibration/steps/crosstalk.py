"""Crosstalk: light that falls into neighbouring slots, and inputs that reach neighbouring elements.

Every third slot is lit along each axis, so that each dark slot has one lit neighbour in each
direction; nine patterns (three on a line) light every slot once. The decoder corrects the mean over
all slots with a ridge-regularised inverse.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...optics.calibration_file import Figure, Plot
from ..session import CalibrationSession, Measured
from ..slots import sparse

_ROUNDS = 2
_SURE = 4.0  # standard errors from which crosstalk is corrected
_LEAST = 1e-5  # of a slot's light, below which crosstalk is ignored


def crosstalk(session: CalibrationSession) -> Measured:
    """Measure the light in neighbours of lit slots, and between elements."""
    slots, layout = session.slots, session.slots.layout
    elements, elements_error = _between_elements(session)
    figure = Figure(
        "between_elements",
        elements,
        elements_error,
        "",
        "neighbours' input at an element, over its own",
    )
    if layout.slots == 1:
        return Measured((figure,), {"inverse": np.zeros((0, 0), np.float32)})
    rows, columns = np.divmod(np.arange(layout.slots), layout.grid[1])
    lit = sparse(layout)
    inputs = slots.pattern("input", True)
    dark = slots.pattern("weight", False)
    exposure_s = slots.find_exposure(inputs, slots.pattern("weight", lit))
    baseline = slots.read(inputs, dark, exposure_s, 2 * _ROUNDS)
    period = (3 if rows.max() else 1, 3 if columns.max() else 1)
    phases = [(i, j) for i in range(period[0]) for j in range(period[1])]
    sums = np.zeros((3, 3, 3))  # in each direction: light of neighbours, of lit slots, and noise
    for number, phase in enumerate(phases):
        is_lit = (rows % period[0] == phase[0]) & (columns % period[1] == phase[1])
        pattern = slots.pattern("weight", lit & is_lit[:, None])
        reading = slots.read(inputs, pattern, exposure_s, _ROUNDS)
        light = reading.rate - baseline.rate
        noise = reading.variance + baseline.variance
        for i, j, inside, neighbour in _neighbours((rows, columns)):
            pair = inside & is_lit
            other = neighbour[pair]
            sums[:, i, j] += light[other].sum(), light[pair].sum(), noise[other].sum()
        session.progress((number + 1) / len(phases))
    total, weight, variance = sums
    kernel = np.divide(total, weight, out=np.zeros((3, 3)), where=weight > 0)
    error = np.sqrt(np.divide(variance, weight**2, out=np.zeros((3, 3)), where=weight > 0))
    kernel[1, 1] = 0.0
    sure = (np.abs(kernel) > np.maximum(_SURE * error, _LEAST)).any()
    inverse = np.zeros((0, 0), np.float32)
    amplification = 1.0
    if sure:
        matrix = mixing_matrix((rows, columns), kernel)
        inverse = ridge_inverse(matrix, float(error.max()))
        amplification = float(np.sqrt((inverse.astype(float) ** 2).sum(axis=1).mean()))
    figures = (
        Figure("between_rows", float(kernel[[0, 2], 1].mean()), float(error[[0, 2], 1].max()), ""),
        Figure("between_columns", float(kernel[1, [0, 2]].mean()), float(error[1].max()), ""),
        Figure("noise_amplification", amplification, None, "", "of the correction"),
        figure,
    )
    arrays = {"kernel": kernel.astype(np.float32), "inverse": inverse}
    plots = (Plot("Light in the neighbours of a lit slot, over its own", "image", "kernel"),)
    return Measured(figures, arrays, plots)


def _neighbours(
    places: tuple[np.ndarray, np.ndarray],
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield, for each direction, its two indices in a kernel [3, 3], and the neighbours of slots.

    The neighbours are which slots have one, bool [slots], and its number, int [slots].
    """
    rows, columns = places
    across = int(columns.max()) + 1
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            row, column = rows + i, columns + j
            inside = (row >= 0) & (row <= rows.max()) & (column >= 0) & (column < across)
            yield i + 1, j + 1, inside, row * across + column


def mixing_matrix(places: tuple[np.ndarray, np.ndarray], kernel: np.ndarray) -> np.ndarray:
    """Return the mixing matrix [to, from] of the light of slots.

    Parameters
    ----------
    places : row and column of each slot
    kernel : light in each direction's neighbour over the slot's own, [3, 3]
    """
    matrix = np.eye(len(places[0]))
    for i, j, inside, neighbour in _neighbours(places):
        matrix[neighbour[inside], np.nonzero(inside)[0]] += kernel[i, j]
    return matrix


def ridge_inverse(matrix: np.ndarray, error: float) -> np.ndarray:
    """Return the inverse with a ridge of the size of the matrix's error."""
    ridge = error**2 * np.eye(len(matrix))
    return np.asarray(np.linalg.solve(matrix.T @ matrix + ridge, matrix.T), dtype=np.float32)


def _between_elements(session: CalibrationSession) -> tuple[float, float]:
    """Return the crosstalk between elements and its error.

    Weights of even elements are lit, then the inputs of even and of odd ones.
    """
    slots, layout = session.slots, session.slots.layout
    across = session.bench.file.encoding.block[1] if not layout.shares_input else layout.length
    index = np.arange(layout.length)
    even = (index // across + index % across) % 2 == 0
    lit = sparse(layout) & even
    weights, dark = slots.pattern("weight", lit), slots.pattern("weight", False)
    exposure_s = slots.find_exposure(slots.pattern("input", True), weights)
    light, noise = {}, 0.0
    for name, mask in (("own", even), ("other", ~even), ("none", np.zeros_like(even))):
        pattern = slots.pattern("input", mask)
        one = slots.read(pattern, weights, exposure_s, _ROUNDS)
        base = slots.read(pattern, dark, exposure_s, _ROUNDS)
        light[name] = float((one.rate - base.rate).sum())
        noise = float((one.variance + base.variance).sum())
    own = light["own"] - light["none"]
    return (light["other"] - light["none"]) / own, float(np.sqrt(2 * noise)) / own
