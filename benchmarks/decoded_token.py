"""Where the time of one decoded token goes: compiled loops, C functions, and Python between them.

    python -m lightloom.benchmarks decoded-token --profile slm-camera

Tokens are decoded after a prefill: first as they are, which gives stages and their times. Then
Python's profiler counts calls and gives each function its own time, without the functions that it
calls. It does not see numpy's universal functions, such as products, which count to their caller.
The profiler makes Python slower and leaves compiled code as it is, so its shares of Python
are upper bounds; both times of a token are shown.
"""

import cProfile
import pstats
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..backends import Backend
from ..instruments.environment import COMPILED
from ..instruments.formatting import format_counted, format_duration
from ..instruments.table import Column, Table
from ..models import Model
from .contenders import Contender, Lightloom, Sample, check_language, make_job
from .throughput import name_of

KIND = "lightloom decoded token"
_ROOT = Path(__file__).resolve().parents[1]
_FUNCTIONS = 15  # in the table of single functions

Function = tuple[str, int, str]  # file, line, name, as pstats has them
Costs = dict[Function, tuple[int, float]]  # calls and own seconds of a token


def measure(
    model: Model, backend: Backend, sequence: int, tokens: int, placement: str
) -> dict[str, Any]:
    """Decode tokens with and without the profiler, and return the document.

    Parameters
    ----------
    tokens : that are decoded each time
    """
    check_language(model)
    job = make_job(model, 1, sequence, tokens + 1, placement)
    contender = Lightloom(name_of(backend), "", job, backend, placement)
    contender.result()
    contender.round()  # compiles
    sample = contender.round()["decode"]
    costs, seconds = _profiled(contender, tokens)
    return {
        "schema": 1,
        "is_mock": contender.is_mock,
        "model": model.name,
        "backend": contender.name,
        **{"sequence": sequence, "tokens": tokens, "placement": placement},
        "token_s": sample.seconds / tokens,
        "token_cpu_s": sample.cpu_s / tokens,
        "profiled_token_s": seconds,
        "stages": _stages(sample, tokens),
        "places": _places(costs),
        "functions": [
            {"function": _name(function), "calls": calls, "own_s": own_s}
            for function, (calls, own_s) in _by_time(costs)
        ],
    }


def _stages(sample: Sample, tokens: int) -> list[dict[str, Any]]:
    rows = [
        {"kind": kind, "where": where, "seconds": seconds / tokens}
        for (kind, where), seconds in sample.stages.items()
    ]
    if sample.overhead_s is not None:
        rows.append({"kind": "overhead", "where": "host", "seconds": sample.overhead_s / tokens})
    return sorted(rows, key=lambda row: -row["seconds"])


# -------------------------------------------------------------------------------- profiling


def _profiled(contender: Contender, tokens: int) -> tuple[Costs, float]:
    """Return calls and own seconds of every function, and the seconds, of one token."""
    contender.begin()
    contender.run("prefill")
    profiler = cProfile.Profile()
    profiler.enable()
    seconds = contender.run("decode").seconds
    profiler.disable()
    stats: dict[Function, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    costs = {f: (round(some[1] / tokens), some[2] / tokens) for f, some in stats.items()}
    return costs, seconds / tokens


@cache
def _compiled_loops() -> frozenset[Function]:
    """Return the functions that numba compiled; it reports their calls to a profiler."""
    return frozenset(
        (code.co_filename, code.co_firstlineno, code.co_name)
        for name, module in list(sys.modules.items())
        if name.startswith("lightloom.")
        for value in vars(module).values()
        if type(value).__module__.startswith("numba")
        and (code := getattr(getattr(value, "py_func", None), "__code__", None)) is not None
    )


# --------------------------------------------------------------------------------- reporting


def _place(function: Function) -> str:
    file = function[0]
    if COMPILED and function in _compiled_loops():
        return "compiled loops (numba)"
    if file == "~":
        return "C functions (numpy, onnxruntime, Python)"
    path = Path(file)
    if path.is_relative_to(_ROOT):
        return f"Python, {path.relative_to(_ROOT).parts[0]}"
    return "Python, other packages"


def _places(costs: Costs) -> list[dict[str, Any]]:
    """Return calls and own seconds of each place, the longest first."""
    found: dict[str, list[float]] = {}
    for function, (calls, own_s) in costs.items():
        some = found.setdefault(_place(function), [0, 0.0])
        some[0] += calls
        some[1] += own_s
    rows = [
        {"place": p, "calls": int(calls), "own_s": own_s} for p, (calls, own_s) in found.items()
    ]
    return sorted(rows, key=lambda row: -row["own_s"])


def _by_time(costs: Costs) -> list[tuple[Function, tuple[int, float]]]:
    return sorted(costs.items(), key=lambda item: -item[1][1])[:_FUNCTIONS]


def _name(function: Function) -> str:
    file, line, name = function
    if file == "~":
        return name
    path = Path(file)
    place = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else Path(path.name)
    return f"{place.as_posix()}:{line} {name}"


def tables(document: dict[str, Any]) -> Iterator[Table]:
    """Return the tables of what `measure` returned."""
    token = f"{document['backend']}{' MOCK' if document['is_mock'] else ''}: one token"
    after = f"after {format_counted(document['sequence'], 'token')}"
    took = format_duration(document["token_s"])
    took += f" ({format_duration(document['token_cpu_s'])} of processor time)"
    stages, whole = document["stages"], document["token_s"]
    yield Table(
        f"{token} {after}, {took}: stages",
        (Column("stage", align="left"), Column("where", align="left"), *_TIMES),
        tuple((s["kind"], s["where"], s["seconds"], s["seconds"] / whole) for s in stages),
    )
    profiled = document["profiled_token_s"]
    yield Table(
        f"{token} {after}, {format_duration(profiled)} under the profiler: own time by place",
        (Column("place", align="left"), _CALLS, *_TIMES),
        tuple(
            (row["place"], row["calls"], row["own_s"], row["own_s"] / profiled)
            for row in document["places"]
        ),
    )
    yield Table(
        f"{token} {after}: functions with the most own time",
        (Column("function", align="left"), _CALLS, *_TIMES),
        tuple(
            (row["function"], row["calls"], row["own_s"], row["own_s"] / profiled)
            for row in document["functions"]
        ),
    )


_CALLS = Column("calls", form=",d")
_TIMES = (Column("time", form=format_duration), Column("share", form=".1%"))
