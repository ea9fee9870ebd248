"""A torch module's products on a backend: `lightloom.torch.optics`."""

import copy
import pickle
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
pad = torch.nn.functional.pad

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


class Function(torch.nn.Module):
    """A module whose forward pass is a function of itself and its inputs."""

    def __init__(self, function, **weights: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, weight in weights.items():
            self.register_parameter(name, torch.nn.Parameter(weight))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, *inputs)


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


def test_a_change_that_the_optics_do_not_see_is_noticed() -> None:
    from torch.utils._python_dispatch import _disable_current_modes

    for module, x in (
        (torch.nn.Linear(8, 4, bias=False), torch.randn(3, 8)),
        (torch.nn.Conv1d(4, 6, 3, bias=False), torch.randn(2, 4, 9)),
    ):
        with torch.no_grad(), optics(module, "mock:ideal"):
            first = module(x)
            with _disable_current_modes():
                module.weight.mul_(2)
            assert torch.allclose(module(x), 2 * first, rtol=1e-4, atol=1e-5)


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
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert "another thread" in str(caught[0])

    def rounded(m, x):
        with torch.autocast("cpu"):
            return x @ m.w

    def unrounded(m, x):
        with torch.autocast("cpu", enabled=False):
            return x @ m.w

    with refused("autocast"), optics(Function(rounded, w=torch.ones(8, 8)), "digital") as light:
        light._model(x)
    with optics(Function(unrounded, w=torch.ones(8, 8)), "digital") as light:
        light._model(x)
    square = Function(lambda m, x: x @ x)
    with optics(square, "digital"):
        with refused("integer"):
            square(torch.ones(2, 2, dtype=torch.int64))
        with refused("complex"):
            square(torch.ones(2, 2, dtype=torch.complex64))
    assert np.isfinite(module(x).detach().numpy()).all()  # the module is as it was


def test_an_error_leaves_module_and_torch_as_they_were() -> None:
    module = Products()
    with pytest.raises(InputError), optics(module, "digital"):
        module(torch.randn(4, 3))
    assert not module.line._forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()


def run_on(module, backend, *inputs, placement="all-optical"):
    """Return the result on a backend, that of torch, and the optics."""
    with torch.no_grad():
        expected = module(*inputs)
        with optics(module, backend, placement=placement) as light:
            found = module(*inputs)
    return found, expected, light


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x @ pad(m.w, (0, 0, 1, 0)).T + x @ pad(m.w, (0, 0, 0, 1)).T,
        lambda m, x: x @ pad(m.w, (0, 0, 0, 1)).T + x @ pad(m.w, (0, 0, 0, 1), value=2.0).T,
        lambda m, x: x @ m.w.half().float().T + x @ m.w.bfloat16().float().T,
    ],
)
def test_two_copies_of_a_weight_are_encoded_each(function) -> None:
    module = Function(function, w=torch.randn(4, 4))
    found, expected, light = run_on(module, "mock:ideal", torch.randn(3, 4))
    assert difference(found, expected) < 1e-5
    assert light.optical_share == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda m, p: p.masked_fill(p > 0.2, -1.0),
        lambda m, p: p.masked_fill_(p > 0.2, -1.0),
        lambda m, p: pad(p[..., :3], (0, 1), value=-3.0),
        lambda m, p: torch.neg(p, out=p),
        lambda m, p: torch.neg(p, out=torch.empty_like(p)),
    ],
)
def test_a_softmax_that_became_negative_is_not_taken_for_light(function) -> None:
    def attention(m, x, v):
        return function(m, x.softmax(-1)) @ v

    module = Function(attention)
    found, expected, light = run_on(module, "mock", torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    assert difference(found, expected) < 0.05
    steps = [row.step for row in light._runner.calls.values() if row.step.name != "torch"]
    assert not any(step.non_negative for step in steps)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda m, b, x, y: b.clone().addmm_(x, y, beta=2), [(3, 5), (3, 4), (4, 5)]),
        (lambda m, b, x, y: b.clone().baddbmm_(x, y), [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
        (lambda m, b, x, y: b.clone().addbmm_(x, y), [(3, 5), (2, 3, 4), (2, 4, 5)]),
        (lambda m, b, x, y: b.clone().addmv_(x, y), [(3,), (3, 4), (4,)]),
        (lambda m, x, y: torch.mm(x, y, out=torch.empty(0)), [(3, 4), (4, 5)]),
        (lambda m, x, y: torch.dot(x, y, out=torch.empty(())), [(4,), (4,)]),
    ],
)
def test_products_in_place_do_not_escape(function, shapes) -> None:
    found, expected, light = run_on(Function(function), "digital", *map(torch.randn, shapes))
    assert found.shape == expected.shape
    assert difference(found, expected) < 1e-5
    assert light.optical_share == 1
    assert light.stats.macs > 0


