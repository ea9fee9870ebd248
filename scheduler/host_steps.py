"""The digital operations between products, shared by all families, in float32.

Each is registered by name with its operations per value of the result, for the account of time. A
step may overwrite its first operand when `scratch` is true, since no later step reads it then.
With numba (the extra `fast`), the loops of `compiled_steps` replace those of numpy, with the same
bits: exponentials and sums are written out here, since those of numpy depend on the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from ..backends.mock import LOOPS
from ..instruments import InputError

_FLOAT = np.dtype(np.float32)
_BLOCK = 1 << 15  # values per block, which stays in cache
_LANES = 32  # partial sums of a row


@dataclass(frozen=True)
class HostFunction:
    """A registered step: its function, and its operations per value of the result.

    Parameters
    ----------
    takes_scratch : whether it may overwrite its first operand
    tables : weights of which it only looks up rows
    """

    call: Callable[..., Any]
    operations: float
    takes_scratch: bool
    tables: tuple[str, ...] = ()


LOOPS.add(f"{__package__}.all_steps")
REGISTRY: dict[str, HostFunction] = {}


def host_step(
    operations: float, tables: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under its own name."""

    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        takes_scratch = "scratch" in call.__kwdefaults__ if call.__kwdefaults__ else False
        REGISTRY[call.__name__] = HostFunction(call, operations, takes_scratch, tables)
        return call

    return register


def _loops() -> Any:
    """Return the module of compiled loops, imported when a step first needs it; None without."""
    return _imported_loops() if LOOPS.is_used else None


@cache
def _imported_loops() -> Any:
    return import_module(".compiled_steps", __package__)


def _loops_for(*arrays: np.ndarray) -> Any:
    """Return the compiled loops if they can take these arrays, and None otherwise."""
    for array in arrays:
        if array.dtype != _FLOAT or not array.flags.c_contiguous or not array.size:
            return None
    return _loops()


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


# ---------------------------------------------------------------- exponentials and sums


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


# ---------------------------------------------------------------- embedding and layout


@host_step(operations=1, tables=("table",))
def embed(
    tokens: np.ndarray,
    past: int,
    *,
    table: np.ndarray,
    positions: np.ndarray | None = None,
    types: np.ndarray | None = None,
    padding: int | None = None,
) -> np.ndarray:
    """Look up tokens [B, T], add learned positions and the first token type: [B, T, d].

    Parameters
    ----------
    table : float32 [vocabulary, d], or what returns such rows by `table[tokens]`
    padding : token that is not counted and has the position of its own number; the other tokens
        have the positions after it (RoBERTa); None counts all tokens from 0
    """
    x: np.ndarray = table[tokens]
    if positions is not None and padding is not None:
        is_counted = tokens != padding
        x += positions[padding + is_counted * np.cumsum(is_counted, axis=1)]
    elif positions is not None:
        x += positions[past : past + tokens.shape[1]]
    if types is not None:
        x += types[0]
    return x


@host_step(operations=0)
def patches(images: np.ndarray, *, size: int) -> np.ndarray:
    """Cut images [B, C, H, W] into patches [B, (H / size) (W / size), C size size]."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // size, size, width // size, size)
    return grid.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)


@host_step(operations=0)
def flatten(x: np.ndarray) -> np.ndarray:
    """Make an image [B, ...] a vector [B, K]."""
    return np.ascontiguousarray(x).reshape(len(x), -1)


@host_step(operations=1)
def embed_patches(
    x: np.ndarray, *, bias: np.ndarray, token: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Put the class token before projected patches [B, P, d], add positions: [B, P + 1, d]."""
    batch, count, width = x.shape
    result = np.empty((batch, count + 1, width), dtype=np.float32)
    result[:, :1] = token
    np.add(x, bias, out=result[:, 1:])
    result += positions
    return result


