"""The constants of the energy account: each with value, unit, source and year, from a TOML file.

A set is a file in `published/`, or a user's file of the same form. A constant that is not in a
chosen set comes from the bench's profile; one that is not there either comes from the set
`default`, and is marked as assumed. `account` uses the constants; docs/explanation/energy.md has
their table.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...backends import OpticsProfile
from ...instruments import InputError
from ...instruments.toml_file import read_toml
from ...instruments.units import PREFIXES

FOLDER = Path(__file__).parent / "published"
DEFAULT = "default"
BASELINES = "baselines"
ENCODINGS = "encodings"

_LARGEST = 1e300


@dataclass(frozen=True)
class Kind:
    """The kind of a constant: its unit, its meaning and its valid values.

    Parameters
    ----------
    unit : "1" for a plain number
    meaning : for tables
    optional : the account works without it
    may_be_zero : for powers; an energy of an event is never zero
    most : the largest value
    """

    unit: str
    meaning: str
    optional: bool = False
    may_be_zero: bool = False
    most: float = math.inf


KINDS: Mapping[str, Kind] = {
    # light
    "wavelength_m": Kind("m", "wavelength of the light"),
    "quantum_efficiency": Kind("1", "photoelectrons per photon at the detector", most=1.0),
    "optical_throughput": Kind(
        "1", "fraction of the source's light that passes fully open modulators", most=1.0
    ),
    "source_efficiency": Kind("1", "light per electrical power of the source", most=1.0),
    "pair_transmission": Kind(
        "1", "mean light that an element pair passes, over that of a fully open one", most=1.0
    ),
    "photons_per_output": Kind(
        "1", "photoelectrons that one converted sum needs, however long it is", optional=True
    ),
    # one event
    "modulator_j": Kind("J", "one sample shown by a modulator"),
    "optical_mac_j": Kind(
        "J", "one MAC inside the optical unit, where that does not fall with width", optional=True
    ),
    "dac_j": Kind("J", "one sample of a digital-to-analogue converter"),
    "amplifier_j": Kind("J", "one sample of a detector's amplifier"),
    "adc_j": Kind("J", "one sample of an analogue-to-digital converter"),
    "memory_access_j": Kind("J", "one operand value read or written beside the bench"),
    "weight_access_j": Kind(
        "J", "one weight read to be shown (else as memory_access_j)", optional=True
    ),
    "weight_reuse": Kind("1", "passes that one loading of a static weight serves"),
    # power
    "hold_power_w": Kind("W", "modulators that hold their frames", may_be_zero=True),
    "detector_power_w": Kind("W", "detectors, beyond their samples", may_be_zero=True),
    # the host beside the bench
    "host_operation_j": Kind("J", "one operation of a host step"),
    "host_mac_j": Kind("J", "one MAC of a product that stays on the host"),
    "host_byte_j": Kind("J", "one byte moved by a host step"),
    "host_value_bytes": Kind("B", "bytes of one value in a host step"),
    "host_idle_power_w": Kind("W", "the host while it waits for light", may_be_zero=True),
    "encode_operations": Kind("1", "host operations per sample shown: scale, round"),
    "decode_operations": Kind("1", "host operations per sample converted: scale, add"),
    # converters, for a wanted throughput
    "dac_rate_hz": Kind("Hz", "samples a second of one digital-to-analogue converter"),
    "adc_rate_hz": Kind("Hz", "samples a second of one analogue-to-digital converter"),
}
ROOFLINE: Mapping[str, Kind] = {
    "macs_per_s": Kind("1/s", "MACs a second at most"),
    "operations_per_s": Kind("1/s", "other operations a second at most"),
    "bytes_per_s": Kind("B/s", "bytes a second from memory"),
    "power_w": Kind("W", "power at work"),
    "operand_bytes": Kind("B", "bytes of one operand of a product"),
    "value_bytes": Kind("B", "bytes of one value in another step"),
}
PER_MAC: Mapping[str, Kind] = {
    "mac_j": Kind("J", "one MAC; everything included where no accesses are given"),
    "access_j": Kind("J", "one value of a product read or written", optional=True),
    "weight_access_j": Kind("J", "one weight read", optional=True),
}


@dataclass(frozen=True)
class Constant:
    """One constant in SI units, with its source.

    Parameters
    ----------
    origin : its set or profile, or "--set"; "assumed" for the default set
    recalled : written from memory, not looked up in the source
    """

    name: str
    value: float
    unit: str
    source: str
    year: int | None
    origin: str
    recalled: bool = False

    @property
    def is_assumed(self) -> bool:
        """Whether it is in neither the profile nor a chosen set."""
        return self.origin == "assumed"


@dataclass(frozen=True)
class Baseline:
    """A digital machine: either energy per MAC (and access), or a roofline of rates and power.

    Parameters
    ----------
    name : of the machine in its file
    title : one line that describes it
    constants : by name
    """

    name: str
    title: str
    constants: Mapping[str, Constant]

    def value(self, name: str) -> float:
        """Return the value of one of its constants; 0 for an optional one that it lacks."""
        return self.constants[name].value if name in self.constants else 0.0

    @property
    def is_roofline(self) -> bool:
        """Whether it has rates, from which a time follows."""
        return "macs_per_s" in self.constants


@dataclass(frozen=True)
class ConstantSet:
    """The constants and baselines of one file; some constants may be those of an encoding."""

    name: str
    title: str
    constants: Mapping[str, Constant]
    baselines: Mapping[str, Baseline]
    encodings: Mapping[str, Mapping[str, Constant]]


@dataclass(frozen=True)
class Constants:
    """The constants of one account, resolved: chosen set, then profile, then default set."""

    values: Mapping[str, Constant]
    baselines: Mapping[str, Baseline]
    names: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.values[name].value

    def get(self, name: str) -> float | None:
        """Return an optional constant; None if it has no value."""
        found = self.values.get(name)
        return None if found is None else found.value

    def times(self, name: str, factor: float) -> "Constants":
        """Return the constants with one value multiplied by a factor."""
        changed = replace(self.values[name], value=self[name] * factor)
        return replace(self, values={**self.values, name: changed})

    @property
    def assumed(self) -> tuple[Constant, ...]:
        """The constants that are in neither the profile nor a chosen set."""
        return tuple(constant for constant in self.values.values() if constant.is_assumed)


def set_names() -> list[str]:
    """Return the names of the constant sets that come with lightloom."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@lru_cache(maxsize=16)
