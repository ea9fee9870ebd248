"""`SlmsuiteSLM` and `SlmsuiteCamera` with the simulated modulator and camera of slmsuite.

Failures of vendor classes are tested with a class of ours that raises the same errors.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from lightloom.instruments import (
    Disconnected,
    InputError,
    InstrumentTimeout,
    InUse,
    LimitExceeded,
    MissingExtraError,
    ProtocolError,
    Region,
    Shot,
    create,
)
from lightloom.instruments.conformance import CameraConformance, SlmConformance
from lightloom.instruments.drivers.slmsuite import SlmsuiteCamera, SlmsuiteSLM

# slmsuite says so whenever it is imported on a machine without a GPU
pytestmark = pytest.mark.filterwarnings("ignore:cupy is not installed")

SLM = "slmsuite.hardware.slms.simulated.SimulatedSLM"
CAMERA = "slmsuite.hardware.cameras.simulated.SimulatedCamera"
SHAPE = (200, 320)


@pytest.fixture
def partner() -> None:
    pytest.importorskip(
        "slmsuite", reason="slmsuite is not installed: pip install 'lightloom[slmsuite]'"
    )


def modulator(name: str = "weights", **options: Any) -> SlmsuiteSLM:
    told = {"device": SLM, "arguments": {"resolution": [SHAPE[1], SHAPE[0]]}, **options}
    made = create("slmsuite-slm", name, told)
    assert isinstance(made, SlmsuiteSLM)
    return made


def camera(name: str = "camera", **options: Any) -> SlmsuiteCamera:
    told = {
        "device": CAMERA,
        "modulator": "weights",
        "arguments": {"resolution": [128, 112], "exposure_bounds_s": [1e-4, 10.0], "gain": 20},
        **options,
    }
    made = create("slmsuite-camera", name, told)
    assert isinstance(made, SlmsuiteCamera)
    return made


@pytest.mark.usefixtures("partner")
class TestSlmsuiteSLM(SlmConformance):
    @pytest.fixture
    def make(self) -> Callable[[], SlmsuiteSLM]:
        return modulator

    def seen(self, instrument: Any) -> np.ndarray:
        # only slmsuite's own object knows what its simulated modulator shows
        if instrument._device is None:
            pytest.skip("slmsuite's simulated modulator no longer exists after closing")
        return np.asarray(instrument._device.display)


@pytest.mark.usefixtures("partner")
class TestSlmsuiteCamera(CameraConformance):
    sees_light = (
        False  # except for undiffracted light on one pixel, saturated at twice the least exposure
    )

    @pytest.fixture
    def make(self, partner: None) -> Iterator[Callable[[], SlmsuiteCamera]]:
        with modulator():
            yield camera


@pytest.mark.usefixtures("partner")
def test_the_modulator_has_the_properties_of_slmsuite() -> None:
    # A wrong shape, or a settling time that is too short, would spoil every product.
    told = {"resolution": [320, 200], "bitdepth": 10, "settle_time_s": 0.07}
    with modulator(arguments=told, refresh_hz=60, latency_s="40 ms") as device:
        assert device.shape == (200, 320) and device.bit_depth == 10
        shown = device.blank()
        assert shown.settled_at_s - shown.shown_at_s == pytest.approx(0.11)
        assert device.refresh_period_s == pytest.approx(1 / 60)
    with modulator(arguments=told, settle_time_s="5 ms") as device:
        assert device.settle_time_s == pytest.approx(0.005)


@pytest.mark.usefixtures("partner")
def test_grey_levels_reach_the_light_that_the_camera_sees() -> None:
    # slmsuite's own method converts phases into levels and back: levels must pass unchanged.
    grating = np.tile(np.arange(SHAPE[1]) % 8 * 32, (SHAPE[0], 1)).astype(np.uint8)
    with modulator() as slm, camera() as device:
        device.configure(exposure_s=1.0)
        slm.blank()
        dark = device.take(5.0, Shot("flat", 0))
        slm.show(grating)
        assert np.array_equal(slm._device.display, grating)  # of slmsuite's own object
        lit = device.take(5.0, Shot("grating", 1))
        assert dark.shot == Shot("flat", 0) and lit.shot == Shot("grating", 1)
        assert dark.data.max() > 0 and lit.data.max() > 0
        assert np.argmax(dark.data.sum(axis=0)) != np.argmax(lit.data.sum(axis=0))  # it deflects


@pytest.mark.usefixtures("partner")
def test_exposure_and_region_reach_the_camera() -> None:
    # The decoder would read spots at wrong pixels.
    with modulator(), camera() as device:
        device.configure(exposure_s=1.0)
        whole = device.take(5.0).data
        device.configure(region=Region(40, 50, 30, 20))
        assert np.array_equal(device.take(5.0).data, whole[40:70, 50:70])
        with pytest.raises(LimitExceeded, match="exposure 20 s"):
            device.configure(exposure_s=20)
        with pytest.raises(InputError, match="use trigger mode software"):
            device.configure(trigger_mode="external")


@pytest.mark.usefixtures("partner")
def test_the_same_device_is_opened_once_and_leaks_nothing() -> None:
    # Two programs on one modulator overwrite each other's frames.
    with modulator(), pytest.raises(InUse):
        modulator("other").connect()
    with pytest.raises(InputError, match=r"modulator = 'weights' is not a connected slmsuite-slm"):
        camera().connect()


@pytest.mark.usefixtures("partner")
def test_nothing_is_printed_to_stdout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    # slmsuite logs to stdout, and its drivers print there: a script could not read our JSON.
    with modulator() as slm, camera() as device:
        slm.blank()
        device.take(5.0)
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("partner")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"device": "slmsuite.hardware.slms.meadowlrk.Meadowlark"}, "cannot be imported"),
        ({"device": "slmsuite.hardware.slms.simulated.Simulated"}, "cannot be imported"),
        ({"arguments": {"resolution": [320, 200], "pich_um": 8}}, "does not accept .*pich_um"),
        ({"arguments": {}}, "does not accept arguments.*resolution"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(options: dict[str, Any], complaint: str) -> None:
    # A typing error in a bench file must give one sentence.
    with pytest.raises(InputError, match=complaint):
        modulator(**options).connect()
    modulator().connect().close()


def test_a_device_is_named_with_its_module() -> None:
    # "Meadowlark" alone does not identify a class.
    with pytest.raises(InputError, match="device = 'Meadowlark' is not usable"):
        modulator(device="Meadowlark")


class FakeDevice:
    """A class like the vendor classes of slmsuite before 0.5, without `_gray2display`."""

    name = "fake"
    shape = (4, 6)
    bitdepth = 8
    settle_time_s = 0.0
    exposure_bounds_s = None
    fails: Exception | None = None
    frame = np.zeros((4, 6), np.uint8)
    flushes = 0

    def __init__(self, number: int = 0) -> None:
        print("Initializing fake SDK... success")

    def set_phase(self, frame: np.ndarray, settle: bool) -> None:
        self._maybe_fail()
        self.display = frame

    def get_image(self, **_: Any) -> np.ndarray:
        self._maybe_fail()
        return type(self).frame

    def flush(self, timeout_s: float) -> None:
        type(self).flushes += 1

    def set_woi(self, woi: Any) -> None: ...

    def get_exposure(self) -> float:
        return 0.001

    def set_exposure(self, exposure_s: float) -> float:
        return exposure_s

    def close(self) -> None:
        self._maybe_fail()

    def _maybe_fail(self) -> None:
        if self.fails:
            raise self.fails


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeDevice]:
    kind = type("Fake", (FakeDevice,), {})
    home = ModuleType("fake_maker")
    home.Fake = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_maker", home)
    monkeypatch.setitem(sys.modules, "slmsuite", ModuleType("slmsuite"))
    return kind


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (TimeoutError("no image"), InstrumentTimeout),
        (RuntimeError("SDK error -3:\n board not found"), Disconnected),
        (OSError("USB gone"), Disconnected),
    ],
)
def test_an_exception_of_a_vendor_class_is_one_sentence(
    fake: type[FakeDevice], raised: Exception, error: type[Exception]
) -> None:
    # Vendor libraries raise any type; a run must distinguish a time-out from a lost device.
    slm = modulator(device="fake_maker.Fake", arguments={}).connect()
    told = {"number": 1}  # another address
    device = camera(device="fake_maker.Fake", arguments=told, modulator="").connect()
    device.arm()
    fake.fails = raised
    for call in (slm.blank, device.trigger):
        with pytest.raises(error) as caught:
            call()
        assert "\n" not in str(caught.value) and "fake_maker.Fake" in str(caught.value)
    slm.close()
    device.close()
    assert not slm.is_connected and not device.is_connected


def test_closing_leaves_the_darkest_level(fake: type[FakeDevice]) -> None:
    # The last frame would stay on the modulator all night.
    slm = modulator(device="fake_maker.Fake", arguments={}, darkest_level=7).connect()
    device = slm._device  # the vendor object, which the driver releases
    slm.show(np.full((4, 6), 200, np.uint8))
    slm.close()
    assert (device.display == 7).all()


def test_buffers_are_flushed_before_each_frame(fake: type[FakeDevice]) -> None:
    # A free-running camera returns frames from before the trigger, as slmsuite's authors warn.
    with camera(device="fake_maker.Fake", arguments={}, modulator="") as device:
        for _ in range(3):
            device.take(1.0)
        assert fake.flushes == 3
    with camera(device="fake_maker.Fake", arguments={}, modulator="", flush=False) as device:
        device.take(1.0)
        assert fake.flushes == 3


def test_frames_of_floats_are_refused(fake: type[FakeDevice]) -> None:
    # Averages and high-dynamic-range frames are not counts; full well and gain would be wrong.
    fake.frame = np.zeros((4, 6))
    with (
        camera(device="fake_maker.Fake", arguments={}, modulator="") as device,
        pytest.raises(ProtocolError, match="frame of float64"),
    ):
        device.take(1.0)


def test_prints_of_vendor_classes_do_not_reach_stdout(
    fake: type[FakeDevice], capsys: pytest.CaptureFixture[str]
) -> None:
    # A script could not read our JSON.
    with modulator(device="fake_maker.Fake", arguments={}):
        pass
    printed = capsys.readouterr()
    assert printed.out == "" and "success" in printed.err


def test_a_hundred_openings_leak_no_handle(fake: type[FakeDevice]) -> None:
    # A run of days that reconnects would end with "too many open files".
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    for _ in range(100):
        modulator(device="fake_maker.Fake", arguments={}).connect().close()
    assert (len(list(handles.iterdir())) if handles.exists() else 0) <= before


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would have to read a traceback to learn what to install.
    monkeypatch.setitem(sys.modules, "slmsuite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lightloom\[slmsuite\]'"):
        modulator().connect()
