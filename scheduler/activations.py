"""Exponentials, sums of rows and activation functions of the host steps, in numpy float32.

They are written out, since those of numpy depend on the processor. `compiled_steps` performs the
same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_BLOCK = 1 << 15  # values per block, which stays in cache
_LANES = 32  # partial sums of a row


def exp(x: np.ndarray) -> None:
    """Write exp(x) into x: 0 below -87.7, infinity above 88.4.

    exp(x) = 2^n 2^t with t in [-1/2, 1/2]; 2^n is made of its bits. The polynomial is the minimax
    one of 2^t, with a relative error of 2e-7; rounding x log2(e) adds 8e-8 |x|.
    """
    x *= np.float32(1.44269504)
    np.maximum(x, -127, out=x)
    np.minimum(x, 128, out=x)
    n = np.rint(x)
    x -= n
    p = x * np.float32(1.3264685e-3)
    for coefficient in _EXP:
        p += coefficient
        p *= x
    p += 1
    power = n.astype(np.int32)
    power += 127
    power <<= 23
    np.multiply(p, power.view(np.float32), out=x)


_EXP = tuple(np.float32(c) for c in (9.6715158e-3, 5.5507340e-2, 2.4022242e-1, 6.9314700e-1))


def row_sums(x: np.ndarray) -> np.ndarray:
    """Return the sums of the last axis of x [..., K]: [..., 1].

    Number k is added to partial sum k modulo 32, in order, and halves of those are added up.
    """
    whole = x.shape[-1] // _LANES * _LANES
    lanes = np.zeros((*x.shape[:-1], _LANES), dtype=np.float32)
    if whole:
        np.add.reduce(x[..., :whole].reshape(*x.shape[:-1], -1, _LANES), axis=-2, out=lanes)
    lanes[..., : x.shape[-1] - whole] += x[..., whole:]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes


def gelu(x: np.ndarray) -> None:
    """Write x Phi(x) into x; erf by Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911 / np.sqrt(2)) * size)
    tail = np.float32(1.061405429 / 2) * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += np.float32(coefficient / 2)
        tail *= t
    power = np.float32(-0.5) * x
    power *= x
    exp(power)
    tail *= power
    tail *= size
    np.maximum(x, 0, out=x)
    x -= tail


def gelu_tanh(x: np.ndarray) -> None:
    """Write x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 into x, with one exponential."""
    u = x * x
    u *= np.float32(-2 * 0.7978845608 * 0.044715)
    u -= np.float32(2 * 0.7978845608)
    u *= x
    exp(u)
    u += 1
    x /= u


def silu(x: np.ndarray) -> None:
    """Write x / (1 + exp(-x)) into x."""
    u = np.negative(x)
    exp(u)
    u += 1
    x /= u


def sigmoid(x: np.ndarray) -> None:
    """Write 1 / (1 + exp(-x)) into x."""
    np.negative(x, out=x)
    exp(x)
    x += 1
    np.reciprocal(x, out=x)


# They write their result into their argument. A loop of `compiled_steps` has the same name.
ACTIVATIONS: dict[str, Callable[[np.ndarray], object]] = {
    "gelu": gelu,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "silu": silu,
    "swish": silu,
    "relu": lambda x: np.maximum(x, 0, out=x),
    "relu6": lambda x: np.clip(x, 0, 6, out=x),
    "tanh": lambda x: np.tanh(x, out=x),
    "sigmoid": sigmoid,
}
NON_NEGATIVE_ACTIVATIONS = frozenset({"relu", "relu6", "sigmoid"})


def blockwise(function: Callable[[np.ndarray], object], x: np.ndarray) -> None:
    """Call a function that writes into its argument on all blocks of contiguous x."""
    flat = x.reshape(-1)
    # a product may overflow: the quotient is then zero, as it should; the last result is checked
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, flat.size, _BLOCK):
            function(flat[first : first + _BLOCK])
