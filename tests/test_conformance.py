"""Simulated instruments pass the conformance suite, and the suite detects wrong drivers."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_instruments import OnEchoDevice
from lightloom.instruments import Clock, Instrument, ProtocolError, RawFrame, Region, VirtualClock
from lightloom.instruments.conformance import (
    CameraConformance,
    DaqConformance,
    InstrumentConformance,
    LightSourceConformance,
    SlmConformance,
)
from lightloom.instruments.image_checks import grows_with_exposure, reads_region
from lightloom.instruments.simulated import (
    Fault,
    SimulatedCamera,
    SimulatedDaq,
    SimulatedSLM,
    SimulatedSource,
)
from lightloom.instruments.templates.camera import TemplateCamera
from lightloom.instruments.templates.daq import TemplateDaq
from lightloom.instruments.templates.echo import DEVICES
from lightloom.instruments.templates.light_source import TemplateSource
from lightloom.instruments.templates.slm import TemplateSLM

SILENCE = Fault(kind="silent", rate=1.0)


class Simulated:
    """The hooks of the suite for every simulated instrument, with both kinds of clock."""

    may_act = True

    @pytest.fixture(params=[Clock, VirtualClock], ids=["real clock", "virtual clock"])
    def clock(self, request: pytest.FixtureRequest) -> Clock:
        made: Clock = request.param()
        return made

    def unplug(self, instrument: Any) -> None:
        instrument.unplug()

    def mute(self, instrument: Any) -> None:
        instrument.options = instrument.options.model_copy(update={"faults": (SILENCE,)})


class TestSimulatedSLM(Simulated, SlmConformance):
    @pytest.fixture(params=["tiny", "meadowlark-p1920"])
    def make(self, request: pytest.FixtureRequest, clock: Clock) -> Callable[[], SimulatedSLM]:
        options = SimulatedSLM.Options(serial="1", device=request.param)
        return lambda: SimulatedSLM("weights", options, clock=clock)

    def seen(self, instrument: Any) -> np.ndarray:
        frames = instrument.world.modulators[instrument.role].frames
        return np.asarray(frames[-1].levels)


class TestSimulatedCamera(Simulated, CameraConformance):
    @pytest.fixture
    def make(self, clock: Clock) -> Callable[[], SimulatedCamera]:
        options = SimulatedCamera.Options(serial="1")
        return lambda: SimulatedCamera("camera", options, clock=clock)

    def wait_s(self, instrument: Any) -> float:
        return super().wait_s(instrument) - 3.0  # a fast camera: short time-outs


class TestSimulatedDaq(Simulated, DaqConformance):
    @pytest.fixture
    def make(self, clock: Clock) -> Callable[[], SimulatedDaq]:
        return lambda: SimulatedDaq("daq", SimulatedDaq.Options(serial="1"), clock=clock)


class TestSimulatedSource(Simulated, LightSourceConformance):
    @pytest.fixture
    def make(self, clock: Clock) -> Callable[[], SimulatedSource]:
        options = SimulatedSource.Options(serial="1")
        return lambda: SimulatedSource("source", options, clock=clock)

    def open_interlock(self, instrument: Any) -> None:
        trips = Fault(kind="tripped", rate=1.0)
        instrument.options = instrument.options.model_copy(update={"faults": (trips,)})


# --- drivers with one fault each -----------------------------------------------------------------


class ForgetsToCopy(TemplateSLM):
    def _show(self, frame: np.ndarray) -> float:
        self._device.put("frame", frame)
        return self.clock.now_s()

    def _checked(self, frame: Any) -> np.ndarray:
        return np.asarray(frame)


class SettlesInThePast(TemplateSLM):
    def _show(self, frame: np.ndarray) -> float:
        return super()._show(frame) - 1.0


class KeepsOldFrames(TemplateCamera):
    def _arm(self) -> None:
        self._device.put("armed", True)

    def _read(self, timeout_s: float) -> RawFrame | None:
        raw = super()._read(timeout_s)
        return raw and RawFrame(raw.data, None, self.clock.now_s())


class RepeatsTheLastFrame(TemplateCamera):
    def _read(self, timeout_s: float) -> RawFrame | None:
        self._kept = super()._read(timeout_s) or RawFrame(
            np.zeros((48, 64), np.uint16), None, self.clock.now_s()
        )
        return self._kept


class HidesAnUnplug(TemplateCamera):
    def _trigger(self, shot: Any) -> None:
        self._buffer.append(RawFrame(np.zeros((48, 64), np.uint16), None, self.clock.now_s()))

    def _read(self, timeout_s: float) -> RawFrame | None:
        return self._buffer.popleft() if self._buffer else None

    def _arm(self) -> None:
        self._buffer.clear()


class SendsLeftAligned(TemplateCamera):
    def _image(self) -> np.ndarray:
        return super()._image() << np.uint16(4)


class SendsLeftAlignedInTheDark(TemplateCamera):
    def _image(self) -> np.ndarray:
        return (super()._image() // 8) << np.uint16(4)  # all counts fit into 12 bits


class KeepsItsExposure(TemplateCamera):
    def __init__(self, name: str) -> None:
        super().__init__(name, clock=VirtualClock())  # exposures of the suite grow to seconds

    def _image(self) -> np.ndarray:
        before_s, self._exposure_s = self._exposure_s, 0.002
        try:
            return super()._image()
        finally:
            self._exposure_s = before_s


class IgnoresOffsets(TemplateCamera):
    def _image(self) -> np.ndarray:
        part = self.region
        self._region = Region(0, 0, part.height, part.width)
        try:
            return super()._image()
        finally:
            self._region = part


class IsUpsideDown(TemplateCamera):
    def _image(self) -> np.ndarray:
        return super()._image()[::-1]


class IsMirrored(TemplateCamera):
    def _image(self) -> np.ndarray:
        return super()._image()[:, ::-1]


class LeaksAThread(TemplateDaq):
    def _connect(self, timeout_s: float) -> Any:
        threading.Thread(target=threading.Event().wait, args=(10,), daemon=True).start()
        return super()._connect(timeout_s)


class EmitsBeforeEnable(TemplateSource):
    def _set_power(self, power_w: float) -> None:
        self._device.put("emits", True)


class KeepsEmitting(TemplateSource):
    def _make_safe(self) -> None:
        pass


class MixesReplies(TemplateDaq):
    """Two shots in one exchange: the second caller gets the reply of the first."""

    def _read(self, channels: Any, samples: int, *others: Any) -> Any:
        fresh = super()._read(channels, samples, *others)
        self._old = getattr(self, "_old", fresh)
        return type(fresh)(fresh.volts, fresh.rate_hz, fresh.started_at_s, self._old.shot)


class HasNoAddress(TemplateSLM):
    """A device without a stable address: each instrument reports another address."""

    _numbers = itertools.count()

    @property
    def address(self) -> str:
        self._number = getattr(self, "_number", None) or f"slm:{next(self._numbers)}"
        return self._number


class EchoSlm(OnEchoDevice, SlmConformance):
    def seen(self, instrument: Any) -> np.ndarray:
        return np.asarray(DEVICES[instrument.address].memory["frame"])


class EchoCamera(OnEchoDevice, CameraConformance):
    notices_unplug_within_s = 0.5


class EchoDaq(OnEchoDevice, DaqConformance):
    volts = dict.fromkeys(range(4), 0.0)
    lets_go_within_s = 0.5


class EchoSource(OnEchoDevice, LightSourceConformance):
    def is_dark(self, instrument: Any) -> bool:
        return not DEVICES[instrument.address].memory["emits"]


@pytest.fixture
def devices() -> Iterator[None]:
    DEVICES.clear()
    yield
    DEVICES.clear()


@pytest.mark.parametrize(
    ("wrong", "suite", "test"),
    [
        (ForgetsToCopy, EchoSlm, "test_fresh_frame_after_show"),
        (ForgetsToCopy, EchoSlm, "test_limits_are_refused_before_anything_is_sent"),
        (SettlesInThePast, EchoSlm, "test_settling_time_is_reported"),
        (HasNoAddress, EchoSlm, "test_second_open_is_refused"),
        (KeepsOldFrames, EchoCamera, "test_fresh_frame_after_arm"),
        (RepeatsTheLastFrame, EchoCamera, "test_no_trigger_times_out"),
        (HidesAnUnplug, EchoCamera, "test_unplug_is_detected"),
        (SendsLeftAlignedInTheDark, EchoCamera, "test_counts_fit_the_bit_depth"),
        (KeepsItsExposure, EchoCamera, "test_counts_grow_with_exposure"),
        (IgnoresOffsets, EchoCamera, "test_a_region_shows_its_part_of_the_sensor"),
        (IsUpsideDown, EchoCamera, "test_a_region_shows_its_part_of_the_sensor"),
        (IsMirrored, EchoCamera, "test_a_region_shows_its_part_of_the_sensor"),
        (MixesReplies, EchoDaq, "test_threads_cannot_mix_replies"),
        (LeaksAThread, EchoDaq, "test_open_and_close_leak_nothing"),
        (EmitsBeforeEnable, EchoSource, "test_emits_only_when_enabled"),
        (KeepsEmitting, EchoSource, "test_close_leaves_it_dark"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.usefixtures("devices")
def test_the_suite_detects_a_wrong_driver(
    wrong: type[Instrument], suite: type[InstrumentConformance[Any]], test: str
) -> None:
    # A driver author would trust a suite that passes with any driver.
    check = getattr(suite(), test)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        if "make" in check.__code__.co_varnames[: check.__code__.co_argcount]:
            check(lambda: wrong("thing"))
        else:
            with wrong("thing") as instrument:
                check(instrument)


@pytest.mark.usefixtures("devices")
def test_left_aligned_counts_are_refused_and_can_be_shifted_back() -> None:
    # Every number would be 16 times too large, and saturation never detected.
    with (
        SendsLeftAligned("camera") as camera,
        pytest.raises(ProtocolError, match=r"12 bits hold at most 4095; .*set count_shift = 4"),
    ):
        camera.take(5.0)
    shifted = SendsLeftAligned("camera", TemplateCamera.Options(count_shift=4))
    with shifted as camera, TemplateCamera("other", TemplateCamera.Options(serial="2")) as right:
        np.testing.assert_array_equal(camera.take(5.0).data, right.take(5.0).data)
    wrong = TemplateCamera("camera", TemplateCamera.Options(count_shift=4))
    with wrong as camera, pytest.raises(ProtocolError, match="would discard bits"):
        camera.take(5.0)


@pytest.mark.usefixtures("devices")
def test_the_self_test_detects_left_aligned_counts_that_fit() -> None:
    # A dim image of left-aligned counts looks like one of 12 bits.
    with SendsLeftAlignedInTheDark("camera") as camera:
        finding = camera.self_test()[-1]
    assert not finding.passed and "set count_shift = 4" in finding.detail


@pytest.mark.parametrize("kind", [SimulatedCamera, TemplateCamera])
@pytest.mark.usefixtures("devices")
def test_a_correct_camera_passes_the_image_checks(kind: Any) -> None:
    # The suite would refuse cameras that work correctly.
    for seed in range(5):
        with kind("camera", clock=VirtualClock()) as camera:
            camera.configure(exposure_s=1e-3 * (1 + seed))
            settings = camera.describe()["settings"]
            for finding in (grows_with_exposure(camera), reads_region(camera)):
                assert finding.passed and "cannot be determined" not in finding.detail, finding
            assert camera.describe()["settings"] == settings
