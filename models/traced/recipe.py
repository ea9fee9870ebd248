"""`Recipe`: how a torch module is trained for little light. It needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...instruments import InputError

_WARMUP = 0.05  # of the steps
_LEAST_RATE = 0.02  # of the rate, at the end


@dataclass(frozen=True)
class Recipe:
    """How a module is trained for light.

    Parameters
    ----------
    steps : of the optimiser (AdamW), one batch each
    rate : of learning, at its largest; it rises over 5 % of the steps and falls along a cosine
    first_light : light of the first stage over that of the profile
    fall : share of the steps in which light falls to that of the profile, geometrically
    distillation : weight of the teacher's logits in the loss; the rest is for the labels
    temperature : that divides both logits for the teacher's part
    memory : steps over which weights are averaged
    decay : of weights
    noise_gradients : gradients also pass through the size of the noise
    seed : of the noise
    """

    steps: int = 1000
    rate: float = 2e-3
    first_light: float = 30.0
    fall: float = 0.3
    distillation: float = 0.5
    temperature: float = 2.0
    memory: int = 200
    decay: float = 0.0
    noise_gradients: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "memory"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: give at least 1")
        for name in ("rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} = {getattr(self, name)} is not above 0")
        for name in ("fall", "distillation"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)} is not between 0 and 1")
        if not 1 <= self.first_light < math.inf:
            raise InputError(f"first_light = {self.first_light}: give 1 (no fall) or more")

    def light_at(self, share: float) -> float:
        """Return the light over that of the profile when a share of the steps is done."""
        return self.first_light ** max(0.0, 1 - share / self.fall) if self.fall else 1.0

    def rate_at(self, step: int) -> float:
        """Return the rate of learning of a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        warm = (step + 1) / (_WARMUP * self.steps + 1)
        return self.rate * min(warm, _LEAST_RATE + (1 - _LEAST_RATE) * cosine)


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Parameters
    ----------
    steps : done so far
    light : over that of the profile
    loss : mean over the stage
    """

    steps: int
    light: float
    loss: float
