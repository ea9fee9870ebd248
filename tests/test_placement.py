"""The fastest placement is the fastest, the one of least energy takes the least; rules decide."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lightloom.backends import MockBackend, OpticsProfile, ShotTiming, load_profile
from lightloom.backends.timing import ModulatorTiming
from lightloom.benchmarks.contenders import Lightloom, make_job
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.models.shapes import model_or_shape, sized_model, with_random_weights
from lightloom.scheduler import Program
from lightloom.scheduler.costs import BenchModel
from lightloom.scheduler.energy.account import Account
from lightloom.scheduler.energy.constants import resolve
from lightloom.scheduler.energy.events import planned_events
from lightloom.scheduler.graph import signature
from lightloom.scheduler.placement import decide
from lightloom.scheduler.placement_times import PlacementTimes
from lightloom.scheduler.prediction import predict
from lightloom.scheduler.runs import plan
from typer.testing import CliRunner

import lightloom
from lightloom.cli.app import app

NAMED = ("paper", "projections", "all-optical", "host")


def bench_of(name: str, host_per_s: float | None = None) -> BenchModel:
    """Return a profile's bench, with a host of so many operations and bytes a second."""
    return BenchModel.of(profile_of(name, host_per_s))


def profile_of(name: str, host_per_s: float | None = None) -> OpticsProfile:
    profile = load_profile(name)
    if host_per_s is None:
        return profile
    host = {"host_operations_per_s": host_per_s, "host_bytes_per_s": host_per_s}
    return profile.with_settings(host)


def all_placements(program: Program) -> list[frozenset[str]]:
    """Return every placement of the products, equal ones together."""
    groups: dict[tuple[object, ...], set[str]] = {}
    for step in program.matmuls:
        groups.setdefault((step.kind, *signature(step, True)), set()).add(step.name)
    return [
        frozenset().union(*itertools.compress(groups.values(), chosen))
        for chosen in itertools.product((False, True), repeat=len(groups))
    ]


# ------------------------------------------------------------------------------------ fastest


@pytest.mark.parametrize(
    ("profile", "host_per_s", "depth", "batch"),
    [
        ("slm-camera", 1e6, 2, 2),  # light and host are the bottleneck in turn
        ("projection-2030", 1e8, 1, 2),
        ("projection-2030", 3e9, 4, 1),  # four layers, of which three are counted
    ],
)
def test_fastest_is_the_best_of_all_placements(
    profile: str, host_per_s: float, depth: int, batch: int
) -> None:
    # the search counts whole products and few layers; `predict` checks it shot by shot
    program = sized_model(32, depth, heads=2, vocabulary=64).program("logits")
    bench = bench_of(profile, host_per_s)
    sizes = {"batch": batch, "new": 3, "past": 0}

    def seconds(placed: frozenset[str]) -> float:
        return predict(program, placed, sizes, bench).seconds

    chosen = decide(program, "fastest", bench, [(sizes, 1)]).on_light
    best = min(map(seconds, all_placements(program)))
    assert seconds(chosen) <= 1.02 * best
    assert chosen == decide(program, "fastest", bench, [(sizes, 1)]).on_light


@pytest.mark.parametrize(
    ("depth", "input_s", "readout_s", "batch"),
    [(2, (0.0, 1e-3), 1e-3, 4), (1, (1e-3, 0.0), 0.0, 2)],
)
def test_products_that_gain_only_together_are_moved_together(
    depth: int, input_s: tuple[float, float], readout_s: float, batch: int
) -> None:
    # moving one kind of product at a time ended 4.8 % and 3.4 % above the best placement here
    program = sized_model(32, depth, heads=2, vocabulary=300).program("logits")
    profile = load_profile().with_settings({"host_operations_per_s": 1e6, "host_bytes_per_s": 1e8})
    refresh_s, settle_s = input_s
    timing = ShotTiming(
        ModulatorTiming(refresh_s, 0.0, settle_s), ModulatorTiming(1e-3, 0.0, 4e-3), 2e-3, readout_s
    )
    bench = replace(BenchModel.of(profile), timing=timing)
    passes = [({"batch": batch, "new": 1, "past": 0}, 1)]
    times = PlacementTimes(program, passes, bench, {})
    best = min(map(times.seconds, all_placements(program)))
    assert times.seconds(decide(program, "fastest", bench, passes).on_light) <= 1.001 * best


