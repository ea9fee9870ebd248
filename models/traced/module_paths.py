"""`ModulePaths`: which module of a model runs now, by hooks, and with which batch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ...instruments import InputError
from .checks import check_autocast
from .tags import tensors_in


@dataclass
class RunningModule:
    """A module that runs.

    Parameters
    ----------
    path : of the module, such as "model.layers.0.self_attn"; "" is the model itself
    module : that runs
    batch : rows of the first tensor that it was given
    used : number of products of each role so far
    """

    path: str
    module: torch.nn.Module | None
    batch: int = 1
    used: Counter[str] = field(default_factory=Counter)


class ModulePaths:
    """The modules that run now, innermost last; only within `watched`.

    Attributes
    ----------
    frames : of the modules that run
    first_input : the first tensor given to the outermost one; None before
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._thread = 0
        self.frames: list[RunningModule] = []
        self.first_input: torch.Tensor | None = None

    @property
    def innermost(self) -> RunningModule:
        """The module that runs; one without a name outside of all."""
        return self.frames[-1] if self.frames else RunningModule("", None)

    @property
    def batch(self) -> int:
        """Rows of the batch that the outermost module was given."""
        return self.frames[0].batch if self.frames else 1

    @property
    def batch_and_tokens(self) -> tuple[int, int]:
        """Rows of the first input of the last pass, and tokens of each; 1 token of an image."""
        shape = [1] if self.first_input is None else list(self.first_input.shape)
        return shape[0], shape[1] if len(shape) in (2, 3) else 1

    @contextmanager
    def watched(self, on_call: Any = None, after_call: Any = None) -> Iterator[None]:
        """Watch the calls of all modules.

        Parameters
        ----------
        on_call, after_call : called before and after each call of an outermost module
        """
        if any(isinstance(hook, _Hook) for hook in self._model._forward_pre_hooks.values()):
            raise InputError("the module has optics open already; leave their `with` first")
        self._thread = threading.get_ident()
        with ExitStack() as hooks:
            hooks.callback(self.frames.clear)
            for path, module in self._model.named_modules():
                enter = _Hook(self._enter(path, on_call))
                leave = _Hook(self._leave(after_call))
                for handle in (
                    module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True),
                    module.register_forward_hook(leave, always_call=True),
                ):
                    hooks.callback(handle.remove)
            yield

    def _enter(self, path: str, on_call: Any) -> Any:
        def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            check_autocast()
            if threading.get_ident() != self._thread:
                raise InputError(
                    f"the module {path or type(module).__name__!r} was called from another thread "
                    "than the one that opened its optics; open them in that thread"
                )
            tensors = [tensor for tensor in tensors_in([args, kwargs]) if tensor.dim()]
            frame = RunningModule(path, module, tensors[0].shape[0] if tensors else 1)
            is_outermost = not self.frames
            self.frames.append(frame)
            if is_outermost:
                self.first_input = tensors[0] if tensors else None
                if on_call is not None:
                    on_call()

        return enter

    def _leave(self, after_call: Any) -> Any:
        def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
            while self.frames and self.frames.pop().module is not module:
                pass  # of modules inside that were left by an exception
            if not self.frames and after_call is not None:
                after_call()

        return leave


@contextmanager
def evaluated(model: torch.nn.Module) -> Iterator[None]:
    """Set a module to evaluation; afterwards, each of its modules is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


class _Hook:
    """A hook that copies of its module, such as saved ones, do without."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, *given: Any) -> None:
        self._call(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_hook, ()


def _no_hook() -> Any:
    return _nothing


def _nothing(*given: Any) -> None:
    """Stand for a hook in a copy of its module."""
