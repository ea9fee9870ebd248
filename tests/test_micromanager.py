"""`MicroManagerCamera` with the DemoCamera of Micro-Manager's test adapters."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import (
    Disconnected,
    DroppedFrame,
    InputError,
    InstrumentTimeout,
    InUse,
    LimitExceeded,
    MissingExtraError,
    NotConnected,
    Region,
    Shot,
    create,
)
from lightloom.instruments.conformance import CameraConformance
from lightloom.instruments.drivers.micromanager import MicroManagerCamera

DEMO = {"adapter": "DemoCamera", "device": "DCam"}


@pytest.fixture
def partner() -> Path:
    pytest.importorskip(
        "pymmcore_plus",
        reason="pymmcore-plus is not installed: pip install 'lightloom[micromanager]'",
    )
    adapters = pytest.importorskip(
        "mm_test_adapters", reason="the demo camera is not installed: pip install mm-test-adapters"
    )
    return Path(adapters.device_adapter_path())


needs_partner = pytest.mark.usefixtures("partner")


def camera(name: str = "camera", **options: Any) -> MicroManagerCamera:
    made = create("micromanager-camera", name, options if "config" in options else DEMO | options)
    assert isinstance(made, MicroManagerCamera)
    return made


@needs_partner
class TestMicroManagerCamera(CameraConformance):
    sees_light = False  # it shows moving waves, independent of the exposure

    @pytest.fixture
    def make(self) -> Callable[[], MicroManagerCamera]:
        return camera

    def unplug(self, instrument: Any) -> None:
        instrument._core.unloadDevice("camera")  # in Micro-Manager's core, behind the driver

    def mute(self, instrument: Any) -> None:
        instrument._core.setExposure(1500)  # no frame arrives for a while

    def wait_s(self, instrument: Any) -> float:
        return float(instrument.exposure_s) + 0.5


@needs_partner
def test_a_frame_is_taken_after_its_trigger_and_names_its_shot() -> None:
    # A bench would use the previous frame: each exposure must begin after its trigger.
    with camera() as device:
        assert device.sensor_shape == (512, 512) and device.bit_depth == 8
        assert device.identity.model == "DCam"
        device.configure(exposure_s=0.005)
        before = np.zeros(1)
        for number in range(5):
            asked_at_s = device.clock.now_s()
            frame = device.take(2.0, Shot("layer.0", number))
            assert frame.taken_at_s >= asked_at_s
            assert device.clock.now_s() - frame.taken_at_s >= 0.005
            assert frame.data.shape == (512, 512) and frame.data.dtype == "uint8"
            assert frame.shot == Shot("layer.0", number) and frame.frame_id == number + 1
            assert not np.array_equal(frame.data, before)  # its waves move
            before = frame.data


@needs_partner
def test_exposure_region_and_depth_reach_the_camera() -> None:
    # The decoder would read spots at wrong pixels, or scale counts wrongly.
    with camera(properties={"PixelType": "16bit", "BitDepth": 12}) as device:
        assert device.bit_depth == 12 and device.exposure_limits_s == (0.0, 10.0)
        device.configure(exposure_s=0.02, region=Region(10, 20, 30, 40))
        frame = device.take(2.0)
        assert frame.data.shape == (30, 40) and frame.data.dtype == "uint16"
        assert frame.exposure_s == pytest.approx(0.02)
        device.configure(region=Region(0, 0, 512, 512))
        assert device.take(2.0).data.shape == (512, 512)
        with pytest.raises(LimitExceeded, match="exposure 11 s"):
            device.configure(exposure_s=11)
        with pytest.raises(InputError, match="outside the sensor"):
            device.configure(region=Region(0, 0, 513, 10))


@needs_partner
def test_settings_survive_a_new_connection() -> None:
    # After an unplug, the exposure would differ from the record.
    device = camera().connect()
    device.configure(exposure_s=0.003, region=Region(1, 2, 30, 40))
    device.close()
    with device:
        assert device.take(2.0).data.shape == (30, 40)
        assert device.exposure_s == pytest.approx(0.003)


@needs_partner
def test_a_second_shot_before_the_first_is_read_is_refused() -> None:
    # Micro-Manager would discard the first frame silently.
    with camera() as device:
        device.arm()
        device.trigger(Shot("first", 0))
        with pytest.raises(LimitExceeded, match="one shot at a time"):
            device.trigger(Shot("refused", 1))
        assert device.read(2.0).shot == Shot("first", 0)
        device.trigger(Shot("second", 2))
        assert device.read(2.0).shot == Shot("second", 2)


@needs_partner
def test_an_aborted_shot_is_never_read_as_the_next() -> None:
    # After an abort, the old frame is in the buffer and would be read as the new one.
    with camera() as device:
        device.configure(exposure_s=0.01)
        device.arm()
        device.trigger(Shot("given up", 0))
        time.sleep(0.05)  # its frame arrives and is not read
        armed_at_s = device.clock.now_s()
        device.arm()
        with pytest.raises(InstrumentTimeout):
            device.read(0.05)
        device.trigger(Shot("wanted", 1))
        frame = device.read(2.0)
        assert frame.shot == Shot("wanted", 1) and frame.taken_at_s >= armed_at_s


@needs_partner
@pytest.mark.parametrize("reads_before", [0, 2])
def test_frames_lost_in_a_stall_are_detected(reads_before: int) -> None:
    # A full buffer is discarded; all later shots would be shifted by dozens.
    with camera(external_properties={}, buffers=4) as device:
        device.configure(exposure_s=0.05, trigger_mode="external")
        device.arm()
        ids = [device.read(2.0).frame_id for _ in range(reads_before)]
        assert ids == list(range(1, reads_before + 1))
        time.sleep(0.6)  # the stall: frames continue to arrive, and the buffer holds 4
        with pytest.raises(DroppedFrame, match="lost; arm it again"):
            for _ in range(8):
                device.read(2.0)
        device.arm()
        device.read(2.0)


@needs_partner
def test_free_running_frames_are_dated_by_their_arrival() -> None:
    # A frame that waited in the buffer must not look like a fresh one.
    with camera(external_properties={}, buffers=64) as device:
        device.configure(exposure_s=0.01, trigger_mode="external")
        armed_at_s = device.clock.now_s()
        device.arm()
        time.sleep(0.2)  # frames arrive and wait in the buffer
        began_s = [device.read(2.0).taken_at_s - armed_at_s for _ in range(5)]
        assert began_s == sorted(began_s) and began_s[0] >= 0 and began_s[-1] < 0.15


@needs_partner
def test_time_outs_raise_errors() -> None:
    # A run would hang on a camera that was not triggered.
    with camera() as device:
        device.arm()
        start_s = time.perf_counter()
        with pytest.raises(InstrumentTimeout, match=r"no frame within 0\.1 s"):
            device.read(0.1)
        assert 0.09 < time.perf_counter() - start_s < 1.0
        device.configure(exposure_s=0.5)
        with pytest.raises(LimitExceeded, match="longer than the time-out"):
            device.take(0.2)


@needs_partner
def test_a_camera_in_use_is_refused() -> None:
    # Two runs on one camera would read each other's frames.
    with camera() as device:
        with pytest.raises(InUse, match="already held by this program"):
            camera("other").connect()
        device.take(2.0)


@needs_partner
def test_a_lost_camera_is_reported_and_can_be_closed() -> None:
    # An unplugged camera must end the run with a sentence.
    device = camera().connect()
    device.arm()
    device._core.unloadDevice("camera")
    with pytest.raises(Disconnected, match="check cable and power"):
        device.take(2.0)
    device.close()
    with pytest.raises(NotConnected):
        device.read(1.0)
    with camera() as again:
        again.take(2.0)


@needs_partner
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"adapter": "Nope"}, "no adapter 'Nope' in .*; there are .*DemoCamera"),
        ({"device": "DCamX"}, "no device 'DCamX'; it has DCam"),
        ({"properties": {"Bining": 2}}, "no property 'Bining'; the camera has .*Binning"),
        ({"properties": {"BitDepth": 9}}, "BitDepth = 9 is refused"),
        ({"properties": {"PixelType": "32bitRGB"}}, "pixels of 4 components"),
        ({"config": "/nowhere/bench.cfg"}, "config = '/nowhere/bench.cfg' is not a file"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(options: dict[str, Any], complaint: str) -> None:
    # A typing error in a bench file must give one sentence, and nothing may stay open.
    with pytest.raises(InputError, match=complaint):
        camera(**options).connect()
    camera().connect().close()


@pytest.mark.parametrize(
    "options", [{}, {"adapter": "DemoCamera"}, {"config": "a.cfg", **DEMO}, {"device": "DCam"}]
)
def test_a_camera_is_named_in_one_way(options: dict[str, str]) -> None:
    # With two names, it would be unknown which camera was used.
    with pytest.raises(InputError, match="name either config, or both adapter and device"):
        create("micromanager-camera", "camera", options)


@needs_partner
def test_external_triggers_need_their_properties() -> None:
    # A free-running camera that is taken for a triggered one returns frames of arbitrary times.
    with camera() as device, pytest.raises(InputError, match="needs external_properties"):
        device.configure(trigger_mode="external")


def test_a_configuration_file_names_the_camera(partner: Path, tmp_path: Path) -> None:
    # Laboratories have such files already; they must work unchanged.
    with camera(config=str(partner / "MMConfig_demo.cfg")) as device:
        assert device.identity.model == "DCam" and device.take(2.0).data.any()
    empty = tmp_path / "empty.cfg"
    empty.write_text("# nothing\n")
    with pytest.raises(InputError, match="names no camera"):
        camera(config=str(empty)).connect()
    broken = tmp_path / "broken.cfg"
    broken.write_text("Device,Camera,Nope,Nope\n")
    with pytest.raises(InputError, match=r"broken\.cfg' is refused"):
        camera(config=str(broken)).connect()


@pytest.mark.slow
@needs_partner
def test_a_hundred_openings_leak_nothing() -> None:
    # A run of days that reconnects would end with "too many open files", or threads.
    process = Path("/proc/self")

    def count() -> tuple[int, ...]:
        system = [len(list((process / what).iterdir())) for what in ("fd", "task")]
        return (*system, threading.active_count())

    if not process.exists():
        pytest.skip("handles and threads are counted in /proc, which only Linux has")
    camera().connect().close()
    before = count()
    for _ in range(100):
        camera().connect().close()
    assert max(np.subtract(count(), before)) <= 0


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would have to read a traceback to learn what to install.
    monkeypatch.setitem(sys.modules, "pymmcore_plus", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lightloom\[micromanager\]'"):
        camera().connect()
