"""If these fail, an operator trusts a wrong calibration, or gets no diagnosis.

Benches are small and misaligned, with shading, noise and drift. Their ground truth comes from
`world.truth()`, the alignment as well, so that calibration is tested without `align`. Seeds are
fixed; statistical tests state how often a fresh seed would fail them.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import FAST_512, IMPERFECT, LAYOUTS, fault, load_example
from lightloom.backends.bench import BenchBackend, load_bench
from lightloom.backends.bench.accuracy import random_products
from lightloom.backends.bench.bench import Bench
from lightloom.backends.bench.binding import begin_calibration
from lightloom.backends.bench.calibrated_optics import Calibrated
from lightloom.backends.bench.check import accuracy_finding
from lightloom.backends.bench.ground_truth import true_optics
from lightloom.backends.calibration.calibrate import calibrate
from lightloom.backends.calibration.steps import crosstalk
from lightloom.backends.optics.calibration_file import Calibration, Figure, Step, path_of
from lightloom.instruments import (
    BadFit,
    InputError,
    InterlockOpen,
    LightloomError,
    Paused,
    Saturated,
    StaleFrame,
    UnexpectedIntensity,
)

INPUT = {"scale": 1.01, "rotation_deg": 0.4, "shift_px": [3.3, -4.6]}
CAMERA = {"scale": 0.98, "rotation_deg": -0.3, "shift_px": [2.2, 1.7]}
BITS_12: dict[str, Any] = {
    f"instruments__{role}__bit_depth": 12 for role in ("input", "weight")
} | FAST_512
MISALIGNED: dict[str, Any] = IMPERFECT | {
    "world__seed": 11,
    "world__stray_e_per_s": 200.0,
    "world__input_registration": INPUT,
    "world__camera_registration": CAMERA,
}
OWN: dict[str, dict[str, Any]] = {
    "imaged": {
        "encoding__element_px": 8,
        "encoding__guard_px": 8,
        "encoding__block": [4, 4],
        "world__electrons_per_pixel_j": 3e7,
        "world__blur_px": 1.0,
        "world__settling": 3.0,
    },
    "line": {
        "encoding__element_px": 8,
        "encoding__guard_px": 6,
        "encoding__block": [1, 1],
        "world__electrons_per_pixel_j": 3e7,
        "world__crosstalk": 0.02,
    },
    "single-pixel": {
        "instruments__detector__device": "ni-6363",
        "encoding__element_px": 16,
        "encoding__guard_px": 0,
        "encoding__block": [4, 8],
        "world__electrons_per_pixel_j": 1e10,
        # one photodiode cannot distinguish a brighter shot from a larger product
        "world__source_rms": 0.0,
    },
}


TINY: dict[str, Any] = {  # of 96 x 64 pixels, as `lightloom init --tiny --as-found` makes it
    "as_found": True,
    "seed": 7,
    "world__input_registration": {**INPUT, "shift_px": [1.3, -1.6]},
    "world__camera_registration": {**CAMERA, "shift_px": [1.2, 0.7]},
}
KINDS = [  # the quick run has the small ones
    *(f"tiny {layout}" for layout in LAYOUTS),
    *(pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS),
]


def bench_of(folder: Path, kind: str, **changes: Any) -> Bench:
    """Make a bench of a layout with 512 x 512 pixels and 12 bits, or a tiny one of 8 bits."""
    folder.mkdir(exist_ok=True)
    layout = kind.removeprefix("tiny ")
    if kind != layout:
        return load_example(folder, layout, **(TINY | changes))
    options = BITS_12 | MISALIGNED | OWN[layout] | {"calibration": None} | changes
    return load_example(folder, layout, tiny=False, **options)


def truth_of(bench: Bench) -> dict[str, np.ndarray]:
    assert bench.world is not None
    with bench:
        sensor = (1, 1) if bench.file.layout == "single-pixel" else bench.camera.sensor_shape
        return bench.world.truth(sensor)


def aligned(bench: Bench) -> Bench:
    """Store the true maps as an alignment."""
    truth = truth_of(bench)
    arrays = {"input_map": truth["input_map"]}
    if bench.file.layout != "single-pixel":
        with bench:
            arrays["camera_map"] = true_optics(bench).camera_map
    spot = Figure("spot_px", float(truth["spot_px"]), None, "px")
    with bench:
        found = begin_calibration(bench)
    found.add(Step("align", (spot,), arrays, (), 0, 0.0, 0.0, 0.0, found.created_at))
    found.write(path_of(None, bench.path))
    return bench


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Bench, Calibration]]:
    """Return a calibrated bench of a kind; each is calibrated once."""
    made: dict[str, tuple[Bench, Calibration]] = {}

    def give(kind: str) -> tuple[Bench, Calibration]:
        if kind not in made:
            bench = aligned(bench_of(tmp_path_factory.mktemp("clean"), kind))
            made[kind] = bench, calibrate(bench)
        return made[kind]

    return give


@pytest.fixture
def later(
    clean: Callable[[str], tuple[Bench, Calibration]], tmp_path: Path
) -> Callable[..., Bench]:
    """Return the same bench with its calibration, after a change."""

    def give(kind: str, **changes: Any) -> Bench:
        bench, _ = clean(kind)
        changed = bench_of(tmp_path / "later", kind, **changes)
        for path in Path(bench.path).parent.glob("bench.calibration*"):
            shutil.copy(path, Path(changed.path).parent)
        return changed

    return give


# --- against ground truth ------------------------------------------------------------------------


@pytest.mark.parametrize(  # of tiny imaged elements, too little light is seen
    "kind", [KINDS[1], pytest.param(KINDS[2], marks=pytest.mark.slow), *KINDS[3:]]
)
def test_a_calibration_measures_the_ground_truth(
    clean: Callable[[str], tuple[Bench, Calibration]], kind: str
) -> None:
    bench, found = clean(kind)
    truth = truth_of(bench)
    assert bench.world is not None
    extinction = bench.world.options.extinction_ratio
    gain, noise = 1e6, 1000.0
    if bench.file.layout != "single-pixel":
        assert bench.camera.gain_e_per_count is not None
        gain, noise = bench.camera.gain_e_per_count, bench.camera.read_noise_e
    for figure in found.steps["photon_transfer"].figures:
        true = {"gain_e_per_count": gain, "read_noise_e": noise}.get(figure.name)
        if true is not None:  # 4.5 of its stated errors, once in 1.5e5, and 0.2 % of bias
            assert figure.uncertainty is not None and figure.uncertainty < 0.025 * true
            assert abs(figure.value - true) < 4.5 * figure.uncertainty + 2e-3 * true
    for role in ("input", "weight"):
        assert found.figure("response_curves", f"{role}_extinction") == pytest.approx(
            extinction, rel=0.03
        )
        off = found.array("response_curves", role) - truth["tables"][role]
        assert np.sqrt(np.mean(off**2)) < 3e-3
        wait_s, settles_s = found.figure("settling", f"{role}_wait_s"), truth["settle_times_s"]
        assert abs(wait_s - settles_s[role]) < 0.2 * bench.input.refresh_period_s
    backend = BenchBackend(load_bench(bench.path))
    backend.open()
    pairs = backend.optical_model.response.pairs_e / backend.optical_model.layout.element_sums(
        truth["gains"]
    )
    backend.close()
    # 0.4 % of the 16 gains of a tiny single-pixel bench (chi-square of 15 degrees: once in 1e6), of
    # 92 elsewhere
    assert (pairs / pairs.mean()).std() < (8e-3 if kind == "tiny single-pixel" else 5e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tiny_bench_computes_at_its_floor(
    clean: Callable[[str], tuple[Bench, Calibration]], layout: str
) -> None:
    # as `check` judges it: else a run of a calibrated bench is not to be trusted
    backend = BenchBackend(load_bench(clean(f"tiny {layout}")[0].path))
    found = random_products(backend, 200)
    backend.close()
    assert accuracy_finding(found).passed


def panel(
    folder: Path, layout: str, stated: str, slower: float, seed: int, **changes: Any
) -> Bench:
    """Make a small bench as found, of modulators that say how long they settle."""
    settling = {f"instruments__{role}__settle_time_s": stated for role in ("input", "weight")}
    options = settling | {"as_found": True, "seed": seed, "world__settling": slower} | changes
    return aligned(load_example(folder, layout, **options))


@pytest.mark.parametrize(
    ("layout", "stated", "slower", "settles_s"),
    [
        ("line", "0.2 ms", 1.0, 2e-4),  # in whose twentieth next to no light arrives
        pytest.param("line", "1 ms", 1.0, 1e-3, marks=pytest.mark.slow),
        ("imaged", "20 ms", 1.0, 2e-2),
        # far quicker than it says
        pytest.param("imaged", "20 ms", 0.05, 1e-3, marks=pytest.mark.slow),
        ("single-pixel", "20 ms", 0.01, 2e-4),
    ],
)
def test_quick_and_slow_panels_settle_as_they_do(
    tmp_path: Path, layout: str, stated: str, slower: float, settles_s: float
) -> None:
    """Otherwise `calibrate` fails on a quick panel, or runs wait for nothing, or for too little.

    Waits scatter by 7 % at most (of the darkest bench): beyond 30 % once in 1e5.
    """
    found = calibrate(panel(tmp_path, layout, stated, slower, 7), only=("dark_frames", "settling"))
    for role in ("input", "weight"):
        assert found.figure("settling", f"{role}_wait_s") == pytest.approx(settles_s, rel=0.3)


def test_a_panel_that_never_settles_is_told_the_way_out(tmp_path: Path) -> None:
    bench = panel(tmp_path, "imaged", "1 ms", 15.0, 0)
    with pytest.raises(BadFit, match=r"step settling: .*not settled.*--skip settling"):
        calibrate(bench, only=("dark_frames", "settling"))


def gain_of_products(backend: BenchBackend, rounds: int = 12) -> float:
    """Return what products of a bench are times those that its calibration predicts.

    Without noise, so without chance: of x, w and their mirrors 1 - x, 1 - w the sum with signs
    holds the products alone, none of what leaks and none of what is added.
    """
    layout, curves, bench = (
        backend.optical_model.layout,
        backend.optical_model.curves,
        backend.bench,
    )
    decoder, world = backend.setup.runner.decoder, bench.world
    per_pixel_e = world.options.electrons_per_pixel_j * bench.file.power_w * bench.file.exposure_s
    stray_e = world.options.stray_e_per_s * bench.file.exposure_s

    def seen(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        frames = layout.frame("input", x, 5), layout.frame("weight", w, 6)
        light_e = world.picture(*frames, bench.camera.sensor_shape) * per_pixel_e + stray_e
        counts = light_e / bench.camera.gain_e_per_count + backend.optical_model.optics.dark_counts
        mean_input = float(curves["input"].light[x].mean())
        electrons = (
            layout.electrons(counts)
            / layout.marks(layout.read(counts), mean_input, decoder.response.markers).scale
        )
        inverse = decoder.response.inverse
        return electrons if inverse is None else inverse @ electrons

    rng, rows = np.random.default_rng(3), 1 if layout.shares_input else layout.slots
    found = wanted = 0.0
    for _ in range(rounds):
        x, w = rng.random((rows, layout.length)), rng.random((layout.slots, layout.length))
        light, theory = np.zeros((2, layout.slots))
        for one, other, sign in ((x, w, 1), (1 - x, w, -1), (x, 1 - w, -1), (1 - x, 1 - w, 1)):
            levels = curves["input"].levels(one), curves["weight"].levels(other)
            light += sign * seen(*levels)
            theory += sign * decoder.model.passed_e(*levels)
        found, wanted = found + light @ theory, wanted + theory @ theory
    return float(found / wanted)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["imaged", "line"])
def test_a_calibrated_bench_has_a_gain_of_one(
    clean: Callable[[str], tuple[Bench, Calibration]], layout: str
) -> None:
    # Otherwise every product is too large or too small, and no error bar shows it. What markers
    # and curves are measured to leaves 5e-4: 4 sigma, once in 1.6e4.
    backend = BenchBackend(load_bench(clean(layout)[0].path))
    try:
        backend.open()
        assert gain_of_products(backend) == pytest.approx(1, abs=2e-3)
    finally:
        backend.close()


@pytest.mark.slow
def test_a_lens_that_distorts_is_calibrated(tmp_path: Path) -> None:
    # Otherwise `align` stores a cubic map that `calibrate` refuses, and the bench cannot be used.
    bench = panel(tmp_path, "imaged", "1 ms", 1.0, 103, world__distortion=0.01)
    calibrate(bench)
    backend = BenchBackend(load_bench(bench.path))
    try:
        backend.open()
        assert backend.optical_model.optics.camera_map.shape == (2, 10)
        assert gain_of_products(backend) == pytest.approx(1, abs=6e-3)  # 10 slots: 1.5e-3 rms
    finally:
        backend.close()


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (6,)])
def test_a_map_of_no_known_kind_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    bench = panel(tmp_path, "imaged", "1 ms", 1.0, 0)
    found = Calibration.read(path_of(None, bench.path))
    arrays = found.steps["align"].arrays | {"camera_map": np.ones(shape)}
    found.add(replace(found.steps["align"], arrays=arrays))
    with bench, pytest.raises(InputError, match=r"camera_map of shape .*\(2, 10\): align"):
        Calibrated(found).optics(bench)


@pytest.mark.campaign
@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_products_are_at_the_noise_floor(
    clean: Callable[[str], tuple[Bench, Calibration]], layout: str
) -> None:
    # Claims: 1.05 times the floor on imaged and line benches, 1.13 on single-pixel ones (means of
    # 14 seeds).
    # Ratios of n products, of unequal light, scatter by 0.87 / sqrt(n) of themselves (measured), so
    # that a bench as claimed is beyond its limit once in 1e4, on any processor; the bias once in
    # 370.
    backend = BenchBackend(load_bench(clean(layout)[0].path))
    claim, products = (1.13, 1000) if layout == "single-pixel" else (1.05, 2000)
    found = random_products(backend, products)
    backend.close()
    assert found.over_floor < claim * (1 + 3.72 * 0.87 / products**0.5)
    assert abs(found.bias_over_floor) < 0.1 + 3 * found.bias_error
    assert found.retries <= 2  # of 60 checksums, each once in 1e4: 4e-8


@pytest.mark.campaign
def test_crosstalk_of_close_blocks_is_undone(tmp_path: Path) -> None:
    bench = bench_of(
        tmp_path,
        "imaged",
        encoding__guard_px=4,
        encoding__block=[3, 3],
        world__blur_px=3.0,
        world__settling=1.0,
        world__electrons_per_pixel_j=3e8,
    )
    found = calibrate(aligned(bench), skip=["settling", "drift"])
    assert found.array("crosstalk", "inverse").size
    errors = {}
    for name in ("undone", "left"):
        backend = BenchBackend(load_bench(bench.path))
        errors[name] = random_products(backend, 1500).over_floor
        backend.close()
        step = found.steps["crosstalk"]
        step.arrays["inverse"] = np.zeros((0, 0), np.float32)
        found.add(step)
        found.write(path_of(None, bench.path))
        calibrate(bench, only=["flat_field"])
    assert errors["undone"] < 0.8 * errors["left"]


# --- what goes wrong while a bench is calibrated -------------------------------------------------

DARK = "no light reaches the detector"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("world", "error", "says"),
    [
        ({"world__electrons_per_pixel_j": 1.0}, UnexpectedIntensity, DARK),
        ({"world__covered": True}, UnexpectedIntensity, DARK),
        ({"world__electrons_per_pixel_j": 1e16}, Saturated, "full at the shortest exposure"),
        ({"world__fringes": 0.2}, BadFit, "light powers do not add"),
    ],
)
def test_a_bench_without_sound_light_is_refused(
    tmp_path: Path, kind: str, world: dict[str, Any], error: type[Exception], says: str
) -> None:
    bench = aligned(bench_of(tmp_path, kind, **world))
    with pytest.raises(error, match=says):
        calibrate(bench)
    assert bench.world is not None and bench.world.power_w == 0


@pytest.mark.parametrize(
    "seeds", [range(5), pytest.param(range(5, 20), marks=pytest.mark.slow)], ids=["first", "others"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fringes_are_refused_with_every_seed(tmp_path: Path, layout: str, seeds: range) -> None:
    # and a bench without is not: its departure is within 1 % or 5 standard errors
    for seed in seeds:
        for fringes in (0.2, 0.0)[: 2 if seed < 5 else 1]:
            bench = tiny(tmp_path, layout, seed, fringes)
            if fringes:
                with pytest.raises(BadFit, match="do not add"):
                    calibrate(bench, only=["additivity"])
            else:
                calibrate(bench, only=["additivity"])


def tiny(folder: Path, layout: str, seed: int, fringes: float) -> Bench:
    world = {"world__seed": seed, "world__source_rms": 0.005, "world__fringes": fringes}
    return aligned(load_example(folder, layout, calibration=None, **world))


def test_a_source_that_trips_is_named(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "line", instruments__source__faults=fault("tripped", [2]))
    with pytest.raises(InterlockOpen, match="re-arm"):
        calibrate(aligned(bench))


@pytest.mark.parametrize(
    ("kind", "rows", "says"),
    [
        ("tiny line", range(26, 34), "marker has .* a dead row"),
        pytest.param("imaged", range(150, 230), "slots stay dark .*rows 1", marks=pytest.mark.slow),
        pytest.param("line", range(260, 300), "slots stay dark", marks=pytest.mark.slow),
    ],
)
def test_dead_rows_are_named(
    later: Callable[..., Bench], kind: str, rows: range, says: str
) -> None:
    with pytest.raises(BadFit, match=says):
        calibrate(later(kind, world__dead_rows=list(rows)), only=["flat_field"])


@pytest.mark.slow
def test_one_dead_row_is_calibrated_away(later: Callable[..., Bench]) -> None:
    bench = later("imaged", world__dead_rows=[150])
    calibrate(bench, only=["flat_field"])
    backend = BenchBackend(load_bench(bench.path))
    assert random_products(backend, 1000).over_floor < 1.2  # 0.98, +-0.0275: 8 sigma
    backend.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["input", "weight"])
def test_a_modulator_that_hangs_is_named(later: Callable[..., Bench], kind: str, role: str) -> None:
    bench = later(kind, **{f"instruments__{role}__faults": fault("frozen", range(8, 2000))})
    with pytest.raises((BadFit, StaleFrame), match=f"{role} modulator does not show its frames"):
        calibrate(bench, only=["flat_field"])


def test_a_weight_modulator_that_never_shows_anything_is_named(tmp_path: Path) -> None:
    frozen = fault("frozen", rate=1.0)
    bench = aligned(bench_of(tmp_path, "line", instruments__weight__faults=frozen))
    with pytest.raises(BadFit, match="weight modulator's frames hardly change the light"):
        calibrate(bench)


def assert_alike(found: Calibration, clean: Calibration) -> None:
    """Within what noise explains: five times each figure's own uncertainty, or half a per cent."""
    for step, name in (
        ("photon_transfer", "gain_e_per_count"),
        ("photon_transfer", "read_noise_e"),
        ("response_curves", "input_extinction"),
        ("response_curves", "weight_extinction"),
        ("settling", "input_wait_s"),
        ("settling", "weight_wait_s"),
    ):
        figure = next(f for f in clean.steps[step].figures if f.name == name)
        off = abs(found.figure(step, name) - figure.value)
        assert off < 5 * 2**0.5 * float(figure.uncertainty or 0) + 5e-3 * figure.value, name
    for role in ("input", "weight"):
        off_curve = found.array("response_curves", role) - clean.array("response_curves", role)
        assert np.sqrt(np.mean(off_curve**2)) < 3e-3
    pairs = found.array("flat_field", "pairs_e") / clean.array("flat_field", "pairs_e")
    assert (pairs / pairs.mean()).std() < 7e-3


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("layout", "kinds"),
    [
        ("line", {"garbage": 0.03, "dropped": 0.01, "stale": 0.01, "incomplete": 0.01}),
        ("single-pixel", {"garbage": 0.03}),
    ],
)
def test_blocked_and_lost_exposures_change_no_result(
    clean: Callable[[str], tuple[Bench, Calibration]],
    tmp_path: Path,
    layout: str,
    kinds: dict[str, float],
) -> None:
    faults = [one for kind, rate in kinds.items() for one in fault(kind, rate=rate)]
    found = calibrate(aligned(bench_of(tmp_path, layout, instruments__detector__faults=faults)))
    assert_alike(found, clean(layout)[1])
    notes = " ".join(note for step in found.steps.values() for note in step.notes)
    for reason in ("UnexpectedIntensity", "IncompleteFrame")[: len(kinds)]:
        assert reason in notes  # counted and noted


