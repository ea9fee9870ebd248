"""A torch module as a program: `lightloom.torch.trace`, and folders without a page of their own."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES, made, output_of
from killed_runs import Killed, killed_after
from lightloom.backends import MockBackend, load_profile

import lightloom
from lightloom import InputError

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
trace = pytest.importorskip("lightloom.torch").trace

pytestmark = [
    pytest.mark.with_torch,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*requires_grad=True:UserWarning"),
]
QUICK = ("bert", "gpt2", "llama", "mixtral", "vit", "whisper")
ALL = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES
]
FEW = [pytest.param(name, marks=() if name in QUICK[:3] else pytest.mark.slow) for name in QUICK]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def arrays(inputs: dict[str, Any], model: Any) -> Any:
    if model.task == "language":
        return inputs["input_ids"].numpy()
    return {name: tensor.numpy() for name, tensor in inputs.items()}


@pytest.mark.parametrize("name", ALL)
def test_a_program_gives_the_result_of_torch_and_resumes(name: str, tmp_path: Path) -> None:
    module, inputs = made(name)
    with torch.no_grad():
        expected = output_of(module(**inputs)).numpy()
    traced = trace(module, inputs)
    assert traced.fixed_sizes is None
    assert difference(traced.forward(arrays(inputs, traced)), expected) < 1e-5
    traced.save(tmp_path / "model")
    loaded = lightloom.load_model(tmp_path / "model")
    data = arrays(inputs, loaded)
    # not the same bits: a weight may lie in memory the other way round
    assert difference(loaded.forward(data), expected) < 1e-5

    def planned() -> Any:
        tokens = inputs["input_ids"].shape[1] if loaded.config.has_tokens else None
        return lightloom.plan(loaded, MockBackend(load_profile()), 2, tokens)

    whole = planned().run(data, record=tmp_path / "whole.db", reference=False)
    assert planned().seconds > 0
    assert "J (system)" in repr(planned().energy())
    with pytest.raises(Killed), killed_after(40):
        planned().run(data, record=tmp_path / "half.db", reference=False)
    resumed = lightloom.resume(tmp_path / "half.db")
    assert json.dumps(resumed.results) == json.dumps(whole.results)


@pytest.mark.parametrize("name", FEW)
def test_a_program_serves_other_sizes(name: str) -> None:
    module, inputs = made(name)
    traced = trace(module, inputs)
    more = {key: torch.cat([value.flip(0), value, value[:1]]) for key, value in inputs.items()}
    if name in ("bert", "llama", "gpt2"):
        more["input_ids"] = torch.cat([more["input_ids"], more["input_ids"][:, 2:9]], 1)
    with torch.no_grad():
        expected = output_of(module(**more)).numpy()
    assert difference(traced.forward(arrays(more, traced)), expected) < 1e-5


@pytest.mark.parametrize("name", ["bert", "mixtral", "vit", "whisper"])
def test_every_product_is_in_the_program(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module, inputs = made(name, "eager")
    if hasattr(module.config, "_experts_implementation"):
        module.config._experts_implementation = "batched_mm"  # which the counter knows
    traced = trace(module, inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(**inputs)
    new = inputs["input_ids"].shape[1] if traced.config.has_tokens else 1
    sizes = {"batch": 2, "new": new, "past": 0}
    macs = sum(step.macs(sizes) for step in traced.whole_program.matmuls)
    assert 2 * macs == counter.get_total_flops()


@pytest.mark.parametrize("name", ["gpt2", "llama", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_a_language_model_decodes_with_its_cache(name: str) -> None:
    module, inputs = made(name)
    traced = trace(module, inputs)
    assert traced.task == "language"
    assert traced.whole_program.states
    tokens = inputs["input_ids"].numpy()
    whole = traced.forward(tokens)
    cache = lightloom.models.Cache()
    parts = [traced.forward(tokens[:, a:b], cache=cache) for a, b in ((0, 6), (6, 7), (7, 10))]
    assert difference(np.concatenate(parts, axis=1), whole) < 1e-4
    assert traced.perplexity(tokens) == pytest.approx(
        np.exp(float(module(**inputs, labels=inputs["input_ids"]).loss)), rel=1e-4
    )


def test_costs_are_those_of_the_built_in_page(tmp_path: Path) -> None:
    module, inputs = made("llama")
    module.save_pretrained(tmp_path)
    backend = MockBackend(load_profile())
    plans = [
        lightloom.plan(model, backend, 2, 10, 4)
        for model in (lightloom.load_model(tmp_path), trace(module, inputs))
    ]
    counts = [
        {
            key: sum(getattr(step, key) for step in plan.steps if step.where == "optical")
            for key in ("macs", "shots", "conversions")
        }
        for plan in plans
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masked_places_enter_no_range(attention: str, tmp_path: Path) -> None:
    module, inputs = made("llama", attention)
    module.save_pretrained(tmp_path)
    ranges = []
    for model in (lightloom.load_model(tmp_path), trace(module, inputs)):
        executor = model.executor(MockBackend(load_profile()))
        model.calibrate(executor, inputs["input_ids"].numpy())
        ranges.append([r.readout for name, r in executor.ranges.items() if name.endswith("qk")])
    for mine, other in zip(*ranges, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4)


def test_a_plan_decides_where_the_products_of_a_module_go() -> None:
    module, inputs = made("llama")
    decided = lightloom.plan(trace(module, inputs), "mock", 2, 10, placement="projections").decided
    with torch.no_grad(), lightloom.torch.optics(module, "mock", placement=decided) as light:
        module(**inputs)
    on_light = {r.step.name for r in light._runner.calls.values() if r.optical}
    assert on_light == decided.on_light


def test_a_batch_in_parts_has_the_same_noise() -> None:
    module, inputs = made("bert")
    traced = trace(module, inputs)
    executor = traced.executor("mock", "paper")
    whole = traced.forward(arrays(inputs, traced), backend=executor.backend)
    rows = []
    for row in range(2):
        one = {key: value[row : row + 1] for key, value in arrays(inputs, traced).items()}
        rows.append(traced.run_pass(executor, "logits", one, sequences=np.array([row])))
    assert difference(np.concatenate(rows), whole) < 1e-4


class Branch(torch.nn.Module):
    """A module whose steps depend on the numbers of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x) if x.sum() > 0 else self.line(x).relu()


