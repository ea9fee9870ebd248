"""`Calibration`: the measured properties of a bench, on disk as a header and its arrays.

The header is JSON for people and programs. Curves and maps are in a safetensors file beside it,
whose name holds their hash, so that a header cannot refer to other arrays. Both hold only data;
nothing of them is executed. `backends.calibration` makes the measurements.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...instruments import InputError
from ...instruments.files import check_output, is_sealed, replace_file, sealed
from ...instruments.formatting import format_counted, format_duration
from ...instruments.old_words import OldWords
from ...instruments.registry import first_complaint
from ...instruments.text import short_lines
from .layouts import OLD_LAYOUTS

ROLES = ("input", "weight", "detector", "source")
IDENTITY = ("maker", "model", "serial")
OLD_STEPS = {  # names in files of schema 1 -> current names
    "dark": "dark_frames",
    "detector": "photon_transfer",
    "curves": "response_curves",
    "flat": "flat_field",
}
SCHEMA = 2
KIND = "lightloom calibration"
_CLOCKS_DIFFER_S = 300.0  # largest difference of the clocks of two computers
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # JSON has no such numbers


def _number(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _json_number(value: float | None) -> float | str | None:
    if value is None:
        return None
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError('a time needs its zone, such as "2026-03-01T12:00:00+00:00"')
    return text


Number = Annotated[StrictFloat, BeforeValidator(_number), PlainSerializer(_json_number)]
Moment = Annotated[StrictStr, AfterValidator(_moment)]


def moment_now() -> str:
    """Return the current time: ISO 8601, UTC, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Parameters
    ----------
    uncertainty : one standard deviation, in the same unit; None without an estimate
    unit : such as "e/count"; "" for a ratio
    note : goodness of fit, or the reference of the number
    """

    name: StrictStr
    value: Number
    uncertainty: Number | None
    unit: StrictStr
    note: StrictStr = ""


@dataclass(frozen=True)
class Plot:
    """A plot of an array of a step.

    Parameters
    ----------
    y : name of the array: [points], [lines, points], an image [rows, columns], or a sample
    x : name of the array of abscissae [points]; None counts from 0
    """

    title: StrictStr
    kind: Literal["line", "points", "image", "histogram"]
    y: StrictStr
    x: StrictStr | None = None
    x_label: StrictStr = ""
    y_label: StrictStr = ""


@dataclass(frozen=True, eq=False)
class Step:
    """The results of one step of a calibration, and its cost.

    Parameters
    ----------
    arrays : name -> curve or map, of numbers or bools
    plots : of those arrays
    shots : number of shots
    seconds : bench time
    computing_s : host time
    light_j : energy that the source emitted
    finished_at : ISO 8601, UTC
    notes : sentences for the operator

    Raises
    ------
    ValueError : for names or arrays that cannot be stored, and plots without their array
    """

    name: str
    figures: tuple[Figure, ...]
    arrays: dict[str, np.ndarray]
    plots: tuple[Plot, ...]
    shots: int
    seconds: float
    computing_s: float
    light_j: float
    finished_at: str = field(default_factory=moment_now)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short_lines(
            f"Step {self.name}: {format_counted(self.shots, 'shot')} in "
            f"{format_duration(self.seconds)}, finished at {self.finished_at}",
            f"  figures: {', '.join(figure.name for figure in self.figures)}",
            f"  arrays: {', '.join(self.arrays)}",
        )

    def __post_init__(self) -> None:
        for name in (self.name, *self.arrays):
            if not name or "/" in name:  # separates step and array in the data file
                raise ValueError(
                    f"{name!r} is not a name of a step or an array; remove '/', or give a name"
                )
        for name, array in self.arrays.items():
            if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
                raise ValueError(f"{self.name}/{name} holds {array.dtype}, which is not stored")
        for plot in self.plots:
            self._check_plot(plot)
        names = [figure.name for figure in self.figures]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two figures have one name")

    def _check_plot(self, plot: Plot) -> None:
        for drawn in (plot.y, plot.x):
            if drawn is not None and drawn not in self.arrays:
                raise ValueError(
                    f"{self.name}: plot {plot.title!r} needs the missing array {drawn!r}"
                )
        y = self.arrays[plot.y]
        dimensions = {"image": (2,), "line": (1, 2), "points": (1, 2)}.get(plot.kind, (y.ndim,))
        fits = plot.x is None or self.arrays[plot.x].shape == y.shape[-1:]
        if y.ndim not in dimensions or not fits:
            raise ValueError(
                f"{self.name}: plot {plot.title!r} cannot draw {plot.y!r} of {y.shape}"
            )


class Calibration:
    """The steps that were measured on one bench.

    Parameters
    ----------
    binding : properties of the bench that the steps depend on (`binding_of`)
    created_at : ISO 8601, UTC
    steps : in order
    path : of the file that was read or written last, for messages

    Attributes
    ----------
    steps : by name, in order
    """

    def __init__(
        self,
        binding: dict[str, Any],
        created_at: str,
        steps: Iterable[Step] = (),
        path: str | Path = "calibration",
    ) -> None:
        self.binding, self.created_at, self.path = binding, created_at, str(path)
        self.steps = {step.name: step for step in steps}

    def __repr__(self) -> str:
        where = "a simulated bench" if self.is_simulated else "a bench"
        return short_lines(
            f"Calibration of {where}, begun at {self.created_at}",
            f"  {format_counted(len(self.steps), 'step')}: {', '.join(self.steps) or 'none yet'}",
            f"  file: {self.path}",
        )

    @property
    def is_simulated(self) -> bool:
        """Whether it was measured on simulated instruments."""
        return bool(self.binding["is_simulated"])

    def add(self, step: Step) -> None:
        """Add a step, or replace the one of the same name in its place."""
        self.steps[step.name] = step

    def figure(self, step: str, name: str) -> float:
        """Return the value of a figure.

        Raises
        ------
        InputError : when the calibration does not hold it
        """
        for figure in self._step(step).figures:
            if figure.name == name:
                return figure.value
        raise self._lack(step, f"figure {name!r}")

    def array(self, step: str, name: str) -> np.ndarray:
        """Return an array.

        Raises
        ------
        InputError : when the calibration does not hold it
        """
        arrays = self._step(step).arrays
        if name not in arrays:
            raise self._lack(step, f"array {name!r}")
        return arrays[name]

    def age_s(self, wanted_steps: Iterable[str]) -> float:
        """Return the age of the oldest of some steps."""
        oldest = min(datetime.fromisoformat(self._step(s).finished_at) for s in wanted_steps)
        return (datetime.now(UTC) - oldest).total_seconds()

    def _lack(self, step: str, what: str) -> InputError:
        return InputError(
            f"{self.path}: step {step!r} holds no {what}; calibrate again with this version of "
            "lightloom"
        )

    def _step(self, name: str) -> Step:
        if name not in self.steps:
            raise InputError(f"{self.path}: the calibration lacks the step {name!r}; run that step")
        return self.steps[name]

    # --- on disk ---------------------------------------------------------------------------------

    def write(self, path: str | Path) -> None:
        """Write header and arrays; the header is replaced last, and at once.

        If writing fails, the former calibration stays readable.

        Raises
        ------
        InputError : when it cannot be written, or the file exists and is not a calibration
        """
        path = Path(path)
        check_output(path, KIND)
        content = save(
            {
                f"{step.name}/{name}": _stored(array)
                for step in self.steps.values()
                for name, array in step.arrays.items()
            }
        )
        digest = hashlib.sha256(content).hexdigest()
        data = path.with_name(f"{path.stem}.{digest[:12]}.safetensors")
        header = sealed(_as_read(self._header(data.name, digest, len(content))))
        text = json.dumps(header, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            replace_file(data, content)
            replace_file(path, text.encode())
        except OSError as error:
            raise InputError(
                f"cannot write the calibration {path}: {error.strerror}; a former one is "
                "unchanged; free the path, or choose another one"
            ) from None
        self.path = str(path)
        _remove_others(path, data)

    def _header(self, data: str, digest: str, size: int) -> dict[str, Any]:
        from ...instruments.version import VERSION

        return {
            "schema": SCHEMA,
            "kind": KIND,
            "lightloom": VERSION,
            "created_at": self.created_at,
            "binding": self.binding,
            "data": {"file": data, "sha256": digest, "bytes": size},
            "steps": [described(step) for step in self.steps.values()],
        }

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read header and arrays.

        Raises
        ------
        InputError : naming file, key and value
        """
        path = Path(path)
        header = _read_header(path)
        try:
            arrays = _read_arrays(path, header)
        except InputError:  # another program may have written a new pair in between
            again = _read_header(path)
            if again.data == header.data:
                raise
            header, arrays = again, _read_arrays(path, again)
        words, steps = OldWords(), []
        for entry in header.steps:
            names = [array.name for array in entry.arrays]
            own = {name: arrays[f"{entry.name}/{name}"] for name in names}
            fields = {key: getattr(entry, key) for key in _COPIED}
            if header.schema_ == 1:
                fields["name"] = words.word(fields["name"], OLD_STEPS)
            try:
                steps.append(Step(arrays=own, **fields))
            except ValueError as error:
                raise InputError(f"{path}: step {error}; calibrate again") from None
        binding = header.binding.model_dump()
        words.value(binding, "layout", OLD_LAYOUTS)
        words.remark(f"the calibration {path}")
        return cls(binding, header.created_at, steps, path)

    # --- whether it holds for a bench ------------------------------------------------------------

    def check(
        self,
        bench: str,
        binding: dict[str, Any],
        wanted_steps: Iterable[str],
        max_age_s: float,
        now: datetime | None = None,
    ) -> None:
        """Check that the calibration is complete, recent, and belongs to a bench.

        Parameters
        ----------
        bench : path of its file, for messages
        binding : of the bench now
        wanted_steps : steps that it must hold
        max_age_s : greatest age of the oldest of them
        now : with its zone; None is the current time

        Raises
        ------
        InputError : when it does not, naming the first difference, both values and the way out
        """
        wanted = list(wanted_steps)
        self._check_binding(bench, binding)
        missing = [name for name in wanted if name not in self.steps]
        if missing:
            raise InputError(
                f"{bench}: the calibration {self.path} is incomplete, it lacks "
                f"{', '.join(missing)}; run `lightloom calibrate --bench {bench} --resume`"
            )
        self._check_age(bench, wanted, max_age_s, now or datetime.now(UTC))

    def _check_binding(self, bench: str, now: dict[str, Any]) -> None:
        if _are_swapped(self.binding, now):
            raise InputError(
                f"{bench}: the input and weight modulators are swapped: instruments.input is "
                f"{_name(now['instruments']['input'])}, which was the weight modulator when "
                f"{self.path} was made; swap their tables in the bench file, or their cables"
            )
        was, given = dict(leaves(self.binding)), dict(leaves(now))
        for key in (*given, *(key for key in was if key not in given)):
            if not _are_equal(was.get(key), given.get(key)):
                raise InputError(
                    f"{bench}: {key} = {_as_text(given.get(key))}, but the calibration {self.path} "
                    f"was made with {_as_text(was.get(key))}; {_way_out(key)}"
                )

    def _check_age(self, bench: str, wanted: list[str], max_age_s: float, now: datetime) -> None:
        for name in wanted:
            finished_at = self.steps[name].finished_at
            age_s = (now - datetime.fromisoformat(finished_at)).total_seconds()
            if age_s < -_CLOCKS_DIFFER_S:
                raise InputError(
                    f"{bench}: step {name!r} of the calibration {self.path} was finished at "
                    f"{finished_at}, which is in the future; set this computer's clock, or "
                    "calibrate again"
                )
            if age_s > max_age_s:
                again = "align and calibrate" if name == "align" else "calibrate"
                raise InputError(
                    f"{bench}: step {name!r} of the calibration {self.path} is {age_s / 3600:.1f} "
                    f"hours old, and lasts {max_age_s / 3600:.4g} hours (calibration_lasts_s); "
                    f"{again} again"
                )


