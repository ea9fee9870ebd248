"""The calibration of a bench: its path, and the properties that it is bound to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from ..optics.calibration_file import IDENTITY, ROLES, Calibration, moment_now, path_of
from .bench import Bench
from .config import read_bench_file


def path_for(bench_path: str | Path) -> Path:
    """Return the path of the calibration of a bench: the one in its file, or the one beside it.

    Raises
    ------
    InputError : for a file that is not a bench file, and for a bench with ground truth
    """
    return path_of(read_bench_file(bench_path).calibration, bench_path)


def binding_of(bench: Bench) -> dict[str, Any]:
    """Return the properties that a calibration of a connected bench is bound to, for JSON."""
    instruments: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        identity = bench.instruments[role].identity
        instruments[role] = {key: getattr(identity, key) for key in IDENTITY}
    for role, modulator in bench.modulators.items():
        instruments[role] |= {"shape": list(modulator.shape), "bit_depth": modulator.bit_depth}
    instruments["detector"] |= bench.detector.binding()
    file = bench.file
    return {
        "layout": file.layout,
        "instruments": instruments,
        "encoding": file.encoding.model_dump(mode="json"),
        "exposure_s": file.exposure_s,
        "power_w": file.power_w,
        "is_simulated": bench.is_simulated,
    }


def begin_calibration(bench: Bench) -> Calibration:
    """Return a new, empty calibration of a connected bench."""
    return Calibration(binding_of(bench), moment_now())


def check_calibration(
    bench: Bench,
    calibration: Calibration,
    wanted_steps: Iterable[str],
    max_age_s: float,
    now: datetime | None = None,
) -> None:
    """Refuse a calibration that does not describe a connected bench; see `Calibration.check`.

    Raises
    ------
    InputError : naming the first difference, both values and the way out
    """
    calibration.check(bench.path, binding_of(bench), wanted_steps, max_age_s, now)
