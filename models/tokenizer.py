"""`Tokenizer`: text to tokens and back, with the package `tokenizers`; simple files without it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from ..instruments.errors import MissingExtraError, import_extra
from .byte_pairs import read_byte_pairs
from .config_keys import read_json_if_any


class Tokenizer:
    """A tokenizer with its special tokens.

    Parameters
    ----------
    inner : a `tokenizers.Tokenizer`, or a `BytePairs`
    source : its file, for messages
    cut_side : side on which a text that is too long is cut, "right" or "left"
    """

    def __init__(self, inner: Any, source: Path, cut_side: str = "right") -> None:
        self.library = inner
        self.source = source
        self._cut = {} if cut_side == "right" else {"direction": cut_side}

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id, without added tokens."""
        return dict(self.library.get_vocab(with_added_tokens=False))

    def check_size(self, rows: int, model: str) -> None:
        """Check that an embedding has a row for every token; added tokens do not count.

        Raises
        ------
        InputError : when it has fewer, naming the model
        """
        largest = max(self.vocabulary.values(), default=-1)
        if largest >= rows:
            raise InputError(
                f"the vocabulary of the tokenizer {self.source} goes up to {largest}, but the "
                f"embedding of {model!r} has {rows} rows"
            )

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Return the token ids of a text, with the model's special tokens around it.

        Parameters
        ----------
        limit : maximum number of tokens, special ones included; a longer text is cut
        """
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"the text {text[:40]!r} holds bytes that are not UTF-8; remove them")
        with refusing(f"the tokenizer {self.source} cannot encode {text[:40]!r}"):
            if limit is None:
                return list(self.library.encode(text).ids)
            self.library.enable_truncation(limit, **self._cut)
            try:
                return list(self.library.encode(text).ids)
            finally:
                self.library.no_truncation()

    def rows(self, text: str, length: int) -> np.ndarray:
        """Cut a text's tokens into rows [rows, length]; a short text is one shorter row."""
        ids = self.encode(text)
        length = min(length, max(len(ids), 1))
        count = max(len(ids) // length, 1)
        return np.array(ids[: count * length], dtype=np.int64).reshape(count, -1)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        with refusing(f"the tokenizer {self.source} cannot decode its tokens"):
            return str(self.library.decode(list(tokens)))


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Convert errors of the package into `InputError`: plain Exceptions, and panics of Rust."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what}: {error}") from None


def read_tokenizer(path: Path, is_lower: bool = False) -> Tokenizer:
    """Read a tokenizer.json, and the keys of tokenizer_config.json that transformers applies.

    Parameters
    ----------
    is_lower : make texts lower-case first, except special tokens

    Raises
    ------
    InputError : for a file that is missing or not a tokenizer
    MissingExtraError : without the package tokenizers, where the file needs it
    """
    if not path.is_file():
        raise InputError(f"no tokenizer: {path} is missing")
    beside = path.with_name("tokenizer_config.json")
    settings = read_json_if_any(beside)
    try:
        tokenizers = import_extra("tokenizers", "models", "turning text into tokens")
    except MissingExtraError:
        plain = None if settings or is_lower else read_byte_pairs(path)
        if plain is None:
            raise
        return Tokenizer(plain, path)
    with refusing(f"{path} is not a tokenizer"):
        inner = tokenizers.Tokenizer.from_file(str(path))
        inner.no_padding()
        inner.no_truncation()
        _add_tokens(tokenizers, inner, settings, beside)
        _follow(tokenizers, inner, settings)
        if is_lower:
            parts = [tokenizers.normalizers.Lowercase(), inner.normalizer]
            inner.normalizer = tokenizers.normalizers.Sequence([part for part in parts if part])
        return Tokenizer(inner, path, settings.get("truncation_side", "right"))


def add_around(
    tokenizers: Any, inner: Any, begin: tuple[str, int] | None, end: tuple[str, int] | None
) -> None:
    """Put tokens (text, id) before and after every text, in place of any others."""
    template = [begin[0] if begin else None, "$A", end[0] if end else None]
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=[part for part in template if part],
        special_tokens=list({token for token in (begin, end) if token}),
    )


_NAMED = tuple(f"{name}_token" for name in "bos eos unk sep pad cls mask".split())
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def _add_tokens(tokenizers: Any, inner: Any, settings: dict[str, Any], path: Path) -> None:
    """Add the tokens that tokenizer_config.json names and tokenizer.json lacks."""
    decoder = settings.get("added_tokens_decoder") or {}
    for number, token in sorted(decoder.items(), key=lambda pair: int(pair[0])):
        text = token["content"]
        if inner.token_to_id(text) is None:
            flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
            given = {flag: bool(token[flag]) for flag in flags if flag in token}
            inner.add_tokens([tokenizers.AddedToken(text, **given)])
        if inner.token_to_id(text) != int(number):
            raise InputError(
                f"{path}: the token {text!r} is number {number}, but {inner.token_to_id(text)} in "
                "tokenizer.json; save the tokenizer again"
            )
    named = [settings.get(key) for key in _NAMED]
    for key in _LISTS:
        more = settings.get(key) or []
        named += more.values() if isinstance(more, dict) else more
    for token in named:
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and inner.token_to_id(text) is None:
            inner.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)])


def _follow(tokenizers: Any, inner: Any, settings: dict[str, Any]) -> None:
    """Apply the switches of tokenizer_config.json that transformers applies."""
    kind = settings.get("tokenizer_class")
    normalizer = inner.normalizer
    if isinstance(normalizer, tokenizers.normalizers.BertNormalizer) and kind in _BERTS:
        switches = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
        for key, switch in (switches | {"strip_accents": "strip_accents"}).items():
            if key in settings:
                setattr(normalizer, switch, settings[key])
        inner.normalizer = normalizer
    level = inner.pre_tokenizer
    if isinstance(level, tokenizers.pre_tokenizers.ByteLevel) and kind in _GPT2S:
        level.add_prefix_space = bool(settings.get("add_prefix_space", level.add_prefix_space))
        inner.pre_tokenizer = level
    if settings.get("split_special_tokens"):
        inner.encode_special_tokens = True


_FAST = ("", "Fast")
_BERTS = (None, *(f"{name}Tokenizer{fast}" for name in ("Bert", "DistilBert") for fast in _FAST))
_GPT2S = tuple(f"{name}Tokenizer{fast}" for name in ("GPT2", "Roberta") for fast in _FAST)
