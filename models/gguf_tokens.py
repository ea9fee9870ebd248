"""The byte-pair tokenizer and the end tokens of a GGUF file, as llama.cpp reads them.

The table of splitting rules, the defaults and the list of end tokens are those of llama.cpp's
src/llama-vocab.cpp.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..instruments import InputError
from ..instruments.errors import import_extra
from .tokenizer import Tokenizer, add_around, read_tokenizer, refusing

_NORMAL_WORDS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"  # of GPT-2
)
_NEWER_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Rule(NamedTuple):
    """The splitting of text before pairs are joined, and the settings that belong to it."""

    patterns: tuple[str, ...]  # applied in order, each to the pieces of the one before
    looks_words_up: bool = False  # a piece that is a token is taken as it is
    adds_begin: bool = False  # unless the file says otherwise


_GPT2 = _Rule((_NORMAL_WORDS,))
_SINGLE_DIGITS = _Rule((r"\p{N}", _NORMAL_WORDS))
_THREE_DIGITS = _Rule((_NEWER_WORDS.replace("NUMBER", r"\p{N}{1,3}"),))
_QWEN2 = _Rule((_NEWER_WORDS.replace("NUMBER", r"\p{N}"),))
_DEFAULT = _Rule((r"[\p{P}\$\+<=>\^~\|]+", _NORMAL_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"))
_RULES: Mapping[str, _Rule] = {
    "default": _DEFAULT,
    **dict.fromkeys(
        "gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat mellum a.x-4.0".split(), _GPT2
    ),
    **dict.fromkeys(
        "smollm starcoder refact command-r codeshell exaone minerva-7b".split(), _SINGLE_DIGITS
    ),
    **dict.fromkeys("dbrx smaug-bpe glm4 chatglm-bpe".split(), _THREE_DIGITS),
    **dict.fromkeys("qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan".split(), _QWEN2),
    **dict.fromkeys(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2".split(),
        _Rule(_THREE_DIGITS.patterns, looks_words_up=True, adds_begin=True),
    ),
}

_DEFAULT_TOKEN = 11  # begins and ends a text where a file names no token
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # types of tokens in GGUF
_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_END_WORDS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> "
    "<|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> "
    "<eos> <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> "
    "<REPO> <reponame> <|file_sep|> <｜end▁of▁sentence｜>".split()
)


_CONTROL_WORDS = _END_WORDS | frozenset(  # control tokens, also with another type in a file
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> <|code_prefix|> <|prefix|> <|fim_suffix|> "
    "<fim-suffix> <fim_suffix> <SUF> <|code_suffix|> <|suffix|> <|fim_middle|> <fim-middle> "
    "<fim_middle> <MID> <|code_middle|> <|middle|>".split()
)


def tokenizer_beside(beside: Path, metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """Read the tokenizer.json beside a GGUF file, after a check that it is of the same model.

    Raises
    ------
    InputError : when its vocabulary differs
    """
    tokenizer = read_tokenizer(beside)
    words = metadata.get("tokenizer.ggml.tokens") or []
    for word, number in tokenizer.vocabulary.items():
        if number >= len(words) or words[number] != word:
            raise InputError(
                f"{beside} is not the tokenizer of {path.name} beside it: its token {number} is "
                f"{word!r}; move one of them away"
            )
    return tokenizer


def gguf_tokenizer(metadata: Mapping[str, Any], path: Path) -> Tokenizer:
    """Return the byte-pair tokenizer of a GGUF file.

    Raises
    ------
    InputError : for a kind of tokenizer that is not a byte-level byte-pair encoding
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise InputError(
            f"{path} carries a tokenizer of kind {kind!r}, and only 'gpt2' (byte-level byte pairs) "
            "is read from GGUF; put the model's tokenizer.json beside the file"
        )
    before = str(metadata.get("tokenizer.ggml.pre") or "default")
    if before not in _RULES:
        raise InputError(
            f"{path} splits text as {before!r}, which lightloom does not know; "
            "put the model's tokenizer.json beside the file"
        )
    tokenizers = import_extra("tokenizers", "models", "turning text into tokens")
    with refusing(f"the tokenizer in {path} is broken"):
        return Tokenizer(_byte_pairs(tokenizers, metadata, _RULES[before], path), path)


def gguf_end_tokens(metadata: Mapping[str, Any]) -> frozenset[int]:
    """Return the tokens that end a text: those that the file names, and those with a known text.

    "<|end|>" does not end a text where "<|return|>" and "<|call|>" do.
    """
    words = metadata.get("tokenizer.ggml.tokens") or []
    named = [_token(metadata, key) for key in _END_KEYS]
    ends = {token for token in named if token is not None}
    texts = {word: index for index, word in enumerate(words) if word in _END_WORDS}
    if "<|call|>" in texts and "<|return|>" in texts:
        texts.pop("<|end|>", None)
    return frozenset(ends | set(texts.values()))


def _token(metadata: Mapping[str, Any], key: str) -> int | None:
    """Return a special token's id; None where there is none, or it is not in the vocabulary."""
    found = metadata.get(
        f"tokenizer.ggml.{key}_token_id", _DEFAULT_TOKEN if key in ("bos", "eos") else None
    )
    count = len(metadata.get("tokenizer.ggml.tokens") or [])
    return found if isinstance(found, int) and 0 <= found < count else None


def _byte_pairs(tokenizers: Any, metadata: Mapping[str, Any], rule: _Rule, path: Path) -> Any:
    words = [
        word or f"[EMPTY_{index}]" for index, word in enumerate(metadata["tokenizer.ggml.tokens"])
    ]
    vocabulary = {word: index for index, word in enumerate(words)}
    if len(vocabulary) < len(words):
        twice = next(word for index, word in enumerate(words) if vocabulary[word] != index)
        raise InputError(f"{path}: the token {twice!r} occurs twice; convert the model again")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise InputError(
            f"{path}: the merge {wrong[0][0]!r} is not a pair of tokens; convert the model again"
        )
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rule.looks_words_up)
    )
    parts = tokenizers.pre_tokenizers
    splits = [parts.Split(tokenizers.Regex(each), behavior="isolated") for each in rule.patterns]
    level = parts.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = parts.Sequence([*splits, level])
    inner.decoder = tokenizers.decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(words)
    if len(types) < len(words):
        raise InputError(
            f"{path}: {len(types)} types of tokens are too few for {len(words)} tokens; convert "
            "the model again"
        )
    for word, sort in zip(words, types, strict=False):
        is_control = sort in (_UNKNOWN, _CONTROL) or word in _CONTROL_WORDS
        if is_control or sort == _USER_DEFINED:
            token = tokenizers.AddedToken(word, special=is_control, normalized=False)
            (inner.add_special_tokens if is_control else inner.add_tokens)([token])
    begin, end = (
        _around(metadata, words, key, default, path)
        for key, default in (("bos", rule.adds_begin), ("eos", False))
    )
    add_around(tokenizers, inner, begin, end)
    return inner


def _around(
    metadata: Mapping[str, Any], words: list[str], key: str, default: bool, path: Path
) -> tuple[str, int] | None:
    """Return the token before (bos) or after (eos) every text; None where there is none."""
    if not metadata.get(f"tokenizer.ggml.add_{key}_token", default):
        return None
    token = _token(metadata, key)
    if token is None:
        raise InputError(
            f"{path}: tokenizer.ggml.add_{key}_token is true, but {key}_token_id is not a token"
        )
    return words[token], token
