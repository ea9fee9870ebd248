"""The drivers by name: those of lightloom (below), and those that a laboratory registers.

A package adds a driver with an entry point of the group `lightloom.instruments`:

    [project.entry-points."lightloom.instruments"]
    my-camera = "my_package:MyCamera"
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from .errors import InputError
from .file_keys import nearest_key

if TYPE_CHECKING:
    from .base import Instrument
    from .clock import Clock

GROUP = "lightloom.instruments"

_OURS = {  # name -> module and class, under lightloom.instruments
    "simulated-slm": "simulated:SimulatedSLM",
    "simulated-camera": "simulated:SimulatedCamera",
    "simulated-daq": "simulated:SimulatedDaq",
    "simulated-source": "simulated:SimulatedSource",
    "simulated-power-meter": "simulated:SimulatedPowerMeter",
    "simulated-thermometer": "simulated:SimulatedThermometer",
    "display-slm": "drivers.display:DisplaySLM",
    "slmsuite-slm": "drivers.slmsuite:SlmsuiteSLM",
    "slmsuite-camera": "drivers.slmsuite:SlmsuiteCamera",
    "genicam-camera": "drivers.genicam:GenicamCamera",
    "micromanager-camera": "drivers.micromanager:MicroManagerCamera",
    "scpi-daq": "drivers.scpi_daq:ScpiDaq",
    "serial-daq": "drivers.serial_daq:SerialDaq",
    "ni-daq": "drivers.ni_daq:NiDaq",
    "scpi-source": "drivers.scpi_light:ScpiSource",
    "scpi-power-meter": "drivers.scpi_light:ScpiPowerMeter",
}


@cache
def drivers() -> dict[str, EntryPoint]:
    """Return the entry points of all installed drivers by name, cached."""
    package = __package__ or "lightloom.instruments"
    ours = {name: EntryPoint(name, f"{package}.{place}", GROUP) for name, place in _OURS.items()}
    return ours | {point.name: point for point in entry_points(group=GROUP)}


def driver_names() -> list[str]:
    """Return the sorted names of all installed drivers."""
    return sorted(drivers())


def driver_class(name: str) -> type[Instrument]:
    """Return the class of a driver.

    Raises
    ------
    InputError : for an unknown name or a package that cannot be loaded
    """
    point = drivers().get(name) if isinstance(name, str) else None
    if point is None:
        raise InputError(f"unknown driver {name!r}; choose from {', '.join(driver_names())}")
    try:
        loaded: type[Instrument] = point.load()
    except ImportError as error:
        raise InputError(f"driver {name!r} ({point.value}) cannot be loaded: {error}") from None
    return loaded


def create(
    driver: str, name: str, options: dict[str, Any], clock: Clock | None = None
) -> Instrument:
    """Return an instrument, not connected yet, from the settings of a bench file.

    Raises
    ------
    InputError : for an unknown driver, an unknown option or a value out of range
    """
    kind = driver_class(driver)
    try:
        checked = kind.Options.model_validate(options)
    except ValidationError as error:
        raise InputError(f"{name}: {first_complaint(error, kind.Options)}") from None
    return kind(name, checked, clock=clock)


_KINDS = re.compile(r"(constrained-|function-|literal\[|lax-or-strict)|(int|float|str|bool)$")


def first_complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's first error as a sentence that names key and value.

    Parameters
    ----------
    model : of the file; an unknown key is answered by its key that is most like it
    """
    first = error.errors()[0]
    # pydantic adds names of types for union values; these are not keys
    named = [str(part) for part in first["loc"] if not _KINDS.match(str(part))]
    where = ".".join(named)
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "extra_forbidden":
        nearest = nearest_key(model, first["loc"])
        return f"unknown key {where!r}" + (f"; the nearest key is {nearest!r}" if nearest else "")
    if first["type"] == "missing":
        return f"{where} is missing"
    if not where or isinstance(first["input"], dict):  # a whole table: the message names the key
        return f"{where}: {message}" if where else message
    return f"{where} = {first['input']!r} is not usable: {message}"
