"""`record`: one pass of a torch module as a list of aten operations and products.

The pass is computed with real numbers, so that nothing has to be guessed. Operations in place are
written as ones that return a new tensor. A branch that depends on numbers of the inputs is refused,
since the list would hold one side of it only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ...instruments import InputError
from .checks import check_operands
from .module_products import (
    ModuleProducts,
    SharedSetting,
    as_heads,
    facts_of,
    unfused_attention,
)
from .products import TensorProduct, operation_of

_ATEN = torch.ops.aten
_BY_SHAPE = {  # the numbers of whose result do not depend on those of the first operand
    _ATEN.empty_like.default,
    _ATEN.full_like.default,
    _ATEN.new_empty.default,
    _ATEN.new_full.default,
    _ATEN.new_ones.default,
    _ATEN.new_zeros.default,
    _ATEN.ones_like.default,
    _ATEN.zeros_like.default,
}
_BY_NUMBERS = {  # whose Python result, or shape, depends on the numbers of their operands
    _ATEN._local_scalar_dense.default,
    _ATEN._unique2.default,
    _ATEN.equal.default,
    _ATEN.is_nonzero.default,
    _ATEN.masked_select.default,
    _ATEN.nonzero.default,
    _ATEN.unique_consecutive.default,
    _ATEN.unique_dim.default,
}
_OUT_OF_PLACE = {_ATEN.as_strided_.default: _ATEN.as_strided.default}


@dataclass(frozen=True)
class TensorRef:
    """A tensor that an input or an earlier step gives, by its number."""

    number: int


@dataclass(frozen=True)
class WeightRef:
    """A weight or a constant of the module, by its name."""

    name: str


@dataclass(frozen=True)
class Recorded:
    """One step of a pass.

    Parameters
    ----------
    path : of the module that it belongs to
    function : the aten operation; None for a product
    operands : arguments of the operation, or x and w; tensors are `TensorRef` or `WeightRef`
    options : named arguments
    results : numbers of the tensors that it gives
    shapes : of its results
    product : name, kind, groups and sign of a product
    """

    path: str
    function: Any
    operands: Any
    options: Mapping[str, Any]
    results: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    product: tuple[str, str, int, bool] | None = None


@dataclass
class Recording:
    """One pass of a module.

    Parameters
    ----------
    steps : in order
    inputs : numbers of the tensors that the caller gives
    outputs : numbers of the tensors that it receives
    shapes : of all numbered tensors
    stored : weights and constants by name
    results : the numbers of the outputs
    """

    steps: list[Recorded] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    stored: dict[str, torch.Tensor] = field(default_factory=dict)
    results: list[torch.Tensor] = field(default_factory=list)


def record(
    model: torch.nn.Module,
    call: Callable[..., Sequence[torch.Tensor]],
    inputs: Sequence[torch.Tensor],
) -> Recording:
    """Compute one pass of a module, and return its steps.

    Parameters
    ----------
    call : calls the module with the inputs, and returns the tensors that matter

    Raises
    ------
    InputError : where a branch depends on numbers of the inputs
    """
    mode = _Recorder(model)
    with torch.no_grad(), as_exported(), unfused_attention():
        try:
            with mode.products.paths.watched(mode.products.begin_pass), mode:
                results = torch.func.functionalize(call)(*mode.taken(inputs))
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
            mode = _Recorder(model)  # a function with a gradient of its own: as it stands
            with mode.products.paths.watched(mode.products.begin_pass), mode:
                results = call(*mode.taken(inputs))
    mode.recording.results = [torch.as_tensor(result) for result in results]
    mode.recording.outputs = [mode.number_of(result) for result in mode.recording.results]
    return mode.recording


@contextmanager
def _exporting() -> Iterator[None]:
    compiler = torch.compiler
    before = compiler._is_compiling_flag, compiler._is_exporting_flag
    compiler._is_compiling_flag = compiler._is_exporting_flag = True
    try:
        yield
    finally:
        compiler._is_compiling_flag, compiler._is_exporting_flag = before


as_exported = SharedSetting(_exporting)
"""Lets models leave out what depends on numbers, as they do for torch's own export."""


