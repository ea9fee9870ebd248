"""Training a torch module for little light: `lightloom.torch.finetune`."""

from collections.abc import Iterator

import numpy as np
import pytest
from lightloom.backends import Address, MockBackend, OpticsProfile, load_profile

from lightloom import InputError

torch = pytest.importorskip("torch", reason="torch is not installed")
light_on = pytest.importorskip("lightloom.torch")
noise_gradients = pytest.importorskip("lightloom.models.traced.noise_gradients")

pytestmark = pytest.mark.with_torch

WIDTH, CLASSES = 24, 6
LIT = load_profile("ideal").with_settings({"input_bits": 8, "weight_bits": 8})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch's threads wait busily for each other, which takes long beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def module(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 32), torch.nn.ReLU(), torch.nn.Linear(32, CLASSES)
    )


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around one centre for each class."""
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return centres[labels] + 0.5 * torch.randn(count, WIDTH, generator=draw), labels


def trained() -> torch.nn.Sequential:
    """A module that was trained without noise."""
    model = module()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for seed in range(100):
        x, labels = clusters(64, seed)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    return model


def accuracy(model: torch.nn.Module, profile: OpticsProfile) -> float:
    x, labels = clusters(2000, 9999)
    backend = MockBackend(profile, seed=777)
    with torch.no_grad(), light_on.optics(model, backend, "all-optical", calibration=[x[:64]]):
        return float((model(x).argmax(-1) == labels).float().mean())


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [clusters(64, seed) for seed in range(50)]


def test_a_module_reads_better_at_little_light_after_it() -> None:
    profile = LIT.with_settings({"photons_per_mac": 0.05})
    model = trained()
    before = accuracy(model, profile)
    stages = light_on.finetune(
        model, batches(), profile, "all-optical", light_on.Recipe(steps=150, rate=1e-2, memory=30)
    )
    assert before < 0.6
    assert accuracy(model, profile) > before + 0.1
    assert [stage.light for stage in stages][::19] == [30.0, 1.0]
    assert stages[-1].steps == 150


@pytest.mark.parametrize("profile", ["slm-camera", "ideal"])
def test_the_same_seed_gives_the_same_weights(profile: str) -> None:
    recipe = light_on.Recipe(steps=3, memory=2)
    one, other = module(), module()
    for model in (one, other):
        light_on.finetune(model, batches(), profile, "all-optical", recipe)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one[0].weight, module()[0].weight)


def test_without_labels_the_module_follows_its_teacher() -> None:
    profile = LIT.with_settings({"photons_per_mac": 0.2})
    model, x = trained(), clusters(500, 1)[0]
    target = model(x).softmax(-1).detach()

    def difference() -> float:
        with torch.no_grad(), light_on.optics(model, MockBackend(profile, seed=5), "all-optical"):
            found = model(x)
        return float((found.softmax(-1) - target).abs().mean())

    before = difference()
    unlabelled = [(x, None) for x, _ in batches()]
    recipe = light_on.Recipe(steps=100, rate=1e-2, memory=30)
    light_on.finetune(model, unlabelled, profile, "all-optical", recipe)
    assert difference() < 0.9 * before


def test_every_step_multiplies_with_the_weights_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, seen = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.Flatten(1)), []
    prepare = MockBackend.prepare
    monkeypatch.setattr(
        MockBackend, "prepare", lambda *args, **kw: seen.append(0) or prepare(*args, **kw)
    )
    given = [(torch.randn(8, 1, 5), torch.zeros(8, dtype=torch.int64))]
    recipe = light_on.Recipe(steps=60, memory=2)
    light_on.finetune(model, given, LIT, "all-optical", recipe)
    assert len(seen) >= 60


def test_statistics_of_batches_are_those_of_the_training() -> None:
    model = torch.nn.Sequential(module(), torch.nn.BatchNorm1d(CLASSES)).train()
    light_on.finetune(model, batches(), LIT, "all-optical", light_on.Recipe(steps=3, memory=2))
    assert model.training
    assert int(model[1].num_batches_tracked) == 3
    assert not torch.equal(model[1].running_mean, torch.zeros(CLASSES))


def test_weights_in_bfloat16_are_trained() -> None:
    profile = LIT.with_settings({"photons_per_mac": 1.0})
    model = module().bfloat16()
    given = [(x.bfloat16(), labels) for x, labels in batches()]
    light_on.finetune(model, given, profile, "all-optical", light_on.Recipe(steps=3, memory=2))
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("encoding", ["abs-split", "push-pull", "offset"])
@pytest.mark.parametrize(
    "settings",
    [
        {"photons_per_mac": 3.0},
        {"photons_full_scale": 50.0, "read_noise_e": 20.0},
        {"photons_per_mac": 3.0, "detection": "per-reading", "read_noise_e": 5.0},
    ],
)
def test_the_deviation_is_that_of_the_mock(encoding: str, settings: dict[str, object]) -> None:
    profile = LIT.with_settings({"encoding": encoding, **settings})
    draw = np.random.default_rng(3)
    x, w = (draw.normal(size=(count, 40)).astype(np.float32) for count in (4, 8))
    backend = MockBackend(profile, seed=0)
    many = np.repeat(x, 2000, axis=0)
    y = backend.matmul(many, w, Address("product", np.arange(len(many), dtype=np.uint64))).y
    measured = y.reshape(4, 2000, 8).std(axis=1)
    tensors = torch.from_numpy(x), torch.from_numpy(w)
    expected = noise_gradients.deviation(*tensors, profile).numpy()
    assert np.allclose(measured, expected, rtol=0.1)


def test_noise_gradients_are_those_of_the_deviation() -> None:
    profile = LIT.with_settings({"photons_per_mac": 1.0})
    model, x = torch.nn.Linear(WIDTH, CLASSES), clusters(16, 0)[0]
    with (
        light_on.optics(model, MockBackend(profile), "all-optical"),
        noise_gradients.NoiseGradients(profile),
    ):
        y = model(x)
    y.square().sum().backward()
    found = model.weight.grad.clone()
    model.zero_grad()
    sigma = noise_gradients.deviation(x, model.weight, profile)
    draws = ((y - model(x)) / sigma).detach()
    (model(x) + draws * sigma).square().sum().backward()
    assert torch.allclose(found, model.weight.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"rate": -1.0}, "rate = -1.0"),
        ({"fall": 2.0}, "fall = 2.0"),
        ({"first_light": 0.5}, "first_light = 0.5"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, float], match: str) -> None:
    with pytest.raises(InputError, match=match):
        light_on.Recipe(**changes)


def test_what_cannot_be_trained_is_refused() -> None:
    recipe = light_on.Recipe(steps=2)
    with pytest.raises(InputError, match="no batches"):
        light_on.finetune(module(), [], recipe=recipe)
    with pytest.raises(InputError, match="requires_grad"):
        light_on.finetune(module().requires_grad_(False), batches(), recipe=recipe)

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(WIDTH, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return self.line(x), 1

    with pytest.raises(InputError, match="tuple, which has no logits"):
        light_on.finetune(Pair(), batches(), recipe=recipe)
