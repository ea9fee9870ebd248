"""An untrusted bench file loads no code and overwrites no file."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bench_factory import write_bench
from lightloom.backends.bench import read_bench_file
from lightloom.backends.optics.calibration_file import KIND, Calibration
from lightloom.instruments import InputError, create, trust
from lightloom.instruments.drivers.genicam import producers
from lightloom.instruments.files import check_output

METER = {"address": "TCPIP::127.0.0.1::5025::SOCKET"}


@pytest.mark.parametrize(
    "backend",
    [
        *(
            "/x/evil.so@ivi",
            r"C:\evil.dll",
            "@evil",
            "evil",
            "evil.so",
            "x.yaml@sim@ivi",
            "x.so@sim",
        ),
        *("@IVI", " @py", "py", "http://x/y.py@sim"),
    ],
)
def test_a_bench_file_loads_no_visa_library(backend: str) -> None:
    # Opening a foreign bench file would run its library, or import a module of that name.
    with pytest.raises(InputError, match=r"backend = '.*PYVISA_LIBRARY"):
        create("scpi-power-meter", "meter", {**METER, "backend": backend})


@pytest.mark.parametrize("backend", ["@py", "@ivi", "", "@sim", "bench.yaml@sim", "/a b/c.yml@sim"])
def test_common_visa_backends_are_accepted(backend: str) -> None:
    create("scpi-power-meter", "meter", {**METER, "backend": backend})


@pytest.mark.parametrize("url", ["spy://COM3?file=x", "SPY://x", "alt://x", "hwgrep://.", "a://b"])
def test_a_serial_address_opens_only_lines(url: str) -> None:
    # spy:// empties the file that it names.
    for driver, address in (
        ("serial-daq", url),
        ("scpi-power-meter", f"ASRL{url}::INSTR"),
        ("scpi-power-meter", f" asrl{url}"),
        ("scpi-source", f"PRLGX-ASRL::{url}::INTFC"),
        ("scpi-daq", f"PRLGX-ASRL{url}::INTFC"),
    ):
        with pytest.raises(InputError, match=r"address = '.*socket://, rfc2217://, loop://"):
            create(driver, "it", {"address": address, **extra(driver)})


def extra(driver: str) -> dict[str, Any]:
    return {"max_power_w": 1e-3} if driver == "scpi-source" else {}


@pytest.mark.parametrize(
    "port", ["COM3", r"\\.\COM12", "/dev/ttyUSB0", "socket://h:1", "RFC2217://h:1", "loop://"]
)
def test_common_ports_are_accepted(port: str) -> None:
    create("serial-daq", "daq", {"address": port})
    create("scpi-power-meter", "meter", {"address": f"ASRL{port}::INSTR"})


def test_a_refusal_names_file_key_and_value(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    address = f"ASRLspy://COM3?file={victim.as_posix()}::INSTR"
    meter = {"driver": "scpi-power-meter", "address": address}
    path = write_bench(tmp_path, "single-pixel", instruments__power_meter=meter)
    with pytest.raises(InputError, match=r"bench\.toml: instruments\.power_meter: address = 'ASRL"):
        read_bench_file(path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "producer", ["maker.cti", "../maker.cti", r"\\server\share\maker.cti", "//server/share/m.cti"]
)
def test_a_producer_is_a_file_on_this_computer(
    producer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A producer is native code; one beside a bench file that was mailed would be loaded.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maker.cti").write_bytes(b"")
    with pytest.raises(InputError, match="is not the absolute path of a"):
        producers(producer)
    with pytest.raises(InputError, match="is not the absolute path of a"):
        producers(sys.executable)
    assert producers(str(tmp_path / "maker.cti")) == [str((tmp_path / "maker.cti").resolve())]


@pytest.mark.parametrize("folder", ["adapters", r"\\server\share", "/not/there"])
def test_adapters_are_a_folder_on_this_computer(folder: str) -> None:
    pytest.importorskip("pymmcore_plus", reason="needs pip install 'lightloom[micromanager]'")
    options = {"adapter": "DemoCamera", "device": "DCam", "adapter_path": folder}
    with pytest.raises(InputError, match=r"adapter_path = .* is not the absolute path of a folder"):
        create("micromanager-camera", "camera", options).connect()


def test_a_device_must_be_a_class_of_slmsuite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # device = "os.system" ran its arguments as a command.
    monkeypatch.setitem(sys.modules, "slmsuite", ModuleType("slmsuite"))
    (tmp_path / "evil_device.py").write_text(
        f"from pathlib import Path; Path({str(tmp_path / 'ran')!r}).touch()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for device, complaint in (
        ("evil_device.Slm", "is not a class of slmsuite; .*LIGHTLOOM_MODULES"),
        ("os.system", "is not a class that has set_phase"),
        ("subprocess.Popen", "is not a class that has set_phase"),
        ("builtins.eval", "is not a class that has set_phase"),
    ):
        with pytest.raises(InputError, match=complaint):
            create("slmsuite-slm", "slm", {"device": device, "arguments": {}}).connect()
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(trust.MODULES, "other, evil_device")
    with pytest.raises(InputError, match="cannot be imported"):  # the operator trusts it
        create("slmsuite-slm", "slm", {"device": "evil_device.Slm", "arguments": {}}).connect()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "command",
    [
        *("POW {power.real}", "POW {power[0]}", "POW {power:9999999999}", "POW {power:{power}}"),
        *("{0}", "POW", "POW {watts}", "POW {power!r}", "POW {"),
    ],
)
def test_a_command_has_exactly_one_number_field(command: str) -> None:
    # Some raised a traceback, one used all memory.
    options = {**METER, "max_power_w": 1e-3, "commands": {"set_power": command}}
    with pytest.raises(InputError, match=r"it needs \{power\}"):
        create("scpi-source", "source", options)
    wavelength = command.replace("power", "nanometres")
    with pytest.raises(InputError, match=r"it needs \{nanometres\}"):
        create("scpi-power-meter", "meter", {**METER, "commands": {"set_wavelength": wavelength}})
    good = {"set_power": "POW {power:+08.3e};*WAI"}
    create("scpi-source", "source", options | {"commands": good})


def test_a_calibration_does_not_overwrite_another_file(tmp_path: Path) -> None:
    # calibration = "thesis.json" in a bench file would overwrite the thesis.
    victim = tmp_path / "thesis.json"
    victim.write_text('{"schema": 1}')
    calibration = Calibration(binding={}, created_at="2026-03-01T12:00:00+00:00")
    with pytest.raises(InputError, match=r"thesis\.json already exists and is not a"):
        calibration.write(victim)
    assert victim.read_text() == '{"schema": 1}' and len(list(tmp_path.iterdir())) == 1
    for name in ("new.json", "new.json"):
        calibration.write(tmp_path / name)
    check_output(tmp_path / "new.json", KIND)
