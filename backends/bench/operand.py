"""`EncodedOperand`: numbers as normalised intensity, one rail per sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..optics.layouts import Layout


@dataclass(frozen=True)
class EncodedOperand:
    """Numbers as normalised intensity, with scale and offset for the digital decoding.

    Parameters
    ----------
    signs : of the rails
    intensity : 0 at the darkest level, 1 at full light, float64 [rails, ..., length of a slot]
    scale, low : number = scale * intensity * sign + low, [..., 1]
    """

    signs: tuple[int, ...]
    intensity: np.ndarray
    scale: np.ndarray
    low: np.ndarray


def encode_operand(
    values: np.ndarray, layout: Layout, largest: np.ndarray | None = None, is_weight: bool = False
) -> EncodedOperand:
    """Return rows [..., K] of x or of weights as normalised intensity, padded to a slot's length.

    Parameters
    ----------
    largest : magnitude that becomes full light, [..., 1]; None for the largest of each row
    """
    values = values.astype(np.float64)
    kind = layout.encoding.kind
    low = np.zeros((*values.shape[:-1], 1))
    signs: tuple[int, ...]
    if kind == "offset":
        low = values.min(axis=-1, keepdims=True)
        scale = values.max(axis=-1, keepdims=True) - low
        signs, parts = (1,), [values - low]
    else:
        scale = np.abs(values).max(axis=-1, keepdims=True) if largest is None else largest
        signs, parts = (1, -1), [np.maximum(values, 0), np.maximum(-values, 0)]
    scale = np.where(scale > 0, scale, 1.0)
    intensity = np.stack(parts) / scale
    if kind == "push-pull" and is_weight:
        intensity = np.stack([(1 + values / scale) / 2, (1 - values / scale) / 2])
    short = layout.length - values.shape[-1]
    intensity = np.pad(np.clip(intensity, 0, 1), [(0, 0)] * (intensity.ndim - 1) + [(0, short)])
    return EncodedOperand(signs, intensity, scale, low)