class _Recorder(TorchDispatchMode):
    """Records every operation of a pass."""

    supports_higher_order_operators = True

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.products = ModuleProducts(model)
        self.recording = Recording()
        self._numbers: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []  # so that no two tensors share an id
        self._depends: set[int] = set()  # numbers of tensors that follow from the inputs' numbers
        self._places: dict[tuple[Any, ...], str] = {}
        self._batch = 1

    def taken(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Number the inputs of the pass, and return them."""
        for tensor in inputs:
            number = self._numbered(tensor)
            self.recording.inputs.append(number)
            self._depends.add(number)
        self._batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 1
        return list(inputs)

    def number_of(self, tensor: torch.Tensor) -> int:
        """Return the number of a result."""
        found = self._numbers.get(id(tensor))
        if found is None:  # an operation in place gave it another object
            raise InputError(
                "the module returns a tensor that none of its operations gave; return the result "
                "of an operation"
            )
        return found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        facts = facts_of(function)
        if facts.is_composite:
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if facts.is_product:
            with self:
                operation = operation_of(function, args, kwargs, self.products.is_weight)
                if operation is not None and not facts.written:
                    done = [self._product(product) for product in operation.products]
                    return operation.finish(done).to(operation.dtype)
        if facts.holds_products or facts.is_product:
            raise InputError(
                f"{self._where()} uses {function}, whose products cannot be written as steps; "
                "load it with attn_implementation='eager', or run it with lightloom.torch.optics"
            )
        self._check_branch(function, args)
        if function is _ATEN.as_strided.default and isinstance(args[0], torch.Tensor):
            with self:
                args = _by_memory(*args, **kwargs)
            kwargs = {}
        result = function(*args, **kwargs)
        self.products.follow(function, args, kwargs, result, facts.written)
        self._add(function, args, kwargs, result, facts.written)
        return result

    def _where(self) -> str:
        return f"the module {self.products.paths.innermost.path or '(outermost)'!r}"

    def _check_branch(self, function: Any, args: Any) -> None:
        if function not in _BY_NUMBERS:
            return
        depends = [self._numbers.get(id(tensor)) in self._depends for tensor in _tensors(args)]
        if any(depends):
            raise InputError(
                f"{self._where()} takes a branch, or a size, from the numbers of its inputs "
                f"({function}), so that its steps differ from input to input; run it with "
                "lightloom.torch.optics, which needs no program"
            )

    def _product(self, product: TensorProduct) -> torch.Tensor:
        """Compute a product, record it, and return its result [..., N, M]."""
        named = self.products.named(product)
        check_operands(named.name, product.x, product.w)
        x, w, groups = product.x, product.w, 1
        if not named.w.weight:
            x, w, groups = as_heads(x, w, named.kind, self._batch)
        with _disable_current_modes():
            y = x.float() @ w.float().mT
        about = (named.name, named.kind, groups, named.x.is_softmax)
        weight = self._stored(w, named.name) if named.w.weight else self._operand(w)
        operands = (self._operand(x), weight)
        number = self._numbered(y)
        self._depends.add(number)
        self.recording.steps.append(
            Recorded(
                self.products.paths.innermost.path,
                None,
                operands,
                {},
                (number,),
                (tuple(y.shape),),
                about,
            )
        )
        return y.reshape(*product.x.shape[:-1], product.w.shape[-2])

    def _add(
        self, function: Any, args: Any, kwargs: Any, result: Any, written: Sequence[int]
    ) -> None:
        if written:
            if function not in _OUT_OF_PLACE:
                raise InputError(
                    f"{self._where()} changes an input or a buffer in place, or any tensor within "
                    f"a function with a gradient of its own ({function}), which cannot be written "
                    "as steps; run it with lightloom.torch.optics"
                )
            function = _OUT_OF_PLACE[function]
        leaves, form = tree_flatten((args, kwargs))
        operands, options = tree_unflatten([self._operand(leaf) for leaf in leaves], form)
        inputs = [self._numbers.get(id(leaf)) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if not results:
            return
        numbers = tuple(self._numbered(tensor) for tensor in results)
        if function not in _BY_SHAPE and not self._depends.isdisjoint(inputs):
            self._depends.update(numbers)
        self.recording.steps.append(
            Recorded(
                self.products.paths.innermost.path,
                function,
                operands,
                options,
                numbers,
                tuple(tuple(tensor.shape) for tensor in results),
            )
        )

    def _numbered(self, tensor: torch.Tensor) -> int:
        number = len(self._kept)
        self._numbers[id(tensor)] = number
        self._kept.append(tensor)
        self.recording.shapes[number] = tuple(tensor.shape)
        return number

    def _operand(self, leaf: Any) -> Any:
        """Return what stands for an argument: a tensor by its number, or by its name."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        number = self._numbers.get(id(leaf))
        if number is not None:
            return TensorRef(number)
        return self._stored(leaf, self.products.tags.of(leaf).weight or "constant")

    def _stored(self, tensor: torch.Tensor, name: str) -> WeightRef:
        """Return a weight or a constant by its name; equal views share one."""
        storage = tensor.untyped_storage()
        place = storage._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
        found = self._places.get(place)
        if found is None:
            found = name
            if name in self.recording.stored:
                found = f"{name}.{len(self.recording.stored)}"
            self._places[place] = found
            self.recording.stored[found] = tensor.detach()
        return WeightRef(found)


def _tensors(args: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]


def _by_memory(
    x: torch.Tensor, size: Any, stride: Any, storage_offset: int | None = None
) -> tuple[Any, ...]:
    """Return arguments of `as_strided` for a contiguous tensor, as those of a program are."""
    order = sorted(range(x.dim()), key=lambda axis: -x.stride(axis))
    whole = x if x.is_contiguous() else x.permute(order)
    if not whole.is_contiguous():
        raise InputError(
            "the module reads a tensor by its strides in memory (aten.as_strided), which a program "
            "does not keep; run it with lightloom.torch.optics"
        )
    first = x.storage_offset()
    offset = 0 if storage_offset is None else storage_offset - first
    return (whole, size, stride, offset) if first == 0 else (whole.clone(), size, stride, offset)
