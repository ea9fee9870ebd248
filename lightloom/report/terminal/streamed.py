"""Text that is shown while a run generates it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from ...scheduler.runs.tables import report_marks
from .console import ProgressBar, progress


class StreamedText:
    """Prints a text piece by piece, without the progress bar, which redraws the last line.

    Parameters
    ----------
    where : console that the text goes to
    bar : shown before the text, and after it
    heading : printed before the text, in rich's markup
    with_text : False shows only the progress

    Attributes
    ----------
    on_text : receives the text of each token; None if none is shown
    has_begun : whether some of the text was printed
    """

    def __init__(
        self, where: Console, bar: ProgressBar, heading: str, with_text: bool = True
    ) -> None:
        self._where, self._bar, self._heading = where, bar, heading
        self.on_text = self._show if with_text else None
        self._task = ""
        self._is_in_line = False
        self.has_begun = False

    def tell(self, what: str, done: int, total: int) -> None:
        """Move the progress bar, unless the text itself shows the progress."""
        if self._is_in_line and what == self._task:
            return
        self.end()
        self._task = what
        self._bar(what, done, total)

    def _show(self, text: str) -> None:
        """Print the next piece of the text; an empty one has no character yet."""
        if not text:
            return
        if not self._is_in_line:
            self._bar.hide()
            self._is_in_line = True
        if not self.has_begun:
            self._where.print(f"\n{self._heading}", end=" ")
            self.has_begun = True
        self._where.out(text, end="", highlight=False)

    def end(self) -> None:
        """End the line of the text, and show the bar again."""
        if self._is_in_line:
            self._is_in_line = False
            self._where.print()
            self._bar.show()


@contextmanager
def streamed_text(
    where: Console, is_optical: bool, is_mock: bool, is_calibrated: bool, with_text: bool
) -> Iterator[StreamedText]:
    """Show the progress of a run, and the text that it generates; its line ends with the block.

    Parameters
    ----------
    with_text : False shows only the progress
    """
    side = "optical" if is_optical else "digital"
    marks = report_marks({"is_mock": is_mock, "is_calibrated": is_calibrated})
    marked = "".join(f" [yellow]{mark}[/]" for mark in marks)
    with progress() as bar:
        streamed = StreamedText(where, bar, f"[bold]{side}{marked}:[/]", with_text)
        try:
            yield streamed
        finally:
            streamed.end()
