"""Digital baselines of a benchmark: a model's program in torch, its products in onnxruntime.

Both take the same weights, inputs and number of threads as lightloom's own float32 run on numpy.
Their results are compared with its results before the timing. Nothing else needs them.
"""

import importlib
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..backends import Address, Backend, MatmulResult, PreparedWeights, Ranges, Stats
from ..backends.mock.int8_gemm import _field, _tensor, import_onnxruntime
from ..instruments.environment import thread_count
from ..models import Model
from ..scheduler import HostStep, OpticalMatmul
from ..scheduler.host_steps import POOLINGS, REGISTRY, rotations
from ..scheduler.program import Step

_FLOAT, _INTS = 1, 7  # types of an element and of an attribute in ONNX

Operands = dict[str, Any]
Call = Callable[[Operands], None]


def missing(package: str) -> str | None:
    """Return why a package cannot be timed, None where it can."""
    if find_spec(package) is None:
        extra = {"onnxruntime": "fast", "torch": "train"}[package]
        return f"{package} is not installed (pip install 'lightloom[{extra}]'): not timed"
    return None


# ------------------------------------------------------------------------------ onnxruntime


class OnnxruntimeBackend(Backend):
    """Backend of onnxruntime's float32 `MatMul`; a weight is fed as it lies in memory."""

    name = "onnxruntime"
    is_optical = False

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> tuple[np.ndarray, bool]:
        """Return weights, and whether their last two axes are [K, M] as `MatMul` takes them."""
        turned = np.swapaxes(weights, -1, -2)
        if turned.flags.c_contiguous:
            return turned, True
        return np.ascontiguousarray(weights), False

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        weights, is_turned = w.content
        if weights.ndim > 2:
            weights = weights.reshape(-1, *weights.shape[-2:])
        else:
            x = x.reshape(-1, x.shape[-1])
        run = _session(weights.ndim, is_turned, thread_count())
        start = time.perf_counter()
        y = run(["y"], {"x": np.ascontiguousarray(x), "w": weights})[0]
        seconds = {"product": time.perf_counter() - start}
        return MatmulResult(y, Stats(macs=x.size * w.shape[-2], seconds=seconds))


@cache
def _session(axes: int, is_turned: bool, threads: int) -> Callable[..., Any]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # threads that spin would take the cores of the next contender
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(_product(axes, is_turned), options, providers=providers)
    run: Callable[..., Any] = session.run
    return run


def _product(axes: int, is_turned: bool) -> bytes:
    """Return the ONNX model of one float32 product (protocol buffers, onnx.proto3).

    The library fuses `Transpose` and `MatMul` into one operation.
    """
    batch = ("b",) * (axes - 2)
    nodes, columns = b"", b"w"
    if not is_turned:
        order = (*range(axes - 2), axes - 1, axes - 2)
        numbers = b"".join(_field(8, axis) for axis in order)
        turn = _field(1, b"perm") + numbers + _field(20, _INTS)
        node = _field(1, b"w") + _field(2, b"turned") + _field(4, b"Transpose") + _field(5, turn)
        nodes, columns = _field(1, node), b"turned"
    product = _field(1, b"x") + _field(1, columns) + _field(2, b"y") + _field(4, b"MatMul")
    graph = nodes + _field(1, product) + _field(2, b"product")
    graph += _field(11, _tensor("x", _FLOAT, *batch, "n", "k"))
    graph += _field(11, _tensor("w", _FLOAT, *batch, *("km" if is_turned else "mk")))
    graph += _field(12, _tensor("y", _FLOAT, *batch, "n", "m"))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


# ------------------------------------------------------------------------------------ torch


