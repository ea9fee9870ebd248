"""`trace`: writes a torch module as the program of a model, with any sizes where it can.

The module is run a few times on inputs of different sizes. A causal language model of transformers
is run with a cache of keys and values, which becomes the state of its program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...backends import DigitalBackend
from ...instruments import InputError
from ...scheduler import Executor
from ...scheduler.program import Program
from ..tokenizer import Tokenizer
from .checks import check_module
from .module_paths import evaluated
from .recorder import Recording, as_exported, record
from .sizes import NotSymbolic
from .traced_model import TracedConfig, TracedModel
from .traced_weights import TracedWeights
from .writer import Port, ProgramWriter

_MOST_DIFFERENT = 1e-3  # of a program's first output from torch's, relative to the largest
_MOST_ROUNDED = 16  # of narrow weights, in steps of their type
_LONGEST = 1 << 20  # tokens of a sequence, for a module that names no limit
_CACHED_SIZES = ((2, 5, 7), (3, 5, 7), (2, 6, 7), (2, 5, 9), (3, 6, 10), (4, 7, 8), (3, 4, 11))
_ERRORS_OF_MODULES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_OUTPUTS = ("logits", "logits_per_image", "last_hidden_state", "pooler_output")


@dataclass(frozen=True)
class _Pass:
    """One pass to record: its inputs and their sizes."""

    inputs: Sequence[torch.Tensor]
    sizes: dict[str, int]


def trace(
    model: torch.nn.Module,
    example_inputs: Any,
    name: str | None = None,
    source: Path | None = None,
    read_tokenizer: Callable[[], Tokenizer] | None = None,
) -> TracedModel:
    """Write a module as a program; see `lightloom.torch.trace`."""
    check_module(model)
    examples = _examples(model, example_inputs)
    try:
        with evaluated(model), _prepared(model):
            if _is_causal(model, examples):
                return _language_model(model, examples, name, source, read_tokenizer)
            return _any_model(model, examples, name, source, read_tokenizer)
    except InputError:
        raise
    except _ERRORS_OF_MODULES as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"the module fails with its example inputs ({type(error).__name__}: {reason}); give "
            "inputs that it accepts, or run it with lightloom.torch.optics"
        ) from error


def _examples(model: torch.nn.Module, given: Any) -> dict[str, torch.Tensor]:
    """Return example inputs by the names of the module's arguments."""
    import inspect

    parameters = inspect.signature(model.forward).parameters
    takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    names = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if isinstance(given, Mapping):
        found = dict(given)
        unknown = [] if takes_more else sorted(set(found) - set(names))
        if unknown:
            raise InputError(
                f"the module takes no argument {unknown[0]!r}; it takes {', '.join(names)}"
            )
    else:
        values = given if isinstance(given, tuple | list) else (given,)
        if len(values) > len(names):
            raise InputError(
                f"{len(values)} example inputs were given, but the module takes {len(names)} "
                f"arguments with names ({', '.join(names)})"
            )
        found = dict(zip(names, values, strict=False))
    if not found:
        raise InputError("there are no example inputs; give a tensor, a tuple or a mapping of them")
    for key, value in found.items():
        if not isinstance(value, torch.Tensor) or not value.numel() or not value.dim():
            shape = f" of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else ""
            raise InputError(
                f"the example input {key!r} is {type(value).__name__}{shape}, not a tensor with a "
                "batch axis and numbers"
            )
    return found


@contextmanager
def _prepared(model: torch.nn.Module) -> Iterator[None]:
    """Let transformers leave out caches, and gather the weights of experts for each token."""
    config = getattr(model, "config", None)
    wanted = {"use_cache": False, "_experts_implementation": "batched_mm"}
    before = {key: getattr(config, key) for key in wanted if hasattr(config, key)}
    for key in before:
        setattr(config, key, wanted[key])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # inputs are small, and threads of a busy computer wait
    try:
        with _silenced():
            yield
    finally:
        torch.set_num_threads(threads)
        for key, value in before.items():
            setattr(config, key, value)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep transformers from advice on how it is called here."""
    library = sys.modules.get("transformers")
    if library is None:
        yield
        return
    before = library.logging.get_verbosity()
    library.logging.set_verbosity_error()
    try:
        yield
    finally:
        library.logging.set_verbosity(before)


def _is_causal(model: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a module is a language model of transformers that decodes with a cache."""
    config = getattr(model, "config", None)
    return (
        set(examples) == {"input_ids"}
        and type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        and hasattr(config, "use_cache")
        and hasattr(model, "generate")
        and not getattr(config, "is_encoder_decoder", False)
    )


# ------------------------------------------------------------------------------- any module


