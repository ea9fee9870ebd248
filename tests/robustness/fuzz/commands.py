"""Target of `fuzz` on the command line: almost valid arguments.

It calls the program that is installed as `lightloom`, in this process.
"""

import contextlib
import io
import json
import shlex
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
from bench_factory import write_bench

from .mutations import ODD_NUMBERS, ODD_TEXTS, changed_bytes
from .trying import Attempt, Target, want

_STATUSES = (0, 1, 2, 3, 130)
_LINES = (  # short ones
    "run --backend digital --limit 2 --images images.npy --json",
    "run --limit 1 --set photons_full_scale=1e4 --seed 3 --json --no-reference",
    "run --bench bench.toml --limit 1 --json --no-reference",
    "run --images images.npy --limit 2 --record run.db --json",
    "resume run.db --accept versions --json",
    "plan --profile dmd-camera --batch 2 --json",
    "plan --model gpt2 --sequence 16 --new-tokens 2 --placement projections --json",
    "plan --bench bench.toml --placement rules.toml --json",
    "energy --model gpt2 --sequence 8 --no-machine --constants lightcode-2025 --json",
    "energy --width 64 --depth 2 --no-machine --tokens-per-second 10 --html page.html",
    "init new.toml --layout line --clock virtual --tiny --as-found --world-seed 3",
    "check --bench bench.toml --random-products 5 --seed 2 --json",
    "doctor --profile ideal --json",
    "report trace.json --layer 1 --output trace.html",
    "report bench.toml --output page.html",
    "report run.db --output run.html",
    "plan --trace trace.json --batch 1",
    "sweep --encoding offset --light 1e3 --seed 0 --limit 0 --workers 0 --output out.json --json",
    "sweep study.toml --workers 0 --limit 0",
    "align --bench bench.toml --json",
    "calibrate --bench bench.toml --step dark --resume --json",
    "benchmark --scale batch=1,2 --repeats 0 --compare old.json",
    "--help",
    "run --help",
)
_RULES = '[[rule]]\nkind = "MLP"\nwhere = "host"\n'
_SLOW = ("benchmark", "devices", "--live", "--scheduler", "--measure", "--trace")


def _commands(folder: Path) -> Iterator[Attempt]:
    found = [point for point in entry_points(group="console_scripts") if point.name == "lightloom"]
    want(bool(found), "lightloom is not installed")
    program = found[0].load()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    write_bench(folder, tiny=True)
    (folder / "rules.toml").write_text(_RULES, encoding="utf-8")
    (folder / "study.toml").write_text('seeds = [0]\nlimit = 2\nprofiles = ["ideal"]\n')
    (folder / "old.json").write_text('{"schema": 1}', encoding="utf-8")

    def attempt(random: Random) -> bool:
        (folder / "images.npy").write_bytes(_images(random))
        return _call(program, _arguments(random))

    with contextlib.chdir(folder):
        try:
            yield attempt
        finally:
            for number, handler in handlers.items():
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


def _arguments(random: Random) -> list[str]:
    words = shlex.split(random.choice(_LINES))
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        at = random.randrange(len(words))
        kind = random.randrange(7)
        if kind == 0:
            del words[at]
        elif kind == 1:
            words.insert(at, words[at])
        elif kind == 2:
            words[at] = random.choice(ODD_TEXTS)
        elif kind == 3:
            words[at] = str(random.choice(ODD_NUMBERS))[:400]
        elif kind == 4:
            words[at] = changed_bytes(random, words[at].encode()).decode("utf-8", "replace")
        elif kind == 5:
            words[at:at] = random.choice(shlex.split(random.choice(_LINES)))[:1]
        else:
            words.insert(at + 1, random.choice(ODD_TEXTS))
        if not words:
            break
    if not words or _is_slow(words):
        return ["--help"]
    return [word.replace("\x00", "") for word in words]


def _is_slow(words: list[str]) -> bool:
    """Return whether a line may take long and be right, which is not a finding."""
    is_large = any(word.isdecimal() and len(word) > 1 for word in words)
    return is_large or ("--repeats" not in words and not set(words).isdisjoint(_SLOW))


def _images(random: Random) -> bytes:
    shape = random.choice(((2, 1, 8, 8), (2, 8, 8), (0, 1, 8, 8), (2, 1, 8, 7), (2,), ()))
    kind: Any = random.choice(
        (np.uint8, np.float32, np.float64, np.int16, bool, np.complex64, "U3")
    )
    stream = io.BytesIO()
    array = np.zeros(shape, dtype=kind)
    if array.size and array.dtype.kind == "f":
        array.flat[0] = random.choice((0.5, float("nan"), float("inf"), 1e38))
    np.save(stream, array)
    content = stream.getvalue()
    return changed_bytes(random, content) if random.random() < 0.5 else content


def _call(program: Any, words: list[str]) -> bool:
    """Run a command line, and return whether it ended with status 0."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", ["lightloom", *words]),
    ):
        try:
            program()
        except SystemExit as ended:
            status = ended.code or 0
    want(status in _STATUSES, f"exit status {status} of {words}")
    want("Traceback" not in err.getvalue(), f"a traceback of {words}: {err.getvalue()[-500:]}")
    want(status != 2 or bool(err.getvalue().strip()), f"nothing was said to {words}")
    if status == 0 and "--json" in words and "--help" not in words:
        json.loads(out.getvalue(), parse_constant=_refuse)
    return status == 0


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} in JSON")


COMMANDS = (Target("command lines", 0.002, _commands),)
