"""Drivers over VISA and serial lines pass the conformance suite with emulated devices."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scpi_devices
from lightloom.instruments import create
from lightloom.instruments.conformance import (
    DaqConformance,
    LightSourceConformance,
    PowerMeterConformance,
)
from scpi_devices import Device, Served, serve
from serial_board import Board, compile_firmware


class OnTcp:
    """The hooks of the suite for a device that this computer serves."""

    may_act = True
    queries_per_thread = 50
    driver: str
    device: type[Device]
    options: dict[str, Any] = {}  # noqa: RUF012 (a subclass replaces it)

    @pytest.fixture
    def make(self) -> Iterator[Callable[[], Any]]:
        with serve(self.device()) as self.served:
            options = {"address": self.served.address, "timeout_s": 1.0, **self.options}
            yield lambda: create(self.driver, "partner", options)

    served: Served

    def unplug(self, instrument: Any) -> None:
        self.served.cut()

    def mute(self, instrument: Any) -> None:
        self.served.fault = lambda line, reply: None

    def sent(self, instrument: Any) -> int:
        return len(self.served.device.received)


class TestRedPitaya(OnTcp, DaqConformance):
    driver, device, options = "scpi-daq", scpi_devices.RedPitaya, {"dialect": "red-pitaya"}
    volts = {0: 0.1, 1: 0.2}  # noqa: RUF012


class TestMultimeter(OnTcp, DaqConformance):
    driver, device, options = "scpi-daq", scpi_devices.Multimeter, {"dialect": "multimeter"}
    volts = {0: 1.5}  # noqa: RUF012


class TestScope(OnTcp, DaqConformance):
    driver, device, options = "scpi-daq", scpi_devices.Scope, {"dialect": "scope"}
    volts = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}  # noqa: RUF012


class TestLaser(OnTcp, LightSourceConformance):
    driver, device = "scpi-source", scpi_devices.Source
    options = {  # noqa: RUF012
        "watts_per_unit": 1e-3,
        "max_power_w": "5 mW",
        "commands": {
            "interlock": "SYST:INT?",
            "open_shutter": "SHUT ON",
            "close_shutter": "SHUT OFF",
        },
    }

    def open_interlock(self, instrument: Any) -> None:
        self.served.device.interlock = "0"  # type: ignore[attr-defined]


class TestPowerMeter(OnTcp, PowerMeterConformance):
    driver, device = "scpi-power-meter", scpi_devices.Meter


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_firmware(tmp_path_factory.mktemp("firmware"))


class TestSerialDaq(DaqConformance):
    may_act = True
    volts = {channel: channel * 100 * 5 / 1023 for channel in range(6)}  # noqa: RUF012
    tolerance_v = 0.5  # the firmware's inputs count up by 1 of 1023 at each read, to 99

    @pytest.fixture
    def make(self, program: Path) -> Iterator[Callable[[], Any]]:
        self.board = Board(program)
        options = {"address": self.board.port, "restart_time_s": 0}
        yield lambda: create("serial-daq", "partner", options)
        self.board.close()

    board: Board

    def unplug(self, instrument: Any) -> None:
        self.board.unplug()

    def mute(self, instrument: Any) -> None:
        os.kill(self.board.process.pid, signal.SIGSTOP)