def _any_model(
    model: torch.nn.Module,
    examples: dict[str, torch.Tensor],
    name: str | None,
    source: Path | None,
    read_tokenizer: Callable[[], Tokenizer] | None,
) -> TracedModel:
    names = list(examples)
    outputs: list[str] = []

    def call(*tensors: torch.Tensor) -> list[torch.Tensor]:
        found = _named_outputs(model(**dict(zip(names, tensors, strict=True))))
        outputs[:] = found
        return list(found.values())

    has_tokens = _counts_tokens(examples)
    passes = _passes(examples, has_tokens)
    ports = [Port(one) for one in names]
    try:
        recordings = [record(model, call, one.inputs) for one in passes]
        sizes = [one.sizes for one in passes]
        program = ProgramWriter(recordings, sizes, ports, outputs, has_tokens).program()
        fixed = None
    except (NotSymbolic, RuntimeError, ValueError, IndexError):
        first = _Pass(list(examples.values()), _sizes_of(examples, has_tokens))
        recordings, passes = [record(model, call, first.inputs)], [first]
        writer = ProgramWriter(recordings, [first.sizes], ports, outputs, has_tokens)
        program = writer.program()
        fixed = first.sizes["batch"], first.sizes["new"]
    config = TracedConfig(
        "outputs",
        tuple(names),
        tuple(outputs),
        _context(model) if has_tokens else 1,
        fixed=fixed,
        has_tokens=has_tokens,
    )
    _check(model, call, program, recordings[0], passes[-1], names, [])
    return _made(model, program, recordings[0], config, examples, name, source, read_tokenizer)