@pytest.mark.parametrize("host_per_s", [1e3, 1e5, 1e7])
def test_no_policy_by_name_is_faster(host_per_s: float) -> None:
    program = sized_model(64, 2, vocabulary=100).program("last")
    bench = bench_of("slm-camera", host_per_s)
    passes = [({"batch": 1, "new": 5, "past": 0}, 1), ({"batch": 1, "new": 1, "past": 5}, 3)]

    def seconds(placed: frozenset[str]) -> float:
        return sum(n * predict(program, placed, sizes, bench).seconds for sizes, n in passes)

    chosen = seconds(decide(program, "fastest", bench, passes).on_light)
    assert chosen <= 1.02 * min(seconds(decide(program, policy).on_light) for policy in NAMED)


def test_a_slow_bench_is_best_left_alone() -> None:
    # minutes for each image against microseconds: the answer is the host
    for policy in ("fastest", "least-energy"):
        planned = plan(load_model("digits"), "mock:oled-slm-2022", placement=policy)
        assert planned.on_light == frozenset()
        assert planned.seconds < 1e-3
        qk = next(step for step in planned.steps if step.kind == "QK^T")
        assert qk.where == "host" and qk.decided_by is not None
        unit = "s" if policy == "fastest" else "j"
        assert qk.decided_by[f"light_{unit}"] > 1e6 * qk.decided_by[f"host_{unit}"]


def test_a_large_model_goes_to_the_bench_of_2030_all_of_it() -> None:
    program = model_or_shape("gpt3-175b").program("logits")
    bench, passes = bench_of("projection-2030"), [({"batch": 1, "new": 1024, "past": 0}, 1)]
    began = time.process_time()
    chosen = decide(program, "fastest", bench, passes).on_light
    assert time.process_time() - began < 2  # not all 96 layers are simulated
    assert chosen == decide(program, "all-optical").on_light
    assert decide(program, "fastest", bench_of("slm-camera"), passes).on_light == frozenset()


# ------------------------------------------------------------------------------- least energy


def test_least_energy_is_the_best_of_all_placements() -> None:
    program = sized_model(12288, 2, heads=96).program("logits")
    bench, passes = bench_of("projection-2030"), [({"batch": 1, "new": 1024, "past": 0}, 1)]
    constants = resolve(bench.profile)

    def joules(placed: frozenset[str]) -> float:
        steps = [(step, step.name in placed) for step in program.steps]
        parts = planned_events(steps, passes, bench)
        return Account(parts, constants, bench.profile, 1024).total("system")

    chosen = decide(program, "least-energy", bench, passes).on_light
    assert frozenset() < chosen < decide(program, "all-optical").on_light  # neither all nor nothing
    assert joules(chosen) == pytest.approx(min(map(joules, all_placements(program))), rel=1e-12)


def test_least_energy_goes_by_the_constants_that_are_chosen() -> None:
    model = model_or_shape("gpt2")
    dear = plan(model, "mock:scaled-optics", placement="least-energy")
    assert dear.on_light
    cheap = plan(
        model, "mock:scaled-optics", placement="least-energy", constants=["lightcode-2025"]
    )
    products = [step.decided_by for step in dear.steps if step.decided_by]
    others = [step.decided_by for step in cheap.steps if step.decided_by]
    assert products != others
    for planned, constants in ((dear, ()), (cheap, ("lightcode-2025",))):
        least = planned.energy(*constants).total("system")
        for policy in NAMED:
            other = plan(model, "mock:scaled-optics", placement=policy)
            assert least <= other.energy(*constants).total("system") * (1 + 1e-9)


# -------------------------------------------------------------------- a plan and its executors


