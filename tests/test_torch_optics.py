"""A torch module's products on a backend: `lightloom.torch.optics`."""

import threading

import numpy as np
import pytest
from architectures import ARCHITECTURES, made, output_of
from lightloom.backends import MockBackend, load_profile

import lightloom
from lightloom import InputError

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
optics = pytest.importorskip("lightloom.torch").optics

pytestmark = [
    pytest.mark.with_torch,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

QUICK = ("bert", "gpt2", "llama", "mixtral", "vit", "whisper")
ALL = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES
]


class Products(torch.nn.Module):
    """One linear layer, and a product of two operands."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.line(x)
        return y @ y.mT


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("attention", ["eager", None])
@pytest.mark.parametrize("name", ALL)
def test_products_go_to_the_backend_and_give_the_result_of_torch(
    name: str, attention: str | None
) -> None:
    model, inputs = made(name, attention)
    with torch.no_grad():
        expected = output_of(model(**inputs))
        with optics(model, "digital", placement="all-optical") as light:
            found = output_of(model(**inputs))
    assert difference(found, expected) < 1e-5
    assert light.optical_share >= 0.99


def test_every_product_is_counted_as_torch_counts_it() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, inputs = made("vit", "eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    with torch.no_grad(), optics(model, "digital", placement="all-optical") as light:
        model(**inputs)
    assert 2 * light.stats.macs == counter.get_total_flops()


def test_grouped_experts_are_counted_for_the_tokens_that_they_serve() -> None:
    model, inputs = made("mixtral")
    with torch.no_grad(), optics(model, "digital", placement="all-optical") as light:
        model(**inputs)
    experts = sum(row.macs for row in light.report().steps if row.kind == "experts")
    tokens, used, width, inner, layers = inputs["input_ids"].numel(), 2, 32, 48, 2
    assert experts == tokens * used * 3 * width * inner * layers


def test_names_come_from_module_paths_and_roles() -> None:
    model, inputs = made("llama")
    with torch.no_grad(), optics(model, "digital", placement="paper") as light:
        model(**inputs)
    kinds = {record.step.name: record.step.kind for record in light._runner.calls.values()}
    layer = "model.layers.1"
    assert kinds[f"{layer}.self_attn.q_proj"] == "projection"
    assert kinds[f"{layer}.self_attn.qk"] == "QK^T"
    assert kinds[f"{layer}.self_attn.av"] == "attention x V"
    assert kinds["lm_head"] == "LM head"
    assert 0.8 < light.optical_share < 1
    assert any("LM head" in remark for remark in light.remarks)


@pytest.mark.parametrize("backend", ["digital", "mock:ideal"])
def test_gradients_are_those_of_exact_products(backend: str) -> None:
    model, inputs = made("llama")

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    with optics(model, backend):
        found = gradients()
    assert len(found) == len(expected)
    scale = max(float(gradient.abs().max()) for gradient in expected)
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < (
        1e-5 * scale
    )


def test_gradients_pass_straight_through_noise() -> None:
    module, x = Products(), torch.randn(4, 8)
    with optics(module, "mock:slm-camera", placement="all-optical") as light:
        y = module.line(x)
        y.sum().backward()
    assert not torch.equal(y.detach(), module.line(x).detach())
    assert light.stats.macs == 4 * 8 * 6  # products of the backward pass are digital
    assert torch.allclose(module.line.weight.grad, x.sum(0).expand(6, 8), atol=1e-5)


@pytest.mark.parametrize("encoding", ["push-pull", "offset"])
def test_gradients_of_quantised_products_use_what_the_modulators_show(encoding: str) -> None:
    profile = load_profile("ideal").with_settings({"encoding": encoding, "input_bits": 4})
    backend = MockBackend(profile.with_settings({"weight_bits": 3}))
    module = torch.nn.Linear(6, 5, bias=False)
    x = torch.randn(7, 6, requires_grad=True)
    upstream = torch.randn(7, 5)
    with optics(module, backend, placement="all-optical", gradients="quantised"):
        module(x).backward(upstream)
    exact = MockBackend(load_profile("ideal").with_settings({"encoding": encoding}))
    shown, columns = {}, torch.eye(6)
    for name, operand, bits in (
        ("x", x, {"input_bits": 4}),
        ("w", module.weight, {"input_bits": 3}),
    ):
        rounding = MockBackend(exact.profile.with_settings(bits))
        shown[name] = torch.from_numpy(rounding.matmul(operand.detach().numpy(), columns.numpy()).y)
    assert torch.allclose(x.grad, upstream @ shown["w"], atol=1e-5)
    assert torch.allclose(module.weight.grad, upstream.T @ shown["x"], atol=1e-5)
    assert not torch.allclose(x.grad, upstream @ module.weight, atol=1e-3)


def test_text_is_generated_on_light() -> None:
    model, inputs = made("llama")
    expected = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False)
    with optics(model, "mock:ideal") as light:
        found = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False)
    assert torch.equal(found, expected)
    records = {r.step.name: r for r in light._runner.calls.values()}
    calls = records["model.layers.0.self_attn.qk"].calls
    assert sorted(sizes["past"] for sizes, _ in calls) == [10, 11, 12, 13, 14]


def test_costs_are_those_of_the_built_in_page(tmp_path) -> None:
    model, inputs = made("llama")
    model.save_pretrained(tmp_path)
    page = lightloom.load_model(tmp_path)
    backend = MockBackend(load_profile("slm-camera"))
    planned = lightloom.plan(page, backend, batch=2, sequence=10)
    with torch.no_grad(), optics(model, backend) as light:
        model(**inputs)
    on_light = [step for step in planned.steps if step.where == "optical"]
    assert light.stats.macs == sum(step.macs for step in on_light)
    assert sum(step.shots for step in on_light) == light.stats.shots


def test_a_seed_gives_the_same_bits_and_another_seed_other_noise() -> None:
    model, inputs = made("bert")

    def output(seed: int) -> torch.Tensor:
        with torch.no_grad(), optics(model, "mock", seed=seed):
            return output_of(model(**inputs))

    assert torch.equal(output(1), output(1))
    assert not torch.equal(output(1), output(2))


def test_repeated_passes_draw_new_noise() -> None:
    model, inputs = made("bert")
    with torch.no_grad(), optics(model, "mock"):
        assert not torch.equal(output_of(model(**inputs)), output_of(model(**inputs)))


@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_a_batch_in_parts_gives_the_same_bits(name: str) -> None:
    model, inputs = made(name)
    with torch.no_grad(), optics(model, "mock", calibration=[inputs]) as light:
        whole = output_of(model(**inputs))
    parts = []
    with torch.no_grad(), optics(model, "mock", calibration=[inputs]) as light:
        for row in range(2):
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            with light.sequences([row]):
                parts.append(output_of(model(**one)))
    # host operations of torch differ in their last bits with the batch; noise of another row
    # would differ by a hundredth
    assert difference(torch.cat(parts), whole) < 1e-4


def test_weights_are_encoded_once_for_each_version() -> None:
    module, x = Products(), torch.randn(4, 8)
    backend = MockBackend(load_profile("ideal"))
    prepared = []
    original = backend._prepare
    backend._prepare = lambda *args: (prepared.append(1), original(*args))[1]
    with torch.no_grad(), optics(module, backend, placement="projections"):
        first = module.line(x)
        module.line(x)
        assert len(prepared) == 1
        module.line.weight.mul_(2)  # seen by its version
        second = module.line(x)
        assert len(prepared) == 2
        module.line.weight.data.mul_(2)  # not counted by torch
        third = module.line(x)
        module.line.weight.data = module.line.weight.data / 4
        fourth = module.line(x)
    bias = module.line.bias
    for factor, found in ((2, second), (4, third), (1, fourth)):
        assert torch.allclose(found - bias, factor * (first - bias), rtol=1e-4, atol=1e-5)


def test_ranges_come_from_calibration_inputs() -> None:
    model, inputs = made("bert")
    with torch.no_grad(), optics(model, "mock", calibration=[inputs]) as light:
        assert light.stats.macs == 0
        model(**inputs)
    assert not any("first call" in remark for remark in light.remarks)
    with torch.no_grad(), optics(model, "mock") as light:
        model(**inputs)
    assert any("first call" in remark for remark in light.remarks)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_are_multiplied_in_float32(dtype: str) -> None:
    module = torch.nn.Linear(64, 8, bias=False).to(getattr(torch, dtype))
    x = torch.randn(4, 64, dtype=module.weight.dtype)
    with torch.no_grad(), optics(module, "digital"):
        found = module(x)
    exact = x.float() @ module.weight.float().T
    assert found.dtype == module.weight.dtype
    assert torch.equal(found, exact.to(found.dtype))


def test_inference_mode_hides_no_product() -> None:
    model, inputs = made("bert")
    with torch.inference_mode(), optics(model, "digital", placement="all-optical") as light:
        model(**inputs)
    with torch.no_grad(), optics(model, "digital", placement="all-optical") as other:
        model(**inputs)
    assert light.stats.macs == other.stats.macs > 0


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (torch.nn.Conv2d(4, 6, (3, 2), dilation=2, groups=2), (2, 4, 9, 8)),
        (torch.nn.Conv2d(4, 8, 3, groups=4, padding="same"), (2, 4, 7, 7)),
        (torch.nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 3)),
    ],
)
def test_convolutions_are_products_of_patches(layer, shape) -> None:
    x = torch.randn(shape)
    with torch.no_grad():
        expected = layer(x)
        with optics(layer, "digital") as light:
            found = layer(x)
    assert difference(found, expected) < 1e-5
    assert light.optical_share == 1


def test_what_stays_digital_is_named_with_its_share() -> None:
    module = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.ConvTranspose1d(3, 2, 3))
    with torch.no_grad(), optics(module, "digital") as light:
        module(torch.randn(1, 2, 8))
    assert light.optical_share < 0.6
    assert any(r.startswith("convolution stayed digital (5") for r in light.remarks)


def test_the_report_is_that_of_a_run() -> None:
    model, inputs = made("vit")
    with torch.no_grad(), optics(model, "mock") as light:
        model(**inputs)
    document = light.report().as_dict()
    assert document["is_mock"]
    assert document["stats"]["macs"] == light.stats.macs
    assert {"optical", "host", "convert"} == {row["where"] for row in document["steps"]}
    assert document["energy"]["joules_per_token"]["system"] > 0


def refused(match: str):
    return pytest.raises(InputError, match=match)


def test_modules_that_hide_their_products_are_refused() -> None:
    line = torch.nn.Linear(2, 2)
    with refused("not a torch module"):
        optics(3, "digital")
    with refused("compiled"):
        optics(torch.nn.Sequential(torch.compile(line)), "digital")
    with refused("device meta"):
        optics(torch.nn.Linear(2, 2, device="meta"), "digital")
    mixed = torch.nn.Sequential(line, torch.nn.Linear(2, 2, device="meta"))
    with refused(r"several devices \(cpu, meta\)"):
        optics(mixed, "digital")
    whole = torch.nn.Linear(2, 2)
    whole.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with refused("quantised"):
        optics(whole, "digital")
    with refused("complex"):
        optics(torch.nn.Linear(2, 2, dtype=torch.complex64), "digital")
    with refused("compares the costs"):
        optics(line, "mock", placement="fastest")
    with refused("unknown placement"):
        optics(line, "mock", placement="most")


def test_calls_that_would_be_wrong_are_refused() -> None:
    module, x = Products(), torch.randn(4, 8)
    caught: list[BaseException] = []

    def other_thread() -> None:
        try:
            module(x)
        except InputError as error:
            caught.append(error)

    with optics(module, "digital"):
        with refused("autocast"), torch.autocast("cpu"):
            module(x)
        with refused("integer"):
            torch.ones(2, 2, dtype=torch.int64) @ torch.ones(2, 2, dtype=torch.int64)
        with refused("complex"):
            torch.ones(2, 2, dtype=torch.complex64) @ torch.ones(2, 2, dtype=torch.complex64)
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert "another thread" in str(caught[0])
    assert np.isfinite(module(x).detach().numpy()).all()  # the module is as it was


def test_an_error_leaves_module_and_torch_as_they_were() -> None:
    module = Products()
    with pytest.raises(InputError), optics(module, "digital"):
        module(torch.randn(4, 3))
    assert not module.line._forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()
