"""The host's work for a shot: fast steps give the bits of the slow ones, and none is done twice."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bench_factory import BenchMaker, fault, numbers
from lightloom.backends import DeviceTimeline, JobShape
from lightloom.backends.bench.frame_tracker import FrameTracker
from lightloom.backends.bench.queue import Worker
from lightloom.backends.optics.layouts import on_camera
from lightloom.backends.optics.layouts.base import ImageReading, Marks
from lightloom.backends.timing import ModulatorTiming, ShotTiming
from lightloom.instruments import InstrumentError
from lightloom.instruments.environment import COMPILED

needs_numba = pytest.mark.skipif(not COMPILED, reason="compares with compiled loops")


@needs_numba
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_compiled_sums_of_rectangles_are_exact(dtype: type) -> None:
    # brightest counts, rectangles that overlap, touch the edges, and have one pixel
    chance = np.random.default_rng(1)
    for _ in range(20):
        image = chance.integers(0, np.iinfo(dtype).max + 1, (40, 60)).astype(dtype)
        corners = np.sort(chance.integers(0, [41, 61], (30, 2, 2)), axis=1)
        boxes = np.concatenate([corners[:, 0], np.maximum(corners[:, 1], corners[:, 0])], axis=1)
        boxes = np.concatenate([boxes, [[0, 0, 40, 60], [39, 59, 40, 60]]]).astype(np.int64)
        found = on_camera.kernels().count_sums(image, boxes, on_camera._edges(boxes))
        wanted = [image[t:b, le:r].sum(dtype=np.int64) for t, le, b, r in boxes]
        np.testing.assert_array_equal(found, wanted)


@needs_numba
@pytest.mark.parametrize("layout_name", ["imaged", "line"])
def test_compiled_markers_give_the_bits_of_numpy(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, layout_name: str
) -> None:
    # A run without numba must resume one with it. Unreadable markers fail with the same words.
    model = make_bench(layout_name).optical_model
    layout, markers = model.layout, model.response.markers
    assert markers is not None
    chance = np.random.default_rng(2)

    def read(reading: ImageReading, compiled: bool) -> Marks | str:
        monkeypatch.setattr(on_camera, "COMPILED", compiled)
        try:
            return layout.marks(reading, 0.3, markers)
        except InstrumentError as error:
            return str(error)

    outcomes = set()
    for trial in range(200):
        cells = np.zeros_like(markers.tables[0])
        for role, (light, leak, dark) in enumerate(zip(*markers.tables, strict=True)):
            lit = layout._bits(int(chance.integers(1 << layout.marker_bits))) > 0
            cells[role] = np.resize(lit, light.shape) * light + 0.3 * leak + dark
        noise = chance.standard_normal(cells.shape) * np.sqrt(cells + 100)
        cells = (cells + noise) * (0.3 if trial % 10 == 0 else 1.02)
        if trial % 10 == 1:
            cells[0, 0] = cells[0, 1] = cells[0].max()
        reading = ImageReading(np.zeros(layout.slots), cells)
        found = read(reading, True)
        assert found == read(reading, False)
        outcomes.add(type(found))
    assert outcomes == {Marks, str}


def test_no_frame_is_encoded_twice_after_a_retry(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A retry takes a frame id. All later frames were encoded with a wrong one, and then again.
    made: list[str] = []
    make = FrameTracker._make_frame

    def counted(tracker: FrameTracker, *arguments: Any) -> Any:
        made.append(arguments[0])
        return make(tracker, *arguments)

    monkeypatch.setattr(FrameTracker, "_make_frame", counted)
    backend = make_bench(instruments__input__faults=fault("frozen", [12]))
    stats = backend.matmul(np.abs(numbers(400, 16)), numbers(4, 16, seed=4)).stats
    assert sum(backend.faults.values()) >= 1
    assert len(made) <= stats.input_frames + stats.weight_frames + 8


def test_a_camera_returns_recorded_images_again(make_bench: BenchMaker) -> None:
    backend = make_bench()
    camera: Any = backend.bench.camera
    camera.recording = {}
    x, w = np.abs(numbers(6, 16)), numbers(4, 16, seed=4)
    wanted = backend.matmul(x, w).y
    recorded = camera.recording
    again = make_bench()
    camera = again.bench.camera
    camera.recording = dict(recorded)
    np.testing.assert_array_equal(again.matmul(x, w).y, wanted)
    assert camera.recording.keys() == recorded.keys()


def test_a_worker_does_tasks_in_order_and_passes_errors_on() -> None:
    done: list[int] = []
    worker = Worker("test")
    tasks = [worker.submit(done.append, number) for number in range(100)]
    failing = worker.submit(lambda: 1 / 0)
    for task in tasks:
        assert task.result() is None
    for _ in range(2):  # it can be asked again
        with pytest.raises(ZeroDivisionError):
            failing.result()
    assert done == list(range(100))
    worker.close()


def test_a_closed_worker_cancels_what_waits() -> None:
    # A task that nothing will do must not be waited for.
    begun, may_end = threading.Event(), threading.Event()
    worker = Worker("test")
    current = worker.submit(lambda: (begun.set(), may_end.wait(10))[1])
    waiting = worker.submit(int)
    assert begun.wait(10)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker._is_closed:
        pass
    may_end.set()
    closing.join(10)
    assert current.result() is True
    for late in (waiting.result, lambda: worker.submit(int)):
        with pytest.raises(CancelledError):
            late()


def test_spare_time_is_used_only_if_a_task_fits() -> None:
    # A task that takes longer than the wait would delay the next exposure.
    threads: list[str] = []

    def task() -> None:
        threads.append(threading.current_thread().name)

    worker = Worker("helper")
    for spare_s in (1.0, 1.0, 1e-5):  # the duration of the first one is not known
        deferred = worker.defer(task)
        worker.use_spare_time(spare_s)
        deferred.result()
        worker.submit(int).result()  # begins once the duration of the task is known
    asked = worker.defer(task)
    asked.result()  # nothing else would do it
    worker.use_spare_time(1.0)
    worker.close()
    here = threading.current_thread().name
    assert threads == ["helper", here, "helper", here]


def test_a_late_thread_misses_refresh_periods() -> None:
    # A bench of 1 kHz has half a millisecond to show the next frames after an exposure.
    modulator = ModulatorTiming(1e-3, 0.0, 1e-3)
    timing = ShotTiming(modulator, modulator, exposure_s=5e-4, readout_s=5e-4)

    def shot_s(late_s: tuple[float, ...]) -> float:
        devices = DeviceTimeline(replace(timing, late_s=late_s))
        devices.run(JobShape(1, 400))
        return devices.now_s / devices.shots

    assert shot_s(()) == pytest.approx(2e-3, rel=0.01)
    assert shot_s((1e-4,)) == pytest.approx(2e-3, rel=0.01)  # it still comes in time
    assert shot_s((3e-4,)) == pytest.approx(3e-3, rel=0.01)
    rare = (3e-3,) + 63 * (1e-4,)  # of 192 waits, that is three of 64 shots
    assert 2.05e-3 < shot_s(rare) < 2.25e-3
