"""Broken weights, tokenizers and configurations: one sentence that names what and where."""

import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.models.weights import read_safetensors
from safetensors.numpy import load_file, save_file


@pytest.fixture
def gpt2(references: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(references / "gpt2", tmp_path / "gpt2"))


def configure(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | changes))


def test_float_types_are_read_alike(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.25], [0.0, 1024.0]], dtype=np.float32)
    for kind in (np.float64, np.float32, np.float16):
        save_file({"a": values.astype(kind)}, tmp_path / "w.safetensors")
        read = read_safetensors(tmp_path / "w.safetensors")["a"]
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values)


def test_float32_is_not_copied(tmp_path: Path) -> None:
    save_file({"a": np.ones((100, 100), dtype=np.float32)}, tmp_path / "w.safetensors")
    array = read_safetensors(tmp_path / "w.safetensors")["a"]
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_truncated_weights_are_refused(gpt2: Path, keep: int) -> None:
    path = gpt2 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors is not a complete safetensors file"):
        load_model(gpt2)


def test_a_corrupt_header_is_refused(gpt2: Path) -> None:
    path = gpt2 / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model(gpt2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["transformer.wte.weight", "transformer.h.1.mlp.c_fc.bias"])
def test_weights_that_are_not_finite_are_named(gpt2: Path, name: str, bad: float) -> None:
    arrays = load_file(gpt2 / "model.safetensors")
    arrays[name].flat[3] = bad
    save_file(arrays, gpt2 / "model.safetensors")
    part = name.removeprefix("transformer.")
    with pytest.raises(InputError, match=f"{part}.*NaN or infinite"):
        load_model(gpt2).forward([[1, 2]])


@pytest.mark.parametrize(
    "name",
    [
        "wte.weight",
        "wpe.weight",
        "ln_f.weight",
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_attn.bias",
        "h.1.mlp.c_proj.bias",
        "h.1.ln_2.bias",
    ],
)
def test_weights_of_another_shape_are_refused(gpt2: Path, name: str) -> None:
    arrays = load_file(gpt2 / "model.safetensors")
    whole = arrays[f"transformer.{name}"]
    arrays[f"transformer.{name}"] = np.ascontiguousarray(whole[..., :-1])
    save_file(arrays, gpt2 / "model.safetensors")
    with pytest.raises(InputError, match="do not match"):
        load_model(gpt2).forward([[1, 2]])


def test_missing_tensor_and_missing_shard(gpt2: Path, references: Path, tmp_path: Path) -> None:
    arrays = load_file(gpt2 / "model.safetensors")
    del arrays["transformer.h.0.ln_1.bias"]
    save_file(arrays, gpt2 / "model.safetensors")
    with pytest.raises(InputError, match=r"'h\.0\.ln_1\.bias' is missing"):
        load_model(gpt2).forward([[1]])
    shards = Path(shutil.copytree(references / "llama3", tmp_path / "shards"))
    next(shards.glob("model-*.safetensors")).unlink()
    with pytest.raises(InputError, match="names the shard"):
        load_model(shards)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="is a pickle"):
        load_model(tmp_path / name)


def test_a_folder_of_pickles_is_refused(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    with pytest.raises(InputError, match="only pickled weights"):
        load_model(gpt2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' is an architecture that lightloom does not support"),
        ({"model_type": None}, "None is an architecture"),
        ({"n_head": 7}, "does not divide into 7 heads"),
        ({"n_head": 0}, "n_head = 0"),
        ({"n_embd": "wide"}, "n_embd = 'wide'"),
        ({"activation_function": "sine"}, "activation_function = 'sine'"),
    ],
)
def test_invalid_configurations_are_refused(
    gpt2: Path, changes: dict[str, object], message: str
) -> None:
    configure(gpt2, **changes)
    with pytest.raises(InputError, match=message):
        load_model(gpt2)


