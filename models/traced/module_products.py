"""`ModuleProducts`: names the products of a torch module, and follows its weights through copies.

Shared by running a module on light (`optics`) and by writing it as a program (`recorder`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import flop_registry

from ...instruments import InputError
from .module_paths import ModulePaths
from .naming import (
    kind_of_operands,
    kind_of_weight,
    name_of_operands,
    name_of_weight,
    output_weight,
)
from .products import TensorProduct, is_product
from .tags import Tag, Tags, tensors_in, version_of

_ATEN = torch.ops.aten
_SOFTMAX = {_ATEN._softmax.default, _ATEN._safe_softmax.default}
_COPIES = {  # whose result holds numbers of the first operand, or zeros
    _ATEN.clone.default,
    _ATEN._to_copy.default,
    _ATEN.constant_pad_nd.default,
}
_SIGN_KEPT = _COPIES | {  # of a softmax: the result is not below zero, either
    _ATEN.masked_fill.Scalar,
    _ATEN.native_dropout.default,
}
_SIGN_KEPT_IN_PLACE = {_ATEN.masked_fill_.Scalar, _ATEN.dropout_.default}
_FILLED = {  # place of the number that these write into their result
    _ATEN.constant_pad_nd.default: 2,
    _ATEN.masked_fill.Scalar: 2,
    _ATEN.masked_fill_.Scalar: 2,
}
_UNCOUNTED = {  # products within other operations, whose number is not known here
    "_addmm_activation",
    "_cdist_forward",
    "_cslt_sparse_mm",
    "_cudnn_rnn",
    "_dyn_quant_matmul_4bit",
    "_euclidean_dist",
    "_foreach_mm",
    "_int_mm",
    "_native_multi_head_attention",
    "_pdist_forward",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_grouped_mm",
    "_scaled_mm_v2",
    "_sparse_addmm",
    "_sparse_mm",
    "_sparse_semi_structured_addmm",
    "_sparse_semi_structured_linear",
    "_sparse_semi_structured_mm",
    "_thnn_fused_gru_cell",
    "_thnn_fused_lstm_cell",
    "_transformer_encoder_layer_fwd",
    "_weight_int4pack_mm",
    "_weight_int4pack_mm_for_cpu",
    "_weight_int4pack_mm_with_scales_and_zeros",
    "_weight_int8pack_mm",
    "lstm",
    "miopen_rnn",
    "mkldnn_rnn_layer",
    "quantized_gru",
    "quantized_lstm",
}


@dataclass(frozen=True)
class NamedProduct:
    """The name and kind of a product, and what is known of its operands."""

    name: str
    kind: str
    x: Tag
    w: Tag


class ModuleProducts:
    """The products of one module.

    Attributes
    ----------
    paths : the modules that run now
    tags : of the storages of weights, and of softmax results
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.paths = ModulePaths(model)
        self.tags = Tags()
        self._output: torch.Tensor | None = None

    def begin_pass(self) -> None:
        """Find the weights of the module, which may be new tensors since the last pass."""
        named = dict(self._model.named_parameters(remove_duplicate=False))
        self.tags.name_weights(named | dict(self._model.named_buffers()))
        self._output = output_weight(self._model)

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor holds a weight of the module."""
        return bool(self.tags.of(tensor).weight)

    def named(self, product: TensorProduct) -> NamedProduct:
        """Return the name and kind of the next product."""
        x, w, frame = self.tags.of(product.x), self.tags.of(product.w), self.paths.innermost
        if w.weight:
            name = name_of_weight(frame, product, w.weight)
            return NamedProduct(
                name, kind_of_weight(name, product, self._is_output(product.w)), x, w
            )
        kind = kind_of_operands(frame, product, x)
        return NamedProduct(name_of_operands(frame, kind, product), kind, x, w)

    def _is_output(self, w: torch.Tensor) -> bool:
        output = self._output
        return output is not None and (
            output.untyped_storage()._cdata == w.untyped_storage()._cdata
            and output.shape == w.shape
        )

    def follow(
        self, function: Any, args: Any, kwargs: Any, result: Any, written: Sequence[int]
    ) -> None:
        """Tag what an operation makes of tagged tensors, and notice changes in place."""
        if function in _SOFTMAX:
            self.tags.put(result, Tag(is_softmax=True))
            return
        keeps_sign = not _fills_below_zero(function, args)
        for tensor in _written(function, args, kwargs, written):
            tag = self.tags.of(tensor)
            if tag.weight and not tag.origin:
                self.tags.put(tensor, replace(tag, changes=tag.changes + 1))
            elif tag.weight or (
                tag.is_softmax and not (function in _SIGN_KEPT_IN_PLACE and keeps_sign)
            ):
                self.tags.put(tensor, Tag())
        if function in _SIGN_KEPT and args and isinstance(args[0], torch.Tensor):
            tag = self.tags.of(args[0])
            made = result[0] if isinstance(result, tuple) else result
            if tag.is_softmax and keeps_sign:
                self.tags.put(made, Tag(is_softmax=True))
            elif tag.weight and function in _COPIES:  # two copies may differ in type or padding
                how = (str(function), str(args[1:]), str(kwargs))
                self.tags.put(made, replace(tag, origin=(version_of(args[0], tag), *how)))


def _fills_below_zero(function: Any, args: Any) -> bool:
    """Return whether an operation writes a number below zero among those of its operand."""
    place = _FILLED.get(function)
    return place is not None and place < len(args) and not args[place] >= 0


def _written(
    function: Any, args: Any, kwargs: Any, places: Sequence[int]
) -> Iterator[torch.Tensor]:
    """Yield the tensors that an operation changes; places count its positional and named ones."""
    for place in places:
        name = function._schema.arguments[place].name
        yield from tensors_in(args[place] if place < len(args) else kwargs.get(name))


def as_heads(
    x: torch.Tensor, w: torch.Tensor, kind: str, batch: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return operands [G, ...] as [B, H, ...], and the query heads that share a key head."""
    if x.dim() == 2:
        return x[None, None], w[None, None], 1
    if kind not in ("QK^T", "attention x V") or x.shape[0] % batch:
        return x[:, None], w[:, None], 1
    x, w = x.unflatten(0, (batch, -1)), w.unflatten(0, (batch, -1))
    with _disable_current_modes():
        groups = _equal_heads(w)
    if groups > 1:
        w = w[:, ::groups]
        x = x.unflatten(1, (-1, groups)).flatten(2, 3)
    return x, w, groups


