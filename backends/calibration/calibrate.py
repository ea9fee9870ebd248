"""`calibrate`: the steps that calibrate an aligned bench."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from ...instruments import BadFit, InputError, Saturated, UnexpectedIntensity
from ...instruments.formatting import format_counted
from ...instruments.old_words import OldWords
from ..bench.bench import Bench
from ..bench.binding import check_calibration, path_for
from ..optics.calibration_file import OLD_STEPS, Calibration, Step
from .probe import opened
from .session import CalibrationSession, Measured
from .steps.additivity import additivity
from .steps.crosstalk import crosstalk
from .steps.dark_frames import dark_frames
from .steps.drift import drift
from .steps.flat_field import flat_field
from .steps.photon_transfer import photon_transfer
from .steps.response_curves import response_curves
from .steps.settling import settling

STEPS: dict[
    str, Callable[[CalibrationSession], Measured]
] = {  # in order: later steps use the results of earlier ones
    "additivity": additivity,
    "dark_frames": dark_frames,
    "photon_transfer": photon_transfer,
    "settling": settling,
    "response_curves": response_curves,
    "crosstalk": crosstalk,
    "flat_field": flat_field,
    "drift": drift,
}
_NEEDS = {  # steps whose results a step uses
    "photon_transfer": ("dark_frames",),
    "settling": ("dark_frames",),
    "response_curves": ("dark_frames", "photon_transfer"),
    "crosstalk": ("dark_frames", "photon_transfer", "response_curves"),
    "flat_field": ("dark_frames", "photon_transfer", "response_curves"),
    "drift": ("dark_frames", "photon_transfer", "response_curves"),
}


def calibrate(
    bench: Bench,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    resume: bool = False,
    progress: Callable[[str, float], None] | None = None,
    done: Callable[[Step], None] | None = None,
) -> Calibration:
    """Run the steps of a calibration, and write each to disk as soon as it is done.

    Parameters
    ----------
    bench : aligned: its calibration file holds the step "align"; it is opened if it is closed
    only : names of the steps to run; empty for all
    skip : names of the steps not to run
    resume : leave out the steps that the file already holds
    progress : called with the name of the running step and its progress in [0, 1]
    done : called with each finished step

    Raises
    ------
    InputError : for unknown steps, a bench that is not aligned, a step that needs a missing step
    BadFit, UnexpectedIntensity, Saturated : with a diagnosis, when a step fails
    """
    wanted = _wanted(only, skip)
    path = path_for(bench.path)
    if not path.exists():
        raise InputError(
            f"{bench.path} is not aligned: run `lightloom align --bench {bench.path}` first"
        )
    calibration = Calibration.read(path)
    if resume:
        wanted = [name for name in wanted if name not in calibration.steps]
    _check_needs(wanted, calibration, bench.path)
    with opened(bench):
        check_calibration(bench, calibration, ("align",), bench.file.calibration_lasts_s)
        session = CalibrationSession(bench, calibration)
        try:
            for name in wanted:
                if progress is not None:
                    session.progress = partial(progress, name)
                step = _add_step(session, name, path)
                if done is not None:
                    done(step)
        finally:
            session.end()
    return calibration


def _check_needs(wanted: Iterable[str], calibration: Calibration, bench: str) -> None:
    """Refuse, before any light, steps that need others which neither are there nor will be."""
    there = set(calibration.steps)
    for name in wanted:
        missing = [need for need in _NEEDS.get(name, ()) if need not in there]
        if missing:
            raise InputError(
                f"step {name} needs step {missing[0]}, which {calibration.path} does not hold; "
                f"run `lightloom calibrate --bench {bench} --step {missing[0]}` first"
            )
        there.add(name)


def _add_step(session: CalibrationSession, name: str, path: Path) -> Step:
    """Run a step, add it with its cost to the calibration, and write the file."""
    calibration, probe = session.calibration, session.probe
    before, faults = probe.cost(), dict(probe.faults)
    try:
        measured = STEPS[name](session)
    except (BadFit, UnexpectedIntensity, Saturated) as error:
        raise type(error)(f"{session.bench.path}: step {name}: {error}") from error
    repeated = [
        f"{format_counted(count - faults.get(reason, 0), 'repeated shot')}: {reason}"
        for reason, count in probe.faults.items()
        if count > faults.get(reason, 0)
    ]
    step = Step(
        name,
        measured.figures,
        measured.arrays,
        measured.plots,
        notes=(*measured.notes, *repeated),
        **{name: cost - before[name] for name, cost in probe.cost().items()},
    )
    calibration.add(step)
    if name == "settling":
        session.trust_settling()
    calibration.write(path)
    return step


def _wanted(only: Iterable[str], skip: Iterable[str]) -> list[str]:
    words = OldWords()
    only, skip = ([words.word(name, OLD_STEPS) for name in names] for names in (only, skip))
    words.remark("the choice of steps")
    for name in (*only, *skip):
        if name not in STEPS:
            raise InputError(f"unknown step {name!r}; steps are {', '.join(STEPS)}")
    return [name for name in STEPS if (not only or name in only) and name not in skip]