@pytest.mark.parametrize("kind", KINDS)
def test_30_blocked_exposures_are_repeated_or_refused(
    later: Callable[..., Bench], clean: Callable[[str], tuple[Bench, Calibration]], kind: str
) -> None:
    for step, first in (("settling", 20), ("flat_field", 40)):
        blocked = fault("garbage", range(first, first + 30))
        bench = later(kind, instruments__detector__faults=blocked)
        try:
            found = calibrate(bench, only=[step])
        except (UnexpectedIntensity, BadFit, Saturated) as error:
            assert "beam" in str(error) or "source" in str(error)
        else:
            assert_alike(found, clean(kind)[1])


# --- what goes wrong between calibration and run -------------------------------------------------


MOVED = [  # rows and columns by which one plane has moved on the next
    ("imaged", "input", 0, 3),
    ("imaged", "input", 3, 0),
    ("imaged", "camera", 0, 3),
    ("imaged", "camera", 3, 0),
    ("line", "input", 0, 3),
    ("line", "camera", 5, 0),
    ("line", "camera", 0, 3),
    ("single-pixel", "input", 0, 6),
    ("single-pixel", "input", 6, 0),
]


@pytest.mark.parametrize(
    ("kind", "which", "rows", "columns"),
    [
        *((f"tiny {layout}", *how) for layout, *how in MOVED),
        *(pytest.param(*how, marks=pytest.mark.slow) for how in MOVED),
    ],
)
def test_a_bench_that_moved_is_refused_when_it_is_opened(
    later: Callable[..., Bench], kind: str, which: str, rows: float, columns: float
) -> None:
    if kind.startswith("tiny"):
        lies = TINY[f"world__{which}_registration"]
    else:
        lies = INPUT if which == "input" else CAMERA
    row, column = lies["shift_px"]
    shifted = {**lies, "shift_px": [row + rows, column + columns]}
    assert_refused(later(kind, **{f"world__{which}_registration": shifted}))