def test_a_run_keeps_to_what_its_plan_decided() -> None:
    model = load_model("digits")
    profile = profile_of("projection-2030", 1e9)
    planned = plan(model, MockBackend(profile), 8, placement="fastest")
    products = [step for step in planned.steps if step.decided_by]
    assert {step.where for step in products} == {"optical", "host"}
    single = decide(
        planned.program, "fastest", planned.bench, [({"batch": 1, "new": 17, "past": 0}, 1)]
    )
    assert single.on_light != planned.on_light  # as the run below would place alone
    images = np.random.Generator(np.random.Philox(1)).standard_normal((1, 1, 8, 8))
    planned.run(images.astype(np.float32), reference=False)
    records = model.executor(planned.backend, planned.chosen).records
    assert {name for name, record in records.items() if record.optical} == planned.on_light


def test_a_benchmark_places_as_it_predicts() -> None:
    # many tokens share a weight frame in the first pass, and one alone in each later one
    shape = sized_model(64, 2, vocabulary=100)
    backend = MockBackend(profile_of("projection-2030", 4e9))
    job = make_job(with_random_weights(shape), 1, 32, 4, "fastest")
    whole = plan(job.model, backend, 1, 32, 4, "fastest")
    first = plan(job.model, backend, 1, 32, 1, "fastest")
    assert whole.on_light != first.on_light
    Lightloom("mock", "", job, backend, "fastest").round()
    records = job.model.executor(backend, whole.chosen).records
    assert {name for name, record in records.items() if record.optical} == whole.on_light


def test_calls_without_a_plan_keep_to_the_first_one() -> None:
    model = load_model("digits")
    backend = MockBackend(profile_of("projection-2030", 1e9))
    images = np.random.Generator(np.random.Philox(1)).standard_normal((8, 1, 8, 8))
    model.forward(images.astype(np.float32), backend=backend, placement="fastest")
    model.forward(images[:1].astype(np.float32), backend=backend, placement="fastest")
    records = model.executor(backend, "fastest").records
    expected = plan(model, backend, 8, placement="fastest").on_light
    assert {name for name, record in records.items() if record.optical} == expected
    assert all(len(record.calls) == 2 for record in records.values())


def test_the_same_placement_gives_the_same_numbers(references: Path, tmp_path: Path) -> None:
    rules = written(
        tmp_path,
        "default = 'paper'\n[[rule]]\nkind='QK^T'\nwhere='host'\n"
        "[[rule]]\nkind='attention x V'\nwhere='host'\n",
    )
    model = load_model(references / "gpt2")
    tokens = np.arange(12).reshape(2, 6)
    by_name, by_rules = (
        model.forward(tokens, backend=lightloom.open_backend("mock", 3), placement=placement)
        for placement in ("projections", rules)
    )
    np.testing.assert_array_equal(by_name, by_rules)


# -------------------------------------------------------------------------------------- rules


