"""A plan, a run with the text that it generates, and accounts of energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from ...backends import Stats
from ...instruments.formatting import format_counted, format_duration, format_number
from ...scheduler.energy.tables import account_tables, per_token, sizes_text
from ...scheduler.runs.tables import (
    plan_summary,
    plan_tables,
    plan_title,
    quality_figures,
    quality_sentences,
    report_marks,
    report_tables,
    report_title,
    throughput_sentence,
)
from .console import ProgressBar, progress, show_tables

if TYPE_CHECKING:
    from ...scheduler.runs import Plan, Report


def show_plan(where: Console, planned: Plan) -> None:
    """Print a plan, layer by layer; equal layers once."""
    where.print(f"\n{escape(plan_title(planned))}", style="bold")
    sizes = planned.passes[0][0]
    where.print(
        f"first pass: batch {sizes['batch']}, {format_counted(sizes['new'], 'token')}; "
        f"{format_counted(len(planned.passes), 'pass', 'passes')} in all"
    )
    show_tables(where, plan_tables(planned))
    for sentence in plan_summary(planned):
        where.print(escape(sentence))


def show_report(where: Console, result: Report, text_is_shown: bool = False) -> None:
    """Print a run's report.

    Parameters
    ----------
    text_is_shown : the text that the run generated was printed before
    """
    document = result.as_dict()
    marks = "".join(f" [yellow]{mark}[/]" for mark in report_marks(document))
    where.print(f"\n{escape(report_title(document))}{marks}", style="bold")
    if result.profile is not None:
        title = f": {result.profile_title}" if result.profile_title else ""
        where.print(f"bench profile [bold]{escape(result.profile)}[/]{escape(title)}")
        where.print(f"placement {escape(result.placement)}")
    quality = dict(result.quality)
    if text_is_shown:
        quality["digital" if quality["optical"] is None else "optical"] = None
    show_quality(where, quality)
    where.print(throughput_sentence(result.throughput))
    if result.energy is not None:
        where.print(_times_sentence(result.energy))
    show_tables(where, report_tables(document))
    if result.stats.shots:
        where.print(f"events of this run ({result.backend}): {_events_text(result.stats)}")
    for remark in result.remarks:
        where.print(f"[yellow]note:[/] {escape(remark)}")


def show_quality(where: Console, quality: Mapping[str, Any]) -> None:
    """Print how good a result is: its text as it is, or its figures."""
    if quality["metric"] != "text":
        for sentence in quality_sentences(quality):
            where.print(escape(sentence))
        return
    for side, text in quality_figures(quality):
        where.print(f"\n[bold]{side}:[/] ", end="")
        where.print(text, markup=False, soft_wrap=True)
    where.print()


def _events_text(stats: Stats) -> str:
    counts = (
        format_counted(stats.shots, "shot"),
        format_counted(stats.weight_frames, "weight frame"),
        format_counted(stats.conversions, "conversion"),
        f"{format_number(stats.photons)} photoelectrons",
        f"{stats.saturated:,} saturated",
    )
    return ", ".join(counts)


def _times_sentence(account: Mapping[str, Any]) -> str:
    """Return the time of a token or an image on the bench, and digitally where it was measured."""
    bench = format_duration(per_token(account, account["seconds"]["all"]))
    text = f"time per {account['unit']}: {bench} on the bench (predicted)"
    here = [item["seconds"] for item in account["baselines"] if item["name"] == "this-machine"]
    if here:
        text += f", {format_duration(per_token(account, here[0]))} digitally here (measured)"
    return text


def show_energy(where: Console, document: Mapping[str, Any]) -> None:
    """Print the accounts of `lightloom energy`."""
    where.print(f"\n[bold]{escape(document['model'])}[/]: {escape(sizes_text(document))}")
    where.print(f"placement {escape(document['placement'])}; predicted, nothing was run")
    for account in document["accounts"]:
        where.print(f"\nbench profile [bold]{escape(account['profile'])}[/]", end="")
        sets = account["constant_sets"]
        where.print(f", constants {escape(', '.join(sets))}" if sets else "")
        show_tables(where, account_tables(account))


# --- text that is shown while a run generates it --------------------------------------------------


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
