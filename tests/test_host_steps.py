"""The digital steps against their definitions."""

import math
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from lightloom.instruments import InputError, MissingExtraError
from lightloom.instruments.errors import import_extra
from lightloom.models import load_model
from lightloom.scheduler import host_steps as steps
from pytest_mock import MockerFixture

X = np.linspace(-12, 12, 4001).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        (
            "gelu_new",
            lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("relu", lambda x: max(x, 0.0)),
        ("relu6", lambda x: min(max(x, 0.0), 6.0)),
    ],
)
def test_activations(name: str, exact) -> None:  # type: ignore[no-untyped-def]
    result = steps.activate(X.copy(), function=name)
    # an addition and a division round to 2^-24 each: 1.4e-6 at 12
    np.testing.assert_allclose(result, [exact(float(x)) for x in X], rtol=0, atol=2e-6)
    extreme = steps.activate(np.array([-3e38, -1e4, 1e4], np.float32), function=name)
    assert np.isfinite(extreme).all() and extreme[0] == 0


def test_scratch_is_used_only_when_allowed() -> None:
    # a step must not change an operand that another step still needs
    for call in (
        lambda x, scratch: steps.activate(x, function="gelu", scratch=scratch),
        lambda x, scratch: steps.add_bias(x, bias=np.ones(3, np.float32), scratch=scratch),
        lambda x, scratch: steps.add_residual(x, np.ones_like(x), scratch=scratch),
        lambda x, scratch: steps.softmax(x[None, None], scale=1.0, scratch=scratch),
    ):
        kept = np.ones((2, 3), dtype=np.float32)
        call(kept, False)
        assert (kept == 1).all()


def test_norms() -> None:
    x = np.random.default_rng(0).normal(3, 2, (4, 7, 60)).astype(np.float32)
    weight, bias = np.linspace(0.5, 2, 60, dtype=np.float32), np.full(60, 0.25, np.float32)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    result = steps.layer_norm(x, weight=weight, bias=bias, epsilon=1e-5)
    np.testing.assert_allclose(result, exact * weight + bias, atol=5e-6)  # 10 units of 4 to 8
    exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
    result = steps.rms_norm(x, weight=weight, epsilon=1e-5)
    np.testing.assert_allclose(result, exact * weight, atol=5e-6)


STEPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "layer_norm": lambda x: steps.layer_norm(x, weight=W, bias=W, epsilon=1e-5),
    "layer_norm without bias": lambda x: steps.layer_norm(x, weight=W, epsilon=1e-5),
    "rms_norm": lambda x: steps.rms_norm(x, weight=W, epsilon=1e-5),
    "gelu": lambda x: steps.activate(x, function="gelu"),
    "gelu_new": lambda x: steps.activate(x, function="gelu_new"),
    "silu": lambda x: steps.activate(x, function="silu"),
    "gate": lambda x: steps.gate(x, x[..., ::-1].copy(), function="silu"),
    "softmax": lambda x: steps.softmax(x[:, None], CAUSAL, scale=3.0),
    "softmax of groups": lambda x: steps.softmax(
        np.concatenate([x, 2 * x], axis=1)[:, None], CAUSAL, scale=3.0, groups=2
    ),
    "softmax without mask": lambda x: steps.softmax(x[:, None], scale=30.0),
    "rotary": lambda x: steps.rotary(steps.split_heads(x, heads=3, width=66), 4, base=1e4),
}
TOKENS, WIDTH = 5, 333  # ten vectors of 32, and a rest
W = np.linspace(-2, 2, WIDTH, dtype=np.float32)
CAUSAL = steps.attention_mask(
    np.zeros((3, TOKENS)), np.full(3, TOKENS), WIDTH - TOKENS, causal=True, window=40
)


def activations() -> np.ndarray:
    return 3 * np.random.default_rng(5).standard_normal((3, TOKENS, WIDTH), dtype=np.float32)


@pytest.mark.parametrize("name", STEPS)
def test_compiled_and_numpy_steps_give_the_same_bits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a machine without numba has the same results, only later
    pytest.importorskip("numba", reason="needs the extra 'fast'")
    compiled = STEPS[name](activations())
    monkeypatch.setattr(steps, "_loops", lambda: None)
    np.testing.assert_array_equal(STEPS[name](activations()), compiled)


