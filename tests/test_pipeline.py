"""Overlap changes times, never results, and it is predicted to the event."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from bench_factory import BenchMaker
from lightloom.backends import (
    ORDERS,
    DeviceTimeline,
    Geometry,
    JobShape,
    ShotTiming,
    Stats,
    best_order,
    load_profile,
    pack,
    visits,
)
from lightloom.backends.bench import BenchBackend, BenchGroup
from lightloom.backends.bench.queue import JobQueue
from lightloom.backends.bench.shot_plan import TileJob, TileResult
from lightloom.backends.device_timeline import one_more_shot
from lightloom.backends.timing import ModulatorTiming
from lightloom.instruments import InputError, Timeline, VirtualClock
from lightloom.models import Cache, Model, load_arrays, load_model
from lightloom.scheduler.costs import HostModel
from lightloom.scheduler.host_steps import REGISTRY, HostFunction
from lightloom.scheduler.prediction import predict
from lightloom.scheduler.runs import plan

Make = Callable[..., BenchBackend]


@pytest.fixture
def make_timed(make_bench: BenchMaker) -> Make:
    """Benches whose devices take their time, and whose light is exact."""

    def make(layout: str = "imaged", /, **changes: Any) -> BenchBackend:
        return make_bench(layout, **{"world__light": "timing", **changes})

    return make


def tokens(batch: int, length: int, vocabulary: int = 40) -> np.ndarray:
    chance = np.random.Generator(np.random.Philox(5))
    return chance.integers(0, vocabulary, (batch, length))


def passed(
    model: Model, backend: BenchBackend, data: np.ndarray, parts: int, overlaps: bool
) -> np.ndarray:
    executor = model.executor(backend)
    executor.micro_batches, executor.overlaps = parts, overlaps
    ending = "hidden" if model.task == "encoder" else "logits"
    return model.run_pass(executor, ending, data)


def counted(model: Model, backend: BenchBackend) -> Stats:
    total = Stats()
    for record in model.executor(backend).records.values():
        total.add(record.stats)
    return total


# ------------------------------------------------------------------------------- no hangs


def test_a_result_that_is_seen_early_stops_no_clock(
    make_timed: Make, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product's result may be ready before the thread that produced it continues.

    What was to stand still until then stood still for ever: a run hung once in some thousands.
    """
    backend, model = make_timed(), load_model(small_model)
    submit = JobQueue.submit

    def slow(queue: JobQueue, job: TileJob) -> Future[TileResult]:
        future = submit(queue, job)
        future.add_done_callback(lambda _: time.sleep(0.02))  # a slow thread
        return future

    monkeypatch.setattr(JobQueue, "submit", slow)
    ended: list[np.ndarray] = []
    work = Thread(
        target=lambda: ended.append(passed(model, backend, tokens(2, 4), 2, True)), daemon=True
    )
    work.start()
    work.join(timeout=120)
    assert ended


# ------------------------------------------------------------------------------- same numbers


@pytest.mark.parametrize(
    "name, light",
    [
        ("small", "pixels"),
        pytest.param("gpt2", "pixels", marks=pytest.mark.slow),
        pytest.param("llama", "timing", marks=pytest.mark.slow),
        pytest.param("bert", "timing", marks=pytest.mark.slow),
    ],
)
def test_overlap_changes_no_bit(
    make_timed: Make, references: Path, small_model: Path, name: str, light: str
) -> None:
    # noise depends on the address, and products go to light in the order of the program
    model = load_model(small_model if name == "small" else references / name)
    data = tokens(2, 2, min(model.config.vocabulary, 40))
    ways = [(2, False), (2, True), (2, True)]
    found = [passed(model, make_timed(world__light=light), data, *way) for way in ways]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_a_cache_goes_through_micro_batches(make_timed: Make, small_model: Path) -> None:
    # keys and values of each micro-batch are appended to those of its own rows
    model, data = load_model(small_model), tokens(3, 4)
    whole = model.forward(data)
    backend = make_timed()
    executor = model.executor(backend)
    executor.micro_batches = 2
    cache = Cache()
    steps = [
        model.forward(data[:, first : first + 1], cache=cache, backend=backend)
        for first in range(data.shape[1])
    ]
    found = np.concatenate(steps, axis=1)
    assert cache.length == 4
    assert np.corrcoef(found.ravel(), whole.ravel())[0, 1] > 0.999  # grey levels are 8 bits


