"""`TwinOptics`: the light of a calibrated bench and how its numbers are encoded and decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from ...instruments import InputError
from ..bench.checksum import with_checks
from ..bench.config import ChecksTable
from ..mock.noise import device_gaussian
from ..optics.layouts import LAYOUTS, Layout
from ..optics.layouts.base import EncodingTable
from ..optics.model import OpticalModel
from ..optics.parameters import Optics, Response, ResponseCurve
from ..profile import OpticsProfile
from ..tiling import Geometry
from ..timing import ShotTiming
from .arrays import TwinArrays, arrays_of

_NODES = 49  # grey levels between which a measured curve is interpolated, as in calibration


@dataclass(frozen=True)
class TwinSlots:
    """The slots of a layout, as far as products need them; there are no pixels.

    Parameters
    ----------
    name : of the layout
    slots, length, grid, shares_input : as of `Layout`
    encoding : of the numbers
    pixels : of each slot, over their mean, [slots]
    """

    name: str
    slots: int
    length: int
    grid: tuple[int, int]
    shares_input: bool
    encoding: EncodingTable
    pixels: np.ndarray
    converter_step_e: float = 0.0  # read noise holds the converter's steps

    def rows_of(self, role: str) -> int:
        """Return the number of rows of grey levels that a frame takes."""
        return 1 if role == "input" and self.shares_input else self.slots

    def read_pixels(self) -> np.ndarray:
        """Return the pixels of each slot, over their mean."""
        return self.pixels


@dataclass(frozen=True)
class TwinOptics:
    """A twin's optics.

    Parameters
    ----------
    model : that encodes and decodes, as the bench does: calibrated, or without corrections
    geometry, timing : of the bench
    pairs_e : electrons of each element, which differ from the measured ones by the error of
        calibration, float64 [slots, length]
    response : measured leaks and offset
    light : normalised intensity of each grey level, by role; differs likewise
    reach : input light that each element sees of the others, [length, length]; None without
    kernel : crosstalk between slots, [3, 3]; None without
    """

    model: OpticalModel
    geometry: Geometry
    timing: ShotTiming
    pairs_e: np.ndarray
    response: Response
    light: dict[str, np.ndarray]
    reach: np.ndarray | None
    kernel: np.ndarray | None

    @classmethod
    def of(cls, profile: OpticsProfile) -> TwinOptics:
        """Return the optics of a profile with a table `[twin]`.

        Raises
        ------
        InputError : when the arrays cannot be read, or do not fit the profile
        """
        assert profile.twin is not None and profile.photons_full_scale is not None
        arrays, full_e = arrays_of(profile.twin), profile.photons_full_scale
        _check(profile, arrays)
        measured = _model(profile, arrays, full_e)
        model = measured if profile.corrections == "on" else measured.uncorrected()
        errors = device_gaussian(profile.device_seed, "twin gains", arrays.pairs.shape)
        light = {role: _erring(curve, profile, role) for role, curve in measured.curves.items()}
        between = float(arrays.between[0])
        return cls(
            model,
            _geometry(model),
            ShotTiming.of(profile),
            measured.response.pairs_e * (1 + (profile.gain_error or 0.0) * errors),
            measured.response,
            light,
            _reach(between, tuple(arrays.block)) if between else None,
            arrays.kernel.astype(np.float64) if arrays.kernel.any() else None,
        )


def _check(profile: OpticsProfile, arrays: TwinArrays) -> None:
    """Refuse a profile whose constants were changed so that they do not fit its arrays."""
    slots, length = arrays.pairs.shape
    tables = len(arrays.input_table), len(arrays.weight_table)
    for key, held in (("rows", max(slots, 2)), ("length", length)):
        stated = getattr(profile, key)
        if stated != held:
            raise InputError(
                f"profile {profile.name!r}: {key} = {stated}, but the arrays of the twin hold "
                f"{held}; restore the value"
            )
    if (arrays.inverse.size and arrays.inverse.shape != (slots, slots)) or min(tables) < 2:
        raise InputError(f"profile {profile.name!r}: the arrays of the twin do not fit each other")


def _model(profile: OpticsProfile, arrays: TwinArrays, full_e: float) -> OpticalModel:
    assert profile.twin is not None
    slots, length = arrays.pairs.shape
    kind = LAYOUTS[profile.twin.layout]
    rows, columns = (int(size) for size in arrays.grid)
    layout = TwinSlots(
        kind.name,
        slots,
        length,
        (rows, columns),
        kind.shares_input,
        EncodingTable(kind=profile.encoding),
        arrays.pixels,
    )
    tables = {"input": arrays.input_table, "weight": arrays.weight_table}
    optics = Optics(
        tables=tables,
        input_map=np.eye(2, 3),
        camera_map=np.eye(2, 3),
        sensor_shape=(1, 1),
        dark_counts=0.0,
        gain_e_per_count=1.0,
        read_noise_e=profile.read_noise_e or 0.0,
        dark_e=profile.dark_e or 0.0,
    )
    response = Response(
        arrays.pairs.astype(np.float64) * full_e,
        arrays.input_leak,
        arrays.weight_leak,
        arrays.offset * full_e,
        arrays.inverse if arrays.inverse.size else None,
    )
    curves = {role: ResponseCurve(table) for role, table in tables.items()}
    return OpticalModel(cast(Layout, layout), optics, response, curves)


def _geometry(model: OpticalModel) -> Geometry:
    """Return the capacity of a frame, with the checksums that a bench file has by default."""
    layout, rails = model.layout, 1 if model.encoding == "offset" else 2
    plain = Geometry(layout.slots, layout.length, is_divisible=not layout.shares_input, parts=rails)
    return with_checks(plain, ChecksTable(), layout, "twin") if model.is_corrected else plain


def _erring(curve: ResponseCurve, profile: OpticsProfile, role: str) -> np.ndarray:
    """Return the light of each grey level, off the measured curve by the error of calibration."""
    count = min(_NODES, len(curve.light))
    nodes = np.linspace(0, len(curve.light) - 1, count)
    error = (profile.curve_error or 0.0) * device_gaussian(
        profile.device_seed, f"twin {role} curve", (count,)
    )
    off = np.interp(np.arange(len(curve.light)), nodes, error)
    off[[curve.darkest, curve.brightest]] = 0.0
    return np.asarray(np.clip(curve.light + off, 0.0, 1.0))


def _reach(between: float, block: tuple[int, ...]) -> np.ndarray:
    """Return the input light [to, from] that elements see of their neighbours in a block."""
    rows, columns = np.divmod(np.arange(block[0] * block[1]), block[1])
    apart = np.abs(rows[:, None] - rows) + np.abs(columns[:, None] - columns)
    neighbours = (apart == 1).astype(np.float64)
    return neighbours * between / max(neighbours.sum(axis=1).mean(), 1.0)