def written(folder: Path, text: str) -> str:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        default = "host"
        [[rule]]
        step = "layer.*.mlp.up"
        layers = "1-2"
        where = "host"
        [[rule]]
        kind = "MLP"
        where = "light"
        [[rule]]
        layers = "0"
        where = "fastest"
        """,
    )
    model = sized_model(64, 4, vocabulary=100)
    planned = plan(model, "mock:oled-slm-2022", sequence=4, placement=path)
    down = {f"layer.{layer}.mlp.down" for layer in range(4)}
    assert planned.on_light == down | {"layer.0.mlp.up", "layer.3.mlp.up"}
    found = {step.name: step.decided_by for step in planned.steps}
    first = found["layer.0.attention.qk"]
    assert first is not None and first["rule"] == f"{path}, rule 3" and first["why"] == "faster"
    assert found["layer.1.attention.qk"] == {"policy": "host"}
    assert planned.as_dict()["placement"] == path


def test_layers_with_different_rules_are_decided_separately(tmp_path: Path) -> None:
    # products that rules have put on light leave the host free for others
    path = written(
        tmp_path,
        "default='fastest'\n[[rule]]\nlayers='0-4'\nwhere='light'\n"
        "[[rule]]\nlayers='7-11'\nwhere='host'\n",
    )
    program = sized_model(64, 12, vocabulary=100).program("logits")
    passes = [({"batch": 2, "new": 4, "past": 0}, 1)]
    placed = decide(program, path, bench_of("slm-camera", 1e4), passes).on_light
    layers = {step.name: step.layer for step in program.matmuls}
    assert {name for name, layer in layers.items() if layer is not None and layer < 5} <= placed
    assert not any((layers[name] or 0) > 6 for name in placed)
    assert "layer.5.mlp.up" in placed  # light is much faster than this host


BAD = [
    ("[[rule]]\nkind='QK'\nwhere='host'", r"rule 1 names the kind 'QK'; this model has .*'QK\^T'"),
    (
        "[[rule]]\nstep='layer.*.mlp.upp'\nwhere='host'",
        "names the step .*nearest here are .*mlp.up'",
    ),
    ("[[rule]]\nlayers='7-9'\nwhere='host'", "begins at layer 7, but this model has layers 0 to 1"),
    ("[[rule]]\nlayers='3-1'\nwhere='host'", "layers = '3-1' is not a layer"),
    ("[[rule]]\nlayers='all'\nwhere='host'", "layers = 'all' is not a layer"),
    ("[[rule]]\nlayers=3\nwhere='host'", "layers = 3 is not a text in quotes"),
    ("[[rule]]\nkind='MLP'\nwhere='moon'", "where = 'moon'; choose from light, host, fastest"),
    ("[[rule]]\nkind='MLP'", "rule 1 has no where"),
    ("[[rule]]\nwhere='host'", "rule 1 names no product"),
    ("[[rule]]\nkinds='MLP'\nwhere='host'", "unknown key 'kinds'"),
    ("[[rules]]\nkind='MLP'\nwhere='host'", "has no key 'rules'"),
    ("rule = 3", "rules are tables"),
    ("", r"has no \[\[rule\]\]"),
    ("default='sun'\n[[rule]]\nkind='MLP'\nwhere='host'", "default = 'sun'; choose from paper"),
    (
        "[[rule]]\nkind='MLP'\nwhere='host'\n[[rule]]\nstep='layer.0.mlp.up'\nwhere='light'",
        "rule 2 has no effect: rules before it",
    ),
    (
        "[[rule]]\nkind='QK^T'\nstep='*mlp*'\nwhere='host'",
        "no product has its kind, step and layers",
    ),
    ("[[rule]\n", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_invalid_rules_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        plan(sized_model(64, 2), "mock", sequence=4, placement=path)
    assert path in str(caught.value) and "\n" not in str(caught.value).replace("[[rule]\n", "")


def test_rules_are_checked_before_anything_runs(tmp_path: Path, references: Path) -> None:
    model = load_model(references / "gpt2")
    with pytest.raises(InputError, match="cannot read the placement"):
        model.forward([[1, 2]], placement=str(tmp_path / "none.toml"))
    path = written(tmp_path, "[[rule]]\nkind='classifier'\nwhere='host'")
    with pytest.raises(InputError, match="names the kind 'classifier'"):
        model.forward([[1, 2]], backend="mock", placement=path)


def test_a_perplexity_applies_rules_on_its_head(references: Path, tmp_path: Path) -> None:
    # the head is a program of its own there: the rule has an effect and is applied
    path = written(tmp_path, "default='host'\n[[rule]]\nkind='LM head'\nwhere='light'")
    model, backend = load_model(references / "gpt2"), lightloom.open_backend("mock")
    model.perplexity(np.arange(12).reshape(2, 6), backend, path)
    records = model.executor(backend, path).records
    assert {name for name, record in records.items() if record.optical} == {"head"}


# ------------------------------------------------------------------------------- command line


def test_plan_says_why_in_json(tmp_path: Path) -> None:
    options = ["plan", "--placement", "fastest", "--profile", "projection-2030", "--json"]
    found = CliRunner().invoke(app, options)
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert document["placement"] == "fastest"
    for step in document["steps"]:
        why = step["decided_by"]
        assert (why is None) == (step["macs"] == 0)
        if why is not None and why["why"] == "faster":
            assert (why["light_s"] < why["host_s"]) == (step["where"] == "optical")
    table = CliRunner().invoke(app, options[:-1])
    assert "Why" in table.stdout and "on the host" in table.stdout


def test_a_bad_file_ends_in_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, "[[rule]]\nkind='QK'\nwhere='host'")
    for command in ("plan", "run", "energy"):
        found = CliRunner().invoke(app, [command, "--placement", path])
        assert found.exit_code == 2
        assert "rule 1 names the kind 'QK'" in found.stderr and not found.stdout
