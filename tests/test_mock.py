"""`MockBackend` has the physics of the design, compared with the kit's `reference_optics`.

Every statistical check gives standard scores. There are about 22,000 of them in this file and each
may reach `LIMIT` = 5.5 (two-sided false-alarm rate 3.8e-8), so that a correct backend fails with a
probability below 1e-3 for a random seed. Seeds are fixed, so a failure is reproducible.
Scores of variances and of histograms are made Gaussian by Wilson and Hilferty's cube root.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightloom.backends import Address, MatmulResult, MockBackend, OpticsProfile, Ranges
from lightloom.backends.mock.noise import NoiseKeys, normals, product_key
from lightloom.instruments import InputError
from reference_optics import Theory, theory

LIMIT = 5.5
SEED = 20_240
ENCODINGS = ("abs-split", "push-pull", "offset")
DETECTIONS = ("balanced", "per-reading")
LIGHT_LEVELS = (5.0, 50.0, 1e3, 1e6)
REPEATS = 4000

every_bench = pytest.mark.parametrize(
    ("encoding", "detection"), [(e, d) for e in ENCODINGS for d in DETECTIONS]
)


def bench(seed: int = SEED, **fields: Any) -> MockBackend:
    return MockBackend(OpticsProfile(**fields), seed)


def address(rows: Any, matmul: str = "test", attempt: int = 0) -> Address:
    return Address(matmul, np.asarray(rows, dtype=np.uint64), attempt)


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exposed_often(
    backend: MockBackend, x: np.ndarray, w: np.ndarray, repeats: int = REPEATS, first: int = 0
) -> tuple[MatmulResult, Theory]:
    """Multiply one row x [K] at many addresses; return the theory of it as well."""
    result = backend.matmul(
        np.broadcast_to(x, (repeats, x.size)), w, address(first + np.arange(repeats))
    )
    return result, theory(x[None], w, backend.profile)


def residuals(backend: MockBackend, x: np.ndarray, w: np.ndarray, **at: Any) -> np.ndarray:
    """Return standardised noise [repeats, M] of one row x [K]."""
    rows = np.broadcast_to(x, (REPEATS, x.size))
    first = at.pop("first", 0)
    ids = np.arange(REPEATS, dtype=np.uint64) + np.uint64(first)
    y = backend.matmul(rows, w, address(ids, **at)).y
    known = theory(x[None], w, backend.profile)
    return np.asarray((y - known.mean) / np.sqrt(known.variance))


def score_of_chi_square(value: Any, freedom: Any) -> Any:
    share = 2 / (9 * freedom)
    return ((value / freedom) ** (1 / 3) - (1 - share)) / np.sqrt(share)


def score_of_histogram(observed: np.ndarray, expected: np.ndarray) -> float:
    """Return the score of counts per value; values expected less than ten times are merged."""
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0.5
    assert not observed[~kept].any()
    chi_square = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    return float(score_of_chi_square(chi_square, kept.sum() - 1))


def score_of_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1] * math.sqrt(one.size))


def assert_moments(y: np.ndarray, known: Theory, outputs_are_independent: bool = True) -> None:
    repeats = len(y)
    error = y.astype(np.float64) - known.mean
    mean_scores = error.mean(0) / np.sqrt(known.variance[0] / repeats)
    assert np.abs(mean_scores).max() < LIMIT
    ratio = (error**2).mean(0) / known.variance[0]
    freedom = 2 * repeats / (2 + known.excess_kurtosis[0])
    assert np.abs(score_of_chi_square(ratio * freedom, freedom)).max() < LIMIT
    if outputs_are_independent:
        freedom = freedom.sum() * freedom.min() / freedom.max()  # of the mean ratio, or a bit less
        assert abs(score_of_chi_square(ratio.mean() * freedom, freedom)) < LIMIT


# --- products without noise -------------------------------------------------------


@every_bench
@pytest.mark.parametrize("extinction", [None, "leak", "clamp"])
@pytest.mark.parametrize("bits", [None, 8, 4, 2])
@pytest.mark.parametrize("length", [None, 10])
def test_noise_free_product_follows_the_formulas(
    encoding: str, detection: str, extinction: str | None, bits: int | None, length: int | None
) -> None:
    # Otherwise the systematic errors of a bench would be wrong in every result.
    backend = bench(
        encoding=encoding,
        detection=detection,
        input_bits=bits,
        weight_bits=bits,
        length=length,
        extinction_ratio=20.0 if extinction else None,
        extinction_model=extinction or "leak",
    )
    x, w = numbers(7, 23), numbers(8, 23, seed=2) * np.float32(10.0) ** np.arange(-3, 5)[:, None]
    x[1], x[2], w[3], w[4] = np.abs(x[1]), 0, 0, np.abs(w[4])
    x[3, :10], x[4] = np.abs(x[3, :10]), -np.abs(x[4])
    y, known = backend.matmul(x, w).y, theory(x, w, backend.profile)
    scale = np.abs(x).max(1)[:, None] * np.abs(w).sum(1) + 1e-30
    assert (np.abs(y - known.mean) / scale).max() < 1e-5


@every_bench
def test_finer_modulators_come_closer_to_the_exact_product(encoding: str, detection: str) -> None:
    # Otherwise more bits would not help; ideal modulators must be exact.
    x, w = numbers(20, 30), numbers(9, 30, seed=2)
    errors = []
    for bits in (3, 6, 9, None):
        backend = bench(encoding=encoding, detection=detection, input_bits=bits, weight_bits=bits)
        errors.append(np.abs(backend.matmul(x, w).y - x.astype(float) @ w.T).max())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def crosstalk_error(encoding: str, detection: str, rows: int | None, ratio: float | None) -> float:
    backend = bench(
        encoding=encoding, detection=detection, crosstalk=0.1, rows=rows, extinction_ratio=ratio
    )
    x, w = numbers(5, 12), numbers(7, 12, seed=2)
    x[1] = np.abs(x[1])
    return float(np.abs(backend.matmul(x, w).y - theory(x, w, backend.profile).mean).max())


@pytest.mark.parametrize("encoding", ["abs-split", "push-pull"])
@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("ratio", [None, 20.0])
def test_crosstalk_mixes_neighbouring_rails_of_one_frame(
    encoding: str, detection: str, rows: int | None, ratio: float | None
) -> None:
    # A user would lose the reason to leave guard rows between outputs.
    assert crosstalk_error(encoding, detection, rows, ratio) < 1e-4


@pytest.mark.parametrize("detection", DETECTIONS)
def test_offset_under_crosstalk_adds_the_sum_of_the_weights_not_of_their_mixture(
    detection: str,
) -> None:
    # The main drawback of the offset encoding must show: its large cross terms are added digitally
    # from W (table of the design), so crosstalk on the light is multiplied by x0 as well.
    assert crosstalk_error("offset", detection, None, None) < 1e-4


# --- gains of the device -------------------------------------------------------------------------


def gain_score(encoding: str, detection: str) -> float:
    """Compare the error by gains of 2 % with sum over elements of (light of the element)^2."""
    x, w = numbers(1, 40), numbers(64, 40, seed=2)
    x, w = x / np.abs(x).max(), w / np.abs(w).max(1, keepdims=True)
    light = (x * w) ** 2
    if encoding == "push-pull":
        light = x**2 * (1 + w**2) / 2  # ((1 + w) / 2)^2 + ((1 - w) / 2)^2
    if encoding == "offset":
        light = ((x - x.min()) * (w - w.min(1, keepdims=True))) ** 2
    chi_square = 0.0
    for device in range(10):
        backend = bench(
            encoding=encoding, detection=detection, gain_rms=0.02, device_seed=device, rows=1000
        )
        error = backend.matmul(x, w).y.astype(float) - x.astype(float) @ w.T
        chi_square += (error**2 / (0.02**2 * light.sum(1))).sum()
    return float(score_of_chi_square(chi_square, 10 * len(w)))


@pytest.mark.parametrize("encoding", ["abs-split", "push-pull"])
@pytest.mark.parametrize("detection", DETECTIONS)
def test_gain_errors_scale_with_the_light(encoding: str, detection: str) -> None:
    # A user would lose the accuracy budget of an uncalibrated bench.
    assert abs(gain_score(encoding, detection)) < LIMIT


@pytest.mark.parametrize("detection", DETECTIONS)
def test_gain_errors_of_offset_act_on_the_light_before_the_cross_terms(detection: str) -> None:
    # As for crosstalk: a user would take the offset encoding for less sensitive than it is.
    assert abs(gain_score("offset", detection)) < LIMIT


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gain_errors_are_constant_for_a_device(encoding: str) -> None:
    # A user would lose the point of calibration: a device's error is the same in every exposure.
    x, w = numbers(4, 12), numbers(5, 12, seed=2)
    one, other = (bench(encoding=encoding, gain_rms=0.05, device_seed=d) for d in (1, 2))
    again = bench(encoding=encoding, gain_rms=0.05, device_seed=1, seed=7)
    assert np.array_equal(one.matmul(x, w).y, one.matmul(x, w).y)
    assert np.array_equal(one.matmul(x, w).y, again.matmul(x, w).y)
    assert not np.array_equal(one.matmul(x, w).y, other.matmul(x, w).y)


# --- mean and variance of the noise --------------------------------------------------------------


@every_bench
@pytest.mark.parametrize("photons", LIGHT_LEVELS)
@pytest.mark.parametrize("signed", [True, False])
def test_shot_noise_has_the_mean_and_the_variance_of_the_light(
    encoding: str, detection: str, photons: float, signed: bool
) -> None:
    # A user would lose the light budget: how many photons a wanted accuracy costs.
    x, w = numbers(16), numbers(40, 16, seed=2)
    backend = bench(encoding=encoding, detection=detection, photons_full_scale=photons)
    result, known = exposed_often(backend, x if signed else np.abs(x), w)
    assert_moments(result.y, known)


TERMS: dict[str, dict[str, Any]] = {
    "dark": {"dark_e": 4e3},
    "weak dark": {"photons_full_scale": 2.0, "dark_e": 9.0, "dark_frames": 3},
    "dark level": {"dark_e": 4e3, "dark_frames": 2},
    "read": {"read_noise_e": 80.0},
    "weak read": {"photons_full_scale": 2.0, "read_noise_e": 6.0},
    "source": {"source_rms": 0.2, "photons_full_scale": 1e4},
    "source alone": {"source_rms": 0.03, "photons_full_scale": None},
    "leak": {"extinction_ratio": 5.0},
    "clamp": {"extinction_ratio": 5.0, "extinction_model": "clamp"},
    "bits": {"input_bits": 4, "weight_bits": 3},
    "segments": {"length": 10},
    "crosstalk": {"crosstalk": 0.2, "rows": 6},
    "per mac": {"photons_full_scale": None, "photons_per_mac": 20.0, "length": 10},
    "few per mac": {"photons_full_scale": None, "photons_per_mac": 0.5},
    "dark per mac": {"photons_full_scale": None, "photons_per_mac": 9.0, "dark_e": 500.0},
    "converter": {
        "photons_full_scale": 80.0,
        "read_noise_e": 15.0,
        "readout_bits": 6,
        "readout_range": 10.0,
    },
    "all": {
        "dark_e": 900.0,
        "dark_frames": 4,
        "read_noise_e": 40.0,
        "source_rms": 0.05,
        "extinction_ratio": 20.0,
        "length": 12,
        "input_bits": 8,
        "weight_bits": 8,
    },
}


@every_bench
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("signed", [True, False])
def test_each_term_of_the_variance_follows_the_formula(
    encoding: str, detection: str, term: str, signed: bool
) -> None:
    # A user would lose the answer to "what limits my bench": light, dark, read-out or source.
    fields = {"photons_full_scale": 300.0} | TERMS[term]
    x, w = numbers(16), numbers(40, 16, seed=2)
    backend = bench(encoding=encoding, detection=detection, **fields)
    result, known = exposed_often(backend, x if signed else np.abs(x), w)
    assert result.stats.saturated == 0
    assert_moments(result.y, known, outputs_are_independent="source_rms" not in fields)


# --- the distribution of few photons and of the tails --------------------------------------------


def poisson_probabilities(mean: float, count: int) -> np.ndarray:
    k = np.arange(count)
    return np.exp(k * math.log(mean) - mean - np.array([math.lgamma(n + 1) for n in k]))


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("photons", [0.3, 3.0, 9.5, 10.5, 40.0, 120.0])
def test_few_photons_have_poisson_counts(detection: str, photons: float) -> None:
    # A user would lose the physics of the dimmest benches, where no Gaussian is right.
    backend = bench(detection=detection, photons_full_scale=photons)
    y = exposed_often(backend, np.ones(1), np.ones((1, 1)), repeats=40_000)[0].y[:, 0]
    counts = np.rint(y * photons)
    assert np.abs(y * photons - counts).max() < 1e-3
    expected = len(y) * poisson_probabilities(photons, 400)
    assert counts.min() >= 0
    assert score_of_histogram(np.bincount(counts.astype(int), minlength=400), expected) < LIMIT


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("photons", [1.0, 14.0, 100.0])
def test_the_difference_of_two_rails_is_that_of_two_independent_counts(
    detection: str, photons: float
) -> None:
    # A user would lose the noise of every zero weight under push-pull: both rails are half lit.
    backend = bench(detection=detection, encoding="push-pull", photons_full_scale=photons)
    x, w = np.array([1.0, 0.0]), np.array([[0.0, 1.0]])
    y = exposed_often(backend, x, w, repeats=40_000)[0].y[:, 0]
    counts = np.rint(y * photons).astype(int)
    half = poisson_probabilities(photons / 2, 200)
    expected = len(y) * np.convolve(half, half[::-1])
    assert score_of_histogram(np.bincount(counts + 199, minlength=399), expected) < LIMIT


@pytest.fixture(scope="module")
def gaussians() -> list[np.ndarray]:
    """Return 2e7 numbers in 20 blocks of 1000 rows with 1000 outputs."""
    key = product_key(SEED, "tails", 0)
    ids = [np.arange(1000 * i, 1000 * (i + 1), dtype=np.uint64) for i in range(20)]
    return [normals(NoiseKeys(key, rows, 0), 0, 1000) for rows in ids]


def two_sided_rate(sigma: float) -> float:
    return math.erfc(sigma / math.sqrt(2))


@pytest.mark.parametrize("sigma", [2.0, 3.0, 4.0, 4.17, 4.3, 4.5, 5.0])
@pytest.mark.parametrize("side", [-1, 1])
def test_gaussian_tails_have_the_right_weight(
    gaussians: list[np.ndarray], sigma: float, side: int
) -> None:
    # A user would lose saturation rates: a table without tails never clips.
    found = sum(int(np.count_nonzero(side * block > sigma)) for block in gaussians)
    expected = 2e7 * two_sided_rate(sigma) / 2
    # square roots of Poisson counts have a variance of 1/4, also of few of them
    assert abs(2 * (math.sqrt(found + 3 / 8) - math.sqrt(expected + 3 / 8))) < LIMIT


def test_gaussian_moments_are_right(gaussians: list[np.ndarray]) -> None:
    # A user would lose a fraction of the noise without noticing.
    moments = np.zeros(4)
    for block in gaussians:
        z = block.astype(np.float64)
        square = z * z
        moments += [z.mean(), square.mean(), (square * z).mean(), (square**2).mean()]
    mean, variance, third, fourth = moments / len(gaussians)
    root = math.sqrt(2e7)
    assert abs(mean) * root < LIMIT
    assert abs(variance - 1) * root / math.sqrt(2) < LIMIT
    assert abs(third) * root / math.sqrt(15) < LIMIT
    assert abs(fourth - 3) * root / math.sqrt(96) < LIMIT
    assert abs(fourth / variance**2 - 3) * root / math.sqrt(24) < LIMIT


def test_gaussian_histogram_is_flat_in_probability(gaussians: list[np.ndarray]) -> None:
    # A user would lose the shape between centre and tail.
    edges = np.array([NormalDist().inv_cdf(i / 200) for i in range(1, 200)])
    observed = sum(
        np.bincount(np.searchsorted(edges, block.ravel()), minlength=200) for block in gaussians[:4]
    )
    assert score_of_histogram(np.asarray(observed), np.full(200, 4e6 / 200)) < LIMIT


def test_tail_numbers_are_independent(gaussians: list[np.ndarray]) -> None:
    # Otherwise equal extremes in different rows would be one draw.
    tails = np.concatenate([block[np.abs(block) > 4.2] for block in gaussians])
    assert len(np.unique(tails)) > 0.99 * len(tails)


# --- independence --------------------------------------------------------------------------------


@every_bench
@pytest.mark.parametrize("photons", [3.0, 1e5])
def test_outputs_rows_attempts_products_and_seeds_are_independent(
    encoding: str, detection: str, photons: float
) -> None:
    # A user would lose averaging: repeats and sums over outputs would not reduce the noise.
    fields = {"encoding": encoding, "detection": detection, "photons_full_scale": photons}
    x, w = numbers(8), numbers(20, 8, seed=2)
    backend = bench(**fields)
    noise = residuals(backend, x, w)
    between_outputs = np.corrcoef(noise.T)[np.triu_indices(20, 1)]
    assert np.abs(between_outputs).max() * math.sqrt(REPEATS) < LIMIT
    lags = [score_of_correlation(noise[lag:], noise[:-lag]) for lag in (1, 2, 3, 4, 5, 8, 16, 64)]
    shifts = [score_of_correlation(noise[1:, s:], noise[:-1, : 20 - s]) for s in range(1, 20)]
    assert np.abs(lags + shifts).max() < LIMIT
    others = [
        residuals(backend, x, w, attempt=1),
        residuals(backend, x, w, matmul="another"),
        residuals(backend, x, w, first=2**24),
        residuals(backend, x, w, first=2**40),
        residuals(backend, x, w, first=2**63),
        residuals(bench(seed=SEED + 1, **fields), x, w),
    ]
    assert np.abs([score_of_correlation(noise, other) for other in others]).max() < LIMIT


@every_bench
@pytest.mark.parametrize("photons", [3.0, 1e5])
def test_segments_of_one_product_are_independent(
    encoding: str, detection: str, photons: float
) -> None:
    # A user would lose the advantage of cutting K: noise of segments adds in quadrature.
    fields = {"encoding": encoding, "detection": detection, "photons_full_scale": photons}
    part, dark = numbers(8), np.zeros(8)
    w = np.tile(numbers(20, 8, seed=2), 2)
    length = 16 if detection == "balanced" and encoding != "offset" else 8
    one, other = (
        residuals(bench(length=length, **fields), np.concatenate(halves).astype(np.float32), w)
        for halves in ((part, dark), (dark, part))
    )
    assert abs(score_of_correlation(one, other)) < LIMIT


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("detection", DETECTIONS)
def test_source_noise_is_common_only_to_one_exposure(encoding: str, detection: str) -> None:
    # A user would lose the chance to divide source noise out by a reference output.
    backend = bench(encoding=encoding, detection=detection, source_rms=0.02, rows=8)
    frame = 8 if encoding == "offset" else 4
    x, w = np.abs(numbers(8)), numbers(2 * frame, 8, seed=2)
    noise = residuals(backend, x, w)
    if encoding != "offset":
        noise *= np.sign(theory(x[None], w, backend.profile).mean)
    first, second = noise[:, :frame], noise[:, frame:]
    assert np.abs(first - first[:, :1]).max() < 1e-2
    assert np.abs(second - second[:, :1]).max() < 1e-2
    assert abs(score_of_correlation(first[:, 0], second[:, 0])) < LIMIT
    assert abs(score_of_correlation(first[1:, 0], first[:-1, 0])) < LIMIT


# --- read-out ------------------------------------------------------------------------------------


def ramp(smallest: float, largest: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows [1, a] and weights [0, 1]: products a that no scale changes."""
    values = np.linspace(smallest, largest, count)
    return np.stack([np.ones(count), values], axis=1).astype(np.float32), np.array([[0.0, 1.0]])


