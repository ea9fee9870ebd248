"""`align_live`: how the modulators lie, again and again, while an operator turns screws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ...instruments import UnexpectedIntensity
from ..bench.bench import Bench
from .alignment import Alignment, concluded, lit
from .fits import AlignmentFits
from .patches import RowFinder, block_patches, glanced, line_patches, locate
from .repeatability import RepeatedExposure, check_answers
from .spot_grid import Squares, composed

_FRESH = 2  # stripes through dark weights that are taken anew with every glance


def align_live(bench: Bench, tell: Callable[[str], None] | None = None) -> Iterator[Alignment]:
    """Look again and again, with a few shots each, until the iterator is closed.

    Parameters
    ----------
    tell : hears why nothing is seen, while that is so

    Raises
    ------
    WrongLight, Saturated : when there is no light to begin with
    """
    say = tell or (lambda text: None)
    with lit(bench) as probe:
        while True:
            try:
                probe.fill()
                exposure_s = probe.find_exposure()
                watch = RepeatedExposure(probe)
                bright = check_answers(watch, exposure_s)
                glances = _glances(watch, exposure_s, bright)
                for found in glances:
                    yield concluded(bench, watch, found, None)
            except UnexpectedIntensity as error:  # while screws are turned the light may be lost
                say(str(error))


def _glances(
    watch: RepeatedExposure, exposure_s: float, bright: np.ndarray
) -> Iterator[AlignmentFits]:
    """Find the maps once, then follow them as long as they do not jump.

    Raises
    ------
    WrongLight : when they do, or the light is lost
    """
    layout = watch.probe.bench.file.layout
    if layout == "imaged":
        squares = {role: Squares(watch, exposure_s, role) for role in ("weight", "input")}
        lies = {role: each.coarse() for role, each in squares.items()}
        while True:
            found = {role: each.glance(*lies[role]) for role, each in squares.items()}
            lies = {role: (part.matrix, lies[role][1]) for role, part in found.items()}
            yield composed(found)
    rows = RowFinder(watch, exposure_s, bright) if layout == "line" else None
    found_rows = None if rows is None else rows.find()
    patches = block_patches(watch, exposure_s)
    if rows is not None and found_rows is not None:
        patches = line_patches(watch, exposure_s, rows, found_rows)
    sets = [0] if rows is not None else list(range(6))
    shape = watch.probe.bench.input.shape
    inputs = locate(replace(patches, sets=[patches.sets[number] for number in sets]), sets, shape)
    patches.darks, patches.takes = {}, 1
    while True:
        for pattern in list(patches.darks)[:_FRESH]:  # the oldest: what leaks moves as well
            del patches.darks[pattern]
        inputs = glanced(patches, sets, shape, inputs.matrix)
        parts = {"input": inputs}
        if rows is not None and found_rows is not None:
            found_rows = rows.glance(found_rows)
            parts = {"weight": found_rows, "input": inputs}
        camera_map = None if found_rows is None else found_rows.matrix
        spot_px = None if rows is None else rows.spot_px
        yield AlignmentFits(inputs.matrix, camera_map, spot_px, parts, inputs.fit.uncertainty_px)
