"""The benchmark of whole models: fair turns, honest contenders, and what is shown when it ends."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.backends import DigitalBackend, MockBackend, OpticsProfile, load_profile
from lightloom.benchmarks import decoded_token, fake_quantisation, matmul, model_speed, peers
from lightloom.benchmarks.__main__ import app
from lightloom.benchmarks.baselines import TorchProgram
from lightloom.benchmarks.contenders import NUMPY, Job, make_job
from lightloom.benchmarks.model_speed import BURST, Measurement, SpeedProcess, Team, Work
from lightloom.instruments import LightloomError
from lightloom.models import load_model
from typer.testing import CliRunner

WORK = Work("glimmer", ("ideal", "slm-camera"), (4, 8), 2)
MOCKS = ["mock ideal", "mock slm-camera"]


@pytest.fixture(scope="module")
def measured() -> Measurement:
    """Two rounds in two processes."""
    found = Measurement(WORK, (1, 2))
    assert len(list(found.run(2, 600.0, lambda text: None))) == 2
    return found


def test_all_contenders_have_as_many_turns_at_everything(measured: Measurement) -> None:
    names = measured.facts["contenders"]
    assert names[:3] == [NUMPY, *MOCKS]
    wanted = {
        (threads, phase, tokens, name): 2 if phase == "prefill" else 2 * WORK.bursts
        for threads in (1, 2)
        for phase in ("prefill", "decode")
        for tokens in WORK.sequences
        for name in names
    }
    assert {place: len(times) for place, times in measured.seconds.items()} == wanted
    assert all(min(times) > 0 for times in measured.seconds.values())


def test_ratios_are_of_the_same_turn(measured: Measurement) -> None:
    # a busy minute must slow both sides of a ratio
    place = (1, "decode", 8, MOCKS[0])
    base = measured.seconds[*place[:3], NUMPY]
    expected = np.median(np.array(measured.seconds[place]) / base)
    document = json.loads(json.dumps(measured.document(), allow_nan=False))
    (result,) = [
        r
        for r in document["results"]
        if (r["threads"], r["phase"], r["sequence"], r["contender"]) == place
    ]
    assert result["over_numpy"]["median"] == pytest.approx(expected)
    assert result["tokens"] == BURST and document["is_mock"]
    shown = [table.title for table in measured.tables()]
    assert shown[0] == "1 thread: time over numpy"


def test_every_process_has_its_own_threads() -> None:
    before = dict(os.environ)
    with model_speed._environment_of(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert dict(os.environ) == before


def test_a_process_that_ends_is_one_sentence() -> None:
    # the system ends a process that needs too much memory
    worker = SpeedProcess(1, WORK, 1e12)
    worker._process.kill()
    worker._process.join()
    with pytest.raises(LightloomError, match="of 1 thread has ended; it may need more memory"):
        worker.ask("describe")
    worker.close()


def test_without_torch_its_columns_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_speed, "missing", lambda name: f"{name} is not installed: not timed")
    team = Team(WORK)
    assert team.describe()["contenders"] == [NUMPY, *MOCKS]
    assert team.absent[0] == "torch is not installed: not timed" and not team.today_of
    found = Measurement(WORK, (1,))
    found.facts = team.describe()
    for name in (NUMPY, *MOCKS):
        found.seconds[1, "prefill", 4, name] = found.cpu_s[1, "prefill", 4, name] = [1.0]
    assert len(list(found.tables())) == 1  # no table over what people do today
    assert team.absent[0] in list(found.sentences())


# ------------------------------------------------------------------------------- the command

COMMAND = ["model-speed", "--model", "glimmer", "--sequences", "4", "--threads", "1"]


def test_too_little_time_is_one_sentence() -> None:
    done = CliRunner().invoke(app, [*COMMAND, "--minutes", "0"])
    assert done.exit_code == 2 and "nothing was measured in --minutes 0; give more" in done.output


def test_an_interrupted_measurement_shows_its_rounds(
    measured: Measurement, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # hours of rounds would be lost otherwise
    def run(self: Measurement, *_: object) -> Iterator[None]:
        self.facts, self.seconds, self.cpu_s = measured.facts, measured.seconds, measured.cpu_s
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "run", run)
    path = tmp_path / "speed.json"
    done = CliRunner().invoke(app, [*COMMAND, "--json", str(path)])
    assert done.exit_code == 130
    assert "mock slm-camera MOCK" in done.output and "decode after 8" in done.output
    assert "stopped by the operator: these are the rounds so far" in done.output
    assert json.loads(path.read_text("utf-8"))["results"]


# -------------------------------------------------------------------- what people do today

EIGHT_BITS = {"input_bits": 8, "weight_bits": 8}


def logits(job: Job, make: Callable[..., TorchProgram], *arguments: Any) -> np.ndarray:
    program = make(job.model, job.ending, *arguments)
    program.begin()
    return np.stack([program.run(data).copy() for data in (job.first[:, :6], *job.later)])


def test_fake_quantisation_computes_the_model_with_noise() -> None:
    # a contender that computes something else would prove nothing
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    job = make_job(load_model("glimmer"), sequence=6, new_tokens=4)
    exact = logits(job, TorchProgram)
    off = [
        np.abs(logits(job, fake_quantisation.FakeQuantised, OpticsProfile(**fields)) - exact).max()
        for fields in (
            {},
            EIGHT_BITS,
            EIGHT_BITS | {"photons_full_scale": 1e5},
            EIGHT_BITS | {"photons_full_scale": 100.0},
        )
    ]
    scale = np.abs(exact).max()
    assert off[0] < 1e-4 * scale < off[1] < 0.2 * scale
    assert off[1] < off[3] and off[2] < off[3]


def test_the_noise_of_a_product_follows_the_formula() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)
    profile = OpticsProfile(**EIGHT_BITS, photons_full_scale=1e3, encoding="push-pull")
    job = make_job(load_model("glimmer"), sequence=6, new_tokens=2)
    program = fake_quantisation.FakeQuantised(job.model, job.ending, profile)
    step = next(step for step in job.model.program(job.ending).matmuls if not step.dynamic)
    with torch.inference_mode():
        multiply = program._product(step, torch.rand(40, 90), None)
        x = torch.rand(1, 90).repeat(4000, 1)
        y = (multiply(x) / x[0].max()).numpy()
    spread = float(y.std(axis=0).mean())  # relative error 1/sqrt(2 * 160,000) = 0.2 %: 10 sigma
    assert spread == pytest.approx(fake_quantisation.output_noise(profile, 90), rel=0.02)


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("slm-camera", "torch + rounding + noise"),
        ("scaled-optics", "torch + rounding"),
        ("photon-target-2022", "torch + noise"),
        ("ideal", "torch"),
    ],
)
def test_a_profile_is_compared_with_the_same_operations(name: str, today: str) -> None:
    assert model_speed.today(load_profile(name)) == today


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_other_simulators_multiply(name: str) -> None:
    if name not in peers.present():
        pytest.skip(f"{name} is not installed")
    chance = np.random.default_rng(3)
    x, w = chance.uniform(-1, 1, (5, 64)), chance.uniform(-1, 1, (32, 64))
    y = peers.product(name, x.astype(np.float32), w.astype(np.float32))()
    assert np.corrcoef(np.asarray(y).ravel(), (x @ w.T).ravel())[0, 1] > 0.9


# ------------------------------------------------------------------------ products, one token


def test_little_light_is_timed_beside_numpy() -> None:
    found = matmul.measure_light((16, 8), 4, (0.1, 10.0), 1)
    assert list(found) == [0.1, 10.0]
    assert all([*times] == [matmul.NUMPY, *matmul.LIGHT_CASES] for times in found.values())
    assert "P = 0.1" in [column.title for column in matmul.light_table((16, 8), 4, found).columns]


def test_the_time_of_a_token_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # time that no row shows is time that is never saved
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # stages of several threads add up
    model = load_model("glimmer")
    for _ in range(5):  # a busy computer may stop a process between the two clocks
        document = decoded_token.measure(model, MockBackend(load_profile()), 8, 4, "paper")
        places = {row["place"]: row for row in document["places"]}
        own_s = sum(row["own_s"] for row in places.values())
        if own_s == pytest.approx(document["profiled_token_s"], rel=0.2):
            break
    assert own_s == pytest.approx(document["profiled_token_s"], rel=0.2)
    stages = sum(row["seconds"] for row in document["stages"])
    assert stages == pytest.approx(document["token_s"], rel=1e-6)
    assert places["Python, backends"]["calls"] > 0
    loops = places.get("compiled loops (numba)")
    assert (loops is not None) == decoded_token.COMPILED
    titles = [table.title for table in decoded_token.tables(document)]
    assert titles[0].startswith("mock slm-camera MOCK: one token after 8 tokens")
    digital = decoded_token.measure(model, DigitalBackend(), 8, 2, "paper")
    assert not digital["is_mock"] and digital["backend"] == NUMPY
