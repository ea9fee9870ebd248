"""Compare two benchmarks, and tell changes from noise.

Machines are shared and clock rates vary, so a row is the ratio of a time to numpy's of that round.
A row counts as slower (or faster) when the exact Mann-Whitney test rejects that it is slower
(faster) by `MARGIN` at most. Two runs of the same code differ by some per cent, because memory lies
elsewhere, however little each scatters. Processor time is judged beside time by the clock: it does
not see lost overlap, and it finds changes that a busy machine hides. All rows together raise a
false alarm in at most 1 % of comparisons (Holm's correction of two-sided tests).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .contenders import BARE, NUMPY
from .throughput import KIND, SCHEMA

FALSE_ALARM = 0.01  # over all rows
MARGIN = 0.05  # of a whole phase
STAGE_MARGIN = 0.15  # of one stage in it, whose memory lies elsewhere in every run
LEAST_SHARE = 0.02  # of a phase: smaller stages are not judged

TEST = (
    f"exact Mann-Whitney test of each ratio to {NUMPY} in the same round against a change of "
    f"{MARGIN:.0%} (stages: {STAGE_MARGIN:.0%}); false alarm at most {FALSE_ALARM:.0%} over all "
    "rows (Holm)"
)

Place = tuple[str, str]  # a point, and the name of a contender


@dataclass(frozen=True)
class _Pair:
    """One time that both benchmarks measured: ratios of each round, and medians of seconds."""

    where: str
    phase: str
    what: str
    margin: float
    old: np.ndarray
    new: np.ndarray
    old_s: float
    new_s: float


def read_benchmark(path: Path) -> dict[str, Any]:
    """Return a document that `lightloom benchmark` wrote.

    Raises
    ------
    InputError : naming the file and its fault
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON; give a file that --output wrote") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{path} is not a benchmark; give a file that --output wrote")
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {document.get('schema')!r}, this lightloom writes {SCHEMA}: "
            "measure it again"
        )
    try:
        compare(document, document, path.name)  # reads every key that a comparison needs
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path} is a broken benchmark: {error!r}") from None
    return document


def check_alike(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Refuse to compare different work.

    Parameters
    ----------
    new : the document, or its `throughput.outline` before anything is measured

    Raises
    ------
    InputError : naming what differs
    """
    before, now = _describe(old), _describe(new)
    for key, value in now.items():
        if before[key] != value:
            raise InputError(
                f"{path} was measured with {key} {before[key]}, this is {value}: give the same "
                "options to compare"
            )
    earlier = _entries(old)
    for place, entry in _entries(new).items():
        known = earlier.get(place, entry)["fingerprint"]
        if known and known != entry["fingerprint"]:
            raise InputError(
                f"{path} was measured with other constants of {entry['name']}: give the same "
                "--profile and --set to compare"
            )


def compare(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Compare two documents of the same work.

    Parameters
    ----------
    name : of the old one, for the reader

    Returns
    -------
    document : "rows" (see `_judged`), "counted" (counts and predictions that differ), "test",
        "same_machine", "remarks"
    """
    pairs = list(_pairs(old, new))
    same = {key: old["machine"].get(key) == value for key, value in new["machine"].items()}
    remarks = []
    if not all(same.values()):
        differing = ", ".join(key for key, alike in same.items() if not alike)
        remarks.append(
            f"{name} was measured on another machine ({differing} differ): only ratios are judged, "
            "and those depend on the machine, too"
        )
    before, now = old["versions"], new["versions"]
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            remarks.append(f"{key}: {before.get(key, 'absent')} then, {now.get(key, 'absent')} now")
    n, m = int(old["repeats"]), int(new["repeats"])
    if pairs and 2 * len(pairs) / comb(n + m, n) > FALSE_ALARM:
        remarks.append(
            f"{n} and {m} repeats are too few to call any of {len(pairs)} rows a change; "
            f"{_enough(len(pairs))} in both are enough"
        )
    then, today = _entries(old).keys(), _entries(new).keys()
    for alone, only in ((then - today, f"only in {name}"), (today - then, f"not in {name}")):
        if alone:
            remarks.append(f"{only}: {', '.join(sorted(map(_title, alone)))}")
    return {
        "with": name,
        "test": TEST,
        "same_machine": all(same.values()),
        "remarks": remarks,
        "rows": _judged(pairs),
        "counted": list(_counted(old, new)),
    }


# ---------------------------------------------------------------------------- statistics


def mann_whitney(larger: np.ndarray, smaller: np.ndarray) -> float:
    """Return the p-value of the order of two samples, if they have one distribution.

    Exact for values without ties; a tie counts against the order, so that it is never too small.

    Parameters
    ----------
    larger, smaller : float [n], [m]; the order that is tested
    """
    n, m = len(larger), len(smaller)
    if not n or not m:
        return 1.0
    in_order = int((larger[:, None] > smaller[None]).sum())
    ways = _orders(n, m)
    return sum(ways[in_order:]) / comb(n + m, n)


@cache
def _orders(n: int, m: int) -> list[int]:
    """Count the orders of n and m values by their pairs in order: coefficients of the Gaussian
    binomial, the product of (1 - q^(m + i)) / (1 - q^i) over i = 1 ... n.
    """
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for j in range(n * m, m + i - 1, -1):
            ways[j] -= ways[j - m - i]
        for j in range(i, n * m + 1):
            ways[j] += ways[j - i]
    return ways


def holm(probabilities: Sequence[float]) -> list[float]:
    """Correct probabilities for their number, so that all together keep a false-alarm rate."""
    corrected, largest = [1.0] * len(probabilities), 0.0
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * probabilities[index]))
        corrected[index] = largest
    return corrected


