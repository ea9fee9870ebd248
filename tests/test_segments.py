"""Segments: records equal results, and a run resumes from any segment with the same bits."""

from __future__ import annotations

import shutil
from collections import defaultdict
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import LAYOUTS, BenchMaker, load_example, numbers
from lightloom.backends import Address
from lightloom.backends.bench import BenchBackend, load_bench, shot_plan
from lightloom.backends.bench.checkpoint import QUALITY
from lightloom.backends.bench.queue import JobQueue
from lightloom.backends.bench.shot_plan import TileJob, TileResult
from lightloom.backends.calibration import align, calibrate, store
from memory_journal import Killed, Memory

# numbers of outputs, rows and elements that take several segments in each layout
SIZES = {"imaged": (6, 9, 20), "line": (2, 6, 30), "single-pixel": (2, 3, 16)}


def recorded(
    make_bench: BenchMaker, memory: Memory | None, layout: str, /, **changes: Any
) -> BenchBackend:
    """Return a bench whose segments are recorded in memory, or not at all."""
    backend = make_bench(layout, **changes)
    backend.recorder = memory
    return backend


def multiplied(backend: BenchBackend, layout: str, from_product: int = 0) -> list[np.ndarray]:
    """Return two products, so that a resumed run may start with the second."""
    outputs, rows, length = SIZES[layout]
    found = []
    for number in range(from_product, 2):
        x, w = numbers(rows, length, seed=number), numbers(outputs, length, seed=7 + number)
        at = Address(f"product.{number}", np.arange(rows, dtype=np.uint64))
        found.append(backend.matmul(x, w, at).y)
    return found


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten segments, so that small products have several."""
    monkeypatch.setattr(shot_plan, "SEGMENT", 5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_numbers_are_the_results(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    # a journal must hold the numbers of the run
    memory = Memory()
    backend = recorded(make_bench, memory, layout, world__source_rms=0.01)
    results: dict[str, tuple[TileJob, Future[TileResult]]] = {}
    submit = JobQueue.submit

    def watching(queue: JobQueue, job: TileJob) -> Future[TileResult]:
        future = submit(queue, job)
        results[job.name] = (job, future)
        return future

    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "submit", watching)
        multiplied(backend, layout)
    plain = recorded(make_bench, None, layout, world__source_rms=0.01)
    assert len(memory.segments) >= 6 and not memory.faults
    by_job = defaultdict(list)
    for segment in memory.segments:
        by_job[segment.job].append(segment)
    assert set(by_job) == set(results)
    for name, segments in by_job.items():
        job, future = results[name]
        found = future.result()
        kept = np.concatenate([segment.electrons for segment in segments])
        places = job.visits[: len(kept)]
        np.testing.assert_array_equal(found.electrons[places[:, 0], places[:, 1]], kept)
        assert [s.is_last for s in segments] == [False] * (len(segments) - 1) + [True]
        assert sum(segment.stats.shots for segment in segments) == found.stats.shots
        for segment in segments:
            assert 0 < segment.done - segment.first <= 5
            assert segment.quality.shape == (segment.done - segment.first, len(QUALITY))
            assert segment.quality.dtype == np.float32
            assert (segment.quality[:, QUALITY.index("attempts")] == 1).all()
            peak = segment.quality[:, QUALITY.index("peak")]
            assert ((peak > 0) & (peak < 1)).all()
    first, second = multiplied(plain, layout)  # recording changes no result
    again = recorded(make_bench, Memory(), layout, world__source_rms=0.01)
    np.testing.assert_array_equal([first, second], multiplied(again, layout))


@pytest.mark.parametrize(
    ("layout", "skips"),
    [
        ("imaged", False),
        ("single-pixel", True),
        pytest.param("imaged", True, marks=pytest.mark.slow),
        pytest.param("line", False, marks=pytest.mark.slow),
        pytest.param("line", True, marks=pytest.mark.slow),
        pytest.param("single-pixel", False, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumes_from_any_segment_with_the_same_bits(
    make_bench: BenchMaker, layout: str, skips: bool
) -> None:
    # a result must not depend on the time of an interruption. A caller that already has the result
    # of a finished product may skip it, or not
    light = {"world__source_rms": 0.01, "world__drift_rms": 0.02, "world__drift_shots": 300}
    whole = Memory()
    wanted = multiplied(recorded(make_bench, whole, layout, **light), layout)
    count = len(whole.segments)
    starts = [number for number, s in enumerate(whole.segments) if s.job.startswith("product.1")]
    for most in range(count):
        memory = Memory(most)
        with pytest.raises(Killed):
            multiplied(recorded(make_bench, memory, layout, **light), layout)
        assert len(memory.segments) == most
        memory.most = None
        backend = recorded(make_bench, memory, layout, **light)
        first = 1 if skips and most >= starts[0] else 0
        found = multiplied(backend, layout, first)
        for one, other in zip(found, wanted[first:], strict=True):
            np.testing.assert_array_equal(one, other)
        assert [s.done for s in memory.segments] == [s.done for s in whole.segments]
        for one, other in zip(memory.segments, whole.segments, strict=True):
            assert (one.job, one.first, one.state) == (other.job, other.first, other.state)
            np.testing.assert_array_equal(one.electrons, other.electrons)


def test_a_finished_product_needs_no_light(make_bench: BenchMaker) -> None:
    memory = Memory()
    wanted = multiplied(recorded(make_bench, memory, "imaged"), "imaged")
    backend = recorded(make_bench, memory, "imaged")
    backend.open()
    shots = backend.bench.shots
    np.testing.assert_array_equal(multiplied(backend, "imaged"), wanted)
    assert backend.bench.shots == shots


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_calibrated_bench_resumes_with_its_brightness_filter(
    tmp_path: Path, calibrated_folder: Path, layout: str
) -> None:
    # the brightness filter and the reference shots are part of the checkpoint
    if layout == "imaged":
        path = shutil.copytree(calibrated_folder, tmp_path / "calibrated") / "bench.toml"
    else:
        bench = load_example(tmp_path / "bench.toml", layout, as_found=True, seed=3)
        with bench:
            store(bench, align(bench))
        calibrate(bench)
        path = tmp_path / "bench.toml"

    def opened(memory: Memory) -> BenchBackend:
        backend = BenchBackend(load_bench(path))
        backend.recorder = memory
        return backend

    whole = Memory()
    backend = opened(whole)
    try:
        wanted = multiplied(backend, layout)
    finally:
        backend.close()
    assert whole.segments[-1].state.tracker is not None
    count = len(whole.segments)
    for most in (count // 3, count - 1):
        memory = Memory(most)
        backend = opened(memory)
        try:
            with pytest.raises(Killed):
                multiplied(backend, layout)
        finally:
            backend.close()
        memory.most = None
        backend = opened(memory)
        try:
            np.testing.assert_array_equal(multiplied(backend, layout), wanted)
        finally:
            backend.close()