def load_constants(name: str = DEFAULT) -> ConstantSet:
    """Read a set by name, or from a TOML file of the same form.

    Raises
    ------
    InputError : for an unknown name, or a constant that cannot be used, naming file, key and value
    """
    is_file = name.lower().endswith(".toml")
    path = Path(name) if is_file else FOLDER / f"{name}.toml"
    if not is_file and name not in set_names():
        raise InputError(
            f"unknown constants {name!r}; choose from {', '.join(set_names())}, "
            "or give a .toml file"
        )
    document = read_toml(path, "file of constants")
    surplus = document.keys() - {"title", "constants", BASELINES, ENCODINGS}
    tables = [document.get(key, {}) for key in ("constants", BASELINES, ENCODINGS)]
    if surplus or not all(isinstance(table, dict) for table in tables) or not any(tables):
        raise InputError(
            f"{path}: a file of constants holds a title, a table [constants], tables "
            f"[{BASELINES}.NAME] and [{ENCODINGS}.NAME], "
            f"not {', '.join(sorted(surplus)) or 'nothing of these'}"
        )
    origin = "assumed" if name == DEFAULT else path.stem if path.parent == FOLDER else str(path)
    constants = _read_table(f"{path}: constants", tables[0], KINDS, origin)
    baselines = {
        key: _read_baseline(f"{path}: {BASELINES}.{key}", key, table, origin)
        for key, table in tables[1].items()
    }
    encodings = {
        key: _read_table(f"{path}: {ENCODINGS}.{key}", table, KINDS, origin)
        for key, table in tables[2].items()
    }
    return ConstantSet(path.stem, str(document.get("title", "")), constants, baselines, encodings)


def resolve(
    profile: OpticsProfile, names: tuple[str, ...] = (), machines: Iterable[Baseline] = ()
) -> Constants:
    """Return the constants for an account of this bench.

    Parameters
    ----------
    names : chosen sets; a later one overrides an earlier one. Values that the user set in the
        profile override all of them
    machines : more baselines, such as this machine

    Raises
    ------
    InputError : for a set that cannot be used
    """
    default = load_constants()
    values = {**default.constants, **default.encodings.get(profile.encoding, {})}
    baselines = dict(default.baselines)
    values.update(_of_profile(profile))
    for name in names:
        chosen = load_constants(name)
        values.update(chosen.constants)
        values.update(chosen.encodings.get(profile.encoding, {}))
        baselines.update(chosen.baselines)
    values.update({k: c for k, c in _of_profile(profile).items() if c.origin == "--set"})
    baselines.update({machine.name: machine for machine in machines})
    return Constants({key: values[key] for key in KINDS if key in values}, baselines, names)


