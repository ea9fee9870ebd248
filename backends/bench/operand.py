"""`EncodedOperand`: numbers as shares of full light, rail by rail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..optics.layouts import Layout


@dataclass(frozen=True)
class EncodedOperand:
    """Numbers as shares of full light, and what to put back digitally.

    Parameters
    ----------
    signs : of the rails
    shares : of full light above darkness, float64 [rails, ..., length of a slot]
    scale, low : number = scale * share * sign + low, [..., 1]
    """

    signs: tuple[int, ...]
    shares: np.ndarray
    scale: np.ndarray
    low: np.ndarray


def encode_input(values: np.ndarray, layout: Layout) -> EncodedOperand:
    """Scale rows of x [..., K] to shares of full light, and pad them to a slot."""
    return _encode(values, layout, is_weight=False)


def encode_weight(
    values: np.ndarray, layout: Layout, largest: np.ndarray | None = None
) -> EncodedOperand:
    """Scale rows of weights [..., K] to shares of full light, and pad them to a slot.

    Parameters
    ----------
    largest : magnitude that becomes full light, [..., 1]; None takes each row's own
    """
    return _encode(values, layout, True, largest)


def _encode(
    values: np.ndarray, layout: Layout, is_weight: bool, largest: np.ndarray | None = None
) -> EncodedOperand:
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
    shares = np.stack(parts) / scale
    if kind == "push-pull" and is_weight:
        shares = np.stack([(1 + values / scale) / 2, (1 - values / scale) / 2])
    short = layout.length - values.shape[-1]
    shares = np.pad(np.clip(shares, 0, 1), [(0, 0)] * (shares.ndim - 1) + [(0, short)])
    return EncodedOperand(signs, shares, scale, low)
