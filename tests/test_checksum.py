"""Checksums: the stated rate of false alarms, the detection of errors, and predicted counts.

Statistical tests fix their seeds; each states its false-alarm rate for a fresh seed. Where
simulated images would take hours, electrons are drawn: Poisson numbers of the light that the frames
pass, plus the Gaussian noise of the detector.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import FAST_512, BenchMaker, numbers
from lightloom.backends import ORDERS, Geometry, cuts, pack, visits
from lightloom.backends.bench import BenchBackend
from lightloom.backends.bench.checksum import (
    ONE_SIDED,
    THRESHOLD,
    CheckGroup,
    RowSums,
    chi_square_score,
    score,
)
from lightloom.backends.bench.product import Product
from lightloom.backends.bench.product_frames import encode_operand
from lightloom.backends.optics.layouts.base import ImageReading
from lightloom.instruments import ChecksumMismatch, InputError, InstrumentError
from lightloom.models import load_model
from lightloom.scheduler.costs import HostModel
from lightloom.scheduler.prediction import predict
from lightloom.scheduler.runs import plan


def medium(make_bench: BenchMaker, **changes: Any) -> BenchBackend:
    """Return an open line bench of 48 slots."""
    backend = make_bench("line", **FAST_512, **changes)
    backend.open()
    return backend


def product_of(backend: BenchBackend, x: np.ndarray, w: np.ndarray) -> Product:
    prepared = backend.prepare(w).content[0]
    return Product(backend.setup, "test", x[None], prepared, {})


def drawn(
    chance: np.random.Generator, electrons: np.ndarray, dark: np.ndarray, times: int
) -> np.ndarray:
    """Return electrons that a detector counts, [times, slots]."""
    counted = chance.poisson(np.maximum(electrons, 0), (times, len(electrons)))
    return np.asarray(counted + chance.standard_normal(counted.shape) * np.sqrt(dark))


def light_of(backend: BenchBackend, product: Product, vector: int) -> np.ndarray:
    job = product.jobs[0]
    return backend.optical_model.passed_e(job.input(vector), job.weight(0))


# ------------------------------------------------------------------------------ the stated rate


@pytest.mark.parametrize(
    ("kind", "light"),  # 1e5 to 1e6 electrons a slot, and 1 to 10
    [
        ("push-pull", 2e9),
        ("abs-split", 2e4),
        pytest.param("abs-split", 2e9, marks=pytest.mark.slow),
        pytest.param("offset", 2e9, marks=pytest.mark.slow),
        pytest.param("push-pull", 2e4, marks=pytest.mark.slow),
        pytest.param("offset", 2e4, marks=pytest.mark.slow),
    ],
)
def test_false_alarms_are_as_rare_as_stated(
    make_bench: BenchMaker, kind: str, light: float
) -> None:
    """Of 1e5 correct residuals, 1e-4 are suspicious: 10, and never 0 nor more than 24.

    False alarm of this test: 1e-4 for a fresh seed.
    """
    backend = make_bench(
        tiny=False,
        checks__rows=2,
        encoding__kind=kind,
        world__electrons_per_pixel_j=light,
    )
    geometry, chance = backend.geometry, np.random.Generator(np.random.Philox(5))
    rows, length = geometry.outputs // geometry.parts, backend.optical_model.layout.length
    product = product_of(backend, numbers(8, length), numbers(rows, length, seed=4))
    check = product.jobs[0].check
    assert check is not None
    while product.monitor.stats.checks < 100_000:
        for vector in range(product.jobs[0].vectors):
            electrons = light_of(backend, product, vector)
            for shot in drawn(chance, electrons, backend.optical_model.dark_variance, 8):
                with suppress(ChecksumMismatch):
                    check(0, vector, shot)
    assert 1 <= product.monitor.stats.suspicious <= 24


@pytest.mark.parametrize(
    "electrons",
    [
        0.3,
        1.0,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (0.1, 3.0, 10.0, 30.0, 300.0)),
    ],
)
def test_a_detector_without_noise_raises_no_more_alarms(electrons: float) -> None:
    """With shot noise of few electrons only: at most 1e-4 of 1e6 residuals, within 4.5 sigma.

    False alarm of this test: 1.4e-5 for a fresh seed, were the rate just 1e-4 (Poisson).
    """
    chance, length = np.random.Generator(np.random.Philox(6)), 32
    intensity = np.abs(numbers(8, length))
    group = CheckGroup.of(intensity / intensity.max(), np.resize([1.0, -1.0], 8), 8)
    mean = group.intensity.sum(axis=1) * electrons / group.intensity.sum(axis=1).mean()
    zeros = np.zeros((len(mean), length))
    none = np.zeros(len(mean)), zeros
    sums = RowSums.of(group.starts, group.factors, none, np.zeros(len(mean)), None)
    counted = chance.poisson(mean, (1_000_000, len(mean)))
    moments = counted @ sums.powers.T
    z, _ = score(moments[:, 0], (moments[:, 1], moments[:, 2]), (sums.dark[0], sums.dark[1]))
    assert (np.abs(z) > THRESHOLD).mean() < 1e-4 + 4.5e-5


@pytest.mark.parametrize("freedom", [8, 47, 127])
def test_sums_of_squares_have_the_stated_rate(freedom: int) -> None:
    """Of 1e6 sums of squares 1e-4 are suspicious, or less where slots are few (7.5e-5 of 8).

    False alarm of this test: 2e-5 for a fresh seed (Poisson).
    """
    squares = np.random.Generator(np.random.Philox(7)).chisquare(freedom, 1_000_000)
    limit = next(
        square
        for square in np.linspace(freedom, 10 * freedom, 20_000)
        if chi_square_score(np.array([square**0.5]), freedom) > ONE_SIDED
    )
    assert 4e-5 < (squares > limit).mean() < 1.45e-4


@pytest.mark.slow
def test_correct_sums_of_inputs_pass(make_bench: BenchMaker) -> None:
    """Of 5,000 weight frames at most 5 are suspicious; 1e-5 for a fresh seed."""
    backend = medium(make_bench, checks__rows=0)
    length, chance = backend.optical_model.layout.length, np.random.Generator(np.random.Philox(8))
    x, w = np.abs(numbers(16, length)), numbers(backend.geometry.outputs // 2, length, seed=4)
    product = product_of(backend, x, w)
    job = product.jobs[0]
    assert job.vectors == 17 and job.check is not None
    light = [light_of(backend, product, vector) for vector in range(17)]
    found, scores = 0, []
    for _ in range(50):
        shots = [
            drawn(chance, electrons, backend.optical_model.dark_variance, 100)
            for electrons in light
        ]
        for number in range(100):
            for vector in range(16):
                assert job.check(0, vector, shots[vector][number]) is None
            try:
                scores.append(job.check(0, 16, shots[16][number]))
            except ChecksumMismatch as error:
                assert error.scope == "tile"
                found += 1
    assert found <= 5
    # half of normal deviates are beyond 0 (the others count as 0), and one in a hundred beyond 2.33
    # of 5,000, 25 and 75 are 3.5 standard errors off 50: once in 1,700 fresh seeds
    assert np.mean(np.array(scores) > 2.3263) == pytest.approx(0.01, abs=0.005)


# ------------------------------------------------------------------------ detection of errors


@pytest.mark.slow
def test_errors_of_seven_sigma_are_found(make_bench: BenchMaker) -> None:
    """An error of one row that shifts the residual by 7 sigma: 99.9 % of them raise an alarm.

    Of 200,000, 188 +- 13.7 should be missed (3.11 sigma); more than 245 are once in 5e4.
    """
    backend = make_bench(tiny=False, checks__rows=40)
    geometry, chance = backend.geometry, np.random.Generator(np.random.Philox(9))
    rows, length = geometry.outputs // geometry.parts, backend.optical_model.layout.length
    product = product_of(backend, numbers(8, length), numbers(rows, length, seed=4))
    check, sums = product.jobs[0].check, product.weights.frame(0, 0).sums
    assert check is not None and sums is not None
    sizes, shots = [last - first for first, last in cuts(2 * rows, 80)], 0
    while product.monitor.stats.checks < 200_000:
        for vector in range(product.jobs[0].vectors):
            electrons = light_of(backend, product, vector)
            variance = sums.powers[1] * (electrons + backend.optical_model.dark_variance)
            sigma = np.sqrt(np.add.reduceat(variance, sums.starts))
            for shot in drawn(chance, electrons, backend.optical_model.dark_variance, 50):
                at = sums.starts + shots % np.array(sizes)  # each row in turn, too bright or dark
                shot[at] += (-1) ** (shots // 80) * 7 * sigma / np.abs(sums.powers[0, at])
                shots += 1
                with pytest.raises(ChecksumMismatch):
                    check(0, vector, shot)
    stats = product.monitor.stats
    assert stats.checks - stats.suspicious <= 245 / 200_000 * stats.checks


def test_the_report_says_which_errors_are_found(make_bench: BenchMaker) -> None:
    # an operator must read how wrong an output may be without an alarm
    backend = make_bench(checks__rows=4)
    x, w = np.abs(numbers(40, 16)), numbers(4, 16, seed=4)
    stats = backend.matmul(x, w).stats
    (checked,) = backend.checked.values()
    assert stats.checks == checked.checks == 40 and stats.suspicious == 0
    # none suspicious: 0.4 % of fresh seeds have one
    # of 40 normal deviates: below once in 5e6; 0.4 % above
    assert 1.0 < checked.largest < THRESHOLD
    smallest = checked.smallest_error
    assert smallest is not None
    product, found = product_of(backend, x, w), []
    x_scale = encode_operand(x[None], backend.optical_model.layout).scale
    w_scale = backend.prepare(w).content[0].scale
    check, frame = product.jobs[0].check, product.weights.frame(0, 0)
    copies = product.plan.packing.copies
    assert check is not None
    for vector in range(product.jobs[0].vectors):
        electrons = light_of(backend, product, vector)
        scale = x_scale[0, vector * copies, 0] * w_scale[0, 0, 0]
        electrons[0] += smallest / scale * frame.full_e[0]
        with pytest.raises(ChecksumMismatch) as raised:
            check(0, vector, electrons)
        found.append(float(re.findall(r"is ([0-9.]+) sigma", str(raised.value))[0]))
    assert np.median(found) == pytest.approx(7, abs=1.0)  # without noise; scales of rows differ


def stick(
    monkeypatch: pytest.MonkeyPatch, backend: BenchBackend, role: str, *pixels: slice
) -> None:
    """Let pixels of a modulator be bright in every frame."""
    world = backend.bench.world
    assert world is not None
    show = world.show

    def stuck(shown: str, levels: np.ndarray, from_s: float) -> None:
        if shown == role:
            levels = levels.copy()
            levels[pixels] = 255
        show(shown, levels, from_s)

    monkeypatch.setattr(world, "show", stuck)


def fails(backend: BenchBackend, x: np.ndarray, w: np.ndarray) -> str:
    """Multiply on a bench that has a fault, and return the message of its error."""
    with pytest.raises(InstrumentError) as raised:
        backend.matmul(x, w)
    return str(raised.value)


def test_stuck_weight_pixels_are_found(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # markers and saturation are correct; half of one output's elements are not
    backend = medium(make_bench, checks__inputs=0, checks__rows=30)
    x, w = (
        np.abs(numbers(4, backend.optical_model.layout.length)),
        numbers(20, backend.optical_model.layout.length, seed=4),
    )
    assert backend.matmul(x, w).stats.suspicious == 0  # of 4 sums, each once in 1e4
    where = np.argwhere(
        backend.optical_model.layout.elements // backend.optical_model.layout.length == 7
    )
    top, left = where.min(axis=0)
    bottom, right = where.max(axis=0)
    pixels = slice(top, bottom + 1), slice(left, (left + right) // 2)
    stick(monkeypatch, backend, "weight", *pixels)
    assert "checksum" in fails(backend, x, w)


def test_a_wrong_gain_of_one_slot_is_found(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a speck of dust on the camera, or a calibration with a wrong gain of one slot
    backend = make_bench(checks__rows=8)
    x, w = np.abs(numbers(4, 16)), numbers(8, 16, seed=4)
    assert backend.matmul(x, w).stats.suspicious == 0
    read = backend.optical_model.layout.read

    def off(taken: np.ndarray) -> ImageReading:
        found = read(taken)
        found.electrons[3] *= 0.5
        return found

    monkeypatch.setattr(backend.optical_model.layout, "read", off)
    assert "checksum" in fails(backend, x, w)
    assert next(reversed(backend.checked), None) is not None


def test_a_wrong_input_is_found_where_all_slots_share_it(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # all rows share the error, so the row checksums match; the input sum does not
    backend = medium(make_bench, checks__rows=0)
    x, w = (
        np.abs(numbers(20, backend.optical_model.layout.length)),
        numbers(20, backend.optical_model.layout.length, seed=4),
    )
    assert backend.geometry.checked == 0 and backend.geometry.input_checks == 16
    stats = backend.matmul(x, w).stats
    assert stats.checks == 1 and stats.suspicious == 0 and stats.shots == 21
    lit = np.argwhere(backend.optical_model.layout.elements >= 0)
    left, right = lit[:, 1].min(), lit[:, 1].max()
    columns = slice(left, left + (right - left) // 8)
    stick(monkeypatch, backend, "input", slice(None), columns)
    assert "sum" in fails(backend, x, w)


@pytest.mark.slow
def test_residuals_of_simulated_images_are_noise(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated images, not drawn electrons: residuals of every layout have the stated spread.

    About 1,700 residuals: their rms is within 7 % of 1, 4 standard errors. False alarm 2e-3 for a
    fresh seed, due to the largest of them.
    """
    seen: list[np.ndarray] = []
    score_rows = RowSums.score

    def watched(self: RowSums, *arguments: Any) -> Any:
        found = score_rows(self, *arguments)
        seen.append(found[0])
        return found

    monkeypatch.setattr(RowSums, "score", watched)
    retries = 0
    for kind in ("abs-split", "push-pull", "offset"):
        backend = make_bench(checks__rows=2, encoding__kind=kind)
        backend.matmul(numbers(50, 16), numbers(10, 16, seed=4))
        line = medium(make_bench, checks__rows=3, encoding__kind=kind)
        length = line.optical_model.layout.length
        retries += line.matmul(numbers(20, length), numbers(18, length, seed=4)).stats.retries
    z = np.concatenate(seen)
    assert z.size > 1700
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1, abs=0.07)
    assert retries <= 2  # of 600 checks at 1e-4: three once in 2.5e4
    assert abs(z.mean()) < 4 / z.size**0.5
    assert np.abs(z).max() < 4.9  # 1e-6 each: 2e-3


