"""Limits on what a bench file can load, open or write, since it may come from an untrusted source.

pyvisa loads any library and any module that a backend names, and pyserial has addresses that write
files. The configuration of the computer (environment variables, installed drivers) is trusted. The
values of a bench file are compared with the lists here. GenTL producers and device adapters are
native code: a file names them by their absolute path on this computer, and they are loaded only
when the instrument is connected.
"""

import os
import re
import sys
from pathlib import Path, PureWindowsPath
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator

MODULES = "LIGHTLOOM_MODULES"  # environment variable: modules whose classes bench files may name

_BACKENDS = ("@py", "@ivi", "@sim", "")
_SIMULATION = re.compile(r"[^@]+\.ya?ml@sim")
_SCHEMES = ("socket", "rfc2217", "loop")
_SERIAL = re.compile(r"\s*(PRLGX-)?ASRL", re.IGNORECASE)
_NUMBER = re.compile(r"[<>=^]?[+\- ]?#?0?\d{0,2}(\.\d{1,2})?[eEfFgG]?")


def _visa_backend(backend: str) -> str:
    if backend in _BACKENDS or _SIMULATION.fullmatch(backend):
        return backend
    raise ValueError(
        'a bench file may name "@py", "@ivi" or "FILE.yaml@sim"; name another library in the '
        'environment variable PYVISA_LIBRARY, and write backend = ""'
    )


def _serial_port(address: str) -> str:
    scheme, separator, _ = address.partition("://")
    if separator and scheme.lower() not in _SCHEMES:
        schemes = ", ".join(f"{known}://" for known in _SCHEMES)
        raise ValueError(f'a serial line is a port, such as "COM3", or one of {schemes}')
    return address


def _visa_address(address: str) -> str:
    for part in address.split("::"):  # pyvisa-py passes one part of it to pyserial as the port
        _serial_port(_SERIAL.sub("", part, count=1).strip())
    return address


VisaBackend = Annotated[str, AfterValidator(_visa_backend)]
VisaAddress = Annotated[str, AfterValidator(_visa_address)]
SerialPort = Annotated[str, AfterValidator(_serial_port)]


def is_on_this_computer(path: str) -> bool:
    r"""Return whether a path is absolute and on this computer: not "\\\\server\\share\\..."."""
    return Path(path).is_absolute() and not PureWindowsPath(path).drive.startswith("\\\\")


def may_import(module: str, package: str) -> bool:
    """Return whether a bench file may cause the import of a module.

    Allowed are modules of `package`, modules that the program has already imported, and modules
    that the operator lists, separated by commas, in the environment variable LIGHTLOOM_MODULES.
    """
    named = [name.strip() for name in os.environ.get(MODULES, "").split(",")]
    return module.partition(".")[0] == package or module in sys.modules or module in named


def takes_a_number(command: str, field: str) -> bool:
    """Return whether a command has a field for one number and no other: "SOUR:POW {power:.6g}".

    Other fields could read Python objects or write gigabytes of spaces.
    """
    try:
        fields = [part for part in Formatter().parse(command) if part[1] is not None]
    except ValueError:
        return False
    return bool(fields) and all(
        name == field and not conversion and _NUMBER.fullmatch(form or "")
        for _, name, form, conversion in fields
    )
