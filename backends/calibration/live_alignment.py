"""`align_live`: measures the registration repeatedly while an operator adjusts the bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...instruments import UnexpectedIntensity
from ..bench.bench import Bench
from .alignment import Alignment, evaluated, probe_with_light
from .exposure_search import find_exposure
from .fits import AlignmentFits
from .patches import RowFinder, fits_of, line_patches, locate, photodiode_patches, tracked
from .repeatability import RepeatedExposure, check_modulation
from .spot_grid import Squares, composed

_REFRESHED = 2  # background images through dark weights that each alignment takes again


def align_live(bench: Bench, on_lost: Callable[[str], None] | None = None) -> Iterator[Alignment]:
    """Yield alignments of a few shots each, until the iterator is closed.

    Parameters
    ----------
    on_lost : called with the reason while no alignment is found

    Raises
    ------
    UnexpectedIntensity, Saturated : when there is no light at the start
    """
    report = on_lost or (lambda text: None)
    with probe_with_light(bench) as probe:
        while True:
            try:
                probe.fill()
                exposure_s = find_exposure(probe)
                exposures = RepeatedExposure(probe)
                bright = check_modulation(exposures, exposure_s)
                for fits in _alignments(exposures, exposure_s, bright):
                    yield evaluated(bench, exposures, fits, None)
            except UnexpectedIntensity as error:  # an adjustment may lose the light
                report(str(error))


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
