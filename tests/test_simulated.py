"""The simulated world does what its physics says: else a calibration of it means nothing.

Statistical tests fix their seeds; each states its false-alarm rate for a fresh seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lightloom.instruments import Region, Shot, VirtualClock
from lightloom.instruments.simulated import (
    CAMERAS,
    DAQS,
    MODULATORS,
    LightPath,
    SimulatedCamera,
    SimulatedDaq,
    SimulatedSLM,
    SimulatedSource,
    WorldOptions,
    optics,
)


class World:
    """Four instruments in one world, connected, the source on."""

    def __init__(self, slm: str = "tiny", camera: str = "tiny", **options: Any) -> None:
        self.clock = VirtualClock()
        self.path = LightPath(WorldOptions.model_validate({"electrons_per_pixel_j": 2e9} | options))

        def make(kind: Any, role: str, **settings: Any) -> Any:
            made = kind(role, kind.Options(**settings), clock=self.clock)
            made.join(self.path, role)
            return made.connect()

        self.input = make(SimulatedSLM, "input", device=slm)
        self.weight = make(SimulatedSLM, "weight", device=slm)
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


def test_photon_transfer_gives_back_the_gain_and_the_read_noise() -> None:
    # calibration measures a camera by this curve
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
    # 1,536 pixels times 39: each variance is known to 0.6 %, the slope to about 1 %
    assert slope == pytest.approx(1, abs=0.04)
    device = CAMERAS["tiny"]
    step = world.camera.gain_e_per_count**2 / 12
    assert variances[0] - means[0] == pytest.approx(device.read_noise_e**2 + step, rel=0.1)


def test_weak_light_of_a_quiet_camera_is_poissonian() -> None:
    # a Gaussian of one electron would be negative a sixth of the time
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
    # half a second of sleep hid this in every laboratory's notebook
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


def test_a_rolling_shutter_sees_two_frames_at_once() -> None:
    # the top of the image is then of the frame before: both markers have to be looked at
    world = World(camera="prime-95b")
    world.show(255, 255)
    world.clock.sleep_until(1.0)
    shown = world.weight.show(np.zeros(world.weight.shape, dtype=np.uint8))
    picture = world.mean(1e-4, at_s=shown.shown_at_s - 6e-3)
    rows = picture.sum(axis=1)
    top, bottom = rows[:500].sum(), rows[700:].sum()
    assert top > 50 * bottom > 0


def test_light_lands_where_the_registration_says() -> None:
    world = World(
        slm="fast-512",
        camera="fast-512",
        camera_registration={"rotation_deg": 2.0, "shift_px": (3.5, -7.25), "scale": 0.9},
    )
    frame = np.zeros(world.weight.shape, dtype=np.uint8)
    frame[100:104, 300:304] = 255
    world.show(255, frame)
    picture = world.mean() - world.mean().min()
    spot = np.where(picture > picture.max() / 10, picture, 0)
    rows, columns = np.indices(spot.shape)
    found = np.array([(spot * rows).sum(), (spot * columns).sum()]) / spot.sum()
    matrix = world.path.truth(world.camera.sensor_shape)["camera_map"]
    np.testing.assert_allclose(found, matrix @ [101.5, 301.5, 1], atol=0.05)


def test_the_input_is_seen_through_its_own_registration() -> None:
    world = World(slm="fast-512", camera="fast-512", input_registration={"shift_px": (5.0, -3.0)})
    frame = np.zeros(world.input.shape, dtype=np.uint8)
    frame[100:120, 200:230] = 255
    world.show(frame, 255)
    light = world.path._light("input", world.path.modulators["input"].frames[-1])
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


def test_draws_belong_to_the_shot_and_not_to_their_order() -> None:
    # a resumed run must go on with the noise that it would have had
    world, other = World(), World()
    for each in (world, other):
        each.show(255, 255)
    first = {name: world.take(name) for name in ("a", "b")}
    second = {name: other.take(name) for name in ("b", "a")}
    for name, picture in first.items():
        np.testing.assert_array_equal(picture, second[name])
    assert np.abs(first["a"] - first["b"]).max() > 0


def test_drift_is_slow_and_belongs_to_the_device() -> None:
    def course(seed: int) -> np.ndarray:
        world = World(drift_rms=0.05, drift_shots=1000.0, seed=seed)
        powers = [world.path._electrons_per_pixel(1.0, Shot("a", n)) for n in range(0, 4000, 10)]
        return np.array(powers) / np.mean(powers) - 1

    one, other = course(1), course(2)
    np.testing.assert_array_equal(one, course(1))
    assert not np.allclose(one, other)
    assert 0.015 < one.std() < 0.1 and np.abs(np.diff(one)).max() < 0.01


def test_numpy_and_numba_see_the_same_light(monkeypatch: pytest.MonkeyPatch) -> None:
    # without the extra `fast` a simulation is slower, not another one
    if not optics.COMPILED:
        pytest.skip("numba is not installed: there is one path only")
    chance = np.random.Generator(np.random.Philox(2))
    one, other, even = (chance.random((60, 90), dtype=np.float32) for _ in range(3))
    matrix = optics.affine(0.8, 3.0, (1.0, 2.0), (60, 90), (64, 80))
    compiled = optics.image(one, other, even, matrix, (64, 80)), optics.warp(one, matrix, (64, 80))
    monkeypatch.setattr(optics, "COMPILED", False)
    plain = optics.image(one, other, even, matrix, (64, 80)), optics.warp(one, matrix, (64, 80))
    for fast, slow in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-3, atol=1e-4)


def test_a_photodiode_sees_the_sum() -> None:
    world = World(layout="block", electrons_per_pixel_j=1e8)
    daq = SimulatedDaq("diode", SimulatedDaq.Options(read_noise_e=0.0), clock=world.clock)
    daq.join(world.path, "detector")
    daq.connect()
    world.show(255, 128)
    light = daq.read((0,), 2000, 1e6, shot=Shot("a", 1)).volts[0] / 1e-6 - 0.1
    table = world.path.truth()["tables"]["weight"]
    expected = 1e8 * 1e-3 * 1e-6 * 64 * 96 * table[128]
    assert light.mean() == pytest.approx(expected, rel=0.05)
    daq.close()


@pytest.mark.parametrize("device", sorted(MODULATORS))
def test_every_modulator_profile_connects_and_keeps_its_time(device: str) -> None:
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
