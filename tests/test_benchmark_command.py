"""The benchmark: what it counts and times, what it calls a change, and what it refuses."""

import json
import socket
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import BenchMaker
from lightloom.backends import DigitalBackend, MockBackend, load_profile
from lightloom.benchmarks.baselines import OnnxruntimeBackend, TorchProgram
from lightloom.benchmarks.comparison import compare, holm, mann_whitney, read_benchmark
from lightloom.benchmarks.contenders import (
    BARE,
    NUMPY,
    BareProducts,
    Lightloom,
    make_job,
    runnable,
)
from lightloom.benchmarks.throughput import KIND, SCHEMA, measure, points_of
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.models.shapes import model_or_shape, sized_model, with_random_weights
from lightloom.scheduler.runs import plan
from typer.testing import CliRunner, Result

from lightloom.cli.app import app

STAGES = {"softmax": 0.1, "QKV": 0.5, "norm": 0.002}  # of the whole


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def samples(
    seed: int, factor: float = 1.0, rounds: int = 15, busy: float = 0.5, stage: str = ""
) -> dict[str, Any]:
    """A made-up document: a mock that takes `factor` times as long, on a machine that is busy.

    Every round, what else runs slows all contenders down alike (log-normal, `busy`); each time
    scatters by 3 % besides.
    """
    chance = np.random.default_rng(seed)
    load = np.exp(busy * chance.standard_normal(rounds))

    def phase(median_s: float, is_light: bool) -> dict[str, Any]:
        def times(s: float) -> list[float]:
            return list(s * load * np.exp(0.03 * chance.standard_normal(rounds)))

        slow = factor if is_light and not stage else 1.0
        shares = {
            kind: share * (factor if kind == stage else 1.0) for kind, share in STAGES.items()
        }
        stages = [
            {"kind": kind, "where": "host", "seconds": times(median_s * slow * share)}
            for kind, share in shares.items()
        ]
        return {
            "units": 1,
            "seconds": times(median_s * slow),
            "cpu_s": times(median_s * slow),
            "stages": stages if is_light else [],
            "counts": {"shots": 12} if is_light else None,
            "predicted_s": 3.5 if is_light else None,
        }

    return {
        "kind": KIND,
        "schema": SCHEMA,
        "repeats": rounds,
        "placement": "paper",
        "versions": {"numpy": "2"},
        "machine": {"processor": "made up", "cores": 2, "threads": 1},
        "model": {"name": "m", "parameters": 5},
        "points": [
            {
                "axis": None,
                "value": None,
                "sizes": {"batch": 1, "sequence": 8, "new_tokens": 0},
                "contenders": [
                    {
                        "name": name,
                        "fingerprint": "abc" if name == "mock a" else None,
                        "phases": {"pass": phase(seconds, name == "mock a")},
                    }
                    for name, seconds in (("mock a", 5e-3), (NUMPY, 1e-3), (BARE, 4e-4))
                ],
            }
        ],
    }


def verdicts(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(row["where"], row["what"]): row["verdict"] for row in found["rows"]}


# ------------------------------------------------------------------------- what is a change


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 3)])
def test_the_test_is_exact(n: int, m: int) -> None:
    # against all orders of n + m values, each as likely as the others
    everyone = set(range(n + m))
    orders = [(np.array(a), np.array(sorted(everyone - {*a}))) for a in combinations(everyone, n)]
    in_order = [int((a[:, None] > b).sum()) for a, b in orders]
    for (a, b), pairs in zip(orders, in_order, strict=True):
        as_many = sum(other >= pairs for other in in_order)
        assert mann_whitney(a, b) == pytest.approx(as_many / len(orders))


def test_ties_are_no_evidence() -> None:
    assert mann_whitney(np.ones(9), np.ones(9)) == 1.0


def test_many_rows_are_corrected() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
def test_a_real_change_is_found_on_a_busy_machine(factor: float) -> None:
    # times alone scatter by a factor of 1.6 from round to round; ratios to numpy do not
    found = compare(samples(1), samples(2, factor), "old.json")
    word = "slower" if factor > 1 else "faster"
    whole = found["rows"][0]
    assert whole["what"] == "whole" and whole["verdict"] == word
    assert whole["change"] == pytest.approx(factor, rel=0.08)  # scatters by 1.7 %: 4.7 sigma
    assert verdicts(found)[NUMPY, "whole"] == "no change seen"


