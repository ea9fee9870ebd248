"""`normalised`: pixels as the input of a vision model, by its preprocessor_config.json."""

from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .config_keys import is_off, read_json_if_any

_READ = frozenset("do_rescale rescale_factor do_normalize image_mean image_std".split())
# images already have the model's size and channels, so these steps have no effect
_IGNORED = frozenset(
    "crop_size data_format default_to_square device disable_grouping do_center_crop do_convert_rgb "
    "do_pad do_resize feature_extractor_type image_processor_type image_seq_length "
    "input_data_format model_type pad_size processor_class resample return_tensors size "
    "size_divisor".split()
)


# processors with a default mean and standard deviation of 0.5
_HALVES = ("ViT", "DeiT", "Beit", "ConvNext", "Siglip")


def normalised(images: np.ndarray, path: Path) -> np.ndarray:
    """Rescale and normalise pixels [batch, channels, height, width] by a file's keys: float32.

    Without the file, or without keys in it: (pixel / 255 - 0.5) / 0.5.

    Raises
    ------
    InputError : naming the file, the key and its value
    """
    settings = read_json_if_any(path)
    whole = path.with_name("processor_config.json")
    if not settings and whole.is_file():
        path, settings = whole, read_json_if_any(whole).get("image_processor") or {}
    kind = settings.get("image_processor_type", settings.get("feature_extractor_type", "ViT"))
    if not str(kind).startswith(_HALVES) and not {"image_mean", "image_std"} <= settings.keys():
        raise InputError(
            f"{path}: image_mean and image_std are missing, and lightloom does not know those of "
            f"a {kind}; add them"
        )
    for key, value in settings.items():
        is_known = key in _READ or key in _IGNORED or key.startswith("_")
        if not is_known and not is_off(value):
            raise InputError(f"{path}: {key} = {value!r} is not computed by lightloom")
    result = images.astype(np.float32)
    if _is_asked(settings, "do_rescale", path):
        (factor,) = _numbers(settings, "rescale_factor", 1 / 255, 1, path)
        result *= factor
    if _is_asked(settings, "do_normalize", path):
        mean, std = (
            _numbers(settings, key, 0.5, images.shape[1], path)[:, None, None]
            for key in ("image_mean", "image_std")
        )
        if not (std > 0).all():
            raise InputError(f"{path}: image_std = {settings['image_std']!r} is not above 0")
        result -= mean
        result /= std
    return result


def _is_asked(settings: dict[str, Any], key: str, path: Path) -> bool:
    value = settings.get(key, True)
    if value not in (True, False, None):
        raise InputError(f"{path}: {key} = {value!r} is neither true nor false")
    return bool(value)


def _numbers(
    settings: dict[str, Any], key: str, default: float, count: int, path: Path
) -> np.ndarray:
    """Return a setting as finite numbers [count]."""
    value = settings.get(key)
    try:
        found = np.broadcast_to(
            np.asarray(default if value is None else value, dtype=np.float32), count
        )
    except (ValueError, TypeError):
        found = np.array([np.nan])
    if not np.isfinite(found).all():
        raise InputError(f"{path}: {key} = {value!r} is not {count} finite numbers")
    return found
