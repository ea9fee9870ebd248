"""`BytePairs`: a byte-level byte-pair encoding in plain Python, as the model `glimmer` needs.

It reads a tokenizer.json that splits text by one simple pattern and encodes the pieces byte by
byte, and returns the same tokens as the package `tokenizers`. Other files need that package.
"""

import itertools
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_SIMPLE = re.compile(r"(?:[^\\]|\\[trn])+")  # patterns with one meaning in all regex libraries


def _letters_of_bytes() -> list[str]:
    """Return the letter of each byte in GPT-2's table: printable bytes stand for themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_LETTERS = _letters_of_bytes()
_BYTES = {letter: byte for byte, letter in enumerate(_LETTERS)}


class ByteEncoding(NamedTuple):
    """The tokens of a text."""

    ids: list[int]


class BytePairs:
    """The part of `tokenizers.Tokenizer` that `Tokenizer` needs.

    Parameters
    ----------
    vocabulary : token -> id; it holds every byte's letter
    merges : pairs of tokens in the order in which they are joined
    pattern : splits a text into pieces, within which pairs are joined
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], pattern: str
    ) -> None:
        self._vocabulary = vocabulary
        self._tokens = {number: token for token, number in vocabulary.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._pattern = re.compile(f"({pattern})")
        self._limit: int | None = None
        self._of_piece = lru_cache(maxsize=65_536)(self._joined)

    def encode(self, text: str) -> ByteEncoding:
        """Return the tokens of a text."""
        pieces = (piece for piece in self._pattern.split(text) if piece)
        ids = [number for piece in pieces for number in self._of_piece(piece)]
        return ByteEncoding(ids[: self._limit])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become replacement characters."""
        letters = "".join(self._tokens.get(token, "") for token in tokens)
        return bytes(_BYTES[letter] for letter in letters).decode("utf-8", errors="replace")

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Return token -> id."""
        return self._vocabulary

    def no_truncation(self) -> None:
        """Encode texts of any length."""
        self._limit = None

    def enable_truncation(self, limit: int) -> None:
        """Cut texts to at most `limit` tokens."""
        self._limit = limit

    def _joined(self, piece: str) -> tuple[int, ...]:
        """Join pairs of a piece, the earliest in the list of merges first."""
        parts = [_LETTERS[byte] for byte in piece.encode("utf-8")]
        while len(parts) > 1:
            pairs = itertools.pairwise(parts)
            first = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if first not in self._ranks:
                break
            joined, at = [], 0
            while at < len(parts):
                here = at + 1 < len(parts) and (parts[at], parts[at + 1]) == first
                joined.append("".join(first) if here else parts[at])
                at += 2 if here else 1
            parts = joined
        return tuple(self._vocabulary[part] for part in parts)


def read_byte_pairs(path: Path) -> BytePairs | None:
    """Read a tokenizer.json; None where it is damaged, or needs the package `tokenizers`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        pattern = _pattern_of(document)
        model = document["model"]
        vocabulary = {str(token): int(number) for token, number in model["vocab"].items()}
        merges = [_pair(merge) for merge in model["merges"]]
        is_complete = all("".join(pair) in vocabulary for pair in merges)
        if pattern is None or not is_complete or not vocabulary.keys() >= _BYTES.keys():
            return None
        if not all(_BYTES.keys() >= set(token) for token in vocabulary):
            return None
        return BytePairs(vocabulary, merges, pattern)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, re.error):
        return None


def _pattern_of(document: dict[str, Any]) -> str | None:
    """Return the pattern that splits texts; None where the tokenizer has other steps, too."""
    model = document["model"]
    plain = {"dropout": None, "unk_token": None, "byte_fallback": False, "ignore_merges": False}
    plain |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    if model["type"] != "BPE" or any(model.get(key) not in (v, "") for key, v in plain.items()):
        return None
    if document.get("normalizer") or document.get("post_processor") or document.get("added_tokens"):
        return None
    if (
        document["decoder"]["type"] != "ByteLevel"
        or document["pre_tokenizer"]["type"] != "Sequence"
    ):
        return None
    split, level = document["pre_tokenizer"]["pretokenizers"]
    wanted = {"type": "Split", "behavior": "Isolated", "invert": False}
    if any(split[key] != value for key, value in wanted.items()) or level["type"] != "ByteLevel":
        return None
    if level["use_regex"] or level["add_prefix_space"]:
        return None
    pattern = split["pattern"]["Regex"]
    is_simple = _SIMPLE.fullmatch(pattern) and not set(pattern) & set("(){}$.")
    return pattern if is_simple else None


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return str(left), str(right)
