"""Loops of the host steps, compiled by numba (the extra `fast`); imported only with numba.

Each function performs the same float32 operations in the same order as its numpy counterpart in
`host_steps`, and gives the same bits. It reads and writes every number once. No step adds up
numbers of two rows, so that the bits of a row do not depend on the batch around it.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..instruments.environment import compiled

_compiled = compiled(error_model="numpy")
_inlined = compiled(error_model="numpy", inline="always")
_float = np.float32
_LANES = 32


@intrinsic
def _as_float(context: Any, bits: Any) -> Any:
    """Return the float32 with the bits of an int32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


@_inlined
def _exp(x: Any) -> Any:
    """Return exp(x); see `host_steps.exp`."""
    t = min(max(x * _float(1.44269504), _float(-127)), _float(128))
    n = np.rint(t)
    t -= n
    p = _float(1.3264685e-3) * t
    p = (p + _float(9.6715158e-3)) * t
    p = (p + _float(5.5507340e-2)) * t
    p = (p + _float(2.4022242e-1)) * t
    p = (p + _float(6.9314700e-1)) * t
    return (p + _float(1)) * _as_float((np.int32(n) + np.int32(127)) << np.int32(23))


@_inlined
def _sum(row: Any, lanes: Any) -> Any:
    """Return the sum of a row [K]; see `host_steps.row_sums`. Lanes [32] are overwritten."""
    width = len(row)
    whole = width // _LANES * _LANES
    for j in range(_LANES):
        lanes[j] = _float(0)
    for k in range(0, whole, _LANES):
        for j in range(_LANES):
            lanes[j] += row[k + j]
    for j in range(width - whole):
        lanes[j] += row[whole + j]
    half = _LANES // 2
    while half:
        for j in range(half):
            lanes[j] += lanes[j + half]
        half //= 2
    return lanes[0]


# --- norms ---------------------------------------------------------------------------------------


@_compiled
def layer_norm(x: Any, weight: Any, bias: Any, epsilon: float, result: Any) -> None:
    """Normalise rows of x [n, K] to mean 0 and variance 1, scale and shift them.

    Parameters
    ----------
    bias : [K] or None
    result : [n, K]
    """
    n, width = x.shape
    lanes, squares = np.empty(_LANES, np.float32), np.empty(width, np.float32)
    for i in range(n):
        row, out = x[i], result[i]
        mean = _sum(row, lanes) / _float(width)
        for k in range(width):
            out[k] = row[k] - mean
            squares[k] = out[k] * out[k]
        scale = _float(1) / np.sqrt(_sum(squares, lanes) / _float(width) + _float(epsilon))
        if bias is None:
            for k in range(width):
                out[k] = out[k] * scale * weight[k]
        else:
            for k in range(width):
                out[k] = out[k] * scale * weight[k] + bias[k]


@_compiled
def rms_norm(x: Any, weight: Any, epsilon: float, result: Any) -> None:
    """Divide rows of x [n, K] by their root mean square, and scale them, into result [n, K]."""
    n, width = x.shape
    lanes, squares = np.empty(_LANES, np.float32), np.empty(width, np.float32)
    for i in range(n):
        row, out = x[i], result[i]
        for k in range(width):
            squares[k] = row[k] * row[k]
        scale = _float(1) / np.sqrt(_sum(squares, lanes) / _float(width) + _float(epsilon))
        for k in range(width):
            out[k] = row[k] * scale * weight[k]


# --- activations, in place -----------------------------------------------------------------------


@_compiled
def gelu(x: Any) -> None:
    """Write x Phi(x) into x [n, K]; see `host_steps.gelu`."""
    n, width = x.shape
    for i in range(n):
        row = x[i]
        for k in range(width):
            number = row[k]
            size = abs(number)
            t = _float(1) / (_float(1) + _float(0.3275911 / np.sqrt(2)) * size)
            tail = _float(1.061405429 / 2) * t
            tail = (tail + _float(-1.453152027 / 2)) * t
            tail = (tail + _float(1.421413741 / 2)) * t
            tail = (tail + _float(-0.284496736 / 2)) * t
            tail = (tail + _float(0.254829592 / 2)) * t
            tail = tail * _exp(_float(-0.5) * number * number) * size
            row[k] = max(number, _float(0)) - tail