def test_a_change_of_one_stage_is_found_there() -> None:
    found = verdicts(compare(samples(1), samples(2, 1.5, stage="softmax"), "old.json"))
    assert found["mock a", "softmax (host)"] == "slower"
    assert found["mock a", "QKV (host)"] == found["mock a", "whole"] == "no change seen"
    assert ("mock a", "norm (host)") not in found  # too small to be judged


def test_two_runs_of_the_same_raise_no_alarm() -> None:
    # at the very margin (5 % slower) 1 % of comparisons may be wrong: of 150, more than 8 are by
    # chance in 2e-5 of cases; without a change hardly any is
    assert compare_many(1.0499, 150) <= 8
    assert compare_many(1.0, 50) == 0


def compare_many(factor: float, times: int) -> int:
    wrong = 0
    for seed in range(times):
        found = compare(samples(2 * seed), samples(2 * seed + 1, factor), "old.json")
        wrong += any(row["verdict"] != "no change seen" for row in found["rows"])
    return wrong


def test_too_few_rounds_are_said_to_be_too_few() -> None:
    found = compare(samples(1, rounds=3), samples(2, 9.0, rounds=3), "old.json")
    assert set(verdicts(found).values()) == {"no change seen"}
    assert "3 and 3 repeats are too few" in found["remarks"][0]
    number = int(found["remarks"][0].split("; ")[1].split()[0])
    enough = compare(samples(1, rounds=number), samples(2, 9.0, rounds=number), "old.json")
    assert verdicts(enough)["mock a", "whole"] == "slower" and not enough["remarks"]


def test_another_machine_and_other_versions_are_said() -> None:
    old, new = samples(1), samples(2)
    old["machine"]["processor"], old["versions"]["torch"] = "another", "2.3"
    found = compare(old, new, "old.json")
    assert not found["same_machine"]
    assert any("another machine (processor differ)" in text for text in found["remarks"])
    assert any("torch: 2.3 then, absent now" in text for text in found["remarks"])


def test_counts_and_predictions_are_no_matter_of_chance() -> None:
    old, new = samples(1), samples(1)
    phase = new["points"][0]["contenders"][0]["phases"]["pass"]
    phase["counts"]["shots"], phase["predicted_s"] = 13, 4.0
    found = compare(old, new, "old.json")["counted"]
    assert found == ["mock a, pass: shots 12 -> 13", "mock a, pass: predicted seconds 3.5 -> 4"]


# -------------------------------------------------------------------------- what is measured


def test_overhead_is_what_is_neither_product_nor_host_step() -> None:
    # an overhead that a slow product can hide in, or inflate, proves nothing
    class Around(DigitalBackend):
        name = "around"

        def begin(self, *arguments: Any) -> Any:
            time.sleep(2e-3)  # the scheduler's side of the call
            return super().begin(*arguments)

    class Within(DigitalBackend):
        name = "within"

        def _matmul(self, x: Any, w: Any, at: Any) -> Any:
            time.sleep(2e-3)
            return super()._matmul(x, w, at)

    job = make_job(load_model())
    products = len(job.model.program("logits").matmuls)
    overheads = []
    for backend in (Around(), Within()):
        contender = Lightloom("x", "", job, backend, "all-optical")
        contender.result()
        sample = contender.round()["pass"]
        assert sample.seconds > 2e-3 * products
        assert sample.overhead_s is not None
        overheads.append(sample.overhead_s)
    assert overheads[0] > 2e-3 * products > 2 * overheads[1]


def test_a_round_is_what_the_plan_says() -> None:
    model = with_random_weights(sized_model(64, 1, vocabulary=50, context=32))
    job = make_job(model, batch=2, sequence=5, new_tokens=4)
    backend = MockBackend(load_profile("slm-camera"))
    document = measure(list(points_of(job, [backend], {})), 1)
    light, numpy, *_ = document["points"][0]["contenders"]
    assert [light["name"], numpy["name"]] == ["mock slm-camera", NUMPY] and light["is_mock"]
    planned = plan(model, backend, 2, 5, 4)
    phases = light["phases"]
    assert [phases[name]["units"] for name in ("prefill", "decode")] == [10, 6]
    assert sum(p["macs"] for p in phases.values()) == sum(step.macs for step in planned.steps)
    shots = sum(p["counts"]["shots"] for p in phases.values())
    assert 0 < shots <= sum(step.shots for step in planned.steps)
    predicted = sum(p["predicted_s"] for p in phases.values())
    assert predicted == pytest.approx(planned.seconds)
    for phase in phases.values():
        took = sum(stage["seconds"][0] for stage in phase["stages"]) + phase["overhead_s"][0]
        assert took == pytest.approx(phase["seconds"][0], rel=1e-6)


