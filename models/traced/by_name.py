"""`open_traced`: a folder of the Hugging Face form whose architecture has no page of its own.

transformers makes the module that config.json names in `architectures`, never with code from the
folder, and `trace` writes it as a program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...instruments import InputError
from ..tokenizer import Tokenizer
from .trace import trace
from .traced_model import TracedModel

_ROWS, _TOKENS, _LONGER, _FRAMES = 2, 8, 4, 3000
_SHORTEST_SOUND = 16_000  # samples


def open_traced(
    folder: Path,
    name: str,
    document: Mapping[str, Any],
    read_tokenizer: Callable[[], Tokenizer] | None,
) -> TracedModel:
    """Open a folder with transformers, and trace its model.

    Parameters
    ----------
    document : config.json

    Raises
    ------
    InputError : for a class that transformers does not have, code of the folder's own, weights that
        do not match, or a model that cannot be traced
    """
    module = _module(folder, document)
    try:
        return trace(module, _examples(module, folder), name, folder, read_tokenizer)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _module(folder: Path, document: Mapping[str, Any]) -> torch.nn.Module:
    import transformers

    names = document.get("architectures") or []
    if document.get("auto_map"):
        raise InputError(
            f"{folder / 'config.json'}: auto_map names code of the folder's own, which lightloom "
            "never runs; load the module yourself, and use lightloom.torch.trace"
        )
    found = getattr(transformers, str(names[0]), None) if names else None
    if found is None or not hasattr(found, "from_pretrained"):
        raise InputError(
            f"{folder / 'config.json'}: architectures = {names} names no class of transformers "
            f"{transformers.__version__}"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        module, about = found.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder}: transformers cannot open it: {reason}") from None
    wrong = sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]]))
    if wrong:
        raise InputError(
            f"{folder}: the weights lack {wrong[0]}"
            + (f" and {len(wrong) - 1} more" if wrong[1:] else "")
            + ", or hold them in another shape; the configuration and the weights do not match"
        )
    return module


def _examples(module: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return inputs of the kind that a model of transformers takes first.

    Raises
    ------
    InputError : when that kind is not known
    """
    config = module.config
    generator = torch.Generator().manual_seed(0)
    main = str(module.main_input_name)
    tokens = _tokens(config, generator)
    if main == "pixel_values" or (main == "input_ids" and hasattr(config, "vision_config")):
        images = {"pixel_values": _images(config, generator)}
        return images if main == "pixel_values" else {"input_ids": tokens, **images}
    if main == "input_ids":
        if getattr(config, "is_encoder_decoder", False):
            longer = tokens.repeat(1, _LONGER)
            return {"input_ids": longer, "decoder_input_ids": tokens}
        if type(module).__name__.endswith(("ForCausalLM", "LMHeadModel")):
            return {"input_ids": tokens}
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if main == "input_features" and hasattr(config, "num_mel_bins"):
        frames = 2 * getattr(config, "max_source_positions", _FRAMES // 2)
        features = torch.randn((_ROWS, config.num_mel_bins, frames), generator=generator)
        return {"input_features": features, "decoder_input_ids": tokens[:, :4].contiguous()}
    if main == "input_values" and hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
        shape = (_ROWS, config.max_length, config.num_mel_bins)
        return {"input_values": torch.randn(shape, generator=generator)}
    if main == "input_values":
        return {"input_values": torch.randn((_ROWS, _SHORTEST_SOUND), generator=generator)}
    raise InputError(
        f"its first input is {main!r}, and lightloom does not know of what shape; load it with "
        "transformers, and use lightloom.torch.trace with example inputs"
    )


def _tokens(config: Any, generator: torch.Generator) -> torch.Tensor:
    part = getattr(config, "text_config", None) or config
    vocabulary = int(getattr(part, "vocab_size", 0) or 3)
    ids = torch.randint(0, vocabulary, (_ROWS, _TOKENS), generator=generator)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):  # they have meanings of their own
        special = getattr(part, key, None)
        if isinstance(special, int):
            ids[ids == special] = (special + 3) % vocabulary
    end = getattr(part, "eos_token_id", None)
    if hasattr(config, "vision_config") and isinstance(end, int):
        ids[:, -1] = end  # where a text is pooled
    return ids


def _images(config: Any, generator: torch.Generator) -> torch.Tensor:
    part = getattr(config, "vision_config", None) or config
    size = getattr(part, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(part, "num_channels", 3)
    return torch.randn((_ROWS, channels, height, width), generator=generator)
