"""`glimmer`, the language model that comes with lightloom: offline, without extras, readable."""

import builtins
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from lightloom.models import load_arrays, load_model
from lightloom.models.byte_pairs import BytePairs, read_byte_pairs
from lightloom.models.loading import SHIPPED
from typer.testing import CliRunner

from lightloom.cli.app import app

FOLDER = SHIPPED / "glimmer"
PROMPTS = ("The", "Return the", "If the", "This method", "A list of", "When a")
# fraction of generated words that CPython's documentation has: 0.91 to 0.94, +-0.02, 5 sigma
KNOWN_WORDS = 0.8
LARGEST = 4 << 20  # bytes of the whole folder


@pytest.fixture
def core_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python without the package `tokenizers`, and without a network."""
    plain = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "tokenizers":
            raise ImportError(f"No module named {name!r}")
        return plain(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked a network"))
    yield


def held_out(rows: int) -> np.ndarray:
    return load_arrays(FOLDER / "data.safetensors")["held_out"].astype(np.int64)[:rows]


def described() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "training.json").read_text(encoding="utf-8")))


@pytest.mark.usefixtures("core_only")
def test_it_writes_words_with_the_core_install_alone() -> None:
    model = load_model("glimmer")
    assert isinstance(model.tokenizer.library, BytePairs)
    text = " ".join(
        prompt + "".join(model.generate(prompt, 60, temperature=0.7, top_k=40, seed=seed))
        for seed, prompt in enumerate(PROMPTS)
    )
    known = {word for topic in topics.values() for word in re.findall("[a-z]+", topic.lower())}
    words = re.findall("[a-z]+", text.lower())
    assert len(words) > 100
    share = sum(word in known for word in words) / len(words)
    assert share > KNOWN_WORDS, f"{share:.2f} of the words are known: {text}"
    assert "." in text  # sentences end


def test_its_perplexity_on_held_out_text_is_that_of_its_training() -> None:
    """Perplexity of text that it has not seen, at most 5 % above what the recipe measured."""
    perplexity = load_model("glimmer").perplexity(held_out(128))
    assert perplexity < 1.05 * np.exp(described()["held_out_loss"])


def test_light_costs_it_little_on_the_default_bench() -> None:
    model, rows = load_model("glimmer"), held_out(8)
    digital, light = model.perplexity(rows), model.perplexity(rows, "mock")
    # 1.0007 of it, +-0.0006 (25 seeds): a gain by light is noise, to 5.7 sigma
    assert 0.997 * digital < light < 1.1 * digital


def test_the_command_runs_it_on_the_mock() -> None:
    options = ["run", "--model", "glimmer", "--prompt", "The", "--max-tokens", "8", "--json"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["is_mock"] and document["model"] == "glimmer"


def test_it_is_small_and_says_where_its_text_is_from() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST
    assert "PSF" in described()["licence"]
    assert "Python Software Foundation" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_both_readers_of_its_tokenizer_agree() -> None:
    """Any text has the same tokens in plain Python as in the package; 300 seeded texts."""
    tokenizers = pytest.importorskip("tokenizers")
    path = FOLDER / "tokenizer.json"
    plain, package = read_byte_pairs(path), tokenizers.Tokenizer.from_file(str(path))
    assert plain is not None
    chance = random.Random(0)
    kinds = (range(128), range(0xD800), range(0xE000, 0x110000))
    texts = ["", " ", "  two\t\r\n spaces", "don't [x]^2 $(y).", topics["assert"]]
    texts += [
        "".join(chr(chance.choice(chance.choice(kinds))) for _ in range(40)) for _ in range(300)
    ]
    for text in texts:
        tokens = plain.encode(text).ids
        assert tokens == package.encode(text).ids, repr(text)
        assert plain.decode(tokens) == text
        assert plain.decode(tokens[:-1]) == package.decode(tokens[:-1])


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"added_tokens": [{"id": 0, "content": "<s>"}]},
        {"pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"type": "WordPiece", "vocab": {}}},
        {"model": None},
    ],
)
def test_other_tokenizers_need_the_package(change: dict[str, Any], tmp_path: Path) -> None:
    document = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document | change), encoding="utf-8")
    assert read_byte_pairs(path) is None