@pytest.mark.parametrize("layout", ["imaged", pytest.param("single-pixel", marks=pytest.mark.slow)])
def test_devices_are_held_against_their_own_limits(make_bench: BenchMaker, layout: str) -> None:
    backend = make_bench(layout)
    job = make_job(with_random_weights(sized_model(16, 1, vocabulary=8, context=4)), sequence=2)
    document = measure(list(points_of(job, [backend], {})), 2)
    entry = document["points"][0]["contenders"][0]
    phase = entry["phases"]["prefill"]
    assert entry["name"] == "bench bench0.toml" and entry["clock"] == "virtual"
    assert phase["overhead_s"] is None  # host steps and light overlap
    devices = {row["device"]: row for row in phase["devices"]}
    shown = phase["counts"]["input_frames"] / np.median(phase["bench_s"])
    modulator = devices["input modulator"]
    assert modulator["per_s"] == pytest.approx(shown)
    assert modulator["limit_per_s"] == pytest.approx(1 / backend.bench.input.refresh_period_s)
    lit = phase["counts"]["shots"] * backend.bench.file.exposure_s / np.median(phase["bench_s"])
    assert devices["source"]["share"] == pytest.approx(lit)
    assert all(0 < row["share"] <= 1 for row in phase["devices"] if row["share"] is not None)


def test_scaling_says_what_is_measured_and_what_predicted() -> None:
    model = with_random_weights(sized_model(64, 1, vocabulary=50, context=32))
    job = make_job(model, sequence=4)
    axes = {"batch": [1, 2], "width": [64, 128], "rows": [16, 64], "frame_rate": [60, 1000]}
    points = list(points_of(job, [MockBackend(load_profile("slm-camera"))], axes, depth=1))
    document = measure(points, 1)
    for point in document["points"][1:]:
        names = [entry["name"] for entry in point["contenders"]]
        runs = point["axis"] in ("batch", "width")
        assert names == (["mock slm-camera", NUMPY] if runs else ["mock slm-camera"])
        light = point["contenders"][0]["phases"]["prefill"]
        assert bool(light["seconds"]) == runs and light["predicted_s"] > 0
    predicted = [
        point["contenders"][0]["phases"]["prefill"]["predicted_s"] for point in document["points"]
    ]
    _, one, two, narrow, wide, low, high, slow, fast = predicted
    assert one < two and narrow < wide and low > high and slow > fast


