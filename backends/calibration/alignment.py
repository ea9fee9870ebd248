"""`align`: how the modulators lie on each other and on the camera, found by light alone.

Imaged benches show bright squares (`squares`), line and block benches patches under stripes
(`patches`); here fits are judged, and turned into figures and advice. Not here: grey levels, gains,
and how light adds (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...instruments import BadFit
from ..bench.bench import Bench
from ..bench.binding import begin_calibration
from ..optics import registration
from ..optics.calibration_file import Figure, Plot, Step, path_of
from . import fiducials
from .fits import EDGE_PX, AlignmentFits, Fitted, inside_of, modulator_of, scale_of
from .patches import find_block, find_line
from .probe import Probe
from .repeatability import RepeatedExposure, Tell, check_answers
from .spot_grid import find_squares

_LEAST_KEPT = 0.6  # of the points that should be seen
_WORTH_SAYING = 0.03  # share of points that are missing
_SHIFT_PX, _TURN_DEG, _MAGNIFY = 1.0, 0.05, 2e-3  # what is worth a turn of a screw


@dataclass(frozen=True)
class Alignment:
    """How a bench's planes lie on each other.

    Parameters
    ----------
    input_map : weight pixel -> input pixel, see `bench.maps`
    camera_map : weight pixel -> camera pixel; in the line layout the camera row of a weight row and
        the middle column of the spots; None in the block layout
    spot_px : width of a line's spots in camera columns, else None
    figures : with uncertainties
    advice : what to move and by how much, what stands in the way
    cost : shots, seconds of the bench, joules of light, seconds of computing
    parts : the fits by name, with the points found
    """

    input_map: np.ndarray
    camera_map: np.ndarray | None
    spot_px: float | None
    figures: tuple[Figure, ...]
    advice: tuple[str, ...]
    cost: dict[str, float]
    parts: dict[str, Fitted]

    def figure(self, name: str) -> float:
        """Return the value of a figure."""
        return next(figure.value for figure in self.figures if figure.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "schema": 1,
            "input_map": self.input_map.tolist(),
            "camera_map": None if self.camera_map is None else self.camera_map.tolist(),
            "figures": [asdict(figure) for figure in self.figures],
            "advice": list(self.advice),
            "cost": self.cost,
        }

    def step(self) -> Step:
        """Return what a calibration stores: maps, the points found, and how far they lie off."""
        arrays = {"input_map": self.input_map}
        if self.camera_map is not None:
            arrays["camera_map"] = self.camera_map
        plots = []
        for role, part in self.parts.items():
            kept = part.fit.kept
            arrays[f"{role}_points"] = part.here[kept]
            arrays[f"{role}_found"] = part.there[kept]
            arrays[f"{role}_residuals"] = part.residuals_px[kept].T.copy()
            arrays[f"{role}_columns"] = part.here[kept, 1].copy()
            plane = "camera" if role == "weight" or self.spot_px is None else "input"
            plots.append(
                Plot(
                    f"Points of the {role} modulator off their map (rows, columns)",
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
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            notes=self.advice,
        )


def align(bench: Bench, tell: Tell | None = None) -> Alignment:
    """Find how the modulators lie on each other and on the camera.

    The source gives at most `align_power_w`. The bench is opened where it is not, and left with its
    light off; it is closed where it was opened.

    Parameters
    ----------
    tell : what, done, total: hears how far it has come

    Raises
    ------
    WrongLight, Saturated : why there is no light that says anything
    BadFit : when points were found and no map describes them
    """
    with lit(bench) as probe:
        expected = {"imaged": 42, "line": 150, "single-pixel": 650}[bench.file.layout]
        watch = RepeatedExposure(probe, tell, expected)
        probe.fill()
        watch.say("looking for light")
        exposure_s = probe.find_exposure()
        bright = check_answers(watch, exposure_s)
        found = _look(watch, exposure_s, bright)
        return concluded(bench, watch, found, bright)


def _look(watch: RepeatedExposure, exposure_s: float, bright: np.ndarray) -> AlignmentFits:
    layout = watch.probe.bench.file.layout
    if layout == "imaged":
        return find_squares(watch, exposure_s)
    if layout == "line":
        return find_line(watch, exposure_s, bright)
    return find_block(watch, exposure_s)


@contextmanager
def lit(bench: Bench) -> Iterator[Probe]:
    """Return a probe with the light on, at a power at which people may be near; then light off."""
    was_open = bench.source.is_connected
    if not was_open:
        bench.open()
    try:
        file = bench.file
        power_w = min(file.align_power_w, file.power_w, file.limits.power_w[1])
        probe = Probe(bench, "align", power_w)
        probe.light(True)
        yield probe
    finally:
        if was_open:
            bench.make_safe()
            bench.source.set_power(bench.file.power_w)
        else:
            bench.close()


def concluded(
    bench: Bench, watch: RepeatedExposure, found: AlignmentFits, bright: np.ndarray | None
) -> Alignment:
    """Judge the fits; raise where they are bad, else give figures and advice.

    Parameters
    ----------
    bright : image with all bright; None judges nothing
    """
    usable = _Usable(bench, found)
    notes = [] if bright is None else _judged(found, usable)
    if bright is not None and bench.file.layout == "imaged":
        notes += _dark_lines(bench, found, usable, bright)
    if watch.changed:
        notes.append(
            f"{watch.changed} of {watch.probe.shots} exposures contradicted their repeats and were "
            "dropped: something moved in the beam"
        )
    figures, advice = _figures(bench, found, usable.share)
    probe = watch.probe
    cost = {
        "shots": float(probe.shots),
        "bench_s": probe.seconds,
        "light_j": probe.light_j,
        "computing_s": probe.computing_s,
    }
    return Alignment(
        found.input_map,
        found.camera_map,
        found.spot_px,
        figures,
        (*advice, *notes),
        cost,
        found.parts,
    )


@dataclass
class _Usable:
    """Which points are seen by camera and input modulator, as the maps say."""

    bench: Bench
    found: AlignmentFits

    @property
    def share(self) -> float:
        """The share of the weight modulator's pixels."""
        half = -0.5  # a pixel reaches so far beyond its centre
        return float(self.of_weight(_spread(self.bench.weight.shape), half, (half, half)).mean())

    def of_weight(
        self, points: np.ndarray, on_input_px: float, on_camera_px: tuple[float, float]
    ) -> np.ndarray:
        """Say which weight pixels [n, 2] have so much room around them on both."""
        seen = inside_of(
            registration.apply(self.found.input_map, points),
            self.bench.input.shape,
            (on_input_px,) * 2,
        )
        if self.found.camera_map is None:
            return seen
        on_camera = registration.apply(self.found.camera_map, points)
        return seen & inside_of(on_camera, self.bench.camera.sensor_shape, on_camera_px)

    def expected(self, role: str, part: Fitted) -> np.ndarray:
        """Say which of the points shown should have been seen: bool [m]."""
        layout = self.bench.file.layout
        if role == "weight" and layout == "line":
            middles = part.shown + np.array([0.0, (self.bench.weight.shape[1] - 1) / 2])
            return self.of_weight(middles, 1.5 * part.margin_px[0], part.margin_px)
        if role == "weight":
            room = 1.5 * part.margin_px[0]
            return self.of_weight(part.shown, room, part.margin_px)
        if layout != "imaged":
            room = part.margin_px[0]
            on_camera_px = (4 * room + EDGE_PX if layout == "line" else 0.0, 0.0)
            return self.of_weight(part.shown, 1.5 * room, on_camera_px)
        on_weight = registration.back(self.found.input_map, part.shown)
        room = 1.5 * part.margin_px[0]
        seen = inside_of(on_weight, self.bench.weight.shape, (room, room))
        on_camera = registration.apply(part.matrix, part.shown)
        return seen & inside_of(on_camera, self.bench.camera.sensor_shape, part.margin_px)


