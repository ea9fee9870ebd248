"""Targets of `fuzz` that read files: benches, calibrations, profiles, rules, sweeps, traces."""

import contextlib
import gzip
import json
import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from bench_factory import LAYOUTS, load_example
from lightloom.backends import MockBackend, load_profile
from lightloom.backends.bench import Bench, BenchBackend, example_file, load_bench
from lightloom.backends.bench.binding import begin_calibration, check_calibration
from lightloom.backends.calibration import align, store
from lightloom.backends.calibration.calibrate import calibrate
from lightloom.backends.optics.calibration_file import Calibration, Figure, Plot, Step, described
from lightloom.backends.profile import FOLDER as PROFILES
from lightloom.benchmarks.sweep import Results, make_sweep
from lightloom.instruments import InputError, Timeline
from lightloom.instruments.toml_file import read_toml
from lightloom.models import load_model
from lightloom.scheduler import DEFAULT_POLICY, POLICIES
from lightloom.scheduler.energy.constants import FOLDER as CONSTANTS
from lightloom.scheduler.energy.constants import load_constants
from lightloom.scheduler.placement_rules import read_rules
from lightloom.scheduler.runs.trace import read_trace, write_trace

from .mutations import changed_bytes, changed_document, changed_text, changed_toml, places
from .trying import Attempt, Target, want

_SLOW = 5  # one accepted input in five is also used, where that takes long


def _want_finite(document: Any) -> None:
    """Check every float in a tree of tables and lists."""
    values = [holder[key] for _, holder, key in places(document)]
    odd = [value for value in values if isinstance(value, float) and not math.isfinite(value)]
    want(not odd, f"{odd} are not finite numbers")


# --- bench files ----------------------------------------------------------------------------------


def _benches(folder: Path) -> Iterator[Attempt]:
    path = folder / "bench.toml"
    texts = [
        example_file(layout, tiny=True, as_found=as_found)
        for layout in LAYOUTS
        for as_found in (False, True)
    ]
    for text in texts:  # unchanged; this also compiles with numba
        path.write_text(text, encoding="utf-8")
        _use(load_bench(path))

    def attempt(random: Random) -> None:
        path.write_bytes(changed_toml(random, texts[random.randrange(len(texts))]))
        bench = load_bench(path)
        _want_finite(bench.file.model_dump())
        _want_flags(tomllib.loads(path.read_text("utf-8")), bench)
        if random.randrange(_SLOW) == 0:
            _use(bench)

    yield attempt


def _want_flags(document: Any, bench: Bench) -> None:
    """Check that a bench has no number where its file has true or false."""
    dumped = bench.file.model_dump(by_alias=True)
    dumped["instruments"] = {
        role: instrument.options.model_dump() for role, instrument in bench.instruments.items()
    }
    taken = {path: holder[key] for path, holder, key in places(dumped)}
    for path, holder, key in places(document):
        if isinstance(holder[key], bool):
            want(isinstance(taken.get(path), bool | None), f"{path} was taken for a number")


def _use(bench: Bench, is_calibrated: bool = False) -> None:
    """Multiply on a bench if it is simulated, small and on a virtual clock."""
    has_truth = bench.file.calibration == "ground-truth"
    pixels = [math.prod(getattr(i, "shape", (0,))) for i in bench.instruments.values()]
    if not bench.is_simulated or not bench.clock.is_virtual or max(pixels) > 1 << 15:
        return
    with contextlib.closing(BenchBackend(bench, not (has_truth or is_calibrated))) as backend:
        y = backend.matmul(np.array([[0.5, -1.0, 0.25]]), np.array([[1.0, 0.5, -0.5]])).y
        want(bool(np.isfinite(y).all()), f"the product is {y}")
        if backend.is_calibrated and not has_truth:
            want(abs(float(y[0, 0]) + 0.125) < 0.5, f"the product is {y}, not -0.125")


# --- calibrations ---------------------------------------------------------------------------------


def _step(name: str, made: Random) -> Step:
    return Step(
        name=name,
        figures=(
            Figure("gain", made.random(), 0.01, "e/count"),
            Figure("loss", math.nan, None, ""),
        ),
        arrays={
            "map": np.array([[made.random() for _ in range(4)] for _ in range(3)], np.float32),
            "curve": np.array([made.random() for _ in range(5)]),
            "flags": np.array([True, False, True]),
        },
        plots=(Plot("Map", "image", "map"), Plot("Curve", "line", "curve")),
        shots=made.randrange(1000),
        seconds=1.5,
        computing_s=0.25,
        light_j=1e-6,
        finished_at="2026-03-01T12:00:00+00:00",
        notes=("all well",),
    )