class TorchProgram:
    """Program of a model in torch's own functions, fused where torch can.

    A bias belongs to the product before it (`linear`); scores, softmax and values of attention are
    one call (`scaled_dot_product_attention`).

    Parameters
    ----------
    ending : of the program, as the model's family knows it

    Raises
    ------
    NotImplementedError : naming a step that has no function in torch here
    """

    def __init__(self, model: Model, ending: str) -> None:
        self._torch = importlib.import_module("torch")
        self._torch.set_num_threads(thread_count())
        self._program = model.program(ending)
        self._weights, self._context = model.weights, model.config.context
        self._known = self._functions()
        self._calls = self._build(list(self._program.steps))
        self._kept: dict[str, Any] = {}
        self._past = 0

    def begin(self) -> None:
        """Forget all tokens so far."""
        self._kept = {name: _Kept(self._torch) for name in self._program.states}
        self._past = 0

    def run(self, data: np.ndarray) -> np.ndarray:
        """Run one pass over tokens [batch, new], after those so far; or over images."""
        images = data.ndim == 4
        operands: Operands = {"images" if images else "tokens": self._torch.from_numpy(data)}
        lengths = np.full(len(data), self._context if images else data.shape[1])
        operands |= {"lengths": lengths, "past": self._past, **self._kept}
        with self._torch.inference_mode():
            for call, ends in self._calls:
                call(operands)
                for name in ends:
                    operands.pop(name, None)
        self._past += 0 if images else data.shape[1]
        result: np.ndarray = operands[self._program.outputs[0]].numpy()
        return result

    def _build(self, steps: list[Step]) -> list[tuple[Call, tuple[str, ...]]]:
        """Return a call for each step or fused steps, and the operands that it uses last."""
        calls: list[tuple[Call, tuple[str, ...]]] = []
        ends = self._program.last_uses
        place = 0
        while place < len(steps):
            step, count = steps[place], 1
            if isinstance(step, HostStep):
                call = self._host(step)
            elif step.dynamic:
                call, count = self._attention(steps[place : place + 4])
            else:
                call, count = self._linear(step, steps[place + 1 : place + 2])
            over = tuple(name for some in ends[place : place + count] for name in some)
            calls.append((call, over))
            place += count
        return calls

    def _host(self, step: HostStep) -> Call:
        function = self._known.get(step.step)
        if function is None:
            raise NotImplementedError(f"the step {step.step!r} has no function in torch here")
        named = {name: self._tensor(self._weights[w]) for name, w in step.weights.items()}
        named |= step.parameters

        def call(operands: Operands) -> None:
            inputs = [operands[name] for name in step.inputs]
            operands[step.outputs[0]] = function(*inputs, **named)

        return call

    def _linear(self, step: OpticalMatmul, following: list[Step]) -> tuple[Call, int]:
        """Return a product with a stored weight, with the bias (and the residual) that follows."""
        array = self._weights[step.w]
        array = array.reshape(len(array), -1) if array.ndim > 2 else array
        weight = self._tensor(np.ascontiguousarray(array.T) if step.transposed else array)
        y, bias, stream, count = step.y, None, None, 1
        for after in following:
            reads = isinstance(after, HostStep) and after.inputs[0] == y
            if reads and after.step in ("add_bias", "add_residual"):  # type: ignore[union-attr]
                assert isinstance(after, HostStep)
                if "bias" in after.weights:
                    bias = self._tensor(self._weights[after.weights["bias"]])
                stream = after.inputs[1] if after.step == "add_residual" else None
                y, count = after.outputs[0], 2

        multiply = self._product(step, weight, bias)

        def call(operands: Operands) -> None:
            product = multiply(operands[step.x])
            operands[y] = product if stream is None else product.add_(operands[stream])

        return call, count

    def _attention(self, steps: list[Step]) -> tuple[Call, int]:
        """Return scores, softmax, transposed values and their product as one call."""
        names = [s.step if isinstance(s, HostStep) else s.kind for s in steps]
        if names != ["QK^T", "softmax", "transpose", "attention x V"]:
            raise NotImplementedError(f"a product of two operands between {names} in torch")
        scores, softmax, turn, mix = steps
        assert isinstance(scores, OpticalMatmul) and isinstance(softmax, HostStep)
        assert isinstance(turn, HostStep) and isinstance(mix, OpticalMatmul)
        groups, attend = scores.groups, self._attend(softmax.parameters["scale"])

        def call(operands: Operands) -> None:
            mask = operands[softmax.inputs[1]]
            mask = mask.repeat(1, 1, groups, 1) if groups > 1 else mask
            q, k, v = operands[scores.x], operands[scores.w], operands[turn.inputs[0]]
            operands[mix.y] = attend(q, k, v, mask)

        return call, 4

    def _functions(self) -> dict[str, Callable[..., Any]]:
        """Return torch's function for each host step (see `scheduler.host_steps`)."""
        return _embeddings(self._torch) | _heads(self._torch) | _row_steps(self._torch)

    def _product(self, step: OpticalMatmul, weight: Any, bias: Any) -> Callable[[Any], Any]:
        """Return x -> x weight^T + bias, a tensor of its own."""
        linear = self._torch.nn.functional.linear
        return lambda x: linear(x, weight, bias)

    def _attend(self, scale: float) -> Callable[..., Any]:
        """Return (q, k, v, mask) -> softmax(scale q k^T + mask) v."""
        attention = self._torch.nn.functional.scaled_dot_product_attention
        return lambda q, k, v, mask: attention(q, k, v, attn_mask=mask, scale=scale)

    def _tensor(self, array: np.ndarray) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a mapped file is read-only, and is only read
            return self._torch.from_numpy(array)


