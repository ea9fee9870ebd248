"""`align_live`: measures the registration repeatedly while an operator adjusts the bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ...instruments import UnexpectedIntensity
from ..bench.bench import Bench
from .alignment import Alignment, evaluated, probe_with_light
from .exposure_search import find_exposure
from .fits import AlignmentFits
from .patches import RowFinder, line_patches, locate, photodiode_patches, tracked
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
    row_finder = RowFinder(exposures, exposure_s, bright) if layout == "line" else None
    row_fit = None if row_finder is None else row_finder.find()
    patches = photodiode_patches(exposures, exposure_s)
    if row_finder is not None and row_fit is not None:
        patches = line_patches(exposures, exposure_s, row_finder, row_fit)
    sets = [0] if row_finder is not None else list(range(6))
    shape = exposures.probe.bench.input.shape
    inputs = locate(replace(patches, sets=[patches.sets[number] for number in sets]), sets, shape)
    patches.darks, patches.takes = {}, 1
    while True:
        for pattern in list(patches.darks)[:_REFRESHED]:  # the oldest: the leak moves as well
            del patches.darks[pattern]
        inputs = tracked(patches, sets, shape, inputs.matrix)
        parts = {"input": inputs}
        if row_finder is not None and row_fit is not None:
            row_fit = row_finder.track(row_fit)
            parts = {"weight": row_fit, "input": inputs}
        camera_map = None if row_fit is None else row_fit.matrix
        spot_px = None if row_finder is None else row_finder.spot_px
        yield AlignmentFits(inputs.matrix, camera_map, spot_px, parts, inputs.fit.uncertainty_px)