def _spread(shape: tuple[int, int]) -> np.ndarray:
    axes = [np.linspace(0, size - 1, 41) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _judged(found: AlignmentFits, usable: _Usable) -> list[str]:
    notes = []
    for role, part in found.parts.items():
        if part.fit.residual_px > part.bad_px:
            raise BadFit(
                f"the {role} modulator's points lie {part.fit.residual_px:.2g} pixels off the map "
                f"that fits them best, more than {part.bad_px:g}: see that all is in focus, that "
                "nothing moves, and that no lens distorts so much"
            )
        expected = usable.expected(role, part)
        missing = expected & ~part.found
        if not expected.any():
            raise BadFit(
                f"no point of the {role} modulator should be seen as it lies: align the bench by "
                "hand until the modulators cover each other"
            )
        share = 1 - float(missing.sum() / expected.sum())
        where = _where(part.shown[missing])
        if share < _LEAST_KEPT:
            raise BadFit(
                f"only {share:.0%} of the points of the {role} modulator that should be seen fit "
                f"one map; those at {where} do not: something stands in the beam, or a part of "
                "the modulator is dark"
            )
        if 1 - share > _WORTH_SAYING:
            notes.append(
                f"{int(missing.sum())} of {int(expected.sum())} points of the {role} modulator do "
                f"not fit, at {where} of it: something stands in the beam there, or a part of the "
                "modulator is dark"
            )
    for name, matrix in (("input modulator", found.input_map), ("camera", found.camera_map)):
        if matrix is None:
            continue
        is_mirrored = np.linalg.det(matrix[:, :2]) < 0 if matrix[1, :2].any() else matrix[0, 0] < 0
        if is_mirrored:
            notes.append(
                f"the {name} sees the weight modulator mirrored; the map takes care of that"
            )
    return notes


def _where(points: np.ndarray) -> str:
    if not len(points):
        return "no place"
    low, high = np.percentile(points, [5, 95], axis=0)
    rows = f"rows {low[0]:.0f} to {high[0]:.0f}"
    return rows if not points[:, 1].any() else f"{rows}, columns {low[1]:.0f} to {high[1]:.0f}"


def _dark_lines(
    bench: Bench, found: AlignmentFits, usable: _Usable, bright: np.ndarray
) -> list[str]:
    """Name rows and columns of either modulator that stay dark although all is bright."""
    notes = []
    known: list[int] = []  # rows of the weight modulator, whose shadow is not the input's
    scale = scale_of(found.parts["weight"].matrix)
    room = (EDGE_PX + 4 * found.parts["weight"].blur_px) / scale  # there an edge dims no light
    for role, part in found.parts.items():
        shape = modulator_of(bench, role).shape
        for axis, name in enumerate(("row", "column")):
            along = np.linspace(0, shape[1 - axis] - 1, 400)
            lines = np.arange(shape[axis])
            points = np.stack(np.meshgrid(lines, along, indexing="ij"), axis=-1)
            if axis:
                points = points[..., ::-1]
            place = registration.apply(part.matrix, points)
            on_weight = points if role == "weight" else registration.back(found.input_map, points)
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
                    f"the {role} modulator's {name}s {listed} stay dark (found to about a pixel): "
                    "keep numbers off them"
                )
    return notes


