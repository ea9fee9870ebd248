"""`align`: measures the registration of the modulators and the camera optically.

`align_live` measures it repeatedly while an operator adjusts the bench.
Imaged benches show bright squares (`spot_grid`), line and single-pixel benches patches under
gratings (`patches`). This module checks the fits, and derives figures and advice from them.
`calibrate` measures response curves, gains and additivity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...instruments import BadFit, UnexpectedIntensity
from ..bench.bench import Bench
from ..bench.binding import begin_calibration
from ..optics import registration
from ..optics.calibration_file import Figure, Plot, Step, path_of
from ..optics.layouts import ImagedLayout, LineLayout, SinglePixelLayout
from . import fiducials
from .exposure_search import find_exposure
from .fits import EDGE_PX, AlignmentFits, Fitted, inside_of, scale_of
from .patches import (
    RowFinder,
    find_line,
    find_with_photodiode,
    fits_of,
    line_patches,
    locate,
    photodiode_patches,
    tracked,
)
from .probe import Probe, make_probe, opened
from .repeatability import Progress, RepeatedExposure, check_modulation
from .spot_grid import Squares, composed, find_squares

_EXPECTED_SHOTS = {ImagedLayout.name: 42, LineLayout.name: 150, SinglePixelLayout.name: 650}
_LEAST_KEPT = 0.6  # of the points that should be seen
_REFRESHED = 2  # background images through dark weights that each live alignment takes again
_WORTH_NOTING = 0.03  # fraction of points that are missing
_SHIFT_PX, _TURN_DEG, _MAGNIFY = 1.0, 0.05, 2e-3  # least deviation worth an adjustment


@dataclass(frozen=True)
class Alignment(AlignmentFits):
    """The registration of a bench's planes.

    Parameters
    ----------
    input_map : weight pixel -> input pixel, 2 x 3
    camera_map : weight pixel -> camera pixel, 2 x 3; None in the single-pixel layout
    spot_px : width of a line's spots in camera columns; None in other layouts
    parts : the fits by role, with the detected points
    input_px : uncertainty of the input map, in input pixels
    figures : with uncertainties
    advice : adjustments with their size, and obstacles
    cost : shots, seconds of the bench, joules of light, seconds of computing
    """

    figures: tuple[Figure, ...]
    advice: tuple[str, ...]
    cost: dict[str, float]

    def figure(self, name: str) -> float:
        """Return the value of a figure."""
        return next(figure.value for figure in self.figures if figure.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        return {
            "schema": 1,
            "input_map": self.input_map.tolist(),
            "camera_map": None if self.camera_map is None else self.camera_map.tolist(),
            "figures": [asdict(figure) for figure in self.figures],
            "advice": list(self.advice),
            "cost": self.cost,
        }

    def step(self) -> Step:
        """Return the step that a calibration stores: maps, detected points and their residuals."""
        arrays = {"input_map": self.input_map}
        if self.camera_map is not None:
            arrays["camera_map"] = self.camera_map
        plots = []
        for role, part in self.parts.items():
            kept = part.fit.kept
            arrays[f"{role}_points"] = part.from_px[kept]
            arrays[f"{role}_found"] = part.to_px[kept]
            arrays[f"{role}_residuals"] = part.residuals_px[kept].T.copy()
            arrays[f"{role}_columns"] = part.from_px[kept, 1].copy()
            plane = "camera" if role == "weight" or self.spot_px is None else "input"
            plots.append(
                Plot(
                    f"Residuals of the {role} modulator's points (rows, columns)",
                    "points",
                    f"{role}_residuals",
                    f"{role}_columns",
                    "column of the point",
                    f"{plane} pixels",
                )
            )
        return Step(
            name="align",
            figures=self.figures,
            arrays=arrays,
            plots=tuple(plots),
            shots=int(self.cost["shots"]),
            seconds=self.cost["bench_s"],
            computing_s=self.cost["computing_s"],
            light_j=self.cost["light_j"],
            notes=self.advice,
        )


def align(bench: Bench, progress: Progress | None = None) -> Alignment:
    """Measure the registration of the modulators and the camera.

    The source emits at most `align_power_w`. A closed bench is opened and closed again; an open one
    is left with its light off.

    Parameters
    ----------
    progress : called with the action, the shots done and the shots expected

    Raises
    ------
    UnexpectedIntensity, Saturated : when there is no usable light, with the reason
    BadFit : when no map describes the detected points
    """
    with _probe_with_light(bench) as probe:
        exposures = RepeatedExposure(probe, progress, _EXPECTED_SHOTS[bench.file.layout])
        probe.fill()
        exposures.report("searching for light")
        exposure_s = find_exposure(probe)
        bright = check_modulation(exposures, exposure_s)
        fits = _find_maps(exposures, exposure_s, bright)
        return _evaluated(bench, exposures, fits, bright)


def _find_maps(exposures: RepeatedExposure, exposure_s: float, bright: np.ndarray) -> AlignmentFits:
    layout = exposures.probe.bench.file.layout
    if layout == "imaged":
        return find_squares(exposures, exposure_s)
    if layout == "line":
        return find_line(exposures, exposure_s, bright)
    return find_with_photodiode(exposures, exposure_s)


def align_live(bench: Bench, on_lost: Callable[[str], None]) -> Iterator[Alignment]:
    """Yield alignments of a few shots each, until the iterator is closed.

    Parameters
    ----------
    on_lost : called with the reason while no alignment is found

    Raises
    ------
    UnexpectedIntensity, Saturated : when there is no light at the start
    """
    with _probe_with_light(bench) as probe:
        while True:
            try:
                probe.fill()
                exposure_s = find_exposure(probe)
                exposures = RepeatedExposure(probe)
                bright = check_modulation(exposures, exposure_s)
                for fits in _alignments(exposures, exposure_s, bright):
                    yield _evaluated(bench, exposures, fits, None)
            except UnexpectedIntensity as error:  # an adjustment may lose the light
                on_lost(str(error))


def _alignments(
    exposures: RepeatedExposure, exposure_s: float, bright: np.ndarray
) -> Iterator[AlignmentFits]:
    """Find the maps once, then track them while they move by small steps.

    Raises
    ------
    UnexpectedIntensity : when a step is too large, or the light is lost
    """
    layout = exposures.probe.bench.file.layout
    if layout == "imaged":
        squares = {role: Squares(exposures, exposure_s, role) for role in ("weight", "input")}
        last = {role: each.coarse() for role, each in squares.items()}
        while True:
            fits = {role: each.track(*last[role]) for role, each in squares.items()}
            last = {role: (part.matrix, last[role][1]) for role, part in fits.items()}
            yield composed(fits)
    rows = row_fit = None
    if layout == "line":
        rows = RowFinder(exposures, exposure_s, bright)
        row_fit = rows.find()
        patches = line_patches(exposures, exposure_s, rows, row_fit)
    else:
        patches = photodiode_patches(exposures, exposure_s)
    patches.sets = patches.sets[: 1 if layout == "line" else 6]
    inputs = locate(patches, list(range(len(patches.sets))))
    patches.darks, patches.takes = {}, 1
    while True:
        for pattern in list(patches.darks)[:_REFRESHED]:  # the oldest: the leak moves as well
            del patches.darks[pattern]
        inputs = tracked(patches, inputs.matrix)
        if rows is not None and row_fit is not None:
            row_fit = rows.track(row_fit)
        yield fits_of(inputs, rows, row_fit)


@contextmanager
def _probe_with_light(bench: Bench) -> Iterator[Probe]:
    """Return a probe with the light on at the alignment power; switch the light off afterwards."""
    file = bench.file
    with opened(bench):
        power_w = min(file.align_power_w, file.power_w, file.limits.power_w[1])
        probe = make_probe(bench, "align", power_w)
        probe.light(True)
        yield probe


def _evaluated(
    bench: Bench, exposures: RepeatedExposure, fits: AlignmentFits, bright: np.ndarray | None
) -> Alignment:
    """Check the fits, and return the alignment with figures and advice.

    Parameters
    ----------
    bright : image with both modulators bright; None checks nothing

    Raises
    ------
    BadFit : when a fit is bad
    """
    usable = _Usable(bench, fits)
    notes = [] if bright is None else _check_fits(fits, usable)
    if bright is not None and bench.file.layout == "imaged":
        notes += _dark_lines(bench, fits, usable, bright)
    if exposures.rejected:
        notes.append(
            f"{exposures.rejected} of {exposures.probe.shots} exposures disagreed with their "
            "repeats and were rejected: something moved in the beam"
        )
    figures, advice = _figures(bench, fits, usable.fraction)
    cost = exposures.probe.cost()
    cost |= {"shots": float(cost["shots"]), "bench_s": cost.pop("seconds")}
    return Alignment(**vars(fits), figures=figures, advice=(*advice, *notes), cost=cost)


@dataclass
class _Usable:
    """Which points camera and input modulator see, according to the maps."""

    bench: Bench
    fits: AlignmentFits

    @property
    def fraction(self) -> float:
        """The fraction of the weight modulator's pixels."""
        half = -0.5  # a pixel extends half a pixel beyond its centre
        return float(self.of_weight(_spread(self.bench.weight.shape), half, (half, half)).mean())

    def of_weight(
        self, points: np.ndarray, on_input_px: float, on_camera_px: tuple[float, float]
    ) -> np.ndarray:
        """Return which weight pixels [n, 2] have these margins on both planes."""
        seen = inside_of(
            registration.apply(self.fits.input_map, points),
            self.bench.input.shape,
            (on_input_px,) * 2,
        )
        if self.fits.camera_map is None:
            return seen
        on_camera = registration.apply(self.fits.camera_map, points)
        return seen & inside_of(on_camera, self.bench.camera.sensor_shape, on_camera_px)

    def expected(self, role: str, part: Fitted) -> np.ndarray:
        """Return which of the shown points should be detected: bool [m]."""
        layout, shown, on_camera_px = self.bench.file.layout, part.shown, part.margin_px
        room = 1.5 * part.margin_px[0]
        if role == "weight" or layout != "imaged":  # points of the weight modulator
            if role == "input":
                on_camera_px = (4 * on_camera_px[0] + EDGE_PX if layout == "line" else 0.0, 0.0)
            elif layout == "line":  # points are rows
                shown = shown + np.array([0.0, (self.bench.weight.shape[1] - 1) / 2])
            return self.of_weight(shown, room, on_camera_px)
        on_weight = registration.back(self.fits.input_map, shown)
        seen = inside_of(on_weight, self.bench.weight.shape, (room, room))
        on_camera = registration.apply(part.matrix, shown)
        return seen & inside_of(on_camera, self.bench.camera.sensor_shape, on_camera_px)


