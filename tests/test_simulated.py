"""The simulated world follows its physics, so that a calibration of it is meaningful.

Statistical tests fix their seeds; each states its false-alarm rate for a fresh seed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import InputError, Region, Shot, VirtualClock
from lightloom.instruments.simulated import (
    CAMERAS,
    DAQS,
    MODULATORS,
    Fault,
    LightPath,
    SimulatedCamera,
    SimulatedDaq,
    SimulatedSLM,
    SimulatedSource,
    WorldOptions,
    optics,
)


class World:
    """Four connected instruments in one world, with the source on."""

    def __init__(
        self,
        slm: str = "tiny",
        camera: str = "tiny",
        faults: tuple[Fault, ...] = (),
        **options: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.path = LightPath(WorldOptions.model_validate({"electrons_per_pixel_j": 2e9} | options))

        def make(kind: Any, role: str, **settings: Any) -> Any:
            made = kind(role, kind.Options(**settings), clock=self.clock)
            made.join(self.path, role)
            return made.connect()

        self.input = make(SimulatedSLM, "input", device=slm)
        self.weight = make(SimulatedSLM, "weight", device=slm, faults=faults)
        self.camera = make(SimulatedCamera, "detector", device=camera)
        self.source = make(SimulatedSource, "source")
        self.source.enable()
        self.camera.arm()

    def show(self, x: Any, w: Any) -> None:
        shape = self.input.shape
        shown = [
            modulator.show(np.broadcast_to(np.asarray(level, dtype=np.uint8), shape))
            for modulator, level in ((self.input, x), (self.weight, w))
        ]
        for modulator, one in zip((self.input, self.weight), shown, strict=True):
            modulator.wait_until_settled(one)

    def take(self, name: str = "a") -> np.ndarray:
        """Electrons of a frame."""
        frame = self.camera.take(2.0, Shot(name, 1))
        counts = frame.data.astype(float) - self.camera.offset_counts
        return counts * self.camera.gain_e_per_count

    def mean(self, exposure_s: float = 2e-3, at_s: float | None = None) -> np.ndarray:
        """Noise-free electrons of each pixel."""
        shape = self.camera.sensor_shape
        start = self.clock.now_s() if at_s is None else at_s
        region, row_time = Region(0, 0, *shape), self.camera.row_time_s
        return self.path.on_camera(start, exposure_s, shape, region, row_time, Shot("m", 1))

    def total(self) -> float:
        """Noise-free electrons of a photodiode."""
        return self.path.on_photodiode(self.clock.now_s(), 2e-3, Shot("m", 1))


def centroid(image: np.ndarray) -> np.ndarray:
    """Return row and column of a spot over its background."""
    spot = np.where(image > image.max() / 10, image, 0)
    rows, columns = np.indices(spot.shape)
    return np.array([(spot * rows).sum(), (spot * columns).sum()]) / spot.sum()


def square(shape: tuple[int, int], top: int, left: int, side: int = 4) -> np.ndarray:
    """Return a dark frame with a bright square."""
    frame = np.zeros(shape, dtype=np.uint8)
    frame[top : top + side, left : left + side] = 255
    return frame


def test_photon_transfer_returns_gain_and_read_noise() -> None:
    # Calibration measures the gain of a camera by this curve.
    world = World()
    variances, means = [], []
    inside = (slice(16, 48), slice(24, 72))
    for level in (0, 60, 120, 180, 240):
        world.show(255, level)
        pairs = [world.take(f"{level}/{number}")[inside] for number in range(40)]
        stack = np.stack(pairs)
        means.append(stack.mean())
        variances.append(stack.var(axis=0, ddof=1).mean())
    slope = np.polyfit(means, variances, 1)[0]
    # 1,536 pixels times 39: each variance is known to 0.6 %, the slope to about
    # 0.7 %: 6 sigma, and the read noise to 1.3 %
    assert slope == pytest.approx(1, abs=0.04)
    device = CAMERAS["tiny"]
    step = world.camera.gain_e_per_count**2 / 12
    assert variances[0] - means[0] == pytest.approx(device.read_noise_e**2 + step, rel=0.1)


def test_weak_light_of_a_quiet_camera_is_poissonian() -> None:
    # A Gaussian with a mean of one electron would be negative in one sixth of all cases.
    world = World(camera="orca-quest-2", electrons_per_pixel_j=4e6)
    world.show(255, 255)
    world.camera.configure(region=Region(1000, 1800, 300, 300))
    world.camera.arm()
    electrons = world.take().ravel()
    region = world.camera.region
    shape = world.camera.sensor_shape
    light = world.path.on_camera(1.0, 2e-3, shape, region, 0.0, Shot("m", 1)).ravel()
    mean, spread = float(light.mean()), float(np.sqrt(light.mean() + 0.43**2))
    assert electrons.mean() == pytest.approx(mean, abs=5 * spread / 300)
    skewness = np.mean(((electrons - light) / spread) ** 3)
    assert skewness > 0.5 * mean / spread**3


def test_a_frame_read_too_early_is_a_mixture() -> None:
    # A fixed sleep of half a second would hide this.
    world = World()
    world.show(255, 255)
    bright = world.mean().sum()
    shown = world.weight.show(np.zeros(world.weight.shape, dtype=np.uint8))
    tau = world.weight.settle_time_s / 10
    starts = shown.shown_at_s + np.array([0.0, tau, 3 * tau])
    seen = [world.mean(1e-6, at_s=start).sum() * 2e3 / bright for start in starts]
    dark = 1 / 500
    for share, left in zip(seen, np.exp([0, -1, -3]), strict=True):
        assert share == pytest.approx(dark + (1 - dark) * left, abs=0.01)
    settled = world.mean(1e-6, at_s=shown.settled_at_s).sum() * 2e3 / bright
    assert settled == pytest.approx(dark, abs=1e-4)


def test_only_the_last_frame_of_a_settled_modulator_is_visible() -> None:
    # Each exposure would compute the light of frames that are no longer visible.
    world = World()
    world.show(255, 255)
    world.weight.show(np.zeros(world.weight.shape, dtype=np.uint8))
    modulator = world.path.modulators["weight"]
    last, tau = modulator.frames[-1], modulator.time_constant_s
    for exposure_s in (0.0, tau, 100 * tau):
        assert modulator.frame_weights(last.from_s + 9.4 * tau, exposure_s) == [(last, 1.0)]
    (_, left), (frame, share) = modulator.frame_weights(last.from_s + 9 * tau, 0.0)
    assert frame is last and left == pytest.approx(np.exp(-9), rel=1e-3)
    assert left + share == pytest.approx(1)


def test_a_rolling_shutter_sees_two_frames_at_once() -> None:
    # The top of the image shows the previous frame, so both frame markers must be checked.
    world = World(camera="prime-95b")
    world.show(255, 255)
    world.clock.sleep_until(1.0)
    shown = world.weight.show(np.zeros(world.weight.shape, dtype=np.uint8))
    picture = world.mean(1e-4, at_s=shown.shown_at_s - 6e-3)
    rows = picture.sum(axis=1)
    top, bottom = rows[:500].sum(), rows[700:].sum()
    assert top > 50 * bottom > 0


def test_light_follows_the_registration() -> None:
    world = World(
        slm="fast-512",
        camera="fast-512",
        camera_registration={"rotation_deg": 2.0, "shift_px": (3.5, -7.25), "scale": 0.9},
    )
    world.show(255, square(world.weight.shape, 100, 300))
    matrix = world.path.truth(world.camera.sensor_shape)["camera_map"]
    np.testing.assert_allclose(centroid(world.mean()), matrix @ [101.5, 301.5, 1], atol=0.05)


def test_distortion_moves_light_outwards_by_the_cube_of_the_radius() -> None:
    # An affine map alone would misplace the read-out regions in the corners.
    world, plain = (World("fast-512", "fast-512", distortion=d) for d in (0.01, 0.0))
    for top, left in ((30, 40), (250, 250), (400, 470)):
        frame = square(world.weight.shape, top, left)
        for each in (world, plain):
            each.show(255, frame)
        truth = world.path.truth((512, 512))
        y, x = truth["camera_map"] @ [top + 1.5, left + 1.5, 1]
        offset = np.array([y, x]) - 255.5
        moved = 0.01 * (offset @ offset) / (2 * 255.5**2) * offset
        np.testing.assert_allclose(centroid(world.mean()), np.array([y, x]) + moved, atol=0.05)
        assert np.abs(moved).max() > 1 or top == 250
        assert world.mean().sum() == pytest.approx(plain.mean().sum(), rel=1e-3)


def test_the_input_is_seen_through_its_own_registration() -> None:
    world = World(
        slm="fast-512",
        camera="fast-512",
        input_registration={"shift_px": (5.0, -3.0)},
        camera_registration={"scale": 1 / 0.98},  # camera pixels are weight pixels
    )
    frame = np.zeros(world.input.shape, dtype=np.uint8)
    frame[100:120, 200:230] = 255
    world.show(frame, 255)
    light = world.mean() / (2e9 * 1e-3 * 2e-3)  # over that of full transmission
    assert light[105:125, 197:227].min() > 0.99 and light[104, 210] < 0.01


@pytest.mark.parametrize("blur_px", [0.0, 1.5])
def test_light_is_conserved_on_its_way_to_the_camera(blur_px: float) -> None:
    world = World(blur_px=blur_px)
    frame = np.zeros(world.weight.shape, dtype=np.uint8)
    frame[20:40, 30:60] = 255
    world.show(255, frame)
    table = world.path.truth()["tables"]["weight"]
    passed = table[frame][1:-1, 1:-1].sum()
    assert world.mean().sum() == pytest.approx(passed * 2e9 * 1e-3 * 2e-3, rel=0.01)


def test_crosstalk_of_the_line_layout_goes_to_the_neighbours() -> None:
    pictures = []
    for crosstalk in (0.0, 0.1):
        world = World(layout="line", crosstalk=crosstalk)
        frame = np.zeros(world.weight.shape, dtype=np.uint8)
        frame[30] = 255
        world.show(255, frame)
        pictures.append(world.mean().sum(axis=1))
    share = 1 - pictures[1].max() / pictures[0].max()
    assert 0.05 < share < 0.25
    assert pictures[0].sum() == pytest.approx(pictures[1].sum(), rel=1e-3)


def test_noise_depends_on_the_shot_and_not_on_the_order() -> None:
    # A resumed run must have the same noise as an uninterrupted one.
    world, other = World(), World()
    for each in (world, other):
        each.show(255, 255)
    first = {name: world.take(name) for name in ("a", "b")}
    second = {name: other.take(name) for name in ("b", "a")}
    for name, picture in first.items():
        np.testing.assert_array_equal(picture, second[name])
    assert np.abs(first["a"] - first["b"]).max() > 0


def test_drift_is_slow_and_a_property_of_the_device() -> None:
    def brightness(seed: int) -> np.ndarray:
        world = World(drift_rms=0.05, drift_shots=1000.0, seed=seed)
        world.show(255, 255)
        start_s = world.clock.now_s()
        shots = [Shot("a", number) for number in range(0, 4000, 10)]
        powers = [world.path.on_photodiode(start_s, 1.0, shot) for shot in shots]
        return np.array(powers) / np.mean(powers) - 1

    one, other = brightness(1), brightness(2)
    np.testing.assert_array_equal(one, brightness(1))
    assert not np.allclose(one, other)
    assert 0.015 < one.std() < 0.1 and np.abs(np.diff(one)).max() < 0.016  # 5 of its rms


@pytest.mark.parametrize("distortion", [0.0, 0.03])
def test_numpy_and_numba_give_the_same_light(
    monkeypatch: pytest.MonkeyPatch, distortion: float
) -> None:
    # Without the extra `fast` a simulation must be slower, but not different.
    if not optics.COMPILED:
        pytest.skip("numba is not installed, so there is only one path")
    chance = np.random.Generator(np.random.Philox(2))
    one, other, even = (chance.random((60, 90), dtype=np.float32) for _ in range(3))
    matrix = optics.affine(0.8, 3.0, (1.0, 2.0), (60, 90), (64, 80))

    def seen() -> tuple[np.ndarray, ...]:
        return (
            optics.image(one, other, even, matrix, (64, 80), distortion),
            optics.warp(one, matrix, (64, 80)),
            optics.blur(one, 0.7),
            optics.blur(one, 30.0),  # wider than the image
        )

    compiled = seen()
    monkeypatch.setattr(optics, "COMPILED", False)
    plain = seen()
    for fast, slow in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-6)


def test_a_photodiode_measures_the_sum() -> None:
    world = World(layout="single-pixel", electrons_per_pixel_j=1e8)
    daq = SimulatedDaq("diode", SimulatedDaq.Options(read_noise_e=0.0), clock=world.clock)
    daq.join(world.path, "detector")
    daq.connect()
    world.show(255, 128)
    light = daq.read((0,), 2000, 1e6, shot=Shot("a", 1)).volts[0] / 1e-6 - 0.1
    table = world.path.truth()["tables"]["weight"]
    expected = 1e8 * 1e-3 * 1e-6 * 64 * 96 * table[128]
    assert light.mean() == pytest.approx(expected, rel=0.05)
    daq.close()


@pytest.mark.parametrize("layout", ["imaged", "line", "single-pixel"])
def test_cached_exposures_change_nothing(layout: str) -> None:
    # A resumed run has empty caches and must give the same light, bit for bit.
    options: Any = {"layout": layout, "blur_px": 0.8, "crosstalk": 0.05, "drift_rms": 0.05}
    world, fresh = World(**options), World(**options)
    chance = np.random.Generator(np.random.Philox(3))
    for _ in range(4):
        x, w = chance.integers(0, 256, (2, 64, 96), dtype=np.uint8)
        for each in (world, fresh):
            each.show(x, w)
        settling = world.clock.now_s() - 7e-4  # two frames of each modulator are seen
        for start in (None, None, settling, None):
            fresh.path.forget()
            np.testing.assert_array_equal(world.mean(at_s=start), fresh.mean(at_s=start))
            assert world.total() == fresh.total()


def test_another_exposure_of_the_same_frames_computes_no_new_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A calibration exposes one pair of frames hundreds of times.
    from lightloom.instruments.simulated import projection

    made = []

    def image(*arguments: Any) -> np.ndarray:
        made.append(arguments)
        return optics.image(*arguments)

    monkeypatch.setattr(projection, "image", image)
    world = World()
    world.show(255, 255)
    pictures = [world.mean(exposure_s) for exposure_s in (1e-3, 2e-3, 1e-3)]
    assert len(made) == 1
    np.testing.assert_array_equal(pictures[0], pictures[2])
    np.testing.assert_allclose(2 * pictures[0], pictures[1], rtol=1e-6)
    world.show(255, 0)
    assert world.mean().sum() < pictures[1].sum() / 100 and len(made) == 2


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
def test_a_modulator_has_the_configured_bits(bits: int) -> None:
    path, clock = LightPath(WorldOptions(electrons_per_pixel_j=1.0)), VirtualClock()
    options = SimulatedSLM.Options(device="tiny", bit_depth=bits)
    input_, weight = (SimulatedSLM(role, options, clock=clock) for role in ("input", "weight"))
    for modulator in (input_, weight):
        modulator.join(path, modulator.name)
        modulator.connect()
    assert weight.bit_depth == bits and weight.dtype == (np.uint8 if bits <= 8 else np.uint16)
    path.power_w = 1.0
    input_.show(np.full((64, 96), 2**bits - 1, dtype=input_.dtype))
    middle = 2**bits // 2
    weight.show(np.full((64, 96), middle, dtype=weight.dtype))
    light = path.on_photodiode(1.0, 1.0, Shot("a", 1)) / (64 * 96)
    assert light == pytest.approx(1 / 500 + (1 - 1 / 500) * middle / (2**bits - 1), rel=1e-4)
    if bits not in (8, 16):
        with pytest.raises(InputError, match="level"):
            weight.show(np.full((64, 96), 2**bits, dtype=weight.dtype))
    for modulator in (input_, weight):
        modulator.close()


@pytest.mark.parametrize("bits", [0, 17])
def test_no_modulator_has_fewer_than_1_or_more_than_16_bits(bits: int) -> None:
    with pytest.raises(ValueError, match="bit_depth"):
        SimulatedSLM.Options(bit_depth=bits)


def test_serial_numbers_differ_between_benches_and_roles() -> None:
    # The identity of the instruments is what refuses a calibration of another bench.
    def serials(world: World) -> list[str]:
        instruments = (world.input, world.weight, world.camera, world.source)
        assert all(instrument.address == "" for instrument in instruments)
        return [instrument.identity.serial for instrument in instruments]

    one, again, other = (serials(World(seed=seed)) for seed in (1, 1, 2))
    assert one == again and len({*one, *other}) == 8
    assert all(serial.startswith("SIM-") and len(serial) == 10 for serial in one)
    alone = SimulatedSLM("slm", SimulatedSLM.Options(device="tiny"), clock=VirtualClock())
    first = alone.connect().identity
    alone.close()
    assert first.serial and alone.connect().identity == first
    alone.close()
    given = SimulatedSource("source", SimulatedSource.Options(serial="7"), clock=VirtualClock())
    with given:
        assert given.identity.serial == "7" and given.address == "simulated:7"


def test_a_modulator_may_settle_more_slowly_than_stated() -> None:
    # Calibration must measure the settling time instead of using the data sheet.
    world = World(settling=3.0)
    world.show(255, 255)
    world.clock.sleep_until(1.0)
    bright = world.mean().sum()
    shown = world.weight.show(np.zeros(world.weight.shape, dtype=np.uint8))
    assert world.weight.settle_time_s == MODULATORS["tiny"].settle_time_s
    assert world.path.truth()["settle_times_s"]["weight"] == pytest.approx(3e-3)
    seen = world.mean(1e-6, at_s=shown.settled_at_s).sum() * 2e3 / bright
    assert seen == pytest.approx(1 / 500 + (1 - 1 / 500) * np.exp(-10 / 3), abs=1e-3)


def test_hot_pixels_are_dark_counts_of_a_few_pixels_with_their_own_noise() -> None:
    # A hot pixel in a read-out region would add to every reading of it.
    world = World(camera="fast-512", hot_pixels=1e-3, covered=True, seed=5)
    region = Region(10, 20, 400, 480)
    hot = world.path.truth((512, 512))["hot_pixels"][10:410, 20:500]
    # 192 of 192,000 are expected; five sigma, 1 false alarm in 2 million.
    assert abs(hot.sum() - 192) < 5 * np.sqrt(192)

    def stack(exposure_s: float) -> np.ndarray:
        world.camera.configure(exposure_s=exposure_s, region=region)
        world.camera.arm()
        return np.stack([world.take(f"{exposure_s}/{number}") for number in range(40)])

    short, long = stack(0.02), stack(0.04)
    mean, variance = short[:, hot].mean(axis=0), short[:, hot].var(axis=0, ddof=1)
    assert 15 < mean.min() < 60 and 600 < mean.max() < 2100  # 0.02 s of 1e3 to 1e5, log-uniform
    noise = CAMERAS["fast-512"].read_noise_e ** 2 + world.camera.gain_e_per_count**2 / 12
    # 39 degrees of freedom of each: known to sqrt(2 / 39 / 192) = 1.6 %; five sigma
    assert np.mean(variance / (mean + noise)) == pytest.approx(1, abs=0.08)
    # 40 frames of some 90,000 electrons: both sums known to 0.1 %; 7 sigma
    assert long[:, hot].sum() == pytest.approx(2 * short[:, hot].sum(), rel=0.01)
    # others: 7.7 million draws of 2.7 electrons round 0.02, known to 0.001; six sigma
    assert short[:, ~hot].mean() == pytest.approx(0.02, abs=0.006)
    other = World(camera="fast-512", hot_pixels=1e-3, seed=6).path.truth((512, 512))["hot_pixels"]
    assert not np.array_equal(hot, other[10:410, 20:500])


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("layout", ["imaged", "line", "single-pixel"])
def test_fringes_break_the_sum_of_powers(layout: str, seed: int) -> None:
    # Calibration must refuse a coherent bench: I(A + B) is not I(A) + I(B).
    def missing(share: float) -> np.ndarray:
        world = World(layout=layout, fringes=share, seed=seed)
        stripes = np.tile(np.array([255, 0], dtype=np.uint8), (64, 48))
        lights = []
        for frame in (255, stripes, 255 - stripes, 0):
            world.show(255, frame)
            lights.append(np.array([world.total()]) if layout == "single-pixel" else world.mean())
        both, one, other, dark = (light.astype(float) for light in lights)
        assert min(light.min() for light in lights) >= 0
        return (both + dark - one - other) / both.max()

    assert np.abs(missing(0.0)).max() < 1e-5
    # stripes of one pixel: all cross terms, at least cos(1 rad) of sqrt(light of both)
    assert np.abs(missing(0.2)).max() > 0.9 * 0.2 * np.cos(1) / 1.2


def test_fringes_make_no_negative_light_and_move_it_only_to_neighbours() -> None:
    chance = np.random.Generator(np.random.Philox(4))
    light = chance.random((40, 60), dtype=np.float32) ** 8
    cosine = np.cos(6.28 * chance.random((40, 60), dtype=np.float32))
    seen = optics.interfere(light, cosine, 1.0)
    assert seen.min() >= 0
    even = optics.interfere(np.ones_like(light), cosine, 0.3)[:, :-1]
    np.testing.assert_allclose(even, 1 + 0.3 * cosine[:, :-1], rtol=1e-5)
    np.testing.assert_array_equal(optics.interfere(light, cosine, 0.0), light)


def test_swapped_cables_show_each_frame_on_the_other_modulator() -> None:
    # The product stays right for one vector, and is wrong for layouts that copy their input.
    tilted: Any = {"input_registration": {"shift_px": (5.0, 3.0)}}
    swapped, right = World(swapped=True, **tilted), World(**tilted)
    x, w = square((64, 96), 10, 20, 12), square((64, 96), 8, 18, 20)
    swapped.show(x, w)
    right.show(w, x)
    np.testing.assert_array_equal(swapped.mean(), right.mean())
    right.show(x, w)
    assert np.abs(swapped.mean() - right.mean()).max() > right.mean().max() / 2
    swapped.weight.blank()
    swapped.clock.sleep_until(swapped.clock.now_s() + 1)
    right.input.blank()
    right.show(0, x)
    np.testing.assert_array_equal(swapped.mean(), right.mean())


@pytest.mark.parametrize(("shape", "bits"), [((64, 90), 8), ((64, 96), 12)])
def test_unequal_modulators_cannot_be_swapped(shape: tuple[int, int], bits: int) -> None:
    path = LightPath(WorldOptions(swapped=True))
    path.add_modulator("input", (64, 96), 8, 0.0)
    with pytest.raises(InputError, match="swapped"):
        path.add_modulator("weight", shape, bits, 0.0)


def test_a_covered_detector_has_only_dark_counts() -> None:
    world = World(covered=True, stray_e_per_s=1e6, layout="line")
    world.show(255, 255)
    assert world.mean().max() == 0 and world.total() == 0
    # 6,144 pixels of 2.7 electrons: known to 0.035; five sigma
    assert world.take().mean() == pytest.approx(0.002, abs=0.18)


def test_a_dead_row_stays_at_its_darkest_level() -> None:
    world, sound = World(dead_rows=(10, 11)), World()
    for level in (0, 128, 255):
        for each in (world, sound):
            each.show(255, level)
        share = world.path.truth()["tables"]["weight"][[0, level]]
        lost = 2 / 64 * (1 - share[0] / share[1])
        assert world.total() == pytest.approx(sound.total() * (1 - lost), rel=1e-5)
    row = world.path.truth(world.camera.sensor_shape)["camera_map"] @ [10.5, 47.5, 1]
    profile = world.mean().sum(axis=1)
    assert int(np.argmin(profile[5:-5])) + 5 == round(row[0])
    with pytest.raises(InputError, match=r"dead_rows = \[64\]"):
        World(dead_rows=(3, 64))


@pytest.mark.parametrize("spot_px", [1, 5, 12])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.25, -20.0), (-2.0, 7.4)])
def test_spots_of_the_line_layout_follow_the_registration(
    shift: tuple[float, float], spot_px: int
) -> None:
    # A calibrated line bench would read beside its spots.
    world = World(
        layout="line", spot_px=spot_px, camera_registration={"shift_px": shift, "scale": 0.9}
    )
    frame = np.zeros(world.weight.shape, dtype=np.uint8)
    frame[30] = 255
    world.show(255, frame)
    bright = world.mean()
    world.show(255, 0)
    picture = bright - world.mean()
    truth = world.path.truth(world.camera.sensor_shape)
    expected = truth["camera_map"] @ [30, 0, 1]
    np.testing.assert_allclose(centroid(np.maximum(picture, 0)), expected, atol=0.06)
    first, after = truth["spot_columns"]
    assert expected[1] == pytest.approx((first + after - 1) / 2)
    lit = np.nonzero(picture.max(axis=0) > 0)[0]
    assert lit.min() == int(np.floor(first)) and lit.max() == int(np.ceil(after)) - 1
    table = truth["tables"]["weight"]
    electrons = 96 * (table[255] - table[0]) * 2e9 * 1e-3 * 2e-3
    assert picture.sum() == pytest.approx(electrons, rel=1e-3)


@pytest.mark.parametrize("layout", ["imaged", "line"])
@pytest.mark.parametrize("left", [0, 40, 46, 60])
def test_a_region_shows_its_part_of_the_image(layout: str, left: int) -> None:
    # Spots are in columns 45 to 49; regions begin before, within and after them.
    world = World(layout=layout, blur_px=0.7)
    world.show(255, square((64, 96), 10, 30, 30))
    whole, part = world.mean(), Region(5, left, 40, 30)
    seen = world.path.on_camera(1.0, 2e-3, (64, 96), part, 0.0, Shot("m", 1))
    np.testing.assert_array_equal(seen, whole[5:45, left : left + 30])


def test_spots_beside_the_sensor_are_lost() -> None:
    world = World(layout="line", camera_registration={"shift_px": (20.0, 46.5), "rotation_deg": 3})
    world.show(255, 255)
    picture = world.mean()
    assert picture.min() == 0 and picture[:, -1].max() > 0
    inside = 44 * 0.9 * 96 * 2e9 * 1e-3 * 2e-3  # 44 of 64 rows, 4.5 of 5 columns
    assert picture.sum() == pytest.approx(inside, rel=1e-3)


def test_a_modulator_on_the_wrong_monitor_changes_no_light() -> None:
    # It accepts every frame, blank ones too, and the light does not change.
    world = World(faults=(Fault(kind="frozen", rate=1.0),))
    world.show(255, 255)
    dark = world.total()
    table = world.path.truth()["tables"]["weight"]
    assert dark == pytest.approx(64 * 96 * table[0] * 2e9 * 1e-3 * 2e-3, rel=1e-5)
    world.weight.wait_until_settled(world.weight.blank())
    assert world.total() == dark and world.path.flips("weight", math.inf) == 0
    world.input.wait_until_settled(world.input.blank())
    assert world.total() < dark / 100  # the other modulator works


def test_the_truth_names_every_imperfection_of_the_world() -> None:
    # Checks against the truth would miss an imperfection that it omits.
    told = World(
        settling=2.0, hot_pixels=0.01, fringes=0.1, distortion=0.01, dead_rows=(3,), spot_px=7
    ).path.truth((64, 96))
    assert told["settling"] == 2.0 and told["fringes"] == 0.1 and told["distortion"] == 0.01
    assert told["dead_rows"] == (3,) and told["spot_px"] == 7
    assert not told["swapped"] and not told["covered"]
    assert told["hot_pixels"].shape == (64, 96) and told["hot_pixels"].dtype == bool


@pytest.mark.parametrize("device", sorted(MODULATORS))
def test_every_modulator_profile_connects_with_its_timing(device: str) -> None:
    clock = VirtualClock()
    with SimulatedSLM("slm", SimulatedSLM.Options(device=device), clock=clock) as slm:
        first, second = slm.blank(), slm.blank()
        assert second.shown_at_s - first.shown_at_s == pytest.approx(slm.refresh_period_s)
        assert first.settled_at_s >= first.shown_at_s


@pytest.mark.parametrize("device", sorted(CAMERAS))
def test_every_camera_profile_takes_a_frame(device: str) -> None:
    with SimulatedCamera(
        "camera", SimulatedCamera.Options(device=device), clock=VirtualClock()
    ) as camera:
        camera.configure(region=Region(0, 0, 8, 16))
        assert camera.take(2.0).data.shape == (8, 16)


@pytest.mark.parametrize("device", sorted(DAQS))
def test_every_daq_profile_reads(device: str) -> None:
    with SimulatedDaq("daq", SimulatedDaq.Options(device=device), clock=VirtualClock()) as daq:
        assert daq.read((0, 1), 10).volts.shape == (2, 10)
