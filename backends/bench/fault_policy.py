"""`FaultPolicy`: the recoveries for each kind of fault, in order, each counted and reported.

The table `[faults]` of a bench file sets them: `stale = "retry 5, wait 2 s, retry, pause"`. Each
shot uses the list of each kind once, so every combination of faults ends. At the end of a list the
run pauses.
"""

from __future__ import annotations

import json
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
from ...instruments.file_keys import FileKey, as_toml
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
FAULT_KEYS = tuple(
    FileKey(kind, meaning, as_toml(recoveries), allowed="")
    for kind, meaning, recoveries in (
        ("stale", "The exposure shows an earlier frame, or two frames.", _LOST),
        ("dropped", "A gap in the camera's frame numbers.", _LOST),
        ("incomplete", "A part of a frame did not arrive.", _LOST),
        ("timeout", "No answer, or no frame, in time.", _LOST),
        ("protocol-error", "An answer that does not follow the protocol.", _LOST),
        ("disconnected", "A device is gone.", "reconnect 2, wait 5 s, reconnect, pause"),
        (
            "in-use",
            "Another process holds a device.",
            "wait 2 s, reconnect, wait 10 s, reconnect, pause",
        ),
        ("unexpected-intensity", "Far too little or too much light.", _UNLIKELY),
        ("checksum-mismatch", "A checksum of a tile does not match.", _UNLIKELY),
        ("drift-exceeded", "The brightness left `drift_tolerance`.", "pause"),
        ("saturated", "A detector is saturated.", "retry 1, pause"),
    )
)
"""The keys of the table `[faults]`: a kind of fault, and its recoveries in order."""
DEFAULTS = {
    **{key.name: json.loads(key.default) for key in FAULT_KEYS},
    "interlock": "pause",  # no file changes it
}
RECOVERIES: Mapping[str, str] = {
    "retry N": "Shows both frames again and takes the shot again, up to N times. Without N it is "
    "`limits.retries`; N is at most 100.",
    "wait TIME": "Waits, up to an hour, then retries.",
    "reconnect N": "Closes and connects the device that failed, then sets it up as when the bench "
    "was opened, and retries. If it is unknown, the bench connects all devices but the source "
    "again. A source emits again only if its interlock is closed.",
    "realign": "Measures the registration and keeps the rest of the calibration, then restarts "
    "the products; calibrated benches only.",
    "recalibrate": "Aligns and calibrates, then restarts the products; calibrated benches only.",
    "host": "Computes the numbers of this shot from the same grey levels; they count as marked.",
    "skip": "Uses the numbers of a dark tile for this shot; they count as marked.",
    "pause": "Makes the bench safe and ends the run with a diagnosis; `lightloom resume` continues "
    "it.",
}
"""Recovery -> what it does."""
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
