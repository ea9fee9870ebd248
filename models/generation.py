"""How a language model continues a text: the settings in its files, sampling, tokens as text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .config_keys import read_json

_CHANGES_CHOICE: Mapping[str, tuple[Any, ...]] = {  # settings, and their values without effect
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "repetition_penalty": (1.0,),
    "sequence_bias": (),
    "suppress_tokens": (),
}


@dataclass(frozen=True)
class Generation:
    """The generation settings in a language model's files.

    Parameters
    ----------
    ends : tokens that end a text
    left_out : settings that lightloom does not apply, as texts
    """

    ends: frozenset[int] = frozenset()
    left_out: tuple[str, ...] = ()


def read_generation(document: Mapping[str, Any], folder: Path) -> Generation:
    """Read the generation settings: generation_config.json comes before config.json.

    Parameters
    ----------
    document : of config.json

    Raises
    ------
    InputError : for an end token that is not a token
    """
    path = folder / "generation_config.json"
    settings = read_json(path) if path.is_file() else document
    ends = settings.get("eos_token_id")
    ends = document.get("eos_token_id") if ends is None else ends
    several = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if any(isinstance(end, bool) or not isinstance(end, int) for end in several):
        raise InputError(f"{folder}: eos_token_id = {ends!r} is not a token, or a list of them")
    left = {
        key: settings[key]
        for key, usual in _CHANGES_CHOICE.items()
        if settings.get(key) not in (None, [], {}, *usual)
    }
    return Generation(
        frozenset(several), tuple(f"{key} = {value!r}" for key, value in left.items())
    )


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Refuse invalid settings of the sampling.

    Raises
    ------
    InputError : naming the setting and its value
    """
    if not 0 <= temperature < np.inf:
        raise InputError(f"temperature = {temperature} is not a finite number of 0 or more")
    if top_k < 0:
        raise InputError(f"top_k = {top_k} is negative; 0 keeps all tokens")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p = {top_p} is not within (0, 1]; 1 keeps all tokens")


def text_of(tokens: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """Yield the text of each token as it comes.

    A character may take several tokens. It comes whole, with its last token; the text of the tokens
    before is empty, and comes once the next token is there.
    """
    seen: list[int] = []
    shown, is_incomplete = "", False
    for token in tokens:
        if is_incomplete:
            yield ""
        seen.append(token)
        text = decode(seen)
        is_incomplete = text.endswith("\N{REPLACEMENT CHARACTER}")
        if not is_incomplete:
            yield text[len(shown) :]
            shown = text
    if is_incomplete:
        yield decode(seen)[len(shown) :]
