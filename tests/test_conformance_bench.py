"""The conformance suite over every instrument of a bench file, real ones included.

    pytest tests/test_conformance_bench.py --bench our_bench.toml

Real light sources do not emit and real outputs are not set, unless LIGHTLOOM_BENCH_ACT=1.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from lightloom.instruments import Instrument
from lightloom.instruments.conformance import (
    CameraConformance,
    DaqConformance,
    LightSourceConformance,
    PowerMeterConformance,
    SlmConformance,
)

if not os.environ.get("LIGHTLOOM_BENCH"):
    pytest.skip(
        "no bench is selected: use --bench FILE, or set LIGHTLOOM_BENCH", allow_module_level=True
    )

from lightloom.backends.bench import load_bench


def instruments() -> dict[str, Instrument]:
    """Return new, unconnected instruments of the bench."""
    return dict(load_bench(os.environ["LIGHTLOOM_BENCH"]).instruments)


KINDS = {name: instrument.kind for name, instrument in instruments().items()}
SIMULATED = {name for name, it in instruments().items() if it.driver.startswith("simulated-")}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        kind = metafunc.cls.kind
        names: list[Any] = [name for name in KINDS if KINDS[name] == kind]
        none = pytest.param("", marks=pytest.mark.skip(f"this bench has no {kind}"))
        metafunc.parametrize("name", names or [none])


class OnTheBench:
    @pytest.fixture
    def make(self, name: str) -> Callable[[], Any]:
        self.may_act = name in SIMULATED or os.environ.get("LIGHTLOOM_BENCH_ACT") == "1"
        return lambda: instruments()[name]

    def unplug(self, instrument: Any) -> None:
        if not instrument.driver.startswith("simulated-"):
            pytest.skip(f"the cable of {instrument.name} cannot be pulled in a test")
        instrument.unplug()


class TestSlm(OnTheBench, SlmConformance):
    kind = "slm"


class TestCamera(OnTheBench, CameraConformance):
    kind = "camera"
    sees_light = False  # `lightloom check` tests the camera under light


class TestDaq(OnTheBench, DaqConformance):
    kind = "daq"


class TestLightSource(OnTheBench, LightSourceConformance):
    kind = "light source"


class TestPowerMeter(OnTheBench, PowerMeterConformance):
    kind = "power meter"
