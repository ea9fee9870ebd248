"""`lightloom resume`: a run that did not complete, from the last step it finished."""

from pathlib import Path
from typing import Annotated

import typer

from ..instruments import limit_threads
from .backends import declare_attended
from .errors import keep_left_lit, resumable
from .options import SEVERAL, Attended, Journal, Json, NoCache, Threads
from .output import print_report

MovedModel = Annotated[
    str | None, typer.Option("--model", help="Where the model is now, if it was moved.")
]
MovedBench = Annotated[
    list[Path] | None,
    typer.Option(
        "--bench", help="Where the bench file is now, if it was moved; one option for each bench."
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Resume although this changed: model, bench, calibration, versions. {SEVERAL}"
    ),
]


def command(
    run: Journal,
    model: MovedModel = None,
    bench: MovedBench = None,
    accept: Accept = None,
    attended: Attended = False,
    threads: Threads = None,
    no_cache: NoCache = False,
    json_: Json = False,
) -> None:
    """Resume a run that was stopped, paused or killed, from the last step it finished.

    Example: lightloom resume run.db
    """
    limit_threads(threads)
    from ..models import load_model
    from ..report.terminal.console import open_console
    from ..report.terminal.run import streamed_text
    from ..scheduler.runs.resume import resume

    if attended:
        declare_attended(attended)
    console = open_console(for_people=not json_)
    try:
        marks = _marks(run)
        with resumable(run), streamed_text(console, *marks, not json_) as shown:
            watched = (shown.tell, shown.on_text)
            finished = resume(run, load_model, model, bench, accept or (), *watched)
    finally:
        keep_left_lit(run)
    print_report(console, finished.report(), json_, shown.has_begun)


def _marks(run: Path) -> tuple[bool, bool, bool]:
    """Return whether the backend of a recorded run is optical, a mock and calibrated."""
    from ..scheduler.journal.journal_file import JournalFile

    with JournalFile(run) as journal:
        about = journal.about()
    backend = about.get("backend", {})
    return (
        backend.get("kind") != "digital",
        bool(about.get("plan", {}).get("is_mock", True)),
        not backend.get("uncalibrated", False),
    )