def path_of(named: str | None, bench_path: str | Path) -> Path:
    """Return the path of a calibration from the entry of the bench file; beside it for None.

    Raises
    ------
    InputError : for calibration = "ground-truth"
    """
    if named == "ground-truth":
        raise InputError(
            f'{bench_path}: calibration = "ground-truth" takes the truth of the simulation, which '
            "has no file; remove that line to align and calibrate optically"
        )
    beside = f"{Path(bench_path).stem}.calibration.json"
    return Path(bench_path).parent / (beside if named is None else named)


# --- comparing bindings ---------------------------------------------------------------------------


def leaves(table: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values; a list is one value."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _are_equal(was: Any, now: Any) -> bool:
    if isinstance(was, float) and isinstance(now, float):
        return math.isclose(was, now, rel_tol=1e-9)  # "2000 us" and "2 ms" differ in the last bit
    return bool(was == now)


def _are_swapped(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the modulators are swapped, by their identities, or else by their shapes."""
    for keys in (IDENTITY, (*IDENTITY, "shape")):
        then, here = ([_part(side, role, keys) for role in ROLES[:2]] for side in (was, now))
        if then[0] != then[1]:
            return then == here[::-1]
    return False


def _part(binding: dict[str, Any], role: str, keys: tuple[str, ...]) -> list[Any]:
    table = binding["instruments"].get(role, {})
    return [table.get(key) for key in keys]


def _name(instrument: dict[str, Any]) -> str:
    known = " ".join(str(instrument[key]) for key in IDENTITY if instrument.get(key))
    return known or f"a modulator of {instrument['shape']} pixels"


def _as_text(value: Any) -> str:
    return "nothing" if value is None or value == "" else json.dumps(value, ensure_ascii=False)


def _way_out(key: str) -> str:
    name = key.rpartition(".")[2]
    if name in IDENTITY:
        return "this is another bench: connect the old instrument, or align and calibrate again"
    return f"restore the old {name}, or align and calibrate again"


# --- the header -----------------------------------------------------------------------------------


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _DataEntry(_Entry):
    file: StrictStr = Field(pattern=r"^[^/\\:]+\.safetensors$")
    """Name of the file of arrays, in the same folder."""
    sha256: StrictStr = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file; another file is refused."""
    bytes: StrictInt
    """Size of that file in bytes."""


class _ArrayEntry(_Entry):
    name: StrictStr
    """Name; in the file of arrays it is called "step/name"."""
    shape: tuple[StrictInt, ...]
    """Length of each axis."""
    dtype: StrictStr
    """Type of its numbers, as numpy names it."""


class _StepEntry(_Entry):
    name: StrictStr
    """Name of the step, such as "align", "dark_frames" or "response_curves"."""
    finished_at: Moment
    """Time in ISO 8601, with zone, from which the age of the step counts."""
    shots: StrictInt
    """Shots that this step took."""
    seconds: Number
    """Bench time in seconds."""
    computing_s: Number
    """Computing time of the host."""
    light_j: Number
    """Energy of the light that left the source."""
    notes: tuple[StrictStr, ...]
    """Sentences for the operator."""
    figures: tuple[Figure, ...]
    """Measured numbers."""
    plots: tuple[Plot, ...]
    """Plots of the arrays."""
    arrays: tuple[_ArrayEntry, ...]
    """Curves and maps."""


def _once_each(steps: tuple[_StepEntry, ...]) -> tuple[_StepEntry, ...]:
    if len({step.name for step in steps}) < len(steps):
        raise ValueError("two steps have one name")
    return steps


class _BindingEntry(_Entry):
    layout: StrictStr
    """Layout of the bench file."""
    instruments: dict[StrictStr, dict[StrictStr, Any]]
    """Role -> identity and geometry of the instrument."""
    encoding: dict[StrictStr, Any]
    """Table `[encoding]` of the bench file."""
    exposure_s: Number
    """Exposure of one shot."""
    power_w: Number
    """Set-point of the source."""
    is_simulated: StrictBool
    """Whether the bench is simulated; its results are marked as such."""


class _CalibrationHeader(_Entry):
    schema_: Literal[1, 2] = Field(alias="schema")
    """Version of the form of the file.

    Files of schema 1 are read, with a remark on their names of steps. A newer schema is refused.
    """
    kind: Literal["lightloom calibration"]
    """Kind of the file."""
    lightloom: StrictStr
    """Version of lightloom that wrote the file."""
    created_at: Moment
    """Time in ISO 8601, with zone, at which the calibration was begun."""
    binding: _BindingEntry
    """Properties that the bench must still have."""
    data: _DataEntry
    """The file of arrays."""
    sha256: StrictStr
    """SHA-256 of the rest of the header; a header that was edited is refused."""
    steps: Annotated[tuple[_StepEntry, ...], AfterValidator(_once_each)]
    """Steps, in the order in which they were first measured."""


_COPIED = [name for name in _StepEntry.model_fields if name != "arrays"]


def described(step: Step) -> dict[str, Any]:
    """Return a step as a JSON object, without the contents of its arrays."""
    arrays = tuple(
        _ArrayEntry.model_construct(name=name, shape=array.shape, dtype=array.dtype.name)
        for name, array in step.arrays.items()
    )
    copied = {name: getattr(step, name) for name in _COPIED}
    return _StepEntry.model_construct(arrays=arrays, **copied).model_dump(mode="json")


def _read_header(path: Path) -> _CalibrationHeader:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"no calibration file {path}; `lightloom calibrate` writes one") from None
    except OSError as error:
        raise InputError(f"cannot read the calibration {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the calibration {path} is not JSON ({error}); calibrate again, or restore a copy"
        ) from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(
            f'{path} is not a calibration: its key kind is not "{KIND}"; give the file that '
            "`lightloom calibrate` wrote"
        )
    schema = document.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(
            f"{path}: schema = {schema} is newer than {SCHEMA}, the newest that this version of "
            f"lightloom reads (it was written by {document.get('lightloom')}); update lightloom, "
            "or calibrate again"
        )
    try:
        header = _CalibrationHeader.model_validate(document)
    except ValidationError as error:
        raise InputError(
            f"the calibration {path}: {first_complaint(error, _CalibrationHeader)}"
        ) from None
    if not is_sealed(document):
        raise InputError(
            f"the calibration {path} was changed after it was written: its SHA-256 does not match "
            "its content; restore a copy, or calibrate again"
        )
    return header


def _as_read(header: dict[str, Any]) -> Any:
    """Return a header as read back from its file: invalid characters are replaced."""
    return json.loads(
        json.dumps(header, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    )


# --- the arrays -----------------------------------------------------------------------------------


def _stored(array: np.ndarray) -> np.ndarray:
    """Return an array in the data file's form: C order and native byte order."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _read_arrays(path: Path, header: _CalibrationHeader) -> dict[str, np.ndarray]:
    data = path.with_name(header.data.file)
    try:
        content = data.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {data}, the arrays of the calibration {path}: {error.strerror}; keep "
            "both files together, or calibrate again"
        ) from None
    if hashlib.sha256(content).hexdigest() != header.data.sha256:
        raise InputError(
            f"{data} is damaged: its SHA-256 is not the one that {path} names; restore a copy of "
            "both, or calibrate again"
        )
    try:
        arrays = {name: np.array(array) for name, array in load(content).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{data} is not a safetensors file: {error}; calibrate again") from None
    described = [
        (f"{step.name}/{array.name}", array.shape, array.dtype)
        for step in header.steps
        for array in step.arrays
    ]
    held = [(name, array.shape, array.dtype.name) for name, array in arrays.items()]
    if sorted(described) != sorted(held):
        first = min(set(described) ^ set(held), default=("twice the same array",))
        raise InputError(f"{path} and {data} differ in the array {first[0]}; calibrate again")
    return arrays


def _remove_others(path: Path, data: Path) -> None:
    """Remove the files of former headers of this name and of interrupted writes."""
    arrays = re.escape(path.stem) + r"\.[0-9a-f]{12}\.safetensors"
    drafts = rf"\.({re.escape(path.name)}|{arrays})\.[0-9a-f]{{8}}\.tmp"
    for other in list(path.parent.iterdir()):
        if other.name != data.name and re.fullmatch(f"{arrays}|{drafts}", other.name):
            with contextlib.suppress(OSError):  # an open file is removed after the next write
                other.unlink()
