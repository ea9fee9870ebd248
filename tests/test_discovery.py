"""`discover`: its lines are valid, missing packages are reported, and no port is written to."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightloom.instruments import create
from lightloom.instruments.discovery import MISSING, FoundDevice, discover, lines
from serial.tools import list_ports

PACKAGES = {
    "displays": ("sdl2", "lightloom[display]"),
    "GenICam cameras": ("harvesters", "lightloom[genicam]"),
    "Micro-Manager": ("pymmcore_plus", "lightloom[micromanager]"),
    "USB instruments": ("usb", "pyusb"),
}


@pytest.fixture(autouse=True)
def nothing_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages, producers and ports of this computer."""
    for module, _ in PACKAGES.values():
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    monkeypatch.setattr(list_ports, "comports", lambda: [])


def check_pasteable(found: FoundDevice) -> None:
    """Create the instrument from the lines, as a bench file would."""
    ((role, table),) = tomllib.loads(found.toml)["instruments"].items()
    assert role in ("input", "weight", "detector", "source", "power_meter")
    create(table.pop("driver"), role, table)


def port(device: str, **about: Any) -> SimpleNamespace:
    return SimpleNamespace(
        device=device, **{"description": "n/a", "vid": None, "pid": None} | about
    )


def test_missing_packages_are_one_sentence_each() -> None:
    # An operator of a new computer would see an error instead of a hint.
    found = discover()
    assert {item.kind for item in found} == {MISSING}
    for what, (_, package) in PACKAGES.items():
        (item,) = [item for item in found if item.description.startswith(what)]
        assert package in item.description and "\n" not in item.description
        assert not item.toml and not item.address


def test_a_serial_port_is_named_and_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would move a motor by searching for a DAQ.
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals, which emulate a serial line")
    ours, theirs = os.openpty()
    try:
        name = os.ttyname(theirs)
        monkeypatch.setattr(list_ports, "comports", lambda: [port(name, vid=0x2341, pid=0x43)])
        (found,) = [item for item in discover() if item.kind == "serial port"]
        assert found.address == name and "2341:0043" in found.description
        check_pasteable(found)
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)


_WATCHED = """
import os, sys
from types import SimpleNamespace
events = []
def hear(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        events.append((event, str(arguments[1:])))
    if event == "open" and str(arguments[0]) == sys.argv[1]:
        events.append((event, sys.argv[1]))
sys.addaudithook(hear)
from serial.tools import list_ports
list_ports.comports = lambda: [SimpleNamespace(device=sys.argv[1], description="n/a", vid=None)]
from lightloom.instruments.discovery import discover
assert any(found.address == sys.argv[1] for found in discover())
print(events)
import serial
serial.Serial(sys.argv[1]).close()
print(events)
"""


def test_a_search_opens_no_port_and_no_connection(tmp_path: Path) -> None:
    # An operator would reset a board that restarts when its line is opened.
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals, which emulate a serial line")
    ours, theirs = os.openpty()
    try:
        command = [sys.executable, "-c", _WATCHED, os.ttyname(theirs)]
        looked, opened = subprocess.check_output(command, text=True).splitlines()
        assert looked == "[]"
        assert os.ttyname(theirs) in opened  # the audit records such calls
    finally:
        os.close(ours)
        os.close(theirs)


def test_addresses_survive_the_bench_file(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator on Windows would paste an address that TOML does not read.
    for address in ("\\\\.\\COM12", "it's", 'a "b"', "Ü"):
        table = tomllib.loads(lines("detector", "serial-daq", "a remark", address=address))
        assert table == {"instruments": {"detector": {"driver": "serial-daq", "address": address}}}


SIMULATED = """
spec: "1.1"
devices:
  any:
    eom:
      USB INSTR: {q: "\\n", r: "\\n"}
      GPIB INSTR: {q: "\\n", r: "\\n"}
      ASRL INSTR: {q: "\\n", r: "\\n"}
    error: ERROR
resources:
  USB0::0x1313::0x8078::P0012345::0::INSTR: {device: any}
  USB0::0x2A8D::0x1301::MY1::0::INSTR: {device: any}
  GPIB0::8::INSTR: {device: any}
  ASRL1::INSTR: {device: any}
"""


def test_visa_instruments_are_listed_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An operator would have to know all addresses, or a search would disturb a measurement.
    pytest.importorskip("pyvisa_sim", reason="pyvisa-sim is not installed: pip install pyvisa-sim")
    import pyvisa

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be opened")

    monkeypatch.setattr(pyvisa.ResourceManager, "open_resource", refuse)
    file = tmp_path / "bench.yaml"
    file.write_text(SIMULATED, "utf-8")
    found = {item.address: item for item in discover(f"{file}@sim") if item.kind == "VISA"}
    assert len(found) == 4
    for item in found.values():
        check_pasteable(item)
    thorlabs = found["USB0::0x1313::0x8078::P0012345::0::INSTR"]
    assert "Thorlabs" in thorlabs.description and "scpi-power-meter" in thorlabs.toml


def test_a_missing_visa_library_is_one_sentence() -> None:
    # An operator without NI-VISA would get its traceback.
    (item,) = [item for item in discover("/no/such/library.so@ivi") if "VISA" in item.description]
    assert item.kind == MISSING and "\n" not in item.description


def test_a_failing_library_hides_no_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would miss a device because another maker's software is broken.
    def fail() -> None:
        raise RuntimeError("vendor\n\nfailure 42")

    monkeypatch.setattr(list_ports, "comports", fail)
    (item,) = [item for item in discover() if "serial ports" in item.description]
    assert item.kind == MISSING and "vendor failure 42" in item.description


def test_cameras_of_a_producer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # An operator would have to find serial numbers of cameras elsewhere.
    monkeypatch.undo()
    for module in ("genicam", "harvesters"):
        pytest.importorskip(module, reason="needs pip install 'lightloom[genicam]'")
    import genicam

    broken = tmp_path / "broken.cti"
    broken.write_bytes(b"no library")
    folders = os.pathsep.join([str(tmp_path), str(Path(genicam.__file__).parent)])
    monkeypatch.setenv("GENICAM_GENTL64_PATH", folders)
    found = discover()
    cameras = [item for item in found if item.kind == "camera"]
    assert [item.address for item in cameras] == ["0", "1", "2"]
    for item in cameras:
        check_pasteable(item)
    assert any(item.kind == MISSING and "broken.cti" in item.description for item in found)


def test_adapters_of_micro_manager_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would not learn that the adapters are installed.
    monkeypatch.undo()
    plus = pytest.importorskip(
        "pymmcore_plus", reason="needs pip install 'lightloom[micromanager]'"
    )
    found = [item for item in discover() if "Micro-Manager" in (item.kind, item.description[:13])]
    if plus.find_micromanager():
        check_pasteable(found[0])
    else:
        assert found[0].kind == MISSING and "mmcore install" in found[0].description


def test_all_monitors_except_the_operators_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    # An operator would put a modulator on the screen that shows the program.
    monkeypatch.setitem(sys.modules, "sdl2", SimpleNamespace(__spec__=object()))
    from lightloom.instruments.drivers import display
    from lightloom.instruments.drivers.window import Monitor

    two = [Monitor(0, "screen", (1080, 1920), 60.0), Monitor(1, "SLM", (1152, 1920), 60.0)]
    monkeypatch.setattr(display, "monitors", lambda: two)
    first, second = [item for item in discover() if item.kind == "display"]
    assert not first.toml and "1920 x 1152 at 60 Hz" in second.description
    check_pasteable(second)
