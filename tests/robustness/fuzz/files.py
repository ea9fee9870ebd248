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
from lightloom.backends import MockBackend, load_profile
from lightloom.backends.bench import Bench, BenchBackend, example_file, load_bench
from lightloom.backends.bench.binding import begin_calibration, check_calibration
from lightloom.backends.calibration import align, store
from lightloom.backends.calibration.calibrate import calibrate
from lightloom.backends.optics.calibration_file import Calibration, Figure, Plot, Step, described
from lightloom.backends.profile import FOLDER as PROFILES
from lightloom.benchmarks.sweep import Results, make_sweep, read_sweep
from lightloom.instruments import InputError, Timeline
from lightloom.models import load_model
from lightloom.scheduler import DEFAULT_POLICY, POLICIES
from lightloom.scheduler.energy.constants import FOLDER as CONSTANTS
from lightloom.scheduler.energy.constants import load_constants
from lightloom.scheduler.placement_rules import read_rules
from lightloom.scheduler.runs.trace import read_trace, write_trace

from .mutations import as_toml, changed_bytes, changed_document, changed_text
from .trying import Attempt, Target, WrongNumberError, want

_LAYOUTS = ("imaged", "line", "single-pixel")
_SLOW = 5  # one accepted input in five is also used, where that takes long


def numbers_of(document: Any) -> Iterator[float]:
    """Return every float in a tree of tables and lists."""
    if isinstance(document, dict | list | tuple):
        for value in document.values() if isinstance(document, dict) else document:
            yield from numbers_of(value)
    elif isinstance(document, float):
        yield document


# --- bench files ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _benches(folder: Path) -> Iterator[Attempt]:
    path = folder / "bench.toml"
    texts = [
        example_file(layout, tiny=True, as_found=as_found)
        for layout in _LAYOUTS
        for as_found in (False, True)
    ]
    documents = [tomllib.loads(text) for text in texts]
    for text in texts:  # unchanged; this also compiles with numba
        path.write_text(text, encoding="utf-8")
        _use(load_bench(path), uncalibrated='calibration = "ground-truth"' not in text)

    def attempt(random: Random) -> bool:
        which = random.randrange(len(texts))
        path.write_bytes(changed_text(random, texts[which], documents[which], as_toml))
        bench = load_bench(path)
        want(all(map(math.isfinite, numbers_of(bench.file.model_dump()))), "no finite number")
        for written in _numbers_where_flags_stand(tomllib.loads(path.read_text("utf-8")), bench):
            raise WrongNumberError(f"{written} was taken for a number")
        if random.randrange(_SLOW) == 0:
            _use(bench, uncalibrated=bench.file.calibration != "ground-truth")
        return True

    yield attempt


def _numbers_where_flags_stand(document: Any, bench: Bench) -> Iterator[str]:
    """Return the keys where a file has true or false and the bench a number."""

    def walk(given: Any, taken: Any, where: str) -> Iterator[str]:
        if isinstance(given, dict) and isinstance(taken, dict):
            for key in given:
                yield from walk(given[key], taken.get(key), f"{where}.{key}")
        elif isinstance(given, list) and isinstance(taken, list | tuple):
            for index, pair in enumerate(zip(given, taken, strict=False)):
                yield from walk(*pair, f"{where}.{index}")
        elif isinstance(given, bool) and taken is not None and not isinstance(taken, bool):
            yield where

    taken = bench.file.model_dump(by_alias=True)
    taken["instruments"] = {
        role: instrument.options.model_dump() for role, instrument in bench.instruments.items()
    }
    yield from walk(document, taken, "")


