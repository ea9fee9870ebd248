"""Compiled steps of the bench's decoding (extra `fast`); `layouts.on_camera` has them in numpy."""

import numpy as np

from ...instruments.environment import compiled


@compiled()
def region_sums(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Sum light over rectangles int64 [n, 4] (top, left, bottom, right): float64 [n]."""
    sums = np.empty(len(regions), dtype=np.float64)
    for number in range(len(regions)):
        top, left, bottom, right = regions[number]
        total = 0.0
        for row in range(top, bottom):
            for column in range(left, right):
                total += image[row, column]
        sums[number] = total
    return sums


@compiled()
def count_sums(counts: np.ndarray, regions: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum counts, uint8 or uint16 [h, w], over rectangles int64 [n, 4]: int64 [n].

    One pass over whole rows adds up the columns, which a processor does for many columns at once.
    A rectangle is the difference of these sums at its bottom and its top. A sum of fewer than
    65,537 counts fits into 32 bits.

    Parameters
    ----------
    regions : top, left, bottom, right of each, at least one
    edges : row, rectangle, and -1 for its top or 1 for its bottom, by row, int64 [2 n, 3]
    """
    first, last = regions[:, 1].min(), regions[:, 3].max()
    columns = np.zeros(last - first, dtype=np.uint32)
    sums = np.zeros(len(regions), dtype=np.int64)
    row = edges[0, 0]
    for number in range(len(edges)):
        until, region, sign = edges[number]
        while row < until:
            line = counts[row, first:last]
            for column in range(len(columns)):
                columns[column] += line[column]
            row += 1
        total = np.int64(0)
        for column in range(regions[region, 1] - first, regions[region, 3] - first):
            total += columns[column]
        sums[region] += sign * total
    return sums


@compiled(error_model="numpy")  # as in numpy, a division by zero is not an error
def read_markers(
    electrons: np.ndarray,
    expected: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    mean_input: float,
    limits: tuple[float, float, float, float],
    noise: np.ndarray,
    parts: np.ndarray,
) -> tuple[int, int]:
    """Return the numbers that the markers of both roles show; -1 where one is not readable.

    Parameters
    ----------
    electrons : of marker cells, float64 [roles, copies, 2 bits]
    expected : light of bright cells, leak of the input, light of dark cells, variance without
        light, likewise
    limits : `layouts.base.MARKER_LIMITS`
    noise : receives their variance
    parts : receives the light of bright cells, of their dark complements, and the expected light of
        the former, float64 [roles, 3, bits, copies]
    """
    bright, leak, dark, dark_variance = expected
    least_light, most_light, least_contrast, sigmas = limits
    roles, copies, count = electrons.shape
    numbers = [0, 0]
    for role in range(roles):
        for bit in range(count // 2):
            first_is_one = False
            for copy in range(copies):
                one, other = (role, copy, 2 * bit), (role, copy, 2 * bit + 1)
                for at in (one, other):
                    noise[at] = max(electrons[at], 0.0) + dark_variance[at]
                one_e = electrons[one] - dark[one] - leak[one] * mean_input
                other_e = electrons[other] - dark[other] - leak[other] * mean_input
                light, complement = one_e / bright[one], other_e / bright[other]
                total = light + complement
                variance = noise[one] / (bright[one] * bright[one])
                variance += noise[other] / (bright[other] * bright[other])
                reach = 4 * np.sqrt(variance)
                if not (total + reach >= least_light):
                    return -1, -1
                if not (total - reach <= most_light):
                    return -1, -1
                is_one = light > complement
                brighter, darker = (one, other) if is_one else (other, one)
                spread = sigmas * 2 * np.sqrt(noise[darker]) / bright[brighter]
                contrast = abs(light - complement) / max(total, 1e-30) + spread
                if not (contrast >= least_contrast) or (copy and is_one != first_is_one):
                    return -1, -1
                first_is_one = is_one
                parts[role, 0, bit, copy] = one_e if is_one else other_e
                parts[role, 1, bit, copy] = other_e if is_one else one_e
                parts[role, 2, bit, copy] = bright[brighter]
            numbers[role] |= int(first_is_one) << bit
    return numbers[0], numbers[1]