def _figures(
    bench: Bench, found: AlignmentFits, usable_share: float
) -> tuple[tuple[Figure, ...], list[str]]:
    figures: list[Figure] = []
    advice: list[str] = []
    spread = found.input_px / np.sqrt(3)  # of a mean; input_px is that of three terms
    shape, target = bench.weight.shape, bench.input.shape
    lies = _lies(found.input_map, shape, target)
    reach = float(np.sqrt((np.square(_spread(shape) - (np.array(shape) - 1) / 2)).mean() * 2))
    figures += _lie_figures("input", lies, spread, reach, "of the weight modulator's middle")
    nominal = 1.0 if shape == target else min(np.divide(target, shape))
    advice += _moves("input modulator", lies, nominal, 1.0)
    figures.append(Figure("input_map_px", found.input_px, None, "px", "uncertainty of the map"))
    if found.camera_map is not None:
        weight = found.parts["weight"]
        sensor = bench.camera.sensor_shape
        if bench.file.layout == "line":
            scale, offset = found.camera_map[0, 0], found.camera_map[0, 2]
            shift = scale * (shape[0] - 1) / 2 + offset - (sensor[0] - 1) / 2
            error = weight.fit.uncertainty_px
            figures += [
                Figure("camera_shift_rows_px", float(shift), error, "px", "of the middle row"),
                Figure("camera_scale", float(abs(scale)), error / shape[0] * 3.5, ""),
                Figure("spot_px", float(found.spot_px or 0), 1.0, "px", "width of a spot"),
            ]
            lies = (shift, 0.0, abs(scale), 0.0)
            fits = sensor[0] / shape[0]
        else:
            lies = _lies(found.camera_map, shape, sensor)
            error = weight.fit.uncertainty_px / np.sqrt(3)
            figures += _lie_figures(
                "camera", lies, error, reach, "of the weight modulator's middle"
            )
            figures.append(Figure("blur_px", weight.blur_px, None, "px", "of a point, rms"))
            fits = min(np.divide(sensor, shape))
        figures.append(
            Figure("camera_map_px", weight.fit.uncertainty_px, None, "px", "uncertainty of the map")
        )
        advice += _moves("camera", lies, min(lies[2], fits), -1.0)
    for role, each in found.parts.items():
        figures += [
            Figure(f"{role}_residual_px", each.fit.residual_px, None, "px", "of a point"),
            Figure(f"{role}_noise_px", each.noise_px, None, "px", "of a point, expected"),
            Figure(f"{role}_points", float(each.fit.kept.sum()), None, "", "that fit"),
        ]
    figures.append(Figure("usable_share", usable_share, None, "", "of the weight modulator"))
    if usable_share < 0.98:
        advice.append(
            f"{usable_share:.0%} of the weight modulator can be used: the rest falls beside the "
            "camera or the input modulator"
        )
    return tuple(figures), advice


