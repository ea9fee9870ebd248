"""The bench file: the instruments of a bench, with their roles, layout and limits.

It is TOML, and every key is checked. Quantities may carry units ("5 ms", "1 mW"). Nothing here uses
an instrument.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from ...instruments import InputError
from ...instruments.file_keys import Items
from ...instruments.old_words import OldWords
from ...instruments.registry import create, driver_class, first_complaint
from ...instruments.simulated import WorldOptions
from ...instruments.toml_file import TomlTable, read_toml
from ...instruments.units import Seconds, Watts, quantity
from ..optics.layouts import LAYOUTS, OLD_LAYOUTS
from ..optics.layouts.base import EncodingTable
from .fault_policy import OLD_KINDS, RESTARTS, FaultPolicy

SCHEMA = 1
ROLES = ("input", "weight", "detector", "source")
_KINDS = {
    "input": ("slm",),
    "weight": ("slm",),
    "detector": ("camera", "daq"),
    "source": ("light source",),
    "power_meter": ("power meter",),
    "monitor": ("daq",),
}


class LimitsTable(TomlTable):
    """The limits that no run may exceed."""

    power_w: Annotated[tuple[Watts, Watts], Items(("lowest", "highest"))] = (0.0, 5e-3)
    """Lowest and highest set-point; the source is held to it."""
    exposure_s: Annotated[tuple[Seconds, Seconds], Items(("shortest", "longest"))] = (1e-6, 10.0)
    """Shortest and longest exposure."""
    timeout_s: Seconds = 5.0
    """Time-out of one exchange."""
    retries: int = Field(default=3, ge=0, le=100)
    """Retries of one shot, where "retry" stands without a number in `[faults]`."""

    @model_validator(mode="after")
    def _ordered(self) -> LimitsTable:
        for key in ("power_w", "exposure_s"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key} = [{low:g}, {high:g}] is reversed: put the lower first")
        return self


class SuspendTable(TomlTable):
    """A monitor that must stay within bounds during a run; a table `[[suspend]]`."""

    what: Literal["power_meter", "monitor", "interlock"]
    """Role of the instrument that is read: a power meter in watts, or a DAQ.

    Under "interlock" the bench asks the source whether it may emit, and does. An open interlock
    never suspends: the run pauses, and the bench is latched off.
    """
    channel: int = Field(default=0, ge=0)
    """Input of a monitor that is read."""
    scale: float = 1.0
    """Factor of a monitor, such as degrees per volt.

    The reading is the voltage in volts times `scale`, plus `offset`.
    """
    offset: float = 0.0
    """Reading of a monitor at 0 V."""
    low: float | None = None
    """Lowest reading within bounds; at least one of `low` and `high` must be given."""
    high: float | None = None
    """Highest reading within bounds."""
    every: Seconds = 1.0
    """Time between two readings, on the clock of the bench."""
    back_for: Seconds = 10.0
    """Time within bounds before shots continue."""
    at_most: Seconds = 1800.0
    """Time out of bounds after which the run pauses."""

    @field_validator("low", "high", mode="before")
    @classmethod
    def _watts(cls, value: Any) -> Any:
        return quantity(value, "W") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bounded(self) -> SuspendTable:
        if self.what != "interlock" and self.low is None and self.high is None:
            raise ValueError(f"{self.what} has neither low nor high: give at least one")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}")
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ValueError(f"scale = {self.scale:g} is not finite or is zero: give another scale")
        return self


class ChecksTable(TomlTable):
    """The checksums of a bench (docs/explanation/checks.md)."""

    rows: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Most rows of a tile that share a checksum, which takes two slots; 0 for no checksum.

    Under "auto" all rows of a tile share one, if a frame holds at least 64 slots.
    """
    inputs: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Least number of input frames of a job that also shows half their mean; 0 for none.

    Under "auto" it is 16 on line and single-pixel benches, and 0 on imaged benches.
    """


class HeartbeatTable(TomlTable):
    """A digital line that a retriggerable relay watches."""

    instrument: str
    """Role of the DAQ that has the line."""
    line: int = Field(ge=0)
    """Number of the line, from 0."""
    period_s: Seconds = Field(default=0.2, ge=0.01, le=10)
    """Period of the square wave; the relay must hold longer than this, and than an exposure."""
    stops_after_s: Seconds = Field(default=10.0, ge=0.1, le=600)
    """Time without progress after which the heartbeat stops, so that the relay falls."""


class SafetyTable(TomlTable):
    """The safety hardware of the source."""

    laser_class: Literal["1", "1M", "2", "2M", "3R", "3B", "4"] | None = None
    """Class of the source as it is used (IEC 60825-1); leave it out if it is not a laser."""
    shutter: Literal["normally-closed", "normally-open", "none"] = "none"
    """A "normally-closed" shutter shuts by itself when its supply, or the heartbeat, fails."""
    heartbeat: HeartbeatTable | None = None
    """Line that drives the relay in the supply of shutter or interlock while shots are taken."""


class BenchFile(TomlTable):
    """The content of a bench file."""

    schema_: Literal[1] = Field(alias="schema")
    """Version of the form of the file."""
    name: str = ""
    """Name of the bench in reports."""
    layout: Literal["imaged", "line", "single-pixel"]
    """Where the light of a dot product falls: a block of pixels, a line, or a photodiode."""
    coherence: Literal["incoherent"]
    """Powers of light add; coherent light is refused."""
    calibration: str | None = None
    """Calibration file, relative to the bench file.

    Without the key it is the file beside the bench file, such as `bench.calibration.json` for
    `bench.toml`. Under "ground-truth" a simulated bench tells its true values; a real one refuses.
    """
    calibration_lasts_s: Seconds = 86400.0
    """Age at which a calibration expires."""
    corrections: Literal["on", "off"] = "on"
    """Whether products are corrected by the calibration.

    Under "off" products have the errors of the bench. All elements count as equally bright, and
    response curves as straight. Leaks, crosstalk and changes of the brightness count as absent.
    """
    drift_tolerance: float = Field(default=0.2, gt=0, lt=0.5)
    """Largest relative change of the brightness since calibration.

    Beyond it a run makes the bench safe and pauses.
    """
    clock: Literal["real", "virtual"] = "real"
    """On a "virtual" clock, for simulated benches only, waiting takes no time.

    It advances only when all host threads are idle.
    """
    power_w: Watts = 1e-3
    """Set-point of the source during a run, within `limits.power_w`."""
    align_power_w: Watts = 1e-3
    """Highest set-point during alignment, when people are near the beam."""
    exposure_s: Seconds = 2e-3
    """Exposure of one shot, within `limits.exposure_s` and at most `limits.timeout_s`.

    For a modulator that dithers, it is a whole number of its periods.
    """
    encoding: EncodingTable = EncodingTable()
    """How numbers are laid out on the modulators."""
    limits: LimitsTable = LimitsTable()
    """Limits that no run may exceed."""
    checks: ChecksTable = ChecksTable()
    """Checksums that the bench shows beside the numbers."""
    safety: SafetyTable = SafetyTable()
    """Safety hardware around the source."""
    faults: dict[str, str] = Field(default_factory=dict)
    """Recoveries from each kind of fault, in order."""
    suspend: tuple[SuspendTable, ...] = ()
    """Monitors that must be within bounds during a run, one table each."""
    instruments: dict[str, dict[str, Any]]
    """Driver and settings of the instrument in each role, one table each."""
    world: WorldOptions = WorldOptions()
    """Properties of a simulated bench; a real bench ignores the table."""

    @field_validator("coherence", mode="before")
    @classmethod
    def _incoherent(cls, value: Any) -> Any:
        if value != "incoherent":
            raise ValueError(
                "light must add in power; coherent light makes fringes that no inverse removes, "
                'so use an incoherent source and write "incoherent"'
            )
        return value

    @model_validator(mode="after")
    def _complete(self) -> BenchFile:
        missing = [role for role in ROLES if role not in self.instruments]
        if missing:
            raise ValueError(f"instruments.{missing[0]} is missing; roles are {', '.join(_KINDS)}")
        surplus = [role for role in self.instruments if role not in _KINDS]
        if surplus:
            raise ValueError(
                f"instruments.{surplus[0]} is not a role; roles are {', '.join(_KINDS)}"
            )
        for table in self.suspend:
            if table.what not in (*self.instruments, "interlock"):
                raise ValueError(
                    f"suspend reads a {table.what}, but there is no instruments.{table.what}"
                )
        self._check_faults()
        for key, value in (("power_w", self.power_w), ("exposure_s", self.exposure_s)):
            low, high = getattr(self.limits, key)
            if not low <= value <= high:
                raise ValueError(f"{key} = {value:g} is outside limits.{key} = [{low:g}, {high:g}]")
        if "layout" in self.world.model_fields_set and self.world.layout != self.layout:
            raise ValueError(
                f"world.layout = {self.world.layout!r} and layout = {self.layout!r} differ; leave "
                "out world.layout"
            )
        if self.exposure_s > self.limits.timeout_s:
            raise ValueError(
                f"exposure_s = {self.exposure_s:g} is longer than limits.timeout_s = "
                f"{self.limits.timeout_s:g}"
            )
        return self

    def _check_faults(self) -> None:
        try:
            fault_policy = FaultPolicy(self.faults, self.limits.retries)
        except ValueError as error:
            raise ValueError(f"faults.{error}") from None
        surplus = sorted(fault_policy.names & set(RESTARTS))
        if surplus and self.calibration == "ground-truth":
            raise ValueError(
                f"faults asks to {surplus[0]}, but a bench with ground truth has nothing to "
                "measure; leave it out"
            )


def read_bench_file(path: str | Path) -> BenchFile:
    """Return the checked content of a bench file.

    Raises
    ------
    InputError : naming file, key and value
    """
    document = read_toml(path, "bench file")
    _replace_old_words(document, str(path))
    try:
        checked = BenchFile.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {first_complaint(error, BenchFile)}") from None
    try:
        _check_instruments(checked)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return checked


def _replace_old_words(document: dict[str, Any], path: str) -> None:
    """Replace old words in the document of a bench file, with one remark."""
    words = OldWords()
    words.value(document, "layout", OLD_LAYOUTS)
    words.value(document, "calibration", {"known": "ground-truth"})
    words.value(document.get("world"), "layout", OLD_LAYOUTS)
    words.keys(document.get("faults"), OLD_KINDS)
    words.remark(f"the bench file {path}")


def _check_instruments(file: BenchFile) -> None:
    held: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for role, table in file.instruments.items():
        if "driver" not in table:
            raise InputError(f"instruments.{role} has no driver")
        kind = kinds[role] = driver_class(table["driver"]).kind
        if kind not in _KINDS[role]:
            raise InputError(
                f"instruments.{role}.driver = {table['driver']!r} drives a {kind}; the role wants "
                f"a {' or a '.join(_KINDS[role])}"
            )
        instrument = make_instrument(role, table)
        claim = instrument.device
        if claim and claim in held:
            raise InputError(
                f"instruments.{role} and instruments.{held[claim]} have one address, "
                f"{instrument.address!r} (or two names of one device); give each its own"
            )
        held[claim] = role
    heartbeat = file.safety.heartbeat
    if heartbeat is not None and kinds.get(heartbeat.instrument) != "daq":
        raise InputError(
            f"safety.heartbeat.instrument = {heartbeat.instrument!r} is not the role of a DAQ; "
            "give the role of the DAQ whose line drives the relay"
        )
    wanted, kind = LAYOUTS[file.layout].detector_kind, kinds["detector"]
    if kind != wanted:
        raise InputError(f"layout = {file.layout!r} reads a {wanted}, but the detector is a {kind}")
    simulated = {
        role
        for role, table in file.instruments.items()
        if str(table["driver"]).startswith("simulated-")
    }
    if simulated and set(ROLES) - simulated:
        raise InputError(
            f"{', '.join(sorted(simulated))} simulated and {', '.join(set(ROLES) - simulated)} "
            "not: no light goes from one to the other"
        )
    if file.calibration == "ground-truth" and not simulated:
        raise InputError(
            'calibration = "ground-truth": only a simulated bench has a ground truth; leave the '
            "key out, then run `lightloom align` and `lightloom calibrate`"
        )
    if file.clock == "virtual" and not simulated:
        raise InputError('clock = "virtual" is for simulated benches; real ones take real time')


def make_instrument(role: str, table: dict[str, Any], clock: Any = None) -> Any:
    """Return the instrument of a role, not connected."""
    options = {key: value for key, value in table.items() if key != "driver"}
    return create(table["driver"], f"instruments.{role}", options, clock)


_EXAMPLE = """\
# A bench of lightloom. Quantities may carry units: "5 ms", "1 mW".
schema = 1
name = "simulated {layout} bench"
layout = "{layout}"            # imaged, line or single-pixel
coherence = "incoherent"     # light adds in power; nothing else is supported
{calibration}clock = "{clock}"             # real, or virtual: simulated time passes at once
power_w = "1 mW"             # set-point of the source during a run
exposure_s = "2 ms"

