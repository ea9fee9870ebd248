"""The names and kinds of a torch module's products, from its module paths and their roles."""

from __future__ import annotations

import re

import torch

from .module_paths import RunningModule
from .products import TensorProduct
from .tags import Tag

_ATTENTION = re.compile(r"att(ention|n)?($|_|\.)|attention|attn", re.IGNORECASE)
_CLASSIFIERS = frozenset("classifier score qa_outputs classification_head heads".split())
_LAST_CLASSIFIERS = frozenset("head fc class_labels_classifier".split())
ROLE_NAMES = {"QK^T": "qk", "attention x V": "av", "product": "product", "experts": "experts"}


def name_of_weight(frame: RunningModule, product: TensorProduct, weight: str) -> str:
    """Return the name of a product with a weight: the path of its module.

    A weight that is not called "weight" adds its own name, and a part of a weight its number.

    Parameters
    ----------
    weight : name of the weight in the model
    """
    name = weight.removesuffix(".weight")
    whole = 0
    storage = product.w.untyped_storage()._cdata
    parameters = {} if frame.module is None else frame.module._parameters
    for leaf, parameter in parameters.items():
        if parameter is not None and parameter.untyped_storage()._cdata == storage:
            path = frame.path or type(frame.module).__name__.lower()
            name = path if leaf == "weight" else f"{path}.{leaf}"
            whole = parameter.numel()
            break
    part = product.w.numel()
    if whole > part > 0:
        return f"{name}.{product.w.storage_offset() // part}"
    return name if product.part is None or whole else f"{name}.{product.part}"


def kind_of_weight(name: str, product: TensorProduct, is_output: bool) -> str:
    """Return the kind of a product with a weight.

    Parameters
    ----------
    is_output : whether it is the weight that a language model predicts tokens with
    """
    pieces = name.split(".")
    if product.w.shape[-1] == 1:
        return "outer product"
    if is_output:
        return "LM head"
    if product.role == "convolution":
        return "convolution"
    if not _CLASSIFIERS.isdisjoint(pieces) or pieces[-1] in _LAST_CLASSIFIERS:
        return "classifier"
    return "experts" if "experts" in pieces or product.role == "experts" else "projection"


def kind_of_operands(frame: RunningModule, product: TensorProduct, x: Tag) -> str:
    """Return the kind of a product of two operands.

    Parameters
    ----------
    x : what is known of the first operand
    """
    if product.w.shape[-1] == 1:
        return "outer product"
    if product.role:
        return product.role
    if x.is_softmax:
        return "attention x V"
    module = "" if frame.module is None else type(frame.module).__name__
    is_attention = _ATTENTION.search(frame.path.rpartition(".")[2]) or _ATTENTION.search(module)
    return "QK^T" if is_attention else "product"


def name_of_operands(frame: RunningModule, kind: str, product: TensorProduct) -> str:
    """Return the name of a product of two operands, which counts those of its module."""
    role = ROLE_NAMES.get(kind, kind.replace(" ", "_"))
    if product.part is None:
        frame.used[role] += 1
    number = frame.used[role] if product.part is None else product.part
    path = f"{frame.path}.{role}" if frame.path else role
    return path if number == 1 and product.part is None else f"{path}.{number}"


def output_weight(model: torch.nn.Module) -> torch.Tensor | None:
    """Return the weight that a language model predicts tokens with; None for other models."""
    getter = getattr(model, "get_output_embeddings", None)
    try:
        found = getter() if callable(getter) else None
    except (AttributeError, NotImplementedError, TypeError):
        found = None
    weight = getattr(found, "weight", None)
    return weight if isinstance(weight, torch.Tensor) else None
