"""Reads the JSON files of a model, and checks the keys of its config.json.

Keys that ask for a computation without support are refused.

There are four kinds of keys: those that the family's module reads; those that change no result;
those with only one supported value, the default in transformers; and unknown ones, whose only
supported value is "off" (null, false, empty).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel

from ..instruments import InputError

# of every family: names, storage, training, and the choice of tokens from logits (see generation)
_IGNORED = frozenset(
    """
    adapters architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward classifier_dropout decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty export_model_type finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing id2label initializer_factor initializer_range
    is_llama_config keys_to_ignore_at_inference label2id language length_penalty license
    max_length max_sequence_length min_length model_type n_special name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_scores pad_token_id
    predict_special_tokens prefix pretraining_tp problem_type remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate rms_norm_eps_dtype
    sbert_ce_default_activation_function sentence_transformers sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype
    torchscript transformers.js_config transformers_version typical_p unsloth_fixed
    unsloth_version use_bfloat16 use_cache use_flash_attn
    """.split()
)
_DROPOUT = re.compile(r"(.*_)?(dropout|pdrop)(_prob|_rate|_p)?")  # only in training
_MOST_CLASSES = 1 << 20
# of every family: keys that have no effect at these values
_COMPUTED_ONLY: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
}


def check_keys(
    document: Mapping[str, Any],
    config: type[BaseModel],
    computed_only: Mapping[str, Any],
    ignored: frozenset[str] = frozenset(),
    read: frozenset[str] = frozenset(),
) -> None:
    """Refuse a key that asks for a computation without support.

    Parameters
    ----------
    config : its fields have the names of the keys that are read
    computed_only : key -> its only supported value
    ignored : keys that change no result
    read : further keys that the caller reads

    Raises
    ------
    ValueError : naming the key and its value
    """
    fields = config.model_fields
    known = {"activation_clip", *read, *(field.alias for field in fields.values() if field.alias)}
    only = {**_COMPUTED_ONLY, **computed_only}
    for key, value in document.items():
        if key in known or key in ignored or key.startswith("_"):
            continue
        if key in fields:
            raise ValueError(f"{key} = {value!r} is unknown to lightloom; remove the key")
        if key in only:
            if not (value is None or value == only[key] or (is_off(value) and is_off(only[key]))):
                raise ValueError(
                    f"{key} = {value!r} is not computed by lightloom, only {only[key]!r}"
                )
        elif key not in _IGNORED and not _DROPOUT.fullmatch(key) and not is_off(value):
            raise ValueError(
                f"{key} = {value!r} is unknown to lightloom, and may change the results; if it "
                "does not, remove the key"
            )


def own_names(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a config.json with a family's own names for keys that have other names elsewhere.

    Parameters
    ----------
    names : name elsewhere -> own name

    Raises
    ------
    ValueError : when both names are there, with different values
    """
    result = dict(document)
    for other, own in names.items():
        value = result.pop(other, None)
        if value is not None and result.setdefault(own, value) != value:
            raise ValueError(
                f"{other} = {value!r} and {own} = {result[own]!r} are one setting; remove one"
            )
    return result


def class_names(document: Mapping[str, Any]) -> Any:
    """Return the names of a classifier's classes; `num_labels` counts those without names."""
    count = document.get("num_labels", 2)
    if not is_count(count) or count > _MOST_CLASSES:
        raise ValueError(f"num_labels = {count!r} is not a number of classes")
    names = document.get("id2label")
    if names is None:
        names = {index: f"class {index}" for index in range(count)}
    if isinstance(names, Mapping):
        names = {str(index): str(name) for index, name in names.items()}
    return names


def is_off(value: Any) -> bool:
    """Return whether a setting is off: null, false, zero or empty."""
    return value is None or value in (False, "", [], {})


def is_count(value: Any) -> TypeGuard[int]:
    """Return whether a setting is a whole number of at least 1; true is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError : when the file is missing or is not a JSON object
    """
    document = _parsed(path)
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object")
    return document


def read_json_if_any(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_json_list(path: Path) -> list[Any]:
    """Read a JSON list; raises as `read_json`."""
    document = _parsed(path)
    if not isinstance(document, list):
        raise InputError(f"{path} is not a JSON list")
    return document


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