@pytest.mark.parametrize("name", STEPS)
def test_a_row_has_the_same_bits_in_every_batch(name: str) -> None:
    x = activations()
    together = STEPS[name](x)
    for row in range(3):
        np.testing.assert_array_equal(STEPS[name](x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("name", STEPS)
def test_numbers_that_are_not_finite_stay_visible(name: str) -> None:
    # the result of a pass is checked; a step that hid them would let a wrong number out
    x = activations()
    x[1, TOKENS - 1, 50] = np.nan
    with np.errstate(invalid="ignore"):
        result = STEPS[name](x)
    assert np.isnan(result[1]).any() and np.isfinite(result[[0, 2]]).all()


def test_exponentials_are_exact_to_float32() -> None:
    x = np.linspace(-87, 0, 100_001, dtype=np.float32)
    pairs = np.stack([x, np.zeros_like(x)], axis=1)[None, None]
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    error = steps.softmax(pairs, scale=1.0)[0, 0, :, 0] / exact - 1
    assert (np.abs(error) < 3e-7 + 8e-8 * np.abs(x)).all()


@pytest.mark.parametrize("step", [steps.layer_norm, steps.rms_norm])
def test_weights_of_another_length_are_refused(step: Callable[..., np.ndarray]) -> None:
    # a compiled loop checks no bounds
    with pytest.raises(ValueError, match="broadcast"):
        step(activations(), weight=W[:-1], epsilon=1e-5)


def test_masks() -> None:
    tokens = np.zeros((2, 3))
    causal = steps.attention_mask(tokens, np.array([3, 3]), 1, causal=True)
    assert causal.shape == (1, 1, 3, 4)
    assert (np.isfinite(causal[0, 0]) == np.tri(3, 4, 1, dtype=bool)).all()
    padded = steps.attention_mask(tokens, np.array([3, 1]), 0, causal=False)
    assert np.isfinite(padded).sum() == 9 + 3
    window = steps.attention_mask(tokens, np.array([3, 3]), 0, causal=True, window=2)
    assert np.isfinite(window[0, 0]).sum(axis=1).tolist() == [1, 2, 2]
    one = np.zeros((2, 1))
    for options, seen in (({}, 5), ({"window": 5}, 5), ({"window": 4}, 4)):
        mask = steps.attention_mask(one, np.array([1, 1]), 4, causal=True, **options)
        assert mask.shape == (1, 1, 1, 5) and np.isfinite(mask).sum() == seen


def test_rotation_keeps_length_and_depends_on_distance_alone() -> None:
    chance = np.random.default_rng(0)
    q, k = chance.normal(size=(2, 1, 1, 9, 8)).astype(np.float32)
    q[:], k[:] = q[:, :, :1], k[:, :, :1]
    turned_q, turned_k = (steps.rotary(x, 0, base=1e4) for x in (q, k))
    np.testing.assert_allclose(np.linalg.norm(turned_q, axis=-1), np.linalg.norm(q, axis=-1), 1e-6)
    products = turned_q[0, 0] @ turned_k[0, 0].T
    np.testing.assert_allclose(np.diag(products), products[0, 0], atol=1e-5)
    later = steps.rotary(q[:, :, 5:6], 5, base=1e4)
    np.testing.assert_array_equal(later, turned_q[:, :, 5:6])


def test_sampling_follows_the_distribution() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], dtype=np.float32))

    def drawn(**settings: float) -> np.ndarray:
        uniform = (np.arange(1000) + 0.5) / 1000
        options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
        tokens = [steps.sample(logits, u, **options) for u in uniform]  # type: ignore[arg-type]
        return np.bincount(tokens, minlength=3) / 1000

    np.testing.assert_allclose(drawn(), [0.1, 0.6, 0.3], atol=2e-3)
    np.testing.assert_allclose(drawn(top_k=2), [0, 2 / 3, 1 / 3], atol=2e-3)
    np.testing.assert_allclose(drawn(top_p=0.5), [0, 1, 0])
    np.testing.assert_allclose(drawn(top_p=0.7), [0, 2 / 3, 1 / 3], atol=2e-3)
    np.testing.assert_allclose(drawn(temperature=0), [0, 1, 0])
    assert drawn(temperature=0.5)[1] > 0.75


def test_token_loss() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 11)).astype(np.float32) * 30
    following = np.arange(10).reshape(2, 5)
    wide = logits.astype(np.float64)
    exact = (
        np.log(np.exp(wide).sum(-1)) - np.take_along_axis(wide, following[..., None], -1)[..., 0]
    )
    np.testing.assert_allclose(steps.token_loss(logits, following), exact, atol=1e-4)


def test_unknown_steps_and_missing_extras_are_named() -> None:
    with pytest.raises(InputError, match="unknown host step 'sing'"):
        steps.check_step("sing")
    with pytest.raises(MissingExtraError, match=r"pip install 'lightloom\[hub\]'"):
        import_extra("no_such_package_at_all", "hub", "fetching models")


def test_a_hub_name_is_fetched(mocker: MockerFixture, references: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    fetch = mocker.patch.object(hub, "snapshot_download", return_value=str(references / "bert"))
    assert load_model("owner/some-Model.v2").task == "encoder"
    assert fetch.call_args.args == ("owner/some-Model.v2",)
    fetch.side_effect = OSError("no network")
    with pytest.raises(InputError, match="cannot fetch 'owner/other' from the hub: no network"):
        load_model("owner/other")


def test_threads_do_not_disturb_each_other(references: Path) -> None:
    model = load_model(references / "gpt2")
    tokens = [[[i + 1, 2 * i + 3, 5]] for i in range(6)]
    alone = [model.forward(t, backend="mock") for t in tokens]
    together: list[np.ndarray | None] = [None] * 6

    def work(index: int) -> None:
        together[index] = model.forward(tokens[index], backend="mock")

    threads = [Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