class Squares(torch.nn.Module):
    """A module whose sizes are no sums of the sizes of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x)[torch.arange(len(x) * len(x)) % len(x)]


def test_a_branch_on_numbers_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match=r"takes a branch.*lightloom\.torch\.optics"):
        trace(Branch(), torch.randn(2, 4))


def test_a_program_of_fixed_sizes_says_so() -> None:
    module = Squares()
    traced = trace(module, torch.randn(3, 4))
    assert traced.fixed_sizes == (3, 1)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert difference(traced.forward(x), expected) < 1e-5
    assert lightloom.plan(traced, "mock").passes[0][0]["batch"] == 3
    with pytest.raises(InputError, match="batch 3 and sequence 1 alone"):
        lightloom.plan(traced, "mock", batch=2)
    with pytest.raises(InputError, match="does not fit"):
        traced.forward(x[:2])


def test_wrong_inputs_are_refused() -> None:
    module, inputs = made("bert")
    traced = trace(module, inputs)
    with pytest.raises(InputError, match="give input_ids"):
        traced.forward({"tokens": np.zeros((2, 3), int)})
    with pytest.raises(InputError, match="holds float64"):
        traced.forward({"input_ids": np.zeros((2, 3))})
    with pytest.raises(InputError, match="does not fit"):
        traced.forward({"input_ids": np.zeros((2, 3, 1), int)})
    with pytest.raises(InputError, match="no example inputs"):
        trace(module, {})
    with pytest.raises(InputError, match="not a tensor"):
        trace(module, {"input_ids": [[1, 2]]})
    with pytest.raises(InputError, match="not loaded from a file"):
        lightloom.plan(traced, "mock", 2, 10).run(arrays(inputs, traced), record="never.db")
    assert not Path("never.db").exists()


def test_damaged_programs_are_refused(tmp_path: Path) -> None:
    module, inputs = made("bert")
    trace(module, inputs).save(tmp_path / "good")
    document = json.loads((tmp_path / "good" / "program.json").read_text())

    def refused(match: str, text: str) -> None:
        folder = tmp_path / "bad"
        folder.mkdir(exist_ok=True)
        weights = (tmp_path / "good" / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(weights)
        (folder / "program.json").write_text(text)
        with pytest.raises(InputError, match=match):
            lightloom.load_model(folder)

    refused("cannot be read", "{")
    refused("is not a program", json.dumps(document | {"kind": "other"}))
    refused("has schema 9", json.dumps(document | {"schema": 9}))
    program = document["program"]
    shapes = program["weight_shapes"]
    wrong = {key: [7] for key in list(shapes)[:1]}
    refused(
        "do not belong",
        json.dumps(document | {"program": program | {"weight_shapes": shapes | wrong}}),
    )
    steps = json.loads(json.dumps(program["steps"]))
    next(step["host"] for step in steps if "host" in step)["step"] = "aten.nothing.default"
    refused("does not have", json.dumps(document | {"program": program | {"steps": steps}}))


@pytest.mark.parametrize("name", ["modernbert", "gemma", "t5"])
def test_a_folder_without_a_page_runs_through_torch(name: str, tmp_path: Path) -> None:
    module, inputs = made(name)
    module.save_pretrained(tmp_path)
    model = lightloom.load_model(tmp_path)
    if name == "modernbert":
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if name == "t5":  # of the lengths that it is traced with
        ids = inputs["input_ids"]
        inputs = {"input_ids": ids[:, :8].repeat(1, 4), "decoder_input_ids": ids[:, :8]}
    with torch.no_grad():
        expected = output_of(module(**inputs)).numpy()
    assert difference(model.forward(arrays(inputs, model)), expected) < 1e-5


def test_a_head_without_a_page_goes_through_torch(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**ARCHITECTURES["llama"].settings, num_labels=3)
    torch.manual_seed(0)
    module = transformers.LlamaForSequenceClassification(config).eval()
    module.save_pretrained(tmp_path)
    tokens = torch.randint(3, 90, (2, 7))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    model = lightloom.load_model(tmp_path)
    with torch.no_grad():
        expected = module(**inputs).logits.numpy()
    assert difference(model.forward(arrays(inputs, model)), expected) < 1e-5
    config = transformers.BertConfig(**ARCHITECTURES["bert"].settings)
    module = transformers.BertForQuestionAnswering(config).eval()
    module.save_pretrained(tmp_path)
    model = lightloom.load_model(tmp_path)
    with torch.no_grad():
        expected = module(**inputs).start_logits.numpy()
    assert difference(model.forward(arrays(inputs, model)), expected) < 1e-5


def test_folders_that_torch_cannot_open_are_refused(tmp_path: Path) -> None:
    module, _ = made("gemma")
    module.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())

    def refused(match: str, **changes: Any) -> None:
        path.write_text(json.dumps(document | changes))
        with pytest.raises(InputError, match=match):
            lightloom.load_model(tmp_path)

    refused("names no class", architectures=["NothingForCausalLM"])
    refused("code of the folder's own", auto_map={"AutoModel": "modeling.Own"})
    refused("the weights lack|cannot open", intermediate_size=40)
    refused("the weights lack", num_hidden_layers=3)


@pytest.mark.slow
@pytest.mark.packaged_models
def test_real_models_give_the_logits_of_their_pages() -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    folder = os.environ.get("LIGHTLOOM_TEST_MODELS")
    if not folder:
        pytest.skip("LIGHTLOOM_TEST_MODELS names no folder of models")
    smollm2 = Path(folder) / "smollm2"
    (file,) = smollm2.glob("*.gguf")
    language = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2, gguf_file=file.name, dtype=torch.float32
    ).eval()
    encoder = transformers.AutoModel.from_pretrained(Path(folder) / "minilm").eval()
    for module, path in ((language, file), (encoder, Path(folder) / "minilm")):
        page = lightloom.load_model(path)
        tokens = np.random.default_rng(0).integers(0, page.config.vocabulary, (1, 24))
        given = torch.from_numpy(tokens)
        traced = trace(module, {"input_ids": given})
        expected = page.forward(tokens)
        data = tokens if traced.task == "language" else {"input_ids": tokens}
        assert difference(traced.forward(data), expected) < 1e-4
        with torch.no_grad(), lightloom.torch.optics(module, "digital"):
            assert difference(output_of(module(given)).numpy(), expected) < 1e-4


class Function(torch.nn.Module):
    """A module whose forward pass is a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.from_numpy(x.numpy() * 2) + x,
        lambda x: torch.tensor(x.numpy() * 2),
        lambda x: x + torch.randn(x.shape),
        torch.nn.functional.dropout,
    ],
)
def test_numbers_that_torch_does_not_compute_are_refused(function) -> None:
    with pytest.raises(InputError, match=r"differs from torch|fails with its example inputs"):
        trace(Function(function), torch.randn(3, 8))


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (torch.nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4))),
        (torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16)),
        (Function(lambda x: x.T.as_strided((2, 6), (1, 2))), torch.randn(3, 8)),
        (Function(lambda x: x[1:].as_strided((2, 6), (1, 2), 8)), torch.randn(3, 8)),
        (torch.nn.Linear(8, 4).bfloat16(), torch.randn(2, 8).bfloat16()),
        (torch.nn.Linear(8, 4).double(), torch.randn(2, 8).double()),
    ],
)
def test_modules_of_users_are_traced(module, inputs) -> None:
    module.eval()
    traced = trace(module, inputs)
    others = [one.flip(0) for one in (inputs if isinstance(inputs, tuple) else (inputs,))]
    with torch.no_grad():
        expected = module(*others).float().numpy()
    data = {
        name: one.float().numpy().astype(traced.examples[name].dtype)
        for name, one in zip(traced.config.inputs, others, strict=True)
    }
    narrow = others[0].dtype == torch.bfloat16
    assert difference(traced.forward(data), expected) < (0.02 if narrow else 1e-5)


