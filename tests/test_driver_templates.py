"""The templates are working drivers: what is copied from them passes the conformance suite."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_instruments import FakePowerMeter, OnEchoDevice
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