[encoding]
kind = "abs-split"           # abs-split, push-pull or offset
element_px = {element}               # side of one element, in pixels of the weight modulator
guard_px = {guard}                 # dark band between blocks or rows
block = [{block}]               # elements of a block: rows, columns (a line's length follows)

[limits]                     # no run may exceed these
power_w = ["0 mW", "2 mW"]
exposure_s = ["10 us", "1 s"]
timeout_s = "5 s"
retries = 3                  # of one shot; every one is counted and reported

[faults]                     # recoveries for each kind of fault, in order; all are reported
stale = "retry, wait 20 ms, wait 0.2 s, reconnect, retry, pause"

[instruments.input]          # shows the vector x; `lightloom devices` lists what is attached
driver = "simulated-slm"
device = "{modulator}"

[instruments.weight]         # shows the matrix W
driver = "simulated-slm"
device = "{modulator}"

[instruments.detector]
driver = "{detector}"
device = "{device}"

[instruments.source]
driver = "simulated-source"

[world]                      # of simulated instruments only: the light between them
seed = {seed:<22}# of the device: its imperfections and its noise
electrons_per_pixel_j = {light}
extinction_ratio = 500.0
"""

_GROUND_TRUTH = """\
calibration = "ground-truth" # only a simulated bench has a ground truth
"""

_IMPERFECT = """\
input_registration = {input}
camera_registration = {camera}
lut_rms = 0.05               # of full scale: response curves off a straight line
gain_rms = 0.03              # of single pixels
unevenness = 0.1             # of the illumination
source_rms = 0.005           # from shot to shot
drift_rms = 0.02
drift_shots = 5000
stray_e_per_s = 200
hot_pixels = 1e-5
"""

_SIZES = {
    "imaged": {"element": 4, "guard": 8, "block": "8, 8", "light": "2e9"},
    "line": {"element": 4, "guard": 4, "block": "1, 1", "light": "4e7"},
    "single-pixel": {
        "element": 4,
        "guard": 0,
        "block": "28, 28",
        "light": "3e9",
        "detector": "simulated-daq",
        "device": "ni-6363",
    },
}
_TINY_SIZES = {
    "imaged": {"block": "4, 4", "device": "tiny"},
    "line": {"device": "tiny"},
    "single-pixel": {"block": "4, 4"},
}
_IMPERFECT_LIGHT = {  # by layout, and whether the bench is tiny
    ("imaged", False): "1.5e8",
    ("imaged", True): "1.5e8",
    ("single-pixel", True): "2e10",
}


def example_file(
    layout: str = "imaged",
    clock: str = "virtual",
    tiny: bool = False,
    as_found: bool = False,
    seed: int = 0,
) -> str:
    """Return the text of a commented bench file with simulated instruments.

    Parameters
    ----------
    tiny : modulators and camera of 96 x 64 pixels
    as_found : an imperfect bench, not aligned or calibrated; otherwise an ideal one with ground
        truth
    seed : of the imperfections

    Raises
    ------
    InputError : for an unknown layout
    """
    words = OldWords()
    layout = words.word(layout, OLD_LAYOUTS)
    words.remark("the choice of a layout")
    if layout not in _SIZES:
        raise InputError(f"unknown layout {layout!r}; choose from {', '.join(_SIZES)}")
    values: dict[str, Any] = {
        "layout": layout,
        "clock": clock,
        "seed": seed,
        "modulator": "fast-1920",
        "detector": "simulated-camera",
        "device": "basler-aca1440",
        "calibration": "" if as_found else _GROUND_TRUTH,
        **_SIZES[layout],
    }
    if tiny:  # elements of 2 pixels are too small for misaligned benches
        values |= {"element": 3 if as_found else 2, "guard": 4, "modulator": "tiny"}
        values |= _TINY_SIZES[layout]
    if not as_found:
        return _EXAMPLE.format(**values)
    values["light"] = _IMPERFECT_LIGHT.get((layout, tiny), values["light"])
    return _EXAMPLE.format(**values) + _imperfect_world(layout, tiny, seed)


_OFF_SCALE, _OFF_DEG, _OFF_PX = 0.05, 3.0, 40.0  # at most, of a bench that is not aligned
_TINY_OFF_PX = 2.0  # of 64 rows, as 40 are of 1152


def _imperfect_world(layout: str, tiny: bool, seed: int) -> str:
    """Return the lines of `[world]` with misalignment, uneven light and drift."""
    chance = np.random.Generator(np.random.Philox(seed))
    most_px = _TINY_OFF_PX if tiny else _OFF_PX

    def misaligned() -> str:
        scale, turn, down, right = chance.uniform(-1, 1, 4)
        return (
            f"{{ scale = {1 + _OFF_SCALE * scale:.4f}, rotation_deg = {_OFF_DEG * turn:.3f}, "
            f"shift_px = [{most_px * down:.2f}, {most_px * right:.2f}] }}"
        )

    text = _IMPERFECT.format(input=misaligned(), camera=misaligned())
    if layout == "imaged":
        text += "blur_px = 1.0                # of the image on the camera\n"
    if layout == "line":
        text += "crosstalk = 0.02             # of a row's light on each neighbour\n"
    return text
