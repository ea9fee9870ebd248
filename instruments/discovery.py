"""`discover`: the devices attached to this computer, each with lines for a bench file.

Nothing is written to a port, because an unidentified device may be a motor. The identity of a
device comes from its bus (USB names, monitor names, camera lists). A search that cannot run because
a package or a producer is missing is reported in one sentence. Not here: using the devices.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from .errors import LightloomError, one_line

LOG = logging.getLogger("lightloom.instruments")

MISSING = "missing"  # kind of an entry that is only a sentence
_UNKNOWN = "its identity was not queried: find out what it is before you paste its lines"
_THORLABS = "0x1313"  # USB vendor id of a maker of power meters; others are offered as a DAQ


@dataclass(frozen=True)
class FoundDevice:
    """An attached device, or a sentence about a search that could not run.

    Parameters
    ----------
    kind : "display", "camera", "serial port", "VISA", or "missing"
    address : of the device, in the form that its driver needs
    description : identity of the device, as far as its bus reports it
    toml : lines for a bench file; "" where there are none
    """

    kind: str
    address: str
    description: str
    toml: str = ""


def discover(visa_backend: str = "@py") -> list[FoundDevice]:
    """Return the displays, cameras, VISA instruments and serial ports of this computer.

    Parameters
    ----------
    visa_backend : backend of pyvisa, such as "@py", "@ivi" or "FILE.yaml@sim"

    Returns
    -------
    one entry per device; an entry of kind "missing" holds only a sentence
    """
    return [
        *_run_search("displays", _displays, "sdl2", "'lightloom[display]'"),
        *_run_search("GenICam cameras", _genicam_cameras, "harvesters", "'lightloom[genicam]'"),
        *_run_search("Micro-Manager", _micromanager, "pymmcore_plus", "'lightloom[micromanager]'"),
        *_run_search("VISA instruments", lambda: _visa(visa_backend)),
        *_run_search("serial ports", _serial_ports),
    ]


def _run_search(
    what: str, search: Callable[[], Iterator[FoundDevice]], module: str = "", install: str = ""
) -> list[FoundDevice]:
    """Return the results of one search; any exception of a vendor library becomes a sentence.

    Parameters
    ----------
    module, install : what the search imports, and what pip installs to have it
    """
    if module and find_spec(module) is None:
        return [_missing(what, f"not searched; pip install {install}")]
    found: list[FoundDevice] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing parts are reported by this module
            found.extend(search())
    except LightloomError as error:
        found.append(_missing(what, str(error)))
    except Exception as error:
        LOG.debug("the search for %s failed", what, exc_info=True)
        found.append(_missing(what, f"the search failed: {one_line(error)}"))
    return found


def _missing(what: str, sentence: str) -> FoundDevice:
    return FoundDevice(MISSING, "", f"{what}: {sentence}")


def lines(role: str, driver: str, remark: str = "", **options: str | int) -> str:
    """Return the lines of a bench file about one instrument."""
    text = [f"[instruments.{role}]", f'driver = "{driver}"{f"  # {remark}" if remark else ""}']
    # JSON strings and integers are valid TOML
    text += [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(text) + "\n"


# --- one search each -----------------------------------------------------------------------------


def _displays() -> Iterator[FoundDevice]:
    from .drivers.display import monitors

    for monitor in monitors():
        height, width = monitor.shape
        about = f"{monitor.name or 'monitor'}, {width} x {height} at {monitor.refresh_hz:g} Hz"
        if monitor.index == 0:
            yield FoundDevice("display", "0", f"{about}; the operator's, so not for a modulator")
            continue
        toml = lines("weight", "display-slm", "or input", monitor=monitor.index)
        yield FoundDevice("display", str(monitor.index), about, toml)


def _genicam_cameras() -> Iterator[FoundDevice]:
    from .drivers import genicam

    for producer in genicam.producers(""):
        try:
            cameras = genicam._hold(producer)
        except LightloomError as error:  # one producer failed; continue with the others
            yield _missing("GenICam cameras", str(error))
            continue
        try:
            for camera in cameras:
                about = f"{camera.vendor} {camera.model}, serial {camera.serial_number}"
                options = {"producer": producer, "serial": camera.serial_number}
                toml = lines("detector", "genicam-camera", **options)
                yield FoundDevice("camera", camera.serial_number, about, toml)
        finally:
            genicam._let_go(producer)
        if not cameras:
            yield _missing("GenICam cameras", f"{producer} lists no camera")


def _micromanager() -> Iterator[FoundDevice]:
    import pymmcore_plus

    folder = pymmcore_plus.find_micromanager()
    if not folder:
        yield _missing("Micro-Manager", "no device adapters; run: mmcore install")
        return
    toml = lines(
        "detector",
        "micromanager-camera",
        "DemoCamera is simulated; name your adapter and device, or a .cfg as config",
        adapter="DemoCamera",
        device="DCam",
    )
    yield FoundDevice("Micro-Manager", str(folder), "device adapters", toml)


def _visa(backend: str) -> Iterator[FoundDevice]:
    import pyvisa

    manager = pyvisa.ResourceManager(backend)
    if backend == "@py":
        if find_spec("usb") is None:
            yield _missing("USB instruments", "not searched; pip install pyusb")
        resources = []
        for bus, listing in _buses_of_pyvisa_py():
            try:
                resources += listing()
            except Exception as error:  # the system library of this bus is missing
                yield _missing("VISA instruments", f"not searched on {bus}: {one_line(error)}")
    else:
        resources = list(manager.list_resources("?*"))
    for address in sorted(set(resources)):
        is_port = backend == "@py" and address.startswith("ASRL")  # listed with the serial ports
        if address.endswith(("::INSTR", "::SOCKET")) and not is_port:
            yield _visa_instrument(address, backend)


def _buses_of_pyvisa_py() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield the buses and how to list each; the call of pyvisa would also search the network."""
    from pyvisa.constants import InterfaceType
    from pyvisa_py.sessions import Session

    for (bus, _), session in Session.iter_valid_session_classes():
        if bus not in (InterfaceType.tcpip, getattr(InterfaceType, "vicp", None)):
            yield bus.name, session.list_resources


def _visa_instrument(address: str, backend: str) -> FoundDevice:
    options = {"address": address} | ({"backend": backend} if backend != "@py" else {})
    if address.startswith("USB") and address.split("::")[1].lower() == _THORLABS:
        toml = lines("power_meter", "scpi-power-meter", **options)
        return FoundDevice("VISA", address, "Thorlabs, perhaps a power meter", toml)
    toml = lines("detector", "scpi-daq", "or source: scpi-source", **options, dialect="multimeter")
    return FoundDevice("VISA", address, f"an instrument; {_UNKNOWN}", toml)


def _serial_ports() -> Iterator[FoundDevice]:
    from serial.tools import list_ports

    for port in sorted(list_ports.comports()):
        about = port.description if port.description not in (None, "n/a") else "a serial port"
        if port.vid is not None:
            about += f" (USB {port.vid:04x}:{port.pid:04x})"
        remark = f"or source: scpi-source at ASRL{port.device}::INSTR"
        toml = lines("detector", "serial-daq", remark, address=port.device)
        about += f"; {_UNKNOWN}"
        yield FoundDevice("serial port", port.device, about, toml)
