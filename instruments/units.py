"""Conversion of quantities with units, as in bench files ("5 ms"), to numbers in SI units."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

PREFIXES = {
    "a": 1e-18,
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
}
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s]*)\s*")


def quantity(value: Any, unit: str) -> float:
    """Return the value of a number or a text such as "5 ms" in `unit` ("s", "W", "V", "m", "Hz").

    Raises
    ------
    ValueError : when it is neither, or has another unit
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'give a number of {unit}, or text such as "5 m{unit}"')
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value)
        symbol = found.group(2) if found else ""
        prefix = symbol.removesuffix(unit)
        if not found or (symbol and not symbol.endswith(unit)) or prefix not in PREFIXES:
            raise ValueError(f'give a number of {unit}, or text such as "5 m{unit}"')
        value = float(found.group(1)) * PREFIXES[prefix]
    try:
        value = float(value)
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"give a finite number of {unit}")
    return value


@dataclass(frozen=True)
class _InUnit:
    unit: str

    def __call__(self, value: Any) -> float:
        return quantity(value, self.unit)


Seconds = Annotated[float, BeforeValidator(_InUnit("s")), Field(ge=0)]
Watts = Annotated[float, BeforeValidator(_InUnit("W")), Field(ge=0)]
Volts = Annotated[float, BeforeValidator(_InUnit("V"))]
Metres = Annotated[float, BeforeValidator(_InUnit("m")), Field(ge=0)]
Hertz = Annotated[float, BeforeValidator(_InUnit("Hz")), Field(gt=0)]
