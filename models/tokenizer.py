"""Text to tokens and back, on the package `tokenizers`; simple files do without it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..instruments import InputError
from ..instruments.errors import MissingExtraError, import_extra
from .byte_pairs import read_byte_pairs


class Tokenizer:
    """A tokenizer with its special tokens.

    Parameters
    ----------
    inner : a `tokenizers.Tokenizer`, or a `BytePairs`
    source : where it came from, for messages
    """

    def __init__(self, inner: Any, source: Path) -> None:
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.source = source

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Give the token ids of a text, with the special tokens that the model wants around it.

        Parameters
        ----------
        limit : cut the text so that there are at most this many, special ones included
        """
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"the text {text[:40]!r} holds bytes that are no UTF-8")
        with _refused(f"the tokenizer {self.source} cannot encode {text[:40]!r}"):
            if limit is None:
                return list(self._inner.encode(text).ids)
            self._inner.enable_truncation(limit)
            try:
                return list(self._inner.encode(text).ids)
            finally:
                self._inner.no_truncation()

    def decode(self, tokens: Sequence[int]) -> str:
        """Give the text of tokens, without special ones."""
        with _refused(f"the tokenizer {self.source} cannot decode its tokens"):
            return str(self._inner.decode(list(tokens)))


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Make an InputError of whatever the package raises: plain Exceptions, and panics of Rust."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what}: {error}") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json.

    Raises
    ------
    InputError : for a file that is missing or no tokenizer
    MissingExtraError : without the package tokenizers, where plain Python does not do
    """
    if not path.is_file():
        raise InputError(f"no tokenizer: {path} is missing")
    try:
        tokenizers = import_extra("tokenizers", "models", "turning text into tokens")
    except MissingExtraError:
        plain = read_byte_pairs(path)
        if plain is None:
            raise
        return Tokenizer(plain, path)
    with _refused(f"{path} is no tokenizer"):
        return Tokenizer(tokenizers.Tokenizer.from_file(str(path)), path)


def gguf_tokenizer(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """Build the byte-pair tokenizer that a GGUF file carries.

    Raises
    ------
    InputError : for a kind of tokenizer that is not a byte-level byte-pair encoding
    """
    kind = metadata.get("tokenizer.ggml.model")
    before = metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise InputError(
            f"{path} carries a tokenizer of kind {kind!r}, and only 'gpt2' (byte-level byte pairs) "
            "is read from GGUF; put the model's tokenizer.json beside the file"
        )
    tokenizers = import_extra("tokenizers", "models", "turning text into tokens")
    with _refused(f"the tokenizer in {path} is broken"):
        return Tokenizer(_byte_pairs(tokenizers, metadata, str(before), path), path)


def _byte_pairs(tokenizers: Any, metadata: Mapping[str, Any], before: str, path: Path) -> Any:
    words = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {word: index for index, word in enumerate(words)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = _pre_tokenizer(tokenizers, before, path)
    inner.decoder = tokenizers.decoders.ByteLevel()
    control = [
        tokenizers.AddedToken(words[index], special=True, normalized=False)
        for index, sort in enumerate(metadata.get("tokenizer.ggml.token_type", []))
        if sort == 3
    ]
    inner.add_special_tokens(control)
    return inner


def _pre_tokenizer(tokenizers: Any, name: str, path: Path) -> Any:
    """Give how text is split before byte pairs are merged, by llama.cpp's name for it."""
    parts = tokenizers.pre_tokenizers
    if name in ("gpt-2", "default"):
        return parts.ByteLevel(add_prefix_space=False)
    if name == "smollm":  # every digit by itself, then as GPT-2
        return parts.Sequence(
            [parts.Digits(individual_digits=True), parts.ByteLevel(add_prefix_space=False)]
        )
    if name in ("llama-bpe", "qwen2"):
        digits = r"\p{N}{1,3}" if name == "llama-bpe" else r"\p{N}"
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
            + digits
            + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        split = parts.Split(tokenizers.Regex(pattern), behavior="isolated")
        return parts.Sequence([split, parts.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise InputError(
        f"{path} splits text as {name!r}, which lightloom does not know; "
        "put the model's tokenizer.json beside the file"
    )