def _use(bench: Bench, uncalibrated: bool = False) -> None:
    """Multiply on a bench if it is simulated, small and on a virtual clock."""
    pixels = [math.prod(getattr(i, "shape", (0,))) for i in bench.instruments.values()]
    if not bench.is_simulated or not bench.clock.is_virtual or max(pixels) > 1 << 15:
        return
    backend = BenchBackend(bench, uncalibrated)
    try:
        y = backend.matmul(np.array([[0.5, -1.0, 0.25]]), np.array([[1.0, 0.5, -0.5]])).y
        want(bool(np.isfinite(y).all()), f"the product is {y}")
        if backend.is_calibrated and bench.file.calibration != "ground-truth":
            want(abs(float(y[0, 0]) + 0.125) < 0.5, f"the product is {y}, not -0.125")
    finally:
        backend.close()


# --- calibrations ---------------------------------------------------------------------------------


def _step(name: str, made: Random) -> Step:
    arrays = {
        "map": np.array([[made.random() for _ in range(4)] for _ in range(3)], dtype=np.float32),
        "curve": np.array([made.random() for _ in range(5)]),
        "flags": np.array([True, False, True]),
    }
    return Step(
        name=name,
        figures=(
            Figure("gain", made.random(), 0.01, "e/count"),
            Figure("loss", math.nan, None, ""),
        ),
        arrays=arrays,
        plots=(Plot("Map", "image", "map"), Plot("Curve", "line", "curve")),
        shots=made.randrange(1000),
        seconds=1.5,
        computing_s=0.25,
        light_j=1e-6,
        finished_at="2026-03-01T12:00:00+00:00",
        notes=("all well",),
    )


@contextlib.contextmanager
def _calibrations(folder: Path) -> Iterator[Attempt]:
    """Try headers and arrays of a calibration: an accepted one equals the measured one."""
    bench_path, path = folder / "bench.toml", folder / "bench.calibration.json"
    text = example_file("imaged", tiny=True).replace('calibration = "ground-truth"', "")
    bench_path.write_text(text, encoding="utf-8")
    chance = Random(0)
    with load_bench(bench_path) as bench:
        made = begin_calibration(bench)
        for name in ("dark_frames", "photon_transfer", "response_curves"):
            made.add(_step(name, chance))
        made.write(path)
        data = next(folder.glob("*.safetensors"))
        header, content = path.read_bytes(), data.read_bytes()
        described_before, bound = [described(step) for step in made.steps.values()], made.binding
        document = json.loads(header)

        def attempt(random: Random) -> bool:
            header_now, content_now = header, content
            if random.random() < 0.7:
                header_now = changed_text(random, header.decode(), document, _json)
            else:
                content_now = changed_bytes(random, content)
            path.write_bytes(header_now)
            data.write_bytes(content_now)
            found = Calibration.read(path)
            now = [described(step) for step in found.steps.values()]
            want(repr(now) == repr(described_before), "a changed step was accepted")
            want(found.binding == bound, "a changed binding was accepted")
            want(found.created_at == made.created_at, "a changed time was accepted")
            for step, measured in zip(found.steps.values(), made.steps.values(), strict=True):
                for name, array in measured.arrays.items():
                    same = np.array_equal(step.arrays[name], array)
                    want(same, f"a changed array {name} was accepted")
            check_calibration(bench, found, ["dark_frames", "response_curves"], 1e12)
            return True

        yield attempt


def _json(document: Any) -> str:
    return json.dumps(document, indent=2)


@contextlib.contextmanager
def _measured(folder: Path) -> Iterator[Attempt]:
    """Try valid files with odd values: each is refused, or its products are right."""
    path = folder / "bench.toml"
    path.write_text(example_file("imaged", tiny=True, as_found=True, seed=3), encoding="utf-8")
    bench = load_bench(path)
    aligned = align(bench)
    with bench:
        store(bench, aligned)
    found = calibrate(load_bench(path))
    steps = list(found.steps.values())

    def attempt(random: Random) -> bool:
        which = random.randrange(len(steps))
        changed = [*steps]
        changed[which] = _odd_step(random, steps[which])
        Calibration(found.binding, found.created_at, changed).write(found.path)
        _use(load_bench(path))
        return True

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
    arrays = dict(step.arrays)
    arrays[name] = _odd_array(random, np.array(arrays[name]))
    plots = tuple(plot for plot in step.plots if name not in (plot.x, plot.y))
    return replace(step, arrays=arrays, plots=plots)


