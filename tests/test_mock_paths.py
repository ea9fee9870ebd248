"""Every way to compute a product on the mock gives the same bits, within bounds of memory.

The ways: only numpy; compiled loops and tiles; onnxruntime; any number of threads; any split of a
batch.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightloom.backends import Address, MockBackend, OpticsProfile, mock_path
from lightloom.backends.mock import LOOPS
from lightloom.backends.mock import integer_products as products_module
from lightloom.backends.mock.int8_gemm import IntegerProduct, integer_product, is_exact
from lightloom.backends.mock.integer_products import IntegerRows, Operand, multiply, panels
from lightloom.backends.mock.product_choice import (
    FLOATS,
    LIBRARY,
    LOOPS_OF_BYTES,
    PATHS,
    ROWS,
    chosen_path,
    product_times,
)
from reference_optics import theory
from typer.testing import CliRunner

COMPILED = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not COMPILED, reason="numba (extra 'fast') is not installed")
needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None,
    reason="onnxruntime (extra 'fast') is not installed",
)

ENCODINGS = ("abs-split", "push-pull", "offset")
DETECTIONS = ("balanced", "per-reading")
BENCH: dict[str, Any] = {
    "input_bits": 8,
    "weight_bits": 8,
    "readout_bits": 8,
    "readout_range": "per-row",
    "photons_full_scale": 300.0,
    "read_noise_e": 5.0,
    "dark_e": 3.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bright": {"photons_full_scale": 1e5},
    "per mac": {"photons_full_scale": None, "photons_per_mac": 2.0},
    "no light": {"photons_full_scale": None, "read_noise_e": None, "dark_e": None},
    "no converter": {"readout_bits": None, "readout_range": None},
    "range": {"readout_bits": None, "readout_range": 3.0},
    "narrow": {"readout_bits": 3, "readout_range": 1.0},
    "well": {"full_well_e": 2500.0},
    "leak": {"extinction_ratio": 30.0, "length": 48},
    "source": {"source_rms": 0.02, "drift_rms": 0.01, "drift_rows": 9.0, "rows": 40},
    "gains": {"gain_rms": 0.02, "rows": 40},
    "table": {"lut_rms": 0.02},
    "clamp": {"extinction_ratio": 50.0, "extinction_model": "clamp"},
    "twelve bits": {"input_bits": 12, "weight_bits": 12},
    "ideal modulators": {"input_bits": None, "weight_bits": None},
}


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOOPS, "is_used", False)


def product(x: np.ndarray, w: np.ndarray, **fields: Any) -> np.ndarray:
    backend = MockBackend(OpticsProfile(**(BENCH | fields)), seed=3)
    rows = np.arange(len(x), dtype=np.uint64) + np.uint64(2**40)
    return backend.matmul(x, w, Address("path", rows)).y


# --- the same bits -------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(1, 77, 95), (19, 90, 1000)])
def test_compiled_and_plain_paths_give_the_same_bits(
    encoding: str,
    detection: str,
    variant: str,
    shape: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A user would get other results after installing the extra, and could not compare runs.
    n, outputs, length = shape
    fields = {"encoding": encoding, "detection": detection} | VARIANTS[variant]
    x, w = numbers(n, length), numbers(outputs, length, seed=2)
    x[0] = np.abs(x[0])
    compiled = product(x, w, **fields)
    without_numba(monkeypatch)
    plain = product(x, w, **fields)
    assert np.array_equal(compiled, plain)


@needs_numba
@pytest.mark.parametrize("n", [1, 4, 5, 130])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_numbers_in_the_tails_are_the_same(
    n: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As above, for numbers that are drawn separately: one in 32,768 is beyond 4.17 sigma.
    x, w = numbers(n, 20), numbers(200_000 // n, 20, seed=2)
    fields = {"encoding": encoding, "photons_full_scale": 1e5, "readout_bits": 16}
    compiled = product(x, w, **fields)
    without_numba(monkeypatch)
    assert np.array_equal(compiled, product(x, w, **fields))


@needs_numba
@needs_onnxruntime
@pytest.mark.parametrize("other", [LIBRARY, FLOATS])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("variant", ["bright", "leak", "gains", "table"])
def test_every_product_of_integers_gives_the_same_bits(
    encoding: str, detection: str, variant: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A user would get other results on a processor without dot products of bytes.
    fields = {"encoding": encoding, "detection": detection} | VARIANTS[variant]
    x, w = numbers(23, 300), numbers(700, 300, seed=2)
    first = product(x, w, **fields)
    for module in ("integer_products", "backend"):
        path = f"lightloom.backends.mock.{module}.fastest_path"
        monkeypatch.setattr(path, lambda *_: other)
    assert np.array_equal(first, product(x, w, **fields))


def test_the_fastest_product_is_chosen_by_its_time() -> None:
    # A user of a processor with matrix units would wait for slower instructions.
    times = product_times()
    assert times.shape == (len(PATHS), len(ROWS)) and (times > 0).all()
    assert np.isfinite(times[PATHS.index(FLOATS)]).all()
    seconds = np.array([[1.0, 1.0], [2.0, 0.5], [3.0, 0.9]])
    assert chosen_path(seconds, 10) == LOOPS_OF_BYTES and chosen_path(seconds, 1000) == LIBRARY
    seconds[1] = np.inf
    assert chosen_path(seconds, 1000) == LOOPS_OF_BYTES  # the others need more passes


@pytest.mark.parametrize("variant", ["bright", "leak", "gains"])
@pytest.mark.parametrize("n", [1, 3, 100, 700])
def test_threads_do_not_change_bits(variant: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A user would get other results on a machine with more cores.
    monkeypatch.setattr("lightloom.backends.mock.backend._WORTH_THREADS", 1)
    x, w = numbers(n, 200), numbers(900, 200, seed=2)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        results.append(product(x, w, **VARIANTS[variant]))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_parts_of_a_block_with_large_pages_do_not_overlap() -> None:
    # Weights that overwrote those of another product would be wrong numbers without an error.
    from lightloom.backends.mock.packed_weights import _large_pages

    parts = [_large_pages((1, size, 64)) for size in (1024, 1025, 60_000, 1500, 70_000) * 9]
    for number, part in enumerate(parts):
        part[:] = number
    assert all((part == number).all() for number, part in enumerate(parts))


def test_an_invalid_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A user would get a traceback for a typing error in the environment.
    from lightloom.instruments import InputError

    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(InputError, match="OMP_NUM_THREADS = 'many'"):
        product(numbers(600, 90), numbers(90, 90))


# --- exact integers ------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_products_of_integers_are_exact(data: st.DataObject) -> None:
    # All results rest on exact sums of light.
    n, outputs = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 130))
    length = data.draw(st.sampled_from([1, 2, 3, 63, 64, 65, 1023, 1100, 3001]))
    bounds = [data.draw(st.sampled_from([1, 7, 127, 128, 5000, 32512, 2**21])) for _ in "xw"]
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def integers(bound: int, *shape: int) -> np.ndarray:
        chosen = random.integers(-bound, bound + (bound != 128), shape)
        if data.draw(st.booleans()):  # the worst: all as large as they can be
            chosen = np.where(chosen < 0, -bound, bound - (bound == 128))
        return chosen

    x, w = integers(bounds[0], n, length), integers(bounds[1], outputs, length)
    small = bounds[0] <= 32512 and COMPILED
    rows = IntegerRows(x.astype(np.int16 if small else np.float32), bounds[0])
    weights = Operand(w[None].astype(np.float64), bounds[1])
    shown = {"signed": x, "magnitude": np.abs(x), "plus": np.maximum(x, 0)}
    shown["minus"] = np.maximum(-x, 0)
    name = data.draw(st.sampled_from(sorted(shown)))
    if bounds[0] == 128 and name != "signed":
        return  # centred integers of the offset encoding have no sides
    exact = shown[name].astype(object) @ w.T.astype(object)
    found = np.concatenate(
        [multiply(rows, name, weights, 0, *panel) for panel in panels(rows, weights, 2)], axis=1
    )
    scale = np.maximum(np.abs(exact).astype(float), 1)
    assert (np.abs(found.astype(object) - exact).astype(float) / scale).max() < 1e-12


@needs_onnxruntime
def test_a_library_tells_its_maker_nothing(tmp_path: Path) -> None:
    # onnxruntime wrote an identity of the computer, and what it ran, to the home folder
    homes = ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE", "CI", "ORT_DISABLE_TELEMETRY")
    environment = {k: v for k, v in os.environ.items() if k not in homes}
    environment |= {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    code = "from lightloom.backends.mock.int8_gemm import integer_product; integer_product()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))


@needs_onnxruntime
def test_a_library_that_saturates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # A user of an older processor would get wrong sums without a warning.
    from lightloom.backends.mock import int8_gemm as library

    def saturating(rows: np.ndarray, zero: int, columns: np.ndarray) -> np.ndarray:
        signed = columns.dtype == np.int8
        right = columns.astype(np.int32) - (0 if signed else 128)
        pairs = np.zeros((rows.shape[1] + 1) // 2)
        result = np.zeros((len(rows), right.shape[1]), dtype=np.int64)
        for k in range(len(pairs)):
            pair = rows[:, 2 * k : 2 * k + 2].astype(np.int32) @ right[2 * k : 2 * k + 2]
            result += np.clip(pair, -32768, 32767) if signed else pair
        return (result - zero * right.sum(axis=0)).astype(np.int32)

    assert not is_exact(IntegerProduct("u8 x s8", saturating))
    assert is_exact(IntegerProduct("u8 x u8", saturating))
    monkeypatch.setattr(library, "open_sessions", lambda signed: saturating)
    integer_product.cache_clear()
    try:
        found = integer_product()
        assert isinstance(found, IntegerProduct) and found.kind == "u8 x u8"
        never = lambda rows, zero, columns: np.zeros((len(rows), columns.shape[1]), np.int32)  # noqa: E731
        monkeypatch.setattr(library, "open_sessions", lambda signed: never)
        integer_product.cache_clear()
        reason = integer_product()
        assert isinstance(reason, str) and "not exact on this processor" in reason
        if COMPILED:
            monkeypatch.setattr(products_module.compiled_loops(), "HAS_DOT", False)
            assert mock_path()["products"].startswith("float32 in numpy, since onnxruntime")
    finally:
        integer_product.cache_clear()


# --- against the slow reference ------------------------------------------------------------------


@st.composite
def benches(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "encoding": draw(st.sampled_from(ENCODINGS)),
        "detection": draw(st.sampled_from(DETECTIONS)),
        "input_bits": draw(st.sampled_from([None, 2, 4, 8, 12])),
        "weight_bits": draw(st.sampled_from([None, 2, 4, 8, 12])),
        "extinction_ratio": draw(st.sampled_from([None, 20.0, 500.0])),
        "extinction_model": draw(st.sampled_from(["leak", "clamp"])),
        "length": draw(st.sampled_from([None, 2, 16, 50])),
        "rows": draw(st.sampled_from([None, 2, 6])),
        "crosstalk": draw(st.sampled_from([None, 0.05])),
        "photons_full_scale": draw(st.sampled_from([None, 1e5])),
        "read_noise_e": 4.0,
    }


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(benches(), st.integers(1, 12), st.integers(1, 70), st.integers(1, 90), st.integers(0, 2**32))
def test_any_bench_follows_the_formulas(
    fields: dict[str, Any], n: int, outputs: int, length: int, seed: int
) -> None:
    # A user would meet a combination of settings that no other test has.
    # 200 examples of up to 840 numbers: one beyond 7 sigma in 2e6 of them is a false alarm
    if fields["photons_full_scale"] is None:
        fields["read_noise_e"] = None
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, length)) * random.choice([1e-3, 1, 1e3], (n, 1))
    x[random.integers(n)] = np.abs(x[random.integers(n)])
    w = random.normal(size=(outputs, length)) * random.choice([0, 1e-3, 1, 1e3], (outputs, 1))
    x, w = x.astype(np.float32), w.astype(np.float32)
    backend = MockBackend(OpticsProfile(**fields), seed % 2**60)
    y, known = backend.matmul(x, w).y, theory(x, w, backend.profile)
    scale = np.abs(x).max(1)[:, None] * np.abs(w).sum(1) + 1e-30
    bound = 1e-5 * scale * (10 if fields["encoding"] == "offset" else 1)
    assert (np.abs(y - known.mean) <= 7 * np.sqrt(known.variance) + bound).all()


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_memory_is_limited_to_the_output_and_some_blocks(encoding: str) -> None:
    # A user with a long batch would run out of memory: copies of all of it are not allowed.
    backend = MockBackend(OpticsProfile(**BENCH | {"encoding": encoding}))
    weights = backend.prepare(numbers(600, 512, seed=2))
    backend.matmul(numbers(40, 512), weights)
    beyond = []
    for n in (8_000, 16_000):
        x = numbers(n, 512)
        tracemalloc.start()
        y = backend.matmul(x, weights).y
        beyond.append(tracemalloc.get_traced_memory()[1] - y.nbytes)
        tracemalloc.stop()
    assert beyond[1] < beyond[0] + 2**22  # the output grew by 18 MiB
    assert beyond[1] < 2**24


@pytest.mark.parametrize("detection", DETECTIONS)
def test_memory_of_weak_light_is_limited_to_some_blocks(detection: str) -> None:
    # A user of a dim bench would run out of memory: the source noise of each output in weak light
    # was once stored for all outputs of its frame.
    fields = BENCH | {"detection": detection, "photons_full_scale": 0.5, "source_rms": 0.02}
    backend = MockBackend(OpticsProfile(**fields | {"read_noise_e": 1.0}))
    weights = backend.prepare(numbers(600, 40, seed=2))
    x = numbers(400, 40)
    tracemalloc.start()
    y = backend.matmul(x, weights).y
    beyond = tracemalloc.get_traced_memory()[1] - y.nbytes
    tracemalloc.stop()
    assert beyond < 2**27


# --- the benchmark -------------------------------------------------------------------------------


def test_the_benchmark_prints_ratios_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An engineer would lose the figures that the documentation quotes.
    from lightloom.benchmarks import matmul
    from lightloom.benchmarks.__main__ import app

    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    monkeypatch.setattr(matmul, "SHAPES", ((40, 70),))
    monkeypatch.setattr(matmul, "LIGHT_SHAPE", (20, 30))
    options = [
        "--repeats",
        "1",
        "--rows",
        "1,6",
        "--photons",
        "0.1",
        "--json",
        str(tmp_path / "m.json"),
    ]
    printed = CliRunner().invoke(app, ["matmul", *options]).output
    assert "40 -> 70" in printed and "N = 6" in printed and "push-pull, per reading" in printed
    assert "Little light, 128 x 20 x 30" in printed and "P = 0.1" in printed
    document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert document["threads"] == 1 and len(document["results"]) == 3
    for result in document["results"]:
        assert {"float32 numpy", "push-pull", "abs-split", "offset"} <= result["seconds"].keys()
        assert all(seconds > 0 for values in result["seconds"].values() for seconds in values)