def _of_profile(profile: OpticsProfile) -> dict[str, Constant]:
    found = {}
    for key, kind in KINDS.items():
        value = getattr(profile, key, None)
        field = OpticsProfile.model_fields.get(key)
        if value is None or (key not in profile.sources and field and value == field.default):
            continue
        source = profile.sources.get(key, "given in Python, without a source")
        origin = "--set" if source == "set by the user" else f"profile {profile.name}"
        recalled = "recalled" in source
        year = profile.years.get(key)
        found[key] = Constant(key, float(value), kind.unit, source, year, origin, recalled)
    return found


def _read_table(
    place: str, table: Any, kinds: Mapping[str, Kind], origin: str
) -> dict[str, Constant]:
    """Read constants.

    Parameters
    ----------
    place : file and table, for messages
    """
    _check_table(place, table)
    return {key: _read(f"{place}.{key}", key, entry, kinds, origin) for key, entry in table.items()}


def _check_table(place: str, table: Any) -> None:
    if not isinstance(table, dict):
        raise InputError(f"{place} = {table!r} is not a table of constants")


def _read_baseline(place: str, name: str, table: Any, origin: str) -> Baseline:
    _check_table(place, table)
    entries = {key: entry for key, entry in table.items() if key != "title"}
    kinds = PER_MAC if "mac_j" in entries else ROOFLINE
    missing = {key for key, kind in kinds.items() if not kind.optional} - entries.keys()
    if missing:
        raise InputError(
            f"{place} lacks {', '.join(sorted(missing))}; a baseline has mac_j, or all of "
            f"{', '.join(ROOFLINE)}"
        )
    constants = _read_table(place, entries, kinds, origin)
    return Baseline(name, str(table.get("title", name)), constants)


def _read(place: str, key: str, entry: Any, kinds: Mapping[str, Kind], origin: str) -> Constant:
    """Check one constant of a file and convert it to SI units."""
    if key not in kinds:
        raise InputError(f"{place} is not a constant; known: {', '.join(kinds)}")
    needed, allowed = {"value", "unit", "source"}, {"value", "unit", "source", "year", "recalled"}
    keys = set(entry) if isinstance(entry, dict) else set()
    if keys - allowed or needed - keys:
        lacks = " and ".join(sorted(needed - keys))
        raise InputError(
            f"{place} needs value, unit and source, and may have year and recalled"
            + (f"; it lacks {lacks}" if lacks else "")
        )
    source, year, recalled = entry["source"], entry.get("year"), entry.get("recalled", False)
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"{place} has no source; name one")
    if year is not None and (isinstance(year, bool) or not isinstance(year, int)):
        raise InputError(f"{place}.year = {year!r} is not a year, such as 2024")
    if not isinstance(recalled, bool):
        raise InputError(f"{place}.recalled = {recalled!r} is neither true nor false")
    value = _in_si(place, entry["value"], entry["unit"], kinds[key])
    return Constant(key, value, kinds[key].unit, source, year, origin, recalled)


def _in_si(place: str, value: Any, unit: Any, kind: Kind) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < math.inf:  # math.isfinite fails for huge whole numbers
        raise InputError(f"{place}.value = {value!r} is not a finite number")
    if abs(value) > _LARGEST:
        raise InputError(f"{place}.value = {value!r} is too large for a constant")
    plain = kind.unit == "1"
    prefixes = ("",) if plain else PREFIXES
    prefix = next((p for p in prefixes if unit == f"{p}{kind.unit}"), None)
    if prefix is None:
        example = '"1"' if plain else f'"{kind.unit}", with a prefix if you like'
        raise InputError(f"{place}.unit = {unit!r} does not fit; give {example}")
    number = float(value) * PREFIXES[prefix]
    least = "0 or more" if kind.may_be_zero else "above 0"
    if number < 0 or (number == 0 and not kind.may_be_zero) or number > kind.most:
        most = "" if math.isinf(kind.most) else f" and at most {kind.most:g}"
        raise InputError(f"{place}.value = {value!r} must be {least}{most}")
    return number
