"""The tables of a calibration: what its steps measured, and what they cost."""

from collections.abc import Sequence
from datetime import datetime

from ...instruments.formatting import (
    format_duration,
    format_energy,
    format_measured,
    format_moment,
)
from ...instruments.table import Cell, Column, Styled, Table
from .calibration_file import Figure, Step


def figure_table(figures: Sequence[Figure]) -> Table:
    """Return what was measured: each figure with its uncertainty, its unit and a note."""
    columns = (
        Column("figure", align="left", wraps=True),
        Column("value", wraps=True),
        Column("±", wraps=True),
        Column("unit", align="left", wraps=True),
        Column("", align="left", wraps=True),
    )
    rows = []
    for figure in figures:
        value, uncertainty = format_measured(figure.value, figure.uncertainty)
        note = Styled(figure.note, "quiet")
        rows.append((figure.name, value, uncertainty, figure.unit, note))
    return Table("", columns, tuple(rows))


def cost_table(steps: Sequence[Step]) -> Table:
    """Return what each step of a calibration took, and their sum."""
    columns = (
        Column("step", align="left"),
        Column("shots", form=","),
        Column("bench time", form=format_duration),
        Column("computing", form=format_duration),
        Column("light", form=format_energy),
        Column("finished", align="left"),
    )

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
    return Table("", columns, tuple(rows), total=cells("all", steps, ""))
