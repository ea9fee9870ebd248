"""Which keys of a config.json change what is computed: those that are not computed are refused.

A key is one of four: read by its family's page; known not to matter; known with the one value that
is computed, which is its default in transformers; or unknown, and then only "off" (null, false,
empty) is taken.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

# of every family: names, storage, training, and how text is chosen from logits (see generation)
_NO_MATTER = frozenset(
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
_DROPS = re.compile(r"(.*_)?(dropout|pdrop)(_prob|_rate|_p)?")  # while training only
# of every family: what transformers computes only at another value
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
    no_matter: frozenset[str] = frozenset(),
    read: frozenset[str] = frozenset(),
) -> None:
    """Refuse a key that asks for what is not computed.

    Parameters
    ----------
    config : whose fields have the names of keys that are read
    computed_only : key -> the only value that is computed
    no_matter : keys that change no number
    read : further keys that the caller reads

    Raises
    ------
    ValueError : naming the key and its value
    """
    fields = config.model_fields
    known = {"activation_clip", *read, *(field.alias for field in fields.values() if field.alias)}
    only = {**_COMPUTED_ONLY, **computed_only}
    for key, value in document.items():
        if key in known or key in no_matter or key.startswith("_"):
            continue
        if key in fields:
            raise ValueError(f"{key} = {value!r} is unknown to lightloom; remove the key")
        if key in only:
            if not (value is None or value == only[key] or (is_off(value) and is_off(only[key]))):
                raise ValueError(
                    f"{key} = {value!r} is not computed by lightloom, only {only[key]!r}"
                )
        elif key not in _NO_MATTER and not _DROPS.fullmatch(key) and not is_off(value):
            raise ValueError(
                f"{key} = {value!r} is unknown to lightloom, and may change every number; if it "
                "does not matter, remove the key"
            )


def is_off(value: Any) -> bool:
    """Return whether a setting asks for nothing: null, false, zero or empty."""
    return value is None or value in (False, "", [], {})