@pytest.mark.slow
def test_a_bench_whose_rows_died_is_refused_when_it_is_opened(later: Callable[..., Bench]) -> None:
    assert_refused(later("line", world__dead_rows=list(range(280, 300))))


def assert_refused(bench: Bench) -> None:
    with pytest.raises((UnexpectedIntensity, Paused), match="has moved or changed since"):
        BenchBackend(bench).open()
    assert bench.world is not None and bench.world.power_w == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_at_half_power_is_refused(later: Callable[..., Bench], kind: str) -> None:
    own = later(kind).world
    assert own is not None
    bench = later(kind, world__electrons_per_pixel_j=own.options.electrons_per_pixel_j / 2)
    with pytest.raises((UnexpectedIntensity, Paused), match="the source"):
        BenchBackend(bench).open()


@pytest.mark.campaign
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_drifting_source_is_followed(later: Callable[..., Bench], layout: str) -> None:
    # 5 % over a run of 800 shots and more; ratios scatter by 2 %, the 200 of a
    # single-pixel bench by 14 %: its limit 3.2 is 5 of these from the 1.85 of this drift. The
    # world's seed fixes it.
    bench = later(layout, world__drift_rms=0.05, world__drift_shots=2000.0)
    backend = BenchBackend(bench)
    found = random_products(backend, 200 if layout == "single-pixel" else 2000)
    backend.close()
    # a photodiode sees the source in every twentieth shot only: 2.3 and 2.8 were measured, so this
    # guards against worse and does not say that such a bench meets the 1.3 of the others
    assert found.over_floor < (3.2 if layout == "single-pixel" else 1.3)
    assert backend.setup.references <= 0.05 * found.shots + 5
    if layout == "single-pixel":
        assert backend.setup.references <= 0.12 * found.shots  # one with each weight frame


@pytest.mark.parametrize("kind", KINDS)
def test_drift_beyond_the_tolerance_stops_a_run(later: Callable[..., Bench], kind: str) -> None:
    bench = later(kind, world__drift_rms=0.15, world__drift_shots=300.0)
    backend = BenchBackend(bench)
    with pytest.raises(Paused, match=r"the light is|times as bright|reference"):
        for seed in range(20):
            random_products(backend, 500, seed)
    assert bench.world is not None and bench.world.power_w == 0


def test_a_step_needs_earlier_steps(later: Callable[..., Bench]) -> None:
    bench = later("tiny line")
    with pytest.raises(LightloomError, match="unknown step 'flatt'"):
        calibrate(bench, only=["flatt"])
    assert crosstalk.crosstalk.__name__ in calibrate(bench, only=["dark_frames"]).steps
    bare = aligned(bench)
    with pytest.raises(LightloomError, match="needs step dark_frames"):
        calibrate(bare, only=["flat_field"])