@host_step(operations=0)
def split_heads(x: np.ndarray, *, heads: int, first: int = 0, width: int = 0) -> np.ndarray:
    """Return columns first:first + width of x [B, T, d] as heads [B, heads, T, width / heads].

    They are a view, since the next step reads them once.
    """
    part = x[..., first : first + width] if width else x
    batch, tokens, columns = part.shape
    return part.reshape(batch, tokens, heads, columns // heads).transpose(0, 2, 1, 3)


@host_step(operations=0)
def group_queries(x: np.ndarray, *, key_heads: int) -> np.ndarray:
    """Group the query heads that share a key head: [B, H, T, e] -> [B, Hk, G T, e]."""
    batch, _, _, width = x.shape
    return x.reshape(batch, key_heads, -1, width)


@host_step(operations=0)
def merge_heads(x: np.ndarray, *, groups: int) -> np.ndarray:
    """Merge heads into rows: [B, Hk, G T, e] -> [B, T, Hk G e]."""
    batch, heads, rows, width = x.shape
    apart = x.reshape(batch, heads * groups, rows // groups, width)
    return apart.transpose(0, 2, 1, 3).reshape(batch, rows // groups, -1)


@host_step(operations=0)
def append_state(new: np.ndarray, state: State) -> np.ndarray:
    """Append keys or values [B, H, T, e] to those of past tokens: [B, H, past + T, e]."""
    return state.append(new)


@host_step(operations=0)
def transpose(x: np.ndarray) -> np.ndarray:
    """Swap the last two axes (a view): values as the weights of attention x V."""
    return x.swapaxes(-1, -2)


@host_step(operations=0)
def last_row(x: np.ndarray) -> np.ndarray:
    """Return the last token's row of x [B, T, d]: [B, 1, d]."""
    return np.ascontiguousarray(x[:, -1:])


@host_step(operations=0)
def first_row(x: np.ndarray) -> np.ndarray:
    """Return the first token's row (the class token) of x [B, T, d]: [B, d]."""
    return np.ascontiguousarray(x[:, 0])


# ---------------------------------------------------------------- norms, bias, activation


@host_step(operations=8)
def layer_norm(
    x: np.ndarray, *, weight: np.ndarray, bias: np.ndarray | None = None, epsilon: float
) -> np.ndarray:
    """Normalise the last axis to mean 0 and variance 1, then scale and shift."""
    width = x.shape[-1]
    of_columns = (weight,) if bias is None else (weight, bias)
    loops = _loops_for(x, *of_columns)
    result: np.ndarray
    if loops is not None and all(array.shape == (width,) for array in of_columns):
        result = np.empty(x.shape, dtype=np.float32)
        loops.layer_norm(_rows(x), weight, bias, epsilon, _rows(result))
        return result
    result = x - row_sums(x) / np.float32(width)
    variance = row_sums(result * result) / np.float32(width)
    result *= 1 / np.sqrt(variance + np.float32(epsilon))
    result *= weight
    if bias is not None:
        result += bias
    return result


@host_step(operations=5)
def rms_norm(x: np.ndarray, *, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Divide the last axis by its root mean square, then scale."""
    loops = _loops_for(x, weight)
    result: np.ndarray
    if loops is not None and weight.shape == x.shape[-1:]:
        result = np.empty(x.shape, dtype=np.float32)
        loops.rms_norm(_rows(x), weight, epsilon, _rows(result))
        return result
    square = row_sums(x * x) / np.float32(x.shape[-1])
    result = x * (1 / np.sqrt(square + np.float32(epsilon)))
    result *= weight
    return result


@host_step(operations=1)
def add_bias(x: np.ndarray, *, bias: np.ndarray, scratch: bool = False) -> np.ndarray:
    """Add a bias to the last axis."""
    return np.add(x, bias, out=x if scratch else None)


@host_step(operations=2)
def add_residual(
    x: np.ndarray, stream: np.ndarray, *, bias: np.ndarray | None = None, scratch: bool = False
) -> np.ndarray:
    """Add a product (and its bias) to the residual stream."""
    result: np.ndarray = np.add(x, stream, out=x if scratch else None)
    if bias is not None:
        result += bias
    return result


@host_step(operations=10)
def activate(x: np.ndarray, *, function: str, scratch: bool = False) -> np.ndarray:
    """Apply an activation function by name (see `ACTIVATIONS`)."""
    call = ACTIVATIONS[function]
    result = x if scratch and x.flags.c_contiguous else np.array(x, order="C")
    loop = getattr(_loops_for(result), call.__name__, None)
    if loop is None:
        _blockwise(call, result)
    else:
        loop(_rows(result))
    return result


@host_step(operations=11)
def gate(x: np.ndarray, up: np.ndarray, *, function: str, scratch: bool = False) -> np.ndarray:
    """Return activation(x) * up, the gated MLP of Llama."""
    if ACTIVATIONS[function] is silu and x.shape == up.shape:
        loops = _loops_for(x, up)
        if loops is not None:
            result = x if scratch else x.copy()
            loops.gate_silu(_rows(result), _rows(up))
            return result
    result = activate(x, function=function, scratch=scratch)
    result *= up
    return result


@host_step(operations=2)
def clip(x: np.ndarray, *, limit: float) -> np.ndarray:
    """Clip activations to +-limit, as optical Transformers are trained to allow."""
    return np.clip(x, -limit, limit)


@host_step(operations=5)
def quantise(x: np.ndarray, *, levels: int, low: float, high: float) -> np.ndarray:
    """Round to the nearest of equally spaced levels from low to high, and clip beyond."""
    step = np.float32((high - low) / (levels - 1))
    result = np.clip(x, np.float32(low), np.float32(high))
    result -= np.float32(low)
    result /= step
    np.rint(result, out=result)
    result *= step
    result += np.float32(low)
    return np.asarray(result)


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


def _blockwise(function: Callable[[np.ndarray], object], x: np.ndarray) -> None:
    flat = x.reshape(-1)
    # a product may overflow: the quotient is then zero, as it should; the last result is checked
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, flat.size, _BLOCK):
            function(flat[first : first + _BLOCK])


# ---------------------------------------------------------------- attention


@host_step(operations=1)
def attention_mask(
    tokens: np.ndarray, lengths: np.ndarray, past: int, *, causal: bool, window: int = 0
) -> np.ndarray:
    """Return the mask that is added to scores: 0 where a query attends to a key, -inf elsewhere.

    Parameters
    ----------
    tokens : [B, T, ...], only its shape counts
    lengths : [B], valid new tokens of each sequence
    past : number of past tokens
    window : length of the attention window, the token itself included; 0 is without limit

    Returns
    -------
    mask : float32 [B, 1, T, past + T], or [1, 1, T, past + T] where all lengths are full
    """
    count = tokens.shape[1]
    is_full = bool((lengths >= count).all())
    if count == 1 and is_full and (not window or window > past):  # it attends to all keys
        return np.zeros((1, 1, 1, past + 1), dtype=np.float32)
    keys = np.arange(past + count)
    seen = np.ones((1, 1, count, past + count), dtype=bool)
    queries = keys[past:, None]
    if causal:
        seen &= keys <= queries
    if window:
        seen &= keys > queries - window
    if not is_full:
        seen = seen & (keys < past + lengths[:, None])[:, None, None, :]
    return np.where(seen, np.float32(0), np.float32(-np.inf))


@host_step(operations=6)
def softmax(
    scores: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    scale: float,
    groups: int = 1,
    scratch: bool = False,
) -> np.ndarray:
    """Return softmax(scale scores + mask) over the last axis; rows are (group, token)."""
    keys = scores.shape[-1]
    seen = np.zeros((1, 1, 1, keys), dtype=np.float32) if mask is None else mask
    loops = _loops_for(scores, seen)
    if loops is not None and _is_mask_of(scores, seen, groups):
        result = scores if scratch else scores.copy()
        batch = 1 if mask is None else len(scores)
        loops.softmax(result.reshape(batch, -1, keys), seen[:, 0], scale)
        return result
    result = np.multiply(scores, np.float32(scale), out=scores if scratch else None)
    if mask is not None:
        apart = result.reshape(*result.shape[:2], groups, -1, result.shape[-1])
        apart += mask[:, :, None]
    result -= result.max(axis=-1, keepdims=True)
    result = np.ascontiguousarray(result)
    _blockwise(exp, result)
    result *= 1 / row_sums(result)
    return result


def _is_mask_of(scores: np.ndarray, mask: np.ndarray, groups: int) -> bool:
    """Return whether a mask is [B or 1, 1, T, keys] for these scores, or one row for all."""
    batch, heads, tokens, keys = mask.shape if mask.ndim == 4 else (0, 0, 0, 0)
    if (batch, heads, tokens, keys) == (1, 1, 1, scores.shape[-1]):
        return True
    rows = scores.shape[2] if scores.ndim == 4 else 0
    wanted = (groups * tokens, scores.shape[-1])
    return heads == 1 and batch in (1, len(scores)) and (rows, keys) == wanted


@host_step(operations=3)
def rotary(
    x: np.ndarray, past: int, *, base: float, factors: np.ndarray | None = None, **scaling: Any
) -> np.ndarray:
    """Rotate pairs (i, i + e / 2) of heads [B, H, T, e] by their token's position (RoPE).

    Parameters
    ----------
    factors : [e / 2], divisors of the pairs' frequencies (rope_freqs of GGUF files)
    """
    cosine, sine = rotations(x.shape[-1], past, x.shape[2], base, factors, **scaling)
    by_token = x.swapaxes(1, 2)  # as heads lie in memory after `split_heads`
    loops = _loops_for(by_token)
    if loops is not None:
        result = np.empty(x.shape, dtype=np.float32)
        loops.rotary(by_token, cosine, sine, result)
        return result
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    result = np.empty_like(x)
    np.multiply(low, cosine, out=result[..., :half])
    result[..., :half] -= high * sine
    np.multiply(high, cosine, out=result[..., half:])
    result[..., half:] += low * sine
    return result


def rotations(
    width: int, past: int, count: int, base: float, factors: np.ndarray | None, **scaling: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine [count, width / 2] of the angles of tokens after `past` ones."""
    content = b"" if factors is None else factors.astype("<f4").tobytes()
    return _rotations(width, past, count, base, content, tuple(sorted(scaling.items())))


@lru_cache(maxsize=64)
def _rotations(
    width: int,
    past: int,
    count: int,
    base: float,
    factors: bytes,
    scaling: tuple[tuple[str, Any], ...],
) -> tuple[np.ndarray, np.ndarray]:
    frequency = 1 / base ** (np.arange(0, width, 2) / width)
    if factors:
        frequency = frequency / np.frombuffer(factors, dtype="<f4")
    options = dict(scaling)
    if options.get("scaling") == "linear":
        frequency = frequency / options["factor"]
    elif options.get("scaling") == "llama3":
        # low frequencies are divided, high ones kept, with a smooth transition between them
        wavelength = 2 * np.pi / frequency
        low, high = options["low_freq_factor"], options["high_freq_factor"]
        context = options["original_max_position_embeddings"]
        smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
        frequency = (1 - smooth) * frequency / options["factor"] + smooth * frequency
    angle = np.outer(np.arange(past, past + count), frequency)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


class State:
    """Keys or values of past tokens, [B, H, capacity, e], growing by doubling.

    Attributes
    ----------
    length : number of tokens
    encoded : the tokens as weights of a product, by its name, so that they are encoded once
    """

    def __init__(self) -> None:
        self._array: np.ndarray | None = None
        self.length = 0
        self.encoded: dict[str, Any] = {}

    def append(self, new: np.ndarray) -> np.ndarray:
        """Append [B, H, T, e]; return all tokens so far as a view [B, H, length, e]."""
        needed = self.length + new.shape[2]
        if self._array is None:
            self._array = np.empty((*new.shape[:2], needed, new.shape[3]), dtype=np.float32)
        array = self._with_space(self._array, needed)
        array[:, :, self.length : needed] = new
        self.length = needed
        return array[:, :, :needed]

    def _with_space(self, array: np.ndarray, tokens: int) -> np.ndarray:
        """Return the array, at least doubled where it has no space for so many tokens."""
        if array.shape[2] < tokens:
            capacity = max(tokens, 2 * array.shape[2])
            larger = np.empty((*array.shape[:2], capacity, array.shape[3]), dtype=np.float32)
            larger[:, :, : self.length] = array[:, :, : self.length]
            self._array = array = larger
        return array

    def split(self, cuts: Sequence[tuple[int, int]], new: int) -> list[State]:
        """Return one state for each range of rows (first, last), with space for new tokens.

        They are views of this state, unless it is empty.
        """
        if self._array is not None:
            self._with_space(self._array, self.length + new)
        parts = [State() for _ in cuts]
        for part, (first, last) in zip(parts, cuts, strict=True):
            part.length = self.length
            part._array = None if self._array is None else self._array[first:last]
        return parts

    def join(self, parts: Sequence[State]) -> None:
        """Take over the tokens that the parts of a split appended."""
        if self._array is None and all(part._array is not None for part in parts):
            self._array = np.concatenate([part._array for part in parts])
        self.length = parts[0].length


# ---------------------------------------------------------------- after the last layer


@host_step(operations=2)
def pool(x: np.ndarray, lengths: np.ndarray, *, modes: Sequence[str]) -> np.ndarray:
    """Pool the valid tokens of x [B, T, d], with the modes one after another: [B, modes d]."""
    return np.concatenate([POOLINGS[mode](x, lengths) for mode in modes], axis=1)


def _weighted_mean(x: np.ndarray, lengths: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of tokens [B, T, d], up to each length, by weights [T]: [B, d]."""
    valid = np.where(np.arange(x.shape[1]) < lengths[:, None], weights, 0).astype(np.float32)
    total = np.einsum("btd,bt->bd", x, valid)
    return np.asarray(total / valid.sum(axis=1, keepdims=True), dtype=np.float32)


def _mean(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _weighted_mean(x, lengths, np.ones(x.shape[1]))


def _largest(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    valid = (np.arange(x.shape[1]) < lengths[:, None])[..., None]
    return np.asarray(np.where(valid, x, np.float32(-np.inf)).max(axis=1))


POOLINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {  # sentence-transformers
    "cls": lambda x, lengths: x[:, 0],
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda x, n: _mean(x, n) * np.sqrt(n)[:, None].astype(np.float32),
    "weightedmean": lambda x, n: _weighted_mean(x, n, np.arange(1, x.shape[1] + 1)),
    "lasttoken": lambda x, lengths: x[np.arange(len(x)), lengths - 1],
}


@host_step(operations=3)
def unit_length(x: np.ndarray) -> np.ndarray:
    """Scale the last axis to length 1."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.maximum(norm, 1e-12), dtype=np.float32)


@host_step(operations=4)
def token_loss(logits: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return -log p(following token) for logits [B, T, V] and tokens [B, T]: float64 [B, T]."""
    peak = logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, following[..., None], axis=-1) - peak
    shifted = logits - peak
    total = np.exp(shifted, out=shifted).sum(axis=-1, dtype=np.float64)
    return np.asarray(np.log(total) - chosen[..., 0])


@host_step(operations=4)
def sample(
    logits: np.ndarray, uniform: float, *, temperature: float, top_k: int, top_p: float
) -> int:
    """Choose a token from logits [V]: at temperature 0 the largest, otherwise by probability.

    Parameters
    ----------
    uniform : a random number in [0, 1)
    top_k : keep only the k most probable (0: all)
    top_p : keep the most probable until their sum reaches this (1: all)
    """
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    if top_k:
        order = order[:top_k]
    scaled = logits[order].astype(np.float64) / temperature
    probability = np.exp(scaled - scaled[0])
    probability /= probability.sum()
    cumulative = np.cumsum(probability)
    kept = int(np.searchsorted(cumulative, top_p)) + 1 if top_p < 1 else len(order)
    kept = min(kept, len(order))
    choice = int(np.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], side="right"))
    return int(order[min(choice, kept - 1)])


def check_step(name: str) -> HostFunction:
    """Return a step of the registry.

    Raises
    ------
    InputError : for a name that is not registered
    """
    if name not in REGISTRY:
        raise InputError(f"unknown host step {name!r}; known: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]
