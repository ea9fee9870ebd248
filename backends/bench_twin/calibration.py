"""`made_twin`: the profile of a mock that has the properties of a calibrated bench."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...instruments import InputError
from ...instruments.files import check_output, write_output
from ...instruments.formatting import format_moment
from ..bench.calibrated_optics import WANTED, BenchShape, Calibrated
from ..optics.calibration_file import Calibration
from ..optics.layouts import LAYOUTS, Layout
from ..optics.layouts.base import EncodingTable
from ..optics.parameters import Optics, Response, ResponseCurve
from ..profile import SCHEMA, OpticsProfile, load_profile
from .arrays import TwinArrays, TwinTable, keep

_MOST_DRIFT = 0.19  # rms that a profile can have


def made_twin(calibration: str | Path, output: str | Path | None) -> OpticsProfile:
    """Do what `backends.twin` promises."""
    read = Calibration.read(calibration)
    missing = [name for name in WANTED if name not in read.steps]
    if missing:
        raise InputError(
            f"{read.path}: the calibration is incomplete, it lacks {', '.join(missing)}; run "
            "`lightloom calibrate --resume` on its bench"
        )
    constants, arrays = _measured(Calibrated(read))
    content, digest = keep(arrays)
    finished = max(datetime.fromisoformat(step.finished_at) for step in read.steps.values())
    table = TwinTable(
        file="",
        sha256=digest,
        calibration=Path(calibration).name,
        calibrated_at=finished.isoformat(timespec="seconds"),
        layout=read.binding["layout"],
        is_simulated=read.is_simulated,
    )
    title = f"twin of {table.calibration}, calibrated {format_moment(finished)}"
    source = f"{table.calibration}, {table.calibrated_at}: "
    sources = {name: source + step for name, (_, step) in constants.items()}
    values = {name: value for name, (value, _) in constants.items()}
    if output is None:
        name = Path(calibration).stem
        return OpticsProfile(name=name, title=title, twin=table, sources=sources, **values)
    return _written(Path(output), title, table, values, sources, content)


# --- what the calibration measured ----------------------------------------------------------------


def _measured(found: Calibrated) -> tuple[dict[str, tuple[Any, str]], TwinArrays]:
    """Return the constants, each with the step that measured it, and the arrays."""
    binding = found.calibration.binding
    if binding["layout"] not in LAYOUTS:
        raise InputError(
            f"{found.calibration.path}: layout = {binding['layout']!r} is not one of "
            f"{', '.join(LAYOUTS)}; update lightloom, or calibrate again"
        )
    try:
        shape = BenchShape.of_binding(binding)
        encoding = EncodingTable.model_validate(binding["encoding"])
        step_e = _converter_step(binding["instruments"]["detector"])
        input_shape = tuple(int(size) for size in binding["instruments"]["input"]["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{found.calibration.path}: its binding does not describe a bench ({error}); calibrate "
            "again"
        ) from None
    optics = found.optics_of(shape)
    dtypes = {
        role: np.dtype(np.uint8 if count <= 256 else np.uint16)
        for role, count in shape.levels.items()
    }
    shapes: Any = {"input": input_shape, "weight": shape.weight_shape}
    layout = LAYOUTS[shape.layout](encoding, shapes, dtypes, optics)
    response = found.response_of(layout)
    arrays = _arrays(found, layout, response, optics)
    full_e, pixels = float(response.pairs_e.mean()), float(layout.read_pixels().mean())
    read = optics.read_noise_e**2 + shape.samples * (step_e * optics.gain_e_per_count) ** 2 / 12
    bits = {
        role: math.ceil(math.log2(abs(curve.brightest - curve.darkest) + 1))
        for role, curve in ((r, ResponseCurve(table)) for r, table in optics.tables.items())
    }
    signed = 0 if encoding.kind == "offset" else 1  # a rail has the levels of one sign
    flat, photons = "step flat_field", "step photon_transfer"
    constants: dict[str, tuple[Any, str]] = {
        "encoding": (encoding.kind, "its bench file"),
        "detection": ("per-reading", f"layout {shape.layout}"),
        "input_bits": (bits["input"] + signed, "step response_curves"),
        "weight_bits": (
            bits["weight"] + (signed if encoding.kind == "abs-split" else 0),
            "step response_curves",
        ),
        "photons_full_scale": (full_e, flat),
        "read_noise_e": (math.sqrt(pixels * read), f"{photons}, of a slot"),
        "dark_e": (pixels * optics.dark_e, "step dark_frames, of a slot"),
        "rows": (max(layout.slots, 2), f"layout {shape.layout}"),
        "length": (layout.length, f"layout {shape.layout}"),
        "exposure_s": (shape.exposure_s, "its bench file"),
        "gain_error": (min(found.measured("flat_field", "gain_error", 0, 1e3), 0.9), flat),
    }
    constants |= dict(_light_constants(found, layout, response))
    constants["curve_error"] = (_curve_error(found), "step response_curves")
    for role in ("input", "weight"):
        if "settling" in found.calibration.steps:
            constants[f"{role}_settle_s"] = (found.settling_s(role), "step settling")
    return constants, arrays


def _converter_step(detector: dict[str, Any]) -> float:
    """Return the step of the converter, in counts or volts."""
    if "input_range_v" not in detector:
        return 1.0
    low, high = detector["input_range_v"]
    return float(high - low) / ((1 << int(detector["bit_depth"] or 16)) - 1)


def _curve_error(found: Calibrated) -> float:
    errors = [
        found.measured("response_curves", f"{role}_curve_error", 0.0, 1e3)
        for role in ("input", "weight")
    ]
    return min(math.sqrt(sum(error**2 for error in errors) / 2), 0.4)


def _light_constants(
    found: Calibrated, layout: Layout, response: Response
) -> Iterator[tuple[str, tuple[float, str]]]:
    """Yield the constants of the brightness: what is corrected, and what that leaves.

    A walk of the brightness has no bound. The drift has the variance of the walk over the shots of
    the calibration, walk n / 6, and moves by it in the same time.
    """
    tracker = found.fresh_tracker()
    measured = layout.marker_variance(response)
    variance = tracker.light_variance(measured, found.reference_every(layout))
    yield "light_error", (math.sqrt(variance), "step drift, after correction by markers")
    yield "source_rms", (tracker.shot_rms, "step drift")
    shots = sum(step.shots for step in found.calibration.steps.values())
    drift = min(math.sqrt(tracker.walk_variance * shots / 6), _MOST_DRIFT)
    if drift > 0:
        yield "drift_rms", (drift, "step drift, over the shots of the calibration")
        yield "drift_rows", (4 * drift**2 / tracker.walk_variance, "step drift")


def _arrays(found: Calibrated, layout: Layout, response: Response, optics: Optics) -> TwinArrays:
    full_e, pixels = response.pairs_e.mean(), layout.read_pixels()
    between, kernel = 0.0, np.zeros((3, 3), np.float32)
    if "crosstalk" in found.calibration.steps:
        between = found.measured("crosstalk", "between_elements", -1.0, 1.0)
        if response.inverse is not None:
            kernel = found.calibration.array("crosstalk", "kernel")
    block = (1, layout.length) if layout.shares_input else layout.encoding.block
    inverse = np.zeros((0, 0)) if response.inverse is None else response.inverse
    return TwinArrays(
        pairs=(response.pairs_e / full_e).astype(np.float32),
        input_leak=response.input_leak.astype(np.float64),
        weight_leak=response.weight_leak.astype(np.float64),
        offset=(response.offset_e / full_e).astype(np.float64),
        input_table=optics.tables["input"],
        weight_table=optics.tables["weight"],
        pixels=(pixels / pixels.mean()).astype(np.float64),
        grid=np.array(layout.grid, dtype=np.int64),
        block=np.array(block, dtype=np.int64),
        between=np.array([between]),
        kernel=kernel.astype(np.float32),
        inverse=inverse.astype(np.float32),
    )


# --- on disk --------------------------------------------------------------------------------------


def _written(
    output: Path,
    title: str,
    table: TwinTable,
    values: dict[str, Any],
    sources: dict[str, str],
    content: bytes,
) -> OpticsProfile:
    """Write the profile and its arrays, and read them back."""
    if output.suffix.lower() != ".toml":
        raise InputError(f"{output} is not the name of a profile; give a name that ends in .toml")
    data = output.with_suffix(".safetensors")
    for path in (output, data):
        check_output(path)
    table = table.model_copy(update={"file": data.name})
    lines = [f"schema = {SCHEMA}", f"title = {_toml(title)}", "", "[twin]"]
    lines += [f"{key} = {_toml(value)}" for key, value in table.model_dump().items()]
    for key, value in values.items():
        lines += ["", f"[constants.{key}]", f"value = {_toml(value)}"]
        lines += [f"source = {_toml(sources[key])}"]
    write_output(data, content)
    write_output(output, ("\n".join(lines) + "\n").encode("utf-8"))
    return load_profile(str(output))


def _toml(value: Any) -> str:
    """Return a text, a flag or a number as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(c if c not in '"\\' and c.isprintable() else _escaped(c) for c in value)
        return f'"{escaped}"'
    return repr(value)


def _escaped(character: str) -> str:
    return f"\\{character}" if character in '"\\' else f"\\U{ord(character):08X}"
