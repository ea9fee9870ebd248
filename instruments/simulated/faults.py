"""Faults of simulated instruments, as observed on real devices, by schedule or rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ..toml_file import TomlTable
from .chance import uniform

Kind = Literal[
    "held",
    "lost",
    "silent",
    "frozen",
    "late",
    "dropped",
    "incomplete",
    "stale",
    "overflow",
    "garbage",
    "tripped",
    "dim",
]


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault: the devices that have it, and its effect."""

    device: str
    effect: str


KINDS: Mapping[Kind, FaultKind] = {
    "held": FaultKind("all", "connecting finds the device held by another process"),
    "lost": FaultKind("all", "the device is disconnected (unplugged) until it is connected again"),
    "silent": FaultKind("all", "one exchange gets no reply within the time-out"),
    "frozen": FaultKind(
        "modulator",
        "a frame is accepted but not shown; with `rate = 1` the window is on the wrong monitor",
    ),
    "late": FaultKind("modulator", "a frame appears `delay_s` later than it should"),
    "dropped": FaultKind("camera", "a frame is lost; the next frame number shows a gap"),
    "incomplete": FaultKind("camera", "a part of a frame does not arrive"),
    "stale": FaultKind("camera", "the previous frame is returned again"),
    "overflow": FaultKind("camera", "a stall of the host loses all waiting frames"),
    "garbage": FaultKind(
        "camera, DAQ", "an obstructed beam: the light does not correspond to the frames"
    ),
    "tripped": FaultKind("source", "the interlock trips; emission stops until it is re-armed"),
    "dim": FaultKind("source", "the source drops to half its power until it is set again"),
}


class Fault(TomlTable):
    """The failures of a device, by its exchanges, counted from 1.

    Exchanges are connections, frames shown, triggers and reads, each kind counted for itself.
    """

    kind: Kind
    """Kind of the fault."""
    at: tuple[PositiveInt, ...] = ()
    """Numbers of the exchanges that fail."""
    rate: float = Field(default=0.0, ge=0, le=1)
    """Fraction of exchanges that fail, derived from `seed` and the number of the exchange."""
    seed: int = 0
    """Seed of the exchanges that fail at a rate."""
    delay_s: float = Field(default=0.1, ge=0)
    """Delay of the kind "late"."""

    @model_validator(mode="after")
    def _can_happen(self) -> Fault:
        if not self.at and not self.rate:
            raise ValueError(
                f"the fault {self.kind!r} never happens: give at = [NUMBER, ...] or a rate"
            )
        return self

    def happens(self, number: int) -> bool:
        """Return whether exchange `number` fails."""
        if number in self.at:
            return True
        return self.rate > 0 and uniform(self.seed, self.kind, number) < self.rate
