"""`lightloom report`: a run, a calibration, or a layer of a trace, as a page."""

from pathlib import Path
from typing import Annotated

import typer

from ..instruments import InputError, limit_threads

ReportedFile = Annotated[
    Path,
    typer.Argument(help="Journal or trace of a run, a calibration file, or a bench file (.toml)."),
]
Layer = Annotated[
    int | None, typer.Option(help="Layer of a trace to draw (default: the middle one).")
]
Page = Annotated[
    Path | None,
    typer.Option(
        help="Page to write (default: beside the file); .svg: only the picture of a trace."
    ),
]
_Written = tuple[Path, str, str]  # where, what, and its kind


def command(file: ReportedFile, layer: Layer = None, output: Page = None) -> None:
    """Write a run, a calibration, or one layer of a trace, as one HTML page.

    Examples: lightloom report run.db; lightloom report bench.toml --output bench.html;
    lightloom report trace.json --layer 3
    """
    limit_threads(None)
    from ..report.page import write_page
    from ..scheduler.journal.database import is_sqlite
    from ..scheduler.runs.trace import is_trace

    if is_sqlite(file):
        written = _run(file, layer, output)
    elif is_trace(file):
        written = _trace(file, layer, output)
    else:
        written = _calibration(file, layer, output)
    write_page(*written)
    print(f"wrote {written[0]}")


def _run(file: Path, layer: int | None, output: Path | None) -> _Written:
    from ..report.run import RUN_PAGE, run_page
    from ..scheduler.journal.journal_file import JournalFile

    _refuse_layer(file, layer)
    output = _output(file, output or file.with_suffix(".html"), "journal", RUN_PAGE)
    with JournalFile(file) as journal:
        return output, run_page(journal), RUN_PAGE


def _trace(file: Path, layer: int | None, output: Path | None) -> _Written:
    from ..report.excerpt import excerpt
    from ..report.gantt import TRACE_PAGE, TRACE_PICTURE, picture, trace_page
    from ..scheduler.runs.trace import read_trace

    if output is None:
        name = file.with_suffix("") if file.suffix.lower() == ".gz" else file
        output = name.with_suffix(".html")
    kind = TRACE_PICTURE if output.suffix.lower() == ".svg" else TRACE_PAGE
    output = _output(file, output, "trace", kind)
    trace = read_trace(file)
    if kind == TRACE_PICTURE:
        return output, picture(excerpt(trace, layer)), kind
    return output, trace_page(trace, layer, file.name), kind


def _calibration(file: Path, layer: int | None, output: Path | None) -> _Written:
    from ..backends.bench.binding import path_for
    from ..backends.optics.calibration_file import Calibration
    from ..report.calibration import CALIBRATION_PAGE, calibration_page

    _refuse_layer(file, layer)
    if not file.exists():
        raise InputError(
            f"no file {file}; give the journal of a run, a calibration, its bench file, or a trace"
        )
    path = path_for(file) if file.suffix.lower() == ".toml" else file
    output = _output(path, output or path.with_suffix(".html"), "calibration", CALIBRATION_PAGE)
    return output, calibration_page(Calibration.read(path)), CALIBRATION_PAGE


def _refuse_layer(file: Path, layer: int | None) -> None:
    if layer is not None:
        raise InputError(f"--layer belongs to a trace, and {file} is not a trace")


def _output(file: Path, output: Path, what: str, kind: str) -> Path:
    """Return where a page goes, which may replace a page of its kind and nothing else."""
    from ..report.page import check_page

    if output.resolve() == file.resolve():
        raise InputError(f"--output {output} is the {what} itself; give another name")
    check_page(output, kind)
    return output