def _judged(pairs: Sequence[_Pair]) -> list[dict[str, Any]]:
    """Return a row for each time, for JSON.

    Returns
    -------
    rows : "old" and "new", medians of the ratios, and "change", the new over the old; "old_s" and
        "new_s", medians of seconds; "p", two-sided and corrected for all rows; "verdict":
        "faster", "slower" or "no change seen"
    """
    slower = [mann_whitney(p.new, p.old * (1 + p.margin)) for p in pairs]
    faster = [mann_whitney(p.old, p.new * (1 + p.margin)) for p in pairs]
    both = holm([min(1.0, 2 * min(two)) for two in zip(slower, faster, strict=True)])
    rows = []
    for pair, slow, fast, p in zip(pairs, slower, faster, both, strict=True):
        word = "slower" if slow < fast else "faster"
        old, new = float(np.median(pair.old)), float(np.median(pair.new))
        rows.append(
            {
                **{"where": pair.where, "phase": pair.phase, "what": pair.what},
                **{"old": old, "new": new, "old_s": pair.old_s, "new_s": pair.new_s},
                **{"p": p, "verdict": word if p <= FALSE_ALARM else "no change seen"},
                "change": new / old,
            }
        )
    return rows


def _enough(rows: int) -> int:
    return next(n for n in range(2, 100) if 2 * rows / comb(2 * n, n) <= FALSE_ALARM)


# --------------------------------------------------------------------- what is compared


def _describe(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was computed; only equal work can be compared."""
    sizes = document["points"][0]["sizes"]
    return {
        "model": document["model"]["name"],
        "parameters": document["model"]["parameters"],
        "placement": document["placement"],
        "threads": document["machine"]["threads"],
        **{key.replace("_", " "): sizes[key] for key in ("batch", "sequence", "new_tokens")},
    }


def _entries(document: Mapping[str, Any]) -> dict[Place, Mapping[str, Any]]:
    """Return the entry of every contender at every point."""
    found = {}
    for point in document["points"]:
        axis = point["axis"]
        where = "" if axis is None else f"{axis} = {point['value']:g}"
        found.update({(where, entry["name"]): entry for entry in point["contenders"]})
    return found


def _title(place: Place) -> str:
    where, name = place
    return f"{name} {where}".strip()


def _common_phases(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[Place, str, list[Mapping[str, Any]]]]:
    """Return what both documents have: the place, the name of a phase, and the phase in both."""
    earlier = _entries(old)
    for place, entry in _entries(new).items():
        if place in earlier:
            before = earlier[place]["phases"]
            for phase, now in entry["phases"].items():
                if phase in before:
                    yield place, phase, [before[phase], now]


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[_Pair]:
    documents = (_entries(old), _entries(new))
    for place, phase, both in _common_phases(old, new):
        where, name = place
        yardstick = (where, BARE if name == NUMPY else NUMPY)  # numpy's own: to its products alone
        if name == BARE or not all(yardstick in entries for entries in documents):
            continue
        yards = [entries[yardstick]["phases"][phase] for entries in documents]
        then, now = map(_series, both, yards)
        for what in now:
            if what not in then:
                continue
            is_whole = what in _WHOLE
            share = max(some[what][1] / some[_WHOLE[0]][1] for some in (then, now))
            if is_whole or share >= LEAST_SHARE:
                margin = MARGIN if is_whole else STAGE_MARGIN
                (old_ratios, old_s), (new_ratios, new_s) = then[what], now[what]
                times = (margin, old_ratios, new_ratios, old_s, new_s)
                yield _Pair(_title(place), phase, what, *times)


_WHOLE = ("whole", "processor time")


def _series(
    phase: Mapping[str, Any], yard: Mapping[str, Any]
) -> dict[str, tuple[np.ndarray, float]]:
    """Return ratios to the yardstick round by round, and median seconds: whole and each stage."""
    taken: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    if phase["seconds"]:
        taken[_WHOLE[0]] = (phase["seconds"], yard["seconds"])
        if min(yard["cpu_s"]) > 0:  # a coarse clock may show none
            taken[_WHOLE[1]] = (phase["cpu_s"], yard["cpu_s"])
    for stage in phase.get("stages", ()):
        taken[f"{stage['kind']} ({stage['where']})"] = (stage["seconds"], yard["seconds"])
    if phase.get("overhead_s"):
        taken["host overhead"] = (phase["overhead_s"], yard["seconds"])
    return {
        what: (np.asarray(seconds) / np.asarray(base), float(np.median(seconds)))
        for what, (seconds, base) in taken.items()
    }


def _counted(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Return the counts and predictions that differ; they do not depend on chance."""
    for place, phase, both in _common_phases(old, new):
        then, now = (
            {**(some.get("counts") or {}), "predicted seconds": some.get("predicted_s")}
            for some in both
        )
        for key, value in now.items():
            before = then.get(key)
            if key == "retries" or None in (before, value) or before == value:
                continue  # retries are of a device that failed
            shown = f"{key.replace('_', ' ')} {before:,.6g} -> {value:,.6g}"
            yield f"{_title(place)}, {phase}: {shown}"