def _equal_heads(w: torch.Tensor) -> int:
    """Return how many neighbouring heads of [B, H, ...] hold equal numbers, in all groups."""
    heads = w.shape[1]
    if heads < 2 or not w.numel() or not torch.equal(w[:, 0], w[:, 1]):
        return 1
    count = 2
    while count < heads and torch.equal(w[:, 0], w[:, count]):
        count += 1
    if heads % count:
        return 1
    grouped = w.unflatten(1, (-1, count))
    return count if bool((grouped == grouped[:, :, :1]).all()) else 1


@dataclass(frozen=True)
class Facts:
    """What matters of an aten operation.

    Parameters
    ----------
    is_product : it may have the form of products
    is_composite : torch computes it by others, which are seen one by one
    holds_products : it has products within that cannot be seen, such as fused attention
    written : places of the arguments that it changes
    is_plain : nothing of this holds, and its result has no tag
    """

    is_product: bool
    is_composite: bool
    holds_products: bool
    written: tuple[int, ...]
    is_plain: bool


@cache
def facts_of(function: Any) -> Facts:
    """Return what matters of an aten operation.

    Raises
    ------
    InputError : for an operation of higher order, within which nothing can be seen
    """
    if not isinstance(function, torch._ops.OpOverload):
        raise InputError(
            f"the module uses {function}, whose products cannot be seen; load it with "
            "attn_implementation='eager', and without compiled functions"
        )
    product, key = is_product(function), "CompositeImplicitAutograd"
    composite = function.namespace != "prim" and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key)
    )
    holds = not product and (
        function.overloadpacket in flop_registry
        or function._schema.name.partition("::")[2] in _UNCOUNTED
    )
    written = tuple(
        place
        for place, argument in enumerate(function._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    is_tagged = function in _SOFTMAX or function in _SIGN_KEPT
    is_plain = not (product or composite or holds or written or is_tagged)
    return Facts(product, composite, holds, written, is_plain)


class SharedSetting:
    """A setting of the whole process, kept while any thread is within it.

    Parameters
    ----------
    setting : makes a context with the setting, which puts back what was before
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[None]]) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._users = 0
        self._stack = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Keep the setting within a `with`."""
        with self._lock:
            if not self._users:
                self._stack.enter_context(self._setting())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._stack.close()


@contextmanager
def _unfused() -> Iterator[None]:
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


unfused_attention = SharedSetting(_unfused)
"""Lets torch compute attention as two products and a softmax."""
