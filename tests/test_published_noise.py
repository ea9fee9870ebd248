"""The published photon-number noise model, stated as it was published, against its profile.

Without it, curves of accuracy against photons could not be laid over the published ones.
"""

import numpy as np
import pytest
from lightloom.backends import MockBackend, load_profile

ROWS, OUTPUTS, LENGTH, DRAWS = 6, 24, 40, 3000


def published(
    x: np.ndarray, w: np.ndarray, target: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return exact y, the variance of its noise, and the photons detected: [N, M] each."""
    span = w.max() - w.min()
    shown_w = (w - w.min()) / span
    shown_x = x / x.max(axis=1, keepdims=True)
    n_max = target * x.shape[1] / shown_x.sum(axis=1, keepdims=True)
    arriving = n_max * (shown_x @ shown_w.T)
    scale = span * x.max(axis=1, keepdims=True)
    return x @ w.T, scale**2 * arriving / n_max**2, arriving


@pytest.fixture(scope="module")
def operands() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.Generator(np.random.Philox(5))
    x = np.maximum(chance.standard_normal((ROWS, LENGTH)), 0)  # after a ReLU
    return x, chance.standard_normal((OUTPUTS, LENGTH))


@pytest.mark.parametrize("target", [0.66, 3.2, 500.0])
def test_profile_draws_the_published_noise(
    operands: tuple[np.ndarray, np.ndarray], target: float
) -> None:
    x, w = operands
    exact, variance, photons = published(x, w, target)
    profile = load_profile("photon-target-2022")
    backend = MockBackend(profile.with_settings({"photons_entering_per_mac": target}), seed=3)
    result = backend.matmul(np.tile(x, (DRAWS, 1)), w)
    draws = result.y.reshape(DRAWS, ROWS, OUTPUTS).astype(np.float64)
    # 144 means and 144 variances, each false by chance 3e-7 of the time at 5.1 sigma: 1e-4 in all
    off = (draws.mean(axis=0) - exact) / np.sqrt(variance / DRAWS)
    assert np.abs(off).max() < 5.1
    kurtosis = 1 / np.minimum(photons, 128)  # of Poisson; from 128 electrons on Gaussian
    error = np.sqrt((2 + kurtosis) / DRAWS)
    assert np.abs((draws.var(axis=0) / variance - 1) / error).max() < 5.1
    assert result.stats.photons == pytest.approx(DRAWS * photons.sum(), rel=1e-4)


def test_the_light_enters_whatever_the_weights_pass(
    operands: tuple[np.ndarray, np.ndarray],
) -> None:
    # photons_per_mac would hold the detected light instead: half the weights dark, twice the light
    x, w = operands
    dim = np.where(np.arange(OUTPUTS)[:, None] < OUTPUTS // 2, w.min(), w)
    profile = load_profile("photon-target-2022")
    light = [MockBackend(profile).matmul(x, weights).stats.photons for weights in (w, dim)]
    _, _, photons = published(x, dim, 1.0)
    assert light[1] < 0.6 * light[0]
    assert light[1] == pytest.approx(photons.sum(), rel=1e-4)