def _odd_array(random: Random, array: np.ndarray) -> np.ndarray:
    kind = random.randrange(7)
    if kind == 0:
        return array[:-1] if array.ndim and len(array) else array[None]
    if kind == 1:
        return array.reshape(-1)
    if kind == 2:
        return array[None]
    if kind == 3:
        return np.zeros((0,), dtype=array.dtype)
    if kind == 4:
        return np.full_like(array, 0)
    if array.dtype.kind == "f":
        array.flat[random.randrange(max(array.size, 1))] = random.choice(
            (math.nan, math.inf, -math.inf)
        )
        return array
    return array.astype(np.float32) * np.float32("nan")


# --- profiles, constants, rules, sweeps -----------------------------------------------------------


def _toml_target(texts: list[str], use: Callable[[Path], None]) -> Any:
    """Return the opener of a target of TOML files; `use` reads a file and works with it."""

    @contextlib.contextmanager
    def opened(folder: Path) -> Iterator[Attempt]:
        documents = [tomllib.loads(text) for text in texts]
        for text in texts:  # unchanged; this also compiles with numba
            (folder / "whole.toml").write_text(text, encoding="utf-8")
            use(folder / "whole.toml")
        numbers = count()

        def attempt(random: Random) -> bool:
            which = random.randrange(len(texts))
            path = folder / f"{next(numbers)}.toml"  # another name: some readers remember files
            path.write_bytes(changed_text(random, texts[which], documents[which], as_toml))
            try:
                use(path)
            finally:
                path.unlink()
            return True

        yield attempt

    return opened


def _texts(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.toml"))]


def _use_profile(path: Path) -> None:
    profile = load_profile(str(path))
    want(all(map(math.isfinite, numbers_of(profile.model_dump()))), "no finite number")
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
            want(math.isfinite(constant.value) and constant.value >= 0, f"{constant}")
            want(not isinstance(constant.value, bool), f"{constant}")


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
    sweep = make_sweep(read_sweep(path))
    points, impossible = sweep.points()
    names = {point.name for point in points} | set(impossible)
    want(len(names) == len(points) + len(impossible), "two points have one name")


@contextlib.contextmanager
def _sweep_outputs(folder: Path) -> Iterator[Attempt]:
    path = folder / "sweep.json"
    sweep = make_sweep({"seeds": [0, 1, 2]})
    points, impossible = sweep.points()
    made = Results(sweep, points, impossible, {}, path)
    for point in points[:2]:
        made.add(point, {"quality": {"optical": 0.5 + point.seed / 8}, "stats": {"shots": 10}})
    made.write()
    text, records = path.read_text(encoding="utf-8"), made.document()["points"]
    document = json.loads(text)

    def attempt(random: Random) -> bool:
        written = changed_text(random, text, document, _json)
        path.write_bytes(written)
        try:
            found = Results(sweep, points, impossible, {}, path)
        except InputError:
            want(path.read_bytes() == written, "a file that was refused was changed")
            raise
        want(found.document()["points"] == records, "a changed point was accepted")
        return True

    yield attempt


# --- traces ---------------------------------------------------------------------------------------


@contextlib.contextmanager
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

    def attempt(random: Random) -> bool:
        kind = random.randrange(4)
        if kind == 0:
            content = _changed_line(random, text)
        elif kind == 1:
            content = changed_text(random, text, json.loads(text), json.dumps)
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
        return True

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
    Target("profiles", 0.04, _toml_target(_texts(PROFILES), _use_profile)),
    Target("constants", 0.04, _toml_target(_texts(CONSTANTS), _use_constants)),
    Target("placement rules", 0.03, _toml_target([_RULES], _use_rules)),
    Target("sweep files", 0.03, _toml_target([_SWEEP], _use_sweep)),
    Target("sweep outputs", 0.005, _sweep_outputs),
    Target("traces", 0.06, _traces),
)
