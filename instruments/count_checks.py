"""Checks whether the counts of a frame fit the bit depth of the camera.

Many 12-bit cameras send counts left-aligned in 16-bit words, 16 times too large, without saying so.
Not here: saturation, which is a property of the light and not a format error.
"""

from __future__ import annotations

import numpy as np

_MIN_DISTINCT = 8  # distinct counts, above which steps of a power of two are not chance


def count_problem(data: np.ndarray, bit_depth: int, shift: int = 0) -> tuple[str, int]:
    """Return the problem of counts and its remedy as one clause, and the highest count.

    The clause is "" where there is no problem. The count is shifted back.

    Parameters
    ----------
    data : counts as the camera sent them, uint8 or uint16
    bit_depth : bits of a count
    shift : bits by which counts are left-aligned according to the bench file
    """
    if data.dtype.kind != "u" or not data.size:
        return f"it sent a frame of {data.dtype}; integer counts are needed", 0
    word = 8 * data.dtype.itemsize
    spare = word - bit_depth
    if shift and shift > spare:
        return (
            f"count_shift = {shift} leaves no room for {bit_depth} bits in {word}-bit words; set "
            f"it to at most {spare}"
        ), 0
    if shift and not _are_multiples(data, shift):
        return (
            f"count_shift = {shift} would discard bits that are set, so the counts are not "
            "left-aligned; remove count_shift"
        ), 0
    highest, most = int(data.max()) >> shift, (1 << bit_depth) - 1
    if highest <= most:
        return "", highest
    if shift:
        problem = f"a count is {highest} after count_shift, and {bit_depth} bits hold at most"
        return f"{problem} {most}", highest
    remedy = "set the bit depth, or pixel format, that the camera really has"
    if _are_multiples(data, spare):
        remedy = f"if they are left-aligned, set count_shift = {spare}"
    problem = f"it sent a count of {highest}, and {bit_depth} bits hold at most {most}"
    return f"{problem}; {remedy}", highest


def alignment_shift(data: np.ndarray, bit_depth: int) -> int:
    """Return the bits by which counts seem to be left-aligned although they fit; 0 for none.

    Left-aligned counts of a dim image fit the bit depth. Only their common factor, a power of two,
    shows the alignment.
    """
    spare = 8 * data.dtype.itemsize - bit_depth
    if spare <= 0 or not _are_multiples(data, spare):
        return 0
    return spare if len(np.unique(data)) >= _MIN_DISTINCT else 0


def _are_multiples(data: np.ndarray, bits: int) -> bool:
    """Return whether all counts are multiples of a power of two."""
    return not int(np.bitwise_or.reduce(data, axis=None)) & ((1 << max(bits, 0)) - 1)
