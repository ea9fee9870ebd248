"""Ten million numbers of every bench against the theory of its light, and tails to 5.5 sigma.

The figures that docs/explanation/figures.md quotes come from here:

    pytest -m campaign tests/test_noise_campaign.py -s -n 0

Each of the 30 ratios is within three standard errors with a probability of 0.9973 for a random
seed; the seed is fixed. LIGHTLOOM_CAMPAIGN=full draws 1e9 numbers for the tails, else 4e7.
"""

import math
import os

import numpy as np
import pytest
from lightloom.backends import Address, MockBackend, OpticsProfile
from lightloom.backends.mock.noise import NoiseKeys, normals, product_key
from reference_optics import theory

pytestmark = pytest.mark.campaign  # numpy gives the same bits (test_mock_paths.py)

FULL = os.environ.get("LIGHTLOOM_CAMPAIGN") == "full"
BENCHES = [
    (encoding, detection)
    for encoding in ("abs-split", "push-pull", "offset")
    for detection in ("balanced", "per-reading")
]
LEVELS = (5.0, 100.0, 1e3, 1e4, 1e6)
ROWS, OUTPUTS, LENGTH, REPEATS = 2_000, 250, 24, 20


@pytest.mark.parametrize(("encoding", "detection"), BENCHES)
@pytest.mark.parametrize("photons", LEVELS)
def test_ten_million_numbers_have_the_variance_of_the_light(
    encoding: str, detection: str, photons: float
) -> None:
    # A user would lose the light budget by as much as this ratio is off.
    chance = np.random.default_rng(12)
    x, w = chance.normal(size=LENGTH), chance.normal(size=(OUTPUTS, LENGTH))
    profile = OpticsProfile(
        encoding=encoding,
        detection=detection,
        photons_full_scale=photons,
        input_bits=8,
        weight_bits=8,
        dark_e=2.0,
        read_noise_e=1.5,
    )
    seed = 20_241 + 100 * BENCHES.index((encoding, detection)) + LEVELS.index(photons)
    backend, known = MockBackend(profile, seed), theory(x[None], w, profile)
    prepared, rows = backend.prepare(w), np.broadcast_to(x, (ROWS, LENGTH))
    moments = np.zeros(3)
    for repeat in range(REPEATS):
        ids = np.arange(repeat * ROWS, (repeat + 1) * ROWS, dtype=np.uint64)
        y = backend.matmul(rows, prepared, Address("campaign", ids)).y.astype(np.float64)
        z = (y - known.mean) / np.sqrt(known.variance)
        square = z * z
        moments += [z.sum(), square.sum(), np.einsum("ij,ij->", square, square)]
    count = ROWS * OUTPUTS * REPEATS
    mean, variance, fourth = moments / count
    excess = float(known.excess_kurtosis.mean())
    error = math.sqrt((2 + excess) / count)
    kurtosis = fourth / variance**2 / (3 + excess)
    print(
        f"\n{encoding:<10} {detection:<12} {photons:>8.0f}: variance / theory {variance:.5f} "
        f"({(variance - 1) / error:+.2f} standard errors), kurtosis / theory {kurtosis:.4f}, "
        f"mean {mean * math.sqrt(count):+.2f} standard errors",
        end="",
    )
    assert count >= 10_000_000
    # false alarms of all 30 campaigns together: 2e-4, 2e-3, and none (9.7 sigma)
    assert abs(variance - 1) < 4.5 * error
    assert abs(mean) * math.sqrt(count) < 4
    assert kurtosis == pytest.approx(1, abs=0.005)


def test_tails_are_right_to_five_and_a_half_sigma() -> None:
    # A user would lose saturation rates, and detectors of rare events everything.
    key = product_key(77, "tails", 0)
    blocks, rows, outputs = (1_000 if FULL else 40), 1_000, 1_000
    sigmas = (3.0, 4.0, 4.5, 5.0, 5.5)
    found = np.zeros((len(sigmas), 2), dtype=int)
    for block in range(blocks):
        ids = np.arange(block * rows, (block + 1) * rows, dtype=np.uint64)
        z = normals(NoiseKeys(key, ids, 0), 0, outputs)
        outer = z[np.abs(z) > sigmas[0]]
        found += [[np.count_nonzero(side * outer > s) for side in (1, -1)] for s in sigmas]
    count = blocks * rows * outputs
    for sigma, sides in zip(sigmas, found, strict=True):
        expected = count * math.erfc(sigma / math.sqrt(2)) / 2
        print(f"\nbeyond {sigma} sigma: {sides.tolist()}, expected {expected:.1f} each", end="")
        for side in sides:  # square roots of Poisson counts have a variance of 1/4: 6e-4
            assert abs(2 * (math.sqrt(side + 3 / 8) - math.sqrt(expected + 3 / 8))) < 4