def _lies(
    matrix: np.ndarray, shape: tuple[int, int], target: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return shift (rows, columns), scale and rotation in degrees, about the middles."""
    middle = (np.array(shape) - 1) / 2
    shift = registration.apply(matrix, middle) - (np.array(target) - 1) / 2
    slopes = registration.scales(matrix, middle)
    sign = 1.0 if np.linalg.det(slopes) > 0 else -1.0
    angle = np.rad2deg(
        np.arctan2(slopes[1, 0] - sign * slopes[0, 1], slopes[0, 0] + sign * slopes[1, 1])
    )
    scale = np.sqrt(abs(np.linalg.det(slopes)))
    return float(shift[0]), float(shift[1]), float(scale), float(angle)


def _lie_figures(
    name: str,
    lies: tuple[float, float, float, float],
    error_px: float,
    reach_px: float,
    where: str,
) -> list[Figure]:
    turn = error_px / reach_px * np.sqrt(2)
    return [
        Figure(f"{name}_shift_rows_px", lies[0], float(error_px), "px", where),
        Figure(f"{name}_shift_columns_px", lies[1], float(error_px), "px", where),
        Figure(f"{name}_scale", lies[2], float(turn), "", f"{name} pixels per weight pixel"),
        Figure(f"{name}_rotation_deg", lies[3], float(np.rad2deg(turn)), "deg", "against rows"),
    ]


def _moves(
    name: str, lies: tuple[float, float, float, float], nominal: float, sign: float
) -> list[str]:
    """Say what an operator does about it; a map takes care of what is left."""
    moves = []
    rows, columns, scale, angle = lies
    if max(abs(rows), abs(columns)) > _SHIFT_PX:
        what = "the input modulator's image" if sign > 0 else "the image on the camera"
        moves.append(
            f"move {what} by {sign * rows:+.1f} rows (towards higher row numbers is +) and "
            f"{sign * columns:+.1f} columns, in pixels of the {name}"
        )
    if abs(angle) > _TURN_DEG:
        moves.append(f"turn the {name} by {-sign * angle:+.2f} degrees (from rows to columns is +)")
    if abs(scale / nominal - 1) > _MAGNIFY:
        moves.append(
            f"make the image of the weight modulator on the {name} {nominal / scale:.4f} times as "
            "large"
        )
    return moves


def store(bench: Bench, alignment: Alignment) -> Path:
    """Begin a new calibration of an open bench with its alignment; an older one is gone.

    Returns
    -------
    path : of the calibration file

    Raises
    ------
    InputError : for a bench whose file says that it knows its own truth
    """
    path = path_of(bench.file.calibration, bench.path)
    calibration = begin_calibration(bench)
    calibration.add(alignment.step())
    calibration.write(path)
    return path