def converted(value: np.ndarray, limit: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Return the output of a two's-complement converter, and the number of clipped values."""
    step = 2 * limit / (2**bits - 1)
    code = np.rint(value / step)
    shown = np.clip(code, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return step * shown, int(np.count_nonzero(shown != code))


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
@pytest.mark.parametrize("limit", [1.0, 0.4])
def test_balanced_converter_has_codes_of_twos_complement(bits: int, limit: float) -> None:
    # Users choose a converter by bits, range and clipping.
    x, w = ramp(-0.9993, 0.9993, 5000)
    result = bench(readout_bits=bits, readout_range=limit).matmul(x, w)
    step = 2 * limit / (2**bits - 1)
    codes = result.y[:, 0] / step
    whole = np.rint(codes)
    assert np.abs(codes - whole).max() < 1e-4
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if limit < 1:  # both ends are reached
        assert sorted(set(whole)) == list(range(lowest, highest + 1))
    inside = np.abs(x[:, 1]) < limit - step
    assert (np.abs(result.y[:, 0] - x[:, 1])[inside] <= step / 2 * 1.0001).all()
    assert whole.min() >= lowest and whole.max() <= highest
    clipped = converted(x[:, 1], np.asarray(limit), bits)[1]
    assert abs(result.stats.saturated - clipped) <= 2  # two values may lie on an edge


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_each_reading_is_converted_from_zero_to_the_range(bits: int) -> None:
    # A camera's readings are positive, and each is rounded on its own.
    x, w = ramp(0.0, 0.9993, 5000)
    result = bench(readout_bits=bits, readout_range=0.5, detection="per-reading").matmul(x, w)
    step = 0.5 / (2**bits - 1)
    whole = np.rint(result.y[:, 0] / step)
    assert np.abs(result.y[:, 0] / step - whole).max() < 1e-4
    assert sorted(set(whole)) == list(range(2**bits))
    assert abs(result.stats.saturated - np.count_nonzero(x[:, 1] > 0.5 + step / 2)) <= 1


@pytest.mark.parametrize("detection", DETECTIONS)
def test_a_range_without_bits_clips_and_counts(detection: str) -> None:
    # A user would lose the warning that a fast detector's output stage is overdriven.
    x, w = ramp(-0.9993, 0.9993, 1000)
    result = bench(readout_range=0.5, detection=detection).matmul(x, w)
    assert np.allclose(result.y[:, 0], np.clip(x[:, 1], -0.5, 0.5), atol=1e-6)
    assert result.stats.saturated == np.count_nonzero(np.abs(x[:, 1]) > 0.5)


@pytest.mark.parametrize("dark_frames", [None, 64, 1])
def test_dark_pedestal_is_at_least_five_sigma(dark_frames: int | None) -> None:
    # A user would lose unbiased zeros: a converter that starts at zero cuts half of the dark noise.
    backend = bench(
        detection="per-reading",
        photons_full_scale=1e4,
        dark_e=400.0,
        read_noise_e=5.0,
        dark_frames=dark_frames,
        readout_bits=12,
        readout_range=1.0,
    )
    result = backend.matmul(np.zeros((20_000, 2)), np.ones((8, 2)), address(np.arange(20_000)))
    # beyond 5 sigma on one side: 2.9e-7 of 320,000 readings; Poisson(0.1) exceeds 4 once in 1e7
    assert result.stats.saturated <= 4


def test_ideal_range_follows_the_row_and_saturates_nothing() -> None:
    # A user would lose the comparison without range: an auto-range has nothing above it.
    x, w = numbers(200, 20) * np.float32(10.0) ** numbers(200, 1, seed=3), numbers(9, 20, seed=2)
    exact = x.astype(float) @ w.T
    ones = np.abs(x).max(1)[:, None] * np.abs(w).max(1)
    result = bench(readout_bits=10, readout_range="ideal").matmul(x, w)
    largest = np.abs(exact / ones).max(1, keepdims=True)
    assert (np.abs(result.y - exact) <= 1.01 * largest * ones / (2**10 - 1)).all()
    assert result.stats.saturated == 0


@pytest.mark.parametrize("name", ["per-row", "per-matmul"])
@pytest.mark.parametrize("segments", [1, 2])
def test_calibrated_ranges_belong_to_output_and_segment(name: str, segments: int) -> None:
    # A user would lose the calibration pass: ranges are stored with the plan and must be used.
    backend = bench(readout_bits=6, readout_range=name, length=None if segments == 1 else 24)
    x, w = numbers(300, 12 * segments), numbers(5, 12 * segments, seed=2)
    limits = np.array([[0.5, 1, 2, 3, 4], [4, 3, 2, 1, 0.5]])[:segments]
    limits = limits if name == "per-row" else limits[:, :1]
    result = backend.matmul(x, backend.prepare(w, ranges=Ranges(readout=limits)))
    expected = np.zeros((300, 5))
    saturated = 0
    for index in range(segments):
        part = slice(12 * index, 12 * index + 12)
        ones = np.abs(x[:, part]).max(1)[:, None] * np.abs(w[:, part]).max(1).astype(float)
        value = x[:, part].astype(float) @ w[:, part].T / ones
        shown, clipped = converted(value, limits[index], 6)
        expected += shown * ones
        saturated += clipped
    assert np.abs(result.y - expected).max() < 1e-4
    assert result.stats.saturated == saturated > 0


@pytest.mark.parametrize("encoding", ["abs-split", "push-pull"])
def test_calibrated_scale_of_a_dynamic_operand_is_used(encoding: str) -> None:
    # A user would lose causality: keys would take their scale from themselves, unknown beforehand.
    backend = bench(
        encoding=encoding,
        input_bits=5,
        weight_bits=5,
        readout_bits=None,
        readout_range="per-row",
        photons_full_scale=None,
    )
    x, w = numbers(6, 10), numbers(4, 10, seed=2)
    largest = np.full((4, 1), 2.0)
    ranges = Ranges(readout=np.full((1, 4), 100.0), weight=largest)
    y = backend.matmul(x, backend.prepare(w, ranges=ranges)).y
    assert np.abs(y - theory(x, w, backend.profile, w_largest=largest).mean).max() < 1e-5


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("dark", [None, 1e5])
def test_a_full_well_clips_a_reading_and_is_counted(detection: str, dark: float | None) -> None:
    # A user would lose the warning that pixels are full: a wrong number would leave silently.
    backend = bench(
        detection=detection, photons_full_scale=1e6, dark_e=dark, full_well_e=2e6, dark_frames=None
    )
    w = np.array([[1.0, 1, 1, 1], [1, 0, 0, 0], [-1, -1, -1, -1]])
    result, _ = exposed_often(backend, np.ones(4), w, repeats=500)
    most = (2e6 - (dark or 0.0)) / 1e6
    # a balanced pair's noise may be added after the well; shot noise is 2e-3 at most
    assert np.allclose(result.y, [[most, 1.0, -most]], atol=0.015)
    assert result.stats.saturated == 2 * 500


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize(("full_well", "read_noise"), [(10_050.0, None), (9_900.0, 30.0)])
def test_a_full_well_clips_electrons_and_not_their_mean(
    detection: str, full_well: float, read_noise: float | None
) -> None:
    """Otherwise a detector near its full well would not saturate: 31 % of readings do.

    Electrons N(m, m) of m = 10,000 in a well W: with c = (W - m) / sqrt(m) and Z = min(N(0, 1), c)
    E Z = c (1 - F(c)) - f(c), E Z^2 = F(c) - c f(c) + c^2 (1 - F(c)); 4 sigma, once in 5e3 for a
    fresh seed (three scores of each bench).
    """
    mean, count, normal = 1e4, 40_000, NormalDist()
    backend = bench(
        detection=detection,
        photons_full_scale=mean,
        full_well_e=full_well,
        read_noise_e=read_noise,
    )
    result = backend.matmul(np.ones((count, 1)), np.ones((1, 1)), address(np.arange(count)))
    c = (full_well - mean) / mean**0.5
    above, density = 1 - normal.cdf(c), normal.pdf(c)
    first, second = c * above - density, 1 - above - c * density + c * c * above
    reads = 1 if detection == "balanced" else 2  # of both rails
    spread = (mean * (second - first**2) + reads * (read_noise or 0.0) ** 2) ** 0.5
    found = result.y.astype(float)[:, 0] * mean
    assert abs(found.mean() - mean - first * mean**0.5) < 4 * spread / count**0.5
    squares = (found - found.mean()) ** 2
    assert abs(squares.mean() - spread**2) < 4 * squares.std() / count**0.5
    full = result.stats.saturated / count
    assert abs(full - above) < 4 * (above * (1 - above) / count) ** 0.5
    if read_noise is None:
        assert found.max() <= full_well * (1 + 1e-6)


@pytest.mark.parametrize("vectors", [1, 4])
def test_rows_that_share_an_exposure_share_its_source(vectors: int) -> None:
    """Otherwise averaging over such rows would seem to make source noise less, which it does not.

    Factors of 400 exposures; correlations of neighbours within 4 / 20 of none: once in 1.6e4.
    """
    backend = bench(photons_full_scale=None, source_rms=0.02, rows=4, vectors=vectors)
    count = 400 * vectors
    y = backend.matmul(np.ones((count, 3)), np.ones((6, 3)), address(np.arange(count))).y / 3
    of_exposures = y.reshape(400, vectors, 6)
    assert np.array_equal(of_exposures, np.broadcast_to(of_exposures[:, :1], of_exposures.shape))
    frames = of_exposures[:, 0, [0, 5]]  # four rows a frame: the sixth output lies in another one
    assert abs(np.corrcoef(frames.T)[0, 1]) < 0.2
    assert abs(np.corrcoef(frames[1:, 0], frames[:-1, 0])[0, 1]) < 0.2
    alone = backend.matmul(np.ones((2, 3)), np.ones((6, 3)), address([5, 399])).y / 3
    assert np.array_equal(alone, y[[5, 399]])


# --- reproducibility ------------------------------------------------------------------


NOISY: dict[str, Any] = {
    "photons_full_scale": 200.0,
    "dark_e": 20.0,
    "dark_frames": 4,
    "read_noise_e": 5.0,
    "source_rms": 0.01,
    "extinction_ratio": 50.0,
    "input_bits": 8,
    "weight_bits": 8,
    "readout_bits": 10,
    "readout_range": 20.0,
    "rows": 6,
    "length": 10,
}


@every_bench
def test_same_seed_and_address_give_the_same_bits_and_others_do_not(
    encoding: str, detection: str
) -> None:
    # A user would lose reproducible runs, or real repeats.
    fields = NOISY | {"encoding": encoding, "detection": detection}
    x, w, rows = numbers(5, 16), numbers(7, 16, seed=2), [3, 4, 10, 2**40, 2**63]
    y = bench(**fields).matmul(x, w, address(rows)).y
    backend = bench(**fields)
    backend.matmul(numbers(2, 16), w)  # what happened before does not matter
    assert np.array_equal(y, backend.matmul(x, w, address(rows)).y)
    assert np.array_equal(y, backend.matmul(x, backend.prepare(w), address(rows)).y)
    assert y.dtype == np.float32
    for other in (
        bench(seed=SEED + 1, **fields).matmul(x, w, address(rows)).y,
        backend.matmul(x, w, address(rows, attempt=1)).y,
        backend.matmul(x, w, address(rows, matmul="other")).y,
        backend.matmul(x, w, address([103, 104, 110, 2**41, 2**62])).y,
    ):
        assert (y != other).any(axis=1).all()


def test_products_without_an_address_differ_and_repeat_with_the_backend() -> None:
    # Otherwise an average over repeats would not reduce the noise.
    x, w = numbers(5, 16), numbers(7, 16, seed=2)
    first, second = (bench(photons_full_scale=100.0) for _ in range(2))
    one, two = first.matmul(x, w).y, first.matmul(x, w).y
    assert (one != two).mean() > 0.9
    assert np.array_equal(one, second.matmul(x, w).y)
    assert np.array_equal(two, second.matmul(x, w).y)


@every_bench
@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("photons", [pytest.param(30.0, marks=pytest.mark.slow), 1e5, None])
def test_split_and_order_of_a_batch_do_not_matter(
    encoding: str, detection: str, bits: int | None, photons: float | None
) -> None:
    # A user would lose resume, batching and threads: a row's bits belong to the row.
    backend = bench(
        encoding=encoding,
        detection=detection,
        photons_full_scale=photons,
        input_bits=bits,
        weight_bits=bits,
        extinction_ratio=100.0,
        source_rms=0.01,
        length=40,
    )
    x, w = numbers(150, 50), numbers(2100, 50, seed=2)
    x[3], x[5] = np.abs(x[3]), 0
    ids = np.random.default_rng(5).permutation(1000)[:150]
    ids[50:100] = np.arange(2000, 2050)
    prepared = backend.prepare(w)
    y = backend.matmul(x, prepared, address(ids)).y
    for part in (slice(0, 1), slice(3, 4), slice(5, 6), slice(1, 140), slice(60, 90)):
        assert np.array_equal(y[part], backend.matmul(x[part], prepared, address(ids[part])).y)
    order = np.random.default_rng(6).permutation(150)
    assert np.array_equal(y[order], backend.matmul(x[order], prepared, address(ids[order])).y)


@pytest.mark.parametrize("detection", DETECTIONS)
def test_a_full_well_of_one_row_does_not_change_another_row(detection: str) -> None:
    # A user would lose bit-for-bit resume as soon as one row of a batch saturates.
    backend = bench(
        detection=detection, photons_full_scale=1e4, full_well_e=1.2e5, input_bits=8, weight_bits=8
    )
    x, w = numbers(50, 23), numbers(7, 23, seed=2)
    x[0], w[0] = 1, 1
    together = backend.matmul(x, w, address(np.arange(50)))
    alone = backend.matmul(x[1:], w, address(np.arange(1, 50)))
    assert together.stats.saturated > alone.stats.saturated == 0
    assert np.array_equal(together.y[1:], alone.y)


def test_row_ids_may_wrap_around_in_a_batch() -> None:
    # A user would lose the promise for the largest ids only; noise is a function of the id alone.
    backend = bench(photons_full_scale=1e4)
    x, w, ids = numbers(2, 5), numbers(3, 5, seed=2), [2**64 - 1, 0]
    y = backend.matmul(x, w, address(ids)).y
    assert np.array_equal(y[1:], backend.matmul(x[1:], w, address(ids[1:])).y)


@st.composite
def products(draw: st.DrawFn) -> dict[str, Any]:
    size = st.integers(1, 9)
    fields = NOISY | {
        "encoding": draw(st.sampled_from(ENCODINGS)),
        "detection": draw(st.sampled_from(DETECTIONS)),
        "photons_full_scale": None,
        "extinction_model": draw(st.sampled_from(["leak", "clamp"])),
        "input_bits": draw(st.sampled_from([None, 2, 8, 12])),
        "weight_bits": draw(st.sampled_from([None, 2, 8, 12])),
        "length": draw(st.sampled_from([None, 2, 7])),
        "crosstalk": draw(st.sampled_from([None, 0.05])),
    }
    fields[draw(st.sampled_from(["photons_full_scale", "photons_per_mac"]))] = draw(
        st.sampled_from([0.5, 40.0, 1e5])
    )
    leading, n, m, k = draw(st.lists(st.integers(1, 3), max_size=2)), *(draw(size) for _ in "nmk")
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    x = random.normal(size=(*leading, n, 2 * k))[..., ::2].astype(dtype)
    w = random.normal(size=(k, m)).T.astype(dtype)
    x[..., draw(st.integers(0, n - 1)), :] = draw(st.sampled_from([0, 1]))
    w[draw(st.integers(0, m - 1))] = draw(st.sampled_from([0, 1]))
    ids = random.integers(0, 2**64, size=x.shape[:-1], dtype=np.uint64)
    return {"fields": fields, "x": x, "w": w, "ids": ids}


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(products())
def test_any_shape_gives_finite_numbers_row_by_row(product: dict[str, Any]) -> None:
    # A user would meet a crash or a NaN with an unusual layer, or lose bits to a batch split.
    backend, x, w, ids = bench(**product["fields"]), product["x"], product["w"], product["ids"]
    y = backend.matmul(x, w, address(ids)).y
    assert y.shape == (*x.shape[:-1], len(w))
    assert np.isfinite(y).all()
    flat, rows = x.reshape(-1, x.shape[-1]), ids.reshape(-1)
    plain = np.ascontiguousarray(w, dtype=np.float32)
    for row in range(len(flat)):
        alone = backend.matmul(flat[row].astype(np.float32), plain, address(rows[row]))
        assert np.array_equal(alone.y, y.reshape(-1, len(w))[row])


@every_bench
def test_batched_operands_are_independent_products(encoding: str, detection: str) -> None:
    # A user would lose attention: a head's result must not depend on the other heads.
    backend = bench(**NOISY | {"encoding": encoding, "detection": detection})
    x, w = numbers(2, 3, 5, 16), numbers(2, 3, 7, 16, seed=2)
    ids = np.arange(30).reshape(2, 3, 5) * 1000
    y = backend.matmul(x, w, address(ids)).y
    for index in np.ndindex(2, 3):
        alone = backend.matmul(x[index][None], w[index][None], address(ids[index][None])).y
        assert np.array_equal(y[index], alone[0])


@every_bench
@pytest.mark.parametrize("outputs", [10, 64, 70])
def test_later_keys_do_not_change_the_scores_of_earlier_ones(
    encoding: str, detection: str, outputs: int
) -> None:
    # A user would lose the agreement of decoding with a full pass at the level of noise.
    fields = NOISY | {"encoding": encoding, "detection": detection, "rows": None}
    backend, ids = bench(**fields), np.arange(10).reshape(2, 5)
    x, w = numbers(2, 5, 16), numbers(2, 140, 16, seed=2)
    y = backend.matmul(x, w, address(ids)).y
    assert np.array_equal(y[..., :outputs], backend.matmul(x, w[:, :outputs], address(ids)).y)


@pytest.mark.parametrize("leading", [(), (2,), (0,)])
@pytest.mark.parametrize(("n", "m", "k"), [(0, 4, 3), (3, 0, 2), (3, 4, 0)])
def test_empty_products_are_zero_or_refused_in_a_sentence(
    leading: tuple[int, ...], n: int, m: int, k: int
) -> None:
    # A user would meet a traceback from inside for an empty batch or an empty cache of keys.
    backend = bench(photons_full_scale=100.0)
    try:
        y = backend.matmul(np.ones((*leading, n, k)), np.ones((*leading, m, k))).y
    except InputError:
        return
    assert y.shape == (*leading, n, m) and not y.any()


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize("which", ["x", "w"])
def test_numbers_that_are_not_finite_are_refused(bad: float, which: str) -> None:
    # A user would find NaN at the end of a run instead of a sentence at its start.
    operands = {"x": np.ones((3, 4)), "w": np.ones((5, 4))}
    operands[which][1, 2] = bad
    with pytest.raises(InputError, match=r"not finite.*\[1, 2\]"):
        bench().matmul(operands["x"], operands["w"])


@pytest.mark.parametrize("encoding", ["push-pull", "abs-split", "offset"])
@pytest.mark.parametrize(("x", "w"), [(3e38, 1.0), (-3e38, 1.0), (1.0, 3e38), (1e20, 1e20)])
def test_products_beyond_float32_are_refused(encoding: str, x: float, w: float) -> None:
    # A user would find infinity where the inputs are finite.
    with pytest.raises(InputError, match="reach"):
        bench(encoding=encoding).matmul(np.full((3, 4), x), np.full((5, 4), w))


@pytest.mark.parametrize(
    ("x", "w"),
    [
        (np.ones((3, 4)), np.ones((5, 3))),
        (np.ones((2, 3, 4)), np.ones((3, 5, 4))),
        (np.ones((3, 4)), np.ones((2, 5, 4))),
        (np.ones((3, 4)), np.ones(4)),
        (np.ones(()), np.ones((5, 1))),
        (np.ones((3, 4), dtype=complex), np.ones((5, 4))),
        (np.full((3, 4), "1"), np.ones((5, 4))),
        (np.ones((3, 4)), np.full((5, 4), None)),
    ],
)
def test_shapes_and_kinds_that_do_not_multiply_are_refused(x: np.ndarray, w: np.ndarray) -> None:
    # A user would get a broadcast result that means nothing.
    with pytest.raises(InputError):
        bench().matmul(x, w)


def test_an_address_must_name_every_row() -> None:
    # A user would reuse the noise of one row for others.
    with pytest.raises(InputError, match="names rows"):
        bench().matmul(np.ones((3, 4)), np.ones((5, 4)), address([1, 2]))


# --- counts -----------------------------------------------------------------------------


@every_bench
@pytest.mark.parametrize("light", ["photons_full_scale", "photons_per_mac"])
@pytest.mark.parametrize("extinction", [None, 20.0])
def test_photons_count_the_light_of_all_readings(
    encoding: str, detection: str, light: str, extinction: float | None
) -> None:
    # A user would lose the energy account.
    backend = bench(
        encoding=encoding,
        detection=detection,
        extinction_ratio=extinction,
        length=10,
        dark_e=100.0,
        **{light: 40.0},
    )
    x, w = numbers(9, 23), numbers(8, 23, seed=2)
    x[1], x[3, :10] = np.abs(x[1]), np.abs(x[3, :10])
    result = backend.matmul(x, w)
    expected = theory(x, w, backend.profile).photons.sum()
    assert result.stats.photons == pytest.approx(expected, rel=1e-5)
    if light == "photons_per_mac":
        assert result.stats.photons == pytest.approx(40 * result.stats.macs, rel=1e-5)


def test_a_dark_row_needs_no_light_per_multiplication() -> None:
    # A user would get NaN for padding: P is not defined where no light is sent.
    result = bench(photons_per_mac=1.0).matmul(np.zeros((2, 5)), numbers(3, 5))
    assert not result.y.any()
    assert result.stats.photons == 0


@every_bench
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("vectors", [1, 4])
def test_shots_and_conversions_follow_the_tiles(
    encoding: str, detection: str, signed: bool, vectors: int
) -> None:
    # A user would lose the time of a run: everything in the report is counted from these.
    backend = bench(
        encoding=encoding,
        detection=detection,
        rows=6,
        length=10,
        vectors=vectors,
        readout_bits=8,
        readout_range=50.0,
    )
    x, w = -np.abs(numbers(11, 23)), numbers(8, 23, seed=2)
    x[:, ::2] *= -1
    stats = backend.matmul(x if signed else np.abs(x), w).stats
    offset, balanced = encoding == "offset", detection == "balanced"
    segments = math.ceil(23 / (5 if balanced and not offset else 10))
    blocks = math.ceil(8 / (6 if offset else 3))
    exposures = 2 if signed and not balanced and not offset else 1
    rails = 1 if offset or balanced else 2
    assert stats.macs == 11 * 8 * 23
    # a frame holds 4 tiles: two tiles twice, for two vectors at once, or three tiles once
    copies, per_frame = {1: (1, 1), 4: (2, 2) if blocks == 2 else (1, 4)}[vectors]
    frames = math.ceil(blocks / per_frame)
    assert stats.weight_frames == segments * frames
    assert stats.shots == segments * frames * math.ceil(11 * exposures / copies)
    assert stats.conversions == 11 * 8 * segments * exposures * rails


def test_shots_of_a_batch_are_counted_by_row() -> None:
    # A user would pay two exposures for every image because one row of the batch has a sign;
    # conversions and light are counted row by row, and nothing is taken from a whole batch.
    backend = bench(detection="per-reading")
    x, w = np.array([[1.0, -1], [1, 1], [1, 2]]), np.ones((5, 2))
    together = backend.matmul(x, w).stats
    alone = [backend.matmul(row[None], w).stats for row in x]
    assert together.conversions == sum(stats.conversions for stats in alone)
    assert together.shots == sum(stats.shots for stats in alone)


def test_shots_of_a_row_are_counted_by_segment() -> None:
    # As above: a segment without negative values takes one exposure, and its shots say so.
    stats = bench(detection="per-reading", length=2).matmul([[1, 2, 1, -1]], np.ones((5, 4))).stats
    assert stats.conversions == 5 * 2 * (1 + 2)
    assert stats.shots == 1 + 2


def test_clipped_weights_are_counted() -> None:
    # A user would not learn that a calibrated scale was too small for today's keys.
    backend = bench(weight_bits=8, readout_range="per-row")
    ranges = Ranges(readout=np.full((1, 3), 100.0), weight=np.ones((3, 1)))
    w = np.array([[0.5, 2.0], [0.5, -3.0], [0.5, 1.0]])
    result = backend.matmul(np.ones((1, 2)), backend.prepare(w, ranges=ranges))
    assert result.stats.saturated == 2
    assert np.allclose(result.y, [[1.5, -0.5, 1.5]], atol=0.01)
