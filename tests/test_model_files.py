"""What model files ask for is computed as its authors compute it, or refused by name.

If these fail, a model loads with other numbers than its authors', without a message. Right values
are those of transformers and sentence-transformers (references/make_variants.py), of llama.cpp's
conventions, and counts of parameters that were published.
"""

import copy
import json
import math
import pickle
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.models.gguf_tokens import gguf_end_tokens
from lightloom.models.shapes import model_or_shape, sized_model, with_random_weights
from safetensors.numpy import load_file, save_file

VARIANTS = (
    "gpt2_unscaled",
    "gpt2_scaled_by_layer",
    "bert_decoder",
    "llama_biases",
    "llama_linear",
    "mistral_window",
    "vit_unnormalised",
    "vit_unrescaled",
    "qwen3",
)


@pytest.fixture
def variant(references: Path, tmp_path: Path) -> Any:
    """Copy a model of references/variants, to be changed."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(references / "variants" / name, tmp_path / name))

    return copied


def configure(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(document | changes), encoding="utf-8")


def change_tensors(folder: Path, **changes: np.ndarray | None) -> None:
    arrays = load_file(folder / "model.safetensors")
    for name, array in changes.items():
        arrays.pop(name, None)
        if array is not None:
            arrays[name] = array
    save_file(arrays, folder / "model.safetensors")


def check(folder: Path, path: Path | None = None, atol: float = 1e-5) -> None:
    """Compare with what transformers computed."""
    expected = load_file(folder / "expected.safetensors")
    result = load_model(path or folder).forward(expected["inputs"])
    np.testing.assert_allclose(result, expected["output"], rtol=0, atol=atol)


# --- keys of config.json --------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_key_changes_what_it_changes_in_transformers(references: Path, name: str) -> None:
    check(references / "variants" / name)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_not_their_defaults(variant: Any, name: str) -> None:
    # otherwise the test above could not detect that a key is ignored
    folder = variant(name)
    usual = {
        "gpt2_unscaled": {"scale_attn_weights": True},
        "gpt2_scaled_by_layer": {"scale_attn_by_inverse_layer_idx": False},
        "bert_decoder": {"is_decoder": False},
        "llama_linear": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        "mistral_window": {"sliding_window": None},
        "qwen3": {"rms_norm_eps": 0.1},
    }
    if name == "llama_biases":
        configure(folder, attention_bias=False, mlp_bias=False)
        with pytest.raises(InputError, match=r"does not use the tensors .*bias"):
            load_model(folder)
        return
    if name.startswith("vit"):
        configure(folder, "preprocessor_config.json", do_normalize=True, do_rescale=True)
    else:
        configure(folder, **usual[name])
    with pytest.raises(AssertionError):
        check(folder, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "is_encoder_decoder", True),
        ("gpt2", "pruned_heads", {"0": [1]}),
        ("gpt2", "quantization_config", {"bits": 4}),
        ("gpt2", "hidden_act", "relu"),
        ("gpt2", "logit_scale", 0.5),
        ("bert", "position_embedding_type", "relative_key"),
        ("bert", "add_cross_attention", True),
        ("llama", "sliding_window", 8),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "attention_multiplier", 0.1),
        ("llama", "rope_parameters", {"rope_type": "yarn", "factor": 4.0}),
        ("llama", "rope_parameters", {"rope_theta": 1e4, "mscale": 2.0}),
        ("mistral", "attention_bias", True),
        ("qwen2", "use_sliding_window", True),
        ("qwen2", "layer_types", ["full_attention", "sliding_attention"]),
        ("vit", "layer_scale_init_value", 0.1),
        ("gpt2", "is_causal", False),
        ("llama", "is_causal", False),
        ("llama", "rope_scaling", {"type": "linear", "factor": 4.0}),
        ("llama", "rope_scaling", "linear"),
        ("llama", "num_hidden_layers", 10**9),
        ("llama", "biases", []),
        ("gpt2", "hidden_size", 61),
    ],
)
def test_an_unsupported_key_is_refused(
    references: Path, tmp_path: Path, name: str, key: str, value: object
) -> None:
    folder = Path(shutil.copytree(references / name, tmp_path / name))
    configure(folder, **{key: value})
    words = {"rope_parameters": "rotary"}.get(key, key)
    with pytest.raises(InputError, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    "key",
    ["_name_or_path", "attn_pdrop", "use_cache", "torch_dtype", "summary_type", "temperature"],
)
def test_a_key_that_does_not_matter_is_not_refused(
    references: Path, tmp_path: Path, key: str
) -> None:
    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    configure(folder, **{key: "anything", "a_future_switch": False, "a_future_list": []})
    configure(folder, n_special=0, predict_special_tokens=True, output_past=True, hidden_size=60)
    load_model(folder)


def test_pictures_may_be_written_as_pairs_and_classes_as_numbers(
    references: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(references / "vit", tmp_path / "vit"))
    names = {str(number): number for number in range(7)}
    configure(folder, image_size=[12, 12], patch_size=[4, 4], id2label=names)
    load_model(folder)
    configure(folder, id2label=None, num_labels=7)
    load_model(folder)
    configure(folder, image_size=13)
    with pytest.raises(InputError, match="image_size = 13 does not divide into patches of 4"):
        load_model(folder)


def test_missing_keys_have_the_defaults_of_their_class(variant: Any) -> None:
    folder = variant("mistral_window")
    document = json.loads((folder / "config.json").read_text())
    del document["sliding_window"]
    (folder / "config.json").write_text(json.dumps(document))
    assert load_model(folder).config.window == 4096
    del document["num_key_value_heads"]  # 8, which 4 heads do not divide onto
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="do not divide onto 8 key heads"):
        load_model(folder)


# --- tensors --------------------------------------------------------------------------------------


def test_a_tensor_that_nothing_uses_is_refused_by_name(references: Path, tmp_path: Path) -> None:
    for name in ("gpt2", "bert", "llama", "vit"):
        folder = Path(shutil.copytree(references / name, tmp_path / name))
        change_tensors(folder, extra=np.ones(3, np.float32))
        with pytest.raises(InputError, match=r"does not use the tensor 'extra'.*remove"):
            load_model(folder)


def test_buffers_and_poolers_are_ignored(references: Path, tmp_path: Path) -> None:
    ones = np.ones((4, 4), np.float32)
    buffers = {
        "gpt2": "transformer.h.0.attn.masked_bias",
        "bert": "pooler.dense.weight",
        "llama": "model.layers.1.self_attn.rotary_emb.inv_freq",
        "vit": "vit.pooler.dense.weight",
    }
    for name, tensor in buffers.items():
        folder = Path(shutil.copytree(references / name, tmp_path / name))
        change_tensors(folder, **{tensor: ones})
        assert tensor.rpartition(".")[2] not in {
            n for n in load_model(folder).weights if "." not in n
        }


def test_heads_of_other_tasks_are_named_in_a_remark(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "bert", tmp_path / "bert"))
    change_tensors(folder, **{"qa_outputs.weight": np.ones((2, 60), np.float32)})
    with pytest.warns(UserWarning, match=r"of heads for other tasks: qa_outputs\.weight"):
        load_model(folder)


def test_older_names_of_norms_are_read(references: Path, tmp_path: Path) -> None:
    # bert-base-uncased as it was published: LayerNorm.gamma and .beta, and heads of its training
    folder = Path(shutil.copytree(references / "bert", tmp_path / "bert"))
    arrays = {}
    for name, array in load_file(folder / "model.safetensors").items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        arrays["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = array
    arrays["cls.seq_relationship.weight"] = np.ones((2, 60), np.float32)
    save_file(arrays, folder / "model.safetensors")
    expected = load_file(folder / "expected.safetensors")
    with pytest.warns(UserWarning, match=r"cls\.seq_relationship\.weight"):
        result = load_model(folder).forward(expected["tokens_1"])
    np.testing.assert_allclose(result, expected["output_1"], rtol=0, atol=2e-5)
    arrays["bert.embeddings.LayerNorm.weight"] = arrays["bert.embeddings.LayerNorm.gamma"]
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"'embeddings\.LayerNorm\.weight' occurs twice"):
        load_model(folder)


def test_an_adapter_is_not_left_out(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    configure(folder, "adapter_config.json", peft_type="LORA")
    with pytest.raises(InputError, match=r"holds an adapter .*merge it into its model first"):
        load_model(folder)


def test_a_model_without_its_head_is_refused(references: Path, tmp_path: Path) -> None:
    for name, tensors, words in (
        ("vit", ("classifier.weight", "classifier.bias"), "body of a classifier"),
        ("llama", ("lm_head.weight",), "body of a language model.*tie_word_embeddings"),
    ):
        folder = Path(shutil.copytree(references / name, tmp_path / name))
        change_tensors(folder, **dict.fromkeys(tensors))
        with pytest.raises(InputError, match=f"holds no {tensors[0]}: it is the {words}"):
            load_model(folder)


def test_a_stored_head_beside_tied_embeddings(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    table = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    change_tensors(folder, **{"lm_head.weight": table})
    load_model(folder)  # as older files store it
    change_tensors(folder, **{"lm_head.weight": table + 1})
    with pytest.raises(InputError, match=r"tie_word_embeddings is true, but the stored lm_head"):
        load_model(folder)
    configure(folder, tie_word_embeddings=False)
    load_model(folder)


def test_prefixes_of_torch_wrappers_are_removed(references: Path, tmp_path: Path) -> None:
    for wrapper in ("module.", "_orig_mod."):
        folder = Path(shutil.copytree(references / "gpt2", tmp_path / wrapper.strip(".")))
        arrays = load_file(folder / "model.safetensors")
        save_file({wrapper + n: a for n, a in arrays.items()}, folder / "model.safetensors")
        load_model(folder)
    save_file({"base_model.x": np.ones(3)}, folder / "model.safetensors")
    configure(folder, n_layer=1)
    with pytest.raises(InputError, match="1 layers, the weights have 0"):
        load_model(folder)


def test_tied_embeddings_may_have_the_name_of_the_head(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    right = load_model(folder).forward([[1, 2]])
    table = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    change_tensors(folder, **{"transformer.wte.weight": None, "lm_head.weight": table})
    np.testing.assert_array_equal(load_model(folder).forward([[1, 2]]), right)


def test_one_tensor_of_a_million_layers_ends_at_once(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "llama", tmp_path / "llama"))
    ones = np.ones(3, np.float32)
    for number in ("9" * 6, "9" * 5000, "٣"):
        change_tensors(folder, **{f"model.layers.{number}.self_attn.q_proj.weight": ones})
        with pytest.raises(InputError, match=r"layers, the weights have 3|does not use the tensor"):
            load_model(folder)
        shutil.copy(references / "llama" / "model.safetensors", folder)


def test_a_tensor_in_two_shards_is_refused(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "llama3", tmp_path / "llama3"))
    first, second = sorted(folder.glob("model-*.safetensors"))
    arrays = load_file(second)
    name = next(iter(load_file(first)))
    save_file(arrays | {name: np.ones(3, np.float32)}, second)
    with pytest.raises(InputError, match=f"{name!r} is stored in two shards"):
        load_model(folder)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 400, "x\0y"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises((InputError, ValueError), match=r"no model|null"):
        load_model(name)


def test_a_shard_is_opened_once(
    references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightloom.models import weights

    opened = []
    read = weights.read_safetensors
    monkeypatch.setattr(weights, "read_safetensors", lambda path: opened.append(path) or read(path))
    load_model(shutil.copytree(references / "llama3", tmp_path / "llama3"))
    assert len(opened) == 2


# --- GGUF -----------------------------------------------------------------------------------------


@pytest.fixture
def write_gguf() -> Any:
    pytest.importorskip("gguf", reason="needs the extra 'models'")
    import gguf_factory

    return gguf_factory.write_gguf


def test_biases_of_a_gguf_file_are_used(references: Path, tmp_path: Path, write_gguf: Any) -> None:
    folder = references / "variants" / "llama_biases"
    check(folder, write_gguf(tmp_path / "m.gguf", folder))


def test_a_gguf_tensor_that_nothing_uses_is_refused(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    from gguf_factory import tensors_of

    folder = references / "variants" / "llama_linear"
    for extra in ("blk.0.ffn_gate_inp.weight", "blk.1.attn_q_norm.weight", "output.bias"):
        tensors = tensors_of(folder) | {extra: np.ones((16, 16), np.float32)}
        path = write_gguf(tmp_path / "m.gguf", folder, tensors=tensors)
        with pytest.raises(InputError, match=f"does not use the tensor '{extra}'"):
            load_model(path)


@pytest.mark.parametrize(
    ("metadata", "is_linear"),
    [
        ({".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0}, True),
        ({".rope.scaling.factor": 4.0}, True),
        ({".rope.scale_linear": 4.0}, True),
        ({".rope.scaling.type": "linear", ".rope.scale_linear": 4.0}, True),
        ({".rope.scaling.type": "none", ".rope.scaling.factor": 4.0}, False),
        ({".rope.scaling.type": "linear"}, False),
        ({".rope.scaling.factor": 0.0}, False),
        ({}, False),
    ],
)
def test_rotary_scaling_is_read_as_llama_cpp_does(
    references: Path, tmp_path: Path, write_gguf: Any, metadata: dict[str, Any], is_linear: bool
) -> None:
    folder = references / "variants" / "llama_linear"
    path = write_gguf(tmp_path / "m.gguf", folder, metadata)
    if is_linear:
        check(folder, path)
    else:
        with pytest.raises(AssertionError):
            check(folder, path, atol=1e-3)


def test_rotary_factors_of_newer_llamas_are_used(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    from gguf_factory import tensors_of

    folder = references / "llama3"
    rope = json.loads((folder / "config.json").read_text())["rope_scaling"]
    wavelengths = 2 * math.pi * 500000.0 ** (np.arange(0, 20, 2) / 20)
    low, high, factor = (rope[f"{key}factor"] for key in ("low_freq_", "high_freq_", ""))
    context = rope["original_max_position_embeddings"]
    smooth = (context / wavelengths - low) / (high - low)
    factors = 1 / ((1 - smooth) / factor + smooth)
    factors[wavelengths < context / high] = 1
    factors[wavelengths > context / low] = factor
    tensors = tensors_of(folder) | {"rope_freqs.weight": factors.astype(np.float32)}
    expected = load_file(folder / "expected.safetensors")
    path = write_gguf(tmp_path / "m.gguf", folder, tensors=tensors)
    result = load_model(path).forward(expected["tokens_17"][:1])
    np.testing.assert_allclose(result, expected["output_17"][:1], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (".rope.scaling.type", "yarn"),
        (".rope.dimension_count", 2),
        (".attention.value_length", 8),
        (".attention.sliding_window", 4),
        (".expert_count", 8),
        (".attention.causal", False),
        (".logit_scale", 0.5),
        (".some_future_key", 1),
        ("general.type", "adapter"),
    ],
)
def test_an_unsupported_gguf_key_is_refused(
    references: Path, tmp_path: Path, write_gguf: Any, key: str, value: object
) -> None:
    path = write_gguf(tmp_path / "m.gguf", references / "variants" / "llama_linear", {key: value})
    with pytest.raises(InputError, match=f"{key} = {value!r}"):
        load_model(path)


def test_a_split_gguf_is_read_whole(references: Path, tmp_path: Path, write_gguf: Any) -> None:
    from gguf_factory import tensors_of

    folder = references / "variants" / "llama_biases"
    tensors = list(tensors_of(folder).items())
    half = len(tensors) // 2
    for number, part in enumerate((tensors[:half], tensors[half:])):
        write_gguf(
            tmp_path / f"m-{number + 1:05}-of-00002.gguf",
            folder,
            {"split.no": number, "split.count": 2, "split.tensors.count": len(tensors)},
            dict(part),
        )
    check(folder, tmp_path / "m-00001-of-00002.gguf")
    check(folder, tmp_path / "m-00002-of-00002.gguf")
    check(folder, tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").rename(tmp_path / "other.gguf")
    with pytest.raises(InputError, match=r"is one of 2 parts, and m-00002-of-00002\.gguf is not"):
        load_model(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(InputError, match=r"part 1 of 2 of a split model, but is not called"):
        load_model(tmp_path / "other.gguf")


def test_big_endian_floats_are_read_and_blocks_refused(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    import gguf
    from gguf_factory import tensors_of

    folder = references / "variants" / "llama_biases"
    tensors = {n: a.astype(np.float16) if a.ndim > 1 else a for n, a in tensors_of(folder).items()}
    order = {"endianess": gguf.GGUFEndian.BIG}
    check(folder, write_gguf(tmp_path / "m.gguf", folder, tensors=tensors, **order), atol=2e-2)
    check(folder, write_gguf(tmp_path / "m.gguf", folder, **order))
    raw = np.zeros((24, 34), np.uint8)
    writer = gguf.GGUFWriter(str(tmp_path / "q.gguf"), "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("x", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from lightloom.models.gguf_file import read_tensors

    with pytest.raises(InputError, match="stored as Q8_0 in big-endian order"):
        read_tensors(tmp_path / "q.gguf")[0]["x"]


def header(tensors: int, pairs: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


STRING = struct.pack("<Q", 3) + b"key"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(0, 1, STRING + struct.pack("<IIQ", 9, 8, 1 << 60)), "entries of an array"),
        (header(0, 1, STRING + struct.pack("<IIQ", 9, 0, 1 << 60)), "entries of an array"),
        (header(0, 1, STRING + struct.pack("<IIQ", 9, 9, 2)), "values of kind 9"),
        (header(1 << 62, 0, b"\0" * 4_000_000), "tensors"),
        (header(0, 1 << 62, b"\0" * 4_000_000), "entries of metadata"),
        (header(0, 1, struct.pack("<Q", 1 << 63) + b"\0" * 8), "bytes of a string"),
        (header(1, 0, STRING + struct.pack("<I", 1 << 31) + b"\0" * 24), "axes"),
        (header(1, 0, STRING + struct.pack("<IQQQ", 2, 1 << 31, 1 << 31, 0)), "values in"),
        (header(0, 1, STRING + struct.pack("<I", 99)), "values of kind 99"),
        (b"", "begin with GGUF"),
        (b"GGU", "begin with GGUF"),
    ],
)
def test_counts_of_a_gguf_header_are_bounded_by_its_bytes(
    tmp_path: Path, content: bytes, words: str
) -> None:
    pytest.importorskip("gguf", reason="needs the extra 'models'")
    (tmp_path / "m.gguf").write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(InputError, match=words):
        load_model(tmp_path / "m.gguf")
    assert time.perf_counter() - start < 2  # it took 48 s or longer when counts were not checked


# --- tokens ---------------------------------------------------------------------------------------

WORDS = ["a", "b", "c", "ab", "abc", "<s>", "</s>", "<think>", "<|eot_id|>"]
TYPES = [1, 1, 1, 1, 1, 3, 3, 4, 3]
BEGIN, END, THINK = 5, 6, 7


@pytest.mark.parametrize(
    ("metadata", "text", "tokens"),
    [
        ({}, "abc", [3, 2]),  # joined by the only merge
        ({"tokenizer.ggml.add_bos_token": True}, "abc", [BEGIN, 3, 2]),
        ({"tokenizer.ggml.add_eos_token": True}, "abc", [3, 2, END]),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "abc", [BEGIN, 4]),  # a whole word is looked up
        ({"tokenizer.ggml.pre": "llama3"}, "abc", [BEGIN, 4]),
        (
            {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False},
            "abc",
            [4],
        ),
        ({}, "a<think>b", [0, THINK, 1]),
        ({"tokenizer.ggml.pre": "qwen2"}, "abc<|eot_id|>", [3, 2, 8]),
    ],
)
def test_tokens_of_a_gguf_file_are_those_of_llama_cpp(
    references: Path,
    tmp_path: Path,
    write_gguf: Any,
    metadata: dict[str, Any],
    text: str,
    tokens: list[int],
) -> None:
    ids = {"tokenizer.ggml.bos_token_id": BEGIN, "tokenizer.ggml.eos_token_id": END}
    path = write_gguf(
        tmp_path / "m.gguf",
        references / "variants" / "llama_linear",
        ids | metadata,
        tokens=WORDS,
        types=TYPES,
        merges=["a b"],
    )
    model = load_model(path)
    assert model.tokenizer.encode(text) == tokens
    assert model.tokenizer.decode([THINK, 0]) == "<think>a"  # it is text; control tokens are not
    assert model.tokenizer.decode([BEGIN, 0]) == "a"


def test_text_without_a_named_splitting_is_split_as_llama_cpp_does(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    # "default" is not GPT-2's: punctuation by itself, digits by three
    words = [*"0123456789.", "12", "34", "45", "123", "a", "!", "Ġ"]
    path = write_gguf(
        tmp_path / "m.gguf",
        references / "variants" / "llama_linear",
        tokens=words,
        merges=["1 2", "3 4", "4 5", "12 3"],
    )
    pieces = [words[token] for token in load_model(path).tokenizer.encode("12345.!")]
    assert pieces == ["123", "45", ".", "!"]


def test_a_token_that_occurs_twice_is_refused(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    folder = references / "variants" / "llama_linear"
    path = write_gguf(tmp_path / "m.gguf", folder, tokens=["a", "b", "a"])
    with pytest.raises(InputError, match="token 'a' occurs twice"):
        load_model(path).tokenizer.encode("a")


def test_known_control_tokens_need_no_type(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    # early files of Llama 3 have no types; llama.cpp knows these tokens by their text
    path = write_gguf(
        tmp_path / "m.gguf",
        references / "variants" / "llama_linear",
        tokens=WORDS,
        merges=["a b"],
    )
    model = load_model(path)
    assert model.tokenizer.encode("a<|eot_id|>b") == [0, 8, 1]
    assert model.tokenizer.decode([0, 8]) == "a"


def test_a_tokenizer_of_another_model_beside_a_gguf_file_is_refused(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    folder = references / "variants" / "llama_linear"
    path = write_gguf(tmp_path / "m.gguf", folder, tokens=WORDS, merges=["a b"])
    shutil.copy(references / "variants" / "sentence" / "tokenizer.json", tmp_path)
    with pytest.raises(InputError, match=r"is not the tokenizer of m\.gguf beside it"):
        load_model(path).tokenizer.encode("a")


def test_a_broken_vocabulary_is_one_sentence(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    from lightloom.models.gguf_tokens import gguf_tokenizer

    folder = references / "variants" / "llama_linear"
    path = write_gguf(tmp_path / "m.gguf", folder, merges=["ab"])
    with pytest.raises(InputError, match="merge 'ab' is not a pair"):
        load_model(path).tokenizer.encode("a")
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"]}
    metadata |= {"tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.token_type": [1, 1]}
    with pytest.raises(InputError, match="2 types of tokens are too few for 9 tokens"):
        gguf_tokenizer(metadata, path)


def test_a_gguf_file_is_recognised_by_its_content(
    references: Path, tmp_path: Path, write_gguf: Any
) -> None:
    folder = references / "variants" / "llama_biases"
    path = write_gguf(tmp_path / "m.gguf", folder)
    check(folder, Path(shutil.copy(path, tmp_path / "sha256-0123")))
    path.rename(tmp_path / "M.GGUF")
    check(folder, tmp_path)


def test_a_text_ends_where_its_file_says() -> None:
    key = "tokenizer.ggml.{}_token_id".format
    words = ["a", "<|eot_id|>", "b", "c", "<|eom_id|>", "d"]
    metadata = {"tokenizer.ggml.tokens": words, key("eos"): 0, key("eot"): 2, key("eom"): 3}
    assert gguf_end_tokens(metadata) == {0, 1, 2, 3, 4}
    metadata = {"tokenizer.ggml.tokens": ["<|end|>", "<|return|>", "<|call|>"], key("eos"): 1}
    assert gguf_end_tokens(metadata) == {1, 2}
    assert gguf_end_tokens({"tokenizer.ggml.tokens": ["a"], key("eos"): 9}) == frozenset()


def test_end_tokens_of_generation_config_come_first(references: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))
    configure(folder, eos_token_id=7)
    assert load_model(folder).generation.ends == {7}
    configure(folder, "generation_config.json", temperature=0.6)
    assert load_model(folder).generation.ends == {7}
    configure(folder, "generation_config.json", eos_token_id=[8, 9])
    assert load_model(folder).generation.ends == {8, 9}
    glimmer = load_model("glimmer")
    folder = Path(shutil.copytree(glimmer.source, tmp_path / "glimmer"))
    first = int(glimmer.forward([[1, 2]])[0, -1].argmax())
    configure(folder, "generation_config.json", eos_token_id=first)
    assert list(load_model(folder).generate([1, 2])) == []  # the very first token ends it
    assert list(glimmer.generate([1, 2], max_tokens=1)) != []


@pytest.mark.parametrize(
    ("settings", "text", "tokens"),
    [
        # as AutoTokenizer of transformers 5.24: what stands around a text is in tokenizer.json
        ({}, "a", [2, 4, 3]),
        ({"add_bos_token": True, "bos_token": "[CLS]"}, "a", [2, 4, 3]),
        ({"add_bos_token": False, "add_eos_token": True, "eos_token": "[SEP]"}, "a", [2, 4, 3]),
        ({"split_special_tokens": True}, "[UNK]", [2, 1, 1, 1, 3]),
        ({"additional_special_tokens": ["<x>"]}, "a<x>", [2, 4, 14, 3]),
        ({"added_tokens_decoder": {"14": {"content": "<x>"}}}, "a<x>", [2, 4, 14, 3]),
        ({"pad_token": {"content": "<pad>"}}, "<pad>", [2, 14, 3]),
    ],
)
def test_tokenizer_config_is_applied_as_in_transformers(
    variant: Any, settings: dict[str, Any], text: str, tokens: list[int]
) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_model(folder).tokenizer.encode(text) == tokens


@pytest.mark.parametrize(
    ("settings", "is_lower"),
    [
        ({}, True),
        ({"do_lower_case": False}, False),
        ({"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, False),
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, True),
    ],
)
def test_letters_are_made_lower_as_transformers_does(
    variant: Any, settings: dict[str, Any], is_lower: bool
) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "BertNormalizer", "lowercase": True, "clean_text": True}
    document["normalizer"] |= {"handle_chinese_chars": True, "strip_accents": None}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_model(folder).tokenizer.encode("Cat") == [2, 6 if is_lower else 1, 3]


def test_a_token_of_another_number_is_refused(variant: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    configure(folder, "tokenizer_config.json", added_tokens_decoder={"5": {"content": "<x>"}})
    with pytest.raises(InputError, match=r"token '<x>' is number 5, but 14 in tokenizer\.json"):
        load_model(folder).tokenizer.encode("a")


def test_generation_settings_that_are_not_applied_are_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(load_model("glimmer").source, tmp_path / "glimmer"))
    configure(folder, "generation_config.json", repetition_penalty=1.1, num_beams=1, top_k=20)
    with pytest.warns(UserWarning, match=r"ask for repetition_penalty = 1\.1, which lightloom"):
        next(load_model(folder).generate([1, 2], max_tokens=1), None)


def test_an_added_token_beyond_the_embedding_is_refused_when_it_is_used(variant: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    document = json.loads((folder / "tokenizer.json").read_text())
    added = {"id": 40, "content": "[NEW]", "special": True, "normalized": False}
    words = document["model"]["vocab"]
    words |= {f"word{number}": number for number in range(len(words), 40)}
    document["added_tokens"].append(
        added | {"single_word": False, "lstrip": False, "rstrip": False}
    )
    (folder / "tokenizer.json").write_text(json.dumps(document))
    model = load_model(folder)
    assert model.embed(["a cat"]).shape == (1, 16)
    with pytest.raises(InputError, match="tokens run from 2 to 40, but the vocabulary"):
        model.embed(["a [NEW]"])


# --- sentences ------------------------------------------------------------------------------------


def modules_of(folder: Path, *names: str, pooling: dict[str, Any]) -> None:
    """Write a modules.json of an encoder, a pooling, and the named modules."""
    kinds = {"dense": "Dense", "relu": "Dense", "norm": "LayerNorm", "unit": "Normalize"}
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    parts += [(name, kinds.get(name, name)) for name in names]
    (folder / "modules.json").write_text(
        json.dumps([{"path": p, "type": f"sentence_transformers.models.{k}"} for p, k in parts])
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def old_pooling(modes: list[str]) -> dict[str, Any]:
    names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
    names |= {"weightedmean": "weightedmean_tokens"}
    return {f"pooling_mode_{names.get(mode, mode)}": True for mode in modes}


@pytest.mark.parametrize("is_old", [False, True])
def test_modules_of_sentence_transformers_are_run(
    variant: Any, references: Path, is_old: bool
) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    expected = json.loads((folder / "expected.json").read_text())
    for chain, right in expected["embeddings"].items():
        modes, *names = chain.split()
        pooling = {"pooling_mode": modes.split("+")}
        modules_of(folder, *names, pooling=old_pooling(modes.split("+")) if is_old else pooling)
        found = load_model(folder).embed(expected["sentences"])
        wanted = np.array(right) / np.linalg.norm(right, axis=1, keepdims=True)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6, err_msg=chain)


def test_a_dense_module_goes_through_the_mock(variant: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    modules_of(folder, "dense", pooling={"pooling_mode": "mean"})
    model = load_model(folder)
    exact, light = (
        model.embed(["the cat sits ."], backend, "all-optical") for backend in (None, "mock")
    )
    assert exact.shape == light.shape == (1, 6)
    assert 0.9 < float(exact[0] @ light[0]) < 1 - 1e-7
    assert model.whole_program.matmuls[-1].name == "head.0.dense"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("CNN",)}, r"module 'sentence_transformers\.models\.CNN' \(CNN\)"),
        ({"pooling": {"pooling_mode": "median"}}, "pooling.*median"),
        ({"pooling": {"pooling_mode_nothing": True}}, "pooling_mode_nothing"),
        ({"names": ("dense",), "dense": {"activation_function": "mine.Swish"}}, "mine.Swish"),
        ({"names": ("dense",), "dense": {"use_residual": True}}, "use_residual = True"),
        ({"names": ("dense",), "dense": {"out_features": 7}}, "has shape"),
        ({"names": ("dense",), "dense": {"bias": False}}, "does not use the tensor"),
        ({"names": ("dense",), "dense": {"in_features": 17}}, r"takes 17 values .* receives 16"),
        ({"names": ("unit",), "unit": {"module_output_name": "x"}}, "module_output_name = 'x'"),
        ({"pooling": {}}, "pooling None"),
        ({"pooling": {"pooling_mode": None}}, "pooling None"),
        ({"encoder": {"tokenizer_args": {"model_max_length": 4}}}, "tokenizer_args = "),
        ({"encoder": {"transformer_task": "fill-mask"}}, "transformer_task = 'fill-mask'"),
        ({"around": {"truncate_dim": "all"}}, "truncate_dim = 'all'"),
        ({"around": {"default_prompt_name": "query"}}, "'query' is not among its prompts"),
    ],
)
def test_unsupported_modules_after_an_encoder_are_refused(
    variant: Any, change: dict[str, Any], words: str
) -> None:
    folder = variant("sentence")
    modules_of(
        folder, *change.get("names", ()), pooling=change.get("pooling", {"pooling_mode": "cls"})
    )
    (folder / "unit").mkdir()
    for name in ("dense", "unit"):
        configure(folder / name, **change.get(name, {}))
    configure(folder, "sentence_bert_config.json", **change.get("encoder", {}))
    if "around" in change:
        configure(folder, "config_sentence_transformers.json", **change["around"])
    with pytest.raises(InputError, match=words):
        load_model(folder)


def test_modules_of_other_authors_are_refused(variant: Any) -> None:
    folder = variant("sentence")
    modules_of(folder, pooling={"pooling_mode": "mean"})
    text = (folder / "modules.json").read_text()
    text = text.replace("sentence_transformers.models.Pooling", "mine.Pooling")
    (folder / "modules.json").write_text(text)
    with pytest.raises(InputError, match=r"module 'mine\.Pooling' \(1_Pooling\) is not computed"):
        load_model(folder)


def test_an_embedding_is_cut_as_its_authors_say(variant: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    whole = load_model(folder).embed(["a cat"])
    configure(folder, "config_sentence_transformers.json", truncate_dim=4)
    found = load_model(folder).embed(["a cat"])
    cut = whole[:, :4] / np.linalg.norm(whole[:, :4])
    np.testing.assert_allclose(found, cut, rtol=0, atol=1e-6)
    assert load_model(folder).embed([]).shape == (0, 4)


def test_an_encoder_in_a_folder_of_its_own_is_read(variant: Any) -> None:
    # as sentence-transformers wrote until 2021: 0_Transformer beside modules.json
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    modules_of(folder, "dense", pooling={"pooling_mode": "cls"})
    right = load_model(folder).embed(["a cat"])
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    text = (folder / "modules.json").read_text().replace('"path": ""', '"path": "0_Transformer"', 1)
    (folder / "modules.json").write_text(text)
    np.testing.assert_array_equal(load_model(folder).embed(["a cat"]), right)


def test_prompts_and_lower_case_are_put_before_the_tokenizer(variant: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("sentence")
    plain = load_model(folder).embed(["a cat rests ."])
    configure(folder, "sentence_bert_config.json", do_lower_case=True)
    np.testing.assert_array_equal(load_model(folder).embed(["A CAT rests ."]), plain)
    assert load_model(folder).tokenizer.encode("A [UNK]") == [2, 4, 1, 3]  # special ones stay
    configure(
        folder,
        "config_sentence_transformers.json",
        prompts={"query": "a cat "},
        default_prompt_name="query",
    )
    np.testing.assert_array_equal(load_model(folder).embed(["rests ."]), plain)


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std = .* is not above 0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean = .* is not 3 finite numbers"),
        ({"rescale_factor": "much"}, "rescale_factor = 'much'"),
        ({"do_normalize": "yes"}, "do_normalize = 'yes' is neither true nor false"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order = True is not computed"),
    ],
)
def test_invalid_pixel_settings_are_refused(
    variant: Any, changes: dict[str, Any], words: str
) -> None:
    folder = variant("vit_unrescaled")
    configure(folder, "preprocessor_config.json", **({"do_rescale": True} | changes))
    inputs = load_file(folder / "expected.safetensors")["inputs"]
    with pytest.raises(InputError, match=words):
        load_model(folder).forward(inputs)


def test_pixels_of_another_processor_need_its_numbers(variant: Any) -> None:
    folder = variant("vit_unrescaled")
    inputs = load_file(folder / "expected.safetensors")["inputs"]
    settings = {"image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"image_mean and image_std are missing.* of a CLIPImage"):
        load_model(folder).forward(inputs)
    other = variant("vit_unnormalised")
    right = load_model(other).forward(inputs)
    (folder / "preprocessor_config.json").unlink()
    shutil.copy(other / "model.safetensors", folder)
    configure(folder, "processor_config.json", image_processor={"do_normalize": False})
    np.testing.assert_array_equal(load_model(folder).forward(inputs), right)


# --- published settings ---------------------------------------------------------------------------

PARAMETERS = {  # as published, without poolers
    "gpt2": 124_439_808,
    "bert-base-uncased": 109_514_298,  # a masked language model
    "vit-base-patch16-224": 86_567_656,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "mistral-7b-v0.1": 7_241_732_096,
    "qwen2-1.5b-instruct": 1_543_714_304,
    "smollm2-135m-instruct": 134_515_008,
    "all-minilm-l6-v2": 22_713_216 - 384 * 385,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_settings_give_the_published_number_of_parameters(
    references: Path, name: str
) -> None:
    model = model_or_shape(str(references / "published" / name))
    shapes = model.whole_program.weight_shapes.values()
    assert sum(math.prod(shape) for shape in shapes) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "parameters", "ends"),
    [
        ("smollm2-135m-instruct", 134_515_008, {0, 2, 4}),
        ("llama-3.1-8b-instruct", 8_030_261_248 + 64, {128001, 128008, 128009}),
        ("qwen2-1.5b-instruct", 1_543_714_304, {151643, 151645}),
        ("llama-2-7b", 6_738_415_616, {2}),
        ("mistral-7b-v0.1", 7_241_732_096, {2}),
    ],
)
def test_published_gguf_headers_are_read(
    references: Path, name: str, parameters: int, ends: set[int]
) -> None:
    from lightloom.models import gguf_file
    from lightloom.models.families import llama

    document = json.loads((references / "published" / name / "gguf_header.json").read_text())
    words = [f"word {number}" for number in range(document["vocabulary"])]
    for number, word in document["special"].items():
        words[int(number)] = word
    metadata = document["metadata"] | {"tokenizer.ggml.tokens": words}
    kind = metadata["general.architecture"]
    is_tied = name.startswith(("smollm2", "qwen2"))
    read = gguf_file.config_document(metadata, kind, {} if is_tied else {"lm_head.weight": None})
    config = llama.read_config(
        read,
        biases=frozenset("qkv") if kind == "qwen2" else frozenset(),
        has_rotary_factors=name.startswith("llama-3"),
    )
    shapes = llama.program(config, "logits").weight_shapes.values()
    assert sum(math.prod(shape) for shape in shapes) == parameters
    assert gguf_end_tokens(metadata) == ends


# --- copies ---------------------------------------------------------------------------------------


def test_a_model_can_be_copied_and_sent_to_another_process(references: Path) -> None:
    for model in (load_model(), load_model(references / "gpt2"), load_model("glimmer")):
        data = [[1, 2, 3]] if model.task == "language" else np.zeros((1, 1, 8, 8), np.float32)
        right = model.forward(data)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other is not model and other.name == model.name
            np.testing.assert_array_equal(other.forward(data), right)


def test_shapes_and_random_weights_can_be_copied() -> None:
    model = with_random_weights(sized_model(16, 1, vocabulary=32, context=8), seed=3)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.forward([[1, 2]]), model.forward([[1, 2]]))


def test_calls_of_a_long_decoding_take_no_memory() -> None:
    from collections import Counter

    from lightloom.scheduler.graph import CallLog

    log, right = CallLog(), Counter()
    chance = np.random.default_rng(3)
    for _ in range(50):
        count = int(chance.integers(1, 9))
        for batch in (4, 3, 4):  # parts of a batch, one after another
            log.count({"batch": batch, "new": count, "past": 0})
            right[batch, count, 0] += 1
        for past in range(count, count + int(chance.integers(0, 200))):
            for batch in (4, 3, 4):
                log.count({"batch": batch, "new": 1, "past": past})
                right[batch, 1, past] += 1
    log.count({})
    found: Counter[Any] = Counter()
    for sizes, times in log:
        found[tuple(sizes.values()) or None] += times
    assert found.pop(None) == 1 and found == right
    model = load_model("glimmer")
    list(model.generate([1], max_tokens=60))
    records = model.executor().records
    sizes = {name: len(pickle.dumps(r.log)) for name, r in records.items()}
    assert max(sizes.values()) < 400  # 12 kB a token, of all steps, where each call was kept
