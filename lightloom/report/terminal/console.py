"""The console that people read, its progress bar, and the style of its tables."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ...instruments import table as tables
from ...instruments.text import printable
from ..streams import under


class PrintableConsole(Console):
    """A console that makes control characters in the text of others visible.

    Parameters
    ----------
    to : the stream to print to
    width : None for the terminal's
    """

    def __init__(self, to: TextIO | None, width: int | None = None) -> None:
        super().__init__(file=under(to), highlight=False, emoji=False, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text made printable before it is laid out, so that columns fit."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of anything, their text made printable."""
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
                continue
            if style is not None and style.link:  # of a line that a library printed
                style = style.update_link(None)
            yield Segment(printable(text), style)


def open_console(*, for_people: bool) -> Console:
    """Return the console: stdout for people, stderr when stdout carries JSON."""
    stream = sys.stdout if for_people else sys.stderr
    is_terminal = stream is not None and stream.isatty()
    return PrintableConsole(stream, None if is_terminal else 110)  # a pipe has no width of its own


class ProgressBar:
    """A progress bar on standard error; a call moves it, see `Tell`."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how much is done of something, and nothing else."""
        for name, task in self._tasks.items():
            if name != what:
                self._bar.update(task, visible=False)
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total, visible=True)

    def hide(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.stop()

    def show(self) -> None:
        """Show the bar again."""
        self._bar.start()


@contextmanager
def progress(in_percent: bool = False) -> Iterator[ProgressBar]:
    """Show a progress bar, and yield what moves it."""
    share = TaskProgressColumn() if in_percent else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), share)
    with Progress(
        *columns, TimeRemainingColumn(), console=PrintableConsole(sys.stderr), transient=True
    ) as bar:
        yield ProgressBar(bar)


_STYLES: dict[tables.Style, str] = {
    "light": "cyan",
    "good": "green",
    "bad": "red",
    "quiet": "dim",
    "strong": "bold",
}


def as_rich(table: tables.Table, width: int | None = None) -> Group:
    """Return a table in the style of all tables of a terminal, with its title and its caption.

    Parameters
    ----------
    width : characters in a line; where the table needs more, all its texts may take several lines,
        but a number is never cut. None for a line that is wide enough

    Raises
    ------
    ValueError : when a row has another number of cells than there are columns
    """
    has_header = any(column.title for column in table.columns)
    shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_header=has_header)
    widths = _least_widths(table)
    is_narrow = width is not None and sum(widths) + 2 * len(widths) > width
    for column, least in zip(table.columns, widths, strict=True):
        is_number = column.align == "right"
        shown.add_column(
            escape(column.title),
            justify=column.align,
            no_wrap=not column.wraps and (is_number or not is_narrow),
            min_width=least if is_number else None,
            overflow="fold",
        )
    for row, ends_group in zip(table.rows, table.group_ends, strict=True):
        shown.add_row(*_rich_cells(table, row), end_section=ends_group)
    if table.total is not None:
        shown.add_row(*_rich_cells(table, table.total), style="bold")
    parts: list[RenderableType] = [Text(table.title, "table.title")] if table.title else []
    parts.append(shown)
    if table.caption:
        parts.append(Text(table.caption, "table.caption"))
    return Group(*parts)


def show_tables(where: Console, shown: Iterable[tables.Table]) -> None:
    """Print tables, one below the other."""
    for table in shown:
        where.print(as_rich(table, where.width), crop=False)


def _least_widths(table: tables.Table) -> list[int]:
    """Return the characters that each column needs: of a text that wraps, its longest word."""
    widths = []
    rows = list(zip(*table.all_rows, strict=True)) or [()] * len(table.columns)
    for column, cells in zip(table.columns, rows, strict=True):
        texts = [column.text(cell) for cell in cells]
        if not column.wraps:
            texts.append(column.title)
        elif column.align == "left":
            texts = [word for text in texts for word in text.split()]
        widths.append(max(map(cell_len, texts), default=1))
    return widths


def _rich_cells(table: tables.Table, row: tuple[tables.Cell, ...]) -> list[Text]:
    return [
        Text(column.text(cell), _STYLES[cell.style] if isinstance(cell, tables.Styled) else "")
        for column, cell in zip(table.columns, row, strict=True)
    ]
