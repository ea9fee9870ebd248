"""The scaling law: its fit, the search for a budget, what explains it, and the recipe."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from lightloom.backends import Address, MockBackend
from lightloom.benchmarks import scaling, scaling_layers
from lightloom.benchmarks.__main__ import app
from lightloom.benchmarks.plots import use_log_axes
from lightloom.benchmarks.scaling import Text, find_budget, fit_law, profile_of, signal_cost
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.models.shapes import sized_model, with_random_weights
from typer.testing import CliRunner

RECIPE = Path(__file__).parents[1] / "examples" / "train_glimmer.py"
WIDTHS = (64, 96, 128, 192, 256, 512)


def synthetic(exponent: float, scatter: float, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Bootstraps and budgets of a family whose members lie about a law with a scatter."""
    chance = np.random.default_rng(seed)
    logs = exponent * np.log(WIDTHS) + 2 + scatter * chance.standard_normal(len(WIDTHS))
    return [log + 0.02 * chance.standard_normal(100) for log in logs], np.exp(logs)


def test_a_power_without_scatter_is_found_exactly() -> None:
    samples, lights = synthetic(-1, 0.0, 0)
    law = fit_law(WIDTHS, samples, lights)
    assert law.exponent == pytest.approx(-1, abs=1e-9)
    assert law.factor == pytest.approx(np.exp(2))
    assert law.low < -1 < law.high
    assert law.high - law.low < 0.1


def test_the_interval_holds_the_exponent_as_often_as_it_says() -> None:
    """95 % of 400; fewer than 365 has a probability of 6e-4."""
    held = 0
    for seed in range(400):
        samples, lights = synthetic(-0.4, 0.1, seed)
        law = fit_law(WIDTHS, samples, lights)
        held += law.low <= -0.4 <= law.high
    assert held >= 365


def test_scatter_about_the_line_widens_the_interval_that_noise_gives() -> None:
    law = fit_law(WIDTHS, *synthetic(-0.4, 0.3, 1))
    assert law.scatter is not None
    assert (law.low, law.high) == law.scatter
    assert law.high - law.low > 3 * (law.measured[1] - law.measured[0])


def test_one_width_gives_no_law() -> None:
    with pytest.raises(InputError, match="two widths"):
        fit_law((64, 64), [np.zeros(3)] * 2, [1, 1])


@pytest.mark.parametrize(("known", "slope"), [(3.0, 1.0), (4e4, 1.0), (0.02, 1.3)])
def test_the_search_finds_a_known_budget(known: float, slope: float) -> None:
    """A loss that rises by 1 % at a known light is given back, within the noise that it has.

    The light scatters by 0.7 %, and by what its samples say: 4.8 and 5 sigma, once in 1e6.
    """
    quiet = np.linspace(2, 4, 40)

    def losses(light: float, seed: int) -> np.ndarray:
        chance = np.random.default_rng([seed, round(1e3 * abs(np.log(light)))])
        excess = 0.01 * (known / light) ** slope
        return quiet * (1 + excess) * (1 + 0.1 * min(excess, 0.1) * chance.standard_normal(40))

    found = find_budget(losses, quiet, seeds=4, guess=1.0)
    assert found.light == pytest.approx(known, rel=0.035)
    assert found.slope == pytest.approx(-slope, rel=0.05)
    low, high = found.interval
    assert abs(np.log(found.light / known)) < 5 * found.samples.std()
    assert high / low < 1.1


def test_a_loss_that_light_does_not_move_has_no_budget() -> None:
    quiet = np.full(5, 3.0)
    with pytest.raises(InputError, match="no level of light"):
        find_budget(lambda light, seed: quiet * 1.5, quiet, seeds=2, guess=1.0)


@pytest.mark.parametrize("encoding", scaling.ENCODINGS)
def test_the_mock_has_the_noise_that_explains_the_law(encoding: str) -> None:
    """Variance over signal at N photons per output is `signal_cost` / N.

    128,000 numbers: the ratio's spread is 0.4 %, so 2.5 % has a false alarm below 1e-8.
    """
    chance = np.random.default_rng(3)
    length, outputs, copies, photons_per_mac = 96, 32, 4000, 40.0
    x = chance.standard_normal(length).astype(np.float32)
    w = chance.standard_normal((outputs, length)).astype(np.float32)
    rows = np.tile(x, (copies, 1))
    backend = MockBackend(profile_of(encoding, photons_per_mac).with_settings({"weight_bits": 16}))
    quiet = MockBackend(profile_of(encoding, None).with_settings({"weight_bits": 16}))
    at = Address("product", np.arange(copies, dtype=np.uint64))
    noise = backend.matmul(rows, w, at).y - quiet.matmul(rows, w, at).y
    y = rows[:1] @ w.T
    expected = signal_cost(rows[:1], w, y)[encoding] / (photons_per_mac * length)
    assert float((noise**2).mean() / (y**2).mean()) == pytest.approx(expected, rel=0.025)