@pytest.mark.parametrize("name", ["MambaForCausalLM", "RwkvForCausalLM"])
def test_a_recurrent_model_is_traced_without_a_cache(name: str) -> None:
    settings = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))(**settings)
    torch.manual_seed(0)
    module = getattr(transformers, name)(config).eval()
    tokens = torch.randint(3, 96, (2, 6))
    traced = trace(module, {"input_ids": tokens})
    assert not traced.whole_program.states
    with torch.no_grad():
        expected = module(input_ids=tokens).logits.numpy()
    assert difference(traced.forward({"input_ids": tokens.numpy()}), expected) < 1e-5


def test_inputs_that_the_module_does_not_take_are_refused() -> None:
    line, x = torch.nn.Linear(8, 4), torch.randn(2, 8)
    for match, given in (
        ("takes no argument 'z'", {"z": x}),
        ("2 example inputs were given", (x, x)),
        (r"of shape \[0, 8\]", x[:0]),
        ("fails with its example inputs", x[:, :3]),
        ("changes an input or a buffer in place", x),
    ):
        module = Function(lambda x: x.add_(1)) if "in place" in match else line
        with pytest.raises(InputError, match=match):
            trace(module, given)


def test_tracing_leaves_modes_as_they_were() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout())
    module[1].eval()
    trace(module, torch.randn(2, 8))
    with lightloom.torch.optics(module, "digital", calibration=[torch.randn(2, 8)]):
        pass
    assert module.training
    assert not module[1].training
    assert not torch.compiler.is_compiling()
