"""Systematic errors of a bench: they are properties of the device, not of the run."""

from typing import Any

import numpy as np
import pytest
from lightloom.backends import Address, MockBackend, OpticsProfile, row_ids

ENCODINGS = ("abs-split", "push-pull", "offset")
every_detection = pytest.mark.parametrize("detection", ["balanced", "per-reading"])


def bench(seed: int = 0, **fields: Any) -> MockBackend:
    return MockBackend(OpticsProfile(**fields), seed)


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def curve(grey: np.ndarray, of: str, **fields: Any) -> np.ndarray:
    """Return the light of grey levels on one modulator and white on the other."""
    column = grey.astype(np.float32)[:, None]
    shown = np.concatenate([column, np.ones_like(column)], axis=1)  # the second keeps the scale
    white = np.array([[1, 0]], np.float32)
    backend = bench(**fields)
    if of == "input":
        return backend.matmul(shown, white).y[:, 0]
    return backend.matmul(white, shown).y[0]


@every_detection
@pytest.mark.parametrize("of", ["input", "weight"])
def test_the_error_of_a_response_curve_is_smooth_and_zero_at_black_and_white(
    of: str, detection: str
) -> None:
    # An operator would calibrate in vain: errors of response curves are smooth, not noise.
    grey = np.linspace(0, 1, 401)
    error = curve(grey, of, lut_rms=0.01, detection=detection) - grey
    assert abs(error[0]) < 1e-5 and abs(error[-1]) < 1e-5
    assert np.sqrt(np.mean(error**2)) == pytest.approx(0.01, rel=0.02)
    assert np.abs(np.diff(error)).max() < 0.01 * 6 * np.pi / 400 * 6**0.5


def test_the_error_of_a_response_curve_depends_on_device_and_modulator() -> None:
    # An operator would measure a response curve that changes with the next run.
    grey = np.linspace(0, 1, 51)
    first = curve(grey, "weight", lut_rms=0.01)
    assert np.array_equal(first, curve(grey, "weight", lut_rms=0.01, seed=5))
    others = [
        curve(grey, "weight", lut_rms=0.01, device_seed=1),
        curve(grey, "input", lut_rms=0.01),
    ]
    assert all(np.abs(first - other).max() > 1e-3 for other in others)


@every_detection
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_error_of_response_curves_scales_with_its_size(encoding: str, detection: str) -> None:
    # A user would lose the error budget: twice the error of a curve is twice that of a product.
    x, w = numbers(20, 300), numbers(500, 300, seed=2)
    fields = {"encoding": encoding, "detection": detection, "input_bits": 8, "weight_bits": 8}
    exact = bench(**fields).matmul(x, w).y.astype(np.float64)
    errors = [np.std(bench(lut_rms=rms, **fields).matmul(x, w).y - exact) for rms in (0.002, 0.004)]
    assert errors[0] > 1e-3 * np.std(exact)
    assert errors[1] / errors[0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("fields", [{"gain_rms": 0.02}, {"lut_rms": 0.02}, {"crosstalk": 0.02}])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_large_and_small_matrices_have_the_same_errors(
    encoding: str, fields: dict[str, Any]
) -> None:
    # A user would find a bench that changes with the size of a layer: large ones count in planes
    # of 8 bits, small ones in finer integers; they agree to 1/32,512 of an element.
    x, w = numbers(9, 400), numbers(300, 400, seed=2)
    fields = fields | {"encoding": encoding, "input_bits": 8, "weight_bits": 8, "rows": 600}
    large = bench(**fields).matmul(x, w).y[:, :100]
    small = bench(**fields).matmul(x, w[:100]).y
    kept = slice(None, -1) if "crosstalk" in fields else slice(None)  # the last has no neighbour
    scale = np.abs(x).max(1)[:, None] * np.abs(w[:100]).max(1) * 400**0.5
    assert (np.abs(large - small) / scale)[:, kept].max() < 6 / 32_512


# --- drift ---------------------------------------------------------------------------------------


def factors(positions: np.ndarray, sequence: int = 0, **fields: Any) -> np.ndarray:
    """Return the light of rows over that of a bench without drift: [rows, 3 outputs]."""
    x, w = np.ones((len(positions), 4)), np.array([[1.0] * 4, [-0.5] * 4, [0.25] * 4])
    ids = row_ids([sequence], 1, positions)[0, 0]
    return bench(**fields).matmul(x, w, Address("any", ids)).y / (x @ w.T)


@every_detection
@pytest.mark.parametrize("encoding", ["abs-split", "push-pull"])
def test_drift_is_slow_and_common_to_all_outputs(encoding: str, detection: str) -> None:
    # An operator could not use reference shots, which measure only the scale of the light.
    fields = {"encoding": encoding, "detection": detection, "drift_rms": 0.01, "drift_rows": 1000.0}
    found = factors(np.arange(0, 200_000, 20), **fields)
    assert np.abs(found - found[:, :1]).max() < 1e-5
    scale = found[:, 0].astype(np.float64)
    assert abs(scale.mean() - 1) < 0.004
    assert scale.std() == pytest.approx(0.01, rel=0.25)
    near = np.corrcoef(scale[1:], scale[:-1])[0, 1]
    # of 60 devices: the mean is 6.5 sigma within its limit, the spread 11.8; the correlation
    # scatters by 0.002 of near rows, and by 0.15 two of its lengths later (4.9 and 4.7 sigma)
    assert near == pytest.approx(np.exp(-2 * (np.pi * 20 / 1000) ** 2), abs=0.01)
    assert abs(np.corrcoef(scale[100:], scale[:-100])[0, 1]) < 0.75


def test_drift_depends_on_the_device_and_the_turn() -> None:
    # An operator would see another drift in every run, and a step in a resumed run.
    positions = np.arange(0, 4000, 100)
    fields = {"drift_rms": 0.01, "drift_rows": 1000.0}
    first = factors(positions, **fields)
    assert np.array_equal(first, factors(positions, seed=9, **fields))
    assert np.array_equal(first[7:], factors(positions[7:], **fields))
    assert np.allclose(factors(positions, 100, **fields), factors(positions + 100, **fields))
    assert np.abs(first - factors(positions, device_seed=1, **fields)).max() > 1e-3