# ----------------------------------------------------------------------- exact to the event


@pytest.mark.parametrize(
    "name, layout, parts",
    [
        pytest.param("gpt2", "imaged", 1, marks=pytest.mark.slow),
        pytest.param("gpt2", "imaged", 2, marks=pytest.mark.slow),
        pytest.param("gpt2", "imaged", 3, marks=pytest.mark.slow),
        ("small", "imaged", 2),
        ("small", "line", 2),
        ("small", "single-pixel", 2),
        pytest.param("gpt2", "line", 2, marks=pytest.mark.slow),
        pytest.param("gpt2", "single-pixel", 2, marks=pytest.mark.slow),
    ],
)
def test_a_virtual_bench_takes_the_time_that_was_predicted(
    make_timed: Make, references: Path, small_model: Path, name: str, layout: str, parts: int
) -> None:
    length = 1 if layout == "single-pixel" else 2
    model = load_model(small_model if name == "small" else references / name)
    data = tokens(3, length)
    # offset: the number of exposures does not depend on values
    backend = make_timed(
        layout,
        encoding__kind="offset",
        instruments__input__refresh_period_s=0.0017,
        instruments__input__transfer_s=0.0006,
        instruments__weight__settle_time_s=0.0042,
        instruments__weight__transfer_s=0.0031,
    )
    backend.open()
    planned = plan(model, backend, batch=3, sequence=length)
    start_s = backend.clock.now_s()
    sizes = {"batch": 3, "new": length, "past": 0}
    program = model.program("logits")
    found = predict(
        program,
        planned.on_light,
        sizes,
        planned.bench,
        HostModel(lambda step, sizes: 0.0),
        parts,
        None,
        start_s,
    )
    passed(model, backend, data, parts, True)
    stats = counted(model, backend)
    assert (stats.shots, stats.weight_frames, stats.input_frames) == (
        found.shots,
        found.frames["weight"],
        found.frames["input"],
    )
    assert backend.clock.now_s() - start_s == pytest.approx(found.seconds, rel=1e-9)


def test_every_shot_happens_when_it_was_predicted(make_timed: Make, references: Path) -> None:
    model, data = load_model(references / "gpt2"), tokens(2, 2)
    backend = make_timed(encoding__kind="offset")
    backend.open()
    planned = plan(model, backend, batch=2, sequence=2)
    start_s = backend.clock.now_s()
    expected, seen = Timeline(VirtualClock()), Timeline(backend.clock)
    sizes = {"batch": 2, "new": 2, "past": 0}
    program = model.program("logits")
    host = HostModel(lambda step, sizes: 0.0)
    predict(program, planned.on_light, sizes, planned.bench, host, 2, expected, start_s)
    backend.timeline = seen
    passed(model, backend, data, 2, True)
    for track in ("input", "weight", "detector"):
        times = [
            sorted((s.start_s, s.end_s, s.details["step"]) for s in line.slices if s.track == track)
            for line in (expected, seen)
        ]
        assert [step for *_, step in times[0]] == [step for *_, step in times[1]]
        np.testing.assert_allclose(
            [t[:2] for t in times[0]], [t[:2] for t in times[1]], rtol=0, atol=1e-9
        )


def test_light_hides_the_host(make_timed: Make, references: Path) -> None:
    # while the host computes the softmax of one micro-batch, light multiplies the next
    model = load_model(references / "gpt2")
    planned = plan(model, make_timed(), batch=4, sequence=4)
    sizes = {"batch": 4, "new": 4, "past": 0}

    def host(seconds: float) -> HostModel:
        return HostModel(lambda step, sizes: seconds * sizes["batch"])

    def took(parts: int, seconds: float) -> float:
        program, on_light = model.program("logits"), planned.on_light
        return predict(program, on_light, sizes, planned.bench, host(seconds), parts).seconds

    slow = 0.02  # a step and row; light takes ten times that in all
    assert took(1, slow) > 1.05 * took(1, 0.0)
    steps = len([s for s in model.program("logits").steps if s.name not in planned.on_light])
    hidden = took(2, slow) - took(2, 0.0)
    assert hidden < 0.25 * steps * slow * 4


# ---------------------------------------------------------------------------------- orders


