"""`random_products`: the error of dot products of random vectors.

This is the figure of merit of the field. It is compared with the floor that shot noise, read noise,
and the steps of modulators and converter set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...instruments import InputError
from ..address import Address
from .backend import BenchBackend

_DENSITIES = (1.0, 0.5, 0.25, 0.1)  # fractions of non-zero elements: outputs of different light
_OUTPUTS = 64  # of one weight frame, at most
_CLASSES = 6  # of light


@dataclass(frozen=True)
class Accuracy:
    """The errors of random dot products against their exact values.

    Errors are in units of one element pair at full scale, x = w = 1.

    Parameters
    ----------
    products, length : number of dot products, and elements of each
    photons_full_scale : mean electrons of an element pair at full scale
    error, bias : root mean square and mean of the errors
    floor : error of shot noise, read noise, grey-level steps and converter steps alone
    relative_error : error over the root mean square of the exact values
    light_e : mean electrons of all readings of an output, by class of light, float64 [classes]
    error_at_light : relative error of the outputs of each class
    edges, histogram : of errors over predicted noise; ideally a standard normal distribution
    shots, retries : number of shots and of retries
    """

    products: int
    length: int
    photons_full_scale: float
    error: float
    bias: float
    floor: float
    relative_error: float
    light_e: np.ndarray
    error_at_light: np.ndarray
    edges: np.ndarray
    histogram: np.ndarray
    shots: int
    retries: int

    @property
    def over_floor(self) -> float:
        """The error over the floor."""
        return self.error / self.floor

    @property
    def bias_over_floor(self) -> float:
        """The bias over the floor."""
        return self.bias / self.floor

    @property
    def bias_error(self) -> float:
        """The standard error of `bias_over_floor`."""
        return self.error / self.floor / self.products**0.5

    def as_dict(self) -> dict[str, Any]:
        """Return the values and ratios for JSON."""
        ratios = ("over_floor", "bias_over_floor", "bias_error")
        plain = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }
        return plain | {key: float(getattr(self, key)) for key in ratios}


def random_products(backend: BenchBackend, count: int, seed: int = 0) -> Accuracy:
    """Return the accuracy of products of normally distributed random vectors, some of them sparse.

    Parameters
    ----------
    count : least number of dot products, 1 or more

    Raises
    ------
    InputError : for a count below 1
    """
    if count < 1:
        raise InputError(f"the number of random products is {count}; ask for at least 1")
    backend.open()
    chance = np.random.Generator(np.random.Philox(seed))
    length, layout = backend.optical_model.layout.length, backend.optical_model.layout
    outputs = int(min(max(layout.slots // 2, 1), _OUTPUTS, count))
    rows = -(-count // outputs)
    densities = np.array(_DENSITIES)[np.arange(rows) % len(_DENSITIES)]
    lit = chance.random((rows, length)) < densities[:, None]
    lit[np.arange(rows), chance.integers(length, size=rows)] = True
    x = (chance.standard_normal((rows, length)) * lit).astype(np.float32)
    parts, shots, retries = [], 0, 0
    block = max(1, min(rows, 64))
    for first in range(0, rows, block):  # each block has new weights, in other slots
        w = chance.standard_normal((outputs, length)).astype(np.float32)
        part = x[first : first + block]
        name = np.arange(first, first + len(part), dtype=np.uint64)
        result = backend.matmul(part, w, Address(f"random products {seed}/{first}", name))
        shots, retries = shots + result.stats.shots, retries + result.stats.retries
        assert result.variance is not None
        parts.append(_compared(backend, part, w, result.y, result.variance))
    error, exact, variance, light = (
        np.concatenate([part[i].ravel() for part in parts]) for i in range(4)
    )
    z = error / np.sqrt(variance)
    edges = np.linspace(-5, 5, 41)
    histogram = np.histogram(np.clip(z, -4.999, 4.999), edges)[0]
    order = np.array_split(np.argsort(light), min(_CLASSES, len(light)))
    size = float(np.sqrt(np.mean(exact**2)))
    return Accuracy(
        products=error.size,
        length=length,
        photons_full_scale=float(backend.optical_model.typical_full_e),
        error=float(np.sqrt(np.mean(error**2))),
        bias=float(error.mean()),
        floor=float(np.sqrt(variance.mean())),
        relative_error=float(np.sqrt(np.mean(error**2))) / size,
        light_e=np.array([light[some].mean() for some in order]),
        error_at_light=np.array(
            [np.sqrt(np.mean(error[some] ** 2) / np.mean(exact[some] ** 2)) for some in order]
        ),
        edges=edges,
        histogram=histogram,
        shots=shots,
        retries=retries,
    )


def _compared(
    backend: BenchBackend, x: np.ndarray, w: np.ndarray, y: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return errors, exact values, predicted variances and light of outputs, [rows, outputs]."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    x_scale = np.abs(x).max(axis=1, keepdims=True)
    w_scale = np.abs(w).max(axis=1)[None, :]
    scale = x_scale * w_scale
    exact = (x @ w.T) / scale
    noise = (variance + grey_variance(backend, x, w)) / scale**2
    light = backend.optical_model.typical_full_e * _lit(backend.bench.file.encoding.kind, x, w)
    return y / scale - exact, exact, noise, light


def grey_variance(backend: BenchBackend, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the variance of x w^T due to rounding to grey levels, float64 [N, M]."""
    x_scale, w_scale = (np.abs(part).max(axis=1, keepdims=True) for part in (x, w))
    steps = {role: abs(c.brightest - c.darkest) for role, c in backend.optical_model.curves.items()}
    variance = ((w / w_scale) ** 2).sum(axis=1)[None, :] / (12 * steps["input"] ** 2)
    variance = variance + ((x / x_scale) ** 2).sum(axis=1, keepdims=True) / (
        12 * steps["weight"] ** 2
    )
    return np.asarray(variance * (x_scale * w_scale.T) ** 2)


def _lit(kind: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the light of all readings of each output over that of a full-scale product, [N, M]."""
    if kind == "offset":
        u, v = (part - part.min(axis=1, keepdims=True) for part in (x, w))
    else:
        u, v = np.abs(x), np.abs(w) if kind == "abs-split" else np.ones_like(w)
    u, v = (part / np.maximum(part.max(axis=1, keepdims=True), 1e-30) for part in (u, v))
    return u @ v.T