def test_missing_keys_and_broken_json(gpt2: Path) -> None:
    document = json.loads((gpt2 / "config.json").read_text())
    del document["n_layer"]
    (gpt2 / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="n_layer is missing"):
        load_model(gpt2)
    (gpt2 / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_model(gpt2)
    (gpt2 / "config.json").unlink()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_model(gpt2)


def test_no_such_model() -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_model("no/such/model")
    with pytest.raises(InputError, match="that come with lightloom are digits"):
        load_model("dogits")


def test_a_tokenizer_too_large_for_the_embedding(gpt2: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    words = {f"w{i}": i for i in range(200)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    inner.save(str(gpt2 / "tokenizer.json"))
    with pytest.raises(InputError, match="up to 199, but the embedding of 'gpt2' has 97 rows"):
        next(load_model(gpt2).generate("w1"))
    (gpt2 / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        next(load_model(gpt2).generate("w1"))
    (gpt2 / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        next(load_model(gpt2).generate("w1"))


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the extra 'models'")
    for content in (b"", b"GGUF", b"GGUF" + bytes(100), b"nonsense" * 100):
        (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(InputError, match=r"m\.gguf"):
            load_model(tmp_path / "m.gguf")


def test_inputs_that_a_model_cannot_take(references: Path) -> None:
    model = load_model(references / "gpt2")
    for tokens, message in (
        ([[1, 97]], "vocabulary"),
        ([[-1]], "vocabulary"),
        ([[0.5]], "integers"),
        ([1, 2], "integers"),
        (np.zeros((0, 3), dtype=int), "integers"),
        ([[1] * 65], "more than the context"),
    ):
        with pytest.raises(InputError, match=message):
            model.forward(tokens)
    with pytest.raises(InputError, match="lengths"):
        model.forward([[1, 2]], lengths=[3])
    with pytest.raises(InputError, match="cannot embed"):
        model.embed(["a"])
    vit = load_model(references / "vit")
    with pytest.raises(InputError, match="do not fit"):
        vit.forward(np.zeros((1, 3, 8, 8)))
    images = np.zeros((1, 3, 12, 12))
    images[0, 1, 2, 3] = np.nan
    for backend in (None, "mock"):
        with pytest.raises(InputError, match="not finite"):
            vit.forward(images, backend=backend)


def test_a_lent_weight_is_not_kept(tmp_path: Path) -> None:
    # a weight that goes to light would otherwise stay in memory twice
    values = np.arange(6, dtype=np.float16).reshape(3, 2)
    save_file({"a": values}, tmp_path / "w.safetensors")
    weights = read_safetensors(tmp_path / "w.safetensors")
    with weights.lend("a") as array:
        np.testing.assert_array_equal(array, values)
        lent = weakref.ref(array)
    del array
    gc.collect()
    assert lent() is None
    kept = weights["a"]
    with weights.lend("a") as array:
        assert array is kept


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_rows_of_a_table_are_those_of_the_whole(tmp_path: Path, kind: type) -> None:
    values = np.arange(12, dtype=kind).reshape(6, 2) / 4
    save_file({"a": values}, tmp_path / "w.safetensors")
    weights = read_safetensors(tmp_path / "w.safetensors")
    table, tokens = weights.table("a"), np.array([[5, 0, 5], [1, 1, 2]])
    for _ in range(2):
        rows = table[tokens]
        np.testing.assert_array_equal(rows, values[tokens])
        assert rows.dtype == np.float32
        rows += 1  # of a copy: a host step adds positions to them
        assert weights["a"].shape == (6, 2)  # the second time, rows of the kept copy


def test_rows_of_a_table_that_are_not_finite_are_named(tmp_path: Path) -> None:
    save_file({"a": np.array([[1.0], [np.nan]], dtype=np.float16)}, tmp_path / "w.safetensors")
    table = read_safetensors(tmp_path / "w.safetensors").table("a")
    assert table[np.array([0])] == 1
    with pytest.raises(InputError, match="tensor 'a' holds NaN"):
        table[np.array([0, 1])]


def test_a_digest_depends_on_every_byte_the_type_and_the_shape(tmp_path: Path) -> None:
    # equal digests of different weights would take ranges of another model from the cache
    values = np.zeros((2, 3), dtype=np.float16)
    variants = {"same": values, "again": values, "shape": values.reshape(3, 2)}
    variants["type"] = values.astype(np.float32)
    for place in range(values.size):
        variants[f"byte {place}"] = values.copy()
        variants[f"byte {place}"].flat[place] = 6e-8
    save_file(variants, tmp_path / "w.safetensors")
    weights = read_safetensors(tmp_path / "w.safetensors")
    digests = {name: weights.digest(name) for name in variants}
    assert digests.pop("same") == digests["again"]
    assert len(set(digests.values())) == len(digests)
