"""`FaultPolicy`: the recoveries for each kind of fault, in order, each counted and reported.

LOST stands for: retry, wait 20 ms, wait 0.2 s, reconnect, retry, pause.

| kind | what happened | default recoveries |
|---|---|---|
| stale | the exposure shows an earlier frame, or two frames | LOST |
| dropped | a gap in the camera's frame numbers | LOST |
| incomplete | a part of a frame did not arrive | LOST |
| timeout | no answer, or no frame, in time | LOST |
| protocol-error | an answer that does not follow the protocol | LOST |
| disconnected | a device is disconnected | reconnect 2, wait 5 s, reconnect, pause |
| in-use | another process holds a device | wait 2 s, reconnect, wait 10 s, reconnect, pause |
| unexpected-intensity | far too little or too much light | retry, wait 20 ms, wait 0.2 s, pause |
| checksum-mismatch | a checksum of a tile does not match | retry, wait 20 ms, wait 0.2 s, pause |
| drift-exceeded | the light left the tolerance of the bench file | pause |
| saturated | a detector is saturated | retry 1, pause |
| interlock | the interlock is open, or emission has stopped | always pause, and latch the bench |

The table `[faults]` of a bench file sets others: `stale = "retry 5, wait 2 s, retry, pause"`.

| recovery | what it does |
|---|---|
| retry N | shows both frames again and takes the shot again, N times; `limits.retries` without N |
| wait TIME | waits, then retries |
| reconnect N | closes and connects the device that failed, or all but the source if it is |
|  | unknown; sets it up as when the bench was opened, then retries |
| realign | measures the registration, then restarts products; calibrated benches only |
| recalibrate | aligns and calibrates, then restarts products; calibrated benches only |
| host | computes the numbers of this shot from the same grey levels, counted as marked |
| skip | uses the numbers of a dark tile for this shot, counted as marked |
| pause | makes the bench safe and ends the run with a diagnosis; it can be resumed |

Each shot uses the list of each kind once, so every combination of faults ends. At the end of a
list the run pauses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ...instruments import (
    ChecksumMismatch,
    Disconnected,
    DriftExceeded,
    DroppedFrame,
    IncompleteFrame,
    InstrumentTimeout,
    InterlockOpen,
    InUse,
    NotConnected,
    ProtocolError,
    Saturated,
    StaleFrame,
    UnexpectedIntensity,
)
from ...instruments.units import quantity

KINDS: dict[type[BaseException], str] = {
    StaleFrame: "stale",
    DroppedFrame: "dropped",
    IncompleteFrame: "incomplete",
    InstrumentTimeout: "timeout",
    ProtocolError: "protocol-error",
    Disconnected: "disconnected",
    NotConnected: "disconnected",
    InUse: "in-use",
    UnexpectedIntensity: "unexpected-intensity",
    ChecksumMismatch: "checksum-mismatch",
    DriftExceeded: "drift-exceeded",
    Saturated: "saturated",
    InterlockOpen: "interlock",
}
SUSPENDED = "suspended"  # shots taken again because a monitor was out of bounds or the light off

_LOST = "retry, wait 20 ms, wait 0.2 s, reconnect, retry, pause"
_UNLIKELY = "retry, wait 20 ms, wait 0.2 s, pause"
DEFAULTS = {
    **dict.fromkeys(("stale", "dropped", "incomplete", "timeout", "protocol-error"), _LOST),
    "disconnected": "reconnect 2, wait 5 s, reconnect, pause",
    "in-use": "wait 2 s, reconnect, wait 10 s, reconnect, pause",
    "unexpected-intensity": _UNLIKELY,
    "checksum-mismatch": _UNLIKELY,
    "drift-exceeded": "pause",
    "saturated": "retry 1, pause",
    "interlock": "pause",
}
OLD_KINDS = {  # words of older files -> current words
    "garbled": "protocol-error",
    "wrong-light": "unexpected-intensity",
    "wrong-sum": "checksum-mismatch",
    "drifted": "drift-exceeded",
}
RESTARTS = ("realign", "recalibrate")  # recoveries after which products restart
_COUNTED = ("retry", "reconnect")
_PLAIN = (*RESTARTS, "host", "skip", "pause")
_MOST_TIMES, _MOST_WAIT_S = 100, 3600.0


@dataclass(frozen=True)
class Recovery:
    """One recovery from a fault.

    Parameters
    ----------
    wait_s : duration of "wait"
    """

    name: str
    wait_s: float = 0.0


PAUSE = Recovery("pause")


def kind_of(error: BaseException) -> str | None:
    """Return the kind of a fault; None if the error is not a fault, such as an exceeded limit."""
    return next((kind for which, kind in KINDS.items() if isinstance(error, which)), None)


class FaultPolicy:
    """The recoveries for each kind of fault.

    Parameters
    ----------
    faults : kind -> recoveries, from the table [faults] of a bench file; other kinds use defaults
    retries : number of retries of "retry" without a number

    Raises
    ------
    ValueError : naming kind and recovery
    """

    def __init__(self, faults: Mapping[str, str], retries: int = 3) -> None:
        for kind in faults:
            if kind == "interlock":
                raise ValueError(
                    "interlock always pauses, and its latch is re-armed on site; leave it out"
                )
            if kind not in DEFAULTS:
                kinds = ", ".join(kind for kind in DEFAULTS if kind != "interlock")
                raise ValueError(f"{kind} is not a kind of fault; kinds are {kinds}")
        self._recoveries = {
            kind: _read(kind, text, retries) for kind, text in {**DEFAULTS, **faults}.items()
        }

    def recovery(self, kind: str, used: Counter[str]) -> Recovery:
        """Return the next recovery for a shot.

        Parameters
        ----------
        used : number of recoveries that the shot has used, by kind
        """
        recoveries = self._recoveries[kind]
        return recoveries[used[kind]] if used[kind] < len(recoveries) else PAUSE

    @property
    def names(self) -> set[str]:
        """The names of all recoveries in this policy."""
        return {
            recovery.name for recoveries in self._recoveries.values() for recovery in recoveries
        }


def _read(kind: str, text: str, retries: int) -> tuple[Recovery, ...]:
    found: list[Recovery] = []
    for part in text.split(","):
        if PAUSE in found:
            raise ValueError(f'{kind} = "{text}": nothing comes after pause')
        name, _, amount = part.strip().partition(" ")
        try:
            found += _recoveries(name, amount.strip(), retries)
        except ValueError as error:
            raise ValueError(f'{kind} = "{text}": {error}') from None
    return tuple(found)


def _recoveries(name: str, amount: str, retries: int) -> list[Recovery]:
    if name in _COUNTED:
        standard = retries if name == "retry" else 1
        if amount and not re.fullmatch(r"\d{1,6}", amount):
            raise ValueError(f"{name} takes a whole number, not {amount!r}")
        times = int(amount) if amount else standard
        if times > _MOST_TIMES:
            raise ValueError(f"{name} {times} is more than {_MOST_TIMES}")
        return [Recovery(name)] * times
    if name == "wait":
        wait_s = quantity(amount, "s") if amount else -1.0
        if not 0 <= wait_s <= _MOST_WAIT_S:
            raise ValueError(f"wait takes a time of up to {_MOST_WAIT_S:g} s, not {amount!r}")
        return [Recovery(name, wait_s)]
    if name in _PLAIN and not amount:
        return [Recovery(name)]
    known = ", ".join((*_COUNTED, "wait", *_PLAIN))
    raise ValueError(
        f"{' '.join((name, amount)).strip()!r} is not a recovery; recoveries are {known}"
    )
