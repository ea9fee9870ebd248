"""`ModelInputs`: checks tokens and images, and makes them the operands of a program.

Pixels become the numbers of a vision model by its preprocessor_config.json.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .config_keys import is_off, read_json_if_any
from .weights import load_arrays, read_safetensors

CALIBRATION_TEXT = Path(__file__).parent / "shipped" / "calibration.txt"
_CALIBRATION_IMAGES, _CALIBRATION_ROWS, _CALIBRATION_TOKENS = 16, 8, 128

# of preprocessor_config.json: keys that are read here, and keys of steps that have no effect, since
# images already have the model's size and channels
_PIXEL_KEYS = frozenset(
    "do_rescale rescale_factor do_normalize image_mean image_std "
    "crop_size data_format default_to_square device disable_grouping do_center_crop do_convert_rgb "
    "do_pad do_resize feature_extractor_type image_processor_type image_seq_length "
    "input_data_format model_type pad_size processor_class resample return_tensors size "
    "size_divisor".split()
)
# processors with a default mean and standard deviation of 0.5
_HALVES = ("ViT", "DeiT", "Beit", "ConvNext", "Siglip")


@dataclass(frozen=True)
class ModelInputs:
    """What a model takes: token ids within its vocabulary and context, or images of its size.

    Parameters
    ----------
    name, source, task, config : of the model
    """

    name: str
    source: Path
    task: str
    config: Any

    def check_task(self, task: str, what: str) -> None:
        """Refuse a call that only models of one task have."""
        if self.task != task:
            raise InputError(f"the model {self.name!r} ({self.task}) cannot {what}")

    def operands(
        self, data: Any, lengths: Any = None, past: int = 0
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Return a program's operands and sizes.

        Parameters
        ----------
        data : tokens [batch, sequence], or images [batch, channels, height, width]
        lengths : valid tokens of each row; None: all
        past : tokens before these

        Raises
        ------
        InputError : for inputs that do not fit the model
        """
        if self.task == "vision":
            images = self.images(data)
            new, batch = self.config.context, len(images)
            operands: dict[str, Any] = {"images": images}
        else:
            tokens = self.tokens(data, past)
            batch, new = tokens.shape
            operands = {"tokens": tokens}
        counts = np.full(batch, new) if lengths is None else np.asarray(lengths)
        if (
            counts.dtype.kind not in "iu"
            or counts.shape != (batch,)
            or not ((counts >= 1) & (counts <= new)).all()
        ):
            raise InputError(
                f"lengths {np.asarray(lengths)} are not {batch} whole numbers of 1 to {new}"
            )
        operands |= {"lengths": counts, "past": past}
        return operands, {"batch": batch, "new": new, "past": past}

    def tokens(self, data: Any, past: int = 0) -> np.ndarray:
        """Return checked tokens [batch, sequence]."""
        try:
            tokens = np.asarray(data)
        except ValueError:
            raise InputError(
                "tokens are integers [batch, sequence]; the rows differ in length"
            ) from None
        if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
            raise InputError(
                f"tokens are integers [batch, sequence], not {tokens.dtype} of shape {tokens.shape}"
            )
        count, context = past + tokens.shape[1], self.config.context
        if count > context:
            raise InputError(
                f"{count} tokens are more than the context of {self.name!r} holds ({context}); "
                "shorten the text"
            )
        if tokens.min() < 0 or tokens.max() >= self.config.vocabulary:
            raise InputError(
                f"tokens run from {tokens.min()} to {tokens.max()}, but the vocabulary of "
                f"{self.name!r} has {self.config.vocabulary}"
            )
        return tokens

    def images(self, data: Any) -> np.ndarray:
        """Return checked and normalised images or vectors [batch, ...], float32."""
        images = np.asarray(data)
        wanted = tuple(self.config.image_shape)
        if images.shape[1:] != wanted or not images.size:
            raise InputError(
                f"images of shape {images.shape} do not fit {self.name!r}: give "
                f"[batch, {', '.join(map(str, wanted))}]"
            )
        if images.dtype.kind not in "fiu":
            raise InputError(f"images hold {images.dtype}, not numbers")
        if images.dtype.kind == "f":
            return images.astype(np.float32, copy=False)
        return _normalised(images, self.source / "preprocessor_config.json")

    def for_calibration(self, rows_of: Callable[[str, int], np.ndarray] | None) -> np.ndarray:
        """Return calibration data of the model or lightloom, or random data with a fixed seed.

        Parameters
        ----------
        rows_of : cuts a text into rows of tokens; None for a model without a tokenizer
        """
        generator = np.random.Generator(np.random.Philox(0))
        if self.task == "vision":
            path = self.source / "data.safetensors"
            if path.is_file() and "calibration_images" in read_safetensors(path):
                return load_arrays(path)["calibration_images"]
            size = (_CALIBRATION_IMAGES, *self.config.image_shape)
            return generator.standard_normal(size).astype(np.float32)
        length = min(_CALIBRATION_TOKENS, self.config.context)
        if rows_of is None:
            return generator.integers(0, self.config.vocabulary, (_CALIBRATION_ROWS, length))
        rows = rows_of(CALIBRATION_TEXT.read_text(encoding="utf-8"), length)
        return rows[:_CALIBRATION_ROWS]


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of tokens as one array [rows, longest], zeros on the right, and their lengths."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens, lengths


def _normalised(images: np.ndarray, path: Path) -> np.ndarray:
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
        if key not in _PIXEL_KEYS and not key.startswith("_") and not is_off(value):
            raise InputError(f"{path}: {key} = {value!r} is not computed by lightloom")
    result = images.astype(np.float32)
    if _is_asked(settings, "do_rescale", path):
        (factor,) = _numbers(settings, "rescale_factor", 1 / 255, 1, path)
        result *= factor
    if _is_asked(settings, "do_normalize", path):
        mean, std = (
            _numbers(settings, key, 0.5, images.shape[1], path).reshape(
                -1, *[1] * (images.ndim - 2)
            )
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
