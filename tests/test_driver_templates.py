"""The templates are working drivers: copies of them pass the conformance suite."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_instruments import FakePowerMeter, OnEchoDevice
from lightloom.instruments import InputError, InUse, LimitExceeded
from lightloom.instruments.conformance import (
    CameraConformance,
    DaqConformance,
    LightSourceConformance,
    PowerMeterConformance,
    SlmConformance,
)
from lightloom.instruments.templates.camera import TemplateCamera
from lightloom.instruments.templates.daq import TemplateDaq
from lightloom.instruments.templates.echo import DEVICES
from lightloom.instruments.templates.light_source import TemplateSource
from lightloom.instruments.templates.slm import TemplateSLM


@pytest.fixture(autouse=True)
def devices() -> Iterator[None]:
    DEVICES.clear()
    yield
    DEVICES.clear()


class TestTemplateSLM(OnEchoDevice, SlmConformance):
    @pytest.fixture
    def make(self) -> Callable[[], TemplateSLM]:
        return lambda: TemplateSLM("input modulator")

    def seen(self, instrument: Any) -> np.ndarray:
        return DEVICES[instrument.address].memory["frame"]


class TestTemplateCamera(OnEchoDevice, CameraConformance):
    @pytest.fixture
    def make(self) -> Callable[[], TemplateCamera]:
        return lambda: TemplateCamera("camera")


class TestTemplateDaq(OnEchoDevice, DaqConformance):
    volts = dict.fromkeys(range(4), 0.0)

    @pytest.fixture
    def make(self) -> Callable[[], TemplateDaq]:
        return lambda: TemplateDaq("daq")


class TestTemplateSource(OnEchoDevice, LightSourceConformance):
    @pytest.fixture
    def make(self) -> Callable[[], TemplateSource]:
        return lambda: TemplateSource("source")

    def open_interlock(self, instrument: Any) -> None:
        DEVICES[instrument.address].memory["interlock is open"] = True

    def is_dark(self, instrument: Any) -> bool:
        return not DEVICES[instrument.address].memory["emits"]


class TestFakePowerMeter(OnEchoDevice, PowerMeterConformance):
    power_w = 1.5e-3

    @pytest.fixture
    def make(self) -> Callable[[], FakePowerMeter]:
        return lambda: FakePowerMeter("power meter")


@pytest.mark.slow
def test_the_command_of_the_documentation_tests_a_driver(tmp_path: Path) -> None:
    # An author who follows docs/how-to/drivers.md would test nothing, or fail at once.
    page = Path(__file__).parents[1] / "docs" / "how-to" / "drivers.md"
    text = page.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "pytest test_my_camera.py" in text
    (tmp_path / "test_my_camera.py").write_text(code, encoding="utf-8")
    run = [sys.executable, "-m", "pytest", "-q", "test_my_camera.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed, 1 skipped", done.stdout), done.stdout


def test_a_closed_daq_resets_its_outputs() -> None:
    # A device at an output (a shutter, the modulation input of a laser) would keep its voltage.
    with TemplateDaq("daq") as daq:
        daq.write(np.int64(1), 2.5)
        daq.set_line(np.uint8(0), True)
        device = DEVICES[daq.address]
        device.memory["output 3"] = 1.0  # set by another program
    assert device.memory["output 1"] == 0.0 and device.memory["line 0"] is False
    assert device.memory["output 3"] == 1.0 and "line 1" not in device.memory


def test_channels_may_be_numpy_integers() -> None:
    # Channels may come from np.arange as well as from a list.
    with TemplateDaq("daq") as daq:
        assert daq.read(np.arange(2), np.int32(3), 1e4).volts.shape == (2, 3)
        with pytest.raises(LimitExceeded, match="no input 9; it has 4"):
            daq.read((np.int64(9),))
        with pytest.raises(InputError, match=r"input 0\.5 is not an integer"):
            daq.read((0.5,))  # type: ignore[arg-type]


def test_one_address_is_opened_once_by_any_driver() -> None:
    # Two drivers on one port would read each other's replies.

    class Other(TemplateDaq):
        driver = "another-daq"

        @property
        def address(self) -> str:
            return super().address.upper()

    with TemplateDaq("daq"), pytest.raises(InUse, match="already held"):
        Other("other").connect()
    Other("other").connect().close()
