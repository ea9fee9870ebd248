"""`Table`: figures in rows and columns, apart from how they are shown.

A program makes a table as data. `plain_text` and `as_html` show it without any package; a terminal
shows it with colours (`lightloom.report.terminal.console.as_rich`).
"""

import html
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .text import printable

Style = Literal["light", "good", "bad", "quiet", "strong"]


@dataclass(frozen=True)
class Styled:
    """A cell that stands out, in a colour that each renderer chooses."""

    text: str
    style: Style


Cell = str | float | Styled | None  # None where there is no figure
Heads = Mapping[str, str | Callable[[float], str] | None]  # see `columns`


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    header : what its cells hold
    unit : of its numbers
    align : side on which its cells line up
    form : format specification of its numbers, such as ".3g", or what makes a number a text;
        texts stay as they are
    wraps : whether its texts may take several lines
    """

    header: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    form: str | Callable[[float], str] = ""
    wraps: bool = False

    @property
    def title(self) -> str:
        """The header with the unit behind it."""
        return f"{self.header}, {self.unit}" if self.unit else self.header

    def text(self, cell: Cell) -> str:
        """Return a cell as text, "-" where there is no figure."""
        if cell is None:
            return "-"
        if isinstance(cell, Styled):
            return printable(cell.text)
        if isinstance(cell, str):
            return printable(cell)
        return format(cell, self.form) if isinstance(self.form, str) else self.form(cell)


def columns(heads: Heads) -> tuple[Column, ...]:
    """Return columns by their headers.

    Parameters
    ----------
    heads : header -> form of the numbers below (see `Column`); None for a column of texts, `str`
        for one of texts that stay on one line
    """
    return tuple(
        Column(header, align="left", wraps=form is None)
        if form in (None, str)
        else Column(header, form=form or "")
        for header, form in heads.items()
    )


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Parameters
    ----------
    title : what the table shows, "" where the text beside it says so
    rows : one cell for each column
    total : a last row that stands out; None without one
    caption : a sentence below the table
    grouped_by : a column; a terminal draws a rule where its cell changes; None: no rules
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] | None = None
    caption: str = ""
    grouped_by: int | None = None

    @property
    def all_rows(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows, and the total as the last one."""
        return self.rows if self.total is None else (*self.rows, self.total)

    @property
    def group_ends(self) -> list[bool]:
        """Whether each of the rows is the last one of its group; the last row is before a total."""
        place = self.grouped_by
        ends = [place is not None and a[place] != b[place] for a, b in pairwise(self.rows)]
        return [*ends, self.total is not None] if self.rows else []


def plain_text(table: Table) -> str:
    """Return a table as lines of text with aligned columns.

    Raises
    ------
    ValueError : when a row has another number of cells than there are columns
    """
    lines = [[column.title for column in table.columns]]
    for row in table.all_rows:
        lines.append([c.text(cell) for c, cell in zip(table.columns, row, strict=True)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [printable(table.title)] if table.title else []
    for line in lines:
        cells = (
            f"{text:<{width}}" if column.align == "left" else f"{text:>{width}}"
            for text, width, column in zip(line, widths, table.columns, strict=True)
        )
        texts.append("  ".join(cells).rstrip())
    if table.caption:
        texts.append(printable(table.caption))
    return "\n".join(texts)


def as_html(table: Table) -> str:
    """Return a table as HTML, every text escaped; numbers have the class "number".

    Raises
    ------
    ValueError : when a row has another number of cells than there are columns
    """
    head = "".join(_html_cell("th", c, c.title) for c in table.columns)
    body = "".join(f"<tr>{_html_row(table, row)}</tr>\n" for row in table.rows)
    if table.total is not None:
        body += f'<tr class="total">{_html_row(table, table.total)}</tr>\n'
    title = f"<caption>{html.escape(printable(table.title))}</caption>\n" if table.title else ""
    note = f"<p>{html.escape(printable(table.caption))}</p>\n" if table.caption else ""
    return (
        f'<div class="wide"><table>\n{title}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table>\n{note}</div>"
    )


def notebook_html(heading: str, tables: Iterable[Table], sentences: Iterable[str]) -> str:
    """Return tables under a heading, with sentences below them, as a notebook shows an object."""
    paragraphs = "".join(f"<p>{html.escape(printable(text))}</p>\n" for text in sentences)
    body = "\n".join(map(as_html, tables))
    return f"<p><b>{html.escape(printable(heading))}</b></p>\n{body}\n{paragraphs}"


def _html_row(table: Table, row: tuple[Cell, ...]) -> str:
    return "".join(
        _html_cell("td", column, column.text(cell), cell.style if isinstance(cell, Styled) else "")
        for column, cell in zip(table.columns, row, strict=True)
    )


def _html_cell(tag: str, column: Column, text: str, style: str = "") -> str:
    classes = " ".join(filter(None, ("number" if column.align == "right" else "", style)))
    mark = f' class="{classes}"' if classes else ""
    return f"<{tag}{mark}>{html.escape(text)}</{tag}>"
