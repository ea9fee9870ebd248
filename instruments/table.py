"""`Table`: figures in rows and columns, apart from how they are shown.

A program makes a table as data; a terminal, a page or a file shows it in its own way. Not here:
tables with colours (`lightloom.report`).
"""

from dataclasses import dataclass
from typing import Literal

from .text import printable

Cell = str | float | None  # None where there is no figure


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    header : what its cells hold
    unit : of its numbers
    align : side on which its cells line up
    form : format specification of its numbers, such as ".3g"; texts stay as they are
    """

    header: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    form: str = ""

    @property
    def title(self) -> str:
        """The header with the unit behind it."""
        return f"{self.header}, {self.unit}" if self.unit else self.header

    def text(self, cell: Cell) -> str:
        """Return a cell as text, "-" where there is no figure."""
        if cell is None:
            return "-"
        return printable(cell) if isinstance(cell, str) else format(cell, self.form)


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Parameters
    ----------
    title : what the table shows, "" where the text beside it says so
    rows : one cell for each column
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def plain_text(table: Table) -> str:
    """Return a table as lines of text with aligned columns.

    Raises
    ------
    ValueError : when a row has another number of cells than there are columns
    """
    lines = [[column.title for column in table.columns]]
    for row in table.rows:
        lines.append([c.text(cell) for c, cell in zip(table.columns, row, strict=True)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [printable(table.title)] if table.title else []
    for line in lines:
        cells = (
            f"{text:<{width}}" if column.align == "left" else f"{text:>{width}}"
            for text, width, column in zip(line, widths, table.columns, strict=True)
        )
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)
