"""`finetune`: trains a torch module on its noise, towards little light.

The light falls in stages to that of the profile, so that the module can follow. Each stage takes
read-out ranges again, because weights have moved. The module as it was, computed digitally, is the
teacher. The weights that remain are a running mean of those of the steps.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import _disable_current_modes

from ...backends import MockBackend, OpticsProfile, load_profile
from ...backends.profile import LIGHT_WAYS
from ...instruments import InputError
from ...scheduler import DEFAULT_POLICY, Placement
from .checks import check_module
from .noise_gradients import NoiseGradients
from .optics import Light
from .recipe import Recipe, Stage

Batch = tuple[Any, Tensor | None]
STAGES = 20
_CALIBRATION = 2  # batches of each stage


def finetune(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    profile: OpticsProfile | str,
    placement: str | Path | Placement = DEFAULT_POLICY,
    recipe: Recipe | None = None,
    progress: Callable[[Stage], None] | None = None,
) -> list[Stage]:
    """Train a module for a bench profile, in place; see `lightloom.torch.finetune`."""
    check_module(model)
    training = _Training(model, recipe or Recipe())
    base = load_profile(profile) if isinstance(profile, str) else profile
    given, steps, stages = _endless(batches), training.recipe.steps, []
    count = min(STAGES, steps)
    for number in range(count):
        light = training.recipe.light_at(training.done / steps)
        lit = _with_light(base, light)
        backend = MockBackend(lit, seed=training.recipe.seed * STAGES + number)
        end = (number + 1) * steps // count
        loss = training.run(list(itertools.islice(given, end - training.done)), backend, placement)
        stages.append(Stage(training.done, light, loss))
        if progress is not None:
            progress(stages[-1])
    training.keep_average()
    return stages


class _Training:
    """A module, its teacher, its optimiser, and the running mean of its weights."""

    def __init__(self, model: torch.nn.Module, recipe: Recipe) -> None:
        self.model, self.recipe, self.done = model, recipe, 0
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise InputError("no parameter of the module has requires_grad: nothing can be trained")
        self._teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self._optimiser = torch.optim.AdamW(self._parameters, weight_decay=recipe.decay)
        keep = 1 - 1 / recipe.memory
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(keep))

    def run(
        self, batches: list[Batch], backend: MockBackend, placement: str | Path | Placement
    ) -> float:
        """Take one step for each batch; return the mean loss."""
        calibration = [inputs for inputs, _ in batches[:_CALIBRATION]]
        gradients = NoiseGradients(backend.profile) if self.recipe.noise_gradients else None
        total = 0.0
        with Light(self.model, backend, placement, calibration=calibration):
            for inputs, labels in batches:
                with gradients or nullcontext():
                    found = logits_of(self.model, inputs)
                with _disable_current_modes(), torch.no_grad():  # the teacher is digital
                    target = logits_of(self._teacher, inputs)
                # `Light` sees the step, so that it encodes the new weights
                total += self._step(_loss(found, target, labels, self.recipe))
        return total / len(batches)

    def keep_average(self) -> None:
        """Set the weights of the module to their mean."""
        with torch.no_grad():
            for weight, mean in zip(
                self.model.parameters(), self.average.module.parameters(), strict=True
            ):
                weight.copy_(mean)

    def _step(self, loss: Tensor) -> float:
        """Take one step, and return the loss."""
        if not loss.isfinite():
            raise InputError(f"the loss is {loss.item()} in step {self.done}; give a lower rate")
        for group in self._optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.done)
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        self.average.update_parameters(self.model)
        self.done += 1
        return loss.item()


def logits_of(model: torch.nn.Module, inputs: Any) -> Tensor:
    """Return the logits of inputs: a mapping of named arguments, a tuple of them, or one tensor.

    Raises
    ------
    InputError : when a module returns neither a tensor nor something with `logits`
    """
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    else:
        output = model(*(inputs if isinstance(inputs, tuple | list) else (inputs,)))
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the module returns {type(output).__name__}, which has no logits; wrap it in a module "
            "that returns one tensor"
        )
    return found


def _loss(found: Tensor, target: Tensor, labels: Tensor | None, recipe: Recipe) -> Tensor:
    """Return the loss of logits [..., classes] against the teacher's and the labels [...]."""
    share = 1.0 if labels is None else recipe.distillation
    found, target = found.flatten(0, -2).float(), target.flatten(0, -2).float()
    loss = found.new_zeros(())
    if labels is not None and share < 1:
        loss = (1 - share) * functional.cross_entropy(found, labels.flatten())
    if share:
        divergence = functional.kl_div(
            functional.log_softmax(found / recipe.temperature, -1),
            functional.log_softmax(target / recipe.temperature, -1),
            reduction="batchmean",
            log_target=True,
        )
        loss = loss + share * recipe.temperature**2 * divergence
    return loss


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Iterate over batches again and again."""
    while True:
        is_empty = True
        for batch in batches:
            is_empty = False
            yield batch
        if is_empty:
            raise InputError("there are no batches left; give a list of batches, or a DataLoader")


def _with_light(profile: OpticsProfile, factor: float) -> OpticsProfile:
    """Return a profile with more light; one without a light level stays as it is."""
    for way in LIGHT_WAYS:
        if getattr(profile, way) is not None:
            return profile.with_settings({way: factor * getattr(profile, way)})
    return profile