def _named_outputs(output: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a module's output by name, the one that users read first as first."""
    if isinstance(output, torch.Tensor):
        return {"output": output}
    items = output.items() if isinstance(output, Mapping) else enumerate(output)
    found = {
        str(key) if isinstance(key, str) else f"output.{key}": value
        for key, value in items
        if isinstance(value, torch.Tensor)
    }
    if not found:
        raise InputError(f"the module returns {type(output).__name__}, which holds no tensor")
    first = next((key for key in _OUTPUTS if key in found), next(iter(found)))
    return {first: found[first], **found}


def _counts_tokens(examples: Mapping[str, torch.Tensor]) -> bool:
    """Return whether all integer inputs are [B, T] of the same T, and come first."""
    whole = [tensor for tensor in examples.values() if not tensor.dtype.is_floating_point]
    return bool(whole) and len(whole) == len(examples) and len({t.shape for t in whole}) == 1


def _sizes_of(examples: Mapping[str, torch.Tensor], has_tokens: bool) -> dict[str, int]:
    first = next(iter(examples.values()))
    return {"batch": first.shape[0], "new": first.shape[1] if has_tokens else 1, "past": 0}


def _passes(examples: Mapping[str, torch.Tensor], has_tokens: bool) -> list[_Pass]:
    """Return passes with inputs of different sizes, made of rows and columns of the examples."""
    sizes = _sizes_of(examples, has_tokens)
    batch, new = max(2, sizes["batch"]), max(4, sizes["new"])
    wanted = [(batch, new), (batch + 1, new), (batch + 2, new)]
    if has_tokens:
        wanted += [(batch, new + 1), (batch + 1, new + 3)]
    return [
        _Pass(
            [
                _of_size(tensor, rows, tokens if has_tokens else None)
                for tensor in examples.values()
            ],
            {"batch": rows, "new": tokens if has_tokens else 1, "past": 0},
        )
        for rows, tokens in wanted
    ]


def _of_size(tensor: torch.Tensor, rows: int, tokens: int | None) -> torch.Tensor:
    """Return an input with so many rows, and tokens, by repeating its own."""
    tensor = tensor[torch.arange(rows) % len(tensor)]
    if tokens is not None:
        tensor = tensor[:, torch.arange(tokens) % tensor.shape[1]]
    return tensor.contiguous()


# ------------------------------------------------------------------------ a language model


def _language_model(
    model: torch.nn.Module,
    examples: dict[str, torch.Tensor],
    name: str | None,
    source: Path | None,
    read_tokenizer: Callable[[], Tokenizer] | None,
) -> TracedModel:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    config: Any = model.config
    tokens = examples["input_ids"]
    with torch.no_grad():
        output = model(input_ids=_of_size(tokens, 1, 4), use_cache=True)
    layers = getattr(getattr(output, "past_key_values", None), "layers", ())
    if not layers or not all(getattr(layer, "keys", None) is not None for layer in layers):
        return _any_model(model, examples, name, source, read_tokenizer)
    shapes = [(layer.keys.shape, layer.values.shape) for layer in layers]

    def call(tokens: torch.Tensor, *past: torch.Tensor) -> list[torch.Tensor]:
        cache = DynamicCache()
        for keys, values in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()
            layer.keys, layer.values = keys, values
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            cache.layers.append(layer)
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        states = [part for layer in cache.layers for part in (layer.keys, layer.values)]
        return [output.logits, *states]

    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    passes = []
    for batch, new, past in _CACHED_SIZES:
        states = [
            torch.randn((batch, one[1], past, one[3]), generator=generator).to(dtype)
            for pair in shapes
            for one in pair
        ]
        given = [_of_size(tokens, batch, new), *states]
        passes.append(_Pass(given, {"batch": batch, "new": new, "past": past}))
    ports = [Port("input_ids")]
    for number in range(len(shapes)):
        ports += [Port(f"layer.{number}.{part}", is_state=True) for part in ("keys", "values")]
    recordings = [record(model, call, one.inputs) for one in passes]
    try:
        writer = ProgramWriter(recordings, [p.sizes for p in passes], ports, ["logits"], True)
        program = writer.program()
    except NotSymbolic:  # its cache has no form as a state: it gives logits only
        return _any_model(model, examples, name, source, read_tokenizer)
    _check(model, call, program, recordings[0], passes[-1], ["input_ids"], ports[1:])
    ends = getattr(config, "eos_token_id", None)
    about = TracedConfig(
        "language",
        ("input_ids",),
        ("logits",),
        _context(model),
        int(recordings[0].results[0].shape[-1]),
        ends=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
    )
    return _made(model, program, recordings[0], about, examples, name, source, read_tokenizer)


def _context(model: torch.nn.Module) -> int:
    config = getattr(model, "config", None)
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(config, key, None)
        if isinstance(found, int) and found > 0:
            return found
    return _LONGEST


# ------------------------------------------------------------------------- what is common


def _made(
    model: torch.nn.Module,
    program: Program,
    recording: Recording,
    config: TracedConfig,
    examples: Mapping[str, torch.Tensor],
    name: str | None,
    source: Path | None,
    read_tokenizer: Callable[[], Tokenizer] | None,
) -> TracedModel:
    title = name or type(model).__name__
    return TracedModel(
        title,
        source or Path(f"{title} (traced, not saved)"),
        program,
        _weights_of(recording, program, title),
        config,
        {key: _array(value) for key, value in examples.items()},
        read_tokenizer,
    )


def _weights_of(recording: Recording, program: Program, title: str) -> TracedWeights:
    readers = {}
    for name in program.weight_shapes:
        tensor = recording.stored[name]
        readers[name] = (tuple(tensor.shape), _reader(tensor))
    return TracedWeights(title, readers)


def _reader(tensor: torch.Tensor) -> Callable[[], np.ndarray]:
    return lambda: _array(tensor)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array, a view where its type is one of numpy's."""
    tensor = tensor.detach().to("cpu")
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    array: np.ndarray = tensor.numpy()
    return array


def _check(
    model: torch.nn.Module,
    call: Callable[..., Sequence[torch.Tensor]],
    program: Program,
    recording: Recording,
    one: _Pass,
    names: Sequence[str],
    states: Sequence[Port],
) -> None:
    """Check that a program gives what torch gives for inputs that were not recorded.

    Raises
    ------
    InputError : when it does not
    """
    from ...scheduler.host_steps import State

    inputs = [tensor.flip(min(1, tensor.dim() - 1)) for tensor in one.inputs]
    operands: dict[str, Any] = {
        name: _array(tensor) for name, tensor in zip(names, inputs, strict=False)
    }
    operands["past"] = one.sizes["past"]
    kept = {port.name: State() for port in states}
    for state, tensor in zip(kept.values(), inputs[len(names) :], strict=True):
        state.append(_array(tensor))
    weights = _weights_of(recording, program, "trace")
    executor = Executor(DigitalBackend(), weights, "host")
    found = executor.run(program, operands, dict(one.sizes), None, kept)[program.outputs[0]]
    with torch.no_grad(), as_exported():
        expected = _array(call(*inputs)[0])
    is_same = found.shape == expected.shape
    off = float(np.abs(found - expected).max(initial=0.0)) if is_same else np.inf
    largest = float(np.abs(expected).max(initial=0.0))
    types = [one.dtype for one in model.parameters() if one.dtype.is_floating_point]
    step = max((torch.finfo(dtype).eps for dtype in types), default=0.0)
    if not off <= max(_MOST_DIFFERENT, _MOST_ROUNDED * step) * max(largest, 1e-30):
        raise InputError(
            f"the program differs from torch by {off:.2g}, of {largest:.2g}, for other inputs than "
            "it was traced with (does the module draw random numbers, or compute with numpy?); run "
            "it with lightloom.torch.optics instead"
        )
