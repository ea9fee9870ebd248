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
from .throughput import BARE, KIND, NUMPY, SCHEMA

FALSE_ALARM = 0.01  # over all rows
MARGIN = 0.05  # of a whole phase
STAGE_MARGIN = 0.15  # of one stage in it, whose memory lies elsewhere in every run
LEAST_SHARE = 0.02  # of a phase: smaller stages are not judged

TEST = (
    f"exact Mann-Whitney test of each ratio to {NUMPY} in the same round against a change of "
    f"{MARGIN:.0%} (stages: {STAGE_MARGIN:.0%}); false alarm at most {FALSE_ALARM:.0%} over all "
    "rows (Holm)"
)


@dataclass(frozen=True)
class ChangeRow:
    """One time that both benchmarks measured.

    Parameters
    ----------
    old, new : medians of the ratios
    old_s, new_s : medians of seconds
    p : two-sided, corrected for all rows
    verdict : "faster", "slower" or "no change seen"
    """

    where: str
    phase: str
    what: str
    old: float
    new: float
    old_s: float
    new_s: float
    p: float
    verdict: str

    @property
    def change(self) -> float:
        """The new ratio over the old one."""
        return self.new / self.old


@dataclass(frozen=True)
class _Pair:
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
    prints = {_key(*entry): entry[2]["fingerprint"] for entry in _entries(old)}
    for where, name, entry in _entries(new):
        known = prints.get((where, name)) or entry["fingerprint"]
        if known != entry["fingerprint"]:
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
    document : "rows" (of `ChangeRow`), "counted" (counts and predictions that differ), "test",
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
    then, today = ({_key(*entry) for entry in _entries(document)} for document in (old, new))
    for alone, only in ((then - today, f"only in {name}"), (today - then, f"not in {name}")):
        if alone:
            listed = ", ".join(sorted(" ".join(key[::-1]).strip() for key in alone))
            remarks.append(f"{only}: {listed}")
    return {
        "with": name,
        "test": TEST,
        "same_machine": all(same.values()),
        "remarks": remarks,
        "rows": [vars(row) | {"change": row.change} for row in _judged(pairs)],
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


def _judged(pairs: Sequence[_Pair]) -> list[ChangeRow]:
    slower = [mann_whitney(p.new, p.old * (1 + p.margin)) for p in pairs]
    faster = [mann_whitney(p.old, p.new * (1 + p.margin)) for p in pairs]
    both = holm([min(1.0, 2 * min(two)) for two in zip(slower, faster, strict=True)])
    rows = []
    for pair, slow, fast, p in zip(pairs, slower, faster, both, strict=True):
        word = "slower" if slow < fast else "faster"
        verdict = word if p <= FALSE_ALARM else "no change seen"
        old, new = float(np.median(pair.old)), float(np.median(pair.new))
        rows.append(
            ChangeRow(
                pair.where, pair.phase, pair.what, old, new, pair.old_s, pair.new_s, p, verdict
            )
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


def _entries(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Return every contender: its point, its name, and its entry."""
    for point in document["points"]:
        axis = point["axis"]
        where = "" if axis is None else f"{axis} = {point['value']:g}"
        for entry in point["contenders"]:
            yield where, entry["name"], entry


def _key(where: str, name: str, _: Mapping[str, Any]) -> tuple[str, str]:
    return where, name


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[_Pair]:
    before = {_key(*entry): entry[2]["phases"] for entry in _entries(old)}
    after = {_key(*entry): entry[2]["phases"] for entry in _entries(new)}
    for (where, name), phases in after.items():
        earlier = before.get((where, name))
        if earlier is None:
            continue
        yardstick = BARE if name == NUMPY else NUMPY  # numpy's own time: to its products alone
        yards = [entries.get((where, yardstick)) for entries in (before, after)]
        if None in yards or name == BARE:
            continue
        for phase in phases:
            series = [
                _series(some[phase], yard[phase])  # type: ignore[index]
                for some, yard in zip((earlier, phases), yards, strict=True)
            ]
            for what in series[1]:
                if what not in series[0]:
                    continue
                is_whole = what in _WHOLE
                shares = [some[what][1] / some[_WHOLE[0]][1] for some in series]
                if not is_whole and max(shares) < LEAST_SHARE:
                    continue
                (then, then_s), (now, now_s) = (some[what] for some in series)
                margin = MARGIN if is_whole else STAGE_MARGIN
                yield _Pair(
                    f"{name} {where}".strip(), phase, what, margin, then, now, then_s, now_s
                )


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
    before = {_key(*entry): entry[2]["phases"] for entry in _entries(old)}
    for where, name, entry in _entries(new):
        for phase, now in entry["phases"].items():
            then = before.get((where, name), {}).get(phase)
            if then is None:
                continue
            counts = [{**(some.get("counts") or {})} for some in (then, now)]
            for some, source in zip(counts, (then, now), strict=True):
                some.pop("retries", None)  # of a device that failed
                some["predicted seconds"] = source.get("predicted_s")
            for key in counts[1]:
                values = [some.get(key) for some in counts]
                if None in values or values[0] == values[1]:
                    continue
                shown = " -> ".join(f"{v:,.6g}" for v in values)
                yield f"{name} {where}".strip() + f", {phase}: {key.replace('_', ' ')} {shown}"