def _calibrations(folder: Path) -> Iterator[Attempt]:
    """Try headers and arrays of a calibration: an accepted one equals the measured one."""
    path = folder / "bench.calibration.json"
    chance = Random(0)
    with load_example(folder, calibration=None) as bench:
        made = begin_calibration(bench)
        for name in ("dark_frames", "photon_transfer", "response_curves"):
            made.add(_step(name, chance))
        made.write(path)
        data = next(folder.glob("*.safetensors"))
        header, content, before = path.read_bytes(), data.read_bytes(), _content(made)

        def attempt(random: Random) -> None:
            if random.random() < 0.7:
                path.write_bytes(changed_text(random, header.decode()))
                data.write_bytes(content)
            else:
                path.write_bytes(header)
                data.write_bytes(changed_bytes(random, content))
            found = Calibration.read(path)
            want(_content(found) == before, "a changed calibration was accepted")
            check_calibration(bench, found, ["dark_frames", "response_curves"], 1e12)

        yield attempt


def _content(calibration: Calibration) -> str:
    """Return all that a calibration says, to be compared."""
    steps = calibration.steps.values()
    arrays = [array.tobytes() for step in steps for array in step.arrays.values()]
    about = (calibration.created_at, calibration.binding, [described(step) for step in steps])
    return repr((about, arrays))


def _measured(folder: Path) -> Iterator[Attempt]:
    """Try valid files with odd values: each is refused, or its products are right."""
    path = folder / "bench.toml"
    bench = load_example(path, as_found=True, seed=3)
    aligned = align(bench)
    with bench:
        store(bench, aligned)
    found = calibrate(load_bench(path))
    steps = list(found.steps.values())

    def attempt(random: Random) -> None:
        which = random.randrange(len(steps))
        changed = [*steps]
        changed[which] = _odd_step(random, steps[which])
        Calibration(found.binding, found.created_at, changed).write(found.path)
        _use(load_bench(path), is_calibrated=True)

    yield attempt


def _odd_step(random: Random, step: Step) -> Step:
    """Return a step with one figure or array that no measurement gives."""
    if step.figures and random.random() < 0.5:
        figures = list(step.figures)
        which = random.randrange(len(figures))
        value = random.choice((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300, 5e-324))
        figures[which] = replace(figures[which], value=value)
        return replace(step, figures=tuple(figures))
    if not step.arrays:
        return replace(step, shots=-1)
    name = random.choice(sorted(step.arrays))
    arrays = step.arrays | {name: _odd_array(random, np.array(step.arrays[name]))}
    plots = tuple(plot for plot in step.plots if name not in (plot.x, plot.y))
    return replace(step, arrays=arrays, plots=plots)


def _odd_array(random: Random, array: np.ndarray) -> np.ndarray:
    others = (
        array[:-1] if array.ndim and len(array) else array[None],
        array.reshape(-1),
        array[None],
        np.zeros((0,), dtype=array.dtype),
        np.full_like(array, 0),
    )
    kind = random.randrange(7)
    if kind < len(others):
        return others[kind]
    if array.dtype.kind == "f":
        at = random.randrange(max(array.size, 1))
        array.flat[at] = random.choice((math.nan, math.inf, -math.inf))
        return array
    return array.astype(np.float32) * np.float32("nan")


# --- profiles, constants, rules, sweeps -----------------------------------------------------------


def _toml_attempts(
    texts: list[str], use: Callable[[Path], None]
) -> Callable[[Path], Iterator[Attempt]]:
    """Return the attempts of a target of TOML files; `use` reads a file and works with it."""

    def opened(folder: Path) -> Iterator[Attempt]:
        for text in texts:  # unchanged; this also compiles with numba
            (folder / "whole.toml").write_text(text, encoding="utf-8")
            use(folder / "whole.toml")
        numbers = count()

        def attempt(random: Random) -> None:
            path = folder / f"{next(numbers)}.toml"  # another name: some readers remember files
            path.write_bytes(changed_toml(random, texts[random.randrange(len(texts))]))
            try:
                use(path)
            finally:
                path.unlink()

        yield attempt

    return opened


