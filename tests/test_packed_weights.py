"""Weights whose arrays compiled code reads by their addresses: they grow, move and are copied."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from lightloom.backends import Address, InputError, MockBackend, OpticsProfile, PreparedWeights
from lightloom.backends.base import Ranges
from lightloom.backends.mock import LOOPS, packed_weights
from lightloom.backends.mock.packed_weights import PackedWeights
from lightloom.instruments.environment import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="numba (extra 'fast') is not installed")
BENCH: dict[str, Any] = {
    "input_bits": 8,
    "weight_bits": 8,
    "readout_bits": 8,
    "readout_range": "per-row",
    "photons_full_scale": 300.0,
    "length": 48,
}
RANGES = Ranges(np.full((1, 1), 3.0), np.array([[4.0]]))


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOOPS, "is_used", True)


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def backend(**fields: Any) -> MockBackend:
    return MockBackend(OpticsProfile(**(BENCH | fields)), seed=3)


def product(mock: MockBackend, w: PreparedWeights, rows: int = 3) -> np.ndarray:
    assert isinstance(w.content, PackedWeights)
    x, count = numbers(*w.shape[:-2], rows, w.shape[-1]), rows * int(np.prod(w.shape[:-2]))
    return mock.matmul(x, w, Address("product", np.arange(count, dtype=np.uint64))).y


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copy_has_its_own_numbers(copied: Any) -> None:
    # a copy that keeps addresses reads memory of other arrays, or freed memory
    mock, keys = backend(), numbers(2, 20, 60)
    prepared = mock.prepare(keys[:, :12], ranges=RANGES)
    expected, other = product(mock, prepared), copied(prepared)
    prepared.content._arrays["bytes"][:] = 0
    np.testing.assert_array_equal(product(mock, other), expected)
    larger = mock.prepare(keys, ranges=other.ranges, grown=other)
    np.testing.assert_array_equal(
        product(mock, larger), product(mock, mock.prepare(keys, ranges=RANGES))
    )


def test_weights_of_another_kind_of_processor_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mock = backend()
    prepared = mock.prepare(numbers(20, 60))
    arrays, pickled = mock.kept_arrays(prepared), pickle.dumps(prepared)
    assert mock.restore(arrays, (20, 60), None) is not None
    loops = packed_weights.compiled_loops()
    monkeypatch.setattr(loops, "HAS_DOT", not loops.HAS_DOT)
    assert mock.restore(arrays, (20, 60), None) is None
    with pytest.raises(InputError, match="another kind of processor"):
        pickle.loads(pickled)


def test_restored_weights_do_not_hold_the_entry_of_the_cache() -> None:
    # all weights of a model would be in memory twice
    mock = backend()
    arrays = dict(mock.kept_arrays(mock.prepare(numbers(20, 60))))
    restored = mock.restore(arrays, (20, 60), None)
    assert restored is not None
    for name, array in restored.content._arrays.items():
        assert name not in arrays or not np.shares_memory(array, arrays[name]), name


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("encoding", ["abs-split", "push-pull", "offset"])
@pytest.mark.parametrize("detection", ["balanced", "per-reading"])
@pytest.mark.parametrize("ranges", [None, Ranges(np.full((1, 1), 3.0)), RANGES])
@pytest.mark.parametrize("leading", [(), (2,)])
def test_weights_that_grow_have_the_bits_of_new_ones(
    axis: int, encoding: str, detection: str, ranges: Ranges | None, leading: tuple[int, ...]
) -> None:
    # without calibrated ranges, a new column changes the scale of those that are there
    mock, w = backend(encoding=encoding, detection=detection), numbers(*leading, 99, 99)
    grown = None
    for tokens in (5, 6, 47, 48, 49, 99):
        part = w[..., :tokens] if axis == -1 else w[..., :tokens, :]
        grown = mock.prepare(part, ranges=ranges, grown=grown)
        for rows in (3, 40):
            expected = product(mock, mock.prepare(part, ranges=ranges), rows)
            np.testing.assert_array_equal(product(mock, grown, rows), expected)


@pytest.mark.parametrize("axis", [-1, -2])
def test_weights_that_grew_are_not_used_any_more(axis: int) -> None:
    # compiled code read beyond the end of rows that fit the smaller weights
    mock, w = backend(), numbers(2, 99, 99)
    first = w[..., :5] if axis == -1 else w[:, :5]
    old = mock.prepare(first, ranges=RANGES)
    mock.prepare(w, ranges=RANGES, grown=old)
    with pytest.raises(InputError, match="have grown since"):
        product(mock, old)
    branch = mock.prepare(-w, ranges=RANGES, grown=old)  # of another text with the same beginning
    np.testing.assert_array_equal(
        product(mock, branch), product(mock, mock.prepare(-w, ranges=RANGES))
    )