def test_random_signs_cost_light_that_grows_with_the_length() -> None:
    """Without coherence the photons per output for a given noise go as K: no law of 1 / K.

    The ratio scatters by 1.1 % about 0.975 of 16: 4.9 sigma, once in 1e6.
    """
    chance = np.random.default_rng(4)
    found = []
    for length in (64, 1024):
        x = chance.standard_normal((400, length)).astype(np.float32)
        w = chance.standard_normal((200, length)).astype(np.float32)
        found.append(signal_cost(x, w, x @ w.T))
        aligned = signal_cost(abs(x), abs(w), abs(x) @ abs(w).T)
        assert aligned["abs-split"] == pytest.approx(1, rel=0.05)  # all light is signal
        assert found[-1]["coherence"] == pytest.approx(1, rel=0.05)
    growth = found[1]["abs-split"] / found[0]["abs-split"]
    assert growth == pytest.approx(16, rel=0.08)


def test_light_of_a_model_is_searched_on_its_own_losses() -> None:
    """Twice the budget has about half the excess, on a real program."""
    model = with_random_weights(sized_model(32, 1, vocabulary=64, context=64))
    tokens = np.random.default_rng(0).integers(0, 64, (4, 32))
    text = Text(model, tokens, "projections")
    quiet = text.quiet("abs-split")
    assert quiet.shape == (4,)
    again = text.losses("abs-split")(50.0, 3)
    assert np.array_equal(again, text.losses("abs-split")(50.0, 3))  # same seed, same bits
    assert not np.array_equal(again, text.losses("abs-split")(50.0, 4))
    costs = scaling.signal_costs(text)
    assert {each["length"] for each in costs.values()} == {32.0, 128.0}


def test_products_are_looked_at_by_kind_and_by_layer() -> None:
    model = with_random_weights(sized_model(32, 3, vocabulary=64, context=64))
    groups = scaling_layers.groups_of(model, [1])
    assert len(groups["mlp.down, all layers"]) == 3
    assert [step.name for step in groups["mlp.down, layer 1"]] == ["layer.1.mlp.down"]
    with pytest.raises(InputError, match="layer 3 is not one of the 3"):
        scaling_layers.groups_of(model, [3])


def test_a_folder_without_a_family_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["scaling", str(tmp_path)])
    assert done.exit_code == 2 and "train them with examples/train_glimmer.py" in done.output


def test_a_kept_run_is_fitted_and_drawn_again(tmp_path: Path) -> None:
    samples, lights = synthetic(-0.25, 0.0, 0)
    costs = {"product": {"length": 64.0, "abs-split": 10.0}}
    members = [
        {
            "width": width,
            "costs": costs,
            "budgets": {
                "abs-split": {
                    "light": light,
                    "low": light / 1.1,
                    "high": light * 1.1,
                    "samples": list(each),
                }
            },
        }
        for width, light, each in zip(WIDTHS, lights, samples, strict=True)
    ]
    kept, out = tmp_path / "kept.json", tmp_path / "out.json"
    kept.write_text(json.dumps({"members": members}), encoding="utf-8")
    picture = tmp_path / "law.svg"
    outputs = ["--json", str(out), "--picture", str(picture)]
    done = CliRunner().invoke(app, ["scaling", str(kept), "--encodings", "abs-split", *outputs])
    assert done.exit_code == 0 and "per MAC" in done.output
    law = json.loads(out.read_text(encoding="utf-8"))["laws"]["abs-split"]
    assert law["per MAC"]["exponent"] == pytest.approx(-0.25)
    assert law["tolerance"]["exponent"] == pytest.approx(0.25)
    assert picture.read_text(encoding="utf-8").count("<svg") == 1


def test_points_that_differ_by_rounding_alone_are_drawn() -> None:
    """Fits of equal points differ by rounding: no warning, and no axis without extent."""
    figures = pytest.importorskip("matplotlib.figure")
    for low, high in ((10.0, 10.0), (10.0, np.nextafter(10.0, 11.0)), (1.0, 100.0)):
        axes = figures.Figure().subplots()
        axes.plot([low, high], [low, high])
        use_log_axes(axes)  # a warning fails the test
        for first, last in (axes.get_xlim(), axes.get_ylim()):
            assert 0 < first < low <= high < last
    use_log_axes(figures.Figure().subplots())


def recipe() -> ModuleType:
    """Import the recipe; skips without torch, which the extra `train` brings."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("the recipe needs torch: pip install 'lightloom[train]'")
    spec = importlib.util.spec_from_file_location("train_glimmer", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["train_glimmer"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("photons_per_mac", [0.0, 2.0])
def test_what_the_recipe_trains_is_what_lightloom_runs(
    tmp_path: Path, photons_per_mac: float
) -> None:
    """A few steps at width 16; the loss that torch gives is that of 8-bit light without noise."""
    glimmer = recipe()
    line = "The value is returned as a list of names. If it is not given, the default is used.\n"
    sizes = glimmer.Sizes(16, context=32)
    training = glimmer.Training(tokens=4000, photons_per_mac=photons_per_mac)
    out = tmp_path / "width-16"
    loss = glimmer.make_member(out, sizes, training, 40 * line, 20 * line)
    model = load_model(out)
    from lightloom.models import load_arrays

    tokens = load_arrays(out / "data.safetensors")["held_out"].astype(np.int64)
    assert float(Text(model, tokens, "paper").quiet("abs-split").mean()) == pytest.approx(
        loss, rel=0.02
    )
    about = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert about["held_out_loss"] == loss and "PSF" in about["licence"]
