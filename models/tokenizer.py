"""Text to tokens and back, on the package `tokenizers`; simple files do without it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..instruments import InputError
from ..instruments.errors import MissingExtraError, import_extra
from .byte_pairs import read_byte_pairs
from .weights import read_json


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
        """One more than the largest token id, tokens aside that were added to the vocabulary."""
        return max(self._inner.get_vocab(with_added_tokens=False).values(), default=-1) + 1

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Give the token ids of a text, with the special tokens that the model wants around it.

        Parameters
        ----------
        limit : cut the text so that there are at most this many, special ones included
        """
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"the text {text[:40]!r} holds bytes that are no UTF-8")
        with refusing(f"the tokenizer {self.source} cannot encode {text[:40]!r}"):
            if limit is None:
                return list(self._inner.encode(text).ids)
            self._inner.enable_truncation(limit)
            try:
                return list(self._inner.encode(text).ids)
            finally:
                self._inner.no_truncation()

    def decode(self, tokens: Sequence[int]) -> str:
        """Give the text of tokens, without special ones."""
        with refusing(f"the tokenizer {self.source} cannot decode its tokens"):
            return str(self._inner.decode(list(tokens)))


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Make an InputError of what the package raises: plain Exceptions, and panics of Rust."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what}: {error}") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, and what tokenizer_config.json beside it puts around a text.

    Raises
    ------
    InputError : for a file that is missing or no tokenizer
    MissingExtraError : without the package tokenizers, where plain Python does not do
    """
    if not path.is_file():
        raise InputError(f"no tokenizer: {path} is missing")
    beside = path.with_name("tokenizer_config.json")
    settings = read_json(beside) if beside.is_file() else {}
    try:
        tokenizers = import_extra("tokenizers", "models", "turning text into tokens")
    except MissingExtraError:
        adds = settings.get("add_bos_token") or settings.get("add_eos_token")
        plain = None if adds else read_byte_pairs(path)
        if plain is None:
            raise
        return Tokenizer(plain, path)
    with refusing(f"{path} is not a tokenizer"):
        inner = tokenizers.Tokenizer.from_file(str(path))
        _add_as_told(tokenizers, inner, settings)
        return Tokenizer(inner, path)


def add_around(
    tokenizers: Any, inner: Any, begin: tuple[str, int] | None, end: tuple[str, int] | None
) -> None:
    """Put tokens (text, id) before and after every text, in place of what was put around it."""
    template = [begin[0] if begin else None, "$A", end[0] if end else None]
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=[part for part in template if part],
        special_tokens=list({token for token in (begin, end) if token}),
    )


def _add_as_told(tokenizers: Any, inner: Any, settings: dict[str, Any]) -> None:
    """Follow add_bos_token and add_eos_token, where they are given, as transformers does."""
    told = {key: settings.get(f"add_{key}_token") for key in ("bos", "eos")}
    if not any(isinstance(value, bool) for value in told.values()):
        return
    around: dict[str, tuple[str, int] | None] = {}
    for key, value in told.items():
        token = settings.get(f"{key}_token")
        text = token.get("content") if isinstance(token, dict) else token
        number = inner.token_to_id(text) if isinstance(text, str) else None
        around[key] = (str(text), number) if value and number is not None else None
    add_around(tokenizers, inner, around["bos"], around["eos"])
