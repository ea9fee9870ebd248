"""`ModelInputs`: checks tokens and images, and makes them the operands of a program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .pixels import normalised
from .weights import load_arrays, read_safetensors

CALIBRATION_TEXT = Path(__file__).parent / "shipped" / "calibration.txt"
_CALIBRATION_IMAGES, _CALIBRATION_ROWS, _CALIBRATION_TOKENS = 16, 8, 128


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
        """Return checked and normalised images [batch, channels, height, width], float32."""
        images = np.asarray(data)
        wanted = (self.config.channels, self.config.image, self.config.image)
        if images.ndim != 4 or images.shape[1:] != wanted or not len(images):
            raise InputError(
                f"images of shape {images.shape} do not fit {self.name!r}: give "
                f"[batch, {', '.join(map(str, wanted))}]"
            )
        if images.dtype.kind not in "fiu":
            raise InputError(f"images hold {images.dtype}, not numbers")
        if images.dtype.kind == "f":
            return images.astype(np.float32, copy=False)
        return normalised(images, self.source / "preprocessor_config.json")

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
            size = (_CALIBRATION_IMAGES, self.config.channels, self.config.image, self.config.image)
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
