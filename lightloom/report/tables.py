"""Columns of tables, and the tables of a calibration for a terminal and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ..instruments.formatting import (
    format_duration,
    format_energy,
    format_measured,
    format_moment,
)
from ..instruments.table import Cell, Column, Styled, Table

if TYPE_CHECKING:
    from ..backends.optics.calibration_file import Figure, Step


def columns(heads: Mapping[str, str | Callable[[float], str] | None]) -> tuple[Column, ...]:
    """Return columns by their headers.

    Parameters
    ----------
    heads : header -> form of the numbers below (see `Column`); None for a column of texts
    """
    return tuple(
        Column(header, align="left", wraps=True) if form is None else Column(header, form=form)
        for header, form in heads.items()
    )


def figure_table(figures: Sequence[Figure]) -> Table:
    """Return what was measured: each figure with its uncertainty, its unit and a note."""
    values = (Column("value", wraps=True), Column("±", wraps=True))
    heads = (*columns({"figure": None}), *values, *columns({"unit": None, "": None}))
    rows = []
    for figure in figures:
        value, uncertainty = format_measured(figure.value, figure.uncertainty)
        note = Styled(figure.note, "quiet")
        rows.append((figure.name, value, uncertainty, figure.unit, note))
    return Table("", heads, tuple(rows))


def calibration_cost_table(steps: Sequence[Step]) -> Table:
    """Return what each step of a calibration took, and their sum."""
    heads = {
        "step": None,
        "shots": ",",
        "bench time": format_duration,
        "computing": format_duration,
        "light": format_energy,
        "finished": None,
    }

    def cells(name: str, some: Sequence[Step], finished: str) -> tuple[Cell, ...]:
        return (
            name,
            sum(step.shots for step in some),
            sum(step.seconds for step in some),
            sum(step.computing_s for step in some),
            sum(step.light_j for step in some),
            finished,
        )

    rows = [
        cells(step.name, [step], format_moment(datetime.fromisoformat(step.finished_at)))
        for step in steps
    ]
    return Table("", columns(heads), tuple(rows), total=cells("all", steps, ""))