def _texts(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.toml"))]


def _use_profile(path: Path) -> None:
    profile = load_profile(str(path))
    _want_finite(profile.model_dump())
    if max(profile.rows or 0, profile.length or 0) > 1 << 16:
        return
    chance = np.random.Generator(np.random.Philox(1))
    x, w = chance.standard_normal((2, 8)), chance.standard_normal((3, 8))
    y = MockBackend(profile).matmul(x, w).y
    want(bool(np.isfinite(y).all()), f"the product is {y}")


def _use_constants(path: Path) -> None:
    read = load_constants(str(path))
    tables = [read.constants, *read.encodings.values()]
    tables += [baseline.constants for baseline in read.baselines.values()]
    for table in tables:
        for constant in table.values():
            value = constant.value
            want(math.isfinite(value) and value >= 0 and not isinstance(value, bool), f"{constant}")


_RULES = """\
default = "all-optical"

[[rule]]
kind = "MLP"
layers = "0-1"
where = "light"

[[rule]]
step = "layer.*.attention.*"
where = "host"
"""
_SWEEP = """\
models = ["digits"]
profiles = ["slm-camera", "ideal"]
encodings = ["abs-split", "offset"]
light = [1e3, 1e4]
seeds = [0, 1]
limit = 20
placement = "paper"

[set]
readout_bits = [8, "none"]
gain_rms = [0.0, 0.01]
"""


def _use_rules(path: Path) -> None:
    rules = read_rules(path, POLICIES, DEFAULT_POLICY)
    rules.check(load_model("digits").whole_program.matmuls)


def _use_sweep(path: Path) -> None:
    sweep = make_sweep(read_toml(path, "sweep"))
    points, impossible = sweep.points()
    names = {point.name for point in points} | set(impossible)
    want(len(names) == len(points) + len(impossible), "two points have one name")


def _sweep_outputs(folder: Path) -> Iterator[Attempt]:
    path = folder / "sweep.json"
    sweep = make_sweep({"seeds": [0, 1, 2]})
    points, impossible = sweep.points()
    made = Results(sweep, points, impossible, {}, path)
    for point in points[:2]:
        made.add(point, {"quality": {"optical": 0.5 + point.seed / 8}, "stats": {"shots": 10}})
    made.write()
    text, records = path.read_text(encoding="utf-8"), made.document()["points"]

    def attempt(random: Random) -> None:
        written = changed_text(random, text)
        path.write_bytes(written)
        try:
            found = Results(sweep, points, impossible, {}, path)
        except InputError:
            want(path.read_bytes() == written, "a file that was refused was changed")
            raise
        want(found.document()["points"] == records, "a changed point was accepted")

    yield attempt


# --- traces ---------------------------------------------------------------------------------------


def _traces(folder: Path) -> Iterator[Attempt]:
    timeline = Timeline()
    for number in range(12):
        start_s = number * 1e-3
        track = ("input", "weight", "light", "read-out")[number % 4]
        timeline.add(track, f"frame {number}", start_s, start_s + 2e-3, layer=number // 4)
    timeline.count("photons", 12.5, 0.5e-3)
    about = {"model": "digits", "is_mock": True, "predicted_shots": 12}
    plain, packed = folder / "trace.json", folder / "trace.json.gz"
    write_trace(plain, {"predicted": timeline}, about)
    text = plain.read_text(encoding="utf-8")

    def attempt(random: Random) -> None:
        kind = random.randrange(4)
        if kind == 0:
            content = _changed_line(random, text)
        elif kind == 1:
            content = changed_text(random, text)
        else:
            content = changed_bytes(random, text.encode())
        path = packed if random.random() < 0.3 else plain
        if path is packed:
            content = gzip.compress(content, 1)
            if random.random() < 0.5:
                content = changed_bytes(random, content)
        path.write_bytes(content)
        trace = read_trace(path)
        for found in trace.timelines.values():
            for item in found.slices:
                want(0 <= item.start_s <= item.end_s < math.inf, f"{item}")
            for point in found.counts:
                want(math.isfinite(point.value) and 0 <= point.at_s < math.inf, f"{point}")

    yield attempt


def _changed_line(random: Random, text: str) -> bytes:
    """Return a trace in which one event differs, and is still an event."""
    lines = text.split("\n")
    which = random.randrange(1, len(lines) - 2)
    event = json.loads(lines[which].rstrip(","))
    lines[which] = json.dumps(changed_document(random, event), separators=(",", ":")) + ","
    return "\n".join(lines).encode("utf-8", "replace")


FILES = (
    Target("bench files", 0.12, _benches),
    Target("calibration files", 0.12, _calibrations),
    Target("calibrations in use", 0.002, _measured),
    Target("profiles", 0.04, _toml_attempts(_texts(PROFILES), _use_profile)),
    Target("constants", 0.04, _toml_attempts(_texts(CONSTANTS), _use_constants)),
    Target("placement rules", 0.03, _toml_attempts([_RULES], _use_rules)),
    Target("sweep files", 0.03, _toml_attempts([_SWEEP], _use_sweep)),
    Target("sweep outputs", 0.005, _sweep_outputs),
    Target("traces", 0.06, _traces),
)