@pytest.mark.parametrize("tiles", [1, 2, 3])
@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_no_order_shows_fewer_frames(tiles: int, vectors: int) -> None:
    for order in ORDERS:
        shots = visits(tiles, vectors, order)
        assert len({tuple(shot) for shot in shots.tolist()}) == tiles * vectors
        changes = (np.diff(shots, axis=0) != 0).sum(axis=0)
        assert changes.sum() == tiles * vectors - 1  # one modulator at a time
        resting = changes[0] if order == "weight-stationary" else changes[1]
        assert resting == (tiles if order == "weight-stationary" else vectors) - 1


class InAnyOrder(DeviceTimeline):
    """Return a model of the devices after these shots."""

    def __init__(self, shots: Sequence[tuple[int, int]], timing: ShotTiming) -> None:
        super().__init__(timing)
        self.order = shots

    def shown(self, job: JobShape) -> Iterator[tuple[int, int | None]]:
        return iter(self.order)


def times_of(shots: Sequence[tuple[int, int]], timing: ShotTiming) -> float:
    """Simulate shots in any order on a model of the devices."""
    light = InAnyOrder(shots, timing)
    light.run(JobShape(1, 1))
    return light.now_s


TIMINGS = {
    "slow weights": ((1e-3, 1e-3), (1e-3, 8e-3), 5e-4, 5e-4),
    "slow inputs": ((1 / 60, 1 / 60), (1e-3, 1e-3), 5e-4, 5e-4),
    "alike": ((1 / 60, 1 / 60), (1 / 60, 1 / 60), 2e-3, 1 / 120),
    "slow read-out": ((1e-3, 1e-3), (1e-3, 2e-3), 1e-3, 2e-2),
    "odd periods": ((1.7e-3, 1e-3), (2.3e-3, 3.1e-3), 4e-4, 1.1e-3),
    "no refresh": ((0.0, 3e-3), (0.0, 2e-3), 1e-3, 0.0),
}


@pytest.mark.parametrize(
    "name, tiles, vectors",
    [(name, *job) for name in TIMINGS for job in ((2, 3), (3, 2))]
    + [pytest.param(name, 2, 4, marks=pytest.mark.slow) for name in ("alike", "odd periods")],
)
def test_the_chosen_order_is_the_best_of_all(name: str, tiles: int, vectors: int) -> None:
    # brute force over every order of all shots: at most 40,320
    (ri, si), (rw, sw), exposure, readout = TIMINGS[name]
    timing = ShotTiming(
        ModulatorTiming(ri, 0.0, si), ModulatorTiming(rw, 0.0, sw), exposure, readout
    )
    order = visits(tiles, vectors, best_order(tiles, vectors, timing))
    chosen = times_of([(tile, vector) for tile, vector in order.tolist()], timing)
    shots = list(itertools.product(range(tiles), range(vectors)))
    best = min(times_of(order, timing) for order in itertools.permutations(shots))
    assert chosen <= 1.02 * best


def test_heads_share_frames() -> None:
    # 12 heads of 5 keys on a frame of 4 groups: 3 frames, each with its own queries
    packing = pack([7] * 12, 5, Geometry(16, 64, 4))
    assert packing.frames() == (3, 21) and packing.shots == 21
    # one matrix of one tile: 4 of its vectors pass at once
    packing = pack([7], 5, Geometry(16, 64, 4))
    assert packing.frames() == (1, 2) and packing.inputs_shown() == 7


def test_unchanged_input_frames_are_not_shown_again() -> None:
    # boustrophedon over 3 weight frames: 5 vectors, then 4, then 4
    packing = pack([5], 40, Geometry(16, 64))
    assert packing.frames() == (3, 13) and packing.inputs_shown() == 13
    assert packing.frames("input-stationary") == (11, 5)


@pytest.mark.slow
def test_large_jobs_take_what_their_shots_take() -> None:
    # times of jobs that are not simulated shot by shot
    for name, ((ri, si), (rw, sw), exposure, readout) in TIMINGS.items():
        timing = ShotTiming(
            ModulatorTiming(ri, 0.0, si), ModulatorTiming(rw, 0.0, sw), exposure, readout
        )
        for order in ORDERS:
            exact, quick = DeviceTimeline(timing), DeviceTimeline(timing)
            exact.exact_shots, quick.exact_shots = 1 << 40, 10
            for light in (exact, quick):
                light.run(JobShape(40, 200, order), one_more_shot)
                light.run(JobShape(3, 150, order))
            assert quick.now_s == pytest.approx(exact.now_s, rel=0.005), name
            assert quick.shots == exact.shots and quick.frames == exact.frames


# ---------------------------------------------------------------------------------- failures


