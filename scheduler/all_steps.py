"""`warm_up`: calls every compiled host step once, with the types of real runs."""

import numpy as np

from .host_steps import activate, gate, layer_norm, rms_norm, rotary, softmax


def warm_up() -> None:
    """Run all host steps that have compiled loops."""
    x, ones = np.ones((1, 2, 8), dtype=np.float32), np.ones(8, dtype=np.float32)
    mapped = ones.copy()
    mapped.flags.writeable = False  # as in files that are mapped
    for weight in (ones, mapped):
        layer_norm(x, weight=weight, bias=weight, epsilon=1e-5)
        layer_norm(x, weight=weight, epsilon=1e-5)
        rms_norm(x, weight=weight, epsilon=1e-5)
    for function in ("gelu", "gelu_new", "silu"):
        activate(x, function=function)
        gate(x, x, function=function)
    heads = np.ones((1, 2, 2, 8), dtype=np.float32)
    softmax(heads, scale=1.0)
    softmax(heads, np.zeros((1, 1, 2, 8), dtype=np.float32), scale=1.0)
    softmax(heads[:, :, :1].copy(), scale=1.0)
    rotary(heads, 0, base=1e4)
    rotary(heads.transpose(0, 2, 1, 3), 0, base=1e4)
