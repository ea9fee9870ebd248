"""The page of a calibration: what it is bound to, what was found, and what that cost."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from ..backends.optics.calibration_file import Calibration, leaves
from ..backends.optics.calibration_tables import cost_table, figure_table
from ..instruments.formatting import format_counted, format_moment, format_value
from ..instruments.table import Table, columns
from .charts import plot_chart
from .page import render

CALIBRATION_PAGE = "lightloom calibration page"
_IDENTITY = ("maker", "model", "serial")


def calibration_page(calibration: Calibration) -> str:
    """Return the page of a calibration.

    Raises
    ------
    MissingExtraError : without the extra `report`
    """
    steps = list(calibration.steps.values())
    begun = format_moment(datetime.fromisoformat(calibration.created_at))
    names = ", ".join(step.name for step in steps)
    return render(
        "calibration.html",
        CALIBRATION_PAGE,
        title=f"Calibration {Path(calibration.path).name}",
        lead=f"Begun {begun}; {format_counted(len(steps), 'step')}: {names}.",
        is_simulated=calibration.is_simulated,
        instruments=_instrument_table(calibration),
        settings=_setting_table(calibration),
        costs=cost_table(steps),
        steps=[
            {
                "name": step.name,
                "figures": figure_table(step.figures),
                "notes": step.notes,
                "charts": [(plot_chart(plot, step.arrays), plot.title) for plot in step.plots],
            }
            for step in steps
        ],
    )


def _instrument_table(calibration: Calibration) -> Table:
    rows = []
    for role, told in calibration.binding["instruments"].items():
        others = (f"{key} {format_value(told[key])}" for key in told if key not in _IDENTITY)
        rows.append((role, *(told.get(key, "") for key in _IDENTITY), "; ".join(others)))
    heads = ("instrument", *_IDENTITY, "as it was")
    return Table("", columns(dict.fromkeys(heads)), tuple(rows))


def _setting_table(calibration: Calibration) -> Table:
    settings = {key: v for key, v in calibration.binding.items() if key != "instruments"}
    rows = tuple((key, format_value(value)) for key, value in leaves(settings))
    return Table("", columns({"setting": None, "value": None}), rows)