@_compiled
def gelu_tanh(x: Any) -> None:
    """Write x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 into x [n, K]."""
    n, width = x.shape
    for i in range(n):
        row = x[i]
        for k in range(width):
            number = row[k]
            u = number * number * _float(-2 * 0.7978845608 * 0.044715)
            u = (u - _float(2 * 0.7978845608)) * number
            row[k] = number / (_exp(u) + _float(1))


@_compiled
def silu(x: Any) -> None:
    """Write x / (1 + exp(-x)) into x [n, K]."""
    n, width = x.shape
    for i in range(n):
        row = x[i]
        for k in range(width):
            row[k] = row[k] / (_exp(-row[k]) + _float(1))


@_compiled
def gate_silu(x: Any, up: Any) -> None:
    """Write up x / (1 + exp(-x)) into x [n, K]; `up` [n, K]. The gate of Llama's MLP."""
    n, width = x.shape
    for i in range(n):
        row, other = x[i], up[i]
        for k in range(width):
            row[k] = row[k] / (_exp(-row[k]) + _float(1)) * other[k]


# --- attention -----------------------------------------------------------------------------------


@_compiled
def _seen_keys(mask: Any) -> Any:
    """Return the number of keys up to the last that a row attends to, in whole vectors of 16."""
    masks, tokens, keys = mask.shape
    counts = np.empty((masks, tokens), np.int64)
    for m in range(masks):
        for t in range(tokens):
            count = keys
            while count and mask[m, t, count - 1] == -np.inf:
                count -= 1
            counts[m, t] = min(keys, (count + 15) // 16 * 16)
    return counts


@_compiled
def softmax(scores: Any, mask: Any, scale: float) -> None:
    """Write softmax(scale scores + mask) over the last axis into the scores.

    Most keys after the last one that a row attends to are not computed: they are 0.

    Parameters
    ----------
    scores : [B, rows, keys]; rows are (head, group, token)
    mask : [B or 1, tokens, keys]
    """
    batch, rows, _ = scores.shape
    masks, tokens, _ = mask.shape
    factor, magnitude = _float(scale), np.int32(0x7FFFFFFF)
    counts, lanes = _seen_keys(mask), np.empty(_LANES, np.float32)
    for b in range(batch):
        of_mask = min(b, masks - 1)
        for i in range(rows):
            row, added, count = scores[b, i], mask[of_mask, i % tokens], counts[of_mask, i % tokens]
            for k in range(count):
                row[k] = row[k] * factor + added[k]
            pattern, most = row.view(np.int32), -magnitude - np.int32(1)
            for k in range(count):  # these keys have the order of the values
                most = max(most, pattern[k] ^ ((pattern[k] >> np.int32(31)) & magnitude))
            largest = _as_float(most ^ ((most >> np.int32(31)) & magnitude))
            for k in range(count):
                row[k] = _exp(row[k] - largest)
            inverse = _float(1) / _sum(row[:count], lanes)
            for k in range(count):
                row[k] *= inverse
            row[count:] = _float(0)


@_compiled
def rotary(x: Any, cosine: Any, sine: Any, result: Any) -> None:
    """Rotate pairs (i, i + e / 2) of x [B, T, H, e] into result [B, H, T, e].

    Parameters
    ----------
    cosine, sine : [T, e / 2], of the angles of the tokens
    """
    batch, tokens, heads, width = x.shape
    half = width // 2
    for b in range(batch):
        for h in range(heads):
            for t in range(tokens):
                row, out, cos, sin = x[b, t, h], result[b, h, t], cosine[t], sine[t]
                for k in range(half):
                    low, high = row[k], row[half + k]
                    out[k] = low * cos[k] - high * sin[k]
                    out[half + k] = high * cos[k] + low * sin[k]
