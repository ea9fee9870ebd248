"""The contract of backends: its defaults are enough, a `with` opens and closes, a line names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import bench_text
from lightloom.backends import (
    Address,
    Backend,
    DigitalBackend,
    MatmulResult,
    MockBackend,
    PreparedWeights,
    Ranges,
    Stats,
)
from lightloom.backends.bench import BenchBackend, open_benches
from lightloom.instruments import InputError
from lightloom.models import load_model
from lightloom.scheduler.runs import plan

import lightloom


class Own(Backend):
    """A backend that fills in only what it must, and adds one to every product."""

    name = "own"

    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> np.ndarray:
        return weights

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        content = w.content.reshape(-1, *w.shape[-2:])
        return MatmulResult(x @ np.swapaxes(content, -1, -2) + 1, Stats(shots=1))


@pytest.fixture
def bench_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.toml", tmp_path / "two.toml"]
    for path in paths:
        path.write_text(bench_text(), encoding="utf-8")
    return paths


def test_an_own_backend_runs_with_the_defaults(tmp_path: Path) -> None:
    model, images = load_model("digits"), np.zeros((2, 1, 8, 8), dtype=np.float32)
    planned = plan(model, Own(), 2)
    report = planned.run(images).report()
    assert report.backend == "own" and report.stats.shots > 0 and not report.is_mock
    assert report.profile == "slm-camera" and report.energy is not None
    assert report.checks == {} and report.remarks == ()
    with pytest.raises(InputError, match=r"'own' cannot be recorded.*without --record"):
        planned.run(images, record=tmp_path / "run.db")
    assert not list(tmp_path.iterdir())


def test_a_with_opens_and_closes(bench_files: list[Path]) -> None:
    with lightloom.open_backend("mock") as mock:
        assert mock.matmul(np.ones((1, 4)), np.eye(4)).y.shape == (1, 4)
    with lightloom.open_backend(str(bench_files[0])) as backend:
        assert isinstance(backend, BenchBackend) and backend.bench.source.is_connected
    assert not backend.bench.source.is_connected
    with pytest.raises(ZeroDivisionError), backend:
        _ = 1 / 0
    assert not backend.bench.source.is_connected


def test_one_line_names_a_backend(bench_files: list[Path]) -> None:
    one, two = bench_files
    named: dict[str, Any] = {
        "<DigitalBackend: digital>": DigitalBackend(),
        "<MockBackend: profile slm-camera, seed 3, mock>": MockBackend(seed=3),
        "<Own: own>": Own(),
        f"<BenchBackend: {one}, mock>": open_benches([one]),
        f"<BenchGroup: {one}, {two}, mock>": open_benches([one, two]),
    }
    for line, backend in named.items():
        assert repr(backend) == line


def test_a_backend_names_its_benches(bench_files: list[Path]) -> None:
    assert not MockBackend().benches and not DigitalBackend().benches
    one, group = open_benches(bench_files[:1]), open_benches(bench_files)
    assert list(one.benches.values()) == [one]
    assert list(group.benches) == ["bench 1", "bench 2"]
    entry = group.journal_entry()
    assert entry["paths"] == [str(path) for path in bench_files] and not entry["uncalibrated"]


@pytest.mark.parametrize("leading", [(), (2, 3)])
@pytest.mark.parametrize("is_prepared", [True, False])
@pytest.mark.parametrize("rows", [1, 4])
def test_digital_operands_that_are_not_finite_are_named(
    leading: tuple[int, ...], is_prepared: bool, rows: int
) -> None:
    # only one output of each row is looked at, since such a number reaches all of them
    backend, bad = DigitalBackend(), np.float32(np.inf)
    x, w = (np.ones((*leading, n, 5), dtype=np.float32) for n in (rows, 7))
    w[..., 0, :] = 0  # inf * 0 is not finite either
    place = (*(size - 1 for size in leading), rows - 1, 3)
    x[place] = bad
    with pytest.raises(InputError, match=rf"x has 1 values.*{re.escape(str(list(place)))}"):
        backend.matmul(x, backend.prepare(w) if is_prepared else w)
    x[place], w[..., 6, 3] = 1, -bad
    with pytest.raises(InputError, match=r"weights has \d values that are not finite"):
        backend.matmul(x, w)


def test_a_digital_product_may_overflow_or_be_empty() -> None:
    large = np.full((2, 3), 3e38, dtype=np.float32)
    assert np.isinf(DigitalBackend().matmul(large, large).y).all()  # a pass refuses its result
    for rows, outputs, length in ((0, 2, 3), (2, 0, 3), (2, 3, 0)):
        for leading in ((), (2,)):
            x, w = np.ones((*leading, rows, length)), np.ones((*leading, outputs, length))
            y = DigitalBackend().matmul(x, w).y
            assert y.shape == (*leading, rows, outputs) and (y == 0).all()


def test_a_digital_address_names_every_row() -> None:
    with pytest.raises(InputError, match="give one id per row"):
        DigitalBackend().matmul(np.ones((2, 3)), np.ones((4, 3)), Address("a", np.arange(3)))