# --------------------------------------------------------------------------- predicted counts


@pytest.mark.parametrize("slots", range(3, 40))
def test_checksums_fit_into_frames(slots: int) -> None:
    # otherwise rows are cut off, or a frame stays half empty
    for rows in (None, *range(1, slots - 1)):
        geometry = Geometry(slots, 8).with_checks(rows)
        most = geometry.outputs
        assert most is not None and most >= 1
        assert geometry.slots(most) <= slots < geometry.slots(most + 1)
        assert rows is None or geometry.check_rows(most) == 2 * -(-most // rows)
        assert geometry.rows_shown(3 * most + 1) == 3 * geometry.slots(most) + 3


def test_copies_have_checksums_of_their_own() -> None:
    plain = Geometry(32, 16, is_divisible=True, parts=2)
    assert plain.groups(2) == 8 and plain.with_checks(None).groups(2) == 5  # of 4 rows and 2 more
    assert plain.groups(16) == 1 and plain.with_checks(8).groups(16) == 1
    assert pack([5], 16, plain).shots == 5 and pack([5], 16, plain.with_checks(8)).shots == 10


def test_sums_of_inputs_are_counted() -> None:
    # a back-and-forth order keeps the last frame; the sum comes first, so that it is complete
    geometry = Geometry(12, 8, is_divisible=True, parts=2, input_checks=3)
    for counts, outputs in (([2], 2), ([7], 2), ([5, 8, 8], 2), ([9], 20)):
        plain = pack(counts, outputs, Geometry(12, 8, is_divisible=True, parts=2))
        packed = pack(counts, outputs, geometry)
        more = plain.vectors >= 3
        assert (packed.checks == more).all() and (packed.vectors == plain.vectors + more).all()
        for order in ORDERS:
            shown = 0
            jobs = zip(packed.tiles, packed.vectors, packed.inputs, packed.at_once, strict=True)
            for tiles, vectors, inputs, at_once in jobs:
                sizes = [min(at_once, inputs - at_once * vector) for vector in range(vectors)]
                steps = visits(int(tiles), int(vectors), order)[:, 1]
                changes = np.flatnonzero(np.diff(steps, prepend=-1))
                shown += sum(sizes[step] for step in steps[changes])
            assert packed.inputs_shown(order) == shown


@pytest.mark.parametrize(
    ("name", "layout", "checks"),
    [
        ("small", "imaged", {"rows": 3, "inputs": 2}),
        ("small", "line", {"inputs": 2}),
        pytest.param("gpt2", "imaged", {"rows": 3, "inputs": 2}, marks=pytest.mark.slow),
        pytest.param("gpt2", "line", {"inputs": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_bench_takes_the_time_that_was_predicted(
    make_bench: BenchMaker,
    references: Path,
    small_model: Path,
    name: str,
    layout: str,
    checks: dict[str, int],
) -> None:
    model, length = load_model(small_model if name == "small" else references / name), 2
    data = np.random.Generator(np.random.Philox(5)).integers(0, 40, (3, length))
    # with the offset encoding, the number of exposures depends on no value
    backend = make_bench(
        layout, checks=checks, encoding__kind="offset", world__seed=0, world__light="timing"
    )
    planned = plan(model, backend, batch=3, sequence=length)
    start_s = backend.clock.now_s()
    program, sizes = model.program("logits"), {"batch": 3, "new": length, "past": 0}
    host = HostModel(lambda step, sizes: 0.0)
    found = predict(program, planned.on_light, sizes, planned.bench, host, 1, None, start_s)
    executor = model.executor(backend)
    executor.micro_batches = 1
    model.run_pass(executor, "logits", data)
    records = executor.records.values()
    counted = [
        sum(getattr(record.stats, name) for record in records)
        for name in ("shots", "weight_frames", "input_frames")
    ]
    assert counted == [found.shots, found.frames["weight"], found.frames["input"]]
    assert backend.clock.now_s() - start_s == pytest.approx(found.seconds, rel=1e-9)


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("layout", "checks", "says"),
    [
        ("imaged", {"rows": -1}, "checks.rows"),
        ("imaged", {"rows": "many"}, "checks.rows"),
        ("imaged", {"inputs": 0.5}, "checks.inputs"),
        ("imaged", {"columns": 3}, "checks.columns"),
        ("single-pixel", {"rows": 4}, "a frame of 1 slots cannot hold a row and its checksum"),
    ],
)
def test_a_bad_table_is_named(
    make_bench: BenchMaker, layout: str, checks: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        _ = make_bench(layout, checks=checks).geometry
