"""A program is data: it can be read, sized, timed and placed without running anything."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from lightloom.backends import Geometry, OpticsProfile, load_profile, tile_count, tiles
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.scheduler import BATCH, NEW, PAST, HostStep
from lightloom.scheduler.costs import BenchModel, optical_cost
from lightloom.scheduler.host_steps import REGISTRY
from lightloom.scheduler.placement import decide
from lightloom.scheduler.runs import plan

import lightloom


def test_sizes_add_and_multiply() -> None:
    size = 3 * NEW * (PAST + NEW) + 2
    assert size({"new": 5, "past": 7}) == 182
    assert str(BATCH * 2 + 0) == "2*batch"
    assert (NEW + -1)({"new": 5}) == 4 and (NEW * 0).is_fixed


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit"])
def test_a_program_can_be_serialised(references: Path, name: str) -> None:
    # a program must be serialisable to be recorded, resumed, or sent elsewhere
    model = load_model(references / name)
    ending = "hidden" if name == "bert" else "logits"
    document = json.dumps([dataclasses.asdict(s) for s in model.program(ending).steps])
    assert "lambda" not in document and "object at" not in document
    for step in model.program(ending).steps:
        assert not isinstance(step, HostStep) or step.step in REGISTRY


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "vit", "digits"])
def test_declared_shapes_are_the_real_ones(references: Path, name: str) -> None:
    # a plan is computed from them
    model = load_model(name if name == "digits" else references / name)
    executor = model.executor()
    seen: dict[str, tuple[int, ...]] = {}
    original = executor.run_host

    def spy(step, operands, ends):  # type: ignore[no-untyped-def]
        original(step, operands, ends)
        for output, symbolic in zip(step.outputs, step.out_shapes, strict=True):
            sizes = {"batch": 3, "new": count, "past": 0}
            seen[output] = np.shape(operands[output])
            declared = tuple(size(sizes) for size in symbolic)
            assert declared[1:] == seen[output][1:], output  # a mask may be one for all rows

    executor.run_host = spy  # type: ignore[method-assign]
    if model.task == "vision":
        count = model.config.context
        size = (3, model.config.channels, model.config.image, model.config.image)
        model.forward(np.zeros(size, dtype=np.float32))
    else:
        count = 6
        model.forward(np.ones((3, 6), dtype=int))
    assert len(seen) > 10


def test_operands_are_dropped_after_their_last_use(references: Path) -> None:
    program = load_model(references / "llama").program("logits")
    dropped = [name for ends in program.last_uses for name in ends]
    assert len(dropped) == len(set(dropped))
    kept = {*program.outputs, *program.states}
    written = {name for step in program.steps for name in step.outputs}
    assert written - set(dropped) == set(program.outputs)
    assert not kept & set(dropped)


def test_tiles_cover_a_matrix_once() -> None:
    covered = np.zeros((50, 70), dtype=int)
    geometry = Geometry(outputs=16, inputs=32)
    for tile in tiles((50, 70), geometry):
        covered[tile.first_row : tile.last_row, tile.columns] += 1
    assert (covered == 1).all()
    assert tile_count((50, 70), geometry) == 4 * 3 == len(list(tiles((50, 70), geometry)))
    assert tile_count((50, 70), Geometry(None, None)) == 1


def test_two_rails_take_two_rows_and_balanced_inputs_two_elements() -> None:
    profile = OpticsProfile(rows=64, length=256, encoding="abs-split", detection="balanced")
    assert Geometry.of(profile) == Geometry(32, 128, 1)
    offset = OpticsProfile(rows=64, length=256, encoding="offset", detection="balanced")
    assert Geometry.of(offset) == Geometry(64, 256, 1)
    camera = OpticsProfile(rows=64, length=256, detection="per-reading")
    assert Geometry.of(camera) == Geometry(32, 256, 1)


def test_a_plan_counts_what_the_mock_counts() -> None:
    # planned frames must be those of a run
    model = load_model("digits")
    backend = lightloom.open_backend("mock:slm-camera")
    planned = plan(model, backend, batch=5)
    images = np.full((5, 1, 8, 8), 7, dtype=np.uint8)
    images[:, :, ::2] = 12
    planned.run(images)
    records = model.executor(backend).records
    for step in planned.steps:
        if step.where == "optical":
            stats = records[step.name].stats
            assert stats.macs == step.macs and stats.weight_frames == step.weight_frames
            assert stats.shots <= step.shots and stats.conversions <= step.conversions
    assert sum(r.stats.shots for r in records.values()) > 0.5 * sum(s.shots for s in planned.steps)


def test_shots_of_a_known_product() -> None:
    # 40 outputs of two rails on 64 rows: 2 tiles, in one frame of 4 groups, each for two vectors at
    # once; 17 vectors in two exposures: 34 by 2 are 17 shots
    model, profile = load_model("digits"), load_profile("slm-camera")
    bench = BenchModel.of(profile)
    step = next(m for m in model.program("logits").matmuls if m.name == "layer.0.attention.q")
    cost = optical_cost(step, {"batch": 1, "new": 17, "past": 0}, bench)
    assert (cost.tiles, cost.weight_frames, cost.shots) == (2, 1, 17)
    assert cost.conversions == 17 * 40 * 4
    # settling 1 ms, exposure 1 ms, read-out 4.4 ms, one after the other: 7 whole periods of 1 ms;
    # with the next frame settling while the last one is read out: exposure and read-out alone,
    # and 1 ms until the first one has settled
    assert bench.timing.period_s == pytest.approx(0.007)
    assert cost.seconds == pytest.approx(17 * 0.0054 + 0.001)
    assert cost.wait_s == pytest.approx(0.001)


def test_placement_policies(references: Path) -> None:
    program = load_model(references / "gpt2").program("logits")
    light = {
        policy: {m.kind for m in program.matmuls if m.name in decide(program, policy).on_light}
        for policy in ("paper", "projections", "all-optical", "host")
    }
    assert light["host"] == set() and "LM head" in light["all-optical"]
    assert light["paper"] == light["all-optical"] - {"LM head"}
    assert light["projections"] == light["paper"] - {"QK^T", "attention x V"}
    with pytest.raises(InputError, match="unknown placement 'sun'"):
        decide(program, "sun")


def test_ranges_ignore_masked_positions(references: Path) -> None:
    # a key that no token may see must not widen the converter's range
    model = load_model(references / "llama")
    mock = lightloom.open_backend("mock:slm-camera")
    executor = model.executor(mock)
    step = next(m for m in model.program("logits").matmuls if m.name == "layer.0.attention.qk")
    operands = {
        step.x: np.ones((1, 1, 6, 4), dtype=np.float32),
        step.w: np.array([[[[1, 1, 1, 1], [100, 100, 100, 100]]]], dtype=np.float32),
        step.valid: np.array([[[[0, -np.inf], [0, -np.inf]]]], dtype=np.float32),
    }
    masked = executor.observe(step, operands)[0].readout
    operands[step.valid] = np.zeros((1, 1, 2, 2), dtype=np.float32)
    seen = executor.observe(step, operands)[0].readout
    assert masked.max() < 0.05 * seen.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch = 0"),
        ({"sequence": 65}, "more than the 64 that the context"),
        ({"new_tokens": -1}, "new tokens = -1"),
        ({"placement": "sun"}, "unknown placement"),
    ],
)
def test_impossible_plans_are_refused(references: Path, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        plan(load_model(references / "gpt2"), "mock", **options)
