"""Numbers as text for people: three significant digits, SI prefixes and units.

What a bench file says goes the other way in `units`.
"""

import math
from datetime import UTC, datetime

_PREFIXES = ("a", "f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")
_NO_PREFIX = _PREFIXES.index("")
_LONG_TIMES = ((172_800.0, 86_400.0, "d"), (7_200.0, 3_600.0, "h"), (120.0, 60.0, "min"))
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = {  # end of a name -> unit; the first that fits
    "bytes_per_s": "B/s",
    "per_s": "/s",
    "s": "s",
    "m": "m",
    "w": "W",
    "j": "J",
    "v": "V",
    "hz": "Hz",
    "e": "e",
}
BAR = 30  # characters of the longest bar
_MOST_PLACES = 12  # after the point of a measured value


def format_quantity(value: float | None, unit: str) -> str:
    """Return a quantity with a prefix to its unit, such as "1.23 mJ"; "-" for None.

    Parameters
    ----------
    unit : of the SI, without a prefix; "1" for a number without a dimension
    """
    if value is None:
        return "-"
    if unit == "1":
        return format_number(value)
    number, prefix = _scaled(value)
    return f"{number} {prefix}{unit}".rstrip()


def format_count(value: float) -> str:
    """Return a count with a prefix and no unit, such as "1.23 M"."""
    number, prefix = _scaled(value) if abs(value) >= 999.5 else (format_number(value), "")
    return f"{number} {prefix}".rstrip()


def format_counted(count: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun, such as "1 step" or "2,001 shots"."""
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def format_duration(seconds: float | None) -> str:
    """Return a time with its unit, from attoseconds to days; "-" for None."""
    if seconds is not None and math.isfinite(seconds):
        for least_s, size_s, unit in _LONG_TIMES:
            if abs(seconds) >= least_s:
                return f"{format_number(seconds / size_s)} {unit}"
    return format_quantity(seconds, "s")


def format_energy(joules: float | None) -> str:
    """Return an energy with its unit, such as "1.23 mJ"; "-" for None."""
    return format_quantity(joules, "J")


def format_number(value: float) -> str:
    """Return a number with three significant digits, or whole from 100 to ten million."""
    value += 0.0  # a negative zero becomes zero
    return f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"


def format_ratio(value: float | None) -> str:
    """Return how many times one value is another, such as "2.5x"; "-" for None."""
    return "-" if value is None else f"{format_number(value)}x"


def format_measured(value: float, uncertainty: float | None = None) -> tuple[str, str]:
    """Return a number and its uncertainty as texts, to two digits of the uncertainty.

    Without one, the number has five digits; a whole one below a million has all.
    """
    sizes = [abs(v) for v in (value, uncertainty) if v and math.isfinite(v)]
    largest = max(sizes, default=1.0)
    power = 0 if 1e-3 <= largest < 1e6 else math.floor(math.log10(largest))
    if abs(power) > 300:  # beyond it, a power of ten is no float
        return f"{value:.4g}", "" if uncertainty is None else f"{uncertainty:.2g}"
    scale = 10.0**power
    places = min(max(_places(value, uncertainty, power), 0), _MOST_PLACES)
    times = f" × 10{str(power).translate(_RAISED)}" if power else ""

    def text(number: float | None) -> str:
        if number is None:
            return ""
        if not math.isfinite(number):
            return str(float(number))
        return f"{number / scale:,.{places}f}{times}"

    return text(value), text(uncertainty)


def format_moment(at: datetime | float) -> str:
    """Return a date and time in UTC, to the second.

    Parameters
    ----------
    at : a date and time, or seconds since 1970
    """
    moment = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_value(value: object) -> str:
    """Return a setting as a file has it: a number, a switch, a text, a list, or none."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def format_field(name: str, value: object) -> str:
    """Return a setting with the unit that its name ends in, such as "5 ms" for `exposure_s`."""
    if not isinstance(value, float):
        return format_value(value)
    ends = (unit for end, unit in _UNITS.items() if name.endswith(f"_{end}"))
    return format_quantity(value, next(ends, "1"))


def format_bar(share: float) -> str:
    """Return a share, 0 to 1, as a bar of at most `BAR` characters; one from half a percent on."""
    return "█" * max(round(BAR * share), 1 if share > 0.005 else 0)


def _scaled(value: float) -> tuple[str, str]:
    """Return three digits of a value, and the prefix that belongs to them."""
    if not math.isfinite(value):
        return str(float(value)), ""
    power = int(f"{value:.2e}".partition("e")[2]) if value else 0  # as shown: 999.9 is 1 k
    place = min(max(power // 3 + _NO_PREFIX, 0), len(_PREFIXES) - 1)
    return f"{(value + 0.0) / 10.0 ** (3 * (place - _NO_PREFIX)):.3g}", _PREFIXES[place]


def _places(value: float, uncertainty: float | None, power: int) -> int:
    """Return how many digits after the point a measured value is worth, over 10**power."""
    if uncertainty is not None and math.isfinite(uncertainty) and uncertainty > 0:
        return 1 - math.floor(math.log10(uncertainty)) + power
    scaled = value / 10.0**power
    if value and math.isfinite(value) and scaled != round(scaled):
        return 4 - math.floor(math.log10(abs(value))) + power
    return 0