def _spread(shape: tuple[int, int]) -> np.ndarray:
    axes = [np.linspace(0, size - 1, 41) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _check_fits(fits: AlignmentFits, usable: _Usable) -> list[str]:
    notes = []
    for role, part in fits.parts.items():
        if part.fit.residual_px > part.bad_px:
            raise BadFit(
                f"the {role} modulator's points are {part.fit.residual_px:.2g} pixels off the best "
                f"map, more than {part.bad_px:g}: check that all is in focus, that nothing moves, "
                "and that no lens distorts so much"
            )
        expected = usable.expected(role, part)
        missing = expected & ~part.is_found
        if not expected.any():
            raise BadFit(
                f"no point of the {role} modulator is expected on the detector: align the bench by "
                "hand until the modulators overlap"
            )
        fraction = 1 - float(missing.sum() / expected.sum())
        where = _where(part.shown[missing])
        if fraction < _LEAST_KEPT:
            raise BadFit(
                f"only {fraction:.0%} of the expected points of the {role} modulator fit one map; "
                f"those at {where} do not: check whether something stands in the beam, or a part "
                "of the modulator is dark"
            )
        if 1 - fraction > _WORTH_NOTING:
            notes.append(
                f"{int(missing.sum())} of {int(expected.sum())} points of the {role} modulator do "
                f"not fit, at {where}: something stands in the beam there, or a part of the "
                "modulator is dark"
            )
    for name, matrix in (("input modulator", fits.input_map), ("camera", fits.camera_map)):
        if matrix is None:
            continue
        is_mirrored = np.linalg.det(matrix[:, :2]) < 0 if matrix[1, :2].any() else matrix[0, 0] < 0
        if is_mirrored:
            notes.append(
                f"the {name} sees the weight modulator mirrored; the map corrects for that"
            )
    return notes


def _where(points: np.ndarray) -> str:
    if not len(points):
        return "no place"
    low, high = np.percentile(points, [5, 95], axis=0)
    rows = f"rows {low[0]:.0f} to {high[0]:.0f}"
    return rows if not points[:, 1].any() else f"{rows}, columns {low[1]:.0f} to {high[1]:.0f}"


def _dark_lines(
    bench: Bench, fits: AlignmentFits, usable: _Usable, bright: np.ndarray
) -> list[str]:
    """Return notes on rows and columns that stay dark while both modulators are bright."""
    notes = []
    known: list[int] = []  # dark rows of the weight modulator; the input is not to blame for them
    scale = scale_of(fits.parts["weight"].matrix)
    room = (EDGE_PX + 4 * fits.parts["weight"].blur_px) / scale  # no edge dims the light there
    for role, part in fits.parts.items():
        shape = bench.modulators[role].shape
        for axis, name in enumerate(("row", "column")):
            along = np.linspace(0, shape[1 - axis] - 1, 400)
            lines = np.arange(shape[axis])
            points = np.stack(np.meshgrid(lines, along, indexing="ij"), axis=-1)
            if axis:
                points = points[..., ::-1]
            place = registration.apply(part.matrix, points)
            on_weight = points if role == "weight" else registration.back(fits.input_map, points)
            inside = usable.of_weight(on_weight, room, (room * scale,) * 2)
            inside &= inside_of(on_weight, bench.weight.shape, (room, room))
            for line in known:
                inside &= np.abs(on_weight[..., 0] - line) > room
            y, x = np.moveaxis(np.rint(np.where(inside[..., None], place, 0)).astype(int), -1, 0)
            light = np.where(inside, bright[y, x], 0.0)
            enough = inside.sum(axis=1) > len(along) // 4
            profile = np.full(len(lines), np.nan)
            profile[enough] = light.sum(axis=1)[enough] / inside.sum(axis=1)[enough]
            dark = fiducials.dark_lines(profile)
            if role == "weight" and axis == 0:
                known = dark
            if dark:
                listed = ", ".join(map(str, dark[:8])) + (", ..." if len(dark) > 8 else "")
                notes.append(
                    f"the {role} modulator's {name}s {listed} stay dark (to about a pixel): do not "
                    "place elements there"
                )
    return notes


def _figures(
    bench: Bench, fits: AlignmentFits, usable_fraction: float
) -> tuple[tuple[Figure, ...], list[str]]:
    figures: list[Figure] = []
    advice: list[str] = []
    spread = fits.input_px / np.sqrt(3)  # of a mean; input_px belongs to three terms
    shape, target = bench.weight.shape, bench.input.shape
    pose = _pose(fits.input_map, shape, target)
    reach = float(np.sqrt((np.square(_spread(shape) - (np.array(shape) - 1) / 2)).mean() * 2))
    figures += _pose_figures("input", pose, spread, reach)
    nominal = 1.0 if shape == target else min(np.divide(target, shape))
    advice += _adjustments("input modulator", pose, nominal, 1.0)
    figures.append(Figure("input_map_px", fits.input_px, None, "px", "uncertainty of the map"))
    if fits.camera_map is not None:
        weight = fits.parts["weight"]
        sensor = bench.camera.sensor_shape
        if bench.file.layout == "line":
            scale, offset = fits.camera_map[0, 0], fits.camera_map[0, 2]
            shift = scale * (shape[0] - 1) / 2 + offset - (sensor[0] - 1) / 2
            error = weight.fit.uncertainty_px
            figures += [
                Figure("camera_shift_rows_px", float(shift), error, "px", "of the middle row"),
                Figure("camera_scale", float(abs(scale)), error / shape[0] * 3.5, ""),
                Figure("spot_px", float(fits.spot_px or 0), 1.0, "px", "width of a spot"),
            ]
            pose = (shift, 0.0, abs(scale), 0.0)
            fitting = sensor[0] / shape[0]
        else:
            pose = _pose(fits.camera_map, shape, sensor)
            error = weight.fit.uncertainty_px / np.sqrt(3)
            figures += _pose_figures("camera", pose, error, reach)
            figures.append(Figure("blur_px", weight.blur_px, None, "px", "of a point, rms"))
            fitting = min(np.divide(sensor, shape))
        figures.append(
            Figure("camera_map_px", weight.fit.uncertainty_px, None, "px", "uncertainty of the map")
        )
        advice += _adjustments("camera", pose, min(pose[2], fitting), -1.0)
    for role, each in fits.parts.items():
        figures += [
            Figure(f"{role}_residual_px", each.fit.residual_px, None, "px", "of a point"),
            Figure(f"{role}_noise_px", each.noise_px, None, "px", "of a point, expected"),
            Figure(f"{role}_points", float(each.fit.kept.sum()), None, "", "that fit"),
        ]
    figures.append(Figure("usable_share", usable_fraction, None, "", "of the weight modulator"))
    if usable_fraction < 0.98:
        advice.append(
            f"{usable_fraction:.0%} of the weight modulator can be used: the rest misses the "
            "detector or the input modulator"
        )
    return tuple(figures), advice


def _pose(
    matrix: np.ndarray, shape: tuple[int, int], target: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return shift (rows, columns), scale and rotation in degrees, about the centres."""
    middle = (np.array(shape) - 1) / 2
    shift = registration.apply(matrix, middle) - (np.array(target) - 1) / 2
    slopes = registration.scales(matrix, middle)
    sign = 1.0 if np.linalg.det(slopes) > 0 else -1.0
    angle = np.rad2deg(
        np.arctan2(slopes[1, 0] - sign * slopes[0, 1], slopes[0, 0] + sign * slopes[1, 1])
    )
    scale = np.sqrt(abs(np.linalg.det(slopes)))
    return float(shift[0]), float(shift[1]), float(scale), float(angle)


def _pose_figures(
    name: str, pose: tuple[float, float, float, float], error_px: float, reach_px: float
) -> list[Figure]:
    where = "of the weight modulator's centre"
    turn = error_px / reach_px * np.sqrt(2)
    return [
        Figure(f"{name}_shift_rows_px", pose[0], float(error_px), "px", where),
        Figure(f"{name}_shift_columns_px", pose[1], float(error_px), "px", where),
        Figure(f"{name}_scale", pose[2], float(turn), "", f"{name} pixels per weight pixel"),
        Figure(f"{name}_rotation_deg", pose[3], float(np.rad2deg(turn)), "deg", "against rows"),
    ]


def _adjustments(
    name: str, pose: tuple[float, float, float, float], nominal: float, sign: float
) -> list[str]:
    """Return the adjustments for an operator; the map corrects the rest."""
    adjustments = []
    rows, columns, scale, angle = pose
    if max(abs(rows), abs(columns)) > _SHIFT_PX:
        what = "the input modulator's image" if sign > 0 else "the image on the camera"
        adjustments.append(
            f"move {what} by {sign * rows:+z.1f} rows (towards higher row numbers is +) and "
            f"{sign * columns:+z.1f} columns, in pixels of the {name}"
        )
    if abs(angle) > _TURN_DEG:
        adjustments.append(
            f"turn the {name} by {-sign * angle:+.2f} degrees (from rows to columns is +)"
        )
    if abs(scale / nominal - 1) > _MAGNIFY:
        adjustments.append(
            f"make the image of the weight modulator on the {name} {nominal / scale:.4f} times as "
            "large"
        )
    return adjustments


def store(bench: Bench, alignment: Alignment) -> Path:
    """Start a new calibration file of an open bench with its alignment; it replaces an older one.

    Returns
    -------
    path : of the calibration file

    Raises
    ------
    InputError : for a bench whose file says calibration = "ground-truth"
    """
    path = path_of(bench.file.calibration, bench.path)
    calibration = begin_calibration(bench)
    calibration.add(alignment.step())
    calibration.write(path)
    return path
