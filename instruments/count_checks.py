"""`complaint`: whether the counts of a frame can be those of a camera of so many bits.

Many 12-bit cameras send their counts left-aligned in words of 16 bits: 16 times too much, without
a word about it. Not here: saturation, which is light and no mistake.
"""

from __future__ import annotations

import numpy as np

_DISTINCT = 8  # counts, from which on steps of a power of two are no chance


def complaint(data: np.ndarray, bit_depth: int, shift: int = 0) -> str:
    """Return what is wrong with counts, as a clause with the way out; "" where nothing is.

    Parameters
    ----------
    data : as the camera sent it, uint8 or uint16
    bit_depth : of a count
    shift : bits by which counts are left-aligned, as the bench file says
    """
    if data.dtype.kind != "u" or not data.size:
        return f"a frame of {data.dtype} came; whole counts are wanted"
    word = 8 * data.dtype.itemsize
    if shift:
        return _of_shifted(data, bit_depth, shift, word)
    highest, most = int(data.max()), (1 << bit_depth) - 1
    spare = word - bit_depth
    if highest > most:
        way_out = f"if they are left-aligned, set count_shift = {spare}"
        if int(np.bitwise_or.reduce(data, axis=None)) & ((1 << max(spare, 0)) - 1):
            way_out = "set the bit depth, or pixel format, that the camera really has"
        return f"a count of {highest} came, and {bit_depth} bits hold {most} at most; {way_out}"
    return ""


def is_coarse(data: np.ndarray, bit_depth: int) -> int:
    """Return the bits by which counts seem to be left-aligned although they fit; 0 where not.

    A dim picture of left-aligned counts fits: only that all are multiples of a power of two tells.
    """
    spare = 8 * data.dtype.itemsize - bit_depth
    if spare <= 0 or int(np.bitwise_or.reduce(data, axis=None)) & ((1 << spare) - 1):
        return 0
    return spare if len(np.unique(data)) >= _DISTINCT else 0


def _of_shifted(data: np.ndarray, bit_depth: int, shift: int, word: int) -> str:
    if shift + bit_depth > word:
        return (
            f"count_shift = {shift} leaves no room for {bit_depth} bits in words of {word}; give "
            f"{word - bit_depth} at most"
        )
    if int(np.bitwise_or.reduce(data, axis=None)) & ((1 << shift) - 1):
        return (
            f"count_shift = {shift} would cut bits off that are set, so the counts are not "
            "left-aligned; leave it out"
        )
    highest, most = int(data.max()) >> shift, (1 << bit_depth) - 1
    if highest > most:
        return f"a count of {highest} came after count_shift, and {bit_depth} bits hold {most}"
    return ""