@pytest.mark.parametrize(
    "name", ["digits", "digits-mlp", "gpt2", "llama", "bert", "vit", "variants/roberta_words"]
)
@pytest.mark.parametrize("package", ["onnxruntime", "torch"])
def test_baselines_compute_the_same(references: Path, name: str, package: str) -> None:
    # a baseline that computes something else is no baseline
    pytest.importorskip(package)
    model = load_model(name if name.startswith("digits") else references / name)
    new_tokens = 3 if model.task == "language" else 0
    sequence = None if model.task == "vision" else 6
    job = make_job(model, batch=2, sequence=sequence, new_tokens=new_tokens)
    run: Any
    if package == "torch":
        run = TorchProgram(model, job.ending)
        run.begin()
        found = [run.run(data) for data in (job.first, *job.later)]
    else:
        found = passes(job, OnnxruntimeBackend(), "all-optical")
    for one, other in zip(found, passes(job, DigitalBackend(), "paper"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


def passes(job: Any, backend: Any, placement: str) -> list[np.ndarray]:
    from lightloom.models import Cache

    executor = job.model.executor(backend, placement)
    cache = Cache() if job.later else None
    inputs = (job.first, *job.later)
    return [job.model.run_pass(executor, job.ending, data, cache=cache) for data in inputs]


def test_the_yardstick_multiplies_what_the_program_multiplies() -> None:
    model = with_random_weights(sized_model(64, 2, vocabulary=50, context=32))
    job = make_job(model, batch=2, sequence=5, new_tokens=3)
    contender = BareProducts(job)
    contender.result()
    shapes = {array.shape for array in contender.arrays.values()}
    assert {(2, 1, 5, 64), (2, 1, 1, 7), (2, 1, 64, 7)} <= shapes


def test_random_weights_repeat_and_what_is_too_large_is_refused() -> None:
    shape = sized_model(32, 1, vocabulary=20, context=8)
    first, again, other = (with_random_weights(shape, seed) for seed in (0, 0, 1))
    logits = [model.forward([[1, 2, 3]]) for model in (first, again, other)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-4
    with pytest.raises(InputError, match=r"'mt-nlg-530b' has .* TB of float32 weights"):
        runnable(model_or_shape("mt-nlg-530b"))


# ------------------------------------------------------------------------------ the command


def test_the_command_writes_compares_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    old, picture = tmp_path / "old.json", tmp_path / "picture.svg"
    options = ("--width", 64, "--depth", 1, "--sequence", 8, "--repeats", 2, "--scale", "rows=8,64")
    run = invoke(*options, "--output", old, "--picture", picture)
    assert run.exit_code == 0, run.output
    for promised in ("MOCK", "of numpy", "overhead", "softmax", "predicted", "shots", BARE):
        assert promised in run.output, promised
    assert "<svg" in picture.read_text("utf-8")
    written = old.read_text("utf-8")
    document = read_benchmark(old)
    keys = {"schema", "kind", "versions", "machine", "model", "placement", "repeats", "points"}
    assert keys | {"not_timed", "seed", "mock_path"} == set(document)
    assert socket.gethostname() not in written and str(tmp_path) not in written
    again = invoke(*options, "--compare", old, "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)["comparison"]
    assert found["with"] == "old.json" and found["same_machine"] and found["rows"]
    assert not found["counted"] and "too few" in found["remarks"][0]
    for change, message in (
        ({"--sequence": 9}, "was measured with sequence 8, this is 9"),
        ({"--set": "photons_full_scale=5"}, "other constants of mock slm-camera"),
        ({"--placement": "projections"}, "placement paper, this is projections"),
    ):
        changed = [item for pair in change.items() for item in pair]
        refused = invoke(*options, "--compare", old, *changed)
        assert refused.exit_code == 2 and message in refused.output, refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scale", "colour=1,2"), "'colour' is not an axis; choose from batch, sequence"),
        (("--scale", "batch"), "is not AXIS=V1,V2,..."),
        (("--scale", "batch="), "is not AXIS=V1,V2,..."),
        (("--scale", "batch=1,two"), "--scale batch: 'two' is not a number"),
        (("--scale", "batch=0"), "must be a whole number of at least 1"),
        (("--scale", "rows=1.5"), "must be a whole number"),
        (("--scale", "rows=1e999"), "must be a whole number"),
        (("--scale", "rows=1"), "rows = 1 cannot hold"),
        (("--scale", "frame_rate=0"), "must be above 0"),
        (("--scale", "frame_rate=nan"), "must be above 0"),
        (("--scale", "batch=2,2"), "names a value twice"),
        (("--scale", "batch=1", "--scale", "batch=2"), "is given twice"),
        (("--scale", "sequence=9"), "always takes 17 tokens"),
        (("--scale", "width=64", "--model", "digits"), "are two models"),
        (("--width", 64, "--model", "digits"), "are two models"),
        (("--width", 0), "width = 0"),
        (("--backend", "digital", "--scale", "rows=8"), "it needs --backend mock"),
        (("--profile", "ideal", "--profile", "ideal"), "mock ideal is given twice"),
        (("--repeats", 0), "--repeats"),
        (("--batch", 0), "batch = 0"),
        (("--new-tokens", 3), "generates no text"),
        (("--placement", "sun"), "unknown placement 'sun'"),
        (("--model", "mt-nlg-530b"), "TB of float32 weights"),
        (("--model", "nowhere/at/all"), "no such file or folder"),
        (("--compare", "nowhere.json"), "cannot read nowhere.json"),
        (("--output", "nowhere/x.json"), "there is no folder nowhere"),
        (("--picture", "x.gif"), "ends in .svg or .png"),
    ],
)
def test_mistakes_end_in_one_sentence(
    arguments: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = invoke(*arguments)
    assert run.exit_code == 2, run.output
    assert message in run.output and "Traceback" not in run.output
    assert run.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[1]", "is not a benchmark"),
        ('{"schema": 1}', "is not a benchmark"),
        (json.dumps({"kind": KIND, "schema": 99}), "has schema 99"),
        (json.dumps({"kind": KIND, "schema": SCHEMA, "points": []}), "is a broken benchmark"),
        (json.dumps(samples(1)).replace('"seconds"', '"minutes"'), "is a broken benchmark"),
        (json.dumps(samples(1)).replace('"repeats": 15', '"repeats": "x"'), "is a broken bench"),
    ],
)
def test_files_that_cannot_be_compared_with(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    run = invoke("--compare", path)
    assert run.exit_code == 2 and message in run.output.replace("\n", ""), run.output
