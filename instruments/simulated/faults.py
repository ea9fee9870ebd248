"""Faults of simulated instruments, as observed on real devices, by schedule or rate.

| kind | device | what happens |
|---|---|---|
| held | all | connecting finds it held by another process |
| lost | all | the device is disconnected (unplugged) until it is connected again |
| silent | all | one exchange gets no reply within the time-out |
| frozen | SLM | a frame is accepted but not shown (a window without an event loop) |
| late | SLM | a frame appears `delay_s` later than it should |
| dropped | camera | a frame is lost; the next frame number shows a gap |
| incomplete | camera | a part of a frame does not arrive |
| stale | camera | the previous frame is returned again |
| overflow | camera | a stall of the host loses all waiting frames |
| garbage | camera, DAQ | an obstructed beam: the light does not correspond to the frames |
| tripped | source | the interlock trips and emission stops until it is re-armed |
| dim | source | the source drops to half its power until it is set again |
"""

from __future__ import annotations

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


class Fault(TomlTable):
    """The failures of a device, by its exchanges (frames shown, triggers, reads), counted from 1.

    Parameters
    ----------
    kind : of any device: "held" by another process, "lost", "silent"; of a modulator: "frozen",
        "late"; of a camera: a frame "dropped", "incomplete" or "stale", "overflow" of its buffers;
        of a camera or a DAQ: "garbage", light that does not fit the frames; of a source: "tripped",
        "dim"
    at : numbers of the exchanges that fail
    rate : fraction of exchanges that fail, derived from `seed` and the number of the exchange
    delay_s : delay of the kind "late"
    """

    kind: Kind
    at: tuple[PositiveInt, ...] = ()
    rate: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0
    delay_s: float = Field(default=0.1, ge=0)

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