def test_a_bilinear_layer_is_a_product() -> None:
    layer = torch.nn.Bilinear(3, 4, 5)
    found, expected, light = run_on(layer, "digital", torch.randn(6, 3), torch.randn(6, 4))
    assert difference(found, expected) < 1e-5
    assert light.stats.macs == 6 * 3 * 4 * 5


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, x: torch.cdist(x, x), "_euclidean_dist"),
        (lambda m, x: torch.sparse.mm(x.to_sparse(), x), "_sparse_addmm"),
        (lambda m, x: torch.mm(x.to_sparse_csr(), x), "mm"),
        (lambda m, x: torch._int_mm(x.to(torch.int8), x.to(torch.int8)).float(), "_int_mm"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_products_without_a_form_for_light_are_named(function, name: str) -> None:
    found, expected, light = run_on(Function(function), "digital", torch.randn(32, 32))
    assert torch.equal(found, expected)
    assert light.optical_share == 0
    assert any(remark.startswith(f"{name} stayed digital") for remark in light.remarks)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (4,), (1, 4), (2, 3, 1, 4)])
def test_empty_and_small_batches_run(shape) -> None:
    found, expected, light = run_on(torch.nn.Linear(4, 5), "mock:ideal", torch.randn(shape))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    assert light.remarks == ()


def test_products_of_other_modules_stay_digital_and_are_named() -> None:
    student, teacher, x = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.randn(3, 8)
    with torch.no_grad(), optics(student, "mock") as light:
        student(x)
        assert torch.equal(teacher(x), torch.nn.functional.linear(x, teacher.weight, teacher.bias))
        assert light.optical_share == 1
        assert light.stats.macs == 3 * 8 * 8
        assert any("outside of the module's calls stayed digital" in r for r in light.remarks)
    with torch.no_grad(), optics(student, "digital") as one, optics(teacher, "digital") as other:
        student(teacher(x))
    assert one.stats.macs == other.stats.macs == 3 * 8 * 8
    with optics(student, "digital"), refused("has optics open already"), optics(student, "digital"):
        pass
    assert not student._forward_pre_hooks


def test_a_row_never_draws_the_same_noise_twice() -> None:
    module, x = torch.nn.Linear(8, 6), torch.randn(1, 8)
    seen = []
    with torch.no_grad(), optics(module, "mock", calibration=[x]) as light:
        for ids in ([0, 1], [1, 2], [2], [1], [0, 1, 2]):
            with light.sequences(ids):
                seen += [tuple(row.tolist()) for row in module(x.expand(len(ids), -1))]
    assert len(set(seen)) == len(seen)


def test_copies_of_a_module_do_without_its_optics() -> None:
    module, x = Products(), torch.randn(4, 8)
    with torch.no_grad():
        expected = module(x)
        with optics(module, "mock"):
            copied = copy.deepcopy(module)
            saved = pickle.loads(pickle.dumps(module))
        assert torch.equal(copied(x), expected)
        with torch.autocast("cpu"):
            copied(x)
            saved(x)


def test_weights_changed_between_contexts_are_encoded_again() -> None:
    module, x = torch.nn.Linear(8, 6, bias=False), torch.randn(3, 8)
    light = optics(module, "mock:ideal")
    with light, torch.no_grad():
        first = module(x)
    module.weight.data.mul_(3)  # not counted by torch
    with light, torch.no_grad():
        assert torch.allclose(module(x), 3 * first, rtol=1e-4, atol=1e-5)
        torch.mul(module.weight.data, 2, out=module.weight.data)
        assert torch.allclose(module(x), 6 * first, rtol=1e-4, atol=1e-5)


