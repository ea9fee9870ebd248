"""`TwinArrays`: the measured arrays of a bench, in a file beside the profile of its twin.

The profile names the file and its SHA-256, so that it cannot refer to other arrays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...instruments import InputError
from ...instruments.toml_file import TomlTable

_KEPT: dict[str, TwinArrays] = {}  # by SHA-256: a profile in memory names its arrays by it
_AGAIN = "make the twin again with `lightloom twin`"


class TwinTable(TomlTable):
    """The calibration of a twin, and the file of its arrays; the table `[twin]` of a profile."""

    file: str
    """File of the arrays, in the folder of the profile; "" while they are only in memory."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of that file; another file is refused."""
    calibration: str
    """Calibration file that was the source."""
    calibrated_at: str
    """Time at which the last step of that calibration was finished: ISO 8601, with zone."""
    layout: Literal["imaged", "line", "single-pixel"]
    """Layout of the bench."""
    is_simulated: bool
    """Whether that bench was simulated."""

    @property
    def remark(self) -> str:
        """A sentence that names source and date."""
        bench = "a simulated bench" if self.is_simulated else "a bench"
        return f"twin of {bench}, calibrated at {self.calibrated_at} ({self.calibration})"


@dataclass(frozen=True, eq=False)
class TwinArrays:
    """What a calibration measured of the slots of a bench.

    Electrons are in units of `photons_full_scale`, the mean of all pairs. See `Response`.

    Parameters
    ----------
    pairs : of each element, float32 [slots, length]
    input_leak, weight_leak, offset : of each slot, float64 [slots]
    input_table, weight_table : response curves, brightest 1, float32 [levels]
    pixels : of each slot, over their mean, float64 [slots]
    grid : rows and columns of the slots, int64 [2]
    block : rows and columns of the elements of a slot, int64 [2]
    between : light of the neighbours' input at an element, over its own, float64 [1]
    kernel : crosstalk into the neighbours of a slot, by direction, float32 [3, 3]
    inverse : that corrects it, float32 [slots, slots]; [0, 0] where it is not corrected
    """

    pairs: np.ndarray
    input_leak: np.ndarray
    weight_leak: np.ndarray
    offset: np.ndarray
    input_table: np.ndarray
    weight_table: np.ndarray
    pixels: np.ndarray
    grid: np.ndarray
    block: np.ndarray
    between: np.ndarray
    kernel: np.ndarray
    inverse: np.ndarray

    def packed(self) -> bytes:
        """Return the content of a safetensors file."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return bytes(save({name: np.ascontiguousarray(array) for name, array in named.items()}))


def keep(arrays: TwinArrays) -> tuple[bytes, str]:
    """Return the packed arrays and their SHA-256, by which this process finds them from now on."""
    content = arrays.packed()
    digest = hashlib.sha256(content).hexdigest()
    _KEPT[digest] = arrays
    return content, digest


def arrays_of(table: TwinTable) -> TwinArrays:
    """Return the arrays of a twin; they are read once.

    Raises
    ------
    InputError : as `read_arrays`
    """
    if table.sha256 not in _KEPT:
        read_arrays(table)
    return _KEPT[table.sha256]


def read_arrays(table: TwinTable) -> None:
    """Read the file of arrays, and keep its content.

    Raises
    ------
    InputError : when it cannot be read, or is not the one that the profile names
    """
    if not table.file:
        raise InputError(
            f"the arrays of the twin of {table.calibration} were never in a file; write its "
            "profile with `lightloom twin`"
        )
    path = Path(table.file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path}, the arrays of a twin: {error.strerror}; keep profile and arrays "
            f"in one folder, or {_AGAIN}"
        ) from None
    if hashlib.sha256(content).hexdigest() != table.sha256:
        raise InputError(
            f"{path} is not the file of arrays that the profile of the twin names: its SHA-256 "
            f"differs; restore a copy of both, or {_AGAIN}"
        )
    try:
        _KEPT[table.sha256] = TwinArrays(**{k: np.array(v) for k, v in load(content).items()})
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{path} does not hold the arrays of a twin: {error}; {_AGAIN}") from None