def test_a_failing_host_step_switches_the_light_off(
    make_timed: Make, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, backend = load_model(small_model), make_timed()

    def broken(*_: Any, **__: Any) -> Any:
        raise InputError("softmax is broken")

    known = REGISTRY["softmax"]
    monkeypatch.setitem(REGISTRY, "softmax", HostFunction(broken, known.operations, False))
    with pytest.raises(InputError, match="softmax is broken"):
        passed(model, backend, tokens(4, 3), 2, True)
    assert not backend.bench.source.is_connected  # closed, and so off
    monkeypatch.undo()
    model = load_model(small_model)
    assert np.isfinite(passed(model, backend, tokens(4, 3), 2, True)).all()  # and it still works


def test_an_interrupted_pass_ends_and_can_be_repeated(
    make_timed: Make, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ctrl-C arrives in the thread of host steps, while others wait for light
    model, backend = load_model(small_model), make_timed()
    known = REGISTRY["softmax"]

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(REGISTRY, "softmax", HostFunction(interrupted, known.operations, False))
    with pytest.raises(KeyboardInterrupt):
        passed(model, backend, tokens(4, 3), 2, True)
    monkeypatch.undo()
    model = load_model(small_model)
    again = passed(model, backend, tokens(4, 3), 2, True)
    assert np.array_equal(again, passed(model, make_timed(), tokens(4, 3), 2, True))


def test_a_frame_that_does_not_fit_is_refused_before_it_is_shown(
    make_timed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_timed()
    backend.open()
    layout = backend.optical_model.layout
    fits = np.zeros((layout.slots, layout.length), dtype=np.uint8)
    large = np.zeros((layout.slots + 1, layout.length), dtype=np.uint8)
    shown = backend.bench.shots
    with pytest.raises(InputError, match=f"hold {layout.slots + 1} x .* this bench {layout.slots}"):
        backend.submit(TileJob("large", 1, 1, lambda _: large, lambda _: fits))
    model = load_model("digits")
    planned = plan(model, backend, batch=1)
    monkeypatch.setattr("lightloom.scheduler.runs.run.memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"needs about .*B .* has 1 kB; give a smaller"):
        planned.run(load_arrays(model.source / "data.safetensors")["images"][:1])
    assert backend.bench.shots == shown


def test_traces_hold_every_thread_and_device(make_timed: Make, small_model: Path) -> None:
    model, backend = load_model(small_model), make_timed()
    backend.open()
    backend.timeline = Timeline(backend.clock)
    passed(model, backend, tokens(2, 3), 2, True)
    tracks = {item.track for item in backend.timeline.slices}
    assert tracks == {"host", "feed", "encode", "input", "weight", "detector", "decode", "gather"}
    assert {count.name for count in backend.timeline.counts} == {"jobs waiting for light"}
    steps = {s.details.get("step") for s in backend.timeline.slices if s.track == "detector"}
    assert steps == set(plan(model, backend, batch=2, sequence=3).on_light)


def test_profiles_are_faster_with_overlap() -> None:
    for name in ("slm-camera", "dmd-camera"):
        timing = ShotTiming.of(load_profile(name))
        light = DeviceTimeline(timing)
        light.run(JobShape(1, 100))
        assert light.now_s <= 100 * timing.period_s + timing.weight.settle_s


# ------------------------------------------------------------------------------ many benches


def test_two_benches_share_every_product(make_timed: Make, small_model: Path) -> None:
    # heads, weight frames or rows are sharded, and the numbers are those of one bench
    model, data = load_model(small_model), tokens(4, 3)
    one = make_timed()
    alone = passed(model, one, data, 1, True)
    group = BenchGroup([make_timed(), make_timed()])
    try:
        group.timeline = Timeline(group.clock)
        together = passed(model, group, data, 1, True)  # type: ignore[arg-type]
        np.testing.assert_allclose(together, alone, atol=0.02 * np.abs(alone).max())
        shots = [bench.bench.shots for bench in group.benches.values()]
        assert sum(shots) <= 1.1 * one.bench.shots and min(shots) > 0.8 * max(shots)
        tracks = {item.track for item in group.timeline.slices}
        assert {"bench 1/detector", "bench 2/detector", "host"} <= tracks
    finally:
        group.close()


def test_a_group_wants_benches_that_can_share(make_timed: Make) -> None:
    with pytest.raises(InputError, match="two benches or more"):
        BenchGroup([make_timed()])