def test_recomputed_passes_are_not_counted() -> None:
    from torch.utils.checkpoint import checkpoint

    module = Products()
    whole = Function(lambda m, x: checkpoint(m.inner, x, use_reentrant=False))
    whole.inner = module
    x = torch.randn(4, 8, requires_grad=True)
    whole(x).sum().backward()
    expected = module.line.weight.grad.clone()
    module.zero_grad()
    with optics(whole, "digital", placement="all-optical") as light:
        whole(x).sum().backward()
    assert difference(module.line.weight.grad, expected) < 1e-5
    assert light.stats.macs == 4 * 8 * 6 + 4 * 4 * 6
    assert light._passes == 1


def test_threads_share_the_settings_of_torch() -> None:
    inside, leave = threading.Barrier(2), threading.Event()

    def longer() -> None:
        with optics(Products(), "digital"):
            inside.wait()
            leave.wait()

    thread = threading.Thread(target=longer)
    with optics(Products(), "digital"):
        thread.start()
        inside.wait()
    assert not torch.backends.mha.get_fastpath_enabled()  # the other needs it still
    assert not torch.backends.cuda.flash_sdp_enabled()
    leave.set()
    thread.join()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_wrong_arguments_are_refused() -> None:
    line, x = torch.nn.Linear(8, 8), torch.randn(2, 8)
    for calibration in (3, x, {"input": x}):
        with refused("not a list of inputs of passes"):
            optics(line, "mock", calibration=calibration)
    with refused("a calibration input is int"), optics(line, "mock", calibration=[3]):
        pass
    with optics(line, "mock") as light:
        for ids in ([-1, 2], 3, ["a", "b"], [[0, 1]], [0.5, 1], [1 << 24, 1]):
            with refused("give one whole number"), light.sequences(ids):
                pass
        with refused("name one twice"), light.sequences([1, 1]):
            pass
    line.weight.data[0, 0] = float("nan")
    with refused("weights has 1 values that are not finite"), optics(line, "mock"):
        line(x)
    sparse = torch.nn.Linear(8, 8)
    sparse.weight = torch.nn.Parameter(sparse.weight.detach().to_sparse())
    with refused("is sparse"):
        optics(sparse, "digital")


def test_noise_is_that_of_the_backend_itself() -> None:
    """False alarms: below 1e-4 for each of the three limits (4 standard deviations)."""
    torch.manual_seed(0)
    module, x = torch.nn.Linear(64, 16, bias=False), torch.randn(8, 64)
    passes, outputs = 500, 8 * 16
    light = optics(module, MockBackend(load_profile("slm-camera")), calibration=[x])
    with torch.no_grad(), light:
        found = np.stack([module(x).numpy() for _ in range(passes)]).astype(float)
    backend = MockBackend(load_profile("slm-camera"), seed=7)
    weights = backend.prepare(module.weight.detach().numpy(), ranges=light._runner.ranges["linear"])
    direct = np.stack([backend.matmul(x.numpy(), weights).y for _ in range(passes)]).astype(float)
    spread = found.var(0) + direct.var(0)
    squares = passes * (found.mean(0) - direct.mean(0)) ** 2 / spread
    assert abs(squares.mean() - 1) < 4 * (2 / outputs) ** 0.5
    ratios = np.log(found.var(0) / direct.var(0))
    assert abs(ratios.mean()) < 4 * (4 / passes / outputs) ** 0.5
    steps = (found - found.mean(0))[1:] * (found - found.mean(0))[:-1] / found.var(0)
    assert abs(steps.mean()) < 4 * (steps.size**-0.5) + 1 / passes


def test_a_convolution_with_a_computed_weight_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 8, 3, groups=2))
    x = torch.randn(2, 4, 9)
    with torch.no_grad(), optics(layer, "mock", "all-optical", calibration=[x]) as light:
        whole = layer(x)
    with torch.no_grad(), optics(layer, "mock", "all-optical", calibration=[x]) as light:
        parts = []
        for row in range(2):
            with light.sequences([row]):
                parts.append(layer(x[row : row + 1]))
    assert difference(torch.cat(parts), whole) < 1e-4