class _Kept:
    """Keys or values of past tokens as a tensor [B, H, capacity, e], growing by doubling."""

    def __init__(self, torch: Any) -> None:
        self._torch, self._length = torch, 0
        self._tensor: Any = None

    def append(self, new: Any) -> Any:
        needed = self._length + new.shape[2]
        old = self._tensor
        if old is None or old.shape[2] < needed:
            capacity = needed if old is None else max(needed, 2 * old.shape[2])
            self._tensor = self._torch.empty((*new.shape[:2], capacity, new.shape[3]))
            if old is not None:
                self._tensor[:, :, : self._length] = old[:, :, : self._length]
        self._tensor[:, :, self._length : needed] = new
        self._length = needed
        return self._tensor[:, :, :needed]


def _embeddings(torch: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of steps that make rows of the inputs, and results of the rows."""

    def embed(
        tokens: Any,
        past: int,
        table: Any,
        positions: Any = None,
        types: Any = None,
        padding: int | None = None,
    ) -> Any:
        x, places = table[tokens], slice(past, past + tokens.shape[1])
        if padding is not None:
            is_counted = tokens != padding
            places = padding + is_counted * is_counted.cumsum(1)
        x = x if positions is None else x + positions[places]
        return x if types is None else x + types[0]

    def patches(images: Any, size: int) -> Any:
        b, c, h, w = images.shape
        grid = images.reshape(b, c, h // size, size, w // size, size)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * size * size)

    def embed_patches(x: Any, bias: Any, token: Any, positions: Any) -> Any:
        return torch.cat((token.expand(len(x), 1, -1), x + bias), dim=1) + positions

    def pool(x: Any, lengths: Any, modes: Sequence[str]) -> Any:
        counts = np.asarray(lengths)
        return torch.cat([torch.from_numpy(POOLINGS[m](x.numpy(), counts)) for m in modes], dim=1)

    return {
        "embed": embed,
        "patches": patches,
        "embed_patches": embed_patches,
        "flatten": lambda x: x.flatten(1),
        "pool": pool,
        "unit_length": lambda x: torch.nn.functional.normalize(x, dim=-1),
        "last_row": lambda x: x[:, -1:],
        "first_row": lambda x: x[:, 0],
    }


def _heads(torch: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of steps around attention."""

    def split_heads(x: Any, heads: int, first: int = 0, width: int = 0) -> Any:
        part = x[..., first : first + width] if width else x
        return part.unflatten(-1, (heads, -1)).transpose(1, 2)

    def merge_heads(x: Any, groups: int) -> Any:
        b, h, rows, width = x.shape
        apart = x.reshape(b, h * groups, rows // groups, width)
        return apart.transpose(1, 2).reshape(b, rows // groups, -1)

    def attention_mask(x: Any, lengths: Any, past: int, **options: Any) -> Any:
        return torch.from_numpy(REGISTRY["attention_mask"].call(x, lengths, past, **options))

    def rotary(x: Any, past: int, base: float, factors: Any = None, **scaling: Any) -> Any:
        divided = None if factors is None else factors.numpy()
        turns = rotations(x.shape[-1], past, x.shape[2], base, divided, **scaling)
        cosine, sine = (torch.from_numpy(part) for part in turns)
        low, high = x.chunk(2, dim=-1)
        return torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)

    return {
        "split_heads": split_heads,
        "merge_heads": merge_heads,
        "attention_mask": attention_mask,
        "rotary": rotary,
        "group_queries": lambda x, key_heads: x.reshape(len(x), key_heads, -1, x.shape[-1]),
        "append_state": lambda new, kept: kept.append(new),
        "transpose": lambda x: x.transpose(-1, -2),
    }


def _row_steps(torch: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of steps that treat every row alike."""
    f = torch.nn.functional
    activations = {
        "gelu": f.gelu,
        "silu": f.silu,
        "swish": f.silu,
        "relu": f.relu,
        "relu6": f.relu6,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    } | dict.fromkeys(
        ("gelu_fast", "gelu_new", "gelu_pytorch_tanh"), lambda x: f.gelu(x, approximate="tanh")
    )

    def layer_norm(x: Any, weight: Any, epsilon: float, bias: Any = None) -> Any:
        return f.layer_norm(x, weight.shape, weight, bias, epsilon)

    def rms_norm(x: Any, weight: Any, epsilon: float) -> Any:
        return f.rms_norm(x, weight.shape, weight, epsilon)

    def add_residual(x: Any, stream: Any, bias: Any = None) -> Any:
        return x + stream if bias is None else x + stream + bias

    def quantise(x: Any, levels: int, low: float, high: float) -> Any:
        step = (high - low) / (levels - 1)
        return ((x.clamp(low, high) - low) / step).round() * step + low

    return {
        "quantise": quantise,
        "layer_norm": layer_norm,
        "rms_norm": rms_norm,
        "add_residual": add_residual,
        "add_bias": lambda x, bias: x + bias,
        "activate": lambda x, function: activations[function](x),
        "gate": lambda x, up, function: activations[function](x) * up,
        "clip": lambda x, limit: x.clamp(-limit, limit),
    }
