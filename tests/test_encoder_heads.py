"""Encoders with a head, RoBERTa and DistilBERT: against stored outputs of transformers.

If these fail, a checkpoint of another task loads and gives numbers that are not its own.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import called
from lightloom.instruments import InputError
from lightloom.models import Model, load_model
from lightloom.models.shapes import model_or_shape
from lightloom.scheduler.runs import plan
from safetensors.numpy import load_file, save_file

HEADS = {
    "bert_words": "masked language model",
    "bert_classes": "sequence classification",
    "roberta_words": "masked language model",
    "xlm_roberta_tags": "token classification",
    "distilbert_classes": "sequence classification",
}


@pytest.fixture
def variant(references: Path, tmp_path: Path) -> Any:
    """Copy a model of references/variants, with the tokenizer of another one, to be changed."""

    def copied(name: str, **keys: object) -> Path:
        source = references / "variants"
        folder = Path(shutil.copytree(source / name, tmp_path / name))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / "sentence" / file, folder)
        path = folder / "config.json"
        document = json.loads(path.read_text(encoding="utf-8")) | keys
        path.write_text(json.dumps(document), encoding="utf-8")
        return folder

    return copied


def change_tensors(folder: Path, **changes: np.ndarray | None) -> None:
    arrays = load_file(folder / "model.safetensors") | changes
    kept = {name: array for name, array in arrays.items() if array is not None}
    save_file(kept, folder / "model.safetensors")


def compared(model: Model, folder: Path, backend: str | None = None) -> tuple[Any, Any]:
    """Return found and expected outputs at valid tokens."""
    expected = load_file(folder / "expected.safetensors")
    lengths, right = expected["lengths"], expected["output"]
    found = model.forward(expected["inputs"], lengths, backend=backend, placement="all-optical")
    assert found.shape == right.shape
    if found.ndim == 2:
        return found, right
    mask = np.arange(found.shape[1]) < lengths[:, None]
    return found[mask], right[mask]


@pytest.mark.parametrize("name", HEADS)
def test_logits_equal_those_of_transformers(references: Path, name: str) -> None:
    folder = references / "variants" / name
    model = load_model(folder)
    assert model.head == HEADS[name]
    np.testing.assert_allclose(*compared(model, folder), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_an_ideal_bench_changes_nothing(references: Path, name: str) -> None:
    folder = references / "variants" / name
    found = compared(load_model(folder), folder, "mock:ideal")
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("roberta_words", {"pad_token_id": 0}),
        ("bert_words", {"hidden_act": "relu"}),
        ("distilbert_classes", {"activation": "relu"}),
        ("xlm_roberta_tags", {"layer_norm_eps": 0.1}),
    ],
)
def test_a_changed_key_changes_the_numbers(variant: Any, name: str, keys: Any) -> None:
    # otherwise the comparison above could not detect that a key is ignored
    folder = variant(name, **keys)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*compared(load_model(folder), folder), rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*not used, of heads for other tasks")
@pytest.mark.parametrize("classes", [["BertModel"], None, [], ["BertForQuestionAnswering"]])
def test_other_classes_give_hidden_states(variant: Any, classes: Any) -> None:
    model = load_model(variant("bert_words", architectures=classes))
    assert model.head == "" and model.forward([[2, 5, 3]]).shape == (1, 3, 16)


def test_an_encoder_of_sentences_has_no_head(variant: Any) -> None:
    # modules.json says what follows the hidden states, whatever class was saved with them
    folder = variant("bert_words")
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for kind, path in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.warns(UserWarning, match=r"not used, of heads for other tasks: cls\.predictions"):
        model = load_model(folder)
    assert model.head == "" and plan(model, "digital").task == "embed"


# --- files that do not match ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("bert_words", {"architectures": ["BertForTokenClassification"]}, r"holds no classifier\."),
        ("distilbert_classes", {"architectures": ["DistilBertForMaskedLM"]}, "no vocab_transform"),
        ("bert_classes", {"id2label": {"0": "no"}}, r"'classifier.weight' has shape \[3, 16\]"),
        ("bert_classes", {"num_labels": 0, "id2label": None}, "num_labels = 0 is not a number"),
        ("bert_classes", {"architectures": "BertForMaskedLM"}, "architectures = 'BertForMaskedLM'"),
        ("bert_words", {"tie_word_embeddings": False}, "holds no cls.predictions.decoder.weight"),
        ("roberta_words", {"pad_token_id": 31}, "= 32 leaves no position after .* = 31"),
        ("roberta_words", {"pad_token_id": None}, "pad_token_id = None"),
        ("roberta_words", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("distilbert_classes", {"n_heads": 3}, "16 does not divide into 3 heads"),
        ("distilbert_classes", {"hidden_size": 24}, "hidden_size = 24 and dim = 16 are one"),
        ("distilbert_classes", {"n_layers": 3}, "3 layers, the weights have 2"),
        ("distilbert_classes", {"model_type": "bert"}, "activation = .gelu. is unknown"),
        ("qwen3", {"model_type": "llama"}, "does not use the tensors .*norm"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "type 'yarn'"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias = true: .* 'qwen3' has no such bias"),
        ("qwen3", {"head_dim": 4}, r"has shape \[32, 16\], the configuration needs \[16, 16\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(
    variant: Any, tmp_path: Path, name: str, keys: Any, words: str
) -> None:
    folder = variant(name, **keys)
    with pytest.raises(InputError, match=words):
        load_model(folder)
    ended = called(tmp_path, "run", "--model", folder, "--sentence", "a cat")
    assert ended.returncode == 2 and ended.stdout == ""
    assert "Traceback" not in ended.stderr and len(ended.stderr.strip().split("\n\n")) == 1


def test_stored_copies_of_tied_tensors_must_agree(variant: Any) -> None:
    folder = variant("roberta_words")
    arrays = load_file(folder / "model.safetensors")
    table = arrays["roberta.embeddings.word_embeddings.weight"]
    copies = {"lm_head.decoder.weight": table, "lm_head.decoder.bias": arrays["lm_head.bias"]}
    change_tensors(folder, **copies)
    np.testing.assert_allclose(*compared(load_model(folder), folder), rtol=0, atol=1e-5)
    change_tensors(folder, **{"lm_head.bias": None})  # only the copy is there
    np.testing.assert_allclose(*compared(load_model(folder), folder), rtol=0, atol=1e-5)
    for name in copies:
        change_tensors(folder, **{"lm_head.bias": arrays["lm_head.bias"]}, **copies)
        change_tensors(folder, **{name: copies[name] + 1})
        with pytest.raises(InputError, match=rf"true, but the stored {name} is not"):
            load_model(folder)


# --- sentences ------------------------------------------------------------------------------------

SENTENCES = ["a cat sits .", "the dog runs , a kitten rests", "a cat"]


@pytest.mark.parametrize("name", HEADS)
def test_sentences_are_classified_alone_as_beside_others(variant: Any, name: str) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    model = load_model(variant(name))
    together = model.classify(SENTENCES)
    tokens = [model.tokenizer.encode(text) for text in SENTENCES]
    for text, ids, found in zip(SENTENCES, tokens, together, strict=True):
        right = model.forward([ids])[0].argmax(axis=-1)
        np.testing.assert_array_equal(found, right)
        np.testing.assert_array_equal(model.classify([text])[0], found)
    assert model.embed(SENTENCES).shape == (3, 16)  # the mean of hidden states, as before


def test_a_run_labels_sentences(variant: Any, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    folder = variant("xlm_roberta_tags", id2label={str(n): f"TAG{n}" for n in range(5)})
    arguments = [word for text in SENTENCES for word in ("--sentence", text)]
    ended = called(tmp_path, "run", "--model", folder, *arguments, "--json")
    report = json.loads(ended.stdout)
    assert report["task"] == "label" and report["throughput"]["unit"] == "sentences per second"
    assert report["quality"]["metric"] == "agreement with digital"
    assert report["quality"]["digital"] == 1 and report["quality"]["optical"] > 0.5
    labels = report["results"]["labels"]
    assert [len(each) for each in labels] == [6, 9, 4]  # with the tokens around each sentence
    assert {label[:3] for each in labels for label in each} == {"TAG"}
    shown = called(tmp_path, "run", "--model", folder, *arguments)
    assert "Labels of the sentences" in shown.stdout and "agreement with digital" in shown.stdout


@pytest.mark.parametrize("name", ["xlm_roberta_tags", "roberta_words", "bert_classes"])
def test_a_sweep_compares_labels(variant: Any, tmp_path: Path, name: str) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    light = ("--light", "1e2,1e6", "--workers", 0, "--json")
    ended = called(tmp_path, "sweep", "--model", variant(name), "--text", "text.txt", *light)
    assert ended.returncode == 0, ended.stderr
    found = [point["quality"]["optical"] for point in json.loads(ended.stdout)["points"]]
    assert 0 <= found[0] <= found[1] <= 1


def test_a_masked_language_model_labels_with_words(variant: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    model = load_model(variant("bert_words"))
    assert [model.class_name(number) for number in (6, 39)] == ["cat", "token 39"]


def test_a_run_of_labels_is_resumed(variant: Any, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    import lightloom

    model = load_model(variant("distilbert_classes"))
    record = tmp_path / "run.db"

    def stop(what: str, done: int, total: int) -> None:
        if what == "mock run" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan(model, "mock").run(SENTENCES, record=record, progress=stop)
    whole = plan(model, "mock").run(SENTENCES)
    assert lightloom.resume(record).results["labels"] == whole.results["labels"]


def test_a_model_without_classes_does_not_classify(variant: Any, references: Path) -> None:
    with pytest.raises(InputError, match=r"cannot classify sentences: it has no head"):
        load_model(references / "bert").classify(["a"])
    with pytest.raises(InputError, match=r"\(language\) cannot classify sentences"):
        load_model(references / "variants" / "qwen3").classify(["a"])
    document = {"id2label": {"0": "score"}}
    folder = variant("bert_classes", **document)
    arrays = load_file(folder / "model.safetensors")
    one = {name: arrays[name][:1] for name in arrays if name.startswith("classifier.")}
    change_tensors(folder, **one)
    with pytest.raises(InputError, match="its head gives one number, see `forward`"):
        load_model(folder).classify(["a"])


# --- shapes and tokenizers ------------------------------------------------------------------------

PUBLISHED = {  # parameters as published
    "roberta-base": (
        {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "vocab_size": 50265}
        | {"max_position_embeddings": 514, "type_vocab_size": 1},
        124_697_433,
    ),
    "xlm-roberta-base": (
        {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]}
        | {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
        278_295_186,
    ),
    "distilbert-base-uncased": (
        {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}
        | {"vocab_size": 30522, "tie_weights_": True, "qa_dropout": 0.1},
        66_985_530,
    ),
    "qwen3-0.6b": (
        {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "head_dim": 128}
        | {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
        | {"intermediate_size": 3072, "max_position_embeddings": 40960, "rope_theta": 1e6}
        | {"tie_word_embeddings": True, "sliding_window": None, "max_window_layers": 28},
        596_049_920,
    ),
}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
BASE |= {"intermediate_size": 3072}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_give_the_published_number_of_parameters(
    tmp_path: Path, name: str
) -> None:
    document, parameters = PUBLISHED[name]
    base = BASE if "roberta" in name else {}
    (tmp_path / "config.json").write_text(json.dumps(base | document))
    model = model_or_shape(tmp_path)
    shapes = model.whole_program.weight_shapes.values()
    assert sum(int(np.prod(shape)) for shape in shapes) == parameters
    assert model.config.context == {"roberta": 512}.get(name.split("-")[-2], model.config.context)


def test_a_unigram_tokenizer_is_read(variant: Any) -> None:
    # as XLM-RoBERTa has it: pieces with scores, a metaspace for the space
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'models'")
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("\u2581a", -1.0), ("\u2581c", -3.0), ("at", -2.0), ("\u2581cat", -2.5), ("s", -3.0)]
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.decoder = tokenizers.decoders.Metaspace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder = variant("xlm_roberta_tags")
    inner.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(folder)
    assert model.tokenizer.encode("a cats z") == [0, 4, 7, 8, 3, 2]
    assert len(model.classify(["a cats"])[0]) == 5
    (folder / "tokenizer.json").unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"pieces")
    with pytest.raises(InputError, match=r"has no tokenizer\.json beside it; add that file"):
        load_model(folder).classify(["a cats"])


def test_qwen3_is_read_from_gguf(references: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the extra 'models'")
    from gguf_factory import write_gguf

    folder = references / "variants" / "qwen3"
    lengths = {".attention.key_length": 8, ".attention.value_length": 8}
    path = write_gguf(tmp_path / "m.gguf", folder, lengths, kind="qwen3")
    expected = load_file(folder / "expected.safetensors")
    found = load_model(path).forward(expected["inputs"])
    np.testing.assert_allclose(found, expected["output"], rtol=0, atol=1e-5)
