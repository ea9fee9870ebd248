"""`GenicamCamera` with the GenTL producer of the package genicam.

It has three free-running cameras at 1 to 200 frames per second, without a trigger, an exposure time
or a clock. The settings of a triggered camera are tested with emulated features.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightloom.instruments import (
    Disconnected,
    DroppedFrame,
    IncompleteFrame,
    InputError,
    InstrumentTimeout,
    InUse,
    LimitExceeded,
    MissingExtraError,
    NotConnected,
    Region,
    Shot,
    StaleFrame,
    create,
)
from lightloom.instruments.conformance import CameraConformance
from lightloom.instruments.drivers import genicam as driver
from lightloom.instruments.drivers.genicam import GenicamCamera

needs_partner = pytest.mark.usefixtures("partner")


@pytest.fixture
def partner() -> None:
    pytest.importorskip(
        "harvesters.core", reason="harvesters is not installed: pip install 'lightloom[genicam]'"
    )


def camera(name: str = "camera", rate_hz: float = 200, **options: Any) -> GenicamCamera:
    features = {"AcquisitionFrameRate": rate_hz, **options.pop("features", {})}
    made = create("genicam-camera", name, {"producer": "viky", "features": features, **options})
    assert isinstance(made, GenicamCamera)
    return made


def streaming(**options: Any) -> GenicamCamera:
    """Return an armed camera in free-running mode."""
    made = camera(free_running=True, **options).connect()
    made.configure(trigger_mode="external")
    made.arm()
    return made


@needs_partner
class TestGenicamCamera(CameraConformance):
    @pytest.fixture
    def make(self) -> Callable[[], GenicamCamera]:
        return camera

    def unplug(self, instrument: Any) -> None:
        instrument._camera.device.module.close()  # the vendor library, behind the driver

    def mute(self, instrument: Any) -> None:
        instrument._camera.start = lambda: None  # no frame ever arrives

    def wait_s(self, instrument: Any) -> float:
        return float(instrument.exposure_s) + 1.0


@needs_partner
def test_a_frame_is_taken_after_its_trigger_and_names_its_shot() -> None:
    # A bench would use the previous frame: each exposure must begin after its trigger.
    with camera() as device:
        assert device.sensor_shape == (800, 800) and device.bit_depth == 8
        for number in range(5):
            asked_at_s = device.clock.now_s()
            frame = device.take(2.0, Shot("layer.0", number))
            assert frame.taken_at_s >= asked_at_s
            assert frame.data.shape == (800, 800) and frame.data.dtype == "uint8"
            assert frame.shot == Shot("layer.0", number) and frame.frame_id == number + 1


@needs_partner
def test_missing_features_are_listed_in_the_settings() -> None:
    # A record of a run must not contain an exposure that was never set.
    with camera(rate_hz=50) as device:
        features = device.describe()["settings"]["features"]
        assert set(features) == {"ExposureTime", "OffsetX", "OffsetY", "TriggerSoftware"}
        assert features["ExposureTime"] == "missing; exposure_s is the period of the frames"
        with pytest.raises(InputError, match=r"of 0\.001 s was requested, .* uses 0\.02 s"):
            device.configure(exposure_s=0.001)  # the camera cannot set it
        assert device.exposure_s == pytest.approx(1 / 50)
        device.configure(exposure_s=1 / 50)
        assert device.identity.model == "Viky" and device.identity.serial == "0"


@needs_partner
def test_a_second_shot_before_the_first_is_read_is_refused() -> None:
    # Without a trigger input, the second frame would be the first one again.
    with camera() as device:
        device.arm()
        device.trigger(Shot("first", 0))
        with pytest.raises(LimitExceeded, match="one shot at a time"):
            device.trigger(Shot("refused", 1))
        assert device.read(2.0).shot == Shot("first", 0)
        device.trigger(Shot("second", 2))
        assert device.read(2.0).shot == Shot("second", 2)


@needs_partner
def test_frames_lost_in_a_stall_are_detected() -> None:
    # The statistics of harvesters do not show them; all later shots would be shifted by a hundred.
    device = streaming(buffers=3)
    try:
        assert device.read(2.0).frame_id == 1
        time.sleep(0.3)  # the stall: frames continue to arrive
        with pytest.raises(DroppedFrame, match="lost; arm it again"):
            for _ in range(8):
                device.read(2.0)
        device.arm()
        device.read(2.0)
    finally:
        device.close()


@needs_partner
def test_a_buffered_frame_has_the_earliest_possible_time() -> None:
    # After a stall, frames arrive at once but are old: their time must be the earliest possible.
    device = streaming(buffers=8)
    try:
        for _ in range(5):  # on a busy computer no frame may arrive during a stall
            device.read(2.0)
            stalled_at_s = device.clock.now_s()
            time.sleep(0.2)  # the stall: frames continue to arrive
            if device.read(2.0).taken_at_s <= stalled_at_s:
                return
        pytest.fail("a frame that arrived during a stall has a later time")
    finally:
        device.close()


@needs_partner
def test_frames_from_before_arming_are_discarded() -> None:
    # The frames of the last tile would be read as those of the next.
    device = streaming(rate_hz=50, buffers=32)  # no frame is lost even on a busy computer
    try:
        time.sleep(0.1)  # frames arrive that are not read
        device.disarm()
        armed_at_s = device.clock.now_s()
        device.arm()
        assert all(device.read(2.0).taken_at_s >= armed_at_s for _ in range(12))
    finally:
        device.close()


@needs_partner
def test_time_outs_raise_errors() -> None:
    # A run would hang on a camera that was not triggered, or is slower than assumed.
    with camera() as device:
        device.arm()
        start_s = time.perf_counter()
        with pytest.raises(InstrumentTimeout, match=r"no frame within 0\.1 s"):
            device.read(0.1)
        assert 0.09 < time.perf_counter() - start_s < 1.0
    with camera(rate_hz=2) as slow, pytest.raises(LimitExceeded, match="longer than the time-out"):
        slow.take(0.2)
    device = streaming(rate_hz=200)
    try:
        device._camera.remote_device.node_map.AcquisitionStop.execute()
        start_s = time.perf_counter()
        with pytest.raises(InstrumentTimeout):
            while True:
                device.read(0.1)
        assert time.perf_counter() - start_s < 1.0
    finally:
        device.close()


@needs_partner
def test_an_incomplete_frame_is_reported_not_skipped(mocker: Any) -> None:
    # harvesters discards it silently; the next frame would be taken for this one.
    from genicam.gentl import Buffer

    device = streaming()
    try:
        device.read(2.0)
        mocker.patch.object(Buffer, "is_complete", side_effect=[False, *[True] * 100])
        with pytest.raises(IncompleteFrame, match="a part of frame 2 did not arrive"):
            device.read(2.0)
        device.read(2.0)
    finally:
        device.close()


@needs_partner
def test_a_camera_in_use_is_refused() -> None:
    # Two runs on one camera would read each other's frames.
    with camera() as device:
        with pytest.raises(InUse, match="already held by this program"):
            camera("other").connect()
        with pytest.raises(InUse, match="held by another"):  # refused by the producer itself
            camera("other", serial="0").connect()
        assert device.take(2.0).frame_id == 1


@needs_partner
def test_two_cameras_of_one_producer_work_side_by_side() -> None:
    # A producer opens only once per process: both cameras must share it.
    with camera("left") as left, camera("right", serial="2") as right:
        assert left.identity.serial == "0" and right.identity.serial == "2"
        left.take(2.0)
        right.take(2.0)
        right.close()
        left.take(2.0)


@needs_partner
def test_a_lost_camera_is_reported_and_can_be_closed() -> None:
    # An unplugged camera must end the run with a sentence, not with an endless wait.
    device = streaming()
    unplug = threading.Timer(0.05, device._camera.device.module.close)
    unplug.start()
    try:
        with pytest.raises(Disconnected, match="check cable and power"):
            for _ in range(400):
                device.read(1.0)
    finally:
        unplug.join()
        device.close()
    with pytest.raises(NotConnected):
        device.read(1.0)
    with camera() as again:
        again.take(2.0)


@needs_partner
def test_a_region_is_read_out_and_one_that_does_not_fit_is_refused() -> None:
    # The decoder would read spots at wrong pixels.
    with camera() as device:
        device.configure(region=Region(0, 0, 120, 300))
        assert device.take(2.0).data.shape == (120, 300)
        with pytest.raises(InputError, match="no feature 'OffsetX'"):
            device.configure(region=Region(0, 8, 120, 300))
        with pytest.raises(InputError, match="Width = 40"):
            device.configure(region=Region(0, 0, 120, 40))
        with pytest.raises(InputError, match="outside the sensor"):
            device.configure(region=Region(0, 0, 801, 300))


@needs_partner
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"serial": "77"}, "no camera serial '77'.*found.*Viky"),
        ({"index": 3}, "no camera 3 behind viky"),
        ({"pixel_format": "RGBa8"}, "not monochrome.*the camera has RGBa8, Mono8"),
        ({"pixel_format": "Mono12"}, "refuses PixelFormat = 'Mono12'"),
        ({"features": {"Gian": 3}}, "no feature 'Gian'"),
        ({"features": {"AcquisitionFrameRate": 500}}, "refuses AcquisitionFrameRate = 500"),
        ({"producer": "/nowhere/maker.cti"}, "producer = '/nowhere/maker.cti' is not a file"),
        ({"producer": ""}, "no GenTL producer in GENICAM_GENTL64_PATH"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(
    options: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A typing error in a bench file must give one sentence, and nothing may stay open.
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    with pytest.raises(InputError, match=complaint):
        camera(**options).connect()
    assert not driver.open_producers
    camera().connect().close()


@needs_partner
def test_producers_are_found_in_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    # Installers of camera makers set this variable; an operator need not name the path.
    import genicam

    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(Path(genicam.__file__).parent))
    with camera(producer="", serial="1") as device:
        assert device.take(2.0).data.any()


@needs_partner
def test_a_file_that_is_not_a_producer_is_named(tmp_path: Path) -> None:
    # An incomplete installation must not look like a missing camera.
    broken = tmp_path / "broken.cti"
    broken.write_bytes(b"not a library")
    with pytest.raises(InputError, match=r"broken\.cti"):
        camera(producer=str(broken)).connect()
    assert not driver.open_producers


@needs_partner
def test_external_triggers_need_a_trigger() -> None:
    # A free-running camera that is taken for a triggered one returns frames of arbitrary times.
    with camera() as device, pytest.raises(InputError, match="has no trigger"):
        device.configure(trigger_mode="external")


@pytest.mark.slow
@needs_partner
def test_a_hundred_openings_leak_nothing() -> None:
    # A run of days that reconnects would end with "too many open files".
    handles = Path("/proc/self/fd")

    def count() -> tuple[int, int]:
        return len(list(handles.iterdir())) if handles.exists() else 0, threading.active_count()

    with camera() as device:
        device.take(2.0)
    before = count()
    for _ in range(100):
        camera().connect().close()
    # earlier tests may release some meanwhile
    assert all(now <= then for now, then in zip(count(), before, strict=True))
    assert not driver.open_producers


class Feature:
    """An emulated feature of a camera that records writes and executions."""

    def __init__(self, value: Any = None, low: float = 0, high: float = 0) -> None:
        self.written: list[Any] = []
        self.executed = 0
        self.min, self.max, self._value = low, high, value

    def get_access_mode(self) -> int:
        return 4

    def execute(self) -> None:
        self.executed += 1

    @property
    def value(self) -> Any:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self.written.append(value)
        self._value = value


@needs_partner
def test_a_camera_with_a_trigger_is_configured(mocker: Any) -> None:
    # Not yet run on hardware: the calls are those that the standard (SFNC) documents.
    features = {
        "ExposureTime": Feature(5_000.0, 20.0, 1e6),
        "ExposureAuto": Feature(),
        "TriggerSelector": Feature(),
        "TriggerMode": Feature(),
        "TriggerSource": Feature(),
        "TriggerSoftware": Feature(),
    }
    real = GenicamCamera._node
    mocker.patch.object(
        GenicamCamera,
        "_node",
        lambda self, name: features[name] if name in features else real(self, name),
    )
    with camera(trigger_line="Line2") as device:
        assert device.exposure_limits_s == pytest.approx((20e-6, 1.0))
        assert features["ExposureAuto"].written == ["Off"]
        device.configure(exposure_s=0.002)
        assert features["ExposureTime"].value == pytest.approx(2_000.0)
        assert device.exposure_s == pytest.approx(0.002)
        with pytest.raises(LimitExceeded):
            device.configure(exposure_s=2.0)

        device.arm()
        for number in range(3):
            device.trigger(Shot("layer", number))
        assert features["TriggerSelector"].value == "FrameStart"
        assert features["TriggerMode"].value == "On"
        assert features["TriggerSource"].value == "Software"
        assert features["TriggerSoftware"].executed == 3
        shots = [device.read(1.0).shot for _ in range(3)]
        assert shots == [Shot("layer", number) for number in range(3)]
        with pytest.raises(StaleFrame, match="check what else triggers it"):
            device.read(0.05)  # the emulated camera continues: these frames have no trigger

        device.configure(trigger_mode="external")
        assert features["TriggerSource"].value == "Line2"


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would have to read a traceback to learn what to install.
    monkeypatch.setitem(sys.modules, "harvesters.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lightloom\[genicam\]'") as caught:
        camera().connect()
    assert "\n" not in str(caught.value)


class Nodes:
    """The emulated features of a camera, by name."""

    def __init__(self, **features: Any) -> None:
        common = {
            "PixelFormat": Feature("Mono8"),
            "Width": Feature(1296, 16, 1296),
            "Height": Feature(966, 1, 966),
            "OffsetX": Feature(0),
            "OffsetY": Feature(0),
            "TriggerSoftware": Feature(),
            "TriggerMode": Feature("Off"),
            "TriggerSource": Feature("Line1"),
        }
        for name, feature in (common | features).items():
            setattr(self, name, feature)
        self.PixelFormat.symbolics = ("Mono8", "Mono12Packed")


def bare(**options: Any) -> Any:
    return create("genicam-camera", "camera", {"producer": "viky", **options})


def set_up(**features: Any) -> tuple[GenicamCamera, Any]:
    """Return a connected camera that has these features.

    No producer with such a camera is available, so an emulated one replaces that of harvesters.
    """
    nodes, made = Nodes(**features), bare()
    made._camera = SimpleNamespace(
        remote_device=SimpleNamespace(node_map=nodes), destroy=lambda: None, stop=lambda: None
    )
    made._set_up()
    made.is_connected = True
    return made, nodes


class Keeps(Feature):
    """A feature that keeps another value than the written one, as if locked or rounding."""

    def __init__(self, value: Any, held: Any, low: float = 0, high: float = 0) -> None:
        super().__init__(value, low, high)
        self._held = held

    @property
    def value(self) -> Any:
        return self._held

    @value.setter
    def value(self, value: Any) -> None:
        self.written.append(value)


@needs_partner
@pytest.mark.parametrize(
    ("features", "name", "wanted"),
    [
        ({"ExposureTime": Feature(20_000.0, 16.0, 1e7)}, "ExposureTime", 5_000.0),
        ({"ExposureTimeAbs": Feature(20_000.0, 16.0, 1e7)}, "ExposureTimeAbs", 5_000.0),
        (
            {"ExposureTimeRaw": Feature(1000, 1, 500_000), "ExposureTimeBaseAbs": Feature(20.0)},
            "ExposureTimeRaw",
            250,
        ),
    ],
)
def test_the_exposure_is_set_by_each_of_its_feature_names(
    features: dict[str, Any], name: str, wanted: float
) -> None:
    # A camera of the first naming convention kept its 20 ms where 5 ms were requested.
    device, nodes = set_up(**features)
    assert device.exposure_s == pytest.approx(0.02) and device.exposure_limits_s[1] == 10.0
    device.configure(exposure_s=0.005)
    assert getattr(nodes, name).value == wanted and device.exposure_s == pytest.approx(0.005)
    assert "ExposureTime" not in device.describe()["settings"]["features"]


@needs_partner
def test_an_exposure_that_the_camera_does_not_accept_is_refused() -> None:
    # A run would be recorded with 5 ms, and calibrated and exposed with 20 ms.
    device, _ = set_up(ExposureTime=Keeps(20_000.0, 20_000.0, 16.0, 1e7))
    with pytest.raises(InputError, match=r"0\.005 s was requested, and the camera uses 0\.02 s"):
        device.configure(exposure_s=0.005)
    assert device.exposure_s == pytest.approx(0.02)


@needs_partner
@pytest.mark.parametrize("name", ["Width", "OffsetY", "TriggerMode", "Gain"])
def test_written_features_are_read_back(name: str) -> None:
    # A feature that another one locks ignores a value silently.
    wanted = {"Width": 1296, "OffsetY": 0, "TriggerMode": "Off", "Gain": 1.0}[name]
    features = {name: Keeps(wanted, wanted, 16, 1296)}
    made = bare(features={"Gain": 2.0}) if name == "Gain" else bare()
    nodes = Nodes(ExposureTime=Feature(2_000.0, 16.0, 1e7), **features)
    made._camera = SimpleNamespace(remote_device=SimpleNamespace(node_map=nodes))
    with pytest.raises(InputError, match=f"{name} was set to .*the camera uses"):
        made._set_up()
        made.is_connected = True
        made.configure(region=Region(100, 0, 200, 640))


@needs_partner
def test_a_partly_refused_region_restores_all_settings() -> None:
    # Width was written and the offset was not: frames of one region were read as those of another.
    device, nodes = set_up(ExposureTime=Feature(2_000.0, 16.0, 1e7))
    device.configure(exposure_s=0.002, region=Region(0, 0, 200, 640))
    nodes.OffsetX = Keeps(0, 0)
    with pytest.raises(InputError, match="OffsetX was set to 100"):
        device.configure(region=Region(0, 100, 300, 500))
    assert device.region == Region(0, 0, 200, 640)
    assert (nodes.Width.value, nodes.Height.value) == (640, 200)
